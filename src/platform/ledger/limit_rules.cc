#include "platform/ledger/limit_rules.h"

#include <fmt/format.h>

#include <chrono>

namespace tidepool::platform {
namespace {

constexpr int64_t kMaxLimit = 1'000'000'000'000'000;

}  // namespace

std::string_view ScopeKindName(ScopeKind kind) {
  switch (kind) {
    case ScopeKind::kOrganisation: return "organisation";
    case ScopeKind::kWorkspace: return "workspace";
    case ScopeKind::kKey: return "key";
  }
  return "key";
}

std::string ScopeText(const Scope& scope) {
  return fmt::format("{}:{}", ScopeKindName(scope.kind), scope.id);
}

Result<Scope> ParseScope(std::string_view text) {
  for (const ScopeKind kind : {ScopeKind::kOrganisation, ScopeKind::kWorkspace, ScopeKind::kKey}) {
    const std::string_view name = ScopeKindName(kind);
    if (!text.starts_with(name) || text.size() < name.size() + 2 || text[name.size()] != ':') continue;
    const std::string_view id = text.substr(name.size() + 1);
    if (id.size() <= 200) return Scope{kind, std::string(id)};
  }
  return Fail(
      ErrorKind::kInvalid, "bad_scope",
      fmt::format("\"{}\" is no scope; write organisation:ID, workspace:ID or key:ID", text.substr(0, 60)),
      "scope");
}

std::array<Scope, 3> ScopesOf(const Payer& payer) {
  return {Scope{ScopeKind::kOrganisation, payer.organisation}, Scope{ScopeKind::kWorkspace, payer.workspace},
          Scope{ScopeKind::kKey, payer.key}};
}

Status CheckLimit(const Limit& limit) {
  const auto check = [](const char* name, const std::optional<int64_t>& value) -> Status {
    if (!value || (*value >= 0 && *value <= kMaxLimit)) return {};
    return Fail(ErrorKind::kInvalid, "bad_limit",
                fmt::format("{}: {} is not within 0 and {}", name, *value, kMaxLimit), name);
  };
  TP_TRY(check("requests_per_minute", limit.requests_per_minute));
  TP_TRY(check("tokens_per_minute", limit.tokens_per_minute));
  TP_TRY(check("tokens_per_day", limit.tokens_per_day));
  TP_TRY(check("concurrent_requests", limit.concurrent_requests));
  TP_TRY(check("context_length", limit.context_length));
  TP_TRY(check("max_output_tokens", limit.max_output_tokens));
  if (limit.burst_s < 1 || limit.burst_s > 3600)
    return Fail(ErrorKind::kInvalid, "bad_limit",
                fmt::format("burst_s: {} is not within 1 and 3600", limit.burst_s), "burst_s");
  if (limit.model.empty() || limit.model.size() > 512)
    return Fail(ErrorKind::kInvalid, "bad_limit", "model: must be \"*\" or a model's name", "model");
  return {};
}

std::string_view QuotaStateName(const FreeQuota& quota, int64_t now_ms) {
  if (now_ms >= quota.expires_ms) return "ended";
  const int64_t left = quota.total - quota.used;
  if (left <= 0) return "exhausted";
  return left * 5 <= quota.total ? "low" : "ok";
}

std::string_view PeriodName(Period period) { return period == Period::kDay ? "day" : "month"; }

Result<Period> ParsePeriod(std::string_view text) {
  if (text == "day") return Period::kDay;
  if (text == "month") return Period::kMonth;
  return Fail(ErrorKind::kInvalid, "bad_period",
              fmt::format("period: \"{}\" is not day or month", text.substr(0, 40)), "period");
}

std::pair<int64_t, int64_t> PeriodBounds(Period period, int64_t at_ms) {
  using namespace std::chrono;
  const auto start = [](sys_days day) { return int64_t{milliseconds(day.time_since_epoch()).count()}; };
  const auto day = floor<days>(sys_time<milliseconds>(milliseconds(at_ms)));
  if (period == Period::kDay) return {start(day), start(day + days(1))};
  const year_month_day date{day};
  const year_month month = date.year() / date.month();
  return {start(month / 1), start((month + months(1)) / 1)};
}

Status CheckBudget(const Budget& budget) {
  const auto bad = [](const char* field, std::string why) {
    return Fail(ErrorKind::kInvalid, "bad_budget", fmt::format("{}: {}", field, why), field);
  };
  if (budget.amount < Money{} || !budget.amount.FitsRow())
    return bad("amount", fmt::format("{} is not within 0 and 9223372036", budget.amount.ToString()));
  if (budget.thresholds.size() > 10) return bad("thresholds", "at most 10");
  for (size_t i = 0; i < budget.thresholds.size(); ++i) {
    const int32_t percent = budget.thresholds[i];
    if (percent < 1 || percent > 1000 || (i > 0 && percent <= budget.thresholds[i - 1]))
      return bad("thresholds", "must be whole percents, 1 to 1000, ascending");
  }
  return {};
}

}  // namespace tidepool::platform
