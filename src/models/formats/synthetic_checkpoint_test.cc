// tools/make_synthetic_checkpoint.py: its files open, and its weights have the mean and deviation that it
// promises, as our decoders see them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "models/formats/checkpoint.h"
#include "models/formats/file_builder_for_test.h"

namespace tidepool::formats {
namespace {

namespace fs = std::filesystem;

class SyntheticCheckpointTest : public ::testing::TestWithParam<const char*> {};

TEST_P(SyntheticCheckpointTest, HasRandomWeightsOfTheRightSize) {
  const char* given = std::getenv("TIDEPOOL_TEST_DATA");
  const fs::path data =
      given != nullptr ? fs::path(given) : fs::path(TIDEPOOL_SOURCE_DIR) / "build/test-data";
  if (!fs::exists(data)) GTEST_SKIP() << "no test data at " << data << "; scripts/test_data fetches them";
  TemporaryFolder folder;
  const fs::path path = folder.path() / "model.gguf";
  const std::string command =
      (data / "venv/bin/python").string() +
      " " TIDEPOOL_SOURCE_DIR "/tools/make_synthetic_checkpoint.py tiny --quantisation " + GetParam() +
      " --vocab " + (data / "llama.cpp/models/ggml-vocab-gpt-2.gguf").string() + " --out " + path.string() +
      " > " + (folder.path() / "log").string() + " 2>&1";
  // The vocabulary of GPT-2 is larger than the tiny model's: refused, and said.
  EXPECT_NE(std::system(command.c_str()), 0);
  EXPECT_NE(ReadWholeFile(folder.path() / "log").find("take another vocabulary"), std::string::npos);
  std::string plain = command;
  plain.erase(plain.find(" --vocab"), plain.find(" --out") - plain.find(" --vocab"));
  ASSERT_EQ(std::system(plain.c_str()), 0) << ReadWholeFile(folder.path() / "log");

  const auto opened = Checkpoint::Open(path);
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.architecture(), "qwen3");
  EXPECT_EQ(checkpoint.metadata().Int("qwen3.block_count"), 2);
  EXPECT_EQ(checkpoint.tensors().size(), 2u + 2 * 11);
  for (const Tensor& tensor : checkpoint.tensors()) {
    SCOPED_TRACE(tensor.name);
    EXPECT_TRUE(ValidateTensorValues(checkpoint, tensor));
    if (tensor.shape.size() < 2) continue;
    const auto values = TensorToFloat(checkpoint, tensor);
    ASSERT_TRUE(values) << values.error().message;
    double sum = 0;
    double squares = 0;
    for (const float v : *values) {
      sum += v;
      squares += static_cast<double>(v) * v;
    }
    const auto count = static_cast<double>(values->size());
    // Matrices that add to the residual stream: 0.02 / sqrt(2 * layers).
    const bool residual =
        tensor.name.find("_output") != std::string::npos || tensor.name.find("down") != std::string::npos;
    const double deviation = residual ? 0.01 : 0.02;
    // The scales are drawn per group, so the deviation itself has a spread of a few per cent at 2^16
    // elements.
    EXPECT_NEAR(std::sqrt(squares / count), deviation, 0.05 * deviation);
    EXPECT_NEAR(sum / count, 0, 0.05 * deviation);
  }
}

INSTANTIATE_TEST_SUITE_P(Types, SyntheticCheckpointTest, ::testing::Values("Q4_K_M", "Q3_K", "IQ4_XS"));

}  // namespace
}  // namespace tidepool::formats
