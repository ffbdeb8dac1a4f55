// HTTP as the handlers see it: a request that was read whole, and an exchange to answer it through. Nothing
// here knows Asio or Beast.
//
// Threads: a Request is immutable once it reaches a handler. Exchange's methods may be called from any
// thread; they never block and never call back. An ExchangeListener is called on the connection's I/O thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "platform/accounts/principal.h"

namespace tidepool::gateway {

class ActionNote;
struct Route;

struct HttpHeader {
  std::string name;  // lower case in requests
  std::string value;
};

// Who is at the other end of the socket.
struct Peer {
  std::string address;        // "127.0.0.1", "::1"
  std::string local_address;  // the address of ours it connected to
  bool loopback = false;
  bool tls = false;
};

struct HttpRequest {
  std::string method;
  std::string target;  // as sent
  int version = 11;    // 10 or 11
  std::vector<HttpHeader> headers;
  std::string body;
  Peer peer;

  // Filled while the request is screened (application.cc):
  std::string id;  // x-request-id
  const Route* route = nullptr;
  std::vector<std::pair<std::string, std::string>> path_values;  // decoded {name} parts of the path
  platform::Principal principal;
  bool owns_machine = false;         // the operator, from this machine, through no proxy
  std::string client_address;        // the peer's, or what a trusted proxy says it is
  bool secure = false;               // TLS, here or at a trusted proxy
  std::string allowed_origin;        // for CORS headers of the reply; empty: none
  std::shared_ptr<ActionNote> note;  // of calls that the audit log has by their route; else nullptr

  // The first header of that name (lower case), or nullptr.
  const std::string* Header(std::string_view name) const;
  size_t CountHeader(std::string_view name) const;
  std::string_view PathValue(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<HttpHeader> headers;
  bool close = false;  // end the connection after it
};

class ExchangeListener {
 public:
  virtual ~ExchangeListener() = default;
  // The client went away, or read too slowly: nothing that is written from now on arrives. At most once.
  virtual void OnClosed() {}
  // true: more than half of the write buffer waits for the client; false: less than a quarter does.
  virtual void OnPressure(bool /*high*/) {}
  // All of a stream that was written so far is with the kernel: whoever has much to write goes on.
  virtual void OnRoom() {}
  // Nothing was written for the keep-alive interval.
  virtual void OnQuiet() {}
};

// One request and its answer. Exactly one of Send() or Begin()..End() is used; what comes after the end, or
// after the client went away, is ignored. An exchange that is destroyed unanswered closes its connection.
class Exchange {
 public:
  virtual ~Exchange() = default;
  virtual const HttpRequest& request() const = 0;
  virtual void Send(HttpResponse response) = 0;
  virtual void Begin(int status, std::string_view content_type, std::vector<HttpHeader> headers) = 0;
  virtual void Write(std::string_view bytes) = 0;
  virtual void End() = 0;
  // Kept until the exchange ends. If the client has gone already, OnClosed follows at once.
  virtual void Listen(std::shared_ptr<ExchangeListener> listener) = 0;
  // Ends it as if the client had gone: its listener hears OnClosed, the connection is closed.
  virtual void Abort() = 0;
};

// How an exchange ended.
struct ExchangeSummary {
  int status = 0;
  uint64_t bytes_sent = 0;
  double seconds = 0;
  bool handled = false;         // Handle() saw it (refusals of Screen() are answered without)
  bool aborted = false;         // the client went away
  bool dropped_reader = false;  // because it read too slowly
};

// The application above the server. I/O threads; must not block.
class HttpApplication {
 public:
  virtual ~HttpApplication() = default;
  // The header is read, the body is not. A response refuses the request without reading the body.
  virtual std::optional<HttpResponse> Screen(HttpRequest& request) = 0;
  virtual void Handle(std::shared_ptr<Exchange> exchange) = 0;
  // The answer for what is not a request, as far as it was read: `status` 400, 408, 413, 431, 501, 503, 505.
  virtual HttpResponse Refuse(const HttpRequest& request, int status, std::string_view code,
                              std::string_view message) = 0;
  // Headers that every reply carries (request id, CORS).
  virtual void Decorate(const HttpRequest& request, std::vector<HttpHeader>& headers) = 0;
  // After the last byte was handed to the kernel, or the client was lost.
  virtual void Finished(const HttpRequest& request, const ExchangeSummary& summary) = 0;
};

}  // namespace tidepool::gateway
