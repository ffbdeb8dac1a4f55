// Anthropic's request bodies, checked and turned into the platform's request. Pure: JSON in, request or Error
// out.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::anthropic {

struct ParsedMessages {
  platform::ChatRequest request;
  bool stream = false;
  bool hide_thinking = false;  // thinking.display: omitted
  std::vector<std::string> ignored;
};

Result<ParsedMessages> ParseMessages(const Json& body);
// The same without what concerns the answer: only the prompt counts.
Result<ParsedMessages> ParseCountTokens(const Json& body);

Json MessagesSchema();
Json CountTokensSchema();
DialectRequest MessagesDialect();
DialectRequest CountTokensDialect();

}  // namespace tidepool::gateway::anthropic
