// Links that show a branch of a conversation, as it was, to whoever holds them: read only, for a time,
// without an account. Where a workspace allows it (a switch of the workspace, off at first).
//
// What is shown is copied when the link is made: what was said and answered, reasoning, which models, the
// names of files. Not: the system prompt, what files hold, other branches, who said it. The link's token is
// known to its maker only; the store has its hash. A link dies with its time, its conversation, its maker's
// membership, or the workspace's switch; nobody can tell these apart from a link that never was.
//
// Threads: any; calls wait for the store.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/audit.h"
#include "platform/conversations/conversations.h"

namespace tidepool::platform {

struct ConversationSharesOptions {
  int64_t max_shares = 1000;             // of one member, those that have not ended
  uint64_t max_share_bytes = 8 << 20;    // of what one shows
  uint64_t max_member_bytes = 1u << 30;  // of one member's conversations and links together
  double max_days = 90;                  // that one may last
  int64_t reads_per_minute = 60;         // of one address (an IPv6 network of 64 bits)
  // May conversations of this workspace be shared, by this member (empty: by a key)? Not set: no.
  std::function<bool(const std::string& workspace, const std::string& member)> may_share;
  Audit* audit = nullptr;  // a row for each link that is made or taken back
};

struct ConversationShare {
  std::string id, conversation, title;
  int64_t turns = 0;
  int64_t created_ms = 0, expires_ms = 0;
};
struct CreatedShare {
  ConversationShare share;
  std::string token;  // shown once
};
struct SharedTurn {
  bool user = false;  // else the model's
  std::string content, reasoning, model;
  std::vector<std::string> files;  // their names
  int64_t created_ms = 0;
};
struct SharedConversation {
  std::string title;
  std::vector<SharedTurn> turns;
  int64_t created_ms = 0, expires_ms = 0;
};

class ConversationShares {
 public:
  // All arguments outlive it. Its tables are those of Conversations::Migrations.
  ConversationShares(store::Database& database, const Clock& clock, const WallClock& wall_clock,
                     MetricsRegistry& metrics, ConversationSharesOptions options);

  // Of the way to `leaf` (empty: where the person is). Errors: kNotFound "unknown_conversation",
  // "unknown_turn"; kForbidden "sharing_off"; kConflict "still_running", "nothing_to_share"; kTooLarge
  // "too_many_shares", "share_too_large", "member_storage_full"; kInvalid "days".
  Result<CreatedShare> Create(const Principal& who, const AuditActor& actor, const std::string& conversation,
                              const std::string& leaf, double days);
  // Those of one conversation that have not ended, newest first.
  Result<std::vector<ConversationShare>> List(const Principal& who, const std::string& conversation) const;
  Status Revoke(const Principal& who, const AuditActor& actor, const std::string& conversation,
                const std::string& share);

  // Without an account. kNotFound "share_not_found", whatever the reason; kOverloaded "too_many_reads".
  Result<SharedConversation> Read(const std::string& token, const std::string& address);

 private:
  Status TakeRead(const std::string& address);

  store::Database& database_;
  const Clock& clock_;
  const WallClock& wall_clock_;
  const ConversationSharesOptions options_;
  Counter made_, read_, refused_;

  struct Bucket {
    double left = 0;
    Nanoseconds at = 0;
  };
  std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;  // by address
};

}  // namespace tidepool::platform
