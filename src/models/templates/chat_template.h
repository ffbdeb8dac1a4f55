// Chat templates: a Jinja interpreter for the templates models ship.
//
// Renders as Python's jinja2 set up the way transformers does it: sandboxed, trim_blocks, lstrip_blocks, loop
// controls, {% generation %}, tojson without HTML escaping, raise_exception, strftime_now. Templates are
// untrusted: steps, depth and output are limited.
//
// Threads: a ChatTemplate is immutable after Parse; Render may be called from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::templates {

struct RenderLimits {
  uint64_t max_steps = 20'000'000;         // evaluated nodes, and one for every 64 bytes worked on
  uint32_t max_depth = 1000;               // nesting of evaluated statements, expressions, calls and macros
  uint64_t max_output_bytes = 64u << 20;   // of the text, and of the blocks being captured for it
  uint64_t max_memory_bytes = 256u << 20;  // of live values, the variables included
};

class ChatTemplate {
 public:
  // Fails with line and column for a syntax error or a construct that is not supported.
  static Result<ChatTemplate> Parse(std::string_view source);
  ~ChatTemplate();
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;

  // `variables`: an object with messages, tools, add_generation_prompt, bos_token, eos_token,
  // enable_thinking, ... `now_unix_s` is what strftime_now sees. raise_exception() in the template is
  // kInvalid with code "template_error".
  Result<std::string> Render(const nlohmann::ordered_json& variables, int64_t now_unix_s,
                             const RenderLimits& limits = {}) const;

  const std::string& source() const;

 private:
  struct Program;
  explicit ChatTemplate(std::unique_ptr<const Program> program);
  std::unique_ptr<const Program> program_;
};

// What a template can do, found by rendering probes: for deciding how to call it and what to refuse.
struct TemplateCapabilities {
  bool system_role = false;
  bool tools = false;            // the `tools` variable changes the output
  bool tool_calls = false;       // assistant tool_calls are rendered, with their arguments
  bool text_arguments = false;   // as JSON text; else as an object
  bool thinking_switch = false;  // enable_thinking changes the output
  bool content_parts = false;    // content may be a list of {"type": "text"}
  bool string_content = true;    // content may be a string
  bool opens_reasoning = false;  // add_generation_prompt ends with an opened <think> (default settings)
  std::string reasoning_open, reasoning_close;  // "<think>", "</think>" if the template knows them
};
TemplateCapabilities ProbeCapabilities(const ChatTemplate& chat_template, std::string_view bos_token,
                                       std::string_view eos_token);

}  // namespace tidepool::templates
