// The state of models and sequences inside the engine. Who may touch what:
//   ModelCard   any thread: what it says is immutable, its counters are atomic
//   Ticket      any thread: the flags; the engine thread: jobs
//   the rest    the engine thread, after Submit built it on the caller's
#pragma once

#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "chips/device.h"
#include "compute/engine/drafter.h"
#include "compute/engine/engine.h"
#include "compute/engine/engine_metrics.h"
#include "compute/engine/sampler.h"
#include "compute/kv/block_pool.h"
#include "compute/residency/residency.h"
#include "compute/scheduler/pool_scheduler.h"
#include "models/architectures/model.h"
#include "models/text/text_stream.h"

namespace tidepool::compute {

// A model as callers see it.
struct ModelCard {
  ModelHandle handle = 0;
  std::string name;
  std::shared_ptr<const std::string> shared_name;  // outlives the card: the card keeps weights
  architectures::ModelInfo info;
  std::shared_ptr<const text::Tokenizer> tokenizer;
  int32_t context_length = 0;
  uint64_t kv_block_bytes = 0;
  bool pooled = false;  // its weights come and go
  uint64_t weight_bytes = 0, workspace_bytes = 0;
  std::atomic<uint64_t> kv_bytes{0};
  std::shared_ptr<ResidentWeights> resident;
  std::atomic<int32_t> kv_blocks_used{0}, kv_blocks_cached{0}, running{0}, waiting{0};
  std::atomic<Nanoseconds> last_used{0};
  std::atomic<uint64_t> tokens_on_time{0}, tokens_late{0};
};

// A model as the engine thread holds it. Destroying it frees its memory, then gives its charges back.
struct LoadedModel {
  std::shared_ptr<ModelCard> card;
  Charge weights_charge;                      // weights that stay; or
  std::shared_ptr<ResidentWeights> resident;  // weights that come and go
  std::vector<uint64_t> prefix_bytes;         // [i]: of the first i segments
  bool loading = false;                       // a load is under way whose end has not been told yet
  Nanoseconds load_total = 0;
  Nanoseconds load_began = 0;
  int32_t loading_to = 0;
  uint64_t weights_id = 0;    // PoolModel's
  int32_t held_segments = 0;  // resident as the scheduler knows it; of weights shared with an alias, its part
  std::unique_ptr<architectures::Model> model;
  architectures::StepLimits limits;
  std::unique_ptr<BlockPool> pool;
  std::unique_ptr<ModelMetrics> metrics;
  // Drafts in steps of so many decodes: what a step takes without, what a row more costs as a share of it
  // (both smoothed), and whether they pay.
  struct Drafting {
    double step_s = 0, row_cost = 0.3;
    DraftPace pace{kMaxDraft};
  };
  std::array<Drafting, kMaxDraft> drafting;  // [decodes - 1]
  int32_t sequences = 0;                     // waiting and admitted
  int32_t moves = 0;                         // KV moves under way
  int32_t failed_loads = 0;                  // in a row
  ModelPolicy policy;
  uint64_t exported_evictions = 0;

  // How long weights have been loading altogether.
  Nanoseconds LoadTime(Nanoseconds now) const { return load_total + (loading ? now - load_began : 0); }
};

// A request as its caller may steer it.
struct Ticket {
  RequestHandle handle = 0;
  std::atomic<bool> cancel{false};
  std::atomic<bool> paused{false};
  std::atomic<bool> held_up{false};  // by its reader, once: then no promise is counted any more
  std::atomic<bool> listed{false};   // is in the inbox's attention list
  std::vector<PoolJobId> jobs;       // engine thread: what still waits or runs
  int32_t unadmitted = 0;            // engine thread: counts for the queue bound until 0
};

// The generating half of a sequence.
struct Generation {
  Generation(GenerateRequest r, text::TextStreamOptions options)
      : request(std::move(r)), stream(std::move(options)) {}

  GenerateRequest request;
  text::TextStream stream;
  text::TextDelta delta;
  int32_t max_new_tokens = 0;
  uint64_t seed = 0;
  bool penalised = false;
  TokenCounts counts;
  std::vector<int32_t> end_tokens;    // end of generation and stop_token_ids
  std::vector<int32_t> visible;       // tags that are control tokens but must reach the text stream
  std::vector<int32_t> close_tokens;  // the close tag, for a spent reasoning budget
  std::optional<grammar::Matcher> matcher;
  Drafter drafter;
  DraftPace forced_pace{kMaxDraft, /*credit=*/3};  // whether what the grammar forces pays
  int32_t open_tag = -1;                           // the reasoning's, where the answer may begin with it
  size_t forced = 0;                               // close_tokens still to be said, counted from the end
  int32_t sampled = -1;                            // what the row of this step gave, -1: no token
  bool budget_spent = false;
  Usage usage;
  TokenLogprob logprob;
  std::vector<TokenLogprob> prompt_logprobs;
  bool prompt_logprobs_told = false;
  Nanoseconds first_token_at = 0, last_token_at = 0;
};

// One embedding request: its inputs are sequences of their own.
struct EmbedTask {
  EmbedRequest request;
  Usage usage;
  FinishEvent times;
  std::vector<std::vector<float>> vectors;
  size_t remaining = 0;
  bool ended = false;
};

struct Sequence {
  PoolJobId job = 0;
  LoadedModel* model = nullptr;
  std::shared_ptr<ModelCard> card;
  std::shared_ptr<Ticket> ticket;
  KvSequence kv;
  std::vector<int32_t> tokens;  // prompt, then output
  int32_t prompt_tokens = 0;
  int32_t prefill_tokens = 0;  // the prompt; after its KV was dropped, all tokens so far
  int32_t reserve_tokens = 0;  // prompt and most output
  int32_t computed = 0;
  bool admitted = false;
  std::unique_ptr<Generation> generation;  // or
  std::shared_ptr<EmbedTask> embed;
  size_t embed_index = 0;
  int32_t second_from = INT32_MAX;  // position of the second text of a pair
  std::vector<double> pooled;       // mean pooling: the sum so far
  Nanoseconds submitted_at = 0, admitted_at = 0, progress_at = 0;
  Nanoseconds load_at_arrival = 0, load_waited = 0;  // of LoadedModel::LoadTime, until its first step
  Nanoseconds in_steps = 0;                          // wall time of the steps it was in
  double device_s = 0;
  bool stepped = false;
  int32_t metered = 0;  // embeddings: positions told to the meter
  int32_t reported_position = -1;

  std::string_view workspace() const {
    return generation != nullptr ? generation->request.workspace : embed->request.workspace;
  }
  const std::string& account() const {
    return generation != nullptr ? generation->request.account : embed->request.account;
  }
  const std::vector<double>& account_weights() const {
    return generation != nullptr ? generation->request.account_weights : embed->request.account_weights;
  }
  JobClass job_class() const {
    return generation != nullptr ? generation->request.job_class : embed->request.job_class;
  }
};

}  // namespace tidepool::compute
