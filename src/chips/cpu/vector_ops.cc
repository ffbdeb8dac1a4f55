// The operations over a table of vector kernels: scratch, and the splitting of work over threads. All numbers
// are made in the kernels, in an order that does not depend on the splitting.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <optional>
#include <vector>

#include "base/check.h"
#include "chips/cpu/attention_ops.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/kernel_table.h"
#include "chips/cpu/node_copies.h"
#include "chips/cpu/panel_layout.h"
#include "chips/cpu/processor.h"
#include "chips/cpu/tile_linear.h"
#include "chips/cpu/vector_scratch.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int64_t kRowChunksPerThread = 8;  // enough that a disturbed core costs its share only
constexpr int64_t kRopeDim = 256;
constexpr size_t kMostCopiedTargets =
    8;  // of one Linear; models have up to 4, others read the first node's weights

static_assert(kPeakBlock == kPeaksBlock && kPeakLanes == kPeaksLanes);

ActivationKernel KernelOf(Activation activation) {
  switch (activation) {
    case Activation::kSilu: return kSiluKernel;
    case Activation::kGeluTanh: return kGeluTanhKernel;
    case Activation::kGeluExact: return kGeluExactKernel;
    case Activation::kTanh: return kTanhKernel;
  }
  CHECK(false);
}

class VectorOps final : public CpuOps {
 public:
  VectorOps(ThreadPool& pool, const KernelTable& kernels, const TileKernels* tiles, bool exact_only)
      : pool_(pool), kernels_(kernels), attention_(pool, kernels, tiles) {
    if (tiles != nullptr && !exact_only) tiles_.emplace(pool, *tiles);
  }

  size_t PackedBytes(const WeightSpec& spec) const override {
    return static_cast<size_t>(PanelCount(spec.rows)) * PanelBytes(LayoutOf(spec), spec.columns);
  }
  PackedWeight Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) override;
  uint32_t LayoutId(const WeightSpec& spec) const override { return LayoutOf(spec); }

  size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const override;
  Status ReserveScratch(int32_t max_tokens, int32_t max_columns) override;
  KernelChoice DescribeKernel(const WeightSpec& spec) const override;
  void SetTuning(const KernelTuning& tuning) override {
    tuning_ = tuning;
    if (tuning.fetch_level == 0) tuning_.fetch_level = DetectFeatures().fetch_level;
    attention_.SetTuning(tuning_);
  }

  void SetNodeCopies(const NodeCopies* copies) override { copies_ = copies; }

  void Embed(const PackedWeight& table, std::span<const int32_t> tokens, float scale, Matrix out) override;
  void RmsNorm(ConstMatrix x, const float* gain, float eps, Matrix out) override;
  void LayerNorm(ConstMatrix x, const float* gain, const float* bias, float eps, Matrix out) override;
  void Linear(ConstMatrix x, std::span<const LinearTarget> targets) override;
  void GatedLinear(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up, Activation activation,
                   Matrix scratch, Matrix out) override;
  void FeedForward(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up, Activation activation,
                   const LinearTarget& down, Matrix scratch, Matrix inner) override;
  void Rope(const RopeArgs& args) override;
  void AppendKv(const KvAppendArgs& args) override { attention_.AppendKv(args, nullptr); }
  void RopeAndAppendKv(const RopeArgs& query, const RopeArgs& key, const KvAppendArgs& args) override;
  void Attention(const AttentionArgs& args) override { attention_.Attention(args); }
  void GatedActivation(Activation activation, ConstMatrix gate, ConstMatrix up, Matrix out) override;
  void Activate(Activation activation, ConstMatrix x, Matrix out) override;
  void Add(ConstMatrix a, ConstMatrix b, Matrix out) override;
  void GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix out) override;

  double MeasureInt8OpsPerS(double seconds) override {
    if (tiles_) {
      return Measure(seconds, tiles_->kernels().probe_int8_operations,
                     [&](int64_t n) { return tiles_->kernels().probe_int8(n); });
    }
    return Measure(seconds, kernels_.probe_int8_operations,
                   [&](int64_t n) { return kernels_.probe_int8(n); });
  }
  double MeasureF32FlopsPerS(double seconds) override {
    return Measure(seconds, kernels_.probe_f32_operations, [&](int64_t n) { return kernels_.probe_f32(n); });
  }
  double MeasureBf16FlopsPerS(double seconds) override {
    if (tiles_) return MeasureInt8OpsPerS(seconds) / 2;  // a tile product takes as long, and is half as deep
    if (kernels_.bfloat == nullptr) return 0;
    return Measure(seconds, kernels_.bfloat->probe_operations,
                   [&](int64_t n) { return kernels_.bfloat->probe(n); });
  }
  uint64_t ReadAll(const std::byte* data, size_t bytes) override { return kernels_.read_all(data, bytes); }

 private:
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

  bool OnTiles(ConstMatrix x, const PackedWeight& weight) const {
    return tiles_ && tiles_->Takes(x.rows, weight);
  }
  bool OnBfloats(const PackedWeight& weight) const {
    return kernels_.bfloat != nullptr && weight.layout == kPanelBF16;
  }
  // `gated`: two targets of one shape; the first's output becomes activation(first) * second. Targets are all
  // for tiles, or none.
  void LinearAll(ConstMatrix x, std::span<const LinearTarget> targets, const Activation* gated);
  void Quantise(QuantiseTask task, int64_t rows);
  void RoundToBfloat(ConstMatrix x);
  // What of x is multiplied in place of its floats; targets may want both of the first two.
  struct Rounded {
    bool quantised = false, bfloat = false, on_tiles = false;
  };
  void LinearRows(ConstMatrix x, std::span<const LinearTarget> targets, int64_t row_begin, int64_t row_end,
                  Rounded rounded, const Activation* gated);
  void Elementwise(void (*kernel)(const ElementwiseTask&), ConstMatrix a, const ConstMatrix* b, Matrix out);

  ThreadPool& pool_;
  const KernelTable& kernels_;
  const NodeCopies* copies_ = nullptr;
  KernelTuning tuning_;
  std::optional<TileLinear> tiles_;  // for many rows, where the processor has tiles
  ActivationScratch activations_;
  BfloatScratch bfloats_;
  RopeTables rope_;
  AttentionOps attention_;
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
  PackedWeight weight;
  weight.layout = layout;
  const bool tiled = tiles_ && tiles_->Takes(TileLinear::kLeastRows, weight);
  const std::string many =
      tiled ? "; " + std::to_string(TileLinear::kLeastRows) + " rows and more: amx, bf16 tiles" : "";
  if (IsQuantised(layout)) return {set + ", int8 products of " + type + " panels" + many, true, {}};
  if (layout == kPanelBF16 && kernels_.bfloat != nullptr) {
    return {set + ", products of " + type + " panels and activations rounded to bf16" + many, true, {}};
  }
  if (layout != kPanelF32 || spec.type == DataType::kF32) {
    return {set + ", float32 products of " + type + " panels" + many, true, {}};
  }
  KernelChoice choice{set + ", float32 products of F32 panels", false, {}};
  choice.why =
      spec.precision == WeightPrecision::kFloat32
          ? "pool.precision is f32: weights are decoded when they are packed"
          : "there is no kernel for " + type + ": weights are decoded to float32 when they are packed";
  return choice;
}

size_t VectorOps::ScratchBytes(int32_t max_tokens, int32_t max_columns) const {
  return activations_.BytesFor(ActivationScratch::ElementsFor(max_tokens, max_columns)) +
         (kernels_.bfloat != nullptr
              ? BfloatScratch::BytesFor(BfloatScratch::ElementsFor(max_tokens, max_columns))
              : 0) +
         (tiles_ ? tiles_->ScratchBytes(max_tokens, max_columns) : 0) +
         RopeTables::BytesFor(max_tokens, std::min<int64_t>(kRopeDim, max_columns)) +
         attention_.ScratchBytes(max_tokens);
}

Status VectorOps::ReserveScratch(int32_t max_tokens, int32_t max_columns) {
  TP_TRY(activations_.Reserve(ActivationScratch::ElementsFor(max_tokens, max_columns)));
  if (kernels_.bfloat != nullptr)
    TP_TRY(bfloats_.Reserve(BfloatScratch::ElementsFor(max_tokens, max_columns)));
  if (tiles_) TP_TRY(tiles_->Reserve(max_tokens, max_columns));
  rope_.Reserve(max_tokens, std::min<int64_t>(kRopeDim, max_columns));
  attention_.Reserve(max_tokens);
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
  // Runs of targets that are for tiles or not (F32 is not). Nearly always there is one.
  while (!targets.empty()) {
    const bool on_tiles = OnTiles(x, *targets.front().weight);
    size_t count = 1;
    while (count < targets.size() && OnTiles(x, *targets[count].weight) == on_tiles) ++count;
    LinearAll(x, targets.first(count), nullptr);
    targets = targets.subspan(count);
  }
}

void VectorOps::GatedLinear(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up,
                            Activation activation, Matrix scratch, Matrix out) {
  CHECK(gate.spec.rows == up.spec.rows);
  const LinearTarget targets[] = {{.weight = &gate, .out = out}, {.weight = &up, .out = scratch}};
  if (OnTiles(x, gate) == OnTiles(x, up)) return LinearAll(x, targets, &activation);
  Linear(x, targets);
  GatedActivation(activation, out, scratch, out);
}

// On tiles the inner matrix is never written as floats: each part is activated where it is multiplied, and
// goes into the tiles that down multiplies.
void VectorOps::FeedForward(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up,
                            Activation activation, const LinearTarget& down, Matrix scratch, Matrix inner) {
  const auto fits = [&](const PackedWeight& weight) {
    return OnTiles(x, weight) && TileLinear::LeavesSecondPlane(weight);
  };
  if (x.rows <= 0 || !fits(gate) || !fits(up) || !fits(*down.weight)) {
    return Ops::FeedForward(x, gate, up, activation, down, scratch, inner);
  }
  CHECK(gate.spec.rows == up.spec.rows && down.weight->spec.columns == gate.spec.rows);
  CHECK(gate.spec.columns == x.columns && up.spec.columns == x.columns);
  CHECK(down.out.columns == down.weight->spec.rows);
  const int64_t panels = PanelCount(gate.spec.rows);
  const int64_t pass_rows = tiles_->GatedPassRows(x.rows, x.columns, gate.spec.rows);
  const LinearTarget pair[] = {{.weight = &gate, .out = {}}, {.weight = &up, .out = {}}};
  const auto copies_of = [&](const PackedWeight& weight) {
    return copies_ == nullptr ? nullptr : copies_->DistancesOf(weight.data);
  };
  const std::ptrdiff_t *const gate_copies = copies_of(gate), *const up_copies = copies_of(up);
  const auto panels_of = [](const PackedWeight& weight, const std::ptrdiff_t* copies, int node) {
    return weight.data + (copies == nullptr ? 0 : copies[node]);
  };
  for (int64_t begin = 0; begin < x.rows; begin += pass_rows) {
    const int64_t end = std::min(x.rows, begin + pass_rows), rows = end - begin;
    tiles_->Convert(ConstMatrix(x.data + begin * x.stride, rows, x.columns, x.stride), pair);
    const int64_t row_block = std::min(rows, tiles_->row_block()), row_blocks = CeilDiv(rows, row_block);
    const int64_t wanted =
        std::max<int64_t>(1, tuning_.linear_chunks_per_thread / 2 * pool_.threads() / row_blocks);
    const int64_t block =
        std::clamp<int64_t>(CeilDiv(CeilDiv(panels, wanted), 2) * 2, 2, TileLinear::kPartPanels);
    const int64_t blocks = CeilDiv(panels, block);
    pool_.Run(blocks * row_blocks, [&](int64_t chunk, int thread) {
      const int node = copies_ == nullptr ? 0 : copies_->NodeOfThisThread();
      const int64_t row = chunk / blocks * row_block, panel = chunk % blocks * block;
      tiles_->MultiplyGated({&gate, &up, panels_of(gate, gate_copies, node), panels_of(up, up_copies, node),
                             kernels_.activate[KernelOf(activation)]},
                            {row, std::min(rows, row + row_block), panel, std::min(panels, panel + block)},
                            thread);
    });
    tiles_->TakeInner();
    Rounded rounded;
    rounded.on_tiles = true;
    LinearRows(inner, std::span(&down, 1), begin, end, rounded, nullptr);
  }
}

void VectorOps::LinearAll(ConstMatrix x, std::span<const LinearTarget> targets, const Activation* gated) {
  if (x.rows <= 0) return;
  Rounded rounded;
  rounded.on_tiles = OnTiles(x, *targets.front().weight);
  for (const LinearTarget& target : targets) {
    CHECK(target.weight->spec.columns == x.columns && target.out.columns == target.weight->spec.rows);
    if (rounded.on_tiles) continue;
    rounded.quantised |= IsQuantised(static_cast<PanelLayout>(target.weight->layout));
    rounded.bfloat |= OnBfloats(*target.weight);
  }
  int64_t pass_rows = rounded.on_tiles ? tiles_->PassRows(x.rows, x.columns) : x.rows;
  if (rounded.quantised) {
    if (activations_.capacity() < ActivationScratch::ElementsFor(x.rows, x.columns)) {
      CHECK(activations_.Reserve(ActivationScratch::ElementsFor(x.rows, x.columns)).has_value());
    }
    pass_rows = std::min(x.rows, activations_.capacity() / ActivationScratch::StrideFor(x.columns));
  }
  if (rounded.bfloat) {
    CHECK(bfloats_.Reserve(BfloatScratch::ElementsFor(x.rows, x.columns)).has_value());
    pass_rows = std::min(pass_rows, bfloats_.capacity() / BfloatScratch::StrideFor(x.columns));
  }
  for (int64_t begin = 0; begin < x.rows; begin += pass_rows) {
    const int64_t end = std::min(x.rows, begin + pass_rows);
    const ConstMatrix part(x.data + begin * x.stride, end - begin, x.columns, x.stride);
    if (rounded.on_tiles) tiles_->Convert(part, targets);
    if (rounded.bfloat) RoundToBfloat(part);
    if (rounded.quantised) {
      activations_.Begin(end - begin, x.columns, kernels_.tile_rows);
      QuantiseTask task = activations_.Task();
      task.x = part.data;
      task.x_stride = part.stride;
      Quantise(task, end - begin);
    }
    LinearRows(x, targets, begin, end, rounded, gated);
  }
}

// By whole tiles where there are many: rows of a tile share cache lines, which two threads must not write in
// turns. Few rows are cut by columns.
void VectorOps::Quantise(QuantiseTask task, int64_t rows) {
  const int64_t groups = task.columns / kGroup;
  task.row_begin = task.group_begin = 0;
  task.row_end = rows;
  task.group_end = groups;
  if (rows * task.columns < tuning_.inline_elements) return kernels_.quantise(task);
  const RowTiles tiles = kernels_.tile_rows > 0 ? task.tiles : RowTiles{rows, rows};
  const int64_t wanted = std::min(kRowChunksPerThread * pool_.threads(),
                                  CeilDiv(rows * task.columns, tuning_.inline_elements / 2));
  if (tiles.count >= wanted) {
    const int64_t step = CeilDiv(tiles.count, wanted);
    pool_.Run(CeilDiv(tiles.count, step), [&](int64_t chunk, int) {
      QuantiseTask part = task;
      part.row_begin = TileFirstRow(tiles, chunk * step);
      part.row_end = TileFirstRow(tiles, std::min(tiles.count, (chunk + 1) * step));
      kernels_.quantise(part);
    });
    return;
  }
  constexpr int64_t kLineGroups = 16;  // of scales of one row in a cache line
  const int64_t step = CeilDiv(CeilDiv(groups, wanted), kLineGroups) * kLineGroups;
  pool_.Run(CeilDiv(groups, step), [&](int64_t chunk, int) {
    QuantiseTask part = task;
    part.group_begin = chunk * step;
    part.group_end = std::min(groups, (chunk + 1) * step);
    kernels_.quantise(part);
  });
}

void VectorOps::RoundToBfloat(ConstMatrix x) {
  const int64_t stride = BfloatScratch::StrideFor(x.columns);
  ForRows(x.rows, x.columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      uint16_t* const to = bfloats_.data() + row * stride;
      kernels_.to_bfloat(x.data + row * x.stride, to, x.columns);
      if (x.columns % 2 != 0) to[x.columns] = 0;
    }
  });
}

void VectorOps::LinearRows(ConstMatrix x, std::span<const LinearTarget> targets, int64_t row_begin,
                           int64_t row_end, Rounded rounded, const Activation* gated) {
  const auto [quantised, bfloat, on_tiles] = rounded;
  const int64_t rows = row_end - row_begin;
  int64_t panels = 0;
  for (const LinearTarget& target : targets) panels += PanelCount(target.weight->spec.rows);
  // A block of rows small enough to stay in the second-level cache while the panels pass by.
  const int64_t row_bytes = (quantised ? 1 : bfloat ? 2 : 4) * x.columns;
  int64_t row_block = on_tiles
                          ? tiles_->row_block()
                          : std::clamp<int64_t>(tuning_.linear_row_block_bytes / row_bytes / 8 * 8, 32, 512);
  if (rows <= row_block) row_block = rows;
  const int64_t row_blocks = CeilDiv(rows, row_block);
  // Blocks are whole tiles.
  const bool tiled = kernels_.tile_rows > 0 && quantised;
  const RowTiles tiles = tiled ? activations_.tiles() : RowTiles{rows, rows};
  const int64_t tile_block = on_tiles ? row_block : CeilDiv(tiles.count, row_blocks);
  const bool alone = rows * panels * kPanelRows * x.columns < tuning_.inline_products;
  // Tiles read x again for each chunk, and are quick about the rest.
  const int64_t per_thread = std::max<int64_t>(1, tuning_.linear_chunks_per_thread / (on_tiles ? 2 : 1));
  const int64_t wanted = alone ? 1 : std::max<int64_t>(1, per_thread * pool_.threads() / row_blocks);
  // Pairs of gated targets are worked on side by side, so that their product finds both in the cache.
  const std::span<const LinearTarget> leaders = gated != nullptr ? targets.first(1) : targets;
  int64_t panel_block = std::max<int64_t>(1, CeilDiv(CeilDiv(panels, wanted), 4) * 4);
  int64_t panel_blocks = 0;
  for (const LinearTarget& target : leaders) {
    // Peaks are made of whole blocks.
    constexpr int64_t kPeakPanels = kPeakBlock / kPanelRows;
    if (target.peaks != nullptr) panel_block = CeilDiv(panel_block, kPeakPanels) * kPeakPanels;
  }
  if (gated != nullptr) panel_block = std::max<int64_t>(1, CeilDiv(panel_block / 2, 2) * 2);
  for (const LinearTarget& target : leaders)
    panel_blocks += CeilDiv(PanelCount(target.weight->spec.rows), panel_block);
  for (const LinearTarget& target : targets) {
    const auto layout = static_cast<PanelLayout>(target.weight->layout);
    if (quantised && IsQuantised(layout)) activations_.Derive(layout);
  }
  // Where the copies of each target's weights are, by node.
  std::array<const std::ptrdiff_t*, kMostCopiedTargets> distances{};
  if (copies_ != nullptr) {
    for (size_t i = 0; i < std::min(targets.size(), distances.size()); ++i)
      distances[i] = copies_->DistancesOf(targets[i].weight->data);
  }
  const auto weights_of = [&](const LinearTarget& target, int node) {
    const auto index = static_cast<size_t>(&target - targets.data());
    const bool copied = index < distances.size() && distances[index] != nullptr;
    return target.weight->data + (copied ? distances[index][node] : 0);
  };
  const auto task_of = [&](const LinearTarget& target, int64_t block, int64_t first_tile, int node) {
    const WeightSpec& spec = target.weight->spec;
    const auto layout = static_cast<PanelLayout>(target.weight->layout);
    LinearTask task{};
    task.fetch_level = tuning_.fetch_level;
    task.weight = weights_of(target, node);
    task.panel_bytes = PanelBytes(layout, spec.columns);
    task.codes_offset = CodesOffset(layout, spec.columns);
    task.panel_begin = block * panel_block;
    task.panel_end = std::min(PanelCount(spec.rows), task.panel_begin + panel_block);
    task.outputs = spec.rows;
    task.columns = spec.columns;
    task.tile_begin = std::min(tiles.count, first_tile);
    task.tile_end = std::min(tiles.count, first_tile + tile_block);
    task.row_begin = TileFirstRow(tiles, task.tile_begin);
    task.row_end = TileFirstRow(tiles, task.tile_end);
    task.x = x.data + row_begin * x.stride;
    task.x_stride = x.stride;
    if (quantised && IsQuantised(layout)) task.quantised = activations_.For(layout);
    if (bfloat) {
      task.bfloat = bfloats_.data();
      task.bfloat_stride = BfloatScratch::StrideFor(x.columns);
    }
    task.out = target.out.data + row_begin * target.out.stride;
    task.out_stride = target.out.stride;
    task.bias = target.bias;
    return task;
  };
  // The part of `to` that the task has written, as an operation of `a` and `b` on the same part.
  const auto part_of = [&](const LinearTask& task, ConstMatrix a, ConstMatrix b, Matrix to) {
    const int64_t column = task.panel_begin * kPanelRows;
    return ElementwiseTask{a.data + row_begin * a.stride + column,
                           a.stride,
                           b.data + row_begin * b.stride + column,
                           b.stride,
                           to.data + row_begin * to.stride + column,
                           to.stride,
                           task.row_begin,
                           task.row_end,
                           std::min(task.outputs, task.panel_end * kPanelRows) - column};
  };
  const auto multiply = [&](const LinearTarget& target, const LinearTask& task, int thread) {
    const auto layout = static_cast<PanelLayout>(target.weight->layout);
    if (on_tiles) return tiles_->Multiply(task, layout, thread);
    if (OnBfloats(*target.weight)) return kernels_.bfloat->linear(task);
    kernels_.linear[layout](task);
  };
  const int64_t chunks = panel_blocks * row_blocks;
  // The weights of a chunk: its target (the first of a gated pair) and panels.
  const auto place_of = [&](int64_t chunk) {
    int64_t block = chunk % panel_blocks;
    const LinearTarget* target = targets.data();
    for (;; ++target) {
      const int64_t blocks = CeilDiv(PanelCount(target->weight->spec.rows), panel_block);
      if (block < blocks) return std::pair(target, block);
      block -= blocks;
    }
  };
  const auto start_of = [&](const LinearTarget& target, int64_t block, int node) {
    const PackedWeight& weight = *target.weight;
    return weights_of(target, node) +
           static_cast<size_t>(block * panel_block) *
               PanelBytes(static_cast<PanelLayout>(weight.layout), weight.spec.columns);
  };
  // Where nothing but the residual is wanted of outputs on tiles, they are never written elsewhere.
  const bool in_parts = on_tiles && gated == nullptr;
  const auto add_parts = [&](const LinearTarget& target, const LinearTask& task, int node, int thread) {
    for (int64_t panel = task.panel_begin; panel < task.panel_end; panel += TileLinear::kPartPanels) {
      const int64_t panel_end = std::min(task.panel_end, panel + TileLinear::kPartPanels);
      const TileLinear::PartOutput out =
          tiles_->MultiplyPart(*target.weight, weights_of(target, node), target.bias,
                               {task.row_begin, task.row_end, panel, panel_end}, thread);
      float* const to =
          target.residual.data + (row_begin + task.row_begin) * target.residual.stride + panel * kPanelRows;
      kernels_.add({to, target.residual.stride, out.data, out.stride, to, target.residual.stride, 0, out.rows,
                    out.outputs});
    }
  };
  const auto body = [&](int64_t chunk, int thread) {
    const int node = copies_ == nullptr ? 0 : copies_->NodeOfThisThread();
    const auto [target, block] = place_of(chunk);
    const int64_t first_tile = chunk / panel_blocks * tile_block;
    const int64_t next_chunk = chunk + 1;
    const std::byte* next = nullptr;
    if (next_chunk < chunks) {
      const auto [next_target, next_block] = place_of(next_chunk);
      next = start_of(*next_target, next_block, node);
    }
    LinearTask task = task_of(*target, block, first_tile, node);
    if (in_parts && target->residual.data != nullptr && target->peaks == nullptr)
      return add_parts(*target, task, node, thread);
    task.after = gated != nullptr ? start_of(target[1], block, node) : next;
    multiply(*target, task, thread);
    if (gated != nullptr) {
      LinearTask second = task_of(target[1], block, first_tile, node);
      second.after = next;
      multiply(target[1], second, thread);
      kernels_.activate[KernelOf(*gated)](part_of(task, target->out, target[1].out, target->out));
    }
    if (target->residual.data != nullptr) {
      kernels_.add(part_of(task, target->residual, target->out, target->residual));
    }
    if (target->peaks != nullptr) {
      const int64_t peaks = PeaksOf(task.outputs);
      kernels_.peaks({task.out, task.out_stride, target->peaks + row_begin * peaks, peaks, task.row_begin,
                      task.row_end, task.panel_begin * kPanelRows,
                      std::min(task.outputs, task.panel_end * kPanelRows)});
    }
  };
  if (alone) {
    for (int64_t chunk = 0; chunk < chunks; ++chunk) body(chunk, 0);
  } else {
    pool_.Run(chunks, body);
  }
}

RopeTask RopeTaskOf(const RopeArgs& args, const RopeTables::Table& table, int64_t begin, int64_t end) {
  return {args.x.data,
          args.x.stride,
          begin,
          end,
          args.x.columns / args.head_dim,
          args.head_dim,
          args.rotary_dim / 2 * 2,
          args.pairing == RopePairing::kInterleaved,
          table.cosines + begin * table.width,
          table.sines + begin * table.width};
}

void VectorOps::RopeAndAppendKv(const RopeArgs& query, const RopeArgs& key, const KvAppendArgs& args) {
  CHECK(query.x.rows == key.x.rows && key.x.data == args.key.data &&
        query.positions.data() == key.positions.data());
  if (key.x.rows == 0 || key.rotary_dim < 2) return AppendKv(args);
  CHECK(static_cast<int64_t>(key.positions.size()) == key.x.rows && key.rotary_dim <= key.head_dim);
  const RopeTables::Table table = rope_.For(key);
  const TurnTask turn{RopeTaskOf(query, table, 0, 0), RopeTaskOf(key, table, 0, 0), table.width};
  attention_.AppendKv(args, &turn);
}

void VectorOps::Rope(const RopeArgs& args) {
  CHECK(static_cast<int64_t>(args.positions.size()) == args.x.rows && args.rotary_dim <= args.head_dim);
  if (args.x.rows == 0 || args.rotary_dim < 2) return;
  const RopeTables::Table table = rope_.For(args);
  ForRows(args.x.rows, args.x.columns,
          [&](int64_t begin, int64_t end) { kernels_.rope(RopeTaskOf(args, table, begin, end)); });
}

void VectorOps::Elementwise(void (*kernel)(const ElementwiseTask&), ConstMatrix a, const ConstMatrix* b,
                            Matrix out) {
  ForRows(a.rows, a.columns, [&](int64_t begin, int64_t end) {
    kernel({a.data, a.stride, b == nullptr ? nullptr : b->data, b == nullptr ? 0 : b->stride, out.data,
            out.stride, begin, end, a.columns});
  });
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
  static const KernelTable avx512bf16 = [] {
    KernelTable table = kAvx512VnniKernels;
    table.name = "avx512bf16";
    table.bfloat = &kAvx512Bf16Kernels;
    return table;
  }();
  for (const KernelTable* table :
       {&avx512bf16, &kAvx512VnniKernels, &kAvx512Kernels, &kAvxVnniKernels, &kAvx2Kernels}) {
    if (table->name == name) return table;
  }
  return nullptr;
}

}  // namespace

std::unique_ptr<CpuOps> MakeVectorOps(ThreadPool& pool, std::string_view instruction_set,
                                      bool deterministic) {
  // Every kernel keeps one order of additions. But a row that tiles multiply among many has other bits than
  // one that the vector kernels multiply among few.
  if (instruction_set == "amx") return MakeTileOps(pool, "avx512vnni", &kAmxTileKernels, deterministic);
  return MakeTileOps(pool, instruction_set, nullptr);
}

std::unique_ptr<CpuOps> MakeTileOps(ThreadPool& pool, std::string_view vector_set, const TileKernels* tiles,
                                    bool exact_only) {
  const KernelTable* kernels = FindKernels(vector_set);
  return kernels == nullptr ? nullptr : std::make_unique<VectorOps>(pool, *kernels, tiles, exact_only);
}

}  // namespace tidepool::chips::cpu
