// The tree of a parsed template. Immutable after parsing and shared between renderings.
#pragma once

#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "models/templates/operators.h"
#include "models/templates/runtime.h"

namespace tidepool::templates {

// Nesting of the tree; evaluation, analysis and destruction recurse over it.
inline constexpr uint32_t kMaxTreeDepth = 300;

// Names of variables are numbered, so that scopes compare numbers.
using Symbol = uint32_t;

struct Expression;
struct Statement;
using ExpressionPtr = std::unique_ptr<Expression>;
using Body = std::vector<std::unique_ptr<Statement>>;

enum class ExpressionKind : uint8_t {
  kConstant,
  kName,
  kTuple,
  kList,
  kDict,       // items: key, value, key, value…
  kAttribute,  // left.text
  kItem,       // left[right]
  kSlice,      // left[start:stop:step], items: start, stop, step (each may be null)
  kCall,       // left(call)
  kFilter,     // left|text(call); left is null inside a filter block
  kTest,       // left is text(call)
  kNot,
  kNegate,
  kPositive,
  kBinary,  // operation
  kAnd,
  kOr,
  kConcat,        // items, ~
  kCompare,       // left, then (comparisons[i], items[i])
  kCondition,     // left if middle else right (right may be null)
  kNamespaceRef,  // name.text as an assignment target
};

struct CallSyntax {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr spread;        // *args
  ExpressionPtr named_spread;  // **kwargs
};

struct Expression {
  ExpressionKind kind = ExpressionKind::kConstant;
  Position position;
  uint32_t depth = 0;
  Value constant;
  Symbol symbol = 0;
  std::string text;
  BinaryOperator operation = BinaryOperator::kAdd;
  std::vector<Comparison> comparisons;
  ExpressionPtr left, middle, right;
  std::vector<ExpressionPtr> items;
  std::unique_ptr<CallSyntax> call;
  Filter filter = nullptr;  // null: unknown, an error when reached
  Test test = nullptr;
};

enum class StatementKind : uint8_t {
  kData,      // text
  kOutput,    // expressions
  kIf,        // expressions[i] guards bodies[i]; one more body is the else
  kFor,       // target in expressions[0] if expressions[1]; bodies[0], else bodies[1]
  kSet,       // target = expressions[0]
  kSetBlock,  // target = captured bodies[0], through expressions[0] (a filter chain) if there
  kWith,      // targets[i] = expressions[i] around bodies[0]
  kMacro,     // symbol, parameters, bodies[0]
  kCall,      // expressions[0] is a call; parameters, bodies[0] is the caller
  kFilter,    // expressions[0] applied to bodies[0]
  kScope,     // bodies[0] in a scope of its own ({% generation %})
  kBreak,
  kContinue,
};

struct Parameter {
  Symbol symbol = 0;
  std::string name;
  ExpressionPtr fallback;
};

struct Statement {
  StatementKind kind = StatementKind::kData;
  Position position;
  std::string text;
  Symbol symbol = 0;
  bool recursive = false;
  // A macro that mentions these names receives them.
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
  std::vector<ExpressionPtr> targets;
  std::vector<ExpressionPtr> expressions;
  std::vector<Body> bodies;
  std::vector<Parameter> parameters;
};

struct SyntaxTree {
  std::string source;
  Body body;
  std::vector<std::string> names;  // by Symbol
  Symbol loop = 0, caller = 0, varargs = 0, kwargs = 0;
};

Result<SyntaxTree> ParseTemplate(std::string_view source);

}  // namespace tidepool::templates
