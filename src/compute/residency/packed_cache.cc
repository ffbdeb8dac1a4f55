#include "compute/residency/packed_cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "base/log.h"

namespace tidepool::compute {
namespace {

namespace fs = std::filesystem;
using architectures::LoadOptions;
using architectures::PackedFile;
using architectures::PackedKey;

// A folder of this cache holds one file a model; more is a mistake, and a scan must end.
constexpr int kMaxEntries = 100'000;

std::string ErrnoMessage(int error) { return std::generic_category().message(error); }

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

// Files of the folder that end in `suffix`.
std::vector<fs::path> FilesWith(const fs::path& folder, std::string_view suffix) {
  std::vector<fs::path> found;
  std::error_code error;
  int entries = 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (++entries > kMaxEntries) break;
    if (it->path().filename().string().ends_with(suffix)) found.push_back(it->path());
  }
  return found;
}

// Deletes a file that no process has locked. Opening may race with a rename or another deletion: what is
// locked must still be what the name means.
bool DeleteIfUnused(const fs::path& path) {
  const Descriptor file(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  if (file.get() < 0 || flock(file.get(), LOCK_EX | LOCK_NB) != 0) return false;
  struct stat held{}, named{};
  if (fstat(file.get(), &held) != 0 || lstat(path.c_str(), &named) != 0 || held.st_ino != named.st_ino) {
    return false;
  }
  return unlink(path.c_str()) == 0;
}

// The right to build one key, over threads and processes. The file goes with the lock; whoever waited for it
// finds its name gone and tries again with a new one.
class BuildLock {
 public:
  static Result<std::unique_ptr<BuildLock>> Take(const fs::path& path,
                                                 const std::function<bool(uint64_t, uint64_t)>& progress) {
    using namespace std::chrono_literals;
    for (;;) {
      const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
      if (descriptor < 0) {
        return Fail(ErrorKind::kUnavailable,
                    errno == ENOSPC || errno == EDQUOT ? "disk_full" : "file_unwritable",
                    fmt::format("{}: {}. Check that the server's user may write there", path.string(),
                                ErrnoMessage(errno)),
                    path.string());
      }
      std::unique_ptr<BuildLock> lock(new BuildLock(path, descriptor));
      while (flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
          return Fail(ErrorKind::kUnavailable, "file_unwritable",
                      fmt::format("{}: cannot be locked: {}", path.string(), ErrnoMessage(errno)),
                      path.string());
        }
        if (progress && !progress(0, 1)) {
          return Fail(ErrorKind::kCancelled, "load_cancelled",
                      "waiting for another process to pack the model was cancelled");
        }
        std::this_thread::sleep_for(20ms);
      }
      struct stat held{}, named{};
      if (fstat(descriptor, &held) == 0 && lstat(path.c_str(), &named) == 0 && held.st_ino == named.st_ino) {
        lock->held_ = true;
        return lock;
      }
    }
  }
  ~BuildLock() {
    if (held_) unlink(path_.c_str());
    close(descriptor_);
  }
  BuildLock(const BuildLock&) = delete;
  BuildLock& operator=(const BuildLock&) = delete;

 private:
  BuildLock(fs::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}
  const fs::path path_;
  const int descriptor_;
  bool held_ = false;
};

void MarkUsed(const PackedFile& file) {
  const timespec now[2] = {{0, UTIME_NOW}, {0, UTIME_NOW}};
  futimens(file.descriptor(), now);  // the order of eviction; a read-only folder keeps the old one
}

}  // namespace

Result<std::unique_ptr<PackedCache>> PackedCache::Open(const PackedCacheOptions& options) {
  std::error_code error;
  fs::create_directories(options.folder, error);
  if (!error) fs::permissions(options.folder, fs::perms::owner_all, error);
  if (error || !fs::is_directory(options.folder)) {
    return Fail(ErrorKind::kUnavailable, "folder_unusable",
                fmt::format("{}: no folder for packed weights can be made: {}", options.folder.string(),
                            error ? error.message() : "another file is in its place"),
                options.folder.string());
  }
  std::unique_ptr<PackedCache> cache(new PackedCache(options));
  cache->RemoveStale();
  return cache;
}

void PackedCache::RemoveStale() const {
  for (const fs::path& path : FilesWith(options_.folder, ".tmp")) {
    if (DeleteIfUnused(path)) LogInfo("removed an unfinished packed file", {{"file", path.string()}});
  }
}

Result<PackedModel> PackedCache::OpenExisting(const formats::Checkpoint& checkpoint, chips::Device& device,
                                              const LoadOptions& load, const PackedKey& key, bool trusted) {
  PackedModel opened;
  TP_ASSIGN(opened.file, PackedFile::Open(options_.folder / key.FileName(), key, trusted));
  TP_ASSIGN(opened.model, architectures::OpenPackedModel(checkpoint, device, load, opened.file));
  MarkUsed(*opened.file);
  return opened;
}

Result<PackedModel> PackedCache::OpenOrBuild(const formats::Checkpoint& checkpoint, chips::Device& device,
                                             const LoadOptions& load, const std::string& content) {
  const PackedKey key = architectures::MakePackedKey(content, device, load);
  const fs::path path = options_.folder / key.FileName();
  auto existing = OpenExisting(checkpoint, device, load, key, /*trusted=*/false);
  if (existing) {
    ++hits_;
    return existing;
  }
  const auto is_usable = [](const Result<PackedModel>& opened) {
    return opened ||
           (opened.error().kind != ErrorKind::kNotFound && opened.error().kind != ErrorKind::kCorrupt);
  };
  if (is_usable(existing)) return existing;  // an error that packing again would not cure

  TP_ASSIGN(const std::unique_ptr<BuildLock> lock,
            BuildLock::Take(options_.folder / (key.FileName() + ".lock"), load.progress));
  existing = OpenExisting(checkpoint, device, load, key, false);
  if (existing) ++hits_;  // another builder was faster
  if (is_usable(existing)) return existing;
  const bool damaged = existing.error().kind == ErrorKind::kCorrupt;
  if (damaged) {
    LogWarn("a packed file is not usable and is packed again", {{"reason", existing.error().message}});
    unlink(path.c_str());
  }
  RemoveStale();
  TP_ASSIGN(const uint64_t bytes, architectures::PackedModelBytes(checkpoint, device, load));
  TP_TRY(MakeRoom(bytes, path));
  architectures::PackOptions pack;
  pack.load = load;
  pack.keep_in_memory_bytes = options_.keep_in_memory_bytes;
  TP_ASSIGN(const architectures::PackReport report,
            architectures::WritePackedModel(checkpoint, device, pack, path, key));
  // The source will not be read again: its pages, as many as the weights, are nobody's budget.
  checkpoint.ReleasePages();
  TP_ASSIGN(PackedModel built, OpenExisting(checkpoint, device, load, key, /*trusted=*/true));
  ++(damaged ? rebuilds_ : misses_);
  built.built = true;
  built.report = report;
  LogInfo("packed a model", {{"source", checkpoint.path().string()},
                             {"bytes", report.packed_bytes},
                             {"pack_s", fmt::format("{:.2f}", report.pack_s)},
                             {"sync_s", fmt::format("{:.2f}", report.sync_s)}});
  return built;
}

Status PackedCache::MakeRoom(uint64_t bytes, const fs::path& keep) {
  if (options_.max_bytes == 0) return {};
  struct Entry {
    fs::file_time_type used;
    uint64_t bytes;
    fs::path path;
  };
  std::vector<Entry> entries;
  uint64_t total = bytes;
  for (const fs::path& path : FilesWith(options_.folder, ".weights")) {
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    const fs::file_time_type used = fs::last_write_time(path, error);
    if (error) continue;
    total += size;
    if (path != keep) entries.push_back({used, size, path});
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= options_.max_bytes) return {};
    if (!DeleteIfUnused(entry.path)) continue;
    total -= entry.bytes;
    ++evictions_;
  }
  if (total <= options_.max_bytes) return {};
  return Fail(
      ErrorKind::kUnavailable, "packed_cache_full",
      fmt::format("{}: {} bytes of packed weights do not fit beside {} bytes in use; the limit is {}. Raise "
                  "it or unload a model",
                  options_.folder.string(), bytes, total - bytes, options_.max_bytes),
      "packed_cache_bytes");
}

void PackedCache::Discard(const PackedFile& file) {
  // Only the file that was found damaged: another process may have put a sound one in its place.
  struct stat held{}, named{};
  if (fstat(file.descriptor(), &held) != 0 || lstat(file.path().c_str(), &named) != 0) return;
  if (held.st_ino == named.st_ino && held.st_dev == named.st_dev) unlink(file.path().c_str());
}

PackedCacheStats PackedCache::stats() const {
  PackedCacheStats stats{hits_, misses_, rebuilds_, evictions_, 0, 0};
  for (const fs::path& path : FilesWith(options_.folder, ".weights")) {
    std::error_code error;
    const uint64_t size = fs::file_size(path, error);
    if (error) continue;
    stats.bytes += size;
    ++stats.files;
  }
  return stats;
}

}  // namespace tidepool::compute
