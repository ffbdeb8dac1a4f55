// What a template can do, found by rendering small conversations and looking at the text.
#include <algorithm>
#include <string>

#include "models/templates/chat_template.h"

namespace tidepool::templates {
namespace {

using Json = nlohmann::ordered_json;

// Words that no template contains by itself.
constexpr const char* kUser = "zqUSERzq";
constexpr const char* kSystem = "zqSYSTEMzq";
constexpr const char* kTool = "zq_tool_zq";
constexpr const char* kCall = "zq_call_zq";
constexpr const char* kArgument = "zqARGUMENTzq";
constexpr int64_t kSomeDay = 1'753'920'000;

class Prober {
 public:
  Prober(const ChatTemplate& chat_template, std::string_view bos, std::string_view eos)
      : template_(chat_template), bos_(bos), eos_(eos) {
    limits_.max_steps = 1'000'000;
    limits_.max_output_bytes = 4u << 20;
    limits_.max_memory_bytes = 64u << 20;
  }

  // The text, or empty where the template fails.
  std::string Render(const Json& messages, const Json& more = Json::object()) const {
    Json variables = {
        {"messages", messages}, {"bos_token", bos_}, {"eos_token", eos_}, {"add_generation_prompt", true}};
    for (const auto& [key, value] : more.items()) variables[key] = value;
    return template_.Render(variables, kSomeDay, limits_).value_or(std::string());
  }

 private:
  const ChatTemplate& template_;
  std::string bos_, eos_;
  RenderLimits limits_;
};

Json Message(const char* role, const Json& content) { return {{"role", role}, {"content", content}}; }

Json Parts(const char* text) { return Json::array({{{"type", "text"}, {"text", text}}}); }

Json Tools() {
  const Json parameters = {{"type", "object"},
                           {"properties", {{"zq_parameter", {{"type", "string"}, {"description", "text"}}}}},
                           {"required", Json::array({"zq_parameter"})}};
  return Json::array(
      {{{"type", "function"},
        {"function", {{"name", kTool}, {"description", "A tool."}, {"parameters", parameters}}}}});
}

bool Has(const std::string& text, std::string_view word) { return text.find(word) != std::string::npos; }

// Templates want arguments as an object, or as JSON text, and some an empty content.
enum class ToolCalls : uint8_t { kNone, kObject, kText };
ToolCalls RenderedToolCalls(const Prober& probe, bool parts) {
  const Json question = Message("user", parts ? Parts(kUser) : Json(kUser));
  const Json object = {{"zq_parameter", kArgument}};
  for (const Json& arguments : {object, Json(object.dump())}) {
    for (const Json& content : {Json(""), Json(nullptr)}) {
      Json answer = Message("assistant", content);
      answer["tool_calls"] = Json::array({{{"id", "call00001"},
                                           {"type", "function"},
                                           {"function", {{"name", kCall}, {"arguments", arguments}}}}});
      Json result = Message("tool", "42");
      result["tool_call_id"] = "call00001";
      result["name"] = kCall;
      const auto text = probe.Render(Json::array({question, answer, result}), {{"tools", Tools()}});
      if (Has(text, kCall) && Has(text, kArgument)) {
        return arguments.is_object() ? ToolCalls::kObject : ToolCalls::kText;
      }
    }
  }
  return ToolCalls::kNone;
}

struct Markers {
  const char* open;
  const char* close;
};
// The markers of the families in use; the first that the source mentions counts.
constexpr Markers kReasoningMarkers[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<seed:think>", "</seed:think>"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
    {"<thinking>", "</thinking>"},
    {"<|channel|>analysis<|message|>", "<|end|>"},
    {"<|inner_prefix|>", "<|inner_suffix|>"},
    {"<|begin_of_thought|>", "<|end_of_thought|>"},
};

bool MentionsMarkers(const std::string& source, const Markers& markers) {
  if (Has(source, markers.open) && Has(source, markers.close)) return true;
  // gpt-oss writes its channels in pieces.
  return std::string_view(markers.open).starts_with("<|channel|>") && Has(source, "<|channel|>analysis");
}

std::string_view TrimEnd(std::string_view text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.remove_suffix(1);
  return text;
}

}  // namespace

TemplateCapabilities ProbeCapabilities(const ChatTemplate& chat_template, std::string_view bos_token,
                                       std::string_view eos_token) {
  const Prober probe(chat_template, bos_token, eos_token);
  TemplateCapabilities found;
  const Json plain = Json::array({Message("user", kUser)});
  const std::string base = probe.Render(plain);
  found.string_content = Has(base, kUser);
  const std::string parts = probe.Render(Json::array({Message("user", Parts(kUser))}));
  // A template that only prints str(content) shows the list's brackets and keys.
  found.content_parts = Has(parts, kUser) && !Has(parts, "'text'") && !Has(parts, "\"text\"");
  const bool only_parts = !found.string_content && found.content_parts;
  const auto content = [&](const char* text) { return only_parts ? Parts(text) : Json(text); };
  const Json question = Json::array({Message("user", content(kUser))});
  const std::string reference = only_parts ? parts : base;

  found.system_role =
      Has(probe.Render(Json::array({Message("system", content(kSystem)), Message("user", content(kUser))})),
          kSystem);
  found.tools = Has(probe.Render(question, {{"tools", Tools()}}), kTool);
  const ToolCalls calls = RenderedToolCalls(probe, only_parts);
  found.tool_calls = calls != ToolCalls::kNone;
  found.text_arguments = calls == ToolCalls::kText;

  const std::string on = probe.Render(question, {{"enable_thinking", true}, {"thinking", true}});
  const std::string off = probe.Render(question, {{"enable_thinking", false}, {"thinking", false}});
  found.thinking_switch = on != off;
  for (const Markers& markers : kReasoningMarkers) {
    if (!MentionsMarkers(chat_template.source(), markers)) continue;
    found.reasoning_open = markers.open;
    found.reasoning_close = markers.close;
    break;
  }
  found.opens_reasoning = !found.reasoning_open.empty() && TrimEnd(reference).ends_with(found.reasoning_open);
  return found;
}

}  // namespace tidepool::templates
