#include "chips/cpu/topology.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>

namespace tidepool::chips::cpu {
namespace {

constexpr int kMostCpus = 4096, kMostNodes = 1024;
constexpr int kPreferred = 1, kInterleave = 3;  // MPOL_... of <linux/mempolicy.h>

std::string ReadLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "node12" -> 12; -1 for other names.
int NodeId(const std::string& name) {
  if (name.size() < 5 || name.size() > 8 || name.compare(0, 4, "node") != 0) return -1;
  if (!std::all_of(name.begin() + 4, name.end(), [](unsigned char c) { return std::isdigit(c) != 0; }))
    return -1;
  const int id = std::atoi(name.c_str() + 4);
  return id < kMostNodes ? id : -1;
}

// As the kernel wants it, which takes the number of bits plus one.
struct NodeMask {
  static constexpr unsigned long kBits = 8 * sizeof(unsigned long);
  unsigned long words[kMostNodes / kBits] = {};
  explicit NodeMask(const std::vector<NumaNode>& nodes) {
    for (const NumaNode& node : nodes) {
      if (node.id < 0 || node.id >= kMostNodes) continue;
      words[static_cast<unsigned long>(node.id) / kBits] |= 1ul
                                                            << static_cast<unsigned long>(node.id) % kBits;
    }
  }
};

}  // namespace

std::vector<int> ParseCpuList(const std::string& text) {
  std::vector<int> cpus;
  const char* at = text.c_str();
  const auto number = [&at](int& value) {
    if (std::isdigit(static_cast<unsigned char>(*at)) == 0) return false;
    char* end = nullptr;
    const unsigned long parsed = std::strtoul(at, &end, 10);
    at = end;
    value = static_cast<int>(std::min<unsigned long>(parsed, kMostCpus));
    return parsed < static_cast<unsigned long>(kMostCpus);
  };
  while (*at != '\0' && *at != '\n') {
    int first = 0;
    if (!number(first)) return {};
    int last = first;
    if (*at == '-') {
      ++at;
      if (!number(last) || last < first) return {};
    }
    for (int cpu = first; cpu <= last; ++cpu) cpus.push_back(cpu);
    if (cpus.size() > static_cast<size_t>(kMostCpus)) return {};
    if (*at == ',')
      ++at;
    else if (*at != '\0' && *at != '\n')
      return {};
  }
  std::sort(cpus.begin(), cpus.end());
  cpus.erase(std::unique(cpus.begin(), cpus.end()), cpus.end());
  return cpus;
}

std::vector<NumaNode> ReadNumaNodes(const std::string& root) {
  // A node of processors alone has nothing to deal pages to. Without the list (an old kernel) all nodes
  // count.
  const std::vector<int> with_memory = ParseCpuList(ReadLine(std::filesystem::path(root) / "has_memory"));
  std::map<int, NumaNode> nodes;
  std::error_code error;
  for (std::filesystem::directory_iterator it(root, error), end; !error && it != end; it.increment(error)) {
    const int id = NodeId(it->path().filename().string());
    if (id < 0) continue;
    if (!with_memory.empty() && !std::binary_search(with_memory.begin(), with_memory.end(), id)) continue;
    nodes[id] = {id, ParseCpuList(ReadLine(it->path() / "cpulist"))};
  }
  std::vector<NumaNode> list;
  for (auto& [id, node] : nodes) list.push_back(std::move(node));
  return list;
}

std::vector<int> AllowedCpus() {
  cpu_set_t mask;
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof mask, &mask) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &mask)) cpus.push_back(cpu);
  }
  return cpus;
}

std::vector<int> PlaceThreads(int threads, const std::vector<int>& allowed,
                              const std::vector<NumaNode>& nodes) {
  std::vector<int> left(allowed);
  std::sort(left.begin(), left.end());
  std::vector<std::vector<int>> groups;
  for (const NumaNode& node : nodes) {
    std::vector<int> own, others;
    std::set_intersection(left.begin(), left.end(), node.cpus.begin(), node.cpus.end(),
                          std::back_inserter(own));
    std::set_difference(left.begin(), left.end(), own.begin(), own.end(), std::back_inserter(others));
    left.swap(others);
    if (!own.empty()) groups.push_back(std::move(own));
  }
  if (!left.empty()) groups.push_back(std::move(left));  // of no node that is known
  std::vector<int> order;
  for (size_t i = 0; order.size() < allowed.size(); ++i) {
    for (const std::vector<int>& group : groups) {
      if (i < group.size()) order.push_back(group[i]);
    }
  }
  std::vector<int> placed;
  for (int thread = 0; thread < threads && !order.empty(); ++thread)
    placed.push_back(order[static_cast<size_t>(thread) % order.size()]);
  return placed;
}

bool PinThisThread(int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  CPU_SET(cpu, &mask);
  return sched_setaffinity(0, sizeof mask, &mask) == 0;
}

bool PreferNode(void* data, size_t bytes, int node) {
  const NodeMask mask(std::vector<NumaNode>{{node, {}}});
  return syscall(SYS_mbind, data, bytes, kPreferred, mask.words, kMostNodes + 1ul, 0u) == 0;
}

bool PreferNodeForThisThread(int node) {
  const NodeMask mask(std::vector<NumaNode>{{node, {}}});
  return syscall(SYS_set_mempolicy, kPreferred, mask.words, kMostNodes + 1ul) == 0;
}

bool InterleaveThisThread(const std::vector<NumaNode>& nodes) {
  const NodeMask mask(nodes);
  return syscall(SYS_set_mempolicy, kInterleave, mask.words, kMostNodes + 1ul) == 0;
}

}  // namespace tidepool::chips::cpu
