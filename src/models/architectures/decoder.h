// What decoder-only families share around their layers: configuration, embedding, the residual stream, the
// final norm and the head. A family adds its layers' weights and equations (RunLayer).
//
// Workspace, carved in this order, each part 64-byte aligned, T = max_tokens, R = min(max_logit_rows, T):
//   x, normed [T, H] · query, attended [T, heads * d] · key, value [T, kv_heads * d] · gate, up [T, F]
//   · logits [R, V] · peaks of logits [R, PeaksOf(V)] · hidden [T, H] · scores [T]
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "models/architectures/families.h"
#include "models/architectures/rope.h"

namespace tidepool::architectures {

struct DecoderConfig {
  int32_t vocab = 0;
  int32_t hidden = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t feed_forward = 0;
  int32_t context = 0;
  float norm_epsilon = 0;

  int32_t query_columns() const { return heads * head_dim; }
  int32_t kv_columns() const { return kv_heads * head_dim; }
};
// The fields that every decoder family names alike, range-checked and consistent with each other.
Result<DecoderConfig> ReadDecoderConfig(const Fields& fields);
// An error unless config.json's activation (hidden_act, hidden_activation) is one of `accepted`. GGUF does
// not say.
Status RequireActivation(const Fields& fields, std::initializer_list<std::string_view> accepted);

struct Projection {
  const chips::PackedWeight& weight;
  const float* bias;
  chips::Matrix out;
};

// One step's view of the workspace, cut to the step's rows, and the operations as the equations use them.
struct DecoderPass {
  chips::Ops& ops;
  const Step& step;
  const chips::KvLayout& kv;
  float norm_epsilon = 0;
  chips::Matrix x, normed, query, attended, key, value, gate, up;

  void RmsNorm(chips::ConstMatrix in, const float* gain, chips::Matrix out) const {
    ops.RmsNorm(in, gain, norm_epsilon, out);
  }
  // Per-head norm: the matrix is contiguous, so each head is a row of its own.
  void RmsNormHeads(chips::Matrix in, int32_t head_dim, const float* gain) const {
    const chips::Matrix heads{in.data, in.rows * (in.columns / head_dim), head_dim, head_dim};
    ops.RmsNorm(heads, gain, norm_epsilon, heads);
  }
  void Project(chips::ConstMatrix in, std::initializer_list<Projection> projections) const;
  // Turns query and key, appends key and value to the cache of `layer`, then attended = softmax(scale q k^T +
  // mask) v.
  void TurnAndAttend(const Rope& rope, int32_t layer, float scale, int32_t window) const;
  // x += in weight^T + bias. Overwrites normed.
  void ProjectAndAdd(chips::ConstMatrix in, const chips::PackedWeight& weight, const float* bias) const;
  void Add(chips::Matrix to, chips::ConstMatrix what) const { ops.Add(to, what, to); }
};

// Wq [heads * d, H], Wk and Wv [kv_heads * d, H], Wo [H, heads * d].
struct AttentionProjections {
  chips::PackedWeight query, key, value, output;

  Status Declare(WeightPlan& plan, int32_t layer, const DecoderConfig& config);
};

// y = Wd (act(Wg x) * Wu x), no biases.
struct GatedFeedForward {
  chips::PackedWeight gate, up, down;

  Status Declare(WeightPlan& plan, int32_t layer, const DecoderConfig& config);
  // Reads pass.normed; y is added to pass.x (normed is overwritten) or left in pass.normed.
  void RunAndAdd(const DecoderPass& pass, chips::Activation activation) const;
  void Run(const DecoderPass& pass, chips::Activation activation) const;
};

class Decoder : public FamilyModel {
 public:
  size_t WorkspaceBytes(const StepLimits& limits) const final;
  int32_t MaxColumns() const final;
  StepOutput Forward(const Step& step, const StepLimits& limits, std::byte* workspace) final;
  Status DeclareWeights(WeightPlan& plan) final;

 protected:
  Decoder(std::string family, const DecoderConfig& config, const LoadOptions& options, PoolingChoice pooling);

  // x += the layer's attention and feed-forward. May overwrite everything of the pass except the inputs.
  virtual void RunLayer(int32_t layer, const DecoderPass& pass) = 0;
  virtual Status DeclareLayer(WeightPlan& plan, int32_t layer) = 0;
  // Ropes and whatever else stands beside the layers.
  virtual Status DeclareShared(WeightPlan& plan) = 0;

  DecoderConfig config_;
  float embedding_scale_ = 1;
  VectorRule norm_rule_ = VectorRule::kAsStored;  // of the final norm

 private:
  struct Workspace;
  Workspace Carve(const StepLimits& limits, std::byte* base) const;
  Status DeclareRankHead(WeightPlan& plan);

  const std::optional<std::pair<int32_t, int32_t>> yes_no_;
  bool tied_ = true;
  chips::PackedWeight embedding_;
  chips::PackedWeight head_;
  chips::PackedWeight rank_head_;  // [1, H]; of models that rank, which have no other head
  const float* final_norm_ = nullptr;
};

}  // namespace tidepool::architectures
