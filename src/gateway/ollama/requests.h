// Ollama's request bodies, checked and turned into the platform's requests. Pure: JSON in, request or Error
// out.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/requests.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::ollama {

using openai::Json;

// How long a model stays in memory after this request: seconds; below 0: for ever; not given: as it is.
using KeepAlive = std::optional<double>;

struct ParsedChat {
  platform::ChatRequest request;
  openai::ReplyOptions reply;
  KeepAlive keep_alive;
  bool load_only = false;  // no messages: the model is loaded, or with keep_alive 0 unloaded
};
struct ParsedGenerate {
  bool raw = false;            // the prompt is a whole template: `completion`, else `chat`
  platform::ChatRequest chat;  // model is always set
  platform::CompletionRequest completion;
  openai::ReplyOptions reply;
  KeepAlive keep_alive;
  bool load_only = false;
};
struct ParsedEmbed {
  platform::EmbeddingRequest request;  // without inputs: load only
  int32_t dimensions = 0;              // 0: all
  Instruction instruction;
  KeepAlive keep_alive;
  std::vector<std::string> ignored;
};
// show, pull, delete: {"model"} or the older {"name"}.
struct ParsedName {
  std::string model;
  bool stream = true;
  std::vector<std::string> ignored;
};

Result<ParsedChat> ParseChat(const Json& body);
Result<ParsedGenerate> ParseGenerate(const Json& body);
Result<ParsedEmbed> ParseEmbed(const Json& body);       // /api/embed
Result<ParsedEmbed> ParseEmbeddings(const Json& body);  // /api/embeddings, older: one prompt
Result<ParsedName> ParseName(const Json& body);

// "5m", "1h30m", "300ms", 300 (seconds), -1: as Go's time.ParseDuration.
Result<double> ParseDuration(const Json& value, std::string_view name);

DialectRequest ChatDialect();
DialectRequest GenerateDialect();
DialectRequest EmbedDialect();
DialectRequest EmbeddingsDialect();
DialectRequest NameDialect();

Json ChatSchema();
Json GenerateSchema();
Json EmbedSchema();
Json EmbeddingsSchema();
Json NameSchema();

}  // namespace tidepool::gateway::ollama
