// Virtual time for the pool: the scheduler that runs real devices, over devices that exist as numbers.
//
// A device takes steps as long as its profile says, copies bytes in and out at its link's rate (transfers of
// one direction share it equally), and models that are not in host memory are read at the host's rate, shared
// by all that are read there. Nothing else is modelled: no network, no failures, no variance of step times.
//
// Threads: one a run; runs are independent of each other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {

struct SimModel {
  std::string name;
  uint64_t weight_bytes = 0;
  int32_t layers = 32;
  uint64_t kv_token_bytes = 0;
  std::vector<StepProfile> profiles;  // by kind of device
};

struct SimDeviceKind {
  std::string name;
  uint64_t arena_bytes = 0;        // weights and KV
  double copy_bytes_per_s = 25e9;  // each way
};

struct SimDevice {
  int32_t kind = 0;
  int32_t host = 0;
};

struct SimHost {
  uint64_t memory_bytes = uint64_t{2} << 40;  // three quarters for warm weights, one for spilled KV
  double load_bytes_per_s = 8e9;              // from the store
};

struct SimRequest {
  Nanoseconds arrival = 0;  // ascending
  int32_t model = 0;
  int32_t prompt = 1;
  int32_t output = 1;
  int32_t account = 0;  // 0: none; n: SimConfig::accounts[n - 1]
  JobClass job_class = JobClass::kNormal;
  Nanoseconds cancel_at = -1;  // -1: never
};

struct SimAccount {
  std::string path;
  std::vector<double> weights = {};  // one a level; missing: 1
};

struct SimConfig {
  std::vector<SimModel> models;
  std::vector<SimDeviceKind> kinds;
  std::vector<SimDevice> devices;
  std::vector<SimHost> hosts;
  std::vector<SimAccount> accounts;  // what is missing is named by its number and weighs 1
  std::string policy = "tidepool";
  PoolPolicyOptions options;
  int32_t prefill_devices = 0;  // aegaeon: the first so many devices of every host only prefill; 0: 3 of 8
  double ttft_s = 10, tpot_s = 0.1;
  int32_t batch_tokens = 2048;
  int32_t max_sequences = 256;
  int32_t max_output_tokens = 2048;           // what clients ask for at most; reserved
  std::function<bool(double)> progress = {};  // share done; false stops
  // Every effect as it is carried out, for traces and tests; may be empty.
  std::function<void(Nanoseconds, const Effect&)> observe = {};
};

struct SimRequestResult {
  int32_t on_time = 0;  // tokens by arrival + ttft + i * tpot
  int32_t produced = 0;
  Nanoseconds first_token = -1, last_token = -1;
  Nanoseconds largest_gap = 0;
  bool rejected = false;
};

struct SimResult {
  std::string policy;
  int32_t models = 0, devices = 0;
  int64_t requests = 0, rejected = 0, unfinished = 0;
  int64_t tokens = 0;           // asked for, of all offered requests: the denominator of tokens_on_time
  double tokens_on_time = 0;    // share
  double admitted_on_time = 1;  // share of the tokens of requests that were not refused
  double requests_on_time = 0;  // share of offered requests with every token on time
  double qos_sosp25 = 0;        // the SOSP'25 artifact's softer measure, for comparison only; refused: 0
  double ttft_p50_s = 0, ttft_p99_s = 0;
  double max_stall_p50_s = 0, max_stall_p99_s = 0;
  double utilisation = 0;  // of device time between the first arrival and the last token
  double makespan_s = 0;
  uint64_t switches = 0, bytes_moved = 0;
  double wall_s = 0;
  PoolCounters counters;
  std::vector<SimRequestResult> details;   // one a request
  std::vector<std::vector<float>> busy_s;  // [device][model]: what computed where
  bool stopped = false;                    // by `progress`: the figures are of a part
};

// Errors: an unknown policy, a model that fits on no device, a workload that names models there are not.
Result<SimResult> Simulate(const SimConfig& config, std::span<const SimRequest> requests);

std::vector<std::string> SimPolicies();
Result<std::unique_ptr<PoolScheduler>> MakePolicy(const SimConfig& config);

}  // namespace tidepool::compute
