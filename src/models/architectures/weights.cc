#include "models/architectures/weights.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <map>
#include <mutex>
#include <new>
#include <thread>

#include "chips/quantisation.h"

namespace tidepool::architectures {
namespace {

constexpr uint64_t kAlignment = 64;
constexpr std::string_view kDownloadAgain = "Download or convert the model again";

uint64_t AlignUp(uint64_t bytes, uint64_t alignment) {
  return (bytes + alignment - 1) / alignment * alignment;
}

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
  Place(item, *packed);
  items_.push_back(std::move(item));
  return {};
}

void WeightPlan::Place(Item& item, uint64_t bytes) {
  item.segment = static_cast<int32_t>(segment_offsets_.size()) - 1;
  item.offset = bytes_;
  item.bytes = bytes;
  bytes_ += AlignUp(bytes, kAlignment);
}

void WeightPlan::BeginSegment() {
  bytes_ = AlignUp(bytes_, kSegmentAlignment);
  segment_offsets_.push_back(bytes_);
}

std::vector<WeightSegment> WeightPlan::segments() const {
  std::vector<WeightSegment> segments;
  for (size_t i = 0; i < segment_offsets_.size(); ++i) {
    const uint64_t end = i + 1 < segment_offsets_.size() ? segment_offsets_[i + 1] : bytes_;
    segments.push_back({segment_offsets_[i], end - segment_offsets_[i]});
  }
  return segments;
}

void WeightPlan::AddVector(Item item, uint64_t size) {
  item.spec = {chips::DataType::kF32, 1, static_cast<int64_t>(size), chips::WeightPrecision::kFloat32};
  Place(item, size * sizeof(float));
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

Result<std::vector<float>> WeightPlan::Row(const TensorName& name, int64_t rows, int64_t columns,
                                           int64_t row) const {
  TP_ASSIGN(const formats::Tensor* tensor, Require(name, {rows, columns}));
  if (!chips::CanDequantise(tensor->type) || tensor->type == chips::DataType::kF8_E4M3) {
    return Fail(ErrorKind::kInvalid, "unsupported_tensor_type",
                fmt::format("{}: rows of '{}' cannot be read by themselves", checkpoint_.path().string(),
                            tensor->name),
                tensor->name);
  }
  if (row < 0 || row >= rows) {
    return Fail(ErrorKind::kInvalid, "out_of_range",
                fmt::format("{}: '{}' has {} rows; there is no row {}", checkpoint_.path().string(),
                            tensor->name, rows, row),
                tensor->name);
  }
  const size_t row_bytes = tensor->bytes.size() / static_cast<size_t>(rows);
  std::vector<float> values(static_cast<size_t>(columns));
  chips::DequantiseRow(tensor->type, tensor->bytes.data() + static_cast<size_t>(row) * row_bytes, columns,
                       values.data());
  for (const float value : values) {
    if (std::isfinite(value)) continue;
    return Fail(
        ErrorKind::kCorrupt, "bad_tensor_values",
        fmt::format("{}: '{}' holds a value that is not finite", checkpoint_.path().string(), tensor->name),
        tensor->name);
  }
  return values;
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

Status WeightPlan::PackMatrix(const Item& item, chips::Device& device, std::byte* place) const {
  std::vector<float> values;
  std::vector<uint16_t> halves;
  std::span<const std::byte> source;
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

Status WeightPlan::PackVector(const Item& item, chips::Device& device, std::byte* place) const {
  std::vector<float> values = item.values;
  if (item.tensor != nullptr) {
    TP_ASSIGN(values, formats::TensorToFloat(checkpoint_, *item.tensor));
  }
  if (item.rule == VectorRule::kPlusOne) {
    for (float& value : values) value += 1.0f;
  }
  device.CopyToDevice(place, values.data(), values.size() * sizeof(float));
  *item.vector = reinterpret_cast<const float*>(place);
  return {};
}

tl::unexpected<Error> WeightPlan::Cancelled() const {
  return Fail(ErrorKind::kCancelled, "load_cancelled",
              fmt::format("loading {} was cancelled", checkpoint_.path().string()));
}

namespace {

// Conversions take memory beside the weights'. A shortage of it is an error of this model alone.
template <typename Work>
Status OrOutOfMemory(const formats::Checkpoint& checkpoint, Work&& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return Fail(
        ErrorKind::kUnavailable, "out_of_memory",
        fmt::format("{}: the system has no memory left to convert its weights; unload a model or lower "
                    "pool.memory, and load it again",
                    checkpoint.path().string()));
  }
}

// Walks the items ahead of the packing and checks their values: opening a file does not read its tensors, and
// one NaN scale would spoil every answer without a word.
class ValueChecker {
 public:
  ValueChecker(const formats::Checkpoint& checkpoint, std::span<const WeightPlan::Item> items)
      : checkpoint_(checkpoint), items_(items), thread_([this] { Run(); }) {}
  ~ValueChecker() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    thread_.join();
  }

  // Waits until item `index` is checked; its error if it is not sound.
  Status Wait(size_t index) {
    std::unique_lock lock(mutex_);
    wanted_ = index;
    wake_.notify_all();
    wake_.wait(lock, [&] { return checked_ > index || !status_; });
    return checked_ > index ? Status() : status_;
  }

 private:
  // How far it may run ahead. What it has read should still be in memory when it is packed.
  static constexpr uint64_t kAheadBytes = uint64_t{64} << 20;

  void Run() {
    for (size_t i = 0; i < items_.size(); ++i) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] {
          return stop_ || i <= wanted_ || items_[i].offset - items_[wanted_].offset < kAheadBytes;
        });
        if (stop_) return;
      }
      const formats::Tensor* tensor = items_[i].tensor;
      Status status = OrOutOfMemory(checkpoint_, [&] {
        return tensor == nullptr ? Status() : formats::ValidateTensorValues(checkpoint_, *tensor);
      });
      const std::lock_guard lock(mutex_);
      if (!status) {
        status_ = std::move(status);
      } else {
        checked_ = i + 1;
      }
      wake_.notify_all();
      if (!status_) return;
    }
  }

  const formats::Checkpoint& checkpoint_;
  const std::span<const WeightPlan::Item> items_;
  std::mutex mutex_;
  std::condition_variable wake_;
  size_t wanted_ = 0, checked_ = 0;
  bool stop_ = false;
  Status status_;
  std::thread thread_;
};

}  // namespace

Status WeightPlan::PackInto(chips::Device& device, std::byte* base,
                            const std::function<bool(uint64_t, uint64_t)>& progress,
                            const std::function<Status(int32_t)>& packed) const {
  return OrOutOfMemory(checkpoint_, [&] { return PackAll(device, base, progress, packed); });
}

Status WeightPlan::PackAll(chips::Device& device, std::byte* base,
                           const std::function<bool(uint64_t, uint64_t)>& progress,
                           const std::function<Status(int32_t)>& packed) const {
  ValueChecker checker(checkpoint_, items_);
  const auto count = static_cast<int32_t>(segment_offsets_.size());
  int32_t segment = 0;
  for (size_t i = 0; i < items_.size(); ++i) {
    const Item& item = items_[i];
    for (; segment < item.segment; ++segment) TP_TRY(packed(segment));
    if (progress && !progress(item.offset, bytes_)) return Cancelled();
    TP_TRY(checker.Wait(i));
    std::byte* const place = base + item.offset;
    TP_TRY(item.matrix != nullptr ? PackMatrix(item, device, place) : PackVector(item, device, place));
  }
  for (; segment < count; ++segment) TP_TRY(packed(segment));
  if (progress && !progress(bytes_, bytes_)) return Cancelled();
  return {};
}

Status WeightPlan::Bind(const chips::Device& device, const std::byte* base) const {
  for (const Item& item : items_) {
    const std::span<const std::byte> bytes(base + item.offset, item.bytes);
    if (item.matrix == nullptr) {
      *item.vector = reinterpret_cast<const float*>(bytes.data());
      continue;
    }
    TP_ASSIGN(*item.matrix, device.ViewPacked(item.spec, bytes));
  }
  return {};
}

Result<chips::DeviceBuffer> WeightPlan::Load(chips::Device& device,
                                             const std::function<bool(uint64_t, uint64_t)>& progress) const {
  TP_ASSIGN(chips::DeviceBuffer buffer, device.Allocate(bytes_));
  TP_TRY(PackInto(device, buffer.data(), progress, [](int32_t) { return Status(); }));
  return buffer;
}

}  // namespace tidepool::architectures
