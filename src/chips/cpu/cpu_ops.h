// What the CPU device asks of an instruction set's backend, beside the operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "chips/cpu/thread_pool.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

// Device::PackingVersion of the CPU. To be raised with every change of panel_layout (or of a backend's own
// layout) that gives other bytes for the same weight.
inline constexpr uint32_t kPackingVersion = 1;

class CpuOps : public Ops {
 public:
  // The spec has been checked: rows and columns positive, a known type, whole blocks, no overflow.
  virtual size_t PackedBytes(const WeightSpec& spec) const = 0;
  virtual PackedWeight Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) = 0;
  // PackedWeight::layout of what Pack makes of `spec`.
  virtual uint32_t LayoutId(const WeightSpec& spec) const = 0;

  virtual size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const = 0;
  virtual Status ReserveScratch(int32_t max_tokens, int32_t max_columns) = 0;

  // One thread's arithmetic for about `seconds`; operations per second, multiply and add counted as two.
  virtual double MeasureInt8OpsPerS(double seconds) = 0;
  virtual double MeasureF32FlopsPerS(double seconds) = 0;
  // Reads `bytes` (a multiple of 256, 64-byte aligned); the result only keeps the loads alive.
  virtual uint64_t ReadAll(const std::byte* data, size_t bytes) = 0;

  void Synchronize() final {}  // every op is complete when it returns
};

// Plain C++, sums in double: the oracle. Weights stay in the file's layout.
std::unique_ptr<CpuOps> MakeReferenceOps(ThreadPool& pool);
// Vector kernels of `instruction_set` ("avx2", "avxvnni", "avx512", "avx512vnni"); nullptr if unknown to this
// build. The caller has checked that the processor has it.
std::unique_ptr<CpuOps> MakeVectorOps(ThreadPool& pool, std::string_view instruction_set, bool deterministic);

// Anonymous memory, zero-filled, 64-byte aligned; huge pages where they pay. kUnavailable when there is no
// more.
Result<DeviceBuffer> AllocateHostMemory(size_t bytes);

}  // namespace tidepool::chips::cpu
