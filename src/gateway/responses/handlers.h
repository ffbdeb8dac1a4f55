// The endpoints of the Responses dialect.
#pragma once

#include <memory>

#include "gateway/fields.h"
#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::responses {

void Create(Services& services, std::shared_ptr<Exchange> exchange);
void Get(Services& services, std::shared_ptr<Exchange> exchange);
void Delete(Services& services, std::shared_ptr<Exchange> exchange);
void Cancel(Services& services, std::shared_ptr<Exchange> exchange);
void InputTokens(Services& services, std::shared_ptr<Exchange> exchange);
void InputItems(Services& services, std::shared_ptr<Exchange> exchange);

inline constexpr std::string_view kGetQuery =
    "stream starting_after:integer include include[] include_obfuscation";
inline constexpr std::string_view kInputItemsQuery = "limit:integer order after before include include[]";

Json ResponseReplySchema();
Json InputItemsReplySchema();
Json InputTokensReplySchema();

}  // namespace tidepool::gateway::responses
