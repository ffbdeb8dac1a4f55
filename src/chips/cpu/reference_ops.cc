// The reference operations: written as their formulas, sums in double, no blocking. Every other kernel is
// tested against these. Only the outermost independent loop is spread over threads.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"
#include "chips/quantisation.h"

namespace tidepool::chips::cpu {
namespace {

constexpr uint32_t kFileLayout = 1;  // rows as in the file, one after the other

double Apply(Activation activation, double x) {
  switch (activation) {
    case Activation::kSilu: return x / (1.0 + std::exp(-x));
    case Activation::kGeluTanh: {
      constexpr double kSqrt2OverPi = 0.79788456080286535588;
      return 0.5 * x * (1.0 + std::tanh(kSqrt2OverPi * (x + 0.044715 * x * x * x)));
    }
    case Activation::kTanh: return std::tanh(x);
    case Activation::kGeluExact: return 0.5 * x * (1.0 + std::erf(x * 0.70710678118654752440));
  }
  CHECK(false);
}

// K or V of one token in one head of a block as kI16: element d of a key at codes + (d / 2 * 32 + d % 2), of
// a value at codes + 2 d.
struct KvIntegers {
  int16_t* codes;
  float* scale;
  bool key;

  int64_t At(int64_t d) const { return key ? d / 2 * (2 * kKvBlockTokens) + d % 2 : 2 * d; }
  float Load(int64_t d) const { return *scale * static_cast<float>(codes[At(d)]); }
  void Store(const float* values, int64_t count) const {
    float lanes[16] = {}, largest = 0;
    for (int64_t d = 0; d < count; ++d) {
      lanes[d % 16] = std::fma(values[d], values[d], lanes[d % 16]);
      if (!(std::fabs(values[d]) <= largest) && !std::isnan(largest)) largest = std::fabs(values[d]);
    }
    for (int half = 8; half > 0; half /= 2) {
      for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    }
    const float square = lanes[0], size = key ? std::sqrt(square) : largest, unit = key ? 32000.0f : 8191.0f;
    const bool finite = std::isfinite(key ? square : largest);
    const bool zero = key ? square <= 1e-36f : largest <= 1e-30f;
    *scale = finite ? size * (1.0f / unit) : std::numeric_limits<float>::quiet_NaN();
    const float factor = finite && !zero ? unit / size : 0.0f;
    for (int64_t d = 0; d < count; ++d) {
      codes[At(d)] = finite ? static_cast<int16_t>(std::nearbyint(values[d] * factor)) : int16_t{0};
    }
    if (key && count % 2 != 0) codes[At(count)] = 0;
  }
};

// K or V of one token in one head of a block: element d at codes + d * stride, its scale (kQ8_0) at scales +
// d / 32 * scale_stride.
struct KvVector {
  DataType type;
  std::byte* codes;
  int64_t stride;  // elements
  uint16_t* scales;
  int64_t scale_stride;
  KvIntegers integers = {};

  float Load(int64_t d) const {
    if (type == DataType::kI16) return integers.Load(d);
    const std::byte* const at = codes + d * stride *
                                            (type == DataType::kF32    ? 4
                                             : type == DataType::kQ8_0 ? 1
                                                                       : 2);
    if (type == DataType::kF32) {
      float value = 0;
      std::memcpy(&value, at, 4);
      return value;
    }
    if (type == DataType::kQ8_0) {
      return HalfToFloat(scales[d / kKvGroup * scale_stride]) * static_cast<float>(static_cast<int8_t>(*at));
    }
    uint16_t half = 0;
    std::memcpy(&half, at, 2);
    return type == DataType::kF16 ? HalfToFloat(half) : Bfloat16ToFloat(half);
  }

  void Store(const float* values, int64_t count) const {
    if (type == DataType::kI16) return integers.Store(values, count);
    if (type == DataType::kQ8_0) {
      for (int64_t d = 0; d < count; d += kKvGroup)
        StoreGroup(values, d, std::min<int64_t>(count, d + kKvGroup));
      return;
    }
    for (int64_t d = 0; d < count; ++d) {
      if (type == DataType::kF32) {
        std::memcpy(codes + d * stride * 4, &values[d], 4);
        continue;
      }
      const uint16_t half = type == DataType::kF16 ? FloatToHalf(values[d]) : FloatToBfloat16(values[d]);
      std::memcpy(codes + d * stride * 2, &half, 2);
    }
  }

 private:
  void StoreGroup(const float* values, int64_t begin, int64_t end) const {
    float largest = 0;
    for (int64_t d = begin; d < end; ++d) {
      if (!(std::fabs(values[d]) <= largest)) largest = std::fabs(values[d]);  // NaN stays
      if (std::isnan(largest)) break;
    }
    uint16_t scale = FloatToHalf(largest * (1.0f / 127));
    const bool finite = std::isfinite(HalfToFloat(scale));
    if (!finite) scale = 0x7e00;
    scales[begin / kKvGroup * scale_stride] = scale;
    const float factor = finite && scale > 0 ? 1.0f / HalfToFloat(scale) : 0.0f;
    for (int64_t d = begin; d < end; ++d) {
      const float code = finite ? std::clamp(std::nearbyint(values[d] * factor), -128.0f, 127.0f) : 0.0f;
      codes[d * stride] = static_cast<std::byte>(static_cast<int8_t>(code));
    }
  }
};

KvVector KeyAt(const KvLayout& kv, int32_t layer, int32_t head, const SequenceSlice& sequence,
               int64_t position) {
  const int64_t slot = position % kKvBlockTokens;
  std::byte* const at = sequence.blocks[position / kKvBlockTokens] + kv.key_offset(layer, head);
  if (kv.type == DataType::kI16) {
    auto* const scales = reinterpret_cast<float*>(at + kv.codes_bytes(kv.key_dim));
    return {kv.type, nullptr, 0,
            nullptr, 0,       {reinterpret_cast<int16_t*>(at) + 2 * slot, scales + slot, true}};
  }
  return {kv.type, at + static_cast<size_t>(slot) * kv.element_bytes(), kKvBlockTokens,
          reinterpret_cast<uint16_t*>(at + kv.codes_bytes(kv.key_dim)) + slot, kKvBlockTokens};
}
KvVector ValueAt(const KvLayout& kv, int32_t layer, int32_t head, const SequenceSlice& sequence,
                 int64_t position) {
  const int64_t slot = position % kKvBlockTokens, groups = (kv.value_dim + kKvGroup - 1) / kKvGroup;
  std::byte* const at = sequence.blocks[position / kKvBlockTokens] + kv.value_offset(layer, head);
  if (kv.type == DataType::kI16) {
    auto* const scales = reinterpret_cast<float*>(at + kv.codes_bytes(kv.value_dim));
    auto* const codes = reinterpret_cast<int16_t*>(at) + slot / 2 * 2 * kv.value_dim + slot % 2;
    return {kv.type, nullptr, 0, nullptr, 0, {codes, scales + slot, false}};
  }
  return {kv.type, at + static_cast<size_t>(slot * kv.value_dim) * kv.element_bytes(), 1,
          reinterpret_cast<uint16_t*>(at + kv.codes_bytes(kv.value_dim)) + slot * groups, 1};
}

class ReferenceOps final : public CpuOps {
 public:
  explicit ReferenceOps(ThreadPool& pool) : pool_(pool), rows_(static_cast<size_t>(pool.threads())) {}

  size_t PackedBytes(const WeightSpec& spec) const override {
    return static_cast<size_t>(spec.rows) * RowBytes(spec.type, spec.columns);
  }

  uint32_t LayoutId(const WeightSpec&) const override { return kFileLayout; }
  PackedWeight Pack(const WeightSpec& spec, const std::byte* source, std::byte* destination) override {
    const size_t bytes = PackedBytes(spec);
    std::memcpy(destination, source, bytes);
    return PackedWeight{spec, destination, bytes, kFileLayout};
  }

  size_t ScratchBytes(int32_t, int32_t max_columns) const override {
    return static_cast<size_t>(pool_.threads()) * static_cast<size_t>(max_columns) * sizeof(float);
  }
  KernelChoice DescribeKernel(const WeightSpec&) const override {
    return {"reference, sums in double", false, "the reference backend has no vector kernels"};
  }
  void SetTuning(const KernelTuning&) override {}
  Status ReserveScratch(int32_t, int32_t max_columns) override {
    for (std::vector<float>& row : rows_) row.resize(std::max(row.size(), static_cast<size_t>(max_columns)));
    return {};
  }

  void Embed(const PackedWeight& table, std::span<const int32_t> tokens, float scale, Matrix out) override {
    const size_t row_bytes = RowBytes(table.spec.type, table.spec.columns);
    for (size_t t = 0; t < tokens.size(); ++t) {
      CHECK(tokens[t] >= 0 && tokens[t] < table.spec.rows);
      float* row = out.data + static_cast<int64_t>(t) * out.stride;
      DequantiseRow(table.spec.type, table.data + static_cast<size_t>(tokens[t]) * row_bytes,
                    table.spec.columns, row);
      for (int64_t c = 0; c < table.spec.columns; ++c) row[c] *= scale;
    }
  }

  void RmsNorm(ConstMatrix x, const float* gain, float eps, Matrix out) override {
    for (int64_t r = 0; r < x.rows; ++r) {
      const float* in = x.data + r * x.stride;
      float* to = out.data + r * out.stride;
      double squares = 0;
      for (int64_t c = 0; c < x.columns; ++c) squares += static_cast<double>(in[c]) * in[c];
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps);
      for (int64_t c = 0; c < x.columns; ++c) to[c] = static_cast<float>(in[c] * scale * gain[c]);
    }
  }

  void LayerNorm(ConstMatrix x, const float* gain, const float* bias, float eps, Matrix out) override {
    for (int64_t r = 0; r < x.rows; ++r) {
      const float* in = x.data + r * x.stride;
      float* to = out.data + r * out.stride;
      double sum = 0;
      for (int64_t c = 0; c < x.columns; ++c) sum += in[c];
      const double mean = sum / static_cast<double>(x.columns);
      double squares = 0;
      for (int64_t c = 0; c < x.columns; ++c) squares += (in[c] - mean) * (in[c] - mean);
      const double scale = 1.0 / std::sqrt(squares / static_cast<double>(x.columns) + eps);
      for (int64_t c = 0; c < x.columns; ++c) {
        const double shift = bias == nullptr ? 0.0 : bias[c];
        to[c] = static_cast<float>((in[c] - mean) * scale * gain[c] + shift);
      }
    }
  }

  void Linear(ConstMatrix x, std::span<const LinearTarget> targets) override {
    for (const LinearTarget& target : targets) {
      LinearOne(x, target);
      if (target.residual.data != nullptr) Add(target.residual, target.out, target.residual);
      if (target.peaks != nullptr) Peaks(target.out, target.peaks);
    }
  }

  void GatedLinear(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up, Activation activation,
                   Matrix scratch, Matrix out) override {
    LinearOne(x, {.weight = &gate, .out = out});
    LinearOne(x, {.weight = &up, .out = scratch});
    GatedActivation(activation, out, scratch, out);
  }

  static void Peaks(ConstMatrix out, float* peaks) {
    for (int64_t r = 0; r < out.rows; ++r, peaks += PeaksOf(out.columns)) {
      std::fill_n(peaks, PeaksOf(out.columns), -std::numeric_limits<float>::infinity());
      for (int64_t c = 0; c < out.columns; ++c) {
        const float y = out.data[r * out.stride + c];
        float& peak = peaks[c / kPeakBlock * kPeakLanes + c % kPeakLanes];
        if (!std::isfinite(y)) peak = std::numeric_limits<float>::infinity();
        peak = std::max(peak, y);
      }
    }
  }

  void Rope(const RopeArgs& args) override {
    const int64_t heads = args.x.columns / args.head_dim;
    const int32_t half = args.rotary_dim / 2;
    for (int64_t t = 0; t < args.x.rows; ++t) {
      for (int32_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(args.positions[static_cast<size_t>(t)]) *
                             static_cast<double>(args.inverse_frequency[i]);
        const double c = std::cos(angle) * args.amplitude, s = std::sin(angle) * args.amplitude;
        const int32_t first = args.pairing == RopePairing::kHalfSplit ? i : 2 * i;
        const int32_t second = args.pairing == RopePairing::kHalfSplit ? i + half : 2 * i + 1;
        for (int64_t h = 0; h < heads; ++h) {
          float* head = args.x.data + t * args.x.stride + h * args.head_dim;
          const double a = head[first], b = head[second];
          head[first] = static_cast<float>(a * c - b * s);
          head[second] = static_cast<float>(a * s + b * c);
        }
      }
    }
  }

  void AppendKv(const KvAppendArgs& args) override {
    const KvLayout& kv = *args.layout;
    for (const SequenceSlice& sequence : args.sequences) {
      for (int32_t i = 0; i < sequence.token_count; ++i) {
        const int64_t row = sequence.token_begin + i, position = sequence.context + i;
        CHECK(position / kKvBlockTokens < sequence.block_count);
        for (int32_t h = 0; h < kv.kv_heads; ++h) {
          const float* key = args.key.data + row * args.key.stride + static_cast<int64_t>(h) * kv.key_dim;
          const float* value =
              args.value.data + row * args.value.stride + static_cast<int64_t>(h) * kv.value_dim;
          KeyAt(kv, args.layer, h, sequence, position).Store(key, kv.key_dim);
          ValueAt(kv, args.layer, h, sequence, position).Store(value, kv.value_dim);
        }
      }
    }
  }

  void Attention(const AttentionArgs& args) override {
    for (const SequenceSlice& sequence : args.sequences) {
      const int64_t items = static_cast<int64_t>(sequence.token_count) * args.query_heads;
      for (int64_t begin = 0; begin < items; begin += ThreadPool::kMaxChunks) {
        pool_.Run(std::min(items - begin, ThreadPool::kMaxChunks), [&](int64_t chunk, int) {
          const int64_t item = begin + chunk;
          AttendOne(args, sequence, static_cast<int32_t>(item / args.query_heads),
                    static_cast<int32_t>(item % args.query_heads));
        });
      }
    }
  }

  void GatedActivation(Activation activation, ConstMatrix gate, ConstMatrix up, Matrix out) override {
    for (int64_t r = 0; r < gate.rows; ++r) {
      for (int64_t c = 0; c < gate.columns; ++c) {
        out.data[r * out.stride + c] = static_cast<float>(Apply(activation, gate.data[r * gate.stride + c]) *
                                                          up.data[r * up.stride + c]);
      }
    }
  }

  void Activate(Activation activation, ConstMatrix x, Matrix out) override {
    for (int64_t r = 0; r < x.rows; ++r) {
      for (int64_t c = 0; c < x.columns; ++c) {
        out.data[r * out.stride + c] = static_cast<float>(Apply(activation, x.data[r * x.stride + c]));
      }
    }
  }

  void Add(ConstMatrix a, ConstMatrix b, Matrix out) override {
    for (int64_t r = 0; r < a.rows; ++r) {
      for (int64_t c = 0; c < a.columns; ++c) {
        out.data[r * out.stride + c] = a.data[r * a.stride + c] + b.data[r * b.stride + c];
      }
    }
  }

  void GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix out) override {
    for (size_t i = 0; i < rows.size(); ++i) {
      CHECK(rows[i] >= 0 && rows[i] < x.rows);
      std::memcpy(out.data + static_cast<int64_t>(i) * out.stride, x.data + rows[i] * x.stride,
                  static_cast<size_t>(x.columns) * sizeof(float));
    }
  }

  double MeasureInt8OpsPerS(double seconds) override { return MeasureF32FlopsPerS(seconds); }
  double MeasureF32FlopsPerS(double seconds) override {
    using Clock = std::chrono::steady_clock;
    const auto begin = Clock::now();
    std::vector<float> a(4096, 1.0f), b(4096, 0.5f);
    double sum = 0;
    int64_t operations = 0;
    std::chrono::duration<double> elapsed{};
    do {
      for (size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
      operations += 2 * static_cast<int64_t>(a.size());
      a[0] = static_cast<float>(sum * 1e-9);
      elapsed = Clock::now() - begin;
    } while (elapsed.count() < seconds);
    return static_cast<double>(operations) / elapsed.count();
  }
  uint64_t ReadAll(const std::byte* data, size_t bytes) override {
    uint64_t sum = 0;
    for (size_t i = 0; i < bytes; i += sizeof(uint64_t)) {
      uint64_t word = 0;
      std::memcpy(&word, data + i, sizeof word);
      sum += word;
    }
    return sum;
  }

 private:
  void LinearOne(ConstMatrix x, const LinearTarget& target) {
    const WeightSpec& spec = target.weight->spec;
    CHECK(x.columns == spec.columns && target.out.columns == spec.rows);
    for (std::vector<float>& row : rows_) row.resize(std::max(row.size(), static_cast<size_t>(spec.columns)));
    const size_t row_bytes = RowBytes(spec.type, spec.columns);
    constexpr int64_t kRowsPerChunk = 8;
    pool_.Run((spec.rows + kRowsPerChunk - 1) / kRowsPerChunk, [&](int64_t chunk, int thread) {
      float* weight = rows_[static_cast<size_t>(thread)].data();
      const int64_t end = std::min(spec.rows, (chunk + 1) * kRowsPerChunk);
      for (int64_t n = chunk * kRowsPerChunk; n < end; ++n) {
        DequantiseRow(spec.type, target.weight->data + static_cast<size_t>(n) * row_bytes, spec.columns,
                      weight);
        for (int64_t m = 0; m < x.rows; ++m) {
          const float* in = x.data + m * x.stride;
          double sum = 0;
          for (int64_t k = 0; k < spec.columns; ++k) sum += static_cast<double>(in[k]) * weight[k];
          if (target.bias != nullptr) sum += target.bias[n];
          target.out.data[m * target.out.stride + n] = static_cast<float>(sum);
        }
      }
    });
  }

  static void AttendOne(const AttentionArgs& args, const SequenceSlice& sequence, int32_t token,
                        int32_t head) {
    const KvLayout& kv = *args.layout;
    const int64_t position = sequence.context + token;
    const int64_t end = args.causal ? position + 1 : sequence.context + sequence.token_count;
    const int64_t begin = args.window > 0 ? std::max<int64_t>(0, position + 1 - args.window) : 0;
    const int32_t kv_head = head / (args.query_heads / kv.kv_heads);
    const float* query = args.query.data + (sequence.token_begin + token) * args.query.stride +
                         static_cast<int64_t>(head) * kv.key_dim;
    std::vector<double> weight(static_cast<size_t>(end - begin));
    double largest = -std::numeric_limits<double>::infinity();
    for (int64_t p = begin; p < end; ++p) {
      const KvVector key = KeyAt(kv, args.layer, kv_head, sequence, p);
      double dot = 0;
      for (int32_t d = 0; d < kv.key_dim; ++d) dot += static_cast<double>(query[d]) * key.Load(d);
      weight[static_cast<size_t>(p - begin)] = dot * args.scale;
      largest = std::max(largest, dot * args.scale);
    }
    double total = 0;
    for (double& w : weight) total += (w = std::exp(w - largest));
    float* out = args.out.data + (sequence.token_begin + token) * args.out.stride +
                 static_cast<int64_t>(head) * kv.value_dim;
    for (int32_t d = 0; d < kv.value_dim; ++d) {
      double sum = 0;
      for (int64_t p = begin; p < end; ++p) {
        sum += weight[static_cast<size_t>(p - begin)] * ValueAt(kv, args.layer, kv_head, sequence, p).Load(d);
      }
      out[d] = static_cast<float>(sum / total);
    }
  }

  ThreadPool& pool_;
  std::vector<std::vector<float>> rows_;  // one decoded weight row for each thread
};

}  // namespace

std::unique_ptr<CpuOps> MakeReferenceOps(ThreadPool& pool) { return std::make_unique<ReferenceOps>(pool); }

}  // namespace tidepool::chips::cpu
