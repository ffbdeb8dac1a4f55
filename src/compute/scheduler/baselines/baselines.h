// What others do, behind the interface of the pool's scheduler: for honest comparison, in the simulator and
// on the real pool. Each is as published; where a paper and its artifact differ, the .cc says which one is
// followed. All of them serve requests first come first served within a model, batch continuously, prefill in
// chunks and reserve KV as it grows (when it runs out the youngest request is recomputed, as vLLM does),
// unless said otherwise. Pins, TTLs, priorities, accounts and admission control are not part of these systems
// and are ignored.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {

// Whole devices for each model: one for every model in the order they were added, what is left is claimed,
// for good, by models whose devices are full. Requests of models without a device are refused.
std::unique_ptr<PoolScheduler> MakeDedicatedScheduler(const PoolPolicyOptions& options);

// MuxServe-like (Duan et al., ICML'24): models share devices by a placement that is made once, as memory
// allows; requests of models that found no place are refused. Models of a device take steps in turn.
std::unique_ptr<PoolScheduler> MakeStaticScheduler(const PoolPolicyOptions& options);

// Request-level swapping of the least recently used model, as Ollama, llama-swap and llama.cpp's router do: a
// model with requests in flight stays, requests of loaded models start at once, the others wait in one queue.
std::unique_ptr<PoolScheduler> MakeLruScheduler(const PoolPolicyOptions& options);

// ServerlessLLM (Fu et al., OSDI'24): one model a device at a time; a request goes to an instance of its
// model with fewer than four requests, else to the free device that can start it soonest, else it waits in
// one queue.
std::unique_ptr<PoolScheduler> MakeServerlessLlmScheduler(const PoolPolicyOptions& options);

// Aegaeon (Xiang et al., SOSP'25), algorithms 1 and 2.
struct AegaeonOptions {
  int32_t prefill_devices = 0;  // the first so many of every host only prefill; 0: three of eight
  double max_quota_s = 4;       // QMAX
  int32_t max_group = 8;        // MAX_GPSIZE
};
// Algorithm 2's quotas of a round: how long each batch of a decode instance runs.
//   n_i = tpot / step time of batch i: how many tokens ahead of its readers a second of it brings
//   S = sum 1 / n_i
//   alpha = max(c / (min n_i * QMAX) + S, 0.5);  q_i = c / (n_i (alpha - S))
// `ahead`: the n_i, more than 0. `switches_s`: c, the seconds of the round's switches. Without one (c = 0)
// the formula says nothing; QMAX then.
std::vector<double> AegaeonQuotas(std::span<const double> ahead, double switches_s, double max_quota_s);
std::unique_ptr<PoolScheduler> MakeAegaeonScheduler(const PoolPolicyOptions& options,
                                                    const AegaeonOptions& aegaeon);

}  // namespace tidepool::compute
