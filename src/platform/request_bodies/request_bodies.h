// What requests said and were answered, for workspaces that turned it on: redacted, sealed under the key
// file, kept for the time of the workspace's rule, found by the usage row of the request.
//
//   Begin (rule on?) -> BodyRecording (while it runs) -> Keep, once the usage row is on disk -> a queue ->
//   redact, seal
//   -> store
//
// Nothing here delays an answer: what the queue, or the memory of all recordings, has no room for is not
// kept, and counted. Turning the rule off, and archiving the workspace, deletes: in the transaction of that
// change everything is out of sight, and the rows go in steps soon after. A change of what is redacted holds
// for what comes after it.
//
// Threads: any. Begin and Take never block; the others wait for the store.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/accounts.h"
#include "platform/request_bodies/recording.h"
#include "platform/store/database.h"

namespace tidepool::platform {

class Redactor;

struct RequestBodiesOptions {
  int64_t max_days = 365;                            // that a workspace may keep them for
  uint64_t max_request_bytes = 256 << 10;            // kept of one request; the rest is cut
  uint64_t max_answer_bytes = 256 << 10;             // and of its answer
  uint64_t max_memory_bytes = 64 << 20;              // of all that run or wait for the store
  uint64_t max_workspace_bytes = uint64_t{1} << 30;  // stored; beyond it the oldest go
  int64_t sweep_every_ms = 60'000;                   // what has expired goes
};

struct StoredBody {
  std::string usage_id;
  int64_t created_ms = 0, expires_ms = 0;
  std::string request;        // its JSON, redacted; cut at a character
  int64_t request_bytes = 0;  // as it was sent
  bool request_cut = false;
  // {"choices": [{"content", "reasoning", "tool_calls": [{"id", "name", "arguments"}]}], "embeddings":
  // {"count", "dimensions"} or null, "scores": [..] or null}, redacted
  nlohmann::ordered_json answer;
  bool answer_cut = false;
  int64_t redactions = 0;  // places that were taken out
};

class RequestBodies final : public BodyKeeper {
 public:
  // All arguments outlive it, and it outlives whatever records (the engine). Hooks itself into `accounts`.
  RequestBodies(store::Database& database, Accounts& accounts, const KeyFile& keys,
                const WallClock& wall_clock, MetricsRegistry& metrics,
                const RequestBodiesOptions& options = {});
  ~RequestBodies() override;  // what waits is written
  RequestBodies(const RequestBodies&) = delete;
  RequestBodies& operator=(const RequestBodies&) = delete;
  static store::MigrationList Migrations();

  // For a request of this caller; nullptr: nothing is kept of it.
  std::shared_ptr<BodyRecording> Begin(const Principal& who, const std::string& request);
  void Take(std::shared_ptr<BodyRecording> recording) override;

  // By the id of the usage row, of this workspace: rights are the caller's to check. kNotFound
  // "no_stored_body".
  Result<StoredBody> Find(const std::string& workspace, const std::string& usage_id) const;
  // `audit` runs in the transaction.
  Status Delete(const std::string& workspace, const std::string& usage_id,
                const std::function<Status(store::Session&)>& audit);
  // Which of these (at most 1000) have one.
  Result<std::set<std::string>> Which(const std::vector<std::string>& usage_ids) const;

  // What has expired, or is beyond max_workspace_bytes, goes, in steps; the thread does so by itself. How
  // many went.
  Result<int64_t> Sweep();
  // Waits until everything taken so far was written or dropped. False: not within `timeout_s`.
  bool Flush(double timeout_s);

 private:
  struct Sealed;
  Status CheckChange(store::Session& session, const Workspace& before, Workspace& after);
  void Run();
  void Write(std::vector<std::shared_ptr<BodyRecording>>& batch);
  Result<Sealed> Seal(const BodyRecording& recording, const BodyRule& rule);
  Result<Redactor*> RedactorOf(const std::string& workspace, const BodyRule& rule);

  store::Database& database_;
  Accounts& accounts_;
  const KeyFile& keys_;
  const WallClock& wall_clock_;
  const RequestBodiesOptions options_;
  const std::shared_ptr<BodyMemory> memory_;
  Counter stored_, dropped_memory_, dropped_rule_, dropped_store_, deleted_, redactions_, cut_;
  Gauge memory_gauge_;

  std::mutex mutex_;
  std::condition_variable wake_, idle_;
  std::deque<std::shared_ptr<BodyRecording>> waiting_;
  uint64_t taken_ = 0, finished_ = 0;
  bool stopping_ = false, sweep_ = true;

  // The thread's own.
  std::unordered_map<std::string, std::unique_ptr<Redactor>> redactors_;
  uint64_t bytes_since_sweep_ = 0;
  std::thread thread_;
};

}  // namespace tidepool::platform
