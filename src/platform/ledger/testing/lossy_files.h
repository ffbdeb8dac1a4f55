// A disk in memory that can lose power and fill up. What was written but not synced survives a loss of power
// sector by sector, at random, in any order.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <random>
#include <string>
#include <vector>

#include "platform/ledger/journal_files.h"

namespace tidepool::platform {

class LossyDisk {
 public:
  static constexpr uint64_t kSector = 512;
  // What a file holds after every sync, and the sectors written since.
  struct File {
    std::string durable;
    std::map<uint64_t, std::string> unsynced;
  };

  explicit LossyDisk(uint32_t seed = 1) : random_(seed) {}
  std::unique_ptr<JournalFiles> Mount();  // any number of times

  void LosePower() {
    std::lock_guard lock(mutex_);
    for (auto& [name, file] : files_) {
      for (const auto& [sector, bytes] : file->unsynced) {
        if (random_() % 2 == 0) file->durable.replace(sector * kSector, bytes.size(), bytes);
      }
      file->unsynced.clear();
    }
  }
  void SetFull(bool full) {
    std::lock_guard lock(mutex_);
    full_ = full;
  }
  void SetBroken(bool broken) {  // neither write nor sync works
    std::lock_guard lock(mutex_);
    broken_ = broken;
  }
  size_t files() {
    std::lock_guard lock(mutex_);
    return files_.size();
  }
  uint64_t syncs() {
    std::lock_guard lock(mutex_);
    return syncs_;
  }

 private:
  friend class LossyFile;
  friend class LossyFolder;
  std::mutex mutex_;
  std::mt19937 random_;
  std::map<std::string, std::shared_ptr<File>> files_;
  bool full_ = false, broken_ = false;
  uint64_t syncs_ = 0;
};

class LossyFile final : public JournalFile {
 public:
  LossyFile(LossyDisk& disk, std::shared_ptr<LossyDisk::File> file) : disk_(disk), file_(std::move(file)) {}
  Status Write(uint64_t offset, std::string_view bytes) override {
    std::lock_guard lock(disk_.mutex_);
    if (disk_.broken_) return Fail(ErrorKind::kUnavailable, "journal_not_writable", "the disk is broken");
    const bool grows = offset + bytes.size() > file_->durable.size();
    if (grows) return Fail(ErrorKind::kUnavailable, "disk_full", "beyond what was taken from the disk");
    while (!bytes.empty()) {
      const uint64_t sector = offset / LossyDisk::kSector, begin = offset % LossyDisk::kSector;
      const size_t count = std::min<uint64_t>(bytes.size(), LossyDisk::kSector - begin);
      auto [it, added] = file_->unsynced.try_emplace(sector);
      if (added) it->second = file_->durable.substr(sector * LossyDisk::kSector, LossyDisk::kSector);
      it->second.replace(begin, count, bytes.substr(0, count));
      offset += count;
      bytes.remove_prefix(count);
    }
    return {};
  }
  Status Sync() override {
    std::lock_guard lock(disk_.mutex_);
    if (disk_.broken_) return Fail(ErrorKind::kUnavailable, "journal_not_writable", "the disk is broken");
    ++disk_.syncs_;
    for (const auto& [sector, bytes] : file_->unsynced)
      file_->durable.replace(sector * LossyDisk::kSector, bytes.size(), bytes);
    file_->unsynced.clear();
    return {};
  }

 private:
  LossyDisk& disk_;
  const std::shared_ptr<LossyDisk::File> file_;
};

class LossyFolder final : public JournalFiles {
 public:
  explicit LossyFolder(LossyDisk& disk) : disk_(disk) {}
  Result<std::unique_ptr<JournalFile>> Create(const std::string& name, uint64_t bytes) override {
    std::lock_guard lock(disk_.mutex_);
    if (disk_.full_ || disk_.broken_)
      return Fail(ErrorKind::kUnavailable, "disk_full", "no space left on the disk");
    auto file = std::make_shared<LossyDisk::File>();
    file->durable.assign(bytes, '\0');
    disk_.files_[name] = file;
    return std::make_unique<LossyFile>(disk_, std::move(file));
  }
  Result<std::vector<std::string>> List() override {
    std::lock_guard lock(disk_.mutex_);
    std::vector<std::string> names;
    for (const auto& [name, file] : disk_.files_) names.push_back(name);
    return names;
  }
  Result<std::string> Read(const std::string& name, uint64_t) override {
    std::lock_guard lock(disk_.mutex_);
    const auto it = disk_.files_.find(name);
    if (it == disk_.files_.end()) return Fail(ErrorKind::kNotFound, "no_file", name);
    std::string bytes = it->second->durable;
    for (const auto& [sector, piece] : it->second->unsynced)
      bytes.replace(sector * LossyDisk::kSector, piece.size(), piece);
    return bytes;
  }
  Status Remove(const std::string& name) override {
    std::lock_guard lock(disk_.mutex_);
    disk_.files_.erase(name);
    return {};
  }

 private:
  LossyDisk& disk_;
};

inline std::unique_ptr<JournalFiles> LossyDisk::Mount() { return std::make_unique<LossyFolder>(*this); }

}  // namespace tidepool::platform
