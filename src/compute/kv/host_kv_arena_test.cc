#include "compute/kv/host_kv_arena.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace tidepool::compute {
namespace {

using Blocks = std::vector<HostKvArena::Block*>;

HostKvArenaOptions Options(uint64_t limit, uint64_t slab, Ledger* ledger = nullptr) {
  return {.limit_bytes = limit, .slab_bytes = slab, .ledger = ledger, .allocate = {}};
}

TEST(HostKvArenaTest, NeighboursLieSideBySideAndEmptySlabsGoBack) {
  Ledger ledger(1 << 20);
  HostKvArena arena(Options(8192, 4096, &ledger));
  const Blocks blocks = arena.Allocate(512, 8).value();
  for (size_t i = 1; i < 8; ++i) EXPECT_EQ(arena.data(blocks[i]), arena.data(blocks[i - 1]) + 512);
  EXPECT_EQ(arena.stats().moving_bytes, 4096u);
  EXPECT_EQ(ledger.used(), 4096u);
  EXPECT_EQ((ledger.Snapshot().at({"kv_arena", ChargeKind::kKv})), 4096u);
  arena.Settle(blocks);
  EXPECT_EQ(arena.stats().used_bytes, 4096u);
  arena.Free(blocks);
  EXPECT_EQ(arena.stats().slabs, 0);
  EXPECT_EQ(ledger.used(), 0u);
}

TEST(HostKvArenaTest, AllOrNothing) {
  HostKvArena arena(Options(10'000, 4096));
  EXPECT_FALSE(arena.HasRoom(1000, 11));
  EXPECT_TRUE(arena.HasRoom(1000, 10));
  EXPECT_FALSE(arena.Allocate(1000, 11));
  EXPECT_EQ(arena.stats().bytes, 0u);
  EXPECT_EQ(arena.stats().refusals, 1u);
  const auto ten = arena.Allocate(1000, 10);
  ASSERT_TRUE(ten) << "two slabs of four and one of what is left";
  EXPECT_EQ(arena.stats().slabs, 3);
  EXPECT_FALSE(arena.Allocate(1, 1));
  arena.Free(*ten);
}

TEST(HostKvArenaTest, BlocksAreMovedTogetherToMakeRoomForAnotherSize) {
  HostKvArena arena(Options(4 * 4096, 4096));
  const Blocks blocks = arena.Allocate(512, 32).value();
  for (size_t i = 0; i < blocks.size(); ++i) {
    std::memset(arena.data(blocks[i]), static_cast<int>(i + 1), 512);
  }
  arena.Settle(blocks);
  // Three quarters of each slab become free: 12 KiB that no other size could have.
  Blocks freed, kept;
  for (size_t i = 0; i < blocks.size(); ++i) (i % 4 == 0 ? kept : freed).push_back(blocks[i]);
  arena.Free(freed);
  EXPECT_EQ(arena.stats().free_bytes, 3 * 4096u);
  const auto other = arena.Allocate(2048, 6);
  ASSERT_TRUE(other);
  EXPECT_EQ(arena.stats().slabs, 4);
  EXPECT_EQ(arena.stats().compacted_bytes, 6 * 512u);
  for (size_t i = 0; i < kept.size(); ++i) {
    const std::byte* data = arena.data(kept[i]);
    for (size_t at = 0; at < 512; ++at) ASSERT_EQ(data[at], static_cast<std::byte>(4 * i + 1)) << i;
  }
  arena.Free(kept);
  arena.Free(*other);
}

TEST(HostKvArenaTest, WhatMovesStaysWhereItIs) {
  HostKvArena arena(Options(2 * 4096, 4096));
  const Blocks first = arena.Allocate(512, 8).value();
  const Blocks second = arena.Allocate(512, 8).value();
  arena.Free(std::span(first).subspan(1));
  arena.Free(std::span(second).subspan(1));
  const std::byte* const a = arena.data(first[0]);
  const std::byte* const b = arena.data(second[0]);
  EXPECT_FALSE(arena.Allocate(4096, 1)) << "both slabs are in use by copies";
  EXPECT_EQ(arena.Trim(), 0u);
  EXPECT_TRUE(arena.data(first[0]) == a && arena.data(second[0]) == b);
  arena.Settle(std::span(second).first(1));
  const auto taken = arena.Allocate(4096, 1);
  ASSERT_TRUE(taken) << "the second slab was emptied into the first";
  EXPECT_EQ(arena.data(first[0]), a);
  arena.Free(std::span(first).first(1));
  arena.Free(std::span(second).first(1));
  arena.Free(*taken);
}

TEST(HostKvArenaTest, ALoweredLimitDrains) {
  HostKvArena arena(Options(4 * 4096, 4096));
  const Blocks blocks = arena.Allocate(512, 28).value();
  arena.Settle(blocks);
  EXPECT_EQ(arena.SetLimit(4096), 3 * 4096u);
  EXPECT_EQ(arena.stats().over_limit_bytes, 3 * 4096u);
  EXPECT_FALSE(arena.Allocate(512, 1)) << "there is a free block, but everything has to drain";
  EXPECT_FALSE(arena.HasRoom(512, 1));
  arena.Free(std::span(blocks).first(20));
  EXPECT_EQ(arena.stats().used_bytes, 8 * 512u);
  EXPECT_EQ(arena.SetLimit(4096), 0u) << "what is left fits when moved together";
  EXPECT_EQ(arena.stats().bytes, 4096u);
  EXPECT_FALSE(arena.Allocate(512, 1));
  arena.Free(std::span(blocks).subspan(20, 1));
  const auto one = arena.Allocate(512, 1);
  ASSERT_TRUE(one);
  EXPECT_EQ(arena.SetLimit(0), 4096u);
  arena.Free(*one);
  arena.Free(std::span(blocks).subspan(21));
  EXPECT_EQ(arena.stats().over_limit_bytes, 0u);
  EXPECT_FALSE(arena.Allocate(512, 1)) << "off";
}

TEST(HostKvArenaTest, TheHostsLedgerHasTheLastWord) {
  Ledger ledger(6000);
  HostKvArena arena(Options(1 << 20, 4096, &ledger));
  auto blocks = arena.Allocate(1000, 5);
  ASSERT_TRUE(blocks);
  EXPECT_EQ(ledger.used(), 6000u);
  EXPECT_FALSE(arena.Allocate(1000, 2));
  arena.Free(*blocks);
  auto elsewhere = ledger.TryTake("warm", ChargeKind::kWeights, 5500);
  EXPECT_FALSE(arena.Allocate(1000, 1));
  elsewhere->Release();
}

// Whatever was taken and given back: after Trim each size wastes less than a slab.
TEST(HostKvArenaTest, FragmentationIsBoundedByASlabOfEachSize) {
  constexpr uint64_t kSlab = 16384;
  HostKvArena arena(Options(1 << 20, kSlab));
  std::mt19937_64 random(3);
  const size_t sizes[] = {500, 1024, 3000, 8192};
  std::vector<Blocks> held;
  for (int n = 0; n < 20'000; ++n) {
    if (random() % 2 == 0 || held.empty()) {
      auto blocks = arena.Allocate(sizes[random() % 4], static_cast<int32_t>(1 + random() % 24));
      if (!blocks) continue;
      arena.Settle(*blocks);
      held.push_back(std::move(*blocks));
    } else {
      const size_t i = random() % held.size();
      arena.Free(held[i]);
      held.erase(held.begin() + static_cast<ptrdiff_t>(i));
    }
    if (n % 500 == 0) {
      arena.Trim();
      const HostKvArenaStats stats = arena.stats();
      EXPECT_LT(stats.free_bytes, 4 * kSlab);
      EXPECT_EQ(stats.used_bytes + stats.free_bytes, stats.bytes);
    }
    ASSERT_LE(arena.stats().bytes, 1u << 20);
  }
  EXPECT_GT(arena.stats().refusals, 100u);
  for (const Blocks& blocks : held) arena.Free(blocks);
  EXPECT_EQ(arena.stats().bytes, 0u);
}

TEST(HostKvArenaTest, ThreadsShareIt) {
  HostKvArena arena(Options(200'000, 8192));
  auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    struct Held {
      Blocks blocks;
      int fill;
    };
    std::vector<Held> held;
    const size_t size = seed % 2 == 0 ? 512 : 2000;
    for (int n = 0; n < 4000; ++n) {
      if (random() % 2 == 0 || held.empty()) {
        auto blocks = arena.Allocate(size, static_cast<int32_t>(1 + random() % 16));
        if (!blocks) continue;
        const int fill = static_cast<int>(random() % 256);
        for (auto* block : *blocks) std::memset(arena.data(block), fill, size);
        arena.Settle(*blocks);
        held.push_back({std::move(*blocks), fill});
      } else {
        const size_t i = random() % held.size();
        arena.StartMoving(held[i].blocks);
        for (auto* block : held[i].blocks) {
          ASSERT_EQ(arena.data(block)[size - 1], static_cast<std::byte>(held[i].fill));
        }
        arena.Free(held[i].blocks);
        held.erase(held.begin() + static_cast<ptrdiff_t>(i));
      }
      if (n % 64 == 0) arena.Trim();
    }
    for (const Held& h : held) arena.Free(h.blocks);
  };
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 3; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(arena.stats().bytes, 0u);
}

}  // namespace
}  // namespace tidepool::compute
