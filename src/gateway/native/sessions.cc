#include <fmt/format.h>

#include "gateway/errors.h"
#include "gateway/native/accounts_handlers.h"
#include "gateway/native/call.h"
#include "gateway/security.h"
#include "gateway/web_app.h"

namespace tidepool::gateway::native {
namespace {

using openai::Field;
using openai::FieldType;
using openai::Treatment;

constexpr Field kLinkTokenFields[] = {
    {"token", FieldType::kString, Treatment::kRead, "what follows /setup#"}};
constexpr Field kLinkUseFields[] = {
    kLinkTokenFields[0],
    {"email", FieldType::kString, Treatment::kRead,
     "of the owner, with a setup link; the others name theirs"},
    {"name", FieldType::kString, Treatment::kRead, "how others see you; not for a reset"},
    {"password", FieldType::kString, Treatment::kRead,
     "the new one; the one you have, if an invitation is for an account that exists"}};
constexpr Field kSignInFields[] = {{"email", FieldType::kString, Treatment::kRead, ""},
                                   {"password", FieldType::kString, Treatment::kRead, ""}};
constexpr Field kPasswordFields[] = {{"old_password", FieldType::kString, Treatment::kRead, ""},
                                     {"new_password", FieldType::kString, Treatment::kRead, ""}};

// For a binary without the web application: what a link of `serve`, an invitation or a reset leads to.
constexpr std::string_view kSetupPage = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Tidepool: set your password</title>
<style>
body{font:16px/1.5 system-ui,sans-serif;max-width:26rem;margin:10vh auto;padding:0 1rem;color:#1d2529;background:#fff}
label{display:block;margin:1rem 0 .25rem}input{font:inherit;width:100%;box-sizing:border-box;padding:.5rem}
button{font:inherit;margin-top:1.5rem;padding:.5rem 1rem}[hidden]{display:none}
@media (prefers-color-scheme:dark){body{color:#e4eaec;background:#14191b}}
</style></head><body><main>
<h1>Tidepool</h1><p id="say" role="status">Reading the link ...</p>
<form id="form" hidden>
<div id="email_row"><label for="email">Mail address</label><input id="email" type="email" autocomplete="username"></div>
<div id="name_row"><label for="name">Name</label><input id="name" autocomplete="name"></div>
<label for="password">Password (at least 10 characters)</label>
<input id="password" type="password" autocomplete="new-password" required>
<button>Go on</button></form></main>
<script>
const by = id => document.getElementById(id), token = location.hash.slice(1);
const post = async (path, body) => {
  const reply = await fetch(path, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)});
  const json = await reply.json();
  if (!reply.ok) throw new Error(json.error.message);
  return json;
};
const say = text => { by("say").textContent = text; };
post("/api/v1/links/find", {token}).then(link => {
  history.replaceState(null, "", "/setup");
  say(link.kind === "setup" ? "You become the owner of this server." :
      link.kind === "invitation" ? "You are invited as " + link.email + " (" + link.role + ")." : "A new password for " + link.email + ".");
  by("email_row").hidden = link.kind !== "setup";
  by("name_row").hidden = link.kind === "reset";
  by("form").hidden = false;
}).catch(problem => say(problem.message));
by("form").addEventListener("submit", event => {
  event.preventDefault();
  const body = {token, password: by("password").value};
  if (!by("email_row").hidden) body.email = by("email").value;
  if (!by("name_row").hidden) body.name = by("name").value;
  post("/api/v1/links/use", body).then(() => { by("form").hidden = true; say("Done. You are signed in."); })
    .catch(problem => say(problem.message));
});
</script></body></html>
)html";

Json UserJson(const platform::User& user) {
  return {{"id", user.id}, {"email", user.email}, {"name", user.name}, {"is_operator", user.is_operator}};
}

Json WorkspacesJson(platform::Accounts& accounts, const std::string& user) {
  Json out = Json::array();
  for (const auto& [id, role] : accounts.WorkspacesOf(user))
    out.push_back({{"id", id}, {"role", platform::RoleName(role)}});
  return out;
}

// HttpOnly: no script reads it. SameSite=Strict: no other site's page sends it.
std::string CookieOf(const HttpRequest& request, std::string_view token, int64_t seconds) {
  return fmt::format("{}={}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{}", kSessionCookie, token, seconds,
                     request.secure ? "; Secure" : "");
}

Json SignedInJson(Call& call, const platform::SignedIn& in) {
  const int64_t seconds = in.expires_ms / 1000;
  call.headers.push_back({"Set-Cookie", CookieOf(call.request, in.token, call.accounts().SessionSeconds())});
  return {{"session", in.session},
          {"user", UserJson(in.user)},
          {"csrf_token", in.csrf},
          {"expires_at", seconds},
          {"workspaces", WorkspacesJson(call.accounts(), in.user.id)}};
}

}  // namespace

void SetupPage(Services& /*services*/, std::shared_ptr<Exchange> exchange) {
  if (!WebAssets().empty()) return exchange->Send(WebReply(exchange->request(), WebAssets()));
  HttpResponse response;
  response.content_type = "text/html; charset=utf-8";
  response.body = std::string(kSetupPage);
  response.headers.push_back(
      {"Content-Security-Policy",
       "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
       "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"});
  response.headers.push_back({"Referrer-Policy", "no-referrer"});
  response.headers.push_back({"Cache-Control", "no-store"});
  exchange->Send(std::move(response));
}

void FindLink(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kLinkTokenFields));
    TP_ASSIGN(const std::string token, call.Required("token"));
    TP_ASSIGN(const platform::Link link, call.accounts().FindLink(token));
    return Json{{"kind", link.kind},
                {"email", link.email},
                {"role", link.role},
                {"expires_at", link.expires_ms / 1000}};
  });
}

void UseLink(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kLinkUseFields));
    TP_ASSIGN(const std::string token, call.Required("token"));
    TP_ASSIGN(const std::string password, call.Required("password"));
    TP_ASSIGN(const platform::SignedIn in,
              call.accounts().UseLink(token, call.String("email").value_or(""),
                                      call.String("name").value_or(""), password, call.caller.actor));
    return SignedInJson(call, in);
  });
}

void SignIn(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 201, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kSignInFields));
    TP_ASSIGN(const std::string email, call.Required("email"));
    TP_ASSIGN(const std::string password, call.Required("password"));
    TP_ASSIGN(const platform::SignedIn in, call.accounts().SignIn(email, password, call.caller.actor));
    return SignedInJson(call, in);
  });
}

void ListSessions(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_ASSIGN(const auto sessions, call.accounts().ListSessions(call.caller));
    Json out;
    out["data"] = Json::array();
    for (const platform::SessionEntry& session : sessions) {
      out["data"].push_back({{"id", session.id},
                             {"address", session.address},
                             {"created_at", session.created_ms / 1000},
                             {"expires_at", session.expires_ms / 1000},
                             {"current", session.id == call.caller.principal.session}});
    }
    return out;
  });
}

void CurrentSession(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    const platform::Principal& who = call.caller.principal;
    Json out;
    out["organisation"] = who.organisation;
    out["workspace"] = who.workspace;
    out["role"] = platform::RoleName(who.role);
    out["key"] = who.key;
    out["session"] = who.session.empty() ? Json(nullptr) : Json(who.session);
    out["models"] = who.models;
    out["endpoints"] = who.endpoints;
    out["user"] = nullptr;
    out["workspaces"] = Json::array({Json{{"id", who.workspace}, {"role", platform::RoleName(who.role)}}});
    if (!who.member.empty()) {
      TP_ASSIGN(const platform::User user, call.accounts().FindUser(who.member));
      out["user"] = UserJson(user);
    }
    if (!who.session.empty()) {
      out["workspaces"] = WorkspacesJson(call.accounts(), who.member);
      const std::string* cookie = call.request.Header("cookie");
      out["csrf_token"] = call.accounts().CsrfOf(cookie == nullptr ? std::string_view()
                                                                   : CookieValue(*cookie, kSessionCookie));
    }
    return out;
  });
}

void EndSession(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    const std::string& own = call.caller.principal.session;
    const std::string id = call.Id() == "current" ? own : call.Id();
    if (id.empty()) {
      return Fail(ErrorKind::kInvalid, "no_session", "A key has no session to end; revoke it instead.");
    }
    TP_TRY(call.accounts().SignOut(call.caller, id));
    if (id == own) call.headers.push_back({"Set-Cookie", CookieOf(call.request, "", 0)});
    return Json{{"id", id}, {"deleted", true}};
  });
}

void ChangePassword(Services& services, std::shared_ptr<Exchange> exchange) {
  Serve(services, exchange, 200, [](Call& call) -> Result<Json> {
    TP_TRY(call.ReadBody(kPasswordFields));
    TP_ASSIGN(const std::string old_password, call.Required("old_password"));
    TP_ASSIGN(const std::string new_password, call.Required("new_password"));
    TP_TRY(call.accounts().ChangePassword(call.caller, old_password, new_password));
    return Json{{"changed", true}};
  });
}

Json LinkTokenSchema() { return openai::SchemaOf(kLinkTokenFields, {"token"}); }
Json LinkUseSchema() { return openai::SchemaOf(kLinkUseFields, {"token", "password"}); }
Json SignInSchema() { return openai::SchemaOf(kSignInFields, {"email", "password"}); }
Json LinkFoundSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "kind": {"enum": ["setup", "invitation", "reset"]}, "email": {"type": "string"}, "role": {"type": "string"},
    "expires_at": {"type": "integer", "description": "seconds since 1970"}}})json");
}
Json SignedInSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "session": {"type": "string"}, "csrf_token": {"type": "string", "description": "for the header Tidepool-CSRF"},
    "expires_at": {"type": "integer", "description": "seconds since 1970"},
    "user": {"type": "object", "properties": {"id": {"type": "string"}, "email": {"type": "string"}, "name": {"type": "string"}, "is_operator": {"type": "boolean"}}},
    "workspaces": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}, "role": {"type": "string"}}}}}})json");
}
Json SessionListSchema() {
  return Json::parse(
      R"json({"type": "object", "properties": {"data": {"type": "array", "items": {"type": "object", "properties": {
    "id": {"type": "string"}, "address": {"type": "string"}, "created_at": {"type": "integer"}, "expires_at": {"type": "integer"},
    "current": {"type": "boolean"}}}}}})json");
}
Json CurrentSessionSchema() {
  return Json::parse(R"json({"type": "object", "properties": {
    "organisation": {"type": "string"}, "workspace": {"type": "string"},
    "role": {"enum": ["none", "viewer", "developer", "workspace_admin", "admin", "owner", "operator"]}, "key": {"type": "string"},
    "session": {"type": ["string", "null"]}, "models": {"type": "array", "items": {"type": "string"}},
    "endpoints": {"type": "array", "items": {"type": "string"}}, "user": {"type": ["object", "null"], "properties": {"id": {"type": "string"}, "email": {"type": "string"}, "name": {"type": "string"}, "is_operator": {"type": "boolean"}}},
    "csrf_token": {"type": "string", "optional": true, "description": "of a session: for the header Tidepool-CSRF"},
    "workspaces": {"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"},
      "role": {"enum": ["none", "viewer", "developer", "workspace_admin", "admin", "owner", "operator"]}}}}}})json");
}
Json PasswordChangeSchema() { return openai::SchemaOf(kPasswordFields, {"old_password", "new_password"}); }

}  // namespace tidepool::gateway::native
