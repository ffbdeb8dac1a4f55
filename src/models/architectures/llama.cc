// Llama 2 and 3, SmolLM2, Yi, Mistral: pre-norm blocks of grouped-query attention and SwiGLU.
//
//   n  = rms(x) g1          q, k, v = Wq n, Wk n, Wv n  (+ biases if the checkpoint has them)
//   x += Wo attention(rope(q), rope(k), v) / sqrt(d)    within the last `sliding_window` tokens (Mistral 7B
//   v0.1) x += Wd (silu(Wg m) * Wu m),  m = rms(x) g2
//
// GGUF files hold Wq and Wk with rows permuted for interleaved rope pairs; Hugging Face's pair halves.
#include <fmt/format.h>

#include <cmath>

#include "models/architectures/decoder.h"

namespace tidepool::architectures {
namespace {

class Llama final : public Decoder {
 public:
  Llama(const DecoderConfig& config, Rope rope, int32_t window, const LoadOptions& options,
        PoolingChoice pooling)
      : Decoder("llama", config, options, pooling),
        rope_(std::move(rope)),
        window_(window),
        scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))),
        layers_(static_cast<size_t>(config.layers)) {}

 private:
  struct Layer {
    const float *attention_norm, *query_bias, *key_bias, *value_bias, *output_bias, *feed_forward_norm;
    AttentionProjections attention;
    GatedFeedForward feed_forward;
  };

  Status DeclareShared(WeightPlan& plan) override {
    DeclareRope(plan, rope_);
    return {};
  }

  Status DeclareLayer(WeightPlan& plan, int32_t n) override {
    Layer& w = layers_[static_cast<size_t>(n)];
    const int32_t hidden = config_.hidden, query = config_.query_columns(), kv = config_.kv_columns();
    TP_TRY(plan.Vector({"attn_norm.weight", "input_layernorm.weight", n}, hidden, &w.attention_norm));
    TP_TRY(w.attention.Declare(plan, n, config_));
    TP_TRY(plan.OptionalVector({"attn_q.bias", "self_attn.q_proj.bias", n}, query, &w.query_bias));
    TP_TRY(plan.OptionalVector({"attn_k.bias", "self_attn.k_proj.bias", n}, kv, &w.key_bias));
    TP_TRY(plan.OptionalVector({"attn_v.bias", "self_attn.v_proj.bias", n}, kv, &w.value_bias));
    TP_TRY(plan.OptionalVector({"attn_output.bias", "self_attn.o_proj.bias", n}, hidden, &w.output_bias));
    TP_TRY(
        plan.Vector({"ffn_norm.weight", "post_attention_layernorm.weight", n}, hidden, &w.feed_forward_norm));
    return w.feed_forward.Declare(plan, n, config_);
  }

  void RunLayer(int32_t n, const DecoderPass& p) override {
    const Layer& w = layers_[static_cast<size_t>(n)];
    p.RmsNorm(p.x, w.attention_norm, p.normed);
    p.Project(p.normed, {{w.attention.query, w.query_bias, p.query},
                         {w.attention.key, w.key_bias, p.key},
                         {w.attention.value, w.value_bias, p.value}});
    p.TurnAndAttend(rope_, n, scale_, window_);
    p.ProjectAndAdd(p.attended, w.attention.output, w.output_bias);

    p.RmsNorm(p.x, w.feed_forward_norm, p.normed);
    w.feed_forward.RunAndAdd(p, chips::Activation::kSilu);
  }

  Rope rope_;
  int32_t window_;
  float scale_;
  std::vector<Layer> layers_;
};

}  // namespace

FamilyResult MakeLlama(const Fields& fields, const LoadOptions& options) {
  TP_ASSIGN(DecoderConfig config, ReadDecoderConfig(fields));
  TP_TRY(RequireActivation(fields, {"silu"}));
  TP_ASSIGN(const bool mlp_bias, fields.BoolOr({"", "mlp_bias"}, false));
  if (mlp_bias)
    return fields.Bad({"", "mlp_bias"}, "is true, which this architecture's code does not support");
  TP_ASSIGN(const int64_t window,
            fields.IntOr({"attention.sliding_window", "sliding_window"}, 0, 0, int64_t{1} << 27));
  TP_ASSIGN(Rope rope, ReadRope(fields, config.head_dim, config.context));
  if (fields.is_gguf()) rope.pairing = chips::RopePairing::kInterleaved;
  config.context = ExtendedContext(config.context, rope);
  TP_ASSIGN(const PoolingChoice pooling, ReadPooling(fields));
  return std::make_unique<Llama>(config, std::move(rope), static_cast<int32_t>(window), options, pooling);
}

}  // namespace tidepool::architectures
