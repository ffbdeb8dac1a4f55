// A noisy account on the real engine: the clock moves by what each step would have taken (and a little while
// nothing is seen to be computed). The bound on another account's p99 time to the first token, against a run
// in which the noisy one sends exactly its share: 1.2 times and a few steps.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

#include "compute/engine/engine_fixture.h"

namespace tidepool::compute {
namespace {

constexpr uint64_t kFairSegment = 64 << 10;
constexpr int32_t kFairSegments = 4;
constexpr double kFairSeconds = 120;
constexpr Nanoseconds kFairWarmUp = 20 * kSecond;  // step times are learned meanwhile
constexpr StepProfile kFairProfile = {.prefill_base_s = 0.006,
                                      .prefill_per_token_s = 50e-6,
                                      .decode_base_s = 0.008,
                                      .decode_per_sequence_s = 400e-6};

class FirstTokenSink final : public GenerateSink {
 public:
  FirstTokenSink(const Clock& clock, std::atomic<int>& open) : clock_(clock), open_(open) {}
  void OnToken(const TokenEvent&) override {
    if (first_at == 0) first_at = clock_.now();
  }
  void OnFinish(const FinishEvent& event) override {
    refused = event.reason == FinishReason::kError;
    --open_;
  }
  Nanoseconds first_at = 0;
  bool refused = false;

 private:
  const Clock& clock_;
  std::atomic<int>& open_;
};

struct Sender {
  std::string account;
  double per_s = 1;
  std::vector<size_t> models;
};

struct Watched {
  double p50_s = 0, p99_s = 0;
  int32_t refused = 0;
  size_t requests = 0;
};

class EngineFairnessTest : public EngineTest {
 protected:
  // What account "quiet" sees. `resident`: how many of the models have room for their weights.
  Watched Run(size_t model_count, size_t resident, const std::vector<Sender>& senders) {
    ManualClock time;
    ledger = std::make_unique<Ledger>((8 << 20) + resident * kFairSegments * kFairSegment);
    const auto residency = Residency::Start(*ledger, time, {.warm_bytes = 64 << 20});
    EngineOptions options;
    options.max_sequences = 16;
    options.kv_slab_bytes = 64 * 128;
    options.pool.admission_load = 1;
    engine = Engine::Start(*device, *ledger, time, metrics, options);

    struct Planned {
      Nanoseconds at;
      ModelHandle model;
      std::string account;
      int32_t prompt, output;
      std::shared_ptr<FirstTokenSink> sink;
    };
    std::vector<Planned> planned;
    std::atomic<int> open{0};
    std::atomic<size_t> next{0};
    std::mutex submitting;
    const auto submit_due = [&] {
      const std::lock_guard lock(submitting);
      while (next < planned.size() && planned[next].at <= time.now()) {
        Planned& p = planned[next];
        GenerateRequest request =
            Request(p.model, Prompt(p.prompt, static_cast<int32_t>(next)), p.output, p.sink);
        request.account = p.account;
        request.workspace = p.account;
        request.sampling.ignore_eos = true;
        ++open;
        if (!engine->Submit(std::move(request))) {
          p.sink->refused = true;
          --open;
        }
        ++next;
      }
    };
    std::vector<ModelHandle> models;
    std::vector<std::shared_ptr<ResidentWeights>> weights;
    for (size_t i = 0; i < model_count; ++i) {
      auto model = std::make_unique<FakeModel>(
          FakeModelOptions{.context_length = 1024, .segments = kFairSegments, .segment_bytes = kFairSegment});
      model->on_step = [&](const architectures::Step& step) {
        double prefill = 0, decodes = 0;
        for (const chips::SequenceSlice& slice : step.sequences)
          (slice.token_count > 1 ? prefill : decodes) += slice.token_count;
        const double seconds = kFairProfile.StepSeconds(prefill, 0, 0, decodes);
        // Loads are threads of real time, in which hundreds of these steps would pass: no load takes longer
        // than the step that it began in.
        residency->WaitIdle();
        time.Advance(static_cast<Nanoseconds>(seconds * 1e9));
        submit_due();  // what arrived while the step was computed
      };
      const std::string name = "m" + std::to_string(i);
      weights.push_back(residency->Attach(name, name, MakeSimulatedBacking(model->segments(), {}, time)));
      const auto added = engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights.back(),
                                          {.profile = kFairProfile});
      EXPECT_TRUE(added);
      models.push_back(added.value_or(0));
    }
    for (const Sender& sender : senders) {  // a sender's arrivals are the same whatever the others send
      std::mt19937_64 random(std::hash<std::string>()(sender.account));
      const auto uniform = [&] { return (static_cast<double>(random() >> 11) + 0.5) * 0x1p-53; };
      for (double at = 0; (at += -std::log(uniform()) / sender.per_s) < kFairSeconds;) {
        planned.push_back({.at = std::llround(at * 1e9),
                           .model = models[sender.models[random() % sender.models.size()]],
                           .account = sender.account,
                           .prompt = 30 + static_cast<int32_t>(random() % 100),
                           .output = 10 + static_cast<int32_t>(random() % 40),
                           .sink = std::make_shared<FirstTokenSink>(time, open)});
      }
    }
    std::stable_sort(planned.begin(), planned.end(),
                     [](const Planned& a, const Planned& b) { return a.at < b.at; });
    // While nothing is computed, time passes here: to the next arrival, or a little, for whoever waits for a
    // clock.
    uint64_t steps = engine->load().steps;
    while (next < planned.size() || open > 0) {
      std::this_thread::sleep_for(std::chrono::microseconds(100));
      const uint64_t now = engine->load().steps;
      if (std::exchange(steps, now) != now) continue;
      residency->WaitIdle();
      if (open == 0 && next < planned.size()) {
        time.Advance(std::max<Nanoseconds>(0, planned[next].at - time.now()));
      } else {
        time.Advance(kMillisecond / 10);
      }
      submit_due();
    }
    Watched watched;
    std::vector<double> first;
    for (const Planned& p : planned) {
      if (p.account != "quiet" || p.at < kFairWarmUp) continue;
      watched.refused += p.sink->refused;
      first.push_back(p.sink->first_at == 0 ? 1e9 : static_cast<double>(p.sink->first_at - p.at) * 1e-9);
    }
    std::sort(first.begin(), first.end());
    watched.requests = first.size();
    watched.p50_s = first[first.size() / 2];
    watched.p99_s = first[static_cast<size_t>(0.99 * static_cast<double>(first.size()))];
    engine.reset();
    return watched;
  }

  void ExpectUnmoved(size_t models, size_t resident, std::vector<Sender> senders, double noise) {
    const Watched calm = Run(models, resident, senders);
    senders.back().per_s *= noise;
    const Watched noisy = Run(models, resident, senders);
    std::printf("p50 %.3f -> %.3f s, p99 %.3f -> %.3f s (x%.2f), refused %d -> %d of %zu\n", calm.p50_s,
                noisy.p50_s, calm.p99_s, noisy.p99_s, noisy.p99_s / calm.p99_s, calm.refused, noisy.refused,
                noisy.requests);
    EXPECT_GT(calm.requests, 200u);
    // With one account for both the median is .4 s and more, or some are refused.
    EXPECT_LE(noisy.p50_s, 1.2 * calm.p50_s + 0.1);
    // For the 99th percentile the goal is 1.2 times; pool_fairness_test holds it where time is the
    // simulator's own. Here threads decide which requests one decision sees, and a calm p99 of five steps (70
    // ms) becomes a tenth of a second or, on a busy machine, one or two: what is bounded is that it stays far
    // below the 10 s that everybody else waits.
    EXPECT_LE(noisy.p99_s, 1.2 * calm.p99_s + 4);
    EXPECT_EQ(noisy.refused, 0) << "an account within its share is not refused for what others send";
  }
};

// 16 sequences decode at 14 ms a step, 1,100 tokens/s; an answer has 30: 37 requests/s at most.
TEST_F(EngineFairnessTest, OneModelShared) {
  ExpectUnmoved(1, 1, {{"quiet", 6, {0}}, {"noisy", 10, {0}}}, 8);
}
TEST_F(EngineFairnessTest, ModelsOfTheirOwn) {
  ExpectUnmoved(2, 2, {{"quiet", 4, {0}}, {"noisy", 5, {1}}}, 8);
}
TEST_F(EngineFairnessTest, ModelsThatSwitch) {
  ExpectUnmoved(4, 3, {{"quiet", 4, {0, 1}}, {"noisy", 4, {2, 3}}}, 8);
}

}  // namespace
}  // namespace tidepool::compute
