// How control tokens are spelt, and how user text that spells one is kept from becoming one.
//
// A chat template's output is tokenized with control tokens recognised, but the strings a client sent must
// stay text even when they contain "<|im_end|>". The template may trim, split and join them, so it is not
// enough to know where they went. Instead a *marker*, a short string that occurs nowhere in the request or
// the template, is inserted into the client's strings before rendering:
//   - inside every spelling of a control token, after its first character;
//   - at the end of a string (before its trailing white space) that ends with a proper prefix of a spelling,
//   and at
//     its start if it starts with a proper suffix: two strings that a template joins do not make a control
//     token.
// After rendering, a spelling without a marker was written by the template; the markers are dropped, and the
// pieces between control tokens that held one are encoded as plain text.
//
// Threads: immutable; any thread.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/result.h"
#include "models/text/tokenizer.h"

namespace tidepool::platform {

class ControlSpellings {
 public:
  ControlSpellings() = default;
  explicit ControlSpellings(std::vector<std::string> spellings);
  ControlSpellings(ControlSpellings&&) noexcept = default;
  ControlSpellings& operator=(ControlSpellings&&) noexcept = default;
  // Every control token (and the unknown token, which tokenizers recognise with them).
  static ControlSpellings Of(const text::Tokenizer& tokenizer);

  // Bytes of the longest spelling that starts at text[at]; 0 if none does.
  size_t MatchAt(std::string_view text, size_t at) const;
  // True if the text ends with a proper prefix (starts with a proper suffix) of a spelling.
  bool EndsInside(std::string_view text) const;
  bool StartsInside(std::string_view text) const;

  // `text` with `marker` inserted as described above. Spellings listed in `allowed` are left alone.
  std::string Guard(std::string_view text, std::string_view marker,
                    const std::vector<std::string>& allowed = {}) const;

  size_t size() const { return sorted_.size(); }

 private:
  std::vector<std::string> sorted_;
  std::vector<std::string> reversed_sorted_;
  std::unordered_set<std::string_view> set_;    // views into sorted_
  std::vector<std::vector<uint32_t>> lengths_;  // by first byte, longest first
  std::vector<bool> last_byte_;
  size_t longest_ = 0;
};

// A marker that occurs in none of `texts`: a Unicode noncharacter if one is unused, else several.
std::string ChooseMarker(const std::vector<std::string_view>& texts);

// All strings (and object keys) inside `value`, for ChooseMarker.
void CollectStrings(const nlohmann::ordered_json& value, std::vector<std::string_view>& out);

// `rendered` to tokens: control tokens where the template spelt them, text where a marker was.
std::vector<text::TokenId> EncodeRendered(const text::Tokenizer& tokenizer, const ControlSpellings& spellings,
                                          std::string_view rendered, std::string_view marker);

// `text` without its markers.
std::string RemoveMarkers(std::string_view text, std::string_view marker);

}  // namespace tidepool::platform
