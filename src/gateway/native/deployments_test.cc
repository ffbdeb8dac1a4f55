// Deployments through HTTP.
#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;

TEST_F(AccountsApiTest, DeploymentsAreTheOperatorsAndEverybodysToSee) {
  StartWithAccounts();
  const std::string path = "/api/v1/deployments";
  const Json wanted = {{"name", "team/a"},
                       {"base", "scripted"},
                       {"defaults", {{"temperature", 0.5}, {"stop", {"END"}}, {"top_p", nullptr}}},
                       {"max_output_tokens", 50},
                       {"weight", 2}};
  const Json made = Tell(operator_, "POST", path, wanted, 201, "Idempotency-Key: once\r\n");
  EXPECT_EQ(made["defaults"]["temperature"], 0.5);
  EXPECT_EQ(made["defaults"]["stop"], Json({"END"}));
  EXPECT_EQ(made["pinned"], false);
  EXPECT_EQ(made["used_by"], Json::array());
  EXPECT_EQ(Tell(operator_, "POST", path, wanted, 201, "Idempotency-Key: once\r\n")["created_at"],
            made["created_at"]);
  EXPECT_EQ(Tell(operator_, "POST", path, wanted, 409)["error"]["code"], "exists");
  Tell(operator_, "POST", path, {{"name", "b"}, {"base", "org/repo:Q4_K_M"}}, 201);
  deployments_->NoteUse("team/a", {"default", "default", "", "key-SECRET", 0, 0});

  const Voice viewer = KeyVoice(Key("viewer"));
  const Json seen = Tell(viewer, "GET", path + "/team/a", nullptr, 200);
  EXPECT_FALSE(seen.contains("used_by") || seen.contains("created_by") || seen.contains("last_used_at"));
  const Json all = Tell(operator_, "GET", path + "/team%2Fa", nullptr, 200);
  EXPECT_EQ(all["used_by"][0]["key"], "key-SECRET");
  EXPECT_NE(all["last_used_at"], nullptr);
  EXPECT_EQ(Tell(viewer, "GET", path, nullptr, 200)["data"].size(), 2u);
  const Json page = Tell(viewer, "GET", path + "?limit=1", nullptr, 200);
  EXPECT_EQ(page["data"][0]["name"], "b");
  EXPECT_EQ(Tell(viewer, "GET", path + "?limit=1&after=" + page["next_cursor"].get<std::string>(), nullptr,
                 200)["data"][0]["name"],
            "team/a");
  const Json scoped = Tell(operator_, "POST", "/api/v1/keys",
                           {{"name", "scoped"}, {"service", true}, {"models", {"team/*"}}}, 201);
  EXPECT_EQ(Tell(KeyVoice(scoped["key"]), "GET", path, nullptr, 200)["data"].size(), 1u);
  Tell(KeyVoice(scoped["key"]), "GET", path + "/b", nullptr, 404);

  // A merge patch.
  const Json changed = Tell(
      operator_, "PATCH", path + "/team/a",
      {{"pinned", true}, {"weight", nullptr}, {"defaults", {{"temperature", nullptr}, {"max_tokens", 7}}}},
      200);
  EXPECT_EQ(changed["pinned"], true);
  EXPECT_EQ(changed["weight"], nullptr);
  EXPECT_EQ(changed["defaults"]["temperature"], nullptr);
  EXPECT_EQ(changed["defaults"]["max_tokens"], 7);
  EXPECT_EQ(changed["defaults"]["stop"], Json({"END"}));
  EXPECT_EQ(changed["max_output_tokens"], 50);
  const auto code = [&](std::string_view method, const std::string& target, const Json& body, int status) {
    return Tell(operator_, method, target, body, status)["error"]["code"];
  };
  EXPECT_EQ(code("PATCH", path + "/team/a", {{"name", "c"}}, 400), "unknown_field");
  EXPECT_EQ(code("PATCH", path + "/team/a", {{"defaults", {{"heat", 1}}}}, 400), "unknown_field");
  EXPECT_EQ(code("PATCH", path + "/team/a", {{"defaults", {{"temperature", 3}}}}, 400), "invalid_value");
  EXPECT_EQ(code("PATCH", path + "/none", {{"pinned", true}}, 404), "deployment_not_found");
  EXPECT_EQ(code("POST", path, {{"name", "c"}, {"base", "nothing"}}, 404), "model_not_found");
  EXPECT_EQ(code("POST", path, {{"name", "c c"}, {"base", "scripted"}}, 400), "invalid_name");
  EXPECT_EQ(code("POST", path, {{"base", "scripted"}}, 400), "missing_field");
  inference_.pool_bytes = 1000;
  EXPECT_EQ(Tell(operator_, "POST", path + "/fit", {{"base", "scripted"}}, 200)["fits"], false);
  EXPECT_EQ(code("POST", path, {{"name", "c"}, {"base", "scripted"}}, 409), "does_not_fit");
  Tell(operator_, "POST", path, {{"name", "c"}, {"base", "scripted"}, {"force", true}}, 201);
  const Json gone = Tell(operator_, "DELETE", path + "/team/a", nullptr, 200);
  EXPECT_EQ(gone["used_by"][0]["key"], "key-SECRET");
  Tell(operator_, "GET", path + "/team/a", nullptr, 404);
  EXPECT_THAT(Tell(operator_, "GET", "/api/v1/audit", nullptr, 200).dump(),
              ::testing::AllOf(HasSubstr("deployment.created"), HasSubstr("deployment.changed"),
                               HasSubstr("deployment.deleted")));
}

}  // namespace
}  // namespace tidepool::gateway
