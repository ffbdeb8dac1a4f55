// usage, bill, prices, quota, budget, limits: what was used, what it costs, what may be used.
#include <fmt/format.h>

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

// All pages of a list, as one.
Result<Json> GetAll(ApiClient& api, const std::string& path) {
  Json all;
  std::string after;
  do {
    const std::string page =
        after.empty() ? path
                      : fmt::format("{}{}after={}", path, path.find('?') == std::string::npos ? "?" : "&",
                                    Escaped(after));
    TP_ASSIGN(const Json reply, api.Get(page, 60));
    if (all.is_null()) {
      all = reply;
    } else {
      for (const Json& item : reply.value("data", Json::array())) all["data"].push_back(item);
    }
    after = TextField(reply, "next_cursor");
  } while (!after.empty());
  return all;
}

std::string Whole(const Json& row, const char* key) {
  const std::string text = TextField(row, key);
  return text.empty() ? "-" : text;
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
                                   Whole(row, "amount")};
    if (margins) cells.push_back(Whole(row, "margin"));
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

std::string UpperCase(std::string text) {
  for (char& c : text) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  return text;
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
                                       {"model", o.model}});
  TP_ASSIGN(const Json reply, GetAll(*api, "/api/v1/usage" + query));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  PrintSums(o.group_by.empty() ? "" : UpperCase(o.group_by), reply.value("data", Json::array()),
            o.group_by.empty() ? nullptr : o.group_by.c_str());
  return {};
}

Status ShowBill(Session& session, const MoneyOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string query = QueryText({{"month", o.month}, {"organisation", o.organisation}});
  TP_ASSIGN(const Json bill, GetAll(*api, "/api/v1/bills" + query));
  if (session.json()) {
    PrintJson(bill);
    return {};
  }
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
      std::vector<std::vector<std::string>> rows;
      for (const Json& line : reply.value("data", Json::array())) {
        rows.push_back(
            {Whole(line, "model"), Whole(line, "requests"), Whole(line, "was"), Whole(line, "would_be")});
      }
      rows.push_back({"total", Whole(reply, "requests"), Whole(reply, "was"), Whole(reply, "would_be")});
      fmt::print(
          "{}",
          TableText(
              {{"MODEL"}, {"REQUESTS", Align::kRight}, {"WAS", Align::kRight}, {"WOULD BE", Align::kRight}},
              std::move(rows)));
      return {};
    }
  } else {
    TP_ASSIGN(reply, api->Get("/api/v1/prices"));
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
  if (o.stop || o.total) {
    if (o.model.empty())
      return Fail(ErrorKind::kInvalid, "usage", "name the model: tidepool quota MODEL --stop");
    Json body{{"model", o.model}};
    if (o.stop) body["stop_when_exhausted"] = *o.stop;
    if (o.total) body["total"] = *o.total;
    if (!o.organisation.empty()) body["organisation"] = o.organisation;
    TP_ASSIGN(const Json changed, api->Put("/api/v1/quotas", body));
    reply = Json{{"data", Json::array({changed})}};
  } else {
    TP_ASSIGN(reply, GetAll(*api, "/api/v1/quotas" + QueryText({{"organisation", o.organisation}})));
  }
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& quota : reply.value("data", Json::array())) {
    if (!o.model.empty() && TextField(quota, "model") != o.model) continue;
    rows.push_back({Whole(quota, "model"), Whole(quota, "used"), Whole(quota, "total"),
                    Whole(quota, "remaining"),
                    quota.value("stop_when_exhausted", false) ? "stops" : "goes on"});
  }
  fmt::print(
      "{}",
      TableText(
          {{"MODEL"}, {"USED", Align::kRight}, {"OF", Align::kRight}, {"LEFT", Align::kRight}, {"THEN"}},
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
    TP_ASSIGN(const Json made, api->Post("/api/v1/budgets", body));
    reply = Json{{"data", Json::array({made})}};
  } else {
    TP_ASSIGN(reply, GetAll(*api, "/api/v1/budgets"));
  }
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& budget : reply.value("data", Json::array())) {
    rows.push_back({Whole(budget, "id"), Whole(budget, "scope"), Whole(budget, "period"),
                    Whole(budget, "spent"), Whole(budget, "amount"),
                    budget.value("block", true) ? "blocks" : "tells"});
  }
  fmt::print(
      "{}",
      TableText({{"ID"}, {"SCOPE"}, {"PERIOD"}, {"SPENT", Align::kRight}, {"OF", Align::kRight}, {"THEN"}},
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
              GetAll(*api, "/api/v1/limits" + QueryText({{"scope", o.scope.empty() ? "" : ScopeOf(o.scope)},
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
                    Whole(limit, "max_output_tokens")});
  }
  fmt::print("{}", TableText({{"SCOPE"},
                              {"MODEL"},
                              {"REQUESTS/MIN", Align::kRight},
                              {"TOKENS/MIN", Align::kRight},
                              {"TOKENS/DAY", Align::kRight},
                              {"AT A TIME", Align::kRight},
                              {"CONTEXT", Align::kRight, true},
                              {"OUTPUT", Align::kRight, true}},
                             std::move(rows)));
  return {};
}

}  // namespace tidepool::cli
