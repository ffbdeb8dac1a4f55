// Windows of the clock: what a rule may say, and when it holds, over midnight and where clocks change. The
// oracle of LocalWallTime is the rule of the time zone itself, written as a POSIX zone (no zone files
// needed).
#include "platform/inference/schedule.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <ctime>
#include <string>

#include "platform/inference/elasticity.h"

namespace tidepool::platform {
namespace {

ScheduleRule Rule(std::string_view text) {
  auto rule = ParseScheduleRule(text);
  EXPECT_TRUE(rule) << rule.error().message;
  return rule ? *rule : ScheduleRule{};
}

bool Active(std::string_view rule, int32_t weekday, int32_t hour, int32_t minute) {
  return IsActive(Rule(rule), {.weekday = weekday, .minute = hour * 60 + minute});
}

constexpr int32_t kMon = 0, kFri = 4, kSat = 5, kSun = 6;

TEST(Schedule, EveryDay) {
  EXPECT_FALSE(Active("08:00-20:00 pin qwen3", kMon, 7, 59));
  EXPECT_TRUE(Active("08:00-20:00 pin qwen3", kMon, 8, 0));
  EXPECT_TRUE(Active("8:00-20:00 pin qwen3", kSun, 19, 59));
  EXPECT_FALSE(Active("08:00-20:00 pin qwen3", kSun, 20, 0));
  EXPECT_TRUE(Active("00:00-24:00 pin qwen3", kFri, 23, 59));
}

TEST(Schedule, Days) {
  EXPECT_TRUE(Active("Mon-Fri 09:00-18:00 pin a", kFri, 12, 0));
  EXPECT_FALSE(Active("Mon-Fri 09:00-18:00 pin a", kSat, 12, 0));
  EXPECT_TRUE(Active("sat,SUN 09:00-18:00 pin a", kSun, 12, 0));
  EXPECT_TRUE(Active("Sat+Sun 09:00-18:00 pin a", kSat, 12, 0));
  EXPECT_TRUE(Active("Fri-Mon 09:00-18:00 pin a", kMon, 12, 0)) << "a range over the end of the week";
  EXPECT_FALSE(Active("Fri-Mon 09:00-18:00 pin a", 2, 12, 0));
}

TEST(Schedule, OverMidnight) {
  EXPECT_TRUE(Active("Fri 22:00-06:00 pin a", kFri, 23, 0));
  EXPECT_TRUE(Active("Fri 22:00-06:00 pin a", kSat, 5, 59)) << "it began on Friday";
  EXPECT_FALSE(Active("Fri 22:00-06:00 pin a", kSat, 6, 0));
  EXPECT_FALSE(Active("Fri 22:00-06:00 pin a", kFri, 5, 0)) << "Thursday's night";
  EXPECT_TRUE(Active("Sun 22:00-06:00 pin a", kMon, 1, 0)) << "over the end of the week";
  EXPECT_TRUE(Active("22:00-00:00 pin a", kMon, 23, 59));
  EXPECT_FALSE(Active("22:00-00:00 pin a", kMon, 0, 0));
}

TEST(Schedule, SaysWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "empty"},
      {"   ", "empty"},
      {"Mo 08:00-20:00 pin a", "\"Mo\" is no day"},
      {"Mon-Fry 08:00-20:00 pin a", "\"Mon-Fry\" is no day"},
      {"08:00 pin a", "\"08:00\" is no time of day"},
      {"08:00-25:00 pin a", "no time of day"},
      {"08:60-20:00 pin a", "no time of day"},
      {"-08:00-20:00 pin a", "no time of day"},
      {"08:00-08:00 pin a", "no length"},
      {"24:00-08:00 pin a", "no length"},
      {"08:00-20:00", "\"pin\" and a model are missing"},
      {"08:00-20:00 drop a", "\"drop\" is no action"},
      {"08:00-20:00 pin", "a model's name is missing"},
      {"08:00-20:00 pin a b", "\"b\" is too much"},
      {"Mon", "no time of day"},
  };
  for (const auto& [text, says] : cases) {
    const auto rule = ParseScheduleRule(text);
    ASSERT_FALSE(rule) << text;
    EXPECT_NE(rule.error().message.find(says), std::string::npos) << text << ": " << rule.error().message;
    EXPECT_EQ(rule.error().param, "models.schedule");
    EXPECT_NE(rule.error().message.find("08:00-20:00 pin qwen3"), std::string::npos) << "an example";
  }
  EXPECT_FALSE(ParseScheduleRule(std::string(600, 'x')));
}

TEST(Schedule, WhatIsShownParsesToTheSame) {
  for (const char* text :
       {"08:00-20:00 pin qwen3", "Mon,Wed,Fri 22:15-06:30 pin a:b", "Sun 00:00-24:00 pin x"})
    EXPECT_EQ(ShowScheduleRule(Rule(text)), text);
}

class ZoneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const char* zone = std::getenv("TZ")) before_ = zone;
    ::setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3", 1);
    ::tzset();
  }
  void TearDown() override {
    if (before_.empty()) {
      ::unsetenv("TZ");
    } else {
      ::setenv("TZ", before_.c_str(), 1);
    }
    ::tzset();
  }
  std::string before_;
};

TEST_F(ZoneTest, ClocksGoForward) {
  // 2026-03-29, a Sunday: 01:00 UTC is 02:00 CET, which is 03:00 CEST.
  constexpr int64_t kChange = 1774746000;
  EXPECT_EQ(LocalWallTime(kChange - 60).minute, 1 * 60 + 59);
  EXPECT_EQ(LocalWallTime(kChange).minute, 3 * 60);
  EXPECT_EQ(LocalWallTime(kChange).weekday, kSun);
  const ScheduleRule rule = Rule("Sun 02:30-04:00 pin a");
  EXPECT_FALSE(IsActive(rule, LocalWallTime(kChange - 1)));
  EXPECT_TRUE(IsActive(rule, LocalWallTime(kChange))) << "it begins at the end of the missing hour";
  EXPECT_FALSE(IsActive(rule, LocalWallTime(kChange + 3600)));
}

TEST_F(ZoneTest, ClocksGoBack) {
  // 2026-10-25, a Sunday: 01:00 UTC is 03:00 CEST, which is 02:00 CET.
  constexpr int64_t kChange = 1792890000;
  EXPECT_EQ(LocalWallTime(kChange - 60).minute, 2 * 60 + 59);
  EXPECT_EQ(LocalWallTime(kChange).minute, 2 * 60);
  const ScheduleRule rule = Rule("Sun 02:15-02:45 pin a");
  EXPECT_TRUE(IsActive(rule, LocalWallTime(kChange - 3600 + 20 * 60)));
  EXPECT_FALSE(IsActive(rule, LocalWallTime(kChange)));
  EXPECT_TRUE(IsActive(rule, LocalWallTime(kChange + 20 * 60))) << "the hour comes twice";
}

TEST_F(ZoneTest, AWindowPinsAndLetsGo) {
  int64_t now = 1774746000 - 12 * 3600;  // Saturday 14:00 CET
  compute::ModelPolicy defaults;
  defaults.ttft_s = 3;
  ElasticityOptions options;
  options.pins = {"always", "nowhere"};
  options.schedule = {Rule("Sat 15:00-16:00 pin short"), Rule("Sun 22:00-23:00 pin always")};
  options.unix_time = [&now] { return now; };
  Elasticity elasticity(defaults, options);
  const auto look = [&] {
    return elasticity.Evaluate([](const std::string& name) {
      return name == "nowhere" ? std::nullopt : std::optional("id:" + name);
    });
  };
  EXPECT_EQ(look(), std::set<std::string>{"id:always"});
  EXPECT_FALSE(elasticity.PolicyOf("id:short").pinned);
  now += 3600;
  EXPECT_EQ(look(), (std::set<std::string>{"id:always", "id:short"}));
  EXPECT_EQ(elasticity.pin_source("id:short"), PinSource::kSchedule);
  EXPECT_EQ(elasticity.pin_source("id:always"), PinSource::kSettings);
  // The operator's word beats both.
  elasticity.Change("id:short", {.pinned = false});
  elasticity.Change("id:always", {.idle_ttl_s = 7});
  elasticity.Change("id:other", {.pinned = true, .tpot_s = 0.5});
  EXPECT_EQ(look(), (std::set<std::string>{"id:always", "id:other"}));
  EXPECT_EQ(elasticity.PolicyOf("id:always").idle_ttl_s, 7);
  EXPECT_TRUE(elasticity.PolicyOf("id:always").pinned);
  EXPECT_EQ(elasticity.PolicyOf("id:other").ttft_s, 3) << "the rest stays as the settings say";
  EXPECT_EQ(elasticity.PolicyOf("id:other").tpot_s, 0.5);
  elasticity.Forget("id:short");
  EXPECT_TRUE(look().contains("id:short"));
  now += 3600;
  EXPECT_FALSE(look().contains("id:short"));
}

TEST(Policy, RangesNameTheField) {
  const std::pair<PolicyChange, const char*> cases[] = {
      {{.idle_ttl_s = -2}, "idle_ttl_s"}, {{.min_resident_s = -1}, "min_resident_s"},
      {{.ttft_s = 0}, "ttft_s"},          {{.tpot_s = -0.1}, "tpot_s"},
      {{.weight = 0}, "weight"},          {{.weight = std::nan("")}, "weight"},
      {{.ttft_s = 1e9}, "ttft_s"},
  };
  for (const auto& [change, field] : cases) {
    const Status checked = CheckPolicyChange(change);
    ASSERT_FALSE(checked) << field;
    EXPECT_EQ(checked.error().param, field);
  }
  EXPECT_FALSE(CheckPolicyChange({}));
  EXPECT_TRUE(CheckPolicyChange({.idle_ttl_s = -1}));
}

}  // namespace
}  // namespace tidepool::platform
