#include "gateway/http_connection.h"

#include <fmt/format.h>

#include <ctime>
#include <mutex>

namespace tidepool::gateway {
namespace {

// Large pieces waiting for a client, in write buffers.
constexpr uint64_t kMaxLargePieces = 32;

std::string_view ReasonPhrase(int status) {
  switch (status) {
    case 200: return "OK";
    case 201: return "Created";
    case 202: return "Accepted";
    case 204: return "No Content";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 403: return "Forbidden";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 408: return "Request Timeout";
    case 409: return "Conflict";
    case 413: return "Content Too Large";
    case 415: return "Unsupported Media Type";
    case 417: return "Expectation Failed";
    case 422: return "Unprocessable Content";
    case 429: return "Too Many Requests";
    case 431: return "Request Header Fields Too Large";
    case 499: return "Client Closed Request";
    case 500: return "Internal Server Error";
    case 501: return "Not Implemented";
    case 503: return "Service Unavailable";
    case 504: return "Gateway Timeout";
    case 505: return "HTTP Version Not Supported";
    default: return "Status";
  }
}

std::string HttpDate() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[40];
  std::strftime(text, sizeof text, "%a, %d %b %Y %H:%M:%S GMT", &utc);
  return text;
}

// A header value must not be able to start another header.
void AppendHeader(std::string& out, std::string_view name, std::string_view value) {
  out.append(name).append(": ");
  for (const char c : value) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(byte < 0x20 || byte == 0x7f ? ' ' : c);
  }
  out.append("\r\n");
}

}  // namespace

// The part of an exchange that other threads may touch; everything under one mutex.
class ConnectionExchange final : public Exchange, public std::enable_shared_from_this<ConnectionExchange> {
 public:
  ConnectionExchange(HttpRequest request, BodyCharge body_charge, std::weak_ptr<HttpConnection> connection,
                     std::shared_ptr<EventLoop> loop, uint64_t max_pending)
      : request_(std::move(request)),
        body_charge_(std::move(body_charge)),
        connection_(std::move(connection)),
        loop_(std::move(loop)),
        max_pending_(max_pending) {}

  const HttpRequest& request() const override { return request_; }

  void Send(HttpResponse response) override {
    std::lock_guard lock(mutex_);
    if (closed_ || answered_ || begun_) return;
    answered_ = true;
    response_ = std::move(response);
    Wake();
  }

  void Begin(int status, std::string_view content_type, std::vector<HttpHeader> headers) override {
    std::lock_guard lock(mutex_);
    if (closed_ || answered_ || begun_) return;
    begun_ = true;
    status_ = status;
    stream_type_ = std::string(content_type);
    stream_headers_ = std::move(headers);
    Wake();
  }

  void Write(std::string_view bytes) override {
    std::lock_guard lock(mutex_);
    if (closed_ || !begun_ || answered_ || overflow_) return;
    // A large piece (an event that repeats the answer) is taken beside what waits: the buffer's limit is for
    // readers that do not keep up with many small ones.
    const bool large =
        bytes.size() > max_pending_ / 4 && large_pending_ + bytes.size() <= kMaxLargePieces * max_pending_;
    if (!large && pending_.size() - large_pending_ + bytes.size() > max_pending_) {
      overflow_ = true;
    } else {
      pending_.append(bytes);
      if (large) large_pending_ += bytes.size();
    }
    Wake();
  }

  void End() override {
    std::lock_guard lock(mutex_);
    if (closed_ || !begun_ || answered_) return;
    answered_ = true;
    Wake();
  }

  void Listen(std::shared_ptr<ExchangeListener> listener) override {
    std::unique_lock lock(mutex_);
    if (closed_) {
      const bool lost = lost_;
      lock.unlock();
      if (lost) listener->OnClosed();
      return;
    }
    listener_ = std::move(listener);
  }

  void Abort() override {
    loop_->Post([self = shared_from_this()] {
      if (auto connection = self->connection_.lock(); connection && connection->exchange_ == self)
        connection->Lost(false);
    });
  }

  // Event loop: no more output is wanted.
  std::shared_ptr<ExchangeListener> Retire(bool lost) {
    std::lock_guard lock(mutex_);
    closed_ = true;
    lost_ = lost;
    pending_.clear();
    pending_.shrink_to_fit();
    return std::move(listener_);
  }

 private:
  friend class HttpConnection;

  // Under the mutex. One posted wake-up at a time carries any number of writes.
  void Wake() {
    if (woken_) return;
    woken_ = true;
    loop_->Post([self = shared_from_this()] {
      {
        std::lock_guard lock(self->mutex_);
        self->woken_ = false;
      }
      if (auto connection = self->connection_.lock(); connection && connection->exchange_ == self)
        connection->Pump();
    });
  }

  const HttpRequest request_;
  const BodyCharge body_charge_;  // of request_.body
  const std::weak_ptr<HttpConnection> connection_;
  const std::shared_ptr<EventLoop> loop_;
  const uint64_t max_pending_;

  std::mutex mutex_;
  bool woken_ = false;
  bool begun_ = false;     // a stream was started
  bool answered_ = false;  // the answer is complete
  bool closed_ = false;    // the connection wants nothing more
  bool lost_ = false;      // because the client went away
  bool overflow_ = false;
  int status_ = 200;
  std::string stream_type_;
  std::vector<HttpHeader> stream_headers_;
  std::optional<HttpResponse> response_;
  std::string pending_;
  uint64_t large_pending_ = 0;  // of it, in large pieces
  std::shared_ptr<ExchangeListener> listener_;
  bool head_taken_ = false;  // event loop only
};

HttpConnection::HttpConnection(std::unique_ptr<Transport> transport, std::shared_ptr<EventLoop> loop,
                               HttpApplication& application, const ConnectionOptions& options,
                               const Clock& clock, Peer peer)
    : transport_(std::move(transport)),
      loop_(std::move(loop)),
      application_(application),
      options_(options),
      clock_(clock),
      peer_(std::move(peer)) {}

void HttpConnection::Start() {
  parser_ = std::make_unique<HttpParser>(options_.limits);
  body_charge_ = BodyCharge(options_.bodies);
  deadline_ = clock_.now() + options_.header_timeout;
  transport_->Handshake([self = shared_from_this()](bool ok, size_t) {
    if (self->state_ != State::kHandshake) return;
    // The end must reach the client as an end, whatever it sent: plain HTTP to a TLS port, for one.
    if (!ok) return self->Linger();
    self->state_ = State::kHeader;
    self->StartRead();
  });
}

void HttpConnection::StartRead() {
  if (reading_ || state_ == State::kClosed) return;
  reading_ = true;
  transport_->Read(chunk_.data(), chunk_.size(),
                   [self = shared_from_this()](bool ok, size_t bytes) { self->OnRead(ok, bytes); });
}

void HttpConnection::OnRead(bool ok, size_t bytes) {
  reading_ = false;
  if (state_ == State::kClosed) return;
  if (!ok) return Lost(false);
  if (refusing_ && state_ == State::kAnswering) return;
  if (state_ != State::kLingering) {
    input_.append(chunk_.data(), bytes);
    if (state_ == State::kAnswering) {
      // Requests are answered one after another; a client that sends ahead more than this is not a client.
      if (input_.size() > options_.limits.max_header_bytes) return Lost(false);
    } else {
      Advance();
    }
  }
  StartRead();
}

void HttpConnection::Advance() {
  while (state_ == State::kHeader || state_ == State::kBody) {
    const bool was_started = parser_->started();
    switch (parser_->Feed(input_)) {
      case HttpParser::State::kNeedMore:
        if (!was_started && parser_->started()) deadline_ = clock_.now() + options_.header_timeout;
        if (state_ == State::kBody) ChargeBody(parser_->body_bytes());
        return;
      case HttpParser::State::kRefused: return Refuse(parser_->status(), parser_->code(), parser_->message());
      case HttpParser::State::kHeader: ScreenRequest(); break;
      case HttpParser::State::kDone:
        if (!ChargeBody(parser_->body_bytes())) return;
        StartExchange();
        handled_ = true;
        application_.Handle(exchange_);
        break;
    }
  }
}

void HttpConnection::ScreenRequest() {
  HttpRequest& request = parser_->request();
  request.peer = peer_;
  keep_alive_ = parser_->keep_alive();
  state_ = State::kBody;
  deadline_ = clock_.now() + options_.body_timeout;
  if (auto refusal = application_.Screen(request)) {
    if (parser_->has_body()) return AnswerAndClose(std::move(*refusal));
    StartExchange();
    exchange_->Send(std::move(*refusal));
    return;
  }
  // A length over the limit of one body is the parser's to refuse.
  const uint64_t announced = parser_->content_length().value_or(0);
  if (announced <= options_.limits.max_body_bytes && !ChargeBody(announced)) return;
  if (parser_->expects_continue() && parser_->has_body()) {
    // An interim reply of 25 bytes: it fits any socket buffer, since nothing else is being written now.
    static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
    writing_ = true;
    last_write_progress_ = clock_.now();
    transport_->Write(kContinue.data(), kContinue.size(), [self = shared_from_this()](bool ok, size_t) {
      self->writing_ = false;
      if (self->state_ == State::kClosed) return;
      if (!ok) return self->Lost(false);
      self->Pump();
    });
  }
}

void HttpConnection::StartExchange() {
  exchange_ = std::make_shared<ConnectionExchange>(std::move(parser_->request()), std::move(body_charge_),
                                                   weak_from_this(), loop_, options_.max_write_buffer_bytes);
  state_ = State::kAnswering;
  deadline_ = 0;
  exchange_start_ = clock_.now();
  last_output_time_ = exchange_start_;
  bytes_sent_ = 0;
  handled_ = false;
  last_output_ = false;
  pressure_high_ = false;
}

void HttpConnection::Refuse(int status, std::string_view code, std::string_view message) {
  parser_->request().peer = peer_;
  AnswerAndClose(application_.Refuse(parser_->request(), status, code, message));
}

void HttpConnection::AnswerAndClose(HttpResponse response) {
  StartExchange();
  keep_alive_ = false;
  refusing_ = true;
  exchange_->Send(std::move(response));
}

bool HttpConnection::ChargeBody(uint64_t bytes) {
  if (body_charge_.GrowTo(bytes)) return true;
  HttpResponse response = application_.Refuse(
      parser_->request(), 503, "too_many_body_bytes",
      fmt::format(
          "The requests being answered hold as many bytes of bodies as this server allows in all ({}, "
          "setting http.max_total_body); try again.",
          options_.bodies->limit()));
  response.headers.push_back({"Retry-After", "1"});
  AnswerAndClose(std::move(response));
  return false;
}

std::string HttpConnection::Head(const HttpRequest& request, int status, std::string_view content_type,
                                 const std::vector<HttpHeader>& headers, std::optional<size_t> length,
                                 bool close) {
  std::vector<HttpHeader> all = headers;
  application_.Decorate(request, all);
  std::string head;
  head.reserve(512);
  fmt::format_to(std::back_inserter(head), "HTTP/1.1 {} {}\r\n", status, ReasonPhrase(status));
  AppendHeader(head, "Date", HttpDate());
  if (!content_type.empty()) AppendHeader(head, "Content-Type", content_type);
  for (const HttpHeader& header : all) AppendHeader(head, header.name, header.value);
  if (length) {
    if (status != 204 && status != 304) AppendHeader(head, "Content-Length", fmt::to_string(*length));
  } else if (request.version == 11) {
    AppendHeader(head, "Transfer-Encoding", "chunked");
  }
  if (close) {
    AppendHeader(head, "Connection", "close");
  } else if (request.version == 10) {
    AppendHeader(head, "Connection", "keep-alive");
  }
  head.append("\r\n");
  return head;
}

void HttpConnection::Pump() {
  if (!exchange_ || state_ != State::kAnswering) return;
  if (writing_) return ReportPressure();
  ConnectionExchange& exchange = *exchange_;
  const HttpRequest& request = exchange.request();
  output_.clear();
  output_offset_ = 0;
  bool overflow = false;
  std::shared_ptr<ExchangeListener> listener;
  {
    std::lock_guard lock(exchange.mutex_);
    overflow = exchange.overflow_;
    if (exchange.begun_ && !exchange.answered_) listener = exchange.listener_;
    if (exchange.response_ && !exchange.head_taken_) {
      HttpResponse& response = *exchange.response_;
      exchange.head_taken_ = true;
      exchange.status_ = response.status;
      close_after_ = response.close || !keep_alive_;
      output_ = Head(request, response.status, response.content_type, response.headers, response.body.size(),
                     close_after_);
      if (request.method != "HEAD") output_ += response.body;
      response.body = {};
      last_output_ = true;
    } else if (exchange.begun_) {
      // A stream to an HTTP/1.0 client ends with the connection.
      const bool chunked = request.version == 11;
      if (!exchange.head_taken_) {
        exchange.head_taken_ = true;
        close_after_ = !keep_alive_ || !chunked;
        output_ = Head(request, exchange.status_, exchange.stream_type_, exchange.stream_headers_,
                       std::nullopt, close_after_);
      }
      if (!exchange.pending_.empty()) {
        if (chunked) fmt::format_to(std::back_inserter(output_), "{:x}\r\n", exchange.pending_.size());
        output_ += exchange.pending_;
        if (chunked) output_ += "\r\n";
        exchange.pending_.clear();
        exchange.large_pending_ = 0;
      }
      if (exchange.answered_ && !last_output_) {
        if (chunked) output_ += "0\r\n\r\n";
        last_output_ = true;
      }
    }
  }
  // Text is missing from the answer: it must not look complete.
  if (overflow) return Lost(true);
  if (output_.empty()) {
    if (last_output_) return FinishExchange();
    if (listener) listener->OnRoom();
    return;
  }
  last_write_progress_ = clock_.now();
  last_output_time_ = last_write_progress_;
  WriteSome();
}

void HttpConnection::ReportPressure() {
  size_t waiting = output_.size() - output_offset_;
  bool overflow = false;
  std::shared_ptr<ExchangeListener> listener;
  {
    std::lock_guard lock(exchange_->mutex_);
    waiting += exchange_->pending_.size();
    overflow = exchange_->overflow_;
    listener = exchange_->listener_;
  }
  if (overflow) return Lost(true);
  const bool high = pressure_high_ ? waiting > options_.max_write_buffer_bytes / 4
                                   : waiting > options_.max_write_buffer_bytes / 2;
  if (high == pressure_high_) return;
  pressure_high_ = high;
  if (listener) listener->OnPressure(high);
}

void HttpConnection::WriteSome() {
  writing_ = true;
  transport_->Write(output_.data() + output_offset_, output_.size() - output_offset_,
                    [self = shared_from_this()](bool ok, size_t bytes) { self->OnWritten(ok, bytes); });
}

void HttpConnection::OnWritten(bool ok, size_t bytes) {
  writing_ = false;
  if (state_ != State::kAnswering) return;
  if (!ok) return Lost(false);
  output_offset_ += bytes;
  bytes_sent_ += bytes;
  last_write_progress_ = clock_.now();
  if (pressure_high_) ReportPressure();
  if (state_ != State::kAnswering) return;
  if (output_offset_ < output_.size()) return WriteSome();
  if (output_.capacity() > 65536) output_ = std::string();
  output_.clear();
  output_offset_ = 0;
  if (last_output_) return FinishExchange();
  Pump();
}

void HttpConnection::FinishExchange() {
  auto exchange = std::move(exchange_);
  const auto listener = exchange->Retire(false);
  const double seconds = static_cast<double>(clock_.now() - exchange_start_) / kSecond;
  application_.Finished(exchange->request(),
                        {exchange->status_, bytes_sent_, seconds, handled_, false, false});
  if (close_after_) return Linger();
  NextRequest();
}

void HttpConnection::NextRequest() {
  parser_ = std::make_unique<HttpParser>(options_.limits);
  body_charge_ = BodyCharge(options_.bodies);
  state_ = State::kHeader;
  deadline_ = clock_.now() + options_.idle_timeout;
  if (!input_.empty()) Advance();
  StartRead();
}

// Closing with unread input makes the kernel send a reset that can overtake the reply: end our side, read on
// a while.
void HttpConnection::Linger() {
  state_ = State::kLingering;
  deadline_ = clock_.now() + options_.linger;
  input_.clear();
  transport_->FinishWriting();
  StartRead();
}

void HttpConnection::Lost(bool dropped_reader) {
  if (state_ == State::kClosed) return;
  auto exchange = std::move(exchange_);
  if (exchange) {
    const auto listener = exchange->Retire(true);
    if (listener) listener->OnClosed();
    const double seconds = static_cast<double>(clock_.now() - exchange_start_) / kSecond;
    const int status = exchange->head_taken_ ? exchange->status_ : 499;
    application_.Finished(exchange->request(),
                          {status, bytes_sent_, seconds, handled_, true, dropped_reader});
  }
  Close();
}

void HttpConnection::Close() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  body_charge_.Release();
  transport_->Close();
}

void HttpConnection::Shutdown() {
  if (state_ != State::kClosed) Lost(false);
}

void HttpConnection::Tick() {
  const Nanoseconds now = clock_.now();
  switch (state_) {
    case State::kHandshake:
      if (now > deadline_) Close();
      break;
    case State::kHeader:
      if (now <= deadline_) break;
      if (!parser_->started()) return Linger();  // an idle connection ends without a word
      Refuse(408, "request_timeout", "The request's header did not arrive in time.");
      break;
    case State::kBody:
      if (now > deadline_) Refuse(408, "request_timeout", "The request's body did not arrive in time.");
      break;
    case State::kLingering:
      if (now > deadline_) Close();
      break;
    case State::kAnswering: {
      if (writing_) {
        if (now - last_write_progress_ > options_.write_timeout) Lost(true);
        break;
      }
      if (now - last_output_time_ < options_.quiet_interval) break;
      last_output_time_ = now;
      std::shared_ptr<ExchangeListener> listener;
      {
        std::lock_guard lock(exchange_->mutex_);
        listener = exchange_->listener_;
      }
      if (listener) listener->OnQuiet();
      break;
    }
    case State::kClosed: break;
  }
}

}  // namespace tidepool::gateway
