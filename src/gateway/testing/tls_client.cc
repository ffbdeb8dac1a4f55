#include "gateway/testing/tls_client.h"

#include <openssl/ssl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <csignal>

#include "base/check.h"

namespace tidepool::gateway {

TlsClient::TlsClient(uint16_t port, const std::string& trusted, const std::string& name)
    : RawClient(port), context_(SSL_CTX_new(TLS_client_method()), SSL_CTX_free), ssl_(nullptr, SSL_free) {
  std::signal(SIGPIPE, SIG_IGN);  // SSL_write has no MSG_NOSIGNAL
  // A record may come in parts: a read that poll announced may still wait.
  const timeval limit{20, 0};
  ::setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  CHECK(context_ != nullptr);
  CHECK(SSL_CTX_load_verify_locations(context_.get(), trusted.c_str(), nullptr) == 1);
  SSL_CTX_set_verify(context_.get(), SSL_VERIFY_PEER, nullptr);
  ssl_.reset(SSL_new(context_.get()));
  CHECK(ssl_ != nullptr);
  SSL_set1_host(ssl_.get(), name.c_str());
  SSL_set_fd(ssl_.get(), socket_);
  connected_ = SSL_connect(ssl_.get()) == 1;
}

TlsClient::~TlsClient() = default;

bool TlsClient::ended_cleanly() const { return (SSL_get_shutdown(ssl_.get()) & SSL_RECEIVED_SHUTDOWN) != 0; }

ssize_t TlsClient::Receive(char* data, size_t size) {
  return SSL_read(ssl_.get(), data, static_cast<int>(size));
}
ssize_t TlsClient::Transmit(std::string_view bytes) {
  return SSL_write(ssl_.get(), bytes.data(), static_cast<int>(bytes.size()));
}
bool TlsClient::Buffered() { return SSL_pending(ssl_.get()) > 0; }

}  // namespace tidepool::gateway
