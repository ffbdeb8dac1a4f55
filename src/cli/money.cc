// usage, bill, prices, quota, budget, limits, webhook: what was used, what it costs, what may be used.
#include <fmt/format.h>

#include <ctime>
#include <fstream>
#include <sstream>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

std::string Escaped(std::string_view text) { return ApiClient::Segment(text); }

// "?a=b&c=d" of what is not empty.
std::string QueryText(std::initializer_list<std::pair<const char*, std::string>> parameters) {
  std::string query;
  for (const auto& [name, value] : parameters) {
    if (!value.empty()) query += fmt::format("{}{}={}", query.empty() ? "?" : "&", name, Escaped(value));
  }
  return query;
}

std::string Whole(const Json& row, const char* key) {
  const std::string text = TextField(row, key);
  return text.empty() ? "-" : text;
}

// "1.25 EUR", "1.00 EUR + 2.00 USD": what came to something in each currency.
std::string AmountsText(const Json& row, const std::string& name) {
  std::string text;
  const Json amounts = row.value(name + "_by_currency", Json::object());
  for (const auto& [currency, amount] : amounts.items())
    text += fmt::format("{}{} {}", text.empty() ? "" : " + ", amount.get<std::string>(), currency);
  return text.empty() ? "0.00" : text;
}

std::string ScopeOf(const std::string& text) {
  // A bare id of a key or workspace says what it is.
  if (text.find(':') != std::string::npos) return text;
  if (text.starts_with("key-")) return "key:" + text;
  if (text.starts_with("ws-")) return "workspace:" + text;
  return "organisation:" + text;
}

Result<Json> ReadJsonFile(const std::string& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  if (!file) return Fail(ErrorKind::kInvalid, "usage", fmt::format("cannot read {}", path));
  Json json = Json::parse(text.str(), nullptr, false);
  if (json.is_discarded()) return Fail(ErrorKind::kInvalid, "usage", fmt::format("{} holds no JSON", path));
  return json;
}

void PrintSums(const std::string& label, const Json& data, const char* key) {
  std::vector<std::vector<std::string>> rows;
  const bool margins = !data.empty() && data[0].contains("margin");
  for (const Json& row : data) {
    std::vector<std::string> cells{key == nullptr ? "all" : Whole(row, key),
                                   Whole(row, "requests"),
                                   Whole(row, "prompt_tokens"),
                                   Whole(row, "cached_tokens"),
                                   Whole(row, "output_tokens"),
                                   Whole(row, "reasoning_tokens"),
                                   NumberText(NumberField(row, "device_seconds")),
                                   AmountsText(row, "amount")};
    if (margins) {
      const std::string margin = TextField(row, "margin");
      cells.push_back(margin.empty() ? "-" : margin + " " + TextField(row, "cost_currency"));
    }
    rows.push_back(std::move(cells));
  }
  std::vector<Column> columns{{label},
                              {"REQUESTS", Align::kRight},
                              {"PROMPT", Align::kRight},
                              {"CACHED", Align::kRight, true},
                              {"OUTPUT", Align::kRight},
                              {"REASONING", Align::kRight, true},
                              {"DEVICE S", Align::kRight},
                              {"AMOUNT", Align::kRight}};
  if (margins) columns.push_back({"MARGIN", Align::kRight, true});
  fmt::print("{}", TableText(std::move(columns), std::move(rows)));
}

std::string ThresholdsText(const Json& budget) {
  std::string text;
  const Json thresholds = budget.value("thresholds", Json::array());
  for (const Json& percent : thresholds) text += fmt::format("{}{}", text.empty() ? "" : ",", percent.dump());
  return text.empty() ? "-" : text;
}

std::string UpperCase(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return text;
}

// A file of the server's, as it is.
Status PrintCsv(Session& session, const std::string& target) {
  if (session.json()) return Fail(ErrorKind::kInvalid, "usage", "choose one of --csv and --json");
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const std::string csv, api->GetText(target));
  fmt::print("{}", csv);
  return {};
}

}  // namespace

Status ShowUsage(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string query = QueryText({{"group_by", o.group_by},
                                       {"from", o.from},
                                       {"to", o.to},
                                       {"organisation", o.organisation},
                                       {"workspace", o.workspace},
                                       {"key", o.key},
                                       {"model", o.model},
                                       {"format", o.csv ? "csv" : ""}});
  if (o.csv) return PrintCsv(session, "/api/v1/usage" + query);
  TP_ASSIGN(const Json reply, api->GetAll("/api/v1/usage" + query));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  PrintSums(o.group_by.empty() ? "" : UpperCase(o.group_by), reply.value("data", Json::array()),
            o.group_by.empty() ? nullptr : o.group_by.c_str());
  for (const Json& row : reply.value("data", Json::array())) {
    const std::string reason = TextField(row, "no_margin_because");
    if (reason.empty()) continue;
    fmt::print("no margin: {}\n", reason);
    break;
  }
  return {};
}

Status ShowBill(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  // Whole, and in the audit log as an export, where a program or a file takes it.
  const std::string format = o.csv ? "csv" : session.json() ? "json" : "";
  const std::string target =
      "/api/v1/bills" + QueryText({{"month", o.month}, {"organisation", o.organisation}, {"format", format}});
  if (o.csv) return PrintCsv(session, target);
  if (session.json()) {
    TP_ASSIGN(const Json whole, api->Get(target, 60));
    PrintJson(whole);
    return {};
  }
  TP_ASSIGN(const Json bill, api->GetAll(target));
  fmt::print("{}  {} to {}\n", Whole(bill, "organisation"), Whole(bill, "from").substr(0, 10),
             Whole(bill, "to").substr(0, 10));
  std::vector<std::vector<std::string>> rows;
  for (const Json& line : bill.value("data", Json::array())) {
    rows.push_back({Whole(line, "model"), Whole(line, "key"), Whole(line, "member"), Whole(line, "requests"),
                    Whole(line, "prompt_tokens"), Whole(line, "output_tokens"), Whole(line, "free_tokens"),
                    Whole(line, "amount"), Whole(line, "currency")});
  }
  for (const Json& a : bill.value("adjustments", Json::array())) {
    rows.push_back({Whole(a, "model"), Whole(a, "key"), "-", "-", "-", "-", "-", Whole(a, "amount"),
                    Whole(a, "currency") + "  " + TextField(a, "reason")});
  }
  const Json totals = bill.value("totals", Json::object());
  for (const auto& [currency, total] : totals.items()) {
    rows.push_back({"total", "", "", "", "", "", "", total.get<std::string>(), currency});
  }
  fmt::print("{}", TableText({{"MODEL"},
                              {"KEY"},
                              {"MEMBER", Align::kLeft, true},
                              {"REQUESTS", Align::kRight},
                              {"PROMPT", Align::kRight},
                              {"OUTPUT", Align::kRight},
                              {"FREE", Align::kRight},
                              {"AMOUNT", Align::kRight},
                              {""}},
                             std::move(rows)));
  return {};
}

Status ShowAdjustments(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(
      const Json bill,
      api->Get("/api/v1/bills" + QueryText({{"month", o.month}, {"organisation", o.organisation}}), 60));
  const Json adjustments = bill.value("adjustments", Json::array());
  if (session.json()) {
    PrintJson({{"organisation", bill["organisation"]}, {"from", bill["from"]}, {"data", adjustments}});
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& a : adjustments) {
    rows.push_back({Whole(a, "id"), Whole(a, "amount"), Whole(a, "currency"), Whole(a, "created_by"),
                    Whole(a, "reason")});
  }
  fmt::print("{}",
             TableText({{"ID"}, {"AMOUNT", Align::kRight}, {""}, {"BY", Align::kLeft, true}, {"REASON"}},
                       std::move(rows)));
  return {};
}

Status AdjustBill(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body{{"organisation", o.organisation}, {"amount", o.amount}, {"reason", o.reason}};
  for (const auto& [name, value] :
       {std::pair("month", &o.month), std::pair("currency", &o.currency),
        std::pair("workspace", &o.workspace), std::pair("key", &o.key), std::pair("model", &o.model)}) {
    if (!value->empty()) body[name] = *value;
  }
  TP_ASSIGN(const Json made, api->Post("/api/v1/bills/adjustments", body));
  if (session.json()) {
    PrintJson(made);
  } else {
    fmt::print("{}: {} {} on the bill of {} for {}\n", Whole(made, "id"), Whole(made, "amount"),
               Whole(made, "currency"), Whole(made, "organisation"), Whole(made, "month"));
  }
  return {};
}

Status ShowPrices(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json reply;
  if (!o.file.empty() && !o.dry_run) {
    TP_ASSIGN(const Json book, ReadJsonFile(o.file));
    TP_ASSIGN(reply, api->Post("/api/v1/prices", book));
    if (!session.json()) {
      fmt::print("price book {} is in force from {}\n", Whole(reply, "version"), Whole(reply, "valid_from"));
      return {};
    }
  } else if (!o.file.empty()) {
    Json body;
    TP_ASSIGN(body["book"], ReadJsonFile(o.file));
    if (!o.month.empty()) body["month"] = o.month;
    if (!o.organisation.empty()) body["organisation"] = o.organisation;
    TP_ASSIGN(reply, api->Post("/api/v1/prices/dry_run", body, 300));
    if (!session.json()) {
      const std::string currency = TextField(reply, "currency");
      std::vector<std::vector<std::string>> rows;
      for (const Json& line : reply.value("data", Json::array())) {
        rows.push_back({Whole(line, "model"), Whole(line, "requests"), AmountsText(line, "was"),
                        Whole(line, "would_be") + " " + currency});
      }
      rows.push_back({"total", Whole(reply, "requests"), AmountsText(reply, "was"),
                      Whole(reply, "would_be") + " " + currency});
      fmt::print(
          "{}",
          TableText(
              {{"MODEL"}, {"REQUESTS", Align::kRight}, {"WAS", Align::kRight}, {"WOULD BE", Align::kRight}},
              std::move(rows)));
      return {};
    }
  } else {
    TP_ASSIGN(reply, api->GetAll("/api/v1/prices"));
    if (!session.json()) {
      const Json book = reply.value("current", Json::object());
      if (!reply.value("priced", false)) {
        fmt::print("unpriced: everything costs nothing (tidepool prices --set FILE)\n");
        return {};
      }
      fmt::print("version {}, {} for a million tokens, from {}\n", Whole(book, "version"),
                 Whole(book, "currency"), Whole(book, "valid_from"));
      std::vector<std::vector<std::string>> rows;
      for (const Json& model : book.value("models", Json::array())) {
        for (const Json& tier : model.value("tiers", Json::array())) {
          const std::string up_to = TextField(tier, "up_to");
          rows.push_back({Whole(model, "model"), up_to.empty() ? "any" : "to " + up_to, Whole(tier, "input"),
                          Whole(tier, "cached_input"), Whole(tier, "output"),
                          Whole(tier, "reasoning_output")});
        }
        if (model.contains("embedding"))
          rows.push_back({Whole(model, "model"), "embedding", Whole(model, "embedding"), "-", "-", "-"});
      }
      fmt::print("{}", TableText({{"MODEL"},
                                  {"PROMPT"},
                                  {"INPUT", Align::kRight},
                                  {"CACHED", Align::kRight},
                                  {"OUTPUT", Align::kRight},
                                  {"REASONING", Align::kRight}},
                                 std::move(rows)));
      return {};
    }
  }
  PrintJson(reply);
  return {};
}

Status ShowQuota(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json reply;
  if (o.stop || o.total || o.days) {
    if (o.model.empty())
      return Fail(ErrorKind::kInvalid, "usage", "name the model: tidepool quota MODEL --stop");
    Json body{{"model", o.model}};
    if (o.stop) body["stop_when_exhausted"] = *o.stop;
    if (o.total) body["total"] = *o.total;
    if (o.days) body["expires_at"] = static_cast<int64_t>(std::time(nullptr)) + *o.days * 86'400;
    if (!o.organisation.empty()) body["organisation"] = o.organisation;
    TP_ASSIGN(const Json changed, api->Put("/api/v1/quotas", body));
    reply = Json{{"data", Json::array({changed})}};
  } else {
    TP_ASSIGN(reply, api->GetAll("/api/v1/quotas" + QueryText({{"organisation", o.organisation}})));
  }
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& quota : reply.value("data", Json::array())) {
    if (!o.model.empty() && TextField(quota, "model") != o.model) continue;
    rows.push_back({Whole(quota, "model"), Whole(quota, "used"), Whole(quota, "total"),
                    Whole(quota, "remaining"), Whole(quota, "state"),
                    quota.value("stop_when_exhausted", false) ? "stops" : "goes on"});
  }
  fmt::print("{}", TableText({{"MODEL"},
                              {"USED", Align::kRight},
                              {"OF", Align::kRight},
                              {"LEFT", Align::kRight},
                              {"STATE"},
                              {"THEN"}},
                             std::move(rows)));
  return {};
}

Status ShowBudget(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json reply;
  if (!o.remove.empty()) {
    TP_ASSIGN(const Json removed, api->Delete("/api/v1/budgets/" + Escaped(o.remove)));
    if (session.json()) {
      PrintJson(removed);
    } else {
      fmt::print("removed {}\n", o.remove);
    }
    return {};
  }
  if (!o.scope.empty()) {
    if (o.amount.empty())
      return Fail(ErrorKind::kInvalid, "usage", "how much: tidepool budget SCOPE --amount 100");
    Json body{{"scope", ScopeOf(o.scope)}, {"amount", o.amount}};
    if (!o.period.empty()) body["period"] = o.period;
    if (o.block) body["block"] = *o.block;
    if (!o.currency.empty()) body["currency"] = o.currency;
    if (!o.thresholds.empty()) body["thresholds"] = o.thresholds;
    TP_ASSIGN(const Json made, o.id.empty() ? api->Post("/api/v1/budgets", body)
                                            : api->Put("/api/v1/budgets/" + Escaped(o.id), body));
    reply = Json{{"data", Json::array({made})}};
  } else {
    TP_ASSIGN(reply, api->GetAll("/api/v1/budgets"));
  }
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& budget : reply.value("data", Json::array())) {
    rows.push_back({Whole(budget, "id"), Whole(budget, "scope"), Whole(budget, "period"),
                    Whole(budget, "spent"), Whole(budget, "amount"), Whole(budget, "currency"),
                    ThresholdsText(budget), budget.value("block", true) ? "blocks" : "tells"});
  }
  fmt::print("{}", TableText({{"ID"},
                              {"SCOPE"},
                              {"PERIOD"},
                              {"SPENT", Align::kRight},
                              {"OF", Align::kRight},
                              {"IN"},
                              {"TOLD AT %", Align::kLeft, true},
                              {"THEN"}},
                             std::move(rows)));
  return {};
}

Status ShowLimits(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json reply;
  if (!o.remove.empty()) {
    TP_ASSIGN(const Json removed,
              api->Delete("/api/v1/limits" + QueryText({{"scope", ScopeOf(o.remove)}, {"model", o.model}})));
    if (session.json()) {
      PrintJson(removed);
    } else {
      fmt::print("removed the limit of {}\n", ScopeOf(o.remove));
    }
    return {};
  }
  const std::pair<const char*, std::optional<int64_t>> numbers[] = {
      {"requests_per_minute", o.requests_per_minute},
      {"tokens_per_minute", o.tokens_per_minute},
      {"tokens_per_day", o.tokens_per_day},
      {"concurrent_requests", o.concurrent},
      {"context_length", o.context_length},
      {"max_output_tokens", o.max_output_tokens},
      {"burst_s", o.burst_s}};
  Json body{{"scope", ScopeOf(o.scope)}};
  for (const auto& [name, value] : numbers) {
    if (value) body[name] = *value;
  }
  if (!o.model.empty()) body["model"] = o.model;
  if (!o.scope.empty() && body.size() > (o.model.empty() ? 1u : 2u)) {
    TP_ASSIGN(const Json made, api->Put("/api/v1/limits", body));
    reply = Json{{"data", Json::array({made})}};
  } else {
    TP_ASSIGN(reply,
              api->GetAll("/api/v1/limits" + QueryText({{"scope", o.scope.empty() ? "" : ScopeOf(o.scope)},
                                                        {"model", o.model}})));
  }
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& limit : reply.value("data", Json::array())) {
    rows.push_back({Whole(limit, "scope"), Whole(limit, "model"), Whole(limit, "requests_per_minute"),
                    Whole(limit, "tokens_per_minute"), Whole(limit, "tokens_per_day"),
                    Whole(limit, "concurrent_requests"), Whole(limit, "context_length"),
                    Whole(limit, "max_output_tokens"), Whole(limit, "burst_s")});
  }
  fmt::print("{}", TableText({{"SCOPE"},
                              {"MODEL"},
                              {"REQUESTS/MIN", Align::kRight},
                              {"TOKENS/MIN", Align::kRight},
                              {"TOKENS/DAY", Align::kRight},
                              {"AT A TIME", Align::kRight},
                              {"CONTEXT", Align::kRight, true},
                              {"OUTPUT", Align::kRight, true},
                              {"BURST S", Align::kRight, true}},
                             std::move(rows)));
  return {};
}

Status ShowWebhook(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json webhook, api->Get("/api/v1/webhook" + QueryText({{"organisation", o.organisation}})));
  if (session.json()) {
    PrintJson(webhook);
  } else {
    const std::string url = TextField(webhook, "url");
    fmt::print("{}\n", url.empty() ? "none: tidepool webhook set https://..." : url);
  }
  return {};
}

Status SetWebhook(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json webhook, api->Put("/api/v1/webhook", {{"url", o.url}}));
  if (session.json()) {
    PrintJson(webhook);
  } else {
    fmt::print("{}\nsigns what is sent; it is shown once\n", Whole(webhook, "secret"));
  }
  return {};
}

Status TestWebhook(Session& session, const MoneyOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json tried, api->Post("/api/v1/webhook/test", Json::object(), 60));
  if (session.json()) PrintJson(tried);
  if (!tried.value("delivered", false)) {
    return Fail(ErrorKind::kUnavailable, "webhook_not_delivered",
                fmt::format("{} did not take it: {}", Whole(tried, "url"), Whole(tried, "problem")));
  }
  if (!session.json()) fmt::print("{} took it\n", Whole(tried, "url"));
  return {};
}

Status RemoveWebhook(Session& session, const MoneyOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json removed, api->Delete("/api/v1/webhook"));
  if (session.json()) {
    PrintJson(removed);
  } else {
    fmt::print("removed\n");
  }
  return {};
}

}  // namespace tidepool::cli
