// Whole models: fixtures of the formats' own libraries (testdata/), real models where the test data are at
// hand, and folders with every inconsistency.
#include "models/formats/checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdlib>

#include "models/formats/file_builder_for_test.h"
#include "models/formats/gguf_checkpoint.h"
#include "models/formats/side_files.h"

namespace tidepool::formats {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

fs::path TestData(const std::string& name) {
  return fs::path(TIDEPOOL_SOURCE_DIR) / "src/models/formats/testdata" / name;
}

void ExpectRefused(const fs::path& path, ErrorKind kind, const std::string& words,
                   const OpenLimits& limits = {}) {
  const auto checkpoint = Checkpoint::Open(path, limits);
  ASSERT_FALSE(checkpoint) << words;
  EXPECT_EQ(checkpoint.error().kind, kind) << checkpoint.error().message;
  EXPECT_THAT(checkpoint.error().message, HasSubstr(words));
}

void CopyFolder(const fs::path& from, const TemporaryFolder& to) {
  fs::copy(from, to.path(), fs::copy_options::recursive);
}

void CopySplit(const TemporaryFolder& to) {
  for (int i = 1; i <= 3; ++i) {
    const std::string name = "split-0000" + std::to_string(i) + "-of-00003.gguf";
    fs::copy(TestData(name), to.path() / name);
  }
}

// ---- GGUF ------------------------------------------------------------------------------------------

TEST(GgufCheckpointTest, AnyPartOpensTheWholeSet) {
  for (int part = 1; part <= 3; ++part) {
    const auto opened = Checkpoint::Open(TestData("split-0000" + std::to_string(part) + "-of-00003.gguf"));
    ASSERT_TRUE(opened) << opened.error().message;
    const Checkpoint& checkpoint = **opened;
    EXPECT_EQ(checkpoint.format(), Format::kGguf);
    EXPECT_EQ(checkpoint.architecture(), "fixture");
    EXPECT_EQ(checkpoint.metadata().Int("fixture.block_count"), 2);  // only the first part has it
    EXPECT_EQ(checkpoint.tensor_bytes(), 5u * 6 * 4);
    for (int i = 0; i < 5; ++i) {
      const Tensor* tensor = checkpoint.Find("t" + std::to_string(i));
      ASSERT_NE(tensor, nullptr);
      EXPECT_THAT(tensor->shape, ElementsAre(2, 3));
      EXPECT_THAT(*TensorToFloat(checkpoint, *tensor), ::testing::Each(static_cast<float>(i)));
    }
    EXPECT_EQ(checkpoint.Find("t5"), nullptr);
    EXPECT_EQ(checkpoint.Find(""), nullptr);
  }
}

TEST(GgufCheckpointTest, InconsistentSetsAreRefused) {
  TemporaryFolder missing;
  CopySplit(missing);
  fs::remove(missing.path() / "split-00002-of-00003.gguf");
  ExpectRefused(missing.path() / "split-00001-of-00003.gguf", ErrorKind::kNotFound, "file 2 of the 3");

  TemporaryFolder renamed;
  CopySplit(renamed);
  fs::rename(renamed.path() / "split-00001-of-00003.gguf", renamed.path() / "model.gguf");
  ExpectRefused(renamed.path() / "model.gguf", ErrorKind::kInvalid, "not named like one of 3 parts");

  TemporaryFolder swapped;
  CopySplit(swapped);
  fs::copy(TestData("split-00003-of-00003.gguf"), swapped.path() / "split-00002-of-00003.gguf",
           fs::copy_options::overwrite_existing);
  ExpectRefused(swapped.path() / "split-00001-of-00003.gguf", ErrorKind::kCorrupt, "\"split.no\": must be 1");

  TemporaryFolder foreign;
  CopySplit(foreign);
  std::string other = ReadWholeFile(TestData("split-00002-of-00003.gguf"));
  const size_t at = other.find("split.tensors.count") + sizeof("split.tensors.count") - 1 + 4;
  other[at] = static_cast<char>(other[at] + 1);
  foreign.Write("split-00002-of-00003.gguf", other);
  ExpectRefused(foreign.path() / "split-00001-of-00003.gguf", ErrorKind::kCorrupt, "of two models");

  OpenLimits limits;
  limits.max_files = 2;
  ExpectRefused(TestData("split-00001-of-00003.gguf"), ErrorKind::kTooLarge,
                "a set of 3 files, the limit is 2", limits);
  limits = {};
  limits.max_tensors = 3;
  ExpectRefused(TestData("split-00001-of-00003.gguf"), ErrorKind::kTooLarge, "more than 3 tensors in the set",
                limits);
}

TEST(GgufCheckpointTest, RefusesDuplicateTensorsAndMissingArchitecture) {
  TemporaryFolder folder;
  GgufBuilder twice;
  twice.Text("general.architecture", "test").Add({"w", {8}, 0, 0}).Add({"w", {8}, 0, 32});
  twice.data_bytes = 64;
  ExpectRefused(folder.Write("twice.gguf", twice.Build()), ErrorKind::kCorrupt,
                "\"w\": the tensor occurs twice");
  ExpectRefused(folder.Write("none.gguf", GgufBuilder().Build()), ErrorKind::kCorrupt,
                "general.architecture");
}

TEST(GgufCheckpointTest, ReadsChatTemplateAndSideFiles) {
  TemporaryFolder folder;
  GgufBuilder builder;
  builder.Text("general.architecture", "test").Text("tokenizer.chat_template", "{{ x }}");
  const fs::path path = folder.Write("a.gguf", builder.Build());
  folder.Write("note.txt", "hello");
  const auto checkpoint = Checkpoint::Open(path);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->chat_template(), "{{ x }}");
  EXPECT_EQ((*checkpoint)->ReadSideFile("note.txt"), "hello");
  EXPECT_EQ((*checkpoint)->ReadSideFile("absent.txt"), std::nullopt);
  EXPECT_TRUE((*checkpoint)->tokenizer_json().empty());
}

TEST(GgufCheckpointTest, SplitNames) {
  const auto name = ParseSplitName("m-00002-of-00003.gguf");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->prefix, "m");
  EXPECT_EQ(name->number, 2u);
  EXPECT_EQ(name->count, 3u);
  EXPECT_EQ(name->extension, ".gguf");
  for (const char* bad : {"m.gguf", "m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-0002-of-0003.gguf",
                          "m-00002-of-0000x.gguf", "m-00002-of-00003", "-00001-of-00001.gguf", ""}) {
    EXPECT_FALSE(ParseSplitName(bad)) << bad;
  }
}

// ---- safetensors -----------------------------------------------------------------------------------

TEST(SafetensorsCheckpointTest, ReadsAShardedFolder) {
  const auto opened = Checkpoint::Open(TestData("sharded"));
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.format(), Format::kSafetensors);
  EXPECT_EQ(checkpoint.architecture(), "fixture");
  EXPECT_EQ(checkpoint.tensors().size(), 12u);
  EXPECT_EQ(checkpoint.metadata().Int("hidden_size"), 64);
  EXPECT_EQ(checkpoint.metadata().Float("rms_norm_eps"), 1e-6);
  EXPECT_EQ(checkpoint.metadata().String("rope_scaling.nested.deep"), "ja");
  EXPECT_THAT(*checkpoint.metadata().Strings("layer_types"), ElementsAre("full", "sliding"));
  EXPECT_EQ(checkpoint.metadata().Int("rope.1.a"), 2);
  EXPECT_FALSE(checkpoint.metadata().Has("sliding_window"));
  EXPECT_EQ(checkpoint.chat_template(), "{{ messages }} \u6f6e");
  EXPECT_THAT(std::string(checkpoint.tokenizer_json()), HasSubstr("BPE"));
  EXPECT_THAT(std::string(checkpoint.generation_config_json()), HasSubstr("eos_token_id"));
  EXPECT_EQ(checkpoint.Find("scalar")->elements(), 1);
  EXPECT_EQ(checkpoint.Find("empty")->elements(), 0);
  EXPECT_TRUE(TensorToFloat(checkpoint, *checkpoint.Find("empty"))->empty());
  EXPECT_THAT(checkpoint.Find("ids")->shape, ElementsAre(1, 4));
}

TEST(SafetensorsCheckpointTest, DecodesLikeNumpyBitForBit) {
  const auto checkpoint = Checkpoint::Open(TestData("sharded"));
  ASSERT_TRUE(checkpoint);
  for (const std::string name : {"f8", "f16", "bf16"}) {
    SCOPED_TRACE(name);
    const auto ours = TensorToFloat(**checkpoint, *(*checkpoint)->Find(name + ".weight"));
    ASSERT_TRUE(ours) << ours.error().message;
    const Tensor* theirs = (*checkpoint)->Find(name + ".expected");
    ASSERT_EQ(ours->size() * sizeof(float), theirs->bytes.size());
    EXPECT_EQ(std::memcmp(ours->data(), theirs->bytes.data(), theirs->bytes.size()), 0);
  }
}

TEST(SafetensorsCheckpointTest, AShardStandsForItsFolder) {
  const auto checkpoint = Checkpoint::Open(TestData("sharded/model-00002-of-00002.safetensors"));
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->tensors().size(), 12u);
  TemporaryFolder folder;
  CopyFolder(TestData("sharded"), folder);
  fs::remove(folder.path() / "model.safetensors.index.json");
  ExpectRefused(folder.path() / "model-00002-of-00002.safetensors", ErrorKind::kNotFound, "one of 2 files");
  ExpectRefused(folder.path(), ErrorKind::kInvalid,
                "2 .safetensors files and no model.safetensors.index.json");
}

const char* const kConfig = R"({"model_type":"outer","text_config":{"model_type":"inner"}})";
const char* const kOneTensor = R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";

TEST(SafetensorsCheckpointTest, SingleFilesAndChatTemplates) {
  TemporaryFolder folder;
  folder.Write("config.json", kConfig);
  const fs::path weights = folder.Write("weights.safetensors", BuildSafetensors(kOneTensor, 4));
  folder.Write("tokenizer_config.json", R"({"chat_template":"from config"})");
  for (const fs::path& path : {weights, folder.path()}) {
    const auto checkpoint = Checkpoint::Open(path);
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    EXPECT_EQ((*checkpoint)->architecture(), "inner");
    EXPECT_EQ((*checkpoint)->chat_template(), "from config");
    EXPECT_EQ((*checkpoint)->path(), path);
  }
  folder.Write("chat_template.jinja", "from file");
  EXPECT_EQ((*Checkpoint::Open(weights))->chat_template(), "from file");
  fs::remove(folder.path() / "chat_template.jinja");
  fs::remove(folder.path() / "tokenizer_config.json");
  EXPECT_EQ((*Checkpoint::Open(weights))->chat_template(), "");
  folder.Write("chat_template.json", R"({"chat_template":"from processor"})");
  EXPECT_EQ((*Checkpoint::Open(weights))->chat_template(), "from processor");
}

TEST(SafetensorsCheckpointTest, BadFoldersAreRefused) {
  TemporaryFolder folder;
  ExpectRefused(folder.path(), ErrorKind::kNotFound, "neither a config.json nor a .gguf");
  const fs::path weights = folder.Write("model.safetensors", BuildSafetensors(kOneTensor, 4));
  ExpectRefused(weights, ErrorKind::kNotFound, "config.json");
  folder.Write("config.json", R"({"hidden_size":1})");
  ExpectRefused(folder.path(), ErrorKind::kCorrupt, "\"model_type\"");
  folder.Write("config.json", "{");
  ExpectRefused(folder.path(), ErrorKind::kCorrupt, "config.json: not valid JSON");
  folder.Write("config.json", kConfig);
  EXPECT_TRUE(Checkpoint::Open(folder.path()));
  folder.Write("tokenizer_config.json", "[");
  ExpectRefused(folder.path(), ErrorKind::kCorrupt, "tokenizer_config.json");
  fs::remove(folder.path() / "tokenizer_config.json");
  OpenLimits limits;
  limits.max_json_bytes = 10;
  ExpectRefused(folder.path(), ErrorKind::kTooLarge, "the limit is 10", limits);
  fs::remove(weights);
  ExpectRefused(folder.path(), ErrorKind::kNotFound, "no model.safetensors");
}

TEST(SafetensorsCheckpointTest, BadIndexesAreRefused) {
  TemporaryFolder folder;
  folder.Write("config.json", kConfig);
  folder.Write("a.safetensors", BuildSafetensors(kOneTensor, 4));
  folder.Write("b.safetensors", BuildSafetensors(kOneTensor, 4));
  const auto refused = [&folder](const std::string& index, ErrorKind kind, const std::string& words) {
    SCOPED_TRACE(index);
    folder.Write("model.safetensors.index.json", index);
    ExpectRefused(folder.path(), kind, words);
  };
  for (const char* outside : {"../a.safetensors", "/etc/a.safetensors", "x/../../a.safetensors",
                              "./a.safetensors", "a.txt", "a\\\\b.safetensors", "", "x//a.safetensors"}) {
    refused(std::string(R"({"weight_map":{"w":")") + outside + "\"}}", ErrorKind::kCorrupt,
            "\"w\": its file");
  }
  refused(R"({"weight_map":{"w":3}})", ErrorKind::kCorrupt, "not a string");
  refused(R"({"weight_map":{}})", ErrorKind::kCorrupt, "weight_map");
  refused(R"({"weight_map":["w"]})", ErrorKind::kCorrupt, "weight_map");
  refused(R"({"weight_map":{"w":"a.safetensors","w":"a.safetensors"}})", ErrorKind::kCorrupt, "occurs twice");
  refused(R"({"weight_map":{"w":"c.safetensors"}})", ErrorKind::kNotFound, "c.safetensors");
  refused(R"({"weight_map":{"w":"a.safetensors","v":"a.safetensors"}})", ErrorKind::kCorrupt,
          "\"v\": listed as in a.s");
  refused(R"({"weight_map":{"w":"a.safetensors","v":"b.safetensors"}})", ErrorKind::kCorrupt,
          "\"w\": the tensor occurs twice");
}

TEST(SafetensorsCheckpointTest, BlockScalesMustFit) {
  const auto decode = [](const std::string& scale, size_t scale_bytes, const std::string& config) {
    TemporaryFolder folder;
    folder.Write("config.json", config);
    const std::string end = std::to_string(6 + scale_bytes);
    folder.Write(
        "model.safetensors",
        BuildSafetensors(R"({"w":{"dtype":"F8_E4M3","shape":[2,3],"data_offsets":[0,6]},"w_scale_inv":{)" +
                             scale + R"(,"data_offsets":[6,)" + end + "]}}",
                         6 + scale_bytes));
    const auto checkpoint = Checkpoint::Open(folder.path());
    EXPECT_TRUE(checkpoint) << checkpoint.error().message;
    const auto values = TensorToFloat(**checkpoint, *(*checkpoint)->Find("w"));
    return values ? std::string("ok") : values.error().message;
  };
  const std::string plain = R"({"model_type":"x"})";
  EXPECT_EQ(decode(R"("dtype":"F32","shape":[1,1])", 4, plain), "ok");
  EXPECT_EQ(decode(R"("dtype":"BF16","shape":[1,1])", 2, plain), "ok");
  EXPECT_THAT(decode(R"("dtype":"F32","shape":[1])", 4, plain), HasSubstr("must be [1, 1]"));
  EXPECT_THAT(decode(R"("dtype":"F32","shape":[1,2])", 8, plain), HasSubstr("must be [1, 1]"));
  EXPECT_THAT(decode(R"("dtype":"I32","shape":[1,1])", 4, plain), HasSubstr("not F32, F16 or BF16"));
  const auto with_blocks = [](const char* size) {
    return std::string(R"({"model_type":"x","quantization_config":{"weight_block_size":)") + size + "}}";
  };
  EXPECT_EQ(decode(R"("dtype":"F32","shape":[2,2])", 16, with_blocks("[1,2]")), "ok");
  for (const char* bad : {"[0,2]", "[1]", "[-1,9223372036854775807]"}) {
    EXPECT_THAT(decode(R"("dtype":"F32","shape":[2,2])", 16, with_blocks(bad)),
                HasSubstr("weight_block_size"));
  }
}

TEST(SafetensorsCheckpointTest, WhatIsNotAFloatIsNotDecoded) {
  const auto checkpoint = Checkpoint::Open(TestData("sharded"));
  ASSERT_TRUE(checkpoint);
  const auto values = TensorToFloat(**checkpoint, *(*checkpoint)->Find("ids"));
  ASSERT_FALSE(values);
  EXPECT_EQ(values.error().kind, ErrorKind::kInvalid);
  EXPECT_THAT(values.error().message, HasSubstr("\"ids\": type I64 cannot be decoded"));
}

// ---- paths -----------------------------------------------------------------------------------------

TEST(CheckpointTest, OtherFilesAreRefusedWithWhatToGive) {
  TemporaryFolder folder;
  ExpectRefused(folder.path() / "absent.gguf", ErrorKind::kNotFound, "absent.gguf");
  ExpectRefused(folder.Write("empty.gguf", ""), ErrorKind::kCorrupt, "empty");
  ExpectRefused(folder.Write("model.bin", "PK\x03\x04rest"), ErrorKind::kInvalid, "PyTorch");
  ExpectRefused(folder.Write("readme.md", "# hello"), ErrorKind::kInvalid, "Give a .gguf file, or a folder");
  ExpectRefused("/dev/null", ErrorKind::kInvalid, "not a regular file");
  const fs::path pipe = folder.path() / "pipe.gguf";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  ExpectRefused(pipe, ErrorKind::kInvalid, "not a regular file");  // and does not wait for a writer
}

TEST(CheckpointTest, FolderWithOneGgufModel) {
  TemporaryFolder folder;
  const std::string model = GgufBuilder().Text("general.architecture", "test").Build();
  folder.Write("a.gguf", model);
  folder.Write("mmproj-a.gguf", model);
  EXPECT_TRUE(Checkpoint::Open(folder.path()));
  folder.Write("b.gguf", model);
  ExpectRefused(folder.path(), ErrorKind::kInvalid, "2 models in the folder (a.gguf, b.gguf");
  TemporaryFolder set;
  CopySplit(set);
  EXPECT_TRUE(Checkpoint::Open(set.path()));
}

TEST(CheckpointTest, FoldersOfLinksOpen) {
  // As model stores and hub caches lay them out: names that point at blobs elsewhere.
  TemporaryFolder blobs;
  TemporaryFolder folder;
  fs::create_symlink(blobs.Write("1", kConfig), folder.path() / "config.json");
  fs::create_symlink(blobs.Write("2", BuildSafetensors(kOneTensor, 4)), folder.path() / "model.safetensors");
  fs::create_symlink(blobs.Write("3", "text"), folder.path() / "vocab.txt");
  const auto checkpoint = Checkpoint::Open(folder.path());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  EXPECT_EQ((*checkpoint)->ReadSideFile("vocab.txt"), "text");
}

TEST(CheckpointTest, SideFilesStayInTheFolder) {
  TemporaryFolder folder;
  folder.Write("inner/config.json", kConfig);
  folder.Write("inner/model.safetensors", BuildSafetensors(kOneTensor, 4));
  folder.Write("inner/1_Pooling/config.json", "pooling");
  folder.Write("secret.txt", "secret");
  fs::create_directory(folder.path() / "inner/folder.txt");
  const auto checkpoint = Checkpoint::Open(folder.path() / "inner");
  ASSERT_TRUE(checkpoint);
  EXPECT_EQ((*checkpoint)->ReadSideFile("1_Pooling/config.json"), "pooling");
  const std::string absolute = (folder.path() / "secret.txt").string();
  for (const std::string& name :
       {std::string("../secret.txt"), absolute, std::string("1_Pooling/../../secret.txt"),
        std::string("./config.json"), std::string(""), std::string("a\0b", 3), std::string("folder.txt"),
        std::string("config.json/"), std::string("..\\secret.txt"), std::string("a/b/c/d/e"),
        std::string(300, 'x')}) {
    EXPECT_EQ((*checkpoint)->ReadSideFile(name), std::nullopt) << name;
  }
  EXPECT_EQ(ReadTextBeside(folder.path(), "secret.txt", 5), std::nullopt);  // larger than allowed
}

// ---- real models -----------------------------------------------------------------------------------

class RealModelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("TIDEPOOL_TEST_DATA");
    data_ = folder != nullptr ? fs::path(folder) : fs::path(TIDEPOOL_SOURCE_DIR) / "build/test-data";
    if (!fs::exists(data_)) GTEST_SKIP() << "no test data at " << data_ << "; scripts/test_data fetches them";
  }
  fs::path data_;
};

TEST_F(RealModelTest, SmolLm2) {
  const auto opened = Checkpoint::Open(data_ / "SmolLM2-135M-Instruct.Q4_1.gguf");
  ASSERT_TRUE(opened) << opened.error().message;
  const Checkpoint& checkpoint = **opened;
  EXPECT_EQ(checkpoint.architecture(), "llama");
  EXPECT_EQ(checkpoint.metadata().Int("llama.block_count"), 30);
  EXPECT_EQ(checkpoint.metadata().Strings("tokenizer.ggml.tokens")->size(), 49152u);
  EXPECT_EQ(checkpoint.metadata().Ints("tokenizer.ggml.token_type")->size(), 49152u);
  EXPECT_THAT(checkpoint.Find("token_embd.weight")->shape, ElementsAre(49152, 576));
  EXPECT_EQ(checkpoint.Find("blk.29.ffn_down.weight")->type, chips::DataType::kQ4_1);
  EXPECT_THAT(std::string(checkpoint.chat_template()), HasSubstr("<|im_start|>"));
  for (const Tensor& tensor : checkpoint.tensors()) {
    const Status sound = ValidateTensorValues(checkpoint, tensor);
    EXPECT_TRUE(sound) << sound.error().message;
  }
}

TEST_F(RealModelTest, Gemma3) {
  const auto opened = Checkpoint::Open(data_ / "gemma-3-270m-Q4_K_M.gguf");
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->architecture(), "gemma3");
  EXPECT_EQ((*opened)->metadata().Strings("tokenizer.ggml.tokens")->size(), 262144u);
  for (const Tensor& tensor : (*opened)->tensors())
    EXPECT_TRUE(ValidateTensorValues(**opened, tensor)) << tensor.name;
}

TEST_F(RealModelTest, MiniLm) {
  const auto opened = Checkpoint::Open(data_ / "all-MiniLM-L6-v2");
  ASSERT_TRUE(opened) << opened.error().message;
  EXPECT_EQ((*opened)->architecture(), "bert");
  EXPECT_EQ((*opened)->metadata().Int("hidden_size"), 384);
  EXPECT_FALSE((*opened)->tokenizer_json().empty());
  EXPECT_THAT((*opened)->ReadSideFile("1_Pooling/config.json").value_or(""),
              HasSubstr("pooling_mode_mean_tokens"));
}

TEST_F(RealModelTest, EveryVocabularyOfLlamaCpp) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator(data_ / "llama.cpp/models")) {
    if (entry.path().extension() != ".gguf") continue;
    const auto opened = Checkpoint::Open(entry.path());
    ASSERT_TRUE(opened) << opened.error().message;
    EXPECT_GT((*opened)->metadata().Strings("tokenizer.ggml.tokens")->size(), 10'000u) << entry.path();
    ++count;
  }
  EXPECT_GE(count, 15);
}

}  // namespace
}  // namespace tidepool::formats
