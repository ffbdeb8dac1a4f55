// A client's bytes as JSON, then as every OpenAI request. Whatever comes, the answer is a request or an Error
// that has a code; what is accepted stays within the ranges that the engine takes.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/openai/requests.h"

namespace {

using tidepool::gateway::openai::ReplyOptions;

template <typename T>
void CheckError(const tidepool::Result<T>& result) {
  if (result) return;
  CHECK(!result.error().code.empty());
  CHECK(!result.error().message.empty());
  CHECK(tidepool::gateway::ErrorResponse(result.error()).status == 400);
}

void CheckSampling(const tidepool::platform::SamplingRequest& sampling) {
  CHECK(sampling.n >= 1 && sampling.n <= 128);
  CHECK(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
  CHECK(!sampling.top_p || (*sampling.top_p > 0 && *sampling.top_p <= 1));
  CHECK(!sampling.max_tokens || *sampling.max_tokens >= 1);
  CHECK(sampling.top_logprobs >= -1 && sampling.top_logprobs <= 20);
  CHECK(sampling.stop.size() <= 16 && sampling.logit_bias.size() <= 1024);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto body = ParseJson(text, JsonLimits{});
  CheckError(body);
  if (!body || !body->is_object()) return 0;
  const auto chat = openai::ParseChat(*body);
  CheckError(chat);
  if (chat) CheckSampling(chat->request.sampling);
  const auto completion = openai::ParseCompletion(*body);
  CheckError(completion);
  if (completion) CheckSampling(completion->request.sampling);
  CheckError(openai::ParseEmbedding(*body));
  CheckError(openai::ParseTokenize(*body));
  CheckError(openai::ParseDetokenize(*body));
  std::string written;
  AppendJsonString(written, text);
  CHECK(nlohmann::ordered_json::accept(written));
  return 0;
}
