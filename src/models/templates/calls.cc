// Calls: functions, methods, macros, and the `loop` object.
#include <fmt/format.h>

#include <algorithm>

#include "models/templates/interpreter_state.h"

namespace tidepool::templates {

Value Interpreter::Call(const Value& callee, Arguments arguments) {
  switch (callee.kind()) {
    case Kind::kUndefined: runtime_.FailUndefined(callee);
    case Kind::kFunction: return callee.Pointer<Function>()->call(runtime_, arguments);
    case Kind::kMethod: {
      const auto& bound = callee.As<BoundMethodObject>();
      return bound.method->call(runtime_, bound.self, arguments);
    }
    case Kind::kMacro: return CallMacro(*callee.Pointer<MacroObject>(), std::move(arguments));
    case Kind::kLoop: return CallLoop(callee, arguments);
    default: runtime_.Fail(fmt::format("'{}' object is not callable", TypeName(callee)));
  }
}

Value Interpreter::CallMacro(const MacroObject& macro, Arguments arguments) {
  const Runtime::Depth depth(runtime_, runtime_.position());
  Capture capture(this);
  ScopeLease scope(this, macro.scope);
  BindMacro(*macro.definition, std::move(arguments), scope.get());
  Execute(macro.definition->bodies[0], scope.get());
  return capture.Take();
}

// jinja2.runtime.Macro.__call__: positional, then named, then defaults; `caller`, `kwargs` and `varargs` only
// where the body mentions them, an error otherwise.
void Interpreter::BindMacro(const Statement& definition, Arguments arguments, Scope* scope) {
  const auto take_named = [&](std::string_view name, Value* out) {
    const auto it = std::find_if(arguments.named.begin(), arguments.named.end(),
                                 [&](const auto& pair) { return pair.first == name; });
    if (it == arguments.named.end()) return false;
    *out = std::move(it->second);
    arguments.named.erase(it);
    return true;
  };
  const auto& parameters = definition.parameters;
  auto& positional = arguments.positional;
  bool found_caller = false;
  std::vector<bool> given(parameters.size(), false);
  std::vector<Value> values(parameters.size());
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (i < positional.size()) {
      values[i] = positional[i];
      given[i] = true;
    } else {
      given[i] = take_named(parameters[i].name, &values[i]);
    }
    found_caller = found_caller || parameters[i].symbol == tree_.caller;
  }
  if (definition.uses_caller && !found_caller) {
    Value caller;
    if (!take_named("caller", &caller) || caller.is_none())
      caller = runtime_.UndefinedHint("No caller defined");
    scope->Set(tree_.caller, std::move(caller));
  }
  if (definition.uses_kwargs) {
    std::vector<std::pair<Value, Value>> entries;
    for (auto& [name, value] : arguments.named) entries.emplace_back(runtime_.String(name), std::move(value));
    scope->Set(tree_.kwargs, runtime_.Dict(std::move(entries)));
  } else if (!arguments.named.empty()) {
    runtime_.Fail(
        fmt::format("macro '{}' takes no keyword argument '{}'", definition.text, arguments.named[0].first));
  }
  if (definition.uses_varargs) {
    const size_t from = std::min(parameters.size(), positional.size());
    scope->Set(tree_.varargs,
               runtime_.Tuple({positional.begin() + static_cast<int64_t>(from), positional.end()}));
  } else if (positional.size() > parameters.size()) {
    runtime_.Fail(
        fmt::format("macro '{}' takes not more than {} argument(s)", definition.text, parameters.size()));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (given[i]) scope->Set(parameters[i].symbol, std::move(values[i]));
  }
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (given[i]) continue;
    const Parameter& parameter = parameters[i];
    scope->Set(parameter.symbol,
               parameter.fallback
                   ? Evaluate(*parameter.fallback, scope)
                   : runtime_.UndefinedHint(fmt::format("parameter '{}' was not provided", parameter.name)));
  }
}

// ---- loops

// The next item that passes the loop's own `if`.
bool Interpreter::PullFromSource(LoopObject& loop, Value* item) {
  if (!loop.source) return false;
  const Statement& node = *loop.node;
  while (loop.source->Next(item)) {
    if (node.expressions.size() < 2) return true;
    ScopeLease scope(this, loop.scope);
    Assign(*node.targets[0], *item, scope.get());
    if (Truth(Evaluate(*node.expressions[1], scope.get()))) return true;
  }
  return false;
}

bool Interpreter::Pull(LoopObject& loop, Value* item) {
  if (loop.ahead.empty()) return PullFromSource(loop, item);
  *item = std::move(loop.ahead.front());
  loop.ahead.pop_front();
  return true;
}

bool Interpreter::Peek(LoopObject& loop) {
  if (!loop.ahead.empty()) return true;
  Value item;
  if (!PullFromSource(loop, &item)) return false;
  loop.ahead.push_back(std::move(item));
  return true;
}

int64_t Interpreter::LoopLength(LoopObject& loop) {
  if (loop.length >= 0) return loop.length;
  if (loop.source && loop.node->expressions.size() < 2 && loop.source->size_hint() >= 0) {
    loop.length = loop.source->size_hint();
    return loop.length;
  }
  Value item;
  while (PullFromSource(loop, &item)) {
    runtime_.Require((loop.ahead.size() + 1) * sizeof(Value));
    loop.ahead.push_back(std::move(item));
  }
  loop.length = static_cast<int64_t>(loop.ahead.size()) + loop.index0 + 1;
  return loop.length;
}

bool Interpreter::LoopAttribute(const Value& value, std::string_view name, Value* out) {
  auto& loop = value.As<LoopObject>();
  const auto integer = [&](int64_t i) {
    *out = Value::Int(i);
    return true;
  };
  if (name == "index") return integer(loop.index0 + 1);
  if (name == "index0") return integer(loop.index0);
  if (name == "length") return integer(LoopLength(loop));
  if (name == "revindex") return integer(LoopLength(loop) - loop.index0);
  if (name == "revindex0") return integer(LoopLength(loop) - loop.index0 - 1);
  if (name == "depth") return integer(loop.depth0 + 1);
  if (name == "depth0") return integer(loop.depth0);
  if (name == "first") {
    *out = Value::Bool(loop.index0 == 0);
    return true;
  }
  if (name == "last") {
    *out = Value::Bool(!Peek(loop));
    return true;
  }
  if (name == "previtem") {
    *out = loop.index0 == 0 ? runtime_.UndefinedHint("there is no previous item") : loop.previous;
    return true;
  }
  if (name == "nextitem") {
    *out = Peek(loop) ? loop.ahead.front() : runtime_.UndefinedHint("there is no next item");
    return true;
  }
  return false;
}

Value Interpreter::LoopCycle(const Value& self, const Arguments& arguments) {
  const auto& items = arguments.positional;
  if (items.empty() || !arguments.named.empty()) runtime_.Fail("no items for cycling given");
  return items[static_cast<size_t>(self.As<LoopObject>().index0) % items.size()];
}

Value Interpreter::LoopChanged(const Value& self, const Arguments& arguments) {
  auto& loop = self.As<LoopObject>();
  Value now = runtime_.Tuple(arguments.positional);
  if (loop.changed_before && Equal(runtime_, loop.last_changed, now)) return Value::Bool(false);
  loop.changed_before = true;
  loop.last_changed = std::move(now);
  return Value::Bool(true);
}

Value Interpreter::CallLoop(const Value& self, const Arguments& arguments) {
  const auto& loop = self.As<LoopObject>();
  const Parameters p(runtime_, "loop", arguments, {"iterable"}, 1);
  if (loop.scope == nullptr || !loop.node->recursive) {
    runtime_.Fail("The loop must have the 'recursive' marker to be called recursively.");
  }
  Capture capture(this);
  RunLoop(*loop.node, p[0], loop.scope, loop.depth0 + 1);
  return capture.Take();
}

}  // namespace tidepool::templates
