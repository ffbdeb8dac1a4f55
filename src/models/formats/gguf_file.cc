#include "models/formats/gguf_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <string_view>

#include "models/formats/file_problem.h"
#include "models/formats/tensor_table.h"

namespace tidepool::formats {
namespace {

constexpr uint32_t kMaxDimensions = 4;
// The smallest that an announced item can be in the file; a count is refused before anything is allocated for
// it.
constexpr uint64_t kMinKeyBytes = 8 + 1 + 4 + 1;  // length, one letter, type, u8
constexpr uint64_t kMinTensorBytes =
    8 + 1 + 4 + 8 + 4 + 8;  // length, one letter, n_dims, one dim, type, offset
constexpr uint64_t kMaxAlignment = 1u << 20;

// ggml's types that this build does not decode, by number: a reader deserves to see the name.
std::string_view UnknownTypeName(uint32_t type) {
  switch (type) {
    case 9: return "Q8_1";
    case 15: return "Q8_K";
    case 16: return "IQ2_XXS";
    case 17: return "IQ2_XS";
    case 18: return "IQ3_XXS";
    case 19: return "IQ1_S";
    case 21: return "IQ3_S";
    case 22: return "IQ2_S";
    case 29: return "IQ1_M";
    case 34: return "TQ1_0";
    case 35: return "TQ2_0";
    case 40: return "NVFP4";
    case 41: return "Q1_0";
    case 42: return "Q2_0";
    default: return "unknown to this build";
  }
}

class GgufParser {
 public:
  GgufParser(std::span<const std::byte> bytes, const std::string& name, const OpenLimits& limits)
      : bytes_(bytes), limits_(limits), problem_(name) {}

  Result<GgufFile> Parse() {
    TP_TRY(ReadHeader());
    TP_TRY(ReadKeys());
    TP_TRY(ReadAlignment());
    TP_TRY(ReadTensorInfos());
    TP_TRY(PlaceTensors());
    TP_TRY(CheckOverlaps());
    return std::move(file_);
  }

 private:
  size_t left() const { return bytes_.size() - at_; }

  template <typename T>
  bool Read(T& value) {
    if (left() < sizeof(T)) return false;
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return true;
  }

  tl::unexpected<Error> EndsInside(std::string_view subject, std::string_view part) const {
    return problem_.Truncated(subject,
                              fmt::format("the file ends (at byte {}) inside {}", bytes_.size(), part));
  }

  Status ReadHeader() {
    char magic[4];
    if (!Read(magic)) return EndsInside({}, "the header");
    if (std::memcmp(magic, "GGUF", 4) != 0) {
      return problem_.Unsupported({},
                                  fmt::format("not a GGUF file (starts with \"{}\")", Printable({magic, 4})),
                                  "Give a .gguf file, or a folder with config.json and *.safetensors");
    }
    if (!Read(file_.version)) return EndsInside({}, "the header");
    if ((file_.version & 0xffffu) == 0 && file_.version != 0) {
      return problem_.Unsupported({}, "written in big-endian byte order",
                                  "Convert it to little-endian (gguf-convert-endian of the gguf package)");
    }
    if (file_.version < 2 || file_.version > 3) {
      return problem_.Unsupported({}, fmt::format("GGUF version {}; this build reads 2 and 3", file_.version),
                                  "Convert the model again with a current converter");
    }
    if (!Read(tensor_count_) || !Read(key_count_)) return EndsInside({}, "the header");
    if (key_count_ > limits_.max_metadata_keys) {
      return problem_.OverLimit({}, fmt::format("announces {} metadata keys, the limit is {}", key_count_,
                                                limits_.max_metadata_keys));
    }
    if (tensor_count_ > limits_.max_tensors) {
      return problem_.OverLimit(
          {}, fmt::format("announces {} tensors, the limit is {}", tensor_count_, limits_.max_tensors));
    }
    // Both counts are bounded now (unless a caller's limits are absurd), so the sum cannot overflow.
    if (key_count_ > left() / kMinKeyBytes ||
        tensor_count_ > (left() - key_count_ * kMinKeyBytes) / kMinTensorBytes) {
      return problem_.Truncated({}, fmt::format("announces {} keys and {} tensors in {} bytes", key_count_,
                                                tensor_count_, bytes_.size()));
    }
    return {};
  }

  // A u64 length and that many bytes, as a view into the mapping.
  Status ReadString(std::string_view subject, std::string_view part, uint64_t limit,
                    std::string_view& value) {
    uint64_t length = 0;
    if (!Read(length)) return EndsInside(subject, part);
    if (length > left()) {
      return problem_.Truncated(
          subject, fmt::format("{} of {} bytes with {} bytes left in the file", part, length, left()));
    }
    if (length > limit) {
      return problem_.OverLimit(subject,
                                fmt::format("{} has {} bytes, the limit is {}", part, length, limit));
    }
    value = {reinterpret_cast<const char*>(bytes_.data()) + at_, length};
    at_ += length;
    return {};
  }

  Status ReadName(std::string_view part, uint64_t number, std::string& name) {
    const std::string which = fmt::format("the name of {} {}", part, number);
    std::string_view view;
    TP_TRY(ReadString({}, which, kMaxNameBytes, view));
    if (!IsSoundName(view, kMaxNameBytes)) {
      return problem_.Corrupt(view, which + " is empty or is not UTF-8 text");
    }
    name = view;
    return {};
  }

  Status ReadKeys() {
    for (uint64_t i = 0; i < key_count_; ++i) {
      std::string key;
      TP_TRY(ReadName("key", i, key));
      uint32_t type = 0;
      if (!Read(type)) return EndsInside(key, "the type of a key");
      TP_ASSIGN(MetadataValue value, ReadValue(key, static_cast<GgufValueType>(type)));
      file_.metadata.Add(std::move(key), std::move(value));
      if (at_ > limits_.max_metadata_bytes) {
        return problem_.OverLimit({},
                                  fmt::format("metadata of more than {} bytes", limits_.max_metadata_bytes));
      }
    }
    if (const std::string* twice = file_.metadata.Seal(); twice != nullptr) {
      return problem_.Corrupt(*twice, "the key occurs twice");
    }
    return {};
  }

  Result<MetadataValue> ReadValue(const std::string& key, GgufValueType type) {
    if (type == GgufValueType::kString) {
      std::string_view text;
      TP_TRY(ReadString(key, "a string", limits_.max_string_bytes, text));
      return MetadataValue(text);
    }
    if (type == GgufValueType::kArray) return ReadArray(key);
    const size_t size = GgufScalarBytes(type);
    if (size == 0) {
      return problem_.Corrupt(key, fmt::format("value type {} does not exist", static_cast<uint32_t>(type)));
    }
    if (left() < size) return EndsInside(key, "a value");
    if (type == GgufValueType::kBool) TP_TRY(CheckBool(key, at_));
    const MetadataScalar scalar = ReadGgufScalar(type, bytes_.data() + at_);
    at_ += size;
    return std::visit([](auto v) { return MetadataValue(v); }, scalar);
  }

  Status CheckBool(const std::string& key, size_t at) const {
    const auto value = static_cast<unsigned>(bytes_[at]);
    if (value > 1) return problem_.Corrupt(key, fmt::format("a boolean is {}, not 0 or 1", value));
    return {};
  }

  Result<MetadataValue> ReadArray(const std::string& key) {
    uint32_t element_type = 0;
    GgufArray array;
    if (!Read(element_type) || !Read(array.count)) return EndsInside(key, "the head of an array");
    array.element_type = static_cast<GgufValueType>(element_type);
    if (array.element_type == GgufValueType::kArray) {
      return problem_.Unsupported(key, "an array of arrays",
                                  "No known model has one; convert the model again");
    }
    const bool strings = array.element_type == GgufValueType::kString;
    // A string takes at least the 8 bytes of its length.
    const size_t element_bytes = strings ? sizeof(uint64_t) : GgufScalarBytes(array.element_type);
    if (element_bytes == 0) {
      return problem_.Corrupt(key, fmt::format("array of value type {}, which does not exist", element_type));
    }
    if (array.count > limits_.max_array_elements) {
      return problem_.OverLimit(
          key, fmt::format("array of {} elements, the limit is {}", array.count, limits_.max_array_elements));
    }
    if (array.count > left() / element_bytes) {
      return problem_.Truncated(
          key, fmt::format("array of {} elements with {} bytes left in the file", array.count, left()));
    }
    const size_t begin = at_;
    if (strings) {
      for (uint64_t i = 0; i < array.count; ++i) {
        std::string_view text;
        TP_TRY(ReadString(key, "a string of an array", limits_.max_string_bytes, text));
      }
    } else {
      at_ += array.count * element_bytes;
    }
    if (array.element_type == GgufValueType::kBool) {
      for (size_t i = begin; i < at_; ++i) TP_TRY(CheckBool(key, i));
    }
    array.bytes = bytes_.subspan(begin, at_ - begin);
    return MetadataValue(array);
  }

  Status ReadAlignment() {
    constexpr std::string_view kKey = "general.alignment";
    if (!file_.metadata.Has(kKey)) return {};
    const std::optional<int64_t> value = file_.metadata.Int(kKey);
    if (!value || *value < 1 || static_cast<uint64_t>(*value) > kMaxAlignment ||
        (*value & (*value - 1)) != 0) {
      return problem_.Corrupt(kKey,
                              fmt::format("must be a power of two up to {}{}", kMaxAlignment,
                                          value ? fmt::format(", is {}", *value) : ", is not an integer"));
    }
    file_.alignment = static_cast<uint64_t>(*value);
    return {};
  }

  Status ReadTensorInfos() {
    file_.tensors.reserve(tensor_count_);
    offsets_.reserve(tensor_count_);
    for (uint64_t i = 0; i < tensor_count_; ++i) {
      Tensor tensor;
      TP_TRY(ReadName("tensor", i, tensor.name));
      TP_TRY(ReadShape(tensor));
      TP_TRY(ReadType(tensor));
      uint64_t offset = 0;
      if (!Read(offset)) return EndsInside(tensor.name, "a tensor's description");
      if (offset % file_.alignment != 0) {
        return problem_.Corrupt(
            tensor.name,
            fmt::format("its offset {} is not a multiple of the alignment {}", offset, file_.alignment));
      }
      offsets_.push_back(offset);
      file_.tensors.push_back(std::move(tensor));
    }
    return {};
  }

  Status ReadShape(Tensor& tensor) {
    uint32_t dimensions = 0;
    if (!Read(dimensions)) return EndsInside(tensor.name, "a tensor's description");
    if (dimensions < 1 || dimensions > kMaxDimensions) {
      return problem_.Corrupt(
          tensor.name, fmt::format("has {} dimensions; 1 to {} are possible", dimensions, kMaxDimensions));
    }
    for (uint32_t d = 0; d < dimensions; ++d) {
      uint64_t size = 0;
      if (!Read(size)) return EndsInside(tensor.name, "a tensor's description");
      if (size == 0 || size > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        return problem_.Corrupt(tensor.name, fmt::format("dimension {} is {}", d, size));
      }
      tensor.shape.push_back(static_cast<int64_t>(size));
    }
    std::reverse(tensor.shape.begin(), tensor.shape.end());  // the file has the innermost first
    if (CountElements(tensor.shape) < 0) {
      return problem_.Corrupt(tensor.name, "its dimensions multiply to more than 2^63 elements");
    }
    return {};
  }

  Status ReadType(Tensor& tensor) {
    uint32_t type = 0;
    if (!Read(type)) return EndsInside(tensor.name, "a tensor's description");
    tensor.type = static_cast<chips::DataType>(type);
    // Numbers from 1000 are this project's own and never appear in a file.
    const chips::DataTypeTraits* traits = type < 1000 ? chips::FindDataTypeTraits(tensor.type) : nullptr;
    if (traits == nullptr) {
      return problem_.Unsupported(tensor.name, fmt::format("has type {} ({})", type, UnknownTypeName(type)),
                                  "Choose another quantisation of the model, such as Q4_K_M, Q8_0 or F16");
    }
    if (tensor.shape.back() % traits->block_elements != 0) {
      return problem_.Corrupt(tensor.name,
                              fmt::format("its rows have {} elements, not a multiple of the {} of a {} block",
                                          tensor.shape.back(), traits->block_elements, traits->name));
    }
    return {};
  }

  // Gives every tensor its bytes: after the descriptions, from the next multiple of the alignment on.
  Status PlaceTensors() {
    if (file_.tensors.empty()) return {};
    const uint64_t data_begin = (at_ + file_.alignment - 1) / file_.alignment * file_.alignment;
    const uint64_t data_bytes = data_begin > bytes_.size() ? 0 : bytes_.size() - data_begin;
    for (size_t i = 0; i < file_.tensors.size(); ++i) {
      Tensor& tensor = file_.tensors[i];
      const chips::DataTypeTraits& traits = chips::TraitsOf(tensor.type);
      const uint64_t blocks = static_cast<uint64_t>(tensor.elements() / traits.block_elements);
      uint64_t size = 0;
      if (__builtin_mul_overflow(blocks, static_cast<uint64_t>(traits.block_bytes), &size) ||
          size > data_bytes || offsets_[i] > data_bytes - size) {
        return problem_.Truncated(tensor.name,
                                  fmt::format("{} blocks of {} at offset {} do not fit in the {} bytes "
                                              "of tensor data that the file has",
                                              blocks, traits.name, offsets_[i], data_bytes));
      }
      tensor.bytes = bytes_.subspan(data_begin + offsets_[i], size);
    }
    return {};
  }

  Status CheckOverlaps() {
    std::vector<uint32_t> order(file_.tensors.size());
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(),
              [this](uint32_t a, uint32_t b) { return offsets_[a] < offsets_[b]; });
    for (size_t i = 1; i < order.size(); ++i) {
      const Tensor& before = file_.tensors[order[i - 1]];
      const Tensor& after = file_.tensors[order[i]];
      if (after.bytes.data() < before.bytes.data() + before.bytes.size()) {
        return problem_.Corrupt(after.name,
                                fmt::format("its bytes overlap those of \"{}\"", Printable(before.name)));
      }
    }
    return {};
  }

  std::span<const std::byte> bytes_;
  const OpenLimits& limits_;
  FileProblem problem_;
  size_t at_ = 0;
  uint64_t tensor_count_ = 0;
  uint64_t key_count_ = 0;
  GgufFile file_;
  std::vector<uint64_t> offsets_;
};

}  // namespace

Result<GgufFile> ParseGguf(std::span<const std::byte> bytes, const std::string& name,
                           const OpenLimits& limits) {
  return GgufParser(bytes, name, limits).Parse();
}

}  // namespace tidepool::formats
