// Speed of Linear, Attention and AppendKv on the shapes of Qwen3-0.6B, as a share of what this machine can
// do.
//
//   chips_bench [--set avx512] [--threads N] [--types Q4_0,attention] [--kv F16,Q8_0] [--rows 1,4,16,128,512]
//   [--layers 6]
//   [--seconds 0.3]
//
// "float32", "attention", "pack" and "hog" among the types are what they say; "step": a decode step of many
// streams, operation by operation, as a model runs it but for the head and sampling. The limit of a row is
// the larger of bytes / bandwidth and operations / rate, both measured in the same run: int8 rate for
// quantised types, float32 rate for the others (bf16 for BF16, where it is multiplied so). Times are the best
// of several repetitions; "core" divides by the processor time used instead, which other load on the machine
// disturbs less.
#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <thread>

#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/random_weights.h"

namespace tidepool::chips::cpu {
namespace {

struct Settings {
  std::string set;
  int threads = 0;
  std::vector<std::string> types, kv_types;
  std::vector<int64_t> rows = {1, 4, 16, 128, 512};
  int layers = 6;
  double seconds = 0.3;
};

std::vector<std::string> Split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

double ProcessSeconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Timing {
  double wall_s = 1e30, core_s = 1e30;
};
template <typename Body>
Timing Best(double seconds, Body&& body) {
  using Clock = std::chrono::steady_clock;
  body();
  Timing best;
  const auto end = Clock::now() + std::chrono::duration<double>(seconds);
  do {
    const auto begin = Clock::now();
    const double cpu = ProcessSeconds();
    body();
    best.core_s = std::min(best.core_s, ProcessSeconds() - cpu);
    best.wall_s = std::min(best.wall_s, std::chrono::duration<double>(Clock::now() - begin).count());
  } while (Clock::now() < end);
  return best;
}

// The four groups of matrices of a layer that share their input: [columns, outputs...].
struct Group {
  int64_t columns;
  std::vector<int64_t> outputs;
};
const std::vector<Group>& LayerGroups() {
  static const std::vector<Group> groups = {
      {1024, {2048, 1024, 1024}}, {2048, {1024}}, {1024, {3072, 3072}}, {3072, {1024}}};
  return groups;
}

void BenchLinear(Device& device, const Roofline& roofline, DataType type, WeightPrecision precision,
                 const Settings& settings) {
  std::mt19937 random(1);
  std::vector<std::vector<OwnedWeight>> layers;
  double bytes = 0, products = 0;
  for (int layer = 0; layer < settings.layers; ++layer) {
    layers.emplace_back();
    for (const Group& group : LayerGroups()) {
      for (const int64_t outputs : group.outputs) {
        const WeightSpec spec{type, outputs, group.columns, precision};
        layers.back().push_back(PackOn(device, spec, RandomWeights(type, outputs, group.columns, random)));
        bytes += static_cast<double>(layers.back().back().weight.bytes);
        products += static_cast<double>(outputs * group.columns);
      }
    }
  }
  for (const int64_t rows : settings.rows) {
    (void)device.ReserveScratch(static_cast<int32_t>(rows), 3072);
    const std::vector<float> x = RandomFloats(static_cast<size_t>(rows * 3072), 1.0f, random);
    std::vector<float> out(static_cast<size_t>(rows * 6144));
    std::vector<LinearTarget> targets;
    const Timing time = Best(settings.seconds, [&] {
      for (const std::vector<OwnedWeight>& layer : layers) {
        size_t next = 0;
        for (const Group& group : LayerGroups()) {
          targets.clear();
          float* to = out.data();
          for (const int64_t outputs : group.outputs) {
            targets.push_back({&layer[next++].weight, nullptr, Matrix{to, rows, outputs, outputs}});
            to += rows * outputs;
          }
          device.ops().Linear(ConstMatrix(x.data(), rows, group.columns, group.columns), targets);
        }
      }
    });
    const double operations = 2 * products * static_cast<double>(rows);
    const double rate = LimitingRate(roofline, precision == WeightPrecision::kFloat32 ? DataType::kF32 : type,
                                     device.info().instruction_set);
    const double limit_s = std::max(bytes / roofline.memory_bytes_per_s, operations / rate);
    fmt::print("{:<8} rows {:>4}  {:7.2f} GB/s  {:8.1f} GOPS  {:8.1f} GOPS/core  {:5.1f} % of the limit\n",
               precision == WeightPrecision::kFloat32 ? "float32" : TraitsOf(type).name, rows,
               bytes / time.wall_s * 1e-9, operations / time.wall_s * 1e-9, operations / time.core_s * 1e-9,
               100 * limit_s / time.wall_s);
  }
}

// Source bytes a second, into memory that was written before: what packing itself costs, beside reading the
// file and getting memory.
void BenchPack(Device& device, DataType type, WeightPrecision precision, const Settings& settings) {
  std::mt19937 random(3);
  constexpr int64_t kRows = 3072, kColumns = 1024, kBases = 12;
  const std::vector<std::byte> base = RandomWeights(type, kRows, kColumns, random);
  std::vector<std::byte> source;
  for (int64_t i = 0; i < kBases; ++i) source.insert(source.end(), base.begin(), base.end());
  const WeightSpec spec{type, kBases * kRows, kColumns, precision};
  DeviceBuffer packed = device.Allocate(device.PackedBytes(spec).value()).value();
  const Timing time = Best(settings.seconds, [&] { (void)device.Pack(spec, source, packed.data()).value(); });
  const auto bytes = static_cast<double>(source.size());
  fmt::print("pack {:<8} {:6.2f} GB/s of the file  {:6.2f} GB/s a core\n",
             precision == WeightPrecision::kFloat32 ? "float32" : TraitsOf(type).name,
             bytes / time.wall_s * 1e-9, bytes / time.core_s * 1e-9);
}

// One row through a matrix of 12 MiB, over and over, alone and with a busy thread beside the team: what is
// left should be the team's share of the cores (threads / (threads + 1)), not less.
void BenchHog(Device& device, const Settings& settings) {
  std::mt19937 random(4);
  const WeightSpec spec{DataType::kQ8_0, 12288, 1024, WeightPrecision::kNative};
  const OwnedWeight weight = PackOn(device, spec, RandomWeights(spec.type, spec.rows, spec.columns, random));
  const std::vector<float> x = RandomFloats(1024, 1.0f, random);
  std::vector<float> out(12288);
  const auto rate = [&] {  // passes a second, waits included
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    const auto end = begin + std::chrono::duration<double>(std::max(1.0, settings.seconds));
    int64_t passes = 0;
    for (; Clock::now() < end; ++passes) {
      const LinearTarget target{&weight.weight, nullptr, Matrix{out.data(), 1, 12288, 12288}};
      device.ops().Linear(ConstMatrix(x.data(), 1, 1024, 1024), std::span(&target, 1));
    }
    return static_cast<double>(passes) / std::chrono::duration<double>(Clock::now() - begin).count();
  };
  const double alone = rate();
  std::atomic<bool> stop{false};
  std::thread hog([&] {
    while (!stop.load(std::memory_order_relaxed)) {
    }
  });
  const double shared = rate();
  stop = true;
  hog.join();
  const int threads = device.info().threads;
  fmt::print(
      "hog: {:.0f} passes/s alone, {:.0f} beside a busy thread: {:.2f} (its share of the cores: {:.2f})\n",
      alone, shared, shared / alone, static_cast<double>(threads) / (threads + 1));
}

// Steps over the KV of all layers, which for decoding is far more than the caches hold.
void BenchAttention(Device& device, const Settings& settings, DataType kv_type) {
  struct Case {
    int sequences;
    int32_t tokens, context, layers;
  };
  constexpr int32_t kHeads = 16, kLayers = 28;
  for (const auto [sequences, tokens, context, layers] :
       {Case{1, 1, 512, kLayers}, Case{1, 1, 8191, kLayers}, Case{16, 1, 160, kLayers}, Case{1, 512, 0, 2},
        Case{1, 512, 7680, 1}}) {
    std::mt19937 random(2);
    const KvLayout layout{kv_type, layers, 8, 128, 128};
    (void)device.ReserveScratch(512, 3072);
    const int32_t blocks = (tokens + context + 15) / 16, rows = sequences * tokens;
    const int64_t columns = kHeads * 128, kv_columns = 8 * 128;
    DeviceBuffer memory =
        device.Allocate(static_cast<size_t>(blocks * sequences) * layout.block_bytes()).value();
    std::vector<std::byte*> table;
    for (int32_t b = 0; b < blocks * sequences; ++b) {
      table.push_back(memory.data() + static_cast<size_t>(b) * layout.block_bytes());
    }
    const std::vector<float> query = RandomFloats(static_cast<size_t>(rows * columns), 1.0f, random);
    const std::vector<float> kv =
        RandomFloats(static_cast<size_t>((tokens + context) * kv_columns), 1.0f, random);
    const ConstMatrix new_kv(kv.data(), tokens + context, kv_columns, kv_columns);
    std::vector<SequenceSlice> slices;
    for (int i = 0; i < sequences; ++i) {
      slices.push_back({i * tokens, tokens, context, table.data() + i * blocks, blocks});
      const SequenceSlice all{0, tokens + context, 0, table.data() + i * blocks, blocks};
      for (int32_t layer = 0; layer < layers; ++layer) {
        device.ops().AppendKv({new_kv, new_kv, &layout, layer, std::span(&all, 1)});
      }
    }
    std::vector<float> out(query.size());
    AttentionArgs args;
    args.query = ConstMatrix(query.data(), rows, columns, columns);
    args.out = Matrix{out.data(), rows, columns, columns};
    args.layout = &layout;
    args.query_heads = kHeads;
    args.scale = 0.088f;
    args.sequences = slices;
    const Timing attend = Best(settings.seconds, [&] {
      for (args.layer = 0; args.layer < layers; ++args.layer) device.ops().Attention(args);
    });
    const ConstMatrix appended(kv.data(), rows, kv_columns, kv_columns);
    const Timing append = Best(settings.seconds / 4, [&] {
      for (int32_t layer = 0; layer < layers && rows <= tokens + context; ++layer) {
        device.ops().AppendKv({appended, appended, &layout, layer, slices});
      }
    });
    const double pairs = static_cast<double>(rows) * (context + 0.5 * (tokens + 1));
    const double operations = 2.0 * pairs * kHeads * 256 * layers;
    fmt::print(
        "attention {:<5} {:>2} x {:>3} tokens at {:>4}: {:8.1f} us a layer  {:7.2f} GFLOPS  {:7.2f} "
        "GFLOPS/core  "
        "KV {:6.2f} GB/s  append {:6.1f} us\n",
        TraitsOf(kv_type).name, sequences, tokens, context, attend.wall_s / layers * 1e6,
        operations / attend.wall_s * 1e-9, operations / attend.core_s * 1e-9,
        static_cast<double>(memory.bytes()) / attend.wall_s * 1e-9, append.wall_s / layers * 1e6);
  }
}

// The layers of a decode step of `streams` sequences with 160 tokens each: the step that took least, by
// operation.
void BenchStep(Device& device, const Settings& settings, DataType type, int streams, DataType kv_type) {
  using Clock = std::chrono::steady_clock;
  constexpr int32_t kLayers = 28, kHeads = 16, kKvHeads = 8, kDim = 128, kContext = 160, kHidden = 1024;
  constexpr int32_t kBlocks = kContext / kKvBlockTokens + 1;
  std::mt19937 random(5);
  std::vector<std::vector<OwnedWeight>> layers(kLayers);
  for (const Group& group : LayerGroups()) {
    for (const int64_t outputs : group.outputs) {
      const WeightSpec spec{type, outputs, group.columns, WeightPrecision::kNative};
      const std::vector<std::byte> source = RandomWeights(type, outputs, group.columns, random);
      for (std::vector<OwnedWeight>& layer : layers) layer.push_back(PackOn(device, spec, source));
    }
  }
  const KvLayout layout{kv_type, kLayers, kKvHeads, kDim, kDim};
  (void)device.ReserveScratch(kContext, 3072);
  DeviceBuffer memory =
      device.Allocate(static_cast<size_t>(kBlocks * streams) * layout.block_bytes()).value();
  std::vector<std::byte*> table;
  for (int32_t b = 0; b < kBlocks * streams; ++b) {
    table.push_back(memory.data() + static_cast<size_t>(b) * layout.block_bytes());
  }
  const std::vector<float> context = RandomFloats(size_t{kContext} * kKvHeads * kDim, 1.0f, random);
  const ConstMatrix prompt(context.data(), kContext, kKvHeads * kDim, kKvHeads * kDim);
  std::vector<SequenceSlice> slices;
  for (int i = 0; i < streams; ++i) {
    slices.push_back({i, 1, kContext, table.data() + i * kBlocks, kBlocks});
    const SequenceSlice all{0, kContext, 0, table.data() + i * kBlocks, kBlocks};
    for (int32_t n = 0; n < kLayers; ++n)
      device.ops().AppendKv({prompt, prompt, &layout, n, std::span(&all, 1)});
  }
  const std::vector<int32_t> positions(static_cast<size_t>(streams), kContext);
  const std::vector<float> gain(3072, 1.0f), frequency(kDim / 2, 0.01f);
  std::vector<std::vector<float>> memory_of;
  const auto matrix = [&](int64_t columns) {
    memory_of.push_back(RandomFloats(static_cast<size_t>(streams * columns), 1.0f, random));
    return Matrix{memory_of.back().data(), streams, columns, columns};
  };
  const Matrix x = matrix(kHidden), normed = matrix(kHidden), query = matrix(kHeads * kDim),
               attended = matrix(kHeads * kDim), key = matrix(kKvHeads * kDim),
               value = matrix(kKvHeads * kDim), gate = matrix(3072), up = matrix(3072);
  Ops& ops = device.ops();
  constexpr const char* kParts[] = {"norms", "qkv", "rope, append", "attention", "out", "gate, up", "down"};
  constexpr size_t kCount = std::size(kParts);
  double best[kCount] = {}, best_s = 1e30;
  const auto end = Clock::now() + std::chrono::duration<double>(std::max(1.0, settings.seconds));
  while (Clock::now() < end) {
    double parts[kCount] = {};
    auto last = Clock::now();
    const auto begin = last;
    const auto took = [&](size_t part) {
      const auto now = Clock::now();
      parts[part] += std::chrono::duration<double>(now - last).count();
      last = now;
    };
    const auto heads_of = [&](const Matrix& m) {
      const int64_t count = m.columns / kDim;
      return Matrix{m.data, m.rows * count, kDim, kDim};
    };
    for (int32_t n = 0; n < kLayers; ++n) {
      const std::vector<OwnedWeight>& w = layers[static_cast<size_t>(n)];
      ops.RmsNorm(x, gain.data(), 1e-6f, normed);
      took(0);
      const LinearTarget qkv[] = {
          {&w[0].weight, nullptr, query}, {&w[1].weight, nullptr, key}, {&w[2].weight, nullptr, value}};
      ops.Linear(normed, qkv);
      took(1);
      ops.RmsNorm(heads_of(query), gain.data(), 1e-6f, heads_of(query));
      ops.RmsNorm(heads_of(key), gain.data(), 1e-6f, heads_of(key));
      took(0);
      const RopeArgs turn{.x = query,
                          .head_dim = kDim,
                          .rotary_dim = kDim,
                          .positions = positions,
                          .inverse_frequency = frequency.data()};
      RopeArgs turn_key = turn;
      turn_key.x = key;
      ops.RopeAndAppendKv(turn, turn_key, {key, value, &layout, n, slices});
      took(2);
      ops.Attention({.query = query,
                     .out = attended,
                     .layout = &layout,
                     .layer = n,
                     .query_heads = kHeads,
                     .scale = 0.088f,
                     .sequences = slices});
      took(3);
      const LinearTarget out{.weight = &w[3].weight, .out = normed, .residual = x};
      ops.Linear(attended, std::span(&out, 1));
      took(4);
      ops.RmsNorm(x, gain.data(), 1e-6f, normed);
      took(0);
      ops.GatedLinear(normed, w[4].weight, w[5].weight, Activation::kSilu, up, gate);
      took(5);
      const LinearTarget down{.weight = &w[6].weight, .out = normed, .residual = x};
      ops.Linear(gate, std::span(&down, 1));
      took(6);
    }
    const double all = std::chrono::duration<double>(Clock::now() - begin).count();
    if (all >= best_s) continue;
    best_s = all;
    std::copy_n(parts, kCount, best);
  }
  fmt::print("step {:<5} {:>2} streams, KV {:<5} {:6.2f} ms:", TraitsOf(type).name, streams,
             TraitsOf(kv_type).name, best_s * 1e3);
  for (size_t i = 0; i < kCount; ++i) fmt::print("  {} {:.2f}", kParts[i], best[i] * 1e3);
  fmt::print("\n");
}

int Main(int argc, char** argv) {
  Settings settings;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string flag = argv[i], value = argv[i + 1];
    if (flag == "--set") settings.set = value;
    if (flag == "--threads") settings.threads = std::atoi(value.c_str());
    if (flag == "--types") settings.types = Split(value);
    if (flag == "--kv") settings.kv_types = Split(value);
    if (flag == "--layers") settings.layers = std::atoi(value.c_str());
    if (flag == "--seconds") settings.seconds = std::atof(value.c_str());
    if (flag == "--rows") {
      settings.rows.clear();
      for (const std::string& part : Split(value)) settings.rows.push_back(std::atoll(part.c_str()));
    }
  }
  DeviceOptions options;
  options.instruction_set = settings.set;
  options.threads = settings.threads;
  Result<std::unique_ptr<Device>> device = MakeCpuDevice(options);
  if (!device) {
    fmt::print(stderr, "{}\n", device.error().message);
    return 1;
  }
  const Roofline roofline = (*device)->MeasureRoofline();
  fmt::print("{}, {}: {:.1f} GB/s, int8 {:.3f} TOPS, float32 {:.3f} TFLOPS, bf16 {:.3f}\n",
             (*device)->info().name, (*device)->info().instruction_set, roofline.memory_bytes_per_s * 1e-9,
             roofline.int8_ops_per_s * 1e-12, roofline.f32_flops_per_s * 1e-12,
             roofline.bf16_flops_per_s * 1e-12);
  const auto wanted = [&](std::string_view name) {
    return settings.types.empty() || std::ranges::find(settings.types, name) != settings.types.end();
  };
  for (const DataType type : AllWeightTypes()) {
    if (wanted(TraitsOf(type).name))
      BenchLinear(**device, roofline, type, WeightPrecision::kNative, settings);
  }
  if (wanted("float32"))
    BenchLinear(**device, roofline, DataType::kQ8_0, WeightPrecision::kFloat32, settings);
  for (const DataType type :
       {DataType::kI16, DataType::kF16, DataType::kBF16, DataType::kQ8_0, DataType::kF32}) {
    if (wanted("attention") &&
        (settings.kv_types.empty() ||
         std::ranges::find(settings.kv_types, TraitsOf(type).name) != settings.kv_types.end())) {
      BenchAttention(**device, settings, type);
    }
  }
  if (wanted("step")) {
    for (const DataType type : {DataType::kI16, DataType::kF16, DataType::kQ8_0}) {
      if (!settings.kv_types.empty() &&
          std::ranges::find(settings.kv_types, TraitsOf(type).name) == settings.kv_types.end())
        continue;
      BenchStep(**device, settings, DataType::kQ4_0, 16, type);
      BenchStep(**device, settings, DataType::kQ8_0, 32, type);
    }
  }
  if (wanted("hog")) BenchHog(**device, settings);
  if (wanted("pack")) {
    for (const DataType type : AllWeightTypes())
      BenchPack(**device, type, WeightPrecision::kNative, settings);
  }
  return 0;
}

}  // namespace
}  // namespace tidepool::chips::cpu

int main(int argc, char** argv) { return tidepool::chips::cpu::Main(argc, argv); }
