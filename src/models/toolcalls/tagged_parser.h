// What parsers share: text in which tags open calls, and the writing of parts.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/toolcalls/parser.h"

namespace tidepool::toolcalls {

enum class Step : uint8_t {
  kMore,
  kEnd,        // with this byte
  kEndBefore,  // before it
  kBad,
};

inline bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

// Writes the parts of calls.
class CallWriter {
 public:
  explicit CallWriter(std::vector<Tool> tools) : tools_(std::move(tools)) {}

  void Into(std::vector<Part>& out) { out_ = &out; }
  void Text(std::string_view text);
  void Begin(std::string_view name);
  void Arguments(std::string_view piece);
  void End();
  void Break();
  bool open() const { return open_; }
  int32_t calls() const { return calls_; }
  const Tool* Find(std::string_view name) const;

 private:
  const std::vector<Tool> tools_;
  std::vector<Part>* out_ = nullptr;
  int32_t calls_ = 0;  // begun so far
  bool open_ = false;
};

// A parser whose calls begin with a tag. Subclasses read from after the tag to where text may follow again.
class TaggedParser : public Parser {
 public:
  TaggedParser(std::vector<Tool> tools, std::span<const std::string_view> open_tags)
      : writer_(std::move(tools)), open_tags_(open_tags) {}

  void Push(std::string_view text, std::vector<Part>& out) final;
  void Finish(std::vector<Part>& out) final;

 protected:
  virtual void Open(size_t tag) = 0;
  virtual Step Take(char byte) = 0;
  // The answer ends here: kEnd if what was read is whole although its closing tag did not come.
  virtual Step TakeEnd() { return Step::kBad; }
  // Text outside calls, for formats that look at how an answer begins: true opens a call with this byte.
  virtual bool OpensAt(char /*byte*/, bool /*first*/) { return false; }
  // The call is whole with this byte: should what follows be malformed, only that is text.
  void Settle() { settled_ = true; }

  CallWriter writer_;

 private:
  void TakeByte(char byte);
  void TakeText(char byte);
  void Release(size_t bytes);
  void Break();

  const std::span<const std::string_view> open_tags_;
  bool in_call_ = false, settled_ = false;
  bool any_text_ = false;    // other than white space, so far
  bool after_call_ = false;  // white space here belongs to the call
  std::string spaces_;       // that may turn out to stand before a call
  std::string held_;         // the beginning of a tag
  std::string raw_;          // the call's own text, should it be none
};

// Finds the end of a tag-like word in bytes that come one by one: how much of `tag` is matched so far.
class TagReader {
 public:
  explicit TagReader(std::string_view tag = {}) : tag_(tag) {}
  // False: the byte is not the tag's next.
  bool Take(char byte) {
    if (at_ >= tag_.size() || byte != tag_[at_]) return false;
    ++at_;
    return true;
  }
  bool done() const { return at_ == tag_.size(); }
  bool begun() const { return at_ > 0; }

 private:
  std::string_view tag_;
  size_t at_ = 0;
};

}  // namespace tidepool::toolcalls
