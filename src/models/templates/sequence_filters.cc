// Filters on lists, dicts and other iterables.
#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <set>
#include <string>

#include "models/templates/filter_table.h"
#include "models/templates/unicode.h"

namespace tidepool::templates {

AttributePath::AttributePath(Runtime& runtime, const Value& attribute) {
  if (attribute.is_none()) return;
  if (!attribute.is_string()) {
    parts_.push_back(attribute);
    return;
  }
  std::string_view rest = attribute.text();
  while (true) {
    const size_t dot = rest.find('.');
    const auto part = rest.substr(0, dot);
    const bool number = !part.empty() && part.size() < 18 &&
                        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    parts_.push_back(number ? Value::Int(std::stoll(std::string(part))) : runtime.String(std::string(part)));
    if (parts_.size() > 64) runtime.Fail("attribute path too long", "template_limit");
    if (dot == std::string_view::npos) break;
    rest.remove_prefix(dot + 1);
  }
}

Value AttributePath::Get(Runtime& runtime, Value item, const Value* fallback) const {
  for (const Value& part : parts_) {
    item = GetItem(runtime, item, part);
    if (fallback != nullptr && item.is_undefined()) item = *fallback;
  }
  return item;
}

namespace {

Value IgnoreCase(Runtime& runtime, const Value& value) {
  if (!value.is_string()) return value;
  runtime.Work(value.text().size());
  return runtime.String(Lower(value.text()));
}

Value LengthFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "length", arguments, {});
  const int64_t length = Length(subject);
  if (length < 0) runtime.Fail(fmt::format("object of type '{}' has no len()", TypeName(subject)));
  return Value::Int(length);
}

Value Default(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "default", arguments, {"default_value", "boolean"});
  if (subject.is_undefined() || (p.Flag(1, false) && !Truth(subject))) {
    return p.has(0) ? p[0] : runtime.String({});
  }
  return subject;
}

Value Join(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "join", arguments, {"d", "attribute"});
  const std::string separator = p.has(0) ? ToText(runtime, p[0]) : std::string();
  const bool by_attribute = p.has(1) && !p[1].is_none();
  const AttributePath path(runtime, by_attribute ? p[1] : Value());
  std::string out;
  bool first = true;
  Iterator iterator(runtime, subject);
  Value item;
  while (iterator.Next(&item)) {
    if (!first) out += separator;
    first = false;
    AppendText(runtime, by_attribute ? path.Get(runtime, item) : item, &out);
    runtime.Require(out.size() + separator.size());
  }
  return runtime.String(std::move(out));
}

Value First(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "first", arguments, {});
  Iterator iterator(runtime, subject);
  Value item;
  return iterator.Next(&item) ? item : runtime.UndefinedHint("No first item, sequence was empty.");
}

Value Last(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "last", arguments, {});
  if (subject.is_undefined()) runtime.Fail("'Undefined' object is not reversible");
  if (subject.Is(Kind::kGenerator) || !IsIterable(subject)) {
    runtime.Fail(fmt::format("'{}' object is not reversible", TypeName(subject)));
  }
  if (Length(subject) == 0) return runtime.UndefinedHint("No last item, sequence was empty.");
  if (subject.Is(Kind::kDict) || subject.Is(Kind::kDictView)) return Collect(runtime, subject).back();
  return GetItem(runtime, subject, Value::Int(-1));
}

Value ListFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "list", arguments, {});
  return runtime.List(Collect(runtime, subject));
}

Value Items(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "items", arguments, {});
  if (!subject.is_undefined() && !subject.Is(Kind::kDict)) {
    return runtime.Generator("do_items", subject, [](Runtime& r, Value*) -> bool {
      r.Fail("Can only get item pairs from a mapping.");
    });
  }
  const Value view = subject.is_undefined() ? subject : runtime.DictView(subject, DictViewKind::kItems);
  auto iterator = std::make_shared<Iterator>(runtime, view);
  return runtime.Generator("do_items", view,
                           [iterator](Runtime&, Value* out) { return iterator->Next(out); });
}

Value Reverse(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "reverse", arguments, {});
  if (subject.is_string()) return Slice(runtime, subject, Value(), Value(), Value::Int(-1));
  if (!IsIterable(subject)) runtime.Fail("argument must be iterable");
  auto items = Collect(runtime, subject);
  std::reverse(items.begin(), items.end());
  const Value list = runtime.List(std::move(items));
  // Sequences and dicts have __reversed__, which is an iterator; a generator becomes a list.
  if (subject.Is(Kind::kGenerator) || subject.is_undefined()) return list;
  auto iterator = std::make_shared<Iterator>(runtime, list);
  return runtime.Generator("reversed", list,
                           [iterator](Runtime&, Value* out) { return iterator->Next(out); });
}

// sorted() with a key per item. Python compares keys with < only, and keeps equal ones in order.
std::vector<Value> SortedBy(Runtime& runtime, const std::vector<Value>& items, std::vector<Value> keys,
                            bool reverse) {
  runtime.Require(items.size() * (sizeof(size_t) * 2 + sizeof(Value)));
  const auto order = StableOrder(items.size(), [&](size_t a, size_t b) {
    return reverse ? Less(runtime, keys[b], keys[a]) : Less(runtime, keys[a], keys[b]);
  });
  std::vector<Value> sorted;
  sorted.reserve(items.size());
  for (const size_t i : order) sorted.push_back(items[i]);
  return sorted;
}

Value Sort(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  const bool fold = !p.Flag(1, false);
  std::vector<AttributePath> paths;
  const Value attribute = p.Or(2, Value());
  if (attribute.is_string()) {
    std::string_view rest = attribute.text();
    while (true) {
      const size_t comma = rest.find(',');
      paths.emplace_back(runtime, runtime.String(std::string(rest.substr(0, comma))));
      if (paths.size() > 64) runtime.Fail("too many attributes", "template_limit");
      if (comma == std::string_view::npos) break;
      rest.remove_prefix(comma + 1);
    }
  } else {
    paths.emplace_back(runtime, attribute);
  }
  const auto items = Collect(runtime, subject);
  std::vector<Value> keys;
  keys.reserve(items.size());
  for (const Value& item : items) {
    std::vector<Value> key;
    for (const auto& path : paths) {
      Value part = path.Get(runtime, item);
      key.push_back(fold ? IgnoreCase(runtime, part) : part);
    }
    keys.push_back(runtime.List(std::move(key)));
  }
  return runtime.List(SortedBy(runtime, items, std::move(keys), p.Flag(0, false)));
}

Value DictSort(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const auto by = p.Text(1, "key");
  if (by != "key" && by != "value") runtime.Fail("You can only sort by either \"key\" or \"value\"");
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  if (!subject.Is(Kind::kDict)) {
    runtime.Fail(fmt::format("'{} object' has no attribute 'items'", TypeName(subject)));
  }
  std::vector<Value> items;
  std::vector<Value> keys;
  for (const auto& [key, value] : subject.As<DictObject>().entries) {
    items.push_back(runtime.Tuple({key, value}));
    const Value& sort_key = by == "key" ? key : value;
    keys.push_back(p.Flag(0, false) ? sort_key : IgnoreCase(runtime, sort_key));
  }
  return runtime.List(SortedBy(runtime, items, std::move(keys), p.Flag(2, false)));
}

Value MinMax(Runtime& runtime, const Value& subject, const Arguments& arguments, bool largest) {
  const Parameters p(runtime, largest ? "max" : "min", arguments, {"case_sensitive", "attribute"});
  const bool fold = !p.Flag(0, false);
  const AttributePath path(runtime, p.Or(1, Value()));
  Iterator iterator(runtime, subject);
  Value best;
  Value best_key;
  bool any = false;
  Value item;
  while (iterator.Next(&item)) {
    Value key = path.Get(runtime, item);
    if (fold) key = IgnoreCase(runtime, key);
    if (!any || (largest ? Less(runtime, best_key, key) : Less(runtime, key, best_key))) {
      best = item;
      best_key = key;
    }
    any = true;
  }
  return any ? best : runtime.UndefinedHint("No aggregated item, sequence was empty.");
}

Value Min(Runtime& r, const Value& subject, const Arguments& a) { return MinMax(r, subject, a, false); }
Value Max(Runtime& r, const Value& subject, const Arguments& a) { return MinMax(r, subject, a, true); }

Value Sum(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "sum", arguments, {"attribute", "start"});
  const bool by_attribute = p.has(0) && !p[0].is_none();
  const AttributePath path(runtime, by_attribute ? p[0] : Value());
  Value total = p.Or(1, Value::Int(0));
  if (total.is_string()) runtime.Fail("sum() can't sum strings [use ''.join(seq) instead]");
  Iterator iterator(runtime, subject);
  Value item;
  while (iterator.Next(&item)) {
    total = Binary(runtime, BinaryOperator::kAdd, total, by_attribute ? path.Get(runtime, item) : item);
  }
  return total;
}

struct SeenKeys {
  std::set<std::string, std::less<>> texts;
  std::vector<Value> others;

  // True when the key is new.
  bool Add(Runtime& runtime, const Value& key) {
    if (!IsHashable(runtime, key)) runtime.Fail(fmt::format("unhashable type: '{}'", TypeName(key)));
    if (key.is_string()) {
      if (texts.find(key.text()) != texts.end()) return false;
      runtime.Require(key.text().size());
      texts.insert(std::string(key.text()));
      return true;
    }
    for (const Value& other : others) {
      if (Equal(runtime, other, key)) return false;
    }
    others.push_back(key);
    return true;
  }
};

Value Unique(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "unique", arguments, {"case_sensitive", "attribute"});
  const bool fold = !p.Flag(0, false);
  auto path = std::make_shared<AttributePath>(runtime, p.Or(1, Value()));
  auto seen = std::make_shared<SeenKeys>();
  std::shared_ptr<Iterator> iterator;
  return runtime.Generator("unique", subject, [=](Runtime& r, Value* out) mutable {
    if (!iterator) iterator = std::make_shared<Iterator>(r, subject);
    while (iterator->Next(out)) {
      Value key = path->Get(r, *out);
      if (fold) key = IgnoreCase(r, key);
      if (seen->Add(r, key)) return true;
    }
    return false;
  });
}

Value MapFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  std::shared_ptr<Iterator> iterator;
  return runtime.Generator("map", subject, [=](Runtime& r, Value* out) mutable {
    if (!Truth(subject)) return false;
    if (!iterator) iterator = std::make_shared<Iterator>(r, subject);
    if (arguments.positional.empty()) {
      const Parameters p(r, "map", arguments, {"attribute", "default"});
      if (!p.has(0)) r.Fail("map requires a filter argument");
      if (!iterator->Next(out)) return false;
      const bool with_default = p.has(1) && !p[1].is_none();
      *out = AttributePath(r, p[0]).Get(r, *out, with_default ? &p[1] : nullptr);
      return true;
    }
    const Value& name = arguments.positional[0];
    const Filter filter = name.is_string() ? FindFilter(name.text()) : nullptr;
    if (!iterator->Next(out)) return false;
    if (filter == nullptr) r.Fail(fmt::format("No filter named {}.", Repr(r, name)));
    Arguments rest;
    rest.positional.assign(arguments.positional.begin() + 1, arguments.positional.end());
    rest.named = arguments.named;
    *out = filter(r, *out, rest);
    return true;
  });
}

Value SelectOrReject(Runtime& runtime, const Value& subject, const Arguments& arguments, bool keep,
                     bool by_attribute) {
  std::shared_ptr<Iterator> iterator;
  return runtime.Generator("select", subject, [=](Runtime& r, Value* out) mutable {
    if (!Truth(subject)) return false;
    const auto& given = arguments.positional;
    const size_t skip = by_attribute ? 1 : 0;
    if (given.size() < skip) r.Fail("Missing parameter for attribute name");
    if (!iterator) iterator = std::make_shared<Iterator>(r, subject);
    const AttributePath path(r, by_attribute ? given[0] : Value());
    Test test = nullptr;
    Arguments rest;
    if (given.size() > skip) {
      test = given[skip].is_string() ? FindTest(given[skip].text()) : nullptr;
      rest.positional.assign(given.begin() + static_cast<int64_t>(skip) + 1, given.end());
      rest.named = arguments.named;
    }
    while (iterator->Next(out)) {
      if (given.size() > skip && test == nullptr)
        r.Fail(fmt::format("No test named {}.", Repr(r, given[skip])));
      const Value value = path.Get(r, *out);
      if ((test != nullptr ? test(r, value, rest) : Truth(value)) == keep) return true;
    }
    return false;
  });
}

Value Select(Runtime& r, const Value& v, const Arguments& a) { return SelectOrReject(r, v, a, true, false); }
Value Reject(Runtime& r, const Value& v, const Arguments& a) { return SelectOrReject(r, v, a, false, false); }
Value SelectAttr(Runtime& r, const Value& v, const Arguments& a) {
  return SelectOrReject(r, v, a, true, true);
}
Value RejectAttr(Runtime& r, const Value& v, const Arguments& a) {
  return SelectOrReject(r, v, a, false, true);
}

Value Batch(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t count = p.Int(0, 0);
  const Value fill = p.Or(1, Value());
  std::shared_ptr<Iterator> iterator;
  auto ahead = std::make_shared<std::vector<Value>>();
  return runtime.Generator("do_batch", subject, [=](Runtime& r, Value* out) mutable {
    if (!iterator) iterator = std::make_shared<Iterator>(r, subject);
    std::vector<Value> row = std::move(*ahead);
    ahead->clear();
    Value item;
    while (iterator->Next(&item)) {
      if (static_cast<int64_t>(row.size()) == count) {
        ahead->push_back(std::move(item));
        *out = r.List(std::move(row));
        return true;
      }
      row.push_back(std::move(item));
    }
    if (row.empty()) return false;
    if (!fill.is_none() && static_cast<int64_t>(row.size()) < count) {
      r.Require(static_cast<uint64_t>(std::min<int64_t>(count, int64_t{1} << 40)) * sizeof(Value));
      row.resize(static_cast<size_t>(count), fill);
    }
    *out = r.List(std::move(row));
    return true;
  });
}

Value SliceFilter(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "slice", arguments, {"slices", "fill_with"}, 1);
  const int64_t slices = p.Int(0, 0);
  const Value fill = p.Or(1, Value());
  if (slices == 0) runtime.Fail("integer division or modulo by zero");
  const auto items = std::make_shared<std::vector<Value>>(Collect(runtime, subject));
  int64_t number = 0;
  int64_t at = 0;
  return runtime.Generator("do_slice", subject, [=](Runtime& r, Value* out) mutable {
    if (number >= slices) return false;
    const auto size = static_cast<int64_t>(items->size());
    const int64_t extra = size % slices;
    const int64_t end = at + size / slices + (number < extra ? 1 : 0);
    std::vector<Value> part(items->begin() + at, items->begin() + end);
    if (!fill.is_none() && number >= extra) part.push_back(fill);
    at = end;
    ++number;
    *out = r.List(std::move(part));
    return true;
  });
}

Value GroupBy(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const AttributePath path(runtime, p[0]);
  const bool fold = !p.Flag(2, false);
  const bool with_default = p.has(1) && !p[1].is_none();
  const auto key_of = [&](const Value& item) {
    return path.Get(runtime, item, with_default ? &p[1] : nullptr);
  };
  const auto folded = [&](const Value& item) {
    const Value key = key_of(item);
    return fold ? IgnoreCase(runtime, key) : key;
  };
  const auto items = Collect(runtime, subject);
  std::vector<Value> keys;
  for (const Value& item : items) keys.push_back(folded(item));
  const auto sorted = SortedBy(runtime, items, std::move(keys), false);
  std::vector<Value> groups;
  for (size_t i = 0; i < sorted.size();) {
    const Value key = folded(sorted[i]);
    std::vector<Value> members{sorted[i]};
    size_t next = i + 1;
    while (next < sorted.size() && Equal(runtime, folded(sorted[next]), key))
      members.push_back(sorted[next++]);
    const Value group = runtime.Tuple({fold ? key_of(sorted[i]) : key, runtime.List(std::move(members))});
    group.As<ListObject>().group = true;
    groups.push_back(group);
    i = next;
  }
  return runtime.List(std::move(groups));
}

Value Attr(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  const Parameters p(runtime, "attr", arguments, {"name"}, 1);
  const auto name = p.Text(0, {});
  if (subject.is_undefined()) runtime.FailUndefined(subject);
  const bool has =
      FindMethod(subject, name) != nullptr || subject.Is(Kind::kNamespace) || subject.Is(Kind::kLoop);
  if (!has) return runtime.Undefined(std::string(name), std::string(TypeName(subject)));
  return GetAttribute(runtime, subject, name);
}

constexpr FilterEntry kSequenceFilters[] = {
    {"attr", Attr},         {"batch", Batch},     {"count", LengthFilter},
    {"d", Default},         {"default", Default}, {"dictsort", DictSort},
    {"first", First},       {"groupby", GroupBy}, {"items", Items},
    {"join", Join},         {"last", Last},       {"length", LengthFilter},
    {"list", ListFilter},   {"map", MapFilter},   {"max", Max},
    {"min", Min},           {"reject", Reject},   {"rejectattr", RejectAttr},
    {"reverse", Reverse},   {"select", Select},   {"selectattr", SelectAttr},
    {"slice", SliceFilter}, {"sort", Sort},       {"sum", Sum},
    {"unique", Unique},
};

}  // namespace

std::span<const FilterEntry> SequenceFilters() { return kSequenceFilters; }

}  // namespace tidepool::templates
