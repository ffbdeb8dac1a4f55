#include "models/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "models/text/unicode_tables.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

bool In(const CodeRange* ranges, size_t size, uint32_t code) {
  const CodeRange* end = ranges + size;
  const CodeRange* range =
      std::lower_bound(ranges, end, code, [](const CodeRange& r, uint32_t c) { return r.last < c; });
  return range != end && range->first <= code;
}

// One bit a code point. 136 KiB each, made at first use.
class CodeSet {
 public:
  template <typename Predicate>
  explicit CodeSet(Predicate&& predicate) : bits_(0x110000 / 64) {
    for (uint32_t code = 0; code < 0x110000; ++code) {
      if (predicate(code)) bits_[code >> 6] |= uint64_t{1} << (code & 63);
    }
  }
  bool Has(uint32_t code) const { return bits_[code >> 6] >> (code & 63) & 1; }

 private:
  std::vector<uint64_t> bits_;
};

bool IsBarrier(uint32_t code) {
  return In(kNormalizationBarrierRanges, kNormalizationBarrierRangesSize, code);
}

utf8proc_option_t OptionsOf(NormalForm form) {
  int options = UTF8PROC_STABLE;
  options |= form == NormalForm::kNfc || form == NormalForm::kNfkc ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::kNfkc || form == NormalForm::kNfkd) options |= UTF8PROC_COMPAT;
  return static_cast<utf8proc_option_t>(options);
}

// A character that stands alone in every form: no mark, no part of a composition, its own normal form. Text
// made of such characters is in that form already.
bool IsInert(uint32_t code, NormalForm form) {
  if (code < 0x80) return true;
  if (IsBarrier(code)) return true;
  if (code >= 0xD800 && code <= 0xDFFF) return true;
  const utf8proc_property_t* property = utf8proc_get_property(static_cast<utf8proc_int32_t>(code));
  if (property->combining_class != 0) return false;
  // Second halves of compositions have the high bit set in utf8proc's index; Hangul's are composed by
  // arithmetic.
  if (property->comb_index != UINT16_MAX && property->comb_index >= 0x8000) return false;
  if (code >= 0x1160 && code <= 0x11FF) return false;
  utf8proc_int32_t out[32];
  int last_class = 0;
  const auto size =
      utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code), out, 32, OptionsOf(form), &last_class);
  if (size == 1) return out[0] == static_cast<utf8proc_int32_t>(code);
  if (form == NormalForm::kNfd || form == NormalForm::kNfkd || size < 1 || size > 32) return false;
  // A precomposed character is its own NFC, except where composition is excluded.
  const auto composed = utf8proc_normalize_utf32(out, size, OptionsOf(form));
  return composed == 1 && out[0] == static_cast<utf8proc_int32_t>(code);
}

template <NormalForm kForm>
const CodeSet& InertSet() {
  static const CodeSet set([](uint32_t code) { return IsInert(code, kForm); });
  return set;
}

const CodeSet& InertSet(NormalForm form) {
  switch (form) {
    case NormalForm::kNfc: return InertSet<NormalForm::kNfc>();
    case NormalForm::kNfd: return InertSet<NormalForm::kNfd>();
    case NormalForm::kNfkc: return InertSet<NormalForm::kNfkc>();
    case NormalForm::kNfkd: break;
  }
  return InertSet<NormalForm::kNfkd>();
}

// `part` has no barrier.
void AppendNormalized(std::string& out, std::string_view part, utf8proc_option_t options,
                      std::vector<utf8proc_int32_t>& codes) {
  if (part.empty()) return;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(part.data());
  const auto size = static_cast<utf8proc_ssize_t>(part.size());
  codes.resize(part.size() * 2 + 32);
  auto written =
      utf8proc_decompose(bytes, size, codes.data(), static_cast<utf8proc_ssize_t>(codes.size()), options);
  if (written > static_cast<utf8proc_ssize_t>(codes.size())) {
    codes.resize(static_cast<size_t>(written));
    written = utf8proc_decompose(bytes, size, codes.data(), written, options);
  }
  CHECK(written >= 0);  // the text is well-formed, so nothing can be wrong with it
  written = utf8proc_normalize_utf32(codes.data(), written, options);
  CHECK(written >= 0);
  for (utf8proc_ssize_t i = 0; i < written; ++i) AppendCharacter(out, static_cast<uint32_t>(codes[i]));
}

}  // namespace

bool IsWhitespace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 || code == 0x1680 ||
         (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 || code == 0x202F ||
         code == 0x205F || code == 0x3000;
}

bool IsWordCharacter(uint32_t code) { return In(kWordRanges, kWordRangesSize, code); }
bool IsPunctuation(uint32_t code) { return In(kPunctuationRanges, kPunctuationRangesSize, code); }
bool IsNumeric(uint32_t code) { return In(kNumericRanges, kNumericRangesSize, code); }
bool IsRemovedByClean(uint32_t code) { return In(kControlRanges, kControlRangesSize, code); }
bool IsNonspacingMark(uint32_t code) { return In(kNonspacingMarkRanges, kNonspacingMarkRangesSize, code); }
bool IsCombiningMark(uint32_t code) { return In(kCombiningMarkRanges, kCombiningMarkRangesSize, code); }

bool IsBertIdeograph(uint32_t code) {
  // 0x2B920, not the block's 0x2B820: as in the reference, which models were trained with.
  return (code >= 0x4E00 && code <= 0x9FFF) || (code >= 0x3400 && code <= 0x4DBF) ||
         (code >= 0x20000 && code <= 0x2A6DF) || (code >= 0x2A700 && code <= 0x2B73F) ||
         (code >= 0x2B740 && code <= 0x2B81F) || (code >= 0x2B920 && code <= 0x2CEAF) ||
         (code >= 0xF900 && code <= 0xFAFF) || (code >= 0x2F800 && code <= 0x2FA1F);
}

void AppendLowercase(std::string& out, uint32_t code) {
  if (code < 0x80) {
    out += static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code);
    return;
  }
  if (code == 0x130) {
    out += "i\xCC\x87";
    return;
  }
  const CodePair* end = kLowercasePairs + kLowercasePairsSize;
  const CodePair* pair =
      std::lower_bound(kLowercasePairs, end, code, [](const CodePair& p, uint32_t c) { return p.from < c; });
  AppendCharacter(out, pair != end && pair->from == code ? pair->to : code);
}

void NormalizeText(std::string& text, NormalForm form) {
  if (IsAscii(text)) return;
  const CodeSet& inert = InertSet(form);
  const auto all_inert = [&] {
    for (size_t i = 0; i < text.size();) {
      const Character character = ReadValidCharacter(text, i);
      if (!inert.Has(character.code)) return false;
      i += character.size;
    }
    return true;
  };
  if (all_inert()) return;
  std::string out;
  out.reserve(text.size() + text.size() / 4);
  std::vector<utf8proc_int32_t> codes;
  size_t begin = 0;
  const std::string_view view = text;
  for (size_t i = 0; i < view.size();) {
    const Character character = ReadValidCharacter(view, i);
    if (character.code >= 0x300 && IsBarrier(character.code)) {
      AppendNormalized(out, view.substr(begin, i - begin), OptionsOf(form), codes);
      out += view.substr(i, character.size);
      begin = i + character.size;
    }
    i += character.size;
  }
  AppendNormalized(out, view.substr(begin), OptionsOf(form), codes);
  text = std::move(out);
}

bool ReplaceWithProxies(std::string_view text, std::string& out) {
  static const CodeSet affected([](uint32_t code) {
    const ProxyRange* end = kProxyRanges + kProxyRangesSize;
    const ProxyRange* range =
        std::lower_bound(kProxyRanges, end, code, [](const ProxyRange& r, uint32_t c) { return r.last < c; });
    return range != end && range->first <= code;
  });
  bool found = false;
  for (size_t i = 0; i < text.size();) {
    if (static_cast<unsigned char>(text[i]) < 0x80) {
      ++i;
      continue;
    }
    const Character character = ReadValidCharacter(text, i);
    if (affected.Has(character.code)) {
      if (!found) out.assign(text);
      found = true;
      const ProxyRange* range =
          std::lower_bound(kProxyRanges, kProxyRanges + kProxyRangesSize, character.code,
                           [](const ProxyRange& r, uint32_t c) { return r.last < c; });
      std::string proxy;
      AppendCharacter(proxy, range->proxy);
      CHECK(proxy.size() == character.size);
      out.replace(i, proxy.size(), proxy);
    }
    i += character.size;
  }
  return found;
}

}  // namespace tidepool::text
