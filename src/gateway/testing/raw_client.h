// A client of bare sockets for tests: sends any bytes, reads whatever comes back. No HTTP library in between,
// so that malformed requests can be sent and the exact replies be seen.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace tidepool::gateway {

struct RawReply {
  int status = 0;                              // 0: the connection ended without a reply
  std::map<std::string, std::string> headers;  // lower case
  std::string body;                            // dechunked
};

class RawClient {
 public:
  // Connects to 127.0.0.1:port; `receive_buffer` > 0 sets SO_RCVBUF.
  explicit RawClient(uint16_t port, int receive_buffer = 0);
  virtual ~RawClient();
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void Send(std::string_view bytes);
  // Reads until `marker` was seen in all that was received since the last reply; false at the end of the
  // stream or after `seconds`.
  bool ReadUntil(std::string_view marker, double seconds = 20);
  // One reply with its whole body (Content-Length, chunked or until the end).
  RawReply ReadReply(double seconds = 20);
  // True if the server has closed (reading what is left) within `seconds`.
  bool ReadEnd(double seconds = 20);
  // Bytes received and not taken by ReadReply.
  const std::string& received() const { return received_; }
  int last_error() const { return last_error_; }  // errno of the read that failed; 0: the end came in order
  void Close();

 protected:
  // As recv(2) and send(2).
  virtual ssize_t Receive(char* data, size_t size);
  virtual ssize_t Transmit(std::string_view bytes);
  virtual bool Buffered() { return false; }  // something was received that Receive has not given yet
  int socket_ = -1;

 private:
  bool ReadMore(double seconds);
  int last_error_ = 0;
  std::string received_;
};

// A request with the test key. `extra`: more header lines, each ending with \r\n.
std::string Get(std::string_view target, std::string_view extra = {});
std::string Post(std::string_view target, std::string_view body, std::string_view extra = {});

}  // namespace tidepool::gateway
