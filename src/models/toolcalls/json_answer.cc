// Answers that are nothing but JSON: {"name": f, "parameters": {..}}, several after each other or (generic)
// in a list or a fence; and Llama's <|python_tag|>, after which f.call(key="value") is read as well.
#include <cctype>
#include <optional>

#include "models/toolcalls/call_object.h"
#include "models/toolcalls/families.h"
#include "models/toolcalls/json_text.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kPythonTag[] = {"<|python_tag|>"};
constexpr std::string_view kGenericTag[] = {"<tool_call>"};
constexpr std::string_view kGenericClose = "</tool_call>";
constexpr std::string_view kFenceMark = "```";
constexpr size_t kMaxPythonCall = 1 << 20;

// f(key="text", n=1) or f.call(...): keyword arguments of Python literals.
class PythonCall {
 public:
  explicit PythonCall(std::string_view text) : text_(text) {}

  bool Read(std::string& name, std::string& arguments) {
    name = Identifier(true);
    if (name.ends_with(".call")) name.resize(name.size() - 5);
    if (name.empty() || !Eat('(')) return false;
    arguments = "{";
    while (!Eat(')')) {
      if (arguments.size() > 1 && !Eat(',')) return false;
      if (arguments.size() > 1 && Eat(')')) break;  // a trailing comma
      const std::string key = Identifier(false);
      if (key.empty() || !Eat('=')) return false;
      if (arguments.size() > 1) arguments += ", ";
      arguments += Quoted(key) + ": ";
      if (!Value(arguments, 0)) return false;
    }
    arguments += '}';
    SkipSpaces();
    return at_ == text_.size();
  }

 private:
  void SkipSpaces() {
    while (at_ < text_.size() && IsSpace(text_[at_])) ++at_;
  }
  bool Eat(char c) {
    SkipSpaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::string Identifier(bool dots) {
    SkipSpaces();
    const size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) != 0 ||
                                  text_[at_] == '_' || (dots && (text_[at_] == '.' || text_[at_] == '-')))) {
      ++at_;
    }
    return std::string(text_.substr(begin, at_ - begin));
  }
  bool Value(std::string& out, int depth) {
    SkipSpaces();
    if (at_ >= text_.size() || depth > 32) return false;
    const char c = text_[at_];
    if (c == '"' || c == '\'') return String(out);
    if (c == '[' || c == '{') return Container(out, c, depth);
    const size_t begin = at_;
    while (at_ < text_.size() && std::string_view(",)]} \n").find(text_[at_]) == std::string_view::npos)
      ++at_;
    const std::string_view word = text_.substr(begin, at_ - begin);
    if (word == "True" || word == "true") {
      out += "true";
    } else if (word == "False" || word == "false") {
      out += "false";
    } else if (word == "None" || word == "null") {
      out += "null";
    } else if (nlohmann::json::parse(word, nullptr, false).is_number()) {
      out += word;
    } else {
      return false;
    }
    return true;
  }
  bool String(std::string& out) {
    const char quote = text_[at_++];
    std::string value;
    for (; at_ < text_.size() && text_[at_] != quote; ++at_) {
      if (text_[at_] != '\\') {
        value += text_[at_];
        continue;
      }
      if (++at_ >= text_.size()) return false;
      const char c = text_[at_];
      value += c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c;
    }
    if (at_ >= text_.size()) return false;
    ++at_;
    out += Quoted(value);
    return true;
  }
  bool Container(std::string& out, char open, int depth) {
    ++at_;
    out += open;
    const char close = open == '[' ? ']' : '}';
    for (bool first = true; !Eat(close); first = false) {
      if (!first && !Eat(',')) return false;
      if (!first) out += ", ";
      if (open == '{') {
        SkipSpaces();
        if (at_ >= text_.size() || (text_[at_] != '"' && text_[at_] != '\'') || !String(out) || !Eat(':'))
          return false;
        out += ": ";
      }
      if (!Value(out, depth + 1)) return false;
    }
    out += close;
    return true;
  }

  const std::string_view text_;
  size_t at_ = 0;
};

class JsonAnswerParser final : public TaggedParser {
 public:
  JsonAnswerParser(std::vector<Tool> tools, bool llama)
      : TaggedParser(std::move(tools), llama ? std::span(kPythonTag) : std::span(kGenericTag)),
        llama_(llama) {}

 private:
  enum class Where : uint8_t { kFence, kBefore, kObject, kAfter, kClose, kPython };

  void Start(bool tagged) {
    tagged_ = tagged;
    fenced_ = listed_ = false;
    any_ = false;
    word_.clear();
    where_ = Where::kBefore;
  }

  void Open(size_t) override { Start(true); }

  bool OpensAt(char byte, bool first) override {
    if (!first || (byte != '{' && (llama_ || (byte != '[' && byte != '`')))) return false;
    Start(false);
    if (byte == '{') BeginObject(byte);
    listed_ = byte == '[';
    if (byte == '`') {
      fenced_ = true;
      word_ = byte;
      where_ = Where::kFence;
    }
    return true;
  }

  Step BeginObject(char byte) {
    object_.emplace(writer_, /*known_only=*/!tagged_);
    where_ = Where::kObject;
    return object_->Take(byte);
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kFence:  // ```json and a line break
        word_ += byte;
        if (word_.size() <= kFenceMark.size())
          return kFenceMark.starts_with(word_) ? Step::kMore : Step::kBad;
        if (byte != '\n')
          return std::isalpha(static_cast<unsigned char>(byte)) != 0 && word_.size() < 16 ? Step::kMore
                                                                                          : Step::kBad;
        where_ = Where::kBefore;
        word_.clear();
        return Step::kMore;
      case Where::kBefore:
        if (IsSpace(byte)) return Step::kMore;
        if (byte == '{') return BeginObject(byte);
        if (byte == '[' && !llama_ && !listed_) {
          listed_ = true;
          return Step::kMore;
        }
        if (!llama_ || !tagged_ || any_) return Step::kBad;
        where_ = Where::kPython;
        word_ = byte;
        return Step::kMore;
      case Where::kObject: {
        const Step step = object_->Take(byte);
        if (step != Step::kEnd) return step;
        Settle();
        any_ = true;
        where_ = Where::kAfter;
        word_.clear();
        return Step::kMore;
      }
      case Where::kAfter: return TakeAfter(byte);
      case Where::kClose: {
        const std::string_view close = fenced_ ? kFenceMark : kGenericClose;
        word_ += byte;
        if (!close.starts_with(word_)) return Step::kBad;
        return word_ == close ? Step::kEnd : Step::kMore;
      }
      case Where::kPython: word_ += byte; return word_.size() > kMaxPythonCall ? Step::kBad : Step::kMore;
    }
    return Step::kBad;
  }

  // After a call: the next one, what closes them, or other text.
  Step TakeAfter(char byte) {
    if (IsSpace(byte)) return Step::kMore;
    if (listed_) {
      if (byte == ',') where_ = Where::kBefore;
      if (byte == ']') {
        listed_ = false;
        if (!tagged_ && !fenced_) return Step::kEnd;
      }
      return byte == ',' || byte == ']' ? Step::kMore : Step::kBad;
    }
    if ((fenced_ && byte == '`') || (tagged_ && !llama_ && byte == '<')) {
      word_ = byte;
      where_ = Where::kClose;
      return Step::kMore;
    }
    if (llama_ && byte == ';') {
      where_ = Where::kBefore;
      return Step::kMore;
    }
    return byte == '{' && !tagged_ ? BeginObject(byte) : Step::kEndBefore;
  }

  Step TakeEnd() override {
    if (where_ == Where::kAfter) return listed_ ? Step::kBad : Step::kEnd;
    if (where_ == Where::kBefore && any_ && llama_) return Step::kEnd;
    if (where_ != Where::kPython) return Step::kBad;
    std::string name, arguments;
    if (!PythonCall(word_).Read(name, arguments)) return Step::kBad;
    writer_.Begin(name);
    writer_.Arguments(arguments);
    writer_.End();
    return Step::kEnd;
  }

  const bool llama_;
  Where where_ = Where::kBefore;
  bool tagged_ = false, fenced_ = false, listed_ = false, any_ = false;
  std::string word_;
  std::optional<CallObject> object_;
};

}  // namespace

std::unique_ptr<Parser> MakeJsonAnswerParser(std::vector<Tool> tools, bool llama) {
  return std::make_unique<JsonAnswerParser>(std::move(tools), llama);
}

std::unique_ptr<Parser> MakeParser(Format format, std::vector<Tool> tools) {
  switch (format) {
    case Format::kHermes: return MakeHermesParser(std::move(tools));
    case Format::kQwenXml: return MakeQwenXmlParser(std::move(tools));
    case Format::kLlama3: return MakeJsonAnswerParser(std::move(tools), true);
    case Format::kMistral: return MakeMistralParser(std::move(tools));
    case Format::kDeepSeek: return MakeDeepSeekParser(std::move(tools));
    case Format::kGemma: return MakeGemmaParser(std::move(tools));
    case Format::kGlm: return MakeGlmParser(std::move(tools));
    case Format::kDsml: return MakeDsmlParser(std::move(tools));
    case Format::kKimi: return MakeKimiParser(std::move(tools));
    case Format::kJson: break;
  }
  return MakeJsonAnswerParser(std::move(tools), false);
}

}  // namespace tidepool::toolcalls
