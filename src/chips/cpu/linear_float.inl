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

// kRows rows of x times kPanels panels, columns [begin, end).
template <PanelLayout kLayout, int kRows, int kPanels>
static void FloatBlock(const LinearTask& task, int64_t first_panel, int64_t row, int64_t begin, int64_t end) {
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
    x[m] = task.x + (row + m) * task.x_stride + begin;
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
  for (int v = 0; v < kVectors; ++v) {
    const int64_t output = first_panel * kPanelRows + v * kLanes;
    const int64_t left = task.outputs - output;
    if (left <= 0) break;
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
static void FloatRows(const LinearTask& task, int64_t panel, int64_t begin, int64_t end) {
  int64_t row = task.row_begin;
  if constexpr (kPanels == 1) {
    for (; row + kFloatRows <= task.row_end; row += kFloatRows) {
      FloatBlock<kLayout, kFloatRows, 1>(task, panel, row, begin, end);
    }
    if constexpr (kFloatRows > 4) {
      if (row + 4 <= task.row_end) FloatBlock<kLayout, 4, 1>(task, panel, row, begin, end), row += 4;
    }
  }
  for (; row + 2 <= task.row_end; row += 2) FloatBlock<kLayout, 2, kPanels>(task, panel, row, begin, end);
  if (row < task.row_end) FloatBlock<kLayout, 1, kPanels>(task, panel, row, begin, end);
}

template <PanelLayout kLayout>
static void LinearFloat(const LinearTask& task) {
  // A single row has one chain of additions per vector; several panels at once hide the latency.
  constexpr int kWidePanels = 4 / kFloatVectors;
  int64_t panel = task.panel_begin;
  if (task.row_end - task.row_begin <= 3) {
    for (; panel + kWidePanels <= task.panel_end; panel += kWidePanels) {
      for (int64_t k = 0; k < task.columns; k += kFloatBlock) {
        FloatRows<kLayout, kWidePanels>(task, panel, k,
                                        k + kFloatBlock < task.columns ? k + kFloatBlock : task.columns);
      }
    }
  }
  for (; panel < task.panel_end; ++panel) {
    for (int64_t k = 0; k < task.columns; k += kFloatBlock) {
      FloatRows<kLayout, 1>(task, panel, k, k + kFloatBlock < task.columns ? k + kFloatBlock : task.columns);
    }
  }
}
