// Device: where tensors live and where operations run. One interface for CPU, CUDA and simulation.
//
// Words: a *row* is one token's vector; matrices are row-major float32 unless said; a *step* runs a ragged
// batch: tokens of several sequences laid end to end, prefill chunks and single decode tokens together.
//
// Threads: one engine thread drives a device. Ops return when their work is enqueued; Synchronize() waits.
// (On a CPU every op is complete when it returns.) Pack() may run on another thread than the ops.
//
// Determinism: every op computes a row's result from that row, its sequence and the weights alone, in an
// order of additions that does not depend on the other rows of the batch, on how a prompt was cut into
// chunks, or on the number of threads. A kernel that gives this up for speed may do so only when
// DeviceOptions::deterministic is false.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "base/result.h"
#include "chips/cpu/kernel_tuning.h"
#include "chips/data_type.h"

namespace tidepool::chips {

// ---- what a device is ------------------------------------------------------------------------------

enum class DeviceKind : uint8_t { kCpu, kCuda, kSimulated };

struct DeviceInfo {
  DeviceKind kind = DeviceKind::kCpu;
  std::string name;             // "Intel Xeon ... (2 cores)"
  std::string instruction_set;  // "reference", "avx2", "avx512", ...
  int threads = 1;
  uint64_t memory_bytes = 0;  // physical or cgroup limit, what the ledger's default limit is taken from
};

// Measured, not nominal. Filled by Device::MeasureRoofline (takes about 0.3 s on a CPU).
struct Roofline {
  double memory_bytes_per_s = 0;  // sequential read
  double int8_ops_per_s = 0;      // multiply and add count as two
  double f32_flops_per_s = 0;
  double bf16_flops_per_s = 0;  // 0: 16-bit float weights are multiplied in float32
};

// ---- memory ----------------------------------------------------------------------------------------

// Device memory with one owner. Move-only; frees itself. Accounting is the caller's (compute/memory).
class DeviceBuffer {
 public:
  using Release = void (*)(void* data, size_t bytes);
  DeviceBuffer() = default;
  DeviceBuffer(void* data, size_t bytes, Release release) : data_(data), bytes_(bytes), release_(release) {}
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    if (this != &other) {
      Reset();
      data_ = std::exchange(other.data_, nullptr);
      bytes_ = std::exchange(other.bytes_, 0);
      release_ = other.release_;
    }
    return *this;
  }
  ~DeviceBuffer() { Reset(); }
  void Reset() {
    if (data_ != nullptr) release_(data_, bytes_);
    data_ = nullptr;
    bytes_ = 0;
  }
  std::byte* data() const { return static_cast<std::byte*>(data_); }
  size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
  Release release_ = nullptr;
};

// ---- weights ---------------------------------------------------------------------------------------

// kNative keeps the file's quantised type (activations may be rounded to int8 inside kernels);
// kFloat32 decodes the weights and computes in float32: the yardstick for accuracy.
enum class WeightPrecision : uint8_t { kNative, kFloat32 };

// A weight matrix W [rows = outputs, columns = inputs], y = W x, in the file's layout.
struct WeightSpec {
  DataType type = DataType::kF32;
  int64_t rows = 0;
  int64_t columns = 0;
  WeightPrecision precision = WeightPrecision::kNative;
};

// A weight in the layout a device's kernels want. A view: the bytes belong to the buffer it was packed into.
struct PackedWeight {
  WeightSpec spec;
  const std::byte* data = nullptr;
  size_t bytes = 0;
  uint32_t layout = 0;  // private to the device that packed it
  bool empty() const { return data == nullptr; }
};

// Further copies of weights, one for each NUMA node but the first. A step reads a copy only where it was
// filled since it was dropped. Threads: one at a time, any.
class WeightCopies {
 public:
  virtual ~WeightCopies() = default;  // the copies go with it; no step may read them any more
  virtual int count() const = 0;
  // [offset, offset + bytes) of the weights into copy 0 .. count() - 1.
  virtual void Fill(int copy, uint64_t offset, uint64_t bytes) = 0;
  // Out of memory, in all copies.
  virtual void Drop(uint64_t offset, uint64_t bytes) = 0;
  // What the calling thread brings into memory from now on (pages of the weights themselves) comes from the
  // first node.
  virtual void PreferFirstNode() = 0;
};

// ---- views -----------------------------------------------------------------------------------------

struct Matrix {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;  // elements between rows, >= columns
};
struct ConstMatrix {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t stride = 0;
  ConstMatrix() = default;
  ConstMatrix(const float* d, int64_t r, int64_t c, int64_t s) : data(d), rows(r), columns(c), stride(s) {}
  ConstMatrix(const Matrix& m)
      : data(m.data), rows(m.rows), columns(m.columns), stride(m.stride) {}  // NOLINT
};

// ---- paged KV --------------------------------------------------------------------------------------

inline constexpr int32_t kKvBlockTokens = 16;

// Elements that share a scale in KV of type kQ8_0.
inline constexpr int32_t kKvGroup = 32;

// One block holds kKvBlockTokens tokens of all layers of one model. Within a block, for each layer: K of
// every head, then V of every head. Keys are transposed: the scores of a block's 16 tokens are then sums of
// contiguous vectors, without shuffles.
//   kF32, kF16, kBF16: K [key_dim][16], V [16][value_dim] of that type.
//   kQ8_0: K int8 [key_dim][16], then its scales, f16 [groups][16]; V int8 [16][value_dim], then its scales,
//   f16 [16][groups]; a group is 32 dimensions of one token, the last may be shorter. Scale: the f16 nearest
//   to largest / 127; value = scale * code. A group with a NaN, an infinity or a magnitude beyond 127 * 65504
//   has a NaN for its scale.
//   kI16: what attention computes with, so that nothing is rounded again when it is read. K int16 [pairs of
//   dimensions][16][2], then a scale a token, f32 [16]; V int16 [8 pairs of tokens][value_dim][2], then
//   scales, f32 [16]. value = scale * code. A key's scale is its length / 32000, a value's its largest
//   magnitude / 8191 (why these: cpu/attention_fixed.inl). A vector that is not finite, or a key whose length
//   is beyond float32, has a NaN for its scale and codes of 0. An odd number of dimensions is one more, of
//   zeros.
struct KvLayout {
  DataType type = DataType::kF16;
  int32_t layers = 0;
  int32_t kv_heads = 0;
  int32_t key_dim = 0;
  int32_t value_dim = 0;

  static bool Supports(DataType type) {
    return type == DataType::kF32 || type == DataType::kF16 || type == DataType::kBF16 ||
           type == DataType::kQ8_0 || type == DataType::kI16;
  }
  // Of a code, where elements have scales.
  size_t element_bytes() const { return type == DataType::kF32 ? 4 : type == DataType::kQ8_0 ? 1 : 2; }
  // K (or V) of one head in a block, and the part of it that comes before the scales.
  size_t codes_bytes(int32_t dim) const {
    if (type == DataType::kI16) dim += dim % 2;
    return static_cast<size_t>(kKvBlockTokens) * static_cast<size_t>(dim) * element_bytes();
  }
  size_t head_bytes(int32_t dim) const {
    const auto groups = static_cast<size_t>((dim + kKvGroup - 1) / kKvGroup);
    const size_t scale_bytes = type == DataType::kQ8_0  ? groups * 2
                               : type == DataType::kI16 ? sizeof(float)
                                                        : 0;
    return codes_bytes(dim) + scale_bytes * kKvBlockTokens;
  }
  size_t layer_bytes() const {
    return static_cast<size_t>(kv_heads) * (head_bytes(key_dim) + head_bytes(value_dim));
  }
  size_t block_bytes() const { return layer_bytes() * static_cast<size_t>(layers); }
  // Byte offset of K (or V) of `head` at token 0 of a block. K: tokens follow at 1 element, dimensions at 16.
  // V: tokens follow at value_dim elements, dimensions at 1. (kI16: pairs of both, as above.)
  size_t key_offset(int32_t layer, int32_t head) const {
    return static_cast<size_t>(layer) * layer_bytes() + static_cast<size_t>(head) * head_bytes(key_dim);
  }
  size_t value_offset(int32_t layer, int32_t head) const {
    return static_cast<size_t>(layer) * layer_bytes() + static_cast<size_t>(kv_heads) * head_bytes(key_dim) +
           static_cast<size_t>(head) * head_bytes(value_dim);
  }
};

// One sequence's part of a step. Token i of the slice has position context + i and lives in block
// (context + i) / 16, slot (context + i) % 16. `blocks` covers context + token_count tokens.
struct SequenceSlice {
  int32_t token_begin = 0;  // first row of the step's matrices
  int32_t token_count = 0;
  int32_t context = 0;                 // tokens in the KV cache before this step
  std::byte* const* blocks = nullptr;  // block table (device pointers)
  int32_t block_count = 0;
};

// ---- operations ------------------------------------------------------------------------------------

// The largest of outputs that lie kPeakLanes apart within a block of kPeakBlock: entry l of block b is the
// largest of outputs b * kPeakBlock + l + i * kPeakLanes, -inf if there is none, +inf if one of them is not
// finite. Who looks for the few largest of a long row reads these first.
inline constexpr int64_t kPeakBlock = 1024;
inline constexpr int64_t kPeakLanes = 16;
constexpr int64_t PeaksOf(int64_t outputs) { return (outputs + kPeakBlock - 1) / kPeakBlock * kPeakLanes; }

struct LinearTarget {
  const PackedWeight* weight = nullptr;
  const float* bias = nullptr;  // [rows] or nullptr
  Matrix out;                   // [x.rows, weight rows]
  Matrix residual = {};         // with data: residual += what out would be, and out is undefined afterwards
  float* peaks = nullptr;       // or [x.rows, PeaksOf(weight rows)]: made from out
};

enum class RopePairing : uint8_t {
  kHalfSplit,    // pairs (i, i + d/2): Hugging Face checkpoints, NEOX
  kInterleaved,  // pairs (2i, 2i + 1): GGUF `llama`
};

struct RopeArgs {
  Matrix x;  // [tokens, heads * head_dim], turned in place
  int32_t head_dim = 0;
  int32_t rotary_dim = 0;                    // first rotary_dim elements of each head turn
  std::span<const int32_t> positions;        // [tokens]
  const float* inverse_frequency = nullptr;  // [rotary_dim / 2]: angle = position * inverse_frequency[i]
  float amplitude = 1;                       // cos and sin are multiplied by it (YaRN)
  RopePairing pairing = RopePairing::kHalfSplit;
};

struct KvAppendArgs {
  ConstMatrix key;    // [tokens, kv_heads * key_dim]
  ConstMatrix value;  // [tokens, kv_heads * value_dim]
  const KvLayout* layout = nullptr;
  int32_t layer = 0;
  std::span<const SequenceSlice> sequences;
};

// softmax(scale * q k^T + mask) v over the paged KV of each token's own sequence (KV of this step's tokens
// has been appended before). Query head h reads KV head h / (query_heads / kv_heads).
struct AttentionArgs {
  ConstMatrix query;  // [tokens, query_heads * key_dim]
  Matrix out;         // [tokens, query_heads * value_dim]
  const KvLayout* layout = nullptr;
  int32_t layer = 0;
  int32_t query_heads = 0;
  float scale = 1;
  int32_t window = 0;  // 0: all earlier tokens; w: the last w tokens, the token itself included
  bool causal =
      true;  // false (encoders): every token of the sequence; the slice must hold the whole sequence
  std::span<const SequenceSlice> sequences;
};

enum class Activation : uint8_t { kSilu, kGeluTanh, kGeluExact, kTanh };

class Ops {
 public:
  virtual ~Ops() = default;

  // out[t] = scale * row tokens[t] of table.
  virtual void Embed(const PackedWeight& table, std::span<const int32_t> tokens, float scale, Matrix out) = 0;
  // out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * gain. In place allowed. For per-head norms view a contiguous
  // [tokens, heads * d] matrix as [tokens * heads, d].
  virtual void RmsNorm(ConstMatrix x, const float* gain, float eps, Matrix out) = 0;
  // out[t] = (x[t] - mean) / sqrt(variance + eps) * gain + bias. In place allowed.
  virtual void LayerNorm(ConstMatrix x, const float* gain, const float* bias, float eps, Matrix out) = 0;
  // For each target: out = x W^T + bias. The targets share x, so it is rounded (quantised) only once.
  virtual void Linear(ConstMatrix x, std::span<const LinearTarget> targets) = 0;
  // out = activation(x gate^T) * (x up^T), the weights of one shape. scratch: as large as out; undefined
  // afterwards.
  virtual void GatedLinear(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up,
                           Activation activation, Matrix scratch, Matrix out) = 0;
  // down of what GatedLinear(x, gate, up, activation) gives; down.out may be x. scratch and inner: [x.rows,
  // rows of gate], undefined afterwards, for a device may keep it in another form.
  virtual void FeedForward(ConstMatrix x, const PackedWeight& gate, const PackedWeight& up,
                           Activation activation, const LinearTarget& down, Matrix scratch, Matrix inner) {
    GatedLinear(x, gate, up, activation, scratch, inner);
    Linear(inner, std::span(&down, 1));
  }
  virtual void Rope(const RopeArgs& args) = 0;
  virtual void AppendKv(const KvAppendArgs& args) = 0;
  // Rope of both, then AppendKv of the turned keys: a device may do it in one pass. `query` and `key` differ
  // in their matrices only; key.x is args.key, and the sequences hold every row.
  virtual void RopeAndAppendKv(const RopeArgs& query, const RopeArgs& key, const KvAppendArgs& args) {
    Rope(query);
    Rope(key);
    AppendKv(args);
  }
  virtual void Attention(const AttentionArgs& args) = 0;
  // out = activation(gate) * up, elementwise. out may be gate.
  virtual void GatedActivation(Activation activation, ConstMatrix gate, ConstMatrix up, Matrix out) = 0;
  virtual void Activate(Activation activation, ConstMatrix x, Matrix out) = 0;
  // out = a + b. out may be a.
  virtual void Add(ConstMatrix a, ConstMatrix b, Matrix out) = 0;
  // out[i] = x[rows[i]].
  virtual void GatherRows(ConstMatrix x, std::span<const int32_t> rows, Matrix out) = 0;

  virtual void Synchronize() = 0;
};

// How a weight is multiplied, for people.
struct KernelChoice {
  std::string kernel;  // "avx512vnni, int8 products of Q4_K panels"
  bool fast = true;    // false: a slower correct path
  std::string why;     // if not: the reason
};

// ---- device ----------------------------------------------------------------------------------------

struct DeviceOptions {
  int threads = 0;  // 0: one per core this process may use
  // "": the best the processor has; else one of CpuInstructionSets(): "reference", "avx2", "avxvnni",
  // "avx512", "avx512vnni", "avx512bf16", "amx".
  std::string instruction_set;
  // One kind of kernels for any number of rows. Only "amx" has two, and then computes as "avx512vnni".
  bool deterministic = false;
  bool pin_threads = false;  // a processor for each thread of the team, over the NUMA nodes in turn
  // Weights lie in the memory of every NUMA node, if there are several (ReserveWeightCopies).
  bool replicate_weights = false;
  std::string numa_root = {};  // "": /sys/devices/system/node; tests make up a topology
  cpu::KernelTuning tuning = {};
};

class Device {
 public:
  virtual ~Device() = default;
  virtual const DeviceInfo& info() const = 0;

  // Zero-filled, aligned to at least 64 bytes. kUnavailable when the machine has no more.
  virtual Result<DeviceBuffer> Allocate(size_t bytes) = 0;

  // Bytes of a weight in this device's layout: known from the shape, so that the ledger can charge it first.
  // kInvalid for a type the device cannot compute with.
  virtual Result<size_t> PackedBytes(const WeightSpec& spec) const = 0;
  // Packs `source` (the file's rows, RowBytes(type, columns) each; no alignment) into `destination`
  // (PackedBytes bytes, 64-byte aligned). Parallel inside.
  virtual Result<PackedWeight> Pack(const WeightSpec& spec, std::span<const std::byte> source,
                                    std::byte* destination) = 0;
  // The view that Pack gave for `spec`, over bytes that it wrote earlier (into a file, perhaps in another
  // process on a device of the same kind, instruction set and PackingVersion). Reads none of them. `packed`:
  // PackedBytes bytes, 64-byte aligned.
  virtual Result<PackedWeight> ViewPacked(const WeightSpec& spec,
                                          std::span<const std::byte> packed) const = 0;
  // Grows whenever the bytes that Pack writes for some weight change: packed weights that were kept on disk
  // by another version are packed again.
  virtual uint32_t PackingVersion() const = 0;
  // How often weights lie in memory: once, or once for each NUMA node (DeviceOptions::replicate_weights).
  virtual int WeightCopyCount() const { return 1; }
  // The further copies of packed weights in [data, data + bytes): from now on Linear reads the copy of the
  // node that a thread runs on, so all of them must be filled before a step reads the weights. nullptr where
  // WeightCopyCount() is 1. They must not outlive the device. Error "out_of_memory" (kUnavailable).
  virtual Result<std::unique_ptr<WeightCopies>> ReserveWeightCopies(const std::byte* data, size_t bytes) {
    (void)data, (void)bytes;
    return std::unique_ptr<WeightCopies>();
  }
  // Copies host floats (norms, biases, tables) to device memory.
  virtual void CopyToDevice(void* destination, const void* source, size_t bytes) = 0;
  virtual void CopyToHost(void* destination, const void* source, size_t bytes) = 0;

  // Scratch that the ops themselves need for steps of at most this size (quantised activations, attention
  // partials). ReserveScratch allocates it once; ops then never allocate. The caller charges ScratchBytes.
  virtual size_t ScratchBytes(int32_t max_tokens, int32_t max_columns) const = 0;
  virtual Status ReserveScratch(int32_t max_tokens, int32_t max_columns) = 0;

  // `spec` must be one that PackedBytes takes.
  virtual KernelChoice DescribeKernel(const WeightSpec&) const { return {}; }
  // How work is cut up from now on; changes speed, never results. Not while an operation runs. A device
  // without such numbers ignores it.
  virtual void SetTuning(const cpu::KernelTuning&) {}

  virtual Ops& ops() = 0;
  virtual Roofline MeasureRoofline() = 0;

  // Calls body(task) once for every task in [0, tasks), in any order, on the threads that the ops use or,
  // where there are none, on the caller's; returns when all are done. For a step's work on the host
  // (sampling), called like the ops; the body must not call the device. Allocates nothing.
  template <typename Body>
  void RunOnThreads(int64_t tasks, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    RunTasks(
        tasks, [](void* context, int64_t task) { (*static_cast<Plain*>(context))(task); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 protected:
  using Task = void (*)(void* context, int64_t task);
  virtual void RunTasks(int64_t tasks, Task run, void* context) {
    for (int64_t task = 0; task < tasks; ++task) run(context, task);
  }
};

// The CPU. An unknown or unsupported instruction_set is an error that lists what this machine has.
Result<std::unique_ptr<Device>> MakeCpuDevice(const DeviceOptions& options);
// Memory that this thread, and threads it starts from now on, bring in is dealt out over all NUMA nodes in
// turn, page by page: weights (the page cache of packed files), KV, scratch. So every core reads at the
// bandwidth of all nodes together. Gives the number of nodes; with one nothing is done. Error "numa_refused"
// (kUnavailable).
Result<int> InterleaveHostMemory();
// The tuning that suits this machine, by trying candidates for about `budget_s` seconds (a second tells;
// other load stretches it) on a team of its own: a device made with the same options may run beside it, and
// would disturb the measurement. The defaults where there is nothing to choose. Errors as MakeCpuDevice,
// "out_of_memory", and "machine_busy" (kUnavailable) when other programs took the cores meanwhile.
Result<cpu::KernelTuning> CalibrateCpu(const DeviceOptions& options, double budget_s);
// The kernels of every weight type, each measured for some 50 ms on a team of its own.
struct KernelMeasurement {
  DataType type = DataType::kF32;
  KernelChoice choice;
  // Of one row (decode): packed bytes read a second. Of many (prefill): multiply and add count as two. The
  // shares are of what `roofline` allows: bandwidth, or the int8 rate (float32 rate for F32, F16 and BF16).
  double one_row_bytes_per_s = 0, one_row_share = 0;
  double many_rows_ops_per_s = 0, many_rows_share = 0;
};
// `roofline` measured on this machine. Errors as MakeCpuDevice, and "out_of_memory".
Result<std::vector<KernelMeasurement>> MeasureCpuKernels(const DeviceOptions& options,
                                                         const Roofline& roofline);
// Instruction sets this machine can run, best first; always ends with "reference".
std::vector<std::string> CpuInstructionSets();

// A device without kernels: memory is real, time is modelled. Its Ops compute nothing (models with scripted
// answers do not call them); AdvanceStep sleeps for the modelled duration of a step.
struct SimulatedDeviceOptions {
  uint64_t memory_bytes = uint64_t{1} << 30;
  double step_base_s = 0;       // seconds per step
  double step_per_token_s = 0;  // plus seconds per token in it
  // Where the device keeps its own count of what it computed, by tag (models read tags from prompts): the
  // truth that meters are compared with. A mapped file, so that it outlives a process that is killed. Empty:
  // none.
  std::string tally_file;
};
// One entry of that file, at tag * sizeof(TallyEntry).
struct TallyEntry {
  uint32_t positions = 0;  // computed, from the first of the sequence on; found in a cache included
  uint32_t sampled = 0;    // rows that gave a token
};
inline constexpr int32_t kMaxTallyTag = 1'000'000;
class SimulatedDevice : public Device {
 public:
  // Blocks the engine thread for the modelled time of a step of `tokens` tokens.
  virtual void AdvanceStep(int32_t tokens) = 0;
  // The same for a share (0..1) of the step: a step that is computed layer by layer.
  virtual void AdvancePart(int32_t tokens, double share) = 0;
  // Engine thread; nothing without a tally file. `positions` counts up, `sampled` is added.
  virtual bool tallies() const = 0;
  virtual void Tally(int32_t tag, int32_t positions, int32_t sampled) = 0;
};
std::unique_ptr<SimulatedDevice> MakeSimulatedDevice(const SimulatedDeviceOptions& options);

}  // namespace tidepool::chips
