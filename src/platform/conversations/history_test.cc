// Messages from turns, and what is left out. Oracle: the header's promises.
#include "platform/conversations/history.h"

#include <gtest/gtest.h>

namespace tidepool::platform {
namespace {

Turn Say(std::string id, std::string parent, bool user, std::string content) {
  Turn turn;
  turn.id = std::move(id);
  turn.parent = std::move(parent);
  turn.user = user;
  turn.content = std::move(content);
  return turn;
}

TEST(History, MessagesTakeTurnsAndFilesComeFirst) {
  std::vector<Turn> turns = {Say("a", "", true, "hello"), Say("b", "a", false, ""),
                             Say("c", "b", true, "again"), Say("d", "c", false, "yes")};
  turns[0].files = {{"x.py", "print(1)\n"}, {"t.md", "````\nfence\n````"}};
  const auto messages = MessagesOf("be brief", PathTo(turns, "d"));
  ASSERT_EQ(messages.size(), 3u) << messages.dump(1);
  EXPECT_EQ(messages[0], (nlohmann::ordered_json{{"role", "system"}, {"content", "be brief"}}));
  EXPECT_EQ(messages[1]["content"],
            "File x.py:\n```\nprint(1)\n```\n\nFile t.md:\n`````\n````\nfence\n````\n`````\n\nhello\n\nagain")
      << "the answer without text is left out, and the person's two turns become one";
  EXPECT_EQ(messages[2]["role"], "assistant");
}

TEST(History, PathsFollowTheLeafAndEndEvenInARing) {
  const std::vector<Turn> turns = {Say("a", "", true, "1"), Say("b", "a", false, "2"),
                                   Say("c", "a", false, "3")};
  EXPECT_EQ(PathTo(turns, "b").back()->id, "b");
  EXPECT_EQ(PathTo(turns, "").back()->id, "c");
  EXPECT_EQ(PathTo(turns, "gone").size(), 2u);
  EXPECT_TRUE(PathTo({}, "a").empty());
  EXPECT_LE(PathTo({Say("x", "y", true, ""), Say("y", "x", true, "")}, "x").size(), 3u);
}

TEST(History, DropsTheFewestOldestTurnsThatMakeRoom) {
  std::vector<Turn> turns;
  for (int i = 0; i < 100; ++i)
    turns.push_back(Say("t" + std::to_string(i), i == 0 ? "" : "t" + std::to_string(i - 1), i % 2 == 0, "x"));
  turns.push_back(Say("last", "t99", true, "x"));
  const auto path = PathTo(turns, "last");
  int calls = 0;
  const auto count = [&](int32_t dropped) -> Result<int64_t> {
    ++calls;
    return 10 * (static_cast<int64_t>(path.size()) - dropped);
  };
  EXPECT_EQ(*TurnsToDrop(path, 1010, count), 0);
  EXPECT_EQ(*TurnsToDrop(path, 1000, count), 2) << "the rest begins with what a person said";
  EXPECT_EQ(*TurnsToDrop(path, 505, count), 52);
  calls = 0;
  EXPECT_EQ(*TurnsToDrop(path, 1, count), 100) << "the last one always stays";
  EXPECT_LE(calls, 8);
}

TEST(History, TitlesAreAFirstLineOfWholeCharacters) {
  EXPECT_EQ(TitleFrom("  \n Hello there\nmore"), "Hello there");
  EXPECT_EQ(TitleFrom(" \n\t"), "");
  std::string waves;
  for (int i = 0; i < 61; ++i) waves += "🌊";
  EXPECT_EQ(TitleFrom(waves), waves.substr(0, 60 * 4) + "…");
}

}  // namespace
}  // namespace tidepool::platform
