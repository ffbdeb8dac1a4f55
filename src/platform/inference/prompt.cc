#include "platform/inference/prompt.h"

#include <fmt/format.h>
#include <algorithm>
#include <array>

#include "platform/inference/tool_messages.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

// Deeper values are refused before the recursions below walk them.
constexpr int kMaxJsonDepth = 128;
// Templates paste roles between the brackets of control tokens ('<|' + role + '|>'), so a role is never free
// text.
constexpr std::array<std::string_view, 6> kRoles = {"system",    "developer", "user",
                                                    "assistant", "tool",      "function"};

bool DeeperThan(const Json& value, int depth) {
  if (depth == 0) return true;
  if (!value.is_structured()) return false;
  return std::any_of(value.begin(), value.end(),
                     [&](const Json& item) { return DeeperThan(item, depth - 1); });
}

std::string Place(size_t index, std::string_view field) {
  return fmt::format("messages[{}].{}", index, field);
}

// The text parts of a content list as one string, a line each.
Result<std::string> JoinParts(const Json& parts, size_t index) {
  std::string out;
  bool first = true;
  for (const Json& part : parts) {
    const std::string type = part.is_object() ? part.value("type", std::string()) : std::string();
    if (type != "text" || !part.contains("text") || !part["text"].is_string()) {
      return Fail(
          ErrorKind::kInvalid, "unsupported_content",
          fmt::format(
              "content parts must be {{\"type\": \"text\", \"text\": ...}}; this model reads text only "
              "and part type \"{}\" was given",
              type),
          Place(index, "content"));
    }
    if (!first) out += '\n';
    first = false;
    out += part["text"].get_ref<const std::string&>();
  }
  return out;
}

// Content in the shape this template reads: a string, or a list of parts.
Status FitContent(const ModelAssets& assets, Json& message, size_t index) {
  Json& content = message["content"];
  if (content.is_null()) {
    if (message["role"] != "assistant") {
      return Fail(ErrorKind::kInvalid, "missing_content", "a message of this role needs content",
                  Place(index, "content"));
    }
    content = "";
  }
  if (content.is_array()) {
    TP_ASSIGN(std::string joined, JoinParts(content, index));
    if (!assets.capabilities.content_parts) content = std::move(joined);
  } else if (!content.is_string()) {
    return Fail(ErrorKind::kInvalid, "invalid_type",
                fmt::format("content must be a string or a list of text parts, not {}", content.type_name()),
                Place(index, "content"));
  }
  if (content.is_string() && !assets.capabilities.string_content && assets.capabilities.content_parts) {
    content = Json::array({Json{{"type", "text"}, {"text", content}}});
  }
  return {};
}

Status FitRole(const ModelAssets& assets, Json& message, size_t index) {
  if (!message.is_object() || !message.contains("role") || !message["role"].is_string()) {
    return Fail(ErrorKind::kInvalid, "invalid_type", "a message must be an object with a role",
                Place(index, "role"));
  }
  std::string role = message["role"].get<std::string>();
  if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
    return Fail(ErrorKind::kInvalid, "invalid_role",
                fmt::format("unknown role \"{}\"; use {}", role.substr(0, 64), fmt::join(kRoles, ", ")),
                Place(index, "role"));
  }
  // "developer" is OpenAI's newer word for system; only a few templates know it.
  if (role == "developer" && assets.chat_template->source().find("developer") == std::string::npos)
    role = "system";
  if (role == "system" && !assets.capabilities.system_role) {
    return Fail(
        ErrorKind::kInvalid, "system_role_unsupported",
        "this model's chat template has no system role; put the instructions into the first user message",
        Place(index, "role"));
  }
  message["role"] = role;
  return {};
}

Result<Json> FitMessages(const ModelAssets& assets, const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    return Fail(ErrorKind::kInvalid, "invalid_type", "messages must be a list of at least one message",
                "messages");
  }
  if (DeeperThan(messages, kMaxJsonDepth)) {
    return Fail(ErrorKind::kInvalid, "too_deep",
                fmt::format("messages are nested deeper than {} levels", kMaxJsonDepth), "messages");
  }
  Json fitted = messages;
  for (size_t i = 0; i < fitted.size(); ++i) {
    TP_TRY(FitRole(assets, fitted[i], i));
    TP_TRY(FitContent(assets, fitted[i], i));
  }
  return fitted;
}

// Guards every string of a value, object keys included.
Json GuardStrings(const Json& value, const ControlSpellings& spellings, std::string_view marker,
                  const std::vector<std::string>& allowed) {
  if (value.is_string()) return spellings.Guard(value.get_ref<const std::string&>(), marker, allowed);
  if (value.is_array()) {
    Json out = Json::array();
    for (const Json& item : value) out.push_back(GuardStrings(item, spellings, marker, allowed));
    return out;
  }
  if (value.is_object()) {
    Json out = Json::object();
    for (const auto& [key, item] : value.items()) {
      out[spellings.Guard(key, marker)] = GuardStrings(item, spellings, marker, allowed);
    }
    return out;
  }
  return value;
}

// Roles are from kRoles and templates compare them, so they are not touched; the assistant's own reasoning
// tags may be control tokens that templates look for in its earlier answers.
Json GuardMessages(const Json& messages, const ModelAssets& assets, std::string_view marker) {
  const std::vector<std::string> tags = {assets.capabilities.reasoning_open,
                                         assets.capabilities.reasoning_close};
  Json out = Json::array();
  for (const Json& message : messages) {
    const bool assistant = message["role"] == "assistant";
    Json guarded =
        GuardStrings(message, assets.spellings, marker, assistant ? tags : std::vector<std::string>{});
    guarded["role"] = message["role"];
    out.push_back(std::move(guarded));
  }
  return out;
}

// Takes add_generation_prompt and continue_final_message out of the variables.
struct TurnEnd {
  bool add_generation_prompt = true;
  bool continue_final_message = false;
};
Result<TurnEnd> ReadTurnEnd(const Json& variables) {
  TurnEnd end;
  const auto read = [&](const char* key, bool& into) -> Status {
    const auto it = variables.find(key);
    if (it == variables.end() || it->is_null()) return {};
    if (!it->is_boolean()) return Fail(ErrorKind::kInvalid, "invalid_type", "must be true or false", key);
    into = it->get<bool>();
    return {};
  };
  TP_TRY(read("continue_final_message", end.continue_final_message));
  end.add_generation_prompt = !end.continue_final_message;
  TP_TRY(read("add_generation_prompt", end.add_generation_prompt));
  if (end.add_generation_prompt && end.continue_final_message) {
    return Fail(ErrorKind::kInvalid, "conflicting_parameters",
                "continue_final_message leaves the last message open, add_generation_prompt starts a new "
                "one: set one",
                "continue_final_message");
  }
  return end;
}

Status CheckVariables(const Json& variables) {
  if (!variables.is_object()) {
    return Fail(ErrorKind::kInvalid, "invalid_type", "must be an object", "chat_template_kwargs");
  }
  for (const char* reserved : {"messages", "bos_token", "eos_token", "tools", "documents"}) {
    if (variables.contains(reserved)) {
      return Fail(ErrorKind::kInvalid, "reserved_variable",
                  fmt::format("\"{}\" is set by the server and cannot be a template variable", reserved),
                  fmt::format("chat_template_kwargs.{}", reserved));
    }
  }
  if (DeeperThan(variables, kMaxJsonDepth)) {
    return Fail(ErrorKind::kInvalid, "too_deep",
                fmt::format("template variables are nested deeper than {} levels", kMaxJsonDepth),
                "chat_template_kwargs");
  }
  return {};
}

// Marks where the last message's text ends, so that what the template writes after it can be cut off.
Status MarkFinalMessage(Json& messages, std::string_view end_mark) {
  Json& last = messages.back();
  if (last["role"] != "assistant") {
    return Fail(ErrorKind::kInvalid, "no_final_message",
                "continue_final_message needs an assistant message at the end of messages",
                "continue_final_message");
  }
  Json* text = last["content"].is_array() ? &last["content"].back()["text"] : &last["content"];
  std::string content = text->get<std::string>();
  content.erase(content.find_last_not_of(" \t\n\r\v\f") + 1);
  *text = content.append(end_mark);
  return {};
}

void PrependBos(const ModelAssets& assets, std::vector<int32_t>& tokens) {
  const text::SpecialTokens& special = assets.tokenizer->special();
  if (!special.add_bos || !special.bos) return;
  if (tokens.empty() || tokens.front() != *special.bos) tokens.insert(tokens.begin(), *special.bos);
}

bool EndsOpen(std::string_view text, std::string_view open_tag) {
  const size_t end = text.find_last_not_of(" \t\n\r");
  return !open_tag.empty() && end != std::string_view::npos && text.substr(0, end + 1).ends_with(open_tag);
}

}  // namespace

Result<RenderedPrompt> RenderChat(const ModelAssets& assets, const Json& messages,
                                  const Json& template_variables, int64_t now_unix_s, const Json& tools) {
  if (assets.template_error) {
    Error error = *assets.template_error;
    error.message = "the model's chat template cannot be used: " + error.message +
                    "; send the whole prompt to /v1/completions instead";
    return Fail(std::move(error));
  }
  TP_TRY(CheckVariables(template_variables));
  TP_ASSIGN(const TurnEnd turn_end, ReadTurnEnd(template_variables));
  TP_ASSIGN(const Json fitted, FitMessages(assets, FitToolMessages(assets, messages, tools)));
  if (DeeperThan(tools, kMaxJsonDepth)) {
    return Fail(ErrorKind::kInvalid, "too_deep",
                fmt::format("tools are nested deeper than {} levels", kMaxJsonDepth), "tools");
  }

  std::vector<std::string_view> texts = {assets.chat_template->source()};
  CollectStrings(fitted, texts);
  CollectStrings(tools, texts);
  CollectStrings(template_variables, texts);
  const std::string marker = ChooseMarker(texts);
  texts.push_back(marker);
  const std::string end_mark = ChooseMarker(texts);

  Json variables = GuardStrings(template_variables, assets.spellings, marker, {});
  Json guarded = GuardMessages(fitted, assets, marker);
  if (turn_end.continue_final_message) TP_TRY(MarkFinalMessage(guarded, end_mark));
  variables.erase("continue_final_message");
  variables["messages"] = std::move(guarded);
  if (!tools.empty() && assets.capabilities.tools) {
    variables["tools"] = GuardStrings(tools, assets.spellings, marker, {});
  }
  variables["add_generation_prompt"] = turn_end.add_generation_prompt;
  variables["bos_token"] = assets.bos_text;
  variables["eos_token"] = assets.eos_text;
  TP_ASSIGN(std::string text, assets.chat_template->Render(variables, now_unix_s));
  if (turn_end.continue_final_message) {
    const size_t end = text.rfind(end_mark);
    if (end == std::string::npos) {
      return Fail(ErrorKind::kInvalid, "template_error",
                  "the chat template drops the last message, so it cannot be continued",
                  "continue_final_message");
    }
    text = RemoveMarkers(std::string_view(text).substr(0, end), end_mark);
  }

  RenderedPrompt out;
  out.tokens = EncodeRendered(*assets.tokenizer, assets.spellings, text, marker);
  PrependBos(assets, out.tokens);
  out.text = RemoveMarkers(text, marker);
  out.continues = turn_end.continue_final_message;
  out.reasoning.open_tag = assets.capabilities.reasoning_open;
  out.reasoning.close_tag = assets.capabilities.reasoning_close;
  out.reasoning.starts_inside = EndsOpen(text, out.reasoning.open_tag);
  return out;
}

Result<std::vector<int32_t>> EncodePrompt(const ModelAssets& assets, const Prompt& prompt, bool parse_special,
                                          const std::string& param) {
  std::vector<int32_t> tokens;
  if (prompt.is_tokens) {
    const int32_t vocab = assets.tokenizer->vocab_size();
    for (const int32_t token : prompt.tokens) {
      if (token < 0 || token >= vocab) {
        return Fail(ErrorKind::kInvalid, "invalid_token",
                    fmt::format("token {} is outside the model's vocabulary (0 to {})", token, vocab - 1),
                    param);
      }
    }
    tokens = prompt.tokens;
  } else {
    tokens = assets.tokenizer->Encode(prompt.text, {.add_special = true, .parse_special = parse_special});
    // Text that spells BOS itself (a whole template) must not get a second one.
    const auto& bos = assets.tokenizer->special().bos;
    if (parse_special && bos && tokens.size() > 1 && tokens[0] == *bos && tokens[1] == *bos) {
      tokens.erase(tokens.begin());
    }
  }
  if (tokens.empty()) {
    return Fail(ErrorKind::kInvalid, "empty_prompt", "the prompt has no tokens; give at least one character",
                param);
  }
  return tokens;
}

Status CheckTextFits(const ModelAssets& assets, size_t bytes, int32_t context_length,
                     const std::string& param) {
  // A character may also be normalised away or merged (NFC, white space), so the bound is kept generous: 4
  // times.
  const size_t least_tokens = bytes / (4 * assets.longest_token_bytes);
  if (context_length <= 0 || least_tokens <= static_cast<size_t>(context_length)) return {};
  return Fail(ErrorKind::kInvalid, "context_length_exceeded",
              fmt::format("the text has {} bytes, so more than {} tokens; the model's context is {} tokens",
                          bytes, least_tokens, context_length),
              param);
}

}  // namespace tidepool::platform
