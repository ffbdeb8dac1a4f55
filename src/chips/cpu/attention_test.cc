// Paged attention and KV append, against the reference operation (sums in double).
//
// The KV element type is common to both sides. u = 2^-24.
//
// Bound in float32 (KV as f32). Scores: a chain of D fused multiply-adds, then the scale: |ds| <= (D + 6) u
// scale |q| |k| =: e. exp2 is within 2^-21 relative, its argument within e + 8 u |s|; so every weight is off
// by a relative r = 2 (e + 8 u |s|) + 2^-20, both in the sum and in the numerator, whose additions add n u
// each, n = positions + 8. So |y - y_ref| <= (2 r + 2 n u) max|v| (weights sum to one).
//
// Bound in 16-bit integers (the other types; U = 32000). e also has scale |q| |k| (sqrt(D) / U + D / 4 U^2):
// each element of q |U| / |q| is off by at most 1/2, so the vector by sqrt(D) / 2, and Cauchy-Schwarz. Values
// are off by half a code of 8191, weights by half a code each of 32767 of the largest in one split, of at
// most 256: |y - y_ref| also has max|v| (1 / (2 * 8191) + min(n, 256) / (2 * 32767)), with 2 % for q8, whose
// largest value is taken from its scale.
#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "chips/cpu/random_weights.h"
#include "chips/quantisation.h"

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

double LargestLength(const std::vector<float>& vectors, int32_t dim) {
  double largest = 0;
  for (size_t begin = 0; begin < vectors.size(); begin += static_cast<size_t>(dim)) {
    double squares = 0;
    for (size_t i = begin; i < begin + static_cast<size_t>(dim); ++i) {
      squares += static_cast<double>(vectors[i]) * vectors[i];
    }
    largest = std::max(largest, squares);
  }
  return std::sqrt(largest);
}

double BoundOf(const Shape& s, const Input& input, int64_t positions) {
  const double dim = s.key_dim, scale = 1.0 / std::sqrt(dim), n = static_cast<double>(positions);
  double v = 0;
  for (const float x : input.value) v = std::max(v, std::fabs(static_cast<double>(x)));
  // Rounded to bf16 or q8 they may be longer by some percent.
  const double score =
      1.05 * scale * LargestLength(input.query, s.key_dim) * LargestLength(input.key, s.key_dim);
  double e = (dim + 14) * kU * score;
  double rounding = 0;
  if (s.type != DataType::kF32) {
    constexpr double kUnit = 32000;
    e += score * (std::sqrt(dim) / kUnit + dim / (4 * kUnit * kUnit));
    rounding = 1.02 * (0.5 / 8191 + std::min(n, 256.0) * 0.5 / 32767);
  }
  const double r = 2 * e + 1.0 / (1 << 20);
  return (2 * r + 2 * (n + 8) * kU + rounding) * 1.05 * v;
}

// Groups of 1 to 8 and more heads; every type; whole and odd numbers of vectors, pairs and groups of 32.
const Shape kShapes[] = {
    {4, 4, 32, 32, DataType::kF32},    {9, 3, 64, 64, DataType::kF16},    {4, 1, 64, 64, DataType::kF16},
    {14, 2, 16, 16, DataType::kF32},   {2, 1, 256, 256, DataType::kF16},  {3, 1, 24, 40, DataType::kF16},
    {2, 2, 5, 7, DataType::kF32},      {20, 1, 8, 8, DataType::kF16},     {4, 2, 128, 128, DataType::kBF16},
    {5, 1, 80, 96, DataType::kBF16},   {7, 1, 33, 17, DataType::kBF16},   {2, 1, 128, 128, DataType::kQ8_0},
    {12, 2, 96, 80, DataType::kQ8_0},  {8, 1, 33, 17, DataType::kQ8_0},   {2, 2, 5, 7, DataType::kF16},
    {1, 1, 256, 256, DataType::kQ8_0}, {2, 1, 128, 128, DataType::kI16},  {9, 3, 64, 64, DataType::kI16},
    {12, 2, 96, 80, DataType::kI16},   {7, 1, 33, 17, DataType::kI16},    {14, 2, 24, 40, DataType::kI16},
    {2, 2, 5, 7, DataType::kI16},      {16, 2, 128, 128, DataType::kI16},
};
std::string NameOf(const Shape& s) {
  return " heads " + std::to_string(s.query_heads) + "/" + std::to_string(s.kv_heads) + " dim " +
         std::to_string(s.key_dim) + "/" + std::to_string(s.value_dim) + " " +
         std::string(TraitsOf(s.type).name);
}

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
        SCOPED_TRACE(set + NameOf(s) + " window " + std::to_string(options.window));
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
        SCOPED_TRACE(set + NameOf(s));
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

// One token of each of several sequences in a step, whose heads are then read together, gives the bits of the
// last row of a prefill: few sequences and many, short and long, windows, empty slices between them, elements
// that are not finite.
TEST(Attention, DecodingManyGivesTheBitsOfOnePrefill) {
  std::mt19937 random(9);
  const std::vector<int32_t> lengths = {5, 300, 17, 257, 600, 256, 2, 33, 64, 16};
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> three = MakeDevice(set, 3);
    ASSERT_TRUE(three->ReserveScratch(1024, 4096).has_value());
    for (const auto& [group, kv_heads, key_dim, value_dim] : {std::array{1, 6, 64, 64},
                                                              {2, 8, 128, 128},
                                                              {3, 3, 64, 64},
                                                              {4, 2, 40, 24},
                                                              {2, 4, 72, 136},
                                                              {4, 32, 16, 16}}) {
      const Shape s = {group * kv_heads, kv_heads, key_dim, value_dim, DataType::kI16};
      for (const size_t count : {size_t{1}, size_t{4}, lengths.size()}) {
        for (const int32_t window : {0, 100}) {
          for (const bool finite : {true, false}) {
            if (window > 0 && !finite) continue;
            SCOPED_TRACE(set + NameOf(s) +
                         fmt::format(" {} sequences, window {}, finite {}", count, window, finite));
            const Options options{window, true, 0};
            std::vector<int64_t> of_each(lengths.begin(), lengths.begin() + static_cast<ptrdiff_t>(count));
            if (count == 1)
              of_each = {kv_heads == 2 ? 6500
                                       : 1030};  // alone: its heads, or its splits, are spread over threads
            PagedKv kv(s, 1, of_each, random);
            Input last;
            std::vector<float> expected;
            std::vector<SequenceSlice> slices;
            for (size_t i = 0; i < count; ++i) {
              const auto length = static_cast<int32_t>(of_each[i]);
              Input input = RandomInput(s, length, random);
              if (!finite && i % 2 == 0) {
                input.key[static_cast<size_t>(length / 2 * kv_heads * key_dim)] = std::nanf("");
                input.value[static_cast<size_t>((length - 1) * kv_heads * value_dim)] =
                    std::numeric_limits<float>::infinity();
              }
              PagedKv whole(s, 1, {length}, random);
              const std::vector<float> out =
                  RunStep(*three, s, whole, input, 0, {whole.Slice(0, 0, length, 0)}, options);
              expected.insert(expected.end(), out.end() - s.query_heads * value_dim, out.end());
              RunStep(*three, s, kv, input, 0, {kv.Slice(i, 0, length - 1, 0)}, options);
              const auto append = [](const std::vector<float>& from, int32_t columns,
                                     std::vector<float>& to) {
                to.insert(to.end(), from.end() - columns, from.end());
              };
              append(input.query, s.query_heads * key_dim, last.query);
              append(input.key, kv_heads * key_dim, last.key);
              append(input.value, kv_heads * value_dim, last.value);
              if (i % 3 == 1) slices.push_back(kv.Slice(i, static_cast<int32_t>(i), 0, length - 1));
              slices.push_back(kv.Slice(i, static_cast<int32_t>(i), 1, length - 1));
            }
            const std::vector<float> out = RunStep(*three, s, kv, last, 0, slices, options);
            ASSERT_EQ(out.size(), expected.size());
            for (size_t i = 0; i < out.size(); ++i) {
              if (std::isnan(expected[i])) {
                ASSERT_TRUE(std::isnan(out[i])) << i;
              } else {
                ASSERT_EQ(out[i], expected[i]) << i;
              }
            }
          }
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
  constexpr int64_t kTokens = 40;
  for (const DataType type :
       {DataType::kF32, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kI16}) {
    const Shape s = {1, 1, 16, 16, type};
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
      // The value as KV holds it, and (in integers) half a code of 8191: values are below 5. q8: half a code
      // of 127.
      const double bound = type == DataType::kF32 || set == "reference" ? 0 : 5 * 0.5 / 8191;
      const double stored = type == DataType::kF32    ? 0
                            : type == DataType::kF16  ? 5.0 / (1 << 11)
                            : type == DataType::kBF16 ? 5.0 / (1 << 8)
                            : type == DataType::kI16  ? 5 * 0.5 / 8191
                                                      : 5.0 / 250;
      for (int64_t t = 7; t < kTokens; ++t) {
        for (int64_t d = 0; d < 16; ++d) {
          EXPECT_LE(std::fabs(static_cast<double>(out[static_cast<size_t>(t * 16 + d)]) -
                              input.value[static_cast<size_t>(7 * 16 + d)]),
                    bound + stored)
              << set << NameOf(s);
        }
      }
    }
  }
}

// Integers shall cost no accuracy: their error, typically far below its bound, is compared with the unit of
// f16, to which other engines round queries and weights.
TEST(Attention, IntegersAreAsPreciseAsF16) {
  std::mt19937 random(5);
  constexpr int32_t kTokens = 1000, kNew = 16;
  for (const DataType type : {DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kI16}) {
    const Shape s = {2, 1, 128, 128, type};
    Input input = RandomInput(s, kTokens, random);
    // An outlier dimension, as some models' keys have.
    for (size_t t = 0; t < kTokens; ++t) input.key[t * 128 + 5] = 30 + 0.1f * input.key[t * 128 + 5];
    const auto run = [&](Device& device) {
      PagedKv kv(s, 1, {kTokens}, random);
      RunStep(device, s, kv, input, 0, {kv.Slice(0, 0, kTokens - kNew, 0)}, {});
      return RunStep(device, s, kv, input, kTokens - kNew, {kv.Slice(0, 0, kNew, kTokens - kNew)}, {});
    };
    const std::vector<float> expected = run(*MakeDevice("reference", 2));
    for (const std::string& set : VectorInstructionSets()) {
      const std::vector<float> out = run(*MakeDevice(set, 2));
      double errors = 0, squares = 0;
      for (size_t i = 0; i < out.size(); ++i) {
        errors += std::pow(static_cast<double>(out[i]) - expected[i], 2);
        squares += std::pow(static_cast<double>(expected[i]), 2);
      }
      EXPECT_LE(std::sqrt(errors / squares), 1.0 / (1 << 11)) << set << NameOf(s);
    }
  }
}

// NaN and infinities in queries, keys and values: where the reference's output is NaN or infinite, so is
// ours, and elsewhere nothing shows of them. Later tokens do not reach earlier ones, nor those that do not
// see them.
TEST(Attention, NotFiniteElementsShowWhereTheyDoInTheReference) {
  std::mt19937 random(6);
  const float infinity = std::numeric_limits<float>::infinity(), nan = std::nanf("");
  constexpr int32_t kTokens = 300;
  const std::unique_ptr<Device> reference = MakeDevice("reference", 2);
  for (const DataType type :
       {DataType::kF32, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kI16}) {
    const Shape s = {3, 1, 40, 24, type};
    for (const float bad : {nan, infinity, -infinity}) {
      for (const char where : {'q', 'k', 'v'}) {
        for (const int32_t window : {0, 20}) {
          Input input = RandomInput(s, kTokens, random);
          const double bound = BoundOf(s, input, kTokens);
          for (const int64_t token : {3, 130, 270}) {
            if (where == 'q') input.query[static_cast<size_t>((token * 3 + 1) * 40 + 7)] = bad;
            if (where == 'k') input.key[static_cast<size_t>(token * 40 + 7)] = bad;
            if (where == 'v') input.value[static_cast<size_t>(token * 24 + 7)] = bad;
          }
          const auto run = [&](Device& device) {
            PagedKv kv(s, 1, {kTokens}, random);
            return RunStep(device, s, kv, input, 0, {kv.Slice(0, 0, kTokens, 0)}, {window, true, 0});
          };
          const std::vector<float> expected = run(*reference);
          ASSERT_TRUE(std::ranges::any_of(expected, [](float x) { return !std::isfinite(x); }) ||
                      where == 'k' || where == 'q');
          for (const std::string& set : VectorInstructionSets()) {
            SCOPED_TRACE(set + NameOf(s) + " " + where + " " + std::to_string(bad) + " window " +
                         std::to_string(window));
            const std::vector<float> out = run(*MakeDevice(set, 2));
            for (size_t i = 0; i < out.size(); ++i) {
              if (std::isnan(expected[i])) {
                ASSERT_TRUE(std::isnan(out[i])) << i << " is " << out[i];
              } else if (std::isinf(expected[i])) {
                ASSERT_EQ(out[i], expected[i]) << i;
              } else {
                ASSERT_LE(std::fabs(out[i] - expected[i]), bound) << i;
              }
            }
          }
        }
      }
    }
  }
}

// Every set writes the same KV, so that it may be read by another (the prefix cache on disk), at the places
// that KvLayout says.
TEST(AppendKv, EverySetWritesTheBytesOfTheReference) {
  std::mt19937 random(7);
  constexpr int32_t kTokens = 37;
  for (const Shape& s : kShapes) {
    Input input = RandomInput(s, kTokens, random);
    for (size_t i = 0; i < input.value.size(); i += 11) input.value[i] *= 1e-6f;  // subnormal as f16
    for (int32_t d = 0; d < s.key_dim; ++d) input.key[static_cast<size_t>(d)] = 0;
    if (s.type == DataType::kQ8_0 || s.type == DataType::kBF16 || s.type == DataType::kI16) {
      input.key[static_cast<size_t>(2 * s.kv_heads * s.key_dim)] = std::nanf("");
      input.key[static_cast<size_t>(3 * s.kv_heads * s.key_dim)] = std::numeric_limits<float>::infinity();
      input.value[static_cast<size_t>(5 * s.kv_heads * s.value_dim)] = 1e9f;
    }
    const KvLayout layout = {s.type, 2, s.kv_heads, s.key_dim, s.value_dim};
    const auto run = [&](const std::string& set) {
      std::vector<std::byte> memory(3 * layout.block_bytes(), std::byte{0x5a});
      std::vector<std::byte*> blocks;
      for (size_t b = 0; b < 3; ++b) blocks.push_back(memory.data() + (2 - b) * layout.block_bytes());
      const SequenceSlice slice = {0, kTokens, 0, blocks.data(), 3};
      const ConstMatrix key(input.key.data(), kTokens, s.kv_heads * s.key_dim, s.kv_heads * s.key_dim);
      const ConstMatrix value(input.value.data(), kTokens, s.kv_heads * s.value_dim,
                              s.kv_heads * s.value_dim);
      MakeDevice(set, 2)->ops().AppendKv({key, value, &layout, 1, std::span(&slice, 1)});
      return memory;
    };
    const std::vector<std::byte> expected = run("reference");
    // Token 20 is slot 4 of the second block; its last dimension, by the layout's own description.
    const std::byte* const block = expected.data() + layout.block_bytes();
    const int32_t head = s.kv_heads - 1, dim = s.value_dim - 1;
    const std::byte* const at = block + layout.value_offset(1, head);
    const float stored = input.value[static_cast<size_t>((20 * s.kv_heads + head) * s.value_dim + dim)];
    float read = 0;
    if (s.type == DataType::kF32) {
      std::memcpy(&read, at + (4 * s.value_dim + dim) * 4, 4);
    } else if (s.type == DataType::kQ8_0) {
      const int32_t groups = (s.value_dim + 31) / 32;
      uint16_t scale = 0;
      std::memcpy(&scale, at + 16 * s.value_dim + (4 * groups + dim / 32) * 2, 2);
      read = HalfToFloat(scale) * static_cast<float>(static_cast<int8_t>(at[4 * s.value_dim + dim]));
    } else if (s.type == DataType::kI16) {
      float scale = 0;
      int16_t code = 0;
      std::memcpy(&scale, at + 16 * (s.value_dim + s.value_dim % 2) * 2 + 4 * 4, 4);
      std::memcpy(&code, at + (2 * s.value_dim + dim) * 4, 2);
      read = scale * static_cast<float>(code);
    } else {
      uint16_t half = 0;
      std::memcpy(&half, at + (4 * s.value_dim + dim) * 2, 2);
      read = s.type == DataType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
    }
    // f16: 2^-11, bf16: 2^-8, q8: half a code of the group's largest, below 5.
    EXPECT_NEAR(read, stored,
                s.type == DataType::kQ8_0  ? 5 * 0.51 / 127
                : s.type == DataType::kI16 ? 5 * 0.51 / 8191
                                           : std::fabs(stored) / 256 + 1e-7)
        << NameOf(s);
    for (const std::string& set : VectorInstructionSets()) {
      const std::vector<std::byte> out = run(set);
      for (size_t i = 0; i < out.size(); ++i) {
        ASSERT_EQ(out[i], expected[i]) << set << NameOf(s) << " at " << i % layout.block_bytes();
      }
    }
  }
}

// Turned and appended in one pass: the bits of Rope, Rope and AppendKv one after another, for few rows and
// many, in ragged slices whose rows are not in order.
TEST(AppendKv, WithRopeInOnePassChangesNoBit) {
  std::mt19937 random(8);
  constexpr int32_t kHeads = 4, kKvHeads = 2, kDim = 40;
  for (const DataType type : {DataType::kF32, DataType::kI16}) {
    const KvLayout layout = {type, 2, kKvHeads, kDim, kDim};
    for (const std::string& set : CpuInstructionSets()) {
      const std::unique_ptr<Device> device = MakeDevice(set, 3);
      for (const auto& [rotary_dim, tokens] : {std::pair{40, 90}, {24, 90}, {40, 3}, {0, 90}}) {
        for (const RopePairing pairing : {RopePairing::kHalfSplit, RopePairing::kInterleaved}) {
          SCOPED_TRACE(set + " " + std::to_string(rotary_dim) + " of 40, " + std::to_string(tokens) +
                       " tokens");
          const std::vector<float> query =
              RandomFloats(static_cast<size_t>(tokens * kHeads * kDim), 1.0f, random);
          const std::vector<float> key =
              RandomFloats(static_cast<size_t>(tokens * kKvHeads * kDim), 1.0f, random);
          const std::vector<float> value = RandomFloats(key.size(), 1.0f, random);
          const std::vector<float> frequency = RandomFloats(kDim / 2, 0.1f, random);
          std::vector<int32_t> positions(static_cast<size_t>(tokens));
          for (int32_t& position : positions) position = static_cast<int32_t>(random() % 1000);
          struct Turned {
            std::vector<float> query, key;
            std::vector<std::byte> memory;
          };
          const auto run = [&](bool together) {
            Turned all{query, key, std::vector<std::byte>(16 * layout.block_bytes())};
            std::vector<std::byte*> blocks;
            for (size_t b = 0; b < 16; ++b) blocks.push_back(all.memory.data() + b * layout.block_bytes());
            const SequenceSlice slices[] = {{2, tokens - 2, 5, blocks.data(), 8},
                                            {0, 2, 30, blocks.data() + 8, 8}};
            RopeArgs turn;
            turn.head_dim = kDim;
            turn.rotary_dim = rotary_dim;
            turn.positions = positions;
            turn.inverse_frequency = frequency.data();
            turn.pairing = pairing;
            turn.x = Matrix{all.query.data(), tokens, kHeads * kDim, kHeads * kDim};
            RopeArgs turn_key = turn;
            turn_key.x = Matrix{all.key.data(), tokens, kKvHeads * kDim, kKvHeads * kDim};
            const KvAppendArgs append{turn_key.x,
                                      ConstMatrix(value.data(), tokens, kKvHeads * kDim, kKvHeads * kDim),
                                      &layout, 1, slices};
            if (together) {
              device->ops().RopeAndAppendKv(turn, turn_key, append);
            } else {
              device->ops().Rope(turn);
              device->ops().Rope(turn_key);
              device->ops().AppendKv(append);
            }
            return all;
          };
          const Turned apart = run(false), together = run(true);
          EXPECT_EQ(together.query, apart.query);
          EXPECT_EQ(together.key, apart.key);
          EXPECT_TRUE(together.memory == apart.memory);
          EXPECT_EQ(apart.key == key, rotary_dim == 0);
        }
      }
    }
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
