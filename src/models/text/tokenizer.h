// Text to tokens and back: byte-level BPE, SentencePiece (BPE and unigram) and WordPiece.
//
// Special tokens in user text are text. Only a caller that is a template passes parse_special = true.
//
// Threads: a Tokenizer is immutable after loading; every method may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "models/formats/checkpoint.h"

namespace tidepool::text {

using TokenId = int32_t;

struct EncodeOptions {
  bool add_special = false;    // BOS / EOS / [CLS] [SEP] as the model's file says
  bool parse_special = false;  // "<|im_start|>" in the text becomes its control token
};

struct SpecialTokens {
  std::optional<TokenId> bos, eos, eot, eom, unknown, padding, separator, cls, mask;
  std::optional<TokenId> fim_prefix, fim_suffix, fim_middle;
  bool add_bos = false;
  bool add_eos = false;
  // Every token that ends an answer: eos, eot, eom, generation_config's list, and the control tokens that
  // families use to end a turn (<|im_end|>, <|endoftext|>, <|eot_id|>, <end_of_turn>, ...).
  std::vector<TokenId> end_of_generation;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // From GGUF metadata (tokenizer.ggml.*) or from tokenizer.json (+ tokenizer_config.json,
  // generation_config.json) of a safetensors folder; a folder with only vocab.txt is WordPiece.
  static Result<std::unique_ptr<Tokenizer>> Load(const formats::Checkpoint& checkpoint);
  // From a tokenizer.json's text (and, if at hand, tokenizer_config.json's and generation_config.json's).
  static Result<std::unique_ptr<Tokenizer>> FromJson(std::string_view tokenizer_json,
                                                     std::string_view tokenizer_config_json = {},
                                                     std::string_view generation_config_json = {});
  // 256 byte tokens and a few control tokens: for the simulated model ("scripted").
  // ids 0..255 are the bytes, 256 <|im_start|>, 257 <|im_end|> (end of generation), 258 <think>, 259
  // </think>.
  static std::unique_ptr<Tokenizer> Bytes();

  virtual std::string_view kind() const = 0;  // "bpe", "spm", "unigram", "wordpiece", "bytes"
  virtual int32_t vocab_size() const = 0;
  virtual const SpecialTokens& special() const = 0;

  // Ill-formed UTF-8 in `text` becomes U+FFFD first (as the Python oracles do when decoding with "replace").
  virtual std::vector<TokenId> Encode(std::string_view text, const EncodeOptions& options = {}) const = 0;

  // The bytes a token stands for inside a running text (may be part of a character). Control tokens give ""
  // unless `render_special`, then their text. An id outside the vocabulary gives "".
  virtual std::string_view TokenBytes(TokenId id, bool render_special = false) const = 0;
  // The text of a whole sequence; a family's leading-space rule applies at its start. Not necessarily valid
  // UTF-8 if the ids end inside a character.
  virtual std::string Decode(std::span<const TokenId> ids, bool render_special = false) const = 0;
  virtual bool IsControl(TokenId id) const = 0;
  // True if Decode drops one leading space of the first token (SentencePiece with a dummy prefix).
  virtual bool strips_leading_space() const = 0;
  // The piece as the vocabulary file spells it, and back.
  virtual std::string_view Piece(TokenId id) const = 0;
  virtual std::optional<TokenId> FindPiece(std::string_view piece) const = 0;
};

}  // namespace tidepool::text
