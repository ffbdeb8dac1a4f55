// From tokens to what a client may see: whole characters, cut at stop strings, reasoning set apart.
//
// One TextStream per running answer. Push() takes a token's bytes; what is ready comes out. It never emits
// half a character, never holds back what cannot become part of a stop string or a reasoning tag, and gives
// the same total whatever the sizes of the pieces. The rules, which depend on the text alone:
//
//  - Bytes become characters first; an ill-formed sequence is U+FFFD once per maximal subpart.
//  - Of several stop strings the one that is complete first counts; of those that end together, the longest.
//  - Reasoning begins where the answer begins with the open tag (at most 32 bytes of white space may come
//  before
//    it, and go), or at once with starts_inside; it ends at the first close tag. A tag later in the answer is
//    text. Where ends_before is set, its first place ends the reasoning too, and is text: models forget the
//    close tag before a tool call.
//  - Line breaks right after an open tag and right after a close tag are dropped, as other servers do.
//  - Text may be pushed with stop strings off (the first min_tokens tokens of an answer). A stop string
//  counts if
//    its last character came with matching on: one that begins before and ends after does (as in vLLM), one
//    that ended before is text for good. A character came with the token that completed it.
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
  std::string open_tag{};      // "<think>"
  std::string close_tag{};     // "</think>"
  bool starts_inside = false;  // the template's generation prompt already opened it
  std::string ends_before{};   // "<tool_call>"
};

struct TextStreamOptions {
  std::vector<std::string> stop{};  // matched in the answer (not in the reasoning); empty strings are ignored
  bool include_stop = false;        // keep the matched stop string in the text
  ReasoningFormat reasoning{};
  bool strip_leading_space = false;  // see Tokenizer::strips_leading_space
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

// Finds strings in a stream, byte by byte (Aho-Corasick), and says how much of its end may become a match.
class StreamMatcher {
 public:
  // Empty strings are left out.
  explicit StreamMatcher(const std::vector<std::string>& strings);
  struct State {
    uint32_t node = 0;
  };
  // Takes the next byte; returns the length of the longest string that ends with it, 0 if none does.
  size_t Step(State& state, char byte) const;
  // After a match that does not count: goes on looking, without holding back what no longer can grow.
  void Pass(State& state) const;
  // Bytes at the end of what was seen that are the beginning of a string: what must be held back.
  size_t held(State state) const { return nodes_[state.node].depth; }

 private:
  struct Node {
    uint32_t first_child = 0, next_sibling = 0;  // 0: none (the root is nobody's child)
    uint32_t fail = 0;                           // the longest proper suffix that is a beginning too
    uint32_t depth = 0;
    uint32_t match = 0;  // length of the longest string that ends here
    char byte = 0;
  };
  uint32_t Child(uint32_t node, char byte) const;
  std::vector<Node> nodes_;
};

class TextStream {
 public:
  explicit TextStream(TextStreamOptions options);
  // Appends to `out` (not cleared). No heap allocation in the steady state beyond growth of out's strings.
  // `match_stops`: off for a first part of the answer; once on it stays on.
  void Push(std::string_view token_bytes, TextDelta& out, bool match_stops = true);
  // The end of the answer: everything held back comes out; a trailing incomplete character becomes U+FFFD.
  void Finish(TextDelta& out);
  bool in_reasoning() const { return part_ == Part::kReasoning; }

 private:
  // Undecided: nothing but white space and perhaps the beginning of the open tag so far.
  enum class Part : uint8_t { kUndecided, kReasoning, kAnswer, kStopped };

  void Take(char byte, TextDelta& out);
  void TakeText(std::string_view text, TextDelta& out);
  void TakeUndecided(char byte, TextDelta& out);
  void TakeReasoning(char byte, TextDelta& out);
  void TakeAnswer(char byte, TextDelta& out);
  void DecideAnswer(TextDelta& out);
  void ReplayAnswer(TextDelta& out);
  void Flush(size_t keep, TextDelta& out);

  TextStreamOptions options_;
  StreamMatcher stop_matcher_;
  StreamMatcher close_matcher_;
  StreamMatcher::State matched_;
  Part part_ = Part::kAnswer;
  std::string raw_;                // an incomplete character: at most 3 bytes
  std::string held_;               // whole characters not yet emitted
  std::string decided_;            // scratch of ReplayAnswer
  bool match_stops_ = false;       // as of the last Push
  size_t exempt_ = 0;              // kUndecided: bytes of held_ that came with stop strings off
  bool drop_space_ = false;        // the next byte, if a space, is the tokenizer's own
  bool drop_line_breaks_ = false;  // since the last tag
};

}  // namespace tidepool::text
