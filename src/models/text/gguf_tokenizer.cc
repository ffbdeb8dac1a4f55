#include "models/text/gguf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "models/text/bpe.h"
#include "models/text/byte_alphabet.h"
#include "models/text/gguf_patterns.h"
#include "models/text/pipeline.h"
#include "models/text/spm_bpe.h"
#include "models/text/unigram.h"
#include "models/text/utf8.h"
#include "models/text/wordpiece.h"

namespace tidepool::text {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // SentencePiece's ▁

// tokenizer.ggml.token_type
enum TokenType : int64_t {
  kNormal = 1,
  kUnknown = 2,
  kControl = 3,
  kUserDefined = 4,
  kUnused = 5,
  kByte = 6
};

// The metadata, checked: as many scores and types as tokens.
struct GgufVocabulary {
  std::string model;
  std::string pre;
  std::vector<std::string_view> tokens;
  std::vector<double> scores;
  std::vector<int64_t> types;
  std::vector<std::string> named;  // spellings made up for empty tokens
};

tl::unexpected<Error> Corrupt(std::string message, std::string key) {
  return Fail(ErrorKind::kCorrupt, "bad_tokenizer", std::move(message), std::move(key));
}

Result<GgufVocabulary> ReadVocabulary(const formats::Checkpoint& checkpoint) {
  const formats::Metadata& metadata = checkpoint.metadata();
  const std::string file = checkpoint.path().string();
  GgufVocabulary vocabulary;
  const auto model = metadata.String("tokenizer.ggml.model");
  if (!model) {
    return Corrupt(
        fmt::format("{}: no tokenizer.ggml.model; the file carries no tokenizer, convert it again", file),
        "tokenizer.ggml.model");
  }
  vocabulary.model = *model;
  vocabulary.pre = metadata.String("tokenizer.ggml.pre").value_or("");
  auto tokens = metadata.Strings("tokenizer.ggml.tokens");
  if (!tokens || tokens->empty() || static_cast<int64_t>(tokens->size()) > kMaxVocabulary) {
    return Corrupt(
        fmt::format("{}: tokenizer.ggml.tokens is missing, empty or longer than {}", file, kMaxVocabulary),
        "tokenizer.ggml.tokens");
  }
  vocabulary.tokens = std::move(*tokens);
  const size_t size = vocabulary.tokens.size();
  vocabulary.scores = metadata.Floats("tokenizer.ggml.scores").value_or(std::vector<double>(size, 0.0));
  vocabulary.types = metadata.Ints("tokenizer.ggml.token_type").value_or(std::vector<int64_t>(size, kNormal));
  if (vocabulary.scores.size() != size || vocabulary.types.size() != size) {
    return Corrupt(fmt::format("{}: {} tokens, but {} scores and {} token types; the file is damaged", file,
                               size, vocabulary.scores.size(), vocabulary.types.size()),
                   "tokenizer.ggml.token_type");
  }
  for (double& score : vocabulary.scores) {
    if (!std::isfinite(score)) {
      return Corrupt(fmt::format("{}: tokenizer.ggml.scores holds a value that is not finite", file),
                     "tokenizer.ggml.scores");
    }
  }
  // Empty spellings would match everywhere; unique names also keep Piece() and FindPiece() inverse.
  vocabulary.named.reserve(16);
  for (size_t i = 0; i < size; ++i) {
    if (vocabulary.tokens[i].empty() && vocabulary.named.size() < vocabulary.named.capacity()) {
      vocabulary.named.push_back(fmt::format("[EMPTY_{}]", i));
      vocabulary.tokens[i] = vocabulary.named.back();
      vocabulary.types[i] = kUnused;
    }
  }
  return vocabulary;
}

Status ReadSpecial(const formats::Checkpoint& checkpoint, TokenizerParts& parts) {
  const formats::Metadata& metadata = checkpoint.metadata();
  SpecialTokens& special = parts.special;
  const std::pair<std::string_view, std::optional<TokenId>*> keys[] = {
      {"bos_token_id", &special.bos},
      {"eos_token_id", &special.eos},
      {"eot_token_id", &special.eot},
      {"eom_token_id", &special.eom},
      {"unknown_token_id", &special.unknown},
      {"padding_token_id", &special.padding},
      {"seperator_token_id", &special.separator},
      {"cls_token_id", &special.cls},
      {"mask_token_id", &special.mask},
      {"fim_pre_token_id", &special.fim_prefix},
      {"fim_suf_token_id", &special.fim_suffix},
      {"fim_mid_token_id", &special.fim_middle},
  };
  for (const auto& [name, id] : keys) {
    const std::string key = fmt::format("tokenizer.ggml.{}", name);
    const auto value = metadata.Int(key);
    if (!value) continue;
    if (*value < 0 || *value >= parts.tokens.size()) {
      // Written by some converters as 2^32 - 1 for "none"; anything else out of range is no better.
      LogWarn("special token outside the vocabulary is ignored", {{"key", key}, {"value", *value}});
      *id = std::nullopt;
      continue;
    }
    *id = static_cast<TokenId>(*value);
  }
  if (const auto add = metadata.Bool("tokenizer.ggml.add_bos_token")) special.add_bos = *add;
  if (const auto add = metadata.Bool("tokenizer.ggml.add_eos_token")) special.add_eos = *add;
  return {};
}

void AddAround(TokenizerParts& parts) {
  if (parts.special.add_bos && parts.special.bos) parts.before.push_back(*parts.special.bos);
  if (parts.special.add_eos && parts.special.eos) parts.after.push_back(*parts.special.eos);
}

// Ids, control flags and added tokens; bytes are the kind's business.
void FillTokens(const GgufVocabulary& vocabulary, TokenizerParts& parts) {
  size_t bytes = 0;
  for (const std::string_view token : vocabulary.tokens) bytes += token.size();
  parts.tokens.Reserve(vocabulary.tokens.size(), bytes);
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    const int64_t type = vocabulary.types[i];
    parts.tokens.Set(id, vocabulary.tokens[i]);
    const bool special = type == kControl || type == kUnknown;
    parts.tokens.SetControl(id, special);
    if (special || type == kUserDefined) {
      parts.added.push_back({.id = id, .content = std::string(vocabulary.tokens[i]), .special = special});
    }
  }
}

std::string WithSpaces(std::string_view piece) {
  std::string text;
  for (size_t i = 0; i < piece.size();) {
    if (piece.substr(i).starts_with(kSpaceMark)) {
      text += ' ';
      i += kSpaceMark.size();
    } else {
      text += piece[i++];
    }
  }
  return text;
}

// SentencePiece spelling: ▁ is a space, <0xNN> a byte.
void FillSentencePieceBytes(const GgufVocabulary& vocabulary, TokenizerParts& parts) {
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const auto id = static_cast<TokenId>(i);
    const int64_t type = vocabulary.types[i];
    if (type == kByte) {
      if (const auto byte = ParseByteToken(vocabulary.tokens[i])) {
        const char c = static_cast<char>(*byte);
        parts.tokens.SetBytes(id, std::string_view(&c, 1));
      }
    } else if (type == kNormal || type == kUnused) {
      parts.tokens.SetBytes(id, WithSpaces(vocabulary.tokens[i]));
    }
  }
}

void FillByteLevelBytes(const GgufVocabulary& vocabulary, TokenizerParts& parts) {
  std::string bytes;
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    const int64_t type = vocabulary.types[i];
    if (type == kControl || type == kUnknown || type == kUserDefined) continue;  // spelled as they are
    if (AlphabetToBytes(vocabulary.tokens[i], bytes)) parts.tokens.SetBytes(static_cast<TokenId>(i), bytes);
  }
}

std::vector<VocabularyEntry> Entries(const GgufVocabulary& vocabulary) {
  std::vector<VocabularyEntry> entries;
  entries.reserve(vocabulary.tokens.size());
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    entries.push_back({vocabulary.tokens[i], static_cast<TokenId>(i), vocabulary.scores[i]});
  }
  return entries;
}

// "a b" lines. The first space may be the left piece itself, so the separator is sought from the second byte
// on.
std::vector<MergePair> ReadMerges(const std::vector<std::string_view>& lines) {
  std::vector<MergePair> merges;
  merges.reserve(lines.size());
  for (const std::string_view line : lines) {
    const size_t space = line.find(' ', 1);
    if (space == std::string_view::npos) {
      merges.emplace_back(line, std::string_view());
    } else {
      merges.emplace_back(line.substr(0, space), line.substr(space + 1));
    }
  }
  return merges;
}

Result<PreTokenizerPointer> MakeSplits(std::span<const std::string_view> splits) {
  std::vector<PreTokenizerPointer> steps;
  for (const std::string_view split : splits) {
    TP_ASSIGN(SplitPattern pattern, SplitPattern::Compile(split));
    steps.push_back(MakePatternSplit(std::move(pattern), SplitBehavior::kIsolated, false));
  }
  return MakePreTokenizerSequence(std::move(steps));
}

Result<const GgufPattern*> PatternFor(const std::string& pre, const std::string& file) {
  if (pre.empty()) {
    LogWarn("no tokenizer.ggml.pre: the default split is used, answers may be worse; convert the file again",
            {{"file", file}});
    return FindGgufPattern("default");
  }
  if (const GgufPattern* pattern = FindGgufPattern(pre)) return pattern;
  std::string known;
  for (const GgufPattern& pattern : AllGgufPatterns())
    fmt::format_to(std::back_inserter(known), " {}", pattern.pre);
  return Fail(ErrorKind::kInvalid, "unsupported_tokenizer",
              fmt::format("{}: tokenizer.ggml.pre = \"{}\" is not known; known are:{}", file, pre, known),
              "tokenizer.ggml.pre");
}

Result<std::vector<MergePair>> MergesOf(const formats::Checkpoint& checkpoint,
                                        const std::vector<std::string_view>& lines) {
  if (lines.empty()) {
    return Corrupt(fmt::format("{}: tokenizer.ggml.merges is missing; convert the file again",
                               checkpoint.path().string()),
                   "tokenizer.ggml.merges");
  }
  return ReadMerges(lines);
}

Status BuildByteLevel(const formats::Checkpoint& checkpoint, const GgufVocabulary& vocabulary,
                      TokenizerParts& parts) {
  parts.kind = "bpe";
  TP_ASSIGN(const GgufPattern* pattern, PatternFor(vocabulary.pre, checkpoint.path().string()));
  TP_ASSIGN(parts.pre_tokenizer, MakeSplits(pattern->splits));
  parts.special.add_bos = pattern->add_bos;
  const auto lines = checkpoint.metadata().Strings("tokenizer.ggml.merges");
  TP_ASSIGN(const auto merges, MergesOf(checkpoint, lines.value_or(std::vector<std::string_view>{})));
  BpeOptions options;
  options.byte_level = true;
  options.ignore_merges = pattern->ignore_merges;
  options.merges_need_tokens = false;
  options.later_merge_wins = false;
  const auto entries = Entries(vocabulary);
  TP_ASSIGN(parts.model, Bpe::Create(entries, merges, options));
  FillByteLevelBytes(vocabulary, parts);
  return {};
}

// Merges over characters with ▁ for spaces; only runs of line feeds are cut out.
Status BuildGemma4(const formats::Checkpoint& checkpoint, const GgufVocabulary& vocabulary,
                   TokenizerParts& parts) {
  parts.kind = "bpe";
  constexpr std::string_view kLines[] = {"[^\\n]+|[\\n]+"};
  TP_ASSIGN(parts.pre_tokenizer, MakeSplits(kLines));
  parts.normalizer = MakeReplace(SplitPattern::Literal(" "), std::string(kSpaceMark));
  const auto lines = checkpoint.metadata().Strings("tokenizer.ggml.merges");
  TP_ASSIGN(const auto merges, MergesOf(checkpoint, lines.value_or(std::vector<std::string_view>{})));
  BpeOptions options;
  options.byte_fallback = true;
  options.ignore_merges_newlines = true;
  options.merges_need_tokens = false;
  options.later_merge_wins = false;
  const auto entries = Entries(vocabulary);
  TP_ASSIGN(parts.model, Bpe::Create(entries, merges, options));
  FillSentencePieceBytes(vocabulary, parts);
  return {};
}

// Phi-3's special tokens swallow the white space after them; GGUF has no place to say so.
void ApplyFamilyTraits(const formats::Checkpoint& checkpoint, TokenizerParts& parts) {
  std::string name(checkpoint.metadata().String("general.name").value_or(""));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  if (name.find("phi-3") == std::string::npos && name.find("phi3") == std::string::npos) return;
  for (AddedToken& token : parts.added) {
    token.rstrip = token.content != "<unk>" && token.content != "<s>" && token.content != "<|endoftext|>";
  }
}

Status BuildSpm(const formats::Checkpoint& checkpoint, const GgufVocabulary& vocabulary,
                TokenizerParts& parts) {
  parts.kind = "spm";
  const bool prefix = checkpoint.metadata().Bool("tokenizer.ggml.add_space_prefix").value_or(true);
  std::vector<NormalizerPointer> steps;
  if (prefix) steps.push_back(MakePrepend(std::string(kSpaceMark)));
  steps.push_back(MakeReplace(SplitPattern::Literal(" "), std::string(kSpaceMark)));
  parts.normalizer = MakeNormalizerSequence(std::move(steps));
  parts.strips_leading_space = prefix;
  parts.special.add_bos = true;
  const auto entries = Entries(vocabulary);
  parts.model = std::make_unique<SpmBpe>(entries, parts.special.unknown);
  FillSentencePieceBytes(vocabulary, parts);
  ApplyFamilyTraits(checkpoint, parts);
  return {};
}

// A unigram vocabulary. Control and byte pieces are not found in text (bytes are the fallback's),
// user-defined ones cost nothing, so that they always win.
Status BuildUnigram(const formats::Checkpoint& checkpoint, const GgufVocabulary& vocabulary,
                    TokenizerParts& parts) {
  parts.kind = "unigram";
  const formats::Metadata& metadata = checkpoint.metadata();
  SentencePieceSpaces spaces;
  spaces.add_dummy_prefix = metadata.Bool("tokenizer.ggml.add_space_prefix").value_or(false);
  spaces.remove_extra = metadata.Bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  spaces.space_mark = kSpaceMark;
  std::string blob;
  for (const int64_t byte :
       metadata.Ints("tokenizer.ggml.precompiled_charsmap").value_or(std::vector<int64_t>{})) {
    blob += static_cast<char>(byte);
  }
  TP_ASSIGN(Charsmap map, Charsmap::Parse(blob));
  std::vector<VocabularyEntry> entries;
  std::vector<std::string> verbatim;
  for (const VocabularyEntry& entry : Entries(vocabulary)) {
    const int64_t type = vocabulary.types[static_cast<size_t>(entry.id)];
    if (type == kUserDefined) verbatim.emplace_back(entry.piece);
    if (type == kNormal || type == kUserDefined || type == kUnused) {
      entries.push_back({entry.piece, entry.id, type == kUserDefined ? 0 : entry.score});
    }
  }
  // User-defined pieces are the model's own business here: cutting the text at them first would take the
  // space before one for trailing space, and drop it.
  std::erase_if(parts.added, [](const AddedToken& token) { return !token.special; });
  parts.normalizer = MakeSentencePiece(std::move(map), spaces, std::move(verbatim));
  parts.strips_leading_space = spaces.add_dummy_prefix;
  const auto unknown = metadata.Int("tokenizer.ggml.unknown_token_id").value_or(*parts.special.unknown);
  if (unknown < 0 || unknown >= static_cast<int64_t>(vocabulary.tokens.size())) {
    return Corrupt(fmt::format("{}: tokenizer.ggml.unknown_token_id = {} is outside the vocabulary",
                               checkpoint.path().string(), unknown),
                   "tokenizer.ggml.unknown_token_id");
  }
  TP_ASSIGN(parts.model,
            Unigram::Create(entries, {.unknown = static_cast<TokenId>(unknown), .byte_fallback = false}));
  parts.special.add_eos = true;
  FillSentencePieceBytes(vocabulary, parts);
  return {};
}

// GGUF spells BERT's pieces the other way round: "▁the" begins a word, "ing" goes on.
Status BuildWordPiece(const formats::Checkpoint& checkpoint, const GgufVocabulary& vocabulary,
                      TokenizerParts& parts) {
  parts.kind = "wordpiece";
  const formats::Metadata& metadata = checkpoint.metadata();
  BertNormalization normalization;
  normalization.lowercase = metadata.Bool("tokenizer.ggml.normalizer.lowercase").value_or(true);
  normalization.strip_accents =
      metadata.Bool("tokenizer.ggml.normalizer.strip_accents").value_or(normalization.lowercase);
  parts.normalizer = MakeBert(normalization);
  std::vector<PreTokenizerPointer> steps;
  steps.push_back(MakeCharacterSplit(IsWhitespace, SplitBehavior::kRemoved));
  steps.push_back(MakeCharacterSplit(IsPunctuation, SplitBehavior::kIsolated));
  parts.pre_tokenizer = MakePreTokenizerSequence(std::move(steps));
  parts.special.bos = 101;
  parts.special.unknown = 100;
  parts.special.separator = 102;
  TP_TRY(ReadSpecial(checkpoint, parts));
  if (*parts.special.unknown >= parts.tokens.size()) {
    return Corrupt(fmt::format("{}: no unknown token in a vocabulary of {}", checkpoint.path().string(),
                               parts.tokens.size()),
                   "tokenizer.ggml.unknown_token_id");
  }
  WordPieceOptions options;
  options.unknown = *parts.special.unknown;
  options.word_prefix = kSpaceMark;
  options.continuing_prefix.clear();
  options.max_characters = 100;
  const auto entries = Entries(vocabulary);
  parts.model = std::make_unique<WordPiece>(entries, std::move(options));
  for (size_t i = 0; i < vocabulary.tokens.size(); ++i) {
    if (vocabulary.types[i] != kNormal) continue;
    parts.tokens.SetBytes(static_cast<TokenId>(i), WithSpaces(vocabulary.tokens[i]));
  }
  parts.strips_leading_space = true;
  parts.special.cls = parts.special.bos;
  if (parts.special.bos && *parts.special.bos < parts.tokens.size())
    parts.before.push_back(*parts.special.bos);
  if (parts.special.separator && *parts.special.separator < parts.tokens.size()) {
    parts.after.push_back(*parts.special.separator);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadGgufTokenizer(const formats::Checkpoint& checkpoint) {
  TP_ASSIGN(const GgufVocabulary vocabulary, ReadVocabulary(checkpoint));
  TokenizerParts parts;
  FillTokens(vocabulary, parts);
  if (vocabulary.model == "gpt2") {
    TP_TRY(BuildByteLevel(checkpoint, vocabulary, parts));
  } else if (vocabulary.model == "gemma4") {
    TP_TRY(BuildGemma4(checkpoint, vocabulary, parts));
  } else if (vocabulary.model == "llama") {
    parts.special.unknown = 0;
    TP_TRY(BuildSpm(checkpoint, vocabulary, parts));
  } else if (vocabulary.model == "t5") {
    parts.special.unknown = 2;
    TP_TRY(BuildUnigram(checkpoint, vocabulary, parts));
  } else if (vocabulary.model == "bert") {
    TP_TRY(BuildWordPiece(checkpoint, vocabulary, parts));
  } else {
    return Fail(
        ErrorKind::kInvalid, "unsupported_tokenizer",
        fmt::format(
            "{}: tokenizer.ggml.model = \"{}\" is not supported; supported are gpt2, llama, t5, bert, "
            "gemma4",
            checkpoint.path().string(), vocabulary.model),
        "tokenizer.ggml.model");
  }
  if (parts.kind != "wordpiece") {  // which has read them already
    TP_TRY(ReadSpecial(checkpoint, parts));
    AddAround(parts);
  }
  NameSpecialTokens(parts);
  return MakePipelineTokenizer(std::move(parts));
}

}  // namespace tidepool::text
