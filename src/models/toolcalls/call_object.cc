#include "models/toolcalls/call_object.h"

#include <nlohmann/json.hpp>

namespace tidepool::toolcalls {
namespace {

constexpr size_t kMaxName = 256;

// The string that a JSON string spells; false if it is none.
bool Decode(const std::string& json, std::string& out) {
  const auto value = nlohmann::json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return false;
  out = value.get<std::string>();
  return true;
}

}  // namespace

Step CallObject::Take(char byte) {
  const JsonScanner::Take take = scanner_.Step(byte);
  if (take == JsonScanner::Take::kBad || take == JsonScanner::Take::kEndBefore) return Step::kBad;
  switch (where_) {
    case Where::kStart:
      if (IsSpace(byte)) return Step::kMore;
      if (byte != '{') return Step::kBad;  // only an object is a call
      where_ = Where::kBetween;
      return Step::kMore;
    case Where::kBetween:
      if (scanner_.in_key()) {
        token_ = byte;
        where_ = Where::kKey;
      }
      break;
    case Where::kKey:
      token_ += byte;
      if (token_.size() > kMaxName) return Step::kBad;
      if (scanner_.in_key()) break;
      if (!EndOfKey()) return Step::kBad;
      where_ = Where::kBeforeValue;
      break;
    case Where::kBeforeValue:
      if (byte == ':' || IsSpace(byte)) break;
      where_ = Where::kValue;
      token_.clear();
      if (!BeginValue(byte)) return Step::kBad;
      [[fallthrough]];
    case Where::kValue:
      if (streams_) {
        writer_.Arguments({&byte, 1});
      } else if (field_ != Field::kOther) {
        token_ += byte;
      }
      if (field_ == Field::kName && token_.size() > kMaxName) return Step::kBad;
      // (A number ends with the byte after it, but neither a name nor arguments are one.)
      if (scanner_.depth() > 1 || !scanner_.between()) break;
      if (!EndOfValue()) return Step::kBad;
      where_ = Where::kBetween;
      break;
  }
  if (take != JsonScanner::Take::kEnd) return Step::kMore;
  if (!named_) return Step::kBad;
  if (!has_arguments_) writer_.Arguments("{}");
  writer_.End();
  return Step::kEnd;
}

bool CallObject::BeginValue(char byte) {
  if (field_ == Field::kName) return byte == '"';
  if (field_ != Field::kArguments) return true;
  streams_ = byte == '{' && named_;
  return !has_arguments_ && waiting_.empty() && (byte == '{' || byte == '"' || byte == 'n');
}

// token_ holds a key of the object.
bool CallObject::EndOfKey() {
  std::string key;
  if (!Decode(token_, key)) return false;
  field_ = key == "name"                               ? Field::kName
           : key == "arguments" || key == "parameters" ? Field::kArguments
                                                       : Field::kOther;
  token_.clear();
  return true;
}

bool CallObject::EndOfValue() {
  if (field_ == Field::kName) {
    std::string name;
    if (named_ || !Decode(token_, name) || name.empty()) return false;
    if (known_only_ && writer_.Find(name) == nullptr) return false;
    named_ = true;
    writer_.Begin(name);
    writer_.Arguments(waiting_);
    has_arguments_ = !waiting_.empty();
    return true;
  }
  if (field_ != Field::kArguments) return true;
  if (!streams_) return GiveText(token_);
  streams_ = false;
  has_arguments_ = true;
  return true;
}

// Arguments as a whole: an object, null, or (some models) a string that spells an object.
bool CallObject::GiveText(const std::string& text) {
  std::string arguments = text;
  if (text == "null") arguments = "{}";
  if (text.front() == '"') {
    if (!Decode(text, arguments)) return false;
    if (!nlohmann::json::parse(arguments, nullptr, false).is_object()) return false;
  }
  if (!named_) {
    waiting_ = arguments;
    return true;
  }
  writer_.Arguments(arguments);
  has_arguments_ = true;
  return true;
}

Step ArgumentsObject::Take(char byte) {
  const bool begun = scanner_.begun();
  const JsonScanner::Take take = scanner_.Step(byte);
  if (!begun && !IsSpace(byte) && byte != '{') return Step::kBad;
  if (take == JsonScanner::Take::kBad || take == JsonScanner::Take::kEndBefore) return Step::kBad;
  if (begun || !IsSpace(byte)) writer_.Arguments({&byte, 1});
  return take == JsonScanner::Take::kEnd ? Step::kEnd : Step::kMore;
}

}  // namespace tidepool::toolcalls
