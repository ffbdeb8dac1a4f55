#include "compute/kv/prefix_cache_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <numeric>
#include <random>
#include <sstream>

namespace tidepool::compute {
namespace {

namespace fs = std::filesystem;
constexpr size_t kBlockBytes = 256;

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A device's worth of pool.
struct Site {
  explicit Site(int32_t blocks, const std::string& content = "m", size_t block_bytes = kBlockBytes)
      : ledger(static_cast<uint64_t>(blocks) * block_bytes),
        pool(*device, ledger,
             {.owner = "x",
              .block_bytes = block_bytes,
              .slab_bytes = 4 * block_bytes,
              .content_key = content}) {}
  // Computes these tokens and lets them go; KV is a function of workspace and position's token.
  void Run(const std::vector<int32_t>& tokens, const std::string& workspace = "w") {
    KvSequence sequence;
    ASSERT_TRUE(pool.Admit(
        {.prompt = tokens, .max_tokens = static_cast<int32_t>(tokens.size()), .workspace = workspace},
        sequence));
    const int32_t cached = sequence.cached_tokens();
    pool.Extend(sequence, static_cast<int32_t>(tokens.size()));
    for (auto i = static_cast<size_t>(cached); i < tokens.size(); ++i) {
      std::memcpy(At(sequence, i), &tokens[i], sizeof(int32_t));
      std::memcpy(At(sequence, i) + 4, workspace.data(), 1);
    }
    pool.Commit(sequence, tokens);
    pool.Release(sequence);
  }
  static std::byte* At(const KvSequence& sequence, size_t i) {
    return sequence.table()[i / 16] + (i % 16) * 16;
  }
  // Cached tokens of a prompt; -1: the KV is not what it should be.
  int32_t Hit(const std::vector<int32_t>& tokens, const std::string& workspace = "w") {
    KvSequence sequence;
    if (!pool.Admit(
            {.prompt = tokens, .max_tokens = static_cast<int32_t>(tokens.size()), .workspace = workspace},
            sequence)) {
      return -2;
    }
    int32_t cached = sequence.cached_tokens();
    for (int32_t i = 0; i < sequence.cached_tokens(); ++i) {
      const auto at = static_cast<size_t>(i);
      if (std::memcmp(At(sequence, at), &tokens[at], sizeof(int32_t)) != 0) cached = -1;
      if (std::memcmp(At(sequence, at) + 4, workspace.data(), 1) != 0) cached = -1;
    }
    pool.Release(sequence);
    return cached;
  }

  std::unique_ptr<chips::SimulatedDevice> device = chips::MakeSimulatedDevice({});
  Ledger ledger;
  BlockPool pool;
};

class PrefixCacheFileTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "prefix_cache_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    path_ = folder_ / "m.kv";
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::vector<std::byte> ReadFile() {
    std::ifstream file(path_, std::ios::binary);
    std::vector<char> text((std::istreambuf_iterator<char>(file)), {});
    std::vector<std::byte> bytes(text.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
  }
  void WriteFile(const std::vector<std::byte>& bytes) {
    std::ofstream(path_, std::ios::binary | std::ios::trunc)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
  }
  std::string LoadError(Site& site) {
    const auto loaded = LoadPrefixCache(site.pool, path_);
    return loaded ? "loaded" : loaded.error().code;
  }
  fs::path folder_, path_;
};

TEST_F(PrefixCacheFileTest, ComesBackInAnotherPool) {
  Site before(64);
  before.Run(Tokens(64));
  auto fork = Tokens(80);
  fork[40] = 999;
  before.Run(fork);
  before.Run(Tokens(48), "other");
  const auto saved = SavePrefixCache(before.pool, path_, UINT64_MAX);
  ASSERT_TRUE(saved) << saved.error().message;
  EXPECT_EQ(saved->blocks, 4 + 3 + 3) << "the fork shares two blocks";
  EXPECT_EQ(saved->left, 0);
  struct stat info{};
  ASSERT_EQ(::stat(path_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_FALSE(fs::exists(path_.string() + ".part"));

  Site after(64);
  const auto loaded = LoadPrefixCache(after.pool, path_);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->blocks, 10);
  EXPECT_EQ(loaded->left, 0);
  after.pool.CheckInvariants({});
  EXPECT_EQ(after.pool.stats().cached, 10);
  EXPECT_EQ(after.Hit(Tokens(65)), 64);
  fork.push_back(0);
  EXPECT_EQ(after.Hit(fork), 80);
  EXPECT_EQ(after.Hit(Tokens(65), "other"), 48);
  EXPECT_EQ(after.Hit(Tokens(65), "third"), 0);
}

TEST_F(PrefixCacheFileTest, TheMostRecentlyUsedIsKeptWithinTheLimitAndStaysSo) {
  Site before(64);
  before.Run(Tokens(64, 0));
  before.Run(Tokens(64, 1000));
  before.Run(Tokens(64, 2000));
  before.Run(Tokens(64, 0));  // used again
  const auto saved = SavePrefixCache(before.pool, path_, 7 * kBlockBytes + 5);
  ASSERT_TRUE(saved);
  EXPECT_EQ(saved->blocks, 7);
  EXPECT_EQ(saved->left, 5);
  Site after(8);
  ASSERT_TRUE(LoadPrefixCache(after.pool, path_));
  EXPECT_EQ(after.Hit(Tokens(65, 0)), 64);
  EXPECT_EQ(after.Hit(Tokens(65, 2000)), 48);
  EXPECT_EQ(after.Hit(Tokens(65, 1000)), 0);
  after.pool.CheckInvariants({});
}

TEST_F(PrefixCacheFileTest, LoadedBlocksAreEvictedLastUsedFirst) {
  Site before(64);
  before.Run(Tokens(32, 1000));
  before.Run(Tokens(32, 0));
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  Site after(4);
  ASSERT_TRUE(LoadPrefixCache(after.pool, path_));
  after.Run(Tokens(16, 5000));  // needs one block
  EXPECT_EQ(after.Hit(Tokens(33, 0)), 32);
  EXPECT_EQ(after.Hit(Tokens(33, 1000)), 16) << "its deepest block went";
}

TEST_F(PrefixCacheFileTest, WhatSequencesHoldIsSavedToo) {
  Site before(64);
  KvSequence running;
  const auto tokens = Tokens(40);
  ASSERT_TRUE(before.pool.Admit({.prompt = tokens, .max_tokens = 40, .workspace = "w"}, running));
  before.pool.Extend(running, 40);
  before.pool.Commit(running, tokens);
  EXPECT_EQ(SavePrefixCache(before.pool, path_, UINT64_MAX)->blocks, 2);
  before.pool.Release(running);
}

TEST_F(PrefixCacheFileTest, TakesOnlyFreeRoom) {
  Site before(64);
  before.Run(Tokens(160));
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  Site after(12);
  KvSequence running;  // 5 reserved, one used
  ASSERT_TRUE(after.pool.Admit({.prompt = Tokens(16, 700), .max_tokens = 96, .workspace = "w"}, running));
  after.pool.Extend(running, 16);
  const auto loaded = LoadPrefixCache(after.pool, path_);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->blocks, 6);
  EXPECT_EQ(loaded->left, 4);
  const KvSequence* one[] = {&running};
  after.pool.CheckInvariants(one);
  EXPECT_EQ(after.pool.stats().evictions, 0u);
  after.pool.Extend(running, 96);
  after.pool.Release(running);
}

TEST_F(PrefixCacheFileTest, JoinsWhatThePoolHasAlready) {
  Site before(64);
  before.Run(Tokens(96));
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  Site after(64);
  after.Run(Tokens(32));
  const auto loaded = LoadPrefixCache(after.pool, path_);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->blocks, 4);
  EXPECT_EQ(loaded->left, 2);
  EXPECT_EQ(after.Hit(Tokens(97)), 96);
  after.pool.CheckInvariants({});
}

TEST_F(PrefixCacheFileTest, AnotherModelOrLayoutIsRefused) {
  Site before(64);
  before.Run(Tokens(64));
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  Site model(64, "another"), layout(64, "m", 512);
  EXPECT_EQ(LoadError(model), "prefix_cache_of_another_model");
  EXPECT_EQ(LoadError(layout), "prefix_cache_of_another_model");
  chips::KvLayout f16{
      .type = chips::DataType::kF16, .layers = 2, .kv_heads = 1, .key_dim = 8, .value_dim = 4};
  chips::KvLayout swapped = f16;
  std::swap(swapped.key_dim, swapped.value_dim);
  EXPECT_EQ(f16.block_bytes(), swapped.block_bytes());
  EXPECT_NE(KvContentKey("sha256:1", f16), KvContentKey("sha256:1", swapped));
  EXPECT_NE(KvContentKey("sha256:1", f16), KvContentKey("sha256:2", f16));
  chips::KvLayout bf16 = f16;
  bf16.type = chips::DataType::kBF16;
  EXPECT_EQ(f16.block_bytes(), bf16.block_bytes());
  EXPECT_NE(KvContentKey("sha256:1", f16), KvContentKey("sha256:1", bf16));
}

TEST_F(PrefixCacheFileTest, AnEmptyCacheLeavesNoFile) {
  Site site(64);
  EXPECT_EQ(LoadError(site), "no_prefix_cache");
  site.Run(Tokens(64));
  ASSERT_TRUE(SavePrefixCache(site.pool, path_, UINT64_MAX));
  EXPECT_TRUE(fs::exists(path_));
  Site empty(64);
  ASSERT_TRUE(SavePrefixCache(empty.pool, path_, UINT64_MAX));
  EXPECT_FALSE(fs::exists(path_));
}

TEST_F(PrefixCacheFileTest, AFailedSaveLeavesTheOldFile) {
  Site site(64);
  site.Run(Tokens(64));
  ASSERT_TRUE(SavePrefixCache(site.pool, path_, UINT64_MAX));
  const auto bytes = ReadFile();
  fs::create_directory(path_.string() + ".part");  // in the way
  const auto failed = SavePrefixCache(site.pool, path_, UINT64_MAX);
  ASSERT_FALSE(failed);
  EXPECT_EQ(failed.error().kind, ErrorKind::kUnavailable);
  EXPECT_NE(failed.error().message.find(path_.string()), std::string::npos);
  EXPECT_EQ(ReadFile(), bytes);
}

TEST_F(PrefixCacheFileTest, AFolderThatCannotBeWrittenIsAnErrorThatNamesThePath) {
  Site site(64);
  site.Run(Tokens(64));
  const auto failed = SavePrefixCache(site.pool, "/proc/self/nowhere.kv", UINT64_MAX);
  ASSERT_FALSE(failed);
  EXPECT_NE(failed.error().message.find("nowhere.kv"), std::string::npos);
}

// Every byte counts (a seventh of them is tried): cut anywhere or with any byte changed, the file is refused
// and the pool is as before.
TEST_F(PrefixCacheFileTest, AnyDamageIsFound) {
  Site before(64);
  before.Run(Tokens(48));
  before.Run(Tokens(48, 100), "other");
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  const auto good = ReadFile();
  Site after(64);
  after.Run(Tokens(16, 7000));
  std::mt19937_64 random(1);
  for (size_t i = 0; i < good.size(); i += i < 64 ? 1 : 7) {
    auto bad = good;
    bad[i] ^= static_cast<std::byte>(1 + random() % 255);
    WriteFile(bad);
    ASSERT_EQ(LoadError(after), "prefix_cache_damaged") << "byte " << i;
    ASSERT_EQ(after.pool.registered_blocks(), 1);
  }
  for (size_t size = 0; size < good.size(); size += 1 + size / 50) {
    WriteFile(std::vector<std::byte>(good.begin(), good.begin() + static_cast<ptrdiff_t>(size)));
    ASSERT_EQ(LoadError(after), "prefix_cache_damaged") << size << " bytes";
  }
  after.pool.CheckInvariants({});
  WriteFile(good);
  EXPECT_EQ(LoadError(after), "loaded");
  EXPECT_EQ(after.Hit(Tokens(49)), 48);
}

// With right checksums the content itself has to be checked.
TEST_F(PrefixCacheFileTest, NonsenseWithRightChecksumsDoesNoHarm) {
  Site before(64);
  before.Run(Tokens(48));
  before.Run(Tokens(48, 100), "other");
  ASSERT_TRUE(SavePrefixCache(before.pool, path_, UINT64_MAX));
  const auto good = ReadFile();
  std::mt19937_64 random(2);
  int loaded = 0, refused = 0;
  for (int n = 0; n < 400; ++n) {
    auto bad = good;
    for (uint64_t changes = 1 + random() % 4; changes > 0; --changes) {
      bad[random() % std::min<size_t>(bad.size(), 700)] = static_cast<std::byte>(random());
    }
    internal::SealPrefixCacheFile(bad);
    WriteFile(bad);
    Site after(8);
    ++(LoadError(after) == "loaded" ? loaded : refused);
    after.pool.CheckInvariants({});
    after.Hit(Tokens(49));
  }
  EXPECT_GT(loaded, 10);
  EXPECT_GT(refused, 10);
}

TEST_F(PrefixCacheFileTest, WhatIsNoFileIsRefused) {
  Site site(8);
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  EXPECT_EQ(LoadError(site), "prefix_cache_damaged");
  fs::remove(path_);
  fs::create_directory(path_);
  EXPECT_EQ(LoadError(site), "prefix_cache_damaged");
}

}  // namespace
}  // namespace tidepool::compute
