// What was used: sums, single requests, history, bills.
#include <fmt/format.h>

#include <algorithm>

#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/native/export.h"
#include "gateway/native/ledger_call.h"
#include "gateway/native/ledger_handlers.h"
#include "gateway/router.h"
#include "platform/request_bodies/request_bodies.h"

namespace tidepool::gateway::native {

using openai::Field;
using openai::FieldType;
using openai::Treatment;
using platform::Role;

namespace {

void SendNoLedger(const std::shared_ptr<Exchange>& exchange) {
  exchange->Send(ErrorResponse(501, "not_available", "This server keeps no ledger."));
}

}  // namespace

void ServeLedger(Services& services, const std::shared_ptr<Exchange>& exchange, int status,
                 const std::function<Result<Json>(Call&, platform::Accounting&)>& work) {
  if (services.hooks.accounting == nullptr) return SendNoLedger(exchange);
  Serve(services, exchange, status, [&](Call& call) { return work(call, *services.hooks.accounting); });
}

bool IsOrganisationAdmin(const platform::Principal& principal) {
  return principal.role == Role::kAdmin || principal.role == Role::kOwner ||
         principal.role == Role::kOperator;
}

Result<std::string> OrganisationOf(const Call& call, const std::string& named) {
  const platform::Principal& p = call.caller.principal;
  if (named.empty() || named == p.organisation) return p.organisation;
  if (p.is_operator) return named;
  return Fail(ErrorKind::kNotFound, "organisation_not_found",
              fmt::format("There is no organisation \"{}\".", named.substr(0, 100)), "organisation");
}

Result<platform::UsageFilter> FilterOf(const Call& call) {
  const platform::Principal& p = call.caller.principal;
  platform::UsageFilter filter;
  filter.key = call.Query("key");
  filter.member = call.Query("member");
  filter.model = call.Query("model");
  filter.status = call.Query("status");
  filter.endpoint = call.Query("endpoint");
  filter.workspace = call.Query("workspace");
  if (const std::string organisation = call.Query("organisation"); !organisation.empty() || !p.is_operator) {
    TP_ASSIGN(filter.organisation, OrganisationOf(call, organisation));
  }
  if (!IsOrganisationAdmin(p)) {
    if (!filter.workspace.empty() && filter.workspace != p.workspace) {
      return Fail(ErrorKind::kNotFound, "workspace_not_found",
                  fmt::format("There is no workspace \"{}\".", filter.workspace.substr(0, 100)), "workspace");
    }
    filter.workspace = p.workspace;
  }
  if (const std::string from = call.Query("from"); !from.empty()) {
    TP_ASSIGN(filter.from_ms, platform::ParseTimeMs(from, "from"));
  }
  if (const std::string to = call.Query("to"); !to.empty()) {
    TP_ASSIGN(filter.to_ms, platform::ParseTimeMs(to, "to"));
  }
  if (filter.to_ms <= filter.from_ms) return Fail(openai::BadField("to", "to must be later than from."));
  return filter;
}

Json SecondsJson(int64_t unix_ms) {
  if (unix_ms % 1000 == 0) return unix_ms / 1000;
  return static_cast<double>(unix_ms) / 1000;
}

void PutAmounts(Json& item, const platform::Amounts& amounts, const std::string& name) {
  Json by_currency = Json::object();
  for (const auto& [currency, amount] : amounts) by_currency[currency] = amount.ToString();
  item[name] = amounts.empty() ? Json("0.00") : amounts.size() == 1 ? *by_currency.begin() : Json(nullptr);
  item[name + "_by_currency"] = std::move(by_currency);
}

Json SumsJson(const platform::UsageSums& sums) {
  Json out{{"requests", sums.requests},
           {"errors", sums.errors},
           {"cancelled", sums.cancelled},
           {"prompt_tokens", sums.tokens.prompt},
           {"cached_tokens", sums.tokens.cached},
           {"output_tokens", sums.tokens.output},
           {"reasoning_tokens", sums.tokens.reasoning},
           {"free_tokens", sums.free_tokens},
           {"device_seconds", static_cast<double>(sums.device_us) / 1e6}};
  PutAmounts(out, sums.amounts, "amount");
  return out;
}

namespace {

constexpr Field kAdjustmentFields[] = {
    {"organisation", FieldType::kString, Treatment::kRead, "whose bill it goes on"},
    {"month", FieldType::kString, Treatment::kRead, "of the bill: \"2026-11\"; this month if not given"},
    {"amount", FieldType::kString, Treatment::kRead, "a decimal; below zero it is a credit"},
    {"currency", FieldType::kString, Treatment::kRead, "of the price book in force if not given"},
    {"reason", FieldType::kString, Treatment::kRead, "shown on the bill, 1 to 1000 bytes"},
    {"workspace", FieldType::kString, Treatment::kRead, "for the reader; may be left out"},
    {"key", FieldType::kString, Treatment::kRead, "for the reader; may be left out"},
    {"model", FieldType::kString, Treatment::kRead, "for the reader; may be left out"}};

Json RowJson(const platform::UsageRow& row, const std::string& currency, bool body_stored) {
  return {{"id", row.id},
          {"request_id", row.request_id},
          {"started_at", SecondsJson(row.started_ms)},
          {"finished_at", SecondsJson(row.finished_ms)},
          {"organisation", row.payer.organisation},
          {"workspace", row.payer.workspace},
          {"key", row.payer.key},
          {"member", row.payer.member.empty() ? Json(nullptr) : Json(row.payer.member)},
          {"model", row.model},
          {"model_version", row.model_version},
          {"endpoint", row.endpoint},
          {"batch", row.batch},
          {"prompt_tokens", row.tokens.prompt},
          {"cached_tokens", row.tokens.cached},
          {"output_tokens", row.tokens.output},
          {"reasoning_tokens", row.tokens.reasoning},
          {"queue_ms", row.queue_ms},
          {"load_ms", row.load_ms},
          {"prefill_ms", row.prefill_ms},
          {"decode_ms", row.decode_ms},
          {"stall_ms", row.stall_ms},
          {"device_seconds", static_cast<double>(row.device_us) / 1e6},
          {"status", platform::UsageStatusName(row.status)},
          {"error_code", row.error_code.empty() ? Json(nullptr) : Json(row.error_code)},
          {"price_version", row.price_version},
          {"amount", platform::Money{row.amount_nanos}.ToString()},
          {"currency", currency.empty() ? Json(nullptr) : Json(currency)},
          {"free_tokens", row.free_tokens},
          {"billing", platform::BillingName(row.billing)},
          {"body_stored", body_stored}};
}

Json BodyJson(const platform::UsageRow& row, const platform::StoredBody& body) {
  return {{"id", row.id},
          {"request_id", row.request_id},
          {"workspace", row.payer.workspace},
          {"model", row.model},
          {"endpoint", row.endpoint},
          {"created_at", body.created_ms / 1000},
          {"expires_at", body.expires_ms / 1000},
          {"redactions", body.redactions},
          {"request", {{"text", body.request}, {"bytes", body.request_bytes}, {"cut", body.request_cut}}},
          {"answer", body.answer},
          {"answer_cut", body.answer_cut}};
}

// Of these rows, those whose bodies are kept.
Result<std::set<std::string>> StoredBodiesOf(const Call& call, const std::vector<platform::UsageRow>& rows) {
  const platform::RequestBodies* bodies = call.services.hooks.bodies;
  if (bodies == nullptr) return std::set<std::string>();
  std::vector<std::string> ids;
  for (const platform::UsageRow& row : rows) ids.push_back(row.id);
  return bodies->Which(ids);
}

// The row of a body that the caller may read: admins those of their organisation or workspace, all others
// what they, or their service key, sent. An operator is not everybody's reader: of other organisations there
// is nothing.
Result<platform::UsageRow> RowOfBody(const Call& call, platform::Accounting& accounting) {
  const platform::Principal& p = call.caller.principal;
  TP_ASSIGN(platform::UsageFilter filter, FilterOf(call));
  filter.organisation = p.organisation;
  TP_ASSIGN(platform::UsageRow row, accounting.reports().FindRequest(filter, call.Id()));
  const bool own =
      p.member.empty() ? row.payer.member.empty() && row.payer.key == p.key : row.payer.member == p.member;
  if (p.role >= Role::kWorkspaceAdmin || own) return row;
  return Fail(ErrorKind::kForbidden, "body_of_another",
              "What another member's requests said is for admins of the workspace; your own you may read.");
}

platform::AuditActor BodyActor(const Call& call, const platform::UsageRow& row) {
  platform::AuditActor actor = call.caller.actor;
  actor.organisation = row.payer.organisation;
  actor.workspace = row.payer.workspace;
  return actor;
}

// Whose it was; never what it said.
Json BodyAudit(const platform::UsageRow& row) {
  return {{"request_id", row.request_id},
          {"key", row.payer.key},
          {"member", row.payer.member},
          {"model", row.model}};
}

void ServeBody(
    Services& services, const std::shared_ptr<Exchange>& exchange,
    const std::function<Result<Json>(Call&, platform::RequestBodies&, const platform::UsageRow&)>& work) {
  if (services.hooks.bodies == nullptr)
    return exchange->Send(ErrorResponse(501, "not_available", "This server stores no request bodies."));
  ServeLedger(services, exchange, 200, [&](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const platform::UsageRow row, RowOfBody(call, accounting));
    return work(call, *services.hooks.bodies, row);
  });
}

// "" for what had no price.
std::string CurrencyOf(const platform::UsageRow& row, const platform::PriceBooks& books) {
  const auto book = row.price_version == 0 ? nullptr : books.Version(row.price_version);
  return book == nullptr ? std::string() : book->currency;
}

Json AdjustmentJson(const platform::Adjustment& a) {
  return {{"id", a.id},
          {"created_at", a.created_ms / 1000},
          {"month", platform::TimeText(a.month_ms).substr(0, 7)},
          {"organisation", a.organisation},
          {"workspace", a.workspace.empty() ? Json(nullptr) : Json(a.workspace)},
          {"key", a.key.empty() ? Json(nullptr) : Json(a.key)},
          {"model", a.model.empty() ? Json(nullptr) : Json(a.model)},
          {"amount", a.amount.ToString()},
          {"currency", a.currency},
          {"reason", a.reason},
          {"created_by", a.created_by}};
}

// "2026-11" (or any time within it); empty: now.
Result<int64_t> MonthOf(const std::string& text, int64_t now_ms) {
  if (text.empty()) return now_ms;
  return platform::ParseTimeMs(text.size() == 7 ? text + "-01" : text, "month");
}

Json BillJson(const platform::Bill& bill) {
  Json lines = Json::array();
  for (const platform::BillLine& line : bill.lines) {
    Json item{{"model", line.model},
              {"key", line.key},
              {"member", line.member.empty() ? Json(nullptr) : Json(line.member)},
              {"workspace", line.workspace},
              {"price_version", line.price_version},
              {"currency", line.currency}};
    item.update(SumsJson(line.sums));
    item["amount"] = line.amount.ToString();
    item.erase("amount_by_currency");  // a line is of one
    lines.push_back(std::move(item));
  }
  Json out = ListJson(std::move(lines), bill.next);
  out["organisation"] = bill.organisation;
  out["from"] = platform::TimeText(bill.from_ms);
  out["to"] = platform::TimeText(bill.to_ms);
  out["adjustments"] = Json::array();
  for (const platform::Adjustment& a : bill.adjustments) out["adjustments"].push_back(AdjustmentJson(a));
  out["totals"] = Json::object();
  for (const auto& [currency, total] : bill.totals) out["totals"][currency] = total.ToString();
  Json sums = SumsJson(bill.sums);
  for (const char* name : {"amount", "amount_by_currency"}) sums.erase(name);  // totals says it
  out["usage"] = std::move(sums);
  return out;
}

Result<platform::GroupBy> GroupOf(const Call& call) {
  const std::string text = call.Query("group_by");
  return text.empty() ? platform::GroupBy::kNone : platform::ParseGroupBy(text);
}

Result<ListPage> UsagePageOf(Call& call, const platform::Page& page) {
  platform::Accounting& accounting = *call.services.hooks.accounting;
  TP_ASSIGN(const platform::UsageFilter filter, FilterOf(call));
  TP_ASSIGN(const platform::GroupBy group_by, GroupOf(call));
  TP_ASSIGN(const auto sums, accounting.reports().Usage(filter, group_by, page.after, page.limit));
  ListPage out;
  out.next = sums.next;
  for (const platform::UsageGroup& group : sums.items) {
    Json item = Json::object();
    if (group_by != platform::GroupBy::kNone)
      item[std::string(platform::GroupByName(group_by))] = group.group;
    item.update(SumsJson(group.sums));
    if (call.caller.principal.is_operator) {
      // The installation's own cost is the operator's to know.
      const platform::RealCost& cost = accounting.cost();
      const auto margin = cost.Margin(group.sums.amounts, group.sums.device_us);
      item["cost"] = cost.Of(group.sums.device_us).ToString();
      item["cost_currency"] = cost.currency;
      item["margin"] = margin ? Json(margin->ToString()) : Json(nullptr);
      item["no_margin_because"] = margin ? Json(nullptr) : Json(margin.error().message);
    }
    out.data.push_back(std::move(item));
  }
  return out;
}

Result<std::vector<std::string>> UsageColumnsOf(Call& call) {
  TP_ASSIGN(const platform::GroupBy group_by, GroupOf(call));
  std::vector<std::string> columns;
  if (group_by != platform::GroupBy::kNone) columns.emplace_back(platform::GroupByName(group_by));
  for (std::string& name : FieldsOf(SumsJson({}))) columns.push_back(std::move(name));
  if (call.caller.principal.is_operator) {
    for (const char* name : {"cost", "cost_currency", "margin"}) columns.emplace_back(name);
  }
  return columns;
}

Result<ListPage> RequestsPage(Call& call, const platform::Page& page) {
  platform::Accounting& accounting = *call.services.hooks.accounting;
  TP_ASSIGN(const platform::UsageFilter filter, FilterOf(call));
  TP_ASSIGN(const auto rows, accounting.reports().Requests(filter, page.after, page.limit));
  TP_ASSIGN(const auto stored, StoredBodiesOf(call, rows.items));
  ListPage out;
  out.next = rows.next;
  for (const platform::UsageRow& row : rows.items)
    out.data.push_back(RowJson(row, CurrencyOf(row, accounting.books()), stored.contains(row.id)));
  return out;
}

Result<std::vector<std::string>> RequestColumns(Call&) { return FieldsOf(RowJson({}, "", false)); }

Result<platform::AuditActor> OwnerOfUsage(Call& call) {
  TP_ASSIGN(const platform::UsageFilter filter, FilterOf(call));
  platform::AuditActor owner = call.caller.actor;
  owner.organisation = filter.organisation;
  owner.workspace = filter.workspace;
  return owner;
}

Result<platform::Bill> BillOf(Call& call, const platform::Page& page) {
  platform::Accounting& accounting = *call.services.hooks.accounting;
  TP_ASSIGN(const std::string organisation, OrganisationOf(call, call.Query("organisation")));
  TP_ASSIGN(const int64_t month, MonthOf(call.Query("month"), accounting.now_ms()));
  return accounting.reports().MonthlyBill(organisation, month, page.after, page.limit);
}

// All of it.
Result<HttpResponse> ExportBill(Call& call, bool csv) {
  for (const char* name : {"limit", "after"}) {
    if (!call.Query(name).empty())
      return Fail(openai::BadField(name, fmt::format("A file holds the whole bill: leave out {}.", name)));
  }
  TP_ASSIGN(const platform::Bill bill, BillOf(call, {.limit = kMostExportedRows, .after = {}}));
  if (!bill.next.empty()) {
    return Fail(ErrorKind::kTooLarge, "bill_too_long",
                fmt::format("The bill has more than {} lines; page it as JSON.", kMostExportedRows));
  }
  platform::AuditActor owner = call.caller.actor;
  owner.organisation = bill.organisation;  // the operator may be of another
  owner.workspace.clear();
  const std::string month = platform::TimeText(bill.from_ms).substr(0, 7);
  return Export(call, owner,
                {.action = "bill.exported",
                 .object = bill.organisation,
                 .name = fmt::format("bill-{}.{}", month, csv ? "csv" : "json"),
                 .content_type = csv ? "text/csv; charset=utf-8" : "application/json",
                 .body = csv ? platform::BillCsv(bill) : DumpJson(BillJson(bill)),
                 .bounds = {{"month", month}, {"format", csv ? "csv" : "json"}},
                 .rows = std::ssize(bill.lines) + std::ssize(bill.adjustments)});
}

}  // namespace

void Usage(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.hooks.accounting == nullptr) return SendNoLedger(exchange);
  // A page of groups reads all rows: few of them for a file.
  ServeList(services, exchange,
            {.action = "usage.exported",
             .name = "usage",
             .page = UsagePageOf,
             .columns = UsageColumnsOf,
             .owner = OwnerOfUsage,
             .rows_a_query = 10'000});
}

void ListRequests(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.hooks.accounting == nullptr) return SendNoLedger(exchange);
  ServeList(services, exchange,
            {.action = "requests.exported",
             .name = "requests",
             .page = RequestsPage,
             .columns = RequestColumns,
             .owner = OwnerOfUsage});
}

void GetRequest(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_ASSIGN(const platform::UsageFilter filter, FilterOf(call));
    TP_ASSIGN(const platform::UsageRow row, accounting.reports().FindRequest(filter, call.Id()));
    TP_ASSIGN(const auto stored, StoredBodiesOf(call, {row}));
    return RowJson(row, CurrencyOf(row, accounting.books()), !stored.empty());
  });
}

// An export: nobody reads it without a row in the audit log.
void GetRequestBody(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeBody(
      services, exchange,
      [](Call& call, platform::RequestBodies& bodies, const platform::UsageRow& row) -> Result<Json> {
        TP_ASSIGN(const platform::StoredBody body, bodies.Find(row.payer.workspace, row.id));
        TP_TRY(call.audit().Record(BodyActor(call, row), "body.exported", row.id, nullptr, BodyAudit(row)));
        return BodyJson(row, body);
      });
}

void DeleteRequestBody(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeBody(services, exchange,
            [](Call& call, platform::RequestBodies& bodies, const platform::UsageRow& row) -> Result<Json> {
              TP_TRY(bodies.Delete(row.payer.workspace, row.id, [&](store::Session& session) {
                return call.audit().Append(session, BodyActor(call, row), "body.deleted", row.id,
                                           BodyAudit(row), nullptr);
              }));
              return Json{{"id", row.id}, {"deleted", true}};
            });
}

void QueryRange(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 200, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    platform::RangeQuery query;
    TP_ASSIGN(query.filter, FilterOf(call));
    TP_ASSIGN(query.metric,
              platform::ParseMetric(call.Query("metric").empty() ? "requests" : call.Query("metric")));
    if (query.filter.to_ms == INT64_MAX) query.filter.to_ms = accounting.now_ms() + 1;
    if (query.filter.from_ms == 0)
      query.filter.from_ms = std::max<int64_t>(1, query.filter.to_ms - 3'600'000);
    TP_ASSIGN(const std::optional<int64_t> step, call.QueryInteger("step"));
    if (step && (*step < 1 || *step > 31 * 86'400))
      return Fail(openai::BadField("step", "step must be 1 to 2678400 seconds."));
    query.step_ms = step.value_or(60) * 1000;
    if (const std::string text = call.Query("group_by"); !text.empty()) {
      TP_ASSIGN(query.group_by, platform::ParseGroupBy(text));
    }
    TP_ASSIGN(const std::optional<int64_t> top, call.QueryInteger("top"));
    query.top = top.value_or(0);
    TP_ASSIGN(const auto series, accounting.reports().Range(query));
    Json data = Json::array();
    for (const platform::RangeSeries& one : series) {
      Json item = Json::object();
      if (query.group_by != platform::GroupBy::kNone)
        item[std::string(platform::GroupByName(query.group_by))] =
            one.others ? Json(nullptr) : Json(one.group);
      if (query.top > 0) item["others"] = one.others;
      if (!one.currency.empty()) item["currency"] = one.currency;
      item["points"] = Json::array();
      for (const auto& [at, value] : one.points) item["points"].push_back(Json::array({at / 1000, value}));
      for (const auto& [at, amount] : one.amounts)
        item["points"].push_back(Json::array({at / 1000, amount.ToString()}));
      data.push_back(std::move(item));
    }
    Json out;
    out["data"] = std::move(data);
    out["from"] = SecondsJson(query.filter.from_ms);
    out["to"] = SecondsJson(query.filter.to_ms);
    out["step"] = query.step_ms / 1000;
    return out;
  });
}

void GetBill(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.hooks.accounting == nullptr) return SendNoLedger(exchange);
  ServeReply(services, exchange, [](Call& call) -> Result<HttpResponse> {
    const std::string format = call.Query("format");
    if (format == "csv" || format == "json") return ExportBill(call, format == "csv");
    if (!format.empty()) {
      return Fail(openai::BadField(
          "format", fmt::format("format is \"{}\"; give csv or json for a file, or none for pages of JSON.",
                                format.substr(0, 40))));
    }
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const platform::Bill bill, BillOf(call, page));
    return JsonResponse(BillJson(bill));
  });
}

void GetBillCsv(Services& services, std::shared_ptr<Exchange> exchange) {
  if (services.hooks.accounting == nullptr) return SendNoLedger(exchange);
  ServeReply(services, exchange, [](Call& call) -> Result<HttpResponse> { return ExportBill(call, true); });
}

void AdjustBill(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeLedger(services, exchange, 201, [](Call& call, platform::Accounting& accounting) -> Result<Json> {
    TP_TRY(call.ReadBody(kAdjustmentFields));
    platform::Adjustment a;
    TP_ASSIGN(const std::string organisation, call.Required("organisation"));
    TP_ASSIGN(a.organisation, OwnerOfScope(call, {platform::ScopeKind::kOrganisation, organisation}));
    TP_ASSIGN(a.month_ms, MonthOf(call.String("month").value_or(""), accounting.now_ms()));
    TP_ASSIGN(const std::string amount, call.Required("amount"));
    const auto money = platform::Money::Parse(amount);
    if (!money) return Fail(openai::BadField("amount", money.error().message, money.error().code));
    a.amount = *money;
    TP_ASSIGN(a.reason, call.Required("reason"));
    a.currency = call.String("currency").value_or(accounting.books().At(accounting.now_ms())->currency);
    if (!platform::IsCurrency(a.currency))
      return Fail(openai::BadField("currency", "currency must be three capitals, such as EUR."));
    for (const auto& [name, field] :
         {std::pair("workspace", &a.workspace), std::pair("key", &a.key), std::pair("model", &a.model)}) {
      *field = call.String(name).value_or("");
      if (field->size() > 512) return Fail(openai::BadField(name, "at most 512 bytes."));
    }
    a.created_by =
        call.caller.principal.member.empty() ? call.caller.principal.key : call.caller.principal.member;
    TP_ASSIGN(const platform::Adjustment made, accounting.Adjust(call.caller.actor, a));
    return AdjustmentJson(made);
  });
}

// ---- schemas -----------------------------------------------------------------------------------------

Json UsageSchema() {
  Json item = SchemaLike(SumsJson({}));
  for (const char* name : {"model", "key", "member", "workspace", "organisation", "endpoint", "status", "day",
                           "cost", "cost_currency"}) {
    item["properties"][name] = {{"type", "string"}, {"optional", true}};
  }
  const Json text_or_null = Json::array({"string", "null"});
  item["properties"]["amount"] = {{"type", text_or_null},
                                  {"description", "null where there are several currencies"}};
  item["properties"]["amount_by_currency"]["additionalProperties"]["type"] = "string";
  item["properties"]["margin"] = {{"type", text_or_null},
                                  {"optional", true},
                                  {"description", "amount less cost; null where their currencies differ"}};
  item["properties"]["no_margin_because"] = {{"type", text_or_null}, {"optional", true}};
  return ListSchemaOf(std::move(item));
}
Json RequestSchema() {
  Json schema = SchemaLike(RowJson({}, "", false));
  for (const char* name : {"started_at", "finished_at"}) schema["properties"][name]["type"] = "number";
  return schema;
}
Json RequestBodySchema() {
  Json schema = SchemaLike(BodyJson({}, {}));
  Json& properties = schema["properties"];
  properties["request"] = SchemaLike(BodyJson({}, {})["request"]);
  properties["request"]["properties"]["text"]["description"] =
      "the JSON that was sent, redacted; where it is cut, no JSON any more";
  Json call = SchemaLike({{"id", ""}, {"name", ""}, {"arguments", ""}});
  Json choice = SchemaLike({{"content", ""}, {"reasoning", ""}, {"tool_calls", Json::array()}});
  choice["properties"]["tool_calls"]["items"] = std::move(call);
  Json answer = SchemaLike({{"choices", Json::array()}});
  answer["properties"]["choices"]["items"] = std::move(choice);
  answer["properties"]["embeddings"] = SchemaLike({{"count", 0}, {"dimensions", 0}});
  answer["properties"]["embeddings"]["type"] = Json::array({"object", "null"});
  answer["properties"]["scores"] = {{"type", Json::array({"array", "null"})},
                                    {"items", {{"type", "number"}}}};
  properties["answer"] = std::move(answer);
  return schema;
}
Json RequestListSchema() { return ListSchemaOf(RequestSchema()); }
Json RangeSchema() {
  Json schema = Json::parse(R"json({"type": "object", "properties": {
    "data": {"type": "array", "items": {"type": "object", "properties": {"points": {"type": "array",
      "items": {"type": "array", "items": {"type": ["number", "string"]},
        "description": "seconds since 1970, value (of amount a decimal, as text); steps without requests are left out"}},
      "currency": {"type": "string", "optional": true, "description": "of amounts: each currency is a series of its own"},
      "others": {"type": "boolean", "optional": true, "description": "with top: all groups beyond it, as one"}}}},
    "from": {"type": "number"}, "to": {"type": "number"}, "step": {"type": "integer"}}})json");
  for (const char* name : {"model", "key", "member", "workspace", "organisation", "endpoint", "status"}) {
    schema["properties"]["data"]["items"]["properties"][name] = Json{
        {"type", {"string", "null"}}, {"optional", true}, {"description", "of group_by; null: the others"}};
  }
  return schema;
}
Json AdjustmentSchema() { return SchemaLike(AdjustmentJson({})); }
Json AdjustmentRequestSchema() {
  return openai::SchemaOf(kAdjustmentFields, {"organisation", "amount", "reason"});
}
Json BillSchema() {
  Json line = SchemaLike(SumsJson({}));
  line["properties"].erase("amount_by_currency");
  for (const char* name : {"model", "key", "workspace", "currency"})
    line["properties"][name]["type"] = "string";
  line["properties"]["member"]["type"] = Json::array({"string", "null"});
  line["properties"]["price_version"]["type"] = "integer";
  Json schema = ListSchemaOf(std::move(line));
  for (const char* name : {"organisation", "from", "to"}) schema["properties"][name]["type"] = "string";
  schema["properties"]["adjustments"] = Json{{"type", "array"}, {"items", AdjustmentSchema()}};
  schema["properties"]["totals"] =
      Json{{"type", "object"}, {"description", "by currency: all lines and adjustments of the month"}};
  schema["properties"]["totals"]["additionalProperties"]["type"] = "string";
  schema["properties"]["usage"] = SchemaLike(SumsJson({}));
  for (const char* name : {"amount", "amount_by_currency"})
    schema["properties"]["usage"]["properties"].erase(name);
  return schema;
}

}  // namespace tidepool::gateway::native
