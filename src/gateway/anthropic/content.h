// The `system` and `messages` of Anthropic's requests.
#pragma once

#include <string>
#include <vector>

#include "gateway/dialects.h"

namespace tidepool::gateway::anthropic {

struct ReadContent {
  Json messages = Json::array();  // as platform::ChatRequest has them
  bool continues = false;         // the last message is the assistant's: the answer goes on there
  std::vector<std::string> ignored;
};

// `system`: a string, text blocks or nullptr. Tool results become messages of their own before the text of
// their turn, thinking becomes reasoning_content, turns of the user that follow each other become one. Every
// call has its result in the next turn, and every result its call before. Errors name the place:
// "messages[2].content[0].tool_use_id".
Result<ReadContent> ReadMessages(const Json* system, const Json& messages);

// What is within the cache_control of an object whose table lists it.
Status CheckCacheControl(const FieldReader& reader, std::vector<std::string>& ignored);

// The tables of the objects within system, messages and cache_control.
std::vector<FieldTable> ContentTables();

}  // namespace tidepool::gateway::anthropic
