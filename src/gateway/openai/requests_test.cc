#include "gateway/openai/requests.h"

#include <gtest/gtest.h>

#include <cmath>

#include "gateway/openai/embedding_reply.h"

namespace tidepool::gateway::openai {
namespace {

Json Chat(std::string_view more = "") {
  return Json::parse(R"({"model":"m","messages":[{"role":"user","content":"hi"}])" + std::string(more) + "}");
}

// "" or "param: code".
std::string ChatProblem(std::string_view more) {
  const auto parsed = ParseChat(Chat(more));
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

std::string MessagesProblem(std::string_view messages) {
  const auto parsed = ParseChat(Json::parse(R"({"model":"m","messages":)" + std::string(messages) + "}"));
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

std::string CompletionProblem(std::string_view fields) {
  const auto parsed = ParseCompletion(Json::parse(R"({"model":"m",)" + std::string(fields) + "}"));
  return parsed ? "" : parsed.error().param + ": " + parsed.error().code;
}

TEST(ChatRequest, ReadsEveryField) {
  const auto parsed = ParseChat(Chat(
      R"(,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"repetition_penalty":1.1,"presence_penalty":-1,
      "frequency_penalty":2,"logit_bias":{"15":-100,"7":3.5},"seed":-42,"stop":["a","b"],"stop_token_ids":[2],
      "include_stop_str_in_output":true,"max_completion_tokens":9,"min_tokens":2,"ignore_eos":true,"n":3,"stream":true,
      "stream_options":{"include_usage":true},"thinking_budget":0,"logprobs":true,"top_logprobs":5,
      "enable_thinking":false,"reasoning_effort":"high","chat_template_kwargs":{"x":[1]})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  const platform::SamplingRequest& s = parsed->request.sampling;
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 40);
  EXPECT_EQ(s.min_p, 0.05);
  EXPECT_EQ(s.repetition_penalty, 1.1);
  EXPECT_EQ(s.presence_penalty, -1);
  EXPECT_EQ(s.frequency_penalty, 2);
  EXPECT_EQ(s.logit_bias, (std::vector<std::pair<int32_t, float>>{{15, -100.f}, {7, 3.5f}}));
  EXPECT_EQ(s.seed, -42);
  EXPECT_EQ(s.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(s.stop_token_ids, std::vector<int32_t>{2});
  EXPECT_TRUE(s.include_stop);
  EXPECT_EQ(s.max_tokens, 9);
  EXPECT_EQ(s.min_tokens, 2);
  EXPECT_EQ(s.ignore_eos, true);
  EXPECT_EQ(s.n, 3);
  EXPECT_EQ(s.reasoning_budget, 0);
  EXPECT_EQ(s.top_logprobs, 5);
  EXPECT_TRUE(parsed->reply.stream);
  EXPECT_TRUE(parsed->reply.include_usage);
  EXPECT_TRUE(parsed->reply.logprobs);
  EXPECT_EQ(parsed->request.template_variables,
            Json::parse(R"({"reasoning_effort":"high","enable_thinking":false,"x":[1]})"));
  EXPECT_TRUE(parsed->reply.ignored.empty());
}

TEST(ChatRequest, NothingGivenMeansNothingSet) {
  const auto parsed = ParseChat(Chat(R"(,"temperature":null,"stop":null,"tools":null,"seed":null)"));
  ASSERT_TRUE(parsed);
  const platform::SamplingRequest& s = parsed->request.sampling;
  EXPECT_FALSE(s.temperature || s.top_p || s.top_k || s.min_p || s.seed || s.max_tokens ||
               s.reasoning_budget);
  EXPECT_EQ(s.n, 1);
  EXPECT_EQ(s.top_logprobs, -1);
}

TEST(ChatRequest, ValuesOutOfRangeNameTheField) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("temperature":-0.1)", "temperature"},
      {R"("temperature":2.1)", "temperature"},
      {R"("top_p":0)", "top_p"},
      {R"("top_p":1.01)", "top_p"},
      {R"("top_k":-2)", "top_k"},
      {R"("min_p":-0.01)", "min_p"},
      {R"("min_p":1.5)", "min_p"},
      {R"("repetition_penalty":0)", "repetition_penalty"},
      {R"("repetition_penalty":11)", "repetition_penalty"},
      {R"("presence_penalty":-2.5)", "presence_penalty"},
      {R"("frequency_penalty":3)", "frequency_penalty"},
      {R"("max_tokens":0)", "max_tokens"},
      {R"("max_tokens":3000000000)", "max_tokens"},
      {R"("max_completion_tokens":-1)", "max_completion_tokens"},
      {R"("min_tokens":-1)", "min_tokens"},
      {R"("n":0)", "n"},
      {R"("n":129)", "n"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs"},
      {R"("top_logprobs":2)", "top_logprobs"},
      {R"("thinking_budget":-1)", "thinking_budget"},
      {R"("logit_bias":{"x":1})", "logit_bias"},
      {R"("logit_bias":{"5":101})", "logit_bias"},
      {R"("logit_bias":{"-1":1})", "logit_bias"},
      {R"("logit_bias":{"5":"a"})", "logit_bias"},
      {R"("stop":"")", "stop"},
      {R"("stop":["a",""])", "stop"},
      {R"("stop_token_ids":[-1])", "stop_token_ids"},
      {R"("min_tokens":5,"max_tokens":4)", "min_tokens"},
      {R"("min_tokens":5,"max_completion_tokens":4)", "min_tokens"},
      {R"("max_tokens":4,"max_completion_tokens":5)", "max_completion_tokens"},
      {R"("reasoning_effort":"huge")", "reasoning_effort"},
      {R"("stream_options":{"include_usage":true})", "stream_options"},
      {R"("chat_template_kwargs":{"messages":[]})", "chat_template_kwargs"},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])", "stop"},
  };
  for (const auto& [fields, param] : cases) {
    EXPECT_EQ(ChatProblem("," + std::string(fields)), std::string(param) + ": invalid_value") << fields;
  }
}

TEST(ChatRequest, WrongTypesNameTheField) {
  for (const char* fields :
       {R"("temperature":"hot")", R"("n":1.5)", R"("n":"1")", R"("stream":"yes")", R"("stop":7)",
        R"("stop":[7])", R"("logit_bias":[])", R"("max_tokens":true)", R"("seed":"x")", R"("logprobs":5)",
        R"("enable_thinking":1)", R"("stop_token_ids":5)"}) {
    const std::string problem = ChatProblem("," + std::string(fields));
    EXPECT_NE(problem.find(": invalid_type"), std::string::npos) << fields << " -> " << problem;
  }
  EXPECT_EQ(ChatProblem(R"(,"n":2.0)"), "");
}

TEST(ChatRequest, UnsupportedFieldsAreRefusedByName) {
  for (const char* field :
       {R"("functions":[{}])", R"("function_call":{"name":"f"})", R"("modalities":["text","audio"])",
        R"("audio":{})", R"("prediction":{"type":"content"})", R"("store":true)",
        R"("web_search_options":{})"}) {
    const std::string text(field);
    const std::string name = text.substr(1, text.find('"', 1) - 1);
    EXPECT_EQ(ChatProblem("," + text), name + ": unsupported_parameter") << field;
  }
  for (const char* field :
       {R"("tools":[])", R"("tool_choice":"none")", R"("response_format":{"type":"text"})",
        R"("store":false)", R"("modalities":["text"])"}) {
    EXPECT_EQ(ChatProblem("," + std::string(field)), "") << field;
  }
}

TEST(ChatRequest, ServiceTiersAreClassesOfWork) {
  using compute::JobClass;
  const auto priority = [](std::string_view tier) {
    const auto parsed = ParseChat(Chat(R"(,"service_tier":")" + std::string(tier) + "\""));
    EXPECT_TRUE(parsed) << tier;
    return std::pair(parsed->request.sampling.priority, parsed->reply.service_tier);
  };
  EXPECT_EQ(priority("auto"), std::pair(std::optional<JobClass>(), std::string()));
  EXPECT_EQ(priority("default"), std::pair(std::optional(JobClass::kNormal), std::string("default")));
  EXPECT_EQ(priority("flex"), std::pair(std::optional(JobClass::kBatch), std::string("flex")));
  EXPECT_EQ(priority("priority"), std::pair(std::optional(JobClass::kInteractive), std::string("priority")));
  EXPECT_EQ(ParseChat(Chat(R"(,"service_tier":"gold")")).error().param, "service_tier");
}

TEST(ChatRequest, WhatHasNoEffectIsReported) {
  const auto parsed = ParseChat(Chat(
      R"(,"user":"u","metadata":{},"frobnicate":1,"stream":true,
      "stream_options":{"odd":1})"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(IgnoredHeader(parsed->reply.ignored), "user, metadata, frobnicate, stream_options.odd");
  EXPECT_EQ(IgnoredHeader({"a\r\nX: y", "ok"}), "a??X??y, ok");
  EXPECT_LT(IgnoredHeader(std::vector<std::string>(1000, std::string(1000, 'x'))).size(), 1500u);
}

TEST(ChatRequest, Messages) {
  EXPECT_EQ(MessagesProblem(R"([])"), "messages: invalid_value");
  EXPECT_EQ(MessagesProblem(R"("hi")"), "messages: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([5])"), "messages[0]: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([{"role":"robot","content":"x"}])"), "messages[0].role: invalid_value");
  EXPECT_EQ(MessagesProblem(R"([{"content":"x"}])"), "messages[0].role: invalid_value");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user"}])"), "messages[0].content: missing_field");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":null}])"), "messages[0].content: missing_field");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":7}])"), "messages[0].content: invalid_type");
  EXPECT_EQ(
      MessagesProblem(R"([{"role":"user","content":"a"},{"role":"user","content":[{"type":"image_url"}]}])"),
      "messages[1].content[0].type: unsupported_content");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":[{"type":"text"}]}])"),
            "messages[0].content[0].text: invalid_type");
  EXPECT_EQ(MessagesProblem(R"([{"role":"tool","content":"x"}])"), "messages[0].tool_call_id: missing_field");
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","tool_calls":[{"id":"x"}]}])"),
            "messages[0].tool_calls[0]: invalid_value");
  EXPECT_EQ(MessagesProblem(R"([{"role":"tool","tool_call_id":"1","content":"x"}])"),
            "messages[0].tool_call_id: unknown_tool_call");
  const std::string call =
      R"({"role":"assistant","tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]})";
  EXPECT_EQ(MessagesProblem("[" + call + R"(,{"role":"tool","tool_call_id":"2","content":"x"}])"),
            "messages[1].tool_call_id: unknown_tool_call");
  EXPECT_EQ(MessagesProblem("[" + call + R"(,{"role":"tool","tool_call_id":"1","content":"x"},
                                            {"role":"tool","tool_call_id":"1","content":"x"}])"),
            "messages[2].tool_call_id: unknown_tool_call");
  EXPECT_EQ(MessagesProblem("[" + call + R"(,{"role":"user","content":"?"},
                                            {"role":"tool","tool_call_id":"1","content":"x"}])"),
            "messages[2].tool_call_id: unknown_tool_call");
  EXPECT_EQ(MessagesProblem(
                R"([{"role":"assistant","tool_calls":[{"id":"1","function":{"name":"f","arguments":7}}]}])"),
            "messages[0].tool_calls[0]: invalid_value");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":[{"type":"text","text":"a"}]},
      {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
      {"role":"tool","tool_call_id":"1","content":"ok"}])"),
            "");
  const auto parsed =
      ParseChat(Json::parse(R"({"model":"m","messages":[{"role":"developer","content":"x"}]})"));
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->request.messages[0]["role"], "system");
}

// What real clients send back: members of SDKs' objects, of streams and of other servers.
TEST(ChatRequest, WhatMessagesHaveBesides) {
  const auto parsed = ParseChat(Json::parse(R"({"model":"m","messages":[
      {"role":"user","name":"ann","mood":1,"content":[{"type":"text","text":"a","cache_control":{}},{"type":"text","text":"b"}]},
      {"role":"assistant","content":null,"reasoning":"hm","refusal":null,"audio":null,"function_call":null,"annotations":[],
       "mood":2,"tool_calls":[{"index":0,"id":"1","type":"function","function":{"name":"f","arguments":"{}","odd":1}}]},
      {"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"ok"}]},
      {"role":"assistant","refusal":"no"},
      {"role":"assistant","content":[{"type":"refusal","refusal":"never"}]}]})"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(
      parsed->reply.ignored,
      (std::vector<std::string>{"messages[].content[].cache_control", "messages[].annotations",
                                "messages[].tool_calls[].index", "messages[].tool_calls[].function.odd"}));
  std::vector<std::string> members;
  for (const TemplateMember& member : parsed->reply.template_members)
    members.push_back(member.path + " " + member.name);
  EXPECT_EQ(members, (std::vector<std::string>{"messages[].name name", "messages[].mood mood",
                                               "messages[].reasoning reasoning_content"}));
  const Json& messages = parsed->request.messages;
  EXPECT_EQ(messages[0]["mood"], 1) << "a template may read it";
  EXPECT_EQ(messages[0]["content"],
            Json::parse(R"([{"type":"text","text":"a"},{"type":"text","text":"b"}])"));
  EXPECT_EQ(messages[1]["reasoning_content"], "hm");
  EXPECT_EQ(messages[1]["tool_calls"],
            Json::parse(R"([{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}])"));
  EXPECT_EQ(messages[3]["content"], "no");
  EXPECT_EQ(messages[4]["content"], Json::parse(R"([{"type":"text","text":"never"}])"));
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","content":"x","function_call":{"name":"f"}}])"),
            "messages[0].function_call: unsupported_parameter");
  EXPECT_EQ(MessagesProblem(R"([{"role":"user","content":[{"type":"text","text":"x","image_url":"y"}]}])"),
            "messages[0].content[0].image_url: unsupported_parameter");
}

TEST(ChatRequest, Tools) {
  const std::string tools =
      R"(,"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}},
                                         {"type":"function","function":{"name":"g.h/i"}}])";
  auto parsed = ParseChat(Chat(tools));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.tools.size(), 2u);
  EXPECT_EQ(parsed->request.tool_choice, platform::ToolChoice::kAuto);
  EXPECT_TRUE(parsed->request.parallel_tool_calls);
  EXPECT_TRUE(parsed->reply.tools);
  parsed = ParseChat(Chat(tools + R"(,"tool_choice":{"type":"function","function":{"name":"f"}},
                                     "parallel_tool_calls":false,"tool_call_format":"llama3")"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.tool_choice, platform::ToolChoice::kNamed);
  EXPECT_EQ(parsed->request.tool_name, "f");
  EXPECT_FALSE(parsed->request.parallel_tool_calls);
  EXPECT_EQ(parsed->request.tool_call_format, "llama3");
  parsed = ParseChat(Chat(tools + R"(,"tool_choice":"none")"));
  ASSERT_TRUE(parsed);
  EXPECT_FALSE(parsed->reply.tools);

  const std::pair<const char*, const char*> kBad[] = {
      {R"("tools":[5])", "tools[0]: invalid_type"},
      {R"("tools":[{"type":"web_search"}])", "tools[0].type: unsupported_parameter"},
      {R"("tools":[{"type":"function"}])", "tools[0].function: invalid_type"},
      {R"("tools":[{"type":"function","function":{"name":"a b"}}])", "tools[0].function.name: invalid_value"},
      {R"("tools":[{"type":"function","function":{"name":"f","parameters":[]}}])",
       "tools[0].function.parameters: invalid_type"},
      {R"("tools":[{"type":"function","function":{"name":"f","strict":1}}])",
       "tools[0].function.strict: invalid_type"},
      {R"("tools":[{"type":"function","function":{"name":"f"}},{"type":"function","function":{"name":"f"}}])",
       "tools[1].function.name: invalid_value"},
      {R"("tool_choice":"required")", "tool_choice: invalid_value"},
      {R"("tools":[],"tool_choice":{"type":"function","function":{"name":"f"}})",
       "tool_choice: invalid_value"},
  };
  for (const auto& [fields, problem] : kBad)
    EXPECT_EQ(ChatProblem("," + std::string(fields)), problem) << fields;
  EXPECT_EQ(ChatProblem(tools + R"(,"tool_choice":"maybe")"), "tool_choice: invalid_value");
  EXPECT_EQ(ChatProblem(tools + R"(,"tool_choice":{"type":"function","function":{"name":"x"}})"),
            "tool_choice.function.name: invalid_value");
  // Templates show a tool whole: what no table lists is not shown.
  parsed = ParseChat(Chat(
      R"(,"tools":[{"type":"function","cache_control":{},"function":{"strict":true,"odd":1,"name":"f","return":{}}}])"));
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(parsed->request.tools,
            Json::parse(R"([{"type":"function","function":{"name":"f","strict":true,"return":{}}}])"));
  EXPECT_EQ(parsed->reply.ignored,
            (std::vector<std::string>{"tools[].cache_control", "tools[].function.odd"}));
  Json many = Chat();
  many["tools"] = Json::array();
  for (int i = 0; i < 513; ++i) {
    many["tools"].push_back({{"type", "function"}, {"function", {{"name", "f" + std::to_string(i)}}}});
  }
  EXPECT_EQ(ParseChat(many).error().param, "tools");
  Json large = Chat();
  large["tools"] = Json::array(
      {{{"type", "function"}, {"function", {{"name", "f"}, {"description", std::string(2 << 20, 'x')}}}}});
  EXPECT_EQ(ParseChat(large).error().param, "tools");
}

TEST(ChatRequest, OutputFormats) {
  using Kind = platform::OutputFormat::Kind;
  const std::tuple<const char*, Kind, const char*> kGood[] = {
      {R"("response_format":{"type":"json_object"})", Kind::kJsonObject, "response_format"},
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"type":"object"}}})",
       Kind::kJsonSchema, "response_format.json_schema.schema"},
      {R"("guided_json":"{\"type\":\"object\"}")", Kind::kJsonSchema, "guided_json"},
      {R"("json_schema":{})", Kind::kJsonSchema, "json_schema"},
      {R"("regex":"a+")", Kind::kRegex, "regex"},
      {R"("guided_choice":["a","b"])", Kind::kChoice, "guided_choice"},
      {R"("grammar":"root ::= \"a\"")", Kind::kGrammar, "grammar"},
      {R"("structured_outputs":{"regex":"a"})", Kind::kRegex, "structured_outputs.regex"},
      {R"("response_format":{"type":"text"})", Kind::kText, ""},
  };
  for (const auto& [fields, kind, param] : kGood) {
    const auto parsed = ParseChat(Chat("," + std::string(fields)));
    ASSERT_TRUE(parsed) << fields << parsed.error().message;
    EXPECT_EQ(parsed->request.sampling.output.kind, kind) << fields;
    EXPECT_EQ(parsed->request.sampling.output.param, param) << fields;
  }
  const std::pair<const char*, const char*> kBad[] = {
      {R"("response_format":{"type":"xml"})", "response_format.type: invalid_value"},
      {R"("response_format":{"type":"json_schema"})", "response_format.json_schema: missing_field"},
      {R"("response_format":{"type":"json_schema","json_schema":{"name":"n"}})",
       "response_format.json_schema.schema: missing_field"},
      {R"("response_format":{"type":"json_object"},"regex":"a")", "regex: invalid_value"},
      {R"("guided_json":"{")", "guided_json: invalid_type"},
      {R"("choice":[])", "choice: invalid_value"},
      {R"("choice":[1])", "choice: invalid_type"},
      {R"("structured_outputs":{"structural_tag":{}})",
       "structured_outputs.structural_tag: unsupported_parameter"},
  };
  for (const auto& [fields, problem] : kBad)
    EXPECT_EQ(ChatProblem("," + std::string(fields)), problem) << fields;
  EXPECT_TRUE(ParseCompletion(Json::parse(R"({"model":"m","prompt":"x","regex":"a+"})")));
  const auto completion =
      ParseCompletion(Json::parse(R"({"model":"m","prompt":"x","response_format":{"type":"json_object"}})"));
  ASSERT_TRUE(completion);
  EXPECT_EQ(completion->request.sampling.output.kind, Kind::kJsonObject);
}

TEST(ChatRequest, APrefilledAnswerIsContinued) {
  for (
      const char* body :
      {R"({"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y"}],"continue_final_message":true,
            "add_generation_prompt":false})",
       R"({"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","prefix":true}]})",
       R"({"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":"y","partial":true}]})"}) {
    const auto parsed = ParseChat(Json::parse(body));
    ASSERT_TRUE(parsed) << parsed.error().message;
    EXPECT_EQ(parsed->request.template_variables["continue_final_message"], true);
    EXPECT_FALSE(parsed->request.messages[1].contains("prefix"));
  }
  EXPECT_EQ(MessagesProblem(R"([{"role":"assistant","content":"y","prefix":1}])"),
            "messages[0].prefix: invalid_type");
}

TEST(ChatRequest, ModelIsNeeded) {
  EXPECT_EQ(ParseChat(Json::parse(R"({"messages":[{"role":"user","content":"x"}]})")).error().param, "model");
  EXPECT_EQ(
      ParseChat(Json::parse(R"({"model":"","messages":[{"role":"user","content":"x"}]})")).error().param,
      "model");
  EXPECT_EQ(ParseChat(Json::parse(R"({"model":"m"})")).error().param, "messages");
}

TEST(CompletionRequest, PromptShapes) {
  const auto count = [](std::string_view prompt) {
    const auto parsed = ParseCompletion(Json::parse(R"({"model":"m","prompt":)" + std::string(prompt) + "}"));
    return parsed ? static_cast<int>(parsed->request.prompts.size()) : -1;
  };
  EXPECT_EQ(count(R"("x")"), 1);
  EXPECT_EQ(count(R"("")"), 1);
  EXPECT_EQ(count(R"(["a","b"])"), 2);
  EXPECT_EQ(count("[1,2,3]"), 1);
  EXPECT_EQ(count("[[1],[2,3]]"), 2);
  for (const char* bad : {"[]", "[[]]", "7", "{}", R"(["a",1])", R"([1,"a"])", R"([[1],"a"])", "[-1]",
                          "[1.5]", R"([["a"]])", "[null]", "[3000000000]"}) {
    EXPECT_EQ(count(bad), -1) << bad;
  }
}

TEST(CompletionRequest, Fields) {
  const auto parsed = ParseCompletion(Json::parse(R"({"model":"m","prompt":"x","echo":true,"logprobs":0})"));
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->request.echo);
  EXPECT_TRUE(parsed->reply.logprobs);
  EXPECT_EQ(parsed->request.sampling.top_logprobs, 0);
  EXPECT_EQ(parsed->request.sampling.max_tokens, 16);
  EXPECT_EQ(CompletionProblem(R"("prompt":"x","suffix":"y")"), "suffix: unsupported_parameter");
  EXPECT_EQ(CompletionProblem(R"("prompt":"x","suffix":"")"), "");
  EXPECT_EQ(CompletionProblem(R"("prompt":"x","best_of":2)"), "best_of: unsupported_parameter");
  EXPECT_EQ(CompletionProblem(R"("prompt":"x","best_of":1)"), "");
  EXPECT_EQ(CompletionProblem(R"("prompt":"x","logprobs":true)"), "logprobs: invalid_type");
  EXPECT_EQ(CompletionProblem(R"("prompt":["a","b"],"n":65)"), "n: invalid_value");
  EXPECT_EQ(CompletionProblem(R"("n":1)"), "prompt: missing_field");
}

TEST(EmbeddingRequest, Fields) {
  const auto parsed = ParseEmbedding(
      Json::parse(R"({"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":2,"user":"u"})"));
  ASSERT_TRUE(parsed);
  EXPECT_TRUE(parsed->base64);
  EXPECT_EQ(parsed->dimensions, 2);
  EXPECT_EQ(parsed->ignored, std::vector<std::string>{"user"});
  const auto param = [](std::string_view body) {
    const auto result = ParseEmbedding(Json::parse(body));
    return result ? std::string() : result.error().param;
  };
  EXPECT_EQ(param(R"({"model":"m","input":""})"), "input");
  EXPECT_EQ(param(R"({"model":"m","input":["a",""]})"), "input");
  EXPECT_EQ(param(R"({"model":"m"})"), "input");
  EXPECT_EQ(param(R"({"model":"m","input":"x","encoding_format":"hex"})"), "encoding_format");
  EXPECT_EQ(param(R"({"model":"m","input":"x","dimensions":0})"), "dimensions");
}

TEST(EmbeddingRequest, Instructions) {
  const auto parsed = [](std::string_view more) {
    return ParseEmbedding(Json::parse(R"({"model":"m","input":"a",)" + std::string(more) + "}"));
  };
  EXPECT_EQ(parsed(R"("instruction":"find")")->instruction.text, "find");
  EXPECT_EQ(parsed(R"("instruct":"find")")->instruction.text, "find");
  EXPECT_EQ(parsed(R"("instruction":"a","instruct":"b")").error().param, "instruct");
  EXPECT_EQ(parsed(R"("prompt_name":"query")")->instruction.query, "prompt_name");
  EXPECT_EQ(parsed(R"("input_type":"search_query")")->instruction.query, "input_type");
  EXPECT_EQ(parsed(R"("task":"retrieval.query")")->instruction.query, "task");
  for (const char* document :
       {R"("prompt_name":"document")", R"("input_type":"passage")", R"("task":"retrieval.passage")"}) {
    const auto none = parsed(document);
    ASSERT_TRUE(none) << document;
    EXPECT_TRUE(none->instruction.text.empty() && none->instruction.query.empty() && none->ignored.empty());
  }
  const auto other = parsed(R"("input_type":"clustering")");
  EXPECT_EQ(other->ignored, std::vector<std::string>{"input_type"});
  EXPECT_EQ(other->instruction.query, "");
}

TEST(EmbeddingReply, ShapesAndDimensions) {
  // RFC 4648, section 10.
  const auto base64 = [](std::string_view text) {
    return Base64(reinterpret_cast<const unsigned char*>(text.data()), text.size());
  };
  EXPECT_EQ(base64(""), "");
  EXPECT_EQ(base64("f"), "Zg==");
  EXPECT_EQ(base64("fo"), "Zm8=");
  EXPECT_EQ(base64("foo"), "Zm9v");
  EXPECT_EQ(base64("foobar"), "Zm9vYmFy");
  const std::vector<float> cut = Shortened({3, 4, 100}, 2);
  ASSERT_EQ(cut.size(), 2u);
  EXPECT_FLOAT_EQ(cut[0], 0.6f);
  EXPECT_FLOAT_EQ(cut[1], 0.8f);
  EXPECT_EQ(Shortened({0, 0, 1}, 2), (std::vector<float>{0, 0}));

  platform::EmbeddingReply reply;
  reply.model = "m";
  reply.vectors = {{0.5f, -2.0f}};
  reply.prompt_tokens = 4;
  const auto floats = Json::parse(EmbeddingResponse(reply, {}).body);
  EXPECT_EQ(floats["data"][0]["embedding"], Json::parse("[0.5,-2.0]"));
  EXPECT_EQ(floats["usage"]["total_tokens"], 4);
  // 0.5f = 00 00 00 3f, -2.0f = 00 00 00 c0.
  EXPECT_EQ(Json::parse(EmbeddingResponse(reply, {true, 0}).body)["data"][0]["embedding"], "AAAAPwAAAMA=");
  EXPECT_EQ(EmbeddingResponse(reply, {false, 3}).status, 400);
}

TEST(TokenizeRequest, OneTextOrMessages) {
  EXPECT_EQ(
      ParseTokenize(Json::parse(R"({"model":"m","content":"x","add_special_tokens":false})"))->add_special,
      false);
  EXPECT_TRUE(
      ParseTokenize(Json::parse(R"({"model":"m","messages":[{"role":"user","content":"x"}]})"))->chat);
  EXPECT_FALSE(ParseTokenize(Json::parse(R"({"model":"m"})")));
  EXPECT_FALSE(ParseTokenize(Json::parse(R"({"model":"m","text":"x","prompt":"y"})")));
  EXPECT_EQ(ParseDetokenize(Json::parse(R"({"model":"m","tokens":[1,2]})"))->tokens,
            (std::vector<int32_t>{1, 2}));
  EXPECT_FALSE(ParseDetokenize(Json::parse(R"({"model":"m","tokens":"x"})")));
}

}  // namespace
}  // namespace tidepool::gateway::openai
