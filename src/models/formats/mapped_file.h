// A regular file, read through a memory mapping. Move-only.
//
// The size is taken at Open and nothing beyond it is ever touched. If another process truncates the file
// afterwards, reading the lost pages raises SIGBUS, which no check here can prevent: files that are in use
// must not be changed in place (the model store's are read-only and are replaced by renaming). If one is
// overwritten, the values read are the new ones; readers of structured data therefore check bounds at every
// read.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "base/result.h"

namespace tidepool::formats {

class MappedFile {
 public:
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept
      : bytes_(std::exchange(other.bytes_, {})), path_(std::move(other.path_)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    std::swap(path_, other.path_);
    return *this;
  }
  ~MappedFile();

  // Links are followed (model stores are made of links); folders, devices, pipes and sockets are refused.
  // An empty file gives an empty span.
  static Result<MappedFile> Open(const std::filesystem::path& path);

  std::span<const std::byte> bytes() const { return bytes_; }
  std::string_view text() const { return {reinterpret_cast<const char*>(bytes_.data()), bytes_.size()}; }

  // Gives its pages back to the system, the page cache's too, where nobody else has them mapped. They come
  // again when they are read.
  void ReleasePages() const;

 private:
  std::span<const std::byte> bytes_;
  std::filesystem::path path_;
};

}  // namespace tidepool::formats
