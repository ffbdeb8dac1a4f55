// Mapped files that may be cut, or whose disk may fail, while they are read: without a guard the read is a
// bus error (SIGBUS) and the end of the process; with one, the mapping reads as zeros from the lost page on,
// and says so. What was computed meanwhile is worthless: ask lost() afterwards, before anything is made of
// it.
//
// One handler for the process, installed with the first guard. It does what is safe in a handler: it looks
// through a fixed table of atomics and maps zero pages over the rest of the range (mmap is a plain system
// call). Bus errors elsewhere go to the handler that was there before, or end the process as ever.
//
// A page that ends the file within itself reads as zeros without a signal: compare the file's size too.
//
// Threads: any; a guard outlives all reading of its range, and the mapping outlives the guard.
#pragma once

#include <cstddef>

namespace tidepool {

class MappedFileGuard {
 public:
  // Ranges guarded at once in a process. One more is not guarded, which is said in the log.
  static constexpr size_t kMostRanges = 4096;

  MappedFileGuard() = default;  // guards nothing
  MappedFileGuard(const void* begin, size_t bytes);
  MappedFileGuard(MappedFileGuard&& other) noexcept : slot_(other.slot_) { other.slot_ = nullptr; }
  MappedFileGuard& operator=(MappedFileGuard&& other) noexcept;
  ~MappedFileGuard();

  bool lost() const;

 private:
  struct Slot;
  static Slot slots_[];
  friend struct MappedFileGuardHandler;

  Slot* slot_ = nullptr;
};

}  // namespace tidepool
