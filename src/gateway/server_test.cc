// The gateway over real sockets, with the platform below it scripted: HTTP itself, security, streaming,
// back-pressure, cancellation, draining.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "gateway/router.h"
#include "gateway/testing/raw_client.h"
#include "gateway/testing/server_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr std::string_view kChat = R"({"model":"scripted","messages":[{"role":"user","content":"hi"}]})";
constexpr std::string_view kStream =
    R"({"model":"scripted","stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]})";

std::vector<Json> Events(const std::string& body) {
  std::vector<Json> events;
  size_t at = 0;
  while ((at = body.find("data: ", at)) != std::string::npos) {
    const size_t end = body.find("\n\n", at);
    const std::string data = body.substr(at + 6, end - at - 6);
    if (data != "[DONE]") events.push_back(Json::parse(data));
    at = end;
  }
  return events;
}

// ---- answers -------------------------------------------------------------------------------------------

TEST_F(ServerTest, AnswersAChat) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("", "hm ");
    run.Token("Hel");
    run.Token("lo \"you\"\n");
    run.Finish(compute::FinishReason::kLength);
    run.Done(compute::Usage{7, 3, 5, 2});
  });
  const RawReply reply = Ask(Post("/v1/chat/completions", kChat, "X-Request-Id: mine-1\r\n"));
  ASSERT_EQ(reply.status, 200) << reply.body;
  EXPECT_EQ(reply.headers.at("x-request-id"), "mine-1");
  EXPECT_EQ(reply.headers.at("content-type"), "application/json");
  EXPECT_EQ(reply.headers.count("tidepool-ignored"), 0u);
  const Json body = Json::parse(reply.body);
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "scripted");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "Hello \"you\"\n");
  EXPECT_EQ(body["choices"][0]["message"]["reasoning_content"], "hm ");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(body["usage"], Json::parse(R"({"prompt_tokens":7,"completion_tokens":5,"total_tokens":12,
      "prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}})"));
  EXPECT_EQ(inference_.last_chat().request_id, "mine-1");
  EXPECT_TRUE(inference_.last_chat().principal.is_operator);
}

TEST_F(ServerTest, StreamsAChat) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    for (int32_t choice = 0; choice < run.choices; ++choice) run.Token("a", {}, choice);
    for (int32_t choice = 0; choice < run.choices; ++choice) {
      run.Token("b", {}, choice);
      run.Finish(compute::FinishReason::kStop, choice);
    }
    run.Done(compute::Usage{7, 0, 4, 0});
  });
  const std::string body =
      R"({"model":"scripted","stream":true,"n":2,"frob":1,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"hi"}]})";
  const RawReply reply = Ask(Post("/v1/chat/completions", body));
  ASSERT_EQ(reply.status, 200);
  EXPECT_THAT(reply.headers.at("content-type"), HasSubstr("text/event-stream"));
  EXPECT_EQ(reply.headers.at("tidepool-ignored"), "frob");
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n")) << reply.body;
  std::string text[2];
  std::string finish[2];
  const auto events = Events(reply.body);
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    const Json& choice = events[i]["choices"][0];
    const size_t index = choice["index"].get<size_t>();
    if (text[index].empty() && choice["delta"].contains("role")) {
      EXPECT_EQ(choice["delta"]["role"], "assistant");
    }
    text[index] += choice["delta"].value("content", "");
    if (!choice["finish_reason"].is_null()) finish[index] = choice["finish_reason"];
    EXPECT_TRUE(events[i].contains("usage") && events[i]["usage"].is_null());
    EXPECT_EQ(events[i]["id"], events[0]["id"]);
  }
  EXPECT_EQ(text[0], "ab");
  EXPECT_EQ(text[1], "ab");
  EXPECT_EQ(finish[0], "stop");
  EXPECT_EQ(events.back()["usage"]["completion_tokens"], 4);
  EXPECT_TRUE(events.back()["choices"].empty());
}

TEST_F(ServerTest, TheServiceTierThatWasAskedForIsSaid) {
  Start();
  const std::string tier = R"({"model":"scripted","service_tier":"flex",)";
  const std::string messages = R"("messages":[{"role":"user","content":"Hi"}])";
  EXPECT_EQ(AskJson(Post("/v1/chat/completions", tier + messages + "}"))["service_tier"], "flex");
  EXPECT_EQ(AskJson(Post("/v1/completions", tier + R"("prompt":"Hi"})"))["service_tier"], "flex");
  const RawReply streamed = Ask(Post("/v1/chat/completions", tier + messages + R"(,"stream":true})"));
  EXPECT_THAT(streamed.body, HasSubstr(R"("service_tier":"flex")"));
  EXPECT_FALSE(AskJson(Post("/v1/chat/completions", kChat)).contains("service_tier"));
  const Json refused = AskJson(
      Post("/v1/chat/completions", R"({"model":"scripted","service_tier":"gold",)" + messages + "}"), 400);
  EXPECT_EQ(refused["error"]["param"], "service_tier");
}

TEST_F(ServerTest, MembersOfMessagesAreIgnoredUnlessTheTemplateMentionsThem) {
  Start();
  inference_.chat_template = "{% for message in messages %}{{ message.mood }}{% endfor %}";
  const std::string messages =
      R"("messages":[{"role":"user","content":"hi","mood":"calm","weather":"fair","name":"ann"}])";
  const RawReply chat = Ask(Post("/v1/chat/completions", R"({"model":"scripted",)" + messages + "}"));
  EXPECT_EQ(chat.headers.at("tidepool-ignored"), "messages[].weather, messages[].name");
  EXPECT_EQ(inference_.last_chat().messages[0]["weather"], "fair");
  const RawReply tokens = Ask(Post("/tokenize", R"({"model":"scripted",)" + messages + "}"));
  EXPECT_EQ(tokens.headers.at("tidepool-ignored"), "messages[].weather, messages[].name");
  const RawReply lines = Ask(Post("/api/chat", R"({"model":"scripted","stream":false,)" + messages + "}"));
  EXPECT_EQ(lines.headers.at("tidepool-ignored"), "messages[].weather, messages[].name");
  const RawReply native = Ask(Post("/api/v1/services/aigc/text-generation/generation",
                                   R"({"model":"scripted","input":{)" + messages + "}}"));
  EXPECT_EQ(native.headers.at("tidepool-ignored"), "input.messages[].weather, input.messages[].name");
}

TEST_F(ServerTest, WhatTextsAreIsIgnoredByModelsWithoutInstructions) {
  Start();
  const RawReply reply =
      Ask(Post("/v1/embeddings", R"({"model":"scripted","input":"abc","input_type":"query"})"));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("tidepool-ignored"), "input_type");
}

TEST_F(ServerTest, OnePieceMayBeLargerThanTheBuffer) {
  options_.max_write_buffer_bytes = 65536;
  Start();
  const std::string long_text(1 << 20, 'x');
  inference_.SetScript([&](FakeRun& run) { run.Say(long_text); });
  const RawReply reply = Ask(Post("/v1/chat/completions", kStream));
  ASSERT_EQ(reply.status, 200);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  EXPECT_THAT(reply.body, HasSubstr(long_text));
}

TEST_F(ServerTest, LogprobsOfAChat) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("A", {}, 0, {{'A', -0.5f, {{'A', -0.5f}, {'B', -1.0f / 0.0f}}}});
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{1, 0, 1, 0});
  });
  const std::string_view body =
      R"({"model":"scripted","logprobs":true,"top_logprobs":2,"messages":[{"role":"user","content":"hi"}]})";
  const Json reply = AskJson(Post("/v1/chat/completions", body));
  EXPECT_EQ(reply["choices"][0]["logprobs"]["content"],
            Json::parse(R"([{"token":"A","logprob":-0.5,"bytes":[65],
      "top_logprobs":[{"token":"A","logprob":-0.5,"bytes":[65]},{"token":"B","logprob":-9999.0,"bytes":[66]}]}])"));
  EXPECT_EQ(inference_.token_text_lookups, 1) << "the model's name is resolved once a request";
}

TEST_F(ServerTest, CompletionsEchoAndLogprobs) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.PromptLogprobs(0, {{'x', 0, {}}, {'y', -2, {{'y', -2}}}});
    run.Token("z", {}, 0, {{'z', -1, {{'z', -1}}}});
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{2, 0, 1, 0});
  });
  const Json reply =
      AskJson(Post("/v1/completions", R"({"model":"scripted","prompt":[120,121],"echo":true,"logprobs":1})"));
  EXPECT_EQ(reply["choices"][0]["text"], "xyz");
  EXPECT_EQ(reply["choices"][0]["logprobs"],
            Json::parse(R"({"tokens":["x","y","z"],"token_logprobs":[null,-2,-1],
      "top_logprobs":[null,{"y":-2},{"z":-1}],"text_offset":[0,1,2]})"));
  inference_.SetScript([](FakeRun& run) { run.Say("!"); });
  const Json two =
      AskJson(Post("/v1/completions", R"({"model":"scripted","prompt":["a","b"],"n":2,"echo":true})"));
  ASSERT_EQ(two["choices"].size(), 4u);
  EXPECT_EQ(two["choices"][1]["text"], "a!");
  EXPECT_EQ(two["choices"][2]["text"], "b!");
  EXPECT_EQ(two["object"], "text_completion");
  const RawReply stream =
      Ask(Post("/v1/completions", R"({"model":"scripted","prompt":"a","echo":true,"stream":true})"));
  std::string text;
  for (const Json& event : Events(stream.body)) text += event["choices"][0]["text"].get<std::string>();
  EXPECT_EQ(text, "a!");
}

TEST_F(ServerTest, OtherOpenAiEndpoints) {
  Start();
  const Json embedding =
      AskJson(Post("/v1/embeddings", R"({"model":"scripted","input":["abc",""+"d"]})"), 400);
  EXPECT_EQ(embedding["error"]["code"], "malformed_json");
  const Json good = AskJson(Post("/v1/embeddings", R"({"model":"scripted","input":["abc","d"]})"));
  EXPECT_EQ(good["data"][1]["embedding"], Json::parse("[1.0,2.0,-2.0]"));
  EXPECT_EQ(good["usage"]["prompt_tokens"], 4);
  EXPECT_EQ(AskJson(Get("/v1/models"))["data"][0]["id"], "scripted");
  EXPECT_EQ(AskJson(Get("/v1/models/org/repo:Q4_K_M"))["id"], "org/repo:Q4_K_M");
  EXPECT_EQ(AskJson(Get("/v1/models/org%2Frepo%3AQ4_K_M"))["object"], "model");
  // "scripted" is loaded with a shorter context than its file's; the other is not loaded.
  const Json loaded = AskJson(Get("/v1/models/scripted")),
             stored = AskJson(Get("/v1/models/org/repo:Q4_K_M"));
  EXPECT_EQ(loaded["capabilities"],
            Json::parse(R"(["chat","completion","structured_output","tools","thinking"])"));
  EXPECT_EQ(stored["capabilities"], loaded["capabilities"]);
  for (const char* name : {"context_length", "max_model_len", "max_output_tokens"}) {
    EXPECT_EQ(loaded[name], 2048) << name;
    EXPECT_EQ(stored[name], 1024) << name;
  }
  const Json ranker = AskJson(Get("/v1/models/ranker")), embedder = AskJson(Get("/v1/models/embedder"));
  EXPECT_EQ(ranker["capabilities"], Json::parse(R"(["rerank"])"));
  EXPECT_EQ(embedder["capabilities"], Json::parse(R"(["embeddings"])"));
  EXPECT_EQ(embedder["context_length"], 512);
  EXPECT_FALSE(embedder.contains("max_output_tokens"));
  EXPECT_EQ(AskJson(Get("/api/v1/models/org/repo:Q4_K_M"))["capabilities"], stored["capabilities"]);
  EXPECT_EQ(AskJson(Get("/api/v1/models/scripted"))["context_length"], 2048);

  const Json anthropic = AskJson(Get("/anthropic/v1/models/org/repo:Q4_K_M"));
  EXPECT_EQ(anthropic["max_input_tokens"], 1024);
  for (const char* name : {"thinking", "structured_outputs", "effort", "tools"})
    EXPECT_EQ(anthropic["capabilities"][name]["supported"], true) << name;
  EXPECT_EQ(anthropic["capabilities"]["image_input"]["supported"], false);
  EXPECT_EQ(AskJson(Get("/anthropic/v1/models/embedder"))["capabilities"]["structured_outputs"]["supported"],
            false);
  EXPECT_EQ(AskJson(Get("/v1/models/other"), 404)["error"]["code"], "model_not_found");
  EXPECT_EQ(AskJson(Post("/tokenize", R"({"model":"scripted","text":"ab"})"))["tokens"],
            Json::parse("[256,97,98]"));
  EXPECT_EQ(AskJson(Post("/tokenize", kChat))["count"], 1);
  EXPECT_EQ(AskJson(Post("/detokenize", R"({"model":"scripted","tokens":[97,98]})"))["text"], "ab");
}

TEST_F(ServerTest, NativeEndpoints) {
  Start();
  const Json models = AskJson(Get("/api/v1/models"));
  EXPECT_EQ(models["data"][0]["state"], "ready");
  EXPECT_EQ(models["data"][0]["engine"]["running"], 0);
  EXPECT_EQ(models["data"][1]["licence"], "apache-2.0");
  EXPECT_FALSE(models["data"][1].contains("engine"));
  EXPECT_EQ(AskJson(Get("/api/v1/models/org/repo:Q4_K_M"))["bytes"], 1000);
  EXPECT_EQ(AskJson(Post("/api/v1/models/scripted/load", ""))["id"], "scripted");
  EXPECT_EQ(AskJson(Post("/api/v1/models/scripted/load", R"({"wait":false})"), 202)["id"], "scripted");
  EXPECT_EQ(AskJson(Post("/api/v1/models/nope/load", ""), 404)["error"]["code"], "model_not_found");
  EXPECT_EQ(AskJson(Post("/api/v1/models/scripted/unload", ""), 409)["error"]["code"], "model_in_use");
  EXPECT_EQ(AskJson(Post("/api/v1/models/scripted/unload", R"({"force":true})"))["id"], "scripted");
  EXPECT_EQ(AskJson(Post("/api/v1/models/scripted/unload", R"({"farce":true})"), 400)["error"]["param"],
            "farce");
  EXPECT_EQ(AskJson("DELETE /api/v1/models/scripted HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer "
                    "tp-test-key\r\n\r\n",
                    409)["error"]["code"],
            "model_in_use");
  EXPECT_EQ(AskJson("DELETE /api/v1/models/org%2Frepo:Q4_K_M HTTP/1.1\r\nHost: localhost\r\n"
                    "Authorization: Bearer tp-test-key\r\n\r\n")["deleted"],
            true);
  EXPECT_EQ(AskJson(Get("/api/v1/catalogue"))["data"][0]["id"], "smollm2:135m");
  EXPECT_EQ(AskJson(Get("/api/v1/settings"))["data"], Json::array());
  EXPECT_EQ(AskJson(Get("/api/v1/doctor"))["cores"], 2);
  EXPECT_EQ(AskJson(Get("/api/v1/status"))["uptime_s"], 1);
  EXPECT_EQ(AskJson(Post("/api/v1/bench", R"({"model":"m","batch":[1,4]})"))["data"][0], "m");
  EXPECT_EQ(AskJson(Post("/api/v1/bench", R"({"model":"m","batch":[0]})"), 400)["error"]["param"], "batch");
  EXPECT_EQ(AskJson(Post("/api/v1/bench", R"({"model":"m","prompt_tokens":0,"depth":128})"))["data"][0], "m");
  EXPECT_EQ(AskJson(Post("/api/v1/bench", R"({"model":"m","depth":0})"), 400)["error"]["param"], "depth");

  const Json pull = AskJson(Post("/api/v1/pulls", R"({"source":"smollm2:135m"})"), 202);
  EXPECT_EQ(pull["state"], "running");
  EXPECT_TRUE(pull["error"].is_null());
  EXPECT_EQ(AskJson(Post("/api/v1/pulls/pull-1/pause", ""))["state"], "paused");
  EXPECT_EQ(AskJson(Post("/api/v1/pulls/pull-1/resume", ""))["state"], "running");
  EXPECT_EQ(AskJson(Post("/api/v1/pulls/pull-1/cancel", ""))["state"], "cancelled");
  EXPECT_EQ(AskJson(Get("/api/v1/pulls/pull-1"))["id"], "pull-1");
  EXPECT_EQ(AskJson(Get("/api/v1/pulls"))["data"].size(), 1u);
  EXPECT_EQ(AskJson(Get("/api/v1/pulls/pull-9"), 404)["error"]["code"], "pull_not_found");
  EXPECT_EQ(AskJson(Post("/api/v1/pulls", "{}"), 400)["error"]["param"], "source");
}

TEST_F(ServerTest, OnlyTheOwnerPullsPaths) {
  Start();
  const std::string_view path = R"({"source":"/tmp/x.gguf"})";
  EXPECT_EQ(Ask(Post("/api/v1/pulls", path)).status, 202);
  EXPECT_TRUE(catalog_.last_caller_owned_machine);
  EXPECT_EQ(Ask(Post("/api/v1/pulls", path, "X-Forwarded-For: 1.2.3.4\r\n")).status, 403);
  EXPECT_FALSE(catalog_.last_caller_owned_machine);
}

TEST_F(ServerTest, PublicEndpoints) {
  Start();
  const auto bare = [&](std::string_view path) {
    return "GET " + std::string(path) + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  };
  EXPECT_EQ(AskJson(bare("/health"))["status"], "ok");
  EXPECT_EQ(AskJson(bare("/ready"))["ready"], true);
  for (const char* path : {"/version", "/openapi.json", "/metrics", "/v1/models"}) {
    EXPECT_EQ(AskJson(bare(path), 401)["error"]["code"], "missing_api_key") << path;
  }
  EXPECT_EQ(AskJson(Get("/version"))["commit"], "abc");
  EXPECT_EQ(AskJson(Get("/openapi.json"))["openapi"], "3.1.0");
  const RawReply metrics = Ask(Get("/metrics"));
  EXPECT_THAT(metrics.headers.at("content-type"), HasSubstr("text/plain; version=0.0.4"));
  EXPECT_THAT(metrics.body, HasSubstr(R"(tidepool_http_requests_total{route="/health",status="200"} 1)"));
  RawClient head(port_);
  head.Send("HEAD /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  ASSERT_TRUE(head.ReadEnd());
  EXPECT_THAT(head.received(), HasSubstr("HTTP/1.1 200 OK"));
  EXPECT_TRUE(head.received().ends_with("\r\n\r\n")) << "a reply to HEAD has no body";
}

// ---- refusals ------------------------------------------------------------------------------------------

TEST_F(ServerTest, EveryKeyedRouteRefusesWithoutAKey) {
  Start();
  const Json document = OpenApiDocument();
  int checked = 0;
  for (const auto& [path, operations] : document["paths"].items()) {
    for (const auto& [method, operation] : operations.items()) {
      if (operation.contains("security")) continue;  // public
      std::string target = path;
      if (const size_t open = target.find("{id}"); open != std::string::npos) target.replace(open, 4, "x");
      std::string upper = method;
      for (char& c : upper) c = static_cast<char>(std::toupper(c));
      const std::string request =
          upper + " " + target + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n";
      const RawReply reply = Ask(request);
      EXPECT_EQ(reply.status, 401) << upper << " " << target;
      EXPECT_EQ(reply.headers.count("x-request-id"), 1u);
      ++checked;
    }
  }
  EXPECT_GT(checked, 20);
}

TEST_F(ServerTest, AdminRoutesNeedTheAdminKey) {
  Start();
  const std::string user =
      "GET /api/v1/settings HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-user-key\r\n\r\n";
  EXPECT_EQ(AskJson(user, 403)["error"]["code"], "role_too_low");
}

TEST_F(ServerTest, ErrorsHaveOpenAisShape) {
  Start();
  const RawReply reply = Ask(Post("/v1/chat/completions", R"({"model":"scripted","messages":[],"n":1})"));
  EXPECT_EQ(reply.status, 400);
  const Json error = Json::parse(reply.body)["error"];
  EXPECT_EQ(error["type"], "invalid_request_error");
  EXPECT_EQ(error["param"], "messages");
  EXPECT_EQ(error["code"], "invalid_value");
  EXPECT_TRUE(error["message"].is_string());
  EXPECT_TRUE(reply.headers.at("x-request-id").starts_with("req-"));

  inference_.FailNext(Error{ErrorKind::kOverloaded, "queue_full", "Too much waits.", "", 1.2});
  const RawReply busy = Ask(Post("/v1/chat/completions", kChat));
  EXPECT_EQ(busy.status, 429);
  EXPECT_EQ(busy.headers.at("retry-after"), "2");
  EXPECT_EQ(Json::parse(busy.body)["error"]["type"], "rate_limit_error");
  EXPECT_EQ(
      AskJson(Post("/v1/chat/completions", R"({"model":"x","messages":[{"role":"user","content":"a"}]})"),
              404)["error"]["code"],
      "model_not_found");
}

TEST_F(ServerTest, SecurityIsCheckedBeforeTheBody) {
  Start();
  const auto status = [&](const std::string& lines) {
    // The body is announced and never sent: the refusal must not wait for it.
    return Ask("POST /v1/chat/completions HTTP/1.1\r\n" + lines + "Content-Length: 100000\r\n\r\n").status;
  };
  const std::string key = "Authorization: Bearer tp-test-key\r\n";
  const std::string json = "Content-Type: application/json\r\n";
  EXPECT_EQ(status("Host: evil.com\r\n" + key + json), 403);
  EXPECT_EQ(status("Host: localhost\r\nOrigin: http://evil.com\r\n" + key + json), 403);
  EXPECT_EQ(status("Host: localhost\r\n" + json), 401);
  EXPECT_EQ(status("Host: localhost\r\nAuthorization: Bearer no\r\n" + json), 401);
  EXPECT_EQ(status("Host: localhost\r\n" + key), 415);
  EXPECT_EQ(status("Host: localhost\r\nContent-Type: text/plain\r\n" + key), 415);
  EXPECT_EQ(status("Host: localhost\r\nContent-Encoding: gzip\r\n" + key + json), 415);
  EXPECT_EQ(Ask(Get("/v1/chat/completions")).status, 405);
  EXPECT_EQ(Ask(Get("/v1/chat/completions")).headers.at("allow"), "POST");
  EXPECT_EQ(Ask(Get("/v1/nothing")).status, 404);
}

// (Sanitizers see what is wrong otherwise.)
TEST_F(ServerTest, WhatEndsAfterTheGatewayTouchesNothingOfIt) {
  Start();
  inference_.holds = true;
  RawClient embeds(port_), loads(port_);
  embeds.Send(Post("/v1/embeddings", R"({"model":"scripted","input":"abc"})"));
  loads.Send(Post("/api/v1/models/scripted/load", R"({"wait":true})"));
  ASSERT_TRUE(WaitMetric("tidepool_http_requests_in_flight", 2));
  std::this_thread::sleep_for(std::chrono::milliseconds(100));  // from the count to the handlers' calls
  gateway_.reset();
  EXPECT_EQ(inference_.CallHeld(), 2);
}

TEST_F(ServerTest, CorsByOption) {
  options_.cors_origins = {"https://chat.example.org"};
  Start();
  const RawReply preflight =
      Ask("OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: https://chat.example.org\r\n"
          "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: "
          "authorization,x-stainless-lang\r\n\r\n");
  EXPECT_EQ(preflight.status, 204);
  EXPECT_EQ(preflight.headers.at("access-control-allow-origin"), "https://chat.example.org");
  EXPECT_EQ(preflight.headers.at("access-control-allow-headers"), "authorization,x-stainless-lang");
  EXPECT_EQ(preflight.headers.count("content-type"), 0u);
  for (const Route& route : Routes())
    EXPECT_THAT(preflight.headers.at("access-control-allow-methods"), HasSubstr(std::string(route.method)));
  const RawReply reply = Ask(Get("/v1/models", "Origin: https://chat.example.org\r\n"));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(reply.headers.at("access-control-allow-origin"), "https://chat.example.org");
  EXPECT_EQ(reply.headers.at("vary"), "Origin");
  EXPECT_EQ(Ask("OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.org\r\n"
                "Access-Control-Request-Method: GET\r\n\r\n")
                .status,
            403);
}

TEST_F(ServerTest, OpenServersNeedNoKey) {
  options_.open = true;
  Start();
  EXPECT_EQ(Ask("GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
  EXPECT_EQ(Ask("GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer x\r\n\r\n").status, 200);
  EXPECT_EQ(Ask("GET /v1/models HTTP/1.1\r\nHost: evil.com\r\n\r\n").status, 403);
}

TEST_F(ServerTest, ThePortInUseIsAnError) {
  Start();
  GatewayOptions other = options_;
  other.listen = "127.0.0.1:" + std::to_string(port_);
  const auto second = Gateway::Start(other, inference_, catalog_, keys_, clock_, metrics_, {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, "cannot_listen");
}

// ---- the wire ------------------------------------------------------------------------------------------

TEST_F(ServerTest, ConnectionsAreKeptAndPipelinesAnsweredInOrder) {
  Start();
  RawClient client(port_);
  for (int i = 0; i < 3; ++i) {
    client.Send(Get("/v1/models/scripted"));
    EXPECT_EQ(client.ReadReply().status, 200);
  }
  client.Send(Get("/v1/models/scripted") + Get("/v1/models/other") + Post("/v1/chat/completions", kChat) +
              Get("/health"));
  EXPECT_EQ(client.ReadReply().status, 200);
  EXPECT_EQ(client.ReadReply().status, 404);
  EXPECT_THAT(client.ReadReply().body, HasSubstr("hello"));
  EXPECT_THAT(client.ReadReply().body, HasSubstr("ok"));
  client.Send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(client.ReadReply().status, 200);
  EXPECT_TRUE(client.ReadEnd());
}

TEST_F(ServerTest, ChunkedBodiesAndExpectContinue) {
  Start();
  RawClient client(port_);
  client.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-test-key\r\n"
      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
  ASSERT_TRUE(client.ReadUntil("100 Continue\r\n\r\n"));
  EXPECT_EQ(client.ReadReply().status, 100);
  for (const char c : kChat) client.Send(std::string("1\r\n") + c + "\r\n");
  client.Send("0\r\n\r\n");
  EXPECT_EQ(client.ReadReply().status, 200);
}

TEST_F(ServerTest, Http10ClientsAreAnswered) {
  Start();
  RawClient client(port_);
  std::string request = Post("/v1/chat/completions", kStream);
  request.replace(request.find("HTTP/1.1"), 8, "HTTP/1.0");
  client.Send(request);
  ASSERT_TRUE(client.ReadEnd());
  EXPECT_THAT(client.received(), Not(HasSubstr("chunked")));
  EXPECT_TRUE(client.received().ends_with("data: [DONE]\n\n"));
}

TEST_F(ServerTest, BadHttpGetsAReplyAndTheEnd) {
  options_.max_header_bytes = 4096;
  options_.max_body_bytes = 10000;
  Start();
  const auto status = [&](std::string_view bytes) {
    RawClient client(port_);
    client.Send(bytes);
    const RawReply reply = client.ReadReply();
    EXPECT_TRUE(client.ReadEnd());
    if (reply.status != 0) {
      EXPECT_TRUE(Json::parse(reply.body).contains("error"));
    }
    return reply.status;
  };
  EXPECT_EQ(status("garbage\r\n\r\n"), 400);
  EXPECT_EQ(status("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(status("GET / HTTP/3.0\r\nHost: a\r\n\r\n"), 505);
  EXPECT_EQ(status("GET / HTTP/1.1\nHost: a\n\n"), 400);
  EXPECT_EQ(status("GET / FTP/1.1\r\nHost: a\r\n\r\n"), 400);
  EXPECT_EQ(status("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(5000, 'a') + "\r\n\r\n"), 431);
  EXPECT_EQ(status(Post("/v1/chat/completions", std::string(20000, ' '))), 413);
  EXPECT_EQ(status("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"),
            400);
  const std::string many = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(Ask(Post("/v1/chat/completions", "{")).status, 400);
  EXPECT_EQ(Ask(Post("/v1/chat/completions", "[]")).status, 400);
  EXPECT_EQ(Ask(Post("/v1/chat/completions", "")).status, 400);
  EXPECT_EQ(Ask(Post("/v1/chat/completions", std::string(9000, '['))).status, 400);
  EXPECT_EQ(Ask(many).status, 200) << "the server is well after all that";
}

TEST_F(ServerTest, SlowSendersAreCutOff) {
  options_.header_timeout_s = 0.4;
  options_.body_timeout_s = 0.4;
  options_.idle_timeout_s = 0.4;
  Start();
  RawClient header(port_);
  header.Send("GET /health HTTP/1.1\r\nHost: loc");
  RawClient body(port_);
  body.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-test-key\r\n"
      "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{");
  RawClient silent(port_);
  RawClient idle(port_);
  idle.Send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(idle.ReadReply().status, 200);
  EXPECT_EQ(header.ReadReply().status, 408);
  EXPECT_EQ(body.ReadReply().status, 408);
  EXPECT_TRUE(silent.ReadEnd());
  EXPECT_TRUE(idle.ReadEnd());
  EXPECT_EQ(silent.received(), "");
}

TEST_F(ServerTest, TooManyConnectionsAreToldSo) {
  options_.max_connections = 3;
  Start();
  RawClient a(port_), b(port_), c(port_);
  for (RawClient* client : {&a, &b, &c}) {
    client->Send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    EXPECT_EQ(client->ReadReply().status, 200);
  }
  RawClient fourth(port_);
  const RawReply reply = fourth.ReadReply();
  EXPECT_EQ(reply.status, 503);
  EXPECT_EQ(Json::parse(reply.body)["error"]["code"], "too_many_connections");
  EXPECT_EQ(reply.headers.count("x-request-id"), 1u);
  a.Close();
  for (int attempt = 0; attempt < 100; ++attempt) {
    RawClient again(port_);
    again.Send("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    if (again.ReadReply().status == 200) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  FAIL() << "a closed connection's place is not given away again";
}

// A request whose body takes `bytes` in all.
std::string LongChat(size_t bytes) {
  std::string body(kChat);
  body.append(bytes - body.size(), ' ');
  return Post("/v1/chat/completions", body);
}

TEST_F(ServerTest, AllBodiesTogetherAreBounded) {
  options_.max_body_bytes = 100'000;
  options_.max_total_body_bytes = 150'000;
  Start();
  std::atomic<bool> go_on{false};
  inference_.SetScript([&](FakeRun& run) {
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    run.Say("x");
  });
  RawClient first(port_);
  first.Send(LongChat(90'000));
  ASSERT_TRUE(inference_.WaitRunning(1, 20));
  EXPECT_EQ(Metric("tidepool_http_request_body_bytes_in_flight"), 90'000);
  // Announced only, and never sent: the refusal does not wait for it, and "100 Continue" is not said.
  std::string announced = LongChat(60'001);
  announced.resize(announced.find("\r\n\r\n") + 4);
  announced.insert(announced.find("\r\n") + 2, "Expect: 100-continue\r\n");
  RawClient second(port_);
  second.Send(announced);
  const RawReply refused = second.ReadReply();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  const Json error = Json::parse(refused.body)["error"];
  EXPECT_EQ(error["type"], "server_error");
  EXPECT_EQ(error["code"], "too_many_body_bytes");
  EXPECT_THAT(error["message"].get<std::string>(), HasSubstr("http.max_total_body"));
  EXPECT_TRUE(second.ReadEnd());
  // A chunked body says its size by growing.
  RawClient chunked(port_);
  chunked.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-test-key\r\n"
      "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nea61\r\n" +  // 60,001
      std::string(60'001, ' '));
  EXPECT_EQ(chunked.ReadReply().status, 503);
  EXPECT_EQ(Metric("tidepool_http_refused_bodies_total"), 2);
  // What fits is taken; what ended is given back.
  EXPECT_EQ(Ask(Post("/tokenize", R"({"model":"scripted","text":"ab"})")).status, 200);
  go_on = true;
  EXPECT_EQ(first.ReadReply().status, 200);
  EXPECT_TRUE(WaitMetric("tidepool_http_request_body_bytes_in_flight", 0));
  EXPECT_EQ(Ask(LongChat(100'000)).status, 200);
}

TEST_F(ServerTest, ALargeUploadReadsItsRefusal) {
  options_.max_body_bytes = 4 << 20;
  options_.max_total_body_bytes = 4 << 20;
  Start();
  std::atomic<bool> go_on{false};
  inference_.SetScript([&](FakeRun& run) {
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    run.Say("x");
  });
  RawClient first(port_);
  first.Send(LongChat(1 << 20));
  ASSERT_TRUE(inference_.WaitRunning(1, 20));
  for (int i = 0; i < 20; ++i) {
    RawClient client(port_);
    client.Send(LongChat(4 << 20));  // sent whole before the reply is looked at
    EXPECT_EQ(client.ReadReply().status, 503) << i;
  }
  go_on = true;
  EXPECT_EQ(first.ReadReply().status, 200);
}

TEST_F(ServerTest, ATotalBelowTheLargestBodyIsRefusedAtStart) {
  options_.max_total_body_bytes = options_.max_body_bytes - 1;
  const auto gateway = Gateway::Start(options_, inference_, catalog_, keys_, clock_, metrics_, {});
  ASSERT_FALSE(gateway);
  EXPECT_EQ(gateway.error().param, "http.max_total_body");
}

// ---- clients that leave or lag ---------------------------------------------------------------------------

TEST_F(ServerTest, AClientThatLeavesCancelsItsWork) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("first");
    EXPECT_TRUE(run.WaitCancelled(20));
    run.Finish(compute::FinishReason::kCancelled);
    run.Done(compute::Usage{});
  });
  {
    RawClient streaming(port_);
    streaming.Send(Post("/v1/chat/completions", kStream));
    ASSERT_TRUE(streaming.ReadUntil("first"));
  }
  {
    RawClient waiting(port_);  // nothing of a whole answer is sent before its end
    waiting.Send(Post("/v1/chat/completions", kChat));
    ASSERT_TRUE(inference_.WaitRunning(1, 20));
  }
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
  EXPECT_EQ(inference_.cancelled(), 2);
}

TEST_F(ServerTest, FloodingBehindARequestEndsIt) {
  options_.max_header_bytes = 4096;
  Start();
  inference_.SetScript([](FakeRun& run) {
    EXPECT_TRUE(run.WaitCancelled(20));
    run.Done(compute::Usage{});
  });
  RawClient client(port_);
  client.Send(Post("/v1/chat/completions", kStream));
  client.Send(std::string(100000, 'x'));
  EXPECT_TRUE(client.ReadEnd());
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
}

TEST_F(ServerTest, ASlowReaderPausesItsGenerationThenGoesOn) {
  options_.max_write_buffer_bytes = 256 << 10;
  Start();
  constexpr int kTokens = 4000;  // x 1 KiB: more than every buffer on the way
  std::atomic<bool> was_paused{false};
  inference_.SetScript([&](FakeRun& run) {
    const std::string text(1024, 't');
    for (int i = 0; i < kTokens && !run.cancelled(); ++i) {
      run.Token(text);
      if (run.paused()) {
        was_paused = true;
        if (!run.WaitPaused(false, 20)) break;
      }
      // The engine makes a token a step; this is faster than any, but gives the I/O thread its turn.
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{1, 0, kTokens, 0});
  });
  RawClient client(port_, 16384);
  client.Send(Post("/v1/chat/completions", kStream));
  ASSERT_TRUE(client.ReadUntil("tttt"));
  for (int i = 0; i < 400 && !was_paused; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(was_paused);
  const RawReply reply = client.ReadReply(60);
  EXPECT_TRUE(reply.body.ends_with("data: [DONE]\n\n"));
  EXPECT_GE(reply.body.size(), size_t{kTokens} * 1024);
}

TEST_F(ServerTest, AReaderThatTakesNothingIsDropped) {
  options_.max_write_buffer_bytes = 64 << 10;
  options_.write_timeout_s = 0.6;
  Start();
  inference_.SetScript([](FakeRun& run) {
    const std::string text(1024, 't');
    while (!run.cancelled()) {
      if (!run.paused()) run.Token(text);
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    run.Finish(compute::FinishReason::kCancelled);
    run.Done(compute::Usage{});
  });
  RawClient client(port_, 8192);
  client.Send(Post("/v1/chat/completions", kStream));
  EXPECT_TRUE(inference_.WaitRunning(1, 20));
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
  EXPECT_TRUE(WaitMetric("tidepool_http_dropped_readers_total", 1));
  EXPECT_EQ(Ask(Get("/v1/models")).status, 200);
}

// A producer that does not stop when paused must not grow the buffer without end.
TEST_F(ServerTest, AnOverflowingBufferDropsTheReader) {
  options_.max_write_buffer_bytes = 64 << 10;
  Start();
  inference_.SetScript([](FakeRun& run) {
    const std::string text(4096, 't');
    while (!run.cancelled()) run.Token(text);
    run.Done(compute::Usage{});
  });
  RawClient client(port_, 8192);
  client.Send(Post("/v1/chat/completions", kStream));
  // It may be over within a millisecond: that it ran shows in the metric.
  EXPECT_TRUE(WaitMetric("tidepool_http_dropped_readers_total", 1));
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
}

// ---- waiting, errors, the end ----------------------------------------------------------------------------

TEST_F(ServerTest, TheCostIsToldBeforeTheEndToThoseWhoAskForProgress) {
  Start();
  const auto script = [](FakeRun& run) {
    run.Token("x");
    run.Finish(compute::FinishReason::kStop);
    run.Bill({.amount_nanos = 12'500, .currency = "EUR", .billing = platform::Billing::kPaid});
    run.Done(compute::Usage{7, 3, 1, 0});
  };
  inference_.SetScript(script);
  const RawReply with = Ask(Post("/v1/chat/completions", kStream, "Tidepool-Progress: 1\r\n"));
  EXPECT_THAT(with.body, HasSubstr(R"(event: cost
data: {"amount":"0.0000125","currency":"EUR","billing":"paid","free_tokens":0}

)"));
  EXPECT_TRUE(with.body.ends_with("data: [DONE]\n\n"));
  inference_.SetScript(script);
  const RawReply without = Ask(Post("/v1/chat/completions", kStream));
  EXPECT_THAT(without.body, Not(HasSubstr("cost")));
}

TEST_F(ServerTest, ProgressOnlyForThoseWhoAsk) {
  options_.keep_alive_comment_s = 0.3;
  Start();
  const auto script = [](FakeRun& run) {
    using Phase = compute::ProgressEvent::Phase;
    run.Progress({Phase::kQueued, 3, 0});
    run.Progress({Phase::kLoading, 0, 0.5f});
    run.Progress({Phase::kPrefill, 0, 1});
    run.WaitCancelled(1.0);  // nothing is said for a while
    run.Say("x");
  };
  inference_.SetScript(script);
  const RawReply with = Ask(Post("/v1/chat/completions", kStream, "Tidepool-Progress: 1\r\n"));
  EXPECT_THAT(with.body, HasSubstr("event: progress\ndata: {\"phase\":\"queued\",\"queue_position\":3}\n\n"));
  EXPECT_THAT(with.body, HasSubstr("data: {\"phase\":\"loading\",\"share\":0.500}\n\n"));
  EXPECT_THAT(with.body, HasSubstr("data: {\"phase\":\"prefill\",\"share\":1.000}\n\n"));
  EXPECT_THAT(with.body, HasSubstr(": waiting\n\n"));
  inference_.SetScript(script);
  const RawReply without = Ask(Post("/v1/chat/completions", kStream));
  EXPECT_THAT(without.body, Not(HasSubstr("progress")));
  EXPECT_THAT(without.body, HasSubstr(": waiting\n\n"));
  EXPECT_TRUE(without.body.ends_with("data: [DONE]\n\n"));
}

TEST_F(ServerTest, AnErrorBeforeTheFirstTokenHasItsStatus) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Done(Fail(ErrorKind::kUnavailable, "out_of_pool_memory", "It does not fit: 5 GiB asked."));
  });
  EXPECT_EQ(AskJson(Post("/v1/chat/completions", kStream), 503)["error"]["code"], "out_of_pool_memory");
  EXPECT_EQ(AskJson(Post("/v1/chat/completions", kChat), 503)["error"]["code"], "out_of_pool_memory");
}

TEST_F(ServerTest, AnErrorInsideAStreamIsAnEvent) {
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("par");
    run.Finish(compute::FinishReason::kError, 0,
               Error{ErrorKind::kInternal, "step_failed", "The step failed.", "", 0});
    run.Done(compute::Usage{});
  });
  const RawReply reply = Ask(Post("/v1/chat/completions", kStream));
  EXPECT_EQ(reply.status, 200);
  EXPECT_EQ(Events(reply.body).back()["error"]["code"], "step_failed");
  EXPECT_THAT(reply.body, Not(HasSubstr("[DONE]")));
  EXPECT_EQ(AskJson(Post("/v1/chat/completions", kChat), 500)["error"]["code"], "step_failed");
}

TEST_F(ServerTest, AnAnswerThatIsLostBelowIsAnError) {
  Start();
  inference_.SetScript([](FakeRun& run) { run.Token("x"); });  // and drops its sink without OnDone
  EXPECT_EQ(AskJson(Post("/v1/chat/completions", kChat), 500)["error"]["code"], "answer_lost");
}

TEST_F(ServerTest, DrainingLetsStreamsEndAndTakesNothingNew) {
  Start();
  std::atomic<bool> go_on{false};
  inference_.SetScript([&](FakeRun& run) {
    run.Token("a");
    while (!go_on) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    run.Say("b");
  });
  RawClient client(port_);
  client.Send(Post("/v1/chat/completions", kStream));
  ASSERT_TRUE(client.ReadUntil("\"a\""));
  std::atomic<bool> drained{false};
  std::thread drain([&] { drained = gateway_->Drain(); });
  for (int i = 0; i < 1000 && Ask("GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n").status != 503; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  const RawReply refused = Ask(Post("/v1/chat/completions", kChat));
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.headers.at("retry-after"), "5");
  EXPECT_EQ(Ask("GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").status, 200);
  EXPECT_FALSE(drained);
  go_on = true;
  EXPECT_TRUE(client.ReadReply().body.ends_with("data: [DONE]\n\n"));
  drain.join();
  EXPECT_TRUE(drained);
}

TEST_F(ServerTest, DrainGivesUpAfterItsTimeAndStopCancels) {
  options_.drain_timeout_s = 0.2;
  Start();
  inference_.SetScript([](FakeRun& run) {
    run.Token("a");
    EXPECT_TRUE(run.WaitCancelled(20));
    run.Done(compute::Usage{});
  });
  RawClient client(port_);
  client.Send(Post("/v1/chat/completions", kStream));
  ASSERT_TRUE(client.ReadUntil("\"a\""));
  EXPECT_FALSE(gateway_->Drain());
  gateway_->Stop();
  EXPECT_TRUE(client.ReadEnd());
  EXPECT_TRUE(inference_.WaitRunning(0, 20));
}

TEST_F(ServerTest, ManyStreamsAtOnce) {
  options_.threads = 2;
  Start();
  inference_.SetScript([](FakeRun& run) {
    for (int i = 0; i < 20; ++i) run.Token("word ");
    run.Say("end");
  });
  std::vector<std::unique_ptr<RawClient>> clients;
  for (int i = 0; i < 60; ++i) {
    clients.push_back(std::make_unique<RawClient>(port_));
    clients.back()->Send(Post("/v1/chat/completions", kStream));
  }
  for (auto& client : clients) {
    const RawReply reply = client->ReadReply(60);
    EXPECT_EQ(reply.status, 200);
    std::string text;
    for (const Json& event : Events(reply.body)) {
      if (!event["choices"].empty()) text += event["choices"][0]["delta"].value("content", "");
    }
    EXPECT_EQ(text.size(), 20 * 5 + 3u);
  }
}

}  // namespace
}  // namespace tidepool::gateway
