// CHECK: for broken invariants only. Files, requests, peers and settings never reach a CHECK; they
// get an Error. A failed CHECK prints the condition and the place and aborts.
#pragma once

namespace tidepool {
[[noreturn]] void CheckFailed(const char* condition, const char* file, int line);
}

#define CHECK(condition)                                       \
  do {                                                         \
    if (!(condition)) [[unlikely]] {                           \
      ::tidepool::CheckFailed(#condition, __FILE__, __LINE__); \
    }                                                          \
  } while (0)

#ifdef NDEBUG
#define DCHECK(condition) \
  do {                    \
  } while (0)
#else
#define DCHECK(condition) CHECK(condition)
#endif
