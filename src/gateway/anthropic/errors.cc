#include "gateway/anthropic/errors.h"

#include <fmt/format.h>

#include <cmath>

namespace tidepool::gateway::anthropic {
namespace {

int StatusHere(ErrorKind kind) { return kind == ErrorKind::kUnavailable ? 529 : StatusOf(kind); }

std::string_view TypeHere(int status) {
  switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 413: return "request_too_large";
    case 429: return "rate_limit_error";
    case 504: return "timeout_error";
    case 529: return "overloaded_error";
    default: return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

}  // namespace

Json ErrorBody(const Error& error, const HttpRequest& request) {
  Json body;
  body["type"] = "error";
  body["error"]["type"] = TypeHere(StatusHere(error.kind));
  body["error"]["message"] = error.message;
  // Not Anthropic's: what happened and where, for programs.
  body["error"]["code"] = error.code;
  if (!error.param.empty()) body["error"]["param"] = error.param;
  body["request_id"] = request.id;
  return body;
}

HttpResponse ErrorReply(const Error& error, const HttpRequest& request) {
  HttpResponse response = JsonResponse(ErrorBody(error, request), StatusHere(error.kind));
  response.headers.push_back({"request-id", request.id});
  if (error.retry_after_s > 0) {
    response.headers.push_back({"Retry-After", fmt::format("{:.0f}", std::ceil(error.retry_after_s))});
  }
  return response;
}

}  // namespace tidepool::gateway::anthropic
