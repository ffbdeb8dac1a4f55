// Test double: a model that keeps token ids and positions in its KV blocks and derives the next distribution
// from the whole history it reads back through the block table. A wrong block, a lost token or a shared block
// that should not be shared changes the answer; the oracle below computes it from the tokens alone.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <vector>

#include "base/check.h"
#include "models/architectures/model.h"

namespace tidepool::compute {

struct FakeModelOptions {
  int32_t vocab_size = 260;
  int32_t context_length = 4096;
  bool causal = true;
  bool generates = true;
  architectures::Pooling pooling = architectures::Pooling::kNone;
  std::chrono::microseconds step_time{0};
  int32_t segments = 0;        // weights it pretends to have
  uint64_t segment_bytes = 0;  // each
};

class FakeModel final : public architectures::Model {
 public:
  static constexpr int32_t kHidden = 8;
  static constexpr int32_t kPoisonNan = 250;  // a history with this token gives logits that are not finite
  static constexpr int32_t kPoisonRow = 251;  // ... a failed row
  static constexpr int32_t kEnd = 257;        // the byte tokenizer's <|im_end|>

  explicit FakeModel(FakeModelOptions options = {}) : options_(options) {
    info_.family = "fake";
    info_.vocab_size = options.vocab_size;
    info_.hidden_size = kHidden;
    info_.layers = 1;
    info_.context_length = options.context_length;
    info_.generates = options.generates;
    info_.causal = options.causal;
    info_.pooling = options.pooling;
    layout_ = {.type = chips::DataType::kF32, .layers = 1, .kv_heads = 1, .key_dim = 1, .value_dim = 1};
    for (int32_t i = 0; i < options.segments; ++i) {
      segments_.push_back(
          {.offset = static_cast<uint64_t>(i) * options.segment_bytes, .bytes = options.segment_bytes});
    }
  }
  std::span<const architectures::WeightSegment> segments() const override { return segments_; }

  static uint64_t Mix(uint64_t x) {
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdULL;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ULL;
    return x ^ (x >> 33);
  }
  static uint64_t HistoryHash(std::span<const int32_t> history) {
    uint64_t hash = 1;
    for (const int32_t token : history) hash = Mix(hash * 31 + static_cast<uint64_t>(token) + 7);
    return hash;
  }
  // The logits after a history, from the tokens alone. The end token is unlikely unless `end_in` says so.
  static void LogitsAfter(std::span<const int32_t> history, std::span<float> logits) {
    const uint64_t hash = HistoryHash(history);
    bool nan = false;
    for (const int32_t token : history) nan = nan || token == kPoisonNan;
    for (size_t t = 0; t < logits.size(); ++t) {
      logits[t] = static_cast<float>(Mix(hash + t * 0x9E3779B97F4A7C15ULL) >> 40) * 0x1p-24f * 8 - 4;
      if (nan) logits[t] = std::numeric_limits<float>::quiet_NaN();
    }
    for (size_t t = 250; t < logits.size(); ++t) {
      if (!nan) logits[t] -= 20;  // poison and control tokens do not come by themselves
    }
    // About one history in 40 ends the answer.
    if (!nan && logits.size() > kEnd && hash % 40 == 0) logits[kEnd] = 30;
  }
  static int32_t Greedy(std::span<const int32_t> history, int32_t vocab_size = 260) {
    std::vector<float> logits(static_cast<size_t>(vocab_size));
    LogitsAfter(history, logits);
    return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  // What greedy decoding gives: the end token included.
  static std::vector<int32_t> GreedyAnswer(std::vector<int32_t> history, int32_t max_tokens,
                                           bool ignore_eos = false) {
    std::vector<int32_t> answer;
    while (static_cast<int32_t>(answer.size()) < max_tokens) {
      answer.push_back(Greedy(history));
      history.push_back(answer.back());
      if (answer.back() == kEnd && !ignore_eos) break;
    }
    return answer;
  }
  static std::vector<float> HiddenAfter(std::span<const int32_t> history) {
    std::vector<float> hidden(kHidden);
    const uint64_t hash = HistoryHash(history);
    for (size_t d = 0; d < hidden.size(); ++d) {
      hidden[d] = static_cast<float>(Mix(hash + d) >> 40) * 0x1p-24f * 2 - 1;
    }
    return hidden;
  }

  const architectures::ModelInfo& info() const override { return info_; }
  const chips::KvLayout& kv_layout() const override { return layout_; }
  int32_t MaxColumns() const override { return kHidden; }
  size_t WorkspaceBytes(const architectures::StepLimits& limits) const override {
    return (static_cast<size_t>(limits.max_logit_rows) * static_cast<size_t>(info_.vocab_size) +
            static_cast<size_t>(limits.max_tokens) * kHidden) *
               sizeof(float) +
           static_cast<size_t>(limits.max_logit_rows) +
           static_cast<size_t>(info_.context_length) * sizeof(int32_t);
  }

  architectures::StepOutput Forward(const architectures::Step& step, const architectures::StepLimits& limits,
                                    std::byte* workspace) override {
    CHECK(!step.tokens.empty() && step.tokens.size() <= static_cast<size_t>(limits.max_tokens));
    CHECK(step.positions.size() == step.tokens.size());
    CHECK(step.logit_rows.size() <= static_cast<size_t>(limits.max_logit_rows));
    ++entered;
    for (size_t i = 0; step.gate != nullptr && i < segments_.size(); ++i) {
      if (!step.gate->Wait(static_cast<int32_t>(i))) return {.failed_rows = {}, .aborted = true};
    }
    if (needs_resident) CHECK(needs_resident());
    while (hold) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (options_.step_time.count() > 0) std::this_thread::sleep_for(options_.step_time);
    if (on_step) on_step(step);
    ++steps;
    tokens_computed += step.tokens.size();
    const auto vocab = static_cast<size_t>(info_.vocab_size);
    auto* logits = reinterpret_cast<float*>(workspace);
    auto* hidden = logits + static_cast<size_t>(limits.max_logit_rows) * vocab;
    auto* history = reinterpret_cast<int32_t*>(hidden + static_cast<size_t>(limits.max_tokens) * kHidden);
    auto* failed = reinterpret_cast<uint8_t*>(history + info_.context_length);

    size_t rows = 0, logit_row = 0, hidden_row = 0;
    bool any_failed = false;
    for (const chips::SequenceSlice& slice : step.sequences) {
      CHECK(static_cast<size_t>(slice.token_begin) == rows && slice.token_count >= 1);
      CHECK(slice.block_count * chips::kKvBlockTokens >= slice.context + slice.token_count);
      CHECK(info_.causal || slice.context == 0);
      auto word = [&](int32_t position, int32_t which) {
        return reinterpret_cast<int32_t*>(slice.blocks[position / chips::kKvBlockTokens]) +
               which * chips::kKvBlockTokens + position % chips::kKvBlockTokens;
      };
      for (int32_t i = 0; i < slice.token_count; ++i) {
        const int32_t position = slice.context + i;
        CHECK(step.positions[rows + static_cast<size_t>(i)] == position);
        *word(position, 0) = step.tokens[rows + static_cast<size_t>(i)];
        *word(position, 1) = position;
      }
      const int32_t length = slice.context + slice.token_count;
      bool row_fails = false;
      for (int32_t position = 0; position < length; ++position) {
        history[position] = *word(position, 0);
        CHECK(*word(position, 1) == position);
        row_fails = row_fails || history[position] == kPoisonRow;
      }
      for (int32_t i = 0; i < slice.token_count; ++i, ++rows) {
        const auto seen = static_cast<size_t>(info_.causal ? slice.context + i + 1 : length);
        if (logit_row < step.logit_rows.size() && static_cast<size_t>(step.logit_rows[logit_row]) == rows) {
          LogitsAfter({history, seen}, {logits + logit_row * vocab, vocab});
          failed[logit_row] = row_fails ? 1 : 0;
          any_failed = any_failed || row_fails;
          ++logit_row;
        }
        if (hidden_row < step.hidden_rows.size() &&
            static_cast<size_t>(step.hidden_rows[hidden_row]) == rows) {
          const uint64_t hash = HistoryHash({history, seen}) + (info_.causal ? 0 : rows - slice.token_begin);
          for (size_t d = 0; d < kHidden; ++d) {
            hidden[hidden_row * kHidden + d] = static_cast<float>(Mix(hash + d) >> 40) * 0x1p-24f * 2 - 1;
          }
          ++hidden_row;
        }
      }
    }
    CHECK(rows == step.tokens.size() && logit_row == step.logit_rows.size());
    CHECK(hidden_row == step.hidden_rows.size());
    architectures::StepOutput output{.logits = logits, .hidden = hidden, .failed_rows = {}};
    if (any_failed) output.failed_rows = {failed, logit_row};
    return output;
  }

  bool WeightsIntact() const override { return !weights_lost; }

  std::atomic<bool> weights_lost{false};  // as if the file under them had been cut
  std::atomic<bool> hold{false};  // Forward waits while it is set: tests then know what happens during a step
  std::function<void(const architectures::Step&)> on_step;  // engine thread
  std::function<bool()> needs_resident;  // checked in every step: the weights are really there
  std::atomic<uint64_t> entered{0};
  std::atomic<uint64_t> steps{0};
  std::atomic<uint64_t> tokens_computed{0};

 private:
  FakeModelOptions options_;
  architectures::ModelInfo info_;
  chips::KvLayout layout_;
  std::vector<architectures::WeightSegment> segments_;
};

}  // namespace tidepool::compute
