#include "platform/ledger/usage_ledger.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/ids.h"
#include "base/log.h"

namespace tidepool::platform {
namespace {

constexpr auto kRetry = std::chrono::milliseconds(200);
constexpr int64_t kOthersEveryMs = 500;
constexpr size_t kMaxOthersWaiting = 20'000;  // of each kind; beyond it the oldest go

tl::unexpected<Error> NotRecorded() {
  return Fail(ErrorKind::kUnavailable, "usage_not_recorded",
              "the server stopped before it could record this request");
}

int64_t Milliseconds(double seconds) { return static_cast<int64_t>(std::max(0.0, seconds) * 1000 + 0.5); }

}  // namespace

struct MeterState {
  uint64_t number = 0;
  AdmissionRequest request;
  Reservation reservation;
  UsageRow row;  // the journal thread's, from the moment it is told
  std::atomic<int64_t> prompt{0}, cached{0}, output{0}, reasoning{0}, device_us{0};
  std::atomic<int64_t> unjournalled{0};  // output tokens

  BillableTokens tokens() const {
    return {prompt.load(std::memory_order_relaxed), cached.load(std::memory_order_relaxed),
            output.load(std::memory_order_relaxed), reasoning.load(std::memory_order_relaxed)};
  }
};

// ---- meter -------------------------------------------------------------------------------------------

Meter::Meter(UsageLedger& ledger, std::shared_ptr<MeterState> state)
    : ledger_(ledger), state_(std::move(state)) {}

Meter::~Meter() {
  if (!closed_) ledger_.Tell({UsageLedger::Event::Kind::kDropped, state_, {}});
}

int64_t Meter::max_output_tokens() const { return state_->reservation.max_output_tokens; }
const RateState& Meter::rates() const { return state_->reservation.rates; }
const std::string& Meter::row_id() const { return state_->row.id; }
BillableTokens Meter::counted() const { return state_->tokens(); }

void Meter::Count(const BillableTokens& more, int64_t device_us) {
  MeterState& s = *state_;
  s.prompt.fetch_add(more.prompt, std::memory_order_relaxed);
  s.cached.fetch_add(more.cached, std::memory_order_relaxed);
  s.output.fetch_add(more.output, std::memory_order_relaxed);
  s.reasoning.fetch_add(more.reasoning, std::memory_order_relaxed);
  s.device_us.fetch_add(device_us, std::memory_order_relaxed);
  // At half of the interval: the other half is for the write itself.
  const int64_t waiting = s.unjournalled.fetch_add(more.output, std::memory_order_relaxed) + more.output;
  if (waiting * 2 >= ledger_.options_.journal_every_tokens) ledger_.Kick();
}

Billed Meter::billed() const {
  const UsageRow& row = state_->row;
  const auto book = ledger_.books().Version(row.price_version);
  return {.amount_nanos = row.amount_nanos,
          .currency = book != nullptr ? book->currency : PriceBook().currency,
          .billing = row.billing,
          .free_tokens = row.free_tokens};
}

void Meter::Close(UsageStatus status, std::string error_code, const MeterTimes& times, Durable durable) {
  CHECK(!closed_);
  closed_ = true;
  UsageRow& row = state_->row;
  row.finished_ms = ledger_.now_ms();
  row.status = status;
  row.error_code = std::move(error_code);
  row.queue_ms = Milliseconds(times.queue_s);
  row.load_ms = Milliseconds(times.load_s);
  row.prefill_ms = Milliseconds(times.prefill_s);
  row.decode_ms = Milliseconds(times.decode_s);
  row.stall_ms = Milliseconds(times.stall_s);
  ledger_.Tell({UsageLedger::Event::Kind::kClosed, state_, std::move(durable)});
}

// ---- admission ---------------------------------------------------------------------------------------

UsageLedger::UsageLedger(Parts parts, const UsageLedgerOptions& options)
    : parts_(std::move(parts)),
      options_(options),
      open_gauge_(parts_.metrics->gauge("tidepool_ledger_open_meters", "Requests being metered")),
      unposted_gauge_(parts_.metrics->gauge("tidepool_ledger_unposted_rows",
                                            "Usage rows on disk that the store lacks yet")),
      journal_bytes_gauge_(
          parts_.metrics->gauge("tidepool_ledger_journal_bytes", "Disk space of the journal of meters")),
      ready_gauge_(parts_.metrics->gauge("tidepool_ledger_ready", "1: new work can be recorded")),
      rows_total_(parts_.metrics->counter("tidepool_ledger_rows_total", "Usage rows made durable")),
      commit_failures_(parts_.metrics->counter("tidepool_ledger_failed_commits_total",
                                               "Commits of the journal that failed (disk full, lost)")),
      post_failures_(parts_.metrics->counter("tidepool_ledger_failed_posts_total",
                                             "Batches of usage rows that the store did not take")),
      stuck_rows_(parts_.metrics->counter("tidepool_ledger_stuck_rows_total",
                                          "Usage rows that the store refuses; they stay in the journal")),
      tokens_total_(parts_.metrics->counter("tidepool_ledger_tokens_total", "Tokens billed")),
      commit_seconds_(parts_.metrics->histogram(
          "tidepool_ledger_commit_seconds", "Time of one commit of the journal, its fdatasync included",
          {0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5})),
      commit_rows_(parts_.metrics->histogram("tidepool_ledger_commit_rows", "Usage rows that shared a commit",
                                             {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024})),
      next_meter_(parts_.journal->NextMeter()) {
  ready_gauge_.Set(1);
  journal_thread_ = std::thread([this] { RunJournal(); });
  post_thread_ = std::thread([this] { RunPosting(); });
}

UsageLedger::~UsageLedger() { Stop(); }

Status UsageLedger::ready() {
  std::lock_guard lock(ready_mutex_);
  return ready_;
}

void UsageLedger::SetReady(Status status) {
  std::lock_guard lock(ready_mutex_);
  if (ready_.has_value() != status.has_value()) {
    if (status) {
      LogInfo("usage can be recorded again: new work is taken");
    } else {
      LogError("usage cannot be recorded: no new work is taken",
               {{"code", status.error().code}, {"reason", status.error().message}});
    }
  }
  ready_gauge_.Set(status ? 1 : 0);
  ready_ = std::move(status);
}

Status UsageLedger::Check(const AdmissionRequest& request, RateState* rates) {
  TP_TRY(ready());
  return parts_.limiter->Check(request, rates);
}

Result<std::shared_ptr<Meter>> UsageLedger::Admit(const AdmissionRequest& request,
                                                  const std::string& request_id, std::string_view endpoint,
                                                  RateState* rates) {
  TP_TRY(ready());
  TP_ASSIGN(Reservation reservation, parts_.limiter->Reserve(request, rates));
  auto state = std::make_shared<MeterState>();
  state->number = next_meter_.fetch_add(1);
  state->request = request;
  state->reservation = std::move(reservation);
  UsageRow& row = state->row;
  row.id = RandomId("use-", 22);
  row.started_ms = row.finished_ms = now_ms();
  row.request_id = request_id;
  row.payer = request.payer;
  row.model = request.model;
  row.model_version = request.model_version;
  row.endpoint = std::string(endpoint);
  row.batch = request.batch;
  row.price_version = state->reservation.book->version;
  row.status = UsageStatus::kInterrupted;
  auto meter = std::make_shared<Meter>(*this, state);
  Tell({Event::Kind::kOpened, std::move(state), {}});
  return meter;
}

void UsageLedger::Tell(Event event) {
  const bool urgent = event.kind == Event::Kind::kClosed;
  {
    std::lock_guard lock(mutex_);
    if (!stopping_) {
      if (event.kind != Event::Kind::kOpened) closed_.fetch_add(1);
      events_.push_back(std::move(event));
      if (urgent) {
        kicked_ = true;
        wake_.notify_one();
      }
      return;
    }
  }
  // Too late: the next start finds it open in the journal.
  if (event.durable != nullptr) event.durable(NotRecorded());
}

// Without the mutex: the engine thread calls it. A wake-up that is missed costs one tick.
void UsageLedger::Kick() {
  if (kicked_.exchange(true)) return;
  wake_.notify_one();
}

// ---- journal thread ----------------------------------------------------------------------------------

void UsageLedger::RunJournal() {
  const auto tick = std::chrono::milliseconds(std::max<int64_t>(1, options_.journal_every_ms / 2));
  std::vector<Event> events;
  std::vector<uint64_t> posted;
  for (;;) {
    bool stopping = false;
    {
      std::unique_lock lock(mutex_);
      const auto due = std::chrono::steady_clock::now() +
                       (commit_failing_ ? std::min<std::chrono::milliseconds>(tick, kRetry) : tick);
      wake_.wait_until(lock, due, [&] { return stopping_ || (kicked_.load() && !commit_failing_); });
      kicked_ = false;
      std::swap(events, events_);
      std::swap(posted, posted_);
      stopping = stopping_;
    }
    if (!posted.empty()) parts_.journal->Posted(posted);
    posted.clear();
    JournalTurn(events);
    events.clear();
    Status can = parts_.journal->Ready();
    if (can && commit_failing_) {
      can = Fail(Error{ErrorKind::kUnavailable,
                       "usage_not_recordable",
                       "usage cannot be written to disk at the moment, so no new work is taken; see the "
                       "server's log",
                       {},
                       1});
    }
    size_t unposted = 0;
    {
      std::lock_guard lock(post_mutex_);
      unposted = unposted_.size() + posting_;
    }
    if (can && static_cast<int64_t>(unposted) >= options_.max_unposted_rows) {
      can = Fail(
          Error{ErrorKind::kUnavailable,
                "usage_store_behind",
                fmt::format("{} usage rows wait for the store, which does not take them; the limit is {} "
                            "(ledger.max_unposted_rows)",
                            unposted, options_.max_unposted_rows),
                {},
                5});
    }
    SetReady(std::move(can));
    open_gauge_.Set(static_cast<double>(open_.size()));
    unposted_gauge_.Set(static_cast<double>(unposted));
    journal_bytes_gauge_.Set(static_cast<double>(parts_.journal->bytes()));
    if (stopping) return;
  }
}

void UsageLedger::JournalTurn(std::vector<Event>& events) {
  const Nanoseconds now = parts_.clock->now();
  for (Event& event : events) {
    MeterState& state = *event.state;
    if (event.kind == Event::Kind::kOpened) {
      parts_.journal->Open(state.number, state.row);
      open_.emplace(state.number, std::move(event.state));
      continue;
    }
    open_.erase(state.number);
    const bool closed = event.kind == Event::Kind::kClosed;
    if (closed) {
      Settle(state);
      parts_.journal->Close(state.number, state.row);
    } else {
      parts_.limiter->Release(state.reservation);
      UsageRow nothing;  // without an id: no row
      parts_.journal->Close(state.number, nothing);
    }
    held_.push_back({std::move(event.state), std::move(event.durable), now, closed});
  }
  if (!commit_failing_) {  // else what waits would only grow
    std::vector<MeterProgress> progress;
    for (const auto& [number, state] : open_) {
      const BillableTokens tokens = state->tokens();
      if (tokens == state->row.tokens) continue;
      state->row.tokens = tokens;
      state->unjournalled.store(0, std::memory_order_relaxed);
      progress.push_back({number, tokens, state->device_us.load(std::memory_order_relaxed)});
    }
    if (!progress.empty()) parts_.journal->Progress(progress);
  }
  if (parts_.journal->dirty()) Commit();
}

void UsageLedger::Settle(MeterState& state) {
  UsageRow& row = state.row;
  row.tokens = state.tokens();
  row.device_us = state.device_us.load(std::memory_order_relaxed);
  const Settlement settlement = parts_.limiter->Settle(state.reservation, row.status, row.tokens);
  row.free_tokens = settlement.free_tokens;
  row.amount_nanos = static_cast<int64_t>(settlement.priced.amount.nanos);
  row.billing = settlement.priced.billing;
  tokens_total_.Increment(static_cast<double>(row.tokens.total()));
}

void UsageLedger::Commit() {
  const Nanoseconds started = parts_.clock->now();
  const Status committed = parts_.journal->Commit();
  const Nanoseconds now = parts_.clock->now();
  if (!committed) {
    commit_failures_.Increment();
    if (!commit_failing_)
      LogError("the journal of usage cannot be written", {{"reason", committed.error().message}});
    commit_failing_ = true;
    for (Held& held : held_) {
      if (held.durable == nullptr || static_cast<double>(now - held.since) * 1e-9 < options_.finish_hold_s)
        continue;
      std::exchange(held.durable, nullptr)(committed);
    }
    return;
  }
  commit_failing_ = false;
  commit_seconds_.Observe(static_cast<double>(now - started) * 1e-9);
  std::vector<Held> held = std::move(held_);
  held_.clear();
  size_t rows = 0;
  std::vector<uint64_t> dropped;
  {
    std::lock_guard lock(post_mutex_);
    for (const Held& one : held) {
      if (one.row && parts_.sink != nullptr) {
        unposted_.push_back({one.state->number, one.state->row});
      } else {
        dropped.push_back(one.state->number);
        ++settled_;
      }
      rows += one.row ? 1 : 0;
    }
  }
  if (rows > 0) post_wake_.notify_one();
  if (!dropped.empty()) {
    parts_.journal->Posted(dropped);
    flushed_.notify_all();
  }
  rows_total_.Increment(static_cast<double>(rows));
  if (rows > 0) commit_rows_.Observe(static_cast<double>(rows));
  for (Held& one : held) {
    if (one.durable != nullptr) one.durable({});
  }
}

// ---- posting thread ----------------------------------------------------------------------------------

void UsageLedger::RunPosting() {
  const auto gather = std::chrono::milliseconds(options_.post_after_ms);
  auto retry = kRetry;
  Nanoseconds others_at = 0;
  std::vector<Unposted> rows;
  for (;;) {
    bool stopping = false;
    {
      std::unique_lock lock(post_mutex_);
      post_wake_.wait_for(lock, std::chrono::milliseconds(kOthersEveryMs),
                          [&] { return post_stopping_ || !unposted_.empty(); });
      if (!post_stopping_ && !unposted_.empty()) {
        post_wake_.wait_for(lock, gather, [&] { return post_stopping_ || post_urgent_; });
      }
      post_urgent_ = false;
      const auto count = std::min<size_t>(unposted_.size(), static_cast<size_t>(options_.post_batch));
      rows.assign(std::make_move_iterator(unposted_.begin()),
                  std::make_move_iterator(unposted_.begin() + static_cast<ptrdiff_t>(count)));
      unposted_.erase(unposted_.begin(), unposted_.begin() + static_cast<ptrdiff_t>(count));
      posting_ = count;
      stopping = post_stopping_ && rows.empty();
    }
    PostRows(rows);
    const Nanoseconds now = parts_.clock->now();
    if (stopping || now - others_at >= kOthersEveryMs * kMillisecond) {
      others_at = now;
      PostOthers(stopping);
    }
    if (stopping) return;
    // What the store did not take: back to the front, and again in a while.
    std::unique_lock lock(post_mutex_);
    posting_ = 0;
    if (rows.empty()) {
      retry = kRetry;
      continue;
    }
    unposted_.insert(unposted_.begin(), std::make_move_iterator(rows.begin()),
                     std::make_move_iterator(rows.end()));
    rows.clear();
    if (post_stopping_ && parts_.clock->now() >= static_cast<Nanoseconds>(stop_by_s_ * 1e9)) return;
    post_wake_.wait_for(lock, retry, [&] { return post_stopping_; });
    if (post_stopping_) {
      lock.unlock();
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    retry = std::min(retry * 2, std::chrono::milliseconds(2000));
  }
}

// Leaves in `rows` what should be tried again.
void UsageLedger::PostRows(std::vector<Unposted>& rows) {
  if (rows.empty()) return;
  std::vector<UsageRow> batch;
  batch.reserve(rows.size());
  for (const Unposted& one : rows) batch.push_back(one.row);
  const auto done = [this](std::span<const Unposted> ended, bool stored) {
    {
      std::lock_guard lock(mutex_);
      if (stored) {
        for (const Unposted& one : ended) posted_.push_back(one.meter);
      }
    }
    {
      std::lock_guard lock(post_mutex_);
      settled_ += ended.size();
    }
    flushed_.notify_all();
  };
  const Status posted = parts_.sink->Post(batch);
  if (posted) {
    done(rows, true);
    rows.clear();
    return;
  }
  post_failures_.Increment();
  if (posted.error().kind == ErrorKind::kUnavailable || posted.error().kind == ErrorKind::kOverloaded) {
    LogWarn("the store does not take usage rows; they wait on disk",
            {{"rows", rows.size()}, {"reason", posted.error().message}});
    return;
  }
  // One of them is at fault: the others must not wait for it.
  for (const Unposted& one : rows) {
    const Status alone = parts_.sink->Post({&one.row, 1});
    if (!alone) {
      LogError("the store refuses a usage row; it stays in the journal and is tried again at the next start",
               {{"row", one.row.id}, {"request_id", one.row.request_id}, {"reason", alone.error().message}});
      stuck_rows_.Increment();
    }
    done({&one, 1}, alone.has_value());
  }
  rows.clear();
}

void UsageLedger::PostOthers(bool flush) {
  if (parts_.sink == nullptr) return;
  // What the store does not take now is kept for when it does: a quota that was granted twice, or a notice
  // that nobody got, would be the price of an outage.
  const auto post = [](std::string_view what, auto& waiting, auto more, const auto& take) {
    for (auto& one : more) {
      if (waiting.size() >= kMaxOthersWaiting) waiting.pop_front();
      waiting.push_back(std::move(one));
    }
    if (waiting.empty()) return;
    const std::vector<typename std::decay_t<decltype(waiting)>::value_type> batch(waiting.begin(),
                                                                                  waiting.end());
    const Status status = take(batch);
    const bool again = !status && (status.error().kind == ErrorKind::kUnavailable ||
                                   status.error().kind == ErrorKind::kOverloaded);
    if (!status)
      LogWarn(again ? "not stored yet" : "not stored", {{"what", what}, {"reason", status.error().message}});
    if (!again) waiting.clear();
  };
  UsageSink& sink = *parts_.sink;
  post("free quotas", quotas_waiting_, parts_.limiter->TakeNewQuotas(),
       [&](const auto& batch) { return sink.PostQuotas(batch); });
  post("notices", notices_waiting_, parts_.limiter->TakeNotices(),
       [&](const auto& batch) { return sink.PostNotices(batch); });
  post("counts of refusals", refusals_waiting_, parts_.limiter->TakeRefusals(flush),
       [&](const auto& batch) { return sink.PostRefusals(batch); });
}

// ---- the rest ----------------------------------------------------------------------------------------

bool UsageLedger::Flush(double timeout_s) {
  const uint64_t target = closed_.load();
  {
    std::lock_guard lock(mutex_);
    kicked_ = true;
  }
  wake_.notify_one();
  std::unique_lock lock(post_mutex_);
  post_urgent_ = true;
  post_wake_.notify_one();
  return flushed_.wait_for(lock, std::chrono::duration<double>(timeout_s),
                           [&] { return settled_ >= target; });
}

void UsageLedger::Stop(double timeout_s) {
  {
    std::lock_guard lock(mutex_);
    if (stopping_) return;
  }
  Flush(timeout_s);
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  journal_thread_.join();
  for (Held& held : held_) {
    if (held.durable != nullptr) held.durable(NotRecorded());
  }
  stop_by_s_ = static_cast<double>(parts_.clock->now()) * 1e-9 + timeout_s;
  {
    std::lock_guard lock(post_mutex_);
    post_stopping_ = true;
  }
  post_wake_.notify_all();
  post_thread_.join();
  if (!posted_.empty()) parts_.journal->Posted(posted_);
  if (parts_.journal->idle()) {
    if (const Status removed = parts_.journal->RemoveAll(); !removed)
      LogWarn("the journal of usage stays", {{"reason", removed.error().message}});
  }
}

Status UsageLedger::Recover(const JournalRemains& remains, UsageSink& sink, Limiter& limiter,
                            const PriceBooks& books, int64_t now_ms,
                            const std::function<Result<bool>(const std::string& id)>& known) {
  if (remains.closed.empty() && remains.open.empty()) return {};
  std::vector<UsageRow> rows = remains.open;
  std::erase_if(rows, [](const UsageRow& row) { return row.id.empty(); });
  std::vector<UsageRow> priced;
  for (UsageRow& row : rows) {
    TP_ASSIGN(const bool there, known(row.id));
    if (there) continue;
    row.finished_ms = std::max(row.started_ms, std::min(now_ms, row.finished_ms));
    std::shared_ptr<const PriceBook> book = books.Version(row.price_version);
    if (book == nullptr) book = books.Version(0);
    const Settlement settlement = limiter.Account(row.payer, row.model, row.model_version, row.embeds(),
                                                  row.batch, *book, row.status, row.tokens);
    row.free_tokens = settlement.free_tokens;
    row.amount_nanos = static_cast<int64_t>(settlement.priced.amount.nanos);
    row.billing = settlement.priced.billing;
    priced.push_back(row);
  }
  TP_TRY(sink.Post(priced));
  LogWarn("requests that the last run left open are recorded as interrupted", {{"requests", priced.size()}});
  return {};
}

}  // namespace tidepool::platform
