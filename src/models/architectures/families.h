// How a family plugs in: a factory that reads the configuration, and a model that declares its weights.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/fields.h"
#include "models/architectures/model.h"
#include "models/architectures/weights.h"

namespace tidepool::architectures {

// A model under construction, and then the model. The registry calls, in this order: the family's factory,
// naming(), DeclareWeights(), and for a real load WeightPlan::Load (or Bind) and Adopt().
class FamilyModel : public Model {
 public:
  const ModelInfo& info() const final { return info_; }
  const chips::KvLayout& kv_layout() const final { return kv_; }

  virtual HfNaming naming() const { return DecoderNaming(); }
  // Declares every tensor with the place its view goes to (members of this object, which stays where it is).
  virtual Status DeclareWeights(WeightPlan& plan) = 0;
  std::span<const WeightSegment> segments() const final { return segments_; }
  bool WeightsIntact() const final { return !intact_ || intact_(); }
  // Asked by WeightsIntact.
  void WatchWeights(std::function<bool()> intact) { intact_ = std::move(intact); }
  // Takes the loaded weights: `owner` keeps the memory that the views point into.
  void Adopt(chips::Device& device, std::shared_ptr<const void> owner, const WeightPlan& plan);

 protected:
  chips::Ops& ops() const { return device_->ops(); }

  ModelInfo info_;
  chips::KvLayout kv_;

 private:
  chips::Device* device_ = nullptr;
  std::shared_ptr<const void> weights_;
  std::function<bool()> intact_;
  std::vector<WeightSegment> segments_;
};

using FamilyResult = Result<std::unique_ptr<FamilyModel>>;

// One factory a family file. `fields` and its checkpoint live during construction only.
FamilyResult MakeLlama(const Fields& fields, const LoadOptions& options);
FamilyResult MakeQwen2(const Fields& fields, const LoadOptions& options);
FamilyResult MakeQwen3(const Fields& fields, const LoadOptions& options);
FamilyResult MakeGemma3(const Fields& fields, const LoadOptions& options);
FamilyResult MakeBert(const Fields& fields, const LoadOptions& options);

// The family's factory for the checkpoint's architecture; see LoadModel.
FamilyResult MakeFamily(const Fields& fields, const LoadOptions& options);

struct Family {
  std::string_view architecture;  // GGUF's general.architecture or config.json's model_type
  FamilyResult (*make)(const Fields&, const LoadOptions&);
};
std::span<const Family> Families();

// How hidden states become one embedding: GGUF's pooling_type, or 1_Pooling/config.json and modules.json
// beside safetensors. kNone when the checkpoint says nothing.
struct PoolingChoice {
  Pooling pooling = Pooling::kNone;
  bool normalise = true;
  bool ranks = false;  // a classifier's score of the pooled state
};
// `ranked`: the pooling of a classifier's input, of families that have one (GGUF's pooling_type 4, or a
// classifier among the tensors); kNone: the family has none.
Result<PoolingChoice> ReadPooling(const Fields& fields, Pooling ranked = Pooling::kNone);

}  // namespace tidepool::architectures
