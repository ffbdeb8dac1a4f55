// What every policy keeps account of, and how events change it: devices, replicas, jobs, bytes, learned
// times. A policy derives from PoolState, places jobs (Place) and decides (Decide). Internal to this folder.
#pragma once

#include <algorithm>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "compute/scheduler/accounts.h"
#include "compute/scheduler/pool_scheduler.h"

namespace tidepool::compute::pool {

inline constexpr int32_t kBlockTokens = 16;

struct Model;
struct Replica;
struct Device;
struct Host;

// Whose work estimates count: what came beyond an account's share is not in the way of what came within one.
enum class View : uint8_t { kAll, kWithinShare };

enum class Place : uint8_t { kNowhere, kWaiting, kActive, kSpilling, kSpilled, kRestoring };

struct Job {
  PoolJob job;
  Account* account = nullptr;
  Model* model = nullptr;
  Replica* replica = nullptr;
  Place place = Place::kNowhere;
  bool paused = false;
  double charge = 1;     // Device::charge when it was placed
  bool beyond = false;   // it came beyond its account's share of the pool
  bool relaxed = false;  // its promise has been compared with what the devices can do
  bool placed = false;   // it had a device: it is not refused for load any more, nor for a cordon
  bool asked = false;    // a kAdmit or kGrow waits for its answer
  bool gone = false;     // removed while its KV was moving: kept until the move has ended
  int32_t prompt = 0;    // tokens to prefill: the prompt, and after a drop what was generated too
  int32_t computed = 0;  // tokens whose KV exists
  int32_t produced = 0;  // output tokens
  int32_t reserved = 0;  // tokens of KV reserved on the device
  int32_t held = 0;      // while asked: what it had before
  uint64_t device_bytes = 0, host_bytes = 0;       // KV charged
  Device* on = nullptr;                            // where device_bytes are
  Host* spilled_to = nullptr;                      // where host_bytes are
  AccountPledge pledge;                            // what its account was charged for it
  double ahead_s = 0;                              // its account's clock, when it came
  double served_s = 0;                             // what it took, in the unit of the pledge
  double prefill_token_s = 0, decode_token_s = 0;  // of that unit
  int32_t promised = 0;                            // tokens whose KV is committed
  uint64_t committed = 0;  // KV it may come to need, counted at its host once it was admitted
  Host* committed_to = nullptr;
  uint64_t arrival_order = 0;
  Nanoseconds arrival = 0, ttft = 0, tpot = 0;
  Nanoseconds served_at = 0;         // last step it was part of
  Nanoseconds place_at = 0;          // batch work that waits for a device: when it is looked at again
  uint64_t refused_epoch = 0;        // no room since
  uint64_t spill_refused_epoch = 0;  // the host's arena had none for it since
  int32_t passed = 0;                // admissions to its device since it was first refused
  Device* move_to = nullptr;         // after the spill
  size_t index = 0;                  // in its replica's list

  bool prefilling() const { return computed < prompt; }
  Nanoseconds due() const { return arrival + ttft + tpot * produced; }
  int32_t most_tokens() const { return job.prompt_tokens + job.max_output_tokens; }
  bool open_ended() const { return job.open_output_tokens > 0; }
  // Tokens to promise at first, and all that may be reserved now.
  int32_t first_promise() const {
    return open_ended() ? std::min(most_tokens(), prompt + job.open_output_tokens) : most_tokens();
  }
  int32_t reserve_limit() const {
    return std::max(committed > 0 && open_ended() ? promised : first_promise(), computed + 1);
  }
};

// The least of a replica's jobs: of all, of those that a turn serves (not of what waits for room), and of
// prompts that wait, not of accounts that are refused.
struct Urgencies {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  double any = kNone, turn = kNone, prompt = kNone;
};

struct Replica {
  Model* model = nullptr;
  Device* device = nullptr;
  int32_t landed = 0;      // leading segments in memory
  int32_t loading_to = 0;  // while loading: what was asked for
  bool loading = false, stopping = false;
  Nanoseconds load_began = 0, landed_at = 0, last_used = 0, moved_at = 0;
  uint64_t bytes = 0;       // landed, or to land; charged, unless another model of its file holds them here
  uint64_t load_bytes = 0;  // while loading: what was missing
  std::vector<Job*> waiting, active, spilled;  // spilled: also spilling and restoring
  int32_t runnable = 0;                        // active and not paused
  int32_t prefilling = 0;                      // of these
  int64_t context = 0;  // tokens that the jobs' KV is expected to hold, paused ones left out
  int64_t backlog = 0;  // prompt tokens to compute, of waiting and runnable
  int32_t beyond = 0;   // jobs that came beyond their account's share
  int64_t beyond_context = 0, beyond_backlog = 0;  // of these
  uint64_t served = 0;                             // turns since the weights landed
  uint64_t attempt = 0;                            // of a turn that could not run anything
  Urgencies urgencies;
  uint64_t urgencies_of = 0;  // PoolState::changes_, when they were looked for

  bool resident() const;
  int32_t jobs() const { return static_cast<int32_t>(waiting.size() + active.size() + spilled.size()); }
  int32_t jobs(View view) const { return view == View::kAll ? jobs() : jobs() - beyond; }
};

// What each part of a step takes over what the profile says, learned from steps. Parts, for a first guess of
// a profile is wrong by part: a processor's second sequence costs it more than arithmetic says, its memory
// less.
struct LearnedPace {
  double prefill_base = 1, prefill_token = 1, decode_base = 1, decode_context = 1, decode_sequence = 1;
  int32_t prefills = 0,
          decodes = 0;  // steps with and without prefill that were learned from, until they are many
};

struct Model {
  PoolModel model;
  uint64_t weight_bytes = 0;
  std::vector<uint64_t> prefix_bytes;  // [i]: of the first i segments
  std::vector<Replica*> replicas;      // in the order of devices; nullptr: none yet
  std::vector<bool> warm;              // by host
  int32_t waiting = 0, admitted = 0;
  LearnedPace pace;
  // Quarantine.
  int32_t load_failures = 0;
  Nanoseconds quarantined_until = 0;
  // Forecast.
  Nanoseconds last_arrival = -1;
  double arrival_gap_s = 0;  // smoothed
  double mean_prompt = 0;    // smoothed
  double mean_output = 0;    // smoothed; 0: none ended yet
  int64_t arrivals = 0;
  bool prefetch = false;

  bool pinned_here() const { return model.pinned; }
  bool needs_weights() const { return weight_bytes > 0; }
  int32_t segments() const { return static_cast<int32_t>(model.segment_bytes.size()); }
};

inline bool Replica::resident() const { return landed == model->segments() && !stopping; }

struct Turn {
  Replica* replica = nullptr;
  int32_t steps_left = 0;
  bool broken = false;
  // When, in seconds of time, the most urgent prompt of another model that is in memory wants to be computed;
  // those of accounts that are refused do not count.
  double first_prompt_s = std::numeric_limits<double>::infinity();
};

inline constexpr Nanoseconds kRefuses = 5 * kSecond;  // so long after it last did
inline constexpr double kUnknownPace = 1.15;          // of a device that has not run yet; see Device::pace
inline constexpr double kLongPace_s = 20, kShortPace_s = 3;

struct Device {
  PoolDevice device;
  PoolDeviceId id = 0;
  uint64_t arena = 0;
  uint64_t weight_bytes = 0, kv_bytes = 0;  // charged
  double copy_rate = 1e9;                   // learned
  bool cordoned = false;
  bool busy = false, yielding = false, landing = false;
  int32_t beyond_plan = 0;  // tokens that its decodes took in this step beside their one each
  PoolPlan plan;
  Replica* running = nullptr;
  Turn turn;
  PoolModelId turns_of = 0;  // the model that had the last turn, and since when it had them all
  Nanoseconds turns_since = 0;
  int32_t asked = 0;  // answers still to come
  Replica* loading = nullptr;
  int32_t spilling = 0, restoring = 0;
  uint64_t spilling_bytes = 0;
  std::vector<Replica*> replicas;  // that exist here, in the order they were made
  // Changes whenever room may have come; a number of its own, for jobs that were refused move between
  // devices.
  uint64_t room_epoch = 0;
  bool dirty = true;       // something changed that weights, KV and moves depend on
  bool step_ended = true;  // a turn may go on or begin
  Nanoseconds wake_at = INT64_MAX;
  bool stuck = false;                // idle with work at hand since the last try: room is made at any price
  Nanoseconds retry_at = INT64_MAX;  // what found no room is tried again, for room comes with time too
  double load[2] = {};               // cached, by View; see LoadOf
  bool load_known = false;
  bool late = false;  // one of its jobs is
  // Time from the end of a step to the end of the next, with work at hand, over what was planned for it, of
  // late and of all models: what a driver does between steps, what others take from its processors and what
  // was planned too short is not there for promises either. A device that has not run is taken for slower
  // than its profile says.
  double pace = kUnknownPace, long_pace = kUnknownPace, short_pace = 1;
  double late_share = 0;  // of answers of late: whose last token was; not of batch work, or beyond a share
  Nanoseconds step_ended_at = -1;  // while steps follow each other
  // Accounts are charged what tokens cost in full batches. A device that refuses for want of time, but does
  // not get to such batches, serves less than that: the seconds that passed, of late, over what was charged
  // for them. 1 after it has refused nobody for a while: an idle device's small batches say nothing of what
  // it could serve.
  double charge = 1, passed_s = 0, charged_s = 0;
  double step_charged_s = 0;               // for the step that ended, in full batches
  Nanoseconds refused_at = INT64_MIN / 2;  // it last had no time for a request
  Nanoseconds land_at = INT64_MAX;         // when a step of the model that is loading may begin
  bool lands = false;                      // it may
  // KV went to the host so that weights can come: until then what is less urgent does not come back.
  Nanoseconds weights_first_until = 0;
  double weights_urgency = 0;
  // For people.
  double wait_share = 0, switch_rate = 0;
  Nanoseconds rates_at = 0, blocked_since = -1;

  uint64_t used() const { return weight_bytes + kv_bytes; }
  uint64_t free() const { return used() >= arena ? 0 : arena - used(); }
};

struct Host {
  PoolHost host;
  uint64_t kv_bytes = 0;   // spilled
  uint64_t committed = 0;  // what the admitted jobs of its devices may come to need, wherever it will be
  std::map<const Account*, uint64_t> committed_to;  // of these, by account
  bool full = false;                                // somebody was refused for that
  std::vector<Device*> devices;
  uint64_t free() const { return kv_bytes >= host.kv_bytes ? 0 : host.kv_bytes - kv_bytes; }
};

class PoolState : public PoolScheduler {
 public:
  explicit PoolState(const PoolPolicyOptions& options) : options_(options) {}
  ~PoolState() override;

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
  const PoolPlan& plan(PoolDeviceId device) const override { return devices_[Index(device)]->plan; }
  Nanoseconds wake_at() const override { return wake_at_; }
  DeviceState device_state(PoolDeviceId device, Nanoseconds now) const override;
  PoolCounters counters() const override { return counters_; }
  int32_t waiting(PoolModelId model) const override { return ModelOf(model).waiting; }
  int32_t admitted(PoolModelId model) const override { return ModelOf(model).admitted; }
  void ListWaiting(PoolModelId model, std::vector<PoolJobId>& out) const override;

  // For tests, after any event and any Decide: empty, or which account does not add up. O(jobs + replicas).
  std::string CheckInvariants() const;
  // For tests, right after Decide: empty, or what a policy remembers and is not so.
  virtual std::string CheckDecision(Nanoseconds /*now*/) const { return {}; }

 protected:
  // A job that arrived and has no replica: Assign it, or leave it in unplaced_, which Decide looks through.
  virtual void PlaceJob(Job& job, Nanoseconds now) = 0;
  virtual void OnAssigned(Job& /*job*/, Nanoseconds /*now*/) {}  // after it joined job.replica
  // Order within a step and of admissions: the smaller goes first.
  virtual double Urgency(const Job& job, Nanoseconds now) const { return Slack(job, now); }
  // May its prompt make a step longer that has other things to do?
  virtual bool MayLengthen(const Job& /*job*/, Nanoseconds /*now*/) const { return true; }

  // ---- lists and bytes
  static size_t Index(int32_t id) { return static_cast<size_t>(id); }
  Model& ModelOf(PoolModelId model) const { return *models_.at(model); }
  Job* FindJob(PoolJobId job) const;
  Replica& ReplicaOf(Model& model, Device& device);  // made when absent
  Replica* FindReplica(const Model& model, const Device& device) const;
  void Assign(Job& job, Device& device, Nanoseconds now);
  void Count(const Job& job, int32_t sign);  // into, or out of, its replica's sums
  void Detach(Job& job);                     // from its replica's lists and counts
  void Attach(Job& job, Replica& replica, Place place);
  void ChargeDevice(Job& job, uint64_t bytes);
  void ChargeHost(Job& job, uint64_t bytes);
  static void Commit(Job& job, uint64_t bytes);  // instead of what was, at job.committed_to
  uint64_t KvBytes(const Model& model, int32_t tokens) const {
    return static_cast<uint64_t>((tokens + kBlockTokens - 1) / kBlockTokens) * model.model.kv_block_bytes;
  }
  void Touch(Device& device) {
    device.dirty = true;
    device.load_known = false;
  }
  void NewRoom(Device& device) {
    device.room_epoch = ++room_epochs_;
    ++changes_;
  }
  void Break(Device& device) {  // the turn is to be thought over
    device.turn.broken = true;
    Touch(device);
  }

  // ---- effects
  void EmitLoad(Replica& replica, int32_t segments, Reason reason, Nanoseconds now,
                std::vector<Effect>& effects);
  void EmitStopLoad(Device& device, std::vector<Effect>& effects);
  void EmitEvict(Replica& replica, int32_t keep, Reason reason, std::vector<Effect>& effects);
  void EmitAdmit(Job& job, int32_t tokens, std::vector<Effect>& effects);
  void EmitGrow(Job& job, int32_t tokens, std::vector<Effect>& effects);
  void EmitSpill(Job& job, Reason reason, std::vector<Effect>& effects);
  void EmitRestore(Job& job, int32_t tokens, std::vector<Effect>& effects);
  void EmitDrop(Job& job, Reason reason, std::vector<Effect>& effects);
  void EmitReject(Job& job, Reason reason, double retry_after_s, int32_t position, Nanoseconds now,
                  std::vector<Effect>& effects);  // the job is gone afterwards
  void EmitYield(Device& device, std::vector<Effect>& effects);
  // Runs what ComposeStep put into device.plan.
  void EmitRun(Device& device, Replica& replica, Reason reason, Nanoseconds now,
               std::vector<Effect>& effects);
  // Fills device.plan for one step of `replica` (decodes first, then prefill chunks by urgency). Sequences
  // without reserved room for their next token are left out. False: nothing can run. `most_steps` bounds
  // plan.steps. decode_only: leaves prefills to others; prefill_only likewise.
  struct ComposeRule {
    bool decode = true, prefill = true;
    int32_t most_prefills = INT32_MAX;
    int32_t most_steps = 1;
    int32_t most_beyond = INT32_MAX;  // prompt tokens of jobs beyond their account's share: a step is not
                                      // interrupted, and others may come
  };
  bool ComposeStep(Replica& replica, const ComposeRule& rule, Nanoseconds now, PoolPlan& plan);

  // ---- estimates (seconds)
  const StepProfile& GivenProfile(const Model& model, const Device& device) const;
  StepProfile ProfileOf(const Model& model, const Device& device) const;  // as learned
  double DecodeSeconds(const Replica& replica, int32_t more_sequences, int64_t more_context,
                       View view = View::kAll) const;
  // One token for each; in as many steps as that takes.
  double BatchSeconds(const Model& model, const Device& device, int32_t sequences, double context) const;
  double PrefillSeconds(const Model& model, const Device& device, int64_t tokens) const;
  // What another model of its file holds or will hold on its device; 0: none.
  uint64_t SharedBytes(const Replica& replica) const;
  // What is missing on its device for all of its weights.
  uint64_t MissingBytes(const Replica& replica) const {
    return replica.model->weight_bytes - std::max(replica.bytes, SharedBytes(replica));
  }
  // Changes what a replica holds or will hold, and what its device is charged for it.
  void SetSegments(Replica& replica, int32_t segments);
  double LoadSeconds(const Replica& replica) const;
  double LoadSeconds(const Model& model, const Device& device) const;
  static double Slack(const Job& job, Nanoseconds now) { return static_cast<double>(job.due() - now) * 1e-9; }
  // Of a step that took `passed_s` from the end of the one before; see Device::charge.
  static void LearnCharge(Device& device, double passed_s, Nanoseconds now);
  // Share of the device's time that the jobs on it need to keep their pace.
  double LoadOf(Device& device, View view = View::kAll) const;
  // Where a model alone is slower than the promise, two at once at its own speed is what can be promised.
  double SlowestPace(const Model& model, const Device& device) const;
  double ReplicaLoad(const Replica& replica, int32_t more_sequences, int64_t more_context,
                     View view = View::kAll) const;
  void CheckRates(Device& device, Nanoseconds now, bool blocked, bool switched);

  const PoolPolicyOptions options_;
  std::vector<std::unique_ptr<Host>> hosts_;
  std::vector<std::unique_ptr<Device>> devices_;
  std::map<PoolModelId, std::unique_ptr<Model>> models_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  std::unordered_map<PoolJobId, std::unique_ptr<Job>> jobs_;
  AccountTree accounts_;
  std::vector<Job*> unplaced_;  // by arrival
  PoolCounters counters_;
  Nanoseconds wake_at_ = INT64_MAX;
  uint64_t arrivals_ = 0;
  uint64_t room_epochs_ = 0;
  uint64_t changes_ = 1;  // of time, of jobs and of where they are, of room
  mutable std::vector<Job*> order_;

 private:
  void PlacePinned(Model& model);
  void Free(Job& job, Nanoseconds now);  // from the table; it is in no list
  void ReturnHostRoom(Host& host);
  void EraseFrom(std::vector<Job*>& list, Job& job);
  double TakeSteps(Device& device, int32_t steps, Nanoseconds busy, Nanoseconds now);
  static void LearnPace(Device& device, double planned_s, Nanoseconds busy, Nanoseconds now);
  // Returns what was planned for it, in seconds.
  double LearnStep(Device& device, int32_t steps, Nanoseconds busy);
  void ChargeSwitch(const Replica& replica, Nanoseconds stood);
  std::string CheckReplica(const Replica& replica) const;
};

}  // namespace tidepool::compute::pool
