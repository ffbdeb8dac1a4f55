// Rules and prices through HTTP: pages, who sees what on them. Oracle: what was made.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "gateway/testing/accounts_api_fixture.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;

class MoneyApiTest : public AccountsApiTest {
 protected:
  // Everything on a list, `limit` at a time.
  std::vector<Json> Pages(const Voice& voice, const std::string& path, int64_t limit) {
    std::vector<Json> rows;
    std::string after;
    for (int page = 0; page < 100; ++page) {
      const Json reply = Tell(voice, "GET",
                              path + (path.find('?') == std::string::npos ? "?" : "&") +
                                  "limit=" + std::to_string(limit) + (after.empty() ? "" : "&after=" + after),
                              nullptr, 200);
      EXPECT_LE(std::ssize(reply["data"]), limit);
      for (const Json& row : reply["data"]) rows.push_back(row);
      EXPECT_EQ(reply["has_more"], !reply["next_cursor"].is_null());
      if (reply["next_cursor"].is_null()) return rows;
      EXPECT_EQ(std::ssize(reply["data"]), limit) << "a page before the last is full";
      after = reply["next_cursor"].get<std::string>();
    }
    ADD_FAILURE() << path << " does not end";
    return rows;
  }
  // A book of one price for all models, input and output, per million tokens.
  void AddPrices(const char* currency, const char* price) {
    Tell(operator_, "POST", "/api/v1/prices",
         {{"currency", currency},
          {"models",
           Json::array(
               {Json{{"model", "*"}, {"tiers", Json::array({Json{{"input", price}, {"output", price}}})}}})}},
         201);
  }
  // Of the model "m": its tokens are paid.
  void EndFreeQuota() {
    ASSERT_TRUE(accounting_->SetQuota({}, {.organisation = "default",
                                           .model_version = "m",
                                           .model = "m",
                                           .total = 0,
                                           .expires_ms = INT64_MAX / 2}));
  }
};

TEST_F(MoneyApiTest, RulesAndPricesComeInPages) {
  StartWithAccounts();
  std::set<std::string> scopes, budgets;
  for (int i = 0; i < 5; ++i) {
    const std::string workspace =
        Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "w" + std::to_string(i)}}, 201)
            .value("id", "");
    const std::string scope = "workspace:" + workspace;
    Tell(operator_, "PUT", "/api/v1/limits", {{"scope", scope}, {"requests_per_minute", i}}, 200);
    Tell(operator_, "PUT", "/api/v1/limits", {{"scope", scope}, {"model", "m b"}, {"tokens_per_day", i}},
         200);
    scopes.insert(scope);
    budgets.insert(
        Tell(operator_, "POST", "/api/v1/budgets", {{"scope", scope}, {"amount", "1"}}, 201).value("id", ""));
    Tell(operator_, "POST", "/api/v1/prices",
         {{"currency", "EUR"}, {"models", Json::array()}, {"note", std::to_string(i)}}, 201);
    ASSERT_TRUE(accounting_->SetQuota({}, {.organisation = "default",
                                           .model_version = "sha256:" + std::to_string(i),
                                           .model = "m" + std::to_string(i),
                                           .total = 10,
                                           .expires_ms = INT64_MAX / 2}));
  }
  for (const int64_t limit : {1, 2, 5, 1000}) {
    std::set<std::string> seen;
    for (const Json& row : Pages(operator_, "/api/v1/limits", limit))
      EXPECT_TRUE(seen.insert(row["scope"].get<std::string>() + row["model"].get<std::string>()).second);
    EXPECT_EQ(seen.size(), 10u);
    seen.clear();
    for (const Json& row : Pages(operator_, "/api/v1/budgets", limit)) seen.insert(row.value("id", ""));
    EXPECT_EQ(seen, budgets);
    const auto quotas = Pages(operator_, "/api/v1/quotas", limit);
    ASSERT_EQ(quotas.size(), 5u);
    EXPECT_EQ(quotas[4]["model"], "m4");
    const auto books = Pages(operator_, "/api/v1/prices", limit);
    ASSERT_EQ(books.size(), 5u);
    for (size_t i = 0; i < books.size(); ++i) EXPECT_EQ(books[i]["version"], i + 1);
  }
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/prices?limit=1", nullptr, 200)["current"]["version"], 5);
  // Filters and pages together.
  EXPECT_EQ(Pages(operator_, "/api/v1/limits?model=*", 2).size(), 5u);
  EXPECT_EQ(Pages(operator_, "/api/v1/limits?scope=" + *scopes.begin(), 1).size(), 2u);
}

TEST_F(MoneyApiTest, APageGoesOnWhereItsRuleIsGone) {
  StartWithAccounts();
  for (const char* model : {"a", "b", "c"}) {
    Tell(operator_, "PUT", "/api/v1/limits",
         {{"scope", "organisation:default"}, {"model", model}, {"requests_per_minute", 1}}, 200);
  }
  const Json first = Tell(operator_, "GET", "/api/v1/limits?limit=2", nullptr, 200);
  ASSERT_EQ(first["data"][1]["model"], "b");
  Tell(operator_, "DELETE", "/api/v1/limits?scope=organisation:default&model=b", nullptr, 200);
  const Json second =
      Tell(operator_, "GET", "/api/v1/limits?limit=2&after=" + first["next_cursor"].get<std::string>(),
           nullptr, 200);
  ASSERT_EQ(second["data"].size(), 1u);
  EXPECT_EQ(second["data"][0]["model"], "c");
}

TEST_F(MoneyApiTest, CursorsAreCheckedAndTellNothingOfOthers) {
  StartWithAccounts();
  for (const char* list : {"limits", "quotas", "budgets", "prices"}) {
    const std::string path = std::string("/api/v1/") + list;
    for (const char* bad : {"?after=zz", "?after=6", "?limit=0", "?limit=1001", "?limit=x"})
      Tell(operator_, "GET", path + bad, nullptr, 400);
  }
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/limits?after=zz", nullptr, 400)["error"]["param"], "after");
  Tell(operator_, "GET", "/api/v1/limits?after=6161", nullptr, 400);  // "aa" is no scope
  Tell(operator_, "GET", "/api/v1/prices?after=6161", nullptr, 400);  // and no version
  // A developer sees the workspace's limit and the organisation's, and no name of what lies between.
  const std::string secret = Tell(operator_, "POST", "/api/v1/keys",
                                  {{"name", "x"}, {"service", true}, {"workspace", "default"}}, 201)
                                 .value("id", "");
  for (const std::string& scope :
       {std::string("organisation:default"), std::string("workspace:default"), "key:" + secret}) {
    Tell(operator_, "PUT", "/api/v1/limits", {{"scope", scope}, {"requests_per_minute", 9}}, 200);
  }
  const Voice developer = KeyVoice(Key("developer"));
  const auto rows = Pages(developer, "/api/v1/limits", 1);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0]["scope"], "organisation:default");
  EXPECT_EQ(rows[1]["scope"], "workspace:default");
}

// What an organisation's budget has spent is other workspaces' money too.
TEST_F(MoneyApiTest, WhatAllWorkspacesSpentIsForWhoSeesAllOfThem) {
  StartWithAccounts();
  for (const char* scope : {"organisation:default", "workspace:default"})
    Tell(operator_, "POST", "/api/v1/budgets", {{"scope", scope}, {"amount", "5"}}, 201);
  const auto spent = [&](const Voice& voice) {
    std::map<std::string, Json> found;
    for (const Json& row : Pages(voice, "/api/v1/budgets", 10)) {
      EXPECT_EQ(row["amount"], "5.00") << row;
      EXPECT_EQ(row["spent"].is_null(), row["reserved"].is_null());
      found[row["scope"]] = row["spent"];
    }
    return found;
  };
  const Json nothing = "0.00";
  EXPECT_EQ(spent(operator_),
            (std::map<std::string, Json>{{"organisation:default", nothing}, {"workspace:default", nothing}}));
  for (const char* role : {"viewer", "developer", "admin"}) {  // of the workspace
    EXPECT_EQ(spent(KeyVoice(Key(role))), (std::map<std::string, Json>{{"organisation:default", nullptr},
                                                                       {"workspace:default", nothing}}))
        << role;
  }
  const auto owner = Join("owner@example.org", "owner");
  EXPECT_EQ(spent(SessionVoice(owner)).at("organisation:default"), nothing);
}

TEST_F(MoneyApiTest, WhatIsLeftOfAFreeQuotaIsForWhoSeesAllWorkspaces) {
  StartWithAccounts();
  const std::string other = Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "other"}}, 201)["id"];
  Meter("default", "default", "key-1", "m");
  Meter("default", other, "key-2", "m");
  Meter("default", other, "key-2", "m");
  const auto quota = [&](const Voice& voice) {
    return Tell(voice, "GET", "/api/v1/quotas", nullptr, 200)["data"].at(0);
  };
  for (const char* role : {"viewer", "developer", "admin"}) {  // of the workspace
    const Json seen = quota(KeyVoice(Key(role)));
    EXPECT_TRUE(seen["used"].is_null() && seen["remaining"].is_null()) << role << seen;
    EXPECT_EQ(seen["total"], 1'000'000);
    EXPECT_EQ(seen["state"], "ok");
    EXPECT_EQ(seen["workspace_used"], 15);
  }
  EXPECT_EQ(quota(KeyVoice(Key("viewer", other)))["workspace_used"], 30);
  const Voice owner = SessionVoice(Join("owner@x.y", "owner"));
  for (const Voice& voice : {owner, operator_}) {
    const Json seen = quota(voice);
    EXPECT_EQ(seen["used"], 45);
    EXPECT_EQ(seen["remaining"], 999'955);
    EXPECT_EQ(seen["workspace_used"], 15);
  }
  const Voice viewer = KeyVoice(Key("viewer"));
  for (const auto& [total, state] : std::vector<std::pair<int, std::string>>{
           {57, "ok"}, {56, "low"}, {46, "low"}, {45, "exhausted"}, {0, "exhausted"}}) {
    Tell(operator_, "PUT", "/api/v1/quotas", {{"model", "m"}, {"total", total}}, 200);
    EXPECT_EQ(quota(viewer)["state"], state) << total;
  }
  Tell(operator_, "PUT", "/api/v1/quotas", {{"model", "m"}, {"total", 1000}, {"expires_at", 1}}, 200);
  EXPECT_EQ(quota(viewer)["state"], "ended");
}

// A refusal by an organisation's rule goes to whoever asked: it says nothing of what the others used.
TEST_F(MoneyApiTest, RefusalsTellNoMemberWhatTheOrganisationUsed) {
  StartWithAccounts();
  const std::string organisation = "organisation:default";
  Tell(operator_, "POST", "/api/v1/prices",
       {{"currency", "EUR"},
        {"models",
         Json::array(
             {Json{{"model", "*"}, {"tiers", Json::array({Json{{"input", "1000"}, {"output", "1000"}}})}}})}},
       201);
  const auto quota = [&](int64_t total, bool stop) {
    ASSERT_TRUE(accounting_->SetQuota({}, {.organisation = "default",
                                           .model_version = "m",
                                           .model = "m",
                                           .total = total,
                                           .expires_ms = INT64_MAX / 2,
                                           .stop_when_exhausted = stop}));
  };
  quota(0, false);
  Meter("default", "other", "key-1", "m", 313'368);
  platform::AdmissionRequest request;
  request.payer = {"default", "default", "key-2", ""};
  request.model = request.model_version = "m";
  request.prompt_tokens = 600'000;
  request.max_output_tokens = 100'000;
  const auto refusal = [&] {
    const auto admitted = accounting_->ledger().Admit(request, "req", "chat.completions");
    return admitted ? std::string("admitted") : admitted.error().message;
  };
  const auto expect_silent = [&](const char* rule) {
    const std::string text = refusal();
    EXPECT_THAT(text, HasSubstr(rule));
    EXPECT_THAT(text, HasSubstr("too little"));
    for (const char* number : {"313373", "313.373", "686627", "686.627"})
      EXPECT_EQ(text.find(number), std::string::npos) << text;
  };
  Tell(operator_, "PUT", "/api/v1/limits", {{"scope", organisation}, {"tokens_per_day", 1'000'000}}, 200);
  expect_silent("a day");
  Tell(operator_, "DELETE", "/api/v1/limits?scope=" + organisation, nullptr, 200);
  const std::string budget =
      Tell(operator_, "POST", "/api/v1/budgets", {{"scope", organisation}, {"amount", "1000"}}, 201)["id"];
  expect_silent("the budget of");
  Tell(operator_, "DELETE", "/api/v1/budgets/" + budget, nullptr, 200);
  EXPECT_EQ(refusal(), "admitted");
  quota(500'000, true);
  expect_silent("the free quota of");
}

TEST_F(MoneyApiTest, ABudgetIsOfACurrencyAndCountsThatOnly) {
  StartWithAccounts();
  EndFreeQuota();
  const auto price = [&](const char* currency) { AddPrices(currency, "100000"); };
  const Json spec = {{"scope", "organisation:default"}, {"amount", "100"}};
  const auto with = [&](const char* currency) {
    Json body = spec;
    body["currency"] = currency;
    return body;
  };
  // Before there are prices nothing is spent in any; it becomes the first book's.
  const std::string early = Tell(operator_, "POST", "/api/v1/budgets", spec, 201)["id"];
  const auto budget = [&](const std::string& id, const Voice& voice) {
    const Json all = Tell(voice, "GET", "/api/v1/budgets", nullptr, 200);
    for (const Json& one : all["data"]) {
      if (one["id"] == id) return one;
    }
    return Json();
  };
  EXPECT_TRUE(budget(early, operator_)["currency"].is_null());
  price("EUR");
  EXPECT_EQ(budget(early, operator_)["currency"], "EUR");
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/budgets", with("USD"), 400)["error"]["param"], "currency");
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/budgets", with("nonsense"), 400)["error"]["code"],
            "unknown_currency");
  Meter("default", "default", "key-1", "m");  // 15 tokens at 0.1
  price("USD");
  EXPECT_EQ(budget(early, operator_)["currency"], "EUR") << "it stays what it was made in";
  Meter("default", "default", "key-1", "m");
  Meter("default", "default", "key-1", "m");
  Json seen = budget(early, operator_);
  EXPECT_EQ(seen["spent"], "1.50") << seen;
  EXPECT_EQ(seen["not_counted"], (Json{{"USD", "3.00"}}));
  // From the rows as from what was counted on the way.
  const Json dollars = Tell(operator_, "POST", "/api/v1/budgets", spec, 201);
  EXPECT_EQ(dollars["currency"], "USD") << "of the book in force";
  EXPECT_EQ(dollars["spent"], "3.00");
  EXPECT_EQ(dollars["not_counted"], (Json{{"EUR", "1.50"}}));
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/budgets", with("EUR"), 201)["spent"], "1.50");
  // A change that names none keeps it.
  const std::string path = "/api/v1/budgets/" + early;
  EXPECT_EQ(Tell(operator_, "PUT", path, spec, 200)["currency"], "EUR");
  seen = Tell(operator_, "PUT", path, with("USD"), 200);
  EXPECT_EQ(seen["spent"], "3.00");
  EXPECT_EQ(seen["not_counted"], (Json{{"EUR", "1.50"}}));
  // Who sees one workspace sees neither.
  seen = budget(early, KeyVoice(Key("viewer")));
  EXPECT_EQ(seen["currency"], "USD");
  EXPECT_TRUE(seen["spent"].is_null() && seen["not_counted"].is_null()) << seen;
}

// Costs are in USD here (no setting says otherwise).
TEST_F(MoneyApiTest, AMarginIsShownWithinOneCurrencyOnly) {
  StartWithAccounts();
  EndFreeQuota();
  const auto price = [&](const char* currency) { AddPrices(currency, "1000"); };
  const auto usage = [&](const Voice& voice) {
    return Tell(voice, "GET", "/api/v1/usage?group_by=organisation&organisation=default", nullptr,
                200)["data"][0];
  };
  price("USD");
  Meter("default", "default", "key-1", "m");
  Json row = usage(operator_);
  EXPECT_EQ(row["amount"], row["margin"]) << row;
  EXPECT_EQ(row["cost_currency"], "USD");
  EXPECT_TRUE(row["no_margin_because"].is_null());
  const std::string usd = row["amount"].get<std::string>();
  EXPECT_EQ(row["amount_by_currency"], (Json{{"USD", usd}}));
  price("EUR");
  const std::string id = Meter("default", "default", "key-1", "m");
  row = usage(operator_);
  EXPECT_TRUE(row["amount"].is_null()) << row;
  EXPECT_TRUE(row["margin"].is_null());
  EXPECT_THAT(row["no_margin_because"].get<std::string>(), HasSubstr("EUR"));
  EXPECT_EQ(row["amount_by_currency"], (Json{{"EUR", usd}, {"USD", usd}}));
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/requests/" + id, nullptr, 200)["currency"], "EUR");
  row = usage(KeyVoice(Key("viewer")));
  EXPECT_FALSE(row.contains("margin")) << "the operator's to know";
  EXPECT_FALSE(row.contains("no_margin_because"));
  // A chart of amounts has a line for each, in exact decimals.
  const Json series = Tell(operator_, "GET", "/api/v1/query_range?metric=amount", nullptr, 200)["data"];
  ASSERT_EQ(series.size(), 2u);
  EXPECT_EQ(series[0]["currency"], "EUR");
  EXPECT_EQ(series[0]["points"][0][1], usd);
}

TEST_F(MoneyApiTest, AnAdminTurnsTheStopSwitchBothWaysAndNoMore) {
  StartWithAccounts();
  ASSERT_TRUE(accounting_->SetQuota({}, {.organisation = "default",
                                         .model_version = "m",
                                         .model = "m",
                                         .total = 10,
                                         .expires_ms = INT64_MAX / 2}));
  const Voice admin = SessionVoice(Join("a@x.y", "admin"));
  for (const bool stop : {true, false, true}) {
    EXPECT_EQ(Tell(admin, "PUT", "/api/v1/quotas", {{"model", "m"}, {"stop_when_exhausted", stop}},
                   200)["stop_when_exhausted"],
              stop);
  }
  Tell(admin, "PUT", "/api/v1/quotas", {{"model", "m"}, {"total", 1000}}, 403);
  for (const char* role : {"viewer", "developer", "admin"})  // of a workspace
    Tell(KeyVoice(Key(role)), "PUT", "/api/v1/quotas", {{"model", "m"}, {"stop_when_exhausted", false}}, 403);
  EXPECT_EQ(Tell(admin, "GET", "/api/v1/quotas", nullptr, 200)["data"][0]["stop_when_exhausted"], true);
}

TEST_F(MoneyApiTest, AnAdjustmentIsInACurrency) {
  StartWithAccounts();
  Json body{{"organisation", "default"}, {"amount", "-1"}, {"reason", "a gift"}, {"currency", "eur"}};
  EXPECT_EQ(Tell(operator_, "POST", "/api/v1/bills/adjustments", body, 400)["error"]["param"], "currency");
  body["currency"] = "EUR";
  Tell(operator_, "POST", "/api/v1/bills/adjustments", body, 201);
}

}  // namespace
}  // namespace tidepool::gateway
