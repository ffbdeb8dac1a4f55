#include "models/formats/json_metadata.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tidepool::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Result<MetadataTable> Flatten(std::string_view text, const JsonLimits& limits = {}) {
  return FlattenJson(text, "config.json", limits);
}

void ExpectRefused(std::string_view text, const char* words, const JsonLimits& limits = {}) {
  const auto table = Flatten(text, limits);
  ASSERT_FALSE(table) << text;
  EXPECT_THAT(table.error().message, HasSubstr(words));
  EXPECT_THAT(table.error().message, HasSubstr("config.json"));
}

TEST(FlattenJsonTest, ScalarsOfEveryKind) {
  const auto table =
      Flatten(R"({"i":-3,"u":18446744073709551615,"f":2.5,"b":true,"s":"\u6f6e","n":null,"e":{}})");
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->Int("i"), -3);
  EXPECT_EQ(table->Float("i"), -3.0);
  EXPECT_EQ(table->Int("u"), std::nullopt);
  EXPECT_EQ(table->Float("u"), 0x1p64);
  EXPECT_EQ(table->Float("f"), 2.5);
  EXPECT_EQ(table->Int("f"), std::nullopt);
  EXPECT_EQ(table->Bool("b"), true);
  EXPECT_EQ(table->Int("b"), std::nullopt);
  EXPECT_EQ(table->String("s"), "\u6f6e");
  EXPECT_FALSE(table->Has("n"));
  EXPECT_FALSE(table->Has("e"));
  EXPECT_THAT(table->Keys(), ElementsAre("b", "f", "i", "s", "u"));
}

TEST(FlattenJsonTest, NestedObjectsAndArrays) {
  const auto table = Flatten(
      R"({"a":{"b":{"c":1},"d":2},"l":[{"x":1},{"x":2,"y":[3,4]}],"after":5,"deep":[[1,2],[],["s"]]})");
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_EQ(table->Int("a.b.c"), 1);
  EXPECT_EQ(table->Int("a.d"), 2);
  EXPECT_EQ(table->Int("l.0.x"), 1);
  EXPECT_EQ(table->Int("l.1.x"), 2);
  EXPECT_THAT(*table->Ints("l.1.y"), ElementsAre(3, 4));
  EXPECT_EQ(table->Int("after"), 5);
  EXPECT_THAT(*table->Ints("deep.0"), ElementsAre(1, 2));
  EXPECT_TRUE(table->Ints("deep.1")->empty());
  EXPECT_THAT(*table->Strings("deep.2"), ElementsAre("s"));
  EXPECT_FALSE(table->Has("deep"));
}

TEST(FlattenJsonTest, ArraysOfOneKind) {
  const auto table = Flatten(
      R"({"i":[1,-2],"f":[1,2.5,3],"b":[true,false],"s":["x",""],"z":[],"m":[1,"x"],"n":[1,null],"o":[true,1]})");
  ASSERT_TRUE(table) << table.error().message;
  EXPECT_THAT(*table->Ints("i"), ElementsAre(1, -2));
  EXPECT_THAT(*table->Floats("i"), ElementsAre(1.0, -2.0));
  EXPECT_THAT(*table->Floats("f"), ElementsAre(1.0, 2.5, 3.0));
  EXPECT_EQ(table->Ints("f"), std::nullopt);
  EXPECT_THAT(*table->Ints("b"), ElementsAre(1, 0));
  EXPECT_THAT(*table->Strings("s"), ElementsAre("x", ""));
  EXPECT_TRUE(table->Ints("z")->empty());
  EXPECT_TRUE(table->Strings("z")->empty());
  for (const char* mixed : {"m", "n", "o"}) EXPECT_FALSE(table->Has(mixed)) << mixed;
}

TEST(FlattenJsonTest, RefusesWhatIsNotAnObjectOrNotJson) {
  for (const char* text :
       {"", " ", "{", "{\"a\":1", "{\"a\":}", "{\"a\":1,}", "{\"a\":NaN}", "{\"a\":Infinity}",
        "{\"a\":1e999}", "{\"a\":1}x", "{\"\xff\":1}", "{\"a\":\"\xc3\"}", "{'a':1}"}) {
    ExpectRefused(text, "not valid JSON");
  }
  ExpectRefused("[]", "must be an object");
  ExpectRefused("3", "must be an object");
  ExpectRefused("null", "must be an object");
}

TEST(FlattenJsonTest, RefusesAmbiguousAndUnsoundKeys) {
  ExpectRefused(R"({"a":1,"a":2})", "occurs twice");
  ExpectRefused(R"({"a.b":1,"a":{"b":2}})", "occurs twice");
  ExpectRefused(R"({"":1})", "the key is empty");
  ExpectRefused("{\"a\\u0000b\":1}", "control characters");
}

TEST(FlattenJsonTest, RespectsLimits) {
  JsonLimits limits;
  limits.max_depth = 3;
  EXPECT_TRUE(Flatten(R"({"a":{"b":[1]}})", limits));
  ExpectRefused(R"({"a":{"b":[[1]]}})", "nested deeper than 3", limits);
  limits = {};
  ExpectRefused("{\"a\":" + std::string(1'000'000, '['), "nested deeper than 64", limits);
  limits.max_keys = 2;
  ExpectRefused(R"({"a":1,"b":2,"c":3})", "more than 2 keys", limits);
  limits = {};
  limits.max_array_elements = 2;
  ExpectRefused(R"({"a":[1,2,3]})", "array of more than 2 elements", limits);
  // Long paths repeated for many children: the text is small, the flattened keys would not be.
  std::string text = "{";
  for (int i = 0; i < 20; ++i) text += "\"" + std::string(1000, 'k') + "\":{";
  for (int i = 0; i < 1000; ++i) text += (i > 0 ? ",\"" : "\"") + std::to_string(i) + "\":1";
  text += std::string(21, '}');
  limits = {};
  limits.max_memory_bytes = 1'000'000;
  ExpectRefused(text, "more than 1000000 bytes of memory", limits);
}

}  // namespace
}  // namespace tidepool::formats
