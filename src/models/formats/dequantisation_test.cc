// Oracle: gguf.quants.dequantize of the PyPI package `gguf`; the fixture has random blocks with every extreme
// of their scale fields. All types agree bit for bit: the decoders do the same float32 products and sums in
// the same order, and half, bfloat16 and E8M0 convert exactly, so no bound is needed.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "chips/quantisation.h"
#include "models/formats/checkpoint.h"

namespace tidepool::formats {
namespace {

const char* const kFixture = TIDEPOOL_SOURCE_DIR "/src/models/formats/testdata/dequantisation.gguf";

TEST(DequantisationTest, EveryTypeEqualsTheGgufPackageBitForBit) {
  const auto checkpoint = Checkpoint::Open(kFixture);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  int types = 0;
  for (const Tensor& blocks : (*checkpoint)->tensors()) {
    if (!blocks.name.ends_with(".blocks")) continue;
    ++types;
    const std::string type(chips::TraitsOf(blocks.type).name);
    SCOPED_TRACE(type);
    EXPECT_EQ(blocks.name, type + ".blocks");
    const Tensor* expected = (*checkpoint)->Find(type + ".expected");
    ASSERT_NE(expected, nullptr);
    ASSERT_EQ(expected->shape, blocks.shape);
    const auto ours = TensorToFloat(**checkpoint, blocks);
    ASSERT_TRUE(ours) << ours.error().message;
    ASSERT_EQ(ours->size() * sizeof(float), expected->bytes.size());
    std::vector<float> theirs(ours->size());
    std::memcpy(theirs.data(), expected->bytes.data(), expected->bytes.size());
    size_t different = 0;
    for (size_t i = 0; i < theirs.size(); ++i) {
      const bool same = std::memcmp(&(*ours)[i], &theirs[i], sizeof(float)) == 0 ||
                        (std::isnan((*ours)[i]) && std::isnan(theirs[i]));
      if (!same && ++different == 1)
        ADD_FAILURE() << "element " << i << ": " << (*ours)[i] << ", not " << theirs[i];
    }
    EXPECT_EQ(different, 0u);
  }
  EXPECT_EQ(types, 16);  // F32 F16 BF16, five of 32 elements, five K, two IQ4, MXFP4
}

}  // namespace
}  // namespace tidepool::formats
