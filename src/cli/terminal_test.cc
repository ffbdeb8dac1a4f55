#include "cli/terminal.h"

#include <gtest/gtest.h>
#include <pty.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <string_view>
#include <thread>

namespace tidepool::cli {
namespace {

// Standard input is a terminal that the test types into.
class TypedInput {
 public:
  TypedInput() : kept_(dup(STDIN_FILENO)) {
    int slave = -1;
    EXPECT_EQ(openpty(&master_, &slave, nullptr, nullptr, nullptr), 0);
    dup2(slave, STDIN_FILENO);
    close(slave);
  }
  ~TypedInput() {
    dup2(kept_, STDIN_FILENO);
    close(kept_);
    close(master_);
  }
  void Type(std::string_view text) const {
    EXPECT_EQ(write(master_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

 private:
  const int kept_;
  int master_ = -1;
};

// A reader that an interrupt does not end gets a line after a while, so that the test ends.
class Rescue {
 public:
  explicit Rescue(const TypedInput& input)
      : thread_([this, &input] {
          for (int i = 0; i < 500 && !done_; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(10));
          if (!done_) input.Type("rescued\n");
        }) {}
  ~Rescue() {
    done_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> done_{false};
  std::thread thread_;
};

TEST(LineEditor, CtrlCEndsTheLineWheneverItComes) {
  const TypedInput input;
  const Interrupts interrupts;
  const std::string history = testing::TempDir() + "terminal_test_history";
  {
    LineEditor editor(history);
    std::string line;
    {  // between the prompt and the wait for a key, when nothing is read yet
      const Rescue rescue(input);
      raise(SIGINT);
      EXPECT_EQ(editor.Read("> ", &line), LineEditor::Outcome::kInterrupted);
    }
    Interrupts::Clear();
    {  // while it waits
      const Rescue rescue(input);
      const pthread_t reader = pthread_self();
      std::thread presses([reader] {
        std::this_thread::sleep_for(std::chrono::milliseconds(100));
        pthread_kill(reader, SIGINT);
      });
      EXPECT_EQ(editor.Read("> ", &line), LineEditor::Outcome::kInterrupted);
      presses.join();
    }
    Interrupts::Clear();
    input.Type("hello\n");
    EXPECT_EQ(editor.Read("> ", &line), LineEditor::Outcome::kLine);
    EXPECT_EQ(line, "hello");
  }
  std::filesystem::remove(history);
}

}  // namespace
}  // namespace tidepool::cli
