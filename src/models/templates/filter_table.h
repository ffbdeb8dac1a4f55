// Where the filters live; one table joins them (filters.cc).
#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "models/templates/operators.h"

namespace tidepool::templates {

struct FilterEntry {
  std::string_view name;
  Filter call;
};

std::span<const FilterEntry> TextFilters();
std::span<const FilterEntry> SequenceFilters();

// "a.b.0" as jinja2's make_attrgetter reads it; None means the item itself.
class AttributePath {
 public:
  AttributePath(Runtime& runtime, const Value& attribute);
  // Looks the path up in `item`; where it is undefined, `fallback` (if given).
  Value Get(Runtime& runtime, Value item, const Value* fallback = nullptr) const;

 private:
  std::vector<Value> parts_;
};

}  // namespace tidepool::templates
