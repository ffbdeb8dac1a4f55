// For tests: plays the driver of a PoolScheduler with numbers for devices, and holds it to the contract of
// pool_scheduler.h. What goes wrong (a plan over a limit, a load over the arena, a job served while paused,
// an account of bytes that does not add up) is a gtest failure that names the event.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "compute/scheduler/pool_state.h"

namespace tidepool::compute::pool {

// How often things go wrong, of a thousand.
struct WorldFaults {
  int32_t no_room = 0, load_fails = 0, load_lacks_room = 0, spill_fails = 0, restore_fails = 0,
          partial_run = 0;
  int32_t spill_refused = 0;  // at once: the arena has no room in one piece
};

class PoolWorld {
 public:
  enum class Where : uint8_t { kWaiting, kActive, kSpilling, kSpilled, kRestoring };
  struct JobInfo {
    PoolJob job;
    int32_t output = 1;
    Where where = Where::kWaiting;
    bool paused = false;
    int32_t prompt = 0, computed = 0, produced = 0, reserved = 0;
    PoolDeviceId device = -1;
    Nanoseconds arrived = 0, first_token = -1, ended = -1, served = 0, longest_unserved = 0;
    uint64_t device_bytes = 0, host_bytes = 0;
  };
  struct Rejected {
    Effect effect;
    Nanoseconds at;
  };

  PoolWorld(std::unique_ptr<PoolScheduler> scheduler, uint64_t seed);

  PoolHostId AddHost(const PoolHost& host);
  PoolDeviceId AddDevice(const PoolDevice& device);
  void AddModel(const PoolModel& model);
  // False: it is loading, running or moving KV just now (a driver waits for that, tests try again).
  bool RemoveModel(PoolModelId model);
  void UpdateModel(const PoolModel& model);

  void Arrive(PoolJob job, int32_t output);
  void Cancel(PoolJobId job);
  void Pause(PoolJobId job, bool paused);
  void SetArena(PoolDeviceId device, uint64_t bytes);
  void SetHostKv(PoolHostId host, uint64_t bytes);
  void SetCordoned(PoolDeviceId device, bool cordoned);
  void ReturnRoom();
  void Decide();  // until it is quiet, carrying out what it says

  // The next thing that ends, or the wake-up. False: nothing will ever happen again.
  bool Advance();
  void RunUntil(Nanoseconds at);
  // Until no job is left and no KV moves; fails when some wait for ever.
  void Finish(Nanoseconds within = 100'000 * kSecond);

  Nanoseconds now() const { return now_; }
  Nanoseconds NextAt() const;
  void Pass(Nanoseconds time) { now_ += time; }
  PoolScheduler& scheduler() { return *scheduler_; }
  int32_t Below(uint64_t n) { return static_cast<int32_t>(random_() % n); }
  int32_t resident(PoolDeviceId device, PoolModelId model) const;  // landed segments
  bool loading(PoolDeviceId device) const { return devices_[static_cast<size_t>(device)].load.has_value(); }
  bool failed() const;
  uint64_t events() const { return events_; }

  WorldFaults faults;
  std::optional<StepProfile> step_times;  // what steps really take, where it is not the models' profiles
  bool check_every_event = true;
  std::map<PoolJobId, JobInfo> live, ended;
  std::map<PoolJobId, Rejected> rejected;
  std::vector<Effect> log;                             // all effects when keep_log
  std::vector<std::pair<Nanoseconds, PoolPlan>> runs;  // all plans when keep_log
  bool keep_log = false;
  uint64_t digest = 0;      // of all effects and plans
  int64_t counts[16] = {};  // effects by kind
  int64_t landings = 0;     // runs that began before their weights were all there

 private:
  struct Run {
    PoolPlan plan;
    Nanoseconds began = 0, ends = 0;
    int32_t steps = 1, told = 0;  // told: StepsTaken
    Nanoseconds step = 1;
  };
  struct Load {
    PoolModelId model = 0;
    int32_t from = 0, to = 0;
    Nanoseconds ends = 0;
  };
  struct DeviceInfo {
    PoolDevice device;
    uint64_t arena = 0;
    bool cordoned = false;
    std::optional<Run> run;
    std::optional<Load> load;
    std::map<PoolModelId, int32_t> landed;
    std::map<PoolModelId, Nanoseconds> landed_at;
    uint64_t kv_bytes = 0, weight_bytes = 0, last_used = 0;
  };
  struct Move {
    PoolJobId job = 0;
    PoolDeviceId device = 0;
    bool spill = true;
    uint64_t host_bytes = 0, device_bytes = 0;  // given back at the end of a move whose job is gone
    PoolHostId host = 0;
    Nanoseconds ends = 0;
  };

  void CountWeights(DeviceInfo& device);
  int32_t Shared(const DeviceInfo& device, PoolModelId model) const;
  DeviceInfo& At(PoolDeviceId device) { return devices_[static_cast<size_t>(device)]; }
  const PoolModel& ModelAt(PoolModelId model) const { return models_.at(model); }
  uint64_t Prefix(PoolModelId model, int32_t segments) const;
  uint64_t Kv(const JobInfo& job, int32_t tokens) const;
  bool Fault(int32_t of_thousand) { return of_thousand > 0 && Below(1000) < of_thousand; }
  void SetReserved(JobInfo& job, PoolDeviceId device, int32_t tokens);
  void Carry(const Effect& effect);
  void StartRun(const Effect& effect);
  void CheckPlan(const PoolPlan& plan, PoolDeviceId device);
  void TellSteps();  // of some of the runs under way
  void EndRun(PoolDeviceId device);
  void StartLoad(const Effect& effect);
  void EndLoad(PoolDeviceId device);
  void EndMove(size_t index);
  void Check(const char* what);
  std::string Describe() const;  // for failures
  bool InRun(PoolJobId job) const;
  void Digest(uint64_t value) { digest = (digest ^ value) * 0x9E3779B97F4A7C15ull + (digest >> 29); }

  std::unique_ptr<PoolScheduler> scheduler_;
  PoolState* state_ = nullptr;
  std::mt19937_64 random_;
  Nanoseconds now_ = 0;
  std::vector<PoolHost> hosts_;
  std::vector<uint64_t> host_used_;
  std::vector<DeviceInfo> devices_;
  std::map<PoolModelId, PoolModel> models_;
  std::vector<Move> moves_;
  std::vector<Effect> effects_;
  bool owes_room_ = false;
  uint64_t events_ = 0;
};

// Models and pools of tests: a weight segment a GiB, profiles of a 7B model on an H800 unless said otherwise.
inline constexpr uint64_t kTestSegment = uint64_t{1} << 30;
PoolModel TestModel(PoolModelId id, int32_t segments, uint64_t kv_block_bytes = 1 << 20);

}  // namespace tidepool::compute::pool
