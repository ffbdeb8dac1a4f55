// The bodies of POST /v1/responses, checked and turned into the platform's request. Pure: JSON in, request or
// Error out.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::responses {

struct ParsedResponse {
  platform::ChatRequest request;  // without messages: they also need the items before (CompleteRequest)
  Json input;                     // this request's items
  std::string instructions;
  std::string previous;  // previous_response_id; empty: none
  Json shown;            // the fields of the response object that repeat the request
  bool stream = false, store = true, background = false;
  bool says_store = false;  // the client said it; else it is the default
  bool truncate = false;    // truncation: auto
  bool logprobs = false;
  bool summary = false;  // reasoning is shown as a summary
  std::vector<std::string> ignored;
};

Result<ParsedResponse> ParseResponse(const Json& body);
// Fills in the messages: instructions, the items before, this request's.
Status CompleteRequest(ParsedResponse& parsed, const Json& before);

Json ResponseSchema();
DialectRequest ResponseDialect();

}  // namespace tidepool::gateway::responses
