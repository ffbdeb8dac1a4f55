#include "platform/accounts/network.h"

#include <gtest/gtest.h>

namespace tidepool::platform {
namespace {

TEST(NetworkTest, ContainsWhatItShould) {
  const auto contains = [](std::string_view network, std::string_view address) {
    const auto parsed = Network::Parse(network);
    EXPECT_TRUE(parsed) << network;
    return parsed && parsed->Contains(address);
  };
  EXPECT_TRUE(contains("10.0.0.0/8", "10.255.1.2"));
  EXPECT_FALSE(contains("10.0.0.0/8", "11.0.0.1"));
  EXPECT_TRUE(contains("192.168.4.0/22", "192.168.7.255"));
  EXPECT_FALSE(contains("192.168.4.0/22", "192.168.8.0"));
  EXPECT_TRUE(contains("0.0.0.0/0", "203.0.113.9"));
  EXPECT_FALSE(contains("0.0.0.0/0", "::1"));
  EXPECT_TRUE(contains("127.0.0.1", "127.0.0.1"));
  EXPECT_FALSE(contains("127.0.0.1", "127.0.0.2"));
  EXPECT_TRUE(contains("2001:db8::/33", "2001:db8:7fff::1"));
  EXPECT_FALSE(contains("2001:db8::/33", "2001:db8:8000::1"));
  EXPECT_TRUE(contains("10.0.0.0/8", "::ffff:10.1.2.3")) << "an IPv4 client on an IPv6 socket";
  EXPECT_FALSE(contains("10.0.0.0/8", "nonsense"));
  EXPECT_FALSE(contains("10.0.0.0/8", ""));
}

TEST(NetworkTest, RefusesWhatIsNone) {
  for (const char* bad :
       {"", "/", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/8x", "10.0.0/8", "10.0.0.1/8",
        "2001:db8::1/32", "::/129", "example.org", "10.0.0.0 /8", "010.0.0.0/8", "::ffff:10.0.0.0/104"}) {
    const auto parsed = Network::Parse(bad);
    ASSERT_FALSE(parsed) << bad;
    EXPECT_EQ(parsed.error().code, "bad_network") << bad;
  }
}

TEST(NetworkTest, NormalisesAddresses) {
  EXPECT_EQ(NormalisedAddress("::ffff:192.0.2.1"), "192.0.2.1");
  EXPECT_EQ(NormalisedAddress("2001:DB8:0::1"), "2001:db8::1");
  EXPECT_EQ(NormalisedAddress("192.0.2.1:80"), "");
  EXPECT_EQ(NormalisedAddress("unknown"), "");
}

}  // namespace
}  // namespace tidepool::platform
