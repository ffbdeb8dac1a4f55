// The text that a format's calls are, as a grammar: for tools that promise their schema and answers that must
// be a call.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "models/grammar/expression.h"
#include "models/toolcalls/parser.h"

namespace tidepool::toolcalls {

struct ConstrainedTool {
  Tool tool;
  std::string field;  // for errors: "tools[0].function.parameters"
  bool strict =
      false;  // a schema that cannot be enforced is an error; else the arguments are any JSON object
};

struct CallRules {
  std::vector<ConstrainedTool> tools;  // of which one may be called
  bool parallel = true;                // several calls may follow each other
  bool required = false;               // the answer is calls; else it may be text, or text and then calls
  // kMistral: [TOOL_CALLS]f[ARGS]{..}; kDeepSeek: V3.1's shape. As the template writes them.
  bool newer_shape = false;
  // kText: what an answer without calls must be; none: anything.
  std::optional<grammar::ExprId> answer{};
};

// Errors: those of ParseJsonSchema; "unsupported_parameter" for formats without a grammar (kGemma).
Result<grammar::ExprId> CallGrammar(Format format, const CallRules& rules, grammar::Expressions& out);

}  // namespace tidepool::toolcalls
