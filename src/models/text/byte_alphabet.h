// GPT-2's byte alphabet: 188 bytes are spelled as themselves (as U+00NN), the other 68 as U+0100 + n, so that
// vocabulary files hold printable text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace tidepool::text {

uint32_t ByteToAlphabet(uint8_t byte);  // the code point that spells `byte`
std::optional<uint8_t> AlphabetToByte(uint32_t code);
// "Ġhello" -> " hello"; nullopt if a character is not of the alphabet.
std::optional<std::string> AlphabetToBytes(std::string_view spelled);
// The same into `bytes`, which is replaced; false instead of nullopt (`bytes` is anything then). For loops
// over a vocabulary: no allocation once the string has room.
bool AlphabetToBytes(std::string_view spelled, std::string& bytes);
std::string BytesToAlphabet(std::string_view bytes);
// "<0x0A>" -> 0x0A, as SentencePiece spells byte tokens.
std::optional<uint8_t> ParseByteToken(std::string_view piece);
std::string ByteToken(uint8_t byte);

}  // namespace tidepool::text
