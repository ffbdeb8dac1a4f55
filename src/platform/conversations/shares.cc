#include "platform/conversations/shares.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <openssl/sha.h>

#include <algorithm>
#include <cmath>

#include "base/ids.h"
#include "platform/conversations/conversation_rows.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kTokenCharacters = 32;  // 190 bits
constexpr size_t kMaxAddresses = 10'000;

// The token has 190 random bits: a plain hash cannot be searched.
store::Blob HashOfToken(std::string_view token) {
  std::string hash(SHA256_DIGEST_LENGTH, '\0');
  SHA256(reinterpret_cast<const unsigned char*>(token.data()), token.size(),
         reinterpret_cast<unsigned char*>(hash.data()));
  return store::Blob{std::move(hash)};
}

// Who has one address of an IPv6 network has all of them.
std::string ReaderOf(const std::string& address) {
  in6_addr parsed{};
  if (inet_pton(AF_INET6, address.c_str(), &parsed) != 1) return address;
  return "v6:" + std::string(reinterpret_cast<const char*>(parsed.s6_addr), 8);
}

tl::unexpected<Error> NoSuchShare() {
  return Fail(ErrorKind::kNotFound, "share_not_found",
              "This link shows nothing: it has ended, was taken back, or never was.");
}

Json SharedText(const std::vector<const Turn*>& path) {
  Json turns = Json::array();
  for (const Turn* turn : path) {
    if (turn->content.empty() && turn->reasoning.empty() && turn->files.empty()) continue;
    Json files = Json::array();
    for (const AttachedFile& file : turn->files) files.push_back(file.name);
    turns.push_back({{"role", turn->user ? "user" : "assistant"},
                     {"content", turn->content},
                     {"reasoning", turn->reasoning},
                     {"model", turn->model},
                     {"files", std::move(files)},
                     {"created_ms", turn->created_ms}});
  }
  return turns;
}

std::vector<SharedTurn> SharedTurns(const std::string& text) {
  std::vector<SharedTurn> out;
  const Json turns = Json::parse(text, nullptr, false);
  if (!turns.is_array()) return out;
  for (const Json& turn : turns) {
    if (!turn.is_object()) continue;
    SharedTurn one;
    one.user = turn.value("role", "") == "user";
    one.content = turn.value("content", "");
    one.reasoning = turn.value("reasoning", "");
    one.model = turn.value("model", "");
    one.created_ms = turn.value("created_ms", int64_t{0});
    const auto files = turn.find("files");
    if (files != turn.end() && files->is_array()) {
      for (const Json& name : *files) {
        if (name.is_string()) one.files.push_back(name.get<std::string>());
      }
    }
    out.push_back(std::move(one));
  }
  return out;
}

ConversationShare ShareOf(const store::Row& row) {
  return {row.Text(0), row.Text(1), row.Text(2), row.Integer(3), row.Integer(4), row.Integer(5)};
}
constexpr std::string_view kShareColumns = "id, conversation, title, turns, created_ms, expires_ms";

Json AuditOf(const ConversationShare& share) {
  return {
      {"conversation", share.conversation}, {"turns", share.turns}, {"expires_at", share.expires_ms / 1000}};
}

}  // namespace

ConversationShares::ConversationShares(store::Database& database, const Clock& clock,
                                       const WallClock& wall_clock, MetricsRegistry& metrics,
                                       ConversationSharesOptions options)
    : database_(database), clock_(clock), wall_clock_(wall_clock), options_(std::move(options)) {
  made_ = metrics.counter("tidepool_conversation_shares_total", "Links to conversations that were made");
  read_ = metrics.counter("tidepool_conversation_share_reads_total", "Reads of shared conversations",
                          {{"outcome", "shown"}});
  refused_ = metrics.counter("tidepool_conversation_share_reads_total", "Reads of shared conversations",
                             {{"outcome", "refused"}});
}

Result<CreatedShare> ConversationShares::Create(const Principal& who, const AuditActor& actor,
                                                const std::string& conversation, const std::string& leaf,
                                                double days) {
  if (!std::isfinite(days) || days < 0.01 || days > options_.max_days) {
    return Fail(ErrorKind::kInvalid, "out_of_range",
                fmt::format("days is {}; a link lasts 0.01 to {} days", days, options_.max_days), "days");
  }
  if (!options_.may_share || !options_.may_share(who.workspace, who.member)) {
    return Fail(ErrorKind::kForbidden, "sharing_off",
                "This workspace does not allow links to conversations; an admin of the organisation can "
                "allow them (\"sharing\": true of the workspace).");
  }
  const auto owner = ConversationOwner::Of(who);
  CreatedShare made;
  made.token = RandomId("tps-", kTokenCharacters);
  ConversationShare& share = made.share;
  share.id = RandomId("share-", 22);
  share.conversation = conversation;
  share.created_ms = wall_clock_.unix_ms();
  share.expires_ms = share.created_ms + static_cast<int64_t>(days * 86'400'000);
  // The whole tree is read here, not by the store's one writer.
  Json turns;
  const Status read = database_.Read([&](store::Session& session) -> Status {
    TP_ASSIGN(const Conversation found, ReadConversation(session, owner, conversation));
    TP_ASSIGN(const std::vector<Turn> all, ReadTurns(session, conversation));
    const std::string_view at = leaf.empty() ? std::string_view(found.leaf) : std::string_view(leaf);
    if (!leaf.empty() &&
        std::none_of(all.begin(), all.end(), [&](const Turn& one) { return one.id == leaf; }))
      return Fail(ErrorKind::kNotFound, "unknown_turn", "There is no such turn in this conversation.",
                  "leaf");
    const std::vector<const Turn*> path = PathTo(all, at);
    if (std::any_of(path.begin(), path.end(),
                    [](const Turn* turn) { return turn->state == TurnState::kRunning; })) {
      return Fail(ErrorKind::kConflict, "still_running",
                  "The answer is still being written; share it when it has ended.");
    }
    share.title = found.title;
    turns = SharedText(path);
    return {};
  });
  TP_TRY(read);
  share.turns = static_cast<int64_t>(turns.size());
  if (share.turns == 0)
    return Fail(ErrorKind::kConflict, "nothing_to_share", "Nothing was said in this conversation yet.");
  const std::string text = turns.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > options_.max_share_bytes) {
    return Fail(ErrorKind::kTooLarge, "share_too_large",
                fmt::format("This branch is {} bytes long; at most {} can be shared.", text.size(),
                            options_.max_share_bytes));
  }
  const Status written = database_.Write([&](store::Session& session) -> Status {
    TP_TRY(session.Execute("DELETE FROM conversation_shares WHERE expires_ms <= $1", {share.created_ms}));
    TP_TRY(ReadConversation(session, owner, conversation));  // it may have been deleted since
    TP_ASSIGN(const store::Rows rows,
              session.Query("SELECT COUNT(*) FROM conversation_shares WHERE workspace = $1 AND owner = $2",
                            {owner.workspace, owner.owner}));
    if (rows.front().Integer(0) >= options_.max_shares) {
      return Fail(ErrorKind::kTooLarge, "too_many_shares",
                  fmt::format("You have {} links to conversations already; take some back.",
                              rows.front().Integer(0)));
    }
    TP_ASSIGN(const OwnerUse use, ReadOwnerUse(session, owner));
    if (static_cast<uint64_t>(use.bytes) + text.size() > options_.max_member_bytes) {
      return Fail(ErrorKind::kTooLarge, "member_storage_full",
                  fmt::format("Your conversations hold {} bytes of the {} you may keep; delete some.",
                              use.bytes, options_.max_member_bytes));
    }
    TP_TRY(session.Execute(
        "INSERT INTO conversation_shares (id, hash, conversation, workspace, owner, member, title, turns, "
        "content, bytes, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        {share.id, HashOfToken(made.token), conversation, owner.workspace, owner.owner, who.member,
         share.title, share.turns, text, static_cast<int64_t>(text.size()), share.created_ms,
         share.expires_ms}));
    if (options_.audit == nullptr) return {};
    return options_.audit->Append(session, actor, "conversation.shared", share.id, nullptr, AuditOf(share));
  });
  TP_TRY(written);
  made_.Increment();
  return made;
}

Result<std::vector<ConversationShare>> ConversationShares::List(const Principal& who,
                                                                const std::string& conversation) const {
  const auto owner = ConversationOwner::Of(who);
  return database_.Get<std::vector<ConversationShare>>(
      [&](store::Session& session) -> Result<std::vector<ConversationShare>> {
        TP_TRY(ReadConversation(session, owner, conversation));
        TP_ASSIGN(const store::Rows rows,
                  session.Query(fmt::format("SELECT {} FROM conversation_shares WHERE conversation = $1 AND "
                                            "workspace = $2 AND owner = $3 AND expires_ms > $4 ORDER BY "
                                            "created_ms DESC, id DESC",
                                            kShareColumns),
                                {conversation, owner.workspace, owner.owner, wall_clock_.unix_ms()}));
        std::vector<ConversationShare> out;
        for (const store::Row& row : rows) out.push_back(ShareOf(row));
        return out;
      });
}

Status ConversationShares::Revoke(const Principal& who, const AuditActor& actor,
                                  const std::string& conversation, const std::string& share) {
  const auto owner = ConversationOwner::Of(who);
  return database_.Write([&](store::Session& session) -> Status {
    TP_TRY(ReadConversation(session, owner, conversation));
    TP_ASSIGN(const store::Rows rows,
              session.Query(fmt::format("SELECT {} FROM conversation_shares WHERE id = $1 AND conversation = "
                                        "$2 AND workspace = $3 AND owner = $4",
                                        kShareColumns),
                            {share, conversation, owner.workspace, owner.owner}));
    if (rows.empty()) {
      return Fail(ErrorKind::kNotFound, "share_not_found",
                  fmt::format("There is no link \"{}\" to this conversation.", share.substr(0, 64)), "share");
    }
    TP_TRY(session.Execute("DELETE FROM conversation_shares WHERE id = $1", {share}));
    if (options_.audit == nullptr) return {};
    return options_.audit->Append(session, actor, "conversation.unshared", share,
                                  AuditOf(ShareOf(rows.front())), nullptr);
  });
}

Result<SharedConversation> ConversationShares::Read(const std::string& token, const std::string& address) {
  const auto read = [&]() -> Result<SharedConversation> {
    TP_TRY(TakeRead(address));
    if (token.size() > 200) return NoSuchShare();
    std::string workspace, member;
    TP_ASSIGN(const std::optional<SharedConversation> found,
              database_.Get<std::optional<SharedConversation>>(
                  [&](store::Session& session) -> Result<std::optional<SharedConversation>> {
                    TP_ASSIGN(const store::Rows rows,
                              session.Query("SELECT workspace, member, title, content, created_ms, "
                                            "expires_ms FROM conversation_shares WHERE hash = $1 AND "
                                            "expires_ms > $2",
                                            {HashOfToken(token), wall_clock_.unix_ms()}));
                    if (rows.empty()) return std::optional<SharedConversation>();
                    const store::Row& row = rows.front();
                    workspace = row.Text(0);
                    member = row.Text(1);
                    return std::optional(SharedConversation{row.Text(2), SharedTurns(row.Text(3)),
                                                            row.Integer(4), row.Integer(5)});
                  }));
    if (!found || !options_.may_share || !options_.may_share(workspace, member)) return NoSuchShare();
    return *found;
  };
  auto shown = read();
  (shown ? read_ : refused_).Increment();
  return shown;
}

Status ConversationShares::TakeRead(const std::string& address) {
  const auto most = static_cast<double>(options_.reads_per_minute);
  const double per_second = most / 60;
  const Nanoseconds now = clock_.now();
  const std::string reader = ReaderOf(address);
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= kMaxAddresses && !buckets_.contains(reader)) {
    std::erase_if(buckets_, [&](const auto& entry) {
      return entry.second.left + static_cast<double>(now - entry.second.at) / kSecond * per_second >= most;
    });
    // All of them read just now: an attack. Whoever is new waits with them.
    if (buckets_.size() >= kMaxAddresses) {
      return Fail(Error{ErrorKind::kOverloaded, "too_many_reads",
                        "Too many shared conversations are read just now; try again later.", "", 60});
    }
  }
  Bucket& bucket = buckets_.try_emplace(reader, Bucket{most, now}).first->second;
  bucket.left = std::min(most, bucket.left + static_cast<double>(now - bucket.at) / kSecond * per_second);
  bucket.at = now;
  if (bucket.left < 1) {
    return Fail(Error{
        ErrorKind::kOverloaded, "too_many_reads",
        fmt::format("At most {} shared conversations a minute; try again later.", options_.reads_per_minute),
        "", std::max(1.0, (1 - bucket.left) / per_second)});
  }
  bucket.left -= 1;
  return {};
}

}  // namespace tidepool::platform
