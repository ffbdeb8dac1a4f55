#include "server/accounts_store.h"

#include <fmt/format.h>
#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/ids.h"
#include "base/log.h"
#include "platform/accounts/home.h"
#include "platform/accounts/schema.h"
#include "platform/catalog/deployment_book.h"
#include "platform/conversations/conversations.h"
#include "platform/ledger/ledger_store.h"
#include "platform/request_bodies/request_bodies.h"
#include "platform/responses/responses.h"

namespace tidepool::server {
namespace {

constexpr const char* kStoreFile = "tidepool.db";
// A backup is a SQLite database with this table besides the store's own.
constexpr const char* kBackupTable =
    "CREATE TABLE backup_info (version BIGINT NOT NULL, created_ms BIGINT NOT NULL, sealed_keys BYTEA)";
constexpr int64_t kBackupVersion = 1;

// Every floor's migrations: the store belongs to all of them.
Status MigrateAll(store::Database& database) {
  const store::MigrationList lists[] = {
      platform::AccountsMigrations(),         platform::LedgerMigrations(),
      platform::DeploymentBook::Migrations(), platform::Conversations::Migrations(),
      platform::Responses::Migrations(),      platform::RequestBodies::Migrations()};
  return database.Migrate(lists);
}

store::DatabaseOptions FileOptions(const std::filesystem::path& file) {
  store::DatabaseOptions options;
  options.file = file;
  options.readers = 1;
  return options;
}

Status CheckSqlite(const Settings& settings) {
  if (settings.store.postgresql.empty()) return {};
  return Fail(
      ErrorKind::kInvalid, "backup_not_here",
      "The store is PostgreSQL: back it up and restore it with its own tools (pg_dump and pg_restore), and "
      "the home's secrets.key and audit.head beside it: docs/postgresql.md.");
}

}  // namespace

Result<AccountsStore> OpenAccountsStore(const Settings& settings, const Clock& clock,
                                        const WallClock& wall_clock, MetricsRegistry& metrics) {
  AccountsStore out;
  store::DatabaseOptions options;
  options.file = settings.home / kStoreFile;
  options.postgresql = settings.store.postgresql;
  options.max_bytes = settings.store.max_size;
  options.readers = static_cast<int32_t>(settings.store.readers);
  options.query_timeout_s = settings.store.query_timeout_s;
  options.max_waiting_writes = static_cast<int32_t>(settings.store.max_waiting_writes);
  TP_ASSIGN(out.database, store::Database::Open(options, metrics));
  TP_TRY(MigrateAll(*out.database));
  TP_ASSIGN(platform::AccountsHome home, platform::OpenAccountsHome(settings.home, *out.database));
  out.created_key = home.created_key;
  out.keys = std::make_unique<platform::KeyFile>(home.keys);
  out.audit = std::make_unique<platform::Audit>(*out.database, *out.keys, wall_clock, settings.home);
  platform::AccountsOptions accounts;
  accounts.max_organisations = settings.accounts.max_organisations;
  accounts.max_workspaces = settings.accounts.max_workspaces;
  accounts.max_members = settings.accounts.max_members;
  accounts.max_keys = settings.accounts.max_keys;
  accounts.session_hours = settings.accounts.session_hours;
  accounts.sign_in_attempts = static_cast<int32_t>(settings.accounts.sign_in_attempts);
  TP_ASSIGN(out.accounts, platform::Accounts::Open(*out.database, *out.keys, *out.audit, clock, wall_clock,
                                                   metrics, accounts, home.first_key));
  platform::RetireOldKeys(settings.home);
  return out;
}

Result<nlohmann::ordered_json> BackupStore(const AccountsStore& store, const std::filesystem::path& file,
                                           const std::string& passphrase, const WallClock& wall_clock) {
  std::error_code problem;
  if (std::filesystem::exists(file, problem)) {
    return Fail(ErrorKind::kConflict, "backup_exists",
                fmt::format("{} exists already; choose another name", file.string()), "file");
  }
  // Under another name until it is whole.
  const std::filesystem::path part = file.string() + RandomId(".part-", 8);
  const auto fail = [&](Error error) {
    std::filesystem::remove(part, problem);
    return Fail(std::move(error));
  };
  if (const Status copied = store.database->Backup(part); !copied) return fail(copied.error());
  {
    MetricsRegistry metrics;
    auto copy = store::Database::Open(FileOptions(part), metrics);
    if (!copy) return fail(copy.error());
    const Status noted = (*copy)->Write([&](store::Session& session) -> Status {
      TP_TRY(session.Execute(kBackupTable));
      const store::Value sealed =
          passphrase.empty()
              ? store::Value()
              : store::Value(store::Blob{platform::SealWithPassphrase(store.keys->Text(), passphrase)});
      return session
          .Execute("INSERT INTO backup_info (version, created_ms, sealed_keys) VALUES ($1, $2, $3)",
                   {kBackupVersion, wall_clock.unix_ms(), sealed})
          .map([](int64_t) {});
    });
    if (!noted) return fail(noted.error());
  }
  if (::link(part.c_str(), file.c_str()) != 0) {  // unlike rename, replaces nothing
    return fail(Error{ErrorKind::kUnavailable, "backup_failed",
                      fmt::format("{} cannot be written; check the folder", file.string()), "file", 0});
  }
  std::filesystem::remove(part, problem);
  return nlohmann::ordered_json{{"file", file.string()},
                                {"bytes", std::filesystem::file_size(file, problem)},
                                {"holds_keys", !passphrase.empty()}};
}

Result<std::string> RestoreStore(const Settings& settings, const std::filesystem::path& file,
                                 const std::string& passphrase) {
  TP_TRY(CheckSqlite(settings));
  TP_TRY(store::CheckSqliteFile(file));
  const std::filesystem::path target = settings.home / kStoreFile;
  const std::filesystem::path fresh = settings.home / RandomId("restore-", 8);
  std::error_code problem;
  std::filesystem::copy_file(file, fresh, problem);
  if (problem) {
    return Fail(
        ErrorKind::kUnavailable, "restore_failed",
        fmt::format("{} cannot be copied to {}: {}", file.string(), fresh.string(), problem.message()));
  }
  const auto fail = [&](Error error) {
    for (const char* end : {"", "-wal", "-shm"}) std::filesystem::remove(fresh.string() + end, problem);
    return Fail(std::move(error));
  };
  // Everything that can be wrong with it is found before anything is replaced.
  int64_t created_ms = 0;
  std::optional<platform::KeyFile> keys;
  const auto prepare = [&]() -> Status {
    MetricsRegistry metrics;
    TP_ASSIGN(const auto copy, store::Database::Open(FileOptions(fresh), metrics));
    std::string sealed;
    const Status read = copy->Read([&](store::Session& session) -> Status {
      TP_ASSIGN(const store::Rows rows,
                session.Query("SELECT version, created_ms, sealed_keys FROM backup_info"));
      if (rows.size() != 1 || rows[0].Integer(0) != kBackupVersion)
        return Fail(ErrorKind::kCorrupt, "not_a_backup",
                    fmt::format("{} is no backup of this version", file.string()));
      created_ms = rows[0].Integer(1);
      sealed = rows[0].Bytes(2);
      return {};
    });
    if (!read) {
      return Fail(
          ErrorKind::kCorrupt, "not_a_backup",
          fmt::format("{} is no backup made by `tidepool backup`: {}", file.string(), read.error().message));
    }
    if (!sealed.empty()) {
      if (passphrase.empty()) {
        return Fail(ErrorKind::kInvalid, "passphrase_missing",
                    "This backup holds the key file: give the passphrase it was made with.", "passphrase");
      }
      TP_ASSIGN(const std::string text, platform::UnsealWithPassphrase(sealed, passphrase));
      TP_ASSIGN(keys, platform::KeyFile::Parse(text, file.string()));
    } else {
      TP_ASSIGN(keys, platform::KeyFile::Open(settings.home));
    }
    TP_TRY(MigrateAll(*copy));
    return copy->Write([&](store::Session& session) -> Status {
      TP_ASSIGN(const store::Rows known,
                session.Query("SELECT value FROM accounts_state WHERE name = 'key_file'"));
      if (known.size() != 1 || known[0].Text(0) != keys->Fingerprint()) {
        return Fail(
            ErrorKind::kCorrupt, "wrong_key_file",
            fmt::format("{} is not the key file of this backup: restore one that was made with --with-keys",
                        platform::KeyFile::kName));
      }
      TP_TRY(session.Execute("DROP TABLE backup_info"));
      // Who was signed in then need not be now.
      TP_TRY(session.Execute("DELETE FROM sessions"));
      return {};
    });
  };
  if (const Status prepared = prepare(); !prepared) return fail(prepared.error());
  for (const char* end : {"", "-wal", "-shm"}) {
    const std::string from = target.string() + end;
    if (!std::filesystem::exists(from, problem)) continue;
    std::filesystem::rename(from, target.string() + ".before-restore" + end, problem);
    if (problem) return fail(Error{ErrorKind::kUnavailable, "restore_failed", problem.message(), "", 0});
  }
  std::filesystem::rename(fresh, target, problem);
  if (problem) return fail(Error{ErrorKind::kUnavailable, "restore_failed", problem.message(), "", 0});
  TP_TRY(keys->Write(settings.home));
  // The head outside the store is of what was there before.
  MetricsRegistry metrics;
  const SystemWallClock wall_clock;
  TP_ASSIGN(const auto database, store::Database::Open(FileOptions(target), metrics));
  platform::Audit audit(*database, *keys, wall_clock, settings.home);
  TP_TRY(audit.ResetHead());
  TP_TRY(audit.Record(platform::MachineActor(), "store.restored", file.string(), nullptr,
                      {{"backup_of_ms", created_ms}}));
  return fmt::format(
      "restored {} (made {} s ago); what was there is {}.before-restore. Keys that were revoked since work "
      "again: "
      "look through `tidepool keys list`.",
      file.string(), (wall_clock.unix_ms() - created_ms) / 1000, target.string());
}

Result<platform::CreatedLink> MakeResetLink(const Settings& settings, const std::string& email) {
  std::error_code problem;
  if (settings.store.postgresql.empty() && !std::filesystem::exists(settings.home / kStoreFile, problem)) {
    return Fail(ErrorKind::kNotFound, "no_store",
                fmt::format("There is no store in {}: start the server once.", settings.home.string()));
  }
  const SteadyClock clock;
  const SystemWallClock wall_clock;
  MetricsRegistry metrics;
  TP_ASSIGN(const AccountsStore store, OpenAccountsStore(settings, clock, wall_clock, metrics));
  return store.accounts->MakeResetLinkFor(email);
}

}  // namespace tidepool::server
