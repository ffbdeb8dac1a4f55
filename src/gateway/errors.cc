#include "gateway/errors.h"

#include <fmt/format.h>

#include <cmath>

#include "gateway/json_body.h"

namespace tidepool::gateway {
namespace {

// OpenAI's `type` says whose fault it is; `code` says what happened.
std::string_view TypeOf(int status) {
  if (status == 401) return "authentication_error";
  if (status == 403) return "permission_error";
  if (status == 404) return "not_found_error";
  if (status == 429) return "rate_limit_error";
  return status >= 500 ? "server_error" : "invalid_request_error";
}

nlohmann::ordered_json Body(int status, std::string_view code, std::string_view message,
                            std::string_view param) {
  nlohmann::ordered_json error;
  error["message"] = std::string(message);
  error["type"] = std::string(TypeOf(status));
  error["param"] =
      param.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(std::string(param));
  error["code"] = code.empty() ? nlohmann::ordered_json(nullptr) : nlohmann::ordered_json(std::string(code));
  nlohmann::ordered_json body;
  body["error"] = std::move(error);
  return body;
}

}  // namespace

int StatusOf(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid: return 400;
    case ErrorKind::kUnauthenticated: return 401;
    case ErrorKind::kForbidden: return 403;
    case ErrorKind::kNotFound: return 404;
    case ErrorKind::kConflict: return 409;
    case ErrorKind::kTooLarge: return 413;
    case ErrorKind::kOverloaded: return 429;
    case ErrorKind::kUnavailable: return 503;
    case ErrorKind::kTimeout: return 504;
    case ErrorKind::kCancelled: return 499;
    case ErrorKind::kCorrupt: return 422;
    case ErrorKind::kInternal: return 500;
  }
  return 500;
}

nlohmann::ordered_json ErrorJson(const Error& error) {
  return Body(StatusOf(error.kind), error.code, error.message, error.param);
}

HttpResponse ErrorResponse(const Error& error) {
  HttpResponse response = JsonResponse(ErrorJson(error), StatusOf(error.kind));
  if (error.retry_after_s > 0) {
    response.headers.push_back({"Retry-After", fmt::format("{:.0f}", std::ceil(error.retry_after_s))});
  }
  return response;
}

HttpResponse ErrorResponse(int status, std::string_view code, std::string_view message,
                           std::string_view param) {
  return JsonResponse(Body(status, code, message, param), status);
}

HttpResponse JsonResponse(const nlohmann::ordered_json& body, int status) {
  HttpResponse response;
  response.status = status;
  response.body = DumpJson(body);
  return response;
}

}  // namespace tidepool::gateway
