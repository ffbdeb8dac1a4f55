#include <fmt/format.h>

#include "models/text/json_components.h"
#include "models/text/json_reader.h"
#include "models/text/unicode.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

Result<SplitBehavior> ReadBehavior(const JsonObject& object, std::optional<std::string_view> fallback) {
  TP_ASSIGN(const auto name, object.String("behavior", fallback));
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  return UnsupportedJson(object.PathOf("behavior"), fmt::format("is \"{}\"", name));
}

Result<PreTokenizerPointer> ReadSplit(const JsonObject& object) {
  TP_TRY(object.Only({"pattern", "behavior", "invert"}));
  const auto element = object.Get("pattern");
  if (!element) return BadJson(object.PathOf("pattern"), "is missing");
  TP_ASSIGN(SplitPattern pattern, ReadPattern(*element, object.PathOf("pattern")));
  TP_ASSIGN(const SplitBehavior behavior, ReadBehavior(object, std::nullopt));
  TP_ASSIGN(const bool invert, object.Bool("invert", false));
  return MakePatternSplit(std::move(pattern), behavior, invert);
}

Result<PreTokenizerPointer> ReadByteLevel(const JsonObject& object, bool raw_bytes) {
  // trim_offsets concerns offsets, which Tidepool does not report.
  TP_TRY(object.Only({"add_prefix_space", "trim_offsets", "use_regex"}));
  ByteLevelSplit options;
  TP_ASSIGN(options.add_prefix_space, object.Bool("add_prefix_space", true));
  TP_ASSIGN(options.use_regex, object.Bool("use_regex", true));
  options.spell_bytes = !raw_bytes;
  return MakeByteLevel(options);
}

Result<std::string_view> ReadCharacter1(const JsonObject& object, std::string_view key) {
  TP_ASSIGN(const auto text, object.String(key));
  if (text.empty() || ReadCharacter(text, 0).size != text.size()) {
    return BadJson(object.PathOf(key), "is not one character");
  }
  return text;
}

Result<PreTokenizerPointer> ReadMetaspace(const JsonObject& object) {
  TP_TRY(object.Only({"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"}));
  MetaspaceSplit options;
  TP_ASSIGN(const auto replacement, ReadCharacter1(object, "replacement"));
  options.replacement = replacement;
  TP_ASSIGN(const bool add_prefix, object.Bool("add_prefix_space", true));
  TP_ASSIGN(const auto scheme, object.String("prepend_scheme", add_prefix ? "always" : "never"));
  if (scheme == "always") {
    options.prepend = PrependScheme::kAlways;
  } else if (scheme == "first") {
    options.prepend = PrependScheme::kFirst;
  } else if (scheme == "never") {
    options.prepend = PrependScheme::kNever;
  } else {
    return UnsupportedJson(object.PathOf("prepend_scheme"), fmt::format("is \"{}\"", scheme));
  }
  if (!add_prefix && options.prepend != PrependScheme::kNever) {
    return BadJson(object.PathOf("add_prefix_space"), "contradicts prepend_scheme");
  }
  TP_ASSIGN(options.split, object.Bool("split", true));
  return MakeMetaspace(std::move(options));
}

Result<PreTokenizerPointer> ReadSequence(const JsonObject& object, bool raw_bytes, int depth) {
  TP_TRY(object.Only({"pretokenizers"}));
  if (depth >= kMaxJsonNesting) return BadJson(object.path(), "is nested too deeply");
  TP_ASSIGN(const auto elements, object.Array("pretokenizers"));
  std::vector<PreTokenizerPointer> steps;
  for (size_t i = 0; i < elements.size(); ++i) {
    TP_ASSIGN(auto step, ReadPreTokenizer(elements[i], fmt::format("{}.pretokenizers[{}]", object.path(), i),
                                          raw_bytes && i + 1 == elements.size(), depth + 1));
    steps.push_back(std::move(step));
  }
  return MakePreTokenizerSequence(std::move(steps));
}

Result<PreTokenizerPointer> ReadCharacterSplit(std::string_view type, const JsonObject& object) {
  if (type == "Punctuation") {
    TP_TRY(object.Only({"behavior"}));
    TP_ASSIGN(const SplitBehavior behavior, ReadBehavior(object, "Isolated"));
    return MakeCharacterSplit(IsPunctuation, behavior);
  }
  if (type == "Digits") {
    TP_TRY(object.Only({"individual_digits"}));
    TP_ASSIGN(const bool individual, object.Bool("individual_digits", false));
    return MakeCharacterSplit(IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
  }
  if (type == "CharDelimiterSplit") {
    TP_TRY(object.Only({"delimiter"}));
    TP_ASSIGN(const auto delimiter, ReadCharacter1(object, "delimiter"));
    return MakeDelimiterSplit(ReadCharacter(delimiter, 0).code);
  }
  TP_TRY(object.Only({}));
  if (type == "WhitespaceSplit") return MakeCharacterSplit(IsWhitespace, SplitBehavior::kRemoved);
  if (type == "Whitespace") return MakeWordSplit();
  std::vector<PreTokenizerPointer> steps;  // BertPreTokenizer
  steps.push_back(MakeCharacterSplit(IsWhitespace, SplitBehavior::kRemoved));
  steps.push_back(MakeCharacterSplit(IsPunctuation, SplitBehavior::kIsolated));
  return MakePreTokenizerSequence(std::move(steps));
}

}  // namespace

Result<PreTokenizerPointer> ReadPreTokenizer(simdjson::dom::element element, std::string path, bool raw_bytes,
                                             int depth) {
  TP_ASSIGN(const JsonObject object, JsonObject::From(element, std::move(path)));
  TP_ASSIGN(const auto type, object.Type());
  if (type == "Sequence") return ReadSequence(object, raw_bytes, depth);
  if (type == "ByteLevel") return ReadByteLevel(object, raw_bytes);
  if (type == "Split") return ReadSplit(object);
  if (type == "Metaspace") return ReadMetaspace(object);
  if (type == "FixedLength") {
    TP_TRY(object.Only({"length"}));
    TP_ASSIGN(const int64_t length, object.Int("length", 5));
    if (length < 1) return BadJson(object.PathOf("length"), "is less than 1");
    return MakeFixedLength(static_cast<size_t>(length));
  }
  for (const std::string_view known :
       {"Punctuation", "Digits", "CharDelimiterSplit", "WhitespaceSplit", "Whitespace", "BertPreTokenizer"}) {
    if (type == known) return ReadCharacterSplit(type, object);
  }
  return UnsupportedJson(object.PathOf("type"), fmt::format("is the pre-tokenizer \"{}\"", type));
}

bool EndsInByteLevel(simdjson::dom::element pre_tokenizer, int depth) {
  std::string_view type;
  if (depth > kMaxJsonNesting || pre_tokenizer["type"].get(type) != simdjson::SUCCESS) return false;
  if (type == "ByteLevel") return true;
  simdjson::dom::array steps;
  if (type != "Sequence" || pre_tokenizer["pretokenizers"].get(steps) != simdjson::SUCCESS ||
      steps.size() == 0) {
    return false;
  }
  // An earlier ByteLevel would already have spelled the bytes.
  for (size_t i = 0; i + 1 < steps.size(); ++i) {
    if (EndsInByteLevel(steps.at(i).value_unsafe(), depth + 1)) return false;
  }
  return EndsInByteLevel(steps.at(steps.size() - 1).value_unsafe(), depth + 1);
}

}  // namespace tidepool::text
