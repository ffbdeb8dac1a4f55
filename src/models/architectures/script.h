// What the scripted model says: directives in a prompt, and the answer's token number g as a pure function of
// them.
//
// The prompt is read through a callable, token by token, so that nothing is copied (Forward must not
// allocate) and the history can live in KV blocks. See README.md for the directives.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "chips/device.h"

namespace tidepool::architectures {

// Ids of text::Tokenizer::Bytes(): 0..255 are bytes.
inline constexpr int32_t kTurnBegin = 256;   // <|im_start|>
inline constexpr int32_t kTurnEnd = 257;     // <|im_end|>, ends an answer
inline constexpr int32_t kThinkBegin = 258;  // <think>
inline constexpr int32_t kThinkEnd = 259;    // </think>
inline constexpr int32_t kScriptVocab = 260;
inline constexpr int32_t kBrokenToken = -1;  // a slot that does not hold this sequence's token

// A sequence's tokens, kept in its KV blocks: K holds the id, V the position it was written for. Reading a
// slot whose V is not its own index gives kBrokenToken: a wrong block table or a lost block cannot go
// unnoticed.
class TokenHistory {
 public:
  TokenHistory(const chips::KvLayout& layout, std::byte* const* blocks, int32_t size)
      : layout_(layout), blocks_(blocks), size_(size) {}

  int32_t size() const { return size_; }
  int32_t operator[](int32_t index) const;
  void Write(int32_t index, int32_t token, int32_t position) const;
  TokenHistory Prefix(int32_t size) const { return {layout_, blocks_, size}; }
  // True if the text `literal` stands at `index`.
  bool Reads(int32_t index, std::string_view literal) const;
  bool Intact() const;

 private:
  const chips::KvLayout& layout_;
  std::byte* const* blocks_;
  int32_t size_;
};

struct ScriptedToken {
  int32_t token = kTurnEnd;
  int32_t stall_ms = 0;
  bool failed = false;
};
// N of the first "[[count:N]]" of the history, wherever it stands; -1: there is none (yet).
int32_t TallyTag(const TokenHistory& history);
// The token that follows this history.
ScriptedToken NextScriptedToken(const TokenHistory& history);

}  // namespace tidepool::architectures
