// Forward allocates nothing once warm: every operator new of the process is counted while it runs, for every
// family.
#include <atomic>
#include <cstdlib>
#include <new>

#include "models/architectures/script.h"
#include "models/architectures/test_runner.h"

namespace {
std::atomic<int64_t> g_allocations{0};

void* Counted(size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* CountedAligned(size_t bytes, std::align_val_t alignment) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  const size_t a = static_cast<size_t>(alignment);
  void* const memory = std::aligned_alloc(a, (bytes + a - 1) / a * a);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(size_t bytes) { return Counted(bytes); }
void* operator new[](size_t bytes) { return Counted(bytes); }
void* operator new(size_t bytes, std::align_val_t a) { return CountedAligned(bytes, a); }
void* operator new[](size_t bytes, std::align_val_t a) { return CountedAligned(bytes, a); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }

namespace tidepool::architectures::testing {
namespace {

constexpr int32_t kTokens = 23;

int64_t AllocationsOfForward(Model& model, const StepLimits& limits, std::byte* workspace,
                             const TestSequence& s) {
  std::vector<int32_t> tokens(kTokens, 7), positions(kTokens), rows = {3, kTokens - 1};
  for (int32_t i = 0; i < kTokens; ++i) positions[static_cast<size_t>(i)] = i;
  const chips::SequenceSlice slice{0, kTokens, 0, s.blocks(), s.block_count()};
  const Step step{tokens, positions, std::span(&slice, 1),
                  model.info().generates ? std::span<const int32_t>(rows) : std::span<const int32_t>(), rows};
  const int64_t before = g_allocations.load();
  model.Forward(step, limits, workspace);
  return g_allocations.load() - before;
}

TEST(Forward, AllocatesNothing) {
  const char* const models[] = {"llama", "llama_yarn", "qwen2", "qwen3", "gemma3", "bert"};
  for (const std::string& set : chips::CpuInstructionSets()) {
    if (set == "reference")
      continue;  // the oracle of the kernels: plain code that may allocate inside its ops
    for (const char* name : models) {
      for (const char* file : {"", "quantised.gguf"}) {
        SCOPED_TRACE(set + " " + name + " " + file);
        const auto folder = TestdataFolder() / "tiny" / name;
        ModelRunner runner(CpuDevice(set), *file == '\0' ? folder : folder / file, {});
        const TestSequence sequence = runner.NewSequence({}, kTokens);
        AllocationsOfForward(runner.model(), runner.limits(), runner.workspace(), sequence);  // warm-up
        EXPECT_EQ(AllocationsOfForward(runner.model(), runner.limits(), runner.workspace(), sequence), 0);
      }
    }
  }
}

TEST(Forward, AllocatesNothingWhenScripted) {
  const auto device = chips::MakeSimulatedDevice({});
  const auto model = Must(MakeScriptedModel(*device, 4096));
  const StepLimits limits{.max_tokens = 64, .max_logit_rows = 8};
  const auto workspace = Must(device->Allocate(model->WorkspaceBytes(limits)));
  const TestSequence sequence(*device, model->kv_layout(), 64);
  EXPECT_EQ(AllocationsOfForward(*model, limits, workspace.data(), sequence), 0);
}

}  // namespace
}  // namespace tidepool::architectures::testing
