// What the interpreter keeps while it runs: scopes, captured output, loops.
#pragma once

#include <deque>
#include <memory>

#include "models/templates/interpreter.h"

namespace tidepool::templates {

// What templates see as `loop`.
struct Interpreter::LoopObject : Object {
  std::unique_ptr<Iterator> source;  // null once the loop has ended
  const Statement* node = nullptr;
  Scope* scope = nullptr;  // where the loop stands; null once it has ended
  int64_t index0 = -1;
  int64_t depth0 = 0;
  int64_t length = -1;  // when known
  Value previous;
  Value current;
  std::deque<Value> ahead;  // items pulled before their turn (loop.last, loop.nextitem, loop.length)
  bool changed_before = false;
  Value last_changed;
};

// A scope for the time of a block; kept longer when a macro was defined in it.
class Interpreter::ScopeLease {
 public:
  ScopeLease(Interpreter* interpreter, Scope* parent) : interpreter_(*interpreter) {
    if (interpreter_.free_scopes_.empty()) {
      interpreter_.scopes_.push_back(std::make_unique<Scope>());
      scope_ = interpreter_.scopes_.back().get();
    } else {
      scope_ = interpreter_.free_scopes_.back();
      interpreter_.free_scopes_.pop_back();
    }
    scope_->parent = parent;
  }
  ~ScopeLease() {
    if (scope_->captured) return;
    scope_->variables.clear();
    interpreter_.free_scopes_.push_back(scope_);
  }
  ScopeLease(const ScopeLease&) = delete;
  ScopeLease& operator=(const ScopeLease&) = delete;
  Scope* get() { return scope_; }

 private:
  Interpreter& interpreter_;
  Scope* scope_;
};

// Output goes to a string of its own while this lives.
class Interpreter::Capture {
 public:
  explicit Capture(Interpreter* interpreter) : interpreter_(*interpreter), saved_(interpreter->out_) {
    interpreter_.out_ = &text_;
  }
  ~Capture() {
    interpreter_.out_ = saved_;
    interpreter_.live_output_ -= text_.size();
  }
  Capture(const Capture&) = delete;
  Capture& operator=(const Capture&) = delete;
  Value Take() {
    interpreter_.live_output_ -= text_.size();
    std::string text = std::move(text_);
    text_.clear();
    return interpreter_.runtime_.String(std::move(text));
  }

 private:
  Interpreter& interpreter_;
  std::string* saved_;
  std::string text_;
};

}  // namespace tidepool::templates
