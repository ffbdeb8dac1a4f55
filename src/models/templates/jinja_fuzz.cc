// Parse and render any bytes with small limits: errors are fine, crashes and hangs are not.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "models/templates/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::templates;
  const auto parsed = ChatTemplate::Parse(std::string_view(reinterpret_cast<const char*>(data), size));
  if (!parsed) return 0;
  static const auto* const variables = new nlohmann::ordered_json(nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "né🌊 <b>"},
                 {"role": "assistant", "content": null, "tool_calls": [{"id": "a", "type": "function",
                  "function": {"name": "f", "arguments": {"x": [1, 2.5, true, null]}}}]},
                 {"role": "tool", "content": [{"type": "text", "text": "r"}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}],
    "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "x": "abc", "n": 3})"));
  RenderLimits limits;
  limits.max_steps = 20'000;
  limits.max_output_bytes = 1 << 16;
  limits.max_memory_bytes = 1 << 20;
  const auto text = parsed->Render(*variables, 1'753'920'000, limits);
  if (text && text->size() > limits.max_output_bytes) __builtin_trap();
  return 0;
}
