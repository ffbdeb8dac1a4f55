#include "platform/inference/model_assets.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/log.h"

namespace tidepool::platform {
namespace {

SamplingDefaults DefaultsFromMetadata(const formats::Metadata& metadata) {
  SamplingDefaults out;
  out.temperature = metadata.Float("general.sampling.temp");
  out.top_p = metadata.Float("general.sampling.top_p");
  out.min_p = metadata.Float("general.sampling.min_p");
  out.top_k = metadata.Int("general.sampling.top_k");
  out.repetition_penalty = metadata.Float("general.sampling.penalty_repeat");
  return out;
}

bool IsEmpty(const SamplingDefaults& d) {
  return !d.temperature && !d.top_p && !d.min_p && !d.top_k && !d.repetition_penalty;
}

// What the model cards advise, for files that carry no defaults (most GGUF files). Told apart by fields: the
// architecture and what the template can do or writes.
void AddKnownDefaults(std::string_view architecture, std::string_view source, ModelTraits& traits) {
  const auto has = [&](std::string_view text) { return source.find(text) != std::string_view::npos; };
  if (architecture == "qwen3" && traits.capabilities.thinking_switch) {
    traits.sampling = {.temperature = 0.6, .top_p = 0.95, .min_p = {}, .repetition_penalty = {}, .top_k = 20};
    traits.thinking_off = {
        .temperature = 0.7, .top_p = 0.8, .min_p = {}, .repetition_penalty = {}, .top_k = 20};
  } else if (architecture == "qwen3") {
    const bool thinks = traits.capabilities.opens_reasoning;
    traits.sampling = {.temperature = thinks ? 0.6 : 0.7,
                       .top_p = thinks ? 0.95 : 0.8,
                       .min_p = {},
                       .repetition_penalty = {},
                       .top_k = 20};
  } else if (architecture == "qwen2" && has("You are Qwen")) {
    traits.sampling = {
        .temperature = 0.7, .top_p = 0.8, .min_p = {}, .repetition_penalty = 1.05, .top_k = 20};
  } else if (architecture == "llama" && has("<|start_header_id|>")) {
    traits.sampling = {.temperature = 0.6, .top_p = 0.9, .min_p = {}, .repetition_penalty = {}, .top_k = {}};
  } else if (architecture.starts_with("gemma3")) {
    traits.sampling = {.temperature = 1.0, .top_p = 0.95, .min_p = {}, .repetition_penalty = {}, .top_k = 64};
  }
}

using HasToken = std::function<bool(std::string_view)>;

void ReadTemplate(std::string_view source, std::string_view bos, std::string_view eos,
                  const HasToken& has_token, ModelTraits& traits) {
  traits.own_template = !source.empty();
  auto parsed = templates::ChatTemplate::Parse(traits.own_template ? source : ChatMlTemplate());
  if (!parsed) {
    traits.template_error = parsed.error();
    return;
  }
  traits.capabilities = templates::ProbeCapabilities(*parsed, bos, eos);
  traits.chat_template = std::move(*parsed);
  // A template that does not show tools gets them as tool_messages.h says, whatever tags it may know.
  if (traits.capabilities.tools) traits.tool_calls = toolcalls::DetectFormat(traits.chat_template->source());
  // A template that says nothing of reasoning may still belong to a model that marks it.
  if (traits.capabilities.reasoning_open.empty() && has_token("<think>") && has_token("</think>")) {
    traits.capabilities.reasoning_open = "<think>";
    traits.capabilities.reasoning_close = "</think>";
  }
}

int32_t Size(const formats::Metadata& metadata, const std::string& gguf, std::string_view config) {
  const int64_t value = metadata.Int(gguf).value_or(metadata.Int(config).value_or(0));
  return value < 0 || value > std::numeric_limits<int32_t>::max() ? 0 : static_cast<int32_t>(value);
}

void ReadFields(const formats::Checkpoint& checkpoint, ModelTraits& traits) {
  const formats::Metadata& metadata = checkpoint.metadata();
  const std::string architecture(checkpoint.architecture());
  traits.layers = Size(metadata, architecture + ".block_count", "num_hidden_layers");
  traits.hidden_size = Size(metadata, architecture + ".embedding_length", "hidden_size");
  traits.sampling = ParseGenerationConfig(checkpoint.generation_config_json());
  if (IsEmpty(traits.sampling)) traits.sampling = DefaultsFromMetadata(metadata);
  const std::string_view source = checkpoint.chat_template();
  if (IsEmpty(traits.sampling) && !source.empty()) AddKnownDefaults(architecture, source, traits);
}

}  // namespace

std::string_view ChatMlTemplate() {
  return "{%- for message in messages -%}"
         "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
         "{%- endfor -%}"
         "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}";
}

SamplingDefaults ParseGenerationConfig(std::string_view json) {
  SamplingDefaults out;
  const auto config = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return out;
  const auto number = [&](const char* key) -> std::optional<double> {
    const auto it = config.find(key);
    if (it == config.end() || !it->is_number()) return std::nullopt;
    return it->get<double>();
  };
  out.temperature = number("temperature");
  out.top_p = number("top_p");
  out.min_p = number("min_p");
  out.repetition_penalty = number("repetition_penalty");
  const auto top_k = config.find("top_k");
  if (top_k != config.end() && top_k->is_number_integer()) out.top_k = top_k->get<int64_t>();
  return out;
}

std::shared_ptr<const ModelAssets> MakeModelAssets(std::shared_ptr<const text::Tokenizer> tokenizer,
                                                   std::string_view template_source) {
  auto assets = std::make_shared<ModelAssets>();
  assets->tokenizer = std::move(tokenizer);
  const text::Tokenizer& tok = *assets->tokenizer;
  if (tok.special().bos) assets->bos_text = tok.TokenBytes(*tok.special().bos, true);
  if (tok.special().eos) assets->eos_text = tok.TokenBytes(*tok.special().eos, true);
  assets->spellings = ControlSpellings::Of(tok);
  for (text::TokenId id = 0; id < tok.vocab_size(); ++id) {
    assets->longest_token_bytes =
        std::max({assets->longest_token_bytes, tok.TokenBytes(id, true).size(), tok.Piece(id).size()});
  }
  ReadTemplate(
      template_source, assets->bos_text, assets->eos_text,
      [&tok](std::string_view piece) { return tok.FindPiece(piece).has_value(); }, *assets);
  return assets;
}

Result<std::shared_ptr<const ModelAssets>> LoadModelAssets(const formats::Checkpoint& checkpoint) {
  TP_ASSIGN(std::shared_ptr<const text::Tokenizer> tokenizer, text::Tokenizer::Load(checkpoint));
  auto assets =
      std::const_pointer_cast<ModelAssets>(MakeModelAssets(std::move(tokenizer), checkpoint.chat_template()));
  ReadFields(checkpoint, *assets);
  return std::shared_ptr<const ModelAssets>(std::move(assets));
}

std::shared_ptr<const ModelTraits> LoadModelTraits(const formats::Checkpoint& checkpoint) {
  auto traits = std::make_shared<ModelTraits>();
  const auto has_token = [&checkpoint](std::string_view piece) {
    if (checkpoint.tokenizer_json().find('"' + std::string(piece) + '"') != std::string_view::npos)
      return true;
    const auto pieces = checkpoint.metadata().Strings("tokenizer.ggml.tokens");
    return pieces && std::find(pieces->begin(), pieces->end(), piece) != pieces->end();
  };
  // What a template can do does not depend on the text of its first and last token.
  ReadTemplate(checkpoint.chat_template(), "", "", has_token, *traits);
  ReadFields(checkpoint, *traits);
  return traits;
}

}  // namespace tidepool::platform
