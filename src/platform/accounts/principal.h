// Who is calling: what the gateway learns from a key or a session, and what every floor below it sees.
//
// organisation -> workspaces -> members and keys. The operator runs the installation and stands above all.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::platform {

// The organisation and the workspace that exist from the first start.
inline constexpr std::string_view kDefaultId = "default";

// What somebody may do, each including those before it. A workspace's admin is admin within that workspace;
// an organisation's members with kAdmin or kOwner are so in each of its workspaces.
enum class Role : uint8_t {
  kNone,
  kViewer,          // sees models and the workspace's usage, generates nothing
  kDeveloper,       // uses models, has personal keys
  kWorkspaceAdmin,  // keys, members and limits of one workspace
  kAdmin,           // the same for the organisation, its workspaces and members
  kOwner,           // and its admins, owners and money
  kOperator,        // the installation: models, pool, prices, organisations, settings
};
std::string_view RoleName(
    Role role);  // "viewer", "developer", "workspace_admin", "admin", "owner", "operator"

struct Principal {
  // All ids are opaque: "org-...", "ws-...", "usr-...", "key-..."; kDefaultId for the first two at first
  // start.
  std::string organisation{kDefaultId};
  std::string workspace{kDefaultId};  // also the scope of prefix reuse
  std::string member;                 // the person's id; empty for a service key
  std::string key;                    // id; "console" for a session, "open" on an open server
  std::string key_id;                 // short public prefix of the key ("tp-Ab3dEf"), for logs and people
  std::string session;                // id; empty for a key
  Role role = Role::kNone;            // in this workspace
  bool is_operator = false;           // role == kOperator

  bool limited = false;  // by networks or an expiry, which were checked already
  // A key's scope; empty lists allow everything.
  std::vector<std::string> models;     // ids, or prefixes that end in '*'
  std::vector<std::string> endpoints;  // patterns of the route table: "/v1/chat/completions", "/v1/*"

  // For fair share: the path "organisation/workspace/key" and the weight at each of its levels.
  std::string account = "default/default/open";
  std::vector<double> account_weights = {1, 1, 1};

  // May this caller use that model (its stored id)?
  bool MayUseModel(std::string_view model) const;
};

// `pattern` is a whole name, or a prefix followed by '*'.
bool MatchesPattern(std::string_view pattern, std::string_view name);

}  // namespace tidepool::platform
