#include "chips/cpu/tile_linear.h"

#include <algorithm>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/panel_layout.h"

namespace tidepool::chips::cpu {
namespace {

constexpr int64_t kMostElements = int64_t{4} << 20;  // 8 MiB a plane
// Work below this (about 10 us of one core) is not worth waking others for.
constexpr int64_t kTileInlineElements = 64 * 1024;

int64_t PaddedColumns(int64_t columns) { return TilesOf(columns) * kTileColumns; }

}  // namespace

int64_t TileLinear::ElementsFor(int64_t rows, int64_t columns) {
  const int64_t tile_row = kTileRows * PaddedColumns(columns);
  return std::max(tile_row, std::min(CeilDiv(rows, kTileRows) * tile_row, kMostElements));
}

size_t TileLinear::ScratchBytes(int32_t max_tokens, int32_t max_columns) const {
  return static_cast<size_t>(ElementsFor(max_tokens, max_columns)) * 2 * sizeof(uint16_t) +
         static_cast<size_t>(pool_.threads()) * kThreadBytes;
}

Status TileLinear::Reserve(int32_t max_tokens, int32_t max_columns) {
  return ReserveElements(ElementsFor(max_tokens, max_columns));
}

Status TileLinear::ReserveElements(int64_t elements) {
  if (scratch_.data() == nullptr) {
    TP_ASSIGN(scratch_, AllocateHostMemory(static_cast<size_t>(pool_.threads()) * kThreadBytes));
  }
  if (elements > capacity_) {
    TP_ASSIGN(rows_, AllocateHostMemory(static_cast<size_t>(elements) * 2 * sizeof(uint16_t)));
    capacity_ = elements;
  }
  return {};
}

int64_t TileLinear::PassRows(int64_t rows, int64_t columns) {
  CHECK(ReserveElements(ElementsFor(rows, columns)).has_value());
  return std::min(rows, capacity_ / PaddedColumns(columns) / kTileRows * kTileRows);
}

void TileLinear::Convert(ConstMatrix x, std::span<const LinearTarget> targets) {
  bool low = false;
  for (const LinearTarget& target : targets) {
    low |= TakesLowPlane(static_cast<PanelLayout>(target.weight->layout));
  }
  auto* const high_rows = reinterpret_cast<uint16_t*>(rows_.data());
  uint16_t* const low_rows = low ? second_plane() : nullptr;
  high_ = high_rows;
  low_ = low_rows;
  // Two planes of x: half the rows take the same place in the cache.
  row_block_ = low ? kTileTaskRows / 2 : kTileTaskRows;
  const int64_t tiles = CeilDiv(x.rows, kTileRows);
  CHECK(tiles * kTileRows * PaddedColumns(x.columns) <= capacity_);
  const auto convert = [&](int64_t begin, int64_t end) {
    kernels_.convert({x.data, x.stride, x.rows, x.columns, begin, end, high_rows, low_rows,
                      TilesOf(x.columns) * kTileElements});
  };
  if (x.rows * x.columns < kTileInlineElements) {
    convert(0, tiles);
  } else {
    pool_.Run(tiles, [&](int64_t tile, int) { convert(tile, tile + 1); });
  }
}

void TileLinear::Multiply(const LinearTask& task, PanelLayout layout, int thread) const {
  TileLinearTask part{};
  part.weight = task.weight;
  part.panel_bytes = task.panel_bytes;
  part.codes_offset = task.codes_offset;
  part.outputs = task.outputs;
  part.columns = task.columns;
  part.high = high_;
  part.low = low_;
  part.out = task.out;
  part.out_stride = task.out_stride;
  part.bias = task.bias;
  part.scratch = scratch_of(thread);
  for (int64_t row = task.row_begin; row < task.row_end; row = part.row_end) {
    part.row_begin = row;
    part.row_end = std::min(task.row_end, row + kTileTaskRows);
    for (int64_t panel = task.panel_begin; panel < task.panel_end; panel = part.panel_end) {
      part.panel_begin = panel;
      part.panel_end = std::min(task.panel_end, panel + kTileTaskPanels);
      kernels_.linear[layout](part);
    }
  }
}

TileLinear::PartOutput TileLinear::MultiplyTo(float* out, const PackedWeight& weight, const std::byte* panels,
                                              const float* bias, const Part& part, int thread) const {
  const auto layout = static_cast<PanelLayout>(weight.layout);
  const int64_t first = part.panel_begin * kPanelRows;
  TileLinearTask task{};
  task.panel_bytes = PanelBytes(layout, weight.spec.columns);
  task.weight = panels + static_cast<size_t>(part.panel_begin) * task.panel_bytes;
  task.codes_offset = CodesOffset(layout, weight.spec.columns);
  task.panel_end = part.panel_end - part.panel_begin;
  task.outputs = std::min(weight.spec.rows, part.panel_end * kPanelRows) - first;
  task.columns = weight.spec.columns;
  task.row_end = part.row_end - part.row_begin;
  const int64_t skipped = part.row_begin / kTileRows * TilesOf(task.columns) * kTileElements;
  task.high = high_ + skipped;
  task.low = low_ == nullptr ? nullptr : low_ + skipped;
  task.out = out;
  task.out_stride = kPartOutputs;
  task.bias = bias == nullptr ? nullptr : bias + first;
  task.scratch = scratch_of(thread);
  kernels_.linear[layout](task);
  return {out, kPartOutputs, task.row_end, task.outputs};
}

TileLinear::PartOutput TileLinear::MultiplyPart(const PackedWeight& weight, const std::byte* panels,
                                                const float* bias, const Part& part, int thread) const {
  return MultiplyTo(part_output_of(thread), weight, panels, bias, part, thread);
}

void TileLinear::MultiplyGated(const GatedPair& pair, const Part& part, int thread) const {
  float* const gate = part_output_of(thread);
  MultiplyTo(gate, *pair.gate, pair.gate_panels, nullptr, part, thread);
  const PartOutput up = MultiplyTo(gate + kPartFloats, *pair.up, pair.up_panels, nullptr, part, thread);
  pair.activate({gate, up.stride, up.data, up.stride, gate, up.stride, 0, up.rows, up.outputs});
  const int64_t step = TilesOf(pair.gate->spec.rows) * kTileElements;
  uint16_t* const to = second_plane() + part.row_begin / kTileRows * step +
                       part.panel_begin * kPanelRows / kTileColumns * kTileElements;
  kernels_.convert({gate, up.stride, up.rows, up.outputs, 0, CeilDiv(up.rows, kTileRows), to, nullptr, step});
}

}  // namespace tidepool::chips::cpu
