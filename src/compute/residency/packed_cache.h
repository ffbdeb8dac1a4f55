// The folder of packed files: opened by key, built when missing or damaged, bounded in size.
//
// Files: <key>.weights, <key>.weights.<random>.tmp (being written, under an exclusive flock), <key>.lock
// (held by the one builder, over all processes). An open file has a shared flock, so it is never evicted. Who
// dies leaves no lock: temporaries whose lock is free are removed at Open and before each build.
//
// Threads: any; two builds of one key are one, builds of different keys run side by side (a device packs
// fastest alone).
#pragma once

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "base/result.h"
#include "chips/device.h"
#include "models/architectures/packed_model.h"
#include "models/formats/checkpoint.h"

namespace tidepool::compute {

struct PackedCacheOptions {
  std::filesystem::path folder;  // made when absent, mode 0700
  // Of all packed files together; the least recently opened ones that nobody has open make room. 0:
  // unbounded.
  uint64_t max_bytes = 0;
  // PackOptions::keep_in_memory_bytes of new files: the warm budget.
  uint64_t keep_in_memory_bytes = UINT64_MAX;
};

struct PackedCacheStats {
  uint64_t hits = 0;       // opened as they were
  uint64_t misses = 0;     // packed because there was none
  uint64_t rebuilds = 0;   // packed because what was there was damaged, foreign or of another version
  uint64_t evictions = 0;  // files removed to make room
  uint64_t bytes = 0;      // on disk now
  uint64_t files = 0;
};

struct PackedModel {
  std::unique_ptr<architectures::Model> model;
  std::shared_ptr<architectures::PackedFile> file;  // the model keeps it too
  bool built = false;                               // by this call
  architectures::PackReport report;                 // if built
};

class PackedCache {
 public:
  static Result<std::unique_ptr<PackedCache>> Open(const PackedCacheOptions& options);
  PackedCache(const PackedCache&) = delete;
  PackedCache& operator=(const PackedCache&) = delete;

  // `content` identifies the checkpoint's bytes (PackedKey::content): the digests of its files, joined.
  // Blocks for a build, its own or another's; load.progress is asked meanwhile (kCancelled). Errors of
  // LoadModel and WritePackedModel; "packed_cache_full" (kUnavailable) when max_bytes has no room beside the
  // files in use.
  Result<PackedModel> OpenOrBuild(const formats::Checkpoint& checkpoint, chips::Device& device,
                                  const architectures::LoadOptions& load, const std::string& content);

  // The file turned out damaged (LoadReport::status is kCorrupt): no process opens it again. Who has it
  // mapped keeps it.
  void Discard(const architectures::PackedFile& file);

  PackedCacheStats stats() const;
  const std::filesystem::path& folder() const { return options_.folder; }

 private:
  explicit PackedCache(PackedCacheOptions options) : options_(std::move(options)) {}
  Result<PackedModel> OpenExisting(const formats::Checkpoint& checkpoint, chips::Device& device,
                                   const architectures::LoadOptions& load,
                                   const architectures::PackedKey& key, bool trusted);
  Status MakeRoom(uint64_t bytes, const std::filesystem::path& keep);
  void RemoveStale() const;

  const PackedCacheOptions options_;
  std::atomic<uint64_t> hits_{0}, misses_{0}, rebuilds_{0}, evictions_{0};
};

}  // namespace tidepool::compute
