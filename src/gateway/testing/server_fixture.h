// A gateway on a free port of this machine, over the scripted platform.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "gateway/gateway.h"
#include "gateway/testing/fake_platform.h"
#include "gateway/testing/raw_client.h"

namespace tidepool::gateway {

using Json = nlohmann::ordered_json;

class ServerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    options_.listen = "127.0.0.1:0";
    options_.max_body_bytes = 1 << 20;
  }

  void Start() {
    ServerHooks hooks;
    hooks.version = "0.1";
    hooks.commit = "abc";
    hooks.settings = [] { return Json{{"data", Json::array()}}; };
    hooks.doctor = [] { return Json{{"cores", 2}}; };
    hooks.status = [] { return Json{{"uptime_s", 1}}; };
    hooks.bench = [](const Json& body) -> Result<Json> {
      return Json{{"data", Json::array({body["model"]})}};
    };
    auto gateway = Gateway::Start(options_, inference_, catalog_, keys_, clock_, metrics_, std::move(hooks));
    ASSERT_TRUE(gateway) << gateway.error().message;
    gateway_ = std::move(*gateway);
    const std::string url = gateway_->url();
    port_ = static_cast<uint16_t>(std::stoi(url.substr(url.rfind(':') + 1)));
  }

  RawReply Ask(std::string_view request) {
    RawClient client(port_);
    client.Send(request);
    return client.ReadReply();
  }

  Json AskJson(std::string_view request, int status = 200) {
    const RawReply reply = Ask(request);
    EXPECT_EQ(reply.status, status) << reply.body;
    return Json::parse(reply.body, nullptr, false);
  }

  double Metric(const std::string& line) {
    const std::string text = metrics_.Serialize();
    const size_t at = text.find("\n" + line + " ");
    return at == std::string::npos ? 0 : std::stod(text.substr(at + line.size() + 2));
  }

  // The count follows the cancel by a few instructions of the I/O thread.
  bool WaitMetric(const std::string& line, double value) {
    for (int i = 0; i < 1000 && Metric(line) != value; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    return Metric(line) == value;
  }

  GatewayOptions options_;
  SteadyClock clock_;
  MetricsRegistry metrics_;
  FakeInference inference_;
  FakeCatalog catalog_;
  FakeKeys keys_;
  std::unique_ptr<Gateway> gateway_;
  uint16_t port_ = 0;
};

}  // namespace tidepool::gateway
