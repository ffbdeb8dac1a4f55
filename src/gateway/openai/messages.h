// Checks the `messages` of a chat request.
#pragma once

#include "base/result.h"
#include "gateway/openai/fields.h"

namespace tidepool::gateway::openai {

// Returns the messages as the platform takes them: "developer" becomes "system" (templates do not know it),
// the rest is unchanged. Errors name the place: "messages[2].content[0].type".
Result<Json> ReadMessages(const Json& messages);

}  // namespace tidepool::gateway::openai
