#include "models/text/prefix_trie.h"

#include <algorithm>

namespace tidepool::text {

void PrefixTrie::Build(const std::vector<std::pair<std::string_view, int32_t>>& entries) {
  // Breadth-first over ranges of the sorted keys that share a prefix, so that siblings lie together.
  struct Range {
    size_t begin, end, depth;
  };
  nodes_.assign(1, Node{});
  std::vector<Range> ranges{{0, entries.size(), 0}};
  for (size_t n = 0; n < nodes_.size(); ++n) {
    auto [begin, end, depth] = ranges[n];
    if (begin < end && entries[begin].first.size() == depth) {
      if (depth > 0) nodes_[n].value = entries[begin].second;
      ++begin;
    }
    nodes_[n].first_child = static_cast<uint32_t>(nodes_.size());
    while (begin < end) {
      const char byte = entries[begin].first[depth];
      size_t stop = begin;
      while (stop < end && entries[stop].first[depth] == byte) ++stop;
      ++nodes_[n].children;
      Node child;
      child.byte = static_cast<uint8_t>(byte);
      nodes_.push_back(child);
      ranges.push_back({begin, stop, depth + 1});
      begin = stop;
    }
  }
  std::fill(std::begin(root_), std::end(root_), 0);
  for (uint32_t i = 0; i < nodes_[0].children; ++i) {
    const uint32_t child = nodes_[0].first_child + i;
    root_[nodes_[child].byte] = child;
  }
}

uint32_t PrefixTrie::Child(uint32_t node, uint8_t byte) const {
  const Node* begin = nodes_.data() + nodes_[node].first_child;
  const Node* end = begin + nodes_[node].children;
  if (nodes_[node].children <= 4) {
    for (const Node* child = begin; child != end; ++child) {
      if (child->byte == byte) return static_cast<uint32_t>(child - nodes_.data());
    }
    return 0;
  }
  const Node* child = std::lower_bound(begin, end, byte, [](const Node& n, uint8_t b) { return n.byte < b; });
  return child != end && child->byte == byte ? static_cast<uint32_t>(child - nodes_.data()) : 0;
}

}  // namespace tidepool::text
