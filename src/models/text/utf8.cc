#include "models/text/utf8.h"

#include <cstring>

namespace tidepool::text {
namespace {

// Length announced by a lead byte and the allowed range of the second byte (Unicode table 3-7); 0: never a
// lead.
struct Lead {
  uint8_t size;
  uint8_t low;
  uint8_t high;
};

Lead LeadOf(unsigned char byte) {
  if (byte >= 0xC2 && byte <= 0xDF) return {2, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x80, 0x9F};
  if (byte >= 0xE1 && byte <= 0xEF) return {3, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x90, 0xBF};
  if (byte >= 0xF1 && byte <= 0xF3) return {4, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Character ReadCharacter(std::string_view text, size_t position) {
  const auto* p = reinterpret_cast<const unsigned char*>(text.data()) + position;
  const size_t left = text.size() - position;
  if (p[0] < 0x80) return {p[0], 1, true};
  const Lead lead = LeadOf(p[0]);
  if (lead.size == 0) return {0xFFFD, 1, false};
  if (left < 2 || p[1] < lead.low || p[1] > lead.high) return {0xFFFD, 1, false};
  for (uint32_t i = 2; i < lead.size; ++i) {
    if (left <= i || (p[i] & 0xC0) != 0x80) return {0xFFFD, i, false};
  }
  return ReadValidCharacter(text, position);
}

void AppendCharacter(std::string& out, uint32_t code) {
  if (code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) code = 0xFFFD;
  if (code < 0x80) {
    out += static_cast<char>(code);
  } else if (code < 0x800) {
    out += static_cast<char>(0xC0 | code >> 6);
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    out += static_cast<char>(0xE0 | code >> 12);
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | code >> 18);
    out += static_cast<char>(0x80 | (code >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (code >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (code & 0x3F));
  }
}

bool IsAscii(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080u) return false;
  }
  for (; i < text.size(); ++i) {
    if (static_cast<unsigned char>(text[i]) >= 0x80) return false;
  }
  return true;
}

bool IsValidUtf8(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    if (i + 8 <= text.size()) {
      uint64_t word;
      std::memcpy(&word, text.data() + i, 8);
      if ((word & 0x8080808080808080u) == 0) {
        i += 8;
        continue;
      }
    }
    const Character character = ReadCharacter(text, i);
    if (!character.valid) return false;
    i += character.size;
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const Character character = ReadCharacter(text, i);
    out.append(character.valid ? text.substr(i, character.size) : kReplacementCharacter);
    i += character.size;
  }
  return out;
}

size_t IncompleteSuffix(std::string_view text) {
  const size_t most = text.size() < 3 ? text.size() : 3;
  for (size_t back = 1; back <= most; ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) return 0;
    if (byte < 0xC0) continue;
    const Lead lead = LeadOf(byte);
    if (lead.size <= back) return 0;
    // The bytes present must all be allowed, or the character is already known to be ill-formed.
    if (back >= 2) {
      const auto second = static_cast<unsigned char>(text[text.size() - back + 1]);
      if (second < lead.low || second > lead.high) return 0;
    }
    return back;
  }
  return 0;
}

}  // namespace tidepool::text
