#include "platform/request_bodies/sensitive.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <string>

namespace tidepool::platform {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLetter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool IsAlnum(char c) { return IsDigit(c) || IsLetter(c); }
bool IsHex(char c) { return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

class Finder {
 public:
  Finder(std::string_view text, std::vector<Finding>& out) : text_(text), out_(out) {}

  void Emails() {
    for (size_t at = text_.find('@'); at != std::string_view::npos; at = text_.find('@', at + 1)) {
      constexpr size_t kMostLocal = 64;  // RFC 5321
      constexpr size_t kMostDomain = 255;
      size_t begin = at;
      while (begin > 0 && at - begin < kMostLocal && IsLocal(text_[begin - 1])) --begin;
      // The domain: labels divided by dots; it ends with the last label that is one of letters.
      size_t end = 0, label = at + 1;
      bool dots = false;
      for (size_t i = at + 1; i - at <= kMostDomain; ++i) {
        const char c = At(i);
        if (IsAlnum(c) || c == '-') continue;
        if (i == label) break;  // an empty label
        const std::string_view last = text_.substr(label, i - label);
        const bool top =
            last.size() >= 2 && (std::all_of(last.begin(), last.end(), IsLetter) || last.starts_with("xn--"));
        if (dots && top) end = i;
        if (c != '.') break;
        dots = true;
        label = i + 1;
      }
      if (begin < at && end != 0) Add(begin, end, "email");
    }
  }

  void Phones() {
    for (size_t i = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (c != '+' && c != '(' && !IsDigit(c)) continue;
      const size_t end = PhoneAt(i);
      if (end != 0) {
        Add(i, end, "phone");
        i = end - 1;
      } else if (IsDigit(c)) {  // the rest of these digits begins no number
        while (IsDigit(At(i + 1))) ++i;
      }
    }
  }

  // Every group of digits may be the first of a card number.
  void Cards() {
    for (size_t i = 0; i < text_.size(); ++i) {
      if (!IsDigit(text_[i]) || (i > 0 && IsDigit(text_[i - 1]))) continue;
      std::array<char, 19> digits;
      size_t count = 0, group = 0, best = 0, j = i;
      for (; j < text_.size() && count <= digits.size(); ++j) {
        if (IsDigit(text_[j])) {
          if (count == digits.size()) {
            ++count;
            break;
          }
          digits[count++] = text_[j];
          ++group;
          if (!IsDigit(At(j + 1)) && group >= 3 && count >= 13 && Luhn({digits.data(), count})) best = j + 1;
        } else if ((text_[j] == ' ' || text_[j] == '-') && group >= 3 && IsDigit(At(j + 1))) {
          group = 0;
        } else {
          break;
        }
      }
      if (best == 0) continue;
      Add(i, best, "card");
      i = best - 1;
    }
  }

  void Ibans() {
    for (size_t i = 0; i + 15 <= text_.size(); ++i) {
      if (!IsLetter(text_[i]) || !IsLetter(text_[i + 1]) || !IsDigit(text_[i + 2]) ||
          !IsDigit(text_[i + 3]) || (i > 0 && IsAlnum(text_[i - 1]))) {
        continue;
      }
      std::string compact;
      std::array<size_t, 35> ends{};  // behind so many characters
      for (size_t j = i; j < text_.size() && compact.size() < 34; ++j) {
        if (text_[j] == ' ' && IsAlnum(At(j + 1))) continue;
        if (!IsAlnum(text_[j])) break;
        compact.push_back(text_[j]);
        ends[compact.size()] = j + 1;
      }
      for (size_t length = compact.size(); length >= 15; --length) {
        if (IsAlnum(At(ends[length])) || !Mod97({compact.data(), length})) continue;
        Add(i, ends[length], "iban");
        i = ends[length] - 1;
        break;
      }
    }
  }

  void Tokens() {
    struct Prefix {
      std::string_view text;
      size_t least;  // characters after it
    };
    static constexpr Prefix kPrefixes[] = {
        {"sk-", 16},  {"tp-", 16},         {"sk_live_", 8}, {"sk_test_", 8}, {"rk_live_", 8},
        {"hf_", 16},  {"ghp_", 16},        {"gho_", 16},    {"ghs_", 16},    {"ghu_", 16},
        {"ghr_", 16}, {"github_pat_", 16}, {"glpat-", 16},  {"xoxb-", 8},    {"xoxp-", 8},
        {"xoxa-", 8}, {"AKIA", 16},        {"ASIA", 16},    {"AIza", 30},    {"nvapi-", 16}};
    for (size_t i = 0; i < text_.size(); ++i) {
      if (i > 0 && IsTokenPart(text_[i - 1])) continue;
      const std::string_view rest = text_.substr(i);
      if (BeginsBearer(rest)) {
        size_t begin = i + 6;
        while (At(begin) == ' ' || At(begin) == '\t') ++begin;
        size_t end = begin;
        bool digit = false;
        for (; end < text_.size() && IsToken68(text_[end]); ++end) digit = digit || IsDigit(text_[end]);
        // "Bearer certificates" are not one.
        if (end - begin >= 16 || (digit && end - begin >= 8)) {
          Add(begin, end, "token");
          i = end - 1;
        }
        continue;
      }
      size_t end = i;
      for (const Prefix& prefix : kPrefixes) {
        if (!rest.starts_with(prefix.text)) continue;
        size_t stop = i + prefix.text.size();
        while (stop < text_.size() && IsTokenPart(text_[stop])) ++stop;
        if (stop - i - prefix.text.size() >= prefix.least) end = stop;
      }
      if (rest.starts_with("eyJ")) {  // {" in base64: a JWT's header
        size_t stop = i, dots = 0;
        while (stop < text_.size() && (IsTokenPart(text_[stop]) || (text_[stop] == '.' && dots < 4))) {
          dots += text_[stop] == '.' ? 1 : 0;
          ++stop;
        }
        if (dots >= 2 && stop - i >= 24) end = stop;
      }
      if (end == i) continue;
      Add(i, end, "token");
      i = end - 1;
    }
  }

  void Addresses() {
    for (size_t i = 0; i < text_.size(); ++i) {
      const char c = text_[i];
      if (!IsHex(c) && c != ':') continue;
      const char before = i == 0 ? ' ' : text_[i - 1];
      if (IsAlnum(before) || before == ':' || before == '_') continue;
      // A version 1.2.3.4 looks the same and goes too; 1.2.3.4.5 does not.
      size_t end = before == '.' ? 0 : Ipv4At(i);
      if (end == 0) end = Ipv6At(i);
      if (end == 0) continue;
      Add(i, end, "ip");
      i = end - 1;
    }
  }

 private:
  char At(size_t i) const { return i < text_.size() ? text_[i] : '\0'; }
  void Add(size_t begin, size_t end, std::string_view name) { out_.push_back({begin, end, name}); }

  static bool IsLocal(char c) {
    return IsAlnum(c) || std::string_view(".!#$%&'*+/=?^_`{|}~-").find(c) != std::string_view::npos;
  }
  static bool IsTokenPart(char c) { return IsAlnum(c) || c == '-' || c == '_'; }
  static bool IsToken68(char c) {
    return IsTokenPart(c) || c == '.' || c == '~' || c == '+' || c == '/' || c == '=';
  }
  static bool BeginsBearer(std::string_view rest) {
    constexpr std::string_view kBearer = "bearer";
    if (rest.size() < 8 || (rest[6] != ' ' && rest[6] != '\t')) return false;
    for (size_t i = 0; i < kBearer.size(); ++i) {
      if ((rest[i] | 0x20) != kBearer[i]) return false;
    }
    return true;
  }

  // Luhn: from the right every second digit doubled, their digits summed; a multiple of ten.
  static bool Luhn(std::string_view digits) {
    int sum = 0;
    bool twice = false;
    for (size_t i = digits.size(); i-- > 0; twice = !twice) {
      const int digit = digits[i] - '0';
      sum += !twice ? digit : digit < 5 ? 2 * digit : 2 * digit - 9;
    }
    return sum % 10 == 0 && digits.find_first_not_of('0') != std::string_view::npos;
  }
  // The first four characters go to the end, letters are 10 to 35; the number is 1 modulo 97.
  static bool Mod97(std::string_view iban) {
    int rest = 0;
    const auto take = [&](char c) {
      rest = IsDigit(c) ? (rest * 10 + (c - '0')) % 97 : (rest * 100 + ((c | 0x20) - 'a' + 10)) % 97;
    };
    for (const char c : iban.substr(4)) take(c);
    for (const char c : iban.substr(0, 4)) take(c);
    return rest == 1;
  }

  // Digits from `i`, divided by what divides phone numbers; how many there are, and where `most` of them end.
  struct Digits {
    size_t count = 0, groups = 1, end = 0;
  };
  Digits DigitsFrom(size_t i, size_t most) const {
    Digits out;
    size_t gap = 0;
    for (; i < text_.size(); ++i) {
      const char c = text_[i];
      if (IsDigit(c)) {
        if (out.count == most + 1) return out;
        if (gap > 0) ++out.groups;
        gap = 0;
        ++out.count;
        out.end = i + 1;
      } else if (std::string_view(" -./()").find(c) != std::string_view::npos && gap < 2 && out.count > 0) {
        ++gap;
      } else {
        break;
      }
    }
    return out;
  }
  // Exactly `count` digits at `i`.
  bool Group(size_t i, size_t count) const {
    for (size_t k = 0; k < count; ++k) {
      if (!IsDigit(At(i + k))) return false;
    }
    return true;
  }
  bool Gap(size_t i) const { return At(i) == ' ' || At(i) == '-' || At(i) == '.'; }

  size_t PhoneAt(size_t i) const {
    const char c = text_[i];
    if (i > 0 && (IsAlnum(text_[i - 1]) || text_[i - 1] == '+')) return 0;
    if (c == '+') {
      if (!IsDigit(At(i + 1))) return 0;
      const Digits digits = DigitsFrom(i + 1, 15);
      return digits.count >= 8 && digits.count <= 15 ? digits.end : PrefixOfLong(i + 1, digits);
    }
    if (c == '(') {
      if (!Group(i + 1, 3) || At(i + 4) != ')') return 0;
      const size_t next = i + 5 + (Gap(i + 5) ? 1 : 0);
      return Group(next, 3) && Gap(next + 3) && Group(next + 4, 4) && !IsDigit(At(next + 8)) ? next + 8 : 0;
    }
    if (i > 0 && (text_[i - 1] == '.' || text_[i - 1] == '-' || text_[i - 1] == '/'))
      return 0;  // of a date or a number
    if (c == '0') {
      // A fraction (0.123456789), a date (01.02.2026 10:30).
      if (At(i + 1) == '.' || (Group(i, 2) && Group(i + 3, 2) && Group(i + 6, 4) && At(i + 2) == At(i + 5)))
        return 0;
      const Digits digits = DigitsFrom(i, 17);
      if (At(i + 1) == '0') return digits.count >= 10 && digits.count <= 17 ? digits.end : 0;
      return digits.count >= 9 && digits.count <= 12 && (digits.groups > 1 || digits.count >= 10) ? digits.end
                                                                                                  : 0;
    }
    if (Group(i, 3) && Gap(i + 3) && Group(i + 4, 3) && Gap(i + 7) && Group(i + 8, 4) && !IsDigit(At(i + 12)))
      return i + 12;
    if (c == '1' && At(i + 1) >= '3' && At(i + 1) <= '9') {
      if (Group(i, 11) && !IsDigit(At(i + 11))) return i + 11;
      if (Group(i, 3) && Gap(i + 3) && Group(i + 4, 4) && Gap(i + 8) && Group(i + 9, 4) &&
          !IsDigit(At(i + 13)))
        return i + 13;
    }
    return 0;
  }
  // "+49 30 1234567 12345678": other digits follow the number. Its longest groups within 15 digits.
  size_t PrefixOfLong(size_t i, const Digits& digits) const {
    if (digits.count <= 15) return 0;
    size_t count = 0, end = 0;
    for (; i < text_.size() && count <= 15; ++i) {
      if (!IsDigit(text_[i])) continue;
      ++count;
      if (count <= 15 && count >= 8 && !IsDigit(At(i + 1))) end = i + 1;
    }
    return end;
  }

  size_t Ipv4At(size_t i) const {
    for (int part = 0; part < 4; ++part) {
      if (part > 0) {
        if (At(i) != '.') return 0;
        ++i;
      }
      int value = 0;
      size_t digits = 0;
      for (; IsDigit(At(i)) && digits < 4; ++i, ++digits) value = value * 10 + (text_[i] - '0');
      if (digits == 0 || digits > 3 || value > 255) return 0;
    }
    if (IsAlnum(At(i)) || (At(i) == '.' && IsDigit(At(i + 1)))) return 0;
    return i;
  }
  size_t Ipv6At(size_t i) const {
    constexpr size_t kLongest = 45;
    size_t end = i, colons = 0;
    bool digit = false;
    for (; IsHex(At(end)) || At(end) == ':' || (At(end) == '.' && colons > 0); ++end) {
      if (end - i > kLongest) return 0;
      colons += At(end) == ':' ? 1 : 0;
      digit = digit || IsDigit(At(end));
    }
    if (IsAlnum(At(end)) || At(end) == '_') return 0;
    // Names of code (a::b) are none.
    if (colons < 2 || (!digit && colons < 4)) return 0;
    for (int tries = 0; tries < 3 && end > i; ++tries) {
      const std::string candidate(text_.substr(i, end - i));
      in6_addr address;
      if (candidate.size() > 2 && ::inet_pton(AF_INET6, candidate.c_str(), &address) == 1) return end;
      if (text_[end - 1] != '.' && text_[end - 1] != ':') return 0;
      --end;  // the end of a sentence
    }
    return 0;
  }

  const std::string_view text_;
  std::vector<Finding>& out_;
};

}  // namespace

void FindSensitive(std::string_view text, const BodyRule& rule, std::vector<Finding>& out) {
  Finder finder(text, out);
  if (rule.Redacts(Redact::kEmail)) finder.Emails();
  if (rule.Redacts(Redact::kPhone)) finder.Phones();
  if (rule.Redacts(Redact::kCard)) finder.Cards();
  if (rule.Redacts(Redact::kIban)) finder.Ibans();
  if (rule.Redacts(Redact::kToken)) finder.Tokens();
  if (rule.Redacts(Redact::kIp)) finder.Addresses();
}

}  // namespace tidepool::platform
