#include "models/templates/runtime.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>

#include "models/templates/operators.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {

namespace {

// What an object costs besides its payload: the object, its control block and the allocator's header.
constexpr uint64_t kObjectBytes = 96;

uint32_t DepthOf(const std::vector<Value>& items) {
  uint32_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return depth + 1;
}

std::string RepairUtf8(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) AppendUtf8(NextCodePoint(text, &i), &out);
  return out;
}

}  // namespace

Runtime::Runtime(const RenderLimits& limits, int64_t now_unix_s) : limits_(limits), now_unix_s_(now_unix_s) {
  meter_.limit = limits.max_memory_bytes;
}

Runtime::~Runtime() {
  // First the contents, which may refer to other namespaces; then the objects themselves.
  for (auto& ns : namespaces_) ns.attributes.clear();
}

void Runtime::Fail(std::string_view message, std::string_view code) const {
  throw RenderFailure{
      Error{ErrorKind::kInvalid, std::string(code),
            fmt::format("chat template, line {}, column {}: {}", position_.line, position_.column, message),
            "chat_template", 0}};
}

void Runtime::FailLimit(std::string_view what) const {
  uint64_t limit = 0;
  if (what == "steps") limit = limits_.max_steps;
  if (what == "depth") limit = limits_.max_depth;
  if (what == "output bytes") limit = limits_.max_output_bytes;
  if (what == "memory bytes") limit = limits_.max_memory_bytes;
  Fail(fmt::format("the template passed the limit of {} {}", limit, what), "template_limit");
}

void Runtime::FailUndefined(const Value& undefined) const {
  const auto& u = undefined.As<UndefinedObject>();
  if (!u.hint.empty()) Fail(u.hint);
  if (u.owner.empty()) Fail(fmt::format("'{}' is undefined", u.name));
  Fail(fmt::format("'{} object' has no attribute '{}'", u.owner, u.name));
}

void Runtime::Require(uint64_t bytes) const {
  if (bytes > meter_.limit || meter_.used > meter_.limit - bytes) FailLimit("memory bytes");
}

void Runtime::Adopt(Object* object, uint64_t bytes) {
  Require(bytes + kObjectBytes);
  object->meter = &meter_;
  object->charged = bytes + kObjectBytes;
  meter_.used += object->charged;
  if (object->depth > kMaxDataDepth) Fail("values nested too deeply", "template_limit");
}

Value Runtime::String(std::string text, bool markup) {
  auto object = std::make_shared<StringObject>();
  object->length = CountCodePoints(text);
  object->markup = markup;
  Work(text.size());
  const uint64_t bytes = text.size();
  object->text = std::move(text);
  Adopt(object.get(), bytes);
  return Value::Of(Kind::kString, std::move(object));
}

Value Runtime::List(std::vector<Value> items, Kind kind) {
  auto object = std::make_shared<ListObject>();
  object->depth = DepthOf(items);
  Step(items.size() / 16);
  const uint64_t bytes = items.size() * sizeof(Value);
  object->items = std::move(items);
  Adopt(object.get(), bytes);
  return Value::Of(kind, std::move(object));
}

Value Runtime::Dict(std::vector<std::pair<Value, Value>> entries) {
  auto object = std::make_shared<DictObject>();
  Step(entries.size() / 8);
  constexpr size_t kIndexFrom = 12;
  std::map<std::string_view, size_t> seen;  // only for many entries
  auto& kept = object->entries;
  kept.reserve(entries.size());
  size_t others = 0;
  for (auto& [key, value] : entries) {
    if (!IsHashable(*this, key)) Fail(fmt::format("unhashable type: '{}'", TypeName(key)));
    Value* existing = nullptr;
    if (key.is_string() && entries.size() >= kIndexFrom) {
      const auto [it, inserted] = seen.try_emplace(key.text(), kept.size());
      if (!inserted) existing = &kept[it->second].second;
    } else {
      Step(others / 8);
      existing = const_cast<Value*>(object->Find(*this, key));
      ++others;
    }
    object->depth = std::max({object->depth, key.depth(), value.depth()});
    if (existing != nullptr) {
      *existing = std::move(value);
    } else {
      kept.emplace_back(std::move(key), std::move(value));
    }
  }
  ++object->depth;
  if (kept.size() >= kIndexFrom) {
    for (uint32_t i = 0; i < kept.size(); ++i) {
      if (kept[i].first.is_string()) object->by_text.push_back(i);
    }
    std::sort(object->by_text.begin(), object->by_text.end(),
              [&](uint32_t a, uint32_t b) { return kept[a].first.text() < kept[b].first.text(); });
  }
  Adopt(object.get(), kept.capacity() * sizeof(kept[0]) + object->by_text.capacity() * sizeof(uint32_t));
  return Value::Of(Kind::kDict, std::move(object));
}

Value Runtime::DictView(const Value& dict, DictViewKind view) {
  auto object = std::make_shared<DictViewObject>();
  object->dict = dict;
  object->view = view;
  object->depth = dict.depth() + 1;
  Adopt(object.get(), 0);
  return Value::Of(Kind::kDictView, std::move(object));
}

Value Runtime::Range(int64_t start, int64_t stop, int64_t step) {
  auto object = std::make_shared<RangeObject>();
  object->start = start;
  object->stop = stop;
  object->step = step;
  const Integer span = step > 0 ? Integer{stop} - start : Integer{start} - stop;
  const Integer stride = step > 0 ? Integer{step} : -Integer{step};
  const Integer size = span > 0 ? (span + stride - 1) / stride : 0;
  // jinja2.sandbox.MAX_RANGE
  if (size > 100000) Fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
  object->size = static_cast<int64_t>(size);
  Adopt(object.get(), 0);
  return Value::Of(Kind::kRange, std::move(object));
}

Value Runtime::Generator(std::string name, const Value& source, std::function<bool(Runtime&, Value*)> next) {
  auto object = std::make_shared<GeneratorObject>();
  object->name = std::move(name);
  object->next = std::move(next);
  object->depth = source.depth() + 1;
  Adopt(object.get(), 128);
  return Value::Of(Kind::kGenerator, std::move(object));
}

Value Runtime::Undefined(std::string name, std::string owner) {
  auto object = std::make_shared<UndefinedObject>();
  const uint64_t bytes = name.size();
  object->name = std::move(name);
  object->owner = std::move(owner);
  Adopt(object.get(), bytes);
  return Value::Of(Kind::kUndefined, std::move(object));
}

Value Runtime::UndefinedHint(std::string hint) {
  auto object = std::make_shared<UndefinedObject>();
  object->hint = std::move(hint);
  Adopt(object.get(), object->hint.size());
  return Value::Of(Kind::kUndefined, std::move(object));
}

Value Runtime::Unsafe(std::string_view name, std::string_view owner) {
  const Value v =
      UndefinedHint(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, owner));
  v.As<UndefinedObject>().security = true;
  return v;
}

Value Runtime::Bound(const Value& self, const Method* method) {
  auto object = std::make_shared<BoundMethodObject>();
  object->self = self;
  object->method = method;
  object->depth = self.depth() + 1;
  Adopt(object.get(), 0);
  return Value::Of(Kind::kMethod, std::move(object));
}

Value Runtime::Namespace(std::vector<std::pair<std::string, Value>> attributes) {
  constexpr uint64_t kBytes = 256;
  Require(kBytes);
  meter_.used += kBytes;
  namespaces_.push_back(NamespaceObject{std::move(attributes)});
  return Value::Borrowed(Kind::kNamespace, &namespaces_.back());
}

Value Runtime::Macro(const Statement* definition, Scope* scope) {
  Require(sizeof(MacroObject));
  meter_.used += sizeof(MacroObject);
  macros_.push_back(MacroObject{definition, scope});
  return Value::Borrowed(Kind::kMacro, &macros_.back());
}

Value Runtime::FromJson(const nlohmann::ordered_json& json, uint32_t depth) {
  if (depth > kMaxDataDepth) Fail("values nested too deeply", "template_limit");
  Step();
  using Type = nlohmann::ordered_json::value_t;
  switch (json.type()) {
    case Type::boolean: return Value::Bool(json.get<bool>());
    case Type::number_integer: return Value::Int(json.get<int64_t>());
    case Type::number_unsigned: return Value::Int(json.get<uint64_t>());
    case Type::number_float: return Value::Float(json.get<double>());
    case Type::string: {
      const auto& text = json.get_ref<const std::string&>();
      Require(text.size());
      return String(IsValidUtf8(text) ? text : RepairUtf8(text));
    }
    case Type::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(FromJson(item, depth + 1));
      return List(std::move(items));
    }
    case Type::object: {
      std::vector<std::pair<Value, Value>> entries;
      entries.reserve(json.size());
      for (const auto& [key, value] : json.items()) {
        entries.emplace_back(String(IsValidUtf8(key) ? key : RepairUtf8(key)), FromJson(value, depth + 1));
      }
      return Dict(std::move(entries));
    }
    default: return Value();
  }
}

bool IsIterable(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict:
    case Kind::kDictView:
    case Kind::kRange:
    case Kind::kGenerator: return true;
    default: return false;
  }
}

int64_t Length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined: return 0;
    case Kind::kString: return static_cast<int64_t>(value.As<StringObject>().length);
    case Kind::kList:
    case Kind::kTuple: return static_cast<int64_t>(value.As<ListObject>().items.size());
    case Kind::kDict: return static_cast<int64_t>(value.As<DictObject>().entries.size());
    case Kind::kDictView: return Length(value.As<DictViewObject>().dict);
    case Kind::kRange: return value.As<RangeObject>().size;
    default: return -1;
  }
}

Iterator::Iterator(Runtime& runtime, const Value& iterable) : runtime_(runtime), iterable_(iterable) {
  if (!IsIterable(iterable)) runtime.Fail(fmt::format("'{}' object is not iterable", TypeName(iterable)));
  size_ = Length(iterable);
}

bool Iterator::Next(Value* item) {
  runtime_.Step();
  const size_t at = at_;
  switch (iterable_.kind()) {
    case Kind::kString: {
      const auto& text = iterable_.As<StringObject>().text;
      if (at >= text.size()) return false;
      NextCodePoint(text, &at_);
      *item = runtime_.String(text.substr(at, at_ - at));
      return true;
    }
    case Kind::kList:
    case Kind::kTuple: {
      const auto& items = iterable_.As<ListObject>().items;
      if (at >= items.size()) return false;
      *item = items[at_++];
      return true;
    }
    case Kind::kDict: {
      const auto& entries = iterable_.As<DictObject>().entries;
      if (at >= entries.size()) return false;
      *item = entries[at_++].first;
      return true;
    }
    case Kind::kDictView: {
      const auto& view = iterable_.As<DictViewObject>();
      const auto& entries = view.dict.As<DictObject>().entries;
      if (at >= entries.size()) return false;
      const auto& entry = entries[at_++];
      if (view.view == DictViewKind::kKeys) *item = entry.first;
      if (view.view == DictViewKind::kValues) *item = entry.second;
      if (view.view == DictViewKind::kItems) *item = runtime_.Tuple({entry.first, entry.second});
      return true;
    }
    case Kind::kRange: {
      const auto& range = iterable_.As<RangeObject>();
      if (static_cast<int64_t>(at) >= range.size) return false;
      ++at_;
      *item = Value::Int(Integer{range.start} + Integer{range.step} * static_cast<int64_t>(at));
      return true;
    }
    case Kind::kGenerator: {
      auto& generator = iterable_.As<GeneratorObject>();
      if (generator.done) return false;
      Runtime::Depth depth(runtime_, runtime_.position());
      if (generator.next(runtime_, item)) return true;
      generator.done = true;
      generator.next = nullptr;
      return false;
    }
    default: return false;
  }
}

std::vector<Value> Collect(Runtime& runtime, const Value& iterable) {
  Iterator iterator(runtime, iterable);
  std::vector<Value> items;
  if (iterator.size_hint() > 0) {
    runtime.Require(static_cast<uint64_t>(iterator.size_hint()) * sizeof(Value));
    items.reserve(static_cast<size_t>(iterator.size_hint()));
  }
  Value item;
  while (iterator.Next(&item)) {
    items.push_back(std::move(item));
    if (items.size() % 1024 == 0) runtime.Require(items.size() * sizeof(Value));
  }
  return items;
}

Parameters::Parameters(Runtime& runtime, std::string_view function, const Arguments& arguments,
                       std::initializer_list<std::string_view> names, size_t required)
    : runtime_(runtime), function_(function), names_(names), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names_.size()) {
    runtime.Fail(fmt::format("{}() takes at most {} argument(s), {} given", function, names_.size(),
                             arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto it = std::find(names_.begin(), names_.end(), name);
    if (it == names_.end()) {
      runtime.Fail(fmt::format("{}() got an unexpected keyword argument '{}'", function, name));
    }
    const auto i = static_cast<size_t>(it - names_.begin());
    if (values_[i] != nullptr) runtime.Fail(fmt::format("{}() got multiple values for '{}'", function, name));
    values_[i] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr) {
      runtime.Fail(fmt::format("{}() missing required argument '{}'", function, names_[i]));
    }
  }
}

int64_t Parameters::Int(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  const Value& value = *values_[i];
  if (value.is_undefined()) runtime_.FailUndefined(value);
  if (!value.is_integral()) {
    runtime_.Fail(
        fmt::format("{}(): '{}' must be an integer, not {}", function_, names_[i], TypeName(value)));
  }
  constexpr Integer kLow = std::numeric_limits<int64_t>::min();
  constexpr Integer kHigh = std::numeric_limits<int64_t>::max();
  return static_cast<int64_t>(std::clamp(value.integer(), kLow, kHigh));
}

std::string_view Parameters::Text(size_t i, std::string_view fallback) const {
  if (!has(i)) return fallback;
  const Value& value = *values_[i];
  if (value.is_undefined()) runtime_.FailUndefined(value);
  if (!value.is_string()) {
    runtime_.Fail(fmt::format("{}(): '{}' must be str, not {}", function_, names_[i], TypeName(value)));
  }
  return value.text();
}

}  // namespace tidepool::templates
