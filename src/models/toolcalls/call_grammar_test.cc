// What the grammar of a format's calls lets through, its parser reads as calls of the tools that there are,
// with arguments of their schemas. Oracle: the JSON schema grammar (models/grammar), whose own is jsonschema.
#include "models/toolcalls/call_grammar.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "models/grammar/json_schema.h"
#include "models/grammar/matcher.h"

namespace tidepool::toolcalls {
namespace {

using Json = nlohmann::ordered_json;
using grammar::Matcher;

Result<std::shared_ptr<grammar::CompiledGrammar>> Compiled(const grammar::Expressions& expressions,
                                                           const Result<grammar::ExprId>& root) {
  static const auto kTrie = grammar::TokenTrie::Build(*text::Tokenizer::Bytes(), {});
  if (!root) return Fail(root.error());
  TP_ASSIGN(grammar::Program program, Compile(expressions, *root));
  return grammar::CompiledGrammar::Make(std::move(program), kTrie);
}

Result<std::shared_ptr<grammar::CompiledGrammar>> GrammarOf(Format format, const CallRules& rules) {
  grammar::Expressions expressions;
  return Compiled(expressions, CallGrammar(format, rules, expressions));
}

// Additional properties are not for answers of ours; the oracle's order is the schema's, as the calls' is.
bool Validates(const Json& schema, const std::string& json) {
  grammar::Expressions expressions;
  const auto compiled = Compiled(expressions, ParseJsonSchema(schema, "schema", expressions));
  EXPECT_TRUE(compiled) << schema << compiled.error().message;
  Matcher matcher(*compiled);
  return matcher.Accept(json) && matcher.may_end();
}

// A random text of the grammar; "" if it did not end in time. Prefers bytes that end things.
std::string Draw(const std::shared_ptr<grammar::CompiledGrammar>& compiled, std::mt19937& random) {
  static const auto kBytes = text::Tokenizer::Bytes();
  Matcher matcher(compiled);
  std::string text;
  for (int step = 0; step < 1500 && !matcher.ended(); ++step) {
    if (matcher.may_end() && random() % 4 == 0) return text;
    const grammar::TokenMask* mask = matcher.Mask();
    if (mask == nullptr) return "";
    std::vector<int32_t> can, closing;
    for (int32_t token = 0; token < 256; ++token) {
      if ((mask->allowed[static_cast<size_t>(token) / 64] >> (token % 64) & 1) == 0) continue;
      can.push_back(token);
      if (std::string_view("\"}]<\n").find(static_cast<char>(token)) != std::string_view::npos)
        closing.push_back(token);
    }
    if (can.empty()) return matcher.may_end() ? text : "";
    const auto& from = !closing.empty() && random() % 3 == 0 ? closing : can;
    // Where a tag has begun it goes on often, so that texts are full of tags and of what only looks like one.
    std::string next(kBytes->TokenBytes(from[random() % from.size()]));
    if (random() % 2 == 0) {
      static constexpr std::string_view kPieces[] = {"\n</parameter>",
                                                     "\n<parameter=a>\n",
                                                     "\n</function>",
                                                     "<escape>",
                                                     "</arg_value>",
                                                     "</｜DSML｜parameter>",
                                                     "<end_function_call>",
                                                     "</tool_call>",
                                                     "\",\"",
                                                     "```",
                                                     "[ARGS]{",
                                                     "null",
                                                     "7"};
      Matcher probe = matcher;
      const std::string_view piece = kPieces[random() % std::size(kPieces)];
      if (probe.Accept(piece)) next = piece;
    }
    EXPECT_TRUE(matcher.Accept(next));
    text += next;
  }
  return matcher.may_end() ? text : "";
}

struct Said {
  std::string text;
  std::vector<std::pair<std::string, std::string>> calls;
  bool broken = false;
};
Said Read(Format format, const std::vector<ConstrainedTool>& tools, std::string_view text) {
  std::vector<Tool> known;
  for (const ConstrainedTool& tool : tools) known.push_back(tool.tool);
  const auto parser = MakeParser(format, known);
  std::vector<Part> parts;
  parser->Push(text, parts);
  parser->Finish(parts);
  Said said;
  for (const Part& part : parts) {
    switch (part.kind) {
      case Part::Kind::kText: said.text += part.text; break;
      case Part::Kind::kCall: said.calls.push_back({part.text, ""}); break;
      case Part::Kind::kArguments: said.calls.back().second += part.text; break;
      case Part::Kind::kEnd: break;
      case Part::Kind::kBroken: said.broken = true; break;
    }
  }
  return said;
}

ConstrainedTool Strict(const char* name, const char* schema) {
  return {{name, Json::parse(schema)}, std::string("tools[0].") + name, true};
}

// Of the schemas that clients send with `strict`.
std::vector<ConstrainedTool> StrictTools() {
  return {
      Strict(
          "plain",
          R"({"type":"object","properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":14},
        "unit":{"type":"string","enum":["C","F"]},"wet":{"type":"boolean"}},"required":["city","days","unit","wet"],"additionalProperties":false})"),
      Strict(
          "nullable",
          R"({"type":"object","properties":{"note":{"type":["string","null"]},"size":{"type":["integer","string"]},
        "level":{"enum":["low",2,null]},"n":{"anyOf":[{"type":"number"},{"type":"null"}]}},"required":["note","size","level","n"],
        "additionalProperties":false})"),
      Strict(
          "optional",
          R"({"type":"object","properties":{"a":{"type":"string"},"b":{"type":"integer"},"c":{"type":"boolean"}},
        "required":["b"],"additionalProperties":false})"),
      Strict(
          "nested",
          R"({"type":"object","$defs":{"Point":{"type":"object","properties":{"x":{"type":"number"},"label":{"type":"string"}},
        "required":["x","label"],"additionalProperties":false},"Kind":{"type":"string","enum":["big","small"]}},
        "properties":{"at":{"$ref":"#/$defs/Point"},"kind":{"$ref":"#/$defs/Kind"},"more":{"type":"array","items":{"$ref":"#/$defs/Point"},"maxItems":2}},
        "required":["at","kind","more"],"additionalProperties":false})"),
      Strict("nothing", R"({"type":"object","properties":{},"additionalProperties":false})"),
  };
}

TEST(CallGrammar, WhatIsMadeIsCallsOfItsTools) {
  std::mt19937 random(5);
  for (const Format format : Formats()) {
    for (const bool newer : {false, true}) {
      for (const ConstrainedTool& tool : StrictTools()) {
        CallRules rules;
        rules.tools = {tool};
        rules.required = true;
        rules.newer_shape = newer;
        const auto compiled = GrammarOf(format, rules);
        ASSERT_TRUE(compiled) << FormatName(format) << " " << tool.tool.name << ": "
                              << compiled.error().message;
        int whole = 0;
        for (int round = 0; round < 60; ++round) {
          const std::string text = Draw(*compiled, random);
          if (text.empty()) continue;
          ++whole;
          const Said said = Read(format, rules.tools, text);
          ASSERT_EQ(said.text, "") << FormatName(format) << ": " << text;
          ASSERT_FALSE(said.broken) << text;
          ASSERT_FALSE(said.calls.empty()) << text;
          for (const auto& [name, arguments] : said.calls) {
            ASSERT_EQ(name, tool.tool.name) << text;
            ASSERT_TRUE(Validates(tool.tool.parameters, arguments)) << FormatName(format) << "\n"
                                                                    << text << "\n"
                                                                    << arguments;
          }
        }
        EXPECT_GE(whole, 15) << FormatName(format) << " " << tool.tool.name;
      }
    }
  }
}

// Without strict: whatever the schema, some call is possible, and what is made is read.
TEST(CallGrammar, LooseToolsTakeAnyArguments) {
  std::mt19937 random(6);
  for (const Format format : Formats()) {
    for (
        const char* schema :
        {"{}", R"({"type":"object"})",
         R"({"$ref":"#/$defs/A","$defs":{"A":{"type":"object","properties":{"x":{"type":"integer"}},"required":["x"]}}})",
         R"x({"type":"object","properties":{"s":{"type":"string","pattern":"(?=x)"},"o":{"not":{}}},"required":["s"]})x"}) {
      CallRules rules;
      rules.tools = {{{"f", Json::parse(schema)}, "tools[0]", false},
                     {{"g", Json::object()}, "tools[1]", false}};
      rules.required = true;
      rules.parallel = false;
      const auto compiled = GrammarOf(format, rules);
      ASSERT_TRUE(compiled) << FormatName(format) << " " << schema << ": " << compiled.error().message;
      int whole = 0;
      bool any = false;
      for (int round = 0; round < 60; ++round) {
        const std::string text = Draw(*compiled, random);
        if (text.empty()) continue;
        ++whole;
        const Said said = Read(format, rules.tools, text);
        ASSERT_EQ(said.text, "") << FormatName(format) << ": " << text;
        ASSERT_EQ(said.calls.size(), 1u) << text;
        ASSERT_TRUE(Json::parse(said.calls[0].second, nullptr, false).is_object()) << text;
        any = any || said.calls[0].second.size() > 2;
      }
      EXPECT_GE(whole, 10) << FormatName(format) << " " << schema;
      EXPECT_TRUE(any) << FormatName(format) << " only {}: " << schema;
    }
  }
}

TEST(CallGrammar, TextMayComeFirstWhereCallsAreNotRequired) {
  std::mt19937 random(7);
  for (const Format format : Formats()) {
    CallRules rules;
    rules.tools = {StrictTools()[2]};
    const auto compiled = GrammarOf(format, rules);
    ASSERT_TRUE(compiled) << FormatName(format);
    Matcher matcher(*compiled);
    EXPECT_TRUE(matcher.Accept("No call, only text.") && matcher.may_end()) << FormatName(format);
    for (int round = 0; round < 40; ++round) {
      const std::string text = Draw(*compiled, random);
      const Said said = Read(format, rules.tools, text);
      for (const auto& [name, arguments] : said.calls) {
        ASSERT_EQ(name, "optional") << text;
        if (!said.broken) {
          ASSERT_TRUE(Validates(rules.tools[0].tool.parameters, arguments)) << text;
        }
      }
    }
  }
}

// What a format's calls cannot be held to is refused by its pointer.
TEST(CallGrammar, StrictSchemasThatCannotBeEnforcedAreRefused) {
  struct Case {
    Format format;
    const char* schema;
    const char* param;
  };
  const Case kCases[] = {
      {Format::kHermes, R"({"type":"object","properties":{"a":{"not":{}}}})", "t/properties/a/not"},
      {Format::kQwenXml, R"({"anyOf":[{"type":"object"}]})", "t/anyOf"},
      {Format::kQwenXml, R"({"type":"object","additionalProperties":true})", "t/additionalProperties"},
      {Format::kQwenXml, R"({"type":"object","properties":{},"required":["z"]})", "t/required"},
      {Format::kQwenXml, R"({"type":"object","properties":{"a":{"type":"string","maxLength":3}}})",
       "t/properties/a/maxLength"},
      {Format::kQwenXml, R"({"type":"object","properties":{"a":{"type":"string","not":{"const":"x"}}}})",
       "t/properties/a/not"},
      {Format::kQwenXml, R"({"type":"object","properties":{"a":{"type":"string","enum":[1]}}})",
       "t/properties/a/enum"},
      {Format::kQwenXml, R"({"type":"object","minProperties":1})", "t/minProperties"},
      {Format::kGemma, R"({"type":"object","properties":{"a":{"type":"string","pattern":"x"}}})",
       "t/properties/a/pattern"},
      {Format::kGemma, R"({"type":"object","properties":{"a":{"type":"array","items":{"oneOf":[]}}}})",
       "t/properties/a/items/oneOf"},
      {Format::kGemma, R"({"type":"object","properties":{"a:b":{"type":"string"}}})", "t/properties/a:b"},
  };
  for (const Case& c : kCases) {
    CallRules rules;
    rules.tools = {{{"f", Json::parse(c.schema)}, "t", true}};
    rules.required = true;
    const auto compiled = GrammarOf(c.format, rules);
    ASSERT_FALSE(compiled) << c.schema;
    EXPECT_EQ(compiled.error().param, c.param) << compiled.error().message;
    EXPECT_EQ(compiled.error().kind, ErrorKind::kInvalid);
  }
}

}  // namespace
}  // namespace tidepool::toolcalls
