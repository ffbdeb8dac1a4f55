// Methods of str, dict, list, tuple and range that templates may call.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "models/templates/operators.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {
namespace {

std::string_view TextOf(Runtime& runtime, std::string_view function, const Value& value) {
  if (value.is_undefined()) runtime.FailUndefined(value);
  if (!value.is_string()) runtime.Fail(fmt::format("{}: expected str, got {}", function, TypeName(value)));
  return value.text();
}

Value Keep(Runtime& runtime, const Value& self, std::string_view text) {
  runtime.Require(text.size());
  return runtime.String(std::string(text), self.markup());
}

Value Strip(Runtime& runtime, const Value& self, const Arguments& arguments, std::string_view name, bool left,
            bool right) {
  const Parameters p(runtime, name, arguments, {"*chars"});
  runtime.Work(self.text().size());
  if (!p.has(0) || p[0].is_none()) return Keep(runtime, self, StripSpace(self.text(), left, right));
  return Keep(runtime, self, StripChars(self.text(), p.Text(0, {}), left, right));
}

Value StripMethod(Runtime& r, const Value& self, const Arguments& a) {
  return Strip(r, self, a, "strip", true, true);
}
Value LstripMethod(Runtime& r, const Value& self, const Arguments& a) {
  return Strip(r, self, a, "lstrip", true, false);
}
Value RstripMethod(Runtime& r, const Value& self, const Arguments& a) {
  return Strip(r, self, a, "rstrip", false, true);
}

// Pieces of str.split() with whitespace: runs count once, the ends are dropped.
std::vector<std::string_view> SplitSpace(std::string_view text, int64_t most) {
  std::vector<std::string_view> pieces;
  size_t i = 0;
  while (true) {
    size_t begin = i;
    while (begin < text.size()) {
      size_t next = begin;
      if (!IsSpace(NextCodePoint(text, &next))) break;
      begin = next;
    }
    if (begin >= text.size()) return pieces;
    if (most >= 0 && static_cast<int64_t>(pieces.size()) >= most) {
      pieces.push_back(StripSpace(text.substr(begin), false, true));
      return pieces;
    }
    size_t end = begin;
    while (end < text.size()) {
      size_t next = end;
      if (IsSpace(NextCodePoint(text, &next))) break;
      end = next;
    }
    pieces.push_back(text.substr(begin, end - begin));
    i = end;
  }
}

std::vector<std::string_view> RsplitSpace(std::string_view text, int64_t most) {
  std::vector<std::string_view> pieces = SplitSpace(text, -1);
  if (most < 0 || static_cast<int64_t>(pieces.size()) <= most) return pieces;
  const size_t kept = static_cast<size_t>(most);
  const auto& last = pieces[pieces.size() - kept - 1];
  const auto head =
      StripSpace(text.substr(0, static_cast<size_t>(last.data() - text.data()) + last.size()), true, false);
  std::vector<std::string_view> out{head};
  out.insert(out.end(), pieces.end() - static_cast<int64_t>(kept), pieces.end());
  return out;
}

std::vector<std::string_view> SplitText(std::string_view text, std::string_view separator, int64_t most) {
  std::vector<std::string_view> pieces;
  size_t begin = 0;
  while (most < 0 || static_cast<int64_t>(pieces.size()) < most) {
    const size_t at = text.find(separator, begin);
    if (at == std::string_view::npos) break;
    pieces.push_back(text.substr(begin, at - begin));
    begin = at + separator.size();
  }
  pieces.push_back(text.substr(begin));
  return pieces;
}

std::vector<std::string_view> RsplitText(std::string_view text, std::string_view separator, int64_t most) {
  std::vector<std::string_view> pieces;
  size_t end = text.size();
  while (most < 0 || static_cast<int64_t>(pieces.size()) < most) {
    if (end < separator.size()) break;
    const size_t at = text.rfind(separator, end - separator.size());
    if (at == std::string_view::npos) break;
    pieces.push_back(text.substr(at + separator.size(), end - at - separator.size()));
    end = at;
  }
  pieces.push_back(text.substr(0, end));
  std::reverse(pieces.begin(), pieces.end());
  return pieces;
}

Value ListOf(Runtime& runtime, const Value& self, const std::vector<std::string_view>& pieces) {
  runtime.Require(pieces.size() * (sizeof(Value) + sizeof(StringObject)));
  std::vector<Value> items;
  items.reserve(pieces.size());
  for (const auto piece : pieces) {
    runtime.Step();
    items.push_back(Keep(runtime, self, piece));
  }
  return runtime.List(std::move(items));
}

Value SplitEither(Runtime& runtime, const Value& self, const Arguments& arguments, bool from_right) {
  const Parameters p(runtime, from_right ? "rsplit" : "split", arguments, {"sep", "maxsplit"});
  const auto text = self.text();
  runtime.Work(text.size());
  const int64_t most = p.Int(1, -1);
  if (!p.has(0) || p[0].is_none()) {
    return ListOf(runtime, self, from_right ? RsplitSpace(text, most) : SplitSpace(text, most));
  }
  const auto separator = p.Text(0, {});
  if (separator.empty()) runtime.Fail("empty separator");
  return ListOf(runtime, self,
                from_right ? RsplitText(text, separator, most) : SplitText(text, separator, most));
}

Value Split(Runtime& r, const Value& self, const Arguments& a) { return SplitEither(r, self, a, false); }
Value Rsplit(Runtime& r, const Value& self, const Arguments& a) { return SplitEither(r, self, a, true); }

Value SplitLines(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "splitlines", arguments, {"keepends"});
  const bool keep = p.Flag(0, false);
  const auto text = self.text();
  runtime.Work(text.size());
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t at = i;
    const char32_t c = NextCodePoint(text, &i);
    if (!IsLineBreak(c)) continue;
    if (c == '\r' && i < text.size() && text[i] == '\n') ++i;
    lines.push_back(text.substr(begin, (keep ? i : at) - begin));
    begin = i;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return ListOf(runtime, self, lines);
}

// startswith and endswith, with a string or a tuple of them, and start and end in code points.
std::string_view Window(Runtime& runtime, std::string_view text, const Parameters& p, size_t first,
                        bool* valid, size_t* offset) {
  *valid = true;
  *offset = 0;
  const auto size = static_cast<int64_t>(CountCodePoints(text));
  const auto bound = [&](size_t i, int64_t fallback) {
    if (!p.has(i) || p[i].is_none()) return fallback;
    int64_t v = p.Int(i, fallback);
    if (v < 0) v = v < -size ? 0 : v + size;
    return v;
  };
  const int64_t start = bound(first, 0);
  const int64_t end = std::min(bound(first + 1, size), size);
  if (start > end || start > size) {
    *valid = false;
    return {};
  }
  runtime.Work(text.size());
  *offset = OffsetOf(text, static_cast<size_t>(start));
  return text.substr(*offset, OffsetOf(text.substr(*offset), static_cast<size_t>(end - start)));
}

Value Affix(Runtime& runtime, const Value& self, const Arguments& arguments, bool at_end) {
  const std::string_view name = at_end ? "endswith" : "startswith";
  const Parameters p(runtime, name, arguments, {"*affix", "*start", "*end"}, 1);
  bool valid = false;
  size_t offset = 0;
  const auto text = Window(runtime, self.text(), p, 1, &valid, &offset);
  const auto matches = [&](const Value& affix) {
    const auto wanted = TextOf(runtime, name, affix);
    return valid && (at_end ? text.ends_with(wanted) : text.starts_with(wanted));
  };
  if (!p[0].Is(Kind::kTuple)) return Value::Bool(matches(p[0]));
  const auto& options = p[0].As<ListObject>().items;
  return Value::Bool(std::any_of(options.begin(), options.end(), matches));
}

Value StartsWith(Runtime& r, const Value& self, const Arguments& a) { return Affix(r, self, a, false); }
Value EndsWith(Runtime& r, const Value& self, const Arguments& a) { return Affix(r, self, a, true); }

Value FindIn(Runtime& runtime, const Value& self, const Arguments& arguments, std::string_view name,
             bool last, bool must) {
  const Parameters p(runtime, name, arguments, {"*sub", "*start", "*end"}, 1);
  const auto wanted = p.Text(0, {});
  bool valid = false;
  size_t offset = 0;
  const auto text = Window(runtime, self.text(), p, 1, &valid, &offset);
  const size_t at = !valid ? std::string_view::npos : (last ? text.rfind(wanted) : text.find(wanted));
  if (at == std::string_view::npos) {
    if (must) runtime.Fail("substring not found");
    return Value::Int(-1);
  }
  return Value::Int(static_cast<int64_t>(CountCodePoints(self.text().substr(0, offset + at))));
}

Value Find(Runtime& r, const Value& self, const Arguments& a) {
  return FindIn(r, self, a, "find", false, false);
}
Value Rfind(Runtime& r, const Value& self, const Arguments& a) {
  return FindIn(r, self, a, "rfind", true, false);
}
Value Index(Runtime& r, const Value& self, const Arguments& a) {
  return FindIn(r, self, a, "index", false, true);
}
Value Rindex(Runtime& r, const Value& self, const Arguments& a) {
  return FindIn(r, self, a, "rindex", true, true);
}

Value CountText(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "count", arguments, {"*sub", "*start", "*end"}, 1);
  const auto wanted = p.Text(0, {});
  bool valid = false;
  size_t offset = 0;
  const auto text = Window(runtime, self.text(), p, 1, &valid, &offset);
  if (!valid) return Value::Int(0);
  if (wanted.empty()) return Value::Int(static_cast<int64_t>(CountCodePoints(text)) + 1);
  int64_t count = 0;
  for (size_t at = text.find(wanted); at != std::string_view::npos;
       at = text.find(wanted, at + wanted.size())) {
    ++count;
  }
  return Value::Int(count);
}

Value Replace(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "replace", arguments, {"*old", "*new", "*count"}, 2);
  return runtime.String(ReplaceText(runtime, self.text(), p.Text(0, {}), p.Text(1, {}), p.Int(2, -1)),
                        self.markup());
}

Value JoinMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "join", arguments, {"*iterable"}, 1);
  std::string out;
  bool first = true;
  Iterator iterator(runtime, p[0]);
  Value item;
  while (iterator.Next(&item)) {
    const auto text = item.is_string() ? item.text() : std::string_view();
    if (!item.is_string()) {
      runtime.Fail(fmt::format("sequence item: expected str instance, {} found", TypeName(item)));
    }
    runtime.Require(out.size() + text.size() + self.text().size());
    if (!first) out.append(self.text());
    first = false;
    out.append(text);
  }
  return runtime.String(std::move(out), self.markup());
}

template <std::string (*kChange)(std::string_view)>
Value ChangeCase(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "case", arguments, {});
  runtime.Work(self.text().size() * 4);
  runtime.Require(self.text().size() * 3);
  return runtime.String(kChange(self.text()), self.markup());
}

std::string CaseFold(std::string_view text) { return Lower(text); }

template <bool (*kIs)(char32_t)>
Value AllAre(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "is…", arguments, {});
  const auto text = self.text();
  runtime.Work(text.size() * 4);
  for (size_t i = 0; i < text.size();) {
    if (!kIs(NextCodePoint(text, &i))) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

bool IsAlphanumeric(char32_t c) { return IsAlphabetic(c) || IsDecimal(c) || IsDigit(c) || IsNumeric(c); }

Value IsAscii(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "isascii", arguments, {});
  return Value::Bool(self.As<StringObject>().ascii());
}

Value IsPrintableText(Runtime& runtime, const Value& self, const Arguments& arguments) {
  if (self.text().empty()) return Value::Bool(true);
  return AllAre<IsPrintable>(runtime, self, arguments);
}

Value IsUpperMethod(Runtime& runtime, const Value& self, const Arguments&) {
  runtime.Work(self.text().size() * 4);
  return Value::Bool(IsUpperText(self.text()));
}
Value IsLowerMethod(Runtime& runtime, const Value& self, const Arguments&) {
  runtime.Work(self.text().size() * 4);
  return Value::Bool(IsLowerText(self.text()));
}

Value IsTitleMethod(Runtime& runtime, const Value& self, const Arguments&) {
  const auto text = self.text();
  runtime.Work(text.size() * 4);
  bool in_word = false;
  bool any = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    const bool upper = IsUpperCase(c) || IsTitleCase(c);
    const bool lower = IsLowerCase(c);
    if ((upper && in_word) || (lower && !in_word)) return Value::Bool(false);
    in_word = upper || lower;
    any = any || in_word;
  }
  return Value::Bool(any);
}

Value IsIdentifierMethod(Runtime& runtime, const Value& self, const Arguments&) {
  const auto text = self.text();
  runtime.Work(text.size() * 4);
  for (size_t i = 0; i < text.size();) {
    const bool first = i == 0;
    const char32_t c = NextCodePoint(text, &i);
    if (first ? !IsIdentifierStart(c) : !IsIdentifierPart(c)) return Value::Bool(false);
  }
  return Value::Bool(!text.empty());
}

Value Format(Runtime& runtime, const Value& self, const Arguments& arguments) {
  return runtime.String(FormatBraces(runtime, self.text(), arguments), self.markup());
}

Value FormatMap(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "format_map", arguments, {"*mapping"}, 1);
  Arguments named;
  if (!p[0].Is(Kind::kDict)) runtime.Fail("format_map() argument must be a mapping");
  for (const auto& [key, value] : p[0].As<DictObject>().entries) {
    if (key.is_string()) named.named.emplace_back(std::string(key.text()), value);
  }
  return runtime.String(FormatBraces(runtime, self.text(), named), self.markup());
}

Value RemoveAffix(Runtime& runtime, const Value& self, const Arguments& arguments, bool at_end) {
  const Parameters p(runtime, at_end ? "removesuffix" : "removeprefix", arguments, {"*affix"}, 1);
  auto text = self.text();
  const auto affix = p.Text(0, {});
  if (at_end && text.ends_with(affix)) text.remove_suffix(affix.size());
  if (!at_end && text.starts_with(affix)) text.remove_prefix(affix.size());
  return Keep(runtime, self, text);
}

Value RemovePrefix(Runtime& r, const Value& self, const Arguments& a) {
  return RemoveAffix(r, self, a, false);
}
Value RemoveSuffix(Runtime& r, const Value& self, const Arguments& a) {
  return RemoveAffix(r, self, a, true);
}

Value PartitionEither(Runtime& runtime, const Value& self, const Arguments& arguments, bool last) {
  const Parameters p(runtime, last ? "rpartition" : "partition", arguments, {"*sep"}, 1);
  const auto separator = p.Text(0, {});
  if (separator.empty()) runtime.Fail("empty separator");
  const auto text = self.text();
  runtime.Work(text.size());
  const size_t at = last ? text.rfind(separator) : text.find(separator);
  const auto part = [&](std::string_view piece) { return Keep(runtime, self, piece); };
  if (at == std::string_view::npos) {
    return last ? runtime.Tuple({part({}), part({}), part(text)})
                : runtime.Tuple({part(text), part({}), part({})});
  }
  return runtime.Tuple({part(text.substr(0, at)), part(separator), part(text.substr(at + separator.size()))});
}

Value Partition(Runtime& r, const Value& self, const Arguments& a) {
  return PartitionEither(r, self, a, false);
}
Value Rpartition(Runtime& r, const Value& self, const Arguments& a) {
  return PartitionEither(r, self, a, true);
}

enum class Side { kLeft, kRight, kCentre };

Value Justify(Runtime& runtime, const Value& self, const Arguments& arguments, Side side) {
  const Parameters p(runtime, "just", arguments, {"*width", "*fillchar"}, 1);
  const std::string fill(p.Text(1, " "));
  if (CountCodePoints(fill) != 1) runtime.Fail("The fill character must be exactly one character long");
  const auto size = static_cast<int64_t>(self.As<StringObject>().length);
  const int64_t width = p.Int(0, 0);
  const int64_t missing = width > size ? width - size : 0;
  if (missing > (int64_t{1} << 40)) runtime.FailLimit("memory bytes");
  runtime.Require(static_cast<uint64_t>(missing) * fill.size() + self.text().size());
  int64_t left = 0;
  if (side == Side::kRight) left = missing;
  // CPython puts the odd space on the left when the width is odd.
  if (side == Side::kCentre) left = missing / 2 + (missing & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += self.text();
  for (int64_t i = left; i < missing; ++i) out += fill;
  return runtime.String(std::move(out), self.markup());
}

Value Ljust(Runtime& r, const Value& self, const Arguments& a) { return Justify(r, self, a, Side::kLeft); }
Value Rjust(Runtime& r, const Value& self, const Arguments& a) { return Justify(r, self, a, Side::kRight); }
Value Centre(Runtime& r, const Value& self, const Arguments& a) { return Justify(r, self, a, Side::kCentre); }

Value Zfill(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "zfill", arguments, {"*width"}, 1);
  const auto text = self.text();
  const int64_t missing = p.Int(0, 0) - static_cast<int64_t>(self.As<StringObject>().length);
  if (missing <= 0) return self;
  if (missing > (int64_t{1} << 40)) runtime.FailLimit("memory bytes");
  runtime.Require(static_cast<uint64_t>(missing) + text.size());
  const size_t sign = text.starts_with('+') || text.starts_with('-') ? 1 : 0;
  return runtime.String(std::string(text.substr(0, sign)) + std::string(static_cast<size_t>(missing), '0') +
                            std::string(text.substr(sign)),
                        self.markup());
}

Value ExpandTabs(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "expandtabs", arguments, {"tabsize"});
  const int64_t size = std::min<int64_t>(p.Int(0, 8), 1 << 20);
  std::string out;
  int64_t column = 0;
  const auto text = self.text();
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (c == '\t') {
      if (size > 0) {
        const int64_t gap = size - column % size;
        runtime.Require(out.size() + static_cast<uint64_t>(gap));
        runtime.Work(static_cast<uint64_t>(gap));
        out.append(static_cast<size_t>(gap), ' ');
        column += gap;
      }
      continue;
    }
    column = c == '\n' || c == '\r' ? 0 : column + 1;
    AppendUtf8(c, &out);
  }
  return runtime.String(std::move(out), self.markup());
}

// ---- dict

Value DictGet(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "get", arguments, {"*key", "*default"}, 1);
  if (!IsHashable(runtime, p[0])) runtime.Fail(fmt::format("unhashable type: '{}'", TypeName(p[0])));
  runtime.Step(self.As<DictObject>().entries.size() / 16);
  const Value* item = self.As<DictObject>().Find(runtime, p[0]);
  return item != nullptr ? *item : p.Or(1, Value());
}

template <DictViewKind kView>
Value DictViewMethod(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "view", arguments, {});
  return runtime.DictView(self, kView);
}

Value CopySelf(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "copy", arguments, {});
  return self;  // immutable here, so a copy cannot be told from the original
}

// ---- list, tuple, range

Value SequenceIndex(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "index", arguments, {"*value", "*start", "*stop"}, 1);
  const int64_t size = Length(self);
  const auto bound = [&](size_t i, int64_t fallback) {
    const int64_t v = p.Int(i, fallback);
    return v < 0 ? std::max<int64_t>(v + size, 0) : v;
  };
  const int64_t start = bound(1, 0);
  const int64_t stop = std::min(bound(2, size), size);
  Iterator iterator(runtime, self);
  Value item;
  for (int64_t i = 0; i < stop && iterator.Next(&item); ++i) {
    if (i >= start && Equal(runtime, item, p[0])) return Value::Int(i);
  }
  runtime.Fail(fmt::format("{} is not in {}", Repr(runtime, p[0]), TypeName(self)));
}

Value SequenceCount(Runtime& runtime, const Value& self, const Arguments& arguments) {
  const Parameters p(runtime, "count", arguments, {"*value"}, 1);
  Iterator iterator(runtime, self);
  Value item;
  int64_t count = 0;
  while (iterator.Next(&item)) count += Equal(runtime, item, p[0]) ? 1 : 0;
  return Value::Int(count);
}

Value Forbidden(Runtime& runtime, const Value&, const Arguments&) {
  runtime.Fail("forbidden by the sandbox");
}

constexpr Method kStringMethods[] = {
    {"capitalize", ChangeCase<Capitalize>},
    {"casefold", ChangeCase<CaseFold>},
    {"center", Centre},
    {"count", CountText},
    {"endswith", EndsWith},
    {"expandtabs", ExpandTabs},
    {"find", Find},
    {"format", Format},
    {"format_map", FormatMap},
    {"index", Index},
    {"isalnum", AllAre<IsAlphanumeric>},
    {"isalpha", AllAre<IsAlphabetic>},
    {"isascii", IsAscii},
    {"isdecimal", AllAre<IsDecimal>},
    {"isdigit", AllAre<IsDigit>},
    {"isidentifier", IsIdentifierMethod},
    {"islower", IsLowerMethod},
    {"isnumeric", AllAre<IsNumeric>},
    {"isprintable", IsPrintableText},
    {"isspace", AllAre<IsSpace>},
    {"istitle", IsTitleMethod},
    {"isupper", IsUpperMethod},
    {"join", JoinMethod},
    {"ljust", Ljust},
    {"lower", ChangeCase<Lower>},
    {"lstrip", LstripMethod},
    {"partition", Partition},
    {"removeprefix", RemovePrefix},
    {"removesuffix", RemoveSuffix},
    {"replace", Replace},
    {"rfind", Rfind},
    {"rindex", Rindex},
    {"rjust", Rjust},
    {"rpartition", Rpartition},
    {"rsplit", Rsplit},
    {"rstrip", RstripMethod},
    {"split", Split},
    {"splitlines", SplitLines},
    {"startswith", StartsWith},
    {"strip", StripMethod},
    {"swapcase", ChangeCase<SwapCase>},
    {"title", ChangeCase<TitleWords>},
    {"upper", ChangeCase<Upper>},
    {"zfill", Zfill},
};

constexpr Method kDictMethods[] = {
    {"clear", Forbidden, true},
    {"copy", CopySelf},
    {"get", DictGet},
    {"items", DictViewMethod<DictViewKind::kItems>},
    {"keys", DictViewMethod<DictViewKind::kKeys>},
    {"pop", Forbidden, true},
    {"popitem", Forbidden, true},
    {"setdefault", Forbidden, true},
    {"update", Forbidden, true},
    {"values", DictViewMethod<DictViewKind::kValues>},
};

constexpr Method kListMethods[] = {
    {"append", Forbidden, true},  {"clear", Forbidden, true},  {"copy", CopySelf},
    {"count", SequenceCount},     {"extend", Forbidden, true}, {"index", SequenceIndex},
    {"insert", Forbidden, true},  {"pop", Forbidden, true},    {"remove", Forbidden, true},
    {"reverse", Forbidden, true}, {"sort", Forbidden, true},
};

constexpr Method kTupleMethods[] = {{"count", SequenceCount}, {"index", SequenceIndex}};

template <size_t kSize>
const Method* Lookup(const Method (&table)[kSize], std::string_view name) {
  for (const Method& method : table) {
    if (method.name == name) return &method;
  }
  return nullptr;
}

}  // namespace

std::string ReplaceText(Runtime& runtime, std::string_view text, std::string_view from, std::string_view to,
                        int64_t count) {
  runtime.Work(text.size());
  std::string out;
  const auto add = [&](std::string_view piece) {
    if (out.size() + piece.size() > out.capacity()) runtime.Require((out.size() + piece.size()) * 2);
    out.append(piece);
  };
  int64_t done = 0;
  if (from.empty()) {  // between all characters, and at both ends
    for (size_t i = 0; i < text.size() && (count < 0 || done < count); ++done) {
      const size_t begin = i;
      NextCodePoint(text, &i);
      add(to);
      add(text.substr(begin, i - begin));
      if (count >= 0 && done + 1 >= count) {
        add(text.substr(i));
        return out;
      }
    }
    if (count < 0 || done < count) add(to);
    return count == 0 ? std::string(text) : out;
  }
  size_t begin = 0;
  while (count < 0 || done < count) {
    const size_t at = text.find(from, begin);
    if (at == std::string_view::npos) break;
    add(text.substr(begin, at - begin));
    add(to);
    begin = at + from.size();
    ++done;
  }
  add(text.substr(begin));
  return out;
}

bool IsUpperText(std::string_view text) {
  bool any = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (IsLowerCase(c) || IsTitleCase(c)) return false;
    any = any || IsUpperCase(c);
  }
  return any;
}

bool IsLowerText(std::string_view text) {
  bool any = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = NextCodePoint(text, &i);
    if (IsUpperCase(c) || IsTitleCase(c)) return false;
    any = any || IsLowerCase(c);
  }
  return any;
}

const Method* FindStringMethod(std::string_view name) { return Lookup(kStringMethods, name); }

const Method* FindMethod(const Value& value, std::string_view name) {
  switch (value.kind()) {
    case Kind::kString: return Lookup(kStringMethods, name);
    case Kind::kDict: return Lookup(kDictMethods, name);
    case Kind::kList: return Lookup(kListMethods, name);
    case Kind::kTuple:
    case Kind::kRange: return Lookup(kTupleMethods, name);
    default: return nullptr;
  }
}

}  // namespace tidepool::templates
