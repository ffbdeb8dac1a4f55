// Walks the tree of a template and writes text. One object renders once.
#pragma once

#include <deque>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/templates/runtime.h"
#include "models/templates/syntax.h"

namespace tidepool::templates {

// The variables of a block: a loop's pass, a macro's call, a with. Names not found go to the parent.
struct Scope {
  Scope* parent = nullptr;
  std::vector<std::pair<Symbol, Value>> variables;
  bool captured = false;  // a macro refers to it, so it lives until the rendering ends
  void Set(Symbol symbol, Value value);
};

class Interpreter {
 public:
  Interpreter(const SyntaxTree& tree, const nlohmann::ordered_json& variables, int64_t now_unix_s,
              const RenderLimits& limits);
  // Throws RenderFailure.
  std::string Run();

 private:
  enum class Flow : uint8_t { kNormal, kBreak, kContinue };
  struct LoopObject;
  class ScopeLease;
  class Capture;

  // statements
  Flow Execute(const Body& body, Scope* scope);
  Flow ExecuteOne(const Statement& node, Scope* scope);
  Flow ExecuteIf(const Statement& node, Scope* scope);
  Flow ExecuteFor(const Statement& node, Scope* scope);
  Flow RunLoop(const Statement& node, const Value& iterable, Scope* scope, int64_t depth0);
  Flow ExecuteSetBlock(const Statement& node, Scope* scope);
  Flow ExecuteWith(const Statement& node, Scope* scope);
  Flow ExecuteFilter(const Statement& node, Scope* scope);
  void ExecuteCall(const Statement& node, Scope* scope);
  void Assign(const Expression& target, Value value, Scope* scope);
  void AssignNamespace(const Expression& target, Value value, Scope* scope);
  Value MakeMacro(const Statement& node, Scope* scope);
  void Emit(std::string_view text);

  // expressions
  Value Evaluate(const Expression& node, Scope* scope);
  Value Name(Symbol symbol, Scope* scope);
  Value EvaluateDict(const Expression& node, Scope* scope);
  Value EvaluateSlice(const Expression& node, Scope* scope);
  Value EvaluateCompare(const Expression& node, Scope* scope);
  Value EvaluateConcat(const Expression& node, Scope* scope);
  Value EvaluateCondition(const Expression& node, Scope* scope);
  Value EvaluateCall(const Expression& node, Scope* scope, const Value* caller);
  Value EvaluateFilter(const Expression& node, Scope* scope, const Value* input);
  Value EvaluateTest(const Expression& node, Scope* scope);
  std::vector<Value> EvaluateItems(const std::vector<ExpressionPtr>& items, Scope* scope);
  Arguments EvaluateArguments(const CallSyntax& call, Scope* scope);
  Value Attribute(const Value& value, std::string_view name);
  Value Item(const Value& value, const Value& key);

  // calls
  Value Call(const Value& callee, Arguments arguments);
  Value CallMacro(const MacroObject& macro, Arguments arguments);
  void BindMacro(const Statement& definition, Arguments arguments, Scope* scope);

  // loops
  bool PullFromSource(LoopObject& loop, Value* item);
  bool Pull(LoopObject& loop, Value* item);
  bool Peek(LoopObject& loop);
  int64_t LoopLength(LoopObject& loop);
  bool LoopAttribute(const Value& value, std::string_view name, Value* out);
  Value LoopCycle(const Value& self, const Arguments& arguments);
  Value CallLoop(const Value& self, const Arguments& arguments);
  Value LoopChanged(const Value& self, const Arguments& arguments);

  const SyntaxTree& tree_;
  const nlohmann::ordered_json& variables_;
  Runtime runtime_;
  // The template's variables by symbol, made when first read.
  std::vector<std::unique_ptr<Value>> globals_;
  std::vector<std::unique_ptr<Scope>> scopes_;
  std::vector<Scope*> free_scopes_;
  std::string* out_ = nullptr;
  uint64_t live_output_ = 0;  // bytes in the text and in all captures that are open
};

}  // namespace tidepool::templates
