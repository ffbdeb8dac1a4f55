// What the engine counts, by model. Handles are made when a model is added; a step only touches atomics.
#pragma once

#include <string>

#include "base/metrics.h"

namespace tidepool::compute {

struct ModelMetrics {
  ModelMetrics(MetricsRegistry& registry, const std::string& model);

  Histogram ttft_s, tpot_s, queue_s, step_tokens, step_s;
  Counter prompt_tokens, cached_tokens, completion_tokens, reasoning_tokens, embedded_tokens, steps,
      landing_steps, aborted_steps;
  Counter finished_stop, finished_length, finished_cancelled, finished_error;
  Counter prefix_evictions;
  Counter drafted_tokens, accepted_tokens;
  Counter tokens_on_time, tokens_late;
  Gauge running, waiting, kv_used, kv_cached, kv_free;
};

}  // namespace tidepool::compute
