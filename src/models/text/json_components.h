// The components of a tokenizer.json: each function reads one and names what it does not know.
#pragma once

#include <simdjson.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/text/decoder.h"
#include "models/text/normalizer.h"
#include "models/text/pretokenizer.h"

namespace tidepool::text {

// Nesting of sequences in sequences; the library's own files have one level.
inline constexpr int kMaxJsonNesting = 8;

Result<NormalizerPointer> ReadNormalizer(simdjson::dom::element element, std::string path, int depth = 0);

// raw_bytes: the last step, a ByteLevel, leaves bytes as they are, for a model that takes them.
Result<PreTokenizerPointer> ReadPreTokenizer(simdjson::dom::element element, std::string path, bool raw_bytes,
                                             int depth = 0);
// Whether the last step spells bytes in GPT-2's alphabet.
bool EndsInByteLevel(simdjson::dom::element pre_tokenizer, int depth = 0);

Status ReadDecoder(simdjson::dom::element element, std::string path, Decoder& decoder, int depth = 0);

// What stands before and after the text.
struct Surroundings {
  std::vector<TokenId> before, after;
};
Status ReadPostProcessor(simdjson::dom::element element, std::string path, Surroundings& surroundings,
                         int depth = 0);

// A pattern of a Split or Replace: {"String": ...} or {"Regex": ...}.
Result<SplitPattern> ReadPattern(simdjson::dom::element element, std::string path);

}  // namespace tidepool::text
