// Attention on tiles (amx_attention.inl) against the vector kernels, which attention_test.cc holds to the
// reference: equal bit for bit, since both make the same sums of integers.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "chips/cpu/amx_test_tiles.h"
#include "chips/cpu/random_weights.h"
#include "chips/cpu/thread_pool.h"

namespace tidepool::chips::cpu {
namespace {

using AmxAttention = OnTiles;

struct Case {
  int32_t key_dim, value_dim, heads, kv_heads;
  int32_t context, tokens;
  int32_t window = 0;
  bool causal = true;
};

struct Input {
  std::vector<float> query, key, value;  // of the tokens; of all positions
};

Input RandomInput(const Case& c, float spread, std::mt19937& random) {
  const auto positions = static_cast<size_t>(c.context + c.tokens);
  const auto floats = [&](size_t count) { return RandomFloats(count, spread, random); };
  return {floats(static_cast<size_t>(c.tokens * c.heads * c.key_dim)),
          floats(positions * static_cast<size_t>(c.kv_heads * c.key_dim)),
          floats(positions * static_cast<size_t>(c.kv_heads * c.value_dim))};
}

std::vector<float> Attend(CpuOps& ops, const Case& c, const Input& input) {
  const KvLayout layout{DataType::kI16, 1, c.kv_heads, c.key_dim, c.value_dim};
  const int32_t positions = c.context + c.tokens, blocks = (positions + kKvBlockTokens - 1) / kKvBlockTokens;
  DeviceBuffer memory = AllocateHostMemory(static_cast<size_t>(blocks) * layout.block_bytes()).value();
  std::vector<std::byte*> table;
  for (int32_t b = 0; b < blocks; ++b)
    table.push_back(memory.data() + static_cast<size_t>(b) * layout.block_bytes());
  const SequenceSlice all{0, positions, 0, table.data(), blocks};
  const int64_t key_columns = c.kv_heads * c.key_dim, value_columns = c.kv_heads * c.value_dim;
  ops.AppendKv({ConstMatrix(input.key.data(), positions, key_columns, key_columns),
                ConstMatrix(input.value.data(), positions, value_columns, value_columns), &layout, 0,
                std::span(&all, 1)});
  const int64_t columns = c.heads * c.key_dim, out_columns = c.heads * c.value_dim;
  std::vector<float> out(static_cast<size_t>(c.tokens * out_columns), 12345.0f);
  const SequenceSlice slice{0, c.tokens, c.context, table.data(), blocks};
  AttentionArgs args;
  args.query = ConstMatrix(input.query.data(), c.tokens, columns, columns);
  args.out = Matrix{out.data(), c.tokens, out_columns, out_columns};
  args.layout = &layout;
  args.query_heads = c.heads;
  args.scale = 0.11f;
  args.window = c.window;
  args.causal = c.causal;
  args.sequences = std::span(&slice, 1);
  ops.Attention(args);
  return out;
}

void ExpectSameBits(const std::vector<float>& actual, const std::vector<float>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  if (std::memcmp(actual.data(), expected.data(), actual.size() * sizeof(float)) == 0) return;
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_EQ(std::memcmp(&actual[i], &expected[i], sizeof(float)), 0)
        << i << ": " << actual[i] << ", not " << expected[i];
  }
}

constexpr Case kCases[] = {
    {64, 64, 4, 4, 0, 16},            // one tile of rows
    {64, 64, 6, 2, 0, 300},           // groups of three; two splits, the second in part
    {128, 128, 4, 2, 250, 37},        // rows on both sides of a split's border, and a rest of rows
    {128, 128, 2, 1, 700, 64},        // several splits
    {80, 80, 2, 2, 30, 50},           // a second tile of dimensions in part
    {96, 48, 2, 1, 5, 40},            // values shorter than keys
    {72, 40, 2, 2, 0, 33},            // and the last of them in part
    {33, 20, 3, 3, 10, 35},           // an odd number of dimensions
    {256, 256, 1, 1, 40, 20},         // four tiles of dimensions
    {64, 64, 2, 2, 200, 150, 50},     // a window that leaves blocks and a split behind
    {64, 64, 2, 1, 0, 90, 0, false},  // every row sees all
};

TEST_F(AmxAttention, GivesTheBitsOfTheVectorKernels) {
  std::mt19937 random(1);
  for (const Case& c : kCases) {
    const Input input = RandomInput(c, 2.0f, random);
    ThreadPool alone(1);
    const std::unique_ptr<CpuOps> vectors = MakeTileOps(alone, VectorSet(), nullptr);
    const std::vector<float> expected = Attend(*vectors, c, input);
    for (const Tiles& tiles : tiles_) {
      for (const int threads : {1, 2}) {
        SCOPED_TRACE(tiles.name + " " + std::to_string(c.key_dim) + " dimensions, " +
                     std::to_string(c.context) + " + " + std::to_string(c.tokens) + " tokens, threads " +
                     std::to_string(threads));
        ThreadPool pool(threads);
        const std::unique_ptr<CpuOps> ops = MakeTileOps(pool, VectorSet(), tiles.kernels);
        ExpectSameBits(Attend(*ops, c, input), expected);
      }
    }
  }
}

// The largest codes that there are, all of one sign: one dimension is all of the length, and values are
// equal.
TEST_F(AmxAttention, LargestCodesAreMultipliedExactly) {
  std::mt19937 random(2);
  const Case c{128, 64, 2, 1, 300, 32};
  Input input = RandomInput(c, 1e-4f, random);
  const auto set = [](std::vector<float>& rows, int32_t columns, float value) {
    for (size_t i = 0; i < rows.size(); i += static_cast<size_t>(columns))
      rows[i + 5] = (i / static_cast<size_t>(columns)) % 3 == 0 ? -value : value;
  };
  set(input.query, c.key_dim, 3.0f);
  set(input.key, c.key_dim, 3.0f);
  for (float& v : input.value) v = 7.0f;
  ThreadPool pool(1);
  const std::vector<float> expected = Attend(*MakeTileOps(pool, VectorSet(), nullptr), c, input);
  for (const Tiles& tiles : tiles_) {
    SCOPED_TRACE(tiles.name);
    ExpectSameBits(Attend(*MakeTileOps(pool, VectorSet(), tiles.kernels), c, input), expected);
  }
}

// What has no scale leaves the tiles, for the rows and splits that it is in.
TEST_F(AmxAttention, NotFiniteElementsShowWhereTheyDoOnVectors) {
  std::mt19937 random(3);
  const Case c{64, 64, 2, 1, 100, 250};
  const float odd[] = {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()};
  for (const float value : odd) {
    for (int place = 0; place < 3; ++place) {
      Input input = RandomInput(c, 1.0f, random);
      std::vector<float>& rows = place == 0 ? input.query : place == 1 ? input.key : input.value;
      rows[rows.size() / 2 + 7] = value;
      ThreadPool pool(1);
      const std::vector<float> expected = Attend(*MakeTileOps(pool, VectorSet(), nullptr), c, input);
      for (const Tiles& tiles : tiles_) {
        SCOPED_TRACE(tiles.name + " " + std::to_string(place));
        const std::vector<float> actual = Attend(*MakeTileOps(pool, VectorSet(), tiles.kernels), c, input);
        for (size_t i = 0; i < actual.size(); ++i) {
          if (std::isnan(expected[i])) {
            ASSERT_TRUE(std::isnan(actual[i])) << i;
          } else {
            ASSERT_EQ(actual[i], expected[i]) << i;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
