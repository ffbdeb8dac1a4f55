#include "platform/ledger/journal_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace tidepool::platform {
namespace {

tl::unexpected<Error> FileProblem(std::string_view what, const std::string& path, int code) {
  const bool full = code == ENOSPC || code == EDQUOT || code == EFBIG;
  return Fail(Error{ErrorKind::kUnavailable, full ? "disk_full" : "journal_not_writable",
                    fmt::format("cannot {} {}: {}{}", what, path, std::strerror(code),
                                full ? "; free some space, nothing needs a restart" : ""),
                    "", 5});
}

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  FileDescriptor(FileDescriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  FileDescriptor& operator=(FileDescriptor&&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

class PosixJournalFile final : public JournalFile {
 public:
  PosixJournalFile(FileDescriptor fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  Status Write(uint64_t offset, std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::pwrite(fd_.get(), bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return FileProblem("write", path_, written < 0 ? errno : ENOSPC);
      offset += static_cast<uint64_t>(written);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return {};
  }
  Status Sync() override {
    while (::fdatasync(fd_.get()) != 0) {
      if (errno != EINTR) return FileProblem("sync", path_, errno);
    }
    return {};
  }

 private:
  FileDescriptor fd_;
  std::string path_;
};

class JournalFolder final : public JournalFiles {
 public:
  explicit JournalFolder(std::filesystem::path folder) : folder_(std::move(folder)) {}

  Result<std::unique_ptr<JournalFile>> Create(const std::string& name, uint64_t bytes) override {
    const std::string path = (folder_ / name).string();
    FileDescriptor fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (fd.get() < 0) return FileProblem("create", path, errno);
    // Zeros are written, not only reserved: a later fdatasync then has no extents to convert.
    const std::string zeros(256 << 10, '\0');
    PosixJournalFile file(std::move(fd), path);
    for (uint64_t at = 0; at < bytes; at += zeros.size()) {
      const Status written =
          file.Write(at, std::string_view(zeros).substr(0, std::min<uint64_t>(zeros.size(), bytes - at)));
      if (!written) {
        ::unlink(path.c_str());
        return Fail(written.error());
      }
    }
    if (const Status synced = file.Sync(); !synced) return Fail(synced.error());
    TP_TRY(SyncFolder());
    return std::make_unique<PosixJournalFile>(std::move(file));
  }

  Result<std::vector<std::string>> List() override {
    std::vector<std::string> names;
    std::error_code problem;
    for (std::filesystem::directory_iterator it(folder_, problem), end; !problem && it != end;
         it.increment(problem)) {
      names.push_back(it->path().filename().string());
    }
    if (problem) return FileProblem("list", folder_.string(), problem.value());
    return names;
  }

  Result<std::string> Read(const std::string& name, uint64_t max_bytes) override {
    const std::string path = (folder_ / name).string();
    const FileDescriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (fd.get() < 0) return FileProblem("read", path, errno);
    std::string bytes;
    std::string piece(1 << 20, '\0');
    for (;;) {
      const ssize_t got = ::read(fd.get(), piece.data(), piece.size());
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return FileProblem("read", path, errno);
      if (got == 0) return bytes;
      bytes.append(piece, 0, static_cast<size_t>(got));
      if (bytes.size() > max_bytes)
        return Fail(ErrorKind::kTooLarge, "journal_too_large",
                    fmt::format("{} has more than {} bytes", path, max_bytes));
    }
  }

  Status Remove(const std::string& name) override {
    const std::string path = (folder_ / name).string();
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) return FileProblem("remove", path, errno);
    return SyncFolder();
  }

 private:
  Status SyncFolder() {
    const FileDescriptor fd(::open(folder_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (fd.get() < 0 || ::fsync(fd.get()) != 0) return FileProblem("sync", folder_.string(), errno);
    return {};
  }
  const std::filesystem::path folder_;
};

}  // namespace

Result<std::unique_ptr<JournalFiles>> OpenJournalFolder(const std::filesystem::path& folder) {
  std::error_code problem;
  std::filesystem::create_directories(folder, problem);
  if (problem) return FileProblem("make", folder.string(), problem.value());
  ::chmod(folder.c_str(), 0700);
  // The folder's own name: what is synced within a folder that is lost is lost.
  const FileDescriptor above(::open(folder.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (above.get() < 0 || ::fsync(above.get()) != 0)
    return FileProblem("sync", folder.parent_path().string(), errno);
  return std::make_unique<JournalFolder>(folder);
}

}  // namespace tidepool::platform
