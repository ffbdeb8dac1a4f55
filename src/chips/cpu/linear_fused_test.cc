// What Linear does beside multiplying (residual, peaks, gated pairs) against the plain operations one after
// another: equal bit for bit on every instruction set.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

std::vector<std::string> AllSets() {
  std::vector<std::string> sets = VectorInstructionSets();
  sets.emplace_back("reference");
  return sets;
}

struct Rows {
  std::vector<float> data;
  Matrix view;
  Rows(int64_t rows, int64_t columns, std::mt19937& random)
      : data(RandomFloats(static_cast<size_t>(rows * (columns + 3)), 1.0f, random)),
        view{data.data(), rows, columns, columns + 3} {}
};

// Enough of everything to be cut into several chunks for threads; the last panel is partial.
constexpr int64_t kOutputs = 2 * kPeakBlock + 200, kColumns = 256;

TEST(LinearFused, ResidualIsTheSameAsAnAdditionAfterwards) {
  std::mt19937 random(5);
  for (const std::string& set : AllSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    for (const DataType type : {DataType::kQ4_0, DataType::kQ6_K, DataType::kF16}) {
      const auto source = RandomWeights(type, kOutputs, kColumns, random);
      const OwnedWeight weight = PackOn(*device, {type, kOutputs, kColumns}, source);
      const std::vector<float> bias = RandomFloats(kOutputs, 1.0f, random);
      for (const int64_t rows : {1, 7, 40}) {
        const Rows x(rows, kColumns, random);
        Rows residual(rows, kOutputs, random), out(rows, kOutputs, random), fused(rows, kOutputs, random);
        Rows expected = residual;
        expected.view.data = expected.data.data();
        const LinearTarget plain{.weight = &weight.weight, .bias = bias.data(), .out = out.view};
        device->ops().Linear(x.view, std::span(&plain, 1));
        device->ops().Add(expected.view, out.view, expected.view);
        const LinearTarget target{
            .weight = &weight.weight, .bias = bias.data(), .out = fused.view, .residual = residual.view};
        device->ops().Linear(x.view, std::span(&target, 1));
        ASSERT_EQ(residual.data, expected.data) << set << " " << rows;
      }
    }
  }
}

TEST(LinearFused, GatedPairsAreTheSameAsTheirParts) {
  std::mt19937 random(6);
  for (const std::string& set : AllSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    // A pair may mix layouts, as K_M files do.
    for (const auto& [first, second] : {std::pair{DataType::kQ4_0, DataType::kQ4_0},
                                        {DataType::kQ4_K, DataType::kQ6_K},
                                        {DataType::kF16, DataType::kQ8_0}}) {
      const OwnedWeight gate =
          PackOn(*device, {first, kOutputs, kColumns}, RandomWeights(first, kOutputs, kColumns, random));
      const OwnedWeight up =
          PackOn(*device, {second, kOutputs, kColumns}, RandomWeights(second, kOutputs, kColumns, random));
      for (const Activation activation :
           {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluExact, Activation::kTanh}) {
        for (const int64_t rows : {1, 7, 40}) {
          const Rows x(rows, kColumns, random);
          Rows g(rows, kOutputs, random), u(rows, kOutputs, random), out(rows, kOutputs, random);
          Rows scratch(rows, kOutputs, random);
          const LinearTarget targets[] = {{.weight = &gate.weight, .out = g.view},
                                          {.weight = &up.weight, .out = u.view}};
          device->ops().Linear(x.view, targets);
          device->ops().GatedActivation(activation, g.view, u.view, g.view);
          device->ops().GatedLinear(x.view, gate.weight, up.weight, activation, scratch.view, out.view);
          for (int64_t r = 0; r < rows; ++r) {
            for (int64_t c = 0; c < kOutputs; ++c) {
              ASSERT_EQ(out.data[static_cast<size_t>(r * out.view.stride + c)],
                        g.data[static_cast<size_t>(r * g.view.stride + c)])
                  << set << " " << rows << " " << r << " " << c;
            }
          }
        }
      }
    }
  }
}

TEST(LinearFused, PeaksAreTheLargestOfTheirOutputs) {
  std::mt19937 random(7);
  for (const std::string& set : AllSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    for (const DataType type : {DataType::kQ8_0, DataType::kBF16}) {
      for (const int64_t outputs : {kOutputs, int64_t{5}}) {
        const OwnedWeight weight =
            PackOn(*device, {type, outputs, kColumns}, RandomWeights(type, outputs, kColumns, random));
        for (const int64_t rows : {1, 9}) {
          Rows x(rows, kColumns, random);
          if (rows > 1) x.data[0] = std::numeric_limits<float>::quiet_NaN();  // the first row alone
          Rows out(rows, outputs, random);
          const int64_t count = PeaksOf(outputs);
          std::vector<float> peaks(static_cast<size_t>(rows * count), 7.0f);
          const LinearTarget target{.weight = &weight.weight, .out = out.view, .peaks = peaks.data()};
          device->ops().Linear(x.view, std::span(&target, 1));
          for (int64_t r = 0; r < rows; ++r) {
            std::vector<float> expected(static_cast<size_t>(count), -std::numeric_limits<float>::infinity());
            for (int64_t c = 0; c < outputs; ++c) {
              const float y = out.data[static_cast<size_t>(r * out.view.stride + c)];
              float& peak = expected[static_cast<size_t>(c / kPeakBlock * kPeakLanes + c % kPeakLanes)];
              peak = std::isfinite(y) ? std::max(peak, y) : std::numeric_limits<float>::infinity();
            }
            for (int64_t i = 0; i < count; ++i) {
              ASSERT_EQ(peaks[static_cast<size_t>(r * count + i)], expected[static_cast<size_t>(i)])
                  << set << " row " << r << " peak " << i;
            }
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
