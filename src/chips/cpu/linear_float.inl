// y = x W^T for float panels ([column][16 rows] as f32, f16 or bf16), activations in float32. Columns are
// taken in blocks of kFloatBlock: a block's products are added one after the other, then the blocks' sums in
// order.

constexpr int64_t kFloatBlock =
    256;  // 16 KiB of f32 panel: stays in the first-level cache over the rows of x

template <PanelLayout kLayout>
TP_INLINE Floats LoadWeight(const std::byte* p) {
  if constexpr (kLayout == kPanelF32) return Load(reinterpret_cast<const float*>(p));
  if constexpr (kLayout == kPanelF16) return LoadHalf(p);
  return LoadBfloat(p);
}

// A block of columns of all rows of a task, copied together: rows of x are often a multiple of 4 KiB apart,
// and would push each other out of the first-level cache.
constexpr int64_t kFloatTileRows = 64;
constexpr int64_t kFloatTileStride = kFloatBlock + 16;
struct FloatTile {
  const float* x;  // the row `row` at x + (row - first_row) * stride, column `begin` first
  int64_t stride, first_row, end_row;
};

// kRows rows of x times kPanels panels, columns [begin, end).
template <PanelLayout kLayout, int kRows, int kPanels>
static void FloatBlock(const LinearTask& task, const FloatTile& tile, int64_t first_panel, int64_t row,
                       int64_t begin, int64_t end) {
  constexpr int64_t kElement = kLayout == kPanelF32 ? 4 : 2;
  constexpr int kVectors = kPanels * kFloatVectors;
  const std::byte* weight[kPanels];
  const float* x[kRows];
  Floats sum[kRows][kVectors];
  for (int p = 0; p < kPanels; ++p) {
    weight[p] =
        task.weight + static_cast<size_t>(first_panel + p) * task.panel_bytes + begin * kPanelRows * kElement;
  }
  for (int m = 0; m < kRows; ++m) {
    x[m] = tile.x + (row + m - tile.first_row) * tile.stride;
    for (int v = 0; v < kVectors; ++v) sum[m][v] = Zero();
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < end - begin; ++k) {
    Floats w[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      w[v] = LoadWeight<kLayout>(weight[v / kFloatVectors] +
                                 (k * kPanelRows + v % kFloatVectors * kLanes) * kElement);
    }
    for (int m = 0; m < kRows; ++m) {
      const Floats broadcast = Set1(x[m][k]);
      for (int v = 0; v < kVectors; ++v) sum[m][v] = Fma(broadcast, w[v], sum[m][v]);
    }
  }
  // Unrolled, or the sums would go through memory.
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    const int64_t output = first_panel * kPanelRows + v * kLanes;
    const int64_t left = task.outputs - output;
    if (left <= 0) break;
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      float* out = task.out + (row + m) * task.out_stride + output;
      if (begin > 0) sum[m][v] = Add(LoadFirst(out, left), sum[m][v]);
      if (end == task.columns && task.bias != nullptr)
        sum[m][v] = Add(sum[m][v], LoadFirst(task.bias + output, left));
      StoreFirst(out, sum[m][v], left);
    }
  }
}

template <PanelLayout kLayout, int kPanels>
static void FloatRows(const LinearTask& task, const FloatTile& tile, int64_t panel, int64_t begin,
                      int64_t end) {
  int64_t row = tile.first_row;
  if constexpr (kPanels <= kFloatPanels) {
    for (; row + kFloatRows <= tile.end_row; row += kFloatRows) {
      FloatBlock<kLayout, kFloatRows, kPanels>(task, tile, panel, row, begin, end);
    }
    if constexpr (kFloatRows > 4) {
      if (row + 4 <= tile.end_row)
        FloatBlock<kLayout, 4, kPanels>(task, tile, panel, row, begin, end), row += 4;
    }
  }
  for (; row + 2 <= tile.end_row; row += 2)
    FloatBlock<kLayout, 2, kPanels>(task, tile, panel, row, begin, end);
  if (row < tile.end_row) FloatBlock<kLayout, 1, kPanels>(task, tile, panel, row, begin, end);
}

template <PanelLayout kLayout, int kPanels>
static int64_t FloatPanels(const LinearTask& task, const FloatTile& tile, int64_t panel, int64_t begin,
                           int64_t end) {
  for (; panel + kPanels <= task.panel_end; panel += kPanels) {
    FloatRows<kLayout, kPanels>(task, tile, panel, begin, end);
  }
  return panel;
}

// Few rows: panel after panel, so that the weights stream.
template <PanelLayout kLayout, int kPanels>
static int64_t FloatFewRows(const LinearTask& task, int64_t panel) {
  for (; panel + kPanels <= task.panel_end; panel += kPanels) {
    for (int64_t k = 0; k < task.columns; k += kFloatBlock) {
      const int64_t end = k + kFloatBlock < task.columns ? k + kFloatBlock : task.columns;
      const FloatTile tile = {task.x + task.row_begin * task.x_stride + k, task.x_stride, task.row_begin,
                              task.row_end};
      FloatRows<kLayout, kPanels>(task, tile, panel, k, end);
    }
  }
  return panel;
}

template <PanelLayout kLayout>
static void LinearFloat(const LinearTask& task) {
  // Every vector of sums is one chain of additions; several panels at once hide the latency where rows are
  // few, and halve the loads of x where they are many.
  const int64_t rows = task.row_end - task.row_begin;
  if (rows <= 8) {
    constexpr int kFewPanels = 4 / kFloatVectors;
    int64_t panel = task.panel_begin;
    if (rows <= 3) panel = FloatFewRows<kLayout, kFewPanels>(task, panel);
    if constexpr (kFloatPanels > 1) panel = FloatFewRows<kLayout, kFloatPanels>(task, panel);
    FloatFewRows<kLayout, 1>(task, panel);
    return;
  }
  alignas(64) float copy[kFloatTileRows * kFloatTileStride];
  for (int64_t row = task.row_begin; row < task.row_end; row += kFloatTileRows) {
    const int64_t row_end = row + kFloatTileRows < task.row_end ? row + kFloatTileRows : task.row_end;
    for (int64_t k = 0; k < task.columns; k += kFloatBlock) {
      const int64_t end = k + kFloatBlock < task.columns ? k + kFloatBlock : task.columns;
      for (int64_t r = row; r < row_end; ++r) {
        __builtin_memcpy(copy + (r - row) * kFloatTileStride, task.x + r * task.x_stride + k,
                         static_cast<size_t>(end - k) * sizeof(float));
      }
      const FloatTile tile = {copy, kFloatTileStride, row, row_end};
      int64_t panel = task.panel_begin;
      if constexpr (kFloatPanels > 1) panel = FloatPanels<kLayout, kFloatPanels>(task, tile, panel, k, end);
      FloatPanels<kLayout, 1>(task, tile, panel, k, end);
    }
  }
}
