// Conversations and turns as rows of the store.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "platform/conversations/conversations.h"

namespace tidepool::platform {

// Who owns a conversation: a member within a workspace; a key that belongs to no member owns its own.
struct ConversationOwner {
  std::string workspace, owner;
  static ConversationOwner Of(const Principal& who);
};

Result<Conversation> ReadConversation(store::Session& session, const ConversationOwner& owner,
                                      const std::string& id);
Result<ConversationPage> ReadConversations(store::Session& session, const ConversationOwner& owner,
                                           std::string_view search, std::string_view after, int32_t limit);
Result<int64_t> CountConversations(store::Session& session, const ConversationOwner& owner);
Status InsertConversation(store::Session& session, const ConversationOwner& owner,
                          const Conversation& conversation);
Status UpdateConversation(store::Session& session, const Conversation& conversation);
Status DeleteConversation(store::Session& session, const std::string& id);

Result<std::vector<Turn>> ReadTurns(store::Session& session, const std::string& conversation);
Status InsertTurn(store::Session& session, const std::string& conversation, const Turn& turn);
// Everything but id, parent, role, files and time.
Status UpdateTurn(store::Session& session, const Turn& turn);
Status MarkInterrupted(store::Session& session);

}  // namespace tidepool::platform
