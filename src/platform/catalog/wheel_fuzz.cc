#include <cstdint>
#include <span>

#include "platform/catalog/wheel.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using tidepool::Status;
  const auto wheel = tidepool::platform::Wheel::FromBytes(std::as_bytes(std::span(data, size)),
                                                          {.max_members = 100, .max_member_bytes = 1 << 20});
  if (!wheel) return 0;
  for (const auto& member : wheel->members()) {
    (void)wheel->Read(member, [](std::span<const std::byte>) { return Status(); });
  }
  return 0;
}
