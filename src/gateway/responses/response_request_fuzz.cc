// A client's bytes as JSON, then as a request of the Responses dialect, after nothing and after its own
// items. Whatever comes, the answer is a request or an Error that has a code and a message.
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "gateway/errors.h"
#include "gateway/json_body.h"
#include "gateway/responses/requests.h"

namespace {

template <typename T>
void CheckError(const tidepool::Result<T>& result) {
  if (result) return;
  CHECK(!result.error().code.empty());
  CHECK(!result.error().message.empty());
  CHECK(tidepool::gateway::ErrorResponse(result.error()).status == 400);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const auto body = ParseJson(std::string_view(reinterpret_cast<const char*>(data), size), JsonLimits{});
  if (!body || !body->is_object()) return 0;
  auto parsed = responses::ParseResponse(*body);
  CheckError(parsed);
  if (!parsed) return 0;
  const auto& sampling = parsed->request.sampling;
  CHECK(!sampling.max_tokens || *sampling.max_tokens >= 1);
  CHECK(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 2));
  CHECK(!parsed->background || parsed->store);
  for (const auto& item : parsed->input) CHECK(item["id"].is_string() && item["type"].is_string());
  for (const Json& before : {Json(Json::array()), Json(parsed->input)}) {
    const auto completed = responses::CompleteRequest(*parsed, before);
    CheckError(completed);
    if (!completed) continue;
    for (const auto& message : parsed->request.messages) CHECK(message["content"].is_string());
  }
  return 0;
}
