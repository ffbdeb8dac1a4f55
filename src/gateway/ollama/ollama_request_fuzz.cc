// A client's bytes as JSON, then as every request of Ollama's dialect. Whatever comes, the answer is a
// request or an Error that has a code; what is accepted stays within the ranges that the engine takes.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/ollama/reply.h"
#include "gateway/ollama/requests.h"

namespace {

template <typename T>
bool CheckError(const tidepool::Result<T>& result) {
  if (result) return true;
  CHECK(!result.error().code.empty());
  const auto reply = tidepool::gateway::ollama::ErrorReply(result.error());
  CHECK(reply.status == 400);
  const auto body = nlohmann::ordered_json::parse(reply.body);
  CHECK(body.at("error").is_string() && body.at("error") != "");
  return false;
}

void CheckSampling(const tidepool::platform::SamplingRequest& sampling) {
  CHECK(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
  CHECK(!sampling.top_p || (*sampling.top_p > 0 && *sampling.top_p <= 1));
  CHECK(!sampling.max_tokens || *sampling.max_tokens >= 1);
  CHECK(!sampling.seed || *sampling.seed >= 0);
  CHECK(sampling.top_logprobs >= -1 && sampling.top_logprobs <= 20);
  CHECK(sampling.stop.size() <= 16);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const auto body = ParseJson({reinterpret_cast<const char*>(data), size}, JsonLimits{});
  if (!CheckError(body) || !body->is_object()) return 0;
  if (const auto chat = ollama::ParseChat(*body); CheckError(chat)) {
    CheckSampling(chat->request.sampling);
    CHECK(chat->load_only || (chat->request.messages.is_array() && !chat->request.messages.empty()));
    CHECK(!chat->keep_alive || std::isfinite(*chat->keep_alive));
  }
  if (const auto generate = ollama::ParseGenerate(*body); CheckError(generate)) {
    CheckSampling(generate->raw ? generate->completion.sampling : generate->chat.sampling);
  }
  CheckError(ollama::ParseEmbed(*body));
  CheckError(ollama::ParseEmbeddings(*body));
  CheckError(ollama::ParseName(*body));
  return 0;
}
