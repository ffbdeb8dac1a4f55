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
#include "compute/scheduler/scheduler.h"

namespace tidepool::compute {

class EngineImpl final : public Engine {
 public:
  EngineImpl(chips::Device& device, Ledger& ledger, const Clock& clock, MetricsRegistry& metrics,
             const EngineOptions& options);
  ~EngineImpl() override;

  Result<ModelHandle> AddModel(std::string name, std::unique_ptr<architectures::Model> model,
                               std::shared_ptr<const text::Tokenizer> tokenizer, int32_t context_length,
                               Charge weights) override;
  Status RemoveModel(ModelHandle model, bool force) override;
  std::vector<ModelEntry> ListModels() const override;
  Result<RequestHandle> Submit(GenerateRequest request) override;
  Result<RequestHandle> Embed(EmbedRequest request) override;
  void Cancel(RequestHandle request) override;
  void SetPaused(RequestHandle request, bool paused) override;
  bool Drain(Nanoseconds deadline) override;
  uint64_t Trim(uint64_t bytes) override;
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
  void Call(std::function<void()> work);

  // ---- engine thread: the loop (engine_thread.cc)
  void Run();
  bool TakeInbox();  // false: stop
  void ApplyAttention(const std::shared_ptr<Ticket>& ticket);
  void Arrive(std::unique_ptr<Sequence> sequence);
  void AdmitWaiting();
  bool TryAdmit(Sequence& sequence);
  uint64_t Reclaim(uint64_t bytes, const LoadedModel* except);
  Status Register(std::unique_ptr<LoadedModel> model);
  Result<std::unique_ptr<LoadedModel>> Unregister(ModelHandle model, bool force);
  Status EnsureScratch(int32_t max_tokens, int32_t max_columns);
  void ReportQueue();
  void UpdateGauges(LoadedModel& model);
  void StopAll();

  // ---- engine thread: a step (step.cc, generation.cc, embedding.cc)
  void ExecuteStep();
  void BuildStep(LoadedModel& model);
  void FinishStep(LoadedModel& model, const architectures::StepOutput& output, Nanoseconds started_at);
  void TakeLogits(Sequence& sequence, const PlannedSequence& planned, const architectures::StepOutput& output,
                  int32_t first_row);
  void TakePromptLogprobs(Sequence& sequence, const PlannedSequence& planned, const float* rows);
  int32_t NextToken(Sequence& sequence, std::span<const float> logits);
  void Emit(Sequence& sequence, int32_t token);
  void TakeHidden(Sequence& sequence, const PlannedSequence& planned, const float* rows);
  void ReportPrefill(Sequence& sequence);

  // Ends a sequence: blocks, scheduler and lists first, then its sink is told. `sequence` is gone afterwards.
  void Finish(Sequence& sequence, FinishReason reason, std::string stop, Error error);
  void FinishEmbedding(Sequence& sequence, FinishReason reason, Error error);
  std::unique_ptr<Sequence> Detach(Sequence& sequence);
  void EndTicket(const std::shared_ptr<Ticket>& ticket);
  void CountAdmitted(Ticket& ticket);
  Sequence* FindSequence(JobId job);

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

  mutable std::mutex inbox_mutex_;  // guards the members down to the blank line
  std::condition_variable inbox_ready_;
  std::condition_variable idle_;  // active_ reached 0
  std::vector<std::unique_ptr<Sequence>> arrivals_;
  std::vector<std::shared_ptr<Ticket>> attention_;
  std::vector<std::function<void()>> calls_;
  std::unordered_map<RequestHandle, std::shared_ptr<Ticket>> tickets_;
  std::map<ModelHandle, std::shared_ptr<ModelCard>> cards_;
  bool stop_ = false;

  // Engine thread.
  std::vector<std::unique_ptr<Sequence>> taken_arrivals_;
  std::vector<std::shared_ptr<Ticket>> taken_attention_;
  std::vector<std::function<void()>> taken_calls_;
  Scheduler scheduler_;
  std::map<ModelHandle, std::unique_ptr<LoadedModel>> models_;
  std::unordered_map<JobId, std::unique_ptr<Sequence>> sequences_;
  JobId next_job_ = 1;
  std::unique_ptr<Sampler> sampler_;
  int32_t sampler_vocab_ = 0;
  std::vector<Charge> scratch_charges_;
  int32_t scratch_tokens_ = 0, scratch_columns_ = 0;
  LedgerMetrics ledger_metrics_;
  uint64_t exported_ledger_bytes_ = UINT64_MAX;
  Nanoseconds queue_reported_at_ = 0;
  Nanoseconds last_finish_at_ = 0;
  std::vector<JobId> waiting_scratch_;
  StepPlan plan_;
  std::vector<int32_t> step_tokens_, step_positions_, logit_rows_, hidden_rows_;
  std::vector<chips::SequenceSlice> slices_;

  std::thread thread_;  // last: starts when everything else is there
};

}  // namespace tidepool::compute
