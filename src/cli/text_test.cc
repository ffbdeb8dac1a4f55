#include "cli/text.h"

#include <gtest/gtest.h>

#include <random>

namespace tidepool::cli {
namespace {

TEST(Text, Bytes) {
  EXPECT_EQ(BytesText(0), "0 B");
  EXPECT_EQ(BytesText(999), "999 B");
  EXPECT_EQ(BytesText(1000), "1.0 kB");
  EXPECT_EQ(BytesText(999'960), "1.0 MB");
  EXPECT_EQ(BytesText(98'765'432), "98.8 MB");
  EXPECT_EQ(BytesText(123'456'789), "123 MB");
  EXPECT_EQ(BytesText(4.7e9), "4.7 GB");
  EXPECT_EQ(BytesText(2e18), "2000 PB");
  EXPECT_EQ(BytesText(-5), "0 B");
  EXPECT_EQ(RateText(12'300'000), "12.3 MB/s");
  EXPECT_EQ(CountText(134'515'008), "135 M");
  EXPECT_EQ(CountText(7.2e9), "7.2 B");
  EXPECT_EQ(CountText(12), "12");
}

TEST(Text, Seconds) {
  EXPECT_EQ(SecondsText(0.26), "0.3 s");
  EXPECT_EQ(SecondsText(9.96), "10 s");
  EXPECT_EQ(SecondsText(59.4), "59 s");
  EXPECT_EQ(SecondsText(59.6), "1 min 00 s");
  EXPECT_EQ(SecondsText(200), "3 min 20 s");
  EXPECT_EQ(SecondsText(7500), "2 h 05 min");
  EXPECT_EQ(SecondsText(200'000), "2 d 07 h");
  EXPECT_EQ(SecondsText(-1), "?");
  EXPECT_EQ(SecondsText(1.0 / 0.0), "?");
}

TEST(Text, AgesAndNumbers) {
  EXPECT_EQ(AgeText(-3), "just now");
  EXPECT_EQ(AgeText(60), "1 minute ago");
  EXPECT_EQ(AgeText(7200), "2 hours ago");
  EXPECT_EQ(AgeText(86400 * 3), "3 days ago");
  EXPECT_EQ(AgeText(86400 * 800), "2 years ago");
  EXPECT_EQ(NumberText(1.234), "1.23");
  EXPECT_EQ(NumberText(123.45), "123.5");
  EXPECT_EQ(NumberText(1234.5), "1,234");
  EXPECT_EQ(NumberText(-1234567), "-1,234,567");
}

TEST(Text, WidthOfUnicode) {
  EXPECT_EQ(DisplayWidth("abc"), 3u);
  EXPECT_EQ(DisplayWidth("né"), 2u);
  EXPECT_EQ(DisplayWidth("ne\xCC\x81"), 2u);  // e and a combining accent
  EXPECT_EQ(DisplayWidth("你好"), 4u);
  EXPECT_EQ(DisplayWidth("🌊"), 2u);
  EXPECT_EQ(DisplayWidth("\x1b[31mred\x1b[0m"), 3u);
  EXPECT_EQ(Fit("abcdef", 4), "abc…");
  EXPECT_EQ(Fit("你好吗", 5), "你好…");
  EXPECT_EQ(Fit("你好吗", 4), "你…");
  EXPECT_EQ(Fit("abc", 3), "abc");
  EXPECT_EQ(Fit("abc", 0), "");
}

TEST(Text, TablesAlignWideText) {
  EXPECT_EQ(TableText({{"NAME"}, {"SIZE", Align::kRight}, {"STATE"}},
                      {{"模型:一", "1 B", "ready"}, {"a", "12.3 GB", ""}, {"né", "", "x"}}),
            "NAME        SIZE  STATE\n"
            "模型:一      1 B  ready\n"
            "a        12.3 GB\n"
            "né                x\n");
  EXPECT_EQ(TableText({{"A"}, {"B"}}, {}), "A  B\n");
  const std::vector<Column> columns = {
      {"NAME"}, {"A", Align::kRight, true}, {"B", Align::kLeft, true}, {"STATE"}};
  const std::vector<std::vector<std::string>> rows = {{"model", "1", "2", "ready"}};
  EXPECT_EQ(TableText(columns, rows, 18), "NAME   A  B  STATE\nmodel  1  2  ready\n");
  EXPECT_EQ(TableText(columns, rows, 17), "NAME   A  STATE\nmodel  1  ready\n");
  EXPECT_EQ(TableText(columns, rows, 5), "NAME   STATE\nmodel  ready\n");
}

TEST(Text, ProgressBar) {
  EXPECT_EQ(ProgressText("m", 50e6, 100e6, 10e6, 80, false),
            "m  ###############...............   50%  50.0 MB / 100 MB  10.0 MB/s  5.0 s left");
  EXPECT_EQ(ProgressText("m", 0, 0, 0, 80, true), "m");
  EXPECT_EQ(ShareProgressText("m", 0.5, 10, 80, false),
            "m  ####################....................   50%  10 s left");
  EXPECT_EQ(ShareProgressText("m", 0.25, 0.5, 80, false),
            "m  ##########..............................   25%");
  EXPECT_EQ(ShareProgressText("m", 1, 10, 80, false), "m  ########################################  100%");
  EXPECT_EQ(ProgressText("m", 3, 0, 0, 80, true), "m  3 B");
  EXPECT_EQ(ProgressText("m", 10, 10, 5, 40, true), "m  ███████████  100%  10 B / 10 B  5 B/s");
}

TEST(Text, ProgressBarNeverPassesTheWidth) {
  std::mt19937 random(3);
  const std::vector<std::string> labels = {"", "smollm2:135m", "组织/模型:Q4_K_M · 下载",
                                           std::string(200, 'x')};
  for (int i = 0; i < 3000; ++i) {
    const double total = random() % 5 == 0 ? 0 : static_cast<double>(random()) * 10;
    const double done = static_cast<double>(random()) * (random() % 2 == 0 ? 1 : 12);
    const double rate = random() % 4 == 0 ? 0 : static_cast<double>(random() % 100'000'000);
    const size_t width = random() % 160;
    const auto text =
        ProgressText(labels[random() % labels.size()], done, total, rate, width, random() % 2 == 0);
    EXPECT_LE(DisplayWidth(text), width) << text;
  }
}

TEST(Text, ClosestName) {
  const std::vector<std::string> commands = {"serve", "run", "pull", "list", "show",
                                             "rm",    "ps",  "stop", "bench"};
  EXPECT_EQ(Closest("pul", commands), "pull");
  EXPECT_EQ(Closest("lsit", commands), "list");
  EXPECT_EQ(Closest("benhc", commands), "bench");
  EXPECT_EQ(Closest("serv", commands), "serve");
  EXPECT_EQ(Closest("xyzzy", commands), "");
  EXPECT_EQ(Closest("", commands), "");
}

TEST(Text, WrapsBetweenWords) {
  EXPECT_EQ(WrapText("one two three four", 9, 2), "one two\n  three\n  four");
  EXPECT_EQ(WrapText("fits", 80, 2), "fits");
  EXPECT_EQ(WrapText("averyveryverylongword x", 8, 2), "averyveryverylongword\n  x");
  EXPECT_EQ(WrapText("", 8, 2), "");
}

// What a terminal of `width` columns shows: moves left and clearing to the end of the line are all it knows.
std::vector<std::string> Screen(const std::string& stream, size_t width) {
  std::vector<std::string> lines(1);
  size_t column = 0;
  for (size_t i = 0; i < stream.size(); ++i) {
    if (stream[i] == '\n') {
      lines.emplace_back();
      column = 0;
    } else if (stream[i] == '\x1b') {
      size_t used = 0;
      const int count = stream[i + 2] == 'K' ? 0 : std::stoi(stream.substr(i + 2), &used);
      i += 2 + used;
      if (stream[i] == 'D')
        column -= static_cast<size_t>(count);
      else
        lines.back().resize(column);
    } else {
      lines.back().resize(column);
      lines.back() += stream[i];
      ++column;
      EXPECT_LE(column, width);
    }
  }
  return lines;
}

TEST(Text, WordsOfAStreamDoNotBreakAtTheEdge) {
  const std::string text =
      "The quick brown fox jumps over the lazy dog, and incomprehensibilities follow:\n\n"
      "```\ncode stays as it is\n```\nthen words wrap again";
  for (size_t step = 1; step < 12; ++step) {
    WordWrap wrap(20);
    std::string stream;
    for (size_t i = 0; i < text.size(); i += step) stream += wrap.Feed(text.substr(i, step));
    EXPECT_EQ(Screen(stream, 20),
              (std::vector<std::string>{"The quick brown fox ", "jumps over the lazy ", "dog, and ",
                                        "incomprehensibilitie", "s follow:", "", "```", "code stays as it is",
                                        "```", "then words wrap ", "again"}));
  }
  WordWrap narrow(4);
  EXPECT_EQ(narrow.Feed("你好世界"), "你好\n世界");
  WordWrap fence(4);
  EXPECT_EQ(fence.Feed("```\nlong line\n```\nab cd"), "```\nlong line\n```\nab c\x1b[1D\x1b[K\ncd");
}

TEST(Text, TerminalFilterDisarmsControls) {
  TerminalFilter filter;
  EXPECT_EQ(filter.Feed("a\x1b[2Jb\n\tc\r"), "a\\x1b[2Jb\n\tc\\x0d");
  EXPECT_EQ(filter.Feed("\xF0\x9F"), "");
  EXPECT_EQ(filter.Feed("\x8C\x8A!"), "🌊!");
  EXPECT_EQ(filter.Feed("\xC2\x9B"
                        "2J"),
            "\\x9b2J");
  EXPECT_EQ(filter.Feed("\xff"), "\xEF\xBF\xBD");
}

TEST(Text, TerminalFilterAtEverySplit) {
  const std::string text = "né🌊 你\x1b[0m好";
  const std::string expected = "né🌊 你\\x1b[0m好";
  for (size_t i = 0; i <= text.size(); ++i) {
    TerminalFilter filter;
    std::string out = filter.Feed(text.substr(0, i));
    out += filter.Feed(text.substr(i));
    EXPECT_EQ(out, expected) << i;
  }
}

}  // namespace
}  // namespace tidepool::cli
