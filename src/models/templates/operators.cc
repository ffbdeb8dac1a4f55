#include "models/templates/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

constexpr std::string_view kOperatorText[] = {"+", "-", "*", "/", "//", "%", "**"};

[[noreturn]] void Unsupported(Runtime& runtime, BinaryOperator op, const Value& a, const Value& b) {
  if (a.is_undefined()) runtime.FailUndefined(a);
  if (b.is_undefined()) runtime.FailUndefined(b);
  runtime.Fail(fmt::format("unsupported operand type(s) for {}: '{}' and '{}'",
                           kOperatorText[static_cast<size_t>(op)], TypeName(a), TypeName(b)));
}

[[noreturn]] void Overflow(Runtime& runtime) { runtime.Fail("an integer beyond 128 bits is not supported"); }

Value FloorDivide(Runtime& runtime, Integer a, Integer b) {
  if (b == 0) runtime.Fail("integer division or modulo by zero");
  if (b == -1) {
    Integer negated = 0;
    if (__builtin_sub_overflow(Integer{0}, a, &negated)) Overflow(runtime);
    return Value::Int(negated);
  }
  Integer quotient = a / b;
  if (a % b != 0 && ((a < 0) != (b < 0))) --quotient;
  return Value::Int(quotient);
}

Value Modulo(Runtime& runtime, Integer a, Integer b) {
  if (b == 0) runtime.Fail("integer division or modulo by zero");
  if (b == -1) return Value::Int(0);
  Integer remainder = a % b;
  if (remainder != 0 && ((remainder < 0) != (b < 0))) remainder += b;
  return Value::Int(remainder);
}

Value IntegerPower(Runtime& runtime, Integer base, Integer exponent) {
  if (exponent < 0) {
    if (base == 0) runtime.Fail("0.0 cannot be raised to a negative power");
    return Value::Float(std::pow(static_cast<double>(base), static_cast<double>(exponent)));
  }
  if (base == 0 || base == 1) return Value::Int(exponent == 0 ? 1 : base);
  if (base == -1) return Value::Int(exponent % 2 == 0 ? 1 : -1);
  if (exponent > 127) Overflow(runtime);
  Integer result = 1;
  for (Integer i = 0; i < exponent; ++i) {
    if (__builtin_mul_overflow(result, base, &result)) Overflow(runtime);
  }
  return Value::Int(result);
}

Value IntegerArithmetic(Runtime& runtime, BinaryOperator op, Integer a, Integer b) {
  Integer result = 0;
  switch (op) {
    case BinaryOperator::kAdd:
      if (__builtin_add_overflow(a, b, &result)) Overflow(runtime);
      return Value::Int(result);
    case BinaryOperator::kSubtract:
      if (__builtin_sub_overflow(a, b, &result)) Overflow(runtime);
      return Value::Int(result);
    case BinaryOperator::kMultiply:
      if (__builtin_mul_overflow(a, b, &result)) Overflow(runtime);
      return Value::Int(result);
    case BinaryOperator::kDivide:
      if (b == 0) runtime.Fail("division by zero");
      return Value::Float(static_cast<double>(static_cast<long double>(a) / static_cast<long double>(b)));
    case BinaryOperator::kFloorDivide: return FloorDivide(runtime, a, b);
    case BinaryOperator::kModulo: return Modulo(runtime, a, b);
    case BinaryOperator::kPower: return IntegerPower(runtime, a, b);
  }
  return Value();
}

// CPython's float_divmod: the remainder has the sign of the divisor.
void FloatDivmod(double a, double b, double* quotient, double* remainder) {
  double mod = std::fmod(a, b);
  double div = (a - mod) / b;
  if (mod != 0) {
    if ((b < 0) != (mod < 0)) {
      mod += b;
      div -= 1.0;
    }
  } else {
    mod = std::copysign(0.0, b);
  }
  if (div != 0) {
    *quotient = std::floor(div);
    if (div - *quotient > 0.5) *quotient += 1.0;
  } else {
    *quotient = std::copysign(0.0, a / b);
  }
  *remainder = mod;
}

Value FloatArithmetic(Runtime& runtime, BinaryOperator op, double a, double b) {
  double quotient = 0;
  double remainder = 0;
  switch (op) {
    case BinaryOperator::kAdd: return Value::Float(a + b);
    case BinaryOperator::kSubtract: return Value::Float(a - b);
    case BinaryOperator::kMultiply: return Value::Float(a * b);
    case BinaryOperator::kDivide:
      if (b == 0) runtime.Fail("float division by zero");
      return Value::Float(a / b);
    case BinaryOperator::kFloorDivide:
    case BinaryOperator::kModulo:
      if (b == 0) runtime.Fail("float divmod()");
      FloatDivmod(a, b, &quotient, &remainder);
      return Value::Float(op == BinaryOperator::kModulo ? remainder : quotient);
    case BinaryOperator::kPower: {
      if (a == 0 && b < 0) runtime.Fail("0.0 cannot be raised to a negative power");
      if (a < 0 && b != std::floor(b) && std::isfinite(a) && std::isfinite(b)) {
        runtime.Fail("complex numbers are not supported");
      }
      const double power = std::pow(a, b);
      if (std::isinf(power) && std::isfinite(a) && std::isfinite(b))
        runtime.Fail("Numerical result out of range");
      return Value::Float(power);
    }
  }
  return Value();
}

Value AddStrings(Runtime& runtime, const Value& a, const Value& b) {
  const bool markup = a.markup() || b.markup();
  const auto part = [&](const Value& v) {
    return markup && !v.markup() ? EscapeHtml(v.text()) : std::string(v.text());
  };
  runtime.Require(a.text().size() + b.text().size());
  if (markup) return runtime.String(part(a) + part(b), true);
  std::string text;
  text.reserve(a.text().size() + b.text().size());
  text.append(a.text());
  text.append(b.text());
  return runtime.String(std::move(text));
}

Value AddLists(Runtime& runtime, const Value& a, const Value& b) {
  const auto& left = a.As<ListObject>().items;
  const auto& right = b.As<ListObject>().items;
  runtime.Require((left.size() + right.size()) * sizeof(Value));
  std::vector<Value> items;
  items.reserve(left.size() + right.size());
  items.insert(items.end(), left.begin(), left.end());
  items.insert(items.end(), right.begin(), right.end());
  return runtime.List(std::move(items), a.kind());
}

Value Repeat(Runtime& runtime, const Value& sequence, Integer times) {
  constexpr Integer kMost = Integer{1} << 62;
  if (times < 0) times = 0;
  if (sequence.is_string()) {
    const auto text = sequence.text();
    const Integer bytes = times > kMost ? kMost : times * static_cast<int64_t>(text.size());
    runtime.Require(static_cast<uint64_t>(std::min(bytes, kMost)));
    std::string out;
    out.reserve(static_cast<size_t>(bytes));
    for (Integer i = 0; i < times && !text.empty(); ++i) out.append(text);
    return runtime.String(std::move(out), sequence.markup());
  }
  const auto& items = sequence.As<ListObject>().items;
  const Integer count = times > kMost ? kMost : times * static_cast<int64_t>(items.size());
  runtime.Require(static_cast<uint64_t>(std::min(count, kMost / 64)) * sizeof(Value));
  std::vector<Value> out;
  out.reserve(static_cast<size_t>(count));
  for (Integer i = 0; i < times && !items.empty(); ++i) out.insert(out.end(), items.begin(), items.end());
  return runtime.List(std::move(out), sequence.kind());
}

bool IsSequence(const Value& v) { return v.is_string() || v.Is(Kind::kList) || v.Is(Kind::kTuple); }

std::string EscapeFormatArguments(Runtime& runtime, const Value& format, const Value& value) {
  // markupsafe escapes what is formatted into Markup.
  const auto escape = [&](const Value& v) {
    return v.is_number() || v.markup() ? v : runtime.String(EscapeHtml(ToText(runtime, v)));
  };
  if (value.Is(Kind::kTuple)) {
    std::vector<Value> items;
    for (const Value& item : value.As<ListObject>().items) items.push_back(escape(item));
    return FormatPercent(runtime, format.text(), runtime.Tuple(std::move(items)));
  }
  return FormatPercent(runtime, format.text(), escape(value));
}

bool LessItems(Runtime& runtime, const Value& a, const Value& b) {
  const auto& left = a.As<ListObject>().items;
  const auto& right = b.As<ListObject>().items;
  for (size_t i = 0; i < left.size() && i < right.size(); ++i) {
    if (!Equal(runtime, left[i], right[i])) return Less(runtime, left[i], right[i]);
  }
  return left.size() < right.size();
}

[[noreturn]] void Unordered(Runtime& runtime, const Value& a, const Value& b) {
  if (a.is_undefined()) runtime.FailUndefined(a);
  if (b.is_undefined()) runtime.FailUndefined(b);
  runtime.Fail(fmt::format("'<' not supported between instances of '{}' and '{}'", TypeName(a), TypeName(b)));
}

bool IsNan(const Value& v) { return v.Is(Kind::kFloat) && std::isnan(v.real()); }

}  // namespace

Value Binary(Runtime& runtime, BinaryOperator op, const Value& a, const Value& b) {
  if (a.is_integral() && b.is_integral()) return IntegerArithmetic(runtime, op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return FloatArithmetic(runtime, op, a.real(), b.real());
  if (op == BinaryOperator::kAdd) {
    if (a.is_string() && b.is_string()) return AddStrings(runtime, a, b);
    if (a.kind() == b.kind() && (a.Is(Kind::kList) || a.Is(Kind::kTuple))) return AddLists(runtime, a, b);
  }
  if (op == BinaryOperator::kMultiply) {
    if (IsSequence(a) && b.is_integral()) return Repeat(runtime, a, b.integer());
    if (IsSequence(b) && a.is_integral()) return Repeat(runtime, b, a.integer());
  }
  if (op == BinaryOperator::kModulo && a.is_string()) {
    if (a.markup()) return runtime.String(EscapeFormatArguments(runtime, a, b), true);
    return runtime.String(FormatPercent(runtime, a.text(), b));
  }
  Unsupported(runtime, op, a, b);
}

Value Negate(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  if (value.Is(Kind::kFloat)) return Value::Float(-value.real());
  if (!value.is_integral()) runtime.Fail(fmt::format("bad operand type for unary -: '{}'", TypeName(value)));
  return IntegerArithmetic(runtime, BinaryOperator::kSubtract, 0, value.integer());
}

Value Positive(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  if (value.Is(Kind::kFloat)) return value;
  if (!value.is_integral()) runtime.Fail(fmt::format("bad operand type for unary +: '{}'", TypeName(value)));
  return Value::Int(value.integer());
}

bool Less(Runtime& runtime, const Value& a, const Value& b) {
  runtime.Step();
  if (a.is_integral() && b.is_integral()) return a.integer() < b.integer();
  if (a.is_number() && b.is_number()) return a.real() < b.real();
  if (a.is_string() && b.is_string()) {
    runtime.Work(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();  // byte order of UTF-8 is code point order
  }
  if (a.kind() == b.kind() && (a.Is(Kind::kList) || a.Is(Kind::kTuple))) return LessItems(runtime, a, b);
  Unordered(runtime, a, b);
}

bool Compare(Runtime& runtime, Comparison op, const Value& a, const Value& b) {
  switch (op) {
    case Comparison::kEqual: return Equal(runtime, a, b);
    case Comparison::kNotEqual: return !Equal(runtime, a, b);
    case Comparison::kLess: return Less(runtime, a, b);
    case Comparison::kGreater: return Less(runtime, b, a);
    case Comparison::kLessEqual: return !Less(runtime, b, a) && !IsNan(a) && !IsNan(b);
    case Comparison::kGreaterEqual: return !Less(runtime, a, b) && !IsNan(a) && !IsNan(b);
    case Comparison::kIn: return Contains(runtime, b, a);
    case Comparison::kNotIn: return !Contains(runtime, b, a);
  }
  return false;
}

bool Contains(Runtime& runtime, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kString:
      if (!item.is_string()) {
        runtime.Fail(fmt::format("'in <string>' requires string as left operand, not {}", TypeName(item)));
      }
      runtime.Work(container.text().size());
      return container.text().find(item.text()) != std::string_view::npos;
    case Kind::kDict:
      if (!IsHashable(runtime, item)) runtime.Fail(fmt::format("unhashable type: '{}'", TypeName(item)));
      runtime.Step(container.As<DictObject>().entries.size() / 16);
      return container.As<DictObject>().Find(runtime, item) != nullptr;
    case Kind::kDictView:
      if (container.As<DictViewObject>().view == DictViewKind::kKeys) {
        return Contains(runtime, container.As<DictViewObject>().dict, item);
      }
      break;
    default: break;
  }
  if (!IsIterable(container)) {
    runtime.Fail(fmt::format("argument of type '{}' is not iterable", TypeName(container)));
  }
  Iterator iterator(runtime, container);
  Value candidate;
  while (iterator.Next(&candidate)) {
    if (Equal(runtime, candidate, item)) return true;
  }
  return false;
}

bool IsHashable(Runtime& runtime, const Value& value) {
  switch (value.kind()) {
    case Kind::kList:
    case Kind::kDict:
    case Kind::kDictView: return false;
    case Kind::kTuple: {
      runtime.Step();
      const auto& items = value.As<ListObject>().items;
      return std::all_of(items.begin(), items.end(), [&](const Value& v) { return IsHashable(runtime, v); });
    }
    default: return true;
  }
}

namespace {

// Python's slice.indices(): clamps start and stop for a sequence of `size`.
struct SliceBounds {
  int64_t start = 0;
  int64_t step = 1;
  int64_t count = 0;
};

int64_t SliceIndex(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  if (!value.is_integral()) {
    runtime.Fail("slice indices must be integers or None or have an __index__ method");
  }
  constexpr Integer kFar = std::numeric_limits<int64_t>::max() / 4;
  return static_cast<int64_t>(std::clamp(value.integer(), -kFar, kFar));
}

SliceBounds BoundsOf(Runtime& runtime, int64_t size, const Value& start, const Value& stop,
                     const Value& step) {
  SliceBounds bounds;
  bounds.step = step.is_none() ? 1 : SliceIndex(runtime, step);
  if (bounds.step == 0) runtime.Fail("slice step cannot be zero");
  const bool forward = bounds.step > 0;
  const int64_t low = forward ? 0 : -1;
  const int64_t high = forward ? size : size - 1;
  const auto place = [&](const Value& v, int64_t fallback) {
    if (v.is_none()) return fallback;
    int64_t i = SliceIndex(runtime, v);
    if (i < 0) i += size;
    return std::clamp(i, low, high);
  };
  bounds.start = place(start, forward ? low : high);
  const int64_t end = place(stop, forward ? high : low);
  const int64_t span = forward ? end - bounds.start : bounds.start - end;
  const int64_t stride = forward ? bounds.step : -bounds.step;
  bounds.count = span > 0 ? (span + stride - 1) / stride : 0;
  return bounds;
}

Value SliceString(Runtime& runtime, const Value& value, const SliceBounds& bounds) {
  const auto& string = value.As<StringObject>();
  const std::string_view text = string.text;
  runtime.Work(text.size());
  if (bounds.count == 0) return runtime.String({}, string.markup);
  if (bounds.step == 1) {
    const size_t begin = string.ascii() ? static_cast<size_t>(bounds.start)
                                        : OffsetOf(text, static_cast<size_t>(bounds.start));
    const auto rest = text.substr(begin);
    const size_t bytes = string.ascii() ? static_cast<size_t>(bounds.count)
                                        : OffsetOf(rest, static_cast<size_t>(bounds.count));
    runtime.Require(bytes);
    return runtime.String(std::string(rest.substr(0, bytes)), string.markup);
  }
  runtime.Require(text.size() * 4);
  std::u32string code_points;
  for (size_t i = 0; i < text.size();) code_points.push_back(NextCodePoint(text, &i));
  std::string out;
  int64_t at = bounds.start;
  for (int64_t i = 0; i < bounds.count; ++i, at += bounds.step) {
    AppendUtf8(code_points[static_cast<size_t>(at)], &out);
  }
  return runtime.String(std::move(out), string.markup);
}

Value IndexItem(Runtime& runtime, const Value& value, Integer index, bool* found) {
  *found = false;
  const int64_t size = Length(value);
  if (index < 0) index += size;
  if (index < 0 || index >= size) return Value();
  *found = true;
  const auto i = static_cast<size_t>(index);
  if (value.Is(Kind::kRange)) {
    const auto& range = value.As<RangeObject>();
    return Value::Int(Integer{range.start} + Integer{range.step} * static_cast<int64_t>(i));
  }
  if (!value.is_string()) return value.As<ListObject>().items[i];
  const auto& string = value.As<StringObject>();
  const std::string_view text = string.text;
  if (string.ascii()) return runtime.String(std::string(1, text[i]), string.markup);
  runtime.Work(text.size());
  const size_t begin = OffsetOf(text, i);
  size_t end = begin;
  NextCodePoint(text, &end);
  return runtime.String(std::string(text.substr(begin, end - begin)), string.markup);
}

// obj[key] as Python does it; `found` is false where Python raises LookupError or TypeError.
Value Subscript(Runtime& runtime, const Value& value, const Value& key, bool* found) {
  *found = false;
  switch (value.kind()) {
    case Kind::kDict: {
      if (!IsHashable(runtime, key)) return Value();
      runtime.Step(value.As<DictObject>().entries.size() / 16);
      const Value* item = value.As<DictObject>().Find(runtime, key);
      *found = item != nullptr;
      return item != nullptr ? *item : Value();
    }
    case Kind::kString:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kRange:
      if (!key.is_integral()) return Value();
      return IndexItem(runtime, value, key.integer(), found);
    default: return Value();
  }
}

// Attributes that every Python object has, as far as templates may try them: the sandbox hides them.
bool IsObjectAttribute(std::string_view name) {
  return name == "__class__" || name == "__init__" || name == "__doc__" || name == "__eq__" ||
         name == "__hash__" || name == "__str__" || name == "__repr__" || name == "__new__" ||
         name == "__module__";
}

// What getattr() answers, methods and properties; `found` is false where it raises AttributeError.
Value NativeAttribute(Runtime& runtime, const Value& value, std::string_view name, bool* found) {
  *found = true;
  if (value.Is(Kind::kNamespace)) {
    const Value* attribute = value.Pointer<NamespaceObject>()->Find(name);
    if (attribute != nullptr) {
      if (name.starts_with('_')) return runtime.Unsafe(name, "Namespace");
      return *attribute;
    }
    *found = false;
    return Value();
  }
  if (value.Is(Kind::kTuple) && value.As<ListObject>().group) {
    if (name == "grouper") return value.As<ListObject>().items[0];
    if (name == "list") return value.As<ListObject>().items[1];
  }
  if (value.is_number()) {
    if (name == "real") return value.is_integral() ? Value::Int(value.integer()) : value;
    if (name == "imag") return value.is_integral() ? Value::Int(0) : Value::Float(0);
  }
  if (const Method* method = FindMethod(value, name)) {
    if (method->forbidden) return runtime.Unsafe(name, TypeName(value));
    return runtime.Bound(value, method);
  }
  *found = false;
  return Value();
}

}  // namespace

Value GetAttribute(Runtime& runtime, const Value& value, std::string_view name) {
  if (IsObjectAttribute(name)) return runtime.Unsafe(name, TypeName(value));
  if (value.is_undefined()) runtime.FailUndefined(value);
  bool found = false;
  Value attribute = NativeAttribute(runtime, value, name, &found);
  if (found) return attribute;
  if (value.Is(Kind::kDict)) {
    runtime.Step(value.As<DictObject>().entries.size() / 16);
    if (const Value* item = value.As<DictObject>().Find(name)) return *item;
  }
  return runtime.Undefined(std::string(name), std::string(TypeName(value)));
}

Value GetItem(Runtime& runtime, const Value& value, const Value& key) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  bool found = false;
  Value item = Subscript(runtime, value, key, &found);
  if (found) return item;
  if (key.is_string()) {
    item = NativeAttribute(runtime, value, key.text(), &found);
    if (found) return item;
  }
  return runtime.Undefined(key.is_string() ? std::string(key.text()) : Repr(runtime, key),
                           std::string(TypeName(value)));
}

Value Slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  if (!IsSequence(value) && !value.Is(Kind::kRange)) {
    runtime.Fail(fmt::format("'{}' object is not subscriptable", TypeName(value)));
  }
  const SliceBounds bounds = BoundsOf(runtime, Length(value), start, stop, step);
  if (value.is_string()) return SliceString(runtime, value, bounds);
  if (value.Is(Kind::kRange)) {
    const auto& range = value.As<RangeObject>();
    const int64_t first = range.start + bounds.start * range.step;
    // A step too far to multiply has at most one item.
    const int64_t stride = bounds.count > 1 ? range.step * bounds.step : 1;
    return runtime.Range(first, bounds.count == 0 ? first : first + stride * bounds.count, stride);
  }
  const auto& items = value.As<ListObject>().items;
  runtime.Require(static_cast<uint64_t>(bounds.count) * sizeof(Value));
  std::vector<Value> out;
  out.reserve(static_cast<size_t>(bounds.count));
  int64_t at = bounds.start;
  for (int64_t i = 0; i < bounds.count; ++i, at += bounds.step) out.push_back(items[static_cast<size_t>(at)]);
  return runtime.List(std::move(out), value.kind());
}

}  // namespace tidepool::templates
