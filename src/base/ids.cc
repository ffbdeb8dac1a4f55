#include "base/ids.h"

#include <sys/random.h>

#include <cerrno>
#include <cstdint>

#include "base/check.h"

namespace tidepool {

void RandomBytes(void* bytes, size_t size) {
  auto* out = static_cast<uint8_t*>(bytes);
  while (size > 0) {
    const ssize_t got = getrandom(out, size, 0);
    if (got < 0 && errno == EINTR) continue;
    CHECK(got > 0);
    out += got;
    size -= static_cast<size_t>(got);
  }
}

std::string RandomId(std::string_view prefix, size_t length) {
  static constexpr char kAlphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  std::string id(prefix);
  id.reserve(prefix.size() + length);
  while (length > 0) {
    uint8_t random[32];
    RandomBytes(random, sizeof random);
    for (uint8_t byte : random) {
      // 248 = 4 * 62: the rest is thrown away, so that every character is equally likely.
      if (byte >= 248 || length == 0) continue;
      id.push_back(kAlphabet[byte % 62]);
      --length;
    }
  }
  return id;
}

}  // namespace tidepool
