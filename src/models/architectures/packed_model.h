// Models whose weights live in a packed file (packed_file.h): written once, mapped ever after.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>

#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/model.h"
#include "models/architectures/packed_file.h"
#include "models/formats/checkpoint.h"

namespace tidepool::architectures {

struct PackOptions {
  LoadOptions load;  // progress and cancellation included
  // Bytes of the new file that may stay in memory (page cache) when it is complete, from its beginning; what
  // is beyond leaves memory as soon as it is on disk.
  uint64_t keep_in_memory_bytes = UINT64_MAX;
};

struct PackReport {
  uint64_t source_bytes = 0;  // of the tensors that were packed
  uint64_t packed_bytes = 0;  // of the file
  double pack_s = 0;          // reading, checking, packing
  double sync_s = 0;          // then until it was safe on disk
};

// Packs the checkpoint's weights into `path`: into "<path>.<random>.tmp" beside it (held by an exclusive
// flock, so that the temporary of a dead process is known by its lock being free), then fsync and rename.
// The file appears whole or not at all, readable by its owner only. Memory: the page cache of the file, which
// is written out while packing goes on; nothing anonymous but conversions of one tensor.
// Errors: as LoadModel; "disk_full" (kUnavailable) before anything is packed; "file_unwritable".
// Threads: any; one at a time per device packs fastest.
Result<PackReport> WritePackedModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                    const PackOptions& options, const std::filesystem::path& path,
                                    const PackedKey& key);

// The model of `checkpoint` over the mapped weights of `file`, which it keeps. No weight is read. Everything
// the model declares must stand in the file's table as declared (name, type, shape, layout, place); else
// kCorrupt "packed_file_foreign". The checkpoint may be closed afterwards.
Result<std::unique_ptr<Model>> OpenPackedModel(const formats::Checkpoint& checkpoint, chips::Device& device,
                                               const LoadOptions& options, std::shared_ptr<PackedFile> file);

}  // namespace tidepool::architectures
