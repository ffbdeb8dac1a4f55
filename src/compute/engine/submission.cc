// Submit and Embed: everything that can be refused is refused here, on the caller's thread, with the numbers.
#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/ids.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

constexpr size_t kMaxEmbedInputs = 2048;

Status CheckTokens(std::span<const int32_t> tokens, int32_t vocab_size, const char* param) {
  if (tokens.empty()) {
    return Fail(ErrorKind::kInvalid, "empty_prompt",
                fmt::format("{} has no tokens; at least one is needed", param), param);
  }
  const auto bad = std::find_if(tokens.begin(), tokens.end(),
                                [&](int32_t token) { return token < 0 || token >= vocab_size; });
  if (bad == tokens.end()) return {};
  return Fail(ErrorKind::kInvalid, "invalid_token",
              fmt::format("{} holds token {} at place {}, but the model has tokens 0 to {}", param, *bad,
                          bad - tokens.begin(), vocab_size - 1),
              param);
}

text::TextStreamOptions StreamOptions(const GenerateRequest& request) {
  return {.stop = request.sampling.stop,
          .include_stop = request.sampling.include_stop,
          .reasoning = request.reasoning,
          .strip_leading_space = request.strip_leading_space};
}

// Fills what the engine thread will need, so that it does not allocate for it.
void PrepareGeneration(const ModelCard& card, int32_t max_new_tokens, Generation& generation) {
  const text::Tokenizer& tokenizer = *card.tokenizer;
  const GenerateRequest& request = generation.request;
  const SamplingParams& sampling = request.sampling;
  generation.max_new_tokens = max_new_tokens;
  if (sampling.seed) {
    generation.seed = *sampling.seed;
  } else {
    RandomBytes(&generation.seed, sizeof(generation.seed));
  }
  if (!sampling.ignore_eos) generation.end_tokens = tokenizer.special().end_of_generation;
  generation.end_tokens.insert(generation.end_tokens.end(), sampling.stop_token_ids.begin(),
                               sampling.stop_token_ids.end());
  // An end token outside the model's logits can never come out and must not be masked.
  std::erase_if(generation.end_tokens,
                [&](int32_t token) { return token < 0 || token >= card.info.vocab_size; });
  std::vector<std::string> tags = request.visible_tags;
  tags.push_back(request.reasoning.open_tag);
  tags.push_back(request.reasoning.close_tag);
  for (const std::string& tag : tags) {
    if (tag.empty()) continue;
    const auto tokens = tokenizer.Encode(tag, {.add_special = false, .parse_special = true});
    if (tokens.size() == 1 && tokenizer.IsControl(tokens[0])) generation.visible.push_back(tokens[0]);
  }
  if (sampling.reasoning_budget >= 0 && !request.reasoning.close_tag.empty()) {
    generation.close_tokens =
        tokenizer.Encode(request.reasoning.close_tag, {.add_special = false, .parse_special = true});
    std::reverse(generation.close_tokens.begin(), generation.close_tokens.end());
  }
  if (request.constraint.grammar != nullptr) {
    generation.matcher.emplace(request.constraint.grammar);
    if (request.constraint.may_reason && !request.reasoning.open_tag.empty()) {
      const auto tokens =
          tokenizer.Encode(request.reasoning.open_tag, {.add_special = false, .parse_special = true});
      if (tokens.size() == 1) generation.open_tag = tokens[0];
    }
  }
  generation.penalised = HasPenalties(sampling);
  if (generation.penalised) {
    generation.counts.Reserve(std::min<size_t>(request.prompt.size() + static_cast<size_t>(max_new_tokens),
                                               static_cast<size_t>(card.info.vocab_size)));
    for (const int32_t token : request.prompt) generation.counts.Add(token, false);
  }
  generation.delta.content.reserve(256);
  generation.delta.reasoning.reserve(256);
  generation.logprob.top.reserve(20);
  if (sampling.prompt_logprobs) {
    generation.prompt_logprobs.resize(request.prompt.size());
    for (TokenLogprob& entry : generation.prompt_logprobs) {
      entry.top.reserve(static_cast<size_t>(std::max(sampling.top_logprobs, 0)));
    }
    generation.prompt_logprobs[0].token = request.prompt[0];
  }
}

}  // namespace

Result<std::shared_ptr<ModelCard>> EngineImpl::FindModel(ModelHandle model) const {
  std::lock_guard lock(inbox_mutex_);
  const auto entry = cards_.find(model);
  if (entry == cards_.end()) {
    return Fail(ErrorKind::kNotFound, "model_not_found",
                fmt::format("no model with handle {} is loaded; it may have been unloaded", model), "model");
  }
  return entry->second;
}

double EngineImpl::RetryAfter() const {
  return std::clamp(finish_interval_s_.load() * static_cast<double>(queued_.load()), 1.0, 60.0);
}

Status EngineImpl::CheckAdmissible() const {
  if (draining_) {
    return Fail(ErrorKind::kUnavailable, "draining", "the server is shutting down and takes no new requests");
  }
  const int32_t queued = queued_;
  if (queued < options_.max_waiting) return {};
  return Fail(Error{.kind = ErrorKind::kOverloaded,
                    .code = "queue_full",
                    .message = fmt::format("{} requests wait already, the limit is {}; try again in {:.0f} s",
                                           queued, options_.max_waiting, RetryAfter()),
                    .param = {},
                    .retry_after_s = RetryAfter()});
}

// What is neither this model's weights nor weights that stay nor scratch is all that its KV can ever have:
// other models' weights make way.
int64_t EngineImpl::MostBlocks(const ModelCard& card) const {
  if (card.kv_block_bytes == 0) return INT64_MAX / chips::kKvBlockTokens;
  const uint64_t limit = ledger_.limit();
  const uint64_t taken = ledger_.used_by(ChargeKind::kScratch) + ledger_.used_by(ChargeKind::kState) +
                         fixed_weight_bytes_ + (card.pooled ? card.weight_bytes : 0);
  return static_cast<int64_t>((limit > taken ? limit - taken : 0) / card.kv_block_bytes);
}

Result<int32_t> EngineImpl::NewTokensFor(const ModelCard& card, int32_t prompt_tokens,
                                         int32_t max_tokens) const {
  const int32_t context = card.context_length;
  // The sum may exceed int32.
  if (prompt_tokens >= context || int64_t{prompt_tokens} + max_tokens > context) {
    return Fail(
        ErrorKind::kInvalid, "context_length_exceeded",
        fmt::format("{} takes at most {} tokens of prompt and answer together, but the prompt has {}{}; "
                    "shorten the prompt or lower max_tokens",
                    card.name, context, prompt_tokens,
                    max_tokens > 0 ? fmt::format(" and max_tokens is {}", max_tokens) : std::string()),
        max_tokens > 0 && prompt_tokens < context ? "max_tokens" : "prompt");
  }
  const int64_t most = MostBlocks(card) * chips::kKvBlockTokens;
  const int64_t wanted = int64_t{prompt_tokens} + std::max(max_tokens, 1);
  if (wanted > most) {
    return Fail(
        ErrorKind::kTooLarge, "kv_too_small",
        fmt::format(
            "the request needs KV memory for {} tokens ({} blocks of {} bytes), but the pool's {} bytes "
            "leave room for {} tokens of {} beside weights and workspaces; shorten the prompt, lower "
            "max_tokens or raise the pool's limit",
            wanted, BlockPool::BlocksFor(wanted), card.kv_block_bytes, ledger_.limit(), most, card.name),
        "max_tokens");
  }
  if (max_tokens > 0) return max_tokens;
  return static_cast<int32_t>(std::min<int64_t>(context, most)) - prompt_tokens;
}

Result<RequestHandle> EngineImpl::Submit(GenerateRequest request) {
  TP_ASSIGN(auto card, FindModel(request.model));
  if (!card->info.generates) {
    return Fail(
        ErrorKind::kInvalid, "model_cannot_generate",
        fmt::format("{} is an embedding model ({}) and generates no text; use the embeddings endpoint",
                    card->name, card->info.family),
        "model");
  }
  CHECK(request.sink != nullptr);
  TP_TRY(CheckTokens(request.prompt, card->info.vocab_size, "prompt"));
  TP_TRY(ValidateSampling(request.sampling, card->info.vocab_size));
  if (request.prompt.size() > static_cast<size_t>(INT32_MAX / 2)) {
    return Fail(ErrorKind::kTooLarge, "context_length_exceeded", "the prompt is too long", "prompt");
  }
  const auto prompt_tokens = static_cast<int32_t>(request.prompt.size());
  TP_ASSIGN(const int32_t max_new, NewTokensFor(*card, prompt_tokens, request.sampling.max_tokens));
  TP_TRY(CheckAdmissible());

  auto sequence = std::make_unique<Sequence>();
  sequence->card = std::move(card);
  sequence->prompt_tokens = sequence->prefill_tokens = prompt_tokens;
  sequence->reserve_tokens = prompt_tokens + max_new;
  sequence->tokens.reserve(static_cast<size_t>(sequence->reserve_tokens));
  sequence->tokens = request.prompt;
  auto options = StreamOptions(request);
  sequence->generation = std::make_unique<Generation>(std::move(request), std::move(options));
  PrepareGeneration(*sequence->card, max_new, *sequence->generation);
  if (options_.speculation && sequence->generation->request.speculate) {
    sequence->generation->drafter.Reserve(static_cast<size_t>(sequence->reserve_tokens));
    sequence->generation->drafter.Add(sequence->tokens);
  }
  std::vector<std::unique_ptr<Sequence>> sequences;
  sequences.push_back(std::move(sequence));
  return Post(std::move(sequences));
}

Result<RequestHandle> EngineImpl::Embed(EmbedRequest request) {
  TP_ASSIGN(const auto card, FindModel(request.model));
  CHECK(request.done != nullptr);
  if (card->info.pooling == architectures::Pooling::kNone) {
    return Fail(
        ErrorKind::kInvalid, "model_cannot_embed",
        fmt::format("{} ({}) is not an embedding model: it has no pooling", card->name, card->info.family),
        "model");
  }
  if (request.inputs.empty() || request.inputs.size() > kMaxEmbedInputs) {
    return Fail(
        ErrorKind::kInvalid, "invalid_parameter",
        fmt::format("input has {} entries; 1 to {} are allowed", request.inputs.size(), kMaxEmbedInputs),
        "input");
  }
  CHECK(request.second_from.empty() || request.second_from.size() == request.inputs.size());
  for (const auto& input : request.inputs) {
    TP_TRY(CheckTokens(input, card->info.vocab_size, "input"));
    if (input.size() > static_cast<size_t>(card->context_length)) {
      return Fail(ErrorKind::kInvalid, "context_length_exceeded",
                  fmt::format("an input has {} tokens, but {} takes at most {}; split or shorten it",
                              input.size(), card->name, card->context_length),
                  "input");
    }
    const int64_t most = MostBlocks(*card) * chips::kKvBlockTokens;
    if (static_cast<int64_t>(input.size()) > most) {
      return Fail(
          ErrorKind::kTooLarge, "kv_too_small",
          fmt::format("an input has {} tokens, but the pool's {} bytes leave room for {} beside weights and "
                      "workspaces; shorten it or raise the pool's limit",
                      input.size(), ledger_.limit(), most),
          "input");
    }
  }
  TP_TRY(CheckAdmissible());

  auto task = std::make_shared<EmbedTask>();
  task->request = std::move(request);
  task->remaining = task->request.inputs.size();
  task->vectors.resize(task->remaining);
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (size_t i = 0; i < task->request.inputs.size(); ++i) {
    auto sequence = std::make_unique<Sequence>();
    sequence->card = card;
    sequence->embed = task;
    sequence->embed_index = i;
    if (!task->request.second_from.empty()) sequence->second_from = task->request.second_from[i];
    sequence->tokens = std::move(task->request.inputs[i]);
    sequence->prompt_tokens = sequence->prefill_tokens = sequence->reserve_tokens =
        static_cast<int32_t>(sequence->tokens.size());
    sequences.push_back(std::move(sequence));
  }
  return Post(std::move(sequences));
}

Result<RequestHandle> EngineImpl::Post(std::vector<std::unique_ptr<Sequence>> sequences) {
  auto ticket = std::make_shared<Ticket>();
  ticket->handle = next_handle_.fetch_add(1);
  ticket->unadmitted = static_cast<int32_t>(sequences.size());
  const Nanoseconds now = clock_.now();
  for (auto& sequence : sequences) {
    sequence->ticket = ticket;
    sequence->submitted_at = now;
  }
  {
    std::lock_guard lock(inbox_mutex_);
    TP_TRY(CheckAdmissible());  // again, now that no other submission can come between
    active_.fetch_add(1);
    queued_.fetch_add(1);
    tickets_.emplace(ticket->handle, ticket);
    for (auto& sequence : sequences) arrivals_.push_back(std::move(sequence));
  }
  inbox_ready_.notify_one();
  return ticket->handle;
}

std::shared_ptr<Ticket> EngineImpl::FindTicket(RequestHandle request) const {
  std::lock_guard lock(inbox_mutex_);
  const auto entry = tickets_.find(request);
  return entry == tickets_.end() ? nullptr : entry->second;
}

// At most one entry a request is in the list at a time, so it is bounded by the requests that live.
void EngineImpl::Flag(const std::shared_ptr<Ticket>& ticket) {
  if (ticket->listed.exchange(true)) return;
  {
    std::lock_guard lock(inbox_mutex_);
    attention_.push_back(ticket);
  }
  inbox_ready_.notify_one();
}

void EngineImpl::Cancel(RequestHandle request) {
  const auto ticket = FindTicket(request);
  if (ticket == nullptr) return;
  ticket->cancel = true;
  Flag(ticket);
}

void EngineImpl::SetPaused(RequestHandle request, bool paused) {
  const auto ticket = FindTicket(request);
  if (ticket == nullptr) return;
  ticket->paused = paused;
  if (paused) ticket->held_up = true;
  Flag(ticket);
}

}  // namespace tidepool::compute
