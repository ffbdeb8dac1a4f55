#include "base/ids.h"
#include "platform/accounts/accounts_rows.h"
#include "platform/accounts/keys.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxScopeItems = 100;
constexpr double kMaxOverlap_s = 90 * 86400.0;

Status CheckPatterns(const std::vector<std::string>& items, std::string_view field, bool paths) {
  if (items.size() > kMaxScopeItems) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("{} holds {} entries; {} are allowed.", field, items.size(), kMaxScopeItems),
                std::string(field));
  }
  for (const std::string& item : items) {
    const size_t star = item.find('*');
    const bool good = !item.empty() && item.size() <= 300 &&
                      (star == std::string::npos || star + 1 == item.size()) && (!paths || item[0] == '/');
    if (!good) {
      return Fail(
          ErrorKind::kInvalid, "invalid_value",
          fmt::format("{}: \"{}\" is not {}, whole or with a * at its end.", field, item.substr(0, 60),
                      paths ? "a path such as /v1/chat/completions" : "the name of a model"),
          std::string(field));
    }
  }
  return {};
}

Status CheckNetworks(const std::vector<std::string>& networks) {
  if (networks.size() > kMaxScopeItems) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("networks holds {} entries; {} are allowed.", networks.size(), kMaxScopeItems),
                "networks");
  }
  for (const std::string& text : networks) {
    if (const auto network = Network::Parse(text); !network) {
      Error error = network.error();
      error.param = "networks";
      return Fail(std::move(error));
    }
  }
  return {};
}

Status CheckExpiry(const std::optional<int64_t>& expires_ms, int64_t now_ms) {
  if (!expires_ms || *expires_ms > now_ms) return {};
  return Fail(ErrorKind::kInvalid, "invalid_value", "expires_at is in the past.", "expires_at");
}

}  // namespace

Status CheckUnscoped(const Principal& who) {
  if (who.models.empty() && who.endpoints.empty() && !who.limited) return {};
  return Fail(
      ErrorKind::kForbidden, "scoped_key",
      "A key that is limited to models, endpoints, networks or a time makes and changes no keys and invites "
      "nobody; use another one, or sign in.");
}

Result<Listed<ApiKey>> Accounts::ListKeys(const Caller& caller, const std::string& workspace,
                                          const Page& page) const {
  TP_ASSIGN(const Cursor cursor, CursorOf(page));
  return database_.Get<Listed<ApiKey>>([&](store::Session& session) -> Result<Listed<ApiKey>> {
    const Principal& who = caller.principal;
    TP_ASSIGN(const Workspace there,
              ReachWorkspace(session, caller, workspace.empty() ? who.workspace : workspace));
    const bool all = who.role >= Role::kWorkspaceAdmin;
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(
            fmt::format("SELECT {} FROM api_keys WHERE workspace_id = $1 AND ($2 = 1 OR (user_id = $3 AND "
                        "$3 <> '') OR id = $4) AND (created_ms > $5 OR (created_ms = $5 AND id > $6)) "
                        "ORDER BY created_ms, id LIMIT $7",
                        kKeyColumns),
            {there.id, all, who.member, who.key, cursor.created_ms, cursor.id, page.limit + 1}));
    std::vector<ApiKey> items;
    for (const store::Row& row : rows) items.push_back(ApiKeyOf(row));
    return PageOf(std::move(items), page.limit);
  });
}

Result<ApiKey> Accounts::ReachKey(store::Session& session, const Caller& caller,
                                  const std::string& id) const {
  const Principal& who = caller.principal;
  TP_ASSIGN(const store::Rows rows,
            session.Query(fmt::format("SELECT {} FROM api_keys WHERE id = $1", kKeyColumns), {id}));
  if (rows.empty()) return NotThere("key", id);
  ApiKey key = ApiKeyOf(rows[0]);
  if (!ReachWorkspace(session, caller, key.workspace)) return NotThere("key", id);
  const bool mine =
      who.role >= Role::kWorkspaceAdmin || (!key.user.empty() && key.user == who.member) || key.id == who.key;
  if (!mine) return NotThere("key", id);
  return key;
}

// A key that may do more than its caller is for others to change: its new secret, or its networks, would be
// theirs.
Result<ApiKey> Accounts::ReachKeyToChange(store::Session& session, const Caller& caller,
                                          const std::string& id) const {
  TP_ASSIGN(ApiKey key, ReachKey(session, caller, id));
  const Role role = key.role == "operator" ? Role::kOperator : ParseRole(key.role, true);
  if (role > caller.principal.role) TP_TRY(RoleTooLow(RoleName(role), caller.principal));
  return key;
}

Result<ApiKey> Accounts::FindKey(const Caller& caller, const std::string& id) const {
  return database_.Get<ApiKey>([&](store::Session& session) { return ReachKey(session, caller, id); });
}

namespace {

Status InsertKey(store::Session& session, const KeyFile& keys, const ApiKey& key, const std::string& secret) {
  return session
      .Execute(
          "INSERT INTO api_keys (id, prefix, hash, name, organisation_id, workspace_id, user_id, role, "
          "models, "
          "endpoints, networks, weight, created_ms, created_by, expires_ms) VALUES ($1, $2, $3, $4, $5, $6, "
          "$7, $8, $9, "
          "$10, $11, $12, $13, $14, $15)",
          {key.id, key.prefix, store::Blob{keys.HashOf(secret)}, key.name, key.organisation, key.workspace,
           key.user.empty() ? store::Value() : store::Value(key.user), key.role, JsonList(key.models),
           JsonList(key.endpoints), JsonList(key.networks), key.weight, key.created_ms, key.created_by,
           key.expires_ms})
      .map([](int64_t) {});
}

}  // namespace

Result<CreatedKey> Accounts::CreateKey(const Caller& caller, const KeySpec& spec) {
  const Principal& who = caller.principal;
  TP_TRY(CheckName(spec.name, "name"));
  TP_TRY(CheckWeight(spec.weight));
  TP_TRY(CheckPatterns(spec.models, "models", false));
  TP_TRY(CheckPatterns(spec.endpoints, "endpoints", true));
  TP_TRY(CheckNetworks(spec.networks));
  TP_TRY(CheckExpiry(spec.expires_ms, wall_clock_.unix_ms()));
  TP_TRY(CheckUnscoped(who));
  const Role role = spec.role == "operator" ? Role::kOperator : ParseRole(spec.role, true);
  if (role == Role::kNone) {
    return Fail(
        ErrorKind::kInvalid, "invalid_value",
        fmt::format("role must be \"viewer\", \"developer\", \"admin\" or (the operator's) \"operator\", not "
                    "\"{}\".",
                    spec.role.substr(0, 40)),
        "role");
  }
  if (spec.service && who.role < Role::kWorkspaceAdmin)
    return tl::unexpected<Error>(RoleTooLow("workspace_admin", who).error());
  if (role > who.role) return tl::unexpected<Error>(RoleTooLow(RoleName(role), who).error());
  if (!spec.service && who.member.empty()) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                "A personal key belongs to a person, and a service key is asking: set service to true.",
                "service");
  }
  return Change<CreatedKey>([&](store::Session& session) -> Result<CreatedKey> {
    TP_ASSIGN(const Workspace there,
              ReachWorkspace(session, caller, spec.workspace.empty() ? who.workspace : spec.workspace));
    if (there.archived_ms)
      return Fail(ErrorKind::kConflict, "workspace_archived", "The workspace is archived.", "workspace");
    TP_TRY(CheckLimit(session, "SELECT COUNT(*) FROM api_keys WHERE workspace_id = $1 AND revoked_ms IS NULL",
                      there.id, options_.max_keys, "keys"));
    CreatedKey made;
    made.secret = MakeKey();
    ApiKey& key = made.key;
    key.id = RandomId("key-");
    key.prefix = KeyPrefix(made.secret);
    key.name = spec.name;
    key.organisation = there.organisation;
    key.workspace = there.id;
    key.user = spec.service ? "" : who.member;
    key.role = spec.role;
    key.models = spec.models;
    key.endpoints = spec.endpoints;
    key.networks = spec.networks;
    key.weight = spec.weight;
    key.created_ms = wall_clock_.unix_ms();
    key.created_by = who.member.empty() ? who.key : who.member;
    key.expires_ms = spec.expires_ms;
    TP_TRY(InsertKey(session, keys_, key, made.secret));
    AuditActor actor = caller.actor;
    actor.organisation = key.organisation;
    actor.workspace = key.workspace;
    TP_TRY(audit_.Append(session, actor, "key.created", key.id, nullptr, AuditOf(key)));
    return made;
  });
}

namespace {

// Locked out, nobody could let anybody in again but from the machine itself.
Status KeepAnOperator(store::Session& session, const ApiKey& key) {
  if (key.role != "operator") return {};
  TP_ASSIGN(const store::Rows others,
            session.Query(
                "SELECT (SELECT COUNT(*) FROM api_keys WHERE role = 'operator' AND revoked_ms IS NULL AND "
                "expires_ms IS NULL AND id <> $1) + (SELECT COUNT(*) FROM users WHERE is_operator = 1)",
                {key.id}));
  if (others.at(0).Integer(0) > 0) return {};
  return Fail(ErrorKind::kConflict, "last_operator",
              "This is the last key of the operator, and nobody can sign in as one: make another first.");
}

}  // namespace

Result<ApiKey> Accounts::ChangeKey(const Caller& caller, const std::string& id, const KeyChange& change) {
  if (change.name) TP_TRY(CheckName(*change.name, "name"));
  if (change.weight) TP_TRY(CheckWeight(*change.weight));
  if (change.models) TP_TRY(CheckPatterns(*change.models, "models", false));
  if (change.endpoints) TP_TRY(CheckPatterns(*change.endpoints, "endpoints", true));
  if (change.networks) TP_TRY(CheckNetworks(*change.networks));
  if (change.expires_ms) TP_TRY(CheckExpiry(*change.expires_ms, wall_clock_.unix_ms()));
  TP_TRY(CheckUnscoped(caller.principal));
  if (change.weight && caller.principal.role < Role::kWorkspaceAdmin)
    return tl::unexpected<Error>(RoleTooLow("workspace_admin", caller.principal).error());
  return Change<ApiKey>([&](store::Session& session) -> Result<ApiKey> {
    TP_ASSIGN(const ApiKey before, ReachKeyToChange(session, caller, id));
    // Nobody widens the key they use, unless they could make such a key.
    if (before.id == caller.principal.key && caller.principal.role < Role::kWorkspaceAdmin &&
        before.user.empty())
      TP_TRY(RoleTooLow("workspace_admin", caller.principal));
    ApiKey after = before;
    if (change.name) after.name = *change.name;
    if (change.models) after.models = *change.models;
    if (change.endpoints) after.endpoints = *change.endpoints;
    if (change.networks) after.networks = *change.networks;
    if (change.weight) after.weight = *change.weight;
    if (change.expires_ms) after.expires_ms = *change.expires_ms;
    const bool narrowed =
        after.expires_ms || !after.endpoints.empty() || !after.networks.empty() || !after.models.empty();
    if (narrowed) TP_TRY(KeepAnOperator(session, before));
    TP_TRY(
        session.Execute("UPDATE api_keys SET name = $1, models = $2, endpoints = $3, networks = $4, weight = "
                        "$5, expires_ms = $6 WHERE "
                        "id = $7",
                        {after.name, JsonList(after.models), JsonList(after.endpoints),
                         JsonList(after.networks), after.weight, after.expires_ms, id}));
    AuditActor actor = caller.actor;
    actor.organisation = after.organisation;
    actor.workspace = after.workspace;
    TP_TRY(audit_.Append(session, actor, "key.changed", id, AuditOf(before), AuditOf(after)));
    return after;
  });
}

Result<CreatedKey> Accounts::RotateKey(const Caller& caller, const std::string& id, double overlap_s) {
  if (!(overlap_s >= 0 && overlap_s <= kMaxOverlap_s)) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("overlap_s must be from 0 to {:.0f} (90 days).", kMaxOverlap_s), "overlap_s");
  }
  const Principal& who = caller.principal;
  // A key's successor has its limits, so one that is limited to networks or a time may rotate itself.
  if (id != who.key || !who.models.empty() || !who.endpoints.empty()) TP_TRY(CheckUnscoped(who));
  return Change<CreatedKey>([&](store::Session& session) -> Result<CreatedKey> {
    TP_ASSIGN(const ApiKey old, ReachKeyToChange(session, caller, id));
    if (!old.user.empty() && old.user != who.member) {
      return Fail(ErrorKind::kForbidden, "not_your_key",
                  "A personal key acts as the person whose it is: only they rotate it. You may revoke it.");
    }
    const int64_t now = wall_clock_.unix_ms();
    if (old.revoked_ms || (old.expires_ms && *old.expires_ms <= now))
      return Fail(ErrorKind::kConflict, "key_revoked", "This key works no more; make a new one.");
    CreatedKey made;
    made.secret = MakeKey();
    made.key = old;
    ApiKey& key = made.key;
    key.id = RandomId("key-");
    key.prefix = KeyPrefix(made.secret);
    key.created_ms = now;
    key.created_by = caller.principal.member.empty() ? caller.principal.key : caller.principal.member;
    key.last_used_ms.reset();
    key.replaced_by.reset();
    TP_TRY(InsertKey(session, keys_, key, made.secret));
    const int64_t until = now + static_cast<int64_t>(overlap_s * 1000);
    const int64_t expires = old.expires_ms ? std::min(*old.expires_ms, until) : until;
    TP_TRY(session.Execute("UPDATE api_keys SET replaced_by = $1, expires_ms = $2 WHERE id = $3",
                           {key.id, expires, id}));
    ApiKey after = old;
    after.expires_ms = expires;
    AuditActor actor = caller.actor;
    actor.organisation = key.organisation;
    actor.workspace = key.workspace;
    TP_TRY(audit_.Append(session, actor, "key.rotated", id, AuditOf(old), AuditOf(after)));
    TP_TRY(audit_.Append(session, actor, "key.created", key.id, nullptr, AuditOf(key)));
    return made;
  });
}

Result<ApiKey> Accounts::RevokeKey(const Caller& caller, const std::string& id) {
  return Change<ApiKey>([&](store::Session& session) -> Result<ApiKey> {
    TP_ASSIGN(const ApiKey before, ReachKeyToChange(session, caller, id));
    if (before.revoked_ms) return before;
    TP_TRY(KeepAnOperator(session, before));
    ApiKey after = before;
    after.revoked_ms = wall_clock_.unix_ms();
    TP_TRY(session.Execute("UPDATE api_keys SET revoked_ms = $1 WHERE id = $2", {after.revoked_ms, id}));
    AuditActor actor = caller.actor;
    actor.organisation = after.organisation;
    actor.workspace = after.workspace;
    TP_TRY(audit_.Append(session, actor, "key.revoked", id, AuditOf(before), AuditOf(after)));
    return after;
  });
}

}  // namespace tidepool::platform
