// What is taken out of bodies and what stays. Oracles: published examples (the test numbers of card schemes,
// the IBAN registry's examples, RFC 3849 and RFC 5737 addresses), and texts that only look alike.
#include "platform/request_bodies/redaction.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

std::unique_ptr<Redactor> Make(BodyRule rule = {}) {
  auto made = Redactor::Make(rule);
  EXPECT_TRUE(made) << made.error().message;
  return made ? std::move(*made) : nullptr;
}
std::string Redacted(std::string_view text, const BodyRule& rule = {}) {
  return Make(rule)->Redact(text, text.size()).kept;
}
BodyRule Patterns(std::vector<std::string> patterns) {
  BodyRule rule;
  rule.redact.fill(false);
  rule.patterns = std::move(patterns);
  return rule;
}

TEST(Redaction, TakesOutEachKindAndLeavesTheRest) {
  const std::pair<const char*, const char*> cases[] = {
      {"write to alice.b+c@mail.example.co.uk, please", "write to [redacted:email], please"},
      {"<mailto:bob@example.com>", "<mailto:[redacted:email]>"},
      {"联系alice@example.com。", "联系[redacted:email]。"},
      {"me@localhost and @someone and a@b", "me@localhost and @someone and a@b"},
      {"call +49 30 901820 today", "call [redacted:phone] today"},
      {"(415) 555-2671 or 415-555-2671", "[redacted:phone] or [redacted:phone]"},
      {"手机13812345678。", "手机[redacted:phone]。"},
      {"030 90182000 in Berlin, 0044 20 7946 0958 in London",
       "[redacted:phone] in Berlin, [redacted:phone] in London"},
      {"on 2026-11-28 at 17:45:00, 3.14159265358979, 0.123456789",
       "on 2026-11-28 at 17:45:00, 3.14159265358979, 0.123456789"},
      {"on 01.02.2026 10:30", "on 01.02.2026 10:30"},
      {"card 4111 1111 1111 1111 exp 12/30", "card [redacted:card] exp 12/30"},
      {"5555555555554444", "[redacted:card]"},
      {"3782-822463-10005", "[redacted:card]"},
      {"4111 1111 1111 1112", "4111 1111 1111 1112"},  // another check digit
      {"12345678901234567890123", "12345678901234567890123"},
      {"IBAN DE89 3704 0044 0532 0130 00 is mine", "IBAN [redacted:iban] is mine"},
      {"GB82WEST12345698765432", "[redacted:iban]"},
      {"GB83WEST12345698765432 is none", "GB83WEST12345698765432 is none"},  // other check digits
      {"Authorization: Bearer abc.DEF-1234567890_x", "Authorization: Bearer [redacted:token]"},
      {"the bearer certificates are here", "the bearer certificates are here"},
      {"key sk-proj-abcdefghijklmnop0123 and tp-0123456789abcdefABCD",
       "key [redacted:token] and [redacted:token]"},
      {"sk-short, task-force-of-the-nineties-here", "sk-short, task-force-of-the-nineties-here"},
      {"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl!", "[redacted:token]!"},
      {"from 192.0.2.17:8080 to 2001:db8::8a2e:370:7334.", "from [redacted:ip]:8080 to [redacted:ip]."},
      {"::1 and fe80::1", "[redacted:ip] and [redacted:ip]"},
      {"300.1.2.3, 1.2.3.4.5, 12:30:45, std::vector, a::b, aa:bb:cc:dd:ee:ff",
       "300.1.2.3, 1.2.3.4.5, 12:30:45, std::vector, a::b, aa:bb:cc:dd:ee:ff"},
      {"", ""},
      {"nothing here", "nothing here"},
  };
  for (const auto& [text, expected] : cases) EXPECT_EQ(Redacted(text), expected) << text;
}

TEST(Redaction, EachKindCanBeLeftIn) {
  const std::string text =
      "a@example.com +49 30 901820 4111111111111111 DE89370400440532013000 sk-abcdefghijklmnop1234 "
      "192.0.2.17";
  for (size_t kind = 0; kind < kRedactNames.size(); ++kind) {
    BodyRule rule;
    rule.redact.fill(false);
    EXPECT_EQ(Redacted(text, rule), text);
    rule.redact[kind] = true;
    const std::string kept = Redacted(text, rule);
    EXPECT_NE(kept.find(fmt::format("[redacted:{}]", kRedactNames[kind])), std::string::npos) << kept;
    EXPECT_EQ(kept.find("[redacted:"), kept.rfind("[redacted:")) << kept;
  }
}

TEST(Redaction, OwnPatternsAreFoundAnywhereAtTheirLongest) {
  EXPECT_EQ(Redacted("case AB-123 and AB-99999x", Patterns({"AB-\\d+"})),
            "case [redacted:pattern] and [redacted:pattern]x");
  EXPECT_EQ(Redacted("project tide-pool, Tide", Patterns({"[Tt]ide(-pool)?"})),
            "project [redacted:pattern], [redacted:pattern]");
  EXPECT_EQ(Redacted("ünïcode ünï", Patterns({"ün."})), "[redacted:pattern]code [redacted:pattern]");
}

TEST(Redaction, BadPatternsAreRefusedByNameAndPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {"(unclosed", "without its )"}, {"a*", "empty text"},     {"^start", "^ is not supported"},
      {"end$", "$ is not supported"}, {"(a)\\1", ""},           {"(?=look)", "look-ahead"},
      {"", "1 to 512 bytes"},         {"[z-a]", "a later one"},
  };
  for (const auto& [pattern, why] : cases) {
    const Status checked = CheckPatterns({"good", pattern});
    ASSERT_FALSE(checked) << pattern;
    EXPECT_EQ(checked.error().kind, ErrorKind::kInvalid);
    EXPECT_EQ(checked.error().param, "redact.patterns[1]");
    EXPECT_NE(checked.error().message.find(why), std::string::npos) << checked.error().message;
  }
  EXPECT_EQ(CheckPatterns(std::vector<std::string>(kMaxPatterns + 1, "x")).error().code, "too_many_patterns");
  EXPECT_EQ(CheckPatterns({std::string(kMaxPatternBytes + 1, 'x')}).error().code, "bad_pattern");
  EXPECT_TRUE(CheckPatterns({"AB-\\d{3,9}", "(foo|bar)+"}));
}

// A backtracking engine takes 2^30 steps for the first, and n^2 for the second.
TEST(Redaction, HostilePatternsEndAndWhatWasNotLookedAtIsCut) {
  const std::string text(300'000, 'a');
  auto redactor = Make(Patterns({"(a+)+b", "a[ab]*c"}));
  const Redactor::Text kept = redactor->Redact(text, text.size());
  EXPECT_TRUE(kept.cut || kept.kept == "[redacted:pattern]") << kept.kept.size();
  EXPECT_LT(kept.kept.size(), text.size());
  // The next body has a bound of its own.
  redactor->Begin();
  EXPECT_EQ(redactor->Redact("zzz", 3).kept, "zzz");
}

TEST(Redaction, ACutLeavesNoHalfOfWhatIsTakenOut) {
  const std::string secret = "alice@example.com";
  for (size_t most = 0; most <= 30; ++most) {
    const std::string text = "0123456789 " + secret + " and the rest";
    const Redactor::Text kept = Make()->Redact(text, most);
    EXPECT_TRUE(kept.cut);
    EXPECT_EQ(kept.kept.find("alice"), std::string::npos) << most << ": " << kept.kept;
    EXPECT_EQ(kept.kept.find("al"), std::string::npos) << most << ": " << kept.kept;
  }
  // Also where an own pattern's match goes on beyond what is looked at.
  const std::string long_secret = "BEGIN" + std::string(100'000, 'x');
  EXPECT_EQ(Make(Patterns({"BEGINx*END"}))->Redact("ab " + long_secret + "END", 50).kept,
            "ab [redacted:pattern]");
  // Characters stay whole.
  EXPECT_EQ(Make()->Redact("ab€", 3).kept, "ab");
}

TEST(Redaction, JsonIsReadBeforeItIsRedacted) {
  auto redactor = Make();
  Json json = Json::parse(R"({
    "messages": [{"role": "user", "content": "mail al\u0069ce\u0040example.com"}],
    "card": 4111111111111111, "n": 3,
    "bob@example.com": "name",
    "arguments": "{\"to\": \"carol\\u0040example.com\", \"list\": [\"192.0.2.17\"]}",
    "image": {"url": "data:image/png;base64,IMAGE"}
  })");
  json["image"]["url"] = "data:image/png;base64," + std::string(1000, 'A');
  EXPECT_FALSE(redactor->RedactJson(json, 100'000));
  EXPECT_EQ(json["messages"][0]["content"], "mail [redacted:email]");
  EXPECT_EQ(json["messages"][0]["role"], "user");
  EXPECT_EQ(json["card"], "[redacted:card]");
  EXPECT_EQ(json["n"], 3);
  EXPECT_EQ(json["[redacted:email]"], "name");
  EXPECT_EQ(json["arguments"], R"({"to":"[redacted:email]","list":["[redacted:ip]"]})");
  EXPECT_EQ(json["image"]["url"], "[data:image/png: 1000 bytes of base64]");
  EXPECT_EQ(redactor->found(), 5);
}

TEST(Redaction, JsonIsCutByItsStrings) {
  Json json = {{"a", std::string(600, 'x')}, {"b", std::string(600, 'y')}, {"c", "z"}};
  EXPECT_TRUE(Make()->RedactJson(json, 1000));
  EXPECT_EQ(json["a"].get<std::string>().size(), 600u);
  EXPECT_EQ(json["b"].get<std::string>().size(), 400u);
  EXPECT_EQ(json["c"], "");
}

}  // namespace
}  // namespace tidepool::platform
