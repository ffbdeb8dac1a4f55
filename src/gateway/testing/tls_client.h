// RawClient over TLS: trusts one certificate and checks the name.
#pragma once

#include <memory>
#include <string>

#include "gateway/testing/raw_client.h"

typedef struct ssl_st SSL;
typedef struct ssl_ctx_st SSL_CTX;

namespace tidepool::gateway {

class TlsClient final : public RawClient {
 public:
  // Connects and shakes hands; `trusted` is a PEM file.
  TlsClient(uint16_t port, const std::string& trusted, const std::string& name = "localhost");
  ~TlsClient() override;
  bool connected() const { return connected_; }
  // The server said that nothing more comes (close_notify), so an answer without a length is whole.
  bool ended_cleanly() const;

 private:
  ssize_t Receive(char* data, size_t size) override;
  ssize_t Transmit(std::string_view bytes) override;
  bool Buffered() override;

  std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context_;
  std::unique_ptr<SSL, void (*)(SSL*)> ssl_;
  bool connected_ = false;
};

}  // namespace tidepool::gateway
