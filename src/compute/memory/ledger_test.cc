#include "compute/memory/ledger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "compute/memory/ledger_metrics.h"

namespace tidepool::compute {
namespace {

using ::testing::HasSubstr;

uint64_t Sum(const Ledger& ledger) {
  uint64_t sum = 0;
  for (const auto& [key, bytes] : ledger.Snapshot()) sum += bytes;
  return sum;
}

TEST(LedgerTest, TakesUpToTheLimitAndGivesBack) {
  Ledger ledger(1000);
  auto weights = ledger.Take("a", ChargeKind::kWeights, 600);
  ASSERT_TRUE(weights);
  auto kv = ledger.Take("a", ChargeKind::kKv, 400);
  ASSERT_TRUE(kv);
  EXPECT_EQ(ledger.free(), 0u);
  EXPECT_EQ(ledger.used_by(ChargeKind::kKv), 400u);
  EXPECT_FALSE(ledger.Take("b", ChargeKind::kKv, 1));
  kv->Release();
  EXPECT_EQ(kv->bytes(), 0u);
  EXPECT_EQ(ledger.used(), 600u);
  {
    Charge moved = std::move(*weights);
    EXPECT_EQ(moved.bytes(), 600u);
    EXPECT_EQ(ledger.used(), 600u);
  }
  EXPECT_EQ(ledger.used(), 0u);
  EXPECT_TRUE(ledger.Snapshot().empty());
}

TEST(LedgerTest, RefusalNamesTheNumbers) {
  Ledger ledger(1000);
  auto weights = ledger.Take("qwen3", ChargeKind::kWeights, 900);
  const auto refused = ledger.Take("llama", ChargeKind::kKv, 200);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(refused.error().code, "out_of_pool_memory");
  for (const char* part : {"llama", "200", "900", "1000", "qwen3 (weights)"}) {
    EXPECT_THAT(refused.error().message, HasSubstr(part));
  }
}

TEST(LedgerTest, HugeRequestDoesNotOverflow) {
  Ledger ledger(1000);
  auto first = ledger.Take("a", ChargeKind::kKv, 1);
  EXPECT_FALSE(ledger.Take("a", ChargeKind::kKv, UINT64_MAX));
  EXPECT_EQ(ledger.used(), 1u);
}

TEST(LedgerTest, MoveAssignmentReturnsWhatWasHeld) {
  Ledger ledger(1000);
  auto a = ledger.Take("a", ChargeKind::kKv, 300);
  auto b = ledger.Take("b", ChargeKind::kState, 500);
  *a = std::move(*b);
  EXPECT_EQ(ledger.used(), 500u);
  EXPECT_EQ(ledger.used_by(ChargeKind::kKv), 0u);
}

TEST(LedgerTest, AsksTheReclaimerForWhatIsMissing) {
  Ledger ledger(1000);
  auto cache = ledger.Take("cache", ChargeKind::kKv, 700);
  uint64_t asked = 0;
  ledger.SetReclaimer([&](uint64_t missing) {
    asked += missing;
    cache->Release();
  });
  EXPECT_FALSE(ledger.TryTake("weights", ChargeKind::kWeights, 500));
  EXPECT_EQ(asked, 0u);
  EXPECT_TRUE(ledger.Take("weights", ChargeKind::kWeights, 500));
  EXPECT_EQ(asked, 200u);
  EXPECT_FALSE(ledger.Take("weights", ChargeKind::kWeights, 1001))
      << "can never fit: the cache is left alone";
  EXPECT_EQ(asked, 200u);
  ledger.SetReclaimer(nullptr);
}

// The engine refuses requests by this number while it charges KV itself: it must not move with KV.
TEST(LedgerTest, WhatIsNotKvDoesNotMoveWhileKvIsCharged) {
  Ledger ledger(1000);
  auto weights = ledger.Take("a", ChargeKind::kWeights, 100);
  ASSERT_TRUE(weights);
  std::atomic<bool> stop{false};
  std::thread engine([&] {
    while (!stop) {
      auto kv = ledger.TryTake("a", ChargeKind::kKv, 500);
      EXPECT_TRUE(kv);
    }
  });
  int moved = 0;
  for (int i = 0; i < 100'000; ++i) moved += ledger.used_besides(ChargeKind::kKv) != 100;
  stop = true;
  engine.join();
  EXPECT_EQ(moved, 0);
}

TEST(LedgerTest, ALimitBelowWhatIsUsedDrains) {
  Ledger ledger(1000);
  auto a = ledger.Take("a", ChargeKind::kWeights, 600);
  auto b = ledger.Take("b", ChargeKind::kKv, 300);
  EXPECT_EQ(ledger.SetLimit(500), 400u);
  EXPECT_EQ(ledger.over_limit_bytes(), 400u);
  EXPECT_EQ(ledger.used(), 900u) << "nothing is taken from anybody";
  EXPECT_EQ(ledger.free(), 0u);
  EXPECT_EQ(ledger.room_besides(ChargeKind::kKv), 0u) << "weights alone are over";
  EXPECT_FALSE(ledger.TryTake("c", ChargeKind::kKv, 1));
  EXPECT_TRUE(ledger.TryTake("c", ChargeKind::kKv, 0));
  b->Release();
  EXPECT_EQ(ledger.over_limit_bytes(), 100u);
  EXPECT_FALSE(ledger.TryTake("c", ChargeKind::kKv, 1));
  a->Release();
  EXPECT_EQ(ledger.over_limit_bytes(), 0u);
  EXPECT_FALSE(ledger.TryTake("c", ChargeKind::kKv, 501));
  auto c = ledger.TryTake("c", ChargeKind::kKv, 500);
  ASSERT_TRUE(c);
  EXPECT_EQ(ledger.SetLimit(2000), 0u);
  EXPECT_EQ(ledger.free(), 1500u);
  EXPECT_EQ(ledger.room_besides(ChargeKind::kWeights), 1500u);
  EXPECT_EQ(ledger.room_besides(ChargeKind::kKv), 2000u);
}

TEST(LedgerTest, TheReclaimerIsAskedForWhatIsOverToo) {
  Ledger ledger(1000);
  auto cache = ledger.Take("cache", ChargeKind::kKv, 700);
  auto weights = ledger.Take("weights", ChargeKind::kWeights, 200);
  ledger.SetLimit(600);
  uint64_t asked = 0;
  ledger.SetReclaimer([&](uint64_t missing) {
    asked += missing;
    cache->Release();
  });
  EXPECT_TRUE(ledger.Take("more", ChargeKind::kWeights, 100));
  EXPECT_EQ(asked, 400u) << "900 used and 100 wanted, of 600";
  ledger.SetReclaimer(nullptr);
}

TEST(LedgerTest, TheReserveIsFreeForOthersAndGoesFirst) {
  Ledger ledger(1000);
  auto reserve = ledger.TryTake("reserve", ChargeKind::kReserve, 400);
  auto weights = ledger.TryTake("a", ChargeKind::kWeights, 300);
  ASSERT_TRUE(reserve && weights);
  EXPECT_EQ(ledger.used(), 700u);
  EXPECT_EQ(ledger.free(), 700u);
  EXPECT_EQ(ledger.unused(), 300u);
  EXPECT_FALSE(ledger.TryTake("a", ChargeKind::kKv, 500)) << "nobody gives the reserve up";
  std::vector<uint64_t> asked;
  ledger.SetReserve([&](uint64_t missing) {
    asked.push_back(missing);
    reserve->Release(missing);
  });
  uint64_t reclaimed = 0;
  ledger.SetReclaimer([&](uint64_t missing) { reclaimed += missing; });
  EXPECT_FALSE(ledger.TryTake("reserve", ChargeKind::kReserve, 301)) << "it does not take from itself";
  EXPECT_TRUE(asked.empty());
  auto kv = ledger.TryTake("a", ChargeKind::kKv, 500);
  ASSERT_TRUE(kv);
  EXPECT_EQ(asked, std::vector<uint64_t>{200});
  const auto refused = ledger.Take("b", ChargeKind::kKv, 250);
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().message, HasSubstr("800 of the pool's 1000"))
      << "the reserve is in nobody's way";
  EXPECT_EQ(reclaimed, 50u) << "200 are the reserve's";
  EXPECT_EQ(ledger.SetLimit(850), 0u);
  EXPECT_EQ(reserve->bytes(), 50u);
  EXPECT_EQ(Sum(ledger), ledger.used());
  ledger.SetReclaimer(nullptr);
  ledger.SetReserve(nullptr);
}

TEST(LedgerTest, ChargesChangeOwnersWithoutATake) {
  Ledger ledger(1000);
  auto reserve = ledger.TryTake("reserve", ChargeKind::kReserve, 400);
  ASSERT_TRUE(reserve);
  ledger.SetLimit(100);
  const uint64_t changes = ledger.changes();
  Charge part = reserve->Split("a", ChargeKind::kKv, 150);
  EXPECT_GT(ledger.changes(), changes);
  EXPECT_EQ(part.bytes(), 150u);
  EXPECT_EQ(reserve->bytes(), 250u);
  EXPECT_EQ(ledger.used(), 400u);
  EXPECT_EQ(ledger.used_by(ChargeKind::kKv), 150u);
  EXPECT_EQ(ledger.Snapshot().at({"a", ChargeKind::kKv}), 150u);
  part.Release(50);
  EXPECT_EQ(ledger.used(), 350u);
  reserve->Merge(std::move(part));
  EXPECT_EQ(reserve->bytes(), 350u);
  EXPECT_EQ(ledger.used_by(ChargeKind::kReserve), 350u);
  EXPECT_EQ(Sum(ledger), ledger.used());
  reserve->Release();
  EXPECT_TRUE(ledger.Snapshot().empty());
}

// Each thread sees used() only fall while the limit is below it, and never above the highest limit.
TEST(LedgerTest, LimitsChangeUnderThreads) {
  Ledger ledger(10'000);
  std::atomic<bool> stop{false}, over{false};
  std::thread limiter([&] {
    std::mt19937 random(5);
    while (!stop) ledger.SetLimit(random() % 10'001);
  });
  auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Charge> held;
    for (int i = 0; i < 20'000; ++i) {
      if (held.size() < 8 && random() % 2 == 0) {
        auto charge = ledger.Take("m", ChargeKind::kKv, random() % 2000);
        if (charge) held.push_back(std::move(*charge));
      } else if (!held.empty()) {
        held.pop_back();
      }
      if (ledger.used() > 10'000) over = true;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 2; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  stop = true;
  limiter.join();
  EXPECT_FALSE(over);
  EXPECT_EQ(ledger.used(), 0u);
  ledger.SetLimit(10'000);
  EXPECT_TRUE(ledger.Take("m", ChargeKind::kKv, 10'000));
}

TEST(LedgerTest, InvariantHoldsUnderThreads) {
  Ledger ledger(10'000);
  std::atomic<bool> over{false};
  auto work = [&](unsigned seed) {
    std::mt19937 random(seed);
    std::vector<Charge> held;
    for (int i = 0; i < 5000; ++i) {
      if (held.size() < 8 && random() % 2 == 0) {
        auto charge = ledger.Take("m" + std::to_string(random() % 3),
                                  static_cast<ChargeKind>(random() % kChargeKinds), random() % 2000);
        if (charge) held.push_back(std::move(*charge));
      } else if (!held.empty()) {
        held.erase(held.begin() + static_cast<ptrdiff_t>(random() % held.size()));
      }
      if (ledger.used() > ledger.limit() || Sum(ledger) > ledger.limit()) over = true;
    }
  };
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < 4; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_FALSE(over);
  EXPECT_EQ(ledger.used(), 0u);
  EXPECT_TRUE(ledger.Snapshot().empty());
}

TEST(LedgerMetricsTest, ExportsOwnersAndKinds) {
  MetricsRegistry registry;
  Ledger ledger(1000);
  LedgerMetrics metrics(ledger, registry);
  auto charge = ledger.Take("qwen3", ChargeKind::kKv, 250);
  metrics.Update();
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_pool_bytes{kind=\"kv\",owner=\"qwen3\"} 250"));
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_pool_used_bytes 250"));
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_pool_limit_bytes 1000"));
  ledger.SetLimit(700);
  charge->Release();
  metrics.Update();
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_pool_limit_bytes 700"));
  EXPECT_THAT(registry.Serialize(), HasSubstr("tidepool_pool_bytes{kind=\"kv\",owner=\"qwen3\"} 0"));
}

}  // namespace
}  // namespace tidepool::compute
