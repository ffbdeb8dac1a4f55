// keys, workspace, organisation, member, audit, backup, restore, admin.
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iostream>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

const Json& ListOf(const Json& reply) {
  static const Json none = Json::array();
  const auto it = reply.find("data");
  return it != reply.end() && it->is_array() ? *it : none;
}

std::string When(const Json& item, const char* field) {
  const auto at = static_cast<int64_t>(NumberField(item, field));
  if (at == 0) return "";
  const int64_t now = static_cast<int64_t>(std::time(nullptr));
  return at > now ? "in " + SecondsText(static_cast<double>(at - now)) : AgeText(now - at);
}

std::string Joined(const Json& item, const char* field) {
  std::string out;
  const auto list = item.find(field);
  if (list == item.end() || !list->is_array()) return out;
  for (const Json& entry : *list) {
    if (entry.is_string()) out += (out.empty() ? "" : ",") + entry.get<std::string>();
  }
  return out;
}

Status PrintTable(Session& session, const Json& reply, std::vector<Column> columns,
                  const std::function<std::vector<std::string>(const Json&)>& row) {
  if (session.json()) {
    PrintJson(reply);
    return {};
  }
  std::vector<std::vector<std::string>> rows;
  for (const Json& item : ListOf(reply)) rows.push_back(row(item));
  fmt::print("{}", TableText(std::move(columns), std::move(rows), session.terminal().text_width()));
  return {};
}

Status Print(Session& session, const Json& reply, const std::string& text) {
  if (session.json()) {
    PrintJson(reply);
  } else {
    fmt::print("{}\n", text);
  }
  return {};
}

std::string KeyState(const Json& key) {
  if (!TextField(key, "revoked_at").empty()) return "revoked";
  const double expires = NumberField(key, "expires_at");
  return expires > 0 && expires <= static_cast<double>(std::time(nullptr)) ? "expired" : "works";
}

Result<std::string> ReadPassphrase(const std::string& file, const char* what) {
  std::string passphrase;
  if (!file.empty()) {
    std::ifstream in(file);
    std::getline(in, passphrase);
  } else if (::isatty(0) != 0) {
    passphrase = ::getpass(fmt::format("{}: ", what).c_str());
  } else {
    std::getline(std::cin, passphrase);
  }
  if (passphrase.size() < 10) {
    return Fail(
        ErrorKind::kInvalid, "usage",
        fmt::format("{} has at least 10 characters; --passphrase-file FILE reads it from a file.", what));
  }
  return passphrase;
}

// "7d", "12h", "30m", "90s" -> seconds.
Result<int64_t> ReadDuration(const std::string& text) {
  char* end = nullptr;
  const double number = std::strtod(text.c_str(), &end);
  const std::string unit = end;
  const double factor = unit == "d"                   ? 86400
                        : unit == "h"                 ? 3600
                        : unit == "m"                 ? 60
                        : unit == "s" || unit.empty() ? 1
                                                      : 0;
  if (end == text.c_str() || factor == 0 || !(number >= 0) || number * factor > 1e10)
    return Fail(ErrorKind::kInvalid, "usage", fmt::format("\"{}\" is no time such as 90d, 12h or 30m", text));
  return static_cast<int64_t>(number * factor);
}

Json ScopeOf(const AccountsOptions& o) {
  Json body = Json::object();
  if (!o.models.empty()) body["models"] = o.models;
  if (!o.endpoints.empty()) body["endpoints"] = o.endpoints;
  if (!o.networks.empty()) body["networks"] = o.networks;
  if (o.weight) body["weight"] = *o.weight;
  return body;
}

std::string Path(std::string_view collection, const std::string& id, std::string_view action = {}) {
  return fmt::format("/api/v1/{}/{}{}", collection, ApiClient::Segment(id), action);
}

}  // namespace

Status ListKeys(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string path =
      o.workspace.empty() ? "/api/v1/keys" : "/api/v1/keys?workspace=" + ApiClient::Segment(o.workspace);
  TP_ASSIGN(const Json reply, api->GetAll(path));
  return PrintTable(session, reply,
                    {{"ID"},
                     {"KEY"},
                     {"NAME"},
                     {"ROLE"},
                     {"STATE"},
                     {"LAST USED"},
                     {"EXPIRES"},
                     {"MODELS", Align::kLeft, true}},
                    [](const Json& key) -> std::vector<std::string> {
                      return {TextField(key, "id"),    TextField(key, "prefix") + "...",
                              TextField(key, "name"),  TextField(key, "role"),
                              KeyState(key),           When(key, "last_used_at"),
                              When(key, "expires_at"), Joined(key, "models")};
                    });
}

Status CreateKey(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = ScopeOf(o);
  body["name"] = o.name;
  if (!o.workspace.empty()) body["workspace"] = o.workspace;
  if (!o.role.empty()) body["role"] = o.role;
  if (o.service) body["service"] = true;
  if (!o.expires.empty()) {
    TP_ASSIGN(const int64_t seconds, ReadDuration(o.expires));
    body["expires_at"] = static_cast<int64_t>(std::time(nullptr)) + seconds;
  }
  TP_ASSIGN(const Json key, api->Post("/api/v1/keys", body));
  return Print(session, key,
               fmt::format("{}\nshown once; its id is {}", TextField(key, "key"), TextField(key, "id")));
}

Status ChangeKey(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = ScopeOf(o);
  if (!o.name.empty()) body["name"] = o.name;
  if (o.expires == "never") {
    body["expires_at"] = nullptr;
  } else if (!o.expires.empty()) {
    TP_ASSIGN(const int64_t seconds, ReadDuration(o.expires));
    body["expires_at"] = static_cast<int64_t>(std::time(nullptr)) + seconds;
  }
  TP_ASSIGN(const Json key, api->Patch(Path("keys", o.id), body));
  return Print(session, key, fmt::format("changed {}", TextField(key, "id")));
}

Status RotateKey(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const int64_t overlap_s, ReadDuration(o.overlap));
  TP_ASSIGN(const Json key, api->Post(Path("keys", o.id, "/rotate"), {{"overlap_s", overlap_s}}));
  return Print(session, key,
               fmt::format("{}\nshown once; the old key works for another {}", TextField(key, "key"),
                           SecondsText(static_cast<double>(overlap_s))));
}

Status RevokeKey(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json key, api->Delete(Path("keys", o.id)));
  return Print(session, key, fmt::format("revoked {}...", TextField(key, "prefix")));
}

Status ListWorkspaces(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string path = o.organisation.empty()
                               ? "/api/v1/workspaces"
                               : "/api/v1/workspaces?organisation=" + ApiClient::Segment(o.organisation);
  TP_ASSIGN(const Json reply, api->GetAll(path));
  return PrintTable(
      session, reply, {{"ID"}, {"NAME"}, {"ORGANISATION"}, {"WEIGHT", Align::kRight}, {"STATE"}},
      [](const Json& workspace) -> std::vector<std::string> {
        return {TextField(workspace, "id"), TextField(workspace, "name"),
                TextField(workspace, "organisation"), fmt::format("{}", NumberField(workspace, "weight")),
                TextField(workspace, "archived_at").empty() ? "in use" : "archived"};
      });
}

Status CreateWorkspace(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = {{"name", o.name}};
  if (!o.organisation.empty()) body["organisation"] = o.organisation;
  if (o.weight) body["weight"] = *o.weight;
  TP_ASSIGN(const Json made, api->Post("/api/v1/workspaces", body));
  return Print(session, made, TextField(made, "id"));
}

Status SetWorkspace(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = Json::object();
  if (!o.name.empty()) body["name"] = o.name;
  if (o.weight) body["weight"] = *o.weight;
  if (o.store_bodies) body["store_bodies"] = *o.store_bodies;
  if (o.retention_days) body["retention_days"] = *o.retention_days;
  if (o.store_responses) body["stored_responses"] = *o.store_responses ? "as_asked" : "never";
  for (const std::string& kind : o.redact) body["redact"][kind] = true;
  for (const std::string& kind : o.leave) body["redact"][kind] = false;
  if (!o.patterns.empty()) {
    body["redact"]["patterns"] = Json::array();
    for (const std::string& pattern : o.patterns) {
      if (!pattern.empty()) body["redact"]["patterns"].push_back(pattern);
    }
  }
  TP_ASSIGN(const Json made, api->Patch(Path("workspaces", o.id), body));
  std::string kinds;
  for (const auto& [name, value] : made["redact"].items()) {
    if (value == true) kinds += (kinds.empty() ? "" : ", ") + name;
  }
  std::string text = fmt::format("{}: responses are stored {}; bodies ", o.id,
                                 TextField(made, "stored_responses") == "never" ? "never" : "as clients ask");
  text += made.value("store_bodies", false)
              ? fmt::format("are stored for {} days without {} and {} patterns",
                            NumberField(made, "retention_days"), kinds.empty() ? "none of the kinds" : kinds,
                            made["redact"]["patterns"].size())
              : std::string("are not stored");
  for (const char* what : {"bodies", "responses"}) {
    const double deleted = NumberField(made, fmt::format("{}_deleted", what).c_str());
    if (deleted > 0) text += fmt::format("\n{} stored {} were deleted", deleted, what);
  }
  return Print(session, made, text);
}

Status ListRequests(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  std::string path = fmt::format("/api/v1/requests?limit={}", o.limit);
  if (!o.workspace.empty()) path += "&workspace=" + ApiClient::Segment(o.workspace);
  TP_ASSIGN(const Json reply, api->Get(path));
  return PrintTable(session, reply,
                    {{"ID"},
                     {"FINISHED"},
                     {"MODEL"},
                     {"ENDPOINT"},
                     {"PROMPT", Align::kRight},
                     {"OUTPUT", Align::kRight},
                     {"STATUS"},
                     {"BODY"}},
                    [](const Json& row) -> std::vector<std::string> {
                      return {TextField(row, "request_id"),
                              When(row, "finished_at"),
                              TextField(row, "model"),
                              TextField(row, "endpoint"),
                              fmt::format("{}", NumberField(row, "prompt_tokens")),
                              fmt::format("{}", NumberField(row, "output_tokens")),
                              TextField(row, "status"),
                              row.value("body_stored", false) ? "stored" : ""};
                    });
}

Status ShowRequest(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json row, api->Get(Path("requests", o.id)));
  std::string text;
  for (const auto& [name, value] : row.items()) {
    if (value.is_null() || value == "") continue;
    text += fmt::format("{}{:<16}{}", text.empty() ? "" : "\n", name,
                        value.is_string() ? value.get<std::string>() : value.dump());
  }
  return Print(session, row, text);
}

Status ShowRequestBody(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json body, api->Get(Path("requests", o.id) + "/body"));
  std::string text = TextField(body["request"], "text");
  const auto part = [&](const std::string& mark, const std::string& words) {
    if (!words.empty()) text += fmt::format("\n\n--- {}\n{}", mark, words);
  };
  for (const Json& choice : body["answer"].value("choices", Json::array())) {
    part("reasoning", TextField(choice, "reasoning"));
    part("answer", TextField(choice, "content"));
    for (const Json& call : choice.value("tool_calls", Json::array()))
      part("call of " + TextField(call, "name"), TextField(call, "arguments"));
  }
  for (const char* name : {"embeddings", "scores"}) {
    const auto found = body["answer"].find(name);
    if (found != body["answer"].end() && !found->is_null()) part(name, found->dump());
  }
  return Print(session, body, TerminalFilter().Feed(text));
}

Status DeleteRequestBody(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json gone, api->Delete(Path("requests", o.id) + "/body"));
  return Print(session, gone, fmt::format("nothing is stored any more of what {} said", o.id));
}

Status ArchiveWorkspace(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json made, api->Delete(Path("workspaces", o.id)));
  return Print(session, made, fmt::format("archived {}: its keys have stopped", o.id));
}

Status ListOrganisations(Session& session, const AccountsOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->GetAll("/api/v1/organisations"));
  return PrintTable(session, reply, {{"ID"}, {"NAME"}, {"WEIGHT", Align::kRight}, {"STATE"}},
                    [](const Json& organisation) -> std::vector<std::string> {
                      return {TextField(organisation, "id"), TextField(organisation, "name"),
                              fmt::format("{}", NumberField(organisation, "weight")),
                              organisation.value("suspended", false) ? "suspended" : "in use"};
                    });
}

Status CreateOrganisation(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = {{"name", o.name}};
  if (o.weight) body["weight"] = *o.weight;
  TP_ASSIGN(const Json made, api->Post("/api/v1/organisations", body));
  return Print(session, made, TextField(made, "id"));
}

Status SuspendOrganisation(Session& session, const AccountsOptions& o, bool suspended) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json made, api->Patch(Path("organisations", o.id), {{"suspended", suspended}}));
  return Print(session, made, fmt::format("{} {}", suspended ? "suspended" : "resumed", o.id));
}

Status ListMembers(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string path = o.workspace.empty()
                               ? "/api/v1/members"
                               : "/api/v1/members?workspace=" + ApiClient::Segment(o.workspace);
  TP_ASSIGN(const Json reply, api->GetAll(path));
  return PrintTable(session, reply, {{"ID"}, {"MAIL"}, {"NAME"}, {"ROLE"}, {"WORKSPACE"}},
                    [](const Json& member) -> std::vector<std::string> {
                      return {TextField(member, "id"), TextField(member, "email"), TextField(member, "name"),
                              TextField(member, "role"), TextField(member, "workspace")};
                    });
}

Status InviteMember(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = {{"email", o.email}, {"role", o.role.empty() ? "developer" : o.role}};
  if (!o.workspace.empty()) body["workspace"] = o.workspace;
  if (!o.organisation.empty()) body["organisation"] = o.organisation;
  TP_ASSIGN(const Json link, api->Post("/api/v1/invitations", body));
  return Print(session, link, fmt::format("{}{}\nonce, within a week", api->url(), TextField(link, "path")));
}

Status ChangeMember(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json member, api->Patch(Path("members", o.id), {{"role", o.role}}));
  return Print(session, member, fmt::format("{} is {} now", TextField(member, "email"), o.role));
}

Status RemoveMember(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Delete(Path("members", o.id)));
  return Print(session, reply, fmt::format("removed {}: the personal keys there have stopped", o.id));
}

Status ResetMember(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json link, api->Post(Path("members", o.id, "/reset"), Json::object()));
  return Print(session, link, fmt::format("{}{}\nonce, within a day", api->url(), TextField(link, "path")));
}

Status ListAudit(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  std::string path = fmt::format("/api/v1/audit?limit={}", o.limit);
  if (o.before) path += fmt::format("&after={}", *o.before);
  if (!o.organisation.empty()) path += "&organisation=" + ApiClient::Segment(o.organisation);
  TP_ASSIGN(const Json reply, api->Get(path));
  return PrintTable(session, reply,
                    {{"ROW", Align::kRight}, {"WHEN"}, {"WHO"}, {"FROM"}, {"WHAT"}, {"OBJECT"}},
                    [](const Json& row) -> std::vector<std::string> {
                      const std::string member = TextField(row, "member");
                      const int64_t now = static_cast<int64_t>(std::time(nullptr));
                      return {TextField(row, "number"),
                              AgeText(now - static_cast<int64_t>(NumberField(row, "time_ms") / 1000)),
                              member.empty() ? TextField(row, "key") : member,
                              TextField(row, "address"),
                              TextField(row, "action"),
                              TextField(row, "object")};
                    });
}

Status VerifyAudit(Session& session, const AccountsOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json verdict, api->Get("/api/v1/audit/verify", 600));
  if (session.json()) PrintJson(verdict);
  if (!verdict.value("good", false)) {
    return Fail(ErrorKind::kCorrupt, "audit_damaged",
                fmt::format("the audit log was tampered with: {}", TextField(verdict, "problem")));
  }
  if (!session.json()) {
    fmt::print("the audit log is whole: {} rows\n", TextField(verdict, "rows"));
    if (NumberField(verdict, "newer_than_head") > 0)
      fmt::print("{} of them are newer than audit.head, as after a crash\n",
                 TextField(verdict, "newer_than_head"));
  }
  return {};
}

Status ListSecrets(Session& session, const AccountsOptions&) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Get("/api/v1/secrets"));
  return PrintTable(session, reply, {{"NAME"}, {"SET"}}, [](const Json& secret) -> std::vector<std::string> {
    return {TextField(secret, "name"), When(secret, "created_at")};
  });
}

// The value comes on standard input: arguments are seen by everybody on the machine.
Status SetSecret(Session& session, const AccountsOptions& o) {
  std::string value;
  if (::isatty(0) != 0) {
    value = ::getpass(fmt::format("{}: ", o.name).c_str());
  } else {
    std::getline(std::cin, value);
  }
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Post("/api/v1/secrets", {{"name", o.name}, {"value", value}}));
  return Print(session, reply, fmt::format("{} is kept, encrypted", o.name));
}

Status RemoveSecret(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(const Json reply, api->Delete(Path("secrets", o.name)));
  return Print(session, reply, fmt::format("{} is forgotten", o.name));
}

Status BackupStore(Session& session, const AccountsOptions& o) {
  TP_ASSIGN(ApiClient * api, session.Api());
  Json body = {{"file", std::filesystem::absolute(o.file).string()}};
  if (o.with_keys) {
    TP_ASSIGN(body["passphrase"], ReadPassphrase(o.passphrase_file, "The passphrase of the backup"));
  }
  TP_ASSIGN(const Json done, api->Post("/api/v1/backup", body, 600));
  return Print(
      session, done,
      fmt::format("{}: {}, {}", TextField(done, "file"), BytesText(NumberField(done, "bytes")),
                  o.with_keys ? "with the key file, encrypted with the passphrase"
                              : "without the key file: keep secrets.key beside it, or use --with-keys"));
}

Status RestoreStore(Session& session, const AccountsOptions& o) {
  if (!session.hooks().restore) return Fail(ErrorKind::kInvalid, "usage", "this program cannot restore");
  std::string passphrase;
  if (o.with_keys) {
    TP_ASSIGN(passphrase, ReadPassphrase(o.passphrase_file, "The passphrase of the backup"));
  }
  TP_ASSIGN(const std::string said,
            session.hooks().restore(session.settings().home, std::filesystem::absolute(o.file).string(),
                                    passphrase));
  return Print(session, {{"restored", o.file}, {"message", said}}, said);
}

Status ResetPassword(Session& session, const AccountsOptions& o) {
  if (!session.hooks().reset_password)
    return Fail(ErrorKind::kInvalid, "usage", "this program resets no passwords");
  TP_ASSIGN(const std::string path, session.hooks().reset_password(session.settings().home, o.email));
  return Print(session, {{"url", session.settings().url + path}},
               fmt::format("{}{}\nonce, within a day", session.settings().url, path));
}

}  // namespace tidepool::cli
