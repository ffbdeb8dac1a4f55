// A record of what a PoolScheduler was told and what it said, bounded, in a form that can be replayed: the
// same events given to a fresh scheduler give the same effects, or Replay says where they part.
//
// A trace is JSON, one object a line. The first is {"policy": name, "options": {...}}: which scheduler it
// was. The next ones (host, device, model) say what there is; the others are events {"t": ns, "e": name, ...}
// in order, and a decision {"t": ns, "e": "decide", "fx": [[kind, reason, device, model, job, segments,
// tokens],
// ...]}. Decisions without effects are events too: time passes in them.
#pragma once

#include <cstdint>
#include <deque>
#include <iosfwd>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute {

enum class TraceKind : uint8_t {
  kHost,
  kDevice,
  kModel,
  kRemoveModel,
  kUpdateModel,
  kArrive,
  kPause,
  kRemove,
  kAdmitted,
  kGrown,
  kNoRoom,
  kRoomReturned,
  kStepDone,
  kStepsTaken,
  kTokensTaken,
  kLoadDone,
  kLoadFailed,
  kLoadStopped,
  kSpillDone,
  kRestoreDone,
  kWarmed,
  kPrefetch,
  kArena,
  kHostKv,
  kCordoned,
  kDecide
};
std::string_view TraceKindName(TraceKind kind);

// Fields by kind; those that a kind has no use for stay zero.
struct TraceRecord {
  TraceKind kind = TraceKind::kDecide;
  Nanoseconds at = 0;
  int32_t device = 0;  // or host
  PoolModelId model = 0;
  PoolJobId job = 0;
  int64_t value = 0;  // tokens, steps, segments, bytes, 0 or 1; of a removed job: tokens it had produced
  int64_t more = 0;   // busy time, missing bytes
  std::shared_ptr<const PoolHost> host = {};
  std::shared_ptr<const PoolDevice> added_device = {};
  std::shared_ptr<const PoolModel> added_model = {};
  std::shared_ptr<const PoolJob> arrived = {};
  std::vector<Effect> effects = {};
};

struct SchedulerTrace {
  std::vector<TraceRecord> records;
  bool complete = true;  // from the first event on: only such a trace can be replayed
  std::string policy = "tidepool";
  PoolPolicyOptions options = {};
};

// Passes everything on to `inner` and keeps the last `most_records`. What there was at the beginning (hosts,
// devices, models) is always kept.
class TraceRecorder final : public PoolScheduler {
 public:
  // `options`: what `inner` was made with, for the file.
  TraceRecorder(std::unique_ptr<PoolScheduler> inner, size_t most_records,
                const PoolPolicyOptions& options = {});
  SchedulerTrace trace() const;  // a copy
  PoolScheduler& inner() { return *inner_; }

  std::string_view name() const override { return inner_->name(); }
  PoolHostId AddHost(const PoolHost& host) override;
  PoolDeviceId AddDevice(const PoolDevice& device) override;
  void AddModel(const PoolModel& model) override;
  void RemoveModel(PoolModelId model) override;
  void UpdateModel(const PoolModel& model) override;
  void Arrive(const PoolJob& job, Nanoseconds now) override;
  void SetPaused(PoolJobId job, bool paused, Nanoseconds now) override;
  void Remove(PoolJobId job, Nanoseconds now) override;
  void Admitted(PoolJobId job, int32_t cached_tokens) override;
  void Grown(PoolJobId job) override;
  void NoRoom(PoolJobId job) override;
  void RoomReturned(PoolDeviceId device) override;
  void StepDone(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) override;
  void StepsTaken(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) override;
  void TokensTaken(PoolJobId job, int32_t tokens) override;
  void LoadDone(PoolDeviceId device, PoolModelId model, Nanoseconds now) override;
  void LoadFailed(PoolDeviceId device, PoolModelId model, int32_t segments, uint64_t missing_bytes,
                  Nanoseconds now) override;
  void LoadStopped(PoolDeviceId device, PoolModelId model, int32_t segments, Nanoseconds now) override;
  void SpillDone(PoolJobId job, bool ok, Nanoseconds now) override;
  void RestoreDone(PoolJobId job, bool ok, Nanoseconds now) override;
  void Warmed(PoolHostId host, PoolModelId model, bool warm) override;
  void Prefetch(PoolModelId model, Nanoseconds now) override;
  void SetArena(PoolDeviceId device, uint64_t bytes, Nanoseconds now) override;
  void SetHostKv(PoolHostId host, uint64_t bytes, Nanoseconds now) override;
  void SetCordoned(PoolDeviceId device, bool cordoned, Nanoseconds now) override;
  void Decide(Nanoseconds now, std::vector<Effect>& effects) override;
  const PoolPlan& plan(PoolDeviceId device) const override { return inner_->plan(device); }
  Nanoseconds wake_at() const override { return inner_->wake_at(); }
  DeviceState device_state(PoolDeviceId device, Nanoseconds now) const override {
    return inner_->device_state(device, now);
  }
  PoolCounters counters() const override { return inner_->counters(); }
  int32_t waiting(PoolModelId model) const override { return inner_->waiting(model); }
  int32_t admitted(PoolModelId model) const override { return inner_->admitted(model); }
  void ListWaiting(PoolModelId model, std::vector<PoolJobId>& out) const override {
    inner_->ListWaiting(model, out);
  }

 private:
  void Keep(TraceRecord record);
  void CountProduced(PoolDeviceId device, int32_t steps);

  std::unique_ptr<PoolScheduler> inner_;
  const size_t most_records_;
  const PoolPolicyOptions options_;
  std::vector<TraceRecord> setup_;
  std::deque<TraceRecord> records_;
  bool complete_ = true, begun_ = false;
  Nanoseconds now_ = 0;
  std::unordered_map<PoolJobId, int32_t> produced_;
};

// A trace that breaks the contract of pool_scheduler.h (an answer nobody waits for) fails a CHECK of the
// scheduler: replay what was recorded, not what a stranger sent.
struct ReplayResult {
  bool equal = false;
  size_t records = 0;  // replayed
  size_t decisions = 0;
  std::string difference;  // the first, for people: record, time, expected and seen effects
};
// The trace must be complete. `scheduler` is fresh: of the recorded policy and options, or of others to
// compare.
Result<ReplayResult> Replay(const SchedulerTrace& trace, PoolScheduler& scheduler);
// By a fresh scheduler of the trace's own policy and options. Errors, beside an incomplete trace: a policy
// that is not "tidepool", no decision at all.
Result<ReplayResult> Replay(const SchedulerTrace& trace);

void WriteTrace(const SchedulerTrace& trace, std::ostream& out);
// Errors: a line that is no such record (its number is named), more than a million records or a line over 1
// MiB.
Result<SchedulerTrace> ReadTrace(std::istream& in);

// The requests of a trace: who asked when for what, and how many tokens it got before it was removed.
struct TraceArrival {
  Nanoseconds at = 0;
  PoolJob job;
  int32_t produced = 0;
  bool rejected = false;
};
std::vector<TraceArrival> ArrivalsOf(const SchedulerTrace& trace);

}  // namespace tidepool::compute
