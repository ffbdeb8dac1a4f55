// A study: what `tidepool sim`, `tidepool plan` and their endpoints ask for, decoded from JSON and run.
//
// The request (all but `workload` may be missing; README.md says what each field means):
//   {"workload": "poisson:0.1x70", or "trace": {"name", "text"} with "repeat_until_s" and "popularity",
//    "models": "mix:sosp25" or [{"name", "like", "count", "rate", "weight_bytes", "layers", "kv_token_bytes",
//    "profiles"}], "model_count", "devices": "16xH800", "profiles": [device...], "split": "6:10",
//    "policies": ["tidepool"], "ttft_s", "tpot_s", "seeds": [1], "duration_s", "lengths": {"name", "text"},
//    "input_scale", "output_scale", "copy_gbps", "host_memory_gb", "load_gbps", "admission",
//    "max_output_tokens", "sweep": {"of": "models", "values": [10, 20]}, "chart": false}
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "compute/simulator/hardware.h"
#include "compute/simulator/simulator.h"
#include "compute/simulator/workload.h"

namespace tidepool::compute {

struct StudyLimits {
  size_t max_requests = 5'000'000;
  size_t max_models = 10'000;
  size_t max_devices = 4096;
  size_t max_runs = 10'000;  // policies x seeds x points of the sweep
  double max_seconds = 1e9;  // real ones
  int32_t threads = 1;       // runs at once
};

// Share done, and what runs; false stops. Any thread, one call at a time.
using StudyProgress = std::function<bool(double share, const std::string& what)>;

// What a sweep or the planner alters.
struct StudyChange {
  std::optional<int32_t> models;
  std::optional<std::vector<DeviceCount>> devices;
  double rate = 1;  // factor of every model's rate
  double slo = 1;   // factor of ttft and tpot
};

struct Study {
  Hardware hardware;
  std::vector<std::string> kinds;  // by index of SimConfig::kinds
  SimConfig config;                // policy and progress left to set
  std::vector<std::string> policies;
  std::vector<uint64_t> seeds;
  bool chart = false;

  // Where requests come from.
  std::optional<Trace> trace;
  bool replay = false;             // the trace as it is; else Poisson or Gamma
  std::vector<double> popularity;  // of models, for traces without
  std::vector<double> rates;       // when not replayed
  double cv = 1, duration_s = 900, rate_factor = 1;
  LengthScale scale;
  Lengths lengths;
  size_t max_requests = 0;

  Result<std::vector<SimRequest>> Requests(uint64_t seed) const;
};

Result<Study> DecodeStudy(const nlohmann::ordered_json& request, const StudyLimits& limits,
                          const StudyChange& change);

// Devices of the config, eight a host; each kind begins with a host of its own.
void PlaceDevices(const std::vector<DeviceCount>& devices, const SimHost& host, SimConfig& config);

// {"data": [row...], "workload": {...}, "svg": "..."}; a row is the worst of its seeds, field by field, with
// the seeds' own rows under "seeds" when there are several.
Result<nlohmann::ordered_json> SimulateStudy(const nlohmann::ordered_json& request, const StudyLimits& limits,
                                             const StudyProgress& progress);

// Runs `count` tasks on limits.threads threads; the first error ends all. For studies and the planner.
Status RunTasks(size_t count, int32_t threads, const std::function<Status(size_t)>& task);

}  // namespace tidepool::compute
