// Expressions.
#include <fmt/format.h>

#include <algorithm>

#include "models/templates/interpreter_state.h"

namespace tidepool::templates {

Value Interpreter::Name(Symbol symbol, Scope* scope) {
  for (const Scope* s = scope; s != nullptr; s = s->parent) {
    runtime_.Step(s->variables.size() / 8);
    for (const auto& [name, value] : s->variables) {
      if (name == symbol) return value;
    }
  }
  auto& global = globals_[symbol];
  if (!global) {
    const std::string& name = tree_.names[symbol];
    if (const auto it = variables_.find(name); it != variables_.end()) {
      global = std::make_unique<Value>(runtime_.FromJson(*it));
    } else if (const Function* function = FindFunction(name)) {
      global = std::make_unique<Value>(Value::Borrowed(Kind::kFunction, function));
    } else {
      global = std::make_unique<Value>(runtime_.Undefined(name));
    }
  }
  return *global;
}

Value Interpreter::Evaluate(const Expression& node, Scope* scope) {
  const Runtime::Depth depth(runtime_, node.position);
  switch (node.kind) {
    case ExpressionKind::kConstant: return node.constant;
    case ExpressionKind::kName: return Name(node.symbol, scope);
    case ExpressionKind::kTuple: return runtime_.Tuple(EvaluateItems(node.items, scope));
    case ExpressionKind::kList: return runtime_.List(EvaluateItems(node.items, scope));
    case ExpressionKind::kDict: return EvaluateDict(node, scope);
    case ExpressionKind::kAttribute: return Attribute(Evaluate(*node.left, scope), node.text);
    case ExpressionKind::kItem: {
      const Value value = Evaluate(*node.left, scope);
      return Item(value, Evaluate(*node.right, scope));
    }
    case ExpressionKind::kSlice: return EvaluateSlice(node, scope);
    case ExpressionKind::kCall: return EvaluateCall(node, scope, nullptr);
    case ExpressionKind::kFilter: return EvaluateFilter(node, scope, nullptr);
    case ExpressionKind::kTest: return EvaluateTest(node, scope);
    case ExpressionKind::kNot: return Value::Bool(!Truth(Evaluate(*node.left, scope)));
    case ExpressionKind::kNegate: return Negate(runtime_, Evaluate(*node.left, scope));
    case ExpressionKind::kPositive: return Positive(runtime_, Evaluate(*node.left, scope));
    case ExpressionKind::kBinary: {
      const Value left = Evaluate(*node.left, scope);
      return Binary(runtime_, node.operation, left, Evaluate(*node.right, scope));
    }
    case ExpressionKind::kAnd: {
      Value left = Evaluate(*node.left, scope);
      return Truth(left) ? Evaluate(*node.right, scope) : left;
    }
    case ExpressionKind::kOr: {
      Value left = Evaluate(*node.left, scope);
      return Truth(left) ? left : Evaluate(*node.right, scope);
    }
    case ExpressionKind::kConcat: return EvaluateConcat(node, scope);
    case ExpressionKind::kCompare: return EvaluateCompare(node, scope);
    case ExpressionKind::kCondition: return EvaluateCondition(node, scope);
    case ExpressionKind::kNamespaceRef: break;  // only ever a target
  }
  return Value();
}

std::vector<Value> Interpreter::EvaluateItems(const std::vector<ExpressionPtr>& items, Scope* scope) {
  std::vector<Value> values;
  values.reserve(items.size());
  for (const auto& item : items) values.push_back(Evaluate(*item, scope));
  return values;
}

Value Interpreter::EvaluateDict(const Expression& node, Scope* scope) {
  std::vector<std::pair<Value, Value>> entries;
  for (size_t i = 0; i + 1 < node.items.size(); i += 2) {
    Value key = Evaluate(*node.items[i], scope);
    entries.emplace_back(std::move(key), Evaluate(*node.items[i + 1], scope));
  }
  return runtime_.Dict(std::move(entries));
}

Value Interpreter::EvaluateSlice(const Expression& node, Scope* scope) {
  const Value value = Evaluate(*node.left, scope);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (node.items[i]) bounds[i] = Evaluate(*node.items[i], scope);
  }
  return Slice(runtime_, value, bounds[0], bounds[1], bounds[2]);
}

Value Interpreter::EvaluateCompare(const Expression& node, Scope* scope) {
  Value left = Evaluate(*node.left, scope);
  for (size_t i = 0; i < node.comparisons.size(); ++i) {
    Value right = Evaluate(*node.items[i], scope);
    if (!Compare(runtime_, node.comparisons[i], left, right)) return Value::Bool(false);
    left = std::move(right);
  }
  return Value::Bool(true);
}

Value Interpreter::EvaluateConcat(const Expression& node, Scope* scope) {
  std::string text;
  for (const auto& item : node.items) {
    const Value value = Evaluate(*item, scope);
    if (value.is_string()) runtime_.Require(text.size() + value.text().size());
    AppendText(runtime_, value, &text);
  }
  return runtime_.String(std::move(text));
}

Value Interpreter::EvaluateCondition(const Expression& node, Scope* scope) {
  if (Truth(Evaluate(*node.middle, scope))) return Evaluate(*node.left, scope);
  if (node.right) return Evaluate(*node.right, scope);
  return runtime_.UndefinedHint(
      fmt::format("the inline if-expression on line {} evaluated to false and no else section was defined.",
                  node.position.line));
}

Arguments Interpreter::EvaluateArguments(const CallSyntax& call, Scope* scope) {
  Arguments arguments;
  arguments.positional = EvaluateItems(call.positional, scope);
  if (call.spread) {
    for (Value& value : Collect(runtime_, Evaluate(*call.spread, scope))) {
      arguments.positional.push_back(std::move(value));
    }
  }
  for (const auto& [name, value] : call.named) arguments.named.emplace_back(name, Evaluate(*value, scope));
  if (!call.named_spread) return arguments;
  const Value more = Evaluate(*call.named_spread, scope);
  if (!more.Is(Kind::kDict)) runtime_.Fail("argument after ** must be a mapping");
  for (const auto& [key, value] : more.As<DictObject>().entries) {
    if (!key.is_string()) runtime_.Fail("keywords must be strings");
    runtime_.Step(arguments.named.size() / 8);
    for (const auto& [name, other] : arguments.named) {
      if (name == key.text())
        runtime_.Fail(fmt::format("got multiple values for keyword argument '{}'", name));
    }
    arguments.named.emplace_back(std::string(key.text()), value);
  }
  return arguments;
}

Value Interpreter::EvaluateFilter(const Expression& node, Scope* scope, const Value* input) {
  Value subject;
  if (node.left == nullptr) {
    subject = *input;
  } else if (node.left->kind == ExpressionKind::kFilter && input != nullptr) {
    const Runtime::Depth depth(runtime_, node.position);
    subject = EvaluateFilter(*node.left, scope, input);
  } else {
    subject = Evaluate(*node.left, scope);
  }
  if (node.filter == nullptr) runtime_.Fail(fmt::format("No filter named '{}'.", node.text));
  return node.filter(runtime_, subject, EvaluateArguments(*node.call, scope));
}

Value Interpreter::EvaluateTest(const Expression& node, Scope* scope) {
  const Value subject = Evaluate(*node.left, scope);
  if (node.test == nullptr) runtime_.Fail(fmt::format("No test named '{}'.", node.text));
  return Value::Bool(node.test(runtime_, subject, EvaluateArguments(*node.call, scope)));
}

Value Interpreter::Attribute(const Value& value, std::string_view name) {
  Value out;
  if (value.Is(Kind::kLoop) && LoopAttribute(value, name, &out)) return out;
  if (value.Is(Kind::kMacro) && name == "name") {
    return runtime_.String(value.Pointer<MacroObject>()->definition->text);
  }
  return GetAttribute(runtime_, value, name);
}

Value Interpreter::Item(const Value& value, const Value& key) {
  Value out;
  if (value.Is(Kind::kLoop) && key.is_string() && LoopAttribute(value, key.text(), &out)) return out;
  return GetItem(runtime_, value, key);
}

Value Interpreter::EvaluateCall(const Expression& node, Scope* scope, const Value* caller) {
  Value callee;
  Value self;
  const Method* method = nullptr;
  if (node.left->kind == ExpressionKind::kAttribute) {
    // A method called at once needs no bound object.
    self = Evaluate(*node.left->left, scope);
    method = self.is_undefined() ? nullptr : FindMethod(self, node.left->text);
    if (method != nullptr && method->forbidden) method = nullptr;
    if (method == nullptr && self.Is(Kind::kLoop) &&
        (node.left->text == "cycle" || node.left->text == "changed")) {
      const Arguments arguments = EvaluateArguments(*node.call, scope);
      return node.left->text == "cycle" ? LoopCycle(self, arguments) : LoopChanged(self, arguments);
    }
    if (method == nullptr) callee = Attribute(self, node.left->text);
  } else {
    callee = Evaluate(*node.left, scope);
  }
  Arguments arguments = EvaluateArguments(*node.call, scope);
  if (caller != nullptr) {
    for (const auto& [name, value] : arguments.named) {
      if (name == "caller") runtime_.Fail("got multiple values for keyword argument 'caller'");
    }
    arguments.named.emplace_back("caller", *caller);
  }
  if (method != nullptr) return method->call(runtime_, self, arguments);
  return Call(callee, std::move(arguments));
}

}  // namespace tidepool::templates
