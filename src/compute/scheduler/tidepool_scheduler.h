// Tidepool's own policy. Internal to this folder; made by MakeTidepoolScheduler.
//
//   Urgency     The slack of a job less the time of its remaining prefill, plus what it waits because it came
//               beyond its account's share, and, when its account is refused or promises are not kept,
//               because its account has had more than its share (accounts.h).
//               One that is late counts as the less urgent the later it is (its next tokens are lost anyway),
//               until it has gone unserved for the age bound; then it goes first. Interactive work counts as
//               due earlier by a quarter of its TTFT.
//   Turns       Among the resident models of a device the one with the most urgent job that has room, or may
//               get it, runs, and keeps the device until its slack exceeds the next one's by a few tokens'
//               time. Between resident models a turn costs nothing. A step holds all decodes of the model and
//               prefill chunks. A step begins on weights that are still landing when they land before it
//               needs them.
//   Residency   The copy engine always works for the most urgent model that is not resident. Room is made by
//               dropping last layers: of idle models, least wanted first; else of the models with the most
//               slack, if they can be back in time (the gap between the two slacks is at least the time of
//               both loads, as measured: the hysteresis that keeps a slow bus from thrashing). The model that
//               has the turn gives its weights when no other resident model has work, it has had its turns
//               for some seconds, and the one that waits would be late; at once when all its jobs came beyond
//               their share and those that wait did not. A load that only such jobs want stops for others,
//               and their KV takes what is free and makes way first.
//   Placement   A request joins the device where it adds least: a model's batch that is there (a sequence
//               more costs little), else the device with least load, dearer as the load nears 1 and as more
//               bytes want to be resident than fit. Twice a second one model moves from the fullest to the
//               emptiest device if that helps.
//   Admission   A request is refused when, with it, more would be due within some time than can be computed
//               and copied in that time (processor demand). One more of a model that is at work is refused
//               last, what came beyond an account's share first; what an account needs within its share is
//               never refused for what others sent. Interactive work has the reserve above what else is
//               promised; batch work waits instead, and is in nobody's way.
#pragma once

#include "compute/scheduler/pool_state.h"
#include "compute/scheduler/tidepool_policy.h"

namespace tidepool::compute::pool {

// Adds up weights of models: those of one file once.
class FilesOnce {
 public:
  uint64_t BytesOf(const Model& model) {
    const uint64_t file = model.model.weights_id;
    if (file != 0 && std::find(counted_.begin(), counted_.end(), file) != counted_.end()) return 0;
    if (file != 0) counted_.push_back(file);
    return model.weight_bytes;
  }

 private:
  std::vector<uint64_t> counted_;
};

class TidepoolScheduler final : public PoolState {
 public:
  explicit TidepoolScheduler(const PoolPolicyOptions& options) : PoolState(options) {}
  std::string_view name() const override { return "tidepool"; }
  void Decide(Nanoseconds now, std::vector<Effect>& effects) override;
  std::string CheckDecision(Nanoseconds now) const override;

 protected:
  void PlaceJob(Job&, Nanoseconds) override {}  // all of it is in Decide
  void OnAssigned(Job& job, Nanoseconds now) override;
  double Urgency(const Job& job, Nanoseconds now) const override;
  bool MayLengthen(const Job& job, Nanoseconds now) const override;

 private:
  struct Fit {
    Device* device = nullptr;  // the cheapest
    double cost = 0;
    Device* apart = nullptr;  // the cheapest where the job's model is not at work
    double apart_cost = 0;
  };
  void Relax(Job& job) const;
  void PlaceAll(Nanoseconds now, std::vector<Effect>& effects);
  Fit BestFit(const Job& job, Nanoseconds now) const;
  // `more`: as if that model were at work there too; nullptr: as it is.
  double WeightPressure(const Device& device, const Model* more, View view = View::kAll) const;
  static double BurstSeconds(const Job& job);
  static bool Beyond(const Job& job, Nanoseconds now);
  double ExpectedOutput(const Job& job) const;
  double ReadingSeconds(const Host& host) const;
  // Shares of time: 1 is all there is.
  struct Demand {
    double compute = 0, copies = 0;
  };
  Demand DemandWith(const Device& device, const Job& job, View view, const Account* below,
                    Nanoseconds now) const;
  double Overload(const Job& job, const Device& device, Nanoseconds now) const;
  double AheadSeconds(const Job& job, const Device& device, Nanoseconds now) const;

  void DecideDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  void ManageDevice(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  Urgencies LookUrgencies(const Replica& replica, Nanoseconds now) const;
  const Urgencies& UrgenciesOf(Replica& replica, Nanoseconds now) const;  // kept while nothing changed
  double LoadLeft(const Replica& replica, Nanoseconds now) const;
  void PlanLanding(Device& device, Nanoseconds now);
  static bool Lands(const Replica& replica);
  bool Ready(const Replica& replica) const;
  bool Admissible(const Replica& replica) const;
  int32_t BeyondTokens(const Replica& replica) const;
  void ChooseTurn(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  static bool AnyLate(const Device& device, Nanoseconds now);
  bool BeginTurn(Device& device, Nanoseconds now);
  double FirstPrompt(const Device& device, const Replica& turn, Nanoseconds now) const;
  struct Queue {
    struct Entry {
      bool last;
      double urgency;
      size_t position;
      Job* job;
      auto operator<=>(const Entry&) const = default;
    };
    std::vector<Entry> heap;  // the least is in front
    // Somebody whom many have passed finds no room: nobody passes him any more. If he comes last, nobody else
    // that does.
    bool barrier = false, last_barrier = false;
    uint64_t epoch = 0;  // the device's, and how many waited, when it was made
    size_t waiting = 0;
  };
  Queue QueueOf(const Replica& replica, Nanoseconds now) const;
  bool AdmitJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects);
  static bool Refused(const Job& job, Nanoseconds now) { return now - job.account->refused_at < kFlood; }
  static bool ComesLast(const Job& job, Nanoseconds now) { return job.beyond && Refused(job, now); }
  uint64_t WantedWithinShare(const Device& device, Nanoseconds now) const;
  uint64_t LastKvBytes(const Device& device, Nanoseconds now) const;  // that could make way
  bool GrowJobs(Replica& replica, Nanoseconds now, std::vector<Effect>& effects);
  bool GrowJob(Job& job, Device& device, bool first, Nanoseconds now, std::vector<Effect>& effects);
  int32_t FirstReservation(const Job& job) const;
  double CommitLimit(const Host& host) const;
  bool Committable(const Job& job, Nanoseconds now);  // or made so
  void TakeBackPromises(const Job& job, Host& host, uint64_t more, double limit);
  static bool WithinPromises(const Account& account, const Host& host, uint64_t more, double limit);
  bool PromiseMore(Job& job, int32_t tokens, Nanoseconds now, std::vector<Effect>& effects);
  void Refuse(Job& job, Device& device,
              Nanoseconds now);  // no room: tried again when some comes or may have come

  void ManageWeights(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  bool StartLoad(Device& device, Replica& replica, double urgency, Reason reason, Nanoseconds now,
                 std::vector<Effect>& effects);
  void RestoreJobs(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  bool OthersCanRun(const Replica& replica) const;
  struct Victim {
    Replica* replica;
    double rank;  // the larger goes first
  };
  static uint64_t CountFilesOnce(const Device& device, std::vector<Victim>& victims);
  struct Room {
    uint64_t bytes = 0;
    double urgency = 0;              // of the job or model that they are for
    double load_s = 0;               // 0: for KV
    const Replica* keep = nullptr;   // whose weights stay
    bool takes_last = false;         // KV that comes last makes way, also of the model that has the turn
    const Job* grower = nullptr;     // a job that cannot go on without them: also others of its own model
    const Replica* gives = nullptr;  // the model that has the turn, when it makes way
  };
  // Frees room; false: not (yet).
  bool MakeRoom(Device& device, Room room, Nanoseconds now, std::vector<Effect>& effects);
  bool SpillFor(Device& device, const Room& room, Nanoseconds now, std::vector<Effect>& effects);
  bool HasOtherDevice(const Replica& replica) const;
  void Shrink(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  void ExpireIdle(Device& device, Nanoseconds now, std::vector<Effect>& effects);
  void Rebalance(Nanoseconds now, std::vector<Effect>& effects);
  void MoveReplica(Replica& replica, Device& to, Nanoseconds now, std::vector<Effect>& effects);
  bool MayUse(const Model& model, const Device& device) const;

  Nanoseconds balanced_at_ = 0;
  uint64_t attempts_ = 0;  // calls of ChooseTurn
};

}  // namespace tidepool::compute::pool
