// Oracle: llama.cpp's vocabularies and their .inp/.out vectors (models/ggml-vocab-*), produced there with
// add_special = false and parse_special = false (tests/test-tokenizer-0.cpp).
#include "models/text/gguf_tokenizer.h"

#include <gtest/gtest.h>

#include <sstream>

#include "models/text/test_data.h"

namespace tidepool::text {
namespace {

constexpr std::string_view kSeparator = "\n__ggml_vocab_test__\n";

std::vector<std::string> SplitInputs(const std::string& text) {
  std::vector<std::string> inputs;
  for (size_t at = 0; at < text.size();) {
    const size_t next = text.find(kSeparator, at);
    inputs.push_back(text.substr(at, next == std::string::npos ? next : next - at));
    at = next == std::string::npos ? text.size() : next + kSeparator.size();
  }
  return inputs;
}

std::vector<std::vector<TokenId>> SplitOutputs(const std::string& text) {
  std::vector<std::vector<TokenId>> outputs;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream numbers(line);
    outputs.emplace_back();
    for (TokenId id; numbers >> id;) outputs.back().push_back(id);
  }
  return outputs;
}

std::string Join(const std::vector<TokenId>& ids) {
  std::string text;
  for (const TokenId id : ids) text += std::to_string(id) + " ";
  return text;
}

class LlamaCppVocabulary : public testing::TestWithParam<const char*> {};

TEST_P(LlamaCppVocabulary, EncodesAsLlamaCpp) {
  const auto folder = TestDataFolder() / "llama.cpp" / "models";
  if (!std::filesystem::exists(folder)) GTEST_SKIP() << folder << " is absent; scripts/test_data fetches it";
  const std::string name = std::string("ggml-vocab-") + GetParam() + ".gguf";
  auto checkpoint = formats::Checkpoint::Open(folder / name);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  auto tokenizer = Tokenizer::Load(**checkpoint);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const auto inputs = SplitInputs(ReadWholeFile(folder / (name + ".inp")));
  const auto outputs = SplitOutputs(ReadWholeFile(folder / (name + ".out")));
  ASSERT_EQ(inputs.size(), outputs.size());
  ASSERT_GT(inputs.size(), 30u);
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto ids = (*tokenizer)->Encode(inputs[i]);
    EXPECT_EQ(Join(ids), Join(outputs[i])) << "input " << i << ": \"" << inputs[i] << '"';
    // Nothing normalizes here but WordPiece, so the text comes back whole.
    if ((*tokenizer)->kind() != "wordpiece") {
      EXPECT_EQ((*tokenizer)->Decode(ids), inputs[i]);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, LlamaCppVocabulary,
                         testing::Values("qwen2", "qwen35", "llama-bpe", "llama-spm", "gpt-2", "deepseek-llm",
                                         "deepseek-coder", "phi-3", "gemma-4", "starcoder", "command-r",
                                         "falcon", "refact", "bert-bge"),
                         [](const auto& param) {
                           std::string name = param.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace tidepool::text
