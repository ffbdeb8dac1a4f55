#include "platform/store/database.h"

#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <simdjson.h>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <future>
#include <map>
#include <mutex>
#include <optional>
#include <thread>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "platform/store/connection.h"

namespace tidepool::store {
namespace {

// Two servers that start at once on one PostgreSQL migrate one after the other. Any fixed number.
constexpr int64_t kMigrationLock = 0x7469'6465'706f'6f6c;

class RunningDatabase final : public Database {
 public:
  RunningDatabase(const DatabaseOptions& options, MetricsRegistry& metrics)
      : options_(options),
        backend_(options.postgresql.empty() ? Backend::kSqlite : Backend::kPostgresql),
        waiting_gauge_(metrics.gauge("tidepool_store_waiting_writes", "Writes that wait for the store")),
        commit_seconds_(metrics.histogram(
            "tidepool_store_commit_seconds", "Time of one commit, its fdatasync included",
            {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5})),
        batch_writes_(metrics.histogram("tidepool_store_batch_writes", "Writes that shared one commit",
                                        {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})),
        failures_(metrics.counter("tidepool_store_failed_commits_total",
                                  "Transactions that could not be committed (disk full, connection lost)")),
        refused_(
            metrics.counter("tidepool_store_refused_writes_total", "Writes refused because too many wait")) {}

  ~RunningDatabase() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  Status Start() {
    TP_ASSIGN(writer_, Connect(true));
    for (int i = 0; i < options_.readers; ++i) {
      TP_ASSIGN(auto reader, Connect(false));
      readers_.push_back(std::move(reader));
    }
    description_ = writer_->Describe();
    thread_ = std::thread([this] { RunWriter(); });
    return {};
  }

  Status Migrate(std::span<const MigrationList> lists) override;

  Status Read(const Work& work) override {
    std::unique_ptr<Connection> connection;
    {
      std::unique_lock lock(readers_mutex_);
      if (!reader_back_.wait_for(lock, std::chrono::duration<double>(options_.query_timeout_s),
                                 [this] { return !readers_.empty(); })) {
        return Fail(Error{ErrorKind::kUnavailable, "store_busy",
                          fmt::format("All {} connections for reading (store.readers) are busy; try again.",
                                      options_.readers),
                          "", 1});
      }
      connection = std::move(readers_.back());
      readers_.pop_back();
    }
    const Status status = ReadOn(*connection, work);
    {
      std::lock_guard lock(readers_mutex_);
      readers_.push_back(std::move(connection));
    }
    reader_back_.notify_one();
    return status;
  }

  Status Write(const Work& work) override {
    CHECK(std::this_thread::get_id() != thread_.get_id());
    std::promise<Status> promise;
    WriteLater(work, [&](const Status& status) { promise.set_value(status); });
    return promise.get_future().get();
  }

  void WriteLater(Work work, WriteDone done) override {
    {
      std::lock_guard lock(mutex_);
      if (waiting_.size() < static_cast<size_t>(options_.max_waiting_writes) && !stopping_) {
        waiting_.push_back({std::move(work), std::move(done), {}});
        waiting_gauge_.Set(static_cast<double>(waiting_.size()));
        wake_.notify_one();
        return;
      }
    }
    refused_.Increment();
    done(Fail(
        Error{ErrorKind::kUnavailable, "store_busy",
              fmt::format("{} writes wait for the store already; try again.", options_.max_waiting_writes),
              "", 1}));
  }

  Status Backup(const std::filesystem::path& file) override {
    // A connection of its own: readers go on.
    TP_ASSIGN(const auto connection, Connect(false));
    return connection->Backup(file);
  }

  Backend backend() const override { return backend_; }
  std::string Describe() const override { return description_; }

 private:
  struct Waiting {
    Work work;
    WriteDone done;
    std::vector<std::function<void()>> after_commit;
  };

  Result<std::unique_ptr<Connection>> Connect(bool write) const {
    return backend_ == Backend::kSqlite ? OpenSqlite(options_, write) : OpenPostgresql(options_, write);
  }

  // Connecting to a server that is gone takes as long as connect_timeout_s, on a thread that serves others.
  // So while it is gone one caller at a time tries, at most half of the time; the others are told at once.
  Status Reach(Connection& connection) {
    using SteadyClock = std::chrono::steady_clock;
    if (connection.Connected()) return {};
    const auto began = SteadyClock::now();
    {
      std::lock_guard lock(outage_mutex_);
      if (outage_ && (reaching_ || began < reach_again_)) return Fail(*outage_);
      reaching_ = true;
    }
    const Status reached = connection.Ensure();
    const auto ended = SteadyClock::now();
    std::lock_guard lock(outage_mutex_);
    reaching_ = false;
    reach_again_ = ended + (ended - began);
    if (reached) {
      outage_.reset();
    } else {
      outage_ = reached.error();
    }
    return reached;
  }

  // A connection that was lost while it idled shows it only now: nothing has run, so it is made again.
  Status BeginOn(Connection& connection, bool write) {
    TP_TRY(Reach(connection));
    Status begun = connection.Begin(write);
    if (begun || begun.error().code != "store_unavailable") return begun;
    TP_TRY(Reach(connection));
    return connection.Begin(write);
  }

  Status ReadOn(Connection& connection, const Work& work) {
    TP_TRY(BeginOn(connection, false));
    Status status = work(connection);
    // Nothing was changed: ROLLBACK and COMMIT are the same, and a lost connection has no transaction.
    if (connection.InTransaction()) {
      if (const Status ended = connection.Run("ROLLBACK"); !ended && status) status = ended;
    }
    return status;
  }

  void RunWriter() {
    // A batch is milliseconds of work, all of it off anybody's path to a first token: those threads go first.
    // Refused in some sandboxes: then as it is.
    ::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 10);
    std::vector<Waiting> batch;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
        if (waiting_.empty()) return;
        while (!waiting_.empty() && batch.size() < static_cast<size_t>(options_.max_batch_writes)) {
          batch.push_back(std::move(waiting_.front()));
          waiting_.pop_front();
        }
        waiting_gauge_.Set(static_cast<double>(waiting_.size()));
      }
      RunBatch(batch);
      batch.clear();
    }
  }

  // One transaction for all, a savepoint for each.
  void RunBatch(std::vector<Waiting>& batch) {
    std::vector<Status> results(batch.size());
    size_t first = 0;  // of the transaction that is open
    bool open = false;
    const auto end = [&](size_t next, const Status& how) {
      for (size_t i = first; i < next; ++i) {
        if (results[i] && !how) results[i] = how;
      }
      first = next;
      open = false;
    };
    for (size_t i = 0; i < batch.size(); ++i) {
      if (!open) {
        first = i;
        if (Status begun = BeginOn(*writer_, true); !begun) {
          results[i] = begun;
          continue;
        }
        open = true;
      }
      Status done = writer_->Run("SAVEPOINT w");
      if (done) done = batch[i].work(*writer_);
      batch[i].after_commit = std::exchange(writer_->after_commit, {});
      if (done) {
        done = writer_->Run("RELEASE SAVEPOINT w");
      } else if (writer_->InTransaction()) {
        if (!writer_->Run("ROLLBACK TO SAVEPOINT w; RELEASE SAVEPOINT w") && writer_->InTransaction()) {
          (void)writer_->Run("ROLLBACK");
        }
      }
      results[i] = done;
      // A full disk or a lost connection ends the transaction, and with it what came before.
      if (!writer_->InTransaction()) {
        Status lost =
            done ? Fail(ErrorKind::kUnavailable, "store_unavailable", "the store ended the transaction")
                 : Status(done);
        failures_.Increment();
        end(i + 1, lost);
      }
    }
    if (open) {
      const auto start = std::chrono::steady_clock::now();
      Status committed = writer_->Run("COMMIT");
      commit_seconds_.Observe(
          std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
      batch_writes_.Observe(static_cast<double>(batch.size()));
      if (!committed) {
        failures_.Increment();
        if (writer_->InTransaction()) (void)writer_->Run("ROLLBACK");
      }
      end(batch.size(), committed);
    }
    for (size_t i = 0; i < batch.size(); ++i) {
      if (results[i]) {
        for (const auto& then : batch[i].after_commit) then();
      }
      batch[i].done(results[i]);
    }
  }

  const DatabaseOptions options_;
  const Backend backend_;
  std::string description_;
  std::unique_ptr<Connection> writer_;  // the writer thread's (Migrate: before it has work)

  std::mutex outage_mutex_;
  std::optional<Error> outage_;  // why PostgreSQL could not be reached
  bool reaching_ = false;        // somebody tries
  std::chrono::steady_clock::time_point reach_again_;

  std::mutex readers_mutex_;
  std::condition_variable reader_back_;
  std::vector<std::unique_ptr<Connection>> readers_;

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Waiting> waiting_;
  bool stopping_ = false;
  std::thread thread_;

  Gauge waiting_gauge_;
  Histogram commit_seconds_, batch_writes_;
  Counter failures_, refused_;
};

std::string InDialect(std::string_view sql, Backend backend) {
  std::string out(sql);
  if (backend == Backend::kPostgresql) return out;
  constexpr std::string_view kSerial = "BIGSERIAL PRIMARY KEY";
  for (size_t at = out.find(kSerial); at != std::string::npos; at = out.find(kSerial, at)) {
    out.replace(at, kSerial.size(), "INTEGER PRIMARY KEY AUTOINCREMENT");
  }
  return out;
}

Status CheckOptions(const DatabaseOptions& options) {
  if (options.readers < 1 || options.max_waiting_writes < 1 || options.max_batch_writes < 1) {
    return Fail(ErrorKind::kInvalid, "bad_setting",
                "store: readers and the limits of writes must be at least 1");
  }
  return {};
}

using Applied = std::map<std::string, std::map<int64_t, std::string>>;

Status CheckKnown(const Applied& applied, std::span<const MigrationList> lists) {
  for (const auto& [floor, numbers] : applied) {
    const MigrationList* list = nullptr;
    for (const MigrationList& candidate : lists) {
      if (candidate.floor == floor) list = &candidate;
    }
    for (const auto& [number, name] : numbers) {
      const bool known = list != nullptr && number >= 1 &&
                         number <= static_cast<int64_t>(list->migrations.size()) &&
                         list->migrations[static_cast<size_t>(number - 1)].name == name;
      if (!known) {
        return Fail(
            ErrorKind::kInvalid, "store_too_new",
            fmt::format("The store was written by a newer version of Tidepool (it has change {} of {}, "
                        "\"{}\", which this version does not know). Start that version, or restore a "
                        "backup made by this one.",
                        number, floor, name));
      }
    }
  }
  return {};
}

}  // namespace

Status CheckValues(const std::vector<Value>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    const std::string* text = values[i].text();
    if (text == nullptr) continue;
    if (text->find('\0') != std::string::npos || !simdjson::validate_utf8(*text)) {
      return Fail(ErrorKind::kInvalid, "bad_text",
                  fmt::format("value {} is not UTF-8 text, or holds a NUL character", i + 1));
    }
  }
  return {};
}

Status RunningDatabase::Migrate(std::span<const MigrationList> lists) {
  for (const MigrationList& list : lists) {
    for (size_t i = 0; i < list.migrations.size(); ++i)
      CHECK(list.migrations[i].number == static_cast<int32_t>(i) + 1);
  }
  const Status made = Write([&](Session& session) -> Status {
    TP_TRY(writer_->TakeTime());  // another server may migrate just now
    if (backend_ == Backend::kPostgresql)
      TP_TRY(session.Query("SELECT pg_advisory_xact_lock($1)", {kMigrationLock}));
    return session
        .Execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations (floor TEXT NOT NULL, number BIGINT NOT NULL, "
            "name TEXT NOT NULL, applied_ms BIGINT NOT NULL, PRIMARY KEY (floor, number))")
        .map([](int64_t) {});
  });
  TP_TRY(made);
  Applied applied;
  TP_TRY(Read([&](Session& session) {
    return session.Each("SELECT floor, number, name FROM schema_migrations", {}, [&](const Row& row) {
      applied[row.Text(0)][row.Integer(1)] = row.Text(2);
      return true;
    });
  }));
  TP_TRY(CheckKnown(applied, lists));
  for (const MigrationList& list : lists) {
    const std::string floor(list.floor);
    for (const Migration& migration : list.migrations) {
      if (applied[floor].contains(migration.number)) continue;
      const Status done = Write([&](Session& session) -> Status {
        TP_TRY(writer_->TakeTime());
        if (backend_ == Backend::kPostgresql)
          TP_TRY(session.Query("SELECT pg_advisory_xact_lock($1)", {kMigrationLock}));
        // Another server may have been quicker.
        TP_ASSIGN(const Rows there,
                  session.Query("SELECT 1 FROM schema_migrations WHERE floor = $1 AND number = $2",
                                {floor, migration.number}));
        if (!there.empty()) return {};
        TP_TRY(writer_->Run(InDialect(migration.sql, backend_)));
        return session
            .Execute(
                "INSERT INTO schema_migrations (floor, number, name, applied_ms) VALUES ($1, $2, $3, $4)",
                {floor, migration.number, migration.name, UnixTimeSeconds() * 1000})
            .map([](int64_t) {});
      });
      if (!done) {
        Error error = done.error();
        error.message = fmt::format("change {} of {} (\"{}\") of the store failed: {}", migration.number,
                                    floor, migration.name, error.message);
        return Fail(std::move(error));
      }
      LogInfo("the store was changed",
              {{"floor", floor}, {"number", migration.number}, {"name", migration.name}});
    }
  }
  return {};
}

Result<std::unique_ptr<Database>> Database::Open(const DatabaseOptions& options, MetricsRegistry& metrics) {
  TP_TRY(CheckOptions(options));
  auto database = std::make_unique<RunningDatabase>(options, metrics);
  TP_TRY(database->Start());
  return std::unique_ptr<Database>(std::move(database));
}

}  // namespace tidepool::store
