// Oracle: the sentencepiece library. tools/tokenizer_train_unigram.py trained the model and wrote its
// answers.
#include "models/text/unigram.h"

#include <gtest/gtest.h>
#include <simdjson.h>

#include <sstream>

#include "models/text/charsmap.h"
#include "models/text/fake_checkpoint.h"
#include "models/text/test_data.h"

namespace tidepool::text {
namespace {

std::filesystem::path DataFolder() {
  return std::filesystem::path(TIDEPOOL_SOURCE_DIR) / "src" / "models" / "text" / "testdata";
}

std::vector<int64_t> DecodeBase64(std::string_view text) {
  constexpr std::string_view kDigits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::vector<int64_t> bytes;
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    if (c == '=') break;
    bits = bits << 6 | static_cast<uint32_t>(kDigits.find(c));
    if ((count += 6) >= 8) bytes.push_back(bits >> (count -= 8) & 0xFF);
  }
  return bytes;
}

// The model as convert_hf_to_gguf would write it.
FakeCheckpoint AsGguf(const std::string& json) {
  simdjson::dom::parser parser;
  const simdjson::dom::element root = parser.parse(json);
  FakeCheckpoint checkpoint;
  auto& values = checkpoint.fake.values;
  std::vector<std::string> tokens;
  std::vector<double> scores;
  for (const auto pair : simdjson::dom::array(root["model"]["vocab"])) {
    tokens.emplace_back(std::string_view(pair.at(0)));
    scores.push_back(pair.at(1));
  }
  std::vector<int64_t> types(tokens.size(), 1);
  for (const auto token : simdjson::dom::array(root["added_tokens"])) {
    const std::string_view content = token["content"];
    types[static_cast<size_t>(int64_t(token["id"]))] = content == "<unk>"       ? 2
                                                       : bool(token["special"]) ? 3
                                                                                : 4;
  }
  values["tokenizer.ggml.model"] = std::string("t5");
  values["tokenizer.ggml.tokens"] = tokens;
  values["tokenizer.ggml.scores"] = scores;
  values["tokenizer.ggml.token_type"] = types;
  values["tokenizer.ggml.unknown_token_id"] = int64_t{0};
  values["tokenizer.ggml.eos_token_id"] = int64_t{2};
  values["tokenizer.ggml.add_space_prefix"] = true;
  values["tokenizer.ggml.remove_extra_whitespaces"] = true;
  values["tokenizer.ggml.precompiled_charsmap"] =
      DecodeBase64(root["normalizer"]["normalizers"].at(0)["precompiled_charsmap"]);
  return checkpoint;
}

TEST(Unigram, EncodesAsSentencePiece) {
  const FakeCheckpoint checkpoint = AsGguf(ReadWholeFile(DataFolder() / "unigram_tokenizer.json"));
  const auto tokenizer = Tokenizer::Load(checkpoint);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->kind(), "unigram");
  EXPECT_EQ((*tokenizer)->special().end_of_generation, std::vector<TokenId>{2});
  std::istringstream cases(ReadWholeFile(DataFolder() / "unigram_cases.txt"));
  simdjson::dom::parser parser;
  int count = 0;
  for (std::string line; std::getline(cases, line); ++count) {
    const size_t tab = line.find('\t');
    const std::string text{std::string_view(parser.parse(line.substr(0, tab)))};
    std::istringstream numbers(line.substr(tab + 1));
    std::vector<TokenId> expected;
    for (TokenId id; numbers >> id;) expected.push_back(id);
    EXPECT_EQ((*tokenizer)->Encode(text), expected) << text;
  }
  EXPECT_EQ(count, 300);
}

TEST(Charsmap, DamagedMapsAreRefusedOrHarmless) {
  EXPECT_FALSE(Charsmap::Parse("ab"));
  EXPECT_FALSE(Charsmap::Parse(std::string_view("\xFF\xFF\xFF\xFF", 4)));
  EXPECT_FALSE(Charsmap::Parse(std::string_view("\x02\0\0\0xx", 6)));
  EXPECT_FALSE(Charsmap::ParseBase64("a*b"));
  // A unit whose offset points far outside.
  const auto map = Charsmap::Parse(std::string_view("\x04\0\0\0\xFF\xFF\xFF\x7F", 8));
  ASSERT_TRUE(map);
  EXPECT_FALSE(map->Longest("abc"));
  EXPECT_FALSE(map->Shortest("\xF4\x8F\xBF\xBF"));
}

}  // namespace
}  // namespace tidepool::text
