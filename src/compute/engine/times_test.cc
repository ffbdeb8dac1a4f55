// Where a request's time went: in line, loading, in prefill, decoding, stalled, on the device. The clock
// moves while a step is computed or a chunk of weights comes, by what the test says each takes, and a little
// where the policy waits for a moment that nothing else would bring; all of that is written down here: the
// oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

#include "compute/engine/engine_fixture.h"
#include "compute/residency/residency.h"

namespace tidepool::compute {
namespace {

constexpr uint64_t kTimedSegment = 64 << 10;
constexpr int32_t kTimedSegments = 4;
constexpr uint64_t kTimedWeights = kTimedSegment * kTimedSegments;
constexpr uint64_t kKvBlock = 128;                        // of the fake model
constexpr Nanoseconds kSegmentTime = 400 * kMillisecond;  // to load one
constexpr const char* kTick = "tick";
constexpr double kRounding = 1e-9;  // of sums of doubles that are seconds

// What the clock moved for.
struct Spent {
  Nanoseconds begin = 0, end = 0;
  std::string model;
  bool load = false;
};
class Diary {
 public:
  void Spend(Nanoseconds duration, const std::string& model, bool load) {
    const std::lock_guard lock(mutex_);
    const Nanoseconds begin = clock.now();
    clock.Advance(duration);
    entries_.push_back({begin, begin + duration, model, load});
  }
  // Seconds of [from, to) that `wanted` agrees with.
  double Seconds(double from_s, double to_s, const std::function<bool(const Spent&)>& wanted) const {
    const std::lock_guard lock(mutex_);
    double sum = 0;
    for (const Spent& spent : entries_) {
      const double begin = std::max(from_s, static_cast<double>(spent.begin) * 1e-9);
      const double end = std::min(to_s, static_cast<double>(spent.end) * 1e-9);
      if (end > begin && wanted(spent)) sum += end - begin;
    }
    return sum;
  }
  ManualClock clock;

 private:
  mutable std::mutex mutex_;
  std::vector<Spent> entries_;
};

// Weights that take their time of the diary's clock.
class TimedBacking final : public WeightBacking {
 public:
  TimedBacking(std::span<const architectures::WeightSegment> segments, Diary& diary, std::string model,
               Nanoseconds segment_time)
      : segments_(segments.begin(), segments.end()),
        diary_(diary),
        model_(std::move(model)),
        segment_time_(segment_time) {}
  std::span<const architectures::WeightSegment> segments() const override { return segments_; }
  Status Fetch(size_t segment, uint64_t begin, uint64_t bytes, const std::atomic<bool>&) override {
    if (begin + bytes == segments_[segment].bytes && segment_time_ > 0)
      diary_.Spend(segment_time_, model_, true);
    return {};
  }
  Status Check(size_t) override { return {}; }
  bool Checked(size_t) const override { return true; }
  void Pin(size_t) override {}
  void Unpin(size_t) override {}
  void Drop(size_t) override {}
  uint64_t BytesInMemory(size_t) const override { return 0; }

 private:
  const std::vector<architectures::WeightSegment> segments_;
  Diary& diary_;
  const std::string model_;
  const Nanoseconds segment_time_;
};

class TimedSink final : public GenerateSink {
 public:
  explicit TimedSink(const Clock& clock) : clock_(clock), submitted_s(Now()) {}
  void OnToken(const TokenEvent& event) override {
    if (tokens == 0) first_s = Now();
    tokens += event.tokens.size();
    if (on_token) on_token(tokens);
  }
  void OnFinish(const FinishEvent& event) override {
    const std::lock_guard lock(mutex_);
    finish = event;
    finished_s = Now();
    ended_ = true;
  }
  bool ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
  }
  // In line, in prefill and decoding: all of its life.
  void ExpectWhole() const {
    EXPECT_NEAR(finish.queue_s + finish.prefill_s + finish.decode_s, finished_s - submitted_s, kRounding);
    if (tokens > 0) {
      EXPECT_NEAR(finish.queue_s + finish.prefill_s, first_s - submitted_s, kRounding);
    }
  }
  double admitted_s() const { return submitted_s + finish.queue_s; }

 private:
  double Now() const { return static_cast<double>(clock_.now()) * 1e-9; }
  const Clock& clock_;
  std::mutex mutex_;
  bool ended_ = false;

 public:
  std::function<void(size_t)> on_token;  // engine thread
  size_t tokens = 0;
  double submitted_s = 0, first_s = 0, finished_s = 0;
  FinishEvent finish;
};

class EngineTimesTest : public EngineTest {
 protected:
  // Room for the weights of so many models and some KV: a model that comes takes the place of another.
  void StartTimed(int32_t resident, int32_t max_sequences) {
    EngineOptions options;
    options.max_batch_tokens = 64;
    options.max_sequences = max_sequences;
    options.speculation = false;
    options.kv_slab_bytes = 4 * kKvBlock;
    const FakeModel sizing({.context_length = 1024});
    const size_t workspace = sizing.WorkspaceBytes({.max_tokens = 64, .max_logit_rows = max_sequences});
    ledger = std::make_unique<Ledger>(workspace + static_cast<uint64_t>(resident) * kTimedWeights +
                                      400 * kKvBlock);
    residency_ = Residency::Start(*ledger, diary_.clock, {.warm_bytes = 64 << 20});
    engine = Engine::Start(*device, *ledger, diary_.clock, metrics, options);
  }
  // A model whose steps take `base` and `per_token`.
  ModelHandle AddTimed(const std::string& name, Nanoseconds base, Nanoseconds per_token = 0) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kTimedSegments, .segment_bytes = kTimedSegment});
    fake = model.get();
    model->on_step = [this, name, base, per_token](const architectures::Step& step) {
      diary_.Spend(base + per_token * std::ssize(step.tokens), name, false);
    };
    weights_.push_back(residency_->Attach(
        name, name, std::make_unique<TimedBacking>(model->segments(), diary_, name, segment_time_)));
    // Short promises, so that models take turns within the seconds of a test.
    const auto added = engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights_.back(),
                                        {.ttft_s = 1, .tpot_s = 0.1});
    EXPECT_TRUE(added) << (added ? "" : added.error().message);
    return added.value_or(0);
  }
  // The end of the request. `ticks`: the clock moves a little where no step comes for some time.
  bool Wait(TimedSink& sink, bool ticks = false) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    uint64_t steps = engine->load().steps;
    for (int quiet = 0; !sink.ended(); ++quiet) {
      if (std::chrono::steady_clock::now() > until) return false;
      std::this_thread::sleep_for(std::chrono::microseconds(500));
      const uint64_t now = engine->load().steps;
      if (std::exchange(steps, now) != now) quiet = 0;
      if (ticks && quiet >= 60 && quiet % 6 == 0) diary_.Spend(2 * kMillisecond, kTick, true);
    }
    return true;
  }
  // Its weights are there afterwards, and the clock stands.
  void Warm(ModelHandle model) {
    const auto sink = NewSink();
    Send(model, 5, 1, sink);
    ASSERT_TRUE(Wait(*sink));
    ASSERT_EQ(sink->finish.reason, FinishReason::kLength) << sink->finish.error.message;
    residency_->WaitIdle();
  }
  std::shared_ptr<TimedSink> NewSink() { return std::make_shared<TimedSink>(diary_.clock); }
  RequestHandle Send(ModelHandle model, int32_t prompt, int32_t output, std::shared_ptr<TimedSink> sink,
                     const std::string& account = "a") {
    GenerateRequest request = Request(model, Prompt(prompt, ++salt_), output, std::move(sink));
    request.sampling.ignore_eos = true;
    request.account = account;
    const auto handle = engine->Submit(std::move(request));
    EXPECT_TRUE(handle) << (handle ? "" : handle.error().message);
    return handle.value_or(0);
  }
  double Steps(double from_s = 0, double to_s = 1e9, const std::string& of = "") const {
    return diary_.Seconds(
        from_s, to_s, [&](const Spent& spent) { return !spent.load && (of.empty() || spent.model == of); });
  }
  double Loads(const std::string& of, double from_s = 0, double to_s = 1e9) const {
    return diary_.Seconds(from_s, to_s, [&](const Spent& spent) { return spent.load && spent.model == of; });
  }
  // Alone on its model, the only one of `name`: its steps are the model's. A tick may count for anything.
  void ExpectAlone(const TimedSink& sink, const std::string& name) {
    sink.ExpectWhole();
    const double admitted_s = sink.admitted_s();
    const double ticks_s = Loads(kTick, sink.submitted_s, sink.finished_s) + kRounding;
    const FinishEvent& finish = sink.finish;
    const auto foreign = [&](const Spent& spent) { return spent.load || spent.model != name; };
    EXPECT_NEAR(finish.device_s, Steps(admitted_s, sink.finished_s, name), ticks_s) << name;
    EXPECT_NEAR(finish.stall_s, finish.prefill_s + finish.decode_s - finish.device_s, kRounding) << name;
    EXPECT_NEAR(finish.stall_s, diary_.Seconds(admitted_s, sink.finished_s, foreign), ticks_s) << name;
    EXPECT_NEAR(finish.load_s, Loads(name, sink.submitted_s, admitted_s), ticks_s) << name;
    EXPECT_LE(finish.load_s, finish.queue_s) << name;
  }
  void TearDown() override {
    EngineTest::TearDown();
    weights_.clear();
    engine.reset();
    residency_.reset();
  }

  Diary diary_;
  std::unique_ptr<Residency> residency_;
  std::vector<std::shared_ptr<ResidentWeights>> weights_;
  Nanoseconds segment_time_ = kSegmentTime;
  int32_t salt_ = 0;
};

// What is charged to requests is what the device did, whoever shared its steps and whoever left.
TEST_F(EngineTimesTest, DeviceSecondsOfAllAreTheDevicesBusyTime) {
  segment_time_ = 0;  // weights would come while others compute
  StartTimed(2, 8);   // of three models: they take turns
  const ModelHandle models[] = {AddTimed("m0", kMillisecond, 40'000), AddTimed("m1", 3 * kMillisecond, 7'000),
                                AddTimed("m2", 11'000'017, 1'003)};
  std::mt19937_64 random(11);
  std::vector<std::shared_ptr<TimedSink>> sinks;
  std::atomic<RequestHandle> handles[90] = {};
  for (size_t i = 0; i < std::size(handles); ++i) {
    auto sink = NewSink();
    const auto output = static_cast<int32_t>(1 + random() % 40);
    if (const size_t at = 1 + random() % 30; i % 3 == 0 && at < static_cast<size_t>(output)) {
      sink->on_token = [&, i, at](size_t tokens) {
        if (tokens == at) engine->Cancel(handles[i]);
      };
    }
    handles[i] = Send(models[random() % 3], static_cast<int32_t>(1 + random() % 200), output, sink,
                      "account" + std::to_string(random() % 4));
    sinks.push_back(std::move(sink));
  }
  double charged = 0;
  std::array<double, 2> by_end = {};
  for (const auto& sink : sinks) {
    ASSERT_TRUE(Wait(*sink, true));
    EXPECT_NE(sink->finish.reason, FinishReason::kError) << sink->finish.error.message;
    charged += sink->finish.device_s;
    by_end[sink->finish.reason == FinishReason::kCancelled ? 1 : 0] += sink->finish.device_s;
    EXPECT_GT(sink->finish.device_s, 0);
  }
  EXPECT_NEAR(charged, Steps(), Loads(kTick) + 1e-9 * static_cast<double>(sinks.size()));
  EXPECT_GT(by_end[0], 0);
  EXPECT_GT(by_end[1], 0) << "no cancel took effect: this shows half";
}

TEST_F(EngineTimesTest, TimeInLineIsThatOfTheRequestsBefore) {
  StartTimed(1, 1);
  const ModelHandle model = AddTimed("m", 10 * kMillisecond, kMillisecond);
  Warm(model);
  // All come while the first is in its first step: the clock stands.
  const auto first = NewSink();
  std::vector<std::shared_ptr<TimedSink>> others;
  first->on_token = [&](size_t tokens) {
    if (tokens != 1) return;
    for (int i = 0; i < 2; ++i) {
      others.push_back(NewSink());
      Send(model, 20, 5, others.back());
    }
  };
  Send(model, 20, 5, first);
  ASSERT_TRUE(Wait(*first));
  // 10 + 20 ms of prefill, four steps of 11 ms.
  EXPECT_EQ(first->finish.queue_s, 0);
  EXPECT_EQ(first->finish.load_s, 0) << "its weights were there";
  EXPECT_NEAR(first->finish.prefill_s, 0.030, kRounding);
  EXPECT_NEAR(first->finish.decode_s, 0.044, kRounding);
  ASSERT_EQ(others.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_TRUE(Wait(*others[i]));
    others[i]->ExpectWhole();
    const FinishEvent& finish = others[i]->finish;
    EXPECT_NEAR(finish.queue_s, 0.044 + 0.074 * static_cast<double>(i), kRounding);
    EXPECT_NEAR(finish.prefill_s, 0.030, kRounding);
    EXPECT_NEAR(finish.decode_s, 0.044, kRounding);
    EXPECT_NEAR(finish.device_s, 0.074, kRounding);
    EXPECT_EQ(finish.load_s, 0) << "its weights were there";
    EXPECT_NEAR(finish.stall_s, 0, kRounding);
  }
}

// Two models in the memory of one. The second waits for turns of the first, then for its load; the first
// stands still in mid-answer meanwhile, and while it is loaded again.
TEST_F(EngineTimesTest, LoadsAndStallsBehindAnotherModel) {
  StartTimed(1, 8);
  const ModelHandle slow = AddTimed("slow", 10 * kMillisecond), quick = AddTimed("quick", 40 * kMillisecond);
  Warm(slow);
  const auto longer = NewSink(), shorter = std::make_shared<TimedSink>(diary_.clock);
  longer->on_token = [&](size_t tokens) {
    if (tokens != 10) return;
    shorter->submitted_s = static_cast<double>(diary_.clock.now()) * 1e-9;
    Send(quick, 12, 6, shorter);
  };
  Send(slow, 10, 900, longer);
  ASSERT_TRUE(Wait(*longer, true));
  ASSERT_TRUE(Wait(*shorter, true));
  ASSERT_LT(shorter->finished_s, longer->finished_s) << "it was to be answered in the middle of the other";
  ExpectAlone(*longer, "slow");
  ExpectAlone(*shorter, "quick");
  // Each of these is there, or this shows nothing.
  EXPECT_EQ(longer->finish.queue_s, 0);
  const double ticks_s = Loads(kTick) + kRounding;
  EXPECT_LT(ticks_s, 3) << "this shows little";
  EXPECT_NEAR(longer->finish.device_s, 900 * 0.010, ticks_s);
  EXPECT_GE(longer->finish.stall_s, 6 * 0.040 + kTimedSegments * 0.400);
  EXPECT_GE(Loads("slow", longer->admitted_s(), longer->finished_s), 0.400 - kRounding) << "not loaded again";
  EXPECT_NEAR(shorter->finish.load_s, kTimedSegments * 0.400, ticks_s);
  EXPECT_GE(shorter->finish.queue_s, shorter->finish.load_s);
  EXPECT_NEAR(shorter->finish.device_s, 6 * 0.040, ticks_s);
}

}  // namespace
}  // namespace tidepool::compute
