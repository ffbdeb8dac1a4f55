// The "model" member of a tokenizer.json.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/text/json_reader.h"
#include "models/text/model.h"

namespace tidepool::text {

struct JsonModel {
  std::unique_ptr<Model> model;
  std::string kind;                         // "bpe", "unigram", "wordpiece", "wordlevel"
  std::vector<VocabularyEntry> vocabulary;  // views into the document
  std::optional<TokenId> unknown;
};

// raw_bytes: the pieces will be bytes, the vocabulary is spelled in GPT-2's alphabet (BPE only).
Result<JsonModel> ReadModel(const JsonObject& object, bool raw_bytes);
// Whether a BPE model can take raw bytes: nothing in it depends on characters.
bool TakesRawBytes(const JsonObject& object);

}  // namespace tidepool::text
