// Files of the store: errors with the path, writes that are whole or not at all.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace tidepool::platform {

// An open descriptor; closes itself (and so gives up a lock it holds).
class File {
 public:
  File() = default;
  File(File&& other) noexcept : fd_(std::exchange(other.fd_, -1)), path_(std::move(other.path_)) {}
  File& operator=(File&& other) noexcept;
  ~File();
  // O_CLOEXEC is added.
  static Result<File> Open(const std::filesystem::path& path, int flags, mode_t mode = 0644);

  int fd() const { return fd_; }
  const std::filesystem::path& path() const { return path_; }
  Result<size_t> Read(void* data, size_t size);  // 0 at the end
  Status Write(const void* data, size_t size);   // all of it; "disk_full" when the disk is
  Status Truncate(uint64_t size);
  Status Seek(uint64_t offset);
  Result<uint64_t> Size() const;
  Status Sync();
  // True when the lock was got; never waits.
  bool TryLock();
  Status Lock();

 private:
  int fd_ = -1;
  std::filesystem::path path_;
};

// kUnavailable "disk_full" for ENOSPC and EDQUOT, else kInternal "file_error"; the path and the system's
// words.
tl::unexpected<Error> FileFailed(const std::filesystem::path& path, std::string_view what, int error);

Status MakeFolders(const std::filesystem::path& path);
Status SyncFolder(const std::filesystem::path& path);
Status RenameFile(const std::filesystem::path& from, const std::filesystem::path& to);
// At most `max_bytes`.
Result<std::string> ReadWholeFile(const std::filesystem::path& path, uint64_t max_bytes);
// Written beside, synced, renamed, the folder synced.
Status WriteWholeFile(const std::filesystem::path& path, std::string_view text);
// Bytes an ordinary user may still write there.
Result<uint64_t> FreeDiskBytes(const std::filesystem::path& folder);
uint64_t SizeOrZero(const std::filesystem::path& path);

// Puts an open file's content at `to` (which must not exist) without copying bytes: a reflink where the file
// system has them, else a hard link on the same file system. False: neither is possible, copy it.
Result<bool> LinkOrClone(const File& from, const std::filesystem::path& to);

}  // namespace tidepool::platform
