// Python's operators, attribute and item access, str() and repr().
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "models/templates/runtime.h"
#include "models/templates/value.h"

namespace tidepool::templates {

enum class BinaryOperator : uint8_t { kAdd, kSubtract, kMultiply, kDivide, kFloorDivide, kModulo, kPower };
enum class Comparison : uint8_t {
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

Value Binary(Runtime& runtime, BinaryOperator op, const Value& a, const Value& b);
Value Negate(Runtime& runtime, const Value& value);
Value Positive(Runtime& runtime, const Value& value);
bool Compare(Runtime& runtime, Comparison op, const Value& a, const Value& b);
bool Less(Runtime& runtime, const Value& a, const Value& b);  // Python's <, throws for unordered types
bool Contains(Runtime& runtime, const Value& container, const Value& item);
bool IsHashable(Runtime& runtime, const Value& value);

// jinja2's environment.getattr (attribute, then item) and environment.getitem (item, then attribute).
Value GetAttribute(Runtime& runtime, const Value& value, std::string_view name);
Value GetItem(Runtime& runtime, const Value& value, const Value& key);
Value Slice(Runtime& runtime, const Value& value, const Value& start, const Value& stop, const Value& step);
// The method of a built-in type, or null.
const Method* FindMethod(const Value& value, std::string_view name);
const Method* FindStringMethod(std::string_view name);

// Python's str() and repr(). Charged as work; the result's size is checked against the memory limit.
std::string ToText(Runtime& runtime, const Value& value);
std::string Repr(Runtime& runtime, const Value& value);
std::string FloatRepr(double value);
std::string IntegerText(Integer value);
std::string StringRepr(std::string_view text);
// Appends str(value); the fast way for strings.
void AppendText(Runtime& runtime, const Value& value, std::string* out);

std::string ReplaceText(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                        int64_t count);  // count < 0: all
bool IsUpperText(std::string_view text);
bool IsLowerText(std::string_view text);

// html.escape as markupsafe does it: & < > ' "
std::string EscapeHtml(std::string_view text);

// "…" % value and "…".format(…).
std::string FormatPercent(Runtime& runtime, std::string_view format, const Value& value);
std::string FormatBraces(Runtime& runtime, std::string_view format, const Arguments& arguments);

// The order of n items as Python's sorted() gives it: stable, and safe when `less` contradicts itself (NaN).
template <typename LessAt>
std::vector<size_t> StableOrder(size_t n, LessAt&& less) {
  std::vector<size_t> order(n);
  std::vector<size_t> merged(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  for (size_t width = 1; width < n; width *= 2) {
    for (size_t begin = 0; begin < n; begin += 2 * width) {
      const size_t middle = std::min(begin + width, n);
      const size_t end = std::min(begin + 2 * width, n);
      size_t left = begin;
      size_t right = middle;
      for (size_t out = begin; out < end; ++out) {
        const bool take_right = right < end && (left == middle || less(order[right], order[left]));
        merged[out] = take_right ? order[right++] : order[left++];
      }
    }
    order.swap(merged);
  }
  return order;
}

// json.dumps and json.loads.
struct JsonStyle {
  bool ensure_ascii = false;
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};
std::string ToJson(Runtime& runtime, const Value& value, const JsonStyle& style);

// The names a template may use. Null when unknown.
using Filter = Value (*)(Runtime&, const Value& subject, const Arguments&);
using Test = bool (*)(Runtime&, const Value& subject, const Arguments&);
Filter FindFilter(std::string_view name);
Test FindTest(std::string_view name);
const Function* FindFunction(std::string_view name);

}  // namespace tidepool::templates
