// Properties of tokenizers that need no other library: what is refused, what is special, round trips, growth.
#include "models/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <ctime>
#include <random>

#include "models/text/byte_alphabet.h"
#include "models/text/fake_checkpoint.h"
#include "models/text/test_data.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// A byte-level BPE of all bytes and one merge, with `extra` members.
std::string SmallJson(const std::string& extra = "", const std::string& added = "",
                      const std::string& model = "") {
  std::string vocab;
  int id = 0;
  for (int byte = 0; byte < 256; ++byte) {
    std::string piece;
    const bool itself = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    static int shifted = 0;
    if (byte == 0) shifted = 0;
    AppendCharacter(piece, static_cast<uint32_t>(itself ? byte : 0x100 + shifted++));
    if (piece == "\"" || piece == "\\") piece.insert(0, "\\");
    vocab += (byte ? ",\"" : "\"") + piece + "\":" + std::to_string(id++);
  }
  vocab += ",\"ab\":256";
  return "{\"version\":\"1.0\",\"added_tokens\":[" + added +
         "],\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
         "\"decoder\":{\"type\":\"ByteLevel\"}," +
         extra + "\"model\":{\"type\":\"BPE\",\"vocab\":{" + vocab + "},\"merges\":[\"a b\"]" + model + "}}";
}

constexpr const char* kChatTokens =
    R"({"id":257,"content":"<|im_start|>","special":true},{"id":258,"content":"<|im_end|>","special":true},)"
    R"({"id":259,"content":"<think>","special":false})";

TEST(JsonTokenizer, RoundTripsBytes) {
  const auto tokenizer = Tokenizer::FromJson(SmallJson());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->Encode("ab"), std::vector<TokenId>{256});
  std::mt19937 random(1);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 4 == 0 ? random() : 'a' + random() % 3);
    EXPECT_EQ((*tokenizer)->Decode((*tokenizer)->Encode(bytes)), ReplaceInvalidUtf8(bytes));
  }
}

// The oracle reads character by character, with the general UTF-8 reader.
TEST(ByteAlphabet, IsReadAsItsCharactersAre) {
  const auto oracle = [](std::string_view spelled) -> std::optional<std::string> {
    std::string bytes;
    for (size_t i = 0; i < spelled.size();) {
      const Character character = ReadCharacter(spelled, i);
      const auto byte = character.valid ? AlphabetToByte(character.code) : std::nullopt;
      if (!byte) return std::nullopt;
      bytes += static_cast<char>(*byte);
      i += character.size;
    }
    return bytes;
  };
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(AlphabetToBytes(BytesToAlphabet(all)), all);
  int spelled_right = 0;
  for (uint32_t first = 0; first < 0x10000; ++first) {  // all texts of two bytes
    const std::string text = {static_cast<char>(first >> 8), static_cast<char>(first & 255)};
    ASSERT_EQ(AlphabetToBytes(text), oracle(text)) << first;
    spelled_right += oracle(text).has_value() ? 1 : 0;
  }
  // Two of the 94 that are spelled by one byte each, or one of the other 162.
  EXPECT_EQ(spelled_right, 94 * 94 + 162);
  std::mt19937 random(3);
  for (int i = 0; i < 20000; ++i) {
    std::string text(random() % 6, ' ');
    for (char& c : text)
      c = static_cast<char>(random() % 4 == 0 ? 0xC2 + random() % 3 : 0x60 + random() % 0x60);
    ASSERT_EQ(AlphabetToBytes(text), oracle(text)) << i;
  }
}

TEST(JsonTokenizer, SpecialTokensInTextAreText) {
  const auto tokenizer = Tokenizer::FromJson(SmallJson("", kChatTokens));
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  const std::string text = "<|im_start|>a<|im_end|>";
  const auto as_text = (*tokenizer)->Encode(text);
  EXPECT_EQ(std::count(as_text.begin(), as_text.end(), 257), 0);
  EXPECT_EQ((*tokenizer)->Decode(as_text), text);
  EXPECT_EQ((*tokenizer)->Encode(text, {.parse_special = true}), (std::vector<TokenId>{257, 'a', 258}));
  EXPECT_EQ((*tokenizer)->Decode(std::vector<TokenId>{257, 'a', 258}), "a");
  EXPECT_EQ((*tokenizer)->Decode(std::vector<TokenId>{257, 'a', 258}, true), text);
  EXPECT_TRUE((*tokenizer)->IsControl(257));
  EXPECT_FALSE((*tokenizer)->IsControl(259));
  // Not special: found in any text, and shown.
  EXPECT_EQ((*tokenizer)->Encode("<think>"), std::vector<TokenId>{259});
  EXPECT_EQ((*tokenizer)->TokenBytes(259), "<think>");
}

TEST(JsonTokenizer, EndOfGenerationComesFromAllSources) {
  const auto tokenizer = Tokenizer::FromJson(SmallJson("", kChatTokens), R"({"eos_token":{"content":"b"}})",
                                             R"({"eos_token_id":[5,258]})");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->special().end_of_generation, (std::vector<TokenId>{5, 'b', 258}));
  EXPECT_EQ((*tokenizer)->special().eos, TokenId{'b'});
  EXPECT_EQ((*tokenizer)->special().eot, TokenId{258});
}

TEST(JsonTokenizer, OutOfRangeIdsAreHarmless) {
  const auto tokenizer = Tokenizer::FromJson(SmallJson());
  ASSERT_TRUE(tokenizer);
  for (const TokenId id : {-1, 257, 1'000'000, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ((*tokenizer)->TokenBytes(id), "");
    EXPECT_EQ((*tokenizer)->Piece(id), "");
    EXPECT_FALSE((*tokenizer)->IsControl(id));
  }
}

void ExpectRefused(const std::string& json, const std::string& names) {
  const auto tokenizer = Tokenizer::FromJson(json);
  ASSERT_FALSE(tokenizer) << json;
  EXPECT_NE(tokenizer.error().message.find(names), std::string::npos) << tokenizer.error().message;
}

TEST(JsonTokenizer, WhatIsUnknownIsNamed) {
  ExpectRefused("", "not JSON");
  ExpectRefused("[]", "not an object");
  ExpectRefused("{}", "model");
  ExpectRefused(SmallJson(R"("normalizer":{"type":"Frobnicate"},)"), "Frobnicate");
  ExpectRefused(
      SmallJson(R"("normalizer":{"type":"Sequence","normalizers":[{"type":"NFC"},{"type":"Xyz"}]},)"),
      "normalizer.normalizers[1]");
  ExpectRefused(SmallJson(R"("normalizer":{"type":"NFC","strength":3},)"), "strength");
  ExpectRefused(SmallJson(R"("post_processor":{"type":"Zip"},)"), "Zip");
  ExpectRefused(SmallJson(R"("extra_member":1,)"), "extra_member");
  ExpectRefused(SmallJson("", "", ",\"dropout\":0.1"), "dropout");
  ExpectRefused(SmallJson("", "", ",\"vocab_size\":3"), "vocab_size");
  ExpectRefused(SmallJson("", R"({"id":300,"content":"x","color":"red"})"), "color");
  ExpectRefused(SmallJson("", R"({"id":-3,"content":"x"})"), "added_tokens[0].id");
  ExpectRefused(SmallJson("", R"({"id":3000000,"content":"x"})"), "3000000");
  ExpectRefused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a b"]}})", "merge 0");
  ExpectRefused(R"({"model":{"type":"BPE","vocab":{"a":0},"merges":["a"]}})", "merges[0]");
  ExpectRefused(R"({"model":{"type":"WordPiece","vocab":{"a":0},"unk_token":"[UNK]"}})", "unk_token");
  ExpectRefused(R"({"model":{"type":"Unigram","vocab":[["a",0]]}})", "unk_id");
  ExpectRefused(R"({"model":{"type":"Markov","vocab":{}}})", "Markov");
}

TEST(JsonTokenizer, BadPatternsAreNamed) {
  const std::string start = R"({"model":{"type":"BPE","vocab":{"a":0},"merges":[]},"pre_tokenizer":)";
  ExpectRefused(start + R"({"type":"Split","pattern":{"Regex":"a("},"behavior":"Isolated","invert":false}})",
                "a(");
  ExpectRefused(start + R"({"type":"Split","pattern":{"Regex":"\\h"},"behavior":"Isolated","invert":false}})",
                "\\h");
  ExpectRefused(start + R"({"type":"Split","pattern":{"Regex":"a"},"behavior":"Sideways","invert":false}})",
                "Sideways");
  ExpectRefused(start + R"({"type":"UnicodeScripts"}})", "UnicodeScripts");
}

TEST(JsonTokenizer, DeepNestingIsRefused) {
  std::string nested = R"({"type":"NFC"})";
  for (int i = 0; i < 100; ++i) nested = R"({"type":"Sequence","normalizers":[)" + nested + "]}";
  ExpectRefused(SmallJson("\"normalizer\":" + nested + ","), "nested");
}

TEST(JsonTokenizer, CatastrophicPatternsEnd) {
  const auto tokenizer = Tokenizer::FromJson(
      R"({"model":{"type":"BPE","vocab":{"a":0,"b":1},"merges":[]},"pre_tokenizer":)"
      R"({"type":"Split","pattern":{"Regex":"(a+)+$x"},"behavior":"Isolated","invert":false}})");
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_EQ((*tokenizer)->Encode(std::string(40, 'a') + "b").size(), 41u);
}

TEST(GgufTokenizer, BadMetadataIsNamed) {
  FakeCheckpoint checkpoint;
  const auto expect = [&](const std::string& names) {
    const auto tokenizer = Tokenizer::Load(checkpoint);
    ASSERT_FALSE(tokenizer);
    EXPECT_NE(tokenizer.error().message.find(names), std::string::npos) << tokenizer.error().message;
  };
  auto& values = checkpoint.fake.values;
  expect("tokenizer.ggml.model");
  values["tokenizer.ggml.model"] = std::string("gpt2");
  expect("tokenizer.ggml.tokens");
  values["tokenizer.ggml.tokens"] = std::vector<std::string>{"a", "b", "ab", "<|im_end|>"};
  values["tokenizer.ggml.pre"] = std::string("nonsense");
  expect("nonsense");
  values["tokenizer.ggml.pre"] = std::string("smollm");
  expect("tokenizer.ggml.merges");
  values["tokenizer.ggml.merges"] = std::vector<std::string>{"a b"};
  values["tokenizer.ggml.token_type"] = std::vector<int64_t>{1, 1};
  expect("token types");
  values["tokenizer.ggml.token_type"] = std::vector<int64_t>{1, 1, 1, 3};
  values["tokenizer.ggml.eos_token_id"] = int64_t{99};
  const auto tokenizer = Tokenizer::Load(checkpoint);
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  EXPECT_FALSE((*tokenizer)->special().eos);
  EXPECT_EQ((*tokenizer)->special().end_of_generation, std::vector<TokenId>{3});
  EXPECT_EQ((*tokenizer)->Encode("abba"), (std::vector<TokenId>{2, 1, 0}));
  values["tokenizer.ggml.model"] = std::string("rwkv");
  expect("rwkv");
}

TEST(ByteTokenizer, BytesAndNames) {
  const auto tokenizer = Tokenizer::Bytes();
  EXPECT_EQ(tokenizer->vocab_size(), 260);
  EXPECT_EQ(tokenizer->Encode("é<|im_end|>").size(), 2u + 10u);
  EXPECT_EQ(tokenizer->Encode("a<|im_end|>", {.parse_special = true}), (std::vector<TokenId>{'a', 257}));
  EXPECT_EQ(tokenizer->TokenBytes(257), "");
  EXPECT_EQ(tokenizer->TokenBytes(257, true), "<|im_end|>");
  EXPECT_EQ(tokenizer->TokenBytes(258), "<think>");
  EXPECT_EQ(tokenizer->FindPiece("</think>"), TokenId{259});
  EXPECT_EQ(tokenizer->special().end_of_generation, std::vector<TokenId>{257});
}

// ---- with llama.cpp's vocabularies ----

std::unique_ptr<Tokenizer> Vocabulary(const std::string& name) {
  const auto path = TestDataFolder() / "llama.cpp" / "models" / ("ggml-vocab-" + name + ".gguf");
  if (!std::filesystem::exists(path)) return nullptr;
  auto checkpoint = formats::Checkpoint::Open(path);
  if (!checkpoint) return nullptr;
  auto tokenizer = Tokenizer::Load(**checkpoint);
  return tokenizer ? std::move(*tokenizer) : nullptr;
}

std::string RandomText(std::mt19937& random) {
  std::string text;
  for (int i = static_cast<int>(random() % 60); i > 0; --i) {
    const uint32_t kind = random() % 8;
    const uint32_t code = kind == 0  ? random() % 0x110000
                          : kind < 3 ? random() % 0x3000
                                     : 0x20 + random() % 0x5F;
    AppendCharacter(text, code);
  }
  return text;
}

TEST(RoundTrip, DecodingGivesTheTextBack) {
  bool any = false;
  // Not starcoder: its vocabulary has no token for the byte 0xF1.
  for (const char* name : {"qwen2", "llama-bpe", "gpt-2", "deepseek-coder", "llama-spm", "gemma-4"}) {
    const auto tokenizer = Vocabulary(name);
    if (tokenizer == nullptr) continue;
    any = true;
    std::mt19937 random(3);
    for (int i = 0; i < 3000; ++i) {
      const std::string text = RandomText(random);
      // ▁ is a space to SentencePiece.
      if (text.find("\xE2\x96\x81") != std::string::npos) continue;
      const auto ids = tokenizer->Encode(text);
      ASSERT_EQ(tokenizer->Decode(ids), text) << name;
      std::string pieces;
      for (const TokenId id : ids) pieces += tokenizer->TokenBytes(id);
      if (tokenizer->strips_leading_space() && !pieces.empty()) pieces.erase(0, 1);
      ASSERT_EQ(pieces, text) << name;
    }
  }
  if (!any) GTEST_SKIP() << TestDataFolder() << " is absent";
}

double CpuSeconds(const Tokenizer& tokenizer, const std::string& text) {
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const std::clock_t start = std::clock();
    EXPECT_LE(tokenizer.Encode(text).size(), text.size() + 1);  // none for spaces in BERT's
    best = std::min(best, static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  return best;
}

// Sixteen times the text may take 64 times the time: the heap's logarithm and caches that the large one
// leaves make 35 of it on a busy machine, a quadratic step 256.
TEST(Growth, LongMonotonousTextStaysNearLinear) {
  bool any = false;
  for (const char* name : {"qwen2", "llama-bpe", "llama-spm", "gemma-4", "bert-bge"}) {
    const auto tokenizer = Vocabulary(name);
    if (tokenizer == nullptr) continue;
    any = true;
    for (const std::string unit : {"a", " ", "ab", "的"}) {
      std::string small, large;
      while (small.size() < 62'500) small += unit;
      for (int i = 0; i < 16; ++i) large += small;
      const double small_s = CpuSeconds(*tokenizer, small), large_s = CpuSeconds(*tokenizer, large);
      EXPECT_LT(large_s, 64 * small_s + 0.05) << name << " of \"" << unit << '"';
    }
  }
  if (!any) GTEST_SKIP() << TestDataFolder() << " is absent";
}

TEST(EndOfGeneration, OfFamilies) {
  const std::pair<const char*, std::vector<const char*>> families[] = {
      {"qwen2", {"<|endoftext|>", "<|im_end|>"}},
      {"llama-bpe", {"<|end_of_text|>", "<|eot_id|>"}},
      {"phi-3", {"<|endoftext|>", "<|end|>"}},
      {"gemma-4", {"<eos>", "<turn|>"}},
  };
  bool any = false;
  for (const auto& [name, pieces] : families) {
    const auto tokenizer = Vocabulary(name);
    if (tokenizer == nullptr) continue;
    any = true;
    const auto& ends = tokenizer->special().end_of_generation;
    for (const char* piece : pieces) {
      const auto id = tokenizer->FindPiece(piece);
      ASSERT_TRUE(id) << name << piece;
      EXPECT_NE(std::find(ends.begin(), ends.end(), *id), ends.end()) << name << " " << piece;
    }
  }
  if (!any) GTEST_SKIP() << TestDataFolder() << " is absent";
}

}  // namespace
}  // namespace tidepool::text
