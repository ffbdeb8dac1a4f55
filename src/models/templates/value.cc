#include "models/templates/value.h"

#include <algorithm>

#include "models/templates/runtime.h"

namespace tidepool::templates {

std::string_view Value::text() const { return static_cast<const StringObject&>(*object_).text; }
bool Value::markup() const {
  return kind_ == Kind::kString && static_cast<const StringObject&>(*object_).markup;
}

const Value* NamespaceObject::Find(std::string_view name) const {
  for (const auto& [key, value] : attributes) {
    if (key == name) return &value;
  }
  return nullptr;
}

const Value* DictObject::Find(std::string_view key) const {
  if (!by_text.empty()) {
    const auto it =
        std::lower_bound(by_text.begin(), by_text.end(), key,
                         [this](uint32_t i, std::string_view k) { return entries[i].first.text() < k; });
    if (it == by_text.end() || entries[*it].first.text() != key) return nullptr;
    return &entries[*it].second;
  }
  for (const auto& [k, v] : entries) {
    if (k.is_string() && k.text() == key) return &v;
  }
  return nullptr;
}

const Value* DictObject::Find(Runtime& runtime, const Value& key) const {
  if (key.is_string()) return Find(key.text());
  for (const auto& [k, v] : entries) {
    if (!k.is_string() && Equal(runtime, k, key)) return &v;
  }
  return nullptr;
}

bool Truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return false;
    case Kind::kBool:
    case Kind::kInteger: return value.integer() != 0;
    case Kind::kFloat: return value.real() != 0;
    case Kind::kString: return !value.text().empty();
    case Kind::kList:
    case Kind::kTuple: return !value.As<ListObject>().items.empty();
    case Kind::kDict: return !value.As<DictObject>().entries.empty();
    case Kind::kDictView: return !value.As<DictViewObject>().dict.As<DictObject>().entries.empty();
    case Kind::kRange: return value.As<RangeObject>().size != 0;
    default: return true;
  }
}

std::string_view TypeName(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined: return "Undefined";
    case Kind::kNone: return "NoneType";
    case Kind::kBool: return "bool";
    case Kind::kInteger: return "int";
    case Kind::kFloat: return "float";
    case Kind::kString: return value.markup() ? "Markup" : "str";
    case Kind::kList: return "list";
    case Kind::kTuple: return "tuple";
    case Kind::kDict: return "dict";
    case Kind::kDictView:
      switch (value.As<DictViewObject>().view) {
        case DictViewKind::kItems: return "dict_items";
        case DictViewKind::kKeys: return "dict_keys";
        case DictViewKind::kValues: return "dict_values";
      }
      return "dict_view";
    case Kind::kRange: return "range";
    case Kind::kGenerator: return "generator";
    case Kind::kNamespace: return "Namespace";
    case Kind::kMacro: return "Macro";
    case Kind::kLoop: return "LoopContext";
    case Kind::kFunction: return "function";
    case Kind::kMethod: return "builtin_function_or_method";
  }
  return "object";
}

namespace {

bool NumbersEqual(const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return a.integer() == b.integer();
  if (a.Is(Kind::kFloat) && b.Is(Kind::kFloat)) return a.real() == b.real();
  // x87's 64-bit mantissa holds every 64-bit integer exactly.
  const auto wide = [](const Value& v) {
    return v.Is(Kind::kFloat) ? static_cast<long double>(v.real()) : static_cast<long double>(v.integer());
  };
  return wide(a) == wide(b);
}

bool ItemsEqual(Runtime& runtime, const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](const Value& x, const Value& y) { return Equal(runtime, x, y); });
}

bool DictsEqual(Runtime& runtime, const DictObject& a, const DictObject& b) {
  if (a.entries.size() != b.entries.size()) return false;
  for (const auto& [key, value] : a.entries) {
    const Value* other = b.Find(runtime, key);
    if (other == nullptr || !Equal(runtime, value, *other)) return false;
  }
  return true;
}

bool RangesEqual(const RangeObject& a, const RangeObject& b) {
  if (a.size != b.size) return false;
  if (a.size == 0) return true;
  return a.start == b.start && (a.size == 1 || a.step == b.step);
}

bool KeyViewsEqual(Runtime& runtime, const DictViewObject& a, const DictViewObject& b) {
  if (a.view != b.view || a.view == DictViewKind::kValues) return false;
  const auto& left = a.dict.As<DictObject>();
  const auto& right = b.dict.As<DictObject>();
  if (a.view == DictViewKind::kItems) return DictsEqual(runtime, left, right);
  return left.entries.size() == right.entries.size() &&
         std::all_of(left.entries.begin(), left.entries.end(),
                     [&](const auto& entry) { return right.Find(runtime, entry.first) != nullptr; });
}

}  // namespace

bool Equal(Runtime& runtime, const Value& a, const Value& b) {
  runtime.Step();
  if (a.is_number() && b.is_number()) return NumbersEqual(a, b);
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kUndefined:
    case Kind::kNone: return true;
    case Kind::kString:
      if (a.text().size() != b.text().size()) return false;
      runtime.Work(a.text().size());
      return a.text() == b.text();
    case Kind::kList:
    case Kind::kTuple:
      return a.identity() == b.identity() ||
             ItemsEqual(runtime, a.As<ListObject>().items, b.As<ListObject>().items);
    case Kind::kDict:
      return a.identity() == b.identity() || DictsEqual(runtime, a.As<DictObject>(), b.As<DictObject>());
    case Kind::kDictView:
      return a.identity() == b.identity() ||
             KeyViewsEqual(runtime, a.As<DictViewObject>(), b.As<DictViewObject>());
    case Kind::kRange: return RangesEqual(a.As<RangeObject>(), b.As<RangeObject>());
    case Kind::kMethod: {
      const auto& x = a.As<BoundMethodObject>();
      const auto& y = b.As<BoundMethodObject>();
      return x.method == y.method && x.self.identity() == y.self.identity();
    }
    default: return a.identity() == b.identity();
  }
}

}  // namespace tidepool::templates
