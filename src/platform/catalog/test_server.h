// For tests: a small HTTP server on 127.0.0.1, a hub that speaks Hugging Face's API on it, and makers of tiny
// models and zip files. Replies can be cut, slowed, redirected or refused.
#pragma once

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zlib.h>

#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "platform/catalog/names.h"
#include "platform/catalog/sha256.h"

namespace tidepool::platform {

struct TestRequest {
  std::string path;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string header(const std::string& name) const {
    const auto it = headers.find(name);
    return it == headers.end() ? std::string() : it->second;
  }
};

struct TestReply {
  int status = 200;
  std::vector<std::string> headers = {};
  std::string body = {};
  std::optional<size_t> cut_after = {};  // close the connection after so many bytes of the body
  int ms_per_chunk = 0;                  // 16 KiB each
};

class TestServer {
 public:
  using Handler = std::function<TestReply(const TestRequest&)>;
  explicit TestServer(Handler handler) : handler_(std::move(handler)) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_, 64), 0);
    socklen_t size = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { Accept(); });
  }
  ~TestServer() {
    stopping_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    for (std::thread& thread : connections_) thread.join();
    ::close(listener_);
  }
  std::string url() const { return fmt::format("http://127.0.0.1:{}", port_); }
  int requests() const { return requests_; }

 private:
  void Accept() {
    while (!stopping_) {
      const int connection = ::accept(listener_, nullptr, nullptr);
      if (connection < 0) continue;
      connections_.emplace_back([this, connection] {
        Serve(connection);
        ::close(connection);
      });
    }
  }
  void Serve(int connection) {
    std::string text;
    char buffer[4096];
    while (text.find("\r\n\r\n") == std::string::npos) {
      const ssize_t n = ::recv(connection, buffer, sizeof buffer, 0);
      if (n <= 0) return;
      text.append(buffer, static_cast<size_t>(n));
    }
    ++requests_;
    TestRequest request;
    request.path = text.substr(text.find(' ') + 1);
    request.path.resize(request.path.find(' '));
    for (size_t at = text.find("\r\n") + 2; text.compare(at, 2, "\r\n") != 0;) {
      const size_t end = text.find("\r\n", at), colon = text.find(':', at);
      request.headers[ToLowerAscii(text.substr(at, colon - at))] = text.substr(colon + 2, end - colon - 2);
      at = end + 2;
    }
    const TestReply reply = handler_(request);
    std::string head = fmt::format("HTTP/1.1 {} X\r\nContent-Length: {}\r\nConnection: close\r\n",
                                   reply.status, reply.body.size());
    for (const std::string& header : reply.headers) head += header + "\r\n";
    if (!Send(connection, head + "\r\n")) return;
    const size_t length = std::min(reply.body.size(), reply.cut_after.value_or(reply.body.size()));
    for (size_t at = 0; at < length && !stopping_; at += 16384) {
      if (reply.ms_per_chunk > 0) std::this_thread::sleep_for(std::chrono::milliseconds(reply.ms_per_chunk));
      if (!Send(connection, reply.body.substr(at, std::min<size_t>(16384, length - at)))) return;
    }
    ::shutdown(connection, SHUT_WR);
  }
  static bool Send(int connection, const std::string& bytes) {
    size_t done = 0;
    while (done < bytes.size()) {
      const ssize_t n = ::send(connection, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }

  const Handler handler_;
  int listener_ = -1;
  uint16_t port_ = 0;
  std::atomic<bool> stopping_{false};
  std::atomic<int> requests_{0};
  std::thread acceptor_;
  std::vector<std::thread> connections_;  // acceptor thread, then destructor
};

// The bytes a Range header asks for, as a server with ETags gives them.
inline TestReply ServeBytes(const TestRequest& request, const std::string& content, const std::string& etag) {
  TestReply reply;
  if (!etag.empty()) reply.headers.push_back("ETag: " + etag);
  const std::string range = request.header("range");
  const std::string if_range = request.header("if-range");
  if (range.starts_with("bytes=") && (if_range.empty() || if_range == etag)) {
    const size_t from = std::stoul(range.substr(6));
    if (from >= content.size()) {
      reply.status = 416;
      return reply;
    }
    reply.status = 206;
    reply.headers.push_back(
        fmt::format("Content-Range: bytes {}-{}/{}", from, content.size() - 1, content.size()));
    reply.body = content.substr(from);
  } else {
    reply.body = content;
  }
  return reply;
}

// A hub with repositories in memory. Fields may be changed between requests.
class FakeHub {
 public:
  FakeHub() : server_([this](const TestRequest& request) { return Answer(request); }) {}
  std::string url() const { return server_.url(); }
  int requests() const { return server_.requests(); }
  void Add(const std::string& repo, const std::string& path, const std::string& content) {
    const std::lock_guard lock(mutex_);
    repos_[repo][path] = content;
  }

  // Changes what the next requests for files get: called with the number of the request, from 0.
  std::function<void(int, const TestRequest&, TestReply&)> spoil;
  std::string token;  // asked for when set
  std::string etag = "\"v1\"";
  std::map<std::string, std::string> claimed_sha256;  // by path: a lie
  std::map<std::string, uint64_t> claimed_size;
  std::map<std::string, std::string> redirect;  // by path: to where
  bool with_hashes = true;

 private:
  TestReply Answer(const TestRequest& request) {
    const std::lock_guard lock(mutex_);
    TestReply reply;
    if (!token.empty() && request.header("authorization") != "Bearer " + token) {
      reply.status = 401;
      return reply;
    }
    for (const auto& [repo, files] : repos_) {
      if (request.path == "/api/models/" + repo + "/tree/main?recursive=true") return Tree(files);
      const std::string prefix = "/" + repo + "/resolve/main/";
      if (!request.path.starts_with(prefix)) continue;
      const auto file = files.find(request.path.substr(prefix.size()));
      if (file == files.end()) break;
      if (const auto to = redirect.find(file->first); to != redirect.end()) {
        reply.status = 302;
        reply.headers = {"Location: " + to->second};
        return reply;
      }
      reply = ServeBytes(request, file->second, etag);
      if (spoil) spoil(file_requests_++, request, reply);
      return reply;
    }
    reply.status = 404;
    return reply;
  }
  TestReply Tree(const std::map<std::string, std::string>& files) {
    TestReply reply;
    for (const auto& [path, content] : files) {
      const auto sha = claimed_sha256.find(path);
      const auto size = claimed_size.find(path);
      const size_t bytes = size == claimed_size.end() ? content.size() : size->second;
      const std::string lfs =
          with_hashes ? fmt::format(R"(,"lfs":{{"oid":"{}","size":{}}})",
                                    sha == claimed_sha256.end() ? Sha256Hex(content) : sha->second, bytes)
                      : "";
      reply.body += fmt::format(R"({}{{"type":"file","path":"{}","size":{}{}}})",
                                reply.body.empty() ? "[" : ",", path, bytes, lfs);
    }
    reply.body += "]";
    return reply;
  }

  std::mutex mutex_;
  std::map<std::string, std::map<std::string, std::string>> repos_;
  int file_requests_ = 0;
  TestServer server_;  // last: its threads use the rest
};

// A GGUF file with one F32 tensor of `floats` numbers that follow from `seed`.
inline std::string MakeGguf(size_t floats, uint32_t seed = 1, const std::string& architecture = "llama") {
  std::string out;
  const auto u32 = [&](uint32_t v) { out.append(reinterpret_cast<const char*>(&v), 4); };
  const auto u64 = [&](uint64_t v) { out.append(reinterpret_cast<const char*>(&v), 8); };
  const auto text = [&](const std::string& s) {
    u64(s.size());
    out += s;
  };
  out = "GGUF";
  u32(3);
  u64(1);  // tensors
  u64(3);  // keys
  text("general.architecture");
  u32(8);
  text(architecture);
  text(architecture + ".context_length");
  u32(4);
  u32(128);
  text("general.license");
  u32(8);
  text("mit");
  text("token_embd.weight");
  u32(1);
  u64(floats);
  u32(0);  // F32
  u64(0);
  out.resize((out.size() + 31) / 32 * 32, '\0');
  for (size_t i = 0; i < floats; ++i) {
    seed = seed * 1664525u + 1013904223u;
    const float value = static_cast<float>(seed >> 8) / 16777216.0f;
    out.append(reinterpret_cast<const char*>(&value), 4);
  }
  return out;
}

struct ZipMember {
  std::string name, content;
  bool wrong_crc = false;
  std::optional<uint32_t> claimed_size = {};  // of the uncompressed bytes
  uint32_t unix_mode = 0;                     // 0: none
};

// A zip file of stored (uncompressed) members, honest or not.
inline std::string MakeZip(const std::vector<ZipMember>& members) {
  std::string out, directory;
  const auto put = [](std::string& to, uint64_t value, int bytes) {
    for (int i = 0; i < bytes; ++i) to += static_cast<char>(value >> (8 * i) & 0xFF);
  };
  for (const ZipMember& member : members) {
    const auto offset = static_cast<uint32_t>(out.size());
    uint32_t crc = static_cast<uint32_t>(::crc32(0, reinterpret_cast<const Bytef*>(member.content.data()),
                                                 static_cast<uInt>(member.content.size())));
    if (member.wrong_crc) crc ^= 1;
    std::string common;
    put(common, 20, 2);  // version needed
    put(common, 0, 2);   // flags
    put(common, 0, 2);   // stored
    put(common, 0, 4);   // time and date
    put(common, crc, 4);
    put(common, member.content.size(), 4);
    put(common, member.claimed_size.value_or(static_cast<uint32_t>(member.content.size())), 4);
    put(common, member.name.size(), 2);
    put(common, 0, 2);  // extra
    put(out, 0x04034b50, 4);
    out += common + member.name + member.content;
    put(directory, 0x02014b50, 4);
    put(directory, member.unix_mode == 0 ? 20 : (3 << 8 | 20), 2);
    directory += common;
    put(directory, 0, 2);  // comment
    put(directory, 0, 2);  // disk
    put(directory, 0, 2);  // internal attributes
    put(directory, static_cast<uint64_t>(member.unix_mode) << 16, 4);
    put(directory, offset, 4);
    directory += member.name;
  }
  const size_t start = out.size();
  out += directory;
  put(out, 0x06054b50, 4);
  put(out, 0, 4);
  put(out, members.size(), 2);
  put(out, members.size(), 2);
  put(out, directory.size(), 4);
  put(out, start, 4);
  put(out, 0, 2);
  return out;
}

}  // namespace tidepool::platform
