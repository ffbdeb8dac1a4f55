// bench, doctor, settings, version.
#include <fmt/format.h>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

// Strings as they are, other values as JSON; lists of strings joined.
std::string Shown(const Json& value) {
  if (value.is_null()) return {};
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return value.dump();
  std::string out;
  for (const Json& item : value) out += (out.empty() ? "" : ", ") + Shown(item);
  return out;
}

std::string Shown(const Json& json, const char* key) {
  const auto it = json.find(key);
  return it == json.end() ? std::string() : Shown(*it);
}

// "99.0 G", as hardware is measured; counts of parameters say B.
std::string OperationsText(double per_s) {
  std::string text = CountText(per_s);
  if (text.ends_with('B')) text.back() = 'G';
  return text;
}

// "disk_write_bytes_per_s" -> "disk write" "12.3 GB/s": the unit is the end of the name.
std::pair<std::string, std::string> NamedQuantity(const std::string& name, const Json& value) {
  const auto ends = [&](std::string_view suffix) { return name.ends_with(suffix); };
  const auto label = [&](std::string_view suffix) {
    std::string text = name.substr(0, name.size() - suffix.size());
    for (char& c : text) c = c == '_' ? ' ' : c;
    return text;
  };
  if (value.is_number()) {
    const double number = value.get<double>();
    if (name == "memory_bytes_per_s") return {"memory reads", RateText(number)};
    if (ends("_bytes_per_s")) return {label("_bytes_per_s"), RateText(number)};
    if (ends("_ops_per_s")) return {label("_ops_per_s"), OperationsText(number) + "op/s"};
    if (ends("_flops_per_s")) return {label("_flops_per_s"), OperationsText(number) + "flop/s"};
    if (ends("_bytes")) return {label("_bytes"), BytesText(number)};
  }
  if (value.is_number_float()) return {label(""), NumberText(value.get<double>())};
  return {label(""), Shown(value)};
}

void PrintAdvice(Terminal& terminal, const Json& advice) {
  if (!advice.is_array() || advice.empty()) return;
  fmt::print("\n");
  for (const Json& item : advice) {
    const std::string level = Shown(item, "level");
    std::string mark = terminal.unicode() ? "·" : "-";
    if (level == "ok") mark = terminal.Green(terminal.unicode() ? "✓" : "ok");
    if (level == "warn") mark = terminal.Yellow("!");
    const size_t indent = DisplayWidth(mark) + 1;
    fmt::print("{}\n", WrapText(mark + " " + Shown(item, "text"), terminal.text_width(), indent));
  }
}

}  // namespace

Status Bench(Session& session, const BenchOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Terminal& terminal = session.terminal();
  terminal.ShowStatus(fmt::format("measuring {} (this takes a while; Ctrl-C stops)", options.model));
  const Json body = {{"model", options.model},
                     {"prompt_tokens", options.prompt_tokens},
                     {"generate_tokens", options.generate_tokens},
                     {"depth", options.depth},
                     {"batch", options.batch}};
  const auto reply = api->Post("/api/v1/bench", body, 3600);
  terminal.ClearStatus();
  if (!reply) return Fail(reply.error());
  if (session.json()) {
    PrintJson(*reply);
    return {};
  }
  fmt::print("{}\n", terminal.Dim(fmt::format(
                         "{}: prompts of {} tokens; {} tokens generated after {} of context", options.model,
                         options.prompt_tokens, options.generate_tokens, options.depth)));
  std::vector<std::vector<std::string>> rows;
  for (const Json& row : reply->value("data", Json::array())) {
    const double share = NumberField(row, "share_of_limit");
    rows.push_back({Shown(row, "test"), Shown(row, "batch"), Shown(row, "tokens"),
                    SecondsText(NumberField(row, "seconds")), NumberText(NumberField(row, "tokens_per_s")),
                    row.contains("limit") && row["limit"].is_number() ? NumberText(NumberField(row, "limit"))
                                                                      : Shown(row, "limit"),
                    share > 0 ? fmt::format("{:.0f}%", share * 100) : ""});
  }
  fmt::print("{}", TableText({{"TEST"},
                              {"BATCH", Align::kRight},
                              {"TOKENS", Align::kRight},
                              {"TIME", Align::kRight},
                              {"TOKENS/S", Align::kRight},
                              {"LIMIT", Align::kRight},
                              {"OF LIMIT", Align::kRight}},
                             rows));
  fmt::print("{}\n",
             terminal.Dim("LIMIT: what the measured memory and arithmetic rates allow (tidepool doctor)"));
  return {};
}

Status Doctor(Session& session) {
  TP_ASSIGN(ApiClient * api, session.Api());
  session.terminal().ShowStatus("looking at the machine");
  const auto reply = api->Get("/api/v1/doctor", 120);
  session.terminal().ClearStatus();
  if (!reply) return Fail(reply.error());
  if (session.json()) {
    PrintJson(*reply);
    return {};
  }
  constexpr int kLabel = 20;
  fmt::print("{:<{}}{}\n", "server", kLabel, api->url());
  for (const auto& [name, value] : reply->items()) {
    if (value.is_object() || (value.is_array() && (value.empty() || value[0].is_object())) || name == "tuned")
      continue;
    const auto [label, text] = NamedQuantity(name, value);
    if (!text.empty()) fmt::print("{:<{}}{}\n", label, kLabel, text);
  }
  if (reply->value("tuning", Json()).is_object()) {
    std::string numbers;
    for (const auto& [name, value] : (*reply)["tuning"].items()) {
      numbers += fmt::format("{}{} {}", numbers.empty() ? "" : ", ", name, value.dump());
    }
    fmt::print("{:<{}}{}{}\n", "tuning", kLabel, numbers,
               reply->value("tuned", false) ? "" : " (the defaults)");
  }
  std::vector<std::vector<std::string>> kernels;
  for (const Json& kernel : reply->value("kernels", Json::array())) {
    const auto share = [&](const char* name) {
      return fmt::format("{:.0f} %", 100 * NumberField(kernel, name));
    };
    kernels.push_back(
        {Shown(kernel, "type"), fmt::format("{:.1f}", NumberField(kernel, "one_row_bytes_per_s") / 1e9),
         share("one_row_share"), fmt::format("{:.0f}", NumberField(kernel, "many_rows_ops_per_s") / 1e9),
         share("many_rows_share"), Shown(kernel, "kernel")});
  }
  if (!kernels.empty()) {
    fmt::print("\n{}\n", TableText({{"WEIGHTS"},
                                    {"GB/S 1 ROW", Align::kRight},
                                    {"LIMIT", Align::kRight},
                                    {"GOPS 256 ROWS", Align::kRight},
                                    {"LIMIT", Align::kRight},
                                    {"KERNEL"}},
                                   kernels));
  }
  PrintAdvice(session.terminal(), reply->value("advice", Json::array()));
  return {};
}

Status ShowSettings(Session& session) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get("/api/v1/settings"));
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& setting : reply.value("data", Json::array())) {
    const std::string name = setting.contains("name") ? Shown(setting, "name") : Shown(setting, "id");
    rows.push_back({name, Shown(setting, "value"), Shown(setting, "source")});
  }
  fmt::print("{}", TableText({{"SETTING"}, {"VALUE"}, {"FROM"}}, rows));
  return {};
}

Status Version(Session& session) {
  Json out = {{"version", session.hooks().version}};
  if (ApiClient* api = session.ApiIfRunning()) {
    out["server_url"] = api->url();
    if (const auto reply = api->Get("/version", 5)) {
      out["server_version"] = reply->value("version", std::string());
      out["server_commit"] = reply->value("commit", std::string());
    }
  }
  if (session.json()) {
    PrintJson(out);
    return {};
  }
  fmt::print("tidepool {}\n", session.hooks().version);
  if (out.contains("server_version")) {
    fmt::print("server   {} at {}\n", Shown(out, "server_version"), Shown(out, "server_url"));
  }
  return {};
}

}  // namespace tidepool::cli
