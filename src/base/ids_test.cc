#include "base/ids.h"

#include <gtest/gtest.h>

#include <set>

namespace tidepool {
namespace {

TEST(Ids, HavePrefixLengthAndDoNotRepeat) {
  std::set<std::string> seen;
  for (int i = 0; i < 1000; ++i) {
    const std::string id = RandomId("req-", 24);
    EXPECT_EQ(id.size(), 28u);
    EXPECT_EQ(id.rfind("req-", 0), 0u);
    EXPECT_TRUE(seen.insert(id).second);
  }
}

}  // namespace
}  // namespace tidepool
