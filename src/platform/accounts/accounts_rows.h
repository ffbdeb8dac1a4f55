// Inside accounts only: what is kept in memory, rows to shapes, checks of what people type.
#pragma once

#include <fmt/format.h>

#include <map>

#include "base/log.h"
#include "platform/accounts/accounts.h"
#include "platform/accounts/network.h"

namespace tidepool::platform {

struct Accounts::KeyRecord {
  std::string id, prefix, organisation, workspace, user;
  Role role = Role::kNone;
  std::vector<std::string> models, endpoints;
  std::vector<Network> networks;
  bool networks_readable = true;
  double weight = 1;
  std::optional<int64_t> expires_ms, revoked_ms;
  std::shared_ptr<std::atomic<int64_t>> last_used_ms;
};

struct Accounts::Directory {
  struct OrganisationRecord {
    bool suspended = false;
    double weight = 1;
  };
  struct WorkspaceRecord {
    std::string organisation;
    double weight = 1;
    bool archived = false;
    bool sharing = false;
    BodyRule bodies;
    ResponsesRule responses = ResponsesRule::kAsAsked;
  };
  struct MemberRecord {
    std::string organisation, workspace;  // workspace empty: of the organisation
    Role role = Role::kNone;
  };
  struct SessionRecord {
    std::string id, user;
    int64_t expires_ms = 0;
  };
  int64_t version = -1;
  std::unordered_map<std::string, std::shared_ptr<const KeyRecord>> keys;  // by hash
  std::unordered_map<std::string, std::shared_ptr<const KeyRecord>> keys_by_id;
  std::unordered_map<std::string, OrganisationRecord> organisations;
  std::map<std::string, WorkspaceRecord> workspaces;
  std::unordered_map<std::string, bool> users;                         // is operator
  std::unordered_map<std::string, std::vector<MemberRecord>> members;  // by user
  std::unordered_map<std::string, SessionRecord> sessions;             // by hash
  std::unordered_map<std::string, std::string> session_hashes;         // by id

  // What a person may do in a workspace.
  Role RoleOf(const std::string& user, const std::string& workspace) const;
};

inline constexpr std::string_view kOrganisationColumns = "id, name, suspended, weight, created_ms";
inline constexpr std::string_view kWorkspaceColumns =
    "id, organisation_id, name, weight, created_ms, archived_ms, sharing, store_bodies, retention_days, "
    "redact, "
    "stored_responses";
inline constexpr std::string_view kMemberColumns =
    "m.id, m.organisation_id, m.workspace_id, m.user_id, m.role, m.created_ms, u.email, u.name";
inline constexpr std::string_view kMemberTables = "members m JOIN users u ON u.id = m.user_id";
inline constexpr std::string_view kKeyColumns =
    "id, prefix, name, organisation_id, workspace_id, user_id, role, models, endpoints, networks, weight, "
    "created_ms, created_by, expires_ms, revoked_ms, last_used_ms, replaced_by";
inline constexpr std::string_view kLinkColumns =
    "id, kind, organisation_id, workspace_id, user_id, email, role, created_ms, created_by, expires_ms, "
    "used_ms";

Organisation OrganisationOf(const store::Row& row);
Workspace WorkspaceOf(const store::Row& row);
BodyRule BodyRuleOfRow(bool store, int64_t retention_days, const std::string& redact);
ResponsesRule ResponsesRuleOfRow(int64_t number);
Member MemberOf(const store::Row& row);
ApiKey ApiKeyOf(const store::Row& row);
Link LinkOf(const store::Row& row);

std::string JsonList(const std::vector<std::string>& items);
std::vector<std::string> ListOfJson(const std::string& text);

// For the audit log.
nlohmann::ordered_json AuditOf(const Organisation& organisation);
nlohmann::ordered_json AuditOf(const Workspace& workspace);
nlohmann::ordered_json AuditOf(const Member& member);
nlohmann::ordered_json AuditOf(const ApiKey& key);
nlohmann::ordered_json AuditOf(const Link& link);

// 1 to 200 characters of UTF-8 without control characters; kInvalid names the field.
Status CheckName(const std::string& name, std::string_view field);
Status CheckWeight(double weight);
// Lower case; kInvalid if it is no address of the form a@b.
Result<std::string> CheckEmail(const std::string& email);
Status RoleTooLow(std::string_view needed, const Principal& principal);
// A key that may only do some things must not make another, or a member, that may do more.
Status CheckUnscoped(const Principal& who);
tl::unexpected<Error> NotThere(std::string_view what, const std::string& id);

// Pages are ordered by (created_ms, id): a cursor is "created_ms.id".
struct Cursor {
  int64_t created_ms = 0;
  std::string id;
};
Result<Cursor> CursorOf(const Page& page);
template <typename T>
Listed<T> PageOf(std::vector<T> items, int64_t limit) {
  Listed<T> out;
  out.items = std::move(items);
  if (static_cast<int64_t>(out.items.size()) > limit) {
    out.items.resize(static_cast<size_t>(limit));
    out.next = fmt::format("{}.{}", out.items.back().created_ms, out.items.back().id);
  }
  return out;
}

template <typename T>
Result<T> Accounts::Change(const std::function<Result<T>(store::Session&)>& work) {
  auto result = database_.Put<T>([&](store::Session& session) -> Result<T> {
    auto value = work(session);
    if (!value) return value;
    TP_TRY(session.Execute("UPDATE accounts_state SET number = number + 1 WHERE name = 'version'"));
    return value;
  });
  if (!result) return result;
  // It is durable: if this refresh fails, the refresh thread's next one that reaches the store shows it.
  if (const Status refreshed = Refresh(true); !refreshed)
    LogError("a change of accounts is not in force yet", {{"reason", refreshed.error().message}});
  return result;
}

}  // namespace tidepool::platform
