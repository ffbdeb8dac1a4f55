// Files that leave: each with its row in the audit log, whatever the endpoint; lists as CSV against the same
// lists as JSON (the oracle), which tests of the ledger compare with what was metered.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "gateway/router.h"
#include "gateway/testing/accounts_api_fixture.h"
#include "platform/inference/pool_control.h"

namespace tidepool::gateway {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class TracedPool final : public platform::PoolControl {
 public:
  platform::PoolState State() const override { return {}; }
  Status Resize(const platform::PoolResize&) override { return {}; }
  Result<platform::PoolModelState> SetPolicy(const std::string&, const platform::PolicyChange&) override {
    return platform::PoolModelState{};
  }
  void SetCordoned(bool) override {}
  platform::PoolEventList Events(uint64_t, size_t) const override { return {}; }
  platform::PoolTurnList Turns(uint64_t, size_t) const override { return {}; }
  Result<std::string> Trace(bool requests) const override {
    if (!traced) return Fail(ErrorKind::kNotFound, "no_trace", "nothing is recorded");
    return std::string(requests ? "{\"arrival_s\":0}\n" : "{\"t\":0}\n{\"t\":1}\n");
  }
  void UpdateMetrics() override {}
  bool traced = true;
};

class ExportTest : public AccountsApiTest {
 protected:
  void SetUp() override {
    AccountsApiTest::SetUp();
    inference_.pool_control = &pool_;
    StartWithAccounts();
  }

  RawReply File(const Voice& voice, const std::string& target, int status = 200) {
    RawReply reply = Ask(Raw(voice, "GET", target));
    EXPECT_EQ(reply.status, status) << target << ": " << reply.body;
    return reply;
  }
  Json Newest() { return Tell(operator_, "GET", "/api/v1/audit?limit=1", nullptr, 200)["data"][0]; }
  int64_t Exports() {
    int64_t count = 0;
    const Json rows = Tell(operator_, "GET", "/api/v1/audit?limit=1000", nullptr, 200)["data"];
    for (const Json& row : rows) count += row["action"].get<std::string>().ends_with(".exported") ? 1 : 0;
    return count;
  }
  // Rows of a CSV without quoted line ends.
  static std::vector<std::string> Lines(const std::string& csv) {
    std::vector<std::string> lines;
    std::istringstream in(csv);
    for (std::string line; std::getline(in, line);) {
      EXPECT_TRUE(line.ends_with('\r')) << line;
      line.pop_back();
      lines.push_back(line);
    }
    return lines;
  }
  static std::string Header(const std::vector<std::string>& names) {
    std::string header;
    for (const std::string& name : names) header += (header.empty() ? "" : ",") + name;
    return header;
  }

  TracedPool pool_;
};

// What a route hands out as a file, how that is asked for, and what the log then calls it. A route that takes
// `format`, or answers with something else than JSON, is an export, and must be here.
struct ExportingRoute {
  std::string target, action, object, organisation;
  std::vector<std::pair<std::string, Json>> after;  // among what the row says
};

TEST_F(ExportTest, EveryFileLeavesItsRow) {
  const std::string request = Meter("default", "default", "k", "m");
  const std::string conversation =
      Converse(SessionVoice(Join("c@x.y", "developer", "default")), "a chat")["id"];
  const std::multimap<std::string, ExportingRoute> exports = {
      {"/api/v1/usage",
       {"/api/v1/usage?format=csv&group_by=model&from=1",
        "usage.exported",
        "/api/v1/usage",
        "",
        {{"rows", 1},
         {"whole", true},
         {"query", {{"format", "csv"}, {"group_by", "model"}, {"from", "1"}}}}}},
      {"/api/v1/requests",
       {"/api/v1/requests?format=csv&workspace=default&organisation=default",
        "requests.exported",
        "/api/v1/requests",
        "default",
        {{"rows", 1}, {"whole", true}}}},
      {"/api/v1/audit",
       {"/api/v1/audit?format=csv&limit=1&organisation=default",
        "audit.exported",
        "/api/v1/audit",
        "default",
        {{"rows", 1}, {"whole", false}}}},
      {"/api/v1/bills",
       {"/api/v1/bills?format=csv", "bill.exported", "default", "default", {{"format", "csv"}, {"rows", 1}}}},
      {"/api/v1/bills",
       {"/api/v1/bills?format=json&month=2019-10",
        "bill.exported",
        "default",
        "default",
        {{"format", "json"}, {"month", "2019-10"}, {"rows", 0}}}},
      {"/api/v1/bills/csv",
       {"/api/v1/bills/csv", "bill.exported", "default", "default", {{"format", "csv"}, {"rows", 1}}}},
      {"/api/v1/pool/trace",
       {"/api/v1/pool/trace", "trace.exported", "/api/v1/pool/trace", "", {{"rows", 2}}}},
      {"/api/v1/pool/trace/requests",
       {"/api/v1/pool/trace/requests", "trace.exported", "/api/v1/pool/trace/requests", "", {{"rows", 1}}}},
  };
  // The server's own pages, and what is not of anybody.
  const std::set<std::string> no_exports = {"/metrics", "/setup"};
  for (const Route& route : Routes()) {
    const std::string pattern(route.pattern);
    const bool is_file =
        TakesParameter(route, "format") || (route.content_type != "application/json" && !route.streams);
    if (!is_file || no_exports.contains(pattern) || route.tag == "ollama") continue;
    if (pattern == "/api/v1/conversations/{id}/export") continue;  // only who holds it: below
    EXPECT_GT(exports.count(pattern), 0u) << pattern << " hands out a file: what does the audit log say?";
  }
  int64_t expected = Exports();
  for (const auto& [pattern, one] : exports) {
    const RawReply reply = File(operator_, one.target);
    EXPECT_THAT(reply.headers.at("content-disposition"), HasSubstr("attachment; filename=\"")) << one.target;
    EXPECT_EQ(reply.headers.at("cache-control"), "no-store");
    const Json row = Newest();
    EXPECT_EQ(row["action"], one.action) << one.target;
    EXPECT_EQ(row["object"], one.object) << one.target;
    EXPECT_EQ(row["organisation"], one.organisation) << one.target;
    EXPECT_EQ(row["address"], "127.0.0.1");
    EXPECT_EQ(row["request_id"], reply.headers.at("x-request-id"));
    EXPECT_NE(row["key"], "");
    EXPECT_EQ(row["after"]["endpoint"], pattern);
    EXPECT_EQ(row["after"]["bytes"], reply.body.size());
    for (const auto& [name, value] : one.after)
      EXPECT_EQ(row["after"][name], value) << one.target << ' ' << name;
    EXPECT_EQ(Exports(), ++expected) << one.target;
  }
  // Looking at a page of a list is none, and neither is what was refused.
  for (const char* target : {"/api/v1/usage", "/api/v1/requests", "/api/v1/audit", "/api/v1/bills"})
    File(operator_, target);
  for (const char* target :
       {"/api/v1/usage?format=xls", "/api/v1/requests?format=json", "/api/v1/audit?format=csv&limit=100001",
        "/api/v1/audit?format=csv&after=x", "/api/v1/bills?format=xml", "/api/v1/bills?format=csv&limit=5",
        "/api/v1/usage?format=csv&group_by=nothing", "/api/v1/requests?format=csv&after=zz"}) {
    File(operator_, target, 400);
  }
  EXPECT_EQ(File(operator_, "/api/v1/pool/trace/requests").body, "{\"arrival_s\":0}\n");
  EXPECT_EQ(File(operator_, "/api/v1/pool/trace").headers.at("content-type"), "application/x-ndjson");
  expected += 2;
  pool_.traced = false;
  EXPECT_EQ(Json::parse(File(operator_, "/api/v1/pool/trace", 404).body)["error"]["code"], "no_trace");
  EXPECT_EQ(Exports(), expected);
  EXPECT_EQ(Tell(operator_, "GET", "/api/v1/audit/verify", nullptr, 200)["good"], true);
}

TEST_F(ExportTest, AConversationIsExportedByWhoHoldsIt) {
  const platform::SignedIn member = Join("c@x.y", "developer", "default");
  const Voice voice = SessionVoice(member);
  const std::string id = Converse(voice, "SECRET words")["id"];
  for (const char* format : {"markdown", "json"}) {
    const RawReply reply = File(voice, "/api/v1/conversations/" + id + "/export?format=" + format);
    EXPECT_THAT(reply.body, HasSubstr("SECRET words"));
    const Json row = Newest();
    EXPECT_EQ(row["action"], "conversation.exported");
    EXPECT_EQ(row["object"], id);
    EXPECT_NE(row["member"], "");
    EXPECT_EQ(row["after"]["format"], format);
    EXPECT_EQ(row["after"]["turns"], 2);
    EXPECT_EQ(row["after"]["endpoint"], "/api/v1/conversations/{id}/export");
    // What was said is not the log's.
    EXPECT_THAT(row.dump(), Not(HasSubstr("SECRET")));
  }
  const int64_t before = Exports();
  File(operator_, "/api/v1/conversations/" + id + "/export", 404);
  EXPECT_EQ(Exports(), before);
}

TEST_F(ExportTest, WithoutTheRowThereIsNoFile) {
  const auto pages = [&](int64_t most) {
    ASSERT_TRUE(world_.database->Write([&](store::Session& s) {
      return s.Query("PRAGMA max_page_count=" + std::to_string(most)).map([](auto&&) {});
    }));
  };
  const Voice member = SessionVoice(Join("c@x.y", "developer", "default"));
  const std::string id = Converse(member, "a chat")["id"];
  int64_t files = Exports();
  pages(1);  // what is begun is filled, and there is no more
  for (const auto& [voice, target] : {std::pair(operator_, std::string("/api/v1/usage?format=csv")),
                                      std::pair(operator_, std::string("/api/v1/audit?format=csv")),
                                      std::pair(operator_, std::string("/api/v1/bills?format=json")),
                                      std::pair(operator_, std::string("/api/v1/pool/trace")),
                                      std::pair(member, "/api/v1/conversations/" + id + "/export")}) {
    RawReply reply = Ask(Raw(voice, "GET", target));
    for (int i = 0; i < 200 && reply.status == 200; ++i, ++files) reply = Ask(Raw(voice, "GET", target));
    EXPECT_EQ(reply.status, 503) << target;
    EXPECT_EQ(Json::parse(reply.body)["error"]["code"], "store_full") << reply.body;
  }
  File(operator_, "/api/v1/usage");  // a page is read
  EXPECT_EQ(Exports(), files);
  pages(1'000'000);
  File(operator_, "/api/v1/usage?format=csv");
}

TEST_F(ExportTest, TheFileHoldsTheListsRowsWholeAndInPages) {
  constexpr int kRows = 1050;  // two queries of a file's
  for (int i = 0; i < 7; ++i)
    Meter("default", "default", "key" + std::to_string(i % 3), "=model" + std::to_string(i));
  const RawReply usage = File(operator_, "/api/v1/usage?format=csv&group_by=model&key=key1");
  EXPECT_EQ(usage.headers.at("content-type"), "text/csv; charset=utf-8");
  EXPECT_EQ(usage.headers.at("content-disposition"), "attachment; filename=\"usage.csv\"");
  std::vector<std::string> lines = Lines(usage.body);
  ASSERT_EQ(lines.size(), 3u) << usage.body;
  EXPECT_EQ(lines[0],
            "model,requests,errors,cancelled,prompt_tokens,cached_tokens,output_tokens,reasoning_tokens,"
            "free_tokens,device_seconds,amount,amount_by_currency,cost,cost_currency,margin");
  // One request of 10 and 5 tokens, 1000 us: Meter.
  EXPECT_TRUE(lines[1].starts_with("'=model1,1,0,0,10,0,5,0,")) << lines[1];
  EXPECT_TRUE(lines[2].starts_with("'=model4,1,0,0,10,0,5,0,")) << lines[2];
  EXPECT_THAT(lines[1], HasSubstr(",0.001,"));
  // An operator's columns are for operators; no group, no column of it.
  const RawReply own = File(KeyVoice(Key("viewer")), "/api/v1/usage?format=csv");
  EXPECT_EQ(Lines(own.body)[0],
            "requests,errors,cancelled,prompt_tokens,cached_tokens,output_tokens,reasoning_tokens,"
            "free_tokens,device_seconds,amount,amount_by_currency");
  EXPECT_TRUE(Lines(own.body)[1].starts_with("7,0,0,70,0,35,0,"));

  const RawReply requests = File(operator_, "/api/v1/requests?format=csv&limit=3");
  lines = Lines(requests.body);
  const Json page = Tell(operator_, "GET", "/api/v1/requests?limit=3", nullptr, 200);
  std::vector<std::string> names;
  for (const auto& [name, value] : page["data"][0].items()) names.push_back(name);
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], Header(names));
  for (size_t i = 0; i < 3; ++i)
    EXPECT_TRUE(lines[i + 1].starts_with(page["data"][i]["id"].get<std::string>() + ",")) << lines[i + 1];
  EXPECT_EQ(requests.headers.at("tidepool-rows"), "3");
  EXPECT_EQ(requests.headers.at("tidepool-next-cursor"), page["next_cursor"]);
  const RawReply rest =
      File(operator_, "/api/v1/requests?format=csv&after=" + page["next_cursor"].get<std::string>());
  EXPECT_EQ(rest.headers.at("tidepool-rows"), "4");
  EXPECT_FALSE(rest.headers.contains("tidepool-next-cursor"));

  for (int i = 0; i < kRows; ++i)
    world_.audit->RecordLater(platform::MachineActor(), "test.row", std::to_string(i), nullptr,
                              Json{{"n", i}});
  ASSERT_TRUE(
      world_.audit->Record(platform::MachineActor(), "test.last", "=cmd", nullptr, Json{{"a", "b,c"}}));
  const RawReply log = File(operator_, "/api/v1/audit?format=csv");
  lines = Lines(log.body);
  EXPECT_EQ(lines[0],
            "number,time_ms,organisation,workspace,member,key,address,request_id,action,object,before,after");
  EXPECT_THAT(lines[1], HasSubstr(",test.last,'=cmd,,\"{\"\"a\"\":\"\"b,c\"\"}\""));
  ASSERT_GT(lines.size(), static_cast<size_t>(kRows));
  int64_t last = INT64_MAX;  // each row once, newest first
  for (size_t i = 1; i < lines.size(); ++i) {
    const int64_t number = std::stoll(lines[i]);
    if (last != INT64_MAX) {
      EXPECT_EQ(number, last - 1);
    }
    last = number;
  }
  EXPECT_EQ(last, 1);
  EXPECT_EQ(log.headers.at("tidepool-rows"), std::to_string(lines.size() - 1));
}

TEST_F(ExportTest, AFileHoldsWhatItsReaderMaySee) {
  const std::string other =
      Tell(operator_, "POST", "/api/v1/organisations", {{"name", "Elsewhere"}}, 201)["id"];
  const std::string workspace =
      Tell(operator_, "POST", "/api/v1/workspaces", {{"name", "theirs"}, {"organisation", other}}, 201)["id"];
  Meter(other, workspace, "SECRETkey", "SECRETmodel");
  Meter("default", "default", "ownkey", "ownmodel");
  const Voice admin = SessionVoice(Join("a@x.y", "admin"));
  for (const char* target :
       {"/api/v1/usage?format=csv&group_by=key", "/api/v1/usage?format=csv&group_by=model",
        "/api/v1/requests?format=csv", "/api/v1/audit?format=csv", "/api/v1/bills?format=json"}) {
    const RawReply reply = File(admin, target);
    EXPECT_THAT(reply.body, Not(HasSubstr("SECRET"))) << target;
    EXPECT_THAT(reply.body, Not(HasSubstr("Elsewhere"))) << target;
    EXPECT_EQ(Newest()["organisation"], "default") << target;
  }
  File(admin, "/api/v1/usage?format=csv&organisation=" + other, 404);
  File(admin, "/api/v1/audit?format=csv&organisation=" + other, 404);
  File(KeyVoice(Key("viewer")), "/api/v1/audit?format=csv", 403);
  // An operator's export of theirs is on their log too.
  File(operator_, "/api/v1/usage?format=csv&organisation=" + other);
  const Json theirs =
      Tell(operator_, "GET", "/api/v1/audit?limit=1&organisation=" + other, nullptr, 200)["data"][0];
  EXPECT_EQ(theirs["action"], "usage.exported");
}

}  // namespace
}  // namespace tidepool::gateway
