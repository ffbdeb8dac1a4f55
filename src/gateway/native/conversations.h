// JSON of conversations, and what is read from a request's query.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::native {

void ListConversations(Services& services, std::shared_ptr<Exchange> exchange);
void CreateConversation(Services& services, std::shared_ptr<Exchange> exchange);
void GetConversation(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeConversation(Services& services, std::shared_ptr<Exchange> exchange);
void DeleteConversation(Services& services, std::shared_ptr<Exchange> exchange);
void StartTurn(Services& services, std::shared_ptr<Exchange> exchange);
void StopTurn(Services& services, std::shared_ptr<Exchange> exchange);
void ConversationEvents(Services& services, std::shared_ptr<Exchange> exchange);
void ExportConversation(Services& services, std::shared_ptr<Exchange> exchange);
void ListShares(Services& services, std::shared_ptr<Exchange> exchange);
void CreateShare(Services& services, std::shared_ptr<Exchange> exchange);
void RevokeShare(Services& services, std::shared_ptr<Exchange> exchange);
void ReadShared(Services& services, std::shared_ptr<Exchange> exchange);

nlohmann::ordered_json ConversationSchema();
nlohmann::ordered_json ConversationListSchema();
nlohmann::ordered_json ConversationDetailsSchema();  // without its turns
nlohmann::ordered_json ConversationEventsSchema();   // the data of the events, by name
nlohmann::ordered_json ConversationChangeSchema();
nlohmann::ordered_json NewTurnSchema();
nlohmann::ordered_json TurnsSchema();
nlohmann::ordered_json ShareRequestSchema();
nlohmann::ordered_json CreatedShareSchema();
nlohmann::ordered_json ShareListSchema();
nlohmann::ordered_json SharedRequestSchema();
nlohmann::ordered_json SharedSchema();

}  // namespace tidepool::gateway::native
