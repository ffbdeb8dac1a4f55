#include "platform/inference/sampling.h"

#include <fmt/format.h>
#include <cmath>
#include <limits>

namespace tidepool::platform {
namespace {

constexpr int32_t kMaxN = 128;

Status NarrowInt(const std::optional<int64_t>& value, int64_t least, const char* field, int32_t& out) {
  if (!value) return {};
  if (*value < least || *value > std::numeric_limits<int32_t>::max()) {
    return Fail(
        ErrorKind::kInvalid, "out_of_range",
        fmt::format("{} must be {} to {}, not {}", field, least, std::numeric_limits<int32_t>::max(), *value),
        field);
  }
  out = static_cast<int32_t>(*value);
  return {};
}

Status NarrowFloat(const std::optional<double>& value, const char* field, float& out) {
  if (!value) return {};
  if (!std::isfinite(*value) || std::fabs(*value) > 1e9) {
    return Fail(ErrorKind::kInvalid, "out_of_range", fmt::format("{} is out of range: {}", field, *value),
                field);
  }
  out = static_cast<float>(*value);
  return {};
}

template <typename T>
std::optional<T> Either(const std::optional<T>& first, const std::optional<T>& second) {
  return first ? first : second;
}

}  // namespace

Result<compute::SamplingParams> MergeSampling(const SamplingRequest& request,
                                              const SamplingDefaults& defaults, int32_t default_max_tokens,
                                              int32_t vocab_size) {
  if (request.n < 1 || request.n > kMaxN) {
    return Fail(ErrorKind::kInvalid, "out_of_range",
                fmt::format("n must be 1 to {}, not {}", kMaxN, request.n), "n");
  }
  compute::SamplingParams out;
  TP_TRY(NarrowFloat(Either(request.temperature, defaults.temperature), "temperature", out.temperature));
  TP_TRY(NarrowFloat(Either(request.top_p, defaults.top_p), "top_p", out.top_p));
  TP_TRY(NarrowFloat(Either(request.min_p, defaults.min_p), "min_p", out.min_p));
  TP_TRY(NarrowFloat(Either(request.repetition_penalty, defaults.repetition_penalty), "repetition_penalty",
                     out.repetition_penalty));
  TP_TRY(NarrowFloat(request.presence_penalty, "presence_penalty", out.presence_penalty));
  TP_TRY(NarrowFloat(request.frequency_penalty, "frequency_penalty", out.frequency_penalty));
  std::optional<int64_t> top_k = Either(request.top_k, defaults.top_k);
  if (top_k == -1) top_k = 0;  // vLLM's way to say "off"
  TP_TRY(NarrowInt(top_k, 0, "top_k", out.top_k));
  out.max_tokens = default_max_tokens;
  TP_TRY(NarrowInt(request.max_tokens, 1, "max_tokens", out.max_tokens));
  TP_TRY(NarrowInt(request.min_tokens, 0, "min_tokens", out.min_tokens));
  TP_TRY(NarrowInt(request.reasoning_budget, -1, "reasoning_budget", out.reasoning_budget));
  if (request.seed) out.seed = static_cast<uint64_t>(*request.seed);
  for (const auto& [token, bias] : request.logit_bias) {
    if (token < 0 || token >= vocab_size) {
      return Fail(ErrorKind::kInvalid, "invalid_token",
                  fmt::format("token {} is outside the model's vocabulary (0 to {})", token, vocab_size - 1),
                  "logit_bias");
    }
  }
  out.logit_bias = request.logit_bias;
  out.ignore_eos = request.ignore_eos.value_or(false);
  out.stop = request.stop;
  out.stop_token_ids = request.stop_token_ids;
  out.include_stop = request.include_stop;
  out.top_logprobs = request.top_logprobs;
  return out;
}

}  // namespace tidepool::platform
