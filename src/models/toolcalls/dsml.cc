// <｜DSML｜function_calls> ( <｜DSML｜invoke name="f"> ( <｜DSML｜parameter name="k" string="true|false"> V
// </｜DSML｜parameter> )* </｜DSML｜invoke> )* </｜DSML｜function_calls>: DeepSeek V3.2; V4 writes tool_calls
// for function_calls. string="true": V is the string; "false": V is JSON, and a string where it is none.
#include "models/toolcalls/families.h"
#include "models/toolcalls/json_text.h"
#include "models/toolcalls/tagged_parser.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kDsmlOpen[] = {"<｜DSML｜function_calls>", "<｜DSML｜tool_calls>"};
constexpr std::string_view kDsmlClose[] = {"</｜DSML｜function_calls>", "</｜DSML｜tool_calls>"};
constexpr std::string_view kInvoke = "<｜DSML｜invoke name=\"";
constexpr std::string_view kInvokeEnd = "</｜DSML｜invoke>";
constexpr std::string_view kDsmlParameter = "<｜DSML｜parameter name=\"";
constexpr std::string_view kDsmlParameterEnd = "</｜DSML｜parameter>";
constexpr std::string_view kIsString = "string=\"true\"";
constexpr std::string_view kIsJson = "string=\"false\"";
constexpr size_t kMaxDsmlName = 256;

class DsmlParser final : public TaggedParser {
 public:
  explicit DsmlParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kDsmlOpen) {}

 private:
  enum class Where : uint8_t { kCalls, kName, kParameters, kKey, kKind, kValue };

  void Open(size_t tag) override {
    close_ = kDsmlClose[tag];
    where_ = Where::kCalls;
    word_.clear();
    begun_ = writer_.calls();
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kCalls: {
        const Step step = TakeWord(byte, kInvoke, close_);
        if (step != Step::kEnd) return step;
        if (found_ == close_) return writer_.calls() > begun_ ? Step::kEnd : Step::kBad;
        where_ = Where::kName;
        return Step::kMore;
      }
      case Where::kName:  // name">
        if (byte == '>' && word_.ends_with('"')) {
          word_.pop_back();
          if (word_.empty() || word_.find_first_of(" \t\r\n\"<") != std::string::npos) return Step::kBad;
          writer_.Begin(word_);
          any_ = false;
          word_.clear();
          where_ = Where::kParameters;
          return Step::kMore;
        }
        word_ += byte;
        return word_.size() > kMaxDsmlName ? Step::kBad : Step::kMore;
      case Where::kParameters: {
        const Step step = TakeWord(byte, kDsmlParameter, kInvokeEnd);
        if (step != Step::kEnd) return step;
        where_ = found_ == kInvokeEnd ? Where::kCalls : Where::kKey;
        if (where_ == Where::kKey) return Step::kMore;
        writer_.Arguments(any_ ? "}" : "{}");
        writer_.End();
        Settle();
        return Step::kMore;
      }
      case Where::kKey:
        if (byte == '"') {
          writer_.Arguments((any_ ? ", " : "{") + Quoted(word_) + ": ");
          any_ = true;
          word_.clear();
          where_ = Where::kKind;
          return Step::kMore;
        }
        word_ += byte;
        return word_.size() > kMaxDsmlName ? Step::kBad : Step::kMore;
      case Where::kKind: {  // string="true">
        if (word_.empty() && IsSpace(byte)) return Step::kMore;
        if (byte == '>' && (word_ == kIsString || word_ == kIsJson)) {
          string_ = word_ == kIsString;
          if (string_) writer_.Arguments("\"");
          word_.clear();
          value_.clear();
          where_ = Where::kValue;
          return Step::kMore;
        }
        word_ += byte;
        return kIsString.starts_with(word_) || kIsJson.starts_with(word_) ? Step::kMore : Step::kBad;
      }
      case Where::kValue: return TakeValue(byte);
    }
    return Step::kBad;
  }

  // One of two words, after white space: kEnd, and which one in found_.
  Step TakeWord(char byte, std::string_view one, std::string_view other) {
    if (word_.empty() && IsSpace(byte)) return Step::kMore;
    word_ += byte;
    for (const std::string_view word : {one, other}) {
      if (!word.starts_with(word_)) continue;
      if (word != word_) return Step::kMore;
      found_ = word;
      word_.clear();
      return Step::kEnd;
    }
    return Step::kBad;
  }

  Step TakeValue(char byte) {
    word_ += byte;
    while (!word_.empty() && !kDsmlParameterEnd.starts_with(word_)) {
      if (string_) {
        piece_.clear();
        AppendEscaped(piece_, std::string_view(word_).substr(0, 1));
        writer_.Arguments(piece_);
      } else {
        value_ += word_.front();
      }
      word_.erase(0, 1);
    }
    if (word_ != kDsmlParameterEnd) return Step::kMore;
    const bool json = !string_ && nlohmann::json::accept(value_);
    writer_.Arguments(string_ ? std::string("\"") : json ? value_ : Quoted(value_));
    word_.clear();
    where_ = Where::kParameters;
    return Step::kMore;
  }

  // Calls may be whole although what closes all of them did not come.
  Step TakeEnd() override {
    return where_ == Where::kCalls && word_.empty() && writer_.calls() > begun_ ? Step::kEnd : Step::kBad;
  }

  Where where_ = Where::kCalls;
  bool any_ = false, string_ = false;
  int32_t begun_ = 0;
  std::string_view close_, found_;
  std::string word_, value_, piece_;
};

}  // namespace

std::unique_ptr<Parser> MakeDsmlParser(std::vector<Tool> tools) {
  return std::make_unique<DsmlParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
