// Linear for many rows over tile kernels: x is converted once for all weights, then multiplied part by part.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/result.h"
#include "chips/cpu/thread_pool.h"
#include "chips/cpu/tile_kernels.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// One engine thread, as the operations, but for what multiplies: that is called on any thread of the pool, by
// its number.
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

  // Rows of the converted x times panels of a weight.
  struct Part {
    int64_t row_begin, row_end;      // at most row_block(); row_begin is a multiple of 16
    int64_t panel_begin, panel_end;  // at most kPartPanels; panel_begin is even
  };
  static constexpr int64_t kPartPanels = 16;
  // What a thread keeps in its second-level cache: the outputs of a part, for what is done with them next.
  struct PartOutput {
    const float* data;  // the part's first row and output
    int64_t stride;
    int64_t rows, outputs;
  };
  // x W^T + bias of a part, until the thread's next part. `panels`: of panel 0.
  PartOutput MultiplyPart(const PackedWeight& weight, const std::byte* panels, const float* bias,
                          const Part& part, int thread) const;

  // Rows that FeedForward takes at a time.
  int64_t GatedPassRows(int64_t rows, int64_t columns, int64_t inner) {
    return std::min(PassRows(rows, columns), PassRows(rows, inner));
  }
  // Whether the second plane of x is free for the inner matrix: only where no weight wants it.
  static bool LeavesSecondPlane(const PackedWeight& weight) {
    return !TakesLowPlane(static_cast<PanelLayout>(weight.layout));
  }
  struct GatedPair {
    const PackedWeight* gate;
    const PackedWeight* up;
    const std::byte* gate_panels;  // of panel 0
    const std::byte* up_panels;
    void (*activate)(const ElementwiseTask&);
  };
  // activate(gate x) * (up x) of a part, to the second plane.
  void MultiplyGated(const GatedPair& pair, const Part& part, int thread) const;
  // What MultiplyGated has written is x from now on.
  void TakeInner() { high_ = second_plane(); }

  // out = x W^T + bias for a task whose row 0 is that of the converted x; row_begin is a multiple of 16.
  void Multiply(const LinearTask& task, PanelLayout layout, int thread) const;

  const TileKernels& kernels() const { return kernels_; }

 private:
  static constexpr int64_t kPartOutputs = kPartPanels * kPanelRows;
  static constexpr int64_t kPartFloats = kTileTaskRows * kPartOutputs;  // 256 KiB
  static constexpr size_t kThreadBytes = kTileScratchBytes + size_t{2} * kPartFloats * sizeof(float);

  uint16_t* second_plane() const { return reinterpret_cast<uint16_t*>(rows_.data()) + capacity_; }
  float* part_output_of(int thread) const {
    return reinterpret_cast<float*>(scratch_of(thread) + kTileScratchBytes);
  }
  PartOutput MultiplyTo(float* out, const PackedWeight& weight, const std::byte* panels, const float* bias,
                        const Part& part, int thread) const;
  std::byte* scratch_of(int thread) const {
    return scratch_.data() + static_cast<size_t>(thread) * kThreadBytes;
  }
  // Elements of one plane of converted rows; larger batches go in passes.
  static int64_t ElementsFor(int64_t rows, int64_t columns);
  Status ReserveElements(int64_t elements);

  ThreadPool& pool_;
  const TileKernels& kernels_;
  int64_t capacity_ = 0;  // elements of a plane
  DeviceBuffer rows_;     // high plane, low plane
  DeviceBuffer scratch_;  // kThreadBytes a thread: kTileScratchBytes, then the outputs of two parts
  const uint16_t* high_ = nullptr;
  const uint16_t* low_ = nullptr;
  int64_t row_block_ = 0;
};

}  // namespace tidepool::chips::cpu
