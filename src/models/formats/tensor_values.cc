// Tensor data: what is looked at before it is packed, and decoding to float32.
#include <fmt/format.h>

#include <bit>
#include <cstring>
#include <new>

#include "chips/quantisation.h"
#include "models/formats/checkpoint.h"
#include "models/formats/file_problem.h"

namespace tidepool::formats {
namespace {

using chips::DataType;

// E8M0 scales from 253 on make 6 * 2^(e-127) overflow float32 (252: 1.5 * 2^127 is finite); 255 is NaN by the
// standard.
constexpr uint8_t kMaxE8M0 = 252;

constexpr int64_t kNone = -1;

// Numbers whose exponent bits are all ones are infinite or NaN. Searched in runs, so that the inner loop has
// no exit and the compiler can use vectors.
template <typename Word, Word kExponent>
int64_t FindNonFinite(std::span<const std::byte> bytes) {
  constexpr size_t kRun = 4096;
  const size_t count = bytes.size() / sizeof(Word);
  for (size_t begin = 0; begin < count; begin += kRun) {
    const size_t end = std::min(begin + kRun, count);
    Word bad = 0;
    for (size_t i = begin; i < end; ++i) {
      Word word;
      std::memcpy(&word, bytes.data() + i * sizeof(Word), sizeof(Word));
      bad = static_cast<Word>(bad | ((word & kExponent) == kExponent));
    }
    if (bad == 0) continue;
    for (size_t i = begin; i < end; ++i) {
      Word word;
      std::memcpy(&word, bytes.data() + i * sizeof(Word), sizeof(Word));
      if ((word & kExponent) == kExponent) return static_cast<int64_t>(i);
    }
  }
  return kNone;
}

int64_t FindE4M3Nan(std::span<const std::byte> bytes) {
  for (size_t i = 0; i < bytes.size(); ++i) {
    if ((static_cast<uint8_t>(bytes[i]) & 0x7fu) == 0x7fu) return static_cast<int64_t>(i);
  }
  return kNone;
}

// Where the half-precision scale (and minimum) of a block are; -1: none.
struct HalfFields {
  int first = -1;
  int second = -1;
};

HalfFields HalfFieldsOf(DataType type) {
  switch (type) {
    case DataType::kQ4_0:
    case DataType::kQ5_0:
    case DataType::kQ8_0:
    case DataType::kIQ4_NL:
    case DataType::kIQ4_XS: return {0, -1};
    case DataType::kQ4_1:
    case DataType::kQ5_1:
    case DataType::kQ4_K:
    case DataType::kQ5_K: return {0, 2};
    case DataType::kQ2_K: return {80, 82};
    case DataType::kQ3_K: return {108, -1};
    case DataType::kQ6_K: return {208, -1};
    default: return {};
  }
}

bool HalfIsFinite(const std::byte* p) { return (static_cast<unsigned>(p[1]) & 0x7cu) != 0x7cu; }

int64_t FindBadBlock(DataType type, std::span<const std::byte> bytes) {
  const auto stride = static_cast<size_t>(chips::TraitsOf(type).block_bytes);
  const HalfFields fields = HalfFieldsOf(type);
  const int second = fields.second < 0 ? fields.first : fields.second;
  for (size_t at = 0; at + stride <= bytes.size(); at += stride) {
    const std::byte* block = bytes.data() + at;
    const bool sound = type == DataType::kMXFP4
                           ? static_cast<uint8_t>(block[0]) <= kMaxE8M0
                           : HalfIsFinite(block + fields.first) && HalfIsFinite(block + second);
    if (!sound) return static_cast<int64_t>(at / stride);
  }
  return kNone;
}

// The first element (of plain types) or block that is not finite.
int64_t FindBadValue(const Tensor& tensor) {
  switch (tensor.type) {
    case DataType::kF32: return FindNonFinite<uint32_t, 0x7f800000u>(tensor.bytes);
    case DataType::kF16: return FindNonFinite<uint16_t, 0x7c00u>(tensor.bytes);
    case DataType::kBF16: return FindNonFinite<uint16_t, 0x7f80u>(tensor.bytes);
    case DataType::kF64: return FindNonFinite<uint64_t, 0x7ff0000000000000u>(tensor.bytes);
    case DataType::kF8_E4M3: return FindE4M3Nan(tensor.bytes);
    case DataType::kI8:
    case DataType::kI16:
    case DataType::kI32:
    case DataType::kI64: return kNone;
    default: return FindBadBlock(tensor.type, tensor.bytes);
  }
}

tl::unexpected<Error> CannotDecode(const Checkpoint& checkpoint, const Tensor& tensor, std::string_view why) {
  return FileProblem(checkpoint.path().string())
      .Unsupported(tensor.name,
                   fmt::format("type {} cannot be decoded: {}", chips::TraitsOf(tensor.type).name, why),
                   "Take another form of the model (BF16, F16 or a GGUF quantisation)");
}

// F8_E4M3 in blocks: true value = value * scale[row / block_rows][column / block_columns] (despite the name
// "_scale_inv"). Leading dimensions, as of fused experts, repeat the scheme.
struct BlockScales {
  std::vector<float> values;
  int64_t block_rows = 128;
  int64_t block_columns = 128;
};

Result<BlockScales> ReadBlockScales(const Checkpoint& checkpoint, const Tensor& tensor) {
  const Tensor* scale = checkpoint.Find(tensor.name + "_scale_inv");
  if (scale == nullptr)
    return CannotDecode(checkpoint, tensor,
                        fmt::format("no tensor \"{}_scale_inv\"", Printable(tensor.name)));
  if (scale->type == DataType::kF8_E4M3 || !chips::CanDequantise(scale->type)) {
    return CannotDecode(checkpoint, tensor, "its block scales are not F32, F16 or BF16");
  }
  BlockScales scales;
  if (const auto size = checkpoint.metadata().Ints("quantization_config.weight_block_size")) {
    if (size->size() != 2 || (*size)[0] < 1 || (*size)[1] < 1) {
      return CannotDecode(checkpoint, tensor,
                          "quantization_config.weight_block_size must be two positive integers");
    }
    scales.block_rows = (*size)[0];
    scales.block_columns = (*size)[1];
  }
  std::vector<int64_t> wanted = tensor.shape;
  if (wanted.size() < 2) return CannotDecode(checkpoint, tensor, "block scales need a matrix");
  int64_t& rows = wanted[wanted.size() - 2];
  int64_t& columns = wanted.back();
  rows = rows / scales.block_rows + (rows % scales.block_rows != 0);
  columns = columns / scales.block_columns + (columns % scales.block_columns != 0);
  if (scale->shape != wanted) {
    return CannotDecode(checkpoint, tensor,
                        fmt::format("the shape of its block scales must be [{}]", fmt::join(wanted, ", ")));
  }
  scales.values.resize(static_cast<size_t>(scale->elements()));
  chips::DequantiseRow(scale->type, scale->bytes.data(), scale->elements(), scales.values.data());
  return scales;
}

void ApplyBlockScales(const Tensor& tensor, const BlockScales& scales, std::vector<float>& values) {
  const int64_t columns = tensor.shape.back();
  const int64_t rows = tensor.shape[tensor.shape.size() - 2];
  const int64_t scale_columns = columns / scales.block_columns + (columns % scales.block_columns != 0);
  const int64_t scale_rows = rows / scales.block_rows + (rows % scales.block_rows != 0);
  const int64_t all_rows = columns == 0 ? 0 : static_cast<int64_t>(values.size()) / columns;
  for (int64_t row = 0; row < all_rows; ++row) {
    const int64_t scale_row = row / rows * scale_rows + row % rows / scales.block_rows;
    const float* scale = scales.values.data() + scale_row * scale_columns;
    float* out = values.data() + row * columns;
    for (int64_t column = 0; column < columns; ++column) out[column] *= scale[column / scales.block_columns];
  }
}

}  // namespace

Status ValidateTensorValues(const Checkpoint& checkpoint, const Tensor& tensor) {
  const int64_t bad = FindBadValue(tensor);
  if (bad == kNone) return {};
  const chips::DataTypeTraits& traits = chips::TraitsOf(tensor.type);
  const bool blocks = traits.block_elements > 1;
  return Fail(
      ErrorKind::kCorrupt, "bad_tensor_values",
      fmt::format("{}: \"{}\": {} {} of {} ({}) is NaN, infinite or out of range. The file is damaged or was "
                  "badly converted; fetch it again or take another quantisation",
                  checkpoint.path().string(), Printable(tensor.name),
                  blocks ? "the scale of block" : "element", bad, tensor.elements() / traits.block_elements,
                  traits.name),
      Printable(tensor.name));
}

Result<std::vector<float>> TensorToFloat(const Checkpoint& checkpoint, const Tensor& tensor) {
  if (!chips::CanDequantise(tensor.type)) return CannotDecode(checkpoint, tensor, "not a kind of float");
  try {
    std::vector<float> values(static_cast<size_t>(tensor.elements()));
    if (tensor.type != DataType::kF8_E4M3) {
      chips::DequantiseRow(tensor.type, tensor.bytes.data(), tensor.elements(), values.data());
      return values;
    }
    TP_ASSIGN(const BlockScales scales, ReadBlockScales(checkpoint, tensor));
    chips::DequantiseRow(tensor.type, tensor.bytes.data(), tensor.elements(), values.data());
    ApplyBlockScales(tensor, scales, values);
    return values;
  } catch (const std::bad_alloc&) {
    return Fail(
        ErrorKind::kUnavailable, "out_of_memory",
        fmt::format(
            "{}: \"{}\": no memory for {} float32 values; use the model's own precision or a smaller model",
            checkpoint.path().string(), Printable(tensor.name), tensor.elements()),
        Printable(tensor.name));
  }
}

}  // namespace tidepool::formats
