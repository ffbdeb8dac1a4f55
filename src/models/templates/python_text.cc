// str(), repr() and json.dumps() of values, as CPython prints them.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "models/templates/operators.h"
#include "models/templates/syntax.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {

std::string IntegerText(Integer value) { return fmt::format("{}", value); }

std::string FloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific).ptr;
  std::string_view text(buffer, static_cast<size_t>(end - buffer));
  const bool negative = text.front() == '-';
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  std::string digits(1, text[0]);
  if (e > 2) digits.append(text.substr(2, e - 2));
  int exponent = 0;
  const char* exponent_begin = text.data() + e + 1 + (text[e + 1] == '+' ? 1 : 0);
  std::from_chars(exponent_begin, text.data() + text.size(), exponent);
  std::string out;
  // repr() uses the exponent form below 1e-4 and from 1e16 on.
  if (exponent < -4 || exponent >= 16) {
    out = digits.substr(0, 1);
    if (digits.size() > 1) out += "." + digits.substr(1);
    out += fmt::format("e{}{:02d}", exponent < 0 ? '-' : '+', std::abs(exponent));
  } else if (exponent < 0) {
    out = "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    out = digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
  }
  return negative ? "-" + out : out;
}

std::string StringRepr(std::string_view text) {
  const bool single = text.find('\'') != std::string_view::npos;
  const bool twice = text.find('"') != std::string_view::npos;
  const char quote = single && !twice ? '"' : '\'';
  std::string out(1, quote);
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out.push_back('\\');
      out.push_back(static_cast<char>(c));
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c >= 0x20 && c < 0x7F) {
      out.push_back(static_cast<char>(c));
    } else if (c >= 0x80 && IsPrintable(c)) {
      AppendUtf8(c, &out);
    } else if (c <= 0xFF) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c <= 0xFFFF) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  out.push_back(quote);
  return out;
}

std::string EscapeHtml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '\'': out += "&#39;"; break;
      case '"': out += "&#34;"; break;
      default: out.push_back(c);
    }
  }
  return out;
}

namespace {

class Printer {
 public:
  explicit Printer(Runtime& runtime) : runtime_(runtime) {}

  void Print(const Value& value) {
    // A namespace may hold itself, so this depth is not bounded by kMaxDataDepth alone.
    Runtime::Depth depth(runtime_, runtime_.position());
    Check();
    switch (value.kind()) {
      case Kind::kUndefined: out_ += "Undefined"; break;
      case Kind::kString:
        runtime_.Work(value.text().size() * 4);
        runtime_.Require(out_.size() + value.text().size());
        if (value.markup()) out_ += "Markup(";
        out_ += StringRepr(value.text());
        if (value.markup()) out_ += ')';
        break;
      case Kind::kList: PrintItems('[', value.As<ListObject>().items, ']'); break;
      case Kind::kTuple: PrintItems('(', value.As<ListObject>().items, ')'); break;
      case Kind::kDict: PrintDict(value.As<DictObject>()); break;
      case Kind::kDictView: PrintView(value.As<DictViewObject>()); break;
      case Kind::kRange: PrintRange(value.As<RangeObject>()); break;
      case Kind::kNamespace: PrintNamespace(*value.Pointer<NamespaceObject>()); break;
      default: out_ += Plain(value);
    }
  }

  static std::string Plain(const Value& value) {
    switch (value.kind()) {
      case Kind::kNone: return "None";
      case Kind::kBool: return value.boolean() ? "True" : "False";
      case Kind::kInteger: return IntegerText(value.integer());
      case Kind::kFloat: return FloatRepr(value.real());
      // Python prints an address for these, which no template can mean.
      case Kind::kGenerator: return fmt::format("<generator object {}>", value.As<GeneratorObject>().name);
      case Kind::kFunction: return fmt::format("<function {}>", value.Pointer<Function>()->name);
      case Kind::kMethod: {
        const auto& bound = value.As<BoundMethodObject>();
        return fmt::format("<built-in method {} of {} object>", bound.method->name, TypeName(bound.self));
      }
      case Kind::kMacro: {
        const auto& name = value.Pointer<MacroObject>()->definition->text;
        return name.empty() ? "<Macro anonymous>" : "<Macro " + StringRepr(name) + ">";
      }
      case Kind::kLoop: return "<LoopContext>";
      default: return fmt::format("<{}>", TypeName(value));
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  void Check() {
    if (out_.size() > checked_ + 65536) {
      runtime_.Require(out_.size());
      checked_ = out_.size();
    }
  }
  void PrintItems(char open, const std::vector<Value>& items, char close) {
    out_ += open;
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += ", ";
      Print(items[i]);
    }
    if (open == '(' && items.size() == 1) out_ += ',';
    out_ += close;
  }
  void PrintDict(const DictObject& dict) {
    out_ += '{';
    for (size_t i = 0; i < dict.entries.size(); ++i) {
      if (i > 0) out_ += ", ";
      Print(dict.entries[i].first);
      out_ += ": ";
      Print(dict.entries[i].second);
    }
    out_ += '}';
  }
  void PrintView(const DictViewObject& view) {
    constexpr std::string_view kNames[] = {"dict_items", "dict_keys", "dict_values"};
    out_ += kNames[static_cast<size_t>(view.view)];
    out_ += "([";
    const auto& entries = view.dict.As<DictObject>().entries;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += ", ";
      if (view.view == DictViewKind::kItems) out_ += '(';
      if (view.view != DictViewKind::kValues) Print(entries[i].first);
      if (view.view == DictViewKind::kItems) out_ += ", ";
      if (view.view != DictViewKind::kKeys) Print(entries[i].second);
      if (view.view == DictViewKind::kItems) out_ += ')';
    }
    out_ += "])";
  }
  void PrintRange(const RangeObject& range) {
    out_ += fmt::format("range({}, {}", range.start, range.stop);
    if (range.step != 1) out_ += fmt::format(", {}", range.step);
    out_ += ')';
  }
  void PrintNamespace(const NamespaceObject& ns) {
    out_ += "<Namespace {";
    bool first = true;
    for (const auto& [name, value] : ns.attributes) {
      if (!first) out_ += ", ";
      first = false;
      out_ += StringRepr(name) + ": ";
      Print(value);
    }
    out_ += "}>";
  }

  Runtime& runtime_;
  std::string out_;
  size_t checked_ = 0;
};

}  // namespace

std::string Repr(Runtime& runtime, const Value& value) {
  Printer printer(runtime);
  printer.Print(value);
  return printer.Take();
}

void AppendText(Runtime& runtime, const Value& value, std::string* out) {
  switch (value.kind()) {
    case Kind::kString:
      runtime.Work(value.text().size());
      out->append(value.text());
      return;
    case Kind::kUndefined: return;
    case Kind::kInteger: out->append(IntegerText(value.integer())); return;
    default: out->append(Repr(runtime, value));
  }
}

std::string ToText(Runtime& runtime, const Value& value) {
  std::string out;
  if (value.is_string()) runtime.Require(value.text().size());
  AppendText(runtime, value, &out);
  return out;
}

namespace {

class JsonWriter {
 public:
  JsonWriter(Runtime& runtime, const JsonStyle& style) : runtime_(runtime), style_(style) {}

  void Write(const Value& value, uint32_t level) {
    Runtime::Depth depth(runtime_, runtime_.position());
    if (out_.size() > checked_ + 65536) {
      runtime_.Require(out_.size());
      checked_ = out_.size();
    }
    switch (value.kind()) {
      case Kind::kNone: out_ += "null"; break;
      case Kind::kBool: out_ += value.boolean() ? "true" : "false"; break;
      case Kind::kInteger: out_ += IntegerText(value.integer()); break;
      case Kind::kFloat: out_ += Number(value.real()); break;
      case Kind::kString: WriteString(value.text()); break;
      case Kind::kList:
      case Kind::kTuple: WriteList(value.As<ListObject>().items, level); break;
      case Kind::kDict: WriteDict(value.As<DictObject>(), level); break;
      default: runtime_.Fail(fmt::format("Object of type {} is not JSON serializable", TypeName(value)));
    }
  }

  std::string Take() { return std::move(out_); }

 private:
  static std::string Number(double value) {
    if (std::isnan(value)) return "NaN";
    if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
    return FloatRepr(value);
  }

  void WriteString(std::string_view text) {
    runtime_.Work(text.size() * 2);
    runtime_.Require(out_.size() + text.size());
    out_ += '"';
    for (size_t i = 0; i < text.size();) {
      const auto byte = static_cast<uint8_t>(text[i]);
      if (byte >= 0x80) {
        const size_t begin = i;
        const char32_t c = NextCodePoint(text, &i);
        if (style_.ensure_ascii) {
          WriteEscaped(c);
        } else {
          out_.append(text.substr(begin, i - begin));
        }
        continue;
      }
      ++i;
      switch (byte) {
        case '"': out_ += "\\\""; break;
        case '\\': out_ += "\\\\"; break;
        case '\n': out_ += "\\n"; break;
        case '\r': out_ += "\\r"; break;
        case '\t': out_ += "\\t"; break;
        case '\b': out_ += "\\b"; break;
        case '\f': out_ += "\\f"; break;
        default:
          if (byte < 0x20) {
            WriteEscaped(byte);
          } else {
            out_ += static_cast<char>(byte);
          }
      }
    }
    out_ += '"';
  }

  void WriteEscaped(char32_t c) {
    if (c < 0x10000) {
      out_ += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      const uint32_t v = static_cast<uint32_t>(c) - 0x10000;
      out_ += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (v >> 10), 0xDC00 + (v & 0x3FF));
    }
  }

  void NewLine(uint32_t level) {
    if (!style_.indented) return;
    out_ += '\n';
    for (uint32_t i = 0; i < level; ++i) out_ += style_.indent;
  }

  void WriteList(const std::vector<Value>& items, uint32_t level) {
    if (items.empty()) {
      out_ += "[]";
      return;
    }
    out_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      Write(items[i], level + 1);
    }
    NewLine(level);
    out_ += ']';
  }

  std::string KeyText(const Value& key) {
    switch (key.kind()) {
      case Kind::kString: return std::string(key.text());
      case Kind::kNone: return "null";
      case Kind::kBool: return key.boolean() ? "true" : "false";
      case Kind::kInteger: return IntegerText(key.integer());
      case Kind::kFloat: return Number(key.real());
      default:
        runtime_.Fail(fmt::format("keys must be str, int, float, bool or None, not {}", TypeName(key)));
    }
  }

  void WriteDict(const DictObject& dict, uint32_t level) {
    if (dict.entries.empty()) {
      out_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> entries;
    entries.reserve(dict.entries.size());
    for (const auto& entry : dict.entries) entries.push_back(&entry);
    if (style_.sort_keys) {
      const auto order = StableOrder(entries.size(), [&](size_t a, size_t b) {
        return Less(runtime_, entries[a]->first, entries[b]->first);
      });
      const auto unsorted = entries;
      for (size_t i = 0; i < order.size(); ++i) entries[i] = unsorted[order[i]];
    }
    out_ += '{';
    for (size_t i = 0; i < entries.size(); ++i) {
      if (i > 0) out_ += style_.item_separator;
      NewLine(level + 1);
      WriteString(KeyText(entries[i]->first));
      out_ += style_.key_separator;
      Write(entries[i]->second, level + 1);
    }
    NewLine(level);
    out_ += '}';
  }

  Runtime& runtime_;
  const JsonStyle& style_;
  std::string out_;
  size_t checked_ = 0;
};

}  // namespace

std::string ToJson(Runtime& runtime, const Value& value, const JsonStyle& style) {
  JsonWriter writer(runtime, style);
  writer.Write(value, 0);
  return writer.Take();
}

}  // namespace tidepool::templates
