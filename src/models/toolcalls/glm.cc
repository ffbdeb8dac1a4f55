// <tool_call>f<arg_key>k</arg_key><arg_value>v</arg_value>..</tool_call>, with white space between the tags
// in some models. The schema's types say how a value becomes JSON: strings stream as they are; others are
// read when they are whole.
#include "models/toolcalls/families.h"
#include "models/toolcalls/json_text.h"
#include "models/toolcalls/property_types.h"
#include "models/toolcalls/tagged_parser.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kGlmOpen[] = {"<tool_call>"};
constexpr std::string_view kGlmKey = "<arg_key>";
constexpr std::string_view kGlmKeyEnd = "</arg_key>";
constexpr std::string_view kGlmValue = "<arg_value>";
constexpr std::string_view kGlmValueEnd = "</arg_value>";
constexpr std::string_view kGlmClose = "</tool_call>";
constexpr size_t kMaxGlmName = 256;

class GlmParser final : public TaggedParser {
 public:
  explicit GlmParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kGlmOpen) {}

 private:
  enum class Where : uint8_t { kName, kBetween, kKey, kBeforeValue, kValue };

  void Open(size_t) override {
    where_ = Where::kName;
    word_.clear();
    name_.clear();
    any_ = false;
    tool_ = nullptr;
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kName: return TakeName(byte);
      case Where::kBetween: return TakeBetween(byte);
      case Where::kKey:
        word_ += byte;
        if (word_.size() > kMaxGlmName + kGlmKeyEnd.size()) return Step::kBad;
        if (!word_.ends_with(kGlmKeyEnd)) return Step::kMore;
        BeginValue(Trim(std::string_view(word_).substr(0, word_.size() - kGlmKeyEnd.size())));
        return Step::kMore;
      case Where::kBeforeValue:
        if (word_.empty() && IsSpace(byte)) return Step::kMore;
        word_ += byte;
        if (!kGlmValue.starts_with(word_)) return Step::kBad;
        if (word_ != kGlmValue) return Step::kMore;
        word_.clear();
        value_.clear();
        if (types_.only_string()) writer_.Arguments("\"");
        where_ = Where::kValue;
        return Step::kMore;
      case Where::kValue: return TakeValue(byte);
    }
    return Step::kBad;
  }

  static std::string_view Trim(std::string_view text) {
    while (!text.empty() && IsSpace(text.front())) text.remove_prefix(1);
    while (!text.empty() && IsSpace(text.back())) text.remove_suffix(1);
    return text;
  }

  // The name ends at the first tag.
  Step TakeName(char byte) {
    if (byte != '<') {
      name_ += byte;
      return name_.size() > kMaxGlmName ? Step::kBad : Step::kMore;
    }
    const std::string_view name = Trim(name_);
    if (name.empty() || name.find_first_of(" \t\r\n{\"") != std::string_view::npos) return Step::kBad;
    writer_.Begin(name);
    tool_ = writer_.Find(name);
    where_ = Where::kBetween;
    return TakeBetween(byte);
  }

  Step TakeBetween(char byte) {
    if (word_.empty() && IsSpace(byte)) return Step::kMore;
    word_ += byte;
    if (word_ == kGlmKey) {
      word_.clear();
      where_ = Where::kKey;
      return Step::kMore;
    }
    if (word_ == kGlmClose) {
      writer_.Arguments(any_ ? "}" : "{}");
      writer_.End();
      return Step::kEnd;
    }
    return kGlmKey.starts_with(word_) || kGlmClose.starts_with(word_) ? Step::kMore : Step::kBad;
  }

  void BeginValue(std::string_view key) {
    types_ = {};
    if (tool_ != nullptr && tool_->parameters.is_object()) {
      const auto properties = tool_->parameters.find("properties");
      if (properties != tool_->parameters.end() && properties->is_object()) {
        const auto property = properties->find(key);
        if (property != properties->end()) types_ = TypesOf(*property, tool_->parameters);
      }
    }
    writer_.Arguments((any_ ? ", " : "{") + Quoted(key) + ": ");
    any_ = true;
    word_.clear();
    where_ = Where::kBeforeValue;
  }

  // word_ holds what may be the closing tag.
  Step TakeValue(char byte) {
    word_ += byte;
    while (!word_.empty() && !kGlmValueEnd.starts_with(word_)) {
      if (types_.only_string()) {
        piece_.clear();
        AppendEscaped(piece_, std::string_view(word_).substr(0, 1));
        writer_.Arguments(piece_);
      } else {
        value_ += word_.front();
      }
      word_.erase(0, 1);
    }
    if (word_ != kGlmValueEnd) return Step::kMore;
    writer_.Arguments(types_.only_string() ? std::string("\"") : ValueAsJson(value_, types_));
    word_.clear();
    where_ = Where::kBetween;
    return Step::kMore;
  }

  Where where_ = Where::kName;
  bool any_ = false;
  std::string name_, word_, value_, piece_;
  const Tool* tool_ = nullptr;
  PropertyTypes types_;
};

}  // namespace

std::unique_ptr<Parser> MakeGlmParser(std::vector<Tool> tools) {
  return std::make_unique<GlmParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
