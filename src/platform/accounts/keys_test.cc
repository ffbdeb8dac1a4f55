#include "platform/accounts/keys.h"

#include <gtest/gtest.h>

#include <set>

namespace tidepool::platform {
namespace {

TEST(MakeKeyTest, KeysAreDistinctAndPassTheirChecksum) {
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    const std::string key = MakeKey();
    EXPECT_EQ(key.size(), 49u);
    EXPECT_TRUE(KeyLooksValid(key)) << key;
    EXPECT_TRUE(seen.insert(key).second);
    EXPECT_EQ(KeyPrefix(key), key.substr(0, 9));
  }
}

TEST(MakeKeyTest, EveryOneCharacterMistakeIsSeen) {
  const std::string key = MakeKey();
  for (size_t i = 0; i < key.size(); ++i) {
    for (const char c : {'0', 'a', 'Z', '-', ' '}) {
      if (key[i] == c) continue;
      std::string wrong = key;
      wrong[i] = c;
      EXPECT_FALSE(KeyLooksValid(wrong)) << wrong;
    }
  }
  EXPECT_FALSE(KeyLooksValid(key.substr(1)));
  EXPECT_FALSE(KeyLooksValid(key + "a"));
  EXPECT_FALSE(KeyLooksValid(""));
}

}  // namespace
}  // namespace tidepool::platform
