#include "compute/simulator/planner.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <map>
#include <mutex>
#include <numeric>

#include "compute/simulator/chart.h"
#include "compute/simulator/study_fields.h"

namespace tidepool::compute {
namespace {

using PlanJson = nlohmann::ordered_json;
using PlanRequests = std::vector<SimRequest>;

// Of one kind of device, on a study that has one.
void Resize(SimConfig& config, int32_t count) {
  const SimHost host = config.hosts.empty() ? SimHost{} : config.hosts.front();
  config.devices.clear();
  config.hosts.clear();
  for (int32_t i = 0; i < count; ++i) {
    if (i % 8 == 0) config.hosts.push_back(host);
    config.devices.push_back({0, static_cast<int32_t>(config.hosts.size()) - 1});
  }
}

// Seconds of device time that requests need at least, however they are batched, over the time they come in.
double LeastDevices(const SimConfig& config, const PlanRequests& requests, double duration_s) {
  double seconds = 0;
  for (const SimRequest& request : requests) {
    const StepProfile& p = config.models[static_cast<size_t>(request.model)].profiles[0];
    seconds += p.prefill_per_token_s * request.prompt + p.decode_per_sequence_s * request.output;
  }
  return seconds / duration_s;
}

struct Sized {
  int32_t devices = 0;  // 0: max_count would not do
  SimResult result;     // of the worst seed at that size
};

class Planner {
 public:
  Planner(const PlanJson& request, const StudyLimits& limits, const StudyProgress& progress)
      : request_(request), limits_(limits), progress_(progress) {}

  Result<PlanJson> Plan();

 private:
  Result<PlanJson> PlanKind(const std::string& kind, double price);
  Result<SimResult> RunOnce(const SimConfig& config, const PlanRequests& requests, const std::string& what);
  Result<SimResult> RunWorst(SimConfig config, int32_t devices, const std::string& what);
  Result<Sized> Search(double least, const std::function<Result<SimResult>(int32_t)>& run) const;
  Result<int32_t> SizeModel(const Study& study, int32_t model, int64_t* on_time, int64_t* clean);
  PlanJson Placement(const SimConfig& config, const SimResult& result) const;
  PlanJson Figures(const Sized& sized, double price) const;

  const PlanJson& request_;
  const StudyLimits& limits_;
  const StudyProgress& progress_;
  std::mutex mutex_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  double done_ = 0;  // share of the plan
  Error stop_;
  double share_ = 0.99, risk_ = 2;
  int32_t max_count_ = 1024;
  std::vector<PlanRequests> seeds_;  // of the kind in work: the same for all kinds
  double duration_s_ = 1;
  double tokens_per_s_ = 0;
};

Result<SimResult> Planner::RunOnce(const SimConfig& config, const PlanRequests& requests,
                                   const std::string& what) {
  SimConfig mine = config;
  mine.progress = [&](double /*share*/) {
    const std::lock_guard lock(mutex_);
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - began_;
    if (stop_.code.empty() && spent.count() > limits_.max_seconds) {
      stop_ = {
          ErrorKind::kTimeout, "simulation_timeout",
          fmt::format("the plan took more than {:g} s; shorten the load, or use the command line, which has "
                      "no limit",
                      limits_.max_seconds),
          "", 0};
    }
    if (stop_.code.empty() && progress_ && !progress_(done_, what)) {
      stop_ = {ErrorKind::kCancelled, "interrupted", "the plan was stopped", "", 0};
    }
    return stop_.code.empty();
  };
  TP_TRY([&]() -> Status {
    if (!mine.progress(0)) return Fail(stop_);
    return {};
  }());
  TP_ASSIGN(SimResult result, Simulate(mine, requests));
  if (result.stopped) return Fail(stop_);
  return result;
}

Result<SimResult> Planner::RunWorst(SimConfig config, int32_t devices, const std::string& what) {
  Resize(config, devices);
  std::vector<SimResult> results(seeds_.size());
  TP_TRY(RunTasks(seeds_.size(), limits_.threads, [&](size_t i) -> Status {
    TP_ASSIGN(results[i], RunOnce(config, seeds_[i], what));
    return {};
  }));
  return std::move(*std::min_element(results.begin(), results.end(), [](const auto& a, const auto& b) {
    return a.tokens_on_time < b.tokens_on_time;
  }));
}

// The smallest count that keeps the share: upwards from what arithmetic allows until one does, then between.
Result<Sized> Planner::Search(double least, const std::function<Result<SimResult>(int32_t)>& run) const {
  int32_t fails = std::clamp(static_cast<int32_t>(std::floor(least)), 0, max_count_ - 1);
  Sized best;
  int32_t step = std::max(1, fails / 4);
  for (int32_t next = fails + 1;; next = std::min(next + step, max_count_), step *= 2) {
    TP_ASSIGN(SimResult result, run(next));
    if (result.tokens_on_time >= share_) {
      best = {next, std::move(result)};
      break;
    }
    fails = next;
    if (next == max_count_) {
      best.result = std::move(result);
      return best;
    }
  }
  while (best.devices - fails > 1) {
    const int32_t middle = fails + (best.devices - fails) / 2;
    TP_ASSIGN(SimResult result, run(middle));
    if (result.tokens_on_time >= share_) {
      best = {middle, std::move(result)};
    } else {
      fails = middle;
    }
  }
  return best;
}

PlanRequests OfModel(const PlanRequests& all, int32_t model) {
  PlanRequests own;
  for (const SimRequest& request : all) {
    if (request.model != model) continue;
    own.push_back(request);
    own.back().model = 0;
  }
  return own;
}

SimConfig Alone(const SimConfig& config, int32_t model, int32_t devices) {
  SimConfig alone = config;
  alone.models = {config.models[static_cast<size_t>(model)]};
  const std::vector<std::string> known = SimPolicies();
  alone.policy = std::find(known.begin(), known.end(), "dedicated") == known.end() ? "tidepool" : "dedicated";
  Resize(alone, devices);
  return alone;
}

void AddOnTime(const SimResult& result, int64_t* on_time, int64_t* clean) {
  *on_time += std::llround(result.tokens_on_time * static_cast<double>(result.tokens));
  *clean += std::llround(result.requests_on_time * static_cast<double>(result.requests));
}

// 0: max_count would not do. Counts are of the first seed.
Result<int32_t> Planner::SizeModel(const Study& study, int32_t model, int64_t* on_time, int64_t* clean) {
  int32_t most = 1;
  for (size_t seed = 0; seed < seeds_.size(); ++seed) {
    const PlanRequests own = OfModel(seeds_[seed], model);
    if (own.empty()) continue;
    const SimConfig alone = Alone(study.config, model, 1);
    const std::string what = fmt::format("dedicated {}: {}", study.kinds[0], alone.models[0].name);
    TP_ASSIGN(const Sized sized, Search(LeastDevices(alone, own, duration_s_), [&](int32_t devices) {
                return RunOnce(Alone(study.config, model, devices), own, what);
              }));
    if (sized.devices == 0) return 0;
    most = std::max(most, sized.devices);
    if (seed == 0) AddOnTime(sized.result, on_time, clean);
  }
  return most;
}

PlanJson Planner::Figures(const Sized& sized, double price) const {
  PlanJson out;
  out["devices"] = sized.devices > 0 ? PlanJson(sized.devices) : PlanJson(nullptr);
  out["tokens_on_time"] = sized.result.tokens_on_time;
  out["requests_on_time"] = sized.result.requests_on_time;
  if (sized.devices > 0 && price > 0) {
    out["per_hour"] = sized.devices * price;
    out["per_million_tokens"] = tokens_per_s_ > 0 ? sized.devices * price / (tokens_per_s_ * 3600 / 1e6) : 0;
  }
  return out;
}

// What computed where; a model's few per cent elsewhere are left out.
PlanJson Planner::Placement(const SimConfig& config, const SimResult& result) const {
  PlanJson out = PlanJson::array();
  const double span = std::max(result.makespan_s, 1e-9);
  for (size_t d = 0; d < result.busy_s.size(); ++d) {
    const std::vector<float>& busy = result.busy_s[d];
    const double sum = std::accumulate(busy.begin(), busy.end(), 0.0);
    std::vector<size_t> order(busy.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return busy[a] > busy[b]; });
    PlanJson models = PlanJson::array();
    for (const size_t m : order) {
      if (busy[m] < 0.02 * sum || busy[m] <= 0) break;
      models.push_back(
          {{"model", config.models[m].name}, {"share", std::round(busy[m] / sum * 1000) / 1000}});
    }
    out.push_back({{"device", d},
                   {"host", d / 8},
                   {"busy", std::round(sum / span * 1000) / 1000},
                   {"models", std::move(models)}});
  }
  return out;
}

Result<PlanJson> Planner::PlanKind(const std::string& kind, double price) {
  StudyChange change;
  change.devices = {{kind, 1}};
  TP_ASSIGN(const Study study, DecodeStudy(request_, limits_, change));
  seeds_.clear();
  for (const uint64_t seed : study.seeds) {
    TP_ASSIGN(auto requests, study.Requests(seed));
    if (requests.empty()) return BadStudyField("workload", "gives no request; make it longer");
    seeds_.push_back(std::move(requests));
  }
  const PlanRequests& first = seeds_.front();
  duration_s_ = study.replay ? std::max(study.trace->span_s(), 1.0) : study.duration_s;
  int64_t tokens = 0;
  for (const SimRequest& request : first) tokens += request.output;
  tokens_per_s_ = static_cast<double>(tokens) / duration_s_;
  const DeviceProfile& profile = **study.hardware.Device(kind);
  if (price < 0) price = profile.price_per_hour;

  TP_ASSIGN(const Sized pooled, Search(LeastDevices(study.config, first, duration_s_), [&](int32_t devices) {
              return RunWorst(study.config, devices, fmt::format("pooled: {} {}", devices, profile.name));
            }));
  std::vector<int32_t> sizes(study.config.models.size());
  std::vector<int64_t> on_time(sizes.size(), 0), clean(sizes.size(), 0);
  TP_TRY(RunTasks(sizes.size(), limits_.threads, [&](size_t m) -> Status {
    TP_ASSIGN(sizes[m], SizeModel(study, static_cast<int32_t>(m), &on_time[m], &clean[m]));
    return {};
  }));
  Sized dedicated;
  const bool possible = std::find(sizes.begin(), sizes.end(), 0) == sizes.end();
  dedicated.devices = possible ? std::accumulate(sizes.begin(), sizes.end(), 0) : 0;
  const auto share = [](const std::vector<int64_t>& parts, auto whole) {
    return static_cast<double>(std::accumulate(parts.begin(), parts.end(), int64_t{0})) /
           static_cast<double>(std::max<decltype(whole)>(whole, 1));
  };
  dedicated.result.tokens_on_time = share(on_time, tokens);
  dedicated.result.requests_on_time = share(clean, std::ssize(first));

  PlanJson out;
  out["kind"] = profile.name;
  if (price > 0) out["price_per_hour"] = price;
  out["pooled"] = Figures(pooled, price);
  out["dedicated"] = Figures(dedicated, price);
  out["pooled"]["refused_share"] =
      static_cast<double>(pooled.result.rejected) / static_cast<double>(first.size());
  out["pooled"]["ttft_p99_s"] = pooled.result.ttft_p99_s;
  out["pooled"]["utilisation"] = pooled.result.utilisation;
  if (pooled.devices > 0 && dedicated.devices > 0) {
    out["saving"] = 1 - static_cast<double>(pooled.devices) / dedicated.devices;
  }
  if (pooled.devices == 0) return out;
  SimConfig placed = study.config;
  Resize(placed, pooled.devices);
  out["placement"] = Placement(placed, pooled.result);

  // The same machines under a heavier load.
  change.rate = risk_;
  TP_ASSIGN(const Study heavier, DecodeStudy(request_, limits_, change));
  TP_ASSIGN(const auto more, heavier.Requests(heavier.seeds.front()));
  TP_ASSIGN(const SimResult risky, RunOnce(placed, more,
                                           fmt::format("pooled: {} {} at {:g} times the load", pooled.devices,
                                                       profile.name, risk_)));
  out["pooled"]["at_risk"] = {{"load", risk_},
                              {"tokens_on_time", risky.tokens_on_time},
                              {"refused_share", static_cast<double>(risky.rejected) /
                                                    static_cast<double>(std::max<size_t>(more.size(), 1))}};
  if (!possible) return out;
  std::fill(on_time.begin(), on_time.end(), 0);
  TP_TRY(RunTasks(sizes.size(), limits_.threads, [&](size_t m) -> Status {
    const PlanRequests own = OfModel(more, static_cast<int32_t>(m));
    if (own.empty()) return {};
    TP_ASSIGN(const SimResult result, RunOnce(Alone(study.config, static_cast<int32_t>(m), sizes[m]), own,
                                              "dedicated, at the heavier load"));
    AddOnTime(result, &on_time[m], &clean[m]);
    return {};
  }));
  int64_t all = 0;
  for (const SimRequest& request : more) all += request.output;
  out["dedicated"]["at_risk"] = {{"load", risk_}, {"tokens_on_time", share(on_time, all)}};
  return out;
}

std::string PlanChart(const PlanJson& plan, const std::string& title) {
  BarChart chart;
  chart.title = title.empty() ? "Devices needed" : title;
  chart.subtitle = fmt::format(
      "{} models · {:.2f} requests/s · {:.0f} tokens/s · {:g} % of tokens by {:g} s + i × {:g} s",
      plan["models"].get<int64_t>(), plan["requests_per_s"].get<double>(), plan["tokens_per_s"].get<double>(),
      plan["share"].get<double>() * 100, plan["ttft_s"].get<double>(), plan["tpot_s"].get<double>());
  chart.unit = "devices";
  for (const PlanJson& row : plan["data"]) {
    for (const char* how : {"dedicated", "pooled"}) {
      const PlanJson& part = row[how];
      if (!part["devices"].is_number()) continue;
      BarChart::Bar bar;
      bar.name = fmt::format("{} {}", row["kind"].get<std::string>(), how);
      bar.value = part["devices"].get<double>();
      bar.strong = std::string_view(how) == "pooled";
      if (part.contains("per_hour")) {
        bar.note = fmt::format("{:.2f} an hour, {:.2f} a million tokens", part["per_hour"].get<double>(),
                               part["per_million_tokens"].get<double>());
      }
      if (bar.strong && row.contains("saving")) {
        bar.note +=
            fmt::format("{}{:.0f} % fewer", bar.note.empty() ? "" : ", ", row["saving"].get<double>() * 100);
      }
      chart.bars.push_back(std::move(bar));
    }
  }
  return BarChartSvg(chart);
}

Result<PlanJson> Planner::Plan() {
  if (!request_.is_object()) return BadStudyField("body", "is not an object");
  const StudyFields fields(request_);
  for (const char* name : {"policies", "sweep", "split", "kinds"}) {
    if (fields.Find(name) != nullptr) return BadStudyField(name, "is a field of a simulation, not of a plan");
  }
  TP_ASSIGN(share_, fields.Number("share", 0.99, 0.01, 1));
  TP_ASSIGN(risk_, fields.Number("risk", 2, 0.1, 100));
  TP_ASSIGN(const int64_t most,
            fields.Integer("max_count", std::min<int64_t>(1024, static_cast<int64_t>(limits_.max_devices)), 1,
                           static_cast<int64_t>(limits_.max_devices)));
  max_count_ = static_cast<int32_t>(most);
  TP_ASSIGN(const std::string text, fields.Text("devices", "H800"));
  TP_ASSIGN(const auto kinds, ParseDevices(text));
  TP_ASSIGN(const std::string title, fields.Text("title", "", 256));
  TP_ASSIGN(const bool chart, fields.Flag("chart", false));
  const PlanJson* prices = fields.Find("prices");
  if (prices != nullptr && !prices->is_object())
    return BadStudyField("prices", "is no object: {\"H20\": 1.5}");
  const PlanJson none = PlanJson::object();
  const StudyFields price_of(prices == nullptr ? none : *prices, "prices");
  PlanJson out;
  PlanJson rows = PlanJson::array();
  for (size_t k = 0; k < kinds.size(); ++k) {
    done_ = static_cast<double>(k) / static_cast<double>(kinds.size());
    TP_ASSIGN(const double price, price_of.Number(kinds[k].kind, -1, 0, 1e6));
    TP_ASSIGN(PlanJson row, PlanKind(kinds[k].kind, price));
    rows.push_back(std::move(row));
  }
  StudyChange one;
  one.devices = {{kinds[0].kind, 1}};
  TP_ASSIGN(const Study study, DecodeStudy(request_, limits_, one));
  out["models"] = study.config.models.size();
  out["requests_per_s"] = static_cast<double>(seeds_.front().size()) / duration_s_;
  out["tokens_per_s"] = tokens_per_s_;
  out["ttft_s"] = study.config.ttft_s;
  out["tpot_s"] = study.config.tpot_s;
  out["share"] = share_;
  out["seeds"] = study.seeds;
  out["data"] = std::move(rows);
  if (chart) out["svg"] = PlanChart(out, title);
  return out;
}

}  // namespace

Result<PlanJson> PlanStudy(const PlanJson& request, const StudyLimits& limits,
                           const StudyProgress& progress) {
  return Planner(request, limits, progress).Plan();
}

}  // namespace tidepool::compute
