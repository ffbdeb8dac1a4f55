#include "models/text/added_tokens.h"

#include <algorithm>

#include "models/text/unicode.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

bool EndsWithWord(std::string_view text) {
  return !text.empty() &&
         IsWordCharacter(ReadValidCharacter(text, PreviousCharacter(text, text.size())).code);
}

bool StartsWithWord(std::string_view text) {
  return !text.empty() && IsWordCharacter(ReadValidCharacter(text, 0).code);
}

size_t SkipSpaceBack(std::string_view text, size_t position) {
  while (position > 0) {
    const size_t previous = PreviousCharacter(text, position);
    if (!IsWhitespace(ReadValidCharacter(text, previous).code)) break;
    position = previous;
  }
  return position;
}

size_t SkipSpace(std::string_view text, size_t position) {
  while (position < text.size()) {
    const Character character = ReadValidCharacter(text, position);
    if (!IsWhitespace(character.code)) break;
    position += character.size;
  }
  return position;
}

}  // namespace

void AddedTokenMatcher::Build(std::vector<AddedToken> tokens) {
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
  tokens_.clear();
  for (AddedToken& token : tokens) {
    if (token.content.empty()) continue;
    if (!tokens_.empty() && tokens_.back().content == token.content) tokens_.pop_back();
    tokens_.push_back(std::move(token));
  }
  // Breadth-first over ranges of the sorted contents that share a prefix, so that siblings lie together.
  struct Range {
    size_t begin, end, depth;
  };
  nodes_.assign(1, Node{});
  edges_.clear();
  std::vector<Range> ranges{{0, tokens_.size(), 0}};
  for (size_t n = 0; n < nodes_.size(); ++n) {
    auto [begin, end, depth] = ranges[n];
    if (begin < end && tokens_[begin].content.size() == depth)
      nodes_[n].token = static_cast<int32_t>(begin++);
    nodes_[n].first_child = static_cast<uint32_t>(edges_.size());
    while (begin < end) {
      const char byte = tokens_[begin].content[depth];
      size_t stop = begin;
      while (stop < end && tokens_[stop].content[depth] == byte) ++stop;
      edges_.push_back({static_cast<uint8_t>(byte), static_cast<uint32_t>(nodes_.size())});
      ++nodes_[n].children;
      nodes_.emplace_back();
      ranges.push_back({begin, stop, depth + 1});
      begin = stop;
    }
  }
  std::fill(std::begin(first_byte_), std::end(first_byte_), false);
  for (const AddedToken& token : tokens_) first_byte_[static_cast<uint8_t>(token.content[0])] = true;
}

int32_t AddedTokenMatcher::LongestAt(std::string_view text, size_t position) const {
  int32_t best = -1;
  for (uint32_t node = 0;;) {
    if (nodes_[node].token >= 0) best = nodes_[node].token;
    if (position == text.size()) return best;
    const Edge* begin = edges_.data() + nodes_[node].first_child;
    const Edge* end = begin + nodes_[node].children;
    const auto byte = static_cast<uint8_t>(text[position++]);
    const Edge* edge =
        std::lower_bound(begin, end, byte, [](const Edge& e, uint8_t b) { return e.byte < b; });
    if (edge == end || edge->byte != byte) return best;
    node = edge->node;
  }
}

bool AddedTokenMatcher::Next(std::string_view text, size_t from, bool parse_special, size_t start,
                             Found& found) const {
  if (tokens_.empty()) return false;
  for (size_t i = from; i < text.size();) {
    if (!first_byte_[static_cast<uint8_t>(text[i])]) {
      ++i;
      continue;
    }
    const int32_t index = LongestAt(text, i);
    if (index < 0) {
      ++i;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(index)];
    const size_t end = i + token.content.size();
    const bool inside_word =
        token.single_word && (EndsWithWord(text.substr(0, i)) || StartsWithWord(text.substr(end)));
    if ((token.special && !parse_special) || inside_word) {
      i = end;
      continue;
    }
    found = {i, end, end, token.id};
    if (token.lstrip) found.begin = std::max(SkipSpaceBack(text, i), start);
    if (token.rstrip) found.end = SkipSpace(text, end);
    // A match that begins inside space already taken still counts (as it does in the reference), but no
    // earlier.
    found.begin = std::max(found.begin, std::min(start, found.end));
    return true;
  }
  return false;
}

}  // namespace tidepool::text
