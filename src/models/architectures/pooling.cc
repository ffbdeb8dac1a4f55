// Where a checkpoint says how to make one vector of a text.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "models/architectures/families.h"

namespace tidepool::architectures {
namespace {

Result<PoolingChoice> FromGguf(const Fields& fields, Pooling ranked) {
  constexpr FieldKey kPoolingType{"pooling_type", ""};
  // 0 none, 1 mean, 2 CLS, 3 last, 4 rank (a classifier's score, which is not an embedding).
  TP_ASSIGN(const int64_t type, fields.IntOr(kPoolingType, 0, 0, 4));
  constexpr Pooling kByType[] = {Pooling::kNone, Pooling::kMean, Pooling::kCls, Pooling::kLast};
  if (type == 4) {
    if (ranked == Pooling::kNone)
      return fields.Bad(kPoolingType, "is 4 (rank), which this architecture's code does not support");
    return PoolingChoice{ranked, /*normalise=*/false, /*ranks=*/true};
  }
  return PoolingChoice{kByType[type], true};
}

bool Flag(const nlohmann::json& config, const char* key) {
  const auto found = config.find(key);
  return found != config.end() && found->is_boolean() && found->get<bool>();
}

}  // namespace

Result<PoolingChoice> ReadPooling(const Fields& fields, Pooling ranked) {
  if (fields.is_gguf()) return FromGguf(fields, ranked);
  PoolingChoice choice;
  if (const formats::Tensor* classifier = formats::FindClassifier(fields.checkpoint())) {
    if (ranked == Pooling::kNone) {
      return Fail(ErrorKind::kInvalid, "unsupported_classifier",
                  fmt::format("{}: the classifier '{}' is not supported for this architecture", fields.file(),
                              classifier->name),
                  classifier->name);
    }
    return PoolingChoice{ranked, /*normalise=*/false, /*ranks=*/true};
  }
  const auto modules = fields.checkpoint().ReadSideFile("modules.json");
  if (modules) {
    choice.normalise = modules->find("models.Normalize") != std::string::npos;
    if (modules->find("models.Dense") != std::string::npos) {
      return Fail(ErrorKind::kInvalid, "unsupported_pooling",
                  fields.file() + ": modules.json adds a Dense layer after pooling, which is not supported",
                  "modules.json");
    }
  }
  const auto text = fields.checkpoint().ReadSideFile("1_Pooling/config.json");
  if (!text) return choice;
  const auto config = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) {
    return Fail(ErrorKind::kCorrupt, "bad_pooling_config",
                fields.file() + ": 1_Pooling/config.json is not valid JSON", "1_Pooling/config.json");
  }
  if (Flag(config, "pooling_mode_cls_token")) {
    choice.pooling = Pooling::kCls;
  } else if (Flag(config, "pooling_mode_lasttoken")) {
    choice.pooling = Pooling::kLast;
  } else if (Flag(config, "pooling_mode_mean_tokens")) {
    choice.pooling = Pooling::kMean;
  } else {
    return Fail(ErrorKind::kInvalid, "unsupported_pooling",
                fields.file() + ": 1_Pooling/config.json asks for none of CLS, mean and last-token pooling",
                "1_Pooling/config.json");
  }
  return choice;
}

}  // namespace tidepool::architectures
