// <tool_call>{"name": f, "arguments": {..}}</tool_call>. The closing tag may be missing.
#include <optional>

#include "models/toolcalls/call_object.h"
#include "models/toolcalls/families.h"

namespace tidepool::toolcalls {
namespace {

constexpr std::string_view kHermesOpen[] = {"<tool_call>"};
constexpr std::string_view kHermesClose = "</tool_call>";

class HermesParser final : public TaggedParser {
 public:
  explicit HermesParser(std::vector<Tool> tools) : TaggedParser(std::move(tools), kHermesOpen) {}

 private:
  void Open(size_t) override {
    object_.emplace(writer_);
    close_ = TagReader(kHermesClose);
    whole_ = false;
  }
  Step Take(char byte) override {
    if (!whole_) {
      const Step step = object_->Take(byte);
      if (step != Step::kEnd) return step;
      whole_ = true;
      Settle();
      return Step::kMore;
    }
    if (!close_.begun() && IsSpace(byte)) return Step::kMore;
    if (close_.Take(byte)) return close_.done() ? Step::kEnd : Step::kMore;
    // The call is whole; what stands where its tag should is text.
    return close_.begun() ? Step::kBad : Step::kEndBefore;
  }
  Step TakeEnd() override { return whole_ && !close_.begun() ? Step::kEnd : Step::kBad; }

  std::optional<CallObject> object_;
  TagReader close_;
  bool whole_ = false;
};

}  // namespace

std::unique_ptr<Parser> MakeHermesParser(std::vector<Tool> tools) {
  return std::make_unique<HermesParser>(std::move(tools));
}

}  // namespace tidepool::toolcalls
