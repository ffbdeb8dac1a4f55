// A journal segment of any bytes: never a crash, and what is read can be written again.
#include <cstdint>
#include <string>

#include "base/check.h"
#include "platform/ledger/journal.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::platform;
  const std::string_view bytes(reinterpret_cast<const char*>(data), size);
  for (const JournalEntry& entry : ParseSegment(1, bytes)) {
    std::string encoded;
    EncodeUsageRow(entry.row, encoded);
    CHECK(*DecodeUsageRow(encoded) == entry.row);
  }
  // Payloads without their checksum, which a fuzzer cannot guess.
  if (const auto row = DecodeUsageRow(bytes)) {
    std::string encoded;
    EncodeUsageRow(*row, encoded);
    CHECK(*DecodeUsageRow(encoded) == *row);
  }
  return 0;
}
