// Oracle: the fields and defaults of DashScope's documentation and of its Python client (aigc/generation.py).
#include "gateway/bailian/requests.h"

#include <gtest/gtest.h>

namespace tidepool::gateway::bailian {
namespace {

template <typename T>
std::string ProblemOf(const Result<T>& parsed) {
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}
Result<ParsedGeneration> Generate(std::string_view parameters,
                                  std::string_view input = R"({"prompt":"hi"})") {
  return ParseGeneration(Json::parse(R"({"model":"m","input":)" + std::string(input) + R"(,"parameters":)" +
                                     std::string(parameters) + "}"));
}

TEST(BailianGeneration, ReadsParameters) {
  const auto parsed = Generate(
      R"({"result_format":"message","incremental_output":true,"seed":7,"temperature":0.5,"top_p":0.9,"top_k":40,
      "repetition_penalty":1.1,"presence_penalty":-1,"max_tokens":9,"stop":["a"],"n":2,"enable_thinking":true,
      "thinking_budget":64,"response_format":{"type":"json_object"},"logprobs":true,"top_logprobs":3,
      "enable_search":false,"user_agent":"x","frob":1})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const platform::SamplingRequest& s = parsed->chat.request.sampling;
  EXPECT_TRUE(parsed->message_format);
  EXPECT_TRUE(parsed->incremental);
  EXPECT_EQ(s.seed, 7);
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 40);
  EXPECT_EQ(s.repetition_penalty, 1.1);
  EXPECT_EQ(s.presence_penalty, -1);
  EXPECT_EQ(s.max_tokens, 9);
  EXPECT_EQ(s.stop, std::vector<std::string>{"a"});
  EXPECT_EQ(s.n, 2);
  EXPECT_EQ(s.reasoning_budget, 64);
  EXPECT_EQ(s.top_logprobs, 3);
  EXPECT_EQ(s.output.kind, platform::OutputFormat::Kind::kJsonObject);
  EXPECT_EQ(parsed->chat.request.template_variables, Json::parse(R"({"enable_thinking":true})"));
  EXPECT_EQ(parsed->chat.reply.ignored,
            (std::vector<std::string>{"parameters.user_agent", "parameters.frob"}));
}

TEST(BailianGeneration, PromptsMessagesAndHistory) {
  const auto messages = [](std::string_view input) {
    const auto parsed = Generate("{}", input);
    return parsed ? parsed->chat.request.messages : Json(parsed.error().message);
  };
  EXPECT_EQ(messages(R"({"prompt":"hi"})"), Json::parse(R"([{"role":"user","content":"hi"}])"));
  EXPECT_EQ(messages(R"({"history":[{"user":"a","bot":"b"}],"prompt":"c"})"),
            Json::parse(R"([{"role":"user","content":"a"},{"role":"assistant","content":"b"},
                            {"role":"user","content":"c"}])"));
  EXPECT_EQ(messages(R"({"messages":[{"role":"system","content":"s"}],"prompt":"c"})"),
            Json::parse(R"([{"role":"system","content":"s"},{"role":"user","content":"c"}])"));
}

TEST(BailianGeneration, FormatsOfTheResult) {
  EXPECT_FALSE(Generate("{}")->message_format);
  const std::string tools = R"("tools":[{"type":"function","function":{"name":"f"}}])";
  EXPECT_TRUE(Generate("{" + tools + "}")->message_format);
  EXPECT_EQ(ProblemOf(Generate("{" + tools + R"(,"result_format":"text"})")),
            "parameters.result_format: invalid_value");
  EXPECT_EQ(ProblemOf(Generate(R"({"n":2})")), "parameters.n: invalid_value");
}

TEST(BailianGeneration, StopsMayBeTokens) {
  EXPECT_EQ(Generate(R"({"stop":[5,6]})")->chat.request.sampling.stop_token_ids,
            (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(Generate(R"({"stop":[[5],[6]]})")->chat.request.sampling.stop_token_ids,
            (std::vector<int32_t>{5, 6}));
  EXPECT_EQ(Generate(R"({"stop":"x"})")->chat.request.sampling.stop, std::vector<std::string>{"x"});
  EXPECT_EQ(ProblemOf(Generate(R"({"stop":[[5,6]]})")), "parameters.stop: unsupported_parameter");
}

TEST(BailianGeneration, RefusesWithThePlace) {
  EXPECT_EQ(ProblemOf(ParseGeneration(Json::parse("{}"))), "model: missing_field");
  EXPECT_EQ(ProblemOf(ParseGeneration(Json::parse(R"({"model":"m"})"))), "input: missing_field");
  EXPECT_EQ(ProblemOf(ParseGeneration(Json::parse(R"({"model":"m","input":"x"})"))), "input: invalid_type");
  EXPECT_EQ(ProblemOf(Generate("{}", "{}")), "input: missing_field");
  EXPECT_EQ(ProblemOf(Generate("{}", R"({"history":[{"user":1}]})")), "input.history[0].user: invalid_type");
  EXPECT_EQ(ProblemOf(Generate("{}", R"({"messages":[{"role":"wizard","content":"x"}]})")),
            "input.messages[0].role: invalid_value");
  EXPECT_EQ(ProblemOf(Generate("{}", R"({"messages":[{"role":"tool","tool_call_id":"c","content":"x"}]})")),
            "input.messages[0].tool_call_id: unknown_tool_call");
  EXPECT_EQ(ProblemOf(Generate(R"({"temperature":3})")), "parameters.temperature: invalid_value");
  EXPECT_EQ(ProblemOf(Generate(R"({"thinking_budget":-1})")), "parameters.thinking_budget: invalid_value");
  EXPECT_EQ(ProblemOf(Generate(R"({"enable_search":true})")),
            "parameters.enable_search: unsupported_parameter");
  EXPECT_EQ(ProblemOf(Generate(R"({"result_format":"xml"})")), "parameters.result_format: invalid_value");
}

TEST(BailianGeneration, WhatIsWithinObjectsIsNamedUnderItsPlace) {
  const auto parsed = Generate(
      R"({"tool_call_format":"hermes","tools":[{"type":"function","odd":1,"function":{"name":"f"}}],
      "response_format":{"type":"text","odd":1}})",
      R"({"messages":[{"role":"user","content":"x","mood":1}],"history":[{"user":"a","bot":"b","odd":1}]})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->chat.request.tool_call_format, "hermes");
  EXPECT_EQ(parsed->chat.reply.ignored,
            (std::vector<std::string>{"input.history[].odd", "parameters.response_format.odd",
                                      "parameters.tools[].odd"}));
  ASSERT_EQ(parsed->chat.reply.template_members.size(), 1u);
  EXPECT_EQ(parsed->chat.reply.template_members[0].path, "input.messages[].mood");
  EXPECT_EQ(ProblemOf(Generate(R"({"tools":[{"type":"function","function":{"name":"a b"}}]})")),
            "parameters.tools[0].function.name: invalid_value");
}

TEST(BailianEmbedding, ReadsTexts) {
  const auto parsed = ParseEmbedding(Json::parse(
      R"({"model":"m","input":{"texts":["a","b"]},"parameters":{"dimension":8,"text_type":"query","instruct":"find"}})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.inputs.size(), 2u);
  EXPECT_EQ(parsed->dimensions, 8);
  EXPECT_EQ(parsed->request.instruction, "find");
  const auto problem = [](std::string_view input, std::string_view parameters) {
    return ProblemOf(ParseEmbedding(Json::parse(R"({"model":"m","input":)" + std::string(input) +
                                                R"(,"parameters":)" + std::string(parameters) + "}")));
  };
  EXPECT_EQ(problem(R"({"texts":[]})", "{}"), "input.texts: invalid_value");
  EXPECT_EQ(problem(R"({"texts":["a",""]})", "{}"), "input.texts[1]: invalid_type");
  EXPECT_EQ(problem(R"({"texts":["a"]})", R"({"output_type":"sparse"})"),
            "parameters.output_type: unsupported_parameter");
  EXPECT_EQ(problem(R"({"texts":["a"]})", R"({"text_type":"song"})"), "parameters.text_type: invalid_value");
}

}  // namespace
}  // namespace tidepool::gateway::bailian
