// Reads the fields of a study: types, ranges, unknown names. Internal to the simulator.
#pragma once

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "base/result.h"

namespace tidepool::compute {

tl::unexpected<Error> BadStudyField(std::string_view field, std::string_view message);

class StudyFields {
 public:
  explicit StudyFields(const nlohmann::ordered_json& json, std::string where = {})
      : json_(json), where_(std::move(where)) {}
  Status Known(std::initializer_list<std::string_view> names) const;
  const nlohmann::ordered_json* Find(std::string_view name) const;  // null: missing or null
  Result<double> Number(std::string_view name, double otherwise, double least, double most) const;
  Result<int64_t> Integer(std::string_view name, int64_t otherwise, int64_t least, int64_t most) const;
  Result<std::string> Text(std::string_view name, std::string otherwise, size_t most = 4096) const;
  Result<bool> Flag(std::string_view name, bool otherwise) const;

 private:
  std::string Name(std::string_view name) const;
  const nlohmann::ordered_json& json_;
  const std::string where_;
};

}  // namespace tidepool::compute
