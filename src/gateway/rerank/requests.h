// Requests to rank documents, in the shape that Jina, Cohere and vLLM share, checked and turned into the
// platform's. Pure: JSON in, request or Error out.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::rerank {

using openai::Json;

struct ParsedRerank {
  platform::RerankRequest request;
  int32_t top = 0;  // only so many of the best; 0: all
  bool return_documents = false;
  std::string instruction_field;  // where the instruction is in the client's request; empty: there is none
  std::vector<std::string> ignored;
};

Result<ParsedRerank> ParseRerank(const Json& body);
DialectRequest RerankDialect();
// Of a query or document that is an object.
std::span<const Field> TextFields();
Json RerankSchema();

}  // namespace tidepool::gateway::rerank
