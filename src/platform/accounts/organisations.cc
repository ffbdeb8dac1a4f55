#include "base/ids.h"
#include "platform/accounts/accounts_rows.h"

namespace tidepool::platform {

Status Accounts::CheckOrganisation(store::Session& session, const Caller& caller,
                                   const std::string& id) const {
  const Principal& who = caller.principal;
  if (who.role != Role::kOperator && who.organisation != id) return NotThere("organisation", id);
  TP_ASSIGN(const store::Rows rows, session.Query("SELECT 1 FROM organisations WHERE id = $1", {id}));
  if (rows.empty()) return NotThere("organisation", id);
  return {};
}

Result<Workspace> Accounts::ReachWorkspace(store::Session& session, const Caller& caller,
                                           const std::string& id) const {
  const Principal& who = caller.principal;
  TP_ASSIGN(const store::Rows rows,
            session.Query(fmt::format("SELECT {} FROM workspaces WHERE id = $1", kWorkspaceColumns), {id}));
  if (rows.empty()) return NotThere("workspace", id);
  Workspace workspace = WorkspaceOf(rows[0]);
  const bool mine = who.role == Role::kOperator || workspace.id == who.workspace ||
                    (who.role >= Role::kAdmin && workspace.organisation == who.organisation);
  if (!mine) return NotThere("workspace", id);
  return workspace;
}

Result<Listed<Organisation>> Accounts::ListOrganisations(const Caller& caller, const Page& page) const {
  TP_ASSIGN(const Cursor cursor, CursorOf(page));
  const std::string only = caller.principal.role == Role::kOperator ? "" : caller.principal.organisation;
  return database_.Get<Listed<Organisation>>([&](store::Session& session) -> Result<Listed<Organisation>> {
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(
            fmt::format("SELECT {} FROM organisations WHERE ($1 = '' OR id = $1) AND (created_ms > $2 OR "
                        "(created_ms = $2 AND id > $3)) ORDER BY created_ms, id LIMIT $4",
                        kOrganisationColumns),
            {only, cursor.created_ms, cursor.id, page.limit + 1}));
    std::vector<Organisation> items;
    for (const store::Row& row : rows) items.push_back(OrganisationOf(row));
    return PageOf(std::move(items), page.limit);
  });
}

Result<Organisation> Accounts::FindOrganisation(const Caller& caller, const std::string& id) const {
  return database_.Get<Organisation>([&](store::Session& session) -> Result<Organisation> {
    TP_TRY(CheckOrganisation(session, caller, id));
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(fmt::format("SELECT {} FROM organisations WHERE id = $1", kOrganisationColumns), {id}));
    return OrganisationOf(rows.at(0));
  });
}

Result<Organisation> Accounts::CreateOrganisation(const Caller& caller, const std::string& name,
                                                  double weight) {
  TP_TRY(CheckName(name, "name"));
  TP_TRY(CheckWeight(weight));
  Organisation made{RandomId("org-"), name, false, weight, wall_clock_.unix_ms()};
  return Change<Organisation>([&](store::Session& session) -> Result<Organisation> {
    TP_TRY(CheckLimit(session, "SELECT COUNT(*) FROM organisations WHERE id <> $1", "",
                      options_.max_organisations, "organisations"));
    TP_TRY(session.Execute(
        "INSERT INTO organisations (id, name, suspended, weight, created_ms) VALUES ($1, $2, 0, $3, $4)",
        {made.id, made.name, made.weight, made.created_ms}));
    AuditActor actor = caller.actor;
    actor.organisation = made.id;
    TP_TRY(audit_.Append(session, actor, "organisation.created", made.id, nullptr, AuditOf(made)));
    return made;
  });
}

Result<Organisation> Accounts::ChangeOrganisation(const Caller& caller, const std::string& id,
                                                  const std::optional<std::string>& name,
                                                  std::optional<double> weight,
                                                  std::optional<bool> suspended) {
  if (name) TP_TRY(CheckName(*name, "name"));
  if (weight) TP_TRY(CheckWeight(*weight));
  // Its share of the pool, and whether it is served at all, are the operator's to say.
  if ((weight || suspended) && caller.principal.role != Role::kOperator)
    return tl::unexpected<Error>(RoleTooLow("operator", caller.principal).error());
  return Change<Organisation>([&](store::Session& session) -> Result<Organisation> {
    TP_TRY(CheckOrganisation(session, caller, id));
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(fmt::format("SELECT {} FROM organisations WHERE id = $1", kOrganisationColumns), {id}));
    const Organisation before = OrganisationOf(rows.at(0));
    Organisation after = before;
    if (name) after.name = *name;
    if (weight) after.weight = *weight;
    if (suspended) after.suspended = *suspended;
    TP_TRY(session.Execute("UPDATE organisations SET name = $1, weight = $2, suspended = $3 WHERE id = $4",
                           {after.name, after.weight, after.suspended, id}));
    AuditActor actor = caller.actor;
    actor.organisation = id;
    TP_TRY(audit_.Append(session, actor, "organisation.changed", id, AuditOf(before), AuditOf(after)));
    return after;
  });
}

Result<Listed<Workspace>> Accounts::ListWorkspaces(const Caller& caller, const std::string& organisation,
                                                   const Page& page) const {
  TP_ASSIGN(const Cursor cursor, CursorOf(page));
  const Principal& who = caller.principal;
  const bool all = who.role == Role::kOperator;
  const std::string of = all ? organisation : who.organisation;
  if (!organisation.empty() && organisation != of) return NotThere("organisation", organisation);
  const std::string only = who.role >= Role::kAdmin ? "" : who.workspace;
  return database_.Get<Listed<Workspace>>([&](store::Session& session) -> Result<Listed<Workspace>> {
    TP_ASSIGN(
        const store::Rows rows,
        session.Query(
            fmt::format("SELECT {} FROM workspaces WHERE ($1 = '' OR organisation_id = $1) AND ($2 = '' "
                        "OR id = $2) AND (created_ms > $3 OR (created_ms = $3 AND id > $4)) ORDER BY "
                        "created_ms, id LIMIT $5",
                        kWorkspaceColumns),
            {of, only, cursor.created_ms, cursor.id, page.limit + 1}));
    std::vector<Workspace> items;
    for (const store::Row& row : rows) items.push_back(WorkspaceOf(row));
    return PageOf(std::move(items), page.limit);
  });
}

Result<Workspace> Accounts::FindWorkspace(const Caller& caller, const std::string& id) const {
  return database_.Get<Workspace>(
      [&](store::Session& session) { return ReachWorkspace(session, caller, id); });
}

Result<Workspace> Accounts::CreateWorkspace(const Caller& caller, const std::string& organisation,
                                            const std::string& name, double weight) {
  TP_TRY(CheckName(name, "name"));
  TP_TRY(CheckWeight(weight));
  Workspace made{RandomId("ws-"),
                 organisation.empty() ? caller.principal.organisation : organisation,
                 name,
                 weight,
                 wall_clock_.unix_ms(),
                 std::nullopt};
  return Change<Workspace>([&](store::Session& session) -> Result<Workspace> {
    TP_TRY(CheckOrganisation(session, caller, made.organisation));
    TP_TRY(CheckLimit(session, "SELECT COUNT(*) FROM workspaces WHERE organisation_id = $1",
                      made.organisation, options_.max_workspaces, "workspaces"));
    TP_ASSIGN(const store::Rows same,
              session.Query("SELECT 1 FROM workspaces WHERE organisation_id = $1 AND name = $2",
                            {made.organisation, name}));
    if (!same.empty())
      return Fail(ErrorKind::kConflict, "exists", fmt::format("There is a workspace \"{}\" already.", name),
                  "name");
    TP_TRY(session.Execute(
        "INSERT INTO workspaces (id, organisation_id, name, weight, created_ms) VALUES ($1, $2, $3, $4, $5)",
        {made.id, made.organisation, made.name, made.weight, made.created_ms}));
    AuditActor actor = caller.actor;
    actor.organisation = made.organisation;
    actor.workspace = made.id;
    TP_TRY(audit_.Append(session, actor, "workspace.created", made.id, nullptr, AuditOf(made)));
    return made;
  });
}

Result<Workspace> Accounts::ChangeWorkspace(const Caller& caller, const std::string& id,
                                            const WorkspaceChange& change) {
  if (change.name) TP_TRY(CheckName(*change.name, "name"));
  if (change.weight) TP_TRY(CheckWeight(*change.weight));
  if (change.retention_days && (*change.retention_days < 1 || *change.retention_days > 365)) {
    return Fail(ErrorKind::kInvalid, "invalid_value",
                fmt::format("retention_days must be 1 to 365, not {}.", *change.retention_days),
                "retention_days");
  }
  return Change<Workspace>([&](store::Session& session) -> Result<Workspace> {
    TP_ASSIGN(const Workspace before, ReachWorkspace(session, caller, id));
    Workspace after = before;
    if (change.name) after.name = *change.name;
    if (change.weight) after.weight = *change.weight;
    if (change.sharing) after.sharing = *change.sharing;
    if (change.store_bodies) after.bodies.store = *change.store_bodies;
    if (change.retention_days) after.bodies.retention_days = static_cast<int32_t>(*change.retention_days);
    if (change.redact) ReadRedact(*change.redact, after.bodies);
    if (change.stored_responses) after.responses = *change.stored_responses;
    TP_TRY(RunWorkspaceHooks(session, before, after));
    TP_TRY(session.Execute(
        "UPDATE workspaces SET name = $1, weight = $2, sharing = $3, store_bodies = $4, retention_days = $5, "
        "redact = $6, stored_responses = $7 WHERE id = $8",
        {after.name, after.weight, after.sharing ? 1 : 0, after.bodies.store ? 1 : 0,
         after.bodies.retention_days, RedactJson(after.bodies).dump(), static_cast<int64_t>(after.responses),
         id}));
    AuditActor actor = caller.actor;
    actor.organisation = after.organisation;
    actor.workspace = id;
    TP_TRY(audit_.Append(session, actor, "workspace.changed", id, AuditOf(before), AuditOf(after)));
    return after;
  });
}

void Accounts::OnWorkspaceChange(WorkspaceHook hook) { workspace_hooks_.push_back(std::move(hook)); }

Status Accounts::RunWorkspaceHooks(store::Session& session, const Workspace& before, Workspace& after) const {
  if (workspace_hooks_.empty() && after.bodies.store && !before.bodies.store) {
    return Fail(ErrorKind::kUnavailable, "not_available", "This server stores no request bodies.",
                "store_bodies");
  }
  for (const WorkspaceHook& hook : workspace_hooks_) TP_TRY(hook(session, before, after));
  return {};
}

BodyRule Accounts::BodyRuleOf(const std::string& workspace) const {
  const auto now = directory();
  const auto found = now->workspaces.find(workspace);
  return found == now->workspaces.end() || found->second.archived ? BodyRule{} : found->second.bodies;
}

ResponsesRule Accounts::ResponsesRuleOf(const std::string& workspace) const {
  const auto now = directory();
  const auto found = now->workspaces.find(workspace);
  return found == now->workspaces.end() || found->second.archived ? ResponsesRule::kNever
                                                                  : found->second.responses;
}

Result<BodyRule> Accounts::ReadBodyRule(store::Session& session, const std::string& workspace) {
  TP_ASSIGN(const store::Rows rows,
            session.Query("SELECT store_bodies, retention_days, redact FROM workspaces WHERE id = $1 AND "
                          "archived_ms IS NULL",
                          {workspace}));
  if (rows.empty()) return BodyRule{};
  return BodyRuleOfRow(rows[0].Flag(0), rows[0].Integer(1), rows[0].Text(2));
}

Result<bool> Accounts::ReadMayStoreResponses(store::Session& session, const std::string& workspace) {
  TP_ASSIGN(const store::Rows rows, session.Query("SELECT stored_responses FROM workspaces WHERE id = $1 AND "
                                                  "archived_ms IS NULL",
                                                  {workspace}));
  return !rows.empty() && ResponsesRuleOfRow(rows[0].Integer(0)) == ResponsesRule::kAsAsked;
}

bool Accounts::MayShare(const std::string& workspace, const std::string& user) const {
  const auto now = directory();
  const auto found = now->workspaces.find(workspace);
  if (found == now->workspaces.end() || found->second.archived || !found->second.sharing) return false;
  const auto organisation = now->organisations.find(found->second.organisation);
  if (organisation == now->organisations.end() || organisation->second.suspended) return false;
  return user.empty() || now->RoleOf(user, workspace) > Role::kNone;
}

Result<Workspace> Accounts::ArchiveWorkspace(const Caller& caller, const std::string& id) {
  if (id == kDefaultId) {
    return Fail(ErrorKind::kConflict, "default_workspace",
                "The workspace \"default\" holds the operator's key and stays.");
  }
  return Change<Workspace>([&](store::Session& session) -> Result<Workspace> {
    TP_ASSIGN(const Workspace before, ReachWorkspace(session, caller, id));
    Workspace after = before;
    if (!after.archived_ms) after.archived_ms = wall_clock_.unix_ms();
    TP_TRY(RunWorkspaceHooks(session, before, after));
    TP_TRY(session.Execute("UPDATE workspaces SET archived_ms = $1 WHERE id = $2", {after.archived_ms, id}));
    AuditActor actor = caller.actor;
    actor.organisation = after.organisation;
    actor.workspace = id;
    TP_TRY(audit_.Append(session, actor, "workspace.archived", id, AuditOf(before), AuditOf(after)));
    return after;
  });
}

}  // namespace tidepool::platform
