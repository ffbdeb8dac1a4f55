// Random load: everything ends exactly once, answers are right, and the ledger returns to where it was.
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "compute/engine/engine_fixture.h"

namespace tidepool::compute {
namespace {

class StressTest : public EngineTest {
 protected:
  struct Sent {
    std::shared_ptr<RecordingSink> sink;
    std::vector<int32_t> prompt;
    int32_t max_tokens = 0;
    RequestHandle handle = 0;
  };
  // Prompts share prefixes within families, so that blocks are shared between requests.
  static std::vector<int32_t> FamilyPrompt(std::mt19937_64& random) {
    const auto family = static_cast<int32_t>(random() % 4);
    const auto fork = static_cast<int32_t>(random() % 150);
    const auto length = static_cast<int32_t>(1 + random() % 200);
    std::vector<int32_t> prompt;
    for (int32_t i = 0; i < length; ++i) {
      prompt.push_back(i < fork ? (i * 13 + family) % 200 : static_cast<int32_t>(random() % 200));
    }
    return prompt;
  }
  void ExpectRight(const Sent& sent) {
    ASSERT_EQ(sent.sink->finishes, 1);
    const FinishEvent& finish = sent.sink->finish;
    EXPECT_NE(finish.reason, FinishReason::kError) << finish.error.message;
    EXPECT_EQ(finish.usage.completion_tokens, static_cast<int32_t>(sent.sink->tokens.size()));
    auto expected = FakeModel::GreedyAnswer(sent.prompt, sent.max_tokens);
    if (finish.reason == FinishReason::kCancelled) {
      ASSERT_LE(sent.sink->tokens.size(), expected.size());
      expected.resize(sent.sink->tokens.size());
    }
    EXPECT_EQ(sent.sink->tokens, expected);
  }
};

TEST_F(StressTest, FiveHundredRequestsOverThreeModelsOnASmallLedger) {
  // Weights and workspaces take most of it; KV has room for about 60 blocks of 128 bytes.
  EngineOptions options{.max_batch_tokens = 64, .max_sequences = 8, .kv_slab_bytes = 4 * 128};
  const architectures::StepLimits limits{.max_tokens = 64, .max_logit_rows = 8};
  FakeModel sizing({.context_length = 512});
  const uint64_t workspace = sizing.WorkspaceBytes(limits);
  StartEngine(options, 3 * workspace + 60 * 128 + (1 << 16));
  std::vector<ModelHandle> models;
  for (int i = 0; i < 3; ++i) models.push_back(AddFake("model" + std::to_string(i), {.context_length = 512}));
  // What the device's scratch left is used up, so that the room for KV is known.
  auto ballast = ledger->Take("ballast", ChargeKind::kState, ledger->free() - 60 * 128);
  ASSERT_TRUE(ballast);
  const uint64_t baseline = ledger->used();

  std::mt19937_64 random(42);
  std::vector<Sent> sent;
  for (int i = 0; i < 500; ++i) {
    Sent s;
    s.sink = std::make_shared<RecordingSink>();
    s.prompt = FamilyPrompt(random);
    s.max_tokens = static_cast<int32_t>(1 + random() % 40);
    GenerateRequest request = Request(models[random() % 3], s.prompt, s.max_tokens, s.sink);
    request.workspace = std::to_string(random() % 2);
    request.account = std::to_string(random() % 5);
    const auto handle = engine->Submit(std::move(request));
    ASSERT_TRUE(handle) << handle.error().message;
    sent.push_back(std::move(s));
  }
  for (Sent& s : sent) {
    s.sink->Wait();
    EXPECT_NE(s.sink->finish.reason, FinishReason::kCancelled);
    ExpectRight(s);
  }
  for (const ModelHandle model : models) {
    EXPECT_EQ(Entry(model).kv_blocks_used, 0);
    EXPECT_EQ(Entry(model).running, 0);
    EXPECT_EQ(Entry(model).waiting, 0);
  }
  engine->Trim(UINT64_MAX);
  EXPECT_EQ(ledger->used(), baseline);
  EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
}

TEST_F(StressTest, ThreadsSubmitCancelAndPauseAtRandom) {
  StartEngine({.max_batch_tokens = 48, .max_sequences = 8, .max_waiting = 64}, 1 << 20);
  std::vector<ModelHandle> models = {AddFake("a", {.context_length = 512}),
                                     AddFake("b", {.context_length = 512})};
  std::atomic<int> refused{0};
  auto work = [&](uint64_t seed, std::vector<Sent>& sent) {
    std::mt19937_64 random(seed);
    for (int i = 0; i < 120; ++i) {
      Sent s;
      s.sink = std::make_shared<RecordingSink>();
      s.prompt = FamilyPrompt(random);
      s.max_tokens = static_cast<int32_t>(1 + random() % 60);
      const auto handle = engine->Submit(Request(models[random() % 2], s.prompt, s.max_tokens, s.sink));
      if (handle) {
        s.handle = *handle;
        sent.push_back(std::move(s));
      } else {
        EXPECT_EQ(handle.error().code, "queue_full");
        ++refused;
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
      if (sent.empty()) continue;
      const RequestHandle target = sent[random() % sent.size()].handle;
      switch (random() % 5) {
        case 0: engine->Cancel(target); break;
        case 1: engine->SetPaused(target, true); break;
        case 2: engine->SetPaused(target, false); break;
        case 3: engine->ListModels(); break;
        case 4: engine->load(); break;
      }
    }
    for (const Sent& s : sent) engine->SetPaused(s.handle, false);
  };
  std::vector<std::vector<Sent>> sent(4);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) threads.emplace_back(work, t + 1, std::ref(sent[t]));
  // Meanwhile a third model comes and goes.
  for (int i = 0; i < 5; ++i) {
    const ModelHandle model = AddFake("c", {.context_length = 512});
    std::vector<std::shared_ptr<RecordingSink>> sinks;
    for (int n = 0; n < 4; ++n) {
      auto sink = std::make_shared<RecordingSink>();
      if (engine->Submit(Request(model, Prompt(20 + n), 200, sink))) sinks.push_back(sink);
    }
    ASSERT_TRUE(engine->RemoveModel(model, true));
    fake = nullptr;  // it went with its model
    for (const auto& sink : sinks) EXPECT_TRUE(sink->finished());
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& list : sent) {
    for (const Sent& s : list) {
      s.sink->Wait();
      ExpectRight(s);
    }
  }
  for (const ModelHandle model : models) EXPECT_EQ(Entry(model).kv_blocks_used, 0);
  EXPECT_EQ(engine->load().running, 0);
  EXPECT_EQ(engine->load().waiting, 0);
  engine->Trim(UINT64_MAX);
  EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
}

}  // namespace
}  // namespace tidepool::compute
