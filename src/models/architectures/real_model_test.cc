#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {
namespace {

TEST(SmolLm2, SaysTheCapitalOfFrance) {
  const auto path = LargeModels() / "SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
  ModelRunner runner(CpuDevice("reference"), path, {});
  // "The capital of France is"
  TestSequence s = runner.NewSequence({504, 3575, 282, 4649, 314}, 16);
  TestSequence* const one = &s;
  const auto vocab = static_cast<size_t>(runner.model().info().vocab_size);
  std::vector<int32_t> answer;
  for (int n = 0; n < 2; ++n) {
    const int32_t count = static_cast<int32_t>(s.pending.size());
    s.output.clear();
    runner.RunStep(std::span(&one, 1), std::span(&count, 1));
    const auto last = s.output.end() - static_cast<std::ptrdiff_t>(vocab);
    const auto best = static_cast<int32_t>(std::max_element(last, s.output.end()) - last);
    answer.push_back(best);
    s.pending.push_back(best);
  }
  EXPECT_EQ(answer[0], 7042) << "should be ' Paris'";
  EXPECT_EQ(answer[1], 30) << "should be '.'";
}

}  // namespace
}  // namespace tidepool::architectures::testing
