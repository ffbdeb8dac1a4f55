// Oracle for sound files: GGUFWriter of the PyPI package `gguf` (testdata/). Broken files are built by hand;
// each must give an error that names its key or tensor, and never a crash or a read outside (run under ASan).
#include "models/formats/gguf_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <memory>

#include "models/formats/file_builder_for_test.h"

namespace tidepool::formats {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const char* const kMetadataFixture = TIDEPOOL_SOURCE_DIR "/src/models/formats/testdata/metadata.gguf";

// Parses a copy of exactly the given size, so that a sanitizer sees reads beyond it.
Result<GgufFile> ParseExact(std::string_view text, const OpenLimits& limits = {}) {
  const auto copy = std::make_unique<std::byte[]>(text.size() + (text.empty() ? 1 : 0));
  std::memcpy(copy.get(), text.data(), text.size());
  Result<GgufFile> file = ParseGguf({copy.get(), text.size()}, "test.gguf", limits);
  if (file) {
    // Read everything that was handed out while the bytes live.
    volatile unsigned sum = 0;
    for (const Tensor& tensor : file->tensors) {
      for (const std::byte b : tensor.bytes) sum = sum + static_cast<unsigned>(b);
    }
    for (const std::string_view key : file->metadata.Keys()) {
      if (const auto value = file->metadata.String(key)) sum = sum + static_cast<unsigned>(value->size());
      if (const auto values = file->metadata.Strings(key)) sum = sum + static_cast<unsigned>(values->size());
    }
  }
  return file;
}

void ExpectRefused(const GgufBuilder& builder, ErrorKind kind, std::string_view subject, const char* words,
                   const OpenLimits& limits = {}) {
  const Result<GgufFile> file = ParseExact(builder.Build(), limits);
  ASSERT_FALSE(file) << words;
  EXPECT_EQ(file.error().kind, kind) << file.error().message;
  EXPECT_EQ(file.error().param, subject) << file.error().message;
  EXPECT_THAT(file.error().message, HasSubstr(words));
  EXPECT_THAT(file.error().message, HasSubstr("test.gguf"));
}

GgufBuilder Sound() {
  GgufBuilder builder;
  builder.Text("general.architecture", "test");
  builder.Add({"a", {32, 2}, 0, 0}).Add({"b", {32}, 2, 256});
  builder.data_bytes = 256 + 18;
  return builder;
}

TEST(GgufFileTest, ReadsEveryKindOfValueAsTheWriterWroteIt) {
  const std::string text = ReadWholeFile(kMetadataFixture);
  const Result<GgufFile> file = ParseGguf(AsBytes(text), "metadata.gguf", {});
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version, 3u);
  EXPECT_EQ(file->alignment, 64u);
  const MetadataTable& metadata = file->metadata;
  EXPECT_EQ(metadata.Int("t.u8"), 255);
  EXPECT_EQ(metadata.Int("t.i8"), -128);
  EXPECT_EQ(metadata.Int("t.u16"), 65535);
  EXPECT_EQ(metadata.Int("t.i16"), -32768);
  EXPECT_EQ(metadata.Int("t.u32"), 4294967295);
  EXPECT_EQ(metadata.Int("t.i32"), -2147483648LL);
  EXPECT_EQ(metadata.Int("t.u64"), std::nullopt);  // beyond int64
  EXPECT_EQ(metadata.Float("t.u64"), 0x1p64);
  EXPECT_EQ(metadata.Int("t.i64"), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(metadata.Float("t.f32"), static_cast<double>(0.1f));
  EXPECT_EQ(metadata.Float("t.f64"), 0.1);
  EXPECT_EQ(metadata.Float("t.u8"), 255.0);
  EXPECT_EQ(metadata.Int("t.f32"), std::nullopt);
  EXPECT_EQ(metadata.Bool("t.true"), true);
  EXPECT_EQ(metadata.Bool("t.false"), false);
  EXPECT_EQ(metadata.Bool("t.u8"), std::nullopt);
  EXPECT_EQ(metadata.String("t.text"), "Gezeitenbecken \u6f6e\u6c60 \U0001f41a");
  EXPECT_EQ(metadata.String("t.u8"), std::nullopt);
  EXPECT_THAT(*metadata.Ints("t.ints"), ElementsAre(1, -2, 3));
  EXPECT_THAT(*metadata.Floats("t.ints"), ElementsAre(1.0, -2.0, 3.0));
  EXPECT_THAT(*metadata.Floats("t.floats"), ElementsAre(0.5, -1.25));
  EXPECT_EQ(metadata.Ints("t.floats"), std::nullopt);
  EXPECT_THAT(*metadata.Ints("t.bools"), ElementsAre(1, 0, 1));
  EXPECT_THAT(*metadata.Strings("t.strings"), ElementsAre("a", "", "\u00e9\u00e8", std::string(300, 'd')));
  EXPECT_EQ(metadata.Strings("t.ints"), std::nullopt);
  EXPECT_EQ(metadata.Ints("t.strings"), std::nullopt);
  EXPECT_FALSE(metadata.Has("t.missing"));
  EXPECT_TRUE(metadata.Has("t.strings"));
}

TEST(GgufFileTest, ReadsTensorsWithTheOutermostDimensionFirst) {
  const std::string text = ReadWholeFile(kMetadataFixture);
  const Result<GgufFile> file = ParseGguf(AsBytes(text), "metadata.gguf", {});
  ASSERT_TRUE(file);
  ASSERT_EQ(file->tensors.size(), 4u);
  EXPECT_THAT(file->tensors[0].shape, ElementsAre(5));
  EXPECT_THAT(file->tensors[1].shape, ElementsAre(3, 4));
  EXPECT_THAT(file->tensors[2].shape, ElementsAre(2, 3, 4));
  EXPECT_THAT(file->tensors[3].shape, ElementsAre(2, 1, 3, 4));
  for (const Tensor& tensor : file->tensors) {
    ASSERT_EQ(tensor.bytes.size(), static_cast<size_t>(tensor.elements()) * 4);
    for (int64_t i = 0; i < tensor.elements(); ++i) {
      float value;
      std::memcpy(&value, tensor.bytes.data() + i * 4, 4);
      ASSERT_EQ(value, static_cast<float>(i));
    }
  }
}

TEST(GgufFileTest, Version2IsTheSame) {
  std::string text = ReadWholeFile(kMetadataFixture);
  text[4] = 2;
  const Result<GgufFile> file = ParseGguf(AsBytes(text), "v2.gguf", {});
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->version, 2u);
  EXPECT_EQ(file->tensors.size(), 4u);
}

TEST(GgufFileTest, EveryTruncationIsRefused) {
  const std::string text = ReadWholeFile(kMetadataFixture);
  const Result<GgufFile> whole = ParseExact(text);
  ASSERT_TRUE(whole);
  // GGUFWriter pads the last tensor up to the alignment; those bytes are no one's.
  size_t needed = 0;
  {
    const Result<GgufFile> file = ParseGguf(AsBytes(text), "test.gguf", {});
    for (const Tensor& tensor : file->tensors) {
      needed = std::max(
          needed, static_cast<size_t>(tensor.bytes.data() + tensor.bytes.size() - AsBytes(text).data()));
    }
  }
  for (size_t size = 0; size < text.size(); ++size) {
    const Result<GgufFile> file = ParseExact(std::string_view(text).substr(0, size));
    EXPECT_EQ(file.has_value(), size >= needed) << size;
    if (!file && size >= 4) {
      EXPECT_EQ(file.error().code, "file_truncated") << size << ": " << file.error().message;
    }
  }
}

TEST(GgufFileTest, EveryFlippedByteGivesAnErrorOrASoundFile) {
  const std::string text = ReadWholeFile(kMetadataFixture);
  for (size_t i = 0; i < text.size(); ++i) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string broken = text;
      broken[i] = static_cast<char>(broken[i] ^ flip);
      ParseExact(broken);
    }
  }
}

TEST(GgufFileTest, SoundFileOfTheBuilder) {
  const Result<GgufFile> file = ParseExact(Sound().Build());
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ(file->tensors[1].bytes.size(), 18u);
}

TEST(GgufFileTest, RefusesOtherFilesAndVersions) {
  const auto refused = [](std::string_view text, const char* words) {
    const Result<GgufFile> file = ParseExact(text);
    ASSERT_FALSE(file);
    EXPECT_EQ(file.error().kind, ErrorKind::kInvalid);
    EXPECT_THAT(file.error().message, HasSubstr(words));
  };
  refused("ggml\x01\x02\x03\x04", "not a GGUF file");
  refused(std::string_view("GGUF\0\0\0\x03________________", 24), "big-endian");
  GgufBuilder builder = Sound();
  for (const uint32_t version : {0u, 1u, 4u, 0x10003u}) {
    builder.version = version;
    refused(builder.Build(), "GGUF version");
  }
}

TEST(GgufFileTest, RefusesCountsThatTheFileCannotHold) {
  GgufBuilder builder = Sound();
  builder.key_count = 90'000;
  ExpectRefused(builder, ErrorKind::kCorrupt, "", "announces 90000 keys");
  builder = Sound();
  builder.tensor_count = 1'000'000;
  ExpectRefused(builder, ErrorKind::kCorrupt, "", "1000000 tensors");
  builder.tensor_count = std::numeric_limits<int64_t>::max();
  ExpectRefused(builder, ErrorKind::kTooLarge, "", "the limit is 1000000");
  builder = Sound();
  builder.key_count = std::numeric_limits<int64_t>::max();
  ExpectRefused(builder, ErrorKind::kTooLarge, "", "the limit is 100000");
  // Limits that a caller raised too far still meet the file's size.
  OpenLimits none;
  none.max_tensors = none.max_metadata_keys = std::numeric_limits<uint64_t>::max();
  builder.tensor_count = std::numeric_limits<int64_t>::max();
  ExpectRefused(builder, ErrorKind::kCorrupt, "", "announces", none);
  // An array of 2^60 elements, and a string of 2^64 - 1 bytes.
  ExpectRefused(GgufBuilder().Array("k", GgufValueType::kU8, uint64_t{1} << 60, ""), ErrorKind::kTooLarge,
                "k", "the limit is 16000000");
  ExpectRefused(GgufBuilder().Array("k", GgufValueType::kF64, 15'000'000, "xxxxxxxx"), ErrorKind::kCorrupt,
                "k", "array of 15000000 elements");
  ExpectRefused(GgufBuilder().Array("k", GgufValueType::kString, 2, std::string(12, '\0')),
                ErrorKind::kCorrupt, "k", "array of 2 elements with 12 bytes left");
  ExpectRefused(GgufBuilder().Scalar("k", GgufValueType::kString, ~uint64_t{0}), ErrorKind::kCorrupt, "k",
                "a string of");
}

TEST(GgufFileTest, RespectsLimits) {
  OpenLimits limits;
  limits.max_tensors = 1;
  ExpectRefused(Sound(), ErrorKind::kTooLarge, "", "announces 2 tensors, the limit is 1", limits);
  limits = {};
  limits.max_metadata_keys = 0;
  ExpectRefused(Sound(), ErrorKind::kTooLarge, "", "announces 1 metadata keys", limits);
  limits = {};
  limits.max_string_bytes = 3;
  ExpectRefused(Sound(), ErrorKind::kTooLarge, "general.architecture", "4 bytes, the limit is 3", limits);
  limits = {};
  limits.max_array_elements = 2;
  ExpectRefused(GgufBuilder().Array("k", GgufValueType::kU8, 3, "abc"), ErrorKind::kTooLarge, "k",
                "limit is 2", limits);
  limits = {};
  limits.max_metadata_bytes = 50;
  ExpectRefused(Sound(), ErrorKind::kTooLarge, "", "metadata of more than 50 bytes", limits);
}

TEST(GgufFileTest, RefusesBadKeysAndValues) {
  ExpectRefused(Sound().Text("general.architecture", "again"), ErrorKind::kCorrupt, "general.architecture",
                "occurs twice");
  ExpectRefused(Sound().Text("", "x"), ErrorKind::kCorrupt, "", "the name of key 1");
  ExpectRefused(Sound().Text("caf\xe9", "x"), ErrorKind::kCorrupt, "caf\\xe9", "not UTF-8");
  ExpectRefused(Sound().Text("a\nb", "x"), ErrorKind::kCorrupt, "a\\x0ab", "the name of key 1");
  ExpectRefused(Sound().Text(std::string(2000, 'k'), "x"), ErrorKind::kTooLarge, "",
                "2000 bytes, the limit is 1024");
  ExpectRefused(Sound().Key("k", static_cast<GgufValueType>(13), "\1"), ErrorKind::kCorrupt, "k",
                "type 13 does not exist");
  ExpectRefused(Sound().Key("k", GgufValueType::kBool, "\2"), ErrorKind::kCorrupt, "k", "boolean is 2");
  ExpectRefused(Sound().Array("k", GgufValueType::kBool, 2, "\1\3"), ErrorKind::kCorrupt, "k",
                "boolean is 3");
  ExpectRefused(Sound().Array("k", GgufValueType::kArray, 1, std::string(12, '\0')), ErrorKind::kInvalid, "k",
                "array of arrays");
  ExpectRefused(Sound().Array("k", static_cast<GgufValueType>(77), 1, "x"), ErrorKind::kCorrupt, "k",
                "type 77");
}

TEST(GgufFileTest, AcceptsStringsThatAreNotUtf8) {
  // Byte tokens of some vocabularies are single bytes.
  std::string elements;
  GgufBuilder::String(elements, "\xff");
  GgufBuilder builder = Sound();
  const std::string text = builder.Array("tokens", GgufValueType::kString, 1, elements).Build();
  const Result<GgufFile> file = ParseGguf(AsBytes(text), "test.gguf", {});
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_THAT(*file->metadata.Strings("tokens"), ElementsAre("\xff"));
}

TEST(GgufFileTest, RefusesBadAlignment) {
  const std::string key = "general.alignment";
  for (const uint32_t value : {0u, 3u, 48u, 1u << 21}) {
    ExpectRefused(Sound().Scalar(key, GgufValueType::kU32, value), ErrorKind::kCorrupt, key, "power of two");
  }
  ExpectRefused(Sound().Text(key, "32"), ErrorKind::kCorrupt, key, "not an integer");
  ExpectRefused(Sound().Scalar(key, GgufValueType::kU64, ~uint64_t{0}), ErrorKind::kCorrupt, key,
                "power of two");
}

TEST(GgufFileTest, RefusesBadTensors) {
  const auto with = [](GgufBuilder::TensorInfo info) {
    GgufBuilder builder = Sound();
    builder.Add(std::move(info));
    return builder;
  };
  const uint64_t kHuge = uint64_t{1} << 40;
  ExpectRefused(with({"t", {}, 0, 0}), ErrorKind::kCorrupt, "t", "0 dimensions");
  ExpectRefused(with({"t", {1, 1, 1, 1, 1}, 0, 0}), ErrorKind::kCorrupt, "t", "5 dimensions");
  ExpectRefused(with({"t", {32, 0}, 0, 0}), ErrorKind::kCorrupt, "t", "dimension 1 is 0");
  ExpectRefused(with({"t", {~uint64_t{0}}, 0, 0}), ErrorKind::kCorrupt, "t", "dimension 0 is");
  ExpectRefused(with({"t", {kHuge, kHuge}, 0, 0}), ErrorKind::kCorrupt, "t", "more than 2^63");
  ExpectRefused(with({"t", {uint64_t{1} << 62}, 0, 0}), ErrorKind::kCorrupt, "t",
                "do not fit");  // bytes overflow
  ExpectRefused(with({"t", {32}, 16, 0}), ErrorKind::kInvalid, "t", "IQ2_XXS");
  ExpectRefused(with({"t", {32}, 1000, 0}), ErrorKind::kInvalid, "t", "type 1000");
  ExpectRefused(with({"t", {32}, 65536, 0}), ErrorKind::kInvalid, "t", "type 65536");  // must not wrap to F32
  ExpectRefused(with({"t", {33}, 2, 0}), ErrorKind::kCorrupt, "t", "not a multiple of the 32");
  ExpectRefused(with({"t", {32}, 0, 8}), ErrorKind::kCorrupt, "t", "multiple of the alignment");
  ExpectRefused(with({"t", {32}, 0, 288}), ErrorKind::kCorrupt, "t", "do not fit");
  ExpectRefused(with({"t", {32}, 0, ~uint64_t{0} - 31}), ErrorKind::kCorrupt, "t", "do not fit");
  ExpectRefused(with({"t", {32}, 0, 128}), ErrorKind::kCorrupt, "t", "overlap");
  ExpectRefused(with({"t", {32}, 0, 0}), ErrorKind::kCorrupt, "t", "overlap");
  ExpectRefused(with({"", {32}, 0, 0}), ErrorKind::kCorrupt, "", "the name of tensor 2");
  ExpectRefused(with({std::string("t\0", 2), {32}, 0, 0}), ErrorKind::kCorrupt, "t\\x00",
                "the name of tensor 2");
}

}  // namespace
}  // namespace tidepool::formats
