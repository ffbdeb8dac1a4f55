#include "chips/cpu/node_copies.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "base/check.h"

namespace tidepool::chips::cpu {

class NodeCopies::Range final : public WeightCopies {
 public:
  Range(NodeCopies& owner, const std::byte* data, size_t bytes) : owner_(owner), data_(data), bytes_(bytes) {
    distances_.push_back(0);
  }
  ~Range() override {
    {
      const std::lock_guard lock(owner_.mutex_);
      std::erase(owner_.ranges_, this);
    }
    for (std::byte* copy : copies_) munmap(copy, bytes_);
  }

  bool AddCopy(int node) {
    void* const memory =
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return false;
    madvise(memory, bytes_, MADV_HUGEPAGE);
    (void)PreferNode(memory, bytes_, node);
    copies_.push_back(static_cast<std::byte*>(memory));
    distances_.push_back(copies_.back() - data_);
    return true;
  }

  int count() const override { return static_cast<int>(copies_.size()); }
  void Fill(int copy, uint64_t offset, uint64_t bytes) override {
    CHECK(offset + bytes <= bytes_);
    std::memcpy(copies_[static_cast<size_t>(copy)] + offset, data_ + offset, bytes);
  }
  // Whole pages: those on the border are a neighbour's too.
  void Drop(uint64_t offset, uint64_t bytes) override {
    constexpr uint64_t kPage = 4096;
    CHECK(offset + bytes <= bytes_);
    const uint64_t begin = (offset + kPage - 1) / kPage * kPage, end = (offset + bytes) / kPage * kPage;
    if (begin >= end) return;
    for (std::byte* copy : copies_) madvise(copy + begin, end - begin, MADV_DONTNEED);
  }

  void PreferFirstNode() override { (void)PreferNodeForThisThread(owner_.node_ids_.front()); }

  bool Holds(const std::byte* p) const { return p >= data_ && p < data_ + bytes_; }
  const std::ptrdiff_t* distances() const { return distances_.data(); }

 private:
  NodeCopies& owner_;
  const std::byte* const data_;
  const size_t bytes_;
  std::vector<std::byte*> copies_;
  std::vector<std::ptrdiff_t> distances_;
};

NodeCopies::NodeCopies(const std::vector<NumaNode>& nodes) {
  for (const NumaNode& node : nodes) {
    for (const int cpu : node.cpus) {
      const auto at = static_cast<size_t>(cpu);
      if (node_of_cpu_.size() <= at) node_of_cpu_.resize(at + 1, 0);
      node_of_cpu_[at] = static_cast<int>(node_ids_.size());
    }
    if (!node.cpus.empty()) node_ids_.push_back(node.id);  // nobody reads on a node of memory alone
  }
}

int NodeCopies::NodeOfThisThread() const {
  const int cpu = sched_getcpu();
  return cpu >= 0 && static_cast<size_t>(cpu) < node_of_cpu_.size() ? node_of_cpu_[static_cast<size_t>(cpu)]
                                                                    : 0;
}

const std::ptrdiff_t* NodeCopies::DistancesOf(const std::byte* weights) const {
  const std::lock_guard lock(mutex_);
  for (const Range* range : ranges_) {
    if (range->Holds(weights)) return range->distances();
  }
  return nullptr;
}

Result<std::unique_ptr<WeightCopies>> NodeCopies::Reserve(const std::byte* data, size_t bytes) {
  auto range = std::make_unique<Range>(*this, data, bytes);
  for (size_t node = 1; node < node_ids_.size(); ++node) {
    if (range->AddCopy(node_ids_[node])) continue;
    return Fail(ErrorKind::kUnavailable, "out_of_memory",
                "The system refused " + std::to_string(bytes) +
                    " bytes of address space for a copy of the weights; set pool.numa to interleave.",
                "pool.numa");
  }
  const std::lock_guard lock(mutex_);
  ranges_.push_back(range.get());
  return std::unique_ptr<WeightCopies>(std::move(range));
}

}  // namespace tidepool::chips::cpu
