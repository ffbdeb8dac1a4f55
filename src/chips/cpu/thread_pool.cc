#include "chips/cpu/thread_pool.h"

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "chips/cpu/topology.h"

namespace tidepool::chips::cpu {
namespace {

constexpr uint64_t kFieldMask = (uint64_t{1} << 20) - 1;
// Long enough to bridge the serial gaps between the ops of a step (a norm, a small copy), short enough that
// an idle server or a crowded machine loses nothing.
constexpr auto kWorkerSpin = std::chrono::microseconds(60);
constexpr auto kJoinSpin = std::chrono::microseconds(100);
constexpr auto kSpinAlone = std::chrono::microseconds(12);

uint64_t MakeTicket(uint64_t job, int64_t next, int64_t end) {
  return (job << 40) | (static_cast<uint64_t>(end) << 20) | static_cast<uint64_t>(next);
}
uint64_t NextChunk(uint64_t ticket) { return ticket & kFieldMask; }
uint64_t EndOfChunks(uint64_t ticket) { return (ticket >> 20) & kFieldMask; }

inline void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins until `ready` or the time is over. The clock is read every 32 pauses (about 2 us). Where a neighbour
// keeps a core busy, whom we wait for may be waiting for this very core: after a while it is offered.
template <typename Ready>
bool SpinUntil(std::chrono::microseconds limit, Ready&& ready) {
  if (ready()) return true;
  const auto begin = std::chrono::steady_clock::now(), deadline = begin + limit;
  for (auto now = begin; now < deadline; now = std::chrono::steady_clock::now()) {
    if (now > begin + kSpinAlone) std::this_thread::yield();
    for (int i = 0; i < 32; ++i) {
      Pause();
      if (ready()) return true;
    }
  }
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads, const std::vector<int>& cpus)
    : shares_(static_cast<size_t>(std::clamp(threads, 1, kMaxThreads))) {
  const int workers = static_cast<int>(shares_.size()) - 1;
  workers_.reserve(static_cast<size_t>(workers));
  for (int i = 0; i < workers; ++i) {
    const auto index = static_cast<size_t>(i) + 1;
    const int cpu = index < cpus.size() ? cpus[index] : -1;
    workers_.emplace_back([this, i, cpu] {
      if (cpu >= 0) PinThisThread(cpu);  // refused: it runs where it may
      WorkerLoop(i + 1);
    });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  wake_signal_.fetch_add(1);
  wake_signal_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunErased(int64_t chunks, Function function, void* context) {
  if (chunks <= 0) return;
  CHECK(chunks <= kMaxChunks);
  if (workers_.empty() || chunks == 1) {
    // No lock: the body only uses scratch of thread 0, which belongs to the caller's own kind of work.
    for (int64_t chunk = 0; chunk < chunks; ++chunk) function(context, chunk, 0);
    return;
  }
  const std::lock_guard<std::mutex> lock(run_mutex_);
  chunks_done_.store(0, std::memory_order_relaxed);
  function_.store(function, std::memory_order_relaxed);
  context_.store(context, std::memory_order_relaxed);
  chunks_.store(static_cast<uint32_t>(chunks), std::memory_order_relaxed);
  const uint32_t job = job_.load(std::memory_order_relaxed) + 1;
  const int64_t all = threads();
  for (int64_t t = 0; t < all; ++t) {
    shares_[static_cast<size_t>(t)].ticket.store(MakeTicket(job, t * chunks / all, (t + 1) * chunks / all),
                                                 std::memory_order_release);
  }
  // Sequentially consistent with sleepers_: either a worker that is going to sleep sees the job, or we see
  // it.
  job_.store(job);
  if (sleepers_.load() > 0) {
    wake_signal_.fetch_add(1);
    wake_signal_.notify_all();
  }
  WorkOnCurrentJob(0);
  const auto total = static_cast<uint32_t>(chunks);
  const auto done = [&] { return chunks_done_.load(std::memory_order_acquire) == total; };
  if (SpinUntil(kJoinSpin, done)) return;
  caller_sleeps_.store(1);
  for (uint32_t seen = chunks_done_.load(); seen != total; seen = chunks_done_.load())
    chunks_done_.wait(seen);
  caller_sleeps_.store(0);
}

bool ThreadPool::Take(int share, bool from_end, Claim* claim) {
  std::atomic<uint64_t>& place = shares_[static_cast<size_t>(share)].ticket;
  uint64_t ticket = place.load(std::memory_order_acquire);
  while (NextChunk(ticket) < EndOfChunks(ticket)) {
    claim->function = function_.load(std::memory_order_relaxed);
    claim->context = context_.load(std::memory_order_relaxed);
    claim->chunks = chunks_.load(std::memory_order_relaxed);
    claim->chunk = static_cast<int64_t>(from_end ? EndOfChunks(ticket) - 1 : NextChunk(ticket));
    const uint64_t rest = from_end ? ticket - (uint64_t{1} << 20) : ticket + 1;
    if (place.compare_exchange_weak(ticket, rest, std::memory_order_acq_rel, std::memory_order_acquire))
      return true;
  }
  return false;
}

void ThreadPool::WorkOnCurrentJob(int thread) {
  for (int i = 0; i < threads(); ++i) {
    const int share = (thread + i) % threads();
    Claim claim;
    while (Take(share, i > 0, &claim)) {
      claim.function(claim.context, claim.chunk, thread);
      // The last access to the job: after this increment the caller may return and publish the next one.
      if (chunks_done_.fetch_add(1) + 1 == claim.chunks && caller_sleeps_.load() != 0)
        chunks_done_.notify_one();
    }
  }
}

void ThreadPool::WorkerLoop(int thread) {
  uint32_t done = 0;  // the last job that had no chunk left for us
  while (!stop_.load(std::memory_order_relaxed)) {
    const uint32_t job = job_.load(std::memory_order_acquire);
    if (job != done) {
      WorkOnCurrentJob(thread);
      done = job;
      continue;
    }
    const auto ready = [&] { return job_.load() != done || stop_.load(); };
    if (SpinUntil(kWorkerSpin, ready)) continue;
    sleepers_.fetch_add(1);
    const uint32_t signal = wake_signal_.load();
    if (!ready()) wake_signal_.wait(signal);
    sleepers_.fetch_sub(1);
  }
}

}  // namespace tidepool::chips::cpu
