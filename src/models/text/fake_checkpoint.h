// A GGUF checkpoint of metadata and tensors without bytes, made by a test.
#pragma once

#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "models/formats/checkpoint.h"

namespace tidepool::text {

class FakeMetadata final : public formats::Metadata {
 public:
  using Value = std::variant<int64_t, bool, std::string, std::vector<std::string>, std::vector<int64_t>,
                             std::vector<double>>;
  std::map<std::string, Value, std::less<>> values;

  bool Has(std::string_view key) const override { return values.find(key) != values.end(); }
  std::optional<int64_t> Int(std::string_view key) const override { return Get<int64_t>(key); }
  std::optional<double> Float(std::string_view) const override { return std::nullopt; }
  std::optional<bool> Bool(std::string_view key) const override { return Get<bool>(key); }
  std::optional<std::string_view> String(std::string_view key) const override {
    const auto it = values.find(key);
    const auto* value = it == values.end() ? nullptr : std::get_if<std::string>(&it->second);
    if (value == nullptr) return std::nullopt;
    return *value;
  }
  std::optional<std::vector<int64_t>> Ints(std::string_view key) const override {
    return Get<std::vector<int64_t>>(key);
  }
  std::optional<std::vector<double>> Floats(std::string_view key) const override {
    return Get<std::vector<double>>(key);
  }
  std::optional<std::vector<std::string_view>> Strings(std::string_view key) const override {
    const auto it = values.find(key);
    const auto* value = it == values.end() ? nullptr : std::get_if<std::vector<std::string>>(&it->second);
    if (value == nullptr) return std::nullopt;
    return std::vector<std::string_view>(value->begin(), value->end());
  }
  std::vector<std::string_view> Keys() const override { return {}; }

 private:
  template <typename T>
  std::optional<T> Get(std::string_view key) const {
    const auto it = values.find(key);
    const T* value = it == values.end() ? nullptr : std::get_if<T>(&it->second);
    return value == nullptr ? std::nullopt : std::optional<T>(*value);
  }
};

class FakeCheckpoint final : public formats::Checkpoint {
 public:
  FakeMetadata fake;
  std::string fake_architecture = "fake";
  std::vector<formats::Tensor> fake_tensors;

  formats::Format format() const override { return formats::Format::kGguf; }
  const std::filesystem::path& path() const override { return path_; }
  std::string_view architecture() const override { return fake_architecture; }
  const formats::Metadata& metadata() const override { return fake; }
  std::span<const formats::Tensor> tensors() const override { return fake_tensors; }
  const formats::Tensor* Find(std::string_view) const override { return nullptr; }
  uint64_t tensor_bytes() const override { return 0; }
  std::string_view tokenizer_json() const override { return {}; }
  std::string_view tokenizer_config_json() const override { return {}; }
  std::string_view generation_config_json() const override { return {}; }
  std::string_view chat_template() const override { return {}; }
  void ReleasePages() const override {}
  std::optional<std::string> ReadSideFile(std::string_view) const override { return std::nullopt; }

 private:
  std::filesystem::path path_ = "fake.gguf";
};

}  // namespace tidepool::text
