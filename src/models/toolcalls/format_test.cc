// Oracle: the templates that models ship (llama.cpp's collection), and which format each family's makers
// document.
#include "models/toolcalls/format.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace tidepool::toolcalls {
namespace {

std::filesystem::path Templates() {
  const char* folder = std::getenv("TIDEPOOL_TEST_DATA");
  return std::filesystem::path(folder == nullptr ? "build/test-data" : folder) / "llama.cpp/models/templates";
}

TEST(Format, NamesGoBothWays) {
  for (const Format format : Formats()) {
    EXPECT_EQ(FindFormat(FormatName(format)), format);
    EXPECT_FALSE(OpeningTag(format).empty());
  }
  EXPECT_EQ(FindFormat("xml"), std::nullopt);
}

TEST(Format, ComesFromTheTemplate) {
  const std::pair<const char*, Format> kCases[] = {
      {"Qwen-Qwen2.5-7B-Instruct.jinja", Format::kHermes},
      {"Qwen-Qwen3-0.6B.jinja", Format::kHermes},
      {"Qwen-QwQ-32B.jinja", Format::kHermes},
      {"Qwen3-Coder.jinja", Format::kQwenXml},
      {"NousResearch-Hermes-3-Llama-3.1-8B-tool_use.jinja", Format::kHermes},
      {"meta-llama-Llama-3.1-8B-Instruct.jinja", Format::kLlama3},
      {"meta-llama-Llama-3.2-3B-Instruct.jinja", Format::kLlama3},
      {"mistralai-Mistral-Nemo-Instruct-2407.jinja", Format::kMistral},
      {"deepseek-ai-DeepSeek-V3.1.jinja", Format::kDeepSeek},
      {"deepseek-ai-DeepSeek-R1-Distill-Llama-8B.jinja", Format::kDeepSeek},
      {"deepseek-ai-DeepSeek-V3.2.jinja", Format::kDsml},
      {"deepseek-ai-DeepSeek-V4.jinja", Format::kDsml},
      {"GLM-4.6.jinja", Format::kGlm},
      {"GLM-4.7-Flash.jinja", Format::kGlm},
      {"Kimi-K2-Instruct.jinja", Format::kKimi},
      {"Kimi-K2-Thinking.jinja", Format::kKimi},
      {"google-gemma-2-2b-it.jinja", Format::kJson},
  };
  int seen = 0;
  for (const auto& [name, format] : kCases) {
    std::ifstream file(Templates() / name, std::ios::binary);
    if (!file) continue;
    ++seen;
    const std::string source{std::istreambuf_iterator<char>(file), {}};
    EXPECT_EQ(FormatName(DetectFormat(source)), FormatName(format)) << name;
  }
  if (std::filesystem::is_directory(Templates())) {
    EXPECT_GE(seen, 8);
  }
  EXPECT_EQ(DetectFormat("{{ '<start_function_call>' }}"), Format::kGemma);
  EXPECT_EQ(DetectFormat("{{ messages }}"), Format::kJson);
}

}  // namespace
}  // namespace tidepool::toolcalls
