// Random life on several devices with one host arena: sequences of several models arrive, grow, are spilled,
// restored (here or on another device), dropped, readmitted, cancelled; limits change, memory is refused,
// caches are given up; copies are made as late as possible, in any order, or not at all. In every second
// world memory is made ready ahead, taken, and given back.
//
// The oracle is the sequence's own list of tokens: the KV of position i is a function of the tokens 0..i and
// of the workspace, so a block that was lost, mixed up, overwritten early or shared wrongly shows.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "base/clock.h"
#include "chips/device.h"
#include "compute/kv/block_pool.h"

namespace tidepool::compute {
namespace {

constexpr int32_t kTokens = chips::kKvBlockTokens;

// Refuses memory when told to. What it is not asked for here, the simulated device answers.
class FaultyDevice : public chips::Device {
 public:
  const chips::DeviceInfo& info() const override { return inner_->info(); }
  Result<chips::DeviceBuffer> Allocate(size_t bytes) override {
    if (broken) return Fail(ErrorKind::kUnavailable, "out_of_memory", "no memory, says the test");
    return inner_->Allocate(bytes);
  }
  Result<size_t> PackedBytes(const chips::WeightSpec& spec) const override {
    return inner_->PackedBytes(spec);
  }
  Result<chips::PackedWeight> Pack(const chips::WeightSpec& spec, std::span<const std::byte> source,
                                   std::byte* destination) override {
    return inner_->Pack(spec, source, destination);
  }
  Result<chips::PackedWeight> ViewPacked(const chips::WeightSpec& spec,
                                         std::span<const std::byte> packed) const override {
    return inner_->ViewPacked(spec, packed);
  }
  uint32_t PackingVersion() const override { return inner_->PackingVersion(); }
  void CopyToDevice(void* destination, const void* source, size_t bytes) override {
    inner_->CopyToDevice(destination, source, bytes);
  }
  void CopyToHost(void* destination, const void* source, size_t bytes) override {
    inner_->CopyToHost(destination, source, bytes);
  }
  size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const override {
    return inner_->ScratchBytes(max_tokens, max_columns);
  }
  Status ReserveScratch(int32_t max_tokens, int32_t max_columns) override {
    return inner_->ReserveScratch(max_tokens, max_columns);
  }
  chips::Ops& ops() override { return inner_->ops(); }
  chips::Roofline MeasureRoofline() override { return inner_->MeasureRoofline(); }

  bool broken = false;

 private:
  std::unique_ptr<chips::SimulatedDevice> inner_ = chips::MakeSimulatedDevice({});
};

struct Model {
  const char* name;
  size_t block_bytes;  // at least 8 bytes a token
};
// The first lives on two devices of one host.
constexpr Model kModels[] = {{"alpha", 256}, {"beta", 384}, {"gamma", 1024}};
constexpr int kPools = 4;
constexpr int kModelOfPool[kPools] = {0, 0, 1, 2};

struct Live {
  KvSequence kv;
  int model = 0;
  int pool = 0;  // where it is, or was last
  std::string workspace;
  std::vector<int32_t> tokens;   // all that will ever be
  std::vector<uint64_t> prints;  // of position i: of all tokens up to it
  int32_t prompt = 0;
  int32_t computed = 0;
  int32_t reserved = 0;  // tokens that Extend may cover
};

struct Pending {
  int pool = 0;
  KvMove move;
};

class World {
 public:
  // With a reserve blocks and limits are larger, since it deals in pages.
  World(uint64_t seed, bool with_reserve)
      : random_(seed),
        scale_(with_reserve ? kScale : 1),
        ledger_(scale_ * kDeviceBytes),
        arena_({.limit_bytes = scale_ * kHostBytes,
                .slab_bytes = scale_ * 4096,
                .ledger = &host_ledger_,
                .allocate = [this](size_t bytes) -> Result<chips::DeviceBuffer> {
                  if (host_broken_) return Fail(ErrorKind::kUnavailable, "out_of_memory", "no memory");
                  return chips::DeviceBuffer(std::malloc(bytes), bytes,
                                             [](void* data, size_t) { std::free(data); });
                }}) {
    if (with_reserve) {
      reserve_ = std::make_unique<KvReserve>(device_, ledger_,
                                             KvReserveOptions{.ready_bytes = kReadyBytes,
                                                              .chunk_bytes = 16 * KvReserve::kPageBytes,
                                                              .quantum_bytes = 2 * KvReserve::kPageBytes,
                                                              .rest = 0,
                                                              .thread = false});
    }
    for (int p = 0; p < kPools; ++p) {
      const Model& model = kModels[kModelOfPool[p]];
      const size_t block_bytes = scale_ * model.block_bytes;
      pools_[p] =
          std::make_unique<BlockPool>(device_, ledger_,
                                      BlockPoolOptions{.owner = std::string(model.name) + std::to_string(p),
                                                       .block_bytes = block_bytes,
                                                       .slab_bytes = 6 * block_bytes,
                                                       .reserve = reserve_.get(),
                                                       .content_key = model.name});
    }
  }

  ~World() {
    for (auto& live : lives_) pools_[live->pool]->Release(live->kv);
    for (const Pending& pending : pending_) pools_[pending.pool]->AbortMove(pending.move.id);
  }

  void Operate() {
    if (reserve_ != nullptr && Below(3) == 0) reserve_->Fill();
    const int32_t what = Below(1000);
    if (what < 150) {
      Arrive();
    } else if (what < 520) {
      Grow(Pick({KvPlace::kResident}));
    } else if (what < 600) {
      Spill(Pick({KvPlace::kResident}));
    } else if (what < 700) {
      Restore(Pick({KvPlace::kSpilled}));
    } else if (what < 860) {
      if (!pending_.empty()) Complete(static_cast<size_t>(Below(pending_.size())), Below(8) == 0);
    } else if (what < 940) {
      Cancel(PickAny());
    } else if (what < 955) {
      Drop(PickAny());
    } else if (what < 975) {
      Readmit(Pick({KvPlace::kDropped}));
    } else if (what < 985) {
      pools_[Below(kPools)]->Shrink(scale_ * static_cast<uint64_t>(Below(20'000)));
    } else if (what < 990) {
      ledger_.SetLimit(scale_ * (Below(3) == 0 ? static_cast<uint64_t>(Below(kDeviceBytes)) : kDeviceBytes));
    } else if (what < 995) {
      arena_.SetLimit(scale_ * (Below(3) == 0 ? static_cast<uint64_t>(Below(kHostBytes)) : kHostBytes));
    } else if (what < 997) {
      device_.broken = Below(2) == 0;
      host_broken_ = Below(3) == 0;
    } else {
      arena_.Trim();
    }
  }

  // Over a limit that was lowered, what is held only falls.
  void CheckLimits() {
    ASSERT_TRUE(ledger_.used() <= last_used_ || ledger_.used() <= ledger_.limit());
    ASSERT_EQ(ledger_.over_limit_bytes(), ledger_.used() - std::min(ledger_.used(), ledger_.limit()));
    last_used_ = ledger_.used();
    const uint64_t host = host_ledger_.used();
    ASSERT_TRUE(host <= last_host_ || host <= arena_.limit());
    last_host_ = host;
  }

  void Check() {
    for (int p = 0; p < kPools; ++p) {
      std::vector<const KvSequence*> here;
      for (const auto& live : lives_) {
        if (live->pool == p) here.push_back(&live->kv);
      }
      pools_[p]->CheckInvariants(here);
    }
    std::vector<const KvSequence*> all;
    uint64_t device_bytes = 0;
    for (const auto& live : lives_) all.push_back(&live->kv);
    arena_.CheckInvariants(all);
    for (const auto& pool : pools_) {
      const BlockPoolStats stats = pool->stats();
      ASSERT_EQ(stats.free + stats.used + stats.cached + stats.moving, stats.total);
      device_bytes += stats.bytes;
    }
    const HostKvArenaStats host = arena_.stats();
    ASSERT_EQ(host.used_bytes + host.moving_bytes + host.free_bytes, host.bytes);
    if (reserve_ != nullptr) {
      reserve_->CheckInvariants();
      ASSERT_EQ(ledger_.used_by(ChargeKind::kReserve), reserve_->stats().charged_bytes);
      device_bytes += reserve_->stats().charged_bytes;
    }
    ASSERT_EQ(ledger_.used(), device_bytes);
    ASSERT_EQ(host_ledger_.used(), host.bytes);
  }

  // From any state, with memory and limits restored, every sequence comes to its end.
  void Finish() {
    device_.broken = host_broken_ = false;
    ledger_.SetLimit(scale_ * kDeviceBytes);
    arena_.SetLimit(scale_ * kHostBytes);
    int idle_turns = 0;
    while (!lives_.empty()) {
      const size_t before = Progress();
      while (!pending_.empty()) Complete(static_cast<size_t>(Below(pending_.size())), false);
      for (size_t i = lives_.size(); i-- > 0;) {
        Live* live = lives_[i].get();
        if (live->kv.place() == KvPlace::kSpilled) Restore(live);
        if (live->kv.place() == KvPlace::kDropped) Readmit(live);
        if (live->kv.place() == KvPlace::kResident) Grow(live);
      }
      for (size_t i = lives_.size(); i-- > 0;) {
        if (lives_[i]->computed == static_cast<int32_t>(lives_[i]->tokens.size()) &&
            lives_[i]->kv.place() == KvPlace::kResident) {
          Verify(*lives_[i]);
          Cancel(lives_[i].get());
        }
      }
      if (lives_.empty()) break;
      idle_turns = Progress() == before ? idle_turns + 1 : 0;
      // All hold a part of what they need and none can get more: the last resort, one after the other.
      if (idle_turns > 3) {
        for (auto& live : lives_) {
          if (live->kv.place() != KvPlace::kDropped) {
            pools_[live->pool]->Drop(live->kv);
            live->computed = 0;
            break;
          }
        }
        for (auto& pool : pools_) pool->Shrink(UINT64_MAX);
      }
      ASSERT_LT(idle_turns, 400) << "something waits for ever";
    }
    while (!pending_.empty()) Complete(0, false);
    Check();
    for (auto& pool : pools_) {
      pool->Shrink(UINT64_MAX);
      ASSERT_EQ(pool->moves(), 0);
    }
    if (reserve_ != nullptr) {
      ASSERT_EQ(reserve_->stats().taken_bytes, 0u);
      reserve_->GiveUp(UINT64_MAX);
    }
    ASSERT_EQ(ledger_.used(), 0u);
    ASSERT_EQ(arena_.stats().bytes, 0u);
    ASSERT_EQ(host_ledger_.used(), 0u);
  }

  BlockPoolStats Totals() const {
    BlockPoolStats sum;
    for (const auto& pool : pools_) {
      const BlockPoolStats stats = pool->stats();
      sum.spills += stats.spills;
      sum.spilled_blocks += stats.spilled_blocks;
      sum.restores += stats.restores;
      sum.restored_from_cache_blocks += stats.restored_from_cache_blocks;
      sum.aborted_moves += stats.aborted_moves;
      sum.copies += stats.copies;
      sum.drops += stats.drops;
      sum.readmits += stats.readmits;
      sum.evictions += stats.evictions;
    }
    return sum;
  }
  const HostKvArena& arena() const { return arena_; }
  const KvReserve* reserve() const { return reserve_.get(); }
  uint64_t migrations() const { return migrations_; }
  uint64_t cancels_in_moves() const { return cancels_in_moves_; }

 private:
  static constexpr uint64_t kScale = 16;
  static constexpr uint64_t kReadyBytes = 40 * KvReserve::kPageBytes;
  static constexpr uint64_t kDeviceBytes = 60'000;
  static constexpr uint64_t kHostBytes = 40'000;
  static constexpr size_t kMaxLives = 28;
  static constexpr int32_t kMaxTokens = 150;  // the largest model holds two of these at least

  int32_t Below(uint64_t n) { return static_cast<int32_t>(random_() % n); }

  Live* PickAny() {
    return lives_.empty() ? nullptr : lives_[static_cast<size_t>(Below(lives_.size()))].get();
  }
  Live* Pick(std::initializer_list<KvPlace> places) {
    if (lives_.empty()) return nullptr;
    const auto start = static_cast<size_t>(Below(lives_.size()));
    for (size_t i = 0; i < lives_.size(); ++i) {
      Live* live = lives_[(start + i) % lives_.size()].get();
      if (std::find(places.begin(), places.end(), live->kv.place()) != places.end()) return live;
    }
    return nullptr;
  }

  // What an engine's AppendKv would write, in every part of the token's slot.
  void Write(Live& live, int32_t position) const {
    const size_t slot_bytes = scale_ * kModels[live.model].block_bytes / kTokens;
    std::byte* slot = live.kv.table()[static_cast<size_t>(position / kTokens)] +
                      static_cast<size_t>(position % kTokens) * slot_bytes;
    for (size_t at = 0; at + 8 <= slot_bytes; at += 8) {
      std::memcpy(slot + at, &live.prints[static_cast<size_t>(position)], 8);
    }
  }
  void Verify(const Live& live) const {
    const size_t slot_bytes = scale_ * kModels[live.model].block_bytes / kTokens;
    for (int32_t i = 0; i < live.computed; ++i) {
      const std::byte* slot =
          live.kv.table()[static_cast<size_t>(i / kTokens)] + static_cast<size_t>(i % kTokens) * slot_bytes;
      for (size_t at = 0; at + 8 <= slot_bytes; at += 8) {
        ASSERT_EQ(std::memcmp(slot + at, &live.prints[static_cast<size_t>(i)], 8), 0)
            << kModels[live.model].name << " position " << i << " of " << live.computed;
      }
    }
  }

  void Arrive() {
    if (lives_.size() >= kMaxLives) return;
    auto live = std::make_unique<Live>();
    live->pool = Below(kPools);
    live->model = kModelOfPool[live->pool];
    live->workspace = Below(2) == 0 ? "north" : "south";
    const int32_t length = 1 + Below(kMaxTokens);
    live->prompt = 1 + Below(static_cast<uint64_t>(length));
    const int32_t family = Below(3);  // a family's prompts begin alike
    const int32_t fork = Below(kMaxTokens);
    uint64_t print = live->workspace == "north" ? 17 : 71;
    for (int32_t i = 0; i < length; ++i) {
      live->tokens.push_back(i < fork ? 1000 * family + i : Below(3));
      print = (print ^ static_cast<uint64_t>(live->tokens.back())) * 0x9E3779B97F4A7C15u + 1;
      live->prints.push_back(print);
    }
    // Some are promised all, some only their prompt.
    live->reserved =
        Below(2) == 0 ? length : live->prompt + Below(static_cast<uint64_t>(length - live->prompt + 1));
    const BlockPool::AdmitRequest request{
        .prompt = std::span(live->tokens).first(static_cast<size_t>(live->prompt)),
        .max_tokens = live->reserved,
        .workspace = live->workspace,
        .match_prefix = Below(8) != 0,
        .share = Below(8) != 0};
    if (!pools_[live->pool]->Admit(request, live->kv)) return;
    live->computed = live->kv.cached_tokens();
    Verify(*live);
    lives_.push_back(std::move(live));
  }

  void Grow(Live* live) {
    if (live == nullptr) return;
    const auto length = static_cast<int32_t>(live->tokens.size());
    const int32_t until = std::min(live->computed + 1 + Below(40), length);
    BlockPool& pool = *pools_[live->pool];
    if (until > live->reserved) {
      const int32_t before = live->kv.reserved_blocks();
      if (!pool.Reserve(live->kv, until)) {
        ASSERT_EQ(live->kv.reserved_blocks(), before);
        return;
      }
      live->reserved = until;
    }
    pool.Extend(live->kv, until);
    for (; live->computed < until; ++live->computed) Write(*live, live->computed);
    pool.Commit(live->kv, History(*live));
    if (Below(4) == 0) Verify(*live);
  }

  static std::span<const int32_t> History(const Live& live) {
    return std::span(live.tokens).first(static_cast<size_t>(live.computed));
  }

  void Spill(Live* live) {
    if (live == nullptr) return;
    const bool draining = arena_.stats().over_limit_bytes > 0;
    auto move = pools_[live->pool]->BeginSpill(live->kv, arena_);
    ASSERT_FALSE(move && draining && live->kv.host_blocks() > 0) << "taken while over the limit";
    if (!move) {
      ASSERT_EQ(move.error().code, "kv_arena_full");
      Verify(*live);
      return;
    }
    Begun(*live, std::move(*move));
  }

  void Restore(Live* live) {
    if (live == nullptr) return;
    int to = live->pool;
    if (live->model == 0 && Below(2) == 0) to = 1 - live->pool;
    const int32_t more = Below(2) == 0 ? static_cast<int32_t>(live->tokens.size()) : live->computed;
    auto move = pools_[to]->BeginRestore(live->kv, {.history = History(*live), .max_tokens = more});
    if (!move) {
      ASSERT_EQ(move.error().code, "no_kv_room");
      ASSERT_EQ(live->kv.place(), KvPlace::kSpilled);
      return;
    }
    if (to != live->pool) ++migrations_;
    live->pool = to;
    live->reserved = std::max(more, live->computed);
    Begun(*live, std::move(*move));
  }

  void Begun(const Live& live, KvMove move) {
    ASSERT_EQ(live.kv.move(), move.id);
    uint64_t bytes = 0;
    for (const KvCopy& copy : move.copies) bytes += copy.bytes;
    ASSERT_EQ(bytes, move.bytes);
    pending_.push_back({live.pool, std::move(move)});
  }

  void Complete(size_t i, bool abort) {
    const Pending pending = std::move(pending_[i]);
    pending_.erase(pending_.begin() + static_cast<ptrdiff_t>(i));
    BlockPool& pool = *pools_[pending.pool];
    Live* owner = nullptr;
    for (const auto& live : lives_) {
      if (live->pool == pending.pool && live->kv.move() == pending.move.id) owner = live.get();
    }
    // An aborted move may have made any part of its copies.
    const size_t copies =
        abort ? static_cast<size_t>(Below(pending.move.copies.size() + 1)) : pending.move.copies.size();
    for (size_t c = 0; c < copies; ++c) {
      const KvCopy& copy = pending.move.copies[c];
      std::memcpy(copy.destination, copy.source, copy.bytes);
    }
    const bool still_there = abort ? pool.AbortMove(pending.move.id) : pool.EndMove(pending.move.id);
    ASSERT_EQ(still_there, owner != nullptr);
    if (owner == nullptr) return;
    const bool resident = (pending.move.direction == KvDirection::kToDevice) != abort;
    ASSERT_EQ(owner->kv.place(), resident ? KvPlace::kResident : KvPlace::kSpilled);
    if (!resident) return;
    if (abort) {
      // What was promised before the spill still is.
      ASSERT_GE(static_cast<int32_t>(owner->kv.table().size()) + owner->kv.reserved_blocks(),
                BlockPool::BlocksFor(owner->reserved));
    }
    Verify(*owner);
  }

  void Cancel(Live* live) {
    if (live == nullptr) return;
    if (live->kv.move() != 0) ++cancels_in_moves_;
    if (live->kv.place() == KvPlace::kSpilled && Below(2) == 0) {
      arena_.Release(live->kv);
    } else {
      pools_[live->pool]->Release(live->kv);
    }
    ASSERT_EQ(live->kv.place(), KvPlace::kNone);
    std::erase_if(lives_, [&](const auto& other) { return other.get() == live; });
  }

  void Drop(Live* live) {
    if (live == nullptr) return;
    pools_[live->pool]->Drop(live->kv);
    live->computed = 0;
    ASSERT_EQ(live->kv.host_blocks() + live->kv.reserved_blocks(), 0);
  }

  void Readmit(Live* live) {
    if (live == nullptr) return;
    if (live->model == 0) live->pool = Below(2);
    const auto length = static_cast<int32_t>(live->tokens.size());
    const int32_t known = std::max(live->prompt, 1 + Below(static_cast<uint64_t>(length)));
    if (!pools_[live->pool]->Readmit(live->kv, std::span(live->tokens).first(static_cast<size_t>(known)),
                                     known)) {
      ASSERT_EQ(live->kv.place(), KvPlace::kDropped);
      return;
    }
    live->computed = live->kv.cached_tokens();
    ASSERT_LT(live->computed, known);
    live->reserved = known;
    Verify(*live);
  }

  size_t Progress() const {
    size_t sum = 1000 * (kMaxLives - lives_.size());
    for (const auto& live : lives_) sum += static_cast<size_t>(live->computed);
    return sum;
  }

  std::mt19937_64 random_;
  FaultyDevice device_;
  bool host_broken_ = false;
  const uint64_t scale_;
  Ledger ledger_;
  Ledger host_ledger_{uint64_t{1} << 30};
  HostKvArena arena_;
  std::unique_ptr<KvReserve> reserve_;
  std::unique_ptr<BlockPool> pools_[kPools];
  std::deque<std::unique_ptr<Live>> lives_;
  std::vector<Pending> pending_;
  uint64_t last_used_ = 0, last_host_ = 0;
  uint64_t migrations_ = 0, cancels_in_moves_ = 0;
};

// Two million operations at most, and not longer than 20 s; TIDEPOOL_KV_SECONDS=600 runs as long as that,
// TIDEPOOL_KV_SEED begins elsewhere.
TEST(KvPropertyTest, NothingIsLostMixedUpOrLeaked) {
  const char* seconds = std::getenv("TIDEPOOL_KV_SECONDS");
  const char* first_seed = std::getenv("TIDEPOOL_KV_SEED");
  const Nanoseconds limit = (seconds != nullptr ? std::atoll(seconds) : 20) * kSecond;
  const int64_t most = seconds != nullptr ? INT64_MAX : 2'000'000;
  uint64_t seed = first_seed != nullptr ? std::strtoull(first_seed, nullptr, 10) : 1;
  constexpr int64_t kOperationsOfAWorld = 50'000;
  const SteadyClock clock;
  const Nanoseconds begin = clock.now();
  int64_t operations = 0;
  for (; operations < most && clock.now() - begin < limit; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    World world(seed, seed % 2 == 0);
    // The first operations are checked one by one, later ones in turns, to do more of them.
    for (int64_t n = 0; n < kOperationsOfAWorld; ++n, ++operations) {
      world.Operate();
      world.CheckLimits();
      if (n < 2'000 || n % 16 == 0) world.Check();
      if (::testing::Test::HasFatalFailure()) FAIL() << "operation " << n;
    }
    const BlockPoolStats totals = world.Totals();
    EXPECT_GT(totals.spills, 300u);
    EXPECT_GT(totals.restores, 300u);
    EXPECT_GT(totals.restored_from_cache_blocks, 30u);
    EXPECT_GT(totals.aborted_moves, 100u);
    EXPECT_GT(totals.readmits, 30u);
    EXPECT_GT(totals.evictions, 100u);
    EXPECT_LT(totals.copies, totals.spilled_blocks * 2) << "neighbours are joined";
    EXPECT_GT(world.migrations(), 30u);
    EXPECT_GT(world.cancels_in_moves(), 100u);
    EXPECT_GT(world.arena().stats().refusals, 10u);
    EXPECT_GT(world.arena().stats().compacted_bytes, 0u);
    if (const KvReserve* reserve = world.reserve(); reserve != nullptr) {
      EXPECT_GT(reserve->stats().taken_total, 30 * KvReserve::kPageBytes);
      EXPECT_GT(reserve->stats().returned_total, 30 * KvReserve::kPageBytes);
      EXPECT_GT(reserve->stats().given_up_total, 30 * KvReserve::kPageBytes);
      EXPECT_GT(reserve->stats().fresh_total, 0u);
    }
    world.Finish();
    if (::testing::Test::HasFailure()) return;
  }
  RecordProperty("operations", std::to_string(operations));
  std::printf("%lld operations in %.1f s\n", static_cast<long long>(operations),
              static_cast<double>(clock.now() - begin) * 1e-9);
}

}  // namespace
}  // namespace tidepool::compute
