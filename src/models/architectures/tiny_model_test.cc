// Oracle: Hugging Face transformers in float64 on small random models of every family (testdata/tiny, written
// by tools/make_architecture_fixtures.py), from safetensors, GGUF and quantised GGUF.
#include <cmath>
#include <cstring>
#include <fstream>
#include <map>

#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {
namespace {

struct Expected {
  std::vector<int32_t> tokens;
  std::vector<int32_t> rows;
  size_t columns = 0;
  double float32_error = 0;    // largest deviation of transformers' own float32 run from its float64 run
  std::vector<double> values;  // [rows, columns]
};

template <typename T>
std::vector<T> Read(std::ifstream& in, size_t count) {
  std::vector<T> values(count);
  in.read(reinterpret_cast<char*>(values.data()), static_cast<std::streamsize>(count * sizeof(T)));
  return values;
}

Expected ReadExpected(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  EXPECT_TRUE(in.good()) << path;
  const auto header = Read<uint32_t>(in, 4);
  Expected e;
  e.float32_error = Read<double>(in, 1)[0];
  e.tokens = Read<int32_t>(in, header[0]);
  e.rows = Read<int32_t>(in, header[1]);
  e.columns = header[2];
  e.values = Read<double>(in, header[1] * e.columns);
  EXPECT_TRUE(in.good()) << path;
  return e;
}

double LargestError(const Expected& expected, const std::vector<float>& actual) {
  double worst = 0;
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    for (size_t c = 0; c < expected.columns; ++c) {
      const double got = actual.at(static_cast<size_t>(expected.rows[r]) * expected.columns + c);
      const double error = std::abs(got - expected.values[r * expected.columns + c]);
      if (!(error <= worst)) worst = error;  // a NaN stays
    }
  }
  return worst;
}

double RelativeError(const Expected& expected, const std::vector<float>& actual) {
  double error = 0, size = 0;
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    for (size_t c = 0; c < expected.columns; ++c) {
      const double want = expected.values[r * expected.columns + c];
      error += std::pow(actual[static_cast<size_t>(expected.rows[r]) * expected.columns + c] - want, 2);
      size += want * want;
    }
  }
  return std::sqrt(error / size);
}

std::vector<std::string> TinyModels() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(TestdataFolder() / "tiny")) {
    names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

class TinyModel : public ::testing::TestWithParam<std::string> {
 protected:
  std::filesystem::path Folder() const { return TestdataFolder() / "tiny" / GetParam(); }
};
INSTANTIATE_TEST_SUITE_P(Families, TinyModel, ::testing::ValuesIn(TinyModels()),
                         [](const auto& parameter) { return parameter.param; });

LoadOptions Precise() {
  return {.precision = chips::WeightPrecision::kFloat32, .kv_type = chips::DataType::kF32};
}

// Our float32 run may err from the float64 answer by a few times what transformers' own float32 run errs:
// both make the same number of roundings in different orders, so the errors are draws from like
// distributions.
constexpr double kTimesTheOraclesOwnError = 6;

TEST_P(TinyModel, AnswersAsTransformersFromEveryFormatOnEveryInstructionSet) {
  for (const std::string& set : chips::CpuInstructionSets()) {
    for (const auto& [file, answers] :
         {std::pair("", "expected.bin"), std::pair("model.gguf", "expected.bin"),
          std::pair("quantised.gguf", "quantised.bin")}) {
      SCOPED_TRACE(set + " " + file);
      const Expected expected = ReadExpected(Folder() / answers);
      ModelRunner runner(CpuDevice(set), *file == '\0' ? Folder() : Folder() / file, Precise());
      const std::vector<float> actual = runner.Run(expected.tokens, 64);
      ASSERT_EQ(actual.size(), expected.tokens.size() * expected.columns);
      EXPECT_LT(LargestError(expected, actual), kTimesTheOraclesOwnError * expected.float32_error);
    }
  }
}

// With quantised weights kernels may round activations to int8: per block of 32 that costs about
// max|x| / (127 sqrt(12) rms(x)) = 0.6 % of a product's size (max = 2.6 rms), and a dozen products in a row
// add up as their root: 2 %. F16 KV adds 2^-11 per value. Ten per cent is a mistake, not rounding.
TEST_P(TinyModel, NativeQuantisedWeightsStayCloseToFloat64) {
  const Expected expected = ReadExpected(Folder() / "quantised.bin");
  for (const std::string& set : chips::CpuInstructionSets()) {
    SCOPED_TRACE(set);
    ModelRunner runner(CpuDevice(set), Folder() / "quantised.gguf", {});
    EXPECT_LT(RelativeError(expected, runner.Run(expected.tokens, 64)), 0.1);
  }
}

// ---- the same answer alone, in a batch, in chunks, on one thread: bit for bit ------------------------

std::vector<std::vector<float>> RunTogether(ModelRunner& runner,
                                            const std::vector<std::vector<int32_t>>& texts, bool whole) {
  std::vector<TestSequence> sequences;
  for (const auto& text : texts) sequences.push_back(runner.NewSequence(text));
  for (int step = 0;; ++step) {
    std::vector<TestSequence*> active;
    std::vector<int32_t> counts;
    for (size_t i = 0; i < sequences.size(); ++i) {
      const auto left = static_cast<int32_t>(sequences[i].pending.size());
      if (left == 0) continue;
      // Uneven on purpose: decodes of one token beside chunks of up to 11.
      const int32_t count =
          whole ? left : std::min<int32_t>(left, 1 + (step * 7 + static_cast<int32_t>(i) * 5) % 11);
      active.push_back(&sequences[i]);
      counts.push_back(count);
    }
    if (active.empty()) break;
    runner.RunStep(active, counts);
  }
  std::vector<std::vector<float>> outputs;
  for (TestSequence& sequence : sequences) outputs.push_back(std::move(sequence.output));
  return outputs;
}

TEST_P(TinyModel, BatchesAndChunksChangeNoBit) {
  const Expected expected = ReadExpected(Folder() / "expected.bin");
  const auto at = [&](std::ptrdiff_t n) { return expected.tokens.begin() + n; };
  const std::vector<std::vector<int32_t>> texts = {
      expected.tokens, {at(5), at(22)}, {at(30), at(31)}, {at(3), at(36)}};
  for (const std::string& set : chips::CpuInstructionSets()) {
    for (const chips::DataType kv : {chips::DataType::kF32, chips::DataType::kF16, chips::DataType::kBF16,
                                     chips::DataType::kQ8_0, chips::DataType::kI16}) {
      for (const char* file : {"", "quantised.gguf"}) {
        SCOPED_TRACE(set + " " + file + " " + std::string(chips::TraitsOf(kv).name));
        const auto path = *file == '\0' ? Folder() : Folder() / file;
        ModelRunner runner(CpuDevice(set), path, {.kv_type = kv});
        ModelRunner single(CpuDevice(set, 1), path, {.kv_type = kv});
        std::vector<std::vector<float>> alone;
        for (const auto& text : texts) alone.push_back(single.Run(text, 64));
        EXPECT_EQ(RunTogether(runner, texts, /*whole=*/true), alone);
        if (runner.model().info().causal) {
          EXPECT_EQ(RunTogether(runner, texts, /*whole=*/false), alone);
        }
      }
    }
  }
}

// Without `deterministic` a kernel may round otherwise where rows are many (tiles of AMX do). Then a text in
// one step and in steps of a few tokens differ by rounding: a quantised product by 0.6 % (above), a dozen in
// a row by 2 %, both sides; ten per cent is a mistake. The likeliest token changes only where the best two
// were as near.
TEST_P(TinyModel, WithoutDeterminismOnlyRoundingAndNearTiesDiffer) {
  const Expected expected = ReadExpected(Folder() / "expected.bin");
  for (const std::string& set : chips::CpuInstructionSets()) {
    for (const char* file : {"", "quantised.gguf"}) {
      SCOPED_TRACE(set + " " + file);
      const auto path = *file == '\0' ? Folder() : Folder() / file;
      ModelRunner runner(CpuDevice(set, 2, /*deterministic=*/false), path, {});
      if (!runner.model().info().causal) continue;  // cannot be cut into steps
      const std::vector<float> whole = runner.Run(expected.tokens, 64),
                               parts = runner.Run(expected.tokens, 5);
      ASSERT_EQ(whole.size(), parts.size());
      double error = 0, size = 0;
      for (size_t i = 0; i < whole.size(); ++i) {
        error += std::pow(whole[i] - parts[i], 2);
        size += std::pow(parts[i], 2);
      }
      EXPECT_LT(std::sqrt(error / size), 0.1);
      const double near = 0.2 * std::sqrt(size / static_cast<double>(whole.size()));
      size_t ties = 0;
      for (size_t row = 0; row < whole.size(); row += expected.columns) {
        const auto best = [&](const std::vector<float>& logits) {
          const auto begin = logits.begin() + static_cast<std::ptrdiff_t>(row);
          return std::max_element(begin, begin + static_cast<std::ptrdiff_t>(expected.columns)) - begin;
        };
        const auto a = static_cast<size_t>(best(whole)), b = static_cast<size_t>(best(parts));
        if (a == b) continue;
        EXPECT_LT(parts[row + b] - parts[row + a], near) << "row " << row / expected.columns;
        ++ties;
      }
      EXPECT_LE(ties, whole.size() / expected.columns / 5);
    }
  }
}

// ---- sizes -----------------------------------------------------------------------------------------

TEST_P(TinyModel, PackedBytesAreKnownBeforeLoading) {
  for (const std::string& set : chips::CpuInstructionSets()) {
    for (const char* file : {"", "model.gguf", "quantised.gguf"}) {
      for (const auto precision : {chips::WeightPrecision::kNative, chips::WeightPrecision::kFloat32}) {
        const auto device = CpuDevice(set);
        const auto checkpoint = Must(formats::Checkpoint::Open(*file == '\0' ? Folder() : Folder() / file));
        const LoadOptions options{.precision = precision};
        const uint64_t promised = Must(PackedModelBytes(*checkpoint, *device, options));
        EXPECT_EQ(Must(LoadModel(*checkpoint, *device, options))->info().weight_bytes, promised)
            << set << file;
      }
    }
  }
}

// Forward must stay inside WorkspaceBytes: guards around it stay untouched at the largest step.
TEST_P(TinyModel, ForwardStaysInsideItsWorkspace) {
  const Expected expected = ReadExpected(Folder() / "expected.bin");
  const auto tokens = static_cast<int32_t>(expected.tokens.size());
  ModelRunner runner(CpuDevice("reference"), Folder(), {}, {.max_tokens = tokens, .max_logit_rows = tokens});
  const size_t bytes = runner.model().WorkspaceBytes(runner.limits());
  constexpr size_t kGuard = 4096;
  constexpr std::byte kMark{0xA5};
  chips::DeviceBuffer guarded = Must(runner.device().Allocate(bytes + 2 * kGuard));
  std::memset(guarded.data(), static_cast<int>(kMark), bytes + 2 * kGuard);

  TestSequence sequence = runner.NewSequence(expected.tokens);
  std::vector<int32_t> positions(expected.tokens.size()), rows;
  for (int32_t i = 0; i < tokens; ++i) positions[static_cast<size_t>(i)] = i;
  rows = positions;
  const chips::SequenceSlice slice{0, tokens, 0, sequence.blocks(), sequence.block_count()};
  const bool generates = runner.model().info().generates;
  const Step step{expected.tokens, positions, std::span(&slice, 1),
                  generates ? std::span<const int32_t>(rows) : std::span<const int32_t>(), rows};
  const StepOutput out = runner.model().Forward(step, runner.limits(), guarded.data() + kGuard);
  EXPECT_EQ(out.logits != nullptr, generates);
  EXPECT_NE(out.hidden, nullptr);
  for (size_t i = 0; i < kGuard; ++i) {
    ASSERT_EQ(guarded.data()[i], kMark);
    ASSERT_EQ(guarded.data()[kGuard + bytes + i], kMark);
  }
}

// logits = head · hidden: the hidden rows are the final norm's output of the same tokens.
TEST_P(TinyModel, HiddenRowsAreWhatTheHeadReads) {
  const Expected expected = ReadExpected(Folder() / "expected.bin");
  ModelRunner runner(CpuDevice("reference"), Folder(), Precise());
  if (!runner.model().info().generates) return;  // an encoder's hidden states are compared directly above
  TestSequence sequence = runner.NewSequence(expected.tokens);
  sequence.hidden = true;
  TestSequence* const one = &sequence;
  const auto count = static_cast<int32_t>(expected.tokens.size());
  runner.RunStep(std::span(&one, 1), std::span(&count, 1));

  const auto checkpoint = Must(formats::Checkpoint::Open(Folder()));
  const formats::Tensor* head = checkpoint->Find("lm_head.weight");
  if (head == nullptr) head = checkpoint->Find("model.embed_tokens.weight");
  const std::vector<float> weights = Must(formats::TensorToFloat(*checkpoint, *head));
  const auto hidden = static_cast<size_t>(runner.model().info().hidden_size);
  for (size_t r = 0; r < expected.rows.size(); ++r) {
    for (size_t v = 0; v < expected.columns; ++v) {
      double logit = 0;
      for (size_t i = 0; i < hidden; ++i) {
        logit += double{weights[v * hidden + i]} *
                 sequence.output[static_cast<size_t>(expected.rows[r]) * hidden + i];
      }
      ASSERT_NEAR(logit, expected.values[r * expected.columns + v],
                  kTimesTheOraclesOwnError * expected.float32_error);
    }
  }
}

// Qwen3-Reranker as published: its score is the logit of "yes" less that of "no", here of any two tokens.
TEST(RankingByYesAndNo, TheScoreIsTheDifferenceOfTwoLogits) {
  const auto folder = TestdataFolder() / "tiny/qwen3";
  constexpr int32_t kYes = 101, kNo = 7;
  for (const auto& [file, answers] : {std::pair("", "expected.bin"), std::pair("model.gguf", "expected.bin"),
                                      std::pair("quantised.gguf", "quantised.bin")}) {
    SCOPED_TRACE(file);
    const Expected expected = ReadExpected(folder / answers);
    LoadOptions options = Precise();
    options.yes_no = {kYes, kNo};
    ModelRunner runner(CpuDevice("reference"), *file == '\0' ? folder : folder / file, options);
    EXPECT_TRUE(runner.model().info().ranks);
    EXPECT_FALSE(runner.model().info().generates);
    EXPECT_EQ(runner.model().info().pooling, Pooling::kLast);
    TestSequence sequence = runner.NewSequence(expected.tokens);
    const auto tokens = static_cast<int32_t>(expected.tokens.size());
    std::vector<int32_t> positions(expected.tokens.size());
    for (int32_t i = 0; i < tokens; ++i) positions[static_cast<size_t>(i)] = i;
    const chips::SequenceSlice slice{0, tokens, 0, sequence.blocks(), sequence.block_count()};
    const Step step{expected.tokens, positions, std::span(&slice, 1), {}, expected.rows};
    const StepOutput out = runner.model().Forward(step, runner.limits(), runner.workspace());
    EXPECT_EQ(out.logits, nullptr);
    ASSERT_NE(out.scores, nullptr);
    for (size_t r = 0; r < expected.rows.size(); ++r) {
      const double* logits = expected.values.data() + r * expected.columns;
      // The error of two logits.
      EXPECT_NEAR(out.scores[r], logits[kYes] - logits[kNo],
                  2 * kTimesTheOraclesOwnError * expected.float32_error);
    }
  }
}

}  // namespace
}  // namespace tidepool::architectures::testing
