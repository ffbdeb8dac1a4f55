// A team of threads for fork-join loops inside one step.
//
// Chunks are claimed from a shared ticket, never owed statically: the caller works too, and the join waits
// only for chunks that somebody has claimed. So a worker that the system has put aside costs its share, not a
// stall. Between jobs a worker spins for a bounded time, then sleeps on a futex. Run allocates nothing.
//
// Threads: one Run at a time (the engine thread); a Run from another thread while one is under way waits its
// turn (packing a model beside a step), and the body must not call Run.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <thread>
#include <type_traits>
#include <vector>

namespace tidepool::chips::cpu {

class ThreadPool {
 public:
  // `threads` counts the caller: threads - 1 workers are started. At least 1, at most kMaxThreads.
  // `cpus`: the processor of each thread (topology.h); empty: wherever the system puts them. The caller's
  // own, cpus[0], is left to the system too: the thread is not ours.
  explicit ThreadPool(int threads, const std::vector<int>& cpus = {});
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  static constexpr int kMaxThreads = 256;
  static constexpr int64_t kMaxChunks = (1 << 20) - 1;

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  // Calls body(chunk, thread) once for every chunk in [0, chunks), chunks <= kMaxChunks; thread in
  // [0, threads()) names the executor, for scratch of its own. Returns when all are done.
  template <typename Body>
  void Run(int64_t chunks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    RunErased(
        chunks,
        [](void* context, int64_t chunk, int thread) { (*static_cast<Plain*>(context))(chunk, thread); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using Function = void (*)(void* context, int64_t chunk, int thread);
  void RunErased(int64_t chunks, Function function, void* context);
  // Claims and runs chunks of the current job until none is left; false if there was none.
  bool WorkOnCurrentJob(int thread);
  void WorkerLoop(int thread);

  // epoch (24 bits) | chunks (20) | next chunk (20). A successful compare-exchange on it proves that the job
  // whose fields were read before is still the current one, since its chunks were not all claimed yet.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  alignas(64) std::atomic<uint32_t> chunks_done_{0};
  std::atomic<uint32_t> caller_sleeps_{0};
  alignas(64) std::atomic<uint32_t> wake_signal_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex run_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace tidepool::chips::cpu
