// Embeddings: hidden states of an input become one vector.
#include <cmath>

#include "base/check.h"
#include "compute/engine/engine_impl.h"

namespace tidepool::compute {
namespace {

Error Cancelled() {
  return {.kind = ErrorKind::kCancelled,
          .code = "cancelled",
          .message = "the request was cancelled",
          .param = {}};
}

// Scales to length 1; a zero vector stays. Sums in double: the length is exact to float's last bit.
void Normalise(std::vector<float>& vector) {
  double squares = 0;
  for (const float x : vector) squares += static_cast<double>(x) * static_cast<double>(x);
  if (squares <= 0) return;
  const double scale = 1 / std::sqrt(squares);
  for (float& x : vector) x = static_cast<float>(static_cast<double>(x) * scale);
}

}  // namespace

// `rows`: the hidden rows (or scores) this step computed for the sequence. A step holds the whole input of an
// encoder; of a causal model it may hold a chunk.
void EngineImpl::TakeHidden(Sequence& sequence, const PlannedTokens& planned, const float* rows) {
  const architectures::ModelInfo& info = sequence.card->info;
  const auto width = info.ranks ? size_t{1} : static_cast<size_t>(info.hidden_size);
  std::vector<float>& vector = sequence.embed->vectors[sequence.embed_index];
  if (info.pooling == architectures::Pooling::kMean) {
    sequence.pooled.resize(width, 0.0);
    for (int32_t i = 0; i < planned.count; ++i) {
      for (size_t d = 0; d < width; ++d)
        sequence.pooled[d] += static_cast<double>(rows[static_cast<size_t>(i) * width + d]);
    }
  } else if (info.pooling == architectures::Pooling::kCls ? planned.begin == 0
                                                          : sequence.computed == sequence.prompt_tokens) {
    vector.assign(rows, rows + width);
  }
  if (sequence.computed < sequence.prompt_tokens) return;
  if (info.pooling == architectures::Pooling::kMean) {
    vector.resize(width);
    for (size_t d = 0; d < width; ++d) {
      vector[d] = static_cast<float>(sequence.pooled[d] / static_cast<double>(sequence.prompt_tokens));
    }
  }
  bool finite = true;
  for (const float x : vector) finite = finite && std::isfinite(x);
  if (!finite) {
    FinishEmbedding(sequence, FinishReason::kError,
                    {.kind = ErrorKind::kInternal,
                     .code = "embedding_not_finite",
                     .message = "the model gave an embedding that is not finite; its weights may be damaged",
                     .param = {}});
    return;
  }
  if (info.normalise_embedding) Normalise(vector);
  FinishEmbedding(sequence, FinishReason::kStop, {});
}

// One input ends. The first failure or cancel ends the whole request; its other inputs are dropped with it.
void EngineImpl::FinishEmbedding(Sequence& ending, FinishReason reason, Error error) {
  const std::shared_ptr<Ticket> ticket = ending.ticket;
  const std::shared_ptr<EmbedTask> task = ending.embed;
  std::unique_ptr<Sequence> sequence = Detach(ending);
  if (sequence->model != nullptr && reason == FinishReason::kStop) {
    sequence->model->metrics->embedded_tokens.Increment(sequence->prompt_tokens);
  }
  FinishEvent times;
  FillTimes(*sequence, 0, clock_.now(), times);
  if (FinishEvent& longest = task->times;
      times.queue_s + times.prefill_s >= longest.queue_s + longest.prefill_s) {
    times.device_s = longest.device_s;  // the sum
    longest = times;
  }
  const auto tell = [&](FinishReason how, const Error& why) {
    if (!task->request.finished) return;
    task->times.reason = how;
    task->times.error = why;
    task->times.usage = task->usage;
    task->request.finished(task->times);
  };
  --task->remaining;
  if (reason != FinishReason::kStop && !task->ended) {
    task->ended = true;
    if (sequence->model != nullptr) {
      ModelMetrics& metrics = *sequence->model->metrics;
      (reason == FinishReason::kCancelled ? metrics.finished_cancelled : metrics.finished_error).Increment();
    }
    tell(reason, error);
    task->request.done(Fail(reason == FinishReason::kCancelled ? Cancelled() : std::move(error)));
    ticket->cancel = true;  // the others go at the next look into the inbox
    Flag(ticket);
  }
  if (task->remaining > 0) return;
  if (!task->ended) {
    task->ended = true;
    sequence->model->metrics->finished_stop.Increment();
    tell(FinishReason::kStop, {});
    task->request.done(std::move(task->vectors));
  }
  EndTicket(ticket);
}

}  // namespace tidepool::compute
