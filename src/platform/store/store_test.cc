// One suite for both backends. Oracle: what the interface's header promises; for durability and snapshots a
// second connection to the same store.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <limits>
#include <thread>

#include "base/ids.h"
#include "platform/store/database.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::store {
namespace {

constexpr Migration kFirst[] = {
    {1, "things",
     "CREATE TABLE things (id BIGSERIAL PRIMARY KEY, name TEXT NOT NULL UNIQUE, size BIGINT, "
     "weight DOUBLE PRECISION, content BYTEA);"}};
constexpr Migration kSecond[] = {kFirst[0],
                                 {2, "colour",
                                  "ALTER TABLE things ADD COLUMN colour TEXT; "
                                  "UPDATE things SET colour = 'blue';"}};
constexpr MigrationList kListOne[] = {{"test", kFirst}};
constexpr MigrationList kListTwo[] = {{"test", kSecond}};

class StoreTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / RandomId("tidepool-store-", 8);
    std::filesystem::create_directories(folder_);
    if (GetParam() == Backend::kSqlite) {
      options_.file = folder_ / "store.db";
    } else {
      auto& server = Server();
      ASSERT_TRUE(server) << server.error().message;
      const auto made = (*server)->MakeDatabase();
      ASSERT_TRUE(made) << made.error().message;
      options_.postgresql = *made;
    }
    Open(kListOne);
  }
  void TearDown() override {
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  // One for the whole suite; leaves with the process.
  static Result<std::unique_ptr<PostgresqlServer>>& Server() {
    static auto server = PostgresqlServer::Start();
    return server;
  }
  Status TryOpen(std::span<const MigrationList> lists) {
    database_.reset();
    TP_ASSIGN(database_, Database::Open(options_, metrics_));
    return database_->Migrate(lists);
  }
  void Open(std::span<const MigrationList> lists) {
    const Status status = TryOpen(lists);
    ASSERT_TRUE(status) << status.error().message;
  }
  Status Insert(const std::string& name, int64_t size = 0) {
    return database_->Write([&](Session& session) {
      return session.Execute("INSERT INTO things (name, size) VALUES ($1, $2)", {name, size})
          .map([](int64_t) {});
    });
  }
  int64_t Count() {
    return database_
        ->Get<int64_t>([](Session& session) -> Result<int64_t> {
          TP_ASSIGN(const Rows rows, session.Query("SELECT COUNT(*) FROM things"));
          return rows.at(0).Integer(0);
        })
        .value_or(-1);
  }

  std::filesystem::path folder_;
  DatabaseOptions options_;
  MetricsRegistry metrics_;
  std::unique_ptr<Database> database_;
};

TEST_P(StoreTest, KeepsEveryTypeOfValue) {
  const std::string every_byte = [] {
    std::string all;
    for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
    return all;
  }();
  const std::string hostile = "'; DROP TABLE things; -- \" \\ % $1 ?1 \xF0\x9F\x8C\x8A\n";
  ASSERT_TRUE(database_->Write([&](Session& session) -> Status {
    TP_ASSIGN(const int64_t changed,
              session.Execute("INSERT INTO things (name, size, weight, content) VALUES ($1, $2, $3, $4)",
                              {hostile, std::numeric_limits<int64_t>::min(), 0.1, Blob{every_byte}}));
    EXPECT_EQ(changed, 1);
    TP_TRY(session.Execute("INSERT INTO things (name, size, weight, content) VALUES ($1, $2, $3, $4)",
                           {"", nullptr, nullptr, Blob{}}));
    return {};
  }));
  const auto rows = database_->Get<Rows>([](Session& session) {
    return session.Query("SELECT name, size, weight, content FROM things ORDER BY id");
  });
  ASSERT_TRUE(rows);
  ASSERT_EQ(rows->size(), 2u);
  EXPECT_EQ((*rows)[0].Text(0), hostile);
  EXPECT_EQ((*rows)[0].Integer(1), std::numeric_limits<int64_t>::min());
  EXPECT_EQ((*rows)[0].Number(2), 0.1);
  EXPECT_EQ((*rows)[0].Bytes(3), every_byte);
  EXPECT_FALSE((*rows)[1].IsNull(0));
  EXPECT_TRUE((*rows)[1].IsNull(1));
  EXPECT_EQ((*rows)[1].OptionalInteger(1), std::nullopt);
  EXPECT_FALSE((*rows)[1].IsNull(3));
}

TEST_P(StoreTest, SumsAndRepeatedPlaceholders) {
  ASSERT_TRUE(Insert("a", 5'000'000'000));
  ASSERT_TRUE(Insert("b", 7));
  const auto rows = database_->Get<Rows>([](Session& session) {
    return session.Query("SELECT SUM(size), COUNT(*) FROM things WHERE size >= $1 OR $1 > $2", {1, 2});
  });
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ((*rows)[0].Integer(0), 5'000'000'007);
  EXPECT_EQ((*rows)[0].Integer(1), 2);
}

TEST_P(StoreTest, RefusesTextThatIsNone) {
  for (const std::string& bad :
       {std::string("a\0b", 3), std::string("\xff\xfe"), std::string("\xed\xa0\x80")}) {
    const Status status = Insert(bad);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kInvalid);
    EXPECT_EQ(status.error().code, "bad_text");
  }
  EXPECT_TRUE(Insert("good"));
}

TEST_P(StoreTest, AFailedWriteIsUndoneAndTheOthersOfItsBatchAreNot) {
  // Held up, so that what follows waits and shares one transaction.
  std::promise<void> go;
  std::promise<Status> first, good, bad, conflict, last;
  auto wait = go.get_future().share();
  const auto insert = [](std::string name) {
    return [name](Session& s) {
      return s.Execute("INSERT INTO things (name) VALUES ($1)", {name}).map([](int64_t) {});
    };
  };
  database_->WriteLater(
      [wait](Session&) {
        wait.wait();
        return Status();
      },
      [&](const Status& s) { first.set_value(s); });
  database_->WriteLater(insert("good"), [&](const Status& s) { good.set_value(s); });
  database_->WriteLater(
      [&](Session& s) -> Status {
        TP_TRY(insert("undone")(s));
        return Fail(ErrorKind::kForbidden, "no", "no");
      },
      [&](const Status& s) { bad.set_value(s); });
  database_->WriteLater(insert("good"), [&](const Status& s) { conflict.set_value(s); });
  database_->WriteLater(insert("last"), [&](const Status& s) { last.set_value(s); });
  go.set_value();
  EXPECT_TRUE(first.get_future().get());
  EXPECT_TRUE(good.get_future().get());
  EXPECT_EQ(bad.get_future().get().error().code, "no");
  const Status twice = conflict.get_future().get();
  ASSERT_FALSE(twice);
  EXPECT_EQ(twice.error().kind, ErrorKind::kConflict);
  EXPECT_EQ(twice.error().code, "store_conflict");
  EXPECT_TRUE(last.get_future().get());
  EXPECT_EQ(Count(), 2);
}

TEST_P(StoreTest, WritesOfManyThreadsAllArriveAndShareCommits) {
  constexpr int kThreads = 8, kEach = 25;
  std::vector<std::thread> threads;
  std::atomic<int> failed{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kEach; ++i) {
        if (!Insert(std::to_string(t) + "/" + std::to_string(i))) ++failed;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(failed, 0);
  EXPECT_EQ(Count(), kThreads * kEach);
}

TEST_P(StoreTest, AReadSeesOneSnapshot) {
  ASSERT_TRUE(Insert("before"));
  int64_t first = -1, second = -1;
  ASSERT_TRUE(database_->Read([&](Session& session) -> Status {
    TP_ASSIGN(const Rows one, session.Query("SELECT COUNT(*) FROM things"));
    first = one[0].Integer(0);
    EXPECT_TRUE(Insert("meanwhile"));
    TP_ASSIGN(const Rows two, session.Query("SELECT COUNT(*) FROM things"));
    second = two[0].Integer(0);
    return {};
  }));
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
  EXPECT_EQ(Count(), 2);
}

TEST_P(StoreTest, AReadCannotWrite) {
  const Status status = database_->Read([](Session& session) {
    return session.Execute("INSERT INTO things (name) VALUES ('x')").map([](int64_t) {});
  });
  EXPECT_FALSE(status);
  EXPECT_EQ(Count(), 0);
}

TEST_P(StoreTest, RowsOneByOneUntilEnough) {
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(Insert(std::to_string(i), i));
  int seen = 0;
  ASSERT_TRUE(database_->Read([&](Session& session) {
    return session.Each("SELECT size FROM things ORDER BY id", {}, [&](const Row& row) {
      EXPECT_EQ(row.Integer(0), seen);
      return ++seen < 4;
    });
  }));
  EXPECT_EQ(seen, 4);
  EXPECT_EQ(Count(), 10) << "the connection is usable again";
}

TEST_P(StoreTest, WrongSqlIsADefectAndNothingElse) {
  const Status status = database_->Write(
      [](Session& session) { return session.Execute("INSERT INTO nothing VALUES (1)").map([](int64_t) {}); });
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kInternal);
  EXPECT_FALSE(database_->Read([](Session& s) { return s.Query("SELECT $1", {}).map([](auto&&) {}); }));
  EXPECT_FALSE(database_->Read([](Session& s) { return s.Query("SELECT 1; SELECT 2").map([](auto&&) {}); }));
  EXPECT_TRUE(Insert("still works"));
}

TEST_P(StoreTest, ATooLongQueueRefuses) {
  options_.max_waiting_writes = 1;
  Open(kListOne);
  std::promise<void> go, started;
  auto wait = go.get_future().share();
  std::promise<Status> held, second;
  database_->WriteLater(
      [&, wait](Session&) {
        started.set_value();
        wait.wait();
        return Status();
      },
      [&](const Status& s) { held.set_value(s); });
  started.get_future().wait();
  database_->WriteLater([](Session&) { return Status(); }, [&](const Status& s) { second.set_value(s); });
  const auto refused = std::make_shared<Status>();
  database_->WriteLater([](Session&) { return Status(); }, [&](const Status& s) { *refused = s; });
  ASSERT_FALSE(*refused);
  EXPECT_EQ(refused->error().code, "store_busy");
  go.set_value();
  EXPECT_TRUE(held.get_future().get());
  EXPECT_TRUE(second.get_future().get());
}

TEST_P(StoreTest, UpgradesKeepWhatIsThere) {
  ASSERT_TRUE(Insert("old"));
  Open(kListTwo);
  const auto rows =
      database_->Get<Rows>([](Session& s) { return s.Query("SELECT name, colour FROM things"); });
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ((*rows)[0].Text(1), "blue");
  Open(kListTwo);  // and again: nothing to do
  EXPECT_EQ(Count(), 1);
}

TEST_P(StoreTest, ANewerStoreIsRefused) {
  Open(kListTwo);
  Status status = TryOpen(kListOne);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().code, "store_too_new");
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("newer version"));
  constexpr MigrationList kNone[] = {{"test", kSecond}, {"other", kFirst}};
  status = TryOpen(std::span(kNone).subspan(1));
  ASSERT_FALSE(status) << "a floor that is not known";
  EXPECT_EQ(status.error().code, "store_too_new");
}

TEST_P(StoreTest, AFailedUpgradeChangesNothing) {
  static constexpr Migration kBroken[] = {
      kFirst[0], {2, "broken", "ALTER TABLE things ADD COLUMN colour TEXT; INSERT INTO nowhere VALUES (1);"}};
  constexpr MigrationList kList[] = {{"test", kBroken}};
  const Status status = TryOpen(kList);
  ASSERT_FALSE(status);
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("\"broken\""));
  Open(kListTwo);  // the column is not there yet, or this would fail
}

INSTANTIATE_TEST_SUITE_P(Backends, StoreTest, ::testing::Values(Backend::kSqlite, Backend::kPostgresql),
                         [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

class SqliteTest : public StoreTest {};

TEST_P(SqliteTest, AFullStoreSaysSoAndGoesOnWhenThereIsRoom) {
  options_.max_bytes = 256 << 10;
  Open(kListOne);
  const std::string big(20'000, 'x');
  Status status;
  for (int i = 0; i < 100 && status; ++i) status = Insert(std::to_string(i) + big);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(status.error().code, "store_full");
  EXPECT_THAT(status.error().message, ::testing::HasSubstr("no room"));
  const int64_t kept = Count();
  EXPECT_GT(kept, 0) << "reading goes on";
  // Room: no restart.
  ASSERT_TRUE(database_->Write(
      [](Session& s) { return s.Execute("DELETE FROM things WHERE id <= 3").map([](int64_t) {}); }));
  EXPECT_TRUE(Insert("fits again"));
  EXPECT_EQ(Count(), kept - 3 + 1);
}

TEST_P(SqliteTest, BackupWhileServing) {
  for (int i = 0; i < 50; ++i) ASSERT_TRUE(Insert(std::to_string(i)));
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (int i = 100; !stop; ++i) ASSERT_TRUE(Insert(std::to_string(i)));
  });
  const auto copy = folder_ / "copy.db";
  const Status status = database_->Backup(copy);
  stop = true;
  writer.join();
  ASSERT_TRUE(status) << status.error().message;
  EXPECT_EQ(database_->Backup(copy).error().code, "backup_exists");
  EXPECT_TRUE(CheckSqliteFile(copy));
  options_.file = copy;
  Open(kListOne);
  EXPECT_GE(Count(), 50);
}

TEST_P(SqliteTest, DamageIsFound) {
  for (int i = 0; i < 200; ++i) ASSERT_TRUE(Insert(std::to_string(i) + std::string(500, 'y')));
  const auto copy = folder_ / "copy.db";
  ASSERT_TRUE(database_->Backup(copy));
  ASSERT_TRUE(CheckSqliteFile(copy));
  {
    std::fstream file(copy, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(3 * 4096);
    file << std::string(4096, '\x5a');
  }
  EXPECT_FALSE(CheckSqliteFile(copy));
  std::ofstream(folder_ / "text") << std::string(5000, 'a');
  EXPECT_EQ(CheckSqliteFile(folder_ / "text").error().code, "store_corrupt");
}

INSTANTIATE_TEST_SUITE_P(Sqlite, SqliteTest, ::testing::Values(Backend::kSqlite));

class PostgresqlTest : public StoreTest {};

TEST_P(PostgresqlTest, ALostServerIsSaidAndComesBackWithoutARestart) {
  ASSERT_TRUE(Insert("before"));
  ASSERT_TRUE((*Server())->Stop());
  const Status lost = Insert("lost");
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(lost.error().code, "store_unavailable");
  EXPECT_FALSE(Insert("still lost"));
  EXPECT_EQ(Count(), -1);
  ASSERT_TRUE((*Server())->StartAgain());
  EXPECT_TRUE(Insert("after"));
  EXPECT_EQ(Count(), 2);
}

TEST_P(PostgresqlTest, AStatementThatTakesTooLongIsGivenUp) {
  options_.query_timeout_s = 2;
  Open(kListOne);
  const auto sleep = [](Session& session) { return session.Query("SELECT pg_sleep(60)").map([](auto&&) {}); };
  for (const bool write : {false, true}) {
    const auto began = std::chrono::steady_clock::now();
    const Status status = write ? database_->Write(sleep) : database_->Read(sleep);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().code, "store_unavailable") << status.error().message;
    EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(20));
    EXPECT_TRUE(Insert(write ? "after a write" : "after a read"));
  }
  EXPECT_EQ(Count(), 2);
}

// A server that is stopped, or whose network is gone: its connections are there and nothing comes.
TEST_P(PostgresqlTest, AServerThatSaysNothingIsGivenUp) {
  options_.query_timeout_s = 2;
  options_.connect_timeout_s = 2;
  ASSERT_NO_FATAL_FAILURE(Open(kListOne));
  ASSERT_TRUE(Insert("before"));
  (*Server())->Freeze(true);
  const auto began = std::chrono::steady_clock::now();
  std::vector<std::future<Status>> all;
  for (int i = 0; i < 32; ++i) {
    all.push_back(std::async(std::launch::async, [&] {
      return database_->Read([](Session& s) { return s.Query("SELECT 1").map([](auto&&) {}); });
    }));
  }
  std::vector<Status> results = {Insert("lost")};
  for (auto& one : all) results.push_back(one.get());
  const auto took = std::chrono::steady_clock::now() - began;
  (*Server())->Freeze(false);
  for (const Status& status : results) {
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kUnavailable) << status.error().message;
  }
  // 4 readers wait for 3 s and then, one at a time, 2 s (libpq's least) for a new connection. In turn it
  // would be 8 times as long.
  EXPECT_LT(took, std::chrono::seconds(20));
  Status again;
  for (int i = 0; i < 200 && !(again = Insert("after " + std::to_string(i))); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  EXPECT_TRUE(again) << again.error().message;
  EXPECT_EQ(Count(), 2);
}

TEST_P(PostgresqlTest, HasNoBackupOfOurs) {
  EXPECT_EQ(database_->Backup(folder_ / "copy").error().code, "backup_not_here");
}

INSTANTIATE_TEST_SUITE_P(Postgresql, PostgresqlTest, ::testing::Values(Backend::kPostgresql));

TEST(StoreOpenTest, SaysWhatIsWrong) {
  MetricsRegistry metrics;
  DatabaseOptions options;
  options.file = "/nowhere/at/all/store.db";
  EXPECT_EQ(Database::Open(options, metrics).error().kind, ErrorKind::kUnavailable);
  options.postgresql = "host=/nowhere user=x password=secret-word dbname=y";
  const auto opened = Database::Open(options, metrics);
  ASSERT_FALSE(opened);
  EXPECT_EQ(opened.error().code, "store_unavailable");
  EXPECT_THAT(opened.error().message, ::testing::Not(::testing::HasSubstr("secret-word")));
}

}  // namespace
}  // namespace tidepool::store
