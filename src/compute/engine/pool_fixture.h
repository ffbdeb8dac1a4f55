// For tests: an engine whose models of simulated weights share a small ledger, with a host arena for KV.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compute/engine/engine_fixture.h"
#include "compute/residency/residency_fixture.h"

namespace tidepool::compute {

inline constexpr uint64_t kSegment = 64 << 10;
inline constexpr int32_t kSegments = 4;
inline constexpr uint64_t kWeights = kSegment * kSegments;
inline constexpr size_t kBlock = 128;  // of the fake model's KV

class EnginePoolTest : public EngineTest {
 protected:
  // Room for `weight_bytes` of weights and `kv_blocks` beside the scratch.
  void StartPool(uint64_t weight_bytes, uint64_t kv_blocks, uint64_t host_kv_bytes = 0,
                 EngineOptions options = {}) {
    options.max_batch_tokens = 64;
    options.max_sequences = 8;
    const FakeModel sizing({.context_length = 1024});
    const uint64_t workspace = sizing.WorkspaceBytes({.max_tokens = 64, .max_logit_rows = 8});
    ledger = std::make_unique<Ledger>(workspace + weight_bytes + kv_blocks * kBlock);
    residency = Residency::Start(*ledger, clock, {.warm_bytes = 64 << 20, .chunk_bytes = 16 << 10});
    arena = std::make_unique<HostKvArena>(
        HostKvArenaOptions{.limit_bytes = host_kv_bytes, .slab_bytes = 16 * kBlock});
    options.host_kv = arena.get();
    options.kv_slab_bytes = 4 * kBlock;
    engine = Engine::Start(*device, *ledger, clock, metrics, options);
  }
  ModelHandle AddPooled(const std::string& name, SimulatedBackingOptions backing = {},
                        ModelPolicy policy = {}) {
    auto model = std::make_unique<FakeModel>(
        FakeModelOptions{.context_length = 1024, .segments = kSegments, .segment_bytes = kSegment});
    fake = model.get();
    auto weights = residency->Attach(name, name, MakeSimulatedBacking(model->segments(), backing, clock));
    model->needs_resident = [w = weights.get()] { return w->complete(); };
    weights_[name] = weights;
    auto added = engine->AddModel(name, std::move(model), tokenizer, 0, Charge(), weights, policy);
    EXPECT_TRUE(added) << (added ? "" : added.error().message);
    return added.value_or(0);
  }
  void ExpectRight(const RecordingSink& sink, const std::vector<int32_t>& prompt, int32_t max_tokens) {
    EXPECT_EQ(sink.finishes, 1);
    EXPECT_NE(sink.finish.reason, FinishReason::kError) << sink.finish.error.message;
    EXPECT_EQ(sink.tokens, FakeModel::GreedyAnswer(prompt, max_tokens));
  }
  void ExpectDrained() {
    EXPECT_EQ(engine->load().running, 0);
    EXPECT_EQ(engine->load().waiting, 0);
    EXPECT_EQ(arena->stats().used_bytes + arena->stats().moving_bytes, 0u);
    engine->Trim(1 << 30);
    EXPECT_EQ(ledger->used_by(ChargeKind::kKv), 0u);
    EXPECT_LE(ledger->used(), ledger->limit());
  }
  void TearDown() override {
    EngineTest::TearDown();
    weights_.clear();
    engine.reset();
    residency.reset();
  }

  std::unique_ptr<Residency> residency;
  std::unique_ptr<HostKvArena> arena;
  std::map<std::string, std::shared_ptr<ResidentWeights>> weights_;
};

}  // namespace tidepool::compute
