// Many models in little memory: weights come and go between steps, KV moves to the host and back, and every
// answer is the one that the model gives alone. The fake model keeps its history in the KV blocks and refuses
// to step without its weights, so a mistake anywhere changes an answer or ends the test.
#include <gtest/gtest.h>

#include <random>

#include "compute/engine/engine_fixture.h"

namespace tidepool::compute {
namespace {

constexpr uint64_t kSegment = 64 << 10;
constexpr int32_t kSegments = 4;
constexpr uint64_t kWeights = kSegment * kSegments;
constexpr size_t kBlock = 128;  // of the fake model's KV

class EnginePoolTest : public EngineTest {
 protected:
  // Room for `weight_bytes` of weights and `kv_blocks` beside the scratch.
  void StartPool(uint64_t weight_bytes, uint64_t kv_blocks, uint64_t host_kv_bytes = 0,
                 EngineOptions options = {}) {
    options.max_batch_tokens = 64;
    options.max_sequences = 8;
    const FakeModel sizing({.context_length = 1024});
    const uint64_t workspace = sizing.WorkspaceBytes({.max_tokens = 64, .max_logit_rows = 8});
    ledger = std::make_unique<Ledger>(workspace + weight_bytes + kv_blocks * kBlock);
    residency = Residency::Start(*ledger, clock, {.warm_bytes = 64 << 20, .chunk_bytes = 16 << 10});
    arena = std::make_unique<HostKvArena>(
        HostKvArenaOptions{.limit_bytes = host_kv_bytes, .slab_bytes = 16 * kBlock});
    options.host_kv = arena.get();
    options.kv_slab_bytes = 4 * kBlock;
    engine = Engine::Start(*device, *ledger, clock, metrics, options);
  }
  ModelHandle AddPooled(const std::string& name, SimulatedBackingOptions backing = {},
                        ModelPolicy policy = {}) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
    fake = model.get();
    auto weights = residency->Attach(name, name, MakeSimulatedBacking(model->segments(), backing, clock));
    model->needs_resident = [w = weights.get()] { return w->complete(); };
    weights_[name] = weights;
    auto added = engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights, policy);
    EXPECT_TRUE(added) << (added ? "" : added.error().message);
    return added.value_or(0);
  }
  void ExpectRight(const RecordingSink& sink, const std::vector<int32_t>& prompt, int32_t max_tokens) {
    EXPECT_EQ(sink.finishes, 1);
    EXPECT_NE(sink.finish.reason, FinishReason::kError) << sink.finish.error.message;
    EXPECT_EQ(sink.tokens, FakeModel::GreedyAnswer(prompt, max_tokens));
  }
  void ExpectDrained() {
    EXPECT_EQ(engine->load().running, 0);
    EXPECT_EQ(engine->load().waiting, 0);
    EXPECT_EQ(arena->stats().used_bytes + arena->stats().moving_bytes, 0u);
    engine->Trim(1 << 30);
    EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
    EXPECT_LE(ledger->used(), ledger->limit());
  }
  void TearDown() override {
    EngineTest::TearDown();
    weights_.clear();
    engine.reset();
    residency.reset();
  }

  std::unique_ptr<Residency> residency;
  std::unique_ptr<HostKvArena> arena;
  std::map<std::string, std::shared_ptr<ResidentWeights>> weights_;
};

struct Sent {
  std::shared_ptr<RecordingSink> sink = std::make_shared<RecordingSink>();
  std::vector<int32_t> prompt;
  int32_t max_tokens = 0;
  RequestHandle handle = 0;
};

TEST_F(EnginePoolTest, SixModelsInTheMemoryOfTwo) {
  StartPool(2 * kWeights + kSegment, 400);
  std::vector<ModelHandle> models;
  for (int i = 0; i < 6; ++i)
    models.push_back(
        AddPooled("model" + std::to_string(i), {.warm_bytes_per_s = 100e6, .cold_bytes_per_s = 100e6}));
  std::mt19937_64 random(7);
  std::vector<Sent> sent(120);
  for (Sent& s : sent) {
    s.prompt = Prompt(static_cast<int32_t>(1 + random() % 150), static_cast<int32_t>(random() % 50));
    s.max_tokens = static_cast<int32_t>(1 + random() % 60);
    const auto handle = engine->Submit(Request(models[random() % 6], s.prompt, s.max_tokens, s.sink));
    ASSERT_TRUE(handle) << handle.error().message;
  }
  for (Sent& s : sent) {
    s.sink->Wait();
    ExpectRight(*s.sink, s.prompt, s.max_tokens);
    EXPECT_LE(ledger->used(), ledger->limit());
  }
  const auto report = engine->pool();
  EXPECT_GE(report->counters.loads, 6u);
  EXPECT_GE(report->counters.evictions, 1u);
  EXPECT_EQ(report->counters.rejected, 0u);
  EXPECT_EQ(report->names.size(), 6u);
  ExpectDrained();
}

TEST_F(EnginePoolTest, KvMovesToTheHostAndBack) {
  // Two models whose weights fill the device turn by turn, and KV of long answers that does not fit beside.
  StartPool(kWeights + kSegment, 70, 1 << 20);
  std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b"), AddPooled("c")};
  std::mt19937_64 random(11);
  std::vector<Sent> sent(60);
  for (Sent& s : sent) {
    s.prompt = Prompt(static_cast<int32_t>(20 + random() % 300), static_cast<int32_t>(random() % 1000));
    s.max_tokens = static_cast<int32_t>(50 + random() % 400);
    GenerateRequest request = Request(models[random() % 3], s.prompt, s.max_tokens, s.sink);
    const auto handle = engine->Submit(std::move(request));
    ASSERT_TRUE(handle) << handle.error().message;
  }
  for (Sent& s : sent) {
    s.sink->Wait();
    ExpectRight(*s.sink, s.prompt, s.max_tokens);
  }
  EXPECT_EQ(engine->pool()->counters.drops, 0u);
  ExpectDrained();
}

TEST_F(EnginePoolTest, CancelledAtRandomInAllStates) {
  StartPool(2 * kWeights, 80, 1 << 20);
  std::vector<ModelHandle> models;
  for (int i = 0; i < 4; ++i)
    models.push_back(
        AddPooled("m" + std::to_string(i), {.warm_bytes_per_s = 20e6, .cold_bytes_per_s = 20e6}));
  std::mt19937_64 random(3);
  std::vector<Sent> sent;
  for (int i = 0; i < 300; ++i) {
    Sent s;
    s.prompt = Prompt(static_cast<int32_t>(1 + random() % 200), i);
    s.max_tokens = static_cast<int32_t>(1 + random() % 200);
    const auto handle = engine->Submit(Request(models[random() % 4], s.prompt, s.max_tokens, s.sink));
    ASSERT_TRUE(handle) << handle.error().message;
    s.handle = *handle;
    sent.push_back(std::move(s));
    const Sent& target = sent[random() % sent.size()];
    if (random() % 2 == 0) engine->Cancel(target.handle);
    if (random() % 8 == 0) engine->SetPaused(target.handle, true);
    if (random() % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random() % 2000));
  }
  for (const Sent& s : sent) engine->SetPaused(s.handle, false);
  for (Sent& s : sent) {
    s.sink->Wait();
    auto expected = FakeModel::GreedyAnswer(s.prompt, s.max_tokens);
    EXPECT_NE(s.sink->finish.reason, FinishReason::kError) << s.sink->finish.error.message;
    if (s.sink->finish.reason == FinishReason::kCancelled)
      expected.resize(std::min(expected.size(), s.sink->tokens.size()));
    EXPECT_EQ(s.sink->tokens, expected);
    EXPECT_EQ(s.sink->finishes, 1);
  }
  ExpectDrained();
}

TEST_F(EnginePoolTest, ALimitLoweredBelowUseKillsNothing) {
  StartPool(3 * kWeights, 200, 1 << 20);
  std::vector<ModelHandle> models;
  for (int i = 0; i < 3; ++i) models.push_back(AddPooled("m" + std::to_string(i)));
  const uint64_t limit = ledger->limit();
  std::vector<Sent> sent(30);
  for (size_t i = 0; i < sent.size(); ++i) {
    Sent& s = sent[i];
    s.prompt = Prompt(60, static_cast<int32_t>(i));
    s.max_tokens = 300;
    ASSERT_TRUE(engine->Submit(Request(models[i % 3], s.prompt, s.max_tokens, s.sink)));
    if (i % 10 == 5) {
      ledger->SetLimit(limit - 2 * kWeights);
      engine->LimitsChanged();
    }
    if (i % 10 == 9) {
      ledger->SetLimit(limit);
      engine->LimitsChanged();
    }
  }
  ledger->SetLimit(limit - 2 * kWeights);
  engine->LimitsChanged();
  for (Sent& s : sent) {
    s.sink->Wait();
    ExpectRight(*s.sink, s.prompt, s.max_tokens);
  }
  ExpectDrained();
  EXPECT_EQ(ledger->over_limit_bytes(), 0u);
}

TEST_F(EnginePoolTest, ADamagedModelHarmsNoOther) {
  StartPool(2 * kWeights, 200);
  const ModelHandle bad = AddPooled("bad", {.fail_at_segment = 2});
  const ModelHandle good = AddPooled("good");
  std::atomic<int> told{0};
  engine->OnLoadFailed([&](ModelHandle model, const Error&) {
    EXPECT_EQ(model, bad);
    ++told;
  });
  Sent to_bad, to_good;
  to_good.prompt = to_bad.prompt = Prompt(40);
  to_good.max_tokens = 50;
  ASSERT_TRUE(engine->Submit(Request(bad, to_bad.prompt, 10, to_bad.sink)));
  ASSERT_TRUE(engine->Submit(Request(good, to_good.prompt, to_good.max_tokens, to_good.sink)));
  EXPECT_EQ(to_bad.sink->Wait().reason, FinishReason::kError);
  EXPECT_EQ(to_bad.sink->finish.error.kind, ErrorKind::kUnavailable);
  to_good.sink->Wait();
  ExpectRight(*to_good.sink, to_good.prompt, to_good.max_tokens);
  EXPECT_GE(told, 1);
  // Until it is tried again it says so at once.
  auto again = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(bad, Prompt(5), 5, again)));
  EXPECT_EQ(again->Wait().reason, FinishReason::kError);
  EXPECT_EQ(again->finish.error.code, "model_quarantined");
  engine->OnLoadFailed(nullptr);
  ExpectDrained();
}

TEST_F(EnginePoolTest, APinnedModelStaysAndATtlEnds) {
  StartPool(2 * kWeights + kSegment, 200);
  const ModelHandle pinned = AddPooled("pinned", {}, {.pinned = true});
  const ModelHandle brief = AddPooled("brief", {}, {.idle_ttl_s = 0.05});
  const ModelHandle other = AddPooled("other");
  Generate(Request(brief, Prompt(10), 5, nullptr));
  for (int i = 0; i < 400 && weights_["brief"]->landed_segments() > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(weights_["brief"]->landed_segments(), 0);
  for (int i = 0; i < 5; ++i) {
    Generate(Request(other, Prompt(10, i), 20, nullptr));
    Generate(Request(brief, Prompt(10, i), 20, nullptr));
    EXPECT_TRUE(weights_["pinned"]->complete());
  }
  ASSERT_TRUE(engine->SetPolicy(pinned, {}));
  ExpectDrained();
}

TEST_F(EnginePoolTest, OverloadIsAnsweredAtOnce) {
  EngineOptions options;
  options.pool.admission_load = 1;
  StartPool(2 * kWeights, 2000, 0, options);
  ModelPolicy policy;
  policy.ttft_s = 0.2;
  policy.tpot_s = 0.01;
  policy.profile = {.prefill_per_token_s = 1e-3, .decode_base_s = 4e-3, .decode_per_sequence_s = 1e-3};
  const ModelHandle model = AddPooled("m", {}, policy);
  std::vector<std::shared_ptr<RecordingSink>> sinks;
  for (int i = 0; i < 60; ++i) {
    sinks.push_back(std::make_shared<RecordingSink>());
    ASSERT_TRUE(engine->Submit(Request(model, Prompt(60, i), 30, sinks.back())));
  }
  int refused = 0;
  for (const auto& sink : sinks) {
    sink->Wait();
    if (sink->finish.reason != FinishReason::kError) continue;
    ++refused;
    EXPECT_EQ(sink->finish.error.code, "pool_overloaded");
    EXPECT_EQ(sink->finish.error.kind, ErrorKind::kOverloaded);
    EXPECT_GE(sink->finish.error.retry_after_s, 1);
    EXPECT_TRUE(sink->tokens.empty());
  }
  EXPECT_GT(refused, 0);
  EXPECT_LT(refused, 60);
  EXPECT_EQ(engine->pool()->counters.rejected, static_cast<uint64_t>(refused));
  ExpectDrained();
}

TEST_F(EnginePoolTest, AModelThatCanNeverFitIsRefused) {
  StartPool(kWeights / 2, 10);
  auto model = std::make_unique<FakeModel>(
      FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
  auto weights = residency->Attach("big", "big", MakeSimulatedBacking(model->segments(), {}, clock));
  const auto added = engine->AddModel("big", std::move(model), tokenizer, 0, Charge(), weights);
  ASSERT_FALSE(added);
  EXPECT_EQ(added.error().code, "out_of_pool_memory");
}

TEST_F(EnginePoolTest, RemovedWhileItLoadsOrRuns) {
  StartPool(2 * kWeights, 400, 1 << 20);
  for (int round = 0; round < 10; ++round) {
    const std::string name = "m" + std::to_string(round);
    const ModelHandle model = AddPooled(name, {.warm_bytes_per_s = 5e6, .cold_bytes_per_s = 5e6});
    auto sink = std::make_shared<RecordingSink>();
    ASSERT_TRUE(engine->Submit(Request(model, Prompt(50, round), 500, sink)));
    if (round % 2 == 1) sink->WaitForTokens(5);
    ASSERT_TRUE(engine->RemoveModel(model, true));
    fake = nullptr;
    EXPECT_TRUE(sink->finished());
    weights_.clear();
    residency->WaitIdle();
    EXPECT_EQ(ledger->used_by(ChargeKind::kWeights), 0u);
    EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
  }
}

}  // namespace
}  // namespace tidepool::compute
