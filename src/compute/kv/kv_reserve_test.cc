// Oracles: the ledger's own sums for charges, mincore(2) for pages that are there, and bytes that are read
// back.
#include "compute/kv/kv_reserve.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>

#include "compute/kv/block_pool.h"

namespace tidepool::compute {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kPage = KvReserve::kPageBytes;

int64_t ResidentPages(const std::byte* data, uint64_t bytes) {
  std::vector<unsigned char> pages(bytes / kPage);
  EXPECT_EQ(mincore(const_cast<std::byte*>(data), bytes, pages.data()), 0);
  return std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return (page & 1) != 0; });
}

bool AllZero(const std::byte* data, uint64_t bytes) {
  return std::all_of(data, data + bytes, [](std::byte b) { return b == std::byte{0}; });
}

class KvReserveTest : public ::testing::Test {
 protected:
  // In pages. Filled only by hand; no rest unless told.
  KvReserve& Make(uint64_t limit, uint64_t ready, Nanoseconds rest = 0, uint64_t chunk = 16) {
    reserve_.reset();
    ledger_ = std::make_unique<Ledger>(limit * kPage);
    reserve_ = std::make_unique<KvReserve>(*device_, *ledger_,
                                           KvReserveOptions{.ready_bytes = ready * kPage,
                                                            .chunk_bytes = chunk * kPage,
                                                            .quantum_bytes = 2 * kPage,
                                                            .rest = rest,
                                                            .thread = false,
                                                            .metrics = &metrics_});
    reserve_->AddUser();
    return *reserve_;
  }
  void TearDown() override {
    if (reserve_ == nullptr) return;
    reserve_->RemoveUser();
    reserve_->CheckInvariants();
    reserve_.reset();
    EXPECT_EQ(ledger_->used(), 0u);
  }
  void FillAll() {
    while (reserve_->Fill()) reserve_->CheckInvariants();
    reserve_->CheckInvariants();
  }
  uint64_t Reserved() const { return ledger_->used_by(ChargeKind::kReserve) / kPage; }

  MetricsRegistry metrics_;
  std::unique_ptr<chips::SimulatedDevice> device_ = chips::MakeSimulatedDevice({});
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<KvReserve> reserve_;
};

TEST_F(KvReserveTest, FillsToItsBoundAndEveryPageIsThereAndCharged) {
  KvReserve& reserve = Make(100, 24);
  EXPECT_EQ(Reserved(), 0u);
  FillAll();
  EXPECT_EQ(reserve.stats().ready_bytes, 24 * kPage);
  EXPECT_EQ(reserve.stats().charged_bytes, 24 * kPage);
  EXPECT_EQ(Reserved(), 24u);
  EXPECT_EQ(ledger_->free(), 100 * kPage) << "who needs it has it";
  EXPECT_EQ(ledger_->unused(), 76 * kPage);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("tidepool_pool_kv_ready_bytes 98304"));

  auto region = reserve.Take("m", 3 * kPage, 1, 4);
  ASSERT_TRUE(region);
  EXPECT_EQ(region->bytes, 12 * kPage);
  EXPECT_EQ(ResidentPages(region->data, region->bytes), 12);
  EXPECT_TRUE(AllZero(region->data, region->bytes));
  // The oracle itself: memory that nobody touched is not there.
  auto fresh = device_->Allocate(12 * kPage);
  ASSERT_TRUE(fresh);
  EXPECT_EQ(ResidentPages(fresh->data(), 12 * kPage), 0);
  EXPECT_EQ(ledger_->Snapshot().at({"m", ChargeKind::kKv}), 12 * kPage);
  EXPECT_EQ(Reserved(), 12u);
  EXPECT_EQ(ledger_->used(), 24 * kPage);
  EXPECT_THAT(metrics_.Serialize(), HasSubstr("tidepool_pool_kv_ready_taken_bytes_total 49152"));
  FillAll();
  EXPECT_EQ(Reserved(), 24u) << "below the low-water mark it is filled again";
  reserve.Return(std::move(*region));
}

TEST_F(KvReserveTest, ALittleMissingIsNotFilled) {
  KvReserve& reserve = Make(100, 24);
  FillAll();
  auto region = reserve.Take("m", kPage, 1, 5);
  ASSERT_TRUE(region);
  EXPECT_FALSE(reserve.Fill());
  auto more = reserve.Take("m", kPage, 1, 1);
  ASSERT_TRUE(more);
  EXPECT_TRUE(reserve.Fill());
  reserve.Return(std::move(*region));
  reserve.Return(std::move(*more));
}

TEST_F(KvReserveTest, HoldsAtMostHalfOfWhatIsFree) {
  Make(40, 24);
  FillAll();
  EXPECT_EQ(Reserved(), 20u);
  auto weights = ledger_->Take("m", ChargeKind::kWeights, 16 * kPage);
  ASSERT_TRUE(weights);
  EXPECT_EQ(Reserved(), 20u) << "there was room";
  FillAll();
  EXPECT_EQ(Reserved(), 20u) << "what is there stays until it is needed";
  weights->Release();
}

TEST_F(KvReserveTest, WhoIsShortGetsItAtOnce) {
  KvReserve& reserve = Make(40, 20);
  FillAll();
  auto region = reserve.Take("m", kPage, 4, 4);
  ASSERT_TRUE(region);
  // The reclaimer holds caches: it is asked only for what the reserve cannot give.
  auto cache = ledger_->TryTake("cache", ChargeKind::kKv, 10 * kPage);
  ASSERT_TRUE(cache);
  uint64_t asked = 0;
  ledger_->SetReclaimer([&](uint64_t missing) {
    asked += missing;
    cache->Release();
  });
  ASSERT_EQ(Reserved(), 16u);
  auto weights = ledger_->Take("m", ChargeKind::kWeights, 14 * kPage);
  ASSERT_TRUE(weights);
  EXPECT_EQ(asked, 0u);
  EXPECT_EQ(Reserved(), 12u);
  EXPECT_EQ(reserve.stats().given_up_total, 4 * kPage);
  EXPECT_EQ(ledger_->used(), ledger_->limit());
  auto more = ledger_->Take("m", ChargeKind::kWeights, 15 * kPage);
  ASSERT_TRUE(more);
  EXPECT_EQ(asked, 3 * kPage) << "12 of 15 come from the reserve";
  EXPECT_LE(ledger_->used(), ledger_->limit());
  const auto refused = ledger_->TryTake("m", ChargeKind::kWeights, 8 * kPage);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "out_of_pool_memory");
  reserve.CheckInvariants();
  ledger_->SetReclaimer(nullptr);
  reserve.Return(std::move(*region));
}

TEST_F(KvReserveTest, WhatIsGivenUpIsGone) {
  KvReserve& reserve = Make(100, 16);
  FillAll();
  auto region = reserve.Take("m", kPage, 4, 4);  // keeps the chunk mapped
  ASSERT_TRUE(region);
  const std::byte* rest = region->data + region->bytes;
  EXPECT_EQ(ResidentPages(rest, 12 * kPage), 12);
  EXPECT_EQ(reserve.GiveUp(5 * kPage), 6 * kPage) << "whole quanta";
  EXPECT_EQ(ResidentPages(rest, 12 * kPage), 6);
  EXPECT_EQ(ResidentPages(region->data, region->bytes), 4);
  EXPECT_EQ(reserve.GiveUp(UINT64_MAX), 6 * kPage);
  EXPECT_EQ(ResidentPages(rest, 12 * kPage), 0);
  EXPECT_EQ(Reserved(), 0u);
  EXPECT_EQ(reserve.GiveUp(1), 0u);
  reserve.Return(std::move(*region));
}

TEST_F(KvReserveTest, ALowerLimitTakesItFirst) {
  Make(60, 20);
  auto weights = ledger_->Take("m", ChargeKind::kWeights, 20 * kPage);
  ASSERT_TRUE(weights);
  FillAll();
  ASSERT_EQ(Reserved(), 20u);
  EXPECT_EQ(ledger_->SetLimit(30 * kPage), 0u);
  EXPECT_EQ(Reserved(), 10u);
  EXPECT_EQ(ledger_->SetLimit(15 * kPage), 5 * kPage) << "the rest is the weights'";
  EXPECT_EQ(Reserved(), 0u);
  FillAll();
  EXPECT_EQ(Reserved(), 0u);
  weights->Release();
}

TEST_F(KvReserveTest, WhatComesBackIsClearedFirst) {
  KvReserve& reserve = Make(100, 12);
  FillAll();
  auto region = reserve.Take("m", kPage, 12, 12);
  ASSERT_TRUE(region);
  std::memset(region->data, 0x5a, region->bytes);
  reserve.Return(std::move(*region));
  EXPECT_EQ(Reserved(), 12u);
  EXPECT_EQ(ledger_->used_by(ChargeKind::kKv), 0u);
  EXPECT_EQ(reserve.stats().dirty_bytes, 12 * kPage);
  EXPECT_FALSE(reserve.Take("other", kPage, 1, 1)) << "another model must not see it";
  FillAll();
  region = reserve.Take("other", kPage, 12, 12);
  ASSERT_TRUE(region);
  EXPECT_TRUE(AllZero(region->data, region->bytes));
  reserve.Return(std::move(*region));

  // So is memory that did not come from here.
  EXPECT_EQ(reserve.GiveUp(UINT64_MAX), 12 * kPage);
  auto charge = ledger_->Take("m", ChargeKind::kKv, 6 * kPage);
  auto memory = device_->Allocate(6 * kPage);
  ASSERT_TRUE(charge && memory);
  std::memset(memory->data(), 0x5a, 6 * kPage);
  const std::byte* const data = memory->data();
  reserve.Return(std::move(*memory), std::move(*charge));
  EXPECT_EQ(Reserved(), 6u);
  FillAll();
  region = reserve.Take("m", kPage, 6, 6);
  ASSERT_TRUE(region);
  EXPECT_EQ(region->data, data) << "the shortest that fits";
  EXPECT_TRUE(AllZero(region->data, region->bytes));
  reserve.Return(std::move(*region));
}

TEST_F(KvReserveTest, WhatIsTooMuchGoesBackToTheLedger) {
  KvReserve& reserve = Make(100, 12);
  FillAll();
  auto region = reserve.Take("m", kPage, 10, 10);
  ASSERT_TRUE(region);
  FillAll();
  ASSERT_EQ(Reserved(), 12u);
  reserve.Return(std::move(*region));
  EXPECT_EQ(Reserved(), 12u);
  EXPECT_EQ(ledger_->used(), 12 * kPage);
  auto charge = ledger_->Take("m", ChargeKind::kKv, 100);
  auto memory = device_->Allocate(100);
  ASSERT_TRUE(charge && memory);
  reserve.Return(std::move(*memory), std::move(*charge));
  EXPECT_EQ(ledger_->used(), 12 * kPage) << "part of a page is not kept";
}

TEST_F(KvReserveTest, RestsAfterAShortage) {
  KvReserve& reserve = Make(100, 16, 3600 * kSecond);
  FillAll();
  auto region = reserve.Take("m", kPage, 8, 8);
  ASSERT_TRUE(region);
  EXPECT_GT(reserve.GiveUp(kPage), 0u);
  EXPECT_FALSE(reserve.Fill());
  const uint64_t before = Reserved();
  reserve.Return(std::move(*region));
  EXPECT_EQ(Reserved(), before) << "nothing is kept either";
}

TEST_F(KvReserveTest, TheLastUserLeavesNothing) {
  KvReserve& reserve = Make(100, 16);
  reserve.AddUser();
  FillAll();
  reserve.RemoveUser();
  EXPECT_EQ(Reserved(), 16u);
  reserve.RemoveUser();
  EXPECT_EQ(Reserved(), 0u);
  EXPECT_EQ(reserve.stats().chunks, 0);
  EXPECT_FALSE(reserve.Fill());
  reserve.AddUser();
}

TEST_F(KvReserveTest, OffHoldsNothing) {
  KvReserve& reserve = Make(100, 0);
  EXPECT_FALSE(reserve.Fill());
  EXPECT_FALSE(reserve.Take("m", kPage, 1, 1));
  EXPECT_EQ(ledger_->used(), 0u);
}

TEST_F(KvReserveTest, RestsBetweenSlabsOfOtherSizesDoNotClogIt) {
  KvReserve& reserve = Make(1000, 16, 0, 16);
  FillAll();
  // Slabs of 5 pages leave a page at the end of a chunk of 16.
  std::vector<KvRegion> held;
  for (int i = 0; i < 48; ++i) {
    while (auto region = reserve.Take("m", 5 * kPage, 1, 1)) held.push_back(std::move(*region));
    FillAll();
  }
  ASSERT_GT(held.size(), 48u);
  auto region = reserve.Take("m", 5 * kPage, 1, 1);
  EXPECT_TRUE(region) << "not only crumbs are ready";
  if (region) held.push_back(std::move(*region));
  for (KvRegion& back : held) reserve.Return(std::move(back));
  FillAll();
}

// All that can happen has happened, more than once.
bool Met(const KvReserve& reserve) {
  const KvReserveStats stats = reserve.stats();
  return stats.taken_total > 2000 * kPage && stats.returned_total > 1000 * kPage &&
         stats.given_up_total > 1000 * kPage;
}

TEST(KvReserveThreadsTest, ItsOwnThreadFillsIt) {
  const auto device = chips::MakeSimulatedDevice({});
  Ledger ledger(1000 * kPage);
  const SteadyClock clock;
  KvReserve reserve(*device, ledger, {.ready_bytes = 64 * kPage, .chunk_bytes = 64 * kPage});
  for (int round = 0; round < 2; ++round) {
    reserve.AddUser();
    const Nanoseconds deadline = clock.now() + 60 * kSecond;  // of a crowded machine
    while (reserve.stats().ready_bytes < 64 * kPage && clock.now() < deadline) std::this_thread::yield();
    EXPECT_EQ(reserve.stats().ready_bytes, 64 * kPage);
    reserve.RemoveUser();
    EXPECT_EQ(ledger.used(), 0u);
  }
}

// An engine that takes and returns, a loader that takes weights from it in the middle of its filling.
TEST(KvReserveThreadsTest, SumsAndLimitHold) {
  constexpr uint64_t kLimit = 4096 * kPage;
  const auto device = chips::MakeSimulatedDevice({});
  Ledger ledger(kLimit);
  std::atomic<bool> over{false}, dirty{false}, stop{false};
  {
    KvReserve reserve(*device, ledger,
                      {.ready_bytes = 1024 * kPage,
                       .chunk_bytes = 256 * kPage,
                       .quantum_bytes = 16 * kPage,
                       .rest = 0,
                       .thread = false});
    std::thread filler([&] {  // not at the lowest priority: it must meet the others
      while (!stop) {
        if (!reserve.Fill()) std::this_thread::yield();
      }
    });
    std::thread engine([&] {
      std::mt19937 random(1);
      reserve.AddUser();
      std::vector<KvRegion> held;
      const SteadyClock clock;
      const Nanoseconds deadline = clock.now() + 20 * kSecond;
      for (int i = 0; i < 20'000 || (!Met(reserve) && clock.now() < deadline); ++i) {
        if (held.size() < 8 && random() % 2 == 0) {
          auto region = reserve.Take("m", (1 + random() % 40) * kPage, 1, 1 + random() % 4);
          if (!region) continue;
          if (region->data[0] != std::byte{0} || region->data[region->bytes - 1] != std::byte{0})
            dirty = true;
          region->data[0] = region->data[region->bytes - 1] = std::byte{0x5a};
          held.push_back(std::move(*region));
        } else if (!held.empty()) {
          reserve.Return(std::move(held.back()));
          held.pop_back();
        }
        if (i % 64 == 0) reserve.CheckInvariants();
        if (i % 5000 == 4999) {
          for (KvRegion& region : held) reserve.Return(std::move(region));
          held.clear();
          reserve.RemoveUser();
          reserve.AddUser();
        }
      }
      for (KvRegion& region : held) reserve.Return(std::move(region));
      reserve.RemoveUser();
    });
    std::thread loader([&] {
      std::mt19937 random(2);
      std::vector<Charge> held;
      while (!stop) {
        if (held.size() < 6 && random() % 2 == 0) {
          const uint64_t bytes = random() % (kLimit / 2);
          const uint64_t free = ledger.free();
          auto charge = ledger.TryTake("w", ChargeKind::kWeights, bytes);
          // Nobody else takes what is free, and pools hold at most 8 slabs of 160 pages.
          if (!charge && bytes + 2 * 8 * 160 * kPage <= free) over = true;
          if (charge) held.push_back(std::move(*charge));
        } else if (!held.empty()) {
          held.pop_back();
        }
        if (ledger.used() > kLimit) over = true;
      }
    });
    engine.join();
    stop = true;
    loader.join();
    filler.join();
    reserve.CheckInvariants();
    EXPECT_TRUE(Met(reserve));
  }
  EXPECT_FALSE(over);
  EXPECT_FALSE(dirty);
  EXPECT_EQ(ledger.used(), 0u);
  EXPECT_TRUE(ledger.Snapshot().empty());
}

// ---- with pools ----------------------------------------------------------------------------------------

class PoolWithReserveTest : public KvReserveTest {
 protected:
  static constexpr size_t kBlock = 3 * kPage / 2;
  std::unique_ptr<BlockPool> MakePool(const std::string& owner, size_t block_bytes = kBlock) {
    return std::make_unique<BlockPool>(*device_, *ledger_,
                                       BlockPoolOptions{.owner = owner,
                                                        .block_bytes = block_bytes,
                                                        .slab_bytes = 4 * block_bytes,
                                                        .reserve = reserve_.get()});
  }
  static std::vector<int32_t> Tokens(int32_t count) {
    std::vector<int32_t> tokens(static_cast<size_t>(count));
    std::iota(tokens.begin(), tokens.end(), 0);
    return tokens;
  }
};

TEST_F(PoolWithReserveTest, SlabsTakeWhatIsReadyAndTheRestFresh) {
  Make(200, 32, 0, 32);
  FillAll();
  auto pool = MakePool("m");
  KvSequence sequence;
  const auto tokens = Tokens(16 * 30);  // 30 blocks in slabs of 4, which are 6 pages: 5 slabs are ready
  ASSERT_TRUE(pool->Admit({.prompt = tokens, .max_tokens = 16 * 30, .workspace = "w"}, sequence));
  pool->CheckInvariants(std::vector<const KvSequence*>{&sequence});
  EXPECT_EQ(pool->stats().slabs, 8);
  EXPECT_EQ(pool->stats().total, 30);
  EXPECT_EQ(reserve_->stats().taken_bytes, 30 * kPage);
  EXPECT_EQ(reserve_->stats().fresh_total, 10 * kBlock);
  pool->Extend(sequence, 16 * 30);
  for (std::byte* block : sequence.table()) std::memset(block, 0x5a, kBlock);
  pool->Commit(sequence, tokens);
  pool->Release(sequence);
  EXPECT_EQ(pool->Shrink(UINT64_MAX), 30 * kBlock);
  EXPECT_EQ(ledger_->used_by(ChargeKind::kKv), 0u);
  EXPECT_EQ(Reserved(), 29u)
      << "whole slabs of 6 and 3 pages are kept up to its bound, 32, beside the 2 left";
  FillAll();

  auto other = MakePool("other", 2 * kPage);
  ASSERT_TRUE(other->Admit({.prompt = tokens, .max_tokens = 16 * 30, .workspace = "w"}, sequence));
  other->Extend(sequence, 16 * 30);
  for (std::byte* block : sequence.table()) EXPECT_TRUE(AllZero(block, 2 * kPage));
  other->Release(sequence);
}

TEST_F(PoolWithReserveTest, AShortageOfOneModelTakesItBeforeTheCacheOfAnother) {
  Make(64, 16);
  auto pool = MakePool("m", kPage);
  KvSequence sequence;
  const auto tokens = Tokens(16 * 16);
  ASSERT_TRUE(pool->Admit({.prompt = tokens, .max_tokens = 16 * 16, .workspace = "w"}, sequence));
  pool->Extend(sequence, 16 * 16);
  pool->Commit(sequence, tokens);
  pool->Release(sequence);
  ASSERT_EQ(pool->stats().cached, 16);
  FillAll();
  ASSERT_EQ(Reserved(), 16u);
  auto other = MakePool("other", kPage);
  KvSequence big;
  const auto many = Tokens(16 * 44);
  // 48 pages are free, 16 of them ready, 32 unused: all 44 blocks are had without the cache.
  ASSERT_TRUE(other->Admit({.prompt = many, .max_tokens = 16 * 44, .workspace = "w"}, big));
  EXPECT_EQ(pool->stats().cached, 16);
  EXPECT_LE(ledger_->used(), ledger_->limit());
  EXPECT_EQ(ledger_->used_by(ChargeKind::kKv), 60 * kPage);
  other->Release(big);
}

}  // namespace
}  // namespace tidepool::compute
