// How model families write tool calls, and which of them a chat template means.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tidepool::toolcalls {

// Shapes (whitespace left out):
//   kHermes    <tool_call>{"name": f, "arguments": {..}}</tool_call>        Qwen2.5, Qwen3, Hermes
//   kQwenXml   <tool_call><function=f><parameter=p>V</parameter></function></tool_call>   Qwen3-Coder,
//   Qwen3.5 kLlama3    {"name": f, "parameters": {..}}, or after <|python_tag|>, where f.call(k="v") is read
//   too kMistral   [TOOL_CALLS][{"name": f, "arguments": {..}}] or [TOOL_CALLS]f[ARGS]{..}, [CALL_ID] between
//   them kDeepSeek  <｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f ```json {..} ``` (V3,
//   R1), or
//              f<｜tool▁sep｜>{..} (V3.1)
//   kGemma     <start_function_call>call:f{k:<escape>v<escape>}<end_function_call>   FunctionGemma
//   kGlm       <tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value></tool_call>   GLM 4.5 and later
//   kDsml      <｜DSML｜function_calls><｜DSML｜invoke name="f"><｜DSML｜parameter name="k" string="true">v
//              </｜DSML｜parameter></｜DSML｜invoke></｜DSML｜function_calls>   DeepSeek V3.2; V4: tool_calls
//   kKimi      <|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{..}
//              <|tool_call_end|><|tool_calls_section_end|>   Kimi K2
//   kJson      kHermes, and an answer that is nothing but {"name": f, "arguments" or "parameters": {..}} of a
//              known function, or a list of such, with or without a ```json fence
enum class Format : uint8_t {
  kHermes,
  kQwenXml,
  kLlama3,
  kMistral,
  kDeepSeek,
  kGemma,
  kGlm,
  kDsml,
  kKimi,
  kJson,
};

// All of them.
std::span<const Format> Formats();

std::string_view FormatName(Format format);  // "hermes", "qwen_xml", "llama3", ...
std::optional<Format> FindFormat(std::string_view name);
std::string FormatNames();  // "hermes, qwen_xml, ..." for errors

// By the tags that the template's source mentions; kJson where it mentions none.
Format DetectFormat(std::string_view template_source);

// Tags that may be control tokens of the model and yet belong to the text a parser reads.
std::span<const std::string_view> FormatTags(Format format);
// The first of them: where it stands, a call begins, even if the model never closed its reasoning. Empty: the
// format has none.
std::string_view OpeningTag(Format format);

}  // namespace tidepool::toolcalls
