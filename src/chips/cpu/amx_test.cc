// Linear on tiles (amx_linear.inl; amx_test_tiles.h: on which).
//
// Linear has two oracles, as in linear_test.cc:
//
// (1) the weights decoded, sums in double. x and the weights are rounded to bf16, each off by at most a
// relative
//     2^-8 (half a unit of 8 bits), so
//       |y - y_1| <= (2^-7 + 2^-16) sum |w_k x_k| + (2).
//     With both planes of x what is left of it is 2^-16 |x_k|; a weight of f16 in two planes is exact (11
//     bits in 16), but the product of the low planes, at most 2^-16 |w_k x_k|, is not made: 2^-15 covers
//     both.
// (2) the same roundings made by the oracle, summed in double. What is left is float32: with T tiles of 32
//     columns a product is in a chain of 16 roundings, one for even and odd, and one for each of at most P T
//     additions to the sum (P products of planes):
//       |y - y_2| <= (18 + P T) u (1.01 sum |w_k x_k| + |bias|),  u = 2^-24.
//     Types with minimums differ from DequantiseRow by three float32 roundings: of w twice, of at most |w| +
//     2 |m|, and of minimum - scale 2^e with codes below 2^e. Among 16 random codes one is at least 2^e / 4,
//     so that scale 2^e is at most four times the largest scale code. Where that may turn the rounding to
//     bf16 over, the distance of the candidates is added.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <random>
#include <type_traits>
#include <utility>

#include "chips/cpu/amx_test_tiles.h"
#include "chips/cpu/random_weights.h"
#include "chips/cpu/thread_pool.h"
#include "chips/cpu/tile_linear.h"

namespace tidepool::chips::cpu {

[[noreturn]] void TileModelFailed(const char* what) {
  std::fprintf(stderr, "tile model: %s\n", what);
  std::abort();
}

namespace {

constexpr double kU = 1.0 / (1 << 24);

// ---- the model ---------------------------------------------------------------------------------------

TileConfig Shapes(std::initializer_list<std::pair<int, int>> rows_and_bytes) {
  TileConfig config;
  int tile = 0;
  for (const auto& [rows, bytes] : rows_and_bytes) {
    config.rows[tile] = static_cast<uint8_t>(rows);
    config.row_bytes[tile++] = static_cast<uint16_t>(bytes);
  }
  return config;
}

TEST(TileModel, RoundsToBfloatAsTheDecoderDoes) {
  std::mt19937 random(1);
  for (int i = 0; i < 200000; ++i) {
    const auto bits = static_cast<uint32_t>(random());
    // Every other one is a tie or next to one.
    const float value = FloatOfBits(i % 2 == 0 ? bits : (bits & 0xffff0000u) + 0x7fff + bits % 3);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Bfloat16ToFloat(BfloatBits(value))));
    } else if (std::fpclassify(value) == FP_SUBNORMAL) {
      EXPECT_EQ(Bfloat16ToFloat(BfloatBits(value)), 0.0f);
    } else {
      EXPECT_EQ(BfloatBits(value), FloatToBfloat16(value)) << value;
    }
  }
  EXPECT_EQ(BfloatBits(INFINITY), 0x7f80);
  EXPECT_EQ(BfloatBits(-0.0f), 0x8000);
}

// c [3, 5] += a [3, 14] b [14, 5], small integers: exact in every order.
TEST(TileModel, MultipliesBfloatsOfAnyShape) {
  ConfigureTiles(Shapes({{3, 20}, {3, 28}, {7, 20}}));
  float c[3][5], expected[3][5];
  uint16_t a[3][14], b[7][10];
  std::mt19937 random(2);
  const auto small = [&] { return static_cast<float>(static_cast<int>(random() % 15) - 7); };
  for (auto& row : a) std::ranges::generate(row, [&] { return FloatToBfloat16(small()); });
  for (auto& row : b) std::ranges::generate(row, [&] { return FloatToBfloat16(small()); });
  for (int m = 0; m < 3; ++m) {
    for (int n = 0; n < 5; ++n) {
      c[m][n] = expected[m][n] = small();
      for (int k = 0; k < 14; ++k) {
        expected[m][n] += Bfloat16ToFloat(a[m][k]) * Bfloat16ToFloat(b[k / 2][2 * n + k % 2]);
      }
    }
  }
  LoadTile<0>(c, sizeof c[0]);
  LoadTile<1>(a, sizeof a[0]);
  LoadTile<2>(b, sizeof b[0]);
  DotTilesBfloat<0, 1, 2>();
  StoreTile<0>(c, sizeof c[0]);
  for (int m = 0; m < 3; ++m) {
    for (int n = 0; n < 5; ++n) EXPECT_EQ(c[m][n], expected[m][n]) << m << "," << n;
  }
  ReleaseTiles();
}

// One row times one column of two pairs.
float OneBfloatProduct(float c, std::array<float, 4> a, std::array<float, 4> b) {
  ConfigureTiles(Shapes({{1, 4}, {1, 8}, {2, 4}}));
  uint16_t left[4], right[4];
  for (size_t i = 0; i < 4; ++i) left[i] = FloatToBfloat16(a[i]), right[i] = FloatToBfloat16(b[i]);
  LoadTile<0>(&c, 4);
  LoadTile<1>(left, 8);
  LoadTile<2>(right, 4);
  DotTilesBfloat<0, 1, 2>();
  StoreTile<0>(&c, 4);
  ReleaseTiles();
  return c;
}

TEST(TileModel, AddsEvenAndOddProductsApartAndThenToTheSum) {
  constexpr float kBig = 16777216.0f;  // 2^24: one more is a tie, which rounds to even
  EXPECT_EQ(OneBfloatProduct(kBig, {1, 1, 0, 0}, {1, 1, 0, 0}), kBig + 2);  // not (2^24 + 1) + 1 = 2^24
  EXPECT_EQ(OneBfloatProduct(kBig, {1, 0, 0, 0}, {1, 0, 0, 0}), kBig);
  EXPECT_EQ(OneBfloatProduct(0, {kBig, 1, 1, 0}, {1, 1, 1, 0}), kBig);  // 2^24 + 1 in the even chain first
  EXPECT_EQ(OneBfloatProduct(0, {kBig, 1, 0, 1}, {1, 1, 0, 1}), kBig + 2);  // both ones in the odd chain
}

TEST(TileModel, FlushesSubnormalsAndKeepsInfinityAndNan) {
  const float least = std::numeric_limits<float>::min();
  EXPECT_EQ(OneBfloatProduct(least / 2, {0, 0, 0, 0}, {0, 0, 0, 0}), 0.0f);
  EXPECT_EQ(OneBfloatProduct(0, {least, 0, 0, 0}, {0.5f, 0, 0, 0}), 0.0f);
  EXPECT_EQ(OneBfloatProduct(0, {least / 2, 0, 0, 0}, {1024, 0, 0, 0}), 0.0f);
  EXPECT_EQ(OneBfloatProduct(0, {least, 0, 0, 0}, {1, 0, 0, 0}), least);
  EXPECT_EQ(OneBfloatProduct(1, {INFINITY, 0, 0, 0}, {2, 0, 0, 0}), INFINITY);
  EXPECT_TRUE(std::isnan(OneBfloatProduct(1, {INFINITY, 0, 0, 0}, {0, 0, 0, 0})));
  EXPECT_TRUE(std::isnan(OneBfloatProduct(1, {INFINITY, 0, INFINITY, 0}, {1, 0, -1, 0})));
  EXPECT_TRUE(std::isnan(OneBfloatProduct(1, {0, std::nanf(""), 0, 0}, {0, 1, 0, 0})));
}

TEST(TileModel, MultipliesSignedBytesAndWrapsAround) {
  ConfigureTiles(Shapes({{2, 8}, {2, 12}, {3, 8}}));
  int32_t c[2][2] = {{5, -5}, {INT32_MAX, 0}};
  int8_t a[2][12], b[3][8];
  std::mt19937 random(3);
  for (auto& row : a) std::ranges::generate(row, [&] { return static_cast<int8_t>(random()); });
  for (auto& row : b) std::ranges::generate(row, [&] { return static_cast<int8_t>(random()); });
  a[0][0] = b[0][0] = -128;
  int64_t expected[2][2];
  for (int m = 0; m < 2; ++m) {
    for (int n = 0; n < 2; ++n) {
      expected[m][n] = c[m][n];
      for (int k = 0; k < 12; ++k) expected[m][n] += int64_t{a[m][k]} * b[k / 4][4 * n + k % 4];
    }
  }
  LoadTile<0>(c, 8);
  LoadTile<1>(a, 12);
  LoadTile<2>(b, 8);
  DotTilesBytes<0, 1, 2, true, true>();
  StoreTile<0>(c, 8);
  for (int m = 0; m < 2; ++m) {
    for (int n = 0; n < 2; ++n) EXPECT_EQ(c[m][n], static_cast<int32_t>(expected[m][n]));
  }
  ReleaseTiles();
}

TEST(TileModel, LoadsAndStoresTheConfiguredShapeAndNothingElse) {
  ConfigureTiles(Shapes({{2, 8}, {16, 64}}));
  const int32_t from[4] = {1, 2, 3, 4};
  int32_t to[8] = {9, 9, 9, 9, 9, 9, 9, 9};
  LoadTile<0>(from, 8);
  StoreTile<0>(to, 16);
  EXPECT_EQ((std::vector<int32_t>(to, to + 8)), (std::vector<int32_t>{1, 2, 9, 9, 3, 4, 9, 9}));
  LoadTile<0>(from, 0);  // one row, repeated
  StoreTile<0>(to, 8);
  EXPECT_EQ((std::vector<int32_t>(to, to + 4)), (std::vector<int32_t>{1, 2, 1, 2}));
  ZeroTile<0>();
  StoreTile<0>(to, 8);
  EXPECT_EQ((std::vector<int32_t>(to, to + 4)), (std::vector<int32_t>{0, 0, 0, 0}));
  ReleaseTiles();
}

TEST(TileModelDeathTest, RefusesWhatTheProcessorRefuses) {
  static float memory[256];
  EXPECT_DEATH(ZeroTile<0>(), "before ConfigureTiles");
  EXPECT_DEATH((ConfigureTiles(Shapes({{16, 64}})), ReleaseTiles(), LoadTile<0>(memory, 64)),
               "after ReleaseTiles");
  EXPECT_DEATH((ConfigureTiles(Shapes({{16, 64}})), LoadTile<1>(memory, 64)), "not configured");
  EXPECT_DEATH(ConfigureTiles(Shapes({{17, 64}})), "16 rows of 64 bytes");
  EXPECT_DEATH(ConfigureTiles(Shapes({{16, 0}})), "rows and bytes, or neither");
  TileConfig other = Shapes({{16, 64}});
  other.palette = 2;
  EXPECT_DEATH(ConfigureTiles(other), "palette 1");
  const auto product = [](TileConfig config) {
    ConfigureTiles(config);
    DotTilesBfloat<0, 1, 2>();
  };
  EXPECT_DEATH(product(Shapes({{16, 64}, {15, 64}, {16, 64}})), "a and c have the same rows");
  EXPECT_DEATH(product(Shapes({{16, 64}, {16, 32}, {16, 64}})), "b has a row for each element");
  EXPECT_DEATH(product(Shapes({{16, 64}, {16, 64}, {16, 32}})), "rows of b and c are as long");
  EXPECT_DEATH((ConfigureTiles(Shapes({{16, 64}, {16, 64}})), (DotTilesBytes<0, 1, 1, true, true>())),
               "three tiles");
}

// ---- the kernels -------------------------------------------------------------------------------------

using AmxLinear = OnTiles;

struct Packed {
  DeviceBuffer buffer;
  PackedWeight weight;
};
Packed PackOn(CpuOps& ops, const WeightSpec& spec, const std::vector<std::byte>& source) {
  Packed packed;
  packed.buffer = AllocateHostMemory(ops.PackedBytes(spec)).value();
  packed.weight = ops.Pack(spec, source.data(), packed.buffer.data());
  return packed;
}

std::vector<float> Product(CpuOps& ops, const PackedWeight& weight, const std::vector<float>& x,
                           const float* bias = nullptr) {
  const int64_t columns = weight.spec.columns, outputs = weight.spec.rows;
  const int64_t rows = static_cast<int64_t>(x.size()) / columns;
  std::vector<float> out(static_cast<size_t>(rows * outputs));
  const LinearTarget target{&weight, bias, Matrix{out.data(), rows, outputs, outputs}};
  ops.Linear(ConstMatrix(x.data(), rows, columns, columns), std::span(&target, 1));
  return out;
}

bool HasTiles(DataType type) { return type != DataType::kF32; }
bool IsHalf(DataType type) { return type == DataType::kF16 || type == DataType::kBF16; }

double ToBfloat(double value) { return Bfloat16ToFloat(FloatToBfloat16(static_cast<float>(value))); }
// Away from zero at ties, as the kernels round quantised weights.
double WeightToBfloat(double value) {
  const auto bits = std::bit_cast<uint32_t>(static_cast<float>(value));
  return std::bit_cast<float>((bits + 0x8000u) & 0xffff0000u);
}
// In two planes.
double ToTwoBfloats(double value) {
  const double high = ToBfloat(value);
  return high + ToBfloat(value - high);
}

struct Case {
  DataType type;
  int64_t outputs, columns, batch;
  bool with_bias;
};

void CheckLinear(CpuOps& ops, const Case& c, std::mt19937& random) {
  SCOPED_TRACE(std::string(TraitsOf(c.type).name) + " " + std::to_string(c.outputs) + "x" +
               std::to_string(c.columns) + " batch " + std::to_string(c.batch));
  const WeightSpec spec{c.type, c.outputs, c.columns, WeightPrecision::kNative};
  const std::vector<std::byte> source = RandomWeights(c.type, c.outputs, c.columns, random);
  const Packed packed = PackOn(ops, spec, source);
  const int64_t stride = c.columns + 3, out_stride = c.outputs + 5;
  const std::vector<float> x = RandomFloats(static_cast<size_t>(c.batch * stride), 1.0f, random);
  const std::vector<float> bias = RandomFloats(static_cast<size_t>(c.outputs), 1.0f, random);
  constexpr float kUntouched = 12345.0f;
  std::vector<float> out(static_cast<size_t>(c.batch * out_stride), kUntouched);
  const LinearTarget target{&packed.weight, c.with_bias ? bias.data() : nullptr,
                            Matrix{out.data(), c.batch, c.outputs, out_stride}};
  ops.Linear(ConstMatrix(x.data(), c.batch, c.columns, stride), std::span(&target, 1));

  const bool half = IsHalf(c.type);
  const double planes = c.type == DataType::kF16 ? 3 : half ? 2 : 1;
  const double input_error = c.type == DataType::kF16 ? std::ldexp(1, -15)
                             : half                   ? std::ldexp(1, -16)
                                                      : std::ldexp(1, -7) + std::ldexp(1, -16);
  const double steps = 18 + planes * static_cast<double>(TilesOf(c.columns));
  const auto columns = static_cast<size_t>(c.columns);
  std::vector<float> weight(columns);
  std::vector<double> rounded_x(columns), rounded_w(columns), slack_w(columns);
  for (int64_t n = 0; n < c.outputs; ++n) {
    const std::byte* row = source.data() + static_cast<size_t>(n) * RowBytes(c.type, c.columns);
    DequantiseRow(c.type, row, c.columns, weight.data());
    const std::vector<float> minimums = MinimumsOf(c.type, row, c.columns);
    double largest = 0;  // scale times code, of the 16 columns that share a scale at least
    for (size_t k = 0; k < columns; ++k) {
      const double w = weight[k];
      rounded_w[k] = half ? w : WeightToBfloat(w);
      for (size_t i = k; k % 16 == 0 && i < std::min(k + 16, columns); ++i) {
        largest = std::max(i == k ? 0.0 : largest, std::fabs(static_cast<double>(weight[i]) - minimums[i]));
      }
      const double off =
          minimums[k] == 0 ? 0 : kU * (2 * std::fabs(w) + 4 * std::fabs(minimums[k]) + 8 * largest);
      slack_w[k] = half ? 0 : WeightToBfloat(w + off) - WeightToBfloat(w - off);
    }
    for (int64_t m = 0; m < c.batch; ++m) {
      const float* xm = x.data() + m * stride;
      const double b = c.with_bias ? bias[static_cast<size_t>(n)] : 0.0;
      double exact = b, same = b, magnitude = 0, slack = 0;
      for (size_t k = 0; k < columns; ++k) {
        exact += static_cast<double>(weight[k]) * xm[k];
        same += rounded_w[k] * (half ? ToTwoBfloats(xm[k]) : ToBfloat(xm[k]));
        magnitude += std::fabs(static_cast<double>(weight[k]) * xm[k]);
        slack += slack_w[k] * std::fabs(xm[k]);
      }
      const double arithmetic = steps * kU * (1.01 * magnitude + std::fabs(b)) + 1.01 * slack + 1e-30;
      const double y = out[static_cast<size_t>(m * out_stride + n)];
      // The product of the low planes of f16 is missing from y and not from `same`.
      const double missing = c.type == DataType::kF16 ? std::ldexp(1, -16) * magnitude : 0;
      ASSERT_LE(std::fabs(y - same), arithmetic + missing) << n << "," << m;
      ASSERT_LE(std::fabs(y - exact), input_error * magnitude + arithmetic) << n << "," << m;
    }
  }
  for (int64_t m = 0; m < c.batch; ++m) {
    for (int64_t n = c.outputs; n < out_stride; ++n) {
      ASSERT_EQ(out[static_cast<size_t>(m * out_stride + n)], kUntouched) << "wrote beyond a row";
    }
  }
}

TEST_F(AmxLinear, AgreesWithItsOraclesForEveryTypeAtOddSizes) {
  std::mt19937 random(4);
  for (const Tiles& tiles : tiles_) {
    for (const int threads : {1, 2}) {
      SCOPED_TRACE(tiles.name + " threads " + std::to_string(threads));
      ThreadPool pool(threads);
      const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
      for (const DataType type : AllWeightTypes()) {
        if (!HasTiles(type)) continue;
        const int64_t block = std::max<int64_t>(TraitsOf(type).block_elements, 32);
        const auto near = [&](int64_t columns) { return (columns + block - 1) / block * block; };
        // Whole tiles and one row or output more or less; one row tile or panel at the end and two.
        CheckLinear(*ops, {type, 32, block, 32, false}, random);
        CheckLinear(*ops, {type, 1, near(96), 33, true}, random);
        CheckLinear(*ops, {type, 15, near(64), 47, false}, random);
        CheckLinear(*ops, {type, 17, block, 48, true}, random);
        CheckLinear(*ops, {type, 33, near(160), 49, false}, random);
        CheckLinear(*ops, {type, 48, near(576), 63, true}, random);  // SmolLM2's width
        // Widths that are decoded in parts, with sums that rest in the output between them.
        CheckLinear(*ops, {type, 50, near(384), 65, true}, random);
        CheckLinear(*ops, {type, 49, near(1600), 34, false},
                    random);  // panels that are met again for further columns
        // Two tiles of rows, and one after a full task: their sums stay in the tiles.
        CheckLinear(*ops, {type, 33, near(1600), 30, true}, random);
        CheckLinear(*ops, {type, 17, near(576), kTileTaskRows + 3, true}, random);
      }
      for (const int64_t columns : {1, 2, 7, 31, 33, 257, 641, 673}) {  // plain types take any width
        CheckLinear(*ops, {DataType::kF16, 19, columns, 35, true}, random);
        CheckLinear(*ops, {DataType::kBF16, 40, columns, 50, false}, random);
      }
    }
  }
}

// More rows than the scratch holds, so that they go in passes; and a scratch reserved for less.
TEST_F(AmxLinear, ManyRowsGoInPasses) {
  std::mt19937 random(5);
  constexpr int64_t kRows = 17000, kColumns = 256, kOutputs = 16;
  const WeightSpec spec{DataType::kQ8_0, kOutputs, kColumns, WeightPrecision::kNative};
  const std::vector<std::byte> source = RandomWeights(spec.type, kOutputs, kColumns, random);
  const std::vector<float> x = RandomFloats(kRows * kColumns, 1.0f, random);
  for (const Tiles& tiles : tiles_) {
    SCOPED_TRACE(tiles.name);
    ThreadPool pool(2);
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
    ASSERT_TRUE(ops->ReserveScratch(64, kColumns));
    EXPECT_GT(ops->ScratchBytes(4096, 1024),
              MakeTileOps(pool, VectorSet(), nullptr)->ScratchBytes(4096, 1024) + 4096 * 1024 * 4 - 1);
    const Packed packed = PackOn(*ops, spec, source);
    const std::vector<float> out = Product(*ops, packed.weight, x);
    for (int64_t begin = 0; begin < kRows; begin += 999) {
      const int64_t end = std::min(kRows, begin + TileLinear::kLeastRows);
      if (end - begin < TileLinear::kLeastRows) break;
      const std::vector<float> some(x.begin() + begin * kColumns, x.begin() + end * kColumns);
      const std::vector<float> part = Product(*ops, packed.weight, some);
      ASSERT_EQ(0, std::memcmp(part.data(), &out[static_cast<size_t>(begin * kOutputs)],
                               part.size() * sizeof(float)))
          << "row " << begin;
    }
  }
}

// Among many rows a row's bits depend on nothing but the row: not on its place, on the number of rows and
// threads, or on the targets beside it.
TEST_F(AmxLinear, ARowsResultDoesNotDependOnItsCompany) {
  std::mt19937 random(6);
  constexpr int64_t kBatch = 75, kFew = 32, kOutputs = 50, kColumns = 768;
  for (const Tiles& tiles : tiles_) {
    ThreadPool one(1), three(3);
    const std::unique_ptr<CpuOps> a = MakeTileOps(one, VectorSet(), tiles.kernels);
    const std::unique_ptr<CpuOps> b = MakeTileOps(three, VectorSet(), tiles.kernels);
    for (const DataType type : AllWeightTypes()) {
      if (!HasTiles(type)) continue;
      SCOPED_TRACE(tiles.name + " " + std::string(TraitsOf(type).name));
      const WeightSpec spec{type, kOutputs, kColumns, WeightPrecision::kNative};
      const std::vector<std::byte> source = RandomWeights(type, kOutputs, kColumns, random);
      const Packed weight = PackOn(*a, spec, source);
      const std::vector<float> x = RandomFloats(kBatch * kColumns, 1.0f, random);
      std::vector<float> together(kBatch * kOutputs), other(kBatch * kOutputs);
      const LinearTarget pair[2] = {
          {&weight.weight, nullptr, Matrix{together.data(), kBatch, kOutputs, kOutputs}},
          {&weight.weight, nullptr, Matrix{other.data(), kBatch, kOutputs, kOutputs}}};
      b->Linear(ConstMatrix(x.data(), kBatch, kColumns, kColumns), pair);
      ASSERT_EQ(together, other);
      // Rows 0, 5, 10 .. of the batch, backwards, among fewer.
      std::vector<float> few;
      std::vector<int64_t> rows;
      for (int64_t i = 0; i < kFew; ++i) rows.push_back((kFew - 1 - i) * 5 % kBatch);
      for (const int64_t row : rows) few.insert(few.end(), &x[row * kColumns], &x[row * kColumns] + kColumns);
      const std::vector<float> out = Product(*a, weight.weight, few);
      for (size_t i = 0; i < rows.size(); ++i) {
        ASSERT_EQ(0, std::memcmp(&out[i * kOutputs], &together[static_cast<size_t>(rows[i] * kOutputs)],
                                 kOutputs * sizeof(float)))
            << "row " << rows[i];
      }
    }
  }
}

// Few rows, and weights without a tile kernel, have the bits of the vector kernels; targets of both kinds may
// share a call.
TEST_F(AmxLinear, FewRowsAndFloat32StayOnTheVectorKernels) {
  std::mt19937 random(7);
  constexpr int64_t kColumns = 256;
  ThreadPool pool(2);
  const std::unique_ptr<CpuOps> plain = MakeTileOps(pool, VectorSet(), nullptr);
  for (const Tiles& tiles : tiles_) {
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
    for (const int64_t rows : {int64_t{1}, TileLinear::kLeastRows - 1, TileLinear::kLeastRows}) {
      SCOPED_TRACE(tiles.name + " " + std::to_string(rows));
      const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * kColumns), 1.0f, random);
      std::vector<Packed> weights;
      std::vector<std::vector<float>> outs, expected;
      std::vector<LinearTarget> targets;
      for (const DataType type : AllWeightTypes()) {
        for (const WeightPrecision precision : {WeightPrecision::kNative, WeightPrecision::kFloat32}) {
          const WeightSpec spec{type, 20, kColumns, precision};
          weights.push_back(PackOn(*plain, spec, RandomWeights(type, 20, kColumns, random)));
          outs.emplace_back(static_cast<size_t>(rows * 20));
        }
      }
      for (size_t i = 0; i < weights.size(); ++i) {
        targets.push_back({&weights[i].weight, nullptr, Matrix{outs[i].data(), rows, 20, 20}});
        expected.push_back(Product(*plain, weights[i].weight, x));
      }
      ops->Linear(ConstMatrix(x.data(), rows, kColumns, kColumns), targets);
      int differ = 0;
      for (size_t i = 0; i < weights.size(); ++i) {
        const WeightSpec& spec = weights[i].weight.spec;
        const bool on_tiles = rows >= TileLinear::kLeastRows && HasTiles(spec.type) &&
                              spec.precision == WeightPrecision::kNative;
        if (on_tiles) {
          EXPECT_EQ(outs[i], Product(*ops, weights[i].weight, x));
          differ += outs[i] != expected[i];
        } else {
          EXPECT_EQ(outs[i], expected[i]) << TraitsOf(spec.type).name;
        }
      }
      if (rows >= TileLinear::kLeastRows) {
        EXPECT_EQ(differ, static_cast<int>(AllWeightTypes().size()) - 1) << "the tiles were not used";
      }
    }
  }
}

// Residuals, gated pairs and peaks of rows on tiles, against the plain operations one after another.
TEST_F(AmxLinear, FusedOperationsAreTheSameAsTheirParts) {
  std::mt19937 random(11);
  constexpr int64_t kColumns = 96, kOutputs = kPeakBlock + 40;
  for (const Tiles& tiles : tiles_) {
    ThreadPool pool(2);
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
    const auto pack = [&](DataType type) {
      return PackOn(*ops, {type, kOutputs, kColumns}, RandomWeights(type, kOutputs, kColumns, random));
    };
    for (const int64_t rows : {int64_t{33}, int64_t{530}}) {  // the second in two blocks of rows
      SCOPED_TRACE(tiles.name + " " + std::to_string(rows));
      const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * kColumns), 1.0f, random);
      const ConstMatrix view(x.data(), rows, kColumns, kColumns);
      const auto size = static_cast<size_t>(rows * kOutputs);
      const auto matrix = [&](std::vector<float>& v) { return Matrix{v.data(), rows, kOutputs, kOutputs}; };
      {
        const Packed weight = pack(DataType::kQ5_0);
        const std::vector<float> bias = RandomFloats(kOutputs, 1.0f, random);
        std::vector<float> out(size), residual = RandomFloats(size, 1.0f, random), expected = residual;
        std::vector<float> peaks(static_cast<size_t>(rows * PeaksOf(kOutputs)));
        const std::vector<float> product = Product(*ops, weight.weight, x, bias.data());
        ops->Add(matrix(expected), ConstMatrix(product.data(), rows, kOutputs, kOutputs), matrix(expected));
        const LinearTarget target{.weight = &weight.weight,
                                  .bias = bias.data(),
                                  .out = matrix(out),
                                  .residual = matrix(residual),
                                  .peaks = peaks.data()};
        ops->Linear(view, std::span(&target, 1));
        EXPECT_EQ(out, product);
        EXPECT_EQ(residual, expected);
        std::vector<float> alone = RandomFloats(size, 1.0f, random),
                           expected_alone = alone;  // and nothing else is wanted
        ops->Add(matrix(expected_alone), ConstMatrix(product.data(), rows, kOutputs, kOutputs),
                 matrix(expected_alone));
        const LinearTarget added{
            .weight = &weight.weight, .bias = bias.data(), .out = matrix(out), .residual = matrix(alone)};
        ops->Linear(view, std::span(&added, 1));
        EXPECT_EQ(alone, expected_alone);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t b = 0; b < kOutputs; b += kPeakBlock) {
            const auto begin = product.begin() + r * kOutputs + b;
            const auto peak = peaks.begin() + r * PeaksOf(kOutputs) + b / kPeakBlock * kPeakLanes;
            ASSERT_EQ(*std::max_element(peak, peak + kPeakLanes),
                      *std::max_element(begin, begin + std::min(kPeakBlock, kOutputs - b)));
          }
        }
      }
      if (rows > 33) continue;
      // Pairs on tiles (one kind of weight or two), and one of which only half is.
      for (const auto& [first, second] : {std::pair{DataType::kQ4_0, DataType::kQ5_1},
                                          {DataType::kBF16, DataType::kQ8_0},
                                          {DataType::kQ8_0, DataType::kF32}}) {
        const Packed gate = pack(first), up = pack(second);
        std::vector<float> g = Product(*ops, gate.weight, x), u = Product(*ops, up.weight, x);
        ops->GatedActivation(Activation::kSilu, matrix(g), matrix(u), matrix(g));
        std::vector<float> out(size), scratch(size);
        ops->GatedLinear(view, gate.weight, up.weight, Activation::kSilu, matrix(scratch), matrix(out));
        EXPECT_EQ(out, g) << TraitsOf(first).name << " " << TraitsOf(second).name;
      }
    }
  }
}

TEST_F(AmxLinear, FeedForwardIsTheSameAsItsParts) {
  std::mt19937 random(9);
  struct Shape {
    DataType gate, up, down;
    int64_t columns, inner, rows;
  };
  // Many panels and few, an odd number of them; several blocks of rows, several passes; few rows and types
  // that go another way.
  const Shape shapes[] = {{DataType::kQ4_0, DataType::kQ4_0, DataType::kQ8_0, 64, 1056, 40},
                          {DataType::kQ8_0, DataType::kQ5_1, DataType::kQ4_0, 96, 96, 530},
                          {DataType::kQ4_K, DataType::kQ4_K, DataType::kQ6_K, 256, 768, 33},
                          {DataType::kQ4_0, DataType::kQ4_0, DataType::kQ4_0, 32, 544, 8000},
                          {DataType::kQ4_0, DataType::kQ4_0, DataType::kF16, 32, 40, 40},
                          {DataType::kF16, DataType::kF16, DataType::kQ4_0, 32, 64, 40},
                          {DataType::kQ4_0, DataType::kQ4_0, DataType::kQ4_0, 32, 64, 7}};
  for (const Tiles& tiles : tiles_) {
    ThreadPool pool(2);
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
    for (const Shape& c : shapes) {
      SCOPED_TRACE(tiles.name + " " + std::to_string(c.inner) + " x " + std::to_string(c.rows));
      if (tiles.name == "emulated" && c.rows > 1000) continue;  // slow
      constexpr int64_t kOutputs = 48;
      const auto pack = [&](DataType type, int64_t outputs, int64_t columns) {
        return PackOn(*ops, {type, outputs, columns, WeightPrecision::kNative},
                      RandomWeights(type, outputs, columns, random));
      };
      const Packed gate = pack(c.gate, c.inner, c.columns), up = pack(c.up, c.inner, c.columns);
      const Packed down = pack(c.down, kOutputs, c.inner);
      const std::vector<float> x = RandomFloats(static_cast<size_t>(c.rows * c.columns), 1.0f, random);
      const ConstMatrix view(x.data(), c.rows, c.columns, c.columns);
      const auto matrix = [&](std::vector<float>& v, int64_t columns) {
        return Matrix{v.data(), c.rows, columns, columns};
      };
      std::vector<float> scratch(static_cast<size_t>(c.rows * c.inner)), inner = scratch;
      std::vector<float> out(static_cast<size_t>(c.rows * kOutputs)), expected = out;
      ops->Ops::FeedForward(view, gate.weight, up.weight, Activation::kSilu,
                            {.weight = &down.weight, .out = matrix(expected, kOutputs)},
                            matrix(scratch, c.inner), matrix(inner, c.inner));
      ops->FeedForward(view, gate.weight, up.weight, Activation::kSilu,
                       {.weight = &down.weight, .out = matrix(out, kOutputs)}, matrix(scratch, c.inner),
                       matrix(inner, c.inner));
      EXPECT_EQ(out, expected);
      // The output may take the place of x.
      const int64_t stride = std::max(c.columns, kOutputs);
      std::vector<float> in_place(static_cast<size_t>(c.rows * stride));
      for (int64_t r = 0; r < c.rows; ++r) std::copy_n(&x[r * c.columns], c.columns, &in_place[r * stride]);
      ops->FeedForward(ConstMatrix(in_place.data(), c.rows, c.columns, stride), gate.weight, up.weight,
                       Activation::kSilu,
                       {.weight = &down.weight, .out = Matrix{in_place.data(), c.rows, kOutputs, stride}},
                       matrix(scratch, c.inner), matrix(inner, c.inner));
      for (int64_t r = 0; r < c.rows; ++r) {
        ASSERT_TRUE(
            std::equal(&in_place[r * stride], &in_place[r * stride] + kOutputs, &expected[r * kOutputs]))
            << r;
      }
      std::vector<float> residual = RandomFloats(expected.size(), 1.0f, random), sum = residual;
      ops->Add(matrix(sum, kOutputs), matrix(expected, kOutputs), matrix(sum, kOutputs));
      ops->FeedForward(
          view, gate.weight, up.weight, Activation::kSilu,
          {.weight = &down.weight, .out = matrix(out, kOutputs), .residual = matrix(residual, kOutputs)},
          matrix(scratch, c.inner), matrix(inner, c.inner));
      EXPECT_EQ(residual, sum);
    }
  }
}

// Rounding both sides to bf16 costs less than rounding x to int8 by 32 columns, which the vector kernels do,
// for every quantised type, with normal x as with heavy tails; and half precision weights stay near float32.
TEST_F(AmxLinear, IsAtLeastAsExactAsTheVectorKernels) {
  std::mt19937 random(8);
  constexpr int64_t kOutputs = 64, kColumns = 1024, kRows = 64;
  ThreadPool pool(2);
  const std::unique_ptr<CpuOps> plain = MakeTileOps(pool, VectorSet(), nullptr);
  std::student_t_distribution<float> heavy(4);
  for (const DataType type : AllWeightTypes()) {
    if (!HasTiles(type)) continue;
    for (const bool tails : {false, true}) {
      SCOPED_TRACE(std::string(TraitsOf(type).name) + (tails ? " heavy tails" : ""));
      const WeightSpec spec{type, kOutputs, kColumns, WeightPrecision::kNative};
      const std::vector<std::byte> source = RandomWeights(type, kOutputs, kColumns, random);
      const Packed packed = PackOn(*plain, spec, source);
      std::vector<float> x = RandomFloats(kRows * kColumns, 1.0f, random);
      if (tails) std::ranges::generate(x, [&] { return heavy(random); });
      std::vector<double> exact(kRows * kOutputs);
      std::vector<float> weight(kColumns);
      double size = 0;
      for (int64_t n = 0; n < kOutputs; ++n) {
        DequantiseRow(type, source.data() + static_cast<size_t>(n) * RowBytes(type, kColumns), kColumns,
                      weight.data());
        for (int64_t m = 0; m < kRows; ++m) {
          double& y = exact[static_cast<size_t>(m * kOutputs + n)];
          for (int64_t k = 0; k < kColumns; ++k)
            y += static_cast<double>(weight[static_cast<size_t>(k)]) *
                 x[static_cast<size_t>(m * kColumns + k)];
          size += y * y;
        }
      }
      const auto error = [&](const std::vector<float>& out) {
        double sum = 0;
        for (size_t i = 0; i < out.size(); ++i) sum += (out[i] - exact[i]) * (out[i] - exact[i]);
        return std::sqrt(sum / size);
      };
      const double vector_error = error(Product(*plain, packed.weight, x));
      for (const Tiles& tiles : tiles_) {
        const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
        const double tile_error = error(Product(*ops, packed.weight, x));
        if (IsHalf(type)) {
          EXPECT_LT(tile_error, std::ldexp(1, -17)) << tiles.name;
        } else {
          EXPECT_LT(tile_error, vector_error) << tiles.name;
        }
      }
    }
  }
}

TEST_F(AmxLinear, ExtremeActivationsAndScales) {
  std::mt19937 random(9);
  constexpr int64_t kColumns = 256, kOutputs = 20, kRows = 40;
  ThreadPool pool(1);
  const std::unique_ptr<CpuOps> reference = MakeReferenceOps(pool);
  for (const Tiles& tiles : tiles_) {
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
    for (const DataType type : AllWeightTypes()) {
      if (!HasTiles(type)) continue;
      SCOPED_TRACE(tiles.name + " " + std::string(TraitsOf(type).name));
      const WeightSpec spec{type, kOutputs, kColumns, WeightPrecision::kNative};
      std::vector<std::byte> source = RandomWeights(type, kOutputs, kColumns, random);
      const Packed packed = PackOn(*ops, spec, source);
      // Rows 0: zeros. 1: subnormal. 2: a NaN. 3 and 4: infinities. 5: 1e30. 6: 1e-30. The others are usual.
      std::vector<float> x = RandomFloats(kRows * kColumns, 1.0f, random);
      std::fill(&x[0], &x[kColumns], 0.0f);
      std::fill(&x[kColumns], &x[2 * kColumns], 1e-40f);
      x[2 * kColumns + 40] = std::nanf("");
      x[3 * kColumns + 41] = INFINITY;
      x[4 * kColumns + 255] = -INFINITY;
      for (int64_t k = 0; k < kColumns; ++k) x[5 * kColumns + k] *= 1e30f, x[6 * kColumns + k] *= 1e-30f;
      const std::vector<float> out = Product(*ops, packed.weight, x);
      const Packed plain = PackOn(*reference, spec, source);
      const std::vector<float> expected = Product(*reference, plain.weight, x);
      for (int64_t m = 0; m < kRows; ++m) {
        for (int64_t n = 0; n < kOutputs; ++n) {
          const auto i = static_cast<size_t>(m * kOutputs + n);
          if (m == 2) {
            EXPECT_TRUE(std::isnan(out[i])) << n;
          } else if ((m == 3 || m == 4) && type == DataType::kF16) {
            // Infinity times the low plane of the weight may be infinity of the other sign.
            EXPECT_FALSE(std::isfinite(out[i])) << n;
          } else if (m == 3 || m == 4) {  // NaN where the weight is 0
            EXPECT_EQ(std::isnan(out[i]), std::isnan(expected[i])) << n;
            if (std::isinf(expected[i])) {
              EXPECT_EQ(out[i], expected[i]) << n;
            }
          } else if (m <= 1) {
            EXPECT_LE(std::fabs(out[i]), 1e-34f) << n;
          } else {
            const float unit = m == 5 ? 1e30f : m == 6 ? 1e-30f : 1.0f;
            EXPECT_TRUE(std::isfinite(out[i]));
            EXPECT_LE(std::fabs(out[i] - expected[i]), 2.0f * unit) << n;
          }
        }
      }

      // A NaN and an infinity as the scale of one block of output 7 and 8: those outputs alone.
      const BlockFields fields = FieldsOf(type);
      if (fields.scale < 0) continue;
      const size_t row_bytes = RowBytes(type, kColumns);
      const auto put = [&](int64_t output, uint16_t bits) {
        std::memcpy(&source[static_cast<size_t>(output) * row_bytes + static_cast<size_t>(fields.scale)],
                    &bits, 2);
      };
      put(7, 0x7fff);
      put(8, 0x7c00);
      const std::vector<float> usual = RandomFloats(kRows * kColumns, 1.0f, random);
      const Packed broken = PackOn(*ops, spec, source), broken_plain = PackOn(*reference, spec, source);
      const std::vector<float> answer = Product(*ops, broken.weight, usual);
      const std::vector<float> right = Product(*reference, broken_plain.weight, usual);
      for (size_t i = 0; i < answer.size(); ++i) {
        EXPECT_EQ(std::isfinite(answer[i]), std::isfinite(right[i])) << i % kOutputs;
        EXPECT_EQ(std::isnan(answer[i]), std::isnan(right[i])) << i % kOutputs;
        EXPECT_EQ(std::isfinite(answer[i]), i % kOutputs != 7 && i % kOutputs != 8);
      }
    }
  }
}

// What the deterministic mode of "amx" promises: one kind of kernels for any number of rows.
TEST_F(AmxLinear, DeterministicModeUsesTheVectorKernelsForAnyNumberOfRows) {
  if (VectorSet() != "avx512vnni") GTEST_SKIP() << "this processor has no VNNI";
  std::mt19937 random(10);
  constexpr int64_t kColumns = 256, kOutputs = 40, kRows = 64;
  ThreadPool pool(2);
  const std::unique_ptr<CpuOps> ops = MakeVectorOps(pool, "amx", /*deterministic=*/true);
  for (const DataType type : AllWeightTypes()) {
    const WeightSpec spec{type, kOutputs, kColumns, WeightPrecision::kNative};
    const Packed packed = PackOn(*ops, spec, RandomWeights(type, kOutputs, kColumns, random));
    const std::vector<float> x = RandomFloats(kRows * kColumns, 1.0f, random);
    const std::vector<float> together = Product(*ops, packed.weight, x);
    for (int64_t m = 0; m < kRows; ++m) {
      const std::vector<float> row(&x[m * kColumns], &x[m * kColumns] + kColumns);
      ASSERT_EQ(0, std::memcmp(Product(*ops, packed.weight, row).data(), &together[m * kOutputs],
                               kOutputs * sizeof(float)))
          << TraitsOf(type).name << " row " << m;
    }
  }
}

TEST_F(AmxLinear, SaysWhichWeightsAreForTiles) {
  ThreadPool pool(1);
  for (const TileKernels* tiles : {static_cast<const TileKernels*>(nullptr), &kModelTileKernels}) {
    const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles);
    for (const DataType type : AllWeightTypes()) {
      for (const WeightPrecision precision : {WeightPrecision::kNative, WeightPrecision::kFloat32}) {
        const KernelChoice choice = ops->DescribeKernel({type, 16, 256, precision});
        const bool on_tiles = tiles != nullptr && HasTiles(type) && precision == WeightPrecision::kNative;
        EXPECT_EQ(choice.kernel.find("rows and more: amx") != std::string::npos, on_tiles) << choice.kernel;
      }
    }
  }
}

TEST_F(AmxLinear, TheProbeMultipliesWhatItCounts) {
  for (const Tiles& tiles : tiles_) {
    EXPECT_EQ(tiles.kernels->probe_int8(3), 3 * 64) << tiles.name;  // ones times ones, 64 columns, 3 rounds
    EXPECT_EQ(tiles.kernels->probe_int8_operations, 6 * 16 * 16 * 64 * 2);
  }
  ThreadPool pool(1);
  EXPECT_GT(MakeTileOps(pool, VectorSet(), &kModelTileKernels)->MeasureInt8OpsPerS(0.001), 0.0);
}

}  // namespace
}  // namespace tidepool::chips::cpu
