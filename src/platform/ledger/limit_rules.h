// What may be laid down about use: limits, budgets and free quotas, and for whom. Values; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "platform/ledger/money.h"
#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

enum class ScopeKind : uint8_t { kOrganisation, kWorkspace, kKey };
struct Scope {
  ScopeKind kind = ScopeKind::kOrganisation;
  std::string id;
  friend auto operator<=>(const Scope&, const Scope&) = default;
};
std::string_view ScopeKindName(ScopeKind kind);
std::string ScopeText(const Scope& scope);          // "workspace:ws-1"
Result<Scope> ParseScope(std::string_view text);    // kInvalid "bad_scope"
std::array<Scope, 3> ScopesOf(const Payer& payer);  // organisation, workspace, key

// An absent number is no limit; zero forbids.
struct Limit {
  Scope scope;
  std::string organisation = {};  // that the scope belongs to
  std::string model = "*";        // a stored model's id, or all models together
  std::optional<int64_t> requests_per_minute = {}, tokens_per_minute = {}, tokens_per_day = {};
  std::optional<int64_t> concurrent_requests = {}, context_length = {}, max_output_tokens = {};
  int64_t burst_s = 60;  // 1..3600: how many seconds' worth may come at once
};
Status CheckLimit(const Limit& limit);  // kInvalid names the field

struct FreeQuota {
  std::string organisation, model_version;  // content hash: other names of the same model share it
  std::string model;                        // the name it was first used under, for people
  int64_t total = 0, used = 0;
  int64_t granted_ms = 0, expires_ms = 0;
  bool stop_when_exhausted = false;
};
// "ok", "low" (a fifth left, or less), "exhausted", "ended" (its time is over).
std::string_view QuotaStateName(const FreeQuota& quota, int64_t now_ms);

enum class Period : uint8_t { kDay, kMonth };
std::string_view PeriodName(Period period);
Result<Period> ParsePeriod(std::string_view text);
// UTC: [first, second) in Unix milliseconds.
std::pair<int64_t, int64_t> PeriodBounds(Period period, int64_t at_ms);

struct Budget {
  std::string id;  // "bud-..."
  Scope scope;
  std::string organisation = {};  // that the scope belongs to, and that is told
  Period period = Period::kMonth;
  Money amount = {};
  // Of the amount. What is priced in another currency does not count: nobody knows what it is worth in this
  // one. Empty while there is no price book, and nothing costs anything: it becomes the first book's.
  std::string currency = {};
  std::vector<int32_t> thresholds = {50, 80, 100};  // percent, ascending, at which its owner is told
  bool block = true;                                // refuse what could go beyond; else only tell
  bool Counts(std::string_view of) const { return currency.empty() || currency == of; }
};
Status CheckBudget(const Budget& budget);

}  // namespace tidepool::platform
