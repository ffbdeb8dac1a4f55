// Stored bodies over both backends of the store. Oracles: the header's promises; that nothing is in clear is
// looked for in the rows and in SQLite's files.
#include "platform/request_bodies/request_bodies.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::Backend;
constexpr int64_t kDay = 86'400'000;

class RequestBodiesTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    const auto postgresql = store::SharedTestDatabase(GetParam());
    ASSERT_TRUE(postgresql) << postgresql.error().message;
    world_ = std::make_unique<AccountsWorld>(*postgresql);
    world_->other_floors = {RequestBodies::Migrations()};
    Open();
  }
  // Also anew, with other options.
  void Open() {
    bodies_.reset();
    const Status opened = world_->Open();
    ASSERT_TRUE(opened) << opened.error().message;
    if (!world_->created_key.empty()) admin_ = world_->created_key;
    bodies_ = std::make_unique<RequestBodies>(*world_->database, *world_->accounts, *world_->keys,
                                              world_->wall_clock, world_->metrics, options_);
  }
  void TearDown() override {
    bodies_.reset();
    world_.reset();
  }

  Caller Operator() { return world_->CallerOf(admin_); }
  Result<Workspace> Change(WorkspaceChange change, const std::string& workspace = "default") {
    return world_->accounts->ChangeWorkspace(Operator(), workspace, change);
  }
  void TurnOn(const std::string& workspace = "default", int64_t days = 30) {
    const auto changed = Change({.store_bodies = true, .retention_days = days}, workspace);
    ASSERT_TRUE(changed) << changed.error().message;
  }
  static Principal Who(const std::string& workspace = "default") {
    Principal who;
    who.workspace = workspace;
    return who;
  }
  // A request that said so and was answered so. False: it was not recorded.
  bool Record(const std::string& id, const std::string& asked, const std::string& answered,
              const std::string& workspace = "default") {
    const auto recording = bodies_->Begin(Who(workspace), Json{{"prompt", asked}}.dump());
    if (recording == nullptr) return false;
    for (size_t i = 0; i < answered.size(); i += 3) recording->Text(0, answered.substr(i, 3), "");
    recording->Keep(id);
    EXPECT_TRUE(bodies_->Flush(30));
    return true;
  }
  std::string Problem(const std::string& id, const std::string& workspace = "default") {
    const auto found = bodies_->Find(workspace, id);
    return found ? "" : found.error().code;
  }
  int64_t Rows() {
    const auto rows = world_->database->Get<store::Rows>(
        [](store::Session& session) { return session.Query("SELECT COUNT(*) FROM request_bodies"); });
    return rows ? (*rows)[0].Integer(0) : -1;
  }
  double Metric(const std::string& line) {
    const std::string all = world_->metrics.Serialize();
    const size_t at = all.find("\n" + line + " ");
    return at == std::string::npos ? -1 : std::stod(all.substr(at + line.size() + 2));
  }

  std::unique_ptr<AccountsWorld> world_;
  std::string admin_;
  RequestBodiesOptions options_;
  std::unique_ptr<RequestBodies> bodies_;
};

TEST_P(RequestBodiesTest, NothingIsKeptUnlessItsWorkspaceSaysSo) {
  EXPECT_FALSE(Record("use-1", "hello", "world"));
  TurnOn();
  const auto other = world_->accounts->CreateWorkspace(Operator(), "", "other", 1);
  ASSERT_TRUE(other);
  EXPECT_FALSE(Record("use-2", "hello", "world", other->id));
  EXPECT_FALSE(Record("use-3", "hello", "world", "ws-nowhere"));
  EXPECT_TRUE(Record("use-4", "hello", "world"));
  EXPECT_EQ(Rows(), 1);
}

TEST_P(RequestBodiesTest, IsFoundRedactedByItsWorkspaceOnly) {
  TurnOn();
  ASSERT_TRUE(Record("use-1", "I am alice@example.com", "Hello alice@example.com, all is well"));
  const auto found = bodies_->Find("default", "use-1");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->request, R"({"prompt":"I am [redacted:email]"})");
  EXPECT_EQ(found->answer["choices"][0]["content"], "Hello [redacted:email], all is well");
  EXPECT_EQ(found->redactions, 2);
  EXPECT_FALSE(found->request_cut || found->answer_cut);
  EXPECT_EQ(found->expires_ms - found->created_ms, 30 * kDay);
  EXPECT_EQ(Problem("use-1", "another"), "no_stored_body");
  EXPECT_EQ(Problem("use-2"), "no_stored_body");
  const auto which = bodies_->Which({"use-1", "use-2"});
  ASSERT_TRUE(which);
  EXPECT_EQ(*which, std::set<std::string>{"use-1"});
}

TEST_P(RequestBodiesTest, RowsHoldNoWord) {
  TurnOn();
  ASSERT_TRUE(Record("use-1", "tangerine dreams", "marmalade skies"));
  const auto rows = world_->database->Get<store::Rows>([](store::Session& session) {
    return session.Query("SELECT usage_id, workspace, box FROM request_bodies");
  });
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 1u);
  for (const char* word : {"tangerine", "marmalade"}) {
    EXPECT_EQ((*rows)[0].Bytes(2).find(word), std::string::npos);
    if (GetParam() == Backend::kPostgresql) continue;
    for (const auto& file : std::filesystem::directory_iterator(world_->home())) {
      std::ifstream in(file.path(), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(in)), {});
      EXPECT_EQ(bytes.find(word), std::string::npos) << file.path();
    }
  }
  // A box is of no use for another row.
  ASSERT_TRUE(world_->database->Write([](store::Session& session) {
    return session.Execute("UPDATE request_bodies SET usage_id = 'use-2'").map([](int64_t) {});
  }));
  EXPECT_EQ(Problem("use-2"), "store_corrupt");
}

TEST_P(RequestBodiesTest, TurningOffDeletesAndNothingComesAfterIt) {
  TurnOn();
  ASSERT_TRUE(Record("use-1", "hello", "world"));
  // One that is under way when it is turned off.
  const auto running = bodies_->Begin(Who(), "{}");
  ASSERT_NE(running, nullptr);
  const auto off = Change({.store_bodies = false});
  ASSERT_TRUE(off) << off.error().message;
  EXPECT_EQ(off->bodies_deleted, 1);
  EXPECT_EQ(Problem("use-1"), "no_stored_body");
  running->Keep("use-2");
  ASSERT_TRUE(bodies_->Flush(30));
  EXPECT_EQ(Metric("tidepool_bodies_dropped_total{reason=\"rule\"}"), 1);
  ASSERT_TRUE(bodies_->Sweep());
  EXPECT_EQ(Rows(), 0);
  // What was deleted does not come back when it is turned on again.
  TurnOn();
  EXPECT_EQ(Problem("use-1"), "no_stored_body");
}

TEST_P(RequestBodiesTest, ArchivingTheWorkspaceDeletes) {
  const auto made = world_->accounts->CreateWorkspace(Operator(), "", "short-lived", 1);
  ASSERT_TRUE(made);
  TurnOn(made->id);
  TurnOn();
  ASSERT_TRUE(Record("use-1", "hello", "world", made->id));
  ASSERT_TRUE(Record("use-2", "hello", "world"));
  const auto archived = world_->accounts->ArchiveWorkspace(Operator(), made->id);
  ASSERT_TRUE(archived);
  EXPECT_EQ(archived->bodies_deleted, 1);
  EXPECT_EQ(Problem("use-1", made->id), "no_stored_body");
  EXPECT_EQ(bodies_->Begin(Who(made->id), "{}"), nullptr);
  ASSERT_TRUE(bodies_->Sweep());
  EXPECT_EQ(Rows(), 1);
}

TEST_P(RequestBodiesTest, ExpireAfterTheirDaysAndGoInSteps) {
  TurnOn("default", 2);
  for (int i = 0; i < 450; ++i) {
    const auto recording = bodies_->Begin(Who(), "{}");
    ASSERT_NE(recording, nullptr);
    recording->Keep(fmt::format("use-{}", i));
  }
  ASSERT_TRUE(bodies_->Flush(30));
  world_->wall_clock.Advance(2 * kDay - 1);
  ASSERT_TRUE(Record("use-later", "hello", "world"));
  EXPECT_EQ(Problem("use-7"), "");
  EXPECT_EQ(bodies_->Sweep().value_or(-1), 0);
  world_->wall_clock.Advance(1);
  EXPECT_EQ(Problem("use-7"), "no_stored_body") << "before anything was swept";
  EXPECT_EQ(bodies_->Sweep().value_or(-1), 450) << "more than two steps";
  EXPECT_EQ(Rows(), 1);
  EXPECT_EQ(Problem("use-later"), "");
}

TEST_P(RequestBodiesTest, AShorterTimeHoldsForWhatIsThereALongerForWhatComes) {
  TurnOn("default", 10);
  ASSERT_TRUE(Record("use-old", "hello", "world"));
  world_->wall_clock.Advance(5 * kDay);
  ASSERT_TRUE(Record("use-new", "hello", "world"));
  const auto shorter = Change({.retention_days = 3});
  ASSERT_TRUE(shorter);
  EXPECT_EQ(shorter->bodies_deleted, 1);
  EXPECT_EQ(Problem("use-old"), "no_stored_body");
  const auto kept = bodies_->Find("default", "use-new");
  ASSERT_TRUE(kept);
  EXPECT_EQ(kept->expires_ms - kept->created_ms, 3 * kDay);
  ASSERT_TRUE(Change({.retention_days = 20}));
  EXPECT_EQ(bodies_->Find("default", "use-new")->expires_ms, kept->expires_ms);
}

TEST_P(RequestBodiesTest, TheOperatorBoundsTheTime) {
  options_.max_days = 7;
  Open();
  EXPECT_EQ(Change({.store_bodies = true}).error().code, "invalid_value") << "30 days are the default";
  EXPECT_EQ(Change({.store_bodies = true, .retention_days = 8}).error().param, "retention_days");
  for (const int64_t days : {0, -1, 366}) EXPECT_FALSE(Change({.retention_days = days})) << days;
  TurnOn("default", 7);
  ASSERT_TRUE(Record("use-1", "hello", "world"));
  // Lowered later, it holds for what is there.
  options_.max_days = 2;
  Open();
  world_->wall_clock.Advance(2 * kDay);
  EXPECT_EQ(Problem("use-1"), "no_stored_body");
  ASSERT_TRUE(bodies_->Sweep());
  EXPECT_EQ(Rows(), 0);
}

TEST_P(RequestBodiesTest, BadPatternsAreRefusedAndChangeNothing) {
  const auto refused = Change({.store_bodies = true, .redact = Json{{"patterns", {"ok", "("}}}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().param, "redact.patterns[1]");
  EXPECT_FALSE(world_->accounts->BodyRuleOf("default").store);
  ASSERT_TRUE(Change({.store_bodies = true, .redact = Json{{"ip", false}, {"patterns", {"AB-\\d+"}}}}));
  ASSERT_TRUE(Record("use-1", "AB-17 at 192.0.2.17 by a@example.com", ""));
  EXPECT_EQ(bodies_->Find("default", "use-1")->request,
            R"({"prompt":"[redacted:pattern] at 192.0.2.17 by [redacted:email]"})");
}

TEST_P(RequestBodiesTest, BodiesAreCutAtTheirBoundsAndSaySo) {
  options_.max_request_bytes = options_.max_answer_bytes = 1000;
  Open();
  TurnOn();
  // The bound of the answer falls into an address.
  const std::string answer = std::string(990, 'b') + " alice@example.com " + std::string(20'000, 'c');
  ASSERT_TRUE(Record("use-1", std::string(5000, 'a'), answer));
  const auto found = bodies_->Find("default", "use-1");
  ASSERT_TRUE(found);
  EXPECT_TRUE(found->request_cut && found->answer_cut);
  EXPECT_LE(found->request.size(), 1100u);
  EXPECT_TRUE(found->request.ends_with("…[cut]")) << found->request;
  const std::string kept = found->answer["choices"][0]["content"];
  EXPECT_LE(kept.size(), 1100u);
  EXPECT_EQ(kept.find("alice"), std::string::npos) << kept;
  EXPECT_TRUE(kept.ends_with("…[cut]")) << kept;
}

TEST_P(RequestBodiesTest, WhatHasNoRoomIsDroppedAndCounted) {
  options_.max_memory_bytes = 1000;
  Open();
  TurnOn();
  const auto first = bodies_->Begin(Who(), std::string(900, ' '));
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(bodies_->Begin(Who(), std::string(200, ' ')), nullptr);
  EXPECT_EQ(Metric("tidepool_bodies_dropped_total{reason=\"memory\"}"), 1);
  // An answer that finds none is cut, not the request lost.
  first->Text(0, std::string(5000, 'x'), "");
  EXPECT_TRUE(first->answer_cut);
}

TEST_P(RequestBodiesTest, TheOldestGoBeyondTheWorkspacesBytes) {
  options_.max_workspace_bytes = 10'000;
  Open();
  TurnOn();
  for (int i = 0; i < 20; ++i) {
    world_->wall_clock.Advance(1);
    ASSERT_TRUE(Record(fmt::format("use-{}", i), std::string(1000, 'a'), ""));
  }
  ASSERT_TRUE(bodies_->Sweep());
  EXPECT_EQ(Problem("use-0"), "no_stored_body");
  EXPECT_EQ(Problem("use-19"), "");
  EXPECT_GE(Rows(), 5);
  EXPECT_LE(Rows(), 9);
}

TEST_P(RequestBodiesTest, ToolCallsVectorsAndScoresAreOfTheAnswer) {
  TurnOn();
  auto recording = bodies_->Begin(Who(), "{}");
  ASSERT_NE(recording, nullptr);
  recording->Text(1, "b", "why");
  recording->BeginCall(0, 0, "call_1", "send");
  recording->Arguments(0, 0, R"({"to": "alice\u0040)");
  recording->Arguments(0, 0, R"(example.com"})");
  recording->BeginCall(0, 1, "call_2", "broken");
  recording->DropCall(0, 1);
  recording->Vectors(2, 384);
  recording->Scores({0.5f});
  recording->Keep("use-1");
  ASSERT_TRUE(bodies_->Flush(30));
  const auto found = bodies_->Find("default", "use-1");
  ASSERT_TRUE(found);
  const Json& choices = found->answer["choices"];
  ASSERT_EQ(choices.size(), 2u);
  EXPECT_EQ(
      choices[0]["tool_calls"],
      Json::array({{{"id", "call_1"}, {"name", "send"}, {"arguments", R"({"to":"[redacted:email]"})"}}}));
  EXPECT_EQ(choices[1]["reasoning"], "why");
  EXPECT_EQ(found->answer["embeddings"]["dimensions"], 384);
  EXPECT_EQ(found->answer["scores"][0], 0.5);
}

TEST_P(RequestBodiesTest, OneCanBeDeleted) {
  TurnOn();
  ASSERT_TRUE(Record("use-1", "hello", "world"));
  const auto fine = [](store::Session&) { return Status{}; };
  EXPECT_EQ(bodies_->Delete("another", "use-1", fine).error().code, "no_stored_body");
  // Without its row in the audit log it stays.
  EXPECT_FALSE(bodies_->Delete("default", "use-1", [](store::Session&) -> Status {
    return Fail(ErrorKind::kUnavailable, "store_full", "full");
  }));
  EXPECT_EQ(Problem("use-1"), "");
  ASSERT_TRUE(bodies_->Delete("default", "use-1", fine));
  EXPECT_EQ(Rows(), 0);
}

INSTANTIATE_TEST_SUITE_P(Backends, RequestBodiesTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgresql), [](const auto& test) {
                           return test.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

}  // namespace
}  // namespace tidepool::platform
