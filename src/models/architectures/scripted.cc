// The model of the simulated device: no weights, it says what the prompt asks it to (script.h).
//
// It remembers only what an attention cache remembers: every token's id is written into the sequence's own KV
// block, and the history is read back from the block table at each step. A wrong block table, prefix hit or
// lost block therefore changes the answer or fails the row, which makes tests above the engine honest tests
// of paging.
#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <unordered_map>

#include "base/check.h"
#include "models/architectures/carve.h"
#include "models/architectures/model.h"
#include "models/architectures/script.h"

namespace tidepool::architectures {
namespace {

constexpr int32_t kHidden = 16;
constexpr float kUnlikely =
    -40;  // against 0: at temperature 1 the other tokens have 260 e^-40 = 1e-15 of the mass

class Scripted final : public Model {
 public:
  Scripted(chips::SimulatedDevice& device, int32_t context_length, const ScriptedWeights& weights)
      : device_(device), number_(made_.fetch_add(1) + 1) {
    for (int32_t layer = 0; layer < weights.layers; ++layer) {
      segments_.push_back({static_cast<uint64_t>(layer) * weights.layer_bytes, weights.layer_bytes});
    }
    info_.weight_bytes = static_cast<uint64_t>(weights.layers) * weights.layer_bytes;
    info_.family = "scripted";
    info_.quantisation = "none";
    info_.vocab_size = kScriptVocab;
    info_.hidden_size = kHidden;
    info_.layers = 1;
    info_.context_length = context_length;
    info_.pooling = Pooling::kLast;
    kv_ = {.type = chips::DataType::kF32, .layers = 1, .kv_heads = 1, .key_dim = 1, .value_dim = 1};
  }

  const ModelInfo& info() const override { return info_; }
  const chips::KvLayout& kv_layout() const override { return kv_; }
  size_t WorkspaceBytes(const StepLimits& limits) const override { return Carve(limits, nullptr).bytes; }
  int32_t MaxColumns() const override { return kHidden; }
  std::span<const WeightSegment> segments() const override { return segments_; }
  StepOutput Forward(const Step& step, const StepLimits& limits, std::byte* workspace) override;

 private:
  struct Workspace {
    float *logits, *hidden;
    uint8_t* failed;
    size_t bytes;
  };
  Workspace Carve(const StepLimits& limits, std::byte* base) const {
    const auto rows = static_cast<size_t>(std::min(limits.max_logit_rows, limits.max_tokens));
    Carver carver(base);
    Workspace w;
    w.logits = carver.Take<float>(rows * kScriptVocab);
    w.hidden = carver.Take<float>(static_cast<size_t>(limits.max_tokens) * kHidden);
    w.failed = carver.Take<uint8_t>(rows);
    w.bytes = carver.bytes();
    return w;
  }

  // The modelled time of the step, behind the gate if there is one. False: the gate said no.
  bool Compute(const Step& step) {
    const auto tokens = static_cast<int32_t>(step.tokens.size());
    if (step.gate == nullptr || segments_.empty()) {
      device_.AdvanceStep(tokens);
      return true;
    }
    for (size_t segment = 0; segment < segments_.size(); ++segment) {
      if (!step.gate->Wait(static_cast<int32_t>(segment))) return false;
      device_.AdvancePart(tokens, 1.0 / static_cast<double>(segments_.size()));
    }
    return true;
  }

  // What the device has under kComputedTags + a tag: this model's number, and positions it computed (those
  // that were found in a cache are none).
  void CountComputed(const chips::SequenceSlice& slice, const TokenHistory& history) {
    int32_t computed = slice.token_count;
    if (const auto before = untagged_.find(slice.blocks); before != untagged_.end()) {
      if (before->second.end == slice.context) computed += before->second.computed;
      untagged_.erase(before);
    }
    const int32_t tag = TallyTag(history);
    if (tag >= 0) device_.Tally(tag, history.size(), 0);
    if (tag >= 0 && tag < kComputedTags) device_.Tally(kComputedTags + tag, number_, computed);
    if (tag < 0 && untagged_.size() < kMostUntagged) untagged_[slice.blocks] = {history.size(), computed};
  }

  static constexpr int32_t kComputedTags = chips::kMaxTallyTag / 2;
  static inline std::atomic<int32_t> made_{0};  // in this process
  chips::SimulatedDevice& device_;
  const int32_t number_;
  // What was computed of prompts whose tags had not come yet (a chunk may end before), by the sequence's
  // block table.
  struct Untagged {
    int32_t end = 0, computed = 0;
  };
  static constexpr size_t kMostUntagged = 4096;
  std::unordered_map<std::byte* const*, Untagged> untagged_;
  ModelInfo info_;
  chips::KvLayout kv_;
  std::vector<WeightSegment> segments_;
};

// The history that ends with `row`, found in the slice the row belongs to.
TokenHistory HistoryOf(const chips::KvLayout& layout, const Step& step, int32_t row) {
  const auto slice =
      std::upper_bound(step.sequences.begin(), step.sequences.end(), row,
                       [](int32_t r, const chips::SequenceSlice& s) { return r < s.token_begin; }) -
      1;
  return {layout, slice->blocks, slice->context + (row - slice->token_begin) + 1};
}

uint64_t Mix(uint64_t x) {  // splitmix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// A vector that depends on every token of the history: equal texts embed equally, others do not.
void HiddenState(const TokenHistory& history, float* out) {
  uint64_t hash = 0;
  for (int32_t i = 0; i < history.size(); ++i)
    hash = Mix(hash + 0x9E3779B97F4A7C15u + static_cast<uint64_t>(history[i]));
  for (int32_t i = 0; i < kHidden; ++i) {
    hash = Mix(hash + 0x9E3779B97F4A7C15u);
    out[i] = static_cast<float>(static_cast<double>(hash >> 11) * 0x1p-52 - 1.0);
  }
}

StepOutput Scripted::Forward(const Step& step, const StepLimits& limits, std::byte* workspace) {
  CHECK(std::ssize(step.tokens) <= limits.max_tokens && std::ssize(step.logit_rows) <= limits.max_logit_rows);
  StepOutput output;
  if (!Compute(step)) {
    output.aborted = true;  // before a token is written: whoever ignores it loses the history and shows it
    return output;
  }
  const Workspace w = Carve(limits, workspace);
  for (const chips::SequenceSlice& slice : step.sequences) {
    const TokenHistory history(kv_, slice.blocks, slice.context + slice.token_count);
    for (int32_t i = 0; i < slice.token_count; ++i) {
      const auto row = static_cast<size_t>(slice.token_begin + i);
      history.Write(slice.context + i, step.tokens[row], step.positions[row]);
    }
  }

  int32_t stall_ms = 0;
  if (device_.tallies()) {
    for (const chips::SequenceSlice& slice : step.sequences) {
      CountComputed(slice, {kv_, slice.blocks, slice.context + slice.token_count});
    }
  }
  for (size_t i = 0; i < step.logit_rows.size(); ++i) {
    const ScriptedToken next = NextScriptedToken(HistoryOf(kv_, step, step.logit_rows[i]));
    float* const logits = w.logits + i * kScriptVocab;
    std::fill_n(logits, kScriptVocab, kUnlikely);
    logits[next.token] = 0;
    w.failed[i] = next.failed ? 1 : 0;
    if (device_.tallies() && !next.failed) {
      device_.Tally(TallyTag(HistoryOf(kv_, step, step.logit_rows[i])), 0, 1);
    }
    stall_ms = std::max(stall_ms, next.stall_ms);
  }
  for (size_t i = 0; i < step.hidden_rows.size(); ++i) {
    HiddenState(HistoryOf(kv_, step, step.hidden_rows[i]), w.hidden + i * kHidden);
  }
  if (stall_ms > 0) std::this_thread::sleep_for(std::chrono::milliseconds(stall_ms));

  if (!step.logit_rows.empty()) {
    output.logits = w.logits;
    output.failed_rows = std::span(w.failed, step.logit_rows.size());
  }
  if (!step.hidden_rows.empty()) output.hidden = w.hidden;
  return output;
}

}  // namespace

Result<std::unique_ptr<Model>> MakeScriptedModel(chips::SimulatedDevice& device, int32_t context_length,
                                                 const ScriptedWeights& weights) {
  // Positions are kept as float32, which is exact up to 2^24.
  constexpr int32_t kMin = 16, kMax = 1 << 24;
  if (context_length < kMin || context_length >= kMax) {
    return Fail(ErrorKind::kInvalid, "bad_context_length",
                fmt::format("context_length is {}; the scripted model takes {} to {}", context_length, kMin,
                            kMax - 1),
                "context_length");
  }
  constexpr int32_t kMaxLayers = 1024;
  constexpr uint64_t kMaxLayerBytes = uint64_t{1} << 40;
  if (weights.layers < 0 || weights.layers > kMaxLayers || weights.layer_bytes > kMaxLayerBytes) {
    return Fail(
        ErrorKind::kInvalid, "bad_scripted_weights",
        fmt::format("weights of {} layers of {} bytes; the scripted model takes 0 to {} of at most {}",
                    weights.layers, weights.layer_bytes, kMaxLayers, kMaxLayerBytes),
        "weights");
  }
  return std::make_unique<Scripted>(device, context_length, weights);
}

}  // namespace tidepool::architectures
