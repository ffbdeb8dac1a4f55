// One connection: reads requests one after another, lets the application answer, writes with back-pressure,
// and keeps the time limits. Knows sockets only as Transport.
//
// Threads: everything on the connection's event loop, except the Exchange it hands out (any thread).
// Bounds: a body is charged to the server's budget of bodies before it is read; input beyond the current
// request is kept up to max_header_bytes, then the connection is closed; streamed output waiting for the
// client is kept up to max_write_buffer_bytes, then the client is dropped; single pieces of more than a
// quarter of that are kept beside it, up to 32 times as much.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "base/clock.h"
#include "gateway/body_budget.h"
#include "gateway/http.h"
#include "gateway/http_parser.h"

namespace tidepool::gateway {

// A thread that runs posted work in order. Post may be called from any thread.
class EventLoop {
 public:
  virtual ~EventLoop() = default;
  virtual void Post(std::function<void()> work) = 0;
};

// A connected socket, plain or TLS. Event loop only; at most one Read and one Write at a time. `done` is
// never called from inside the call that took it. After Close(), outstanding calls end with ok = false.
class Transport {
 public:
  using Done = std::function<void(bool ok, size_t bytes)>;
  virtual ~Transport() = default;
  virtual void Handshake(Done done) = 0;
  virtual void Read(char* data, size_t size, Done done) = 0;
  virtual void Write(const char* data, size_t size, Done done) = 0;
  virtual void FinishWriting() = 0;  // the client reads the end of the stream after what was written
  virtual void Close() = 0;
};

struct ConnectionOptions {
  HttpLimits limits;
  Nanoseconds header_timeout = 10 * kSecond;
  Nanoseconds body_timeout = 60 * kSecond;
  Nanoseconds idle_timeout = 75 * kSecond;
  Nanoseconds write_timeout = 30 * kSecond;
  Nanoseconds quiet_interval = 10 * kSecond;
  Nanoseconds linger = 2 * kSecond;  // reading on after the last reply, so that it is not lost to a reset
  uint64_t max_write_buffer_bytes = 1u << 20;
  std::shared_ptr<BodyBudget> bodies;  // nullptr: only each body is bounded
};

class ConnectionExchange;

class HttpConnection : public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(std::unique_ptr<Transport> transport, std::shared_ptr<EventLoop> loop,
                 HttpApplication& application, const ConnectionOptions& options, const Clock& clock,
                 Peer peer);
  void Start();
  // Time limits and keep-alives; called a few times a second.
  void Tick();
  // Gives up whatever runs and closes.
  void Shutdown();
  bool closed() const { return state_ == State::kClosed; }

 private:
  friend class ConnectionExchange;
  enum class State : uint8_t { kHandshake, kHeader, kBody, kAnswering, kLingering, kClosed };

  void StartRead();
  void OnRead(bool ok, size_t bytes);
  void Advance();
  void ScreenRequest();
  void StartExchange();
  void Refuse(int status, std::string_view code, std::string_view message);
  void AnswerAndClose(HttpResponse response);
  bool ChargeBody(uint64_t bytes);  // false: refused
  void Pump();                      // moves what the exchange has to the socket
  void ReportPressure();
  void WriteSome();
  void OnWritten(bool ok, size_t bytes);
  void FinishExchange();
  void NextRequest();
  void Linger();
  void Lost(bool dropped_reader);
  void Close();
  std::string Head(const HttpRequest& request, int status, std::string_view content_type,
                   const std::vector<HttpHeader>& headers, std::optional<size_t> length, bool close);

  std::unique_ptr<Transport> transport_;
  std::shared_ptr<EventLoop> loop_;
  HttpApplication& application_;
  const ConnectionOptions& options_;
  const Clock& clock_;
  const Peer peer_;

  State state_ = State::kHandshake;
  std::unique_ptr<HttpParser> parser_;
  std::string input_;
  std::array<char, 8192> chunk_;
  bool reading_ = false;
  bool refusing_ = false;  // the answer does not wait for the rest of the request: nothing more is read
  BodyCharge body_charge_;
  Nanoseconds deadline_ = 0;  // of the state; 0: none

  std::shared_ptr<ConnectionExchange> exchange_;
  Nanoseconds exchange_start_ = 0;
  bool handled_ = false;
  bool keep_alive_ = true;  // as the request wants it
  bool close_after_ = false;
  std::string output_;
  size_t output_offset_ = 0;
  bool writing_ = false;
  bool last_output_ = false;  // the answer ends with output_
  bool pressure_high_ = false;
  uint64_t bytes_sent_ = 0;
  Nanoseconds last_write_progress_ = 0;
  Nanoseconds last_output_time_ = 0;
};

}  // namespace tidepool::gateway
