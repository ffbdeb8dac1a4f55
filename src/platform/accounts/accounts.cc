#include "platform/accounts/accounts.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <limits>
#include <nlohmann/json.hpp>

#include "base/ids.h"
#include "base/log.h"
#include "platform/accounts/accounts_rows.h"
#include "platform/accounts/keys.h"

namespace tidepool::platform {
namespace {

constexpr int64_t kFlushMs = 30'000;

tl::unexpected<Error> Unauthenticated(std::string code, std::string message) {
  return Fail(ErrorKind::kUnauthenticated, std::move(code), std::move(message));
}

}  // namespace

Role ParseRole(std::string_view role, bool in_workspace) {
  if (role == "viewer") return Role::kViewer;
  if (role == "developer") return Role::kDeveloper;
  if (role == "admin") return in_workspace ? Role::kWorkspaceAdmin : Role::kAdmin;
  if (role == "owner" && !in_workspace) return Role::kOwner;
  return Role::kNone;
}

Role Accounts::Directory::RoleOf(const std::string& user, const std::string& workspace) const {
  const auto who = users.find(user);
  const auto where = workspaces.find(workspace);
  if (who == users.end() || where == workspaces.end() || where->second.archived) return Role::kNone;
  if (who->second) return Role::kOperator;
  Role role = Role::kNone;
  const auto found = members.find(user);
  if (found == members.end()) return role;
  for (const MemberRecord& member : found->second) {
    if (member.organisation != where->second.organisation) continue;
    if (member.workspace.empty() || member.workspace == workspace) role = std::max(role, member.role);
  }
  return role;
}

Accounts::Accounts(store::Database& database, const KeyFile& keys, Audit& audit, const Clock& clock,
                   const WallClock& wall_clock, MetricsRegistry& metrics, const AccountsOptions& options)
    : database_(database),
      keys_(keys),
      audit_(audit),
      clock_(clock),
      wall_clock_(wall_clock),
      options_(options),
      refused_keys_(metrics.counter("tidepool_accounts_refused_credentials_total",
                                    "Requests with a wrong, expired or revoked key or session")),
      sign_ins_(metrics.counter("tidepool_accounts_sign_ins_total", "People who signed in")),
      failed_sign_ins_(metrics.counter("tidepool_accounts_failed_sign_ins_total",
                                       "Sign-ins with a wrong password, or too many of them")),
      refreshes_(metrics.counter("tidepool_accounts_refreshes_total",
                                 "Times the keys and memberships in memory were read again")),
      known_keys_(metrics.gauge("tidepool_accounts_keys", "Keys that are not revoked")),
      known_sessions_(metrics.gauge("tidepool_accounts_sessions", "Sessions")) {}

Accounts::~Accounts() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
}

Result<std::unique_ptr<Accounts>> Accounts::Open(store::Database& database, const KeyFile& keys, Audit& audit,
                                                 const Clock& clock, const WallClock& wall_clock,
                                                 MetricsRegistry& metrics, const AccountsOptions& options,
                                                 const std::optional<FirstKey>& first_key) {
  std::unique_ptr<Accounts> accounts(
      new Accounts(database, keys, audit, clock, wall_clock, metrics, options));
  TP_TRY(accounts->FirstStart(first_key));
  TP_TRY(accounts->Refresh(true));
  accounts->thread_ = std::thread([raw = accounts.get()] { raw->RunRefresh(); });
  return accounts;
}

Status Accounts::FirstStart(const std::optional<FirstKey>& first_key) {
  return database_.Write([&](store::Session& session) -> Status {
    const std::string fingerprint = keys_.Fingerprint();
    TP_ASSIGN(const store::Rows known,
              session.Query("SELECT value FROM accounts_state WHERE name = 'key_file'"));
    if (!known.empty()) {
      if (known[0].Text(0) == fingerprint) return {};
      return Fail(
          ErrorKind::kCorrupt, "wrong_key_file",
          fmt::format("{} is not the key file of this store: keys, secrets and the audit log cannot be "
                      "read with it. Restore the right one from a backup made with --with-keys.",
                      KeyFile::kName));
    }
    const int64_t now = wall_clock_.unix_ms();
    TP_TRY(session.Execute("INSERT INTO accounts_state (name, number, value) VALUES ('key_file', 0, $1)",
                           {fingerprint}));
    TP_TRY(session.Execute(
        "INSERT INTO organisations (id, name, suspended, weight, created_ms) VALUES ($1, $2, 0, 1.0, $3)",
        {kDefaultId, kDefaultId, now}));
    TP_TRY(session.Execute(
        "INSERT INTO workspaces (id, organisation_id, name, weight, created_ms) VALUES ($1, $1, $1, 1.0, $2)",
        {kDefaultId, now}));
    TP_TRY(audit_.Append(session, MachineActor(), "installation.created", "default", nullptr, nullptr));
    if (!first_key) return {};
    const bool in_clear = !first_key->secret.empty();
    ApiKey key;
    key.id = RandomId("key-");
    key.prefix = in_clear ? KeyPrefix(first_key->secret) : first_key->prefix;
    key.name = "operator";
    key.organisation = key.workspace = kDefaultId;
    key.role = "operator";
    key.created_ms = now;
    key.created_by = "machine";
    TP_TRY(session.Execute(
        "INSERT INTO api_keys (id, prefix, hash, name, organisation_id, workspace_id, role, models, "
        "endpoints, "
        "networks, weight, created_ms, created_by) VALUES ($1, $2, $3, $4, $5, $6, $7, '[]', '[]', '[]', "
        "1.0, $8, "
        "$9)",
        {key.id, key.prefix, store::Blob{in_clear ? keys_.HashOf(first_key->secret) : first_key->hash},
         key.name, key.organisation, key.workspace, key.role, now, key.created_by}));
    return audit_.Append(session, MachineActor(), "key.created", key.id, nullptr, AuditOf(key));
  });
}

std::shared_ptr<const Accounts::Directory> Accounts::directory() const {
  std::lock_guard lock(directory_mutex_);
  return directory_;
}

Result<std::shared_ptr<const Accounts::Directory>> Accounts::ReadDirectory() const {
  const auto old = directory();
  auto fresh = std::make_shared<Directory>();
  const int64_t now = wall_clock_.unix_ms();
  const Status read = database_.Read([&](store::Session& session) -> Status {
    TP_ASSIGN(const store::Rows version,
              session.Query("SELECT number FROM accounts_state WHERE name = 'version'"));
    fresh->version = version.at(0).Integer(0);
    const auto each = [&](std::string_view sql, const std::function<void(const store::Row&)>& take) {
      return session.Each(sql, {}, [&](const store::Row& row) {
        take(row);
        return true;
      });
    };
    TP_TRY(each("SELECT id, suspended, weight FROM organisations", [&](const store::Row& row) {
      fresh->organisations[row.Text(0)] = {row.Flag(1), row.Number(2)};
    }));
    TP_TRY(each(
        "SELECT id, organisation_id, weight, archived_ms, sharing, store_bodies, retention_days, redact, "
        "stored_responses FROM workspaces",
        [&](const store::Row& row) {
          fresh->workspaces[row.Text(0)] = {row.Text(1),
                                            row.Number(2),
                                            !row.IsNull(3),
                                            row.Flag(4),
                                            BodyRuleOfRow(row.Flag(5), row.Integer(6), row.Text(7)),
                                            ResponsesRuleOfRow(row.Integer(8))};
        }));
    TP_TRY(each("SELECT id, is_operator FROM users",
                [&](const store::Row& row) { fresh->users[row.Text(0)] = row.Flag(1); }));
    TP_TRY(
        each("SELECT user_id, organisation_id, workspace_id, role FROM members", [&](const store::Row& row) {
          fresh->members[row.Text(0)].push_back(
              {row.Text(1), row.Text(2), ParseRole(row.Text(3), !row.IsNull(2))});
        }));
    TP_TRY(
        each("SELECT hash, id, prefix, organisation_id, workspace_id, user_id, role, models, endpoints, "
             "networks, weight, "
             "expires_ms, revoked_ms, last_used_ms FROM api_keys",
             [&](const store::Row& row) {
               auto key = std::make_shared<KeyRecord>();
               key->id = row.Text(1);
               key->prefix = row.Text(2);
               key->organisation = row.Text(3);
               key->workspace = row.Text(4);
               key->user = row.Text(5);
               key->role = row.Text(6) == "operator" ? Role::kOperator : ParseRole(row.Text(6), true);
               key->models = ListOfJson(row.Text(7));
               key->endpoints = ListOfJson(row.Text(8));
               for (const std::string& text : ListOfJson(row.Text(9))) {
                 if (auto network = Network::Parse(text)) {
                   key->networks.push_back(*network);
                 } else {
                   key->networks_readable = false;
                 }
               }
               key->weight = row.Number(10);
               key->expires_ms = row.OptionalInteger(11);
               key->revoked_ms = row.OptionalInteger(12);
               if (old) {
                 const auto before = old->keys_by_id.find(key->id);
                 if (before != old->keys_by_id.end()) key->last_used_ms = before->second->last_used_ms;
               }
               if (!key->last_used_ms)
                 key->last_used_ms = std::make_shared<std::atomic<int64_t>>(row.Integer(13));
               fresh->keys[row.Bytes(0)] = key;
               fresh->keys_by_id[key->id] = key;
             }));
    return session.Each("SELECT hash, id, user_id, expires_ms FROM sessions WHERE expires_ms > $1", {now},
                        [&](const store::Row& row) {
                          fresh->session_hashes[row.Text(1)] = row.Bytes(0);
                          fresh->sessions[row.Bytes(0)] = {row.Text(1), row.Text(2), row.Integer(3)};
                          return true;
                        });
  });
  TP_TRY(read);
  return std::shared_ptr<const Directory>(std::move(fresh));
}

Status Accounts::Refresh(bool always) {
  std::lock_guard lock(refresh_mutex_);
  if (!always) {
    TP_ASSIGN(const int64_t version, database_.Get<int64_t>([](store::Session& session) -> Result<int64_t> {
      TP_ASSIGN(const store::Rows rows,
                session.Query("SELECT number FROM accounts_state WHERE name = 'version'"));
      return rows.at(0).Integer(0);
    }));
    if (version == directory()->version) return {};
  }
  TP_ASSIGN(std::shared_ptr<const Directory> fresh, ReadDirectory());
  refreshes_.Increment();
  int64_t live = 0;
  for (const auto& [id, key] : fresh->keys_by_id) live += key->revoked_ms ? 0 : 1;
  known_keys_.Set(static_cast<double>(live));
  known_sessions_.Set(static_cast<double>(fresh->sessions.size()));
  {
    std::lock_guard pointer(directory_mutex_);
    directory_ = std::move(fresh);
  }
  std::function<void()> changed;
  {
    std::lock_guard callback(changed_mutex_);
    changed = changed_;
  }
  if (changed) changed();
  return {};
}

void Accounts::OnChange(std::function<void()> changed) {
  std::lock_guard lock(changed_mutex_);
  changed_ = std::move(changed);
}

void Accounts::RunRefresh() {
  bool reachable = true;
  auto flushed = std::chrono::steady_clock::now();
  int64_t since_ms = 0;
  std::unique_lock lock(mutex_);
  while (!wake_.wait_for(lock, std::chrono::milliseconds(kRefreshMs), [this] { return stopping_; })) {
    lock.unlock();
    const Status refreshed = Refresh(false);
    if (refreshed.has_value() != reachable) {
      reachable = refreshed.has_value();
      if (reachable) {
        LogInfo("the store answers again");
      } else {
        LogError("keys and memberships cannot be read; the ones in memory stay in force",
                 {{"reason", refreshed.error().message}});
      }
    }
    if (std::chrono::steady_clock::now() - flushed > std::chrono::milliseconds(kFlushMs)) {
      flushed = std::chrono::steady_clock::now();
      since_ms = FlushLastUsed(since_ms);
    }
    lock.lock();
  }
  lock.unlock();
  FlushLastUsed(since_ms);
}

int64_t Accounts::FlushLastUsed(int64_t since_ms) {
  const auto now = directory();
  const int64_t today = wall_clock_.unix_ms();
  const Status done = database_.Write([&](store::Session& session) -> Status {
    for (const auto& [id, key] : now->keys_by_id) {
      const int64_t used = key->last_used_ms->load(std::memory_order_relaxed);
      if (used == 0 || used < since_ms) continue;
      TP_TRY(
          session.Execute("UPDATE api_keys SET last_used_ms = $1 WHERE id = $2 AND (last_used_ms IS NULL OR "
                          "last_used_ms < $1)",
                          {used, id}));
    }
    TP_TRY(session.Execute("DELETE FROM sessions WHERE expires_ms < $1", {today}));
    TP_TRY(session.Execute("DELETE FROM idempotent_replies WHERE created_ms < $1", {today - 86'400'000}));
    return {};
  });
  if (!done) LogWarn("when keys were last used is not kept", {{"reason", done.error().message}});
  return done ? today : since_ms;
}

Result<Principal> Accounts::PrincipalOfKey(const Directory& directory, const KeyRecord& key,
                                           std::string_view address) const {
  const int64_t now = wall_clock_.unix_ms();
  if (key.revoked_ms) {  // whenever that was: a clock that jumps back revives nothing
    return Unauthenticated("key_revoked",
                           fmt::format("The key {}... was revoked. Use another one.", key.prefix));
  }
  if (key.expires_ms && *key.expires_ms <= now) {
    return Unauthenticated("key_expired",
                           fmt::format("The key {}... has expired. Make a new one.", key.prefix));
  }
  const auto organisation = directory.organisations.find(key.organisation);
  const auto workspace = directory.workspaces.find(key.workspace);
  if (organisation == directory.organisations.end() || workspace == directory.workspaces.end() ||
      workspace->second.archived) {
    return Unauthenticated("key_revoked", "The workspace of this key is archived.");
  }
  if (organisation->second.suspended && key.role != Role::kOperator) {
    return Fail(ErrorKind::kForbidden, "organisation_suspended",
                "This organisation is suspended; ask the operator of this server.");
  }
  if (!key.networks_readable || (!key.networks.empty() && !AnyContains(key.networks, address))) {
    return Fail(ErrorKind::kForbidden, "address_not_allowed",
                fmt::format("The key {}... may not be used from {}.", key.prefix, address));
  }
  Principal principal;
  principal.role = key.role;
  principal.limited = !key.networks.empty() || key.expires_ms.has_value();
  if (!key.user.empty()) {
    principal.role = std::min(principal.role, directory.RoleOf(key.user, key.workspace));
    if (principal.role == Role::kNone)
      return Unauthenticated("key_revoked", "The member whose key this is has left the workspace.");
  }
  principal.organisation = key.organisation;
  principal.workspace = key.workspace;
  principal.member = key.user;
  principal.key = key.id;
  principal.key_id = key.prefix;
  principal.is_operator = principal.role == Role::kOperator;
  principal.models = key.models;
  principal.endpoints = key.endpoints;
  principal.account = fmt::format("{}/{}/{}", key.organisation, key.workspace, key.id);
  principal.account_weights = {organisation->second.weight, workspace->second.weight, key.weight};
  return principal;
}

Result<Principal> Accounts::PrincipalOfSession(const Directory& directory, const std::string& session_id,
                                               std::string_view wanted) const {
  const auto hash = directory.session_hashes.find(session_id);
  const auto session = hash == directory.session_hashes.end() ? directory.sessions.end()
                                                              : directory.sessions.find(hash->second);
  if (session == directory.sessions.end() || session->second.expires_ms <= wall_clock_.unix_ms())
    return Unauthenticated("invalid_session", "The session has ended; sign in again.");
  const std::string& user = session->second.user;
  std::string chosen;
  Role role = Role::kNone;
  if (!wanted.empty()) {
    chosen = std::string(wanted);
    role = directory.RoleOf(user, chosen);
  } else {
    for (const auto& [id, workspace] : directory.workspaces) {
      const Role here = directory.RoleOf(user, id);
      if (here > role || (here == role && id == kDefaultId)) {
        chosen = id;
        role = here;
      }
    }
  }
  const auto workspace = directory.workspaces.find(chosen);
  if (role == Role::kNone || workspace == directory.workspaces.end()) {
    return Fail(ErrorKind::kForbidden, "workspace_not_yours",
                wanted.empty() ? std::string("You are in no workspace; ask an admin of your organisation.")
                               : fmt::format("There is no workspace \"{}\" of yours.", wanted.substr(0, 100)),
                "Tidepool-Workspace");
  }
  const auto organisation = directory.organisations.find(workspace->second.organisation);
  if (organisation == directory.organisations.end() ||
      (organisation->second.suspended && role != Role::kOperator)) {
    return Fail(ErrorKind::kForbidden, "organisation_suspended",
                "This organisation is suspended; ask the operator of this server.");
  }
  Principal principal;
  principal.organisation = workspace->second.organisation;
  principal.workspace = chosen;
  principal.member = user;
  principal.key = "console";
  principal.key_id = "console";
  principal.session = session_id;
  principal.role = role;
  principal.is_operator = role == Role::kOperator;
  principal.account = fmt::format("{}/{}/console", principal.organisation, chosen);
  principal.account_weights = {organisation->second.weight, workspace->second.weight, 1};
  return principal;
}

Result<Principal> Accounts::Authenticate(const Credentials& credentials) const {
  const auto now = directory();
  const auto refuse = [&](Result<Principal> refused) {
    refused_keys_.Increment();
    return refused;
  };
  if (!credentials.key.empty()) {
    if (!KeyLooksValid(credentials.key)) {
      return refuse(
          Unauthenticated("invalid_api_key",
                          "This API key is mistyped or cut short: a Tidepool key starts with tp- and its "
                          "checksum fits."));
    }
    const auto found = now->keys.find(keys_.HashOf(credentials.key));
    if (found == now->keys.end())
      return refuse(Unauthenticated("invalid_api_key", "This API key is not known here."));
    auto principal = PrincipalOfKey(*now, *found->second, credentials.address);
    if (!principal) return refuse(std::move(principal));
    found->second->last_used_ms->store(wall_clock_.unix_ms(), std::memory_order_relaxed);
    return principal;
  }
  if (!credentials.session.empty() && credentials.session.size() <= 200) {
    const auto found = now->sessions.find(keys_.HashOf(credentials.session));
    if (found == now->sessions.end())
      return refuse(Unauthenticated("invalid_session", "The session has ended; sign in again."));
    auto principal = PrincipalOfSession(*now, found->second.id, credentials.workspace);
    if (!principal) return refuse(std::move(principal));
    if (credentials.writes && credentials.csrf != CsrfOf(credentials.session)) {
      return refuse(
          Fail(ErrorKind::kForbidden, "csrf_token_missing",
               "A change made with the session cookie needs the header Tidepool-CSRF with the token that "
               "signing in (or GET /api/v1/sessions/current) gave.",
               "Tidepool-CSRF"));
    }
    return principal;
  }
  return Unauthenticated(
      "missing_api_key",
      "No API key. Send it as \"Authorization: Bearer tp-...\", or sign in. The operator's key was "
      "shown at the first start and is in admin.key of the server's home folder.");
}

bool Accounts::StillValid(const Principal& principal) const {
  if (principal.key == "open") return true;
  const auto now = directory();
  if (!principal.session.empty()) {
    const auto fresh = PrincipalOfSession(*now, principal.session, principal.workspace);
    return fresh && fresh->role >= principal.role;
  }
  const auto key = now->keys_by_id.find(principal.key);
  if (key == now->keys_by_id.end()) return false;
  KeyRecord anywhere = *key->second;  // its networks were checked when the request came
  anywhere.networks.clear();
  const auto fresh = PrincipalOfKey(*now, anywhere, "");
  return fresh && fresh->role >= principal.role;
}

// Bound to the session: nothing to store, and of no use with another one.
std::string Accounts::CsrfOf(std::string_view session_token) const {
  return HexOf(keys_.HashOf(fmt::format("csrf:{}", session_token))).substr(0, 32);
}

// --- rows and checks ---

Organisation OrganisationOf(const store::Row& row) {
  return {row.Text(0), row.Text(1), row.Flag(2), row.Number(3), row.Integer(4)};
}
Workspace WorkspaceOf(const store::Row& row) {
  return {row.Text(0),
          row.Text(1),
          row.Text(2),
          row.Number(3),
          row.Integer(4),
          row.OptionalInteger(5),
          row.Flag(6),
          BodyRuleOfRow(row.Flag(7), row.Integer(8), row.Text(9)),
          ResponsesRuleOfRow(row.Integer(10))};
}
BodyRule BodyRuleOfRow(bool store, int64_t retention_days, const std::string& redact) {
  BodyRule rule;
  rule.store = store;
  rule.retention_days = static_cast<int32_t>(retention_days);
  ReadRedact(nlohmann::ordered_json::parse(redact, nullptr, false), rule);
  return rule;
}
// What a newer version wrote and this one cannot read is the careful one.
ResponsesRule ResponsesRuleOfRow(int64_t number) {
  return number == 0 ? ResponsesRule::kAsAsked : ResponsesRule::kNever;
}
Member MemberOf(const store::Row& row) {
  Member member;
  member.id = row.Text(0);
  member.organisation = row.Text(1);
  member.workspace = row.OptionalText(2);
  member.user = row.Text(3);
  member.role = row.Text(4);
  member.created_ms = row.Integer(5);
  member.email = row.Text(6);
  member.name = row.Text(7);
  return member;
}
ApiKey ApiKeyOf(const store::Row& row) {
  ApiKey key;
  key.id = row.Text(0);
  key.prefix = row.Text(1);
  key.name = row.Text(2);
  key.organisation = row.Text(3);
  key.workspace = row.Text(4);
  key.user = row.Text(5);
  key.role = row.Text(6);
  key.models = ListOfJson(row.Text(7));
  key.endpoints = ListOfJson(row.Text(8));
  key.networks = ListOfJson(row.Text(9));
  key.weight = row.Number(10);
  key.created_ms = row.Integer(11);
  key.created_by = row.Text(12);
  key.expires_ms = row.OptionalInteger(13);
  key.revoked_ms = row.OptionalInteger(14);
  key.last_used_ms = row.OptionalInteger(15);
  key.replaced_by = row.OptionalText(16);
  return key;
}
Link LinkOf(const store::Row& row) {
  Link link;
  link.id = row.Text(0);
  link.kind = row.Text(1);
  link.organisation = row.Text(2);
  link.workspace = row.OptionalText(3);
  link.user = row.OptionalText(4);
  link.email = row.Text(5);
  link.role = row.Text(6);
  link.created_ms = row.Integer(7);
  link.created_by = row.Text(8);
  link.expires_ms = row.Integer(9);
  link.used_ms = row.OptionalInteger(10);
  return link;
}

std::string JsonList(const std::vector<std::string>& items) {
  return nlohmann::json(items).dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}
std::vector<std::string> ListOfJson(const std::string& text) {
  std::vector<std::string> out;
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_array()) return out;
  for (const auto& item : json) {
    if (item.is_string()) out.push_back(item.get<std::string>());
  }
  return out;
}

nlohmann::ordered_json AuditOf(const Organisation& organisation) {
  return {
      {"name", organisation.name}, {"weight", organisation.weight}, {"suspended", organisation.suspended}};
}
nlohmann::ordered_json AuditOf(const Workspace& workspace) {
  return {{"organisation", workspace.organisation},
          {"name", workspace.name},
          {"weight", workspace.weight},
          {"sharing", workspace.sharing},
          {"store_bodies", workspace.bodies.store},
          {"retention_days", workspace.bodies.retention_days},
          {"redact", RedactJson(workspace.bodies)},
          {"stored_responses", kResponsesRuleNames[static_cast<size_t>(workspace.responses)]},
          {"archived", workspace.archived_ms.has_value()}};
}
nlohmann::ordered_json AuditOf(const Member& member) {
  return {{"organisation", member.organisation},
          {"workspace", member.workspace.value_or("")},
          {"email", member.email},
          {"role", member.role}};
}
nlohmann::ordered_json AuditOf(const ApiKey& key) {
  nlohmann::ordered_json out = {
      {"prefix", key.prefix},       {"name", key.name},         {"workspace", key.workspace},
      {"member", key.user},         {"role", key.role},         {"models", key.models},
      {"endpoints", key.endpoints}, {"networks", key.networks}, {"weight", key.weight}};
  if (key.expires_ms) out["expires_ms"] = *key.expires_ms;
  if (key.revoked_ms) out["revoked_ms"] = *key.revoked_ms;
  return out;
}
nlohmann::ordered_json AuditOf(const Link& link) {
  return {{"kind", link.kind},
          {"email", link.email},
          {"role", link.role},
          {"workspace", link.workspace.value_or("")},
          {"expires_ms", link.expires_ms}};
}

Status CheckName(const std::string& name, std::string_view field) {
  const bool control = std::any_of(name.begin(), name.end(),
                                   [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
  if (!name.empty() && name.size() <= 200 && !control) return {};
  return Fail(ErrorKind::kInvalid, "invalid_value",
              fmt::format("{} must have 1 to 200 bytes and no control characters.", field),
              std::string(field));
}

Status CheckWeight(double weight) {
  if (weight >= 0.001 && weight <= 1000) return {};
  return Fail(ErrorKind::kInvalid, "invalid_value",
              fmt::format("weight must be from 0.001 to 1000, not {}.", weight), "weight");
}

Result<std::string> CheckEmail(const std::string& email) {
  std::string out = email;
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  const size_t at = out.find('@');
  const bool odd = std::any_of(out.begin(), out.end(), [](char c) {
    return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f || c == '<' || c == '>' || c == '"' || c == ',';
  });
  if (at == std::string::npos || at == 0 || at + 1 == out.size() ||
      out.find('@', at + 1) != std::string::npos || odd || out.size() > 254) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("\"{}\" is no mail address such as name@example.org.", email.substr(0, 60)),
                "email");
  }
  return out;
}

Status RoleTooLow(std::string_view needed, const Principal& principal) {
  return Fail(ErrorKind::kForbidden, "role_too_low",
              fmt::format("This needs the role {}; yours here is {}.", needed, RoleName(principal.role)));
}

tl::unexpected<Error> NotThere(std::string_view what, const std::string& id) {
  return Fail(ErrorKind::kNotFound, fmt::format("{}_not_found", what),
              fmt::format("There is no {} \"{}\" that you may see.", what, id.substr(0, 100)));
}

Result<Cursor> CursorOf(const Page& page) {
  if (page.limit < 1 || page.limit > 1000) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("limit must be 1 to 1000, not {}.", page.limit), "limit");
  }
  if (page.after.empty()) return Cursor{std::numeric_limits<int64_t>::min(), ""};
  Cursor cursor;
  const size_t dot = page.after.find('.');
  const std::string_view number(page.after.data(), dot == std::string::npos ? 0 : dot);
  const auto [end, problem] =
      std::from_chars(number.data(), number.data() + number.size(), cursor.created_ms);
  if (number.empty() || problem != std::errc() || end != number.data() + number.size()) {
    return Fail(ErrorKind::kInvalid, "invalid_cursor", "after must be the next_cursor of the page before.",
                "after");
  }
  cursor.id = page.after.substr(dot + 1);
  return cursor;
}

Status Accounts::CheckLimit(store::Session& session, std::string_view sql, const std::string& of,
                            int64_t limit, std::string_view what) const {
  TP_ASSIGN(const store::Rows rows, session.Query(sql, {of}));
  if (rows.at(0).Integer(0) < limit) return {};
  return Fail(ErrorKind::kConflict, fmt::format("too_many_{}", what),
              fmt::format("There are {} {} already, as many as the settings allow.", limit, what));
}

}  // namespace tidepool::platform
