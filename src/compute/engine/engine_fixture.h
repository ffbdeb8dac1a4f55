// Test fixture: a simulated device, a ledger, an engine, and sinks that remember.
#pragma once

#include <gtest/gtest.h>

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "chips/device.h"
#include "compute/engine/engine.h"
#include "compute/engine/fake_model.h"

namespace tidepool::compute {

class RecordingSink final : public GenerateSink {
 public:
  void OnProgress(const ProgressEvent& event) override {
    std::lock_guard lock(mutex_);
    progress.push_back(event);
  }
  void OnPromptLogprobs(std::span<const TokenLogprob> entries) override {
    std::lock_guard lock(mutex_);
    EXPECT_TRUE(tokens.empty());
    prompt_logprobs.assign(entries.begin(), entries.end());
  }
  void OnToken(const TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    EXPECT_EQ(finishes, 0);
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    content += event.content;
    reasoning += event.reasoning;
    logprobs.insert(logprobs.end(), event.logprobs.begin(), event.logprobs.end());
    changed_.notify_all();
    if (on_token) on_token(tokens.size());
  }
  void OnFinish(const FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    finish = event;
    ++finishes;
    changed_.notify_all();
  }
  const FinishEvent& Wait() {
    std::unique_lock lock(mutex_);
    // A request that was refused never finishes: a failure, not a hang.
    if (!changed_.wait_for(lock, std::chrono::minutes(4), [&] { return finishes > 0; })) {
      ADD_FAILURE() << "no end of the answer in four minutes";
    }
    return finish;
  }
  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return tokens.size() >= count || finishes > 0; });
  }
  size_t token_count() {
    std::lock_guard lock(mutex_);
    return tokens.size();
  }
  bool finished() {
    std::lock_guard lock(mutex_);
    return finishes > 0;
  }

  std::function<void(size_t)> on_token;  // engine thread, with the number of tokens so far; set before Submit
  std::vector<int32_t> tokens;
  std::string content, reasoning;
  std::vector<TokenLogprob> logprobs, prompt_logprobs;
  std::vector<ProgressEvent> progress;
  FinishEvent finish;
  int finishes = 0;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

inline EmbedRequest EmbedOf(ModelHandle model, std::vector<std::vector<int32_t>> inputs) {
  EmbedRequest request;
  request.model = model;
  request.inputs = std::move(inputs);
  request.workspace = "w";
  request.account = "a";
  return request;
}

class EngineTest : public ::testing::Test {
 protected:
  void StartEngine(EngineOptions options = {}, uint64_t ledger_bytes = 64 << 20) {
    ledger = std::make_unique<Ledger>(ledger_bytes);
    options.kv_slab_bytes = std::min<uint64_t>(options.kv_slab_bytes, 64 * 128);
    engine = Engine::Start(*device, *ledger, clock, metrics, options);
  }
  ModelHandle AddFake(const std::string& name = "fake", FakeModelOptions options = {},
                      int32_t context_length = 0) {
    auto model = std::make_unique<FakeModel>(options);
    fake = model.get();
    auto added = engine->AddModel(name, std::move(model), tokenizer, context_length, Charge());
    EXPECT_TRUE(added) << (added ? "" : added.error().message);
    return added.value_or(0);
  }
  static GenerateRequest Request(ModelHandle model, std::vector<int32_t> prompt, int32_t max_tokens,
                                 std::shared_ptr<GenerateSink> sink) {
    GenerateRequest request;
    request.model = model;
    request.prompt = std::move(prompt);
    request.sampling.temperature = 0;
    request.sampling.max_tokens = max_tokens;
    request.workspace = "w";
    request.account = "a";
    request.sink = std::move(sink);
    return request;
  }
  static std::vector<int32_t> Prompt(int32_t length, int32_t salt = 0) {
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < length; ++i) {
      prompt.push_back(static_cast<int32_t>(FakeModel::Mix(static_cast<uint64_t>(i * 1000 + salt)) % 200));
    }
    return prompt;
  }
  std::shared_ptr<RecordingSink> Generate(GenerateRequest request) {
    auto sink = std::make_shared<RecordingSink>();
    request.sink = sink;
    const auto handle = engine->Submit(std::move(request));
    EXPECT_TRUE(handle) << (handle ? "" : handle.error().message);
    if (handle) sink->Wait();
    return sink;
  }
  // Waits until the model is held inside a step (hold was set before).
  void WaitInStep() {
    while (fake->entered == fake->steps) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  void TearDown() override {
    if (fake != nullptr && engine != nullptr) fake->hold = false;
  }
  ModelEntry Entry(ModelHandle model) {
    for (const ModelEntry& entry : engine->ListModels()) {
      if (entry.handle == model) return entry;
    }
    return {};
  }

  SteadyClock clock;
  MetricsRegistry metrics;
  std::unique_ptr<chips::SimulatedDevice> device = chips::MakeSimulatedDevice({});
  std::shared_ptr<const text::Tokenizer> tokenizer = text::Tokenizer::Bytes();
  std::unique_ptr<Ledger> ledger;
  FakeModel* fake = nullptr;
  std::unique_ptr<Engine> engine;  // last: ends first
};

}  // namespace tidepool::compute
