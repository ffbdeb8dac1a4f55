// For tests and benches of accuracy: the way Tidepool computes by default (the file's quantised weights, f16
// KV) beside the same file decoded to float32 and computed in float32 with float32 KV.
#pragma once

#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "models/architectures/divergence.h"
#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {

struct Accuracy {
  std::vector<double> entropies;    // of the float32 distributions, one a position
  std::vector<double> divergences;  // of ours from them
  std::string instruction_set;
};

// `tokens`: sequences of `sequence_tokens` end to end (a shorter last one is ignored), each run from an empty
// KV cache. `each_chunk`, if set, gets the float32 logits of the next positions, in order: ([positions,
// vocabulary], positions).
inline Accuracy MeasureAccuracy(const std::filesystem::path& model, const std::string& instruction_set,
                                std::span<const int32_t> tokens, size_t sequence_tokens,
                                const std::function<void(std::span<const float>, size_t)>& each_chunk = {}) {
  constexpr int32_t kChunk = 64;  // keeps logits of 262,144 tokens at 64 MiB
  const StepLimits limits{.max_tokens = kChunk, .max_logit_rows = kChunk};
  ModelRunner exact(CpuDevice(instruction_set), model,
                    {.precision = chips::WeightPrecision::kFloat32, .kv_type = chips::DataType::kF32},
                    limits);
  ModelRunner ours(CpuDevice(instruction_set), model,
                   {.precision = chips::WeightPrecision::kNative, .kv_type = chips::DataType::kF16}, limits);
  const auto vocab = static_cast<size_t>(exact.model().info().vocab_size);
  Accuracy accuracy;
  accuracy.instruction_set = ours.device().info().instruction_set;
  for (; tokens.size() >= sequence_tokens; tokens = tokens.subspan(sequence_tokens)) {
    const std::vector<int32_t> text(tokens.begin(),
                                    tokens.begin() + static_cast<std::ptrdiff_t>(sequence_tokens));
    TestSequence exact_sequence = exact.NewSequence(text), our_sequence = ours.NewSequence(text);
    while (!exact_sequence.pending.empty()) {
      const int32_t count = std::min(kChunk, static_cast<int32_t>(exact_sequence.pending.size()));
      for (const auto& [runner, sequence] : {std::pair(&exact, &exact_sequence), {&ours, &our_sequence}}) {
        sequence->output.clear();
        runner->RunStep(std::span(&sequence, 1), std::span(&count, 1));
      }
      const std::span<const float> p = exact_sequence.output, q = our_sequence.output;
      AppendForEachRow(static_cast<size_t>(count), accuracy.divergences, [&](size_t row) {
        return Divergence(p.subspan(row * vocab, vocab), q.subspan(row * vocab, vocab));
      });
      AppendForEachRow(static_cast<size_t>(count), accuracy.entropies,
                       [&](size_t row) { return Entropy(p.subspan(row * vocab, vocab)); });
      if (each_chunk) each_chunk(p, static_cast<size_t>(count));
    }
  }
  return accuracy;
}

}  // namespace tidepool::architectures::testing
