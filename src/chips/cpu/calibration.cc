// Which KernelTuning suits this machine: candidates are measured in turns, and the default stays unless
// another one is clearly faster, so that noise changes nothing.
#include <sys/resource.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <vector>

#include "chips/cpu/best_rate.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/thread_pool.h"
#include "chips/device.h"
#include "chips/quantisation.h"

namespace tidepool::chips {
namespace {

using cpu::KernelTuning;

// A candidate has to save this much of the default's time.
constexpr double kClearlyFaster = 0.97;
constexpr int64_t kWidth = 1024, kWide = 3072;  // the sides of the matrices of small models
constexpr int32_t kPrefillRows = 512;

// A matrix of arbitrary codes and small scales: what the kernels do does not depend on the values.
struct Matrices {
  DeviceBuffer buffer;
  cpu::CpuOps* ops = nullptr;
  size_t used = 0;

  PackedWeight Add(DataType type, int64_t rows, int64_t columns) {
    const WeightSpec spec{type, rows, columns};
    const size_t bytes = static_cast<size_t>(rows) * RowBytes(type, columns);
    std::vector<std::byte> source(bytes);
    uint32_t state = 1;
    for (std::byte& byte : source) {
      state = state * 1664525 + 1013904223;
      byte =
          static_cast<std::byte>(state >> 25);  // below 128: no f16 of it is NaN or infinite but 7Cxx, 7Dxx
    }
    const auto& traits = TraitsOf(type);
    for (size_t at = 0; at < bytes; at += static_cast<size_t>(traits.block_bytes)) {
      source[at] = std::byte{0};  // f16 2^-6, of scale and minimum
      source[at + 1] = std::byte{0x24};
      source[at + 2] = std::byte{0};
      source[at + 3] = std::byte{0x24};
    }
    const PackedWeight weight = ops->Pack(spec, source.data(), buffer.data() + used);
    used += (weight.bytes + 63) / 64 * 64;
    return weight;
  }
};

class Calibration {
 public:
  Calibration(cpu::CpuOps& ops, double budget_s) : ops_(ops), part_s_(budget_s / 5) {}

  Result<KernelTuning> Run() {
    constexpr size_t kBytes = size_t{16} << 20;
    TP_TRY(ChooseFetchLevel());
    TP_ASSIGN(DeviceBuffer memory, cpu::AllocateHostMemory(kBytes));
    Matrices matrices{std::move(memory), &ops_};
    TP_TRY(ops_.ReserveScratch(kPrefillRows, kWide));
    x_.assign(static_cast<size_t>(kPrefillRows) * kWide, 0.0f);
    for (size_t i = 0; i < x_.size(); ++i) x_[i] = static_cast<float>(i * 7919 % 255) / 127.0f - 1.0f;
    y_.assign(static_cast<size_t>(kPrefillRows) * kWide, 0.0f);
    const PackedWeight up = matrices.Add(DataType::kQ8_0, kWide, kWidth);
    const PackedWeight down = matrices.Add(DataType::kQ4_K, kWidth, kWide);

    const auto prefill = [&] {
      Multiply(up, kPrefillRows);
      Multiply(down, kPrefillRows);
    };
    Choose(&KernelTuning::linear_row_block_bytes, {128 << 10, 256 << 10, 512 << 10, 1 << 20}, prefill);
    const auto decode = [&] {
      for (int i = 0; i < 16; ++i) {
        Multiply(up, 1);
        Multiply(down, 1);
      }
    };
    Choose(&KernelTuning::linear_chunks_per_thread, {4, 8, 16}, decode);
    FindThreshold(&KernelTuning::inline_products,
                  {16 << 10, 32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10}, [&](int64_t products) {
                    PackedWeight part = up;  // its first rows
                    part.spec.rows = products / kWidth;
                    Multiply(part, 1);
                  });
    FindThreshold(&KernelTuning::inline_elements,
                  {8 << 10, 16 << 10, 24 << 10, 48 << 10, 96 << 10, 192 << 10}, [&](int64_t elements) {
                    const int64_t rows = elements / kWidth;
                    ops_.RmsNorm(ConstMatrix(x_.data(), rows, kWidth, kWidth), x_.data(), 1e-6f,
                                 Matrix{y_.data(), rows, kWidth, kWidth});
                  });
    return tuning_;
  }

 private:
  // Of weights that no cache holds.
  Status ChooseFetchLevel() {
    constexpr int64_t kBytes = int64_t{64} << 20;
    TP_ASSIGN(DeviceBuffer memory, cpu::AllocateHostMemory(size_t{kBytes} + (1 << 20)));
    Matrices matrices{std::move(memory), &ops_};
    const int64_t outputs = kBytes / static_cast<int64_t>(RowBytes(DataType::kQ4_0, kWidth));
    TP_TRY(ops_.ReserveScratch(1, kWidth));
    x_.assign(kWidth, 0.5f);
    y_.assign(static_cast<size_t>(outputs), 0.0f);
    const PackedWeight weight = matrices.Add(DataType::kQ4_0, outputs, kWidth);
    Choose(&KernelTuning::fetch_level, {1, 2}, [&] { Multiply(weight, 1); });
    return {};
  }

  void Multiply(const PackedWeight& weight, int64_t rows) {
    const int64_t columns = weight.spec.columns, outputs = weight.spec.rows;
    const LinearTarget target{&weight, nullptr, Matrix{y_.data(), rows, outputs, outputs}};
    ops_.Linear(ConstMatrix(x_.data(), rows, columns, columns), std::span(&target, 1));
  }

  // The shortest time of each candidate in `seconds`, measured in turns; each at least twice, the first of
  // which only warms up.
  std::vector<double> Shortest(const std::vector<KernelTuning>& candidates, double seconds,
                               const std::function<void()>& work) {
    std::vector<double> shortest(candidates.size(), std::numeric_limits<double>::infinity());
    const double end = cpu::SteadySeconds() + seconds;
    for (int round = 0; round < 2 || cpu::SteadySeconds() < end; ++round) {
      for (size_t i = 0; i < candidates.size(); ++i) {
        ops_.SetTuning(candidates[i]);
        const double begin = cpu::SteadySeconds();
        work();
        if (round > 0) shortest[i] = std::min(shortest[i], cpu::SteadySeconds() - begin);
      }
    }
    ops_.SetTuning(tuning_);
    return shortest;
  }

  void Choose(int64_t KernelTuning::* field, const std::vector<int64_t>& values,
              const std::function<void()>& work) {
    std::vector<KernelTuning> candidates{tuning_};
    for (const int64_t value : values) {
      if (value == tuning_.*field) continue;
      candidates.push_back(tuning_);
      candidates.back().*field = value;
    }
    const std::vector<double> times = Shortest(candidates, part_s_, work);
    const auto best = static_cast<size_t>(std::min_element(times.begin(), times.end()) - times.begin());
    if (times[best] < kClearlyFaster * times[0]) tuning_ = candidates[best];
  }

  // The largest size (ascending) at which the calling thread alone is no slower than all of them; below the
  // smallest one if it never is.
  void FindThreshold(int64_t KernelTuning::* field, const std::vector<int64_t>& sizes,
                     const std::function<void(int64_t)>& work) {
    KernelTuning alone = tuning_, together = tuning_;
    alone.*field = cpu::kMostTuning.*field;
    together.*field = cpu::kLeastTuning.*field;
    int64_t threshold = sizes.front();
    for (const int64_t size : sizes) {
      const std::vector<double> times =
          Shortest({alone, together}, part_s_ / static_cast<double>(sizes.size()), [&] {
            for (int i = 0; i < 8; ++i) work(size);
          });
      if (times[0] > times[1]) break;
      threshold = size + 1;  // "below" is what is done alone
    }
    tuning_.*field = threshold;
  }

  cpu::CpuOps& ops_;
  const double part_s_;
  KernelTuning tuning_;
  std::vector<float> x_, y_;
};

int64_t InvoluntarySwitches() {
  rusage usage{};
  return getrusage(RUSAGE_SELF, &usage) == 0 ? usage.ru_nivcsw : 0;
}

}  // namespace

Result<KernelTuning> CalibrateCpu(const DeviceOptions& options, double budget_s) {
  TP_ASSIGN(const cpu::Backend backend, cpu::MakeBackend(options));
  // One thread has nobody to share with, and the reference takes no numbers.
  if (backend.pool->threads() == 1 || backend.instruction_set == "reference") return KernelTuning();
  // Where other programs take the cores away, waking a thread looks dear and one thread alone looks best:
  // what is found then would be kept for the quiet times. A thread that is put aside for others is an
  // involuntary switch; a quiet machine has a few a second.
  constexpr double kMostSwitchesPerS = 40;
  const int64_t switches = InvoluntarySwitches();
  const double begin = cpu::SteadySeconds();
  TP_ASSIGN(const KernelTuning tuning, Calibration(*backend.ops, budget_s).Run());
  const double rate = static_cast<double>(InvoluntarySwitches() - switches) / (cpu::SteadySeconds() - begin);
  if (rate > kMostSwitchesPerS) {
    return Fail(
        ErrorKind::kUnavailable, "machine_busy",
        "other programs use the processor (its threads were put aside " +
            std::to_string(static_cast<int64_t>(rate)) +
            " times a second): the kernels cannot be tuned; run `tidepool doctor` on the quiet machine");
  }
  return tuning;
}

}  // namespace tidepool::chips
