// The table of kernels that one instruction set offers, and the plain structures they take.
//
// Each kernels_<set>.cc is compiled with that set's flags. Whatever it includes is compiled with them too,
// and a linker keeps only one copy of an inline function or template: if that copy came from there, the
// program would fault on a lesser processor. So this header (all that those files include, beside
// <immintrin.h> and the *.inl files, whose contents have internal linkage) holds plain structures and
// enumerations only.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tidepool::chips::cpu {

inline constexpr int kPanelRows = 16;   // output rows interleaved in one panel
inline constexpr int kGroup = 32;       // columns that share an activation scale
inline constexpr int kSuperGroups = 8;  // groups in a super-block of the K types

// How a weight is laid out; PackedWeight::layout. panel_layout.h describes the bytes.
enum PanelLayout : uint32_t {
  kPanelF32,
  kPanelF16,
  kPanelBF16,
  kPanelQ4_0,
  kPanelQ4_1,
  kPanelQ5_0,
  kPanelQ5_1,
  kPanelQ8_0,
  kPanelQ2_K,
  kPanelQ3_K,
  kPanelQ4_K,
  kPanelQ5_K,
  kPanelQ6_K,
  kPanelIQ4_NL,
  kPanelIQ4_XS,
  kPanelMXFP4,
  kPanelLayouts,
};

// Codes u are unsigned; w = scale (u - zero) or scale u + minimum. What bits are kept where:
enum CodeStorage : uint8_t { kNibble, kNibblePlusBit, kNibblePlusTwoBits, kTwoBits, kTwoBitsPlusBit, kByte };
enum ScaleKind : uint8_t {
  kHalfScale,     // f16 per group
  kHalfScaleMin,  // f16 scale and minimum per group
  kBfloatScale,   // bf16 per group (powers of two)
  kSuper32,       // f16 per super-block times int8 per group
  kSuperMin32,    // the same, and f16 times uint8 subtracted
  kSuper16,       // as kSuper32 with an int8 for each 16 columns
  kSuperMin16,
};

struct PanelFormat {
  CodeStorage storage;
  ScaleKind scales;
  int zero;       // 0 where there is a minimum
  bool codebook;  // nibbles index a table of 16 codes
  int largest_code;
};

inline constexpr PanelFormat kPanelFormats[kPanelLayouts] = {
    {kByte, kHalfScale, 0, false, 0},  // the three float layouts have no codes
    {kByte, kHalfScale, 0, false, 0},
    {kByte, kHalfScale, 0, false, 0},
    {kNibble, kHalfScale, 8, false, 15},            // Q4_0
    {kNibble, kHalfScaleMin, 0, false, 15},         // Q4_1
    {kNibblePlusBit, kHalfScale, 16, false, 31},    // Q5_0
    {kNibblePlusBit, kHalfScaleMin, 0, false, 31},  // Q5_1
    {kByte, kHalfScale, 128, false, 255},           // Q8_0
    {kTwoBits, kSuperMin16, 0, false, 3},           // Q2_K
    {kTwoBitsPlusBit, kSuper16, 4, false, 7},       // Q3_K
    {kNibble, kSuperMin32, 0, false, 15},           // Q4_K
    {kNibblePlusBit, kSuperMin32, 0, false, 31},    // Q5_K
    {kNibblePlusTwoBits, kSuper16, 32, false, 63},  // Q6_K
    {kNibble, kHalfScale, 128, true, 255},          // IQ4_NL
    {kNibble, kSuper32, 128, true, 255},            // IQ4_XS
    {kNibble, kBfloatScale, 12, true, 24},          // MXFP4
};
constexpr bool IsQuantised(PanelLayout layout) { return layout >= kPanelQ4_0; }
constexpr bool HasMinimum(ScaleKind kind) {
  return kind == kHalfScaleMin || kind == kSuperMin32 || kind == kSuperMin16;
}
constexpr bool IsSuper(ScaleKind kind) { return kind >= kSuper32; }
// Scales for each 16 columns instead of 32.
constexpr bool ScalesBy16(ScaleKind kind) { return kind == kSuper16 || kind == kSuperMin16; }

// Bytes of one panel's codes of a group, of its scales in a super-block or (not super) a group, and of one
// group's scales within a super-block, which follow the f16 factors.
constexpr size_t CodeBytes(CodeStorage storage) {
  switch (storage) {
    case kNibble: return 256;
    case kNibblePlusBit: return 256 + 64;
    case kNibblePlusTwoBits: return 256 + 128;
    case kTwoBits: return 128;
    case kTwoBitsPlusBit: return 128 + 64;
    case kByte: break;
  }
  return 512;
}
constexpr size_t SuperGroupBytes(ScaleKind kind) {
  return size_t{kPanelRows} * (ScalesBy16(kind) ? 2 : 1) * (HasMinimum(kind) ? 2 : 1);
}
constexpr size_t ScaleBytes(ScaleKind kind) {
  const size_t factors = size_t{2} * kPanelRows * (HasMinimum(kind) ? 2 : 1);
  return IsSuper(kind) ? factors + kSuperGroups * SuperGroupBytes(kind) : factors;
}

// The codebooks, moved up by the format's zero so that they are unsigned.
inline constexpr uint8_t kIq4Codes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};
inline constexpr uint8_t kMxfp4Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};

// How rows are cut into tiles for kernels that want several rows' codes side by side: rows / tile_count each,
// one more in the first rows % tile_count. tile_count 0: not cut.
struct RowTiles {
  int64_t rows = 0;
  int64_t count = 0;
};
[[gnu::always_inline]] static inline int64_t TileFirstRow(const RowTiles& tiles, int64_t tile) {
  const int64_t extra = tiles.rows % tiles.count;
  return tile * (tiles.rows / tiles.count) + (tile < extra ? tile : extra);
}

// Rows of activations rounded to int8, one scale for each group of 32: x ~ scale * code.
//
// Cut into tiles, a tile of h rows from row r on has its codes at codes + r * columns as [group][h][32], and
// its scales, sums and offsets at r * groups as [group][h]; `stride` is not used.
struct QuantisedRows {
  const int8_t* codes;     // [rows][stride], -127..127
  const float* scales;     // [rows][groups]
  const float* sums;       // [rows][groups or 2 groups] scale * (sum of codes), for minimums
  const int32_t* offsets;  // [rows][groups or 2 groups] -zero * (sum of codes)
  int64_t stride;
  RowTiles tiles;
};

struct QuantiseTask {
  const float* x;
  int64_t x_stride;
  int64_t row_begin, row_end, columns;
  int64_t group_begin, group_end;  // of each row
  int64_t stride;                  // of codes
  int8_t* codes;
  float* scales;
  int32_t* sums16;  // [rows][2 groups] sums of codes
  RowTiles tiles;   // of all rows of `codes`
};

// A range of rows of x times a range of panels.
struct LinearTask {
  const std::byte* weight;  // panel 0
  size_t panel_bytes;
  size_t codes_offset;  // of the codes within a panel
  int64_t panel_begin, panel_end;
  const std::byte*
      after;  // what this thread will most likely read next, or nullptr: kernels fetch the start of it
  int64_t fetch_level;  // KernelTuning
  int64_t outputs;      // rows of the weight: the last panel may be partial
  int64_t columns;
  int64_t row_begin, row_end;    // rows of x
  int64_t tile_begin, tile_end;  // the same rows, where they are cut into tiles
  const float* x;                // float layouts
  int64_t x_stride;
  QuantisedRows quantised;  // quantised layouts
  const uint16_t*
      bfloat;  // BfloatKernels: rows of x as bf16, a zero after the last of an odd number of columns
  int64_t bfloat_stride;
  float* out;
  int64_t out_stride;
  const float* bias;  // or nullptr
};

inline constexpr int kAttentionRows = 256;      // query rows (token x head of the group) of one task at most
inline constexpr int kAttentionBlockRows = 16;  // of them computed together at most
inline constexpr int kAttentionSplit = 256;  // positions that are reduced together; the borders are absolute
inline constexpr int kKvScaleGroup = 32;     // elements that share a scale in KV as q8: device.h's kKvGroup

// What keys (by their length) and values (by their largest magnitude) are rounded to.
inline constexpr float kKeyUnit = 32000.0f;  // 2 % below 2^15: room for the rounding of the length
inline constexpr float kValueUnit = 8191.0f;

// The elements of KV. kKvF32 is computed in float32; the others in 16-bit integers (attention_fixed.inl).
enum KvElement : uint8_t { kKvF32, kKvF16, kKvBF16, kKvQ8, kKvI16 };

// Query rows [row_begin, row_end) of one sequence and one KV head against splits [split_begin, split_end).
// Row r is token r / group, head r % group of the group.
struct AttentionTask {
  const float* query;    // token 0 of the sequence, first head of the group
  int64_t query_stride;  // between tokens
  float* out;            // the same place in the output; unused when `partial` is set
  int64_t out_stride;
  float* partial;  // [splits of the task][rows of the task][2 + value_dim]: maximum, sum, values
  int64_t row_begin, row_end;
  int32_t group;
  int32_t key_dim, value_dim;
  KvElement element;
  std::byte* const* blocks;
  size_t key_offset, value_offset;  // of this layer and head within a block
  int64_t context, token_count;
  int64_t split_begin, split_end;
  int64_t window;  // 0: none
  bool causal;
  float scale;
  // What this thread will most likely do next, or nullptr: its first keys are fetched.
  std::byte* const* next_blocks;
  size_t next_key_offset;
  float* scratch;  // AttentionScratchFloats(rows of the task, key_dim, value_dim)
};
// Whole cache lines, so that every part begins on one.
constexpr int64_t AttentionPadded(int64_t elements) { return (elements + 15) / 16 * 16; }
constexpr int64_t AttentionScratchFloats(int64_t rows, int64_t key_dim, int64_t value_dim) {
  const int64_t keys = AttentionPadded(key_dim), values = AttentionPadded(value_dim);
  const int64_t block = kAttentionBlockRows * (kAttentionSplit + kAttentionSplit / 2 + values);
  const int64_t split = kAttentionSplit * (keys / 2 + values / 2 + 2);
  return AttentionPadded(1) + block + split + AttentionPadded(rows) + rows * (keys / 2 + values);
}

// One token of a sequence against splits of several KV heads side by side, KV of kI16.
inline constexpr int kDecodeGroup = 4;  // query heads of a KV head at most
inline constexpr int kDecodeRows = 64;  // query heads of a task at most
struct DecodeTask {
  AttentionTask head;  // the first of the heads: rows [0, group); scratch: DecodeScratchFloats
  int64_t heads;
  size_t key_step, value_step;  // bytes between heads in a block
  int64_t partial_step;         // floats between the partials of heads
  bool fetch_far;               // KernelTuning::fetch_level 3
};
constexpr int64_t DecodeScratchFloats(int64_t heads, int64_t group, int64_t key_dim, int64_t value_dim) {
  const int64_t rows = heads * group, keys = AttentionPadded(key_dim), values = AttentionPadded(value_dim);
  return AttentionPadded(1) + kAttentionSplit + AttentionPadded(rows) +
         rows * (keys / 2 + kAttentionSplit + kAttentionSplit / 2 + 2 * values) + group * (2 + value_dim) +
         AttentionScratchFloats(group, key_dim, value_dim);
}

struct MergeTask {
  const float* partial;  // [splits][rows][2 + value_dim]
  int64_t splits, rows;
  float* out;  // row r at out + (row_begin + r) / group * stride + ... as above
  int64_t out_stride, row_begin;
  int32_t group, value_dim;
  float* scratch;  // value_dim
};

struct NormTask {
  const float* x;
  int64_t x_stride, row_begin, row_end, columns;
  const float* gain;
  const float* bias;  // layer norm; may be nullptr
  float eps;
  float* out;
  int64_t out_stride;
};

struct RopeTask {
  float* x;
  int64_t stride, row_begin, row_end;
  int64_t heads;
  int32_t head_dim, rotary_dim;
  bool interleaved;
  // Half split: [rows][rotary_dim / 2]. Interleaved: [rows][rotary_dim], (c0, c0, c1, c1 ..) and (-s0, s0,
  // -s1, s1 ..). The rows begin at row_begin.
  const float* cosines;
  const float* sines;
};

struct ElementwiseTask {
  const float* a;
  int64_t a_stride;
  const float* b;  // nullptr: unary
  int64_t b_stride;
  float* out;
  int64_t out_stride;
  int64_t row_begin, row_end, columns;
};

// out of rows [row_begin, row_end), outputs from `begin` (a multiple of kPeakBlock) to `end`: see PeaksOf in
// device.h.
inline constexpr int64_t kPeaksBlock = 1024, kPeaksLanes = 16;
struct PeaksTask {
  const float* out;
  int64_t out_stride;
  float* peaks;
  int64_t peaks_stride;
  int64_t row_begin, row_end, begin, end;
};

enum ActivationKernel : uint8_t {
  kSiluKernel,
  kGeluTanhKernel,
  kGeluExactKernel,
  kTanhKernel,
  kActivationKernels
};

// BF16 panels times x rounded to bf16.
struct BfloatKernels {
  void (*linear)(const LinearTask&);
  float (*probe)(int64_t rounds);  // as those of KernelTable
  int64_t probe_operations;
};

struct KernelTable {
  const char* name;
  int tile_rows;  // rows of a tile at most; 0: rows are not cut into tiles
  void (*quantise)(const QuantiseTask&);
  void (*linear[kPanelLayouts])(const LinearTask&);
  void (*attend)(const AttentionTask&);
  void (*attend_decode)(const DecodeTask&);
  void (*merge)(const MergeTask&);
  void (*rms_norm)(const NormTask&);
  void (*layer_norm)(const NormTask&);
  void (*rope)(const RopeTask&);
  void (*add)(const ElementwiseTask&);
  void (*peaks)(const PeaksTask&);
  void (*activate[kActivationKernels])(const ElementwiseTask&);
  void (*to_half)(const float* from, uint16_t* to, int64_t count);
  void (*to_bfloat)(const float* from, uint16_t* to, int64_t count);
  // Codes and an f16 scale for each kKvScaleGroup elements (the last group may be shorter): see KvLayout.
  void (*to_q8)(const float* from, int8_t* codes, uint16_t* scales, int64_t count);
  // Codes of kI16 and what they are multiplied by, of one key or value. `codes`: AttentionPadded(count).
  float (*key_to_i16)(const float* from, int16_t* codes, int64_t count);
  float (*value_to_i16)(const float* from, int16_t* codes, int64_t count);
  // Arithmetic probes: `rounds` times kProbeOperations operations from registers.
  float (*probe_f32)(int64_t rounds);
  int32_t (*probe_int8)(int64_t rounds);
  int64_t probe_f32_operations, probe_int8_operations;
  uint64_t (*read_all)(const std::byte* data, size_t bytes);
  const BfloatKernels* bfloat = nullptr;  // take the place of linear[kPanelBF16]
};

extern const KernelTable kAvx2Kernels;
extern const KernelTable kAvxVnniKernels;
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx512VnniKernels;
extern const BfloatKernels kAvx512Bf16Kernels;

}  // namespace tidepool::chips::cpu
