// A packed file: one model's weights in the layout one device's kernels want, kept on disk and mapped.
//
//   header   64 bytes: magic, format version, sizes, XXH3-64 of header and table (with this field zero)
//   table    what it was packed from and for (PackedKey), segments with their XXH3-64, items
//   data     at a multiple of 4096: the segments end to end, each at a multiple of 4096 (model.h:
//   WeightSegment)
//
// Little endian. A file is hostile until the table has been checked: everything that Open hands out lies
// inside the file. Weights are not read by Open; their checksums are compared by whoever brings a segment
// from disk (compute/residency). Any doubt is kCorrupt, and the answer to it is to pack again, never to
// believe.
//
// Threads: immutable after Open but for the flags of checked segments; any thread. Processes share the pages.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file_guard.h"
#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/model.h"

namespace tidepool::architectures {

// Two packed files with equal keys hold the same bytes.
struct PackedKey {
  std::string content;          // identifies the source's bytes: the digests of its files
  std::string device;           // "cpu", "cuda", "simulated"
  std::string instruction_set;  // DeviceInfo::instruction_set
  uint32_t packing_version = 0;
  chips::WeightPrecision precision = chips::WeightPrecision::kNative;

  bool operator==(const PackedKey&) const = default;
  // "<32 hex digits>.weights": of the whole key and the format's version, so that versions live side by side.
  std::string FileName() const;
};
// `content` as above; beyond 4096 bytes a hash stands for it. The KV type is no part of it: it does not
// change weights.
PackedKey MakePackedKey(std::string content, const chips::Device& device, const LoadOptions& options);

struct PackedItem {
  std::string name;
  chips::WeightSpec spec;  // vectors: F32 [1, size]
  bool is_matrix = false;
  uint32_t layout = 0;  // PackedWeight::layout of matrices
  uint64_t offset = 0;  // from the first weight
  uint64_t bytes = 0;
};

struct PackedSegment {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t checksum = 0;  // XXH3-64
};

struct PackedTable {
  PackedKey key;
  uint64_t data_offset = 0;  // of the first weight in the file
  uint64_t data_bytes = 0;
  std::vector<PackedSegment> segments;
  std::vector<PackedItem> items;

  uint64_t file_bytes() const { return data_offset + data_bytes; }
};

inline constexpr uint64_t kPackedHeaderBytes = 64;
// The header and table as they stand in the file, data_offset and checksum filled in. Its length depends on
// names and counts only.
std::vector<std::byte> SerialisePackedTable(PackedTable& table);
// Bytes of header and table that the header claims; kCorrupt when it is no header of this version.
// `header`: the file's first kPackedHeaderBytes bytes.
Result<uint64_t> PackedTableBytes(std::span<const std::byte> header, uint64_t file_bytes,
                                  const std::string& file);
// `bytes`: the file's first PackedTableBytes bytes. `file` is named in errors.
Result<PackedTable> ParsePackedTable(std::span<const std::byte> bytes, uint64_t file_bytes,
                                     const std::string& file);

class PackedFile {
 public:
  // kNotFound when there is none; kCorrupt "packed_file_damaged", "packed_file_version" (another format) or
  // "packed_file_foreign" (another key). `trusted`: this process has just written it, so that its segments
  // need no check.
  static Result<std::shared_ptr<PackedFile>> Open(const std::filesystem::path& path,
                                                  const PackedKey& expected, bool trusted = false);
  ~PackedFile();
  PackedFile(const PackedFile&) = delete;
  PackedFile& operator=(const PackedFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const PackedTable& table() const { return table_; }
  // Read-only mapping of the weights (table().data_bytes): only what compute/residency calls resident may be
  // touched. Should somebody cut the file meanwhile, or its disk fail, the mapping reads as zeros from there
  // on: what was computed counts for nothing unless intact() says so afterwards.
  const std::byte* data() const { return mapping_ + table_.data_offset; }
  // Open for reading, with a shared flock: nobody evicts the file meanwhile.
  int descriptor() const { return descriptor_; }

  // The file has its size, and no page of it was missed. One system call (a fifth of a microsecond).
  bool intact() const;

  bool checked(size_t segment) const { return checked_[segment].load(std::memory_order_acquire); }
  void SetChecked(size_t segment) { checked_[segment].store(true, std::memory_order_release); }

 private:
  PackedFile() = default;

  std::filesystem::path path_;
  PackedTable table_;
  int descriptor_ = -1;
  const std::byte* mapping_ = nullptr;
  MappedFileGuard guard_;
  std::unique_ptr<std::atomic<bool>[]> checked_;
};

}  // namespace tidepool::architectures
