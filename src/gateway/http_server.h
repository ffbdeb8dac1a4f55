// Sockets: a listener, its event loops and the connections on them. The only public face of Asio.
//
// One acceptor (not SO_REUSEPORT: a second server on the same port must be an error, not a silent half),
// which hands accepted sockets to the event loops in turn. TCP_NODELAY, and a bounded send buffer, so that
// back-pressure is ours.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "gateway/http.h"
#include "gateway/http_connection.h"

namespace tidepool::gateway {

struct HttpServerOptions {
  std::string address = "127.0.0.1";  // numeric
  uint16_t port = 0;
  std::string tls_certificate, tls_key;  // PEM files; empty: plain
  int32_t threads = 1;
  int32_t max_connections = 4096;
  ConnectionOptions connection;
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;  // stops
  static Result<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                   HttpApplication& application, const Clock& clock);
  virtual uint16_t port() const = 0;
  virtual int32_t connections() const = 0;
  virtual uint64_t refused_connections() const = 0;
  // Closes the listener and every connection (their work is cancelled), joins the threads.
  virtual void Stop() = 0;
};

// "address:port", "[::1]:port" or "localhost:port".
struct ListenAddress {
  std::string address;
  uint16_t port = 0;
  bool loopback = false;
};
Result<ListenAddress> ParseListenAddress(std::string_view listen);

}  // namespace tidepool::gateway
