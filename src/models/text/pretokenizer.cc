#include "models/text/pretokenizer.h"

#include <utility>

namespace tidepool::text {
namespace {

// One stretch of a span, matched by the split's pattern or between two matches.
struct Cut {
  size_t begin, end;
  bool matched;
};

void CutsOf(const std::vector<Match>& matches, size_t size, bool invert, std::vector<Cut>& cuts) {
  cuts.clear();
  size_t end = 0;
  for (const Match& match : matches) {
    if (match.begin > end) cuts.push_back({end, match.begin, invert});
    cuts.push_back({match.begin, match.end, !invert});
    end = match.end;
  }
  if (end < size) cuts.push_back({end, size, invert});
}

// Joins cuts as the behaviour says; the folds are those of Hugging Face's NormalizedString::split.
void Join(SplitBehavior behavior, std::vector<Cut>& cuts) {
  std::vector<Cut> joined;
  bool previous = false;
  switch (behavior) {
    case SplitBehavior::kIsolated: return;
    case SplitBehavior::kRemoved:
      for (const Cut& cut : cuts) {
        if (!cut.matched) joined.push_back(cut);
      }
      break;
    case SplitBehavior::kContiguous:
      for (const Cut& cut : cuts) {
        if (cut.matched == previous && !joined.empty()) {
          joined.back().end = cut.end;
        } else {
          joined.push_back(cut);
        }
        previous = cut.matched;
      }
      break;
    case SplitBehavior::kMergedWithPrevious:
      for (const Cut& cut : cuts) {
        if (cut.matched && !previous && !joined.empty()) {
          joined.back().end = cut.end;
        } else {
          joined.push_back(cut);
        }
        previous = cut.matched;
      }
      break;
    case SplitBehavior::kMergedWithNext:
      for (size_t i = cuts.size(); i-- > 0;) {
        if (cuts[i].matched && !previous && !joined.empty()) {
          joined.back().begin = cuts[i].begin;
        } else {
          joined.push_back(cuts[i]);
        }
        previous = cuts[i].matched;
      }
      cuts.assign(joined.rbegin(), joined.rend());
      return;
  }
  cuts = std::move(joined);
}

class PatternSplit final : public PreTokenizer {
 public:
  PatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void Apply(Pieces& pieces) const override {
    std::vector<Span> spans;
    std::vector<Match> matches;
    std::vector<Cut> cuts;
    spans.reserve(pieces.text.size() / 4 + 1);
    bool first = true;
    for (const Span& span : pieces.spans) {
      matches.clear();
      pattern_.FindAll(pieces.At(span), matches);
      CutsOf(matches, span.size, invert_, cuts);
      Join(behavior_, cuts);
      if (first && (cuts.empty() || cuts[0].begin != 0)) pieces.starts_text = false;
      first = false;
      for (const Cut& cut : cuts) {
        if (cut.end > cut.begin) spans.push_back({span.begin + cut.begin, cut.end - cut.begin});
      }
    }
    pieces.spans = std::move(spans);
  }

 private:
  SplitPattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

class Sequence final : public PreTokenizer {
 public:
  explicit Sequence(std::vector<PreTokenizerPointer> steps) : steps_(std::move(steps)) {}
  void Apply(Pieces& pieces) const override {
    for (const auto& step : steps_) step->Apply(pieces);
  }

 private:
  std::vector<PreTokenizerPointer> steps_;
};

}  // namespace

PreTokenizerPointer MakePatternSplit(SplitPattern pattern, SplitBehavior behavior, bool invert) {
  return std::make_unique<PatternSplit>(std::move(pattern), behavior, invert);
}

PreTokenizerPointer MakePreTokenizerSequence(std::vector<PreTokenizerPointer> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}

}  // namespace tidepool::text
