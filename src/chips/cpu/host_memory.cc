#include <sys/mman.h>

#include <string>

#include "chips/cpu/cpu_ops.h"

namespace tidepool::chips::cpu {

Result<DeviceBuffer> AllocateHostMemory(size_t bytes) {
  constexpr size_t kHugePage = size_t{2} << 20;
  if (bytes == 0) return DeviceBuffer();
  void* data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data == MAP_FAILED) {
    return Fail(ErrorKind::kUnavailable, "out_of_memory",
                "The system refused " + std::to_string(bytes) +
                    " bytes of memory; free some, use a smaller model or lower the memory limit.");
  }
  // A weight pass touches every page once a step: with 4 KiB pages the walk of page tables costs more than
  // the arithmetic. Advice only: a system without huge pages still works.
  if (bytes >= kHugePage) madvise(data, bytes, MADV_HUGEPAGE);
  return DeviceBuffer(data, bytes, [](void* p, size_t n) { munmap(p, n); });
}

}  // namespace tidepool::chips::cpu
