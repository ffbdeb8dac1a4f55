// The admin key: made at first start, shown once, stored as a keyed hash.
//
// $TIDEPOOL_HOME/admin.key (mode 0600) is the command line's copy; $TIDEPOOL_HOME/keys.json holds the hash
// only. Threads: Verify may be called from any thread.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "platform/accounts/principal.h"

namespace tidepool::platform {

class KeyStore {
 public:
  virtual ~KeyStore() = default;
  // Opens (or at first start makes) the keys of `home`. `created_key` receives the new key when one was made:
  // show it once.
  static Result<std::unique_ptr<KeyStore>> Open(const std::filesystem::path& home,
                                                std::optional<std::string>& created_key);
  // Constant time in the key's bytes. kUnauthenticated "invalid_api_key" otherwise.
  virtual Result<Principal> Verify(std::string_view key) const = 0;
};

// "tp-" + 40 random characters + a 6 character checksum, so that a mistyped key is told from a revoked one.
std::string MakeKey();
bool KeyLooksValid(std::string_view key);

}  // namespace tidepool::platform
