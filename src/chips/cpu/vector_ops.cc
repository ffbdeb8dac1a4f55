// The operations over a table of vector kernels: scratch, and the splitting of work over threads. All numbers
// are made in the kernels, in an order that does not depend on the splitting.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <vector>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/kernel_table.h"
#include "chips/cpu/panel_layout.h"
#include "chips/cpu/processor.h"
#include "chips/cpu/vector_scratch.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int64_t kRowChunksPerThread = 8;            // enough that a disturbed core costs its share only
constexpr int64_t kAttentionValueDim = 1024;          // larger ones take fewer rows a task
constexpr int64_t kPartialFloats = int64_t{1} << 20;  // 4 MiB of split attention
constexpr int64_t kRopeDim = 256;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class VectorOps final : public CpuOps {
 public:
  VectorOps(ThreadPool& pool, const KernelTable& kernels)
      : pool_(pool), kernels_(kernels), activations_(kernels.needs_pairs) {}

  size_t PackedBytes(const WeightSpec& spec) const override {
    return static_cast<size_t>(PanelCount(spec.rows)) * PanelBytes(LayoutOf(spec), spec.columns);
  }
  PackedWeight Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) override;
  uint32_t LayoutId(const WeightSpec& spec) const override { return LayoutOf(spec); }

  size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const override;
  Status ReserveScratch(int32_t max_tokens, int32_t max_columns) override;
  KernelChoice DescribeKernel(const WeightSpec& spec) const override;
  void SetTuning(const KernelTuning& tuning) override { tuning_ = tuning; }

  void Embed(const PackedWeight& table, std::span<const int32_t> tokens, float scale, Matrix out) override;
  void RmsNorm(ConstMatrix x, const float* gain, float eps, Matrix out) override;
  void LayerNorm(ConstMatrix x, const float* gain, const float* bias, float eps, Matrix out) override;
  void Linear(ConstMatrix x, std::span<const LinearTarget> targets) override;
  void Rope(const RopeArgs& args) override;
  void AppendKv(const KvAppendArgs& args) override;
  void Attention(const AttentionArgs& args) override;
  void GatedActivation(Activation activation, ConstMatrix gate, ConstMatrix up, Matrix out) override;
  void Activate(Activation activation, ConstMatrix x, Matrix out) override;
  void Add(ConstMatrix a, ConstMatrix b, Matrix out) override;
  void GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix out) override;

  double MeasureInt8OpsPerS(double seconds) override {
    return Measure(seconds, kernels_.probe_int8_operations,
                   [&](int64_t n) { return kernels_.probe_int8(n); });
  }
  double MeasureF32FlopsPerS(double seconds) override {
    return Measure(seconds, kernels_.probe_f32_operations, [&](int64_t n) { return kernels_.probe_f32(n); });
  }
  uint64_t ReadAll(const std::byte* data, size_t bytes) override { return kernels_.read_all(data, bytes); }

 private:
  // How attention is cut: tiles of query rows for each (sequence, KV head).
  struct AttentionPlan {
    int64_t tile_rows = 0;
    int64_t items = 0;  // over all sequences: KV heads x tiles
  };

  // body(row_begin, row_end) over `rows` rows that cost `row_cost` elements each.
  template <typename Body>
  void ForRows(int64_t rows, int64_t row_cost, Body&& body) {
    if (rows <= 0) return;
    const int64_t chunks = rows * row_cost < tuning_.inline_elements
                               ? 1
                               : std::min<int64_t>(rows, kRowChunksPerThread * pool_.threads());
    const int64_t step = CeilDiv(rows, chunks);
    pool_.Run(CeilDiv(rows, step),
              [&](int64_t chunk, int) { body(chunk * step, std::min(rows, (chunk + 1) * step)); });
  }

  template <typename Probe>
  static double Measure(double seconds, int64_t operations, Probe&& probe) {
    using Clock = std::chrono::steady_clock;
    constexpr int64_t kRounds = 10000;
    int64_t rounds = 0;
    const auto begin = Clock::now();
    std::chrono::duration<double> elapsed{};
    do {
      [[maybe_unused]] volatile auto keep = probe(kRounds);
      rounds += kRounds;
      elapsed = Clock::now() - begin;
    } while (elapsed.count() < seconds);
    return static_cast<double>(rounds) * static_cast<double>(operations) / elapsed.count();
  }

  void LinearRows(ConstMatrix x, std::span<const LinearTarget> targets, int64_t row_begin, int64_t row_end);
  void Elementwise(void (*kernel)(const ElementwiseTask&), ConstMatrix a, const ConstMatrix* b, Matrix out);
  void AppendToken(const KvAppendArgs& args, const SequenceSlice& sequence, int64_t i) const;
  AttentionTask TaskOf(const AttentionArgs& args, const SequenceSlice& sequence, int64_t kv_head,
                       int64_t tile, int64_t tile_rows) const;
  void EnsureAttentionScratch(int64_t value_dim);
  bool AttendInSplits(const AttentionArgs& args, const AttentionPlan& plan);

  ThreadPool& pool_;
  const KernelTable& kernels_;
  KernelTuning tuning_;
  ActivationScratch activations_;
  RopeTables rope_;
  std::vector<std::vector<float>> attention_scratch_;   // one for each thread
  std::vector<int64_t> first_items_;                    // of each sequence, and the total
  std::vector<int64_t> first_splits_, first_partials_;  // of each item
  std::vector<float> partials_;
};

PackedWeight VectorOps::Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) {
  const PanelLayout layout = LayoutOf(spec);
  const size_t panel_bytes = PanelBytes(layout, spec.columns);
  const int64_t panels = PanelCount(spec.rows);
  // The destination is often memory that nobody has touched yet, which the system hands out and clears in
  // blocks of up to 2 MiB: threads that meet in one block wait for each other, so each takes as much in one
  // piece. A run has one piece a thread, so that the steps of other models take turns with a load.
  constexpr size_t kPieceBytes = size_t{2} << 20;
  const int64_t piece = std::clamp<int64_t>(static_cast<int64_t>(kPieceBytes / panel_bytes), 1,
                                            CeilDiv(panels, pool_.threads()));
  const int64_t per_run = piece * pool_.threads();
  for (int64_t begin = 0; begin < panels; begin += per_run) {
    const int64_t end = std::min(panels, begin + per_run);
    pool_.Run(CeilDiv(end - begin, piece), [&](int64_t chunk, int) {
      const int64_t first = begin + chunk * piece;
      for (int64_t panel = first; panel < std::min(end, first + piece); ++panel)
        PackPanel(spec, layout, source, panel, destination + static_cast<size_t>(panel) * panel_bytes);
    });
  }
  return PackedWeight{spec, destination, static_cast<size_t>(panels) * panel_bytes, layout};
}

KernelChoice VectorOps::DescribeKernel(const WeightSpec& spec) const {
  const PanelLayout layout = LayoutOf(spec);
  const std::string set = kernels_.name, type(TraitsOf(spec.type).name);
  if (IsQuantised(layout)) return {set + ", int8 products of " + type + " panels", true, {}};
  if (layout != kPanelF32 || spec.type == DataType::kF32) {
    return {set + ", float32 products of " + type + " panels", true, {}};
  }
  KernelChoice choice{set + ", float32 products of F32 panels", false, {}};
  choice.why =
      spec.precision == WeightPrecision::kFloat32
          ? "pool.precision is f32: weights are decoded when they are packed"
          : "there is no kernel for " + type + ": weights are decoded to float32 when they are packed";
  return choice;
}

size_t VectorOps::ScratchBytes(int32_t max_tokens, int32_t max_columns) const {
  const auto threads = static_cast<size_t>(pool_.threads());
  return activations_.BytesFor(ActivationScratch::ElementsFor(max_tokens, max_columns)) +
         RopeTables::BytesFor(max_tokens, std::min<int64_t>(kRopeDim, max_columns)) +
         threads * static_cast<size_t>(AttentionScratchFloats(kAttentionValueDim)) * sizeof(float) +
         static_cast<size_t>(kPartialFloats) * sizeof(float) +
         (static_cast<size_t>(max_tokens) + 1 + 8 * threads) * sizeof(int64_t);
}

Status VectorOps::ReserveScratch(int32_t max_tokens, int32_t max_columns) {
  TP_TRY(activations_.Reserve(ActivationScratch::ElementsFor(max_tokens, max_columns)));
  rope_.Reserve(max_tokens, std::min<int64_t>(kRopeDim, max_columns));
  EnsureAttentionScratch(kAttentionValueDim);
  partials_.resize(static_cast<size_t>(kPartialFloats));
  first_items_.reserve(static_cast<size_t>(max_tokens) + 1);
  first_splits_.reserve(static_cast<size_t>(4 * pool_.threads()) + 1);
  first_partials_.reserve(static_cast<size_t>(4 * pool_.threads()) + 1);
  return {};
}

void VectorOps::Embed(const PackedWeight& table, std::span<const int32_t> tokens, float scale, Matrix out) {
  const auto layout = static_cast<PanelLayout>(table.layout);
  const int64_t columns = table.spec.columns;
  ForRows(static_cast<int64_t>(tokens.size()), 8 * columns, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int32_t token = tokens[static_cast<size_t>(t)];
      CHECK(token >= 0 && token < table.spec.rows);
      float* row = out.data + t * out.stride;
      DecodePanelRow(layout, columns, table.data, token, row);
      if (scale == 1.0f) continue;
      for (int64_t c = 0; c < columns; ++c) row[c] *= scale;
    }
  });
}

void VectorOps::RmsNorm(ConstMatrix x, const float* gain, float eps, Matrix out) {
  ForRows(x.rows, x.columns, [&](int64_t begin, int64_t end) {
    kernels_.rms_norm({x.data, x.stride, begin, end, x.columns, gain, nullptr, eps, out.data, out.stride});
  });
}

void VectorOps::LayerNorm(ConstMatrix x, const float* gain, const float* bias, float eps, Matrix out) {
  ForRows(x.rows, x.columns, [&](int64_t begin, int64_t end) {
    kernels_.layer_norm({x.data, x.stride, begin, end, x.columns, gain, bias, eps, out.data, out.stride});
  });
}

void VectorOps::Linear(ConstMatrix x, std::span<const LinearTarget> targets) {
  if (x.rows <= 0) return;
  bool quantised = false;
  for (const LinearTarget& target : targets) {
    CHECK(target.weight->spec.columns == x.columns && target.out.columns == target.weight->spec.rows);
    quantised |= IsQuantised(static_cast<PanelLayout>(target.weight->layout));
  }
  int64_t pass_rows = x.rows;
  if (quantised) {
    if (activations_.capacity() < ActivationScratch::ElementsFor(x.rows, x.columns)) {
      CHECK(activations_.Reserve(ActivationScratch::ElementsFor(x.rows, x.columns)).has_value());
    }
    pass_rows = std::min(x.rows, activations_.capacity() / ActivationScratch::StrideFor(x.columns));
  }
  for (int64_t begin = 0; begin < x.rows; begin += pass_rows) {
    const int64_t end = std::min(x.rows, begin + pass_rows);
    if (quantised) {
      activations_.Begin(end - begin, x.columns);
      QuantiseTask task = activations_.Task();
      task.x = x.data + begin * x.stride;
      task.x_stride = x.stride;
      ForRows(end - begin, x.columns, [&, task](int64_t from, int64_t to) {
        QuantiseTask part = task;
        part.row_begin = from;
        part.row_end = to;
        kernels_.quantise(part);
      });
    }
    LinearRows(x, targets, begin, end);
  }
}

void VectorOps::LinearRows(ConstMatrix x, std::span<const LinearTarget> targets, int64_t row_begin,
                           int64_t row_end) {
  const int64_t rows = row_end - row_begin;
  int64_t panels = 0;
  for (const LinearTarget& target : targets) panels += PanelCount(target.weight->spec.rows);
  int64_t row_block = std::clamp<int64_t>(tuning_.linear_row_block_bytes / (4 * x.columns) / 8 * 8, 32, 256);
  if (rows <= row_block) row_block = rows;
  const int64_t row_blocks = CeilDiv(rows, row_block);
  const bool alone = rows * panels * kPanelRows * x.columns < tuning_.inline_products;
  const int64_t wanted =
      alone ? 1 : std::max<int64_t>(1, tuning_.linear_chunks_per_thread * pool_.threads() / row_blocks);
  const int64_t panel_block = std::max<int64_t>(1, CeilDiv(CeilDiv(panels, wanted), 4) * 4);
  int64_t panel_blocks = 0;
  for (const LinearTarget& target : targets) {
    panel_blocks += CeilDiv(PanelCount(target.weight->spec.rows), panel_block);
    const auto layout = static_cast<PanelLayout>(target.weight->layout);
    if (IsQuantised(layout)) activations_.Derive(layout);
  }
  const auto body = [&](int64_t chunk, int) {
    int64_t block = chunk % panel_blocks;
    const int64_t first_row = chunk / panel_blocks * row_block;
    const LinearTarget* target = targets.data();
    for (;; ++target) {
      const int64_t blocks = CeilDiv(PanelCount(target->weight->spec.rows), panel_block);
      if (block < blocks) break;
      block -= blocks;
    }
    const WeightSpec& spec = target->weight->spec;
    const auto layout = static_cast<PanelLayout>(target->weight->layout);
    LinearTask task{};
    task.weight = target->weight->data;
    task.panel_bytes = PanelBytes(layout, spec.columns);
    task.codes_offset = CodesOffset(layout, spec.columns);
    task.panel_begin = block * panel_block;
    task.panel_end = std::min(PanelCount(spec.rows), task.panel_begin + panel_block);
    task.outputs = spec.rows;
    task.columns = spec.columns;
    task.row_begin = first_row;
    task.row_end = std::min(rows, first_row + row_block);
    task.x = x.data + row_begin * x.stride;
    task.x_stride = x.stride;
    if (IsQuantised(layout)) task.quantised = activations_.For(layout);
    task.out = target->out.data + row_begin * target->out.stride;
    task.out_stride = target->out.stride;
    task.bias = target->bias;
    kernels_.linear[layout](task);
  };
  const int64_t chunks = panel_blocks * row_blocks;
  if (alone) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
  } else {
    pool_.Run(chunks, body);
  }
}

void VectorOps::Rope(const RopeArgs& args) {
  CHECK(static_cast<int64_t>(args.positions.size()) == args.x.rows && args.rotary_dim <= args.head_dim);
  if (args.x.rows == 0 || args.rotary_dim < 2) return;
  const RopeTables::Table table = rope_.For(args);
  ForRows(args.x.rows, args.x.columns, [&](int64_t begin, int64_t end) {
    kernels_.rope({args.x.data, args.x.stride, begin, end, args.x.columns / args.head_dim, args.head_dim,
                   args.rotary_dim / 2 * 2, args.pairing == RopePairing::kInterleaved,
                   table.cosines + begin * table.width, table.sines + begin * table.width});
  });
}

void VectorOps::AppendToken(const KvAppendArgs& args, const SequenceSlice& sequence, int64_t i) const {
  const KvLayout& kv = *args.layout;
  const int64_t position = sequence.context + i, row = sequence.token_begin + i;
  CHECK(position / kKvBlockTokens < sequence.block_count);
  std::byte* const block = sequence.blocks[position / kKvBlockTokens];
  const int64_t slot = position % kKvBlockTokens;
  const float* key = args.key.data + row * args.key.stride;
  const float* value = args.value.data + row * args.value.stride;
  for (int32_t h = 0; h < kv.kv_heads; ++h, key += kv.key_dim, value += kv.value_dim) {
    std::byte* const keys = block + kv.key_offset(args.layer, h);
    std::byte* const values = block + kv.value_offset(args.layer, h);
    if (kv.type == DataType::kF32) {
      auto* k = reinterpret_cast<float*>(keys) + slot;
      for (int32_t d = 0; d < kv.key_dim; ++d) k[d * kKvBlockTokens] = key[d];
      std::memcpy(reinterpret_cast<float*>(values) + slot * kv.value_dim, value,
                  static_cast<size_t>(kv.value_dim) * sizeof(float));
      continue;
    }
    kernels_.to_half(value, reinterpret_cast<uint16_t*>(values) + slot * kv.value_dim, kv.value_dim);
    auto* k = reinterpret_cast<uint16_t*>(keys) + slot;
    constexpr int32_t kPart = 64;
    uint16_t halves[kPart];
    for (int32_t begin = 0; begin < kv.key_dim; begin += kPart) {
      const int32_t count = std::min(kPart, kv.key_dim - begin);
      kernels_.to_half(key + begin, halves, count);
      for (int32_t d = 0; d < count; ++d) k[(begin + d) * kKvBlockTokens] = halves[d];
    }
  }
}

void VectorOps::AppendKv(const KvAppendArgs& args) {
  const KvLayout& kv = *args.layout;
  const int64_t token_cost = int64_t{4} * kv.kv_heads * (kv.key_dim + kv.value_dim);
  for (const SequenceSlice& sequence : args.sequences) {
    ForRows(sequence.token_count, token_cost, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) AppendToken(args, sequence, i);
    });
  }
}

void VectorOps::EnsureAttentionScratch(int64_t value_dim) {
  attention_scratch_.resize(static_cast<size_t>(pool_.threads()));
  const auto floats = static_cast<size_t>(AttentionScratchFloats(value_dim));
  for (std::vector<float>& scratch : attention_scratch_) scratch.resize(std::max(scratch.size(), floats));
}

AttentionTask VectorOps::TaskOf(const AttentionArgs& args, const SequenceSlice& sequence, int64_t kv_head,
                                int64_t tile, int64_t tile_rows) const {
  const KvLayout& kv = *args.layout;
  AttentionTask task{};
  task.group = args.query_heads / kv.kv_heads;
  const int64_t first_head = kv_head * task.group;
  task.query = args.query.data + sequence.token_begin * args.query.stride + first_head * kv.key_dim;
  task.query_stride = args.query.stride;
  task.out = args.out.data + sequence.token_begin * args.out.stride + first_head * kv.value_dim;
  task.out_stride = args.out.stride;
  task.row_begin = tile * tile_rows;
  task.row_end = std::min<int64_t>(int64_t{sequence.token_count} * task.group, task.row_begin + tile_rows);
  task.key_dim = kv.key_dim;
  task.value_dim = kv.value_dim;
  task.half = kv.type == DataType::kF16;
  task.blocks = sequence.blocks;
  task.key_offset = kv.key_offset(args.layer, static_cast<int32_t>(kv_head));
  task.value_offset = kv.value_offset(args.layer, static_cast<int32_t>(kv_head));
  task.context = sequence.context;
  task.token_count = sequence.token_count;
  task.window = args.window;
  task.causal = args.causal;
  task.scale = args.scale;
  // The splits that some row of the tile sees.
  const int64_t first_position = task.context + task.row_begin / task.group;
  const int64_t last_position = task.context + (task.row_end - 1) / task.group;
  const int64_t begin = task.window > 0 ? std::max<int64_t>(0, first_position + 1 - task.window) : 0;
  const int64_t end = task.causal ? last_position + 1 : task.context + task.token_count;
  task.split_begin = begin / kAttentionSplit;
  task.split_end = CeilDiv(end, kAttentionSplit);
  return task;
}

void VectorOps::Attention(const AttentionArgs& args) {
  const KvLayout& kv = *args.layout;
  CHECK(kv.kv_heads > 0 && args.query_heads % kv.kv_heads == 0);
  const int64_t group = args.query_heads / kv.kv_heads;
  EnsureAttentionScratch(kv.value_dim);
  AttentionPlan plan;
  plan.tile_rows = kAttentionRows;
  first_items_.clear();
  int64_t products = 0;
  for (const SequenceSlice& sequence : args.sequences) {
    CHECK(CeilDiv(int64_t{sequence.context} + sequence.token_count, kKvBlockTokens) <= sequence.block_count ||
          sequence.token_count == 0);
    first_items_.push_back(plan.items);
    const int64_t rows = sequence.token_count * group;
    plan.items += CeilDiv(rows, plan.tile_rows) * kv.kv_heads;
    products += rows * kv.kv_heads * (sequence.context + sequence.token_count) * (kv.key_dim + kv.value_dim);
  }
  if (plan.items == 0) return;
  const bool alone = products < tuning_.inline_products;
  if (!alone && pool_.threads() > 1 && plan.items < 4 * pool_.threads() && AttendInSplits(args, plan)) return;
  const auto body = [&](int64_t item, int thread) {
    const auto after = std::upper_bound(first_items_.begin(), first_items_.end(), item);
    const SequenceSlice& sequence = args.sequences[static_cast<size_t>(after - first_items_.begin() - 1)];
    const int64_t within = item - *(after - 1);
    AttentionTask task = TaskOf(args, sequence, within % kv.kv_heads, within / kv.kv_heads, plan.tile_rows);
    task.scratch = attention_scratch_[static_cast<size_t>(thread)].data();
    kernels_.attend(task);
  };
  if (alone) {
    for (int64_t item = 0; item < plan.items; ++item) body(item, 0);
    return;
  }
  for (int64_t begin = 0; begin < plan.items; begin += ThreadPool::kMaxChunks) {
    pool_.Run(std::min(ThreadPool::kMaxChunks, plan.items - begin),
              [&](int64_t chunk, int thread) { body(begin + chunk, thread); });
  }
}

// Few items over long contexts: the splits themselves are spread over the threads and merged afterwards, in
// the same order as Attend does. False if it would not pay or the partials do not fit.
bool VectorOps::AttendInSplits(const AttentionArgs& args, const AttentionPlan& plan) {
  const KvLayout& kv = *args.layout;
  const auto task_of = [&](int64_t item) {
    const auto after = std::upper_bound(first_items_.begin(), first_items_.end(), item);
    const SequenceSlice& sequence = args.sequences[static_cast<size_t>(after - first_items_.begin() - 1)];
    const int64_t within = item - *(after - 1);
    return TaskOf(args, sequence, within % kv.kv_heads, within / kv.kv_heads, plan.tile_rows);
  };
  first_splits_.clear();
  first_partials_.clear();
  int64_t splits = 0, floats = 0;
  for (int64_t item = 0; item < plan.items; ++item) {
    const AttentionTask task = task_of(item);
    first_splits_.push_back(splits);
    first_partials_.push_back(floats);
    splits += task.split_end - task.split_begin;
    floats += (task.split_end - task.split_begin) * (task.row_end - task.row_begin) * (2 + kv.value_dim);
  }
  if (splits < 2 * plan.items || floats > static_cast<int64_t>(partials_.size()) ||
      splits > ThreadPool::kMaxChunks) {
    return false;
  }
  pool_.Run(splits, [&](int64_t chunk, int thread) {
    const auto after = std::upper_bound(first_splits_.begin(), first_splits_.end(), chunk);
    const int64_t item = after - first_splits_.begin() - 1;
    AttentionTask task = task_of(item);
    const int64_t split = chunk - *(after - 1);
    task.partial = partials_.data() + first_partials_[static_cast<size_t>(item)] +
                   split * (task.row_end - task.row_begin) * (2 + kv.value_dim);
    task.split_begin += split;
    task.split_end = task.split_begin + 1;
    task.scratch = attention_scratch_[static_cast<size_t>(thread)].data();
    kernels_.attend(task);
  });
  for (int64_t item = 0; item < plan.items; ++item) {
    const AttentionTask task = task_of(item);
    MergeTask merge{};
    merge.partial = partials_.data() + first_partials_[static_cast<size_t>(item)];
    merge.splits = task.split_end - task.split_begin;
    merge.rows = task.row_end - task.row_begin;
    merge.out = task.out;
    merge.out_stride = task.out_stride;
    merge.row_begin = task.row_begin;
    merge.group = task.group;
    merge.value_dim = task.value_dim;
    merge.scratch = attention_scratch_[0].data();
    kernels_.merge(merge);
  }
  return true;
}

void VectorOps::Elementwise(void (*kernel)(const ElementwiseTask&), ConstMatrix a, const ConstMatrix* b,
                            Matrix out) {
  ForRows(a.rows, a.columns, [&](int64_t begin, int64_t end) {
    kernel({a.data, a.stride, b == nullptr ? nullptr : b->data, b == nullptr ? 0 : b->stride, out.data,
            out.stride, begin, end, a.columns});
  });
}

ActivationKernel KernelOf(Activation activation) {
  switch (activation) {
    case Activation::kSilu: return kSiluKernel;
    case Activation::kGeluTanh: return kGeluTanhKernel;
    case Activation::kGeluExact: return kGeluExactKernel;
  }
  CHECK(false);
}

void VectorOps::GatedActivation(Activation activation, ConstMatrix gate, ConstMatrix up, Matrix out) {
  Elementwise(kernels_.activate[KernelOf(activation)], gate, &up, out);
}
void VectorOps::Activate(Activation activation, ConstMatrix x, Matrix out) {
  Elementwise(kernels_.activate[KernelOf(activation)], x, nullptr, out);
}
void VectorOps::Add(ConstMatrix a, ConstMatrix b, Matrix out) { Elementwise(kernels_.add, a, &b, out); }

void VectorOps::GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix out) {
  for (size_t i = 0; i < rows.size(); ++i) {
    CHECK(rows[i] >= 0 && rows[i] < x.rows);
    std::memcpy(out.data + static_cast<int64_t>(i) * out.stride, x.data + rows[i] * x.stride,
                static_cast<size_t>(x.columns) * sizeof(float));
  }
}

const KernelTable* FindKernels(std::string_view name) {
  for (const KernelTable* table : {&kAvx512VnniKernels, &kAvx512Kernels, &kAvx2Kernels}) {
    if (table->name == name) return table;
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<CpuOps> MakeVectorOps(ThreadPool& pool, std::string_view instruction_set,
                                      [[maybe_unused]] bool deterministic) {
  // Every kernel keeps one order of additions, so there is nothing to choose.
  const KernelTable* kernels = FindKernels(instruction_set);
  return kernels == nullptr ? nullptr : std::make_unique<VectorOps>(pool, *kernels);
}

}  // namespace tidepool::chips::cpu
