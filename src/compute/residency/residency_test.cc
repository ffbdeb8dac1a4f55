// The mover's bookkeeping over backings without files: order, cancellation, budgets, gates, and a long random
// life.
#include "compute/residency/residency.h"

#include <gmock/gmock.h>

#include <atomic>
#include <random>
#include <thread>

#include "compute/residency/residency_fixture.h"
#include "compute/residency/residency_metrics.h"

namespace tidepool::compute::testing {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using enum SegmentState;
constexpr uint64_t kMiB = 1 << 20;

class ResidencyTest : public ::testing::Test {
 protected:
  void Start(uint64_t limit, uint64_t warm, uint64_t chunk = kMiB) {
    ledger_ = std::make_unique<Ledger>(limit);
    residency_ = Residency::Start(*ledger_, clock_, {.warm_bytes = warm, .chunk_bytes = chunk});
  }
  struct Model {
    std::shared_ptr<SteppedBacking::Control> control;
    std::shared_ptr<ResidentWeights> weights;
  };
  Model Attach(const std::string& name, size_t segments, uint64_t bytes) {
    Model model;
    model.control = std::make_shared<SteppedBacking::Control>();
    model.weights = residency_->Attach(
        name, name, std::make_unique<SteppedBacking>(Segments(segments, bytes), model.control));
    return model;
  }
  uint64_t Weights() const { return ledger_->used_by(ChargeKind::kWeights); }

  SteadyClock clock_;
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<Residency> residency_;
};

TEST_F(ResidencyTest, LoadsInOrderChunkByChunkAndChargesTheModel) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 3, 2 * kMiB);
  EXPECT_EQ(a.weights->total_bytes(), 6 * kMiB);
  EXPECT_FALSE(a.weights->gate().Wait(0)) << "nothing is being loaded";
  const LoadReport report = LoadAndWait(*a.weights);
  EXPECT_EQ(Code(report.status), "ok");
  EXPECT_EQ(report.resident_bytes, 6 * kMiB);
  EXPECT_EQ(report.cold_bytes, 6 * kMiB);
  EXPECT_EQ(report.warm_bytes, 0u);
  EXPECT_TRUE(a.weights->complete());
  EXPECT_THAT(a.control->fetched, ElementsAre(std::pair(0, 0), std::pair(0, kMiB), std::pair(1, 0),
                                              std::pair(1, kMiB), std::pair(2, 0), std::pair(2, kMiB)));
  EXPECT_THAT(a.control->pinned, ElementsAre(0, 1, 2));
  const auto charges = ledger_->Snapshot();
  ASSERT_EQ(charges.size(), 1u);
  EXPECT_EQ(charges.at({"a", ChargeKind::kWeights}), 6 * kMiB);
  for (int32_t segment = 0; segment < 3; ++segment) EXPECT_TRUE(a.weights->gate().Wait(segment));
  EXPECT_GT(residency_->rates().cold_bytes_per_s, 0);
}

TEST_F(ResidencyTest, StepsBeginWhileLaterSegmentsLand) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 4, kMiB);
  a.control->Permit(1);
  std::promise<LoadReport> done;
  a.weights->Load([&](const LoadReport& report) { done.set_value(report); });
  EXPECT_TRUE(a.weights->gate().Wait(0));
  EXPECT_EQ(a.weights->landed_segments(), 1);
  EXPECT_EQ(a.weights->landed_bytes(), kMiB);
  a.control->AwaitChunk(2);
  EXPECT_THAT(a.weights->states(), ElementsAre(kResident, kLoading, kCold, kCold));
  EXPECT_EQ(Weights(), 2 * kMiB) << "the segment under way is charged before it lands";
  std::thread step([&] { EXPECT_TRUE(a.weights->gate().Wait(3)); });
  a.control->Permit(INT64_MAX);
  step.join();
  EXPECT_EQ(Code(done.get_future().get().status), "ok");
}

TEST_F(ResidencyTest, CancelInTheMiddleFreesWhatWasChargedAndTellsEverybody) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 4, 2 * kMiB);
  a.control->Permit(3);  // segment 0 and half of segment 1
  std::promise<LoadReport> first, second;
  a.weights->Load([&](const LoadReport& report) { first.set_value(report); });
  a.weights->Load([&](const LoadReport& report) { second.set_value(report); });
  a.control->AwaitChunk(4);
  std::atomic<bool> refused{false};
  std::thread step([&] { refused = !a.weights->gate().Wait(1); });
  a.weights->CancelLoad();
  EXPECT_EQ(Weights(), 2 * kMiB) << "at once: segment 0 has landed and stays, segment 1 is given back";
  step.join();
  EXPECT_TRUE(refused);
  EXPECT_EQ(Code(first.get_future().get().status), "load_cancelled");
  const LoadReport report = second.get_future().get();
  EXPECT_EQ(Code(report.status), "load_cancelled");
  EXPECT_EQ(report.resident_bytes, 2 * kMiB);
  residency_->WaitIdle();
  EXPECT_THAT(a.weights->states(), ElementsAre(kResident, kCold, kCold, kCold));
  EXPECT_THAT(a.control->dropped, ElementsAre(1)) << "half a segment does not stay in memory";
  a.control->Permit(INT64_MAX);
  const LoadReport again = LoadAndWait(*a.weights);
  EXPECT_EQ(Code(again.status), "ok");
  EXPECT_EQ(again.cold_bytes, 6 * kMiB);
}

TEST_F(ResidencyTest, TwoLoadsAtOnceAreOne) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 3, kMiB);
  a.control->Permit(0);
  std::atomic<int> told{0};
  std::promise<void> all;
  for (int i = 0; i < 5; ++i) {
    a.weights->Load([&](const LoadReport& report) {
      EXPECT_EQ(Code(report.status), "ok");
      if (++told == 5) all.set_value();
    });
  }
  a.control->Permit(INT64_MAX);
  all.get_future().wait();
  EXPECT_EQ(a.control->fetched.size(), 3u);
  EXPECT_EQ(residency_->Snapshot().at(0).loads, 1u);
  EXPECT_EQ(Code(LoadAndWait(*a.weights).status), "ok") << "a complete model is told at once";
  EXPECT_EQ(a.control->fetched.size(), 3u);
}

TEST_F(ResidencyTest, PartOfAModelMayBeLoaded) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 4, kMiB);
  EXPECT_EQ(LoadAndWait(*a.weights, 2).resident_bytes, 2 * kMiB);
  EXPECT_EQ(a.weights->landed_segments(), 2);
  EXPECT_EQ(LoadAndWait(*a.weights, 1).resident_bytes, 2 * kMiB);
  a.control->Permit(0);
  std::promise<LoadReport> three, four;
  a.weights->Load([&](const LoadReport& report) { four.set_value(report); });
  a.weights->Load([&](const LoadReport& report) { three.set_value(report); }, 3);
  a.control->Permit(1);
  EXPECT_EQ(three.get_future().get().resident_bytes, 3 * kMiB) << "told before the rest has landed";
  a.control->Permit(1);
  EXPECT_EQ(four.get_future().get().resident_bytes, 4 * kMiB);
}

TEST_F(ResidencyTest, ShortLedgerStopsTheLoadAndSaysWhatIsMissing) {
  Start(5 * kMiB, 0);
  Model a = Attach("a", 4, 2 * kMiB);
  EXPECT_EQ(LoadAndWait(*a.weights, 2).resident_bytes, 4 * kMiB);
  const LoadReport report = LoadAndWait(*a.weights);
  EXPECT_EQ(Code(report.status), "out_of_pool_memory");
  EXPECT_EQ(report.status.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(report.resident_bytes, 4 * kMiB);
  EXPECT_EQ(report.missing_bytes, 3 * kMiB);
  EXPECT_THAT(report.status.error().message, HasSubstr(std::to_string(3 * kMiB)));
  EXPECT_EQ(Weights(), 4 * kMiB) << "what landed stays";
  // A step would have waited for each layer that comes, in vain.
  Model b = Attach("b", 4, kMiB);
  EXPECT_EQ(LoadAndWait(*b.weights).resident_bytes, 0u) << "nothing of what does not fit whole is loaded";
  EXPECT_EQ(a.weights->Evict(1), 2 * kMiB);
  EXPECT_EQ(Weights(), 2 * kMiB);
  EXPECT_EQ(a.weights->landed_segments(), 1);
}

TEST_F(ResidencyTest, ALimitThatMovesUnderALoadIsALackOfRoom) {
  Start(4 * kMiB, 0);
  Model a = Attach("a", 2, kMiB);
  const std::jthread mover([&](const std::stop_token& done) {
    while (!done.stop_requested()) {
      ledger_->SetLimit(kMiB);
      ledger_->SetLimit(4 * kMiB);
    }
  });
  int loaded = 0, short_of_room = 0;
  for (int i = 0; i < 20'000; ++i) {
    const LoadReport report = LoadAndWait(*a.weights);
    if (report.status) {
      ++loaded;
    } else {
      ++short_of_room;
      ASSERT_EQ(Code(report.status), "out_of_pool_memory");
      ASSERT_GT(report.missing_bytes, 0u) << "looks as if the weights could not be read, at load " << i;
    }
    a.weights->Evict(2 * kMiB);
  }
  EXPECT_GT(loaded, 0);
  EXPECT_GT(short_of_room, 0);
}

TEST_F(ResidencyTest, FailureInTheMiddleOfALoadLeavesWhatLandedAndMayBeTriedAgain) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 4, kMiB);
  a.control->fail_at = 2;
  a.control->failure = Fail(ErrorKind::kCorrupt, "packed_file_damaged", "segment 2");
  const LoadReport report = LoadAndWait(*a.weights);
  EXPECT_EQ(Code(report.status), "packed_file_damaged");
  EXPECT_EQ(report.resident_bytes, 2 * kMiB);
  EXPECT_EQ(Weights(), 2 * kMiB);
  EXPECT_TRUE(a.weights->gate().Wait(1));
  EXPECT_FALSE(a.weights->gate().Wait(2));
  residency_->WaitIdle();
  EXPECT_EQ(residency_->Snapshot().at(0).failed_loads, 1u);
  {
    const std::lock_guard lock(a.control->mutex);
    a.control->fail_at = -1;
  }
  EXPECT_EQ(Code(LoadAndWait(*a.weights).status), "ok");
}

TEST_F(ResidencyTest, EvictionMakesTheLastSegmentsWarmAndASwitchBackMovesNothingFromDisk) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 4, 2 * kMiB);
  LoadAndWait(*a.weights);
  EXPECT_EQ(a.weights->Evict(3 * kMiB), 4 * kMiB);
  EXPECT_THAT(a.weights->states(), ElementsAre(kResident, kResident, kWarm, kWarm));
  EXPECT_EQ(Weights(), 4 * kMiB);
  EXPECT_EQ(residency_->warm_used(), 4 * kMiB);
  residency_->WaitIdle();
  EXPECT_THAT(a.control->unpinned, ElementsAre(2, 3));
  EXPECT_TRUE(a.control->dropped.empty());
  const LoadReport report = LoadAndWait(*a.weights);
  EXPECT_EQ(report.cold_bytes, 0u);
  EXPECT_EQ(report.warm_bytes, 4 * kMiB);
  EXPECT_EQ(residency_->warm_used(), 0u);
  EXPECT_EQ(a.weights->Evict(UINT64_MAX), 8 * kMiB);
  EXPECT_EQ(a.weights->Evict(1), 0u);
}

TEST_F(ResidencyTest, LeastRecentlyUsedWarmWeightsMakeRoom) {
  Start(100 * kMiB, 6 * kMiB);
  Model a = Attach("a", 2, 2 * kMiB), b = Attach("b", 2, 2 * kMiB), c = Attach("c", 2, 2 * kMiB);
  for (Model* model : {&a, &b, &c}) {
    LoadAndWait(*model->weights);
    model->weights->Evict(UINT64_MAX);
  }
  EXPECT_EQ(residency_->warm_used(), 6 * kMiB);
  EXPECT_THAT(a.weights->states(), ElementsAre(kCold, kCold)) << "the oldest gave first";
  EXPECT_THAT(b.weights->states(), ElementsAre(kWarm, kCold)) << "and then the last segments of the next";
  EXPECT_THAT(c.weights->states(), ElementsAre(kWarm, kWarm));
  b.weights->Touch();
  std::promise<uint64_t> warmed;
  a.weights->Warm([&](uint64_t bytes) { warmed.set_value(bytes); });
  EXPECT_EQ(warmed.get_future().get(), 4 * kMiB);
  EXPECT_THAT(a.weights->states(), ElementsAre(kWarm, kWarm));
  EXPECT_THAT(c.weights->states(), ElementsAre(kCold, kCold));
  EXPECT_THAT(b.weights->states(), ElementsAre(kWarm, kCold));
  residency_->SetWarmLimit(2 * kMiB);
  EXPECT_THAT(a.weights->states(), ElementsAre(kWarm, kCold));
  EXPECT_EQ(residency_->warm_used(), 2 * kMiB);
  residency_->WaitIdle();
  EXPECT_FALSE(b.control->in_memory[0]);
}

TEST_F(ResidencyTest, AModelLargerThanTheWarmBudgetKeepsItsFirstSegments) {
  Start(100 * kMiB, 5 * kMiB);
  Model a = Attach("a", 4, 2 * kMiB);
  LoadAndWait(*a.weights);
  a.weights->Evict(2 * kMiB);
  EXPECT_THAT(a.weights->states(), ElementsAre(kResident, kResident, kResident, kWarm));
  a.weights->Evict(UINT64_MAX);
  EXPECT_THAT(a.weights->states(), ElementsAre(kWarm, kWarm, kCold, kCold));
  std::promise<uint64_t> warmed;
  a.weights->Warm([&](uint64_t bytes) { warmed.set_value(bytes); });
  EXPECT_EQ(warmed.get_future().get(), 4 * kMiB) << "does not push itself out";
}

TEST_F(ResidencyTest, LoadsComeBeforePrefetchesAndInTheOrderAsked) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 2, kMiB), b = Attach("b", 2, kMiB), c = Attach("c", 3, kMiB);
  c.control->Permit(0);
  std::vector<std::string> order;
  std::promise<void> warm;
  c.weights->Warm([&](uint64_t) {
    order.push_back("c");
    warm.set_value();
  });
  c.control->AwaitChunk(1);
  a.weights->Load([&](const LoadReport&) { order.push_back("a"); });
  b.weights->Load([&](const LoadReport&) { order.push_back("b"); });
  c.control->Permit(INT64_MAX);
  warm.get_future().wait();
  residency_->WaitIdle();
  EXPECT_THAT(order, ElementsAre("a", "b", "c"));
}

TEST_F(ResidencyTest, ALoadTakesOverFromThePrefetchOfItsModel) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 3, 2 * kMiB);
  a.control->Permit(3);
  std::promise<uint64_t> warm;
  a.weights->Warm([&](uint64_t bytes) { warm.set_value(bytes); });
  a.control->AwaitChunk(4);
  std::promise<LoadReport> load;
  a.weights->Load([&](const LoadReport& report) { load.set_value(report); });
  a.control->Permit(INT64_MAX);
  EXPECT_EQ(warm.get_future().get(), 2 * kMiB);
  const LoadReport report = load.get_future().get();
  EXPECT_EQ(report.warm_bytes, 2 * kMiB);
  EXPECT_EQ(report.cold_bytes, 4 * kMiB);
  EXPECT_EQ(residency_->warm_used(), 0u);
}

TEST_F(ResidencyTest, EvictingAModelThatLoadsCancelsIt) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 3, kMiB);
  a.control->Permit(1);
  std::promise<LoadReport> load;
  a.weights->Load([&](const LoadReport& report) { load.set_value(report); });
  a.control->AwaitChunk(2);
  EXPECT_EQ(a.weights->Evict(UINT64_MAX), kMiB);
  EXPECT_EQ(Weights(), 0u);
  EXPECT_EQ(Code(load.get_future().get().status), "load_cancelled");
}

TEST_F(ResidencyTest, OneKeyIsOneSetOfWeights) {
  Start(100 * kMiB, 0);
  Model a = Attach("a", 2, kMiB);
  const auto alias = residency_->Attach(
      "alias", "a",
      std::make_unique<SteppedBacking>(Segments(2, kMiB), std::make_shared<SteppedBacking::Control>()));
  EXPECT_EQ(alias, a.weights);
  LoadAndWait(*alias);
  EXPECT_EQ(Weights(), 2 * kMiB);
  a.weights.reset();
  EXPECT_EQ(Weights(), 2 * kMiB) << "an alias is left";
}

TEST_F(ResidencyTest, LettingGoGivesEverythingBack) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 4, kMiB);
  LoadAndWait(*a.weights);
  a.weights->Evict(2 * kMiB);
  std::promise<LoadReport> load;
  a.control->Permit(0);
  a.weights->Load([&](const LoadReport& report) { load.set_value(report); });
  a.weights.reset();
  EXPECT_EQ(Code(load.get_future().get().status), "load_cancelled");
  EXPECT_EQ(Weights(), 0u);
  EXPECT_EQ(residency_->warm_used(), 0u);
  residency_->WaitIdle();
  for (size_t i = 0; i < 4; ++i) EXPECT_FALSE(a.control->in_memory[i]) << i;
  EXPECT_TRUE(residency_->Snapshot().empty());
}

TEST_F(ResidencyTest, HandlesOutliveTheResidency) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 2, kMiB), b = Attach("b", 2, kMiB);
  LoadAndWait(*a.weights);
  b.control->Permit(0);
  std::promise<LoadReport> load;
  b.weights->Load([&](const LoadReport& report) { load.set_value(report); });
  residency_.reset();
  EXPECT_EQ(Code(load.get_future().get().status), "load_cancelled");
  EXPECT_EQ(Weights(), 0u);
  ledger_.reset();
  EXPECT_EQ(a.weights->Evict(1), 0u);
  EXPECT_EQ(Code(LoadAndWait(*a.weights).status), "load_cancelled");
  EXPECT_FALSE(a.weights->gate().Wait(0));
}

TEST_F(ResidencyTest, WhatIsInMemoryAlreadyIsWarmAsFarAsTheBudgetGoes) {
  Start(100 * kMiB, 3 * kMiB);
  auto control = std::make_shared<SteppedBacking::Control>();
  for (size_t i = 0; i < 3; ++i) control->in_memory[i] = true;
  const auto weights =
      residency_->Attach("a", "a", std::make_unique<SteppedBacking>(Segments(4, 2 * kMiB), control));
  EXPECT_THAT(weights->states(), ElementsAre(kWarm, kCold, kCold, kCold));
  residency_->WaitIdle();
  EXPECT_TRUE(control->in_memory[0]);
  EXPECT_FALSE(control->in_memory[1]);
  EXPECT_FALSE(control->in_memory[2]);
}

// What the next process finds in memory is what it need not read.
TEST_F(ResidencyTest, AtTheEndNothingIsTakenOutOfMemory) {
  Start(100 * kMiB, kMiB);
  Model a = Attach("a", 3, kMiB);
  LoadAndWait(*a.weights);
  residency_->LeaveInMemory();
  a.weights.reset();
  residency_->WaitIdle();
  EXPECT_EQ(Weights(), 0u);
  EXPECT_THAT(a.control->unpinned, ElementsAre(0, 1, 2));
  EXPECT_TRUE(a.control->dropped.empty());
  for (size_t i = 0; i < 3; ++i) EXPECT_TRUE(a.control->in_memory[i]) << i;
}

TEST_F(ResidencyTest, WarmingChecksWhatIsInMemoryAlready) {
  Start(100 * kMiB, 3 * kMiB);
  auto control = std::make_shared<SteppedBacking::Control>();
  for (size_t i = 0; i < 3; ++i) control->in_memory[i] = control->unchecked[i] = true;
  control->unchecked[1] = false;
  const auto weights =
      residency_->Attach("a", "a", std::make_unique<SteppedBacking>(Segments(4, kMiB), control));
  std::promise<uint64_t> warm;
  weights->Warm([&](uint64_t bytes) { warm.set_value(bytes); });
  EXPECT_EQ(warm.get_future().get(), 3 * kMiB) << "no room for the last one";
  EXPECT_THAT(control->fetched, ElementsAre(std::pair(0, 0), std::pair(2, 0)));
  EXPECT_THAT(weights->states(), ElementsAre(kWarm, kWarm, kWarm, kCold));
  EXPECT_FALSE(control->unchecked[0] || control->unchecked[2]);
}

// A segment that loses its place while it is being checked is cold, not warm.
TEST_F(ResidencyTest, WarmRoomTakenWhileCheckingStaysTaken) {
  Start(100 * kMiB, 2 * kMiB);
  auto control = std::make_shared<SteppedBacking::Control>();
  control->in_memory[0] = control->unchecked[0] = true;
  control->permits = 0;
  const auto weights =
      residency_->Attach("a", "a", std::make_unique<SteppedBacking>(Segments(1, kMiB), control));
  std::promise<uint64_t> warm;
  weights->Warm([&](uint64_t bytes) { warm.set_value(bytes); });
  control->AwaitChunk(1);
  residency_->SetWarmLimit(0);
  control->Permit(INT64_MAX);
  EXPECT_EQ(warm.get_future().get(), 0u);
  residency_->WaitIdle();
  EXPECT_THAT(weights->states(), ElementsAre(kCold));
  EXPECT_EQ(residency_->warm_used(), 0u);
  EXPECT_FALSE(control->in_memory[0]);
}

TEST_F(ResidencyTest, ACallbackMayCallBack) {
  Start(100 * kMiB, 100 * kMiB);
  Model a = Attach("a", 2, kMiB), b = Attach("b", 2, kMiB);
  std::promise<LoadReport> done;
  a.weights->Load([&](const LoadReport&) {
    a.weights->Evict(UINT64_MAX);
    b.weights->Load([&](const LoadReport& report) { done.set_value(report); });
  });
  EXPECT_EQ(Code(done.get_future().get().status), "ok");
}

// ---- simulated backing -------------------------------------------------------------------------------

TEST_F(ResidencyTest, SimulatedWeightsTakeTheirModelledTime) {
  ManualClock clock;
  Ledger ledger(100 * kMiB);
  const auto residency = Residency::Start(ledger, clock, {.warm_bytes = 100 * kMiB, .chunk_bytes = kMiB});
  // 1 MiB/s cold, 4 MiB/s warm: 4 s, then 1 s.
  const auto weights = residency->Attach(
      "a", "a",
      MakeSimulatedBacking(Segments(4, kMiB),
                           {.warm_bytes_per_s = 4.0 * kMiB, .cold_bytes_per_s = 1.0 * kMiB}, clock));
  const auto load = [&] {
    std::promise<LoadReport> promise;
    auto future = promise.get_future();
    weights->Load([&](const LoadReport& report) { promise.set_value(report); });
    while (future.wait_for(std::chrono::microseconds(200)) != std::future_status::ready)
      clock.Advance(kMillisecond);
    return future.get();
  };
  EXPECT_NEAR(load().seconds, 4, 0.5);
  EXPECT_NEAR(residency->rates().cold_bytes_per_s / kMiB, 1, 0.2);
  weights->Evict(UINT64_MAX);
  EXPECT_EQ(weights->counts().warm, 4 * kMiB);
  const LoadReport warm = load();
  EXPECT_NEAR(warm.seconds, 1, 0.2);
  EXPECT_EQ(warm.warm_bytes, 4 * kMiB);
  weights->Evict(UINT64_MAX);
  EXPECT_NEAR(weights->EstimateLoadSeconds(), 1, 0.3);
  residency->SetWarmLimit(0);
  EXPECT_NEAR(weights->EstimateLoadSeconds(), 4, 1);
}

TEST_F(ResidencyTest, SimulatedFailure) {
  Start(100 * kMiB, 0);
  const auto weights =
      residency_->Attach("a", "a", MakeSimulatedBacking(Segments(4, kMiB), {.fail_at_segment = 2}, clock_));
  EXPECT_EQ(Code(LoadAndWait(*weights).status), "packed_file_damaged");
  EXPECT_EQ(weights->landed_segments(), 2);
}

// ---- metrics -----------------------------------------------------------------------------------------

TEST_F(ResidencyTest, MetricsFollow) {
  Start(100 * kMiB, 100 * kMiB);
  MetricsRegistry registry;
  ResidencyMetrics metrics(*residency_, registry);
  Model a = Attach("a", 4, kMiB);
  LoadAndWait(*a.weights);
  a.weights->Evict(kMiB);
  metrics.Update();
  const std::string text = registry.Serialize();
  EXPECT_THAT(text, HasSubstr("tidepool_weights_bytes{model=\"a\",state=\"resident\"} 3145728"));
  EXPECT_THAT(text, HasSubstr("tidepool_weights_bytes{model=\"a\",state=\"warm\"} 1048576"));
  EXPECT_THAT(text, HasSubstr("tidepool_weight_loads_total{model=\"a\",result=\"ok\"} 1"));
  EXPECT_THAT(text, HasSubstr("tidepool_weight_bytes_moved_total{model=\"a\",source=\"disk\"} 4194304"));
  EXPECT_THAT(text, HasSubstr("tidepool_warm_limit_bytes 104857600"));
  a.weights.reset();
  metrics.Update();
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_weights_bytes{model=\"a\",state=\"resident\"} 0"));
}

// ---- a long life ---------------------------------------------------------------------------------------

// Random calls from several threads. At every moment: sums agree, budgets hold, resident segments are the
// first ones.
TEST_F(ResidencyTest, BooksBalanceThroughARandomLife) {
  constexpr int kModels = 8, kCalls = 4000;
  constexpr uint64_t kLimit = 20 * 4096, kWarm = 12 * 4096;
  Start(kLimit, kWarm, 4096);
  std::vector<Model> models;
  for (int i = 0; i < kModels; ++i) models.push_back(Attach("m" + std::to_string(i), 5, 2 * 4096));
  std::atomic<int> asked{0}, told{0};
  const auto live = [&](unsigned seed) {
    std::mt19937 random(seed);
    for (int i = 0; i < kCalls; ++i) {
      Model& model = models[random() % kModels];
      switch (random() % 8) {
        case 0:
        case 1:
        case 2:
          ++asked;
          model.weights->Load([&](const LoadReport&) { ++told; }, static_cast<int32_t>(random() % 7) - 1);
          break;
        case 3: model.weights->CancelLoad(); break;
        case 4:
        case 5: model.weights->Evict(random() % (6 * 4096)); break;
        case 6:
          ++asked;
          model.weights->Warm([&](uint64_t) { ++told; });
          break;
        default:
          if (model.weights->loading()) model.weights->gate().Wait(static_cast<int32_t>(random() % 5));
      }
      EXPECT_LE(residency_->warm_used(), kWarm);
      EXPECT_LE(Weights(), kLimit);
    }
  };
  std::thread one(live, 1), two(live, 2), three(live, 3);
  one.join();
  two.join();
  three.join();
  residency_->WaitIdle();
  EXPECT_EQ(asked, told);
  uint64_t resident = 0, warm = 0;
  for (Model& model : models) {
    const std::vector<SegmentState> states = model.weights->states();
    for (size_t i = 0; i < states.size(); ++i) {
      EXPECT_NE(states[i], kLoading);
      EXPECT_EQ(states[i] == kResident, static_cast<int32_t>(i) < model.weights->landed_segments());
      EXPECT_EQ(model.control->in_memory[i], states[i] != kCold) << "memory follows the books";
    }
    const ResidencyCounts counts = model.weights->counts();
    EXPECT_EQ(counts.resident, model.weights->landed_bytes());
    resident += counts.resident;
    warm += counts.warm;
  }
  EXPECT_EQ(resident, Weights());
  EXPECT_EQ(warm, residency_->warm_used());
  models.clear();
  EXPECT_EQ(Weights(), 0u);
  EXPECT_EQ(residency_->warm_used(), 0u);
}

}  // namespace
}  // namespace tidepool::compute::testing
