#include "platform/inference/constraints.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "models/grammar/gbnf.h"
#include "models/grammar/json_schema.h"
#include "models/grammar/regex.h"
#include "models/toolcalls/call_grammar.h"

namespace tidepool::platform {
namespace {

using grammar::Expressions;
using grammar::ExprId;
using Json = nlohmann::ordered_json;

constexpr size_t kMaxSchemaBytes = 512 << 10;
constexpr size_t kMaxTextBytes = 256 << 10;
constexpr size_t kMaxVocabularies = 8;

std::string Dumped(const Json& value) { return value.dump(-1, ' ', false, Json::error_handler_t::replace); }

tl::unexpected<Error> TooLong(const std::string& param, size_t bytes, size_t most) {
  return Fail(ErrorKind::kInvalid, "schema_too_large",
              fmt::format("{} has {} bytes; at most {} are possible", param, bytes, most), param);
}

// Errors of the front ends name no field of the request.
Error Named(Error error, const std::string& param) {
  if (error.param.empty()) {
    error.param = param;
    error.message = fmt::format("{}: {}", param, error.message);
  }
  return error;
}

Result<ExprId> OutputExpression(const OutputFormat& output, Expressions& out) {
  using Kind = OutputFormat::Kind;
  Result<ExprId> made = out.Empty();
  switch (output.kind) {
    case Kind::kText: break;
    case Kind::kJsonObject: made = AnyJsonObject(out); break;
    case Kind::kJsonSchema: made = ParseJsonSchema(output.schema, output.param, out); break;
    case Kind::kRegex: made = ParseRegex(output.text, grammar::RegexUse::kText, out); break;
    case Kind::kGrammar: made = ParseGbnf(output.text, out); break;
    case Kind::kChoice: made = out.Strings(output.choices); break;
  }
  if (!made) return Fail(Named(made.error(), output.param));
  return made;
}

std::string KeyOf(const OutputFormat& output) {
  std::string key = fmt::format("{} {} ", static_cast<int>(output.kind), output.param);
  if (output.kind == OutputFormat::Kind::kJsonSchema) key += Dumped(output.schema);
  key += output.text;
  for (const std::string& choice : output.choices) key += fmt::format("{}:{}", choice.size(), choice);
  return key;
}

Status CheckSize(const OutputFormat& output) {
  if (output.kind == OutputFormat::Kind::kJsonSchema) {
    const size_t bytes = Dumped(output.schema).size();
    if (bytes > kMaxSchemaBytes) return TooLong(output.param, bytes, kMaxSchemaBytes);
  }
  size_t bytes = output.text.size();
  for (const std::string& choice : output.choices) bytes += choice.size();
  if (bytes > kMaxTextBytes) return TooLong(output.param, bytes, kMaxTextBytes);
  return {};
}

Result<std::shared_ptr<grammar::CompiledGrammar>> Finish(
    const Expressions& expressions, ExprId root, const std::shared_ptr<const grammar::TokenTrie>& trie,
    const std::string& param) {
  auto program = Compile(expressions, root);
  if (!program) return Fail(Named(program.error(), param));
  auto made = grammar::CompiledGrammar::Make(std::move(*program), trie);
  if (!made) return Fail(Named(made.error(), param));
  return made;
}

bool IsStrict(const Json& tool) { return tool["function"].value("strict", Json()) == true; }

}  // namespace

Constraints::Constraints(uint64_t cache_bytes, MetricsRegistry& metrics) : cache_(cache_bytes) {
  compiled_ = metrics.counter("tidepool_grammar_compiled_total", "Schemas and grammars compiled");
  reused_ = metrics.counter("tidepool_grammar_reused_total", "Requests whose grammar was compiled already");
  cache_bytes_ = metrics.gauge("tidepool_grammar_cache_bytes", "Memory of compiled grammars and their masks");
  compile_s_ = metrics.histogram("tidepool_grammar_compile_seconds", "Time to compile one", LatencyBounds());
}

Result<std::shared_ptr<grammar::CompiledGrammar>> Constraints::Cached(const std::string& key,
                                                                      const Make& make) {
  bool made = false;
  auto found = cache_.Get(key, [&] {
    made = true;
    const auto began = std::chrono::steady_clock::now();
    auto result = make();
    compile_s_.Observe(std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count());
    return result;
  });
  (made ? compiled_ : reused_).Increment();
  cache_bytes_.Set(static_cast<double>(cache_.counts().bytes));
  return found;
}

std::shared_ptr<const grammar::TokenTrie> Constraints::TrieOf(const ModelAssets& assets,
                                                              std::span<const std::string_view> tags) {
  std::string joined;
  for (const std::string_view tag : tags) joined.append(tag).push_back('\n');
  std::lock_guard lock(mutex_);
  const auto found = std::find_if(vocabularies_.begin(), vocabularies_.end(), [&](const Vocabulary& v) {
    return v.tokenizer == assets.tokenizer && v.tags == joined;
  });
  if (found != vocabularies_.end()) {
    vocabularies_.splice(vocabularies_.begin(), vocabularies_, found);
    return vocabularies_.front().trie;
  }
  std::vector<int32_t> visible;
  for (const std::string_view tag : tags) {
    const auto tokens = assets.tokenizer->Encode(tag, {.add_special = false, .parse_special = true});
    if (tokens.size() == 1 && assets.tokenizer->IsControl(tokens[0])) visible.push_back(tokens[0]);
  }
  vocabularies_.push_front({assets.tokenizer, joined, grammar::TokenTrie::Build(*assets.tokenizer, visible)});
  if (vocabularies_.size() > kMaxVocabularies) vocabularies_.pop_back();
  return vocabularies_.front().trie;
}

Result<compute::Constraint> Constraints::OfOutput(const ModelAssets& assets, const OutputFormat& output) {
  compute::Constraint constraint;
  if (output.kind == OutputFormat::Kind::kText) return constraint;
  TP_TRY(CheckSize(output));
  const auto trie = TrieOf(assets, {});
  const std::string key = fmt::format("{} {}", static_cast<const void*>(trie.get()), KeyOf(output));
  TP_ASSIGN(constraint.grammar, Cached(key, [&]() -> Result<std::shared_ptr<grammar::CompiledGrammar>> {
              Expressions expressions;
              TP_ASSIGN(const ExprId root, OutputExpression(output, expressions));
              return Finish(expressions, root, trie, output.param);
            }));
  return constraint;
}

Result<compute::Constraint> Constraints::OfTools(const ModelAssets& assets, const ChatRequest& request,
                                                 toolcalls::Format format) {
  compute::Constraint constraint;
  const OutputFormat& output = request.sampling.output;
  const bool required =
      request.tool_choice == ToolChoice::kRequired || request.tool_choice == ToolChoice::kNamed;
  const bool strict = std::any_of(request.tools.begin(), request.tools.end(), IsStrict);
  const bool formatted = output.kind != OutputFormat::Kind::kText;
  if (!required && !strict && !formatted && request.parallel_tool_calls) return constraint;
  TP_TRY(CheckSize(output));

  const auto trie = TrieOf(assets, toolcalls::FormatTags(format));
  const std::string key =
      fmt::format("{} tools {} {} {} {} {} {}", static_cast<const void*>(trie.get()),
                  static_cast<int>(format), static_cast<int>(request.tool_choice), request.tool_name,
                  request.parallel_tool_calls, Dumped(request.tools), KeyOf(output));
  TP_ASSIGN(constraint.grammar, Cached(key, [&]() -> Result<std::shared_ptr<grammar::CompiledGrammar>> {
              Expressions expressions;
              toolcalls::CallRules rules;
              rules.parallel = request.parallel_tool_calls;
              rules.required = required;
              const std::string& source = assets.chat_template->source();
              rules.newer_shape = toolcalls::IsNewerShape(format, source);
              for (size_t i = 0; i < request.tools.size(); ++i) {
                const Json& tool = request.tools[i];
                const Json& function = tool["function"];
                if (request.tool_choice == ToolChoice::kNamed && function["name"] != request.tool_name)
                  continue;
                rules.tools.push_back({.tool = {function["name"].get<std::string>(),
                                                function.value("parameters", Json::object())},
                                       .field = fmt::format("tools[{}].function.parameters", i),
                                       .strict = IsStrict(tool)});
              }
              if (formatted && !required) {
                TP_ASSIGN(rules.answer, OutputExpression(output, expressions));
              }
              TP_ASSIGN(const ExprId root, CallGrammar(format, rules, expressions));
              return Finish(expressions, root, trie, "tools");
            }));
  return constraint;
}

}  // namespace tidepool::platform
