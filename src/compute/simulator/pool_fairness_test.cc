// A noisy account may not move another account's p99 TTFT by more than 20 % against a run in which it sends
// exactly its share. A refused request counts as one that never began.
#include <gtest/gtest.h>

#include "compute/simulator/fairness_fixture.h"

namespace tidepool::compute {
namespace {

// The noisy one is the last sender; `share` is what it may send, `noise` times that is what it does send.
void ExpectUnmoved(const char* name, const SimConfig& config, std::vector<Sender> senders, double noise,
                   uint64_t runs = 3) {
  const Seen calm = Watch(config, senders, 1, runs);
  senders.back().per_s *= noise;
  const Seen noisy = Watch(config, senders, 1, runs);
  std::printf(
      "%-36s p50 %.3f -> %.3f s, p99 %.3f -> %.3f s (x%.2f), refused %.3f -> %.3f, on time %.3f -> %.3f\n",
      name, calm.p50_s, noisy.p50_s, calm.p99_s, noisy.p99_s, noisy.p99_s / calm.p99_s, calm.refused,
      noisy.refused, calm.on_time, noisy.on_time);
  EXPECT_GT(calm.requests, 200u);
  EXPECT_LE(noisy.p99_s, 1.2 * calm.p99_s) << name;
  EXPECT_EQ(noisy.refused, 0) << "an account within its share is not refused for what others send";
}

// One device decodes 64 sequences at 100 ms / token easily; the share of two senders here is half of what
// keeps it busy: about 9 requests/s of 275 tokens (15 ms prefill, 64 x 275 tokens at 15 ms a step).
TEST(PoolFairnessTest, OneModelShared) {
  ExpectUnmoved("one model, x10", Pool(1, 1, 70), {{1, 3, {0}}, {2, 5, {0}}}, 10);
}
TEST(PoolFairnessTest, ManySmallAccountsAndANoisyOne) {
  std::vector<Sender> senders;
  for (int32_t account = 1; account <= 6; ++account) senders.push_back({account, 0.8, {0}});
  senders.push_back({7, 1.5, {0}});
  ExpectUnmoved("seven accounts, x20", Pool(1, 1, 70), senders, 20);
}
TEST(PoolFairnessTest, DifferentModelsThatAreResident) {
  ExpectUnmoved("two resident models, x10", Pool(1, 2, 70), {{1, 3, {0}}, {2, 5, {1}}}, 10);
}
TEST(PoolFairnessTest, DifferentModelsThatSwitch) {
  ExpectUnmoved("six models in room for four, x10", Pool(1, 6, 70), {{1, 2, {0, 1, 2}}, {2, 4, {3, 4, 5}}},
                10);
}
TEST(PoolFairnessTest, SeveralDevices) {
  ExpectUnmoved("20 models on four devices, x10", Pool(4, 20, 70),
                {{1, 8, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}, {2, 16, {10, 11, 12, 13, 14, 15, 16, 17, 18, 19}}},
                10);
}
TEST(PoolFairnessTest, SharedModelsOnSeveralDevices) {
  std::vector<int32_t> all(12);
  for (int32_t i = 0; i < 12; ++i) all[static_cast<size_t>(i)] = i;
  ExpectUnmoved("12 shared models on two devices, x10", Pool(2, 12, 70), {{1, 4, all}, {2, 8, all}}, 10);
}

// Four models of 0.6B in memory for three, on two cores: what bench/noisy_account.py does on the real pool,
// also while the calm ones leave some of the device idle. Batches stay small, so that accounts, who are
// charged what tokens cost in full ones, would together be promised more than the device serves
// (Device::charge); and the noisy one's answers, all of them on time, would keep a request of the other
// waiting for as long as that is on time too (TidepoolScheduler::AheadSeconds).
void ExpectUnmovedOnAProcessor(const char* name, const SimConfig& config, double per_s) {
  ExpectUnmoved(name, config, {{1, 0.4 * per_s, {0, 1}, 256, 64}, {2, 0.5 * per_s, {2, 3}, 256, 64}}, 8, 20);
}
TEST(PoolFairnessTest, SmallModelsOnAProcessor) {
  const StepProfile zen5{7e-3, 0.8e-3, 0, 7e-3, 2.9e-6, 0.5e-3};
  for (const double per_s : {2.0, 2.25, 2.5}) {
    ExpectUnmovedOnAProcessor("small models on a processor, x8", Processor(zen5, 1), per_s);
    ExpectUnmovedOnAProcessor("the same, little room for KV, x8", Processor(zen5, 0.64), per_s);
  }
}
// Both accounts use both models, which fit in beside each other and KV of 8, 13 or 27 requests: KV of the
// noisy one's would take the room of weights that the other waits for (TidepoolScheduler::WantedWithinShare).
TEST(PoolFairnessTest, SharedSmallModelsOnAProcessor) {
  const StepProfile zen5{7e-3, 0.8e-3, 0, 7e-3, 2.9e-6, 0.5e-3};
  for (const auto& [kv_gb, per_s] : {std::pair(0.3, 2.0), {0.3, 2.5}, {0.5, 2.0}, {0.5, 2.5}, {1.0, 2.5}}) {
    SimConfig config = Processor(zen5, kv_gb);
    config.models.resize(2);
    config.kinds[0].arena_bytes -= config.models[0].weight_bytes;
    ExpectUnmoved("two small models shared, x8", config,
                  {{1, 0.4 * per_s, {0, 1}, 256, 64}, {2, 0.5 * per_s, {0, 1}, 256, 64}}, 8, 20);
  }
}
TEST(PoolFairnessTest, SmallModelsOnASlowProcessor) {
  const StepProfile xeon{12e-3, 1.7e-3, 0, 18e-3, 4.3e-6, 2.5e-3};
  for (const double per_s : {0.5, 0.6, 0.7}) {
    ExpectUnmovedOnAProcessor("on a slower one, x8", Processor(xeon, 0.64), per_s);
  }
}

}  // namespace
}  // namespace tidepool::compute
