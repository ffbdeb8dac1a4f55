#include <fmt/format.h>

#include <cmath>

#include "compute/engine/engine.h"

namespace tidepool::compute {
namespace {

Status Refuse(const char* param, const std::string& message) {
  return Fail(ErrorKind::kInvalid, "invalid_parameter", message, param);
}

// `open_low`: the lower end is not allowed itself. NaN is outside every range.
Status CheckRange(const char* param, float value, float low, float high, bool open_low = false) {
  const bool inside = (open_low ? value > low : value >= low) && value <= high;
  if (inside) return {};
  return Refuse(param, fmt::format("{} is {}; it must be {} {} and at most {}", param, value,
                                   open_low ? "more than" : "at least", low, high));
}

Status CheckTokenId(const char* param, int32_t token, int32_t vocab_size) {
  if (token >= 0 && token < vocab_size) return {};
  return Refuse(param, fmt::format("{} names token {}, but the model has tokens 0 to {}", param, token,
                                   vocab_size - 1));
}

Status CheckStops(const SamplingParams& params, int32_t vocab_size) {
  constexpr size_t kMaxStops = 16;
  constexpr size_t kMaxStopBytes = 1024;
  constexpr size_t kMaxStopTokens = 1024;
  if (params.stop.size() > kMaxStops) {
    return Refuse("stop", fmt::format("{} stop strings were given; at most {} are allowed",
                                      params.stop.size(), kMaxStops));
  }
  for (const std::string& stop : params.stop) {
    if (stop.size() > kMaxStopBytes) {
      return Refuse("stop", fmt::format("a stop string has {} bytes; at most {} are allowed", stop.size(),
                                        kMaxStopBytes));
    }
  }
  if (params.stop_token_ids.size() > kMaxStopTokens) {
    return Refuse("stop_token_ids", fmt::format("{} stop_token_ids were given; at most {} are allowed",
                                                params.stop_token_ids.size(), kMaxStopTokens));
  }
  for (const int32_t token : params.stop_token_ids) TP_TRY(CheckTokenId("stop_token_ids", token, vocab_size));
  return {};
}

Status CheckBias(const SamplingParams& params, int32_t vocab_size) {
  constexpr size_t kMaxBiases = 1024;
  if (params.logit_bias.size() > kMaxBiases) {
    return Refuse("logit_bias", fmt::format("logit_bias has {} entries; at most {} are allowed",
                                            params.logit_bias.size(), kMaxBiases));
  }
  for (const auto& [token, bias] : params.logit_bias) {
    TP_TRY(CheckTokenId("logit_bias", token, vocab_size));
    TP_TRY(CheckRange("logit_bias", bias, -100, 100));
  }
  return {};
}

}  // namespace

Status ValidateSampling(const SamplingParams& params, int32_t vocab_size) {
  TP_TRY(CheckRange("temperature", params.temperature, 0, 2));
  TP_TRY(CheckRange("top_p", params.top_p, 0, 1, true));
  TP_TRY(CheckRange("min_p", params.min_p, 0, 1));
  TP_TRY(CheckRange("repetition_penalty", params.repetition_penalty, 0, 10, true));
  TP_TRY(CheckRange("presence_penalty", params.presence_penalty, -2, 2));
  TP_TRY(CheckRange("frequency_penalty", params.frequency_penalty, -2, 2));
  if (params.top_k < 0) {
    return Refuse("top_k", fmt::format("top_k is {}; it must be 0 (off) or more", params.top_k));
  }
  if (params.max_tokens < 0) {
    return Refuse(
        "max_tokens",
        fmt::format("max_tokens is {}; it must be at least 1, or 0 for as many as fit", params.max_tokens));
  }
  if (params.min_tokens < 0 || (params.max_tokens > 0 && params.min_tokens > params.max_tokens)) {
    return Refuse("min_tokens",
                  fmt::format("min_tokens is {}; it must be 0 or more and at most max_tokens ({})",
                              params.min_tokens, params.max_tokens));
  }
  if (params.top_logprobs < -1 || params.top_logprobs > 20) {
    return Refuse("top_logprobs", fmt::format("top_logprobs is {}; it must be 0 to 20", params.top_logprobs));
  }
  if (params.reasoning_budget < -1) {
    return Refuse("reasoning_budget",
                  fmt::format("reasoning_budget is {}; it must be 0 or more, or -1 for no bound",
                              params.reasoning_budget));
  }
  TP_TRY(CheckBias(params, vocab_size));
  return CheckStops(params, vocab_size);
}

}  // namespace tidepool::compute
