// Norms, rotary embedding, activations, sums and gathers of every instruction set against the reference.
// Bounds, with u = 2^-24:
//   RmsNorm    n squares summed in lanes: relative (n + 8) u of the mean square, half of it after the root
//   LayerNorm  the mean is off by n u mean|x|, which moves every output by that over the deviation
//   Rope       two products and a sum of rounded cosines: 6 u (|a| + |b|) amplitude
//   activations exp within 2^-21 relative: silu and tanh-gelu within 2^-20 relative; the exact gelu uses an
//   erf
//              within 1.5e-7 absolute: |x| * 1e-7 + 2^-20 relative
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

constexpr double kU = 1.0 / (1 << 24);
constexpr int64_t kPadding = 3;  // between rows, never written

struct Grid {
  std::vector<float> data;
  int64_t rows, columns, stride;
  Grid(int64_t r, int64_t c, float deviation, std::mt19937& random)
      : data(RandomFloats(static_cast<size_t>(r * (c + kPadding)), deviation, random)),
        rows(r),
        columns(c),
        stride(c + kPadding) {}
  Matrix view() { return {data.data(), rows, columns, stride}; }
  float at(int64_t r, int64_t c) const { return data[static_cast<size_t>(r * stride + c)]; }
};

template <typename Body>
void ForEachSetAndSize(Body&& body) {
  std::mt19937 random(7);
  const std::unique_ptr<Device> reference = MakeDevice("reference", 1);
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    for (const int64_t rows : {0, 1, 3, 40}) {
      for (const int64_t columns : {1, 7, 8, 16, 31, 64, 576, 1000}) {
        SCOPED_TRACE(set + " " + std::to_string(rows) + "x" + std::to_string(columns));
        body(device->ops(), reference->ops(), rows, columns, random);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(Norms, AgreeWithTheReference) {
  ForEachSetAndSize([](Ops& ops, Ops& reference, int64_t rows, int64_t columns, std::mt19937& random) {
    Grid x(rows, columns, 2.0f, random), out(rows, columns, 1.0f, random), expected = out;
    const std::vector<float> gain = RandomFloats(static_cast<size_t>(columns), 1.0f, random);
    const std::vector<float> bias = RandomFloats(static_cast<size_t>(columns), 1.0f, random);
    ops.RmsNorm(x.view(), gain.data(), 1e-5f, out.view());
    reference.RmsNorm(x.view(), gain.data(), 1e-5f, expected.view());
    const double n = static_cast<double>(columns);
    for (size_t i = 0; i < out.data.size(); ++i) {
      ASSERT_LE(std::fabs(out.data[i] - expected.data[i]), (n + 12) * kU * std::fabs(expected.data[i]));
    }
    if (columns < 7) return;  // a deviation of nearly nothing amplifies without bound
    ops.LayerNorm(x.view(), gain.data(), bias.data(), 1e-5f, out.view());
    reference.LayerNorm(x.view(), gain.data(), bias.data(), 1e-5f, expected.view());
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, magnitude = 0, squares = 0;
      for (int64_t c = 0; c < columns; ++c) sum += x.at(r, c), magnitude += std::fabs(x.at(r, c));
      for (int64_t c = 0; c < columns; ++c) squares += (x.at(r, c) - sum / n) * (x.at(r, c) - sum / n);
      const double deviation = std::sqrt(squares / n + 1e-5);
      for (int64_t c = 0; c < columns; ++c) {
        const double gained = std::fabs(static_cast<double>(gain[static_cast<size_t>(c)]));
        const double normal = std::fabs(x.at(r, c) - sum / n) / deviation;
        const double bound =
            gained * (2 * (n + 8) * kU * magnitude / n / deviation + (n + 12) * kU * normal) +
            4 * kU * (std::fabs(expected.at(r, c)) + std::fabs(bias[static_cast<size_t>(c)]));
        ASSERT_LE(std::fabs(out.at(r, c) - expected.at(r, c)), bound) << r << "," << c;
      }
    }
    Grid in_place = x;
    ops.LayerNorm(in_place.view(), gain.data(), bias.data(), 1e-5f, in_place.view());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) ASSERT_EQ(in_place.at(r, c), out.at(r, c));
    }
  });
}

TEST(Activations, AgreeWithTheReference) {
  ForEachSetAndSize([](Ops& ops, Ops& reference, int64_t rows, int64_t columns, std::mt19937& random) {
    Grid gate(rows, columns, 4.0f, random), up(rows, columns, 1.0f, random);
    for (size_t i = 0; i < gate.data.size(); i += 11) gate.data[i] *= 40;  // far into both tails
    for (const Activation activation :
         {Activation::kSilu, Activation::kGeluTanh, Activation::kGeluExact, Activation::kTanh}) {
      Grid out(rows, columns, 1.0f, random), expected = out;
      ops.Activate(activation, gate.view(), out.view());
      reference.Activate(activation, gate.view(), expected.view());
      const auto bound_of = [&](double x, double y) {
        if (activation == Activation::kTanh) return 1.0 / (1 << 22);  // of at most 1
        const double exact_gelu = activation == Activation::kGeluExact ? 1e-7 * std::fabs(x) : 0;
        // exp's argument is rounded too: |2 u| grows with x^3 in the tanh form, where the value itself
        // vanishes.
        const double argument =
            activation == Activation::kSilu ? std::fabs(x) : std::fabs(x * x * x) + std::fabs(x);
        // 1 + tanh or erf cancels in the double reference: 2^-53 of |x| is left.
        return exact_gelu + 2e-16 * std::fabs(x) + std::fabs(y) * (1.0 / (1 << 20) + 8 * kU * argument) +
               1e-30;
      };
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          ASSERT_LE(std::fabs(out.at(r, c) - expected.at(r, c)), bound_of(gate.at(r, c), expected.at(r, c)))
              << static_cast<int>(activation) << " of " << gate.at(r, c) << " is " << expected.at(r, c);
        }
      }
      Grid gated = gate, expected_gated(rows, columns, 1.0f, random);
      ops.GatedActivation(activation, gated.view(), up.view(), gated.view());  // in place
      reference.GatedActivation(activation, gate.view(), up.view(), expected_gated.view());
      for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
          const double bound = bound_of(gate.at(r, c), expected.at(r, c)) * std::fabs(up.at(r, c)) +
                               4 * kU * std::fabs(expected_gated.at(r, c)) + 1e-30;
          ASSERT_LE(std::fabs(gated.at(r, c) - expected_gated.at(r, c)), bound);
        }
      }
    }
  });
}

TEST(AddAndGather, AreExact) {
  ForEachSetAndSize([](Ops& ops, Ops&, int64_t rows, int64_t columns, std::mt19937& random) {
    Grid a(rows, columns, 1.0f, random), b(rows, columns, 1.0f, random), sum = a;
    ops.Add(sum.view(), b.view(), sum.view());
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < columns; ++c) ASSERT_EQ(sum.at(r, c), a.at(r, c) + b.at(r, c));
    }
    for (size_t i = 0; i < sum.data.size(); ++i) {
      if (static_cast<int64_t>(i) % sum.stride < columns) continue;
      ASSERT_EQ(sum.data[i], a.data[i]) << "padding written";
    }
    if (rows == 0) return;
    const std::vector<int32_t> chosen = {static_cast<int32_t>(rows - 1), 0, static_cast<int32_t>(rows / 2),
                                         0};
    Grid gathered(4, columns, 1.0f, random);
    ops.GatherRows(a.view(), chosen, gathered.view());
    for (int64_t i = 0; i < 4; ++i) {
      for (int64_t c = 0; c < columns; ++c)
        ASSERT_EQ(gathered.at(i, c), a.at(chosen[static_cast<size_t>(i)], c));
    }
  });
}

TEST(Rope, AgreesWithTheReference) {
  std::mt19937 random(8);
  const std::unique_ptr<Device> reference = MakeDevice("reference", 1);
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
      for (const auto& [head_dim, rotary_dim] : {std::pair{64, 64}, {64, 32}, {6, 4}, {80, 80}, {128, 22}}) {
        for (const int64_t tokens : {0, 1, 5, 70}) {
          SCOPED_TRACE(set + " " + std::to_string(head_dim) + "/" + std::to_string(rotary_dim));
          Grid x(tokens, 3 * head_dim, 1.0f, random), expected = x;
          const Grid before = x;
          std::vector<int32_t> positions(static_cast<size_t>(tokens));
          for (int32_t& position : positions) position = static_cast<int32_t>(random() % 100000);
          std::vector<float> frequencies(static_cast<size_t>(rotary_dim / 2));
          for (size_t i = 0; i < frequencies.size(); ++i) {
            frequencies[i] =
                std::pow(10000.0f, -2.0f * static_cast<float>(i) / static_cast<float>(rotary_dim));
          }
          RopeArgs args;
          args.head_dim = head_dim;
          args.rotary_dim = rotary_dim;
          args.positions = positions;
          args.inverse_frequency = frequencies.data();
          args.amplitude = 1.25f;
          args.pairing = pairing;
          args.x = x.view();
          device->ops().Rope(args);
          args.x = expected.view();
          reference->ops().Rope(args);
          for (int64_t r = 0; r < tokens; ++r) {
            for (int64_t c = 0; c < x.columns; ++c) {
              ASSERT_LE(std::fabs(x.at(r, c) - expected.at(r, c)), 6 * kU * 1.25 * 8) << r << "," << c;
              if (c % head_dim < rotary_dim) continue;
              ASSERT_EQ(x.at(r, c), before.at(r, c)) << "beyond the rotary part";
            }
          }
        }
      }
    }
  }
}

// The tables of a step are reused by its layers; other positions, amplitudes or frequencies must not find
// them.
TEST(Rope, TablesAreNotMistakenForOthers) {
  std::mt19937 random(9);
  const std::unique_ptr<Device> reference = MakeDevice("reference", 1);
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    std::vector<float> frequencies = {1.0f, 0.5f, 0.25f, 0.125f};
    for (int round = 0; round < 60; ++round) {
      const std::vector<int32_t> positions = {static_cast<int32_t>(random() % 3),
                                              static_cast<int32_t>(random() % 3)};
      frequencies[3] = random() % 2 == 0 ? 0.125f : 0.1f;
      Grid x(2, 16, 1.0f, random), expected = x;
      RopeArgs args;
      args.head_dim = 8;
      args.rotary_dim = 8;
      args.positions = positions;
      args.inverse_frequency = frequencies.data();
      args.amplitude = random() % 2 == 0 ? 1.0f : 2.0f;
      args.pairing = random() % 2 == 0 ? RopePairing::kHalfSplit : RopePairing::kInterleaved;
      args.x = x.view();
      device->ops().Rope(args);
      args.x = expected.view();
      reference->ops().Rope(args);
      for (size_t i = 0; i < x.data.size(); ++i) ASSERT_NEAR(x.data[i], expected.data[i], 1e-5);
    }
  }
}

TEST(Embed, IsTheScaledDecodedRow) {
  std::mt19937 random(10);
  for (const std::string& set : CpuInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    for (const DataType type : AllWeightTypes()) {
      const int64_t columns = 2 * std::max<int64_t>(TraitsOf(type).block_elements, 16);
      const WeightSpec spec{type, 50, columns, WeightPrecision::kNative};
      const std::vector<std::byte> source = RandomWeights(type, 50, columns, random);
      const OwnedWeight owned = PackOn(*device, spec, source);
      const std::vector<int32_t> tokens = {49, 0, 16, 15, 49};
      Grid out(5, columns, 1.0f, random);
      device->ops().Embed(owned.weight, tokens, 1.5f, out.view());
      std::vector<float> row(static_cast<size_t>(columns));
      for (int64_t t = 0; t < 5; ++t) {
        const auto token = static_cast<size_t>(tokens[static_cast<size_t>(t)]);
        DequantiseRow(type, source.data() + token * RowBytes(type, columns), columns, row.data());
        for (int64_t c = 0; c < columns; ++c) {
          ASSERT_EQ(out.at(t, c), row[static_cast<size_t>(c)] * 1.5f) << set << " " << TraitsOf(type).name;
        }
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
