#include "platform/inference/inference.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "platform/inference/constraints.h"
#include "platform/inference/deployed_pool.h"
#include "platform/inference/deployments.h"
#include "platform/inference/metering.h"
#include "platform/inference/model_assets.h"
#include "platform/inference/named_deployments.h"
#include "platform/inference/prompt.h"
#include "platform/inference/recording_sink.h"
#include "platform/inference/request_plan.h"
#include "platform/inference/requests_in_flight.h"
#include "platform/inference/rerank.h"
#include "platform/inference/running_embedding.h"
#include "platform/inference/running_generation.h"
#include "platform/inference/sampling.h"
#include "platform/request_bodies/recording.h"

namespace tidepool::platform {

std::string_view ProgressPhaseName(compute::ProgressEvent::Phase phase) {
  using Phase = compute::ProgressEvent::Phase;
  switch (phase) {
    case Phase::kQueued: return "queued";
    case Phase::kLoading: return "loading";
    case Phase::kPrefill: return "prefill";
    case Phase::kDecode: return "decode";
  }
  return "queued";
}

std::string_view WeightPlaceName(WeightPlace place) {
  switch (place) {
    case WeightPlace::kCold: return "cold";
    case WeightPlace::kWarm: return "warm";
    case WeightPlace::kLoading: return "loading";
    case WeightPlace::kResident: return "resident";
  }
  return "unknown";
}

std::string_view DeploymentStateName(DeploymentState state) {
  switch (state) {
    case DeploymentState::kStored: return "stored";
    case DeploymentState::kLoading: return "loading";
    case DeploymentState::kReady: return "ready";
    case DeploymentState::kFailed: return "failed";
    case DeploymentState::kQuarantined: return "quarantined";
  }
  return "unknown";
}

namespace {

constexpr size_t kMaxPrompts = 128;
constexpr size_t kMaxChoices = 1024;
constexpr size_t kMaxEmbeddingInputs = 2048;

using PlanResult = Result<std::vector<ChoicePlan>>;
// The second plans, and admits what it planned: the meter is set on the running request.
using Plan = std::function<PlanResult(const ReadyModel&)>;
using Planner = std::function<PlanResult(const ReadyModel&, RunningGeneration&)>;

// What the gateway holds; letting go of it cancels.
class GenerationHandle final : public Generation {
 public:
  explicit GenerationHandle(std::shared_ptr<RunningGeneration> running) : running_(std::move(running)) {}
  ~GenerationHandle() override { running_->Cancel(); }
  void Cancel() override { running_->Cancel(); }
  void SetPaused(bool paused) override { running_->SetPaused(paused); }

 private:
  const std::shared_ptr<RunningGeneration> running_;
};

class EmbeddingHandle final : public Generation {
 public:
  explicit EmbeddingHandle(std::shared_ptr<RunningEmbedding> running) : running_(std::move(running)) {}
  ~EmbeddingHandle() override { running_->Cancel(); }
  void Cancel() override { running_->Cancel(); }
  void SetPaused(bool) override {}  // nothing streams

 private:
  const std::shared_ptr<RunningEmbedding> running_;
};

// The engine says kNotFound for a handle whose model was unloaded in the meantime.
bool ModelWasUnloaded(const Error& error) { return error.kind == ErrorKind::kNotFound; }

class InferenceImpl final : public Inference {
 public:
  InferenceImpl(Catalog& catalog, compute::Engine& engine, chips::Device& device, compute::Ledger& ledger,
                const Clock& clock, MetricsRegistry& metrics, const InferenceOptions& options)
      : engine_(engine),
        options_(options),
        in_flight_(clock),
        constraints_(options.grammar_cache_bytes, metrics),
        deployments_(catalog, engine, device, ledger, clock, metrics, options),
        pool_(deployments_, engine, ledger, clock, metrics, options, device.info().memory_bytes),
        memory_(ledger) {}

  Status AddScripted(chips::SimulatedDevice& device, std::string name, int32_t context_length) override {
    return deployments_.AddScripted(device, std::move(name), context_length);
  }

  Result<std::shared_ptr<Generation>> Chat(ChatRequest request, std::shared_ptr<ChatSink> sink) override {
    TP_ASSIGN(const Target target, FindTarget(request.model));
    if (!target.model.generates) return Fail(CannotGenerate(target.name()));
    const MeteredCall call = GenerateCallOf(request, "chat.completions", target);
    if (target.spec) FillIn(*target.spec, request);
    ApplyDefaultMaxTokens(request.sampling);
    auto recording = std::move(request.recording);
    const auto shared = std::make_shared<const ChatRequest>(std::move(request));
    return Begin(
        target, call,
        [this, shared](const ReadyModel& ready) { return PlanChat(*shared, ready, constraints_); },
        std::move(sink), std::move(recording));
  }

  Status CheckChat(const ChatRequest& request) override {
    TP_ASSIGN(const Target target, FindTarget(request.model));
    if (!target.model.generates) return Fail(CannotGenerate(target.name()));
    return CheckAdmissible(GenerateCallOf(request, "chat.completions", target));
  }

  Result<std::shared_ptr<Generation>> Complete(CompletionRequest request,
                                               std::shared_ptr<ChatSink> sink) override {
    TP_ASSIGN(const Target target, FindTarget(request.model));
    if (!target.model.generates) return Fail(CannotGenerate(target.name()));
    const size_t prompts = request.prompts.size();
    if (prompts == 0 || prompts > kMaxPrompts) {
      return Fail(ErrorKind::kInvalid, "out_of_range",
                  fmt::format("give 1 to {} prompts in one request, not {}", kMaxPrompts, prompts), "prompt");
    }
    if (request.sampling.n > 0 && prompts * static_cast<size_t>(request.sampling.n) > kMaxChoices) {
      return Fail(ErrorKind::kTooLarge, "too_many_choices",
                  fmt::format("{} prompts times n = {} is more than {} choices", prompts, request.sampling.n,
                              kMaxChoices),
                  "n");
    }
    const MeteredCall call = GenerateCallOf(request, "completions", target);
    if (target.spec) FillIn(*target.spec, request.sampling);
    ApplyDefaultMaxTokens(request.sampling);
    auto recording = std::move(request.recording);
    const auto shared = std::make_shared<const CompletionRequest>(std::move(request));
    return Begin(
        target, call,
        [this, shared](const ReadyModel& ready) { return PlanCompletion(*shared, ready, constraints_); },
        std::move(sink), std::move(recording));
  }

  Result<std::shared_ptr<Generation>> Embed(EmbeddingRequest request,
                                            std::function<void(Result<EmbeddingReply>)> done) override;
  Result<std::shared_ptr<Generation>> Rerank(RerankRequest request,
                                             std::function<void(Result<RerankReply>)> done) override;

  void Load(const std::string& model, std::function<void(Status)> done) override;

  Status Unload(const std::string& model, bool force) override {
    TP_ASSIGN(const Target target, FindTarget(model));
    return deployments_.Unload(target.model.id, force);
  }
  std::vector<DeploymentStatus> List() const override { return deployments_.List(); }
  std::vector<DeploymentStatus> ListCallable() const override;
  Result<DeploymentStatus> Find(std::string_view model) const override {
    const auto spec = FindSpec(model);
    if (!spec) return deployments_.Find(model);
    TP_ASSIGN(DeploymentStatus status, deployments_.Find(spec->base));
    return Named(std::move(status), spec);
  }
  Status Remove(const std::string& model) override;
  Result<DeploymentFit> CheckDeployment(const DeploymentSpec& spec) const override;

  Result<std::vector<int32_t>> Tokenize(const std::string& model, std::string_view text, bool add_special,
                                        bool parse_special) override {
    TP_ASSIGN(const auto assets, FindAssets(model));
    return assets->tokenizer->Encode(text, {.add_special = add_special, .parse_special = parse_special});
  }
  Result<std::vector<int32_t>> TokenizeChat(const ChatRequest& request) override {
    TP_ASSIGN(const auto assets, FindAssets(request.model));
    const auto spec = FindSpec(request.model);
    if (!spec)
      return RenderRequest(*assets, request).map([](RenderedPrompt p) { return std::move(p.tokens); });
    ChatRequest filled = request;
    FillIn(*spec, filled);
    return RenderRequest(*assets, filled).map([](RenderedPrompt p) { return std::move(p.tokens); });
  }
  Result<std::string> Detokenize(const std::string& model, std::span<const int32_t> tokens) override {
    TP_ASSIGN(const auto assets, FindAssets(model));
    Prompt prompt;
    prompt.is_tokens = true;
    prompt.tokens.assign(tokens.begin(), tokens.end());
    if (tokens.empty()) return std::string();
    TP_TRY(EncodePrompt(*assets, prompt, false, "tokens"));
    return assets->tokenizer->Decode(tokens, /*render_special=*/true);
  }
  Result<ModelDescription> Describe(const std::string& model) override {
    TP_ASSIGN(const Target target, FindTarget(model));
    const auto& spec = target.spec;
    std::shared_ptr<const ModelTraits> traits;
    if (spec && !spec->chat_template.empty()) {  // what it can do follows from that
      TP_ASSIGN(traits, FindAssets(model));
    } else {
      TP_ASSIGN(traits, deployments_.Traits(target.model));
    }
    ModelDescription out;
    if (traits->chat_template) out.chat_template = traits->chat_template->source();
    out.tools = traits->capabilities.tools;
    out.reasons = !traits->capabilities.reasoning_open.empty();
    out.layers = traits->layers;
    out.hidden_size = traits->hidden_size;
    out.sampling.temperature = traits->sampling.temperature;
    out.sampling.top_p = traits->sampling.top_p;
    out.sampling.min_p = traits->sampling.min_p;
    out.sampling.repetition_penalty = traits->sampling.repetition_penalty;
    out.sampling.top_k = traits->sampling.top_k;
    if (!spec) return out;
    SamplingRequest sampling;
    FillIn(*spec, sampling);
    const auto take = [](auto& to, const auto& from) {
      if (from) to = from;
    };
    take(out.sampling.temperature, sampling.temperature);
    take(out.sampling.top_p, sampling.top_p);
    take(out.sampling.min_p, sampling.min_p);
    take(out.sampling.repetition_penalty, sampling.repetition_penalty);
    take(out.sampling.top_k, sampling.top_k);
    return out;
  }
  PoolControl* pool() override { return &pool_; }
  RequestsInFlight* in_flight() override { return &in_flight_; }
  TokenTexts FindTokenTexts(const std::string& model) const override {
    const Result<Target> target = FindTarget(model);
    std::shared_ptr<const ModelAssets> assets;
    if (target) assets = deployments_.AssetsIfCached(target->model.id);
    return [assets = std::move(assets)](int32_t token) {
      return assets ? std::string(assets->tokenizer->TokenBytes(token, /*render_special=*/true))
                    : std::string();
    };
  }

 private:
  // What a name means: a stored model, by itself or through a deployment.
  struct Target {
    StoredModel model;
    std::shared_ptr<const DeploymentSpec> spec;
    const std::string& name() const { return spec ? spec->name : model.id; }
  };
  std::shared_ptr<const DeploymentSpec> FindSpec(std::string_view name) const {
    return options_.deployments == nullptr ? nullptr : options_.deployments->Find(name);
  }
  Result<Target> FindTarget(std::string_view name) const {
    auto spec = FindSpec(name);
    TP_ASSIGN(StoredModel model, deployments_.Resolve(spec ? std::string_view(spec->base) : name));
    return Target{std::move(model), std::move(spec)};
  }
  static DeploymentStatus Named(DeploymentStatus status, std::shared_ptr<const DeploymentSpec> spec) {
    status.context_length = ContextOf(*spec, status.context_length);
    status.model.context_length = ContextOf(*spec, status.model.context_length);
    if (status.engine)
      status.engine->info.context_length = ContextOf(*spec, status.engine->info.context_length);
    status.spec = std::move(spec);
    return status;
  }
  // The entry holds what runs weakly: who holds the request ends it by letting go.
  template <typename Running>
  std::shared_ptr<RequestsInFlight::Entry> EntryOf(const Target& target, const MeteredCall& call,
                                                   const std::shared_ptr<Running>& running) {
    RequestInFlight who;
    who.request_id = call.request_id;
    who.organisation = call.principal.organisation;
    who.workspace = call.principal.workspace;
    who.key = call.principal.key;
    who.member = call.principal.member;
    who.model = target.model.id;
    who.called = target.name();
    who.endpoint = call.endpoint;
    return in_flight_.Begin(std::move(who), [weak = std::weak_ptr<Running>(running)] {
      if (const auto alive = weak.lock()) alive->Cancel();
    });
  }
  void NoteUse(const Target& target, const Principal& who) {
    if (target.spec) {
      options_.deployments->NoteUse(target.spec->name,
                                    {who.organisation, who.workspace, who.member, who.key, 0, 0});
    }
  }
  void ApplyDefaultMaxTokens(SamplingRequest& sampling) const {
    if (!sampling.max_tokens && options_.default_max_tokens > 0)
      sampling.max_tokens = options_.default_max_tokens;
  }
  Result<std::shared_ptr<const ModelAssets>> FindAssets(const std::string& model) {
    TP_ASSIGN(const Target target, FindTarget(model));
    TP_ASSIGN(auto assets, deployments_.Assets(target.model));
    return deployed_assets_.Of(target.spec, assets);
  }
  template <typename Request>
  static MeteredCall CallOf(const Request& request, std::string_view endpoint, const StoredModel& model,
                            bool names_max_tokens) {
    return {request.principal, request.request_id, endpoint, model.id, ModelVersion(model), names_max_tokens};
  }
  template <typename Request>
  static MeteredCall GenerateCallOf(const Request& request, std::string_view endpoint, const Target& target) {
    MeteredCall call = CallOf(request, endpoint, target.model, request.sampling.max_tokens.has_value());
    const auto priority = request.sampling.priority || !target.spec ? request.sampling.priority
                                                                    : target.spec->defaults.priority;
    call.batch = priority == compute::JobClass::kBatch;
    return call;
  }
  // Before anything is loaded or tokenized: could a request of this caller start at all?
  Status CheckAdmissible(const MeteredCall& call, RateState* rates = nullptr) {
    return options_.ledger == nullptr ? Status() : options_.ledger->Check(AdmissionOf(call), rates);
  }
  Result<std::shared_ptr<Generation>> Begin(const Target& target, const MeteredCall& call, const Plan& plan,
                                            std::shared_ptr<ChatSink> sink,
                                            std::shared_ptr<BodyRecording> recording);
  // What embeddings and scores share: a request of inputs whose states are pooled.
  Result<std::shared_ptr<Generation>> BeginPooled(
      const Target& target, const MeteredCall& call,
      const std::function<Result<compute::EmbedRequest>(const ReadyModel&)>& plan_for,
      std::shared_ptr<RateState> rates, std::shared_ptr<BodyRecording> recording,
      std::function<void(Result<EmbeddingReply>)> done);
  LoadWaiter WaiterFor(const Target& target, const std::shared_ptr<RunningGeneration>& running,
                       Planner planner, bool may_retry);
  Status PlanAndStart(const Target& target, const ReadyModel& ready, RunningGeneration& running,
                      const Planner& planner);

  compute::Engine& engine_;
  const InferenceOptions options_;
  RequestsInFlight in_flight_;
  Constraints constraints_;
  Deployments deployments_;
  DeployedPool pool_;
  compute::Ledger& memory_;
  DeploymentAssets deployed_assets_;
};

std::vector<DeploymentStatus> InferenceImpl::ListCallable() const {
  std::vector<DeploymentStatus> out = deployments_.List();
  if (options_.deployments == nullptr) return out;
  const size_t stored = out.size();
  for (const auto& spec : options_.deployments->List()) {
    // One whose base has left the store cannot be called.
    const auto base = std::find_if(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(stored),
                                   [&](const DeploymentStatus& status) { return status.id == spec->base; });
    if (base != out.begin() + static_cast<std::ptrdiff_t>(stored)) out.push_back(Named(*base, spec));
  }
  // A deployment hides a model that was stored under its name later.
  std::stable_sort(out.begin(), out.end(), [](const DeploymentStatus& a, const DeploymentStatus& b) {
    return a.name() != b.name() ? a.name()<b.name() : (a.spec != nullptr)>(b.spec != nullptr);
  });
  out.erase(
      std::unique(out.begin(), out.end(),
                  [](const DeploymentStatus& a, const DeploymentStatus& b) { return a.name() == b.name(); }),
      out.end());
  return out;
}

Status InferenceImpl::Remove(const std::string& model) {
  if (FindSpec(model)) {
    return Fail(ErrorKind::kConflict, "is_deployment",
                fmt::format("\"{}\" is a deployment and no model of the store; delete the deployment "
                            "(tidepool deployments delete {})",
                            model, model),
                "model");
  }
  TP_ASSIGN(const StoredModel stored, deployments_.Resolve(model));
  if (options_.deployments != nullptr) {
    const std::vector<std::string> names = options_.deployments->NamesOf(stored.id);
    if (!names.empty()) {
      return Fail(ErrorKind::kConflict, "model_deployed",
                  fmt::format("model \"{}\" is deployed as {}; delete the deployment{} first", stored.id,
                              fmt::join(names.begin(),
                                        names.begin() + std::min<std::ptrdiff_t>(5, std::ssize(names)), ", "),
                              names.size() == 1 ? "" : "s"),
                  "model");
    }
  }
  return deployments_.Remove(stored.id);
}

Result<DeploymentFit> InferenceImpl::CheckDeployment(const DeploymentSpec& spec) const {
  TP_ASSIGN(const StoredModel base, deployments_.Resolve(spec.base));
  const bool is_new = spec.created_ms == 0 && !spec.name.empty();
  if (const auto taken = deployments_.Resolve(spec.name); is_new && taken) {
    return Fail(ErrorKind::kConflict, "exists",
                fmt::format("There is a model \"{}\" already; choose another name.", taken->id), "name");
  }
  if (!base.generates && (!spec.chat_template.empty() || !spec.system_prompt.empty())) {
    return Fail(
        ErrorKind::kInvalid, "invalid_value",
        fmt::format("model \"{}\" generates no text: it takes no template and no system prompt", base.id),
        spec.chat_template.empty() ? "system_prompt" : "chat_template");
  }
  const std::vector<DeploymentStatus> models = deployments_.List();
  const auto needed = [](const DeploymentStatus& status) {
    const uint64_t weights = status.engine ? status.engine->weight_bytes : status.model.bytes;
    return weights + weights / 8 + (uint64_t{64} << 20);
  };
  DeploymentFit fit;
  fit.base = base.id;
  fit.pool_bytes = memory_.limit();
  for (const DeploymentStatus& status : models) {
    if (status.id == base.id) {
      fit.needed_bytes = needed(status);
    } else if (deployments_.PolicyOf(status.id).pinned) {
      fit.pinned_bytes += needed(status);
    }
  }
  const uint64_t beside = spec.pinned ? fit.pinned_bytes : 0;
  fit.fits = fit.needed_bytes + beside <= fit.pool_bytes;
  uint64_t largest = 0;
  for (const DeploymentStatus& status : models) {
    const uint64_t bytes = needed(status);
    const bool alike = status.model.generates == base.generates && status.model.ranks == base.ranks;
    if (!alike || status.id == base.id || bytes + beside > fit.pool_bytes || bytes <= largest) continue;
    largest = bytes;
    fit.nearest = status.id;
  }
  return fit;
}

Status InferenceImpl::PlanAndStart(const Target& target, const ReadyModel& ready, RunningGeneration& running,
                                   const Planner& planner) {
  TP_ASSIGN(std::vector<ChoicePlan> plan, planner(ready, running));
  const Status started = running.Start(ready.handle, target.name(), plan);
  if (!started) running.SetMeter(nullptr);  // it never began
  return started;
}

LoadWaiter InferenceImpl::WaiterFor(const Target& target, const std::shared_ptr<RunningGeneration>& running,
                                    Planner planner, bool may_retry) {
  LoadWaiter waiter;
  const auto since = std::chrono::steady_clock::now();
  waiter.ready = [this, target, running, planner, may_retry, since](const ReadyModel& ready) {
    running->SetLoadWait(std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count());
    const Status started = PlanAndStart(target, ready, *running, planner);
    if (started) return;
    if (may_retry && ModelWasUnloaded(started.error())) {
      deployments_.Forget(ready.id, ready.handle);
      const auto again = deployments_.Acquire(target.model, WaiterFor(target, running, planner, false));
      if (again && !*again) return;
    }
    running->FailBeforeStart(started.error());
  };
  waiter.failed = [running](const Error& error) { running->FailBeforeStart(error); };
  waiter.progress = [running](const compute::ProgressEvent& event) { running->OnProgress(event); };
  waiter.cancelled = [running] { return running->cancelled(); };
  return waiter;
}

Result<std::shared_ptr<Generation>> InferenceImpl::Begin(const Target& target, const MeteredCall& call,
                                                         const Plan& plan, std::shared_ptr<ChatSink> sink,
                                                         std::shared_ptr<BodyRecording> recording) {
  RateState refused;
  if (Status admissible = CheckAdmissible(call, &refused); !admissible) {
    sink->OnRates(refused);
    return Fail(std::move(admissible).error());
  }
  const Planner planner = [this, plan, call, spec = target.spec](const ReadyModel& ready,
                                                                 RunningGeneration& request) -> PlanResult {
    const ReadyModel seen = deployed_assets_.As(spec, ready);
    TP_ASSIGN(std::vector<ChoicePlan> choices, plan(seen));
    if (spec) TP_TRY(LimitPlan(*spec, seen.context_length, call.names_max_tokens, choices));
    if (options_.ledger == nullptr) return choices;
    RateState rates;
    auto meter = AdmitPlan(*options_.ledger, call, seen.context_length, choices, rates);
    request.OnRates(rates);
    if (!meter) return Fail(meter.error());
    request.SetMeter(std::move(*meter));
    return choices;
  };
  if (recording != nullptr) sink = MakeRecordingSink(std::move(sink), recording);
  const auto running = std::make_shared<RunningGeneration>(
      engine_, std::move(sink), [this](std::function<void()> task) { deployments_.Post(std::move(task)); });
  running->SetEntry(EntryOf(target, call, running));
  running->SetRecording(std::move(recording));
  deployments_.CountArrival(target.model.id);
  NoteUse(target, call.principal);
  // Twice: a model found ready may be unloaded before the request reaches the engine.
  for (int attempt = 0; attempt < 2; ++attempt) {
    TP_ASSIGN(const std::optional<ReadyModel> ready,
              deployments_.Acquire(target.model, WaiterFor(target, running, planner, /*may_retry=*/true)));
    if (!ready) break;
    const Status started = PlanAndStart(target, *ready, *running, planner);
    if (started) break;
    if (attempt == 1 || !ModelWasUnloaded(started.error())) return Fail(started.error());
    deployments_.Forget(ready->id, ready->handle);
  }
  return std::make_shared<GenerationHandle>(running);
}

Result<std::shared_ptr<Generation>> InferenceImpl::Embed(EmbeddingRequest request,
                                                         std::function<void(Result<EmbeddingReply>)> done) {
  TP_ASSIGN(const Target target, FindTarget(request.model));
  if (request.inputs.empty() || request.inputs.size() > kMaxEmbeddingInputs) {
    return Fail(
        ErrorKind::kInvalid, "out_of_range",
        fmt::format("give 1 to {} inputs in one request, not {}", kMaxEmbeddingInputs, request.inputs.size()),
        "input");
  }
  if (!request.instruction.empty()) TP_TRY(WriteInstruction(target.model, target.name(), request));
  const MeteredCall call = CallOf(request, "embeddings", target.model, /*names_max_tokens=*/true);
  auto recording = std::move(request.recording);
  const auto shared = std::make_shared<const EmbeddingRequest>(std::move(request));
  return BeginPooled(
      target, call, [shared](const ReadyModel& ready) { return PlanEmbedding(*shared, ready); },
      shared->rates, recording,
      [recording, done = std::move(done)](Result<EmbeddingReply> reply) {
        if (reply && recording != nullptr && !reply->vectors.empty())
          recording->Vectors(std::ssize(reply->vectors), std::ssize(reply->vectors[0]));
        done(std::move(reply));
      });
}

Result<std::shared_ptr<Generation>> InferenceImpl::Rerank(RerankRequest request,
                                                          std::function<void(Result<RerankReply>)> done) {
  TP_ASSIGN(const Target target, FindTarget(request.model));
  if (!target.model.ranks) return Fail(CannotRank(target.name()));
  if (request.documents.empty() || request.documents.size() > kMaxEmbeddingInputs) {
    return Fail(ErrorKind::kInvalid, "out_of_range",
                fmt::format("give 1 to {} documents in one request, not {}", kMaxEmbeddingInputs,
                            request.documents.size()),
                "documents");
  }
  const MeteredCall call = CallOf(request, "rerank", target.model, /*names_max_tokens=*/true);
  auto recording = std::move(request.recording);
  const auto shared = std::make_shared<const RerankRequest>(std::move(request));
  return BeginPooled(
      target, call, [shared](const ReadyModel& ready) { return PlanRerank(*shared, ready); }, shared->rates,
      recording,
      [recording, done = std::move(done)](Result<EmbeddingReply> pooled) {
        if (!pooled) return done(Fail(pooled.error()));
        RerankReply reply{pooled->model, {}, pooled->prompt_tokens};
        for (const std::vector<float>& logit : pooled->vectors)
          reply.scores.push_back(Relevance(logit.at(0)));
        if (recording != nullptr) recording->Scores(reply.scores);
        done(std::move(reply));
      });
}

Result<std::shared_ptr<Generation>> InferenceImpl::BeginPooled(
    const Target& target, const MeteredCall& call,
    const std::function<Result<compute::EmbedRequest>(const ReadyModel&)>& plan_for,
    std::shared_ptr<RateState> rates, std::shared_ptr<BodyRecording> recording,
    std::function<void(Result<EmbeddingReply>)> done) {
  TP_TRY(CheckAdmissible(call, rates.get()));
  deployments_.CountArrival(target.model.id);
  NoteUse(target, call.principal);
  const auto running = std::make_shared<RunningEmbedding>(engine_, std::move(done));
  running->SetEntry(EntryOf(target, call, running));
  running->SetRecording(std::move(recording));
  const auto start = [this, call, plan_for, running, rates,
                      spec = target.spec](const ReadyModel& ready) -> Status {
    const ReadyModel seen = deployed_assets_.As(spec, ready);
    TP_ASSIGN(compute::EmbedRequest plan, plan_for(seen));
    const auto priority = spec ? spec->defaults.priority : std::nullopt;  // requests have no word for it
    plan.job_class = priority.value_or(compute::JobClass::kNormal);
    if (options_.ledger != nullptr) {
      AdmissionRequest admission = AdmissionOf(call);
      admission.embeds = true;
      admission.batch = plan.job_class == compute::JobClass::kBatch;
      for (const auto& input : plan.inputs) admission.prompt_tokens += static_cast<int64_t>(input.size());
      TP_ASSIGN(std::shared_ptr<Meter> meter,
                options_.ledger->Admit(admission, call.request_id, call.endpoint, rates.get()));
      running->SetMeter(std::move(meter));
    }
    const Status started = running->Start(seen, std::move(plan));
    if (!started) running->SetMeter(nullptr);
    return started;
  };
  LoadWaiter waiter;
  waiter.ready = [start, running](const ReadyModel& ready) {
    const Status started = start(ready);
    if (!started) running->FailBeforeStart(started.error());
  };
  waiter.failed = [running](const Error& error) { running->FailBeforeStart(error); };
  waiter.progress = [running](const compute::ProgressEvent& event) { running->OnProgress(event); };
  waiter.cancelled = [running] { return running->cancelled(); };
  for (int attempt = 0; attempt < 2; ++attempt) {
    TP_ASSIGN(const std::optional<ReadyModel> ready, deployments_.Acquire(target.model, waiter));
    if (!ready) break;
    const Status started = start(*ready);
    if (started) break;
    if (attempt == 1 || !ModelWasUnloaded(started.error())) return Fail(started.error());
    deployments_.Forget(ready->id, ready->handle);
  }
  return std::make_shared<EmbeddingHandle>(running);
}

void InferenceImpl::Load(const std::string& model, std::function<void(Status)> done) {
  const Result<Target> target = FindTarget(model);
  if (!target) {
    return deployments_.Post([done = std::move(done), error = target.error()] { done(Fail(error)); });
  }
  LoadWaiter waiter;
  waiter.ready = [done](const ReadyModel&) { done({}); };
  waiter.failed = [done](const Error& error) { done(Fail(error)); };
  const auto acquired = deployments_.Acquire(target->model, std::move(waiter));
  if (!acquired) {
    deployments_.Post([done, error = acquired.error()] { done(Fail(error)); });
  } else if (*acquired) {
    deployments_.Post([done] { done({}); });
  }
}

}  // namespace

// Only the Qwen3 family reads free text; what others want before a query is a fixed word of theirs.
bool ReadsInstruction(const StoredModel& model) { return model.architecture == "qwen3"; }

std::unique_ptr<Inference> Inference::Create(Catalog& catalog, compute::Engine& engine, chips::Device& device,
                                             compute::Ledger& ledger, const Clock& clock,
                                             MetricsRegistry& metrics, const InferenceOptions& options) {
  return std::make_unique<InferenceImpl>(catalog, engine, device, ledger, clock, metrics, options);
}

}  // namespace tidepool::platform
