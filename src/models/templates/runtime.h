// One rendering: limits, the clock, and the makers of values. Not thread-safe; lives on one stack.
//
// Errors inside the interpreter travel as the exception RenderFailure, caught in ChatTemplate.
#pragma once

#include <deque>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/templates/chat_template.h"
#include "models/templates/value.h"

namespace tidepool::templates {

struct Position {
  uint32_t line = 0;
  uint32_t column = 0;
};

struct RenderFailure {
  Error error;
};

class Runtime {
 public:
  Runtime(const RenderLimits& limits, int64_t now_unix_s);
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  // Throws RenderFailure with the position of the node being evaluated.
  [[noreturn]] void Fail(std::string_view message, std::string_view code = "template_error") const;
  [[noreturn]] void FailLimit(std::string_view what) const;
  [[noreturn]] void FailUndefined(const Value& undefined) const;

  // Counts `steps`; work on n bytes costs n / 64 steps, so that long strings cannot be worked on for free.
  void Step(uint64_t steps = 1) {
    steps_ += steps;
    if (steps_ > limits_.max_steps) FailLimit("steps");
  }
  void Work(uint64_t bytes) { Step(bytes / 64); }
  // Fails if `bytes` more would pass the memory limit: call before building something large.
  void Require(uint64_t bytes) const;

  Value String(std::string text, bool markup = false);
  Value List(std::vector<Value> items, Kind kind = Kind::kList);
  Value Tuple(std::vector<Value> items) { return List(std::move(items), Kind::kTuple); }
  Value Dict(std::vector<std::pair<Value, Value>> entries);  // later duplicates win; keys must be hashable
  Value DictView(const Value& dict, DictViewKind view);
  Value Range(int64_t start, int64_t stop, int64_t step);
  Value Generator(std::string name, const Value& source, std::function<bool(Runtime&, Value*)> next);
  Value Undefined(std::string name, std::string owner = {});
  Value UndefinedHint(std::string hint);
  Value Unsafe(std::string_view name, std::string_view owner);
  Value Bound(const Value& self, const Method* method);
  Value Namespace(std::vector<std::pair<std::string, Value>> attributes);
  Value Macro(const Statement* definition, Scope* scope);
  Value FromJson(const nlohmann::ordered_json& json, uint32_t depth = 0);

  // Charges an object made outside.
  void Adopt(Object* object, uint64_t bytes);

  const RenderLimits& limits() const { return limits_; }
  int64_t now_unix_s() const { return now_unix_s_; }
  Position position() const { return position_; }
  Meter& meter() { return meter_; }

  // Nesting of evaluated nodes; see RenderLimits::max_depth.
  class Depth {
   public:
    Depth(Runtime& runtime, Position position) : runtime_(runtime), saved_(runtime.position_) {
      runtime.position_ = position;
      runtime.Step();
      if (++runtime.depth_ > runtime.limits_.max_depth) {
        --runtime.depth_;
        runtime.FailLimit("depth");
      }
    }
    ~Depth() {
      --runtime_.depth_;
      runtime_.position_ = saved_;
    }
    Depth(const Depth&) = delete;
    Depth& operator=(const Depth&) = delete;

   private:
    Runtime& runtime_;
    Position saved_;
  };

 private:
  RenderLimits limits_;
  int64_t now_unix_s_;
  Meter meter_;
  uint64_t steps_ = 0;
  uint32_t depth_ = 0;
  Position position_;
  // Namespaces and macros may refer to each other in cycles, so they live until the rendering ends.
  std::deque<NamespaceObject> namespaces_;
  std::deque<MacroObject> macros_;
};

// Walks any iterable; throws for others. Generators are consumed.
class Iterator {
 public:
  Iterator(Runtime& runtime, const Value& iterable);
  bool Next(Value* item);
  // What len() says, or -1 for generators.
  int64_t size_hint() const { return size_; }

 private:
  Runtime& runtime_;
  Value iterable_;
  size_t at_ = 0;
  int64_t size_ = -1;
};

bool IsIterable(const Value& value);
// len(), or -1 where Python has none.
int64_t Length(const Value& value);
std::vector<Value> Collect(Runtime& runtime, const Value& iterable);

// Arguments bound to parameter names as Python does; throws TypeError-like failures.
// A name starting with '*' cannot be given by keyword (write "*sep").
class Parameters {
 public:
  Parameters(Runtime& runtime, std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t required = 0);
  bool has(size_t i) const { return values_[i] != nullptr; }
  const Value& operator[](size_t i) const { return *values_[i]; }
  Value Or(size_t i, Value fallback) const { return has(i) ? *values_[i] : fallback; }
  bool Flag(size_t i, bool fallback) const { return has(i) ? Truth(*values_[i]) : fallback; }
  // An int (or bool) argument clamped to 64 bits; throws for other types.
  int64_t Int(size_t i, int64_t fallback) const;
  std::string_view Text(size_t i, std::string_view fallback) const;  // throws unless str

 private:
  Runtime& runtime_;
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<const Value*> values_;
};

}  // namespace tidepool::templates
