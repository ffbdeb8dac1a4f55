// What requests of the Responses dialect become. Oracle: OpenAI's documentation of Responses, and the form of
// chat completions that the platform takes.
#include "gateway/responses/requests.h"

#include <gtest/gtest.h>

namespace tidepool::gateway::responses {
namespace {

using platform::ToolChoice;

Result<ParsedResponse> Parsed(std::string_view input, std::string_view more = "",
                              const Json& before = Json::array()) {
  TP_ASSIGN(ParsedResponse parsed, ParseResponse(Json::parse(R"({"model":"m","input":)" + std::string(input) +
                                                             std::string(more) + "}")));
  TP_TRY(CompleteRequest(parsed, before));
  return parsed;
}

std::string Problem(std::string_view input, std::string_view more = "") {
  const auto parsed = Parsed(input, more);
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

TEST(ResponseRequest, ItemsBecomeTurns) {
  const auto parsed = Parsed(R"([
      {"role":"developer","content":"be kind"},
      {"type":"message","role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
      {"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"short"}],"content":[{"type":"reasoning_text","text":"hm"}]},
      {"type":"message","role":"assistant","content":[{"type":"output_text","text":"Let me look.","annotations":[]}]},
      {"type":"function_call","call_id":"c","name":"f","arguments":"{\"x\":1}"},
      {"type":"function_call","call_id":"d","name":"g","arguments":"{","status":"incomplete"},
      {"type":"function_call_output","call_id":"c","output":[{"type":"input_text","text":"y"}]},
      {"role":"user","content":"go on"}])",
                             R"(,"instructions":"be brief")");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.messages, Json::parse(R"([
      {"role":"system","content":"be brief"},{"role":"system","content":"be kind"},{"role":"user","content":"a\nb"},
      {"role":"assistant","content":"Let me look.","reasoning_content":"hm","tool_calls":[
        {"id":"c","type":"function","function":{"name":"f","arguments":"{\"x\":1}"}}]},
      {"role":"tool","tool_call_id":"c","content":"y"},{"role":"user","content":"go on"}])"));
  for (const Json& item : parsed->input) EXPECT_FALSE(item["id"].get<std::string>().empty()) << item;
}

TEST(ResponseRequest, GoesOnFromItemsBefore) {
  const Json before =
      Json::parse(R"([{"type":"message","role":"user","content":[{"type":"input_text","text":"one"}]},
      {"type":"reasoning","id":"r","summary":[]},
      {"type":"message","role":"assistant","status":"completed","content":[{"type":"output_text","text":"two","annotations":[],"logprobs":[]}]}])");
  const auto parsed = Parsed(R"("three")", "", before);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.messages,
            Json::parse(R"([{"role":"user","content":"one"},{"role":"assistant","content":"two"},
      {"role":"user","content":"three"}])"));
  EXPECT_EQ(parsed->input.size(), 1u) << "only its own are stored with it";
  // An error in them is not the client's input.
  const Json open = Json::parse(R"([{"type":"function_call","call_id":"c","name":"f","arguments":"{}"}])");
  const auto unanswered = Parsed(R"("x")", "", open);
  ASSERT_FALSE(unanswered);
  EXPECT_EQ(unanswered.error().param, "input[0]");
  EXPECT_EQ(unanswered.error().code, "missing_tool_result");
}

TEST(ResponseRequest, FieldsBecomeSamplingToolsAndVariables) {
  const auto parsed = Parsed(
      R"("x")",
      R"(,"max_output_tokens":9,"temperature":0.5,"top_p":0.9,"top_logprobs":2,"include":["message.output_text.logprobs","x.y"],
      "reasoning":{"effort":"low","summary":"auto"},"text":{"format":{"type":"json_object"},"verbosity":"low"},
      "tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true},{"type":"function","name":"g"}],
      "tool_choice":{"type":"allowed_tools","mode":"required","tools":[{"type":"function","name":"g"}]},
      "parallel_tool_calls":false,"truncation":"auto","store":false,"stream":true,"user":"u")");
  ASSERT_TRUE(parsed) << parsed.error().message;
  const platform::SamplingRequest& s = parsed->request.sampling;
  EXPECT_EQ(s.max_tokens, 9);
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_logprobs, 2);
  EXPECT_EQ(s.output.kind, platform::OutputFormat::Kind::kJsonObject);
  EXPECT_EQ(parsed->request.template_variables, Json({{"reasoning_effort", "low"}}));
  EXPECT_EQ(parsed->request.tools, Json::parse(R"([{"type":"function","function":{"name":"g"}}])"));
  EXPECT_EQ(parsed->request.tool_choice, ToolChoice::kRequired);
  EXPECT_FALSE(parsed->request.parallel_tool_calls);
  EXPECT_TRUE(parsed->truncate && parsed->stream && parsed->summary && parsed->logprobs);
  EXPECT_FALSE(parsed->store);
  EXPECT_EQ(parsed->ignored, (std::vector<std::string>{"user", "include.x.y", "text.verbosity"}));
  EXPECT_EQ(parsed->shown["tools"].size(), 2u) << "the response repeats what was sent";
  const auto off = Parsed(R"("x")", R"(,"reasoning":{"effort":"none"})");
  ASSERT_TRUE(off);
  EXPECT_EQ(off->request.template_variables["enable_thinking"], false);
}

TEST(ResponseRequest, CallsAndOutputsBelongTogether) {
  const std::string call = R"({"type":"function_call","call_id":"c","name":"f","arguments":"{}"})";
  const std::string output = R"({"type":"function_call_output","call_id":"c","output":"y"})";
  EXPECT_EQ(Problem("[" + call + "," + output + "]"), "");
  EXPECT_EQ(Problem("[" + call + "]"), "input: missing_tool_result");
  EXPECT_EQ(Problem("[" + call + R"(,{"role":"user","content":"x"}])"), "input[1]: missing_tool_result");
  EXPECT_EQ(Problem("[" + call + "," + output + "," + output + "]"), "input[2].call_id: unknown_tool_call");
  EXPECT_EQ(Problem("[" + output + "]"), "input[0].call_id: unknown_tool_call");
  EXPECT_EQ(Problem("[" + call + "," + call + "]"), "input[1].call_id: invalid_value");
}

TEST(ResponseRequest, WhatIsWrongIsNamed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"(,"tool_choice":"required")", "tool_choice: invalid_value"},
      {R"(,"tool_choice":"perhaps")", "tool_choice: invalid_value"},
      {R"(,"tools":[{"type":"function","name":"f"}],"tool_choice":{"type":"function","name":"g"})",
       "tool_choice.name: invalid_value"},
      {R"(,"tools":[{"type":"file_search"}])", "tools[0].type: unsupported_parameter"},
      {R"(,"background":true,"store":false)", "background: invalid_value"},
      {R"(,"stream_options":{})", "stream_options: invalid_value"},
      {R"(,"text":{"format":{"type":"json_schema","name":"n"}})", "text.format.schema: missing_field"},
      {R"(,"text":{"format":{"type":"xml"}})", "text.format.type: invalid_value"},
      {R"(,"reasoning":{"summary":"long"})", "reasoning.summary: invalid_value"},
      {R"(,"include":[7])", "include[0]: invalid_type"},
      {R"(,"prompt":{"id":"p"})", "prompt: unsupported_parameter"},
      {R"(,"metadata":{"a":1})", "metadata: invalid_value"},
  };
  for (const auto& [more, expected] : cases) EXPECT_EQ(Problem(R"("x")", more), expected) << more;
  EXPECT_EQ(Problem("7"), "input: invalid_type");
  EXPECT_EQ(Problem("[]"), "input: invalid_value");
  EXPECT_EQ(Problem(R"([{"role":"wizard","content":"x"}])"), "input[0].role: invalid_value");
  EXPECT_EQ(Problem(R"([{"role":"user","content":[{"type":"input_image"}]}])"),
            "input[0].content[0].type: unsupported_content");
  EXPECT_EQ(Problem(R"([{"type":"computer_call"}])"), "input[0].type: unsupported_content");
}

TEST(ResponseRequest, WhatIsWithinObjectsIsNamedToo) {
  const auto parsed = Parsed(
      R"([{"role":"user","content":"x","mood":1},{"type":"reasoning","summary":[{"type":"summary_text","text":"h","odd":1}]},
      {"type":"message","role":"assistant","content":"y"},{"role":"user","content":"z"}])",
      R"(,"tool_call_format":"hermes","text":{"format":{"type":"json_schema","name":"n","schema":{},"odd":1}})");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->ignored,
            (std::vector<std::string>{"input[].mood", "input[].summary[].odd", "text.format.odd"}));
  EXPECT_EQ(parsed->request.tool_call_format, "hermes");
}

}  // namespace
}  // namespace tidepool::gateway::responses
