// What the CPU device asks of an instruction set's backend, beside the operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "chips/cpu/kernel_tuning.h"
#include "chips/cpu/thread_pool.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// Device::PackingVersion of the CPU. To be raised with every change of panel_layout (or of a backend's own
// layout) that gives other bytes for the same weight.
inline constexpr uint32_t kPackingVersion = 1;

inline int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class NodeCopies;

class CpuOps : public Ops {
 public:
  // The spec has been checked: rows and columns positive, a known type, whole blocks, no overflow.
  virtual size_t PackedBytes(const WeightSpec& spec) const = 0;
  virtual PackedWeight Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) = 0;
  // PackedWeight::layout of what Pack makes of `spec`.
  virtual uint32_t LayoutId(const WeightSpec& spec) const = 0;

  virtual KernelChoice DescribeKernel(const WeightSpec& spec) const = 0;

  virtual size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const = 0;
  virtual Status ReserveScratch(int32_t max_tokens, int32_t max_columns) = 0;
  // Not while an operation runs. Changes speed, never results.
  virtual void SetTuning(const KernelTuning& tuning) = 0;

  // Linear reads the copies of the node that a thread runs on. nullptr: there are none. Outlives the
  // operations.
  virtual void SetNodeCopies(const NodeCopies*) {}

  // One thread's arithmetic for about `seconds`; operations per second, multiply and add counted as two.
  virtual double MeasureInt8OpsPerS(double seconds) = 0;
  virtual double MeasureF32FlopsPerS(double seconds) = 0;
  // Products of bf16 by vectors; 0 where bf16 weights are multiplied in float32.
  virtual double MeasureBf16FlopsPerS(double) { return 0; }
  // Reads `bytes` (a multiple of 256, 64-byte aligned); the result only keeps the loads alive.
  virtual uint64_t ReadAll(const std::byte* data, size_t bytes) = 0;

  void Synchronize() final {}  // every op is complete when it returns
};

// Plain C++, sums in double: the oracle. Weights stay in the file's layout.
std::unique_ptr<CpuOps> MakeReferenceOps(ThreadPool& pool);
// Kernels of `instruction_set` ("avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"); nullptr if
// unknown to this build. The caller has checked that the processor has it. "amx" without `deterministic`:
// Linear of many rows multiplies in tiles (tile_linear.h), whose bits differ from those of few rows.
std::unique_ptr<CpuOps> MakeVectorOps(ThreadPool& pool, std::string_view instruction_set, bool deterministic);
// The vector kernels of `vector_set`, and `tiles` (nullptr: none) for attention, whose bits are the same, and
// unless `exact_only` for Linear of many rows.
struct TileKernels;
std::unique_ptr<CpuOps> MakeTileOps(ThreadPool& pool, std::string_view vector_set, const TileKernels* tiles,
                                    bool exact_only = false);

// Operations a second that bound Linear of many rows with weights kept as `type`: what `instruction_set`
// multiplies them in.
inline double LimitingRate(const Roofline& roofline, DataType type, std::string_view instruction_set) {
  if (TraitsOf(type).block_elements > 1) return roofline.int8_ops_per_s;
  const bool in_bf16 = type == DataType::kBF16 || (type == DataType::kF16 && instruction_set == "amx");
  return in_bf16 && roofline.bf16_flops_per_s > 0 ? roofline.bf16_flops_per_s : roofline.f32_flops_per_s;
}

// A team and the operations on it, as DeviceOptions say. Errors as MakeCpuDevice.
struct Backend {
  std::string instruction_set;
  std::unique_ptr<NodeCopies> copies;  // with replicate_weights and several nodes
  std::unique_ptr<ThreadPool> pool;
  std::unique_ptr<CpuOps> ops;
  Backend();
  Backend(Backend&&) noexcept;
  ~Backend();
};
Result<Backend> MakeBackend(const DeviceOptions& options);

// Anonymous memory, zero-filled, 64-byte aligned; huge pages where they pay. kUnavailable when there is no
// more.
Result<DeviceBuffer> AllocateHostMemory(size_t bytes);

}  // namespace tidepool::chips::cpu
