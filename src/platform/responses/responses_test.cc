// Stored and background responses over both backends of the store. Oracles: the header's promises, and for
// events their numbers.
#include "platform/responses/responses.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "base/ids.h"
#include "platform/accounts/testing/accounts_fixture.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
using store::Backend;

// Reads what there is whenever it is told of it.
class Recorder final : public ResponseListener {
 public:
  Recorder(std::shared_ptr<BackgroundRun> run, int64_t after) : run_(std::move(run)), seen_(after) {}
  void OnMore() override {
    const std::lock_guard lock(mutex_);
    while (!over_) {
      const auto piece = run_->Read(seen_, 1);
      ASSERT_TRUE(piece) << piece.error().message;
      for (const auto& event : piece->events) events_.push_back(event.type + " " + event.data);
      seen_ += std::ssize(piece->events);
      over_ = piece->over;
      if (piece->events.empty()) return;
    }
  }
  std::vector<std::string> events() {
    const std::lock_guard lock(mutex_);
    return events_;
  }
  bool over() {
    const std::lock_guard lock(mutex_);
    return over_;
  }

 private:
  const std::shared_ptr<BackgroundRun> run_;
  std::mutex mutex_;
  std::vector<std::string> events_;
  bool over_ = false;
  int64_t seen_;
};

// Follows from there on.
std::shared_ptr<Recorder> Follow(const std::shared_ptr<BackgroundRun>& run, int64_t after) {
  auto recorder = std::make_shared<Recorder>(run, after);
  EXPECT_TRUE(run->Listen(recorder));
  recorder->OnMore();
  return recorder;
}

class CountingGeneration final : public Generation {
 public:
  void Cancel() override { ++cancels; }
  void SetPaused(bool) override {}
  int cancels = 0;
};

Principal Workspace(const char* name) {
  Principal who;
  who.workspace = name;
  return who;
}

class ResponsesTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / RandomId("tidepool-responses-");
    std::filesystem::create_directories(folder_);
    const auto postgresql = store::SharedTestDatabase(GetParam());
    ASSERT_TRUE(postgresql) << postgresql.error().message;
    store::DatabaseOptions options;
    options.file = folder_ / "test.db";
    options.postgresql = *postgresql;
    auto database = store::Database::Open(options, metrics_);
    ASSERT_TRUE(database) << database.error().message;
    database_ = std::move(*database);
    auto keys = KeyFile::Create(folder_, "");
    ASSERT_TRUE(keys) << keys.error().message;
    keys_ = std::make_unique<KeyFile>(std::move(*keys));
    Migrate();
    Open();
  }
  void TearDown() override {
    responses_.reset();
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  virtual void Migrate() {
    const store::MigrationList lists[] = {Responses::Migrations()};
    ASSERT_TRUE(database_->Migrate(lists));
  }
  void Open() {
    responses_.reset();
    auto opened = Responses::Open(*database_, *keys_, nullptr, clock_, metrics_, options_);
    ASSERT_TRUE(opened) << opened.error().message;
    responses_ = std::move(*opened);
  }

  static StoredResponse Made(const std::string& id, const std::string& previous = "") {
    StoredResponse out;
    out.id = id;
    out.previous = previous;
    out.status = "completed";
    out.body = Json{{"id", id}, {"status", "completed"}, {"output", Json::array({"said " + id})}};
    out.input = Json::array({"asked " + id});
    return out;
  }
  static StoredResponse Running(const std::string& id) {
    StoredResponse out = Made(id);
    out.background = true;
    out.status = "in_progress";
    out.body["status"] = "in_progress";
    return out;
  }
  Status Save(const Principal& who, StoredResponse response) {
    std::promise<Status> saved;
    responses_->SaveLater(who, std::move(response), [&](const Status& status) { saved.set_value(status); });
    return saved.get_future().get();
  }
  std::string Problem(const Result<StoredResponse>& found) { return found ? "" : found.error().code; }
  void WaitEnd(const std::shared_ptr<BackgroundRun>& run) {
    for (int i = 0; i < 5000 && !run->ended(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_TRUE(run->ended());
  }

  std::filesystem::path folder_;
  MetricsRegistry metrics_;
  ManualWallClock clock_{1'000'000};
  ResponsesOptions options_;
  std::unique_ptr<KeyFile> keys_;
  std::unique_ptr<store::Database> database_;
  std::unique_ptr<Responses> responses_;
  const Principal a_ = Workspace("a"), b_ = Workspace("b");
};

TEST_P(ResponsesTest, AreSeenByTheirWorkspaceUntilTheyExpire) {
  ASSERT_TRUE(Save(a_, Made("r1")));
  const auto found = responses_->Find(a_, "r1");
  ASSERT_TRUE(found) << found.error().message;
  EXPECT_EQ(found->body["output"][0], "said r1");
  EXPECT_EQ(found->input[0], "asked r1");
  EXPECT_EQ(Problem(responses_->Find(b_, "r1")), "unknown_response");
  EXPECT_FALSE(responses_->Chain(b_, "r1"));
  const auto stolen = responses_->Delete(b_, "r1");
  ASSERT_FALSE(stolen);
  EXPECT_EQ(stolen.error().code, "unknown_response");
  ASSERT_TRUE(responses_->Find(a_, "r1"));
  clock_.Advance(options_.ttl_ms);
  EXPECT_EQ(Problem(responses_->Find(a_, "r1")), "unknown_response");
}

TEST_P(ResponsesTest, ChainsAreReadFromTheirBeginningWithinTheirLimits) {
  options_.max_chain = 3;
  Open();
  ASSERT_TRUE(Save(a_, Made("r1")));
  ASSERT_TRUE(Save(a_, Made("r2", "r1")));
  ASSERT_TRUE(Save(a_, Made("r3", "r2")));
  ASSERT_TRUE(Save(a_, Made("r4", "r3")));
  const auto chain = responses_->Chain(a_, "r3");
  ASSERT_TRUE(chain);
  ASSERT_EQ(chain->size(), 3u);
  EXPECT_EQ(chain->front().id, "r1");
  EXPECT_EQ(chain->back().id, "r3");
  const auto longer = responses_->Chain(a_, "r4");
  ASSERT_FALSE(longer);
  EXPECT_EQ(longer.error().code, "chain_too_long");
  ASSERT_TRUE(responses_->Delete(a_, "r1"));
  const auto broken = responses_->Chain(a_, "r2");
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, "unknown_response");
}

TEST_P(ResponsesTest, TheOldestGoBeyondTheLimit) {
  options_.max_stored = 5;
  Open();
  for (int i = 0; i < 64; ++i) {
    clock_.Advance(1);
    ASSERT_TRUE(Save(a_, Made("r" + std::to_string(i))));
  }
  ASSERT_TRUE(Save(b_, Made("other")));
  EXPECT_TRUE(responses_->Find(a_, "r63"));
  EXPECT_TRUE(responses_->Find(a_, "r59"));
  EXPECT_FALSE(responses_->Find(a_, "r58"));
  EXPECT_TRUE(responses_->Find(b_, "other"));
}

TEST_P(ResponsesTest, EventsAreHeardOnceByThoseThatComeAndComeBack) {
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(responses_->Find(a_, "r1")->status, "in_progress");
  const auto first = Follow(*run, -1);
  (*run)->Publish("a", "0");
  (*run)->Publish("b", "1");
  (*run)->Remove(first);
  (*run)->Publish("c", "2");
  const auto later = Follow(*run, 0);
  responses_->End(*run, Made("r1"), "last", "3");
  WaitEnd(*run);
  for (int i = 0; i < 5000 && !later->over(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(first->events(), (std::vector<std::string>{"a 0", "b 1"}));
  EXPECT_FALSE(first->over());
  EXPECT_EQ(later->events(), (std::vector<std::string>{"b 1", "c 2", "last 3"}));
  EXPECT_TRUE(later->over());
  EXPECT_EQ(responses_->Find(a_, "r1")->status, "completed");
  // Also when it has ended.
  const auto after = Follow(responses_->FindRun(a_, "r1"), 2);
  EXPECT_EQ(after->events(), std::vector<std::string>{"last 3"});
  EXPECT_TRUE(after->over());
  EXPECT_EQ(responses_->FindRun(b_, "r1"), nullptr);
}

TEST_P(ResponsesTest, NobodyFollowsAServerThatStops) {
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  const auto follower = Follow(*run, -1);
  responses_->EndListening();
  EXPECT_TRUE(follower->over());
  EXPECT_FALSE((*run)->ended());
  const auto refused = (*run)->Listen(follower);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "draining");
}

TEST_P(ResponsesTest, EventsThatAreGoneAreRefused) {
  options_.max_run_event_bytes = 10;
  Open();
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  for (int i = 0; i < 20; ++i) (*run)->Publish("t", "12345");
  const auto refused = (*run)->Read(-1, 100);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "events_gone");
  const auto late = Follow(*run, 18);
  EXPECT_EQ(late->events().size(), 1u);
  responses_->End(*run, Made("r1"), "last", "x");
  WaitEnd(*run);
}

TEST_P(ResponsesTest, CancelReachesWhatComesLater) {
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  (*run)->Cancel();
  const auto generation = std::make_shared<CountingGeneration>();
  (*run)->SetGeneration(generation);
  EXPECT_EQ(generation->cancels, 1);
  EXPECT_TRUE((*run)->cancelled());
  StoredResponse ended = Made("r1");
  ended.status = "cancelled";
  responses_->End(*run, ended, "last", "x");
  WaitEnd(*run);
  EXPECT_EQ(responses_->Find(a_, "r1")->body["status"], "cancelled");
}

TEST_P(ResponsesTest, DeletingEndsItAndNothingBringsItBack) {
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  const auto generation = std::make_shared<CountingGeneration>();
  (*run)->SetGeneration(generation);
  ASSERT_TRUE(responses_->Delete(a_, "r1"));
  EXPECT_EQ(generation->cancels, 1);
  responses_->End(*run, Made("r1"), "last", "x");
  WaitEnd(*run);
  EXPECT_EQ(Problem(responses_->Find(a_, "r1")), "unknown_response");
}

TEST_P(ResponsesTest, OnlySoManyRunAtOnceInAWorkspace) {
  options_.max_background = 1;
  Open();
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  const auto refused = responses_->Begin(a_, Running("r2"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "too_many_background");
  const auto other = responses_->Begin(b_, Running("r3"));
  EXPECT_TRUE(other);
  responses_->End(*run, Made("r1"), "last", "x");
  WaitEnd(*run);
  EXPECT_TRUE(responses_->Begin(a_, Running("r4")));
}

TEST_P(ResponsesTest, WhoLostTheRightHasItStopped) {
  Principal revoked = a_, good = a_;
  revoked.key = "revoked";
  const auto lost = responses_->Begin(revoked, Running("r1")), stays = responses_->Begin(good, Running("r2"));
  ASSERT_TRUE(lost);
  ASSERT_TRUE(stays);
  const auto first = std::make_shared<CountingGeneration>(), second = std::make_shared<CountingGeneration>();
  (*lost)->SetGeneration(first);
  (*stays)->SetGeneration(second);
  responses_->StopForbidden([](const Principal& who) { return who.key != "revoked"; });
  EXPECT_EQ(first->cancels, 1);
  EXPECT_EQ(second->cancels, 0);
  EXPECT_FALSE((*lost)->cancelled()) << "nobody asked for it: it fails";
}

TEST_P(ResponsesTest, ARestartMarksWhatRanAsFailed) {
  ASSERT_TRUE(responses_->Begin(a_, Running("r1")));
  ASSERT_TRUE(Save(a_, Made("r2")));
  Open();
  const auto found = responses_->Find(a_, "r1");
  ASSERT_TRUE(found);
  EXPECT_EQ(found->status, "failed");
  EXPECT_EQ(found->body["status"], "failed");
  EXPECT_EQ(found->body["error"]["code"], "server_error");
  EXPECT_EQ(responses_->Find(a_, "r2")->status, "completed");
}

TEST_P(ResponsesTest, StopEndsWhatRunsAndTakesNoNew) {
  const auto run = responses_->Begin(a_, Running("r1"));
  ASSERT_TRUE(run);
  const auto generation = std::make_shared<CountingGeneration>();
  (*run)->SetGeneration(generation);
  std::thread engine([&] {
    while (generation->cancels == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    StoredResponse ended = Made("r1");
    ended.status = "failed";
    responses_->End(*run, ended, "last", "x");
  });
  responses_->Stop();
  engine.join();
  EXPECT_TRUE((*run)->ended());
  EXPECT_FALSE((*run)->cancelled());
  const auto refused = responses_->Begin(a_, Running("r2"));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "draining");
}

TEST_P(ResponsesTest, RowsHoldNoWord) {
  StoredResponse said = Made("r1");
  said.input = Json::array({"tangerine"});
  said.body["output"] = Json::array({"marmalade"});
  ASSERT_TRUE(Save(a_, said));
  const auto run = responses_->Begin(a_, Running("r2"));
  ASSERT_TRUE(run);
  StoredResponse ended = Made("r2");
  ended.body["output"] = Json::array({"marmalade"});
  responses_->End(*run, ended, "last", "x");
  WaitEnd(*run);
  const auto rows = database_->Get<store::Rows>([](store::Session& s) {
    return s.Query("SELECT body, input, body_box, input_box FROM responses ORDER BY id");
  });
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 2u);
  for (const store::Row& row : *rows) {
    EXPECT_EQ(row.Text(0) + row.Text(1), "");
    for (const char* word : {"tangerine", "marmalade", "said", "asked"})
      EXPECT_EQ((row.Bytes(2) + row.Bytes(3)).find(word), std::string::npos);
  }
  EXPECT_EQ(responses_->Find(a_, "r2")->body["output"][0], "marmalade");
  // A box is of no use under another id.
  ASSERT_TRUE(database_->Write([](store::Session& s) {
    return s.Execute("UPDATE responses SET id = 'r3' WHERE id = 'r2'").map([](int64_t) {});
  }));
  EXPECT_EQ(Problem(responses_->Find(a_, "r3")), "store_corrupt");
}

// From every earlier version, with more rows than are sealed at once.
class UpgradedResponsesTest : public ResponsesTest {
 protected:
  void Migrate() override {
    const store::MigrationList all = Responses::Migrations();
    const store::MigrationList first[] = {{all.floor, all.migrations.first(1)}};
    ASSERT_TRUE(database_->Migrate(first));
    ASSERT_TRUE(database_->Write([](store::Session& s) -> Status {
      for (int i = 0; i < 120; ++i) {
        const std::string id = "old" + std::to_string(i);
        TP_TRY(s.Execute(
            "INSERT INTO responses (id, workspace, previous, background, status, body, input, created_ms, "
            "expires_ms) VALUES ($1, 'a', '', 0, 'completed', $2, $3, 5, 0)",
            {id, Json{{"id", id}, {"status", "completed"}, {"output", {"tangerine " + id}}}.dump(),
             Json::array({"marmalade " + id}).dump()}));
      }
      return {};
    }));
    const store::MigrationList lists[] = {all};
    ASSERT_TRUE(database_->Migrate(lists));
  }
};

TEST_P(UpgradedResponsesTest, WhatAnEarlierVersionStoredInClearIsSealed) {
  for (const char* id : {"old0", "old77", "old119"}) {
    const auto found = responses_->Find(a_, id);
    ASSERT_TRUE(found) << found.error().message;
    EXPECT_EQ(found->body["output"][0], std::string("tangerine ") + id);
    EXPECT_EQ(found->input[0], std::string("marmalade ") + id);
  }
  const auto left = database_->Get<store::Rows>([](store::Session& s) {
    return s.Query(
        "SELECT COUNT(*) FROM responses WHERE body <> '' OR input <> '' OR body_box IS NULL OR input_box IS "
        "NULL");
  });
  ASSERT_TRUE(left);
  EXPECT_EQ((*left)[0].Integer(0), 0);
  if (GetParam() == Backend::kPostgresql) return;
  responses_.reset();
  database_.reset();  // what was written goes into the file, and the log beside it away
  for (const auto& file : std::filesystem::directory_iterator(folder_)) {
    std::ifstream in(file.path(), std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(in)), {});
    for (const char* word : {"tangerine", "marmalade"})
      EXPECT_EQ(bytes.find(word), std::string::npos) << file.path();
  }
}

// With the workspaces' rules.
class RuledResponsesTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    const auto postgresql = store::SharedTestDatabase(GetParam());
    ASSERT_TRUE(postgresql) << postgresql.error().message;
    world_ = std::make_unique<AccountsWorld>(*postgresql);
    world_->other_floors = {Responses::Migrations()};
    ASSERT_TRUE(world_->Open());
    auto opened = Responses::Open(*world_->database, *world_->keys, world_->accounts.get(),
                                  world_->wall_clock, world_->metrics);
    ASSERT_TRUE(opened) << opened.error().message;
    responses_ = std::move(*opened);
  }
  void TearDown() override { responses_.reset(); }
  static StoredResponse Made(const std::string& id, const std::string& status = "completed") {
    StoredResponse out;
    out.id = id;
    out.status = status;
    out.background = status != "completed";
    out.body = Json{{"id", id}, {"status", status}, {"output", Json::array()}};
    return out;
  }
  Status Save(const std::string& id) {
    std::promise<Status> saved;
    responses_->SaveLater(who_, Made(id), [&](const Status& status) { saved.set_value(status); });
    return saved.get_future().get();
  }
  Result<struct Workspace> Say(ResponsesRule rule) {
    return world_->accounts->ChangeWorkspace(world_->CallerOf(world_->created_key), "default",
                                             {.stored_responses = rule});
  }
  int64_t Rows() {
    const auto rows = world_->database->Get<store::Rows>(
        [](store::Session& s) { return s.Query("SELECT COUNT(*) FROM responses"); });
    return rows ? (*rows)[0].Integer(0) : -1;
  }
  std::unique_ptr<AccountsWorld> world_;
  std::unique_ptr<Responses> responses_;
  const Principal who_ = Workspace("default");
};

TEST_P(RuledResponsesTest, NeverDeletesWhatIsThereAndStoresNothingAfter) {
  for (int i = 0; i < 450; ++i) ASSERT_TRUE(Save("r" + std::to_string(i)));
  const auto run = responses_->Begin(who_, Made("running", "in_progress"));
  ASSERT_TRUE(run);
  const auto generation = std::make_shared<CountingGeneration>();
  (*run)->SetGeneration(generation);
  EXPECT_TRUE(responses_->MayStore(who_));
  const auto never = Say(ResponsesRule::kNever);
  ASSERT_TRUE(never) << never.error().message;
  EXPECT_EQ(never->responses_deleted, 451);
  EXPECT_FALSE(responses_->MayStore(who_));
  EXPECT_EQ(responses_->Find(who_, "r3").error().code, "unknown_response");
  for (int i = 0; i < 5000 && (Rows() != 0 || generation->cancels == 0); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(Rows(), 0) << "in steps, by themselves";
  EXPECT_EQ(generation->cancels, 1);
  EXPECT_EQ(Save("later").error().code, "responses_not_stored");
  EXPECT_EQ(responses_->Begin(who_, Made("later2", "in_progress")).error().code, "responses_not_stored");
  responses_->End(*run, Made("running"), "last", "x");
  ASSERT_TRUE(Say(ResponsesRule::kAsAsked));
  ASSERT_TRUE(Save("again"));
  EXPECT_EQ(Rows(), 1);
}

INSTANTIATE_TEST_SUITE_P(Backends, UpgradedResponsesTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgresql), [](const auto& test) {
                           return test.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });
INSTANTIATE_TEST_SUITE_P(Backends, RuledResponsesTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgresql), [](const auto& test) {
                           return test.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });
INSTANTIATE_TEST_SUITE_P(Backends, ResponsesTest, ::testing::Values(Backend::kSqlite, Backend::kPostgresql),
                         [](const auto& test) {
                           return test.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

}  // namespace
}  // namespace tidepool::platform
