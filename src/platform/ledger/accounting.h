// The ledger as one thing: admission and metering (ledger()), questions (reports()), and the rules that
// people change, each change one transaction with its row in the audit log. What the composition root builds
// and the gateway calls. Threads: any.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/audit.h"
#include "platform/ledger/ledger_store.h"
#include "platform/ledger/limiter.h"
#include "platform/ledger/price_book.h"
#include "platform/ledger/reports.h"
#include "platform/ledger/usage_ledger.h"
#include "platform/ledger/webhook.h"

namespace tidepool::platform {

// What running costs, so that a price can be compared with it.
struct RealCost {
  std::string currency = "USD";
  Money device_per_hour;  // amortisation of the machine
  Money power_per_kwh;
  int64_t power_watts = 0;  // of the machine under load
  // device_per_hour + watts / 1000 * power_per_kwh, for so many microseconds of device time.
  Money Of(int64_t device_us) const;
  // What is left of the amounts. kInvalid "currencies_differ" where they are not of this one currency: nobody
  // knows what one is worth in another.
  Result<Money> Margin(const Amounts& amounts, int64_t device_us) const;
};

struct AccountingOptions {
  std::filesystem::path folder;  // of the journal
  UsageLedgerOptions ledger;
  QuotaDefaults quota;
  int64_t max_limits = 10'000, max_budgets = 1'000;  // of one organisation, with its workspaces and keys
  WebhookOptions webhooks;
  RealCost cost;
  // Appends to the audit log within the change's transaction. Empty: nothing is audited.
  std::function<Status(store::Session&, const AuditActor&, std::string_view action, std::string_view object,
                       const nlohmann::ordered_json& before, const nlohmann::ordered_json& after)>
      audit;
  // How webhook secrets are kept. Empty: in clear.
  std::function<std::string(const std::string&)> seal;
  WebhookSender::Unseal unseal;
};

class Accounting {
 public:
  // The database has been migrated. Posts what a crash left before it returns. `files`: the journal's, for
  // tests; nullptr: a folder on the disk.
  static Result<std::unique_ptr<Accounting>> Open(store::Database& database, const Clock& clock,
                                                  const WallClock& wall, MetricsRegistry& metrics,
                                                  AccountingOptions options,
                                                  std::unique_ptr<JournalFiles> files = nullptr);
  ~Accounting();
  Accounting(const Accounting&) = delete;
  Accounting& operator=(const Accounting&) = delete;

  UsageLedger& ledger() { return *ledger_; }
  Reports& reports() { return *reports_; }
  const PriceBooks& books() const { return books_; }
  const Limiter& limiter() const { return *limiter_; }
  const RealCost& cost() const { return options_.cost; }
  const QuotaDefaults& quota_defaults() const { return options_.quota; }
  int64_t now_ms() const { return wall_.unix_ms(); }

  // Each checks, writes, audits, then takes effect at once. The row in the audit log is of the organisation
  // (and the workspace, where it is one's) that the change concerns, whoever the actor is: prices are the
  // installation's. kConflict "too_many_limits", "too_many_budgets" for one more than an organisation may
  // have.
  Status SetLimit(const AuditActor& actor, const Limit& limit);
  Status RemoveLimit(const AuditActor& actor, const Scope& scope, const std::string& model);  // kNotFound
  // An empty id makes a new one; an empty currency is what it had, or the book's in force. kInvalid
  // "unknown_currency" where no book is in it.
  Result<Budget> SetBudget(const AuditActor& actor, Budget budget);
  Status RemoveBudget(const AuditActor& actor, const std::string& id);
  Result<FreeQuota> SetQuota(const AuditActor& actor, const FreeQuota& quota);
  Result<PriceBook> AddPrices(const AuditActor& actor, PriceBook book, const std::string& by);
  // Gives the secret, which is not shown again.
  Result<std::string> SetWebhook(const AuditActor& actor, const std::string& organisation,
                                 const std::string& url);
  Status RemoveWebhook(const AuditActor& actor, const std::string& organisation);
  Result<std::optional<Webhook>> FindWebhook(const std::string& organisation);
  // Sends a notice for trying; kUnavailable, kForbidden with what came of it.
  Status TestWebhook(const Webhook& webhook) const { return webhooks_->Test(webhook); }
  Result<Adjustment> Adjust(const AuditActor& actor, Adjustment adjustment);

 private:
  Accounting(store::Database& database, const WallClock& wall, MetricsRegistry& metrics,
             AccountingOptions options);
  void CountRules();
  Result<nlohmann::ordered_json> WebhookAudited(const std::string& organisation);
  using Change = std::function<Status(store::Session&)>;
  // `actor` as Concerning gives it.
  Status Write(const AuditActor& actor, std::string_view action, std::string_view object,
               const nlohmann::ordered_json& before, const nlohmann::ordered_json& after,
               const Change& change);

  store::Database& database_;
  const WallClock& wall_;
  const AccountingOptions options_;
  Gauge limits_gauge_, budgets_gauge_;
  PriceBooks books_;
  LedgerStore store_;
  std::unique_ptr<Limiter> limiter_;
  std::unique_ptr<Reports> reports_;
  std::unique_ptr<UsageLedger> ledger_;
  std::unique_ptr<WebhookSender> webhooks_;
};

nlohmann::ordered_json LimitJson(const Limit& limit);
nlohmann::ordered_json BudgetJson(const Budget& budget);
nlohmann::ordered_json QuotaJson(const FreeQuota& quota);

}  // namespace tidepool::platform
