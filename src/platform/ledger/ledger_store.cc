#include "platform/ledger/ledger_store.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/ids.h"

namespace tidepool::platform {
namespace {

using store::Row;
using store::Session;
using store::Value;

constexpr store::Migration kLedgerMigrations[] = {
    {1, "usage, limits, quotas, budgets, prices", R"sql(
CREATE TABLE usage_rows (
  id TEXT PRIMARY KEY, started_ms BIGINT NOT NULL, finished_ms BIGINT NOT NULL, request_id TEXT NOT NULL,
  organisation TEXT NOT NULL, workspace TEXT NOT NULL, key_id TEXT NOT NULL, member TEXT NOT NULL,
  model TEXT NOT NULL, model_version TEXT NOT NULL, endpoint TEXT NOT NULL, batch BIGINT NOT NULL,
  prompt_tokens BIGINT NOT NULL, cached_tokens BIGINT NOT NULL, output_tokens BIGINT NOT NULL,
  reasoning_tokens BIGINT NOT NULL, queue_ms BIGINT NOT NULL, load_ms BIGINT NOT NULL, prefill_ms BIGINT NOT NULL,
  decode_ms BIGINT NOT NULL, stall_ms BIGINT NOT NULL, device_us BIGINT NOT NULL, status TEXT NOT NULL,
  error_code TEXT NOT NULL, price_version BIGINT NOT NULL, amount_nanos BIGINT NOT NULL,
  free_tokens BIGINT NOT NULL, billing TEXT NOT NULL);
CREATE INDEX usage_rows_by_time ON usage_rows (finished_ms, id);
CREATE INDEX usage_rows_by_organisation ON usage_rows (organisation, finished_ms, id);
CREATE INDEX usage_rows_by_key ON usage_rows (key_id, finished_ms);
CREATE TABLE adjustments (
  id TEXT PRIMARY KEY, created_ms BIGINT NOT NULL, month_ms BIGINT NOT NULL, organisation TEXT NOT NULL,
  workspace TEXT NOT NULL, key_id TEXT NOT NULL, model TEXT NOT NULL, amount_nanos BIGINT NOT NULL,
  currency TEXT NOT NULL, reason TEXT NOT NULL, created_by TEXT NOT NULL);
CREATE INDEX adjustments_by_month ON adjustments (organisation, month_ms);
CREATE TABLE usage_limits (
  scope TEXT NOT NULL, model TEXT NOT NULL, organisation TEXT NOT NULL, requests_per_minute BIGINT, tokens_per_minute BIGINT,
  tokens_per_day BIGINT, concurrent_requests BIGINT, context_length BIGINT, max_output_tokens BIGINT,
  burst_s BIGINT NOT NULL, PRIMARY KEY (scope, model));
CREATE TABLE budgets (
  id TEXT PRIMARY KEY, scope TEXT NOT NULL, organisation TEXT NOT NULL, period TEXT NOT NULL, amount_nanos BIGINT NOT NULL,
  thresholds TEXT NOT NULL, block BIGINT NOT NULL);
CREATE TABLE free_quotas (
  organisation TEXT NOT NULL, model_version TEXT NOT NULL, model TEXT NOT NULL, total BIGINT NOT NULL,
  granted_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL, stop_when_exhausted BIGINT NOT NULL,
  PRIMARY KEY (organisation, model_version));
CREATE TABLE price_books (
  version BIGINT PRIMARY KEY, created_ms BIGINT NOT NULL, created_by TEXT NOT NULL, book TEXT NOT NULL);
CREATE TABLE webhooks (
  organisation TEXT PRIMARY KEY, url TEXT NOT NULL, secret TEXT NOT NULL, created_ms BIGINT NOT NULL);
CREATE TABLE notices (
  kind TEXT NOT NULL, organisation TEXT NOT NULL, subject TEXT NOT NULL, name TEXT NOT NULL,
  period_ms BIGINT NOT NULL, threshold BIGINT NOT NULL, limit_text TEXT NOT NULL, used_text TEXT NOT NULL,
  created_ms BIGINT NOT NULL, next_ms BIGINT NOT NULL, attempts BIGINT NOT NULL, state TEXT NOT NULL,
  error TEXT NOT NULL, PRIMARY KEY (kind, organisation, subject, period_ms, threshold));
CREATE INDEX notices_by_state ON notices (state, next_ms);
CREATE TABLE refusals (
  minute_ms BIGINT NOT NULL, organisation TEXT NOT NULL, workspace TEXT NOT NULL, key_id TEXT NOT NULL,
  model TEXT NOT NULL, code TEXT NOT NULL, count BIGINT NOT NULL,
  PRIMARY KEY (minute_ms, organisation, workspace, key_id, model, code))
)sql"},
    {2, "what quotas, workspaces, single requests and the number of rules are looked up by", R"sql(
CREATE INDEX usage_rows_by_version ON usage_rows (organisation, model_version, finished_ms);
CREATE INDEX usage_rows_by_workspace ON usage_rows (workspace, finished_ms);
CREATE INDEX usage_rows_by_request ON usage_rows (request_id);
CREATE INDEX usage_limits_by_organisation ON usage_limits (organisation);
CREATE INDEX budgets_by_organisation ON budgets (organisation)
)sql"},
    {3, "budgets have a currency", R"sql(
ALTER TABLE budgets ADD COLUMN currency TEXT NOT NULL DEFAULT '';
ALTER TABLE notices ADD COLUMN currency TEXT NOT NULL DEFAULT ''
)sql"},
};

constexpr std::string_view kColumns =
    "id, started_ms, finished_ms, request_id, organisation, workspace, key_id, member, model, model_version, "
    "endpoint, batch, prompt_tokens, cached_tokens, output_tokens, reasoning_tokens, queue_ms, load_ms, "
    "prefill_ms, decode_ms, stall_ms, device_us, status, error_code, price_version, amount_nanos, "
    "free_tokens, "
    "billing";

// A request id comes from a client's header: what is no UTF-8 must not make its row unstorable.
std::string CleanText(const std::string& text) {
  std::string clean;
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    clean.push_back(byte >= 0x20 && byte < 0x7F ? c : '?');
  }
  return clean;
}

std::string_view ColumnOf(ScopeKind kind) {
  switch (kind) {
    case ScopeKind::kOrganisation: return "organisation";
    case ScopeKind::kWorkspace: return "workspace";
    case ScopeKind::kKey: return "key_id";
  }
  return "key_id";
}

std::string_view NoticeKindName(Notice::Kind kind) {
  return kind == Notice::Kind::kBudget ? "budget" : "quota";
}

UsageStatus StatusOf(std::string_view name) {
  for (const UsageStatus status : {UsageStatus::kDone, UsageStatus::kCancelled, UsageStatus::kInterrupted}) {
    if (UsageStatusName(status) == name) return status;
  }
  return UsageStatus::kError;
}
Billing BillingOf(std::string_view name) {
  for (const Billing billing : {Billing::kFree, Billing::kMixed, Billing::kUnpriced, Billing::kWaived}) {
    if (BillingName(billing) == name) return billing;
  }
  return Billing::kPaid;
}

}  // namespace

store::MigrationList LedgerMigrations() { return {"ledger", kLedgerMigrations}; }

std::string_view UsageColumns() { return kColumns; }

Money MoneyOfSums(const Row& row, size_t column) {
  return Money{Int128{row.Integer(column)} * kNanosPerUnit + row.Integer(column + 1)};
}

UsageRow UsageRowOf(const Row& r) {
  UsageRow row;
  size_t i = 0;
  row.id = r.Text(i++);
  row.started_ms = r.Integer(i++);
  row.finished_ms = r.Integer(i++);
  row.request_id = r.Text(i++);
  row.payer.organisation = r.Text(i++);
  row.payer.workspace = r.Text(i++);
  row.payer.key = r.Text(i++);
  row.payer.member = r.Text(i++);
  row.model = r.Text(i++);
  row.model_version = r.Text(i++);
  row.endpoint = r.Text(i++);
  row.batch = r.Flag(i++);
  row.tokens.prompt = r.Integer(i++);
  row.tokens.cached = r.Integer(i++);
  row.tokens.output = r.Integer(i++);
  row.tokens.reasoning = r.Integer(i++);
  row.queue_ms = r.Integer(i++);
  row.load_ms = r.Integer(i++);
  row.prefill_ms = r.Integer(i++);
  row.decode_ms = r.Integer(i++);
  row.stall_ms = r.Integer(i++);
  row.device_us = r.Integer(i++);
  row.status = StatusOf(r.Text(i++));
  row.error_code = r.Text(i++);
  row.price_version = r.Integer(i++);
  row.amount_nanos = r.Integer(i++);
  row.free_tokens = r.Integer(i++);
  row.billing = BillingOf(r.Text(i++));
  return row;
}

Status LedgerStore::Post(std::span<const UsageRow> rows) {
  if (rows.empty()) return {};
  static const std::string kInsert = [] {
    std::string sql = fmt::format("INSERT INTO usage_rows ({}) VALUES (", kColumns);
    for (int i = 1; i <= 28; ++i) sql += fmt::format("{}${}", i == 1 ? "" : ", ", i);
    return sql + ") ON CONFLICT (id) DO NOTHING";
  }();
  return database_.Write([rows](Session& session) -> Status {
    for (const UsageRow& row : rows) {
      TP_TRY(session.Execute(kInsert, {row.id,
                                       row.started_ms,
                                       row.finished_ms,
                                       CleanText(row.request_id),
                                       row.payer.organisation,
                                       row.payer.workspace,
                                       row.payer.key,
                                       row.payer.member,
                                       row.model,
                                       row.model_version,
                                       row.endpoint,
                                       row.batch ? 1 : 0,
                                       row.tokens.prompt,
                                       row.tokens.cached,
                                       row.tokens.output,
                                       row.tokens.reasoning,
                                       row.queue_ms,
                                       row.load_ms,
                                       row.prefill_ms,
                                       row.decode_ms,
                                       row.stall_ms,
                                       row.device_us,
                                       UsageStatusName(row.status),
                                       CleanText(row.error_code),
                                       row.price_version,
                                       row.amount_nanos,
                                       row.free_tokens,
                                       BillingName(row.billing)}));
    }
    return {};
  });
}

Status LedgerStore::PostRefusals(std::span<const Refusal> refusals) {
  return database_.Write([refusals](Session& session) -> Status {
    for (const Refusal& r : refusals) {
      TP_TRY(session.Execute(
          "INSERT INTO refusals (minute_ms, organisation, workspace, key_id, model, code, count) "
          "VALUES ($1, $2, $3, $4, $5, $6, $7) "
          "ON CONFLICT (minute_ms, organisation, workspace, key_id, model, code) "
          "DO UPDATE SET count = refusals.count + excluded.count",
          {r.minute_ms, r.payer.organisation, r.payer.workspace, r.payer.key, r.model, r.code, r.count}));
    }
    return {};
  });
}

Status LedgerStore::PostQuotas(std::span<const FreeQuota> granted) {
  return database_.Write([granted](Session& session) -> Status {
    for (const FreeQuota& quota : granted) {
      TP_TRY(session.Execute(
          "INSERT INTO free_quotas (organisation, model_version, model, total, granted_ms, expires_ms, "
          "stop_when_exhausted) VALUES ($1, $2, $3, $4, $5, $6, $7) "
          "ON CONFLICT (organisation, model_version) DO NOTHING",
          {quota.organisation, quota.model_version, quota.model, quota.total, quota.granted_ms,
           quota.expires_ms, quota.stop_when_exhausted ? 1 : 0}));
    }
    return {};
  });
}

Status LedgerStore::PostNotices(std::span<const Notice> notices) {
  const int64_t now_ms = wall_.unix_ms();
  return database_.Write([notices, now_ms](Session& session) -> Status {
    for (const Notice& n : notices) {
      TP_TRY(
          session.Execute("INSERT INTO notices (kind, organisation, subject, name, period_ms, threshold, "
                          "limit_text, used_text, "
                          "created_ms, next_ms, attempts, state, error, currency) "
                          "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 0, 'waiting', '', $11) "
                          "ON CONFLICT (kind, organisation, subject, period_ms, threshold) DO NOTHING",
                          {NoticeKindName(n.kind), n.organisation, n.subject, n.name, n.period_ms,
                           n.threshold, n.limit, n.used, now_ms, now_ms, n.currency}));
    }
    return {};
  });
}

Result<bool> LedgerStore::HasRow(const std::string& id) {
  return database_.Get<bool>([&](Session& session) -> Result<bool> {
    TP_ASSIGN(const auto rows, session.Query("SELECT 1 FROM usage_rows WHERE id = $1", {id}));
    return !rows.empty();
  });
}

Result<int64_t> LedgerStore::TokensSince(const Scope& scope, std::string_view model, int64_t from_ms) {
  return database_.Get<int64_t>([&](Session& session) -> Result<int64_t> {
    std::vector<Value> values{scope.id, from_ms};
    std::string sql = fmt::format(
        "SELECT COALESCE(SUM(prompt_tokens + output_tokens), 0) FROM usage_rows WHERE {} = $1 AND "
        "finished_ms >= $2",
        ColumnOf(scope.kind));
    if (model != "*") {
      sql += " AND model = $3";
      values.emplace_back(model);
    }
    TP_ASSIGN(const auto rows, session.Query(sql, values));
    return rows.at(0).Integer(0);
  });
}

Result<Amounts> LedgerStore::AmountsSince(const Scope& scope, int64_t from_ms, int64_t to_ms,
                                          const PriceBooks& books) {
  return database_.Get<Amounts>([&](Session& session) -> Result<Amounts> {
    TP_ASSIGN(const auto rows,
              session.Query(fmt::format("SELECT price_version, {} FROM usage_rows WHERE {} = $1 AND "
                                        "finished_ms >= $2 AND finished_ms < $3 GROUP BY price_version",
                                        kAmountSums, ColumnOf(scope.kind)),
                            {scope.id, from_ms, to_ms}));
    Amounts amounts;
    for (const Row& row : rows) {
      if (const auto book = books.Version(row.Integer(0))) amounts[book->currency] += MoneyOfSums(row, 1);
    }
    return amounts;
  });
}

Result<std::vector<FreeQuota>> LedgerStore::LoadQuotas(std::string_view organisation) {
  return database_.Get<std::vector<FreeQuota>>([&](Session& session) -> Result<std::vector<FreeQuota>> {
    TP_ASSIGN(const auto rows,
              session.Query("SELECT q.organisation, q.model_version, q.model, q.total, q.granted_ms, "
                            "q.expires_ms, q.stop_when_exhausted, COALESCE(SUM(u.free_tokens), 0) "
                            "FROM free_quotas q LEFT JOIN usage_rows u ON u.organisation = q.organisation "
                            "AND u.model_version = q.model_version AND u.finished_ms >= q.granted_ms "
                            "WHERE $1 = '' OR q.organisation = $1 "
                            "GROUP BY q.organisation, q.model_version, q.model, q.total, q.granted_ms, "
                            "q.expires_ms, q.stop_when_exhausted",
                            {organisation}));
    std::vector<FreeQuota> quotas;
    for (const Row& row : rows) {
      quotas.push_back({.organisation = row.Text(0),
                        .model_version = row.Text(1),
                        .model = row.Text(2),
                        .total = row.Integer(3),
                        .used = row.Integer(7),
                        .granted_ms = row.Integer(4),
                        .expires_ms = row.Integer(5),
                        .stop_when_exhausted = row.Flag(6)});
    }
    return quotas;
  });
}

Status LedgerStore::Load(Limiter& limiter, PriceBooks& books) {
  const int64_t now_ms = wall_.unix_ms();
  std::vector<Limit> limits;
  std::vector<Budget> budgets;
  TP_TRY(database_.Read([&](Session& session) -> Status {
    TP_ASSIGN(const auto book_rows, session.Query("SELECT version, book FROM price_books ORDER BY version"));
    for (const Row& row : book_rows) {
      const auto json = nlohmann::ordered_json::parse(row.Text(1), nullptr, false);
      auto book = ParsePriceBook(json);
      if (!book) {
        return Fail(ErrorKind::kCorrupt, "bad_price_book",
                    fmt::format("price book {} of the store cannot be read: {}", row.Integer(0),
                                book.error().message));
      }
      book->version = row.Integer(0);
      books.Add(std::move(*book));
    }
    TP_ASSIGN(const auto limit_rows,
              session.Query("SELECT scope, model, requests_per_minute, tokens_per_minute, tokens_per_day, "
                            "concurrent_requests, context_length, max_output_tokens, burst_s, organisation "
                            "FROM usage_limits"));
    for (const Row& row : limit_rows) {
      Limit limit;
      TP_ASSIGN(limit.scope, ParseScope(row.Text(0)));
      limit.model = row.Text(1);
      limit.requests_per_minute = row.OptionalInteger(2);
      limit.tokens_per_minute = row.OptionalInteger(3);
      limit.tokens_per_day = row.OptionalInteger(4);
      limit.concurrent_requests = row.OptionalInteger(5);
      limit.context_length = row.OptionalInteger(6);
      limit.max_output_tokens = row.OptionalInteger(7);
      limit.burst_s = row.Integer(8);
      limit.organisation = row.Text(9);
      limits.push_back(std::move(limit));
    }
    TP_ASSIGN(const auto budget_rows,
              session.Query(
                  "SELECT id, scope, period, amount_nanos, thresholds, block, organisation, currency FROM "
                  "budgets"));
    for (const Row& row : budget_rows) {
      Budget budget;
      budget.id = row.Text(0);
      TP_ASSIGN(budget.scope, ParseScope(row.Text(1)));
      TP_ASSIGN(budget.period, ParsePeriod(row.Text(2)));
      budget.amount = Money{row.Integer(3)};
      budget.thresholds = nlohmann::json::parse(row.Text(4), nullptr, false).get<std::vector<int32_t>>();
      budget.block = row.Flag(5);
      budget.organisation = row.Text(6);
      budget.currency = row.Text(7);
      budgets.push_back(std::move(budget));
    }
    return {};
  }));
  for (const Limit& limit : limits) {
    TP_ASSIGN(const int64_t used,
              TokensSince(limit.scope, limit.model, PeriodBounds(Period::kDay, now_ms).first));
    limiter.SetLimit(limit, used);
  }
  const std::string currency = books.Currency(now_ms);
  const auto none = [](const Budget& budget) { return budget.currency.empty(); };
  if (!currency.empty() && std::any_of(budgets.begin(), budgets.end(), none)) {
    TP_TRY(database_.Write([&](Session& session) { return SetBudgetCurrencies(session, currency); }));
    for (Budget& budget : budgets) {
      if (none(budget)) budget.currency = currency;
    }
  }
  for (const Budget& budget : budgets) {
    const auto [from, to] = PeriodBounds(budget.period, now_ms);
    TP_ASSIGN(const Amounts spent, AmountsSince(budget.scope, from, to, books));
    limiter.SetBudget(budget, spent);
  }
  TP_ASSIGN(const auto quotas, LoadQuotas(""));
  for (const FreeQuota& quota : quotas) limiter.SetQuota(quota);
  return {};
}

Status LedgerStore::SaveLimit(Session& session, const Limit& limit) {
  TP_TRY(session.Execute(
      "INSERT INTO usage_limits (scope, model, requests_per_minute, tokens_per_minute, tokens_per_day, "
      "concurrent_requests, context_length, max_output_tokens, burst_s, organisation) "
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (scope, model) DO UPDATE SET "
      "requests_per_minute = excluded.requests_per_minute, tokens_per_minute = excluded.tokens_per_minute, "
      "tokens_per_day = excluded.tokens_per_day, concurrent_requests = excluded.concurrent_requests, "
      "context_length = excluded.context_length, max_output_tokens = excluded.max_output_tokens, "
      "burst_s = excluded.burst_s",
      {ScopeText(limit.scope), limit.model, limit.requests_per_minute, limit.tokens_per_minute,
       limit.tokens_per_day, limit.concurrent_requests, limit.context_length, limit.max_output_tokens,
       limit.burst_s, limit.organisation}));
  return {};
}

Status LedgerStore::DeleteLimit(Session& session, const Scope& scope, std::string_view model) {
  TP_TRY(
      session.Execute("DELETE FROM usage_limits WHERE scope = $1 AND model = $2", {ScopeText(scope), model}));
  return {};
}

Status LedgerStore::SaveBudget(Session& session, const Budget& budget) {
  TP_TRY(session.Execute(
      "INSERT INTO budgets (id, scope, period, amount_nanos, thresholds, block, organisation, currency) "
      "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) "
      "ON CONFLICT (id) DO UPDATE SET scope = excluded.scope, period = excluded.period, "
      "amount_nanos = excluded.amount_nanos, thresholds = excluded.thresholds, block = excluded.block, "
      "organisation = excluded.organisation, currency = excluded.currency",
      {budget.id, ScopeText(budget.scope), PeriodName(budget.period),
       static_cast<int64_t>(budget.amount.nanos), nlohmann::json(budget.thresholds).dump(),
       budget.block ? 1 : 0, budget.organisation, budget.currency}));
  return {};
}

Status LedgerStore::SetBudgetCurrencies(Session& session, std::string_view currency) {
  TP_TRY(session.Execute("UPDATE budgets SET currency = $1 WHERE currency = ''", {currency}));
  return {};
}

Status LedgerStore::DeleteBudget(Session& session, std::string_view id) {
  TP_TRY(session.Execute("DELETE FROM budgets WHERE id = $1", {id}));
  return {};
}

Status LedgerStore::SaveQuota(Session& session, const FreeQuota& quota) {
  TP_TRY(session.Execute(
      "INSERT INTO free_quotas (organisation, model_version, model, total, granted_ms, expires_ms, "
      "stop_when_exhausted) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (organisation, model_version) "
      "DO UPDATE SET model = excluded.model, total = excluded.total, granted_ms = excluded.granted_ms, "
      "expires_ms = excluded.expires_ms, stop_when_exhausted = excluded.stop_when_exhausted",
      {quota.organisation, quota.model_version, quota.model, quota.total, quota.granted_ms, quota.expires_ms,
       quota.stop_when_exhausted ? 1 : 0}));
  return {};
}

Result<int64_t> LedgerStore::AddPriceBook(Session& session, const PriceBook& book, int64_t now_ms,
                                          std::string_view created_by) {
  TP_ASSIGN(const auto rows, session.Query("SELECT COALESCE(MAX(version), 0) + 1 FROM price_books"));
  const int64_t version = rows.at(0).Integer(0);
  PriceBook numbered = book;
  numbered.version = version;
  TP_TRY(session.Execute(
      "INSERT INTO price_books (version, created_ms, created_by, book) VALUES ($1, $2, $3, $4)",
      {version, now_ms, created_by, PriceBookJson(numbered).dump()}));
  return version;
}

Status LedgerStore::SaveWebhook(Session& session, const Webhook& webhook, int64_t now_ms) {
  TP_TRY(session.Execute(
      "INSERT INTO webhooks (organisation, url, secret, created_ms) VALUES ($1, $2, $3, $4) "
      "ON CONFLICT (organisation) DO UPDATE SET url = excluded.url, secret = excluded.secret, "
      "created_ms = excluded.created_ms",
      {webhook.organisation, webhook.url, webhook.secret, now_ms}));
  return {};
}

Status LedgerStore::DeleteWebhook(Session& session, std::string_view organisation) {
  TP_TRY(session.Execute("DELETE FROM webhooks WHERE organisation = $1", {organisation}));
  return {};
}

Status LedgerStore::ForgetNotices(Session& session, Notice::Kind kind, std::string_view organisation,
                                  std::string_view subject) {
  TP_TRY(session.Execute("DELETE FROM notices WHERE kind = $1 AND organisation = $2 AND subject = $3",
                         {NoticeKindName(kind), organisation, subject}));
  return {};
}

Status LedgerStore::AddAdjustment(Session& session, const Adjustment& a) {
  TP_TRY(
      session.Execute("INSERT INTO adjustments (id, created_ms, month_ms, organisation, workspace, key_id, "
                      "model, amount_nanos, "
                      "currency, reason, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                      {a.id, a.created_ms, a.month_ms, a.organisation, a.workspace, a.key, a.model,
                       static_cast<int64_t>(a.amount.nanos), a.currency, a.reason, a.created_by}));
  return {};
}

Result<std::optional<Webhook>> LedgerStore::FindWebhook(const std::string& organisation) {
  return database_.Get<std::optional<Webhook>>([&](Session& session) -> Result<std::optional<Webhook>> {
    TP_ASSIGN(const auto rows,
              session.Query("SELECT organisation, url, secret FROM webhooks WHERE organisation = $1",
                            {organisation}));
    if (rows.empty()) return std::optional<Webhook>();
    return std::optional(Webhook{rows[0].Text(0), rows[0].Text(1), rows[0].Text(2)});
  });
}

Result<std::vector<std::string>> LedgerStore::OrganisationsDue(int64_t now_ms,
                                                               const std::vector<std::string>& without,
                                                               int64_t limit) {
  return database_.Get<std::vector<std::string>>([&](Session& session) -> Result<std::vector<std::string>> {
    std::vector<Value> values{now_ms, limit};
    std::string others;
    for (const std::string& organisation : without) {
      values.emplace_back(organisation);
      others += fmt::format(" AND organisation <> ${}", values.size());
    }
    TP_ASSIGN(const auto rows,
              session.Query("SELECT organisation, MIN(next_ms) FROM notices WHERE state = 'waiting' AND "
                            "next_ms <= $1" +
                                others + " GROUP BY organisation ORDER BY 2, 1 LIMIT $2",
                            values));
    std::vector<std::string> due;
    for (const Row& row : rows) due.push_back(row.Text(0));
    return due;
  });
}

Result<std::vector<Delivery>> LedgerStore::WaitingDeliveries(const std::string& organisation, int64_t now_ms,
                                                             int32_t few_attempts, int64_t limit) {
  return database_.Get<std::vector<Delivery>>([&](Session& session) -> Result<std::vector<Delivery>> {
    // Those of one moment in the order in which they are reached: 80 % spent after 50 %, nothing left after a
    // fifth left.
    TP_ASSIGN(const auto rows,
              session.Query(
                  "SELECT kind, organisation, subject, name, period_ms, threshold, limit_text, used_text, "
                  "created_ms, next_ms, attempts, currency FROM notices WHERE state = 'waiting' AND "
                  "organisation = $1 AND (next_ms <= $2 OR attempts < $3) "
                  "ORDER BY created_ms, kind, subject, period_ms, "
                  "CASE WHEN kind = 'quota' THEN -threshold ELSE threshold END LIMIT $4",
                  {organisation, now_ms, few_attempts, limit}));
    std::vector<Delivery> waiting;
    for (const Row& row : rows) {
      Delivery d;
      d.notice.kind = row.Text(0) == "budget" ? Notice::Kind::kBudget : Notice::Kind::kQuota;
      d.notice.organisation = row.Text(1);
      d.notice.subject = row.Text(2);
      d.notice.name = row.Text(3);
      d.notice.period_ms = row.Integer(4);
      d.notice.threshold = static_cast<int32_t>(row.Integer(5));
      d.notice.limit = row.Text(6);
      d.notice.used = row.Text(7);
      d.created_ms = row.Integer(8);
      d.next_ms = row.Integer(9);
      d.attempts = static_cast<int32_t>(row.Integer(10));
      d.notice.currency = row.Text(11);
      waiting.push_back(std::move(d));
    }
    return waiting;
  });
}

Status LedgerStore::HoldDeliveries(const std::string& organisation, int64_t until_ms) {
  return database_.Write([&](Session& session) -> Status {
    TP_TRY(session.Execute(
        "UPDATE notices SET next_ms = $1 WHERE organisation = $2 AND state = 'waiting' AND next_ms < $1",
        {until_ms, organisation}));
    return {};
  });
}

Status LedgerStore::SaveDelivery(const Delivery& d, std::string_view state, std::string_view error) {
  return database_.Write([&](Session& session) -> Status {
    TP_TRY(session.Execute(
        "UPDATE notices SET state = $1, error = $2, attempts = $3, next_ms = $4 WHERE kind = $5 AND "
        "organisation = $6 AND subject = $7 AND period_ms = $8 AND threshold = $9",
        {state, CleanText(std::string(error)), d.attempts, d.next_ms, NoticeKindName(d.notice.kind),
         d.notice.organisation, d.notice.subject, d.notice.period_ms, d.notice.threshold}));
    return {};
  });
}

}  // namespace tidepool::platform
