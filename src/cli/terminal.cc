#include "cli/terminal.h"

#include <fmt/format.h>
#include <histedit.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <cwchar>

#include "cli/text.h"

namespace tidepool::cli {
namespace {

std::atomic<int> interrupts{0};
struct sigaction previous_action;

void OnInterrupt(int) {
  if (interrupts.fetch_add(1) >= 1) _exit(130);
}

bool LocaleIsUtf8() {
  for (const char* name : {"LC_ALL", "LC_CTYPE", "LANG"}) {
    const char* value = std::getenv(name);
    if (value == nullptr || *value == '\0') continue;
    const std::string_view text = value;
    return text.find("UTF-8") != text.npos || text.find("utf8") != text.npos ||
           text.find("UTF8") != text.npos;
  }
  return false;
}

bool ColourWanted() {
  const char* none = std::getenv("NO_COLOR");
  const char* term = std::getenv("TERM");
  return (none == nullptr || *none == '\0') && term != nullptr && std::strcmp(term, "dumb") != 0;
}

}  // namespace

Interrupts::Interrupts() {
  interrupts = 0;
  struct sigaction action{};
  action.sa_handler = OnInterrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = 0;  // no SA_RESTART: a read of the terminal must return
  sigaction(SIGINT, &action, &previous_action);
}

Interrupts::~Interrupts() { sigaction(SIGINT, &previous_action, nullptr); }
bool Interrupts::Pending() { return interrupts.load() > 0; }
void Interrupts::Clear() { interrupts = 0; }

Terminal::Terminal(const TerminalOptions& options)
    : input_(isatty(STDIN_FILENO) == 1),
      output_(isatty(STDOUT_FILENO) == 1),
      error_(isatty(STDERR_FILENO) == 1) {
  const bool colour = options.colour && ColourWanted();
  output_colour_ = output_ && colour;
  error_colour_ = error_ && colour;
  unicode_ = LocaleIsUtf8();
}

size_t Terminal::width() const {
  winsize size{};
  for (const int fd : {STDERR_FILENO, STDOUT_FILENO}) {
    if (ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  }
  return 80;
}

size_t Terminal::height() const {
  winsize size{};
  return ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_row > 0 ? size.ws_row : 24;
}

std::string Terminal::Wrap(std::string_view code, std::string_view text, bool on) {
  return on ? fmt::format("\x1b[{}m{}\x1b[0m", code, text) : std::string(text);
}

void Terminal::ShowStatus(std::string_view line) {
  if (!error_) return;
  fmt::print(stderr, "\r{}\x1b[K", Fit(line, status_width()));
  std::fflush(stderr);
  status_shown_ = true;
}

void Terminal::ClearStatus() {
  if (!status_shown_) return;
  fmt::print(stderr, "\r\x1b[K");
  std::fflush(stderr);
  status_shown_ = false;
}

struct LineEditor::Impl {
  EditLine* editor = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::string path;
};

namespace {
std::string current_prompt;
char* PromptOf(EditLine*) { return current_prompt.data(); }

// Until there is something to read. False: an interrupt, also one that came before, when the prompt was
// already there: SIGINT is let in only while waiting, so that none falls between the look at it and the wait.
bool WaitForInput() {
  sigset_t interrupt, before;
  sigemptyset(&interrupt);
  sigaddset(&interrupt, SIGINT);
  pthread_sigmask(SIG_BLOCK, &interrupt, &before);
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  while (!Interrupts::Pending() && ppoll(&input, 1, nullptr, &before) < 0 && errno == EINTR) {
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return !Interrupts::Pending();
}

// libedit's own reader tries again after a signal; this one gives up, so that Ctrl-C ends the line.
int ReadCharacter(EditLine*, wchar_t* out) {
  std::mbstate_t state{};
  while (true) {
    if (!WaitForInput()) return -1;
    char byte = 0;
    const ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got == 0) return 0;
    if (got < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    const size_t used = std::mbrtowc(out, &byte, 1, &state);
    if (used == static_cast<size_t>(-2)) continue;  // the character goes on
    if (used == static_cast<size_t>(-1)) {
      state = std::mbstate_t{};
      continue;  // not in this encoding
    }
    return 1;
  }
}
}  // namespace

LineEditor::LineEditor(std::string history_path) : impl_(std::make_unique<Impl>()) {
  // libedit reads bytes by the locale; without one that knows UTF-8 it would split characters.
  if (const char* set = std::setlocale(LC_CTYPE, ""); set == nullptr || !LocaleIsUtf8()) {
    std::setlocale(LC_CTYPE, "C.UTF-8");
  }
  impl_->path = std::move(history_path);
  impl_->editor = el_init("tidepool", stdin, stdout, stderr);
  impl_->history = history_init();
  history(impl_->history, &impl_->event, H_SETSIZE, 1000);
  history(impl_->history, &impl_->event, H_SETUNIQUE, 1);
  history(impl_->history, &impl_->event, H_LOAD, impl_->path.c_str());
  el_set(impl_->editor, EL_PROMPT, PromptOf);
  el_set(impl_->editor, EL_EDITOR, "emacs");
  el_set(impl_->editor, EL_SIGNAL, 0);
  el_set(impl_->editor, EL_GETCFN, ReadCharacter);
  el_set(impl_->editor, EL_HIST, history, impl_->history);
}

LineEditor::~LineEditor() {
  const mode_t mask = umask(0077);
  history(impl_->history, &impl_->event, H_SAVE, impl_->path.c_str());
  umask(mask);
  history_end(impl_->history);
  el_end(impl_->editor);
}

LineEditor::Outcome LineEditor::Read(std::string_view prompt, std::string* line) {
  current_prompt = prompt;
  int count = 0;
  el_resize(impl_->editor);
  errno = 0;
  const char* text = el_gets(impl_->editor, &count);
  if (text == nullptr || count <= 0) {
    const bool interrupted = Interrupts::Pending() || errno == EINTR;
    if (interrupted) el_reset(impl_->editor);
    return interrupted ? Outcome::kInterrupted : Outcome::kEnd;
  }
  line->assign(text, static_cast<size_t>(count));
  while (!line->empty() && (line->back() == '\n' || line->back() == '\r')) line->pop_back();
  return Outcome::kLine;
}

void LineEditor::Remember(const std::string& line) {
  history(impl_->history, &impl_->event, H_ENTER, line.c_str());
}

}  // namespace tidepool::cli
