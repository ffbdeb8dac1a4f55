#include "gateway/http_server.h"

#include <fmt/format.h>

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/steady_timer.hpp>
#include <charconv>
#include <thread>
#include <unordered_set>
#include <vector>

#include "base/log.h"

namespace tidepool::gateway {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

// The kernel's send buffer of a connection. Left to itself Linux grows it to megabytes a client, and a slow
// reader would only be noticed after that much text.
constexpr int kSendBufferBytes = 256 << 10;
constexpr auto kTick = std::chrono::milliseconds(200);

class PlainTransport final : public Transport {
 public:
  explicit PlainTransport(tcp::socket socket) : socket_(std::move(socket)) {}
  void Handshake(Done done) override {
    asio::post(socket_.get_executor(), [done = std::move(done)] { done(true, 0); });
  }
  void Read(char* data, size_t size, Done done) override {
    socket_.async_read_some(
        asio::buffer(data, size),
        [done = std::move(done)](error_code problem, size_t bytes) { done(!problem, bytes); });
  }
  void Write(const char* data, size_t size, Done done) override {
    socket_.async_write_some(
        asio::buffer(data, size),
        [done = std::move(done)](error_code problem, size_t bytes) { done(!problem, bytes); });
  }
  void FinishWriting() override {
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
  }
  void Close() override {
    error_code ignored;
    socket_.close(ignored);
  }

 private:
  tcp::socket socket_;
};

// Close() must not destroy the stream under its running operations: they hold it through `self`.
class TlsTransport final : public Transport {
 public:
  TlsTransport(tcp::socket socket, asio::ssl::context& context)
      : session_(std::make_shared<Session>(std::move(socket), context)) {}

  void Handshake(Done done) override {
    session_->stream.async_handshake(asio::ssl::stream_base::server,
                                     [self = session_, done = std::move(done)](error_code problem) {
                                       self->established = !problem;
                                       done(!problem, 0);
                                     });
  }

  void Read(char* data, size_t size, Done done) override {
    // After our end was said, what comes is only taken off the wire, not understood.
    if (session_->finished) {
      session_->stream.next_layer().async_read_some(
          asio::buffer(data, size), [self = session_, done = std::move(done)](
                                        error_code problem, size_t bytes) { done(!problem, bytes); });
      return;
    }
    session_->stream.async_read_some(asio::buffer(data, size), [self = session_, done = std::move(done)](
                                                                   error_code problem, size_t bytes) {
      // A read that was under way when we finished ends with the session; the next one reads the wire.
      const bool goes_on = self->finished && problem != asio::error::operation_aborted;
      done(!problem || goes_on, bytes);
    });
  }

  void Write(const char* data, size_t size, Done done) override {
    session_->stream.async_write_some(asio::buffer(data, size),
                                      [self = session_, done = std::move(done)](
                                          error_code problem, size_t bytes) { done(!problem, bytes); });
  }

  // Without close_notify a client cannot tell the end of an answer from a cut (RFC 8446 6.1).
  void FinishWriting() override {
    session_->finished = true;
    if (!session_->established) return session_->EndStream();
    // As if the client had said its end: otherwise the shutdown would wait for it, and read beside our own
    // read.
    SSL_set_shutdown(session_->stream.native_handle(), SSL_RECEIVED_SHUTDOWN);
    session_->stream.async_shutdown([self = session_](error_code) { self->EndStream(); });
  }

  void Close() override {
    error_code ignored;
    session_->stream.next_layer().close(ignored);
  }

 private:
  struct Session {
    Session(tcp::socket socket, asio::ssl::context& context) : stream(std::move(socket), context) {}
    void EndStream() {
      error_code ignored;
      stream.next_layer().shutdown(tcp::socket::shutdown_send, ignored);
    }
    asio::ssl::stream<tcp::socket> stream;
    bool established = false;  // the handshake succeeded
    bool finished = false;     // FinishWriting was called
  };
  const std::shared_ptr<Session> session_;
};

class Loop final : public EventLoop {
 public:
  Loop() : timer_(context_) {}
  void Post(std::function<void()> work) override { asio::post(context_, std::move(work)); }
  asio::io_context& context() { return context_; }

  void Run() {
    Tick();
    context_.run();
  }
  // Loop thread from here on.
  void Add(std::shared_ptr<HttpConnection> connection) {
    connection->Start();
    connections_.insert(std::move(connection));
  }
  void Shutdown() {
    for (const auto& connection :
         std::vector<std::shared_ptr<HttpConnection>>(connections_.begin(), connections_.end())) {
      connection->Shutdown();
    }
    connections_.clear();
    context_.stop();
  }
  // After the thread ended: handlers still queued own exchanges, which own this loop.
  void RunLeftovers() {
    timer_.cancel();
    context_.restart();
    while (context_.poll() > 0) {
    }
  }
  std::function<void(size_t)> on_closed;  // connections that ended since the last tick

 private:
  void Tick() {
    size_t ended = 0;
    for (auto it = connections_.begin(); it != connections_.end();) {
      if (!(*it)->closed()) (*it)->Tick();
      if ((*it)->closed()) {
        it = connections_.erase(it);
        ++ended;
      } else {
        ++it;
      }
    }
    if (ended > 0) on_closed(ended);
    timer_.expires_after(kTick);
    timer_.async_wait([this](error_code problem) {
      if (!problem) Tick();
    });
  }

  asio::io_context context_{1};
  asio::steady_timer timer_;
  std::unordered_set<std::shared_ptr<HttpConnection>> connections_;
};

class Server final : public HttpServer {
 public:
  Server(const HttpServerOptions& options, HttpApplication& application, const Clock& clock)
      : options_(options), application_(application), clock_(clock) {
    for (int32_t i = 0; i < std::max(1, options.threads); ++i) {
      loops_.push_back(std::make_shared<Loop>());
      loops_.back()->on_closed = [this](size_t count) { connections_ -= static_cast<int32_t>(count); };
    }
  }
  ~Server() override { Stop(); }

  Status Listen() {
    if (!options_.tls_certificate.empty()) TP_TRY(LoadCertificate());
    error_code problem;
    const auto address = asio::ip::make_address(options_.address, problem);
    if (problem) {
      return Fail(ErrorKind::kInvalid, "bad_listen_address",
                  fmt::format("\"{}\" is not an address to listen on.", options_.address), "listen");
    }
    acceptor_ = std::make_unique<tcp::acceptor>(loops_[0]->context());
    const tcp::endpoint endpoint(address, options_.port);
    acceptor_->open(endpoint.protocol(), problem);
    if (!problem) acceptor_->set_option(asio::socket_base::reuse_address(true), problem);
    if (!problem) acceptor_->bind(endpoint, problem);
    if (!problem) acceptor_->listen(1024, problem);
    if (problem) {
      return Fail(
          ErrorKind::kConflict, "cannot_listen",
          fmt::format("Cannot listen on {}:{}: {}. Is another server running there? Choose another address "
                      "with --listen.",
                      options_.address, options_.port, problem.message()),
          "listen");
    }
    port_ = acceptor_->local_endpoint(problem).port();
    return {};
  }

  void Run() {
    Accept();
    for (auto& loop : loops_) threads_.emplace_back([loop] { loop->Run(); });
  }

  uint16_t port() const override { return port_; }
  int32_t connections() const override { return connections_; }
  uint64_t refused_connections() const override { return refused_; }

  void Stop() override {
    if (stopped_.exchange(true)) return;
    if (threads_.empty()) return;
    loops_[0]->Post([this] {
      error_code ignored;
      acceptor_->close(ignored);
    });
    for (auto& loop : loops_) loop->Post([loop] { loop->Shutdown(); });
    for (std::thread& thread : threads_) thread.join();
    for (auto& loop : loops_) loop->RunLeftovers();
  }

 private:
  Status LoadCertificate() {
    tls_ = std::make_unique<asio::ssl::context>(asio::ssl::context::tls_server);
    error_code problem;
    tls_->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_tlsv1 |
                      asio::ssl::context::no_tlsv1_1 | asio::ssl::context::no_compression);
    // An encrypted key would make OpenSSL ask for its password on the terminal.
    tls_->set_password_callback([](size_t, asio::ssl::context::password_purpose) { return std::string(); },
                                problem);
    tls_->use_certificate_chain_file(options_.tls_certificate, problem);
    if (problem) {
      return Fail(
          ErrorKind::kInvalid, "bad_tls_certificate",
          fmt::format("Cannot use http.tls_certificate \"{}\": {}. Give a PEM file that this user may read: "
                      "the server's certificate, then those that signed it.",
                      options_.tls_certificate, problem.message()),
          "http.tls_certificate");
    }
    tls_->use_private_key_file(options_.tls_key, asio::ssl::context::pem, problem);
    if (problem || SSL_CTX_check_private_key(tls_->native_handle()) != 1) {
      return Fail(
          ErrorKind::kInvalid, "bad_tls_key",
          fmt::format("Cannot use http.tls_key \"{}\": {}. Give the PEM file, not encrypted, of the key "
                      "that belongs to the certificate \"{}\".",
                      options_.tls_key, problem ? problem.message() : "it does not belong to the certificate",
                      options_.tls_certificate),
          "http.tls_key");
    }
    return {};
  }

  void Accept() {
    const std::shared_ptr<Loop> loop = loops_[next_loop_++ % loops_.size()];
    acceptor_->async_accept(loop->context(), [this, loop](error_code problem, tcp::socket socket) {
      if (!acceptor_->is_open() || problem == asio::error::operation_aborted) return;
      if (problem) {
        // Out of descriptors, most likely: try again a little later instead of spinning.
        LogWarn("accept failed", {{"reason", problem.message()}});
        auto timer =
            std::make_shared<asio::steady_timer>(loops_[0]->context(), std::chrono::milliseconds(100));
        timer->async_wait([this, timer](error_code stopped) {
          if (!stopped) Accept();
        });
        return;
      }
      Take(loop, std::move(socket));
      Accept();
    });
  }

  void Take(const std::shared_ptr<Loop>& loop, tcp::socket socket) {
    error_code ignored;
    if (connections_ >= options_.max_connections) {
      ++refused_;
      if (tls_ == nullptr) {
        const std::string full = FullReply();
        socket.non_blocking(true, ignored);
        socket.write_some(asio::buffer(full), ignored);
      }
      socket.shutdown(tcp::socket::shutdown_send, ignored);
      socket.close(ignored);
      return;
    }
    socket.set_option(tcp::no_delay(true), ignored);
    socket.set_option(asio::socket_base::send_buffer_size(kSendBufferBytes), ignored);
    Peer peer;
    const tcp::endpoint remote = socket.remote_endpoint(ignored);
    const tcp::endpoint local = socket.local_endpoint(ignored);
    peer.address = Plain(remote.address()).to_string();
    peer.local_address = Plain(local.address()).to_string();
    peer.loopback = Plain(remote.address()).is_loopback();
    peer.tls = tls_ != nullptr;
    std::unique_ptr<Transport> transport;
    if (tls_) {
      transport = std::make_unique<TlsTransport>(std::move(socket), *tls_);
    } else {
      transport = std::make_unique<PlainTransport>(std::move(socket));
    }
    ++connections_;
    auto connection = std::make_shared<HttpConnection>(std::move(transport), loop, application_,
                                                       options_.connection, clock_, std::move(peer));
    loop->Post([loop, connection = std::move(connection)] { loop->Add(connection); });
  }

  std::string FullReply() const {
    const HttpResponse reply =
        application_.Refuse(HttpRequest{}, 503, "too_many_connections", "Too many connections; try again.");
    std::vector<HttpHeader> headers = {{"Content-Type", reply.content_type},
                                       {"Content-Length", fmt::to_string(reply.body.size())},
                                       {"Retry-After", "1"},
                                       {"Connection", "close"}};
    application_.Decorate(HttpRequest(), headers);
    std::string text = "HTTP/1.1 503 Service Unavailable\r\n";
    for (const HttpHeader& header : headers) text += fmt::format("{}: {}\r\n", header.name, header.value);
    return text + "\r\n" + reply.body;
  }

  // ::ffff:127.0.0.1, as a listener on :: reports IPv4 peers, is 127.0.0.1.
  static asio::ip::address Plain(const asio::ip::address& address) {
    if (address.is_v6() && address.to_v6().is_v4_mapped()) {
      return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
    }
    return address;
  }

  const HttpServerOptions options_;
  HttpApplication& application_;
  const Clock& clock_;
  std::unique_ptr<asio::ssl::context> tls_;
  std::vector<std::shared_ptr<Loop>> loops_;
  std::unique_ptr<tcp::acceptor> acceptor_;
  std::vector<std::thread> threads_;
  size_t next_loop_ = 0;
  uint16_t port_ = 0;
  std::atomic<int32_t> connections_{0};
  std::atomic<uint64_t> refused_{0};
  std::atomic<bool> stopped_{false};
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::Start(const HttpServerOptions& options,
                                                      HttpApplication& application, const Clock& clock) {
  auto server = std::make_unique<Server>(options, application, clock);
  TP_TRY(server->Listen());
  server->Run();
  return std::unique_ptr<HttpServer>(std::move(server));
}

Result<ListenAddress> ParseListenAddress(std::string_view listen) {
  const auto bad = [&] {
    return Fail(
        ErrorKind::kInvalid, "bad_listen_address",
        fmt::format("\"{}\" is not ADDRESS:PORT, for example 127.0.0.1:8433, [::1]:8433 or 0.0.0.0:8433.",
                    listen),
        "listen");
  };
  const size_t colon = listen.rfind(':');
  if (colon == std::string_view::npos) return bad();
  std::string_view host = listen.substr(0, colon);
  const std::string_view port = listen.substr(colon + 1);
  ListenAddress out;
  const auto [end, problem] = std::from_chars(port.data(), port.data() + port.size(), out.port);
  if (problem != std::errc() || end != port.data() + port.size()) return bad();
  if (host.size() >= 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad();
  }
  if (host == "localhost") host = "127.0.0.1";
  error_code ec;
  const auto address = asio::ip::make_address(std::string(host), ec);
  if (ec) return bad();
  out.address = address.to_string();
  out.loopback = address.is_loopback();
  return out;
}

}  // namespace tidepool::gateway
