#include "compute/engine/engine_metrics.h"

namespace tidepool::compute {
namespace {

const std::vector<double>& StepTokenBounds() {
  static const std::vector<double> kBounds = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  return kBounds;
}

}  // namespace

ModelMetrics::ModelMetrics(MetricsRegistry& registry, const std::string& model) {
  const MetricLabels labels = {{"model", model}};
  auto with = [&](const char* key, const char* value) {
    MetricLabels more = labels;
    more[key] = value;
    return more;
  };
  ttft_s = registry.histogram("tidepool_ttft_seconds", "From submission to the first token", LatencyBounds(),
                              labels);
  tpot_s =
      registry.histogram("tidepool_tpot_seconds", "Between two tokens of an answer", LatencyBounds(), labels);
  queue_s =
      registry.histogram("tidepool_queue_seconds", "From submission to admission", LatencyBounds(), labels);
  step_s = registry.histogram("tidepool_step_seconds", "Duration of a step", LatencyBounds(), labels);
  step_tokens =
      registry.histogram("tidepool_step_tokens", "Tokens computed by a step", StepTokenBounds(), labels);
  steps = registry.counter("tidepool_steps_total", "Steps", labels);
  landing_steps = registry.counter("tidepool_landing_steps_total",
                                   "Steps begun while weights were still loading", labels);
  aborted_steps =
      registry.counter("tidepool_aborted_steps_total",
                       "Of these, given up: the load failed, or something could not wait", labels);
  prompt_tokens = registry.counter("tidepool_prompt_tokens_total", "Prompt tokens of ended requests", labels);
  cached_tokens =
      registry.counter("tidepool_cached_tokens_total", "Prompt tokens found in the prefix cache", labels);
  completion_tokens = registry.counter("tidepool_completion_tokens_total", "Tokens generated", labels);
  reasoning_tokens = registry.counter("tidepool_reasoning_tokens_total", "Of these, reasoning", labels);
  embedded_tokens = registry.counter("tidepool_embedded_tokens_total", "Tokens of embedded inputs", labels);
  prefix_evictions =
      registry.counter("tidepool_kv_evictions_total", "Cached blocks given up for new ones", labels);
  drafted_tokens = registry.counter("tidepool_drafted_tokens_total", "Tokens computed as drafts", labels);
  accepted_tokens =
      registry.counter("tidepool_accepted_tokens_total", "Of these, tokens that were said", labels);
  const char* finished = "tidepool_requests_total";
  const char* finished_help = "Ended requests by reason";
  finished_stop = registry.counter(finished, finished_help, with("finish", "stop"));
  finished_length = registry.counter(finished, finished_help, with("finish", "length"));
  finished_cancelled = registry.counter(finished, finished_help, with("finish", "cancelled"));
  finished_error = registry.counter(finished, finished_help, with("finish", "error"));
  const char* promised = "tidepool_promised_tokens_total";
  const char* promised_help = "Tokens of answers by whether they came when the model's policy promises them";
  tokens_on_time = registry.counter(promised, promised_help, with("came", "on_time"));
  tokens_late = registry.counter(promised, promised_help, with("came", "late"));
  running = registry.gauge("tidepool_requests_running", "Sequences admitted", labels);
  waiting = registry.gauge("tidepool_requests_waiting", "Sequences waiting for admission", labels);
  kv_used = registry.gauge("tidepool_kv_blocks", "KV blocks by state", with("state", "used"));
  kv_cached = registry.gauge("tidepool_kv_blocks", "KV blocks by state", with("state", "cached"));
  kv_free = registry.gauge("tidepool_kv_blocks", "KV blocks by state", with("state", "free"));
}

}  // namespace tidepool::compute
