// A regular expression that cuts text, as tokenizer files state it (Oniguruma's Ruby syntax), run by PCRE2's
// JIT.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::text {

struct Match {
  size_t begin = 0;
  size_t end = 0;
};

// Immutable after Compile; any thread.
class SplitPattern {
 public:
  // Fails with the pattern's text and the place of its first error.
  static Result<SplitPattern> Compile(std::string_view pattern);
  // A pattern that matches exactly `text`.
  static SplitPattern Literal(std::string_view text);

  // The next match in text[from, size), looking back no further than text[0]. False: no more. `text` is
  // well-formed. A pattern that runs over its step limit (a hostile file) counts as no match.
  bool Find(std::string_view text, size_t from, Match& match) const;
  // All matches from left to right; of empty ones only those that do not touch the match before.
  void FindAll(std::string_view text, std::vector<Match>& matches) const;

 private:
  struct Code;
  std::shared_ptr<const Code> code_;  // shared: patterns are copied into their users
  std::string literal_;
};

}  // namespace tidepool::text
