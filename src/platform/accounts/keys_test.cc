#include "platform/accounts/keys.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "base/ids.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

class KeyStoreTest : public ::testing::Test {
 protected:
  KeyStoreTest() : home_(fs::temp_directory_path() / RandomId("tidepool-keys-", 12)) {}
  ~KeyStoreTest() override { fs::remove_all(home_); }

  static std::string Read(const fs::path& path) {
    std::ifstream file(path);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }
  void Write(const std::string& name, const std::string& text) {
    fs::create_directories(home_);
    std::ofstream(home_ / name) << text;
  }
  static mode_t ModeOf(const fs::path& path) {
    struct stat info{};
    EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
    return info.st_mode & 0777;
  }

  const fs::path home_;
};

TEST(MakeKeyTest, KeysAreDistinctAndPassTheirChecksum) {
  std::set<std::string> seen;
  for (int i = 0; i < 200; ++i) {
    const std::string key = MakeKey();
    EXPECT_EQ(key.size(), 49u);
    EXPECT_TRUE(KeyLooksValid(key)) << key;
    EXPECT_TRUE(seen.insert(key).second);
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
    EXPECT_FALSE(KeyLooksValid(key.substr(0, i)));
  }
  EXPECT_FALSE(KeyLooksValid(key + "0"));
}

TEST_F(KeyStoreTest, FirstStartMakesAKeyAndLaterStartsKeepIt) {
  std::optional<std::string> created;
  auto store = KeyStore::Open(home_, created);
  ASSERT_TRUE(store) << store.error().message;
  ASSERT_TRUE(created);
  const std::string key = *created;
  EXPECT_EQ(Read(home_ / "admin.key"), key + "\n");
  auto principal = (*store)->Verify(key);
  ASSERT_TRUE(principal);
  EXPECT_TRUE(principal->is_operator);
  EXPECT_EQ(principal->key_id, key.substr(0, 9));

  auto again = KeyStore::Open(home_, created);
  ASSERT_TRUE(again);
  EXPECT_FALSE(created);
  EXPECT_TRUE((*again)->Verify(key));
}

TEST_F(KeyStoreTest, FilesArePrivateAndHoldNoKeyInClear) {
  std::optional<std::string> created;
  ASSERT_TRUE(KeyStore::Open(home_, created));
  EXPECT_EQ(ModeOf(home_ / "admin.key"), 0600u);
  EXPECT_EQ(ModeOf(home_ / "keys.json"), 0600u);
  const std::string text = Read(home_ / "keys.json");
  // Only the public prefix of the key may be there.
  EXPECT_EQ(text.find(created->substr(3, 12)), std::string::npos);
  for (const auto& entry : fs::directory_iterator(home_)) {
    EXPECT_EQ(entry.path().string().find(".tmp-"), std::string::npos);
  }
}

TEST_F(KeyStoreTest, LoosePermissionsAreTightened) {
  std::optional<std::string> created;
  ASSERT_TRUE(KeyStore::Open(home_, created));
  fs::permissions(home_ / "keys.json", fs::perms(0644));
  ASSERT_TRUE(KeyStore::Open(home_, created));
  EXPECT_EQ(ModeOf(home_ / "keys.json"), 0600u);
}

TEST_F(KeyStoreTest, WrongKeysAreRefusedWithTheReason) {
  std::optional<std::string> created;
  auto store = KeyStore::Open(home_, created);
  ASSERT_TRUE(store);
  const auto message = [&](std::string_view key) {
    auto result = (*store)->Verify(key);
    EXPECT_FALSE(result);
    EXPECT_EQ(result.error().kind, ErrorKind::kUnauthenticated);
    EXPECT_EQ(result.error().code, "invalid_api_key");
    return result.error().message;
  };
  EXPECT_NE(message("").find("no API key"), std::string::npos);
  EXPECT_NE(message(created->substr(0, 48)).find("mistyped"), std::string::npos);
  EXPECT_NE(message(MakeKey()).find("not known"), std::string::npos);
  EXPECT_NE(message(std::string(1 << 20, 'x')).find("mistyped"), std::string::npos);
  EXPECT_NE(message(*created + "\n").find("mistyped"), std::string::npos);
}

TEST_F(KeyStoreTest, AKeyGivenInAdminKeyIsTakenOver) {
  const std::string key = MakeKey();
  Write("admin.key", key + "\n");
  std::optional<std::string> created;
  auto store = KeyStore::Open(home_, created);
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_FALSE(created);
  EXPECT_TRUE((*store)->Verify(key));
  EXPECT_EQ(ModeOf(home_ / "admin.key"), 0600u);
}

TEST_F(KeyStoreTest, BrokenFilesAreErrorsThatNameTheFile) {
  for (const char* text : {"", "{", "[]", "{\"version\":1}", "{\"version\":2,\"secret\":\"00\",\"keys\":[]}",
                           "{\"version\":1,\"secret\":\"zz\",\"keys\":[]}"}) {
    Write("keys.json", text);
    std::optional<std::string> created;
    auto store = KeyStore::Open(home_, created);
    ASSERT_FALSE(store) << text;
    EXPECT_EQ(store.error().kind, ErrorKind::kCorrupt);
    EXPECT_NE(store.error().message.find("keys.json"), std::string::npos);
  }
  fs::remove(home_ / "keys.json");
  Write("admin.key", "tp-wrong\n");
  std::optional<std::string> created;
  auto store = KeyStore::Open(home_, created);
  ASSERT_FALSE(store);
  EXPECT_NE(store.error().message.find("admin.key"), std::string::npos);
}

TEST_F(KeyStoreTest, StartsAtTheSameTimeMakeOneKey) {
  constexpr int kThreads = 8;
  std::vector<std::optional<std::string>> created(kThreads);
  std::vector<std::thread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] { EXPECT_TRUE(KeyStore::Open(home_, created[static_cast<size_t>(i)])); });
  }
  for (std::thread& thread : threads) thread.join();
  std::optional<std::string> only;
  for (const auto& key : created) {
    if (!key) continue;
    EXPECT_FALSE(only) << "two keys were made";
    only = key;
  }
  ASSERT_TRUE(only);
  std::optional<std::string> none;
  auto store = KeyStore::Open(home_, none);
  ASSERT_TRUE(store);
  EXPECT_TRUE((*store)->Verify(*only));
}

}  // namespace
}  // namespace tidepool::platform
