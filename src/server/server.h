// The composition root: the only place that knows every floor. Wires them, runs until a signal, takes them
// down.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "server/settings.h"

namespace tidepool::server {

inline constexpr const char* kVersion = "0.1.0";
// Short hash of the commit the build was configured at; empty outside a git checkout.
extern const char* const kCommit;

// Serves until SIGTERM or SIGINT (drains, bounded by http.drain_timeout_s; a second signal stops at once).
// Returns the process' exit code.
int Serve(const Settings& settings);

// `tidepool restore`: takes the home's lock, so that no server runs meanwhile. Says what was done.
Result<std::string> Restore(const Settings& settings, const std::string& file, const std::string& passphrase);

}  // namespace tidepool::server
