// Many models in little memory: weights come and go between steps, KV moves to the host and back, and every
// answer is the one that the model gives alone. The fake model keeps its history in the KV blocks and refuses
// to step without its weights, so a mistake anywhere changes an answer or ends the test.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "compute/engine/pool_fixture.h"
#include "compute/scheduler/trace.h"

namespace tidepool::compute {
namespace {

namespace fs = std::filesystem;

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
  // Models whose weights fill the device turn by turn, and beside them room for the KV of two long answers:
  // those whose readers are slow make way for the others, and go on where they were.
  StartPool(kWeights, 120, 1 << 20);
  const std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b"), AddPooled("c")};
  std::vector<Sent> sent(9);
  const auto request = [&](size_t i, std::shared_ptr<RecordingSink> sink) {
    GenerateRequest made = Request(models[i % 3], Prompt(200, static_cast<int32_t>(i)), 700, std::move(sink));
    made.sampling.ignore_eos = true;
    return made;
  };
  for (size_t i = 0; i < sent.size(); ++i) {
    const auto handle = engine->Submit(request(i, sent[i].sink));
    ASSERT_TRUE(handle) << handle.error().message;
    sent[i].handle = *handle;
  }
  sent[0].sink->WaitForTokens(5);
  for (size_t i = 0; i < sent.size(); i += 3) engine->SetPaused(sent[i].handle, true);
  for (int i = 0; i < 20'000 && engine->pool()->counters.spills == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  for (const Sent& s : sent) engine->SetPaused(s.handle, false);
  for (Sent& s : sent) s.sink->Wait();
  const PoolCounters counters = engine->pool()->counters;
  EXPECT_GT(counters.spills, 0u) << "this shows nothing";
  EXPECT_GT(counters.restores, 0u);
  EXPECT_EQ(counters.drops, 0u);
  for (size_t i = 0; i < sent.size(); ++i) {
    EXPECT_EQ(sent[i].sink->tokens, Generate(request(i, nullptr))->tokens) << "alone, its KV stays";
  }
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

TEST_F(EnginePoolTest, TheLeastThatIsNeededIsEnough) {
  StartPool(2 * kWeights, 400, 1 << 20);
  const std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b")};
  EXPECT_EQ(engine->LeastBytes(), 0u);
  std::vector<Sent> sent(6);
  for (size_t i = 0; i < sent.size(); ++i) {
    Sent& s = sent[i];
    s.prompt = Prompt(100 + static_cast<int32_t>(i), static_cast<int32_t>(i));
    s.max_tokens = 400;
    const auto handle = engine->Submit(Request(models[i % 2], s.prompt, s.max_tokens, s.sink));
    ASSERT_TRUE(handle) << handle.error().message;
    s.handle = *handle;
    engine->SetPaused(s.handle, true);
  }
  // 505 tokens are 32 blocks of 16, which are 8 slabs of 4.
  const uint64_t least = engine->LeastBytes();
  EXPECT_EQ(least, ledger->used_by(ChargeKind::kScratch) + kWeights + 32 * kBlock);
  ledger->SetLimit(least);
  engine->LimitsChanged();
  for (const Sent& s : sent) engine->SetPaused(s.handle, false);
  for (Sent& s : sent) {
    s.sink->Wait();
    ExpectRight(*s.sink, s.prompt, s.max_tokens);
  }
  EXPECT_EQ(engine->LeastBytes(), 0u);
  ExpectDrained();
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

TEST_F(EnginePoolTest, TokensAreCountedByWhatWasPromised) {
  StartPool(2 * kWeights, 2000, 0);
  ModelPolicy patient, hasty;
  patient.ttft_s = 3600;
  hasty.ttft_s = hasty.tpot_s = 1e-9;  // no step is so quick
  const ModelHandle calm = AddPooled("calm", {}, patient), late = AddPooled("late", {}, hasty);
  Generate(Request(calm, Prompt(20, 1), 5, nullptr));
  Generate(Request(late, Prompt(20, 2), 7, nullptr));
  GenerateRequest batch = Request(late, Prompt(20, 3), 4, nullptr);
  batch.job_class = JobClass::kBatch;
  Generate(std::move(batch));
  const PoolTokens tokens = engine->pool()->tokens;
  EXPECT_EQ(tokens.on_time, 5u);
  EXPECT_EQ(tokens.late, 7u);
  EXPECT_EQ(tokens.generated, 16u) << "batch work is promised no time";
  // Each prompt, and each token but the last of an answer, whose turn never comes.
  EXPECT_EQ(tokens.computed, 3u * 20 + 4 + 6 + 3);
  for (const ModelEntry& model : engine->ListModels()) {
    EXPECT_EQ(model.tokens_on_time, model.name == "calm" ? 5u : 0u);
    EXPECT_EQ(model.tokens_late, model.name == "late" ? 7u : 0u);
  }
  // And the turns say the same.
  int64_t computed = 0, answered = 0, were_late = 0;
  for (const PoolTurn& turn : engine->Turns(0, 1000).turns) {
    computed += turn.tokens;
    answered += turn.answered;
    were_late += turn.late;
    EXPECT_LE(turn.from, turn.to);
    if (turn.late > 0) {
      EXPECT_EQ(*turn.model, "late");
    }
  }
  EXPECT_EQ(computed, static_cast<int64_t>(tokens.computed));
  EXPECT_EQ(answered, 12);
  EXPECT_EQ(were_late, 7);
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

// A job is off the device for certain: two models whose weights fill it turn by turn, and long contexts.
TEST_F(EnginePoolTest, CancelledWhileItsKvIsOnTheHost) {
  StartPool(kWeights, 120, 1 << 20);
  const std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b"), AddPooled("c")};
  std::vector<Sent> sent(24);
  for (size_t i = 0; i < sent.size(); ++i) {
    Sent& s = sent[i];
    s.prompt = Prompt(200, static_cast<int32_t>(i));
    s.max_tokens = 700;
    GenerateRequest request = Request(models[i % 3], s.prompt, s.max_tokens, s.sink);
    request.sampling.ignore_eos = true;
    const auto handle = engine->Submit(std::move(request));
    ASSERT_TRUE(handle) << handle.error().message;
    s.handle = *handle;
  }
  // A paused one can wait longest and goes first.
  sent[0].sink->WaitForTokens(5);
  for (size_t i = 0; i < sent.size(); i += 6) engine->SetPaused(sent[i].handle, true);
  const auto spilled = [&] {
    int32_t count = 0;
    for (const ReplicaState& replica : engine->pool()->device.replicas) count += replica.spilled;
    return count;
  };
  bool seen = false;
  for (int i = 0; i < 20'000 && !seen; ++i) {
    seen = spilled() > 0 && arena->stats().used_bytes > 0;
    if (!seen) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  ASSERT_TRUE(seen) << "nothing was spilled: this shows nothing";
  for (const Sent& s : sent) engine->Cancel(s.handle);
  int cancelled = 0;
  for (size_t i = 0; i < sent.size(); ++i) {  // some may have ended just before
    const FinishReason reason = sent[i].sink->Wait().reason;
    EXPECT_TRUE(reason == FinishReason::kCancelled || reason == FinishReason::kLength);
    cancelled += reason == FinishReason::kCancelled;
  }
  EXPECT_GT(cancelled, 0);
  for (int i = 0; i < 5000 && arena->stats().moving_bytes > 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  ExpectDrained();
}

// The host has no room for KV, as little as a full disk would have: nothing is lost, work goes on in turns.
TEST_F(EnginePoolTest, NoRoomToSpillLosesNothing) {
  StartPool(kWeights, 120, 1 << 20);
  const std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b")};
  std::vector<Sent> sent(16);
  for (size_t i = 0; i < sent.size(); ++i) {
    Sent& s = sent[i];
    s.prompt = Prompt(150, static_cast<int32_t>(i));
    s.max_tokens = 300;
    ASSERT_TRUE(engine->Submit(Request(models[i % 2], s.prompt, s.max_tokens, s.sink)));
    if (i == 7) {
      arena->SetLimit(0);
      engine->LimitsChanged();
    }
  }
  for (Sent& s : sent) {
    s.sink->Wait();
    ExpectRight(*s.sink, s.prompt, s.max_tokens);
  }
  ExpectDrained();
}

// Weights leave between two steps of a running answer, and do not come back at the first try.
TEST_F(EnginePoolTest, ALoadThatFailsInMidFlightLosesNoToken) {
  StartPool(kWeights + kSegment, 300);
  auto control = std::make_shared<testing::SteppedBacking::Control>();
  auto model = std::make_unique<FakeModel>(FakeModelOptions{.context_length = 1024,
                                                            .step_time = std::chrono::microseconds(500),
                                                            .segments = kSegments,
                                                            .segment_bytes = kSegment});
  auto weights = residency->Attach(
      "shaky", "shaky",
      std::make_unique<testing::SteppedBacking>(testing::Segments(kSegments, kSegment), control));
  model->needs_resident = [w = weights.get()] { return w->complete(); };
  weights_["shaky"] = weights;
  const auto shaky = engine->AddModel("shaky", std::move(model), tokenizer, 0, Charge(), weights);
  ASSERT_TRUE(shaky);
  const ModelHandle other = AddPooled("other");
  Sent long_answer, between;
  long_answer.prompt = Prompt(50, 1);
  long_answer.max_tokens = 600;
  GenerateRequest request = Request(*shaky, long_answer.prompt, long_answer.max_tokens, long_answer.sink);
  request.sampling.ignore_eos = true;
  const auto handle = engine->Submit(std::move(request));
  ASSERT_TRUE(handle);
  long_answer.sink->WaitForTokens(20);
  // Its reader is slow for a while, and another model takes the memory.
  engine->SetPaused(*handle, true);
  between.prompt = Prompt(30);
  between.max_tokens = 30;
  ASSERT_TRUE(engine->Submit(Request(other, between.prompt, between.max_tokens, between.sink)));
  between.sink->Wait();
  ExpectRight(*between.sink, between.prompt, between.max_tokens);
  ASSERT_FALSE(weights_["shaky"]->complete());
  std::atomic<int> failures{0};
  engine->OnLoadFailed([&](ModelHandle, const Error&) { ++failures; });
  {
    const std::lock_guard lock(control->mutex);
    control->fail_at = 3;
    control->failure = Fail(ErrorKind::kUnavailable, "disk_trouble", "the disk is away");
  }
  engine->SetPaused(*handle, false);
  for (int i = 0; i < 20'000 && failures == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(failures, 1);
  EXPECT_FALSE(long_answer.sink->finished());
  const uint64_t before = engine->pool()->counters.decisions;
  std::this_thread::sleep_for(std::chrono::seconds(1));
  EXPECT_LT(engine->pool()->counters.decisions - before, 100u)
      << "it waits for the next attempt in its sleep";
  {
    const std::lock_guard lock(control->mutex);
    control->fail_at = -1;
  }
  EXPECT_EQ(long_answer.sink->Wait().reason, FinishReason::kLength) << long_answer.sink->finish.error.message;
  EXPECT_EQ(long_answer.sink->tokens,
            FakeModel::GreedyAnswer(long_answer.prompt, long_answer.max_tokens, /*ignore_eos=*/true));
  engine->OnLoadFailed(nullptr);
  ExpectDrained();
}

TEST_F(EnginePoolTest, WeightsLostUnderAModelEndItsRequestsOnly) {
  StartPool(2 * kWeights, 300);
  const ModelHandle good = AddPooled("good");
  const ModelHandle bad = AddPooled("bad");
  FakeModel* const bad_model = fake;
  std::atomic<int> told{0};
  engine->OnLoadFailed([&](ModelHandle model, const Error& error) {
    EXPECT_EQ(model, bad);
    EXPECT_EQ(error.kind, ErrorKind::kCorrupt);
    ++told;
  });
  Sent to_good, to_bad;
  to_good.prompt = to_bad.prompt = Prompt(40);
  to_good.max_tokens = to_bad.max_tokens = 800;
  // In the middle of its answer, however the threads are scheduled.
  bad_model->on_step = [bad_model](const architectures::Step&) {
    if (bad_model->steps == 100) bad_model->weights_lost = true;
  };
  for (auto [model, s] : {std::pair{good, &to_good}, std::pair{bad, &to_bad}}) {
    GenerateRequest request = Request(model, s->prompt, s->max_tokens, s->sink);
    request.sampling.ignore_eos = true;
    ASSERT_TRUE(engine->Submit(std::move(request)));
  }
  EXPECT_EQ(to_bad.sink->Wait().reason, FinishReason::kError);
  EXPECT_EQ(to_bad.sink->finish.error.code, "weights_lost");
  EXPECT_EQ(to_bad.sink->finish.error.kind, ErrorKind::kUnavailable);
  // What was said before was computed with all of its weights.
  auto expected = FakeModel::GreedyAnswer(to_bad.prompt, 800, true);
  ASSERT_LT(to_bad.sink->tokens.size(), expected.size());
  expected.resize(to_bad.sink->tokens.size());
  EXPECT_EQ(to_bad.sink->tokens, expected);
  EXPECT_EQ(to_good.sink->Wait().reason, FinishReason::kLength);
  EXPECT_EQ(to_good.sink->tokens, FakeModel::GreedyAnswer(to_good.prompt, 800, true));
  EXPECT_GE(told, 1);
  // Until somebody removes it, it says so, and never answers.
  auto again = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(bad, Prompt(5), 5, again)));
  EXPECT_EQ(again->Wait().reason, FinishReason::kError);
  EXPECT_TRUE(again->tokens.empty());
  ASSERT_TRUE(engine->RemoveModel(bad, true));
  engine->OnLoadFailed(nullptr);
  ExpectDrained();
}

// Two names of one file: one set of weights in the ledger, and what makes way under one name stays for the
// other.
TEST_F(EnginePoolTest, AliasesShareWeightsAndDoNotTakeThemFromEachOther) {
  StartPool(2 * kWeights + kSegment, 200);
  const auto add_alias = [&](const std::string& name) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
    fake = model.get();
    auto weights = residency->Attach(name, "one file", MakeSimulatedBacking(model->segments(), {}, clock));
    model->needs_resident = [w = weights.get()] { return w->complete(); };
    weights_[name] = weights;
    return engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights).value_or(0);
  };
  const ModelHandle first = add_alias("first"), second = add_alias("second");
  const ModelHandle other = AddPooled("other");
  EXPECT_EQ(weights_["first"], weights_["second"]);
  for (int round = 0; round < 5; ++round) {
    for (const ModelHandle model : {first, second, other, second, first, other}) {
      const auto sink = Generate(Request(model, Prompt(20, round), 10, nullptr));
      EXPECT_EQ(sink->tokens, FakeModel::GreedyAnswer(Prompt(20, round), 10));
      EXPECT_LE(ledger->used_by(ChargeKind::kWeights), 2 * kWeights);
    }
  }
  const auto pool = engine->pool();
  EXPECT_EQ(pool->counters.evictions, 0u) << "they count once: all of them fit";
  EXPECT_EQ(pool->device.weight_bytes, 2 * kWeights);
  ASSERT_TRUE(engine->RemoveModel(first, false));
  EXPECT_EQ(Generate(Request(second, Prompt(9), 10, nullptr))->tokens,
            FakeModel::GreedyAnswer(Prompt(9), 10));
  ASSERT_TRUE(engine->RemoveModel(second, false));
  fake = nullptr;
  weights_.erase("first");
  weights_.erase("second");
  residency->WaitIdle();
  EXPECT_LE(ledger->used_by(ChargeKind::kWeights), kWeights);
  ExpectDrained();
}

TEST_F(EnginePoolTest, EventsTellWhatThePoolDid) {
  StartPool(kWeights + kSegment, 70, 1 << 20);
  const std::vector<ModelHandle> models = {AddPooled("a"), AddPooled("b")};
  const Nanoseconds before = clock.now();
  for (int i = 0; i < 6; ++i)
    Generate(Request(models[static_cast<size_t>(i % 2)], Prompt(20, i), 5, nullptr));
  const PoolEvents all = engine->Events(0, 1000);
  EXPECT_EQ(all.missed, 0u);
  ASSERT_FALSE(all.events.empty());
  EXPECT_EQ(all.last, all.events.back().number);
  std::map<PoolEventKind, int> count;
  std::map<std::string, uint64_t> held;  // weights by the events alone
  uint64_t number = 0;
  Nanoseconds at = before;
  for (const PoolEvent& event : all.events) {
    EXPECT_EQ(event.number, ++number);
    EXPECT_GE(event.at, at);
    at = event.at;
    ++count[event.kind];
    ASSERT_NE(event.model, nullptr);
    if (event.kind == PoolEventKind::kLoaded) held[*event.model] += event.bytes;
    if (event.kind == PoolEventKind::kEvict) held[*event.model] -= event.bytes;
  }
  EXPECT_LE(at, clock.now());
  EXPECT_EQ(count[PoolEventKind::kSwitch], 6) << "in turn";
  EXPECT_EQ(count[PoolEventKind::kLoad], count[PoolEventKind::kLoaded]);
  EXPECT_EQ(static_cast<uint64_t>(count[PoolEventKind::kEvict]), engine->pool()->counters.evictions);
  for (const auto& [name, bytes] : held) EXPECT_EQ(bytes, weights_[name]->landed_bytes()) << name;
  EXPECT_EQ(engine->Events(all.last, 1000).events.size(), 0u);
  EXPECT_EQ(engine->Events(all.last - 2, 1000).events.size(), 2u);
}

TEST(PoolEventLogTest, KeepsTheLastAndCountsTheRest) {
  PoolEventLog log(4);
  for (int i = 1; i <= 10; ++i) log.Add({.kind = PoolEventKind::kEvict, .bytes = static_cast<uint64_t>(i)});
  const PoolEvents all = log.Since(0, 100);
  EXPECT_EQ(all.missed, 6u);
  ASSERT_EQ(all.events.size(), 4u);
  EXPECT_EQ(all.events.front().number, 7u);
  EXPECT_EQ(all.events.front().bytes, 7u);
  const PoolEvents some = log.Since(8, 1);
  EXPECT_EQ(some.missed, 0u);
  ASSERT_EQ(some.events.size(), 1u);
  EXPECT_EQ(some.events[0].number, 9u);
  EXPECT_EQ(log.Since(10, 5).events.size(), 0u);
  EXPECT_EQ(log.Since(UINT64_MAX, 0).last, 10u);
  EXPECT_EQ(log.Since(UINT64_MAX, 0).missed, 0u);
}

// What the real engine decided, a fresh scheduler decides again from the record alone.
TEST_F(EnginePoolTest, ARecordedPoolReplays) {
  EngineOptions options;
  options.trace_records = 1'000'000;
  StartPool(2 * kWeights + kSegment, 120, 1 << 20, options);
  std::vector<ModelHandle> models;
  for (int i = 0; i < 4; ++i)
    models.push_back(
        AddPooled("m" + std::to_string(i), {.warm_bytes_per_s = 50e6, .cold_bytes_per_s = 50e6}));
  std::vector<Sent> sent(60);
  for (size_t i = 0; i < sent.size(); ++i) {
    Sent& s = sent[i];
    s.prompt = Prompt(static_cast<int32_t>(10 + i * 7 % 200), static_cast<int32_t>(i));
    s.max_tokens = static_cast<int32_t>(1 + i * 13 % 90);
    const auto handle = engine->Submit(Request(models[i * 5 % 4], s.prompt, s.max_tokens, s.sink));
    ASSERT_TRUE(handle);
    if (i % 9 == 4) engine->Cancel(*handle);
    if (i % 16 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (Sent& s : sent) s.sink->Wait();
  std::istringstream file(engine->DecisionTrace(/*requests=*/false));
  const auto trace = ReadTrace(file);
  ASSERT_TRUE(trace) << trace.error().message;
  EXPECT_TRUE(trace->complete);
  const auto fresh = MakeTidepoolScheduler({.admission_load = 0});
  const auto replay = Replay(*trace, *fresh);
  ASSERT_TRUE(replay) << replay.error().message;
  EXPECT_TRUE(replay->equal) << replay->difference;
  EXPECT_GT(replay->decisions, 100u);
  // And who asked, as the simulator reads workloads.
  const std::string requests = engine->DecisionTrace(true);
  EXPECT_EQ(std::count(requests.begin(), requests.end(), '\n'), 60);
  EXPECT_NE(requests.find(R"("model":"m3")"), std::string::npos);
}

// Nobody says how long the answers may be: their contexts together would take five times the memory there is.
TEST_F(EnginePoolTest, AnswersWithoutMaxTokensShareTheMemory) {
  for (const int32_t promise : {64, 0}) {
    EngineOptions options;
    options.open_answer_tokens = promise;
    StartPool(kWeights, 120, 0, options);
    const ModelHandle model = AddPooled("m");
    std::vector<Sent> sent(6);
    for (size_t i = 0; i < sent.size(); ++i) {
      Sent& s = sent[i];
      s.prompt = Prompt(20, static_cast<int32_t>(i * 17));
      GenerateRequest request = Request(model, s.prompt, /*max_tokens=*/0, s.sink);
      request.sampling.ignore_eos = true;
      ASSERT_TRUE(engine->Submit(std::move(request)));
    }
    int32_t most = 0;
    for (Sent& s : sent) {
      while (!s.sink->finished()) {
        most = std::max(most, engine->load().running);
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
      EXPECT_EQ(s.sink->tokens, FakeModel::GreedyAnswer(s.prompt, 1024 - 20, /*ignore_eos=*/true));
    }
    if (promise > 0) {
      EXPECT_GE(most, 4) << "they ran one after the other";
    } else {
      EXPECT_LE(most, 2) << "each was promised its whole context";
    }
    ExpectDrained();
    weights_.clear();
    engine.reset();
    residency.reset();
  }
}

// The engine ends and another begins, as when a server starts again.
TEST_F(EnginePoolTest, PrefixCachesOfPinnedModelsComeBack) {
  testing::TemporaryFolder folder;
  const auto start = [&](const std::string& salt) {
    weights_.clear();
    engine.reset();
    residency.reset();
    EngineOptions options;
    options.prefix_files = {.max_bytes = 1 << 20, .folder = folder.path() / "prefixes", .salt = salt};
    StartPool(2 * kWeights + kSegment, 400, 0, options);
  };
  const auto add = [&](const std::string& name, bool pinned) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
    fake = model.get();
    auto weights = residency->Attach(name, name, MakeSimulatedBacking(model->segments(), {}, clock));
    weights_[name] = weights;
    return engine
        ->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights, {.pinned = pinned},
                   "bytes of " + name)
        .value_or(0);
  };
  const auto cached_of = [&](ModelHandle model) {
    const auto sink = Generate(Request(model, Prompt(100, 5), 30, nullptr));
    EXPECT_EQ(sink->tokens, FakeModel::GreedyAnswer(Prompt(100, 5), 30));
    return sink->finish.usage.cached_tokens;
  };
  const auto files = [&] {
    return std::distance(fs::directory_iterator(folder.path() / "prefixes"), fs::directory_iterator());
  };
  start("v1");
  EXPECT_EQ(cached_of(add("pinned", true)), 0);
  EXPECT_EQ(cached_of(add("other", false)), 0);
  engine->SavePrefixCaches();
  EXPECT_EQ(files(), 1) << "only that of the pinned one";
  const fs::path file = fs::directory_iterator(folder.path() / "prefixes")->path();
  EXPECT_EQ(fs::status(file).permissions(), fs::perms::owner_read | fs::perms::owner_write);

  start("v1");
  EXPECT_EQ(cached_of(add("pinned", true)), 96);
  EXPECT_EQ(cached_of(add("other", false)), 0);
  start("v2");  // other kernels: other bits of KV
  EXPECT_EQ(cached_of(add("pinned", true)), 0);
  start("v1");
  {
    std::fstream damage(file, std::ios::in | std::ios::out | std::ios::binary);
    damage.seekp(static_cast<std::streamoff>(fs::file_size(file)) - 20);
    damage.put('x');
  }
  EXPECT_EQ(cached_of(add("pinned", true)), 0) << "a damaged file is ignored";
  ASSERT_TRUE(engine->SetPolicy(engine->ListModels()[0].handle, {.pinned = false}));
  engine->SavePrefixCaches();
  EXPECT_EQ(files(), 0) << "nobody wants it any more";
}

}  // namespace
}  // namespace tidepool::compute
