#include "platform/responses/responses.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <list>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "platform/accounts/accounts.h"
#include "platform/responses/response_rows.h"

namespace tidepool::platform {
namespace {

// Old rows are looked for at every so many-th write.
constexpr int64_t kDropInterval = 32;
constexpr std::chrono::seconds kStopTime{5};
// Of those whose events are kept.
constexpr size_t kMaxKnownRuns = 1024;

size_t ItemBytes(const StoredResponse& response) {
  const auto output = response.body.find("output");
  return response.input.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).size() +
         (output == response.body.end()
              ? 0
              : output->dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace).size());
}

class StoredResponses final : public Responses {
 public:
  StoredResponses(store::Database& database, const KeyFile& keys, Accounts* accounts,
                  const WallClock& wall_clock, MetricsRegistry& metrics, const ResponsesOptions& options)
      : database_(database), keys_(keys), accounts_(accounts), wall_clock_(wall_clock), options_(options) {
    running_gauge_ = metrics.gauge("tidepool_responses_running", "Background responses being written");
    event_bytes_ = metrics.gauge("tidepool_responses_event_bytes", "Bytes of the events kept of them");
    dropped_ = metrics.counter("tidepool_responses_dropped_total",
                               "Stored responses that expired, or were beyond what a workspace may keep");
    for (const char* end : {"completed", "incomplete", "failed", "cancelled"}) {
      ended_.emplace_back(
          end, metrics.counter("tidepool_responses_total", "Responses that were stored, by how they ended",
                               {{"end", end}}));
    }
    if (accounts_ == nullptr) return;
    accounts_->OnWorkspaceChange([this](store::Session& session, const Workspace&, Workspace& after) {
      return ApplyRule(session, after);
    });
  }

  ~StoredResponses() override {
    {
      const std::lock_guard lock(drop_mutex_);
      closing_ = true;
    }
    // Writes are done in their order: when this one is, nobody calls back here any more.
    (void)database_.Write([](store::Session&) { return Status{}; });
  }

  bool MayStore(const Principal& who) const override {
    return accounts_ == nullptr || accounts_->ResponsesRuleOf(who.workspace) == ResponsesRule::kAsAsked;
  }

  Result<StoredResponse> Find(const Principal& who, const std::string& id) override {
    return database_.Get<StoredResponse>([&](store::Session& session) {
      return ReadResponse(session, keys_, who.workspace, id, wall_clock_.unix_ms());
    });
  }

  Result<std::vector<StoredResponse>> Chain(const Principal& who, const std::string& id) override {
    std::vector<StoredResponse> chain;
    const Status read = database_.Read([&](store::Session& session) -> Status {
      size_t bytes = 0;
      for (std::string next = id; !next.empty(); next = chain.back().previous) {
        if (chain.size() >= static_cast<size_t>(options_.max_chain)) return Fail(TooLong());
        TP_ASSIGN(StoredResponse one,
                  ReadResponse(session, keys_, who.workspace, next, wall_clock_.unix_ms()));
        bytes += ItemBytes(one);
        if (bytes > options_.max_chain_bytes) return Fail(TooLong());
        chain.push_back(std::move(one));
      }
      return {};
    });
    TP_TRY(read);
    std::reverse(chain.begin(), chain.end());
    return chain;
  }

  void SaveLater(const Principal& who, StoredResponse response,
                 std::function<void(const Status&)> done) override {
    Stamp(response);
    Count(response.status);
    SealedResponse sealed(keys_, response);
    database_.WriteLater(
        [this, workspace = who.workspace, response = std::move(response),
         sealed = std::move(sealed)](store::Session& session) -> Status {
          TP_TRY(CheckRule(session, workspace));
          TP_TRY(InsertResponse(session, workspace, response, sealed));
          return Drop(session, workspace);
        },
        [done = std::move(done)](const Status& saved) {
          if (!saved) LogWarn("a response is not stored", {{"reason", saved.error().message}});
          done(saved);
        });
  }

  Status Delete(const Principal& who, const std::string& id) override {
    // Its run first: what it still says updates a row that is not there.
    if (const auto run = FindRun(who, id)) {
      run->Cancel();
      Forget(run);
    }
    const auto deleted = database_.Put<int64_t>(
        [&](store::Session& session) { return DeleteResponse(session, who.workspace, id); });
    TP_TRY(deleted);
    if (*deleted > 0) return {};
    return Fail(
        ErrorKind::kNotFound, "unknown_response",
        fmt::format("There is no response \"{}\" in this workspace; it may have expired.", id.substr(0, 64)),
        "response_id");
  }

  Result<std::shared_ptr<BackgroundRun>> Begin(const Principal& who, StoredResponse response) override {
    Stamp(response);
    auto run = std::make_shared<BackgroundRun>(response.id, who, options_.max_run_event_bytes,
                                               options_.max_listeners);
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) {
        return Fail(Error{ErrorKind::kUnavailable, "draining",
                          "The server is stopping and takes no new work.", "", 5});
      }
      const auto running = std::count_if(runs_.begin(), runs_.end(), [&](const auto& one) {
        return one->workspace() == who.workspace && !one->ended();
      });
      if (running >= options_.max_background) {
        return Fail(Error{ErrorKind::kOverloaded, "too_many_background",
                          fmt::format("{} background responses run in this workspace; wait for one or cancel "
                                      "it (setting responses.max_background).",
                                      running),
                          "background", 5});
      }
      runs_.push_back(run);
    }
    const SealedResponse sealed(keys_, response);
    const Status written = database_.Write([&](store::Session& session) -> Status {
      TP_TRY(CheckRule(session, who.workspace));
      TP_TRY(InsertResponse(session, who.workspace, response, sealed));
      return Drop(session, who.workspace);
    });
    if (!written) {
      Forget(run);
      return Fail(written.error());
    }
    running_gauge_.Add(1);
    return run;
  }

  void End(const std::shared_ptr<BackgroundRun>& run, StoredResponse response, std::string last_type,
           std::string last_event) override {
    Count(response.status);
    SealedResponse sealed(keys_, response);
    database_.WriteLater(
        [response = std::move(response), sealed = std::move(sealed)](store::Session& session) {
          return UpdateResponse(session, response, sealed);
        },
        [this, run, type = std::move(last_type), event = std::move(last_event)](const Status& saved) {
          if (!saved) {
            LogWarn("how a background response ended is not stored",
                    {{"response", run->id()}, {"reason", saved.error().message}});
          }
          run->Publish(type, event);
          run->End();
          run->Release();
          running_gauge_.Add(-1);
          TrimEvents();
        });
  }

  std::shared_ptr<BackgroundRun> FindRun(const Principal& who, const std::string& id) override {
    const std::lock_guard lock(mutex_);
    for (const auto& run : runs_) {
      if (run->id() == id && run->workspace() == who.workspace) return run;
    }
    return nullptr;
  }

  void StopForbidden(const std::function<bool(const Principal&)>& may) override {
    for (const auto& run : Runs()) {
      if (run->ended() || may(run->owner())) continue;
      LogInfo("a background response was stopped: its key or session lost the right to it",
              {{"response", run->id()}, {"key", run->owner().key_id}});
      run->Stop();
    }
  }

  void EndListening() override {
    for (const auto& run : Runs()) run->EndListening();
  }

  void Stop() override {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    const auto runs = Runs();
    for (const auto& run : runs) run->Stop();
    const auto deadline = std::chrono::steady_clock::now() + kStopTime;
    for (const auto& run : runs) {
      while (!run->ended() && std::chrono::steady_clock::now() < deadline)
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      run->Release();
    }
  }

 private:
  static Error TooLong() {
    return Error{ErrorKind::kTooLarge, "chain_too_long",
                 "The responses before this one are too many or too large (settings responses.max_chain and "
                 "responses.max_chain_size); begin a new one with what matters as input.",
                 "previous_response_id", 0};
  }

  Status CheckRule(store::Session& session, const std::string& workspace) const {
    if (accounts_ == nullptr) return {};
    TP_ASSIGN(const bool may, Accounts::ReadMayStoreResponses(session, workspace));
    if (may) return {};
    return Fail(ErrorKind::kForbidden, "responses_not_stored",
                "This workspace stores no responses (stored_responses: never).", "store");
  }

  // On the store's writer thread, in the transaction of a workspace's change.
  Status ApplyRule(store::Session& session, Workspace& after) {
    if (after.responses == ResponsesRule::kAsAsked && !after.archived_ms) return {};
    TP_ASSIGN(after.responses_deleted, ExpireResponses(session, after.id, wall_clock_.unix_ms()));
    session.AfterCommit([this, workspace = after.id] {
      for (const auto& run : Runs()) {
        if (run->workspace() != workspace || run->ended()) continue;
        run->Cancel();
        Forget(run);
      }
      DropLater();
    });
    return {};
  }

  // In steps, so that no other write waits for all of them.
  void DropLater() {
    const std::lock_guard lock(drop_mutex_);
    if (closing_) return;
    const auto gone = std::make_shared<int64_t>(0);
    database_.WriteLater(
        [this, gone](store::Session& session) -> Status {
          TP_ASSIGN(*gone, DropExpired(session, wall_clock_.unix_ms()));
          return {};
        },
        [this, gone](const Status& done) {
          if (!done)
            return LogWarn("expired responses are not deleted yet", {{"reason", done.error().message}});
          dropped_.Increment(static_cast<double>(*gone));
          if (*gone >= kDropAtOnce) DropLater();
        });
  }

  std::list<std::shared_ptr<BackgroundRun>> Runs() {
    const std::lock_guard lock(mutex_);
    return runs_;
  }

  void Stamp(StoredResponse& response) const {
    response.created_ms = wall_clock_.unix_ms();
    response.expires_ms = options_.ttl_ms > 0 ? response.created_ms + options_.ttl_ms : 0;
  }

  void Count(const std::string& status) {
    for (auto& [end, counter] : ended_) {
      if (status == end) counter.Increment();
    }
  }

  // On the writer's thread.
  Status Drop(store::Session& session, const std::string& workspace) {
    if (++writes_ % kDropInterval != 0) return {};
    TP_ASSIGN(const int64_t dropped,
              DropResponses(session, workspace, options_.max_stored, wall_clock_.unix_ms()));
    if (dropped > 0) dropped_.Increment(static_cast<double>(dropped));
    return {};
  }

  void Forget(const std::shared_ptr<BackgroundRun>& run) {
    const std::lock_guard lock(mutex_);
    runs_.remove(run);
  }

  // Of the runs that have ended, the oldest are forgotten when their events are too many.
  void TrimEvents() {
    const std::lock_guard lock(mutex_);
    uint64_t bytes = 0;
    for (const auto& run : runs_) bytes += run->event_bytes();
    for (auto it = runs_.begin();
         it != runs_.end() && (bytes > options_.max_event_bytes || runs_.size() > kMaxKnownRuns);) {
      const bool ended = (*it)->ended();
      if (ended) bytes -= (*it)->event_bytes();
      it = ended ? runs_.erase(it) : std::next(it);
    }
    event_bytes_.Set(static_cast<double>(bytes));
  }

  store::Database& database_;
  const KeyFile& keys_;
  Accounts* const accounts_;
  const WallClock& wall_clock_;
  const ResponsesOptions options_;
  Gauge running_gauge_, event_bytes_;
  Counter dropped_;
  std::vector<std::pair<std::string, Counter>> ended_;
  std::atomic<int64_t> writes_{0};

  std::mutex drop_mutex_;  // of closing_
  bool closing_ = false;

  std::mutex mutex_;
  bool stopping_ = false;
  std::list<std::shared_ptr<BackgroundRun>> runs_;  // the oldest first
};

}  // namespace

Result<std::unique_ptr<Responses>> Responses::Open(store::Database& database, const KeyFile& keys,
                                                   Accounts* accounts, const WallClock& wall_clock,
                                                   MetricsRegistry& metrics,
                                                   const ResponsesOptions& options) {
  TP_TRY(database.Write([](store::Session& session) { return MarkFailed(session); }));
  int64_t some = 0, sealed = 0;
  do {
    TP_ASSIGN(some, database.Put<int64_t>(
                        [&](store::Session& session) { return SealOldResponses(session, keys); }));
    sealed += some;
  } while (some > 0);
  if (sealed > 0)
    LogInfo("responses that an earlier version stored in clear are sealed now", {{"responses", sealed}});
  return std::unique_ptr<Responses>(
      std::make_unique<StoredResponses>(database, keys, accounts, wall_clock, metrics, options));
}

}  // namespace tidepool::platform
