#include "models/architectures/decoder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "models/architectures/carve.h"

namespace tidepool::architectures {
namespace {

// No released model comes near these; a file that claims more is wrong, and products of them fit int64 and
// int32.
constexpr int64_t kMaxHidden = 1 << 17;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 1024;
constexpr int64_t kMaxFeedForward = 1 << 20;
constexpr int64_t kMaxVocab = 1 << 22;
constexpr int64_t kMaxContext = 1 << 27;

constexpr FieldKey kHidden{"embedding_length", "hidden_size"};
constexpr FieldKey kHeads{"attention.head_count", "num_attention_heads"};
constexpr FieldKey kKvHeads{"attention.head_count_kv", "num_key_value_heads"};
constexpr FieldKey kHeadDim{"attention.key_length", "head_dim"};
constexpr FieldKey kValueDim{"attention.value_length", ""};
constexpr FieldKey kVocab{"vocab_size", "vocab_size"};
constexpr FieldKey kTied{"", "tie_word_embeddings"};

constexpr TensorName kEmbedding{"token_embd.weight", "embed_tokens.weight"};
constexpr TensorName kHead{"output.weight", "/lm_head.weight"};

Status ReadHeads(const Fields& fields, DecoderConfig& config) {
  TP_ASSIGN(config.heads, fields.Int(kHeads, 1, kMaxHeads));
  TP_ASSIGN(config.kv_heads, fields.IntOr(kKvHeads, config.heads, 1, config.heads));
  if (config.heads % config.kv_heads != 0) {
    return fields.Bad(kKvHeads, fmt::format("is {}, which does not divide the {} query heads",
                                            config.kv_heads, config.heads));
  }
  if (!fields.Has(kHeadDim) && config.hidden % config.heads != 0) {
    return fields.Bad(
        kHeads, fmt::format("is {}, which does not divide the hidden size {}, and no head size is given",
                            config.heads, config.hidden));
  }
  TP_ASSIGN(config.head_dim, fields.IntOr(kHeadDim, config.hidden / config.heads, 2, kMaxHeadDim));
  TP_ASSIGN(const int64_t value_dim, fields.IntOr(kValueDim, config.head_dim, 1, kMaxHeadDim));
  if (value_dim != config.head_dim) {
    return fields.Bad(kValueDim, fmt::format("is {}, but keys have {}; this architecture needs them equal",
                                             value_dim, config.head_dim));
  }
  return {};
}

// The embedding's rows are the vocabulary; what the metadata says must agree, for the tokenizer hands out ids
// by it.
Status ReadVocab(const Fields& fields, DecoderConfig& config) {
  // The tensor decides; DecoderNaming's prefixes are resolved by the plan, so look through the same list
  // here.
  const formats::Tensor* table = nullptr;
  if (fields.is_gguf()) {
    table = fields.checkpoint().Find(kEmbedding.gguf);
  } else {
    for (const std::string_view prefix : DecoderNaming().prefixes) {
      if (table == nullptr)
        table = fields.checkpoint().Find(std::string(prefix) + std::string(kEmbedding.hf));
    }
  }
  if (table == nullptr || table->shape.size() != 2 || table->shape[0] < 1 || table->shape[0] > kMaxVocab) {
    const std::string_view name = fields.is_gguf() ? kEmbedding.gguf : kEmbedding.hf;
    return Fail(
        ErrorKind::kCorrupt, table == nullptr ? "missing_tensor" : "wrong_tensor_shape",
        fmt::format(
            "{}: the embedding '{}' is missing or not a matrix of at most {} rows. Download or convert "
            "the model again.",
            fields.file(), name, kMaxVocab),
        std::string(name));
  }
  config.vocab = static_cast<int32_t>(table->shape[0]);
  TP_ASSIGN(const int64_t stated, fields.IntOr(kVocab, config.vocab, 1, kMaxVocab));
  if (stated != config.vocab) {
    return fields.Bad(kVocab, fmt::format("is {}, but the embedding has {} rows", stated, config.vocab));
  }
  if (fields.is_gguf()) {
    const auto tokens = fields.checkpoint().metadata().Strings("tokenizer.ggml.tokens");
    if (tokens && tokens->size() > static_cast<size_t>(config.vocab)) {
      return Fail(
          ErrorKind::kCorrupt, "bad_model_config",
          fmt::format("{}: tokenizer.ggml.tokens has {} entries, but the embedding has {} rows. Download or "
                      "convert the model again.",
                      fields.file(), tokens->size(), config.vocab),
          "tokenizer.ggml.tokens");
    }
  }
  return {};
}

}  // namespace

Result<DecoderConfig> ReadDecoderConfig(const Fields& fields) {
  DecoderConfig config;
  TP_ASSIGN(config.hidden, fields.Int(kHidden, 1, kMaxHidden));
  TP_ASSIGN(config.layers, fields.Int({"block_count", "num_hidden_layers"}, 1, kMaxLayers));
  TP_ASSIGN(config.feed_forward,
            fields.Int({"feed_forward_length", "intermediate_size"}, 1, kMaxFeedForward));
  TP_ASSIGN(config.context, fields.Int({"context_length", "max_position_embeddings"}, 1, kMaxContext));
  // config.json may leave out what is Hugging Face's default.
  constexpr FieldKey kEpsilon{"attention.layer_norm_rms_epsilon", "rms_norm_eps"};
  if (fields.is_gguf() && !fields.Has(kEpsilon)) return fields.Bad(kEpsilon, "is missing");
  TP_ASSIGN(config.norm_epsilon, fields.FloatOr(kEpsilon, 1e-6, 0, 0.1));
  TP_TRY(ReadHeads(fields, config));
  TP_TRY(ReadVocab(fields, config));
  TP_ASSIGN(const bool causal, fields.BoolOr({"attention.causal", ""}, true));
  if (!causal)
    return fields.Bad({"attention.causal", ""}, "is false, which this architecture's code does not support");
  return config;
}

Status RequireActivation(const Fields& fields, std::initializer_list<std::string_view> accepted) {
  constexpr FieldKey kActivation{"", "hidden_activation|hidden_act"};
  if (fields.is_gguf()) return {};
  TP_ASSIGN(const std::string activation, fields.StringOr(kActivation, *accepted.begin()));
  if (std::find(accepted.begin(), accepted.end(), activation) != accepted.end()) return {};
  return fields.Bad(kActivation,
                    fmt::format("is '{}'; this architecture uses '{}'", activation, *accepted.begin()));
}

// ---- equations' vocabulary -------------------------------------------------------------------------

void DecoderPass::Project(chips::ConstMatrix in, std::initializer_list<Projection> projections) const {
  chips::LinearTarget targets[4];
  CHECK(projections.size() <= std::size(targets));
  size_t count = 0;
  for (const Projection& p : projections) targets[count++] = {&p.weight, p.bias, p.out};
  ops.Linear(in, std::span(targets, count));
}

void DecoderPass::TurnAndAttend(const Rope& rope, int32_t layer, float scale, int32_t window) const {
  const chips::RopeArgs turn{.x = query,
                             .head_dim = rope.head_dim,
                             .rotary_dim = rope.rotary_dim,
                             .positions = step.positions,
                             .inverse_frequency = rope.inverse_frequency,
                             .amplitude = rope.amplitude,
                             .pairing = rope.pairing};
  chips::RopeArgs turn_key = turn;
  turn_key.x = key;
  ops.RopeAndAppendKv(
      turn, turn_key,
      {.key = key, .value = value, .layout = &kv, .layer = layer, .sequences = step.sequences});
  ops.Attention({.query = query,
                 .out = attended,
                 .layout = &kv,
                 .layer = layer,
                 .query_heads = static_cast<int32_t>(query.columns / kv.key_dim),
                 .scale = scale,
                 .window = window,
                 .causal = true,
                 .sequences = step.sequences});
}

void DecoderPass::ProjectAndAdd(chips::ConstMatrix in, const chips::PackedWeight& weight,
                                const float* bias) const {
  const chips::LinearTarget target{.weight = &weight, .bias = bias, .out = normed, .residual = x};
  ops.Linear(in, std::span(&target, 1));
}

Status AttentionProjections::Declare(WeightPlan& plan, int32_t n, const DecoderConfig& config) {
  const int32_t hidden = config.hidden, heads = config.query_columns(), kv = config.kv_columns();
  TP_TRY(plan.Matrix({"attn_q.weight", "self_attn.q_proj.weight", n}, heads, hidden, &query));
  TP_TRY(plan.Matrix({"attn_k.weight", "self_attn.k_proj.weight", n}, kv, hidden, &key));
  TP_TRY(plan.Matrix({"attn_v.weight", "self_attn.v_proj.weight", n}, kv, hidden, &value));
  return plan.Matrix({"attn_output.weight", "self_attn.o_proj.weight", n}, hidden, heads, &output);
}

Status GatedFeedForward::Declare(WeightPlan& plan, int32_t layer, const DecoderConfig& config) {
  TP_TRY(plan.Matrix({"ffn_gate.weight", "mlp.gate_proj.weight", layer}, config.feed_forward, config.hidden,
                     &gate));
  TP_TRY(
      plan.Matrix({"ffn_up.weight", "mlp.up_proj.weight", layer}, config.feed_forward, config.hidden, &up));
  return plan.Matrix({"ffn_down.weight", "mlp.down_proj.weight", layer}, config.hidden, config.feed_forward,
                     &down);
}

void GatedFeedForward::RunAndAdd(const DecoderPass& p, chips::Activation activation) const {
  p.ops.FeedForward(p.normed, gate, up, activation, {.weight = &down, .out = p.normed, .residual = p.x}, p.up,
                    p.gate);
}

void GatedFeedForward::Run(const DecoderPass& p, chips::Activation activation) const {
  p.ops.FeedForward(p.normed, gate, up, activation, {.weight = &down, .out = p.normed}, p.up, p.gate);
}

// ---- around the layers -----------------------------------------------------------------------------

Decoder::Decoder(std::string family, const DecoderConfig& config, const LoadOptions& options,
                 PoolingChoice pooling)
    : config_(config), yes_no_(options.yes_no) {
  info_.family = std::move(family);
  info_.vocab_size = config.vocab;
  info_.hidden_size = config.hidden;
  info_.layers = config.layers;
  info_.context_length = config.context;
  info_.pooling = pooling.pooling;
  info_.normalise_embedding = pooling.normalise;
  info_.ranks = pooling.ranks;
  info_.generates = !pooling.ranks;
  kv_ = {.type = options.kv_type,
         .layers = config.layers,
         .kv_heads = config.kv_heads,
         .key_dim = config.head_dim,
         .value_dim = config.head_dim};
}

Status Decoder::DeclareWeights(WeightPlan& plan) {
  TP_TRY(plan.Matrix(kEmbedding, config_.vocab, config_.hidden, &embedding_));
  TP_TRY(DeclareShared(plan));
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    plan.BeginSegment();
    TP_TRY(DeclareLayer(plan, layer));
  }
  plan.BeginSegment();
  TP_TRY(plan.Vector({"output_norm.weight", "norm.weight"}, config_.hidden, &final_norm_, norm_rule_));
  if (info_.ranks) return DeclareRankHead(plan);
  // A head of its own, unless the configuration or its absence says that the embedding is the head.
  TP_ASSIGN(const bool tied, Fields(plan.checkpoint()).BoolOr(kTied, !plan.Has(kHead)));
  tied_ = tied;
  return tied_ ? Status() : plan.Matrix(kHead, config_.vocab, config_.hidden, &head_);
}

// One row, whose product with the pooled state is the score's logit: the classifier's only row, or yes - no
// of Qwen3-Reranker's two, which are rows of its head where there is no classifier (softmax of two logits is
// the sigmoid of their difference).
Status Decoder::DeclareRankHead(WeightPlan& plan) {
  constexpr TensorName kClassifier{"cls.output.weight", "/score.weight"};
  if (yes_no_ && !plan.Has(kClassifier)) {
    TP_ASSIGN(const bool tied, Fields(plan.checkpoint()).BoolOr(kTied, !plan.Has(kHead)));
    const TensorName head = tied ? kEmbedding : kHead;
    TP_ASSIGN(std::vector<float> yes, plan.Row(head, config_.vocab, config_.hidden, yes_no_->first));
    TP_ASSIGN(const std::vector<float> no, plan.Row(head, config_.vocab, config_.hidden, yes_no_->second));
    for (size_t i = 0; i < yes.size(); ++i) yes[i] -= no[i];
    const uint64_t parameters = tied ? 0 : 2 * yes.size();
    return plan.ComputedMatrix(std::move(yes), 1, config_.hidden, parameters, &rank_head_);
  }
  TP_ASSIGN(const auto shape, plan.MatrixShape(kClassifier));
  const int64_t labels = shape.first;
  if (labels != 1 && labels != 2) {
    return Fail(ErrorKind::kInvalid, "unsupported_classifier",
                fmt::format("{}: a classifier of {} labels does not rank; one that does has 1, or yes and no",
                            plan.checkpoint().path().string(), labels),
                "cls.output.weight");
  }
  TP_ASSIGN(std::vector<float> row, plan.Floats(kClassifier, {labels, config_.hidden}));
  const auto hidden = static_cast<size_t>(config_.hidden);
  if (labels == 2) {
    for (size_t i = 0; i < hidden; ++i) row[i] -= row[hidden + i];
    row.resize(hidden);
  }
  const auto parameters = static_cast<uint64_t>(labels) * hidden;
  return plan.ComputedMatrix(std::move(row), 1, config_.hidden, parameters, &rank_head_);
}

struct Decoder::Workspace {
  float *x, *normed, *query, *attended, *key, *value, *gate, *up, *logits, *peaks, *hidden, *scores;
  size_t bytes;
};

Decoder::Workspace Decoder::Carve(const StepLimits& limits, std::byte* base) const {
  const auto tokens = static_cast<size_t>(limits.max_tokens);
  const size_t logit_rows = static_cast<size_t>(std::min(limits.max_logit_rows, limits.max_tokens));
  const auto columns = [](int32_t n) { return static_cast<size_t>(n); };
  Carver carver(base);
  Workspace w;
  w.x = carver.Take<float>(tokens * columns(config_.hidden));
  w.normed = carver.Take<float>(tokens * columns(config_.hidden));
  w.query = carver.Take<float>(tokens * columns(config_.query_columns()));
  w.attended = carver.Take<float>(tokens * columns(config_.query_columns()));
  w.key = carver.Take<float>(tokens * columns(config_.kv_columns()));
  w.value = carver.Take<float>(tokens * columns(config_.kv_columns()));
  w.gate = carver.Take<float>(tokens * columns(config_.feed_forward));
  w.up = carver.Take<float>(tokens * columns(config_.feed_forward));
  w.logits = carver.Take<float>(logit_rows * columns(config_.vocab));
  w.peaks = carver.Take<float>(logit_rows * static_cast<size_t>(chips::PeaksOf(config_.vocab)));
  w.hidden = carver.Take<float>(tokens * columns(config_.hidden));
  w.scores = carver.Take<float>(info_.ranks ? tokens : 0);
  w.bytes = carver.bytes();
  return w;
}

size_t Decoder::WorkspaceBytes(const StepLimits& limits) const { return Carve(limits, nullptr).bytes; }

int32_t Decoder::MaxColumns() const {
  return std::max({config_.hidden, config_.query_columns(), config_.feed_forward});
}

StepOutput Decoder::Forward(const Step& step, const StepLimits& limits, std::byte* workspace) {
  const Workspace w = Carve(limits, workspace);
  const auto rows = static_cast<int64_t>(step.tokens.size());
  CHECK(rows <= limits.max_tokens && std::ssize(step.logit_rows) <= limits.max_logit_rows);
  const auto matrix = [](float* data, int64_t r, int64_t c) { return chips::Matrix{data, r, c, c}; };
  const int32_t hidden = config_.hidden;
  const DecoderPass pass{.ops = ops(),
                         .step = step,
                         .kv = kv_,
                         .norm_epsilon = config_.norm_epsilon,
                         .x = matrix(w.x, rows, hidden),
                         .normed = matrix(w.normed, rows, hidden),
                         .query = matrix(w.query, rows, config_.query_columns()),
                         .attended = matrix(w.attended, rows, config_.query_columns()),
                         .key = matrix(w.key, rows, config_.kv_columns()),
                         .value = matrix(w.value, rows, config_.kv_columns()),
                         .gate = matrix(w.gate, rows, config_.feed_forward),
                         .up = matrix(w.up, rows, config_.feed_forward)};

  StepOutput output;
  const auto ready = [&](int32_t segment) {
    output.aborted = step.gate != nullptr && !step.gate->Wait(segment);
    return !output.aborted;
  };
  if (!ready(0)) return output;
  pass.ops.Embed(embedding_, step.tokens, embedding_scale_, pass.x);
  for (int32_t layer = 0; layer < config_.layers; ++layer) {
    if (!ready(layer + 1)) return output;
    RunLayer(layer, pass);
  }
  if (!ready(config_.layers + 1)) return output;

  if (!step.logit_rows.empty()) {
    const chips::Matrix wanted = matrix(w.normed, std::ssize(step.logit_rows), hidden);
    const chips::Matrix logits = matrix(w.logits, wanted.rows, config_.vocab);
    pass.ops.GatherRows(pass.x, step.logit_rows, wanted);
    pass.RmsNorm(wanted, final_norm_, wanted);
    const chips::LinearTarget target{.weight = tied_ ? &embedding_ : &head_, .out = logits, .peaks = w.peaks};
    pass.ops.Linear(wanted, std::span(&target, 1));
    output.logits = logits.data;
    output.peaks = w.peaks;
  }
  if (!step.hidden_rows.empty()) {
    const chips::Matrix states = matrix(w.hidden, std::ssize(step.hidden_rows), hidden);
    pass.ops.GatherRows(pass.x, step.hidden_rows, states);
    pass.RmsNorm(states, final_norm_, states);
    output.hidden = states.data;
    if (info_.ranks) {
      const chips::LinearTarget target{.weight = &rank_head_, .out = matrix(w.scores, states.rows, 1)};
      pass.ops.Linear(states, std::span(&target, 1));
      output.scores = w.scores;
    }
  }
  pass.ops.Synchronize();
  return output;
}

}  // namespace tidepool::architectures
