// The endpoints that speak Anthropic's dialect.
#pragma once

#include <memory>

#include "gateway/fields.h"
#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::anthropic {

void Messages(Services& services, std::shared_ptr<Exchange> exchange);
void CountTokens(Services& services, std::shared_ptr<Exchange> exchange);

// GET /v1/models for a client that sends the header anthropic-version.
bool IsAnthropic(const HttpRequest& request);
void ListModels(Services& services, std::shared_ptr<Exchange> exchange);
void GetModel(Services& services, std::shared_ptr<Exchange> exchange);

Json MessageReplySchema();
Json CountReplySchema();
Json ModelListReplySchema();
Json ModelReplySchema();

}  // namespace tidepool::gateway::anthropic
