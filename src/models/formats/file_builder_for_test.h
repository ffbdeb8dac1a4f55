// Builds GGUF and safetensors files in memory, sound ones and every kind of broken one, and puts them in a
// folder that removes itself. For tests and fuzz seeds only.
#pragma once

#include <stdlib.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "models/formats/metadata_table.h"

namespace tidepool::formats {

class GgufBuilder {
 public:
  struct TensorInfo {
    std::string name = "weight";
    std::vector<uint64_t> dimensions = {32};  // innermost first, as in the file
    uint32_t type = 0;
    uint64_t offset = 0;
  };

  uint32_t version = 3;
  uint64_t data_bytes = 0;  // zero bytes after the padding
  int64_t key_count = -1;   // -1: the true count
  int64_t tensor_count = -1;
  std::vector<TensorInfo> tensors;

  GgufBuilder& Key(std::string_view key, GgufValueType type, std::string_view raw_value) {
    String(keys_, key);
    Number(keys_, static_cast<uint32_t>(type));
    keys_ += raw_value;
    ++keys_written_;
    return *this;
  }
  GgufBuilder& Text(std::string_view key, std::string_view value) {
    std::string raw;
    String(raw, value);
    return Key(key, GgufValueType::kString, raw);
  }
  template <typename T>
  GgufBuilder& Scalar(std::string_view key, GgufValueType type, T value) {
    std::string raw;
    Number(raw, value);
    return Key(key, type, raw);
  }
  GgufBuilder& Array(std::string_view key, GgufValueType type, uint64_t count, std::string_view elements) {
    std::string raw;
    Number(raw, static_cast<uint32_t>(type));
    Number(raw, count);
    raw += elements;
    return Key(key, GgufValueType::kArray, raw);
  }
  GgufBuilder& Add(TensorInfo info) {
    tensors.push_back(std::move(info));
    return *this;
  }

  std::string Build(uint64_t alignment = 32) const {
    std::string out = "GGUF";
    Number(out, version);
    Number(out, tensor_count < 0 ? uint64_t{tensors.size()} : static_cast<uint64_t>(tensor_count));
    Number(out, key_count < 0 ? keys_written_ : static_cast<uint64_t>(key_count));
    out += keys_;
    for (const TensorInfo& tensor : tensors) {
      String(out, tensor.name);
      Number(out, static_cast<uint32_t>(tensor.dimensions.size()));
      for (const uint64_t dimension : tensor.dimensions) Number(out, dimension);
      Number(out, tensor.type);
      Number(out, tensor.offset);
    }
    if (data_bytes > 0) out.resize((out.size() + alignment - 1) / alignment * alignment + data_bytes);
    return out;
  }

  template <typename T>
  static void Number(std::string& out, T value) {
    char raw[sizeof(T)];
    std::memcpy(raw, &value, sizeof(T));
    out.append(raw, sizeof(T));
  }
  static void String(std::string& out, std::string_view text) {
    Number(out, uint64_t{text.size()});
    out += text;
  }

 private:
  std::string keys_;
  uint64_t keys_written_ = 0;
};

// A header and data as one .safetensors file. `header_bytes` < 0: the true length.
inline std::string BuildSafetensors(std::string_view header, size_t data_bytes, int64_t header_bytes = -1) {
  std::string out;
  GgufBuilder::Number(out, header_bytes < 0 ? uint64_t{header.size()} : static_cast<uint64_t>(header_bytes));
  out += header;
  out.append(data_bytes, '\0');
  return out;
}

inline std::span<const std::byte> AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "tidepool-formats-XXXXXX").string();
    if (mkdtemp(pattern.data()) != nullptr) path_ = pattern;
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path Write(const std::string& name, std::string_view content) const {
    const std::filesystem::path file = path_ / name;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

 private:
  std::filesystem::path path_;
};

inline std::string ReadWholeFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace tidepool::formats
