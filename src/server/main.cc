// The binary: `tidepool serve` runs the server, every other command is a client of the API (src/cli).
#include <fmt/format.h>
#include <signal.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "cli/cli.h"
#include "compute/scheduler/trace.h"
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

nlohmann::ordered_json ReplayOf(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  const auto trace = tidepool::compute::ReadTrace(file);
  const auto replay = trace ? tidepool::compute::Replay(*trace)
                            : Result<tidepool::compute::ReplayResult>(tidepool::Fail(trace.error()));
  if (!replay) return {{"code", replay.error().code}, {"message", replay.error().message}};
  nlohmann::ordered_json out = {{"policy", trace->policy},
                                {"records", replay->records},
                                {"decisions", replay->decisions},
                                {"equal", replay->equal}};
  if (!replay->equal) out["difference"] = replay->difference;
  return out;
}

// In a process of its own: events that answer nothing break the scheduler's contract, and a CHECK ends it.
Result<nlohmann::ordered_json> ReplayHook(const std::string& path) {
  using tidepool::ErrorKind;
  using tidepool::Fail;
  int ends[2];
  if (::pipe(ends) != 0) return Fail(ErrorKind::kInternal, "no_pipe", std::strerror(errno));
  const pid_t child = ::fork();
  if (child < 0) return Fail(ErrorKind::kInternal, "no_process", std::strerror(errno));
  if (child == 0) {
    ::close(ends[0]);
    const std::string text = ReplayOf(path).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    const ssize_t written = ::write(ends[1], text.data(), text.size());
    ::_exit(written == static_cast<ssize_t>(text.size()) ? 0 : 1);
  }
  ::close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t got; (got = ::read(ends[0], part, sizeof part)) != 0;) {
    if (got < 0 && errno != EINTR) break;
    if (got > 0) text.append(part, static_cast<size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  auto reply = nlohmann::ordered_json::parse(text, nullptr, false);
  if (status != 0 || !reply.is_object()) {
    return Fail(
        ErrorKind::kCorrupt, "bad_trace",
        fmt::format("{} is not the record of one pool: an event in it is an answer to nothing that was "
                    "asked (see above)",
                    path));
  }
  if (reply.contains("code"))
    return Fail(ErrorKind::kCorrupt, reply["code"].get<std::string>(),
                fmt::format("{}: {}", path, reply["message"].get<std::string>()));
  return reply;
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
  hooks.replay = ReplayHook;
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
