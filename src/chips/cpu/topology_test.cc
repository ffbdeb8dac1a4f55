// The machine's shape, from folders made up as /sys/devices/system/node has them.
#include "chips/cpu/topology.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <random>
#include <set>
#include <thread>

#include "chips/cpu/random_weights.h"
#include "chips/cpu/thread_pool.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {
namespace {

namespace fs = std::filesystem;

TEST(Topology, CpuLists) {
  EXPECT_EQ(ParseCpuList("0-3,8,10-11\n"), (std::vector<int>{0, 1, 2, 3, 8, 10, 11}));
  EXPECT_EQ(ParseCpuList("5"), std::vector<int>{5});
  EXPECT_EQ(ParseCpuList("3,1,1-2"), (std::vector<int>{1, 2, 3}));
  for (const char* nonsense :
       {"", "\n", "a", "1-", "-1", "3-1", "1;2", "1,,2", "0-999999999999", "99999999999999999999", " 1"}) {
    EXPECT_TRUE(ParseCpuList(nonsense).empty()) << nonsense;
  }
}

class FakeNodes : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tidepool-nodes-XXXXXX").string();
    root_ = mkdtemp(name.data());
  }
  void TearDown() override { fs::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) const {
    fs::create_directories((root_ / path).parent_path());
    std::ofstream(root_ / path) << text << "\n";
  }
  fs::path root_;
};

TEST_F(FakeNodes, AreReadById) {
  Write("node10/cpulist", "4-5");
  Write("node2/cpulist", "0-1,6");
  Write("node3/cpulist", "");   // memory alone
  Write("node7/cpulist", "7");  // processors alone
  Write("nodes/cpulist", "9");
  Write("node/cpulist", "9");
  Write("node99999999999/cpulist", "9");
  Write("has_memory", "2-3,10");
  const std::vector<NumaNode> nodes = ReadNumaNodes(root_.string());
  ASSERT_EQ(nodes.size(), 3u);
  EXPECT_EQ(nodes[0].id, 2);
  EXPECT_EQ(nodes[0].cpus, (std::vector<int>{0, 1, 6}));
  EXPECT_EQ(nodes[1].id, 3);
  EXPECT_TRUE(nodes[1].cpus.empty());
  EXPECT_EQ(nodes[2].id, 10);
  EXPECT_TRUE(ReadNumaNodes((root_ / "none").string()).empty());
}

TEST(Topology, ThreadsGoToTheNodesInTurn) {
  const std::vector<NumaNode> nodes = {{0, {0, 1, 2, 3}}, {1, {4, 5, 6, 7}}, {2, {}}};
  const std::vector<int> all = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(PlaceThreads(4, all, nodes), (std::vector<int>{0, 4, 1, 5}));
  EXPECT_EQ(PlaceThreads(8, all, nodes), (std::vector<int>{0, 4, 1, 5, 2, 6, 3, 7}));
  EXPECT_EQ(PlaceThreads(3, {2, 3, 7}, nodes), (std::vector<int>{2, 7, 3})) << "only what is allowed";
  EXPECT_EQ(PlaceThreads(3, {1, 9}, nodes), (std::vector<int>{1, 9, 1})) << "more threads than processors";
  EXPECT_EQ(PlaceThreads(2, {0, 1}, {}), (std::vector<int>{0, 1})) << "no nodes are known";
  EXPECT_TRUE(PlaceThreads(2, {}, nodes).empty());
}

TEST(Topology, PinningIsSeenBySystem) {
  const std::vector<int> allowed = AllowedCpus();
  ASSERT_FALSE(allowed.empty());
  std::thread([&] {
    ASSERT_TRUE(PinThisThread(allowed.back()));
    EXPECT_EQ(AllowedCpus(), std::vector<int>{allowed.back()});
    EXPECT_FALSE(PinThisThread(-1));
    EXPECT_FALSE(PinThisThread(1 << 20));
  }).join();
  EXPECT_EQ(AllowedCpus(), allowed) << "of the other thread only";
}

// The workers of a pinned team run on a processor each; the caller's thread stays as it was.
TEST(Topology, PinnedTeams) {
  const std::vector<int> allowed = AllowedCpus();
  ThreadPool pool(3, PlaceThreads(3, allowed, {}));
  std::set<size_t> widths;
  std::mutex mutex;
  for (int round = 0; round < 200; ++round) {
    pool.Run(12, [&](int64_t, int thread) {
      const size_t width = AllowedCpus().size();
      const std::lock_guard lock(mutex);
      if (thread > 0) widths.insert(width);
      std::this_thread::yield();
    });
  }
  for (const size_t width : widths) EXPECT_EQ(width, 1u);
  EXPECT_EQ(AllowedCpus(), allowed);
  DeviceOptions options;
  options.pin_threads = true;
  options.threads = 2;
  EXPECT_TRUE(MakeCpuDevice(options).has_value());
}

TEST(Topology, InterleavingIsInheritedByThreads) {
  const auto policy = [] {
    int mode = -1;
    return syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) == 0 ? mode : -1;
  };
  if (policy() < 0) GTEST_SKIP() << "no memory policies here";
  std::vector<NumaNode> nodes = ReadNumaNodes("/sys/devices/system/node");
  if (nodes.empty()) nodes = {{0, {}}};
  const int before = policy();
  std::thread([&] {
    ASSERT_TRUE(InterleaveThisThread(nodes));
    EXPECT_EQ(policy(), 3);
    std::thread([&] { EXPECT_EQ(policy(), 3); }).join();
    EXPECT_FALSE(InterleaveThisThread({})) << "no node to deal to";
  }).join();
  EXPECT_EQ(policy(), before);
}

// Each processor stands for a node. Once its copy is filled, a thread reads that of its own node: it does not
// see that the weights themselves, the first node's, are changed afterwards, and the first node's thread
// does.
TEST_F(FakeNodes, LinearReadsTheCopyOfItsNode) {
  const std::vector<int> cpus = AllowedCpus();
  if (cpus.size() < 2) GTEST_SKIP() << "one processor";
  Write("node0/cpulist", std::to_string(cpus[0]));
  Write("node1/cpulist", std::to_string(cpus[1]));
  std::mt19937 random(1);
  for (const std::string& set : VectorInstructionSets()) {
    SCOPED_TRACE(set);
    DeviceOptions options;
    options.threads = 1;
    options.instruction_set = set;
    options.replicate_weights = true;
    options.numa_root = root_.string();
    const std::unique_ptr<Device> device = MakeCpuDevice(options).value();
    ASSERT_EQ(device->WeightCopyCount(), 2);
    const WeightSpec spec{DataType::kQ8_0, 600, 256, WeightPrecision::kNative};
    OwnedWeight gate = PackOn(*device, spec, RandomWeights(spec.type, spec.rows, spec.columns, random));
    OwnedWeight up = PackOn(*device, spec, RandomWeights(spec.type, spec.rows, spec.columns, random));
    auto gate_copies = device->ReserveWeightCopies(gate.weight.data, gate.weight.bytes).value();
    auto up_copies = device->ReserveWeightCopies(up.weight.data, up.weight.bytes).value();
    ASSERT_EQ(gate_copies->count(), 1);
    const std::vector<float> x = RandomFloats(20 * 256, 1.0f, random);
    const auto run_on = [&](int cpu, int64_t rows) {
      std::vector<float> out(static_cast<size_t>(3 * rows * 600));
      const auto matrix = [&](int part) { return Matrix{out.data() + part * rows * 600, rows, 600, 600}; };
      std::thread([&] {
        ASSERT_TRUE(PinThisThread(cpu));
        const ConstMatrix in(x.data(), rows, 256, 256);
        const LinearTarget target{.weight = &gate.weight, .out = matrix(0)};
        device->ops().Linear(in, std::span(&target, 1));
        device->ops().GatedLinear(in, gate.weight, up.weight, Activation::kSilu, matrix(2), matrix(1));
      }).join();
      return out;
    };
    const std::vector<float> few = run_on(cpus[0], 1), many = run_on(cpus[0], 20);
    for (const OwnedWeight* owned : {&gate, &up}) {
      auto& copies = owned == &gate ? gate_copies : up_copies;
      const size_t half = owned->weight.bytes / 2 / 64 * 64;
      copies->Fill(0, 0, half);
      copies->Fill(0, half, owned->weight.bytes - half);
      std::memset(owned->buffer.data(), 0, owned->weight.bytes);
    }
    EXPECT_EQ(run_on(cpus[1], 1), few);
    EXPECT_EQ(run_on(cpus[1], 20), many);
    EXPECT_NE(run_on(cpus[0], 20), many);
    gate_copies.reset();  // without a reservation everybody reads the weights themselves
    up_copies.reset();
    EXPECT_EQ(run_on(cpus[1], 20), run_on(cpus[0], 20));
  }
}

TEST_F(FakeNodes, OneNodeHasNoCopies) {
  Write("node0/cpulist", "0-3");
  DeviceOptions options;
  options.threads = 1;
  options.replicate_weights = true;
  options.numa_root = root_.string();
  const std::unique_ptr<Device> device = MakeCpuDevice(options).value();
  EXPECT_EQ(device->WeightCopyCount(), 1);
  const std::byte byte{};
  EXPECT_EQ(device->ReserveWeightCopies(&byte, 1).value(), nullptr);
}

}  // namespace
}  // namespace tidepool::chips::cpu
