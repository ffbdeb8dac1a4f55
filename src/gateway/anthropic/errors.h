// Errors in Anthropic's shape: {"type": "error", "error": {"type", "message"}, "request_id"}, and
// within "error" also the server's own "code" and "param".
#pragma once

#include "gateway/errors.h"
#include "gateway/fields.h"

namespace tidepool::gateway::anthropic {

Json ErrorBody(const Error& error, const HttpRequest& request);
// What is not available for now is 529 overloaded_error, which Anthropic's clients try again.
HttpResponse ErrorReply(const Error& error, const HttpRequest& request);

}  // namespace tidepool::gateway::anthropic
