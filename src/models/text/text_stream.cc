#include "models/text/text_stream.h"

#include <algorithm>
#include <utility>

#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

// Models put a line break or two before their tag; more white space than this is an answer of white space.
constexpr size_t kMaxSpaceBeforeTag = 32;

bool IsSpaceByte(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

std::vector<std::string> Clean(const std::vector<std::string>& strings) {
  std::vector<std::string> clean;
  for (const std::string& string : strings) clean.push_back(ReplaceInvalidUtf8(string));
  return clean;
}

}  // namespace

StreamMatcher::StreamMatcher(const std::vector<std::string>& strings) {
  nodes_.emplace_back();
  for (const std::string& string : strings) {
    uint32_t node = 0;
    for (const char byte : string) {
      uint32_t child = Child(node, byte);
      if (child == 0) {
        child = static_cast<uint32_t>(nodes_.size());
        Node fresh;
        fresh.byte = byte;
        fresh.depth = nodes_[node].depth + 1;
        fresh.next_sibling = nodes_[node].first_child;
        nodes_.push_back(fresh);
        nodes_[node].first_child = child;
      }
      node = child;
    }
    nodes_[node].match = nodes_[node].depth;
  }
  // Fail links in order of depth: a node's link is a child of its parent's link, or further down the chain.
  std::vector<uint32_t> queue{0};
  for (size_t i = 0; i < queue.size(); ++i) {
    const uint32_t parent = queue[i];
    for (uint32_t node = nodes_[parent].first_child; node != 0; node = nodes_[node].next_sibling) {
      queue.push_back(node);
      uint32_t link = nodes_[parent].fail;
      if (parent != 0) {
        while (link != 0 && Child(link, nodes_[node].byte) == 0) link = nodes_[link].fail;
        nodes_[node].fail = Child(link, nodes_[node].byte);
      }
      if (nodes_[node].match == 0) nodes_[node].match = nodes_[nodes_[node].fail].match;
    }
  }
}

uint32_t StreamMatcher::Child(uint32_t node, char byte) const {
  uint32_t child = nodes_[node].first_child;
  while (child != 0 && nodes_[child].byte != byte) child = nodes_[child].next_sibling;
  return child;
}

size_t StreamMatcher::Step(State& state, char byte) const {
  uint32_t child = Child(state.node, byte);
  while (child == 0 && state.node != 0) {
    state.node = nodes_[state.node].fail;
    child = Child(state.node, byte);
  }
  state.node = child;
  return nodes_[child].match;
}

void StreamMatcher::Pass(State& state) const {
  while (nodes_[state.node].first_child == 0 && state.node != 0) state.node = nodes_[state.node].fail;
}

TextStream::TextStream(TextStreamOptions options)
    : options_(std::move(options)),
      stop_matcher_(Clean(options_.stop)),
      close_matcher_(Clean({options_.reasoning.close_tag, options_.reasoning.ends_before})),
      drop_space_(options_.strip_leading_space) {
  // Like the other strings: half a character must not be found inside a whole one.
  options_.reasoning.open_tag = ReplaceInvalidUtf8(options_.reasoning.open_tag);
  options_.reasoning.ends_before = ReplaceInvalidUtf8(options_.reasoning.ends_before);
  if (options_.reasoning.starts_inside) {
    part_ = Part::kReasoning;
    drop_line_breaks_ = true;
  } else if (!options_.reasoning.open_tag.empty()) {
    part_ = Part::kUndecided;
  }
}

void TextStream::Push(std::string_view token_bytes, TextDelta& out, bool match_stops) {
  if (part_ == Part::kStopped) return;
  match_stops_ |= match_stops;
  if (drop_space_ && !token_bytes.empty()) {
    drop_space_ = false;
    if (token_bytes.front() == ' ') token_bytes.remove_prefix(1);
  }
  raw_.append(token_bytes);
  const size_t whole = raw_.size() - IncompleteSuffix(raw_);
  TakeText(std::string_view(raw_).substr(0, whole), out);
  raw_.erase(0, whole);
}

void TextStream::Finish(TextDelta& out) {
  if (part_ == Part::kStopped) return;
  if (!raw_.empty()) TakeText(raw_, out);  // incomplete, so it comes out as U+FFFD
  raw_.clear();
  if (part_ == Part::kUndecided) DecideAnswer(out);
  if (part_ != Part::kStopped) Flush(0, out);
  part_ = Part::kStopped;
}

void TextStream::TakeText(std::string_view text, TextDelta& out) {
  for (size_t i = 0; i < text.size() && part_ != Part::kStopped;) {
    const Character character = ReadCharacter(text, i);
    const std::string_view bytes = character.valid ? text.substr(i, character.size) : kReplacementCharacter;
    for (const char byte : bytes) Take(byte, out);
    i += character.size;
  }
  if (part_ == Part::kReasoning) Flush(close_matcher_.held(matched_), out);
  if (part_ == Part::kAnswer) Flush(stop_matcher_.held(matched_), out);
}

void TextStream::Take(char byte, TextDelta& out) {
  switch (part_) {
    case Part::kUndecided: TakeUndecided(byte, out); break;
    case Part::kReasoning: TakeReasoning(byte, out); break;
    case Part::kAnswer: TakeAnswer(byte, out); break;
    case Part::kStopped: break;
  }
}

// held_ is white space followed by a beginning of the open tag.
void TextStream::TakeUndecided(char byte, TextDelta& out) {
  const std::string& tag = options_.reasoning.open_tag;
  held_ += byte;
  if (!match_stops_) exempt_ = held_.size();
  // A tag may itself begin with white space, so every split of held_ into space and tag is tried.
  for (size_t space = 0; space <= kMaxSpaceBeforeTag && space <= held_.size(); ++space) {
    if (space > 0 && !IsSpaceByte(held_[space - 1])) break;
    const std::string_view rest = std::string_view(held_).substr(space);
    if (rest == tag) {
      held_.clear();
      part_ = Part::kReasoning;
      drop_line_breaks_ = true;
      return;
    }
    if (tag.starts_with(rest)) return;
  }
  DecideAnswer(out);
}

void TextStream::DecideAnswer(TextDelta& out) {
  part_ = Part::kAnswer;
  ReplayAnswer(out);
}

// What is held is text of the answer, in which a stop string may stand or begin.
void TextStream::ReplayAnswer(TextDelta& out) {
  decided_.swap(held_);
  held_.clear();
  const bool match_stops = match_stops_;
  for (size_t i = 0; i < decided_.size(); ++i) {
    match_stops_ = match_stops && i >= exempt_;
    Take(decided_[i], out);
  }
  match_stops_ = match_stops;
  decided_.clear();
}

void TextStream::TakeReasoning(char byte, TextDelta& out) {
  if (drop_line_breaks_ && (byte == '\n' || byte == '\r')) return;
  drop_line_breaks_ = false;
  held_ += byte;
  const size_t match = close_matcher_.Step(matched_, byte);
  if (match == 0) return;
  out.reasoning.append(held_, 0, held_.size() - match);
  held_.erase(0, held_.size() - match);
  matched_ = {};
  part_ = Part::kAnswer;
  drop_line_breaks_ = true;
  exempt_ = 0;
  if (held_ == options_.reasoning.ends_before) return ReplayAnswer(out);
  held_.clear();
}

void TextStream::TakeAnswer(char byte, TextDelta& out) {
  if (drop_line_breaks_ && (byte == '\n' || byte == '\r')) return;
  drop_line_breaks_ = false;
  held_ += byte;
  const size_t match = stop_matcher_.Step(matched_, byte);
  if (match == 0) return;
  if (!match_stops_) return stop_matcher_.Pass(matched_);
  const size_t kept = held_.size() - match;
  out.stop.assign(held_, kept, match);
  out.content.append(held_, 0, options_.include_stop ? held_.size() : kept);
  out.stopped = true;
  held_.clear();
  part_ = Part::kStopped;
}

void TextStream::Flush(size_t keep, TextDelta& out) {
  const size_t ready = held_.size() - std::min(keep, held_.size());
  (in_reasoning() ? out.reasoning : out.content).append(held_, 0, ready);
  held_.erase(0, ready);
}

}  // namespace tidepool::text
