// The shape of an API key. What a key may do is a row of the store (accounts.h).
#pragma once

#include <string>
#include <string_view>

namespace tidepool::platform {

// "tp-" + 40 random characters + a 6 character checksum, so that a mistyped key is told from a revoked one.
std::string MakeKey();
bool KeyLooksValid(std::string_view key);
// What may be shown of it: "tp-Ab3dEf".
std::string KeyPrefix(std::string_view key);
// Random text for links and sessions: 238 bits.
std::string MakeToken(std::string_view prefix);

}  // namespace tidepool::platform
