// The terminal: colours, one status line that is redrawn, interrupts, and the line editor.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

namespace tidepool::cli {

// SIGINT sets a flag while one of these lives; a second SIGINT before Clear() ends the process with 130.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  static bool Pending();
  static void Clear();
};

struct TerminalOptions {
  bool colour = true;  // --no-color turns it off; NO_COLOR and TERM=dumb do as well
};

class Terminal {
 public:
  explicit Terminal(const TerminalOptions& options);

  bool input_is_terminal() const { return input_; }
  bool output_is_terminal() const { return output_; }
  bool error_is_terminal() const { return error_; }
  bool unicode() const { return unicode_; }
  size_t width() const;  // of standard error or output; 80 when neither is a terminal

  size_t height() const;  // of standard output; 24 when it is no terminal

  // How wide text for people may be: the terminal's width, or without limit in a pipe.
  size_t text_width() const { return output_ ? width() : SIZE_MAX; }

  // On standard output, only when it is a terminal.
  std::string Dim(std::string_view text) const { return Wrap("2", text, output_colour_); }
  std::string Bold(std::string_view text) const { return Wrap("1", text, output_colour_); }
  std::string Green(std::string_view text) const { return Wrap("32", text, output_colour_); }
  std::string Yellow(std::string_view text) const { return Wrap("33", text, output_colour_); }
  // On standard error.
  std::string Red(std::string_view text) const { return Wrap("31", text, error_colour_); }
  bool output_colour() const { return output_colour_; }

  // What a status line may take: "^C" behind it must not begin a new line, which would not be cleared.
  size_t status_width() const { return width() > 3 ? width() - 3 : 0; }
  // A line on standard error that the next call replaces; nothing when it is no terminal.
  void ShowStatus(std::string_view line);
  void ClearStatus();

 private:
  static std::string Wrap(std::string_view code, std::string_view text, bool on);

  bool input_, output_, error_;
  bool output_colour_, error_colour_;
  bool unicode_;
  bool status_shown_ = false;
};

// Reads lines with editing and history (libedit).
class LineEditor {
 public:
  // History is kept in `history_path` (mode 0600), at most 1,000 lines.
  explicit LineEditor(std::string history_path);
  ~LineEditor();
  LineEditor(const LineEditor&) = delete;
  LineEditor& operator=(const LineEditor&) = delete;

  enum class Outcome { kLine, kEnd, kInterrupted };
  Outcome Read(std::string_view prompt, std::string* line);
  void Remember(const std::string& line);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tidepool::cli
