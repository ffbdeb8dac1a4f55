// What a backend implements. Threads: one at a time.
#pragma once

#include <memory>

#include "platform/store/database.h"

namespace tidepool::store {

class Connection : public Session {
 public:
  void AfterCommit(std::function<void()> then) override { after_commit.push_back(std::move(then)); }
  std::vector<std::function<void()>> after_commit;  // of the work that runs; its owner takes them

  // "BEGIN", "COMMIT", SAVEPOINTs and migrations: fixed text, several statements.
  virtual Status Run(const std::string& statements) = 0;
  virtual Status Begin(bool write) = 0;
  // False after an error that ended the whole transaction, or lost the connection.
  virtual bool InTransaction() const = 0;
  // Connected, or connects again; kUnavailable if it cannot be.
  virtual Status Ensure() = 0;
  // As far as is known without asking.
  virtual bool Connected() const = 0;
  // What follows in this transaction may take as long as it needs (migrations).
  virtual Status TakeTime() = 0;
  virtual Status Backup(const std::filesystem::path& file) = 0;
  virtual std::string Describe() const = 0;
};

Result<std::unique_ptr<Connection>> OpenSqlite(const DatabaseOptions& options, bool write);
Result<std::unique_ptr<Connection>> OpenPostgresql(const DatabaseOptions& options, bool write);

// kInvalid "bad_text" if a text value is not UTF-8 or holds a NUL.
Status CheckValues(const std::vector<Value>& values);

}  // namespace tidepool::store
