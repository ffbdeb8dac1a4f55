// From what a model says to text and tool calls, while it says it.
//
// A parser takes the content of an answer (whole characters, without reasoning) in pieces of any size and
// gives text and calls in order. What comes out, joined, does not depend on the cuts. Nothing is swallowed:
// what is not a whole call is text, tags included.
//
// Rules:
//  - White space next to a call is dropped; other text before, between and after calls is kept.
//  - The arguments of a call are a JSON object. In formats that write JSON the pieces join to the model's own
//    bytes; in formats that do not (qwen_xml, gemma) they are made as the model speaks.
//  - A call that turns out malformed, or that the answer ends inside of, is told as kBroken and its whole
//  text,
//    from its first tag, follows as text: pieces of arguments that were given out before are then void.
//
// Threads: a parser belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "models/toolcalls/format.h"

namespace tidepool::toolcalls {

struct Part {
  enum class Kind : uint8_t {
    kText,       // text
    kCall,       // a call begins: text is the function's name
    kArguments,  // the next piece of its arguments
    kEnd,        // it is whole
    kBroken,     // it is none after all
  };
  Kind kind = Kind::kText;
  int32_t call = 0;  // 0, 1, ... in the order of their beginnings; a broken one keeps its number
  std::string text{};
};

// What a parser must know of the request's tools.
struct Tool {
  std::string name;
  nlohmann::ordered_json
      parameters;  // JSON schema of the arguments; qwen_xml reads the types of its properties
};

class Parser {
 public:
  virtual ~Parser() = default;
  // Appends to `out`; pieces of one kind that follow each other may be joined.
  virtual void Push(std::string_view text, std::vector<Part>& out) = 0;
  virtual void Finish(std::vector<Part>& out) = 0;
};

std::unique_ptr<Parser> MakeParser(Format format, std::vector<Tool> tools);

}  // namespace tidepool::toolcalls
