// A team of threads for fork-join loops inside one step.
//
// Every thread begins with a share of the chunks that is the same from job to job, so that what it wrote in
// one is in its caches for the next: thread t of n has chunks [t c / n, (t + 1) c / n), and takes them in
// order. None are owed statically: whoever has done its share takes chunks from the ends of the others', the
// caller works too, and the join waits only for chunks that somebody has claimed. So a worker that the system
// has put aside costs its share, not a stall. Between jobs a worker spins for a bounded time, then sleeps on
// a futex. Run allocates nothing.
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

  int threads() const { return static_cast<int>(shares_.size()); }

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
  struct Claim {
    Function function;
    void* context;
    int64_t chunk;
    uint32_t chunks;  // of the job
  };
  // A chunk of the share, from its front or its end; false: none is left.
  bool Take(int share, bool from_end, Claim* claim);
  // Claims and runs chunks of the current job until none is left.
  void WorkOnCurrentJob(int thread);
  void WorkerLoop(int thread);

  // job (24 bits) | end (20) | next chunk (20). A successful compare-exchange on it proves that the job whose
  // fields were read before is still the current one, since its chunks were not all claimed yet.
  struct alignas(64) Share {
    std::atomic<uint64_t> ticket{0};
  };
  std::vector<Share> shares_;
  alignas(64) std::atomic<uint32_t> job_{0};
  std::atomic<Function> function_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<uint32_t> chunks_{0};
  alignas(64) std::atomic<uint32_t> chunks_done_{0};
  std::atomic<uint32_t> caller_sleeps_{0};
  alignas(64) std::atomic<uint32_t> wake_signal_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::mutex run_mutex_;
  std::vector<std::thread> workers_;
};

}  // namespace tidepool::chips::cpu
