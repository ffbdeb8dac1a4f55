#include "chips/cpu/thread_pool.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>
#include <vector>

namespace tidepool::chips::cpu {
namespace {

TEST(ThreadPool, RunsEveryChunkExactlyOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    for (const int64_t chunks : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<std::atomic<int>> counts(static_cast<size_t>(chunks));
      std::atomic<bool> bad_thread{false};
      pool.Run(chunks, [&](int64_t chunk, int thread) {
        counts[static_cast<size_t>(chunk)].fetch_add(1);
        if (thread < 0 || thread >= threads) bad_thread = true;
      });
      for (const auto& count : counts) EXPECT_EQ(count.load(), 1);
      EXPECT_FALSE(bad_thread);
    }
  }
}

// Plain (not atomic) writes of the body must be visible to the caller after Run, and the next job's fields
// must never mix with the last one's: thread sanitizer and the sums would both show it.
TEST(ThreadPool, ManySmallJobsBackToBackAndWithPauses) {
  ThreadPool pool(4);
  std::vector<int64_t> results(16);
  for (int round = 0; round < 20000; ++round) {
    const int64_t chunks = 1 + round % 16;
    pool.Run(chunks, [&](int64_t chunk, int) { results[static_cast<size_t>(chunk)] = round + chunk; });
    for (int64_t chunk = 0; chunk < chunks; ++chunk)
      ASSERT_EQ(results[static_cast<size_t>(chunk)], round + chunk);
    // Long enough for the workers to fall asleep: the wake-up path.
    if (round % 2000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
}

TEST(ThreadPool, ThreadNumbersAreExclusive) {
  ThreadPool pool(4);
  std::vector<std::atomic<int>> inside(4);
  std::atomic<int> overlaps{0};
  pool.Run(2000, [&](int64_t, int thread) {
    if (inside[static_cast<size_t>(thread)].fetch_add(1) != 0) overlaps.fetch_add(1);
    std::this_thread::yield();
    inside[static_cast<size_t>(thread)].fetch_sub(1);
  });
  EXPECT_EQ(overlaps.load(), 0);
}

TEST(ThreadPool, EveryThreadBeginsWithItsShare) {
  for (const int threads : {2, 3, 5}) {
    ThreadPool pool(threads);
    for (const int64_t chunks : {int64_t{threads}, int64_t{4 * threads + 1}}) {
      std::vector<int> executor(static_cast<size_t>(chunks), -1);
      std::atomic<int> begun{0};
      const auto first_of = [&](int thread) { return thread * chunks / threads; };
      pool.Run(chunks, [&](int64_t chunk, int thread) {
        executor[static_cast<size_t>(chunk)] = thread;
        for (int t = 0; t < threads; ++t) {
          if (chunk != first_of(t)) continue;
          begun.fetch_add(1);  // nobody goes on, and takes from others, before all have begun
          while (begun.load() < threads) std::this_thread::yield();
        }
      });
      for (int t = 0; t < threads; ++t)
        EXPECT_EQ(executor[static_cast<size_t>(first_of(t))], t) << chunks << " chunks";
    }
  }
}

// A thread that is held up owes its own chunk only: the others are taken from the end of its share.
TEST(ThreadPool, ChunksOfAThreadThatIsHeldUpAreTakenByOthers) {
  ThreadPool pool(2);
  std::vector<int64_t> order;  // of the caller's chunks
  std::atomic<bool> held{false};
  std::atomic<int> done{0};
  pool.Run(8, [&](int64_t chunk, int thread) {
    if (chunk == 4 && thread == 1) {
      held = true;
      while (done.load() < 7) std::this_thread::yield();
      return;
    }
    while (!held.load()) std::this_thread::yield();
    EXPECT_EQ(thread, 0);
    order.push_back(chunk);
    done.fetch_add(1);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 7, 6, 5}));
}

TEST(ThreadPool, CallersFromSeveralThreadsTakeTurns) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::vector<int64_t> sums(4, 0);
  for (size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 500; ++round) {
        std::atomic<int64_t> sum{0};
        pool.Run(10, [&](int64_t chunk, int) { sum.fetch_add(chunk); });
        sums[c] += sum.load();
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int64_t sum : sums) EXPECT_EQ(sum, 500 * 45);
}

// More busy threads than cores, and more threads in the team than cores: a worker that the system has put
// aside holds up its own chunk only, so jobs go on ending, and the neighbours get on too. (How fast:
// chips_bench --types hog.)
TEST(ThreadPool, JobsEndOnACrowdedMachine) {
  const unsigned cores = std::max(1u, std::thread::hardware_concurrency());
  std::atomic<bool> stop{false};
  std::vector<std::atomic<uint64_t>> turns(2 * cores);
  std::vector<std::thread> hogs;
  for (auto& turn : turns) {
    hogs.emplace_back([&] {
      while (!stop.load(std::memory_order_relaxed)) turn.fetch_add(1, std::memory_order_relaxed);
    });
  }
  while (std::any_of(turns.begin(), turns.end(), [](const auto& turn) { return turn.load() == 0; }))
    std::this_thread::yield();
  {
    ThreadPool pool(static_cast<int>(2 * cores + 1));
    for (int job = 0; job < 300; ++job) {
      std::atomic<int64_t> done{0};
      pool.Run(64, [&](int64_t chunk, int) {
        volatile int64_t work = 0;
        for (int64_t i = 0; i < 500 + chunk; ++i) work = work + i;
        done.fetch_add(1);
      });
      ASSERT_EQ(done.load(), 64) << "job " << job;
    }
  }
  const uint64_t before = turns[0].load();
  while (turns[0].load() == before) std::this_thread::yield();  // a hog still gets its turn
  stop = true;
  for (std::thread& hog : hogs) hog.join();
}

TEST(ThreadPool, ShutsDownWhileWorkersSpinOrSleep) {
  for (int round = 0; round < 200; ++round) {
    ThreadPool pool(3);
    if (round % 3 != 0) pool.Run(5, [](int64_t, int) {});
    if (round % 50 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

}  // namespace
}  // namespace tidepool::chips::cpu
