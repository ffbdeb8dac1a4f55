// Any text through all kinds and two patterns: findings lie within it, what is kept is no longer but for its
// marks, and characters that were whole stay whole.
#include <cstdint>
#include <string>
#include <vector>

#include "base/check.h"
#include "models/text/utf8.h"
#include "platform/request_bodies/redaction.h"

namespace {

bool IsUtf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto character = tidepool::text::ReadCharacter(text, at);
    if (!character.valid) return false;
    at += character.size;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  static const auto redactor = [] {
    BodyRule rule;
    rule.patterns = {"secret-[a-z]+(x|yy)*", "[A-Z]{3}\\d{4,}"};
    return std::move(*Redactor::Make(rule));
  }();
  if (size == 0) return 0;
  const size_t most = data[0] * 4u;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  std::vector<Finding> found;
  FindSensitive(text, redactor->rule(), found);
  for (const Finding& one : found) CHECK(one.begin < one.end && one.end <= text.size());
  redactor->Begin();
  const Redactor::Text kept = redactor->Redact(text, most);
  CHECK(kept.cut || most >= text.size());
  CHECK(kept.kept.size() <= text.size() + 20 * static_cast<size_t>(redactor->found()));
  if (IsUtf8(text)) CHECK(IsUtf8(kept.kept));
  return 0;
}
