// Scratch memory of the vector operations: rounded activations, rotary tables, attention buffers.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "chips/cpu/kernel_table.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// Activations rounded to int8, and the sums that formats with minimums or zeros need.
class ActivationScratch {
 public:
  // At most this many elements are rounded at a time (larger batches go in passes of rows), so that scratch
  // stays bounded; at least one row.
  static constexpr int64_t kMaxElements = int64_t{4} << 20;
  static int64_t ElementsFor(int64_t rows, int64_t columns);
  // Codes between rows: whole groups, and never a multiple of 512, since rows at the same place of a 4 KiB
  // page would push each other out of the first-level cache.
  static int64_t StrideFor(int64_t columns);
  size_t BytesFor(int64_t elements) const;
  Status Reserve(int64_t elements);
  int64_t capacity() const { return capacity_; }

  // Begins a new set of rows: nothing derived is valid any more.
  // `tile_rows`: rows of a tile at most; 0: not cut into tiles.
  void Begin(int64_t rows, int64_t columns, int tile_rows);
  const RowTiles& tiles() const { return tiles_; }
  QuantiseTask Task() const;
  // Makes what `layout` needs beside the codes, once a set of rows: before threads share it.
  void Derive(PanelLayout layout);
  // The rows as `layout` wants them, after Derive. Any thread.
  QuantisedRows For(PanelLayout layout) const;

 private:
  static constexpr int kOffsetKinds = 6;  // distinct zeros
  void DeriveSums(bool by16);
  void DeriveOffsets(int zero, bool by16);

  int64_t capacity_ = 0, rows_ = 0, columns_ = 0, stride_ = 0;
  RowTiles tiles_;
  DeviceBuffer buffer_;
  int8_t* codes_ = nullptr;
  float* scales_ = nullptr;
  int32_t* sums16_ = nullptr;
  std::array<float*, 2> sums_ = {};
  std::array<int32_t*, kOffsetKinds> offsets_ = {};
  std::array<bool, 2> sums_valid_ = {};
  std::array<bool, kOffsetKinds> offsets_valid_ = {};
};

// Activations rounded to bf16, for kernels that multiply them so.
class BfloatScratch {
 public:
  static constexpr int64_t kMaxElements = int64_t{4} << 20;  // as ActivationScratch's
  static int64_t ElementsFor(int64_t rows, int64_t columns);
  // Elements between rows: whole cache lines, and an odd number of them, so that neighbouring rows do not
  // push each other out of the first-level cache.
  static int64_t StrideFor(int64_t columns);
  static size_t BytesFor(int64_t elements) { return static_cast<size_t>(elements) * sizeof(uint16_t); }
  Status Reserve(int64_t elements);
  int64_t capacity() const { return capacity_; }
  uint16_t* data() const { return reinterpret_cast<uint16_t*>(buffer_.data()); }

 private:
  int64_t capacity_ = 0;
  DeviceBuffer buffer_;
};

// Cosines and sines of a step's positions. Every layer turns with the same ones (some families with two
// sets), so the last kEntries sets are kept and recognised by their contents.
class RopeTables {
 public:
  struct Table {
    const float* cosines;
    const float* sines;
    int64_t width;  // floats per row
  };
  static size_t BytesFor(int64_t rows, int64_t rotary_dim);
  void Reserve(int64_t rows, int64_t rotary_dim);
  Table For(const RopeArgs& args);

 private:
  static constexpr int kEntries = 2;
  struct Entry {
    std::vector<int32_t> positions;
    std::vector<float> frequencies;
    float amplitude = 0;
    RopePairing pairing = RopePairing::kHalfSplit;
    std::vector<float> cosines, sines;
    uint64_t used = 0;
  };
  static bool Matches(const Entry& entry, const RopeArgs& args);
  static void Fill(Entry& entry, const RopeArgs& args);
  std::array<Entry, kEntries> entries_;
  uint64_t uses_ = 0;
};

}  // namespace tidepool::chips::cpu
