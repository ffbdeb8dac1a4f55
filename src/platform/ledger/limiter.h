// What may start: limits, free quotas and budgets of all scopes, looked at and reserved in one step.
//
// A request reserves its prompt and the most it may put out against every rule that concerns it
// (organisation, workspace, key; its model or all models); either all take it or none does. At its end the
// reservation is settled: what was not used goes back. So a quota for ten requests admits ten of two hundred
// that come at once, whatever they then use.
//
// Rates are token buckets over a monotonic clock: capacity = rate * burst_s / 60, full at first, refilled at
// rate / 60 a second; setting the wall clock does not touch them. Days and months are UTC, counted by period,
// so that a clock that jumps ahead and comes back finds the counts it left.
//
// Everything is in memory under one mutex (a few map look-ups a request); rows in the store are the only
// durable truth, and Use() of a new rule starts from them. Threads: any.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/ledger/limit_rules.h"
#include "platform/ledger/money.h"
#include "platform/ledger/price_book.h"
#include "platform/ledger/rate_state.h"
#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

// Something an organisation is told once.
struct Notice {
  enum class Kind : uint8_t { kBudget, kQuota } kind = Kind::kBudget;
  std::string organisation;
  std::string subject;      // budget id, or model version
  std::string name;         // scope text, or the model's name
  int64_t period_ms = 0;    // start of the budget's period, or when the quota was granted
  int32_t threshold = 0;    // budget: percent spent; quota: percent left (20, 0)
  std::string limit, used;  // amounts or tokens
  std::string currency;     // of amounts
};

struct QuotaDefaults {
  int64_t tokens = 1'000'000;
  int64_t validity_days = 90;
  bool stop_when_exhausted = false;
};

struct AdmissionRequest {
  Payer payer;
  std::string model, model_version;
  bool embeds = false, batch = false;
  int64_t prompt_tokens = 0;
  int64_t max_output_tokens = 0;  // of each choice
  bool may_lower_output = false;  // its client named no maximum: limits may lower it
  int32_t choices = 1;
};

// What one request holds. Settle it exactly once.
struct Reservation {
  uint64_t id = 0;
  int64_t max_output_tokens = 0;  // of each choice, after limits
  std::shared_ptr<const PriceBook> book;
  RateState rates;
};

struct Settlement {
  int64_t free_tokens = 0;
  PricedAmount priced;
};

struct Refusal {  // counted by minute, not stored one by one
  int64_t minute_ms = 0;
  Payer payer;
  std::string model, code;
  int64_t count = 0;
};

class Limiter {
 public:
  // How much of a rule has been used already, from the store's rows.
  struct Used {
    int64_t tokens = 0;
    Money amount;
  };
  Limiter(const Clock& clock, const WallClock& wall, const PriceBooks& books, QuotaDefaults quota);

  // Rules are replaced whole; the counters of one that stays are kept. `used_today` / `spent`: what rows of
  // the running period say, for rules that are new.
  void SetLimit(const Limit& limit, int64_t used_today_tokens);
  bool RemoveLimit(const Scope& scope, std::string_view model);
  // Rules of one organisation ("": of all) in a fixed order, at most `most` of those after the named one,
  // which need not be there any more: pages are whole whatever changes between them.
  using LimitKey = std::pair<Scope, std::string>;  // scope, model
  std::vector<Limit> limits(std::string_view organisation = {}, const std::optional<LimitKey>& after = {},
                            size_t most = SIZE_MAX) const;
  std::optional<Limit> FindLimit(const Scope& scope, std::string_view model) const;
  void SetBudget(const Budget& budget, const Amounts& spent);
  bool RemoveBudget(std::string_view id);
  void SetBudgetCurrencies(const std::string& currency);  // of those that have none
  struct BudgetState {
    Budget budget;
    Money spent, reserved;
    Amounts not_counted;  // spent in other currencies
    int64_t from_ms = 0, to_ms = 0;
  };
  std::vector<BudgetState> budgets(std::string_view organisation = {}, std::string_view after_id = {},
                                   size_t most = SIZE_MAX) const;
  std::optional<BudgetState> FindBudget(std::string_view id) const;
  std::pair<size_t, size_t> rules() const;  // how many limits and budgets there are
  void SetQuota(const FreeQuota& quota);    // `used` included
  // `after_version`: of one organisation's only.
  std::vector<FreeQuota> quotas(std::string_view organisation, std::string_view after_version = {},
                                size_t most = SIZE_MAX) const;
  std::optional<FreeQuota> FindQuota(std::string_view organisation, std::string_view model_version) const;

  // Refusals that need no token count: whether a request of this payer could start at all now. Nothing is
  // reserved. `rates`, if given, is filled when it is refused.
  Status Check(const AdmissionRequest& request, RateState* rates = nullptr);
  // kOverloaded with retry_after_s: "rate_limit_exceeded" (requests or tokens a minute, concurrent requests),
  // "quota_exhausted" (tokens a day, free quota with the stop switch), "budget_exhausted"; kInvalid or
  // kTooLarge "context_limit_exceeded", "max_output_limit_exceeded", "request_exceeds_limit" where waiting
  // would not help. Messages name the rule and whom to ask; how much of an organisation's is left they do not
  // say, since that is what its other workspaces used. `rates`, if given, is filled in any case.
  Result<Reservation> Reserve(const AdmissionRequest& request, RateState* rates = nullptr);
  // Gives back what was not used and prices the rest.
  Settlement Settle(const Reservation& reservation, UsageStatus status, const BillableTokens& tokens);
  // A request that never began: everything goes back, its place in the rate of requests too.
  void Release(const Reservation& reservation);
  // A row that came about without a reservation (recovered after a crash).
  Settlement Account(const Payer& payer, const std::string& model, const std::string& model_version,
                     bool embeds, bool batch, const PriceBook& book, UsageStatus status,
                     const BillableTokens& tokens);

  // New since the last call.
  std::vector<Notice> TakeNotices();
  std::vector<FreeQuota> TakeNewQuotas();  // granted by first use: to be stored
  // Whole minutes that have passed (all of them with `flush`).
  std::vector<Refusal> TakeRefusals(bool flush = false);
  size_t refusals_dropped() const;  // beyond kMaxRefusals different ones a minute

 private:
  struct Bucket {
    double level = 0;
    Nanoseconds at = 0;
  };
  struct LimitState {
    Limit limit;
    Bucket requests, tokens;
    int64_t concurrent = 0;
    std::map<int64_t, int64_t> day_tokens;  // start of day -> used and reserved
  };
  struct QuotaState {
    FreeQuota quota;
    int64_t reserved = 0;
    bool told_low = false, told_empty = false;
  };
  struct BudgetUse {
    Money spent, reserved;
    Amounts not_counted;
    int32_t told = 0;  // highest threshold
  };
  struct BudgetEntry {
    Budget budget;
    std::map<int64_t, BudgetUse> periods;  // by start
  };
  struct Held {
    AdmissionRequest request;
    int64_t tokens = 0;  // prompt and all output
    int64_t day_ms = 0;
    Money cost;
    int64_t quota_tokens = 0;
    std::shared_ptr<const PriceBook> book;
    std::vector<std::pair<std::string, int64_t>> budgets;  // id, period
  };

  std::vector<LimitState*> LimitsFor(const AdmissionRequest& request);
  std::vector<BudgetEntry*> BudgetsFor(const Payer& payer);
  void Unlist(BudgetEntry& entry);  // out of budgets_of_ and budgets_in_
  BudgetState StateOf(const BudgetEntry& entry) const;
  QuotaState* QuotaFor(const AdmissionRequest& request, int64_t now_ms);
  void Refill(LimitState& state);
  void FillRates(const std::vector<LimitState*>& limits, RateState& rates);
  Error Refused(const AdmissionRequest& request, Error error);
  Result<int64_t> LowerOutput(const AdmissionRequest& request, const std::vector<LimitState*>& limits);
  Status CheckAll(const std::vector<LimitState*>& limits, int64_t tokens, bool only_possible);
  Settlement Spend(const AdmissionRequest& request, const PriceBook& book, UsageStatus status,
                   const BillableTokens& tokens, int64_t now_ms);
  void TellBudget(BudgetEntry& entry, int64_t period_ms, BudgetUse& use);
  void TellQuota(QuotaState& state);

  const Clock& clock_;
  const WallClock& wall_;
  const PriceBooks& books_;
  const QuotaDefaults quota_defaults_;

  mutable std::mutex mutex_;
  std::map<LimitKey, LimitState> limits_;
  std::map<std::string, BudgetEntry, std::less<>> budgets_;
  std::map<Scope, std::vector<BudgetEntry*>> budgets_of_;  // entries of budgets_
  // By organisation: what is listed for one must not be looked for among all others'.
  std::map<std::string, std::set<LimitKey>, std::less<>> limits_in_;
  std::map<std::string, std::set<std::string, std::less<>>, std::less<>> budgets_in_;
  std::map<std::pair<std::string, std::string>, QuotaState> quotas_;
  std::map<uint64_t, Held> held_;
  uint64_t next_id_ = 1;
  std::vector<Notice> notices_;
  std::vector<FreeQuota> new_quotas_;
  std::map<std::pair<int64_t, std::string>, Refusal> refusals_;
  size_t refusals_dropped_ = 0;
};

}  // namespace tidepool::platform
