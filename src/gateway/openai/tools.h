// `tools`, `tool_choice` and what goes with them.
#pragma once

#include "base/result.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

// After FieldReader::Check. Errors name the place: "tools[1].function.name".
Status ReadTools(const FieldReader& reader, platform::ChatRequest& request);

}  // namespace tidepool::gateway::openai
