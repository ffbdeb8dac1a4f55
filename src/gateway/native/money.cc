// What may be used and what it costs: limits, free quotas, budgets, prices, webhooks.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "gateway/native/ledger_call.h"
#include "gateway/native/ledger_handlers.h"
#include "platform/inference/metering.h"

namespace tidepool::gateway::native {

using openai::Field;
using openai::FieldType;
using openai::Treatment;
using platform::Role;
using platform::ScopeKind;

Result<std::string> OwnerOfScope(const Call& call, const platform::Scope& scope) {
  switch (scope.kind) {
    case ScopeKind::kOrganisation: {
      TP_ASSIGN(const auto found, call.accounts().FindOrganisation(call.caller, scope.id));
      return found.id;
    }
    case ScopeKind::kWorkspace: {
      TP_ASSIGN(const auto found, call.accounts().FindWorkspace(call.caller, scope.id));
      return found.organisation;
    }
    case ScopeKind::kKey: {
      TP_ASSIGN(const auto found, call.accounts().FindKey(call.caller, scope.id));
      return found.organisation;
    }
  }
  return Fail(ErrorKind::kInternal, "bad_scope", "an unknown kind of scope");
}

Status CheckMayRule(const Call& call, const platform::Scope& scope) {
  const platform::Principal& p = call.caller.principal;
  if (p.is_operator) return {};
  if (scope.kind == ScopeKind::kOrganisation) {
    return Fail(
        ErrorKind::kForbidden, "role_too_low",
        "What an organisation may use is the operator's to set; an admin sets it for workspaces and keys.");
  }
  if (IsOrganisationAdmin(p)) return {};
  if (scope.kind == ScopeKind::kKey && p.role == Role::kWorkspaceAdmin) {
    TP_ASSIGN(const auto key, call.accounts().FindKey(call.caller, scope.id));
    if (key.workspace == p.workspace) return {};
  }
  return Fail(ErrorKind::kForbidden, "role_too_low",
              "This needs an owner or admin of the organisation (a workspace's admin may rule its keys).");
}

namespace {

constexpr double kMost = 1e15;
constexpr Field kLimitFields[] = {
    {"scope", FieldType::kString, Treatment::kRead, "organisation:ID, workspace:ID or key:ID"},
    {"model", FieldType::kString, Treatment::kRead,
     "a stored model's id; \"*\" (default): all models together"},
    {"requests_per_minute", FieldType::kInteger, Treatment::kRead, "not given: no limit; 0 forbids", 0,
     kMost},
    {"tokens_per_minute", FieldType::kInteger, Treatment::kRead, "prompt and output", 0, kMost},
    {"tokens_per_day", FieldType::kInteger, Treatment::kRead, "prompt and output, UTC", 0, kMost},
    {"concurrent_requests", FieldType::kInteger, Treatment::kRead, "that run or wait", 0, kMost},
    {"context_length", FieldType::kInteger, Treatment::kRead, "prompt and most output of a request", 0,
     kMost},
    {"max_output_tokens", FieldType::kInteger, Treatment::kRead, "of each choice", 0, kMost},
    {"burst_s", FieldType::kInteger, Treatment::kRead, "how many seconds' worth may come at once; default 60",
     1, 3600}};
constexpr Field kQuotaFields[] = {
    {"model", FieldType::kString, Treatment::kRead,
     "its stored name, or the name the quota was first used under"},
    {"organisation", FieldType::kString, Treatment::kRead,
     "the caller's if not given (others: the operator's)"},
    {"stop_when_exhausted", FieldType::kBoolean, Treatment::kRead,
     "true: refuse requests beyond the quota; false: go on at the price list"},
    {"total", FieldType::kInteger, Treatment::kRead, "tokens; the operator's to set", 0, kMost},
    {"expires_at", FieldType::kInteger, Treatment::kRead, "seconds since 1970; the operator's to set"}};
constexpr Field kBudgetFields[] = {
    {"scope", FieldType::kString, Treatment::kRead, "organisation:ID, workspace:ID or key:ID"},
    {"period", FieldType::kString, Treatment::kRead, "day or month (default), UTC"},
    {"amount", FieldType::kString, Treatment::kRead, "a decimal"},
    {"currency", FieldType::kString, Treatment::kRead,
     "of the amount, and of what counts; some price book's. Not given: as it was, or that of the book in "
     "force"},
    {"thresholds", FieldType::kArray, Treatment::kRead,
     "percents at which the organisation's webhook is told; default 50, 80, 100"},
    {"block", FieldType::kBoolean, Treatment::kRead, "refuse what could go beyond (default), or only tell"}};
constexpr Field kPriceBookFields[] = {
    {"currency", FieldType::kString, Treatment::kRead, "ISO 4217: \"EUR\""},
    {"valid_from", FieldType::kString, Treatment::kRead, "\"2026-12-01T00:00:00Z\"; not given: at once"},
    {"valid_to", FieldType::kString, Treatment::kRead, "exclusive; not given or null: for ever"},
    {"note", FieldType::kString, Treatment::kRead, "at most 1000 bytes"},
    {"charge_failed", FieldType::kBoolean, Treatment::kRead, "charge requests that failed by our fault"},
    {"models", FieldType::kArray, Treatment::kRead,
     "[{model or \"*\", tiers: [{up_to, input, cached_input, output, reasoning_output}], embedding, "
     "batch_factor, "
     "minimum_charge}]; prices are decimal strings for a million tokens"},
    {"discounts", FieldType::kArray, Treatment::kRead, "[{organisation, factor}]"}};
constexpr Field kDryRunFields[] = {
    {"book", FieldType::kObject, Treatment::kRead, "a price book, as POST /api/v1/prices takes it"},
    {"month", FieldType::kString, Treatment::kRead, "\"2026-10\"; last month if not given"},
    {"organisation", FieldType::kString, Treatment::kRead, "all if not given"}};
constexpr Field kWebhookFields[] = {
    {"url", FieldType::kString, Treatment::kRead, "https://..., told of budgets and quotas by signed POSTs"}};

// What the caller may see of rules: an operator all, an admin the organisation's, others what binds them.
bool Sees(const Call& call, const platform::Scope& scope, const std::string& organisation) {
  const platform::Principal& p = call.caller.principal;
  if (p.is_operator) return true;
  if (organisation != p.organisation) return false;
  if (IsOrganisationAdmin(p) || scope.kind == ScopeKind::kOrganisation) return true;
  if (scope.kind == ScopeKind::kWorkspace) return scope.id == p.workspace;
  if (scope.id == p.key) return true;
  return p.role == Role::kWorkspaceAdmin && call.accounts().FindKey(call.caller, scope.id).has_value();
}

Result<platform::Scope> ScopeField(const Call& call) {
  TP_ASSIGN(const std::string text, call.Required("scope"));
  return platform::ParseScope(text);
}

// What an organisation has spent is the sum of its workspaces: members of one see what binds them, not that.
Json BudgetStateJson(const Call& call, const platform::Limiter::BudgetState& state) {
  const bool of_others =
      state.budget.scope.kind == ScopeKind::kOrganisation && !IsOrganisationAdmin(call.caller.principal);
  Json out = platform::BudgetJson(state.budget);
  out["spent"] = of_others ? Json(nullptr) : Json(state.spent.ToString());
  out["reserved"] = of_others ? Json(nullptr) : Json(state.reserved.ToString());
  out["not_counted"] = of_others ? Json(nullptr) : Json::object();
  if (!of_others) {
    for (const auto& [currency, amount] : state.not_counted) out["not_counted"][currency] = amount.ToString();
  }
  out["from"] = platform::TimeText(state.from_ms);
  out["to"] = platform::TimeText(state.to_ms);
  return out;
}

// The same of what was free: how things stand, and what the caller's own workspace used of it.
Json QuotaOf(const Call& call, platform::Accounting& accounting, const platform::FreeQuota& quota,
             int64_t workspace_used) {
  Json out = platform::QuotaJson(quota);
  if (!IsOrganisationAdmin(call.caller.principal)) out["used"] = out["remaining"] = nullptr;
  out["state"] = platform::QuotaStateName(quota, accounting.now_ms());
  out["workspace_used"] = workspace_used;
  return out;
}

// Spending less than it may is an organisation's own business: its admins set budgets for all of it.
Status CheckMayBudget(const Call& call, const platform::Scope& scope) {
  if (scope.kind == ScopeKind::kOrganisation && IsOrganisationAdmin(call.caller.principal)) return {};
  return CheckMayRule(call, scope);
}

Result<platform::Budget> ReadBudget(Call& call) {
  TP_TRY(call.ReadBody(kBudgetFields));
  platform::Budget budget;
  TP_ASSIGN(budget.scope, ScopeField(call));
  TP_ASSIGN(budget.organisation, OwnerOfScope(call, budget.scope));
  TP_TRY(CheckMayBudget(call, budget.scope));
  if (const auto period = call.String("period")) {
    TP_ASSIGN(budget.period, platform::ParsePeriod(*period));
  }
  TP_ASSIGN(const std::string amount, call.Required("amount"));
  const auto money = platform::Money::Parse(amount);
  if (!money) return Fail(openai::BadField("amount", money.error().message, money.error().code));
  budget.amount = *money;
  budget.currency = call.String("currency").value_or("");
  if (call.Has("thresholds") && call.body()["thresholds"].is_array()) {
    budget.thresholds.clear();
    for (const Json& item : call.body()["thresholds"]) {
      if (!item.is_number_integer() || item < 1 || item > 1000)
        return Fail(openai::BadField("thresholds", "thresholds must be whole percents, 1 to 1000."));
      budget.thresholds.push_back(item.get<int32_t>());
    }
  }
  budget.block = call.Boolean("block").value_or(true);
  return budget;
}

// Whose rules a caller may see any of: "" is everybody's.
std::string Whose(const Call& call) {
  return call.caller.principal.is_operator ? std::string() : call.caller.principal.organisation;
}

Result<platform::Limiter::BudgetState> FindBudget(const Call& call, platform::Accounting& accounting,
                                                  const std::string& id) {
  auto state = accounting.limiter().FindBudget(id);
  if (state && Sees(call, state->budget.scope, state->budget.organisation)) return std::move(*state);
  return Fail(ErrorKind::kNotFound, "budget_not_found",
              fmt::format("There is no budget \"{}\".", id.substr(0, 100)));
}

// A body of another shape than its schema was refused; times left out mean now.
Result<platform::PriceBook> ReadBook(const Json& json, int64_t now_ms) {
  TP_ASSIGN(platform::PriceBook book, platform::ParsePriceBook(json));
  if (!json.contains("valid_from") || json["valid_from"].is_null()) book.valid_from_ms = now_ms;
  return book;
}

Json DryRunJson(const platform::DryRun& run) {
  Json out{{"from", platform::TimeText(run.from_ms)},
           {"to", platform::TimeText(run.to_ms)},
           {"requests", run.rows},
           {"currency", run.currency},
           {"would_be", run.would_be.ToString()}};
  PutAmounts(out, run.was, "was");
  out["data"] = Json::array();
  for (const platform::DryRunLine& line : run.lines) {
    Json item{{"model", line.model}, {"requests", line.requests}, {"would_be", line.would_be.ToString()}};
    PutAmounts(item, line.was, "was");
    out["data"].push_back(std::move(item));
  }
  return out;
}

// A page of rules that have names in a fixed order. `following` gives those after a name, at most `most`; it
// is asked until enough of them are the caller's to see. A cursor names only what was shown.
template <typename Rule>
struct RuleList {
  std::function<Result<std::vector<Rule>>(const std::string& after, size_t most)> following;
  std::function<std::string(const Rule&)> name;
  std::function<bool(const Rule&)> shown;
  std::function<Json(const Rule&)> encode;
};

template <typename Rule>
Result<Json> PageOf(const Call& call, const RuleList<Rule>& list) {
  constexpr size_t kAtATime = 256;
  TP_ASSIGN(const platform::Page page, call.Page());
  TP_ASSIGN(std::string after, platform::TextOfCursor(page.after));
  std::string last;
  Json data = Json::array();
  while (true) {
    TP_ASSIGN(const std::vector<Rule> rules, list.following(after, kAtATime));
    for (const Rule& rule : rules) {
      after = list.name(rule);
      if (!list.shown(rule)) continue;
      if (std::ssize(data) == page.limit) return ListJson(std::move(data), platform::CursorOf(last));
      data.push_back(list.encode(rule));
      last = after;
    }
    if (rules.size() < kAtATime) return ListJson(std::move(data), "");
  }
}

tl::unexpected<Error> NoCursor() {
  return Fail(openai::BadField("after", "after must be next_cursor of the page before.", "bad_cursor"));
}

Result<int64_t> VersionNamed(const std::string& name) {
  int64_t version = 0;
  const auto [end, problem] = std::from_chars(name.data(), name.data() + name.size(), version);
  if (name.empty() || (problem == std::errc() && end == name.data() + name.size())) return version;
  return NoCursor();
}

// "key:key-1 qwen3:4b": a scope that exists has no space in it.
std::string LimitName(const platform::Limit& limit) { return ScopeText(limit.scope) + " " + limit.model; }
Result<std::optional<platform::Limiter::LimitKey>> LimitNamed(const std::string& name) {
  if (name.empty()) return std::optional<platform::Limiter::LimitKey>();
  const size_t space = std::min(name.find(' '), name.size());
  auto scope = platform::ParseScope(std::string_view(name).substr(0, space));
  if (!scope) return NoCursor();
  return std::optional(
      platform::Limiter::LimitKey{std::move(*scope), name.substr(std::min(space + 1, name.size()))});
}

}  // namespace

// ---- limits ------------------------------------------------------------------------------------------

void ListLimits(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    std::optional<platform::Scope> scope;
    if (const std::string text = call.Query("scope"); !text.empty()) {
      TP_ASSIGN(scope, platform::ParseScope(text));
    }
    const std::string model = call.Query("model");
    return PageOf<platform::Limit>(
        call,
        {.following = [&](const std::string& name, size_t most) -> Result<std::vector<platform::Limit>> {
           TP_ASSIGN(const auto after, LimitNamed(name));
           return accounting.limiter().limits(Whose(call), after, most);
         },
         .name = LimitName,
         .shown =
             [&](const platform::Limit& limit) {
               return (!scope || limit.scope == *scope) && (model.empty() || limit.model == model) &&
                      Sees(call, limit.scope, limit.organisation);
             },
         .encode = platform::LimitJson});
  });
}

void PutLimit(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kLimitFields));
    platform::Limit limit;
    TP_ASSIGN(limit.scope, ScopeField(call));
    TP_ASSIGN(limit.organisation, OwnerOfScope(call, limit.scope));
    TP_TRY(CheckMayRule(call, limit.scope));
    limit.model = call.String("model").value_or("*");
    limit.requests_per_minute = call.Integer("requests_per_minute");
    limit.tokens_per_minute = call.Integer("tokens_per_minute");
    limit.tokens_per_day = call.Integer("tokens_per_day");
    limit.concurrent_requests = call.Integer("concurrent_requests");
    limit.context_length = call.Integer("context_length");
    limit.max_output_tokens = call.Integer("max_output_tokens");
    limit.burst_s = call.Integer("burst_s").value_or(60);
    TP_TRY(accounting.SetLimit(call.caller.actor, limit));
    return platform::LimitJson(limit);
  });
}

void DeleteLimit(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const platform::Scope scope, platform::ParseScope(call.Query("scope")));
    TP_TRY(OwnerOfScope(call, scope));
    TP_TRY(CheckMayRule(call, scope));
    const std::string model = call.Query("model").empty() ? "*" : call.Query("model");
    TP_TRY(accounting.RemoveLimit(call.caller.actor, scope, model));
    return Json{{"scope", platform::ScopeText(scope)}, {"model", model}, {"deleted", true}};
  });
}

// ---- free quotas -------------------------------------------------------------------------------------

void ListQuotas(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const std::string organisation, OrganisationOf(call, call.Query("organisation")));
    std::map<std::string, int64_t> own;
    if (organisation == call.caller.principal.organisation) {
      TP_ASSIGN(own, accounting.reports().FreeTokensOf(call.caller.principal.workspace));
    }
    return PageOf<platform::FreeQuota>(
        call, {.following = [&](const std::string& version,
                                size_t most) -> Result<std::vector<platform::FreeQuota>> {
                 return accounting.limiter().quotas(organisation, version, most);
               },
               .name = [](const platform::FreeQuota& quota) { return quota.model_version; },
               .shown = [](const platform::FreeQuota&) { return true; },
               .encode =
                   [&](const platform::FreeQuota& quota) {
                     const auto used = own.find(quota.model_version);
                     return QuotaOf(call, accounting, quota, used == own.end() ? 0 : used->second);
                   }});
  });
}

void PutQuota(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kQuotaFields));
    TP_ASSIGN(const std::string organisation, OrganisationOf(call, call.String("organisation").value_or("")));
    TP_ASSIGN(const std::string model, call.Required("model"));
    const bool operators = call.Has("total") || call.Has("expires_at");
    if (operators && !call.caller.principal.is_operator) {
      return Fail(ErrorKind::kForbidden, "role_too_low",
                  "How much is free, and until when, is the operator's to set.");
    }
    // Quotas belong to contents, people name models.
    std::string version;
    if (const auto status = call.services.inference.Find(model)) {
      version = platform::ModelVersion(status->model);
    }
    std::optional<platform::FreeQuota> quota;
    for (const platform::FreeQuota& one : accounting.limiter().quotas(organisation)) {
      if (one.model_version == version || (version.empty() && one.model == model)) quota = one;
    }
    if (!quota && version.empty()) {
      return Fail(ErrorKind::kNotFound, "quota_not_found",
                  fmt::format("There is neither a model nor a quota \"{}\".", model.substr(0, 100)), "model");
    }
    if (!quota) {
      const platform::QuotaDefaults& defaults = accounting.quota_defaults();
      quota = platform::FreeQuota{.organisation = organisation,
                                  .model_version = version,
                                  .model = model,
                                  .total = defaults.tokens,
                                  .used = 0,
                                  .granted_ms = accounting.now_ms(),
                                  .expires_ms = accounting.now_ms() + defaults.validity_days * 86'400'000,
                                  .stop_when_exhausted = defaults.stop_when_exhausted};
    }
    quota->stop_when_exhausted = call.Boolean("stop_when_exhausted").value_or(quota->stop_when_exhausted);
    quota->total = call.Integer("total").value_or(quota->total);
    TP_ASSIGN(const std::optional<int64_t> expires, call.Time("expires_at"));
    quota->expires_ms = expires.value_or(quota->expires_ms);
    TP_ASSIGN(const platform::FreeQuota stored, accounting.SetQuota(call.caller.actor, *quota));
    TP_ASSIGN(const auto own, accounting.reports().FreeTokensOf(call.caller.principal.workspace));
    const auto used = own.find(stored.model_version);
    const bool ours = stored.organisation == call.caller.principal.organisation && used != own.end();
    return QuotaOf(call, accounting, stored, ours ? used->second : 0);
  });
}

// ---- budgets -----------------------------------------------------------------------------------------

void ListBudgets(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    using State = platform::Limiter::BudgetState;
    return PageOf<State>(
        call,
        {.following = [&](const std::string& id, size_t most) -> Result<std::vector<State>> {
           return accounting.limiter().budgets(Whose(call), id, most);
         },
         .name = [](const State& state) { return state.budget.id; },
         .shown =
             [&](const State& state) { return Sees(call, state.budget.scope, state.budget.organisation); },
         .encode = [&](const State& state) { return BudgetStateJson(call, state); }});
  });
}

void CreateBudget(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 201, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const platform::Budget budget, ReadBudget(call));
    TP_ASSIGN(const platform::Budget made, accounting.SetBudget(call.caller.actor, budget));
    TP_ASSIGN(const auto state, FindBudget(call, accounting, made.id));
    return BudgetStateJson(call, state);
  });
}

void PutBudget(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const auto old, FindBudget(call, accounting, call.Id()));
    TP_TRY(CheckMayBudget(call, old.budget.scope));  // as it is, not only as it is to be
    TP_ASSIGN(platform::Budget budget, ReadBudget(call));
    if (budget.organisation != old.budget.organisation)
      return Fail(openai::BadField("scope", "A budget stays within its organisation; make another one."));
    budget.id = old.budget.id;
    TP_TRY(accounting.SetBudget(call.caller.actor, budget));
    TP_ASSIGN(const auto state, FindBudget(call, accounting, budget.id));
    return BudgetStateJson(call, state);
  });
}

void DeleteBudget(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const auto state, FindBudget(call, accounting, call.Id()));
    TP_TRY(CheckMayBudget(call, state.budget.scope));
    TP_TRY(accounting.RemoveBudget(call.caller.actor, state.budget.id));
    return Json{{"id", state.budget.id}, {"deleted", true}};
  });
}

// ---- prices ------------------------------------------------------------------------------------------

void ListPrices(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    const auto shown = [&](const platform::PriceBook& book) {
      Json json = platform::PriceBookJson(book);
      if (!call.caller.principal.is_operator) {  // others' discounts are no one's business
        Json own = Json::array();
        for (Json& discount : json["discounts"]) {
          if (discount["organisation"] == call.caller.principal.organisation) own.push_back(discount);
        }
        json["discounts"] = std::move(own);
      }
      return json;
    };
    const auto current = accounting.books().At(accounting.now_ms());
    using Book = std::shared_ptr<const platform::PriceBook>;
    const RuleList<Book> list{
        .following = [&](const std::string& version, size_t most) -> Result<std::vector<Book>> {
          TP_ASSIGN(const int64_t after, VersionNamed(version));
          return accounting.books().After(after, most);
        },
        .name = [](const Book& book) { return fmt::to_string(book->version); },
        .shown = [](const Book&) { return true; },
        .encode = [&](const Book& book) { return shown(*book); }};
    TP_ASSIGN(Json out, PageOf(call, list));
    out["current"] = shown(*current);
    out["priced"] = !current->models.empty();
    return out;
  });
}

void AddPrices(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 201, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kPriceBookFields));
    TP_ASSIGN(platform::PriceBook book, ReadBook(call.body(), accounting.now_ms()));
    const platform::Principal& p = call.caller.principal;
    TP_ASSIGN(const platform::PriceBook made,
              accounting.AddPrices(call.caller.actor, std::move(book), p.member.empty() ? p.key : p.member));
    return platform::PriceBookJson(made);
  });
}

void DryRunPrices(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kDryRunFields));
    if (!call.Has("book")) return Fail(openai::BadField("book", "book is missing.", "missing_field"));
    TP_ASSIGN(const platform::PriceBook book, ReadBook(call.body()["book"], accounting.now_ms()));
    int64_t month =
        platform::PeriodBounds(platform::Period::kMonth, accounting.now_ms()).first - 1;  // the last one
    if (const auto text = call.String("month")) {
      TP_ASSIGN(month, platform::ParseTimeMs(text->size() == 7 ? *text + "-01" : *text, "month"));
    }
    TP_ASSIGN(const platform::DryRun run,
              accounting.reports().PriceMonthWith(book, month, call.String("organisation").value_or("")));
    return DryRunJson(run);
  });
}

// ---- webhook -----------------------------------------------------------------------------------------

void GetWebhook(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const std::string organisation, OrganisationOf(call, call.Query("organisation")));
    TP_ASSIGN(const auto webhook, accounting.FindWebhook(organisation));
    return Json{{"organisation", organisation}, {"url", webhook ? Json(webhook->url) : Json(nullptr)}};
  });
}

void PutWebhook(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kWebhookFields));
    TP_ASSIGN(const std::string url, call.Required("url"));
    const std::string& organisation = call.caller.principal.organisation;
    TP_ASSIGN(const std::string secret, accounting.SetWebhook(call.caller.actor, organisation, url));
    return Json{{"organisation", organisation}, {"url", url}, {"secret", secret}};  // shown once
  });
}

void DeleteWebhook(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    const std::string& organisation = call.caller.principal.organisation;
    TP_TRY(accounting.RemoveWebhook(call.caller.actor, organisation));
    return Json{{"organisation", organisation}, {"deleted", true}};
  });
}

void TestWebhook(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody({}, /*optional=*/true));
    const std::string& organisation = call.caller.principal.organisation;
    TP_ASSIGN(const auto webhook, accounting.FindWebhook(organisation));
    if (!webhook)
      return Fail(ErrorKind::kNotFound, "webhook_not_found", "The organisation has set no webhook.");
    const Status sent = accounting.TestWebhook(*webhook);
    return Json{{"organisation", organisation},
                {"url", webhook->url},
                {"delivered", sent.has_value()},
                {"problem", sent ? Json(nullptr) : Json(sent.error().message)}};
  });
}

// ---- schemas -----------------------------------------------------------------------------------------

Json LimitSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "scope": {"type": "string"}, "organisation": {"type": "string"}, "model": {"type": "string"},
    "requests_per_minute": {"type": ["integer", "null"]}, "tokens_per_minute": {"type": ["integer", "null"]},
    "tokens_per_day": {"type": ["integer", "null"]}, "concurrent_requests": {"type": ["integer", "null"]},
    "context_length": {"type": ["integer", "null"]}, "max_output_tokens": {"type": ["integer", "null"]},
    "burst_s": {"type": "integer"}}})json");
}
Json LimitListSchema() { return ListSchemaOf(LimitSchema()); }
Json LimitRequestSchema() { return openai::SchemaOf(kLimitFields, {"scope"}); }
Json QuotaSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "organisation": {"type": "string"}, "model": {"type": "string"}, "model_version": {"type": "string"},
    "total": {"type": "integer"},
    "used": {"type": ["integer", "null"], "description": "by the whole organisation; null for who sees one workspace of it"},
    "remaining": {"type": ["integer", "null"]},
    "state": {"enum": ["ok", "low", "exhausted", "ended"], "description": "low: a fifth is left, or less; ended: its time is over"},
    "workspace_used": {"type": "integer", "description": "by the caller's workspace"},
    "granted_at": {"type": "integer"}, "expires_at": {"type": "integer"},
    "stop_when_exhausted": {"type": "boolean"}}})json");
}
Json QuotaListSchema() { return ListSchemaOf(QuotaSchema()); }
Json QuotaRequestSchema() { return openai::SchemaOf(kQuotaFields, {"model"}); }
Json BudgetSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "id": {"type": "string"}, "scope": {"type": "string"}, "organisation": {"type": "string"},
    "period": {"enum": ["day", "month"]}, "amount": {"type": "string"},
    "currency": {"type": ["string", "null"], "description": "null while there is no price book: it becomes the first one's"},
    "thresholds": {"type": "array", "items": {"type": "integer"}}, "block": {"type": "boolean"},
    "spent": {"type": ["string", "null"], "description": "null: of an organisation, for who sees one workspace of it"},
    "reserved": {"type": ["string", "null"]},
    "not_counted": {"type": ["object", "null"], "additionalProperties": {"type": "string"},
      "description": "spent in other currencies, by currency"}, "from": {"type": "string"},
    "to": {"type": "string"}}})json");
}
Json BudgetListSchema() { return ListSchemaOf(BudgetSchema()); }
Json BudgetRequestSchema() { return openai::SchemaOf(kBudgetFields, {"scope", "amount"}); }
Json PriceBookSchema() { return openai::SchemaOf(kPriceBookFields, {"currency", "models"}); }
Json StoredBookSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "version": {"type": "integer"}, "currency": {"type": "string"}, "valid_from": {"type": "string"},
    "valid_to": {"type": ["string", "null"]}, "note": {"type": "string", "optional": true}, "charge_failed": {"type": "boolean"},
    "models": {"type": "array", "items": {"type": "object", "properties": {
      "model": {"type": "string"},
      "tiers": {"type": "array", "optional": true, "items": {"type": "object", "properties": {
        "up_to": {"type": "integer", "optional": true, "description": "tokens of prompt; the last tier has none"},
        "input": {"type": "string"}, "cached_input": {"type": "string"}, "output": {"type": "string"}, "reasoning_output": {"type": "string"}}}},
      "embedding": {"type": "string", "optional": true}, "batch_factor": {"type": "string"}, "minimum_charge": {"type": "string"}}}},
    "discounts": {"type": "array", "items": {"type": "object", "properties": {
      "organisation": {"type": "string"}, "factor": {"type": "string"}}}}}})json");
}
Json PricesSchema() {
  Json schema = ListSchemaOf(StoredBookSchema());
  schema["properties"]["current"] = StoredBookSchema();
  schema["properties"]["current"]["description"] = "the book in force";
  schema["properties"]["priced"] =
      Json{{"type", "boolean"}, {"description", "false: everything costs nothing"}};
  return schema;
}
Json DryRunRequestSchema() { return openai::SchemaOf(kDryRunFields, {"book"}); }
Json DryRunSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "from": {"type": "string"}, "to": {"type": "string"}, "requests": {"type": "integer"},
    "was": {"type": ["string", "null"], "description": "null where it was of several currencies"},
    "was_by_currency": {"type": "object", "additionalProperties": {"type": "string"}},
    "currency": {"type": "string", "description": "of would_be"}, "would_be": {"type": "string"},
    "data": {"type": "array", "items": {"type": "object", "properties": {
      "model": {"type": "string"}, "requests": {"type": "integer"}, "was": {"type": ["string", "null"]},
      "was_by_currency": {"type": "object", "additionalProperties": {"type": "string"}}, "would_be": {"type": "string"}}}}}})json");
}
Json WebhookRequestSchema() { return openai::SchemaOf(kWebhookFields, {"url"}); }
Json WebhookTestSchema() {
  return Json::parse(R"json({"type": "object", "properties": {"organisation": {"type": "string"},
    "url": {"type": "string"}, "delivered": {"type": "boolean"}, "problem": {"type": ["string", "null"]}}})json");
}
Json WebhookSchema() {
  return Json::parse(R"json({"type": "object", "properties": {"organisation": {"type": "string"},
    "url": {"type": ["string", "null"]}, "secret": {"type": "string", "optional": true, "description": "shown once"}}})json");
}

}  // namespace tidepool::gateway::native
