// Oracles: what the families' makers document as the shape of a call; nlohmann/json for arguments; and for
// cuts the same text pushed at once.
#include "models/toolcalls/parser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "models/toolcalls/json_scanner.h"

namespace tidepool::toolcalls {
namespace {

using Json = nlohmann::ordered_json;

struct Answer {
  std::string text;
  struct Call {
    std::string name, arguments;
    bool whole = false, broken = false;
    bool operator==(const Call&) const = default;
  };
  std::vector<Call> calls;
  bool operator==(const Answer&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  out << "text [" << answer.text << "]";
  for (const auto& call : answer.calls) {
    out << " call " << call.name << " " << call.arguments << (call.whole ? " whole" : "")
        << (call.broken ? " broken" : "");
  }
  return out;
}

std::vector<Tool> Tools() {
  return {
      {"weather",
       Json::parse(R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer"},
            "hourly":{"type":"boolean"},"zones":{"type":"array"},"note":{"type":["string","null"]}}})")},
      {"place", Json::parse(R"({"$defs":{"At":{"type":"object"},"Kind":{"enum":["big",2,null]}},"properties":{
            "at":{"$ref":"#/$defs/At"},"kind":{"allOf":[{"$ref":"#/$defs/Kind"}]},"note":{"type":["string","null"]},
            "count":{"type":["integer","string"]},"self":{"$ref":"#/properties/self"}}})")},
      {"search", Json::parse(R"({"type":"object","properties":{"query":{"type":"string"}}})")}};
}

Answer Parse(Format format, std::string_view text, const std::function<size_t()>& next_cut) {
  const auto parser = MakeParser(format, Tools());
  Answer answer;
  const auto take = [&](const std::vector<Part>& parts) {
    for (const Part& part : parts) {
      if (part.kind == Part::Kind::kText) {
        answer.text += part.text;
        continue;
      }
      if (part.kind == Part::Kind::kCall) {
        ASSERT_EQ(static_cast<size_t>(part.call), answer.calls.size());
        answer.calls.push_back({part.text, {}});
      }
      auto& call = answer.calls.at(static_cast<size_t>(part.call));
      ASSERT_FALSE(call.whole || call.broken);
      if (part.kind == Part::Kind::kArguments) call.arguments += part.text;
      call.whole = part.kind == Part::Kind::kEnd;
      call.broken = part.kind == Part::Kind::kBroken;
    }
  };
  for (size_t at = 0; at < text.size();) {
    const size_t size = std::min(next_cut(), text.size() - at);
    std::vector<Part> parts;
    parser->Push(text.substr(at, size), parts);
    take(parts);
    at += size;
  }
  std::vector<Part> parts;
  parser->Finish(parts);
  take(parts);
  for (const auto& call : answer.calls) {
    EXPECT_NE(call.whole, call.broken) << "a call ends one way";
    if (call.whole) {
      std::string ascii = call.arguments;  // (some of the texts below hold cut characters)
      for (char& c : ascii) c = static_cast<unsigned char>(c) < 0x80 ? c : 'x';
      EXPECT_TRUE(Json::parse(ascii, nullptr, false).is_object()) << call.arguments;
    }
  }
  return answer;
}

Answer Whole(Format format, std::string_view text) {
  return Parse(format, text, [&] { return text.size(); });
}

struct Case {
  Format format;
  std::string said;
  std::string text;
  std::vector<Answer::Call> calls;
};

Answer::Call Call(std::string name, std::string arguments) {
  return {std::move(name), std::move(arguments), true, false};
}
Answer::Call Broken(std::string name, std::string arguments) {
  return {std::move(name), std::move(arguments), false, true};
}

std::vector<Case> Cases() {
  const std::string sep = "<｜tool▁sep｜>", call = "<｜tool▁call▁begin｜>", end = "<｜tool▁call▁end｜>",
                    calls = "<｜tool▁calls▁begin｜>", all = "<｜tool▁calls▁end｜>";
  return {
      // ---- hermes
      {Format::kHermes,
       "First.\n<tool_call>\n{\"name\": \"search\", \"arguments\": {}}\n</tool_call>\nThen, at "
       "last:\n<tool_call>\n{\"name\": "
       "\"weather\", \"arguments\": {}}\n</tool_call>\nDone.",
       "First.Then, at last:Done.",  // (white space beside calls is the format's)
       {Call("search", "{}"), Call("weather", "{}")}},
      {Format::kHermes,
       "<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\", \"n\": [1, {\"a\": "
       "\"}\"}]}}\n</tool_call>",
       "",
       {Call("weather", R"({"city": "Oslo", "n": [1, {"a": "}"}]})")}},
      {Format::kHermes,
       "Let me "
       "look.\n\n<tool_call>{\"name\":\"a\",\"arguments\":{}}</"
       "tool_call>\n<tool_call>{\"arguments\":{\"x\":1},\"name\":\"b\"}</tool_call>\nDone. ",
       "Let me look.Done. ",
       {Call("a", "{}"), Call("b", "{\"x\":1}")}},
      {Format::kHermes, "no call <tool_cal here < tool", "no call <tool_cal here < tool", {}},
      {Format::kHermes, "  plain\n", "  plain\n", {}},
      {Format::kHermes, "<tool_call>{\"name\":\"a\"}</tool_call>", "", {Call("a", "{}")}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":null,\"id\":-1.5e3}",
       "",
       {Call("a", "{}")}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":\"{\\\"x\\\": \\\"\\u00e9\\\"}\"}</tool_call>",
       "",
       {Call("a", "{\"x\": \"é\"}")}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":1}",
       "<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":1}",
       {Broken("a", "{\"x\":1}")}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":oops}}</tool_call>",
       "<tool_call>{\"name\":\"a\",\"arguments\":{\"x\":oops}}</tool_call>",
       {Broken("a", "{\"x\":")}},
      {Format::kHermes, "<tool_call>I will not</tool_call>", "<tool_call>I will not</tool_call>", {}},
      {Format::kHermes,
       "<tool_call>{\"arguments\":{}}</tool_call>",
       "<tool_call>{\"arguments\":{}}</tool_call>",
       {}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":[1]}</tool_call>",
       "<tool_call>{\"name\":\"a\",\"arguments\":[1]}</tool_call>",
       {Broken("a", "")}},
      {Format::kHermes,
       "<tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_oops",
       "</tool_oops",
       {Call("a", "{}")}},
      {Format::kHermes,
       "<tool_call><tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>",
       "<tool_call><tool_call>{\"name\":\"a\",\"arguments\":{}}</tool_call>",
       {}},
      // ---- qwen_xml
      {Format::kQwenXml,
       "I look.\n<tool_call>\n<function=weather>\n<parameter=city>\nNew\n\"York\" "
       "<b>\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
       "<parameter=hourly>\nTrue\n</parameter>\n<parameter=zones>\n[1, {\"a\": "
       "2}]\n</parameter>\n<parameter=unknown>\n5\n</parameter>\n</function>\n</tool_call>",
       "I look.",
       {Call(
           "weather",
           R"({"city": "New\n\"York\" <b>", "days": 3, "hourly": true, "zones": [1, {"a": 2}], "unknown": "5"})")}},
      {Format::kQwenXml,
       "<function=search>\n<parameter=query>\na</parameter>\n</function>",
       "",
       {Call("search", R"({"query": "a"})")}},
      {Format::kQwenXml,
       "<tool_call><function=search><parameter=query>\na\n<parameter=more>\nb\n</function></tool_call>",
       "",
       {Call("search", R"({"query": "a", "more": "b"})")}},
      {Format::kQwenXml,
       "<tool_call>\n<function=weather>\n<parameter=note>\nnull\n</parameter>\n<parameter=days>\nsoon\n</"
       "parameter>\n</function>",
       "",
       {Call("weather", R"({"note": null, "days": "soon"})")}},
      {Format::kQwenXml,
       "<tool_call><function=search></function></tool_call> x",
       "x",
       {Call("search", "{}")}},
      {Format::kQwenXml,
       "<tool_call><function=search><parameter=query>cut of",
       "<tool_call><function=search><parameter=query>cut of",
       {Broken("search", R"({"query": "cut of)")}},
      // References are followed; where several types are possible JSON is read first, else it is a string.
      {Format::kQwenXml,
       "<function=place>\n<parameter=at>\n{\"x\": 1}\n</parameter>\n<parameter=kind>\n2\n</parameter>\n"
       "<parameter=note>\n\"quoted\"\n</parameter>\n<parameter=count>\n2.5\n</parameter>\n"
       "<parameter=self>\n7\n</parameter>\n</function>",
       "",
       {Call("place", R"({"at": {"x": 1}, "kind": 2, "note": "quoted", "count": "2.5", "self": "7"})")}},
      // ---- llama3
      {Format::kLlama3,
       "{\"name\": \"weather\", \"parameters\": {\"city\": \"Rome\"}}",
       "",
       {Call("weather", "{\"city\": \"Rome\"}")}},
      {Format::kLlama3,
       "<|python_tag|>{\"type\": \"function\", \"name\": \"x\", \"parameters\": {}}; {\"name\": \"y\", "
       "\"parameters\": {\"a\": 1}}",
       "",
       {Call("x", "{}"), Call("y", "{\"a\": 1}")}},
      {Format::kLlama3,
       "<|python_tag|>search.call(query=\"a \\\"b\\\"\", n=3, deep=True, l=['x', 2], d={'k': None})",
       "",
       {Call("search", R"({"query": "a \"b\"", "n": 3, "deep": true, "l": ["x", 2], "d": {"k": null}})")}},
      {Format::kLlama3, "<|python_tag|>print(1 + 2)", "<|python_tag|>print(1 + 2)", {}},
      {Format::kLlama3, "{\"name\": \"Ann\", \"age\": 3}", "{\"name\": \"Ann\", \"age\": 3}", {}},
      {Format::kLlama3,
       "Answer: {\"name\": \"weather\", \"parameters\": {}}",
       "Answer: {\"name\": \"weather\", \"parameters\": {}}",
       {}},
      // ---- mistral
      {Format::kMistral,
       "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {\"x\": 1}}, {\"name\": \"b\", \"arguments\": {}, "
       "\"id\": \"123456789\"}]",
       "",
       {Call("a", "{\"x\": 1}"), Call("b", "{}")}},
      {Format::kMistral,
       "Hm.[TOOL_CALLS]a[CALL_ID]123456789[ARGS]{\"x\": \"[ARGS]\"}[TOOL_CALLS]b[ARGS]{}",
       "Hm.",
       {Call("a", "{\"x\": \"[ARGS]\"}"), Call("b", "{}")}},
      {Format::kMistral, "[TOOL_CALLS]a{\"x\": 1}", "", {Call("a", "{\"x\": 1}")}},
      {Format::kMistral,
       "[TOOL_CALLS] [{\"name\": \"a\", \"arguments\": {}}, {\"nam",
       ", {\"nam",
       {Call("a", "{}")}},
      // ---- deepseek
      {Format::kDeepSeek,
       calls + call + "function" + sep + "weather\n```json\n{\"city\": \"Bonn\"}\n```" + end + "\n" + call +
           "function" + sep + "search\n```json\n{}\n```" + end + all,
       "",
       {Call("weather", "{\"city\": \"Bonn\"}"), Call("search", "{}")}},
      {Format::kDeepSeek,
       "Sure." + calls + call + "weather" + sep + "{\"city\": \"Bonn\"}" + end + all + " ok",
       "Sure.ok",
       {Call("weather", "{\"city\": \"Bonn\"}")}},
      {Format::kDeepSeek,
       calls + call + "weather" + sep + "{\"city\": \"Bonn\"}",
       "",
       {Call("weather", "{\"city\": \"Bonn\"}")}},
      {Format::kDeepSeek, calls + "what?", calls + "what?", {}},
      // ---- kimi
      {Format::kKimi,
       "I "
       "look.<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"
       "\"city\": "
       "\"Bonn\"}<|tool_call_end|><|tool_call_begin|>functions.a.b:1<|tool_call_argument_begin|>{}<|tool_"
       "call_end|><|tool_"
       "calls_section_end|>",
       "I look.",
       {Call("weather", "{\"city\": \"Bonn\"}"), Call("a.b", "{}")}},
      {Format::kKimi,
       "<|tool_call_begin|>search<|tool_call_argument_begin|>{\"query\": \"a",
       "<|tool_call_begin|>search<|tool_call_argument_begin|>{\"query\": \"a",
       {Broken("search", "{\"query\": \"a")}},
      // ---- glm
      {Format::kGlm,
       "Wait.\n<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>New \"York\" "
       "<b></arg_value>\n<arg_key>days</arg_key>\n"
       "<arg_value>3</arg_value>\n<arg_key>zones</arg_key>\n<arg_value>[1, "
       "\"a\"]</arg_value>\n</tool_call>\n<tool_call>search</tool_call>",
       "Wait.",
       {Call("weather", R"({"city": "New \"York\" <b>", "days": 3, "zones": [1, "a"]})"),
        Call("search", "{}")}},
      {Format::kGlm,
       "<tool_call>weather<arg_key>note</arg_key><arg_value>null</arg_value><arg_key>x</"
       "arg_key><arg_value>\n5</arg_value></tool_call>",
       "",
       {Call("weather", R"({"note": null, "x": "\n5"})")}},
      {Format::kGlm,
       "<tool_call>{\"name\": \"a\"}</tool_call>",
       "<tool_call>{\"name\": \"a\"}</tool_call>",
       {}},
      {Format::kGlm,
       "<tool_call>weather<arg_key>city</arg_key><arg_value>Os",
       "<tool_call>weather<arg_key>city</arg_key><arg_value>Os",
       {Broken("weather", R"({"city": "Os)")}},
      // ---- dsml
      {Format::kDsml,
       "Hm.\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name=\"weather\">\n<｜DSML｜parameter name=\"city\" "
       "string=\"true\">Bonn "
       "\"<x>\"</｜DSML｜parameter>\n<｜DSML｜parameter name=\"days\" "
       "string=\"false\">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n"
       "<｜DSML｜invoke name=\"search\">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>",
       "Hm.",
       {Call("weather", R"({"city": "Bonn \"<x>\"", "days": 3})"), Call("search", "{}")}},
      {Format::kDsml,
       "<｜DSML｜tool_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" "
       "string=\"false\">oops</｜DSML｜parameter></｜DSML｜"
       "invoke></｜DSML｜tool_calls>",
       "",
       {Call("f", R"({"a": "oops"})")}},
      {Format::kDsml,
       "<｜DSML｜function_calls>\n</｜DSML｜function_calls>",
       "<｜DSML｜function_calls>\n</｜DSML｜function_calls>",
       {}},
      {Format::kDsml,
       "<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" string=\"true\">b",
       "<｜DSML｜function_calls><｜DSML｜invoke name=\"f\"><｜DSML｜parameter name=\"a\" string=\"true\">b",
       {Broken("f", R"({"a": "b)")}},
      // ---- gemma
      {Format::kGemma,
       "<start_function_call>call:weather{city:<escape>Bonn, \"x\" "
       "}<escape>,days:3,ok:true,list:[<escape>a<escape>,1.5,[]],o:{k:bare word}}<end_function_call>",
       "",
       {Call(
           "weather",
           R"({"city": "Bonn, \"x\" }", "days": 3, "ok": true, "list": ["a", 1.5, []], "o": {"k": "bare word"}})")}},
      {Format::kGemma,
       "a <start_function_call>call:f{}<end_function_call><start_function_call>call:g{x:<escape><escape>}",
       "a",
       {Call("f", "{}"), Call("g", R"({"x": ""})")}},
      {Format::kGemma, "<start_function_call>f{}", "<start_function_call>f{}", {}},
      // ---- json
      {Format::kJson,
       "{\"name\": \"weather\", \"arguments\": {\"city\": \"Rome\"}}",
       "",
       {Call("weather", "{\"city\": \"Rome\"}")}},
      {Format::kJson,
       "```json\n{\"name\": \"search\", \"parameters\": {\"query\": \"x\"}}\n```",
       "",
       {Call("search", "{\"query\": \"x\"}")}},
      {Format::kJson,
       "[{\"name\": \"search\", \"arguments\": {}}, {\"name\": \"weather\", \"arguments\": {}}]",
       "",
       {Call("search", "{}"), Call("weather", "{}")}},
      {Format::kJson,
       "<tool_call>\n{\"name\": \"other\", \"arguments\": {}}\n</tool_call>",
       "",
       {Call("other", "{}")}},
      {Format::kJson,
       "{\"name\": \"unknown\", \"arguments\": {}}",
       "{\"name\": \"unknown\", \"arguments\": {}}",
       {}},
      {Format::kJson, "{\"city\": 1}", "{\"city\": 1}", {}},
      {Format::kJson, "[1, 2]", "[1, 2]", {}},
      {Format::kJson, "```python\nprint(1)\n```", "```python\nprint(1)\n```", {}},
      {Format::kJson, "`code`", "`code`", {}},
  };
}

TEST(Parser, ReadsTheShapesOfTheFamilies) {
  for (const Case& c : Cases()) {
    EXPECT_EQ(Whole(c.format, c.said), (Answer{c.text, c.calls})) << FormatName(c.format) << ": " << c.said;
  }
}

TEST(Parser, EveryCutGivesTheSame) {
  std::mt19937 random(7);
  for (const Case& c : Cases()) {
    const Answer whole = Whole(c.format, c.said);
    EXPECT_EQ(Parse(c.format, c.said, [] { return size_t{1}; }), whole) << c.said;
    for (size_t cut = 1; cut < c.said.size(); ++cut) {
      bool first = true;
      const auto next = [&] { return std::exchange(first, false) ? cut : c.said.size(); };
      EXPECT_EQ(Parse(c.format, c.said, next), whole) << c.said << " cut at " << cut;
    }
  }
  // Pieces of all shapes in random order: mostly malformed.
  std::vector<std::string> pieces = {"{\"name\": \"weather\", \"arguments\": {",
                                     "\"a\": 1",
                                     "}}",
                                     "</parameter>",
                                     " \n",
                                     "text",
                                     "```",
                                     "\xC3\xA9"};
  for (const Case& c : Cases()) {
    for (size_t at = 0; at < c.said.size(); at += 9) pieces.push_back(c.said.substr(at, 1 + random() % 24));
  }
  for (const std::string_view tag :
       {"<tool_call>", "</tool_call>", "<function=f>", "[TOOL_CALLS]", "<start_function_call>call:f{"})
    pieces.emplace_back(tag);
  for (int round = 0; round < 3000; ++round) {
    std::string said;
    for (int n = static_cast<int>(random() % 12); n >= 0; --n) said += pieces[random() % pieces.size()];
    for (const Format format : Formats()) {
      const Answer whole = Whole(format, said);
      EXPECT_EQ(Parse(format, said, [&] { return 1 + random() % 5; }), whole)
          << FormatName(format) << ": " << said;
      // Nothing that is not a call is swallowed: without whole calls all of the text is there.
      if (std::none_of(whole.calls.begin(), whole.calls.end(), [](const auto& call) { return call.whole; })) {
        EXPECT_EQ(whole.text, said) << FormatName(format);
      }
    }
  }
}

TEST(Parser, ArgumentsStreamAsTheyCome) {
  const auto parser = MakeParser(Format::kHermes, Tools());
  std::vector<Part> parts;
  parser->Push("<tool_call>{\"name\": \"search\", \"arguments\": {\"query\": \"tid", parts);
  ASSERT_EQ(parts.size(), 2u);
  EXPECT_EQ(parts[0].text, "search");
  EXPECT_EQ(parts[1].text, "{\"query\": \"tid");
  parts.clear();
  parser->Push("es", parts);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].text, "es");
  const auto xml = MakeParser(Format::kQwenXml, Tools());
  parts.clear();
  xml->Push("<function=search><parameter=query>\ntid", parts);
  EXPECT_EQ(parts.back().text, "{\"query\": \"tid");
  // Text that is no tag is not held back.
  parts.clear();
  const auto plain = MakeParser(Format::kHermes, Tools());
  plain->Push("hello", parts);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_EQ(parts[0].text, "hello");
}

TEST(JsonScanner, AgreesWithNlohmann) {
  std::mt19937 random(3);
  const std::string alphabet = "{}[],:\"\\ 0123.eE+-truefalsn\n";
  int good = 0;
  for (int round = 0; round < 200000; ++round) {
    std::string text;
    for (int n = static_cast<int>(random() % 9); n >= 0; --n) text += alphabet[random() % alphabet.size()];
    JsonScanner scanner;
    bool ended = false, bad = false;
    for (const char byte : text + " ") {
      if (ended) {
        bad = bad || !(byte == ' ' || byte == '\n');
        continue;
      }
      const auto take = scanner.Step(byte);
      bad = bad || take == JsonScanner::Take::kBad;
      ended = take == JsonScanner::Take::kEnd || take == JsonScanner::Take::kEndBefore;
      if (take == JsonScanner::Take::kEndBefore) bad = bad || !(byte == ' ' || byte == '\n');
      if (bad) break;
    }
    const bool valid = ended && !bad;
    good += valid ? 1 : 0;
    if (valid && text.find_first_of("eE") != std::string::npos)
      continue;  // it refuses what overflows a double
    ASSERT_EQ(valid, Json::accept(text)) << text;
  }
  EXPECT_GT(good, 1000);
}

}  // namespace
}  // namespace tidepool::toolcalls
