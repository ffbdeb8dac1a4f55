// jinja2's tests ("is defined") and the functions templates may call.
#include <fmt/format.h>

#include <cmath>
#include <ctime>

#include "models/templates/filter_table.h"
#include "models/templates/operators.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

template <bool (*kIs)(const Value&)>
bool Simple(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "test", arguments, {});
  return kIs(subject);
}

template <Comparison kOperator>
bool Compares(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "test", arguments, {"*other"}, 1);
  return Compare(runtime, kOperator, subject, p[0]);
}

bool IsDefined(const Value& v) { return !v.is_undefined(); }
bool IsUndefined(const Value& v) { return v.is_undefined(); }
bool IsNone(const Value& v) { return v.is_none(); }
bool IsBoolean(const Value& v) { return v.Is(Kind::kBool); }
bool IsTrue(const Value& v) { return v.Is(Kind::kBool) && v.boolean(); }
bool IsFalse(const Value& v) { return v.Is(Kind::kBool) && !v.boolean(); }
bool IsInteger(const Value& v) { return v.Is(Kind::kInteger); }
bool IsFloat(const Value& v) { return v.Is(Kind::kFloat); }
bool IsNumber(const Value& v) { return v.is_number(); }
bool IsString(const Value& v) { return v.is_string(); }
bool IsMapping(const Value& v) { return v.Is(Kind::kDict); }
bool IsEscaped(const Value& v) { return v.markup(); }
bool IsIterableTest(const Value& v) { return IsIterable(v) || v.Is(Kind::kLoop); }
// len() and __getitem__: so an undefined is a sequence too.
bool IsSequence(const Value& v) {
  return v.is_undefined() || v.is_string() || v.Is(Kind::kList) || v.Is(Kind::kTuple) || v.Is(Kind::kDict) ||
         v.Is(Kind::kRange);
}
bool IsCallable(const Value& v) {
  return v.is_undefined() || v.Is(Kind::kMacro) || v.Is(Kind::kFunction) || v.Is(Kind::kMethod) ||
         v.Is(Kind::kLoop);
}

bool IsUpperTest(Runtime& runtime, const Value& subject, const Arguments&) {
  return IsUpperText(ToText(runtime, subject));
}
bool IsLowerTest(Runtime& runtime, const Value& subject, const Arguments&) {
  return IsLowerText(ToText(runtime, subject));
}

bool RemainderIs(Runtime& runtime, const Value& subject, const Value& divisor, int64_t wanted) {
  return Equal(runtime, Binary(runtime, BinaryOperator::kModulo, subject, divisor), Value::Int(wanted));
}
bool IsOdd(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "odd", arguments, {});
  return RemainderIs(runtime, subject, Value::Int(2), 1);
}
bool IsEven(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "even", arguments, {});
  return RemainderIs(runtime, subject, Value::Int(2), 0);
}
bool IsDivisibleBy(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "divisibleby", arguments, {"num"}, 1);
  return RemainderIs(runtime, subject, p[0], 0);
}

bool IsSameAs(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "sameas", arguments, {"other"}, 1);
  if (subject.kind() != p[0].kind()) return false;
  if (subject.object() != nullptr) {
    // CPython keeps one empty string, one empty tuple, and one string of each Latin-1 character.
    if (subject.is_string() && subject.As<StringObject>().length <= 1) return subject.text() == p[0].text();
    return subject.identity() == p[0].identity();
  }
  if (subject.Is(Kind::kFloat)) return false;
  return Equal(runtime, subject, p[0]);
}

bool IsIn(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "in", arguments, {"seq"}, 1);
  return Contains(runtime, p[0], subject);
}

bool IsFilter(Runtime& runtime, const Value& subject, const Arguments&) {
  if (!IsHashable(runtime, subject)) runtime.Fail(fmt::format("unhashable type: '{}'", TypeName(subject)));
  return subject.is_string() && FindFilter(subject.text()) != nullptr;
}
bool IsTest(Runtime& runtime, const Value& subject, const Arguments&) {
  if (!IsHashable(runtime, subject)) runtime.Fail(fmt::format("unhashable type: '{}'", TypeName(subject)));
  return subject.is_string() && FindTest(subject.text()) != nullptr;
}

struct TestEntry {
  std::string_view name;
  Test call;
};

constexpr TestEntry kTests[] = {
    {"!=", Compares<Comparison::kNotEqual>},
    {"<", Compares<Comparison::kLess>},
    {"<=", Compares<Comparison::kLessEqual>},
    {"==", Compares<Comparison::kEqual>},
    {">", Compares<Comparison::kGreater>},
    {">=", Compares<Comparison::kGreaterEqual>},
    {"boolean", Simple<IsBoolean>},
    {"callable", Simple<IsCallable>},
    {"defined", Simple<IsDefined>},
    {"divisibleby", IsDivisibleBy},
    {"eq", Compares<Comparison::kEqual>},
    {"equalto", Compares<Comparison::kEqual>},
    {"escaped", Simple<IsEscaped>},
    {"even", IsEven},
    {"false", Simple<IsFalse>},
    {"filter", IsFilter},
    {"float", Simple<IsFloat>},
    {"ge", Compares<Comparison::kGreaterEqual>},
    {"greaterthan", Compares<Comparison::kGreater>},
    {"gt", Compares<Comparison::kGreater>},
    {"in", IsIn},
    {"integer", Simple<IsInteger>},
    {"iterable", Simple<IsIterableTest>},
    {"le", Compares<Comparison::kLessEqual>},
    {"lessthan", Compares<Comparison::kLess>},
    {"lower", IsLowerTest},
    {"lt", Compares<Comparison::kLess>},
    {"mapping", Simple<IsMapping>},
    {"ne", Compares<Comparison::kNotEqual>},
    {"none", Simple<IsNone>},
    {"number", Simple<IsNumber>},
    {"odd", IsOdd},
    {"sameas", IsSameAs},
    {"sequence", Simple<IsSequence>},
    {"string", Simple<IsString>},
    {"test", IsTest},
    {"true", Simple<IsTrue>},
    {"undefined", Simple<IsUndefined>},
    {"upper", IsUpperTest},
};

// ---- functions

Value RangeFunction(Runtime& runtime, const Arguments& arguments) {
  const Parameters p(runtime, "range", arguments, {"*start", "*stop", "*step"}, 1);
  for (size_t i = 0; i < 3; ++i) p.Int(i, 0);
  const int64_t step = p.Int(2, 1);
  if (step == 0) runtime.Fail("range() arg 3 must not be zero");
  const int64_t first = p.Int(0, 0);
  return p.has(1) ? runtime.Range(first, p.Int(1, 0), step) : runtime.Range(0, first, 1);
}

std::vector<std::pair<Value, Value>> DictEntries(Runtime& runtime, const Arguments& arguments) {
  if (arguments.positional.size() > 1) runtime.Fail("dict expected at most 1 argument");
  std::vector<std::pair<Value, Value>> entries;
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.is_undefined()) runtime.FailUndefined(source);
    if (source.Is(Kind::kDict)) {
      entries = source.As<DictObject>().entries;
    } else {
      for (const Value& pair : Collect(runtime, source)) {
        auto parts = Collect(runtime, pair);
        if (parts.size() != 2) runtime.Fail("dictionary update sequence element must have length 2");
        entries.emplace_back(std::move(parts[0]), std::move(parts[1]));
      }
    }
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(runtime.String(name), value);
  return entries;
}

Value DictFunction(Runtime& runtime, const Arguments& arguments) {
  return runtime.Dict(DictEntries(runtime, arguments));
}

Value NamespaceFunction(Runtime& runtime, const Arguments& arguments) {
  const Value dict = DictFunction(runtime, arguments);
  std::vector<std::pair<std::string, Value>> attributes;
  for (const auto& [key, value] : dict.As<DictObject>().entries) {
    if (!key.is_string()) continue;  // cannot be read back as an attribute
    if (key.text().starts_with('_')) {
      runtime.Fail("Chat templates cannot store underscore-prefixed attributes on a namespace");
    }
    attributes.emplace_back(std::string(key.text()), value);
  }
  return runtime.Namespace(std::move(attributes));
}

Value RaiseException(Runtime& runtime, const Arguments& arguments) {
  const Parameters p(runtime, "raise_exception", arguments, {"message"}, 1);
  runtime.Fail(ToText(runtime, p[0]));
}

// datetime.now().strftime(format): the local time of the machine, as transformers does.
Value StrftimeNow(Runtime& runtime, const Arguments& arguments) {
  const Parameters p(runtime, "strftime_now", arguments, {"format"}, 1);
  const auto format = p.Text(0, {});
  if (format.size() > 1024) runtime.Fail("strftime_now: the format is too long", "template_limit");
  const auto now = static_cast<std::time_t>(runtime.now_unix_s());
  std::tm local{};
  if (localtime_r(&now, &local) == nullptr) runtime.Fail("strftime_now: the clock is out of range");
  // Python answers these itself: microseconds, and an empty zone for a naive time.
  std::string plain;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%' || i + 1 >= format.size()) {
      plain += format[i];
      continue;
    }
    const char letter = format[++i];
    if (letter == 'f')
      plain += "000000";
    else if (letter == 'z' || letter == 'Z')
      continue;
    else
      plain += {'%', letter};
  }
  // A marker in front tells an empty result from a full buffer.
  plain.insert(0, "|");
  std::string out(plain.size() * 64 + 256, '\0');
  const size_t size = std::strftime(out.data(), out.size(), plain.c_str(), &local);
  if (size == 0) runtime.Fail("strftime_now: the result is too long", "template_limit");
  return runtime.String(out.substr(1, size - 1));
}

constexpr Function kFunctions[] = {
    {"dict", DictFunction},   {"namespace", NamespaceFunction}, {"raise_exception", RaiseException},
    {"range", RangeFunction}, {"strftime_now", StrftimeNow},
};

}  // namespace

Test FindTest(std::string_view name) {
  for (const TestEntry& entry : kTests) {
    if (entry.name == name) return entry.call;
  }
  return nullptr;
}

const Function* FindFunction(std::string_view name) {
  for (const Function& function : kFunctions) {
    if (function.name == name) return &function;
  }
  return nullptr;
}

}  // namespace tidepool::templates
