// Prefill and decode speed of a model, through the engine that serves, with the share of the measured limit.
#pragma once

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/result.h"
#include "chips/device.h"
#include "compute/engine/engine.h"
#include "platform/inference/inference.h"

namespace tidepool::server {

// request: {"model", "prompt_tokens": 512, "generate_tokens": 64, "batch": [1, 4, 16], "repeat": 3}
// reply: {"model", "data": [{"id", "test": "prefill"|"decode", "batch", "tokens", "seconds", "tokens_per_s"
// (median of the repeats), "limit" (tokens/s), "share_of_limit"}]}. Blocks; call it off the I/O threads, one
// at a time.
//
// Limits (roofline): prefill int8_ops / (2 x parameters); decode min(that, batch x memory_bytes_per_s /
// weight bytes).
Result<nlohmann::ordered_json> RunBench(const nlohmann::ordered_json& request, platform::Inference& inference,
                                        compute::Engine& engine, const Clock& clock,
                                        const chips::Roofline& roofline);

}  // namespace tidepool::server
