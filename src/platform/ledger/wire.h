// Varints and strings of the journal's records. A reader that ran over its end, or met a number that does not
// fit, stays failed and gives zeros.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tidepool::platform::wire {

inline void PutVarint(uint64_t value, std::string& out) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}
inline void PutSigned(int64_t value, std::string& out) {  // zigzag
  PutVarint((static_cast<uint64_t>(value) << 1) ^ static_cast<uint64_t>(value >> 63), out);
}
inline void PutString(std::string_view text, std::string& out) {
  PutVarint(text.size(), out);
  out.append(text);
}

class Reader {
 public:
  explicit Reader(std::string_view bytes) : bytes_(bytes) {}
  bool failed() const { return failed_; }
  bool at_end() const { return bytes_.empty(); }

  uint64_t Varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) return Failed();
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      if (shift == 63 && byte > 1) return Failed();
      value |= static_cast<uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    return Failed();
  }
  int64_t Signed() {
    const uint64_t value = Varint();
    return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
  }
  // A count or a size: not negative.
  int64_t Count() {
    const uint64_t value = Varint();
    if (value > INT64_MAX) return static_cast<int64_t>(Failed());
    return static_cast<int64_t>(value);
  }
  std::string_view String() {
    const uint64_t size = Varint();
    if (size > bytes_.size()) {
      Failed();
      return {};
    }
    const std::string_view text = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return text;
  }

 private:
  uint64_t Failed() {
    failed_ = true;
    bytes_ = {};
    return 0;
  }
  std::string_view bytes_;
  bool failed_ = false;
};

}  // namespace tidepool::platform::wire
