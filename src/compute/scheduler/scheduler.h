// Who runs next on a device: a pure state machine. Events go in, plans come out; it has no clock, no threads,
// no I/O and no randomness, so the same events give the same plans, in the engine and in a simulator.
//
// A job is one sequence: it waits, is admitted (its KV is reserved, by the caller), computes its prompt in
// chunks (prefill), then one token a step (decode) until the caller removes it. Jobs that want no logits
// (embeddings) end with their prompt.
//
// Policy
//   Models take turns: the one with runnable work that was served longest ago has the next step.
//   Within a step: every decode first, then the rest of the token budget goes to prefill chunks.
//   Accounts share by virtual service (tokens computed; a generated token counts kDecodeWeight): the account
//   that got least goes first, within it first come first served; an account that was idle starts at the
//   service of the active ones. Every kOldestEvery-th choice goes to the oldest job instead: the bound on how
//   long anyone can be passed. A job that found no room may be passed by at most kMaxPassed others, then
//   admissions wait until it fits.
//
// Threads: one. Plan, StepDone and NextAdmission do not allocate once their vectors have grown.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

namespace tidepool::compute {

using JobId = uint64_t;  // 0: none
using ScheduledModel = uint64_t;

inline constexpr double kDecodeWeight = 2;
inline constexpr int32_t kOldestEvery = 4;
inline constexpr int32_t kMaxPassed = 64;

struct SchedulerModel {
  ScheduledModel model = 0;
  bool causal = true;          // false: a prompt is computed whole in one step
  int32_t batch_tokens = 512;  // what a step should hold; at least max_sequences
  int32_t max_step_tokens =
      512;                      // what it can hold: more than batch_tokens only for encoders with long inputs
  int32_t max_sequences = 64;   // of one step, and admitted and not paused at a time
  int32_t max_logit_rows = 64;  // at least max_sequences
};

struct Job {
  JobId job = 0;
  ScheduledModel model = 0;
  std::string account;
  int32_t prompt_tokens = 0;
  bool wants_logits = true;    // of the last prompt token, then decodes
  bool prompt_logits = false;  // of every prompt token
};

struct PlannedSequence {
  JobId job = 0;
  int32_t begin = 0;       // tokens computed before
  int32_t count = 0;       // tokens to compute now
  int32_t logit_rows = 0;  // of the last logit_rows tokens: 0, 1 or, with prompt_logits, count
};

struct StepPlan {
  ScheduledModel model = 0;
  int32_t tokens = 0;
  int32_t logit_rows = 0;
  int32_t decodes = 0;  // the first `decodes` sequences are decodes, the others prefill chunks
  std::vector<PlannedSequence> sequences;
};

class Scheduler {
 public:
  Scheduler();
  ~Scheduler();
  Scheduler(const Scheduler&) = delete;
  Scheduler& operator=(const Scheduler&) = delete;

  // ---- events
  void AddModel(const SchedulerModel& model);
  void RemoveModel(ScheduledModel model);  // its jobs have been removed before
  void Arrive(const Job& job);
  void SetPaused(JobId job, bool paused);  // a paused job is neither admitted nor planned
  void Remove(JobId job);                  // ended, failed or cancelled, in any state
  // Answers to NextAdmission: its KV is reserved and `cached_tokens` of its prompt need no computing, or
  // there is no room until something gives room back.
  void Admitted(JobId job, int32_t cached_tokens);
  void NoRoom(JobId job);
  void RoomReturned();                  // capacity grew; Remove of an admitted job implies it
  void StepDone(const StepPlan& plan);  // what was planned has been computed

  // ---- decisions
  // The job to try to admit now, or 0. Call until 0, answering each.
  JobId NextAdmission();
  // Fills `plan`; false: nothing can run. StepDone (or Remove of some jobs, then StepDone) follows before the
  // next.
  bool Plan(StepPlan& plan);

  // ---- what is
  int32_t waiting(ScheduledModel model) const;
  int32_t admitted(ScheduledModel model) const;
  bool HasRunnable() const;
  // Waiting jobs of a model, oldest first: appended to `out`.
  void ListWaiting(ScheduledModel model, std::vector<JobId>& out) const;

 private:
  struct Account;
  struct JobState;
  struct Queue;
  struct ModelState;

  Account* AcquireAccount(const std::string& name);
  void DropAccount(Account* account);
  JobState* FirstUnpaused(const Queue& queue) const;
  void PlanDecodes(ModelState& model, StepPlan& plan);
  void PlanPrefills(ModelState& model, StepPlan& plan);
  void AddToPlan(JobState& job, int32_t count, int32_t logit_rows, StepPlan& plan);

  std::map<ScheduledModel, std::unique_ptr<ModelState>> models_;
  std::unordered_map<JobId, std::unique_ptr<JobState>> jobs_;
  std::map<std::string, std::unique_ptr<Account>> accounts_;
  double service_floor_ = 0;  // virtual service an account starts with
  uint64_t arrivals_ = 0;
  uint64_t room_epoch_ = 1;  // grows when room comes back
  uint64_t step_ = 0;
  uint64_t admissions_ = 0;
  mutable std::vector<JobState*> order_;  // scratch
};

}  // namespace tidepool::compute
