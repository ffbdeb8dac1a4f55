#include "gateway/rerank/requests.h"

#include <fmt/format.h>

#include "gateway/openai/sampling_fields.h"

namespace tidepool::gateway::rerank {
namespace {

using enum openai::FieldType;
using enum openai::Treatment;
using openai::BadField;
using openai::Field;
using openai::FieldReader;
using openai::IsEmptyOrFalse;
using openai::Shown;

constexpr size_t kMaxDocuments = 2048;
constexpr double kMaxInteger = 2147483647;

const std::vector<Field>& RerankFields() {
  static const std::vector<Field> kFields = {
      {"model", kString, kRead, "The id of a model that ranks, as GET /v1/models lists it"},
      {"query", kAny, kRead, "What is looked for: a string or {\"text\": ...}"},
      {"documents", kArray, kRead, "Strings or {\"text\": ...}, at most 2048; what is too long is cut"},
      {"top_n", kInteger, kRead, "Only so many of the best", 1, kMaxInteger},
      {"return_documents", kBoolean, kRead, "Results hold their documents; default false"},
      {"max_tokens_per_doc", kInteger, kRead, "Longer documents are cut", 1, kMaxInteger},
      {"instruction", kString, kRead,
       "What relevant means, of models that read it (Qwen3-Reranker); of others ignored"},
      {"instruct", kString, kRead, "Bailian's name of instruction"},
      {"rank_fields", kAny, kRefused, "documents have one text", 0, 0, false, IsEmptyOrFalse},
      {"return_embeddings", kAny, kRefused, "use /v1/embeddings", 0, 0, false, IsEmptyOrFalse},
      {"max_chunks_per_doc", kAny, kIgnored, "documents are cut, not chunked"},
      {"truncation", kAny, kIgnored, "documents that are too long are always cut"},
      {"priority", kAny, kIgnored, ""},
      {"user", kAny, kIgnored, ""},
  };
  return kFields;
}

constexpr Field kTextFields[] = {
    {"text", kString, kRead, "The text"},
    {"image", kAny, kRefused, "the models served here read text"},
};

Result<std::string> ReadText(const Json& value, const std::string& place, std::vector<std::string>& ignored) {
  if (value.is_string()) return value.get<std::string>();
  std::optional<std::string> text;
  if (value.is_object()) {
    FieldReader reader(value, kTextFields, place);
    TP_TRY(openai::CheckFields(reader, ignored));
    text = reader.String("text");
  }
  if (text) return *std::move(text);
  return Fail(BadField(
      place, fmt::format("{} must be a string or {{\"text\": \"...\"}}, not {}.", place, Shown(value)),
      "invalid_type"));
}

}  // namespace

Result<ParsedRerank> ParseRerank(const Json& body) {
  FieldReader reader(body, RerankFields());
  TP_TRY(reader.Check());
  ParsedRerank parsed;
  parsed.ignored = reader.ignored();
  TP_ASSIGN(parsed.request.model, ReadModelName(reader));
  const Json* query = reader.Find("query");
  if (query == nullptr) return Fail(BadField("query", "query is missing.", "missing_field"));
  TP_ASSIGN(parsed.request.query, ReadText(*query, "query", parsed.ignored));
  if (parsed.request.query.empty()) return Fail(BadField("query", "query is empty."));
  const Json* documents = reader.Find("documents");
  if (documents == nullptr) return Fail(BadField("documents", "documents is missing.", "missing_field"));
  if (documents->empty() || documents->size() > kMaxDocuments) {
    return Fail(BadField("documents", fmt::format("documents must hold 1 to {} texts, not {}.", kMaxDocuments,
                                                  documents->size())));
  }
  for (size_t i = 0; i < documents->size(); ++i) {
    TP_ASSIGN(std::string text, ReadText((*documents)[i], fmt::format("documents[{}]", i), parsed.ignored));
    parsed.request.documents.push_back(std::move(text));
  }
  parsed.top = static_cast<int32_t>(reader.Integer("top_n").value_or(0));
  parsed.return_documents = reader.Boolean("return_documents").value_or(false);
  parsed.request.max_document_tokens = static_cast<int32_t>(reader.Integer("max_tokens_per_doc").value_or(0));
  for (const char* name : {"instruct", "instruction"}) {
    auto instruction = reader.String(name).value_or("");
    if (instruction.empty()) continue;
    parsed.request.instruction = std::move(instruction);
    parsed.instruction_field = name;
  }
  return parsed;
}

std::span<const Field> TextFields() { return kTextFields; }

DialectRequest RerankDialect() {
  constexpr std::string_view kExample = R"({"model":"m","query":{"text":"x"},"documents":[{"text":"y"}]})";
  return {"Rerank (Jina, Cohere, vLLM)",
          "POST /v1/rerank, POST /v2/rerank, POST /rerank, POST /compatible-api/v1/reranks",
          R"({"model":"m","query":"x","documents":["y"]})",
          {{"", "", "", "", RerankFields()},
           {"query", "", kExample, "/query", kTextFields},
           {"documents[]", "", kExample, "/documents/0", kTextFields}},
          [](const Json& body) -> Result<std::vector<std::string>> {
            TP_ASSIGN(const ParsedRerank parsed, ParseRerank(body));
            return parsed.ignored;
          }};
}

Json RerankSchema() { return openai::SchemaOf(RerankFields(), {"model", "query", "documents"}); }

}  // namespace tidepool::gateway::rerank
