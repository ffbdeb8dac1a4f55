// The engine's inside. Public methods run on callers' threads and only touch what is marked so; everything
// else belongs to the engine thread. README.md has the contract.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "compute/engine/engine.h"
#include "compute/engine/engine_metrics.h"
#include "compute/engine/sampler.h"
#include "compute/engine/sequence.h"
#include "compute/memory/ledger_metrics.h"
#include "compute/scheduler/pool_scheduler.h"
#include "compute/scheduler/trace.h"

namespace tidepool::compute {

class EngineImpl final : public Engine {
 public:
  EngineImpl(chips::Device& device, Ledger& ledger, const Clock& clock, MetricsRegistry& metrics,
             const EngineOptions& options);
  ~EngineImpl() override;

  Result<ModelHandle> AddModel(std::string name, std::unique_ptr<architectures::Model> model,
                               std::shared_ptr<const text::Tokenizer> tokenizer, int32_t context_length,
                               Charge weights, std::shared_ptr<ResidentWeights> resident,
                               const ModelPolicy& policy, std::string content) override;
  Status SetPolicy(ModelHandle model, const ModelPolicy& policy) override;
  Status Prefetch(ModelHandle model) override;
  void OnLoadFailed(std::function<void(ModelHandle, const Error&)> told) override;
  void LimitsChanged() override;
  uint64_t LeastBytes() const override;
  void SetCordoned(bool cordoned) override;
  std::shared_ptr<const PoolReport> pool() const override;
  Status RemoveModel(ModelHandle model, bool force) override;
  std::vector<ModelEntry> ListModels() const override;
  Result<RequestHandle> Submit(GenerateRequest request) override;
  Result<RequestHandle> Embed(EmbedRequest request) override;
  void Cancel(RequestHandle request) override;
  void SetPaused(RequestHandle request, bool paused) override;
  bool Drain(Nanoseconds deadline) override;
  uint64_t Trim(uint64_t bytes) override;
  PoolEvents Events(uint64_t after, size_t most) const override { return events_.Since(after, most); }
  PoolTurns Turns(uint64_t after, size_t most) const override { return turns_.Since(after, most); }
  std::string DecisionTrace(bool requests) const override;
  void SavePrefixCaches() override;
  Load load() const override;

 private:
  // ---- callers' threads (engine.cc, submission.cc)
  Result<std::shared_ptr<ModelCard>> FindModel(ModelHandle model) const;
  Status CheckAdmissible() const;
  Result<int32_t> NewTokensFor(const ModelCard& card, int32_t prompt_tokens, int32_t max_tokens) const;
  int64_t MostBlocks(const ModelCard& card) const;
  Result<RequestHandle> Post(std::vector<std::unique_ptr<Sequence>> sequences);
  double RetryAfter() const;
  void Flag(const std::shared_ptr<Ticket>& ticket);
  std::shared_ptr<Ticket> FindTicket(RequestHandle request) const;
  // Runs `work` on the engine thread and waits for it. Not for the engine thread itself.
  void Call(std::function<void()> work) const;
  void LoadPrefixFile(LoadedModel& model) const;

  // ---- engine thread: the loop (engine_thread.cc)
  void Run();
  bool TakeInbox();  // false: stop
  void ApplyAttention(const std::shared_ptr<Ticket>& ticket);
  void Arrive(std::unique_ptr<Sequence> sequence);
  uint64_t Reclaim(uint64_t bytes, const LoadedModel* except);
  Status Register(std::unique_ptr<LoadedModel> model);
  Result<std::unique_ptr<LoadedModel>> Unregister(ModelHandle model, bool force);
  Status EnsureScratch(int32_t max_tokens, int32_t max_columns);
  Status EnsureWorkspace(size_t bytes);
  Status EnsureSamplers(int32_t vocab);
  PoolModel Describe(const LoadedModel& model) const;
  void ReportQueue();
  void UpdateGauges(LoadedModel& model);
  void StopAll();

  // ---- engine thread: the scheduler's effects (pool.cc)
  void Decide();  // until it has nothing more to say; sets run_ when a step is to be computed
  void CarryOut(const Effect& effect);
  bool TryAdmit(Sequence& sequence, int32_t tokens);
  bool TryGrow(Sequence& sequence, int32_t tokens);
  void StartLoad(LoadedModel& model, int32_t segments);
  void EndLoad(LoadedModel& model, const LoadReport& report);
  uint64_t Evict(LoadedModel& model, int32_t keep);
  void StartMove(Sequence& sequence, KvDirection direction, int32_t tokens);
  struct MoveUnderWay {
    uint64_t id = 0;
    KvDirection direction = KvDirection::kToHost;
    uint64_t bytes = 0;
    Nanoseconds began = 0;
  };
  void EndMove(PoolJobId job, LoadedModel& model, const MoveUnderWay& move, bool done);
  void LackRoom(PoolJobId job);
  void Reject(const Effect& effect);
  void Note(PoolEventKind kind, const LoadedModel* model, PoolEvent event = {});
  void FailModel(LoadedModel& model, const Error& error);
  void RefreshArena();
  bool MakeLedgerRoom(uint64_t bytes);
  void SettleTransfers(LoadedModel& model);
  void PostTransfer(std::function<void()> work);
  void PublishReport();

  // ---- engine thread: a step (step.cc, generation.cc, embedding.cc)
  class LandingGate;
  void ExecuteStep();
  // Speculation: tokens that may follow are computed with a sequence's last one. What is said is what would
  // be said without: a draft's token is kept if the row before it draws it.
  void Draft(LoadedModel& model);
  struct DraftOf {
    int32_t begin = 0, count = 0;  // in draft_
    int32_t forced = 0;  // so many of them, the first ones, are what a grammar wants; the rest are guesses
  };
  DraftOf DraftFor(Sequence& sequence, int32_t most);
  void LearnDrafting(LoadedModel& model, double seconds, int32_t accepted);
  int32_t TakeDrafted(LoadedModel& model, Sequence& sequence, const architectures::StepOutput& output,
                      std::span<const int32_t> draft, int32_t row);
  void BuildStep(LoadedModel& model);
  bool LandingInterrupted(const LoadedModel& model) const;
  void LoseWeights(LoadedModel& model);
  void FinishStep(LoadedModel& model, const architectures::StepOutput& output, Nanoseconds started_at);
  void SampleRows(LoadedModel& model, const architectures::StepOutput& output);
  // Calls body(i, sampler) for every i in [0, count), each of which reads `logits` logits: on the device's
  // threads where that is worth waking them, else on this one.
  template <typename Body>
  void WithSamplers(int64_t count, int64_t logits, const Body& body);
  void TakeLogits(Sequence& sequence, const PlannedTokens& planned, const architectures::StepOutput& output,
                  int32_t first_row);
  void TakeRow(LoadedModel& model, Sequence& sequence, const architectures::StepOutput& output, int32_t row);
  static Error NoToken(Sequence& sequence, const architectures::StepOutput& output, int32_t row,
                       int32_t vocab_size);
  void TakePromptLogprobs(Sequence& sequence, const PlannedTokens& planned,
                          const architectures::StepOutput& output, int32_t first_row);
  // On any of the device's threads: it touches the sequence and the sampler only.
  static int32_t NextToken(Sequence& sequence, const Sampler::Row& row, Sampler& sampler);
  void Emit(Sequence& sequence, int32_t token);
  void CountPromise(const Sequence& sequence, Nanoseconds now);
  static bool FollowGrammar(Sequence& sequence, int32_t token, bool was_reasoning);
  void TakeHidden(Sequence& sequence, const PlannedTokens& planned, const float* rows);
  // `share`: its rows of the step's.
  void CountComputed(Sequence& sequence, int32_t tokens, double share, Nanoseconds started_at,
                     Nanoseconds now);
  void FillTimes(const Sequence& sequence, Nanoseconds first_at, Nanoseconds now, FinishEvent& event) const;
  void ReportPrefill(Sequence& sequence);

  // Ends a sequence: blocks, scheduler and lists first, then its sink is told. `sequence` is gone afterwards.
  void Finish(Sequence& sequence, FinishReason reason, std::string stop, Error error);
  void FinishEmbedding(Sequence& sequence, FinishReason reason, Error error);
  std::unique_ptr<Sequence> Detach(Sequence& sequence);
  void EndTicket(const std::shared_ptr<Ticket>& ticket);
  void CountAdmitted(Ticket& ticket);
  Sequence* FindSequence(PoolJobId job);
  bool Lives(PoolJobId job) const { return sequences_.contains(job); }

  chips::Device& device_;
  Ledger& ledger_;
  const Clock& clock_;
  MetricsRegistry& registry_;
  const EngineOptions options_;

  // Any thread.
  std::atomic<bool> draining_{false};
  std::atomic<int32_t> active_{0};  // requests accepted and not ended
  std::atomic<int32_t> queued_{0};  // of these, not wholly admitted
  std::atomic<int32_t> running_{0};
  std::atomic<uint64_t> steps_{0};
  std::atomic<double> finish_interval_s_{0.1};  // smoothed time between two ends, for Retry-After
  std::atomic<uint64_t> next_handle_{1};
  std::atomic<uint64_t> fixed_weight_bytes_{0};  // of models whose weights stay

  mutable std::mutex inbox_mutex_;  // guards the members down to the blank line
  mutable std::condition_variable inbox_ready_;
  mutable std::condition_variable report_ready_;
  mutable std::atomic<bool> report_wanted_{false};
  std::condition_variable idle_;  // active_ reached 0
  std::vector<std::unique_ptr<Sequence>> arrivals_;
  std::vector<std::shared_ptr<Ticket>> attention_;
  mutable std::vector<std::function<void()>> calls_;
  std::vector<std::function<void()>> transfers_;  // ends of loads and KV moves
  std::shared_ptr<const PoolReport> report_ = std::make_shared<PoolReport>();
  std::unordered_map<RequestHandle, std::shared_ptr<Ticket>> tickets_;
  std::map<ModelHandle, std::shared_ptr<ModelCard>> cards_;
  bool stop_ = false;

  // Engine thread.
  std::vector<std::unique_ptr<Sequence>> taken_arrivals_;
  std::vector<std::shared_ptr<Ticket>> taken_attention_;
  std::vector<std::function<void()>> taken_calls_, taken_transfers_, settled_transfers_;
  std::unique_ptr<PoolScheduler> scheduler_;
  TraceRecorder* recorder_ = nullptr;  // the scheduler, where it is one
  PoolEventLog events_;                // any thread
  PoolTurnLog turns_;                  // any thread
  PoolTokens tokens_;
  ModelHandle last_run_ = 0;  // whose step was computed last
  std::unique_ptr<KvMover> kv_mover_;
  std::vector<Effect> effects_;
  bool idle_turn_ = true;       // the last turn of the loop computed nothing
  bool step_aborted_ = false;   // the last step, for want of weights
  bool run_ = false;            // the scheduler wants a step of plan()
  uint64_t arena_bytes_ = 0;    // as the scheduler knows it
  uint64_t slab_overhead_ = 0;  // of KV slabs that hold less than they are charged for
  std::function<void(ModelHandle, const Error&)> on_load_failed_;
  bool arena_stale_ = false;  // that overhead is to be measured again
  int32_t moves_ = 0;
  chips::DeviceBuffer workspace_;
  Charge workspace_charge_;
  std::map<ModelHandle, std::unique_ptr<LoadedModel>> models_;
  std::unordered_map<PoolJobId, std::unique_ptr<Sequence>> sequences_;
  PoolJobId next_job_ = 1;
  std::vector<std::unique_ptr<Sampler>>
      samplers_;  // one for each thread that samples; the first is this one's
  int32_t sampler_vocab_ = 0;
  struct RowToSample {
    Sequence* sequence = nullptr;
    Sampler::Row row;
  };
  std::vector<RowToSample> whole_rows_;  // of this step
  std::vector<Charge> scratch_charges_;
  int32_t scratch_tokens_ = 0, scratch_columns_ = 0;
  LedgerMetrics ledger_metrics_;
  uint64_t exported_ledger_changes_ = UINT64_MAX;
  Nanoseconds queue_reported_at_ = 0;
  Nanoseconds last_finish_at_ = 0;
  std::vector<PoolJobId> waiting_scratch_;
  std::vector<int32_t> draft_;   // of this step's sequences, in any order
  std::vector<int32_t> forced_;  // of the sequence that drafts
  std::vector<DraftOf> drafts_;  // by sequence of the plan
  // While a drafted step's rows are taken: jobs that end stay the scheduler's until the step is reported.
  bool taking_drafts_ = false;
  std::vector<PoolJobId> ended_jobs_;
  std::vector<int32_t> step_tokens_, step_positions_, step_types_, logit_rows_, hidden_rows_;
  std::vector<chips::SequenceSlice> slices_;

  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace tidepool::compute
