// Conversions of single numbers, exhaustively, against the compiler's own _Float16 and against their
// definitions. Blocks are compared with the gguf package in models/formats/dequantisation_test.cc, which can
// read its fixture.
#include "chips/quantisation.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace tidepool::chips {
namespace {

uint32_t Bits(float value) { return std::bit_cast<uint32_t>(value); }

_Float16 HalfFromBits(uint16_t bits) { return std::bit_cast<_Float16>(bits); }

TEST(HalfTest, EveryHalfDecodesAsTheCompilerDoes) {
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float ours = HalfToFloat(static_cast<uint16_t>(bits));
    const auto theirs = static_cast<float>(HalfFromBits(static_cast<uint16_t>(bits)));
    if (std::isnan(theirs)) {
      EXPECT_TRUE(std::isnan(ours)) << bits;
      EXPECT_EQ(std::signbit(ours), std::signbit(theirs)) << bits;
    } else {
      ASSERT_EQ(Bits(ours), Bits(theirs)) << bits;
    }
  }
}

void ExpectRoundsLikeCompiler(float value) {
  const auto theirs = std::bit_cast<uint16_t>(static_cast<_Float16>(value));
  ASSERT_EQ(FloatToHalf(value), theirs) << std::hexfloat << value;
}

TEST(HalfTest, RoundsToNearestEvenLikeTheCompiler) {
  // Every half, every midpoint between neighbours, and the floats next to those: all the cases of rounding.
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const float low = HalfToFloat(static_cast<uint16_t>(bits));
    const float high = bits == 0x7bff ? 65536.0f : HalfToFloat(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2;  // exact: one bit more than a half has
    for (const float v : {low, middle, std::nextafter(middle, low), std::nextafter(middle, high)}) {
      ExpectRoundsLikeCompiler(v);
      ExpectRoundsLikeCompiler(-v);
    }
  }
  std::mt19937 random(1);
  for (int i = 0; i < 1'000'000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    if (!std::isnan(value)) ExpectRoundsLikeCompiler(value);
  }
  EXPECT_TRUE(std::isnan(HalfToFloat(FloatToHalf(std::numeric_limits<float>::quiet_NaN()))));
  EXPECT_EQ(FloatToHalf(std::numeric_limits<float>::infinity()), 0x7c00);
}

TEST(Bfloat16Test, DecodesAndRoundsToNearestEven) {
  std::mt19937 random(2);
  for (uint32_t bits = 0; bits <= 0xffff; ++bits) {
    const float value = Bfloat16ToFloat(static_cast<uint16_t>(bits));
    ASSERT_EQ(Bits(value), bits << 16);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(value)))) << bits;
    } else {
      ASSERT_EQ(FloatToBfloat16(value), bits);
    }
  }
  for (int i = 0; i < 1'000'000; ++i) {
    const uint32_t bits = static_cast<uint32_t>(random()) & 0x7fffffffu;
    if (bits >= 0x7f000000u) continue;  // keep clear of infinity: the neighbours below must be finite
    const auto down = static_cast<uint16_t>(bits >> 16);
    const double value = std::bit_cast<float>(bits);
    const double below = value - Bfloat16ToFloat(down);
    const double above = Bfloat16ToFloat(static_cast<uint16_t>(down + 1)) - value;
    const bool up = above < below || (above == below && (down & 1) != 0);
    ASSERT_EQ(FloatToBfloat16(std::bit_cast<float>(bits)), up ? down + 1 : down) << bits;
  }
  // The largest NaN payload must not carry into infinity or zero.
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::bit_cast<float>(0x7fffffffu)))));
  EXPECT_TRUE(std::isnan(Bfloat16ToFloat(FloatToBfloat16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(Float8Test, EveryE4M3ValueFollowsItsDefinition) {
  for (int bits = 0; bits < 256; ++bits) {
    const int exponent = bits >> 3 & 15;
    const int mantissa = bits & 7;
    const float value = Float8E4M3ToFloat(static_cast<uint8_t>(bits));
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
    if ((bits & 127) == 127) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      continue;
    }
    const double magnitude =
        exponent == 0 ? std::ldexp(mantissa / 8.0, 1 - 7) : std::ldexp(1 + mantissa / 8.0, exponent - 7);
    EXPECT_EQ(std::abs(value), magnitude) << bits;
  }
  EXPECT_EQ(Float8E4M3ToFloat(0x7e), 448.0f);
}

TEST(DataTypeTest, NumbersOfAnotherFileFormatAreUnknown) {
  for (const int unknown : {4, 5, 9, 15, 16, 29, 31, 40, 999, 1001, 65535}) {
    EXPECT_EQ(FindDataTypeTraits(static_cast<DataType>(unknown)), nullptr) << unknown;
    EXPECT_FALSE(CanDequantise(static_cast<DataType>(unknown))) << unknown;
  }
}

TEST(DataTypeTest, RowBytes) {
  EXPECT_EQ(RowBytes(DataType::kQ4_K, 512), 2u * 144);
  EXPECT_EQ(RowBytes(DataType::kQ8_0, 64), 68u);
  EXPECT_EQ(RowBytes(DataType::kBF16, 3), 6u);
  EXPECT_EQ(RowBytes(DataType::kMXFP4, 0), 0u);
}

TEST(DequantiseRowTest, NeedsNoAlignmentAndStaysInItsRow) {
  for (int type = 0; type <= 1000; ++type) {
    const auto data_type = static_cast<DataType>(type);
    if (!CanDequantise(data_type)) continue;
    const DataTypeTraits& traits = TraitsOf(data_type);
    const int64_t columns = 3 * traits.block_elements;
    const size_t bytes = RowBytes(data_type, columns);
    // Exact-size heap blocks, so that a sanitizer sees one byte too many; at an odd address the second time.
    std::vector<std::byte> aligned(bytes);
    for (size_t i = 0; i < bytes; ++i) aligned[i] = static_cast<std::byte>(i * 37 % 64);
    std::vector<std::byte> shifted(bytes + 1);
    std::memcpy(shifted.data() + 1, aligned.data(), bytes);
    std::vector<float> first(static_cast<size_t>(columns));
    std::vector<float> second(static_cast<size_t>(columns));
    DequantiseRow(data_type, aligned.data(), columns, first.data());
    DequantiseRow(data_type, shifted.data() + 1, columns, second.data());
    EXPECT_EQ(std::memcmp(first.data(), second.data(), first.size() * sizeof(float)), 0) << traits.name;
  }
}

}  // namespace
}  // namespace tidepool::chips
