#include "gateway/dialects.h"

#include <fmt/format.h>

#include <map>

#include "gateway/anthropic/requests.h"
#include "gateway/bailian/requests.h"
#include "gateway/ollama/requests.h"
#include "gateway/openai/requests.h"
#include "gateway/rerank/requests.h"
#include "gateway/responses/requests.h"

namespace tidepool::gateway {
namespace {

constexpr std::string_view kIntroduction = R"(# Fields of the dialects

Generated from the tables that the decoders check requests with; `gateway_dialects_test` compares, and tries every field.

- *read*: has its effect. A value of a wrong type or out of range is a 400 that names the field with its path (`messages[2].name`).
- *accepted*: needs no effect: what it asks for is so anyway, or it comes back as this server sent it. Its type is checked.
- *template*: shown to the model's chat template as it is. Read, if the template's text has its name; else ignored.
- *refused*: would change the answer and is not supported: a 400 that names the field, unless its value asks for nothing.
- *ignored*: has no effect, and the reply's header `Tidepool-Ignored` names it (`messages[].name`; each once, 20 of them at most).
  So it is with fields that are not listed, save members of messages where a chat template sees these as they are: those are *template*.

A null is no value. What is within a JSON schema, `chat_template_kwargs`, `logit_bias`, `metadata` and a tool call's arguments is the
client's own.

The answers' shapes are in [api/openapi.json](../api/openapi.json).
)";

// Within a table's cell.
std::string Cell(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

std::string_view TreatmentName(Treatment treatment) {
  switch (treatment) {
    case Treatment::kRead: return "read";
    case Treatment::kAccepted: return "accepted";
    case Treatment::kTemplate: return "template";
    case Treatment::kIgnored: return "ignored";
    case Treatment::kRefused: return "refused";
  }
  return "read";
}

}  // namespace

std::span<const DialectRequest> DialectRequests() {
  static const std::vector<DialectRequest> kRequests = {
      openai::ChatDialect(),           openai::CompletionDialect(),  openai::EmbeddingDialect(),
      openai::TokenizeDialect(),       openai::DetokenizeDialect(),  anthropic::MessagesDialect(),
      anthropic::CountTokensDialect(), responses::ResponseDialect(), rerank::RerankDialect(),
      ollama::ChatDialect(),           ollama::GenerateDialect(),    ollama::EmbedDialect(),
      ollama::EmbeddingsDialect(),     ollama::NameDialect(),        bailian::GenerationDialect(),
      bailian::EmbeddingDialect(),     bailian::RerankDialect(),
  };
  return kRequests;
}

std::string DialectsDocument() {
  std::string out(kIntroduction);
  std::map<const Field*, std::string> written;  // tables within requests, by where they are written
  for (const DialectRequest& request : DialectRequests()) {
    out += fmt::format("\n## {}\n\n`{}`\n", request.dialect, request.paths);
    if (!request.notes.empty()) out += fmt::format("\n{}\n", request.notes);
    for (const FieldTable& table : request.tables) {
      if (!table.place.empty()) {
        const std::string title = fmt::format(
            "`{}`{}", table.place, table.kind.empty() ? std::string() : fmt::format(", {}", table.kind));
        out += fmt::format("\n### {}\n", title);
        const auto [known, added] =
            written.emplace(table.fields.data(), fmt::format("{} of {}", title, request.dialect));
        if (!added) {
          out += fmt::format("\nAs {}.\n", known->second);
          continue;
        }
      }
      out += "\n| field | | |\n|---|---|---|\n";
      for (const Field& field : table.fields) {
        out +=
            fmt::format("| `{}` | {} | {} |\n", field.name, TreatmentName(field.treatment), Cell(field.help));
      }
    }
  }
  return out;
}

}  // namespace tidepool::gateway
