#include "gateway/json_body.h"

#include <gtest/gtest.h>

#include <chrono>
#include <random>

namespace tidepool::gateway {
namespace {

std::string CodeOf(std::string_view text, JsonLimits limits = {}) {
  const auto parsed = ParseJson(text, limits);
  return parsed ? "" : parsed.error().code;
}

TEST(JsonBody, ReadsWhatNlohmannReads) {
  for (const std::string_view text :
       {R"({"a":[1,-2,3.5,true,false,null,"xé\n"],"b":{"c":{}},"d":[]})", "[]", "1", "\"x\"", "null",
        R"([{"a":1},{"a":2}])", "18446744073709551615", "-9223372036854775808"}) {
    const auto parsed = ParseJson(text, {});
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, nlohmann::ordered_json::parse(text)) << text;
  }
}

TEST(JsonBody, RefusesMalformedText) {
  for (const std::string_view text :
       {"", "{", "[1,", "{\"a\":}", "{\"a\" 1}", "tru", "1 2", "{a:1}", "[1]]", "'a'", "\"\xff\"",
        "\"\xc0\x80\"", "\"\xed\xa0\x80\"", "1e999", "\x01"}) {
    EXPECT_EQ(CodeOf(text), "malformed_json") << text;
  }
}

TEST(JsonBody, KeepsItsLimits) {
  const auto nested = [](int depth) { return std::string(depth, '[') + std::string(depth, ']'); };
  EXPECT_EQ(CodeOf(nested(64)), "");
  EXPECT_EQ(CodeOf(nested(65)), "json_too_deep");
  EXPECT_EQ(CodeOf(std::string(5'000'000, '[')), "json_too_deep");
  EXPECT_EQ(CodeOf(R"({"a":1,"a":2})"), "duplicate_key");
  EXPECT_EQ(CodeOf(R"({"x":{"a":1,"b":1,"\u0061":2}})"), "duplicate_key");
  EXPECT_EQ(CodeOf(R"([{"a":1},{"a":2}])"), "");
  JsonLimits small;
  small.max_values = 10;
  small.max_keys_per_object = 3;
  EXPECT_EQ(CodeOf("[1,2,3,4,5,6,7,8,9]", small), "");
  EXPECT_EQ(CodeOf("[1,2,3,4,5,6,7,8,9,10]", small), "json_too_large");
  EXPECT_EQ(CodeOf(R"({"a":1,"b":2,"c":3,"d":4})", small), "json_too_large");
}

// Oracle: nlohmann's own writer with the same policy for bytes that are not UTF-8.
TEST(JsonBody, WritesStringsAsNlohmannDoes) {
  std::mt19937 random(3);
  for (int round = 0; round < 4000; ++round) {
    std::string text;
    for (unsigned i = random() % 12; i > 0; --i) {
      switch (random() % 4) {
        case 0: text.push_back(static_cast<char>(random() % 128)); break;
        case 1: text += "é漢😀"; break;
        default: text.push_back(static_cast<char>('a' + random() % 26));
      }
    }
    std::string written;
    AppendJsonString(written, text);
    EXPECT_EQ(nlohmann::json::parse(written).get<std::string>(), text);
  }
}

TEST(JsonBody, ReplacesWhatIsNotUtf8) {
  for (const std::string_view text :
       {"a\xffz", "\xc3", "\xe2\x82", "\xf0\x9f\x98", "\xed\xa0\x80", "\xc0\xaf", "\xf4\x90\x80\x80"}) {
    std::string written;
    AppendJsonString(written, text);
    const std::string read = nlohmann::json::parse(written).get<std::string>();  // throws if it is not UTF-8
    EXPECT_NE(read.find("\xef\xbf\xbd"), std::string::npos);
  }
  std::string line;
  AppendJsonString(line, "a\nb\rc");
  EXPECT_EQ(line.find('\n'), std::string::npos) << "an SSE line must not break";
}

}  // namespace
}  // namespace tidepool::gateway
