// Bad scales of every type, planted into blocks that are sound otherwise.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "chips/quantisation.h"
#include "models/formats/checkpoint.h"
#include "models/formats/file_builder_for_test.h"

namespace tidepool::formats {
namespace {

using chips::DataType;
using ::testing::HasSubstr;

constexpr DataType kTypes[] = {DataType::kF32,  DataType::kF16,    DataType::kBF16,   DataType::kQ4_0,
                               DataType::kQ4_1, DataType::kQ5_0,   DataType::kQ5_1,   DataType::kQ8_0,
                               DataType::kQ2_K, DataType::kQ3_K,   DataType::kQ4_K,   DataType::kQ5_K,
                               DataType::kQ6_K, DataType::kIQ4_NL, DataType::kIQ4_XS, DataType::kMXFP4};

std::unique_ptr<Checkpoint> AnyCheckpoint() {
  auto checkpoint = Checkpoint::Open(TIDEPOOL_SOURCE_DIR "/src/models/formats/testdata/metadata.gguf");
  return checkpoint ? std::move(*checkpoint) : nullptr;
}

Tensor TensorOver(DataType type, const std::vector<std::byte>& bytes) {
  const chips::DataTypeTraits& traits = chips::TraitsOf(type);
  Tensor tensor;
  tensor.name = "w";
  tensor.type = type;
  tensor.shape = {static_cast<int64_t>(bytes.size()) / traits.block_bytes * traits.block_elements};
  tensor.bytes = bytes;
  return tensor;
}

// The property that matters: a tensor passes exactly when all its decoded values are finite. Random bytes,
// with exponents of scale fields pushed to the top often enough to matter.
TEST(ValidateTensorValuesTest, PassesExactlyWhenEveryDecodedValueIsFinite) {
  const auto checkpoint = AnyCheckpoint();
  ASSERT_NE(checkpoint, nullptr);
  uint64_t state = 1;
  const auto random_byte = [&state] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<std::byte>(state >> 56);
  };
  for (const DataType type : kTypes) {
    SCOPED_TRACE(chips::TraitsOf(type).name);
    const auto size = static_cast<size_t>(chips::TraitsOf(type).block_bytes);
    int sound = 0;
    int bad = 0;
    for (int round = 0; round < 20'000; ++round) {
      std::vector<std::byte> bytes(size);
      for (std::byte& b : bytes) b = random_byte();
      std::vector<float> values(static_cast<size_t>(chips::TraitsOf(type).block_elements));
      chips::DequantiseRow(type, bytes.data(), static_cast<int64_t>(values.size()), values.data());
      bool finite = true;
      for (const float v : values) finite = finite && std::isfinite(v);
      const bool passes = ValidateTensorValues(*checkpoint, TensorOver(type, bytes)).has_value();
      if (passes) {
        ASSERT_TRUE(finite) << round;
      }
      // A bad scale whose quants or sub-scales are all zero decodes to finite values (NaN * 0 is NaN, so only
      // for E8M0, where 253 to 255 need a large quant to overflow); it is refused all the same.
      if (type != DataType::kMXFP4) {
        ASSERT_EQ(passes, finite) << round;
      }
      ++(passes ? sound : bad);
    }
    EXPECT_GT(sound, 100);
    EXPECT_GT(bad, 20);
  }
}

TEST(ValidateTensorValuesTest, NamesTheFirstBadBlock) {
  const auto checkpoint = AnyCheckpoint();
  ASSERT_NE(checkpoint, nullptr);
  for (const DataType type : kTypes) {
    const chips::DataTypeTraits& traits = chips::TraitsOf(type);
    SCOPED_TRACE(traits.name);
    std::vector<std::byte> bytes(static_cast<size_t>(traits.block_bytes) * 10'000);
    EXPECT_TRUE(ValidateTensorValues(*checkpoint, TensorOver(type, bytes)));
    const size_t block = static_cast<size_t>(traits.block_bytes) * 9'876;
    for (size_t i = 0; i < static_cast<size_t>(traits.block_bytes); ++i) bytes[block + i] = std::byte{0xff};
    const Status status = ValidateTensorValues(*checkpoint, TensorOver(type, bytes));
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kCorrupt);
    EXPECT_EQ(status.error().code, "bad_tensor_values");
    EXPECT_EQ(status.error().param, "w");
    EXPECT_THAT(status.error().message, HasSubstr("9876 of 10000"));
  }
}

TEST(ValidateTensorValuesTest, IntegersPass) {
  const auto checkpoint = AnyCheckpoint();
  ASSERT_NE(checkpoint, nullptr);
  const std::vector<std::byte> bytes(64, std::byte{0xff});
  EXPECT_TRUE(ValidateTensorValues(*checkpoint, TensorOver(DataType::kI64, bytes)));
  EXPECT_FALSE(ValidateTensorValues(*checkpoint, TensorOver(DataType::kF8_E4M3, bytes)));
}

}  // namespace
}  // namespace tidepool::formats
