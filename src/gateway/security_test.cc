#include "gateway/security.h"

#include <gtest/gtest.h>

#include "gateway/testing/fake_platform.h"

namespace tidepool::gateway {
namespace {

HttpRequest Request(std::string host, std::string origin = {}, std::string peer = "127.0.0.1") {
  HttpRequest request;
  request.headers.push_back({"host", std::move(host)});
  if (!origin.empty()) request.headers.push_back({"origin", std::move(origin)});
  request.peer.loopback = peer == "127.0.0.1" || peer == "::1";
  request.peer.address = std::move(peer);
  request.peer.local_address = "127.0.0.1";
  return request;
}

Security Make(const GatewayOptions& options) {
  auto address = ParseListenAddress(options.listen);
  auto security = Security::Create(options, address.value());
  EXPECT_TRUE(security);
  return std::move(*security);
}

std::string SourceCode(const Security& security, HttpRequest request) {
  const auto status = security.CheckSource(request);
  return status ? "" : status.error().code;
}

TEST(Security, HostMustBeOneOfOurNames) {
  GatewayOptions options;
  options.allowed_hosts = {"Tide.Example.org"};
  const Security security = Make(options);
  for (const char* host :
       {"localhost", "localhost:8433", "LOCALHOST", "127.0.0.1:1", "[::1]:8433", "app.localhost",
        "tide.example.org", "tide.example.ORG:443", "tide.example.org."}) {
    EXPECT_EQ(SourceCode(security, Request(host)), "") << host;
  }
  for (const char* host : {"evil.com", "localhost.evil.com", "127.0.0.1.evil.com", "evil.com:8433", "",
                           "[::1", "10.0.0.1", "example.org", "xtide.example.org"}) {
    EXPECT_EQ(SourceCode(security, Request(host)), "host_not_allowed") << host;
  }
  // The address of ours that the peer connected to, for listeners on 0.0.0.0.
  HttpRequest request = Request("10.0.0.1:8433");
  request.peer.local_address = "10.0.0.1";
  EXPECT_EQ(SourceCode(security, request), "");
}

TEST(Security, OriginMustBeOursOrListed) {
  GatewayOptions options;
  options.cors_origins = {"https://chat.example.org"};
  const Security security = Make(options);
  EXPECT_EQ(SourceCode(security, Request("localhost:8433", "http://localhost:8433")), "");
  EXPECT_EQ(SourceCode(security, Request("localhost", "https://chat.example.org")), "");
  for (const char* origin :
       {"http://evil.com", "null", "http://localhost:9999", "https://chat.example.org.evil.com",
        "http://chat.example.org", "localhost:8433", "x://"}) {
    EXPECT_EQ(SourceCode(security, Request("localhost:8433", origin)), "origin_not_allowed") << origin;
  }
  HttpRequest listed = Request("localhost", "https://chat.example.org");
  ASSERT_TRUE(security.CheckSource(listed));
  EXPECT_EQ(listed.allowed_origin, "https://chat.example.org");
  options.cors_origins = {"*"};
  EXPECT_EQ(SourceCode(Make(options), Request("localhost", "http://any.where")), "");
}

TEST(Security, ListeningBeyondLoopbackNeedsProtection) {
  const auto code = [](GatewayOptions options) {
    const auto address = ParseListenAddress(options.listen);
    if (!address) return address.error().code;
    const auto status = CheckListening(options, *address);
    return status ? std::string() : status.error().code;
  };
  GatewayOptions options;
  options.listen = "127.0.0.1:0";
  options.open = true;
  EXPECT_EQ(code(options), "");
  options.listen = "[::1]:0";
  EXPECT_EQ(code(options), "");
  options.listen = "localhost:0";
  EXPECT_EQ(code(options), "");
  options.listen = "0.0.0.0:0";
  options.allow_plain_http = true;
  EXPECT_EQ(code(options), "open_beyond_loopback");
  options.open = false;
  EXPECT_EQ(code(options), "");
  options.allow_plain_http = false;
  EXPECT_EQ(code(options), "plain_http_beyond_loopback");
  options.trusted_proxy = "10.0.0.0/8";
  EXPECT_EQ(code(options), "");
  options.trusted_proxy.clear();
  options.tls_certificate = "c.pem";
  EXPECT_EQ(code(options), "bad_tls_settings");
  options.tls_key = "k.pem";
  EXPECT_EQ(code(options), "");
  for (const char* listen : {"", "8433", "localhost", "127.0.0.1:", "127.0.0.1:70000", "127.0.0.1:-1",
                             "::1:80", "host:80", "127.0.0.1:80x"}) {
    options.listen = listen;
    EXPECT_EQ(code(options), "bad_listen_address") << listen;
  }
}

TEST(Security, TrustedProxiesAreRanges) {
  GatewayOptions options;
  options.listen = "0.0.0.0:0";
  options.trusted_proxy = "10.1.0.0/16, 192.168.7.9,fd00::/8";
  const Security security = Make(options);
  for (const char* address : {"10.1.0.1", "10.1.255.255", "192.168.7.9", "fd12::1"}) {
    EXPECT_TRUE(security.IsTrustedProxy(address)) << address;
  }
  for (const char* address : {"10.2.0.1", "192.168.7.8", "fe80::1", "nonsense", ""}) {
    EXPECT_FALSE(security.IsTrustedProxy(address)) << address;
  }
  EXPECT_EQ(SourceCode(security, Request("localhost", {}, "8.8.8.8")), "not_through_proxy");
  EXPECT_EQ(SourceCode(security, Request("localhost", {}, "10.1.2.3")), "");
  for (const char* bad : {"10.0.0.0/33", "10.0.0.0/x", "host", "10.0.0.0/-1", "::/129"}) {
    options.trusted_proxy = bad;
    EXPECT_FALSE(Security::Create(options, ListenAddress{})) << bad;
  }
}

TEST(Security, KeysAndOwnership) {
  const FakeKeys keys;
  GatewayOptions options;
  const Security closed = Make(options);
  HttpRequest request = Request("localhost");
  EXPECT_EQ(closed.CheckCaller(request, keys).error().code, "missing_api_key");
  request.headers.push_back({"authorization", "Bearer wrong"});
  EXPECT_EQ(closed.CheckCaller(request, keys).error().code, "invalid_api_key");
  request.headers.back().value = "Basic tp-test-key";
  EXPECT_EQ(closed.CheckCaller(request, keys).error().code, "missing_api_key");
  request.headers.back().value = "bearer  tp-test-key ";
  ASSERT_TRUE(closed.CheckCaller(request, keys));
  EXPECT_TRUE(request.principal.is_operator);
  EXPECT_TRUE(request.owns_machine);
  HttpRequest anthropic = Request("localhost");
  anthropic.headers.push_back({"x-api-key", "wrong"});
  EXPECT_EQ(closed.CheckCaller(anthropic, keys).error().code, "invalid_api_key");
  anthropic.headers.back().value = "tp-test-key";
  ASSERT_TRUE(closed.CheckCaller(anthropic, keys));
  EXPECT_TRUE(anthropic.principal.is_operator);
  anthropic.headers.push_back({"authorization", "Bearer wrong"});  // goes first
  EXPECT_EQ(closed.CheckCaller(anthropic, keys).error().code, "invalid_api_key");

  // A proxy on this machine speaks for somebody else.
  request.headers.push_back({"x-forwarded-for", "8.8.8.8"});
  ASSERT_TRUE(closed.CheckCaller(request, keys));
  EXPECT_FALSE(request.owns_machine);

  HttpRequest far = Request("localhost", {}, "10.0.0.5");
  far.headers.push_back({"authorization", "Bearer tp-test-key"});
  ASSERT_TRUE(closed.CheckCaller(far, keys));
  EXPECT_TRUE(far.principal.is_operator);
  EXPECT_FALSE(far.owns_machine);

  options.open = true;
  const Security open = Make(options);
  HttpRequest any = Request("localhost");
  ASSERT_TRUE(open.CheckCaller(any, keys));
  EXPECT_FALSE(any.owns_machine);
  any.headers.push_back({"authorization", "Bearer whatever-an-sdk-sends"});
  EXPECT_TRUE(open.CheckCaller(any, keys));
}

TEST(Security, JsonContentTypes) {
  for (const char* type : {"application/json", "Application/JSON", "application/json; charset=utf-8",
                           "application/json;charset=\"UTF-8\"", " application/json "}) {
    EXPECT_TRUE(IsJsonContentType(type)) << type;
  }
  for (const char* type : {"", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                           "application/jsonx", "application/json; charset=latin1", "text/json"}) {
    EXPECT_FALSE(IsJsonContentType(type)) << type;
  }
}

TEST(Security, RequestIds) {
  EXPECT_TRUE(IsSaneRequestId("req-1.A_b:c"));
  EXPECT_FALSE(IsSaneRequestId(""));
  EXPECT_FALSE(IsSaneRequestId("a b"));
  EXPECT_FALSE(IsSaneRequestId("a\r\nX: y"));
  EXPECT_FALSE(IsSaneRequestId(std::string(129, 'a')));
}

}  // namespace
}  // namespace tidepool::gateway
