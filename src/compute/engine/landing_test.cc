// Steps that begin while their weights are still coming, on the real engine, with a policy that always asks
// for it: how long the first token takes, and that nothing is lost when a load is slow, fails, or must not be
// waited for.
#include <gtest/gtest.h>

#include "compute/engine/engine_fixture.h"
#include "compute/residency/residency_fixture.h"
#include "compute/scheduler/pool_state.h"

namespace tidepool::compute {
namespace {

using testing::SteppedBacking;

constexpr uint64_t kSegment = 64 << 10;
constexpr int32_t kSegments = 4;

// In the order of arrival of models: loads the first that has work and is not resident (others make room),
// and runs the first that could, without waiting for the load to end.
class LandingPolicy final : public pool::PoolState {
 public:
  using PoolState::PoolState;
  std::string_view name() const override { return "landing"; }
  void PlaceJob(pool::Job& job, Nanoseconds now) override { Assign(job, *devices_[0], now); }
  void Decide(Nanoseconds now, std::vector<Effect>& effects) override {
    wake_at_ = INT64_MAX;
    pool::Device& device = *devices_[0];
    if (device.asked > 0 || device.busy) return;
    for (pool::Replica* replica : device.replicas) {
      if (replica->jobs() == 0 || replica->resident() || device.loading != nullptr) continue;
      if (replica->model->quarantined_until > now) {
        wake_at_ = std::min(wake_at_, replica->model->quarantined_until);
        continue;
      }
      const uint64_t missing = replica->model->weight_bytes - replica->bytes;
      for (pool::Replica* other : device.replicas) {
        if (device.free() < missing && other != replica && other->landed > 0 && !other->loading)
          EmitEvict(*other, 0, Reason::kMoreSlack, effects);
      }
      if (device.free() >= missing)
        EmitLoad(*replica, replica->model->segments(), Reason::kUrgent, now, effects);
    }
    for (const bool resident : {true, false}) {  // what is there goes first
      for (pool::Replica* replica : device.replicas) {
        if (replica->resident() != resident || (!resident && !replica->loading)) continue;
        bool asked = false;
        for (pool::Job* job : std::vector<pool::Job*>(replica->waiting)) {
          if (job->refused_epoch == device.room_epoch) continue;
          EmitAdmit(*job, job->most_tokens(), effects);
          asked = true;
        }
        if (asked) return;
        if (!ComposeStep(*replica, {}, now, device.plan)) continue;
        landing_runs += resident ? 0 : 1;
        EmitRun(device, *replica, Reason::kTurn, now, effects);
        return;
      }
    }
  }
  std::atomic<int> landing_runs{0};
};

class LandingTest : public EngineTest {
 protected:
  void StartLanding(uint64_t weight_bytes) {
    ledger = std::make_unique<Ledger>((64 << 20) + weight_bytes);
    residency_ = Residency::Start(*ledger, clock, {.warm_bytes = 64 << 20, .chunk_bytes = 16 << 10});
    EngineOptions options;
    options.kv_slab_bytes = 64 * 128;
    options.make_scheduler = [this](const PoolPolicyOptions& policy) {
      auto made = std::make_unique<LandingPolicy>(policy);
      policy_ = made.get();
      return made;
    };
    engine = Engine::Start(*device, *ledger, clock, metrics, options);
  }
  // A model whose chunks come one by one, as the test permits.
  ModelHandle AddStepped(const std::string& name, std::shared_ptr<SteppedBacking::Control> control) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
    fake = model.get();
    auto weights = residency_->Attach(
        name, name,
        std::make_unique<SteppedBacking>(testing::Segments(kSegments, kSegment), std::move(control)));
    model->needs_resident = [w = weights.get()] { return w->complete(); };
    weights_.push_back(weights);
    auto added = engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights);
    EXPECT_TRUE(added) << (added ? "" : added.error().message);
    return added.value_or(0);
  }
  static std::shared_ptr<SteppedBacking::Control> NewControl(int64_t permits = INT64_MAX) {
    auto control = std::make_shared<SteppedBacking::Control>();
    control->permits = permits;
    return control;
  }
  // The engine is inside a step that waits for weights.
  void AwaitLandingStep(const FakeModel* model, uint64_t entered = 1) {
    for (int i = 0; i < 20'000 && model->entered < entered; ++i)
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ASSERT_GE(model->entered.load(), entered);
  }
  void ExpectAnswer(RecordingSink& sink, const std::vector<int32_t>& prompt, int32_t tokens) {
    EXPECT_NE(sink.Wait().reason, FinishReason::kError) << sink.finish.error.message;
    EXPECT_EQ(sink.tokens, FakeModel::GreedyAnswer(prompt, tokens));
    EXPECT_EQ(sink.finishes, 1);
  }
  void TearDown() override {
    EngineTest::TearDown();
    engine.reset();
    weights_.clear();
    residency_.reset();
  }
  void ExpectNothingHeld() {
    EXPECT_EQ(engine->load().running + engine->load().waiting, 0);
    engine->Trim(1 << 30);
    EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
  }

  std::unique_ptr<Residency> residency_;
  std::vector<std::shared_ptr<ResidentWeights>> weights_;
  LandingPolicy* policy_ = nullptr;
};

// Copying and computing overlap: the first token comes after the longer of both and one layer more, not after
// their sum. Seconds are long against what a busy machine adds, mostly: the best of some tries counts.
class LandingTimeTest : public LandingTest, public ::testing::WithParamInterface<std::pair<double, double>> {
 protected:
  double FirstTokenSeconds(double copy_s, double prefill_s);
  static constexpr int32_t kLayers = 16;
};

double LandingTimeTest::FirstTokenSeconds(double copy_s, double prefill_s) {
  chips::SimulatedDeviceOptions simulated;
  simulated.step_base_s = prefill_s;
  device = chips::MakeSimulatedDevice(simulated);
  StartLanding(kLayers * kSegment);
  auto made = architectures::MakeScriptedModel(*device, 1024, {.layers = kLayers, .layer_bytes = kSegment});
  EXPECT_TRUE(made);
  const double rate = kLayers * kSegment / copy_s;
  auto weights = residency_->Attach(
      "slow", "slow",
      MakeSimulatedBacking((*made)->segments(), {.warm_bytes_per_s = rate, .cold_bytes_per_s = rate}, clock));
  weights_.push_back(weights);
  const auto added = engine->AddModel("slow", std::move(*made), tokenizer, 0, Charge(), weights);
  EXPECT_TRUE(added);
  auto sink = std::make_shared<RecordingSink>();
  const Nanoseconds sent = clock.now();
  EXPECT_TRUE(engine->Submit(Request(*added, Prompt(30), 1, sink)));
  EXPECT_NE(sink->Wait().reason, FinishReason::kError) << sink->finish.error.message;
  const double first_token_s = static_cast<double>(clock.now() - sent) * 1e-9;
  EXPECT_GE(first_token_s, std::max(copy_s, prefill_s));  // that both took their time
  EXPECT_GE(policy_->landing_runs, 1);
  return first_token_s;
}

TEST_P(LandingTimeTest, TheFirstTokenComesAfterTheLongerOfCopyAndPrefill) {
  const auto [copy_s, prefill_s] = GetParam();
  const double longer_s = std::max(copy_s, prefill_s), goal_s = 1.2 * longer_s + longer_s / kLayers;
  double best_s = FirstTokenSeconds(copy_s, prefill_s);
  for (int tries = 1; tries < 4 && best_s > goal_s; ++tries) {
    TearDown();
    best_s = std::min(best_s, FirstTokenSeconds(copy_s, prefill_s));
  }
  EXPECT_LE(best_s, goal_s);
}
INSTANTIATE_TEST_SUITE_P(Both, LandingTimeTest,
                         ::testing::Values(std::pair{1.0, 1.0}, std::pair{1.2, 0.6}, std::pair{0.6, 1.2}));

TEST_F(LandingTest, ACancelDoesNotWaitForTheLoad) {
  StartLanding(kSegments * kSegment);
  const auto control = NewControl(/*permits=*/2);
  const ModelHandle model = AddStepped("slow", control);
  const FakeModel* const slow = fake;
  auto cancelled = std::make_shared<RecordingSink>(), kept = std::make_shared<RecordingSink>();
  const auto handle = engine->Submit(Request(model, Prompt(40, 1), 20, cancelled));
  ASSERT_TRUE(handle);
  AwaitLandingStep(slow);
  ASSERT_TRUE(engine->Submit(Request(model, Prompt(40, 2), 20, kept)));
  engine->Cancel(*handle);
  EXPECT_EQ(cancelled->Wait().reason, FinishReason::kCancelled);
  EXPECT_FALSE(weights_[0]->complete()) << "the load has not gone on meanwhile";
  EXPECT_FALSE(kept->finished());
  control->Permit(INT64_MAX);
  ExpectAnswer(*kept, Prompt(40, 2), 20);
  ExpectNothingHeld();
}

TEST_F(LandingTest, ALoadThatFailsUnderAStepLosesNoRequest) {
  StartLanding(2 * kSegments * kSegment);
  const auto control = NewControl(/*permits=*/4 * 2);  // two segments
  control->fail_at = 2;
  control->failure = Fail(ErrorKind::kUnavailable, "disk_trouble", "the disk is away");
  const ModelHandle bad = AddStepped("bad", control);
  const FakeModel* const bad_model = fake;
  const ModelHandle good = AddStepped("good", NewControl());
  auto to_bad = std::make_shared<RecordingSink>(), to_good = std::make_shared<RecordingSink>();
  std::atomic<int> failures{0};
  engine->OnLoadFailed([&](ModelHandle model, const Error&) {
    EXPECT_EQ(model, bad);
    ++failures;
  });
  ASSERT_TRUE(engine->Submit(Request(bad, Prompt(30, 4), 30, to_bad)));
  AwaitLandingStep(bad_model);
  control->Permit(INT64_MAX);
  ASSERT_TRUE(engine->Submit(Request(good, Prompt(30, 3), 200, to_good)));
  for (int i = 0; i < 20'000 && failures == 0; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(failures, 1);
  {
    const std::lock_guard lock(control->mutex);
    control->fail_at = -1;  // the disk is back: the next attempt, two seconds later, succeeds
  }
  ExpectAnswer(*to_good, Prompt(30, 3), 200);
  ExpectAnswer(*to_bad, Prompt(30, 4), 30);
  engine->OnLoadFailed(nullptr);
  ExpectNothingHeld();
}

TEST_F(LandingTest, ADamagedFileEndsItsOwnRequestsOnly) {
  StartLanding(2 * kSegments * kSegment);
  const auto control = NewControl(/*permits=*/4 * 2);  // two segments
  control->fail_at = 2;
  control->failure = Fail(ErrorKind::kCorrupt, "packed_file_damaged", "cut");
  const ModelHandle bad = AddStepped("bad", control);
  const FakeModel* const bad_model = fake;
  const ModelHandle good = AddStepped("good", NewControl());
  auto to_bad = std::make_shared<RecordingSink>(), to_good = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(bad, Prompt(30, 4), 30, to_bad)));
  AwaitLandingStep(bad_model);
  ASSERT_TRUE(engine->Submit(Request(good, Prompt(30, 3), 100, to_good)));
  control->Permit(INT64_MAX);
  EXPECT_EQ(to_bad->Wait().reason, FinishReason::kError);
  EXPECT_EQ(to_bad->finish.error.code, "packed_file_damaged");
  EXPECT_TRUE(to_bad->tokens.empty());
  ExpectAnswer(*to_good, Prompt(30, 3), 100);
  ExpectNothingHeld();
}

// A model that could compute is not kept waiting by one that cannot.
TEST_F(LandingTest, ARequestForAModelThatIsThereInterruptsTheWait) {
  StartLanding(2 * kSegments * kSegment);
  const ModelHandle there = AddStepped("there", NewControl());
  const auto control = NewControl(/*permits=*/1);
  const ModelHandle slow = AddStepped("slow", control);
  const FakeModel* const slow_model = fake;
  auto first = std::make_shared<RecordingSink>(), waits = std::make_shared<RecordingSink>(),
       passes = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(there, Prompt(10, 1), 5, first)));
  ExpectAnswer(*first, Prompt(10, 1), 5);
  ASSERT_TRUE(engine->Submit(Request(slow, Prompt(30, 2), 10, waits)));
  AwaitLandingStep(slow_model);
  ASSERT_TRUE(engine->Submit(Request(there, Prompt(30, 3), 40, passes)));
  ExpectAnswer(*passes, Prompt(30, 3), 40);
  EXPECT_FALSE(waits->finished());
  control->Permit(INT64_MAX);
  ExpectAnswer(*waits, Prompt(30, 2), 10);
  ExpectNothingHeld();
}

TEST_F(LandingTest, AModelMayBeRemovedWhileAStepWaitsForIt) {
  StartLanding(kSegments * kSegment);
  const ModelHandle model = AddStepped("slow", NewControl(/*permits=*/1));
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(model, Prompt(30), 10, sink)));
  AwaitLandingStep(fake);
  ASSERT_TRUE(engine->RemoveModel(model, /*force=*/true));
  fake = nullptr;
  EXPECT_EQ(sink->Wait().reason, FinishReason::kCancelled);
  ExpectNothingHeld();
}

TEST_F(LandingTest, TheEngineEndsWhileAStepWaits) {
  StartLanding(kSegments * kSegment);
  const ModelHandle model = AddStepped("slow", NewControl(/*permits=*/1));
  auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine->Submit(Request(model, Prompt(30), 10, sink)));
  AwaitLandingStep(fake);
  fake = nullptr;
  engine.reset();
  EXPECT_EQ(sink->finishes, 1);
  EXPECT_EQ(sink->finish.reason, FinishReason::kCancelled);
}

}  // namespace
}  // namespace tidepool::compute
