#include "models/text/charsmap.h"

#include <fmt/format.h>

#include <cstring>

#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

tl::unexpected<Error> Damaged(std::string_view what) {
  return Fail(ErrorKind::kCorrupt, "bad_tokenizer",
              fmt::format("tokenizer: precompiled_charsmap {}; the file is damaged, fetch it again", what),
              "precompiled_charsmap");
}

bool HasLeaf(uint32_t unit) { return unit >> 8 & 1; }
uint32_t Label(uint32_t unit) { return unit & (1u << 31 | 0xFF); }
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); }

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  if (c == '+') return 62;
  if (c == '/') return 63;
  return -1;
}

}  // namespace

Result<Charsmap> Charsmap::Parse(std::string_view blob) {
  Charsmap map;
  if (blob.empty()) return map;
  uint32_t bytes = 0;
  if (blob.size() < sizeof bytes) return Damaged("is shorter than its header");
  std::memcpy(&bytes, blob.data(), sizeof bytes);
  if (bytes % 4 != 0 || bytes > blob.size() - sizeof bytes)
    return Damaged("has a trie that runs over its end");
  map.units_.resize(bytes / 4);
  if (bytes > 0) std::memcpy(map.units_.data(), blob.data() + sizeof bytes, bytes);
  map.replacements_ = blob.substr(sizeof bytes + bytes);
  if (!IsValidUtf8(map.replacements_)) return Damaged("has replacements that are not UTF-8");
  return map;
}

Result<Charsmap> Charsmap::ParseBase64(std::string_view base64) {
  std::string blob;
  blob.reserve(base64.size() / 4 * 3);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : base64) {
    if (c == '=') break;
    const int digit = Base64Digit(c);
    if (digit < 0) return Damaged("is not base64");
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      blob += static_cast<char>(bits >> count);
      bits &= (1u << count) - 1;
    }
  }
  return Parse(blob);
}

std::optional<Charsmap::Hit> Charsmap::Search(std::string_view text, bool longest) const {
  if (units_.empty()) return std::nullopt;
  std::optional<Hit> hit;
  size_t node = Offset(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<uint8_t>(text[i]);
    node ^= byte;
    if (byte == 0 || node >= units_.size()) break;
    const uint32_t unit = units_[node];
    if (Label(unit) != byte) break;
    node ^= Offset(unit);
    if (!HasLeaf(unit)) continue;
    if (node >= units_.size()) break;
    const size_t index = units_[node] & 0x7FFFFFFF;
    if (index >= replacements_.size()) break;
    // An index into the middle of a character would give ill-formed text.
    if ((static_cast<uint8_t>(replacements_[index]) & 0xC0) == 0x80) break;
    const size_t end = replacements_.find('\0', index);
    const size_t size = (end == std::string::npos ? replacements_.size() : end) - index;
    hit = Hit{i + 1, std::string_view(replacements_).substr(index, size)};
    if (!longest) break;
  }
  return hit;
}

}  // namespace tidepool::text
