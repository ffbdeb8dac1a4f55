#include "models/text/json_tokenizer.h"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <utility>

#include "models/text/json_components.h"
#include "models/text/json_model.h"
#include "models/text/json_reader.h"
#include "models/text/pipeline.h"
#include "models/text/utf8.h"
#include "models/text/wordpiece.h"

namespace tidepool::text {
namespace {

Result<std::vector<AddedToken>> ReadAddedTokens(const JsonObject& root) {
  std::vector<AddedToken> tokens;
  if (!root.Get("added_tokens")) return tokens;
  TP_ASSIGN(const auto elements, root.Array("added_tokens"));
  for (size_t i = 0; i < elements.size(); ++i) {
    TP_ASSIGN(const JsonObject object, JsonObject::From(elements[i], fmt::format("added_tokens[{}]", i)));
    TP_TRY(object.Only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"}));
    AddedToken token;
    TP_ASSIGN(const int64_t id, object.Int("id"));
    if (id < 0 || id >= kMaxVocabulary) {
      return BadJson(object.PathOf("id"), fmt::format("is not from 0 to {}", kMaxVocabulary - 1));
    }
    token.id = static_cast<TokenId>(id);
    TP_ASSIGN(const auto content, object.String("content"));
    token.content = content;
    TP_ASSIGN(token.single_word, object.Bool("single_word", false));
    TP_ASSIGN(token.lstrip, object.Bool("lstrip", false));
    TP_ASSIGN(token.rstrip, object.Bool("rstrip", false));
    TP_ASSIGN(token.special, object.Bool("special", false));
    TP_ASSIGN(token.normalized, object.Bool("normalized", !token.special));
    if (!token.content.empty()) tokens.push_back(std::move(token));
  }
  return tokens;
}

Result<Decoder> DecoderOf(const JsonObject& root) {
  Decoder decoder;
  if (const auto element = root.Get("decoder")) {
    TP_TRY(ReadDecoder(*element, "decoder", decoder));
    return decoder;
  }
  // Without a decoder tokens are joined with spaces.
  Decoder::Step step;
  step.kind = Decoder::Step::Kind::kWordPiece;
  decoder.Add(std::move(step));
  decoder.strips_leading_space = true;
  return decoder;
}

// A vocabulary may have holes, but a few bytes of file must not ask for megabytes of table.
Status CheckHoles(const JsonModel& model, const std::vector<AddedToken>& added) {
  const int64_t most = static_cast<int64_t>(model.vocabulary.size() + added.size()) * 2 + 65536;
  int64_t largest = 0;
  for (const VocabularyEntry& entry : model.vocabulary) largest = std::max<int64_t>(largest, entry.id);
  for (const AddedToken& token : added) largest = std::max<int64_t>(largest, token.id);
  if (largest < most) return {};
  return BadJson("model.vocab", fmt::format("has the id {}, far beyond its {} pieces", largest,
                                            model.vocabulary.size() + added.size()));
}

// The model's pieces, then the added tokens, which may name pieces of the model or ids of their own.
void FillTokens(const JsonModel& model, const Decoder& decoder, TokenizerParts& parts) {
  for (const VocabularyEntry& entry : model.vocabulary) {
    parts.tokens.Set(entry.id, entry.piece);
    parts.tokens.SetBytes(entry.id, decoder.Bytes(entry.piece, false));
  }
  for (AddedToken& token : parts.added) {
    // The model's own id counts: it is what the model was trained with.
    if (const auto known = parts.tokens.Find(token.content)) token.id = *known;
    parts.tokens.Set(token.id, token.content);
    parts.tokens.SetBytes(token.id, decoder.Bytes(token.content, true));
    parts.tokens.SetControl(token.id, token.special);
  }
}

// "<s>" or {"content": "<s>", ...}
std::optional<TokenId> NamedToken(simdjson::dom::object config, std::string_view key,
                                  const TokenTable& tokens) {
  simdjson::dom::element element;
  std::string_view name;
  if (config.at_key(key).get(element) != simdjson::SUCCESS) return std::nullopt;
  if (element.get(name) != simdjson::SUCCESS && element["content"].get(name) != simdjson::SUCCESS)
    return std::nullopt;
  return tokens.Find(name);
}

Status ReadTokenizerConfig(std::string_view json, TokenizerParts& parts) {
  if (json.empty()) return {};
  simdjson::dom::parser parser;
  simdjson::dom::object config;
  if (parser.parse(json.data(), json.size()).get(config) != simdjson::SUCCESS) {
    return Fail(ErrorKind::kCorrupt, "bad_tokenizer", "tokenizer_config.json is not a JSON object",
                "tokenizer_config.json");
  }
  SpecialTokens& special = parts.special;
  const std::pair<std::string_view, std::optional<TokenId>*> names[] = {
      {"bos_token", &special.bos},     {"eos_token", &special.eos},       {"unk_token", &special.unknown},
      {"pad_token", &special.padding}, {"sep_token", &special.separator}, {"cls_token", &special.cls},
      {"mask_token", &special.mask}};
  for (const auto& [key, id] : names) {
    if (const auto found = NamedToken(config, key, parts.tokens)) *id = found;
  }
  // transformers' Llama tokenizers rebuild the post-processor from these flags, whatever tokenizer.json says.
  bool add = false;
  if (config.at_key("add_bos_token").get(add) == simdjson::SUCCESS && special.bos) {
    std::string_view name;
    const bool rebuilds = config.at_key("tokenizer_class").get(name) == simdjson::SUCCESS &&
                          (name.starts_with("Llama") || name.starts_with("Gemma"));
    const bool present = !parts.before.empty() && parts.before.front() == *special.bos;
    if (add && !present) parts.before.insert(parts.before.begin(), *special.bos);
    if (!add && present && rebuilds) parts.before.erase(parts.before.begin());
  }
  if (config.at_key("add_eos_token").get(add) == simdjson::SUCCESS && add && special.eos) {
    if (parts.after.empty() || parts.after.back() != *special.eos) parts.after.push_back(*special.eos);
  }
  return {};
}

Status ReadGenerationConfig(std::string_view json, TokenizerParts& parts) {
  if (json.empty()) return {};
  simdjson::dom::parser parser;
  simdjson::dom::object config;
  if (parser.parse(json.data(), json.size()).get(config) != simdjson::SUCCESS) {
    return Fail(ErrorKind::kCorrupt, "bad_tokenizer", "generation_config.json is not a JSON object",
                "generation_config.json");
  }
  const auto add = [&](simdjson::dom::element element) {
    int64_t id = 0;
    if (element.get(id) != simdjson::SUCCESS || id < 0 || id >= kMaxVocabulary) return;
    parts.special.end_of_generation.push_back(static_cast<TokenId>(id));
    if (!parts.special.eos) parts.special.eos = static_cast<TokenId>(id);
  };
  simdjson::dom::element ends;
  simdjson::dom::array list;
  if (config.at_key("eos_token_id").get(ends) != simdjson::SUCCESS) return {};
  if (ends.get(list) != simdjson::SUCCESS) {
    add(ends);
  } else {
    for (const auto element : list) add(element);
  }
  return {};
}

void FinishSpecial(TokenizerParts& parts) {
  SpecialTokens& special = parts.special;
  if (!special.bos && !parts.before.empty()) special.bos = parts.before.front();
  special.add_bos = special.bos && !parts.before.empty() && parts.before.front() == *special.bos;
  special.add_eos = !parts.after.empty();
  if (parts.kind == "wordpiece") {
    const auto name = [&](std::optional<TokenId>& id, std::string_view piece) {
      if (!id) id = parts.tokens.Find(piece);
    };
    name(special.cls, "[CLS]");
    name(special.separator, "[SEP]");
    name(special.padding, "[PAD]");
    name(special.mask, "[MASK]");
  }
  NameSpecialTokens(parts);
}

Result<std::unique_ptr<Tokenizer>> Assemble(const JsonObject& root, std::string_view tokenizer_config_json,
                                            std::string_view generation_config_json) {
  TP_TRY(root.Only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                    "post_processor", "decoder", "model"}));
  TokenizerParts parts;
  TP_ASSIGN(const JsonObject model_object, root.Object("model"));
  const auto pre_tokenizer = root.Get("pre_tokenizer");
  const bool raw_bytes = pre_tokenizer && EndsInByteLevel(*pre_tokenizer) && TakesRawBytes(model_object);
  if (pre_tokenizer) {
    TP_ASSIGN(parts.pre_tokenizer, ReadPreTokenizer(*pre_tokenizer, "pre_tokenizer", raw_bytes));
  }
  if (const auto normalizer = root.Get("normalizer")) {
    TP_ASSIGN(parts.normalizer, ReadNormalizer(*normalizer, "normalizer"));
  }
  if (const auto post_processor = root.Get("post_processor")) {
    Surroundings surroundings;
    TP_TRY(ReadPostProcessor(*post_processor, "post_processor", surroundings));
    parts.before = std::move(surroundings.before);
    parts.after = std::move(surroundings.after);
  }
  TP_ASSIGN(const Decoder decoder, DecoderOf(root));
  parts.strips_leading_space = decoder.strips_leading_space;
  parts.drops_trailing_space = decoder.drops_trailing_space;
  TP_ASSIGN(JsonModel model, ReadModel(model_object, raw_bytes));
  parts.kind = model.kind;
  parts.special.unknown = model.unknown;
  TP_ASSIGN(parts.added, ReadAddedTokens(root));
  TP_TRY(CheckHoles(model, parts.added));
  FillTokens(model, decoder, parts);
  parts.model = std::move(model.model);
  TP_TRY(ReadTokenizerConfig(tokenizer_config_json, parts));
  TP_TRY(ReadGenerationConfig(generation_config_json, parts));
  FinishSpecial(parts);
  return MakePipelineTokenizer(std::move(parts));
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(std::string_view tokenizer_json,
                                                     std::string_view tokenizer_config_json,
                                                     std::string_view generation_config_json) {
  simdjson::dom::parser parser;
  simdjson::dom::element document;
  if (const auto error = parser.parse(tokenizer_json.data(), tokenizer_json.size()).get(document);
      error != simdjson::SUCCESS) {
    return Fail(
        ErrorKind::kCorrupt, "bad_tokenizer",
        fmt::format("tokenizer.json is not JSON ({}); fetch it again", simdjson::error_message(error)),
        "tokenizer.json");
  }
  TP_ASSIGN(const JsonObject root, JsonObject::From(document, ""));
  return Assemble(root, tokenizer_config_json, generation_config_json);
}

Result<std::unique_ptr<Tokenizer>> LoadVocabTxt(std::string_view vocab_txt,
                                                std::string_view tokenizer_config_json) {
  TokenizerParts parts;
  parts.kind = "wordpiece";
  std::vector<VocabularyEntry> vocabulary;
  for (size_t begin = 0; begin < vocab_txt.size();) {
    const size_t end = std::min(vocab_txt.find('\n', begin), vocab_txt.size());
    std::string_view line = vocab_txt.substr(begin, end - begin);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.remove_suffix(1);
    if (static_cast<int64_t>(vocabulary.size()) >= kMaxVocabulary) {
      return Fail(ErrorKind::kCorrupt, "bad_tokenizer", "vocab.txt is too long", "vocab.txt");
    }
    vocabulary.push_back({line, static_cast<TokenId>(vocabulary.size()), 0});
    begin = end + 1;
  }
  Decoder decoder;
  Decoder::Step step;
  step.kind = Decoder::Step::Kind::kWordPiece;
  step.text = "##";
  step.cleanup = true;
  decoder.Add(std::move(step));
  parts.strips_leading_space = true;
  for (const VocabularyEntry& entry : vocabulary) {
    parts.tokens.Set(entry.id, entry.piece);
    parts.tokens.SetBytes(entry.id, decoder.Bytes(entry.piece, false));
  }
  for (const std::string_view name : {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}) {
    const auto id = parts.tokens.Find(name);
    if (!id) {
      return Fail(ErrorKind::kCorrupt, "bad_tokenizer",
                  fmt::format("vocab.txt has no {}; is it a BERT's?", name), "vocab.txt");
    }
    parts.tokens.SetControl(*id, true);
    parts.added.push_back({.id = *id, .content = std::string(name), .special = true});
  }
  parts.special.unknown = parts.tokens.Find("[UNK]");
  parts.before = {*parts.tokens.Find("[CLS]")};
  parts.after = {*parts.tokens.Find("[SEP]")};
  simdjson::dom::parser parser;
  simdjson::dom::element config;
  BertNormalization normalization;
  if (parser.parse(tokenizer_config_json.data(), tokenizer_config_json.size()).get(config) ==
      simdjson::SUCCESS) {
    bool lowercase = true;
    if (config["do_lower_case"].get(lowercase) == simdjson::SUCCESS) {
      normalization.lowercase = normalization.strip_accents = lowercase;
    }
  }
  parts.normalizer = MakeBert(normalization);
  std::vector<PreTokenizerPointer> steps;
  steps.push_back(MakeCharacterSplit(IsWhitespace, SplitBehavior::kRemoved));
  steps.push_back(MakeCharacterSplit(IsPunctuation, SplitBehavior::kIsolated));
  parts.pre_tokenizer = MakePreTokenizerSequence(std::move(steps));
  WordPieceOptions options;
  options.unknown = *parts.special.unknown;
  options.max_characters = 100;
  parts.model = std::make_unique<WordPiece>(vocabulary, std::move(options));
  FinishSpecial(parts);
  return MakePipelineTokenizer(std::move(parts));
}

}  // namespace tidepool::text
