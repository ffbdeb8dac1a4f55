// Prefix caches over a restart: the complete blocks of a pool in one file, most recently used first.
//
// A file is for one model content, one KV layout and the workspaces it names (BlockPoolOptions::content_key);
// a block is found again only by the same workspace and the same tokens. Written beside and renamed into
// place, readable by its owner only (it holds what people wrote); every byte is covered by a checksum, which
// finds damage, not malice: whoever may write the file may change answers, as with the model's own file.
//
// Threads: the pool's.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "chips/device.h"
#include "compute/kv/block_pool.h"

namespace tidepool::compute {

struct PrefixCacheFileStats {
  int32_t blocks = 0;  // written or taken
  int32_t left = 0;    // not: over the limit, no room, or held already
  uint64_t bytes = 0;  // of KV
};

// For BlockPoolOptions::content_key: the digest of the model's weights and whatever else decides its KV, and
// how the KV is laid out.
std::string KvContentKey(std::string_view model_digest, const chips::KvLayout& layout);

// "<32 hex digits>.prefix": one file for one content key.
std::string PrefixCacheFileName(std::string_view content_key);

// Writes at most `max_bytes` of KV; a pool with an empty cache removes the file. Errors: kUnavailable with
// the path and the system's reason (disk full); the file that was there before is then still there.
Result<PrefixCacheFileStats> SavePrefixCache(const BlockPool& pool, const std::filesystem::path& path,
                                             uint64_t max_bytes);

// Fills the pool's cache from the file while the ledger has room; nothing that is there is given up for it.
// kNotFound: no such file. kConflict "prefix_cache_of_another_model". kCorrupt "prefix_cache_damaged":
// damaged or not such a file; the cache is as it was before.
Result<PrefixCacheFileStats> LoadPrefixCache(BlockPool& pool, const std::filesystem::path& path);

namespace internal {
// Tests: writes the right checksums into a file that has a plausible header.
void SealPrefixCacheFile(std::span<std::byte> file);
}  // namespace internal

}  // namespace tidepool::compute
