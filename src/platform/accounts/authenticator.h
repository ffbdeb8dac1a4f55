// From what a request carries to who is calling. Any thread, never blocks: the answer comes from memory.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/result.h"
#include "platform/accounts/principal.h"

namespace tidepool::platform {

struct Credentials {
  std::string_view key = {};        // of "Authorization: Bearer"; empty: none
  std::string_view session = {};    // of the cookie; empty: none. A key goes first
  std::string_view csrf = {};       // of the header Tidepool-CSRF
  std::string_view workspace = {};  // of the header Tidepool-Workspace (a session's choice); empty: its first
  bool writes = false;              // the method changes something: a session needs its CSRF token
  std::string_view address = {};    // the client's
};

class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // kUnauthenticated "missing_api_key", "invalid_api_key", "key_expired", "key_revoked", "invalid_session";
  // kForbidden "address_not_allowed", "csrf_token_missing", "workspace_not_yours", "organisation_suspended".
  virtual Result<Principal> Authenticate(const Credentials& credentials) const = 0;
  // May what this caller started go on? False once its key is revoked or expired, its session or membership
  // has ended, or its role is less than it was.
  virtual bool StillValid(const Principal& /*principal*/) const { return true; }
};

}  // namespace tidepool::platform
