// Organisations, workspaces, members, keys, sessions, the audit log, backups: /api/v1. Each is a Handler of
// the route table; what may be seen and changed is decided in platform/accounts.
#pragma once

#include <memory>

#include "gateway/http.h"
#include "gateway/services.h"

namespace tidepool::gateway::native {

// accounts.cc
void ListOrganisations(Services& services, std::shared_ptr<Exchange> exchange);
void CreateOrganisation(Services& services, std::shared_ptr<Exchange> exchange);
void GetOrganisation(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeOrganisation(Services& services, std::shared_ptr<Exchange> exchange);
void ListWorkspaces(Services& services, std::shared_ptr<Exchange> exchange);
void CreateWorkspace(Services& services, std::shared_ptr<Exchange> exchange);
void GetWorkspace(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeWorkspace(Services& services, std::shared_ptr<Exchange> exchange);
void ArchiveWorkspace(Services& services, std::shared_ptr<Exchange> exchange);
void ListMembers(Services& services, std::shared_ptr<Exchange> exchange);
void GetMember(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeMember(Services& services, std::shared_ptr<Exchange> exchange);
void RemoveMember(Services& services, std::shared_ptr<Exchange> exchange);
void MakeResetLink(Services& services, std::shared_ptr<Exchange> exchange);
void ListInvitations(Services& services, std::shared_ptr<Exchange> exchange);
void CreateInvitation(Services& services, std::shared_ptr<Exchange> exchange);
void RemoveInvitation(Services& services, std::shared_ptr<Exchange> exchange);
void ListKeys(Services& services, std::shared_ptr<Exchange> exchange);
void CreateKey(Services& services, std::shared_ptr<Exchange> exchange);
void GetKey(Services& services, std::shared_ptr<Exchange> exchange);
void ChangeKey(Services& services, std::shared_ptr<Exchange> exchange);
void RotateKey(Services& services, std::shared_ptr<Exchange> exchange);
void RevokeKey(Services& services, std::shared_ptr<Exchange> exchange);

// sessions.cc
void SetupPage(Services& services, std::shared_ptr<Exchange> exchange);
void FindLink(Services& services, std::shared_ptr<Exchange> exchange);
void UseLink(Services& services, std::shared_ptr<Exchange> exchange);
void SignIn(Services& services, std::shared_ptr<Exchange> exchange);
void ListSessions(Services& services, std::shared_ptr<Exchange> exchange);
void CurrentSession(Services& services, std::shared_ptr<Exchange> exchange);
void EndSession(Services& services, std::shared_ptr<Exchange> exchange);
void ChangePassword(Services& services, std::shared_ptr<Exchange> exchange);

// audit.cc
void ListAudit(Services& services, std::shared_ptr<Exchange> exchange);
void VerifyAudit(Services& services, std::shared_ptr<Exchange> exchange);
void Backup(Services& services, std::shared_ptr<Exchange> exchange);
void ListSecrets(Services& services, std::shared_ptr<Exchange> exchange);
void SetSecret(Services& services, std::shared_ptr<Exchange> exchange);
void RemoveSecret(Services& services, std::shared_ptr<Exchange> exchange);

// Schemas of the bodies that are read, and of the replies.
nlohmann::ordered_json OrganisationSchema();
nlohmann::ordered_json OrganisationListSchema();
nlohmann::ordered_json OrganisationRequestSchema();
nlohmann::ordered_json OrganisationChangeSchema();
nlohmann::ordered_json WorkspaceSchema();
nlohmann::ordered_json ChangedWorkspaceSchema();
nlohmann::ordered_json WorkspaceListSchema();
nlohmann::ordered_json WorkspaceRequestSchema();
nlohmann::ordered_json WorkspaceChangeSchema();
nlohmann::ordered_json MemberSchema();
nlohmann::ordered_json MemberListSchema();
nlohmann::ordered_json MemberChangeSchema();
nlohmann::ordered_json LinkSchema();
nlohmann::ordered_json LinkListSchema();
nlohmann::ordered_json CreatedLinkSchema();
nlohmann::ordered_json InvitationRequestSchema();
nlohmann::ordered_json KeySchema();
nlohmann::ordered_json KeyListSchema();
nlohmann::ordered_json CreatedKeySchema();
nlohmann::ordered_json KeyRequestSchema();
nlohmann::ordered_json KeyChangeSchema();
nlohmann::ordered_json KeyRotationSchema();
nlohmann::ordered_json LinkTokenSchema();
nlohmann::ordered_json LinkUseSchema();
nlohmann::ordered_json SignInSchema();
nlohmann::ordered_json LinkFoundSchema();
nlohmann::ordered_json SignedInSchema();
nlohmann::ordered_json SessionListSchema();
nlohmann::ordered_json CurrentSessionSchema();
nlohmann::ordered_json PasswordChangeSchema();
nlohmann::ordered_json AuditListSchema();
nlohmann::ordered_json AuditVerdictSchema();
nlohmann::ordered_json BackupRequestSchema();
nlohmann::ordered_json BackupSchema();
nlohmann::ordered_json SecretRequestSchema();
nlohmann::ordered_json SecretListSchema();

}  // namespace tidepool::gateway::native
