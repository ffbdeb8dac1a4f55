#include "models/text/tokenizer.h"

#include <fmt/format.h>

#include "models/text/gguf_tokenizer.h"
#include "models/text/json_tokenizer.h"

namespace tidepool::text {

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const formats::Checkpoint& checkpoint) {
  if (checkpoint.format() == formats::Format::kGguf) return LoadGgufTokenizer(checkpoint);
  if (!checkpoint.tokenizer_json().empty()) {
    auto tokenizer = FromJson(checkpoint.tokenizer_json(), checkpoint.tokenizer_config_json(),
                              checkpoint.generation_config_json());
    if (!tokenizer) tokenizer.error().message = checkpoint.path().string() + ": " + tokenizer.error().message;
    return tokenizer;
  }
  if (const auto vocabulary = checkpoint.ReadSideFile("vocab.txt")) {
    return LoadVocabTxt(*vocabulary, checkpoint.tokenizer_config_json());
  }
  return Fail(
      ErrorKind::kInvalid, "no_tokenizer",
      fmt::format("{}: neither tokenizer.json nor vocab.txt is there; put the model's tokenizer.json beside "
                  "its weights",
                  checkpoint.path().string()),
      "tokenizer.json");
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view tokenizer_json,
                                                       std::string_view tokenizer_config_json,
                                                       std::string_view generation_config_json) {
  return LoadJsonTokenizer(tokenizer_json, tokenizer_config_json, generation_config_json);
}

}  // namespace tidepool::text
