// Copies of weights in the memory of every further NUMA node (pool.numa = replicate): each core reads those
// of its own node.
//
// The weights themselves (the mapping of a packed file) count as the first node's. For each other node there
// is address space as large, bound to that node, and the kernels add the distance: same offsets, same bytes,
// same results.
//
// Threads: Reserve, Fill and Drop on the threads that bring weights in and out, one at a time per range;
// DistancesOf and NodeOfThisThread on any. A step reads a copy only after all of what it reads was filled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "base/result.h"
#include "chips/cpu/topology.h"
#include "chips/device.h"

namespace tidepool::chips::cpu {

class NodeCopies {
 public:
  // At least two nodes with memory, the first one's first. Refused binding (a container without mbind, a
  // made-up topology): copies lie where the system puts them.
  explicit NodeCopies(const std::vector<NumaNode>& nodes);

  int nodes() const { return static_cast<int>(node_ids_.size()); }
  // 0 for a processor of no node.
  int NodeOfThisThread() const;
  // What is added to an address within reserved weights to get that of each node's copy (the first is 0);
  // nullptr where nothing is reserved. Valid while the reservation is.
  const std::ptrdiff_t* DistancesOf(const std::byte* weights) const;
  // Error "out_of_memory" (kUnavailable): no address space. What is returned must not outlive this.
  Result<std::unique_ptr<WeightCopies>> Reserve(const std::byte* data, size_t bytes);

 private:
  class Range;
  std::vector<int> node_ids_;
  std::vector<int> node_of_cpu_;
  mutable std::mutex mutex_;
  std::vector<const Range*> ranges_;  // few: one for each model
};

}  // namespace tidepool::chips::cpu
