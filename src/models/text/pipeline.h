// The one Tokenizer for files: added tokens, normalizer, pre-tokenizer, model, and a table of what ids stand
// for. The loaders (gguf_tokenizer.cc, json_tokenizer.cc) only choose the parts.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "models/text/added_tokens.h"
#include "models/text/model.h"
#include "models/text/normalizer.h"
#include "models/text/pretokenizer.h"
#include "models/text/token_table.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

struct TokenizerParts {
  std::string kind;
  std::vector<AddedToken> added;
  NormalizerPointer normalizer;       // may be null
  PreTokenizerPointer pre_tokenizer;  // may be null: the whole text is one piece
  std::unique_ptr<Model> model;
  TokenTable tokens;
  SpecialTokens special;
  std::vector<TokenId> before, after;  // what add_special puts around the text
  bool strips_leading_space = false;
  bool drops_trailing_space = false;  // a space after the last word, from an end-of-word mark
};

std::unique_ptr<Tokenizer> MakePipelineTokenizer(TokenizerParts parts);

// Fills in what files leave out, by the names families use: which tokens end an answer, fill-in-the-middle
// tokens, and the control tokens that must be shown ("<think>").
void NameSpecialTokens(TokenizerParts& parts);

}  // namespace tidepool::text
