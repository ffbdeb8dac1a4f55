// Tokens that are found in text before anything else: "<|im_start|>", "<think>", "[MASK]".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "models/text/prefix_trie.h"
#include "models/text/tokenizer.h"

namespace tidepool::text {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;      // text only, unless the caller parses special tokens
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;
  bool normalized = false;  // sought in normalized text
};

// Finds the leftmost-longest occurrences of a set of tokens. Immutable after Build; any thread.
class AddedTokenMatcher {
 public:
  // Empty contents are left out; of equal contents the last one counts.
  void Build(std::vector<AddedToken> tokens);
  bool empty() const { return tokens_.empty(); }

  // Calls on_text(view) and on_token(id) from left to right; together they cover `text` (but for stripped
  // space). With parse_special = false an occurrence of a special token is passed over as text, whole: a
  // shorter token inside it is not found (the rule of Hugging Face's encode_special_tokens).
  template <typename OnText, typename OnToken>
  void Split(std::string_view text, bool parse_special, OnText&& on_text, OnToken&& on_token) const {
    size_t start = 0;
    Found found;
    for (size_t from = 0; Next(text, from, parse_special, start, found);) {
      if (start < found.begin) on_text(text.substr(start, found.begin - start));
      on_token(found.id);
      start = found.end;
      from = found.resume;
    }
    if (start < text.size()) on_text(text.substr(start));
  }

 private:
  struct Found {
    size_t begin = 0, end = 0;  // with stripped space
    size_t resume = 0;          // where the search goes on
    TokenId id = 0;
  };
  bool Next(std::string_view text, size_t from, bool parse_special, size_t start, Found& found) const;

  std::vector<AddedToken> tokens_;  // sorted by content
  PrefixTrie trie_;                 // content -> index into tokens_
  bool first_byte_[256] = {};
};

}  // namespace tidepool::text
