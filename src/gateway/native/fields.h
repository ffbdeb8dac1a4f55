// Checks of the native API's request bodies. Unknown fields are errors here: the API is our own.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"

namespace tidepool::gateway::native {

struct PullRequest {
  std::string source;
  std::string name;
};

Result<PullRequest> ParsePull(const nlohmann::ordered_json& body);
// {"force": bool}
Result<bool> ParseUnload(const nlohmann::ordered_json& body);
// {"wait": bool}, default true
Result<bool> ParseLoad(const nlohmann::ordered_json& body);
// {"model", "prompt_tokens" 1..65536, "generate_tokens" 1..65536, "batch": [1..1024] at most 16}
Status CheckBench(const nlohmann::ordered_json& body);

}  // namespace tidepool::gateway::native
