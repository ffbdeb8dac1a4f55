// GGUF names a byte-level BPE's pre-tokenizer ("tokenizer.ggml.pre"); here is what the names mean.
#pragma once

#include <span>
#include <string_view>

namespace tidepool::text {

struct GgufPattern {
  std::string_view pre;
  std::span<const std::string_view> splits;  // applied one after the other, matches isolated
  bool ignore_merges = false;
  bool add_bos = false;
};

// Null: an unknown name.
const GgufPattern* FindGgufPattern(std::string_view pre);
std::span<const GgufPattern> AllGgufPatterns();

}  // namespace tidepool::text
