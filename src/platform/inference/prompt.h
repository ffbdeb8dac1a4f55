// From messages to the tokens of a prompt.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/text/text_stream.h"
#include "platform/inference/inference.h"
#include "platform/inference/model_assets.h"

namespace tidepool::platform {

struct RenderedPrompt {
  std::string text;  // what the template wrote, without markers
  std::vector<int32_t> tokens;
  text::ReasoningFormat reasoning;
  bool continues = false;  // the answer goes on in the last message: its first space counts
};

// Renders the template over the messages and tokenizes it. Strings of the client never become control tokens
// (see control_spellings.h). BOS is put in front when the model wants one and the template did not write it.
// Errors: kInvalid with the field (messages[2].role ...); template_error when the template refuses.
// `tools`: as ChatRequest has them, [] for none; a template that does not know tools is told as
// tool_messages.h says.
Result<RenderedPrompt> RenderChat(const ModelAssets& assets, const nlohmann::ordered_json& messages,
                                  const nlohmann::ordered_json& template_variables, int64_t now_unix_s,
                                  const nlohmann::ordered_json& tools = nlohmann::ordered_json::array());

// A completion's or embedding's prompt: token ids are checked, a string is encoded with the model's BOS /
// EOS.
Result<std::vector<int32_t>> EncodePrompt(const ModelAssets& assets, const Prompt& prompt, bool parse_special,
                                          const std::string& param);

// Refuses a text that cannot fit before it is tokenized: it has at least bytes / longest token tokens.
Status CheckTextFits(const ModelAssets& assets, size_t bytes, int32_t context_length,
                     const std::string& param);

}  // namespace tidepool::platform
