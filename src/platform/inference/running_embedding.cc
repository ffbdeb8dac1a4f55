#include "platform/inference/running_embedding.h"

#include "platform/inference/metering.h"

namespace tidepool::platform {

Status RunningEmbedding::Start(const ReadyModel& model, compute::EmbedRequest request) {
  int32_t prompt_tokens = 0;
  for (const auto& input : request.inputs) prompt_tokens += static_cast<int32_t>(input.size());
  prompt_tokens_ = prompt_tokens;
  entry_->SetPrompt(prompt_tokens);
  request.model = model.handle;
  const auto self = shared_from_this();
  if (meter_ != nullptr) {
    request.computed = [self](const compute::Usage& so_far, double device_s) {
      self->entry_->OnProgress(
          {.phase = compute::ProgressEvent::Phase::kPrefill,
           .share = self->prompt_tokens_ > 0
                        ? static_cast<float>(so_far.prompt_tokens) / static_cast<float>(self->prompt_tokens_)
                        : 0});
      const auto micros = static_cast<int64_t>(device_s * 1e6);
      self->meter_->Count({.prompt = so_far.prompt_tokens - self->told_tokens_},
                          micros - self->told_device_us_);
      self->told_tokens_ = so_far.prompt_tokens;
      self->told_device_us_ = micros;
    };
    request.finished = [self](const compute::FinishEvent& event) { self->finish_ = event; };
  }
  request.done = [self, id = model.id, prompt_tokens](Result<std::vector<std::vector<float>>> vectors) {
    Result<EmbeddingReply> reply = Fail(ErrorKind::kInternal, "", "");
    if (vectors) {
      reply = EmbeddingReply{id, std::move(*vectors), prompt_tokens};
    } else {
      reply = Fail(vectors.error());
    }
    self->End(std::move(reply));
  };
  TP_ASSIGN(const compute::RequestHandle handle, engine_.Embed(std::move(request)));
  handle_.store(handle);
  if (cancelled_.load()) engine_.Cancel(handle);
  return {};
}

void RunningEmbedding::FailBeforeStart(const Error& error) {
  entry_->End();
  done_(Fail(ForClient(error)));
}

void RunningEmbedding::Cancel() {
  cancelled_.store(true);
  if (const compute::RequestHandle handle = handle_.load(); handle != 0) engine_.Cancel(handle);
}

Error RunningEmbedding::ForClient(const Error& error) const {
  return entry_->stopped() && error.kind == ErrorKind::kCancelled ? StoppedError() : error;
}

// A metered request's end is told when its row is on disk.
void RunningEmbedding::End(Result<EmbeddingReply> reply) {
  entry_->End();
  if (!reply) reply = Fail(ForClient(reply.error()));
  const std::shared_ptr<Meter> meter = std::move(meter_);
  if (meter == nullptr) return done_(std::move(reply));
  const UsageStatus status = reply                                                 ? UsageStatus::kDone
                             : finish_.reason == compute::FinishReason::kCancelled ? UsageStatus::kCancelled
                                                                                   : UsageStatus::kError;
  const std::string code = status == UsageStatus::kError ? reply.error().code : std::string();
  meter->Close(status, code, TimesOf(finish_),
               [self = shared_from_this(), row_id = meter->row_id(),
                kept = std::make_shared<Result<EmbeddingReply>>(std::move(reply))](const Status& durable) {
                 if (*kept && !durable) {
                   self->done_(Fail(durable.error()));
                 } else {
                   self->done_(std::move(*kept));
                 }
                 if (durable && self->recording_ != nullptr) self->recording_->Keep(row_id);
                 self->recording_.reset();
               });
}

}  // namespace tidepool::platform
