// What Anthropic's requests become. Oracle: its documentation of Messages, and the OpenAI form that the
// platform takes.
#include "gateway/anthropic/requests.h"

#include <gtest/gtest.h>

namespace tidepool::gateway::anthropic {
namespace {

using platform::ToolChoice;

// A request of these messages, with more fields.
Json Request(std::string_view messages, std::string_view more = "") {
  return Json::parse(R"({"model":"m","max_tokens":100,"messages":)" + std::string(messages) +
                     std::string(more) + "}");
}

std::string Problem(std::string_view messages, std::string_view more = "") {
  const auto parsed = ParseMessages(Request(messages, more));
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

constexpr std::string_view kHi = R"([{"role":"user","content":"hi"}])";

TEST(AnthropicRequest, AConversationWithToolsAndThinkingBecomesThePlatformsMessages) {
  const auto parsed =
      ParseMessages(Request(R"([
      {"role":"user","content":"weather?"},
      {"role":"assistant","content":[{"type":"thinking","thinking":"hm","signature":"s"},{"type":"redacted_thinking","data":"d"},
        {"type":"text","text":"Let me "},{"type":"text","text":"look."},
        {"type":"tool_use","id":"a","name":"weather","input":{"city":"Oslo"}},{"type":"tool_use","id":"b","name":"weather","input":{}}]},
      {"role":"user","content":[{"type":"text","text":"and?"},
        {"type":"tool_result","tool_use_id":"b","content":[{"type":"text","text":"no city"}],"is_error":true},
        {"type":"tool_result","tool_use_id":"a","content":"rain"}]},
      {"role":"user","content":"go on"}])",
                            R"(,"system":[{"type":"text","text":"one"},{"type":"text","text":"two"}])"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.messages, Json::parse(R"([
      {"role":"system","content":[{"type":"text","text":"one"},{"type":"text","text":"two"}]},
      {"role":"user","content":[{"type":"text","text":"weather?"}]},
      {"role":"assistant","content":"Let me look.","reasoning_content":"hm","tool_calls":[
        {"id":"a","type":"function","function":{"name":"weather","arguments":{"city":"Oslo"}}},
        {"id":"b","type":"function","function":{"name":"weather","arguments":{}}}]},
      {"role":"tool","tool_call_id":"b","content":"Error: no city"},
      {"role":"tool","tool_call_id":"a","content":"rain"},
      {"role":"user","content":[{"type":"text","text":"and?"},{"type":"text","text":"go on"}]}])"));
  EXPECT_FALSE(parsed->request.template_variables.contains("continue_final_message"));
  EXPECT_TRUE(parsed->ignored.empty());
}

TEST(AnthropicRequest, FieldsBecomeSamplingToolsAndVariables) {
  const auto parsed = ParseMessages(
      Request(kHi,
              R"(,"temperature":0.5,"top_p":0.9,"top_k":40,"stop_sequences":["x","y"],"stream":true,
      "thinking":{"type":"enabled","budget_tokens":100,"display":"omitted"},
      "tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"strict":true,"cache_control":{"type":"ephemeral"}}],
      "tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true},
      "output_config":{"effort":"max","format":{"type":"json_schema","schema":{"type":"object"}}}, "metadata":{"user_id":"u"})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const platform::SamplingRequest& s = parsed->request.sampling;
  EXPECT_EQ(s.max_tokens, 100);
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 40);
  EXPECT_EQ(s.stop, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(s.reasoning_budget, 100);
  EXPECT_EQ(s.output.kind, platform::OutputFormat::Kind::kJsonSchema);
  EXPECT_EQ(s.output.param, "output_config.format.schema");
  EXPECT_TRUE(parsed->stream);
  EXPECT_TRUE(parsed->hide_thinking);
  EXPECT_EQ(parsed->request.template_variables,
            Json::parse(R"({"enable_thinking":true,"reasoning_effort":"xhigh"})"));
  EXPECT_EQ(
      parsed->request.tools,
      Json::parse(
          R"([{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"},"strict":true}}])"));
  EXPECT_EQ(parsed->request.tool_choice, ToolChoice::kNamed);
  EXPECT_EQ(parsed->request.tool_name, "f");
  EXPECT_FALSE(parsed->request.parallel_tool_calls);
  EXPECT_EQ(parsed->ignored, std::vector<std::string>{"metadata"});
}

TEST(AnthropicRequest, ThinkingIsOffUnlessItIsAskedFor) {
  EXPECT_EQ(ParseMessages(Request(kHi))->request.template_variables, Json({{"enable_thinking", false}}));
  const auto adaptive = ParseMessages(Request(kHi, R"(,"thinking":{"type":"adaptive"})"));
  ASSERT_TRUE(adaptive);
  EXPECT_EQ(adaptive->request.template_variables, Json({{"enable_thinking", true}}));
  EXPECT_FALSE(adaptive->request.sampling.reasoning_budget);
}

TEST(AnthropicRequest, ALastTurnOfTheAssistantIsContinued) {
  const auto parsed =
      ParseMessages(Request(R"([{"role":"user","content":"hi"},{"role":"assistant","content":"{"}])"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->request.template_variables["continue_final_message"], true);
}

TEST(AnthropicRequest, ToolChoices) {
  const std::string tools = R"(,"tools":[{"name":"f","input_schema":{}}],"tool_choice":)";
  const std::pair<const char*, ToolChoice> cases[] = {{R"({"type":"auto"})", ToolChoice::kAuto},
                                                      {R"({"type":"any"})", ToolChoice::kRequired},
                                                      {R"({"type":"none"})", ToolChoice::kNone}};
  for (const auto& [choice, expected] : cases) {
    const auto parsed = ParseMessages(Request(kHi, tools + choice));
    ASSERT_TRUE(parsed) << choice;
    EXPECT_EQ(parsed->request.tool_choice, expected) << choice;
    EXPECT_TRUE(parsed->request.parallel_tool_calls);
  }
}

TEST(AnthropicRequest, DocumentsOfTextAreText) {
  const auto parsed = ParseMessages(Request(
      R"([{"role":"user","content":[{"type":"document","title":"T","source":{"type":"text","media_type":"text/plain","data":"body"}},
      {"type":"document","source":{"type":"content","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}}]}])"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.messages[0]["content"],
            Json::parse(R"([{"type":"text","text":"T\nbody"},{"type":"text","text":"a\nb"}])"));
  EXPECT_EQ(
      Problem(
          R"([{"role":"user","content":[{"type":"document","source":{"type":"base64","media_type":"application/pdf","data":"AA=="}}]}])"),
      "messages[0].content[0].source.type: unsupported_content");
}

TEST(AnthropicRequest, CallsAndResultsBelongTogether) {
  const std::string call =
      R"({"role":"user","content":"x"},{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]})";
  const std::string result = R"({"type":"tool_result","tool_use_id":"a","content":"y"})";
  EXPECT_EQ(Problem("[" + call + R"(,{"role":"user","content":[)" + result + "]}]"), "");
  EXPECT_EQ(Problem("[" + call + "]"), "messages: missing_tool_result");
  EXPECT_EQ(Problem("[" + call + R"(,{"role":"user","content":"no"}])"),
            "messages[2].content: missing_tool_result");
  EXPECT_EQ(Problem("[" + call + R"(,{"role":"assistant","content":"no"}])"),
            "messages[2].content: missing_tool_result");
  EXPECT_EQ(Problem("[" + call + R"(,{"role":"user","content":[)" + result + "," + result + "]}]"),
            "messages[2].content[1].tool_use_id: unknown_tool_call");
  EXPECT_EQ(Problem(R"([{"role":"user","content":[)" + result + "]}]"),
            "messages[0].content[0].tool_use_id: unknown_tool_call");
}

TEST(AnthropicRequest, WhatIsWrongIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(,"tool_choice":{"type":"any"})", "tool_choice: invalid_value"},
      {R"(,"tool_choice":{"type":"some"})", "tool_choice.type: invalid_value"},
      {R"(,"tool_choice":{"type":"none","disable_parallel_tool_use":true})",
       "tool_choice.disable_parallel_tool_use: invalid_value"},
      {R"(,"thinking":{"type":"enabled"})", "thinking.budget_tokens: missing_field"},
      {R"(,"thinking":{"type":"enabled","budget_tokens":-5})", "thinking.budget_tokens: invalid_value"},
      {R"(,"thinking":{"type":"enabled","budget_tokens":101})", "thinking.budget_tokens: invalid_value"},
      {R"(,"thinking":{"type":"disabled","budget_tokens":5})", "thinking.budget_tokens: invalid_value"},
      {R"(,"thinking":{"type":"between_tools"})", "thinking.type: invalid_value"},
      {R"(,"stop_sequences":[""])", "stop_sequences[0]: invalid_value"},
      {R"(,"tools":[{"name":"f"}])", "tools[0].input_schema: missing_field"},
      {R"(,"tools":[{"name":"f g","input_schema":{}}])", "tools[0].name: invalid_value"},
      {R"(,"tools":[{"type":"bash_20250124","name":"bash"}])", "tools[0].type: unsupported_parameter"},
      {R"(,"system":[{"type":"image"}])", "system[0].type: unsupported_content"},
      {R"(,"output_config":{"format":{"type":"json"}})", "output_config.format: invalid_value"},
      {R"(,"container":"c")", "container: unsupported_parameter"},
  };
  for (const auto& [more, expected] : cases) EXPECT_EQ(Problem(kHi, more), expected) << more;
  EXPECT_EQ(Problem(R"([{"role":"wizard","content":"x"}])"), "messages[0].role: invalid_value");
  EXPECT_EQ(Problem(R"([{"role":"user"}])"), "messages[0].content: missing_field");
  EXPECT_EQ(Problem(R"([{"role":"user","content":[]}])"), "messages[0].content: invalid_value");
  const auto missing =
      ParseMessages(Json::parse(R"({"model":"m","messages":[{"role":"user","content":"x"}]})"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().param, "max_tokens");
}

TEST(AnthropicRequest, WhatIsWithinObjectsIsNamedToo) {
  const auto parsed = ParseMessages(Request(
      R"([{"role":"user","content":[{"type":"text","text":"x","cache_control":{"type":"ephemeral","ttl":"1h","scope":"org"}}]}])",
      R"(,"tool_call_format":"hermes","tools":[{"name":"f","input_schema":{},"odd":1}],
      "output_config":{"format":{"type":"json_schema","schema":{},"odd":1}})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->ignored, (std::vector<std::string>{"messages[].content[].cache_control.scope",
                                                       "tools[].odd", "output_config.format.odd"}));
  EXPECT_EQ(parsed->request.tool_call_format, "hermes");
  EXPECT_EQ(Problem(R"([{"role":"user","content":[{"type":"document","source":{"type":"text","data":7}}]}])"),
            "messages[0].content[0].source.data: invalid_type");
}

}  // namespace
}  // namespace tidepool::gateway::anthropic
