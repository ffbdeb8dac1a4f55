// A PostgreSQL of the test's own: Debian's package, a fresh cluster in a temporary folder, a Unix socket
// only. Run as root it becomes the user "postgres" or "nobody", since the server refuses root.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <memory>
#include <string>

#include "base/result.h"
#include "platform/store/database.h"

namespace tidepool::store {

class PostgresqlServer {
 public:
  // kNotFound when the package is not installed.
  static Result<std::unique_ptr<PostgresqlServer>> Start();
  ~PostgresqlServer();
  PostgresqlServer(const PostgresqlServer&) = delete;
  PostgresqlServer& operator=(const PostgresqlServer&) = delete;

  // A new, empty database: its connection string.
  Result<std::string> MakeDatabase();
  // As in a crash (immediate shutdown), and up again with what was committed.
  Status Stop();
  Status StartAgain();
  // All its processes stop where they are (or go on): connections stay, and nothing is answered.
  void Freeze(bool frozen) const;

 private:
  PostgresqlServer() = default;
  Status Run(const std::string& command) const;

  std::filesystem::path folder_, programs_;
  uid_t user_ = 0;
  gid_t group_ = 0;
  bool running_ = false;
  int databases_ = 0;
};

// The connection string of a new database, of a server that the tests of this process share; "" for SQLite,
// which needs none.
Result<std::string> SharedTestDatabase(Backend backend);

}  // namespace tidepool::store
