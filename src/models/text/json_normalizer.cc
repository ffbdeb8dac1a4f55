#include <fmt/format.h>

#include "models/text/json_components.h"
#include "models/text/json_reader.h"

namespace tidepool::text {
namespace {

Result<NormalizerPointer> ReadBert(const JsonObject& object) {
  TP_TRY(object.Only({"clean_text", "handle_chinese_chars", "strip_accents", "lowercase"}));
  BertNormalization options;
  TP_ASSIGN(options.clean_text, object.Bool("clean_text", true));
  TP_ASSIGN(options.handle_chinese_chars, object.Bool("handle_chinese_chars", true));
  TP_ASSIGN(options.lowercase, object.Bool("lowercase", true));
  TP_ASSIGN(options.strip_accents, object.Bool("strip_accents", options.lowercase));
  return MakeBert(options);
}

Result<NormalizerPointer> ReadSequence(const JsonObject& object, int depth) {
  TP_TRY(object.Only({"normalizers"}));
  if (depth >= kMaxJsonNesting) return BadJson(object.path(), "is nested too deeply");
  TP_ASSIGN(const auto elements, object.Array("normalizers"));
  std::vector<NormalizerPointer> steps;
  for (size_t i = 0; i < elements.size(); ++i) {
    TP_ASSIGN(auto step,
              ReadNormalizer(elements[i], fmt::format("{}.normalizers[{}]", object.path(), i), depth + 1));
    steps.push_back(std::move(step));
  }
  return MakeNormalizerSequence(std::move(steps));
}

Result<NormalizerPointer> ReadReplace(const JsonObject& object) {
  TP_TRY(object.Only({"pattern", "content"}));
  const auto element = object.Get("pattern");
  if (!element) return BadJson(object.PathOf("pattern"), "is missing");
  TP_ASSIGN(SplitPattern pattern, ReadPattern(*element, object.PathOf("pattern")));
  TP_ASSIGN(const auto content, object.String("content"));
  return MakeReplace(std::move(pattern), std::string(content));
}

Result<NormalizerPointer> ReadStrip(const JsonObject& object) {
  TP_TRY(object.Only({"strip_left", "strip_right"}));
  TP_ASSIGN(const bool left, object.Bool("strip_left"));
  TP_ASSIGN(const bool right, object.Bool("strip_right"));
  return MakeStrip(left, right);
}

Result<NormalizerPointer> ReadPlain(std::string_view type, const JsonObject& object) {
  TP_TRY(object.Only({}));
  if (type == "NFC") return MakeNormalForm(NormalForm::kNfc);
  if (type == "NFD") return MakeNormalForm(NormalForm::kNfd);
  if (type == "NFKC") return MakeNormalForm(NormalForm::kNfkc);
  if (type == "NFKD") return MakeNormalForm(NormalForm::kNfkd);
  if (type == "Lowercase") return MakeLowercase();
  if (type == "StripAccents") return MakeStripAccents();
  if (type == "Nmt") return MakeNmt();
  if (type == "ByteLevel") return MakeByteAlphabet();
  return UnsupportedJson(object.PathOf("type"), fmt::format("is the normalizer \"{}\"", type));
}

}  // namespace

Result<SplitPattern> ReadPattern(simdjson::dom::element element, std::string path) {
  TP_ASSIGN(const JsonObject object, JsonObject::From(element, std::move(path)));
  TP_TRY(object.Only({"String", "Regex"}));
  if (object.Get("String")) {
    TP_ASSIGN(const auto text, object.String("String"));
    return SplitPattern::Literal(text);
  }
  TP_ASSIGN(const auto pattern, object.String("Regex"));
  return SplitPattern::Compile(pattern);
}

Result<NormalizerPointer> ReadNormalizer(simdjson::dom::element element, std::string path, int depth) {
  TP_ASSIGN(const JsonObject object, JsonObject::From(element, std::move(path)));
  TP_ASSIGN(const auto type, object.Type());
  if (type == "Sequence") return ReadSequence(object, depth);
  if (type == "BertNormalizer") return ReadBert(object);
  if (type == "Replace") return ReadReplace(object);
  if (type == "Strip") return ReadStrip(object);
  if (type == "Prepend") {
    TP_TRY(object.Only({"prepend"}));
    TP_ASSIGN(const auto prefix, object.String("prepend"));
    return MakePrepend(std::string(prefix));
  }
  if (type == "Precompiled") {
    TP_TRY(object.Only({"precompiled_charsmap"}));
    TP_ASSIGN(const auto base64, object.String("precompiled_charsmap", ""));
    TP_ASSIGN(Charsmap map, Charsmap::ParseBase64(base64));
    return MakePrecompiled(std::move(map));
  }
  return ReadPlain(type, object);
}

}  // namespace tidepool::text
