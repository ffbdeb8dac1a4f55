#include "compute/kv/kv_reserve.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/check.h"

namespace tidepool::compute {

// Address space in runs of one state each; neighbours differ.
struct internal::KvReserveChunk {
  chips::DeviceBuffer memory;
  std::byte* base = nullptr;
  uint64_t bytes = 0;
  std::map<uint64_t, KvReserve::Run> runs;  // by offset

  bool untouched() const { return runs.size() == 1 && runs.begin()->second.state == KvReserve::kUntouched; }
};

namespace {

constexpr char kOwner[] = "kv_reserve";
constexpr uint64_t kHugePage = uint64_t{2} << 20;
constexpr uint64_t kClearBytes = uint64_t{64} << 10;  // between two looks at whether it is still wanted
// Room in the ledger comes without a word: looked at again after so long.
constexpr auto kLookAgain = std::chrono::seconds(1);

uint64_t RoundUp(uint64_t bytes, uint64_t unit) { return (bytes + unit - 1) / unit * unit; }

// Readying memory must cost nobody anything: it runs where a processor would be idle.
void TakeLowestPriority() {
  const sched_param none{};
  if (sched_setscheduler(0, SCHED_IDLE, &none) != 0) {
    setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), 19);  // refused in some sandboxes: then as it is
  }
}

KvReserveOptions Sane(KvReserveOptions options, const chips::Device& device) {
  const chips::DeviceKind kind = device.info().kind;
  if (kind != chips::DeviceKind::kCpu && kind != chips::DeviceKind::kSimulated) options.ready_bytes = 0;
  options.ready_bytes = options.ready_bytes / KvReserve::kPageBytes * KvReserve::kPageBytes;
  options.quantum_bytes = RoundUp(std::max<uint64_t>(options.quantum_bytes, 1), KvReserve::kPageBytes);
  options.chunk_bytes = RoundUp(std::min(options.chunk_bytes, options.ready_bytes), options.quantum_bytes);
  return options;
}

}  // namespace

KvReserve::KvReserve(chips::Device& device, Ledger& ledger, const KvReserveOptions& options)
    : device_(device), ledger_(ledger), options_(Sane(options, device)), limit_(options_.ready_bytes) {
  auto charge = ledger_.TryTake(kOwner, ChargeKind::kReserve, 0);
  CHECK(charge.has_value());
  charge_ = std::move(*charge);
  if (options_.metrics != nullptr) {
    MetricsRegistry& registry = *options_.metrics;
    metrics_ = Metrics{
        registry.gauge("tidepool_pool_kv_ready_bytes", "Memory for KV that is touched and not in use"),
        registry.counter("tidepool_pool_kv_ready_taken_bytes_total", "KV memory that was ready when needed"),
        registry.counter("tidepool_pool_kv_fresh_bytes_total",
                         "KV memory that was not: the kernel clears it at first touch"),
        registry.counter("tidepool_pool_kv_ready_given_up_bytes_total",
                         "Ready memory given up because the pool was short")};
  }
  if (limit_ == 0) return;
  ledger_.SetReserve([this](uint64_t missing) { GiveUp(missing); });
  if (options_.thread) thread_ = std::thread([this] { Work(); });
}

KvReserve::~KvReserve() {
  if (limit_ > 0) ledger_.SetReserve(nullptr);
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
    filling_given_up_ = true;  // it need not finish its quantum
  }
  wake_.notify_one();
  if (thread_.joinable()) thread_.join();
  CHECK(users_ == 0 && bytes_[kTaken] == 0);
  chunks_.clear();
  charge_.Release();
}

// ---- users -------------------------------------------------------------------------------------------

void KvReserve::AddUser() {
  {
    std::lock_guard lock(mutex_);
    ++users_;
  }
  wake_.notify_one();
}

void KvReserve::RemoveUser() {
  std::lock_guard lock(mutex_);
  CHECK(users_ > 0);
  if (--users_ > 0) return;
  GiveUpLocked(UINT64_MAX);
  useful_bytes_ = 0;
}

std::optional<KvRegion> KvReserve::Take(const std::string& owner, uint64_t unit_bytes, uint64_t least,
                                        uint64_t most) {
  CHECK(unit_bytes > 0 && 1 <= least && least <= most);
  KvRegion region;
  {
    const std::unique_lock lock(mutex_, std::try_to_lock);
    if (!lock.owns_lock()) return std::nullopt;
    const uint64_t needed = RoundUp(least * unit_bytes, kPageBytes);
    if (needed <= limit_) useful_bytes_ = std::max(useful_bytes_, needed);
    // The shortest run that holds all, else the longest.
    Place best;
    const uint64_t all = RoundUp(most * unit_bytes, kPageBytes);
    for (const auto& chunk : chunks_) {
      for (const auto& [offset, run] : chunk->runs) {
        if (run.state != kReady) continue;
        const bool better =
            best.bytes < all ? run.bytes > best.bytes : all <= run.bytes && run.bytes < best.bytes;
        if (better) best = {chunk.get(), offset, run.bytes};
      }
    }
    const uint64_t units = std::min(most, best.bytes / unit_bytes);
    if (units < least) {
      fragmented_ = bytes_[kReady] >= 2 * needed;
      return std::nullopt;
    }
    best.bytes = RoundUp(units * unit_bytes, kPageBytes);
    Mark(best, kTaken);
    taken_total_ += best.bytes;
    region.data = best.chunk->base + best.offset;
    region.bytes = best.bytes;
    region.charge = charge_.Split(owner, ChargeKind::kKv, best.bytes);
    region.chunk = best.chunk;
    Publish();
  }
  if (metrics_) metrics_->taken.Increment(static_cast<double>(region.bytes));
  wake_.notify_one();
  return region;
}

void KvReserve::Return(KvRegion region) {
  const Place place{region.chunk, static_cast<uint64_t>(region.data - region.chunk->base), region.bytes};
  {
    std::lock_guard lock(mutex_);
    if (!Keeps(place.bytes)) {
      Discard(place);
      return;  // the charge follows its memory
    }
    Mark(place, kDirty);
    returned_total_ += place.bytes;
    charge_.Merge(std::move(region.charge));
  }
  wake_.notify_one();
}

void KvReserve::Return(chips::DeviceBuffer memory, Charge charge) {
  const uint64_t bytes = memory.bytes();
  {
    std::lock_guard lock(mutex_);
    // Part of a page cannot be charged apart.
    if (charge.bytes() != bytes || bytes % kPageBytes != 0 || !Keeps(bytes)) {
      memory.Reset();
      return;
    }
    auto chunk = std::make_unique<Chunk>();
    chunk->base = memory.data();
    chunk->memory = std::move(memory);
    chunk->bytes = bytes;
    chunk->runs[0] = {bytes, kDirty};
    bytes_[kDirty] += bytes;
    chunks_.push_back(std::move(chunk));
    returned_total_ += bytes;
    charge_.Merge(std::move(charge));
  }
  wake_.notify_one();
}

void KvReserve::CountFresh(uint64_t bytes) {
  fresh_total_.fetch_add(bytes);
  if (metrics_) metrics_->fresh.Increment(static_cast<double>(bytes));
}

// ---- runs --------------------------------------------------------------------------------------------

// At most half of what is free, the reserve itself included.
uint64_t KvReserve::Target(uint64_t more_free) const {
  if (users_ == 0) return 0;
  return std::min(limit_, (ledger_.free() + more_free) / 2 / kPageBytes * kPageBytes);
}

bool KvReserve::Keeps(uint64_t bytes) const {
  return !stop_ && !Resting() && bytes > 0 && Held() + bytes <= Target(bytes);
}

void KvReserve::Mark(const Place& place, State state) {
  auto& runs = place.chunk->runs;
  auto entry = std::prev(runs.upper_bound(place.offset));
  const uint64_t begin = entry->first;
  const Run old = entry->second;
  const uint64_t end = place.offset + place.bytes;
  CHECK(place.bytes > 0 && end <= begin + old.bytes && old.state != state);
  bytes_[old.state] -= place.bytes;
  bytes_[state] += place.bytes;
  runs.erase(entry);
  if (begin < place.offset) runs[begin] = {place.offset - begin, old.state};
  if (end < begin + old.bytes) runs[end] = {begin + old.bytes - end, old.state};
  auto run = runs.emplace(place.offset, Run{place.bytes, state}).first;
  if (const auto next = std::next(run); next != runs.end() && next->second.state == state) {
    run->second.bytes += next->second.bytes;
    runs.erase(next);
  }
  if (run != runs.begin()) {
    const auto before = std::prev(run);
    if (before->second.state == state) {
      before->second.bytes += run->second.bytes;
      runs.erase(run);
    }
  }
}

// The memory goes back to the system; a chunk of which nothing is left goes as a whole.
void KvReserve::Discard(const Place& place) {
  madvise(place.chunk->base + place.offset, place.bytes, MADV_DONTNEED);
  Mark(place, kUntouched);
  if (!place.chunk->untouched()) return;
  bytes_[kUntouched] -= place.chunk->bytes;
  std::erase_if(chunks_, [&](const auto& chunk) { return chunk.get() == place.chunk; });
}

std::optional<KvReserve::Place> KvReserve::FindLast(State state) const {
  for (size_t i = chunks_.size(); i-- > 0;) {
    const auto& runs = chunks_[i]->runs;
    for (auto run = runs.rbegin(); run != runs.rend(); ++run) {
      if (run->second.state == state) return Place{chunks_[i].get(), run->first, run->second.bytes};
    }
  }
  return std::nullopt;
}

// What makes a run of ready memory longer comes first, then the longest; not what would stay too short to be
// of use.
std::optional<KvReserve::Place> KvReserve::FindUntouched(uint64_t least_bytes) const {
  Place longest;
  for (const auto& chunk : chunks_) {
    uint64_t ready_before = 0;
    for (const auto& [offset, run] : chunk->runs) {
      const Place place{chunk.get(), offset, run.bytes};
      if (run.state == kUntouched && ready_before > 0 && ready_before + run.bytes >= least_bytes)
        return place;
      if (run.state == kUntouched && run.bytes > longest.bytes) longest = place;
      ready_before = run.state == kReady ? run.bytes : 0;
    }
  }
  if (longest.bytes == 0 || longest.bytes < least_bytes) return std::nullopt;
  return longest;
}

// Slabs of several sizes leave rests between them that are too short for the next: made ready again
// elsewhere.
void KvReserve::GiveUpShortRuns() {
  fragmented_ = false;
  std::vector<Place> places;
  for (const auto& chunk : chunks_) {
    for (const auto& [offset, run] : chunk->runs) {
      if (run.state == kReady && run.bytes < useful_bytes_)
        places.push_back({chunk.get(), offset, run.bytes});
    }
  }
  for (const Place& place : places) {
    Discard(place);
    charge_.Release(place.bytes);
  }
  Publish();
}

uint64_t KvReserve::GiveUp(uint64_t bytes) {
  uint64_t given = 0;
  {
    std::lock_guard lock(mutex_);
    rest_until_ = clock_.now() + options_.rest;
    const uint64_t before = charge_.bytes();
    GiveUpLocked(bytes);
    given = before - charge_.bytes();
    given_up_total_ += given;
  }
  if (metrics_) metrics_->given_up.Increment(static_cast<double>(given));
  return given;
}

void KvReserve::GiveUpLocked(uint64_t bytes) {
  filling_up_ = false;
  uint64_t given = 0;
  for (const State state : {kDirty, kReady}) {
    while (given < bytes) {
      std::optional<Place> place = FindLast(state);
      if (!place) break;
      // From the end, in whole quanta: a huge page is given back when all of it is.
      const uint64_t left = bytes - given;
      const uint64_t most = left > place->bytes ? place->bytes : RoundUp(left, options_.quantum_bytes);
      if (most < place->bytes) {
        place->offset += place->bytes - most;
        place->bytes = most;
      }
      given += place->bytes;
      const uint64_t charged = place->bytes;
      Discard(*place);
      charge_.Release(charged);
    }
  }
  if (given < bytes && filling_.bytes > 0 && !filling_given_up_) {
    filling_given_up_ = true;
    madvise(filling_.chunk->base + filling_.offset, filling_.bytes, MADV_DONTNEED);
    charge_.Release(filling_.bytes);
  }
  Publish();
}

void KvReserve::Publish() {
  if (metrics_) metrics_->ready.Set(static_cast<double>(bytes_[kReady]));
}

// ---- filling -----------------------------------------------------------------------------------------

void KvReserve::Work() {
  pthread_setname_np(pthread_self(), "kv_reserve");  // so that profiles tell whose time it is
  TakeLowestPriority();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (FillLocked(lock)) continue;
    if (stop_) break;
    if (users_ == 0 || Held() > limit_ - limit_ / 4) {
      wake_.wait(lock);
    } else {
      wake_.wait_for(lock, kLookAgain);
    }
  }
}

bool KvReserve::Fill() {
  std::unique_lock lock(mutex_);
  return FillLocked(lock);
}

bool KvReserve::MapChunk(std::unique_lock<std::mutex>& lock) {
  const uint64_t bytes = std::max(options_.chunk_bytes, RoundUp(useful_bytes_, options_.quantum_bytes));
  const bool huge = bytes % kHugePage == 0;
  lock.unlock();
  // Not every kernel maps at the border of a huge page: what is too much is never touched.
  auto memory = device_.Allocate(bytes + (huge ? kHugePage : 0));
  lock.lock();
  if (!memory) {
    rest_until_ = clock_.now() + options_.rest;
    return false;
  }
  auto chunk = std::make_unique<Chunk>();
  const auto address = reinterpret_cast<uintptr_t>(memory->data());
  const uint64_t skip = huge ? RoundUp(address, kHugePage) - address : 0;
  chunk->base = memory->data() + skip;
  chunk->memory = std::move(*memory);
  chunk->bytes = bytes;
  chunk->runs[0] = {chunk->bytes, kUntouched};
  bytes_[kUntouched] += chunk->bytes;
  chunks_.push_back(std::move(chunk));
  return true;
}

// One quantum. The lock is left while memory is touched or cleared.
bool KvReserve::FillLocked(std::unique_lock<std::mutex>& lock) {
  if (limit_ == 0 || stop_ || users_ == 0 || Resting() || filling_.bytes > 0) return false;
  if (fragmented_) GiveUpShortRuns();
  std::optional<Place> place = FindLast(kDirty);
  const bool dirty = place.has_value();
  if (!dirty) {
    const uint64_t target = Target(0);
    const uint64_t held = Held();
    if (held >= target || (!filling_up_ && held > target - target / 4)) {
      filling_up_ = false;
      return false;
    }
    filling_up_ = true;
    place = FindUntouched(std::min(useful_bytes_, target));
    if (!place) {
      if (!MapChunk(lock)) return false;
      return true;  // much may have changed meanwhile
    }
    place->bytes = std::min(place->bytes, target - held);
  }
  const uint64_t to_border = options_.quantum_bytes - place->offset % options_.quantum_bytes;
  place->bytes = std::min(place->bytes, to_border);
  if (!dirty) {
    auto charge = ledger_.TryTake(kOwner, ChargeKind::kReserve, place->bytes);
    if (!charge) {
      filling_up_ = false;
      return false;
    }
    charge_.Merge(std::move(*charge));
  }
  Mark(*place, kFilling);
  filling_ = *place;
  filling_given_up_ = false;
  std::byte* const begin = place->chunk->base + place->offset;
  lock.unlock();
  if (dirty) {
    for (uint64_t at = 0; at < place->bytes && !filling_given_up_; at += kClearBytes) {
      std::memset(begin + at, 0, std::min(kClearBytes, place->bytes - at));
    }
  } else {
    for (uint64_t at = 0; at < place->bytes && !filling_given_up_; at += kPageBytes) {
      *reinterpret_cast<volatile std::byte*>(begin + at) = std::byte{0};
    }
  }
  lock.lock();
  filling_ = {};
  if (filling_given_up_ && !stop_) {
    Discard(*place);  // its charge is given back already
  } else {
    Mark(*place, kReady);
  }
  Publish();
  return true;
}

// ---- what others see ---------------------------------------------------------------------------------

KvReserveStats KvReserve::stats() const {
  std::lock_guard lock(mutex_);
  KvReserveStats stats;
  stats.ready_bytes = bytes_[kReady];
  stats.dirty_bytes = bytes_[kDirty];
  stats.filling_bytes = filling_given_up_ ? 0 : bytes_[kFilling];
  stats.charged_bytes = charge_.bytes();
  stats.taken_bytes = bytes_[kTaken];
  stats.taken_total = taken_total_;
  stats.returned_total = returned_total_;
  stats.given_up_total = given_up_total_;
  stats.fresh_total = fresh_total_;
  stats.chunks = static_cast<int32_t>(chunks_.size());
  return stats;
}

void KvReserve::CheckInvariants() const {
  std::lock_guard lock(mutex_);
  std::array<uint64_t, kStates> bytes{};
  for (const auto& chunk : chunks_) {
    uint64_t next = 0;
    std::optional<State> before;
    for (const auto& [offset, run] : chunk->runs) {
      CHECK(offset == next && run.bytes > 0 && run.bytes % kPageBytes == 0 && before != run.state);
      bytes[run.state] += run.bytes;
      next = offset + run.bytes;
      before = run.state;
    }
    CHECK(next == chunk->bytes);
  }
  CHECK(bytes == bytes_);
  CHECK(bytes[kFilling] == filling_.bytes);
  CHECK(charge_.bytes() == bytes[kReady] + bytes[kDirty] + (filling_given_up_ ? 0 : bytes[kFilling]));
  CHECK(charge_.bytes() <= limit_);
  CHECK(users_ > 0 || charge_.bytes() == 0);
}

}  // namespace tidepool::compute
