// A file system that loses what was not synced: a folder of the real one, and beside it what a disk would
// hold of it if the power failed now. Data that was written and not synced survives sector by sector, at
// random, in any order; names that were made, moved or removed survive at random until their folder is
// synced. (POSIX promises no more; that a file system promises more is no reason to need it.)
//
// SQLite is seen through a VFS of its own, which is the default one as long as this lives; everything else
// through the calls of the C library, of which the linker gives ours: a test that uses this
// names them after WRAP (platform/ledger/CMakeLists.txt). Nothing is really synced, so it is quick. One at a
// time in a process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::store {

class LossyFileSystem {
 public:
  static constexpr uint64_t kSector = 512;

  // What lies in `folder` now is on the disk.
  LossyFileSystem(std::filesystem::path folder, uint32_t seed);
  ~LossyFileSystem();
  LossyFileSystem(const LossyFileSystem&) = delete;
  LossyFileSystem& operator=(const LossyFileSystem&) = delete;

  // The power fails at the nth change from now: what is on the disk then is kept for Restore, and `then` is
  // called, by whoever makes that change. What happens afterwards happens to nobody's disk.
  void FailAt(int64_t nth_change, std::function<void()> then);
  bool failed();
  int64_t changes();
  // Fails now, unless it did, and puts what was on the disk into a folder, which is made.
  void Restore(const std::filesystem::path& into);

  // ---- what happens, as the two layers see it ----------------------------------------------------------
  struct Inode {
    struct Change {
      uint64_t offset = 0;  // or the new size
      std::string bytes;
      bool truncates = false;
    };
    std::string durable;
    std::vector<Change> pending;
  };
  static LossyFileSystem* Of(std::string_view path);  // nullptr: not under a folder of ours
  std::shared_ptr<Inode> Opened(const std::string& path, bool creates);  // nullptr: no such file
  void Wrote(Inode& inode, uint64_t offset, std::string_view bytes);
  void Truncated(Inode& inode, uint64_t size);
  void Synced(Inode& inode);
  void SyncedFolder(const std::string& folder);
  void Renamed(const std::string& from, const std::string& to);
  void Removed(const std::string& path);

 private:
  // Names that change together; a name without a file goes.
  using NameChange = std::vector<std::pair<std::string, std::shared_ptr<Inode>>>;
  void CountChange();
  void Fail();
  std::string Surviving(const Inode& inode, double share);
  bool Chance(double share) { return std::uniform_real_distribution<>(0, 1)(random_) < share; }

  const std::string folder_;
  std::mutex mutex_;
  std::mt19937 random_;
  std::map<std::string, std::shared_ptr<Inode>> names_, durable_names_;
  std::vector<NameChange> pending_names_;
  int64_t changes_ = 0, fails_at_ = -1;
  std::function<void()> then_;
  bool failed_ = false;
  std::map<std::string, std::string> disk_;  // at the failure: contents by name within the folder
};

}  // namespace tidepool::store
