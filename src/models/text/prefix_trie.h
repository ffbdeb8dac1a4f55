// Which keys of a set begin at a place of a text. Built once, then read from any thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <utility>
#include <vector>

namespace tidepool::text {

class PrefixTrie {
 public:
  // Pairs of key and value (>= 0); sorted by key and distinct; empty keys are ignored.
  void Build(const std::vector<std::pair<std::string_view, int32_t>>& entries);
  bool empty() const { return nodes_.size() <= 1; }

  // Calls visit(value, bytes) for each key that text[position...] begins with, the shortest first.
  template <typename Visit>
  void ForEachPrefix(std::string_view text, size_t position, Visit&& visit) const {
    if (position >= text.size()) return;
    uint32_t node = root_[static_cast<uint8_t>(text[position])];
    for (size_t at = position + 1; node != 0; ++at) {
      if (nodes_[node].value >= 0) visit(nodes_[node].value, at - position);
      if (at == text.size()) return;
      node = Child(node, static_cast<uint8_t>(text[at]));
    }
  }

 private:
  struct Node {
    uint32_t first_child = 0;  // children are consecutive nodes, sorted by byte
    int32_t value = -1;
    uint16_t children = 0;
    uint8_t byte = 0;
  };
  uint32_t Child(uint32_t node, uint8_t byte) const;

  std::vector<Node> nodes_;  // [0]: the root
  uint32_t root_[256] = {};
};

}  // namespace tidepool::text
