// Which tokens end an answer, and other things that files leave to be known by name.
#include <algorithm>
#include <array>
#include <string_view>

#include "models/text/pipeline.h"

namespace tidepool::text {
namespace {

// Tokens that end a turn or a document, as the families spell them.
constexpr std::array kEndNames = {
    std::string_view("<|im_end|>"),          // Qwen, SmolLM2, ChatML
    std::string_view("<|endoftext|>"),       // GPT-2, Qwen, Phi, gpt-oss
    std::string_view("<|eot_id|>"),          // Llama 3
    std::string_view("<|eom_id|>"),          // Llama 3, tool calls
    std::string_view("<|end_of_text|>"),     // Llama 3, Granite
    std::string_view("<|end|>"),             // Phi-3; in gpt-oss it ends a message, not the answer
    std::string_view("<|return|>"),          // gpt-oss
    std::string_view("<|call|>"),            // gpt-oss
    std::string_view("<end_of_turn>"),       // Gemma 2, 3
    std::string_view("<turn|>"),             // Gemma 4
    std::string_view("<eos>"),               // Gemma
    std::string_view("<EOT>"),               // Code Llama
    std::string_view("[EOT]"),               // Kimi
    std::string_view("<end_of_utterance>"),  // SmolVLM
    std::string_view("<\xEF\xBD\x9C"
                     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"),  // DeepSeek
    std::string_view("<|END_OF_TURN_TOKEN|>"),                               // Command R
    std::string_view("<|fim_pad|>"),  // Qwen Coder: after the middle, the model goes on with these
    std::string_view("<|repo_name|>"),
    std::string_view("<|file_sep|>"),
};

// Part of what a client reads (reasoning, tool calls), even where the file says control.
constexpr std::array<std::string_view, 10> kShownNames = {
    "<think>",          "</think>",       "<tool_call>", "</tool_call>", "<tool_response>",
    "</tool_response>", "<|python_tag|>", "[THINK]",     "[/THINK]",     "[TOOL_CALLS]",
};
// gpt-oss writes its channels with these; only where <|return|> and <|call|> say that it is gpt-oss.
constexpr std::array<std::string_view, 4> kHarmonyShownNames = {"<|channel|>", "<|message|>", "<|start|>",
                                                                "<|constrain|>"};

std::optional<TokenId> FirstOf(const TokenTable& tokens, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (const auto id = tokens.Find(name)) return id;
  }
  return std::nullopt;
}

void AddEnd(SpecialTokens& special, std::optional<TokenId> id) {
  auto& ends = special.end_of_generation;
  if (id && std::find(ends.begin(), ends.end(), *id) == ends.end()) ends.push_back(*id);
}

}  // namespace

void NameSpecialTokens(TokenizerParts& parts) {
  SpecialTokens& special = parts.special;
  TokenTable& tokens = parts.tokens;
  const auto harmony =
      tokens.Find("<|return|>") && tokens.Find("<|call|>") ? tokens.Find("<|end|>") : std::nullopt;
  for (const std::string_view name : kEndNames) {
    const auto id = tokens.Find(name);
    if (!id || id == harmony) continue;
    // A name that is ordinary text in some vocabulary ("<eos>" in a web corpus) only counts as control.
    if (tokens.IsControl(*id)) AddEnd(special, id);
  }
  AddEnd(special, special.eos);
  AddEnd(special, special.eot);
  AddEnd(special, special.eom);
  if (!special.eot) {
    const auto eot = FirstOf(tokens, {"<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<turn|>"});
    if (eot && tokens.IsControl(*eot)) special.eot = eot;
  }
  if (!special.fim_prefix) {
    special.fim_prefix = FirstOf(tokens, {"<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>",
                                          "<\xEF\xBD\x9C"
                                          "fim\xE2\x96\x81"
                                          "begin\xEF\xBD\x9C>",
                                          "\xE2\x96\x81<PRE>"});
  }
  if (!special.fim_suffix) {
    special.fim_suffix = FirstOf(tokens, {"<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>",
                                          "<\xEF\xBD\x9C"
                                          "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
                                          "\xE2\x96\x81<SUF>"});
  }
  if (!special.fim_middle) {
    special.fim_middle = FirstOf(tokens, {"<|fim_middle|>", "<fim_middle>", "<fim-middle>",
                                          "<\xEF\xBD\x9C"
                                          "fim\xE2\x96\x81"
                                          "end\xEF\xBD\x9C>",
                                          "\xE2\x96\x81<MID>"});
  }
  for (const std::string_view name : kShownNames) {
    if (const auto id = tokens.Find(name)) tokens.SetShown(*id, true);
  }
  for (const std::string_view name : kHarmonyShownNames) {
    const auto id = harmony ? tokens.Find(name) : std::nullopt;
    if (id) tokens.SetShown(*id, true);
  }
  std::sort(special.end_of_generation.begin(), special.end_of_generation.end());
}

}  // namespace tidepool::text
