// The device around the kernels: errors, memory, the machine's limits, scratch, the simulated device.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <new>
#include <thread>

#include "chips/cpu/best_rate.h"
#include "chips/cpu/processor.h"
#include "chips/cpu/random_weights.h"

namespace {
std::atomic<int64_t> g_allocations{0};
}
// Not inlined: g++ would take the pair for a mismatch of new and free.
__attribute__((noinline)) void* operator new(size_t bytes) {
  g_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* p = std::malloc(bytes)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, size_t) noexcept { std::free(p); }

namespace tidepool::chips::cpu {
namespace {

TEST(CpuDevice, UnknownInstructionSetNamesThoseThatExist) {
  DeviceOptions options;
  options.instruction_set = "mmx";
  const auto device = MakeCpuDevice(options);
  ASSERT_FALSE(device.has_value());
  EXPECT_EQ(device.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(device.error().param, "instruction_set");
  for (const std::string& set : CpuInstructionSets()) {
    EXPECT_NE(device.error().message.find(set), std::string::npos) << device.error().message;
  }
  EXPECT_EQ(CpuInstructionSets().back(), "reference");
}

TEST(CpuDevice, ThreadsOutOfRangeAreRefused) {
  for (const int threads : {-1, 257, 1 << 30}) {
    DeviceOptions options;
    options.threads = threads;
    const auto device = MakeCpuDevice(options);
    ASSERT_FALSE(device.has_value());
    EXPECT_EQ(device.error().param, "threads");
  }
}

TEST(CpuDevice, InfoIsSensible) {
  const auto device = MakeCpuDevice({}).value();
  EXPECT_EQ(device->info().kind, DeviceKind::kCpu);
  EXPECT_EQ(device->info().instruction_set, CpuInstructionSets().front());
  EXPECT_EQ(device->info().threads, UsableCores());
  EXPECT_GT(device->info().memory_bytes, uint64_t{64} << 20);
}

TEST(CpuDevice, MemoryIsZeroAndAlignedAndRefusedKindly) {
  const auto device = MakeCpuDevice({}).value();
  for (const size_t bytes : {size_t{1}, size_t{4097}, size_t{5} << 20}) {
    const DeviceBuffer buffer = device->Allocate(bytes).value();
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % 64, 0u);
    if (bytes >= size_t{2} << 20) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % (size_t{2} << 20), 0u) << "for huge pages";
    }
    for (size_t i = 0; i < bytes; i += 1021) ASSERT_EQ(buffer.data()[i], std::byte{0});
    buffer.data()[bytes - 1] = std::byte{1};
  }
  const auto too_much = device->Allocate(size_t{1} << 62);
  ASSERT_FALSE(too_much.has_value());
  EXPECT_EQ(too_much.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(device->Allocate(0).value().bytes(), 0u);
}

TEST(CpuDevice, TasksRunOnceEachOnTheThreadsOfTheOps) {
  std::vector<std::unique_ptr<Device>> devices;
  devices.push_back(MakeDevice("reference", 1));
  devices.push_back(MakeDevice("reference", 3));
  devices.push_back(MakeSimulatedDevice({}));
  for (const auto& device : devices) {
    for (const int64_t tasks : {0, 1, 2, 100}) {
      std::vector<int> runs(static_cast<size_t>(tasks), 0);
      const uint64_t allocations = g_allocations.load();
      device->RunOnThreads(tasks, [&](int64_t task) { ++runs[static_cast<size_t>(task)]; });
      EXPECT_EQ(g_allocations.load(), allocations);
      EXPECT_EQ(std::count(runs.begin(), runs.end(), 1), tasks);
    }
  }
  // Two tasks that wait for each other end only if two threads have them.
  std::atomic<int> arrived{0};
  devices[1]->RunOnThreads(2, [&](int64_t) {
    ++arrived;
    while (arrived < 2) std::this_thread::yield();
  });
  EXPECT_EQ(arrived.load(), 2);
}

TEST(CpuDevice, ImpossibleWeightsAreErrorsForEveryBackend) {
  for (const std::string& set : CpuInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 1);
    for (const WeightSpec spec : {WeightSpec{DataType::kQ4_0, 4, 33}, WeightSpec{DataType::kQ4_K, 4, 128},
                                  WeightSpec{DataType::kF32, 0, 4}, WeightSpec{DataType::kF32, 4, -1},
                                  WeightSpec{DataType::kF32, int64_t{1} << 40, int64_t{1} << 40},
                                  WeightSpec{static_cast<DataType>(999), 4, 32}}) {
      const auto bytes = device->PackedBytes(spec);
      ASSERT_FALSE(bytes.has_value());
      EXPECT_EQ(bytes.error().kind, ErrorKind::kInvalid);
    }
    const WeightSpec good{DataType::kQ8_0, 4, 32};
    const DeviceBuffer buffer = device->Allocate(device->PackedBytes(good).value()).value();
    const std::vector<std::byte> short_source(4 * 34 - 1);
    EXPECT_FALSE(device->Pack(good, short_source, buffer.data()).has_value());
  }
}

TEST(CpuDevice, RooflineIsMeasured) {
  for (const std::string& set : CpuInstructionSets()) {
    const Roofline roofline = MakeDevice(set, 2)->MeasureRoofline();
    EXPECT_GT(roofline.memory_bytes_per_s, 1e7) << set;
    EXPECT_GT(roofline.int8_ops_per_s, 1e7) << set;
    EXPECT_GT(roofline.f32_flops_per_s, 1e7) << set;
    EXPECT_EQ(roofline.bf16_flops_per_s > 1e7, set == "avx512bf16")
        << set;  // "amx" has no tiles here: deterministic
  }
}

// How work is cut up is not seen in the results: every weight type, attention and the small operations, with
// cuts at odd places.
TEST(CpuDevice, TuningDoesNotChangeABit) {
  std::mt19937 random(4);
  constexpr int32_t kRows = 67, kWidth = 512, kOutputs = 400;
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 3);
    std::vector<OwnedWeight> weights;
    for (const DataType type : AllWeightTypes()) {
      weights.push_back(
          PackOn(*device, {type, kOutputs, kWidth}, RandomWeights(type, kOutputs, kWidth, random)));
    }
    const std::vector<float> x = RandomFloats(kRows * kWidth, 1.0f, random);
    const auto run = [&](const KernelTuning& tuning) {
      device->SetTuning(tuning);
      std::vector<float> all;
      for (const int64_t rows : {int64_t{1}, int64_t{7}, int64_t{kRows}}) {
        std::vector<float> y(static_cast<size_t>(rows * kWidth));
        for (const OwnedWeight& owned : weights) {
          const LinearTarget target{&owned.weight, nullptr, Matrix{y.data(), rows, kOutputs, kWidth}};
          device->ops().Linear(ConstMatrix(x.data(), rows, kWidth, kWidth), std::span(&target, 1));
          all.insert(all.end(), y.begin(), y.end());
        }
        device->ops().RmsNorm(ConstMatrix(x.data(), rows, kWidth, kWidth), x.data(), 1e-6f,
                              Matrix{y.data(), rows, kWidth, kWidth});
        all.insert(all.end(), y.begin(), y.end());
        // The rows as one sequence: 8 query heads over 2 KV heads of 64 dimensions.
        constexpr int32_t kHeadDim = 64, kKvHeads = 2;
        const KvLayout kv{DataType::kF16, 1, kKvHeads, kHeadDim, kHeadDim};
        const auto blocks = static_cast<int32_t>((rows + kKvBlockTokens - 1) / kKvBlockTokens);
        const DeviceBuffer memory = device->Allocate(static_cast<size_t>(blocks) * kv.block_bytes()).value();
        std::vector<std::byte*> table;
        for (int32_t b = 0; b < blocks; ++b)
          table.push_back(memory.data() + static_cast<size_t>(b) * kv.block_bytes());
        const SequenceSlice slice{0, static_cast<int32_t>(rows), 0, table.data(), blocks};
        const ConstMatrix new_kv(x.data(), rows, kKvHeads * kHeadDim, kWidth);
        device->ops().AppendKv({new_kv, new_kv, &kv, 0, std::span(&slice, 1)});
        AttentionArgs args;
        args.query = ConstMatrix(x.data(), rows, kWidth, kWidth);
        args.out = Matrix{y.data(), rows, kWidth, kWidth};
        args.layout = &kv;
        args.query_heads = kWidth / kHeadDim;
        args.scale = 0.125f;
        args.sequences = std::span(&slice, 1);
        device->ops().Attention(args);
        all.insert(all.end(), y.begin(), y.end());
      }
      return all;
    };
    const std::vector<float> expected = run({});
    for (const KernelTuning& tuning : {kLeastTuning, kMostTuning, KernelTuning{100'000, 3, 50'001, 7'777},
                                       KernelTuning{1 << 20, 1, 1024, 1 << 20}}) {
      ASSERT_TRUE(IsSane(tuning));
      ASSERT_EQ(run(tuning), expected) << set;
    }
  }
}

TEST(CpuDevice, CalibrationGivesNumbersThatCanBe) {
  for (const std::string& set : CpuInstructionSets()) {
    DeviceOptions options;
    options.instruction_set = set;
    options.threads = 2;
    const auto tuning = CalibrateCpu(options, 0.05);
    if (!tuning) {  // other tests may run beside this one
      EXPECT_EQ(tuning.error().code, "machine_busy") << tuning.error().message;
      continue;
    }
    EXPECT_TRUE(IsSane(*tuning)) << set;
    if (set == "reference") {
      EXPECT_EQ(*tuning, KernelTuning()) << "it has nothing to choose";
    }
  }
  DeviceOptions options;
  options.instruction_set = "mmx";
  EXPECT_EQ(CalibrateCpu(options, 0.05).error().param, "instruction_set");
}

TEST(CpuDevice, KernelsAreDescribedAndMeasured) {
  for (const std::string& set : CpuInstructionSets()) {
    DeviceOptions options;
    options.instruction_set = set;
    options.threads = 2;
    const bool on_tiles = set == "amx";
    const auto measured =
        MeasureCpuKernels(options, {1e10, 1e12, 1e11, set == "avx512bf16" || on_tiles ? 2e11 : 0});
    ASSERT_TRUE(measured) << measured.error().message;
    std::vector<DataType> types;
    for (const KernelMeasurement& kernel : *measured) {
      SCOPED_TRACE(set + " " + std::string(TraitsOf(kernel.type).name));
      types.push_back(kernel.type);
      // Few rows are the vector kernels' on "amx" too, and many of F32.
      const std::string first = on_tiles ? "avx512vnni" : set;
      EXPECT_EQ(kernel.choice.kernel.substr(0, first.size()), first);
      EXPECT_EQ(kernel.choice.kernel.find("amx, bf16 tiles") != std::string::npos,
                on_tiles && kernel.type != DataType::kF32);
      EXPECT_EQ(kernel.choice.fast, set != "reference");
      EXPECT_EQ(kernel.choice.why.empty(), kernel.choice.fast);
      EXPECT_GT(kernel.one_row_bytes_per_s, 0);
      // The shares by the definition: the time that the roofline allows over the time taken.
      const bool rounded = set == "avx512bf16" && kernel.type == DataType::kBF16;
      const bool bf16 =
          rounded || (on_tiles && (kernel.type == DataType::kBF16 || kernel.type == DataType::kF16));
      const double rate = bf16 ? 2e11 : TraitsOf(kernel.type).block_elements == 1 ? 1e11 : 1e12;
      EXPECT_EQ(kernel.choice.kernel.find("rounded to bf16") != std::string::npos, rounded)
          << kernel.choice.kernel;
      EXPECT_GE(kernel.one_row_share, kernel.one_row_bytes_per_s / 1e10 * 0.999);
      EXPECT_GE(kernel.many_rows_share, kernel.many_rows_ops_per_s / rate * 0.999);
    }
    std::vector<DataType> all = AllWeightTypes();
    std::sort(all.begin(), all.end());
    std::sort(types.begin(), types.end());
    EXPECT_EQ(types, all);
  }
  const auto device = MakeDevice(CpuInstructionSets().front(), 1);
  const KernelChoice decoded = device->DescribeKernel({DataType::kQ4_K, 16, 256, WeightPrecision::kFloat32});
  EXPECT_FALSE(decoded.fast);
  EXPECT_FALSE(decoded.why.empty());
}

TEST(CpuDevice, InsaneTuningIsKnown) {
  EXPECT_TRUE(IsSane({}));
  for (int64_t KernelTuning::* field :
       {&KernelTuning::linear_row_block_bytes, &KernelTuning::linear_chunks_per_thread,
        &KernelTuning::inline_products, &KernelTuning::inline_elements}) {
    for (const int64_t value : {int64_t{-1}, int64_t{0}, INT64_MAX}) {
      KernelTuning tuning;
      tuning.*field = value;
      EXPECT_FALSE(IsSane(tuning)) << value;
    }
  }
}

// A machine whose cores are taken for most rounds is not reported as slow, and measuring it ends.
TEST(BestRate, TakesTheUndisturbedRoundWithinItsTime) {
  double now = 0;
  std::vector<double> rates;
  const auto run = [&](const cpu::RoundPlan& plan, const std::vector<double>& seconds_of_rounds) {
    now = 0;
    rates.clear();
    return cpu::BestRate(
        plan,
        [&] {
          const double seconds = seconds_of_rounds[rates.size() % seconds_of_rounds.size()];
          now += seconds;
          rates.push_back(1 / seconds);
          return rates.back();
        },
        [&] { return now; });
  };
  // Starved: three rounds of four wait for their cores; the fourth is what counts.
  EXPECT_DOUBLE_EQ(run({.usual_s = 0.1, .least_rounds = 20, .longest_s = 0.5}, {0.03, 0.03, 0.03, 0.002}),
                   500);
  EXPECT_EQ(rates.size(), 20u);
  // Rounds that all take long: the limit ends them.
  EXPECT_DOUBLE_EQ(run({.usual_s = 0.1, .least_rounds = 20, .longest_s = 0.5}, {0.2}), 5);
  EXPECT_EQ(rates.size(), 3u);
  // Undisturbed: as many as fit the usual time.
  run({.usual_s = 0.1, .least_rounds = 20, .longest_s = 0.5}, {0.002});
  EXPECT_NEAR(static_cast<double>(rates.size()), 50, 1);
  // A clock that stands still says nothing, and one round is always made.
  EXPECT_EQ(run({.usual_s = 0.1, .least_rounds = 1, .longest_s = 0}, {0.0}), 0);
  EXPECT_EQ(rates.size(), 1u);
}

// A step's operations after ReserveScratch and one warm-up take nothing from the heap.
TEST(CpuDevice, OperationsDoNotAllocate) {
  std::mt19937 random(1);
  for (const std::string& set : VectorInstructionSets()) {
    const std::unique_ptr<Device> device = MakeDevice(set, 2);
    constexpr int32_t kTokens = 70, kWidth = 512;
    ASSERT_TRUE(device->ReserveScratch(kTokens, kWidth).has_value());
    std::vector<OwnedWeight> weights;
    for (const DataType type : AllWeightTypes()) {
      const WeightSpec spec{type, kWidth, kWidth, WeightPrecision::kNative};
      weights.push_back(PackOn(*device, spec, RandomWeights(type, kWidth, kWidth, random)));
    }
    std::vector<float> x = RandomFloats(kTokens * kWidth, 1.0f, random), y(x.size());
    const std::vector<float> frequencies(32, 0.5f);
    const KvLayout kv{DataType::kF16, 1, 8, 64, 64};
    const DeviceBuffer memory = device->Allocate(200 * kv.block_bytes()).value();
    std::vector<std::byte*> blocks;
    for (size_t b = 0; b < 200; ++b) blocks.push_back(memory.data() + b * kv.block_bytes());
    std::vector<int32_t> positions(kTokens);
    const auto step = [&](int32_t tokens, int32_t context) {
      const Matrix in{x.data(), tokens, kWidth, kWidth}, out{y.data(), tokens, kWidth, kWidth};
      for (int32_t t = 0; t < tokens; ++t) positions[static_cast<size_t>(t)] = context + t;
      const SequenceSlice slice{0, tokens, context, blocks.data(), 200};
      Ops& ops = device->ops();
      for (const OwnedWeight& owned : weights) {
        const LinearTarget target{&owned.weight, nullptr, out};
        ops.Linear(in, std::span(&target, 1));
      }
      RopeArgs rope{in, 64, 64, std::span(positions).first(static_cast<size_t>(tokens)), frequencies.data()};
      ops.Rope(rope);
      ops.AppendKv({in, in, &kv, 0, std::span(&slice, 1)});
      AttentionArgs attention{in, out, &kv, 0, 8, 0.125f, 0, true, std::span(&slice, 1)};
      ops.Attention(attention);
      ops.RmsNorm(in, x.data(), 1e-5f, out);
      ops.GatedActivation(Activation::kSilu, in, in, out);
      ops.Add(in, in, out);
    };
    step(kTokens, 0);
    const int64_t before = g_allocations.load();
    for (int i = 0; i < 5; ++i) {
      step(kTokens, 70 * i);
      step(1, 3000);  // one row over many splits: the split attention
    }
    EXPECT_EQ(g_allocations.load(), before) << set;
  }
}

// Packing on a loading thread while the engine thread computes.
TEST(CpuDevice, PackingBesideOperations) {
  std::mt19937 random(2);
  const std::unique_ptr<Device> device = MakeDevice(CpuInstructionSets().front(), 3);
  const WeightSpec spec{DataType::kQ8_0, 600, 256, WeightPrecision::kNative};
  const std::vector<std::byte> source = RandomWeights(spec.type, spec.rows, spec.columns, random);
  const OwnedWeight first = PackOn(*device, spec, source);
  std::thread loader([&] {
    for (int i = 0; i < 20; ++i) {
      const OwnedWeight again = PackOn(*device, spec, source);
      EXPECT_EQ(0, std::memcmp(again.weight.data, first.weight.data, first.weight.bytes));
    }
  });
  const std::vector<float> x = RandomFloats(4 * 256, 1.0f, random);
  std::vector<float> expected(4 * 600), out(4 * 600);
  const LinearTarget once{&first.weight, nullptr, Matrix{expected.data(), 4, 600, 600}};
  device->ops().Linear(ConstMatrix(x.data(), 4, 256, 256), std::span(&once, 1));
  for (int i = 0; i < 200; ++i) {
    const LinearTarget target{&first.weight, nullptr, Matrix{out.data(), 4, 600, 600}};
    device->ops().Linear(ConstMatrix(x.data(), 4, 256, 256), std::span(&target, 1));
    ASSERT_EQ(out, expected);
  }
  loader.join();
}

class CgroupFolder : public testing::Test {
 protected:
  void SetUp() override {
    root_ = std::filesystem::path(testing::TempDir()) /
            ("cgroup_" + std::to_string(std::chrono::steady_clock::now().time_since_epoch().count()));
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    std::filesystem::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  std::filesystem::path root_;
};

TEST_F(CgroupFolder, Version2TakesTheTightestAncestor) {
  Write("a/cpu.max", "300000 100000");
  Write("a/memory.max", "4000000000");
  Write("a/b/cpu.max", "max 100000");
  Write("a/b/memory.max", "8000000000");
  const CgroupLimits limits = ReadCgroupLimits(root_.string(), "0::/a/b\n");
  EXPECT_DOUBLE_EQ(limits.cores, 3.0);
  EXPECT_EQ(limits.memory_bytes, 4000000000u);
}

TEST_F(CgroupFolder, Version1QuotaAndMissingLimits) {
  Write("cpu/x/cpu.cfs_quota_us", "150000");
  Write("cpu/x/cpu.cfs_period_us", "100000");
  Write("cpu/cpu.cfs_quota_us", "-1");
  Write("cpu/cpu.cfs_period_us", "100000");
  Write("memory/memory.limit_in_bytes", "9223372036854771712");
  const CgroupLimits limits = ReadCgroupLimits(root_.string(), "4:memory:/x\n3:cpu,cpuacct:/x\n");
  EXPECT_DOUBLE_EQ(limits.cores, 1.5);
  EXPECT_EQ(limits.memory_bytes, 0u);
}

TEST_F(CgroupFolder, Version1HierarchiesHaveTheirOwnPaths) {
  Write("memory/mine/memory.limit_in_bytes", "3000000000");
  Write("memory/other/memory.limit_in_bytes", "1000");  // not ours: only our cpu group has this name
  Write("cpu/mine/cpu.cfs_quota_us", "1000");
  Write("cpu/mine/cpu.cfs_period_us", "100000");
  Write("cpu/other/cpu.cfs_quota_us", "400000");
  Write("cpu/other/cpu.cfs_period_us", "100000");
  const CgroupLimits limits =
      ReadCgroupLimits(root_.string(), "5:memory:/mine\n3:cpu,cpuacct:/other\n1:name=systemd:/other\n");
  EXPECT_EQ(limits.memory_bytes, 3000000000u);
  EXPECT_DOUBLE_EQ(limits.cores, 4.0);
}

TEST_F(CgroupFolder, ThrottlingAndHybridMountsCount) {
  Write("service/memory.max", "max");
  Write("service/memory.high", "2000000000");
  EXPECT_EQ(ReadCgroupLimits(root_.string(), "0::/service\n").memory_bytes, 2000000000u);
  Write("unified/service/memory.max", "1500000000");
  EXPECT_EQ(ReadCgroupLimits(root_.string(), "0::/service\n").memory_bytes, 1500000000u);
}

TEST_F(CgroupFolder, NonsenseIsNoLimit) {
  Write("cpu.max", "hello");
  Write("memory.max", "-7");
  for (const std::string membership : {"", "0::/", "garbage", "0::/../../etc", "::\n0::/none/here"}) {
    const CgroupLimits limits = ReadCgroupLimits(root_.string(), membership);
    EXPECT_EQ(limits.cores, 0.0);
    EXPECT_EQ(limits.memory_bytes, 0u);
  }
}

TEST(SimulatedDevice, HasMemoryAndTimeButNoKernels) {
  SimulatedDeviceOptions options;
  options.memory_bytes = 1 << 20;
  options.step_base_s = 0.002;
  options.step_per_token_s = 0.001;
  const auto device = MakeSimulatedDevice(options);
  EXPECT_EQ(device->info().kind, DeviceKind::kSimulated);
  EXPECT_EQ(device->Allocate(1000).value().bytes(), 1000u);
  EXPECT_FALSE(device->Allocate((1 << 20) + 1).has_value());
  const auto begin = std::chrono::steady_clock::now();
  device->AdvanceStep(3);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(5));
  std::vector<float> x(4);
  EXPECT_DEATH(
      device->ops().Add(Matrix{x.data(), 1, 4, 4}, Matrix{x.data(), 1, 4, 4}, Matrix{x.data(), 1, 4, 4}),
      "simulated_device_has_no_kernels");
}

}  // namespace
}  // namespace tidepool::chips::cpu
