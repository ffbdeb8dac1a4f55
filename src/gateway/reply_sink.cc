#include "gateway/reply_sink.h"

#include <fmt/format.h>

#include <cmath>

#include "base/log.h"
#include "gateway/fields.h"
#include "gateway/sse.h"

namespace tidepool::gateway {
namespace {

// As OpenAI writes it: "6m0s", "1s", "20ms".
std::string DurationText(double seconds) {
  const auto ms = static_cast<int64_t>(std::ceil(std::max(0.0, seconds) * 1000));
  if (ms < 1000) return fmt::format("{}ms", ms);
  const int64_t whole = (ms + 999) / 1000;
  if (whole < 60) return fmt::format("{}s", whole);
  return fmt::format("{}m{}s", whole / 60, whole % 60);
}

class ReplyListener final : public ExchangeListener {
 public:
  ReplyListener(std::weak_ptr<ReplySink> reply, std::shared_ptr<platform::Generation> generation)
      : reply_(std::move(reply)), generation_(std::move(generation)) {}
  void OnClosed() override { generation_->Cancel(); }
  void OnPressure(bool high) override { generation_->SetPaused(high); }
  void OnQuiet() override {
    if (const auto reply = reply_.lock()) reply->Quiet();
  }

 private:
  const std::weak_ptr<ReplySink> reply_;
  const std::shared_ptr<platform::Generation> generation_;
};

}  // namespace

void AppendRateHeaders(const platform::RateState& rates, std::vector<HttpHeader>& headers) {
  const auto append = [&](const std::optional<platform::RateState::Window>& window, std::string_view of) {
    if (!window) return;
    headers.push_back({fmt::format("x-ratelimit-limit-{}", of), fmt::to_string(window->limit)});
    headers.push_back({fmt::format("x-ratelimit-remaining-{}", of), fmt::to_string(window->remaining)});
    headers.push_back({fmt::format("x-ratelimit-reset-{}", of), DurationText(window->reset_s)});
  };
  append(rates.requests, "requests");
  append(rates.tokens, "tokens");
}

ReplySink::ReplySink(std::shared_ptr<Exchange> exchange, bool stream, std::vector<std::string> ignored)
    : exchange_(std::move(exchange)), stream_(stream), ignored_(std::move(ignored)) {}

void ReplySink::Lost() {
  Fail(Error{ErrorKind::kInternal, "answer_lost", "The server lost this answer before its end.", "", 0});
}

void ReplySink::AppendQuiet(std::string& out) { AppendComment(out, "waiting"); }

std::string_view ReplySink::StreamType() const { return kEventStream; }

void ReplySink::AppendHeaders(std::vector<HttpHeader>& headers) const { AppendRateHeaders(rates_, headers); }

std::vector<HttpHeader> ReplySink::Headers() const {
  std::vector<HttpHeader> headers;
  if (!ignored_.empty()) headers.push_back({"Tidepool-Ignored", IgnoredHeader(ignored_)});
  AppendHeaders(headers);
  return headers;
}

void ReplySink::OnRates(const platform::RateState& rates) {
  std::lock_guard lock(mutex_);
  rates_ = rates;
}

// The status line is held back until there is something to say, so that a request that fails before its first
// token gets its proper status.
void ReplySink::Write(std::string_view bytes) {
  if (!begun_) {
    begun_ = true;
    std::vector<HttpHeader> headers = Headers();
    headers.push_back({"Cache-Control", "no-cache"});
    headers.push_back({"X-Accel-Buffering", "no"});  // nginx would collect the events otherwise
    exchange_->Begin(200, StreamType(), std::move(headers));
  }
  if (!bytes.empty()) exchange_->Write(bytes);
}

bool ReplySink::KeepError(const compute::FinishEvent& event) {
  if (event.reason != compute::FinishReason::kError && event.reason != compute::FinishReason::kCancelled)
    return false;
  if (!error_) {
    error_ = event.reason == compute::FinishReason::kError
                 ? event.error
                 : Error{ErrorKind::kUnavailable, "cancelled",
                         "The server ended this request before its answer.", "", 1};
  }
  return true;
}

void ReplySink::OnDone(const Result<compute::Usage>& usage) {
  std::lock_guard lock(mutex_);
  if (done_) return;
  done_ = true;
  if (!usage) return SendError(error_.value_or(usage.error()));
  if (error_) return SendError(*error_);
  if (!stream_) {
    HttpResponse response;
    response.headers = Headers();
    response.body = Whole(*usage);
    return exchange_->Send(std::move(response));
  }
  std::string out;
  AppendEnd(*usage, out);
  Write(out);
  exchange_->End();
}

void ReplySink::Fail(const Error& error) {
  std::lock_guard lock(mutex_);
  if (done_) return;
  done_ = true;
  SendError(error);
}

void ReplySink::SendError(const Error& error) {
  if (!begun_) {
    HttpResponse response = ErrorReply(error);
    for (HttpHeader& header : Headers()) response.headers.push_back(std::move(header));
    return exchange_->Send(std::move(response));
  }
  // (A cancelled one is mostly a client that went away, which the request's own line tells.)
  Log(error.code == "cancelled" ? LogLevel::kDebug : LogLevel::kWarn, "a stream ended with an error",
      {{"request_id", exchange_->request().id}, {"code", error.code}, {"reason", error.message}});
  std::string out;
  AppendError(error, out);
  exchange_->Write(out);
  exchange_->End();
}

void ReplySink::Quiet() {
  std::lock_guard lock(mutex_);
  if (done_ || !stream_) return;
  std::string out;
  AppendQuiet(out);
  Write(out);
}

std::shared_ptr<ExchangeListener> MakeReplyListener(std::weak_ptr<ReplySink> reply,
                                                    std::shared_ptr<platform::Generation> generation) {
  return std::make_shared<ReplyListener>(std::move(reply), std::move(generation));
}

void Attach(const std::shared_ptr<Exchange>& exchange, const std::shared_ptr<ReplySink>& reply,
            Result<std::shared_ptr<platform::Generation>> generation) {
  if (!generation) return reply->Fail(generation.error());
  exchange->Listen(MakeReplyListener(reply, std::move(*generation)));
}

}  // namespace tidepool::gateway
