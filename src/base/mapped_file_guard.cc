#include "base/mapped_file_guard.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <mutex>
#include <utility>

#include "base/log.h"

namespace tidepool {

struct MappedFileGuard::Slot {
  std::atomic<uintptr_t> begin{0};  // 0: free
  std::atomic<uintptr_t> end{0};
  std::atomic<bool> lost{false};
};
MappedFileGuard::Slot MappedFileGuard::slots_[kMostRanges];

static_assert(std::atomic<uintptr_t>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

struct MappedFileGuardHandler {
  static inline struct sigaction before = {};
  static inline uintptr_t page_bytes = 4096;

  static void Install() {
    page_bytes = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = &Handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
  }

  static void Handle(int number, siginfo_t* info, void* context) {
    const int error = errno;
    const auto address = reinterpret_cast<uintptr_t>(info->si_addr);
    for (MappedFileGuard::Slot& slot : MappedFileGuard::slots_) {
      const uintptr_t begin = slot.begin.load(std::memory_order_acquire);
      const uintptr_t end = slot.end.load(std::memory_order_acquire);
      if (begin == 0 || address < begin || address >= end) continue;
      slot.lost.store(true, std::memory_order_release);
      const uintptr_t page = address / page_bytes * page_bytes;
      // A cut takes all that follows; after a failed read nobody wants the rest either.
      void* const mapped = mmap(reinterpret_cast<void*>(page), end - page, PROT_READ,
                                MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (mapped == MAP_FAILED) break;
      errno = error;
      return;  // the instruction is tried again
    }
    if ((before.sa_flags & SA_SIGINFO) != 0 && before.sa_sigaction != nullptr) {
      before.sa_sigaction(number, info, context);
    } else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN) {
      before.sa_handler(number);
    } else {
      signal(SIGBUS, SIG_DFL);  // tried again, it ends the process
    }
    errno = error;
  }
};

MappedFileGuard::MappedFileGuard(const void* begin, size_t bytes) {
  if (bytes == 0) return;
  static std::once_flag installed;
  std::call_once(installed, MappedFileGuardHandler::Install);
  static std::mutex mutex;  // only for who takes which slot
  const std::lock_guard lock(mutex);
  for (Slot& slot : slots_) {
    if (slot.begin.load(std::memory_order_relaxed) != 0) continue;
    const auto address = reinterpret_cast<uintptr_t>(begin);
    slot.lost.store(false, std::memory_order_relaxed);
    slot.end.store(address + bytes, std::memory_order_relaxed);
    slot.begin.store(address, std::memory_order_release);
    slot_ = &slot;
    return;
  }
  LogWarn("a mapped file is not guarded: cutting it would end the server", {{"guarded", kMostRanges}});
}

MappedFileGuard& MappedFileGuard::operator=(MappedFileGuard&& other) noexcept {
  std::swap(slot_, other.slot_);
  return *this;
}

MappedFileGuard::~MappedFileGuard() {
  if (slot_ != nullptr) slot_->begin.store(0, std::memory_order_release);
}

bool MappedFileGuard::lost() const { return slot_ != nullptr && slot_->lost.load(std::memory_order_acquire); }

}  // namespace tidepool
