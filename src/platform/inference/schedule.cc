#include "platform/inference/schedule.h"

#include <fmt/format.h>

#include <array>
#include <ctime>
#include <optional>

namespace tidepool::platform {
namespace {

constexpr size_t kMaxRuleBytes = 512;
constexpr int32_t kDayMinutes = 24 * 60;
constexpr std::array<std::string_view, 7> kDayNames = {"Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"};

tl::unexpected<Error> BadRule(std::string_view rule, const std::string& what) {
  return Fail(ErrorKind::kInvalid, "invalid_schedule",
              fmt::format("\"{}\": {}; write it like \"08:00-20:00 pin qwen3\" or \"Mon-Fri 09:00-18:00 pin "
                          "smollm2:135m\"",
                          rule.substr(0, 80), what),
              "models.schedule");
}

std::string_view NextWord(std::string_view& rest) {
  const size_t begin = rest.find_first_not_of(" \t");
  if (begin == std::string_view::npos) {
    rest = {};
    return {};
  }
  rest.remove_prefix(begin);
  const size_t end = std::min(rest.find_first_of(" \t"), rest.size());
  const std::string_view word = rest.substr(0, end);
  rest.remove_prefix(end);
  return word;
}

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::optional<int32_t> DayOf(std::string_view name) {
  for (size_t day = 0; day < kDayNames.size(); ++day) {
    if (name.size() != 3) break;
    bool same = true;
    for (size_t i = 0; i < 3; ++i) same = same && Lower(name[i]) == Lower(kDayNames[day][i]);
    if (same) return static_cast<int32_t>(day);
  }
  return std::nullopt;
}

// "Mon-Fri", "Sat,Sun", "Sat+Sun" (where commas part the items of a list), "Fri-Mon,Wed".
std::optional<uint8_t> DaysOf(std::string_view text) {
  unsigned days = 0;
  while (true) {
    const size_t comma = std::min(text.find_first_of(",+"), text.size());
    const std::string_view item = text.substr(0, comma);
    const size_t dash = item.find('-');
    const auto first = DayOf(item.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : DayOf(item.substr(dash + 1));
    if (!first || !last) return std::nullopt;
    for (int32_t day = *first;; day = (day + 1) % 7) {
      days |= 1u << day;
      if (day == *last) break;
    }
    if (comma == text.size()) return static_cast<uint8_t>(days);
    text.remove_prefix(comma + 1);
  }
}

// "HH:MM" or "H:MM", up to 24:00.
std::optional<int32_t> MinuteOf(std::string_view text) {
  const size_t colon = text.find(':');
  if (colon == std::string_view::npos || colon < 1 || colon > 2 || text.size() - colon != 3)
    return std::nullopt;
  int32_t parts[2] = {0, 0};
  for (size_t i = 0; i < text.size(); ++i) {
    if (i == colon) continue;
    if (text[i] < '0' || text[i] > '9') return std::nullopt;
    int32_t& part = parts[i > colon ? 1 : 0];
    part = part * 10 + (text[i] - '0');
  }
  const int32_t minute = parts[0] * 60 + parts[1];
  if (parts[1] > 59 || minute > kDayMinutes) return std::nullopt;
  return minute;
}

bool HasDay(const ScheduleRule& rule, int32_t day) { return (rule.days >> day & 1) != 0; }

std::string ShowMinute(int32_t minute) { return fmt::format("{:02}:{:02}", minute / 60, minute % 60); }

}  // namespace

Result<ScheduleRule> ParseScheduleRule(std::string_view text) {
  if (text.size() > kMaxRuleBytes) {
    return BadRule(text,
                   fmt::format("a rule of {} bytes is too long (at most {})", text.size(), kMaxRuleBytes));
  }
  ScheduleRule rule;
  std::string_view rest = text;
  std::string_view word = NextWord(rest);
  if (word.empty()) return BadRule(text, "the rule is empty");
  if (word.find(':') == std::string_view::npos) {
    const auto days = DaysOf(word);
    if (!days) {
      return BadRule(text,
                     fmt::format("\"{}\" is no day or range of days (Mon, Tue, Wed, Thu, Fri, Sat, Sun; "
                                 "Mon-Fri; Sat,Sun)",
                                 word.substr(0, 40)));
    }
    rule.days = *days;
    word = NextWord(rest);
  }
  const size_t dash = word.find('-');
  const auto begin = MinuteOf(word.substr(0, dash));
  const auto end = dash == std::string_view::npos ? std::nullopt : MinuteOf(word.substr(dash + 1));
  if (!begin || !end) {
    return BadRule(text, fmt::format("\"{}\" is no time of day such as 08:00-20:00 (00:00 to 24:00)",
                                     word.substr(0, 40)));
  }
  if (*begin == kDayMinutes || *end == 0 || *begin == *end) {
    if (*end == 0 && *begin != 0 && *begin != kDayMinutes) {
      rule.begin_minute = *begin;
      rule.end_minute = kDayMinutes;  // 22:00-00:00 ends at midnight
    } else {
      return BadRule(text, fmt::format("\"{}\" has no length; for the whole day write 00:00-24:00, and for "
                                       "always use the setting models.pin",
                                       word.substr(0, 40)));
    }
  } else {
    rule.begin_minute = *begin;
    rule.end_minute = *end;
  }
  const std::string_view verb = NextWord(rest);
  if (verb != "pin") {
    return BadRule(
        text, verb.empty() ? std::string("after the time \"pin\" and a model are missing")
                           : fmt::format("\"{}\" is no action; the only one is \"pin\"", verb.substr(0, 40)));
  }
  rule.model = NextWord(rest);
  if (rule.model.empty()) return BadRule(text, "after \"pin\" a model's name is missing");
  for (const char c : rule.model) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f)
      return BadRule(text, "the model's name holds a control character");
  }
  if (const std::string_view more = NextWord(rest); !more.empty())
    return BadRule(text, fmt::format("\"{}\" is too much; one rule pins one model", more.substr(0, 40)));
  return rule;
}

std::string ShowScheduleRule(const ScheduleRule& rule) {
  std::string days;
  if (rule.days != 0x7f) {
    for (int32_t day = 0; day < 7; ++day) {
      if (HasDay(rule, day))
        days += fmt::format("{}{}", days.empty() ? "" : ",", kDayNames[static_cast<size_t>(day)]);
    }
    days += ' ';
  }
  return fmt::format("{}{}-{} pin {}", days, ShowMinute(rule.begin_minute), ShowMinute(rule.end_minute),
                     rule.model);
}

WallTime LocalWallTime(int64_t unix_seconds) {
  const auto seconds = static_cast<std::time_t>(unix_seconds);
  std::tm local{};
  if (::localtime_r(&seconds, &local) == nullptr) ::gmtime_r(&seconds, &local);
  return {.weekday = (local.tm_wday + 6) % 7, .minute = local.tm_hour * 60 + local.tm_min};
}

bool IsActive(const ScheduleRule& rule, const WallTime& now) {
  if (rule.end_minute > rule.begin_minute)
    return HasDay(rule, now.weekday) && now.minute >= rule.begin_minute && now.minute < rule.end_minute;
  return (HasDay(rule, now.weekday) && now.minute >= rule.begin_minute) ||
         (HasDay(rule, (now.weekday + 6) % 7) && now.minute < rule.end_minute);
}

std::set<std::string> WantedPins(std::span<const ScheduleRule> rules, const WallTime& now) {
  std::set<std::string> wanted;
  for (const ScheduleRule& rule : rules) {
    if (IsActive(rule, now)) wanted.insert(rule.model);
  }
  return wanted;
}

}  // namespace tidepool::platform
