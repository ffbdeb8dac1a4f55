// One call written as a JSON object: {"name": f, "arguments": {...}}, keys in any order, others ignored.
#pragma once

#include <cstdint>
#include <string>

#include "models/toolcalls/json_scanner.h"
#include "models/toolcalls/tagged_parser.h"

namespace tidepool::toolcalls {

class CallObject {
 public:
  // Known functions only: for formats without tags, where any object may be an answer.
  explicit CallObject(CallWriter& writer, bool known_only = false)
      : writer_(writer), known_only_(known_only) {}

  // The next byte, from the opening brace on. The call is begun as soon as its name is known.
  Step Take(char byte);

 private:
  enum class Where : uint8_t { kStart, kBetween, kKey, kBeforeValue, kValue };
  enum class Field : uint8_t { kName, kArguments, kOther };

  bool EndOfKey();
  bool BeginValue(char byte);
  bool EndOfValue();
  bool GiveText(const std::string& text);

  CallWriter& writer_;
  const bool known_only_;
  JsonScanner scanner_;
  Where where_ = Where::kStart;
  Field field_ = Field::kOther;
  std::string token_;    // a key, a name, or arguments that cannot stream
  std::string waiting_;  // whole arguments that came before the name
  bool named_ = false, has_arguments_ = false, streams_ = false;
};

// Arguments alone: an object whose bytes are passed on.
class ArgumentsObject {
 public:
  explicit ArgumentsObject(CallWriter& writer) : writer_(writer) {}
  Step Take(char byte);

 private:
  CallWriter& writer_;
  JsonScanner scanner_;
};

}  // namespace tidepool::toolcalls
