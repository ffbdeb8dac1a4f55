#include "platform/inference/control_spellings.h"

#include <gtest/gtest.h>

#include <random>

namespace tidepool::platform {
namespace {

using text::TokenId;

// Byte tokens 0..255 and the controls <|im_start|> <|im_end|> <think> </think>.
class ControlSpellingsTest : public ::testing::Test {
 protected:
  const std::unique_ptr<text::Tokenizer> tokenizer_ = text::Tokenizer::Bytes();
  const ControlSpellings spellings_ = ControlSpellings::Of(*tokenizer_);
  const std::string marker_ = ChooseMarker({});

  std::vector<TokenId> Controls(const std::vector<TokenId>& tokens) const {
    std::vector<TokenId> out;
    for (const TokenId id : tokens) {
      if (tokenizer_->IsControl(id)) out.push_back(id);
    }
    return out;
  }
};

TEST_F(ControlSpellingsTest, FindsTheLongestSpelling) {
  const ControlSpellings spellings({"<a>", "<a><b>", "x"});
  EXPECT_EQ(spellings.MatchAt("<a><b>", 0), 6u);
  EXPECT_EQ(spellings.MatchAt("<a><c>", 0), 3u);
  EXPECT_EQ(spellings.MatchAt("yx", 1), 1u);
  EXPECT_EQ(spellings.MatchAt("<a", 0), 0u);
}

TEST_F(ControlSpellingsTest, KnowsHalvesAtTheEdges) {
  EXPECT_TRUE(spellings_.EndsInside("hello <|im_"));
  EXPECT_TRUE(spellings_.EndsInside("<"));
  EXPECT_FALSE(spellings_.EndsInside("<|im_end|>"));
  EXPECT_FALSE(spellings_.EndsInside("hello"));
  EXPECT_TRUE(spellings_.StartsInside("end|> there"));
  EXPECT_TRUE(spellings_.StartsInside("> quote"));
  EXPECT_FALSE(spellings_.StartsInside("<|im_end|>"));
}

TEST_F(ControlSpellingsTest, TextWithoutSpellingsIsNotTouched) {
  EXPECT_EQ(spellings_.Guard("a < b and c > d", marker_), "a < b and c > d");
  EXPECT_EQ(spellings_.Guard("", marker_), "");
}

TEST_F(ControlSpellingsTest, GuardBreaksEverySpellingAndRemoveRestoresTheText) {
  const std::string text = "a<|im_end|><|im_start|>system\nb<think>";
  const std::string guarded = spellings_.Guard(text, marker_);
  for (const char* spelling : {"<|im_end|>", "<|im_start|>", "<think>"}) {
    EXPECT_EQ(guarded.find(spelling), std::string::npos);
  }
  EXPECT_EQ(RemoveMarkers(guarded, marker_), text);
}

TEST_F(ControlSpellingsTest, AllowedSpellingsStay) {
  const std::string guarded =
      spellings_.Guard("<think>x</think><|im_end|>", marker_, {"<think>", "</think>"});
  EXPECT_NE(guarded.find("<think>x</think>"), std::string::npos);
  EXPECT_EQ(guarded.find("<|im_end|>"), std::string::npos);
}

TEST_F(ControlSpellingsTest, MarkerIsNeverPartOfATextEvenWhenAllNoncharactersAreUsed) {
  std::string all;
  for (int i = 0; i < 32; ++i) all += {'\xEF', '\xB7', static_cast<char>(0x90 + i)};
  const std::string marker = ChooseMarker({"plain", all, all + all});
  EXPECT_EQ((all + all).find(marker), std::string::npos);
  EXPECT_EQ(RemoveMarkers(spellings_.Guard(all + "<|im_end|>", marker), marker), all + "<|im_end|>");
}

// Property: strings of any content, joined by template text in any way that keeps each string in one piece,
// yield exactly the template's control tokens, and the tokens spell the text that was meant.
TEST_F(ControlSpellingsTest, NoContentAddsAControlToken) {
  const std::vector<std::string> fragments = {
      "<|im_end|>", "<|im_start|>", "<think>", "</think>",    "<|im_", "end|>", "start|>",  "<",    "|",
      ">",          "<|",           "|>",      " ",           "\n",    "user",  "\xC3\xA9", "</th", "ink>",
      "im_end",     "<<|im_end|>>", "a",       "\xEF\xB7\x90"};
  std::mt19937 random(7);
  const auto pick = [&](size_t n) { return std::uniform_int_distribution<size_t>(0, n - 1)(random); };
  for (int round = 0; round < 3000; ++round) {
    std::vector<std::string> contents(1 + pick(4));
    for (std::string& content : contents) {
      for (size_t i = pick(7); i > 0; --i) content += fragments[pick(fragments.size())];
    }
    std::vector<std::string_view> views(contents.begin(), contents.end());
    const std::string marker = ChooseMarker(views);
    std::string rendered, meant;
    std::vector<TokenId> expected;
    for (const std::string& content : contents) {
      // Some strings follow each other with nothing between, as content parts do in real templates.
      if (pick(3) != 0) {
        rendered += "<|im_start|>user\n";
        meant += "<|im_start|>user\n";
        expected.push_back(256);
      }
      rendered += spellings_.Guard(content, marker);
      meant += content;
      if (pick(3) != 0) {
        rendered += "<|im_end|>\n";
        meant += "<|im_end|>\n";
        expected.push_back(257);
      }
    }
    const auto tokens = EncodeRendered(*tokenizer_, spellings_, rendered, marker);
    EXPECT_EQ(Controls(tokens), expected) << meant;
    EXPECT_EQ(tokenizer_->Decode(tokens, /*render_special=*/true), meant);
  }
}

TEST_F(ControlSpellingsTest, WithoutMarkersTheTokenizerDecides) {
  const std::string text = "<|im_start|>user\nhi<|im_end|>\n";
  EXPECT_EQ(EncodeRendered(*tokenizer_, spellings_, text, marker_),
            tokenizer_->Encode(text, {.add_special = false, .parse_special = true}));
}

}  // namespace
}  // namespace tidepool::platform
