// GBNF, the notation of llama.cpp: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
#pragma once

#include <string_view>

#include "base/result.h"
#include "models/grammar/expression.h"

namespace tidepool::grammar {

// The expression of its rule "root". Errors name line and column. Left recursion is found by Compile. Tokens
// (<[id]>, <name>) are not supported.
Result<ExprId> ParseGbnf(std::string_view source, Expressions& out);

}  // namespace tidepool::grammar
