#include "compute/scheduler/pool_world.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

namespace tidepool::compute::pool {

PoolModel TestModel(PoolModelId id, int32_t segments, uint64_t kv_block_bytes) {
  PoolModel model;
  model.model = id;
  model.name = "m" + std::to_string(id);
  model.segment_bytes.assign(static_cast<size_t>(segments), kTestSegment);
  model.kv_block_bytes = kv_block_bytes;
  model.max_sequences = model.max_logit_rows = 32;
  model.profiles = {{.prefill_base_s = 0.0057,
                     .prefill_per_token_s = 22.4e-6,
                     .decode_base_s = 0.00825,
                     .decode_per_context_token_s = 0.08e-6,
                     .decode_per_sequence_s = 103e-6}};
  return model;
}

PoolWorld::PoolWorld(std::unique_ptr<PoolScheduler> scheduler, uint64_t seed) : random_(seed) {
  scheduler_ = std::move(scheduler);
  state_ = dynamic_cast<PoolState*>(scheduler_.get());
}

bool PoolWorld::failed() const { return ::testing::Test::HasFailure(); }

// ---- what there is

PoolHostId PoolWorld::AddHost(const PoolHost& host) {
  hosts_.push_back(host);
  host_used_.push_back(0);
  return scheduler_->AddHost(host);
}

PoolDeviceId PoolWorld::AddDevice(const PoolDevice& device) {
  DeviceInfo& added = devices_.emplace_back();
  added.device = device;
  added.arena = device.arena_bytes;
  return scheduler_->AddDevice(device);
}

void PoolWorld::AddModel(const PoolModel& model) {
  models_[model.model] = model;
  scheduler_->AddModel(model);
  Check("AddModel");
}

bool PoolWorld::RemoveModel(PoolModelId model) {
  for (const DeviceInfo& device : devices_) {
    if ((device.run && device.run->plan.model == model) || (device.load && device.load->model == model))
      return false;
  }
  for (auto entry = live.begin(); entry != live.end();) {
    const JobInfo& job = entry->second;
    ++entry;
    if (job.job.model == model) Cancel(job.job.job);
  }
  if (!moves_.empty()) return false;
  scheduler_->RemoveModel(model);
  for (DeviceInfo& device : devices_) {
    device.landed.erase(model);
    CountWeights(device);
  }
  models_.erase(model);
  Check("RemoveModel");
  return true;
}

void PoolWorld::UpdateModel(const PoolModel& model) {
  models_[model.model] = model;
  scheduler_->UpdateModel(model);
  Check("UpdateModel");
}

uint64_t PoolWorld::Prefix(PoolModelId model, int32_t segments) const {
  const auto& bytes = ModelAt(model).segment_bytes;
  uint64_t sum = 0;
  for (int32_t i = 0; i < segments; ++i) sum += bytes[static_cast<size_t>(i)];
  return sum;
}

// What is there or is to land, of one file once.
void PoolWorld::CountWeights(DeviceInfo& device) {
  std::map<uint64_t, uint64_t> of_file;
  device.weight_bytes = 0;
  for (const auto& [id, landed] : device.landed) {
    const bool loading = device.load && device.load->model == id;
    const uint64_t bytes = Prefix(id, loading ? device.load->to : landed);
    const uint64_t file = ModelAt(id).weights_id;
    if (file == 0) {
      device.weight_bytes += bytes;
    } else {
      of_file[file] = std::max(of_file[file], bytes);
    }
  }
  for (const auto& [file, bytes] : of_file) device.weight_bytes += bytes;
}

// Segments that another model of its file holds.
int32_t PoolWorld::Shared(const DeviceInfo& device, PoolModelId model) const {
  const uint64_t file = ModelAt(model).weights_id;
  int32_t most = 0;
  for (const auto& [id, landed] : device.landed) {
    if (file != 0 && id != model && ModelAt(id).weights_id == file) most = std::max(most, landed);
  }
  return most;
}

uint64_t PoolWorld::Kv(const JobInfo& job, int32_t tokens) const {
  return static_cast<uint64_t>((tokens + kBlockTokens - 1) / kBlockTokens) *
         ModelAt(job.job.model).kv_block_bytes;
}

int32_t PoolWorld::resident(PoolDeviceId device, PoolModelId model) const {
  const auto& landed = devices_[static_cast<size_t>(device)].landed;
  const auto entry = landed.find(model);
  return entry == landed.end() ? 0 : entry->second;
}

// ---- events

void PoolWorld::Arrive(PoolJob job, int32_t output) {
  ++events_;
  TellSteps();
  JobInfo info{.job = job, .output = output, .prompt = job.prompt_tokens, .arrived = now_, .served = now_};
  live[job.job] = info;
  scheduler_->Arrive(job, now_);
  Check("Arrive");
}

void PoolWorld::Cancel(PoolJobId id) {
  ++events_;
  const auto entry = live.find(id);
  if (entry == live.end()) return;
  JobInfo& job = entry->second;
  bool moving = false;
  for (Move& move : moves_) {
    if (move.job != id) continue;
    move.device_bytes = job.device_bytes;
    move.host_bytes = job.host_bytes;
    moving = true;
  }
  if (!moving) {
    SetReserved(job, job.device, 0);
    if (job.host_bytes > 0) host_used_[static_cast<size_t>(At(job.device).device.host)] -= job.host_bytes;
  }
  scheduler_->Remove(id, now_);
  live.erase(entry);
  Check("Remove");
}

void PoolWorld::Pause(PoolJobId id, bool paused) {
  ++events_;
  live.at(id).paused = paused;
  scheduler_->SetPaused(id, paused, now_);
  Check("SetPaused");
}

void PoolWorld::SetArena(PoolDeviceId device, uint64_t bytes) {
  ++events_;
  At(device).arena = bytes;
  scheduler_->SetArena(device, bytes, now_);
  Check("SetArena");
}

void PoolWorld::SetHostKv(PoolHostId host, uint64_t bytes) {
  ++events_;
  hosts_[static_cast<size_t>(host)].kv_bytes = bytes;
  scheduler_->SetHostKv(host, bytes, now_);
  Check("SetHostKv");
}

void PoolWorld::SetCordoned(PoolDeviceId device, bool cordoned) {
  ++events_;
  At(device).cordoned = cordoned;
  scheduler_->SetCordoned(device, cordoned, now_);
  Check("SetCordoned");
}

void PoolWorld::ReturnRoom() {
  ++events_;
  owes_room_ = false;
  for (size_t device = 0; device < devices_.size(); ++device) {
    scheduler_->RoomReturned(static_cast<PoolDeviceId>(device));
  }
}

// ---- effects

void PoolWorld::Decide() {
  for (int32_t round = 0;; ++round) {
    ASSERT_LT(round, 2000) << "never comes to rest";
    effects_.clear();
    scheduler_->Decide(now_, effects_);
    if (state_ != nullptr) {
      const std::string wrong = state_->CheckDecision(now_);
      ASSERT_TRUE(wrong.empty()) << wrong << ", event " << events_;
    }
    if (effects_.empty()) break;
    for (const Effect& effect : effects_) {
      if (keep_log) log.push_back(effect);
      ++counts[static_cast<size_t>(effect.kind)];
      Digest(static_cast<uint64_t>(effect.kind) << 32 | static_cast<uint64_t>(effect.device + 1));
      Digest(effect.model << 20 ^ effect.job);
      Digest(static_cast<uint64_t>(effect.segments) << 32 | static_cast<uint32_t>(effect.tokens));
      Carry(effect);
      if (failed()) return;
    }
    Check("Decide");
    if (failed()) return;
  }
}

void PoolWorld::SetReserved(JobInfo& job, PoolDeviceId device, int32_t tokens) {
  const uint64_t bytes = Kv(job, tokens);
  if (device >= 0) At(device).kv_bytes += bytes - job.device_bytes;
  job.device_bytes = bytes;
  job.reserved = tokens;
}

bool PoolWorld::InRun(PoolJobId id) const {
  for (const DeviceInfo& device : devices_) {
    if (!device.run) continue;
    for (const PlannedTokens& planned : device.run->plan.sequences) {
      if (planned.job == id) return true;
    }
  }
  return false;
}

void PoolWorld::Carry(const Effect& effect) {
  const std::string what = std::string(EffectKindName(effect.kind)) + " (" +
                           std::string(ReasonName(effect.reason)) + ") of job " + std::to_string(effect.job) +
                           ", model " + std::to_string(effect.model) + ", device " +
                           std::to_string(effect.device) + ", event " + std::to_string(events_);
  SCOPED_TRACE(what);
  JobInfo* job = nullptr;
  if (effect.job != 0) {
    ASSERT_TRUE(live.contains(effect.job)) << "a job that is gone";
    job = &live.at(effect.job);
    ASSERT_EQ(job->job.model, effect.model);
  }
  switch (effect.kind) {
    case EffectKind::kAdmit: {
      ASSERT_EQ(job->where, Where::kWaiting);
      ASSERT_FALSE(job->paused);
      ASSERT_GE(effect.tokens, 1);
      ASSERT_LE(effect.tokens, job->job.prompt_tokens + std::max(job->job.max_output_tokens, 1));
      if (Fault(faults.no_room)) {
        owes_room_ = true;
        scheduler_->NoRoom(effect.job);
        break;
      }
      job->device = effect.device;
      SetReserved(*job, effect.device, effect.tokens);
      job->where = Where::kActive;
      const bool may_cache = !job->job.prompt_logits && ModelAt(effect.model).causal;
      job->computed = may_cache && Below(4) == 0 ? Below(static_cast<uint64_t>(job->prompt)) : 0;
      scheduler_->Admitted(effect.job, job->computed);
      break;
    }
    case EffectKind::kGrow:
      ASSERT_EQ(job->where, Where::kActive);
      ASSERT_EQ(job->device, effect.device);
      ASSERT_GT(effect.tokens, job->reserved);
      if (Fault(faults.no_room)) {
        owes_room_ = true;
        scheduler_->NoRoom(effect.job);
        break;
      }
      SetReserved(*job, effect.device, effect.tokens);
      scheduler_->Grown(effect.job);
      break;
    case EffectKind::kRun: StartRun(effect); break;
    case EffectKind::kYield: {
      auto& run = At(effect.device).run;
      ASSERT_TRUE(run.has_value());
      const auto taken = static_cast<int32_t>((now_ - run->began) / run->step) + 1;
      run->steps = std::min(run->steps, taken);
      run->ends = run->began + run->step * run->steps;
      break;
    }
    case EffectKind::kLoad: StartLoad(effect); break;
    case EffectKind::kStopLoad: {
      auto& device = At(effect.device);
      ASSERT_TRUE(device.load.has_value());
      ASSERT_EQ(device.load->model, effect.model);
      const Load load = *device.load;
      device.load.reset();
      const int32_t landed = std::max(load.from + Below(static_cast<uint64_t>(load.to - load.from + 1)),
                                      Shared(device, load.model));
      device.landed[load.model] = landed;
      CountWeights(device);
      scheduler_->LoadStopped(effect.device, load.model, landed, now_);
      break;
    }
    case EffectKind::kEvict: {
      auto& device = At(effect.device);
      ASSERT_FALSE(device.load.has_value() && device.load->model == effect.model) << "loading";
      ASSERT_FALSE(device.run.has_value() && device.run->plan.model == effect.model) << "running";
      ASSERT_LT(effect.segments, device.landed[effect.model]);
      const PoolModel& model = ModelAt(effect.model);
      const bool drain = device.kv_bytes + device.weight_bytes > device.arena || device.cordoned;
      ASSERT_TRUE(!model.pinned || drain)
          << "pinned; used " << device.kv_bytes + device.weight_bytes << " of " << device.arena << Describe();
      ASSERT_TRUE(drain || now_ - device.landed_at[effect.model] >= model.min_resident) << "too early";
      device.landed[effect.model] = effect.segments;
      CountWeights(device);
      break;
    }
    case EffectKind::kSpill: {
      ASSERT_EQ(job->where, Where::kActive);
      ASSERT_EQ(job->device, effect.device);
      ASSERT_FALSE(InRun(effect.job)) << "spilled while it is computed";
      if (Fault(faults.spill_refused)) {
        scheduler_->SpillDone(effect.job, false, now_);
        break;
      }
      const PoolHostId host = At(effect.device).device.host;
      job->where = Where::kSpilling;
      job->host_bytes = Kv(*job, job->computed);
      host_used_[static_cast<size_t>(host)] += job->host_bytes;
      ASSERT_LE(host_used_[static_cast<size_t>(host)], hosts_[static_cast<size_t>(host)].kv_bytes)
          << "more KV than the host may hold";
      moves_.push_back({.job = effect.job,
                        .device = effect.device,
                        .spill = true,
                        .host = host,
                        .ends = now_ + (1 + Below(50)) * kMillisecond});
      break;
    }
    case EffectKind::kRestore: {
      ASSERT_EQ(job->where, Where::kSpilled);
      ASSERT_FALSE(job->paused);
      ASSERT_EQ(At(job->device).device.host, At(effect.device).device.host) << "its KV is at another host";
      ASSERT_GE(effect.tokens, job->computed);
      job->where = Where::kRestoring;
      job->device = effect.device;
      SetReserved(*job, effect.device, effect.tokens);
      moves_.push_back({.job = effect.job,
                        .device = effect.device,
                        .spill = false,
                        .host = At(effect.device).device.host,
                        .ends = now_ + (1 + Below(50)) * kMillisecond});
      break;
    }
    case EffectKind::kDrop: {
      ASSERT_TRUE(job->where == Where::kActive || job->where == Where::kSpilled);
      ASSERT_FALSE(InRun(effect.job));
      if (job->where == Where::kActive) SetReserved(*job, job->device, 0);
      if (job->host_bytes > 0) {
        host_used_[static_cast<size_t>(At(job->device).device.host)] -= job->host_bytes;
        job->host_bytes = 0;
      }
      job->where = Where::kWaiting;
      job->reserved = job->computed = 0;
      job->prompt = job->job.prompt_tokens + job->produced;
      break;
    }
    case EffectKind::kReject: {
      ASSERT_EQ(job->where, Where::kWaiting);
      ASSERT_NE(effect.reason, Reason::kNone);
      if (effect.reason == Reason::kOverloaded || effect.reason == Reason::kQuarantined) {
        ASSERT_GT(effect.retry_after_s, 0);
      }
      rejected[effect.job] = {effect, now_};
      live.erase(effect.job);
      break;
    }
  }
}

void PoolWorld::CheckPlan(const PoolPlan& plan, PoolDeviceId id) {
  const PoolModel& model = ModelAt(plan.model);
  int32_t tokens = 0, rows = 0;
  std::set<PoolJobId> seen;
  ASSERT_FALSE(plan.sequences.empty());
  ASSERT_LE(plan.sequences.size(), static_cast<size_t>(model.max_sequences));
  ASSERT_GE(plan.steps, 1);
  for (size_t i = 0; i < plan.sequences.size(); ++i) {
    const PlannedTokens& planned = plan.sequences[i];
    ASSERT_TRUE(live.contains(planned.job)) << "a job that is gone";
    const JobInfo& job = live.at(planned.job);
    ASSERT_TRUE(seen.insert(planned.job).second);
    ASSERT_EQ(job.job.model, plan.model);
    ASSERT_EQ(job.where, Where::kActive);
    ASSERT_EQ(job.device, id);
    ASSERT_FALSE(job.paused);
    ASSERT_EQ(planned.begin, job.computed);
    ASSERT_GE(planned.count, 1);
    const bool decode = job.computed >= job.prompt;
    ASSERT_EQ(planned.spare, decode ? job.reserved - job.computed - 1 : 0);
    ASSERT_EQ(decode, i < static_cast<size_t>(plan.decodes));
    ASSERT_LE(planned.begin + planned.count * (decode ? plan.steps : 1), job.reserved) << "beyond its KV";
    if (decode) {
      ASSERT_EQ(planned.count, 1);
      ASSERT_EQ(planned.logit_rows, 1);
    } else {
      ASSERT_EQ(plan.steps, 1);
      const bool last = planned.begin + planned.count == job.prompt;
      ASSERT_LE(planned.begin + planned.count, job.prompt);
      if (!model.causal) {
        ASSERT_TRUE(last && planned.begin == 0) << "an encoder's input is computed whole";
      }
      const int32_t want = job.job.prompt_logits ? planned.count : (last && job.job.wants_logits ? 1 : 0);
      ASSERT_EQ(planned.logit_rows, want);
    }
    tokens += planned.count;
    rows += planned.logit_rows;
  }
  ASSERT_EQ(tokens, plan.tokens);
  ASSERT_EQ(rows, plan.logit_rows);
  ASSERT_LE(rows, model.max_logit_rows);
  ASSERT_LE(tokens, model.causal || plan.sequences.size() > 1 ? model.batch_tokens : model.max_step_tokens);
}

void PoolWorld::StartRun(const Effect& effect) {
  DeviceInfo& device = At(effect.device);
  ASSERT_FALSE(device.run.has_value()) << "two runs at a time";
  const PoolPlan& plan = scheduler_->plan(effect.device);
  ASSERT_EQ(plan.model, effect.model);
  CheckPlan(plan, effect.device);
  if (failed()) return;
  const auto all = static_cast<int32_t>(ModelAt(plan.model).segment_bytes.size());
  if (plan.landing) {
    ASSERT_TRUE(device.load.has_value() && device.load->model == plan.model && device.load->to == all);
  } else {
    ASSERT_EQ(device.landed[plan.model], all) << "its weights are not there";
  }
  Run run{.plan = plan, .began = now_, .steps = plan.steps};
  if (keep_log) runs.emplace_back(now_, plan);
  for (const PlannedTokens& planned : plan.sequences) {
    Digest(planned.job << 32 ^ static_cast<uint64_t>(planned.count));
    JobInfo& job = live.at(planned.job);
    if (job.computed >= job.prompt) run.steps = std::min(run.steps, std::max(job.output - job.produced, 1));
  }
  Digest(static_cast<uint64_t>(plan.steps));
  if (Fault(faults.partial_run)) run.steps = 1 + Below(static_cast<uint64_t>(run.steps));
  const PoolModel& model = ModelAt(plan.model);
  const StepProfile& profile =
      model.profiles[std::min(static_cast<size_t>(device.device.kind), model.profiles.size() - 1)];
  const double seconds =
      (step_times ? *step_times : profile).StepSeconds(plan.tokens - plan.decodes, 0, 0, plan.decodes);
  run.step = std::max<Nanoseconds>(1000, std::llround(seconds * 1e9));
  run.ends = now_ + run.step * run.steps;
  if (plan.landing) {
    run.ends = std::max(run.ends, device.load->ends + run.step / std::max(all, 1));
    ++landings;
  }
  device.run = std::move(run);
}

void PoolWorld::TellSteps() {
  for (size_t id = 0; id < devices_.size(); ++id) {
    auto& run = devices_[id].run;
    if (!run || run->plan.landing || Below(2) == 0) continue;
    const auto taken =
        static_cast<int32_t>(std::min<int64_t>((now_ - run->began) / run->step, run->steps - 1));
    if (taken <= run->told) continue;
    const int32_t steps = taken - run->told;
    run->told = taken;
    scheduler_->StepsTaken(static_cast<PoolDeviceId>(id), steps, steps * run->step,
                           run->began + taken * run->step);
    Check("StepsTaken");
  }
}

void PoolWorld::EndRun(PoolDeviceId id) {
  ++events_;
  DeviceInfo& device = At(id);
  const Run run = std::move(*device.run);
  device.run.reset();
  std::vector<PoolJobId> done;
  for (const PlannedTokens& planned : run.plan.sequences) {
    const auto entry = live.find(planned.job);
    if (entry == live.end()) continue;
    JobInfo& job = entry->second;
    const bool prefill = job.computed < job.prompt;
    if (run.steps == 0) continue;  // nothing was computed
    job.computed += planned.count * (prefill ? 1 : run.steps);
    job.longest_unserved = std::max(job.longest_unserved, now_ - job.served);
    job.served = now_;
    if (!prefill) {
      job.produced += run.steps;
      const int32_t most = std::min(job.reserved - job.computed, job.output - job.produced);
      if (run.steps - run.told == 1 && job.job.wants_logits && most > 0 && Below(8) == 0) {
        const int32_t guessed = 1 + Below(static_cast<uint64_t>(most));
        job.computed += guessed;
        job.produced += guessed;
        scheduler_->TokensTaken(planned.job, guessed);
      }
    } else if (job.computed >= job.prompt) {
      ++job.produced;
    }
    if (job.produced > 0 && job.first_token < 0) job.first_token = now_;
    const bool over = job.job.wants_logits && job.job.max_output_tokens > 0 ? job.produced >= job.output
                                                                            : job.computed >= job.prompt;
    if (over) done.push_back(planned.job);
  }
  scheduler_->StepDone(id, run.steps - run.told, run.step * (run.steps - run.told), now_);
  Check("StepDone");
  for (const PoolJobId job : done) {
    JobInfo info = live.at(job);
    info.ended = now_;
    ended[job] = info;
    Cancel(job);
  }
}

void PoolWorld::StartLoad(const Effect& effect) {
  DeviceInfo& device = At(effect.device);
  ASSERT_FALSE(device.load.has_value()) << "two loads at a time";
  const PoolModel& model = ModelAt(effect.model);
  const int32_t from = device.landed[effect.model];
  ASSERT_GT(effect.segments, from);
  ASSERT_LE(effect.segments, static_cast<int32_t>(model.segment_bytes.size()));
  const int32_t there = std::min(std::max(from, Shared(device, effect.model)), effect.segments);
  const uint64_t bytes = Prefix(effect.model, effect.segments) - Prefix(effect.model, there);
  const double seconds = static_cast<double>(bytes) / device.device.copy_bytes_per_s;
  const Nanoseconds late = faults.load_fails > 0 ? Below(500) * kMillisecond : 0;
  device.load = Load{.model = effect.model,
                     .from = from,
                     .to = effect.segments,
                     .ends = now_ + std::max<Nanoseconds>(1000, std::llround(seconds * 1e9)) + late};
  CountWeights(device);
}

void PoolWorld::EndLoad(PoolDeviceId id) {
  ++events_;
  DeviceInfo& device = At(id);
  const Load load = *device.load;
  if (device.run && device.run->plan.landing && device.run->plan.model == load.model) {
    // The step that waits for the weights ends with them or fails with them.
    device.run->ends = std::max(device.run->ends, now_ + 1);
  }
  device.load.reset();
  const bool corrupt = Fault(faults.load_fails);
  if (corrupt || Fault(faults.load_lacks_room)) {
    if (device.run && device.run->plan.landing && device.run->plan.model == load.model) {
      device.run->steps = 0;
      device.run->ends = now_;
    }
    const int32_t landed =
        std::max(load.from + Below(static_cast<uint64_t>(load.to - load.from)), Shared(device, load.model));
    device.landed[load.model] = landed;
    CountWeights(device);
    device.landed_at[load.model] = now_;
    scheduler_->LoadFailed(id, load.model, landed, corrupt ? 0 : 1 << 20, now_);
  } else {
    device.landed[load.model] = load.to;
    device.landed_at[load.model] = now_;
    scheduler_->LoadDone(id, load.model, now_);
  }
  Check("LoadDone");
}

void PoolWorld::EndMove(size_t index) {
  ++events_;
  const Move move = moves_[index];
  moves_.erase(moves_.begin() + static_cast<ptrdiff_t>(index));
  const bool ok = !Fault(move.spill ? faults.spill_fails : faults.restore_fails);
  const auto entry = live.find(move.job);
  if (entry == live.end()) {
    At(move.device).kv_bytes -= move.device_bytes;
    host_used_[static_cast<size_t>(move.host)] -= move.host_bytes;
  } else {
    JobInfo& job = entry->second;
    if (move.spill ? ok : !ok) SetReserved(job, move.device, 0);
    if (move.spill ? !ok : ok) {
      host_used_[static_cast<size_t>(move.host)] -= job.host_bytes;
      job.host_bytes = 0;
    }
    job.where = move.spill == ok ? Where::kSpilled : Where::kActive;
  }
  if (move.spill) {
    scheduler_->SpillDone(move.job, ok, now_);
  } else {
    scheduler_->RestoreDone(move.job, ok, now_);
  }
  Check("move");
}

void PoolWorld::Check(const char* what) {
  for (size_t id = 0; id < devices_.size(); ++id) {
    DeviceInfo& device = devices_[id];
    const uint64_t used = device.kv_bytes + device.weight_bytes;
    // Over the arena only after it was lowered, and then less and less.
    ASSERT_LE(used, std::max(device.arena, device.last_used)) << what << ", event " << events_;
    device.last_used = used;
    const DeviceState state = scheduler_->device_state(static_cast<PoolDeviceId>(id), now_);
    ASSERT_EQ(state.kv_bytes, device.kv_bytes) << what << ", event " << events_;
    ASSERT_EQ(state.weight_bytes, device.weight_bytes) << what << ", event " << events_;
  }
  if (!check_every_event && events_ % 64 != 0) return;
  if (state_ == nullptr) return;  // a decorator
  const std::string wrong = state_->CheckInvariants();
  ASSERT_TRUE(wrong.empty()) << wrong << " after " << what << ", event " << events_;
}

// ---- time

Nanoseconds PoolWorld::NextAt() const {
  Nanoseconds next = INT64_MAX;
  for (const DeviceInfo& device : devices_) {
    if (device.run) next = std::min(next, device.run->ends);
    if (device.load) next = std::min(next, device.load->ends);
  }
  for (const Move& move : moves_) next = std::min(next, move.ends);
  const Nanoseconds wake = scheduler_->wake_at();
  return wake < next ? std::max(wake, now_ + 1) : next;
}

bool PoolWorld::Advance() {
  const Nanoseconds next = NextAt();
  if (next == INT64_MAX) return false;
  now_ = std::max(now_, next);
  for (size_t id = 0; id < devices_.size(); ++id) {
    if (devices_[id].load && devices_[id].load->ends <= now_) EndLoad(static_cast<PoolDeviceId>(id));
    if (failed()) return false;
    if (devices_[id].run && devices_[id].run->ends <= now_) EndRun(static_cast<PoolDeviceId>(id));
    if (failed()) return false;
  }
  for (size_t i = moves_.size(); i-- > 0;) {
    if (moves_[i].ends <= now_) EndMove(i);
    if (failed()) return false;
  }
  Decide();
  return !failed();
}

void PoolWorld::RunUntil(Nanoseconds at) {
  Decide();
  while (!failed() && NextAt() <= at) {
    if (!Advance()) break;
  }
  now_ = std::max(now_, at);
}

std::string PoolWorld::Describe() const {
  std::string text;
  int32_t shown = 0;
  for (const auto& [id, job] : live) {
    if (++shown > 5) break;
    text += "\njob " + std::to_string(id) + " of model " + std::to_string(job.job.model) + ", state " +
            std::to_string(static_cast<int>(job.where)) + ", device " + std::to_string(job.device) +
            ", computed " + std::to_string(job.computed) + " of " + std::to_string(job.prompt) +
            ", reserved " + std::to_string(job.reserved) + ", paused " + std::to_string(job.paused) +
            ", class " + std::to_string(static_cast<int>(job.job.job_class)) + ", prompt logits " +
            std::to_string(job.job.prompt_logits) + ", arrived " + std::to_string(job.arrived / kSecond);
  }
  for (size_t id = 0; id < devices_.size(); ++id) {
    const DeviceInfo& device = devices_[id];
    text += "\ndevice " + std::to_string(id) + ": arena " + std::to_string(device.arena) + ", weights " +
            std::to_string(device.weight_bytes) + ", KV " + std::to_string(device.kv_bytes) +
            (device.cordoned ? " cordoned" : "");
    const DeviceState state = scheduler_->device_state(static_cast<PoolDeviceId>(id), now_);
    text += ", load " + std::to_string(state.load);
    for (const ReplicaState& replica : state.replicas) {
      if (replica.waiting + replica.active + replica.spilled == 0) continue;
      text += "; model " + std::to_string(replica.model) + " " + std::to_string(replica.waiting) +
              " waiting, " + std::to_string(replica.active) + " active, " + std::to_string(replica.spilled) +
              " spilled";
    }
    for (const auto& [model, landed] : device.landed) {
      if (landed > 0) {
        text += ", model " + std::to_string(model) + " " + std::to_string(landed) + "/" +
                std::to_string(ModelAt(model).segment_bytes.size()) +
                (ModelAt(model).pinned ? " pinned" : "");
      }
    }
  }
  for (size_t id = 0; id < hosts_.size(); ++id) {
    text += "\nhost " + std::to_string(id) + ": KV " + std::to_string(host_used_[id]) + " of " +
            std::to_string(hosts_[id].kv_bytes);
  }
  return text;
}

void PoolWorld::Finish(Nanoseconds within) {
  const Nanoseconds until = now_ + within;
  if (owes_room_) ReturnRoom();
  Decide();
  for (uint64_t guard = 0; !(live.empty() && moves_.empty()) && !failed(); ++guard) {
    const bool went_on = Advance();
    if (failed()) return;
    ASSERT_TRUE(went_on) << live.size() << " jobs wait for ever, at event " << events_ << Describe();
    ASSERT_LT(now_, until) << live.size() << " jobs have not ended" << Describe();
    ASSERT_LT(guard, 200'000u) << live.size() << " jobs have not ended" << Describe();
  }
}

}  // namespace tidepool::compute::pool
