#include "compute/scheduler/trace.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tidepool::compute {

std::string_view TraceKindName(TraceKind kind) {
  switch (kind) {
    case TraceKind::kHost: return "host";
    case TraceKind::kDevice: return "device";
    case TraceKind::kModel: return "model";
    case TraceKind::kRemoveModel: return "remove_model";
    case TraceKind::kUpdateModel: return "update_model";
    case TraceKind::kArrive: return "arrive";
    case TraceKind::kPause: return "pause";
    case TraceKind::kRemove: return "remove";
    case TraceKind::kAdmitted: return "admitted";
    case TraceKind::kGrown: return "grown";
    case TraceKind::kNoRoom: return "no_room";
    case TraceKind::kRoomReturned: return "room_returned";
    case TraceKind::kStepDone: return "step_done";
    case TraceKind::kStepsTaken: return "steps_taken";
    case TraceKind::kTokensTaken: return "tokens_taken";
    case TraceKind::kLoadDone: return "load_done";
    case TraceKind::kLoadFailed: return "load_failed";
    case TraceKind::kLoadStopped: return "load_stopped";
    case TraceKind::kSpillDone: return "spill_done";
    case TraceKind::kRestoreDone: return "restore_done";
    case TraceKind::kWarmed: return "warmed";
    case TraceKind::kPrefetch: return "prefetch";
    case TraceKind::kArena: return "arena";
    case TraceKind::kHostKv: return "host_kv";
    case TraceKind::kCordoned: return "cordoned";
    case TraceKind::kDecide: return "decide";
  }
  return "unknown";
}

// ---- recording

TraceRecorder::TraceRecorder(std::unique_ptr<PoolScheduler> inner, size_t most_records,
                             const PoolPolicyOptions& options)
    : inner_(std::move(inner)), most_records_(most_records), options_(options) {}

void TraceRecorder::Keep(TraceRecord record) {
  const bool setup = record.kind <= TraceKind::kModel;
  begun_ |= !setup;
  if (record.at == 0) record.at = now_;
  now_ = record.at;
  if (setup && !begun_) {
    setup_.push_back(std::move(record));
    return;
  }
  if (records_.size() >= most_records_) {
    complete_ = false;
    records_.pop_front();
  }
  records_.push_back(std::move(record));
}

SchedulerTrace TraceRecorder::trace() const {
  SchedulerTrace trace{
      .records = setup_, .complete = complete_, .policy = std::string(inner_->name()), .options = options_};
  trace.records.insert(trace.records.end(), records_.begin(), records_.end());
  return trace;
}

PoolHostId TraceRecorder::AddHost(const PoolHost& host) {
  TraceRecord record{.kind = TraceKind::kHost};
  record.host = std::make_shared<PoolHost>(host);
  Keep(std::move(record));
  return inner_->AddHost(host);
}
PoolDeviceId TraceRecorder::AddDevice(const PoolDevice& device) {
  TraceRecord record{.kind = TraceKind::kDevice};
  record.added_device = std::make_shared<PoolDevice>(device);
  Keep(std::move(record));
  return inner_->AddDevice(device);
}
void TraceRecorder::AddModel(const PoolModel& model) {
  TraceRecord record{.kind = TraceKind::kModel, .model = model.model};
  record.added_model = std::make_shared<PoolModel>(model);
  Keep(std::move(record));
  inner_->AddModel(model);
}
void TraceRecorder::RemoveModel(PoolModelId model) {
  Keep({.kind = TraceKind::kRemoveModel, .model = model});
  inner_->RemoveModel(model);
}
void TraceRecorder::UpdateModel(const PoolModel& model) {
  TraceRecord record{.kind = TraceKind::kUpdateModel, .model = model.model};
  record.added_model = std::make_shared<PoolModel>(model);
  Keep(std::move(record));
  inner_->UpdateModel(model);
}
void TraceRecorder::Arrive(const PoolJob& job, Nanoseconds now) {
  TraceRecord record{.kind = TraceKind::kArrive, .at = now, .model = job.model, .job = job.job};
  record.arrived = std::make_shared<PoolJob>(job);
  Keep(std::move(record));
  produced_[job.job] = 0;
  inner_->Arrive(job, now);
}
void TraceRecorder::SetPaused(PoolJobId job, bool paused, Nanoseconds now) {
  Keep({.kind = TraceKind::kPause, .at = now, .job = job, .value = paused});
  inner_->SetPaused(job, paused, now);
}
void TraceRecorder::Remove(PoolJobId job, Nanoseconds now) {
  const auto entry = produced_.find(job);
  const int64_t produced = entry == produced_.end() ? 0 : entry->second;
  if (entry != produced_.end()) produced_.erase(entry);
  Keep({.kind = TraceKind::kRemove, .at = now, .job = job, .value = produced});
  inner_->Remove(job, now);
}
void TraceRecorder::Admitted(PoolJobId job, int32_t cached_tokens) {
  Keep({.kind = TraceKind::kAdmitted, .job = job, .value = cached_tokens});
  inner_->Admitted(job, cached_tokens);
}
void TraceRecorder::Grown(PoolJobId job) {
  Keep({.kind = TraceKind::kGrown, .job = job});
  inner_->Grown(job);
}
void TraceRecorder::NoRoom(PoolJobId job) {
  Keep({.kind = TraceKind::kNoRoom, .job = job});
  inner_->NoRoom(job);
}
void TraceRecorder::RoomReturned(PoolDeviceId device) {
  Keep({.kind = TraceKind::kRoomReturned, .device = device});
  inner_->RoomReturned(device);
}
void TraceRecorder::CountProduced(PoolDeviceId device, int32_t steps) {
  const PoolPlan& plan = inner_->plan(device);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const auto entry = produced_.find(plan.sequences[i].job);
    if (entry == produced_.end()) continue;
    const bool decode = static_cast<int32_t>(i) < plan.decodes;
    entry->second += decode ? steps : (steps > 0 && plan.sequences[i].logit_rows == 1 ? 1 : 0);
  }
}
void TraceRecorder::StepDone(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) {
  Keep({.kind = TraceKind::kStepDone, .at = now, .device = device, .value = steps, .more = busy});
  CountProduced(device, steps);
  inner_->StepDone(device, steps, busy, now);
}
void TraceRecorder::StepsTaken(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) {
  Keep({.kind = TraceKind::kStepsTaken, .at = now, .device = device, .value = steps, .more = busy});
  CountProduced(device, steps);
  inner_->StepsTaken(device, steps, busy, now);
}
void TraceRecorder::TokensTaken(PoolJobId job, int32_t tokens) {
  Keep({.kind = TraceKind::kTokensTaken, .job = job, .value = tokens});
  if (const auto entry = produced_.find(job); entry != produced_.end()) entry->second += tokens;
  inner_->TokensTaken(job, tokens);
}
void TraceRecorder::LoadDone(PoolDeviceId device, PoolModelId model, Nanoseconds now) {
  Keep({.kind = TraceKind::kLoadDone, .at = now, .device = device, .model = model});
  inner_->LoadDone(device, model, now);
}
void TraceRecorder::LoadFailed(PoolDeviceId device, PoolModelId model, int32_t segments,
                               uint64_t missing_bytes, Nanoseconds now) {
  Keep({.kind = TraceKind::kLoadFailed,
        .at = now,
        .device = device,
        .model = model,
        .value = segments,
        .more = static_cast<int64_t>(missing_bytes)});
  inner_->LoadFailed(device, model, segments, missing_bytes, now);
}
void TraceRecorder::LoadStopped(PoolDeviceId device, PoolModelId model, int32_t segments, Nanoseconds now) {
  Keep({.kind = TraceKind::kLoadStopped, .at = now, .device = device, .model = model, .value = segments});
  inner_->LoadStopped(device, model, segments, now);
}
void TraceRecorder::SpillDone(PoolJobId job, bool ok, Nanoseconds now) {
  Keep({.kind = TraceKind::kSpillDone, .at = now, .job = job, .value = ok});
  inner_->SpillDone(job, ok, now);
}
void TraceRecorder::RestoreDone(PoolJobId job, bool ok, Nanoseconds now) {
  Keep({.kind = TraceKind::kRestoreDone, .at = now, .job = job, .value = ok});
  inner_->RestoreDone(job, ok, now);
}
void TraceRecorder::Warmed(PoolHostId host, PoolModelId model, bool warm) {
  Keep({.kind = TraceKind::kWarmed, .device = host, .model = model, .value = warm});
  inner_->Warmed(host, model, warm);
}
void TraceRecorder::Prefetch(PoolModelId model, Nanoseconds now) {
  Keep({.kind = TraceKind::kPrefetch, .at = now, .model = model});
  inner_->Prefetch(model, now);
}
void TraceRecorder::SetArena(PoolDeviceId device, uint64_t bytes, Nanoseconds now) {
  Keep({.kind = TraceKind::kArena, .at = now, .device = device, .value = static_cast<int64_t>(bytes)});
  inner_->SetArena(device, bytes, now);
}
void TraceRecorder::SetHostKv(PoolHostId host, uint64_t bytes, Nanoseconds now) {
  Keep({.kind = TraceKind::kHostKv, .at = now, .device = host, .value = static_cast<int64_t>(bytes)});
  inner_->SetHostKv(host, bytes, now);
}
void TraceRecorder::SetCordoned(PoolDeviceId device, bool cordoned, Nanoseconds now) {
  Keep({.kind = TraceKind::kCordoned, .at = now, .device = device, .value = cordoned});
  inner_->SetCordoned(device, cordoned, now);
}
void TraceRecorder::Decide(Nanoseconds now, std::vector<Effect>& effects) {
  const size_t before = effects.size();
  inner_->Decide(now, effects);
  TraceRecord record{.kind = TraceKind::kDecide, .at = now};
  record.effects.assign(effects.begin() + static_cast<ptrdiff_t>(before), effects.end());
  for (const Effect& effect : record.effects) {
    if (effect.kind == EffectKind::kReject) produced_.erase(effect.job);
  }
  Keep(std::move(record));
}

// ---- replaying

namespace {

bool Same(const Effect& a, const Effect& b) {
  return a.kind == b.kind && a.reason == b.reason && a.device == b.device && a.model == b.model &&
         a.job == b.job && a.segments == b.segments && a.tokens == b.tokens;
}

std::string Describe(const std::vector<Effect>& effects) {
  std::string text;
  for (const Effect& e : effects) {
    text += fmt::format("{}{}({}) device {} model {} job {} segments {} tokens {}", text.empty() ? "" : "; ",
                        EffectKindName(e.kind), ReasonName(e.reason), e.device, e.model, e.job, e.segments,
                        e.tokens);
  }
  return text.empty() ? "nothing" : text;
}

void Tell(const TraceRecord& r, PoolScheduler& s) {
  const auto value = static_cast<int32_t>(r.value);
  switch (r.kind) {
    case TraceKind::kHost: s.AddHost(*r.host); break;
    case TraceKind::kDevice: s.AddDevice(*r.added_device); break;
    case TraceKind::kModel: s.AddModel(*r.added_model); break;
    case TraceKind::kRemoveModel: s.RemoveModel(r.model); break;
    case TraceKind::kUpdateModel: s.UpdateModel(*r.added_model); break;
    case TraceKind::kArrive: s.Arrive(*r.arrived, r.at); break;
    case TraceKind::kPause: s.SetPaused(r.job, value != 0, r.at); break;
    case TraceKind::kRemove: s.Remove(r.job, r.at); break;
    case TraceKind::kAdmitted: s.Admitted(r.job, value); break;
    case TraceKind::kGrown: s.Grown(r.job); break;
    case TraceKind::kNoRoom: s.NoRoom(r.job); break;
    case TraceKind::kRoomReturned: s.RoomReturned(r.device); break;
    case TraceKind::kStepDone: s.StepDone(r.device, value, r.more, r.at); break;
    case TraceKind::kStepsTaken: s.StepsTaken(r.device, value, r.more, r.at); break;
    case TraceKind::kTokensTaken: s.TokensTaken(r.job, value); break;
    case TraceKind::kLoadDone: s.LoadDone(r.device, r.model, r.at); break;
    case TraceKind::kLoadFailed:
      s.LoadFailed(r.device, r.model, value, static_cast<uint64_t>(r.more), r.at);
      break;
    case TraceKind::kLoadStopped: s.LoadStopped(r.device, r.model, value, r.at); break;
    case TraceKind::kSpillDone: s.SpillDone(r.job, value != 0, r.at); break;
    case TraceKind::kRestoreDone: s.RestoreDone(r.job, value != 0, r.at); break;
    case TraceKind::kWarmed: s.Warmed(r.device, r.model, value != 0); break;
    case TraceKind::kPrefetch: s.Prefetch(r.model, r.at); break;
    case TraceKind::kArena: s.SetArena(r.device, static_cast<uint64_t>(r.value), r.at); break;
    case TraceKind::kHostKv: s.SetHostKv(r.device, static_cast<uint64_t>(r.value), r.at); break;
    case TraceKind::kCordoned: s.SetCordoned(r.device, value != 0, r.at); break;
    case TraceKind::kDecide: break;
  }
}

}  // namespace

Result<ReplayResult> Replay(const SchedulerTrace& trace, PoolScheduler& scheduler) {
  if (!trace.complete) {
    return Fail(ErrorKind::kInvalid, "trace_incomplete",
                "the trace does not reach back to the start of its scheduler; record with a larger bound",
                "trace");
  }
  ReplayResult result{.equal = true, .records = 0, .decisions = 0, .difference = {}};
  std::vector<Effect> effects;
  for (const TraceRecord& record : trace.records) {
    ++result.records;
    if (record.kind != TraceKind::kDecide) {
      Tell(record, scheduler);
      continue;
    }
    ++result.decisions;
    effects.clear();
    scheduler.Decide(record.at, effects);
    if (std::equal(effects.begin(), effects.end(), record.effects.begin(), record.effects.end(), Same))
      continue;
    result.equal = false;
    result.difference =
        fmt::format("record {} at {:.6f} s: recorded {}, seen {}", result.records,
                    static_cast<double>(record.at) * 1e-9, Describe(record.effects), Describe(effects));
    break;
  }
  return result;
}

Result<ReplayResult> Replay(const SchedulerTrace& trace) {
  if (trace.policy != "tidepool") {
    return Fail(ErrorKind::kInvalid, "unknown_policy",
                fmt::format("the trace was recorded under the policy \"{}\"; only \"tidepool\" is replayed",
                            trace.policy.substr(0, 64)),
                "trace");
  }
  const auto scheduler = MakeTidepoolScheduler(trace.options);
  TP_ASSIGN(ReplayResult result, Replay(trace, *scheduler));
  if (result.decisions == 0)
    return Fail(ErrorKind::kInvalid, "empty_trace", "there is no decision in the trace", "trace");
  return result;
}

std::vector<TraceArrival> ArrivalsOf(const SchedulerTrace& trace) {
  std::vector<TraceArrival> arrivals;
  std::unordered_map<PoolJobId, size_t> at;
  for (const TraceRecord& record : trace.records) {
    if (record.kind == TraceKind::kArrive) {
      at[record.job] = arrivals.size();
      arrivals.push_back({.at = record.at, .job = *record.arrived, .produced = 0, .rejected = false});
    } else if (record.kind == TraceKind::kRemove) {
      if (const auto entry = at.find(record.job); entry != at.end()) {
        arrivals[entry->second].produced = static_cast<int32_t>(record.value);
      }
    } else if (record.kind == TraceKind::kDecide) {
      for (const Effect& effect : record.effects) {
        const auto entry = at.find(effect.job);
        if (effect.kind == EffectKind::kReject && entry != at.end()) arrivals[entry->second].rejected = true;
      }
    }
  }
  return arrivals;
}

}  // namespace tidepool::compute
