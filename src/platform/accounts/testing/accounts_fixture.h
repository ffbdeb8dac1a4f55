// A whole accounts floor over a store of the test's own, with clocks that the test moves.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/ids.h"
#include "platform/accounts/home.h"
#include "platform/accounts/schema.h"

namespace tidepool::platform {

inline constexpr int64_t kTestTime_ms = 1'800'000'000'000;

class AccountsWorld {
 public:
  // `home`: a folder of the test's; without it a new one. It goes in the end.
  explicit AccountsWorld(std::string postgresql = "", std::filesystem::path home = {})
      : home_(home.empty() ? std::filesystem::temp_directory_path() / RandomId("tidepool-accounts-", 8)
                           : std::move(home)),
        postgresql_(std::move(postgresql)) {
    std::filesystem::create_directories(home_);
  }
  ~AccountsWorld() {
    Close();
    std::error_code ignored;
    std::filesystem::remove_all(home_, ignored);
  }
  AccountsWorld(const AccountsWorld&) = delete;
  AccountsWorld& operator=(const AccountsWorld&) = delete;

  Status Open() {
    Close();
    store::DatabaseOptions options;
    options.file = home_ / "tidepool.db";
    options.postgresql = postgresql_;
    TP_ASSIGN(database, store::Database::Open(options, metrics));
    std::vector<store::MigrationList> lists = {AccountsMigrations()};
    lists.insert(lists.end(), other_floors.begin(), other_floors.end());
    TP_TRY(database->Migrate(lists));
    TP_ASSIGN(AccountsHome opened, OpenAccountsHome(home_, *database));
    created_key = opened.created_key;
    keys = std::make_unique<KeyFile>(opened.keys);
    audit = std::make_unique<Audit>(*database, *keys, wall_clock, home_);
    TP_ASSIGN(accounts, Accounts::Open(*database, *keys, *audit, clock, wall_clock, metrics, options_,
                                       opened.first_key));
    return {};
  }
  void Close() {
    accounts.reset();
    audit.reset();
    keys.reset();
    database.reset();
  }

  // Who a key is, as the gateway would find out.
  Result<Principal> Who(const std::string& key, std::string_view address = "127.0.0.1") const {
    return accounts->Authenticate({.key = key, .address = address});
  }
  Caller CallerOf(const std::string& key) const {
    auto principal = Who(key);
    EXPECT_TRUE(principal) << principal.error().message;
    if (!principal) return {};
    return {*principal, ActorOf(*principal, "127.0.0.1", "req-test")};
  }
  Caller SessionCaller(const SignedIn& in, std::string_view workspace = {}) const {
    auto principal = accounts->Authenticate({.session = in.token,
                                             .csrf = in.csrf,
                                             .workspace = workspace,
                                             .writes = true,
                                             .address = "127.0.0.1"});
    EXPECT_TRUE(principal) << principal.error().message;
    if (!principal) return {};
    return {*principal, ActorOf(*principal, "127.0.0.1", "req-test")};
  }
  AuditActor FromAddress(std::string address) const {
    AuditActor actor;
    actor.address = std::move(address);
    return actor;
  }
  std::string AdminKey() const {
    std::ifstream file(home_ / "admin.key");
    std::string key;
    file >> key;
    return key;
  }
  const std::filesystem::path& home() const { return home_; }

  AccountsOptions options_;
  std::vector<store::MigrationList> other_floors;  // whose tables the store has too
  ManualClock clock;
  ManualWallClock wall_clock{kTestTime_ms};
  MetricsRegistry metrics;
  std::unique_ptr<store::Database> database;
  std::unique_ptr<KeyFile> keys;
  std::unique_ptr<Audit> audit;
  std::unique_ptr<Accounts> accounts;
  std::string created_key;

 private:
  const std::filesystem::path home_;
  const std::string postgresql_;
};

}  // namespace tidepool::platform
