// Any text is a rule or an error; a rule that is shown parses to the same rule.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "platform/inference/schedule.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  const auto rule = ParseScheduleRule({reinterpret_cast<const char*>(data), size});
  if (!rule) {
    CHECK(!rule.error().message.empty() && rule.error().param == "models.schedule");
    return 0;
  }
  CHECK(rule->days != 0 && rule->days <= 0x7f && !rule->model.empty());
  CHECK(rule->begin_minute >= 0 && rule->begin_minute < 1440);
  CHECK(rule->end_minute > 0 && rule->end_minute <= 1440 && rule->begin_minute != rule->end_minute);
  const auto again = ParseScheduleRule(ShowScheduleRule(*rule));
  CHECK(again && again->days == rule->days && again->begin_minute == rule->begin_minute &&
        again->end_minute == rule->end_minute && again->model == rule->model);
  int32_t active = 0;
  for (int32_t weekday = 0; weekday < 7; ++weekday) {
    for (int32_t minute = 0; minute < 1440; minute += 5) active += IsActive(*rule, {weekday, minute}) ? 1 : 0;
  }
  CHECK(active < 7 * 288 || rule->days == 0x7f);
  return 0;
}
