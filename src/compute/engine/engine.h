// The engine: the step loop of one device. Many models, many sequences, one thread.
//
// Any thread may call the public methods; they post to the engine thread through a bounded queue. Sinks are
// called on the engine thread and must not block: copy what you need and return. After OnFinish a sink is
// never called again.
//
// Guarantees: a request is refused before it starts if it can never fit (with the numbers); Cancel frees all
// its blocks by the next step; every admitted request ends in exactly one OnFinish; the tokens reported are
// the tokens scheduled (usage counts are the engine's own).
//
// max_tokens 0 means until the context is full, or as much as the pool's memory can ever hold for one
// sequence.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "chips/device.h"
#include "compute/engine/pool_events.h"
#include "compute/engine/turn_log.h"
#include "compute/kv/host_kv_arena.h"
#include "compute/kv/kv_mover.h"
#include "compute/kv/kv_reserve.h"
#include "compute/memory/ledger.h"
#include "compute/residency/residency.h"
#include "compute/scheduler/pool_scheduler.h"
#include "models/architectures/model.h"
#include "models/grammar/matcher.h"
#include "models/text/text_stream.h"
#include "models/text/tokenizer.h"

namespace tidepool::compute {

using ModelHandle = uint64_t;    // 0: none
using RequestHandle = uint64_t;  // 0: none

// Ranges (checked by ValidateSampling, which names the field): temperature 0..2 (0 = greedy), top_k 0 (off)
// or more, top_p (0,1], min_p [0,1], repetition_penalty (0,10], presence and frequency -2..2, logit_bias
// -100..100 at most 1024 entries, max_tokens >= 1, min_tokens <= max_tokens, at most 16 stop strings of at
// most 1024 bytes, top_logprobs -1 (off) or 0..20, n is the caller's (one request each). Order of
// application: penalties, bias, temperature, top_k, top_p, min_p (Hugging Face's order).
struct SamplingParams {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<uint64_t> seed;  // none: from the operating system
  int32_t max_tokens = 0;        // 0: until the context is full
  int32_t min_tokens = 0;        // until then nothing ends the answer: no end token, no stop string
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;
  int32_t top_logprobs = -1;      // -1: none; 0: the chosen token's only; n: and the n best
  bool prompt_logprobs = false;   // logprobs of the prompt too (completions with echo)
  int32_t reasoning_budget = -1;  // tokens of reasoning before it is closed; -1: no bound
};
Status ValidateSampling(const SamplingParams& params, int32_t vocab_size);

struct TokenLogprob {
  int32_t token = 0;
  float logprob = 0;  // natural log of the model's own distribution (before sampling parameters)
  std::vector<std::pair<int32_t, float>> top;
};

// What one step produced for one request. Views are valid during the call.
struct TokenEvent {
  std::span<const int32_t> tokens;  // tokens sampled since the last event (usually one), the one that
                                    // ended the answer included: their number is completion_tokens
  std::string_view content;         // text that became complete; may be empty
  std::string_view reasoning;
  std::span<const TokenLogprob> logprobs;  // one per token if asked for
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kError };

// What was computed, and so is billed: of a request that ended early, the prompt as far as it was prefilled.
struct Usage {
  int32_t prompt_tokens = 0;      // of which
  int32_t cached_tokens = 0;      //   came from the prefix cache
  int32_t completion_tokens = 0;  // of which
  int32_t reasoning_tokens = 0;   //   were reasoning
};

struct FinishEvent {
  FinishReason reason = FinishReason::kStop;
  std::string stop;  // the stop string or the name of the stop token, if any
  Usage usage;
  Error error;  // reason == kError
  // In line; of that, while its model's weights were loading; wall time of prefill and of decode; of those
  // two, in no step; its share, by tokens, of the steps it was in.
  double queue_s = 0, load_s = 0, prefill_s = 0, decode_s = 0, stall_s = 0, device_s = 0;
};

struct ProgressEvent {
  enum class Phase : uint8_t { kQueued, kLoading, kPrefill, kDecode } phase = Phase::kQueued;
  int32_t queue_position = 0;  // kQueued: requests ahead
  float share = 0;             // kLoading, kPrefill: 0..1
};

class GenerateSink {
 public:
  virtual ~GenerateSink() = default;
  virtual void OnProgress(const ProgressEvent&) {}
  // Once, before the first token, if asked for: one entry a prompt token. Nothing comes before the first
  // token, so its entry has logprob 0 and an empty top.
  virtual void OnPromptLogprobs(std::span<const TokenLogprob>) {}
  virtual void OnToken(const TokenEvent& event) = 0;
  // After every step it was in, and before OnFinish: all that was computed so far. For meters.
  virtual void OnComputed(const Usage& /*so_far*/, double /*device_s*/) {}
  virtual void OnFinish(const FinishEvent& event) = 0;
};

// What the text of an answer must be. It begins where the reasoning, if there is any, ends; no end token
// comes before.
struct Constraint {
  std::shared_ptr<grammar::CompiledGrammar> grammar;  // nullptr: anything
  bool may_reason = false;  // the answer may also begin with the reasoning's open tag
};

struct GenerateRequest {
  std::string request_id;  // for logs
  ModelHandle model = 0;
  std::vector<int32_t> prompt;  // at least one token
  SamplingParams sampling;
  text::ReasoningFormat reasoning;
  Constraint constraint{};
  std::vector<std::string> visible_tags{};   // control tokens that are text of the answer: "<tool_call>"
  std::string workspace;                     // prefix reuse stays within one
  std::string account;                       // opaque path, for fair share: "organisation/workspace/key"
  std::vector<double> account_weights = {};  // one a level of the path; missing: 1
  JobClass job_class = JobClass::kNormal;
  bool strip_leading_space = false;  // of the answer, where the tokenizer adds one (chat, not continuation)
  bool speculate = true;             // where the engine does; false: one token a step (benches)
  bool keep_prefix = true;  // its KV, for requests that begin the same way; false: what nobody will ask again
  std::shared_ptr<GenerateSink> sink;
};

// Pooled, and normalised if the model says so. Of models that rank: one number, the logit of relevance.
struct EmbedRequest {
  std::string request_id;
  ModelHandle model = 0;
  std::vector<std::vector<int32_t>> inputs;  // each at least one token, at most the context
  std::string workspace, account;
  std::vector<double> account_weights = {};
  JobClass job_class = JobClass::kNormal;
  // Of encoders that rank: where in each input the second text of its pair begins. Empty: no pairs.
  std::vector<int32_t> second_from = {};
  std::function<void(Result<std::vector<std::vector<float>>>)> done;  // engine thread
  // For meters, engine thread: as GenerateSink::OnComputed, of all inputs together; and the times, just
  // before `done` (of the input that took longest). Either may be empty.
  std::function<void(const Usage& so_far, double device_s)> computed;
  std::function<void(const FinishEvent&)> finished;
};

struct ModelEntry {  // what ListModels reports
  ModelHandle handle = 0;
  std::string name;
  architectures::ModelInfo info;
  uint64_t weight_bytes = 0, workspace_bytes = 0, kv_bytes = 0;
  bool pooled = false;                 // its weights come and go; else they stay
  uint64_t resident_weight_bytes = 0;  // now
  bool weights_loading = false;
  int32_t kv_blocks_used = 0;    // held by running requests
  int32_t kv_blocks_cached = 0;  // prefix cache, reclaimable
  int32_t running = 0, waiting = 0;
  Nanoseconds last_used = 0;
  uint64_t tokens_on_time = 0, tokens_late = 0;  // of answers, by the promise of its policy, since the start
};

// What the operator promises and wants for one model.
struct ModelPolicy {
  double ttft_s = 10, tpot_s = 0.1;  // a token is due at arrival + ttft + i * tpot
  double weight = 1;
  bool pinned = false;
  double idle_ttl_s = -1;     // weights go after so long without work; -1: when room is needed
  double min_resident_s = 0;  // and not earlier after they came
  StepProfile profile = {};   // first guess of step times; all 0: none. What steps really take is learned.
};

// Since the start, as they happen.
struct PoolTokens {
  uint64_t computed = 0;   // by steps: of prompts and of answers
  uint64_t generated = 0;  // of answers; of these, where a time was promised,
  uint64_t on_time = 0, late = 0;
};

// The pool as people and traces see it: of one moment between two steps.
struct PoolReport {
  std::string policy;
  Nanoseconds at = 0;
  DeviceState device;
  PoolCounters counters;
  uint64_t limit_bytes = 0, used_bytes = 0, over_limit_bytes = 0;
  uint64_t host_kv_limit_bytes = 0, host_kv_used_bytes = 0;
  int32_t moves = 0;  // KV moves under way
  PoolTokens tokens;
  std::vector<std::pair<PoolModelId, std::string>> names;  // of device.replicas
};

// Prefix caches of pinned models over a restart: one file for each, in `folder`.
struct PrefixFileOptions {
  uint64_t max_bytes = 0;  // of KV of one model; 0: no files
  std::filesystem::path folder;
  // Whatever decides the bits of KV beside weights and layout: kernels, the program's version.
  std::string salt;
};

struct EngineOptions {
  int32_t max_batch_tokens = 512;  // rows of a step: decodes first, the rest prefill chunks
  int32_t max_sequences = 64;      // sequences of one step, per model
  int32_t max_waiting = 4096;      // queue bound; beyond it kOverloaded
  chips::DataType kv_type = chips::DataType::kF16;
  bool deterministic = false;
  bool prefix_cache = true;
  bool speculation = true;  // drafts from the prompt, checked by the model: the same answers, sooner
  uint64_t kv_slab_bytes = 8u << 20;  // KV memory is taken from the ledger in slabs of about this size
  PoolPolicyOptions pool{.admission_load = 0};
  HostKvArena* host_kv = nullptr;   // where KV goes that has to leave the device; outlives the engine
  KvReserve* kv_reserve = nullptr;  // where memory for KV is ready before it is needed; outlives the engine
  KvMoverOptions kv_mover = {};
  double copy_bytes_per_s = 5e9;  // from warm to resident, until measured
  // Tokens whose KV is promised to a request without max_tokens when it begins, and each time it has used
  // them (PoolJob::open_output_tokens). 0: all that its context may come to need.
  int32_t open_answer_tokens = 1024;
  PrefixFileOptions prefix_files = {};
  size_t event_records = 4096;   // of what the pool did, for Events
  size_t turn_records = 16'384;  // of what was computed when, for Turns; 0: none are kept
  size_t trace_records = 0;  // of the scheduler's events and decisions, for DecisionTrace; 0: none are kept
  // Another policy than Tidepool's own.
  std::function<std::unique_ptr<PoolScheduler>(const PoolPolicyOptions&)> make_scheduler = {};
};

class Engine {
 public:
  // `device`, `ledger`, `clock`, `metrics` outlive the engine. The thread starts at once.
  static std::unique_ptr<Engine> Start(chips::Device& device, Ledger& ledger, const Clock& clock,
                                       MetricsRegistry& metrics, const EngineOptions& options);
  virtual ~Engine() = default;  // cancels everything, then joins

  // Takes a model and either the charge for its weights, which then stay, or weights that come and go as the
  // scheduler decides. Charges the shared workspace when it has to grow, and KV as it grows. context_length
  // 0: the model's own. The tokenizer is used to build text from tokens. Errors: "out_of_pool_memory" when
  // the model can never run within the ledger's limit. `content` identifies the bytes of its weights, for
  // files of prefix caches; empty: it has none. A pinned model's file is read here, as far as memory is free.
  virtual Result<ModelHandle> AddModel(std::string name, std::unique_ptr<architectures::Model> model,
                                       std::shared_ptr<const text::Tokenizer> tokenizer,
                                       int32_t context_length, Charge weights,
                                       std::shared_ptr<ResidentWeights> resident = nullptr,
                                       const ModelPolicy& policy = {}, std::string content = {}) = 0;
  virtual Status SetPolicy(ModelHandle model, const ModelPolicy& policy) = 0;
  // Its weights become resident when there is room that no model with work needs.
  virtual Status Prefetch(ModelHandle model) = 0;
  // kConflict while requests of it run, unless `force`, which cancels them. Its bytes are back on return.
  // Not from a sink (it waits for the engine thread); neither AddModel, Trim nor Drain.
  virtual Status RemoveModel(ModelHandle model, bool force) = 0;
  virtual std::vector<ModelEntry> ListModels() const = 0;

  // Checks and queues. Errors: context_length_exceeded, kv_too_small, queue_full (with retry_after_s), bad
  // sampling.
  virtual Result<RequestHandle> Submit(GenerateRequest request) = 0;
  virtual Result<RequestHandle> Embed(EmbedRequest request) = 0;
  virtual void Cancel(RequestHandle request) = 0;
  // A paused request keeps its KV but is not scheduled: for readers that cannot keep up.
  virtual void SetPaused(RequestHandle request, bool paused) = 0;

  // Refuses new work (kUnavailable) and returns when all running work has ended (true) or the engine's clock
  // has reached `deadline` (false; what still runs goes on).
  virtual bool Drain(Nanoseconds deadline) = 0;

  // Gives KV memory that only holds prefix caches, or nothing, back to the ledger until `bytes` are freed;
  // returns the bytes freed. The engine does this by itself when Ledger::Take is short.
  virtual uint64_t Trim(uint64_t /*bytes*/) { return 0; }

  // Told when the weights of a model could not be loaded (engine thread; must not block or call the engine).
  // An empty function ends it and waits for a call in progress.
  virtual void OnLoadFailed(std::function<void(ModelHandle, const Error&)> told) = 0;
  // The ledger's or the host arena's limit was changed: jobs and weights make way in order.
  virtual void LimitsChanged() = 0;
  // The least that the ledger must hold so that whatever the engine has taken can end, one answer after the
  // other: scratch, weights that stay, and the most that one of them needs of its model's weights and its KV.
  // 0: nothing is there, or answers of one model only that have all of it.
  virtual uint64_t LeastBytes() const = 0;
  // No new work begins on the device; what runs there ends (or moves, where there is another).
  virtual void SetCordoned(bool cordoned) = 0;
  virtual std::shared_ptr<const PoolReport> pool() const = 0;

  // What the pool did after event `after` (0: all that is kept), at most `most`, oldest first.
  virtual PoolEvents Events(uint64_t after, size_t most) const = 0;
  // What was computed when, after turn `after`. The newest turn may grow.
  virtual PoolTurns Turns(uint64_t after, size_t most) const = 0;
  // The last trace_records events and decisions, as compute/scheduler/trace.h writes them (JSON lines); empty
  // when none are kept. `requests`: who asked when for what, as the simulator reads workloads.
  virtual std::string DecisionTrace(bool requests) const = 0;
  // Writes the files of prefix caches, and removes those of models that are not pinned any more. Before the
  // end, when nothing runs: what runs has not left its KV in the cache yet.
  virtual void SavePrefixCaches() = 0;

  struct Load {
    int32_t running = 0, waiting = 0;
    uint64_t steps = 0;
  };
  virtual Load load() const = 0;
};

}  // namespace tidepool::compute
