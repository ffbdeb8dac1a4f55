// What the kernels of each weight type make of the machine: for `tidepool doctor`.
#include <algorithm>
#include <cstring>
#include <vector>

#include "chips/cpu/best_rate.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/device.h"
#include "chips/quantisation.h"

namespace tidepool::chips {
namespace {

// A matrix of a small model's feed-forward layer, over and over until it is more than caches hold.
constexpr int64_t kOutputs = 3072, kColumns = 1024, kManyRows = 256;
constexpr size_t kWeightBytes = size_t{160} << 20;

// Codes and scales as a sound file could have them, with f16 fields of about 0.01 (0x2118).
std::vector<std::byte> SomeWeights(DataType type) {
  std::vector<std::byte> bytes(static_cast<size_t>(kOutputs) * RowBytes(type, kColumns));
  uint32_t state = 1;
  for (std::byte& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  const auto block = static_cast<size_t>(TraitsOf(type).block_bytes);
  const auto set_half = [&](size_t field) {
    for (size_t at = field; at < bytes.size(); at += block) {
      bytes[at] = std::byte{0x18};
      bytes[at + 1] = std::byte{0x21};
    }
  };
  switch (type) {
    case DataType::kF32:
      for (size_t at = 0; at < bytes.size(); at += 4) bytes[at + 3] = std::byte{0x3c};
      break;
    case DataType::kF16:
    case DataType::kBF16: set_half(0); break;
    case DataType::kMXFP4:
      for (size_t at = 0; at < bytes.size(); at += block) bytes[at] = std::byte{120};
      break;
    case DataType::kQ2_K: set_half(80), set_half(82); break;
    case DataType::kQ3_K: set_half(108); break;
    case DataType::kQ6_K: set_half(208); break;
    case DataType::kQ4_1:
    case DataType::kQ5_1:
    case DataType::kQ4_K:
    case DataType::kQ5_K: set_half(0), set_half(2); break;
    default: set_half(0);
  }
  return bytes;
}

class Survey {
 public:
  Survey(cpu::Backend& backend, const Roofline& roofline, DeviceBuffer memory)
      : backend_(backend), roofline_(roofline), memory_(std::move(memory)) {
    x_.assign(static_cast<size_t>(kManyRows * kColumns), 0.0f);
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i * 7919 % 255) / 127.0f - 1.0f;
    y_.resize(static_cast<size_t>(kManyRows * kOutputs));
  }

  KernelMeasurement Measure(DataType type) {
    const WeightSpec spec{type, kOutputs, kColumns};
    KernelMeasurement out;
    out.type = type;
    out.choice = backend_.ops->DescribeKernel(spec);
    const std::vector<std::byte> source = SomeWeights(type);
    const PackedWeight first = backend_.ops->Pack(spec, source.data(), memory_.data());
    const size_t stride = (first.bytes + 63) / 64 * 64;
    std::vector<PackedWeight> weights;
    for (size_t at = 0; at + stride <= memory_.bytes(); at += stride) {
      if (at > 0) std::memcpy(memory_.data() + at, first.data, first.bytes);
      weights.push_back(first);
      weights.back().data = memory_.data() + at;
    }
    const double rate = cpu::LimitingRate(roofline_, type, backend_.instruction_set);
    const auto limit_s = [&](double bytes, double rows) {
      return std::max(bytes / roofline_.memory_bytes_per_s, 2.0 * kOutputs * kColumns * rows / rate);
    };
    // The slow reference must end too: one round is enough for it.
    const cpu::RoundPlan plan{.usual_s = 0.012, .least_rounds = 3, .longest_s = 0.05};
    const auto bytes = static_cast<double>(first.bytes);
    size_t next = 0;
    const double passes = cpu::BestRate(plan, [&] {
      const size_t count = std::min<size_t>(weights.size(), 8);
      const double begin = cpu::SteadySeconds();
      for (size_t i = 0; i < count; ++i) Multiply(weights[next++ % weights.size()], 1);
      return static_cast<double>(count) / (cpu::SteadySeconds() - begin);
    });
    out.one_row_bytes_per_s = passes * bytes;
    out.one_row_share = passes * limit_s(bytes, 1);
    const int64_t rows = backend_.instruction_set == "reference" ? 8 : kManyRows;  // it takes 4 ms a row
    const double many = cpu::BestRate(plan, [&] {
      const double begin = cpu::SteadySeconds();
      Multiply(first, rows);
      return 1 / (cpu::SteadySeconds() - begin);
    });
    out.many_rows_ops_per_s = many * 2.0 * kOutputs * kColumns * static_cast<double>(rows);
    out.many_rows_share = many * limit_s(bytes, static_cast<double>(rows));
    return out;
  }

 private:
  void Multiply(const PackedWeight& weight, int64_t rows) {
    const LinearTarget target{&weight, nullptr, Matrix{y_.data(), rows, kOutputs, kOutputs}};
    backend_.ops->Linear(ConstMatrix(x_.data(), rows, kColumns, kColumns), std::span(&target, 1));
  }

  cpu::Backend& backend_;
  const Roofline& roofline_;
  const DeviceBuffer memory_;
  std::vector<float> x_, y_;
};

}  // namespace

Result<std::vector<KernelMeasurement>> MeasureCpuKernels(const DeviceOptions& options,
                                                         const Roofline& roofline) {
  TP_ASSIGN(cpu::Backend backend, cpu::MakeBackend(options));
  TP_ASSIGN(DeviceBuffer memory, cpu::AllocateHostMemory(kWeightBytes));
  TP_TRY(backend.ops->ReserveScratch(kManyRows, kOutputs));
  Survey survey(backend, roofline, std::move(memory));
  std::vector<KernelMeasurement> measured;
  for (const DataType type :
       {DataType::kQ4_0, DataType::kQ4_1, DataType::kQ5_0, DataType::kQ5_1, DataType::kQ8_0, DataType::kQ2_K,
        DataType::kQ3_K, DataType::kQ4_K, DataType::kQ5_K, DataType::kQ6_K, DataType::kIQ4_NL,
        DataType::kIQ4_XS, DataType::kMXFP4, DataType::kF16, DataType::kBF16, DataType::kF32}) {
    measured.push_back(survey.Measure(type));
  }
  return measured;
}

}  // namespace tidepool::chips
