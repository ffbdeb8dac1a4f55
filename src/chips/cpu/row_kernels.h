// Loops over a whole row of logits, once for each instruction set. All sets give the same bits: lanes, the
// order of additions and the rounding of every operation are those written here (nothing is contracted).
//
// A row is seen in blocks of kRowBlock logits with their peaks (chips/device.h): entry l of block b is the
// largest of logits b * kRowBlock + l + i * kRowLanes. The blocks need not lie side by side, so that changing
// a few logits copies a few blocks.
//
// row_kernels_avx*.cc are compiled with their set's flags: plain structures only in here, and no inline
// function that the linker could keep in a form that a lesser processor cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::chips::cpu {

inline constexpr size_t kRowBlock = 1024, kRowLanes = 16;

struct RowView {
  const float* const* blocks;  // each kRowBlock logits, the last one what is left
  const float* peaks;          // kRowLanes a block
  size_t count;                // logits, at least one
};

struct RowKernels {
  const char* name;
  // lanes[l]: the largest of x[l + i * kRowLanes], -inf if there is none, +inf if one of them is not finite.
  void (*peaks)(const float* x, size_t count, float* lanes);
  // The same for numbers among which may be -inf and +inf, which count as what they are.
  void (*lane_maxima)(const float* x, size_t count, float* lanes);
  // out[i] = exp((x[i] - max) * inverse_temperature), max the largest: relative error below 3e-7, 0 below
  // exp(-87).
  void (*weights)(const float* x, size_t count, float max, float inverse_temperature, float* out);
  // sums[b]: these weights of block b added up, in double.
  void (*block_sums)(const RowView& row, float max, float inverse_temperature, double* sums);
  double (*sum)(const float* x, size_t count);
  // The same of those whose value is at least `floor`; their number is added to `found`.
  double (*sum_at_least)(const float* values, const float* weights, size_t count, float floor, size_t* found);
  // Ids, in ascending order, and values of all logits that are at least `floor`; their number. Both arrays
  // have room for kRowLanes more than there are logits.
  size_t (*at_least)(const RowView& row, float floor, int32_t* ids, float* values);
};

extern const RowKernels kBaselineRowKernels;
#if defined(__x86_64__)
extern const RowKernels kAvx2RowKernels, kAvx512RowKernels;
#endif

// What this processor can run, the best first; nullptr ends the list.
const RowKernels* const* RowKernelSets();

}  // namespace tidepool::chips::cpu
