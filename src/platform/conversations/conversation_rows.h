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
struct OwnerUse {
  int64_t conversations = 0, bytes = 0;
};
Result<OwnerUse> ReadOwnerUse(store::Session& session, const ConversationOwner& owner);
Status InsertConversation(store::Session& session, const ConversationOwner& owner,
                          const Conversation& conversation);
// `was`: as it was read, within the same write.
Status UpdateConversation(store::Session& session, const Conversation& conversation, const Conversation& was);
Status DeleteConversation(store::Session& session, const std::string& id);

Result<std::vector<Turn>> ReadTurns(store::Session& session, const std::string& conversation);
Result<std::optional<Turn>> ReadTurn(store::Session& session, const std::string& conversation,
                                     const std::string& id);
Result<int64_t> CountTurns(store::Session& session, const std::string& conversation);
struct RunningTurns {
  int64_t of_owner = 0, of_conversation = 0;
};
Result<RunningTurns> CountRunning(store::Session& session, const ConversationOwner& owner,
                                  const std::string& conversation);
// As the store counts them; a conversation's own, without its turns.
int64_t BytesOf(const Turn& turn);
int64_t BytesOf(const Conversation& conversation);
Status InsertTurn(store::Session& session, const std::string& conversation, const Turn& turn);
// Everything but id, parent, role, files and time.
Status UpdateTurn(store::Session& session, const Turn& turn);
Status MarkInterrupted(store::Session& session);

}  // namespace tidepool::platform
