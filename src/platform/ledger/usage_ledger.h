// The meter: a request is admitted against its limits, its tokens are counted as they are scheduled, and at
// its end one row is made durable before its last byte goes out.
//
//   Admit -> Meter.Count (engine thread, after each step) -> Meter.Close -> journal (group commit) ->
//   `durable`
//                                                                       -> store (within a second)
//
// Open meters are journalled every half of `journal_every_tokens` or `journal_every_ms`, so that what a crash
// loses of an open one, the write itself included, stays within one interval. A finish waits for the
// journal's fdatasync only; several that wait share one. Rows go from the journal to the store in batches;
// while the store is away they wait on disk, within bounds, and beyond those new work is refused: tokens are
// never computed that could not be recorded.
//
// Threads: any. The journal thread writes, syncs, settles and calls `durable`; the posting thread talks to
// the store. Meter::Count and Close do not block.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/ledger/billed.h"
#include "platform/ledger/journal.h"
#include "platform/ledger/limiter.h"
#include "platform/ledger/price_book.h"
#include "platform/ledger/usage_row.h"

namespace tidepool::platform {

struct UsageLedgerOptions {
  JournalOptions journal;
  int64_t journal_every_tokens = 64;
  int64_t journal_every_ms = 250;
  int64_t max_unposted_rows = 100'000;  // beyond them nothing new is begun
  double finish_hold_s = 30;            // an answer whose row cannot be written fails after so long
  int64_t post_after_ms = 50;           // rows wait so long for others to share their commit
  int64_t post_batch = 1000;
};

// Where rows end up. Post is idempotent by id and all or nothing; kUnavailable: try again later.
class UsageSink {
 public:
  virtual ~UsageSink() = default;
  virtual Status Post(std::span<const UsageRow> rows) = 0;
  virtual Status PostRefusals(std::span<const Refusal> refusals) = 0;
  virtual Status PostQuotas(std::span<const FreeQuota> granted) = 0;
  virtual Status PostNotices(std::span<const Notice> notices) = 0;
};

struct MeterTimes {
  double queue_s = 0, load_s = 0, prefill_s = 0, decode_s = 0, stall_s = 0;
};

class UsageLedger;
struct MeterState;

// One admitted request. Dropping it unclosed says that it never began: nothing is billed, no row is written.
// Count and Close: one thread at a time.
class Meter {
 public:
  using Durable = std::function<void(const Status&)>;
  Meter(UsageLedger& ledger, std::shared_ptr<MeterState> state);
  ~Meter();
  Meter(const Meter&) = delete;
  Meter& operator=(const Meter&) = delete;

  int64_t max_output_tokens() const;  // of each choice, after limits
  const RateState& rates() const;
  // What was computed since the last call.
  void Count(const BillableTokens& more, int64_t device_us);
  BillableTokens counted() const;
  const std::string& row_id() const;  // of the row it becomes
  // Once. `durable` comes from the journal thread when the row is on disk; with an error if it could not be
  // written for finish_hold_s (it will be, but the answer must not wait for ever) or the ledger stopped.
  void Close(UsageStatus status, std::string error_code, const MeterTimes& times, Durable durable);
  // What it came to: within `durable` and after it.
  Billed billed() const;

 private:
  UsageLedger& ledger_;
  const std::shared_ptr<MeterState> state_;
  bool closed_ = false;
};

class UsageLedger {
 public:
  struct Parts {
    std::unique_ptr<Journal> journal;
    UsageSink* sink = nullptr;  // nullptr: rows end in the journal (for measuring the rest)
    const Clock* clock = nullptr;
    const WallClock* wall = nullptr;
    PriceBooks* books = nullptr;
    Limiter* limiter = nullptr;
    MetricsRegistry* metrics = nullptr;
  };
  // All parts outlive it. What Journal::Open found must have been posted already (Recover does it).
  UsageLedger(Parts parts, const UsageLedgerOptions& options);
  ~UsageLedger();  // Stop()
  UsageLedger(const UsageLedger&) = delete;
  UsageLedger& operator=(const UsageLedger&) = delete;

  // Posts what a crash left: closed rows first, then the open ones, priced by their own book.
  // `known`: which of these ids the store has already.
  static Status Recover(const JournalRemains& remains, UsageSink& sink, Limiter& limiter,
                        const PriceBooks& books, int64_t now_ms,
                        const std::function<Result<bool>(const std::string& id)>& known);

  // A cheap refusal before anything is loaded or tokenized.
  Status Check(const AdmissionRequest& request, RateState* rates = nullptr);
  // `endpoint` "chat.completions", ... The errors of Limiter::Reserve; kUnavailable "usage_not_recordable"
  // while the journal or the store cannot take more. `rates` is filled in any case.
  Result<std::shared_ptr<Meter>> Admit(const AdmissionRequest& request, const std::string& request_id,
                                       std::string_view endpoint, RateState* rates = nullptr);

  // Waits until everything closed before the call is in the store. False: not within `timeout_s`.
  bool Flush(double timeout_s);
  // No meter may be open. Writes and posts what waits (for at most `timeout_s`), joins the threads.
  void Stop(double timeout_s = 10);

  Limiter& limiter() { return *parts_.limiter; }
  PriceBooks& books() { return *parts_.books; }
  int64_t now_ms() const { return parts_.wall->unix_ms(); }

 private:
  friend class Meter;
  // What the journal thread is told.
  struct Event {
    enum class Kind : uint8_t { kOpened, kClosed, kDropped } kind = Kind::kOpened;
    std::shared_ptr<MeterState> state;
    Meter::Durable durable;
  };
  struct Held {  // in the journal's pending records
    std::shared_ptr<MeterState> state;
    Meter::Durable durable;
    Nanoseconds since = 0;
    bool row = false;
  };
  struct Unposted {
    uint64_t meter = 0;
    UsageRow row;
  };

  void Tell(Event event);
  void Kick();
  void RunJournal();
  void JournalTurn(std::vector<Event>& events);
  void Settle(MeterState& state);
  void Commit();
  void RunPosting();
  void PostRows(std::vector<Unposted>& rows);
  void PostOthers(bool flush);
  Status ready();
  void SetReady(Status status);

  const Parts parts_;
  const UsageLedgerOptions options_;
  Gauge open_gauge_, unposted_gauge_, journal_bytes_gauge_, ready_gauge_;
  Counter rows_total_, commit_failures_, post_failures_, stuck_rows_, tokens_total_;
  Histogram commit_seconds_, commit_rows_;

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::atomic<bool> kicked_{false};
  std::vector<Event> events_;
  std::vector<uint64_t> posted_;
  std::atomic<uint64_t> next_meter_;
  std::mutex ready_mutex_;
  Status ready_;

  // journal thread
  std::unordered_map<uint64_t, std::shared_ptr<MeterState>> open_;
  std::vector<Held> held_;
  bool commit_failing_ = false;

  std::mutex post_mutex_;
  std::condition_variable post_wake_, flushed_;
  std::deque<Unposted> unposted_;
  size_t posting_ = 0;  // taken out of unposted_, and not stored yet
  bool post_stopping_ = false, post_urgent_ = false;
  std::atomic<uint64_t> closed_{0};
  uint64_t settled_ = 0;  // under post_mutex_: closed meters that need nothing more from us
  std::atomic<double> stop_by_s_{0};
  // The posting thread's: the store did not take them yet.
  std::deque<FreeQuota> quotas_waiting_;
  std::deque<Notice> notices_waiting_;
  std::deque<Refusal> refusals_waiting_;

  std::thread journal_thread_, post_thread_;
};

}  // namespace tidepool::platform
