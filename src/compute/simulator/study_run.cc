// Runs a study's policies, seeds and points.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <mutex>
#include <numeric>
#include <thread>

#include "compute/simulator/chart.h"
#include "compute/simulator/report.h"
#include "compute/simulator/study.h"
#include "compute/simulator/study_fields.h"

namespace tidepool::compute {
namespace {

using RunJson = nlohmann::ordered_json;

struct SweepPoint {
  double value = 0;
  Study study;
};

struct StudyRun {
  size_t point = 0;
  std::string policy;
  uint64_t seed = 0;
  RunJson row;
};

struct Sweep {
  std::string of;
  std::vector<double> values;
};

Result<Sweep> ReadSweep(const RunJson& request) {
  Sweep sweep;
  const StudyFields all(request);
  const RunJson* json = all.Find("sweep");
  if (json == nullptr) return sweep;
  const StudyFields fields(*json, "sweep");
  TP_TRY(fields.Known({"of", "values"}));
  TP_ASSIGN(sweep.of, fields.Text("of", ""));
  if (sweep.of != "models" && sweep.of != "devices" && sweep.of != "rate" && sweep.of != "slo") {
    return BadStudyField(
        "sweep.of", fmt::format("\"{}\" is none of models, devices, rate and slo", sweep.of.substr(0, 64)));
  }
  const RunJson* values = fields.Find("values");
  if (values == nullptr || !values->is_array() || values->empty() || values->size() > 256) {
    return BadStudyField("sweep.values", "is not a list of 1 to 256 numbers");
  }
  const bool whole = sweep.of == "models" || sweep.of == "devices";
  for (const RunJson& value : *values) {
    const double number = value.is_number() ? value.get<double>() : 0;
    if (!(number > 0 && number <= 1e5) || (whole && number != static_cast<int32_t>(number))) {
      return BadStudyField("sweep.values", fmt::format("{} is out of range", value.dump().substr(0, 32)));
    }
    sweep.values.push_back(number);
  }
  return sweep;
}

Result<StudyChange> ChangeFor(const Sweep& sweep, double value, const RunJson& request) {
  StudyChange change;
  if (sweep.of == "models") change.models = static_cast<int32_t>(value);
  if (sweep.of == "rate") change.rate = value;
  if (sweep.of == "slo") change.slo = value;
  if (sweep.of == "devices") {
    TP_ASSIGN(const std::string text, StudyFields(request).Text("devices", "16xH800"));
    TP_ASSIGN(auto devices, ParseDevices(text));
    if (devices.size() != 1) return BadStudyField("sweep", "over devices wants one kind of them");
    devices[0].count = static_cast<int32_t>(value);
    change.devices = devices;
  }
  return change;
}

std::string ChartOf(const Sweep& sweep, const std::vector<std::string>& policies, const RunJson& rows,
                    const Study& study, const std::string& title) {
  LineChart chart;
  const SimConfig& config = study.config;
  chart.title = title.empty() ? "Tokens on time" : title;
  const std::string x = sweep.of.empty() ? "models" : sweep.of;
  chart.x_label = x == "rate" ? "load, as a multiple" : x == "slo" ? "promise, as a multiple" : x;
  chart.subtitle = fmt::format("share of all offered tokens by arrival + {:g} s + i × {:g} s", config.ttft_s,
                               config.tpot_s);
  if (x != "devices") chart.subtitle += fmt::format(" · {} devices", config.devices.size());
  if (x == "devices" || x == "rate") chart.subtitle += fmt::format(" · {} models", config.models.size());
  if (study.seeds.size() > 1) chart.subtitle += fmt::format(" · worst of {} seeds", study.seeds.size());
  for (const std::string& policy : policies) {
    ChartLine line{.name = policy, .points = {}};
    for (const RunJson& row : rows) {
      if (row["policy"] != policy) continue;
      const char* key = sweep.of == "rate" || sweep.of == "slo" ? "sweep_value" : x.c_str();
      line.points.emplace_back(row[key].get<double>(), row["tokens_on_time"].get<double>());
    }
    chart.lines.push_back(std::move(line));
  }
  return LineChartSvg(chart);
}

// Shares of all runs, told one at a time.
class SharedProgress {
 public:
  SharedProgress(const StudyProgress& tell, size_t runs, double max_seconds)
      : tell_(tell), shares_(runs, 0), until_(Now() + max_seconds) {}

  bool Tell(size_t run, double share, const std::string& what) {
    const std::lock_guard lock(mutex_);
    sum_ += share - shares_[run];
    shares_[run] = share;
    if (Now() > until_) late_ = true;
    if (!late_ && !stopped_ && tell_ && !tell_(sum_ / static_cast<double>(shares_.size()), what))
      stopped_ = true;
    return !late_ && !stopped_;
  }
  Error WhyStopped(double max_seconds) const {
    if (late_) {
      return {
          ErrorKind::kTimeout, "simulation_timeout",
          fmt::format("the simulation took more than {:g} s; shorten the workload, or use the command line, "
                      "which has no limit",
                      max_seconds),
          "", 0};
    }
    return {ErrorKind::kCancelled, "interrupted", "the simulation was stopped", "", 0};
  }

 private:
  static double Now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  const StudyProgress& tell_;
  std::mutex mutex_;
  std::vector<double> shares_;
  double sum_ = 0, until_;
  bool late_ = false, stopped_ = false;
};

}  // namespace

Status RunTasks(size_t count, int32_t threads, const std::function<Status(size_t)>& task) {
  std::atomic<size_t> next{0};
  std::mutex mutex;
  Status status;
  const auto work = [&] {
    for (size_t i = next++; i < count; i = next++) {
      if (Status done = task(i); !done) {
        const std::lock_guard lock(mutex);
        if (status) status = std::move(done);
        next = count;
      }
    }
  };
  std::vector<std::thread> others;
  for (int32_t i = 1; i < threads && static_cast<size_t>(i) < count; ++i) others.emplace_back(work);
  work();
  for (std::thread& other : others) other.join();
  return status;
}

Result<RunJson> SimulateStudy(const RunJson& request, const StudyLimits& limits,
                              const StudyProgress& progress) {
  if (!request.is_object()) return BadStudyField("body", "is not an object");
  TP_ASSIGN(const Sweep sweep, ReadSweep(request));
  TP_ASSIGN(const std::string title, StudyFields(request).Text("title", "", 256));
  std::vector<SweepPoint> points;
  for (const double value : sweep.values.empty() ? std::vector<double>{0} : sweep.values) {
    TP_ASSIGN(const StudyChange change, ChangeFor(sweep, value, request));
    SweepPoint point{.value = value, .study = {}};
    TP_ASSIGN(point.study, DecodeStudy(request, limits, change));
    points.push_back(std::move(point));
  }
  std::vector<StudyRun> runs;
  for (size_t p = 0; p < points.size(); ++p) {
    for (const std::string& policy : points[p].study.policies) {
      for (const uint64_t seed : points[p].study.seeds) runs.push_back({p, policy, seed, {}});
    }
  }
  if (runs.size() > limits.max_runs) {
    return BadStudyField("seeds", fmt::format("policies x seeds x points are {} runs, more than {}",
                                              runs.size(), limits.max_runs));
  }
  // The long ones first, so that no thread is left alone with one at the end.
  std::vector<size_t> order(runs.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return points[runs[a].point].study.config.models.size() >
           points[runs[b].point].study.config.models.size();
  });
  SharedProgress shared(progress, runs.size(), limits.max_seconds);
  TP_TRY(RunTasks(runs.size(), limits.threads, [&](size_t i) -> Status {
    StudyRun& run = runs[order[i]];
    const Study& study = points[run.point].study;
    TP_ASSIGN(const auto requests, study.Requests(run.seed));
    SimConfig config = study.config;
    config.policy = run.policy;
    const std::string what = fmt::format("{} {} models, seed {}", run.policy, config.models.size(), run.seed);
    if (!shared.Tell(order[i], 0, what)) return Fail(shared.WhyStopped(limits.max_seconds));
    config.progress = [&](double share) { return shared.Tell(order[i], share * 0.99, what); };
    TP_ASSIGN(const SimResult result, Simulate(config, requests));
    if (result.stopped) return Fail(shared.WhyStopped(limits.max_seconds));
    run.row = RowOf(result);
    run.row["seed"] = run.seed;
    shared.Tell(order[i], 1, what);
    return {};
  }));
  RunJson rows = RunJson::array();
  for (size_t i = 0; i < runs.size();) {
    std::vector<RunJson> seeds;
    const StudyRun& first = runs[i];
    for (; i < runs.size() && runs[i].point == first.point && runs[i].policy == first.policy &&
           seeds.size() < points[first.point].study.seeds.size();
         ++i) {
      seeds.push_back(runs[i].row);
    }
    RunJson row = WorstRow(seeds);
    if (!sweep.of.empty()) {
      row["sweep"] = sweep.of;
      row["sweep_value"] = points[first.point].value;
    }
    if (seeds.size() > 1) {
      row.erase("seed");
      row["seeds"] = seeds;
    }
    rows.push_back(std::move(row));
  }
  const Study& study = points.front().study;
  RunJson out;
  out["data"] = rows;
  out["ttft_s"] = study.config.ttft_s;
  out["tpot_s"] = study.config.tpot_s;
  out["seeds"] = study.seeds;
  if (study.chart) out["svg"] = ChartOf(sweep, study.policies, rows, study, title);
  return out;
}

}  // namespace tidepool::compute
