// UTF-8, one character at a time. Everything here is total: any bytes are accepted.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tidepool::text {

struct Character {
  uint32_t code = 0;
  uint32_t size = 0;  // bytes taken, >= 1
  bool valid = false;
};

// The character at text[position], position < text.size(). An ill-formed sequence gives U+FFFD with the size
// of its maximal subpart (Unicode 15, 3.9, table 3-11: what Python's errors="replace" and the web do).
Character ReadCharacter(std::string_view text, size_t position);

// The same for text that is known to be well-formed: no checks.
inline Character ReadValidCharacter(std::string_view text, size_t position) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + position;
  if (p[0] < 0x80) return {p[0], 1, true};
  if (p[0] < 0xE0) return {(p[0] & 0x1Fu) << 6 | (p[1] & 0x3Fu), 2, true};
  if (p[0] < 0xF0) return {(p[0] & 0x0Fu) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu), 3, true};
  return {(p[0] & 0x07u) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu), 4, true};
}

// Start of the character that ends at `position` (> 0) of well-formed text.
inline size_t PreviousCharacter(std::string_view text, size_t position) {
  do {
    --position;
  } while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0) == 0x80);
  return position;
}

// Appends `code`; surrogates and values over U+10FFFF become U+FFFD.
void AppendCharacter(std::string& out, uint32_t code);

bool IsAscii(std::string_view text);
bool IsValidUtf8(std::string_view text);
// `text`, with each maximal ill-formed subpart replaced by U+FFFD.
std::string ReplaceInvalidUtf8(std::string_view text);
// Bytes at the end of `text` that begin a character but do not complete it (0 to 3): what a stream must hold
// back.
size_t IncompleteSuffix(std::string_view text);

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

}  // namespace tidepool::text
