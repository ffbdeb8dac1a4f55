// What the client said, then the model's defaults, then the API's.
#pragma once

#include <optional>

#include "base/result.h"
#include "compute/engine/engine.h"
#include "platform/inference/inference.h"
#include "platform/inference/model_assets.h"

namespace tidepool::platform {

// Checks what would be lost in narrower types and what needs the vocabulary; the engine's ValidateSampling
// checks the ranges. `default_max_tokens` 0: until the context is full.
Result<compute::SamplingParams> MergeSampling(const SamplingRequest& request,
                                              const SamplingDefaults& defaults, int32_t default_max_tokens,
                                              int32_t vocab_size);

}  // namespace tidepool::platform
