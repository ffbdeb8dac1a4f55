// What happened: an append-only log, each row chained to the one before it by an HMAC under the key file.
//
// A change and its row are one transaction: call Append inside the same Database::Write as the change. The
// head (number and HMAC of the last row) is also kept in $TIDEPOOL_HOME/audit.head, so that a tail that was
// cut off shows: it is written, and synced, after the commit and before the change is answered. So a crash or
// a loss of power may leave it behind the store, by the rows of the last commit, none of which had been
// answered, and never before it: Verify reports such rows (`after_head`) and calls the log good, and the next
// row's head names them again. A head that is before the store is a tail that was cut off.
//
// The MAC of row n covers the MAC of row n-1 and every column, each with its length before it.
#pragma once

#include <filesystem>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/key_file.h"
#include "platform/accounts/principal.h"
#include "platform/store/database.h"

namespace tidepool::platform {

// Who did it, from where.
struct AuditActor {
  std::string organisation, workspace;  // that it concerns; empty: the installation
  std::string member, key;  // as in Principal; "machine" for the command line on the server itself
  std::string address;      // of the peer; empty: the machine itself
  std::string request_id;
};
AuditActor ActorOf(const Principal& principal, std::string address, std::string request_id);
// The command line or the server itself.
AuditActor MachineActor();

struct AuditRow {
  int64_t number = 0, time_ms = 0;
  AuditActor actor;
  std::string action, object;
  std::string before, after;  // JSON; "null" for none
  std::string mac;            // 32 bytes
};

struct AuditVerdict {
  bool good = true;
  int64_t rows = 0;        // that were read
  int64_t number = 0;      // of the first bad row
  std::string problem;     // "row 7 was changed", "rows after 12 were cut off"
  int64_t after_head = 0;  // rows newer than the head outside the database
};

class Audit {
 public:
  // All arguments outlive it; the database is migrated. When the store does not fit the head outside it, the
  // head is left as it is, as evidence, and every Verify says so until ResetHead.
  Audit(store::Database& database, const KeyFile& keys, const WallClock& clock, std::filesystem::path home);

  // `action` is "key.created", "price.changed", ...; `object` names what was changed; before and after are
  // JSON values (null for none) without secrets. On the store's writer thread, within the change's Write.
  Status Append(store::Session& session, const AuditActor& actor, std::string_view action,
                std::string_view object, const nlohmann::ordered_json& before,
                const nlohmann::ordered_json& after);
  // On its own, for what changes no row: sign-ins, exports. Waits for the commit.
  Status Record(const AuditActor& actor, std::string_view action, std::string_view object,
                const nlohmann::ordered_json& before, const nlohmann::ordered_json& after);
  // The same without waiting; a failure is logged.
  void RecordLater(const AuditActor& actor, std::string_view action, std::string_view object,
                   const nlohmann::ordered_json& before, const nlohmann::ordered_json& after);

  // Newest first, before row `before_number` (0: from the end). `organisation` empty: of all.
  Result<std::vector<AuditRow>> List(std::string_view organisation, int64_t before_number,
                                     int64_t limit) const;
  // Walks the whole log.
  Result<AuditVerdict> Verify() const;
  // The head becomes what the store has: after a restore only.
  Status ResetHead();

 private:
  std::string MacOf(const AuditRow& row, std::string_view previous) const;
  struct Head {
    int64_t number = 0;
    std::string mac;
  };
  Result<std::optional<Head>> ReadHead() const;
  void CheckHead();
  void WriteHead(int64_t number, const std::string& mac);

  store::Database& database_;
  const KeyFile& keys_;
  const WallClock& clock_;
  const std::filesystem::path head_path_;
  std::mutex head_mutex_;
  int64_t head_number_ = 0;
  bool head_kept_ = false;  // as evidence
};

}  // namespace tidepool::platform
