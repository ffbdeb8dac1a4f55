// Gemma 3 (text): four norms a layer, q/k norms, local and global layers with a rope each, gelu.
//
//   x  = sqrt(H) E[token]                                   sqrt(H) rounded to the type the embedding was
//   trained in a  = Wo attention(rope(rms_head(Wq n) gq), rope(rms_head(Wk n) gk), Wv n) *
//   query_pre_attn_scalar^-0.5, x += rms(a) g2,                                         n = rms(x) g1 x +=
//   rms(Wd (gelu_tanh(Wg m) * Wu m)) g4,               m = rms(x) g3
//
// Every sixth layer sees all tokens (theta 1e6, scaled linearly in the larger models); the others see the
// last `sliding_window` tokens (theta 1e4). All layers keep the whole KV; the window is applied in attention.
// Norm gains are 1 + w in Hugging Face checkpoints; GGUF files hold the sum already.
#include <fmt/format.h>

#include <cmath>

#include "chips/quantisation.h"
#include "models/architectures/decoder.h"

namespace tidepool::architectures {
namespace {

constexpr FieldKey kWindow{"attention.sliding_window", "sliding_window"};

struct Gemma3Shape {
  Rope global_rope, local_rope;
  int32_t window = 0;
  std::vector<bool> global_layer;
  float attention_scale = 1;
  float embedding_scale = 1;
};

class Gemma3 final : public Decoder {
 public:
  Gemma3(const DecoderConfig& config, Gemma3Shape shape, VectorRule norm_rule, const LoadOptions& options,
         PoolingChoice pooling)
      : Decoder("gemma3", config, options, pooling),
        shape_(std::move(shape)),
        layers_(static_cast<size_t>(config.layers)) {
    embedding_scale_ = shape_.embedding_scale;
    norm_rule_ = norm_rule;
  }

 private:
  struct Layer {
    const float *attention_norm, *query_norm, *key_norm, *after_attention_norm;
    const float *feed_forward_norm, *after_feed_forward_norm;
    AttentionProjections attention;
    GatedFeedForward feed_forward;
  };

  Status DeclareShared(WeightPlan& plan) override {
    DeclareRope(plan, shape_.global_rope);
    DeclareRope(plan, shape_.local_rope);
    return {};
  }

  Status DeclareLayer(WeightPlan& plan, int32_t n) override {
    Layer& w = layers_[static_cast<size_t>(n)];
    const int32_t hidden = config_.hidden;
    const auto norm = [&](std::string_view gguf, std::string_view hf, int32_t size,
                          const float** destination) {
      return plan.Vector({gguf, hf, n}, size, destination, norm_rule_);
    };
    TP_TRY(norm("attn_norm.weight", "input_layernorm.weight", hidden, &w.attention_norm));
    TP_TRY(w.attention.Declare(plan, n, config_));
    TP_TRY(norm("attn_q_norm.weight", "self_attn.q_norm.weight", config_.head_dim, &w.query_norm));
    TP_TRY(norm("attn_k_norm.weight", "self_attn.k_norm.weight", config_.head_dim, &w.key_norm));
    TP_TRY(norm("post_attention_norm.weight", "post_attention_layernorm.weight", hidden,
                &w.after_attention_norm));
    TP_TRY(norm("ffn_norm.weight", "pre_feedforward_layernorm.weight", hidden, &w.feed_forward_norm));
    TP_TRY(norm("post_ffw_norm.weight", "post_feedforward_layernorm.weight", hidden,
                &w.after_feed_forward_norm));
    return w.feed_forward.Declare(plan, n, config_);
  }

  void RunLayer(int32_t n, const DecoderPass& p) override {
    const Layer& w = layers_[static_cast<size_t>(n)];
    const bool global = shape_.global_layer[static_cast<size_t>(n)];
    const Rope& rope = global ? shape_.global_rope : shape_.local_rope;
    p.RmsNorm(p.x, w.attention_norm, p.normed);
    p.Project(p.normed, {{w.attention.query, nullptr, p.query},
                         {w.attention.key, nullptr, p.key},
                         {w.attention.value, nullptr, p.value}});
    p.RmsNormHeads(p.query, config_.head_dim, w.query_norm);
    p.RmsNormHeads(p.key, config_.head_dim, w.key_norm);
    p.TurnAndAttend(rope, n, shape_.attention_scale, global ? 0 : shape_.window);
    p.Project(p.attended, {{w.attention.output, nullptr, p.normed}});
    p.RmsNorm(p.normed, w.after_attention_norm, p.normed);
    p.Add(p.x, p.normed);

    p.RmsNorm(p.x, w.feed_forward_norm, p.normed);
    w.feed_forward.Run(p, chips::Activation::kGeluTanh);
    p.RmsNorm(p.normed, w.after_feed_forward_norm, p.normed);
    p.Add(p.x, p.normed);
  }

  Gemma3Shape shape_;
  std::vector<Layer> layers_;
};

// layer_types by name, a GGUF array of booleans (true: local), or a period: every p-th layer is global.
Result<std::vector<bool>> ReadGlobalLayers(const Fields& fields, int32_t layers) {
  constexpr FieldKey kTypes{"", "layer_types"};
  constexpr FieldKey kPattern{"attention.sliding_window_pattern",
                              "sliding_window_pattern|_sliding_window_pattern"};
  const auto count = static_cast<size_t>(layers);
  std::vector<bool> global(count);

  TP_ASSIGN(const std::vector<std::string> types, fields.StringsOr(kTypes, {}));
  if (!types.empty()) {
    if (types.size() != count)
      return fields.Bad(kTypes, fmt::format("has {} entries for {} layers", types.size(), layers));
    for (size_t n = 0; n < count; ++n) {
      global[n] = types[n] == "full_attention";
      if (!global[n] && types[n] != "sliding_attention") {
        return fields.Bad(kTypes,
                          fmt::format("holds '{}'; expected full_attention or sliding_attention", types[n]));
      }
    }
    return global;
  }
  const auto is_local =
      fields.is_gguf() ? fields.checkpoint().metadata().Ints(std::string(fields.checkpoint().architecture()) +
                                                             "." + std::string(kPattern.gguf))
                       : std::nullopt;
  if (is_local && is_local->size() == count) {
    for (size_t n = 0; n < count; ++n) global[n] = (*is_local)[n] == 0;
    return global;
  }
  TP_ASSIGN(const int64_t period, fields.IntOr(kPattern, 6, 1, 1024));
  for (size_t n = 0; n < count; ++n) global[n] = (n + 1) % static_cast<size_t>(period) == 0;
  return global;
}

// The trained value: float32 checkpoints multiply by sqrt(H) itself, all others by sqrt(H) rounded to
// bfloat16 (Gemma was trained in it; a quantised file comes from such a checkpoint).
float EmbeddingScale(const Fields& fields, int32_t hidden) {
  const float exact = std::sqrt(static_cast<float>(hidden));
  for (const formats::Tensor& tensor : fields.checkpoint().tensors()) {
    if (tensor.name != "token_embd.weight" && !tensor.name.ends_with("embed_tokens.weight")) continue;
    if (tensor.type == chips::DataType::kF32) return exact;
  }
  return chips::Bfloat16ToFloat(chips::FloatToBfloat16(exact));
}

Status RefuseVariants(const Fields& fields) {
  for (const std::string_view key : {"attn_logit_softcapping", "final_logit_softcapping"}) {
    TP_ASSIGN(const double cap, fields.FloatOr({key, key}, 0, -1e9, 1e9));
    if (cap != 0) return fields.Bad({key, key}, "is set, which this architecture's code does not support");
  }
  for (const std::string_view key : {"use_bidirectional_attention", "attention_bias"}) {
    TP_ASSIGN(const bool used, fields.BoolOr({"", key}, false));
    if (used) return fields.Bad({"", key}, "is true, which this architecture's code does not support");
  }
  return {};
}

}  // namespace

FamilyResult MakeGemma3(const Fields& fields, const LoadOptions& options) {
  TP_ASSIGN(const DecoderConfig config, ReadDecoderConfig(fields));
  TP_TRY(RequireActivation(fields, {"gelu_pytorch_tanh"}));
  TP_TRY(RefuseVariants(fields));

  Gemma3Shape shape;
  TP_ASSIGN(shape.global_rope, ReadRope(fields, config.head_dim, config.context,
                                        {.gguf_base = "rope.freq_base",
                                         .gguf_scaling = true,
                                         .hf_parameters = "rope_parameters.full_attention.",
                                         .hf_base = "rope_theta",
                                         .hf_scaling = "rope_scaling.",
                                         .default_base = 1e6}));
  TP_ASSIGN(shape.local_rope, ReadRope(fields, config.head_dim, config.context,
                                       {.gguf_base = "rope.freq_base_swa",
                                        .gguf_scaling = false,
                                        .hf_parameters = "rope_parameters.sliding_attention.",
                                        .hf_base = "rope_local_base_freq",
                                        .hf_scaling = "",
                                        .default_base = 1e4}));
  TP_ASSIGN(shape.window, fields.IntOr(kWindow, 0, 0, int64_t{1} << 27));
  TP_ASSIGN(shape.global_layer, ReadGlobalLayers(fields, config.layers));
  if (shape.window == 0) shape.global_layer.assign(static_cast<size_t>(config.layers), true);

  // GGUF has no field for it: every released size uses the head size, except 27B (62 layers) with H / heads.
  const double scalar = fields.is_gguf() && config.layers == 62
                            ? static_cast<double>(config.hidden) / config.heads
                            : config.head_dim;
  TP_ASSIGN(const double given,
            fields.FloatOr({"", "query_pre_attn_scalar"}, fields.is_gguf() ? scalar : 256, 1e-3, 1e6));
  TP_ASSIGN(const double scale, fields.FloatOr({"attention.scale", ""}, 1 / std::sqrt(given), 1e-6, 1e6));
  shape.attention_scale = static_cast<float>(scale);
  shape.embedding_scale = EmbeddingScale(fields, config.hidden);

  TP_ASSIGN(const PoolingChoice pooling, ReadPooling(fields));
  const VectorRule norms = fields.is_gguf() ? VectorRule::kAsStored : VectorRule::kPlusOne;
  return std::make_unique<Gemma3>(config, std::move(shape), norms, options, pooling);
}

}  // namespace tidepool::architectures
