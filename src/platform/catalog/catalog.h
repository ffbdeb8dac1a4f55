// Names, files and pulls of models.
//
// The *catalogue* is a shipped data file: name:tag -> sources, licence, shape. The *store* keeps what was
// pulled, content-addressed: blobs/sha256-<hex> and manifests/<name>/<tag>.json. A *pull* is a job that
// fetches into it.
//
// Threads: any. Pulls run on threads of their own; their number is bounded.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace tidepool::platform {

struct StoredFile {
  std::string name;    // as the model's folder had it: "model.gguf", "tokenizer.json"
  std::string sha256;  // hex
  uint64_t bytes = 0;
};

struct StoredModel {
  std::string id;      // "smollm2:135m", "org/repo:Q4_K_M", "my-model:latest"
  std::string source;  // what it was pulled from
  std::vector<StoredFile> files;
  uint64_t bytes = 0;
  int64_t created = 0;  // unix seconds
  std::string licence;  // SPDX if known
  // Read from the files when they were stored:
  std::string format;  // "gguf" or "safetensors"
  std::string architecture;
  std::string quantisation;
  uint64_t parameters = 0;
  int32_t context_length = 0;
  bool generates = true;  // false: embeddings or scores only
  bool ranks = false;     // scores how relevant a text is to a query, and nothing else
};

struct CatalogueEntry {
  std::string id;                    // name:tag
  std::vector<std::string> sources;  // in the order they are tried
  std::string sha256;                // of the (joined) file, if known
  std::string licence;
  std::string family;
  std::string parameters;  // "135M"
  int32_t context_length = 0;
  std::string seen_in;  // where the sources' names were read
};

enum class PullState : uint8_t { kQueued, kRunning, kPaused, kDone, kFailed, kCancelled };
std::string_view PullStateName(PullState state);

struct PullStatus {
  std::string id;      // "pull-..."
  std::string model;   // what was asked for
  std::string result;  // the stored model's id when done
  PullState state = PullState::kQueued;
  std::string phase;  // "resolving", "downloading", "verifying", "storing"
  uint64_t bytes_done = 0;
  uint64_t bytes_total = 0;  // 0: not known yet
  double bytes_per_s = 0;    // over the last seconds; kRunning only
  Error error;               // state == kFailed
  int64_t created = 0;
};

struct CatalogOptions {
  std::filesystem::path home;  // $TIDEPOOL_HOME; the store is home/models
  std::string hub_endpoint;    // Hugging Face compatible; "" = none (setting hub.endpoint)
  std::string hub_token;
  bool allow_private_addresses = false;  // URLs and redirects to private, loopback, link-local addresses
  std::vector<std::filesystem::path>
      allowed_roots;  // paths that callers who do not own the machine may import
  int32_t max_concurrent_pulls = 2;
  int32_t max_pulls_kept = 100;  // finished jobs remembered
  uint64_t max_file_bytes = uint64_t{2} << 40;
  uint64_t max_store_bytes = 0;   // what all models together may take on disk; 0: the disk's free space
  int32_t max_queued_pulls = 64;  // waiting and paused jobs; beyond them kOverloaded
  std::string pip_command = "python3 -m pip";
  int32_t retry_ms = 500;  // wait before the first retry after a cut; doubles with each
};

// Who asks for a pull: pypi: and arbitrary paths are for the machine's owner only (admin key over loopback).
struct PullCaller {
  bool owns_machine = false;
};

class Catalog {
 public:
  virtual ~Catalog() = default;
  static Result<std::unique_ptr<Catalog>> Open(const CatalogOptions& options);

  // The shipped catalogue.
  virtual const std::vector<CatalogueEntry>& catalogue() const = 0;

  // Complete models only, sorted by id.
  virtual std::vector<StoredModel> List() const = 0;
  // Accepts "name", "name:tag" (no tag: "latest", else the only tag). kNotFound lists close names (did you
  // mean).
  virtual Result<StoredModel> Find(std::string_view id) const = 0;
  // Where the engine opens it: a .gguf file, or a folder of links named as the files were.
  virtual Result<std::filesystem::path> Materialise(const StoredModel& model) const = 0;
  // Removes the manifest, and blobs no other manifest uses. The caller has checked that it is not in use.
  virtual Status Remove(std::string_view id) = 0;

  // Starts a pull, or joins the running one of the same model. `name_override`: store under this id.
  virtual Result<PullStatus> StartPull(std::string_view source, std::string_view name_override,
                                       const PullCaller& caller) = 0;
  virtual std::vector<PullStatus> ListPulls() const = 0;
  virtual Result<PullStatus> FindPull(std::string_view id) const = 0;
  virtual Status PausePull(std::string_view id) = 0;  // keeps the bytes
  virtual Status ResumePull(std::string_view id) = 0;
  virtual Status CancelPull(std::string_view id) = 0;  // drops the bytes
};

// The closest of `candidates` to a mistyped name, best first, at most `count`.
std::vector<std::string> CloseNames(std::string_view name, const std::vector<std::string>& candidates,
                                    size_t count = 3);

}  // namespace tidepool::platform
