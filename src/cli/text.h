// What people read: sizes, times, tables, the progress bar, suggestions. Pure functions, any thread.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::cli {

std::string BytesText(double bytes);  // "512 B", "1.4 MB", "12.3 GB" (powers of 1000, as disks and networks)
std::string RateText(double bytes_per_s);  // "12.3 MB/s"
std::string CountText(double count);       // "135 M", "7.2 B", "999"
std::string SecondsText(double seconds);   // "0.3 s", "42 s", "3 min 20 s", "2 h 05 min"
std::string AgeText(int64_t seconds);      // "just now", "5 minutes ago", "3 days ago"
std::string NumberText(double value);      // "1,234.5": four significant digits, thousands separated

// Columns a terminal takes: wide characters two, combining marks none, escape sequences none.
size_t DisplayWidth(std::string_view text);
// Cut to `width` columns with an ellipsis.
std::string Fit(std::string_view text, size_t width);

enum class Align : uint8_t { kLeft, kRight };
struct Column {
  std::string title;
  Align align = Align::kLeft;
  bool spare = false;  // left out when the terminal is too narrow, the last one first
};
// Rows under their titles, two spaces between columns, no space at the end of lines.
std::string TableText(std::vector<Column> columns, std::vector<std::vector<std::string>> rows,
                      size_t width = SIZE_MAX);

// "label  ██████░░░░  61%  1.2 / 2.0 GB  12.3 MB/s  1 min 05 s left" in at most `width` columns. total 0:
// unknown.
std::string ProgressText(std::string_view label, double done, double total, double per_s, size_t width,
                         bool unicode);
// The same of what has no bytes: "label  ██████░░░░  61%  12 s left". The time left from the first second on.
std::string ShareProgressText(std::string_view label, double share, double elapsed_s, size_t width,
                              bool unicode);

// The option closest to `name` by edit distance, or empty when none is near.
std::string Closest(std::string_view name, const std::vector<std::string>& options);

// Lines of at most `width` columns, broken between words; every line but the first begins with `indent`
// spaces.
std::string WrapText(std::string_view text, size_t width, size_t indent);

// Breaks a stream of text between words. A word that passes the edge while it comes is taken back from its
// line and begins the next one. Lines between ``` fences stay whole: whoever copies code from a terminal
// wants them so.
class WordWrap {
 public:
  explicit WordWrap(size_t width) : width_(width) {}
  // `text` holds whole characters and no control characters other than \n and \t (see TerminalFilter).
  std::string Feed(std::string_view text);

 private:
  void Character(std::string_view bytes, int32_t code_point, std::string* out);

  size_t width_;
  size_t column_ = 0;
  std::string word_;  // what has come of the last word
  size_t word_columns_ = 0;
  std::string line_begin_;  // up to three bytes
  bool fenced_ = false;
};

// Model output on a terminal must not steer it: control characters other than \n and \t become visible. Keeps
// an unfinished UTF-8 sequence for the next call.
class TerminalFilter {
 public:
  std::string Feed(std::string_view bytes);

 private:
  std::string held_;
};

}  // namespace tidepool::cli
