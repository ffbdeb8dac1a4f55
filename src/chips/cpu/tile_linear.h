// Linear for many rows over tile kernels: x is converted once for all weights, then multiplied part by part.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "chips/cpu/thread_pool.h"
#include "chips/cpu/tile_kernels.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// One engine thread, as the operations, but for Multiply.
class TileLinear {
 public:
  // Fewer rows are faster on the vector kernels: with 16 they made 790 GOPS (Q4_0, two threads of a Granite
  // Rapids) and tiles 700, with 24 they made 872 and tiles 916.
  static constexpr int64_t kLeastRows = 24;

  TileLinear(ThreadPool& pool, const TileKernels& kernels) : pool_(pool), kernels_(kernels) {}

  // Whether x of `rows` rows times this weight is for tiles.
  bool Takes(int64_t rows, const PackedWeight& weight) const {
    return rows >= kLeastRows && kernels_.linear[weight.layout] != nullptr;
  }

  size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const;
  // For steps of at most this size; larger ones grow the scratch.
  Status Reserve(int32_t max_tokens, int32_t max_columns);

  // Rows that are converted at a time: all of them, or as many as the scratch holds. Grows the scratch.
  int64_t PassRows(int64_t rows, int64_t columns);
  // Converts x, at most PassRows of it, for all `targets`, which it takes.
  void Convert(ConstMatrix x, std::span<const LinearTarget> targets);
  // Rows of the converted x that should be multiplied together; a multiple of 16.
  int64_t row_block() const { return row_block_; }
  // out = x W^T + bias for a task whose row 0 is that of the converted x; row_begin is a multiple of 16. Any
  // thread of the pool.
  void Multiply(const LinearTask& task, PanelLayout layout, int thread) const;

  const TileKernels& kernels() const { return kernels_; }

 private:
  // Elements of one plane of converted rows; larger batches go in passes.
  static int64_t ElementsFor(int64_t rows, int64_t columns);
  Status ReserveElements(int64_t elements);

  ThreadPool& pool_;
  const TileKernels& kernels_;
  int64_t capacity_ = 0;  // elements of a plane
  DeviceBuffer rows_;     // high plane, low plane
  DeviceBuffer scratch_;  // kTileScratchBytes a thread
  const uint16_t* high_ = nullptr;
  const uint16_t* low_ = nullptr;
  int64_t row_block_ = 0;
};

}  // namespace tidepool::chips::cpu
