// WeightPlan: what a model needs from its file, checked and measured before a byte is packed.
//
// A family declares every tensor with the shape its configuration implies and the place its view goes to. The
// plan then knows the exact device bytes (PackedModelBytes) and does the packing (LoadModel): one declaration
// serves both, so the two cannot differ. A packed file (packed_model.h) is the same bytes in a file: it is
// written by PackInto and read back by Bind. Thread: one; the plan borrows the checkpoint and the
// destinations until Load, PackInto or Bind returns.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/model.h"
#include "models/formats/checkpoint.h"

namespace tidepool::architectures {

// How Hugging Face checkpoints of a family spell their tensors.
struct HfNaming {
  std::vector<std::string_view> prefixes;  // tried in order: the first whose probe exists is the file's
  std::string_view probe;                  // "embed_tokens.weight"
  std::string_view layer;                  // "layers." or "encoder.layer."
};
inline HfNaming DecoderNaming() {
  return {{"model.", "", "language_model.model.", "model.language_model."}, "embed_tokens.weight", "layers."};
}

// A tensor's name in both worlds. For a layer (>= 0) GGUF prepends "blk.N." and Hugging Face
// "<prefix>layers.N.". A Hugging Face name with a leading '/' stands outside the prefix ("/lm_head.weight").
struct TensorName {
  std::string_view gguf;
  std::string_view hf;
  int32_t layer = -1;
};

enum class VectorRule : uint8_t {
  kAsStored,
  kPlusOne,  // zero-centred norm gains of Hugging Face checkpoints: the gain is 1 + w
};

// Segments begin at whole pages, so that each can be brought into memory and dropped by itself.
inline constexpr uint64_t kSegmentAlignment = 4096;

class WeightPlan {
 public:
  struct Item {
    std::string name;
    const formats::Tensor* tensor = nullptr;  // nullptr: values
    std::vector<float> values;
    VectorRule rule = VectorRule::kAsStored;
    chips::WeightSpec spec;  // vectors: F32 [1, size]
    int32_t segment = 0;
    uint64_t offset = 0;
    uint64_t bytes = 0;
    chips::PackedWeight* matrix = nullptr;
    const float** vector = nullptr;
  };

  WeightPlan(const formats::Checkpoint& checkpoint, const chips::Device& device,
             chips::WeightPrecision precision, HfNaming naming);

  bool Has(const TensorName& name) const { return Find(name) != nullptr; }
  // What is declared from here on belongs to the next segment (the first begins by itself).
  void BeginSegment();

  // Shape [rows, columns] of a tensor that must exist.
  Result<std::pair<int64_t, int64_t>> MatrixShape(const TensorName& name) const;

  Status Matrix(const TensorName& name, int64_t rows, int64_t columns, chips::PackedWeight* destination);
  Status Vector(const TensorName& name, int64_t size, const float** destination,
                VectorRule rule = VectorRule::kAsStored);
  // Leaves *destination nullptr when the tensor is absent.
  Status OptionalVector(const TensorName& name, int64_t size, const float** destination);
  // A table computed from the configuration (rope frequencies); counted, but no parameters of the model.
  void Table(std::vector<float> values, const float** destination);
  // A float32 matrix computed from tensors at declaration time (BERT's positions); `parameters` as in the
  // file.
  Status ComputedMatrix(std::vector<float> values, int64_t rows, int64_t columns, uint64_t parameters,
                        chips::PackedWeight* destination);
  // The whole tensor as float32 after the shape check, for families that compute with it while loading.
  Result<std::vector<float>> Floats(const TensorName& name, std::vector<int64_t> shape) const;

  // One row of a matrix as float32, without reading the others.
  Result<std::vector<float>> Row(const TensorName& name, int64_t rows, int64_t columns, int64_t row) const;

  const formats::Checkpoint& checkpoint() const { return checkpoint_; }
  uint64_t bytes() const { return bytes_; }
  uint64_t parameters() const { return parameters_; }
  // "Q4_1" or "mixed (Q4_K, Q6_K)": the types of the layers' matrices by bytes, or of all matrices if there
  // are none.
  std::string Quantisation() const;

  std::span<const Item> items() const { return items_; }
  // As declared so far; together they are bytes() without gaps.
  std::vector<WeightSegment> segments() const;

  // Checks every tensor's values and packs it to base + Item::offset (memory of the device, bytes() of it, in
  // order), filling the destinations. Values are checked by a thread of their own, some tensors ahead of the
  // packing: on a cold file it is the one that waits for the disk. `packed(i)` is called when segment i is
  // complete, on the calling thread; its error ends the packing. `progress` as in LoadOptions. No memory for
  // a conversion: kUnavailable "out_of_memory".
  Status PackInto(chips::Device& device, std::byte* base,
                  const std::function<bool(uint64_t, uint64_t)>& progress,
                  const std::function<Status(int32_t)>& packed) const;
  // Fills the destinations with views of what PackInto wrote earlier, reading none of it.
  Status Bind(const chips::Device& device, const std::byte* base) const;
  // Packs everything into one buffer of bytes() and fills the destinations. `progress` as in LoadOptions.
  Result<chips::DeviceBuffer> Load(chips::Device& device,
                                   const std::function<bool(uint64_t, uint64_t)>& progress) const;

 private:
  const formats::Tensor* Find(const TensorName& name) const;
  std::string FullName(const TensorName& name) const;
  Result<const formats::Tensor*> Require(const TensorName& name, const std::vector<int64_t>& shape) const;
  Status AddMatrix(Item item);
  void AddVector(Item item, uint64_t size);
  void Place(Item& item, uint64_t bytes);
  Status PackAll(chips::Device& device, std::byte* base,
                 const std::function<bool(uint64_t, uint64_t)>& progress,
                 const std::function<Status(int32_t)>& packed) const;
  Status PackMatrix(const Item& item, chips::Device& device, std::byte* place) const;
  Status PackVector(const Item& item, chips::Device& device, std::byte* place) const;
  tl::unexpected<Error> Cancelled() const;

  const formats::Checkpoint& checkpoint_;
  const chips::Device& device_;
  chips::WeightPrecision precision_;
  HfNaming naming_;
  std::string hf_prefix_;
  std::vector<Item> items_;
  std::vector<uint64_t> segment_offsets_ = {0};
  uint64_t bytes_ = 0;
  uint64_t parameters_ = 0;
};

}  // namespace tidepool::architectures
