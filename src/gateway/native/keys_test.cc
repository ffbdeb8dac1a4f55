// Keys through HTTP: what they may do, streams that end with them, rotation, idempotent creation.
#include <algorithm>

#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class KeysApiTest : public AccountsApiTest {
 protected:
  // An answer that has begun, and goes on until it is cut.
  bool Streams(RawClient& client, const std::string& key) {
    inference_.SetScript([](FakeRun& run) {
      run.Token("first");
      run.WaitCancelled(20);
      run.Done(Fail(ErrorKind::kCancelled, "cancelled", "cancelled"));
    });
    client.Send(Raw(KeyVoice(key), "POST", "/v1/chat/completions",
                    R"({"model":"scripted","stream":true,"messages":[{"role":"user","content":"hi"}]})"));
    return client.ReadUntil("first");
  }
};

TEST_F(KeysApiTest, ARevokedKeysStreamsAreCutWithinASecond) {
  StartWithAccounts();
  const Json made = Tell(operator_, "POST", "/api/v1/keys", {{"name", "stream"}, {"service", true}}, 201);
  RawClient client(port_);
  ASSERT_TRUE(Streams(client, made["key"]));
  EXPECT_EQ(inference_.last_chat().principal.key, made["id"]);
  EXPECT_EQ(inference_.last_chat().principal.account, "default/default/" + made["id"].get<std::string>());
  const auto start = std::chrono::steady_clock::now();
  Tell(operator_, "DELETE", "/api/v1/keys/" + made["id"].get<std::string>(), nullptr, 200);
  EXPECT_TRUE(client.ReadEnd(10));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(1));
  EXPECT_TRUE(WaitMetric("tidepool_http_cut_requests_total", 1));
  for (int i = 0; i < 1000 && inference_.cancelled() == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(inference_.cancelled(), 1);
  EXPECT_EQ(Tell(KeyVoice(made["key"]), "GET", "/v1/models", nullptr, 401)["error"]["code"], "key_revoked");
}

TEST_F(KeysApiTest, ARevokedKeysConversationsStopBeingWritten) {
  StartWithAccounts();
  const Json made = Tell(operator_, "POST", "/api/v1/keys", {{"name", "chat"}, {"service", true}}, 201);
  const Voice voice = KeyVoice(made["key"]);
  inference_.SetScript([](FakeRun& run) {
    run.Token("first");
    run.WaitCancelled(20);
    run.Finish(compute::FinishReason::kCancelled);
    run.Done(compute::Usage{});
  });
  const std::string id =
      Tell(voice, "POST", "/api/v1/conversations", {{"title", "t"}, {"model", "scripted"}}, 201)["id"];
  const std::string turn = Tell(voice, "POST", "/api/v1/conversations/" + id + "/turns", {{"content", "hi"}},
                                201)["turns"][1]["id"];
  const auto who = world_.Who(made["key"]);
  ASSERT_TRUE(who);
  ASSERT_TRUE(inference_.WaitRunning(1, 10));
  Tell(operator_, "DELETE", "/api/v1/keys/" + made["id"].get<std::string>(), nullptr, 200);
  EXPECT_TRUE(inference_.WaitRunning(0, 10));
  EXPECT_EQ(inference_.cancelled(), 1);
  EXPECT_TRUE(WaitMetric("tidepool_http_cut_requests_total", 1));
  // What had arrived is kept.
  platform::Turn last;
  for (int i = 0; i < 1000 && last.state != platform::TurnState::kInterrupted; ++i) {
    const auto found = conversations_->Find(*who, id);
    ASSERT_TRUE(found);
    last = found->turns.back();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(last.state, platform::TurnState::kInterrupted);
  EXPECT_EQ(last.id, turn);
  EXPECT_EQ(last.content, "first");
}

TEST_F(KeysApiTest, AnExpiredKeysStreamsAreCut) {
  StartWithAccounts();
  const int64_t soon = platform::kTestTime_ms / 1000 + 60;
  const Json made = Tell(operator_, "POST", "/api/v1/keys",
                         {{"name", "short"}, {"service", true}, {"expires_at", soon}}, 201);
  RawClient client(port_);
  ASSERT_TRUE(Streams(client, made["key"]));
  world_.wall_clock.Advance(60'000);
  EXPECT_TRUE(client.ReadEnd(10));
  EXPECT_EQ(Tell(KeyVoice(made["key"]), "GET", "/v1/models", nullptr, 401)["error"]["code"], "key_expired");
}

TEST_F(KeysApiTest, ScopesOfAKey) {
  StartWithAccounts();
  const Json made = Tell(operator_, "POST", "/api/v1/keys",
                         {{"name", "scoped"},
                          {"service", true},
                          {"models", {"other:*"}},
                          {"endpoints", {"/v1/chat/completions", "/v1/models*"}},
                          {"networks", {"127.0.0.0/8"}}},
                         201);
  const Voice voice = KeyVoice(made["key"]);
  const Json chat = {{"model", "scripted"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}};
  EXPECT_EQ(Tell(voice, "POST", "/v1/chat/completions", chat, 403)["error"]["code"], "model_not_allowed");
  EXPECT_EQ(Tell(voice, "GET", "/v1/models", nullptr, 200)["data"].size(), 0u);
  EXPECT_EQ(Tell(voice, "GET", "/v1/models/scripted", nullptr, 403)["error"]["code"], "model_not_allowed");
  EXPECT_EQ(
      Tell(voice, "POST", "/v1/completions", {{"model", "scripted"}, {"prompt", "a"}}, 403)["error"]["code"],
      "endpoint_not_allowed");
  Tell(operator_, "PATCH", "/api/v1/keys/" + made["id"].get<std::string>(), {{"models", {"scripted"}}}, 200);
  Tell(voice, "POST", "/v1/chat/completions", chat, 200);
  Tell(operator_, "PATCH", "/api/v1/keys/" + made["id"].get<std::string>(), {{"networks", {"10.0.0.0/8"}}},
       200);
  EXPECT_EQ(Tell(voice, "POST", "/v1/chat/completions", chat, 403)["error"]["code"], "address_not_allowed");
}

TEST_F(KeysApiTest, ARotatedKeyKeepsItsLimitsAndBudgets) {
  StartWithAccounts();
  const Json made = Tell(operator_, "POST", "/api/v1/keys", {{"name", "k"}, {"service", true}}, 201);
  const std::string id = made["id"], path = "/api/v1/keys/" + id + "/rotate";
  const std::string free = Tell(KeyVoice(made["key"]), "POST", path, Json::object(), 201)["id"];
  const std::string scope = "key:" + free;
  Tell(operator_, "PUT", "/api/v1/limits", {{"scope", scope}, {"requests_per_minute", 7}}, 200);
  Tell(operator_, "POST", "/api/v1/budgets", {{"scope", scope}, {"amount", "3"}}, 201);
  const std::string again = "/api/v1/keys/" + free + "/rotate";
  const std::string next = Tell(operator_, "POST", again, Json::object(), 201)["id"];
  const Json limits = Tell(operator_, "GET", "/api/v1/limits?scope=key:" + next, nullptr, 200)["data"];
  ASSERT_EQ(limits.size(), 1u);
  EXPECT_EQ(limits[0]["requests_per_minute"], 7);
  const Json budgets = Tell(operator_, "GET", "/api/v1/budgets", nullptr, 200)["data"];
  EXPECT_EQ(std::count_if(budgets.begin(), budgets.end(),
                          [&](const Json& budget) {
                            return budget["scope"] == "key:" + next && budget["amount"] == "3.00";
                          }),
            1);
}

// Else it would begin with fresh counters whenever it liked.
TEST_F(KeysApiTest, AKeyWithLimitsDoesNotRotateItself) {
  StartWithAccounts();
  const Json made = Tell(operator_, "POST", "/api/v1/keys", {{"name", "k"}, {"service", true}}, 201);
  const std::string id = made["id"];
  Tell(operator_, "PUT", "/api/v1/limits", {{"scope", "key:" + id}, {"requests_per_minute", 100}}, 200);
  const Json refused =
      Tell(KeyVoice(made["key"]), "POST", "/api/v1/keys/" + id + "/rotate", Json::object(), 403);
  EXPECT_EQ(refused["error"]["code"], "key_has_rules");
}

TEST_F(KeysApiTest, AnIdempotencyKeyMakesOneKey) {
  StartWithAccounts();
  const Json spec = {{"name", "once"}, {"service", true}};
  constexpr std::string_view kHeader = "Idempotency-Key: abc-1\r\n";
  const Json first = Tell(operator_, "POST", "/api/v1/keys", spec, 201, kHeader);
  const RawReply again = Ask(Raw(operator_, "POST", "/api/v1/keys", spec.dump(), kHeader));
  EXPECT_EQ(again.status, 201);
  EXPECT_EQ(again.headers.at("idempotent-replayed"), "true");
  EXPECT_EQ(Json::parse(again.body), first);
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/keys", {{"name", "other"}, {"service", true}}, 409,
                 kHeader)["error"]["code"],
            "idempotency_key_reused");
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/keys", spec, 400, "Idempotency-Key: \r\n")["error"]["code"],
            "bad_idempotency_key");
  // Another caller's keys are apart.
  const Voice other = KeyVoice(Key("admin"));
  EXPECT_NE(Tell(other, "POST", "/api/v1/keys", spec, 201, kHeader)["id"], first["id"]);
  // A wrong request is repeated as the same refusal.
  const Json wrong = {{"name", ""}};
  Tell(operator_, "POST", "/api/v1/organisations", wrong, 400, "Idempotency-Key: w\r\n");
  EXPECT_EQ(
      Ask(Raw(operator_, "POST", "/api/v1/organisations", wrong.dump(), "Idempotency-Key: w\r\n")).status,
      400);
}

}  // namespace
}  // namespace tidepool::gateway
