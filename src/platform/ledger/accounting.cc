#include "platform/ledger/accounting.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/ids.h"
#include "base/log.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

Json OrNull(const std::optional<int64_t>& value) { return value ? Json(*value) : Json(nullptr); }

// The log is shown to the admins of the organisation that a row names: that is the one it happened to.
AuditActor Concerning(AuditActor actor, std::string organisation, std::string workspace = {}) {
  actor.organisation = std::move(organisation);
  actor.workspace = std::move(workspace);
  return actor;
}
AuditActor Concerning(AuditActor actor, std::string organisation, const Scope& scope) {
  return Concerning(std::move(actor), std::move(organisation),
                    scope.kind == ScopeKind::kWorkspace ? scope.id : std::string());
}

// Are the same thresholds reached at the same amounts?
bool TellsAlike(const Budget& a, const Budget& b) {
  return a.scope == b.scope && a.period == b.period && a.amount == b.amount && a.currency == b.currency &&
         a.thresholds == b.thresholds && a.organisation == b.organisation;
}

// Room for one more rule of an organisation.
Status CheckRoom(store::Session& session, const char* table, std::string_view what,
                 const std::string& organisation, int64_t most) {
  TP_ASSIGN(
      const store::Rows rows,
      session.Query(fmt::format("SELECT COUNT(*) FROM {} WHERE organisation = $1", table), {organisation}));
  if (rows.at(0).Integer(0) < most) return {};
  return Fail(ErrorKind::kConflict, fmt::format("too_many_{}", what),
              fmt::format("The organisation {} has {} {} already, as many as ledger.max_{} allows; remove "
                          "some that are not needed.",
                          organisation, rows.at(0).Integer(0), what, what));
}

}  // namespace

Json LimitJson(const Limit& limit) {
  return {{"scope", ScopeText(limit.scope)},
          {"organisation", limit.organisation},
          {"model", limit.model},
          {"requests_per_minute", OrNull(limit.requests_per_minute)},
          {"tokens_per_minute", OrNull(limit.tokens_per_minute)},
          {"tokens_per_day", OrNull(limit.tokens_per_day)},
          {"concurrent_requests", OrNull(limit.concurrent_requests)},
          {"context_length", OrNull(limit.context_length)},
          {"max_output_tokens", OrNull(limit.max_output_tokens)},
          {"burst_s", limit.burst_s}};
}

Json BudgetJson(const Budget& budget) {
  return {{"id", budget.id},
          {"scope", ScopeText(budget.scope)},
          {"organisation", budget.organisation},
          {"period", PeriodName(budget.period)},
          {"amount", budget.amount.ToString()},
          {"currency", budget.currency.empty() ? Json(nullptr) : Json(budget.currency)},
          {"thresholds", budget.thresholds},
          {"block", budget.block}};
}

Json QuotaJson(const FreeQuota& quota) {
  return {{"organisation", quota.organisation},
          {"model", quota.model},
          {"model_version", quota.model_version},
          {"total", quota.total},
          {"used", quota.used},
          {"remaining", std::max<int64_t>(0, quota.total - quota.used)},
          {"granted_at", quota.granted_ms / 1000},
          {"expires_at", quota.expires_ms / 1000},
          {"stop_when_exhausted", quota.stop_when_exhausted}};
}

Money RealCost::Of(int64_t device_us) const {
  constexpr Int128 kHourUs = Int128{3'600'000'000};
  // nanos an hour of power = nanos a kWh * watts / 1000
  const Int128 per_hour = device_per_hour.nanos + power_per_kwh.nanos * power_watts / 1000;
  return Money{MulDivHalfEven(per_hour, std::max<int64_t>(0, device_us), kHourUs)};
}

Result<Money> RealCost::Margin(const Amounts& amounts, int64_t device_us) const {
  Money earned;
  for (const auto& [of, amount] : amounts) {
    if (of != currency) {
      return Fail(
          ErrorKind::kInvalid, "currencies_differ",
          fmt::format("There are amounts in {}, and costs are in {}: ledger.cost_currency", of, currency));
    }
    earned += amount;
  }
  return earned - Of(device_us);
}

Accounting::Accounting(store::Database& database, const WallClock& wall, MetricsRegistry& metrics,
                       AccountingOptions options)
    : database_(database),
      wall_(wall),
      options_(std::move(options)),
      limits_gauge_(metrics.gauge("tidepool_ledger_limits", "Usage limits set, of all organisations")),
      budgets_gauge_(metrics.gauge("tidepool_ledger_budgets", "Budgets set, of all organisations")),
      store_(database, wall) {}

void Accounting::CountRules() {
  const auto [limits, budgets] = limiter_->rules();
  limits_gauge_.Set(static_cast<double>(limits));
  budgets_gauge_.Set(static_cast<double>(budgets));
}

Accounting::~Accounting() {
  webhooks_.reset();
  ledger_.reset();
}

Result<std::unique_ptr<Accounting>> Accounting::Open(store::Database& database, const Clock& clock,
                                                     const WallClock& wall, MetricsRegistry& metrics,
                                                     AccountingOptions options,
                                                     std::unique_ptr<JournalFiles> files) {
  std::unique_ptr<Accounting> self(new Accounting(database, wall, metrics, std::move(options)));
  const AccountingOptions& o = self->options_;
  if (files == nullptr) {
    TP_ASSIGN(files, OpenJournalFolder(o.folder));
  }
  self->limiter_ = std::make_unique<Limiter>(clock, wall, self->books_, o.quota);
  JournalRemains remains;
  TP_ASSIGN(std::unique_ptr<Journal> journal, Journal::Open(std::move(files), o.ledger.journal, remains));
  if (remains.torn_segments > 0)
    LogWarn("the journal of usage ended in the middle of a write, as after a crash",
            {{"segments", remains.torn_segments}});
  // Closed rows first: what is used of quotas and budgets is then read from the store, whole. A quota that
  // was granted while the store was away is granted as it was, or its first tokens would be free twice.
  TP_TRY(self->store_.Post(remains.closed));
  std::vector<FreeQuota> granted;
  for (const UsageRow& row : remains.closed) {
    if (row.free_tokens == 0) continue;
    granted.push_back({.organisation = row.payer.organisation,
                       .model_version = row.model_version,
                       .model = row.model,
                       .total = o.quota.tokens,
                       .granted_ms = row.started_ms,
                       .expires_ms = row.started_ms + o.quota.validity_days * 86'400'000,
                       .stop_when_exhausted = o.quota.stop_when_exhausted});
  }
  if (!granted.empty()) TP_TRY(self->store_.PostQuotas(granted));
  TP_TRY(self->store_.Load(*self->limiter_, self->books_));
  TP_TRY(UsageLedger::Recover(remains, self->store_, *self->limiter_, self->books_, wall.unix_ms(),
                              [&](const std::string& id) { return self->store_.HasRow(id); }));
  journal->RemainsPosted();
  self->CountRules();
  self->reports_ = std::make_unique<Reports>(database, self->books_);
  self->ledger_ = std::make_unique<UsageLedger>(UsageLedger::Parts{.journal = std::move(journal),
                                                                   .sink = &self->store_,
                                                                   .clock = &clock,
                                                                   .wall = &wall,
                                                                   .books = &self->books_,
                                                                   .limiter = self->limiter_.get(),
                                                                   .metrics = &metrics},
                                                o.ledger);
  WebhookSender::Unseal unseal = o.unseal;
  if (!unseal) unseal = [](const std::string& secret) -> Result<std::string> { return secret; };
  self->webhooks_ =
      std::make_unique<WebhookSender>(self->store_, wall, metrics, std::move(unseal), o.webhooks);
  return self;
}

Status Accounting::Write(const AuditActor& actor, std::string_view action, std::string_view object,
                         const Json& before, const Json& after, const Change& change) {
  return database_.Write([&](store::Session& session) -> Status {
    TP_TRY(change(session));
    return options_.audit ? options_.audit(session, actor, action, object, before, after) : Status();
  });
}

Status Accounting::SetLimit(const AuditActor& actor, const Limit& limit) {
  TP_TRY(CheckLimit(limit));
  const auto old = limiter_->FindLimit(limit.scope, limit.model);
  TP_TRY(Write(Concerning(actor, limit.organisation, limit.scope), "limit.changed",
               ScopeText(limit.scope) + " " + limit.model, old ? LimitJson(*old) : Json(), LimitJson(limit),
               [&](store::Session& session) -> Status {
                 Status room;
                 if (!old) {
                   room =
                       CheckRoom(session, "usage_limits", "limits", limit.organisation, options_.max_limits);
                 }
                 return room ? LedgerStore::SaveLimit(session, limit) : room;
               }));
  (void)ledger_->Flush(2);
  TP_ASSIGN(const int64_t used,
            store_.TokensSince(limit.scope, limit.model, PeriodBounds(Period::kDay, wall_.unix_ms()).first));
  limiter_->SetLimit(limit, used);
  CountRules();
  return {};
}

Status Accounting::RemoveLimit(const AuditActor& actor, const Scope& scope, const std::string& model) {
  const auto old = limiter_->FindLimit(scope, model);
  if (!old) {
    return Fail(ErrorKind::kNotFound, "limit_not_found",
                fmt::format("there is no limit of {} for model {}", ScopeText(scope), model));
  }
  TP_TRY(Write(Concerning(actor, old->organisation, scope), "limit.removed", ScopeText(scope) + " " + model,
               LimitJson(*old), nullptr,
               [&](store::Session& session) { return LedgerStore::DeleteLimit(session, scope, model); }));
  limiter_->RemoveLimit(scope, model);
  CountRules();
  return {};
}

Result<Budget> Accounting::SetBudget(const AuditActor& actor, Budget budget) {
  TP_TRY(CheckBudget(budget));
  if (budget.id.empty()) budget.id = RandomId("bud-", 16);
  const auto old = limiter_->FindBudget(budget.id);
  const int64_t now_ms = wall_.unix_ms();
  if (budget.currency.empty()) {
    budget.currency = old ? old->budget.currency : books_.Currency(now_ms);
  } else if (!books_.HasCurrency(budget.currency)) {
    return Fail(
        ErrorKind::kInvalid, "unknown_currency",
        fmt::format("currency: no price book is in {}, so nothing would count; the book in force is in {}",
                    budget.currency.substr(0, 20), books_.At(now_ms)->currency),
        "currency");
  }
  TP_TRY(Write(Concerning(actor, budget.organisation, budget.scope),
               old ? "budget.changed" : "budget.created", budget.id, old ? BudgetJson(old->budget) : Json(),
               BudgetJson(budget), [&](store::Session& session) -> Status {
                 Status room;
                 if (!old || old->budget.organisation != budget.organisation)
                   room = CheckRoom(session, "budgets", "budgets", budget.organisation, options_.max_budgets);
                 if (room && old && !TellsAlike(old->budget, budget))
                   room = LedgerStore::ForgetNotices(session, Notice::Kind::kBudget, old->budget.organisation,
                                                     budget.id);
                 return room ? LedgerStore::SaveBudget(session, budget) : room;
               }));
  (void)ledger_->Flush(2);
  const auto [from, to] = PeriodBounds(budget.period, now_ms);
  TP_ASSIGN(const Amounts spent, store_.AmountsSince(budget.scope, from, to, books_));
  limiter_->SetBudget(budget, spent);
  CountRules();
  return budget;
}

Status Accounting::RemoveBudget(const AuditActor& actor, const std::string& id) {
  const auto old = limiter_->FindBudget(id);
  if (!old)
    return Fail(ErrorKind::kNotFound, "budget_not_found",
                fmt::format("there is no budget {}", id.substr(0, 100)));
  TP_TRY(Write(Concerning(actor, old->budget.organisation, old->budget.scope), "budget.removed", id,
               BudgetJson(old->budget), nullptr,
               [&](store::Session& session) { return LedgerStore::DeleteBudget(session, id); }));
  limiter_->RemoveBudget(id);
  CountRules();
  return {};
}

Result<FreeQuota> Accounting::SetQuota(const AuditActor& actor, const FreeQuota& quota) {
  if (quota.total < 0 || quota.total > 1'000'000'000'000'000)
    return Fail(ErrorKind::kInvalid, "bad_quota",
                fmt::format("total: {} is not within 0 and 10^15", quota.total), "total");
  const auto old = limiter_->FindQuota(quota.organisation, quota.model_version);
  TP_TRY(Write(Concerning(actor, quota.organisation), "quota.changed", quota.organisation + " " + quota.model,
               old ? QuotaJson(*old) : Json(nullptr), QuotaJson(quota),
               [&](store::Session& session) -> Status {
                 Status forgotten;
                 if (old && old->total != quota.total)
                   forgotten = LedgerStore::ForgetNotices(session, Notice::Kind::kQuota, quota.organisation,
                                                          quota.model_version);
                 return forgotten ? LedgerStore::SaveQuota(session, quota) : forgotten;
               }));
  (void)ledger_->Flush(2);
  TP_ASSIGN(const auto stored, store_.LoadQuotas(quota.organisation));
  for (const FreeQuota& one : stored) {
    if (one.model_version != quota.model_version) continue;
    limiter_->SetQuota(one);
    return one;
  }
  return Fail(ErrorKind::kInternal, "quota_lost", "the quota was not stored");
}

Result<PriceBook> Accounting::AddPrices(const AuditActor& actor, PriceBook book, const std::string& by) {
  const int64_t now_ms = wall_.unix_ms();
  const auto current = books_.At(now_ms);
  const Status added = database_.Write([&](store::Session& session) -> Status {
    TP_ASSIGN(book.version, LedgerStore::AddPriceBook(session, book, now_ms, by));
    TP_TRY(LedgerStore::SetBudgetCurrencies(session, book.currency));
    return options_.audit ? options_.audit(session, Concerning(actor, ""), "price.changed",
                                           fmt::format("version {}", book.version), PriceBookJson(*current),
                                           PriceBookJson(book))
                          : Status();
  });
  TP_TRY(added);
  books_.Add(book);
  limiter_->SetBudgetCurrencies(book.currency);
  return book;
}

Result<Json> Accounting::WebhookAudited(const std::string& organisation) {
  TP_ASSIGN(const auto webhook, FindWebhook(organisation));
  return webhook ? Json{{"url", webhook->url}} : Json(nullptr);
}

Result<std::string> Accounting::SetWebhook(const AuditActor& actor, const std::string& organisation,
                                           const std::string& url) {
  TP_TRY(CheckWebhookUrl(url, options_.webhooks.allow_private_addresses));
  const std::string secret = RandomId("whsec-", 40);
  const Webhook webhook{organisation, url, options_.seal ? options_.seal(secret) : secret};
  TP_ASSIGN(const Json before, WebhookAudited(organisation));
  TP_TRY(Write(
      Concerning(actor, organisation), "webhook.changed", organisation, before, Json{{"url", url}},
      [&](store::Session& session) { return LedgerStore::SaveWebhook(session, webhook, wall_.unix_ms()); }));
  return secret;
}

Status Accounting::RemoveWebhook(const AuditActor& actor, const std::string& organisation) {
  TP_ASSIGN(const Json before, WebhookAudited(organisation));
  return Write(Concerning(actor, organisation), "webhook.removed", organisation, before, nullptr,
               [&](store::Session& session) { return LedgerStore::DeleteWebhook(session, organisation); });
}

Result<std::optional<Webhook>> Accounting::FindWebhook(const std::string& organisation) {
  return store_.FindWebhook(organisation);
}

Result<Adjustment> Accounting::Adjust(const AuditActor& actor, Adjustment adjustment) {
  const auto bad = [](const char* field, const char* why) {
    return Fail(ErrorKind::kInvalid, "bad_adjustment", fmt::format("{}: {}", field, why), field);
  };
  if (!adjustment.amount.FitsRow() || adjustment.amount == Money{})
    return bad("amount", "must be an amount, not 0");
  if (adjustment.reason.empty() || adjustment.reason.size() > 1000)
    return bad("reason", "must have 1 to 1000 bytes");
  adjustment.id = RandomId("adj-", 16);
  adjustment.created_ms = wall_.unix_ms();
  adjustment.month_ms = PeriodBounds(Period::kMonth, adjustment.month_ms).first;
  TP_TRY(Write(Concerning(actor, adjustment.organisation, adjustment.workspace), "bill.adjusted",
               adjustment.organisation, nullptr,
               Json{{"id", adjustment.id},
                    {"month", TimeText(adjustment.month_ms).substr(0, 7)},
                    {"amount", adjustment.amount.ToString()},
                    {"currency", adjustment.currency},
                    {"reason", adjustment.reason}},
               [&](store::Session& session) { return LedgerStore::AddAdjustment(session, adjustment); }));
  return adjustment;
}

}  // namespace tidepool::platform
