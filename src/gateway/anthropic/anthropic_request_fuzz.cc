// A client's bytes as JSON, then as Anthropic's requests. Whatever comes, the answer is a request or an Error
// that has a code and a message; what is accepted stays within the ranges that the platform takes.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/anthropic/errors.h"
#include "gateway/anthropic/requests.h"
#include "gateway/json_body.h"

namespace {

using tidepool::gateway::anthropic::ParsedMessages;

void CheckParsed(const tidepool::Result<ParsedMessages>& parsed) {
  if (!parsed) {
    CHECK(!parsed.error().code.empty());
    CHECK(!parsed.error().message.empty());
    CHECK(tidepool::gateway::anthropic::ErrorReply(parsed.error(), {}).status == 400);
    return;
  }
  const auto& request = parsed->request;
  CHECK(!request.model.empty() && !request.messages.empty() && request.tools.size() <= 512);
  const auto& sampling = request.sampling;
  CHECK(!sampling.max_tokens || *sampling.max_tokens >= 1);
  CHECK(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
  CHECK(!sampling.reasoning_budget || *sampling.reasoning_budget >= 1);
  CHECK(sampling.stop.size() <= 16);
  for (const auto& message : request.messages) {
    CHECK(message["content"].is_string() || message["content"].is_array());
    CHECK(message["role"] != "tool" || message.contains("tool_call_id"));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const auto body = ParseJson(std::string_view(reinterpret_cast<const char*>(data), size), JsonLimits{});
  if (!body || !body->is_object()) return 0;
  CheckParsed(anthropic::ParseMessages(*body));
  CheckParsed(anthropic::ParseCountTokens(*body));
  return 0;
}
