// Room that slabs of KV hold beside their blocks, which the ledger knows of and the scheduler does not.
#include <gtest/gtest.h>

#include <chrono>
#include <memory>
#include <thread>

#include "compute/engine/pool_fixture.h"

namespace tidepool::compute {
namespace {

// The scheduler counts blocks, the ledger slabs of them: what lacks room which only the ledger knows of is
// decided again at once. The clock stands still: what would wait for it would wait for ever.
class EngineSlabTest : public EnginePoolTest {
 protected:
  static constexpr uint64_t kSlab = 512 * kBlock;  // as much as a segment of weights
  // Models a, b and c; an answer of a, which stands, has a slab for its 4 blocks.
  void Start(uint64_t bytes_beside_workspace) {
    EngineOptions options;
    options.max_batch_tokens = 64;
    options.max_sequences = 8;
    options.kv_slab_bytes = kSlab;
    ledger = std::make_unique<Ledger>(
        FakeModel({.context_length = 1024}).WorkspaceBytes({.max_tokens = 64, .max_logit_rows = 8}) +
        bytes_beside_workspace);
    residency = Residency::Start(*ledger, still_, {.warm_bytes = 64 << 20, .chunk_bytes = 16 << 10});
    arena = std::make_unique<HostKvArena>(HostKvArenaOptions{});
    engine = Engine::Start(*device, *ledger, still_, metrics, options);
    a_ = AddPooled("a"), b_ = AddPooled("b"), c_ = AddPooled("c");
    stands_->on_token = [](size_t) { std::this_thread::sleep_for(std::chrono::milliseconds(5)); };
    const RequestHandle handle = Ask(a_, stands_);
    stands_->WaitForTokens(1);
    engine->SetPaused(handle, true);
  }
  RequestHandle Ask(ModelHandle model, const std::shared_ptr<RecordingSink>& sink) {
    const auto handle = engine->Submit(Request(model, Prompt(20), 30, sink));
    EXPECT_TRUE(handle);
    return handle.value_or(0);
  }
  void Use(ModelHandle model) {
    const auto sink = std::make_shared<RecordingSink>();
    Ask(model, sink);
    sink->Wait();
  }
  template <typename Condition>
  static bool Eventually(const Condition& condition) {
    for (int i = 0; i < 5000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return condition();
  }
  void TearDown() override {
    EXPECT_FALSE(stands_->finished());
    engine.reset();
    EnginePoolTest::TearDown();
  }
  ManualClock still_;
  ModelHandle a_ = 0, b_ = 0, c_ = 0;
  const std::shared_ptr<RecordingSink> stands_ = std::make_shared<RecordingSink>();
};

TEST_F(EngineSlabTest, ALoadThatLacksRoomDoesNotWait) {
  // Beside a and b some 80 KiB are free, 64 fewer by the slab: with three segments of b there would be room
  // for c, and there is not.
  Start(2 * kWeights + kSlab + kSlab * 3 / 8);
  Use(b_);
  Ask(c_, std::make_shared<RecordingSink>());
  EXPECT_TRUE(Eventually([&] { return weights_["c"]->complete(); }));
  EXPECT_GT(engine->pool()->counters.load_failures, 0u) << "this shows nothing";
}

// Blocks that the scheduler saw free are in a's slab, so a model that nobody uses gives some of its weights.
TEST_F(EngineSlabTest, AnAnswerThatLacksRoomDoesNotWait) {
  Start(4 * kWeights);
  Use(c_);
  ASSERT_TRUE(weights_["c"]->complete());
  // Beside a's slab and c room for b, and not for the blocks of an answer.
  engine->Trim(1 << 30);
  ledger->SetLimit(ledger->used() + kWeights + 2 * kBlock);
  engine->LimitsChanged();
  const auto late = std::make_shared<RecordingSink>();
  Ask(b_, late);
  EXPECT_TRUE(Eventually([&] { return late->finished(); }));
  EXPECT_EQ(engine->pool()->counters.load_failures, 0u) << "this shows nothing";
  EXPECT_GT(engine->pool()->counters.evictions, 0u);
}

}  // namespace
}  // namespace tidepool::compute
