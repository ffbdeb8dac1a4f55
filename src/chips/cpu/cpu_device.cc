#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "chips/cpu/best_rate.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/node_copies.h"
#include "chips/cpu/processor.h"
#include "chips/cpu/thread_pool.h"
#include "chips/cpu/topology.h"
#include "chips/device.h"
#include "chips/quantisation.h"

namespace tidepool::chips {
namespace {

using cpu::CpuOps;
using cpu::ThreadPool;

// Larger than any real weight (a 512k x 64k table has 2^35 elements), small enough that no product overflows.
constexpr int64_t kMaxSide = int64_t{1} << 31;
constexpr int64_t kMaxElements = int64_t{1} << 40;

std::string ShapeText(const WeightSpec& spec) {
  return "[" + std::to_string(spec.rows) + ", " + std::to_string(spec.columns) + "]";
}

Status CheckSpec(const WeightSpec& spec) {
  const DataTypeTraits* traits = FindDataTypeTraits(spec.type);
  if (traits == nullptr || !CanDequantise(spec.type)) {
    const std::string name =
        traits == nullptr ? std::to_string(static_cast<int>(spec.type)) : std::string(traits->name);
    return Fail(ErrorKind::kInvalid, "unsupported_weight_type",
                "Weights of type " + name +
                    " cannot be computed with on this device; convert the model to one of "
                    "F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q6_K or a neighbour of these.");
  }
  if (spec.rows <= 0 || spec.columns <= 0 || spec.rows > kMaxSide || spec.columns > kMaxSide ||
      spec.rows > kMaxElements / spec.columns) {
    return Fail(ErrorKind::kInvalid, "bad_weight_shape",
                "A weight of shape " + ShapeText(spec) + " is impossible.");
  }
  if (spec.columns % traits->block_elements != 0) {
    return Fail(ErrorKind::kInvalid, "bad_weight_shape",
                "A weight of shape " + ShapeText(spec) + " and type " + std::string(traits->name) +
                    " needs columns in multiples of " + std::to_string(traits->block_elements) + ".");
  }
  return {};
}

class CpuDevice final : public Device {
 public:
  CpuDevice(DeviceInfo info, cpu::Backend backend)
      : info_(std::move(info)),
        copies_(std::move(backend.copies)),
        pool_(std::move(backend.pool)),
        ops_(std::move(backend.ops)) {}

  const DeviceInfo& info() const override { return info_; }
  Result<DeviceBuffer> Allocate(size_t bytes) override { return cpu::AllocateHostMemory(bytes); }

  Result<size_t> PackedBytes(const WeightSpec& spec) const override {
    TP_TRY(CheckSpec(spec));
    return ops_->PackedBytes(spec);
  }

  Result<PackedWeight> Pack(const WeightSpec& spec, std::span<const std::byte> source,
                            std::byte* destination) override {
    TP_TRY(CheckSpec(spec));
    const size_t expected = static_cast<size_t>(spec.rows) * RowBytes(spec.type, spec.columns);
    if (source.size() != expected) {
      return Fail(ErrorKind::kInvalid, "bad_weight_size",
                  "A weight of shape " + ShapeText(spec) + " and type " +
                      std::string(TraitsOf(spec.type).name) + " takes " + std::to_string(expected) +
                      " bytes, but " + std::to_string(source.size()) + " were given.");
    }
    CHECK(destination != nullptr && reinterpret_cast<uintptr_t>(destination) % 64 == 0);
    return ops_->Pack(spec, source.data(), destination);
  }

  Result<PackedWeight> ViewPacked(const WeightSpec& spec, std::span<const std::byte> packed) const override {
    TP_ASSIGN(const size_t bytes, PackedBytes(spec));
    if (packed.size() != bytes || reinterpret_cast<uintptr_t>(packed.data()) % 64 != 0) {
      return Fail(ErrorKind::kInvalid, "bad_weight_size",
                  "A packed weight of shape " + ShapeText(spec) + " takes " + std::to_string(bytes) +
                      " bytes at a multiple of 64, but " + std::to_string(packed.size()) + " were given.");
    }
    return PackedWeight{spec, packed.data(), bytes, ops_->LayoutId(spec)};
  }
  uint32_t PackingVersion() const override { return cpu::kPackingVersion; }

  int WeightCopyCount() const override { return copies_ == nullptr ? 1 : copies_->nodes(); }
  Result<std::unique_ptr<WeightCopies>> ReserveWeightCopies(const std::byte* data, size_t bytes) override {
    if (copies_ == nullptr) return std::unique_ptr<WeightCopies>();
    return copies_->Reserve(data, bytes);
  }

  void CopyToDevice(void* destination, const void* source, size_t bytes) override {
    std::memcpy(destination, source, bytes);
  }
  void CopyToHost(void* destination, const void* source, size_t bytes) override {
    std::memcpy(destination, source, bytes);
  }

  size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const override {
    return ops_->ScratchBytes(max_tokens, max_columns);
  }
  Status ReserveScratch(int32_t max_tokens, int32_t max_columns) override {
    return ops_->ReserveScratch(max_tokens, max_columns);
  }

  KernelChoice DescribeKernel(const WeightSpec& spec) const override { return ops_->DescribeKernel(spec); }
  void SetTuning(const cpu::KernelTuning& tuning) override { ops_->SetTuning(tuning); }

  Ops& ops() override { return *ops_; }
  Roofline MeasureRoofline() override;

 protected:
  void RunTasks(int64_t tasks, Task run, void* context) override {
    pool_->Run(tasks, [&](int64_t task, int) { run(context, task); });
  }

 private:
  double MeasureBandwidth();

  DeviceInfo info_;
  std::unique_ptr<cpu::NodeCopies> copies_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<CpuOps> ops_;
};

// Other programs may hold the cores while this measures, so everything is the best of short rounds: a round
// of a few milliseconds fits between their time slices, a long one never does.
constexpr double kLongestSeconds = 0.5;

double CpuDevice::MeasureBandwidth() {
  constexpr size_t kMostBytes = size_t{256} << 20, kLeastBytes = size_t{32} << 20, kChunk = size_t{1} << 20;
  size_t bytes = kMostBytes;
  Result<DeviceBuffer> buffer = cpu::AllocateHostMemory(bytes);
  while (!buffer && bytes > kLeastBytes) buffer = cpu::AllocateHostMemory(bytes /= 2);
  if (!buffer) return 0;
  std::byte* const data = buffer->data();
  // Written first: untouched pages are all one page of zeros and would be read from the cache.
  pool_->Run(static_cast<int64_t>(bytes / kChunk), [&](int64_t chunk, int) {
    std::memset(data + chunk * static_cast<int64_t>(kChunk), 1, kChunk);
  });
  // A round reads the whole buffer, several times what a third-level cache holds: the best of shorter ones
  // once was twice what any program gets.
  std::atomic<uint64_t> keep{0};
  return cpu::BestRate({.usual_s = 0.1, .least_rounds = 20, .longest_s = kLongestSeconds}, [&] {
    const double begin = cpu::SteadySeconds();
    pool_->Run(static_cast<int64_t>(bytes / kChunk), [&](int64_t chunk, int) {
      keep.fetch_add(ops_->ReadAll(data + chunk * static_cast<int64_t>(kChunk), kChunk),
                     std::memory_order_relaxed);
    });
    return static_cast<double>(bytes) / (cpu::SteadySeconds() - begin);
  });
}

// Every thread repeats the same probe. What all of them did is divided by the wall time, so a thread that
// found no chunk left (another one took two) does not count twice, and a wait for a core counts once.
template <typename Probe>
double MeasureOnAllThreads(ThreadPool& pool, Probe&& probe) {
  constexpr double kProbeSeconds = 0.002;
  std::vector<double> operations(static_cast<size_t>(pool.threads()), 0.0);
  return cpu::BestRate({.usual_s = 0.05, .least_rounds = 20, .longest_s = kLongestSeconds}, [&] {
    const double begin = cpu::SteadySeconds();
    pool.Run(pool.threads(), [&](int64_t chunk, int) {
      const double chunk_begin = cpu::SteadySeconds();
      const double rate = probe(kProbeSeconds);
      operations[static_cast<size_t>(chunk)] = rate * (cpu::SteadySeconds() - chunk_begin);
    });
    double sum = 0;
    for (const double done : operations) sum += done;
    return sum / (cpu::SteadySeconds() - begin);
  });
}

Roofline CpuDevice::MeasureRoofline() {
  Roofline roofline;
  roofline.memory_bytes_per_s = MeasureBandwidth();
  roofline.int8_ops_per_s =
      MeasureOnAllThreads(*pool_, [&](double seconds) { return ops_->MeasureInt8OpsPerS(seconds); });
  roofline.f32_flops_per_s =
      MeasureOnAllThreads(*pool_, [&](double seconds) { return ops_->MeasureF32FlopsPerS(seconds); });
  if (ops_->MeasureBf16FlopsPerS(0) > 0) {
    roofline.bf16_flops_per_s =
        MeasureOnAllThreads(*pool_, [&](double seconds) { return ops_->MeasureBf16FlopsPerS(seconds); });
  }
  return roofline;
}

}  // namespace

std::vector<std::string> CpuInstructionSets() {
  const cpu::ProcessorFeatures& features = cpu::DetectFeatures();
  std::vector<std::string> sets;
#if defined(TIDEPOOL_VECTOR_KERNELS)
  if (features.amx) sets.emplace_back("amx");
  if (features.fast_bf16) sets.emplace_back("avx512bf16");
  if (features.avx512_vnni) sets.emplace_back("avx512vnni");
  if (features.avx512_bf16 && !features.fast_bf16) sets.emplace_back("avx512bf16");
  // Where both exist (and VNNI at 512 bits as well), width wins: 4-bit weights 1.5 times, bytes even.
  if (features.avx512) sets.emplace_back("avx512");
  if (features.avx_vnni) sets.emplace_back("avxvnni");
  if (features.avx2) sets.emplace_back("avx2");
#else
  (void)features;
#endif
  sets.emplace_back("reference");
  return sets;
}

Result<int> InterleaveHostMemory() {
  const std::vector<cpu::NumaNode> nodes = cpu::ReadNumaNodes(cpu::kNodeFolder);
  if (nodes.size() < 2) return 1;
  if (!cpu::InterleaveThisThread(nodes)) {
    return Fail(ErrorKind::kUnavailable, "numa_refused",
                "the system refuses to deal memory out over " + std::to_string(nodes.size()) +
                    " nodes (a container without set_mempolicy?); set pool.numa to off",
                "pool.numa");
  }
  return static_cast<int>(nodes.size());
}

cpu::Backend::Backend() = default;
cpu::Backend::Backend(Backend&&) noexcept = default;
cpu::Backend::~Backend() = default;

Result<cpu::Backend> cpu::MakeBackend(const DeviceOptions& options) {
  const std::vector<std::string> sets = CpuInstructionSets();
  const std::string chosen = options.instruction_set.empty() ? sets.front() : options.instruction_set;
  if (std::find(sets.begin(), sets.end(), chosen) == sets.end()) {
    std::string known;
    for (const std::string& set : sets) known += (known.empty() ? "" : ", ") + set;
    return Fail(ErrorKind::kInvalid, "unknown_instruction_set",
                "instruction_set \"" + chosen + "\" is not available here; this machine has: " + known + ".",
                "instruction_set");
  }
  if (options.threads < 0 || options.threads > ThreadPool::kMaxThreads) {
    return Fail(ErrorKind::kInvalid, "bad_threads",
                "threads is " + std::to_string(options.threads) +
                    "; allowed are 0 (one per usable core) to " + std::to_string(ThreadPool::kMaxThreads) +
                    ".",
                "threads");
  }
  const int threads =
      options.threads > 0 ? options.threads : std::min(cpu::UsableCores(), ThreadPool::kMaxThreads);
  cpu::Backend backend;
  backend.instruction_set = chosen;
  const std::vector<NumaNode> nodes =
      ReadNumaNodes(options.numa_root.empty() ? std::string(kNodeFolder) : options.numa_root);
  backend.pool = std::make_unique<ThreadPool>(
      threads,
      options.pin_threads ? cpu::PlaceThreads(threads, cpu::AllowedCpus(), nodes) : std::vector<int>());
  if (chosen == "reference") backend.ops = cpu::MakeReferenceOps(*backend.pool);
#if defined(TIDEPOOL_VECTOR_KERNELS)
  if (backend.ops == nullptr) backend.ops = cpu::MakeVectorOps(*backend.pool, chosen, options.deterministic);
#endif
  CHECK(backend.ops != nullptr);
  backend.ops->SetTuning(options.tuning);
  if (options.replicate_weights && nodes.size() > 1) {
    backend.copies = std::make_unique<NodeCopies>(nodes);
    backend.ops->SetNodeCopies(backend.copies.get());
  }
  return backend;
}

Result<std::unique_ptr<Device>> MakeCpuDevice(const DeviceOptions& options) {
  TP_ASSIGN(cpu::Backend backend, cpu::MakeBackend(options));
  const int threads = backend.pool->threads();
  DeviceInfo info;
  info.kind = DeviceKind::kCpu;
  info.name =
      cpu::ProcessorName() + " (" + std::to_string(threads) + (threads == 1 ? " thread)" : " threads)");
  info.instruction_set = backend.instruction_set;
  info.threads = threads;
  info.memory_bytes = cpu::UsableMemoryBytes();
  return std::unique_ptr<Device>(std::make_unique<CpuDevice>(std::move(info), std::move(backend)));
}

}  // namespace tidepool::chips
