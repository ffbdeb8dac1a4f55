#include "models/architectures/fields.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::architectures {
namespace {

constexpr std::string_view kRemedy =
    "The file is damaged or was made for another program: download or convert it again";

std::vector<std::string_view> Alternatives(std::string_view list) {
  std::vector<std::string_view> names;
  while (!list.empty()) {
    const size_t bar = list.find('|');
    names.push_back(list.substr(0, bar));
    list = bar == std::string_view::npos ? std::string_view() : list.substr(bar + 1);
  }
  return names;
}

}  // namespace

Fields::Fields(const formats::Checkpoint& checkpoint) : checkpoint_(checkpoint) {
  if (is_gguf()) {
    prefix_ = std::string(checkpoint.architecture()) + ".";
  } else if (checkpoint.metadata().Has("text_config.model_type")) {
    prefix_ = "text_config.";
  }
}

bool Fields::HasValue(const std::string& name) const {
  // A null in config.json counts as missing; any readable kind counts as present.
  const formats::Metadata& m = checkpoint_.metadata();
  return m.Has(name) && (m.Int(name) || m.Float(name) || m.Bool(name) || m.String(name) || m.Ints(name) ||
                         m.Floats(name) || m.Strings(name));
}

std::optional<std::string> Fields::Find(FieldKey key) const {
  for (const std::string_view alternative : Alternatives(is_gguf() ? key.gguf : key.hf)) {
    std::string name = prefix_ + std::string(alternative);
    if (HasValue(name)) return name;
  }
  return std::nullopt;
}

std::string Fields::Name(FieldKey key) const {
  if (auto found = Find(key)) return *found;
  const auto alternatives = Alternatives(is_gguf() ? key.gguf : key.hf);
  return prefix_ + std::string(alternatives.empty() ? key.hf : alternatives.front());
}

tl::unexpected<Error> Fields::Bad(FieldKey key, std::string_view trouble) const {
  const std::string name = Name(key);
  return Fail(ErrorKind::kCorrupt, "bad_model_config",
              fmt::format("{}: {} {}. {}.", file(), name, trouble, kRemedy), name);
}

Result<int64_t> Fields::CheckedInt(FieldKey key, const std::string& name, int64_t minimum,
                                   int64_t maximum) const {
  std::optional<int64_t> value = checkpoint_.metadata().Int(name);
  if (!value) {
    const auto list = checkpoint_.metadata().Ints(name);
    if (!list || list->empty()) return Bad(key, "is not an integer");
    if (std::any_of(list->begin(), list->end(), [&](int64_t v) { return v != list->front(); })) {
      return Bad(key, "differs from layer to layer, which this architecture's code does not support");
    }
    value = list->front();
  }
  if (*value < minimum || *value > maximum) {
    return Bad(key, fmt::format("is {}; expected {} to {}", *value, minimum, maximum));
  }
  return *value;
}

Result<double> Fields::CheckedFloat(FieldKey key, const std::string& name, double minimum,
                                    double maximum) const {
  const std::optional<double> value = checkpoint_.metadata().Float(name);
  if (!value) return Bad(key, "is not a number");
  // Written so that NaN fails.
  if (!(*value >= minimum && *value <= maximum)) {
    return Bad(key, fmt::format("is {}; expected {} to {}", *value, minimum, maximum));
  }
  return *value;
}

Result<int64_t> Fields::Int(FieldKey key, int64_t minimum, int64_t maximum) const {
  const auto name = Find(key);
  if (!name) return Bad(key, "is missing");
  return CheckedInt(key, *name, minimum, maximum);
}

Result<int64_t> Fields::IntOr(FieldKey key, int64_t otherwise, int64_t minimum, int64_t maximum) const {
  const auto name = Find(key);
  if (!name) return otherwise;
  return CheckedInt(key, *name, minimum, maximum);
}

Result<double> Fields::Float(FieldKey key, double minimum, double maximum) const {
  const auto name = Find(key);
  if (!name) return Bad(key, "is missing");
  return CheckedFloat(key, *name, minimum, maximum);
}

Result<double> Fields::FloatOr(FieldKey key, double otherwise, double minimum, double maximum) const {
  const auto name = Find(key);
  if (!name) return otherwise;
  return CheckedFloat(key, *name, minimum, maximum);
}

Result<bool> Fields::BoolOr(FieldKey key, bool otherwise) const {
  const auto name = Find(key);
  if (!name) return otherwise;
  const auto value = checkpoint_.metadata().Bool(*name);
  if (!value) return Bad(key, "is not true or false");
  return *value;
}

Result<std::string> Fields::StringOr(FieldKey key, std::string_view otherwise) const {
  const auto name = Find(key);
  if (!name) return std::string(otherwise);
  const auto value = checkpoint_.metadata().String(*name);
  if (!value) return Bad(key, "is not a string");
  return std::string(*value);
}

Result<std::vector<int64_t>> Fields::IntsOr(FieldKey key, std::vector<int64_t> otherwise) const {
  const auto name = Find(key);
  if (!name) return otherwise;
  auto value = checkpoint_.metadata().Ints(*name);
  if (!value) return Bad(key, "is not a list of integers");
  return std::move(*value);
}

Result<std::vector<std::string>> Fields::StringsOr(FieldKey key, std::vector<std::string> otherwise) const {
  const auto name = Find(key);
  if (!name) return otherwise;
  const auto value = checkpoint_.metadata().Strings(*name);
  if (!value) return Bad(key, "is not a list of strings");
  return std::vector<std::string>(value->begin(), value->end());
}

}  // namespace tidepool::architectures
