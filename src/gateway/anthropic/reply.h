// From the engine's events to Anthropic's message, whole or as its stream of events.
#pragma once

#include <memory>

#include "gateway/anthropic/requests.h"
#include "gateway/reply_sink.h"

namespace tidepool::gateway::anthropic {

std::shared_ptr<ReplySink> MakeMessageReply(std::shared_ptr<Exchange> exchange, const ParsedMessages& parsed);

}  // namespace tidepool::gateway::anthropic
