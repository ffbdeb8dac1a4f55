// Qwen3 dense (and Qwen3-Embedding, Qwen3-Reranker): no biases, a norm on each head of q and k before rope,
// head size of its own.
//
//   n  = rms(x) g1          q = rms_head(Wq n) gq,  k = rms_head(Wk n) gk,  v = Wv n
//   x += Wo attention(rope(q), rope(k), v) / sqrt(d)       heads * d may differ from the hidden size
//   x += Wd (silu(Wg m) * Wu m),  m = rms(x) g2
#include <cmath>

#include "models/architectures/decoder.h"

namespace tidepool::architectures {
namespace {

class Qwen3 final : public Decoder {
 public:
  Qwen3(const DecoderConfig& config, Rope rope, const LoadOptions& options, PoolingChoice pooling)
      : Decoder("qwen3", config, options, pooling),
        rope_(std::move(rope)),
        scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))),
        layers_(static_cast<size_t>(config.layers)) {}

 private:
  struct Layer {
    const float *attention_norm, *query_norm, *key_norm, *feed_forward_norm;
    AttentionProjections attention;
    GatedFeedForward feed_forward;
  };

  Status DeclareShared(WeightPlan& plan) override {
    DeclareRope(plan, rope_);
    return {};
  }

  Status DeclareLayer(WeightPlan& plan, int32_t n) override {
    Layer& w = layers_[static_cast<size_t>(n)];
    const int32_t hidden = config_.hidden;
    TP_TRY(plan.Vector({"attn_norm.weight", "input_layernorm.weight", n}, hidden, &w.attention_norm));
    TP_TRY(w.attention.Declare(plan, n, config_));
    TP_TRY(
        plan.Vector({"attn_q_norm.weight", "self_attn.q_norm.weight", n}, config_.head_dim, &w.query_norm));
    TP_TRY(plan.Vector({"attn_k_norm.weight", "self_attn.k_norm.weight", n}, config_.head_dim, &w.key_norm));
    TP_TRY(
        plan.Vector({"ffn_norm.weight", "post_attention_layernorm.weight", n}, hidden, &w.feed_forward_norm));
    return w.feed_forward.Declare(plan, n, config_);
  }

  void RunLayer(int32_t n, const DecoderPass& p) override {
    const Layer& w = layers_[static_cast<size_t>(n)];
    p.RmsNorm(p.x, w.attention_norm, p.normed);
    p.Project(p.normed, {{w.attention.query, nullptr, p.query},
                         {w.attention.key, nullptr, p.key},
                         {w.attention.value, nullptr, p.value}});
    p.RmsNormHeads(p.query, config_.head_dim, w.query_norm);
    p.RmsNormHeads(p.key, config_.head_dim, w.key_norm);
    p.TurnAndAttend(rope_, n, scale_, /*window=*/0);
    p.ProjectAndAdd(p.attended, w.attention.output, nullptr);

    p.RmsNorm(p.x, w.feed_forward_norm, p.normed);
    w.feed_forward.RunAndAdd(p, chips::Activation::kSilu);
  }

  Rope rope_;
  float scale_;
  std::vector<Layer> layers_;
};

}  // namespace

FamilyResult MakeQwen3(const Fields& fields, const LoadOptions& options) {
  TP_ASSIGN(DecoderConfig config, ReadDecoderConfig(fields));
  TP_TRY(RequireActivation(fields, {"silu"}));
  for (const std::string_view field : {"attention_bias", "use_sliding_window"}) {
    TP_ASSIGN(const bool used, fields.BoolOr({"", field}, false));
    if (used) return fields.Bad({"", field}, "is true, which this architecture's code does not support");
  }
  TP_ASSIGN(Rope rope, ReadRope(fields, config.head_dim, config.context));
  config.context = ExtendedContext(config.context, rope);
  TP_ASSIGN(PoolingChoice pooling, ReadPooling(fields, Pooling::kLast));
  if (options.yes_no && !pooling.ranks) pooling = {Pooling::kLast, /*normalise=*/false, /*ranks=*/true};
  return std::make_unique<Qwen3>(config, std::move(rope), options, pooling);
}

}  // namespace tidepool::architectures
