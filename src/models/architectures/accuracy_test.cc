// Accuracy is part of speed: the default path (quantised weights, i16 KV) is at most 1.1 times as far from
// float32 as llama.cpp is on the same file and the same tokens.
//
// Oracle: our own float32 path on the file's weights (which real_model_test compares with transformers),
// computed here; llama.cpp's figures are in testdata/real/accuracy.json, made by bench/compare_accuracy
// --write from its build for the machine, and from one limited to AVX2. Mean and 99th percentile of the KL
// divergence over the whole vocabulary, at least 5,120 positions.
#include <fstream>

#include <nlohmann/json.hpp>

#include "models/architectures/accuracy.h"

namespace tidepool::architectures::testing {
namespace {

constexpr double kMost = 1.1;

TEST(Divergence, IsThatOfTheDefinition) {
  // p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2): KL = 1/2 ln 2 + 0 - 1/4 ln 2. Adding a constant to logits
  // changes nothing.
  const float ln2 = std::log(2.0f);
  const std::vector<float> p{ln2 + 7, 7, 7}, q{-3, -3, ln2 - 3};
  EXPECT_NEAR(Divergence(p, q), 0.25 * std::log(2.0), 1e-7);
  EXPECT_NEAR(Divergence(p, p), 0, 1e-12);
  EXPECT_NEAR(Entropy(p), 1.5 * std::log(2.0), 1e-7);
}

TEST(Percentile, IsTheNearestRank) {
  std::vector<double> values(200);
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>((i * 77) % 200);
  EXPECT_EQ(Percentile(values, 0.99), 197);
  EXPECT_EQ(Percentile(values, 1), 199);
  EXPECT_EQ(Percentile({5}, 0.99), 5);
}

struct MeasuredModel {
  const char *name, *file;
  // By scripts/bench_data: too large to make, and too slow, for every test run. TIDEPOOL_ALL_MODELS=1 takes
  // them in.
  bool made_by_bench = false;
};
class AccuracyOf : public ::testing::TestWithParam<MeasuredModel> {};
INSTANTIATE_TEST_SUITE_P(
    Models, AccuracyOf,
    ::testing::Values(MeasuredModel{"smollm2_q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"},
                      MeasuredModel{"gemma3_q4_k_m", "gemma-3-270m-Q4_K_M.gguf"},
                      MeasuredModel{"qwen3_shape_q4_0", "qwen3-0.6b-shape-Q4_0.gguf", true},
                      MeasuredModel{"qwen3_shape_q8_0", "qwen3-0.6b-shape-Q8_0.gguf", true},
                      MeasuredModel{"qwen3_shape_q4_k_m", "qwen3-0.6b-shape-Q4_K_M.gguf", true}),
    [](const auto& parameter) { return parameter.param.name; });

TEST_P(AccuracyOf, IsAtMostATenthWorseThanLlamaCpps) {
  const bool made = GetParam().made_by_bench;
  const auto path = (made ? SourceFolder() / "build/bench-data" : LargeModels()) / GetParam().file;
  if (made && std::getenv("TIDEPOOL_ALL_MODELS") == nullptr)
    GTEST_SKIP() << "TIDEPOOL_ALL_MODELS=1 measures it as well";
  if (!std::filesystem::exists(path)) {
    GTEST_SKIP() << path
                 << " is absent: " << (made ? "scripts/bench_data makes it" : "scripts/test_data fetches it");
  }
  std::ifstream file(TestdataFolder() / "real/accuracy.json");
  const auto json = nlohmann::json::parse(file);
  const auto& peer = json.at("models").at(GetParam().name);
  const auto tokens = json.at("tokens").at(peer.at("tokens").get<std::string>()).get<std::vector<int32_t>>();
  const auto sequence = json.at("sequence_tokens").get<size_t>();
  ASSERT_GE(tokens.size(), 4096u);

  std::vector<std::string> sets = chips::CpuInstructionSets();
  const auto& figures = peer.at("llama_cpp");
  std::erase_if(sets, [&, best = sets.front()](const std::string& set) {
    return set != best && !(set == "avx2" && figures.contains("avx2"));
  });
  const Accuracy measured = MeasureAccuracy(path, sets, tokens, sequence);
  for (const Divergences& ours : measured.ours) {
    ASSERT_EQ(ours.values.size(), tokens.size());
    const auto& theirs =
        figures.at(ours.instruction_set == "avx2" && figures.contains("avx2") ? "avx2" : "native");
    const double mean = Mean(ours.values), p99 = Percentile(ours.values, 0.99);
    const double peer_mean = theirs.at("mean"), peer_p99 = theirs.at("p99");
    std::printf("%s %s: KL mean %.3e (llama.cpp %.3e), 99th percentile %.3e (%.3e), %zu positions\n",
                GetParam().name, ours.instruction_set.c_str(), mean, peer_mean, p99, peer_p99, tokens.size());
    EXPECT_LE(mean, kMost * peer_mean) << ours.instruction_set;
    EXPECT_LE(p99, kMost * peer_p99) << ours.instruction_set;
  }
  // The same distributions as when llama.cpp was measured: else its figures say nothing about these.
  EXPECT_NEAR(Mean(measured.entropies), peer.at("entropy").get<double>(), 1e-3);
}

}  // namespace
}  // namespace tidepool::architectures::testing
