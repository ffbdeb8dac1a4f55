// The generated tables; see tools/tokenizer_unicode.py and unicode.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::text {

struct CodeRange {
  uint32_t first, last;
};
struct CodePair {
  uint32_t from, to;
};
struct ProxyRange {
  uint32_t first, last, proxy;
};

extern const CodeRange kWordRanges[], kPunctuationRanges[], kNumericRanges[], kControlRanges[],
    kNonspacingMarkRanges[], kCombiningMarkRanges[], kNormalizationBarrierRanges[];
extern const size_t kWordRangesSize, kPunctuationRangesSize, kNumericRangesSize, kControlRangesSize,
    kNonspacingMarkRangesSize, kCombiningMarkRangesSize, kNormalizationBarrierRangesSize;
extern const CodePair kLowercasePairs[];
extern const size_t kLowercasePairsSize;
extern const ProxyRange kProxyRanges[];
extern const size_t kProxyRangesSize;

}  // namespace tidepool::text
