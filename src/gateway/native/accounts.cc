#include <fmt/format.h>

#include "gateway/native/accounts_handlers.h"
#include "gateway/native/call.h"
#include "gateway/native/ledger_call.h"

namespace tidepool::gateway::native {
namespace {

using openai::Field;
using openai::FieldType;
using openai::Treatment;

constexpr Field kOrganisationFields[] = {
    {"name", FieldType::kString, Treatment::kRead, "1 to 200 bytes"},
    {"weight", FieldType::kNumber, Treatment::kRead, "of its share of the pool against other organisations",
     0.001, 1000}};
constexpr Field kOrganisationChangeFields[] = {kOrganisationFields[0],
                                               kOrganisationFields[1],
                                               {"suspended", FieldType::kBoolean, Treatment::kRead,
                                                "its keys and sessions are refused (the operator's to say)"}};
constexpr Field kWorkspaceFields[] = {
    {"name", FieldType::kString, Treatment::kRead, "1 to 200 bytes, once in an organisation"},
    {"weight", FieldType::kNumber, Treatment::kRead, "of its share of what the organisation gets", 0.001,
     1000},
    {"organisation", FieldType::kString, Treatment::kRead, "the caller's if not given"}};
constexpr Field kWorkspaceChangeFields[] = {
    kWorkspaceFields[0],
    kWorkspaceFields[1],
    {"sharing", FieldType::kBoolean, Treatment::kRead,
     "members may make read-only links to conversations, which need no account; false stops all of them"},
    {"store_bodies", FieldType::kBoolean, Treatment::kRead,
     "what requests say and are answered is kept, redacted and sealed; false (the default) deletes what was "
     "kept"},
    {"retention_days", FieldType::kInteger, Treatment::kRead,
     "how long bodies are kept; what is older goes at once when it is lowered", 1, 365},
    {"redact", FieldType::kObject, Treatment::kRead,
     "what is taken out of bodies before they are stored; kinds that are not named stay as they are"},
    {"stored_responses", FieldType::kString, Treatment::kRead,
     "as_asked: as a response's `store` says (the default); never: none are stored, and what was stored is "
     "deleted"}};
constexpr Field kRedactFields[] = {
    {"email", FieldType::kBoolean, Treatment::kRead, "e-mail addresses"},
    {"phone", FieldType::kBoolean, Treatment::kRead, "phone numbers"},
    {"card", FieldType::kBoolean, Treatment::kRead, "card numbers whose check digit (Luhn) is right"},
    {"iban", FieldType::kBoolean, Treatment::kRead, "IBANs whose check digits are right"},
    {"token", FieldType::kBoolean, Treatment::kRead, "bearer tokens, API keys (sk-, tp- and others), JWTs"},
    {"ip", FieldType::kBoolean, Treatment::kRead, "IPv4 and IPv6 addresses"},
    {"patterns", FieldType::kArray, Treatment::kRead,
     "up to 16 regular expressions of 512 bytes, without anchors, look-around and back references"}};
constexpr Field kMemberChangeFields[] = {{"role", FieldType::kString, Treatment::kRead,
                                          "owner (of the organisation), admin, developer or viewer"}};
constexpr Field kInvitationFields[] = {
    {"email", FieldType::kString, Treatment::kRead, "who may use the link"},
    {"role", FieldType::kString, Treatment::kRead, "owner (of the organisation), admin, developer or viewer"},
    {"workspace", FieldType::kString, Treatment::kRead, "not given: a member of the whole organisation"},
    {"organisation", FieldType::kString, Treatment::kRead, "the caller's if not given"}};
constexpr Field kKeyFields[] = {
    {"name", FieldType::kString, Treatment::kRead, "1 to 200 bytes"},
    {"workspace", FieldType::kString, Treatment::kRead, "the caller's if not given"},
    {"service", FieldType::kBoolean, Treatment::kRead,
     "true: the workspace's own (needs workspace_admin); false: personal, dies with the membership. Not "
     "given: "
     "personal for people, service for service keys"},
    {"role", FieldType::kString, Treatment::kRead, "viewer, developer (default), admin or operator"},
    {"models", FieldType::kArray, Treatment::kRead, "ids, or prefixes that end in *; empty: all"},
    {"endpoints", FieldType::kArray, Treatment::kRead,
     "paths as in this document, or prefixes that end in *; empty: all"},
    {"networks", FieldType::kArray, Treatment::kRead, "addresses or CIDR ranges; empty: all"},
    {"weight", FieldType::kNumber, Treatment::kRead, "of its share of what the workspace gets", 0.001, 1000},
    {"expires_at", FieldType::kInteger, Treatment::kRead, "seconds since 1970; not given: never"}};
constexpr Field kKeyChangeFields[] = {kKeyFields[0], kKeyFields[4], kKeyFields[5],
                                      kKeyFields[6], kKeyFields[7], kKeyFields[8]};
constexpr Field kRotationFields[] = {
    {"overlap_s", FieldType::kNumber, Treatment::kRead, "how long the old key works on", 0, 7776000}};

Json OrganisationJson(const platform::Organisation& organisation) {
  return {{"id", organisation.id},
          {"name", organisation.name},
          {"weight", organisation.weight},
          {"suspended", organisation.suspended},
          {"created_at", organisation.created_ms / 1000}};
}

Json WorkspaceJson(const platform::Workspace& workspace) {
  return {{"id", workspace.id},
          {"organisation", workspace.organisation},
          {"name", workspace.name},
          {"weight", workspace.weight},
          {"sharing", workspace.sharing},
          {"store_bodies", workspace.bodies.store},
          {"retention_days", workspace.bodies.retention_days},
          {"redact", platform::RedactJson(workspace.bodies)},
          {"stored_responses", platform::kResponsesRuleNames[static_cast<size_t>(workspace.responses)]},
          {"created_at", workspace.created_ms / 1000},
          {"archived_at", TimeJson(workspace.archived_ms)}};
}

// Of a change also what it deleted of what was stored.
Json ChangedWorkspaceJson(const platform::Workspace& workspace) {
  Json out = WorkspaceJson(workspace);
  out["bodies_deleted"] = workspace.bodies_deleted;
  out["responses_deleted"] = workspace.responses_deleted;
  return out;
}

Status CheckRedact(const Json& redact) {
  openai::FieldReader reader(redact, kRedactFields, "redact");
  TP_TRY(reader.Check());
  if (!reader.ignored().empty()) {
    const std::string name = reader.ignored().front().substr(0, 80);
    return Fail(openai::BadField(name, fmt::format("There is no field \"{}\" here.", name), "unknown_field"));
  }
  const Json* patterns = reader.Find("patterns");
  for (size_t i = 0; patterns != nullptr && i < patterns->size(); ++i) {
    if (!(*patterns)[i].is_string()) {
      const std::string name = fmt::format("redact.patterns[{}]", i);
      return Fail(openai::BadField(name, fmt::format("{} must be a regular expression.", name)));
    }
  }
  return {};
}

Json MemberJson(const platform::Member& member) {
  return {{"id", member.id},
          {"organisation", member.organisation},
          {"workspace", member.workspace ? Json(*member.workspace) : Json(nullptr)},
          {"user", member.user},
          {"email", member.email},
          {"name", member.name},
          {"role", member.role},
          {"created_at", member.created_ms / 1000}};
}

Json KeyJson(const platform::ApiKey& key) {
  return {{"id", key.id},
          {"prefix", key.prefix},
          {"name", key.name},
          {"organisation", key.organisation},
          {"workspace", key.workspace},
          {"service", key.user.empty()},
          {"user", key.user.empty() ? Json(nullptr) : Json(key.user)},
          {"role", key.role},
          {"models", key.models},
          {"endpoints", key.endpoints},
          {"networks", key.networks},
          {"weight", key.weight},
          {"created_at", key.created_ms / 1000},
          {"created_by", key.created_by},
          {"expires_at", TimeJson(key.expires_ms)},
          {"revoked_at", TimeJson(key.revoked_ms)},
          {"last_used_at", TimeJson(key.last_used_ms)},
          {"replaced_by", key.replaced_by ? Json(*key.replaced_by) : Json(nullptr)}};
}

Json CreatedKeyJson(const platform::CreatedKey& made) {
  Json out = KeyJson(made.key);
  out["key"] = made.secret;
  return out;
}

Json LinkJson(const platform::Link& link) {
  return {{"id", link.id},
          {"kind", link.kind},
          {"organisation", link.organisation},
          {"workspace", link.workspace ? Json(*link.workspace) : Json(nullptr)},
          {"email", link.email},
          {"role", link.role},
          {"created_at", link.created_ms / 1000},
          {"created_by", link.created_by},
          {"expires_at", link.expires_ms / 1000},
          {"used_at", TimeJson(link.used_ms)}};
}

Json CreatedLinkJson(const platform::CreatedLink& made) {
  Json out = LinkJson(made.link);
  out["token"] = made.token;
  out["path"] = "/setup#" + made.token;
  return out;
}

void DescribeLists(Json& schema, std::initializer_list<const char*> names) {
  for (const char* name : names) schema["properties"][name]["items"]["type"] = "string";
}

}  // namespace

void ListOrganisations(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const auto listed, call.accounts().ListOrganisations(call.caller, page));
    return ListJson(listed, OrganisationJson);
  });
}

void CreateOrganisation(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kOrganisationFields));
    TP_ASSIGN(const std::string name, call.Required("name"));
    return call.accounts()
        .CreateOrganisation(call.caller, name, call.Number("weight").value_or(1))
        .map(OrganisationJson);
  });
}

void GetOrganisation(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().FindOrganisation(call.caller, call.Id()).map(OrganisationJson);
  });
}

void ChangeOrganisation(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kOrganisationChangeFields));
    return call.accounts()
        .ChangeOrganisation(call.caller, call.Id(), call.String("name"), call.Number("weight"),
                            call.Boolean("suspended"))
        .map(OrganisationJson);
  });
}

void ListWorkspaces(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const auto listed,
              call.accounts().ListWorkspaces(call.caller, call.Query("organisation"), page));
    return ListJson(listed, WorkspaceJson);
  });
}

void CreateWorkspace(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kWorkspaceFields));
    TP_ASSIGN(const std::string name, call.Required("name"));
    return call.accounts()
        .CreateWorkspace(call.caller, call.String("organisation").value_or(""), name,
                         call.Number("weight").value_or(1))
        .map(WorkspaceJson);
  });
}

void GetWorkspace(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().FindWorkspace(call.caller, call.Id()).map(WorkspaceJson);
  });
}

void ChangeWorkspace(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kWorkspaceChangeFields));
    platform::WorkspaceChange change;
    change.name = call.String("name");
    change.weight = call.Number("weight");
    change.sharing = call.Boolean("sharing");
    change.store_bodies = call.Boolean("store_bodies");
    change.retention_days = call.Integer("retention_days");
    if (const Json* redact = openai::FieldReader(call.body(), {}).Find("redact")) {
      TP_TRY(CheckRedact(*redact));
      change.redact = *redact;
    }
    if (const auto name = call.String("stored_responses")) {
      const auto& names = platform::kResponsesRuleNames;
      const auto found = std::find(names.begin(), names.end(), *name);
      if (found == names.end()) {
        return Fail(openai::BadField("stored_responses",
                                     fmt::format("stored_responses must be {}.", fmt::join(names, " or "))));
      }
      change.stored_responses = static_cast<platform::ResponsesRule>(found - names.begin());
    }
    return call.accounts().ChangeWorkspace(call.caller, call.Id(), change).map(ChangedWorkspaceJson);
  });
}

void ArchiveWorkspace(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().ArchiveWorkspace(call.caller, call.Id()).map(ChangedWorkspaceJson);
  });
}

void ListMembers(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const auto listed, call.accounts().ListMembers(call.caller, call.Query("workspace"), page));
    return ListJson(listed, MemberJson);
  });
}

void GetMember(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().FindMember(call.caller, call.Id()).map(MemberJson);
  });
}

void ChangeMember(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kMemberChangeFields));
    TP_ASSIGN(const std::string role, call.Required("role"));
    return call.accounts().ChangeMember(call.caller, call.Id(), role).map(MemberJson);
  });
}

void RemoveMember(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.accounts().RemoveMember(call.caller, call.Id()));
    return Json{{"id", call.Id()}, {"deleted", true}};
  });
}

void MakeResetLink(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    return call.accounts().MakeResetLink(call.caller, call.Id()).map(CreatedLinkJson);
  });
}

void ListInvitations(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const auto listed, call.accounts().ListInvitations(call.caller, page));
    return ListJson(listed, LinkJson);
  });
}

void CreateInvitation(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kInvitationFields));
    TP_ASSIGN(const std::string email, call.Required("email"));
    TP_ASSIGN(const std::string role, call.Required("role"));
    return call.accounts()
        .Invite(call.caller, email, role, call.String("workspace"), call.String("organisation").value_or(""))
        .map(CreatedLinkJson);
  });
}

void RemoveInvitation(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.accounts().RemoveInvitation(call.caller, call.Id()));
    return Json{{"id", call.Id()}, {"deleted", true}};
  });
}

void ListKeys(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::Page page, call.Page());
    TP_ASSIGN(const auto listed, call.accounts().ListKeys(call.caller, call.Query("workspace"), page));
    return ListJson(listed, KeyJson);
  });
}

void CreateKey(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kKeyFields));
    platform::KeySpec spec;
    TP_ASSIGN(spec.name, call.Required("name"));
    spec.workspace = call.String("workspace").value_or("");
    spec.service = call.Boolean("service").value_or(call.caller.principal.member.empty());
    spec.role = call.String("role").value_or("developer");
    TP_ASSIGN(const auto models, call.Strings("models"));
    TP_ASSIGN(const auto endpoints, call.Strings("endpoints"));
    TP_ASSIGN(const auto networks, call.Strings("networks"));
    spec.models = models.value_or(std::vector<std::string>());
    spec.endpoints = endpoints.value_or(std::vector<std::string>());
    spec.networks = networks.value_or(std::vector<std::string>());
    spec.weight = call.Number("weight").value_or(1);
    TP_ASSIGN(spec.expires_ms, call.Time("expires_at"));
    return call.accounts().CreateKey(call.caller, spec).map(CreatedKeyJson);
  });
}

void GetKey(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().FindKey(call.caller, call.Id()).map(KeyJson);
  });
}

void ChangeKey(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kKeyChangeFields));
    platform::KeyChange change;
    change.name = call.String("name");
    change.weight = call.Number("weight");
    TP_ASSIGN(change.models, call.Strings("models"));
    TP_ASSIGN(change.endpoints, call.Strings("endpoints"));
    TP_ASSIGN(change.networks, call.Strings("networks"));
    // null takes the expiry away.
    if (call.Has("expires_at")) {
      TP_ASSIGN(change.expires_ms, call.Time("expires_at"));
    }
    return call.accounts().ChangeKey(call.caller, call.Id(), change).map(KeyJson);
  });
}

// A key's limits and budgets go on with its successor, whose counters begin anew: so only who may set them
// may rotate it. (Else a key would rotate itself out of them.)
Result<platform::CreatedKey> RotateWithRules(const Call& call, platform::Accounting& accounting) {
  const platform::Scope old{platform::ScopeKind::kKey, call.Id()};
  std::vector<platform::Limit> limits = accounting.limiter().limits();
  std::erase_if(limits, [&](const platform::Limit& limit) { return limit.scope != old; });
  auto budgets = accounting.limiter().budgets();
  std::erase_if(budgets, [&](const auto& state) { return state.budget.scope != old; });
  if (!limits.empty() || !budgets.empty()) {
    if (const Status may = CheckMayRule(call, old); !may) {
      return Fail(ErrorKind::kForbidden, "key_has_rules",
                  "This key has limits or a budget of its own; an admin of its workspace rotates it.");
    }
  }
  TP_ASSIGN(platform::CreatedKey made,
            call.accounts().RotateKey(call.caller, call.Id(), call.Number("overlap_s").value_or(86400)));
  const auto carry = [&]() -> Status {
    for (platform::Limit& limit : limits) {
      limit.scope.id = made.key.id;
      TP_TRY(accounting.SetLimit(call.caller.actor, limit));
    }
    for (auto& state : budgets) {
      state.budget.id.clear();
      state.budget.scope.id = made.key.id;
      TP_TRY(accounting.SetBudget(call.caller.actor, state.budget));
    }
    return {};
  };
  if (const Status carried = carry(); !carried) {  // a key without its rules must not be
    TP_TRY(call.accounts().RevokeKey(call.caller, made.key.id));
    return Fail(carried.error());
  }
  return made;
}

void RotateKey(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kRotationFields, true));
    if (call.services.hooks.accounting != nullptr)
      return RotateWithRules(call, *call.services.hooks.accounting).map(CreatedKeyJson);
    return call.accounts()
        .RotateKey(call.caller, call.Id(), call.Number("overlap_s").value_or(86400))
        .map(CreatedKeyJson);
  });
}

void RevokeKey(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    return call.accounts().RevokeKey(call.caller, call.Id()).map(KeyJson);
  });
}

Json OrganisationSchema() { return SchemaLike(OrganisationJson({})); }
Json OrganisationListSchema() { return ListSchemaOf(OrganisationSchema()); }
Json OrganisationRequestSchema() { return openai::SchemaOf(kOrganisationFields, {"name"}); }
Json OrganisationChangeSchema() { return openai::SchemaOf(kOrganisationChangeFields, {}); }
Json RedactSchema() {
  Json schema = openai::SchemaOf(kRedactFields, {});
  DescribeLists(schema, {"patterns"});
  return schema;
}
Json WorkspaceSchema() {
  Json schema = SchemaLike(WorkspaceJson({}));
  schema["properties"]["redact"] = RedactSchema();
  schema["properties"]["stored_responses"]["enum"] = platform::kResponsesRuleNames;
  return schema;
}
Json ChangedWorkspaceSchema() {
  Json schema = WorkspaceSchema();
  for (const char* name : {"bodies_deleted", "responses_deleted"})
    schema["properties"][name]["type"] = "integer";
  return schema;
}
Json WorkspaceListSchema() { return ListSchemaOf(WorkspaceSchema()); }
Json WorkspaceRequestSchema() { return openai::SchemaOf(kWorkspaceFields, {"name"}); }
Json WorkspaceChangeSchema() {
  Json schema = openai::SchemaOf(kWorkspaceChangeFields, {});
  Json redact = RedactSchema();
  redact["description"] = schema["properties"]["redact"]["description"];
  schema["properties"]["redact"] = std::move(redact);
  schema["properties"]["stored_responses"]["enum"] = platform::kResponsesRuleNames;
  return schema;
}
Json MemberSchema() { return SchemaLike(MemberJson({})); }
Json MemberListSchema() { return ListSchemaOf(MemberSchema()); }
Json MemberChangeSchema() { return openai::SchemaOf(kMemberChangeFields, {"role"}); }
Json LinkSchema() { return SchemaLike(LinkJson({})); }
Json LinkListSchema() { return ListSchemaOf(LinkSchema()); }
Json CreatedLinkSchema() { return SchemaLike(CreatedLinkJson({})); }
Json InvitationRequestSchema() { return openai::SchemaOf(kInvitationFields, {"email", "role"}); }
Json KeySchema() { return SchemaLike(KeyJson({})); }
Json KeyListSchema() { return ListSchemaOf(KeySchema()); }
Json CreatedKeySchema() {
  Json schema = KeySchema();
  schema["properties"]["key"] = {{"type", "string"}, {"description", "shown this once"}};
  return schema;
}
Json KeyRequestSchema() {
  Json schema = openai::SchemaOf(kKeyFields, {"name"});
  DescribeLists(schema, {"models", "endpoints", "networks"});
  return schema;
}
Json KeyChangeSchema() {
  Json schema = openai::SchemaOf(kKeyChangeFields, {});
  DescribeLists(schema, {"models", "endpoints", "networks"});
  return schema;
}
Json KeyRotationSchema() { return openai::SchemaOf(kRotationFields, {}); }

}  // namespace tidepool::gateway::native
