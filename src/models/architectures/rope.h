// Rotary position embedding: inverse frequencies from the configuration, with linear, llama3 and YaRN
// scaling.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/fields.h"
#include "models/architectures/weights.h"

namespace tidepool::architectures {

// Where a family keeps the fields of one rope. Gemma has two (global and local layers).
struct RopeKeys {
  std::string_view gguf_base = "rope.freq_base";
  bool gguf_scaling = true;                             // rope.scaling.* and rope_freqs.weight apply
  std::string_view hf_parameters = "rope_parameters.";  // transformers 5
  std::string_view hf_base = "rope_theta";              // transformers 4
  std::string_view hf_scaling = "rope_scaling.";        // transformers 4; empty: never scaled
  double default_base = 10000;
};

struct Rope {
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;
  chips::RopePairing pairing = chips::RopePairing::kHalfSplit;
  float amplitude = 1;
  double original_context = 0;  // of YaRN: positions the factor multiplies; 0: not extended
  double factor = 1;
  std::vector<float> frequencies;            // [rotary_dim / 2], host
  const float* inverse_frequency = nullptr;  // the same on the device, after WeightPlan::Load
};

// Unknown scaling types are errors that list the known ones. `context`: the trained context length.
Result<Rope> ReadRope(const Fields& fields, int32_t head_dim, int32_t context, const RopeKeys& keys = {});
// The context a YaRN factor opens; `context` itself for all other ropes.
int32_t ExtendedContext(int32_t context, const Rope& rope);
// Hands the table to the plan; `rope` must stay in place until the plan is loaded.
inline void DeclareRope(WeightPlan& plan, Rope& rope) {
  plan.Table(rope.frequencies, &rope.inverse_frequency);
}

}  // namespace tidepool::architectures
