// What goes into a statement and comes out of it.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace tidepool::store {

// Bytes that are no text (BYTEA columns).
struct Blob {
  std::string bytes;
  bool operator==(const Blob&) const = default;
};

// Text is UTF-8 without NUL bytes: anything else is refused when it is bound (kInvalid "bad_text").
class Value {
 public:
  Value() = default;
  Value(std::nullptr_t) {}
  template <std::integral T>
  Value(T number) : data_(static_cast<int64_t>(number)) {}
  Value(double number) : data_(number) {}
  Value(const char* text) : data_(std::string(text)) {}
  Value(std::string_view text) : data_(std::string(text)) {}
  Value(std::string text) : data_(std::move(text)) {}
  Value(Blob blob) : data_(std::move(blob)) {}
  template <typename T>
  Value(const std::optional<T>& value) {
    if (value) *this = Value(*value);
  }

  bool is_null() const { return data_.index() == 0; }
  const int64_t* integer() const { return std::get_if<int64_t>(&data_); }
  const double* number() const { return std::get_if<double>(&data_); }
  const std::string* text() const { return std::get_if<std::string>(&data_); }
  const Blob* blob() const { return std::get_if<Blob>(&data_); }

 private:
  std::variant<std::monostate, int64_t, double, std::string, Blob> data_;
};

// One row of an answer. A getter of another type than the column's is a defect of the caller and converts as
// little as possible: NULL reads as 0 or "", digits as a number (PostgreSQL's SUM of BIGINT is NUMERIC).
class Row {
 public:
  explicit Row(std::vector<Value> values) : values_(std::move(values)) {}
  size_t size() const { return values_.size(); }
  bool IsNull(size_t column) const { return values_.at(column).is_null(); }
  int64_t Integer(size_t column) const;
  double Number(size_t column) const;
  bool Flag(size_t column) const { return Integer(column) != 0; }
  std::string Text(size_t column) const;
  std::string Bytes(size_t column) const;
  std::optional<int64_t> OptionalInteger(size_t column) const;
  std::optional<std::string> OptionalText(size_t column) const;

 private:
  std::vector<Value> values_;
};
using Rows = std::vector<Row>;

}  // namespace tidepool::store
