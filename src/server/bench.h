// Prefill and decode speed of a model, through the engine that serves, with the share of the measured limit.
#pragma once

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/result.h"
#include "chips/device.h"
#include "compute/engine/engine.h"
#include "platform/inference/inference.h"

namespace tidepool::server {

// request: {"model", "prompt_tokens": 512, "generate_tokens": 64, "depth": 8, "batch": [1, 4, 16],
// "repeat": 3}
// reply: {"model", "weight_bytes", "parameters", "data": [{"id", "test": "prefill"|"decode", "batch",
// "tokens", "depth", "seconds", "tokens_per_s" (median of the repeats), "limit" (tokens/s),
// "share_of_limit"}]}. Blocks; call it off the I/O threads, one at a time.
//
// prefill: from handing in one prompt of `prompt_tokens` random tokens to its first token. 0: not measured.
// decode, for each of `batch`: so many answers at once, each after a prompt of `depth` tokens of its own.
// Only the time in which all of them decode counts, and the tokens made in it: the prompts' prefill does not
// (after the warm-up their KV comes from the prefix cache anyway, where that is on). An empty list: not
// measured. Each test runs once to warm up, then `repeat` times.
//
// Limits (roofline): prefill int8_ops / (2 x parameters); decode min(that, batch x memory_bytes_per_s /
// weight bytes). Reading the KV is not counted.
Result<nlohmann::ordered_json> RunBench(const nlohmann::ordered_json& request, platform::Inference& inference,
                                        compute::Engine& engine, const Clock& clock,
                                        const chips::Roofline& roofline);

}  // namespace tidepool::server
