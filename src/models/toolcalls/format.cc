#include "models/toolcalls/format.h"

#include <array>

namespace tidepool::toolcalls {
namespace {

struct FormatRow {
  Format format;
  std::string_view name;
};
constexpr std::array<FormatRow, 10> kFormatRows = {{{Format::kHermes, "hermes"},
                                                    {Format::kQwenXml, "qwen_xml"},
                                                    {Format::kLlama3, "llama3"},
                                                    {Format::kMistral, "mistral"},
                                                    {Format::kDeepSeek, "deepseek"},
                                                    {Format::kGemma, "gemma"},
                                                    {Format::kGlm, "glm"},
                                                    {Format::kDsml, "dsml"},
                                                    {Format::kKimi, "kimi"},
                                                    {Format::kJson, "json"}}};

constexpr std::string_view kHermesTags[] = {"<tool_call>", "</tool_call>"};
constexpr std::string_view kLlamaTags[] = {"<|python_tag|>"};
constexpr std::string_view kMistralTags[] = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"};
constexpr std::string_view kDeepSeekTags[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
                                              "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
                                              "<｜tool▁calls▁end｜>"};
constexpr std::string_view kDsmlTags[] = {"<｜DSML｜", "</｜DSML｜", "｜DSML｜"};
constexpr std::string_view kKimiTags[] = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>",
                                          "<|tool_call_argument_begin|>", "<|tool_call_end|>",
                                          "<|tool_calls_section_end|>"};
constexpr std::string_view kGlmTags[] = {"<tool_call>", "</tool_call>", "<arg_key>",
                                         "</arg_key>",  "<arg_value>",  "</arg_value>"};
constexpr std::string_view kGemmaTags[] = {"<start_function_call>", "<end_function_call>", "<escape>"};

}  // namespace

std::span<const Format> Formats() {
  static constexpr Format kAll[] = {Format::kHermes,   Format::kQwenXml, Format::kLlama3, Format::kMistral,
                                    Format::kDeepSeek, Format::kGemma,   Format::kGlm,    Format::kDsml,
                                    Format::kKimi,     Format::kJson};
  return kAll;
}

std::string_view FormatName(Format format) {
  for (const FormatRow& row : kFormatRows) {
    if (row.format == format) return row.name;
  }
  return "json";
}

std::optional<Format> FindFormat(std::string_view name) {
  for (const FormatRow& row : kFormatRows) {
    if (row.name == name) return row.format;
  }
  return std::nullopt;
}

std::string FormatNames() {
  std::string names;
  for (const FormatRow& row : kFormatRows) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

Format DetectFormat(std::string_view source) {
  const auto has = [&](std::string_view tag) { return source.find(tag) != std::string_view::npos; };
  if (has("<start_function_call>")) return Format::kGemma;
  if (has("｜DSML｜")) return Format::kDsml;
  if (has("<|tool_calls_section_begin|>")) return Format::kKimi;
  if (has("<tool_call>") && has("<arg_key>")) return Format::kGlm;
  if (has("<｜tool▁calls▁begin｜>")) return Format::kDeepSeek;
  if (has("<function=") && has("<parameter=")) return Format::kQwenXml;
  if (has("[TOOL_CALLS]")) return Format::kMistral;
  if (has("<tool_call>")) return Format::kHermes;
  // Llama 3.2's template asks for JSON without naming the tag.
  if (has("<|python_tag|>") || (has("<|start_header_id|>") && has("\"parameters\""))) return Format::kLlama3;
  return Format::kJson;
}

std::span<const std::string_view> FormatTags(Format format) {
  switch (format) {
    case Format::kHermes:
    case Format::kQwenXml:
    case Format::kJson: return kHermesTags;
    case Format::kLlama3: return kLlamaTags;
    case Format::kMistral: return kMistralTags;
    case Format::kDeepSeek: return kDeepSeekTags;
    case Format::kGemma: return kGemmaTags;
    case Format::kGlm: return kGlmTags;
    case Format::kDsml: return kDsmlTags;
    case Format::kKimi: return kKimiTags;
  }
  return {};
}

std::string_view OpeningTag(Format format) { return FormatTags(format).front(); }

}  // namespace tidepool::toolcalls
