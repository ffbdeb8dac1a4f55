#include <fmt/format.h>
#include <libpq-fe.h>
#include <poll.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdlib>
#include <unordered_map>

#include "platform/store/connection.h"

namespace tidepool::store {
namespace {

// Types of PostgreSQL's catalogue (pg_type.dat); fixed numbers of its protocol.
constexpr Oid kBool = 16, kBytea = 17, kInt8 = 20, kInt2 = 21, kInt4 = 23, kTextType = 25, kFloat4 = 700,
              kFloat8 = 701;
constexpr size_t kKeptPostgresStatements = 256;

struct ResultCloser {
  void operator()(PGresult* result) const { PQclear(result); }
};
using PgResult = std::unique_ptr<PGresult, ResultCloser>;

std::string OneLine(const char* text) {
  std::string out = text == nullptr ? "" : text;
  while (!out.empty() && (out.back() == '\n' || out.back() == ' ')) out.pop_back();
  for (char& c : out) {
    if (c == '\n') c = ' ';
  }
  return out;
}

class PostgresConnection final : public Connection {
 public:
  PostgresConnection(std::string settings, double connect_timeout_s, double query_timeout_s)
      : settings_(std::move(settings)),
        connect_timeout_s_(connect_timeout_s),
        query_timeout_(static_cast<int64_t>(query_timeout_s * 1000)) {}
  ~PostgresConnection() override { PQfinish(handle_); }
  PostgresConnection(const PostgresConnection&) = delete;
  PostgresConnection& operator=(const PostgresConnection&) = delete;

  bool Connected() const override {
    return handle_ != nullptr && PQstatus(handle_) == CONNECTION_OK && !ended_;
  }

  Status Ensure() override {
    if (Connected()) return {};
    ended_ = silent_ = false;
    limited_ = true;
    PQfinish(handle_);
    prepared_.clear();
    const std::string timeout = fmt::format("{:.0f}", std::max(2.0, connect_timeout_s_));
    // client_encoding: text is UTF-8 whatever the environment says. What stands before the connection string
    // gives way to it: a host that vanished is noticed while the connection idles.
    const char* names[] = {"keepalives_idle", "keepalives_interval", "keepalives_count", "dbname",
                           "connect_timeout", "client_encoding",     "application_name", nullptr};
    const char* values[] = {"15", "5", "3", settings_.c_str(), timeout.c_str(), "UTF8", "tidepool", nullptr};
    handle_ = PQconnectdbParams(names, values, /*expand_dbname=*/1);
    if (PQstatus(handle_) != CONNECTION_OK) return Lost();
    PQsetNoticeProcessor(handle_, [](void*, const char*) {}, nullptr);
    PQsetnonblocking(handle_, 1);
    return Run(
        fmt::format("SET synchronous_commit = on; SET standard_conforming_strings = on; SET bytea_output = "
                    "'hex'; SET statement_timeout = {}",
                    query_timeout_.count()));
  }

  Status TakeTime() override {
    limited_ = false;
    return Run("SET LOCAL statement_timeout = 0");
  }

  Result<Rows> Query(std::string_view sql, const std::vector<Value>& values) override {
    TP_ASSIGN(const PgResult result, Ask(sql, values));
    const int count = PQntuples(result.get());
    if (static_cast<size_t>(count) > kMaxRows) {
      return Fail(ErrorKind::kTooLarge, "store_too_many_rows", fmt::format("more than {} rows", kMaxRows));
    }
    Rows rows;
    rows.reserve(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) rows.push_back(RowOf(result.get(), i));
    return rows;
  }

  Status Each(std::string_view sql, const std::vector<Value>& values,
              const std::function<bool(const Row&)>& take) override {
    // The rows are taken one by one, however many: what is bounded is the wait for the next one.
    TP_TRY(Run("SET LOCAL statement_timeout = 0"));
    TP_ASSIGN(const std::string name, Prepared(sql, values));
    const Bound bound(values);
    if (PQsendQueryPrepared(handle_, name.c_str(), bound.count(), bound.values.data(), bound.lengths.data(),
                            bound.formats.data(), 0) == 0) {
      return Lost();
    }
    PQsetSingleRowMode(handle_);
    Status status;
    bool taking = true;
    while (true) {
      if (!Await()) return Lost();
      const PgResult result(PQgetResult(handle_));
      if (result == nullptr) break;
      const ExecStatusType kind = PQresultStatus(result.get());
      if (kind == PGRES_SINGLE_TUPLE) {
        if (taking && !take(RowOf(result.get(), 0))) {
          taking = false;
          Cancel();
        }
      } else if (kind != PGRES_TUPLES_OK && kind != PGRES_COMMAND_OK && taking && status) {
        status = ErrorOf(result.get());
      }
    }
    // A statement that was cut off leaves the transaction failed; only reads do that, and they end anyway.
    return status;
  }

  Result<int64_t> Execute(std::string_view sql, const std::vector<Value>& values) override {
    TP_ASSIGN(const PgResult result, Ask(sql, values));
    const char* text = PQcmdTuples(result.get());
    int64_t count = 0;
    std::from_chars(text, text + std::char_traits<char>::length(text), count);
    return count;
  }

  Status Run(const std::string& statements) override {
    const PgResult result = ResultOf(PQsendQuery(handle_, statements.c_str()));
    const ExecStatusType kind = PQresultStatus(result.get());
    if (kind != PGRES_COMMAND_OK && kind != PGRES_TUPLES_OK) return ErrorOf(result.get());
    return {};
  }

  Status Begin(bool write) override {
    limited_ = true;
    return Run(write ? "BEGIN" : "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY");
  }
  bool InTransaction() const override {
    const PGTransactionStatusType status = PQtransactionStatus(handle_);
    if (ended_) return false;
    return status == PQTRANS_INTRANS || status == PQTRANS_INERROR;
  }

  Status Backup(const std::filesystem::path&) override {
    return Fail(ErrorKind::kInvalid, "backup_not_here",
                "The store is PostgreSQL: back it up with its own tools (pg_dump, or base backups with WAL "
                "archiving), and the key file beside it.");
  }

  std::string Describe() const override {
    const auto text = [](const char* value) { return std::string(value == nullptr ? "" : value); };
    return fmt::format("PostgreSQL {}, {}@{}:{}/{}", PQserverVersion(handle_) / 10000, text(PQuser(handle_)),
                       text(PQhost(handle_)), text(PQport(handle_)), text(PQdb(handle_)));
  }

 private:
  struct Bound {
    explicit Bound(const std::vector<Value>& given) {
      for (const Value& value : given) {
        if (const int64_t* number = value.integer()) {
          texts.push_back(fmt::to_string(*number));
        } else if (const double* real = value.number()) {
          texts.push_back(fmt::format("{}", *real));
        } else if (const std::string* text = value.text()) {
          texts.push_back(*text);
        } else if (const Blob* blob = value.blob()) {
          texts.push_back(blob->bytes);
        } else {
          texts.emplace_back();
        }
      }
      for (size_t i = 0; i < given.size(); ++i) {
        values.push_back(given[i].is_null() ? nullptr : texts[i].c_str());
        lengths.push_back(static_cast<int>(texts[i].size()));
        formats.push_back(given[i].blob() != nullptr ? 1 : 0);
      }
    }
    int count() const { return static_cast<int>(values.size()); }
    std::vector<std::string> texts;
    std::vector<const char*> values;
    std::vector<int> lengths, formats;
  };

  // Until a result can be taken without waiting. False: the server said nothing for too long, where libpq
  // would wait for ever (a machine that was cut off, a stopped process); the connection is given up.
  bool Await() {
    using SteadyClock = std::chrono::steady_clock;
    // The server itself ends a statement at query_timeout_: a second later it is the server that is gone.
    const auto due = SteadyClock::now() + query_timeout_ + std::chrono::seconds(1);
    while (true) {
      if (PQstatus(handle_) != CONNECTION_OK) return true;  // the result says why
      const int unsent = PQflush(handle_);
      if (unsent < 0) return true;
      if (unsent == 0 && PQisBusy(handle_) == 0) return true;
      const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(due - SteadyClock::now());
      pollfd socket{PQsocket(handle_), static_cast<short>(POLLIN | (unsent > 0 ? POLLOUT : 0)), 0};
      const int ready =
          ::poll(&socket, 1, limited_ ? static_cast<int>(std::max<int64_t>(0, left.count())) : -1);
      if (ready < 0 && errno == EINTR) continue;
      if (ready <= 0) {
        ended_ = silent_ = true;
        return false;
      }
      if ((socket.revents & ~POLLOUT) != 0 && PQconsumeInput(handle_) == 0) return true;
    }
  }

  // Of what was sent: the last result or the first error, as PQexec has it. nullptr: ErrorOf(nullptr) says
  // why.
  PgResult ResultOf(int sent) {
    PgResult last;
    while (sent != 0) {
      if (!Await()) return nullptr;
      PgResult next(PQgetResult(handle_));
      if (next == nullptr) break;
      if (last == nullptr || PQresultStatus(last.get()) != PGRES_FATAL_ERROR) last = std::move(next);
    }
    return last;
  }

  void Cancel() {
    PGcancel* cancel = PQgetCancel(handle_);
    char buffer[256];
    if (cancel != nullptr) PQcancel(cancel, buffer, sizeof buffer);
    PQfreeCancel(cancel);
  }

  tl::unexpected<Error> Lost() const {
    if (silent_) {
      return Fail(Error{ErrorKind::kUnavailable, "store_unavailable",
                        fmt::format("PostgreSQL said nothing for {} ms (store.query_timeout_s). It is tried "
                                    "again by the next request.",
                                    query_timeout_.count()),
                        "", 5});
    }
    return Fail(Error{ErrorKind::kUnavailable, "store_unavailable",
                      fmt::format("PostgreSQL cannot be reached: {}. It is tried again by the next request.",
                                  OneLine(handle_ == nullptr ? "out of memory" : PQerrorMessage(handle_))),
                      "", 5});
  }

  tl::unexpected<Error> ErrorOf(const PGresult* result) const {
    if (!Connected()) return Lost();
    const char* field = result == nullptr ? nullptr : PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const std::string state = field == nullptr ? "" : field;
    if (state.empty()) return Lost();  // it did not come from the server
    // The server's farewell (shutdown, crash, terminated): libpq notices the end with the next call only.
    if (state.starts_with("57P")) ended_ = true;
    const std::string message =
        OneLine(result == nullptr ? PQerrorMessage(handle_) : PQresultErrorMessage(result));
    if (state.starts_with("23")) return Fail(ErrorKind::kConflict, "store_conflict", message);
    if (state == "53100") {
      return Fail(Error{ErrorKind::kUnavailable, "store_full",
                        fmt::format("The store (PostgreSQL) has no room left: {}", message), "", 30});
    }
    // Connections, resources, shutdown, crash, read only (a standby), serialisation and deadlock.
    if (state.starts_with("08") || state.starts_with("53") || state.starts_with("57") ||
        state.starts_with("58") || state == "25006" || state.starts_with("40")) {
      return Fail(
          Error{ErrorKind::kUnavailable, "store_unavailable", fmt::format("PostgreSQL: {}", message), "", 5});
    }
    if (state.starts_with("XX")) return Fail(ErrorKind::kCorrupt, "store_corrupt", message);
    return Fail(ErrorKind::kInternal, "store_error", fmt::format("PostgreSQL: {} ({})", message, state));
  }

  Result<std::string> Prepared(std::string_view sql, const std::vector<Value>& values) {
    TP_TRY(CheckValues(values));
    std::vector<Oid> types;
    std::string id(sql);
    for (const Value& value : values) {
      types.push_back(value.integer() != nullptr  ? kInt8
                      : value.number() != nullptr ? kFloat8
                      : value.blob() != nullptr   ? kBytea
                      : value.text() != nullptr   ? kTextType
                                                  : 0);
      id += fmt::format("\n{}", types.back());
    }
    const auto found = prepared_.find(id);
    if (found != prepared_.end()) return found->second;
    if (prepared_.size() >= kKeptPostgresStatements) {
      TP_TRY(Run("DEALLOCATE ALL"));
      prepared_.clear();
    }
    const std::string name = fmt::format("s{}", ++last_statement_);
    const PgResult result = ResultOf(PQsendPrepare(handle_, name.c_str(), std::string(sql).c_str(),
                                                   static_cast<int>(types.size()), types.data()));
    if (PQresultStatus(result.get()) != PGRES_COMMAND_OK) return ErrorOf(result.get());
    prepared_.emplace(std::move(id), name);
    return name;
  }

  Result<PgResult> Ask(std::string_view sql, const std::vector<Value>& values) {
    TP_ASSIGN(const std::string name, Prepared(sql, values));
    const Bound bound(values);
    PgResult result = ResultOf(PQsendQueryPrepared(handle_, name.c_str(), bound.count(), bound.values.data(),
                                                   bound.lengths.data(), bound.formats.data(), 0));
    const ExecStatusType kind = PQresultStatus(result.get());
    if (kind != PGRES_COMMAND_OK && kind != PGRES_TUPLES_OK) return ErrorOf(result.get());
    return result;
  }

  static Row RowOf(PGresult* result, int row) {
    const int columns = PQnfields(result);
    std::vector<Value> values;
    values.reserve(static_cast<size_t>(columns));
    for (int i = 0; i < columns; ++i) {
      if (PQgetisnull(result, row, i) != 0) {
        values.emplace_back();
        continue;
      }
      const char* text = PQgetvalue(result, row, i);
      const auto size = static_cast<size_t>(PQgetlength(result, row, i));
      switch (PQftype(result, i)) {
        case kInt2:
        case kInt4:
        case kInt8: values.emplace_back(int64_t{std::strtoll(text, nullptr, 10)}); break;
        case kBool: values.emplace_back(int64_t{*text == 't'}); break;
        case kFloat4:
        case kFloat8: values.emplace_back(std::strtod(text, nullptr)); break;
        case kBytea: {
          size_t length = 0;
          unsigned char* bytes = PQunescapeBytea(reinterpret_cast<const unsigned char*>(text), &length);
          values.emplace_back(
              Blob{bytes == nullptr ? "" : std::string(reinterpret_cast<char*>(bytes), length)});
          PQfreemem(bytes);
          break;
        }
        default: values.emplace_back(std::string(text, size));
      }
    }
    return Row(std::move(values));
  }

  const std::string settings_;
  const double connect_timeout_s_;
  const std::chrono::milliseconds query_timeout_;
  PGconn* handle_ = nullptr;
  mutable bool ended_ = false;
  bool silent_ = false;                                    // and that is why it ended
  bool limited_ = true;                                    // by query_timeout_, in this transaction
  std::unordered_map<std::string, std::string> prepared_;  // statement and types -> name
  int64_t last_statement_ = 0;
};

}  // namespace

Result<std::unique_ptr<Connection>> OpenPostgresql(const DatabaseOptions& options, bool) {
  auto connection = std::make_unique<PostgresConnection>(options.postgresql, options.connect_timeout_s,
                                                         options.query_timeout_s);
  TP_TRY(connection->Ensure());
  return std::unique_ptr<Connection>(std::move(connection));
}

}  // namespace tidepool::store
