// Ollama's dialect over real sockets, with the platform below it scripted. Oracle: the examples of Ollama's
// API documentation.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "gateway/testing/raw_client.h"
#include "gateway/testing/server_fixture.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;

class OllamaTest : public ServerTest {};

constexpr std::string_view kAsk =
    R"({"model":"scripted:latest","messages":[{"role":"user","content":"hi"}]})";

std::vector<Json> Lines(const std::string& body) {
  std::vector<Json> lines;
  for (size_t at = 0; at < body.size();) {
    const size_t end = body.find('\n', at);
    lines.push_back(Json::parse(body.substr(at, end - at)));
    at = end == std::string::npos ? body.size() : end + 1;
  }
  return lines;
}

platform::ToolCallDelta Call(platform::ToolCallDelta::Kind kind, std::string arguments = {}) {
  return {kind, 0, "call_1", "weather", std::move(arguments)};
}

TEST_F(OllamaTest, StreamsLinesByDefault) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("", "hm ");
    run.Token("Hel");
    run.Token("lo");
    run.Finish(compute::FinishReason::kLength);
    run.Done(compute::Usage{7, 3, 5, 2});
  });
  const RawReply reply = Ask(Post("/api/chat", kAsk));
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("content-type"), "application/x-ndjson");
  const auto lines = Lines(reply.body);
  ASSERT_EQ(lines.size(), 4u) << reply.body;
  EXPECT_EQ(lines[0]["message"], Json::parse(R"({"role":"assistant","content":"","thinking":"hm "})"));
  EXPECT_EQ(lines[1]["message"], Json::parse(R"({"role":"assistant","content":"Hel"})"));
  EXPECT_EQ(lines[1]["done"], false);
  EXPECT_EQ(lines[1]["model"], "scripted");
  EXPECT_THAT(lines[1]["created_at"].get<std::string>(), ::testing::MatchesRegex("20..-..-..T..:..:...*Z"));
  EXPECT_EQ(lines[3]["done"], true);
  EXPECT_EQ(lines[3]["done_reason"], "length");
  EXPECT_EQ(lines[3]["prompt_eval_count"], 7);
  EXPECT_EQ(lines[3]["eval_count"], 5);
  EXPECT_GT(lines[3]["total_duration"], 0);
  EXPECT_EQ(inference_.last_chat().model, "scripted") << "a name with :latest means the model without a tag";
}

TEST_F(OllamaTest, AnswersWhole) {
  Start();
  inference_.SetScript([](FakeRun& run) { run.Say("fine"); });
  const Json chat = AskJson(Post("/api/chat", R"({"model":"scripted","stream":false,"frob":1,
      "messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_EQ(chat["message"], Json::parse(R"({"role":"assistant","content":"fine"})"));
  EXPECT_EQ(chat["done_reason"], "stop");
  const Json generate =
      AskJson(Post("/api/generate", R"({"model":"scripted","stream":false,"prompt":"hi"})"));
  EXPECT_EQ(generate["response"], "fine");
  EXPECT_EQ(generate["done"], true);
  const Json raw = AskJson(
      Post("/api/generate", R"({"model":"scripted","stream":false,"raw":true,"prompt":"<|im_start|>"})"));
  EXPECT_EQ(raw["response"], "fine");
  EXPECT_TRUE(inference_.last_completion().parse_special);
}

TEST_F(OllamaTest, CallsComeWholeWithArgumentsAsObjects) {
  Start();
  using enum platform::ToolCallDelta::Kind;
  inference_.SetScript([](FakeRun& run) {
    run.ToolCall(Call(kBegin));
    run.ToolCall(Call(kArguments, R"({"city":)"));
    run.ToolCall(Call(kArguments, R"("Oslo"})"));
    run.ToolCall(Call(kEnd));
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{7, 0, 5, 0});
  });
  const std::string tools =
      R"(,"tools":[{"type":"function","function":{"name":"weather","parameters":{"type":"object"}}}],)"
      R"("messages":[{"role":"user","content":"hi"}]})";
  const Json wanted =
      Json::parse(R"([{"id":"call_1","function":{"index":0,"name":"weather","arguments":{"city":"Oslo"}}}])");
  const auto lines = Lines(Ask(Post("/api/chat", R"({"model":"scripted")" + tools)).body);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[0]["message"]["tool_calls"], wanted);
  EXPECT_EQ(lines[1]["done_reason"], "stop");
  const Json whole = AskJson(Post("/api/chat", R"({"model":"scripted","stream":false)" + tools));
  EXPECT_EQ(whole["message"]["tool_calls"], wanted);
}

TEST_F(OllamaTest, ErrorsAreAText) {
  Start();
  const auto error = [&](const std::string& request, int status) {
    const Json body = AskJson(request, status);
    EXPECT_TRUE(body["error"].is_string() && body.size() == 1) << body;
    return body.value("error", "");
  };
  EXPECT_THAT(error(Post("/api/chat", R"({"model":"none","messages":[{"role":"user","content":"x"}]})"), 404),
              HasSubstr("none"));
  EXPECT_THAT(
      error(Post("/api/chat", R"({"model":"scripted","options":{"num_predict":1.5},"messages":[]})"), 400),
      HasSubstr("num_predict"));
  error(Post("/api/chat", "{"), 400);
  error("POST /api/chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 401);
  error(Get("/api/nothing"), 404);
  error(Get("/api/chat"), 405);
  error(Post("/api/copy", R"({"source":"a","destination":"b"})"), 400);
  error(Post("/api/show", R"({"model":"none"})"), 404);
  // Inside a stream it is a line.
  inference_.SetScript([](FakeRun& run) {
    run.Token("a");
    run.Finish(compute::FinishReason::kError, 0, Error{ErrorKind::kInternal, "x", "The row failed.", "", 0});
    run.Done(Fail(ErrorKind::kInternal, "x", "The row failed."));
  });
  const auto lines = Lines(Ask(Post("/api/chat", kAsk)).body);
  ASSERT_EQ(lines.size(), 2u);
  EXPECT_EQ(lines[1], Json::parse(R"({"error":"The row failed."})"));
}

TEST_F(OllamaTest, ASilentStreamSaysSoInItsOwnFrame) {
  options_.keep_alive_comment_s = 0.05;
  Start();
  inference_.SetScript([](FakeRun& run) {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    run.Say("late");
  });
  const auto lines = Lines(Ask(Post("/api/generate", R"({"model":"scripted","prompt":"hi"})")).body);
  ASSERT_GE(lines.size(), 3u);
  EXPECT_EQ(lines[0]["response"], "");
  EXPECT_EQ(lines[0]["done"], false);
  EXPECT_EQ(lines.back()["done"], true);
}

TEST_F(OllamaTest, EmptyPromptsLoadAndUnload) {
  Start();
  Json reply = AskJson(Post("/api/generate", R"({"model":"scripted"})"));
  EXPECT_EQ(reply["done_reason"], "load");
  EXPECT_EQ(reply["response"], "");
  reply = AskJson(Post("/api/chat", R"({"model":"scripted","messages":[]})"));
  EXPECT_EQ(reply["message"], Json::parse(R"({"role":"assistant","content":""})"));
  AskJson(Post("/api/generate", R"({"model":"scripted","keep_alive":0})"),
          409);  // the scripted one is in use
  const std::string body = R"({"model":"scripted","keep_alive":0})";
  AskJson(
      "POST /api/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-user-key\r\n"
      "Content-Type: application/json\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n\r\n" + body,
      403);
  AskJson(Post("/api/generate", R"({"model":"none"})"), 404);
}

// What the operator was heard to say.
class KeepAlivePool final : public platform::PoolControl {
 public:
  platform::PoolState State() const override {
    platform::PoolState state;
    platform::PoolModelState model;
    model.id = "scripted";
    model.policy.idle_ttl_s = 300;
    state.models.push_back(model);
    return state;
  }
  Status Resize(const platform::PoolResize&) override { return {}; }
  Result<platform::PoolModelState> SetPolicy(const std::string& model,
                                             const platform::PolicyChange& change) override {
    const std::lock_guard lock(mutex_);
    said_ += model + (change.pinned.value_or(false) ? " pinned " : " ") +
             (change.idle_ttl_s ? std::to_string(static_cast<int>(*change.idle_ttl_s)) : "") + ";";
    return platform::PoolModelState{};
  }
  void SetCordoned(bool) override {}
  platform::PoolEventList Events(uint64_t, size_t) const override { return {}; }
  platform::PoolTurnList Turns(uint64_t, size_t) const override { return {}; }
  Result<std::string> Trace(bool) const override { return std::string(); }
  void UpdateMetrics() override {}
  // It is said after the request was handed over.
  bool WaitSaid(const std::string& wanted) {
    for (int i = 0; i < 2000; ++i) {
      {
        const std::lock_guard lock(mutex_);
        if (said_ == wanted) return true;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    return false;
  }

 private:
  std::mutex mutex_;
  std::string said_;
};

TEST_F(OllamaTest, KeepAliveIsTheOperatorsWord) {
  KeepAlivePool pool;
  inference_.pool_control = &pool;
  Start();
  inference_.SetScript([](FakeRun& run) { run.Say("x"); });
  const std::string body = R"({"model":"scripted","prompt":"hi","stream":false,"keep_alive":"5m"})";
  const RawReply operators = Ask(Post("/api/generate", body));
  EXPECT_EQ(operators.headers.count("tidepool-ignored"), 0u);
  EXPECT_TRUE(pool.WaitSaid("scripted 300;"));
  const RawReply users =
      Ask("POST /api/generate HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-user-key\r\n"
          "Content-Type: application/json\r\nContent-Length: " +
          std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_EQ(users.status, 200);
  EXPECT_EQ(users.headers.at("tidepool-ignored"), "keep_alive");
  Ask(Post("/api/embed", R"({"model":"scripted","input":"a","keep_alive":-1})"));
  EXPECT_TRUE(pool.WaitSaid("scripted 300;scripted pinned ;"));
  const Json running = AskJson(Get("/api/ps"));
  EXPECT_LT(running["models"][0]["expires_at"].get<std::string>(), "9999");
  inference_.pool_control = nullptr;
  EXPECT_EQ(AskJson(Get("/api/ps"))["models"][0]["expires_at"], "9999-12-31T23:59:59Z");
}

TEST_F(OllamaTest, ModelsAsItsClientsReadThem) {
  Start();
  const Json tags = AskJson(Get("/api/tags"));
  ASSERT_EQ(tags["models"].size(), 4u);
  EXPECT_EQ(tags["models"][0]["name"], "scripted:latest");
  EXPECT_EQ(tags["models"][1]["model"], "org/repo:Q4_K_M");
  EXPECT_EQ(tags["models"][1]["size"], 1000);
  EXPECT_EQ(tags["models"][0]["digest"].get<std::string>().size(), 64u);
  const Json running = AskJson(Get("/api/ps"));
  ASSERT_EQ(running["models"].size(), 1u);
  EXPECT_EQ(running["models"][0]["name"], "scripted:latest");
  EXPECT_EQ(running["models"][0]["context_length"], 2048);
  const Json shown = AskJson(Post("/api/show", R"({"model":"scripted:latest"})"));
  EXPECT_EQ(shown["capabilities"], Json::parse(R"(["completion","tools","thinking"])"));
  EXPECT_EQ(AskJson(Post("/api/show", R"({"model":"org/repo:Q4_K_M"})"))["capabilities"],
            shown["capabilities"]);
  EXPECT_EQ(AskJson(Post("/api/show", R"({"model":"ranker"})"))["capabilities"],
            Json::parse(R"(["rerank"])"));
  EXPECT_EQ(shown["template"], "{{ messages }}");
  EXPECT_THAT(shown["parameters"].get<std::string>(), HasSubstr("temperature"));
  EXPECT_TRUE(AskJson(Get("/api/version"))["version"].is_string());
  EXPECT_EQ(Ask("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").body, "Ollama is running");
  EXPECT_EQ(Ask("HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").status, 200);
}

TEST_F(OllamaTest, Embeds) {
  Start();
  const Json two = AskJson(Post("/api/embed", R"({"model":"scripted","input":["a","bcd"]})"));
  EXPECT_EQ(two["embeddings"], Json::parse("[[1,2,-2],[3,2,-2]]"));
  EXPECT_EQ(two["prompt_eval_count"], 4);
  const Json cut = AskJson(Post("/api/embed", R"({"model":"scripted","input":"a","dimensions":1})"));
  EXPECT_EQ(cut["embeddings"], Json::parse("[[1]]"));
  EXPECT_EQ(AskJson(Post("/api/embeddings", R"({"model":"scripted","prompt":"ab"})")),
            Json::parse(R"({"embedding":[2,2,-2]})"));
  EXPECT_EQ(AskJson(Post("/api/embed", R"({"model":"scripted","input":""})"))["embeddings"], Json::array());
  EXPECT_EQ(AskJson(Post("/api/embeddings", R"({"model":"scripted"})")), Json::parse(R"({"embedding":[]})"));
  AskJson(Post("/api/embed", R"({"model":"scripted","input":"a","dimensions":9})"), 400);
}

TEST_F(OllamaTest, PullsTellHowTheyGoOn) {
  Start();
  RawClient client(port_);
  client.Send(Post("/api/pull", R"({"model":"smollm2:135m"})"));
  ASSERT_TRUE(client.ReadUntil("pulling manifest"));
  catalog_.Report("pull-1", platform::PullState::kRunning, "downloading", 10, 100);
  ASSERT_TRUE(client.ReadUntil(R"("total":100,"completed":10)"));
  catalog_.Report("pull-1", platform::PullState::kDone, "storing", 100, 100);
  const RawReply reply = client.ReadReply();
  const auto lines = Lines(reply.body);
  EXPECT_EQ(lines.back(), Json::parse(R"({"status":"success"})"));
  // Without a stream the answer comes at the end.
  RawClient quiet(port_);
  quiet.Send(Post("/api/pull", R"({"name":"smollm2:135m","stream":false})"));
  ASSERT_TRUE(catalog_.WaitPulls(2, 20));
  catalog_.Report("pull-2", platform::PullState::kFailed, "downloading", 0, 0);
  const RawReply failed = quiet.ReadReply();
  EXPECT_EQ(failed.status, 503) << failed.body;
  EXPECT_EQ(Json::parse(failed.body), Json::parse(R"({"error":"The disk is full."})"));
}

}  // namespace
}  // namespace tidepool::gateway
