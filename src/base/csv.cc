#include "base/csv.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"

namespace tidepool {
namespace {

bool AllDigits(std::string_view text) {
  return !text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// -?digits[.digits]
bool IsDecimal(std::string_view text) {
  if (text.starts_with('-')) text.remove_prefix(1);
  const size_t point = text.find('.');
  return AllDigits(text.substr(0, point)) &&
         (point == std::string_view::npos || AllDigits(text.substr(point + 1)));
}

bool IsFormula(std::string_view text) {
  constexpr std::string_view kBegins = "=+-@\t\r\n";
  return !text.empty() && kBegins.find(text.front()) != std::string_view::npos && !IsDecimal(text);
}

}  // namespace

CsvWriter::CsvWriter(std::span<const std::string> columns) : columns_(columns.size()) {
  for (const std::string& name : columns) Text(name);
  EndRow();
}

void CsvWriter::BeginCell() {
  CHECK(cells_ < columns_);
  if (cells_++ > 0) text_.push_back(',');
}

CsvWriter& CsvWriter::Text(std::string_view text) {
  BeginCell();
  const std::string_view mark = IsFormula(text) ? "'" : "";
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) {
    text_.append(mark).append(text);
    return *this;
  }
  text_.append("\"").append(mark);
  for (const char c : text) {
    if (c == '"') text_.push_back('"');
    text_.push_back(c);
  }
  text_.push_back('"');
  return *this;
}

CsvWriter& CsvWriter::Integer(int64_t number) {
  BeginCell();
  fmt::format_to(std::back_inserter(text_), "{}", number);
  return *this;
}

CsvWriter& CsvWriter::Number(std::string_view decimal) {
  BeginCell();
  text_.append(decimal);
  return *this;
}

CsvWriter& CsvWriter::Skip(size_t cells) {
  for (size_t i = 0; i < cells; ++i) BeginCell();
  return *this;
}

void CsvWriter::EndRow() {
  CHECK(cells_ == columns_);
  cells_ = 0;
  text_.append("\r\n");
}

}  // namespace tidepool
