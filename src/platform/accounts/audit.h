// What happened: an append-only log, each row chained to the one before it by an HMAC under the key file.
//
// A change and its row are one transaction: call Append inside the same Database::Write as the change. The
// head (number and HMAC of the last row) is also kept in a file beside the key file, so that a tail that was
// cut off shows.
#pragma once

#include <string>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
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

class Audit {
 public:
  virtual ~Audit() = default;
  // `action` is "key.created", "price.changed", ...; `object` names what was changed; before and after are
  // JSON values (null for none) without secrets. On the store's writer thread, within the change's Write.
  virtual Status Append(store::Session& session, const AuditActor& actor, std::string_view action,
                        std::string_view object, const nlohmann::ordered_json& before,
                        const nlohmann::ordered_json& after) = 0;
  // On its own, for what changes no row: sign-ins, exports. Waits for the commit.
  virtual Status Record(const AuditActor& actor, std::string_view action, std::string_view object,
                        const nlohmann::ordered_json& before, const nlohmann::ordered_json& after) = 0;
};

}  // namespace tidepool::platform
