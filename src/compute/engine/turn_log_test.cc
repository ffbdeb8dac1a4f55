#include "compute/engine/turn_log.h"

#include <gtest/gtest.h>

namespace tidepool::compute {
namespace {

std::shared_ptr<const std::string> Name(const char* name) {
  return std::make_shared<const std::string>(name);
}

TEST(PoolTurnLogTest, StepsOfOneModelAreOneTurn) {
  PoolTurnLog log(8);
  const auto a = Name("a"), b = Name("b");
  log.Add(a, 0, 10 * kMillisecond, 32);
  log.Token(0.5);
  log.Add(a, 20 * kMillisecond, 30 * kMillisecond, 4);
  log.Token(-0.25);
  log.Token(0.1);
  log.Add(b, 30 * kMillisecond, 40 * kMillisecond, 1);
  log.Add(a, 40 * kMillisecond, 50 * kMillisecond, 1);
  const PoolTurns all = log.Since(0, 100);
  ASSERT_EQ(all.turns.size(), 3u);
  EXPECT_EQ(all.last, 3u);
  EXPECT_EQ(*all.turns[0].model, "a");
  EXPECT_EQ(all.turns[0].to, 30 * kMillisecond);
  EXPECT_EQ(all.turns[0].steps, 2);
  EXPECT_EQ(all.turns[0].tokens, 36);
  EXPECT_EQ(all.turns[0].answered, 3);
  EXPECT_EQ(all.turns[0].late, 1);
  EXPECT_EQ(all.turns[0].least_slack_s, -0.25);
  EXPECT_EQ(*all.turns[1].model, "b");
  EXPECT_EQ(all.turns[1].answered, 0);
  EXPECT_EQ(*all.turns[2].model, "a");
}

TEST(PoolTurnLogTest, APauseAndALongTimeEndATurn) {
  PoolTurnLog log(100);
  const auto a = Name("a");
  log.Add(a, 0, 1, 1);
  log.Add(a, 1 + kTurnPause, 2 + kTurnPause, 1);
  EXPECT_EQ(log.Since(0, 100).turns.size(), 2u);
  // Twelve seconds without a pause: no turn is longer than five, and none of the time is lost.
  PoolTurnLog busy(100);
  for (int i = 0; i < 1200; ++i) busy.Add(a, i * 10 * kMillisecond, (i + 1) * 10 * kMillisecond, 1);
  const PoolTurns all = busy.Since(0, 100);
  EXPECT_EQ(all.turns.size(), 3u);
  Nanoseconds at = 0;
  for (const PoolTurn& turn : all.turns) {
    EXPECT_EQ(turn.from, at);
    EXPECT_LE(turn.to - turn.from, kLongestTurn);
    at = turn.to;
  }
  EXPECT_EQ(at, 12 * kSecond);
}

TEST(PoolTurnLogTest, KeepsTheLastAndCountsTheRest) {
  PoolTurnLog log(4);
  const auto a = Name("a"), b = Name("b");
  for (int i = 0; i < 10; ++i) log.Add(i % 2 == 0 ? a : b, i, i + 1, 1);
  const PoolTurns all = log.Since(0, 100);
  EXPECT_EQ(all.missed, 6u);
  ASSERT_EQ(all.turns.size(), 4u);
  EXPECT_EQ(all.turns.front().number, 7u);
  EXPECT_EQ(log.Since(9, 100).turns.size(), 1u);
  EXPECT_EQ(log.Since(10, 100).turns.size(), 0u);
  EXPECT_EQ(log.Since(6, 2).turns.size(), 2u);
  PoolTurnLog none(0);
  none.Add(a, 0, 1, 1);
  none.Token(1);
  EXPECT_EQ(none.Since(0, 100).last, 0u);
}

}  // namespace
}  // namespace tidepool::compute
