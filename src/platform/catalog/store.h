// The content-addressed store of models on disk.
//
//   blobs/sha256-<hex>            files, read-only, named by what they hold
//   manifests/<name>/<tag>.json   a model: which blobs, under which names (manifest.h)
//   links/<key>/...               links named as the files were, made for the engine when it opens a model
//   partial/<key>/                what a pull has fetched so far; never listed
//   store.lock                    held while manifests or blobs change, across processes
//
// Invariants: a blob holds what its name says (verified before it is renamed into place); a manifest is
// written after its blobs, each by a synced rename, so a crash leaves at most orphans, which the next start
// removes; a model whose blobs are missing is not listed.
//
// Threads: any.
#pragma once

#include <filesystem>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "platform/catalog/catalog.h"
#include "platform/catalog/files.h"

namespace tidepool::platform {

// A file ready to be stored. `staged` is a verified file on the store's disk that is moved in, or empty when
// the blob is there already.
struct StagedFile {
  StoredFile file;
  std::filesystem::path staged;
};

class Store {
 public:
  static Result<std::unique_ptr<Store>> Open(const std::filesystem::path& root, uint64_t max_bytes);

  std::vector<StoredModel> List() const;  // sorted by id
  // By exact id, then ignoring case; no tag: "latest", else the only tag. nullopt: not stored. Several tags:
  // an error.
  Result<std::optional<StoredModel>> Find(std::string_view id) const;
  bool HasBlob(const std::string& sha256, uint64_t bytes) const;  // bytes 0: any size
  std::filesystem::path BlobPath(const std::string& sha256) const;
  uint64_t BlobBytes(const std::string& sha256) const { return SizeOrZero(BlobPath(sha256)); }

  // Moves the staged files in and writes the manifest (replacing one of the same id). kConflict "blob_gone"
  // when a blob that was counted on was removed meanwhile: fetch it and commit again.
  Status Commit(StoredModel& model, const std::vector<StagedFile>& files);
  Status Remove(const std::string& id);
  Result<std::filesystem::path> Materialise(const StoredModel& model) const;

  std::filesystem::path PartialFolder(const std::string& key) const;
  // Refuses with the numbers when `bytes` more do not fit the disk, or the limit of the store.
  Status CheckSpace(uint64_t bytes) const;

 private:
  Store(std::filesystem::path root, uint64_t max_bytes) : root_(std::move(root)), max_bytes_(max_bytes) {}
  std::filesystem::path ManifestPath(const std::string& id) const;
  // What the manifests say. `whole` is false when one could not be read: then nothing is known to be unused.
  struct Scanned {
    std::vector<StoredModel> models;  // complete ones, sorted by id
    std::set<std::string> blobs;  // file names that manifests refer to, those of incomplete models included
    bool whole = true;
  };
  Scanned Scan() const;
  void DropOrphans(const Scanned& scanned) const;
  void DropOldPartials() const;
  Result<File> LockStore() const;
  void Refresh() const;
  static std::optional<StoredModel> Lookup(const std::vector<StoredModel>& models, std::string_view id);

  const std::filesystem::path root_;
  const uint64_t max_bytes_;
  mutable std::mutex mutex_;
  mutable std::vector<StoredModel> models_;  // as last scanned
};

}  // namespace tidepool::platform
