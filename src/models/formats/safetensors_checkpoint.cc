#include "models/formats/safetensors_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "models/formats/file_problem.h"
#include "models/formats/gguf_checkpoint.h"
#include "models/formats/json_metadata.h"
#include "models/formats/mapped_file.h"
#include "models/formats/safetensors_file.h"
#include "models/formats/side_files.h"
#include "models/formats/tensor_table.h"

namespace tidepool::formats {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

// A text file of the folder, mapped; an empty mapping when it is absent and not required.
Result<MappedFile> MapText(const fs::path& path, const OpenLimits& limits, bool required) {
  std::error_code ignored;
  if (!required && !fs::exists(path, ignored)) return MappedFile{};
  TP_ASSIGN(MappedFile file, MappedFile::Open(path));
  if (file.bytes().size() > limits.max_json_bytes) {
    return FileProblem(path.string())
        .OverLimit({}, fmt::format("{} bytes, the limit is {}", file.bytes().size(), limits.max_json_bytes));
  }
  return file;
}

JsonLimits LimitsOfJson(const OpenLimits& limits, uint64_t max_keys) {
  JsonLimits json;
  json.max_keys = max_keys;
  json.max_array_elements = limits.max_array_elements;
  json.max_memory_bytes = limits.max_metadata_bytes;
  return json;
}

class SafetensorsCheckpoint final : public Checkpoint {
 public:
  SafetensorsCheckpoint(fs::path path, fs::path folder)
      : path_(std::move(path)), folder_(std::move(folder)) {}

  Status ReadConfig(const OpenLimits& limits) {
    const fs::path path = folder_ / "config.json";
    Result<MappedFile> file = MapText(path, limits, /*required=*/true);
    if (!file) {
      if (file.error().kind != ErrorKind::kNotFound) return Fail(std::move(file).error());
      return FileProblem(path.string())
          .NotFound("no such file", "Put the model's config.json beside its .safetensors files");
    }
    TP_ASSIGN(metadata_,
              FlattenJson(file->text(), path.string(), LimitsOfJson(limits, limits.max_metadata_keys)));
    for (const char* key : {"text_config.model_type", "model_type"}) {
      architecture_ = metadata_.String(key).value_or(std::string_view{});
      if (!architecture_.empty()) return {};
    }
    return FileProblem(path.string()).Corrupt("model_type", "the key is missing or not a string");
  }

  Status ReadTexts(const OpenLimits& limits) {
    TP_ASSIGN(tokenizer_json_, MapText(folder_ / "tokenizer.json", limits, false));
    TP_ASSIGN(tokenizer_config_json_, MapText(folder_ / "tokenizer_config.json", limits, false));
    TP_ASSIGN(generation_config_json_, MapText(folder_ / "generation_config.json", limits, false));
    TP_ASSIGN(const MappedFile template_file, MapText(folder_ / "chat_template.jinja", limits, false));
    chat_template_ = template_file.text();
    if (!chat_template_.empty()) return {};
    TP_TRY(ReadTemplateKey(tokenizer_config_json_.text(), folder_ / "tokenizer_config.json", limits));
    if (!chat_template_.empty()) return {};
    // Processors of multimodal models keep it in a file of its own.
    TP_ASSIGN(const MappedFile template_json, MapText(folder_ / "chat_template.json", limits, false));
    return ReadTemplateKey(template_json.text(), folder_ / "chat_template.json", limits);
  }

  Status ReadWeights(const std::vector<fs::path>& files, const OpenLimits& limits) {
    uint64_t count = 0;
    for (const fs::path& path : files) {
      TP_ASSIGN(MappedFile file, MappedFile::Open(path));
      TP_ASSIGN(std::vector<Tensor> tensors, ParseSafetensors(file.bytes(), path.string(), limits));
      count += tensors.size();
      if (count > limits.max_tensors) {
        return FileProblem(path.string())
            .OverLimit({}, fmt::format("more than {} tensors with the files before it", limits.max_tensors));
      }
      tensors_.Append(std::move(tensors));
      files_.push_back(std::move(file));
    }
    if (const std::string* twice = tensors_.Seal(); twice != nullptr) {
      return FileProblem(path_.string()).Corrupt(*twice, "the tensor occurs twice");
    }
    return {};
  }

  Format format() const override { return Format::kSafetensors; }
  const fs::path& path() const override { return path_; }
  std::string_view architecture() const override { return architecture_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const Tensor> tensors() const override { return tensors_.tensors(); }
  const Tensor* Find(std::string_view name) const override { return tensors_.Find(name); }
  uint64_t tensor_bytes() const override { return tensors_.bytes(); }
  std::string_view tokenizer_json() const override { return tokenizer_json_.text(); }
  std::string_view tokenizer_config_json() const override { return tokenizer_config_json_.text(); }
  std::string_view generation_config_json() const override { return generation_config_json_.text(); }
  std::string_view chat_template() const override { return chat_template_; }
  void ReleasePages() const override {
    for (const MappedFile& file : files_) file.ReleasePages();
  }
  std::optional<std::string> ReadSideFile(std::string_view name) const override {
    return ReadTextBeside(folder_, name);
  }

 private:
  // "chat_template": the text, or a list of {"name", "template"} with a "default" one.
  Status ReadTemplateKey(std::string_view json, const fs::path& path, const OpenLimits& limits) {
    if (json.empty()) return {};
    TP_ASSIGN(const MetadataTable table,
              FlattenJson(json, path.string(), LimitsOfJson(limits, limits.max_array_elements)));
    if (const auto text = table.String("chat_template")) chat_template_ = *text;
    constexpr int kMaxTemplates = 64;
    for (int i = 0; i < kMaxTemplates && chat_template_.empty(); ++i) {
      const auto name = table.String(fmt::format("chat_template.{}.name", i));
      if (!name) break;
      if (*name != "default") continue;
      chat_template_ = table.String(fmt::format("chat_template.{}.template", i)).value_or(std::string_view{});
    }
    return {};
  }

  fs::path path_;
  fs::path folder_;
  std::vector<MappedFile> files_;
  MetadataTable metadata_;
  std::string architecture_;
  TensorTable tensors_;
  MappedFile tokenizer_json_;
  MappedFile tokenizer_config_json_;
  MappedFile generation_config_json_;
  std::string chat_template_;
};

// The index: which tensor is in which file.
class ShardIndex {
 public:
  static Result<ShardIndex> Read(const fs::path& folder, const OpenLimits& limits) {
    ShardIndex index;
    index.folder_ = folder;
    index.path_ = folder / kIndexName;
    TP_ASSIGN(const MappedFile file, MapText(index.path_, limits, /*required=*/true));
    TP_ASSIGN(index.table_,
              FlattenJson(file.text(), index.path_.string(), LimitsOfJson(limits, limits.max_tensors)));
    TP_TRY(index.CollectFiles(limits));
    return index;
  }

  const std::vector<fs::path>& files() const { return files_; }

  // Every tensor of the index is there. (Tensors that it does not list do no harm.)
  Status CheckComplete(const Checkpoint& checkpoint) const {
    for (const std::string_view key : table_.Keys()) {
      if (!key.starts_with(kPrefix)) continue;
      const std::string_view tensor = key.substr(kPrefix.size());
      if (checkpoint.Find(tensor) == nullptr) {
        return FileProblem(path_.string())
            .Corrupt(tensor, fmt::format("listed as in {}, which does not have it",
                                         Printable(table_.String(key).value_or("?"))));
      }
    }
    return {};
  }

 private:
  static constexpr std::string_view kPrefix = "weight_map.";

  Status CollectFiles(const OpenLimits& limits) {
    const FileProblem problem(path_.string());
    std::vector<std::string> names;
    for (const std::string_view key : table_.Keys()) {
      if (!key.starts_with(kPrefix)) continue;
      const std::optional<std::string_view> name = table_.String(key);
      const std::string_view tensor = key.substr(kPrefix.size());
      if (!name) return problem.Corrupt(tensor, "its file in weight_map is not a string");
      if (!IsSafeRelativePath(*name) || !name->ends_with(".safetensors")) {
        return problem.Corrupt(
            tensor,
            fmt::format("its file \"{}\" is not a .safetensors file within the folder", Printable(*name)));
      }
      if (!names.empty() && names.back() == *name) continue;
      names.emplace_back(*name);
    }
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    if (names.empty()) return problem.Corrupt("weight_map", "the key is missing or lists no tensor");
    if (names.size() > limits.max_files) {
      return problem.OverLimit("weight_map",
                               fmt::format("{} files, the limit is {}", names.size(), limits.max_files));
    }
    for (const std::string& name : names) files_.push_back(folder_ / name);
    return {};
  }

  fs::path folder_;
  fs::path path_;
  MetadataTable table_;
  std::vector<fs::path> files_;
};

Result<std::unique_ptr<Checkpoint>> OpenFiles(const fs::path& path, const fs::path& folder,
                                              const std::vector<fs::path>& files, const OpenLimits& limits) {
  auto checkpoint = std::make_unique<SafetensorsCheckpoint>(path, folder);
  TP_TRY(checkpoint->ReadConfig(limits));
  TP_TRY(checkpoint->ReadTexts(limits));
  TP_TRY(checkpoint->ReadWeights(files, limits));
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

// The only .safetensors file of a folder without an index.
Result<fs::path> OnlyWeights(const fs::path& folder) {
  const FileProblem problem(folder.string());
  std::error_code error;
  std::vector<fs::path> found;
  constexpr int kMaxEntries = 100'000;
  int entries = 0;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (++entries > kMaxEntries) return problem.OverLimit({}, fmt::format("more than {} files", kMaxEntries));
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  }
  if (error) {
    return Fail(ErrorKind::kUnavailable, "file_unreadable", folder.string() + ": " + error.message());
  }
  if (found.empty()) {
    return problem.NotFound("the folder has no model.safetensors and no other .safetensors file",
                            "Give a .gguf file, or a folder with config.json and *.safetensors");
  }
  if (found.size() > 1) {
    return problem.Unsupported({}, fmt::format("{} .safetensors files and no {}", found.size(), kIndexName),
                               "Fetch the index too, or give the path of one file");
  }
  return found.front();
}

}  // namespace

Result<std::unique_ptr<Checkpoint>> OpenSafetensorsFolder(const fs::path& folder, const OpenLimits& limits) {
  std::error_code ignored;
  if (fs::exists(folder / kIndexName, ignored)) {
    TP_ASSIGN(const ShardIndex index, ShardIndex::Read(folder, limits));
    TP_ASSIGN(std::unique_ptr<Checkpoint> checkpoint, OpenFiles(folder, folder, index.files(), limits));
    TP_TRY(index.CheckComplete(*checkpoint));
    return checkpoint;
  }
  const fs::path usual = folder / "model.safetensors";
  if (fs::exists(usual, ignored)) return OpenFiles(folder, folder, {usual}, limits);
  TP_ASSIGN(const fs::path only, OnlyWeights(folder));
  return OpenFiles(folder, folder, {only}, limits);
}

Result<std::unique_ptr<Checkpoint>> OpenSafetensorsFile(const fs::path& path, const OpenLimits& limits) {
  const std::optional<SplitName> name = ParseSplitName(path.filename().string());
  const fs::path folder = path.has_parent_path() ? path.parent_path() : fs::path(".");
  if (name && name->count > 1) {
    std::error_code ignored;
    if (fs::exists(folder / kIndexName, ignored)) return OpenSafetensorsFolder(folder, limits);
    return FileProblem(path.string())
        .NotFound(fmt::format("one of {} files, but {} is not beside it", name->count, kIndexName),
                  "Fetch the whole model into one folder");
  }
  return OpenFiles(path, folder, {path}, limits);
}

}  // namespace tidepool::formats
