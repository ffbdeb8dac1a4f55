// The ledger's tables: usage rows and adjustments (written once), limits, budgets, free quotas, price books,
// webhooks, notices, counts of refusals. Threads: any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/ledger/limiter.h"
#include "platform/ledger/price_book.h"
#include "platform/ledger/usage_ledger.h"
#include "platform/ledger/usage_row.h"
#include "platform/store/database.h"

namespace tidepool::platform {

store::MigrationList LedgerMigrations();

struct Adjustment {
  std::string id;  // "adj-..."
  int64_t created_ms = 0;
  int64_t month_ms = 0;                             // start of the month whose bill it is on
  std::string organisation, workspace, key, model;  // the last three may be empty
  Money amount;                                     // negative: a credit
  std::string currency, reason, created_by;
};

struct Webhook {
  std::string organisation, url;
  std::string secret;  // as stored: sealed by the composition root's key file, or plain without one
};

struct Delivery {
  Notice notice;
  int64_t created_ms = 0, next_ms = 0;
  int32_t attempts = 0;
};

class LedgerStore final : public UsageSink {
 public:
  LedgerStore(store::Database& database, const WallClock& wall) : database_(database), wall_(wall) {}

  // UsageSink
  Status Post(std::span<const UsageRow> rows) override;
  Status PostRefusals(std::span<const Refusal> refusals) override;
  Status PostQuotas(std::span<const FreeQuota> granted) override;
  // A notice of the same subject, period and threshold is kept once, whatever happens in between.
  Status PostNotices(std::span<const Notice> notices) override;
  Result<bool> HasRow(const std::string& id);

  // What rows say was used, for counters that begin.
  Result<int64_t> TokensSince(const Scope& scope, std::string_view model, int64_t from_ms);
  Result<Amounts> AmountsSince(const Scope& scope, int64_t from_ms, int64_t to_ms, const PriceBooks& books);

  // Everything that the limiter and the price books need, at a start. Budgets without a currency (of an
  // earlier version) get that of the book in force.
  Status Load(Limiter& limiter, PriceBooks& books);
  Result<std::vector<FreeQuota>> LoadQuotas(std::string_view organisation);

  // Changes run inside a Database::Write of the caller, beside their row in the audit log.
  static Status SaveLimit(store::Session& session, const Limit& limit);
  static Status DeleteLimit(store::Session& session, const Scope& scope, std::string_view model);
  static Status SaveBudget(store::Session& session, const Budget& budget);
  static Status DeleteBudget(store::Session& session, std::string_view id);
  static Status SetBudgetCurrencies(store::Session& session, std::string_view currency);  // of those without
  static Status SaveQuota(store::Session& session, const FreeQuota& quota);
  // Gives the book the next version.
  static Result<int64_t> AddPriceBook(store::Session& session, const PriceBook& book, int64_t now_ms,
                                      std::string_view created_by);
  static Status SaveWebhook(store::Session& session, const Webhook& webhook, int64_t now_ms);
  static Status DeleteWebhook(store::Session& session, std::string_view organisation);
  // Of a rule that is another now: what it tells next is news, though it was told of the old one.
  static Status ForgetNotices(store::Session& session, Notice::Kind kind, std::string_view organisation,
                              std::string_view subject);
  static Status AddAdjustment(store::Session& session, const Adjustment& adjustment);

  Result<std::optional<Webhook>> FindWebhook(const std::string& organisation);
  // Who has something to be told now, longest due first; not those of `without`.
  Result<std::vector<std::string>> OrganisationsDue(int64_t now_ms, const std::vector<std::string>& without,
                                                    int64_t limit);
  // What is due of one organisation, and what was tried less than `few_attempts` times although it is not, in
  // the order in which it came about.
  Result<std::vector<Delivery>> WaitingDeliveries(const std::string& organisation, int64_t now_ms,
                                                  int32_t few_attempts, int64_t limit);
  // None of an organisation's is due before then.
  Status HoldDeliveries(const std::string& organisation, int64_t until_ms);
  // `state`: "delivered", "waiting" (again at next_ms), "given_up".
  Status SaveDelivery(const Delivery& delivery, std::string_view state, std::string_view error);

  store::Database& database() { return database_; }

 private:
  store::Database& database_;
  const WallClock& wall_;
};

// Columns of usage_rows in the order that RowOf reads.
std::string_view UsageColumns();
UsageRow UsageRowOf(const store::Row& row);
// An amount's sum: billionths as two sums, of whole units and of the rest, of which neither can overflow 64
// bits.
inline constexpr std::string_view kAmountSums =
    "COALESCE(SUM(amount_nanos / 1000000000), 0), COALESCE(SUM(amount_nanos % 1000000000), 0)";
Money MoneyOfSums(const store::Row& row, size_t column);

}  // namespace tidepool::platform
