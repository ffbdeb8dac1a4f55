// Bailian's native interface over real sockets, with the platform below it scripted. Oracle: the examples of
// DashScope's documentation, and how its Python client reads events (common/utils.py).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/testing/raw_client.h"
#include "gateway/testing/server_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;

class BailianTest : public ServerTest {
 protected:
  static constexpr std::string_view kPath = "/api/v1/services/aigc/text-generation/generation";
  RawReply Generate(const std::string& parameters, bool events = false) {
    return Ask(
        Post(kPath,
             R"({"model":"scripted","input":{"messages":[{"role":"user","content":"hi"}]},"parameters":)" +
                 parameters + "}",
             events ? "X-DashScope-SSE: enable\r\nX-Request-Id: mine\r\n" : "X-Request-Id: mine\r\n"));
  }
};

struct Event {
  int id = 0;
  std::string name;
  int status = 200;
  Json data;
};

// As the dashscope client reads them: "event:" and "error" without a blank between.
std::vector<Event> Events(const std::string& body) {
  std::vector<Event> events;
  Event event;
  for (size_t at = 0; at < body.size();) {
    const size_t end = std::min(body.find('\n', at), body.size());
    const std::string line = body.substr(at, end - at);
    at = end + 1;
    if (line.starts_with("id:")) event.id = std::stoi(line.substr(3));
    if (line.starts_with("event:")) event.name = line.substr(6);
    if (line.starts_with("status:")) event.status = std::stoi(line.substr(7));
    if (!line.starts_with("data:")) continue;
    event.data = Json::parse(line.substr(5));
    events.push_back(event);
  }
  return events;
}

void SayHello(FakeRun& run) {
  run.Token("", "hm");
  run.Token("Hel");
  run.Token("lo");
  run.Finish(compute::FinishReason::kStop);
  run.Done(compute::Usage{7, 3, 5, 2});
}

TEST_F(BailianTest, AnswersWholeInBothFormats) {
  Start();
  inference_.SetScript(SayHello);
  const RawReply message = Generate(R"({"result_format":"message","frob":1})");
  ASSERT_EQ(message.status, 200) << message.body;
  EXPECT_EQ(message.headers.at("tidepool-ignored"), "parameters.frob");
  EXPECT_EQ(Json::parse(message.body), Json::parse(R"({"output":{"choices":[{"finish_reason":"stop","index":0,
      "message":{"role":"assistant","content":"Hello","reasoning_content":"hm"}}]},
      "usage":{"input_tokens":7,"output_tokens":5,"total_tokens":12,"prompt_tokens_details":{"cached_tokens":3},
      "output_tokens_details":{"reasoning_tokens":2}},"request_id":"mine"})"));
  const Json text = Json::parse(Generate("{}").body);
  EXPECT_EQ(text["output"],
            Json::parse(R"({"text":"Hello","reasoning_content":"hm","finish_reason":"stop"})"));
}

TEST_F(BailianTest, EventsHaveAllSoFarOrWhatIsNew) {
  Start();
  inference_.SetScript(SayHello);
  const auto contents = [&](const std::string& parameters) {
    const RawReply reply = Generate(parameters, true);
    EXPECT_THAT(reply.headers.at("content-type"), HasSubstr("text/event-stream"));
    std::vector<std::string> out;
    const auto events = Events(reply.body);
    for (size_t i = 0; i < events.size(); ++i) {
      EXPECT_EQ(events[i].id, static_cast<int>(i) + 1);
      EXPECT_EQ(events[i].name, "result");
      EXPECT_EQ(events[i].data["request_id"], "mine");
      const Json& choice = events[i].data["output"]["choices"][0];
      EXPECT_EQ(choice["finish_reason"], i + 1 < events.size() ? "null" : "stop");
      EXPECT_EQ(events[i].data.contains("usage"), i + 1 == events.size());
      out.push_back(choice["message"].value("reasoning_content", "") + "|" +
                    choice["message"]["content"].get<std::string>());
    }
    return out;
  };
  EXPECT_EQ(contents(R"({"result_format":"message"})"),
            (std::vector<std::string>{"hm|", "hm|Hel", "hm|Hello", "hm|Hello"}));
  EXPECT_EQ(contents(R"({"result_format":"message","incremental_output":true})"),
            (std::vector<std::string>{"hm|", "|Hel", "|lo", "|"}));
}

TEST_F(BailianTest, CallsStreamBothWays) {
  Start();
  using enum platform::ToolCallDelta::Kind;
  inference_.SetScript([](FakeRun& run) {
    const auto tell = [&](platform::ToolCallDelta::Kind kind, std::string arguments) {
      run.ToolCall(
          {kind, 0, kind == kBegin ? "call_1" : "", kind == kBegin ? "f" : "", std::move(arguments)});
    };
    tell(kBegin, "");
    tell(kArguments, "{\"x\":");
    tell(kArguments, "1}");
    tell(kEnd, "");
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{7, 0, 5, 0});
  });
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  std::string arguments;
  for (const Event& event : Events(Generate("{" + tools + R"(,"incremental_output":true})", true).body)) {
    for (const Json& call : event.data["output"]["choices"][0]["message"].value("tool_calls", Json::array()))
      arguments += call["function"]["arguments"].get<std::string>();
  }
  EXPECT_EQ(arguments, R"({"x":1})");
  const auto events = Events(Generate("{" + tools + "}", true).body);
  const Json& last = events.back().data["output"]["choices"][0];
  EXPECT_EQ(last["finish_reason"], "tool_calls");
  EXPECT_EQ(
      last["message"]["tool_calls"],
      Json::parse(
          R"([{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}])"));
  EXPECT_EQ(Json::parse(Generate("{" + tools + "}").body)["output"]["choices"][0]["message"]["tool_calls"],
            last["message"]["tool_calls"]);
}

TEST_F(BailianTest, ErrorsInItsShape) {
  Start();
  const auto error = [&](const RawReply& reply, int status) {
    EXPECT_EQ(reply.status, status) << reply.body;
    const Json body = Json::parse(reply.body, nullptr, false);
    EXPECT_TRUE(body.is_object() && body.size() == 3 && body["request_id"].is_string()) << reply.body;
    EXPECT_FALSE(body.value("message", "").empty());
    return body.value("code", "");
  };
  EXPECT_EQ(error(Generate(R"({"temperature":9})"), 400), "InvalidParameter");
  EXPECT_EQ(error(Ask(Post(kPath, R"({"model":"none","input":{"prompt":"hi"}})")), 404), "ModelNotFound");
  EXPECT_EQ(error(Ask(Post(kPath, "{")), 400), "InvalidParameter");
  EXPECT_EQ(
      error(Ask("POST " + std::string(kPath) + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n"),
            401),
      "InvalidApiKey");
  EXPECT_EQ(error(Ask(Post("/api/v1/services/aigc/video", "{}")), 404), "NotFound");
  inference_.FailNext({ErrorKind::kOverloaded, "rate_limit_exceeded", "Too many requests.", "", 2});
  EXPECT_EQ(error(Generate("{}"), 429), "Throttling.RateQuota");
  inference_.SetScript([](FakeRun& run) {
    run.Token("a");
    run.Done(Fail(ErrorKind::kUnavailable, "x", "It is gone."));
  });
  const auto events = Events(Generate("{}", true).body);
  ASSERT_EQ(events.size(), 2u);
  EXPECT_EQ(events[1].name, "error");
  EXPECT_EQ(events[1].status, 503);
  EXPECT_EQ(events[1].data,
            Json::parse(R"({"code":"ModelUnavailable","message":"It is gone.","request_id":"mine"})"));
}

TEST_F(BailianTest, CompatibleModeIsTheSameInterface) {
  Start();
  inference_.SetScript(SayHello);
  const Json reply = AskJson(Post("/compatible-mode/v1/chat/completions",
                                  R"({"model":"scripted","messages":[{"role":"user","content":"hi"}]})"));
  EXPECT_EQ(reply["choices"][0]["message"]["reasoning_content"], "hm");
  EXPECT_EQ(AskJson(Get("/compatible-mode/v1/models"))["object"], "list");
  EXPECT_EQ(AskJson(Get("/compatible-mode/v1/models/scripted"))["id"], "scripted");
  AskJson(Get("/compatible-mode/v1/nothing"), 404);
  AskJson(Get("/compatible-mode/health"), 404);
  EXPECT_EQ(Ask("GET /compatible-mode/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 401);
}

TEST_F(BailianTest, Embeds) {
  Start();
  const Json reply =
      AskJson(Post("/api/v1/services/embeddings/text-embedding/text-embedding",
                   R"({"model":"scripted","input":{"texts":["a","bcd"]},"parameters":{"dimension":1}})"));
  EXPECT_EQ(reply["output"]["embeddings"], Json::parse(R"([{"text_index":0,"embedding":[1]},
                                                           {"text_index":1,"embedding":[1]}])"));
  EXPECT_EQ(reply["usage"], Json::parse(R"({"total_tokens":4})"));
}

}  // namespace
}  // namespace tidepool::gateway
