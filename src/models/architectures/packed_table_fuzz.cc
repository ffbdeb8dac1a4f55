// Any bytes as the head of a packed file. Once as they are, and once with the checksum mended, so that the
// parser behind it is reached.
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/check.h"
#include "models/architectures/packed_file.h"

#define XXH_STATIC_LINKING_ONLY
#include <xxhash.h>

namespace tidepool::architectures {
namespace {

void Parse(std::span<const std::byte> bytes, uint64_t file_bytes) {
  const auto parsed = ParsePackedTable(bytes, file_bytes, "fuzz.weights");
  if (!parsed) {
    CHECK(parsed.error().kind == ErrorKind::kCorrupt && !parsed.error().message.empty());
    return;
  }
  CHECK(parsed->file_bytes() == file_bytes);
  uint64_t end = 0;
  for (const PackedSegment& segment : parsed->segments) {
    CHECK(segment.offset == end && segment.bytes <= parsed->data_bytes - end);
    end += segment.bytes;
  }
  CHECK(end == parsed->data_bytes);
  for (const PackedItem& item : parsed->items) {
    CHECK(item.offset % 64 == 0 && item.offset <= parsed->data_bytes);
    CHECK(item.bytes <= parsed->data_bytes - item.offset);
  }
  // What was read is what would be written.
  PackedTable table = *parsed;
  const std::vector<std::byte> again = SerialisePackedTable(table);
  CHECK(ParsePackedTable(again, table.file_bytes(), "again").has_value());
}

}  // namespace
}  // namespace tidepool::architectures

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tidepool::architectures;  // NOLINT
  const auto* const begin = reinterpret_cast<const std::byte*>(data);
  std::vector<std::byte> bytes(begin, begin + size);
  Parse(bytes, size);
  if (size < kPackedHeaderBytes) return 0;
  // Header fields: 16 table bytes, 24 data offset, 32 data bytes, 56 checksum.
  uint64_t table_bytes = 0, data_offset = 0, data_bytes = 0;
  std::memcpy(&table_bytes, data + 16, 8);
  std::memcpy(&data_offset, data + 24, 8);
  std::memcpy(&data_bytes, data + 32, 8);
  if (table_bytes > size - kPackedHeaderBytes) {
    table_bytes = size - kPackedHeaderBytes;
    std::memcpy(bytes.data() + 16, &table_bytes, 8);
  }
  std::memset(bytes.data() + 56, 0, 8);
  const uint64_t checksum = XXH3_64bits(bytes.data(), kPackedHeaderBytes + table_bytes);
  std::memcpy(bytes.data() + 56, &checksum, 8);
  Parse(bytes, data_offset + data_bytes);
  return 0;
}
