// The files of $TIDEPOOL_HOME at the first start, later starts and after an upgrade.
#include "platform/accounts/home.h"

#include <gmock/gmock.h>
#include <sodium.h>
#include <sys/stat.h>

#include "platform/accounts/keys.h"
#include "platform/accounts/testing/accounts_fixture.h"

namespace tidepool::platform {
namespace {

mode_t ModeOf(const std::filesystem::path& path) {
  struct stat info{};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 0777;
}

void WriteText(const std::filesystem::path& path, const std::string& text) { std::ofstream(path) << text; }

TEST(HomeTest, TheFirstStartMakesTheOperatorsKeyAndLaterOnesKeepIt) {
  AccountsWorld world;
  ASSERT_TRUE(world.Open());
  const std::string key = world.created_key;
  EXPECT_TRUE(KeyLooksValid(key));
  EXPECT_EQ(world.AdminKey(), key);
  EXPECT_EQ(ModeOf(world.home() / "admin.key"), 0600u);
  EXPECT_EQ(ModeOf(world.home() / "secrets.key"), 0600u);
  EXPECT_EQ(ModeOf(world.home() / "tidepool.db"), 0600u);
  for (int i = 0; i < 2; ++i) {
    const auto who = world.Who(key);
    ASSERT_TRUE(who) << who.error().message;
    EXPECT_EQ(who->role, Role::kOperator);
    EXPECT_TRUE(who->is_operator);
    EXPECT_EQ(who->organisation, "default");
    EXPECT_EQ(who->workspace, "default");
    EXPECT_EQ(who->member, "") << "a service key";
    EXPECT_EQ(who->key_id, key.substr(0, 9));
    ASSERT_TRUE(world.Open());
    EXPECT_EQ(world.created_key, "") << "shown once";
  }
}

TEST(HomeTest, AKeyThatWasPutThereIsTakenOver) {
  AccountsWorld world;
  const std::string key = MakeKey();
  WriteText(world.home() / "admin.key", key + "\n");
  ::chmod((world.home() / "admin.key").c_str(), 0644);
  ASSERT_TRUE(world.Open());
  EXPECT_EQ(world.created_key, "");
  EXPECT_TRUE(world.Who(key));
  EXPECT_EQ(ModeOf(world.home() / "admin.key"), 0600u);
}

TEST(HomeTest, AWrongAdminKeyIsRefused) {
  AccountsWorld world;
  WriteText(world.home() / "admin.key", "tp-wrong\n");
  const Status status = world.Open();
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("admin.key"));
}

// Oracle: keys.json as the version before the store wrote it (BLAKE2b-256 under "secret").
TEST(HomeTest, KeysFromBeforeTheStoreGoOnWorking) {
  AccountsWorld world;
  InitSodium();
  const std::string key = MakeKey(), secret(32, '\x17');
  std::string hash(32, '\0');
  crypto_generichash(reinterpret_cast<unsigned char*>(hash.data()), 32,
                     reinterpret_cast<const unsigned char*>(key.data()), key.size(),
                     reinterpret_cast<const unsigned char*>(secret.data()), secret.size());
  WriteText(world.home() / "keys.json", R"({"version":1,"secret":")" + HexOf(secret) +
                                            R"(","keys":[{"id":")" + KeyPrefix(key) + R"(","hash":")" +
                                            HexOf(hash) + R"(","admin":true,"created":1700000000}]})");
  ASSERT_TRUE(world.Open());
  RetireOldKeys(world.home());
  const auto who = world.Who(key);
  ASSERT_TRUE(who) << who.error().message;
  EXPECT_EQ(who->role, Role::kOperator);
  EXPECT_EQ(who->workspace, "default");
  EXPECT_FALSE(std::filesystem::exists(world.home() / "keys.json"));
  ASSERT_TRUE(world.Open());
  EXPECT_TRUE(world.Who(key));
}

TEST(HomeTest, ADamagedKeysFileSaysWhatToDo) {
  for (
      const char* text :
      {"", "[]", R"({"version":2})", R"({"version":1,"secret":"00","keys":[]})",
       R"({"version":1,"secret":"0000000000000000000000000000000000000000000000000000000000000000","keys":[{"hash":7}]})",
       R"({"version":1,"secret":"0000000000000000000000000000000000000000000000000000000000000000","keys":[]})"}) {
    AccountsWorld world;
    WriteText(world.home() / "keys.json", text);
    const Status status = world.Open();
    ASSERT_FALSE(status) << text;
    EXPECT_EQ(status.error().kind, ErrorKind::kCorrupt) << text;
  }
}

TEST(HomeTest, WithoutItsKeyFileTheStoreIsRefused) {
  AccountsWorld world;
  ASSERT_TRUE(world.Open());
  world.Close();
  std::filesystem::remove(world.home() / "secrets.key");
  const Status missing = world.Open();
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, "no_key_file");
  EXPECT_EQ(CheckKeyFile(world.home()).error().code, "key_file_missing");
  world.Close();
  ASSERT_TRUE(KeyFile::Create(world.home(), ""));
  const Status another = world.Open();
  ASSERT_FALSE(another);
  EXPECT_EQ(another.error().code, "wrong_key_file");
}

TEST(HomeTest, TheDoctorSeesAKeyFileThatOthersRead) {
  AccountsWorld world;
  ASSERT_TRUE(world.Open());
  EXPECT_TRUE(CheckKeyFile(world.home()));
  const std::filesystem::path file = world.home() / "secrets.key";
  ::chmod(file.c_str(), 0640);
  EXPECT_EQ(CheckKeyFile(world.home()).error().code, "key_file_readable");
  EXPECT_THAT(CheckKeyFile(world.home()).error().message, ::testing::HasSubstr("read by others"));
  ::chmod(file.c_str(), 0600);
  std::filesystem::resize_file(file, 10);
  EXPECT_EQ(CheckKeyFile(world.home()).error().code, "key_file_damaged");
  std::filesystem::remove(file);
  std::filesystem::create_directory(file);
  EXPECT_EQ(CheckKeyFile(world.home()).error().code, "key_file_no_file");
}

TEST(KeyFileTest, SealsAndUnseals) {
  AccountsWorld world;
  const auto keys = KeyFile::Create(world.home(), "");
  ASSERT_TRUE(keys);
  const std::string secret("a token\0with a NUL", 18);
  std::string box = keys->Seal(secret);
  EXPECT_EQ(box.find("token"), std::string::npos);
  EXPECT_NE(keys->Seal(secret), box) << "a nonce each";
  EXPECT_EQ(*keys->Unseal(box), secret);
  for (size_t i = 0; i < box.size(); i += 7) {
    std::string changed = box;
    changed[i] ^= 1;
    EXPECT_FALSE(keys->Unseal(changed)) << i;
  }
  EXPECT_FALSE(keys->Unseal(""));
  const std::string sealed = SealWithPassphrase(secret, "correct horse");
  EXPECT_EQ(*UnsealWithPassphrase(sealed, "correct horse"), secret);
  EXPECT_EQ(UnsealWithPassphrase(sealed, "wrong horse").error().code, "wrong_passphrase");
}

}  // namespace
}  // namespace tidepool::platform
