// From tokens to what a client may see: whole characters, cut at stop strings, reasoning set apart.
//
// One TextStream per running answer. Push() takes a token's bytes; what is ready comes out. It never emits half a
// character, never holds back what cannot become part of a stop string or a reasoning tag, and gives the same total
// whatever the sizes of the pieces.
//
// Threads: owned by one thread (the engine's).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tidepool::text {

// How a model sets its reasoning apart. Empty tags: it does not.
struct ReasoningFormat {
  std::string open_tag;           // "<think>"
  std::string close_tag;          // "</think>"
  bool starts_inside = false;     // the template's generation prompt already opened it
};

struct TextStreamOptions {
  std::vector<std::string> stop;      // matched in the answer (not in the reasoning); empty strings are ignored
  bool include_stop = false;          // keep the matched stop string in the text
  ReasoningFormat reasoning;
  bool strip_leading_space = false;   // see Tokenizer::strips_leading_space
};

struct TextDelta {
  std::string reasoning;  // appended to reasoning_content
  std::string content;    // appended to content
  bool stopped = false;   // a stop string matched; nothing more will come
  std::string stop;       // which one
  void Clear() {
    reasoning.clear();
    content.clear();
    stopped = false;
    stop.clear();
  }
};

class TextStream {
 public:
  explicit TextStream(TextStreamOptions options);
  // Appends to `out` (not cleared). No heap allocation in the steady state beyond growth of out's strings.
  void Push(std::string_view token_bytes, TextDelta& out);
  // The end of the answer: everything held back comes out; a trailing incomplete character becomes U+FFFD.
  void Finish(TextDelta& out);
  bool in_reasoning() const { return in_reasoning_; }

 private:
  void Drain(bool final, TextDelta& out);

  TextStreamOptions options_;
  std::string pending_;            // bytes not yet emitted
  bool in_reasoning_ = false;
  bool reasoning_done_ = false;
  bool at_start_ = true;           // nothing emitted yet in the current part
  bool first_bytes_ = true;
  bool stopped_ = false;
};

}  // namespace tidepool::text
