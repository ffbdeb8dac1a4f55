// Takes out of texts what a workspace's rule names, before anything is stored.
//
// What is found becomes "[redacted:email]" and so on. Own patterns are regular expressions as models/grammar
// reads them: no back references, no look-around, no anchors; they run as automata, with a bound on the work
// for one body. What that bound leaves unlooked at is left out of what is kept, never kept as it was.
//
// Threads: a Redactor belongs to one at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/accounts/body_rule.h"
#include "platform/request_bodies/sensitive.h"

namespace tidepool::platform {

inline constexpr size_t kMaxPatterns = 16;
inline constexpr size_t kMaxPatternBytes = 512;
// Steps of all patterns over one body: some 0.2 s.
inline constexpr int64_t kMaxPatternSteps = 20'000'000;
// What follows behind the end of what is kept is looked at so far, for what begins before it. Of what the
// built-in kinds find, all but tokens are shorter than 400 bytes, and a token is known by its first 30.
inline constexpr size_t kLookBeyondBytes = 4096;

// kInvalid names the pattern: "redact.patterns[2]".
Status CheckPatterns(const std::vector<std::string>& patterns);

class Redactor {
 public:
  static Result<std::unique_ptr<Redactor>> Make(const BodyRule& rule);
  ~Redactor();
  const BodyRule& rule() const { return rule_; }

  // A new body: the bound on work begins anew.
  void Begin();
  // What may be kept of the first `most` bytes; cut at a character. `cut`: something behind that, or behind
  // the bound on work, is left out. `more`: the text went on where it ends here, so what a pattern has begun
  // to match there counts.
  struct Text {
    std::string kept;
    bool cut = false;
  };
  Text Redact(std::string_view text, size_t most, bool more = false);
  // The same for every string, whole number and name in a JSON value, and within strings that are JSON
  // themselves (arguments of tool calls). Strings beyond `most` bytes in all become "".
  bool RedactJson(nlohmann::ordered_json& value, size_t most);
  int64_t found() const { return found_; }  // since Begin

 private:
  struct Pattern;
  explicit Redactor(const BodyRule& rule);
  size_t FindPatterns(std::string_view text, bool more, std::vector<Finding>& out);
  void Walk(nlohmann::ordered_json& value, size_t& left, bool& cut, int depth);
  std::string WalkString(std::string_view text, size_t& left, bool& cut, int depth);

  const BodyRule rule_;
  std::vector<std::unique_ptr<Pattern>> patterns_;
  std::vector<Finding> findings_;
  int64_t steps_left_ = 0, found_ = 0;
};

}  // namespace tidepool::platform
