// CSV for spreadsheets and programs: RFC 4180, lines end with CRLF, the first names the columns.
//
// A cell of text that a spreadsheet would take for a formula (it begins with = + - @, a tab or a line's end)
// gets an apostrophe before it, as OWASP ("CSV Injection") has it; text that is a decimal number, such as
// "-0.01", is none. Threads: one at a time.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace tidepool {

class CsvWriter {
 public:
  explicit CsvWriter(std::span<const std::string> columns);

  // The next cell of the row.
  CsvWriter& Text(std::string_view text);
  CsvWriter& Integer(int64_t number);
  CsvWriter& Number(std::string_view decimal);  // written as it is: digits, a sign, a point, an exponent
  CsvWriter& Skip(size_t cells = 1);            // empty ones
  // CHECKs that the row has a cell for each column.
  void EndRow();

  size_t bytes() const { return text_.size(); }
  std::string Take() { return std::move(text_); }

 private:
  void BeginCell();

  const size_t columns_;
  size_t cells_ = 0;  // of the row that is being written
  std::string text_;
};

}  // namespace tidepool
