#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/native/accounts_handlers.h"
#include "gateway/native/call.h"
#include "gateway/native/export.h"
#include "gateway/native/ledger_call.h"

namespace tidepool::gateway::native {
namespace {

constexpr openai::Field kBackupFields[] = {
    {"file", openai::FieldType::kString, openai::Treatment::kRead,
     "a path on the server that does not exist yet"},
    {"passphrase", openai::FieldType::kString, openai::Treatment::kRead,
     "the key file goes along, encrypted with it; not given: the backup cannot be used without the key "
     "file"}};

constexpr openai::Field kSecretFields[] = {
    {"name", openai::FieldType::kString, openai::Treatment::kRead, "hub.token"},
    {"value", openai::FieldType::kString, openai::Treatment::kRead, "never shown again"}};

Json AuditRowJson(const platform::AuditRow& row) {
  return {{"number", row.number},
          {"time_ms", row.time_ms},
          {"organisation", row.actor.organisation},
          {"workspace", row.actor.workspace},
          {"member", row.actor.member},
          {"key", row.actor.key},
          {"address", row.actor.address},
          {"request_id", row.actor.request_id},
          {"action", row.action},
          {"object", row.object},
          {"before", Json::parse(row.before, nullptr, false)},
          {"after", Json::parse(row.after, nullptr, false)}};
}

// Whose log is read; empty: of all.
Result<std::string> OrganisationOfLog(const Call& call) {
  const std::string named = call.Query("organisation");
  return call.caller.principal.is_operator ? named : OrganisationOf(call, named);
}

Result<ListPage> AuditPage(Call& call, const platform::Page& page) {
  int64_t before = 0;
  if (!page.after.empty()) {
    TP_ASSIGN(before, WholeNumber("after", page.after));
  }
  TP_ASSIGN(const std::string organisation, OrganisationOfLog(call));
  TP_ASSIGN(auto rows, call.audit().List(organisation, before, page.limit + 1));
  const bool more = std::ssize(rows) > page.limit;
  if (more) rows.pop_back();
  ListPage out;
  for (const platform::AuditRow& row : rows) out.data.push_back(AuditRowJson(row));
  if (more) out.next = fmt::to_string(rows.back().number);
  return out;
}

Result<std::vector<std::string>> AuditColumns(Call&) { return FieldsOf(AuditRowJson({})); }

Result<platform::AuditActor> OwnerOfLog(Call& call) {
  platform::AuditActor owner = call.caller.actor;
  TP_ASSIGN(owner.organisation, OrganisationOfLog(call));
  owner.workspace.clear();
  return owner;
}

}  // namespace

void ListAudit(Services& services, std::shared_ptr<Exchange> exchange) {
  ServeList(services, exchange,
            {.action = "audit.exported",
             .name = "audit",
             .page = AuditPage,
             .columns = AuditColumns,
             .owner = OwnerOfLog});
}

void VerifyAudit(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const platform::AuditVerdict verdict, call.audit().Verify());
    Json out;
    out["good"] = verdict.good;
    out["rows"] = verdict.rows;
    out["newer_than_head"] = verdict.after_head;
    out["bad_row"] = verdict.good ? Json(nullptr) : Json(verdict.number);
    out["problem"] = verdict.good ? Json(nullptr) : Json(verdict.problem);
    return out;
  });
}

void Backup(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kBackupFields));
    TP_ASSIGN(const std::string file, call.Required("file"));
    // It writes a file of the caller's choice.
    if (!call.request.owns_machine) {
      return Fail(ErrorKind::kForbidden, "not_on_this_machine",
                  "Backups are made by the operator on the server's own machine.");
    }
    if (!call.services.hooks.backup)
      return Fail(ErrorKind::kInvalid, "not_available", "This server makes no backups.");
    if (!file.starts_with('/')) return Fail(openai::BadField("file", "file must be an absolute path."));
    const std::string passphrase = call.String("passphrase").value_or("");
    TP_ASSIGN(Json done, call.services.hooks.backup(file, passphrase));
    TP_TRY(call.audit().Record(call.caller.actor, "store.exported", file, nullptr,
                               {{"with_keys", !passphrase.empty()}}));
    return done;
  });
}

void ListSecrets(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const auto names, call.accounts().ListSecrets());
    Json out;
    out["data"] = Json::array();
    for (const auto& secret : names)
      out["data"].push_back({{"name", secret.name}, {"created_at", secret.created_ms / 1000}});
    return out;
  });
}

void SetSecret(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kSecretFields));
    TP_ASSIGN(const std::string name, call.Required("name"));
    TP_ASSIGN(const std::string value, call.Required("value"));
    TP_TRY(call.accounts().SetSecret(call.caller, name, value));
    return Json{{"name", name}};
  });
}

void RemoveSecret(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.accounts().RemoveSecret(call.caller, call.Id()));
    return Json{{"id", call.Id()}, {"deleted", true}};
  });
}

Json SecretRequestSchema() { return openai::SchemaOf(kSecretFields, {"name", "value"}); }
Json SecretListSchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object", "properties": {
    "name": {"type": "string"}, "created_at": {"type": "integer"}}}}}})json");
}

Json AuditListSchema() {
  return ListSchemaOf(Json::parse(R"json({"type": "object", "properties": {
    "number": {"type": "integer"}, "time_ms": {"type": "integer", "description": "milliseconds since 1970"},
    "organisation": {"type": "string"}, "workspace": {"type": "string"}, "member": {"type": "string"}, "key": {"type": "string"},
    "address": {"type": "string"}, "request_id": {"type": "string"}, "action": {"type": "string"}, "object": {"type": "string"},
    "before": {}, "after": {}}})json"));
}
Json AuditVerdictSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "good": {"type": "boolean"}, "rows": {"type": "integer"}, "newer_than_head": {"type": "integer"},
    "bad_row": {"type": ["integer", "null"]}, "problem": {"type": ["string", "null"]}}})json");
}
Json BackupRequestSchema() { return openai::SchemaOf(kBackupFields, {"file"}); }
Json BackupSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "file": {"type": "string"}, "bytes": {"type": "integer"}, "holds_keys": {"type": "boolean"}}})json");
}

}  // namespace tidepool::gateway::native
