// Sound files come from the format's own library (testdata/sharded, see checkpoint_test.cc); these are the
// broken ones.
#include "models/formats/safetensors_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

#include "models/formats/file_builder_for_test.h"

namespace tidepool::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const char* const kShardFixture =
    TIDEPOOL_SOURCE_DIR "/src/models/formats/testdata/sharded/model-00001-of-00002.safetensors";

Result<std::vector<Tensor>> ParseExact(std::string_view text, const OpenLimits& limits = {}) {
  const auto copy = std::make_unique<std::byte[]>(text.size() + (text.empty() ? 1 : 0));
  std::memcpy(copy.get(), text.data(), text.size());
  Result<std::vector<Tensor>> tensors =
      ParseSafetensors({copy.get(), text.size()}, "test.safetensors", limits);
  if (tensors) {
    volatile unsigned sum = 0;
    for (const Tensor& tensor : *tensors) {
      for (const std::byte b : tensor.bytes) sum = sum + static_cast<unsigned>(b);
    }
  }
  return tensors;
}

void ExpectRefused(std::string_view header, size_t data_bytes, ErrorKind kind, std::string_view subject,
                   const char* words, const OpenLimits& limits = {}) {
  const auto tensors = ParseExact(BuildSafetensors(header, data_bytes), limits);
  ASSERT_FALSE(tensors) << header;
  EXPECT_EQ(tensors.error().kind, kind) << tensors.error().message;
  EXPECT_EQ(tensors.error().param, subject) << tensors.error().message;
  EXPECT_THAT(tensors.error().message, HasSubstr(words));
  EXPECT_THAT(tensors.error().message, HasSubstr("test.safetensors"));
}

TEST(SafetensorsFileTest, ReadsShapesTypesAndOrder) {
  const auto tensors = ParseExact(BuildSafetensors(
      R"({"b":{"dtype":"F16","shape":[2,3],"data_offsets":[4,16]},"__metadata__":{"k":"v"},)"
      R"("a":{"data_offsets":[0,4],"shape":[],"dtype":"F32"},"z":{"dtype":"U8","shape":[0,9],"data_offsets":[16,16]}}   )",
      16));
  ASSERT_TRUE(tensors) << tensors.error().message;
  ASSERT_EQ(tensors->size(), 3u);
  EXPECT_EQ((*tensors)[0].name, "a");
  EXPECT_TRUE((*tensors)[0].shape.empty());
  EXPECT_EQ((*tensors)[0].elements(), 1);
  EXPECT_EQ((*tensors)[1].type, chips::DataType::kF16);
  EXPECT_THAT((*tensors)[1].shape, ElementsAre(2, 3));
  EXPECT_EQ((*tensors)[2].type, chips::DataType::kI8);
  EXPECT_TRUE((*tensors)[2].bytes.empty());
}

TEST(SafetensorsFileTest, EmptyHeaderIsAFileWithoutTensors) {
  const auto tensors = ParseExact(BuildSafetensors("{}", 0));
  ASSERT_TRUE(tensors) << tensors.error().message;
  EXPECT_TRUE(tensors->empty());
}

TEST(SafetensorsFileTest, EveryTruncationIsRefused) {
  const std::string text = ReadWholeFile(kShardFixture);
  ASSERT_TRUE(ParseExact(text));
  // All of the header, then strides through the data.
  for (size_t size = 0; size < text.size(); size += size < 1024 ? 1 : 509) {
    const auto tensors = ParseExact(std::string_view(text).substr(0, size));
    ASSERT_FALSE(tensors) << size;
    EXPECT_EQ(tensors.error().code, "file_truncated") << size << ": " << tensors.error().message;
  }
  EXPECT_FALSE(ParseExact(text + "x"));
}

TEST(SafetensorsFileTest, EveryFlippedByteOfTheHeaderGivesAnErrorOrASoundFile) {
  const std::string text = ReadWholeFile(kShardFixture);
  for (size_t i = 0; i < 512; ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string broken = text;
      broken[i] = static_cast<char>(broken[i] ^ flip);
      ParseExact(broken);
    }
  }
}

TEST(SafetensorsFileTest, RefusesHeaderLengthsThatCannotBe) {
  for (const int64_t length : {int64_t{100'000'001}, std::numeric_limits<int64_t>::max()}) {
    const auto tensors = ParseExact(BuildSafetensors("{}", 0, length));
    ASSERT_FALSE(tensors);
    EXPECT_EQ(tensors.error().kind, ErrorKind::kTooLarge);
    EXPECT_THAT(tensors.error().message, HasSubstr("100000000"));
  }
  EXPECT_EQ(ParseExact(BuildSafetensors("{}", 0, 3)).error().code, "file_truncated");
  EXPECT_EQ(ParseExact(BuildSafetensors("", 0)).error().code, "file_corrupt");
  EXPECT_EQ(ParseExact(BuildSafetensors(" {}", 0)).error().code,
            "file_corrupt");  // the format demands '{' first
}

std::string OneTensor(std::string_view fields) { return "{\"t\":{" + std::string(fields) + "}}"; }

TEST(SafetensorsFileTest, RefusesBadTensors) {
  const auto bad = [](std::string_view fields, const char* words, size_t data_bytes = 8) {
    ExpectRefused(OneTensor(fields), data_bytes, ErrorKind::kCorrupt, "t", words);
  };
  bad(R"("shape":[2],"data_offsets":[0,8])", "has no \"dtype\"");
  bad(R"("dtype":"F32","data_offsets":[0,8])", "has no \"shape\"");
  bad(R"("dtype":"F32","shape":[2])", "has no \"data_offsets\"");
  bad(R"("dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8])", "\"dtype\" occurs twice");
  bad(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])", "\"shape\" occurs twice");
  bad(R"("dtype":3,"shape":[2],"data_offsets":[0,8])", "3 of \"dtype\"");
  bad(R"("dtype":"F32","shape":2,"data_offsets":[0,8])", "2 of \"shape\"");
  bad(R"("dtype":"F32","shape":{},"data_offsets":[0,8])", "an object of \"shape\"");
  bad(R"("dtype":"F32","shape":[{},2],"data_offsets":[0,8])", "an object of \"shape\"");
  bad(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])", "an array of \"shape\"");
  bad(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])", "-2 of \"shape\"");
  bad(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])", "2.0 of \"shape\"");
  bad(R"("dtype":"F32","shape":["2"],"data_offsets":[0,8])", "\"2\" of \"shape\"");
  bad(R"("dtype":"F32","shape":[null],"data_offsets":[0,8])", "null of \"shape\"");
  bad(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])", "more than 8 dimensions");
  bad(R"("dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8])", "too large");
  bad(R"("dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8])",
      "do not make");  // elements overflow
  bad(R"("dtype":"F32","shape":[4611686018427387906],"data_offsets":[0,8])",
      "do not make");  // bytes overflow
  bad(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])", "do not make the 8 bytes");
  bad(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])", "must be [begin, end]");
  bad(R"("dtype":"F32","shape":[2],"data_offsets":[0])", "must be [begin, end]");
  bad(R"("dtype":"F32","shape":[2],"data_offsets":[0,4,8])", "more than 2");
  bad(R"("dtype":"F32","shape":[2],"data_offsets":[8,16])", "end at byte 16");
  bad(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", "4 bytes before it belong to no tensor");
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4])"), 8, ErrorKind::kCorrupt, "",
                "4 bytes at the end");
  ExpectRefused(OneTensor(R"("dtype":"F4","shape":[2],"data_offsets":[0,8])"), 8, ErrorKind::kInvalid, "t",
                "dtype \"F4\"");
}

TEST(SafetensorsFileTest, RefusesOverlapsAndBadNames) {
  ExpectRefused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
      8, ErrorKind::kCorrupt, "b", "overlap");
  ExpectRefused(
      R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
      8, ErrorKind::kCorrupt, "b", "overlap");
  ExpectRefused(R"({"":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, ErrorKind::kCorrupt, "",
                "name is empty");
  ExpectRefused(R"({"a\u0000":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8, ErrorKind::kCorrupt,
                "a\\x00", "control characters");
}

TEST(SafetensorsFileTest, RefusesOtherJson) {
  ExpectRefused(R"({"t":3})", 0, ErrorKind::kCorrupt, "t", "3 where the header needs an object");
  ExpectRefused(R"({"t":[]})", 0, ErrorKind::kCorrupt, "t", "an array where");
  ExpectRefused(R"({"__metadata__":"x"})", 0, ErrorKind::kCorrupt, "__metadata__", "needs an object");
  ExpectRefused("{\"t\":", 0, ErrorKind::kCorrupt, "", "not valid JSON");
  ExpectRefused("{\"t\xff\":{}}", 0, ErrorKind::kCorrupt, "", "not valid JSON");
  ExpectRefused("{}{}", 0, ErrorKind::kCorrupt, "", "not valid JSON");
  ExpectRefused(OneTensor("\"x\":" + std::string(1000, '[')), 0, ErrorKind::kCorrupt, "t", "too deeply");
  // Unknown fields and any metadata are skipped.
  EXPECT_TRUE(ParseExact(BuildSafetensors(
      R"({"__metadata__":{"a":{"b":[1,{"c":null}]}},"t":{"x":[[1],{"dtype":2}],"dtype":"I8","shape":[1],"data_offsets":[0,1]}})",
      1)));
}

TEST(SafetensorsFileTest, RespectsLimits) {
  OpenLimits limits;
  limits.max_tensors = 0;
  ExpectRefused(OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,8])"), 8, ErrorKind::kTooLarge, "t",
                "more than 0 tensors", limits);
  limits = {};
  limits.max_json_bytes = 7;
  ExpectRefused(OneTensor(""), 0, ErrorKind::kTooLarge, "", "the limit is 7", limits);
}

}  // namespace
}  // namespace tidepool::formats
