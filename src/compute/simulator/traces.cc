#include "compute/simulator/traces.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>
#include <unordered_map>

#include "base/check.h"
#include "compute/simulator/shipped_data.h"

namespace tidepool::compute {
namespace {

constexpr double kMaxArrivalS = 1e8;  // three years: nanoseconds stay far from overflow
constexpr size_t kMaxLine = 4096;

// The next line without its end; false when there is none.
bool TakeLine(std::string_view& text, std::string_view& line) {
  if (text.empty()) return false;
  const size_t end = text.find('\n');
  line = text.substr(0, end);
  text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
  if (line.ends_with('\r')) line.remove_suffix(1);
  return true;
}

template <typename T>
std::optional<T> NumberIn(std::string_view text) {
  T value{};
  const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (problem != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return std::nullopt;
  }
  return value;
}

// "HH:MM:SS.fraction", hours of any size.
std::optional<double> ClockSeconds(std::string_view text) {
  const size_t first = text.find(':');
  const size_t second = first == std::string_view::npos ? first : text.find(':', first + 1);
  if (second == std::string_view::npos) return std::nullopt;
  const auto hours = NumberIn<int32_t>(text.substr(0, first));
  const auto minutes = NumberIn<int32_t>(text.substr(first + 1, second - first - 1));
  const auto seconds = NumberIn<double>(text.substr(second + 1));
  if (!hours || !minutes || !seconds || *hours < 0 || *minutes < 0 || *minutes > 59 || *seconds < 0 ||
      *seconds >= 61) {
    return std::nullopt;
  }
  return *hours * 3600.0 + *minutes * 60.0 + *seconds;
}

// "2023-11-16 18:17:03.9799600": seconds since 1970.
std::optional<double> DateSeconds(std::string_view text) {
  if (text.size() < 19 || text[4] != '-' || text[7] != '-' || (text[10] != ' ' && text[10] != 'T')) {
    return std::nullopt;
  }
  const auto year = NumberIn<int32_t>(text.substr(0, 4));
  const auto month = NumberIn<int32_t>(text.substr(5, 2));
  const auto day = NumberIn<int32_t>(text.substr(8, 2));
  const auto clock = ClockSeconds(text.substr(11));
  if (!year || !month || !day || !clock || *year < 1970 || *year > 2200 || *month < 1 || *month > 12 ||
      *day < 1 || *day > 31) {
    return std::nullopt;
  }
  const std::chrono::sys_days date{std::chrono::year(*year) / *month / *day};
  return static_cast<double>(date.time_since_epoch().count()) * 86400 + *clock;
}

enum class Format : uint8_t { kAegaeon, kAzure, kLengths, kJsonLines };

struct Line {
  double arrival_s = 0;
  std::string model, account;
  int64_t prompt = 1, output = 1;
  JobClass job_class = JobClass::kNormal;
};

class TraceReader {
 public:
  TraceReader(std::string_view name, const TraceLimits& limits) : name_(name), limits_(limits) {}
  Result<Trace> Read(std::string_view text);

 private:
  Result<Format> Detect(std::string_view line);
  Status Bad(std::string_view what, std::string_view value) const {
    return Fail(ErrorKind::kInvalid, "bad_trace",
                fmt::format("{}{}line {}: {} \"{}\"", name_, name_.empty() ? "" : " ", number_, what,
                            value.substr(0, 64)),
                "workload");
  }
  Status ParseCsv(std::string_view line, Line* out) const;
  Status ParseJson(std::string_view line, Line* out) const;
  Status Add(const Line& line);
  Result<int32_t> IndexOf(const std::string& name, std::unordered_map<std::string, int32_t>& known,
                          std::string_view what) const;
  void NumberedModels();
  void Nominal();

  std::string_view name_;
  const TraceLimits& limits_;
  Format format_ = Format::kAegaeon;
  size_t number_ = 0;
  Trace trace_;
  std::unordered_map<std::string, int32_t> models_, accounts_;
};

Result<Format> TraceReader::Detect(std::string_view line) {
  if (line.starts_with("Request Time,")) return Format::kAegaeon;
  if (line.starts_with("TIMESTAMP,")) return Format::kAzure;
  if (line.starts_with("input,output")) return Format::kLengths;
  if (line.starts_with('{')) return Format::kJsonLines;
  return Fail(
      ErrorKind::kInvalid, "unknown_trace_format",
      fmt::format("{}: the first line is neither the header of an Aegaeon (\"Request Time,...\"), Azure "
                  "(\"TIMESTAMP,...\") or length (\"input,output\") table nor a JSON object: \"{}\"",
                  name_.empty() ? "the workload" : name_, line.substr(0, 64)),
      "workload");
}

Status TraceReader::ParseCsv(std::string_view line, Line* out) const {
  std::array<std::string_view, 4> cells;
  size_t count = 0;
  for (std::string_view rest = line;; ++count) {
    const size_t comma = rest.find(',');
    if (count == cells.size()) return Bad("has too many columns:", line);
    cells[count] = rest.substr(0, comma);
    if (comma == std::string_view::npos) break;
    rest.remove_prefix(comma + 1);
  }
  const size_t wanted = format_ == Format::kAegaeon ? 4 : format_ == Format::kAzure ? 3 : 2;
  if (++count != wanted) return Bad(fmt::format("should have {} columns:", wanted), line);
  if (format_ != Format::kLengths) {
    const auto arrival = format_ == Format::kAzure ? DateSeconds(cells[0]) : ClockSeconds(cells[0]);
    if (!arrival) return Bad("is no time:", cells[0]);
    out->arrival_s = *arrival;
  }
  if (format_ == Format::kAegaeon) {
    if (cells[1].empty()) return Bad("names no model:", line);
    out->model = cells[1];
  }
  const auto prompt = NumberIn<int64_t>(cells[wanted - 2]), output = NumberIn<int64_t>(cells[wanted - 1]);
  if (!prompt) return Bad("is no number of tokens:", cells[wanted - 2]);
  if (!output) return Bad("is no number of tokens:", cells[wanted - 1]);
  out->prompt = *prompt;
  out->output = *output;
  return {};
}

Status TraceReader::ParseJson(std::string_view line, Line* out) const {
  const auto json = nlohmann::json::parse(line, nullptr, false);
  if (!json.is_object()) return Bad("is no JSON object:", line);
  for (const auto& [key, value] : json.items()) {
    if (key == "arrival_s" && value.is_number()) {
      out->arrival_s = value.get<double>();
    } else if (key == "model" && value.is_string()) {
      out->model = value.get<std::string>();
    } else if (key == "account" && value.is_string()) {
      out->account = value.get<std::string>();
    } else if ((key == "prompt_tokens" || key == "output_tokens") && value.is_number_integer()) {
      // 2^63 and more come as unsigned, and are out of range either way.
      const int64_t tokens =
          value.is_number_unsigned() && value.get<uint64_t>() > INT64_MAX ? INT64_MAX : value.get<int64_t>();
      (key == "prompt_tokens" ? out->prompt : out->output) = tokens;
    } else if (key == "class" && value.is_string()) {
      const auto name = value.get<std::string>();
      const auto job_class = FindJobClass(name);
      if (!job_class) return Bad("has a class that is neither interactive, normal nor batch:", name);
      out->job_class = *job_class;
    } else if (key == "arrival_s" || key == "model" || key == "account" || key == "prompt_tokens" ||
               key == "output_tokens" || key == "class") {
      return Bad(key + " is of the wrong type:", line);
    }
  }
  for (const char* key : {"arrival_s", "model", "prompt_tokens", "output_tokens"}) {
    if (!json.contains(key)) return Bad(fmt::format("has no {}:", key), line);
  }
  if (out->model.empty() || out->model.size() > 512 || out->account.size() > 512) {
    return Bad("has a name that is empty or longer than 512 bytes:", line);
  }
  return {};
}

Result<int32_t> TraceReader::IndexOf(const std::string& name, std::unordered_map<std::string, int32_t>& known,
                                     std::string_view what) const {
  const auto [entry, added] = known.emplace(name, static_cast<int32_t>(known.size()));
  if (added && known.size() > limits_.max_models) {
    return Fail(ErrorKind::kTooLarge, "trace_too_large",
                fmt::format("{} names more than {} {}", name_, limits_.max_models, what), "workload");
  }
  return entry->second;
}

Status TraceReader::Add(const Line& line) {
  if (!(line.arrival_s >= 0)) return Bad("arrives before the start:", fmt::format("{}", line.arrival_s));
  if (line.prompt < 0 || line.prompt > limits_.max_tokens || line.output < 0 ||
      line.output > limits_.max_tokens) {
    return Bad(fmt::format("has a number of tokens outside 0 to {}:", limits_.max_tokens),
               fmt::format("{}, {}", line.prompt, line.output));
  }
  if (trace_.requests.size() >= limits_.max_requests) {
    return Fail(ErrorKind::kTooLarge, "trace_too_large",
                fmt::format("{} holds more than {} requests", name_, limits_.max_requests), "workload");
  }
  SimRequest request;
  request.prompt = std::max<int32_t>(1, static_cast<int32_t>(line.prompt));
  request.output = std::max<int32_t>(1, static_cast<int32_t>(line.output));
  request.job_class = line.job_class;
  double arrival = line.arrival_s;
  // Dates count from the first line, which need not be the earliest.
  if (format_ == Format::kAzure) arrival -= 40 * 365.25 * 86400;
  if (std::abs(arrival) > kMaxArrivalS * 20) return Bad("arrives too late:", fmt::format("{}", arrival));
  request.arrival = std::llround(arrival * 1e9);
  if (!line.model.empty()) {
    TP_ASSIGN(request.model, IndexOf(line.model, models_, "models"));
    if (static_cast<size_t>(request.model) == trace_.models.size()) trace_.models.push_back(line.model);
  }
  if (!line.account.empty()) {
    TP_ASSIGN(const int32_t account, IndexOf(line.account, accounts_, "accounts"));
    if (static_cast<size_t>(account) == trace_.accounts.size()) trace_.accounts.push_back(line.account);
    request.account = account + 1;
  }
  trace_.requests.push_back(request);
  return {};
}

// synth_model_46 is model 46, whenever it appears and whether all below it do or not.
void TraceReader::NumberedModels() {
  std::vector<int32_t> numbers;
  int32_t most = 0;
  for (const std::string& model : trace_.models) {
    const size_t digits = model.find_last_not_of("0123456789") + 1;
    const auto number = NumberIn<int32_t>(std::string_view(model).substr(digits));
    if (!number || static_cast<size_t>(*number) >= limits_.max_models) return;
    numbers.push_back(*number);
    most = std::max(most, *number);
  }
  std::vector<std::string> names(static_cast<size_t>(most) + 1);
  for (size_t i = 0; i < numbers.size(); ++i) {
    std::string& name = names[static_cast<size_t>(numbers[i])];
    if (!name.empty()) return;  // "a1" and "b1"
    name = trace_.models[i];
  }
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i].empty()) names[i] = fmt::format("model_{}", i);
  }
  trace_.models = std::move(names);
  for (SimRequest& request : trace_.requests) request.model = numbers[static_cast<size_t>(request.model)];
}

void TraceReader::Nominal() {
  std::string_view name = name_.substr(name_.find_last_of('/') + 1);
  if (!name.starts_with("synth-")) return;
  name.remove_prefix(6);
  const size_t dash = name.find('-');
  if (dash == std::string_view::npos) return;
  const auto models = NumberIn<int32_t>(name.substr(0, dash));
  name.remove_prefix(dash + 1);
  const auto rate = NumberIn<double>(name.substr(0, name.find('-')));
  if (!models || !rate || *models < 1 || static_cast<size_t>(*models) > limits_.max_models || *rate <= 0) {
    return;
  }
  trace_.nominal_models = *models;
  trace_.nominal_rate = *rate;
}

Result<Trace> TraceReader::Read(std::string_view text) {
  if (text.size() > limits_.max_bytes) {
    return Fail(ErrorKind::kTooLarge, "trace_too_large",
                fmt::format("{}: {} bytes are more than {}", name_, text.size(), limits_.max_bytes),
                "workload");
  }
  if (text.starts_with("\xef\xbb\xbf")) text.remove_prefix(3);
  bool known = false;
  for (std::string_view line; TakeLine(text, line);) {
    ++number_;
    if (line.empty()) continue;
    if (line.size() > kMaxLine) TP_TRY(Bad(fmt::format("is longer than {} bytes:", kMaxLine), line));
    if (!known) {
      TP_ASSIGN(format_, Detect(line));
      known = true;
      if (format_ != Format::kJsonLines) continue;
    }
    Line parsed;
    TP_TRY(format_ == Format::kJsonLines ? ParseJson(line, &parsed) : ParseCsv(line, &parsed));
    TP_TRY(Add(parsed));
  }
  if (trace_.requests.empty()) {
    return Fail(ErrorKind::kInvalid, "empty_trace",
                fmt::format("{} holds no request", name_.empty() ? "the workload" : name_), "workload");
  }
  trace_.timed = format_ != Format::kLengths;
  std::stable_sort(trace_.requests.begin(), trace_.requests.end(),
                   [](const SimRequest& a, const SimRequest& b) { return a.arrival < b.arrival; });
  const Nanoseconds zero = format_ == Format::kAzure ? trace_.requests.front().arrival : 0;
  for (SimRequest& request : trace_.requests) request.arrival -= zero;
  if (static_cast<double>(trace_.requests.back().arrival) > kMaxArrivalS * 1e9) {
    return Fail(ErrorKind::kInvalid, "bad_trace", fmt::format("{} lasts more than three years", name_),
                "workload");
  }
  if (format_ == Format::kAegaeon) {
    NumberedModels();
    Nominal();
  }
  return std::move(trace_);
}

}  // namespace

double Trace::span_s() const {
  return requests.empty() ? 0 : static_cast<double>(requests.back().arrival) * 1e-9;
}

Result<Trace> ReadTrace(std::string_view text, std::string_view name, const TraceLimits& limits) {
  return TraceReader(name, limits).Read(text);
}

Lengths LengthsOf(const Trace& trace) {
  Lengths lengths;
  lengths.reserve(trace.requests.size());
  for (const SimRequest& request : trace.requests) lengths.emplace_back(request.prompt, request.output);
  return lengths;
}

const Lengths& ShippedLengths() {
  static const Lengths kLengths = [] {
    const auto trace = ReadTrace(ShippedLengthsCsv(), "data/lengths_sharegpt.csv");
    CHECK(trace.has_value());
    return LengthsOf(*trace);
  }();
  return kLengths;
}

}  // namespace tidepool::compute
