// Files of data/ that are part of the binary; made by CMake.
#pragma once

#include <string_view>
#include <vector>

namespace tidepool::compute {

std::string_view ShippedModelsJson();                // data/profiles/models.json
std::vector<std::string_view> ShippedDeviceJsons();  // the other files of data/profiles
std::string_view ShippedLengthsCsv();                // data/lengths_sharegpt.csv

}  // namespace tidepool::compute
