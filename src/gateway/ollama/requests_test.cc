// Oracle: the fields and defaults of Ollama's API documentation and of its Python client (ollama/_types.py).
#include "gateway/ollama/requests.h"

#include <gtest/gtest.h>

namespace tidepool::gateway::ollama {
namespace {

Json ChatBody(std::string_view more) {
  return Json::parse(R"({"model":"m","messages":[{"role":"user","content":"hi"}])" + std::string(more) + "}");
}
// "" or "param: code".
template <typename T>
std::string ProblemOf(const Result<T>& parsed) {
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}
std::string ChatProblem(std::string_view more) { return ProblemOf(ParseChat(ChatBody(more))); }
std::string MessagesProblem(std::string_view messages) {
  return ProblemOf(ParseChat(Json::parse(R"({"model":"m","messages":)" + std::string(messages) + "}")));
}
std::string GenerateProblem(std::string_view more) {
  return ProblemOf(ParseGenerate(Json::parse(R"({"model":"m","prompt":"hi")" + std::string(more) + "}")));
}

TEST(OllamaChat, ReadsOptionsUnderTheirNames) {
  const auto parsed = ParseChat(ChatBody(
      R"(,"options":{"num_predict":9,"temperature":0.5,"top_k":40,"top_p":0.9,"min_p":0.05,"repeat_penalty":1.1,
      "presence_penalty":1.5,"frequency_penalty":1,"seed":42,"stop":["a","b"],"num_ctx":4096,"typical_p":0.7,"frob":1},
      "format":{"type":"object"},"think":"high","keep_alive":"1h30m","logprobs":true,"top_logprobs":3)"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const platform::SamplingRequest& s = parsed->request.sampling;
  EXPECT_EQ(s.max_tokens, 9);
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_k, 40);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.min_p, 0.05);
  EXPECT_EQ(s.repetition_penalty, 1.1);
  EXPECT_EQ(s.presence_penalty, 1.5);
  EXPECT_EQ(s.frequency_penalty, 1);
  EXPECT_EQ(s.seed, 42);
  EXPECT_EQ(s.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.output.kind, platform::OutputFormat::Kind::kJsonSchema);
  EXPECT_EQ(s.output.param, "format");
  EXPECT_EQ(s.top_logprobs, 3);
  EXPECT_EQ(parsed->keep_alive, 5400.0);
  EXPECT_EQ(parsed->request.template_variables,
            Json::parse(R"({"enable_thinking":true,"reasoning_effort":"high"})"));
  EXPECT_EQ(parsed->reply.ignored,
            (std::vector<std::string>{"options.num_ctx", "options.typical_p", "options.frob"}));
  EXPECT_TRUE(parsed->reply.stream) << "Ollama streams unless told";
  EXPECT_FALSE(parsed->load_only);
}

TEST(OllamaChat, ValuesThatAskForNothing) {
  const auto parsed = ParseChat(ChatBody(
      R"(,"options":{"num_predict":-1,"seed":-1,"stop":[]},"format":"","stream":false,"think":false,"tools":[])"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.sampling.max_tokens, std::nullopt);
  EXPECT_EQ(parsed->request.sampling.seed, std::nullopt);
  EXPECT_EQ(parsed->request.sampling.output.kind, platform::OutputFormat::Kind::kText);
  EXPECT_FALSE(parsed->reply.stream);
  EXPECT_EQ(parsed->request.template_variables, Json::parse(R"({"enable_thinking":false})"));
  EXPECT_EQ(ParseChat(ChatBody(R"(,"format":"json")"))->request.sampling.output.kind,
            platform::OutputFormat::Kind::kJsonObject);
}

TEST(OllamaChat, NoMessagesLoadTheModel) {
  for (const char* body :
       {R"({"model":"m"})", R"({"model":"m","messages":[]})", R"({"model":"m","messages":null})"}) {
    const auto parsed = ParseChat(Json::parse(body));
    ASSERT_TRUE(parsed) << body;
    EXPECT_TRUE(parsed->load_only) << body;
  }
}

// Calls have no ids in Ollama's dialect and results name their tool; templates want ids that match.
TEST(OllamaChat, ResultsFindTheirCalls) {
  const auto parsed = ParseChat(Json::parse(R"({"model":"m","messages":[
    {"role":"user","content":"hi"},
    {"role":"assistant","thinking":"hm","tool_calls":[
      {"function":{"name":"a","arguments":{"x":1}}},{"function":{"name":"b","arguments":{}}},
      {"id":"mine","function":{"name":"a","arguments":{}}}]},
    {"role":"tool","tool_name":"b","content":"B"},
    {"role":"tool","tool_name":"a","content":"A1"},
    {"role":"tool","tool_call_id":"mine","content":"A2"}]})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const Json& m = parsed->request.messages;
  EXPECT_EQ(m[1]["reasoning_content"], "hm");
  EXPECT_EQ(m[1]["content"], "");
  EXPECT_EQ(m[1]["tool_calls"][0]["type"], "function");
  EXPECT_EQ(m[2]["tool_call_id"], m[1]["tool_calls"][1]["id"]);
  EXPECT_EQ(m[2]["name"], "b");
  EXPECT_EQ(m[3]["tool_call_id"], m[1]["tool_calls"][0]["id"]);
  EXPECT_EQ(m[4]["tool_call_id"], "mine");
  EXPECT_NE(m[1]["tool_calls"][0]["id"], m[1]["tool_calls"][1]["id"]);
}

TEST(OllamaChat, AnAnswerThatWasBegunGoesOn) {
  const auto parsed = ParseChat(Json::parse(
      R"({"model":"m","messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"I am"}]})"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->request.template_variables, Json::parse(R"({"continue_final_message":true})"));
}

TEST(OllamaChat, RefusesWithThePlace) {
  EXPECT_EQ(ProblemOf(ParseChat(Json::parse("{}"))), "model: missing_field");
  EXPECT_EQ(ChatProblem(R"(,"options":{"temperature":3})"), "options.temperature: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"options":{"num_predict":"many"})"), "options.num_predict: invalid_type");
  EXPECT_EQ(ChatProblem(R"(,"options":{"stop":[""]})"), "options.stop: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"options":[])"), "options: invalid_type");
  EXPECT_EQ(ChatProblem(R"(,"format":"xml")"), "format: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"format":7)"), "format: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"think":"much")"), "think: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"keep_alive":"soon")"), "keep_alive: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"keep_alive":[])"), "keep_alive: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"top_logprobs":3)"), "top_logprobs: invalid_value");
  EXPECT_EQ(ChatProblem(R"(,"tools":[{"type":"function"}])"), "tools[0].function: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([{"role":"wizard","content":"x"}])"), "messages[0].role: invalid_value");
  EXPECT_EQ(MessagesProblem(R"(["x"])"), "messages[0]: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":"x","images":["aGk="]}])"),
            "messages[0].images: unsupported_parameter");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":"x","images":[]}])"), "");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":7}])"), "messages[0].content: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":"x"},{"role":"tool","content":"y"}])"),
            "messages[1]: unknown_tool_call");
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","tool_calls":[{"function":{"name":"a","arguments":{}}}]},
                                {"role":"tool","tool_name":"b","content":"y"}])"),
            "messages[1]: unknown_tool_call");
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","tool_calls":[{"function":{"name":"a"}}]}])"),
            "messages[0].tool_calls[0]: invalid_value");
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","tool_calls":"x","content":"y"}])"),
            "messages[0].tool_calls: invalid_type");
}

TEST(OllamaGenerate, BecomesAChatOrARawPrompt) {
  const auto chat = ParseGenerate(Json::parse(R"({"model":"m","prompt":"hi","system":"be kind"})"));
  ASSERT_TRUE(chat);
  EXPECT_EQ(chat->chat.messages,
            Json::parse(R"([{"role":"system","content":"be kind"},{"role":"user","content":"hi"}])"));
  const auto raw = ParseGenerate(
      Json::parse(R"({"model":"m","prompt":"<|im_start|>user","raw":true,"options":{"num_predict":3}})"));
  ASSERT_TRUE(raw);
  EXPECT_TRUE(raw->raw);
  EXPECT_TRUE(raw->completion.parse_special);
  EXPECT_EQ(raw->completion.prompts[0].text, "<|im_start|>user");
  EXPECT_EQ(raw->completion.sampling.max_tokens, 3);
  EXPECT_TRUE(ParseGenerate(Json::parse(R"({"model":"m"})"))->load_only);
  EXPECT_EQ(GenerateProblem(R"(,"raw":true,"system":"x")"), "system: invalid_value");
  EXPECT_EQ(GenerateProblem(R"(,"suffix":"x")"), "suffix: unsupported_parameter");
  EXPECT_EQ(GenerateProblem(R"(,"template":"{{ .Prompt }}")"), "template: unsupported_parameter");
  EXPECT_EQ(GenerateProblem(R"(,"context":[1])"), "context: unsupported_parameter");
  EXPECT_EQ(GenerateProblem(R"(,"images":["aGk="])"), "images: unsupported_parameter");
  EXPECT_EQ(GenerateProblem(R"(,"suffix":"","template":"","context":[],"images":null)"), "");
}

TEST(OllamaEmbed, ReadsTexts) {
  const auto two =
      ParseEmbed(Json::parse(R"({"model":"m","input":["a","b"],"truncate":false,"dimensions":8})"));
  ASSERT_TRUE(two);
  ASSERT_EQ(two->request.inputs.size(), 2u);
  EXPECT_FALSE(two->request.truncate);
  EXPECT_EQ(two->dimensions, 8);
  EXPECT_TRUE(ParseEmbed(Json::parse(R"({"model":"m","input":"a"})"))->request.truncate);
  EXPECT_TRUE(ParseEmbed(Json::parse(R"({"model":"m","input":""})"))->request.inputs.empty());
  EXPECT_EQ(ProblemOf(ParseEmbed(Json::parse(R"({"model":"m","input":["a",7]})"))), "input[1]: invalid_type");
  EXPECT_EQ(ParseEmbeddings(Json::parse(R"({"model":"m","prompt":"a"})"))->request.inputs.size(), 1u);
}

TEST(OllamaName, TakesBothNames) {
  EXPECT_EQ(ParseName(Json::parse(R"({"model":"a:b"})"))->model, "a:b");
  EXPECT_EQ(ParseName(Json::parse(R"({"name":"a:b"})"))->model, "a:b");
  EXPECT_EQ(ProblemOf(ParseName(Json::parse(R"({"name":""})"))), "model: missing_field");
}

TEST(OllamaDuration, AsGoReadsIt) {
  const auto seconds = [](std::string_view text) {
    const auto parsed = ParseDuration(Json::parse(text), "keep_alive");
    return parsed ? *parsed : -100.0;
  };
  EXPECT_EQ(seconds("300"), 300);
  EXPECT_EQ(seconds("\"5m\""), 300);
  EXPECT_EQ(seconds("\"1h0.5m2s\""), 3632);
  EXPECT_EQ(seconds("\"1500ms\""), 1.5);
  EXPECT_EQ(seconds("\"-1\""), -1);
  EXPECT_EQ(seconds("-1"), -1);
  EXPECT_EQ(seconds("\"-5m\""), -1);
  EXPECT_EQ(seconds("0"), 0);
  EXPECT_EQ(seconds("1e300"), 365.0 * 86400);
  for (const char* bad : {"\"\"", "\"m\"", "\"5 m\"", "\"5m-3s\"", "\"nan\"", "true", "\"-\""})
    EXPECT_EQ(seconds(bad), -100) << bad;
}

}  // namespace
}  // namespace tidepool::gateway::ollama
