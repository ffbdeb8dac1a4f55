#include "models/toolcalls/format.h"

#include <array>

namespace tidepool::toolcalls {
namespace {

struct FormatRow {
  Format format;
  std::string_view name;
};
constexpr std::array<FormatRow, 7> kFormats = {{{Format::kHermes, "hermes"},
                                                {Format::kQwenXml, "qwen_xml"},
                                                {Format::kLlama3, "llama3"},
                                                {Format::kMistral, "mistral"},
                                                {Format::kDeepSeek, "deepseek"},
                                                {Format::kGemma, "gemma"},
                                                {Format::kJson, "json"}}};

constexpr std::string_view kHermesTags[] = {"<tool_call>", "</tool_call>"};
constexpr std::string_view kLlamaTags[] = {"<|python_tag|>"};
constexpr std::string_view kMistralTags[] = {"[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"};
constexpr std::string_view kDeepSeekTags[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>",
                                              "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
                                              "<｜tool▁calls▁end｜>"};
constexpr std::string_view kGemmaTags[] = {"<start_function_call>", "<end_function_call>", "<escape>"};

}  // namespace

std::string_view FormatName(Format format) {
  for (const FormatRow& row : kFormats) {
    if (row.format == format) return row.name;
  }
  return "json";
}

std::optional<Format> FindFormat(std::string_view name) {
  for (const FormatRow& row : kFormats) {
    if (row.name == name) return row.format;
  }
  return std::nullopt;
}

std::string FormatNames() {
  std::string names;
  for (const FormatRow& row : kFormats) {
    if (!names.empty()) names += ", ";
    names += row.name;
  }
  return names;
}

Format DetectFormat(std::string_view source) {
  const auto has = [&](std::string_view tag) { return source.find(tag) != std::string_view::npos; };
  if (has("<start_function_call>")) return Format::kGemma;
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
  }
  return {};
}

std::string_view OpeningTag(Format format) { return FormatTags(format).front(); }

}  // namespace tidepool::toolcalls
