// Accounts through HTTP: the table of rights cell by cell, isolation over every endpoint, sessions, a full
// store.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <set>
#include <tuple>

#include "gateway/router.h"
#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using platform::Role;
using ::testing::HasSubstr;
using ::testing::Not;

// The error's code; in shapes of dialects that have none of ours, what the message tells of it.
std::string CodeIn(const Json& body) {
  if (!body.is_object()) return "";
  const Json error = body.value("error", Json());
  if (error.is_object())
    return error.value("code", Json()).is_string() ? error["code"].get<std::string>() : "";
  const Json message = error.is_string() ? error : body.value("message", Json());
  if (!message.is_string()) return "";
  const auto begins = [&](const char* text) {
    return message.get_ref<const std::string&>().starts_with(text);
  };
  if (begins("This needs the role")) return "role_too_low";
  return begins("No API key") ? "missing_api_key" : "";
}

class IsolationTest : public AccountsApiTest {
 protected:
  // What somebody has, and others may neither see nor change. Each name holds the word SECRET.
  struct Theirs {
    std::string organisation, workspace, key, budget, conversation, turn, share, request, running, response;
    std::vector<std::string> ids, words;
  };
  Theirs MakeTheirs(const std::string& organisation, const std::string& workspace,
                    const platform::SignedIn& member, const std::string& model) {
    Theirs out;
    out.organisation = organisation;
    out.workspace = workspace;
    const Json key = Tell(operator_, "POST", "/api/v1/keys",
                          {{"name", "SECRET key"}, {"service", true}, {"workspace", workspace}}, 201);
    out.key = key.value("id", "");
    const std::string scope = "workspace:" + workspace;
    Tell(operator_, "PUT", "/api/v1/limits",
         {{"scope", scope}, {"model", model}, {"requests_per_minute", 100}}, 200);
    Tell(operator_, "PUT", "/api/v1/limits", {{"scope", "key:" + out.key}, {"requests_per_minute", 100}},
         200);
    out.budget = Tell(operator_, "POST", "/api/v1/budgets", {{"scope", scope}, {"amount", "77777"}}, 201)
                     .value("id", "");
    const Json conversation = Converse(SessionVoice(member, workspace), "SECRET chat");
    out.conversation = conversation.value("id", "");
    out.turn = conversation["turns"][1].value("id", "");
    Tell(operator_, "PATCH", "/api/v1/workspaces/" + workspace, {{"sharing", true}, {"store_bodies", true}},
         200);
    const Json share = Tell(SessionVoice(member, workspace), "POST",
                            "/api/v1/conversations/" + out.conversation + "/shares", Json::object(), 201);
    out.share = share.value("id", "");
    out.request = Meter(organisation, workspace, out.key, model, 313'368);
    StoreBody(workspace, out.request, "SECRET prompt");
    out.response = Tell(SessionVoice(member, workspace), "POST", "/v1/responses",
                        {{"model", "scripted"}, {"input", "SECRET question"}}, 200)
                       .value("id", "");
    platform::RequestInFlight who;
    who.request_id = "SECRET-request";
    who.organisation = organisation;
    who.workspace = workspace;
    who.key = out.key;
    who.model = who.called = model;
    who.endpoint = "chat.completions";
    running_ = inference_.requests_in_flight.Begin(who, [this] { stopped_ = true; });
    out.running = inference_.requests_in_flight.List([](const auto&) { return true; }, 1).at(0).id;
    out.ids = {workspace,    out.key,     out.budget,       out.conversation, out.request,
               out.response, out.running, "SECRET-request", member.session};
    out.words = out.ids;
    // The last three: what they used, that with 5 tokens of output, what that leaves of a free quota.
    for (const char* word : {"SECRET", "secret@", "77777", "313368", "313373", "686627"})
      out.words.emplace_back(word);
    out.words.push_back(out.turn);
    out.words.push_back(out.share);
    out.words.push_back(share.value("token", ""));
    out.words.push_back(key.value("prefix", ""));
    return out;
  }
  std::shared_ptr<platform::RequestsInFlight::Entry> running_;
  std::atomic<bool> stopped_{false};
  // All endpoints, asked by each of those voices for each of those things.
  void ExpectHidden(const Theirs& theirs, const std::vector<Voice>& voices, const std::string& own_scope);
};

std::string Target(std::string_view pattern, const std::string& id) {
  std::string target(pattern);
  for (const std::string_view hole : {"{id...}", "{id}"}) {
    if (const size_t at = target.find(hole); at != std::string::npos) target.replace(at, hole.size(), id);
  }
  return target;
}

// "GET /api/v1/usage" -> who is answered, nobody to operator, as written down in testdata/rights.txt.
std::map<std::string, std::string> WrittenRights() {
  std::map<std::string, std::string> rights;
  std::ifstream file(TIDEPOOL_SOURCE_DIR "/src/gateway/testdata/rights.txt");
  for (std::string line; std::getline(file, line);) {
    if (line.empty() || line[0] == '#') continue;
    const size_t space = line.find("  ");
    EXPECT_TRUE(space == 7 && line.find_first_not_of("+-") == space) << line;
    EXPECT_TRUE(rights.emplace(line.substr(std::min(line.size(), space + 2)), line.substr(0, space)).second)
        << line << " is there twice";
  }
  return rights;
}

// The expectation is a file that people review, not the table itself.
TEST_F(AccountsApiTest, EveryCellOfTheTableOfRights) {
  StartWithAccounts();
  const std::map<std::string, std::string> written = WrittenRights();
  std::vector<std::pair<Role, Voice>> voices = VoicesOfRoles();
  voices.emplace(voices.begin(), Role::kNone, Voice{""});
  std::set<std::string> methods, routes;
  for (const Route& route : Routes()) {
    methods.insert(std::string(route.method));
    const std::string call = std::string(route.method) + " " + std::string(route.pattern);
    routes.insert(call);
    const auto expected = written.find(call);
    if (expected == written.end()) {
      ADD_FAILURE() << call << ": write into testdata/rights.txt who may call it";
      continue;
    }
    const bool pool = route.pattern.starts_with("/api/v1/pool");  // the scripted platform has none
    for (size_t i = 0; i < voices.size(); ++i) {
      const auto& [role, voice] = voices[i];
      const std::string where = call + " as " + std::string(platform::RoleName(role));
      const bool writes = route.method == "POST" || route.method == "PATCH" || route.method == "PUT";
      RawClient client(port_);
      client.Send(
          Raw(voice, route.method, Target(route.pattern, "x"), writes ? "{\"surely_no_field\":1}" : ""));
      const RawReply reply = client.ReadReply();
      const Json body = Json::parse(reply.body, nullptr, false);
      const std::string code = CodeIn(body);
      if (!pool) {
        EXPECT_NE(reply.status, 501) << where;
      }
      if (expected->second[i] == '+') {
        EXPECT_NE(reply.status, 0) << where;
        EXPECT_NE(reply.status, 401) << where << reply.body;
        EXPECT_NE(reply.status, 403) << where << reply.body;
      } else if (role == Role::kNone) {
        EXPECT_EQ(reply.status, 401) << where;
        EXPECT_EQ(code, "missing_api_key") << where;
      } else {
        EXPECT_EQ(reply.status, 403) << where;
        EXPECT_EQ(code, "role_too_low") << where;
      }
    }
  }
  EXPECT_EQ(methods, (std::set<std::string>{"GET", "POST", "PUT", "PATCH", "DELETE"}));
  for (const auto& [call, who] : written) EXPECT_TRUE(routes.contains(call)) << call << " is no route";
}

// Within an endpoint the scope decides too: what an organisation may use is the operator's to set, what it
// spends its admins', and a workspace's admin rules its keys.
TEST_F(AccountsApiTest, WhoRulesWhichScope) {
  StartWithAccounts();
  const std::string key =
      Tell(operator_, "POST", "/api/v1/keys", {{"name", "k"}, {"service", true}}, 201)["id"];
  const std::vector<std::pair<Role, Voice>> voices = VoicesOfRoles();
  // Viewer to operator.
  const std::vector<std::tuple<std::string, std::string, std::string>> rules = {
      {"organisation:default", "-----+", "---+++"},
      {"workspace:default", "---+++", "---+++"},
      {"key:" + key, "--++++", "--++++"},
  };
  for (const auto& [scope, limits, budgets] : rules) {
    for (size_t i = 0; i < voices.size(); ++i) {
      const auto& [role, voice] = voices[i];
      const std::string where = scope + " as " + std::string(platform::RoleName(role));
      SCOPED_TRACE(where);
      const bool rules_limits = limits[i] == '+', rules_budgets = budgets[i] == '+';
      Tell(voice, "PUT", "/api/v1/limits", {{"scope", scope}, {"requests_per_minute", 9}},
           rules_limits ? 200 : 403);
      if (rules_limits) Tell(voice, "DELETE", "/api/v1/limits?scope=" + scope, nullptr, 200);
      const Json budget = Tell(voice, "POST", "/api/v1/budgets", {{"scope", scope}, {"amount", "1"}},
                               rules_budgets ? 201 : 403);
      if (!rules_budgets) continue;
      const std::string path = "/api/v1/budgets/" + budget.value("id", "");
      Tell(voice, "PUT", path, {{"scope", scope}, {"amount", "2"}}, 200);
      Tell(voice, "DELETE", path, nullptr, 200);
    }
  }
}

void IsolationTest::ExpectHidden(const Theirs& theirs, const std::vector<Voice>& voices,
                                 const std::string& own_scope) {
  const std::string their_scope = "workspace:" + theirs.workspace;
  // Bodies that would work on one's own: of the caller's scope where the path names what is theirs.
  const std::map<std::string_view, Json> bodies = {
      {"/api/v1/keys", {{"name", "n"}, {"service", true}, {"workspace", theirs.workspace}}},
      {"/api/v1/invitations", {{"email", "n@x.y"}, {"role", "viewer"}, {"workspace", theirs.workspace}}},
      {"/api/v1/workspaces", {{"name", "n"}, {"organisation", theirs.organisation}}},
      {"/api/v1/members/{id}", {{"role", "viewer"}}},
      {"/api/v1/keys/{id}/rotate", Json::object()},
      {"/api/v1/limits", {{"scope", their_scope}, {"requests_per_minute", 1}}},
      {"/api/v1/quotas",
       {{"organisation", theirs.organisation}, {"model", "scripted"}, {"stop_when_exhausted", true}}},
      {"/api/v1/budgets", {{"scope", their_scope}, {"amount", "1"}}},
      {"/api/v1/budgets/{id}", {{"scope", own_scope}, {"amount", "1"}}},
      {"/api/v1/webhook", {{"url", "https://example.org/hook"}}},
      {"/api/v1/conversations", {{"title", "n"}}},
      {"/api/v1/conversations/{id}", {{"title", "n"}}},
      {"/api/v1/conversations/{id}/turns", {{"content", "n"}, {"model", "scripted"}}},
      {"/api/v1/conversations/{id}/turns/{turn}/stop", Json::object()},
      {"/api/v1/conversations/{id}/shares", {{"days", 1}}},
      {"/api/v1/shared", {{"token", theirs.share}}},
      {"/v1/responses", {{"model", "scripted"}, {"input", "n"}, {"previous_response_id", theirs.response}}},
      {"/v1/responses/{id}/cancel", Json::object()},
  };
  const std::map<std::string_view, std::string> named = {{"workspace", theirs.workspace},
                                                         {"organisation", theirs.organisation},
                                                         {"key", theirs.key},
                                                         {"scope", their_scope}};
  for (const Route& route : Routes()) {
    const bool has_id = route.pattern.find('{') != std::string_view::npos;
    // Models, pulls and the pool belong to the installation.
    if (has_id && (route.tag == "native" || route.tag == "openai")) continue;
    for (const Voice& voice : voices) {
      for (const std::string& id : has_id ? theirs.ids : std::vector<std::string>{""}) {
        std::string path = Target(route.pattern, id);
        if (const size_t at = path.find("{turn}"); at != std::string::npos) path.replace(at, 6, theirs.turn);
        if (const size_t at = path.find("{share}"); at != std::string::npos)
          path.replace(at, 7, theirs.share);
        std::vector<std::string> targets = {path};
        for (const auto& [name, value] : named) {
          if (route.query.find(name) != std::string_view::npos)
            targets.push_back(path + "?" + std::string(name) + "=" + value);
        }
        if (TakesParameter(route, "format") && !has_id) {  // as a file
          for (size_t i = targets.size(); i-- > 0;)
            targets.push_back(targets[i] + (targets[i].find('?') == std::string::npos ? "?" : "&") +
                              "format=csv");
        }
        for (const std::string& target : targets) {
          const bool writes = route.method == "POST" || route.method == "PATCH" || route.method == "PUT";
          const auto wanted = bodies.find(route.pattern);
          const Json body = wanted != bodies.end() ? wanted->second : Json{{"name", "n"}};
          RawClient client(port_);
          client.Send(Raw(voice, route.method, target, writes ? body.dump() : ""));
          const RawReply reply = client.ReadReply();
          const std::string where = std::string(route.method) + " " + target + ": " +
                                    std::to_string(reply.status) + " " + reply.body;
          EXPECT_NE(reply.status, 0) << where;
          EXPECT_NE(reply.status, 501) << where;
          // What was sent may come back in an error; nothing else of theirs may.
          for (const std::string& word : theirs.words) {
            const bool was_sent = target.find(word) != std::string::npos ||
                                  (writes && body.dump().find(word) != std::string::npos);
            EXPECT_TRUE(was_sent || reply.body.find(word) == std::string::npos) << word << " in " << where;
          }
          if (has_id && route.access != Role::kNone) {
            const bool refused = reply.status == 404 || reply.status == 403;
            EXPECT_TRUE(refused || (writes && reply.status == 400)) << where;
          }
        }
      }
    }
  }
}

TEST_F(IsolationTest, NoEndpointShowsOneOrganisationAnother) {
  StartWithAccounts();
  const Json organisation = Tell(operator_, "POST", "/api/v1/organisations", {{"name", "SECRET org"}}, 201);
  const std::string their_org = organisation["id"];
  Json workspace = Tell(operator_, "POST", "/api/v1/workspaces",
                        {{"name", "SECRET ws"}, {"organisation", their_org}}, 201);
  const std::string their_ws = workspace["id"];
  const platform::SignedIn them = Join("SECRET@x.y", "owner", nullptr, their_org);
  Theirs theirs = MakeTheirs(their_org, their_ws, them, "SECRET model");
  workspace["sharing"] = workspace["store_bodies"] = true;  // for the link, and a body
  const Json invitation =
      Tell(operator_, "POST", "/api/v1/invitations",
           {{"email", "SECRET2@x.y"}, {"role", "viewer"}, {"organisation", their_org}}, 201);
  const Json members = Tell(SessionVoice(them), "GET", "/api/v1/members", nullptr, 200);
  ASSERT_EQ(members["data"].size(), 1u) << members.dump();
  const std::string org_budget =
      Tell(operator_, "POST", "/api/v1/budgets",
           {{"scope", "organisation:" + their_org}, {"amount", "88888"}}, 201)["id"];
  Tell(operator_, "POST", "/api/v1/bills/adjustments",
       {{"organisation", their_org}, {"amount", "1"}, {"reason", "SECRET reason"}}, 201);
  Tell(SessionVoice(them), "PUT", "/api/v1/webhook", {{"url", "https://SECRET.example.org/hook"}}, 200);
  Tell(SessionVoice(them), "GET", "/api/v1/bills/csv", nullptr, 200);
  for (const std::string& id : {their_org, members["data"][0]["id"].get<std::string>(),
                                invitation["id"].get<std::string>(), org_budget}) {
    theirs.ids.push_back(id);
    theirs.words.push_back(id);
  }
  for (const char* word : {"secret2@", "88888"}) theirs.words.emplace_back(word);

  const platform::SignedIn owner = Join("owner@x.y", "owner");
  const Json rules = Tell(SessionVoice(them), "GET", "/api/v1/budgets", nullptr, 200);
  const Json limits = Tell(SessionVoice(them), "GET", "/api/v1/limits", nullptr, 200);
  ASSERT_EQ(rules["data"].size(), 2u);
  ASSERT_EQ(limits["data"].size(), 2u);
  ExpectHidden(
      theirs,
      {KeyVoice(Key("admin")), KeyVoice(Key("viewer")), SessionVoice(owner), SessionVoice(owner, "default")},
      "organisation:default");
  // And nothing of theirs has changed.
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/workspaces/" + their_ws, nullptr, 200), workspace);
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/keys/" + theirs.key, nullptr, 200)["revoked_at"], nullptr);
  EXPECT_EQ(Tell(SessionVoice(them), "GET", "/api/v1/members", nullptr, 200), members);
  EXPECT_EQ(Tell(SessionVoice(them), "GET", "/api/v1/invitations", nullptr, 200)["data"].size(), 2u);
  EXPECT_EQ(Tell(SessionVoice(them), "GET", "/api/v1/budgets", nullptr, 200), rules);
  EXPECT_EQ(Tell(SessionVoice(them), "GET", "/api/v1/limits", nullptr, 200), limits);
  EXPECT_EQ(Tell(SessionVoice(them), "GET", "/api/v1/conversations", nullptr, 200)["data"][0]["title"],
            "SECRET chat");
  // They see their own.
  Tell(SessionVoice(them), "GET", "/api/v1/requests/" + theirs.request, nullptr, 200);
  EXPECT_FALSE(stopped_);
  const Json running = Tell(SessionVoice(them), "GET", "/api/v1/requests/running", nullptr, 200);
  EXPECT_EQ(running["total"], 1);
  EXPECT_EQ(running["data"][0]["id"], theirs.running);
  EXPECT_EQ(running["data"][0]["state"], "queued");
  EXPECT_EQ(running["data"][0]["may_cancel"], true);
  Tell(SessionVoice(them), "POST", "/api/v1/requests/SECRET-request/cancel", nullptr, 200);
  EXPECT_TRUE(stopped_);
  Tell(SessionVoice(them), "GET", "/v1/responses/" + theirs.response, nullptr, 200);
  EXPECT_THAT(Tell(SessionVoice(them), "GET", "/api/v1/audit", nullptr, 200).dump(),
              ::testing::AllOf(HasSubstr("bill.exported"), HasSubstr("bill.adjusted"),
                               HasSubstr("limit.changed"), HasSubstr("budget.created")));
}

TEST_F(IsolationTest, NoEndpointShowsOneWorkspaceAnother) {
  StartWithAccounts();
  const std::string their_ws =
      Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "SECRET ws"}}, 201)["id"];
  const platform::SignedIn them = Join("SECRET@x.y", "developer", their_ws);
  // (Of which model something is free is the whole organisation's to know; what was used of it is not.)
  const Theirs theirs = MakeTheirs("default", their_ws, them, "a model");
  Tell(operator_, "POST", "/api/v1/deployments", {{"name", "shared-name"}, {"base", "scripted"}}, 201);
  deployments_->NoteUse("shared-name", {"default", their_ws, "", theirs.key, 0, 0});
  const std::string org_budget = Tell(operator_, "POST", "/api/v1/budgets",
                                      {{"scope", "organisation:default"}, {"amount", "1000"}}, 201)["id"];
  const Json before = Tell(operator_, "GET", "/api/v1/budgets", nullptr, 200);
  const std::string own_key =
      Tell(operator_, "POST", "/api/v1/keys", {{"name", "own"}, {"service", true}}, 201)["id"];
  const platform::SignedIn admin = Join("wsadmin@x.y", "admin", "default");
  ASSERT_EQ(Tell(SessionVoice(admin), "GET", "/api/v1/sessions/current", nullptr, 200)["role"],
            "workspace_admin");
  ExpectHidden(
      theirs,
      {KeyVoice(Key("admin")), KeyVoice(Key("developer")), KeyVoice(Key("viewer")), SessionVoice(admin)},
      "key:" + own_key);
  // When they called what everybody may call is told to the operator alone.
  for (const Voice& voice : {KeyVoice(Key("viewer")), SessionVoice(admin), operator_}) {
    const Json seen = Tell(voice, "GET", "/api/v1/deployments", nullptr, 200)["data"].at(0);
    EXPECT_EQ(seen.contains("last_used_at"), voice.headers == operator_.headers) << seen;
  }
  // A workspace's admin sees what binds it and rules its keys; what the organisation may spend is not theirs.
  EXPECT_THAT(Tell(SessionVoice(admin), "GET", "/api/v1/budgets", nullptr, 200).dump(),
              HasSubstr(org_budget));
  const Json own = {{"scope", "key:" + own_key}, {"amount", "1"}};
  EXPECT_EQ(Tell(SessionVoice(admin), "PUT", "/api/v1/budgets/" + org_budget, own, 403)["error"]["code"],
            "role_too_low");
  EXPECT_EQ(
      Tell(SessionVoice(admin), "DELETE", "/api/v1/budgets/" + org_budget, nullptr, 403)["error"]["code"],
      "role_too_low");
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/budgets", nullptr, 200), before);
  const std::string made = Tell(SessionVoice(admin), "POST", "/api/v1/budgets", own, 201)["id"];
  Tell(SessionVoice(admin), "PUT", "/api/v1/budgets/" + made, own, 200);
  Tell(SessionVoice(admin), "DELETE", "/api/v1/budgets/" + made, nullptr, 200);
  // What runs in their workspace its members see; who neither asked nor rules it does not stop it.
  EXPECT_FALSE(stopped_);
  const std::string cancel = "/api/v1/requests/" + theirs.running + "/cancel";
  EXPECT_EQ(
      Tell(SessionVoice(them), "GET", "/api/v1/requests/running", nullptr, 200)["data"][0]["may_cancel"],
      false);
  Tell(SessionVoice(them), "POST", cancel, nullptr, 404);
  EXPECT_FALSE(stopped_);
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/requests/running?key=" + theirs.key + "&model=other", nullptr,
                 200)["total"],
            0);
  EXPECT_EQ(Tell(operator_, "POST", cancel, nullptr, 200)["cancelled"], 1);
  EXPECT_TRUE(stopped_);
  // A conversation is the member's, whoever rules the workspace.
  const platform::SignedIn over = Join("owner@x.y", "owner");
  Tell(SessionVoice(over, their_ws), "GET", "/api/v1/conversations/" + theirs.conversation, nullptr, 404);
  EXPECT_EQ(Tell(SessionVoice(over, their_ws), "GET", "/api/v1/conversations", nullptr, 200)["data"].size(),
            0u);
}

TEST_F(AccountsApiTest, ForwardedAddressesCountFromTrustedProxiesOnly) {
  const Json spec = {{"name", "n"}, {"service", true}, {"networks", {"203.0.113.0/24"}}};
  constexpr std::string_view kForwarded = "X-Forwarded-For: 203.0.113.9\r\n";
  StartWithAccounts();
  const std::string key = Tell(operator_, "POST", "/api/v1/keys", spec, 201)["key"];
  EXPECT_EQ(Tell(KeyVoice(key), "GET", "/v1/models", nullptr, 403, kForwarded)["error"]["code"],
            "address_not_allowed");
  gateway_.reset();
  options_.trusted_proxy = "127.0.0.0/8,10.0.0.1";
  StartWithAccounts();
  Tell(KeyVoice(key), "GET", "/v1/models", nullptr, 200, kForwarded);
  // What a client wrote itself stands before what the proxy appended.
  EXPECT_EQ(Tell(KeyVoice(key), "GET", "/v1/models", nullptr, 403,
                 "X-Forwarded-For: 203.0.113.9, 198.51.100.1\r\n")["error"]["code"],
            "address_not_allowed");
  Tell(KeyVoice(key), "GET", "/v1/models", nullptr, 200,
       "X-Forwarded-For: 198.51.100.1, 203.0.113.9, 10.0.0.1\r\n");
  EXPECT_EQ(Tell(KeyVoice(key), "GET", "/v1/models", nullptr, 403)["error"]["code"], "address_not_allowed");
}

TEST_F(AccountsApiTest, TheCookieIsSecureWhereTheClientSpeaksTls) {
  options_.trusted_proxy = "127.0.0.0/8";
  StartWithAccounts();
  Join("p@x.y", "viewer");
  const std::string body = Json{{"email", "p@x.y"}, {"password", kPassword}}.dump();
  const auto cookie = [&](std::string_view header) {
    const RawReply reply = Ask(Raw({""}, "POST", "/api/v1/sessions", body, header));
    EXPECT_EQ(reply.status, 201) << reply.body;
    return reply.headers.contains("set-cookie") ? reply.headers.at("set-cookie") : std::string();
  };
  EXPECT_THAT(cookie("X-Forwarded-Proto: https\r\n"), HasSubstr("; Secure"));
  EXPECT_THAT(cookie("X-Forwarded-Proto: http\r\n"), Not(HasSubstr("Secure")));
  gateway_.reset();
  options_.trusted_proxy = "10.0.0.0/8";  // anybody may write the header
  StartWithAccounts();
  EXPECT_THAT(cookie("X-Forwarded-Proto: https\r\n"), Not(HasSubstr("Secure")));
}

TEST_F(AccountsApiTest, TheFirstOwnerThroughTheLink) {
  StartWithAccounts();
  const auto link = world_.accounts->MakeSetupLink();
  ASSERT_TRUE(link && *link);
  const Voice nobody{""};
  const RawReply page = Ask(Raw(nobody, "GET", "/setup"));
  EXPECT_EQ(page.status, 200);
  EXPECT_THAT(page.headers.at("content-type"), HasSubstr("text/html"));
  EXPECT_THAT(page.headers.at("content-security-policy"), HasSubstr("default-src 'none'"));
  EXPECT_EQ(Tell(nobody, "POST", "/api/v1/links/find", {{"token", (*link)->token}}, 200)["kind"], "setup");
  EXPECT_EQ(Tell(nobody, "POST", "/api/v1/links/find", {{"token", "tl-wrong"}}, 404)["error"]["code"],
            "link_not_found");
  const RawReply made = Ask(Raw(
      nobody, "POST", "/api/v1/links/use",
      Json{{"token", (*link)->token}, {"email", "o@x.y"}, {"name", "O"}, {"password", kPassword}}.dump()));
  ASSERT_EQ(made.status, 201) << made.body;
  const std::string cookie = made.headers.at("set-cookie");
  EXPECT_THAT(cookie, HasSubstr("HttpOnly"));
  EXPECT_THAT(cookie, HasSubstr("SameSite=Strict"));
  EXPECT_THAT(cookie, Not(HasSubstr("Secure"))) << "plain HTTP";
  EXPECT_EQ(made.headers.at("cache-control"), "no-store");
  const std::string pair = cookie.substr(0, cookie.find(';'));
  const std::string csrf = Json::parse(made.body)["csrf_token"];
  const Voice reads{"Cookie: " + pair + "\r\n"};
  const Json current = Tell(reads, "GET", "/api/v1/sessions/current", nullptr, 200);
  EXPECT_EQ(current["role"], "operator");
  EXPECT_EQ(current["csrf_token"], csrf);
  EXPECT_EQ(current["user"]["email"], "o@x.y");
  EXPECT_EQ(Tell(reads, "POST", "/api/v1/workspaces", {{"name", "w"}}, 403)["error"]["code"],
            "csrf_token_missing");
  const Voice writes{"Cookie: " + pair + "\r\nTidepool-CSRF: " + csrf + "\r\n"};
  Tell(writes, "POST", "/api/v1/workspaces", {{"name", "w"}}, 201);
  // What a session generates is metered under `console` of the workspace that it chose.
  const Json w = Tell(writes, "POST", "/api/v1/workspaces", {{"name", "second"}}, 201);
  const std::string chosen = "Tidepool-Workspace: " + w["id"].get<std::string>() + "\r\n";
  Tell({writes.headers + chosen}, "POST", "/v1/chat/completions",
       {{"model", "scripted"}, {"messages", {{{"role", "user"}, {"content", "hi"}}}}}, 200);
  EXPECT_EQ(inference_.last_chat().principal.workspace, w["id"]) << "the scope of prefix reuse";
  EXPECT_EQ(inference_.last_chat().principal.account, "default/" + w["id"].get<std::string>() + "/console");
  // Another site's cookie beside ours: neither counts.
  EXPECT_EQ(Tell({"Cookie: tidepool_session=evil; " + pair + "\r\n"}, "GET", "/v1/models", nullptr,
                 401)["error"]["code"],
            "missing_api_key");
  const RawReply out = Ask(Raw(writes, "DELETE", "/api/v1/sessions/current"));
  EXPECT_EQ(out.status, 200);
  EXPECT_THAT(out.headers.at("set-cookie"), HasSubstr("Max-Age=0"));
  EXPECT_EQ(Tell(reads, "GET", "/v1/models", nullptr, 401)["error"]["code"], "invalid_session");
}

TEST_F(AccountsApiTest, SignInsAreLimitedAndRecorded) {
  StartWithAccounts();
  Join("p@x.y", "viewer");
  const Voice nobody{""};
  for (int i = 0; i < world_.options_.sign_in_attempts - 1; ++i) {
    EXPECT_EQ(Tell(nobody, "POST", "/api/v1/sessions", {{"email", "p@x.y"}, {"password", "wrong"}},
                   401)["error"]["code"],
              "wrong_password");
  }
  Tell(nobody, "POST", "/api/v1/sessions", {{"email", "p@x.y"}, {"password", kPassword}}, 201);
  Tell(nobody, "POST", "/api/v1/sessions", {{"email", "p@x.y"}, {"password", "wrong"}}, 401);
  const RawReply refused =
      Ask(Raw(nobody, "POST", "/api/v1/sessions", Json{{"email", "p@x.y"}, {"password", kPassword}}.dump()));
  EXPECT_EQ(refused.status, 429);
  EXPECT_TRUE(refused.headers.contains("retry-after"));
  const Json audit = Tell(operator_, "GET", "/api/v1/audit", nullptr, 200);
  EXPECT_THAT(audit.dump(), HasSubstr("session.refused"));
  EXPECT_THAT(audit.dump(), Not(HasSubstr(kPassword)));
}

TEST_F(AccountsApiTest, ConversationsAreCalledAsTheRestIs) {
  StartWithAccounts();
  const Voice voice = KeyVoice(Key("developer"));
  const Json made =
      Tell(voice, "POST", "/api/v1/conversations", {{"title", "t"}, {"model", "scripted"}}, 201);
  const std::string path = "/api/v1/conversations/" + made.value("id", "");
  for (const std::string& target : {std::string("/api/v1/conversations?nonsense=1"), path + "?x=1",
                                    path + "/events?x=1", path + "/export?x=1"}) {
    EXPECT_EQ(Tell(voice, "GET", target, nullptr, 400)["error"]["code"], "unknown_parameter") << target;
  }
  EXPECT_EQ(Tell(voice, "GET", "/api/v1/conversations?limit=0", nullptr, 400)["error"]["param"], "limit");
  EXPECT_EQ(Tell(voice, "GET", path + "/events?after=-1", nullptr, 400)["error"]["param"], "after");
  for (const std::string& target : {std::string("/api/v1/conversations"), path, path + "/export?format=json"})
    EXPECT_EQ(Ask(Raw(voice, "GET", target)).headers.at("cache-control"), "no-store") << target;
  EXPECT_EQ(Ask(Raw(voice, "GET", path + "/export")).headers.at("content-type"),
            "text/markdown; charset=utf-8");
  // A page that sends again what it is not sure about says it once.
  inference_.SetScript([](FakeRun& run) {
    run.Token("so");
    run.Finish(compute::FinishReason::kStop);
    run.Done(compute::Usage{});
  });
  const Json said{{"content", "hi"}};
  const Json first = Tell(voice, "POST", path + "/turns", said, 201, "Idempotency-Key: t-1\r\n");
  ASSERT_EQ(first["turns"].size(), 2u);
  EXPECT_EQ(Tell(voice, "POST", path + "/turns", said, 201, "Idempotency-Key: t-1\r\n"), first);
  EXPECT_EQ(Tell(voice, "GET", path, nullptr, 200)["turns"].size(), 2u);
}

TEST_F(AccountsApiTest, BadRequestsNameTheField) {
  StartWithAccounts();
  const auto refused = [&](std::string_view method, std::string_view target, const Json& body) {
    const Json reply = Tell(operator_, method, target, body, 400);
    return reply["error"]["code"].get<std::string>() + " " +
           (reply["error"]["param"].is_string() ? reply["error"]["param"].get<std::string>() : "");
  };
  EXPECT_EQ(refused("POST", "/api/v1/keys", Json::object()), "missing_field name");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", 7}}), "invalid_type name");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", "x"}, {"colour", "red"}}), "unknown_field colour");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", "x"}, {"models", {1}}}), "invalid_value models");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", "x"}, {"service", true}, {"expires_at", -1}}),
            "invalid_value expires_at");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", "x"}, {"service", true}, {"expires_at", 1e300}}),
            "invalid_type expires_at");
  EXPECT_EQ(refused("POST", "/api/v1/keys", {{"name", "x"}, {"service", false}}), "invalid_value service");
  EXPECT_EQ(refused("POST", "/api/v1/workspaces", {{"name", "x"}, {"weight", -1}}), "invalid_value weight");
  EXPECT_EQ(refused("GET", "/api/v1/keys?limit=0", nullptr), "invalid_value limit");
  EXPECT_EQ(refused("GET", "/api/v1/keys?limit=1e3", nullptr), "invalid_value limit");
  EXPECT_EQ(refused("GET", "/api/v1/keys?colour=red", nullptr), "unknown_parameter colour");
  EXPECT_EQ(refused("GET", "/api/v1/keys?limit=1&limit=2", nullptr), "unknown_parameter limit");
  EXPECT_EQ(refused("GET", "/api/v1/keys?after=%zz", nullptr), "bad_query ");
  EXPECT_EQ(refused("GET", "/api/v1/audit?limit=5000", nullptr), "invalid_value limit");
  EXPECT_EQ(refused("DELETE", "/api/v1/sessions/current", nullptr), "no_session ");
}

TEST_F(AccountsApiTest, AFullStoreIs503ThatSaysWhyAndGoesAway) {
  StartWithAccounts();
  const auto limit = [&](int64_t pages) {
    ASSERT_TRUE(world_.database->Write([&](store::Session& s) {
      return s.Query("PRAGMA max_page_count=" + std::to_string(pages)).map([](auto&&) {});
    }));
  };
  limit(1);
  const Json spec = {{"name", std::string(200, 'n')}};
  RawReply reply;
  for (int i = 0; i < 200 && (i == 0 || reply.status == 201); ++i)
    reply = Ask(Raw(operator_, "POST", "/api/v1/organisations", spec.dump()));
  EXPECT_EQ(reply.status, 503) << reply.body;
  EXPECT_EQ(Json::parse(reply.body)["error"]["code"], "store_full");
  EXPECT_THAT(reply.body, HasSubstr("no room left"));
  EXPECT_TRUE(reply.headers.contains("retry-after"));
  Tell(operator_, "GET", "/v1/models", nullptr, 200);
  limit(1'000'000);
  Tell(operator_, "POST", "/api/v1/organisations", spec, 201);
}

TEST_F(AccountsApiTest, ChangedSettingsAreRecorded) {
  StartWithAccounts();
  Tell(operator_, "PATCH", "/api/v1/settings", {{"values", {{"pool.ttft_s", "5"}}}}, 200);
  const Json rows = Tell(operator_, "GET", "/api/v1/audit", nullptr, 200)["data"];
  const auto row = std::find_if(rows.begin(), rows.end(),
                                [](const Json& one) { return one["action"] == "settings.changed"; });
  ASSERT_NE(row, rows.end()) << rows;
  EXPECT_EQ((*row)["after"], Json::parse(R"({"pool.ttft_s": "5"})"));
  EXPECT_TRUE((*row)["before"]["pool.ttft_s"].is_null());
  Tell(operator_, "PATCH", "/api/v1/settings", {{"values", {{"home", "/tmp"}}}}, 403);
  Tell(operator_, "PATCH", "/api/v1/settings", Json::object(), 400);
}

TEST_F(AccountsApiTest, WhatTheOperatorDoesIsRecorded) {
  StartWithAccounts();
  Tell(operator_, "POST", "/api/v1/pulls", {{"source", "smollm2:135m"}}, 202);
  std::string rows;
  for (int i = 0; i < 400 && rows.find("/api/v1/pulls") == std::string::npos; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    rows = Tell(operator_, "GET", "/api/v1/audit", nullptr, 200).dump();
  }
  EXPECT_THAT(rows, HasSubstr("POST /api/v1/pulls"));
  EXPECT_THAT(rows, HasSubstr("smollm2:135m"));
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/audit/verify", nullptr, 200)["good"], true);
  // An organisation's admins see theirs only.
  const Json other = Tell(operator_, "POST", "/api/v1/organisations", {{"name", "Elsewhere"}}, 201);
  const platform::SignedIn admin = Join("a@x.y", "admin");
  const std::string theirs = Tell(SessionVoice(admin), "GET", "/api/v1/audit", nullptr, 200).dump();
  EXPECT_THAT(theirs, HasSubstr("member.created"));
  EXPECT_THAT(theirs, Not(HasSubstr("Elsewhere")));
  const Json page = Tell(operator_, "GET", "/api/v1/audit?limit=2", nullptr, 200);
  EXPECT_EQ(page["data"].size(), 2u);
  const Json next =
      Tell(operator_, "GET", "/api/v1/audit?limit=2&after=" + page["next_cursor"].get<std::string>(), nullptr,
           200);
  EXPECT_EQ(next["data"][0]["number"].get<int64_t>(), page["data"][1]["number"].get<int64_t>() - 1);
}

class RecordedActionsTest : public AccountsApiTest {
 protected:
  // The newest row of that action, once it is there.
  Json Recorded(const std::string& action, const std::function<bool(const Json&)>& wanted) {
    for (int i = 0; i < 400; ++i) {
      const Json rows = Tell(operator_, "GET", "/api/v1/audit?limit=100", nullptr, 200)["data"];
      for (const Json& row : rows) {
        if (row["action"] == action && wanted(row)) return row;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
    ADD_FAILURE() << "no " << action;
    return {{"before", nullptr}, {"after", nullptr}};
  }
};

TEST_F(RecordedActionsTest, PullsWithWhatWasBefore) {
  StartWithAccounts();
  const auto any = [](const Json&) { return true; };
  const Json pull = Tell(operator_, "POST", "/api/v1/pulls", {{"source", "smollm2:135m"}}, 202);
  const std::string id = pull["id"];
  Json row = Recorded("POST /api/v1/pulls", any);
  EXPECT_TRUE(row["before"].is_null()) << row.dump();
  EXPECT_EQ(row["after"]["pull"], id) << row.dump();
  EXPECT_EQ(row["after"]["state"], pull["state"]);
  EXPECT_EQ(row["after"]["request"]["source"], "smollm2:135m");
  Tell(operator_, "POST", "/api/v1/pulls/" + id + "/pause", Json::object(), 200);
  row = Recorded("POST /api/v1/pulls/{id}/pause", any);
  EXPECT_EQ(row["before"]["state"], pull["state"]) << row.dump();
  EXPECT_EQ(row["after"]["state"], "paused");
  Tell(operator_, "POST", "/api/v1/pulls/" + id + "/cancel", Json::object(), 200);
  row = Recorded("POST /api/v1/pulls/{id}/cancel", any);
  EXPECT_EQ(row["before"]["state"], "paused");
  EXPECT_EQ(row["after"]["state"], "cancelled");
}

TEST_F(RecordedActionsTest, WebhooksWithWhatWasBefore) {
  StartWithAccounts();
  const platform::SignedIn owner = Join("o@x.y", "owner");
  const std::string first = "https://one.example.org/hook", second = "https://two.example.org/hook";
  Tell(SessionVoice(owner), "PUT", "/api/v1/webhook", {{"url", first}}, 200);
  const Json made = Tell(SessionVoice(owner), "PUT", "/api/v1/webhook", {{"url", second}}, 200);
  Tell(SessionVoice(owner), "DELETE", "/api/v1/webhook", nullptr, 200);
  const auto is = [](const char* field, const std::string& url) {
    return [=](const Json& row) { return row[field].is_object() && row[field]["url"] == url; };
  };
  EXPECT_TRUE(Recorded("webhook.changed", is("after", first))["before"].is_null());
  EXPECT_EQ(Recorded("webhook.changed", is("after", second))["before"]["url"], first);
  const Json gone = Recorded("webhook.removed", [](const Json&) { return true; });
  EXPECT_EQ(gone["before"]["url"], second);
  EXPECT_TRUE(gone["after"].is_null());
  EXPECT_THAT(Tell(operator_, "GET", "/api/v1/audit?limit=100", nullptr, 200).dump(),
              Not(HasSubstr(made["secret"].get<std::string>())));
}

TEST_F(RecordedActionsTest, APullWithAnIdempotencyKeyStartsOnce) {
  StartWithAccounts();
  constexpr std::string_view kKey = "Idempotency-Key: pull-1\r\n";
  const Json body = {{"source", "smollm2:135m"}};
  const Json first = Tell(operator_, "POST", "/api/v1/pulls", body, 202, kKey);
  const size_t before = catalog_.ListPulls().size();
  const RawReply again = Ask(Raw(operator_, "POST", "/api/v1/pulls", body.dump(), kKey));
  EXPECT_EQ(again.status, 202);
  EXPECT_EQ(again.headers.at("idempotent-replayed"), "true");
  EXPECT_EQ(Json::parse(again.body), first);
  EXPECT_EQ(catalog_.ListPulls().size(), before);
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/pulls", {{"source", "qwen3:0.6b"}}, 409, kKey)["error"]["code"],
            "idempotency_key_reused");
  // Once, too, in the audit log.
  Tell(operator_, "POST", "/api/v1/pulls", {{"source", "qwen3:0.6b"}}, 202);
  Recorded("POST /api/v1/pulls",
           [](const Json& row) { return row["after"]["request"]["source"] == "qwen3:0.6b"; });
  int recorded = 0;
  const Json rows = Tell(operator_, "GET", "/api/v1/audit?limit=100", nullptr, 200)["data"];
  for (const Json& row : rows) recorded += row["action"] == "POST /api/v1/pulls" ? 1 : 0;
  EXPECT_EQ(recorded, 2);
}

TEST_F(AccountsApiTest, WithoutAccountsTheEndpointsSaySo) {
  Start();
  const RawReply reply = Ask(Get("/api/v1/keys"));
  EXPECT_EQ(reply.status, 501);
}

}  // namespace
}  // namespace tidepool::gateway
