// Times of day at which models are to be resident: "08:00-20:00 pin qwen3", "Mon-Fri 09:00-18:00 pin
// smollm2:135m", "Sat,Sun 22:00-06:00 pin gemma3" (over midnight: the days are those it begins on; + joins
// days as well).
//
// Windows are of the wall clock, first minute included, last one not. Where clocks go forward, a window that
// begins in the missing hour begins at its end; where they go back, one inside the repeated hour comes twice.
//
// Pure functions, any thread.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

struct ScheduleRule {
  uint8_t days = 0x7f;       // bit 0: Monday ... bit 6: Sunday
  int32_t begin_minute = 0;  // of the day, 0..1439
  int32_t end_minute = 0;    // 1..1440; at or below begin_minute: of the next day
  std::string model;         // as it was written; the catalog resolves it
};

// At most 512 bytes. Errors say which part is wrong and what may stand there; param "models.schedule".
Result<ScheduleRule> ParseScheduleRule(std::string_view text);
std::string ShowScheduleRule(const ScheduleRule& rule);

// A moment on the wall clock.
struct WallTime {
  int32_t weekday = 0;  // 0: Monday
  int32_t minute = 0;   // of the day
};
WallTime LocalWallTime(int64_t unix_seconds);  // in the process' time zone (TZ, /etc/localtime)

bool IsActive(const ScheduleRule& rule, const WallTime& now);
// Models that a rule pins now.
std::set<std::string> WantedPins(std::span<const ScheduleRule> rules, const WallTime& now);

}  // namespace tidepool::platform
