// <tool_call><function=f><parameter=p>\nVALUE\n</parameter>..</function></tool_call>. Models leave out the
// outer tag or a </parameter>: <function= opens a call too, and the next <parameter= or </function> on a line
// of its own ends a value. One line break after the tag and one before the closing one belong to the tags.
//
// The schema's type says how a value becomes JSON: strings stream; others are read when they are whole, and
// are strings if they are not what the schema says.
#include "models/toolcalls/families.h"
#include "models/toolcalls/json_text.h"
#include "models/toolcalls/property_types.h"
#include "models/toolcalls/tagged_parser.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kXmlOpen[] = {"<tool_call>", "<function="};
constexpr std::string_view kParameter = "<parameter=";
constexpr std::string_view kParameterEnd = "</parameter>";
constexpr std::string_view kFunctionEnd = "</function>";
constexpr std::string_view kXmlCallEnd = "</tool_call>";
constexpr size_t kMaxXmlName = 256;

class QwenXmlParser final : public TaggedParser {
 public:
  explicit QwenXmlParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kXmlOpen) {}

 private:
  enum class Where : uint8_t { kStart, kName, kBetween, kParameterName, kValue, kAfter };

  void Open(size_t tag) override {
    where_ = tag == 0 ? Where::kStart : Where::kName;
    outer_ = tag == 0;
    word_.clear();
    any_parameter_ = false;
    tool_ = nullptr;
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kStart: {
        const Step step = TakeWord(byte, {kXmlOpen[1]});
        if (step == Step::kEnd) where_ = Where::kName;
        return step == Step::kEnd ? Step::kMore : step;
      }
      case Where::kName: return TakeName(byte);
      case Where::kBetween: {
        const Step step = TakeWord(byte, {kParameter, kFunctionEnd});
        if (step != Step::kEnd) return step;
        return found_ == kParameter ? BeginParameterName() : EndCall();
      }
      case Where::kParameterName: return TakeParameterName(byte);
      case Where::kValue: return TakeValue(byte);
      case Where::kAfter:
        if (word_.empty() && IsSpace(byte)) return Step::kMore;
        word_ += byte;
        if (word_ == kXmlCallEnd) return Step::kEnd;
        if (kXmlCallEnd.starts_with(word_)) return Step::kMore;
        return word_.size() == 1 ? Step::kEndBefore : Step::kBad;
    }
    return Step::kBad;
  }

  // One of `words`, after white space: kEnd, and which one in found_.
  Step TakeWord(char byte, std::initializer_list<std::string_view> words) {
    if (word_.empty() && IsSpace(byte)) return Step::kMore;
    word_ += byte;
    for (const std::string_view word : words) {
      if (!word.starts_with(word_)) continue;
      if (word != word_) return Step::kMore;
      found_ = word;
      word_.clear();
      return Step::kEnd;
    }
    return Step::kBad;
  }

  Step TakeName(char byte) {
    if (byte != '>') {
      word_ += byte;
      return IsSpace(byte) || word_.size() > kMaxXmlName ? Step::kBad : Step::kMore;
    }
    if (word_.empty()) return Step::kBad;
    writer_.Begin(word_);
    tool_ = writer_.Find(word_);
    word_.clear();
    where_ = Where::kBetween;
    return Step::kMore;
  }

  Step BeginParameterName() {
    where_ = Where::kParameterName;
    word_.clear();
    return Step::kMore;
  }

  Step TakeParameterName(char byte) {
    if (byte != '>') {
      word_ += byte;
      return word_.size() > kMaxXmlName ? Step::kBad : Step::kMore;
    }
    types_ = {};
    if (tool_ != nullptr && tool_->parameters.is_object()) {
      const auto properties = tool_->parameters.find("properties");
      if (properties != tool_->parameters.end() && properties->is_object() && properties->contains(word_)) {
        types_ = TypesOf((*properties)[word_], tool_->parameters);
      }
    }
    std::string piece = any_parameter_ ? ", " : "{";
    any_parameter_ = true;
    piece += Quoted(word_) + ": ";
    if (types_.only_string()) piece += '"';
    writer_.Arguments(piece);
    word_.clear();
    value_.clear();
    first_ = true;
    where_ = Where::kValue;
    return Step::kMore;
  }

  // word_ holds what may be the value's end: "\n</parameter>" and the like.
  Step TakeValue(char byte) {
    if (first_) {
      first_ = false;
      if (byte == '\n') return Step::kMore;
    }
    word_ += byte;
    while (!word_.empty()) {
      bool may_end = false;
      const size_t skip = word_.front() == '\n' ? 1 : 0;
      const std::string_view rest = std::string_view(word_).substr(skip);
      for (const std::string_view end : {kParameterEnd, kParameter, kFunctionEnd}) {
        if (end != kParameterEnd && skip == 0) continue;
        if (rest == end) return EndValue(end);
        may_end = may_end || end.starts_with(rest);
      }
      if (may_end) return Step::kMore;
      GiveValue(word_.front());
      word_.erase(0, 1);
    }
    return Step::kMore;
  }

  void GiveValue(char byte) {
    if (!types_.only_string()) {
      value_ += byte;
      return;
    }
    piece_.clear();
    AppendEscaped(piece_, {&byte, 1});
    writer_.Arguments(piece_);
  }

  Step EndValue(std::string_view end) {
    writer_.Arguments(types_.only_string() ? std::string("\"") : ValueAsJson(value_, types_));
    word_.clear();
    where_ = Where::kBetween;
    if (end == kParameter) return BeginParameterName();
    return end == kFunctionEnd ? EndCall() : Step::kMore;
  }

  Step EndCall() {
    writer_.Arguments(any_parameter_ ? "}" : "{}");
    writer_.End();
    Settle();
    word_.clear();
    where_ = Where::kAfter;
    return outer_ ? Step::kMore : Step::kEnd;
  }

  Step TakeEnd() override { return where_ == Where::kAfter && word_.empty() ? Step::kEnd : Step::kBad; }

  Where where_ = Where::kStart;
  bool outer_ = false, any_parameter_ = false, first_ = false;
  std::string word_, value_, piece_;
  std::string_view found_;
  const Tool* tool_ = nullptr;
  PropertyTypes types_;
};

}  // namespace

std::unique_ptr<Parser> MakeQwenXmlParser(std::vector<Tool> tools) {
  return std::make_unique<QwenXmlParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
