// From the engine's events to Bailian's native answers: one JSON object, or events ("id", "event: result").
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "gateway/bailian/requests.h"
#include "gateway/openai/reply.h"

namespace tidepool::gateway::bailian {

std::shared_ptr<openai::Reply> MakeReply(std::shared_ptr<Exchange> exchange,
                                         const platform::Inference& inference,
                                         const ParsedGeneration& parsed);

// {"code", "message", "request_id"} with the error's status.
HttpResponse ErrorReply(const Error& error, const HttpRequest& request);
// "InvalidParameter", "Throttling.RateQuota": what Bailian's clients look at.
std::string_view CodeOf(const Error& error);

}  // namespace tidepool::gateway::bailian
