#include "models/toolcalls/call_grammar.h"

#include <fmt/format.h>

#include <algorithm>

#include "models/grammar/json_schema.h"

namespace tidepool::toolcalls {
namespace {

using grammar::ExprId;
using Json = nlohmann::ordered_json;

std::string JsonOf(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

class CallWriterRules {
 public:
  CallWriterRules(Format format, const CallRules& rules, grammar::Expressions& out)
      : format_(format), rules_(rules), out_(out) {}

  Result<ExprId> Run() {
    if (format_ == Format::kGemma) {
      return Fail(
          ErrorKind::kInvalid, "unsupported_parameter",
          "this model's calls (gemma) cannot be constrained; use tool_choice auto without strict tools and "
          "with parallel calls",
          "tool_choice");
    }
    std::vector<ExprId> calls;
    for (const ConstrainedTool& tool : rules_.tools) {
      TP_ASSIGN(const ExprId call, OneCall(tool));
      calls.push_back(call);
    }
    const ExprId call = out_.Choice(std::move(calls));
    const Shape shape = ShapeOf();
    const ExprId more = out_.Sequence({out_.Bytes(shape.between), call});
    const ExprId all = out_.Sequence({out_.Bytes(shape.open), call,
                                      out_.Repeat(more, 0, rules_.parallel ? grammar::kUnbounded : 0),
                                      out_.Bytes(shape.close)});
    if (rules_.required) return all;
    if (rules_.answer) return out_.Choice({*rules_.answer, all});
    // Llama's calls have no tag that text could be told apart by: the answer is calls or begins otherwise.
    if (format_ == Format::kLlama3) {
      const ExprId other =
          out_.OneOf(grammar::Complement({{'{', '{'}, {'<', '<'}, {' ', ' '}, {'\t', '\r'}}));
      const ExprId any = out_.Repeat(out_.OneOf({{0, 0x10FFFF}}), 0, grammar::kUnbounded);
      return out_.Choice({all, out_.Sequence({other, any})});
    }
    const ExprId text = out_.TextWithout(shape.tag);
    return out_.Sequence({text, out_.Optional(all)});
  }

 private:
  struct Shape {
    std::string open, between, close;
    std::u32string tag;  // where a call begins
  };
  Shape ShapeOf() const {
    switch (format_) {
      case Format::kLlama3: return {"", "; ", "", U""};
      case Format::kMistral:
        if (rules_.newer_shape) return {"[TOOL_CALLS]", "[TOOL_CALLS]", "", U"[TOOL_CALLS]"};
        return {"[TOOL_CALLS][", ", ", "]", U"[TOOL_CALLS]"};
      case Format::kDeepSeek:
        return {"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>",
                rules_.newer_shape ? "<｜tool▁call▁begin｜>" : "\n<｜tool▁call▁begin｜>",
                "<｜tool▁calls▁end｜>", U"<｜tool▁calls▁begin｜>"};
      default: return {"<tool_call>\n", "\n<tool_call>\n", "", U"<tool_call>"};
    }
  }

  Result<ExprId> Arguments(const ConstrainedTool& tool) {
    Json schema = tool.tool.parameters;
    if (!schema.is_object() || schema.empty()) return grammar::AnyJsonObject(out_);
    // Arguments are an object, whatever the schema forgot to say.
    if (!schema.contains("type") && !schema.contains("$ref") && !schema.contains("anyOf"))
      schema["type"] = "object";
    Result<ExprId> arguments = ParseJsonSchema(schema, tool.field, out_);
    if (!arguments && !tool.strict) return grammar::AnyJsonObject(out_);
    return arguments;
  }

  Result<ExprId> OneCall(const ConstrainedTool& tool) {
    if (format_ == Format::kQwenXml) return XmlCall(tool);
    TP_ASSIGN(const ExprId arguments, Arguments(tool));
    const std::string& name = tool.tool.name;
    const auto wrapped = [&](const std::string& before, const std::string& after) {
      return out_.Sequence({out_.Bytes(before), arguments, out_.Bytes(after)});
    };
    switch (format_) {
      case Format::kLlama3:
        return wrapped(fmt::format("{{\"name\": {}, \"parameters\": ", JsonOf(name)), "}");
      case Format::kMistral:
        if (rules_.newer_shape) return wrapped(name + "[ARGS]", "");
        return wrapped(fmt::format("{{\"name\": {}, \"arguments\": ", JsonOf(name)), "}");
      case Format::kDeepSeek:
        if (rules_.newer_shape) return wrapped(name + "<｜tool▁sep｜>", "<｜tool▁call▁end｜>");
        return wrapped("function<｜tool▁sep｜>" + name + "\n```json\n", "\n```<｜tool▁call▁end｜>");
      default:
        return wrapped(fmt::format("{{\"name\": {}, \"arguments\": ", JsonOf(name)), "}\n</tool_call>");
    }
  }

  // Values stand between tags: strings as they are, others as JSON.
  Result<ExprId> XmlCall(const ConstrainedTool& tool) {
    const Json& schema = tool.tool.parameters;
    std::vector<ExprId> parts{out_.Bytes("<function=" + tool.tool.name + ">\n")};
    const Json properties = schema.is_object() ? schema.value("properties", Json::object()) : Json::object();
    const Json required = schema.is_object() ? schema.value("required", Json::array()) : Json::array();
    if (tool.strict && schema.is_object() && schema.value("additionalProperties", Json(false)) != false) {
      return Fail(
          ErrorKind::kInvalid, "unsupported_schema",
          fmt::format("{}/additionalProperties: must be false for this model's calls (qwen_xml)", tool.field),
          tool.field + "/additionalProperties");
    }
    for (const auto& [name, property] : properties.items()) {
      TP_ASSIGN(const ExprId value,
                XmlValue(property, fmt::format("{}/properties/{}", tool.field, name), tool.strict, schema));
      const ExprId parameter =
          out_.Sequence({out_.Bytes("<parameter=" + name + ">\n"), value, out_.Bytes("\n</parameter>\n")});
      const bool needed =
          required.is_array() && std::find(required.begin(), required.end(), Json(name)) != required.end();
      parts.push_back(needed ? parameter : out_.Optional(parameter));
    }
    parts.push_back(out_.Bytes("</function>\n</tool_call>"));
    return out_.Sequence(std::move(parts));
  }

  Result<ExprId> XmlValue(const Json& property, const std::string& field, bool strict, const Json& root) {
    const auto text = [&] { return out_.TextWithout(U"\n</parameter>"); };
    if (!property.is_object() || property.empty() || !property.contains("type") ||
        property["type"] == "string") {
      if (property.is_object() && property.contains("enum") && property["enum"].is_array()) {
        std::vector<std::string> choices;
        for (const Json& value : property["enum"]) {
          if (value.is_string()) choices.push_back(value.get<std::string>());
        }
        if (!choices.empty()) return out_.Strings(std::move(choices));
      }
      for (const char* word :
           {"minLength", "maxLength", "pattern", "format", "const", "anyOf", "oneOf", "allOf", "$ref"}) {
        if (strict && property.is_object() && property.contains(word)) {
          return Fail(ErrorKind::kInvalid, "unsupported_schema",
                      fmt::format("{}/{}: cannot be enforced in this model's calls (qwen_xml)", field, word),
                      field + "/" + word);
        }
      }
      return text();
    }
    Json whole = property;
    for (const char* definitions : {"$defs", "definitions"}) {
      if (root.contains(definitions)) whole[definitions] = root[definitions];
    }
    Result<ExprId> value = ParseJsonSchema(whole, field, out_);
    if (!value && !strict) return text();
    return value;
  }

  const Format format_;
  const CallRules& rules_;
  grammar::Expressions& out_;
};

}  // namespace

Result<ExprId> CallGrammar(Format format, const CallRules& rules, grammar::Expressions& out) {
  return CallWriterRules(format, rules, out).Run();
}

}  // namespace tidepool::toolcalls
