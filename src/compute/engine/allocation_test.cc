// A step allocates nothing on the heap once warm: counted by an operator new of our own, on the engine
// thread.
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <new>

#include "compute/engine/engine_fixture.h"

namespace {
thread_local bool counting = false;
std::atomic<uint64_t> allocations{0};

void* Allocate(std::size_t size) {
  if (counting) allocations.fetch_add(1);
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t size) { return Allocate(size); }
void* operator new[](std::size_t size) { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace tidepool::compute {
namespace {

// Counts tokens without allocating, and turns the counting of allocations on and off on the engine thread.
class CountingSink final : public GenerateSink {
 public:
  CountingSink(size_t count_from, size_t count_to) : from_(count_from), to_(count_to) {}
  void OnToken(const TokenEvent& event) override {
    said += event.tokens.size();
    bytes += event.content.size() + event.logprobs.size();
    if (said == from_) counting = true;
    if (said == to_) counting = false;
  }
  void OnFinish(const FinishEvent& event) override {
    reason = event.reason;
    done.store(true);
    done.notify_all();
  }
  size_t said = 0, bytes = 0;
  FinishReason reason = FinishReason::kError;
  std::atomic<bool> done{false};

 private:
  size_t from_, to_;
};

class AllocationTest : public EngineTest {
 protected:
  // Twelve answers of 600 tokens with everything a request can ask for; the first one measures between its
  // tokens.
  void Run(bool with_prefill, size_t from, size_t to) {
    allocations = 0;
    // The model waits inside its first step until everything is submitted: what the test's own thread
    // allocates to submit is not the engine's.
    fake->hold = true;
    std::vector<std::shared_ptr<CountingSink>> sinks;
    for (int32_t i = 0; i < 12; ++i) {
      sinks.push_back(std::make_shared<CountingSink>(i == 0 ? from : 0, i == 0 ? to : 0));
      GenerateRequest request = Request(model_, Prompt(30, i), 600, sinks.back());
      request.sampling.ignore_eos = true;
      request.sampling.seed = i;
      request.sampling.temperature = i % 3 == 0 ? 0.0f : 0.8f;
      request.sampling.top_k = i % 2 == 0 ? 40 : 0;
      request.sampling.top_p = 0.9f;
      request.sampling.min_p = 0.01f;
      request.sampling.repetition_penalty = i % 4 == 0 ? 1.1f : 1.0f;
      request.sampling.frequency_penalty = i % 4 == 1 ? 0.5f : 0.0f;
      request.sampling.logit_bias = {{3, 1.0f}};
      request.sampling.top_logprobs = i % 5;
      request.sampling.stop = {"this does not come", "nor this"};
      request.sampling.min_tokens = 300;
      request.reasoning = {.open_tag = "<think>", .close_tag = "</think>", .starts_inside = i % 2 == 1};
      request.sampling.reasoning_budget = i % 2 == 1 ? 200 : -1;
      ASSERT_TRUE(engine->Submit(std::move(request)));
    }
    std::shared_ptr<CountingSink> prefill;
    if (with_prefill) {  // 3,000 tokens in chunks of what the decodes leave
      prefill = std::make_shared<CountingSink>(0, 0);
      ASSERT_TRUE(engine->Submit(Request(model_, Prompt(3000, 99), 1, prefill)));
    }
    fake->hold = false;
    for (const auto& sink : sinks) sink->done.wait(false);
    if (prefill != nullptr) prefill->done.wait(false);
    EXPECT_EQ(allocations.load(), 0u);
    for (const auto& sink : sinks) {
      EXPECT_EQ(sink->said, 600u);
      EXPECT_EQ(sink->reason, FinishReason::kLength);
    }
  }
  void SetUp() override {
    StartEngine({.max_batch_tokens = 32, .max_sequences = 16});
    model_ = AddFake();
  }
  ModelHandle model_ = 0;
};

TEST_F(AllocationTest, TheCounterCounts) {
  allocations = 0;
  counting = true;
  auto* leak = new int(5);
  counting = false;
  EXPECT_EQ(allocations.load(), 1u);
  delete leak;
}

TEST_F(AllocationTest, DecodeStepsAllocateNothing) { Run(false, 30, 590); }

TEST_F(AllocationTest, StepsWithPrefillChunksAllocateNothing) { Run(true, 30, 140); }

}  // namespace
}  // namespace tidepool::compute
