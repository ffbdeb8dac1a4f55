// Links to conversations through HTTP.
#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(AccountsApiTest, ALinkToAConversationNeedsNoAccountAndDiesWithTheRightToIt) {
  StartWithAccounts();
  const std::string workspace = Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "w"}}, 201)["id"];
  const platform::SignedIn ann = Join("ann@x.y", "developer", workspace);
  const Voice voice = SessionVoice(ann, workspace);
  const std::string path =
      "/api/v1/conversations/" + Converse(voice, "about tides").value("id", "") + "/shares";
  EXPECT_EQ(Tell(voice, "POST", path, Json::object(), 403)["error"]["code"], "sharing_off") << "off at first";
  const std::string settings = "/api/v1/workspaces/" + workspace;
  EXPECT_EQ(Tell(voice, "GET", settings, nullptr, 200)["sharing"], false);
  Tell(voice, "PATCH", settings, {{"sharing", true}}, 403);
  EXPECT_EQ(Tell(operator_, "PATCH", settings, {{"sharing", true}}, 200)["sharing"], true);
  const Json made = Tell(voice, "POST", path, {{"days", 2}}, 201);
  const Json ask = {{"token", made["token"]}};
  const Voice nobody{""};
  const Json shown = Tell(nobody, "POST", "/api/v1/shared", ask, 200);
  EXPECT_EQ(shown["title"], "about tides");
  EXPECT_EQ(shown["turns"].size(), 2u);
  EXPECT_EQ(shown["turns"][0]["content"], "about tides");
  EXPECT_EQ(shown["expires_at"].get<int64_t>() - shown["created_at"].get<int64_t>(), 2 * 86400);
  EXPECT_THAT(shown.dump(), Not(HasSubstr(ann.user.id)));
  const Json listed = Tell(voice, "GET", path, nullptr, 200);
  ASSERT_EQ(listed["data"].size(), 1u);
  EXPECT_FALSE(listed["data"][0].contains("token"));
  const auto gone = [&](const Json& body) {
    Json reply = Tell(nobody, "POST", "/api/v1/shared", body, 404);
    reply["error"].erase("request_id");
    return reply;
  };
  const Json never = gone({{"token", "tps-never"}});
  EXPECT_EQ(never["error"]["code"], "share_not_found");
  Tell(operator_, "PATCH", settings, {{"sharing", false}}, 200);
  EXPECT_EQ(gone(ask), never);
  Tell(operator_, "PATCH", settings, {{"sharing", true}}, 200);
  Tell(nobody, "POST", "/api/v1/shared", ask, 200);
  const Json second = Tell(voice, "POST", path, Json::object(), 201);
  Tell(voice, "DELETE", path + "/" + second["id"].get<std::string>(), nullptr, 200);
  EXPECT_EQ(gone({{"token", second["token"]}}), never);
  // Her membership ends: so do her links.
  std::string member;
  const Json members = Tell(operator_, "GET", "/api/v1/members?workspace=" + workspace, nullptr, 200);
  for (const Json& one : members["data"]) {
    if (one["email"] == "ann@x.y") member = one["id"];
  }
  Tell(operator_, "DELETE", "/api/v1/members/" + member, nullptr, 200);
  EXPECT_EQ(gone(ask), never);
  EXPECT_THAT(Tell(operator_, "GET", "/api/v1/audit", nullptr, 200).dump(),
              ::testing::AllOf(HasSubstr("conversation.shared"), HasSubstr("conversation.unshared"),
                               Not(HasSubstr(made["token"].get<std::string>()))));
}

}  // namespace
}  // namespace tidepool::gateway
