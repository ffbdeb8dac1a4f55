#include "models/text/added_tokens.h"

#include <algorithm>
#include <numeric>

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
  // Stable by hand: std::stable_sort trips a deprecation inside libstdc++ 12 under clang.
  std::vector<size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    const int difference = tokens[a].content.compare(tokens[b].content);
    return difference != 0 ? difference < 0 : a < b;
  });
  tokens_.clear();
  for (const size_t index : order) {
    AddedToken& token = tokens[index];
    if (token.content.empty()) continue;
    if (!tokens_.empty() && tokens_.back().content == token.content) tokens_.pop_back();
    tokens_.push_back(std::move(token));
  }
  std::vector<std::pair<std::string_view, int32_t>> entries;
  for (size_t i = 0; i < tokens_.size(); ++i)
    entries.emplace_back(tokens_[i].content, static_cast<int32_t>(i));
  trie_.Build(entries);
  std::fill(std::begin(first_byte_), std::end(first_byte_), false);
  for (const AddedToken& token : tokens_) first_byte_[static_cast<uint8_t>(token.content[0])] = true;
}

bool AddedTokenMatcher::Next(std::string_view text, size_t from, bool parse_special, size_t start,
                             Found& found) const {
  if (tokens_.empty()) return false;
  for (size_t i = from; i < text.size();) {
    if (!first_byte_[static_cast<uint8_t>(text[i])]) {
      ++i;
      continue;
    }
    int32_t index = -1;
    trie_.ForEachPrefix(text, i, [&](int32_t value, size_t) { index = value; });
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
