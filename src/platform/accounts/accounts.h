// Organisations, workspaces, members, keys, sessions and links: who there is and what they may do.
//
// The store's rows are the truth; a copy of what requests need (keys, memberships, sessions) is kept in
// memory and replaced when it changes: at once for changes of this process, within kRefreshMs for those of
// another (the command line on the machine, another node). So a revoked key is refused within a second
// everywhere.
//
// Threads: all methods from any thread. Authenticate and StillValid never block; the others wait for the
// store, those with passwords also a tenth of a second for argon2id.
//
// Errors besides the store's: kNotFound for what is not there or belongs to somebody else (the same answer,
// so that names do not leak), kForbidden "role_too_low", "last_owner", kConflict "exists", kInvalid with the
// field, kOverloaded "too_many_attempts" and "too_many_..." for limits.
#pragma once

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/audit.h"
#include "platform/accounts/authenticator.h"
#include "platform/accounts/body_rule.h"
#include "platform/accounts/key_file.h"
#include "platform/store/database.h"

namespace tidepool::platform {

inline constexpr int kRefreshMs = 300;

struct AccountsOptions {
  int64_t max_organisations = 10'000;
  int64_t max_workspaces = 1'000;  // of an organisation
  int64_t max_members = 10'000;    // of an organisation
  int64_t max_keys = 1'000;        // of a workspace, revoked ones not counted
  int64_t max_sessions = 20;       // of a person; the oldest ends
  double session_hours = 168;      // a week
  double setup_link_hours = 24;
  double invitation_hours = 168;
  double reset_link_hours = 24;
  int32_t sign_in_attempts = 10;  // failed ones for an address or a person; one more every minute
  int32_t min_password_chars = 10;
};

// Who asks for a change: rights come from the principal, the audit row from the actor.
struct Caller {
  Principal principal;
  AuditActor actor;
};

struct Page {
  int64_t limit = 100;  // 1..1000
  std::string after;    // the cursor of the page before; empty: from the start
};
template <typename T>
struct Listed {
  std::vector<T> items;
  std::string next;  // the cursor of the next page; empty: this was the last
};

struct Organisation {
  std::string id, name;
  bool suspended = false;  // its keys and sessions are refused
  double weight = 1;       // of its share of the pool
  int64_t created_ms = 0;
};
struct Workspace {
  std::string id, organisation, name;
  double weight = 1;
  int64_t created_ms = 0;
  std::optional<int64_t> archived_ms;
  bool sharing = false;  // links to conversations, for people without an account
  BodyRule bodies = {};
  ResponsesRule responses = ResponsesRule::kAsAsked;
  // What the change that this came from deleted of what was stored.
  int64_t bodies_deleted = 0, responses_deleted = 0;
};
// What is absent stays as it is.
struct WorkspaceChange {
  std::optional<std::string> name = {};
  std::optional<double> weight = {};
  std::optional<bool> sharing = {}, store_bodies = {};
  std::optional<int64_t> retention_days = {};         // 1..365, and what the operator allows
  std::optional<nlohmann::ordered_json> redact = {};  // an object, as RedactJson writes it
  std::optional<ResponsesRule> stored_responses = {};
};
struct Member {
  std::string id, organisation, user, email, name;
  std::optional<std::string> workspace;  // none: of the whole organisation
  std::string role;                      // "owner" (organisation only), "admin", "developer", "viewer"
  int64_t created_ms = 0;
};
struct User {
  std::string id, email, name;
  bool is_operator = false;
};
struct ApiKey {
  std::string id, prefix, name, organisation, workspace;
  std::string user;  // empty: a service key
  std::string role;  // "viewer", "developer", "admin", "operator"
  std::vector<std::string> models, endpoints, networks;
  double weight = 1;
  int64_t created_ms = 0;
  std::string created_by;
  std::optional<int64_t> expires_ms, revoked_ms, last_used_ms;
  std::optional<std::string> replaced_by;
};
struct CreatedKey {
  ApiKey key;
  std::string secret;  // shown once
};
struct KeySpec {
  std::string name;
  std::string workspace;  // empty: the caller's
  bool service = false;   // else personal: dies with the caller's membership
  std::string role = "developer";
  std::vector<std::string> models, endpoints, networks;
  double weight = 1;
  std::optional<int64_t> expires_ms;
};
// What is absent stays as it is.
struct KeyChange {
  std::optional<std::string> name;
  std::optional<std::vector<std::string>> models, endpoints, networks;
  std::optional<double> weight;
  std::optional<std::optional<int64_t>> expires_ms;
};
struct SessionEntry {
  std::string id, user, address;
  int64_t created_ms = 0, expires_ms = 0;
};
struct SignedIn {
  std::string token;  // for the cookie
  std::string csrf;
  std::string session;
  User user;
  int64_t expires_ms = 0;
};
struct Link {
  std::string id, kind;  // "setup", "invitation", "reset"
  std::string organisation, email, role, created_by;
  std::optional<std::string> workspace, user;
  int64_t created_ms = 0, expires_ms = 0;
  std::optional<int64_t> used_ms;
};
struct CreatedLink {
  Link link;
  std::string token;  // shown once: /setup#TOKEN
};

class Accounts final : public Authenticator {
 public:
  // Makes the organisation and workspace "default" in an empty store and, with `first_key` (or the hash of
  // one from before the store), the operator's service key there. All arguments outlive it.
  struct FirstKey {
    std::string secret;  // the key in clear; empty: `hash` and `prefix` are known only
    std::string hash, prefix;
  };
  static Result<std::unique_ptr<Accounts>> Open(store::Database& database, const KeyFile& keys, Audit& audit,
                                                const Clock& clock, const WallClock& wall_clock,
                                                MetricsRegistry& metrics, const AccountsOptions& options,
                                                const std::optional<FirstKey>& first_key);
  ~Accounts() override;
  Accounts(const Accounts&) = delete;
  Accounts& operator=(const Accounts&) = delete;

  Result<Principal> Authenticate(const Credentials& credentials) const override;
  bool StillValid(const Principal& principal) const override;
  // Called after each change of rights (any thread): streams of who lost them are to be cut.
  void OnChange(std::function<void()> changed);

  // organisations.cc
  Result<Listed<Organisation>> ListOrganisations(const Caller& caller, const Page& page) const;
  Result<Organisation> FindOrganisation(const Caller& caller, const std::string& id) const;
  Result<Organisation> CreateOrganisation(const Caller& caller, const std::string& name, double weight);
  Result<Organisation> ChangeOrganisation(const Caller& caller, const std::string& id,
                                          const std::optional<std::string>& name,
                                          std::optional<double> weight, std::optional<bool> suspended);
  Result<Listed<Workspace>> ListWorkspaces(const Caller& caller, const std::string& organisation,
                                           const Page& page) const;
  Result<Workspace> FindWorkspace(const Caller& caller, const std::string& id) const;
  Result<Workspace> CreateWorkspace(const Caller& caller, const std::string& organisation,
                                    const std::string& name, double weight);
  Result<Workspace> ChangeWorkspace(const Caller& caller, const std::string& id,
                                    const WorkspaceChange& change);
  // May conversations of this workspace be shared, by this person (empty: by a key)? Never blocks.
  bool MayShare(const std::string& workspace, const std::string& user) const;
  // What the workspace lets be stored. Never blocks; of one that is archived or not there: nothing.
  BodyRule BodyRuleOf(const std::string& workspace) const;
  ResponsesRule ResponsesRuleOf(const std::string& workspace) const;
  // The same as the store has it, within the write that depends on it.
  static Result<BodyRule> ReadBodyRule(store::Session& session, const std::string& workspace);
  static Result<bool> ReadMayStoreResponses(store::Session& session, const std::string& workspace);
  // Floors above check what a workspace is to be, and undo what it does not allow any more, in the
  // transaction of the change: their error undoes it. Called on the store's writer thread. Before anything is
  // served.
  using WorkspaceHook = std::function<Status(store::Session&, const Workspace& before, Workspace& after)>;
  void OnWorkspaceChange(WorkspaceHook hook);
  // Its keys stop working; its usage stays, what was stored of its requests goes.
  Result<Workspace> ArchiveWorkspace(const Caller& caller, const std::string& id);

  // members.cc
  Result<Listed<Member>> ListMembers(const Caller& caller, const std::string& workspace,
                                     const Page& page) const;
  Result<Member> FindMember(const Caller& caller, const std::string& id) const;
  Result<Member> ChangeMember(const Caller& caller, const std::string& id, const std::string& role);
  Status RemoveMember(const Caller& caller, const std::string& id);
  Result<CreatedLink> Invite(const Caller& caller, const std::string& email, const std::string& role,
                             const std::optional<std::string>& workspace, const std::string& organisation);
  Result<Listed<Link>> ListInvitations(const Caller& caller, const Page& page) const;
  Status RemoveInvitation(const Caller& caller, const std::string& id);
  Result<CreatedLink> MakeResetLink(const Caller& caller, const std::string& member);

  // api_keys.cc
  Result<Listed<ApiKey>> ListKeys(const Caller& caller, const std::string& workspace, const Page& page) const;
  Result<ApiKey> FindKey(const Caller& caller, const std::string& id) const;
  Result<CreatedKey> CreateKey(const Caller& caller, const KeySpec& spec);
  Result<ApiKey> ChangeKey(const Caller& caller, const std::string& id, const KeyChange& change);
  // A new key with the same scope; the old one works for `overlap_s` more.
  Result<CreatedKey> RotateKey(const Caller& caller, const std::string& id, double overlap_s);
  Result<ApiKey> RevokeKey(const Caller& caller, const std::string& id);

  // sessions.cc
  // Is there nobody yet who can sign in as an owner? Then a link, made anew at each start; the ones before
  // stop.
  Result<std::optional<CreatedLink>> MakeSetupLink();
  // The setup, invitation or reset link behind a token, if it can still be used.
  Result<Link> FindLink(const std::string& token) const;
  // Uses it: makes the owner or member, or sets the password, and signs in.
  Result<SignedIn> UseLink(const std::string& token, const std::string& email, const std::string& name,
                           const std::string& password, const AuditActor& actor);
  Result<SignedIn> SignIn(const std::string& email, const std::string& password, const AuditActor& actor);
  Status SignOut(const Caller& caller, const std::string& session);
  Result<std::vector<SessionEntry>> ListSessions(const Caller& caller) const;
  // Also ends the person's other sessions.
  Status ChangePassword(const Caller& caller, const std::string& old_password,
                        const std::string& new_password);
  // `tidepool admin reset-password` on the machine itself.
  Result<CreatedLink> MakeResetLinkFor(const std::string& email);
  Result<User> FindUser(const std::string& id) const;
  // The workspaces somebody may choose, with the role there.
  std::vector<std::pair<std::string, Role>> WorkspacesOf(const std::string& user) const;
  std::string CsrfOf(std::string_view session_token) const;
  int64_t SessionSeconds() const { return static_cast<int64_t>(options_.session_hours * 3600); }

  // secrets.cc. The operator's, through the API: with a row in the audit log, never the value. kInvalid for a
  // name that nothing reads.
  Status SetSecret(const Caller& caller, const std::string& name, std::string_view secret);
  Status RemoveSecret(const Caller& caller, const std::string& name);
  struct SecretName {
    std::string name;
    int64_t created_ms = 0;
  };
  Result<std::vector<SecretName>> ListSecrets() const;
  Result<std::optional<std::string>> GetSecret(const std::string& name) const;
  // Replies to creating calls with an Idempotency-Key, kept a day. Begin: nothing to repeat (go on, then
  // End), or the reply of the first call. kConflict "idempotency_key_reused" for another request under the
  // same key, "idempotency_in_progress" while the first call runs.
  struct KeptReply {
    int status = 0;
    std::string body;
  };
  Result<std::optional<KeptReply>> BeginIdempotent(std::string_view id, std::string_view request);
  void EndIdempotent(std::string_view id, const std::optional<KeptReply>& reply);

 private:
  struct Directory;
  struct KeyRecord;
  Accounts(store::Database& database, const KeyFile& keys, Audit& audit, const Clock& clock,
           const WallClock& wall_clock, MetricsRegistry& metrics, const AccountsOptions& options);

  std::shared_ptr<const Directory> directory() const;
  Result<std::shared_ptr<const Directory>> ReadDirectory() const;
  Status Refresh(bool always);
  void RunRefresh();
  // Writes when keys were used since then; returns from when the next flush counts.
  int64_t FlushLastUsed(int64_t since_ms);
  Status FirstStart(const std::optional<FirstKey>& first_key);

  // A change: its work, the version that others watch, one transaction; then the copy in memory.
  template <typename T>
  Result<T> Change(const std::function<Result<T>(store::Session&)>& work);
  Result<Principal> PrincipalOfKey(const Directory& directory, const KeyRecord& key,
                                   std::string_view address) const;
  Result<Principal> PrincipalOfSession(const Directory& directory, const std::string& session_id,
                                       std::string_view workspace) const;

  Status CheckOrganisation(store::Session& session, const Caller& caller, const std::string& id) const;
  Result<Workspace> ReachWorkspace(store::Session& session, const Caller& caller,
                                   const std::string& id) const;
  Result<Member> ReachMember(store::Session& session, const Caller& caller, const std::string& id) const;
  Result<ApiKey> ReachKey(store::Session& session, const Caller& caller, const std::string& id) const;
  Result<ApiKey> ReachKeyToChange(store::Session& session, const Caller& caller, const std::string& id) const;
  Status CheckLimit(store::Session& session, std::string_view sql, const std::string& of, int64_t limit,
                    std::string_view what) const;
  Status KeepAnOwner(store::Session& session, const Member& member) const;
  Result<Link> LinkBehind(store::Session& session, const std::string& token) const;
  Result<CreatedLink> AddLink(store::Session& session, Link link, double hours);
  Result<SignedIn> AddSession(store::Session& session, const User& user, const std::string& address);
  Status CheckPassword(const std::string& password) const;
  // Sign-ins: a bucket of attempts for each name.
  Status TakeAttempt(const std::string& name);
  void ForgiveAttempts(const std::string& name);

  Status RunWorkspaceHooks(store::Session& session, const Workspace& before, Workspace& after) const;

  std::vector<WorkspaceHook> workspace_hooks_;
  store::Database& database_;
  const KeyFile& keys_;
  Audit& audit_;
  const Clock& clock_;
  const WallClock& wall_clock_;
  const AccountsOptions options_;

  mutable std::mutex directory_mutex_;  // of the pointer
  std::shared_ptr<const Directory> directory_;
  std::mutex refresh_mutex_;  // one refresh at a time
  std::mutex changed_mutex_;
  std::function<void()> changed_;

  struct Attempts {
    double left = 0;
    Nanoseconds at = 0;
  };
  std::mutex attempts_mutex_;
  std::unordered_map<std::string, Attempts> attempts_;

  std::mutex mutex_;  // of stopping_
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;

  mutable Counter refused_keys_;
  Counter sign_ins_, failed_sign_ins_, refreshes_;
  Gauge known_keys_, known_sessions_;
};

// The one secret that something reads, in place of the setting hub.token.
inline constexpr std::string_view kHubTokenSecret = "hub.token";

// "admin" in a workspace is kWorkspaceAdmin, elsewhere kAdmin; kNone for what is no role.
Role ParseRole(std::string_view role, bool in_workspace);

}  // namespace tidepool::platform
