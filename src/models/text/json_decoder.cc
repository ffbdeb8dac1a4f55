#include <fmt/format.h>

#include "models/text/json_components.h"
#include "models/text/json_reader.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

using Step = Decoder::Step;

Status ReadStrip(const JsonObject& object, Decoder& decoder) {
  TP_TRY(object.Only({"content", "start", "stop"}));
  TP_ASSIGN(const auto content, object.String("content"));
  TP_ASSIGN(const int64_t start, object.Int("start", 0));
  TP_ASSIGN(const int64_t stop, object.Int("stop", 0));
  if (content.empty() || ReadCharacter(content, 0).size != content.size() || start < 0 || stop < 0) {
    return BadJson(object.path(), "is not a strip of one character");
  }
  if (!decoder.fused) {
    Step step;
    step.kind = Step::Kind::kStrip;
    step.text = content;
    step.start = static_cast<size_t>(start);
    step.stop = static_cast<size_t>(stop);
    decoder.Add(std::move(step));
    return {};
  }
  if (content != " " || start > 1 || stop > 0) {
    return UnsupportedJson(object.path(), "strips more than one leading space from the whole text");
  }
  decoder.strips_leading_space |= start == 1;
  return {};
}

Status ReadReplace(const JsonObject& object, Decoder& decoder) {
  TP_TRY(object.Only({"pattern", "content"}));
  if (decoder.fused) return UnsupportedJson(object.path(), "replaces in the whole text");
  const auto element = object.Get("pattern");
  if (!element) return BadJson(object.PathOf("pattern"), "is missing");
  TP_ASSIGN(SplitPattern pattern, ReadPattern(*element, object.PathOf("pattern")));
  TP_ASSIGN(const auto content, object.String("content"));
  Step step;
  step.kind = Step::Kind::kReplace;
  step.pattern = std::move(pattern);
  step.text = content;
  decoder.Add(std::move(step));
  return {};
}

Status ReadSequence(const JsonObject& object, Decoder& decoder, int depth) {
  TP_TRY(object.Only({"decoders"}));
  if (depth >= kMaxJsonNesting) return BadJson(object.path(), "is nested too deeply");
  TP_ASSIGN(const auto elements, object.Array("decoders"));
  for (size_t i = 0; i < elements.size(); ++i) {
    TP_TRY(ReadDecoder(elements[i], fmt::format("{}.decoders[{}]", object.path(), i), decoder, depth + 1));
  }
  return {};
}

Status ReadWordPiece(const JsonObject& object, Decoder& decoder) {
  TP_TRY(object.Only({"prefix", "cleanup"}));
  Step step;
  step.kind = Step::Kind::kWordPiece;
  TP_ASSIGN(const auto prefix, object.String("prefix", "##"));
  step.text = prefix;
  TP_ASSIGN(step.cleanup, object.Bool("cleanup", true));
  decoder.Add(std::move(step));
  decoder.strips_leading_space = true;
  return {};
}

Status ReadMetaspace(const JsonObject& object, Decoder& decoder) {
  TP_TRY(object.Only({"replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"}));
  Step step;
  step.kind = Step::Kind::kMetaspace;
  TP_ASSIGN(const auto replacement, object.String("replacement"));
  step.text = replacement;
  TP_ASSIGN(const bool add_prefix, object.Bool("add_prefix_space", true));
  TP_ASSIGN(const auto scheme, object.String("prepend_scheme", add_prefix ? "always" : "never"));
  decoder.strips_leading_space |= scheme != "never";
  decoder.Add(std::move(step));
  return {};
}

}  // namespace

Status ReadDecoder(simdjson::dom::element element, std::string path, Decoder& decoder, int depth) {
  TP_ASSIGN(const JsonObject object, JsonObject::From(element, std::move(path)));
  TP_ASSIGN(const auto type, object.Type());
  if (type == "Sequence") return ReadSequence(object, decoder, depth);
  if (type == "Strip") return ReadStrip(object, decoder);
  if (type == "Fuse") {
    TP_TRY(object.Only({}));
    decoder.fused = true;
    return {};
  }
  if (decoder.fused) return UnsupportedJson(object.path(), "decodes text that was fused already");
  if (type == "Replace") return ReadReplace(object, decoder);
  if (type == "WordPiece") return ReadWordPiece(object, decoder);
  if (type == "Metaspace") return ReadMetaspace(object, decoder);
  Step step;
  if (type == "ByteLevel") {
    TP_TRY(object.Only({"add_prefix_space", "trim_offsets", "use_regex"}));  // they concern encoding
    step.kind = Step::Kind::kByteLevel;
    decoder.fused = true;
  } else if (type == "ByteFallback") {
    TP_TRY(object.Only({}));
    step.kind = Step::Kind::kByteFallback;
  } else if (type == "BPEDecoder") {
    TP_TRY(object.Only({"suffix"}));
    TP_ASSIGN(const auto suffix, object.String("suffix", "</w>"));
    step.kind = Step::Kind::kSuffix;
    step.text = suffix;
    decoder.drops_trailing_space = true;
  } else {
    return UnsupportedJson(object.PathOf("type"), fmt::format("is the decoder \"{}\"", type));
  }
  decoder.Add(std::move(step));
  return {};
}

}  // namespace tidepool::text
