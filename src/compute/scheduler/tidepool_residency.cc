// What is in memory: KV reserved, moved and given up; weights loaded, evicted and kept.
#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <utility>

#include "base/check.h"
#include "compute/scheduler/tidepool_policy.h"
#include "compute/scheduler/tidepool_scheduler.h"

namespace tidepool::compute::pool {

// ---- KV ------------------------------------------------------------------------------------------------

int32_t TidepoolScheduler::FirstReservation(const Job& job) const {
  const int32_t all = std::max(job.reserve_limit(), job.prompt);
  const Host& host = *hosts_[Index(job.replica->device->device.host)];
  if (host.host.kv_bytes == 0 && options_.overcommit <= 1) return all;
  return std::min(all, job.prompt + kGrowTokens);
}

void TidepoolScheduler::Refuse(Job& job, Device& device, Nanoseconds now) {
  job.refused_epoch = device.room_epoch;
  device.retry_at = std::min(device.retry_at, now + kRetry);
}

// Device and host together can hold what all admitted jobs may come to need: each device keeps room for what
// is pinned to it and for the weights of the largest model that has work, without which nothing runs.
double TidepoolScheduler::CommitLimit(const Host& host) const {
  uint64_t capacity = host.host.kv_bytes;
  for (const Device* device : host.devices) {
    uint64_t largest = 0, pinned = 0;
    for (const Replica* replica : device->replicas) {
      const Model& model = *replica->model;
      if (model.model.pinned)
        pinned += model.weight_bytes;
      else if (replica->jobs() > 0)
        largest = std::max(largest, model.weight_bytes);
    }
    const uint64_t weights = pinned + largest;
    capacity += device->arena > weights ? device->arena - weights : 0;
  }
  return static_cast<double>(capacity) * std::max(options_.overcommit, 1.0);
}

bool TidepoolScheduler::Committable(const Job& job, Nanoseconds now) {
  if (job.committed > 0) return true;
  Host& host = *hosts_[Index(job.replica->device->device.host)];
  const uint64_t more = KvBytes(*job.model, job.first_promise());
  const double limit = CommitLimit(host) * (ComesLast(job, now) ? kLastCommit : 1);
  const auto fits = [&] {
    return static_cast<double>(host.committed + more) <= limit || host.committed == 0;
  };
  if (!fits() && !ComesLast(job, now)) TakeBackPromises(job, host, more, limit);
  if (!fits()) host.full = true;
  return fits();
}

// Would it hold no more than its share of what may be promised?
bool TidepoolScheduler::WithinPromises(const Account& account, const Host& host, uint64_t more,
                                       double limit) {
  const auto held = host.committed_to.find(&account);
  const uint64_t all = (held == host.committed_to.end() ? 0 : held->second) + more;
  return static_cast<double>(all) <= AccountTree::ShareOf(account) * limit;
}

// Answers seldom become as long as they may: promises are full long before memory is. An account that holds
// more than its share of them gives back what its answers do not need yet, the latest first, to one that
// holds less: such an answer is promised a piece at a time from then on, as if nobody had said how long it
// may be.
void TidepoolScheduler::TakeBackPromises(const Job& job, Host& host, uint64_t more, double limit) {
  if (!accounts_.shared() || !WithinPromises(*job.account, host, more, limit)) return;
  std::vector<const Account*> above;
  for (const auto& [account, bytes] : host.committed_to) {
    if (!WithinPromises(*account, host, 0, limit)) above.push_back(account);
  }
  const auto needs = [](const Job& other) {
    return std::max({other.reserved, other.computed + 1, other.prompt});
  };
  std::vector<Job*> give;
  uint64_t back = 0;
  for (const auto& [id, other] : jobs_) {
    if (other->committed_to != &host || other->asked || other->gone) continue;
    if (other->place != Place::kActive && other->place != Place::kSpilled) continue;
    if (std::find(above.begin(), above.end(), other->account) == above.end()) continue;
    const uint64_t least = KvBytes(*other->model, needs(*other));
    if (least >= other->committed) continue;
    back += other->committed - least;
    give.push_back(other.get());
  }
  if (static_cast<double>(host.committed + more) > limit + static_cast<double>(back)) return;
  std::sort(give.begin(), give.end(),
            [](const Job* a, const Job* b) { return a->arrival_order > b->arrival_order; });
  for (Job* other : give) {
    if (static_cast<double>(host.committed + more) <= limit) break;
    if (WithinPromises(*other->account, host, 0, limit)) continue;
    other->promised = needs(*other);
    other->job.open_output_tokens = std::max(other->job.open_output_tokens, kGrowTokens);
    Commit(*other, KvBytes(*other->model, other->promised));
  }
}

// An open-ended job has used what was promised to it. The oldest always gets more, those of accounts that
// hold no more than their share of the promises before others: those after it make way, one after the other,
// and alone it has all there is. So of those that wait for each other none waits for ever.
bool TidepoolScheduler::PromiseMore(Job& job, int32_t tokens, Nanoseconds now, std::vector<Effect>& effects) {
  Host& host = *job.committed_to;
  const int32_t promise = std::min(job.most_tokens(), tokens + job.job.open_output_tokens);
  const uint64_t more = KvBytes(*job.model, promise) - job.committed;
  const double all = CommitLimit(host);
  const double limit = all * (ComesLast(job, now) ? kLastCommit : 1);
  const auto lacks = [&] { return static_cast<double>(host.committed + more) > limit; };
  const auto order = [&](const Job& other) {
    return std::pair(!WithinPromises(*other.account, host, 0, all), other.arrival_order);
  };
  const auto may_go = [&](const Job& other) {
    return other.open_ended() && other.committed_to == &host && other.committed > 0 && !other.asked &&
           !other.gone && order(other) > order(job) &&
           (other.place == Place::kActive || other.place == Place::kSpilled) &&
           !(other.replica->device->busy && other.replica->device->running == other.replica);
  };
  if (lacks() && !ComesLast(job, now)) TakeBackPromises(job, host, more, limit);
  while (lacks() && host.committed != job.committed) {
    Job* last = nullptr;
    for (const auto& [id, other] : jobs_) {
      if (may_go(*other) && (last == nullptr || order(*other) > order(*last))) last = other.get();
    }
    if (last == nullptr) {
      host.full = true;
      return false;
    }
    EmitDrop(*last, Reason::kRoom, effects);
  }
  Commit(job, job.committed + more);
  job.promised = promise;
  return true;
}

// What is waited for within shares of accounts that are not refused: room for KV and, where all models that
// have jobs within a share fit in beside each other, for weights. Where they do not, models take turns in
// memory, and weights that come push others out whatever is kept for them.
uint64_t TidepoolScheduler::WantedWithinShare(const Device& device, Nanoseconds now) const {
  FilesOnce files;
  uint64_t weights = 0, missing = 0, kv = 0;
  for (const Replica* replica : device.replicas) {
    const Model& model = *replica->model;
    const bool within = replica->jobs(View::kWithinShare) > 0;
    if (!within && !model.pinned_here()) continue;
    weights += files.BytesOf(model);
    if (!within) continue;
    if (!replica->resident() && !replica->loading) missing += MissingBytes(*replica);
    const auto counts = [&](const Job& job) { return !job.beyond && !job.paused && !Refused(job, now); };
    for (const Job* job : replica->waiting) {
      if (counts(*job) && !job->asked) kv += KvBytes(model, FirstReservation(*job));
    }
    for (const Job* job : replica->spilled) {
      if (counts(*job) && job->place == Place::kSpilled)
        kv += KvBytes(model, std::min(job->reserve_limit(), job->computed + kGrowTokens));
    }
  }
  const double room = (1 - kKvRoom) * static_cast<double>(device.arena);
  return kv + (static_cast<double>(weights) <= room ? missing : 0);
}

uint64_t TidepoolScheduler::LastKvBytes(const Device& device, Nanoseconds now) const {
  uint64_t bytes = 0;
  for (const Replica* replica : device.replicas) {
    for (const Job* job : replica->active) {
      if (ComesLast(*job, now) && !job->asked) bytes += job->device_bytes;
    }
  }
  return bytes;
}

// Those that wait, in the order in which they get room; whom the device had none for since it last had more
// are left out.
TidepoolScheduler::Queue TidepoolScheduler::QueueOf(const Replica& replica, Nanoseconds now) const {
  Queue queue{.heap = {}, .epoch = replica.device->room_epoch, .waiting = replica.waiting.size()};
  for (Job* job : replica.waiting) {
    if (job->paused || job->asked) continue;
    if (job->refused_epoch == queue.epoch) {
      if (job->passed >= kMaxPassed) (ComesLast(*job, now) ? queue.last_barrier : queue.barrier) = true;
      continue;
    }
    const bool last = ComesLast(*job, now);
    const double urgency = Urgency(*job, now) - (job->passed >= kMaxPassed && !last ? 1e6 : 0);
    queue.heap.push_back({last, urgency, queue.heap.size(), job});
  }
  std::make_heap(queue.heap.begin(), queue.heap.end(), std::greater<>());
  return queue;
}

bool TidepoolScheduler::AdmitJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  int32_t slots = replica.model->model.max_sequences - replica.runnable;
  if (slots <= 0 || replica.waiting.empty()) return false;
  bool asked = false;
  std::optional<uint64_t> wanted;   // within shares
  std::optional<uint64_t> last_kv;  // that could make way
  Queue queue = QueueOf(replica, now);
  const auto refuse = [&](Job& job, bool last) {
    Refuse(job, device, now);
    if (job.passed >= kMaxPassed) (last ? queue.last_barrier : queue.barrier) = true;
  };
  while (slots > 0 && !queue.heap.empty() && !queue.barrier) {
    std::pop_heap(queue.heap.begin(), queue.heap.end(), std::greater<>());
    const auto [next_last, least, position, next] = queue.heap.back();
    queue.heap.pop_back();
    if (next_last && queue.last_barrier) break;
    if (replica.runnable > 0 && !MayLengthen(*next, now)) continue;
    if (now < device.weights_first_until && least > device.weights_urgency) {
      device.wake_at = std::min(device.wake_at, device.weights_first_until);
      break;
    }
    // A quarter of a batch is left to those that neither came beyond their share nor can wait.
    const bool beyond = AheadSeconds(*next, device, now) > kBeyond_s;
    if ((beyond || next->job.job_class == JobClass::kBatch) &&
        slots <= replica.model->model.max_sequences / 4) {
      break;
    }
    const int32_t tokens = FirstReservation(*next);
    const uint64_t bytes = KvBytes(*next->model, tokens);
    // For what came beyond a share nobody makes room while its model has something to do but what comes last;
    // of an account that is refused it takes only room that nobody within his share waits for.
    if (beyond && replica.runnable > 0) {
      uint64_t room = device.free(), needed = bytes;
      if (Refused(*next, now)) {
        if (!wanted) wanted = WantedWithinShare(device, now);
        needed += *wanted;
      } else {
        if (!last_kv) last_kv = LastKvBytes(device, now);
        room += *last_kv;
      }
      if (needed > room) {
        refuse(*next, next_last);
        continue;
      }
    }
    const bool fits =
        Committable(*next, now) &&
        (bytes <= device.free() ||
         MakeRoom(
             device,
             {.bytes = bytes - device.free(), .urgency = least, .keep = &replica, .takes_last = !next_last},
             now, effects));
    if (fits) {
      EmitAdmit(*next, tokens, effects);
      wanted.reset();
      asked = true;
      --slots;
    } else {
      refuse(*next, next_last);
    }
    if (device.room_epoch != queue.epoch || replica.waiting.size() != queue.waiting) {
      queue = QueueOf(replica, now);
      last_kv.reset();
    }
  }
  return asked;
}

bool TidepoolScheduler::GrowJob(Job& job, Device& device, bool first, Nanoseconds now,
                                std::vector<Effect>& effects) {
  if (job.paused || job.computed < job.reserved || job.refused_epoch == device.room_epoch) return false;
  if (job.open_ended() && job.computed >= job.promised && job.promised < job.most_tokens() &&
      !PromiseMore(job, job.computed + 1, now, effects)) {
    Refuse(job, device, now);
    return false;
  }
  const int32_t tokens = std::min(job.reserve_limit(), job.computed + kGrowTokens);
  const uint64_t bytes = KvBytes(*job.model, tokens) - job.device_bytes;
  if (bytes > device.free()) {
    // When one has grown the device does not stand still any more.
    const Job* const grower = device.stuck && first ? &job : nullptr;
    const bool made = MakeRoom(
        device,
        {.bytes = bytes - device.free(), .urgency = Urgency(job, now), .keep = job.replica, .grower = grower},
        now, effects);
    if (job.place != Place::kActive) return false;  // it was the youngest itself
    if (!made && bytes > device.free()) {           // room of a job that was dropped is there at once
      Refuse(job, device, now);
      return false;
    }
  }
  EmitGrow(job, tokens, effects);
  return true;
}

bool TidepoolScheduler::GrowJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects) {
  Device& device = *replica.device;
  bool asked = false;
  for (size_t i = 0; i < replica.active.size();) {
    const size_t active = replica.active.size();
    asked |= GrowJob(*replica.active[i], device, !asked, now, effects);
    i = replica.active.size() == active ? i + 1 : 0;  // some made way: the list is another
  }
  return asked;
}

void TidepoolScheduler::RestoreJobs(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (device.spilling > 0) return;
  for (Replica* replica : device.replicas) {
    if (replica->spilled.empty() || !(replica->resident() || replica->loading)) continue;
    for (size_t i = 0; i < replica->spilled.size();) {
      Job& job = *replica->spilled[i];
      ++i;
      if (job.place != Place::kSpilled || job.paused || job.refused_epoch == device.room_epoch) continue;
      if (now < device.weights_first_until && Urgency(job, now) > device.weights_urgency) {
        device.wake_at = std::min(device.wake_at, device.weights_first_until);
        continue;
      }
      const int32_t tokens = std::min(job.reserve_limit(), job.computed + kGrowTokens);
      const uint64_t bytes = KvBytes(*job.model, tokens);
      if ((ComesLast(job, now) && bytes + WantedWithinShare(device, now) > device.free()) ||
          (bytes > device.free() && !MakeRoom(device,
                                              {.bytes = bytes - device.free(),
                                               .urgency = Urgency(job, now),
                                               .keep = replica,
                                               .takes_last = !ComesLast(job, now)},
                                              now, effects))) {
        Refuse(job, device, now);
        continue;
      }
      EmitRestore(job, tokens, effects);
      i = 0;  // the list has changed
    }
  }
}

// ---- weights -------------------------------------------------------------------------------------------

void TidepoolScheduler::ManageWeights(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  Replica* wanted = nullptr;
  double least = kNever;
  for (Replica* replica : device.replicas) {
    if (replica->loading || replica->landed == replica->model->segments() || replica->jobs() == 0) continue;
    if (replica->model->quarantined_until > now) {
      device.wake_at = std::min(device.wake_at, replica->model->quarantined_until);
      continue;
    }
    const double urgency = UrgenciesOf(*replica, now).any - LoadSeconds(*replica);
    if (wanted == nullptr || urgency < least) {
      least = urgency;
      wanted = replica;
    }
  }
  if (device.loading != nullptr) {
    // What is loaded for jobs that are gone, or came beyond their account's share, makes way.
    const bool for_none =
        device.loading->jobs() == 0 ||
        (device.loading->jobs(View::kWithinShare) <= 0 && wanted != nullptr &&
         wanted->jobs(View::kWithinShare) > 0 && LoadLeft(*device.loading, now) > kStopLeft_s &&
         UrgenciesOf(*device.loading, now).any - LoadSeconds(*device.loading) > least + 1);
    if (wanted != nullptr && for_none && !device.loading->stopping && device.running != device.loading &&
        !device.loading->model->model.pinned) {
      EmitStopLoad(device, effects);
    }
    return;
  }
  if (wanted != nullptr) {
    StartLoad(device, *wanted, least, Reason::kUrgent, now, effects);
    return;
  }
  if (device.cordoned) return;
  // Nothing waits: bring what will be wanted, as far as there is room that nobody uses.
  Replica* expected = nullptr;
  double soonest = kNever;
  for (Replica* replica : device.replicas) {
    const Model& model = *replica->model;
    if (replica->landed == model.segments() || model.quarantined_until > now) continue;
    if (model.model.pinned) {
      StartLoad(device, *replica, kPinnedUrgency, Reason::kPinned, now, effects);
      return;
    }
    if (model.prefetch) {
      // Idle models may make way, models with work not.
      if (StartLoad(device, *replica, kNever, Reason::kPrewarm, now, effects)) return;
      continue;
    }
    if (model.arrival_gap_s <= 0) continue;
    const double idle_s = static_cast<double>(now - model.last_arrival) * 1e-9;
    if (idle_s > 8 * model.arrival_gap_s) continue;  // its users went away
    const uint64_t missing = MissingBytes(*replica);
    const auto spare = static_cast<uint64_t>(static_cast<double>(device.arena) * kKvShare * 2);
    if (device.free() < missing + spare) continue;
    if (model.arrival_gap_s < soonest) {
      soonest = model.arrival_gap_s;
      expected = replica;
    }
  }
  if (expected != nullptr) StartLoad(device, *expected, kNever, Reason::kPrewarm, now, effects);
}

bool TidepoolScheduler::StartLoad(Device& device, Replica& replica, double urgency, Reason reason,
                                  Nanoseconds now, std::vector<Effect>& effects) {
  const Model& model = *replica.model;
  const uint64_t least = MissingBytes(replica);
  uint64_t wanted = least;
  for (const Job* job : replica.waiting) {
    wanted += KvBytes(model, job->prompt + kGrowTokens);
    if (wanted > device.arena / 2 + model.weight_bytes) break;
  }
  wanted += static_cast<uint64_t>(static_cast<double>(device.arena) * kKvShare);
  wanted =
      std::min(wanted, std::max(device.arena - std::min(device.arena, model.weight_bytes - least), least));
  Room room{.urgency = urgency,
            .load_s = LoadSeconds(replica),
            .keep = &replica,
            .takes_last = replica.jobs(View::kWithinShare) > 0};
  const auto made = [&](uint64_t bytes) {
    if (bytes <= device.free()) return true;
    room.bytes = bytes - device.free();
    return MakeRoom(device, room, now, effects);
  };
  if (!made(wanted)) {
    if (!made(least)) {  // without the room for growth it may still go in
      const bool soon = replica.jobs(View::kWithinShare) > 0 && device.running != nullptr &&
                        device.running->beyond > 0 && device.running->jobs(View::kWithinShare) <= 0;
      if (soon) device.turn.broken = true;
      device.wake_at = std::min(device.wake_at, now + (soon ? kSecond / 50 : kSecond / 4));
      // Parts of models may be all there is: none can run, and each has too little slack to give more of it.
      const auto& all = device.replicas;
      if (!device.busy && std::none_of(all.begin(), all.end(), [&](const Replica* r) { return Ready(*r); }))
        device.retry_at = std::min(device.retry_at, now + kRetry);
      return false;
    }
  }
  device.weights_first_until = 0;
  EmitLoad(replica, model.segments(), reason, now, effects);
  return true;
}

// Is another model of the device resident and at work? Then turns go round without switches.
bool TidepoolScheduler::OthersCanRun(const Replica& replica) const {
  const auto& all = replica.device->replicas;
  return std::any_of(all.begin(), all.end(), [&](const Replica* other) {
    return other != &replica && other->resident() && other->runnable > 0;
  });
}

// The bytes of a file are free when all of its models let them go: those that some model keeps are no gain,
// and the models of a file are worth what the one is worth that is wanted most. Returns what `victims` give.
uint64_t TidepoolScheduler::CountFilesOnce(const Device& device, std::vector<Victim>& victims) {
  std::map<uint64_t, uint64_t> kept, most;
  std::map<uint64_t, double> rank;
  const auto file_of = [](const Replica& replica) { return replica.model->model.weights_id; };
  for (const Replica* replica : device.replicas) {
    if (file_of(*replica) == 0) continue;
    const auto victim =
        std::find_if(victims.begin(), victims.end(), [&](const Victim& v) { return v.replica == replica; });
    uint64_t& bytes = (victim == victims.end() ? kept : most)[file_of(*replica)];
    bytes = std::max(bytes, replica->bytes);
    if (victim == victims.end()) continue;
    const auto [entry, first] = rank.emplace(file_of(*replica), victim->rank);
    if (!first) entry->second = std::min(entry->second, victim->rank);
  }
  std::erase_if(victims, [&](const Victim& victim) {
    const uint64_t file = file_of(*victim.replica);
    return file != 0 && victim.replica->bytes <= kept[file];
  });
  uint64_t all = 0;
  for (Victim& victim : victims) {
    const uint64_t file = file_of(*victim.replica);
    if (file == 0) {
      all += victim.replica->bytes;
    } else {
      victim.rank = rank[file];
    }
  }
  for (const auto& [file, bytes] : most) all += bytes - std::min(bytes, kept[file]);
  return all;
}

bool TidepoolScheduler::MakeRoom(Device& device, Room room, Nanoseconds now, std::vector<Effect>& effects) {
  const uint64_t bytes = room.bytes;
  const double urgency = room.urgency, load_s = room.load_s;
  const Replica* const keep = room.keep;
  std::vector<Victim> victims;
  uint64_t possible = 0;  // could be freed now
  uint64_t later = 0;     // could be freed when slacks have moved on
  bool in_the_way = false;
  bool files = false;  // several models of one file
  for (Replica* replica : device.replicas) {
    if (replica == keep || replica->loading || replica->landed == 0) continue;
    const Model& model = *replica->model;
    const bool drain = urgency == -kNever;
    if (model.pinned_here() && !drain) continue;
    const uint64_t file = model.model.weights_id;
    if (file != 0 && keep != nullptr && keep->model->model.weights_id == file) continue;  // its own bytes
    const uint64_t shared = file == 0 ? 0 : SharedBytes(*replica);
    files |= shared > 0;
    later += replica->bytes - std::min(replica->bytes, shared);
    // The model whose turn it is makes way when no other is there that its turn could end for, and at once
    // when all its jobs came beyond their share and it is in the way of some that did not.
    const bool gives_way = keep != nullptr && keep->jobs(View::kWithinShare) > 0 && replica->beyond > 0 &&
                           replica->jobs(View::kWithinShare) <= 0;
    const bool has_turn = device.running == replica || device.turn.replica == replica;
    if (has_turn && !gives_way && (replica->jobs() == 0 || drain || load_s == 0 || OthersCanRun(*replica)))
      continue;
    if (now - replica->landed_at < model.model.min_resident && !drain) continue;
    double rank = 0;
    if (replica->jobs() == 0) {
      // Idle: the one expected last goes first.
      const double idle_s =
          static_cast<double>(now - std::max(replica->last_used, replica->landed_at)) * 1e-9;
      const double gap_s = model.arrival_gap_s > 0 ? std::max(model.arrival_gap_s, idle_s) : idle_s + 1e3;
      rank = 1e9 + gap_s;
    } else {
      const bool any_price = drain || device.stuck;
      const double theirs = UrgenciesOf(*replica, now).any;
      const double back_s = static_cast<double>(std::min(bytes, replica->bytes)) / device.copy_rate;
      // What has not been served since it came, came for a reason.
      const double hysteresis = replica->served == 0 && replica->resident() ? kUnserved : kSwitchHysteresis;
      if (!any_price && theirs - urgency < hysteresis * (load_s + back_s)) continue;
      rank = theirs == kNever ? 1e8 : theirs;
      if (has_turn) {
        // Only for what would be late: a turn is worth more than a little less slack.
        const double run_s = static_cast<double>(now - device.turns_since) * 1e-9;
        if (!gives_way && (urgency > kTurnAlarm_s || theirs - urgency < kTurnAlarm_s ||
                           run_s < std::max(kTurnRun_s, kTurnRunLoads * (load_s + back_s)))) {
          continue;
        }
        if (device.running == replica) {  // when its step has ended, if nobody else can give
          in_the_way |= load_s > 0;
          continue;
        }
        if (!gives_way) rank = std::min(rank, -1e8);
        room.gives = replica;
      }
    }
    victims.push_back({replica, rank});
    possible += replica->bytes;
  }
  if (files) {
    possible = CountFilesOnce(device, victims);
    later = std::max(later, possible);
  }
  if (possible < bytes) {
    // KV moves only when weights cannot make the room: for weights that have to wait, it is not in the way,
    // unless what comes last is enough of it.
    const uint64_t last = room.takes_last ? LastKvBytes(device, now) : 0;
    const uint64_t weights = load_s > 0 && possible + last < bytes ? later : possible;
    if (weights < bytes) {
      const bool stuck = device.stuck;
      const int32_t spilling = device.spilling;
      const uint64_t held = device.kv_bytes;
      room.bytes -= weights;
      SpillFor(device, room, now, effects);
      if (load_s > 0 && (device.spilling > spilling ||
                         device.kv_bytes < held)) {  // what went for weights does not come back before them
        device.weights_first_until = now + kWeightsFirst;
        device.weights_urgency = stuck ? -kNever : urgency;
      }
    }
    if (in_the_way) Break(device);
    return false;
  }
  std::sort(victims.begin(), victims.end(), [](const Victim& a, const Victim& b) {
    const bool a_pinned = a.replica->model->pinned_here(), b_pinned = b.replica->model->pinned_here();
    if (a_pinned != b_pinned) return b_pinned;  // only when draining: last
    if (a.rank != b.rank) return a.rank > b.rank;
    const PoolModel &a_model = a.replica->model->model, &b_model = b.replica->model->model;
    // Of one file together, who holds most first.
    if (a_model.weights_id != b_model.weights_id) return a_model.weights_id < b_model.weights_id;
    if (a_model.weights_id != 0 && a.replica->landed != b.replica->landed)
      return a.replica->landed > b.replica->landed;
    return a_model.model < b_model.model;
  });
  uint64_t freed = 0;
  for (const Victim& victim : victims) {
    if (freed >= bytes) break;
    Replica& replica = *victim.replica;
    const auto& prefix = replica.model->prefix_bytes;
    int32_t to = replica.landed;
    while (to > 0 && prefix[Index(replica.landed)] - prefix[Index(to)] < bytes - freed) --to;
    const Reason reason = replica.jobs() == 0 ? Reason::kIdle : Reason::kMoreSlack;
    const uint64_t before = device.weight_bytes;  // the last one of a file gives the bytes
    EmitEvict(replica, to, urgency == -kNever ? Reason::kDrain : reason, effects);
    freed += before - device.weight_bytes;
  }
  device.stuck = false;  // once: what comes now is to be served before it may be pushed out again
  return true;
}

// Weights are not enough: KV of the jobs that can wait longest goes to the host. Comes true later.
bool TidepoolScheduler::SpillFor(Device& device, const Room& room, Nanoseconds now,
                                 std::vector<Effect>& effects) {
  Host& host = *hosts_[Index(device.device.host)];
  const Job* const grower = room.grower;
  uint64_t bytes = room.bytes;
  uint64_t coming = device.spilling_bytes;
  // Nothing goes on, and sequences move whole: room in pieces may be too small for each of them although
  // there is enough in all. Then the youngest is computed again, an open-ended one first.
  const bool stands_still = device.stuck && (grower != nullptr || room.load_s > 0) && coming == 0;
  while (coming < bytes) {
    Job* victim = nullptr;
    double most = room.urgency;
    for (Replica* replica : device.replicas) {
      if (replica == device.running) continue;
      const bool has_turn = replica == device.turn.replica && replica != room.gives &&
                            (grower == nullptr || grower->replica != replica);
      if (has_turn && !room.takes_last) continue;
      for (Job* job : replica->active) {
        if (job->asked || job->device_bytes == 0) continue;
        if (has_turn && !(ComesLast(*job, now) && job->computed > 0)) continue;
        // Not again and again at once.
        if (job->spill_refused_epoch == device.room_epoch && !(stands_still && grower != nullptr)) {
          device.retry_at = std::min(device.retry_at, now + kRetry);
          continue;
        }
        if (stands_still) {
          if (victim == nullptr || std::pair(job->open_ended(), job->arrival_order) >
                                       std::pair(victim->open_ended(), victim->arrival_order))
            victim = job;
          continue;
        }
        const double theirs = job->paused ? kNever : Urgency(*job, now) - 1e-3;
        if (job != grower && theirs > most) {
          most = theirs;
          victim = job;
        }
      }
    }
    if (victim == nullptr) return false;
    const uint64_t gives = victim->device_bytes;
    if (victim->computed == 0) {  // nothing to keep: it waits again
      EmitDrop(*victim, Reason::kRoom, effects);
      bytes -= std::min(bytes, gives);
      continue;
    }
    if (KvBytes(*victim->model, victim->computed) > host.free()) {
      if (options_.overcommit <= 1 && !stands_still) return false;
      EmitDrop(*victim, Reason::kRoom, effects);
      if (stands_still) {
        device.stuck = false;
        return true;
      }
      bytes -= std::min(bytes, gives);
      continue;
    }
    coming += gives;
    EmitSpill(*victim, Reason::kRoom, effects);
  }
  return true;
}

// Is there another device, open, that can hold the model?
bool TidepoolScheduler::HasOtherDevice(const Replica& replica) const {
  return std::any_of(devices_.begin(), devices_.end(), [&](const auto& other) {
    return other.get() != replica.device && MayUse(*replica.model, *other) &&
           replica.model->weight_bytes + KvBytes(*replica.model, 1) <= other->arena;
  });
}

void TidepoolScheduler::Shrink(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  if (device.used() <= device.arena && !device.cordoned) return;
  if (device.cordoned) {
    // What waits goes elsewhere where it can; what cannot, and what runs, ends here.
    for (Replica* replica : device.replicas) {
      if (!HasOtherDevice(*replica)) continue;
      while (!replica->waiting.empty() && !replica->waiting.back()->asked) {
        Job* job = replica->waiting.back();
        Detach(*job);
        unplaced_.push_back(job);
        wake_at_ = std::min(wake_at_, now);
      }
    }
  }
  if (device.used() > device.arena) {
    MakeRoom(device, {.bytes = device.used() - device.arena, .urgency = -kNever}, now, effects);
  }
}

void TidepoolScheduler::ExpireIdle(Device& device, Nanoseconds now, std::vector<Effect>& effects) {
  for (Replica* replica : device.replicas) {
    const Model& model = *replica->model;
    if (model.model.idle_ttl < 0 || replica->jobs() > 0 || replica->landed == 0 || replica->loading) continue;
    if (device.running == replica || model.pinned_here()) continue;
    const Nanoseconds until = std::max(replica->last_used, replica->landed_at) +
                              std::max(model.model.idle_ttl, model.model.min_resident);
    if (until <= now) {
      EmitEvict(*replica, 0, Reason::kExpired, effects);
    } else {
      device.wake_at = std::min(device.wake_at, until);
    }
  }
}

}  // namespace tidepool::compute::pool
