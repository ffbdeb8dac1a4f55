// <start_function_call>call:f{key:<escape>text<escape>,n:1,list:[..],object:{..}}<end_function_call>, made
// into JSON as it comes. A bare word that is no JSON literal becomes a string.
#include "models/toolcalls/families.h"
#include "models/toolcalls/json_text.h"
#include "models/toolcalls/tagged_parser.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kGemmaOpen[] = {"<start_function_call>"};
constexpr std::string_view kGemmaClose = "<end_function_call>";
constexpr std::string_view kEscape = "<escape>";
constexpr std::string_view kCallWord = "call:";
constexpr size_t kMaxGemmaName = 256;
constexpr size_t kMaxGemmaDepth = 64;

std::string_view TrimmedWord(std::string_view text) {
  while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
  while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
  return text;
}

class GemmaParser final : public TaggedParser {
 public:
  explicit GemmaParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kGemmaOpen) {}

 private:
  enum class Where : uint8_t { kName, kKey, kValue, kString, kBare, kAfterValue, kClose };

  void Open(size_t) override {
    where_ = Where::kName;
    word_.clear();
    open_.clear();
    close_ = TagReader(kGemmaClose);
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kName: return TakeName(byte);
      case Where::kKey: return TakeKey(byte);
      case Where::kValue: return TakeValue(byte);
      case Where::kString: return TakeString(byte);
      case Where::kBare:
        if (byte != ',' && byte != '}' && byte != ']') {
          word_ += byte;
          return Step::kMore;
        }
        GiveBare();
        [[fallthrough]];
      case Where::kAfterValue: return TakeAfterValue(byte);
      case Where::kClose:
        if (!close_.begun() && IsSpace(byte)) return Step::kMore;
        if (close_.Take(byte)) return close_.done() ? Step::kEnd : Step::kMore;
        return close_.begun() ? Step::kBad : Step::kEndBefore;
    }
    return Step::kBad;
  }

  Step TakeName(char byte) {
    if (byte != '{') {
      word_ += byte;
      return word_.size() > kMaxGemmaName ? Step::kBad : Step::kMore;
    }
    std::string_view name = TrimmedWord(word_);
    if (!name.starts_with(kCallWord)) return Step::kBad;
    name = TrimmedWord(name.substr(kCallWord.size()));
    if (name.empty() || name.find_first_of(" \t\r\n<>") != std::string_view::npos) return Step::kBad;
    writer_.Begin(name);
    return OpenContainer('{');
  }

  Step OpenContainer(char container) {
    if (open_.size() >= kMaxGemmaDepth) return Step::kBad;
    open_ += container;
    writer_.Arguments({&container, 1});
    first_ = true;
    word_.clear();
    where_ = container == '{' ? Where::kKey : Where::kValue;
    return Step::kMore;
  }

  Step CloseContainer(char closer) {
    if (open_.empty() || closer != (open_.back() == '{' ? '}' : ']')) return Step::kBad;
    open_.pop_back();
    writer_.Arguments({&closer, 1});
    where_ = Where::kAfterValue;
    if (!open_.empty()) return Step::kMore;
    writer_.End();
    Settle();
    where_ = Where::kClose;
    return Step::kMore;
  }

  Step TakeKey(char byte) {
    if (byte == '}' && first_ && TrimmedWord(word_).empty()) return CloseContainer('}');
    if (byte != ':') {
      word_ += byte;
      return word_.size() > kMaxGemmaName ? Step::kBad : Step::kMore;
    }
    std::string_view key = TrimmedWord(word_);
    if (key.starts_with(kEscape) && key.ends_with(kEscape) && key.size() >= 2 * kEscape.size()) {
      key = key.substr(kEscape.size(), key.size() - 2 * kEscape.size());
    }
    if (key.empty()) return Step::kBad;
    writer_.Arguments((first_ ? "" : ", ") + Quoted(key) + ": ");
    first_ = true;  // of what follows: no comma before a value
    word_.clear();
    where_ = Where::kValue;
    return Step::kMore;
  }

  Step TakeValue(char byte) {
    if (word_.empty()) {
      if (IsSpace(byte)) return Step::kMore;
      if (byte == ']' && open_.back() == '[' && first_) return CloseContainer(']');
      if (open_.back() == '[' && !first_) writer_.Arguments(", ");
      if (byte == '{' || byte == '[') return OpenContainer(byte);
      if (byte == ',' || byte == '}' || byte == ']') return Step::kBad;
    }
    word_ += byte;
    if (word_ == kEscape) {
      writer_.Arguments("\"");
      word_.clear();
      where_ = Where::kString;
    } else if (!kEscape.starts_with(word_)) {
      // Bare: its first bytes may hold its end already.
      const std::string word = std::move(word_);
      word_.clear();
      where_ = Where::kBare;
      for (size_t i = 0; i < word.size(); ++i) {
        if (where_ != Where::kBare) return Step::kBad;
        const Step step = Take(word[i]);
        if (step != Step::kMore) return i + 1 == word.size() ? step : Step::kBad;
      }
    }
    return Step::kMore;
  }

  Step TakeString(char byte) {
    word_ += byte;
    piece_.clear();
    while (!word_.empty() && !kEscape.starts_with(word_)) {
      AppendEscaped(piece_, std::string_view(word_).substr(0, 1));
      word_.erase(0, 1);
    }
    writer_.Arguments(piece_);
    if (word_ != kEscape) return Step::kMore;
    word_.clear();
    writer_.Arguments("\"");
    where_ = Where::kAfterValue;
    return Step::kMore;
  }

  void GiveBare() {
    const std::string_view word = TrimmedWord(word_);
    const auto value = nlohmann::json::parse(word, nullptr, /*allow_exceptions=*/false);
    writer_.Arguments(value.is_discarded() ? Quoted(word) : std::string(word));
    word_.clear();
    where_ = Where::kAfterValue;
  }

  Step TakeAfterValue(char byte) {
    if (IsSpace(byte)) return Step::kMore;
    if (byte != ',') return CloseContainer(byte);
    first_ = false;
    where_ = open_.back() == '{' ? Where::kKey : Where::kValue;
    return Step::kMore;
  }

  Step TakeEnd() override { return where_ == Where::kClose && !close_.begun() ? Step::kEnd : Step::kBad; }

  Where where_ = Where::kName;
  bool first_ = true;
  std::string word_, piece_, open_;
  TagReader close_;
};

}  // namespace

std::unique_ptr<Parser> MakeGemmaParser(std::vector<Tool> tools) {
  return std::make_unique<GemmaParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
