// SentencePiece's precompiled normalizer: a double-array trie of byte sequences and their replacements.
//
// Layout (sentencepiece/src/builder.cc, Darts-clone): u32 size of the trie in bytes, the trie's 32-bit units,
// then zero-terminated replacements. A unit: bits 0-7 label, 8 has a leaf, 9 wide offset, 10-30 offset; a
// leaf: bit 31 and the index of its replacement. The blob is hostile: every unit and index is checked when it
// is read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::text {

class Charsmap {
 public:
  static Result<Charsmap> Parse(std::string_view blob);
  static Result<Charsmap> ParseBase64(std::string_view base64);

  struct Hit {
    size_t size = 0;               // bytes replaced
    std::string_view replacement;  // well-formed UTF-8
  };
  // The longest (SentencePiece) or the shortest (what Hugging Face's spm_precompiled takes) key at the front.
  std::optional<Hit> Longest(std::string_view text) const { return Search(text, true); }
  std::optional<Hit> Shortest(std::string_view text) const { return Search(text, false); }

 private:
  std::optional<Hit> Search(std::string_view text, bool longest) const;
  std::vector<uint32_t> units_;
  std::string replacements_;
};

}  // namespace tidepool::text
