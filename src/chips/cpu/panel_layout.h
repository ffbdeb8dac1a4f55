// The packed layout of weights for the vector kernels: panels of 16 output rows, interleaved so that a vector
// lane is an output row and no sum ever crosses lanes.
//
// Float panels: [column][16 rows] as f32, f16 or bf16. The last panel is filled with zero rows.
//
// Quantised panels: first the scales of all groups of 32 columns (rounded up to 64 bytes), then the codes of
// all groups. A group's codes are 8 vectors of 64 bytes; byte 4 r + b of vector j is row r, column 4 j + b:
// the order that dot-product instructions of 4 bytes want. They are kept in planes:
//   nibbles   4 vectors: the low nibble of vector i is code vector i, the high one code vector i + 4
//   two bits  2 vectors: bits 2 f, 2 f + 1 of vector i are code vector 2 f + i
//   one bit   1 vector: bit j belongs to code vector j
//   bytes     8 vectors
// Scales: f16 or bf16 [16] a group, then f16 minimums [16] if any; K types: for each super-block of 256
// columns f16 factors [16], f16 minimum factors [16] if any, then for each group (and each half of it, where
// scales are by 16 columns) int8 [16] and uint8 minimums [16] if any.
#pragma once

#include <cstddef>
#include <cstdint>

#include "chips/cpu/kernel_table.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// The layout of a weight; types without one of their own, and kFloat32, become f32 panels.
PanelLayout LayoutOf(const WeightSpec& spec);

inline int64_t PanelCount(int64_t rows) { return (rows + kPanelRows - 1) / kPanelRows; }
// Where the codes begin in a panel (0 for float panels), and the bytes of a panel, a multiple of 64.
size_t CodesOffset(PanelLayout layout, int64_t columns);
size_t PanelBytes(PanelLayout layout, int64_t columns);

// Packs panel `panel` from the file's rows.
void PackPanel(const WeightSpec& spec, PanelLayout layout, const std::byte* source, int64_t panel,
               std::byte* destination);

// Decodes one row: the same floats as DequantiseRow of the source row.
void DecodePanelRow(PanelLayout layout, int64_t columns, const std::byte* weight, int64_t row, float* out);

}  // namespace tidepool::chips::cpu
