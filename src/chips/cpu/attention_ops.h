// KV append and attention over a table of vector kernels: scratch, and the splitting of work over threads.
// All numbers are made in the kernels, in an order that does not depend on the splitting.
//
// Threads: one engine thread calls. A step within the reserved size allocates nothing, unless a head has more
// than 256 dimensions (or its rows exceed what a smaller head's would take): scratch then grows once.
#pragma once

#include <cstdint>
#include <vector>

#include "chips/cpu/kernel_table.h"
#include "chips/cpu/kernel_tuning.h"
#include "chips/cpu/thread_pool.h"
#include "chips/cpu/tile_kernels.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// Rope of queries and keys by tables that begin with row 0.
struct TurnTask {
  RopeTask query, key;
  int64_t table_width;
};

class AttentionOps {
 public:
  // `tiles`: of a processor with AMX, or nullptr.
  AttentionOps(ThreadPool& pool, const KernelTable& kernels, const TileKernels* tiles)
      : pool_(pool), kernels_(kernels), tiles_(tiles) {}

  void SetTuning(const KernelTuning& tuning) { tuning_ = tuning; }
  size_t ScratchBytes(int32_t max_tokens) const;
  void Reserve(int32_t max_tokens);

  // `turn`, or nullptr: what is done with a row of queries and keys before its key is appended. Of all rows.
  void AppendKv(const KvAppendArgs& args, const TurnTask* turn);
  void Attention(const AttentionArgs& args);

 private:
  // Tiles of query rows for each (sequence, KV head).
  struct Plan {
    int64_t tile_rows = 0;
    int64_t items = 0;  // over all sequences: KV heads x tiles
  };

  void AppendToken(const KvAppendArgs& args, const SequenceSlice& sequence, int64_t i) const;
  void AppendIntegers(const KvLayout& kv, const float* key, const float* value, int64_t slot, std::byte* keys,
                      std::byte* values) const;
  Plan MakePlan(const AttentionArgs& args);
  AttentionTask TaskOf(const AttentionArgs& args, const Plan& plan, int64_t item) const;
  void EnsureScratch(int64_t floats);
  // Floats that Attend takes for tasks of `rows`.
  int64_t ScratchFloats(int64_t rows, int64_t key_dim, int64_t value_dim) const;
  int64_t ReservedFloats() const;
  void Attend(const AttentionTask& task) const;
  bool AttendInSplits(const AttentionArgs& args, const Plan& plan);
  bool Decodes(const AttentionArgs& args) const;
  void AttendDecode(const AttentionArgs& args, const Plan& plan);
  int64_t PlacePartials(const AttentionArgs& args, const Plan& plan);
  void MergePartials(const AttentionArgs& args, const Plan& plan);

  ThreadPool& pool_;
  const KernelTable& kernels_;
  const TileKernels* tiles_;
  KernelTuning tuning_;
  std::vector<std::vector<float>> scratch_;             // one for each thread
  std::vector<int64_t> first_items_;                    // of each sequence
  std::vector<int64_t> first_chunks_, first_partials_;  // of each item
  std::vector<float> partials_;
};

}  // namespace tidepool::chips::cpu
