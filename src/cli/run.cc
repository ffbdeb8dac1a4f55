// run: one answer, or a chat.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <iostream>

#include "cli/commands.h"
#include "cli/text.h"

namespace tidepool::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxPipedBytes = 16u << 20;

struct Answer {
  std::string content;
  std::string reasoning;
  std::string finish_reason;
  Json usage;
  double first_s = 0;  // to the first token
  double total_s = 0;
  bool interrupted = false;
};

Json RequestBody(const RunOptions& options, const Json& messages, bool stream) {
  Json body = {{"model", options.model}, {"messages", messages}};
  if (options.temperature) body["temperature"] = *options.temperature;
  if (options.top_p) body["top_p"] = *options.top_p;
  if (options.max_tokens) body["max_completion_tokens"] = *options.max_tokens;
  if (options.seed) body["seed"] = *options.seed;
  if (options.think) body["chat_template_kwargs"] = {{"enable_thinking", *options.think}};
  if (stream) {
    body["stream"] = true;
    body["stream_options"] = {{"include_usage", true}};
  }
  return body;
}

// The last column stays free: a cursor behind it waits for its wrap, and moves left would count from there.
size_t AnswerWidth(const Terminal& terminal) { return std::max<size_t>(terminal.width(), 2) - 1; }

// Prints an answer while it comes: reasoning dimmed, text as it is, what it waits for on the status line.
class Printer {
 public:
  explicit Printer(Terminal& terminal)
      : terminal_(terminal), started_(Clock::now()), wrap_(AnswerWidth(terminal)) {}

  void Progress(const Json& event) {
    std::string phase = TextField(event, "phase");
    const auto share = event.find("share");
    const auto position = event.find("queue_position");
    if (phase == "queued" && position != event.end() && position->is_number()) {
      phase = fmt::format("queued, {} ahead", position->get<int64_t>());
    } else if (share != event.end() && share->is_number() && share->get<double>() > 0) {
      phase = fmt::format("{} {:.0f}%", phase, share->get<double>() * 100);
    }
    if (!any_) terminal_.ShowStatus(phase);
  }

  void Delta(const Json& delta, Answer* answer) {
    const std::string reasoning = TextField(delta, "reasoning_content");
    const std::string content = TextField(delta, "content");
    if (reasoning.empty() && content.empty()) return;
    if (!any_) {
      any_ = true;
      answer->first_s = std::chrono::duration<double>(Clock::now() - started_).count();
      terminal_.ClearStatus();
    }
    answer->reasoning += reasoning;
    answer->content += content;
    // In a pipe only the answer itself is wanted.
    if (!reasoning.empty() && terminal_.output_is_terminal()) Write(reasoning, true);
    if (!content.empty()) Write(content, false);
  }

  void Finish(Answer* answer) {
    terminal_.ClearStatus();
    if (dim_) Dim(false);
    answer->total_s = std::chrono::duration<double>(Clock::now() - started_).count();
    if (any_ && last_ != '\n') std::fputs("\n", stdout);
    std::fflush(stdout);
  }

 private:
  void Dim(bool on) {
    if (on == dim_) return;
    dim_ = on;
    if (!on && last_ != '\n') std::fputs("\n", stdout);
    if (!on) std::fputs("\n", stdout);
    wrap_ = WordWrap(AnswerWidth(terminal_));
    if (terminal_.output_colour()) std::fputs(on ? "\x1b[2m" : "\x1b[0m", stdout);
  }
  void Write(const std::string& text, bool reasoning) {
    Dim(reasoning);
    const std::string shown = terminal_.output_is_terminal() ? wrap_.Feed(filter_.Feed(text)) : text;
    if (shown.empty()) return;
    std::fwrite(shown.data(), 1, shown.size(), stdout);
    std::fflush(stdout);
    last_ = shown.back();
  }

  Terminal& terminal_;
  Clock::time_point started_;
  TerminalFilter filter_;
  WordWrap wrap_;
  bool any_ = false;
  bool dim_ = false;
  char last_ = '\n';
};

Result<Answer> Ask(Session& session, ApiClient& api, const RunOptions& options, const Json& messages) {
  Answer answer;
  Printer printer(session.terminal());
  std::optional<Error> failed;
  const auto on_event = [&](const SseEvent& event) {
    if (event.data == "[DONE]") return false;
    const auto json = Json::parse(event.data, nullptr, false);
    if (!json.is_object()) return true;
    if (json.contains("error")) {
      failed = ServerError(500, event.data);
      return false;
    }
    if (event.name == "progress") {
      printer.Progress(json);
      return true;
    }
    if (const auto usage = json.find("usage"); usage != json.end() && usage->is_object())
      answer.usage = *usage;
    const auto choices = json.find("choices");
    if (choices == json.end() || !choices->is_array() || choices->empty()) return true;
    const Json& choice = (*choices)[0];
    if (const auto delta = choice.find("delta"); delta != choice.end() && delta->is_object())
      printer.Delta(*delta, &answer);
    if (const std::string reason = TextField(choice, "finish_reason"); !reason.empty())
      answer.finish_reason = reason;
    return true;
  };
  const auto status = api.Stream("/v1/chat/completions", RequestBody(options, messages, true),
                                 {"Tidepool-Progress: 1"}, on_event);
  printer.Finish(&answer);
  if (failed) return Fail(*failed);
  if (!status && status.error().kind == ErrorKind::kCancelled) {
    answer.interrupted = true;
    return answer;
  }
  if (!status) return Fail(status.error());
  return answer;
}

void PrintNumbers(const Answer& answer) {
  const auto count = [&](const char* key) {
    return answer.usage.is_object() && answer.usage.contains(key) ? answer.usage[key].get<int64_t>() : 0;
  };
  const int64_t tokens = count("completion_tokens");
  const double decoding_s = answer.total_s - answer.first_s;
  std::string cached;
  if (answer.usage.is_object()) {
    const auto details = answer.usage.value("prompt_tokens_details", Json::object());
    if (details.is_object() && details.value("cached_tokens", int64_t{0}) > 0) {
      cached = fmt::format(" ({} from the cache)", details["cached_tokens"].get<int64_t>());
    }
  }
  fmt::print(stderr, "first token  {}\n", SecondsText(answer.first_s));
  fmt::print(stderr, "prompt       {} tokens{}\n", count("prompt_tokens"), cached);
  fmt::print(stderr, "answer       {} tokens", tokens);
  if (tokens > 1 && decoding_s > 0) {
    fmt::print(stderr, ", {} tokens/s", NumberText(static_cast<double>(tokens - 1) / decoding_s));
  }
  fmt::print(stderr, "\nwhole        {}\n", SecondsText(answer.total_s));
}

Json Message(const char* role, const std::string& content) { return {{"role", role}, {"content", content}}; }

// ---- the model

// The catalogue's entry for a name: the whole id, or the only one of that name.
std::string InCatalogue(const Json& catalogue, const std::string& model) {
  const auto data = catalogue.find("data");
  if (data == catalogue.end() || !data->is_array()) return {};
  std::vector<std::string> named;
  for (const Json& entry : *data) {
    const std::string id = TextField(entry, "id");
    if (id == model) return id;
    if (id.starts_with(model + ":")) named.push_back(id);
  }
  return named.size() == 1 ? named.front() : std::string();
}

// The model that was pulled from this very source, if it is still stored. Not for paths: files change.
Result<std::string> StoredFrom(ApiClient& api, const std::string& source) {
  TP_ASSIGN(const Json models, api.Get("/api/v1/models"));
  for (const Json& model : models.value("data", Json::array())) {
    if (TextField(model, "source") == source) return TextField(model, "id");
  }
  return std::string();
}

Result<bool> AskYes(const std::string& question) {
  fmt::print(stderr, "{} [Y/n] ", question);
  std::fflush(stderr);
  std::string line;
  char c = 0;
  while (true) {
    const ssize_t got = read(STDIN_FILENO, &c, 1);
    if (got != 1) {
      fmt::print(stderr, "\n");
      return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
    }
    if (c == '\n') break;
    line += c;
  }
  return line.empty() || line[0] == 'y' || line[0] == 'Y';
}

// Finds the model in the store; pulls it when only the catalogue or the hub has it, or when a source is
// named.
Result<std::string> EnsureModel(Session& session, ApiClient& api, const RunOptions& options) {
  std::string id = options.model;
  if (NamesSource(id)) {
    const bool remote = id.starts_with("http") || id.starts_with("pypi:");
    id.clear();
    if (remote) {
      TP_ASSIGN(id, StoredFrom(api, options.model));
    }
    if (id.empty()) {
      TP_ASSIGN(id, PullModel(session, {options.model, ""}));
    }
  }
  auto model = api.Get(ModelPath(id));
  if (!model && model.error().kind == ErrorKind::kNotFound) {
    TP_ASSIGN(const Json catalogue, api.Get("/api/v1/catalogue"));
    const bool of_hub = id.find('/') != std::string::npos;
    const std::string known = of_hub ? id : InCatalogue(catalogue, id);
    if (known.empty()) return Fail(model.error());
    Terminal& terminal = session.terminal();
    if (!options.yes && terminal.input_is_terminal() && terminal.error_is_terminal()) {
      TP_ASSIGN(const bool yes, AskYes(fmt::format("{} is not here yet. Pull it?", known)));
      if (!yes)
        return Fail(ErrorKind::kCancelled, "declined",
                    fmt::format("nothing pulled; later: tidepool pull {}", known));
    } else {
      fmt::print(stderr, "{} is not here yet; pulling it\n", known);
    }
    TP_ASSIGN(id, PullModel(session, {known, ""}));
    model = api.Get(ModelPath(id));
  }
  if (!model) return Fail(model.error());
  if (!model->value("generates", true)) {
    return Fail(
        ErrorKind::kInvalid, "no_text",
        fmt::format("{} makes no text; use it with POST /v1/embeddings or, if it ranks, /v1/rerank", id));
  }
  const std::string deployment = TextField(*model, "deployment");
  return deployment.empty() ? TextField(*model, "id") : deployment;
}

// ---- chat

constexpr const char* kChatHelp =
    "/help              this text\n"
    "/system TEXT       what the model is told first; empty: nothing\n"
    "/set NAME VALUE    temperature, top_p, max_tokens, seed, think (on, off), verbose (on, off)\n"
    "/set NAME          back to the model's own\n"
    "/clear             forget the conversation\n"
    "/bye               leave (so does Ctrl-D)\n"
    "\"\"\"                begins and ends a text of several lines; \\ at the end of a line goes on as well\n"
    "Ctrl-C             stops the answer\n";

template <typename T>
bool ParseNumber(const std::string& text, std::optional<T>* out) {
  if (text.empty()) {
    out->reset();
    return true;
  }
  try {
    size_t used = 0;
    const double value = std::stod(text, &used);
    if (used != text.size() || !std::isfinite(value) || std::fabs(value) > 9e15) return false;
    if (std::is_integral_v<T> && value != std::floor(value)) return false;
    *out = static_cast<T>(value);
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

bool ParseSwitch(const std::string& text, bool* out) {
  if (text != "on" && text != "off") return false;
  *out = text == "on";
  return true;
}

class Chat {
 public:
  Chat(Session& session, ApiClient& api, RunOptions options)
      : session_(session),
        api_(api),
        options_(std::move(options)),
        editor_(session.settings().home + "/history") {
    Clear();
  }

  Status Loop() {
    fmt::print("{}  {}\n", session_.terminal().Bold(options_.model),
               session_.terminal().Dim("/help for help, /bye or Ctrl-D to leave"));
    std::string text;
    while (true) {
      Interrupts::Clear();
      const auto outcome = ReadText(&text);
      if (outcome == LineEditor::Outcome::kEnd) {
        fmt::print("\n");
        return {};
      }
      if (outcome == LineEditor::Outcome::kInterrupted) {
        fmt::print("\n{}\n", session_.terminal().Dim("/bye or Ctrl-D leaves"));
        continue;
      }
      const size_t begin = text.find_first_not_of(" \t\n");
      if (begin == std::string::npos) continue;
      editor_.Remember(text);
      if (text[begin] == '/') {
        if (!Command(text.substr(begin))) return {};
        continue;
      }
      Turn(text);
    }
  }

 private:
  void Clear() {
    messages_ = Json::array();
    if (!options_.system.empty()) messages_.push_back(Message("system", options_.system));
  }

  LineEditor::Outcome ReadText(std::string* text) {
    text->clear();
    std::string line;
    auto outcome = editor_.Read(">>> ", &line);
    if (outcome != LineEditor::Outcome::kLine) return outcome;
    const bool quoted = line.starts_with("\"\"\"");
    if (quoted) line.erase(0, 3);
    while (true) {
      const bool ends = quoted ? line.ends_with("\"\"\"") : !line.ends_with("\\");
      if (quoted && ends) line.resize(line.size() - 3);
      if (!quoted && !ends) line.pop_back();
      *text += (text->empty() ? "" : "\n") + line;
      if (ends) return LineEditor::Outcome::kLine;
      outcome = editor_.Read("... ", &line);
      if (outcome != LineEditor::Outcome::kLine) return outcome;
    }
  }

  void Turn(const std::string& text) {
    messages_.push_back(Message("user", text));
    const auto answer = Ask(session_, api_, options_, messages_);
    if (!answer) {
      messages_.erase(messages_.size() - 1);
      fmt::print(stderr, "{} {}\n", session_.terminal().Red("error:"), answer.error().message);
      return;
    }
    // A stopped answer stays in the conversation as far as it came, so that one can go on from it.
    if (answer->content.empty() && answer->interrupted) {
      messages_.erase(messages_.size() - 1);
    } else {
      messages_.push_back(Message("assistant", answer->content));
    }
    if (answer->interrupted) fmt::print("{}\n", session_.terminal().Dim("(stopped)"));
    if (answer->finish_reason == "length") {
      fmt::print("{}\n", session_.terminal().Dim("(the answer reached its limit of tokens)"));
    }
    if (options_.verbose && !answer->interrupted) PrintNumbers(*answer);
  }

  // False: leave.
  bool Command(const std::string& text) {
    const size_t space = text.find_first_of(" \t");
    const std::string name = text.substr(0, space);
    std::string rest = space == std::string::npos ? "" : text.substr(space + 1);
    if (name == "/bye" || name == "/exit" || name == "/quit") return false;
    if (name == "/help" || name == "/?") {
      fmt::print("{}", kChatHelp);
    } else if (name == "/clear") {
      Clear();
      fmt::print("forgotten\n");
    } else if (name == "/system") {
      options_.system = rest;
      Clear();
      fmt::print("{}; the conversation begins anew\n", rest.empty() ? "no system text" : "set");
    } else if (name == "/set") {
      Set(rest);
    } else {
      const std::string close = Closest(name, {"/help", "/system", "/set", "/clear", "/bye"});
      fmt::print("there is no command {}{}; /help lists them\n", name,
                 close.empty() ? "" : ", did you mean " + close + "?");
    }
    return true;
  }

  void Set(const std::string& text) {
    const size_t space = text.find(' ');
    const std::string name = text.substr(0, space);
    const std::string value =
        space == std::string::npos ? "" : text.substr(text.find_first_not_of(' ', space));
    bool good = true;
    bool on = false;
    if (name == "temperature")
      good = ParseNumber(value, &options_.temperature);
    else if (name == "top_p")
      good = ParseNumber(value, &options_.top_p);
    else if (name == "max_tokens")
      good = ParseNumber(value, &options_.max_tokens);
    else if (name == "seed")
      good = ParseNumber(value, &options_.seed);
    else if (name == "verbose")
      good = ParseSwitch(value, &options_.verbose);
    else if (name == "think" && value.empty())
      options_.think.reset();
    else if (name == "think") {
      good = ParseSwitch(value, &on);
      if (good) options_.think = on;
    } else {
      fmt::print("there is no setting \"{}\": temperature, top_p, max_tokens, seed, think, verbose\n", name);
      return;
    }
    if (!good) fmt::print("\"{}\" is no value for {}\n", value, name);
  }

  Session& session_;
  ApiClient& api_;
  RunOptions options_;
  LineEditor editor_;
  Json messages_;
};

Result<std::string> ReadPipe() {
  std::string text;
  char buffer[65536];
  while (true) {
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (got == 0) break;
    if (got < 0) {
      if (Interrupts::Pending()) return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
      return Fail(ErrorKind::kInvalid, "stdin", "cannot read standard input");
    }
    text.append(buffer, static_cast<size_t>(got));
    if (text.size() > kMaxPipedBytes) {
      return Fail(ErrorKind::kTooLarge, "stdin",
                  fmt::format("more than {} on standard input", BytesText(kMaxPipedBytes)));
    }
  }
  return text;
}

Status AnswerOnce(Session& session, ApiClient& api, const RunOptions& options, const std::string& prompt) {
  Json messages = Json::array();
  if (!options.system.empty()) messages.push_back(Message("system", options.system));
  messages.push_back(Message("user", prompt));
  if (session.json()) {
    TP_ASSIGN(const Json reply,
              api.Post("/v1/chat/completions", RequestBody(options, messages, false), 24 * 3600));
    PrintJson(reply);
    return {};
  }
  TP_ASSIGN(const Answer answer, Ask(session, api, options, messages));
  if (answer.interrupted) return Fail(ErrorKind::kCancelled, "interrupted", "interrupted");
  if (options.verbose) PrintNumbers(answer);
  return {};
}

}  // namespace

Status Run(Session& session, const RunOptions& given) {
  RunOptions options = given;
  std::string prompt = options.prompt;
  if (!session.terminal().input_is_terminal()) {
    TP_ASSIGN(const std::string piped, ReadPipe());
    if (!piped.empty()) prompt += (prompt.empty() ? "" : "\n\n") + piped;
    if (prompt.empty()) {
      return Fail(
          ErrorKind::kInvalid, "no_prompt",
          "there is no prompt: give one as an argument or on standard input, or chat from a terminal");
    }
  }
  TP_ASSIGN(ApiClient * api, session.Api());
  TP_ASSIGN(options.model, EnsureModel(session, *api, options));
  if (!prompt.empty()) return AnswerOnce(session, *api, options, prompt);
  if (session.json()) return Fail(ErrorKind::kInvalid, "no_prompt", "--json needs a prompt");
  return Chat(session, *api, options).Loop();
}

}  // namespace tidepool::cli
