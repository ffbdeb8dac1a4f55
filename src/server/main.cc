// The binary: `tidepool serve` runs the server, every other command is a client of the API (src/cli).
#include <fmt/format.h>
#include <signal.h>
#include <sys/types.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/cli.h"
#include "compute/simulator/planner.h"
#include "server/accounts_store.h"
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

// Where a running server says it is (it may have chosen its port), else where the settings would put it.
std::string ServerUrl(const Settings& settings) {
  std::ifstream file(settings.home / "server.json");
  const auto running = nlohmann::json::parse(file, nullptr, false);
  if (running.is_object() && running.value("url", "") != "" && running.contains("pid") &&
      running["pid"].is_number_integer() && ::kill(running["pid"].get<pid_t>(), 0) == 0) {
    return running["url"].get<std::string>();
  }
  std::string listen = settings.listen;
  if (listen.rfind("0.0.0.0:", 0) == 0) listen.replace(0, 7, "127.0.0.1");
  return (settings.http.tls_certificate.empty() ? "http://" : "https://") + listen;
}

Result<tidepool::cli::ClientSettings> MakeClientSettings(
    const std::vector<std::pair<std::string, std::string>>& overrides) {
  std::vector<std::string> flags;
  for (const auto& [name, value] : overrides) flags.push_back("--" + name + "=" + value);
  TP_ASSIGN(const Settings settings, ResolveSettings(InputFor(flags)));
  tidepool::cli::ClientSettings client;
  client.home = settings.home.string();
  client.url = ServerUrl(settings);
  client.admin_key_path = (settings.home / "admin.key").string();
  if (const char* key = std::getenv("TIDEPOOL_API_KEY"); key != nullptr) client.key = key;
  if (const char* url = std::getenv("TIDEPOOL_URL"); url != nullptr && *url != 0) client.url = url;
  return client;
}

tidepool::cli::Hooks::Study StudyHook(decltype(tidepool::compute::SimulateStudy)* study) {
  return [study](const nlohmann::ordered_json& request, int jobs,
                 const tidepool::cli::Hooks::Progress& progress) {
    tidepool::compute::StudyLimits limits;
    limits.threads = jobs < 1 ? 1 : jobs > 256 ? 256 : jobs;
    return study(request, limits, progress);
  };
}

}  // namespace

int main(int argc, char** argv) {
  tidepool::cli::Hooks hooks;
  hooks.serve = Serve;
  hooks.client_settings = MakeClientSettings;
  hooks.version = tidepool::server::kVersion;
  hooks.settings_help = tidepool::server::SettingsHelp;
  hooks.settings_reference = tidepool::server::SettingsReference;
  hooks.simulate = StudyHook(&tidepool::compute::SimulateStudy);
  hooks.plan = StudyHook(&tidepool::compute::PlanStudy);
  hooks.restore = [](const std::string& home, const std::string& file,
                     const std::string& passphrase) -> Result<std::string> {
    TP_ASSIGN(const Settings settings, ResolveSettings(InputFor({"--home=" + home})));
    return tidepool::server::Restore(settings, file, passphrase);
  };
  hooks.reset_password = [](const std::string& home, const std::string& email) -> Result<std::string> {
    TP_ASSIGN(const Settings settings, ResolveSettings(InputFor({"--home=" + home})));
    TP_ASSIGN(const auto link, tidepool::server::MakeResetLink(settings, email));
    return "/setup#" + link.token;
  };
  return tidepool::cli::Main(argc, argv, hooks);
}
