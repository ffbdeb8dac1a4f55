#include "models/formats/side_files.h"

#include "models/formats/file_problem.h"
#include "models/formats/mapped_file.h"

namespace tidepool::formats {

bool IsSafeRelativePath(std::string_view name) {
  constexpr size_t kMaxBytes = 255;
  constexpr int kMaxParts = 4;
  if (!IsSoundName(name, kMaxBytes) || name.find('\\') != std::string_view::npos) return false;
  int parts = 0;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t end = std::min(name.find('/', begin), name.size());
    const std::string_view part = name.substr(begin, end - begin);
    if (part.empty() || part == "." || part == ".." || ++parts > kMaxParts) return false;
    begin = end + 1;
  }
  return true;
}

std::optional<std::string> ReadTextBeside(const std::filesystem::path& folder, std::string_view name,
                                          uint64_t max_bytes) {
  if (!IsSafeRelativePath(name)) return std::nullopt;
  const Result<MappedFile> file = MappedFile::Open(folder / name);
  if (!file || file->bytes().size() > max_bytes) return std::nullopt;
  return std::string(file->text());
}

}  // namespace tidepool::formats
