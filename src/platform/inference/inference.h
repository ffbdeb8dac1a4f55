// From a model's name and messages to running generations: what every dialect of the gateway calls.
//
// Resolves the name to a deployment (loading it when needed), renders the template, tokenizes, checks limits,
// fills in the model's sampling defaults, and submits to the engine. Knows nothing of HTTP.
//
// Threads: any; nothing here blocks on the engine. Loading runs on a loader thread; requests for a model that
// is loading wait in order and see progress. Callbacks (ChatSink) come from the engine or loader thread and
// must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "compute/engine/engine.h"
#include "compute/residency/packed_cache.h"
#include "compute/residency/residency.h"
#include "platform/accounts/principal.h"
#include "platform/catalog/catalog.h"
#include "platform/catalog/deployment_book.h"
#include "platform/inference/elasticity.h"
#include "platform/ledger/billed.h"
#include "platform/ledger/rate_state.h"

namespace tidepool::platform {

class BodyRecording;
class UsageLedger;

// What the answer must be. `schema`: JSON schema; `text`: a regular expression or a GBNF grammar.
struct OutputFormat {
  enum class Kind : uint8_t { kText, kJsonObject, kJsonSchema, kRegex, kChoice, kGrammar };
  Kind kind = Kind::kText;
  nlohmann::ordered_json schema;
  std::string text;
  std::vector<std::string> choices;
  std::string param;  // the client's field, for errors: "response_format.json_schema.schema"
};

// Sampling as a client gave it: what is absent takes the model's default (generation_config.json), then the
// API's.
struct SamplingRequest {
  std::optional<double> temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
  std::optional<int64_t> top_k, seed, max_tokens, min_tokens, reasoning_budget;
  std::optional<bool> ignore_eos;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;
  int32_t top_logprobs = -1;
  int32_t n = 1;  // 1..128
  OutputFormat output;
  // Absent: the deployment's, else normal. Batch work costs the price book's batch factor and takes nothing
  // of the free quota.
  std::optional<compute::JobClass> priority;
};

enum class ToolChoice : uint8_t { kAuto, kNone, kRequired, kNamed };

struct ChatRequest {
  std::string request_id;
  std::string model;
  nlohmann::ordered_json messages;  // array, as the OpenAI API has it (validated by the dialect)
  // enable_thinking and other variables of the template. Also add_generation_prompt (default true) and
  // continue_final_message (true: the last message, the assistant's, is left open and continued).
  nlohmann::ordered_json template_variables = nlohmann::ordered_json::object();
  // Functions as the OpenAI API has them: [{"type": "function", "function": {"name", "description",
  // "parameters", "strict"}}], names unique (validated by the dialect).
  nlohmann::ordered_json tools = nlohmann::ordered_json::array();
  ToolChoice tool_choice = ToolChoice::kAuto;
  std::string tool_name;  // kNamed
  bool parallel_tool_calls = true;
  std::string tool_call_format;  // how the model writes calls (models/toolcalls); "": as its template says
  SamplingRequest sampling;
  Principal principal;
  std::shared_ptr<BodyRecording> recording;  // what is said goes there too; nullptr: nowhere
};

// One of string or tokens per prompt.
struct Prompt {
  std::string text;
  std::vector<int32_t> tokens;
  bool is_tokens = false;
};
struct CompletionRequest {
  std::string request_id;
  std::string model;
  std::vector<Prompt> prompts;  // 1..128; choices are prompts x n (at most 1024)
  SamplingRequest sampling;
  // Logprobs of the prompt come in OnPromptLogprobs when top_logprobs is set; the prompt's text is the
  // caller's to show. With max_tokens = 0 nothing else comes: finish reason kLength, no output tokens.
  bool echo = false;
  // "<|im_start|>" in a string prompt becomes its control token: only for callers that write whole templates.
  bool parse_special = false;
  Principal principal;
  std::shared_ptr<BodyRecording> recording = nullptr;
};
struct EmbeddingRequest {
  std::string request_id;
  std::string model;
  std::vector<Prompt> inputs;  // 1..2048
  bool truncate = false;       // inputs that are too long are cut, their last special token kept
  // Of queries: what is looked for, written before each text as the model was trained to read it; empty:
  // none. Error "instruction_unsupported" of models that read none (ReadsInstruction), and with tokens.
  std::string instruction;
  Principal principal;
  // Filled with what its limits have left once it was admitted or refused: before `done` is called, and
  // before an error is returned. nullptr: nobody wants to know.
  std::shared_ptr<RateState> rates = nullptr;
  std::shared_ptr<BodyRecording> recording = nullptr;
};
// Was this model trained to read an instruction before what it embeds?
bool ReadsInstruction(const StoredModel& model);
// The makers' own, of a web search: Qwen3's for embedding queries and for ranking.
inline constexpr std::string_view kSearchInstruction =
    "Given a web search query, retrieve relevant passages that answer the query";
struct EmbeddingReply {
  std::string model;
  std::vector<std::vector<float>> vectors;
  int32_t prompt_tokens = 0;
};

struct RerankRequest {
  std::string request_id;
  std::string model;
  std::string query;
  std::vector<std::string> documents;  // 1..2048
  std::string instruction;             // of models that read one; empty: their makers'
  int32_t max_document_tokens = 0;     // longer documents are cut; 0: to what the model reads
  Principal principal;
  std::shared_ptr<RateState> rates = nullptr;  // as EmbeddingRequest's
  std::shared_ptr<BodyRecording> recording = nullptr;
};
struct RerankReply {
  std::string model;
  std::vector<float> scores;  // 0..1, in the order of the documents
  int32_t prompt_tokens = 0;
};

// A piece of a tool call, in order: kBegin (id and name), kArguments (the next piece of JSON) ..., then kEnd;
// or kBroken: it is no call after all, and its text follows as content.
struct ToolCallDelta {
  enum class Kind : uint8_t { kBegin, kArguments, kEnd, kBroken };
  Kind kind = Kind::kArguments;
  int32_t index = 0;  // 0, 1, ... among the calls of one choice
  std::string id, name, arguments;
};

// Receives the choices of one request. `choice` counts prompts first, then n: prompt p, sample s -> p * n +
// s. Engine, loader or ledger thread; must not block. OnDone comes exactly once, last; never when Chat or
// Complete themselves returned an error.
class ChatSink {
 public:
  virtual ~ChatSink() = default;
  // What its limits have left, once it was admitted or refused; nothing comes before it.
  virtual void OnRates(const RateState&) {}
  virtual void OnStart(const std::string& /*model*/, int32_t /*choices*/) {}
  // After OnStart: the tokens of all prompts together, those of the cache included.
  virtual void OnPrompt(int32_t /*tokens*/) {}
  virtual void OnProgress(const compute::ProgressEvent&) {}
  virtual void OnPromptLogprobs(int32_t /*choice*/, std::span<const compute::TokenLogprob>) {}
  // With tools, text comes without its calls, and one token's text and calls may come in several pieces, of
  // which the first has the tokens and logprobs.
  virtual void OnToken(int32_t choice, const compute::TokenEvent& event) = 0;
  virtual void OnToolCall(int32_t /*choice*/, const ToolCallDelta& /*delta*/) {}
  virtual void OnFinish(int32_t choice, const compute::FinishEvent& event) = 0;
  // What it came to, just before OnDone; not of requests that nobody meters, or whose row is not durable.
  virtual void OnBilled(const Billed&) {}
  // All choices ended (usage summed; a prompt shared by n choices is counted once), or the request failed as
  // a whole.
  virtual void OnDone(const Result<compute::Usage>& usage) = 0;
};

// A running request. Destroying it cancels what still runs.
class Generation {
 public:
  virtual ~Generation() = default;
  virtual void Cancel() = 0;
  virtual void SetPaused(bool paused) = 0;
};

// kFailed: the last load did not succeed; the next request tries again. kQuarantined: several in a row did
// not, or its weights cannot be read; nothing is tried before retry_in_s has passed.
enum class DeploymentState : uint8_t { kStored, kLoading, kReady, kFailed, kQuarantined };
std::string_view DeploymentStateName(DeploymentState state);

// "queued", "loading", "prefill", "decode".
std::string_view ProgressPhaseName(compute::ProgressEvent::Phase phase);

// Where a model's weights are. kResident: its answers begin at once; kWarm: after a moment, they are in
// memory beside the pool; kCold: after a load from disk.
enum class WeightPlace : uint8_t { kCold, kWarm, kLoading, kResident };
std::string_view WeightPlaceName(WeightPlace place);

struct DeploymentStatus {
  std::string id;  // the stored model's id
  DeploymentState state = DeploymentState::kStored;
  double load_share = 0;  // kLoading
  WeightPlace place = WeightPlace::kCold;
  Error error;            // kFailed, kQuarantined
  double retry_in_s = 0;  // kQuarantined
  StoredModel model;
  int32_t context_length = 0;                 // prompt and answer, capped as the settings say; 0: not known
  std::optional<compute::ModelEntry> engine;  // kReady
  // Looked up by a deployment's name: its settings, and context lengths no longer than it allows. `id` is the
  // base model's.
  std::shared_ptr<const DeploymentSpec> spec = nullptr;
  const std::string& name() const { return spec ? spec->name : id; }  // what clients call
};

// A key's models name stored models and deployments; who may use a model may use its deployments.
inline bool MayUse(const Principal& who, const DeploymentStatus& status) {
  return who.MayUseModel(status.id) || (status.spec && who.MayUseModel(status.spec->name));
}

// Whether a model's weights, with room to work in, fit the pool's memory: an estimate from the files until
// the model was loaded once.
struct DeploymentFit {
  std::string base;           // the stored model's id
  bool fits = false;          // with what is pinned beside it, if it is to be pinned
  uint64_t needed_bytes = 0;  // weights, an eighth of them and 64 MiB
  uint64_t pool_bytes = 0;    // the pool's limit
  uint64_t pinned_bytes = 0;  // needed by other models that are pinned
  std::string nearest;        // the largest stored model that generates as it does and fits; empty: none
};

struct InferenceOptions {
  int32_t context_length = 0;      // cap for every model; 0: the model's own
  int32_t default_max_tokens = 0;  // when a client gives none; 0: until the context is full
  int32_t max_waiting_for_load = 1024;
  uint64_t grammar_cache_bytes = 256u << 20;  // compiled schemas and grammars
  double load_timeout_s = 300;                // a request waiting longer for a load fails with 503
  chips::WeightPrecision precision = chips::WeightPrecision::kNative;
  chips::DataType kv_type = chips::DataType::kI16;
  // With both, weights are packed once, mapped, and come and go as the pool decides; else they stay in
  // memory while their model is loaded (always so with kFloat32).
  compute::PackedCache* packed = nullptr;
  compute::Residency* residency = nullptr;
  compute::FileBackingOptions backing;
  compute::ModelPolicy policy;              // of every model
  chips::Roofline roofline;                 // first guess of step times
  bool traced = false;                      // the engine records its decisions
  compute::HostKvArena* host_kv = nullptr;  // the engine's, to be shown and resized
  UsageLedger* ledger = nullptr;            // admits and meters every request; nullptr: neither
  ElasticityOptions elasticity;             // pins, windows of the clock, how many stay registered
  DeploymentBook* deployments = nullptr;    // names besides the stored models'; nullptr: none
};

// What a model's files say besides its weights: the same whether it is loaded or not.
struct ModelDescription {
  std::string chat_template;            // its own, or the one that is used for it
  bool tools = false;                   // the template knows tools
  bool reasons = false;                 // the template or the vocabulary knows reasoning
  int32_t layers = 0, hidden_size = 0;  // 0: not said
  SamplingRequest sampling = {};        // its makers' defaults; the rest is not set
};

class PoolControl;
class RequestsInFlight;

class Inference {
 public:
  virtual ~Inference() = default;
  // All arguments outlive it. `simulated`, if given, adds the model "scripted" (no weights) to the list.
  static std::unique_ptr<Inference> Create(Catalog& catalog, compute::Engine& engine, chips::Device& device,
                                           compute::Ledger& ledger, const Clock& clock,
                                           MetricsRegistry& metrics, const InferenceOptions& options);
  // Adds a model without files: the simulated device's "scripted" model (byte tokenizer, ChatML template).
  virtual Status AddScripted(chips::SimulatedDevice& device, std::string name, int32_t context_length) = 0;

  virtual Result<std::shared_ptr<Generation>> Chat(ChatRequest request, std::shared_ptr<ChatSink> sink) = 0;
  // What Chat refuses before it looks at the messages: a model that there is not, a caller's limits that are
  // used up. For work that is only worth doing if it may go on; reserves nothing.
  virtual Status CheckChat(const ChatRequest& request) = 0;
  virtual Result<std::shared_ptr<Generation>> Complete(CompletionRequest request,
                                                       std::shared_ptr<ChatSink> sink) = 0;
  virtual Result<std::shared_ptr<Generation>> Embed(EmbeddingRequest request,
                                                    std::function<void(Result<EmbeddingReply>)> done) = 0;

  // Errors: "rerank_unsupported" for a model that has no score to give.
  virtual Result<std::shared_ptr<Generation>> Rerank(RerankRequest request,
                                                     std::function<void(Result<RerankReply>)> done) = 0;

  // Load on demand; `done` comes from the loader thread, when the state is kReady (or kFailed) already.
  // Tokenize loads only the tokenizer.
  virtual void Load(const std::string& model, std::function<void(Status)> done) = 0;
  virtual Status Unload(const std::string& model, bool force) = 0;  // kConflict while in use
  virtual std::vector<DeploymentStatus> List() const = 0;           // stored, loading and ready
  // The same and the deployments, by name: what clients may call.
  virtual std::vector<DeploymentStatus> ListCallable() const { return List(); }
  virtual Result<DeploymentStatus> Find(std::string_view model) const = 0;
  // Could this deployment be? Resolves its base and measures. Errors: kNotFound (no such model), kConflict
  // "exists" (a model has its name), kInvalid (a default that the base cannot have).
  virtual Result<DeploymentFit> CheckDeployment(const DeploymentSpec& /*spec*/) const {
    return Fail(ErrorKind::kUnavailable, "not_available", "this server has no deployments");
  }
  // Unloads if idle, then removes from the store; kConflict while requests run, it loads, or it is deployed.
  virtual Status Remove(const std::string& model) = 0;

  virtual Result<std::vector<int32_t>> Tokenize(const std::string& model, std::string_view text,
                                                bool add_special, bool parse_special) = 0;
  virtual Result<std::vector<int32_t>> TokenizeChat(const ChatRequest& request) = 0;
  virtual Result<std::string> Detokenize(const std::string& model, std::span<const int32_t> tokens) = 0;
  // Opens the files the first time (some milliseconds); loads nothing.
  virtual Result<ModelDescription> Describe(const std::string& model) = 0;
  // The bytes of a model's tokens as text, control tokens included, for logprobs. Looked up once a request;
  // the function keeps what it needs, may be called from any thread, and gives "" if the model was not
  // loaded.
  using TokenTexts = std::function<std::string(int32_t token)>;
  virtual TokenTexts FindTokenTexts(const std::string& model) const = 0;

  // What the operator sees and steers (pool_control.h); nullptr: nothing.
  virtual PoolControl* pool() { return nullptr; }
  // What was begun and has not ended (requests_in_flight.h); nullptr: nobody counts.
  virtual RequestsInFlight* in_flight() { return nullptr; }
};

}  // namespace tidepool::platform
