#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>

#include "chips/cpu/cpu_ops.h"

namespace tidepool::chips::cpu {

Result<DeviceBuffer> AllocateHostMemory(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes == 0) return DeviceBuffer();
  // Only whole aligned huge pages are huge: without alignment a buffer of 7 MB may have two of them, and the
  // rest costs a fault for every 4 KiB (1.2 ms a MB in a virtual machine, against 0.05 ms).
  const size_t mapped = bytes >= kHugePage ? bytes + kHugePage : bytes;
  void* data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Fail(ErrorKind::kUnavailable, "out_of_memory",
                "The system refused " + std::to_string(bytes) +
                    " bytes of memory; free some, use a smaller model or lower the memory limit.");
  }
  if (mapped > bytes) {
    auto* const begin = static_cast<std::byte*>(data);
    const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(data) % kHugePage) % kHugePage;
    const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t end = (before + bytes + page - 1) / page * page;
    if (before > 0) munmap(begin, before);
    if (end < mapped) munmap(begin + end, mapped - end);
    data = begin + before;
  }
  // A weight pass touches every page once a step: with 4 KiB pages the walk of page tables costs more than
  // the arithmetic. Advice only: a system without huge pages still works.
  if (bytes >= kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
  return DeviceBuffer(data, bytes, [](void* p, size_t n) { munmap(p, n); });
}

}  // namespace tidepool::chips::cpu
