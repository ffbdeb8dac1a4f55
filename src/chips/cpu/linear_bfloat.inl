// y = x W^T for bf16 panels on processors with dot products of bf16 pairs (AVX512_BF16), x rounded to bf16 beforehand.
//
// What bounds it: one instruction adds two products to each of 16 float32 sums, and an AMD Zen 5 starts as many of
// them as float32 multiply-adds, which add one. (An Intel processor is slower at it than at float32: see
// ProcessorFeatures.) A panel is [column][16 rows], so that 64 bytes are two columns; one permutation makes them 16
// pairs, shared by all rows of x. With 2 panels x 12 rows there are 24 chains of sums, and 14 loads and 2 permutations
// to 24 dot instructions. Few rows wait for memory: more panels at once hide the latency of the chains.
//
// An output's additions are the same whatever the tile: pairs of columns in order, an odd column with a zero.

constexpr int kBfloatRows = 12;
constexpr int kBfloatFewRows = 4;  // at most, for 4 panels at once

TP_INLINE Floats DotBfloats(Floats sum, Ints a, Ints b) {
  // For the builtin some compilers copy the sum: see DotPairs.
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// (column 0: 16 rows, column 1: 16 rows) as 16 pairs of columns.
TP_INLINE Ints ColumnPairs(Ints order, Ints columns) { return _mm512_permutexvar_epi16(order, columns); }

TP_INLINE Ints PairOrder() {
  const __m512i row = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_or_si512(row, _mm512_slli_epi32(_mm512_add_epi32(row, _mm512_set1_epi32(kPanelRows)), 16));
}

// What is fetched while kPanels panels are read: bytes from each to the panel that will be read in its place, or 0.
// Where several tiles of rows pass over the panels, the first two passes share this: one alone would wait for memory,
// and the other leave it idle.
struct Ahead {
  int64_t bytes[4];
};

// kRows rows of x times kPanels panels, over all columns.
template <int kPanels, int kRows>
static void BfloatTile(const LinearTask& task, int64_t first_panel, int64_t first_row, const Ahead& ahead) {
  constexpr int64_t kPairBytes = 2 * kPanelRows * 2;
  const int64_t pairs = task.columns / 2;
  const Ints order = PairOrder();
  const std::byte* weight[kPanels];
  const uint16_t* x[kRows];
  Floats sum[kPanels][kRows];
  for (int p = 0; p < kPanels; ++p) weight[p] = task.weight + static_cast<size_t>(first_panel + p) * task.panel_bytes;
  for (int m = 0; m < kRows; ++m) {
    x[m] = task.bfloat + (first_row + m) * task.bfloat_stride;
    for (int p = 0; p < kPanels; ++p) sum[p][m] = Zero();
  }
#pragma GCC unroll 4
  for (int64_t k = 0; k < pairs; ++k) {
    Ints w[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const std::byte* const from = weight[p] + k * kPairBytes;
      w[p] = ColumnPairs(order, LoadInts(from));
      _mm_prefetch(reinterpret_cast<const char*>(from + ahead.bytes[p]), _MM_HINT_T0);
    }
    for (int m = 0; m < kRows; ++m) {
      const Ints pair = BroadcastInt(x[m] + 2 * k);
      for (int p = 0; p < kPanels; ++p) sum[p][m] = DotBfloats(sum[p][m], w[p], pair);
    }
  }
  if (task.columns % 2 != 0) {  // x has a zero there, but what follows the weights may be NaN
    for (int p = 0; p < kPanels; ++p) {
      const auto* const from = reinterpret_cast<const __m256i*>(weight[p] + pairs * kPairBytes);
      const Ints w = ColumnPairs(order, _mm512_zextsi256_si512(_mm256_loadu_si256(from)));
      for (int m = 0; m < kRows; ++m) sum[p][m] = DotBfloats(sum[p][m], w, BroadcastInt(x[m] + 2 * pairs));
    }
  }
  for (int p = 0; p < kPanels; ++p) {
    const int64_t output = (first_panel + p) * kPanelRows;
    const int64_t left = task.outputs - output;
    for (int m = 0; m < kRows; ++m) {
      Floats y = sum[p][m];
      if (task.bias != nullptr) y = Add(y, LoadFirst(task.bias + output, left));
      StoreFirst(task.out + (first_row + m) * task.out_stride + output, y, left);
    }
  }
}

template <int kPanels>
static void BfloatRows(const LinearTask& task, int64_t panel, int64_t row, int64_t count, const Ahead& ahead) {
  if constexpr (kPanels <= 2) {
    switch (count) {
      case 12: return BfloatTile<kPanels, 12>(task, panel, row, ahead);
      case 11: return BfloatTile<kPanels, 11>(task, panel, row, ahead);
      case 10: return BfloatTile<kPanels, 10>(task, panel, row, ahead);
      case 9: return BfloatTile<kPanels, 9>(task, panel, row, ahead);
      case 8: return BfloatTile<kPanels, 8>(task, panel, row, ahead);
      case 7: return BfloatTile<kPanels, 7>(task, panel, row, ahead);
      case 6: return BfloatTile<kPanels, 6>(task, panel, row, ahead);
      case 5: return BfloatTile<kPanels, 5>(task, panel, row, ahead);
      default: break;
    }
  }
  switch (count) {
    case 4: return BfloatTile<kPanels, 4>(task, panel, row, ahead);
    case 3: return BfloatTile<kPanels, 3>(task, panel, row, ahead);
    case 2: return BfloatTile<kPanels, 2>(task, panel, row, ahead);
    default: return BfloatTile<kPanels, 1>(task, panel, row, ahead);
  }
}

// Panels from `panel` on, kPanels at once, as far as there are so many; the first of the rest.
template <int kPanels>
static int64_t BfloatPanels(const LinearTask& task, int64_t panel) {
  const int64_t rows = task.row_end - task.row_begin;
  const RowTiles tiles = {rows, (rows + kBfloatRows - 1) / kBfloatRows};  // of nearly the same height
  for (; panel + kPanels <= task.panel_end; panel += kPanels) {
    const bool more = panel + 2 * kPanels <= task.panel_end;
    const int64_t next = more ? kPanels * static_cast<int64_t>(task.panel_bytes) : 0;
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      Ahead ahead;
      for (int p = 0; p < 4; ++p) ahead.bytes[p] = tiles.count == 1 || tile == p % 2 ? next : 0;
      const int64_t row = TileFirstRow(tiles, tile);
      BfloatRows<kPanels>(task, panel, task.row_begin + row, TileFirstRow(tiles, tile + 1) - row, ahead);
    }
  }
  return panel;
}

static void LinearBfloat(const LinearTask& task) {
  int64_t panel = task.panel_begin;
  if (task.row_end - task.row_begin <= kBfloatFewRows) panel = BfloatPanels<4>(task, panel);
  panel = BfloatPanels<2>(task, panel);
  BfloatPanels<1>(task, panel);
}

constexpr int kBfloatProbeChains = 24;  // as the largest tile has
constexpr int64_t kBfloatProbeOperations = int64_t{kBfloatProbeChains} * 16 * 2 * 2;

static float ProbeBfloat(int64_t rounds) {
  const Ints pairs = Set16(0x3f80);  // ones
  Floats sum[kBfloatProbeChains];
  for (Floats& one : sum) one = Zero();
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 24
    for (int i = 0; i < kBfloatProbeChains; ++i) sum[i] = DotBfloats(sum[i], pairs, pairs);
  }
  Floats total = Zero();
  for (const Floats& one : sum) total = Add(total, one);
  return _mm512_cvtss_f32(total);
}
