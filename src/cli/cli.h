// The command line: every command but `serve` is a client of the HTTP API.
//
// Knows nothing of the server's code: main() hands in what it needs as functions. Exit codes: 0 done, 1 an
// error, 2 wrong usage, 130 interrupted. One thread; signals are handled while a command runs.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace tidepool::cli {

struct ClientSettings {
  std::string home;            // where the server keeps its state: admin.key, logs/, history
  std::string url;             // "http://127.0.0.1:8433", from the listen address
  std::string key;             // from --key or TIDEPOOL_API_KEY; may be empty
  std::string admin_key_path;  // home/admin.key
};

struct Hooks {
  // `tidepool serve ARGS...`: serves until stopped, returns the exit code.
  std::function<int(const std::vector<std::string>& arguments)> serve;
  // The settings a client needs: the defaults, file and variables of the server, with `overrides` (setting
  // name, value; e.g. {"listen", "127.0.0.1:9000"}) on top.
  std::function<Result<ClientSettings>(const std::vector<std::pair<std::string, std::string>>& overrides)>
      client_settings;
  std::string version;
  // The settings' help, for `tidepool serve --help`.
  std::function<std::string()> settings_help;
  // The reference page of the settings, for `tidepool settings --reference`. May be empty.
  std::function<std::string()> settings_reference;
  // `tidepool sim` and `tidepool plan`: what POST /api/v1/simulate and /plan do, in this process, so that no
  // server is needed. `progress` gets the share done and what runs; false stops.
  using Progress = std::function<bool(double share, const std::string& what)>;
  using Study = std::function<Result<nlohmann::ordered_json>(const nlohmann::ordered_json& request, int jobs,
                                                             const Progress& progress)>;
  Study simulate, plan;
  // `tidepool sim --replay FILE`: a trace of decisions through a fresh scheduler. {"policy", "records",
  // "decisions", "equal", "difference"}.
  std::function<Result<nlohmann::ordered_json>(const std::string& path)> replay;
  // What works on the home's files while no server runs (restore) or beside one (reset_password): the first
  // says what it did, the second gives the link's path ("/setup#...").
  std::function<Result<std::string>(const std::string& home, const std::string& file,
                                    const std::string& passphrase)>
      restore;
  std::function<Result<std::string>(const std::string& home, const std::string& email)> reset_password;
};

int Main(int argc, char** argv, const Hooks& hooks);

}  // namespace tidepool::cli
