#include "models/formats/gguf_checkpoint.h"

#include <fmt/format.h>

#include <utility>

#include "models/formats/file_problem.h"
#include "models/formats/gguf_file.h"
#include "models/formats/side_files.h"
#include "models/formats/tensor_table.h"

namespace tidepool::formats {
namespace {

constexpr std::string_view kSplitCount = "split.count";
constexpr std::string_view kSplitNumber = "split.no";  // from 0
constexpr std::string_view kSplitTensors = "split.tensors.count";
constexpr int64_t kNumberDigits = 5;

struct Part {
  MappedFile file;
  GgufFile gguf;
};

class GgufCheckpoint final : public Checkpoint {
 public:
  explicit GgufCheckpoint(std::filesystem::path path) : path_(std::move(path)) {}

  // The first part has the metadata. Checks what only the whole set can show.
  Status Take(std::vector<Part> parts) {
    const FileProblem problem(path_.string());
    for (Part& part : parts) {
      tensors_.Append(std::move(part.gguf.tensors));
      files_.push_back(std::move(part.file));
    }
    metadata_ = std::move(parts.front().gguf.metadata);
    if (const std::string* twice = tensors_.Seal(); twice != nullptr) {
      return problem.Corrupt(*twice, "the tensor occurs twice");
    }
    const std::optional<std::string_view> architecture = metadata_.String("general.architecture");
    if (!architecture || architecture->empty()) {
      return problem.Corrupt("general.architecture", "the key is missing or not a string");
    }
    architecture_ = *architecture;
    return {};
  }

  Format format() const override { return Format::kGguf; }
  const std::filesystem::path& path() const override { return path_; }
  std::string_view architecture() const override { return architecture_; }
  const Metadata& metadata() const override { return metadata_; }
  std::span<const Tensor> tensors() const override { return tensors_.tensors(); }
  const Tensor* Find(std::string_view name) const override { return tensors_.Find(name); }
  uint64_t tensor_bytes() const override { return tensors_.bytes(); }
  std::string_view tokenizer_json() const override { return {}; }
  std::string_view tokenizer_config_json() const override { return {}; }
  std::string_view generation_config_json() const override { return {}; }
  std::string_view chat_template() const override {
    return metadata_.String("tokenizer.chat_template").value_or(std::string_view{});
  }
  void ReleasePages() const override {
    for (const MappedFile& file : files_) file.ReleasePages();
  }
  std::optional<std::string> ReadSideFile(std::string_view name) const override {
    return ReadTextBeside(path_.parent_path(), name);
  }

 private:
  std::filesystem::path path_;
  std::vector<MappedFile> files_;
  MetadataTable metadata_;
  std::string architecture_;
  TensorTable tensors_;
};

std::filesystem::path PartPath(const std::filesystem::path& path, const SplitName& name, uint32_t number) {
  return path.parent_path() /
         fmt::format("{}-{:05}-of-{:05}{}", name.prefix, number, name.count, name.extension);
}

Result<Part> ReadPart(const std::filesystem::path& path, MappedFile file, const OpenLimits& limits) {
  TP_ASSIGN(GgufFile gguf, ParseGguf(file.bytes(), path.string(), limits));
  return Part{std::move(file), std::move(gguf)};
}

// What every part of a set says about the set.
Status CheckPart(const std::filesystem::path& path, const Part& part, uint32_t number, uint32_t count,
                 std::optional<int64_t> tensors_in_all) {
  const FileProblem problem(path.string());
  const std::optional<int64_t> part_number = part.gguf.metadata.Int(kSplitNumber);
  if (part_number != int64_t{number} - 1) {
    return problem.Corrupt(kSplitNumber, fmt::format("must be {} by the file's name, is {}", number - 1,
                                                     part_number ? std::to_string(*part_number) : "missing"));
  }
  const std::optional<int64_t> part_count = part.gguf.metadata.Int(kSplitCount);
  if (part_count != int64_t{count}) {
    return problem.Corrupt(kSplitCount, fmt::format("must be {} by the file's name, is {}", count,
                                                    part_count ? std::to_string(*part_count) : "missing"));
  }
  if (part.gguf.metadata.Int(kSplitTensors) != tensors_in_all) {
    return problem.Corrupt(kSplitTensors,
                           "differs from that of the set's first file; the files are of two models");
  }
  return {};
}

Result<std::vector<Part>> ReadSet(const std::filesystem::path& path, const SplitName& name, Part given,
                                  const OpenLimits& limits) {
  const FileProblem problem(path.string());
  if (name.count > limits.max_files) {
    return problem.OverLimit({},
                             fmt::format("a set of {} files, the limit is {}", name.count, limits.max_files));
  }
  const std::optional<int64_t> announced = given.gguf.metadata.Int(kSplitTensors);
  std::vector<Part> parts;
  uint64_t tensors = 0;
  for (uint32_t number = 1; number <= name.count; ++number) {
    const std::filesystem::path part_path = PartPath(path, name, number);
    if (number == name.number) {
      parts.push_back(std::move(given));
    } else {
      Result<MappedFile> file = MappedFile::Open(part_path);
      if (!file) {
        Error error = std::move(file).error();
        error.message +=
            fmt::format(" (file {} of the {} of this model; all must lie in one folder)", number, name.count);
        return Fail(std::move(error));
      }
      TP_ASSIGN(Part part, ReadPart(part_path, std::move(*file), limits));
      parts.push_back(std::move(part));
    }
    TP_TRY(CheckPart(part_path, parts.back(), number, name.count, announced));
    tensors += parts.back().gguf.tensors.size();
    if (tensors > limits.max_tensors) {
      return problem.OverLimit({}, fmt::format("more than {} tensors in the set", limits.max_tensors));
    }
  }
  if (announced && *announced != static_cast<int64_t>(tensors)) {
    return problem.Corrupt(kSplitTensors,
                           fmt::format("announces {} tensors, the files have {}", *announced, tensors));
  }
  return parts;
}

}  // namespace

std::optional<SplitName> ParseSplitName(const std::string& file_name) {
  const size_t dot = file_name.rfind('.');
  if (dot == std::string::npos) return std::nullopt;
  // "-NNNNN-of-NNNNN": 1 + 5 + 4 + 5 characters before the extension.
  constexpr size_t kTail = 1 + kNumberDigits + 4 + kNumberDigits;
  if (dot <= kTail) return std::nullopt;
  const std::string tail = file_name.substr(dot - kTail, kTail);
  if (tail[0] != '-' || tail.substr(1 + kNumberDigits, 4) != "-of-") return std::nullopt;
  const auto number = [&tail](size_t begin) -> std::optional<uint32_t> {
    uint32_t value = 0;
    for (size_t i = begin; i < begin + kNumberDigits; ++i) {
      if (tail[i] < '0' || tail[i] > '9') return std::nullopt;
      value = value * 10 + static_cast<uint32_t>(tail[i] - '0');
    }
    return value;
  };
  const std::optional<uint32_t> this_file = number(1);
  const std::optional<uint32_t> count = number(1 + kNumberDigits + 4);
  if (!this_file || !count || *this_file < 1 || *this_file > *count) return std::nullopt;
  return SplitName{file_name.substr(0, dot - kTail), *this_file, *count, file_name.substr(dot)};
}

Result<std::unique_ptr<Checkpoint>> OpenGguf(const std::filesystem::path& path, MappedFile file,
                                             const OpenLimits& limits) {
  TP_ASSIGN(Part part, ReadPart(path, std::move(file), limits));
  std::vector<Part> parts;
  const std::optional<int64_t> split_count = part.gguf.metadata.Int(kSplitCount);
  if (split_count && *split_count != 0 && *split_count != 1) {
    const std::optional<SplitName> name = ParseSplitName(path.filename().string());
    if (!name || int64_t{name->count} != *split_count) {
      return FileProblem(path.string())
          .Unsupported(kSplitCount,
                       fmt::format("is {}, but the file is not named like one of {} parts", *split_count,
                                   *split_count),
                       fmt::format("Name the parts <model>-00001-of-{:05}.gguf and so on, in one folder",
                                   *split_count));
    }
    TP_ASSIGN(parts, ReadSet(path, *name, std::move(part), limits));
  } else {
    parts.push_back(std::move(part));
  }
  auto checkpoint = std::make_unique<GgufCheckpoint>(path);
  TP_TRY(checkpoint->Take(std::move(parts)));
  return std::unique_ptr<Checkpoint>(std::move(checkpoint));
}

}  // namespace tidepool::formats
