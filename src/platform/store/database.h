// The SQL store of the platform: SQLite (embedded) or PostgreSQL behind one narrow interface.
//
// SQL is written once for both: BIGINT, DOUBLE PRECISION, TEXT, BYTEA; flags are BIGINT 0/1; placeholders are
// $1, $2, ... (both take them as they are); INSERT .. ON CONFLICT, RETURNING, LIMIT/OFFSET, CASE, common
// table expressions work in both. "BIGSERIAL PRIMARY KEY" in a migration becomes SQLite's INTEGER PRIMARY KEY
// AUTOINCREMENT. No dates: times are BIGINT milliseconds since 1970 (UTC) in columns ending in _ms.
//
// Writes run one after another on the store's writer thread. Those that wait when it gets to them share one
// transaction (each within a savepoint of its own: one that fails undoes only itself) and so one fdatasync:
// group commit. A Write has returned, or `done` is called, only after the commit is durable (SQLite: WAL with
// synchronous=FULL; PostgreSQL: its synchronous_commit).
// Reads run on the caller's thread, on one of a few connections, and see one snapshot.
//
// Errors: kConflict "store_conflict" (a UNIQUE, CHECK or FOREIGN KEY constraint), kUnavailable "store_full"
// (disk or size limit), "store_unavailable" (connection lost, file cannot be written), "store_busy" (too many
// waiting writes), kInvalid "bad_text", kCorrupt "store_corrupt", kInternal "store_error" (SQL that is
// wrong). After kUnavailable nothing needs a restart: the next call tries again. While PostgreSQL cannot be
// reached, one call at a time tries and the others fail at once: nobody waits in a queue for a dead server.
// When it is lost during a commit its outcome is unknown: a writer that tries again must be idempotent (ids
// of its own and ON CONFLICT DO NOTHING).
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "platform/store/value.h"

namespace tidepool::store {

// One connection inside a transaction. Valid only during the call that hands it out, on its thread.
class Session {
 public:
  virtual ~Session() = default;
  // At most kMaxRows rows (kTooLarge beyond): queries of unknown size carry a LIMIT or use Each.
  virtual Result<Rows> Query(std::string_view sql, const std::vector<Value>& values = {}) = 0;
  // Row by row, without holding them all; `take` returns false to stop.
  virtual Status Each(std::string_view sql, const std::vector<Value>& values,
                      const std::function<bool(const Row&)>& take) = 0;
  // The number of rows changed.
  virtual Result<int64_t> Execute(std::string_view sql, const std::vector<Value>& values = {}) = 0;
  // Writes only: runs on the writer thread once this work is durable, before its `done`; never if it failed.
  virtual void AfterCommit(std::function<void()> then) = 0;
};

inline constexpr size_t kMaxRows = 200'000;

struct Migration {
  int32_t number;         // 1, 2, 3, ... without gaps
  std::string_view name;  // "limits per model"; never changes once released
  std::string_view sql;   // statements divided by ';'
};
// The migrations of one floor (a folder of the platform): "accounts", "ledger".
struct MigrationList {
  std::string_view floor;
  std::span<const Migration> migrations;
};

enum class Backend : uint8_t { kSqlite, kPostgresql };

struct DatabaseOptions {
  std::filesystem::path file;  // SQLite; made if it is not there
  std::string postgresql;      // "postgresql://user@host/database" or key=value pairs; empty: SQLite
  uint64_t max_bytes = 0;      // SQLite: "store_full" beyond; 0: the disk's size
  int32_t readers = 4;
  int32_t max_waiting_writes = 65536;
  int32_t max_batch_writes = 1024;  // of one transaction
  double connect_timeout_s = 5;     // PostgreSQL
  // PostgreSQL: a statement that takes longer, or a server that says nothing for so long, is given up. Also
  // how long a read waits for one of the `readers`.
  double query_timeout_s = 15;
  double busy_timeout_s = 5;  // SQLite: another process (the command line) writes
};

using Work = std::function<Status(Session&)>;
using WriteDone = std::function<void(const Status&)>;

class Database {
 public:
  virtual ~Database() = default;  // writes what waits, then closes
  static Result<std::unique_ptr<Database>> Open(const DatabaseOptions& options, MetricsRegistry& metrics);

  // Brings the store up to date, each migration in a transaction of its own. kInvalid "store_too_new" when
  // the store has a migration, or a whole floor, that these lists lack: it belongs to a newer version. Call
  // once, with the lists of all floors, before anything else.
  virtual Status Migrate(std::span<const MigrationList> lists) = 0;

  // Any thread but the writer's (a Write inside a Write is a CHECK).
  virtual Status Read(const Work& work) = 0;
  // Runs `work` on the writer thread, once, and waits until it is committed. The error of `work` undoes it.
  virtual Status Write(const Work& work) = 0;
  // The same without waiting. `done` comes from the writer thread after the commit; it must not block. When
  // the queue is full `done` is called at once with kUnavailable "store_busy".
  virtual void WriteLater(Work work, WriteDone done) = 0;

  // A consistent copy while serving (SQLite's online backup); the file must not exist. kInvalid for
  // PostgreSQL, which has pg_dump.
  virtual Status Backup(const std::filesystem::path& file) = 0;

  virtual Backend backend() const = 0;
  // "SQLite 3.40.1, /home/u/.tidepool/tidepool.db"; never a password.
  virtual std::string Describe() const = 0;

  // Read with a value: database.Get<int64_t>([](Session& s) -> Result<int64_t> { ... }).
  template <typename T>
  Result<T> Get(const std::function<Result<T>(Session&)>& work) {
    return Carry<T>(work, [this](const Work& run) { return Read(run); });
  }
  // Write with a value.
  template <typename T>
  Result<T> Put(const std::function<Result<T>(Session&)>& work) {
    return Carry<T>(work, [this](const Work& run) { return Write(run); });
  }

 private:
  template <typename T>
  static Result<T> Carry(const std::function<Result<T>(Session&)>& work,
                         const std::function<Status(const Work&)>& run) {
    std::optional<T> value;
    TP_TRY(run([&](Session& session) -> Status {
      auto result = work(session);
      if (!result) return tl::unexpected<Error>(std::move(result).error());
      value = std::move(*result);
      return {};
    }));
    return std::move(*value);
  }
};

// Is this file a whole SQLite database (PRAGMA integrity_check)? kCorrupt otherwise.
Status CheckSqliteFile(const std::filesystem::path& file);

}  // namespace tidepool::store
