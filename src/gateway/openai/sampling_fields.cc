#include "gateway/openai/sampling_fields.h"

#include <fmt/format.h>

#include <charconv>

#include "gateway/openai/output_format.h"

namespace tidepool::gateway::openai {
namespace {

constexpr double kMaxTokens = 2147483647;
// The engine's own limits (compute/engine/engine.h), named here so that the error names the client's field.
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 1024;
constexpr size_t kMaxBias = 1024;
constexpr size_t kMaxStopTokens = 1024;

Status ReadBias(const FieldReader& reader, std::vector<std::pair<int32_t, float>>& out) {
  const Json* bias = reader.Find("logit_bias");
  if (bias == nullptr) return {};
  if (bias->size() > kMaxBias) {
    return Fail(BadField("logit_bias", fmt::format("logit_bias holds {} entries; at most {} are possible.",
                                                   bias->size(), kMaxBias)));
  }
  for (const auto& [key, value] : bias->items()) {
    int32_t token = 0;
    const auto [end, problem] = std::from_chars(key.data(), key.data() + key.size(), token);
    if (problem != std::errc() || end != key.data() + key.size() || token < 0) {
      return Fail(
          BadField("logit_bias", fmt::format("logit_bias: \"{}\" is not a token id.", key.substr(0, 32))));
    }
    if (!value.is_number() || !(value.get<double>() >= -100 && value.get<double>() <= 100)) {
      return Fail(
          BadField("logit_bias", fmt::format("logit_bias: the value of {} must be a number from -100 to 100, "
                                             "not {}.",
                                             token, Shown(value))));
    }
    out.emplace_back(token, value.get<float>());
  }
  return {};
}

}  // namespace

Status ReadStop(const FieldReader& reader, std::vector<std::string>& out) {
  const Json* stop = reader.Find("stop");
  if (stop == nullptr) return {};
  const std::string place = reader.Place("stop");
  const auto add = [&](const Json& item) -> Status {
    if (!item.is_string()) {
      return Fail(BadField(
          place, fmt::format("{} must be a string or an array of strings, not {}.", place, Shown(item)),
          "invalid_type"));
    }
    const auto& text = item.get_ref<const std::string&>();
    if (text.empty())
      return Fail(BadField(place, "stop holds an empty string, which would match everywhere."));
    if (text.size() > kMaxStopBytes) {
      return Fail(BadField(place, fmt::format("A stop string is {} bytes long; at most {} are possible.",
                                              text.size(), kMaxStopBytes)));
    }
    out.push_back(text);
    return {};
  };
  if (!stop->is_array()) return add(*stop);
  if (stop->size() > kMaxStops) {
    return Fail(BadField(
        "stop", fmt::format("stop holds {} strings; at most {} are possible.", stop->size(), kMaxStops)));
  }
  for (const Json& item : *stop) TP_TRY(add(item));
  return {};
}

// OpenAI's tiers are the pool's classes of work.
constexpr struct {
  std::string_view tier;
  std::optional<compute::JobClass> priority;
} kServiceTiers[] = {
    {"auto", std::nullopt},
    {"default", compute::JobClass::kNormal},
    {"flex", compute::JobClass::kBatch},
    {"priority", compute::JobClass::kInteractive},
};

Status ReadServiceTier(const FieldReader& reader, std::optional<compute::JobClass>& out) {
  const auto said = reader.String("service_tier");
  if (!said) return {};
  for (const auto& [tier, priority] : kServiceTiers) {
    if (*said != tier) continue;
    out = priority;
    return {};
  }
  return Fail(BadField("service_tier", fmt::format("service_tier is {}; it can be auto, default, flex or "
                                                   "priority.",
                                                   Shown(*reader.Find("service_tier")))));
}

std::string_view ServiceTierName(compute::JobClass priority) {
  for (const auto& tier : kServiceTiers) {
    if (tier.priority == priority) return tier.tier;
  }
  return "auto";
}

bool IsEmptyOrFalse(const Json& value) {
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  return value.is_structured() && value.empty();
}

const std::vector<Field>& SamplingFields() {
  using enum FieldType;
  using enum Treatment;
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The model's id, as GET /v1/models lists it"},
      {"temperature", kNumber, kRead, "0 always takes the likeliest token; default: the model's, else 1", 0,
       2},
      {"top_p", kNumber, kRead, "Keeps the likeliest tokens whose probabilities reach this sum", 0, 1, true},
      {"top_k", kInteger, kRead, "Keeps this many of the likeliest tokens; 0: all", -1, kMaxTokens},
      {"min_p", kNumber, kRead, "Drops tokens less likely than this share of the likeliest", 0, 1},
      {"repetition_penalty", kNumber, kRead, "Divides the logits of tokens already in prompt or answer", 0,
       10, true},
      {"presence_penalty", kNumber, kRead, "Subtracted from logits of tokens already in the answer", -2, 2},
      {"frequency_penalty", kNumber, kRead, "Subtracted once for every time a token is in the answer", -2, 2},
      {"logit_bias", kObject, kRead, "Token id -> bias from -100 to 100, at most 1024 entries"},
      {"seed", kInteger, kRead, "Same seed, same random numbers"},
      {"stop", kAny, kRead, "A string or up to 16 strings that end the answer"},
      {"stop_token_ids", kArray, kRead, "Token ids that end the answer"},
      {"include_stop_str_in_output", kBoolean, kRead, "Keeps the matched stop string in the text"},
      {"max_tokens", kInteger, kRead, "Most tokens of the answer", 1, kMaxTokens},
      {"min_tokens", kInteger, kRead, "The answer does not end before so many tokens", 0, kMaxTokens},
      {"ignore_eos", kBoolean, kRead, "Goes on after the model's end-of-answer token"},
      {"n", kInteger, kRead, "How many answers", 1, 128},
      {"stream", kBoolean, kRead, "Server-sent events as the text is made"},
      {"stream_options", kObject, kRead, "include_usage"},
      {"thinking_budget", kInteger, kRead, "Tokens of reasoning before it is closed", 0, kMaxTokens},
      {"user", kAny, kIgnored, ""},
      {"metadata", kAny, kIgnored, ""},
      {"service_tier", kString, kRead, kServiceTierHelp},
      {"safety_identifier", kAny, kIgnored, ""},
      {"prompt_cache_key", kAny, kIgnored, "prefixes are found without it"},
      {"prompt_cache_retention", kAny, kIgnored, ""},
      {"response_format", kObject, kRead,
       "{\"type\": \"text\"}, {\"type\": \"json_object\"} or {\"type\": \"json_schema\", "
       "\"json_schema\": {name, schema, strict}}"},
      {"json_schema", kAny, kRead, "llama.cpp's: the answer is JSON of this schema"},
      {"regex", kString, kRead, "The answer matches this regular expression"},
      {"choice", kArray, kRead, "The answer is one of these strings"},
      {"grammar", kString, kRead, "The answer is what this GBNF grammar says, as llama.cpp writes it"},
      {"guided_json", kAny, kRead, "vLLM's name of json_schema"},
      {"guided_regex", kString, kRead, "vLLM's name of regex"},
      {"guided_choice", kArray, kRead, "vLLM's name of choice"},
      {"guided_grammar", kString, kRead, "vLLM's name of grammar"},
      {"structured_outputs", kObject, kRead, "vLLM's: json, regex, choice, grammar or json_object"},
      {"use_beam_search", kAny, kRefused, "beam search is not supported", 0, 0, false, IsEmptyOrFalse},
  };
  return kFields;
}

Result<std::vector<int32_t>> ReadTokens(const Json& value, std::string_view name, size_t limit) {
  std::vector<int32_t> tokens;
  if (!value.is_array()) {
    return Fail(BadField(name, fmt::format("{} must be an array of token ids, not {}.", name, Shown(value)),
                         "invalid_type"));
  }
  if (value.size() > limit) {
    return Fail(BadField(
        name, fmt::format("{} holds {} token ids; at most {} are possible.", name, value.size(), limit)));
  }
  tokens.reserve(value.size());
  for (const Json& item : value) {
    if (!item.is_number_integer() || item.get<int64_t>() < 0 || item.get<int64_t>() > kMaxTokens) {
      return Fail(BadField(name, fmt::format("{}: {} is not a token id.", name, Shown(item))));
    }
    tokens.push_back(item.get<int32_t>());
  }
  return tokens;
}

Result<platform::SamplingRequest> ReadSampling(const FieldReader& reader, std::vector<std::string>& ignored) {
  platform::SamplingRequest sampling;
  sampling.temperature = reader.Number("temperature");
  sampling.top_p = reader.Number("top_p");
  sampling.min_p = reader.Number("min_p");
  sampling.repetition_penalty = reader.Number("repetition_penalty");
  sampling.presence_penalty = reader.Number("presence_penalty");
  sampling.frequency_penalty = reader.Number("frequency_penalty");
  sampling.top_k = reader.Integer("top_k");
  if (sampling.top_k == -1) sampling.top_k = 0;  // what vLLM's clients send for "all"
  sampling.seed = reader.Integer("seed");
  sampling.max_tokens = reader.Integer("max_tokens");
  sampling.min_tokens = reader.Integer("min_tokens");
  sampling.ignore_eos = reader.Boolean("ignore_eos");
  sampling.reasoning_budget = reader.Integer("thinking_budget");
  sampling.include_stop = reader.Boolean("include_stop_str_in_output").value_or(false);
  sampling.n = static_cast<int32_t>(reader.Integer("n").value_or(1));
  TP_TRY(ReadServiceTier(reader, sampling.priority));
  TP_TRY(ReadStop(reader, sampling.stop));
  TP_TRY(ReadBias(reader, sampling.logit_bias));
  if (const Json* tokens = reader.Find("stop_token_ids")) {
    TP_ASSIGN(sampling.stop_token_ids, ReadTokens(*tokens, "stop_token_ids", kMaxStopTokens));
  }
  if (sampling.min_tokens && sampling.max_tokens && *sampling.min_tokens > *sampling.max_tokens) {
    return Fail(BadField("min_tokens", fmt::format("min_tokens ({}) is more than max_tokens ({}).",
                                                   *sampling.min_tokens, *sampling.max_tokens)));
  }
  TP_ASSIGN(sampling.output, ReadOutputFormat(reader, ignored));
  return sampling;
}

}  // namespace tidepool::gateway::openai
