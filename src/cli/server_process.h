// Finds the server, and starts one when none runs.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/api_client.h"
#include "cli/cli.h"
#include "cli/terminal.h"

namespace tidepool::cli {

struct RunningServer {
  std::string url;
  int pid = 0;  // 0 when not known
};

// The server that wrote home/server.json, if it answers; else the one at the settings' address, if that
// answers.
bool FindServer(const ClientSettings& settings, RunningServer* server);

// Makes sure that a server is ready; starts `serve` of this very program in the background when none answers
// and the address is on this machine. Says so on standard error. `overrides` are given to it as flags.
Result<RunningServer> EnsureServer(const ClientSettings& settings,
                                   const std::vector<std::pair<std::string, std::string>>& overrides,
                                   Terminal& terminal);

// SIGTERM to the server of this home and waits until it has gone.
Status StopServer(const ClientSettings& settings, Terminal& terminal);

}  // namespace tidepool::cli
