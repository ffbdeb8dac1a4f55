// Real files: what is in memory (mincore, locked pages) against the budgets, damaged and cut files, a memory
// cgroup.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <random>
#include <sstream>

#include "compute/residency/residency_fixture.h"

namespace tidepool::compute::testing {
namespace {

using architectures::PackedFile;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr uint64_t kMiB = 1 << 20;
constexpr uint64_t kPage = 4096;

std::shared_ptr<PackedFile> OpenPacked(const fs::path& path) {
  return Must(PackedFile::Open(path, TestKey(path.stem().string())));
}

// Of the weights of a file, as the system sees them.
uint64_t BytesInMemory(const PackedFile& file) {
  return FileOperations::Real().BytesInMemory(file.data(), file.table().data_bytes);
}

void DropFromMemory(const PackedFile& file) {
  fsync(file.descriptor());
  FileOperations::Real().Drop(file.descriptor(), 0, file.data(), file.table().data_bytes);
  posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_DONTNEED);
}

uint64_t StatusKb(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

class PackedResidencyTest : public ::testing::Test {
 protected:
  std::shared_ptr<PackedFile> NewFile(const std::string& name, const std::vector<uint64_t>& segments) {
    auto file = OpenPacked(WritePacked(folder_.path(), name, segments));
    DropFromMemory(*file);
    return file;
  }
  void Start(uint64_t limit, uint64_t warm, uint64_t chunk = kMiB) {
    ledger_ = std::make_unique<Ledger>(limit);
    residency_ = Residency::Start(*ledger_, clock_, {.warm_bytes = warm, .chunk_bytes = chunk});
  }
  std::shared_ptr<ResidentWeights> Attach(const std::shared_ptr<PackedFile>& file,
                                          FileOperations& operations = FileOperations::Real()) {
    const std::string name = file->path().stem().string();
    return residency_->Attach(name, name, MakeFileBacking(file, {}, operations));
  }

  TemporaryFolder folder_;
  SteadyClock clock_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(PackedResidencyTest, LoadedBytesAreTheFilesBytes) {
  Start(100 * kMiB, 0);
  const auto file = NewFile("a", {3 * kMiB, 5 * kMiB, kPage, 2 * kMiB + 192});
  EXPECT_EQ(BytesInMemory(*file), 0u) << "this file system keeps pages that it was asked to drop";
  const auto weights = Attach(file);
  ASSERT_EQ(Code(LoadAndWait(*weights).status), "ok");
  const uint64_t all = file->table().data_bytes;
  EXPECT_EQ(BytesInMemory(*file), all);
  for (const architectures::PackedSegment& segment : file->table().segments)
    EXPECT_EQ(XXH3_64bits(file->data() + segment.offset, segment.bytes), segment.checksum);
  weights->Evict(UINT64_MAX);
  residency_->WaitIdle();
  EXPECT_EQ(BytesInMemory(*file), 0u);
}

// Only what was asked for is read: the system's readahead may be many MiB in both directions.
TEST_F(PackedResidencyTest, APartialLoadReadsNoMoreThanItsSegments) {
  Start(100 * kMiB, 0);
  const auto file = NewFile("a", std::vector<uint64_t>(16, kMiB));
  const auto weights = Attach(file);
  for (const int32_t segments : {1, 2, 9}) {
    ASSERT_EQ(Code(LoadAndWait(*weights, segments).status), "ok");
    EXPECT_EQ(BytesInMemory(*file), static_cast<uint64_t>(segments) * kMiB);
  }
  std::promise<uint64_t> warm;
  residency_->SetWarmLimit(3 * kMiB);
  weights->Warm([&](uint64_t bytes) { warm.set_value(bytes); });
  EXPECT_EQ(warm.get_future().get(), 12 * kMiB);
  EXPECT_EQ(BytesInMemory(*file), 12 * kMiB);
}

TEST_F(PackedResidencyTest, ResidentWeightsAreLocked) {
  Start(100 * kMiB, 100 * kMiB);
  const auto file = NewFile("a", {4 * kMiB, 4 * kMiB});
  const uint64_t before = StatusKb("VmLck");
  const auto weights = Attach(file);
  if (mlock(file->data(), 8 * kMiB) != 0) GTEST_SKIP() << "8 MiB may not be locked here (ulimit -l)";
  if (StatusKb("VmLck") == before) GTEST_SKIP() << "mlock does nothing here (a sanitizer)";
  munlock(file->data(), 8 * kMiB);
  ASSERT_EQ(Code(LoadAndWait(*weights).status), "ok");
  EXPECT_EQ(StatusKb("VmLck") - before, 8 * kMiB);
  weights->Evict(1);
  residency_->WaitIdle();
  EXPECT_EQ(StatusKb("VmLck") - before, 4 * kMiB);
  EXPECT_EQ(BytesInMemory(*file), 8 * kMiB) << "warm";
}

// 12 files of about 4 MiB, a ledger for 3 and a warm budget for 3, random loads, evictions, prefetches and
// cancels: what the system holds in memory stays within both budgets, and two chunks.
TEST_F(PackedResidencyTest, MemoryStaysWithinTheBudgetsThroughRandomLoads) {
  constexpr uint64_t kModel = 4 * kMiB, kBudget = 3 * kModel, kChunk = kMiB / 2;
  Start(kBudget, kBudget, kChunk);
  std::vector<std::shared_ptr<PackedFile>> files;
  std::vector<std::shared_ptr<ResidentWeights>> models;
  for (int i = 0; i < 12; ++i) {
    files.push_back(NewFile("m" + std::to_string(i),
                            {kMiB / 4, kMiB, kMiB, kMiB / 2 + kPage, kMiB / 2 - kPage, kMiB / 2, kMiB / 4}));
    models.push_back(Attach(files.back()));
  }
  const auto in_memory = [&] {
    uint64_t bytes = 0;
    for (const auto& file : files) bytes += BytesInMemory(*file);
    return bytes;
  };
  std::mt19937 random(7);
  uint64_t largest = 0, from_disk = 0, from_memory = 0;
  for (int round = 0; round < 400; ++round) {
    ResidentWeights& model = *models[random() % models.size()];
    // What a scheduler would do: room is made in the ledger first.
    for (size_t i = 0; ledger_->free() < kModel - model.landed_bytes() && i < models.size(); ++i) {
      const auto& victim = models[(static_cast<size_t>(round) + i) % models.size()];
      if (victim.get() != &model) victim->Evict(kModel - model.landed_bytes() - ledger_->free());
    }
    std::promise<LoadReport> promise;
    model.Load([&](const LoadReport& report) { promise.set_value(report); });
    const int what = static_cast<int>(random() % 6);
    if (what == 0) model.CancelLoad();
    if (what == 1) model.Evict(kMiB);
    if (what == 2) models[random() % models.size()]->Warm();
    const LoadReport report = promise.get_future().get();
    if (what > 2) {
      ASSERT_EQ(Code(report.status), "ok") << report.status.error().message;
    }
    from_disk += report.cold_bytes;
    from_memory += report.warm_bytes;
    // Counting twelve files takes a while: only when nothing moves is it one moment. What happens in between
    // is the kernel's to judge, in the memory cgroup below.
    residency_->WaitIdle();
    const uint64_t now = in_memory();
    largest = std::max(largest, now);
    ASSERT_LE(now, 2 * kBudget) << "round " << round;
    ASSERT_EQ(now, ledger_->used() + residency_->warm_used()) << "round " << round;
  }
  EXPECT_GT(largest, kBudget) << "the warm budget was used";
  EXPECT_GT(from_disk, 10 * kModel);
  EXPECT_GT(from_memory, 10 * kModel);
  residency_->WaitIdle();
  uint64_t books = 0;
  for (size_t i = 0; i < models.size(); ++i) {
    const ResidencyCounts counts = models[i]->counts();
    EXPECT_EQ(BytesInMemory(*files[i]), counts.warm + counts.resident) << i;
    books += counts.warm + counts.resident;
  }
  EXPECT_EQ(books, in_memory());
  models.clear();
  residency_->WaitIdle();
  EXPECT_EQ(in_memory(), 0u);
}

// ---- faults ------------------------------------------------------------------------------------------

class FaultyOperations final : public FileOperations {
 public:
  Result<uint64_t> Size(int descriptor) override { return Real().Size(descriptor); }
  Status Read(int descriptor, uint64_t offset, std::span<std::byte> to) override {
    if (reads_left-- == 0)
      return Fail(ErrorKind::kUnavailable, "system_call_failed", "pread: Input/output error");
    return Real().Read(descriptor, offset, to);
  }
  void Prefetch(int descriptor, uint64_t offset, uint64_t bytes) override {
    Real().Prefetch(descriptor, offset, bytes);
  }
  Status Populate(const std::byte* data, size_t bytes) override {
    if (populates_left-- == 0)
      return Fail(ErrorKind::kUnavailable, "system_call_failed", "madvise: Bad address");
    return Real().Populate(data, bytes);
  }
  Status Lock(const std::byte*, size_t) override {
    return Fail(ErrorKind::kUnavailable, "system_call_failed", "mlock: Cannot allocate memory");
  }
  void Unlock(const std::byte*, size_t) override {}
  void Drop(int descriptor, uint64_t offset, const std::byte* data, size_t bytes) override {
    Real().Drop(descriptor, offset, data, bytes);
  }
  uint64_t BytesInMemory(const std::byte* data, size_t bytes) override {
    return Real().BytesInMemory(data, bytes);
  }

  std::atomic<int> reads_left{-1}, populates_left{-1};
};

TEST_F(PackedResidencyTest, ReadErrorsInTheMiddleOfALoadAreErrorsOfThatLoad) {
  Start(100 * kMiB, 100 * kMiB);
  FaultyOperations operations;
  const auto file = NewFile("a", std::vector<uint64_t>(4, 2 * kMiB));
  auto weights = Attach(file, operations);
  operations.reads_left = 20;  // of 256 KiB: within segment 2
  LoadReport report = LoadAndWait(*weights);
  EXPECT_EQ(Code(report.status), "packed_file_damaged");
  EXPECT_THAT(report.status.error().message, HasSubstr("Input/output error"));
  EXPECT_THAT(report.status.error().message, HasSubstr("a.weights"));
  EXPECT_EQ(report.resident_bytes, 4 * kMiB);
  EXPECT_EQ(ledger_->used(), 4 * kMiB);
  operations.populates_left = 1;
  report = LoadAndWait(*weights);
  EXPECT_THAT(report.status.error().message, HasSubstr("Bad address"));
  EXPECT_EQ(Code(LoadAndWait(*weights).status), "ok") << "the disk came back; locking never worked";
  weights.reset();
  residency_.reset();  // before the operations
}

TEST_F(PackedResidencyTest, ChangedBytesAreFoundBeforeAStepSeesThem) {
  Start(100 * kMiB, 0);
  const fs::path path = WritePacked(folder_.path(), "a", std::vector<uint64_t>(4, kMiB));
  {
    std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
    out.seekp(static_cast<std::streamoff>(fs::file_size(path) - kMiB / 2));
    out.put('x');
  }
  const auto weights = Attach(OpenPacked(path));
  const LoadReport report = LoadAndWait(*weights);
  EXPECT_EQ(Code(report.status), "packed_file_damaged");
  EXPECT_THAT(report.status.error().message, HasSubstr("checksum of segment 3"));
  EXPECT_EQ(report.resident_bytes, 3 * kMiB);
  EXPECT_FALSE(weights->gate().Wait(3));
}

TEST_F(PackedResidencyTest, FileThatIsCutWhileAttachedIsAnErrorAndNoSignal) {
  Start(100 * kMiB, 100 * kMiB);
  const auto file = NewFile("a", std::vector<uint64_t>(4, 2 * kMiB));
  const auto weights = Attach(file);
  ASSERT_EQ(Code(LoadAndWait(*weights, 2).status), "ok");
  fs::resize_file(file->path(), file->table().data_offset + 3 * kMiB);
  const LoadReport report = LoadAndWait(*weights);
  EXPECT_EQ(Code(report.status), "packed_file_damaged");
  EXPECT_THAT(report.status.error().message, HasSubstr("instead of"));
  weights->Evict(UINT64_MAX);
  EXPECT_EQ(Code(LoadAndWait(*weights, 1).status), "packed_file_damaged");
  EXPECT_EQ(ledger_->used(), 0u);
  std::promise<uint64_t> warm;
  weights->Warm([&](uint64_t bytes) { warm.set_value(bytes); });
  EXPECT_EQ(warm.get_future().get(), 2 * kMiB) << "segment 1 is warm from before; nothing new is";
}

// Cutting races with loading: whatever happens, an error or a load, but no signal.
TEST_F(PackedResidencyTest, CuttingWhileLoadingNeverEndsTheProcess) {
  for (int round = 0; round < 20; ++round) {
    Start(100 * kMiB, 0, 64 << 10);
    const auto file = NewFile("r" + std::to_string(round), std::vector<uint64_t>(4, kMiB));
    const auto weights = Attach(file);
    std::promise<LoadReport> promise;
    weights->Load([&](const LoadReport& report) { promise.set_value(report); });
    std::this_thread::sleep_for(std::chrono::microseconds(100 * round));
    fs::resize_file(file->path(), file->table().data_offset + kMiB / 2);
    const LoadReport report = promise.get_future().get();
    EXPECT_TRUE(report.status || report.status.error().code == "packed_file_damaged");
    residency_.reset();
  }
}

// ---- a memory cgroup -----------------------------------------------------------------------------------

// The kernel's own accounting: a child with a memory limit that holds both budgets and little more loads and
// evicts 12 models. Beyond the budgets the kernel would have to reclaim (failcnt) or kill.
class MemoryCgroup {
 public:
  // Version 2 where `root` has its controllers, else version 1. Unusable where the kernel makes no files for
  // it.
  explicit MemoryCgroup(uint64_t limit, const fs::path& root = "/sys/fs/cgroup") {
    const std::string name = "tidepool-test-" + std::to_string(getpid());
    std::error_code error;
    version2_ = (" " + Line(root / "cgroup.controllers") + " ").find(" memory ") != std::string::npos;
    path_ = (version2_ ? root : root / "memory") / name;
    fs::create_directory(path_, error);
    const char* file = version2_ ? "memory.max" : "memory.limit_in_bytes";
    if (!error && fs::exists(path_ / file) && Write(file, limit)) return;
    fs::remove(path_, error);
    path_.clear();
  }
  ~MemoryCgroup() {
    if (path_.empty()) return;
    if (!version2_) Write("memory.force_empty", 0);
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  bool usable() const { return !path_.empty(); }
  const fs::path& path() const { return path_; }
  bool Enter() const { return Write("cgroup.procs", static_cast<uint64_t>(getpid())); }
  // How often the limit was in the way.
  uint64_t failures() const {
    if (!version2_) return Number(path_ / "memory.failcnt");
    std::ifstream events(path_ / "memory.events");
    std::string name;
    for (uint64_t count = 0; events >> name >> count;) {
      if (name == "max") return count;
    }
    return UINT64_MAX;
  }
  // The most that was used; nullopt: a kernel before 5.19 does not say in version 2.
  std::optional<uint64_t> peak() const {
    const fs::path file = path_ / (version2_ ? "memory.peak" : "memory.max_usage_in_bytes");
    return fs::exists(file) ? std::optional(Number(file)) : std::nullopt;
  }

 private:
  static std::string Line(const fs::path& file) {
    std::ifstream in(file);
    std::string line;
    std::getline(in, line);
    return line;
  }
  static uint64_t Number(const fs::path& file) {
    std::ifstream in(file);
    uint64_t value = 0;
    return in >> value ? value : UINT64_MAX;
  }
  bool Write(const char* file, uint64_t value) const {
    std::ofstream out(path_ / file);
    out << value << std::flush;
    return out.good();
  }
  fs::path path_;
  bool version2_ = false;
};

// A machine has one version: the readers of both, over folders that look like a kernel's.
TEST_F(PackedResidencyTest, AMemoryCgroupOfEitherVersion) {
  const auto write = [](const fs::path& file, const std::string& text) {
    fs::create_directories(file.parent_path());
    std::ofstream(file) << text << "\n";
  };
  const std::string name = "tidepool-test-" + std::to_string(getpid());
  const fs::path v1 = folder_.path() / "v1", v2 = folder_.path() / "v2", none = folder_.path() / "none";
  const fs::path of_v1 = v1 / "memory" / name, of_v2 = v2 / name;
  write(v2 / "cgroup.controllers", "cpuset cpu io memory pids");
  write(of_v2 / "memory.max", "max");
  write(of_v1 / "memory.limit_in_bytes", "9223372036854771712");
  fs::create_directories(none);
  {
    const MemoryCgroup first(1 << 20, v1), second(1 << 20, v2);
    ASSERT_TRUE(first.usable() && second.usable());
    EXPECT_EQ(first.path(), of_v1);
    EXPECT_EQ(second.path(), of_v2);
    for (const fs::path& file : {of_v1 / "memory.limit_in_bytes", of_v2 / "memory.max"}) {
      uint64_t limit = 0;
      std::ifstream(file) >> limit;
      EXPECT_EQ(limit, 1u << 20) << file;
    }
    write(of_v1 / "memory.failcnt", "7");
    write(of_v1 / "memory.max_usage_in_bytes", "4096");
    write(of_v2 / "memory.events", "low 1\nhigh 2\nmax 9\noom 4\noom_kill 5");
    EXPECT_EQ(first.failures(), 7u);
    EXPECT_EQ(first.peak(), 4096u);
    EXPECT_EQ(second.failures(), 9u);
    EXPECT_EQ(second.peak(), std::nullopt) << "an old kernel";
    write(of_v2 / "memory.peak", "8192");
    EXPECT_EQ(second.peak(), 8192u);
    ASSERT_TRUE(second.Enter());
    pid_t entered = 0;
    std::ifstream(of_v2 / "cgroup.procs") >> entered;
    EXPECT_EQ(entered, getpid());
  }
  EXPECT_FALSE(MemoryCgroup(1 << 20, none).usable());
}

TEST_F(PackedResidencyTest, TheKernelAgreesInAMemoryCgroup) {
  constexpr uint64_t kModel = 16 * kMiB, kBudget = 3 * kModel, kProcess = 24 * kMiB;
  const MemoryCgroup cgroup(2 * kBudget + kProcess);
  if (!cgroup.usable()) GTEST_SKIP() << "no memory cgroup can be made here (that takes root)";
  std::vector<fs::path> paths;
  for (int i = 0; i < 12; ++i) {
    paths.push_back(
        WritePacked(folder_.path(), "m" + std::to_string(i), std::vector<uint64_t>(8, kModel / 8)));
    DropFromMemory(
        *OpenPacked(paths.back()));  // pages belong to who brings them in: they must be the child's
  }
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (!cgroup.Enter()) _exit(3);
    Start(kBudget, kBudget);
    std::vector<std::shared_ptr<ResidentWeights>> models;
    for (const fs::path& path : paths) models.push_back(Attach(OpenPacked(path)));
    for (int round = 0; round < 60; ++round) {
      const size_t next = static_cast<size_t>(round * 5) % models.size();
      for (size_t i = 1; ledger_->free() < kModel - models[next]->landed_bytes() && i < models.size(); ++i)
        models[(next + i) % models.size()]->Evict(kModel);
      if (!LoadAndWait(*models[next]).status) _exit(4);
      models[(next + 7) % models.size()]->Warm();
    }
    residency_->WaitIdle();
    // mmap'd page cache, locked memory and the process itself: within the limit without a single reclaim.
    _exit(cgroup.failures() == 0 ? 0 : 5);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status)) << "killed by signal " << WTERMSIG(status);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the limit was in the way " << cgroup.failures() << " times";
  if (const auto peak = cgroup.peak()) {
    EXPECT_GT(*peak, kBudget);
  }
}

// Copies for further NUMA nodes, here plain memory.
class TestCopies final : public chips::WeightCopies {
 public:
  TestCopies(const std::byte* data, size_t bytes, int count)
      : data_(data), copies_(static_cast<size_t>(count)) {
    for (std::vector<std::byte>& copy : copies_) copy.resize(bytes);
  }
  int count() const override { return static_cast<int>(copies_.size()); }
  void Fill(int copy, uint64_t offset, uint64_t bytes) override {
    std::copy_n(data_ + offset, bytes,
                copies_[static_cast<size_t>(copy)].begin() + static_cast<std::ptrdiff_t>(offset));
    filled_bytes += bytes;
  }
  void Drop(uint64_t offset, uint64_t bytes) override {
    for (std::vector<std::byte>& copy : copies_)
      std::fill_n(copy.begin() + static_cast<std::ptrdiff_t>(offset), bytes, std::byte{});
  }
  void PreferFirstNode() override {}
  bool Holds(int copy, uint64_t offset, uint64_t bytes) const {
    return std::equal(data_ + offset, data_ + offset + bytes,
                      copies_[static_cast<size_t>(copy)].begin() + static_cast<std::ptrdiff_t>(offset));
  }
  uint64_t filled_bytes = 0;

 private:
  const std::byte* const data_;
  std::vector<std::vector<std::byte>> copies_;
};

// Three nodes: the ledger is charged three times, a segment lands when all its copies are filled, what is
// evicted leaves all of them, and what stayed warm is not copied again.
TEST_F(PackedResidencyTest, CopiesForEveryNodeAreChargedFilledAndDropped) {
  const std::vector<uint64_t> sizes = {3 * kMiB, 0, 2 * kMiB + 64 * 5};
  const uint64_t all = sizes[0] + sizes[2];
  const auto file = NewFile("copied", sizes);
  Start(4 * all, 4 * all);
  const auto copies = std::make_shared<TestCopies>(file->data(), file->table().data_bytes, 2);
  auto weights = residency_->Attach("copied", "copied", MakeFileBacking(file, {.copies = copies}));
  EXPECT_EQ(weights->total_bytes(), 3 * all);
  ASSERT_EQ(Code(LoadAndWait(*weights).status), "ok");
  EXPECT_EQ(ledger_->used(), 3 * all);
  for (const architectures::PackedSegment& segment : file->table().segments) {
    for (const int copy : {0, 1}) EXPECT_TRUE(copies->Holds(copy, segment.offset, segment.bytes));
  }
  EXPECT_EQ(copies->filled_bytes, 2 * all);
  EXPECT_EQ(weights->Evict(1), 3 * sizes[2]);  // warm
  EXPECT_EQ(ledger_->used(), 3 * sizes[0]);
  ASSERT_EQ(Code(LoadAndWait(*weights).status), "ok");
  EXPECT_EQ(copies->filled_bytes, 2 * all);
  weights->Evict(3 * all);
  residency_->SetWarmLimit(0);
  residency_->WaitIdle();
  EXPECT_FALSE(copies->Holds(0, file->table().segments[2].offset, sizes[2]));
  EXPECT_EQ(ledger_->used(), 0u);
}

}  // namespace
}  // namespace tidepool::compute::testing
