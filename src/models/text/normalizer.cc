#include "models/text/normalizer.h"

#include <utility>

namespace tidepool::text {
namespace {

class Sequence final : public Normalizer {
 public:
  explicit Sequence(std::vector<NormalizerPointer> steps) : steps_(std::move(steps)) {}
  void Apply(std::string& text) const override {
    for (const auto& step : steps_) step->Apply(text);
  }

 private:
  std::vector<NormalizerPointer> steps_;
};

class Prepend final : public Normalizer {
 public:
  explicit Prepend(std::string prefix) : prefix_(std::move(prefix)) {}
  void Apply(std::string& text) const override {
    if (!text.empty()) text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Replace final : public Normalizer {
 public:
  Replace(SplitPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}
  void Apply(std::string& text) const override {
    std::vector<Match> matches;
    pattern_.FindAll(text, matches);
    if (matches.empty()) return;
    std::string out;
    out.reserve(text.size() + matches.size() * content_.size());
    size_t end = 0;
    for (const Match& match : matches) {
      out.append(text, end, match.begin - end);
      out += content_;
      end = match.end;
    }
    out.append(text, end);
    text = std::move(out);
  }

 private:
  SplitPattern pattern_;
  std::string content_;
};

}  // namespace

NormalizerPointer MakeNormalizerSequence(std::vector<NormalizerPointer> steps) {
  return std::make_unique<Sequence>(std::move(steps));
}
NormalizerPointer MakePrepend(std::string prefix) { return std::make_unique<Prepend>(std::move(prefix)); }
NormalizerPointer MakeReplace(SplitPattern pattern, std::string content) {
  return std::make_unique<Replace>(std::move(pattern), std::move(content));
}

}  // namespace tidepool::text
