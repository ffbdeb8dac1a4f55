// From a row of logits to a token.
//
// Order (Hugging Face's): penalties, logit_bias, masks, grammar, temperature, top_k, top_p, min_p, draw.
//   repetition  tokens of prompt and output: positive logits are divided by it, others multiplied
//   frequency   output tokens: minus penalty x count;  presence: minus penalty once
//   top_k       keeps what is not below the k-th largest (equal logits stay)
//   top_p       keeps a token if those before it (larger; equal ones by id) hold less than top_p of the mass
//   min_p       keeps a token if its probability is at least min_p times the largest
//   temperature 0: the largest logit, the lowest id among equals
// The draw is number `index` of the request's own stream (random.h).
//
// What it costs: with the row's peaks (chips/device.h), a few blocks of the row are read where the answer
// depends on the largest logits only (temperature 0, top_k, min_p). Temperature alone and top_p need the mass
// of all tokens and read the whole row once, as do logprobs: ReadsWholeRow.
//
// Threads: one each. Allocates in the constructor only.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "chips/cpu/row_kernels.h"
#include "compute/engine/engine.h"

namespace tidepool::compute {

using chips::cpu::kRowBlock, chips::cpu::kRowLanes, chips::cpu::RowKernels, chips::cpu::RowKernelSets,
    chips::cpu::RowView;

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
  // One bit a token: those that may (a grammar). Empty: all. Tokens past its end may not.
  std::span<const uint64_t> allowed{};
  int32_t also_allowed = -1;  // and this one
  uint64_t seed = 0;
  uint64_t index = 0;
};

bool HasPenalties(const SamplingParams& params);

// Sampling or the logprobs asked for read the whole row: tens of microseconds for 150,000 logits, not one or
// two.
bool ReadsWholeRow(const SamplingParams& params);

class Sampler {
 public:
  // Logits and their chips::PeaksOf(logits.size()) peaks; peaks nullptr: they are made from the logits.
  struct Row {
    std::span<const float> logits;
    const float* peaks = nullptr;
  };

  explicit Sampler(int32_t max_vocab, const RowKernels& kernels = **RowKernelSets());
  // What a sampler allocates for vocabularies of at most `max_vocab`.
  static uint64_t ScratchBytes(int32_t max_vocab);

  // The token, or -1 if a logit is not finite or everything is masked.
  int32_t Sample(const Row& row, const SampleSpec& spec);

  // log softmax of the raw row: the chosen token and the `top` best (out.top's capacity is kept). A row that
  // is not finite gives NaN and no best ones.
  void Logprobs(const Row& row, int32_t token, int32_t top, TokenLogprob& out);

 private:
  void Open(const Row& row);
  float& Changed(int32_t token);
  template <typename Body>
  static void ForEachChanged(const SampleSpec& spec, const Body& body);
  void Change(const SampleSpec& spec);
  void Settle(size_t block);
  void Allow(const SampleSpec& spec);
  void ForgetChanges(const SampleSpec& spec);
  int32_t Draw(const SampleSpec& spec);
  float Largest() const;
  int32_t ArgMax();
  size_t TakeAbove(float floor);
  float KthPeak(size_t k);
  float FloorAt(double depth, float temperature) const;
  double Mass(float inverse_temperature);
  size_t TakeLargest(size_t k);
  size_t TakeMass(float temperature, double mass, double& depth);
  void CutNucleus(size_t count, float lowest, double mass);
  int32_t DrawFrom(size_t count, double target) const;
  int32_t DrawFromRow(float inverse_temperature, double share);
  size_t blocks() const { return (view_.count + kRowBlock - 1) / kRowBlock; }
  float logit(size_t i) const {
    return block_[i / kRowBlock][i % kRowBlock];
  }  // before changes, until Settle
  bool marked(size_t i) const { return (marks_[i / 64] >> (i % 64) & 1) != 0; }
  size_t block_size(size_t block) const { return std::min(kRowBlock, view_.count - block * kRowBlock); }

  const RowKernels& kernels_;
  // The row as it is looked at: its own blocks, or those of copy_ in which something was changed.
  RowView view_{};
  float max_ = 0;  // the largest logit, +inf if one of the raw row is not finite
  std::vector<const float*> block_;
  // What penalties, bias and masks change: the logits whose bit in marks_ is set, at their places in copy_.
  std::vector<uint64_t> marks_;
  std::vector<size_t> changed_;  // blocks with such logits, in any order
  std::vector<char> touched_;    // [block]: is among them
  std::unique_ptr<float[]> copy_;
  std::vector<float> peaks_;  // of a changed row, or of one that came without
  std::vector<double> sums_;  // of weights, a block each
  // The candidates of a draw, ids in ascending order. Weights: exp((logit - max) / temperature).
  std::unique_ptr<int32_t[]> ids_, order_;
  std::unique_ptr<float[]> values_, weights_;
};

}  // namespace tidepool::compute
