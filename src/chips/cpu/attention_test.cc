// Paged attention and KV append, against the reference operation (sums in double).
//
// Bound. Scores: a chain of D fused multiply-adds, then the scale: |ds| <= (D + 2) u scale sum |q_d k_d| =:
// e. exp is within 2^-21 relative, its argument within e + 2 u |s|; so every weight is off by a relative r =
// e' + 2^-20 with e' = 2 max(e + 4 u max|s|), both in the sum and in the numerator, whose additions add n u
// each, n = positions + 2 splits. So |y - y_ref| <= (2 r + 2 n u) max|v| (weights sum to one). The KV element
// type is common to both sides.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>
#include <random>

#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

constexpr double kU = 1.0 / (1 << 24);

struct Shape {
  int32_t query_heads, kv_heads, key_dim, value_dim;
  DataType type;
};

// Sequences with scattered blocks, filled with noise where nothing was written, so that a read beyond a
// sequence's end would show.
class PagedKv {
 public:
  PagedKv(const Shape& shape, int32_t layers, std::vector<int64_t> lengths, std::mt19937& random) {
    layout = {shape.type, layers, shape.kv_heads, shape.key_dim, shape.value_dim};
    size_t blocks = 0;
    for (const int64_t length : lengths) blocks += static_cast<size_t>((length + 15) / 16);
    memory_.resize(blocks * layout.block_bytes());
    // 0xff: a NaN in either element type.
    std::fill(memory_.begin(), memory_.end(), std::byte{0xff});
    std::vector<size_t> order(blocks);
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), random);
    size_t next = 0;
    for (const int64_t length : lengths) {
      tables_.emplace_back();
      for (int64_t b = 0; b < (length + 15) / 16; ++b) {
        tables_.back().push_back(memory_.data() + order[next++] * layout.block_bytes());
      }
    }
  }
  SequenceSlice Slice(size_t sequence, int32_t token_begin, int32_t token_count, int32_t context) const {
    return {token_begin, token_count, context, tables_[sequence].data(),
            static_cast<int32_t>(tables_[sequence].size())};
  }
  KvLayout layout;

 private:
  std::vector<std::byte> memory_;
  std::vector<std::vector<std::byte*>> tables_;
};

struct Input {
  std::vector<float> query, key, value;  // [tokens, heads * dim]
};
Input RandomInput(const Shape& s, int64_t tokens, std::mt19937& random) {
  const auto n = static_cast<size_t>(tokens);
  return {RandomFloats(n * static_cast<size_t>(s.query_heads * s.key_dim), 1.0f, random),
          RandomFloats(n * static_cast<size_t>(s.kv_heads * s.key_dim), 1.0f, random),
          RandomFloats(n * static_cast<size_t>(s.kv_heads * s.value_dim), 1.0f, random)};
}

struct Options {
  int32_t window = 0;
  bool causal = true;
  int32_t layer = 0;
};

// Appends and attends one step of rows [first, first + sum of counts) of the input.
std::vector<float> RunStep(Device& device, const Shape& s, const PagedKv& kv, const Input& input,
                           int64_t first, const std::vector<SequenceSlice>& slices, const Options& options) {
  int64_t tokens = 0;
  for (const SequenceSlice& slice : slices) tokens += slice.token_count;
  const auto at = [&](const std::vector<float>& data, int64_t columns) {
    return ConstMatrix(data.data() + first * columns, tokens, columns, columns);
  };
  const int64_t out_columns = s.query_heads * s.value_dim;
  std::vector<float> out(static_cast<size_t>(tokens * out_columns));
  device.ops().AppendKv({at(input.key, s.kv_heads * s.key_dim), at(input.value, s.kv_heads * s.value_dim),
                         &kv.layout, options.layer, slices});
  AttentionArgs args;
  args.query = at(input.query, s.query_heads * s.key_dim);
  args.out = Matrix{out.data(), tokens, out_columns, out_columns};
  args.layout = &kv.layout;
  args.layer = options.layer;
  args.query_heads = s.query_heads;
  args.scale = 1.0f / std::sqrt(static_cast<float>(s.key_dim));
  args.window = options.window;
  args.causal = options.causal;
  args.sequences = slices;
  device.ops().Attention(args);
  return out;
}

double BoundOf(const Shape& s, const Input& input, int64_t positions) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(s.key_dim));
  double q = 0, k = 0, v = 0;
  for (const float x : input.query) q = std::max(q, std::fabs(static_cast<double>(x)));
  for (const float x : input.key) k = std::max(k, std::fabs(static_cast<double>(x)));
  for (const float x : input.value) v = std::max(v, std::fabs(static_cast<double>(x)));
  // Cauchy-Schwarz would be tighter; the product of the peaks is simple and still small.
  const double score = scale * s.key_dim * q * k;
  const double e = (s.key_dim + 6) * kU * score;
  const double r = 2 * e + 1.0 / (1 << 20);
  return (2 * r + 2 * (static_cast<double>(positions) + 8) * kU) * v;
}

const Shape kShapes[] = {
    {4, 4, 32, 32, DataType::kF32},  {9, 3, 64, 64, DataType::kF16},   {4, 1, 64, 64, DataType::kF16},
    {14, 2, 16, 16, DataType::kF32}, {2, 1, 256, 256, DataType::kF16}, {3, 1, 24, 40, DataType::kF16},
    {2, 2, 5, 7, DataType::kF32},    {20, 1, 8, 8, DataType::kF16},
};

TEST(Attention, RaggedBatchAgreesWithTheReference) {
  std::mt19937 random(1);
  const std::unique_ptr<Device> reference = MakeDevice("reference", 2);
  // Lengths at the borders of blocks (16), vectors and splits (256).
  const std::vector<int64_t> lengths = {1, 15, 16, 17, 33, 255, 257};
  const int64_t tokens = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  for (const Shape& s : kShapes) {
    for (const Options options : {Options{0, true, 0}, Options{17, true, 1}, Options{0, false, 1}}) {
      const Input input = RandomInput(s, tokens, random);
      const auto run = [&](Device& device) {
        PagedKv kv(s, 2, lengths, random);
        std::vector<SequenceSlice> slices;
        int32_t begin = 0;
        for (size_t i = 0; i < lengths.size(); ++i) {
          slices.push_back(kv.Slice(i, begin, static_cast<int32_t>(lengths[i]), 0));
          begin += static_cast<int32_t>(lengths[i]);
        }
        return RunStep(device, s, kv, input, 0, slices, options);
      };
      const std::vector<float> expected = run(*reference);
      const double bound = BoundOf(s, input, 257);
      for (const std::string& set : VectorInstructionSets()) {
        SCOPED_TRACE(set + " heads " + std::to_string(s.query_heads) + "/" + std::to_string(s.kv_heads) +
                     " dim " + std::to_string(s.key_dim) + " window " + std::to_string(options.window));
        const std::vector<float> out = run(*MakeDevice(set, 2));
        for (size_t i = 0; i < out.size(); ++i) ASSERT_LE(std::fabs(out[i] - expected[i]), bound) << i;
      }
    }
  }
}

// One prefill, chunks of any size, token by token, alone or beside others, one thread or three: the same
// bits.
TEST(Attention, ChunkedPrefillAndDecodeGiveTheBitsOfOnePrefill) {
  std::mt19937 random(2);
  constexpr int32_t kLength = 540;
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> one = MakeDevice(set, 1), three = MakeDevice(set, 3);
    ASSERT_TRUE(three->ReserveScratch(1024, 4096).has_value());  // with room for split attention
    for (const Shape& s : kShapes) {
      for (const int32_t window : {0, 100}) {
        SCOPED_TRACE(set + " heads " + std::to_string(s.query_heads) + "/" + std::to_string(s.kv_heads));
        const Options options{window, true, 0};
        const Input input = RandomInput(s, kLength, random);
        PagedKv whole(s, 1, {kLength}, random), cut(s, 1, {kLength, kLength}, random);
        const std::vector<float> expected =
            RunStep(*one, s, whole, input, 0, {whole.Slice(0, 0, kLength, 0)}, options);
        const int64_t columns = s.query_heads * s.value_dim;
        int32_t done = 0;
        for (const int32_t chunk : {1, 2, 61, 190, 3, 1, 16, 240, 1, 1, 24}) {
          const std::vector<float> out =
              RunStep(*three, s, cut, input, done, {cut.Slice(0, 0, chunk, done)}, options);
          ASSERT_EQ(0, std::memcmp(out.data(), expected.data() + done * columns, out.size() * sizeof(float)))
              << "chunk of " << chunk << " at " << done;
          done += chunk;
        }
        ASSERT_EQ(done, kLength);
        // Two sequences side by side, the second a copy of the last 5 tokens' step of the first.
        PagedKv other(s, 1, {kLength, kLength}, random);
        RunStep(*three, s, other, input, 0, {other.Slice(0, 0, kLength - 5, 0)}, options);
        RunStep(*three, s, other, input, 0, {other.Slice(1, 0, kLength - 5, 0)}, options);
        const Input twice = [&] {
          Input result;
          const auto last = [&](const std::vector<float>& from, std::vector<float>& to) {
            const size_t count = from.size() / kLength * 5;
            for (int i = 0; i < 2; ++i)
              to.insert(to.end(), from.end() - static_cast<int64_t>(count), from.end());
          };
          last(input.query, result.query);
          last(input.key, result.key);
          last(input.value, result.value);
          return result;
        }();
        const std::vector<float> pair =
            RunStep(*three, s, other, twice, 0,
                    {other.Slice(0, 0, 5, kLength - 5), other.Slice(1, 5, 5, kLength - 5)}, options);
        for (int i = 0; i < 2; ++i) {
          ASSERT_EQ(0, std::memcmp(pair.data() + i * 5 * columns, expected.data() + (kLength - 5) * columns,
                                   static_cast<size_t>(5 * columns) * sizeof(float)));
        }
      }
    }
  }
}

TEST(Attention, NoSequencesAndEmptySlicesDoNothing) {
  std::mt19937 random(3);
  const Shape s = kShapes[0];
  for (const std::string& set : CpuInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    PagedKv kv(s, 1, {16}, random);
    const Input input = RandomInput(s, 0, random);
    EXPECT_TRUE(RunStep(*device, s, kv, input, 0, {}, {}).empty());
    EXPECT_TRUE(RunStep(*device, s, kv, input, 0, {kv.Slice(0, 0, 0, 0)}, {}).empty());
  }
}

// Scores far beyond exp's range, and equal ones: the largest takes all, or all share.
TEST(Attention, ExtremeScores) {
  std::mt19937 random(4);
  const Shape s = {1, 1, 16, 16, DataType::kF32};
  constexpr int64_t kTokens = 40;
  for (const std::string& set : CpuInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    Input input = RandomInput(s, kTokens, random);
    for (float& q : input.query) q = 1000.0f;
    for (int64_t t = 0; t < kTokens; ++t) {
      for (int64_t d = 0; d < 16; ++d)
        input.key[static_cast<size_t>(t * 16 + d)] = t == 7 ? 1000.0f : -1000.0f;
    }
    PagedKv kv(s, 1, {kTokens}, random);
    const std::vector<float> out = RunStep(*device, s, kv, input, 0, {kv.Slice(0, 0, kTokens, 0)}, {});
    for (int64_t t = 7; t < kTokens; ++t) {
      for (int64_t d = 0; d < 16; ++d) {
        EXPECT_EQ(out[static_cast<size_t>(t * 16 + d)], input.value[static_cast<size_t>(7 * 16 + d)]) << set;
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
