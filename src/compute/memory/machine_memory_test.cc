#include "compute/memory/machine_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace tidepool::compute {
namespace {

namespace fs = std::filesystem;

class MachineMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "machine_memory_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
  }
  void TearDown() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  MachineMemory Read(const std::string& membership) {
    return ReadMachineMemory("MemFree: 5 kB\nMemTotal:       16000000 kB\n", root_.string(), membership);
  }
  static constexpr uint64_t kPhysical = 16'000'000ull * 1024;
  fs::path root_;
};

TEST_F(MachineMemoryTest, TheMachineWhereNothingLimits) {
  Write("a/memory.max", "max");
  const MachineMemory memory = Read("0::/a\n");
  EXPECT_EQ(memory.physical_bytes, kPhysical);
  EXPECT_EQ(memory.cgroup_bytes, 0u);
  EXPECT_EQ(memory.usable_bytes, kPhysical);
  EXPECT_EQ(memory.Describe(), "15.3 GiB of the machine");
}

TEST_F(MachineMemoryTest, TheTightestOfNestedGroups) {
  Write("pod/memory.max", "4294967296");
  Write("pod/container/memory.max", "max");
  Write("pod/container/service/memory.max", "8589934592");
  const MachineMemory memory = Read("0::/pod/container/service\n");
  EXPECT_EQ(memory.usable_bytes, 4294967296u);
  EXPECT_EQ(memory.Describe(), "4.0 GiB by the control group");
}

TEST_F(MachineMemoryTest, Version1) {
  Write("memory/memory.limit_in_bytes", "9223372036854771712");
  Write("memory/docker/memory.limit_in_bytes", "2147483648");
  Write("memory/docker/abc/memory.limit_in_bytes", "9223372036854771712");
  EXPECT_EQ(Read("9:name=systemd:/\n4:memory:/docker/abc\n").usable_bytes, 2147483648u);
}

TEST_F(MachineMemoryTest, AGroupWithMoreThanTheMachineHas) {
  Write("memory.max", "99999999999999");
  EXPECT_EQ(Read("0::/\n").usable_bytes, kPhysical);
}

TEST_F(MachineMemoryTest, NonsenseIsNoLimit) {
  const MachineMemory memory = ReadMachineMemory("MemTotal: -1 kB", "/nowhere", "::::\n");
  EXPECT_EQ(memory.usable_bytes, 0u);
  EXPECT_EQ(memory.cgroup_bytes, 0u);
}

TEST(MachineMemory, ThisMachine) {
  const MachineMemory memory = ReadMachineMemory();
  const auto by_sysconf =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  EXPECT_EQ(memory.physical_bytes, by_sysconf);
  EXPECT_GT(memory.usable_bytes, 0u);
  EXPECT_LE(memory.usable_bytes, memory.physical_bytes);
}

}  // namespace
}  // namespace tidepool::compute
