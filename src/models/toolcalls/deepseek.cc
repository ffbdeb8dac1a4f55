// <｜tool▁calls▁begin｜> ( <｜tool▁call▁begin｜> CALL <｜tool▁call▁end｜> )* <｜tool▁calls▁end｜>, with CALL
// as
//   V3, R1  function<｜tool▁sep｜>NAME\n```json\n{..}\n```
//   V3.1    NAME<｜tool▁sep｜>{..}
#include <array>
#include <optional>

#include "models/toolcalls/call_object.h"
#include "models/toolcalls/families.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kDeepSeekOpen[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"};
constexpr std::string_view kSeparator = "<｜tool▁sep｜>";
constexpr std::string_view kCallEnd = "<｜tool▁call▁end｜>";
constexpr std::string_view kCallsEnd = "<｜tool▁calls▁end｜>";
constexpr size_t kMaxDeepSeekHead = 512;

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

class DeepSeekParser final : public TaggedParser {
 public:
  explicit DeepSeekParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kDeepSeekOpen) {}

 private:
  enum class Where : uint8_t { kBetween, kHead, kName, kArguments, kAfter };

  void Open(size_t tag) override {
    where_ = tag == 0 ? Where::kBetween : Where::kHead;
    word_.clear();
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kBetween: return TakeBetween(byte);
      case Where::kHead:
        word_ += byte;
        if (word_.size() > kMaxDeepSeekHead) return Step::kBad;
        if (!word_.ends_with(kSeparator)) return Step::kMore;
        head_ = Trimmed(std::string_view(word_).substr(0, word_.size() - kSeparator.size()));
        word_.clear();
        where_ = Where::kName;
        return Step::kMore;
      case Where::kName: return TakeName(byte);
      case Where::kArguments: {
        const Step step = arguments_->Take(byte);
        if (step != Step::kEnd) return step;
        writer_.End();
        Settle();
        word_.clear();
        where_ = Where::kAfter;
        return Step::kMore;
      }
      case Where::kAfter:
        if (word_.empty() && (IsSpace(byte) || byte == '`')) return Step::kMore;
        word_ += byte;
        if (!kCallEnd.starts_with(word_)) return word_.size() == 1 ? Step::kEndBefore : Step::kBad;
        if (word_ != kCallEnd) return Step::kMore;
        word_.clear();
        Settle();
        where_ = Where::kBetween;
        return Step::kMore;
    }
    return Step::kBad;
  }

  // The next call or the end of all.
  Step TakeBetween(char byte) {
    if (word_.empty() && IsSpace(byte)) return Step::kMore;
    word_ += byte;
    if (word_ == kCallsEnd) return Step::kEnd;
    if (word_ == kDeepSeekOpen[1]) {
      word_.clear();
      where_ = Where::kHead;
      return Step::kMore;
    }
    if (kCallsEnd.starts_with(word_) || kDeepSeekOpen[1].starts_with(word_)) return Step::kMore;
    // Anything else before the first call makes the opening tag text.
    return writer_.calls() > 0 && word_.size() == 1 ? Step::kEndBefore : Step::kBad;
  }

  // What stands before the arguments' brace: nothing, or the name and a fence.
  Step TakeName(char byte) {
    if (byte != '{') {
      word_ += byte;
      return word_.size() > kMaxDeepSeekHead ? Step::kBad : Step::kMore;
    }
    std::string_view name = Trimmed(word_);
    for (const std::string_view fence : {"```json", "```"}) {
      if (name.ends_with(fence)) {
        name = Trimmed(name.substr(0, name.size() - fence.size()));
        break;
      }
    }
    if (name.empty()) name = head_;
    if (name.empty() || name.find_first_of(" \t\r\n`") != std::string_view::npos) return Step::kBad;
    writer_.Begin(name);
    arguments_.emplace(writer_);
    where_ = Where::kArguments;
    return arguments_->Take(byte);
  }

  Step TakeEnd() override {
    const bool whole = where_ == Where::kAfter || (where_ == Where::kBetween && writer_.calls() > 0);
    return whole && word_.empty() ? Step::kEnd : Step::kBad;
  }

  Where where_ = Where::kBetween;
  std::string word_, head_;
  std::optional<ArgumentsObject> arguments_;
};

}  // namespace

std::unique_ptr<Parser> MakeDeepSeekParser(std::vector<Tool> tools) {
  return std::make_unique<DeepSeekParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
