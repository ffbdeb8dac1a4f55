// For tests of how accounts share a pool: senders, pools, and what an account saw of its requests.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include "compute/simulator/simulator.h"

namespace tidepool::compute {

inline constexpr double kSeconds = 360;
// Clocks and step times are learned, and models loaded, in the first minute.
inline constexpr Nanoseconds kWarmUp = 60 * kSecond;

struct Sender {
  int32_t account = 0;
  double per_s = 1;
  std::vector<int32_t> models;
  int32_t prompt = 0, output = 0;  // 0: of many lengths
  uint64_t draw = 0;               // another one: other arrivals at the same rate
};

// Poisson arrivals. The arrivals of one sender are the same whatever the others send.
inline void Send(const Sender& sender, uint64_t seed, std::vector<SimRequest>& requests) {
  std::mt19937_64 random(static_cast<uint64_t>(sender.account) * 7919 + seed + 1000 * sender.draw);
  const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
  double at = 0;
  while ((at += -std::log(uniform()) / sender.per_s) < kSeconds) {
    SimRequest request;
    request.arrival = std::llround(at * 1e9);
    request.model = sender.models[random() % sender.models.size()];
    request.prompt = 100 + static_cast<int32_t>(random() % 1000);
    request.output = 50 + static_cast<int32_t>(random() % 400);
    if (sender.prompt > 0) request.prompt = sender.prompt;
    if (sender.output > 0) request.output = sender.output;
    request.account = sender.account;
    requests.push_back(request);
  }
}

inline SimConfig Pool(int32_t devices, int32_t models, double arena_gb) {
  SimConfig config;
  const StepProfile h800{5.7e-3, 22.4e-6, 0, 8.25e-3, 0.08e-6, 103e-6};
  for (int32_t i = 0; i < models; ++i) config.models.push_back({"m", 15'200'000'000, 28, 57344, {h800}});
  config.kinds = {{"H800", static_cast<uint64_t>(arena_gb * 1e9), 25e9}};
  config.hosts.resize(1);
  for (int32_t i = 0; i < devices; ++i) config.devices.push_back({0, 0});
  config.max_sequences = 64;
  return config;
}

struct Seen {
  double p99_s = 0, p50_s = 0, refused = 0, on_time = 0;
  size_t requests = 0;
};
// Of some runs together: the 99th percentile of one is the chance of a few requests.
inline Seen Watch(const SimConfig& config, const std::vector<Sender>& senders, int32_t account,
                  uint64_t runs) {
  Seen seen;
  std::vector<double> ttft;
  int64_t tokens = 0, on_time = 0, refused = 0;
  for (uint64_t seed = 1; seed <= runs; ++seed) {
    std::vector<SimRequest> requests;
    for (const Sender& sender : senders) Send(sender, seed, requests);
    std::stable_sort(requests.begin(), requests.end(),
                     [](const SimRequest& a, const SimRequest& b) { return a.arrival < b.arrival; });
    const auto result = Simulate(config, requests);
    for (size_t i = 0; i < requests.size(); ++i) {
      if (requests[i].account != account || requests[i].arrival < kWarmUp) continue;
      const SimRequestResult& detail = result->details[i];
      tokens += requests[i].output;
      on_time += detail.on_time;
      refused += detail.rejected;
      ttft.push_back(detail.first_token < 0
                         ? 1e9
                         : static_cast<double>(detail.first_token - requests[i].arrival) * 1e-9);
    }
  }
  std::sort(ttft.begin(), ttft.end());
  seen.requests = ttft.size();
  seen.p50_s = ttft[ttft.size() / 2];
  seen.p99_s = ttft[static_cast<size_t>(0.99 * static_cast<double>(ttft.size()))];
  seen.refused = static_cast<double>(refused) / static_cast<double>(ttft.size());
  seen.on_time = static_cast<double>(on_time) / static_cast<double>(tokens);
  return seen;
}

// Four models of 0.6B in memory for three on a processor.
inline SimConfig Processor(const StepProfile& profile, double kv_gb) {
  SimConfig config;
  for (int32_t i = 0; i < 4; ++i) config.models.push_back({"m", 341'000'000, 28, 116'480, {profile}});
  config.kinds = {{"cpu", 3 * 341'000'000ull + static_cast<uint64_t>(kv_gb * 1e9), 20e9}};
  config.hosts.resize(1);
  config.hosts[0].memory_bytes = 5'000'000'000;
  config.devices.push_back({0, 0});
  config.max_sequences = 64;
  config.batch_tokens = 512;
  config.max_output_tokens = 64;
  return config;
}

}  // namespace tidepool::compute
