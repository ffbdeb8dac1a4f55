#include "models/text/byte_alphabet.h"

#include <array>

#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

constexpr uint32_t kShifted = 68;  // bytes that need another spelling

constexpr bool SpellsItself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

struct Tables {
  std::array<uint32_t, 256> code{};
  std::array<int16_t, 0x100 + kShifted> byte{};
};

constexpr Tables MakeTables() {
  Tables tables;
  for (auto& byte : tables.byte) byte = -1;
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const uint32_t code = SpellsItself(byte) ? byte : next++;
    tables.code[byte] = code;
    tables.byte[code] = static_cast<int16_t>(byte);
  }
  return tables;
}

constexpr Tables kTables = MakeTables();

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

uint32_t ByteToAlphabet(uint8_t byte) { return kTables.code[byte]; }

std::optional<uint8_t> AlphabetToByte(uint32_t code) {
  if (code >= kTables.byte.size() || kTables.byte[code] < 0) return std::nullopt;
  return static_cast<uint8_t>(kTables.byte[code]);
}

bool AlphabetToBytes(std::string_view spelled, std::string& bytes) {
  bytes.resize(spelled.size());
  char* out = bytes.data();
  const auto* at = reinterpret_cast<const unsigned char*>(spelled.data());
  // The alphabet ends at U+0143: UTF-8 of one byte, or of two. Other lead bytes, and continuations that are
  // none, give codes beyond the table.
  for (const auto* const end = at + spelled.size(); at < end;) {
    uint32_t code = *at++;
    if (code >= 0x80) {
      const bool two = code >= 0xC2 && code < 0xE0 && at < end && (*at & 0xC0) == 0x80;
      code = two ? (code & 0x1F) << 6 | (*at++ & 0x3F) : UINT32_MAX;
    }
    if (code >= kTables.byte.size() || kTables.byte[code] < 0) return false;
    *out++ = static_cast<char>(kTables.byte[code]);
  }
  bytes.resize(static_cast<size_t>(out - bytes.data()));
  return true;
}

std::optional<std::string> AlphabetToBytes(std::string_view spelled) {
  std::string bytes;
  if (!AlphabetToBytes(spelled, bytes)) return std::nullopt;
  return bytes;
}

std::string BytesToAlphabet(std::string_view bytes) {
  std::string spelled;
  spelled.reserve(bytes.size() * 2);
  for (const char c : bytes) AppendCharacter(spelled, ByteToAlphabet(static_cast<uint8_t>(c)));
  return spelled;
}

std::optional<uint8_t> ParseByteToken(std::string_view piece) {
  if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return std::nullopt;
  const int high = HexDigit(piece[3]), low = HexDigit(piece[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<uint8_t>(high << 4 | low);
}

std::string ByteToken(uint8_t byte) {
  constexpr char kHex[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kHex[byte >> 4], kHex[byte & 15], '>'};
}

}  // namespace tidepool::text
