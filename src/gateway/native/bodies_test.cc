// Stored request bodies through HTTP: the workspace's rule, who may read and delete what, and what the audit
// log has of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class BodiesApiTest : public AccountsApiTest {
 protected:
  Json Rule(const Voice& voice, const Json& change, int status = 200,
            const std::string& workspace = "default") {
    return Tell(voice, "PATCH", "/api/v1/workspaces/" + workspace, change, status);
  }
  // The newest row of that action.
  Json Audited(const std::string& action) {
    const Json rows = Tell(operator_, "GET", "/api/v1/audit?limit=50", nullptr, 200);
    for (const Json& row : rows["data"]) {
      if (row["action"] == action) return row;
    }
    return nullptr;
  }
  // A request of a person: the ledger has no key for it but "console".
  std::string MeterOf(const std::string& member) {
    platform::AdmissionRequest request;
    request.payer = {"default", "default", "console", member};
    request.model = request.model_version = "m";
    const std::string id = RandomId("req-");
    auto meter = accounting_->ledger().Admit(request, id, "chat.completions");
    EXPECT_TRUE(meter);
    std::promise<Status> durable;
    (*meter)->Close(platform::UsageStatus::kDone, "", {}, [&](const Status& s) { durable.set_value(s); });
    EXPECT_TRUE(durable.get_future().get());
    EXPECT_TRUE(accounting_->ledger().Flush(10));
    return id;
  }
};

TEST_F(BodiesApiTest, TheRuleIsOffShownAndChangedByAdminsOnly) {
  StartWithAccounts();
  const Json before = Tell(operator_, "GET", "/api/v1/workspaces/default", nullptr, 200);
  EXPECT_EQ(before["store_bodies"], false);
  EXPECT_EQ(before["retention_days"], 30);
  EXPECT_EQ(before["stored_responses"], "as_asked");
  EXPECT_EQ(before["redact"], (Json{{"email", true},
                                    {"phone", true},
                                    {"card", true},
                                    {"iban", true},
                                    {"token", true},
                                    {"ip", true},
                                    {"patterns", Json::array()}}));
  for (const char* role : {"viewer", "developer", "admin"})
    Rule(KeyVoice(Key(role)), {{"store_bodies", true}}, 403);
  const Json after =
      Rule(SessionVoice(Join("admin@x.y", "admin")), {{"store_bodies", true},
                                                      {"retention_days", 7},
                                                      {"redact", {{"ip", false}, {"patterns", {"AB-\\d+"}}}},
                                                      {"stored_responses", "never"}});
  EXPECT_EQ(after["store_bodies"], true);
  EXPECT_EQ(after["redact"]["ip"], false);
  EXPECT_EQ(after["redact"]["email"], true) << "what is not named stays";
  EXPECT_EQ(after["stored_responses"], "never");
  const Json row = Audited("workspace.changed");
  EXPECT_EQ(row["before"]["store_bodies"], false) << row.dump();
  EXPECT_EQ(row["after"]["store_bodies"], true);
  EXPECT_EQ(row["before"]["retention_days"], 30);
  EXPECT_EQ(row["after"]["retention_days"], 7);
  EXPECT_EQ(row["after"]["redact"]["patterns"][0], "AB-\\d+");
  EXPECT_EQ(row["after"]["stored_responses"], "never");
}

TEST_F(BodiesApiTest, WhatIsWrongWithARuleIsSaidByField) {
  StartWithAccounts();
  const std::pair<Json, const char*> cases[] = {
      {{{"retention_days", 0}}, "retention_days"},
      {{{"retention_days", 366}}, "retention_days"},
      {{{"retention_days", "x"}}, "retention_days"},
      {{{"store_bodies", "yes"}}, "store_bodies"},
      {{{"redact", Json::array()}}, "redact"},
      {{{"redact", {{"names", true}}}}, "redact.names"},
      {{{"redact", {{"email", 1}}}}, "redact.email"},
      {{{"redact", {{"patterns", {"ok", 7}}}}}, "redact.patterns[1]"},
      {{{"redact", {{"patterns", {"ok", "(a"}}}}}, "redact.patterns[1]"},
      {{{"redact", {{"patterns", std::vector<std::string>(17, "x")}}}}, "redact.patterns"},
      {{{"stored_responses", "sometimes"}}, "stored_responses"},
  };
  for (const auto& [change, field] : cases) {
    const Json refused = Rule(operator_, change, 400);
    EXPECT_EQ(refused["error"]["param"], field) << change.dump() << " " << refused.dump();
  }
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/workspaces/default", nullptr, 200)["store_bodies"], false);
}

TEST_F(BodiesApiTest, AdminsReadAllOthersTheirOwnAndEachReadingIsAudited) {
  StartWithAccounts();
  Rule(operator_, {{"store_bodies", true}});
  const platform::SignedIn ann = Join("ann@x.y", "developer", "default"),
                           bob = Join("bob@x.y", "developer", "default");
  const platform::SignedIn viewer = Join("vera@x.y", "viewer", "default");
  const std::string request = MeterOf(ann.user.id), path = "/api/v1/requests/" + request + "/body";
  StoreBody("default", request, "tell bob@example.com of the TANGERINE", "said MARMALADE");
  const std::string service = Key("developer"), other_service = Key("developer");
  const Voice admin = KeyVoice(Key("admin"));

  const Json body = Tell(SessionVoice(ann), "GET", path, nullptr, 200);
  EXPECT_EQ(body["request"]["text"], R"({"prompt":"tell [redacted:email] of the TANGERINE"})");
  EXPECT_EQ(body["answer"]["choices"][0]["content"], "said MARMALADE");
  EXPECT_EQ(body["redactions"], 1);
  EXPECT_EQ(body["expires_at"].get<int64_t>() - body["created_at"].get<int64_t>(), 30 * 86'400);
  Json row = Audited("body.exported");
  EXPECT_EQ(row["object"], body["id"]) << row.dump();
  EXPECT_EQ(row["member"], ann.user.id);
  EXPECT_EQ(row["after"]["request_id"], request);
  EXPECT_THAT(row.dump(), Not(HasSubstr("TANGERINE")));
  EXPECT_EQ(Tell(admin, "GET", path, nullptr, 200)["id"], body["id"]);
  EXPECT_EQ(Tell(SessionVoice(Join("owner@x.y", "owner")), "GET", path, nullptr, 200)["id"], body["id"]);
  for (const Voice& voice : {SessionVoice(bob), KeyVoice(service)}) {
    EXPECT_EQ(Tell(voice, "GET", path, nullptr, 403)["error"]["code"], "body_of_another");
    EXPECT_EQ(Tell(voice, "DELETE", path, nullptr, 403)["error"]["code"], "body_of_another");
  }
  EXPECT_EQ(Tell(SessionVoice(viewer), "GET", path, nullptr, 403)["error"]["code"], "role_too_low");

  // A service key's requests are its own, not of another.
  const std::string key_id =
      Tell(KeyVoice(service), "GET", "/api/v1/sessions/current", nullptr, 200).value("key", "");
  ASSERT_FALSE(key_id.empty());
  const std::string by_key = Meter("default", "default", key_id, "m");
  StoreBody("default", by_key, "by a key");
  Tell(KeyVoice(service), "GET", "/api/v1/requests/" + by_key + "/body", nullptr, 200);
  Tell(KeyVoice(other_service), "GET", "/api/v1/requests/" + by_key + "/body", nullptr, 403);
  // The list says what there is.
  const auto stored = [&](const std::string& id) {
    const Json list = Tell(admin, "GET", "/api/v1/requests", nullptr, 200);
    for (const Json& one : list["data"]) {
      if (one["request_id"] == id) return one["body_stored"].get<bool>();
    }
    ADD_FAILURE() << id;
    return false;
  };
  const std::string without = MeterOf(ann.user.id);
  EXPECT_TRUE(stored(request));
  EXPECT_FALSE(stored(without));
  EXPECT_EQ(Tell(admin, "GET", "/api/v1/requests/" + request, nullptr, 200)["body_stored"], true);
  EXPECT_EQ(Tell(admin, "GET", "/api/v1/requests/" + without + "/body", nullptr, 404)["error"]["code"],
            "no_stored_body");

  Tell(SessionVoice(ann), "DELETE", path, nullptr, 200);
  row = Audited("body.deleted");
  EXPECT_EQ(row["before"]["request_id"], request) << row.dump();
  EXPECT_FALSE(stored(request));
  Tell(SessionVoice(ann), "GET", path, nullptr, 404);
  Tell(SessionVoice(ann), "DELETE", path, nullptr, 404);
}

TEST_F(BodiesApiTest, AnOperatorReadsNoOtherOrganisations) {
  StartWithAccounts();
  const std::string org = Tell(operator_, "POST", "/api/v1/organisations", {{"name", "theirs"}}, 201)["id"];
  const std::string ws =
      Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "w"}, {"organisation", org}}, 201)["id"];
  Rule(operator_, {{"store_bodies", true}}, 200, ws);
  const std::string request = Meter(org, ws, "key", "m");
  StoreBody(ws, request, "theirs");
  Tell(operator_, "GET", "/api/v1/requests/" + request, nullptr, 200);
  Tell(operator_, "GET", "/api/v1/requests/" + request + "/body", nullptr, 404);
  Tell(operator_, "DELETE", "/api/v1/requests/" + request + "/body", nullptr, 404);
  Tell(SessionVoice(Join("o@x.y", "owner", nullptr, org)), "GET", "/api/v1/requests/" + request + "/body",
       nullptr, 200);
}

TEST_F(BodiesApiTest, TurningOffSaysWhatItDeleted) {
  StartWithAccounts();
  Rule(operator_, {{"store_bodies", true}});
  const std::string request = Meter("default", "default", "key", "m");
  StoreBody("default", request, "x");
  Tell(operator_, "POST", "/v1/responses", {{"model", "scripted"}, {"input", "kept"}}, 200);
  const Json off = Rule(operator_, {{"store_bodies", false}, {"stored_responses", "never"}});
  EXPECT_EQ(off["bodies_deleted"], 1);
  EXPECT_EQ(off["responses_deleted"], 1);
  Tell(operator_, "GET", "/api/v1/requests/" + request + "/body", nullptr, 404);
}

TEST_F(BodiesApiTest, ResponsesAreNotStoredWhereTheWorkspaceSaysNever) {
  StartWithAccounts();
  const auto ask = [&](Json more, int status) {
    more["model"] = "scripted";
    more["input"] = "hello";
    return Tell(operator_, "POST", "/v1/responses", more, status);
  };
  const Json first = ask(Json::object(), 200);
  EXPECT_EQ(first["store"], true);
  Rule(operator_, {{"stored_responses", "never"}});
  const std::string id = first["id"];
  Tell(operator_, "GET", "/v1/responses/" + id, nullptr, 404);
  const Json silent = ask(Json::object(), 200);
  EXPECT_EQ(silent["store"], false) << "the answer says it";
  Tell(operator_, "GET", "/v1/responses/" + silent["id"].get<std::string>(), nullptr, 404);
  EXPECT_EQ(ask({{"store", false}}, 200)["store"], false);
  const std::pair<Json, const char*> cases[] = {{{{"store", true}}, "store"},
                                                {{{"background", true}}, "background"},
                                                {{{"background", true}, {"store", true}}, "background"},
                                                {{{"previous_response_id", id}}, "previous_response_id"}};
  for (const auto& [more, field] : cases) {
    const Json refused = ask(more, 403);
    EXPECT_EQ(refused["error"]["code"], "responses_not_stored") << refused.dump();
    EXPECT_EQ(refused["error"]["param"], field);
    EXPECT_THAT(refused["error"]["message"].get<std::string>(), HasSubstr("stored_responses"));
  }
  Rule(operator_, {{"stored_responses", "as_asked"}});
  EXPECT_EQ(ask(Json::object(), 200)["store"], true);
}

}  // namespace
}  // namespace tidepool::gateway
