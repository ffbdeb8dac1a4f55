// Statements: output, conditions, loops, scopes and assignment.
#include "models/templates/interpreter.h"

#include <fmt/format.h>

#include "models/templates/interpreter_state.h"

namespace tidepool::templates {

void Scope::Set(Symbol symbol, Value value) {
  for (auto& [name, existing] : variables) {
    if (name == symbol) {
      existing = std::move(value);
      return;
    }
  }
  variables.emplace_back(symbol, std::move(value));
}

Interpreter::Interpreter(const SyntaxTree& tree, const nlohmann::ordered_json& variables, int64_t now_unix_s,
                         const RenderLimits& limits)
    : tree_(tree), variables_(variables), runtime_(limits, now_unix_s), globals_(tree.names.size()) {}

std::string Interpreter::Run() {
  std::string text;
  out_ = &text;
  ScopeLease root(this, nullptr);
  Execute(tree_.body, root.get());
  return text;
}

void Interpreter::Emit(std::string_view text) {
  live_output_ += text.size();
  if (live_output_ > runtime_.limits().max_output_bytes) {
    live_output_ -= text.size();
    runtime_.FailLimit("output bytes");
  }
  runtime_.Work(text.size());
  out_->append(text);
}

Interpreter::Flow Interpreter::Execute(const Body& body, Scope* scope) {
  for (const auto& node : body) {
    const Flow flow = ExecuteOne(*node, scope);
    if (flow != Flow::kNormal) return flow;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::ExecuteOne(const Statement& node, Scope* scope) {
  const Runtime::Depth depth(runtime_, node.position);
  switch (node.kind) {
    case StatementKind::kData: Emit(node.text); break;
    case StatementKind::kOutput:
      for (const auto& expression : node.expressions) {
        const Value value = Evaluate(*expression, scope);
        if (value.is_string()) {
          Emit(value.text());
        } else {
          Emit(ToText(runtime_, value));
        }
      }
      break;
    case StatementKind::kIf: return ExecuteIf(node, scope);
    case StatementKind::kFor: return ExecuteFor(node, scope);
    case StatementKind::kSet: Assign(*node.targets[0], Evaluate(*node.expressions[0], scope), scope); break;
    case StatementKind::kSetBlock: return ExecuteSetBlock(node, scope);
    case StatementKind::kWith: return ExecuteWith(node, scope);
    case StatementKind::kMacro: scope->Set(node.symbol, MakeMacro(node, scope)); break;
    case StatementKind::kCall: ExecuteCall(node, scope); break;
    case StatementKind::kFilter: return ExecuteFilter(node, scope);
    case StatementKind::kScope: {
      ScopeLease inner(this, scope);
      return Execute(node.bodies[0], inner.get());
    }
    case StatementKind::kBreak: return Flow::kBreak;
    case StatementKind::kContinue: return Flow::kContinue;
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::ExecuteIf(const Statement& node, Scope* scope) {
  for (size_t i = 0; i < node.expressions.size(); ++i) {
    if (Truth(Evaluate(*node.expressions[i], scope))) return Execute(node.bodies[i], scope);
  }
  if (node.bodies.size() > node.expressions.size()) return Execute(node.bodies.back(), scope);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::ExecuteFor(const Statement& node, Scope* scope) {
  return RunLoop(node, Evaluate(*node.expressions[0], scope), scope, 0);
}

Interpreter::Flow Interpreter::RunLoop(const Statement& node, const Value& iterable, Scope* scope,
                                       int64_t depth0) {
  auto loop = std::make_shared<LoopObject>();
  loop->source = std::make_unique<Iterator>(runtime_, iterable);
  loop->node = &node;
  loop->scope = scope;
  loop->depth0 = depth0;
  loop->depth = iterable.depth() + 1;
  runtime_.Adopt(loop.get(), sizeof(LoopObject));
  const Value loop_value = Value::Of(Kind::kLoop, loop);
  // The loop may be kept in a namespace; its scope is gone then.
  struct Deactivate {
    LoopObject& loop;
    ~Deactivate() {
      loop.scope = nullptr;
      loop.source.reset();
    }
  } deactivate{*loop};

  // jinja2 notes a pass at the end of the body, so break and continue leave the else branch due.
  bool completed_a_pass = false;
  Value item;
  while (Pull(*loop, &item)) {
    ++loop->index0;
    loop->previous = std::move(loop->current);
    loop->current = item;
    ScopeLease inner(this, scope);
    Assign(*node.targets[0], std::move(item), inner.get());
    inner.get()->Set(tree_.loop, loop_value);
    const Flow flow = Execute(node.bodies[0], inner.get());
    if (flow == Flow::kBreak) break;
    if (flow == Flow::kNormal) completed_a_pass = true;
  }
  if (!completed_a_pass && node.bodies.size() > 1) {
    ScopeLease inner(this, scope);
    return Execute(node.bodies[1], inner.get());
  }
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::ExecuteSetBlock(const Statement& node, Scope* scope) {
  Capture capture(this);
  ScopeLease inner(this, scope);
  const Flow flow = Execute(node.bodies[0], inner.get());
  if (flow != Flow::kNormal) return flow;
  Value value = capture.Take();
  if (!node.expressions.empty()) value = EvaluateFilter(*node.expressions[0], inner.get(), &value);
  Assign(*node.targets[0], std::move(value), scope);
  return Flow::kNormal;
}

Interpreter::Flow Interpreter::ExecuteWith(const Statement& node, Scope* scope) {
  ScopeLease inner(this, scope);
  for (size_t i = 0; i < node.targets.size(); ++i) {
    Assign(*node.targets[i], Evaluate(*node.expressions[i], scope), inner.get());
  }
  return Execute(node.bodies[0], inner.get());
}

Interpreter::Flow Interpreter::ExecuteFilter(const Statement& node, Scope* scope) {
  Value result;
  {
    Capture capture(this);
    ScopeLease inner(this, scope);
    const Flow flow = Execute(node.bodies[0], inner.get());
    if (flow != Flow::kNormal) return flow;
    const Value text = capture.Take();
    result = EvaluateFilter(*node.expressions[0], inner.get(), &text);
  }
  Emit(ToText(runtime_, result));
  return Flow::kNormal;
}

void Interpreter::ExecuteCall(const Statement& node, Scope* scope) {
  const Value caller = MakeMacro(node, scope);
  const Value result = EvaluateCall(*node.expressions[0], scope, &caller);
  Emit(ToText(runtime_, result));
}

Value Interpreter::MakeMacro(const Statement& node, Scope* scope) {
  for (Scope* s = scope; s != nullptr && !s->captured; s = s->parent) {
    constexpr uint64_t kKeptScopeBytes = 256;
    runtime_.Require(kKeptScopeBytes);
    runtime_.meter().used += kKeptScopeBytes;
    s->captured = true;
  }
  return runtime_.Macro(&node, scope);
}

void Interpreter::Assign(const Expression& target, Value value, Scope* scope) {
  if (target.kind == ExpressionKind::kName) {
    runtime_.Step(scope->variables.size() / 8);
    scope->Set(target.symbol, std::move(value));
    return;
  }
  if (target.kind == ExpressionKind::kNamespaceRef) {
    AssignNamespace(target, std::move(value), scope);
    return;
  }
  if (value.is_undefined() || !IsIterable(value)) {
    runtime_.Fail(fmt::format("cannot unpack non-iterable {} object", TypeName(value)));
  }
  Iterator iterator(runtime_, value);
  std::vector<Value> items;
  Value item;
  while (items.size() <= target.items.size() && iterator.Next(&item)) items.push_back(std::move(item));
  if (items.size() != target.items.size()) {
    const bool many = items.size() > target.items.size();
    runtime_.Fail(fmt::format("{} values to unpack (expected {})", many ? "too many" : "not enough",
                              target.items.size()));
  }
  for (size_t i = 0; i < items.size(); ++i) Assign(*target.items[i], std::move(items[i]), scope);
}

void Interpreter::AssignNamespace(const Expression& target, Value value, Scope* scope) {
  const Value holder = Name(target.symbol, scope);
  if (!holder.Is(Kind::kNamespace)) runtime_.Fail("cannot assign attribute on non-namespace object");
  if (target.text.starts_with('_')) {
    runtime_.Fail("Chat templates cannot store underscore-prefixed attributes on a namespace");
  }
  auto& attributes = const_cast<NamespaceObject*>(holder.Pointer<NamespaceObject>())->attributes;
  runtime_.Step(attributes.size() / 8);
  for (auto& [name, existing] : attributes) {
    if (name == target.text) {
      existing = std::move(value);
      return;
    }
  }
  attributes.emplace_back(target.text, std::move(value));
}

}  // namespace tidepool::templates
