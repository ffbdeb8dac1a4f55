#include "models/architectures/families.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

namespace tidepool::architectures {
namespace {

// To add a family: write its file, declare its factory in families.h, add its names here (sorted).
constexpr std::array kFamilies = {
    Family{"bert", MakeBert},   Family{"gemma3", MakeGemma3}, Family{"gemma3_text", MakeGemma3},
    Family{"llama", MakeLlama}, Family{"mistral", MakeLlama}, Family{"qwen2", MakeQwen2},
    Family{"qwen3", MakeQwen3}, Family{"roberta", MakeBert},  Family{"xlm-roberta", MakeBert},
};

}  // namespace

std::span<const Family> Families() { return kFamilies; }

FamilyResult MakeFamily(const Fields& fields, const LoadOptions& options) {
  if (!chips::KvLayout::Supports(options.kv_type)) {
    return Fail(ErrorKind::kInvalid, "bad_kv_type", "kv_type must be I16, F16, BF16, Q8_0 or F32", "kv_type");
  }
  const std::string_view architecture = fields.checkpoint().architecture();
  for (const Family& family : kFamilies) {
    if (family.architecture == architecture) return family.make(fields, options);
  }
  return Fail(ErrorKind::kInvalid, "unknown_architecture",
              fmt::format("{}: architecture '{}' is not supported; this version runs {}", fields.file(),
                          architecture, fmt::join(KnownArchitectures(), ", ")),
              fields.is_gguf() ? "general.architecture" : "model_type");
}

void FamilyModel::Adopt(chips::Device& device, std::shared_ptr<const void> owner, const WeightPlan& plan) {
  device_ = &device;
  weights_ = std::move(owner);
  segments_ = plan.segments();
  info_.weight_bytes = plan.bytes();
  info_.parameters = plan.parameters();
  info_.quantisation = plan.Quantisation();
}

std::vector<std::string> KnownArchitectures() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.architecture);
  std::sort(names.begin(), names.end());
  return names;
}

Result<uint64_t> PackedModelBytes(const formats::Checkpoint& checkpoint, const chips::Device& device,
                                  const LoadOptions& options) {
  const Fields fields(checkpoint);
  TP_ASSIGN(const std::unique_ptr<FamilyModel> model, MakeFamily(fields, options));
  WeightPlan plan(checkpoint, device, options.precision, model->naming());
  TP_TRY(model->DeclareWeights(plan));
  return plan.bytes();
}

Result<std::unique_ptr<Model>> LoadModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                         const LoadOptions& options) {
  const Fields fields(checkpoint);
  TP_ASSIGN(std::unique_ptr<FamilyModel> model, MakeFamily(fields, options));
  WeightPlan plan(checkpoint, device, options.precision, model->naming());
  TP_TRY(model->DeclareWeights(plan));
  TP_ASSIGN(chips::DeviceBuffer weights, plan.Load(device, options.progress));
  model->Adopt(device, std::make_shared<chips::DeviceBuffer>(std::move(weights)), plan);
  return std::unique_ptr<Model>(std::move(model));
}

}  // namespace tidepool::architectures
