#include "server/settings.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace tidepool::server {
namespace {

class SettingsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    home_ = std::filesystem::temp_directory_path() / ("tidepool_settings_" + std::to_string(::getpid()));
    std::filesystem::create_directories(home_);
    input_.environment = {{"TIDEPOOL_HOME", home_.string()}};
  }
  void TearDown() override { std::filesystem::remove_all(home_); }
  void WriteFile(const std::string& text) { std::ofstream(home_ / "tidepool.toml") << text; }

  std::filesystem::path home_;
  SettingsInput input_;
};

TEST_F(SettingsTest, DefaultsHold) {
  const auto settings = ResolveSettings(input_);
  ASSERT_TRUE(settings.has_value()) << settings.error().message;
  EXPECT_EQ(settings->listen, "127.0.0.1:8433");
  EXPECT_EQ(settings->http.max_body, uint64_t{16} << 20);
  EXPECT_EQ(settings->pool.max_batch_tokens, 512);
  EXPECT_EQ(settings->sources.at("listen"), "default");
}

TEST_F(SettingsTest, FlagBeatsVariableBeatsFile) {
  WriteFile("listen = '127.0.0.1:1'\n[pool]\nthreads = 3\nmax_sequences = 7\n");
  input_.environment.emplace_back("TIDEPOOL_LISTEN", "127.0.0.1:2");
  input_.environment.emplace_back("TIDEPOOL_POOL_THREADS", "4");
  input_.flags = {"--listen=127.0.0.1:3", "--open"};
  const auto settings = ResolveSettings(input_);
  ASSERT_TRUE(settings.has_value()) << settings.error().message;
  EXPECT_EQ(settings->listen, "127.0.0.1:3");
  EXPECT_EQ(settings->pool.threads, 4);
  EXPECT_EQ(settings->pool.max_sequences, 7);
  EXPECT_TRUE(settings->http.open);
  EXPECT_EQ(settings->sources.at("listen"), "flag");
  EXPECT_EQ(settings->sources.at("pool.threads"), "environment");
  EXPECT_EQ(settings->sources.at("pool.max_sequences"), "file");
}

TEST_F(SettingsTest, TheConsolesChangesStandBetweenFileAndVariables) {
  WriteFile("[pool]\nttft_s = 3\nmax_sequences = 7\n");
  const std::map<std::string, std::string> values = {
      {"pool.ttft_s", "5"}, {"pool.tpot_s", "0.2"}, {"models.schedule", "08:00-20:00 pin \"qwen\\3\""}};
  std::ofstream(home_ / kConsoleFile) << ConsoleFileText(values);
  EXPECT_EQ(*ReadConsoleFile(home_), values);
  input_.environment.emplace_back("TIDEPOOL_POOL_TPOT_S", "0.3");
  const auto settings = ResolveSettings(input_);
  ASSERT_TRUE(settings.has_value()) << settings.error().message;
  EXPECT_EQ(settings->pool.ttft_s, 5);
  EXPECT_EQ(settings->sources.at("pool.ttft_s"), "console");
  EXPECT_EQ(settings->pool.tpot_s, 0.3);
  EXPECT_EQ(settings->pool.max_sequences, 7);
  // What another version wrote, and what may not be changed there, is no reason not to start.
  std::ofstream(home_ / kConsoleFile) << "pool.gone = \"1\"\nlisten = \"0.0.0.0:80\"\n";
  const auto other = ResolveSettings(input_);
  ASSERT_TRUE(other.has_value()) << other.error().message;
  EXPECT_EQ(other->listen, "127.0.0.1:8433");
  std::ofstream(home_ / kConsoleFile) << "pool.ttft_s = \"soon\"\n";
  const auto bad = ResolveSettings(input_);
  ASSERT_FALSE(bad.has_value());
  EXPECT_NE(bad.error().message.find("console.toml"), std::string::npos) << bad.error().message;
}

TEST_F(SettingsTest, WhatReachesBeyondTheServerIsNotEditable) {
  for (const char* name :
       {"home", "listen", "http.open", "http.trusted_proxy", "hub.token", "hub.endpoint", "pull.pip",
        "pull.allowed_roots", "log.file", "store.postgresql", "simulated.tally"})
    EXPECT_EQ(IsEditable(name), false) << name;
  for (const char* name :
       {"pool.memory", "pool.ttft_s", "models.pin", "models.schedule", "ledger.free_tokens", "log.level"})
    EXPECT_EQ(IsEditable(name), true) << name;
  EXPECT_EQ(IsEditable("pool.nothing"), std::nullopt);
}

TEST_F(SettingsTest, BadValuesNameSettingValueAndAllowed) {
  input_.flags = {"--pool-kv-type", "q3"};
  const auto bad = ResolveSettings(input_);
  ASSERT_FALSE(bad.has_value());
  EXPECT_EQ(bad.error().param, "pool.kv_type");
  EXPECT_NE(bad.error().message.find("'q3'"), std::string::npos);
  EXPECT_NE(bad.error().message.find("f16, bf16, q8, f32"), std::string::npos);

  for (const auto& [flag, value] :
       std::vector<std::pair<std::string, std::string>>{{"--http-threads", "0"},
                                                        {"--http-threads", "1.5"},
                                                        {"--http-threads", "x"},
                                                        {"--pool-memory", "120%"},
                                                        {"--pool-memory", "3 bananas"},
                                                        {"--http-max-body", "1"},
                                                        {"--log-level", "loud"},
                                                        {"--open", ""},
                                                        {"--http-write-timeout-s", "nan"}}) {
    input_.flags = {flag + "=" + value};
    const auto result = ResolveSettings(input_);
    EXPECT_FALSE(result.has_value()) << flag << "=" << value;
  }
}

TEST_F(SettingsTest, UnknownNamesAreErrorsWithASuggestion) {
  input_.flags = {"--lisen", "x"};
  auto result = ResolveSettings(input_);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("--listen"), std::string::npos) << result.error().message;

  input_.flags = {};
  input_.environment.emplace_back("TIDEPOOL_LISTN", "x");
  result = ResolveSettings(input_);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("TIDEPOOL_LISTEN"), std::string::npos) << result.error().message;

  input_.environment.pop_back();
  WriteFile("[pool]\nmemry = '1GiB'\n");
  result = ResolveSettings(input_);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("pool.memory"), std::string::npos) << result.error().message;
}

TEST_F(SettingsTest, ABrokenFileSaysWhere) {
  WriteFile("listen = \n");
  const auto result = ResolveSettings(input_);
  ASSERT_FALSE(result.has_value());
  EXPECT_NE(result.error().message.find("line 1"), std::string::npos) << result.error().message;
}

TEST_F(SettingsTest, ListsComeFromArraysAndCommas) {
  WriteFile("[models]\npreload = ['a:1', 'b:2']\n");
  input_.flags = {"--http-allowed-hosts", "one.example, two.example"};
  const auto settings = ResolveSettings(input_);
  ASSERT_TRUE(settings.has_value()) << settings.error().message;
  EXPECT_EQ(settings->models.preload, (std::vector<std::string>{"a:1", "b:2"}));
  EXPECT_EQ(settings->http.allowed_hosts, (std::vector<std::string>{"one.example", "two.example"}));
}

TEST_F(SettingsTest, MemoryIsBytesOrAShare) {
  input_.flags = {"--pool-memory", "50%"};
  auto settings = ResolveSettings(input_);
  EXPECT_EQ(MemoryBytes(settings->pool.memory, 1000).value(), 500u);
  input_.flags = {"--pool-memory", "1.5GiB"};
  settings = ResolveSettings(input_);
  EXPECT_EQ(MemoryBytes(settings->pool.memory, 1000).value(), uint64_t{1610612736});
}

TEST_F(SettingsTest, SecretsAreMasked) {
  input_.environment.emplace_back("TIDEPOOL_HUB_TOKEN", "hf_secret");
  const auto settings = ResolveSettings(input_);
  ASSERT_TRUE(settings.has_value());
  EXPECT_EQ(DescribeSettings(*settings).dump().find("hf_secret"), std::string::npos);
}

TEST(SettingsReference, CommittedPageIsCurrent) {
  std::ifstream file(std::string(TIDEPOOL_SOURCE_DIR) + "/docs/settings.md");
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), SettingsReference()) << "run: build/tidepool settings --reference > docs/settings.md";
}

}  // namespace
}  // namespace tidepool::server
