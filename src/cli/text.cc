#include "cli/text.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cmath>

namespace tidepool::cli {
namespace {

// Decodes one code point; a malformed byte counts as one column.
size_t Decode(std::string_view text, int32_t* code_point) {
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  const auto size = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size()), code_point);
  if (size > 0) return static_cast<size_t>(size);
  *code_point = 0xFFFD;
  return 1;
}

size_t ColumnsOf(int32_t code_point) {
  if (code_point < 0x20 || code_point == 0x7F) return 0;
  const int width = utf8proc_charwidth(code_point);
  return width > 0 ? static_cast<size_t>(width) : 0;
}

// The end of an escape sequence "ESC [ ... letter" at `at`, or `at`.
size_t SkipEscape(std::string_view text, size_t at) {
  if (text[at] != '\x1b' || at + 1 >= text.size() || text[at + 1] != '[') return at;
  size_t end = at + 2;
  while (end < text.size() && (text[end] < '@' || text[end] > '~')) ++end;
  return std::min(end + 1, text.size());
}

std::string Scaled(double value, double base, const std::array<std::string_view, 6>& units,
                   std::string_view space) {
  size_t unit = 0;
  while (value >= base * 0.9995 && unit + 1 < units.size()) {
    value /= base;
    ++unit;
  }
  if (unit == 0) return fmt::format("{:.0f}{}{}", value, units[0].empty() ? "" : space, units[0]);
  return fmt::format("{:.{}f}{}{}", value, value < 99.95 ? 1 : 0, space, units[unit]);
}

}  // namespace

std::string BytesText(double bytes) {
  return Scaled(std::max(bytes, 0.0), 1000, {"B", "kB", "MB", "GB", "TB", "PB"}, " ");
}

std::string RateText(double bytes_per_s) { return BytesText(bytes_per_s) + "/s"; }

std::string CountText(double count) {
  return Scaled(std::max(count, 0.0), 1000, {"", "k", "M", "B", "T", "Q"}, " ");
}

std::string SecondsText(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0) return "?";
  if (seconds < 9.95) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(std::llround(std::min(seconds, 1e9)));
  if (whole < 60) return fmt::format("{} s", whole);
  if (whole < 3600) return fmt::format("{} min {:02d} s", whole / 60, whole % 60);
  if (whole < 86400) return fmt::format("{} h {:02d} min", whole / 3600, whole / 60 % 60);
  return fmt::format("{} d {:02d} h", whole / 86400, whole / 3600 % 24);
}

std::string AgeText(int64_t seconds) {
  if (seconds < 60) return "just now";
  const auto say = [](int64_t n, std::string_view unit) {
    return fmt::format("{} {}{} ago", n, unit, n == 1 ? "" : "s");
  };
  if (seconds < 3600) return say(seconds / 60, "minute");
  if (seconds < 86400) return say(seconds / 3600, "hour");
  if (seconds < 86400 * 60) return say(seconds / 86400, "day");
  if (seconds < 86400 * 730) return say(seconds / (86400 * 30), "month");
  return say(seconds / (86400 * 365), "year");
}

std::string NumberText(double value) {
  if (!std::isfinite(value)) return "?";
  const double magnitude = std::fabs(value);
  const int digits = magnitude >= 999.95 ? 0 : (magnitude >= 99.995 ? 1 : 2);
  std::string text = fmt::format("{:.{}f}", value, digits);
  size_t end = std::min(text.find('.'), text.size());
  const size_t first = text.starts_with('-') ? 1 : 0;
  while (end > first + 3) {
    end -= 3;
    text.insert(end, ",");
  }
  return text;
}

size_t DisplayWidth(std::string_view text) {
  size_t width = 0;
  for (size_t i = 0; i < text.size();) {
    if (const size_t end = SkipEscape(text, i); end != i) {
      i = end;
      continue;
    }
    int32_t code_point = 0;
    i += Decode(text.substr(i), &code_point);
    width += ColumnsOf(code_point);
  }
  return width;
}

std::string Fit(std::string_view text, size_t width) {
  if (DisplayWidth(text) <= width) return std::string(text);
  if (width == 0) return {};
  std::string out;
  size_t used = 0;
  for (size_t i = 0; i < text.size();) {
    int32_t code_point = 0;
    const size_t size = Decode(text.substr(i), &code_point);
    const size_t columns = ColumnsOf(code_point);
    if (used + columns > width - 1) break;
    out.append(text.substr(i, size));
    used += columns;
    i += size;
  }
  return out + "…";
}

std::string TableText(std::vector<Column> columns, std::vector<std::vector<std::string>> rows, size_t width) {
  std::vector<size_t> widths;
  for (const Column& column : columns) widths.push_back(DisplayWidth(column.title));
  for (auto& row : rows) {
    row.resize(columns.size());
    for (size_t i = 0; i < columns.size(); ++i) widths[i] = std::max(widths[i], DisplayWidth(row[i]));
  }
  const auto total = [&] {
    size_t sum = 0;
    for (const size_t columns_of_one : widths) sum += columns_of_one + 2;
    return sum;
  };
  for (size_t i = columns.size(); i-- > 0;) {
    if (!columns[i].spare || total() - 2 <= width) continue;
    const auto at = static_cast<std::ptrdiff_t>(i);
    columns.erase(columns.begin() + at);
    widths.erase(widths.begin() + at);
    for (auto& row : rows) row.erase(row.begin() + at);
  }
  std::string out;
  const auto add = [&](const auto& cell_at) {
    std::string line;
    for (size_t i = 0; i < columns.size(); ++i) {
      const std::string cell = cell_at(i);
      const std::string gap(widths[i] - DisplayWidth(cell), ' ');
      if (i > 0) line += "  ";
      line += columns[i].align == Align::kRight ? gap + cell : cell + gap;
    }
    line.resize(line.find_last_not_of(' ') + 1);
    out += line + "\n";
  };
  add([&](size_t i) { return columns[i].title; });
  for (const auto& row : rows) add([&](size_t i) { return row[i]; });
  return out;
}

namespace {

// `share` below 0: unknown, no bar. The first of `parts` stays longest.
std::string ProgressLine(std::string_view label, double share, std::vector<std::string> parts, size_t width,
                         bool unicode) {
  const auto rest = [&] {
    std::string text;
    for (const auto& part : parts) text += "  " + part;
    return text;
  };
  constexpr size_t kSmallestBar = 10;
  constexpr size_t kLargestBar = 40;
  constexpr size_t kEnoughLabel = 24;
  // What fits: a long label gives way first, then parts go from the right until a bar has room.
  const size_t least_label = std::min(DisplayWidth(label), kEnoughLabel);
  while (parts.size() > 1 && least_label + DisplayWidth(rest()) + kSmallestBar + 2 > width) parts.pop_back();
  const std::string tail = rest();
  const size_t tail_width = DisplayWidth(tail);
  const size_t label_room = width > tail_width + kSmallestBar + 2 ? width - tail_width - kSmallestBar - 2 : 0;
  const std::string head = Fit(label, label_room);
  const size_t used = DisplayWidth(head) + tail_width + 2;
  if (share < 0 || used + kSmallestBar > width) return Fit(head + tail, width);
  const size_t bar = std::min(width - used, kLargestBar);
  const auto filled = static_cast<size_t>(share * static_cast<double>(bar));
  std::string out = head + "  ";
  for (size_t i = 0; i < bar; ++i) out += i < filled ? (unicode ? "█" : "#") : (unicode ? "░" : ".");
  return out + tail;
}

std::string PercentText(double share) { return fmt::format("{:3.0f}%", std::floor(share * 100)); }

}  // namespace

std::string ProgressText(std::string_view label, double done, double total, double per_s, size_t width,
                         bool unicode) {
  const double share = total > 0 ? std::clamp(done / total, 0.0, 1.0) : -1;
  std::vector<std::string> parts;
  if (total > 0) {
    parts.push_back(PercentText(share));
    parts.push_back(BytesText(done) + " / " + BytesText(total));
  } else if (done > 0) {
    parts.push_back(BytesText(done));
  }
  if (per_s > 0) {
    parts.push_back(RateText(per_s));
    if (total > 0 && done < total) parts.push_back(SecondsText((total - done) / per_s) + " left");
  }
  return ProgressLine(label, share, std::move(parts), width, unicode);
}

std::string ShareProgressText(std::string_view label, double share, double elapsed_s, size_t width,
                              bool unicode) {
  share = std::clamp(share, 0.0, 1.0);
  std::vector<std::string> parts = {PercentText(share)};
  if (elapsed_s > 1 && share > 0 && share < 1)
    parts.push_back(SecondsText(elapsed_s * (1 - share) / share) + " left");
  return ProgressLine(label, share, std::move(parts), width, unicode);
}

namespace {

// Edits that turn a into b, neighbours swapped counting as one.
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = a[i - 1] == b[j - 1] ? 0 : 1;
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + change});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

std::string Closest(std::string_view name, const std::vector<std::string>& options) {
  if (name.size() > 256) return {};
  std::string best;
  size_t best_distance = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& option : options) {
    const bool begins = name.size() >= 3 && option.starts_with(name);
    const size_t distance = begins ? 1 : Distance(name, option);
    if (distance < best_distance) {
      best = option;
      best_distance = distance;
    }
  }
  return best;
}

std::string WrapText(std::string_view text, size_t width, size_t indent) {
  std::string out;
  size_t column = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = std::min(text.find(' ', i), text.size());
    const std::string_view word = text.substr(i, end - i);
    const size_t columns = DisplayWidth(word);
    if (column > indent && column + 1 + columns > width) {
      out += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (i > 0) {
      out += ' ';
      ++column;
    }
    out += word;
    column += columns;
    i = end + 1;
  }
  return out;
}

std::string WordWrap::Feed(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size();) {
    int32_t code_point = 0;
    const size_t size = Decode(text.substr(i), &code_point);
    Character(text.substr(i, size), code_point, &out);
    i += size;
  }
  return out;
}

void WordWrap::Character(std::string_view bytes, int32_t code_point, std::string* out) {
  constexpr std::string_view kFence = "```";
  constexpr size_t kTab = 8;
  if (code_point == '\n') {
    if (line_begin_ == kFence) fenced_ = !fenced_;
    line_begin_.clear();
    column_ = 0;
  } else if (line_begin_.size() < kFence.size()) {
    line_begin_ += bytes;
  }
  if (code_point == '\n' || code_point == ' ' || code_point == '\t') {
    word_.clear();
    word_columns_ = 0;
    if (code_point == '\t') column_ += kTab - column_ % kTab;
    if (code_point == ' ') {
      if (!fenced_ && column_ >= width_) return;  // it would begin the next line
      ++column_;
    }
    *out += bytes;
    return;
  }
  const size_t columns = ColumnsOf(code_point);
  if (columns == 2) {  // East Asian text may break anywhere
    word_.clear();
    word_columns_ = 0;
  }
  if (!fenced_ && column_ + columns > width_ && column_ > 0) {
    const bool moves = word_columns_ > 0 && word_columns_ < column_ && word_columns_ + columns <= width_;
    if (moves) {
      *out += fmt::format("\x1b[{}D\x1b[K\n{}", word_columns_, word_);
      column_ = word_columns_;
    } else {
      *out += '\n';
      column_ = 0;
      word_.clear();
      word_columns_ = 0;
    }
  }
  *out += bytes;
  column_ += columns;
  if (columns < 2) {
    word_ += bytes;
    word_columns_ += columns;
  }
}

std::string TerminalFilter::Feed(std::string_view bytes) {
  std::string text = std::move(held_);
  held_.clear();
  text.append(bytes);
  std::string out;
  for (size_t i = 0; i < text.size();) {
    const auto first = static_cast<uint8_t>(text[i]);
    if (first < 0x80) {
      const bool control = (first < 0x20 && first != '\n' && first != '\t') || first == 0x7F;
      if (control)
        out += fmt::format("\\x{:02x}", first);
      else
        out += text[i];
      ++i;
      continue;
    }
    const size_t need = first >= 0xF0 ? 4 : (first >= 0xE0 ? 3 : 2);
    if (first >= 0xC2 && first < 0xF5 && i + need > text.size()) {
      held_ = text.substr(i);
      break;
    }
    int32_t code_point = 0;
    const size_t size = Decode(std::string_view(text).substr(i), &code_point);
    // C1 controls steer terminals too.
    if (code_point < 0xA0)
      out += fmt::format("\\x{:02x}", code_point);
    else if (code_point == 0xFFFD)
      out += "\xEF\xBF\xBD";
    else
      out.append(text, i, size);
    i += size;
  }
  return out;
}

}  // namespace tidepool::cli
