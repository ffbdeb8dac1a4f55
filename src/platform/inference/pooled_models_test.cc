// Models that embed or rank, from their files to what a client gets: tokenizer, pairs and prompts, pooling,
// classifiers. Oracle: Hugging Face transformers and tokenizers on small random models (testdata/pooled,
// written by tools/make_pooling_fixtures.py).
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/ids.h"
#include "platform/inference/inference.h"

namespace tidepool::platform {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

fs::path Fixture(const std::string& name) {
  return fs::path(TIDEPOOL_SOURCE_DIR) / "src/platform/inference/testdata/pooled" / name;
}
Json Expected(const std::string& name) { return Json::parse(std::ifstream(Fixture(name) / "expected.json")); }

// Our float32 run may err from the float64 answer by a few times what transformers' own float32 run errs (as
// in architectures/tiny_model_test.cc). A sigmoid's slope is at most 1/4, and a vector of length 1 is scaled
// from one that is longer, so a score's or a vector's error is below the logit's or the state's; what is left
// is the rounding of the result itself, 2^-24 of at most 1, a few times.
double Tolerance(const Json& expected) { return 6 * expected["float32_error"].get<double>() + 1e-6; }

class PooledModels : public ::testing::Test {
 protected:
  PooledModels() : home_(fs::temp_directory_path() / RandomId("tidepool-pooled-", 12)) {
    fs::create_directories(home_);
    CatalogOptions options;
    options.home = home_;
    catalog_ = std::move(*Catalog::Open(options));
    device_ = std::move(*chips::MakeCpuDevice({}));
    engine_ = compute::Engine::Start(*device_, ledger_, clock_, metrics_, {.kv_type = chips::DataType::kF32});
    InferenceOptions inference;
    inference.precision = chips::WeightPrecision::kFloat32;
    inference.kv_type = chips::DataType::kF32;
    inference_ = Inference::Create(*catalog_, *engine_, *device_, ledger_, clock_, metrics_, inference);
  }
  ~PooledModels() override {
    inference_.reset();
    engine_.reset();
    fs::remove_all(home_);
  }

  // Through the store, which looks into the files. `file`: "" for the folder, or a file of it.
  std::string Store(const std::string& name, const std::string& file = "") {
    fs::path source = Fixture(name);
    if (!file.empty()) {
      source /= file;
    } else if (fs::exists(source / "model.gguf")) {  // the other format's file is not to be chosen
      const fs::path copy = home_ / ("source-" + name);
      fs::copy(source, copy, fs::copy_options::recursive);
      fs::remove(copy / "model.gguf");
      source = copy;
    }
    auto pull =
        catalog_->StartPull(source.string(), name + (file.empty() ? ":hf" : ":gguf"), {.owns_machine = true});
    EXPECT_TRUE(pull) << pull.error().message;
    for (int i = 0; pull && pull->state != PullState::kDone && pull->state != PullState::kFailed && i < 6000;
         ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      pull = catalog_->FindPull(pull->id);
    }
    EXPECT_TRUE(pull && pull->state == PullState::kDone) << (pull ? pull->error.message : "");
    return pull ? pull->result : "";
  }

  Result<EmbeddingReply> Embed(const std::string& model, const std::vector<std::string>& texts,
                               bool truncate = false, const std::string& instruction = "") {
    EmbeddingRequest request;
    request.model = model;
    request.instruction = instruction;
    request.truncate = truncate;
    for (const std::string& text : texts) request.inputs.push_back({text, {}, false});
    std::promise<Result<EmbeddingReply>> promise;
    auto future = promise.get_future();
    const auto generation = inference_->Embed(
        std::move(request), [&](Result<EmbeddingReply> reply) { promise.set_value(std::move(reply)); });
    if (!generation) return Fail(generation.error());
    return future.get();
  }
  Result<RerankReply> Rerank(const std::string& model, const std::string& query,
                             const std::vector<std::string>& documents, int32_t most = 0) {
    RerankRequest request;
    request.model = model;
    request.query = query;
    request.documents = documents;
    request.max_document_tokens = most;
    std::promise<Result<RerankReply>> promise;
    auto future = promise.get_future();
    const auto generation = inference_->Rerank(
        std::move(request), [&](Result<RerankReply> reply) { promise.set_value(std::move(reply)); });
    if (!generation) return Fail(generation.error());
    return future.get();
  }

  void ExpectVectors(const std::string& name, const std::string& model) {
    const Json expected = Expected(name);
    const auto texts = expected["texts"].get<std::vector<std::string>>();
    size_t tokens = 0;
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto ids = inference_->Tokenize(model, texts[i], true, false);
      ASSERT_TRUE(ids) << ids.error().message;
      EXPECT_EQ(*ids, expected["tokens"][i].get<std::vector<int32_t>>()) << texts[i];
      tokens += ids->size();
    }
    const auto reply = Embed(model, texts);
    ASSERT_TRUE(reply) << reply.error().message;
    EXPECT_EQ(reply->prompt_tokens, static_cast<int32_t>(tokens));
    ASSERT_EQ(reply->vectors.size(), texts.size());
    for (size_t i = 0; i < texts.size(); ++i) {
      const auto wanted = expected["vectors"][i].get<std::vector<double>>();
      ASSERT_EQ(reply->vectors[i].size(), wanted.size());
      for (size_t d = 0; d < wanted.size(); ++d)
        ASSERT_NEAR(reply->vectors[i][d], wanted[d], Tolerance(expected)) << texts[i] << " " << d;
    }
  }

  void ExpectScores(const std::string& name, const std::string& model) {
    const Json expected = Expected(name);
    const auto documents = expected["documents"].get<std::vector<std::string>>();
    for (size_t q = 0; q < expected["queries"].size(); ++q) {
      const auto reply = Rerank(model, expected["queries"][q], documents);
      ASSERT_TRUE(reply) << reply.error().message;
      ASSERT_EQ(reply->scores.size(), documents.size());
      size_t tokens = 0;
      for (size_t d = 0; d < documents.size(); ++d) {
        tokens += expected["tokens"][q * documents.size() + d].size();
        EXPECT_NEAR(reply->scores[d], expected["scores"][q][d].get<double>(), Tolerance(expected))
            << q << " " << d;
      }
      EXPECT_EQ(reply->prompt_tokens, static_cast<int32_t>(tokens));
    }
  }

  const fs::path home_;
  SteadyClock clock_;
  MetricsRegistry metrics_;
  compute::Ledger ledger_{256u << 20};
  std::unique_ptr<Catalog> catalog_;
  std::unique_ptr<chips::Device> device_;
  std::unique_ptr<compute::Engine> engine_;
  std::unique_ptr<Inference> inference_;
};

TEST_F(PooledModels, BgeTakesTheFirstToken) { ExpectVectors("bge", Store("bge")); }

TEST_F(PooledModels, Qwen3EmbeddingTakesTheLastTokenWhichItsTokenizerAppends) {
  ExpectVectors("qwen3_embedding", Store("qwen3_embedding"));
  ExpectVectors("qwen3_embedding", Store("qwen3_embedding", "model.gguf"));
}

// Oracle: get_detailed_instruct of the model card.
TEST_F(PooledModels, Qwen3EmbeddingReadsAnInstructionAndBgeDoesNot) {
  const std::string qwen = Store("qwen3_embedding"), bge = Store("bge");
  const auto written =
      Embed(qwen, {"Instruct: find loaves\nQuery:bread", "Instruct: find loaves\nQuery:sea"});
  const auto instructed = Embed(qwen, {"bread", "sea"}, false, "find loaves");
  ASSERT_TRUE(written && instructed);
  EXPECT_EQ(instructed->vectors, written->vectors);
  EXPECT_EQ(instructed->prompt_tokens, written->prompt_tokens);
  EXPECT_NE(instructed->vectors[0], Embed(qwen, {"bread"})->vectors[0]);
  const auto refused = Embed(bge, {"bread"}, false, "find loaves");
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "instruction_unsupported");
  EXPECT_EQ(refused.error().param, "instruction");
  EmbeddingRequest tokens;
  tokens.model = qwen;
  tokens.instruction = "find loaves";
  tokens.inputs.push_back({"", {1}, true});
  const auto generation = inference_->Embed(tokens, [](Result<EmbeddingReply>) {});
  ASSERT_FALSE(generation);
  EXPECT_EQ(generation.error().code, "instruction_unsupported");
}

TEST_F(PooledModels, ACrossEncoderScoresPairsWithTokenTypes) {
  ExpectScores("cross_encoder", Store("cross_encoder"));
  ExpectScores("cross_encoder", Store("cross_encoder", "model.gguf"));
}

TEST_F(PooledModels, BgeRerankerScoresPairsOfRoberta) { ExpectScores("bge_reranker", Store("bge_reranker")); }

TEST_F(PooledModels, Qwen3RerankerScoresItsPrompt) {
  ExpectScores("qwen3_reranker", Store("qwen3_reranker"));
}

TEST_F(PooledModels, Qwen3RerankersYesAndNoAreOneScore) {
  // As published: a causal model whose name says what it is for.
  ExpectScores("qwen3_reranker_rows", Store("qwen3_reranker_rows"));
  ExpectScores("qwen3_reranker_rows", Store("qwen3_reranker_rows", "model.gguf"));
}

// What is asked for one document is what is asked for it among others, whatever else runs.
TEST_F(PooledModels, ScoresDoNotDependOnTheirCompany) {
  const std::string model = Store("cross_encoder");
  const auto together =
      Rerank(model, "when does the tide rise?", {"the tide", "bread at night", "sea", "the moon rises"});
  ASSERT_TRUE(together) << together.error().message;
  EXPECT_EQ(Rerank(model, "when does the tide rise?", {"bread at night"})->scores.at(0), together->scores[1]);
}

TEST_F(PooledModels, LongTextsAreCutOrRefused) {
  const std::string bge = Store("bge"), ranker = Store("cross_encoder");
  std::string longer = "tide";
  for (int i = 0; i < 200; ++i) longer += " sea";
  const auto refused = Embed(bge, {longer});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "context_length_exceeded");
  // 64 positions: [CLS], 62 words, [SEP].
  std::string fits = "tide";
  for (int i = 0; i < 61; ++i) fits += " sea";
  const auto cut = Embed(bge, {longer, fits}, /*truncate=*/true);
  ASSERT_TRUE(cut) << cut.error().message;
  EXPECT_EQ(cut->vectors[0], cut->vectors[1]);
  EXPECT_EQ(cut->prompt_tokens, 128);
  const auto query = Rerank(ranker, longer, {"sea"});
  ASSERT_FALSE(query);
  EXPECT_EQ(query.error().param, "query");
  const auto limited = Rerank(ranker, "tide", {longer}, 2);
  ASSERT_TRUE(limited);
  EXPECT_EQ(limited->scores, Rerank(ranker, "tide", {"tide sea"})->scores);
}

TEST_F(PooledModels, EachModelDoesWhatItIsFor) {
  const std::string bge = Store("bge"), ranker = Store("cross_encoder"), embedder = Store("qwen3_embedding");
  for (const std::string& model : {bge, embedder}) {
    const auto refused = Rerank(model, "q", {"a"});
    ASSERT_FALSE(refused) << model;
    EXPECT_EQ(refused.error().code, "rerank_unsupported");
    EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
  }
  const auto vectors = Embed(ranker, {"a"});
  ASSERT_FALSE(vectors);
  EXPECT_EQ(vectors.error().code, "embeddings_unsupported");
  for (const std::string& model : {bge, ranker, embedder}) {
    const auto stored = catalog_->Find(model);
    ASSERT_TRUE(stored);
    EXPECT_FALSE(stored->generates) << model;
    EXPECT_EQ(stored->ranks, model == ranker) << model;
  }
}

// What is told of a stored model is what loading it finds.
TEST_F(PooledModels, StoredModelsAreDescribedAsTheyAreLoaded) {
  for (const char* name :
       {"bge", "bge_reranker", "cross_encoder", "qwen3_embedding", "qwen3_reranker_rows"}) {
    for (const char* file : {"", "model.gguf"}) {
      if (*file != 0 && !fs::exists(Fixture(name) / file)) continue;
      const std::string model = Store(name, file);
      const auto stored = inference_->Find(model);
      ASSERT_TRUE(stored && !stored->engine) << model;
      const auto description = inference_->Describe(model);
      ASSERT_TRUE(description) << description.error().message;
      std::promise<Status> loaded;
      inference_->Load(model, [&](const Status& status) { loaded.set_value(status); });
      const Status status = loaded.get_future().get();
      ASSERT_TRUE(status) << status.error().message;
      const auto ready = inference_->Find(model);
      ASSERT_TRUE(ready && ready->engine) << model;
      EXPECT_EQ(stored->context_length, ready->context_length) << model;
      EXPECT_EQ(stored->context_length, ready->engine->info.context_length) << model;
      EXPECT_EQ(description->layers, ready->engine->info.layers) << model;
      EXPECT_EQ(description->hidden_size, ready->engine->info.hidden_size) << model;
      ASSERT_TRUE(inference_->Unload(model, /*force=*/true));
    }
  }
}

}  // namespace
}  // namespace tidepool::platform
