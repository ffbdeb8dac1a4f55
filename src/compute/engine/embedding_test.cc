// Embedding requests on the fake encoder: batches, pooling over chunks, refusals, cancels.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <future>

#include "compute/engine/engine.h"
#include "compute/engine/engine_fixture.h"

namespace tidepool::compute {
namespace {

using ::testing::HasSubstr;

Result<std::vector<std::vector<float>>> EmbedAndWait(Engine& engine, EmbedRequest request) {
  auto promise = std::make_shared<std::promise<Result<std::vector<std::vector<float>>>>>();
  auto future = promise->get_future();
  request.done = [promise](Result<std::vector<std::vector<float>>> result) {
    promise->set_value(std::move(result));
  };
  const auto handle = engine.Embed(std::move(request));
  if (!handle) return Fail(handle.error());
  return future.get();
}

std::vector<float> Normalised(std::vector<float> v) {
  double sum = 0;
  for (const float x : v) sum += static_cast<double>(x) * static_cast<double>(x);
  for (float& x : v) x = static_cast<float>(static_cast<double>(x) / std::sqrt(sum));
  return v;
}

TEST_F(EngineTest, EmbedsManyInputsPerStepInOrder) {
  StartEngine({.max_batch_tokens = 100, .max_sequences = 16});
  const ModelHandle model = AddFake(
      "encoder",
      {.context_length = 300, .causal = false, .generates = false, .pooling = architectures::Pooling::kCls});
  std::vector<std::vector<int32_t>> inputs;
  for (int32_t i = 0; i < 50; ++i) inputs.push_back(Prompt(1 + i % 20, i));
  inputs.push_back(Prompt(300));  // longer than max_batch_tokens
  const auto vectors = EmbedAndWait(*engine, EmbedOf(model, inputs));
  ASSERT_TRUE(vectors) << vectors.error().message;
  ASSERT_EQ(vectors->size(), inputs.size());
  for (size_t i = 0; i < inputs.size(); ++i) {
    const auto expected = Normalised(FakeModel::HiddenAfter(inputs[i]));  // row 0 of an encoder
    for (size_t d = 0; d < expected.size(); ++d) EXPECT_NEAR((*vectors)[i][d], expected[d], 1e-6) << i;
  }
  EXPECT_LT(fake->steps.load(), 20u);
  EXPECT_EQ(Entry(model).kv_blocks_used, 0);
  EXPECT_EQ(Entry(model).kv_blocks_cached, 0);
}

TEST_F(EngineTest, MeanAndLastPoolingOverChunks) {
  StartEngine({.max_batch_tokens = 20, .max_sequences = 4});
  const auto input = Prompt(75);
  std::vector<double> mean(FakeModel::kHidden);
  for (size_t n = 1; n <= input.size(); ++n) {
    const auto hidden = FakeModel::HiddenAfter(std::span(input).first(n));
    for (size_t d = 0; d < mean.size(); ++d) mean[d] += static_cast<double>(hidden[d]) / 75;
  }
  const ModelHandle by_mean = AddFake("mean", {.pooling = architectures::Pooling::kMean});
  const ModelHandle by_last = AddFake("last", {.pooling = architectures::Pooling::kLast});
  const auto got_mean = EmbedAndWait(*engine, EmbedOf(by_mean, {input, input}));
  const auto got_last = EmbedAndWait(*engine, EmbedOf(by_last, {input}));
  ASSERT_TRUE(got_mean && got_last);
  const auto want_mean = Normalised(std::vector<float>(mean.begin(), mean.end()));
  const auto want_last = Normalised(FakeModel::HiddenAfter(input));
  for (size_t d = 0; d < mean.size(); ++d) {
    EXPECT_NEAR((*got_mean)[0][d], want_mean[d], 1e-6);
    EXPECT_EQ((*got_mean)[0][d], (*got_mean)[1][d]);
    EXPECT_NEAR((*got_last)[0][d], want_last[d], 1e-6);
  }
}

TEST_F(EngineTest, EmbeddingRefusals) {
  StartEngine();
  const ModelHandle chat = AddFake("chat");
  const ModelHandle encoder = AddFake(
      "encoder",
      {.context_length = 30, .causal = false, .generates = false, .pooling = architectures::Pooling::kMean});
  auto code = [&](EmbedRequest request) {
    const auto result = EmbedAndWait(*engine, std::move(request));
    return result ? std::string("none") : result.error().code;
  };
  EXPECT_EQ(code(EmbedOf(chat, {{1}})), "model_cannot_embed");
  EXPECT_EQ(code(EmbedOf(encoder, {})), "invalid_parameter");
  EXPECT_EQ(code(EmbedOf(encoder, {{1}, {}})), "empty_prompt");
  EXPECT_EQ(code(EmbedOf(encoder, {{999}})), "invalid_token");
  EXPECT_EQ(code(EmbedOf(encoder, {Prompt(31)})), "context_length_exceeded");
  auto sink = std::make_shared<RecordingSink>();
  const auto refused = engine->Submit(Request(encoder, {1}, 1, sink));
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "model_cannot_generate");
}

TEST_F(EngineTest, ACancelledEmbeddingEndsOnce) {
  StartEngine({.max_batch_tokens = 20, .max_sequences = 2});
  const ModelHandle model = AddFake(
      "encoder",
      {.context_length = 30, .causal = false, .generates = false, .pooling = architectures::Pooling::kMean});
  fake->hold = true;
  std::atomic<int> calls{0};
  std::promise<ErrorKind> ended;
  EmbedRequest request = EmbedOf(model, std::vector<std::vector<int32_t>>(100, Prompt(10)));
  request.done = [&](Result<std::vector<std::vector<float>>> result) {
    ++calls;
    ended.set_value(result ? ErrorKind::kInternal : result.error().kind);
  };
  const auto handle = engine->Embed(std::move(request));
  ASSERT_TRUE(handle);
  engine->Cancel(*handle);
  fake->hold = false;
  EXPECT_EQ(ended.get_future().get(), ErrorKind::kCancelled);
  EXPECT_TRUE(engine->Drain(clock.now() + 10 * kSecond));
  EXPECT_EQ(calls, 1);
  EXPECT_EQ(Entry(model).kv_blocks_used, 0);
  EXPECT_EQ(engine->load().waiting, 0);
}

}  // namespace
}  // namespace tidepool::compute
