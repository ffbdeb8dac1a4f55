// Oracles: std::regex (ECMAScript), llama.cpp's description of GBNF, the JSON schema specification; for
// masks, one token at a time through the automaton.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <random>
#include <regex>
#include <thread>

#include "models/grammar/gbnf.h"
#include "models/grammar/grammar_cache.h"
#include "models/grammar/json_schema.h"
#include "models/grammar/matcher.h"
#include "models/grammar/regex.h"

namespace tidepool::grammar {
namespace {

using Json = nlohmann::ordered_json;

std::shared_ptr<const TokenTrie> ByteTrie() {
  static const std::shared_ptr<const TokenTrie> kTrie = TokenTrie::Build(*text::Tokenizer::Bytes(), {});
  return kTrie;
}

Result<std::shared_ptr<CompiledGrammar>> Finish(const Expressions& expressions, const Result<ExprId>& root) {
  if (!root) return Fail(root.error());
  TP_ASSIGN(Program program, Compile(expressions, *root));
  return CompiledGrammar::Make(std::move(program), ByteTrie());
}
Result<std::shared_ptr<CompiledGrammar>> OfSchema(const Json& schema) {
  Expressions expressions;
  return Finish(expressions, ParseJsonSchema(schema, "schema", expressions));
}
Result<std::shared_ptr<CompiledGrammar>> OfRegex(std::string_view pattern) {
  Expressions expressions;
  return Finish(expressions, ParseRegex(pattern, RegexUse::kText, expressions));
}
Result<std::shared_ptr<CompiledGrammar>> OfGbnf(std::string_view source) {
  Expressions expressions;
  return Finish(expressions, ParseGbnf(source, expressions));
}

bool Matches(const std::shared_ptr<CompiledGrammar>& grammar, std::string_view text) {
  Matcher matcher(grammar);
  return matcher.Accept(text) && matcher.may_end();
}

// What is wrong with a schema: "param" of the error.
std::string Problem(std::string_view schema) {
  const auto made = OfSchema(Json::parse(schema));
  return made ? "" : made.error().param;
}

TEST(Regex, MatchesWhatStdRegexMatches) {
  std::mt19937 random(5);
  const std::vector<std::string> atoms = {
      "a",    "b",      "[ab]",       "[^a]", "(a|bc)", "(?:ab)?", ".",           "\\d",           "\\w",
      "x{2}", "c{1,3}", "(a|b){2,5}", "a*",   "b+",     "[a-c]*?", "(?:a?){0,3}", "(ab|a)(c|bcd)*"};
  const std::string letters = "abcdx1 ";
  int matched = 0;
  for (int round = 0; round < 400; ++round) {
    std::string pattern;
    for (int n = static_cast<int>(random() % 4); n >= 0; --n) pattern += atoms[random() % atoms.size()];
    if (random() % 4 == 0) pattern += "|" + atoms[random() % atoms.size()];
    const auto grammar = OfRegex(pattern);
    ASSERT_TRUE(grammar) << pattern << ": " << grammar.error().message;
    const std::regex oracle(pattern);
    for (int i = 0; i < 60; ++i) {
      std::string text;
      for (int n = static_cast<int>(random() % 9); n > 0; --n) text += letters[random() % letters.size()];
      const bool expected = std::regex_match(text, oracle);
      matched += expected ? 1 : 0;
      ASSERT_EQ(Matches(*grammar, text), expected) << pattern << " on \"" << text << "\"";
    }
  }
  EXPECT_GT(matched, 500);
}

TEST(Regex, WhatItCannotDoIsRefused) {
  for (const char* pattern : {"(?=a)", "(?<!a)b", "(a)\\1", "a\\b", "\\p{L}", "(?i)a", "a(^b)", "a$b", "(",
                              "a)", "[a", "a{2", "a{3,2}", "*a", "[z-a]", "a**", "\\", "\\u12"}) {
    const auto grammar = OfRegex(pattern);
    ASSERT_FALSE(grammar) << pattern;
    EXPECT_EQ(grammar.error().code, "unsupported_regex") << pattern;
  }
  EXPECT_TRUE(Matches(*OfRegex("^a|b$"), "a"));
  EXPECT_TRUE(Matches(*OfRegex("(?<year>\\d{4})-\\u00e9.\\x41"), "2026-éßA"));
  EXPECT_FALSE(Matches(*OfRegex("[^\\d]"), "7"));
}

TEST(Gbnf, ReadsWhatLlamaCppReads) {
  const auto chess = OfGbnf(R"(
# a comment
root ::= ("1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")+) # at the end
move ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
)");
  ASSERT_TRUE(chess) << chess.error().message;
  EXPECT_TRUE(Matches(*chess, "1. e4 e5\n2. Nf3 O-O-O+\n"));
  EXPECT_FALSE(Matches(*chess, "1. e4 e5\n"));
  EXPECT_FALSE(Matches(*chess, "1. e9 e5\n"));
  const auto other =
      OfGbnf("root ::= a{2,3} |\n  [^a\\n\\]-]+ \"\\x41\\u00e9\\\"\"\na ::= \"a\" (\n \"b\"\n)?");
  ASSERT_TRUE(other) << other.error().message;
  EXPECT_TRUE(Matches(*other, "aab"));
  EXPECT_FALSE(Matches(*other, "a"));
  EXPECT_TRUE(Matches(*other, "ü😀Aé\""));
  EXPECT_FALSE(Matches(*other, "]Aé\""));
  // White space where llama.cpp allows it, and classes with what is special elsewhere.
  const auto spread = OfGbnf(
      "root ::=\r\n  \"{\" ws (\n    pair # first\n    (\",\" ws pair) *\n  ) ? \"}\"\n"
      "pair ::= key \":\" ws [-+*/.\"]{1, 2} ws\nkey ::= \"\\\"\" ( [^\"\\\\\\x7F\\x00-\\x1F] | \"\\\\\" "
      "[\"\\\\bfnrt] ) +"
      "\"\\\"\"\nws ::= | \" \" | \"\\n\" [ \\t] {0,20}\n");
  ASSERT_TRUE(spread) << spread.error().message;
  EXPECT_TRUE(Matches(*spread, "{}"));
  EXPECT_TRUE(Matches(*spread, "{\"a\\n\": +-,\n \t\"é\":\".}"));
  EXPECT_FALSE(Matches(*spread, "{\"\":+}"));
  EXPECT_FALSE(Matches(*spread, "{\"a\":+++}"));
  const std::pair<const char*, const char*> kBad[] = {
      {"a ::= \"x\"", "invalid_grammar"},
      {"root ::= missing", "invalid_grammar"},
      {"root ::= \"x", "invalid_grammar"},
      {"root ::= [a", "invalid_grammar"},
      {"root ::= (\"a\"", "invalid_grammar"},
      {"root := \"a\"", "invalid_grammar"},
      {"root ::= <[1]>", "invalid_grammar"},
      {"root ::= root \"a\" | \"b\"", "left_recursion"},
      {"root ::= x\nx ::= y? x \"a\" | \"c\"\ny ::= \"b\"", "left_recursion"},
      {"root ::= \"a\" root", "unsatisfiable"},
      {"root ::= \"a\"\nroot ::= \"b\"", "invalid_grammar"},
  };
  for (const auto& [source, code] : kBad) {
    const auto grammar = OfGbnf(source);
    ASSERT_FALSE(grammar) << source;
    EXPECT_EQ(grammar.error().code, code) << source << ": " << grammar.error().message;
  }
  // Right recursion is a loop: the stack does not grow.
  const auto list = OfGbnf("root ::= \"a\" root | \"b\"");
  EXPECT_TRUE(Matches(*list, std::string(100000, 'a') + "b"));
  EXPECT_LT((*list)->bytes(), 100000u);
}

TEST(JsonSchema, AcceptsAndRefusesTexts) {
  struct Case {
    const char* schema;
    std::vector<const char*> good, bad;
  };
  const std::vector<Case> cases = {
      {R"({"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"string"}},"required":["a"]})",
       {R"({"a":1})", R"({"a": -20,"b":"x"})", "{\n  \"a\": 0,\n  \"b\": \"\\u00e9\\n\"\n}"},
       {R"({})", R"({"b":"x"})", R"({"a":1.5})", R"({"a":01})", R"({"a":1,"c":2})", R"({"b":"x","a":1})",
        R"({"a":1,})"}},
      {R"({"type":"object","properties":{"a":{},"b":{},"c":{}}})",
       {"{}", R"({"b":[1,{"x":null}]})", R"({"a":1,"c":"y"})"},
       {R"({,"a":1})", R"({"a":1 "b":2})"}},
      {R"({"type":"object","properties":{"ab":{"type":"null"}},"additionalProperties":{"type":"integer"}})",
       {R"({"ab":null})", R"({"ab":null,"a":1,"abc":2})", R"({"x":1})"},
       {R"({"ab":1})", R"({"x":"1"})", R"({"a\u0062":1})"}},
      {R"({"type":"object","additionalProperties":{"type":"integer"},"minProperties":1,"maxProperties":2})",
       {R"({"a":1})", R"({"a":1,"b":2})"},
       {"{}", R"({"a":1,"b":2,"c":3})"}},
      {R"({"type":"object","properties":{"a":{},"b":{},"c":{}},"minProperties":2,"maxProperties":2,"additionalProperties":false})",
       {R"({"a":1,"c":1})", R"({"b":1,"c":1})"},
       {R"({"a":1})", R"({"a":1,"b":1,"c":1})", "{}"}},
      {R"({"type":"array","items":{"type":"boolean"},"minItems":1,"maxItems":3})",
       {"[true]", "[true, false,true]"},
       {"[]", "[true,true,true,true]", "[1]"}},
      {R"({"type":"array","prefixItems":[{"type":"integer"},{"type":"string"}],"items":false})",
       {"[]", "[1]", "[1,\"a\"]"},
       {"[\"a\"]", "[1,\"a\",2]"}},
      {R"({"type":"array","items":[{"type":"integer"}],"additionalItems":{"type":"null"},"minItems":1})",
       {"[1]", "[1,null,null]"},
       {"[]", "[1,2]"}},
      {R"({"type":"string","minLength":2,"maxLength":4})",
       {R"("ab")", R"("éé😀é")", R"("\n\u0041")"},
       {R"("a")", R"("abcde")", R"("\n")"}},
      {R"({"type":"string","maxLength":0})", {R"("")"}, {R"("a")"}},
      {R"({"type":"string","pattern":"^[a-z]+\\d?$"})",
       {R"("abc1")", R"("z")"},
       {R"("")", R"("A")", R"("a12")"}},
      {R"({"type":"string","pattern":"b\"c"})", {R"("ab\"cd")", R"("b\"c")"}, {R"("abc")"}},
      {R"({"type":"string","format":"date"})",
       {R"("2024-02-28")", R"("1999-12-31")"},
       {R"("2024-02-30")", R"("2024-13-01")", R"("24-1-1")"}},
      {R"({"type":"string","format":"uuid"})",
       {R"("0123abcd-0123-4567-89ab-0123456789ab")"},
       {R"("0123abcd")"}},
      {R"({"type":"string","format":"date-time"})",
       {R"("2024-02-28T23:59:59.123Z")", R"("2024-02-28T00:00:00+01:00")"},
       {R"("2024-02-28")"}},
      {R"({"type":"integer","minimum":-5,"maximum":120})",
       {"-5", "0", "7", "99", "120"},
       {"-6", "121", "1000", "1.0", "-0"}},
      {R"({"type":"integer","exclusiveMinimum":9,"exclusiveMaximum":12})",
       {"10", "11"},
       {"9", "12", "1", "110"}},
      {R"({"type":"integer","multipleOf":7})", {"0", "7", "-14", "700"}, {"1", "8", "07"}},
      {R"({"type":"number","minimum":0.5,"maximum":2.25})",
       {"0.5", "1", "1.99", "2", "2.25", "0.50", "2.2"},
       {"0.49", "2.26", "3", "-1", "0", "0.4999", "2.251"}},
      {R"({"type":"number","exclusiveMinimum":0,"exclusiveMaximum":1})",
       {"0.1", "0.001", "0.999"},
       {"0", "0.0", "1", "1.0", "-0.5"}},
      {R"({"type":"number","minimum":-1.5})", {"-1.5", "-1", "-0.25", "0", "1234.5"}, {"-1.51", "-2"}},
      {R"({"type":"number","maximum":-3})", {"-3", "-3.0", "-17.25"}, {"-2.9", "0", "3"}},
      {R"({"enum":["a","ab",1,null,{"x":[1]}]})",
       {R"("a")", R"("ab")", "1", "null", R"({"x":[1]})"},
       {R"("b")", "2", R"({"x":[2]})"}},
      {R"({"type":"string","enum":["a",1],"minLength":1})", {R"("a")"}, {"1"}},
      {R"({"const":"only"})", {R"("only")"}, {R"("other")"}},
      {R"({"anyOf":[{"type":"integer"},{"type":"null"}]})", {"1", "null"}, {"\"1\""}},
      {R"({"type":["string","null"]})", {"null", R"("x")"}, {"1"}},
      {R"({"oneOf":[{"type":"object","properties":{"k":{"const":"a"},"x":{"type":"integer"}},"required":["k","x"]},
                    {"type":"object","properties":{"k":{"const":"b"},"y":{"type":"string"}},"required":["k","y"]}]})",
       {R"({"k":"a","x":1})", R"({"k":"b","y":""})"},
       {R"({"k":"a","y":""})"}},
      {R"({"allOf":[{"type":"object","properties":{"a":{"type":"number"}}},{"properties":{"a":{"type":"integer","minimum":3},"b":{"type":"null"}},"required":["a"]}]})",
       {R"({"a":3})", R"({"a":4,"b":null})"},
       {R"({"a":2})", "{}", R"({"a":3.5})"}},
      {R"({"type":"array","allOf":[{"prefixItems":[{"minimum":3}]}],"items":{"type":"integer","minimum":5}})",
       {"[5,6]"},
       {"[3,5]", "[5,4]"}},
      {R"({"type":"object","properties":{"a":{"type":"null"},"b":{"type":"null"}},"anyOf":[{"required":["a"]},{"required":["b"]}]})",
       {R"({"a":null})", R"({"b":null})", R"({"a":null,"b":null})"},
       {"{}"}},
      {R"({"$defs":{"node":{"type":"object","properties":{"v":{"type":"integer"},"next":{"anyOf":[{"$ref":"#/$defs/node"},{"type":"null"}]}},"required":["v","next"]}},"$ref":"#/$defs/node"})",
       {R"({"v":1,"next":{"v":2,"next":null}})"},
       {R"({"v":1})", R"({"v":1,"next":{}})"}},
      {R"({"type":"object","properties":{"c":{"type":"array","items":{"$ref":"#"}}}})",
       {R"({"c":[{},{"c":[]}]})"},
       {R"({"c":[1]})"}},
      {R"({"$ref":"#/definitions/a~1b","definitions":{"a/b":{"type":"integer"}}})", {"5"}, {"null"}},
      {R"({"type":"object","required":["z"],"properties":{"a":{"type":"null"}}})",
       {R"({"z":[1]})", R"({"a":null,"z":"x"})"},
       {R"({"a":null})"}},
      {"true", {"1", "{}", "[[]]", "\"x\"", "1e5", "-0.5E-3"}, {"01", "+1", "nul", "1.", ".5"}},
      {R"({"description":"anything","title":"T"})", {"1"}, {""}},
      {R"({"minimum":3})", {"3"}, {"2"}},
      // OpenAPI's word: JSON Schema lets no null in for it.
      {R"({"type":"integer","nullable":true})", {"3"}, {"null", "\"\""}},
      {R"({"allOf":[{"type":"string","nullable":true},{"type":"string"}]})", {"\"\""}, {"null"}},
  };
  for (const Case& c : cases) {
    const auto grammar = OfSchema(Json::parse(c.schema));
    ASSERT_TRUE(grammar) << c.schema << ": " << grammar.error().message;
    for (const char* text : c.good)
      EXPECT_TRUE(Matches(*grammar, text)) << c.schema << " should accept " << text;
    for (const char* text : c.bad)
      EXPECT_FALSE(Matches(*grammar, text)) << c.schema << " should refuse " << text;
  }
}

TEST(JsonSchema, WhatCannotBeEnforcedIsRefusedByItsPointer) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"type":"object","properties":{"a/b":{"type":"array","uniqueItems":true}}})",
       "schema/properties/a~1b/uniqueItems"},
      {R"({"not":{"type":"string"}})", "schema/not"},
      // Where it stands in the client's schema, not where merging puts it.
      {R"({"type":"string","allOf":[{"minLength":1},{"not":{}}]})", "schema/allOf/1/not"},
      {R"({"allOf":[{"allOf":[{"if":true}]}]})", "schema/allOf/0/allOf/0/if"},
      {R"({"$ref":"#/$defs/a","minLength":1,"$defs":{"a":{"not":{}}}})", "schema/$defs/a/not"},
      {R"({"allOf":[{"$ref":"#/$defs/a"}],"$defs":{"a":{"contains":{}}}})", "schema/$defs/a/contains"},
      {R"({"if":{},"then":{}})", "schema/if"},
      {R"({"type":"object","patternProperties":{"^x":{}}})", "schema/patternProperties"},
      {R"({"type":"array","contains":{"type":"null"}})", "schema/contains"},
      {R"x({"type":"string","pattern":"(?=x)"})x", "schema/pattern"},
      {R"({"type":"string","pattern":"x","minLength":3})", "schema/minLength"},
      {R"({"type":"string","format":"iri"})", "schema/format"},
      {R"({"type":"number","multipleOf":0.01})", "schema/multipleOf"},
      {R"({"oneOf":[{"type":"integer"},{"type":"number"}]})", "schema/oneOf"},
      {R"({"$ref":"#/$defs/none"})", "schema/$ref"},
      {R"({"$ref":"https://example.org/schema.json"})", "schema/$ref"},
      {R"({"type":"spaghetti"})", "schema/type"},
      {R"({"type":"string","minLength":-1})", "schema/minLength"},
      {R"({"properties":[]})", "schema/properties"},
      {R"({"anyOf":[]})", "schema/anyOf"},
      {R"({"allOf":[{"pattern":"a"},{"pattern":"b"}]})", "schema/allOf/1"},
      {R"({"anyOf":[{"type":"integer"},{"type":"object","properties":{"x":{"not":{}}}}]})",
       "schema/anyOf/1/properties/x/not"},
      {"5", "schema"},
  };
  for (const auto& [schema, param] : kCases) EXPECT_EQ(Problem(schema), param) << schema;
  // Nothing can satisfy these.
  for (const char* schema : {"false", R"({"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]})",
                             R"({"enum":[]})", R"({"type":"integer","minimum":3,"maximum":2})"}) {
    const auto grammar = OfSchema(Json::parse(schema));
    ASSERT_FALSE(grammar) << schema;
    EXPECT_EQ(grammar.error().code, "unsatisfiable") << schema;
  }
  // A reference that only leads to itself says nothing.
  EXPECT_FALSE(OfSchema(Json::parse(R"({"$ref":"#"})")));
}

// ---- schemas that are meant to cost: each is told what is wrong with it, or costs nothing

// "VmHWM", "VmRSS": bytes. The first is the highest since the last ForgetPeak (proc(5), clear_refs).
uint64_t MemoryBytes(std::string_view name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name)) return std::stoull(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}
bool ForgetPeak() {
  std::ofstream file("/proc/self/clear_refs");
  file << "5" << std::flush;
  return file.good();
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr double kSanitised = 8;
#else
constexpr double kSanitised = 1;
#endif
constexpr double kMostSeconds = 4 * kSanitised;  // the worst takes 0.8 s; the machine may be busy
constexpr uint64_t kMostBytes = static_cast<uint64_t>(kSanitised) * (256u << 20);

// Doubles with each of `levels` references.
Json Doubling(int levels, const std::function<Json(const Json& next)>& level, Json last) {
  Json schema = {{"$ref", "#/$defs/0"}, {"$defs", Json::object()}};
  for (int i = 0; i < levels; ++i) {
    schema["$defs"][std::to_string(i)] = level({{"$ref", "#/$defs/" + std::to_string(i + 1)}});
  }
  schema["$defs"][std::to_string(levels)] = std::move(last);
  return schema;
}
Json Nested(int levels, Json inner, const std::function<Json(Json inner)>& level) {
  for (int i = 0; i < levels; ++i) inner = level(std::move(inner));
  return inner;
}
// An object of `count` properties.
Json Wide(int count, const Json& value) {
  Json properties = Json::object();
  for (int i = 0; i < count; ++i) properties["p" + std::to_string(i)] = value;
  return {{"type", "object"}, {"properties", std::move(properties)}};
}
Json Many(int count, const std::function<Json(int i)>& value) {
  Json list = Json::array();
  for (int i = 0; i < count; ++i) list.push_back(value(i));
  return list;
}
std::string Repeated(std::string_view text, int count) {
  std::string out;
  for (int i = 0; i < count; ++i) out += text;
  return out;
}

struct Bomb {
  const char* name;
  Json schema;
  const char* code;  // empty: it compiles
};

std::vector<Bomb> Bombs() {
  const Json object = {{"type", "object"}, {"properties", {{"a", {{"type", "string"}}}}}};
  const auto twice = [](const char* word) {
    return [word](const Json& part) { return Json{{word, Json::array({part, part})}}; };
  };
  std::vector<Bomb> bombs;
  const auto add = [&](const char* name, Json schema, const char* code) {
    bombs.push_back({name, std::move(schema), code});
  };
  // What is referred to is compiled once.
  add("anyOf of references, 2^40", Doubling(40, twice("anyOf"), object), "");
  add("allOf of references, 2^40", Doubling(40, twice("allOf"), object), "");
  add("anyOf written out, 2^14", Nested(14, object, twice("anyOf")), "schema_too_complex");
  add("anyOf inside allOf, 2^40",
      Doubling(
          40,
          [&](const Json& next) {
            return Json{
                {"allOf", Json::array({next, {{"type", "object"}, {"anyOf", Json::array({next, object})}}})}};
          },
          object),
      "unsupported_schema");
  add("allOf of itself",
      Json::parse(R"({"type":"object","allOf":[{"$ref":"#"},{"properties":{"a":{"$ref":"#"}}}]})"),
      "schema_too_complex");
  add("a reference to itself", Json::parse(R"({"$ref":"#"})"), "unsatisfiable");
  add("anyOf of 19,000 beside an enum of 20,000",
      {{"enum", Many(20000, [](int i) { return Json(i); })},
       {"anyOf", Many(19000, [](int i) { return Json{{"minimum", i}}; })}},
      "schema_too_complex");
  add("oneOf of 10,000", {{"oneOf", Many(10000, [](int i) { return Json{{"const", i}}; })}},
      "schema_too_complex");
  add("type, 50,000 times, twice",
      {{"type", Many(50000, [](int) { return Json("string"); })},
       {"allOf", Json::array({{{"type", Many(50000, [](int) { return Json("null"); })}}})}},
      "schema_too_complex");
  // Repetitions are counted.
  add("minItems of 10^9", Json::parse(R"({"type":"array","items":{"type":"integer"},"minItems":1000000000})"),
      "");
  add("minItems of 10^300", Json::parse(R"({"type":"array","items":{"type":"integer"},"minItems":1e300})"),
      "");
  add("minItems of 10^6, three deep",
      Nested(3, true,
             [](Json inner) {
               return Json{{"type", "array"}, {"minItems", 1000000}, {"items", std::move(inner)}};
             }),
      "");
  add("maxLength of 10^9, 2,000 times", Wide(2000, {{"type", "string"}, {"maxLength", 1000000000}}), "");
  add("deep",
      Nested(5000, true, [](Json inner) { return Json{{"type", "array"}, {"items", std::move(inner)}}; }),
      "schema_too_complex");
  add("deep allOf",
      Nested(400, object, [](Json inner) { return Json{{"allOf", Json::array({std::move(inner)})}}; }),
      "schema_too_complex");
  add("pattern of 64 KiB and more", {{"type", "string"}, {"pattern", Repeated("a", 400000)}},
      "unsupported_schema");
  add("pattern of repeated repetitions",
      {{"type", "string"}, {"pattern", "^(((a{0,1000}){0,1000}){0,1000}){0,1000}$"}}, "grammar_too_complex");
  add("pattern of 3,000 optional repetitions",
      {{"type", "string"}, {"pattern", "^(" + Repeated("(a?){1,99}", 3000) + ")$"}}, "grammar_too_complex");
  add("pattern of 4,000 wide gaps", {{"type", "string"}, {"pattern", Repeated("(.*a.{0,500})", 4000)}},
      "grammar_too_large");
  add("pattern of 20,000 groups",
      {{"type", "string"}, {"pattern", Repeated("(", 20000) + "a" + Repeated(")", 20000)}},
      "unsupported_schema");
  add("3,000 properties", Wide(3000, {{"type", "string"}}), "");
  add("18,000 properties", Wide(18000, true), "schema_too_complex");
  Json half = Wide(3000, {{"type", "null"}});
  half["minProperties"] = 1500;
  add("half of 3,000 properties", std::move(half), "schema_too_complex");
  add("a name of 400,000 characters",
      {{"type", "object"}, {"properties", {{Repeated("n", 400000), {{"type", "null"}}}}}}, "");
  Json long_names = {{"type", "object"}, {"properties", Json::object()}, {"additionalProperties", true}};
  for (int i = 0; i < 400; ++i) long_names["properties"][Repeated("n", 1000 + i)] = {{"type", "null"}};
  add("400 names of 1,000 characters that begin alike", std::move(long_names), "");
  add("multipleOf of 1,000, 2,000 times", Wide(2000, {{"type", "integer"}, {"multipleOf", 1000}}),
      "schema_too_complex");
  add("enum of 40,000", {{"enum", Many(40000, [](int i) { return Json("value " + std::to_string(i)); })}},
      "");
  return bombs;
}

TEST(JsonSchema, BombsAreToldApartInTimeAndMemory) {
  (void)ByteTrie();
  for (const Bomb& bomb : Bombs()) {
    const bool measured = ForgetPeak();
    const uint64_t before = MemoryBytes("VmRSS:");
    const auto began = std::chrono::steady_clock::now();
    const auto made = OfSchema(bomb.schema);
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    EXPECT_EQ(made ? "" : made.error().code, bomb.code)
        << bomb.name << ": " << (made ? "" : made.error().message);
    EXPECT_LT(took.count(), kMostSeconds) << bomb.name;
    if (measured) {
      EXPECT_LT(MemoryBytes("VmHWM:"), before + kMostBytes) << bomb.name;
    }
  }
}

// What begins simply is told where it becomes too much: in the answer.
TEST(Matcher, SaysWhereAGrammarIsTooComplex) {
  const auto grammar =
      OfSchema({{"type", "string"}, {"pattern", "^xyz(((a{0,1000}){0,1000}){0,1000}){0,1000}$"}});
  ASSERT_TRUE(grammar) << grammar.error().message;
  Matcher matcher(*grammar);
  ASSERT_TRUE(matcher.Accept("\"x"));
  ASSERT_NE(matcher.Mask(), nullptr);
  ASSERT_TRUE(matcher.Accept("y"));
  const auto began = std::chrono::steady_clock::now();
  EXPECT_EQ(matcher.Mask(), nullptr) << "what comes after the z is too much";
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::duration<double>(kMostSeconds));
}

// Every bit of every mask along random walks.
TEST(Masks, SayWhatTheAutomatonTakes) {
  std::mt19937 random(11);
  const auto trie = ByteTrie();
  const auto bytes = text::Tokenizer::Bytes();
  for (
      const char* schema :
      {R"({"type":"object","properties":{"a":{"type":"string","maxLength":5},"b":{"type":"array","items":{"type":"number"}}},"required":["a","b"]})",
       R"({"anyOf":[{"type":"string","minLength":2,"maxLength":300},{"type":"string","pattern":"^é+$"},{"type":"integer","minimum":0}]})",
       "true"}) {
    const auto grammar = OfSchema(Json::parse(schema));
    ASSERT_TRUE(grammar) << grammar.error().message;
    int ends = 0;
    for (int round = 0; round < 40; ++round) {
      Matcher matcher(*grammar);
      for (int step = 0; step < 60 && !matcher.ended(); ++step) {
        const TokenMask* mask = matcher.Mask();
        ASSERT_NE(mask, nullptr);
        std::vector<int32_t> can;
        int32_t count = 0;
        for (int32_t token = 0; token < trie->vocab_size(); ++token) {
          const bool allowed = (mask->allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1) != 0;
          count += allowed ? 1 : 0;
          if (token >= 256) {
            EXPECT_EQ(allowed, token == 257 && matcher.may_end());
            continue;
          }
          Matcher probe = matcher;
          EXPECT_EQ(probe.Accept(bytes->TokenBytes(token)), allowed) << token;
          if (allowed) can.push_back(token);
        }
        EXPECT_EQ(count, mask->count);
        if (can.empty()) break;
        ASSERT_TRUE(matcher.Accept(bytes->TokenBytes(can[random() % can.size()])));
      }
      ends += matcher.may_end() ? 1 : 0;
    }
    EXPECT_GT(ends, 0);
  }
}

TEST(Matcher, KnowsWhatIsForced) {
  const auto grammar = OfSchema(Json::parse(
      R"({"type":"object","properties":{"temperature":{"const":"é"}},"required":["temperature"],"additionalProperties":false})"));
  ASSERT_TRUE(grammar);
  Matcher matcher(*grammar);
  EXPECT_EQ(matcher.Forced(100), "{");
  ASSERT_TRUE(matcher.Accept("{\""));
  EXPECT_EQ(matcher.Forced(100), "temperature\":");
  EXPECT_EQ(matcher.Forced(4), "temp");
  ASSERT_TRUE(matcher.Accept("temperature\":\""));
  EXPECT_EQ(matcher.Forced(1), "") << "half a character is not given";
  EXPECT_EQ(matcher.Forced(9), "é\"");
  EXPECT_FALSE(matcher.Accept("e"));
  ASSERT_TRUE(matcher.Accept("é\"}"));
  EXPECT_TRUE(matcher.ended());
}

TEST(Matcher, OutlivesTheAutomatonItBeganWith) {
  Expressions expressions;
  const auto root = ParseJsonSchema(true, "s", expressions);
  auto program = Compile(expressions, *root);
  ASSERT_TRUE(program);
  const auto grammar =
      CompiledGrammar::Make(std::move(*program), ByteTrie(), {.automaton_bytes = 20000, .mask_bytes = 2000});
  ASSERT_TRUE(grammar);
  Matcher first(*grammar), second(*grammar);
  std::string text;
  for (int i = 0; i < 200; ++i) {
    ASSERT_TRUE(first.Accept("[{\"a\":"));
    ASSERT_NE(first.Mask(), nullptr);
    if (i % 50 == 0) {
      ASSERT_TRUE(second.Accept("["));
    }
    EXPECT_LT((*grammar)->bytes(), 120000u);
  }
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(first.Accept(i == 0 ? "1}]" : "}]")) << i;
  EXPECT_TRUE(first.ended());
  EXPECT_TRUE(second.Accept("]]]]"));
  EXPECT_TRUE(second.ended());
}

TEST(TextWithout, EndsAtItsTag) {
  Expressions e;
  const ExprId root = e.Sequence({e.TextWithout(U"<｜call｜>"), e.Bytes("<｜call｜>x")});
  auto program = Compile(e, root);
  ASSERT_TRUE(program);
  const auto grammar = CompiledGrammar::Make(std::move(*program), ByteTrie());
  for (const char* good : {"<｜call｜>x", "a<｜ca<｜call｜>x", "<<｜call｜>x", "é｜>\n<｜call｜>x"})
    EXPECT_TRUE(Matches(*grammar, good)) << good;
  for (const char* bad : {"<｜call｜>y", "a<｜call｜>x<｜call｜>x", "none"})
    EXPECT_FALSE(Matches(*grammar, bad)) << bad;
}

// Oracle: std::string::find, over all short texts of letters in which the stops overlap.
TEST(TextWithout, NoneOfSeveralOccurs) {
  const std::vector<std::vector<std::u32string_view>> kStops = {
      {U"ab"},          {U"ab", U"ba"},         {U"aab", U"ab"},
      {U"abab", U"bb"}, {U"xaby", U"ab", U"y"}, {U"aa", U"aba", U"baa"}};
  for (const auto& stops : kStops) {
    Expressions e;
    auto program = Compile(e, e.Sequence({e.TextWithout(stops), e.Bytes("!")}));
    ASSERT_TRUE(program);
    const auto grammar = CompiledGrammar::Make(std::move(*program), ByteTrie());
    ASSERT_TRUE(grammar);
    for (int code = 0; code < 4 * 4 * 4 * 4 * 4 * 4; ++code) {
      std::string text;
      for (int rest = code; rest > 0; rest /= 4) text += "abxy"[rest % 4];
      const bool clean = std::none_of(stops.begin(), stops.end(), [&](std::u32string_view stop) {
        return text.find(std::string(stop.begin(), stop.end())) != std::string::npos;
      });
      ASSERT_EQ(Matches(*grammar, text + "!"), clean) << text;
    }
  }
}

TEST(GrammarCache, KeepsTheLastUsed) {
  GrammarCache cache(1u << 30, 2);
  int made = 0;
  const auto get = [&](const std::string& key) {
    return *cache.Get(key, [&] {
      ++made;
      return OfRegex(key);
    });
  };
  const auto a = get("a");
  get("b");
  EXPECT_EQ(get("a"), a);
  get("c");
  EXPECT_EQ(made, 3);
  EXPECT_EQ(get("a"), a);
  get("b");
  EXPECT_EQ(made, 4);
  EXPECT_FALSE(cache.Get("(", [] { return OfRegex("("); }));
  const GrammarCache::Counts counts = cache.counts();
  EXPECT_EQ(counts.hits, 2u);
  EXPECT_EQ(counts.misses, 5u);
  EXPECT_EQ(counts.evicted, 2u);
  EXPECT_EQ(counts.entries, 2u);
}

// Grammars grow when they are used: what was small when it came in is counted as it is now.
TEST(GrammarCache, BytesAreBoundedAsGrammarsGrow) {
  const auto fresh = OfSchema(true);
  ASSERT_TRUE(fresh);
  const uint64_t small = (*fresh)->bytes();
  GrammarCache cache(20 * small, 1000);
  const auto get = [&](int i) { return *cache.Get(std::to_string(i), [] { return OfSchema(true); }); };
  for (int i = 0; i < 10; ++i) get(i);
  EXPECT_EQ(cache.counts().entries, 10u);
  for (int i = 0; i < 10; ++i) {
    Matcher matcher(get(i));
    const std::string depth = Repeated("[{\"a\":", 20 + i);
    ASSERT_TRUE(matcher.Accept(depth));
    ASSERT_NE(matcher.Mask(), nullptr);
    get(i);
    const GrammarCache::Counts counts = cache.counts();
    EXPECT_LE(counts.bytes, std::max(20 * small, get(i)->bytes() + 8)) << i;
  }
  const GrammarCache::Counts counts = cache.counts();
  EXPECT_GT(counts.evicted, 0u);
  // One that is larger than all the room is kept while it is the last used, alone.
  GrammarCache none(0, 1000);
  const auto get_none = [&](int i) { return *none.Get(std::to_string(i), [] { return OfSchema(true); }); };
  EXPECT_EQ(get_none(1), get_none(1));
  get_none(2);
  EXPECT_EQ(none.counts().entries, 1u);
}

TEST(GrammarCache, WhoAsksAtOnceHasItMadeOnce) {
  GrammarCache cache;
  for (const bool good : {true, false}) {
    constexpr int kAskers = 8;
    const GrammarCache::Counts before = cache.counts();
    std::atomic<int> made{0}, got{0}, failed{0};
    std::vector<std::jthread> askers;
    for (int i = 0; i < kAskers; ++i) {
      askers.emplace_back([&] {
        const auto grammar =
            cache.Get(good ? "good" : "bad", [&]() -> Result<std::shared_ptr<CompiledGrammar>> {
              ++made;
              // The others are counted before they wait.
              while (cache.counts().hits - before.hits < kAskers - 1) std::this_thread::yield();
              return good ? OfRegex("a") : OfRegex("(");
            });
        ++(grammar ? got : failed);
        if (!grammar) {
          EXPECT_EQ(grammar.error().code, "unsupported_regex");
        }
      });
    }
    askers.clear();
    EXPECT_EQ(made, 1);
    EXPECT_EQ(good ? got : failed, kAskers);
  }
  EXPECT_EQ(cache.counts().entries, 1u);
  // Errors are not kept.
  EXPECT_TRUE(cache.Get("bad", [] { return OfRegex("b"); }));
}

}  // namespace
}  // namespace tidepool::grammar
