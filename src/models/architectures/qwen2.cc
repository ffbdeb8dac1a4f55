// Qwen 1.5, 2, 2.5 and QwQ: Llama's block with biases on q, k and v.
//
//   n  = rms(x) g1          q, k, v = Wq n + bq, Wk n + bk, Wv n + bv
//   x += Wo attention(rope(q), rope(k), v) / sqrt(d)
//   x += Wd (silu(Wg m) * Wu m),  m = rms(x) g2
//
// With use_sliding_window, layers from max_window_layers on see only the last `sliding_window` tokens.
#include <cmath>

#include "models/architectures/decoder.h"

namespace tidepool::architectures {
namespace {

struct Window {
  int32_t tokens = 0;       // 0: none
  int32_t first_layer = 0;  // layers below it see everything
};

class Qwen2 final : public Decoder {
 public:
  Qwen2(const DecoderConfig& config, Rope rope, Window window, const LoadOptions& options,
        PoolingChoice pooling)
      : Decoder("qwen2", config, options, pooling),
        rope_(std::move(rope)),
        window_(window),
        scale_(1.0f / std::sqrt(static_cast<float>(config.head_dim))),
        layers_(static_cast<size_t>(config.layers)) {}

 private:
  struct Layer {
    const float *attention_norm, *query_bias, *key_bias, *value_bias, *feed_forward_norm;
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
    TP_TRY(plan.Vector({"attn_q.bias", "self_attn.q_proj.bias", n}, query, &w.query_bias));
    TP_TRY(plan.Vector({"attn_k.bias", "self_attn.k_proj.bias", n}, kv, &w.key_bias));
    TP_TRY(plan.Vector({"attn_v.bias", "self_attn.v_proj.bias", n}, kv, &w.value_bias));
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
    p.TurnAndAttend(rope_, n, scale_, n >= window_.first_layer ? window_.tokens : 0);
    p.ProjectAndAdd(p.attended, w.attention.output, nullptr);

    p.RmsNorm(p.x, w.feed_forward_norm, p.normed);
    w.feed_forward.RunAndAdd(p, chips::Activation::kSilu);
  }

  Rope rope_;
  Window window_;
  float scale_;
  std::vector<Layer> layers_;
};

Result<Window> ReadWindow(const Fields& fields, int32_t layers) {
  TP_ASSIGN(const bool used, fields.BoolOr({"", "use_sliding_window"}, false));
  if (!used) return Window{};
  Window window;
  TP_ASSIGN(window.tokens, fields.Int({"", "sliding_window"}, 1, int64_t{1} << 27));
  TP_ASSIGN(window.first_layer, fields.IntOr({"", "max_window_layers"}, layers, 0, int64_t{1} << 20));
  return window;
}

}  // namespace

FamilyResult MakeQwen2(const Fields& fields, const LoadOptions& options) {
  TP_ASSIGN(DecoderConfig config, ReadDecoderConfig(fields));
  TP_TRY(RequireActivation(fields, {"silu"}));
  TP_ASSIGN(const Window window, ReadWindow(fields, config.layers));
  TP_ASSIGN(Rope rope, ReadRope(fields, config.head_dim, config.context));
  config.context = ExtendedContext(config.context, rope);
  TP_ASSIGN(const PoolingChoice pooling, ReadPooling(fields));
  return std::make_unique<Qwen2>(config, std::move(rope), window, options, pooling);
}

}  // namespace tidepool::architectures
