#include "models/templates/chat_template.h"

#include <new>

#include "models/templates/interpreter.h"
#include "models/templates/syntax.h"

namespace tidepool::templates {

// Longer than any known template by two orders of magnitude.
constexpr size_t kMaxSourceBytes = 4u << 20;

struct ChatTemplate::Program {
  SyntaxTree tree;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Program> program) : program_(std::move(program)) {}
ChatTemplate::~ChatTemplate() = default;
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;

const std::string& ChatTemplate::source() const { return program_->tree.source; }

Result<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return Fail(ErrorKind::kTooLarge, "template_too_large",
                "chat template: longer than the limit of " + std::to_string(kMaxSourceBytes) + " bytes",
                "chat_template");
  }
  TP_ASSIGN(auto tree, ParseTemplate(source));
  auto program = std::make_unique<Program>();
  program->tree = std::move(tree);
  return ChatTemplate(std::move(program));
}

Result<std::string> ChatTemplate::Render(const nlohmann::ordered_json& variables, int64_t now_unix_s,
                                         const RenderLimits& limits) const {
  if (!variables.is_object()) {
    return Fail(ErrorKind::kInvalid, "template_error", "chat template: the variables must be an object",
                "messages");
  }
  try {
    return Interpreter(program_->tree, variables, now_unix_s, limits).Run();
  } catch (const RenderFailure& failure) {
    return Fail(failure.error);
  } catch (const std::bad_alloc&) {
    return Fail(ErrorKind::kUnavailable, "out_of_memory", "chat template: no memory left to render it");
  } catch (const std::length_error&) {
    return Fail(ErrorKind::kInvalid, "template_limit", "chat template: a text or list would be too long");
  }
}

}  // namespace tidepool::templates
