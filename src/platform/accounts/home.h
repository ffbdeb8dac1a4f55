// The first start, and every later one: from the files of $TIDEPOOL_HOME to a key file and the first key.
//
// admin.key (mode 0600) is the command line's copy of the operator's service key: made at the first start, or
// taken over when a valid key was put there before. keys.json is of installations from before the store: its
// key goes on working (its hash secret moves into the key file).
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "platform/accounts/accounts.h"
#include "platform/accounts/key_file.h"
#include "platform/store/database.h"

namespace tidepool::platform {

struct AccountsHome {
  KeyFile keys;
  std::optional<Accounts::FirstKey> first_key;  // when the store is new
  std::string created_key;                      // made just now: show it once
};

// `database` is migrated. kNotFound "no_key_file" when the store is not new and its key file is missing.
Result<AccountsHome> OpenAccountsHome(const std::filesystem::path& home, store::Database& database);
// After Accounts::Open: keys.json has done its duty and is renamed.
void RetireOldKeys(const std::filesystem::path& home);

// For the doctor: what is wrong with the key file. Codes: key_file_missing, key_file_no_file,
// key_file_readable (by others), key_file_owner (another user), key_file_damaged.
Status CheckKeyFile(const std::filesystem::path& home);

}  // namespace tidepool::platform
