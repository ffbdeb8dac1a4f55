#include "gateway/http_parser.h"

#include <gtest/gtest.h>

#include <random>

namespace tidepool::gateway {
namespace {

using State = HttpParser::State;

// Feeds `bytes` in pieces of `step`; returns the final state.
State FeedAll(HttpParser& parser, std::string_view bytes, size_t step, std::string* rest = nullptr) {
  std::string input;
  State state = State::kNeedMore;
  for (size_t at = 0; at < bytes.size(); at += step) {
    input.append(bytes.substr(at, step));
    do {
      state = parser.Feed(input);
    } while (state == State::kHeader);
    if (state == State::kDone || state == State::kRefused) {
      input.append(bytes.substr(std::min(bytes.size(), at + step)));
      break;
    }
  }
  if (rest != nullptr) *rest = input;
  return state;
}

int StatusOfInput(std::string_view bytes, HttpLimits limits = {}) {
  HttpParser parser(limits);
  return FeedAll(parser, bytes, 100000) == State::kRefused ? parser.status() : 0;
}

TEST(HttpParser, ReadsARequestInAnyPieces) {
  const std::string_view bytes =
      "\r\nPOST /v1/x?y=1 HTTP/1.1\r\nHost: a\r\nX-Two:  spaced  \r\ncontent-length: 5\r\n\r\nhelloGET / "
      "HTTP/1.1\r\n";
  for (const size_t step : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, size_t{1000}}) {
    HttpParser parser({});
    std::string rest;
    ASSERT_EQ(FeedAll(parser, bytes, step, &rest), State::kDone) << step;
    const HttpRequest& request = parser.request();
    EXPECT_EQ(request.method, "POST");
    EXPECT_EQ(request.target, "/v1/x?y=1");
    EXPECT_EQ(request.body, "hello");
    ASSERT_NE(request.Header("x-two"), nullptr);
    EXPECT_EQ(*request.Header("x-two"), "spaced");
    EXPECT_TRUE(parser.keep_alive());
    EXPECT_EQ(rest, "GET / HTTP/1.1\r\n");
  }
}

TEST(HttpParser, ReadsChunkedBodies) {
  const std::string_view bytes =
      "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
      "chunked\r\n\r\n3;ext=1\r\nabc\r\nA\r\n0123456789\r\n0\r\n"
      "Trailer: x\r\n\r\n";
  for (const size_t step : {size_t{1}, size_t{3}, size_t{1000}}) {
    HttpParser parser({});
    ASSERT_EQ(FeedAll(parser, bytes, step), State::kDone) << step;
    EXPECT_EQ(parser.request().body, "abc0123456789");
  }
}

TEST(HttpParser, RefusesWhatTwoReadersCouldReadDifferently) {
  const std::string start = "POST / HTTP/1.1\r\nHost: a\r\n";
  // Request smuggling's classics (RFC 9112 6.3 and 11.2).
  EXPECT_EQ(StatusOfInput(start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput(start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello"), 400);
  EXPECT_EQ(StatusOfInput(start + "Content-Length: +5\r\n\r\nhello"), 400);
  EXPECT_EQ(StatusOfInput(start + "Content-Length: -1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput(start + "Content-Length: 18446744073709551616\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput(start + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501);
  EXPECT_EQ(StatusOfInput(start + "Transfer-Encoding: identity\r\n\r\n"), 501);
  EXPECT_EQ(StatusOfInput(start + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput(start + "Transfer-Encoding: chunked\r\n\r\nzz\r\n"), 400);
  EXPECT_EQ(StatusOfInput(start + "Transfer-Encoding: chunked\r\n\r\n-1\r\n"), 400);
  EXPECT_EQ(StatusOfInput("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 501);
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\nHost: a\n\n"), 400);
  EXPECT_EQ(StatusOfInput("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\r\nHost: a\r\nExpect: magic\r\n\r\n"), 417);
  EXPECT_EQ(StatusOfInput(std::string("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 27)), 400);
  EXPECT_EQ(StatusOfInput("\x16\x03\x01\x02garbage\r\n\r\n"), 400);
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n"), 400);
}

TEST(HttpParser, KeepsItsLimits) {
  const HttpLimits limits{2048, 100};
  EXPECT_EQ(StatusOfInput("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(4000, 'a') + "\r\n\r\n", limits),
            431);
  EXPECT_EQ(StatusOfInput("GET /" + std::string(4000, 'a') + " HTTP/1.1\r\nHost: a\r\n\r\n", limits), 431);
  std::string many = "GET / HTTP/1.1\r\nHost: a\r\n";
  for (int i = 0; i < 1000; ++i) many += "A: b\r\n";
  EXPECT_EQ(StatusOfInput(many + "\r\n", limits), 431);
  EXPECT_EQ(StatusOfInput("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n", limits), 413);
  EXPECT_EQ(StatusOfInput("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" +
                              std::string(101, 'a') + "\r\n0\r\n\r\n",
                          limits),
            413);
  // An endless chunk extension is no body, but it is memory.
  EXPECT_EQ(StatusOfInput(
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;" + std::string(9000, 'x'),
                limits),
            431);
}

TEST(HttpParser, SurvivesMutatedRequests) {
  const std::string seed =
      "POST /v1/chat HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = seed;
    for (int change = 0; change < 3; ++change) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0: bytes[at] = static_cast<char>(random()); break;
        case 1: bytes.erase(at, 1 + random() % 3); break;
        default: bytes.insert(at, 1, static_cast<char>(random()));
      }
    }
    // However it is cut, what is accepted is the same. (What is refused may be refused later: with less of it
    // seen, the parser still waits for the end of the header.)
    HttpParser whole({}), pieces({});
    const State at_once = FeedAll(whole, bytes, bytes.size());
    const State in_pieces = FeedAll(pieces, bytes, 1 + random() % 5);
    ASSERT_EQ(at_once == State::kDone, in_pieces == State::kDone) << bytes;
    if (at_once == State::kDone) {
      ASSERT_EQ(whole.request().body, pieces.request().body) << bytes;
    }
  }
}

}  // namespace
}  // namespace tidepool::gateway
