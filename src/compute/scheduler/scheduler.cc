#include "compute/scheduler/scheduler.h"

#include <algorithm>

#include "base/check.h"

namespace tidepool::compute {

struct Scheduler::Account {
  std::string name;
  double service = 0;
  int64_t jobs = 0;
};

struct Scheduler::JobState {
  Job job;
  Account* account = nullptr;
  uint64_t arrival = 0;
  bool admitted = false;
  bool paused = false;
  int32_t computed = 0;        // tokens whose KV exists
  uint64_t last_step = 0;      // when it was last planned
  uint64_t refused_epoch = 0;  // waiting: no room since this epoch
  bool was_refused = false;
  int32_t passed = 0;  // admissions since it was refused first

  bool prefilling() const { return computed < job.prompt_tokens; }
};

struct Scheduler::Queue {
  Account* account = nullptr;
  std::deque<JobState*> jobs;  // by arrival
};

struct Scheduler::ModelState {
  SchedulerModel model;
  std::vector<std::unique_ptr<Queue>> queues;  // one an account, in the order of their first waiting job
  std::vector<JobState*> admitted;             // in the order of admission
  int32_t waiting = 0;
  int32_t runnable = 0;    // admitted and not paused
  int32_t prefilling = 0;  // of these
  uint64_t last_step = 0;
  uint64_t prefill_steps = 0;

  void Count(const JobState& job, int32_t by) {
    if (!job.admitted || job.paused) return;
    runnable += by;
    if (job.prefilling()) prefilling += by;
  }
};

Scheduler::Scheduler() = default;
Scheduler::~Scheduler() = default;

// ---- accounts ----------------------------------------------------------------------------------------

Scheduler::Account* Scheduler::AcquireAccount(const std::string& name) {
  auto& account = accounts_[name];
  if (account == nullptr) {
    account = std::make_unique<Account>();
    account->name = name;
  }
  if (account->jobs == 0) {
    double least = -1;
    for (const auto& [other_name, other] : accounts_) {
      if (other->jobs > 0 && (least < 0 || other->service < least)) least = other->service;
    }
    service_floor_ = std::max(service_floor_, least);
    account->service = std::max(account->service, service_floor_);
  }
  ++account->jobs;
  return account.get();
}

void Scheduler::DropAccount(Account* account) {
  if (--account->jobs > 0) return;
  // An idle account at or below the floor would start at the floor anyway: nothing is lost by forgetting it.
  // One above it is remembered, so that leaving and coming back does not wash its use away, up to a bound.
  constexpr size_t kRememberedAccounts = 1024;
  if (account->service <= service_floor_ || accounts_.size() > kRememberedAccounts) {
    accounts_.erase(accounts_.find(account->name));
  }
}

// ---- events ------------------------------------------------------------------------------------------

void Scheduler::AddModel(const SchedulerModel& model) {
  CHECK(model.max_sequences >= 1 && model.batch_tokens >= 1);
  CHECK(model.max_step_tokens >= model.batch_tokens && model.max_logit_rows >= 1);
  auto state = std::make_unique<ModelState>();
  state->model = model;
  state->last_step = step_;
  CHECK(models_.emplace(model.model, std::move(state)).second);
}

void Scheduler::RemoveModel(ScheduledModel model) {
  const auto entry = models_.find(model);
  CHECK(entry != models_.end() && entry->second->admitted.empty() && entry->second->waiting == 0);
  models_.erase(entry);
  RoomReturned();
}

void Scheduler::Arrive(const Job& job) {
  CHECK(job.job != 0 && job.prompt_tokens >= 1);
  ModelState& model = *models_.at(job.model);
  CHECK(model.model.causal || job.prompt_tokens <= model.model.max_step_tokens);
  auto state = std::make_unique<JobState>();
  state->job = job;
  state->arrival = ++arrivals_;
  state->account = AcquireAccount(job.account);
  auto queue = std::find_if(model.queues.begin(), model.queues.end(),
                            [&](const auto& q) { return q->account == state->account; });
  if (queue == model.queues.end()) {
    model.queues.push_back(std::make_unique<Queue>());
    queue = std::prev(model.queues.end());
    (*queue)->account = state->account;
  }
  (*queue)->jobs.push_back(state.get());
  ++model.waiting;
  order_.reserve(jobs_.size() + 1);
  CHECK(jobs_.emplace(job.job, std::move(state)).second);
}

void Scheduler::SetPaused(JobId id, bool paused) {
  JobState& job = *jobs_.at(id);
  if (job.paused == paused) return;
  ModelState& model = *models_.at(job.job.model);
  model.Count(job, -1);
  job.paused = paused;
  model.Count(job, +1);
}

void Scheduler::Remove(JobId id) {
  const auto entry = jobs_.find(id);
  CHECK(entry != jobs_.end());
  JobState* job = entry->second.get();
  ModelState& model = *models_.at(job->job.model);
  if (job->admitted) {
    model.Count(*job, -1);
    std::erase(model.admitted, job);
    RoomReturned();
  } else {
    const auto queue = std::find_if(model.queues.begin(), model.queues.end(),
                                    [&](const auto& q) { return q->account == job->account; });
    std::erase((*queue)->jobs, job);
    if ((*queue)->jobs.empty()) model.queues.erase(queue);
    --model.waiting;
  }
  DropAccount(job->account);
  jobs_.erase(entry);
}

void Scheduler::Admitted(JobId id, int32_t cached_tokens) {
  JobState& job = *jobs_.at(id);
  ModelState& model = *models_.at(job.job.model);
  CHECK(!job.admitted && cached_tokens >= 0 && cached_tokens < job.job.prompt_tokens);
  const auto queue = std::find_if(model.queues.begin(), model.queues.end(),
                                  [&](const auto& q) { return q->account == job.account; });
  std::erase((*queue)->jobs, &job);
  if ((*queue)->jobs.empty()) model.queues.erase(queue);
  --model.waiting;
  job.admitted = true;
  job.computed = cached_tokens;
  model.admitted.push_back(&job);
  model.Count(job, +1);
  ++admissions_;
  for (const auto& [name, other] : models_) {
    for (const auto& waiting : other->queues) {
      for (JobState* passed : waiting->jobs) {
        if (passed->was_refused) ++passed->passed;
      }
    }
  }
}

void Scheduler::NoRoom(JobId id) {
  JobState& job = *jobs_.at(id);
  job.refused_epoch = room_epoch_;
  job.was_refused = true;
}

void Scheduler::RoomReturned() { ++room_epoch_; }

void Scheduler::StepDone(const StepPlan& plan) {
  ModelState& model = *models_.at(plan.model);
  for (const PlannedSequence& planned : plan.sequences) {
    const auto entry = jobs_.find(planned.job);
    if (entry == jobs_.end()) continue;  // ended by this step
    JobState& job = *entry->second;
    model.Count(job, -1);
    job.computed += planned.count;
    model.Count(job, +1);
  }
}

// ---- admission ---------------------------------------------------------------------------------------

Scheduler::JobState* Scheduler::FirstUnpaused(const Queue& queue) const {
  for (JobState* job : queue.jobs) {
    if (!job->paused) return job;
  }
  return nullptr;
}

JobId Scheduler::NextAdmission() {
  const bool oldest_first = admissions_ % kOldestEvery == kOldestEvery - 1;
  JobState* best = nullptr;
  const JobState* barrier = nullptr;
  for (const auto& [id, model] : models_) {
    const bool has_slot = model->runnable < model->model.max_sequences;
    for (const auto& queue : model->queues) {
      JobState* job = FirstUnpaused(*queue);
      if (job == nullptr) continue;
      const bool refused = job->refused_epoch == room_epoch_;
      if (has_slot && job->passed >= kMaxPassed && (barrier == nullptr || job->arrival < barrier->arrival))
        barrier = job;
      if (!has_slot || refused) continue;
      const bool better = best == nullptr || (!oldest_first && job->account->service != best->account->service
                                                  ? job->account->service < best->account->service
                                                  : job->arrival < best->arrival);
      if (better) best = job;
    }
  }
  if (barrier != nullptr) {
    return barrier->refused_epoch != room_epoch_ ? barrier->job.job : 0;
  }
  return best == nullptr ? 0 : best->job.job;
}

// ---- steps -------------------------------------------------------------------------------------------

bool Scheduler::HasRunnable() const {
  return std::any_of(models_.begin(), models_.end(), [](const auto& m) { return m.second->runnable > 0; });
}

bool Scheduler::Plan(StepPlan& plan) {
  plan.sequences.clear();
  plan.tokens = plan.logit_rows = plan.decodes = 0;
  plan.model = 0;
  ModelState* next = nullptr;
  for (const auto& [id, model] : models_) {
    if (model->runnable == 0) continue;
    if (next == nullptr || model->last_step < next->last_step) next = model.get();
  }
  if (next == nullptr) return false;
  next->last_step = ++step_;
  plan.model = next->model.model;
  PlanDecodes(*next, plan);
  PlanPrefills(*next, plan);
  CHECK(!plan.sequences.empty());
  return true;
}

void Scheduler::AddToPlan(JobState& job, int32_t count, int32_t logit_rows, StepPlan& plan) {
  plan.sequences.push_back(
      {.job = job.job.job, .begin = job.computed, .count = count, .logit_rows = logit_rows});
  plan.tokens += count;
  plan.logit_rows += logit_rows;
  job.account->service += count * (job.prefilling() ? 1.0 : kDecodeWeight);
  job.last_step = step_;
}

void Scheduler::PlanDecodes(ModelState& model, StepPlan& plan) {
  order_.clear();
  for (JobState* job : model.admitted) {
    if (!job->paused && !job->prefilling()) order_.push_back(job);
  }
  const SchedulerModel& limits = model.model;
  auto most =
      static_cast<size_t>(std::min({limits.max_sequences, limits.batch_tokens, limits.max_logit_rows}));
  if (model.prefilling > 0 && most > 1) --most;  // decodes never shut prefill out
  if (order_.size() > most) {                    // after many were resumed at once: in turns
    std::sort(order_.begin(), order_.end(), [](const JobState* a, const JobState* b) {
      return a->last_step != b->last_step ? a->last_step < b->last_step : a->arrival < b->arrival;
    });
    order_.resize(most);
  }
  for (JobState* job : order_) AddToPlan(*job, 1, 1, plan);
  plan.decodes = static_cast<int32_t>(order_.size());
}

void Scheduler::PlanPrefills(ModelState& model, StepPlan& plan) {
  if (model.prefilling == 0) return;
  order_.clear();
  for (JobState* job : model.admitted) {
    if (!job->paused && job->prefilling()) order_.push_back(job);
  }
  std::sort(order_.begin(), order_.end(), [](const JobState* a, const JobState* b) {
    return a->account->service != b->account->service ? a->account->service < b->account->service
                                                      : a->arrival < b->arrival;
  });
  if (model.prefill_steps++ % kOldestEvery == kOldestEvery - 1) {
    const auto oldest =
        std::min_element(order_.begin(), order_.end(),
                         [](const JobState* a, const JobState* b) { return a->arrival < b->arrival; });
    std::rotate(order_.begin(), oldest, std::next(oldest));
  }
  const SchedulerModel& limits = model.model;
  for (JobState* job : order_) {
    if (static_cast<int32_t>(plan.sequences.size()) >= limits.max_sequences) break;
    const int32_t remaining = job->job.prompt_tokens - job->computed;
    const int32_t rows_left = limits.max_logit_rows - plan.logit_rows;
    int32_t count = std::min(remaining, limits.batch_tokens - plan.tokens);
    if (!limits.causal) {
      const int32_t room = plan.tokens == 0 ? limits.max_step_tokens : limits.batch_tokens - plan.tokens;
      if (remaining > room) continue;
      count = remaining;
    }
    int32_t rows = 0;
    if (job->job.prompt_logits) {
      count = std::min(count, rows_left);
      rows = count;
    } else if (job->job.wants_logits && count == remaining) {
      rows = 1;
      if (rows_left < 1) {
        --count;
        rows = 0;
      }
    }
    if (count >= 1) AddToPlan(*job, count, rows, plan);
  }
}

// ---- what is -----------------------------------------------------------------------------------------

int32_t Scheduler::waiting(ScheduledModel model) const { return models_.at(model)->waiting; }
int32_t Scheduler::admitted(ScheduledModel model) const {
  return static_cast<int32_t>(models_.at(model)->admitted.size());
}

void Scheduler::ListWaiting(ScheduledModel model, std::vector<JobId>& out) const {
  order_.clear();
  for (const auto& queue : models_.at(model)->queues) {
    order_.insert(order_.end(), queue->jobs.begin(), queue->jobs.end());
  }
  std::sort(order_.begin(), order_.end(),
            [](const JobState* a, const JobState* b) { return a->arrival < b->arrival; });
  for (const JobState* job : order_) out.push_back(job->job.job);
}

}  // namespace tidepool::compute
