// SHA-256, a piece at a time (OpenSSL).
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::platform {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void Update(const void* data, size_t bytes);
  std::string Hex();  // ends the digest

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string Sha256Hex(std::string_view text);
// Of a whole file. `progress` gets the bytes read so far; false stops it (kCancelled).
Result<std::string> Sha256OfFile(const std::filesystem::path& path,
                                 const std::function<bool(uint64_t)>& progress);

}  // namespace tidepool::platform
