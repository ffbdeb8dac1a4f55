#include "platform/store/testing/postgresql_server.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <system_error>
#include <vector>

namespace tidepool::store {
namespace {

std::filesystem::path FindPrograms() {
  std::vector<std::filesystem::path> found;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator("/usr/lib/postgresql", ignored)) {
    if (std::filesystem::exists(entry.path() / "bin" / "initdb")) found.push_back(entry.path() / "bin");
  }
  std::sort(found.begin(), found.end());
  return found.empty() ? std::filesystem::path() : found.back();
}

}  // namespace

Status PostgresqlServer::Run(const std::string& command) const {
  const pid_t child = ::fork();
  if (child < 0) return Fail(ErrorKind::kInternal, "fork", "cannot fork");
  if (child == 0) {
    if (user_ != 0 && (::setgroups(0, nullptr) != 0 || ::setgid(group_) != 0 || ::setuid(user_) != 0))
      ::_exit(126);
    if (::chdir(folder_.c_str()) != 0) ::_exit(125);
    const int log = ::open((folder_ / "log").c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ::dup2(log, 1);
    ::dup2(log, 2);
    ::execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
    ::_exit(127);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return {};
  std::ifstream log(folder_ / "log");
  std::stringstream text;
  text << log.rdbuf();
  return Fail(ErrorKind::kInternal, "postgresql",
              fmt::format("{}: status {}: {}", command, status, text.str()));
}

Result<std::unique_ptr<PostgresqlServer>> PostgresqlServer::Start() {
  std::unique_ptr<PostgresqlServer> server(new PostgresqlServer);
  server->programs_ = FindPrograms();
  if (server->programs_.empty()) {
    return Fail(ErrorKind::kNotFound, "postgresql",
                "install Debian's package postgresql (scripts/setup --tests)");
  }
  // Short: the path of a Unix socket has at most 107 characters.
  std::string folder = "/tmp/tidepool-pg-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return Fail(ErrorKind::kInternal, "mkdtemp", folder);
  server->folder_ = folder;
  if (::geteuid() == 0) {
    const passwd* user = ::getpwnam("postgres");
    if (user == nullptr) user = ::getpwnam("nobody");
    if (user == nullptr) return Fail(ErrorKind::kNotFound, "postgresql", "no user to run PostgreSQL as");
    server->user_ = user->pw_uid;
    server->group_ = user->pw_gid;
    if (::chown(folder.c_str(), server->user_, server->group_) != 0)
      return Fail(ErrorKind::kInternal, "chown", folder);
  }
  TP_TRY(server->Run(
      fmt::format("{}/initdb -D data -U tidepool --auth=trust --no-sync --encoding=UTF8 --locale=C",
                  server->programs_.string())));
  TP_TRY(server->StartAgain());
  return server;
}

PostgresqlServer::~PostgresqlServer() {
  if (running_) (void)Stop();
  if (!folder_.empty()) {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
}

Result<std::string> PostgresqlServer::MakeDatabase() {
  const std::string name = fmt::format("test{}", ++databases_);
  TP_TRY(Run(fmt::format("{}/createdb -h {} -U tidepool {}", programs_.string(), folder_.string(), name)));
  return fmt::format("host={} user=tidepool dbname={}", folder_.string(), name);
}

Result<std::string> SharedTestDatabase(Backend backend) {
  if (backend == Backend::kSqlite) return std::string();
  static auto server = PostgresqlServer::Start();
  if (!server) return Fail(server.error());
  return (*server)->MakeDatabase();
}

Status PostgresqlServer::Stop() {
  running_ = false;
  return Run(fmt::format("{}/pg_ctl -D data -m immediate -w stop", programs_.string()));
}

void PostgresqlServer::Freeze(bool frozen) const {
  std::ifstream file(folder_ / "data" / "postmaster.pid");
  pid_t postmaster = 0;
  file >> postmaster;
  if (postmaster <= 1) return;
  const int signal = frozen ? SIGSTOP : SIGCONT;
  // The postmaster first, so that it starts no more of them.
  ::kill(postmaster, signal);
  std::ifstream tasks(fmt::format("/proc/{0}/task/{0}/children", postmaster));
  for (pid_t child = 0; tasks >> child;) ::kill(child, signal);
}

Status PostgresqlServer::StartAgain() {
  TP_TRY(
      Run(fmt::format("{0}/pg_ctl -D data -w -t 60 -l server.log -o \"-c listen_addresses='' "
                      "-c unix_socket_directories={1} -c fsync=off\" start",
                      programs_.string(), folder_.string())));
  running_ = true;
  return {};
}

}  // namespace tidepool::store
