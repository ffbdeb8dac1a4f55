// The store, the key file, accounts and the audit log of one home, and what is done to them as a whole:
// backup, restore, a password set anew on the machine itself.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/accounts.h"
#include "platform/accounts/audit.h"
#include "platform/accounts/key_file.h"
#include "platform/store/database.h"
#include "server/settings.h"

namespace tidepool::server {

// Members are destroyed from the last to the first.
struct AccountsStore {
  std::unique_ptr<store::Database> database;
  std::unique_ptr<platform::KeyFile> keys;
  std::unique_ptr<platform::Audit> audit;
  std::unique_ptr<platform::Accounts> accounts;
  std::string created_key;  // the operator's, made just now: shown once
};

// Opens the store of the settings and brings it up to date. The clocks and the metrics outlive it.
Result<AccountsStore> OpenAccountsStore(const Settings& settings, const Clock& clock,
                                        const WallClock& wall_clock, MetricsRegistry& metrics);

// {"file", "bytes", "holds_keys"}: a copy while serving. With a passphrase the key file goes along,
// encrypted.
Result<nlohmann::ordered_json> BackupStore(const AccountsStore& store, const std::filesystem::path& file,
                                           const std::string& passphrase, const WallClock& wall_clock);
// Takes the place of the home's store, which is kept as tidepool.db.before-restore. The caller holds the
// home's lock: no server runs. `passphrase` is needed when the backup holds the key file. Says what was done.
Result<std::string> RestoreStore(const Settings& settings, const std::filesystem::path& file,
                                 const std::string& passphrase);
// A link for that person, whether or not a server runs.
Result<platform::CreatedLink> MakeResetLink(const Settings& settings, const std::string& email);

}  // namespace tidepool::server
