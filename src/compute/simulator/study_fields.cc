#include "compute/simulator/study_fields.h"

#include <fmt/format.h>

#include <algorithm>

namespace tidepool::compute {
namespace {

std::string ShownValue(const nlohmann::ordered_json& value) {
  return value.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).substr(0, 64);
}

}  // namespace

tl::unexpected<Error> BadStudyField(std::string_view field, std::string_view message) {
  return Fail(ErrorKind::kInvalid, "invalid_value", fmt::format("{}: {}", field, message),
              std::string(field));
}

std::string StudyFields::Name(std::string_view name) const {
  return where_.empty() ? std::string(name) : fmt::format("{}.{}", where_, name);
}

Status StudyFields::Known(std::initializer_list<std::string_view> names) const {
  if (!json_.is_object()) return BadStudyField(where_.empty() ? "body" : where_, "is not an object");
  for (const auto& [key, value] : json_.items()) {
    if (std::find(names.begin(), names.end(), key) != names.end()) continue;
    return Fail(ErrorKind::kInvalid, "unknown_field",
                fmt::format("There is no field \"{}\" here.", Name(key).substr(0, 96)),
                Name(key).substr(0, 96));
  }
  return {};
}

const nlohmann::ordered_json* StudyFields::Find(std::string_view name) const {
  const auto entry = json_.find(name);
  return entry == json_.end() || entry->is_null() ? nullptr : &*entry;
}

Result<double> StudyFields::Number(std::string_view name, double otherwise, double least, double most) const {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_number() || !(value->get<double>() >= least && value->get<double>() <= most)) {
    return BadStudyField(Name(name),
                         fmt::format("{} is not a number from {} to {}", ShownValue(*value), least, most));
  }
  return value->get<double>();
}

Result<int64_t> StudyFields::Integer(std::string_view name, int64_t otherwise, int64_t least,
                                     int64_t most) const {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  const bool fits = value->is_number_integer() &&
                    !(value->is_number_unsigned() && value->get<uint64_t>() > INT64_MAX) &&
                    value->get<int64_t>() >= least && value->get<int64_t>() <= most;
  if (!fits) {
    return BadStudyField(
        Name(name), fmt::format("{} is not a whole number from {} to {}", ShownValue(*value), least, most));
  }
  return value->get<int64_t>();
}

Result<std::string> StudyFields::Text(std::string_view name, std::string otherwise, size_t most) const {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_string())
    return BadStudyField(Name(name), fmt::format("{} is not a text", ShownValue(*value)));
  if (value->get_ref<const std::string&>().size() > most) {
    return BadStudyField(Name(name), fmt::format("is longer than {} bytes", most));
  }
  return value->get<std::string>();
}

Result<bool> StudyFields::Flag(std::string_view name, bool otherwise) const {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (!value->is_boolean()) {
    return BadStudyField(Name(name), fmt::format("{} is neither true nor false", ShownValue(*value)));
  }
  return value->get<bool>();
}

}  // namespace tidepool::compute
