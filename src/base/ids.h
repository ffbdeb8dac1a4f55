// Random identifiers from the operating system's generator. Any thread.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tidepool {

// `prefix` + `length` characters of [0-9A-Za-z]; 22 characters carry 131 bits.
std::string RandomId(std::string_view prefix, size_t length = 24);

// Fills `bytes` with `size` random bytes (getrandom).
void RandomBytes(void* bytes, size_t size);

}  // namespace tidepool
