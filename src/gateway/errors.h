// Errors with the right status, in OpenAI's shape unless a dialect has another.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "gateway/http.h"

namespace tidepool::gateway {

// Whose error object a path's answers have. Paths that nobody serves too: a client's library reads the error.
enum class ErrorShape : uint8_t {
  kOpenAi,   // {"error": {"message", "type", "param", "code"}}
  kOllama,   // {"error": "..."}: /api/..., but not /api/v1/...
  kBailian,  // {"code", "message", "request_id"}: /api/v1/services/...
};
ErrorShape ErrorShapeOf(std::string_view path);
// In the shape of the request's path.
HttpResponse ErrorResponse(const HttpRequest& request, const Error& error);

int StatusOf(ErrorKind kind);
nlohmann::ordered_json ErrorJson(const Error& error);
HttpResponse ErrorResponse(const Error& error);
HttpResponse ErrorResponse(int status, std::string_view code, std::string_view message,
                           std::string_view param = {});
HttpResponse JsonResponse(const nlohmann::ordered_json& body, int status = 200);

}  // namespace tidepool::gateway
