#include "models/architectures/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "chips/quantisation.h"

namespace tidepool::architectures {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr std::string_view kDownloadAgain = "Download or convert the model again";

uint64_t AlignUp(uint64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

std::string Shape(const std::vector<int64_t>& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

}  // namespace

WeightPlan::WeightPlan(const formats::Checkpoint& checkpoint, const chips::Device& device,
                       chips::WeightPrecision precision, HfNaming naming)
    : checkpoint_(checkpoint), device_(device), precision_(precision), naming_(std::move(naming)) {
  if (!naming_.prefixes.empty()) hf_prefix_ = naming_.prefixes.front();
  if (checkpoint_.format() == formats::Format::kGguf) return;
  for (const std::string_view prefix : naming_.prefixes) {
    if (checkpoint_.Find(std::string(prefix) + std::string(naming_.probe)) != nullptr) {
      hf_prefix_ = prefix;
      return;
    }
  }
}

std::string WeightPlan::FullName(const TensorName& name) const {
  if (checkpoint_.format() == formats::Format::kGguf) {
    return name.layer < 0 ? std::string(name.gguf) : fmt::format("blk.{}.{}", name.layer, name.gguf);
  }
  if (name.hf.starts_with('/')) {
    const std::string_view bare = name.hf.substr(1);
    const std::string nested = fmt::format("language_model.{}", bare);
    return checkpoint_.Find(nested) != nullptr ? nested : std::string(bare);
  }
  if (name.layer < 0) return hf_prefix_ + std::string(name.hf);
  return fmt::format("{}{}{}.{}", hf_prefix_, naming_.layer, name.layer, name.hf);
}

const formats::Tensor* WeightPlan::Find(const TensorName& name) const {
  const bool spelt = checkpoint_.format() == formats::Format::kGguf ? !name.gguf.empty() : !name.hf.empty();
  return spelt ? checkpoint_.Find(FullName(name)) : nullptr;
}

Result<const formats::Tensor*> WeightPlan::Require(const TensorName& name,
                                                   const std::vector<int64_t>& shape) const {
  const std::string full = FullName(name);
  const formats::Tensor* tensor = checkpoint_.Find(full);
  if (tensor == nullptr) {
    return Fail(
        ErrorKind::kCorrupt, "missing_tensor",
        fmt::format(
            "{}: tensor '{}' is missing, of shape {}. The file is incomplete (a part of a split set may "
            "be absent) or its configuration belongs to another model. {}.",
            checkpoint_.path().string(), full, Shape(shape), kDownloadAgain),
        full);
  }
  if (tensor->shape != shape) {
    return Fail(
        ErrorKind::kCorrupt, "wrong_tensor_shape",
        fmt::format("{}: tensor '{}' has shape {}, but the model's configuration needs {}. {}.",
                    checkpoint_.path().string(), full, Shape(tensor->shape), Shape(shape), kDownloadAgain),
        full);
  }
  return tensor;
}

Result<std::pair<int64_t, int64_t>> WeightPlan::MatrixShape(const TensorName& name) const {
  const std::string full = FullName(name);
  const formats::Tensor* tensor = checkpoint_.Find(full);
  if (tensor == nullptr || tensor->shape.size() != 2) {
    return Fail(
        ErrorKind::kCorrupt, tensor == nullptr ? "missing_tensor" : "wrong_tensor_shape",
        fmt::format("{}: tensor '{}' {}. {}.", checkpoint_.path().string(), full,
                    tensor == nullptr ? "is missing"
                                      : fmt::format("has shape {}, not two dimensions", Shape(tensor->shape)),
                    kDownloadAgain),
        full);
  }
  return std::pair(tensor->shape[0], tensor->shape[1]);
}

Status WeightPlan::Matrix(const TensorName& name, int64_t rows, int64_t columns,
                          chips::PackedWeight* destination) {
  TP_ASSIGN(const formats::Tensor* tensor, Require(name, {rows, columns}));
  Item item;
  item.name = tensor->name;
  item.tensor = tensor;
  item.spec = {tensor->type, rows, columns, precision_};
  if (tensor->type == chips::DataType::kF8_E4M3) {
    // Block-scaled fp8 is decoded on loading: its products with the scales need more bits than fp8 has.
    item.spec.type =
        precision_ == chips::WeightPrecision::kFloat32 ? chips::DataType::kF32 : chips::DataType::kBF16;
  }
  item.matrix = destination;
  parameters_ += static_cast<uint64_t>(rows) * static_cast<uint64_t>(columns);
  return AddMatrix(std::move(item));
}

Status WeightPlan::ComputedMatrix(std::vector<float> values, int64_t rows, int64_t columns,
                                  uint64_t parameters, chips::PackedWeight* destination) {
  Item item;
  item.name = "computed table";
  item.values = std::move(values);
  item.spec = {chips::DataType::kF32, rows, columns, precision_};
  item.matrix = destination;
  parameters_ += parameters;
  return AddMatrix(std::move(item));
}

Status WeightPlan::AddMatrix(Item item) {
  auto packed = device_.PackedBytes(item.spec);
  if (!packed) {
    Error error = std::move(packed).error();
    error.message =
        fmt::format("{}: tensor '{}': {}", checkpoint_.path().string(), item.name, std::move(error.message));
    error.param = item.name;
    return Fail(std::move(error));
  }
  item.offset = bytes_;
  item.bytes = *packed;
  bytes_ += AlignUp(item.bytes);
  items_.push_back(std::move(item));
  return {};
}

void WeightPlan::AddVector(Item item, uint64_t size) {
  item.offset = bytes_;
  item.bytes = size * sizeof(float);
  bytes_ += AlignUp(item.bytes);
  items_.push_back(std::move(item));
}

Status WeightPlan::Vector(const TensorName& name, int64_t size, const float** destination, VectorRule rule) {
  TP_ASSIGN(const formats::Tensor* tensor, Require(name, {size}));
  Item item;
  item.name = tensor->name;
  item.tensor = tensor;
  item.rule = rule;
  item.vector = destination;
  parameters_ += static_cast<uint64_t>(size);
  AddVector(std::move(item), static_cast<uint64_t>(size));
  return {};
}

Status WeightPlan::OptionalVector(const TensorName& name, int64_t size, const float** destination) {
  *destination = nullptr;
  return Has(name) ? Vector(name, size, destination) : Status();
}

void WeightPlan::Table(std::vector<float> values, const float** destination) {
  Item item;
  item.name = "computed table";
  item.vector = destination;
  const uint64_t size = values.size();
  item.values = std::move(values);
  AddVector(std::move(item), size);
}

Result<std::vector<float>> WeightPlan::Floats(const TensorName& name, std::vector<int64_t> shape) const {
  TP_ASSIGN(const formats::Tensor* tensor, Require(name, shape));
  TP_TRY(formats::ValidateTensorValues(checkpoint_, *tensor));
  return formats::TensorToFloat(checkpoint_, *tensor);
}

std::string WeightPlan::Quantisation() const {
  std::map<chips::DataType, uint64_t> by_type;
  for (const bool layers_only : {true, false}) {
    for (const Item& item : items_) {
      if (item.matrix == nullptr || item.tensor == nullptr) continue;
      const bool in_layer =
          item.name.starts_with("blk.") || item.name.find(naming_.layer) != std::string::npos;
      if (in_layer || !layers_only) by_type[item.tensor->type] += item.tensor->bytes.size();
    }
    if (!by_type.empty()) break;
  }
  std::vector<std::pair<uint64_t, chips::DataType>> order;
  for (const auto& [type, bytes] : by_type) order.emplace_back(bytes, type);
  std::sort(order.rbegin(), order.rend());
  if (order.empty()) return "none";
  const std::string first(chips::TraitsOf(order[0].second).name);
  if (order.size() == 1) return first;
  return fmt::format("mixed ({}, {})", first, chips::TraitsOf(order[1].second).name);
}

Status WeightPlan::LoadMatrix(const Item& item, chips::Device& device, std::byte* place) const {
  std::vector<float> values;
  std::vector<uint16_t> halves;
  std::span<const std::byte> source;
  // Opening a file does not read its tensors: a NaN scale would spoil every answer without a word.
  if (item.tensor != nullptr) TP_TRY(formats::ValidateTensorValues(checkpoint_, *item.tensor));
  if (item.tensor == nullptr) {
    source = std::as_bytes(std::span(item.values));
  } else if (item.tensor->type == item.spec.type) {
    source = item.tensor->bytes;
  } else {
    TP_ASSIGN(values, formats::TensorToFloat(checkpoint_, *item.tensor));
    source = std::as_bytes(std::span(values));
    if (item.spec.type == chips::DataType::kBF16) {
      halves.resize(values.size());
      std::transform(values.begin(), values.end(), halves.begin(), chips::FloatToBfloat16);
      source = std::as_bytes(std::span(halves));
    }
  }
  TP_ASSIGN(*item.matrix, device.Pack(item.spec, source, place));
  return {};
}

Status WeightPlan::LoadVector(const Item& item, chips::Device& device, std::byte* place) const {
  std::vector<float> values = item.values;
  if (item.tensor != nullptr) {
    TP_TRY(formats::ValidateTensorValues(checkpoint_, *item.tensor));
    TP_ASSIGN(values, formats::TensorToFloat(checkpoint_, *item.tensor));
  }
  if (item.rule == VectorRule::kPlusOne) {
    for (float& value : values) value += 1.0f;
  }
  device.CopyToDevice(place, values.data(), values.size() * sizeof(float));
  *item.vector = reinterpret_cast<const float*>(place);
  return {};
}

Result<chips::DeviceBuffer> WeightPlan::Load(chips::Device& device,
                                             const std::function<bool(uint64_t, uint64_t)>& progress) {
  TP_ASSIGN(chips::DeviceBuffer buffer, device.Allocate(bytes_));
  for (const Item& item : items_) {
    if (progress && !progress(item.offset, bytes_)) {
      return Fail(ErrorKind::kCancelled, "load_cancelled",
                  fmt::format("loading {} was cancelled", checkpoint_.path().string()));
    }
    std::byte* const place = buffer.data() + item.offset;
    TP_TRY(item.matrix != nullptr ? LoadMatrix(item, device, place) : LoadVector(item, device, place));
  }
  if (progress && !progress(bytes_, bytes_)) {
    return Fail(ErrorKind::kCancelled, "load_cancelled",
                fmt::format("loading {} was cancelled", checkpoint_.path().string()));
  }
  return buffer;
}

}  // namespace tidepool::architectures
