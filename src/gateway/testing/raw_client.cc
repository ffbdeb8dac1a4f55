#include "gateway/testing/raw_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cctype>
#include <cerrno>
#include <chrono>

#include "base/check.h"

namespace tidepool::gateway {
namespace {

using Clock = std::chrono::steady_clock;

std::map<std::string, std::string> ParseHeaders(std::string_view text) {
  std::map<std::string, std::string> headers;
  while (!text.empty()) {
    const size_t end = text.find("\r\n");
    const std::string_view line = text.substr(0, end);
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 2);
    const size_t colon = line.find(": ");
    if (colon == std::string_view::npos) continue;
    std::string name(line.substr(0, colon));
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    headers[name] = std::string(line.substr(colon + 2));
  }
  return headers;
}

}  // namespace

RawClient::RawClient(uint16_t port, int receive_buffer) {
  socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  CHECK(socket_ >= 0);
  if (receive_buffer > 0)
    ::setsockopt(socket_, SOL_SOCKET, SO_RCVBUF, &receive_buffer, sizeof receive_buffer);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  CHECK(::connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
}

RawClient::~RawClient() { Close(); }

void RawClient::Close() {
  if (socket_ >= 0) ::close(socket_);
  socket_ = -1;
}

void RawClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = Transmit(bytes);
    if (sent <= 0) return;  // the server hung up: the reply tells
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

ssize_t RawClient::Receive(char* data, size_t size) { return ::recv(socket_, data, size, 0); }
ssize_t RawClient::Transmit(std::string_view bytes) {
  return ::send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
}

bool RawClient::ReadMore(double seconds) {
  pollfd waiting{socket_, POLLIN, 0};
  if (!Buffered() && (seconds <= 0 || ::poll(&waiting, 1, static_cast<int>(seconds * 1000) + 1) <= 0))
    return false;
  char chunk[16384];
  const ssize_t got = Receive(chunk, sizeof chunk);
  if (got < 0) last_error_ = errno;
  if (got <= 0) return false;
  received_.append(chunk, static_cast<size_t>(got));
  return true;
}

bool RawClient::ReadUntil(std::string_view marker, double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (received_.find(marker) == std::string::npos) {
    const double left = std::chrono::duration<double>(deadline - Clock::now()).count();
    if (!ReadMore(left)) return false;
  }
  return true;
}

bool RawClient::ReadEnd(double seconds) {
  const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
  while (ReadMore(std::chrono::duration<double>(deadline - Clock::now()).count())) {
  }
  return Clock::now() < deadline;
}

RawReply RawClient::ReadReply(double seconds) {
  RawReply reply;
  if (!ReadUntil("\r\n\r\n", seconds)) return reply;
  const size_t end = received_.find("\r\n\r\n");
  const std::string head = received_.substr(0, end);
  received_.erase(0, end + 4);
  reply.status = std::stoi(head.substr(9, 3));
  reply.headers = ParseHeaders(std::string_view(head).substr(head.find("\r\n") + 2));
  if (reply.headers.count("content-length") > 0) {
    const size_t length = std::stoul(reply.headers["content-length"]);
    while (received_.size() < length && ReadMore(seconds)) {
    }
    reply.body = received_.substr(0, length);
    received_.erase(0, length);
  } else if (reply.headers["transfer-encoding"] == "chunked") {
    for (;;) {
      if (!ReadUntil("\r\n", seconds)) return reply;
      const size_t line = received_.find("\r\n");
      const size_t size = std::stoul(received_.substr(0, line), nullptr, 16);
      while (received_.size() < line + 2 + size + 2 && ReadMore(seconds)) {
      }
      reply.body += received_.substr(line + 2, size);
      received_.erase(0, line + 2 + size + 2);
      if (size == 0) break;
    }
  } else if (reply.status != 204 && reply.status >= 200) {
    ReadEnd(seconds);
    reply.body = std::move(received_);
    received_.clear();
  }
  return reply;
}

std::string Get(std::string_view target, std::string_view extra) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-test-key\r\n{}\r\n",
                     target, extra);
}

std::string Post(std::string_view target, std::string_view body, std::string_view extra) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer tp-test-key\r\nContent-Type: "
      "application/json\r\n"
      "Content-Length: {}\r\n{}\r\n{}",
      target, body.size(), extra, body);
}

}  // namespace tidepool::gateway
