// The folder of packed files: who builds, who waits, what is evicted, and what a dead builder leaves behind.
#include "compute/residency/packed_cache.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "compute/residency/file_operations.h"
#include "compute/residency/residency_fixture.h"
#include "models/formats/mapped_file.h"

namespace tidepool::compute::testing {
namespace {

using architectures::LoadOptions;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
namespace fs = std::filesystem;

fs::path Tiny(const std::string& name) {
  return fs::path(TIDEPOOL_SOURCE_DIR) / "src/models/architectures/testdata/tiny" / name;
}

class PackedCacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<PackedCache> Cache(uint64_t max_bytes = 0) const {
    return Must(PackedCache::Open({.folder = folder_.path() / "packed", .max_bytes = max_bytes}));
  }
  static Result<PackedModel> OpenOrBuild(PackedCache& cache, const std::string& name,
                                         const LoadOptions& load = {}) {
    static const std::unique_ptr<chips::Device> device =
        Must(chips::MakeCpuDevice({.threads = 1, .instruction_set = "reference"}));
    const auto checkpoint = Must(formats::Checkpoint::Open(Tiny(name)));
    return cache.OpenOrBuild(*checkpoint, *device, load, "digest of " + name);
  }
  std::vector<std::string> Files() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_.path() / "packed"))
      names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    return names;
  }

  TemporaryFolder folder_;
};

TEST_F(PackedCacheTest, BuildsOnceAndOpensEverAfter) {
  auto cache = Cache();
  {
    const PackedModel built = Must(OpenOrBuild(*cache, "llama"));
    EXPECT_TRUE(built.built);
    EXPECT_EQ(built.model->info().family, "llama");
    EXPECT_TRUE(built.file->checked(0)) << "written by this process";
  }
  cache = Cache();
  const PackedModel opened = Must(OpenOrBuild(*cache, "llama"));
  EXPECT_FALSE(opened.built);
  EXPECT_FALSE(opened.file->checked(0));
  const PackedCacheStats stats = cache->stats();
  EXPECT_EQ(stats.hits, 1u);
  EXPECT_EQ(stats.misses, 0u);
  EXPECT_EQ(stats.files, 1u);
  EXPECT_EQ(stats.bytes, opened.file->table().file_bytes());
  EXPECT_EQ(Files().size(), 1u) << "no lock and no temporary is left";
}

// What packing read is as large as the weights and in no budget: it does not stay in the page cache.
TEST_F(PackedCacheTest, TheSourceLeavesMemoryWhenItIsPacked) {
  const fs::path folder = folder_.path() / "source";
  fs::copy(Tiny("llama"), folder);
  const fs::path weights = folder / "model.safetensors";
  const int descriptor = open(weights.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_GE(descriptor, 0);
  ASSERT_EQ(fsync(descriptor), 0);  // pages that are not written yet cannot go
  const auto in_memory = [&] {
    const auto file = Must(formats::MappedFile::Open(weights));
    return FileOperations::Real().BytesInMemory(file.bytes().data(), file.bytes().size());
  };
  const auto device = Must(chips::MakeCpuDevice({.threads = 1, .instruction_set = "reference"}));
  const auto checkpoint = Must(formats::Checkpoint::Open(folder));
  const PackedModel built = Must(Cache()->OpenOrBuild(*checkpoint, *device, {}, "a copy"));
  EXPECT_TRUE(built.built);
  EXPECT_EQ(in_memory(), 0u);
  EXPECT_TRUE(formats::TensorToFloat(*checkpoint, checkpoint->tensors().front())) << "it can be read again";
  EXPECT_GT(in_memory(), 0u);
  close(descriptor);
}

TEST_F(PackedCacheTest, DamagedFilesAreBuiltAgain) {
  const auto cache = Cache();
  const fs::path path = Must(OpenOrBuild(*cache, "qwen2")).file->path();
  for (const uint64_t size : {uint64_t{0}, uint64_t{100}, uint64_t{fs::file_size(path) - 1}}) {
    fs::resize_file(path, size);
    EXPECT_TRUE(Must(OpenOrBuild(*cache, "qwen2")).built);
    EXPECT_FALSE(Must(OpenOrBuild(*cache, "qwen2")).built);
  }
  EXPECT_EQ(cache->stats().rebuilds, 3u);
  // Damage that only reading the weights finds: the residency says so, the caller discards.
  {
    std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(-10, std::ios::end);
    out.put('\xff').put('\xff').put('\xff').put('\xff');
  }
  const PackedModel opened = Must(OpenOrBuild(*cache, "qwen2"));
  EXPECT_FALSE(opened.built);
  Ledger ledger(1 << 30);
  const SteadyClock clock;
  const auto residency = Residency::Start(ledger, clock, {});
  const auto weights = residency->Attach("qwen2", path.filename(), MakeFileBacking(opened.file));
  EXPECT_EQ(Code(LoadAndWait(*weights).status), "packed_file_damaged");
  cache->Discard(*opened.file);
  EXPECT_THAT(Files(), IsEmpty());
  const PackedModel again = Must(OpenOrBuild(*cache, "qwen2"));
  EXPECT_TRUE(again.built);
  cache->Discard(*opened.file);
  EXPECT_EQ(Files().size(), 1u) << "the new file is another one";
}

TEST_F(PackedCacheTest, LeastRecentlyOpenedFilesMakeRoomButNeverOpenOnes) {
  uint64_t bytes = 0;
  {
    const auto cache = Cache();
    bytes = Must(OpenOrBuild(*cache, "llama")).file->table().file_bytes();
  }
  fs::remove_all(folder_.path() / "packed");
  const auto cache = Cache(3 * bytes);  // the models are of about one size
  const std::string llama = Must(OpenOrBuild(*cache, "llama")).file->path().filename();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const PackedModel held = Must(OpenOrBuild(*cache, "qwen2"));
  const std::string qwen2 = held.file->path().filename();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  Must(OpenOrBuild(*cache, "llama"));  // used again: qwen2 is now the oldest, but open
  for (const char* name : {"qwen3", "llama_yarn", "llama3_rope", "qwen2_tied"}) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    ASSERT_TRUE(OpenOrBuild(*cache, name)) << name;
    EXPECT_LE(cache->stats().bytes, 3 * bytes + 4096) << name;
  }
  const auto files = Files();
  EXPECT_NE(std::find(files.begin(), files.end(), qwen2), files.end());
  EXPECT_EQ(std::find(files.begin(), files.end(), llama), files.end());
  EXPECT_GT(cache->stats().evictions, 0u);
}

TEST_F(PackedCacheTest, NoRoomBesideOpenFilesIsAnErrorOfThatModelAlone) {
  const auto cache = Cache(1);
  const auto none = OpenOrBuild(*cache, "llama");
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().code, "packed_cache_full");
  EXPECT_EQ(none.error().kind, ErrorKind::kUnavailable);
  EXPECT_THAT(Files(), IsEmpty());
}

TEST_F(PackedCacheTest, FullDiskIsAnErrorAndLeavesNothing) {
  fs::create_directory(folder_.path() / "packed");
  if (mount("tidepool-test", (folder_.path() / "packed").c_str(), "tmpfs", 0, "size=64k") != 0)
    GTEST_SKIP() << "a small file system cannot be mounted here (needs root)";
  {
    const auto cache = Cache();
    const auto none = OpenOrBuild(*cache, "llama");
    EXPECT_FALSE(none.has_value());
    EXPECT_EQ(none.has_value() ? "" : none.error().code, "disk_full");
    EXPECT_THAT(Files(), IsEmpty());
  }
  umount((folder_.path() / "packed").c_str());
}

// The allocation fails where packing is: memory that cannot be had is an error, the model can be loaded
// later, and others are as they were.
TEST_F(PackedCacheTest, NoMemoryForPackingIsAnErrorOfThatModelAlone) {
  const auto cache = Cache();
  const PackedModel other = Must(OpenOrBuild(*cache, "qwen2"));
  for (const int fail_at : {1, 3, 9}) {
    LoadOptions load;
    int calls = 0;
    load.progress = [&](uint64_t, uint64_t) -> bool {
      if (++calls == fail_at) throw std::bad_alloc();
      return true;
    };
    const auto none = OpenOrBuild(*cache, "llama", load);
    ASSERT_FALSE(none.has_value()) << "at " << fail_at;
    EXPECT_EQ(none.error().code, "out_of_memory");
    EXPECT_EQ(none.error().kind, ErrorKind::kUnavailable);
    EXPECT_THAT(Files(), ElementsAre(other.file->path().filename().string())) << "nothing half done is left";
  }
  EXPECT_TRUE(Must(OpenOrBuild(*cache, "llama")).built);
  EXPECT_FALSE(Must(OpenOrBuild(*cache, "qwen2")).built);
}

// A file of another key under this one's name: copied there, or from a time when names were made otherwise.
TEST_F(PackedCacheTest, ForeignFilesAreBuiltAgain) {
  const auto cache = Cache();
  const fs::path llama = Must(OpenOrBuild(*cache, "llama")).file->path();
  const fs::path qwen2 = Must(OpenOrBuild(*cache, "qwen2")).file->path();
  fs::copy_file(qwen2, llama, fs::copy_options::overwrite_existing);
  const PackedModel built = Must(OpenOrBuild(*cache, "llama"));
  EXPECT_TRUE(built.built);
  EXPECT_EQ(built.model->info().family, "llama");
  EXPECT_EQ(cache->stats().rebuilds, 1u);
  // The same weights for another instruction set are another file.
  const auto device = Must(chips::MakeCpuDevice({.threads = 1, .instruction_set = {}}));
  if (device->info().instruction_set == "reference") GTEST_SKIP() << "one instruction set";
  const auto checkpoint = Must(formats::Checkpoint::Open(Tiny("llama")));
  const PackedModel second = Must(cache->OpenOrBuild(*checkpoint, *device, {}, "digest of llama"));
  EXPECT_TRUE(second.built);
  EXPECT_NE(second.file->path(), built.file->path());
}

// Runs `body` in a child; its exit status, or -signal.
template <typename Body>
pid_t Child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body());
  return child;
}
int WaitFor(pid_t child) {
  int status = 0;
  EXPECT_EQ(waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}
// In a child: a device of its own, since threads do not survive a fork.
int BuildInChild(const fs::path& folder, const std::string& name, const LoadOptions& load = {}) {
  const auto cache = Must(PackedCache::Open({.folder = folder}));
  const auto device = Must(chips::MakeCpuDevice({.threads = 1, .instruction_set = "reference"}));
  const auto checkpoint = Must(formats::Checkpoint::Open(Tiny(name)));
  const auto opened = cache->OpenOrBuild(*checkpoint, *device, load, "digest of " + name);
  if (!opened) {
    std::fprintf(stderr, "child: %s\n", opened.error().message.c_str());
    return 9;
  }
  return opened->built ? 1 : 0;
}

TEST_F(PackedCacheTest, ProcessesBuildOnce) {
  Cache();
  const fs::path folder = folder_.path() / "packed";
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    children.push_back(Child([&] {
      LoadOptions slow;  // so that all of them meet
      slow.progress = [](uint64_t, uint64_t) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        return true;
      };
      return BuildInChild(folder, "gemma3", slow);
    }));
  }
  int built = 0;
  for (const pid_t child : children) {
    const int result = WaitFor(child);
    EXPECT_TRUE(result == 0 || result == 1) << result;
    built += result;
  }
  EXPECT_EQ(built, 1);
  EXPECT_EQ(Files().size(), 1u);
}

TEST_F(PackedCacheTest, ThreadsBuildOnce) {
  const auto cache = Cache();
  std::atomic<int> built{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i)
    threads.emplace_back([&] { built += Must(OpenOrBuild(*cache, "qwen3")).built ? 1 : 0; });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(built, 1);
}

TEST_F(PackedCacheTest, AKilledBuilderLeavesNothingThatIsBelieved) {
  const auto cache = Cache();
  const fs::path folder = folder_.path() / "packed";
  for (const int stop_after : {1, 7, 20}) {
    int ready[2];
    ASSERT_EQ(pipe(ready), 0);
    const pid_t child = Child([&] {
      int calls = 0;
      LoadOptions load;
      load.progress = [&](uint64_t, uint64_t) {
        if (++calls < stop_after) return true;
        (void)!write(ready[1], "x", 1);
        for (;;) pause();
      };
      return BuildInChild(folder, "qwen3", load);
    });
    char byte = 0;
    ASSERT_EQ(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    const std::vector<std::string> during = Files();
    EXPECT_EQ(during.size(), 2u) << "the lock and the temporary";
    Cache();
    EXPECT_EQ(Files(), during) << "a temporary whose builder lives is left alone";
    kill(child, SIGKILL);
    EXPECT_EQ(WaitFor(child), -SIGKILL);
    for (const std::string& file : Files()) EXPECT_FALSE(file.ends_with(".weights")) << file;
    const PackedModel built = Must(OpenOrBuild(*cache, "qwen3"));
    EXPECT_TRUE(built.built);
    EXPECT_THAT(Files(), ElementsAre(built.file->path().filename().string()))
        << "what was left is cleared away";
    cache->Discard(*built.file);
  }
}

TEST_F(PackedCacheTest, WaitingForAnotherBuilderMayBeCancelled) {
  Cache();
  const fs::path folder = folder_.path() / "packed";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = Child([&] {
    LoadOptions load;
    load.progress = [&](uint64_t, uint64_t) -> bool {
      (void)!write(ready[1], "x", 1);
      for (;;) pause();
    };
    return BuildInChild(folder, "qwen3", load);
  });
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  const auto cache = Cache();
  LoadOptions load;
  int calls = 0;
  load.progress = [&](uint64_t, uint64_t) { return ++calls < 3; };
  const auto waited = OpenOrBuild(*cache, "qwen3", load);
  kill(child, SIGKILL);
  WaitFor(child);
  close(ready[0]);
  close(ready[1]);
  ASSERT_FALSE(waited.has_value());
  EXPECT_EQ(waited.error().kind, ErrorKind::kCancelled);
}

TEST_F(PackedCacheTest, AFolderThatCannotBeMadeIsAnError) {
  std::ofstream(folder_.path() / "packed") << "a file";
  const auto cache = PackedCache::Open({.folder = folder_.path() / "packed"});
  ASSERT_FALSE(cache.has_value());
  EXPECT_THAT(cache.error().message, HasSubstr("packed"));
}

}  // namespace
}  // namespace tidepool::compute::testing
