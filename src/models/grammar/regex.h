// Regular expressions as grammars: what ECMA-262 and Python's re have in common.
//
// Refused, by name and place: look-around, back references, word boundaries, Unicode properties, flags, and
// anchors anywhere but at the two ends of a top-level alternative. Where the two dialects differ in what \w,
// \d, \s or a dot match, only what both match is generated.
#pragma once

#include <string_view>

#include "base/result.h"
#include "models/grammar/expression.h"

namespace tidepool::grammar {

enum class RegexUse : uint8_t {
  kText,        // the whole text matches
  kPart,        // what is looked for within a text: anchors are refused
  kJsonString,  // the content of a JSON string holds a match (as JSON schema's pattern), written as JSON
};
Result<ExprId> ParseRegex(std::string_view pattern, RegexUse use, Expressions& out);

// One character of a JSON string, in any spelling that json.loads and simdjson read alike (no lone
// surrogates).
ExprId JsonStringCharacter(Expressions& out);

}  // namespace tidepool::grammar
