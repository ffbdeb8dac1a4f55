// The text that a format's calls are, as a grammar: for tools that promise their schema and answers that must
// be a call.
#pragma once

#include <optional>
#include <string>
#include <string_view>
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
  // kMistral: [TOOL_CALLS]f[ARGS]{..}; kDeepSeek: V3.1's shape; kGlm: no line breaks; kDsml: tool_calls. As
  // the template writes them (IsNewerShape).
  bool newer_shape = false;
  // kText: what an answer without calls must be; none: anything.
  std::optional<grammar::ExprId> answer{};
};

// Errors: those of ParseJsonSchema; also "unsupported_schema" where a strict schema says what the format
// cannot be held to (kQwenXml, kGlm, kGemma: strings there are no JSON).
Result<grammar::ExprId> CallGrammar(Format format, const CallRules& rules, grammar::Expressions& out);

// Which of a format's two shapes a template means.
bool IsNewerShape(Format format, std::string_view template_source);

}  // namespace tidepool::toolcalls
