// The binary: `tidepool serve` runs the server, every other command is a client of the API (src/cli).
#include <fmt/format.h>

#include <cstdio>
#include <string>
#include <vector>

#include "server/server.h"
#include "server/settings.h"

namespace {

using tidepool::Result;
using tidepool::server::ResolveSettings;
using tidepool::server::Settings;
using tidepool::server::SettingsInput;

SettingsInput InputFor(std::vector<std::string> flags) {
  SettingsInput input;
  input.environment = tidepool::server::ProcessEnvironment();
  for (const auto& [name, value] : input.environment) {
    if (name == "TIDEPOOL_CONFIG") input.config_file = value;
  }
  for (size_t i = 0; i < flags.size();) {
    if (flags[i].rfind("--config=", 0) == 0) {
      input.config_file = flags[i].substr(9);
      flags.erase(flags.begin() + static_cast<long>(i));
    } else if (flags[i] == "--config" && i + 1 < flags.size()) {
      input.config_file = flags[i + 1];
      flags.erase(flags.begin() + static_cast<long>(i), flags.begin() + static_cast<long>(i) + 2);
    } else {
      ++i;
    }
  }
  input.flags = std::move(flags);
  return input;
}

int Serve(const std::vector<std::string>& flags) {
  const Result<Settings> settings = ResolveSettings(InputFor(flags));
  if (!settings) {
    fmt::print(stderr, "tidepool: {}\n", settings.error().message);
    return 2;
  }
  return tidepool::server::Serve(*settings);
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> arguments(argv + 1, argv + argc);
  if (!arguments.empty() && arguments[0] == "serve") {
    return Serve({arguments.begin() + 1, arguments.end()});
  }
  if (arguments == std::vector<std::string>{"settings", "--reference"}) {
    fmt::print("{}", tidepool::server::SettingsReference());
    return 0;
  }
  fmt::print(stderr, "usage: tidepool serve [--listen ADDRESS:PORT] ...\n");
  return 2;
}
