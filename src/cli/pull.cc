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

std::string ResumeCommand(const PullOptions& options) {
  return "tidepool pull " + options.source + (options.name.empty() ? "" : " --name " + options.name);
}

Status Interrupted(ApiClient& api, const std::string& path, const PullOptions& options) {
  Interrupts::Clear();  // or this request would be stopped as well
  const auto paused = api.Post(path + "/pause", Json::object());
  if (!paused) {
    return Fail(ErrorKind::kCancelled, "not_paused",
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

// What a status line has room for: the file of a URL or path, other names whole.
std::string ShortSource(const std::string& source) {
  const bool file = NamesSource(source) && source.ends_with(".gguf");
  return file ? source.substr(source.rfind('/') + 1) : source;
}

// Every form of a source that cannot be the name of a stored model.
constexpr std::string_view kSourcePrefixes[] = {"/",     "./",     "../",           "~/",       "path:",
                                                "file:", "pypi:",  "http://",       "https://", "hf://",
                                                "hf:",   "hf.co/", "huggingface://"};

}  // namespace

bool NamesSource(const std::string& text) {
  if (text == "." || text == "..") return true;
  for (const std::string_view prefix : kSourcePrefixes) {
    if (text.starts_with(prefix)) return true;
  }
  std::error_code problem;
  return text.ends_with(".gguf") && std::filesystem::exists(text, problem);
}

Result<std::string> PullModel(Session& session, const PullOptions& options) {
  TP_ASSIGN(ApiClient * api, session.Api());
  const std::string source = WholeSource(options.source);
  // The server joins a running job of the same model and continues a paused one.
  Json request = {{"source", source}};
  if (!options.name.empty()) request["name"] = options.name;
  TP_ASSIGN(Json pull, api->Post("/api/v1/pulls", request));
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
    // A bar with a speed says that it downloads.
    const bool says_phase = !phase.empty() && phase != "downloading";
    const std::string label = ShortSource(options.source) + (says_phase ? " · " + phase : "");
    terminal.ShowStatus(ProgressText(label, NumberField(pull, "bytes_done"), NumberField(pull, "bytes_total"),
                                     NumberField(pull, "bytes_per_s"), terminal.status_width(),
                                     terminal.unicode()));
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
