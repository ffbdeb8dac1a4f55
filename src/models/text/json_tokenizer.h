// Tokenizers from Hugging Face files: tokenizer.json with tokenizer_config.json and generation_config.json,
// or a BERT vocab.txt alone.
#pragma once

#include <memory>
#include <string_view>

#include "base/result.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

// The configs may be empty. "truncation" and "padding" are the caller's business, not the tokenizer's.
Result<std::unique_ptr<Tokenizer>> LoadJsonTokenizer(std::string_view tokenizer_json,
                                                     std::string_view tokenizer_config_json,
                                                     std::string_view generation_config_json);
// One piece a line; WordPiece with BERT's normalizer, lower case unless the config's do_lower_case is false.
Result<std::unique_ptr<Tokenizer>> LoadVocabTxt(std::string_view vocab_txt,
                                                std::string_view tokenizer_config_json);

}  // namespace tidepool::text
