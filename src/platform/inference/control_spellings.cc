#include "platform/inference/control_spellings.h"

#include <algorithm>
#include <optional>
#include <set>

#include "base/check.h"
#include "base/ids.h"

namespace tidepool::platform {
namespace {

constexpr std::string_view kSpace = " \t\n\r\v\f";

// Bytes of the UTF-8 character that starts with `lead`.
size_t CharacterBytes(unsigned char lead) {
  if (lead < 0xC0) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

bool HasLongerWithPrefix(const std::vector<std::string>& sorted, std::string_view prefix) {
  auto it = std::upper_bound(sorted.begin(), sorted.end(), prefix);
  return it != sorted.end() && it->starts_with(prefix);
}

}  // namespace

ControlSpellings::ControlSpellings(std::vector<std::string> spellings) : sorted_(std::move(spellings)) {
  std::erase_if(sorted_, [](const std::string& s) { return s.empty(); });
  std::sort(sorted_.begin(), sorted_.end());
  sorted_.erase(std::unique(sorted_.begin(), sorted_.end()), sorted_.end());
  lengths_.resize(256);
  last_byte_.resize(256, false);
  for (const std::string& spelling : sorted_) {
    set_.insert(spelling);
    reversed_sorted_.emplace_back(spelling.rbegin(), spelling.rend());
    auto& lengths = lengths_[static_cast<unsigned char>(spelling.front())];
    const auto length = static_cast<uint32_t>(spelling.size());
    if (std::find(lengths.begin(), lengths.end(), length) == lengths.end()) lengths.push_back(length);
    last_byte_[static_cast<unsigned char>(spelling.back())] = true;
    longest_ = std::max(longest_, spelling.size());
  }
  std::sort(reversed_sorted_.begin(), reversed_sorted_.end());
  for (auto& lengths : lengths_) std::sort(lengths.rbegin(), lengths.rend());
}

ControlSpellings ControlSpellings::Of(const text::Tokenizer& tokenizer) {
  std::vector<std::string> spellings;
  for (text::TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (!tokenizer.IsControl(id) && tokenizer.special().unknown != id) continue;
    spellings.emplace_back(tokenizer.TokenBytes(id, /*render_special=*/true));
    spellings.emplace_back(tokenizer.Piece(id));
  }
  return ControlSpellings(std::move(spellings));
}

size_t ControlSpellings::MatchAt(std::string_view text, size_t at) const {
  if (lengths_.empty()) return 0;
  for (const uint32_t length : lengths_[static_cast<unsigned char>(text[at])]) {
    if (length <= text.size() - at && set_.contains(text.substr(at, length))) return length;
  }
  return 0;
}

bool ControlSpellings::EndsInside(std::string_view text) const {
  if (lengths_.empty()) return false;
  for (size_t k = 1; k < longest_ && k <= text.size(); ++k) {
    const std::string_view tail = text.substr(text.size() - k);
    if (!lengths_[static_cast<unsigned char>(tail.front())].empty() && HasLongerWithPrefix(sorted_, tail))
      return true;
  }
  return false;
}

bool ControlSpellings::StartsInside(std::string_view text) const {
  if (lengths_.empty()) return false;
  for (size_t k = 1; k < longest_ && k <= text.size(); ++k) {
    const std::string_view head = text.substr(0, k);
    if (!last_byte_[static_cast<unsigned char>(head.back())]) continue;
    if (HasLongerWithPrefix(reversed_sorted_, std::string(head.rbegin(), head.rend()))) return true;
  }
  return false;
}

std::string ControlSpellings::Guard(std::string_view text, std::string_view marker,
                                    const std::vector<std::string>& allowed) const {
  if (lengths_.empty() || text.empty()) return std::string(text);
  std::set<size_t> positions;
  for (size_t at = 0; at < text.size(); ++at) {
    const size_t length = MatchAt(text, at);
    if (length == 0) continue;
    const std::string_view spelling = text.substr(at, length);
    if (std::find(allowed.begin(), allowed.end(), spelling) != allowed.end()) continue;
    const size_t first = CharacterBytes(static_cast<unsigned char>(text[at]));
    positions.insert(first < length ? at + first : at);
  }
  const size_t begin = text.find_first_not_of(kSpace);
  if (begin != std::string_view::npos) {
    const size_t end = text.find_last_not_of(kSpace) + 1;
    const std::string_view core = text.substr(begin, end - begin);
    if (StartsInside(core)) positions.insert(begin);
    if (EndsInside(core)) positions.insert(end);
  }
  if (positions.empty()) return std::string(text);
  std::string out;
  out.reserve(text.size() + positions.size() * marker.size());
  size_t from = 0;
  for (const size_t position : positions) {
    out.append(text.substr(from, position - from)).append(marker);
    from = position;
  }
  return out.append(text.substr(from));
}

std::string ChooseMarker(const std::vector<std::string_view>& texts) {
  // U+FDD0..U+FDEF are noncharacters: valid UTF-8 (EF B7 90 .. EF B7 AF) that no text should hold.
  std::vector<bool> seen(32, false);
  for (const std::string_view text : texts) {
    for (size_t at = text.find("\xEF\xB7"); at != std::string_view::npos;
         at = text.find("\xEF\xB7", at + 1)) {
      if (at + 2 >= text.size()) continue;
      const auto last = static_cast<unsigned char>(text[at + 2]);
      if (last >= 0x90 && last <= 0xAF) seen[last - 0x90] = true;
    }
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    if (!seen[i]) return {'\xEF', '\xB7', static_cast<char>(0x90 + i)};
  }
  // All 32 are used: 16 random ones in a row hold 80 random bits, drawn after the texts were written.
  for (;;) {
    unsigned char random[16];
    RandomBytes(random, sizeof random);
    std::string marker;
    for (const unsigned char r : random) marker.append({'\xEF', '\xB7', static_cast<char>(0x90 + r % 32)});
    const auto holds = [&](std::string_view text) { return text.find(marker) != std::string_view::npos; };
    if (std::none_of(texts.begin(), texts.end(), holds)) return marker;
  }
}

void CollectStrings(const nlohmann::ordered_json& value, std::vector<std::string_view>& out) {
  if (value.is_string()) {
    out.push_back(value.get_ref<const std::string&>());
  } else if (value.is_object()) {
    for (const auto& [key, item] : value.items()) {
      out.push_back(key);
      CollectStrings(item, out);
    }
  } else if (value.is_array()) {
    for (const auto& item : value) CollectStrings(item, out);
  }
}

std::string RemoveMarkers(std::string_view text, std::string_view marker) {
  std::string out;
  out.reserve(text.size());
  size_t from = 0;
  for (size_t at; (at = text.find(marker, from)) != std::string_view::npos; from = at + marker.size()) {
    out.append(text.substr(from, at - from));
  }
  return out.append(text.substr(from));
}

std::vector<text::TokenId> EncodeRendered(const text::Tokenizer& tokenizer, const ControlSpellings& spellings,
                                          std::string_view rendered, std::string_view marker) {
  const text::EncodeOptions parse{.add_special = false, .parse_special = true};
  if (rendered.find(marker) == std::string_view::npos) return tokenizer.Encode(rendered, parse);

  std::vector<text::TokenId> tokens;
  const auto append = [&](std::string_view piece, const text::EncodeOptions& options) {
    if (piece.empty()) return;
    const auto part = tokenizer.Encode(piece, options);
    tokens.insert(tokens.end(), part.begin(), part.end());
  };
  size_t clean_begin = 0;  // control tokens and marker-free pieces not yet encoded
  size_t piece_begin = 0;  // the piece since the last control token
  bool marked = false;     // it holds a marker
  size_t after_marker = std::string_view::npos;
  const auto end_piece = [&](size_t end) {
    if (!marked) return;
    append(rendered.substr(clean_begin, piece_begin - clean_begin), parse);
    append(RemoveMarkers(rendered.substr(piece_begin, end - piece_begin), marker), {});
    clean_begin = end;
    marked = false;
  };
  size_t at = 0;
  while (at < rendered.size()) {
    if (rendered.substr(at).starts_with(marker)) {
      marked = true;
      at += marker.size();
      after_marker = at;
      continue;
    }
    const size_t length = spellings.MatchAt(rendered, at);
    // A spelling of one character cannot be broken inside: the marker stands before it.
    const bool broken =
        at == after_marker && length == CharacterBytes(static_cast<unsigned char>(rendered[at]));
    if (length == 0 || broken) {
      ++at;
      continue;
    }
    end_piece(at);
    at += length;
    piece_begin = at;
  }
  end_piece(rendered.size());
  append(rendered.substr(clean_begin), parse);
  return tokens;
}

}  // namespace tidepool::platform
