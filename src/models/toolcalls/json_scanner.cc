#include "models/toolcalls/json_scanner.h"

#include <string_view>

namespace tidepool::toolcalls {
namespace {

bool IsJsonSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsHex(char c) { return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

}  // namespace

JsonScanner::Take JsonScanner::Step(char byte) {
  switch (phase_) {
    case Phase::kString: return InString(byte);
    case Phase::kNumber: return InNumber(byte);
    case Phase::kLiteral:
      if (byte != *literal_) return Take::kBad;
      return *++literal_ == '\0' ? Ended() : Take::kMore;
    case Phase::kDone: return Take::kEndBefore;
    default: break;
  }
  if (IsJsonSpace(byte)) return Take::kMore;
  switch (phase_) {
    case Phase::kFirstItem:
      if (byte == ']') break;
      [[fallthrough]];
    case Phase::kValue: return Begin(byte);
    case Phase::kFirstKey:
      if (byte == '}') break;
      [[fallthrough]];
    case Phase::kKey:
      if (byte != '"') return Take::kBad;
      phase_ = Phase::kString;
      is_key_ = true;
      return Take::kMore;
    case Phase::kColon:
      if (byte != ':') return Take::kBad;
      phase_ = Phase::kValue;
      return Take::kMore;
    default: return AfterValue(byte);
  }
  open_.pop_back();  // an empty container
  return Ended();
}

JsonScanner::Take JsonScanner::Begin(char byte) {
  switch (byte) {
    case '{':
    case '[':
      if (open_.size() >= kMaxDepth) return Take::kBad;
      open_ += byte;
      phase_ = byte == '{' ? Phase::kFirstKey : Phase::kFirstItem;
      return Take::kMore;
    case '"':
      phase_ = Phase::kString;
      is_key_ = false;
      return Take::kMore;
    case 't': literal_ = "rue"; break;
    case 'f': literal_ = "alse"; break;
    case 'n': literal_ = "ull"; break;
    default:
      if (byte != '-' && !IsDigit(byte)) return Take::kBad;
      phase_ = Phase::kNumber;
      digits_ = byte == '-' ? Digits::kSign : byte == '0' ? Digits::kZero : Digits::kInteger;
      return Take::kMore;
  }
  phase_ = Phase::kLiteral;
  return Take::kMore;
}

JsonScanner::Take JsonScanner::AfterValue(char byte) {
  const char container = open_.back();
  if (byte == ',') {
    phase_ = container == '{' ? Phase::kKey : Phase::kValue;
    return Take::kMore;
  }
  if (byte != (container == '{' ? '}' : ']')) return Take::kBad;
  open_.pop_back();
  return Ended();
}

JsonScanner::Take JsonScanner::InString(char byte) {
  if (escape_ == 1) {
    if (byte == 'u') {
      escape_ = 5;
      return Take::kMore;
    }
    escape_ = 0;
    return std::string_view("\"\\/bfnrt").find(byte) == std::string_view::npos ? Take::kBad : Take::kMore;
  }
  if (escape_ > 1) {
    if (!IsHex(byte)) return Take::kBad;
    if (--escape_ == 1) escape_ = 0;
    return Take::kMore;
  }
  if (byte == '\\') {
    escape_ = 1;
    return Take::kMore;
  }
  if (static_cast<unsigned char>(byte) < 0x20) return Take::kBad;
  if (byte != '"') return Take::kMore;
  if (!is_key_) return Ended();
  is_key_ = false;
  phase_ = Phase::kColon;
  return Take::kMore;
}

bool JsonScanner::NumberIsWhole() const {
  return digits_ == Digits::kZero || digits_ == Digits::kInteger || digits_ == Digits::kFraction ||
         digits_ == Digits::kExponent;
}

JsonScanner::Take JsonScanner::InNumber(char byte) {
  if (IsDigit(byte)) {
    switch (digits_) {
      case Digits::kSign: digits_ = byte == '0' ? Digits::kZero : Digits::kInteger; return Take::kMore;
      case Digits::kZero: return Take::kBad;
      case Digits::kPoint: digits_ = Digits::kFraction; return Take::kMore;
      case Digits::kE:
      case Digits::kESign: digits_ = Digits::kExponent; return Take::kMore;
      default: return Take::kMore;
    }
  }
  if (byte == '.' && (digits_ == Digits::kZero || digits_ == Digits::kInteger)) {
    digits_ = Digits::kPoint;
    return Take::kMore;
  }
  if ((byte == 'e' || byte == 'E') && NumberIsWhole() && digits_ != Digits::kExponent) {
    digits_ = Digits::kE;
    return Take::kMore;
  }
  if ((byte == '+' || byte == '-') && digits_ == Digits::kE) {
    digits_ = Digits::kESign;
    return Take::kMore;
  }
  if (!NumberIsWhole()) return Take::kBad;
  if (Ended() == Take::kEnd) return Take::kEndBefore;
  return Step(byte);
}

JsonScanner::Take JsonScanner::Ended() {
  if (open_.empty()) {
    phase_ = Phase::kDone;
    return Take::kEnd;
  }
  phase_ = Phase::kAfter;
  return Take::kMore;
}

}  // namespace tidepool::toolcalls
