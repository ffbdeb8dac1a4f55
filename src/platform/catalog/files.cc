#include "platform/catalog/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/ids.h"

namespace tidepool::platform {

namespace fs = std::filesystem;

tl::unexpected<Error> FileFailed(const fs::path& path, std::string_view what, int error) {
  const std::string words = std::generic_category().message(error);
  if (error == ENOSPC || error == EDQUOT) {
    return Fail(ErrorKind::kUnavailable, "disk_full",
                fmt::format("{}: {}: {}; free some space (tidepool rm MODEL) and try again", path.string(),
                            what, words));
  }
  if (error == ENOENT) {
    return Fail(ErrorKind::kNotFound, "file_not_found",
                fmt::format("{}: {}: {}", path.string(), what, words));
  }
  if (error == EACCES || error == EPERM) {
    return Fail(ErrorKind::kForbidden, "file_permission",
                fmt::format("{}: {}: {}; check its owner and mode", path.string(), what, words));
  }
  return Fail(ErrorKind::kInternal, "file_error", fmt::format("{}: {}: {}", path.string(), what, words));
}

File& File::operator=(File&& other) noexcept {
  if (this != &other) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = std::exchange(other.fd_, -1);
    path_ = std::move(other.path_);
  }
  return *this;
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

Result<File> File::Open(const fs::path& path, int flags, mode_t mode) {
  File file;
  file.fd_ = ::open(path.c_str(), flags | O_CLOEXEC, mode);
  if (file.fd_ < 0) return FileFailed(path, "cannot be opened", errno);
  file.path_ = path;
  return file;
}

Result<size_t> File::Read(void* data, size_t size) {
  for (;;) {
    const ssize_t n = ::read(fd_, data, size);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno != EINTR) return FileFailed(path_, "cannot be read", errno);
  }
}

Status File::Write(const void* data, size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::write(fd_, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return FileFailed(path_, "cannot be written", n < 0 ? errno : ENOSPC);
    at += n;
    size -= static_cast<size_t>(n);
  }
  return {};
}

Status File::Truncate(uint64_t size) {
  if (::ftruncate(fd_, static_cast<off_t>(size)) != 0) return FileFailed(path_, "cannot be cut", errno);
  return Seek(size);
}

Status File::Seek(uint64_t offset) {
  if (::lseek(fd_, static_cast<off_t>(offset), SEEK_SET) < 0)
    return FileFailed(path_, "cannot be read", errno);
  return {};
}

Result<uint64_t> File::Size() const {
  struct stat info{};
  if (::fstat(fd_, &info) != 0) return FileFailed(path_, "cannot be read", errno);
  return static_cast<uint64_t>(info.st_size);
}

Status File::Sync() {
  if (::fsync(fd_) != 0) return FileFailed(path_, "cannot be synced", errno);
  return {};
}

bool File::TryLock() { return ::flock(fd_, LOCK_EX | LOCK_NB) == 0; }

Status File::Lock() {
  while (::flock(fd_, LOCK_EX) != 0) {
    if (errno != EINTR) return FileFailed(path_, "cannot be locked", errno);
  }
  return {};
}

Status MakeFolders(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) return FileFailed(path, "cannot be made", error.value());
  return {};
}

Status SyncFolder(const fs::path& path) {
  TP_ASSIGN(File folder, File::Open(path, O_RDONLY | O_DIRECTORY));
  return folder.Sync();
}

Status RenameFile(const fs::path& from, const fs::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) return FileFailed(to, "cannot be renamed into place", errno);
  return {};
}

Result<std::string> ReadWholeFile(const fs::path& path, uint64_t max_bytes) {
  TP_ASSIGN(File file, File::Open(path, O_RDONLY));
  TP_ASSIGN(const uint64_t size, file.Size());
  if (size > max_bytes) {
    return Fail(ErrorKind::kTooLarge, "file_too_large",
                fmt::format("{}: {} bytes, at most {} are read", path.string(), size, max_bytes));
  }
  std::string text(size, '\0');
  size_t done = 0;
  while (done < text.size()) {
    TP_ASSIGN(const size_t n, file.Read(text.data() + done, text.size() - done));
    if (n == 0) break;
    done += n;
  }
  text.resize(done);
  return text;
}

Status WriteWholeFile(const fs::path& path, std::string_view text) {
  const fs::path beside = path.string() + RandomId(".tmp-", 8);
  const auto write = [&]() -> Status {
    TP_ASSIGN(File file, File::Open(beside, O_WRONLY | O_CREAT | O_EXCL));
    TP_TRY(file.Write(text.data(), text.size()));
    TP_TRY(file.Sync());
    return RenameFile(beside, path);
  };
  if (const Status written = write(); !written) {
    ::unlink(beside.c_str());
    return written;
  }
  return SyncFolder(path.parent_path());
}

Result<uint64_t> FreeDiskBytes(const fs::path& folder) {
  struct statvfs info{};
  if (::statvfs(folder.c_str(), &info) != 0) return FileFailed(folder, "free space cannot be read", errno);
  return static_cast<uint64_t>(info.f_bavail) * static_cast<uint64_t>(info.f_frsize);
}

uint64_t SizeOrZero(const fs::path& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) ? static_cast<uint64_t>(info.st_size) : 0;
}

Result<bool> LinkOrClone(const File& from, const fs::path& to) {
  {
    TP_ASSIGN(File clone, File::Open(to, O_WRONLY | O_CREAT | O_EXCL));
    if (::ioctl(clone.fd(), FICLONE, from.fd()) == 0) {
      TP_TRY(clone.Sync());
      return true;
    }
  }
  ::unlink(to.c_str());
  const std::string by_fd = fmt::format("/proc/self/fd/{}", from.fd());
  return ::linkat(AT_FDCWD, by_fd.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

}  // namespace tidepool::platform
