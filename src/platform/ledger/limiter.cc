#include "platform/ledger/limiter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tidepool::platform {
namespace {

constexpr int64_t kDayMs = 86'400'000;
constexpr int64_t kMinuteMs = 60'000;
constexpr size_t kPeriodsKept = 4;
constexpr size_t kMaxNotices = 10'000;
constexpr size_t kMaxRefusals = 10'000;

int64_t DayOf(int64_t at_ms) { return at_ms - at_ms % kDayMs; }

std::string WhomToAsk(ScopeKind kind) {
  return kind == ScopeKind::kOrganisation ? "ask the operator of this server for more"
                                          : "ask an owner or admin of your organisation for more";
}

// How much of a rule is left. Of an organisation's that would tell what its other workspaces used.
std::string Left(ScopeKind kind, std::string_view amount) {
  return kind == ScopeKind::kOrganisation ? "too little" : std::string(amount);
}

std::string RuleName(const Limit& limit) {
  return fmt::format("{} of {} for {}", limit.model == "*" ? "the limit" : "a limit", ScopeText(limit.scope),
                     limit.model == "*" ? "all models" : limit.model);
}

Error Busy(std::string code, std::string message, double retry_after_s) {
  return {.kind = ErrorKind::kOverloaded,
          .code = std::move(code),
          .message = std::move(message),
          .param = {},
          .retry_after_s = std::max(1.0, retry_after_s)};
}

double Capacity(int64_t per_minute, int64_t burst_s) {
  // A limit of 1 a minute with a burst of a second must still let one through.
  return std::max(per_minute > 0 ? 1.0 : 0.0,
                  static_cast<double>(per_minute) * static_cast<double>(burst_s) / 60);
}

template <typename Sets, typename Item>
void EraseFrom(Sets& sets, const std::string& name, const Item& item) {
  const auto it = sets.find(name);
  CHECK(it != sets.end());
  it->second.erase(item);
  if (it->second.empty()) sets.erase(it);
}

template <typename Map>
auto& PeriodEntry(Map& periods, int64_t start) {
  auto& entry = periods[start];
  while (periods.size() > kPeriodsKept) {
    // The oldest goes, unless it is the one asked for: a clock far in the past must not lose its count.
    const auto first = periods.begin();
    periods.erase(first->first == start ? std::prev(periods.end()) : first);
  }
  return entry;
}

}  // namespace

Limiter::Limiter(const Clock& clock, const WallClock& wall, const PriceBooks& books, QuotaDefaults quota)
    : clock_(clock), wall_(wall), books_(books), quota_defaults_(quota) {}

// ---- rules -------------------------------------------------------------------------------------------

void Limiter::SetLimit(const Limit& limit, int64_t used_today_tokens) {
  std::lock_guard lock(mutex_);
  const auto [it, added] = limits_.try_emplace({limit.scope, limit.model});
  LimitState& state = it->second;
  Refill(state);
  const Limit old = std::exchange(state.limit, limit);
  if (!added) EraseFrom(limits_in_, old.organisation, it->first);
  limits_in_[limit.organisation].insert(it->first);
  const Nanoseconds now = clock_.now();
  // A bucket keeps its level; one that begins, or grows, starts with what is new.
  const auto adopt = [&](Bucket& bucket, std::optional<int64_t> before, int64_t before_burst,
                         std::optional<int64_t> after) {
    const double capacity = after ? Capacity(*after, limit.burst_s) : 0;
    const double more = capacity - (before && !added ? Capacity(*before, before_burst) : 0);
    bucket.level = std::min(capacity, bucket.level + std::max(0.0, more));
    bucket.at = now;
  };
  adopt(state.requests, old.requests_per_minute, old.burst_s, limit.requests_per_minute);
  adopt(state.tokens, old.tokens_per_minute, old.burst_s, limit.tokens_per_minute);
  if (added) {
    PeriodEntry(state.day_tokens, DayOf(wall_.unix_ms())) = used_today_tokens;
    const auto concerns = [&](const AdmissionRequest& r) {
      const auto scopes = ScopesOf(r.payer);
      return std::find(scopes.begin(), scopes.end(), limit.scope) != scopes.end() &&
             (limit.model == "*" || limit.model == r.model);
    };
    // What runs already holds its place, and will be taken off again at its end.
    for (const auto& [id, held] : held_) {
      if (!concerns(held.request)) continue;
      ++state.concurrent;
      PeriodEntry(state.day_tokens, held.day_ms) += held.tokens;
    }
  }
}

bool Limiter::RemoveLimit(const Scope& scope, std::string_view model) {
  std::lock_guard lock(mutex_);
  const auto it = limits_.find({scope, std::string(model)});
  if (it == limits_.end()) return false;
  EraseFrom(limits_in_, it->second.limit.organisation, it->first);
  limits_.erase(it);
  return true;
}

std::vector<Limit> Limiter::limits(std::string_view organisation, const std::optional<LimitKey>& after,
                                   size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<Limit> page;
  if (organisation.empty()) {
    for (auto it = after ? limits_.upper_bound(*after) : limits_.begin();
         it != limits_.end() && page.size() < most; ++it)
      page.push_back(it->second.limit);
  } else if (const auto of = limits_in_.find(organisation); of != limits_in_.end()) {
    for (auto it = after ? of->second.upper_bound(*after) : of->second.begin();
         it != of->second.end() && page.size() < most; ++it)
      page.push_back(limits_.at(*it).limit);
  }
  return page;
}

std::optional<Limit> Limiter::FindLimit(const Scope& scope, std::string_view model) const {
  std::lock_guard lock(mutex_);
  const auto it = limits_.find({scope, std::string(model)});
  return it == limits_.end() ? std::nullopt : std::optional(it->second.limit);
}

void Limiter::SetBudget(const Budget& budget, const Amounts& spent) {
  std::lock_guard lock(mutex_);
  const auto [it, added] = budgets_.try_emplace(budget.id);
  BudgetEntry& entry = it->second;
  const bool same_count = !added && entry.budget.scope == budget.scope &&
                          entry.budget.period == budget.period && entry.budget.currency == budget.currency;
  if (!added) Unlist(entry);
  entry.budget = budget;
  budgets_of_[budget.scope].push_back(&entry);
  budgets_in_[budget.organisation].insert(budget.id);
  if (same_count) {
    for (auto& [start, use] : entry.periods) use.told = 0;
  } else {
    entry.periods.clear();
  }
  const int64_t start = PeriodBounds(budget.period, wall_.unix_ms()).first;
  BudgetUse& use = PeriodEntry(entry.periods, start);
  if (!same_count) {
    for (const auto& [currency, amount] : spent) {
      if (budget.Counts(currency)) {
        use.spent += amount;
      } else if (amount != Money{}) {
        use.not_counted[currency] = amount;
      }
    }
  }
  TellBudget(entry, start, use);
}

void Limiter::SetBudgetCurrencies(const std::string& currency) {
  std::lock_guard lock(mutex_);
  for (auto& [id, entry] : budgets_) {
    if (entry.budget.currency.empty()) entry.budget.currency = currency;
  }
}

bool Limiter::RemoveBudget(std::string_view id) {
  std::lock_guard lock(mutex_);
  const auto it = budgets_.find(id);
  if (it == budgets_.end()) return false;
  Unlist(it->second);
  budgets_.erase(it);
  return true;
}

void Limiter::Unlist(BudgetEntry& entry) {
  const auto it = budgets_of_.find(entry.budget.scope);
  CHECK(it != budgets_of_.end());
  std::erase(it->second, &entry);
  if (it->second.empty()) budgets_of_.erase(it);
  EraseFrom(budgets_in_, entry.budget.organisation, entry.budget.id);
}

std::optional<Limiter::BudgetState> Limiter::FindBudget(std::string_view id) const {
  std::lock_guard lock(mutex_);
  const auto it = budgets_.find(id);
  return it == budgets_.end() ? std::nullopt : std::optional(StateOf(it->second));
}

std::pair<size_t, size_t> Limiter::rules() const {
  std::lock_guard lock(mutex_);
  return {limits_.size(), budgets_.size()};
}

Limiter::BudgetState Limiter::StateOf(const BudgetEntry& entry) const {
  BudgetState state;
  state.budget = entry.budget;
  std::tie(state.from_ms, state.to_ms) = PeriodBounds(entry.budget.period, wall_.unix_ms());
  if (const auto use = entry.periods.find(state.from_ms); use != entry.periods.end()) {
    state.spent = use->second.spent;
    state.reserved = use->second.reserved;
    state.not_counted = use->second.not_counted;
  }
  return state;
}

std::vector<Limiter::BudgetState> Limiter::budgets(std::string_view organisation, std::string_view after_id,
                                                   size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<BudgetState> page;
  if (organisation.empty()) {
    for (auto it = budgets_.upper_bound(after_id); it != budgets_.end() && page.size() < most; ++it)
      page.push_back(StateOf(it->second));
  } else if (const auto of = budgets_in_.find(organisation); of != budgets_in_.end()) {
    for (auto it = of->second.upper_bound(after_id); it != of->second.end() && page.size() < most; ++it)
      page.push_back(StateOf(budgets_.at(*it)));
  }
  return page;
}

void Limiter::SetQuota(const FreeQuota& quota) {
  std::lock_guard lock(mutex_);
  QuotaState& state = quotas_[{quota.organisation, quota.model_version}];
  const bool renewed = state.quota.granted_ms != quota.granted_ms || state.quota.total != quota.total;
  state.quota = quota;
  if (renewed) state.told_low = state.told_empty = false;
}

std::vector<FreeQuota> Limiter::quotas(std::string_view organisation, std::string_view after_version,
                                       size_t most) const {
  std::lock_guard lock(mutex_);
  std::vector<FreeQuota> page;
  // A quota has a version: none is at the empty one.
  for (auto it = quotas_.upper_bound({std::string(organisation), std::string(after_version)});
       it != quotas_.end() && page.size() < most; ++it) {
    if (!organisation.empty() && it->first.first != organisation) break;
    page.push_back(it->second.quota);
  }
  return page;
}

std::optional<FreeQuota> Limiter::FindQuota(std::string_view organisation,
                                            std::string_view model_version) const {
  std::lock_guard lock(mutex_);
  const auto it = quotas_.find({std::string(organisation), std::string(model_version)});
  if (it == quotas_.end()) return std::nullopt;
  return it->second.quota;
}

// ---- what concerns a request -------------------------------------------------------------------------

std::vector<Limiter::LimitState*> Limiter::LimitsFor(const AdmissionRequest& request) {
  std::vector<LimitState*> found;
  if (limits_.empty()) return found;
  for (const Scope& scope : ScopesOf(request.payer)) {
    for (const std::string& model : {std::string("*"), request.model}) {
      const auto it = limits_.find({scope, model});
      if (it == limits_.end()) continue;
      Refill(it->second);
      found.push_back(&it->second);
    }
  }
  return found;
}

std::vector<Limiter::BudgetEntry*> Limiter::BudgetsFor(const Payer& payer) {
  std::vector<BudgetEntry*> found;
  if (budgets_of_.empty()) return found;
  for (const Scope& scope : ScopesOf(payer)) {
    const auto of = budgets_of_.find(scope);
    if (of != budgets_of_.end()) found.insert(found.end(), of->second.begin(), of->second.end());
  }
  return found;
}

// Granted by the first use. nullptr: none (batch work has none; expired; no version to tell models apart).
Limiter::QuotaState* Limiter::QuotaFor(const AdmissionRequest& request, int64_t now_ms) {
  if (request.batch || request.model_version.empty()) return nullptr;
  const std::pair key{request.payer.organisation, request.model_version};
  auto it = quotas_.find(key);
  if (it == quotas_.end()) {
    if (quota_defaults_.tokens <= 0) return nullptr;
    QuotaState state;
    state.quota = {.organisation = request.payer.organisation,
                   .model_version = request.model_version,
                   .model = request.model,
                   .total = quota_defaults_.tokens,
                   .used = 0,
                   .granted_ms = now_ms,
                   .expires_ms = now_ms + quota_defaults_.validity_days * kDayMs,
                   .stop_when_exhausted = quota_defaults_.stop_when_exhausted};
    new_quotas_.push_back(state.quota);
    it = quotas_.emplace(key, std::move(state)).first;
  }
  return &it->second;
}

void Limiter::Refill(LimitState& state) {
  const Nanoseconds now = clock_.now();
  const auto refill = [&](Bucket& bucket, const std::optional<int64_t>& per_minute) {
    if (per_minute && now > bucket.at) {
      const double seconds = static_cast<double>(now - bucket.at) * 1e-9;
      bucket.level = std::min(Capacity(*per_minute, state.limit.burst_s),
                              bucket.level + seconds * static_cast<double>(*per_minute) / 60);
    }
    bucket.at = std::max(bucket.at, now);
  };
  refill(state.requests, state.limit.requests_per_minute);
  refill(state.tokens, state.limit.tokens_per_minute);
}

void Limiter::FillRates(const std::vector<LimitState*>& limits, RateState& rates) {
  const auto tightest = [](std::optional<RateState::Window>& window, const std::optional<int64_t>& per_minute,
                           const Bucket& bucket, int64_t burst_s) {
    if (!per_minute) return;
    const double capacity = Capacity(*per_minute, burst_s);
    RateState::Window next;
    next.limit = *per_minute;
    next.remaining = static_cast<int64_t>(std::max(0.0, std::floor(bucket.level)));
    next.reset_s = *per_minute > 0 ? (capacity - bucket.level) * 60 / static_cast<double>(*per_minute) : 0;
    const auto share = [](const RateState::Window& w) {
      return w.limit > 0 ? static_cast<double>(w.remaining) / static_cast<double>(w.limit) : 0;
    };
    if (!window || share(next) < share(*window)) window = next;
  };
  for (const LimitState* state : limits) {
    tightest(rates.requests, state->limit.requests_per_minute, state->requests, state->limit.burst_s);
    tightest(rates.tokens, state->limit.tokens_per_minute, state->tokens, state->limit.burst_s);
  }
}

Error Limiter::Refused(const AdmissionRequest& request, Error error) {
  const int64_t minute = wall_.unix_ms() / kMinuteMs * kMinuteMs;
  const Payer& payer = request.payer;
  const std::pair key{minute, fmt::format("{}\n{}\n{}\n{}\n{}", payer.organisation, payer.workspace,
                                          payer.key, request.model, error.code)};
  const auto it = refusals_.find(key);
  if (it != refusals_.end()) {
    ++it->second.count;
  } else if (refusals_.size() < kMaxRefusals) {
    refusals_.emplace(key, Refusal{minute, payer, request.model, error.code, 1});
  } else {
    ++refusals_dropped_;
  }
  return error;
}

// ---- admission ---------------------------------------------------------------------------------------

// The most each choice may put out. A client that named no maximum gets what its limits can ever allow.
Result<int64_t> Limiter::LowerOutput(const AdmissionRequest& request,
                                     const std::vector<LimitState*>& limits) {
  int64_t output = request.max_output_tokens;
  for (const LimitState* state : limits) {
    const Limit& limit = state->limit;
    if (limit.max_output_tokens && output > *limit.max_output_tokens) {
      if (!request.may_lower_output || *limit.max_output_tokens == 0) {
        return Fail(ErrorKind::kInvalid, "max_output_limit_exceeded",
                    fmt::format("max_tokens is {}, but {} allows {}; lower it, or {}", output,
                                RuleName(limit), *limit.max_output_tokens, WhomToAsk(limit.scope.kind)),
                    "max_tokens");
      }
      output = *limit.max_output_tokens;
    }
    if (limit.context_length && request.prompt_tokens + output > *limit.context_length) {
      const int64_t room = *limit.context_length - request.prompt_tokens;
      if (!request.may_lower_output || room < 1) {
        return Fail(
            ErrorKind::kInvalid, "context_limit_exceeded",
            fmt::format("the prompt has {} tokens and max_tokens is {}, but {} allows a context of {}; "
                        "shorten it, or {}",
                        request.prompt_tokens, output, RuleName(limit), *limit.context_length,
                        WhomToAsk(limit.scope.kind)),
            "prompt");
      }
      output = room;
    }
    if (request.may_lower_output && limit.tokens_per_minute && output > 0) {
      const auto most = static_cast<int64_t>(Capacity(*limit.tokens_per_minute, limit.burst_s));
      const int64_t room = (most - request.prompt_tokens) / std::max(1, request.choices);
      if (room >= 1) output = std::min(output, room);
    }
  }
  return output;
}

Status Limiter::CheckAll(const std::vector<LimitState*>& limits, int64_t tokens, bool only_possible) {
  const int64_t now_ms = wall_.unix_ms();
  for (LimitState* state : limits) {
    const Limit& limit = state->limit;
    if (limit.concurrent_requests && state->concurrent >= *limit.concurrent_requests) {
      return Fail(
          Busy("rate_limit_exceeded",
               fmt::format("as many requests run as {} allows at a time, {}; wait for one to end, or {}",
                           RuleName(limit), *limit.concurrent_requests, WhomToAsk(limit.scope.kind)),
               1));
    }
    if (limit.requests_per_minute && state->requests.level < 1) {
      const auto rate = static_cast<double>(*limit.requests_per_minute) / 60;
      return Fail(
          Busy("rate_limit_exceeded",
               fmt::format("{} allows {} requests a minute and they are used up; try again later, or {}",
                           RuleName(limit), *limit.requests_per_minute, WhomToAsk(limit.scope.kind)),
               rate > 0 ? (1 - state->requests.level) / rate : 3600));
    }
    if (limit.tokens_per_minute) {
      const double capacity = Capacity(*limit.tokens_per_minute, limit.burst_s);
      const auto wanted = static_cast<double>(tokens);
      if (!only_possible && wanted > capacity) {
        return Fail(
            ErrorKind::kTooLarge, "request_exceeds_limit",
            fmt::format("the prompt and max_tokens make {} tokens, more than {} ever lets through at once "
                        "({}); shorten them, or {}",
                        tokens, RuleName(limit), static_cast<int64_t>(capacity), WhomToAsk(limit.scope.kind)),
            "max_tokens");
      }
      if (state->tokens.level < wanted) {
        const auto rate = static_cast<double>(*limit.tokens_per_minute) / 60;
        return Fail(
            Busy("rate_limit_exceeded",
                 fmt::format(
                     "{} tokens are wanted (prompt and max_tokens), {} allows {} a minute and has {} left; "
                     "try again later, ask for fewer, or {}",
                     tokens, RuleName(limit), *limit.tokens_per_minute,
                     Left(limit.scope.kind,
                          fmt::to_string(static_cast<int64_t>(std::max(0.0, state->tokens.level)))),
                     WhomToAsk(limit.scope.kind)),
                 rate > 0 ? (wanted - state->tokens.level) / rate : 3600));
      }
    }
    if (limit.tokens_per_day) {
      const int64_t used = PeriodEntry(state->day_tokens, DayOf(now_ms));
      if (used + tokens > *limit.tokens_per_day) {
        return Fail(Busy(
            "quota_exhausted",
            fmt::format(
                "{} tokens are wanted, {} allows {} a day (UTC) and has {} left (what runs is "
                "reserved); wait for tomorrow, ask for fewer, or {}",
                tokens, RuleName(limit), *limit.tokens_per_day,
                Left(limit.scope.kind, fmt::to_string(std::max<int64_t>(0, *limit.tokens_per_day - used))),
                WhomToAsk(limit.scope.kind)),
            static_cast<double>(DayOf(now_ms) + kDayMs - now_ms) / 1000));
      }
    }
  }
  return {};
}

Status Limiter::Check(const AdmissionRequest& request, RateState* rates) {
  std::lock_guard lock(mutex_);
  const auto limits = LimitsFor(request);
  auto possible = CheckAll(limits, 1, /*only_possible=*/true);
  if (possible) return {};
  if (rates != nullptr) FillRates(limits, *rates);
  return Fail(Refused(request, std::move(possible).error()));
}

Result<Reservation> Limiter::Reserve(const AdmissionRequest& request, RateState* rates) {
  std::lock_guard lock(mutex_);
  const int64_t now_ms = wall_.unix_ms();
  const auto limits = LimitsFor(request);
  const auto refuse = [&](Error error) {
    if (rates != nullptr) FillRates(limits, *rates);
    return Fail(Refused(request, std::move(error)));
  };
  Result<int64_t> output = request.embeds ? 0 : LowerOutput(request, limits);
  if (!output) return refuse(output.error());
  Held held;
  held.request = request;
  held.tokens = request.prompt_tokens + *output * request.choices;
  held.day_ms = DayOf(now_ms);
  held.book = books_.At(now_ms);
  if (auto possible = CheckAll(limits, held.tokens, false); !possible) return refuse(possible.error());

  QuotaState* quota = QuotaFor(request, now_ms);
  if (quota != nullptr) {
    const FreeQuota& q = quota->quota;
    const bool valid = now_ms < q.expires_ms;
    const int64_t left = valid ? std::max<int64_t>(0, q.total - q.used - quota->reserved) : 0;
    if (q.stop_when_exhausted && left < held.tokens) {
      return refuse(Busy(
          "quota_exhausted",
          fmt::format(
              "{} tokens are wanted, but the free quota of {} for {} has too little of its {} left{}; an "
              "admin of the organisation can turn off \"stop when exhausted\" to go on at the price list",
              held.tokens, q.organisation, q.model, q.total,
              valid ? "" : fmt::format(" (it ended on {})", TimeText(q.expires_ms))),
          3600));
    }
    held.quota_tokens = std::min(left, held.tokens);
  }
  const PriceRequest most{.organisation = request.payer.organisation,
                          .model = request.model,
                          .embeds = request.embeds,
                          .batch = request.batch,
                          .status = UsageStatus::kDone,
                          .tokens = {.prompt = request.prompt_tokens,
                                     .cached = 0,
                                     .output = *output * request.choices,
                                     .reasoning = 0},
                          .free_tokens = held.quota_tokens};
  held.cost = PriceOf(*held.book, most).amount;
  // Reasoning may cost more than other output: the reservation must bound both.
  PriceRequest reasoning = most;
  reasoning.tokens.reasoning = reasoning.tokens.output;
  held.cost = std::max(held.cost, PriceOf(*held.book, reasoning).amount);
  for (BudgetEntry* entry : BudgetsFor(request.payer)) {
    if (!entry->budget.Counts(held.book->currency)) continue;
    const auto [from, to] = PeriodBounds(entry->budget.period, now_ms);
    const BudgetUse& use = PeriodEntry(entry->periods, from);
    const Money after = use.spent + use.reserved + held.cost;
    const bool spent = held.cost > Money{} && after > entry->budget.amount;
    if (entry->budget.block && spent) {
      return refuse(Busy(
          "budget_exhausted",
          fmt::format("this request may cost {}, but the budget of {} for {} has {} of {} {} left (what runs "
                      "is reserved); lower max_tokens, or {}",
                      held.cost.ToString(), PeriodName(entry->budget.period), ScopeText(entry->budget.scope),
                      Left(entry->budget.scope.kind,
                           std::max(Money{}, entry->budget.amount - use.spent - use.reserved).ToString()),
                      entry->budget.amount.ToString(), held.book->currency,
                      WhomToAsk(entry->budget.scope.kind)),
          static_cast<double>(to - now_ms) / 1000));
    }
  }

  // Nothing refuses it: take everything.
  for (LimitState* state : limits) {
    if (state->limit.requests_per_minute) state->requests.level -= 1;
    if (state->limit.tokens_per_minute) state->tokens.level -= static_cast<double>(held.tokens);
    ++state->concurrent;
    PeriodEntry(state->day_tokens, held.day_ms) += held.tokens;
  }
  if (quota != nullptr) quota->reserved += held.quota_tokens;
  for (BudgetEntry* entry : BudgetsFor(request.payer)) {
    if (!entry->budget.Counts(held.book->currency)) continue;
    const int64_t start = PeriodBounds(entry->budget.period, now_ms).first;
    PeriodEntry(entry->periods, start).reserved += held.cost;
    held.budgets.emplace_back(entry->budget.id, start);
  }
  Reservation reservation;
  reservation.id = next_id_++;
  reservation.max_output_tokens = *output;
  reservation.book = held.book;
  FillRates(limits, reservation.rates);
  if (rates != nullptr) *rates = reservation.rates;
  held_.emplace(reservation.id, std::move(held));
  return reservation;
}

// ---- the end -----------------------------------------------------------------------------------------

Settlement Limiter::Settle(const Reservation& reservation, UsageStatus status, const BillableTokens& tokens) {
  std::lock_guard lock(mutex_);
  const auto it = held_.find(reservation.id);
  CHECK(it != held_.end());
  const Held held = std::move(it->second);
  held_.erase(it);
  for (LimitState* state : LimitsFor(held.request)) {
    state->concurrent = std::max<int64_t>(0, state->concurrent - 1);
    const int64_t unused = held.tokens - tokens.total();  // negative only if the engine broke its bound
    if (state->limit.tokens_per_minute) {
      state->tokens.level = std::min(Capacity(*state->limit.tokens_per_minute, state->limit.burst_s),
                                     state->tokens.level + static_cast<double>(unused));
    }
    PeriodEntry(state->day_tokens, held.day_ms) -= unused;
  }
  if (const auto quota = quotas_.find({held.request.payer.organisation, held.request.model_version});
      quota != quotas_.end()) {
    quota->second.reserved = std::max<int64_t>(0, quota->second.reserved - held.quota_tokens);
  }
  for (const auto& [id, start] : held.budgets) {
    const auto entry = budgets_.find(id);
    if (entry == budgets_.end()) continue;
    BudgetUse& use = PeriodEntry(entry->second.periods, start);
    use.reserved = std::max(Money{}, use.reserved - held.cost);
  }
  return Spend(held.request, *held.book, status, tokens, wall_.unix_ms());
}

void Limiter::Release(const Reservation& reservation) {
  {
    std::lock_guard lock(mutex_);
    const auto it = held_.find(reservation.id);
    CHECK(it != held_.end());
    for (LimitState* state : LimitsFor(it->second.request)) {
      if (!state->limit.requests_per_minute) continue;
      state->requests.level = std::min(Capacity(*state->limit.requests_per_minute, state->limit.burst_s),
                                       state->requests.level + 1);
    }
  }
  Settle(reservation, UsageStatus::kCancelled, {});
}

Settlement Limiter::Account(const Payer& payer, const std::string& model, const std::string& model_version,
                            bool embeds, bool batch, const PriceBook& book, UsageStatus status,
                            const BillableTokens& tokens) {
  std::lock_guard lock(mutex_);
  AdmissionRequest request;
  request.payer = payer;
  request.model = model;
  request.model_version = model_version;
  request.embeds = embeds;
  request.batch = batch;
  return Spend(request, book, status, tokens, wall_.unix_ms());
}

Settlement Limiter::Spend(const AdmissionRequest& request, const PriceBook& book, UsageStatus status,
                          const BillableTokens& tokens, int64_t now_ms) {
  Settlement settlement;
  PriceRequest price{.organisation = request.payer.organisation,
                     .model = request.model,
                     .embeds = request.embeds,
                     .batch = request.batch,
                     .status = status,
                     .tokens = tokens,
                     .free_tokens = 0};
  QuotaState* quota = QuotaFor(request, now_ms);
  const bool waived = PriceOf(book, price).billing == Billing::kWaived;
  if (quota != nullptr && now_ms < quota->quota.expires_ms && !waived) {
    settlement.free_tokens =
        std::clamp<int64_t>(quota->quota.total - quota->quota.used - quota->reserved, 0, tokens.total());
    quota->quota.used += settlement.free_tokens;
    TellQuota(*quota);
  }
  price.free_tokens = settlement.free_tokens;
  settlement.priced = PriceOf(book, price);
  for (BudgetEntry* entry : BudgetsFor(request.payer)) {
    const int64_t start = PeriodBounds(entry->budget.period, now_ms).first;
    BudgetUse& use = PeriodEntry(entry->periods, start);
    const Money amount = settlement.priced.amount;
    if (entry->budget.Counts(book.currency)) {
      use.spent += amount;
      TellBudget(*entry, start, use);
    } else if (amount != Money{}) {
      use.not_counted[book.currency] += amount;
    }
  }
  return settlement;
}

void Limiter::TellBudget(BudgetEntry& entry, int64_t period_ms, BudgetUse& use) {
  for (const int32_t threshold : entry.budget.thresholds) {
    if (threshold <= use.told || entry.budget.amount == Money{}) continue;
    if (use.spent.nanos * 100 < entry.budget.amount.nanos * threshold) break;
    use.told = threshold;
    if (notices_.size() >= kMaxNotices) continue;
    notices_.push_back({.kind = Notice::Kind::kBudget,
                        .organisation = entry.budget.organisation,
                        .subject = entry.budget.id,
                        .name = ScopeText(entry.budget.scope),
                        .period_ms = period_ms,
                        .threshold = threshold,
                        .limit = entry.budget.amount.ToString(),
                        .used = use.spent.ToString(),
                        .currency = entry.budget.currency});
  }
}

void Limiter::TellQuota(QuotaState& state) {
  const FreeQuota& quota = state.quota;
  const int64_t left = quota.total - quota.used;
  const auto tell = [&](bool& told, int32_t threshold) {
    if (told || notices_.size() >= kMaxNotices) return;
    told = true;
    notices_.push_back({.kind = Notice::Kind::kQuota,
                        .organisation = quota.organisation,
                        .subject = quota.model_version,
                        .name = quota.model,
                        .period_ms = quota.granted_ms,
                        .threshold = threshold,
                        .limit = fmt::to_string(quota.total),
                        .used = fmt::to_string(quota.used),
                        .currency = {}});
  };
  if (quota.total == 0) return;  // nothing was given
  if (left * 5 <= quota.total) tell(state.told_low, 20);
  if (left <= 0) tell(state.told_empty, 0);
}

// ---- what is taken out -------------------------------------------------------------------------------

std::vector<Notice> Limiter::TakeNotices() {
  std::lock_guard lock(mutex_);
  return std::exchange(notices_, {});
}

std::vector<FreeQuota> Limiter::TakeNewQuotas() {
  std::lock_guard lock(mutex_);
  return std::exchange(new_quotas_, {});
}

std::vector<Refusal> Limiter::TakeRefusals(bool flush) {
  std::lock_guard lock(mutex_);
  const int64_t minute = wall_.unix_ms() / kMinuteMs * kMinuteMs;
  std::vector<Refusal> taken;
  std::erase_if(refusals_, [&](auto& entry) {
    // After a jump back a minute may lie ahead: it has passed as well.
    if (!flush && entry.first.first == minute) return false;
    taken.push_back(std::move(entry.second));
    return true;
  });
  return taken;
}

size_t Limiter::refusals_dropped() const {
  std::lock_guard lock(mutex_);
  return refusals_dropped_;
}

}  // namespace tidepool::platform
