// What a deployment needs besides its weights: tokenizer, chat template, sampling defaults.
// Threads: immutable after loading; any thread.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/result.h"
#include "models/formats/checkpoint.h"
#include "models/templates/chat_template.h"
#include "models/text/tokenizer.h"
#include "models/toolcalls/format.h"
#include "platform/inference/control_spellings.h"

namespace tidepool::platform {

// Of the model's makers; what neither they nor the client say takes the API's defaults (temperature 1, top_p
// 1).
struct SamplingDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
};

// What a model's files say of it, its tokenizer and weights aside.
struct ModelTraits {
  std::optional<templates::ChatTemplate> chat_template;  // the file's own, or ChatML
  std::optional<Error> template_error;  // the file's own could not be parsed: chat is refused
  bool own_template = false;
  templates::TemplateCapabilities capabilities;
  toolcalls::Format tool_calls = toolcalls::Format::kJson;  // how the model writes them
  SamplingDefaults sampling;            // generation_config.json, or GGUF's general.sampling.*
  SamplingDefaults thinking_off;        // used instead when enable_thinking is false
  int32_t layers = 0, hidden_size = 0;  // 0: not said
};

struct ModelAssets : ModelTraits {
  std::shared_ptr<const text::Tokenizer> tokenizer;
  std::string bos_text, eos_text;  // "" when the tokenizer has none
  ControlSpellings spellings;
  size_t longest_token_bytes = 1;  // a prompt of b bytes has at least b / this tokens
};

// The fallback for files without a template: ChatML, system messages included.
std::string_view ChatMlTemplate();

Result<std::shared_ptr<const ModelAssets>> LoadModelAssets(const formats::Checkpoint& checkpoint);
// The traits alone, without a tokenizer: some milliseconds instead of up to a second.
std::shared_ptr<const ModelTraits> LoadModelTraits(const formats::Checkpoint& checkpoint);
// From parts: for models without a file. An empty `template_source` is ChatML.
std::shared_ptr<const ModelAssets> MakeModelAssets(std::shared_ptr<const text::Tokenizer> tokenizer,
                                                   std::string_view template_source);

// generation_config.json's text; values of a wrong kind are ignored.
SamplingDefaults ParseGenerationConfig(std::string_view json);

}  // namespace tidepool::platform
