// Errors in OpenAI's shape: {"error":{"message","type","param","code"}} with the right status.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "base/result.h"
#include "gateway/http.h"

namespace tidepool::gateway {

int StatusOf(ErrorKind kind);
nlohmann::ordered_json ErrorJson(const Error& error);
HttpResponse ErrorResponse(const Error& error);
HttpResponse ErrorResponse(int status, std::string_view code, std::string_view message,
                           std::string_view param = {});
HttpResponse JsonResponse(const nlohmann::ordered_json& body, int status = 200);

}  // namespace tidepool::gateway
