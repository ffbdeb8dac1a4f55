// The request bodies of Bailian's native interface (DashScope): {"model", "input", "parameters"}, checked and
// turned into the platform's requests. Pure: JSON in, request or Error out.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/requests.h"
#include "gateway/rerank/requests.h"

namespace tidepool::gateway::bailian {

using openai::Json;

struct ParsedGeneration {
  openai::ParsedChat chat;      // its reply.stream is the caller's to set: a header says it
  bool message_format = false;  // output.choices[].message; else output.text
  bool incremental = false;     // each event has what is new; else all so far
};
struct ParsedEmbedding {
  platform::EmbeddingRequest request;
  int32_t dimensions = 0;  // 0: all
  std::vector<std::string> ignored;
};

Result<ParsedGeneration> ParseGeneration(const Json& body);
Result<ParsedEmbedding> ParseEmbedding(const Json& body);
Result<rerank::ParsedRerank> ParseRerank(const Json& body);

DialectRequest GenerationDialect();
DialectRequest EmbeddingDialect();
DialectRequest RerankDialect();

Json GenerationSchema();
Json EmbeddingSchema();
Json RerankSchema();

}  // namespace tidepool::gateway::bailian
