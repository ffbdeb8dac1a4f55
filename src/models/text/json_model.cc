#include "models/text/json_model.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

#include "models/text/bpe.h"
#include "models/text/unigram.h"
#include "models/text/wordpiece.h"

namespace tidepool::text {
namespace {

// Old files leave the type out.
std::string_view ModelType(const JsonObject& object) {
  if (const auto type = object.Get("type")) {
    std::string_view name;
    return type->get(name) == simdjson::SUCCESS ? name : std::string_view("?");
  }
  if (object.Get("merges")) return "BPE";
  if (object.Get("max_input_chars_per_word")) return "WordPiece";
  if (const auto vocab = object.Get("vocab"); vocab && vocab->is_array()) return "Unigram";
  return "WordLevel";
}

// {"piece": id, ...}
Result<std::vector<VocabularyEntry>> ReadVocabulary(const JsonObject& object) {
  TP_ASSIGN(const JsonObject vocab, object.Object("vocab"));
  std::vector<VocabularyEntry> entries;
  entries.reserve(vocab.members().size());
  for (const auto member : vocab.members()) {
    int64_t id = 0;
    if (member.value.get(id) != simdjson::SUCCESS || id < 0 || id >= kMaxVocabulary) {
      return BadJson(vocab.PathOf(member.key), fmt::format("is not an id from 0 to {}", kMaxVocabulary - 1));
    }
    entries.push_back({member.key, static_cast<TokenId>(id), 0});
  }
  return entries;
}

Result<std::optional<TokenId>> FindUnknown(const JsonObject& object,
                                           const std::vector<VocabularyEntry>& vocabulary, bool required) {
  std::optional<TokenId> unknown;
  if (object.Get("unk_token")) {
    TP_ASSIGN(const auto piece, object.String("unk_token"));
    for (const VocabularyEntry& entry : vocabulary) {
      if (entry.piece == piece) unknown = entry.id;
    }
  }
  if (!unknown && required) return BadJson(object.PathOf("unk_token"), "is missing or not in the vocabulary");
  return unknown;
}

// ["a b", ...] or [["a", "b"], ...]
Result<std::vector<MergePair>> ReadMerges(const JsonObject& object) {
  TP_ASSIGN(const auto elements, object.Array("merges"));
  std::vector<MergePair> merges;
  merges.reserve(elements.size());
  for (size_t i = 0; i < elements.size(); ++i) {
    std::string_view line;
    simdjson::dom::array pair;
    if (elements[i].get(line) == simdjson::SUCCESS) {
      if (line.starts_with("#version")) continue;
      const size_t space = line.find(' ');
      if (space == std::string_view::npos || line.find(' ', space + 1) != std::string_view::npos) {
        return BadJson(fmt::format("{}.merges[{}]", object.path(), i),
                       "is not two pieces with a space between");
      }
      merges.emplace_back(line.substr(0, space), line.substr(space + 1));
      continue;
    }
    std::string_view left, right;
    if (elements[i].get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
        pair.at(0).get(left) != simdjson::SUCCESS || pair.at(1).get(right) != simdjson::SUCCESS) {
      return BadJson(fmt::format("{}.merges[{}]", object.path(), i), "is not a pair of pieces");
    }
    merges.emplace_back(left, right);
  }
  return merges;
}

Result<JsonModel> ReadBpe(const JsonObject& object, bool raw_bytes) {
  TP_TRY(object.Only({"vocab", "merges", "dropout", "unk_token", "continuing_subword_prefix",
                      "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"}));
  if (const auto dropout = object.Get("dropout")) {
    double value = 0;
    if (dropout->get(value) != simdjson::SUCCESS || value != 0) {
      return UnsupportedJson(object.PathOf("dropout"), "makes encoding random");
    }
  }
  JsonModel model;
  model.kind = "bpe";
  TP_ASSIGN(model.vocabulary, ReadVocabulary(object));
  TP_ASSIGN(const auto merges, ReadMerges(object));
  TP_ASSIGN(model.unknown, FindUnknown(object, model.vocabulary, false));
  BpeOptions options;
  options.byte_level = raw_bytes;
  options.unknown = model.unknown;
  TP_ASSIGN(options.ignore_merges, object.Bool("ignore_merges", false));
  TP_ASSIGN(options.byte_fallback, object.Bool("byte_fallback", false));
  TP_ASSIGN(options.fuse_unknown, object.Bool("fuse_unk", false));
  TP_ASSIGN(const auto prefix, object.String("continuing_subword_prefix", ""));
  TP_ASSIGN(const auto suffix, object.String("end_of_word_suffix", ""));
  options.continuing_prefix = prefix;
  options.end_suffix = suffix;
  TP_ASSIGN(model.model, Bpe::Create(model.vocabulary, merges, std::move(options)));
  return model;
}

Result<JsonModel> ReadUnigram(const JsonObject& object) {
  TP_TRY(object.Only({"vocab", "unk_id", "byte_fallback"}));
  JsonModel model;
  model.kind = "unigram";
  TP_ASSIGN(const auto elements, object.Array("vocab"));
  if (elements.size() > static_cast<size_t>(kMaxVocabulary))
    return BadJson(object.PathOf("vocab"), "is too long");
  for (size_t i = 0; i < elements.size(); ++i) {
    simdjson::dom::array pair;
    std::string_view piece;
    double score = 0;
    if (elements[i].get(pair) != simdjson::SUCCESS || pair.size() != 2 ||
        pair.at(0).get(piece) != simdjson::SUCCESS || pair.at(1).get(score) != simdjson::SUCCESS ||
        !std::isfinite(score)) {
      return BadJson(fmt::format("{}.vocab[{}]", object.path(), i), "is not a piece and its score");
    }
    model.vocabulary.push_back({piece, static_cast<TokenId>(i), score});
  }
  UnigramOptions options;
  if (object.Get("unk_id")) {
    TP_ASSIGN(const int64_t id, object.Int("unk_id"));
    if (id < 0 || id >= static_cast<int64_t>(elements.size())) {
      return BadJson(object.PathOf("unk_id"), "is outside the vocabulary");
    }
    options.unknown = model.unknown = static_cast<TokenId>(id);
  }
  TP_ASSIGN(options.byte_fallback, object.Bool("byte_fallback", false));
  TP_ASSIGN(model.model, Unigram::Create(model.vocabulary, options));
  return model;
}

Result<JsonModel> ReadWordPiece(const JsonObject& object) {
  TP_TRY(object.Only({"vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"}));
  JsonModel model;
  model.kind = "wordpiece";
  TP_ASSIGN(model.vocabulary, ReadVocabulary(object));
  TP_ASSIGN(model.unknown, FindUnknown(object, model.vocabulary, true));
  WordPieceOptions options;
  options.unknown = *model.unknown;
  TP_ASSIGN(const auto prefix, object.String("continuing_subword_prefix", "##"));
  options.continuing_prefix = prefix;
  TP_ASSIGN(const int64_t most, object.Int("max_input_chars_per_word", 100));
  if (most < 0) return BadJson(object.PathOf("max_input_chars_per_word"), "is negative");
  options.max_characters = static_cast<size_t>(most);
  model.model = std::make_unique<WordPiece>(model.vocabulary, std::move(options));
  return model;
}

Result<JsonModel> ReadWordLevel(const JsonObject& object) {
  TP_TRY(object.Only({"vocab", "unk_token"}));
  JsonModel model;
  model.kind = "wordlevel";
  TP_ASSIGN(model.vocabulary, ReadVocabulary(object));
  TP_ASSIGN(model.unknown, FindUnknown(object, model.vocabulary, true));
  model.model = std::make_unique<WordLevel>(model.vocabulary, *model.unknown);
  return model;
}

}  // namespace

Result<JsonModel> ReadModel(const JsonObject& object, bool raw_bytes) {
  const std::string_view type = ModelType(object);
  if (type == "BPE") return ReadBpe(object, raw_bytes);
  if (type == "Unigram") return ReadUnigram(object);
  if (type == "WordPiece") return ReadWordPiece(object);
  if (type == "WordLevel") return ReadWordLevel(object);
  return UnsupportedJson(object.PathOf("type"), fmt::format("is the model \"{}\"", type));
}

bool TakesRawBytes(const JsonObject& object) {
  const auto empty = [&](std::string_view key) {
    const auto value = object.String(key, "");
    return value && value->empty();
  };
  const auto fallback = object.Bool("byte_fallback", false);
  return ModelType(object) == "BPE" && empty("continuing_subword_prefix") && empty("end_of_word_suffix") &&
         fallback && !*fallback;
}

}  // namespace tidepool::text
