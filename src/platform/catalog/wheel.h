// Reads wheels (zip files) from a package index: names, sizes, and one member at a time. Nothing is installed
// or run.
//
// Hostile input: the number of members, name lengths, sizes and compression ratios are bounded; names that
// leave the folder, links, encrypted members and unknown compression are refused; a member's CRC and size are
// checked.
//
// Threads: one at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

struct WheelLimits {
  uint64_t max_members = 20'000;
  uint64_t max_member_bytes = uint64_t{1} << 40;
  // Deflate cannot do better than 1032 : 1; a member that claims more lies about its size.
  uint64_t max_ratio = 1100;
};

struct WheelMember {
  std::string name;  // a safe relative path
  uint64_t bytes = 0;
  uint64_t index = 0;
};

class Wheel {
 public:
  static Result<Wheel> Open(const std::filesystem::path& path, const WheelLimits& limits = {});
  // For fuzzing and tests: `bytes` must outlive the Wheel.
  static Result<Wheel> FromBytes(std::span<const std::byte> bytes, const WheelLimits& limits = {});
  Wheel(Wheel&&) noexcept;
  Wheel& operator=(Wheel&&) noexcept;
  ~Wheel();

  const std::vector<WheelMember>& members() const { return members_; }
  // Hands the member's bytes over in pieces; stops with the sink's error.
  Status Read(const WheelMember& member, const std::function<Status(std::span<const std::byte>)>& sink) const;

 private:
  struct Archive;
  Wheel(std::unique_ptr<Archive> archive, std::string name);
  Status ReadDirectory(const WheelLimits& limits);

  std::unique_ptr<Archive> archive_;
  std::string name_;
  std::vector<WheelMember> members_;
};

}  // namespace tidepool::platform
