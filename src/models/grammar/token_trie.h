// A vocabulary as a tree of bytes, so that a grammar looks at a beginning that many tokens share once.
//
// Tokens that are nothing but whole characters of a JSON string (no quote, no backslash, no control
// character) are kept apart: inside such a string all of them are allowed, and only the others, a tenth or
// so, are walked.
//
// Threads: immutable after Build; UpTo has a lock of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "models/text/tokenizer.h"

namespace tidepool::grammar {

class TokenTrie {
 public:
  // Nodes in the order of a walk that goes down first.
  struct Node {
    uint8_t byte = 0;
    uint8_t depth = 0;   // of the byte in its tokens: 0 is the first
    int32_t token = -1;  // that ends here
    int32_t same = -1;   // index into `same`, where further tokens of the same bytes are
    int32_t after = 0;   // the node after everything below this one
  };
  // `visible`: control tokens whose text counts as text ("<tool_call>"). Tokens of more than 255 bytes and
  // control tokens are in no tree: a grammar never allows them.
  static std::shared_ptr<const TokenTrie> Build(const text::Tokenizer& tokenizer,
                                                std::span<const int32_t> visible);

  std::span<const Node> all() const { return all_; }
  std::span<const Node> others() const { return others_; }
  // Calls body(token) for every token of `node`.
  template <typename Body>
  void ForEachToken(const Node& node, const Body& body) const {
    if (node.token >= 0) body(node.token);
    for (int32_t i = node.same; i >= 0; i = same_[static_cast<size_t>(i)].second)
      body(same_[static_cast<size_t>(i)].first);
  }

  // One bit a token: those of nothing but characters of a JSON string, at most `characters` of them.
  std::shared_ptr<const std::vector<uint64_t>> UpTo(int32_t characters) const;
  int32_t longest() const { return longest_; }  // bytes of a token, at most 255
  int32_t vocab_size() const { return vocab_size_; }
  size_t words() const { return (static_cast<size_t>(vocab_size_) + 63) / 64; }
  std::span<const int32_t> end_tokens() const { return end_tokens_; }
  uint64_t bytes() const;

 private:
  void AddNodes(const std::vector<std::pair<std::string_view, int32_t>>& sorted, std::vector<Node>& nodes);

  int32_t vocab_size_ = 0, longest_ = 1;
  std::vector<int32_t> end_tokens_;
  std::vector<Node> all_, others_;
  std::vector<std::pair<int32_t, int32_t>> same_;     // token, next
  std::vector<std::pair<int32_t, int32_t>> strings_;  // characters, token; sorted
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<const std::vector<uint64_t>>> up_to_;  // [characters]
};

}  // namespace tidepool::grammar
