#include "models/text/unicode.h"

namespace tidepool::text {

bool IsWhitespace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool IsWordCharacter(uint32_t code) {
  return (code >= '0' && code <= '9') || (code >= 'A' && code <= 'Z') || code == '_' ||
         (code >= 'a' && code <= 'z') || code >= 0x80;
}

bool ReplaceWithProxies(std::string_view, std::string&) { return false; }

}  // namespace tidepool::text
