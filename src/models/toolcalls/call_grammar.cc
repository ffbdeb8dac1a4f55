#include "models/toolcalls/call_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>

#include "models/grammar/json_schema.h"
#include "models/toolcalls/property_types.h"

namespace tidepool::toolcalls {
namespace {

using grammar::ExprId;
using grammar::RuleId;
using Json = nlohmann::ordered_json;

constexpr int kMaxGemmaSchemaDepth = 16;
constexpr int64_t kMaxGemmaItems = 1'000'000'000;

std::string JsonOf(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

class CallWriterRules {
 public:
  CallWriterRules(Format format, const CallRules& rules, grammar::Expressions& out)
      : format_(format), rules_(rules), out_(out) {}

  Result<ExprId> Run() {
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
      case Format::kGemma:
        return {"<start_function_call>", "<start_function_call>", "", U"<start_function_call>"};
      case Format::kQwenXml:
      case Format::kGlm: return {"", "\n", "", U"<tool_call>"};
      case Format::kDsml:
        if (rules_.newer_shape)
          return {"<｜DSML｜tool_calls>\n", "", "</｜DSML｜tool_calls>", U"<｜DSML｜tool_calls>"};
        return {"<｜DSML｜function_calls>\n", "", "</｜DSML｜function_calls>", U"<｜DSML｜function_calls>"};
      case Format::kKimi:
        return {"<|tool_calls_section_begin|>", "", "<|tool_calls_section_end|>",
                U"<|tool_calls_section_begin|>"};
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
    if (format_ == Format::kQwenXml || format_ == Format::kGlm || format_ == Format::kDsml)
      return TaggedCall(tool);
    if (format_ == Format::kGemma) return GemmaCall(tool);
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
      case Format::kKimi:
        return out_.Sequence({out_.Bytes("<|tool_call_begin|>functions." + name + ":"),
                              out_.Repeat(out_.OneOf({{'0', '9'}}), 1, 3),
                              out_.Bytes("<|tool_call_argument_begin|>"), arguments,
                              out_.Bytes("<|tool_call_end|>")});
      default:
        return wrapped(fmt::format("{{\"name\": {}, \"arguments\": ", JsonOf(name)), "}\n</tool_call>");
    }
  }

  // ---- calls that are not JSON

  tl::unexpected<Error> Refused(const std::string& place, std::string_view why) const {
    return Fail(ErrorKind::kInvalid, "unsupported_schema",
                fmt::format("{}: {} in this model's calls ({})", place, why, FormatName(format_)), place);
  }

  // A word of `schema` outside `words` and the annotations; "" where there is none.
  static std::string OtherWord(const Json& schema, std::initializer_list<std::string_view> words) {
    for (const auto& [word, value] : schema.items()) {
      if (std::find(words.begin(), words.end(), word) == words.end() && !IsAnnotation(word)) return word;
    }
    return "";
  }

  struct Parameter {
    std::string name, field;
    const Json* schema = nullptr;
    bool needed = false;
  };
  struct Parameters {
    std::vector<Parameter> listed;
    bool others = false;  // that are not listed may come too
  };
  // What a schema of an object says. A strict one that says more than this is refused.
  Result<Parameters> ParametersOf(const Json& said, const Json& root, const std::string& field,
                                  bool strict) const {
    const Json& schema = Referred(said, root);
    Parameters out;
    if (!schema.is_object()) {
      out.others = true;
      return out;
    }
    const auto properties = schema.find("properties"), required = schema.find("required");
    const auto additional = schema.find("additionalProperties");
    const bool closed = additional != schema.end() && *additional == false;
    const bool any = properties != schema.end() && properties->is_object() && !properties->empty();
    out.others = !strict && !closed && !any;
    const auto needs = [&](const std::string& name) {
      return required != schema.end() && required->is_array() &&
             std::find(required->begin(), required->end(), Json(name)) != required->end();
    };
    if (any) {
      for (const auto& [name, property] : properties->items()) {
        out.listed.push_back({name, fmt::format("{}/properties/{}", field, name), &property, needs(name)});
      }
    }
    if (!strict) return out;
    if (const std::string word =
            OtherWord(schema, {"type", "properties", "required", "additionalProperties"});
        !word.empty())
      return Refused(field + "/" + word, "cannot be enforced");
    if (const auto type = schema.find("type"); type != schema.end() && *type != "object")
      return Refused(field + "/type", "arguments can only be an object");
    if (additional != schema.end() && !closed)
      return Refused(field + "/additionalProperties", "must be false");
    if (required != schema.end()) {
      if (!required->is_array()) return Refused(field + "/required", "must be a list of names");
      for (const Json& name : *required) {
        if (!any || !name.is_string() || !properties->contains(name.get_ref<const std::string&>()))
          return Refused(field + "/required", "must name properties that are described");
      }
    }
    return out;
  }

  // With the definitions that its references lead to.
  static Json Whole(const Json& property, const Json& root) {
    Json whole = property;
    for (const char* definitions : {"$defs", "definitions"}) {
      if (whole.is_object() && root.is_object() && root.contains(definitions))
        whole[definitions] = root[definitions];
    }
    return whole;
  }

  // ---- qwen_xml, glm, dsml: values stand between tags, strings as they are, others as JSON

  struct Tags {
    std::string before_call, after_call_name, after_call;
    std::string before_name, after_name, after_value;
    std::vector<std::u32string_view> ends;  // where the parser ends a value
    std::string_view not_in_names;
  };
  Tags TagsOf() const {
    switch (format_) {
      case Format::kGlm: {
        const std::string line = rules_.newer_shape ? "" : "\n";
        return {"<tool_call>",
                line,
                "</tool_call>",
                "<arg_key>",
                "</arg_key>" + line + "<arg_value>",
                "</arg_value>" + line,
                {U"</arg_value>"},
                "<"};
      }
      case Format::kDsml:
        return {"<｜DSML｜invoke name=\"",    "\">\n", "</｜DSML｜invoke>\n",
                "<｜DSML｜parameter name=\"", "\" ",   "</｜DSML｜parameter>\n",
                {U"</｜DSML｜parameter>"},    "\""};
      default:
        return {"<tool_call>\n<function=",
                ">\n",
                "</function>\n</tool_call>",
                "<parameter=",
                ">\n",
                "\n</parameter>\n",
                {U"</parameter>", U"\n<parameter=", U"\n</function>"},
                ">"};
    }
  }

  ExprId TaggedText(const Tags& tags) {
    const ExprId text = out_.TextWithout(tags.ends);
    return format_ == Format::kDsml ? out_.Sequence({out_.Bytes("string=\"true\">"), text}) : text;
  }

  Result<ExprId> TaggedCall(const ConstrainedTool& tool) {
    const Tags tags = TagsOf();
    TP_ASSIGN(const Parameters parameters,
              ParametersOf(tool.tool.parameters, tool.tool.parameters, tool.field, tool.strict));
    std::vector<ExprId> parts{out_.Bytes(tags.before_call + tool.tool.name + tags.after_call_name)};
    const auto pair = [&](ExprId name, ExprId value) {
      return out_.Sequence({out_.Bytes(tags.before_name), name, out_.Bytes(tags.after_name), value,
                            out_.Bytes(tags.after_value)});
    };
    for (const Parameter& parameter : parameters.listed) {
      TP_ASSIGN(const ExprId value, TaggedValue(parameter, tool, tags));
      const ExprId whole = pair(out_.Bytes(parameter.name), value);
      parts.push_back(parameter.needed ? whole : out_.Optional(whole));
    }
    if (parameters.others) {
      const ExprId name =
          out_.Repeat(out_.OneOf({{'-', '.'}, {'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}), 1, 64);
      parts.push_back(out_.Repeat(pair(name, TaggedText(tags)), 0, grammar::kUnbounded));
    }
    parts.push_back(out_.Bytes(tags.after_call));
    return out_.Sequence(std::move(parts));
  }

  Result<ExprId> TaggedValue(const Parameter& parameter, const ConstrainedTool& tool, const Tags& tags) {
    const Json& schema = Referred(*parameter.schema, tool.tool.parameters);
    const std::string& name = parameter.name;
    if (tool.strict && (name.empty() || name.find_first_of(tags.not_in_names) != std::string::npos ||
                        std::isspace(static_cast<unsigned char>(name.front())) != 0 ||
                        std::isspace(static_cast<unsigned char>(name.back())) != 0))
      return Refused(parameter.field, "this name cannot be written");
    const bool plain = TypesOf(schema, tool.tool.parameters).only_string();
    const bool says_string = schema.is_object() && schema.value("type", Json()) == "string";
    // DSML says of each value whether it is JSON: what is more than a string can be.
    const bool json =
        format_ == Format::kDsml ? !says_string || !OtherWord(schema, {"type"}).empty() : !plain;
    if (json) {
      Result<ExprId> value = ParseJsonSchema(Whole(schema, tool.tool.parameters), parameter.field, out_);
      if (!value && !tool.strict) return TaggedText(tags);
      if (!value) return value;
      const ExprId guarded = WithoutTags(*value);
      return format_ == Format::kDsml ? out_.Sequence({out_.Bytes("string=\"false\">"), guarded}) : guarded;
    }
    const auto choices = schema.is_object() ? PlainChoices(schema) : std::vector<std::string>();
    if (tool.strict) TP_TRY(CheckPlain(schema, parameter.field, !choices.empty()));
    return choices.empty() ? TaggedText(tags) : out_.Strings(choices);
  }

  // The same JSON with every < in its strings written as \\u003c: no tag can stand in it.
  ExprId WithoutTags(ExprId json) {
    std::map<RuleId, RuleId> copies;
    std::vector<RuleId> waiting;  // not by recursion: rules may follow each other by the thousand
    const ExprId out = WithoutAngles(json, copies, waiting);
    while (!waiting.empty()) {
      const RuleId rule = waiting.back();
      waiting.pop_back();
      const ExprId body = WithoutAngles(out_.rules()[static_cast<size_t>(rule)], copies, waiting);
      out_.Define(copies.at(rule), body);
    }
    return out;
  }

  ExprId WithoutAngles(ExprId id, std::map<RuleId, RuleId>& copies, std::vector<RuleId>& waiting) {
    using Kind = grammar::Expr::Kind;
    static constexpr char kEscaped[] = "\\u003c";
    const grammar::Expr expr = out_.at(id);  // a copy: the arena grows
    switch (expr.kind) {
      case Kind::kNever:
      case Kind::kEmpty: return id;
      case Kind::kBytes: {
        if (expr.bytes.find('<') == std::string::npos) return id;
        std::string bytes;
        for (const char c : expr.bytes) bytes += c == '<' ? std::string(kEscaped) : std::string(1, c);
        return out_.Bytes(bytes);
      }
      case Kind::kOneOf: {
        const bool has = std::any_of(expr.ranges.begin(), expr.ranges.end(), [](const grammar::Range& range) {
          return range.first <= U'<' && U'<' <= range.last;
        });
        if (!has) return id;
        std::vector<grammar::Range> outside = grammar::Complement(expr.ranges);
        outside.push_back({U'<', U'<'});
        return out_.Choice({out_.OneOf(grammar::Complement(std::move(outside))), out_.Bytes(kEscaped)});
      }
      case Kind::kSequence:
      case Kind::kChoice: {
        std::vector<ExprId> children;
        for (const ExprId child : expr.children) children.push_back(WithoutAngles(child, copies, waiting));
        return expr.kind == Kind::kChoice ? out_.Choice(std::move(children))
                                          : out_.Sequence(std::move(children));
      }
      case Kind::kRepeat:
        return out_.Repeat(WithoutAngles(expr.children.front(), copies, waiting), expr.min, expr.max);
      case Kind::kRule: {
        const auto [copy, fresh] = copies.try_emplace(expr.rule, RuleId{0});
        if (fresh) {
          copy->second = out_.AddRule(out_.rule_name(expr.rule));
          waiting.push_back(expr.rule);
        }
        return out_.Rule(copy->second);
      }
    }
    return id;
  }

  // The strings of an enum or const; none: it has neither.
  static std::vector<std::string> PlainChoices(const Json& schema) {
    std::vector<std::string> choices;
    const auto add = [&](const Json& value) {
      if (value.is_string()) choices.push_back(value.get<std::string>());
    };
    const auto only = schema.find("const"), values = schema.find("enum");
    if (only != schema.end()) {
      add(*only);
    } else if (values != schema.end() && values->is_array()) {
      for (const Json& value : *values) add(value);
    }
    return choices;
  }

  // A strict schema of a string that is not written as JSON may say that it is one, and list it.
  Status CheckPlain(const Json& schema, const std::string& field, bool listed) const {
    if (schema == true) return {};
    if (!schema.is_object()) return Refused(field, "must be an object");
    const bool only = schema.contains("const");
    const std::string word =
        !listed ? OtherWord(schema, {"type"}) : OtherWord(schema, {"type", only ? "const" : "enum"});
    if (!word.empty()) return Refused(field + "/" + word, "cannot be enforced");
    return {};
  }

  // ---- gemma: call:f{key:<escape>text<escape>,n:1,list:[..],object:{..}}

  Result<ExprId> GemmaCall(const ConstrainedTool& tool) {
    TP_ASSIGN(const ExprId arguments,
              GemmaObject(tool.tool.parameters, tool.tool.parameters, tool.field, tool.strict, 0));
    return out_.Sequence(
        {out_.Bytes("call:" + tool.tool.name), arguments, out_.Bytes("<end_function_call>")});
  }

  Result<ExprId> GemmaObject(const Json& schema, const Json& root, const std::string& field, bool strict,
                             int depth) {
    TP_ASSIGN(const Parameters parameters, ParametersOf(schema, root, field, strict));
    if (parameters.others) return GemmaAny(true);
    std::vector<ExprId> pairs;
    for (const Parameter& parameter : parameters.listed) {
      if (parameter.name.empty() || parameter.name.find_first_of(":}<> \t\r\n") != std::string::npos)
        return Refused(parameter.field, "this name cannot be written");
      TP_ASSIGN(const ExprId value, GemmaValue(*parameter.schema, root, parameter.field, strict, depth + 1));
      pairs.push_back(out_.Sequence({out_.Bytes(parameter.name + ":"), value}));
    }
    // From the end: what may follow, with a comma before it and without.
    ExprId after = out_.Empty(), first = out_.Empty();
    for (size_t i = pairs.size(); i-- > 0;) {
      const ExprId begins = out_.Sequence({pairs[i], after});
      const ExprId follows = out_.Sequence({out_.Bytes(","), begins});
      const bool needed = parameters.listed[i].needed;
      const RuleId first_rule = out_.AddRule("first"), after_rule = out_.AddRule("after");
      out_.Define(first_rule, needed ? begins : out_.Choice({begins, first}));
      out_.Define(after_rule, needed ? follows : out_.Choice({follows, after}));
      first = out_.Rule(first_rule);
      after = out_.Rule(after_rule);
    }
    return out_.Sequence({out_.Bytes("{"), first, out_.Bytes("}")});
  }

  Result<ExprId> GemmaValue(const Json& said, const Json& root, const std::string& field, bool strict,
                            int depth) {
    const Json& schema = Referred(said, root);
    if (depth > kMaxGemmaSchemaDepth) {
      if (!strict) return GemmaAny(false);
      return Refused(field, "values nested so deep cannot be enforced");
    }
    if (!schema.is_object()) return GemmaAny(false);
    if (schema.contains("enum") || schema.contains("const")) {
      const Json values = schema.contains("const") ? Json::array({schema["const"]}) : schema["enum"];
      if (strict) {
        const std::string word = OtherWord(schema, {"type", schema.contains("const") ? "const" : "enum"});
        if (!word.empty()) return Refused(field + "/" + word, "cannot be enforced");
      }
      std::vector<std::string> choices;
      const PropertyTypes types = TypesOf(schema, root);
      for (const Json& value : values) {
        if (value.is_structured() || !Allows(types, value)) continue;
        choices.push_back(value.is_string() ? "<escape>" + value.get<std::string>() + "<escape>"
                                            : value.dump());
      }
      if (choices.empty() && strict)
        return Refused(field + "/enum", "must list strings, numbers, true, false or null");
      return choices.empty() ? GemmaAny(false) : Result<ExprId>(out_.Strings(std::move(choices)));
    }
    if (const auto options = schema.find("anyOf"); options != schema.end() && options->is_array()) {
      const std::string word = OtherWord(schema, {"anyOf"});
      if (strict && !word.empty()) return Refused(field + "/" + word, "cannot be enforced beside anyOf");
      std::vector<ExprId> choices;
      for (size_t i = 0; i < options->size(); ++i) {
        TP_ASSIGN(const ExprId choice,
                  GemmaValue((*options)[i], root, fmt::format("{}/anyOf/{}", field, i), strict, depth + 1));
        choices.push_back(choice);
      }
      return out_.Choice(std::move(choices));
    }
    return GemmaTyped(schema, root, field, strict, depth);
  }

  Result<ExprId> GemmaTyped(const Json& schema, const Json& root, const std::string& field, bool strict,
                            int depth) {
    const PropertyTypes types = TypesOf(schema, root);
    if (strict) {
      const std::string word = OtherWord(
          schema, {"type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
                   "properties", "required", "additionalProperties", "items", "minItems", "maxItems"});
      if (!word.empty()) return Refused(field + "/" + word, "cannot be enforced");
    }
    std::vector<ExprId> choices;
    if (types.string) choices.push_back(GemmaString());
    // As JSON has them.
    Json plain = Json::object();
    for (const auto& [name, has] : {std::pair("number", types.number), std::pair("integer", types.integer),
                                    std::pair("boolean", types.boolean), std::pair("null", types.null)}) {
      if (has) plain["type"].push_back(name);
    }
    if (!plain.empty()) {
      for (const char* word : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}) {
        if (schema.contains(word)) plain[word] = schema[word];
      }
      TP_ASSIGN(const ExprId scalar, ParseJsonSchema(plain, field, out_));
      choices.push_back(scalar);
    }
    if (types.object) {
      Json object = schema;
      object["type"] = "object";
      for (const char* word : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
                               "items", "minItems", "maxItems"})
        object.erase(word);
      TP_ASSIGN(const ExprId inner, GemmaObject(object, root, field, strict, depth));
      choices.push_back(inner);
    }
    if (types.array) {
      const auto count = [&](const char* word, int32_t otherwise) {
        const auto found = schema.find(word);
        const bool fits =
            found != schema.end() && found->is_number_integer() && *found >= 0 && *found <= kMaxGemmaItems;
        return fits ? found->get<int32_t>() : otherwise;
      };
      const int32_t least = count("minItems", 0), most = count("maxItems", grammar::kUnbounded);
      const auto items = schema.find("items");
      ExprId item = GemmaAny(false);
      if (items != schema.end()) {
        TP_ASSIGN(item, GemmaValue(*items, root, field + "/items", strict, depth + 1));
      }
      const ExprId more = out_.Sequence({out_.Bytes(","), item});
      const ExprId some =
          most == 0 ? out_.Never()
                    : out_.Sequence({item, out_.Repeat(more, std::max(0, least - 1),
                                                       most == grammar::kUnbounded ? most : most - 1)});
      choices.push_back(out_.Sequence(
          {out_.Bytes("["), least > 0 ? some : out_.Choice({out_.Empty(), some}), out_.Bytes("]")}));
    }
    return choices.empty() ? GemmaAny(false) : Result<ExprId>(out_.Choice(std::move(choices)));
  }

  static bool Allows(const PropertyTypes& types, const Json& value) {
    return value.is_string()           ? types.string
           : value.is_boolean()        ? types.boolean
           : value.is_null()           ? types.null
           : value.is_number_integer() ? types.integer || types.number
                                       : types.number;
  }

  ExprId GemmaString() {
    return out_.Sequence({out_.Bytes("<escape>"), out_.TextWithout(U"<escape>"), out_.Bytes("<escape>")});
  }

  // Any object, or any value.
  ExprId GemmaAny(bool object) {
    if (!gemma_object_) {
      gemma_object_ = out_.AddRule("object");
      gemma_value_ = out_.AddRule("value");
      const ExprId value = out_.Rule(*gemma_value_);
      const auto list = [&](const char* open, ExprId item, const char* close) {
        const ExprId more = out_.Repeat(out_.Sequence({out_.Bytes(","), item}), 0, grammar::kUnbounded);
        return out_.Sequence(
            {out_.Bytes(open), out_.Optional(out_.Sequence({item, more})), out_.Bytes(close)});
      };
      const ExprId name = out_.Repeat(out_.OneOf({{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}), 1, 64);
      out_.Define(*gemma_object_, list("{", out_.Sequence({name, out_.Bytes(":"), value}), "}"));
      const ExprId scalar =
          *ParseJsonSchema(Json{{"type", Json::array({"number", "boolean", "null"})}}, "", out_);
      out_.Define(*gemma_value_,
                  out_.Choice({GemmaString(), scalar, out_.Rule(*gemma_object_), list("[", value, "]")}));
    }
    return out_.Rule(object ? *gemma_object_ : *gemma_value_);
  }

  std::optional<grammar::RuleId> gemma_object_, gemma_value_;
  const Format format_;
  const CallRules& rules_;
  grammar::Expressions& out_;
};

}  // namespace

Result<ExprId> CallGrammar(Format format, const CallRules& rules, grammar::Expressions& out) {
  return CallWriterRules(format, rules, out).Run();
}

bool IsNewerShape(Format format, std::string_view source) {
  const auto has = [&](std::string_view text) { return source.find(text) != std::string_view::npos; };
  switch (format) {
    case Format::kMistral: return has("[ARGS]");
    case Format::kDeepSeek: return !has("```json");
    case Format::kGlm: return !has("<tool_call>{function-name}\n");
    case Format::kDsml: return !has("function_calls");
    default: return false;
  }
}

}  // namespace tidepool::toolcalls
