#include "models/text/tokenizer.h"

#include "models/text/gguf_tokenizer.h"

namespace tidepool::text {

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const formats::Checkpoint& checkpoint) {
  if (checkpoint.format() == formats::Format::kGguf) return LoadGgufTokenizer(checkpoint);
  return FromJson(checkpoint.tokenizer_json(), checkpoint.tokenizer_config_json(),
                  checkpoint.generation_config_json());
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view, std::string_view, std::string_view) {
  return Fail(ErrorKind::kInternal, "not_yet", "tokenizer.json is not read yet");
}

}  // namespace tidepool::text
