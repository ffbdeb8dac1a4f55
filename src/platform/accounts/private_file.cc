#include "platform/accounts/private_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "base/ids.h"
#include "base/log.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxPrivateFileBytes = 1 << 20;

tl::unexpected<Error> PrivateFileError(const fs::path& path, std::string_view what, int error) {
  return Fail(ErrorKind::kInternal, "key_file",
              fmt::format("{}: {}: {}; check the folder's owner and free space", path.string(), what,
                          std::generic_category().message(error)));
}

// Closes a descriptor (and gives up its lock) at the end of a scope.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

Status WritePrivateFile(const fs::path& path, std::string_view text) {
  const fs::path beside = path.string() + RandomId(".tmp-", 8);
  {
    const FileDescriptor file(
        ::open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (file.get() < 0) return PrivateFileError(beside, "cannot be written", errno);
    size_t done = 0;
    while (done < text.size()) {
      const ssize_t n = ::write(file.get(), text.data() + done, text.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) {
        const int error = errno;
        ::unlink(beside.c_str());
        return PrivateFileError(beside, "cannot be written", error);
      }
      done += static_cast<size_t>(n);
    }
    if (::fsync(file.get()) != 0) {
      const int error = errno;
      ::unlink(beside.c_str());
      return PrivateFileError(beside, "cannot be synced", error);
    }
  }
  if (::rename(beside.c_str(), path.c_str()) != 0) {
    const int error = errno;
    ::unlink(beside.c_str());
    return PrivateFileError(path, "cannot be renamed into place", error);
  }
  const FileDescriptor folder(::open(path.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (folder.get() >= 0) ::fsync(folder.get());
  return {};
}

Result<std::optional<std::string>> ReadPrivateFile(const fs::path& path) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (file.get() < 0) {
    if (errno == ENOENT) return std::optional<std::string>();
    return PrivateFileError(path, "cannot be opened", errno);
  }
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return PrivateFileError(path, "cannot be read", errno);
  if (!S_ISREG(info.st_mode) || static_cast<uint64_t>(info.st_size) > kMaxPrivateFileBytes) {
    return Fail(ErrorKind::kCorrupt, "key_file",
                fmt::format("{}: not a key file; move it away", path.string()));
  }
  if ((info.st_mode & 077) != 0) {
    LogWarn("key file was readable by others; permissions set to 0600", {{"file", path.string()}});
    if (::fchmod(file.get(), 0600) != 0)
      return PrivateFileError(path, "permissions cannot be set to 0600", errno);
  }
  std::string text(static_cast<size_t>(info.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t n = ::read(file.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return PrivateFileError(path, "cannot be read", errno);
    if (n == 0) break;
    done += static_cast<size_t>(n);
  }
  text.resize(done);
  return std::optional<std::string>(std::move(text));
}

}  // namespace tidepool::platform
