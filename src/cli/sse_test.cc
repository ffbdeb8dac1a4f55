// The event-stream rules of the HTML standard ("Server-sent events", section 9.2.6), at every split.
#include "cli/sse.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

namespace tidepool::cli {
namespace {

using Events = std::vector<std::pair<std::string, std::string>>;

Events ParseInPieces(const std::string& stream, const std::vector<size_t>& cuts) {
  Events events;
  SseParser parser([&](const SseEvent& event) { events.emplace_back(event.name, event.data); });
  size_t begin = 0;
  for (const size_t cut : cuts) {
    EXPECT_TRUE(parser.Feed(std::string_view(stream).substr(begin, cut - begin)));
    begin = cut;
  }
  EXPECT_TRUE(parser.Feed(std::string_view(stream).substr(begin)));
  return events;
}

const std::string kStream =
    ": a comment\n\n"
    "data: {\"a\":\"é🌊\"}\n\n"
    "event: progress\ndata: 1\ndata:2\nid: 7\nretry: 5\n\n"
    "event: nothing\n\n"
    "data:  two spaces\r\n\r\n"
    "data\n\n"
    "data: cr\r\r"
    "other: x\ndata: [DONE]\n\n"
    "data: not ended";
const Events kExpected = {{"message", "{\"a\":\"é🌊\"}"},
                          {"progress", "1\n2"},
                          {"message", " two spaces"},
                          {"message", ""},
                          {"message", "cr"},
                          {"message", "[DONE]"}};

TEST(SseParser, WholeStream) { EXPECT_EQ(ParseInPieces(kStream, {}), kExpected); }

TEST(SseParser, EverySingleCut) {
  for (size_t i = 0; i <= kStream.size(); ++i) EXPECT_EQ(ParseInPieces(kStream, {i}), kExpected) << i;
}

TEST(SseParser, ByteByByte) {
  std::vector<size_t> cuts;
  for (size_t i = 1; i < kStream.size(); ++i) cuts.push_back(i);
  EXPECT_EQ(ParseInPieces(kStream, cuts), kExpected);
}

TEST(SseParser, RandomCuts) {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<size_t> cuts;
    for (size_t at = 0; (at += random() % 9) < kStream.size();) cuts.push_back(at);
    EXPECT_EQ(ParseInPieces(kStream, cuts), kExpected);
  }
}

TEST(SseParser, AnEndlessEventIsRefused) {
  SseParser parser([](const SseEvent&) {}, 1000);
  EXPECT_TRUE(parser.Feed("data: " + std::string(900, 'x') + "\n"));
  EXPECT_FALSE(parser.Feed("data: " + std::string(900, 'x')));
}

}  // namespace
}  // namespace tidepool::cli
