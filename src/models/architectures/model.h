// A loaded model: configuration, packed weights and a forward pass over a ragged batch.
//
// A family is one file (llama.cc, qwen3.cc, ...) that reads its configuration and tensors from a Checkpoint
// and composes chips::Ops into Forward. Families dispatch on fields, not on names of models.
//
// Threads: Load may run on any thread (one at a time per device packs fastest); after it a Model is
// immutable. Forward is called by the device's engine thread only. Forward allocates nothing: everything it
// needs is in the StepWorkspace, whose size the caller reserved (and charged) with WorkspaceBytes.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "models/formats/checkpoint.h"

namespace tidepool::architectures {

enum class Pooling : uint8_t { kNone, kMean, kCls, kLast };

struct ModelInfo {
  std::string family;        // "llama", "qwen2", "qwen3", "gemma3", "bert", "scripted"
  std::string quantisation;  // "Q4_1", "mixed (Q4_K, Q6_K)", "BF16": by bytes
  int32_t vocab_size = 0;
  int32_t hidden_size = 0;
  int32_t layers = 0;
  int32_t context_length = 0;  // tokens the model was trained for
  uint64_t parameters = 0;
  uint64_t weight_bytes = 0;  // packed, on the device
  bool generates = true;      // has logits
  bool causal = true;         // false: encoders; a sequence must be run whole in one step
  Pooling pooling = Pooling::kNone;
  bool normalise_embedding = true;
  bool ranks = false;  // its pooled state has a score instead: the logit of a text's relevance to a query
};

// Weights in the order a step touches them: 0 = the embedding and shared tables, then one a layer, last the
// final norm and a head of its own (a tied head is segment 0). `offset` counts from the first weight.
struct WeightSegment {
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

// Lets a step begin while later segments are still being loaded. Called on the engine's thread, in ascending
// order, just before the segment's weights are first touched; allocates nothing.
class LayerGate {
 public:
  virtual ~LayerGate() = default;
  // Blocks until the segment is in memory. False: it will not come (its load failed or was cancelled); the
  // step ends at once with StepOutput::aborted.
  virtual bool Wait(int32_t segment) = 0;
};

// Limits of one step; the workspace is sized by them.
struct StepLimits {
  int32_t max_tokens = 512;     // rows of the ragged batch
  int32_t max_logit_rows = 64;  // rows that need logits
};

// The caller guarantees: 1 <= n <= max_tokens, token ids in [0, vocab_size), positions = the sequence's
// context + index, block tables that cover every token, at most max_logit_rows logit rows; for encoders whole
// sequences.
struct Step {
  std::span<const int32_t> tokens;                  // [n]
  std::span<const int32_t> positions;               // [n]
  std::span<const chips::SequenceSlice> sequences;  // cover the n rows in order
  std::span<const int32_t> logit_rows;              // rows (of n) whose logits are wanted, ascending
  std::span<const int32_t> hidden_rows;  // rows whose final hidden state (after the last norm) is wanted
  LayerGate* gate = nullptr;             // nullptr: all weights are there
  // [n] token types of an encoder that ranks: 1 in the second text of a pair. Empty: all 0.
  std::span<const int32_t> types = {};
};

struct StepOutput {
  const float* logits = nullptr;  // [logit_rows, vocab_size], host-readable, valid until the next Forward
  // [logit_rows, chips::PeaksOf(vocab_size)] of these logits; nullptr where a model does not make them.
  const float* peaks = nullptr;
  const float* hidden = nullptr;  // [hidden_rows, hidden_size], valid until the next Forward
  const float* scores = nullptr;  // [hidden_rows] of models that rank, valid until the next Forward
  // [logit_rows] when the model could not compute some of them, else empty: a row that is not 0 has no logits
  // and its request ends with an error, the others go on. (Only the scripted model does this so far.)
  std::span<const uint8_t> failed_rows;
  // The gate said no: no logits, no hidden rows, and the KV of this step's tokens is not complete. The same
  // step may be run again later.
  bool aborted = false;
};

struct LoadOptions {
  chips::WeightPrecision precision = chips::WeightPrecision::kNative;
  chips::DataType kv_type = chips::DataType::kI16;  // see chips::KvLayout::Supports
  // Of a causal model that answers "yes" or "no" to rank (Qwen3-Reranker as published): the ids of these two.
  // It is loaded to rank, by the difference of their logits, and generates nothing.
  std::optional<std::pair<int32_t, int32_t>> yes_no = {};
  // Called with (bytes done, bytes in all) from the loading thread; return false to cancel (kCancelled).
  std::function<bool(uint64_t, uint64_t)> progress = {};
};

class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;
  virtual const chips::KvLayout& kv_layout() const = 0;
  // Bytes of StepWorkspace memory for steps within `limits`, and the widest input any op will see (for
  // Device::ReserveScratch): hidden size, all query heads together or feed-forward width; never the
  // vocabulary.
  virtual size_t WorkspaceBytes(const StepLimits& limits) const = 0;
  virtual int32_t MaxColumns() const = 0;
  // What can be loaded and dropped piece by piece; empty for models that have no weights.
  virtual std::span<const WeightSegment> segments() const { return {}; }
  // False: a file under its weights was cut or cannot be read, so that the last Forward may have computed
  // with zeros. To be asked after each step, before anything is made of what it gave.
  virtual bool WeightsIntact() const { return true; }
  // `workspace`: WorkspaceBytes(limits) bytes of device memory, 64-byte aligned.
  virtual StepOutput Forward(const Step& step, const StepLimits& limits, std::byte* workspace) = 0;
};

// Bytes of device memory the weights will take, without loading them: the caller charges them to the ledger
// first. Equal to ModelInfo::weight_bytes of the loaded model.
Result<uint64_t> PackedModelBytes(const formats::Checkpoint& checkpoint, const chips::Device& device,
                                  const LoadOptions& options);

// Chooses the family by the checkpoint's architecture. Unknown: kInvalid "unknown_architecture" with the list
// of known ones. The checkpoint may be closed afterwards: nothing refers to it.
Result<std::unique_ptr<Model>> LoadModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                         const LoadOptions& options = {});

// Names LoadModel knows, sorted: GGUF architectures and model_types.
std::vector<std::string> KnownArchitectures();

// The model without weights that answers by script (see scripted.cc): for tests of everything above the
// engine, and for trying the product without a model.
// `weights`: segments it pretends to have (nothing is behind them), for tests of residency; a step then waits
// at the gate for each and takes its share of the modelled time after it.
struct ScriptedWeights {
  int32_t layers = 0;
  uint64_t layer_bytes = 0;
};
Result<std::unique_ptr<Model>> MakeScriptedModel(chips::SimulatedDevice& device, int32_t context_length,
                                                 const ScriptedWeights& weights = {});

}  // namespace tidepool::architectures
