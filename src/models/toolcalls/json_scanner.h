// Follows one JSON value byte by byte: where it ends, and whether it is one. RFC 8259; UTF-8 is not checked.
#pragma once

#include <cstdint>
#include <string>

namespace tidepool::toolcalls {

class JsonScanner {
 public:
  enum class Take : uint8_t {
    kMore,       // the byte belongs to it, or is white space before it
    kEnd,        // and ends it
    kEndBefore,  // it ended before the byte (a number)
    kBad,        // this is no JSON
  };
  static constexpr size_t kMaxDepth = 256;

  Take Step(char byte);

  // Containers that are open.
  size_t depth() const { return open_.size(); }
  bool begun() const { return phase_ != Phase::kValue || !open_.empty(); }
  // The next byte belongs to a key's string; or to no string, number or literal.
  bool in_key() const { return phase_ == Phase::kString && is_key_; }
  bool between() const {
    return phase_ != Phase::kString && phase_ != Phase::kNumber && phase_ != Phase::kLiteral;
  }

 private:
  enum class Phase : uint8_t {
    kValue,
    kFirstItem,
    kFirstKey,
    kKey,
    kColon,
    kString,
    kNumber,
    kLiteral,
    kAfter,
    kDone
  };
  enum class Digits : uint8_t { kSign, kZero, kInteger, kPoint, kFraction, kE, kESign, kExponent };

  Take Begin(char byte);
  Take AfterValue(char byte);
  Take InString(char byte);
  Take InNumber(char byte);
  Take Ended();
  bool NumberIsWhole() const;

  std::string open_;  // '{' and '['
  Phase phase_ = Phase::kValue;
  Digits digits_ = Digits::kSign;
  const char* literal_ = nullptr;  // what is left of true, false, null
  uint8_t escape_ = 0;             // 1: after a backslash; 2..5: hex digits of \u to come, 5 the first
  bool is_key_ = false;
};

}  // namespace tidepool::toolcalls
