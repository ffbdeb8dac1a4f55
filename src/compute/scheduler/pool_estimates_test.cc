// What is learned from steps and loads, and what they are charged: the account that every policy keeps,
// driven by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "compute/scheduler/pool_state.h"
#include "compute/scheduler/pool_world.h"

namespace tidepool::compute::pool {
namespace {

constexpr uint64_t kBlock = 1 << 20;

class Bookkeeping final : public PoolState {
 public:
  Bookkeeping() : PoolState({}) {}
  std::string_view name() const override { return "bookkeeping"; }
  void Decide(Nanoseconds, std::vector<Effect>&) override {}
  void PlaceJob(Job& job, Nanoseconds now) override { Assign(job, *devices_.front(), now); }
  void Load(PoolJobId job, Nanoseconds now) {
    std::vector<Effect> effects;
    EmitLoad(*FindJob(job)->replica, 4, Reason::kUrgent, now, effects);
  }
  void Evict() {
    std::vector<Effect> effects;
    Replica& replica = ReplicaOf(ModelOf(1), *devices_.front());
    if (replica.landed > 0) EmitEvict(replica, 0, Reason::kIdle, effects);
  }
  double copy_rate() const { return devices_.front()->copy_rate; }
  double LoadTime() { return LoadSeconds(ModelOf(1), *devices_.front()); }
  void StandStill(Nanoseconds now) { CheckRates(*devices_.front(), now, true, false); }
  double Served(PoolJobId job) const { return FindJob(job)->account->service_s; }
  // A step of the first model as if it had been planned: `decodes` sequences with `context` tokens each, and
  // a chunk of `prefill`.
  void Step(int32_t decodes, int32_t context, int32_t prefill, double seconds, int32_t guessed = 0,
            double pause = 0) {
    Device& device = *devices_.front();
    device.plan = PoolPlan();
    device.plan.model = 1;
    device.plan.decodes = decodes;
    for (int32_t i = 0; i < decodes; ++i)
      device.plan.sequences.push_back({.job = 1000, .begin = context, .count = 1, .logit_rows = 1});
    if (prefill > 0) device.plan.sequences.push_back({.job = 1001, .begin = 0, .count = prefill});
    device.busy = true;
    device.running = &ReplicaOf(ModelOf(1), device);
    device.beyond_plan = guessed;
    now_ += static_cast<Nanoseconds>((seconds + pause) * 1e9);
    StepDone(0, 1, static_cast<Nanoseconds>(seconds * 1e9), now_);
  }
  double pace() const { return devices_.front()->pace; }
  // A step that took `passed_s` and cost its accounts `charged_s`.
  void Charge(double passed_s, double charged_s, bool refuses) {
    Device& device = *devices_.front();
    now_ += static_cast<Nanoseconds>(passed_s * 1e9);
    if (refuses) device.refused_at = now_;
    device.step_charged_s = charged_s;
    LearnCharge(device, passed_s, now_);
  }
  double charge() const { return devices_.front()->charge; }
  double Predict(int32_t decodes, int32_t context, int32_t prefill) {
    return ProfileOf(ModelOf(1), *devices_.front())
        .StepSeconds(prefill, static_cast<double>(prefill) * prefill, static_cast<double>(decodes) * context,
                     decodes);
  }

 private:
  Nanoseconds now_ = 0;
};

// A guess that is wrong by part: decoding alone takes twice as long as guessed, a further sequence half as
// long.
TEST(LearnedPaceTest, PartsOfAStepAreLearnedOneByOne) {
  Bookkeeping pool;
  pool.AddHost({});
  pool.AddDevice({.host = 0, .arena_bytes = 8 * kTestSegment});
  PoolModel model = TestModel(1, 4, kBlock);
  model.profiles = {{.prefill_base_s = 0.004,
                     .prefill_per_token_s = 0.0005,
                     .decode_base_s = 0.004,
                     .decode_per_context_token_s = 1e-6,
                     .decode_per_sequence_s = 0.0006}};
  pool.AddModel(model);
  const StepProfile truth{.prefill_base_s = 0.006,
                          .prefill_per_token_s = 0.0007,
                          .decode_base_s = 0.008,
                          .decode_per_context_token_s = 3e-6,
                          .decode_per_sequence_s = 0.0003};
  const auto seconds = [&](int32_t decodes, int32_t context, int32_t prefill) {
    return truth.StepSeconds(prefill, 0, static_cast<double>(decodes) * context, decodes);
  };
  std::mt19937_64 random(3);
  for (int i = 0; i < 2000; ++i) {
    const auto decodes = static_cast<int32_t>(random() % 17), context = static_cast<int32_t>(random() % 600);
    const int32_t prefill = decodes == 0 || random() % 4 == 0 ? 16 + static_cast<int32_t>(random() % 240) : 0;
    pool.Step(decodes, context, prefill,
              seconds(decodes, context, prefill) * (0.9 + 0.2 * static_cast<double>(random() % 101) / 100));
  }
  for (const int32_t decodes : {1, 4, 16}) {
    EXPECT_NEAR(pool.Predict(decodes, 300, 0) / seconds(decodes, 300, 0), 1, 0.08) << decodes;
  }
  EXPECT_NEAR(pool.Predict(0, 0, 256) / seconds(0, 0, 256), 1, 0.08);
  EXPECT_NEAR(pool.Predict(8, 100, 128) / seconds(8, 100, 128), 1, 0.08);
}

class UnknownDeviceTest : public ::testing::Test {
 protected:
  UnknownDeviceTest() {
    pool_.AddHost({});
    pool_.AddDevice({.host = 0, .arena_bytes = 8 * kTestSegment});
    PoolModel model = TestModel(1, 4, kBlock);
    model.profiles = {{.prefill_base_s = 0.004, .prefill_per_token_s = 0.0005, .decode_base_s = 0.004}};
    pool_.AddModel(model);
  }
  Bookkeeping pool_;
};

// What is promised in the first seconds counts on it.
TEST_F(UnknownDeviceTest, AFewStepsCorrectAGuessThatIsWrongByHalf) {
  const double seconds = 0.006 + 256 * 0.00075;
  for (int i = 0; i < 4; ++i) pool_.Step(0, 0, 256, seconds);
  EXPECT_GT(pool_.Predict(0, 0, 256), 0.9 * seconds);
  EXPECT_LT(pool_.Predict(0, 0, 256), 1.02 * seconds);
}

TEST_F(UnknownDeviceTest, AStepWithGuessedTokensSaysNothingOfOthers) {
  const double before = pool_.Predict(1, 100, 0);
  for (int i = 0; i < 20; ++i) pool_.Step(1, 100, 0, 0.016, /*guessed=*/7);
  EXPECT_EQ(pool_.Predict(1, 100, 0), before);
}

TEST_F(UnknownDeviceTest, IsTakenForSlowerUntilItHasRunAndPausesCountAsLongAsTheyLast) {
  EXPECT_EQ(pool_.pace(), kUnknownPace);
  for (int i = 0; i < 20'000; ++i) pool_.Step(4, 100, 0, 0.004);
  EXPECT_NEAR(pool_.pace(), 1, 0.005);
  for (int i = 0; i < 2'000; ++i) pool_.Step(4, 100, 0, 0.004, 0, /*pause=*/0.001);
  EXPECT_NEAR(pool_.pace(), 1.25, 0.03) << "after eight seconds, by the short view";
  for (int i = 0; i < 20'000; ++i) pool_.Step(4, 100, 0, 0.004);
  EXPECT_NEAR(pool_.pace(), 1, 0.01);
}

// Loads teach what the bus carries: of weights that were in host memory, each a tenth of the way; and what is
// expected of a load follows.
TEST(LearnedChargeTest, FollowsWhatADeviceServesWhileItRefuses) {
  Bookkeeping pool;
  pool.AddHost({});
  pool.AddDevice({.host = 0, .arena_bytes = 8 * kTestSegment});
  const auto pass = [&](double seconds, double charged, bool refuses) {
    for (double t = 0; t < seconds; t += 0.1) pool.Charge(0.1, 0.1 * charged, refuses);
  };
  EXPECT_EQ(pool.charge(), 1);
  pass(60, 0.1, false);
  EXPECT_EQ(pool.charge(), 1) << "an idle device's small batches say nothing";
  pass(300, 0.9, true);
  EXPECT_NEAR(pool.charge(), 1 / 0.9, 0.01);
  pass(5, 0.9, false);
  EXPECT_GT(pool.charge(), 1.05) << "not forgotten at once";
  pass(100, 1.1, true);
  EXPECT_EQ(pool.charge(), 1) << "full batches cost what is charged, or less";
  pass(100, 0.3, true);
  EXPECT_EQ(pool.charge(), 1.2) << "at most";
  pass(600, 0.3, false);
  EXPECT_NEAR(pool.charge(), 1, 0.01);
}

TEST(LearnedCopyRateTest, FollowsTheLoadsThatWereMeasured) {
  Bookkeeping pool;
  pool.AddHost({.load_bytes_per_s = 1e9});
  pool.AddDevice({.host = 0, .arena_bytes = 8 * kTestSegment, .copy_bytes_per_s = 20e9});
  PoolModel model = TestModel(1, 4, kBlock);
  model.warm_hosts = {0};
  pool.AddModel(model);
  pool.Arrive({.job = 1, .model = 1, .account = "a", .prompt_tokens = 10}, 0);
  const double bytes = 4.0 * kTestSegment;
  EXPECT_EQ(pool.copy_rate(), 20e9);
  EXPECT_NEAR(pool.LoadTime(), bytes / 20e9, 1e-9);
  Nanoseconds now = kSecond;
  const auto load = [&](double rate) {
    pool.Evict();
    pool.Load(1, now);
    now += std::llround(bytes / rate * 1e9);
    pool.LoadDone(0, 1, now);
  };
  load(10e9);
  EXPECT_NEAR(pool.copy_rate(), 19e9, 1e6);
  load(10e9);
  EXPECT_NEAR(pool.copy_rate(), 18.1e9, 1e6);
  for (int i = 0; i < 100; ++i) load(10e9);
  EXPECT_NEAR(pool.copy_rate(), 10e9, 1e7);
  pool.Evict();
  EXPECT_NEAR(pool.LoadTime(), bytes / 10e9, 1e-3 * bytes / 10e9);
  // A load from the store says nothing of the bus.
  pool.Warmed(0, 1, false);
  pool.Load(1, now);
  pool.LoadDone(0, 1, now + std::llround(bytes / 1e9 * 1e9));
  EXPECT_NEAR(pool.copy_rate(), 10e9, 1e7);
}

TEST(SwitchTest, IsChargedToTheAccountsOfItsModelAsFarAsTheDeviceStoodStill) {
  Bookkeeping pool;
  pool.AddHost({});
  pool.AddDevice({.host = 0, .arena_bytes = 8 * kTestSegment});
  for (PoolModelId model : {1, 2}) pool.AddModel(TestModel(model, 4, kBlock));
  pool.Arrive({.job = 1, .model = 1, .account = "a", .prompt_tokens = 10}, 0);
  pool.Arrive({.job = 2, .model = 1, .account = "b", .prompt_tokens = 10}, 0);
  pool.Arrive({.job = 3, .model = 2, .account = "c", .prompt_tokens = 10}, 0);
  pool.Load(1, kSecond);
  pool.StandStill(3 * kSecond);  // until then it had something else to do
  pool.LoadDone(0, 1, 5 * kSecond);
  EXPECT_NEAR(pool.Served(1), 1, 1e-9);
  EXPECT_NEAR(pool.Served(2), 1, 1e-9);
  EXPECT_EQ(pool.Served(3), 0);
  pool.Load(3, 5 * kSecond);
  pool.LoadDone(0, 2, 6 * kSecond);
  EXPECT_EQ(pool.Served(3), 0) << "it worked meanwhile";
}

}  // namespace
}  // namespace tidepool::compute::pool
