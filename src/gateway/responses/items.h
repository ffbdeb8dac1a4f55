// The items of the Responses dialect: what goes into a response, and what comes out of it and goes into the
// next one.
#pragma once

#include <string>
#include <vector>

#include "gateway/dialects.h"

namespace tidepool::gateway::responses {

// `input`, checked: a string becomes a message, and items without an id get one. Errors name the place:
// "input[2].content[0].type".
Result<Json> ReadInput(const Json& input, std::vector<std::string>& ignored);

// Items that ReadInput gave, and outputs of earlier responses, as the messages of a platform::ChatRequest.
// `own`: where in them this request's input begins, for errors. Reasoning, text and calls that follow each
// other are one turn; every call has its output in the next, and every output its call.
Result<Json> MessagesOf(const Json& items, size_t own);

std::vector<FieldTable> ItemTables();

}  // namespace tidepool::gateway::responses
