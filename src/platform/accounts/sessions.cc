#include <arpa/inet.h>

#include <algorithm>
#include <cstring>

#include "base/ids.h"
#include "base/log.h"
#include "platform/accounts/accounts_rows.h"
#include "platform/accounts/keys.h"

namespace tidepool::platform {
namespace {

constexpr size_t kMaxAttemptNames = 20'000;
constexpr size_t kMaxPasswordBytes = 1024;
constexpr double kAttemptsPerSecond = 1.0 / 60;

User UserOf(const store::Row& row) { return {row.Text(0), row.Text(1), row.Text(2), row.Flag(3)}; }

// Somebody's address; of IPv6 the network of 64 bits, which one machine can fill.
std::string AttemptName(const std::string& address) {
  unsigned char bytes[16];
  if (inet_pton(AF_INET6, address.c_str(), bytes) != 1) return "address:" + address;
  return "network:" + HexOf({reinterpret_cast<const char*>(bytes), 8});
}

tl::unexpected<Error> WrongPassword() {
  return Fail(ErrorKind::kUnauthenticated, "wrong_password", "The mail address or the password is wrong.");
}

tl::unexpected<Error> LinkUsed() {
  return Fail(
      ErrorKind::kNotFound, "link_not_found",
      "This link was used, has expired or was replaced. Ask for a new one; the operator finds one with "
      "`tidepool admin reset-password`, or in the output of the server's next start.",
      "token");
}

}  // namespace

Status Accounts::CheckPassword(const std::string& password) const {
  if (password.size() >= static_cast<size_t>(options_.min_password_chars) &&
      password.size() <= kMaxPasswordBytes)
    return {};
  return Fail(
      ErrorKind::kInvalid, "invalid_value",
      fmt::format("A password has {} to {} characters.", options_.min_password_chars, kMaxPasswordBytes),
      "password");
}

Status Accounts::TakeAttempt(const std::string& name) {
  const Nanoseconds now = clock_.now();
  const double most = options_.sign_in_attempts;
  std::lock_guard lock(attempts_mutex_);
  if (attempts_.size() >= kMaxAttemptNames) {
    std::erase_if(attempts_, [&](const auto& entry) {
      const double seconds = static_cast<double>(now - entry.second.at) / kSecond;
      return entry.second.left + seconds * kAttemptsPerSecond >= most;
    });
    // All of them are being limited: an attack. Whoever is new waits with them.
    if (attempts_.size() >= kMaxAttemptNames && !attempts_.contains(name)) {
      failed_sign_ins_.Increment();
      return Fail(
          Error{ErrorKind::kOverloaded, "too_many_attempts", "Too many sign-ins fail just now.", "", 60});
    }
  }
  const auto [entry, added] = attempts_.try_emplace(name, Attempts{most, now});
  Attempts& attempts = entry->second;
  attempts.left =
      std::min(most, attempts.left + static_cast<double>(now - attempts.at) / kSecond * kAttemptsPerSecond);
  attempts.at = now;
  if (attempts.left < 1) {
    failed_sign_ins_.Increment();
    return Fail(Error{ErrorKind::kOverloaded, "too_many_attempts",
                      "Too many attempts with a wrong password; wait before the next.", "",
                      (1 - attempts.left) / kAttemptsPerSecond});
  }
  attempts.left -= 1;
  return {};
}

void Accounts::ForgiveAttempts(const std::string& name) {
  std::lock_guard lock(attempts_mutex_);
  const auto found = attempts_.find(name);
  if (found != attempts_.end())
    found->second.left = std::min<double>(options_.sign_in_attempts, found->second.left + 1);
}

Result<SignedIn> Accounts::AddSession(store::Session& session, const User& user, const std::string& address) {
  SignedIn made;
  made.token = MakeToken("ts-");
  made.csrf = CsrfOf(made.token);
  made.session = RandomId("session-");
  made.user = user;
  const int64_t now = wall_clock_.unix_ms();
  made.expires_ms = now + static_cast<int64_t>(options_.session_hours * 3'600'000);
  TP_TRY(
      session.Execute("DELETE FROM sessions WHERE user_id = $1 AND id NOT IN (SELECT id FROM sessions WHERE "
                      "user_id = $1 ORDER BY "
                      "created_ms DESC LIMIT $2)",
                      {user.id, options_.max_sessions - 1}));
  TP_TRY(session.Execute(
      "INSERT INTO sessions (id, hash, user_id, address, created_ms, expires_ms) VALUES ($1, $2, $3, $4, $5, "
      "$6)",
      {made.session, store::Blob{keys_.HashOf(made.token)}, user.id, address, now, made.expires_ms}));
  return made;
}

Result<SignedIn> Accounts::SignIn(const std::string& email, const std::string& password,
                                  const AuditActor& actor) {
  TP_ASSIGN(const std::string mail, CheckEmail(email));
  const std::string from = AttemptName(actor.address);
  TP_TRY(TakeAttempt(from));
  TP_TRY(TakeAttempt("mail:" + mail));
  struct Found {
    User user;
    std::string password, organisation;
  };
  TP_ASSIGN(const std::vector<Found> found,
            database_.Get<std::vector<Found>>([&](store::Session& session) -> Result<std::vector<Found>> {
              TP_ASSIGN(
                  const store::Rows rows,
                  session.Query(
                      "SELECT id, email, name, is_operator, password, (SELECT MIN(m.organisation_id) FROM "
                      "members m WHERE m.user_id = users.id) FROM users WHERE email = $1",
                      {mail}));
              std::vector<Found> users;
              for (const store::Row& row : rows) users.push_back({UserOf(row), row.Text(4), row.Text(5)});
              return users;
            }));
  // The same work for an address that nobody has, so that the time does not tell.
  static const std::string kNobody = HashPassword("nobody has this password");
  const bool good = password.size() <= kMaxPasswordBytes &&
                    PasswordMatches(password, found.empty() ? kNobody : found[0].password) && !found.empty();
  AuditActor who = actor;
  if (!found.empty()) {
    who.member = found[0].user.id;
    who.organisation = found[0].organisation;
  }
  if (!good) {
    failed_sign_ins_.Increment();
    audit_.RecordLater(who, "session.refused", mail, nullptr, nullptr);
    return WrongPassword();
  }
  ForgiveAttempts(from);
  ForgiveAttempts("mail:" + mail);
  auto made = Change<SignedIn>([&](store::Session& session) -> Result<SignedIn> {
    TP_ASSIGN(SignedIn in, AddSession(session, found[0].user, actor.address));
    TP_TRY(audit_.Append(session, who, "session.created", in.session, nullptr, nullptr));
    return in;
  });
  if (made) sign_ins_.Increment();
  return made;
}

Status Accounts::SignOut(const Caller& caller, const std::string& id) {
  return Change<bool>([&](store::Session& session) -> Result<bool> {
           TP_ASSIGN(const int64_t ended,
                     session.Execute("DELETE FROM sessions WHERE id = $1 AND user_id = $2",
                                     {id, caller.principal.member}));
           if (ended == 0) return NotThere("session", id);
           TP_TRY(audit_.Append(session, caller.actor, "session.ended", id, nullptr, nullptr));
           return true;
         })
      .map([](bool) {});
}

Result<std::vector<SessionEntry>> Accounts::ListSessions(const Caller& caller) const {
  return database_.Get<std::vector<SessionEntry>>(
      [&](store::Session& session) -> Result<std::vector<SessionEntry>> {
        TP_ASSIGN(
            const store::Rows rows,
            session.Query(
                "SELECT id, user_id, address, created_ms, expires_ms FROM sessions WHERE user_id = $1 AND "
                "expires_ms > $2 ORDER BY created_ms, id",
                {caller.principal.member, wall_clock_.unix_ms()}));
        std::vector<SessionEntry> out;
        for (const store::Row& row : rows)
          out.push_back({row.Text(0), row.Text(1), row.Text(2), row.Integer(3), row.Integer(4)});
        return out;
      });
}

Status Accounts::ChangePassword(const Caller& caller, const std::string& old_password,
                                const std::string& new_password) {
  const std::string& user = caller.principal.member;
  if (user.empty()) {
    return Fail(ErrorKind::kInvalid, "no_person",
                "A service key has no password; sign in as the person whose it is.");
  }
  TP_TRY(CheckPassword(new_password));
  TP_TRY(TakeAttempt("member:" + user));
  TP_ASSIGN(
      const std::string now, database_.Get<std::string>([&](store::Session& session) -> Result<std::string> {
        TP_ASSIGN(const store::Rows rows, session.Query("SELECT password FROM users WHERE id = $1", {user}));
        return rows.empty() ? std::string() : rows[0].Text(0);
      }));
  if (old_password.size() > kMaxPasswordBytes || !PasswordMatches(old_password, now)) {
    failed_sign_ins_.Increment();
    return WrongPassword();
  }
  ForgiveAttempts("member:" + user);
  const std::string hash = HashPassword(new_password);
  return Change<bool>([&](store::Session& session) -> Result<bool> {
           TP_TRY(session.Execute("UPDATE users SET password = $1 WHERE id = $2", {hash, user}));
           TP_TRY(session.Execute("DELETE FROM sessions WHERE user_id = $1 AND id <> $2",
                                  {user, caller.principal.session}));
           TP_TRY(audit_.Append(session, caller.actor, "password.changed", user, nullptr, nullptr));
           return true;
         })
      .map([](bool) {});
}

Result<User> Accounts::FindUser(const std::string& id) const {
  return database_.Get<User>([&](store::Session& session) -> Result<User> {
    TP_ASSIGN(const store::Rows rows,
              session.Query("SELECT id, email, name, is_operator FROM users WHERE id = $1", {id}));
    if (rows.empty()) return NotThere("user", id);
    return UserOf(rows[0]);
  });
}

std::vector<std::pair<std::string, Role>> Accounts::WorkspacesOf(const std::string& user) const {
  const auto now = directory();
  std::vector<std::pair<std::string, Role>> out;
  for (const auto& [id, workspace] : now->workspaces) {
    if (const Role role = now->RoleOf(user, id); role != Role::kNone) out.emplace_back(id, role);
  }
  return out;
}

Result<std::optional<CreatedLink>> Accounts::MakeSetupLink() {
  return database_.Put<std::optional<CreatedLink>>(
      [&](store::Session& session) -> Result<std::optional<CreatedLink>> {
        TP_ASSIGN(const store::Rows owners,
                  session.Query("SELECT 1 FROM users WHERE is_operator = 1 LIMIT 1"));
        if (!owners.empty()) return std::optional<CreatedLink>();
        TP_TRY(session.Execute("DELETE FROM links WHERE kind = 'setup'"));
        Link link;
        link.kind = "setup";
        link.organisation = kDefaultId;
        link.role = "owner";
        link.created_by = "machine";
        TP_ASSIGN(CreatedLink made, AddLink(session, std::move(link), options_.setup_link_hours));
        return std::optional<CreatedLink>(std::move(made));
      });
}

Result<Link> Accounts::LinkBehind(store::Session& session, const std::string& token) const {
  if (token.size() > 200) return LinkUsed();
  TP_ASSIGN(const store::Rows rows,
            session.Query(fmt::format("SELECT {} FROM links WHERE hash = $1", kLinkColumns),
                          {store::Blob{keys_.HashOf(token)}}));
  if (rows.empty()) return LinkUsed();
  Link link = LinkOf(rows[0]);
  if (link.used_ms || link.expires_ms <= wall_clock_.unix_ms()) return LinkUsed();
  return link;
}

Result<Link> Accounts::FindLink(const std::string& token) const {
  return database_.Get<Link>([&](store::Session& session) { return LinkBehind(session, token); });
}

Result<SignedIn> Accounts::UseLink(const std::string& token, const std::string& email,
                                   const std::string& name, const std::string& password,
                                   const AuditActor& actor) {
  const std::string from = AttemptName(actor.address);
  TP_TRY(TakeAttempt(from));
  TP_ASSIGN(const Link seen, FindLink(token));
  ForgiveAttempts(from);  // a right token is no guess
  const std::string mail_given = seen.kind == "setup" ? email : seen.email;
  TP_ASSIGN(const std::string mail, CheckEmail(mail_given));
  TP_ASSIGN(const store::Rows known, database_.Get<store::Rows>([&](store::Session& session) {
    return session.Query("SELECT id, email, name, is_operator, password FROM users WHERE email = $1", {mail});
  }));
  const bool joins = seen.kind == "invitation" && !known.empty();  // somebody who has a password already
  if (joins) {
    TP_TRY(TakeAttempt("mail:" + mail));
    if (password.size() > kMaxPasswordBytes || !PasswordMatches(password, known[0].Text(4))) {
      failed_sign_ins_.Increment();
      return Fail(ErrorKind::kUnauthenticated, "wrong_password",
                  fmt::format("{} has an account here already: give its password to join.", mail),
                  "password");
    }
    ForgiveAttempts("mail:" + mail);
  } else {
    TP_TRY(CheckPassword(password));
    if (seen.kind != "reset") TP_TRY(CheckName(name, "name"));
  }
  const std::string hash = joins ? std::string() : HashPassword(password);
  auto made = Change<SignedIn>([&](store::Session& session) -> Result<SignedIn> {
    TP_ASSIGN(const Link link, LinkBehind(session, token));  // again: two may use it at once
    const int64_t now = wall_clock_.unix_ms();
    TP_TRY(session.Execute("UPDATE links SET used_ms = $1 WHERE id = $2", {now, link.id}));
    TP_ASSIGN(const store::Rows rows,
              session.Query("SELECT id, email, name, is_operator FROM users WHERE email = $1", {mail}));
    if (link.kind == "invitation" && rows.empty() == joins)
      return Fail(ErrorKind::kConflict, "exists", "This account was made meanwhile; try again.");
    User user = rows.empty() ? User{RandomId("usr-"), mail, name, link.kind == "setup"} : UserOf(rows[0]);
    AuditActor who = actor;
    who.organisation = link.organisation;
    who.workspace = link.workspace.value_or("");
    who.member = user.id;
    if (link.kind == "reset") {
      if (rows.empty() || user.id != link.user.value_or("")) return LinkUsed();
      TP_TRY(session.Execute("UPDATE users SET password = $1 WHERE id = $2", {hash, user.id}));
      TP_TRY(session.Execute("DELETE FROM sessions WHERE user_id = $1", {user.id}));
      TP_TRY(audit_.Append(session, who, "password.reset", user.id, nullptr, nullptr));
    } else {
      if (link.kind == "setup") {
        TP_ASSIGN(const store::Rows owners,
                  session.Query("SELECT 1 FROM users WHERE is_operator = 1 LIMIT 1"));
        if (!owners.empty()) return LinkUsed();
        if (!rows.empty()) {
          user.is_operator = true;
          TP_TRY(session.Execute("UPDATE users SET is_operator = 1, password = $1 WHERE id = $2",
                                 {hash, user.id}));
        }
      }
      if (rows.empty()) {
        TP_TRY(
            session.Execute("INSERT INTO users (id, email, name, password, is_operator, created_ms) VALUES "
                            "($1, $2, $3, $4, $5, $6)",
                            {user.id, user.email, user.name, hash, user.is_operator, now}));
      }
      // Invited twice, or to another role: the newer one counts, except for the last owner.
      TP_ASSIGN(
          const store::Rows before,
          session.Query(fmt::format("SELECT {} FROM {} WHERE m.user_id = $1 AND m.organisation_id = $2 AND "
                                    "COALESCE(m.workspace_id, '') = $3",
                                    kMemberColumns, kMemberTables),
                        {user.id, link.organisation, link.workspace.value_or("")}));
      Member member;
      member.organisation = link.organisation;
      member.workspace = link.workspace;
      member.user = user.id;
      member.email = user.email;
      member.role = link.role;
      if (before.empty()) {
        member.id = RandomId("mem-");
        TP_TRY(session.Execute(
            "INSERT INTO members (id, organisation_id, workspace_id, user_id, role, created_ms) VALUES ($1, "
            "$2, $3, $4, "
            "$5, $6)",
            {member.id, member.organisation, member.workspace, member.user, member.role, now}));
        TP_TRY(audit_.Append(session, who, "member.created", user.id, nullptr, AuditOf(member)));
      } else {
        const Member old = MemberOf(before[0]);
        if (link.role != "owner") TP_TRY(KeepAnOwner(session, old));
        TP_TRY(session.Execute("UPDATE members SET role = $1 WHERE id = $2", {member.role, old.id}));
        TP_TRY(audit_.Append(session, who, "member.changed", user.id, AuditOf(old), AuditOf(member)));
      }
    }
    TP_ASSIGN(SignedIn in, AddSession(session, user, actor.address));
    TP_TRY(audit_.Append(session, who, "session.created", in.session, nullptr, nullptr));
    return in;
  });
  if (made) sign_ins_.Increment();
  return made;
}

Result<CreatedLink> Accounts::MakeResetLinkFor(const std::string& email) {
  TP_ASSIGN(const std::string mail, CheckEmail(email));
  return Change<CreatedLink>([&](store::Session& session) -> Result<CreatedLink> {
    TP_ASSIGN(const store::Rows rows, session.Query("SELECT id FROM users WHERE email = $1", {mail}));
    if (rows.empty()) return NotThere("user", mail);
    Link link;
    link.kind = "reset";
    link.organisation = kDefaultId;
    link.user = rows[0].Text(0);
    link.email = mail;
    link.created_by = "machine";
    TP_ASSIGN(CreatedLink made, AddLink(session, std::move(link), options_.reset_link_hours));
    TP_TRY(audit_.Append(session, MachineActor(), "reset_link.created", rows[0].Text(0), nullptr,
                         AuditOf(made.link)));
    return made;
  });
}

}  // namespace tidepool::platform
