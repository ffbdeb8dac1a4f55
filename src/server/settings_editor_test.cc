#include "server/settings_editor.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace tidepool::server {
namespace {

using Json = nlohmann::ordered_json;

class SettingsEditorTest : public ::testing::Test {
 protected:
  void SetUp() override {
    home_ = std::filesystem::temp_directory_path() / ("tidepool_editor_" + std::to_string(::getpid()));
    std::filesystem::create_directories(home_);
    input_.environment = {{"TIDEPOOL_HOME", home_.string()}, {"TIDEPOOL_POOL_TPOT_S", "0.3"}};
    Start();
  }
  void TearDown() override { std::filesystem::remove_all(home_); }

  void Start() {
    auto settings = ResolveSettings(input_);
    ASSERT_TRUE(settings) << settings.error().message;
    running_ = std::move(*settings);
    SettingsEditor::Hooks hooks;
    hooks.check = [](const Settings& next) -> Status {
      if (next.models.schedule == std::vector<std::string>{"never"})
        return Fail(ErrorKind::kInvalid, "bad_schedule", "no such time", "models.schedule");
      return {};
    };
    hooks.live["log.level"] = [this](const Settings& next) -> Status {
      if (next.log.level == "error") return Fail(ErrorKind::kInvalid, "no", "not now", "log.level");
      level_ = next.log.level;
      return {};
    };
    editor_ = std::make_unique<SettingsEditor>(running_, std::move(hooks));
  }
  Status Change(const Json& values) {
    return editor_->Change(values, [this](const Json& before, const Json& after) -> Status {
      if (!records_) return Fail(ErrorKind::kUnavailable, "store_away", "cannot be recorded");
      recorded_.push_back({before, after});
      return {};
    });
  }
  Json Row(const std::string& id) {
    const Json rows = editor_->Describe();
    return *std::find_if(rows.begin(), rows.end(), [&](const Json& row) { return row["id"] == id; });
  }
  bool Kept() const { return std::filesystem::exists(home_ / kConsoleFile); }

  std::filesystem::path home_;
  SettingsInput input_;
  Settings running_;
  std::unique_ptr<SettingsEditor> editor_;
  std::string level_;
  bool records_ = true;
  std::vector<std::pair<Json, Json>> recorded_;
};

TEST_F(SettingsEditorTest, AChangeTakesEffectAtTheNextStart) {
  ASSERT_TRUE(
      Change({{"pool.ttft_s", 5}, {"models.pin", Json::array({"a:1", "b:2"})}, {"pool.speculation", false}}));
  EXPECT_EQ(Row("pool.ttft_s")["value"], "10");
  EXPECT_EQ(Row("pool.ttft_s")["next"], "5");
  EXPECT_EQ(Row("pool.ttft_s")["next_source"], "console");
  EXPECT_EQ(Row("pool.age_bound_s")["next"], nullptr);
  ASSERT_EQ(recorded_.size(), 1u);
  EXPECT_EQ(recorded_[0].second["pool.ttft_s"], "5");
  Start();
  EXPECT_EQ(running_.pool.ttft_s, 5);
  EXPECT_EQ(running_.models.pin, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_FALSE(running_.pool.speculation);
  EXPECT_EQ(Row("pool.ttft_s")["next"], nullptr);
  // Taken back.
  ASSERT_TRUE(Change({{"pool.ttft_s", nullptr}}));
  EXPECT_EQ(recorded_[1].first["pool.ttft_s"], "5");
  EXPECT_EQ(Row("pool.ttft_s")["next"], "10");
  Start();
  EXPECT_EQ(running_.pool.ttft_s, 10);
  EXPECT_FALSE(running_.pool.speculation) << "the others stay";
}

TEST_F(SettingsEditorTest, AVariableStillBeatsIt) {
  ASSERT_TRUE(Change({{"pool.tpot_s", "0.05"}}));
  EXPECT_EQ(Row("pool.tpot_s")["next"], nullptr);
  EXPECT_EQ(Row("pool.tpot_s")["next_source"], "environment");
}

TEST_F(SettingsEditorTest, LiveSettingsAreAppliedAtOnce) {
  ASSERT_TRUE(Change({{"log.level", "debug"}}));
  EXPECT_EQ(level_, "debug");
  EXPECT_EQ(Row("log.level")["value"], "debug");
  EXPECT_EQ(Row("log.level")["source"], "console");
  EXPECT_EQ(Row("log.level")["live"], true);
  EXPECT_EQ(Row("log.level")["next"], nullptr);
  const Status refused = Change({{"log.level", "error"}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(Row("log.level")["value"], "debug");
  Start();
  EXPECT_EQ(running_.log.level, "debug") << "what was refused is not kept";
}

TEST_F(SettingsEditorTest, WhatAStartWouldRefuseIsRefusedAndNothingIsWritten) {
  for (const Json& bad : {Json{{"pool.ttft_s", "soon"}}, Json{{"pool.ttft_s", 5}, {"pool.tpot_s", -1}},
                          Json{{"models.schedule", "never"}}, Json{{"pool.nothing", 1}},
                          Json{{"home", "/tmp"}}, Json{{"pull.pip", "sh -c true"}}, Json{{"http.open", true}},
                          Json{{"models.pin", "a\nb"}}, Json{{"models.pin", {{"a", 1}}}},
                          Json{{"models.pin", std::string(5000, 'a')}}, Json::object(), Json::array()}) {
    const Status changed = Change(bad);
    ASSERT_FALSE(changed) << bad;
    EXPECT_FALSE(changed.error().param.empty()) << bad;
  }
  EXPECT_TRUE(recorded_.empty());
  EXPECT_FALSE(Kept());
  // Nor what cannot be recorded.
  records_ = false;
  ASSERT_FALSE(Change({{"pool.ttft_s", 5}, {"log.level", "debug"}}));
  EXPECT_FALSE(Kept());
  EXPECT_EQ(level_, "");
}

}  // namespace
}  // namespace tidepool::server
