// What the answers of all dialects share: one reply is the sink of one request, and writes to its exchange,
// whole or as a stream. A dialect derives from it and encodes.
//
// Threads: sink methods come from the engine, loader or ledger thread, Quiet() from the I/O thread; a mutex
// orders them. Nothing here blocks: text goes to the exchange, which buffers it within bounds.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/http.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway {

class ReplySink : public platform::ChatSink {
 public:
  // `ignored`: fields for the header Tidepool-Ignored.
  ReplySink(std::shared_ptr<Exchange> exchange, bool stream, std::vector<std::string> ignored);
  // A sink that was dropped without OnDone is a defect below: the derived class's destructor calls Lost(),
  // and the client gets an error instead of silence.
  void Lost();

  void OnRates(const platform::RateState& rates) final;
  // The answer's end. Overridden by what must be done before it; that ends with this.
  void OnDone(const Result<compute::Usage>& usage) override;

  // The request could not be started.
  void Fail(const Error& error);
  // Nothing was sent for a while.
  void Quiet();

 protected:
  // All under mutex_.
  virtual HttpResponse ErrorReply(const Error& error) const = 0;       // nothing was sent yet
  virtual void AppendError(const Error& error, std::string& out) = 0;  // within a stream; nothing follows
  virtual void AppendQuiet(std::string& out);                          // default: a comment
  virtual std::string_view StreamType() const;                         // default: server-sent events
  virtual void AppendHeaders(std::vector<HttpHeader>& headers) const;  // default: the limits, OpenAI's way
  virtual std::string Whole(const compute::Usage& usage) = 0;
  virtual void AppendEnd(const compute::Usage& usage, std::string& out) = 0;  // of a stream

  // A choice that ended with an error or was cancelled fails the whole, in OnDone; true if it is one.
  bool KeepError(const compute::FinishEvent& event);
  // Begins the stream with the first bytes, so that a request that fails before has its proper status.
  void Write(std::string_view bytes);

  const std::shared_ptr<Exchange> exchange_;
  const bool stream_;
  std::mutex mutex_;
  bool done_ = false;
  platform::RateState rates_;

 private:
  void SendError(const Error& error);
  std::vector<HttpHeader> Headers() const;

  const std::vector<std::string> ignored_;
  bool begun_ = false;
  std::optional<Error> error_;  // of the first choice that failed
};

// x-ratelimit-limit-requests and so on, of the limits there are.
void AppendRateHeaders(const platform::RateState& rates, std::vector<HttpHeader>& headers);

// Ties a running generation to its connection: cancels it when the client goes away, pauses it while the
// client reads too slowly, keeps the connection alive while nothing comes.
std::shared_ptr<ExchangeListener> MakeReplyListener(std::weak_ptr<ReplySink> reply,
                                                    std::shared_ptr<platform::Generation> generation);

// A generation that was started, or why not, for `reply`.
void Attach(const std::shared_ptr<Exchange>& exchange, const std::shared_ptr<ReplySink>& reply,
            Result<std::shared_ptr<platform::Generation>> generation);

}  // namespace tidepool::gateway
