// Fetches a source into the store: resolve, download, verify, look inside, commit.
//
// Threads: one pull a thread; several at once are fine (the same source from two threads or processes: the
// second waits, then finds the files there).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "platform/catalog/catalog.h"
#include "platform/catalog/http_client.h"
#include "platform/catalog/model_files.h"
#include "platform/catalog/pull_monitor.h"
#include "platform/catalog/source.h"
#include "platform/catalog/store.h"

namespace tidepool::platform {

class Puller {
 public:
  Puller(Store& store, const CatalogOptions& options, const std::vector<CatalogueEntry>& catalogue);

  // Everything that can be refused without looking anything up.
  Status CheckRequest(const Source& source, const PullCaller& caller) const;
  // `id`: store under this name; empty: a name made from the source.
  Result<StoredModel> Pull(const Source& source, const std::string& id, const PullCaller& caller,
                           PullMonitor& monitor) const;
  // Forgets what a stopped pull of this source has fetched.
  void DropPartial(const Source& source) const;
  // The catalogue's entry for "name" or "name:tag".
  Result<CatalogueEntry> FindEntry(const std::string& name) const;

 private:
  struct Job;       // one concrete source being pulled
  struct Gathered;  // files ready to be stored

  Result<StoredModel> PullOne(const Source& source, const CatalogueEntry* entry, const std::string& id,
                              const PullCaller& caller, PullMonitor& monitor) const;
  Result<Gathered> Gather(Job& job) const;
  Result<Gathered> GatherHub(Job& job) const;
  Result<Gathered> GatherUrl(Job& job) const;
  Result<Gathered> GatherPypi(Job& job) const;
  Result<Gathered> GatherPath(Job& job) const;
  Result<StoredModel> Finish(Job& job, Gathered gathered) const;

  struct Wanted {
    std::string name, url;
    uint64_t bytes = 0;
    std::string sha256;
  };
  Result<Gathered> FetchAll(Job& job, const std::vector<Wanted>& wanted) const;
  Result<StagedFile> FetchFile(Job& job, const Wanted& wanted, uint64_t done_before) const;
  Result<StagedFile> StageLocal(Job& job, const std::filesystem::path& from, const std::string& name,
                                uint64_t done_before) const;
  bool UnderAllowedRoot(const std::filesystem::path& canonical) const;

  Store& store_;
  const CatalogOptions& options_;
  const std::vector<CatalogueEntry>& catalogue_;
  const HttpClient http_;
};

}  // namespace tidepool::platform
