// Where the machine's cores and memory are: NUMA nodes, and which thread goes where.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tidepool::chips::cpu {

struct NumaNode {
  int id = 0;
  std::vector<int> cpus;  // ascending; empty for a node of memory alone
};

inline constexpr const char* kNodeFolder = "/sys/devices/system/node";

// "0-3,8,10-11" -> {0, 1, 2, 3, 8, 10, 11}, at most 4096 of them; empty for nonsense.
std::vector<int> ParseCpuList(const std::string& text);

// The nodes with memory, by id. `root` is kNodeFolder, an argument so that it can be tested. Empty when
// the system says nothing: one node.
std::vector<NumaNode> ReadNumaNodes(const std::string& root);

// The processors this process may run on.
std::vector<int> AllowedCpus();

// One processor for each of `threads` threads, of those that are `allowed`: node after node in turn, so that
// any number of threads draws on the memory of all nodes. More threads than processors begin anew. Empty when
// nothing is allowed.
std::vector<int> PlaceThreads(int threads, const std::vector<int>& allowed,
                              const std::vector<NumaNode>& nodes);

// Pins the calling thread; false when the system refuses (then it stays where it may run).
bool PinThisThread(int cpu);

// Pages that this thread, and threads it starts from now on, bring into memory are dealt out over `nodes` in
// turn: of private memory and of the page cache alike. False when the system refuses.
bool InterleaveThisThread(const std::vector<NumaNode>& nodes);

// Pages of [data, data + bytes) that are touched from now on come from `node`, as far as it has any. False
// when the system refuses.
bool PreferNode(void* data, size_t bytes, int node);
// The same for what this thread, and threads it starts from now on, bring into memory.
bool PreferNodeForThisThread(int node);

}  // namespace tidepool::chips::cpu
