// For tests and benches of accuracy: the way Tidepool computes by default (the file's quantised weights, f16
// KV) beside the same file decoded to float32 and computed in float32 with float32 KV.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "models/architectures/divergence.h"
#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {

struct Divergences {
  std::string instruction_set;
  std::vector<double> values;  // of ours from float32, one a position
};
struct Accuracy {
  std::vector<double> entropies;  // of the float32 distributions
  std::vector<Divergences> ours;  // one for each instruction set
};

// `sets`: instruction sets to compute with ("": the best one); the first one also computes in float32.
// `tokens`: sequences of `sequence_tokens` end to end (a shorter last one is ignored), each run from an empty
// KV cache. `each_chunk`, if set, gets the float32 logits of the next positions, in order: ([positions,
// vocabulary], positions).
inline Accuracy MeasureAccuracy(const std::filesystem::path& model, std::span<const std::string> sets,
                                std::span<const int32_t> tokens, size_t sequence_tokens,
                                const std::function<void(std::span<const float>, size_t)>& each_chunk = {},
                                chips::DataType kv_type = LoadOptions().kv_type) {
  constexpr int32_t kChunk = 64;  // keeps logits of 262,144 tokens at 64 MiB
  const StepLimits limits{.max_tokens = kChunk, .max_logit_rows = kChunk};
  ModelRunner exact(CpuDevice(sets[0]), model,
                    {.precision = chips::WeightPrecision::kFloat32, .kv_type = chips::DataType::kF32},
                    limits);
  std::vector<std::unique_ptr<ModelRunner>> ours;
  Accuracy accuracy;
  for (const std::string& set : sets) {
    ours.push_back(std::make_unique<ModelRunner>(
        CpuDevice(set, 2, /*deterministic=*/false), model,
        LoadOptions{.precision = chips::WeightPrecision::kNative, .kv_type = kv_type}, limits));
    accuracy.ours.push_back({ours.back()->device().info().instruction_set, {}});
  }
  const auto vocab = static_cast<size_t>(exact.model().info().vocab_size);
  const auto run_chunk = [](ModelRunner& runner, TestSequence& sequence, int32_t count) {
    TestSequence* const one = &sequence;
    sequence.output.clear();
    runner.RunStep(std::span(&one, 1), std::span(&count, 1));
    return std::span<const float>(sequence.output);
  };
  for (; tokens.size() >= sequence_tokens; tokens = tokens.subspan(sequence_tokens)) {
    const std::vector<int32_t> text(tokens.begin(),
                                    tokens.begin() + static_cast<std::ptrdiff_t>(sequence_tokens));
    TestSequence exact_sequence = exact.NewSequence(text);
    std::vector<TestSequence> our_sequences;
    for (const auto& runner : ours) our_sequences.push_back(runner->NewSequence(text));
    while (!exact_sequence.pending.empty()) {
      const int32_t count = std::min(kChunk, static_cast<int32_t>(exact_sequence.pending.size()));
      const auto rows = static_cast<size_t>(count);
      const std::span<const float> p = run_chunk(exact, exact_sequence, count);
      AppendForEachRow(rows, accuracy.entropies,
                       [&](size_t row) { return Entropy(p.subspan(row * vocab, vocab)); });
      for (size_t i = 0; i < ours.size(); ++i) {
        const std::span<const float> q = run_chunk(*ours[i], our_sequences[i], count);
        AppendForEachRow(rows, accuracy.ours[i].values, [&](size_t row) {
          return Divergence(p.subspan(row * vocab, vocab), q.subspan(row * vocab, vocab));
        });
      }
      if (each_chunk) each_chunk(p, rows);
    }
  }
  return accuracy;
}

}  // namespace tidepool::architectures::testing
