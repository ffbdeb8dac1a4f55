// What doctor says of kernels: tensors that take slower paths are found, with the reason, and others are not.
#include "server/doctor.h"

#include <gmock/gmock.h>

#include "models/text/fake_checkpoint.h"

namespace tidepool::server {
namespace {

using ::testing::HasSubstr;

std::unique_ptr<chips::Device> MakeDevice(const std::string& instruction_set) {
  chips::DeviceOptions options;
  options.threads = 1;
  options.instruction_set = instruction_set;
  return chips::MakeCpuDevice(options).value();
}

class FakeFile final : public formats::Checkpoint {
 public:
  void Add(std::string name, chips::DataType type, std::vector<int64_t> shape) {
    formats::Tensor tensor;
    tensor.name = std::move(name);
    tensor.type = type;
    tensor.shape = std::move(shape);
    tensors_.push_back(std::move(tensor));
  }
  formats::Format format() const override { return formats::Format::kGguf; }
  const std::filesystem::path& path() const override { return path_; }
  std::string_view architecture() const override { return "llama"; }
  const formats::Metadata& metadata() const override { return metadata_; }
  std::span<const formats::Tensor> tensors() const override { return tensors_; }
  const formats::Tensor* Find(std::string_view) const override { return nullptr; }
  uint64_t tensor_bytes() const override { return 0; }
  std::string_view tokenizer_json() const override { return {}; }
  std::string_view tokenizer_config_json() const override { return {}; }
  std::string_view generation_config_json() const override { return {}; }
  std::string_view chat_template() const override { return {}; }
  std::optional<std::string> ReadSideFile(std::string_view) const override { return std::nullopt; }

 private:
  std::filesystem::path path_ = "fake.gguf";
  text::FakeMetadata metadata_;
  std::vector<formats::Tensor> tensors_;
};

TEST(Doctor, TensorsOnSlowerPathsAreNamed) {
  const std::string best = chips::CpuInstructionSets().front();
  if (best == "reference") GTEST_SKIP() << "no vector kernels here";
  FakeFile file;
  file.Add("good", chips::DataType::kQ4_K, {64, 512});
  file.Add("odd columns", chips::DataType::kF16, {64, 33});
  file.Add("norm", chips::DataType::kI32, {64});
  file.Add("eight a", chips::DataType::kF8_E4M3, {64, 128});
  file.Add("eight b", chips::DataType::kF8_E4M3, {64, 128});
  file.Add("whole numbers", chips::DataType::kI32, {64, 64});
  file.Add("cut block", chips::DataType::kQ8_0, {64, 40});
  const auto rows = SlowTensors(*MakeDevice(best), file);
  ASSERT_EQ(rows.size(), 3u) << rows.dump(2);
  const auto find = [&](const std::string& type) {
    for (const auto& row : rows) {
      if (row["type"] == type) return row;
    }
    return nlohmann::ordered_json();
  };
  EXPECT_EQ(find("F8_E4M3")["tensors"], 2);
  EXPECT_EQ(find("F8_E4M3")["example"], "eight a");
  EXPECT_THAT(find("F8_E4M3")["why"].get<std::string>(), HasSubstr("BF16"));
  EXPECT_THAT(find("I32")["why"].get<std::string>(), HasSubstr("cannot be computed with"));
  EXPECT_THAT(find("Q8_0")["why"].get<std::string>(), HasSubstr("multiples of 32"));
}

TEST(Doctor, TheReferenceIsSlowForAll) {
  FakeFile file;
  file.Add("a", chips::DataType::kQ4_K, {64, 512});
  file.Add("b", chips::DataType::kF32, {64, 64});
  const auto rows = SlowTensors(*MakeDevice("reference"), file);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_THAT(rows[0]["why"].get<std::string>(), HasSubstr("reference"));
}

}  // namespace
}  // namespace tidepool::server
