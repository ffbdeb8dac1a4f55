// Files that are well-formed but wrong for their architecture: each is refused with the file, the key or
// tensor and a remedy. The bytes of a good tiny model are patched in place.
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>

#include "models/architectures/test_runner.h"

namespace tidepool::architectures::testing {
namespace {

std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}
void WriteFile(const std::filesystem::path& path, std::string_view text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary).write(text.data(), static_cast<std::streamsize>(text.size()));
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "tidepool-models-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

Result<std::unique_ptr<Model>> Load(const std::filesystem::path& path, const LoadOptions& options = {}) {
  static const std::unique_ptr<chips::Device> device = CpuDevice("reference", 1);
  const auto checkpoint = Must(formats::Checkpoint::Open(path));
  const auto model = PackedModelBytes(*checkpoint, *device, options);
  auto loaded = LoadModel(*checkpoint, *device, options);
  // Measuring sees every mistake of configuration and shape that loading sees.
  if (!model) {
    EXPECT_FALSE(loaded.has_value());
  }
  return loaded;
}

void ExpectRefused(const std::filesystem::path& path, std::string_view code, std::string_view param) {
  const auto model = Load(path);
  ASSERT_FALSE(model.has_value()) << param;
  EXPECT_EQ(model.error().code, code) << model.error().message;
  EXPECT_EQ(model.error().param, param) << model.error().message;
  EXPECT_NE(model.error().message.find(path.filename().string()), std::string::npos) << model.error().message;
  EXPECT_NE(model.error().message.find(param), std::string::npos) << model.error().message;
}

// ---- GGUF ------------------------------------------------------------------------------------------

class HostileGguf : public ::testing::Test {
 protected:
  std::filesystem::path Write(const std::string& bytes) {
    const auto path = folder_.path() / "model.gguf";
    WriteFile(path, bytes);
    return path;
  }
  static size_t Place(const std::string& file, std::string_view text) {
    const size_t at = file.find(text);
    EXPECT_NE(at, std::string::npos) << text;
    return at + text.size();
  }
  // The 4-byte value after the key and its type.
  template <typename T>
  std::filesystem::path WithValue(std::string_view key, T value) {
    static_assert(sizeof(T) == 4);
    std::string file = good_;
    std::memcpy(file.data() + Place(file, key) + 4, &value, 4);
    return Write(file);
  }
  std::filesystem::path WithText(std::string_view from, std::string_view to) {
    std::string file = good_;
    file.replace(Place(file, from) - from.size(), from.size(), to);
    return Write(file);
  }

  TemporaryFolder folder_;
  std::string good_ = ReadFile(TestdataFolder() / "tiny/llama/model.gguf");
};

TEST_F(HostileGguf, TheUnpatchedFileLoads) { EXPECT_TRUE(Load(Write(good_)).has_value()); }

TEST_F(HostileGguf, AbsurdNumbers) {
  const std::pair<const char*, uint32_t> cases[] = {
      {"llama.attention.head_count", 0},          {"llama.attention.head_count", 5},
      {"llama.attention.head_count", 0xFFFFFFFF}, {"llama.attention.head_count_kv", 0},
      {"llama.attention.head_count_kv", 3},       {"llama.block_count", 0},
      {"llama.block_count", 1'000'000'000},       {"llama.embedding_length", 0},
      {"llama.embedding_length", 0x7FFFFFFF},     {"llama.feed_forward_length", 0},
      {"llama.feed_forward_length", 0x80000000},  {"llama.context_length", 0},
      {"llama.attention.key_length", 0},          {"llama.attention.key_length", 1'000'000},
      {"llama.attention.value_length", 16},       {"llama.rope.dimension_count", 7},
      {"llama.rope.dimension_count", 64},         {"llama.vocab_size", 7},
  };
  for (const auto& [key, value] : cases) {
    SCOPED_TRACE(std::string(key) + " = " + std::to_string(value));
    const auto model = Load(WithValue(key, value));
    ASSERT_FALSE(model.has_value());
    EXPECT_EQ(model.error().kind, ErrorKind::kCorrupt);
    EXPECT_NE(model.error().message.find("model.gguf"), std::string::npos) << model.error().message;
    EXPECT_TRUE(model.error().message.find("ownload") != std::string::npos) << model.error().message;
    if (std::string_view(key) != "llama.attention.head_count") {
      EXPECT_EQ(model.error().param, key) << model.error().message;
    }
  }
}

TEST_F(HostileGguf, NotANumber) {
  for (const char* key : {"llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), -1.0f, std::numeric_limits<float>::infinity()}) {
      ExpectRefused(WithValue(key, value), "bad_model_config", key);
    }
  }
}

TEST_F(HostileGguf, LayersThatAreNotThere) {
  ExpectRefused(WithValue("llama.block_count", uint32_t{3}), "missing_tensor", "blk.2.attn_norm.weight");
}

TEST_F(HostileGguf, MissingTensor) {
  ExpectRefused(WithText("blk.1.attn_q.weight", "blk.1.attn_Q.weight"), "missing_tensor",
                "blk.1.attn_q.weight");
  ExpectRefused(WithText("token_embd.weight", "tokem_embd.weight"), "missing_tensor", "token_embd.weight");
}

TEST_F(HostileGguf, WrongShape) {
  std::string file = good_;
  // ffn_gate is [96, 32]: GGUF stores 32 first. Swap the two dimensions.
  uint64_t dims[2];
  char* const place = file.data() + Place(file, "blk.0.ffn_gate.weight") + 4;
  std::memcpy(dims, place, sizeof dims);
  ASSERT_EQ(dims[0], 32u);
  std::swap(dims[0], dims[1]);
  std::memcpy(place, dims, sizeof dims);
  ExpectRefused(Write(file), "wrong_tensor_shape", "blk.0.ffn_gate.weight");
}

TEST_F(HostileGguf, NormsWithNan) {
  const auto checkpoint = Must(formats::Checkpoint::Open(Write(good_)));
  const formats::Tensor* norm = checkpoint->Find("output_norm.weight");
  ASSERT_NE(norm, nullptr);
  const std::string values(reinterpret_cast<const char*>(norm->bytes.data()), norm->bytes.size());
  std::string file = good_;
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::memcpy(file.data() + file.find(values) + 20, &nan, 4);
  const auto other = folder_.path() / "nan.gguf";
  WriteFile(other, file);
  const auto model = Load(other);
  ASSERT_FALSE(model.has_value());
  EXPECT_NE(model.error().message.find("output_norm.weight"), std::string::npos) << model.error().message;
}

TEST_F(HostileGguf, UnknownArchitecture) {
  std::string file = good_;
  const size_t at = Place(file, "general.architecture") + 4 + 8;
  ASSERT_EQ(file.substr(at, 5), "llama");
  file.replace(at, 5, "rwkv9");
  const auto model = Load(Write(file));
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(model.error().code, "unknown_architecture");
  EXPECT_NE(model.error().message.find("rwkv9"), std::string::npos);
  for (const std::string& known : KnownArchitectures()) {
    EXPECT_NE(model.error().message.find(known), std::string::npos) << known;
  }
}

TEST_F(HostileGguf, ADifferentFamilysFileIsRefused) {
  std::string file = good_;
  file.replace(Place(file, "general.architecture") + 4 + 8, 5, "qwen3");
  EXPECT_FALSE(Load(Write(file)).has_value());
}

TEST_F(HostileGguf, EveryCutOfAKeyIsRefusedOrHarmless) {
  // Whatever single byte of the header is changed, opening or loading ends in an error or in a model: never
  // in a crash.
  const auto start = static_cast<size_t>(Place(good_, "general.architecture"));
  const size_t end = good_.find("blk.0.attn_k.weight");
  for (size_t at = start; at < end; at += 3) {
    std::string file = good_;
    file[at] = static_cast<char>(file[at] ^ 0x41);
    const auto checkpoint = formats::Checkpoint::Open(Write(file));
    if (!checkpoint) continue;
    const auto device = CpuDevice("reference", 1);
    const auto model = LoadModel(**checkpoint, *device, {});
    if (!model) {
      EXPECT_FALSE(model.error().message.empty());
    }
  }
}

// ---- config.json -----------------------------------------------------------------------------------

class HostileFolder : public ::testing::Test {
 protected:
  // A copy of a tiny model's folder with `from` replaced by `to` in config.json.
  std::filesystem::path Copy(const std::string& name, const std::string& from, const std::string& to) {
    const auto target = folder_.path() / name;
    std::filesystem::remove_all(target);
    std::filesystem::create_directories(target);
    const auto source = TestdataFolder() / "tiny" / name;
    std::filesystem::copy_file(source / "model.safetensors", target / "model.safetensors");
    std::string config = ReadFile(source / "config.json");
    const size_t at = config.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    if (at != std::string::npos) config.replace(at, from.size(), to);
    WriteFile(target / "config.json", config);
    return target;
  }
  TemporaryFolder folder_;
};

TEST_F(HostileFolder, FieldsOutOfRange) {
  const struct {
    const char *model, *from, *to, *key;
  } cases[] = {
      {"llama", R"("hidden_act": "silu")", R"("hidden_act": "relu")", "hidden_act"},
      {"llama", R"("mlp_bias": false)", R"("mlp_bias": true)", "mlp_bias"},
      {"llama", R"("num_hidden_layers": 2)", R"("num_hidden_layers": "two")", "num_hidden_layers"},
      {"llama", R"("num_hidden_layers": 2)", R"("num_hidden_layers": 2.5)", "num_hidden_layers"},
      {"llama", R"("num_attention_heads": 4)", R"("num_attention_heads": -4)", "num_attention_heads"},
      {"llama", R"("rms_norm_eps": 1e-05)", R"("rms_norm_eps": 3)", "rms_norm_eps"},
      {"llama", R"("vocab_size": 131)", R"("vocab_size": 130)", "vocab_size"},
      {"llama_yarn", R"("rope_type": "yarn")", R"("rope_type": "longrope")", "rope_parameters.rope_type"},
      {"llama_yarn", R"("factor": 4.0)", R"("factor": 0)", "rope_parameters.factor"},
      {"gemma3", R"("full_attention",)", R"("linear_attention",)", "layer_types"},
      {"gemma3", R"("final_logit_softcapping": null)", R"("final_logit_softcapping": 30.0)",
       "final_logit_softcapping"},
      {"bert", R"("hidden_act": "gelu")", R"("hidden_act": "relu")", "hidden_act"},
      {"bert", R"("num_attention_heads": 4)", R"("num_attention_heads": 5)", "num_attention_heads"},
      {"qwen3", R"("attention_bias": false)", R"("attention_bias": true)", "attention_bias"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.to);
    ExpectRefused(Copy(c.model, c.from, c.to), "bad_model_config", c.key);
  }
}

TEST_F(HostileFolder, UnknownModelType) {
  const auto model = Load(Copy("llama", R"("model_type": "llama")", R"("model_type": "mamba")"));
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code, "unknown_architecture");
}

TEST_F(HostileFolder, UntiedWithoutAHead) {
  const auto path = Copy("qwen2_tied", R"("tie_word_embeddings": true)", R"("tie_word_embeddings": false)");
  ExpectRefused(path, "missing_tensor", "lm_head.weight");
}

// The names of transformers 4 (rope_theta, rope_scaling with "type") mean the same as those of
// transformers 5.
TEST_F(HostileFolder, OlderSpellingsGiveTheSameModel) {
  const struct {
    const char *model, *old_rope;
  } cases[] = {
      {"llama3_rope", R"("rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16})"},
      {"llama_yarn", R"("rope_theta": 10000.0, "rope_scaling": {"type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 64})"},
      {"llama_linear_rope", R"("rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 2.5})"},
      {"gemma3",
       R"("rope_theta": 1000000.0, "rope_local_base_freq": 10000.0, "rope_scaling": {"rope_type": "linear",
        "factor": 8.0})"},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.model);
    const std::string config = ReadFile(TestdataFolder() / "tiny" / c.model / "config.json");
    const size_t begin = config.find("\"rope_parameters\"");
    size_t end = config.find('{', begin) + 1;
    for (int depth = 1; depth > 0; ++end) depth += config[end] == '{' ? 1 : config[end] == '}' ? -1 : 0;
    const auto older = Copy(c.model, config.substr(begin, end - begin), c.old_rope);
    const std::vector<int32_t> tokens = {5, 9, 100, 3, 77, 61, 12, 0, 130, 8, 2, 44, 17, 23, 31, 7, 99};
    const LoadOptions options{.precision = chips::WeightPrecision::kFloat32};
    ModelRunner now(CpuDevice("reference"), TestdataFolder() / "tiny" / c.model, options);
    ModelRunner then(CpuDevice("reference"), older, options);
    EXPECT_EQ(now.Run(tokens, 64), then.Run(tokens, 64));
  }
}

// ---- pooling, loading ------------------------------------------------------------------------------

TEST_F(HostileFolder, PoolingComesFromTheFolder) {
  const auto path = Copy("qwen3", R"("vocab_size": 131)", R"("vocab_size": 131)");
  EXPECT_EQ(Must(Load(path))->info().pooling, Pooling::kNone);
  WriteFile(path / "1_Pooling/config.json",
            R"({"pooling_mode_mean_tokens": false, "pooling_mode_lasttoken": true})");
  EXPECT_EQ(Must(Load(path))->info().pooling, Pooling::kLast);
  EXPECT_TRUE(Must(Load(path))->info().normalise_embedding);
  WriteFile(path / "1_Pooling/config.json", R"({"pooling_mode_cls_token": true})");
  WriteFile(path / "modules.json", R"([{"type": "sentence_transformers.models.Transformer"}])");
  EXPECT_EQ(Must(Load(path))->info().pooling, Pooling::kCls);
  EXPECT_FALSE(Must(Load(path))->info().normalise_embedding);
  for (const char* bad : {"{", "[]", R"({"pooling_mode_max_tokens": true})"}) {
    WriteFile(path / "1_Pooling/config.json", bad);
    const auto model = Load(path);
    ASSERT_FALSE(model.has_value());
    EXPECT_EQ(model.error().param, "1_Pooling/config.json");
  }
  EXPECT_EQ(Must(Load(TestdataFolder() / "tiny/bert/model.gguf"))->info().pooling, Pooling::kMean);
}

TEST(Ranking, TokensThatAreNotThereAreRefused) {
  LoadOptions options;
  options.yes_no = {5, 131};  // of 131
  const auto model = Load(TestdataFolder() / "tiny/qwen3", options);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code, "out_of_range") << model.error().message;
}

TEST(Loading, ReportsProgressAndCanBeCancelled) {
  const auto path = TestdataFolder() / "tiny/llama";
  uint64_t last = 0, all = 0;
  LoadOptions options;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_GE(done, last);
    last = done;
    all = total;
    return true;
  };
  const auto model = Load(path, options);
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(last, all);
  EXPECT_EQ(all, (*model)->info().weight_bytes);

  options.progress = [](uint64_t done, uint64_t) { return done < 1000; };
  const auto cancelled = Load(path, options);
  ASSERT_FALSE(cancelled.has_value());
  EXPECT_EQ(cancelled.error().kind, ErrorKind::kCancelled);
}

TEST(Loading, InfoSaysWhatTheFileHolds) {
  const auto folder = TestdataFolder() / "tiny";
  EXPECT_EQ(Must(Load(folder / "qwen2_tied"))->info().quantisation, "BF16");
  EXPECT_EQ(Must(Load(folder / "qwen2_tied/quantised.gguf"))->info().quantisation, "Q4_0");
  EXPECT_EQ(Must(Load(folder / "qwen3/quantised.gguf"))->info().family, "qwen3");
  // 131 x 32 embedding, tied; per layer: 32 x 96 q, 2 x 32 x 48 k and v, 96 x 32 o, 3 x 32 x 96 mlp, norms.
  const uint64_t layer = 32 * 96 + 2 * 32 * 48 + 96 * 32 + 3 * 32 * 96 + 2 * 32 + 2 * 16;
  EXPECT_EQ(Must(Load(folder / "qwen3"))->info().parameters, 131u * 32 + 2 * layer + 32);
}

}  // namespace
}  // namespace tidepool::architectures::testing
