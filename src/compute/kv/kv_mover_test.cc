#include "compute/kv/kv_mover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <future>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

namespace tidepool::compute {
namespace {

using ::testing::ElementsAre;

std::vector<std::byte> Noise(size_t bytes, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::byte> data(bytes);
  for (std::byte& b : data) b = static_cast<std::byte>(random());
  return data;
}

// Copies `from` to `to` in pieces of these sizes.
std::vector<KvCopy> Pieces(const std::vector<std::byte>& from, std::vector<std::byte>& to, size_t piece) {
  std::vector<KvCopy> copies;
  for (size_t at = 0; at < from.size(); at += piece) {
    copies.push_back({from.data() + at, to.data() + at, std::min(piece, from.size() - at)});
  }
  return copies;
}

// A copy that waits for leave, chunk by chunk, and writes down what was copied.
class Gate {
 public:
  KvMoverOptions Options(uint64_t chunk_bytes, int32_t max_jobs = 1024) {
    return {.max_jobs = max_jobs,
            .chunk_bytes = chunk_bytes,
            .copy = [this](const KvCopy& chunk, KvDirection direction) {
              std::unique_lock lock(mutex_);
              ++arrived_;
              changed_.notify_all();
              changed_.wait(lock, [&] { return leave_ > 0; });
              --leave_;
              std::memcpy(chunk.destination, chunk.source, chunk.bytes);
              log_ += direction == KvDirection::kToHost ? 'h' : 'd';
            }};
  }
  void Leave(int chunks) {
    std::lock_guard lock(mutex_);
    leave_ += chunks;
    changed_.notify_all();
  }
  void AwaitArrivals(int chunks) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= chunks; });
  }
  std::string log() {
    std::lock_guard lock(mutex_);
    return log_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int arrived_ = 0, leave_ = 0;
  std::string log_;
};

struct Answers {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::pair<int, KvMoveOutcome>> list;
  std::function<void(KvMoveOutcome)> For(int job) {
    return [this, job](KvMoveOutcome outcome) {
      std::lock_guard lock(mutex);
      list.emplace_back(job, outcome);
      changed.notify_all();
    };
  }
  void Await(size_t count) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return list.size() >= count; });
  }
};

TEST(KvMoverTest, CopiesEveryByteAndMeasures) {
  const auto mover = MakeKvMover({.max_jobs = 8, .chunk_bytes = 1000, .copy = {}});
  const auto source = Noise(100'003, 1);
  std::vector<std::byte> host(source.size()), device(source.size());
  std::promise<KvMoveOutcome> out, in;
  ASSERT_TRUE(mover->Submit({.direction = KvDirection::kToHost,
                             .copies = Pieces(source, host, 777),
                             .done = [&](KvMoveOutcome outcome) { out.set_value(outcome); }}));
  EXPECT_EQ(out.get_future().get(), KvMoveOutcome::kDone);
  ASSERT_TRUE(mover->Submit({.direction = KvDirection::kToDevice,
                             .copies = Pieces(host, device, 100'003),
                             .done = [&](KvMoveOutcome outcome) { in.set_value(outcome); }}));
  EXPECT_EQ(in.get_future().get(), KvMoveOutcome::kDone);
  EXPECT_EQ(device, source);
  const KvMoverStats stats = mover->stats();
  EXPECT_EQ(stats.to_host.moved_bytes, source.size());
  EXPECT_EQ(stats.to_device.moved_bytes, source.size());
  EXPECT_EQ(stats.to_host.queued_bytes + stats.to_device.queued_bytes, 0u);
  EXPECT_EQ(stats.to_host.jobs_done, 1u);
  EXPECT_GT(stats.to_device.recent_bytes_per_s, 0);
}

TEST(KvMoverTest, AnEmptyJobIsDoneWithoutACopy) {
  const auto mover = MakeKvMover({.max_jobs = 1, .chunk_bytes = 16, .copy = {}});
  std::promise<KvMoveOutcome> answered;
  ASSERT_TRUE(mover->Submit({.direction = KvDirection::kToDevice,
                             .copies = {},
                             .done = [&](KvMoveOutcome outcome) { answered.set_value(outcome); }}));
  EXPECT_EQ(answered.get_future().get(), KvMoveOutcome::kDone);
}

TEST(KvMoverTest, DirectionsTakeTurnsByChunks) {
  Gate gate;
  Answers answers;
  const auto mover = MakeKvMover(gate.Options(100));
  const auto source = Noise(400, 2);
  std::vector<std::byte> a(400), b(400);
  ASSERT_TRUE(mover->Submit(
      {.direction = KvDirection::kToHost, .copies = Pieces(source, a, 400), .done = answers.For(0)}));
  gate.AwaitArrivals(1);
  ASSERT_TRUE(mover->Submit(
      {.direction = KvDirection::kToDevice, .copies = Pieces(source, b, 50), .done = answers.For(1)}));
  gate.Leave(100);
  answers.Await(2);
  EXPECT_EQ(gate.log(), "hddhddhddhdd") << "100 bytes each: one piece here, two there";
  EXPECT_EQ(a, source);
  EXPECT_EQ(b, source);
}

TEST(KvMoverTest, CancelStopsAtTheNextChunkAndAnswersOnce) {
  Gate gate;
  Answers answers;
  const auto mover = MakeKvMover(gate.Options(100));
  const auto source = Noise(1000, 3);
  std::vector<std::byte> a(1000), b(1000), c(1000);
  const auto running = mover->Submit(
      {.direction = KvDirection::kToHost, .copies = Pieces(source, a, 1000), .done = answers.For(0)});
  gate.AwaitArrivals(1);
  const auto waiting = mover->Submit(
      {.direction = KvDirection::kToHost, .copies = Pieces(source, b, 1000), .done = answers.For(1)});
  ASSERT_TRUE(mover->Submit(
      {.direction = KvDirection::kToHost, .copies = Pieces(source, c, 1000), .done = answers.For(2)}));
  mover->Cancel(*waiting);
  mover->Cancel(*waiting);
  mover->Cancel(*running);
  mover->Cancel(999);
  gate.Leave(1000);
  answers.Await(3);
  EXPECT_THAT(answers.list,
              ElementsAre(std::pair(0, KvMoveOutcome::kCancelled), std::pair(1, KvMoveOutcome::kCancelled),
                          std::pair(2, KvMoveOutcome::kDone)));
  EXPECT_EQ(b, std::vector<std::byte>(1000));
  EXPECT_EQ(c, source);
  EXPECT_EQ(gate.log().size(), 11u);
  EXPECT_EQ(mover->stats().to_host.queued_bytes, 0u);
}

TEST(KvMoverTest, TheQueueIsBounded) {
  Gate gate;
  Answers answers;
  const auto mover = MakeKvMover(gate.Options(100, 2));
  const auto source = Noise(100, 4);
  std::vector<std::byte> to(100);
  auto submit = [&](int job) {
    return mover->Submit(
        {.direction = KvDirection::kToHost, .copies = Pieces(source, to, 100), .done = answers.For(job)});
  };
  ASSERT_TRUE(submit(0));
  ASSERT_TRUE(submit(1));
  const auto refused = submit(2);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kOverloaded);
  EXPECT_EQ(refused.error().code, "kv_mover_full");
  gate.Leave(2);
  answers.Await(2);
  EXPECT_TRUE(submit(3));
  gate.Leave(1);
  answers.Await(3);
}

TEST(KvMoverTest, TheEndAnswersEverythingOnce) {
  Gate gate;
  Answers answers;
  const auto source = Noise(1000, 5);
  std::vector<std::vector<std::byte>> to(5, std::vector<std::byte>(1000));
  auto mover = MakeKvMover(gate.Options(100));
  for (int job = 0; job < 5; ++job) {
    ASSERT_TRUE(mover->Submit({.direction = job % 2 == 0 ? KvDirection::kToHost : KvDirection::kToDevice,
                               .copies = Pieces(source, to[static_cast<size_t>(job)], 1000),
                               .done = answers.For(job)}));
  }
  gate.AwaitArrivals(1);
  std::thread end([&] { mover.reset(); });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  gate.Leave(1000);  // the chunk under way; more only where the end came late
  end.join();
  std::set<int> answered;
  for (const auto& [job, outcome] : answers.list) {
    EXPECT_TRUE(answered.insert(job).second) << job;
    EXPECT_TRUE(outcome == KvMoveOutcome::kCancelled || to[static_cast<size_t>(job)] == source);
  }
  EXPECT_EQ(answered.size(), 5u);
}

TEST(KvMoverTest, ManyThreadsSubmitAndCancel) {
  const auto mover = MakeKvMover({.max_jobs = 64, .chunk_bytes = 512, .copy = {}});
  constexpr int kThreads = 3, kJobs = 2000;
  std::atomic<int> accepted{0}, done{0}, cancelled{0}, wrong{0};
  auto work = [&](uint64_t seed) {
    std::mt19937_64 random(seed);
    struct Buffers {
      std::vector<std::byte> from, to;
    };
    for (int i = 0; i < kJobs; ++i) {
      auto buffers = std::make_shared<Buffers>();
      buffers->from = Noise(1 + random() % 4000, random());
      buffers->to.resize(buffers->from.size());
      KvMoverJob job{.direction = random() % 2 == 0 ? KvDirection::kToHost : KvDirection::kToDevice,
                     .copies = Pieces(buffers->from, buffers->to, 1 + random() % 3000),
                     .done = [&, buffers](KvMoveOutcome outcome) {
                       ++(outcome == KvMoveOutcome::kDone ? done : cancelled);
                       if (outcome == KvMoveOutcome::kDone && buffers->from != buffers->to) ++wrong;
                     }};
      const auto id = mover->Submit(std::move(job));
      if (!id) {
        std::this_thread::yield();
        continue;
      }
      ++accepted;
      if (random() % 3 == 0) mover->Cancel(*id);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (std::thread& thread : threads) thread.join();
  while (done + cancelled < accepted) std::this_thread::yield();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(done, 0);
  EXPECT_EQ(mover->stats().to_host.queued_bytes + mover->stats().to_device.queued_bytes, 0u);
}

// ---- simulated ---------------------------------------------------------------------------------------

class SimulatedKvMoverTest : public ::testing::Test {
 protected:
  void Make(double shared_speed) {
    mover_ = MakeSimulatedKvMover(clock_, {.max_jobs = 8,
                                           .to_host_bytes_per_s = 1000,
                                           .to_device_bytes_per_s = 2000,
                                           .shared_speed = shared_speed});
  }
  uint64_t Submit(KvDirection direction, size_t bytes, int job) {
    return mover_
        ->Submit({.direction = direction,
                  .copies = {{source_.data(), to_.data(), bytes}},
                  .done =
                      [this, job](KvMoveOutcome outcome) {
                        ended_.emplace_back(job, outcome == KvMoveOutcome::kDone);
                      }})
        .value();
  }
  void AdvanceMs(int64_t ms) {
    clock_.Advance(ms * kMillisecond);
    mover_->Advance();
  }

  ManualClock clock_;
  std::unique_ptr<SimulatedKvMover> mover_;
  const std::vector<std::byte> source_ = Noise(10'000, 6);
  std::vector<std::byte> to_ = std::vector<std::byte>(10'000);
  std::vector<std::pair<int, bool>> ended_;
};

TEST_F(SimulatedKvMoverTest, TakesTheModelledTime) {
  Make(1);
  EXPECT_EQ(mover_->next_completion(), std::nullopt);
  Submit(KvDirection::kToHost, 500, 0);
  EXPECT_EQ(mover_->next_completion(), 500 * kMillisecond);
  AdvanceMs(499);
  EXPECT_TRUE(ended_.empty());
  EXPECT_NE(to_[0], source_[0]);
  AdvanceMs(1);
  EXPECT_THAT(ended_, ElementsAre(std::pair(0, true)));
  EXPECT_EQ(std::memcmp(to_.data(), source_.data(), 500), 0);
  EXPECT_NEAR(mover_->stats().to_host.recent_bytes_per_s, 1000, 1);
}

TEST_F(SimulatedKvMoverTest, JobsOfADirectionFollowEachOther) {
  Make(1);
  Submit(KvDirection::kToHost, 500, 0);
  AdvanceMs(100);
  Submit(KvDirection::kToHost, 100, 1);
  Submit(KvDirection::kToDevice, 100, 2);  // 50 ms, beside them
  EXPECT_EQ(mover_->next_completion(), 150 * kMillisecond);
  AdvanceMs(1000);
  EXPECT_THAT(ended_, ElementsAre(std::pair(2, true), std::pair(0, true), std::pair(1, true)));
  EXPECT_NEAR(mover_->stats().to_host.busy_s, 0.6, 1e-6);
}

TEST_F(SimulatedKvMoverTest, BothDirectionsShareTheLink) {
  Make(0.5);
  Submit(KvDirection::kToHost, 500, 0);    // 1000 bytes/s alone, 500 beside the other
  Submit(KvDirection::kToDevice, 200, 1);  // 2000 alone: ends after 0.2 s at 1000
  EXPECT_EQ(mover_->next_completion(), 200 * kMillisecond);
  AdvanceMs(200);
  EXPECT_THAT(ended_, ElementsAre(std::pair(1, true)));
  EXPECT_EQ(mover_->next_completion(), 600 * kMillisecond) << "400 bytes left at full speed";
  AdvanceMs(400);
  EXPECT_EQ(ended_.size(), 2u);
}

TEST_F(SimulatedKvMoverTest, CancelAndTheEndAnswer) {
  Make(1);
  const uint64_t first = Submit(KvDirection::kToHost, 500, 0);
  Submit(KvDirection::kToHost, 300, 1);
  AdvanceMs(200);
  mover_->Cancel(first);
  AdvanceMs(0);
  EXPECT_THAT(ended_, ElementsAre(std::pair(0, false)));
  EXPECT_EQ(mover_->next_completion(), 500 * kMillisecond) << "the second starts now";
  mover_.reset();
  EXPECT_THAT(ended_, ElementsAre(std::pair(0, false), std::pair(1, false)));
}

TEST_F(SimulatedKvMoverTest, ACallbackSubmitsAtItsOwnMoment) {
  Make(1);
  ASSERT_TRUE(mover_->Submit({.direction = KvDirection::kToHost,
                              .copies = {{source_.data(), to_.data(), 100}},
                              .done = [&](KvMoveOutcome) { Submit(KvDirection::kToHost, 100, 7); }}));
  AdvanceMs(150);
  EXPECT_TRUE(ended_.empty());
  EXPECT_EQ(mover_->next_completion(), 200 * kMillisecond) << "began at 100, not at 150";
  AdvanceMs(50);
  EXPECT_EQ(ended_.size(), 1u);
}

}  // namespace
}  // namespace tidepool::compute
