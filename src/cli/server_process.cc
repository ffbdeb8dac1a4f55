#include "cli/server_process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

namespace tidepool::cli {
namespace {

using Clock = std::chrono::steady_clock;

// A first start measures the machine and opens the store; a second of each is much.
constexpr auto kStartLimit = std::chrono::seconds(60);
constexpr double kProbeSeconds = 2;

bool Answers(const std::string& url) {
  if (url.empty()) return false;
  return ApiClient(url, "", nullptr).Probe("/health", kProbeSeconds) == 200;
}

RunningServer ReadServerFile(const ClientSettings& settings) {
  std::ifstream file(settings.home + "/server.json");
  const auto json = Json::parse(file, nullptr, false);
  if (!json.is_object()) return {};
  return {json.value("url", std::string()), json.value("pid", 0)};
}

bool IsLocal(const std::string& url) {
  return url.find("://127.") != url.npos || url.find("://localhost") != url.npos ||
         url.find("://[::1]") != url.npos || url.find("://0.0.0.0") != url.npos;
}

// One start at a time for a home: a second command waits and then finds the server running.
class StartLock {
 public:
  explicit StartLock(const std::string& home)
      : fd_(open((home + "/start.lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600)) {
    if (fd_ >= 0) flock(fd_, LOCK_EX);
  }
  ~StartLock() {
    if (fd_ >= 0) close(fd_);
  }
  StartLock(const StartLock&) = delete;
  StartLock& operator=(const StartLock&) = delete;

 private:
  int fd_;
};

std::string LastLines(const std::string& path, std::streamoff from) {
  std::ifstream file(path);
  file.seekg(from);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  while (text.ends_with('\n')) text.pop_back();
  constexpr size_t kShown = 2000;
  return text.size() > kShown ? text.substr(text.size() - kShown) : text;
}

// A detached child: its own session, standard input and output closed to the terminal. The server prints the
// admin key on standard output at its first start; that goes nowhere, since the file home/admin.key has it.
pid_t Spawn(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t child = fork();
  if (child != 0) return child;
  setsid();
  const int none = open("/dev/null", O_RDWR);
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(none, STDIN_FILENO);
  dup2(none, STDOUT_FILENO);
  dup2(out >= 0 ? out : none, STDERR_FILENO);
  signal(SIGINT, SIG_DFL);
  execv("/proc/self/exe", argv.data());
  _exit(127);
}

Result<RunningServer> WaitReady(pid_t child, const ClientSettings& settings, const std::string& log,
                                std::streamoff log_begin, Terminal& terminal) {
  constexpr std::string_view kFrames[] = {"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧"};
  const auto deadline = Clock::now() + kStartLimit;
  for (size_t frame = 0; Clock::now() < deadline; ++frame) {
    if (Interrupts::Pending()) return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
    terminal.ShowStatus(
        fmt::format("{} starting a server", terminal.unicode() ? kFrames[frame / 2 % 8] : "-"));
    RunningServer server = ReadServerFile(settings);
    if (server.pid == child && ApiClient(server.url, "", nullptr).Probe("/ready", kProbeSeconds) == 200) {
      terminal.ClearStatus();
      return server;
    }
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child) {
      terminal.ClearStatus();
      const std::string said = LastLines(log, log_begin);
      return tidepool::Fail(
          ErrorKind::kUnavailable, "server_failed",
          fmt::format("the server stopped while it started. It said:\n{}\nThe whole log is {}",
                      said.empty() ? "(nothing)" : said, log));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  terminal.ClearStatus();
  return tidepool::Fail(
      ErrorKind::kTimeout, "server_slow",
      fmt::format("the server is not ready after {} s; look into {}", kStartLimit.count(), log));
}

}  // namespace

bool FindServer(const ClientSettings& settings, RunningServer* server) {
  const RunningServer noted = ReadServerFile(settings);
  *server = {settings.url, noted.url == settings.url ? noted.pid : 0};
  if (Answers(settings.url)) return true;
  // A server of this home on another port; an address elsewhere was asked for on purpose.
  if (!IsLocal(settings.url) || noted.pid <= 0 || kill(noted.pid, 0) != 0 || !Answers(noted.url))
    return false;
  *server = noted;
  return true;
}

Result<RunningServer> EnsureServer(const ClientSettings& settings,
                                   const std::vector<std::pair<std::string, std::string>>& overrides,
                                   Terminal& terminal) {
  RunningServer server;
  if (FindServer(settings, &server)) return server;
  if (!IsLocal(settings.url)) {
    return Fail(ErrorKind::kUnavailable, "no_server",
                fmt::format("no server answers at {}, and it is not on this machine, so none is started",
                            settings.url));
  }
  std::error_code problem;
  std::filesystem::create_directories(settings.home + "/logs", problem);
  if (problem) {
    return Fail(ErrorKind::kInvalid, "no_home",
                fmt::format("cannot make the folder {}: {}; set TIDEPOOL_HOME to one that can be written",
                            settings.home, problem.message()));
  }
  const StartLock lock(settings.home);
  if (FindServer(settings, &server)) return server;
  const std::string log = settings.home + "/logs/server.log";
  const auto size = std::filesystem::file_size(log, problem);
  const auto log_begin = problem ? std::streamoff{0} : static_cast<std::streamoff>(size);
  std::vector<std::string> arguments{"tidepool", "serve"};
  for (const auto& [name, value] : overrides) arguments.push_back("--" + name + "=" + value);
  const pid_t child = Spawn(arguments, log);
  if (child < 0)
    return Fail(ErrorKind::kInternal, "fork_failed",
                fmt::format("cannot start a server: {}", std::strerror(errno)));
  TP_ASSIGN(server, WaitReady(child, settings, log, log_begin, terminal));
  fmt::print(stderr, "started a server at {}; stop it with: tidepool stop --server\nits log is {}\n",
             server.url, log);
  return server;
}

Status StopServer(const ClientSettings& settings, Terminal& terminal) {
  const RunningServer server = ReadServerFile(settings);
  if (server.pid <= 1 || kill(server.pid, 0) != 0) {
    return Fail(ErrorKind::kNotFound, "no_server", fmt::format("no server runs for {}", settings.home));
  }
  // The pid may be another program's by now: only a server that answers is told to stop.
  if (!Answers(server.url)) {
    return Fail(ErrorKind::kConflict, "no_answer",
                fmt::format("process {} does not answer at {}; stop it by hand if it is the server",
                            server.pid, server.url));
  }
  if (kill(server.pid, SIGTERM) != 0) {
    return Fail(ErrorKind::kForbidden, "cannot_signal",
                fmt::format("cannot stop process {}: {}", server.pid, std::strerror(errno)));
  }
  const auto deadline = Clock::now() + std::chrono::seconds(120);
  while (kill(server.pid, 0) == 0 && Clock::now() < deadline) {
    waitpid(server.pid, nullptr, WNOHANG);
    if (Interrupts::Pending()) return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
    terminal.ShowStatus("running answers may end");
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  terminal.ClearStatus();
  if (kill(server.pid, 0) == 0) {
    return Fail(ErrorKind::kTimeout, "still_running",
                fmt::format("process {} has not ended after 120 s", server.pid));
  }
  return {};
}

}  // namespace tidepool::cli
