#include "models/text/split_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "base/check.h"
#include "models/text/unicode.h"
#include "models/text/utf8.h"

namespace tidepool::text {

struct SplitPattern::Code {
  pcre2_code* code = nullptr;
  Code() = default;
  Code(const Code&) = delete;
  Code& operator=(const Code&) = delete;
  ~Code() { pcre2_code_free(code); }
};

namespace {

// A split pattern's honest work is a few steps a character; a match that needs more than this is an attack.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr size_t kJitStackBytes = 1u << 20;

// What matching needs and threads cannot share.
struct Matcher {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 * 1024, kJitStackBytes, nullptr);
  Matcher() {
    CHECK(data != nullptr && context != nullptr && stack != nullptr);
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_jit_stack_assign(context, nullptr, stack);
  }
  Matcher(const Matcher&) = delete;
  Matcher& operator=(const Matcher&) = delete;
  ~Matcher() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Matcher& ThreadMatcher() {
  thread_local Matcher matcher;
  return matcher;
}

// Oniguruma's \h is a hexadecimal digit, PCRE2's is horizontal space; Ruby's (?m) is PCRE2's (?s). No known
// tokenizer uses them: refusing is safer than matching something else.
bool UsesOtherDialect(std::string_view pattern, std::string& what) {
  for (size_t i = 0; i + 1 < pattern.size(); ++i) {
    if (pattern[i] == '\\') {
      const char c = pattern[i + 1];
      if (c == 'h' || c == 'H' || c == 'R' || c == 'X' || c == 'K' || c == 'G' || c == 'C') {
        what = std::string("\\") + c;
        return true;
      }
      ++i;
    } else if (pattern[i] == '(' && pattern[i + 1] == '?') {
      for (size_t j = i + 2;
           j < pattern.size() && (std::isalpha(static_cast<unsigned char>(pattern[j])) || pattern[j] == '-');
           ++j) {
        if (pattern[j] == 'm' || pattern[j] == 's' || pattern[j] == 'R') {
          what = std::string("(?") + pattern[j];
          return true;
        }
      }
    } else if (pattern[i] == '(' && pattern[i + 1] == '*') {
      what = "(*";
      return true;
    } else if (pattern[i] == '&' && pattern[i + 1] == '&') {
      what = "&&";
      return true;
    }
  }
  return false;
}

}  // namespace

Result<SplitPattern> SplitPattern::Compile(std::string_view pattern) {
  std::string dialect;
  if (UsesOtherDialect(pattern, dialect)) {
    return Fail(ErrorKind::kInvalid, "unsupported_pattern",
                fmt::format("tokenizer: the split pattern \"{}\" uses {}, which Tidepool does not support",
                            pattern, dialect),
                "pattern");
  }
  // Ruby syntax: ^ and $ match at every line.
  int error = 0;
  PCRE2_SIZE place = 0;
  auto code = std::make_shared<Code>();
  code->code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C | PCRE2_NO_AUTO_CAPTURE,
                    &error, &place, nullptr);
  if (code->code == nullptr) {
    char text[256];
    pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof text);
    return Fail(ErrorKind::kInvalid, "unsupported_pattern",
                fmt::format("tokenizer: the split pattern \"{}\" cannot be compiled: {} at byte {}", pattern,
                            text, place),
                "pattern");
  }
  // Without the JIT (a platform that forbids it) matching interprets, with the same results.
  pcre2_jit_compile(code->code, PCRE2_JIT_COMPLETE);
  SplitPattern result;
  result.code_ = std::move(code);
  return result;
}

SplitPattern SplitPattern::Literal(std::string_view text) {
  SplitPattern result;
  result.literal_ = text;
  return result;
}

bool SplitPattern::Find(std::string_view text, size_t from, Match& match) const {
  if (code_ == nullptr) {
    const size_t at = literal_.empty() ? std::string_view::npos : text.find(literal_, from);
    if (at == std::string_view::npos) return false;
    match = {at, at + literal_.size()};
    return true;
  }
  Matcher& matcher = ThreadMatcher();
  const int rc = pcre2_match(code_->code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), from,
                             PCRE2_NO_UTF_CHECK, matcher.data, matcher.context);
  if (rc < 0) return false;
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(matcher.data);
  match = {range[0], range[1]};
  return match.begin <= match.end;
}

void SplitPattern::FindAll(std::string_view text, std::vector<Match>& matches) const {
  std::string proxy;
  if (code_ != nullptr && ReplaceWithProxies(text, proxy)) text = proxy;
  size_t from = 0, last_end = 0;
  bool any = false;
  Match match;
  while (from <= text.size() && Find(text, from, match)) {
    const bool empty = match.begin == match.end;
    if (!(empty && any && match.begin == last_end)) {
      matches.push_back(match);
      last_end = match.end;
      any = true;
    }
    from = match.end;
    if (empty) from += from < text.size() ? ReadValidCharacter(text, from).size : 1;
  }
}

}  // namespace tidepool::text
