// BERT encoders for embeddings (MiniLM, bge, e5, ...) and cross-encoders that rank (ms-marco, bge-reranker):
// learned positions, post-norm, exact gelu, no mask.
//
//   x = layernorm(word[token] + position[p] + type[t])
//   x = layernorm(x + Wo attention(Wq x + bq, Wk x + bk, Wv x + bv) / sqrt(d) + bo)
//   x = layernorm(x + Wd gelu(Wu x + bu) + bd)
//
//   score = w_out tanh(W_cls x[0] + b_cls) + b_out      (of those that rank)
//
// Type 0 is added to the position table on loading; type 1, in the second text of a pair, adds the
// difference. A sequence runs whole in one step; nothing is kept for later, so the KV layout has one layer,
// which every layer writes over in turn. RoBERTa's positions begin after the padding token's: its first rows
// are left out.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "models/architectures/carve.h"
#include "models/architectures/families.h"

namespace tidepool::architectures {
namespace {

constexpr FieldKey kHeads{"attention.head_count", "num_attention_heads"};

struct BertConfig {
  int32_t vocab = 0, hidden = 0, layers = 0, heads = 0, feed_forward = 0, positions = 0, types = 0;
  int32_t unused_positions = 0;  // rows of the file's table before the first that is used
  float norm_epsilon = 0;
  int32_t head_dim() const { return hidden / heads; }
};

struct Norm {
  const float *gain, *bias;
};
struct Affine {
  chips::PackedWeight weight;
  const float* bias;
};

class Bert final : public FamilyModel {
 public:
  Bert(const BertConfig& config, const LoadOptions& options, PoolingChoice pooling)
      : config_(config), layers_(static_cast<size_t>(config.layers)) {
    info_.family = "bert";
    info_.vocab_size = config.vocab;
    info_.hidden_size = config.hidden;
    info_.layers = config.layers;
    info_.context_length = config.positions;
    info_.generates = false;
    info_.causal = false;
    info_.pooling = pooling.pooling == Pooling::kNone ? Pooling::kMean : pooling.pooling;
    info_.normalise_embedding = pooling.normalise;
    info_.ranks = pooling.ranks;
    kv_ = {.type = options.kv_type,
           .layers = 1,
           .kv_heads = config.heads,
           .key_dim = config.head_dim(),
           .value_dim = config.head_dim()};
  }

  HfNaming naming() const override {
    return {{"", "bert.", "roberta."}, "embeddings.word_embeddings.weight", "encoder.layer."};
  }

  Status DeclareWeights(WeightPlan& plan) override {
    TP_TRY(plan.Matrix({"token_embd.weight", "embeddings.word_embeddings.weight"}, config_.vocab,
                       config_.hidden, &words_));
    TP_TRY(DeclarePositions(plan));
    TP_TRY(DeclareNorm(plan, "token_embd_norm", "embeddings.LayerNorm", -1, &embedding_norm_));
    for (int32_t n = 0; n < config_.layers; ++n) {
      plan.BeginSegment();
      TP_TRY(DeclareLayer(plan, n));
    }
    if (!info_.ranks) return {};
    plan.BeginSegment();
    return DeclareClassifier(plan);
  }

  size_t WorkspaceBytes(const StepLimits& limits) const override { return Carve(limits, nullptr).bytes; }
  int32_t MaxColumns() const override { return std::max(config_.hidden, config_.feed_forward); }
  StepOutput Forward(const Step& step, const StepLimits& limits, std::byte* workspace) override;

 private:
  struct Layer {
    Affine query, key, value, output, up, down;
    Norm attention_norm, output_norm;
  };
  struct Workspace {
    float *x, *y, *query, *key, *value, *wide, *hidden, *scores;
    size_t bytes;
  };

  Workspace Carve(const StepLimits& limits, std::byte* base) const;
  Status DeclarePositions(WeightPlan& plan);
  Status DeclareLayer(WeightPlan& plan, int32_t n);
  Status DeclareClassifier(WeightPlan& plan);
  Status DeclareNorm(WeightPlan& plan, const std::string& gguf, const std::string& hf, int32_t n,
                     Norm* norm) {
    TP_TRY(plan.Vector({gguf + ".weight", hf + ".weight", n}, config_.hidden, &norm->gain));
    return plan.Vector({gguf + ".bias", hf + ".bias", n}, config_.hidden, &norm->bias);
  }
  Status DeclareAffine(WeightPlan& plan, const std::string& gguf, const std::string& hf, int32_t n,
                       int32_t rows, int32_t columns, Affine* affine) {
    TP_TRY(plan.Matrix({gguf + ".weight", hf + ".weight", n}, rows, columns, &affine->weight));
    return plan.Vector({gguf + ".bias", hf + ".bias", n}, rows, &affine->bias);
  }

  BertConfig config_;
  chips::PackedWeight words_, positions_;
  chips::PackedWeight types_;  // type t - type 0; where pairs are told apart
  bool has_types_ = false, has_dense_ = false;
  Affine classifier_dense_{}, classifier_{};  // of those that rank
  Norm embedding_norm_{};
  std::vector<Layer> layers_;
};

Status Bert::DeclarePositions(WeightPlan& plan) {
  const auto hidden = static_cast<size_t>(config_.hidden);
  TP_ASSIGN(std::vector<float> table,
            plan.Floats({"position_embd.weight", "embeddings.position_embeddings.weight"},
                        {config_.positions + config_.unused_positions, config_.hidden}));
  const uint64_t parameters = table.size() + static_cast<uint64_t>(config_.types) * hidden;
  table.erase(table.begin(), table.begin() + static_cast<std::ptrdiff_t>(
                                                 static_cast<size_t>(config_.unused_positions) * hidden));
  TP_ASSIGN(const std::vector<float> types,
            plan.Floats({"token_types.weight", "embeddings.token_type_embeddings.weight"},
                        {config_.types, config_.hidden}));
  for (size_t i = 0; i < table.size(); ++i) table[i] += types[i % hidden];
  has_types_ = info_.ranks && config_.types > 1;
  if (has_types_) {
    std::vector<float> differences = types;
    for (size_t i = 0; i < differences.size(); ++i) differences[i] -= types[i % hidden];
    TP_TRY(plan.ComputedMatrix(std::move(differences), config_.types, config_.hidden, 0, &types_));
  }
  return plan.ComputedMatrix(std::move(table), config_.positions, config_.hidden, parameters, &positions_);
}

Status Bert::DeclareLayer(WeightPlan& plan, int32_t n) {
  Layer& w = layers_[static_cast<size_t>(n)];
  const int32_t h = config_.hidden, f = config_.feed_forward;
  TP_TRY(DeclareAffine(plan, "attn_q", "attention.self.query", n, h, h, &w.query));
  TP_TRY(DeclareAffine(plan, "attn_k", "attention.self.key", n, h, h, &w.key));
  TP_TRY(DeclareAffine(plan, "attn_v", "attention.self.value", n, h, h, &w.value));
  TP_TRY(DeclareAffine(plan, "attn_output", "attention.output.dense", n, h, h, &w.output));
  TP_TRY(DeclareNorm(plan, "attn_output_norm", "attention.output.LayerNorm", n, &w.attention_norm));
  TP_TRY(DeclareAffine(plan, "ffn_up", "intermediate.dense", n, f, h, &w.up));
  TP_TRY(DeclareAffine(plan, "ffn_down", "output.dense", n, h, f, &w.down));
  return DeclareNorm(plan, "layer_output_norm", "output.LayerNorm", n, &w.output_norm);
}

// BERT's pooler and classifier, RoBERTa's head (of which GGUF has cls and cls.output), or a classifier alone.
Status Bert::DeclareClassifier(WeightPlan& plan) {
  const int32_t h = config_.hidden;
  const bool roberta = plan.Has({"", "/classifier.out_proj.weight"});
  const char* const dense = roberta ? "/classifier.dense" : "pooler.dense";
  const char* const out = roberta ? "/classifier.out_proj" : "/classifier";
  const TensorName name{"cls.output.weight", roberta ? "/classifier.out_proj.weight" : "/classifier.weight"};
  TP_ASSIGN(const auto shape, plan.MatrixShape(name));
  if (shape.first != 1) {
    return Fail(ErrorKind::kInvalid, "unsupported_classifier",
                fmt::format("{}: a classifier of {} labels does not rank; one that does has 1",
                            plan.checkpoint().path().string(), shape.first),
                std::string(name.hf));
  }
  has_dense_ = plan.Has({"cls.weight", roberta ? "/classifier.dense.weight" : "pooler.dense.weight"});
  if (has_dense_) TP_TRY(DeclareAffine(plan, "cls", dense, -1, h, h, &classifier_dense_));
  return DeclareAffine(plan, "cls.output", out, -1, 1, h, &classifier_);
}

Bert::Workspace Bert::Carve(const StepLimits& limits, std::byte* base) const {
  const size_t narrow = static_cast<size_t>(limits.max_tokens) * static_cast<size_t>(config_.hidden);
  const size_t wide = static_cast<size_t>(limits.max_tokens) * static_cast<size_t>(config_.feed_forward);
  Carver carver(base);
  Workspace w;
  w.x = carver.Take<float>(narrow);
  w.y = carver.Take<float>(narrow);
  w.query = carver.Take<float>(narrow);
  w.key = carver.Take<float>(narrow);
  w.value = carver.Take<float>(narrow);
  w.wide = carver.Take<float>(wide);
  w.hidden = carver.Take<float>(narrow);
  w.scores = carver.Take<float>(info_.ranks ? static_cast<size_t>(limits.max_tokens) : 0);
  w.bytes = carver.bytes();
  return w;
}

StepOutput Bert::Forward(const Step& step, const StepLimits& limits, std::byte* workspace) {
  const Workspace w = Carve(limits, workspace);
  const auto rows = static_cast<int64_t>(step.tokens.size());
  CHECK(rows <= limits.max_tokens);
  const auto matrix = [&](float* data, int32_t columns) {
    return chips::Matrix{data, rows, columns, columns};
  };
  const int32_t h = config_.hidden;
  const chips::Matrix x = matrix(w.x, h), y = matrix(w.y, h), wide = matrix(w.wide, config_.feed_forward);
  const chips::Matrix query = matrix(w.query, h), key = matrix(w.key, h), value = matrix(w.value, h);
  const chips::Matrix attended = matrix(w.hidden, h);  // free until the end
  chips::Ops& op = ops();
  const auto linear = [&](chips::ConstMatrix in, const Affine& affine, chips::Matrix out) {
    const chips::LinearTarget target{&affine.weight, affine.bias, out};
    op.Linear(in, std::span(&target, 1));
  };
  // x = layernorm(x + y)
  const auto add_norm = [&](const Norm& norm) {
    op.Add(x, y, x);
    op.LayerNorm(x, norm.gain, norm.bias, config_.norm_epsilon, x);
  };

  StepOutput output;
  int32_t segment = 0;
  const auto next_ready = [&] {
    output.aborted = step.gate != nullptr && !step.gate->Wait(segment++);
    return !output.aborted;
  };
  if (!next_ready()) return output;
  op.Embed(words_, step.tokens, 1.0f, x);
  op.Embed(positions_, step.positions, 1.0f, y);
  if (has_types_ && !step.types.empty()) {
    op.Embed(types_, step.types, 1.0f, attended);
    op.Add(y, attended, y);
  }
  add_norm(embedding_norm_);
  for (const Layer& layer : layers_) {
    if (!next_ready()) return output;
    const chips::LinearTarget projections[] = {{&layer.query.weight, layer.query.bias, query},
                                               {&layer.key.weight, layer.key.bias, key},
                                               {&layer.value.weight, layer.value.bias, value}};
    op.Linear(x, projections);
    op.AppendKv({.key = key, .value = value, .layout = &kv_, .layer = 0, .sequences = step.sequences});
    op.Attention({.query = query,
                  .out = attended,
                  .layout = &kv_,
                  .layer = 0,
                  .query_heads = config_.heads,
                  .scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim())),
                  .window = 0,
                  .causal = false,
                  .sequences = step.sequences});
    linear(attended, layer.output, y);
    add_norm(layer.attention_norm);

    linear(x, layer.up, wide);
    op.Activate(chips::Activation::kGeluExact, wide, wide);
    linear(wide, layer.down, y);
    add_norm(layer.output_norm);
  }

  if (info_.ranks && !next_ready()) return output;
  if (!step.hidden_rows.empty()) {
    const int64_t wanted = std::ssize(step.hidden_rows);
    const chips::Matrix states{w.hidden, wanted, h, h};
    op.GatherRows(x, step.hidden_rows, states);
    output.hidden = w.hidden;
    if (info_.ranks) {
      chips::Matrix head = states;
      if (has_dense_) {
        head = {w.y, wanted, h, h};
        linear(states, classifier_dense_, head);
        op.Activate(chips::Activation::kTanh, head, head);
      }
      linear(head, classifier_, {w.scores, wanted, 1, 1});
      output.scores = w.scores;
    }
  }
  op.Synchronize();
  return output;
}

Result<BertConfig> ReadConfig(const Fields& fields) {
  BertConfig config;
  TP_ASSIGN(config.hidden, fields.Int({"embedding_length", "hidden_size"}, 1, 1 << 16));
  TP_ASSIGN(config.layers, fields.Int({"block_count", "num_hidden_layers"}, 1, 1024));
  TP_ASSIGN(config.heads, fields.Int(kHeads, 1, 1024));
  TP_ASSIGN(config.feed_forward, fields.Int({"feed_forward_length", "intermediate_size"}, 1, 1 << 20));
  TP_ASSIGN(config.norm_epsilon, fields.Float({"attention.layer_norm_epsilon", "layer_norm_eps"}, 0, 0.1));
  if (config.hidden % config.heads != 0) {
    return fields.Bad(
        kHeads, fmt::format("is {}, which does not divide the hidden size {}", config.heads, config.hidden));
  }
  TP_ASSIGN(const std::string activation, fields.StringOr({"", "hidden_act"}, "gelu"));
  if (activation != "gelu")
    return fields.Bad({"", "hidden_act"}, fmt::format("is '{}'; this architecture uses 'gelu'", activation));
  TP_ASSIGN(const std::string positions, fields.StringOr({"", "position_embedding_type"}, "absolute"));
  if (positions != "absolute") {
    return fields.Bad({"", "position_embedding_type"},
                      fmt::format("is '{}'; only 'absolute' is supported", positions));
  }
  TP_ASSIGN(const int64_t context, fields.Int({"context_length", "max_position_embeddings"}, 1, 1 << 20));
  config.positions = static_cast<int32_t>(context);
  return config;
}

// Tables' rows are facts of the file; the rest of the shapes follow from the configuration.
Result<int32_t> TableRows(const Fields& fields, std::string_view gguf, std::string_view hf) {
  const formats::Checkpoint& file = fields.checkpoint();
  const formats::Tensor* table = file.Find(fields.is_gguf() ? gguf : hf);
  for (const char* prefix : {"bert.", "roberta."}) {
    if (table == nullptr && !fields.is_gguf()) table = file.Find(prefix + std::string(hf));
  }
  const std::string name(fields.is_gguf() ? gguf : hf);
  if (table == nullptr || table->shape.size() != 2 || table->shape[0] < 1 || table->shape[0] > (1 << 22)) {
    return Fail(
        ErrorKind::kCorrupt, table == nullptr ? "missing_tensor" : "wrong_tensor_shape",
        fmt::format("{}: the table '{}' is missing or not a matrix. Download or convert the model again.",
                    fields.file(), name),
        name);
  }
  return static_cast<int32_t>(table->shape[0]);
}

}  // namespace

FamilyResult MakeBert(const Fields& fields, const LoadOptions& options) {
  TP_ASSIGN(BertConfig config, ReadConfig(fields));
  TP_ASSIGN(config.vocab, TableRows(fields, "token_embd.weight", "embeddings.word_embeddings.weight"));
  TP_ASSIGN(config.types, TableRows(fields, "token_types.weight", "embeddings.token_type_embeddings.weight"));
  constexpr FieldKey kVocab{"vocab_size", "vocab_size"};
  TP_ASSIGN(const int64_t stated, fields.IntOr(kVocab, config.vocab, 1, 1 << 22));
  if (stated != config.vocab) {
    return fields.Bad(kVocab, fmt::format("is {}, but the embedding has {} rows", stated, config.vocab));
  }
  if (!fields.is_gguf() && fields.checkpoint().architecture() != "bert") {  // RoBERTa
    constexpr FieldKey kPadding{"", "pad_token_id"};
    TP_ASSIGN(const int64_t padding, fields.IntOr(kPadding, 1, 0, config.positions - 2));
    config.unused_positions = static_cast<int32_t>(padding) + 1;
    config.positions -= config.unused_positions;
  }
  TP_ASSIGN(const PoolingChoice pooling, ReadPooling(fields, Pooling::kCls));
  return std::make_unique<Bert>(config, options, pooling);
}

}  // namespace tidepool::architectures
