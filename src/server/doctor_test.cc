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

void Add(text::FakeCheckpoint& file, std::string name, chips::DataType type, std::vector<int64_t> shape) {
  formats::Tensor tensor;
  tensor.name = std::move(name);
  tensor.type = type;
  tensor.shape = std::move(shape);
  file.fake_tensors.push_back(std::move(tensor));
}

TEST(Doctor, TensorsOnSlowerPathsAreNamed) {
  const std::string best = chips::CpuInstructionSets().front();
  if (best == "reference") GTEST_SKIP() << "no vector kernels here";
  text::FakeCheckpoint file;
  file.fake_architecture = "llama";
  Add(file, "good", chips::DataType::kQ4_K, {64, 512});
  Add(file, "odd columns", chips::DataType::kF16, {64, 33});
  Add(file, "norm", chips::DataType::kI32, {64});
  Add(file, "eight a", chips::DataType::kF8_E4M3, {64, 128});
  Add(file, "eight b", chips::DataType::kF8_E4M3, {64, 128});
  Add(file, "whole numbers", chips::DataType::kI32, {64, 64});
  Add(file, "cut block", chips::DataType::kQ8_0, {64, 40});
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
  EXPECT_EQ(find("F8_E4M3")["reason"], "kept_as_bf16");
  EXPECT_EQ(find("I32")["reason"], "type_unsupported");
  EXPECT_EQ(find("Q8_0")["reason"], "shape_unsupported");
  EXPECT_EQ(find("Q8_0")["shape"], "64x40");
  EXPECT_EQ(find("Q8_0")["block"], 32);
  EXPECT_THAT(find("F8_E4M3")["why"].get<std::string>(), HasSubstr("BF16"));
  EXPECT_THAT(find("I32")["why"].get<std::string>(), HasSubstr("cannot be computed with"));
  EXPECT_THAT(find("Q8_0")["why"].get<std::string>(), HasSubstr("multiples of 32"));
}

TEST(Doctor, TheReferenceIsSlowForAll) {
  text::FakeCheckpoint file;
  file.fake_architecture = "llama";
  Add(file, "a", chips::DataType::kQ4_K, {64, 512});
  Add(file, "b", chips::DataType::kF32, {64, 64});
  const auto rows = SlowTensors(*MakeDevice("reference"), file);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_THAT(rows[0]["why"].get<std::string>(), HasSubstr("reference"));
  EXPECT_EQ(rows[0]["reason"], "reference_kernels");
}

}  // namespace
}  // namespace tidepool::server
