#include "compute/kv/block_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "chips/device.h"

namespace tidepool::compute {
namespace {

constexpr size_t kBlockBytes = 256;

std::vector<int32_t> Tokens(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

class BlockPoolTest : public ::testing::Test {
 protected:
  // `blocks`: what the ledger has room for.
  BlockPool& Make(int32_t blocks, int32_t slab_blocks = 4, bool prefix_cache = true) {
    ledger_ = std::make_unique<Ledger>(static_cast<uint64_t>(blocks) * kBlockBytes);
    pool_ = std::make_unique<BlockPool>(*device_, *ledger_,
                                        BlockPoolOptions{.owner = "m",
                                                         .block_bytes = kBlockBytes,
                                                         .slab_bytes = slab_blocks * kBlockBytes,
                                                         .prefix_cache = prefix_cache});
    return *pool_;
  }
  static BlockPool::AdmitRequest Request(const std::vector<int32_t>& prompt, int32_t max_tokens,
                                         std::string_view workspace = "w") {
    return {.prompt = prompt, .max_tokens = max_tokens, .workspace = workspace};
  }
  // Runs a whole request of these tokens and lets it go.
  void RunThrough(const std::vector<int32_t>& tokens, std::string_view workspace = "w") {
    KvSequence sequence;
    ASSERT_TRUE(pool_->Admit(Request(tokens, static_cast<int32_t>(tokens.size()), workspace), sequence));
    pool_->Extend(sequence, static_cast<int32_t>(tokens.size()));
    pool_->Commit(sequence, tokens);
    pool_->Release(sequence);
  }

  std::unique_ptr<chips::SimulatedDevice> device_ = chips::MakeSimulatedDevice({});
  std::unique_ptr<Ledger> ledger_;
  std::unique_ptr<BlockPool> pool_;
};

TEST_F(BlockPoolTest, ReservesBeforeItTakes) {
  BlockPool& pool = Make(8);
  KvSequence a, b;
  ASSERT_TRUE(pool.Admit(Request(Tokens(20), 100), a));  // 7 blocks
  EXPECT_EQ(pool.stats().reserved, 7);
  EXPECT_EQ(pool.stats().used, 0);
  EXPECT_FALSE(pool.Admit(Request(Tokens(20), 20), b)) << "2 blocks asked, 1 left";
  EXPECT_TRUE(pool.Admit(Request(Tokens(16), 16), b));
  pool.Extend(a, 20);
  EXPECT_EQ(a.table().size(), 2u);
  EXPECT_EQ(pool.stats().used, 2);
  EXPECT_EQ(pool.stats().reserved, 6);
  pool.Extend(a, 100);
  EXPECT_EQ(a.reserved_blocks(), 0);
  const KvSequence* both[] = {&a, &b};
  pool.CheckInvariants(both);
  pool.Release(a);
  pool.Release(b);
  EXPECT_EQ(pool.stats().free, 8);
  EXPECT_EQ(ledger_->used(), 8 * kBlockBytes);
  EXPECT_EQ(pool.Shrink(UINT64_MAX), 8 * kBlockBytes);
  EXPECT_EQ(ledger_->used(), 0u);
}

TEST_F(BlockPoolTest, AFullHitLeavesOneTokenToCompute) {
  BlockPool& pool = Make(32);
  RunThrough(Tokens(64));
  EXPECT_EQ(pool.stats().cached, 4);
  for (const auto& [length, cached] : {std::pair{64, 48}, {65, 64}, {63, 48}, {16, 0}, {17, 16}, {1, 0}}) {
    KvSequence sequence;
    ASSERT_TRUE(pool.Admit(Request(Tokens(length), length + 1), sequence));
    EXPECT_EQ(sequence.cached_tokens(), cached) << length;
    pool.Release(sequence);
  }
}

TEST_F(BlockPoolTest, PrefixesAreSharedWithinOneWorkspaceOnly) {
  BlockPool& pool = Make(32);
  RunThrough(Tokens(32), "alpha");
  KvSequence same, other;
  ASSERT_TRUE(pool.Admit(Request(Tokens(33), 40, "alpha"), same));
  ASSERT_TRUE(pool.Admit(Request(Tokens(33), 40, "beta"), other));
  EXPECT_EQ(same.cached_tokens(), 32);
  EXPECT_EQ(other.cached_tokens(), 0);
  pool.Release(same);
  pool.Release(other);
}

TEST_F(BlockPoolTest, ABlockMatchesOnlyAfterTheSamePredecessors) {
  BlockPool& pool = Make(32);
  std::vector<int32_t> tokens = Tokens(48);
  RunThrough(tokens);
  tokens[3] = 999;  // the second and third block have the same tokens as before
  KvSequence sequence;
  ASSERT_TRUE(pool.Admit(Request(tokens, 48), sequence));
  EXPECT_EQ(sequence.cached_tokens(), 0);
  pool.Release(sequence);
}

TEST_F(BlockPoolTest, RunningSequencesShareWhatIsComplete) {
  BlockPool& pool = Make(32);
  KvSequence a, b;
  const std::vector<int32_t> tokens = Tokens(40);
  ASSERT_TRUE(pool.Admit(Request(tokens, 60), a));
  pool.Extend(a, 20);
  pool.Commit(a, std::span(tokens).first(20));
  ASSERT_TRUE(pool.Admit(Request(tokens, 60), b));
  EXPECT_EQ(b.cached_tokens(), 16);
  EXPECT_EQ(b.table()[0], a.table()[0]);
  // Both compute the second block; the later one gives its own copy up.
  pool.Extend(a, 40);
  pool.Extend(b, 40);
  EXPECT_NE(b.table()[1], a.table()[1]);
  pool.Commit(a, tokens);
  pool.Commit(b, tokens);
  EXPECT_EQ(b.table()[1], a.table()[1]);
  EXPECT_NE(b.table()[2], a.table()[2]) << "an incomplete block has one owner";
  const KvSequence* both[] = {&a, &b};
  pool.CheckInvariants(both);
  pool.Release(a);
  pool.Release(b);
  pool.CheckInvariants({});
}

TEST_F(BlockPoolTest, EvictsTheLeastRecentlyUsedAndDeepestFirst) {
  BlockPool& pool = Make(4, 4);
  RunThrough(Tokens(32, 0));    // blocks A0 A1
  RunThrough(Tokens(32, 500));  // blocks B0 B1
  KvSequence c;
  const auto prompt = Tokens(16, 900);
  ASSERT_TRUE(pool.Admit(Request(prompt, 16), c));
  pool.Extend(c, 16);  // takes A1
  EXPECT_EQ(pool.stats().evictions, 1u);
  KvSequence a, b;
  ASSERT_TRUE(pool.Admit(Request(Tokens(17, 0), 17), a));
  EXPECT_EQ(a.cached_tokens(), 16) << "A0 is still there";
  pool.Release(a);
  EXPECT_FALSE(pool.Admit(Request(Tokens(48, 500), 49), b)) << "2 of 4 blocks found, 2 more needed, 1 left";
  ASSERT_TRUE(pool.Admit(Request(Tokens(48, 500), 48), b));
  EXPECT_EQ(b.cached_tokens(), 32);
  pool.Release(b);
  pool.Release(c);
}

TEST_F(BlockPoolTest, EncodersStayOutOfTheCache) {
  BlockPool& pool = Make(8);
  KvSequence sequence;
  const auto tokens = Tokens(32);
  ASSERT_TRUE(pool.Admit({.prompt = tokens, .max_tokens = 32, .workspace = "w", .share = false}, sequence));
  pool.Extend(sequence, 32);
  pool.Commit(sequence, tokens);
  pool.Release(sequence);
  EXPECT_EQ(pool.stats().cached, 0);
}

TEST_F(BlockPoolTest, BypassComputesAllButStillShares) {
  BlockPool& pool = Make(16);
  RunThrough(Tokens(32));
  KvSequence sequence;
  const auto tokens = Tokens(32);
  ASSERT_TRUE(
      pool.Admit({.prompt = tokens, .max_tokens = 40, .workspace = "w", .match_prefix = false}, sequence));
  EXPECT_EQ(sequence.cached_tokens(), 0);
  pool.Extend(sequence, 32);
  pool.Commit(sequence, tokens);
  pool.Release(sequence);
  EXPECT_EQ(pool.stats().cached, 2);
}

// Else sequences that came one after the other would hold slabs of many blocks by a few of them each.
TEST_F(BlockPoolTest, ALongSequenceTakesSlabsOfTheUsualSize) {
  BlockPool& pool = Make(12);
  KvSequence a;
  ASSERT_TRUE(pool.Admit(Request(Tokens(16), 10 * 16), a));
  EXPECT_EQ(pool.stats().slabs, 3);
  EXPECT_EQ(pool.stats().total, 10);
  pool.Release(a);
  EXPECT_EQ(pool.Shrink(1), 2 * kBlockBytes) << "the last one, of what was left over";
  EXPECT_EQ(pool.Shrink(1), 4 * kBlockBytes);
}

TEST_F(BlockPoolTest, ShrinkKeepsPromises) {
  BlockPool& pool = Make(16, 4);
  KvSequence a;
  ASSERT_TRUE(pool.Admit(Request(Tokens(16), 64), a));  // 4 blocks in one slab, none taken yet
  KvSequence b;
  ASSERT_TRUE(pool.Admit(Request(Tokens(16, 100), 16), b));
  EXPECT_EQ(pool.stats().slabs, 2);
  pool.Release(b);
  EXPECT_EQ(pool.shrinkable_bytes(), 4 * kBlockBytes);
  EXPECT_EQ(pool.Shrink(UINT64_MAX), 4 * kBlockBytes) << "the other slab is promised";
  pool.Extend(a, 64);
  EXPECT_EQ(pool.Shrink(UINT64_MAX), 0u);
  pool.Release(a);
}

TEST_F(BlockPoolTest, TakesASmallSlabWhenTheLedgerIsNearlyFull) {
  BlockPool& pool = Make(3, 64);
  KvSequence a;
  EXPECT_TRUE(pool.Admit(Request(Tokens(16), 48), a));
  EXPECT_EQ(ledger_->free(), 0u);
  pool.Release(a);
}

// Random admissions, growth, sharing, ends, cancels, evictions and shrinks against a model of what each block
// must hold: after each operation the counts are conserved, references are exact and no sequence sees
// another's tokens.
TEST_F(BlockPoolTest, RandomOperationsKeepEveryInvariant) {
  const char* asked = std::getenv("TIDEPOOL_KV_OPERATIONS");
  const int64_t operations = asked != nullptr ? std::atoll(asked) : 200'000;
  constexpr int32_t kLedgerBlocks = 96;
  BlockPool& pool = Make(kLedgerBlocks, 8);
  std::mt19937_64 random(7);
  auto below = [&](uint64_t n) { return static_cast<int32_t>(random() % n); };

  struct Running {
    KvSequence kv;
    std::vector<int32_t> tokens;  // all that will ever be computed
    int32_t computed = 0;
    int32_t limit = 0;
    int workspace = 0;
    bool share = true;
  };
  std::deque<std::unique_ptr<Running>> running;
  // What the device memory holds: written token by token, as an engine's AppendKv would.
  auto write = [](Running& r, int32_t position) {
    auto* block = reinterpret_cast<int32_t*>(r.kv.table()[static_cast<size_t>(position / 16)]);
    block[position % 16] = r.tokens[static_cast<size_t>(position)];
  };
  auto verify = [](const Running& r) {
    for (int32_t i = 0; i < r.computed; ++i) {
      const auto* block = reinterpret_cast<const int32_t*>(r.kv.table()[static_cast<size_t>(i / 16)]);
      ASSERT_EQ(block[i % 16], r.tokens[static_cast<size_t>(i)]) << "position " << i;
    }
  };

  int64_t admitted = 0, refused = 0, hits = 0;
  for (int64_t n = 0; n < operations; ++n) {
    const int32_t what = below(100);
    if (what < 25 && running.size() < 24) {
      auto r = std::make_unique<Running>();
      r->workspace = below(2);
      r->share = below(10) != 0;
      const int32_t length = 1 + below(120);
      const int32_t prompt = 1 + below(static_cast<uint64_t>(length));
      const int32_t family = below(3);  // prompts of a family share a prefix
      const int32_t fork = below(120);
      for (int32_t i = 0; i < length; ++i) r->tokens.push_back(i < fork ? 1000 * family + i : below(4));
      r->limit = length;
      const std::string workspace = std::to_string(r->workspace);
      const BlockPool::AdmitRequest request{.prompt = std::span(r->tokens).first(static_cast<size_t>(prompt)),
                                            .max_tokens = length,
                                            .workspace = workspace,
                                            .match_prefix = below(8) != 0,
                                            .share = r->share};
      if (pool.Admit(request, r->kv)) {
        r->computed = r->kv.cached_tokens();
        ASSERT_LT(r->computed, prompt);
        if (r->computed > 0) ++hits;
        verify(*r);
        running.push_back(std::move(r));
        ++admitted;
      } else {
        ++refused;
      }
    } else if (what < 80 && !running.empty()) {
      Running& r = *running[static_cast<size_t>(below(running.size()))];
      const int32_t count = std::min(1 + below(40), r.limit - r.computed);
      pool.Extend(r.kv, r.computed + count);
      for (int32_t i = r.computed; i < r.computed + count; ++i) write(r, i);
      r.computed += count;
      pool.Commit(r.kv, std::span(r.tokens).first(static_cast<size_t>(r.computed)));
      verify(r);
    } else if (what < 97 && !running.empty()) {
      const auto i = static_cast<size_t>(below(running.size()));
      pool.Release(running[i]->kv);
      running.erase(running.begin() + static_cast<ptrdiff_t>(i));
    } else if (what >= 97) {
      pool.Shrink(static_cast<uint64_t>(below(64)) * kBlockBytes);
    }
    std::vector<const KvSequence*> sequences;
    for (const auto& r : running) sequences.push_back(&r->kv);
    pool.CheckInvariants(sequences);
    ASSERT_EQ(ledger_->used(), pool.stats().bytes);
    ASSERT_LE(pool.stats().total, kLedgerBlocks);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(hits, admitted / 50);
  EXPECT_GT(refused, 0);
  EXPECT_GT(pool.stats().evictions, 0u);
  for (const auto& r : running) pool.Release(r->kv);
  running.clear();
  pool.Shrink(UINT64_MAX);
  EXPECT_EQ(ledger_->used(), 0u);
}

}  // namespace
}  // namespace tidepool::compute
