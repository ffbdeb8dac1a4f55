// Code points, case and whitespace as Python's str sees them. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tidepool::templates {

// Decodes the code point at `at` and moves past it; a malformed byte gives U+FFFD and moves by one.
char32_t NextCodePoint(std::string_view text, size_t* at);
void AppendUtf8(char32_t code_point, std::string* out);
size_t CountCodePoints(std::string_view text);
bool IsValidUtf8(std::string_view text);
// Byte offset of code point number `index` (clamped to the end).
size_t OffsetOf(std::string_view text, size_t index);

bool IsSpace(char32_t c);      // str.isspace
bool IsLineBreak(char32_t c);  // what str.splitlines splits on (besides \r\n)
bool IsAlphabetic(char32_t c);
bool IsDecimal(char32_t c);
bool IsDigit(char32_t c);
bool IsNumeric(char32_t c);
bool IsUpperCase(char32_t c);
bool IsLowerCase(char32_t c);
bool IsTitleCase(char32_t c);
bool IsPrintable(char32_t c);
bool IsIdentifierStart(char32_t c);
bool IsIdentifierPart(char32_t c);

std::string Upper(std::string_view text);
std::string Lower(std::string_view text);
std::string Capitalize(std::string_view text);
std::string TitleWords(std::string_view text);  // str.title
std::string SwapCase(std::string_view text);

// str.strip with whitespace.
std::string_view StripSpace(std::string_view text, bool left = true, bool right = true);
// str.strip(chars).
std::string_view StripChars(std::string_view text, std::string_view chars, bool left, bool right);

}  // namespace tidepool::templates
