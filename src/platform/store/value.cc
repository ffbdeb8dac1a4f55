#include "platform/store/value.h"

#include <charconv>
#include <cstdlib>

namespace tidepool::store {

int64_t Row::Integer(size_t column) const {
  const Value& value = values_.at(column);
  if (const int64_t* number = value.integer()) return *number;
  if (const double* number = value.number()) return static_cast<int64_t>(*number);
  int64_t out = 0;
  if (const std::string* text = value.text()) std::from_chars(text->data(), text->data() + text->size(), out);
  return out;
}

double Row::Number(size_t column) const {
  const Value& value = values_.at(column);
  if (const double* number = value.number()) return *number;
  if (const int64_t* number = value.integer()) return static_cast<double>(*number);
  if (const std::string* text = value.text()) return std::strtod(text->c_str(), nullptr);
  return 0;
}

std::string Row::Text(size_t column) const {
  const Value& value = values_.at(column);
  if (const std::string* text = value.text()) return *text;
  if (const int64_t* number = value.integer()) return std::to_string(*number);
  return {};
}

std::string Row::Bytes(size_t column) const {
  const Blob* blob = values_.at(column).blob();
  return blob != nullptr ? blob->bytes : std::string();
}

std::optional<int64_t> Row::OptionalInteger(size_t column) const {
  if (IsNull(column)) return std::nullopt;
  return Integer(column);
}

std::optional<std::string> Row::OptionalText(size_t column) const {
  if (IsNull(column)) return std::nullopt;
  return Text(column);
}

}  // namespace tidepool::store
