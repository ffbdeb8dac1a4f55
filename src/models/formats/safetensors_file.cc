#include "models/formats/safetensors_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>

#include "models/formats/file_problem.h"
#include "models/formats/tensor_table.h"

namespace tidepool::formats {
namespace {

using chips::DataType;

// The format's own limit on the header.
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 8;

std::optional<DataType> FindType(std::string_view dtype) {
  struct Entry {
    std::string_view name;
    DataType type;
  };
  static constexpr std::array kEntries = {
      Entry{"F64", DataType::kF64},   Entry{"F32", DataType::kF32},         Entry{"F16", DataType::kF16},
      Entry{"BF16", DataType::kBF16}, Entry{"F8_E4M3", DataType::kF8_E4M3}, Entry{"I64", DataType::kI64},
      Entry{"I32", DataType::kI32},   Entry{"I16", DataType::kI16},         Entry{"I8", DataType::kI8},
      Entry{"U64", DataType::kI64},   Entry{"U32", DataType::kI32},         Entry{"U16", DataType::kI16},
      Entry{"U8", DataType::kI8},     Entry{"BOOL", DataType::kI8},
  };
  for (const Entry& entry : kEntries) {
    if (entry.name == dtype) return entry.type;
  }
  return std::nullopt;
}

// Reads the header without a tree. Depth 1 is the header's object, 2 a tensor's, 3 its arrays.
class HeaderReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderReader(const FileProblem& problem, const OpenLimits& limits, std::span<const std::byte> data)
      : problem_(problem), limits_(limits), data_(data) {}

  std::optional<Error>& error() { return error_; }
  std::vector<Tensor>& tensors() { return tensors_; }

  bool null() override { return Scalar("null"); }
  bool boolean(bool) override { return Scalar("a boolean"); }
  bool number_integer(number_integer_t value) override { return Scalar(fmt::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Scalar(text); }
  bool number_unsigned(number_unsigned_t value) override {
    if (depth_ != 3 || in_metadata_ || field_ == Field::kOther) return Scalar(fmt::to_string(value));
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Refuse(problem_.Corrupt(tensor_.name, fmt::format("the number {} is too large", value)));
    }
    std::vector<int64_t>& numbers = field_ == Field::kShape ? tensor_.shape : offsets_;
    if (numbers.size() >= (field_ == Field::kShape ? kMaxDimensions : 2)) {
      return Refuse(problem_.Corrupt(tensor_.name, field_ == Field::kShape
                                                       ? "has more than 8 dimensions"
                                                       : "data_offsets has more than 2 numbers"));
    }
    numbers.push_back(static_cast<int64_t>(value));
    return true;
  }
  bool string(string_t& value) override {
    if (depth_ != 2 || in_metadata_ || field_ != Field::kType)
      return Scalar(fmt::format("\"{}\"", Printable(value)));
    const std::optional<DataType> type = FindType(value);
    if (!type) {
      return Refuse(problem_.Unsupported(
          tensor_.name, fmt::format("has dtype \"{}\"", Printable(value)),
          "This build reads F64 F32 F16 BF16 F8_E4M3, integers and BOOL; take another form of the model"));
    }
    tensor_.type = *type;
    return true;
  }
  bool binary(binary_t&) override { return false; }

  bool start_object(std::size_t) override {
    if (depth_ >= 2 && !in_metadata_ && field_ != Field::kOther) return Refuse(WrongField("an object"));
    if (depth_ == 1 && !in_metadata_) {
      offsets_.clear();
      seen_ = {};
    }
    return Deeper();
  }
  bool end_object() override {
    --depth_;
    if (depth_ != 1) return true;
    if (!in_metadata_ && !FinishTensor()) return false;
    in_metadata_ = false;
    return true;
  }
  bool start_array(std::size_t) override {
    const bool wanted = depth_ == 2 && (field_ == Field::kShape || field_ == Field::kOffsets);
    const bool skipped = depth_ >= 2 && (in_metadata_ || field_ == Field::kOther);
    if (!wanted && !skipped) {
      return Refuse(depth_ >= 2
                        ? WrongField("an array")
                        : problem_.Corrupt(tensor_.name, "an array where the header needs an object"));
    }
    return Deeper();
  }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& name) override {
    if (depth_ == 1) return BeginTensor(name);
    if (depth_ == 2 && !in_metadata_) return BeginField(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    return Refuse(problem_.Corrupt({}, "the header is not valid JSON: " + Printable(error.what(), 200)));
  }

 private:
  enum class Field : uint8_t { kType, kShape, kOffsets, kOther };
  static constexpr std::array<std::string_view, 3> kFieldNames = {"dtype", "shape", "data_offsets"};
  static constexpr int kMaxDepth = 16;

  bool Refuse(tl::unexpected<Error> error) {
    if (!error_) error_ = std::move(error.value());
    return false;
  }
  tl::unexpected<Error> WrongField(std::string_view what) const {
    return problem_.Corrupt(tensor_.name, fmt::format("{} of \"{}\" is not possible", what,
                                                      kFieldNames[static_cast<size_t>(field_)]));
  }
  bool Deeper() {
    if (++depth_ <= kMaxDepth) return true;
    return Refuse(problem_.Corrupt(tensor_.name, "the header is nested too deeply"));
  }

  bool Scalar(const std::string& text) {
    if (in_metadata_ && depth_ >= 2) return true;
    if (depth_ >= 2 && field_ == Field::kOther) return true;
    if (depth_ >= 2) return Refuse(WrongField(text));
    return Refuse(problem_.Corrupt(depth_ == 0 ? std::string_view() : std::string_view(tensor_.name),
                                   text + " where the header needs an object"));
  }

  bool BeginTensor(const std::string& name) {
    tensor_ = {};
    tensor_.name = name;
    field_ = Field::kOther;
    in_metadata_ = name == "__metadata__";
    if (in_metadata_) return true;
    if (!IsSoundName(name, kMaxNameBytes)) {
      return Refuse(problem_.Corrupt(
          name, "the tensor's name is empty, longer than 1024 bytes or has control characters"));
    }
    if (tensors_.size() < limits_.max_tensors) return true;
    return Refuse(problem_.OverLimit(name, fmt::format("more than {} tensors", limits_.max_tensors)));
  }

  bool BeginField(const std::string& name) {
    const auto* const found = std::find(kFieldNames.begin(), kFieldNames.end(), name);
    field_ = static_cast<Field>(found - kFieldNames.begin());
    if (field_ == Field::kOther) return true;
    bool& seen = seen_[static_cast<size_t>(field_)];
    if (seen) return Refuse(problem_.Corrupt(tensor_.name, fmt::format("\"{}\" occurs twice", name)));
    seen = true;
    return true;
  }

  bool FinishTensor() {
    for (size_t i = 0; i < seen_.size(); ++i) {
      if (!seen_[i])
        return Refuse(problem_.Corrupt(tensor_.name, fmt::format("has no \"{}\"", kFieldNames[i])));
    }
    if (offsets_.size() != 2 || offsets_[0] > offsets_[1]) {
      return Refuse(problem_.Corrupt(tensor_.name, "data_offsets must be [begin, end]"));
    }
    if (static_cast<uint64_t>(offsets_[1]) > data_.size()) {
      return Refuse(problem_.Truncated(
          tensor_.name,
          fmt::format("its data end at byte {}, the file has {} bytes of data", offsets_[1], data_.size())));
    }
    const int64_t elements = CountElements(tensor_.shape);
    int64_t size = 0;
    if (elements < 0 || __builtin_mul_overflow(elements, chips::TraitsOf(tensor_.type).block_bytes, &size) ||
        size != offsets_[1] - offsets_[0]) {
      return Refuse(problem_.Corrupt(
          tensor_.name, fmt::format("its shape and dtype do not make the {} bytes of its data_offsets",
                                    offsets_[1] - offsets_[0])));
    }
    tensor_.bytes = data_.subspan(static_cast<size_t>(offsets_[0]), static_cast<size_t>(size));
    tensors_.push_back(std::move(tensor_));
    tensor_ = {};
    return true;
  }

  const FileProblem& problem_;
  const OpenLimits& limits_;
  std::span<const std::byte> data_;
  int depth_ = 0;
  bool in_metadata_ = false;
  Field field_ = Field::kOther;
  std::array<bool, 3> seen_{};
  Tensor tensor_;
  std::vector<int64_t> offsets_;
  std::vector<Tensor> tensors_;
  std::optional<Error> error_;
};

// As the format's own library demands: every byte of data belongs to exactly one tensor.
Status CheckPlacement(const FileProblem& problem, std::span<const std::byte> data,
                      std::vector<Tensor>& tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const Tensor& a, const Tensor& b) {
    if (a.bytes.data() != b.bytes.data()) return a.bytes.data() < b.bytes.data();
    return a.bytes.size() < b.bytes.size();
  });
  const std::byte* end = data.data();
  for (const Tensor& tensor : tensors) {
    if (tensor.bytes.data() < end)
      return problem.Corrupt(tensor.name, "its bytes overlap those of another tensor");
    if (tensor.bytes.data() > end) {
      return problem.Corrupt(
          tensor.name, fmt::format("{} bytes before it belong to no tensor", tensor.bytes.data() - end));
    }
    end += tensor.bytes.size();
  }
  const ptrdiff_t rest = data.data() + data.size() - end;
  if (rest != 0) return problem.Corrupt({}, fmt::format("{} bytes at the end belong to no tensor", rest));
  return {};
}

}  // namespace

Result<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes, const std::string& name,
                                             const OpenLimits& limits) {
  const FileProblem problem(name);
  uint64_t header_bytes = 0;
  if (bytes.size() < sizeof header_bytes) return problem.Truncated({}, "the file has fewer than 8 bytes");
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const std::span<const std::byte> rest = bytes.subspan(sizeof header_bytes);
  const uint64_t limit = std::min(kMaxHeaderBytes, limits.max_json_bytes);
  if (header_bytes > limit) {
    return problem.OverLimit(
        {}, fmt::format("announces a header of {} bytes, the limit is {}", header_bytes, limit));
  }
  if (header_bytes > rest.size()) {
    return problem.Truncated(
        {}, fmt::format("announces a header of {} bytes, the file has {}", header_bytes, bytes.size()));
  }
  const std::string_view header{reinterpret_cast<const char*>(rest.data()), header_bytes};
  if (header.empty() || header.front() != '{') return problem.Corrupt({}, "the header is not a JSON object");
  const std::span<const std::byte> data = rest.subspan(header_bytes);
  HeaderReader reader(problem, limits, data);
  try {
    nlohmann::json::sax_parse(header.begin(), header.end(), &reader);
  } catch (const std::bad_alloc&) {
    return problem.OverLimit({}, "not enough memory to read the header");
  }
  if (reader.error()) return Fail(std::move(*reader.error()));
  std::vector<Tensor> tensors = std::move(reader.tensors());
  TP_TRY(CheckPlacement(problem, data, tensors));
  return tensors;
}

}  // namespace tidepool::formats
