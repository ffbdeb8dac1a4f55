#include "base/ids.h"
#include "platform/accounts/accounts_rows.h"
#include "platform/accounts/keys.h"

namespace tidepool::platform {
namespace {

Role RoleOfMember(const Member& member) { return ParseRole(member.role, member.workspace.has_value()); }

Result<Role> CheckRole(const std::string& role, bool in_workspace) {
  const Role parsed = ParseRole(role, in_workspace);
  if (parsed != Role::kNone) return parsed;
  return Fail(ErrorKind::kInvalid, "invalid_value",
              fmt::format("role must be {}\"admin\", \"developer\" or \"viewer\", not \"{}\".",
                          in_workspace ? "" : "\"owner\", ", role.substr(0, 40)),
              "role");
}

}  // namespace

Result<Listed<Member>> Accounts::ListMembers(const Caller& caller, const std::string& workspace,
                                             const Page& page) const {
  TP_ASSIGN(const Cursor cursor, CursorOf(page));
  return database_.Get<Listed<Member>>([&](store::Session& session) -> Result<Listed<Member>> {
    const Principal& who = caller.principal;
    std::string organisation = who.organisation;
    std::string only = who.role >= Role::kAdmin ? "" : who.workspace;
    if (!workspace.empty()) {
      TP_ASSIGN(const Workspace there, ReachWorkspace(session, caller, workspace));
      organisation = there.organisation;
      only = there.id;
    }
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(
            fmt::format("SELECT {} FROM {} WHERE m.organisation_id = $1 AND ($2 = '' OR m.workspace_id = "
                        "$2) AND (m.created_ms > $3 OR (m.created_ms = $3 AND m.id > $4)) ORDER BY "
                        "m.created_ms, m.id LIMIT $5",
                        kMemberColumns, kMemberTables),
            {organisation, only, cursor.created_ms, cursor.id, page.limit + 1}));
    std::vector<Member> items;
    for (const store::Row& row : rows) items.push_back(MemberOf(row));
    return PageOf(std::move(items), page.limit);
  });
}

Result<Member> Accounts::ReachMember(store::Session& session, const Caller& caller,
                                     const std::string& id) const {
  const Principal& who = caller.principal;
  TP_ASSIGN(
      const store::Rows rows,
      session.Query(fmt::format("SELECT {} FROM {} WHERE m.id = $1", kMemberColumns, kMemberTables), {id}));
  if (rows.empty()) return NotThere("member", id);
  Member member = MemberOf(rows[0]);
  const bool mine =
      who.role == Role::kOperator || (member.organisation == who.organisation &&
                                      (who.role >= Role::kAdmin || member.workspace == who.workspace));
  if (!mine) return NotThere("member", id);
  return member;
}

Result<Member> Accounts::FindMember(const Caller& caller, const std::string& id) const {
  return database_.Get<Member>([&](store::Session& session) { return ReachMember(session, caller, id); });
}

Status Accounts::KeepAnOwner(store::Session& session, const Member& member) const {
  if (RoleOfMember(member) != Role::kOwner) return {};
  TP_ASSIGN(const store::Rows others,
            session.Query(
                "SELECT COUNT(*) FROM members WHERE organisation_id = $1 AND workspace_id IS NULL AND role = "
                "'owner' AND id <> $2",
                {member.organisation, member.id}));
  if (others.at(0).Integer(0) > 0) return {};
  return Fail(ErrorKind::kConflict, "last_owner",
              fmt::format("{} is the last owner of this organisation: make somebody else an owner first.",
                          member.email));
}

Result<Member> Accounts::ChangeMember(const Caller& caller, const std::string& id, const std::string& role) {
  return Change<Member>([&](store::Session& session) -> Result<Member> {
    TP_ASSIGN(const Member before, ReachMember(session, caller, id));
    TP_ASSIGN(const Role wanted, CheckRole(role, before.workspace.has_value()));
    const Role needed = std::max(wanted, RoleOfMember(before));
    if (caller.principal.role < needed) {
      TP_TRY(RoleTooLow(RoleName(needed), caller.principal));
    }
    if (wanted != Role::kOwner) TP_TRY(KeepAnOwner(session, before));
    Member after = before;
    after.role = role;
    TP_TRY(session.Execute("UPDATE members SET role = $1 WHERE id = $2", {role, id}));
    AuditActor actor = caller.actor;
    actor.organisation = after.organisation;
    TP_TRY(audit_.Append(session, actor, "member.changed", after.user, AuditOf(before), AuditOf(after)));
    return after;
  });
}

Status Accounts::RemoveMember(const Caller& caller, const std::string& id) {
  return Change<bool>([&](store::Session& session) -> Result<bool> {
           TP_ASSIGN(const Member member, ReachMember(session, caller, id));
           if (caller.principal.role < RoleOfMember(member))
             TP_TRY(RoleTooLow(RoleName(RoleOfMember(member)), caller.principal));
           TP_TRY(KeepAnOwner(session, member));
           TP_TRY(session.Execute("DELETE FROM members WHERE id = $1", {id}));
           // Personal keys die with it, for good: not where another membership still reaches.
           TP_TRY(
               session.Execute("UPDATE api_keys SET revoked_ms = $1 WHERE user_id = $2 AND organisation_id = "
                               "$3 AND revoked_ms IS NULL "
                               "AND NOT EXISTS (SELECT 1 FROM members m WHERE m.user_id = api_keys.user_id "
                               "AND m.organisation_id = "
                               "api_keys.organisation_id AND (m.workspace_id IS NULL OR m.workspace_id = "
                               "api_keys.workspace_id))",
                               {wall_clock_.unix_ms(), member.user, member.organisation}));
           TP_TRY(
               session.Execute("DELETE FROM sessions WHERE user_id = $1 AND NOT EXISTS (SELECT 1 FROM "
                               "members WHERE user_id = $1) AND "
                               "NOT EXISTS (SELECT 1 FROM users WHERE id = $1 AND is_operator = 1)",
                               {member.user}));
           AuditActor actor = caller.actor;
           actor.organisation = member.organisation;
           TP_TRY(audit_.Append(session, actor, "member.removed", member.user, AuditOf(member), nullptr));
           return true;
         })
      .map([](bool) {});
}

Result<CreatedLink> Accounts::AddLink(store::Session& session, Link link, double hours) {
  const std::string token = MakeToken("tl-");
  link.id = RandomId("link-");
  link.created_ms = wall_clock_.unix_ms();
  link.expires_ms = link.created_ms + static_cast<int64_t>(hours * 3'600'000);
  TP_TRY(session.Execute(
      "INSERT INTO links (id, hash, kind, organisation_id, workspace_id, user_id, email, role, created_ms, "
      "created_by, "
      "expires_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
      {link.id, store::Blob{keys_.HashOf(token)}, link.kind, link.organisation, link.workspace, link.user,
       link.email, link.role, link.created_ms, link.created_by, link.expires_ms}));
  return CreatedLink{std::move(link), token};
}

Result<CreatedLink> Accounts::Invite(const Caller& caller, const std::string& email, const std::string& role,
                                     const std::optional<std::string>& workspace,
                                     const std::string& organisation) {
  TP_ASSIGN(const std::string address, CheckEmail(email));
  TP_ASSIGN(const Role wanted, CheckRole(role, workspace.has_value()));
  TP_TRY(CheckUnscoped(caller.principal));
  if (!workspace && caller.principal.role < Role::kAdmin)
    return tl::unexpected<Error>(RoleTooLow("admin", caller.principal).error());
  if (caller.principal.role < wanted)
    return tl::unexpected<Error>(RoleTooLow(RoleName(wanted), caller.principal).error());
  return Change<CreatedLink>([&](store::Session& session) -> Result<CreatedLink> {
    Link link;
    link.kind = "invitation";
    link.organisation = organisation.empty() ? caller.principal.organisation : organisation;
    if (workspace) {
      TP_ASSIGN(const Workspace there, ReachWorkspace(session, caller, *workspace));
      link.organisation = there.organisation;
    }
    TP_TRY(CheckOrganisation(session, caller, link.organisation));
    TP_TRY(CheckLimit(session, "SELECT COUNT(*) FROM members WHERE organisation_id = $1", link.organisation,
                      options_.max_members, "members"));
    TP_TRY(CheckLimit(
        session,
        "SELECT COUNT(*) FROM links WHERE organisation_id = $1 AND kind = 'invitation' AND used_ms IS NULL",
        link.organisation, options_.max_members, "invitations"));
    link.workspace = workspace;
    link.email = address;
    link.role = role;
    link.created_by = caller.principal.member.empty() ? caller.principal.key : caller.principal.member;
    TP_ASSIGN(CreatedLink made, AddLink(session, std::move(link), options_.invitation_hours));
    AuditActor actor = caller.actor;
    actor.organisation = made.link.organisation;
    TP_TRY(audit_.Append(session, actor, "invitation.created", made.link.id, nullptr, AuditOf(made.link)));
    return made;
  });
}

Result<Listed<Link>> Accounts::ListInvitations(const Caller& caller, const Page& page) const {
  TP_ASSIGN(const Cursor cursor, CursorOf(page));
  const Principal& who = caller.principal;
  const std::string only = who.role >= Role::kAdmin ? "" : who.workspace;
  return database_.Get<Listed<Link>>([&](store::Session& session) -> Result<Listed<Link>> {
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(
            fmt::format("SELECT {} FROM links WHERE kind = 'invitation' AND organisation_id = $1 AND ($2 "
                        "= '' OR workspace_id = $2) AND (created_ms > $3 OR (created_ms = $3 AND id > "
                        "$4)) ORDER BY created_ms, id LIMIT $5",
                        kLinkColumns),
            {who.organisation, only, cursor.created_ms, cursor.id, page.limit + 1}));
    std::vector<Link> items;
    for (const store::Row& row : rows) items.push_back(LinkOf(row));
    return PageOf(std::move(items), page.limit);
  });
}

Status Accounts::RemoveInvitation(const Caller& caller, const std::string& id) {
  return Change<bool>([&](store::Session& session) -> Result<bool> {
           const Principal& who = caller.principal;
           TP_ASSIGN(const store::Rows rows,
                     session.Query(fmt::format("SELECT {} FROM links WHERE id = $1 AND kind = 'invitation'",
                                               kLinkColumns),
                                   {id}));
           if (rows.empty()) return NotThere("invitation", id);
           const Link link = LinkOf(rows[0]);
           const bool mine =
               who.role == Role::kOperator || (link.organisation == who.organisation &&
                                               (who.role >= Role::kAdmin || link.workspace == who.workspace));
           if (!mine) return NotThere("invitation", id);
           TP_TRY(session.Execute("DELETE FROM links WHERE id = $1", {id}));
           AuditActor actor = caller.actor;
           actor.organisation = link.organisation;
           TP_TRY(audit_.Append(session, actor, "invitation.removed", id, AuditOf(link), nullptr));
           return true;
         })
      .map([](bool) {});
}

Result<CreatedLink> Accounts::MakeResetLink(const Caller& caller, const std::string& member_id) {
  TP_TRY(CheckUnscoped(caller.principal));
  return Change<CreatedLink>([&](store::Session& session) -> Result<CreatedLink> {
    TP_ASSIGN(const Member member, ReachMember(session, caller, member_id));
    const Principal& who = caller.principal;
    if (who.role != Role::kOperator) {
      // Who sets somebody's password can act as them: only where that gives nothing new.
      TP_ASSIGN(const store::Rows more,
                session.Query(
                    "SELECT 1 FROM users WHERE id = $1 AND is_operator = 1 UNION ALL SELECT 1 FROM members "
                    "WHERE user_id = $1 AND organisation_id <> $2",
                    {member.user, member.organisation}));
      if (!more.empty()) {
        return Fail(
            ErrorKind::kForbidden, "role_too_low",
            fmt::format("{} has rights beyond this organisation: only the operator may reset this password.",
                        member.email));
      }
      TP_ASSIGN(const store::Rows roles,
                session.Query("SELECT role, workspace_id FROM members WHERE user_id = $1", {member.user}));
      for (const store::Row& row : roles) {
        const Role role = ParseRole(row.Text(0), !row.IsNull(1));
        if (who.role < role) TP_TRY(RoleTooLow(RoleName(role), who));
      }
    }
    Link link;
    link.kind = "reset";
    link.organisation = member.organisation;
    link.user = member.user;
    link.email = member.email;
    link.created_by = who.member.empty() ? who.key : who.member;
    TP_ASSIGN(CreatedLink made, AddLink(session, std::move(link), options_.reset_link_hours));
    AuditActor actor = caller.actor;
    actor.organisation = member.organisation;
    TP_TRY(audit_.Append(session, actor, "reset_link.created", member.user, nullptr, AuditOf(made.link)));
    return made;
  });
}

}  // namespace tidepool::platform
