// Where tests find files too big to commit; scripts/test_data fills the folder.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace tidepool::text {

inline std::filesystem::path TestDataFolder() {
  const char* folder = std::getenv("TIDEPOOL_TEST_DATA");
  return folder != nullptr && *folder != '\0'
             ? std::filesystem::path(folder)
             : std::filesystem::path(TIDEPOOL_SOURCE_DIR) / "build" / "test-data";
}

inline std::string ReadWholeFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace tidepool::text
