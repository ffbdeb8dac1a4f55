// Text cut into pieces: what pre-tokenizers work on.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tidepool::text {

struct Span {
  size_t begin = 0;
  size_t size = 0;
};

// Spans lie within `text`, in order, without overlap; text between them was removed.
struct Pieces {
  std::string text;  // well-formed UTF-8
  std::vector<Span> spans;
  bool starts_text = false;  // the first span begins where the caller's whole text begins
  // Bytes at the front of `text` that a normalizer put there.
  std::string_view At(const Span& span) const { return std::string_view(text).substr(span.begin, span.size); }
};

}  // namespace tidepool::text
