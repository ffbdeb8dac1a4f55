// A client's bytes as JSON, then as a request to rank. Whatever comes, the answer is a request or an Error
// that has a code.
#include <cstdint>

#include "base/check.h"
#include "gateway/json_body.h"
#include "gateway/rerank/requests.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::gateway;
  const auto body = ParseJson({reinterpret_cast<const char*>(data), size}, JsonLimits{});
  if (!body || !body->is_object()) return 0;
  const auto parsed = rerank::ParseRerank(*body);
  if (!parsed) {
    CHECK(!parsed.error().code.empty() && !parsed.error().message.empty());
    CHECK(parsed.error().kind == tidepool::ErrorKind::kInvalid);
    return 0;
  }
  CHECK(!parsed->request.query.empty() && !parsed->request.documents.empty());
  CHECK(parsed->request.documents.size() <= 2048 && parsed->top >= 0);
  return 0;
}
