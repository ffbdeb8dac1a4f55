// Answers kept for their clients: stored in the server's store, sealed under the key file, found by their
// workspace, and those that run in the background with nobody connected. A workspace that says so has none
// (ResponsesRule::kNever): what is there goes in the transaction that says it, and nothing comes after it.
//
// Threads: any; calls wait for the store (milliseconds). Callbacks come from the store's writer thread and
// must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/principal.h"
#include "platform/responses/background_run.h"
#include "platform/store/database.h"

namespace tidepool::platform {

class Accounts;
class KeyFile;

struct StoredResponse {
  std::string id;
  std::string previous;  // the response it went on from; empty: none
  bool background = false;
  // "queued" and "in_progress" run; "completed", "incomplete", "failed", "cancelled" have ended.
  std::string status;
  nlohmann::ordered_json body;                                     // as the dialect shows it
  nlohmann::ordered_json input = nlohmann::ordered_json::array();  // the items that this request added
  int64_t created_ms = 0, expires_ms = 0;
};

struct ResponsesOptions {
  int64_t ttl_ms = int64_t{30} * 24 * 3600 * 1000;  // 0: until they are deleted
  int64_t max_stored = 10'000;                      // of one workspace; the oldest go
  int32_t max_background = 64;                      // running at once in one workspace
  int32_t max_chain = 1'000;                        // responses that one goes on from, one after another
  uint64_t max_chain_bytes = 16u << 20;             // of their items together
  uint64_t max_event_bytes = 64u << 20;             // of the events of all background responses
  uint64_t max_run_event_bytes = 8u << 20;          // of one of them
  int32_t max_listeners = 64;                       // of one of them
};

class Responses {
 public:
  // Outlives whoever may still save or end one (the engine); everything runs to its end before.
  virtual ~Responses() = default;

  // All arguments outlive it. Marks what an earlier server left running as failed, and seals what an earlier
  // version stored in clear. `accounts` has the workspaces' rules; nullptr: all may store.
  static Result<std::unique_ptr<Responses>> Open(store::Database& database, const KeyFile& keys,
                                                 Accounts* accounts, const WallClock& wall_clock,
                                                 MetricsRegistry& metrics,
                                                 const ResponsesOptions& options = {});
  static store::MigrationList Migrations();

  // May this caller's workspace store any? Never blocks.
  virtual bool MayStore(const Principal& who) const = 0;
  // kNotFound "unknown_response" also for other workspaces' and for expired ones.
  virtual Result<StoredResponse> Find(const Principal& who, const std::string& id) = 0;
  // The responses that led to `id`, the first one first, `id` last. kTooLarge "chain_too_long".
  virtual Result<std::vector<StoredResponse>> Chain(const Principal& who, const std::string& id) = 0;
  // An answer that has ended. Fills in the expiry. kForbidden "responses_not_stored".
  virtual void SaveLater(const Principal& who, StoredResponse response,
                         std::function<void(const Status&)> done) = 0;
  // Stops it if it runs.
  virtual Status Delete(const Principal& who, const std::string& id) = 0;

  // Stores it as running. kOverloaded "too_many_background"; kForbidden "responses_not_stored".
  virtual Result<std::shared_ptr<BackgroundRun>> Begin(const Principal& who, StoredResponse response) = 0;
  // Stores how it ended, then publishes the last event and ends the run.
  virtual void End(const std::shared_ptr<BackgroundRun>& run, StoredResponse response, std::string last_type,
                   std::string last_event) = 0;
  // One that runs, or has ended and whose events are still kept; nullptr.
  virtual std::shared_ptr<BackgroundRun> FindRun(const Principal& who, const std::string& id) = 0;
  // Ends (as failed) what was begun by those who may not any more.
  virtual void StopForbidden(const std::function<bool(const Principal&)>& may) = 0;
  // All who follow a response come to an end, and nobody follows from now on: before the server drains.
  virtual void EndListening() = 0;
  // Ends what runs in the background (as failed: the server stops), and takes no new. Waits for it, some
  // seconds at most. Before the engine goes.
  virtual void Stop() = 0;
};

}  // namespace tidepool::platform
