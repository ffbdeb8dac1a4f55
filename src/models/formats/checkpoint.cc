#include "models/formats/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "models/formats/file_problem.h"
#include "models/formats/gguf_checkpoint.h"
#include "models/formats/mapped_file.h"
#include "models/formats/safetensors_checkpoint.h"

namespace tidepool::formats {
namespace {

namespace fs = std::filesystem;

constexpr const char* kWhatToGive = "Give a .gguf file, or a folder with config.json and *.safetensors";

// GGUF files of a folder that can be the model: the first of each set, without sidecars (vision towers, draft
// heads, calibration data).
Result<std::vector<fs::path>> GgufModels(const fs::path& folder) {
  std::error_code error;
  std::vector<fs::path> found;
  constexpr int kMaxEntries = 100'000;
  int entries = 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (++entries > kMaxEntries) break;
    const std::string name = it->path().filename().string();
    const bool sidecar =
        name.starts_with("mmproj") || name.starts_with("mtp-") || name.starts_with("imatrix");
    if (it->path().extension() != ".gguf" || sidecar) continue;
    const std::optional<SplitName> split = ParseSplitName(name);
    if (!split || split->number == 1) found.push_back(it->path());
  }
  if (error)
    return Fail(ErrorKind::kUnavailable, "file_unreadable", folder.string() + ": " + error.message());
  std::sort(found.begin(), found.end());
  return found;
}

Result<std::unique_ptr<Checkpoint>> OpenFolder(const fs::path& folder, const OpenLimits& limits) {
  std::error_code ignored;
  if (fs::exists(folder / "config.json", ignored)) return OpenSafetensorsFolder(folder, limits);
  TP_ASSIGN(const std::vector<fs::path> models, GgufModels(folder));
  const FileProblem problem(folder.string());
  if (models.empty())
    return problem.NotFound("the folder has neither a config.json nor a .gguf file", kWhatToGive);
  if (models.size() > 1) {
    return problem.Unsupported({},
                               fmt::format("{} models in the folder ({}, {}, ...)", models.size(),
                                           models[0].filename().string(), models[1].filename().string()),
                               "Give the path of one of the files");
  }
  TP_ASSIGN(MappedFile file, MappedFile::Open(models.front()));
  return OpenGguf(models.front(), std::move(file), limits);
}

bool StartsWith(const MappedFile& file, std::string_view magic) { return file.text().starts_with(magic); }

}  // namespace

Result<std::unique_ptr<Checkpoint>> Checkpoint::Open(const fs::path& path, const OpenLimits& limits) {
  std::error_code error;
  if (fs::is_directory(path, error)) return OpenFolder(path, limits);
  TP_ASSIGN(MappedFile file, MappedFile::Open(path));
  const FileProblem problem(path.string());
  if (file.bytes().empty()) return problem.Truncated({}, "the file is empty");
  if (StartsWith(file, "GGUF") || path.extension() == ".gguf") return OpenGguf(path, std::move(file), limits);
  if (path.extension() == ".safetensors") return OpenSafetensorsFile(path, limits);
  if (StartsWith(file, "PK\x03\x04") || StartsWith(file, "\x80\x02")) {
    return problem.Unsupported({}, "a PyTorch or archive file, which could run code when loaded",
                               kWhatToGive);
  }
  return problem.Unsupported(
      {}, fmt::format("an unknown kind of file (starts with \"{}\")", Printable(file.text().substr(0, 4))),
      kWhatToGive);
}

const Tensor* FindClassifier(const Checkpoint& checkpoint) {
  for (const char* name :
       {"cls.output.weight", "score.weight", "classifier.weight", "classifier.out_proj.weight"}) {
    if (const Tensor* tensor = checkpoint.Find(name)) return tensor;
  }
  return nullptr;
}

}  // namespace tidepool::formats
