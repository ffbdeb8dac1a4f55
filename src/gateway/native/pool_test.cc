// /api/v1/pool over real sockets, with a pool that a test scripts: what is shown, what is refused, the
// stream.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "gateway/testing/server_fixture.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class FakePool final : public platform::PoolControl {
 public:
  platform::PoolState State() const override {
    const std::lock_guard lock(mutex_);
    return state_;
  }
  Status Resize(const platform::PoolResize& resize) override {
    const std::lock_guard lock(mutex_);
    if (resize.memory) state_.memory.limit = *resize.memory;
    if (resize.warm_memory) state_.warm.limit = *resize.warm_memory;
    if (resize.host_kv) return Fail(ErrorKind::kInvalid, "no_such_budget", "no host KV here", "host_kv");
    return {};
  }
  Result<platform::PoolModelState> SetPolicy(const std::string& model,
                                             const platform::PolicyChange& change) override {
    if (model != "small") return Fail(ErrorKind::kNotFound, "model_not_found", "no such model", "model");
    platform::PoolModelState state;
    state.id = model;
    state.pin = change.pinned.value_or(false) ? platform::PinSource::kOperator : platform::PinSource::kNone;
    state.policy.ttft_s = change.ttft_s.value_or(10);
    return state;
  }
  void SetCordoned(bool cordoned) override {
    Change([&](platform::PoolState& state) { state.device.cordoned = cordoned; });
  }
  platform::PoolEventList Events(uint64_t after, size_t most) const override {
    const std::lock_guard lock(mutex_);
    const compute::PoolEvents found = log_.Since(after, most);
    platform::PoolEventList list{.entries = {}, .missed = found.missed, .last = found.last};
    for (const compute::PoolEvent& event : found.events)
      list.entries.push_back({.unix_s = static_cast<double>(event.at) * 1e-9, .event = event});
    return list;
  }
  platform::PoolTurnList Turns(uint64_t after, size_t most) const override {
    const std::lock_guard lock(mutex_);
    const compute::PoolTurns found = turns_.Since(after, most);
    platform::PoolTurnList list{.entries = {}, .missed = found.missed, .last = found.last};
    for (const compute::PoolTurn& turn : found.turns) {
      list.entries.push_back({.from_s = static_cast<double>(turn.from) * 1e-9,
                              .to_s = static_cast<double>(turn.to) * 1e-9,
                              .turn = turn});
    }
    return list;
  }
  Result<std::string> Trace(bool /*requests*/) const override {
    return Fail(ErrorKind::kNotFound, "no_trace", "nothing is recorded");
  }
  void UpdateMetrics() override { ++updates; }

  void Happen(compute::PoolEventKind kind, const std::string& model, uint64_t bytes = 0) {
    const std::lock_guard lock(mutex_);
    log_.Add({.at = 1'500'000'000,
              .kind = kind,
              .reason = compute::Reason::kUrgent,
              .model = std::make_shared<const std::string>(model),
              .bytes = bytes,
              .segments = 3});
  }

  void Compute(const std::string& model, Nanoseconds from, Nanoseconds to, double slack_s) {
    const std::lock_guard lock(mutex_);
    turns_.Add(std::make_shared<const std::string>(model), from, to, 8);
    turns_.Token(slack_s);
  }

  void Change(const std::function<void(platform::PoolState&)>& change) {
    const std::lock_guard lock(mutex_);
    change(state_);
  }
  std::atomic<int> updates{0};

 private:
  mutable std::mutex mutex_;
  compute::PoolEventLog log_{4};
  compute::PoolTurnLog turns_{4};
  platform::PoolState state_;
};

class PoolApiTest : public ServerTest {
 protected:
  void SetUp() override {
    ServerTest::SetUp();
    inference_.pool_control = &pool_;
    pool_.Change([](platform::PoolState& state) {
      state.memory = {.limit = 1000, .used = 600};
      state.owners = {{"small", compute::ChargeKind::kWeights, 600}};
      platform::PoolModelState model;
      model.id = "small";
      model.state = platform::DeploymentState::kReady;
      model.segments = {.resident = 3, .loading = 1, .warm = 2, .cold = 4};
      model.slack_s = -0.5;
      state.models.push_back(model);
      platform::PoolModelState broken;
      broken.id = "broken";
      broken.state = platform::DeploymentState::kQuarantined;
      broken.error = Error{ErrorKind::kCorrupt, "bad_file", "the file ends early", "", 0};
      broken.retry_in_s = 4;
      state.models.push_back(broken);
    });
  }
  FakePool pool_;
};

TEST_F(PoolApiTest, ShowsBudgetsAndModels) {
  Start();
  const Json state = AskJson(Get("/api/v1/pool"));
  EXPECT_EQ(state["memory"]["limit_bytes"], 1000);
  EXPECT_EQ(state["memory"]["over_bytes"], 0);
  EXPECT_EQ(state["memory"]["owners"], Json::parse(R"([{"owner":"small","kind":"weights","bytes":600}])"));
  ASSERT_EQ(state["models"].size(), 2u);
  EXPECT_EQ(state["models"][0]["segments"], Json::parse(R"({"resident":3,"loading":1,"warm":2,"cold":4})"));
  EXPECT_EQ(state["models"][0]["slack_s"], -0.5);
  EXPECT_EQ(state["models"][1]["state"], "quarantined");
  EXPECT_EQ(state["models"][1]["retry_in_s"], 4);
  EXPECT_EQ(state["models"][1]["error"]["message"], "the file ends early");
  EXPECT_TRUE(state["models"][1]["slack_s"].is_null());
}

TEST_F(PoolApiTest, HistoryTellsTurnsAndEventsAfterANumber) {
  Start();
  for (int i = 0; i < 6; ++i)
    pool_.Compute(i % 2 == 0 ? "small" : "other", i * kSecond, (i + 1) * kSecond, i == 5 ? -0.5 : 0.5);
  pool_.Happen(compute::PoolEventKind::kLoad, "small", 100);
  const Json all = AskJson(Get("/api/v1/pool/history"));
  EXPECT_EQ(all["turns_missed"], 2);
  EXPECT_EQ(all["turns_last"], 6);
  ASSERT_EQ(all["turns"].size(), 4u);
  EXPECT_EQ(all["turns"][3],
            Json::parse(R"({"number":6,"model":"other","from":5.0,"to":6.0,"steps":1,"tokens":8,
      "answered":1,"late":1,"least_slack_s":-0.5})"));
  ASSERT_EQ(all["events"].size(), 1u);
  EXPECT_EQ(all["events"][0]["event"], "load");
  EXPECT_EQ(all["events"][0]["model"], "small");
  const Json rest = AskJson(Get("/api/v1/pool/history?turns_after=5&events_after=1"));
  EXPECT_EQ(rest["turns"].size(), 1u);
  EXPECT_EQ(rest["turns_missed"], 0);
  EXPECT_EQ(rest["events"].size(), 0u);
  const Json few = AskJson(Get("/api/v1/pool/history?limit=2"));
  EXPECT_EQ(few["turns"].size(), 2u);
  EXPECT_EQ(few["turns"][0]["number"], 3) << "the oldest that is kept";
  EXPECT_EQ(AskJson(Get("/api/v1/pool/history?turns_after=-1"), 400)["error"]["param"], "turns_after");
  EXPECT_EQ(AskJson(Get("/api/v1/pool/history?limit=0"), 400)["error"]["param"], "limit");
}

TEST_F(PoolApiTest, OperatorsOnly) {
  Start();
  const std::string user = "Host: localhost\r\nAuthorization: Bearer tp-user-key\r\n";
  EXPECT_EQ(Ask("GET /api/v1/pool HTTP/1.1\r\n" + user + "\r\n").status, 403);
  EXPECT_EQ(Ask("GET /api/v1/pool/events HTTP/1.1\r\n" + user + "\r\n").status, 403);
  EXPECT_EQ(Ask("GET /api/v1/pool HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 401);
}

TEST_F(PoolApiTest, Resizes) {
  Start();
  const Json down = AskJson(Post("/api/v1/pool/resize", R"({"memory":100,"warm_memory":0})"));
  EXPECT_EQ(down["memory"]["limit_bytes"], 100);
  EXPECT_EQ(down["memory"]["over_bytes"], 500);
  EXPECT_EQ(down["draining"], true);
  EXPECT_THAT(down["note"].get<std::string>(), HasSubstr("Nothing is killed"));
  const Json up = AskJson(Post("/api/v1/pool/resize", R"({"memory":5000})"));
  EXPECT_EQ(up["draining"], false);
  for (const auto& [body, field] :
       std::vector<std::pair<std::string, std::string>>{{R"({"memory":-5})", "memory"},
                                                        {R"({"memory":1.5})", "memory"},
                                                        {R"({"warm_memory":[]})", "warm_memory"},
                                                        {R"({"host_kv":1})", "host_kv"},
                                                        {R"({"mem":1})", "mem"}}) {
    const Json refused = AskJson(Post("/api/v1/pool/resize", body), 400);
    EXPECT_EQ(refused["error"]["param"], field) << refused.dump();
  }
}

TEST_F(PoolApiTest, Policies) {
  Start();
  const Json pinned = AskJson(Post("/api/v1/pool/policy", R"({"model":"small","pinned":true,"ttft_s":2.5})"));
  EXPECT_EQ(pinned["pinned"], true);
  EXPECT_EQ(pinned["pinned_by"], "operator");
  EXPECT_EQ(pinned["ttft_s"], 2.5);
  EXPECT_EQ(AskJson(Post("/api/v1/pool/policy", R"({"model":"gone","pinned":true})"), 404)["error"]["param"],
            "model");
  for (const auto& [body, field] : std::vector<std::pair<std::string, std::string>>{
           {R"({"pinned":true})", "model"},
           {R"({"model":"small","pinned":1})", "pinned"},
           {R"({"model":"small","ttft_s":0})", "ttft_s"},
           {R"({"model":"small","tpot_s":"fast"})", "tpot_s"},
           {R"({"model":"small","idle_ttl_s":-0.5})", "idle_ttl_s"},
           {R"({"model":"small","weight":2000})", "weight"},
           {R"({"model":"small","pin":true})", "pin"}}) {
    const Json refused = AskJson(Post("/api/v1/pool/policy", body), 400);
    EXPECT_EQ(refused["error"]["param"], field) << refused.dump();
  }
  EXPECT_EQ(AskJson(Post("/api/v1/pool/policy", R"({"model":"small"})"), 400)["error"]["code"],
            "missing_field");
}

TEST_F(PoolApiTest, CordonsAndCountsOnlyWhenAsked) {
  Start();
  EXPECT_EQ(AskJson(Post("/api/v1/pool/cordon", R"({"cordoned":true})"))["cordoned"], true);
  EXPECT_TRUE(pool_.State().device.cordoned);
  EXPECT_EQ(AskJson(Post("/api/v1/pool/cordon", "{}"), 400)["error"]["param"], "cordoned");
  EXPECT_EQ(pool_.updates, 0);
  EXPECT_EQ(Ask(Get("/metrics")).status, 200);
  EXPECT_EQ(pool_.updates, 1);
}

TEST_F(PoolApiTest, WithoutAPool) {
  inference_.pool_control = nullptr;
  Start();
  EXPECT_EQ(Ask(Get("/api/v1/pool")).status, 501);
  EXPECT_EQ(Ask(Get("/api/v1/pool/events")).status, 501);
  EXPECT_EQ(Ask(Get("/metrics")).status, 200);
}

TEST_F(PoolApiTest, StreamsWhatChanges) {
  Start();
  RawClient client(port_);
  client.Send(Get("/api/v1/pool/events"));
  ASSERT_TRUE(client.ReadUntil("event: state")) << client.received();
  EXPECT_THAT(client.received(), HasSubstr("text/event-stream"));
  pool_.Change([](platform::PoolState& state) { state.models.pop_back(); });
  ASSERT_TRUE(client.ReadUntil(R"({"model":"broken","state":"stored"})")) << client.received();
  client.Close();
  EXPECT_TRUE(WaitMetric("tidepool_http_requests_in_flight", 0));
}

TEST_F(PoolApiTest, TellsWhatHappenedOnceAndInOrder) {
  pool_.Happen(compute::PoolEventKind::kEvict, "before");
  Start();
  RawClient client(port_);
  client.Send(Get("/api/v1/pool/events"));
  ASSERT_TRUE(client.ReadUntil("event: state")) << client.received();
  pool_.Happen(compute::PoolEventKind::kLoad, "small", 600);
  pool_.Happen(compute::PoolEventKind::kLoaded, "small", 600);
  ASSERT_TRUE(client.ReadUntil("\"number\":3")) << client.received();
  EXPECT_THAT(client.received(),
              HasSubstr("event: load\ndata: "
                        R"({"number":2,"time":1.5,"model":"small","reason":"urgent","bytes":600,)"
                        R"("resident_segments":3})"));
  EXPECT_THAT(client.received(), Not(HasSubstr("before"))) << "it had not asked yet";
  pool_.Happen(compute::PoolEventKind::kSwitch, "small");
  ASSERT_TRUE(client.ReadUntil("event: switch")) << client.received();
  const std::string all = client.received();
  EXPECT_EQ(all.find("\"number\":2"), all.rfind("\"number\":2")) << "told twice";
  client.Close();
}

// More happens between two looks than the log keeps: the watcher hears how much it missed.
TEST_F(PoolApiTest, WhatLeftTheLogIsTold) {
  Start();
  RawClient client(port_);
  client.Send(Get("/api/v1/pool/events"));
  ASSERT_TRUE(client.ReadUntil("event: state")) << client.received();
  for (int i = 0; i < 10; ++i) pool_.Happen(compute::PoolEventKind::kSpill, "small");
  ASSERT_TRUE(client.ReadUntil("\"number\":10")) << client.received();
  EXPECT_THAT(client.received(), HasSubstr("event: missed\ndata: {\"count\":"));
  client.Close();
}

TEST_F(PoolApiTest, ADrainEndsTheStream) {
  Start();
  RawClient client(port_);
  client.Send(Get("/api/v1/pool/events"));
  ASSERT_TRUE(client.ReadUntil("event: state"));
  EXPECT_TRUE(gateway_->Drain()) << "nothing is in flight any more";
  EXPECT_TRUE(client.ReadUntil("\r\n0\r\n\r\n")) << client.received();
  EXPECT_EQ(Ask(Get("/api/v1/pool/events")).status, 503);
}

TEST_F(PoolApiTest, OnlySoManyWatch) {
  Start();
  std::vector<std::unique_ptr<RawClient>> watchers;
  for (int i = 0; i < 64; ++i) {
    watchers.push_back(std::make_unique<RawClient>(port_));
    watchers.back()->Send(Get("/api/v1/pool/events"));
  }
  for (const auto& watcher : watchers) ASSERT_TRUE(watcher->ReadUntil("event: state"));
  const RawReply one_more = Ask(Get("/api/v1/pool/events"));
  EXPECT_EQ(one_more.status, 429);
  EXPECT_TRUE(one_more.headers.contains("retry-after"));
}

}  // namespace
}  // namespace tidepool::gateway
