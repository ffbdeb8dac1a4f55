// Who runs next, where, with which weights in memory: a pure state machine over the devices of one node.
//
// Events go in (an arrival, a step done, a load done, a cancel, a capacity that changed, the time), effects
// come out (run this batch, load, evict, spill, restore, reject). There is no clock, no thread, no I/O and no
// randomness inside: the same events give the same effects, in the engine, which carries them out on real
// devices, and in the simulator, which carries them out in virtual time.
//
// Protocol. After any event the driver calls Decide until it returns no effects, carrying out each batch of
// effects in order before the next call:
//   kAdmit, kGrow     answered at once: Admitted or NoRoom; Grown or NoRoom
//   kRun              later: StepDone. One run at a time and device. Its plan is plan(device), valid until
//                     StepDone. A driver may take the plan's `steps` one by one or all at once: it ends early
//                     when a sequence ends or when kYield comes, and says how many steps were taken
//                     (StepsTaken meanwhile). A plan with `landing` begins before LoadDone; StepDone says 0
//                     steps when the load failed.
//   kLoad             later: LoadDone or LoadFailed, one at a time and device; after kStopLoad: LoadStopped
//                     (or LoadDone, when it was done already)
//   kEvict, kDrop,    done when carried out; they cannot fail. A dropped job waits again, its tokens kept:
//   all kReject           of them are computed again. A rejected job is removed by the scheduler. kSpill,
//   kRestore  later: SpillDone or RestoreDone (ok or not)
// A job that ends, fails or is cancelled is removed by the driver with Remove, in any state, at any time but
// between a Decide and the carrying out of its effects.
//
// Words. A *replica* is one model on one device. *Segments* are a model's weights in the order a step needs
// them (embedding, layers, head): residency is a number of leading segments. *Due*: token i of a request is
// due at arrival + ttft + i * tpot; *slack* is the time left until the next token of a job is due. A *turn*
// is a run of steps of one model on one device.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace tidepool::compute {

using PoolJobId = uint64_t;    // 0: none
using PoolModelId = uint64_t;  // 0: none
using PoolDeviceId = int32_t;  // 0, 1, ... in the order of AddDevice; -1: none
using PoolHostId = int32_t;

// Seconds of a step: prefill and decode parts add, the larger base counts once.
//   prefill: base + per_token * tokens + per_token2 * sum(tokens^2)
//   decode:  base + per_context_token * tokens in the KV cache + per_sequence * sequences
struct StepProfile {
  double prefill_base_s = 0, prefill_per_token_s = 0, prefill_per_token2_s = 0;
  double decode_base_s = 0, decode_per_context_token_s = 0, decode_per_sequence_s = 0;

  double StepSeconds(double prefill_tokens, double prefill_tokens2, double decode_context_tokens,
                     double decode_sequences) const {
    double base = 0, rest = 0;
    if (prefill_tokens > 0) {
      base = prefill_base_s;
      rest += prefill_per_token_s * prefill_tokens + prefill_per_token2_s * prefill_tokens2;
    }
    if (decode_sequences > 0) {
      base = base > decode_base_s ? base : decode_base_s;
      rest += decode_per_context_token_s * decode_context_tokens + decode_per_sequence_s * decode_sequences;
    }
    return base + rest;
  }
};

struct PoolHost {
  uint64_t kv_bytes = 0;          // host memory for KV that was spilled; 0: nothing can be
  double load_bytes_per_s = 1e9;  // from the store
};

struct PoolDevice {
  PoolHostId host = 0;
  int32_t kind = 0;               // index into PoolModel::profiles
  uint64_t arena_bytes = 0;       // weights and KV; scratch is taken off before
  double copy_bytes_per_s = 1e9;  // host to device, until measured
};

struct PoolModel {
  PoolModelId model = 0;
  std::string name;
  bool causal = true;          // false: a prompt is computed whole in one step
  int32_t batch_tokens = 512;  // what a step should hold; at least max_sequences
  int32_t max_step_tokens = 512;
  int32_t max_sequences = 64;
  int32_t max_logit_rows = 64;
  std::vector<uint64_t> segment_bytes;  // empty: needs no weights
  // Models of one file have the same number here, and the same segments: on a device their bytes count once,
  // and what one of them holds is there for the others. 0: shared with nobody.
  uint64_t weights_id = 0;
  uint64_t kv_block_bytes = 0;        // of 16 tokens
  std::vector<StepProfile> profiles;  // by kind of device; the last one serves the kinds beyond
  Nanoseconds ttft = 10 * kSecond, tpot = 100 * kMillisecond;
  double weight = 1;                   // of its jobs against those of other models
  bool pinned = false;                 // kept resident where it is, loaded when nothing is
  Nanoseconds idle_ttl = -1;           // evicted when idle for so long; -1: when room is needed
  Nanoseconds min_resident = 0;        // not evicted earlier after a load
  std::vector<PoolDeviceId> devices;   // it may run on; empty: all
  std::vector<PoolHostId> warm_hosts;  // where its packed weights are in memory already
};

// Within one account's share: interactive work goes before normal work that is due at the same time and is
// refused last; batch work is promised no time (an hour), takes what is left and is never refused for load.
enum class JobClass : uint8_t { kInteractive, kNormal, kBatch };
std::string_view JobClassName(JobClass job_class);  // "interactive", "normal", "batch"
std::optional<JobClass> FindJobClass(std::string_view name);

struct PoolJob {
  PoolJobId job = 0;
  PoolModelId model = 0;
  std::string account;  // a path: "organisation/workspace/key"
  std::vector<double> account_weights =
      {};  // one a level of the path, among what stands beside it; missing: 1
  JobClass job_class = JobClass::kNormal;
  int32_t prompt_tokens = 0;
  int32_t max_output_tokens = 0;  // reserved
  // More than 0: nobody said how long the answer may be, and max_output_tokens is all that it can ever be.
  // Room for so many tokens is promised, and for as many more whenever it has used them. Where there is none,
  // a younger one of its kind makes way (its KV is computed again), else it waits, and nothing of it is lost.
  // (Where a device stands still others may have to make way too: see PoolPolicyOptions::overcommit.)
  int32_t open_output_tokens = 0;
  bool wants_logits = true;        // of the last prompt token, then decodes
  bool prompt_logits = false;      // of every prompt token
  Nanoseconds ttft = 0, tpot = 0;  // 0: the model's
};

struct PlannedTokens {
  PoolJobId job = 0;
  int32_t begin = 0;       // tokens computed before
  int32_t count = 0;       // tokens to compute now
  int32_t logit_rows = 0;  // of the last logit_rows tokens: 0, 1 or, with prompt_logits, count
  int32_t spare = 0;       // of a decode: so many more tokens have room, and may be said to be taken
};

struct PoolPlan {
  PoolModelId model = 0;
  int32_t tokens = 0;
  int32_t logit_rows = 0;
  int32_t decodes = 0;   // the first `decodes` sequences are decodes, the others prefill chunks
  int32_t steps = 1;     // more than 1: every sequence is a decode and takes one token a step
  bool landing = false;  // its load is under way and all of it is to come: the step waits at each layer
  std::vector<PlannedTokens> sequences;
};

enum class EffectKind : uint8_t {
  kAdmit,
  kGrow,
  kRun,
  kYield,
  kLoad,
  kStopLoad,
  kEvict,
  kSpill,
  kRestore,
  kDrop,
  kReject
};
std::string_view EffectKindName(EffectKind kind);

// Why, for traces and people.
enum class Reason : uint8_t {
  kNone,
  kTurn,         // run: least slack
  kContinue,     // run: the turn goes on
  kUrgent,       // load: its jobs have the least slack
  kPrewarm,      // load: expected soon
  kPinned,       // load: is to be resident
  kIdle,         // evict: nothing wants it
  kMoreSlack,    // evict: its jobs can wait longer
  kExpired,      // evict: idle for its TTL
  kDrain,        // evict, spill: the device is cordoned or the pool shrinks
  kRoom,         // spill, drop: the KV of another is due
  kMove,         // spill, drop: goes to another device
  kOverloaded,   // reject: the promise cannot be kept
  kTooLarge,     // reject: it can never fit
  kQuarantined,  // reject: the model's loads failed
  kNoDevice,     // reject: every device it may run on is gone or cordoned
};
std::string_view ReasonName(Reason reason);

struct Effect {
  EffectKind kind = EffectKind::kRun;
  Reason reason = Reason::kNone;
  PoolDeviceId device = -1;
  PoolModelId model = 0;
  PoolJobId job = 0;
  int32_t segments = 0;      // kLoad: bring leading segments up to this; kEvict: keep so many
  int32_t tokens = 0;        // kAdmit, kGrow, kRestore: KV to reserve on the device
  double retry_after_s = 0;  // kReject
  int32_t queue_position = 0;
};

struct ReplicaState {
  PoolModelId model = 0;
  int32_t segments = 0, resident_segments = 0;
  bool loading = false;
  uint64_t resident_bytes = 0, kv_bytes = 0;
  int32_t waiting = 0, active = 0, spilled = 0;
  double slack_s = 0;         // of its most urgent job; 0 when it has none
  double load = 0;            // share of the device its jobs need to keep their pace
  int32_t load_failures = 0;  // in a row, of the model's own fault
  double retry_in_s = 0;      // > 0: quarantined; the next load is tried then
};
struct DeviceState {
  uint64_t arena_bytes = 0, weight_bytes = 0, kv_bytes = 0;
  bool cordoned = false, busy = false;
  PoolModelId running = 0;
  double load = 0;            // 1: exactly enough for the pace of all jobs
  double switch_share = 0;    // of its time that waited for loads with work at hand, smoothed over a minute
  double switches_per_s = 0;  // smoothed over a minute
  std::vector<ReplicaState> replicas;
};
struct PoolCounters {
  uint64_t decisions = 0, arrivals = 0, rejected = 0, switches = 0, loads = 0, load_failures = 0;
  uint64_t spills = 0, restores = 0, drops = 0, moves = 0, turns = 0, evictions = 0;
  uint64_t bytes_loaded = 0, bytes_spilled = 0, bytes_restored = 0;
};

class PoolScheduler {
 public:
  virtual ~PoolScheduler() = default;
  virtual std::string_view name() const = 0;

  // ---- what there is
  virtual PoolHostId AddHost(const PoolHost& host) = 0;
  virtual PoolDeviceId AddDevice(const PoolDevice& device) = 0;
  virtual void AddModel(const PoolModel& model) = 0;
  virtual void RemoveModel(PoolModelId model) = 0;  // its jobs have been removed before
  // pinned, TTL, promises, weight; not shapes. Its weights_id may change from 0 to a number that no model
  // has.
  virtual void UpdateModel(const PoolModel& model) = 0;

  // ---- events; `now` never goes back
  virtual void Arrive(const PoolJob& job, Nanoseconds now) = 0;
  virtual void SetPaused(PoolJobId job, bool paused, Nanoseconds now) = 0;
  virtual void Remove(PoolJobId job, Nanoseconds now) = 0;
  virtual void Admitted(PoolJobId job, int32_t cached_tokens) = 0;
  virtual void Grown(PoolJobId job) = 0;
  virtual void NoRoom(PoolJobId job) = 0;
  virtual void RoomReturned(PoolDeviceId device) = 0;  // what the driver took for itself is free again
  // `steps` of plan(device) have been computed in `busy` of device time.
  virtual void StepDone(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) = 0;
  // The first `steps` of the run have been computed, the last of them at `now`, and it goes on: for drivers
  // that take many at once, before they tell of anything else. plan(device) and StepDone speak of the rest.
  virtual void StepsTaken(PoolDeviceId device, int32_t steps, Nanoseconds busy, Nanoseconds now) = 0;
  // Before a StepDone of one step: that step gives this decode so many tokens more than its one, at most its
  // plan's `spare` (the driver guessed them and the step proved them).
  virtual void TokensTaken(PoolJobId job, int32_t tokens) = 0;
  virtual void LoadDone(PoolDeviceId device, PoolModelId model, Nanoseconds now) = 0;
  // `segments` stay resident. `missing_bytes` > 0: there was no room, which is no fault of the model.
  virtual void LoadFailed(PoolDeviceId device, PoolModelId model, int32_t segments, uint64_t missing_bytes,
                          Nanoseconds now) = 0;
  virtual void LoadStopped(PoolDeviceId device, PoolModelId model, int32_t segments, Nanoseconds now) = 0;
  virtual void SpillDone(PoolJobId job, bool ok, Nanoseconds now) = 0;
  virtual void RestoreDone(PoolJobId job, bool ok, Nanoseconds now) = 0;
  virtual void Warmed(PoolHostId host, PoolModelId model, bool warm) = 0;
  // Its weights are to come when there is room that no model with work needs. Once.
  virtual void Prefetch(PoolModelId model, Nanoseconds now) = 0;
  virtual void SetArena(PoolDeviceId device, uint64_t bytes, Nanoseconds now) = 0;
  virtual void SetHostKv(PoolHostId host, uint64_t bytes, Nanoseconds now) = 0;
  virtual void SetCordoned(PoolDeviceId device, bool cordoned, Nanoseconds now) = 0;

  // ---- decisions: appends effects; see the protocol above
  virtual void Decide(Nanoseconds now, std::vector<Effect>& effects) = 0;
  virtual const PoolPlan& plan(PoolDeviceId device) const = 0;
  // When Decide should be called although nothing happened; INT64_MAX: never.
  virtual Nanoseconds wake_at() const = 0;

  // ---- what is
  virtual DeviceState device_state(PoolDeviceId device, Nanoseconds now) const = 0;
  virtual PoolCounters counters() const = 0;
  virtual int32_t waiting(PoolModelId model) const = 0;
  virtual int32_t admitted(PoolModelId model) const = 0;
  // Waiting jobs of a model, oldest first: appended to `out`.
  virtual void ListWaiting(PoolModelId model, std::vector<PoolJobId>& out) const = 0;
};

struct PoolPolicyOptions {
  // Arrivals are rejected when every device would need more than this share of its time to keep the pace of
  // its jobs. 0: nothing is rejected for load.
  double admission_load = 1;
  // Reserved tokens (prompt + most output) may exceed what device and host can hold by this factor. More than
  // 1: when memory runs out after all, KV is dropped and recomputed. At 1 that happens to open-ended jobs, to
  // those of accounts that hold more than their share of what may be reserved while others need it, and where
  // a device stands still because no sequence fits whole into the room that is left.
  double overcommit = 1;
  int32_t max_turn_steps = 1 << 20;  // 1: every step is a decision of its own (tests)
  double age_bound_s = 30;  // under overload nothing waits unserved much longer while others are served
};

// "tidepool"; and, for comparison, "dedicated", "static", "lru", "serverlessllm", "aegaeon" (baselines.h).
std::unique_ptr<PoolScheduler> MakeTidepoolScheduler(const PoolPolicyOptions& options);

}  // namespace tidepool::compute
