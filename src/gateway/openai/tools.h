// `tools`, `tool_choice` and what goes with them.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "gateway/dialects.h"
#include "gateway/openai/fields.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::openai {

// After FieldReader::Check. Errors name the place: "tools[1].function.name". Members of a tool that no table
// lists are not shown to the model.
Status ReadTools(const FieldReader& reader, platform::ChatRequest& request,
                 std::vector<std::string>& ignored);

// `prefix`: of the places and pointers: "" or "parameters". The example has a tool and names it as the
// choice.
std::vector<FieldTable> ToolTables(std::string_view prefix, std::string_view example);

}  // namespace tidepool::gateway::openai
