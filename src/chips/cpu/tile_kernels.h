// Kernels over matrix tiles (AMX): Linear for many rows, in bf16 with sums in float32.
//
// A tile is 16 rows of 64 bytes. One instruction adds to a tile of 16 rows of x by 16 outputs (float32) the
// products of a tile of 16 rows of x by 32 columns (bf16) and of a tile of 32 columns by 16 outputs. Plain
// structures only: see kernel_table.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "chips/cpu/kernel_table.h"

namespace tidepool::chips::cpu {

inline constexpr int kTileRows = 16;     // rows of x, and outputs, of a tile
inline constexpr int kTileColumns = 32;  // columns of x of a tile
inline constexpr int kTileElements = kTileRows * kTileColumns;
inline constexpr int kTileBytes = 1024;
static_assert(kTileRows == kPanelRows && kTileColumns == kGroup);

// A task multiplies so many columns of at most so many rows (1 MiB a plane) before the next ones, and of
// panels that are met more than once for it keeps the sums (512 KiB): all of it stays in a second-level cache
// of 2 MiB.
inline constexpr int kTileTaskRows = 256;
inline constexpr int kTileTaskPanels = 32;
inline constexpr int kTileChunkColumns = 2048;

// The shapes of the eight tile registers, as LDTILECFG reads them; entries beyond the eighth are zero.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Weights that bf16 (8 bits of precision) would round by more than the vector kernels round anything. x is
// then the sum of two bf16 planes (16 bits), and so is an f16 weight (11 bits, exactly).
constexpr bool TakesLowPlane(PanelLayout layout) { return layout == kPanelF16 || layout == kPanelBF16; }

constexpr int64_t TilesOf(int64_t columns) { return (columns + kTileColumns - 1) / kTileColumns; }

// Rows of x in the order of tiles: [rows / 16][columns / 32][16 rows][32 columns] bf16; zeros fill up both.
// Of some columns of rows that are longer, the tiles of `tile_step`.
struct TileConvertTask {
  const float* x;
  int64_t x_stride;
  int64_t rows, columns;
  int64_t tile_begin, tile_end;  // tiles of 16 rows
  uint16_t* high;                // bf16(x)
  uint16_t* low;                 // bf16(x - high); nullptr: not wanted
  int64_t tile_step;             // elements from 16 rows to the next
};

// Tiles of decoded weights: two panels of the columns that are decoded together, which are to stay in a
// first-level cache of 48 KiB; a tile is 1 KiB.
inline constexpr int kTileWeights = 32;

// Bytes of TileLinearTask::scratch: decoded weights, a tile at the edge of the output, biases of two panels,
// sums.
inline constexpr size_t kTileScratchBytes =
    size_t{kTileWeights + 1} * kTileBytes + size_t{2} * kPanelRows * sizeof(float) +
    size_t{kTileTaskRows} * kTileTaskPanels * kPanelRows * sizeof(float);

// Rows of x times panels: at most kTileTaskRows times kTileTaskPanels.
struct TileLinearTask {
  const std::byte* weight;  // panel 0
  size_t panel_bytes;
  size_t codes_offset;  // of the codes within a panel
  int64_t panel_begin, panel_end;
  int64_t outputs;  // rows of the weight: the last panel may be partial
  int64_t columns;
  int64_t row_begin, row_end;  // rows of x; row_begin is a multiple of 16
  const uint16_t* high;        // of row 0: as converted
  const uint16_t* low;         // only for layouts that take it
  float* out;                  // row 0
  int64_t out_stride;
  const float* bias;   // or nullptr
  std::byte* scratch;  // kTileScratchBytes, 64-byte aligned; of this thread
};

inline constexpr int kTileDepth = 64;  // bytes of a row of a tile: the depth of a product of bytes

inline constexpr int kTileSums = 3;  // of the products of high bytes, of high with low ones, of low ones

// What attend takes in AttentionTask::scratch, in floats. Of each number of 16 bits a tile of its high bytes
// and one of its low bytes: queries, keys and values of a split, weights of 16 rows. And twice the sums.
constexpr int64_t TileAttentionFloats(int64_t rows, int64_t key_dim, int64_t value_dim) {
  const int64_t depth = (key_dim + kTileDepth - 1) / kTileDepth, values = (value_dim + 15) / 16;
  const int64_t queries = (rows + kTileRows - 1) / kTileRows * depth * 2;
  const int64_t keys = kAttentionSplit / 16 * depth * 2;
  const int64_t split_values = kAttentionSplit / kTileDepth * values * 2;
  const int64_t weights = kAttentionSplit / kTileDepth * 2;
  return AttentionScratchFloats(rows, key_dim, value_dim) +
         (queries + keys + split_values + weights + 2 * kTileSums) * (kTileBytes / 4);
}

struct TileKernels {
  void (*convert)(const TileConvertTask&);
  void (*linear[kPanelLayouts])(const TileLinearTask&);  // nullptr: the layout has no tile kernel (F32)
  // Arithmetic probe: `rounds` times so many operations of int8 tiles from registers.
  int32_t (*probe_int8)(int64_t rounds);
  int64_t probe_int8_operations;
  // KernelTable::attend for KV of kI16, with the same bits, and faster from 16 rows on. Scratch:
  // TileAttentionFloats.
  void (*attend)(const AttentionTask&);
};

// The processor has AMX-TILE, AMX-INT8, AMX-BF16, AVX512-BF16, and the process may use tiles
// (ProcessorFeatures::amx).
extern const TileKernels kAmxTileKernels;

}  // namespace tidepool::chips::cpu
