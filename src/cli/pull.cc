// pull: a job of the server, watched.
#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <thread>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

// The server has a working folder of its own, so a path is sent whole.
std::string WholeSource(const std::string& source) {
  const bool path =
      source.starts_with("./") || source.starts_with("../") || source.starts_with("/") || source == ".";
  std::error_code problem;
  if (source.starts_with("~/")) {
    const char* home = std::getenv("HOME");
    return home != nullptr ? home + source.substr(1) : source;
  }
  const bool file = source.ends_with(".gguf") && std::filesystem::exists(source, problem);
  if (!path && !file) return source;
  const auto whole = std::filesystem::absolute(source, problem).lexically_normal();
  return problem ? source : whole.string();
}

// A paused or cut job for the same source goes on instead of a new one.
Result<Json> StartOrResume(ApiClient& api, const std::string& source, const std::string& name) {
  TP_ASSIGN(const Json pulls, api.Get("/api/v1/pulls"));
  if (const auto data = pulls.find("data"); data != pulls.end() && data->is_array()) {
    for (const Json& pull : *data) {
      const bool same = TextField(pull, "model") == source || (!name.empty() && TextField(pull, "model") == name);
      if (same && TextField(pull, "state") == "paused") {
        return api.Post("/api/v1/pulls/" + ApiClient::Segment(TextField(pull, "id")) + "/resume", Json::object());
      }
    }
  }
  Json body = {{"source", source}};
  if (!name.empty()) body["name"] = name;
  return api.Post("/api/v1/pulls", body);
}

std::string ResumeCommand(const PullOptions& options) {
  return "tidepool pull " + options.source + (options.name.empty() ? "" : " --name " + options.name);
}

Status Interrupted(ApiClient& api, const std::string& path, const PullOptions& options) {
  Interrupts::Clear();  // or this request would be stopped as well
  const auto paused = api.Post(path + "/pause", Json::object());
  if (!paused) {
    return Fail(ErrorKind::kCancelled, "interrupted",
                fmt::format("interrupted, but the job could not be paused: {}", paused.error().message));
  }
  return Fail(ErrorKind::kCancelled, "paused",
              fmt::format("paused; what is there is kept. Go on with: {}", ResumeCommand(options)));
}

Error PullError(const Json& pull) {
  Error error{ErrorKind::kInternal, "pull_failed", "the pull failed", "", 0};
  if (const auto inner = pull.find("error"); inner != pull.end() && inner->is_object()) {
    error.message = TextField(*inner, "message");
    error.code = TextField(*inner, "code");
  }
  return error;
}

}  // namespace

Result<std::string> PullModel(Session& session, const PullOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string source = WholeSource(options.source);
  TP_ASSIGN(Json pull, StartOrResume(*api, source, options.name));
  const std::string path = "/api/v1/pulls/" + ApiClient::Segment(TextField(pull, "id"));
  Terminal& terminal = session.terminal();
  std::string phase_said;
  int failures = 0;
  while (true) {
    const std::string state = TextField(pull, "state");
    const std::string phase = TextField(pull, "phase");
    if (state == "done") break;
    if (state == "failed" || state == "cancelled" || state == "paused") {
      terminal.ClearStatus();
      if (state == "failed") return Fail(PullError(pull));
      return Fail(
          ErrorKind::kCancelled, state,
          fmt::format("the pull was {} by someone else; go on with: {}", state, ResumeCommand(options)));
    }
    const std::string label = options.source + (phase.empty() ? "" : " · " + phase);
    terminal.ShowStatus(ProgressText(label, NumberField(pull, "bytes_done"), NumberField(pull, "bytes_total"),
                                     NumberField(pull, "bytes_per_s"), terminal.width() - 1, terminal.unicode()));
    if (!terminal.error_is_terminal() && phase != phase_said && !phase.empty()) {
      fmt::print(stderr, "{}: {}\n", options.source, phase);
      phase_said = phase;
    }
    for (int i = 0; i < 4 && !Interrupts::Pending(); ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    if (Interrupts::Pending()) {
      terminal.ClearStatus();
      return tl::unexpected<Error>(Interrupted(*api, path, options).error());
    }
    auto next = api->Get(path);
    // A busy or restarting server is asked again for a while.
    if (!next && next.error().kind == ErrorKind::kCancelled) continue;
    if (!next && ++failures >= 10) {
      terminal.ClearStatus();
      return Fail(next.error());
    }
    if (next) {
      failures = 0;
      pull = std::move(*next);
    }
  }
  terminal.ClearStatus();
  const std::string result = TextField(pull, "result");
  return result.empty() ? TextField(pull, "model") : result;
}

Status Pull(Session& session, const PullOptions& options) {
  TP_ASSIGN(const std::string id, PullModel(session, options));
  if (session.json()) {
    TP_ASSIGN(ApiClient * api, session.Api());
    TP_ASSIGN(const Json model, api->Get(ModelPath(id)));
    PrintJson(model);
    return {};
  }
  fmt::print("{} is ready; try: tidepool run {}\n", id, id);
  return {};
}

}  // namespace tidepool::cli
