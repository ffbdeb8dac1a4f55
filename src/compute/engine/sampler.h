// From a row of logits to a token.
//
// Order (Hugging Face's): penalties, logit_bias, masks, temperature, top_k, top_p, min_p, draw.
//   repetition  tokens of prompt and output: positive logits are divided by it, others multiplied
//   frequency   output tokens: minus penalty x count;  presence: minus penalty once
//   top_k       keeps what is not below the k-th largest (equal logits stay)
//   top_p       keeps a token if those before it (larger; equal ones by id) hold less than top_p of the mass
//   min_p       keeps a token if its probability is at least min_p times the largest
//   temperature 0: the largest logit, the lowest id among equals
// The draw is number `index` of the request's own stream (random.h).
//
// Threads: one each. Allocates in the constructor only.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/engine/engine.h"

namespace tidepool::compute {

// How often a sequence has used each token. Filled only for requests with penalties.
class TokenCounts {
 public:
  struct Entry {
    int32_t token = 0;
    int32_t in_output = 0;
  };
  // Room for `tokens` tokens: Add then allocates nothing.
  void Reserve(size_t tokens);
  void Add(int32_t token, bool output);
  std::span<const Entry> entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // open addressing: index into entries_ + 1, 0 is empty
};

struct SampleSpec {
  const SamplingParams* params = nullptr;
  const TokenCounts* counts = nullptr;  // may be nullptr without penalties
  std::span<const int32_t> masked{};    // tokens that may not come out (min_tokens)
  uint64_t seed = 0;
  uint64_t index = 0;
};

bool HasPenalties(const SamplingParams& params);

class Sampler {
 public:
  explicit Sampler(int32_t max_vocab);

  // The token, or -1 if a logit is not finite or everything is masked.
  int32_t Sample(std::span<const float> logits, const SampleSpec& spec);

  // log softmax of the raw row: the chosen token and the `top` best (out.top's capacity is kept).
  void Logprobs(std::span<const float> logits, int32_t token, int32_t top, TokenLogprob& out);

 private:
  struct Kept {  // the set top_k and top_p leave: logits above `logit`, and those equal to it up to
                 // `last_token`
    float logit = 0;
    int32_t last_token = 0;
  };
  int32_t Draw(size_t count, float temperature, float max_logit, const SampleSpec& spec);
  float KthLargest(size_t count, int32_t k);
  Kept NucleusCut(size_t count, float inverse_temperature, float max_logit, double mass, double top_p);

  std::vector<float> logits_;   // the row after penalties, bias and masks
  std::vector<float> weights_;  // exp((logit - max) / temperature), 0 for what top_k took out
  std::vector<int32_t> candidates_;
  std::vector<float> selection_;
};

}  // namespace tidepool::compute
