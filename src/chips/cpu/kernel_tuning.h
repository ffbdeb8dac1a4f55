// Numbers that decide how work is cut up, never what is computed: any values give the same bits.
#pragma once

#include <cstdint>

namespace tidepool::chips::cpu {

// The defaults suit most machines; CalibrateCpu (device.h) measures which ones suit this one.
struct KernelTuning {
  // Rows of x that are multiplied with a run of weight panels before the next rows: what they take
  // should stay in the second-level cache while the panels pass by.
  int64_t linear_row_block_bytes = 384 * 1024;
  // Chunks of one operation for each thread. Few cost less; many even out the ends, and a disturbed core then
  // costs its share only.
  int64_t linear_chunks_per_thread = 8;
  // Work below these is done by the calling thread: waking others costs up to 10 us. Products of a
  // multiplication or of attention; elements of anything else.
  int64_t inline_products = 128 * 1024;
  int64_t inline_elements = 24 * 1024;
  // The cache that weights are fetched into ahead of being multiplied with few rows. 1: the first-level one.
  // 2: the second, for the one pass that few rows make over them, and for several where each has many lines
  // to fetch. 3: the second, for any number of passes, and so KV. 0: what is known to suit the processor
  // (ProcessorFeatures::fetch_level).
  int64_t fetch_level = 0;

  bool operator==(const KernelTuning&) const = default;
};

// The least and most that a number may be; what is read from a file is held to it.
inline constexpr KernelTuning kLeastTuning = {16 * 1024, 1, 1024, 1024, 0};
inline constexpr KernelTuning kMostTuning = {16 << 20, 256, int64_t{1} << 30, int64_t{1} << 30, 3};
constexpr bool IsSane(const KernelTuning& t) {
  const auto within = [&](int64_t KernelTuning::* field) {
    return t.*field >= kLeastTuning.*field && t.*field <= kMostTuning.*field;
  };
  return within(&KernelTuning::linear_row_block_bytes) && within(&KernelTuning::linear_chunks_per_thread) &&
         within(&KernelTuning::inline_products) && within(&KernelTuning::inline_elements) &&
         within(&KernelTuning::fetch_level);
}

}  // namespace tidepool::chips::cpu
