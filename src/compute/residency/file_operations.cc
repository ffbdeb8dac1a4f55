#include "compute/residency/file_operations.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22  // Linux 5.14
#endif

namespace tidepool::compute {
namespace {

tl::unexpected<Error> SystemError(std::string_view call, int error) {
  return Fail(ErrorKind::kUnavailable, "system_call_failed",
              std::string(call) + ": " + std::generic_category().message(error));
}

uint64_t PageBytes() {
  static const auto bytes = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  return bytes;
}

class RealFileOperations final : public FileOperations {
 public:
  Result<uint64_t> Size(int descriptor) override {
    struct stat status{};
    if (fstat(descriptor, &status) != 0) return SystemError("fstat", errno);
    return static_cast<uint64_t>(status.st_size);
  }

  Status Read(int descriptor, uint64_t offset, std::span<std::byte> to) override {
    size_t done = 0;
    while (done < to.size()) {
      const ssize_t got =
          pread(descriptor, to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return SystemError("pread", errno);
      if (got == 0) {
        return Fail(ErrorKind::kCorrupt, "file_too_short",
                    "the file ends at " + std::to_string(offset + done));
      }
      done += static_cast<size_t>(got);
    }
    return {};
  }

  void Prefetch(int descriptor, uint64_t offset, uint64_t bytes) override {
    constexpr uint64_t kMost = uint64_t{128}
                               << 10;  // what one call takes under the kernel's default settings
    for (uint64_t at = 0; at < bytes; at += kMost)
      readahead(descriptor, static_cast<off64_t>(offset + at), std::min(kMost, bytes - at));
  }

  Status Populate(const std::byte* data, size_t bytes) override {
    while (madvise(const_cast<std::byte*>(data), bytes, MADV_POPULATE_READ) != 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      return SystemError("madvise(MADV_POPULATE_READ)", errno);
    }
    return {};
  }

  Status Lock(const std::byte* data, size_t bytes) override {
    if (mlock(data, bytes) != 0) return SystemError("mlock", errno);
    return {};
  }
  void Unlock(const std::byte* data, size_t bytes) override { munlock(data, bytes); }

  void Drop(int descriptor, uint64_t offset, const std::byte* data, size_t bytes) override {
    madvise(const_cast<std::byte*>(data), bytes, MADV_DONTNEED);
    posix_fadvise(descriptor, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_DONTNEED);
  }

  uint64_t BytesInMemory(const std::byte* data, size_t bytes) override {
    const uint64_t page = PageBytes();
    std::array<unsigned char, 16384> present;
    uint64_t found = 0;
    for (size_t at = 0; at < bytes; at += present.size() * page) {
      const size_t part = std::min<size_t>(bytes - at, present.size() * page);
      const size_t pages = (part + page - 1) / page;
      if (mincore(const_cast<std::byte*>(data) + at, part, present.data()) != 0) return found;
      for (size_t i = 0; i < pages; ++i) {
        if ((present[i] & 1) != 0) found += std::min<uint64_t>(page, part - i * page);
      }
    }
    return found;
  }
};

}  // namespace

FileOperations& FileOperations::Real() {
  static RealFileOperations operations;
  return operations;
}

}  // namespace tidepool::compute
