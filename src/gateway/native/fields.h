// Checks of the native API's request bodies. Unknown fields are errors here: the API is our own.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "base/result.h"
#include "gateway/openai/fields.h"
#include "platform/inference/elasticity.h"

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

// {"memory", "warm_memory", "host_kv"}: only these; their values are the caller's to read.
Status CheckResize(const nlohmann::ordered_json& body);
struct PoolPolicyRequest {
  std::string model;
  platform::PolicyChange change;
};
std::span<const openai::Field> PoolPolicyFields();
Result<PoolPolicyRequest> ParsePoolPolicy(const nlohmann::ordered_json& body);
// {"cordoned": bool}
Result<bool> ParseCordon(const nlohmann::ordered_json& body);

}  // namespace tidepool::gateway::native
