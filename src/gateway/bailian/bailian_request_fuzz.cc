// A client's bytes as JSON, then as every request of Bailian's native interface. Whatever comes, the answer
// is a request or an Error that has a code; what is accepted stays within the ranges that the engine takes.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/bailian/reply.h"
#include "gateway/bailian/requests.h"
#include "gateway/json_body.h"

namespace {

template <typename T>
bool CheckError(const tidepool::Result<T>& result) {
  if (result) return true;
  const auto reply = tidepool::gateway::bailian::ErrorReply(result.error(), {});
  CHECK(reply.status == 400);
  const auto body = nlohmann::ordered_json::parse(reply.body);
  CHECK(body.at("code") == "InvalidParameter");
  CHECK(body.at("message").is_string() && body.at("message") != "");
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const auto body = ParseJson({reinterpret_cast<const char*>(data), size}, JsonLimits{});
  if (!CheckError(body) || !body->is_object()) return 0;
  if (const auto parsed = bailian::ParseGeneration(*body); CheckError(parsed)) {
    const auto& sampling = parsed->chat.request.sampling;
    CHECK(sampling.n >= 1 && sampling.n <= 128 && (parsed->message_format || sampling.n == 1));
    CHECK(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
    CHECK(!sampling.max_tokens || *sampling.max_tokens >= 1);
    CHECK(!parsed->chat.request.messages.empty());
  }
  if (const auto parsed = bailian::ParseEmbedding(*body); CheckError(parsed)) {
    CHECK(!parsed->request.inputs.empty() && parsed->dimensions >= 0);
  }
  return 0;
}
