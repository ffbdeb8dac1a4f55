// sim and plan: options to the request of /api/v1/simulate and /plan, and their replies as tables.
#include <fmt/format.h>

#include <charconv>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

constexpr uintmax_t kMaxFileBytes = uintmax_t{256} << 20;

tl::unexpected<Error> StudyUsage(std::string message) {
  return Fail(ErrorKind::kInvalid, "usage", std::move(message));
}

Result<std::string> ReadStudyFile(const std::string& path) {
  std::error_code problem;
  const uintmax_t bytes = std::filesystem::file_size(path, problem);
  if (problem) return StudyUsage(fmt::format("cannot read {}: {}", path, problem.message()));
  if (bytes > kMaxFileBytes) return StudyUsage(fmt::format("{} is larger than 256 MiB", path));
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file.good() && !file.eof()) return StudyUsage(fmt::format("cannot read {}", path));
  return text;
}

Result<Json> ReadStudyJson(const std::string& path) {
  TP_ASSIGN(const std::string text, ReadStudyFile(path));
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return StudyUsage(fmt::format("{} is no JSON", path));
  return json;
}

Status WriteStudyFile(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  if (!file) return Fail(ErrorKind::kInvalid, "cannot_write", fmt::format("cannot write {}", path));
  return {};
}

Result<Json> NamedText(const std::string& path) {
  TP_ASSIGN(std::string text, ReadStudyFile(path));
  Json out;
  out["name"] = path;
  out["text"] = std::move(text);
  return out;
}

Result<double> StudyNumber(std::string_view text, std::string_view option) {
  double value = 0;
  if (text.starts_with('+')) text.remove_prefix(1);
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || !std::isfinite(value)) {
    return StudyUsage(fmt::format("{}: \"{}\" is not a number", option, text));
  }
  return value;
}

std::vector<std::string> Parts(const std::string& text, char separator) {
  std::vector<std::string> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    out.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

// "1,2,3" and "1-5".
Result<Json> SeedList(const std::string& text) {
  Json seeds = Json::array();
  for (const std::string& part : Parts(text, ',')) {
    const size_t dash = part.find('-', 1);
    TP_ASSIGN(const double first, StudyNumber(part.substr(0, dash), "--seed"));
    double last = first;
    if (dash != std::string::npos) {
      TP_ASSIGN(last, StudyNumber(part.substr(dash + 1), "--seed"));
    }
    if (first < 0 || last < first || last - first > 1000 || last > 9e15) {
      return StudyUsage(fmt::format("--seed: \"{}\" is neither a number nor FIRST-LAST", part));
    }
    for (double seed = first; seed <= last; ++seed) seeds.push_back(static_cast<uint64_t>(seed));
  }
  return seeds;
}

// "models=10..120:10" and "models=10,20,40".
Result<Json> SweepOf(const std::string& text) {
  const size_t equals = text.find('=');
  if (equals == std::string::npos) return StudyUsage("--sweep wants NAME=FROM..TO:STEP or NAME=A,B,C");
  Json values = Json::array();
  const std::string range = text.substr(equals + 1);
  if (const size_t dots = range.find(".."); dots != std::string::npos) {
    const size_t colon = range.find(':', dots);
    if (colon == std::string::npos) return StudyUsage("--sweep: FROM..TO wants :STEP");
    TP_ASSIGN(const double from, StudyNumber(range.substr(0, dots), "--sweep"));
    TP_ASSIGN(const double to, StudyNumber(range.substr(dots + 2, colon - dots - 2), "--sweep"));
    TP_ASSIGN(const double step, StudyNumber(range.substr(colon + 1), "--sweep"));
    if (!(step > 0) || (to - from) / step > 256) return StudyUsage("--sweep: at most 256 values, upwards");
    for (int i = 0; from + i * step <= to + step * 1e-9; ++i) values.push_back(from + i * step);
  } else {
    for (const std::string& part : Parts(range, ',')) {
      TP_ASSIGN(const double value, StudyNumber(part, "--sweep"));
      values.push_back(value);
    }
  }
  return Json{{"of", text.substr(0, equals)}, {"values", std::move(values)}};
}

bool IsFormula(const std::string& text) {
  for (const char* kind : {"poisson:", "gamma:", "zipf:", "power:"}) {
    if (text.starts_with(kind)) return true;
  }
  return false;
}

template <typename T>
void PutIf(Json& json, const char* name, const std::optional<T>& value) {
  if (value) json[name] = *value;
}

void PutIf(Json& json, const char* name, const std::string& value) {
  if (!value.empty()) json[name] = value;
}

Status PutFiles(const StudyOptions& o, Json& json) {
  if (IsFormula(o.workload)) {
    json["workload"] = o.workload;
  } else if (!o.workload.empty()) {
    TP_ASSIGN(json["trace"], NamedText(o.workload));
  }
  if (!o.lengths.empty()) {
    TP_ASSIGN(json["lengths"], NamedText(o.lengths));
  }
  std::error_code ignored;
  if (o.models.ends_with(".json") || std::filesystem::exists(o.models, ignored)) {
    TP_ASSIGN(Json models, ReadStudyJson(o.models));
    json["models"] =
        models.is_object() && models.contains("models") ? std::move(models["models"]) : std::move(models);
  } else {
    PutIf(json, "models", o.models);
  }
  for (const std::string& path : o.profiles) {
    TP_ASSIGN(Json profile, ReadStudyJson(path));
    json["profiles"].push_back(std::move(profile));
  }
  return {};
}

Result<Json> StudyRequestOf(const StudyOptions& o) {
  Json json = Json::object();
  TP_TRY(PutFiles(o, json));
  PutIf(json, "devices", o.devices);
  PutIf(json, "popularity", o.popularity);
  PutIf(json, "split", o.split);
  PutIf(json, "title", o.title);
  PutIf(json, "ttft_s", o.ttft);
  PutIf(json, "tpot_s", o.tpot);
  PutIf(json, "repeat_until_s", o.repeat_until);
  PutIf(json, "duration_s", o.duration);
  PutIf(json, "input_scale", o.input_scale);
  PutIf(json, "output_scale", o.output_scale);
  PutIf(json, "copy_gbps", o.copy_gbps);
  PutIf(json, "host_memory_gb", o.host_memory_gb);
  PutIf(json, "load_gbps", o.load_gbps);
  PutIf(json, "admission", o.admission);
  PutIf(json, "model_count", o.model_count);
  PutIf(json, "max_output_tokens", o.max_tokens);
  PutIf(json, "risk", o.risk);
  if (!o.policies.empty()) json["policies"] = o.policies;
  if (!o.seeds.empty()) {
    TP_ASSIGN(json["seeds"], SeedList(o.seeds));
  }
  if (!o.sweep.empty()) {
    TP_ASSIGN(json["sweep"], SweepOf(o.sweep));
  }
  if (!o.slo.empty()) {
    for (const std::string& part : Parts(o.slo, ',')) {
      const size_t equals = part.find('=');
      const std::string name = part.substr(0, equals);
      if (equals == std::string::npos ||
          (name != "ttft" && name != "tpot" && name != "tbt" && name != "share")) {
        return StudyUsage("--slo wants ttft=10,tpot=0.1,share=.99");
      }
      TP_ASSIGN(const double value, StudyNumber(part.substr(equals + 1), "--slo"));
      json[name == "share" ? "share" : name == "ttft" ? "ttft_s" : "tpot_s"] = value;
    }
  }
  for (const std::string& price : o.prices) {
    const size_t equals = price.find('=');
    if (equals == std::string::npos) return StudyUsage("--price wants KIND=AMOUNT");
    TP_ASSIGN(json["prices"][price.substr(0, equals)], StudyNumber(price.substr(equals + 1), "--price"));
  }
  if (!o.svg.empty()) json["chart"] = true;
  return json;
}

Result<Json> RunStudy(Session& session, const Hooks::Study& study, const StudyOptions& o,
                      const Json& request) {
  if (!study) return Fail(ErrorKind::kInternal, "not_available", "this binary has no simulator");
  Terminal& terminal = session.terminal();
  const auto began = std::chrono::steady_clock::now();
  double shown = -1;
  const auto progress = [&](double share, const std::string& what) {
    const double elapsed = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    if (elapsed - shown > 0.1) {
      shown = elapsed;
      terminal.ShowStatus(
          ShareProgressText(what, share, elapsed, terminal.status_width(), terminal.unicode()));
    }
    return !Interrupts::Pending();
  };
  auto reply = study(request, static_cast<int>(o.jobs), progress);
  terminal.ClearStatus();
  if (!reply) return Fail(reply.error());
  if (!o.svg.empty() && reply->contains("svg")) {
    TP_TRY(WriteStudyFile(o.svg, (*reply)["svg"].get<std::string>()));
    reply->erase("svg");
  }
  return reply;
}

std::string ShareText(const Json& row, const char* key) {
  if (!row.contains(key) || !row[key].is_number()) return "";
  // Rounded down: 100 % means all of them.
  return fmt::format("{:.2f}%", std::floor(row[key].get<double>() * 10000 + 1e-9) / 100);
}

std::string TimeText(const Json& row, const char* key) {
  return row.contains(key) && row[key].is_number() ? fmt::format("{:.2f}", row[key].get<double>()) : "";
}

std::string CsvOf(const Json& rows) {
  std::string out;
  if (rows.empty()) return out;
  std::vector<std::string> columns;
  for (const auto& [key, value] : rows.front().items()) {
    if (value.is_structured()) continue;
    columns.push_back(key);
    out += (out.empty() ? "" : ",") + key;
  }
  out += '\n';
  for (const Json& row : rows) {
    for (size_t i = 0; i < columns.size(); ++i) {
      if (i > 0) out += ',';
      if (row.contains(columns[i])) {
        out += row[columns[i]].is_string() ? row[columns[i]].get<std::string>() : row[columns[i]].dump();
      }
    }
    out += '\n';
  }
  return out;
}

void PrintSimTable(Session& session, const Json& reply) {
  std::vector<std::vector<std::string>> rows;
  bool swept = false;
  for (const Json& row : reply["data"]) {
    swept |= row.contains("sweep_value") && row["sweep"] != "models" && row["sweep"] != "devices";
  }
  for (const Json& row : reply["data"]) {
    rows.push_back({row.value("policy", ""), row["models"].dump(), row["devices"].dump(),
                    ShareText(row, "tokens_on_time"), ShareText(row, "requests_on_time"),
                    ShareText(row, "refused_share"), TimeText(row, "ttft_p50_s"), TimeText(row, "ttft_p99_s"),
                    TimeText(row, "max_stall_p50_s"), TimeText(row, "max_stall_p99_s"),
                    row["requests"].dump(), ShareText(row, "utilisation"), row["switches"].dump(),
                    BytesText(row["bytes_moved"].get<double>()), TimeText(row, "wall_s"),
                    ShareText(row, "qos_sosp25")});
    if (swept) rows.back().insert(rows.back().begin() + 1, NumberText(row.value("sweep_value", 0.0)));
  }
  std::vector<Column> columns = {{"POLICY"},
                                 {"MODELS", Align::kRight},
                                 {"DEVICES", Align::kRight},
                                 {"TOKENS", Align::kRight},
                                 {"REQUESTS", Align::kRight},
                                 {"REFUSED", Align::kRight},
                                 {"TTFT P50", Align::kRight, true},
                                 {"P99", Align::kRight},
                                 {"STALL P50", Align::kRight, true},
                                 {"P99", Align::kRight},
                                 {"OFFERED", Align::kRight, true},
                                 {"BUSY", Align::kRight, true},
                                 {"SWITCHES", Align::kRight, true},
                                 {"MOVED", Align::kRight, true},
                                 {"WALL", Align::kRight, true},
                                 {"QOS (SOSP25)", Align::kRight, true}};
  if (swept) {
    Column column{"TIMES", Align::kRight};
    columns.insert(columns.begin() + 1, column);
  }
  Terminal& terminal = session.terminal();
  fmt::print("{}", TableText(columns, rows, terminal.text_width()));
  const size_t seeds = reply["seeds"].size();
  fmt::print(
      "{}\n",
      terminal.Dim(WrapText(
          fmt::format("TOKENS, REQUESTS: share of all offered on time (token i by arrival + {:g} s + i × "
                      "{:g} s; refused ones are late); times in seconds{}",
                      reply["ttft_s"].get<double>(), reply["tpot_s"].get<double>(),
                      seeds > 1 ? fmt::format("; the worst of {} seeds, column by column", seeds) : ""),
          terminal.text_width(), 0)));
}

std::string DevicesText(const Json& part) {
  return part["devices"].is_number() ? part["devices"].dump() : "too few exist";
}

void PrintPlacement(const Json& row, size_t width) {
  fmt::print("\nwhere the models lived on {} {} (share of each device's computing)\n",
             row["pooled"]["devices"].get<int64_t>(), row["kind"].get<std::string>());
  size_t shown = 0;
  for (const Json& device : row["placement"]) {
    if (++shown > 64) {
      fmt::print("  … --json has all {}\n", row["placement"].size());
      return;
    }
    std::string models;
    size_t count = 0;
    for (const Json& model : device["models"]) {
      if (++count > 6) {
        models += fmt::format(", and {} more", device["models"].size() - 6);
        break;
      }
      models += fmt::format("{}{} {:.0f}%", models.empty() ? "" : ", ", model["model"].get<std::string>(),
                            model["share"].get<double>() * 100);
    }
    fmt::print("{}\n", WrapText(fmt::format("  {:>3}  busy {:>3.0f}%  {}", device["device"].get<int64_t>(),
                                            device["busy"].get<double>() * 100, models),
                                width, 18));
  }
}

void PrintPlan(Session& session, const Json& reply) {
  Terminal& terminal = session.terminal();
  fmt::print(
      "{} models, {:.2f} requests/s, {:.0f} output tokens/s; {:g}% of tokens by arrival + {:g} s + i × {:g} "
      "s\n\n",
      reply["models"].get<int64_t>(), reply["requests_per_s"].get<double>(),
      reply["tokens_per_s"].get<double>(), reply["share"].get<double>() * 100, reply["ttft_s"].get<double>(),
      reply["tpot_s"].get<double>());
  std::vector<std::vector<std::string>> rows;
  double risk = 2;
  for (const Json& row : reply["data"]) {
    for (const char* how : {"dedicated", "pooled"}) {
      const Json& part = row[how];
      std::string at_risk;
      if (part.contains("at_risk")) {
        at_risk = ShareText(part["at_risk"], "tokens_on_time");
        risk = part["at_risk"]["load"].get<double>();
      }
      rows.push_back(
          {row["kind"].get<std::string>(), how, DevicesText(part), ShareText(part, "tokens_on_time"),
           part.contains("per_hour") ? fmt::format("{:.2f}", part["per_hour"].get<double>()) : "",
           part.contains("per_million_tokens")
               ? fmt::format("{:.2f}", part["per_million_tokens"].get<double>())
               : "",
           at_risk,
           how[0] == 'p' && row.contains("saving") ? fmt::format("{:.0f}%", row["saving"].get<double>() * 100)
                                                   : ""});
    }
  }
  fmt::print("{}", TableText({{"KIND"},
                              {"HOW"},
                              {"DEVICES", Align::kRight},
                              {"ON TIME", Align::kRight},
                              {"AN HOUR", Align::kRight},
                              {"A MILLION TOKENS", Align::kRight},
                              {fmt::format("AT {:g}x LOAD", risk), Align::kRight},
                              {"SAVES", Align::kRight}},
                             rows, terminal.text_width()));
  fmt::print("{}\n",
             terminal.Dim(WrapText("Prices are the examples of data/profiles; set your own with --price "
                                   "KIND=AMOUNT. A million tokens: of output, at this load around the clock.",
                                   terminal.text_width(), 0)));
  for (const Json& row : reply["data"]) {
    if (row.contains("placement")) PrintPlacement(row, terminal.text_width());
  }
}

}  // namespace

namespace {

// Equal is said; the first difference is an error, so that scripts see it.
Status ReplayTrace(Session& session, const StudyOptions& options) {
  if (!options.workload.empty()) return StudyUsage("sim takes --replay or --workload, not both");
  if (!session.hooks().replay)
    return Fail(ErrorKind::kInternal, "not_available", "this binary has no simulator");
  std::error_code problem;
  const uintmax_t bytes = std::filesystem::file_size(options.replay, problem);
  if (problem) return StudyUsage(fmt::format("cannot read {}: {}", options.replay, problem.message()));
  if (bytes > kMaxFileBytes) return StudyUsage(fmt::format("{} is larger than 256 MiB", options.replay));
  TP_ASSIGN(const Json reply, session.hooks().replay(options.replay));
  const bool equal = reply["equal"].get<bool>();
  if (session.json()) {
    PrintJson(reply);
  } else if (equal) {
    fmt::print("{} decisions in {} records, all equal\n", reply["decisions"].get<size_t>(),
               reply["records"].get<size_t>());
  }
  if (equal) return {};
  return Fail(ErrorKind::kConflict, "replay_differs",
              fmt::format("decision {} is another one: {}", reply["decisions"].get<size_t>(),
                          reply["difference"].get<std::string>()));
}

}  // namespace

Status Simulate(Session& session, const StudyOptions& options) {
  if (!options.replay.empty()) return ReplayTrace(session, options);
  if (options.workload.empty() && options.models.empty()) {
    return StudyUsage("sim wants --workload: poisson:0.1x70, or a file");
  }
  TP_ASSIGN(const Json request, StudyRequestOf(options));
  TP_ASSIGN(const Json reply, RunStudy(session, session.hooks().simulate, options, request));
  if (!options.csv.empty()) TP_TRY(WriteStudyFile(options.csv, CsvOf(reply["data"])));
  if (session.json()) {
    PrintJson(reply);
  } else {
    PrintSimTable(session, reply);
  }
  return {};
}

Status Plan(Session& session, const StudyOptions& options) {
  if (options.workload.empty() && options.models.empty()) {
    return StudyUsage("plan wants --models FILE with rates, or --load: poisson:0.1x70, or a file");
  }
  TP_ASSIGN(const Json request, StudyRequestOf(options));
  TP_ASSIGN(const Json reply, RunStudy(session, session.hooks().plan, options, request));
  if (session.json()) {
    PrintJson(reply);
  } else {
    PrintPlan(session, reply);
  }
  return {};
}

}  // namespace tidepool::cli
