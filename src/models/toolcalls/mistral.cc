// [TOOL_CALLS][{"name": f, "arguments": {..}}, ..] and, newer, [TOOL_CALLS]f[CALL_ID]id[ARGS]{..}.
#include <optional>

#include "models/toolcalls/call_object.h"
#include "models/toolcalls/families.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kOpenCalls[] = {"[TOOL_CALLS]"};
constexpr size_t kMaxHead = 512;  // name and id

class MistralParser final : public TaggedParser {
 public:
  explicit MistralParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kOpenCalls) {}

 private:
  enum class Where : uint8_t { kStart, kHead, kArguments, kItem, kInItem, kAfterItem };

  void Open(size_t) override {
    where_ = Where::kStart;
    head_.clear();
  }

  Step Take(char byte) override {
    switch (where_) {
      case Where::kStart:
        if (IsSpace(byte)) return Step::kMore;
        where_ = byte == '[' ? Where::kItem : Where::kHead;
        if (byte == '[') return Step::kMore;
        [[fallthrough]];
      case Where::kHead: return TakeHead(byte);
      case Where::kArguments: {
        const Step step = arguments_->Take(byte);
        if (step == Step::kEnd) writer_.End();
        return step;
      }
      case Where::kItem:
        if (IsSpace(byte)) return Step::kMore;
        object_.emplace(writer_);
        where_ = Where::kInItem;
        [[fallthrough]];
      case Where::kInItem: {
        const Step step = object_->Take(byte);
        if (step != Step::kEnd) return step;
        Settle();
        where_ = Where::kAfterItem;
        return Step::kMore;
      }
      case Where::kAfterItem:
        if (IsSpace(byte)) return Step::kMore;
        if (byte == ',') where_ = Where::kItem;
        return byte == ',' ? Step::kMore : byte == ']' ? Step::kEnd : Step::kBad;
    }
    return Step::kBad;
  }

  // The name ends at [CALL_ID], [ARGS] or the arguments' brace.
  Step TakeHead(char byte) {
    if (byte != '{') {
      head_ += byte;
      return head_.size() > kMaxHead ? Step::kBad : Step::kMore;
    }
    std::string_view name = head_;
    name = name.substr(0, name.find("[CALL_ID]"));
    name = name.substr(0, name.find("[ARGS]"));
    while (!name.empty() && IsSpace(name.back())) name.remove_suffix(1);
    if (name.empty() || name.find_first_of(" \t\r\n[]") != std::string_view::npos) return Step::kBad;
    writer_.Begin(name);
    arguments_.emplace(writer_);
    where_ = Where::kArguments;
    return arguments_->Take(byte);
  }

  Step TakeEnd() override { return where_ == Where::kAfterItem ? Step::kEnd : Step::kBad; }

  Where where_ = Where::kStart;
  std::string head_;
  std::optional<CallObject> object_;
  std::optional<ArgumentsObject> arguments_;
};

}  // namespace

std::unique_ptr<Parser> MakeMistralParser(std::vector<Tool> tools) {
  return std::make_unique<MistralParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
