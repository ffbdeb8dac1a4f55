#include "models/formats/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "models/formats/file_problem.h"

namespace tidepool::formats {
namespace {

std::string ErrnoText(int error) { return std::generic_category().message(error); }

Result<std::span<const std::byte>> Map(int descriptor, const FileProblem& problem) {
  struct stat status{};
  if (fstat(descriptor, &status) != 0) {
    return Fail(ErrorKind::kUnavailable, "file_unreadable", problem.file() + ": " + ErrnoText(errno));
  }
  if (!S_ISREG(status.st_mode)) {
    return problem.Unsupported({}, "not a regular file",
                               "Give the path of a model file, or of a model's folder");
  }
  if (status.st_size <= 0) return std::span<const std::byte>{};
  const auto size = static_cast<size_t>(status.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
  if (data == MAP_FAILED) {
    return Fail(ErrorKind::kUnavailable, "file_unreadable",
                problem.file() + ": cannot be mapped into memory: " + ErrnoText(errno) +
                    ". Check the limits on address space (ulimit -v) and the file system");
  }
  return std::span<const std::byte>{static_cast<const std::byte*>(data), size};
}

}  // namespace

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::ReleasePages() const {
  if (bytes_.empty()) return;
  // Mapped pages would stay in the cache.
  madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
  const int descriptor = open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) return;  // removed meanwhile: its pages go with it
  posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
  close(descriptor);
}

Result<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  const FileProblem problem(path.string());
  // O_NONBLOCK: a pipe put in a file's place must not hang the server before fstat can tell.
  const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  if (descriptor < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) return problem.NotFound("no such file", "Check the path");
    return Fail(error == EACCES ? ErrorKind::kForbidden : ErrorKind::kUnavailable, "file_unreadable",
                path.string() + ": cannot be opened: " + ErrnoText(error) +
                    ". Check that the server's user may read it");
  }
  Result<std::span<const std::byte>> bytes = Map(descriptor, problem);
  close(descriptor);
  if (!bytes) return Fail(std::move(bytes).error());
  MappedFile file;
  file.bytes_ = *bytes;
  file.path_ = path;
  return file;
}

}  // namespace tidepool::formats
