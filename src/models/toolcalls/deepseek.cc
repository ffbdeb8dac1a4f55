// <｜tool▁calls▁begin｜> ( <｜tool▁call▁begin｜> CALL <｜tool▁call▁end｜> )* <｜tool▁calls▁end｜>, with CALL
// as
//   V3, R1  function<｜tool▁sep｜>NAME\n```json\n{..}\n```
//   V3.1    NAME<｜tool▁sep｜>{..}
// Kimi K2 writes the same with other tags, and functions.NAME:0 for a name.
#include <optional>
#include <span>

#include "models/toolcalls/call_object.h"
#include "models/toolcalls/families.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kDeepSeekOpen[] = {"<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"};
constexpr std::string_view kKimiOpen[] = {"<|tool_calls_section_begin|>", "<|tool_call_begin|>"};

struct SectionTags {
  std::span<const std::string_view> open;  // of all calls, and of one
  std::string_view separator, call_end, calls_end;
};
constexpr SectionTags kDeepSeekTagsRead{kDeepSeekOpen, "<｜tool▁sep｜>", "<｜tool▁call▁end｜>",
                                        "<｜tool▁calls▁end｜>"};
constexpr SectionTags kKimiTagsRead{kKimiOpen, "<|tool_call_argument_begin|>", "<|tool_call_end|>",
                                    "<|tool_calls_section_end|>"};
constexpr size_t kMaxDeepSeekHead = 512;

std::string_view Trimmed(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

// "functions.f:0" -> "f"
std::string_view WithoutKimisNumber(std::string_view name) {
  const size_t colon = name.rfind(':');
  if (colon != std::string_view::npos && colon + 1 < name.size() &&
      name.find_first_not_of("0123456789", colon + 1) == std::string_view::npos)
    name = name.substr(0, colon);
  if (name.starts_with("functions.")) name.remove_prefix(std::string_view("functions.").size());
  return name;
}

class SectionParser final : public TaggedParser {
 public:
  SectionParser(std::vector<Tool> tools, const SectionTags& tags, bool kimi)
      : TaggedParser(std::move(tools), tags.open), tags_(tags), kimi_(kimi) {}

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
        if (!word_.ends_with(tags_.separator)) return Step::kMore;
        head_ = Trimmed(std::string_view(word_).substr(0, word_.size() - tags_.separator.size()));
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
        if (!tags_.call_end.starts_with(word_)) return word_.size() == 1 ? Step::kEndBefore : Step::kBad;
        if (word_ != tags_.call_end) return Step::kMore;
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
    if (word_ == tags_.calls_end) return Step::kEnd;
    if (word_ == tags_.open[1]) {
      word_.clear();
      where_ = Where::kHead;
      return Step::kMore;
    }
    if (tags_.calls_end.starts_with(word_) || tags_.open[1].starts_with(word_)) return Step::kMore;
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
    if (name.empty()) name = kimi_ ? WithoutKimisNumber(head_) : head_;
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

  const SectionTags& tags_;
  const bool kimi_;
  Where where_ = Where::kBetween;
  std::string word_, head_;
  std::optional<ArgumentsObject> arguments_;
};

}  // namespace

std::unique_ptr<Parser> MakeDeepSeekParser(std::vector<Tool> tools) {
  return std::make_unique<SectionParser>(std::move(tools), kDeepSeekTagsRead, false);
}

std::unique_ptr<Parser> MakeKimiParser(std::vector<Tool> tools) {
  return std::make_unique<SectionParser>(std::move(tools), kKimiTagsRead, true);
}

}  // namespace tidepool::toolcalls
