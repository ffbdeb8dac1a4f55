// Linear of every instruction set and weight type, with two oracles:
//
// (1) the reference operation (weights decoded, sums in double), within a bound that covers the rounding of
//     activations: a group's scale is s = peak / 127 and a code is off by at most s / 2, so
//       |y - y_ref| <= sum_g s_g / 2 * (1 + 2^-10) * sum_{k in g} |w_k|  +  (2)
//     (the 2^-10 covers the roundings of 127 / peak and of the product, a few 2^-24 of 127);
// (2) the same rounded activations summed in double: what is left is the float32 arithmetic. Integer dot
//     products are exact. With n groups an output sees at most 2 operations a group for scale and sum (4
//     where scales are by 16 columns), twice that with minimums, each off by a relative u = 2^-24 of a
//     partial sum that is at most A = sum (|w_k| + 2 |m_k|) |x_k|, where m_k is the minimum (scale * code = w
//     - m):
//       |y - y_2| <= 8 (n + 2) u A.
// Float layouts: blocks of 128 columns are chains of 128 fused multiply-adds, then one addition a block:
//       |y - y_ref| <= (128 + n_blocks + 3) u sum |w_k x_k| (first order; a factor 1.01 covers the rest).
// BF16 weights on avx512bf16: x is rounded to bf16, x' = x (1 + d) with |d| <= 2^-8 (8 bits of precision, to
// nearest). Products of two bf16 are exact in float32; they are added to one sum, two by an instruction that
// rounds once or twice, so that with the bias an output of K columns sees at most K + 1 additions, each off
// by u of a partial sum:
//       |y - y'| <= (K + 3) u sum |w_k x'_k| (factor as above),  |y - y_ref| <= 2^-8 sum |w_k x_k|  +  that.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

constexpr double kU = 1.0 / (1 << 24);

bool IsPlain(const WeightSpec& spec) {
  return spec.precision == WeightPrecision::kFloat32 || TraitsOf(spec.type).block_elements == 1;
}

bool IsBfloat(const Device& device, const WeightSpec& spec) {
  return device.info().instruction_set == "avx512bf16" && spec.type == DataType::kBF16 &&
         spec.precision == WeightPrecision::kNative;
}

// x rounded to int8 as the kernels do it, back in double; `half_steps` receives scale / 2 of each element.
std::vector<double> RoundedRow(const float* x, int64_t columns, std::vector<double>& half_steps) {
  std::vector<double> rounded(static_cast<size_t>(columns));
  half_steps.assign(static_cast<size_t>(columns), 0.0);
  for (int64_t begin = 0; begin < columns; begin += 32) {
    float peak = 0;
    for (int64_t k = begin; k < begin + 32; ++k) peak = std::max(peak, std::fabs(x[k]));
    const float inverse = peak < 1e-35f ? 0.0f : 127.0f / peak;
    const float scale = peak * (1.0f / 127.0f);
    for (int64_t k = begin; k < begin + 32; ++k) {
      rounded[static_cast<size_t>(k)] = static_cast<double>(std::nearbyint(x[k] * inverse)) * scale;
      half_steps[static_cast<size_t>(k)] = 0.5 * scale;
    }
  }
  return rounded;
}

struct Case {
  WeightSpec spec;
  int64_t batch;
  bool with_bias;
};

// `x` is [batch][columns + 3].
void CheckLinear(Device& device, const Case& c, const std::vector<std::byte>& source,
                 const std::vector<float>& x, std::mt19937& random) {
  const WeightSpec& spec = c.spec;
  SCOPED_TRACE(device.info().instruction_set + " " + std::string(TraitsOf(spec.type).name) + " " +
               std::to_string(spec.rows) + "x" + std::to_string(spec.columns) + " batch " +
               std::to_string(c.batch) + (spec.precision == WeightPrecision::kFloat32 ? " float32" : ""));
  const OwnedWeight owned = PackOn(device, spec, source);
  const int64_t stride = spec.columns + 3, out_stride = spec.rows + 5;
  const std::vector<float> bias = RandomFloats(static_cast<size_t>(spec.rows), 1.0f, random);
  constexpr float kUntouched = 12345.0f;
  std::vector<float> out(static_cast<size_t>(c.batch * out_stride), kUntouched);
  const LinearTarget target{&owned.weight, c.with_bias ? bias.data() : nullptr,
                            Matrix{out.data(), c.batch, spec.rows, out_stride}};
  device.ops().Linear(ConstMatrix(x.data(), c.batch, spec.columns, stride), std::span(&target, 1));

  const size_t row_bytes = RowBytes(spec.type, spec.columns);
  std::vector<float> weight(static_cast<size_t>(spec.columns));
  std::vector<double> half_steps;
  for (int64_t n = 0; n < spec.rows; ++n) {
    const std::byte* row = source.data() + static_cast<size_t>(n) * row_bytes;
    DequantiseRow(spec.type, row, spec.columns, weight.data());
    const std::vector<float> minimums = MinimumsOf(spec.type, row, spec.columns);
    for (int64_t m = 0; m < c.batch; ++m) {
      const float* xm = x.data() + m * stride;
      const std::vector<double> rounded = RoundedRow(xm, spec.columns / 32 * 32, half_steps);
      double exact = c.with_bias ? bias[static_cast<size_t>(n)] : 0.0, same = exact;
      double magnitude = std::fabs(exact), rounding = 0, plain_magnitude = std::fabs(exact);
      double bfloat = exact;
      for (int64_t k = 0; k < spec.columns; ++k) {
        const auto i = static_cast<size_t>(k);
        exact += static_cast<double>(weight[i]) * xm[k];
        plain_magnitude += std::fabs(static_cast<double>(weight[i]) * xm[k]);
        bfloat += static_cast<double>(weight[i]) * Bfloat16ToFloat(FloatToBfloat16(xm[k]));
        if (IsPlain(spec)) continue;
        same += weight[i] * rounded[i];
        magnitude += (std::fabs(weight[i]) + 2 * std::fabs(minimums[i])) * std::fabs(rounded[i]);
        rounding += half_steps[i] * (1.0 + 1.0 / 1024) * std::fabs(weight[i]);
      }
      const double y = out[static_cast<size_t>(m * out_stride + n)];
      if (IsBfloat(device, spec)) {
        const double rounded_x = plain_magnitude / 256;
        const double arithmetic =
            1.01 * static_cast<double>(spec.columns + 3) * kU * (plain_magnitude + rounded_x) + 1e-30;
        ASSERT_LE(std::fabs(y - bfloat), arithmetic) << n << "," << m;
        ASSERT_LE(std::fabs(y - exact), rounded_x + arithmetic) << n << "," << m;
      } else if (IsPlain(spec)) {
        const double steps =
            static_cast<double>(std::min<int64_t>(spec.columns, 128) + spec.columns / 128 + 3);
        ASSERT_LE(std::fabs(y - exact), 1.01 * steps * kU * plain_magnitude + 1e-30) << n << "," << m;
      } else {
        const double arithmetic = 8.0 * (static_cast<double>(spec.columns) / 32 + 2) * kU * magnitude + 1e-30;
        ASSERT_LE(std::fabs(y - same), arithmetic) << n << "," << m;
        ASSERT_LE(std::fabs(y - exact), rounding + arithmetic) << n << "," << m;
      }
    }
  }
  for (int64_t m = 0; m < c.batch; ++m) {
    for (int64_t n = spec.rows; n < out_stride; ++n) {
      ASSERT_EQ(out[static_cast<size_t>(m * out_stride + n)], kUntouched) << "wrote beyond a row";
    }
  }
}

void CheckLinear(Device& device, const Case& c, std::mt19937& random) {
  const std::vector<std::byte> source = RandomWeights(c.spec.type, c.spec.rows, c.spec.columns, random);
  const std::vector<float> x =
      RandomFloats(static_cast<size_t>(c.batch * (c.spec.columns + 3)), 1.0f, random);
  CheckLinear(device, c, source, x, random);
}

TEST(Linear, AgreesWithItsOraclesForEveryTypeAtOddSizes) {
  std::mt19937 random(1);
  for (const std::string& set : VectorInstructionSets()) {
    for (const int threads : {1, 2}) {
      const std::unique_ptr<Device> device = MakeDevice(set, threads);
      for (const DataType type : AllWeightTypes()) {
        const int64_t block = std::max<int64_t>(TraitsOf(type).block_elements, 1);
        for (const int64_t batch : {1, 2, 3, 5, 7, 17, 33}) {
          for (const int64_t rows : {1, 15, 16, 50}) {
            if (threads == 2 && rows != 50) continue;
            const int64_t columns = block * (batch % 2 == 1 ? 1 : 3);
            CheckLinear(*device, {{type, rows, columns, WeightPrecision::kNative}, batch, batch % 3 == 0},
                        random);
          }
        }
        CheckLinear(*device,
                    {{type, 37, 3 * std::max<int64_t>(block, 192), WeightPrecision::kNative}, 9, true},
                    random);
        CheckLinear(*device,
                    {{type, 37, 3 * std::max<int64_t>(block, 192), WeightPrecision::kFloat32}, 9, true},
                    random);
        CheckLinear(*device, {{type, 18, block, WeightPrecision::kFloat32}, 2, false}, random);
        // Wider than what many rows are computed over at once.
        if (threads == 2)
          CheckLinear(*device, {{type, 18, 3072, WeightPrecision::kNative}, 33, true}, random);
      }
      for (const int64_t columns : {1, 2, 7, 13, 255, 257, 600}) {  // plain types take any width
        for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
          CheckLinear(*device, {{type, 19, columns, WeightPrecision::kNative}, 5, true}, random);
          CheckLinear(*device, {{type, 70, columns, WeightPrecision::kNative}, 1, false}, random);
        }
      }
    }
  }
}

// Every code at its ends and every activation at +-127, in all the patterns of signs that add up: where
// products of bytes are summed in int16, these are the largest sums.
TEST(Linear, LargestCodesDoNotOverflow) {
  std::mt19937 random(6);
  constexpr int64_t kColumns = 256, kRows = 20, kBatch = 9;
  constexpr uint8_t kBytes[] = {0x00, 0xff, 0x0f, 0xf0, 0x80, 0x7f, 0x55, 0xaa};
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    for (const DataType type : AllWeightTypes()) {
      if (TraitsOf(type).block_elements == 1) continue;
      std::vector<std::byte> source = RandomWeights(type, kRows, kColumns, random);
      BlockFields fields = FieldsOf(type);
      if (type == DataType::kMXFP4) fields = {0, -1, 1, 17};
      const auto block_bytes = static_cast<size_t>(TraitsOf(type).block_bytes);
      const size_t row_blocks = RowBytes(type, kColumns) / block_bytes;
      for (size_t block = 0; block < source.size() / block_bytes; ++block) {
        const size_t row = block / row_blocks;
        for (int i = fields.codes_begin; i < fields.codes_end; ++i) {
          // Rows 8 to 15 change the pattern at every byte, the last ones keep random codes.
          if (row < 16) {
            source[block * block_bytes + static_cast<size_t>(i)] =
                static_cast<std::byte>(kBytes[(row + (row < 8 ? 0 : static_cast<size_t>(i))) % 8]);
          }
        }
      }
      std::vector<float> x(static_cast<size_t>(kBatch * (kColumns + 3)));
      for (int64_t m = 0; m < kBatch; ++m) {
        for (int64_t k = 0; k < kColumns; ++k) {
          // Rows 0 to 7: the sign is a bit of the column's place, or their product; row 8 is random.
          const int64_t bits = k & m;
          const bool negative = m == 8 ? random() % 2 == 0 : ((bits ^ bits >> 1 ^ bits >> 2) & 1) != 0;
          x[static_cast<size_t>(m * (kColumns + 3) + k)] = negative ? -1.0f : 1.0f;
        }
      }
      CheckLinear(*device, {{type, kRows, kColumns, WeightPrecision::kNative}, kBatch, false}, source, x,
                  random);
      for (float& value : x) value = -value;
      CheckLinear(*device, {{type, kRows, kColumns, WeightPrecision::kNative}, kBatch, false}, source, x,
                  random);
    }
  }
}

TEST(Linear, ReferenceIsTheFormula) {
  std::mt19937 random(2);
  const std::unique_ptr<Device> device = MakeDevice("reference", 2);
  for (const DataType type : AllWeightTypes()) {
    const int64_t columns = std::max<int64_t>(TraitsOf(type).block_elements, 8);
    const WeightSpec spec{type, 17, columns, WeightPrecision::kNative};
    const std::vector<std::byte> source = RandomWeights(type, spec.rows, columns, random);
    const OwnedWeight owned = PackOn(*device, spec, source);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(3 * columns), 1.0f, random);
    std::vector<float> out(3 * 17), weight(static_cast<size_t>(columns));
    const LinearTarget target{&owned.weight, nullptr, Matrix{out.data(), 3, 17, 17}};
    device->ops().Linear(ConstMatrix(x.data(), 3, columns, columns), std::span(&target, 1));
    for (int64_t n = 0; n < 17; ++n) {
      DequantiseRow(type, source.data() + static_cast<size_t>(n) * RowBytes(type, columns), columns,
                    weight.data());
      for (int64_t m = 0; m < 3; ++m) {
        double sum = 0;
        for (int64_t k = 0; k < columns; ++k)
          sum +=
              static_cast<double>(x[static_cast<size_t>(m * columns + k)]) * weight[static_cast<size_t>(k)];
        EXPECT_EQ(out[static_cast<size_t>(m * 17 + n)], static_cast<float>(sum));
      }
    }
  }
}

// The same bits alone or in any batch, with one thread or three, and with other targets beside it.
TEST(Linear, ARowsResultDoesNotDependOnItsCompany) {
  std::mt19937 random(3);
  constexpr int64_t kRows = 70, kColumns = 5120;  // K types are unpacked in two parts
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> one = MakeDevice(set, 1), three = MakeDevice(set, 3);
    KernelTuning tuning;
    tuning.linear_row_block_bytes = int64_t{1} << 20;  // all rows of the batch at once
    three->SetTuning(tuning);
    for (const DataType type : AllWeightTypes()) {
      for (const WeightPrecision precision : {WeightPrecision::kNative, WeightPrecision::kFloat32}) {
        SCOPED_TRACE(set + " " + std::string(TraitsOf(type).name));
        // Q4_K is unpacked where there are many rows, the other K types where there are more than a few.
        const int64_t batch = type == DataType::kQ4_K ? 100 : 45;
        const WeightSpec spec{type, kRows, kColumns, precision};
        const std::vector<std::byte> source = RandomWeights(type, kRows, kColumns, random);
        const OwnedWeight a = PackOn(*one, spec, source), b = PackOn(*three, spec, source);
        const std::vector<float> x = RandomFloats(static_cast<size_t>(batch * kColumns), 1.0f, random);
        const std::vector<float> bias = RandomFloats(kRows, 1.0f, random);
        const auto outputs = static_cast<size_t>(batch * kRows);
        std::vector<float> together(outputs), other(outputs), alone(kRows);
        const LinearTarget pair[2] = {{&b.weight, bias.data(), Matrix{together.data(), batch, kRows, kRows}},
                                      {&b.weight, bias.data(), Matrix{other.data(), batch, kRows, kRows}}};
        three->ops().Linear(ConstMatrix(x.data(), batch, kColumns, kColumns), pair);
        ASSERT_EQ(together, other);
        for (int64_t m = 0; m < batch; ++m) {
          const LinearTarget target{&a.weight, bias.data(), Matrix{alone.data(), 1, kRows, kRows}};
          one->ops().Linear(ConstMatrix(x.data() + m * kColumns, 1, kColumns, kColumns),
                            std::span(&target, 1));
          ASSERT_EQ(0, std::memcmp(alone.data(), together.data() + m * kRows, kRows * sizeof(float)))
              << "row " << m;
        }
      }
    }
  }
}

TEST(Linear, MixedTargetsShareTheirInput) {
  std::mt19937 random(4);
  constexpr int64_t kColumns = 256, kBatch = 6;
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    std::vector<OwnedWeight> weights;
    std::vector<std::vector<float>> outs, singles;
    std::vector<LinearTarget> targets;
    const std::vector<float> x = RandomFloats(kBatch * kColumns, 1.0f, random);
    int64_t rows = 20;
    for (const DataType type : AllWeightTypes()) {
      const WeightSpec spec{type, rows, kColumns, WeightPrecision::kNative};
      weights.push_back(PackOn(*device, spec, RandomWeights(type, rows, kColumns, random)));
      outs.emplace_back(static_cast<size_t>(kBatch * rows));
      rows += 13;
    }
    singles = outs;
    for (size_t i = 0; i < weights.size(); ++i) {
      const int64_t n = weights[i].weight.spec.rows;
      targets.push_back({&weights[i].weight, nullptr, Matrix{outs[i].data(), kBatch, n, n}});
      const LinearTarget single{&weights[i].weight, nullptr, Matrix{singles[i].data(), kBatch, n, n}};
      device->ops().Linear(ConstMatrix(x.data(), kBatch, kColumns, kColumns), std::span(&single, 1));
    }
    device->ops().Linear(ConstMatrix(x.data(), kBatch, kColumns, kColumns), targets);
    EXPECT_EQ(outs, singles);
    device->ops().Linear(ConstMatrix(x.data(), 0, kColumns, kColumns),
                         targets);  // an empty batch does nothing
    EXPECT_EQ(outs, singles);
  }
}

// What is not a number stays so, whatever x is rounded to, in the rows and outputs it belongs to and no
// others; an odd column is not paired with what follows it in memory.
TEST(Linear, PlainWeightsKeepWhatIsNotANumberInItsPlace) {
  std::mt19937 random(8);
  constexpr int64_t kRows = 40, kBatch = 15;
  uint32_t bits = 0x7f800001;  // its payload does not reach into bf16
  float faint_nan;
  std::memcpy(&faint_nan, &bits, sizeof bits);
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    for (const DataType type : {DataType::kF32, DataType::kF16, DataType::kBF16}) {
      for (const int64_t columns : {1, 33, 64, 65}) {
        SCOPED_TRACE(set + " " + std::string(TraitsOf(type).name) + " " + std::to_string(columns));
        std::vector<std::byte> source = RandomWeights(type, kRows, columns, random);
        // Columns 0 of the second and third panel: NaN and infinity.
        const size_t row_bytes = RowBytes(type, columns), element = row_bytes / static_cast<size_t>(columns);
        for (size_t row = 16; row < 40; ++row) {
          const float value = row < 32 ? std::nanf("") : INFINITY;
          const uint16_t half = type == DataType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
          std::memcpy(&source[row * row_bytes],
                      type == DataType::kF32 ? static_cast<const void*>(&value) : &half, element);
        }
        // Into memory that is all NaN: what packing leaves as it was is not to be multiplied.
        const WeightSpec spec{type, kRows, columns, WeightPrecision::kNative};
        OwnedWeight owned;
        owned.buffer = device->Allocate(device->PackedBytes(spec).value()).value();
        std::memset(owned.buffer.data(), 0xff, owned.buffer.bytes());
        owned.weight = device->Pack(spec, source, owned.buffer.data()).value();
        std::vector<float> x = RandomFloats(static_cast<size_t>(kBatch * columns), 1.0f, random);
        for (int64_t m = 0; m < kBatch; ++m) x[static_cast<size_t>(m * columns)] = 1.0f;
        x[static_cast<size_t>(3 * columns - 1)] = faint_nan;      // row 2
        x[static_cast<size_t>(5 * columns - 1)] = std::nanf("");  // row 4
        x[static_cast<size_t>(9 * columns - 1)] = INFINITY;       // row 8
        std::vector<float> out(kBatch * kRows);
        const LinearTarget target{&owned.weight, nullptr, Matrix{out.data(), kBatch, kRows, kRows}};
        device->ops().Linear(ConstMatrix(x.data(), kBatch, columns, columns), std::span(&target, 1));
        for (int64_t m = 0; m < kBatch; ++m) {
          for (int64_t n = 0; n < kRows; ++n) {
            const float y = out[static_cast<size_t>(m * kRows + n)];
            const bool nan_x = m == 2 || m == 4, nan_weight = n >= 16 && n < 32;
            if (nan_x || nan_weight) {
              ASSERT_TRUE(std::isnan(y)) << m << "," << n;
            } else if (m == 8 || n >= 32) {
              ASSERT_FALSE(std::isfinite(y)) << m << "," << n;
            } else {
              ASSERT_TRUE(std::isfinite(y)) << m << "," << n;
            }
          }
        }
        std::fill(x.begin(), x.end(), 1e-40f);  // subnormal: nothing, or nearly
        device->ops().Linear(ConstMatrix(x.data(), kBatch, columns, columns), std::span(&target, 1));
        for (int64_t m = 0; m < kBatch; ++m) {
          for (int64_t n = 0; n < 16; ++n)
            ASSERT_LE(std::fabs(out[static_cast<size_t>(m * kRows + n)]), 1e-36f) << m << "," << n;
        }
      }
    }
  }
}

TEST(Linear, ExtremeActivations) {
  std::mt19937 random(5);
  constexpr int64_t kColumns = 64, kRows = 16;
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    const WeightSpec spec{DataType::kQ8_0, kRows, kColumns, WeightPrecision::kNative};
    const OwnedWeight owned = PackOn(*device, spec, RandomWeights(spec.type, kRows, kColumns, random));
    std::vector<float> out(kRows);
    const LinearTarget target{&owned.weight, nullptr, Matrix{out.data(), 1, kRows, kRows}};
    const auto run = [&](std::vector<float> x) {
      device->ops().Linear(ConstMatrix(x.data(), 1, kColumns, kColumns), std::span(&target, 1));
    };
    run(std::vector<float>(kColumns, 0.0f));
    for (const float y : out) EXPECT_EQ(y, 0.0f);
    run(std::vector<float>(kColumns, 1e-40f));  // subnormal: rounds to nothing, never to garbage
    for (const float y : out) EXPECT_LE(std::fabs(y), 1e-34f);
    std::vector<float> x(kColumns, 1.0f);
    x[40] = std::nanf("");
    run(x);
    for (const float y : out) EXPECT_TRUE(std::isnan(y));
    x[40] = INFINITY;
    run(x);
    for (const float y : out) EXPECT_FALSE(std::isfinite(y));
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
