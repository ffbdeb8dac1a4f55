#include <fmt/format.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <limits>
#include <list>
#include <unordered_map>

#include "base/check.h"
#include "platform/store/connection.h"

namespace tidepool::store {
namespace {

constexpr size_t kKeptSqliteStatements = 256;

tl::unexpected<Error> SqliteError(int code, const std::string& message, const std::string& file) {
  switch (code & 0xff) {
    case SQLITE_CONSTRAINT: return Fail(ErrorKind::kConflict, "store_conflict", message);
    case SQLITE_FULL:
      return Fail(Error{ErrorKind::kUnavailable, "store_full",
                        fmt::format("The store ({}) has no room left: {}. Free disk space or raise "
                                    "store.max_size; no restart is needed.",
                                    file, message),
                        "", 30});
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
      return Fail(ErrorKind::kCorrupt, "store_corrupt",
                  fmt::format("{}: {}; restore it from a backup (tidepool restore)", file, message));
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
      return Fail(Error{ErrorKind::kUnavailable, "store_busy",
                        fmt::format("{}: another process writes for too long", file), "", 1});
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
    case SQLITE_PERM:
    case SQLITE_NOMEM:
      return Fail(Error{ErrorKind::kUnavailable, "store_unavailable",
                        fmt::format("{}: {}; check the disk and the folder's owner", file, message), "", 5});
    default: return Fail(ErrorKind::kInternal, "store_error", fmt::format("{}: {}", file, message));
  }
}

class SqliteConnection final : public Connection {
 public:
  SqliteConnection(std::string file, sqlite3* handle) : file_(std::move(file)), handle_(handle) {}
  ~SqliteConnection() override {
    for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(handle_);
  }
  SqliteConnection(const SqliteConnection&) = delete;
  SqliteConnection& operator=(const SqliteConnection&) = delete;

  Result<Rows> Query(std::string_view sql, const std::vector<Value>& values) override {
    Rows rows;
    bool too_many = false;
    TP_TRY(Each(sql, values, [&](const Row& row) {
      too_many = rows.size() == kMaxRows;
      if (!too_many) rows.push_back(row);
      return !too_many;
    }));
    if (too_many)
      return Fail(ErrorKind::kTooLarge, "store_too_many_rows", fmt::format("more than {} rows", kMaxRows));
    return rows;
  }

  Status Each(std::string_view sql, const std::vector<Value>& values,
              const std::function<bool(const Row&)>& take) override {
    TP_ASSIGN(sqlite3_stmt * statement, Bound(sql, values));
    const Finisher finish{statement};
    while (true) {
      const int code = sqlite3_step(statement);
      if (code == SQLITE_DONE) return {};
      if (code != SQLITE_ROW) return ErrorOf(code);
      if (!take(RowOf(statement))) return {};
    }
  }

  Result<int64_t> Execute(std::string_view sql, const std::vector<Value>& values) override {
    TP_ASSIGN(sqlite3_stmt * statement, Bound(sql, values));
    const Finisher finish{statement};
    const int64_t before = sqlite3_total_changes64(handle_);
    int code = SQLITE_ROW;
    while (code == SQLITE_ROW) code = sqlite3_step(statement);
    if (code != SQLITE_DONE) return ErrorOf(code);
    // Unlike sqlite3_changes, 0 for a statement that is no INSERT, UPDATE or DELETE.
    return sqlite3_total_changes64(handle_) == before ? 0 : sqlite3_changes64(handle_);
  }

  Status Run(const std::string& statements) override {
    const int code = sqlite3_exec(handle_, statements.c_str(), nullptr, nullptr, nullptr);
    if (code != SQLITE_OK) return ErrorOf(code);
    return {};
  }

  Status Begin(bool write) override { return Run(write ? "BEGIN IMMEDIATE" : "BEGIN"); }
  bool InTransaction() const override { return sqlite3_get_autocommit(handle_) == 0; }
  Status Ensure() override { return {}; }
  bool Connected() const override { return true; }
  Status TakeTime() override { return {}; }

  Status Backup(const std::filesystem::path& file) override {
    struct stat info{};
    if (::stat(file.c_str(), &info) == 0) {
      return Fail(ErrorKind::kConflict, "backup_exists",
                  fmt::format("{} exists already; choose another name", file.string()), "file");
    }
    sqlite3* target = nullptr;
    const auto close = [&] { sqlite3_close(target); };
    int code = sqlite3_open_v2(file.c_str(), &target,
                               SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOFOLLOW, nullptr);
    if (code == SQLITE_OK) {
      ::chmod(file.c_str(), 0600);
      sqlite3_backup* backup = sqlite3_backup_init(target, "main", handle_, "main");
      if (backup == nullptr) {
        code = sqlite3_errcode(target);
      } else {
        // In one go: this connection's snapshot does not change meanwhile, so nothing starts again.
        code = sqlite3_backup_step(backup, -1);
        const int finished = sqlite3_backup_finish(backup);
        code = code == SQLITE_DONE ? finished : code;
      }
    }
    if (code != SQLITE_OK) {
      auto error = SqliteError(code, sqlite3_errstr(code), file.string());
      close();
      std::error_code ignored;
      std::filesystem::remove(file, ignored);
      return error;
    }
    // A copy of a WAL database is one file again, so that it can be moved as one.
    sqlite3_exec(target, "PRAGMA journal_mode=DELETE", nullptr, nullptr, nullptr);
    close();
    return {};
  }

  std::string Describe() const override { return fmt::format("SQLite {}, {}", sqlite3_libversion(), file_); }

 private:
  struct Finisher {
    sqlite3_stmt* statement;
    ~Finisher() {
      sqlite3_reset(statement);
      sqlite3_clear_bindings(statement);
    }
  };

  tl::unexpected<Error> ErrorOf(int code) const { return SqliteError(code, sqlite3_errmsg(handle_), file_); }

  Result<sqlite3_stmt*> Bound(std::string_view sql, const std::vector<Value>& values) {
    TP_TRY(CheckValues(values));
    auto found = statements_.find(std::string(sql));
    if (found == statements_.end()) {
      if (statements_.size() >= kKeptSqliteStatements) {
        for (auto& [text, old] : statements_) sqlite3_finalize(old);
        statements_.clear();
      }
      sqlite3_stmt* made = nullptr;
      const char* rest = nullptr;
      const int code = sqlite3_prepare_v3(handle_, sql.data(), static_cast<int>(sql.size()),
                                          SQLITE_PREPARE_PERSISTENT, &made, &rest);
      if (code != SQLITE_OK) return ErrorOf(code);
      const std::string_view left(rest, static_cast<size_t>(sql.data() + sql.size() - rest));
      if (made == nullptr || left.find_first_not_of(" \t\r\n") != std::string_view::npos) {
        sqlite3_finalize(made);
        return Fail(ErrorKind::kInternal, "store_error", fmt::format("not one statement: {}", sql));
      }
      found = statements_.emplace(std::string(sql), made).first;
    }
    sqlite3_stmt* statement = found->second;
    if (sqlite3_bind_parameter_count(statement) > static_cast<int>(values.size())) {
      return Fail(ErrorKind::kInternal, "store_error", fmt::format("too few values for: {}", sql));
    }
    for (size_t i = 0; i < values.size(); ++i) {
      const int at = sqlite3_bind_parameter_index(statement, fmt::format("${}", i + 1).c_str());
      if (at == 0) {
        return Fail(ErrorKind::kInternal, "store_error", fmt::format("no ${} in: {}", i + 1, sql));
      }
      int code = SQLITE_OK;
      const Value& value = values[i];
      if (const int64_t* number = value.integer()) {
        code = sqlite3_bind_int64(statement, at, *number);
      } else if (const double* real = value.number()) {
        code = sqlite3_bind_double(statement, at, *real);
      } else if (const std::string* text = value.text()) {
        code = sqlite3_bind_text64(statement, at, text->data(), text->size(), SQLITE_TRANSIENT, SQLITE_UTF8);
      } else if (const Blob* blob = value.blob()) {
        code = sqlite3_bind_blob64(statement, at, blob->bytes.empty() ? "" : blob->bytes.data(),
                                   blob->bytes.size(), SQLITE_TRANSIENT);
      } else {
        code = sqlite3_bind_null(statement, at);
      }
      if (code != SQLITE_OK) return ErrorOf(code);
    }
    return statement;
  }

  static Row RowOf(sqlite3_stmt* statement) {
    const int columns = sqlite3_column_count(statement);
    std::vector<Value> values;
    values.reserve(static_cast<size_t>(columns));
    for (int i = 0; i < columns; ++i) {
      switch (sqlite3_column_type(statement, i)) {
        case SQLITE_INTEGER: values.emplace_back(int64_t{sqlite3_column_int64(statement, i)}); break;
        case SQLITE_FLOAT: values.emplace_back(sqlite3_column_double(statement, i)); break;
        case SQLITE_NULL: values.emplace_back(); break;
        case SQLITE_TEXT: {
          const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, i));
          values.emplace_back(std::string(text, static_cast<size_t>(sqlite3_column_bytes(statement, i))));
          break;
        }
        default: {
          const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement, i));
          const auto size = static_cast<size_t>(sqlite3_column_bytes(statement, i));
          values.emplace_back(Blob{size == 0 ? std::string() : std::string(bytes, size)});
        }
      }
    }
    return Row(std::move(values));
  }

  const std::string file_;
  sqlite3* handle_;
  std::unordered_map<std::string, sqlite3_stmt*> statements_;
};

}  // namespace

Result<std::unique_ptr<Connection>> OpenSqlite(const DatabaseOptions& options, bool write) {
  const std::string file = options.file.string();
  sqlite3* handle = nullptr;
  const int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW;
  const int code = sqlite3_open_v2(file.c_str(), &handle, flags, nullptr);
  auto connection = std::make_unique<SqliteConnection>(file, handle);  // closes it whatever happened
  if (code != SQLITE_OK) return SqliteError(code, sqlite3_errstr(code), file);
  sqlite3_extended_result_codes(handle, 1);
  ::chmod(file.c_str(), 0600);
  sqlite3_busy_timeout(handle, static_cast<int>(options.busy_timeout_s * 1000));
  // FULL: the WAL is synced at every commit. trusted_schema off: a doctored file runs no functions of its
  // own.
  TP_TRY(connection->Run(
      "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON; PRAGMA secure_delete=ON; "
      "PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY;"));
  if (!write) TP_TRY(connection->Run("PRAGMA query_only=ON;"));
  if (write && options.max_bytes > 0) {
    TP_ASSIGN(const Rows page, connection->Query("PRAGMA page_size", {}));
    const uint64_t pages = options.max_bytes / static_cast<uint64_t>(page.at(0).Integer(0));
    TP_TRY(connection->Run(fmt::format(
        "PRAGMA max_page_count={};",
        std::min<uint64_t>(std::max<uint64_t>(pages, 1), std::numeric_limits<int32_t>::max() - 1))));
  }
  return std::unique_ptr<Connection>(std::move(connection));
}

Status CheckSqliteFile(const std::filesystem::path& file) {
  sqlite3* handle = nullptr;
  const int opened =
      sqlite3_open_v2(file.c_str(), &handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW, nullptr);
  SqliteConnection connection(file.string(), handle);
  if (opened != SQLITE_OK) return SqliteError(opened, sqlite3_errstr(opened), file.string());
  TP_TRY(connection.Run("PRAGMA trusted_schema=OFF;"));
  TP_ASSIGN(const Rows rows, connection.Query("PRAGMA integrity_check(1)", {}));
  if (rows.size() != 1 || rows[0].Text(0) != "ok") {
    return Fail(ErrorKind::kCorrupt, "store_corrupt",
                fmt::format("{} is damaged: {}", file.string(), rows.empty() ? "" : rows[0].Text(0)));
  }
  return {};
}

}  // namespace tidepool::store
