// Cuts a workspace into aligned parts. With a null base it only counts, so that the size asked for and the
// cut made come from the same code.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::architectures {

class Carver {
 public:
  explicit Carver(std::byte* base) : base_(base) {}

  template <typename T>
  T* Take(size_t count) {
    std::byte* const place = base_ == nullptr ? nullptr : base_ + bytes_;
    bytes_ += (count * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return reinterpret_cast<T*>(place);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kAlignment = 64;
  std::byte* base_;
  size_t bytes_ = 0;
};

}  // namespace tidepool::architectures
