#include <fmt/format.h>

#include "models/text/json_components.h"
#include "models/text/json_reader.h"
#include "models/text/model.h"

namespace tidepool::text {
namespace {

Result<TokenId> ReadId(simdjson::dom::element element, std::string_view path) {
  int64_t id = 0;
  if (element.get(id) != simdjson::SUCCESS || id < 0 || id >= kMaxVocabulary)
    return BadJson(path, "is not a token id");
  return static_cast<TokenId>(id);
}

// ["[CLS]", 101]
Result<TokenId> ReadPair(const JsonObject& object, std::string_view key) {
  TP_ASSIGN(const auto elements, object.Array(key));
  if (elements.size() != 2) return BadJson(object.PathOf(key), "is not a pair of token and id");
  return ReadId(elements[1], object.PathOf(key));
}

Status ReadBert(const JsonObject& object, Surroundings& surroundings) {
  TP_TRY(object.Only({"sep", "cls", "trim_offsets", "add_prefix_space"}));
  TP_ASSIGN(const TokenId separator, ReadPair(object, "sep"));
  TP_ASSIGN(const TokenId start, ReadPair(object, "cls"));
  surroundings.before.insert(surroundings.before.begin(), start);
  surroundings.after.push_back(separator);
  return {};
}

Status ReadTemplate(const JsonObject& object, Surroundings& surroundings) {
  TP_TRY(object.Only({"single", "pair", "special_tokens"}));
  TP_ASSIGN(const auto pieces, object.Array("single"));
  std::vector<TokenId> before, after;
  bool seen_text = false;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const std::string path = fmt::format("{}.single[{}]", object.path(), i);
    TP_ASSIGN(const JsonObject piece, JsonObject::From(pieces[i], path));
    if (piece.Get("Sequence")) {
      TP_ASSIGN(const JsonObject sequence, piece.Object("Sequence"));
      TP_ASSIGN(const auto id, sequence.String("id"));
      if (id != "A" || seen_text)
        return UnsupportedJson(path, "holds the text more than once, or a second text");
      seen_text = true;
      continue;
    }
    TP_ASSIGN(const JsonObject token, piece.Object("SpecialToken"));
    TP_ASSIGN(const auto name, token.String("id"));
    TP_ASSIGN(const JsonObject tokens, object.Object("special_tokens"));
    TP_ASSIGN(const JsonObject entry, tokens.Object(name));
    TP_ASSIGN(const auto ids, entry.Array("ids"));
    for (const auto element : ids) {
      TP_ASSIGN(const TokenId id, ReadId(element, entry.PathOf("ids")));
      (seen_text ? after : before).push_back(id);
    }
  }
  if (!seen_text) return UnsupportedJson(object.PathOf("single"), "leaves the text out");
  surroundings.before.insert(surroundings.before.begin(), before.begin(), before.end());
  surroundings.after.insert(surroundings.after.end(), after.begin(), after.end());
  return {};
}

}  // namespace

Status ReadPostProcessor(simdjson::dom::element element, std::string path, Surroundings& surroundings,
                         int depth) {
  TP_ASSIGN(const JsonObject object, JsonObject::From(element, std::move(path)));
  TP_ASSIGN(const auto type, object.Type());
  if (type == "ByteLevel")
    return object.Only({"add_prefix_space", "trim_offsets", "use_regex"});  // offsets only
  if (type == "TemplateProcessing") return ReadTemplate(object, surroundings);
  if (type == "BertProcessing" || type == "RobertaProcessing") return ReadBert(object, surroundings);
  if (type == "Sequence") {
    TP_TRY(object.Only({"processors"}));
    if (depth >= kMaxJsonNesting) return BadJson(object.path(), "is nested too deeply");
    TP_ASSIGN(const auto elements, object.Array("processors"));
    for (size_t i = 0; i < elements.size(); ++i) {
      TP_TRY(ReadPostProcessor(elements[i], fmt::format("{}.processors[{}]", object.path(), i), surroundings,
                               depth + 1));
    }
    return {};
  }
  return UnsupportedJson(object.PathOf("type"), fmt::format("is the post-processor \"{}\"", type));
}

}  // namespace tidepool::text
