// Oracle: the rules of text_stream.h, applied to the whole text at once by a plain reference.
#include "models/text/text_stream.h"

#include <gtest/gtest.h>

#include <cstring>

#include <random>

#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

struct Answer {
  std::string reasoning, content, stop;
  bool stopped = false;
  bool operator==(const Answer&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Answer& answer) {
  return out << "reasoning \"" << answer.reasoning << "\" content \"" << answer.content << "\" stop \""
             << answer.stop << "\" " << answer.stopped;
}

std::string DropLineBreaks(const std::string& text) {
  const size_t at = text.find_first_not_of("\r\n");
  return at == std::string::npos ? "" : text.substr(at);
}

// The stop string that is complete first, the longest of those that end together; those that end within the
// first `exempt` bytes of the content are text.
void CutAtStop(const TextStreamOptions& options, size_t exempt, Answer& answer) {
  size_t best_end = std::string::npos, best_begin = 0;
  for (const std::string& stop : options.stop) {
    if (stop.empty()) continue;
    const size_t begin = answer.content.find(stop, exempt >= stop.size() ? exempt - stop.size() + 1 : 0);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < best_end || (end == best_end && begin < best_begin)) {
      best_end = end;
      best_begin = begin;
    }
  }
  if (best_end == std::string::npos) return;
  answer.stopped = true;
  answer.stop = answer.content.substr(best_begin, best_end - best_begin);
  answer.content.resize(options.include_stop ? best_end : best_begin);
}

// How many bytes of the text are complete with the first `off` bytes of the answer.
size_t CompleteWith(const std::string& bytes, size_t off) {
  if (off >= bytes.size()) return std::string::npos;
  const std::string seen = bytes.substr(0, off);
  return ReplaceInvalidUtf8(seen.substr(0, off - IncompleteSuffix(seen))).size();
}

// `off`: that many bytes were pushed with stop strings off.
Answer Reference(const TextStreamOptions& options, std::string bytes, size_t off) {
  if (options.strip_leading_space && bytes.starts_with(' ')) {
    bytes.erase(0, 1);
    off -= std::min<size_t>(off, 1);
  }
  std::string text = ReplaceInvalidUtf8(bytes);
  const size_t text_size = text.size();
  const size_t complete = off == 0 ? 0 : CompleteWith(bytes, off);
  const std::string& open = options.reasoning.open_tag;
  const std::string& close = options.reasoning.close_tag;
  bool inside = options.reasoning.starts_inside;
  if (!inside && !open.empty()) {
    for (size_t space = 0; space <= 32 && !inside; ++space) {
      if (space > 0 && (space > text.size() || !std::strchr(" \t\n\v\f\r", text[space - 1]))) break;
      if (text.substr(std::min(space, text.size())).starts_with(open)) {
        inside = true;
        text.erase(0, space + open.size());
      }
    }
  }
  Answer answer;
  if (!inside) {
    answer.content = text;
  } else {
    text = DropLineBreaks(text);
    const std::string& before = options.reasoning.ends_before;
    const size_t end = close.empty() ? std::string::npos : text.find(close);
    const size_t instead = before.empty() ? std::string::npos : text.find(before);
    answer.reasoning = text.substr(0, std::min(end, instead));
    if (instead < end) {
      answer.content = text.substr(instead);
    } else if (end != std::string::npos) {
      answer.content = DropLineBreaks(text.substr(end + close.size()));
    }
  }
  // The content is the end of the text.
  const size_t before = text_size - answer.content.size();
  CutAtStop(options, complete == std::string::npos ? complete : complete - std::min(complete, before),
            answer);
  return answer;
}

void ExpectWholeCharacters(const std::string& text) { EXPECT_TRUE(IsValidUtf8(text)) << text; }

// How much of `text`'s end begins one of `strings`.
size_t LongestBeginning(const std::string& text, const std::vector<std::string>& strings) {
  size_t most = 0;
  for (const std::string& string : strings) {
    for (size_t size = std::min(string.empty() ? 0 : string.size() - 1, text.size()); size > most; --size) {
      if (text.ends_with(string.substr(0, size))) most = size;
    }
  }
  return most;
}

Answer Stream(const TextStreamOptions& options, const std::string& bytes, size_t off, std::mt19937& random,
              size_t most) {
  TextStream stream(options);
  Answer answer;
  for (size_t at = 0; at < bytes.size();) {
    const size_t end = at < off ? std::min(off, bytes.size()) : bytes.size();
    const size_t size = std::min(end - at, std::uniform_int_distribution<size_t>(0, most)(random));
    TextDelta delta;
    stream.Push(std::string_view(bytes).substr(at, size), delta, at >= off);
    at += size;
    ExpectWholeCharacters(delta.content);
    ExpectWholeCharacters(delta.reasoning);
    answer.content += delta.content;
    answer.reasoning += delta.reasoning;
    if (delta.stopped) answer.stopped = true, answer.stop = delta.stop;
    // Without tags, all that is missing is a beginning of a stop string or an incomplete character.
    if (options.reasoning.open_tag.empty() && !options.reasoning.starts_inside && !answer.stopped &&
        !options.strip_leading_space) {
      const std::string sofar = bytes.substr(0, at);
      const std::string whole = ReplaceInvalidUtf8(sofar.substr(0, sofar.size() - IncompleteSuffix(sofar)));
      EXPECT_EQ(answer.content, whole.substr(0, whole.size() - LongestBeginning(whole, options.stop)));
    }
  }
  TextDelta delta;
  stream.Finish(delta);
  answer.content += delta.content;
  answer.reasoning += delta.reasoning;
  if (delta.stopped) answer.stopped = true, answer.stop = delta.stop;
  return answer;
}

std::string RandomText(std::mt19937& random, const std::vector<std::string>& parts) {
  std::string text;
  const int count = std::uniform_int_distribution<int>(0, 14)(random);
  for (int i = 0; i < count; ++i) text += parts[random() % parts.size()];
  return text;
}

TEST(TextStream, AnySplitGivesWhatTheRulesSay) {
  std::mt19937 random(42);
  const std::vector<std::string> parts = {
      "a",        "b",    "ab",      "aab",      "é",      "\xE2\x82\xAC", "😀",   "\n",
      "\r\n",     " ",    "<think>", "</think>", "<thi",   "nk>",          "</th", "ink>",
      "\xF0\x9F", "\x80", "\xFF",    "stop",     "st",     "op",           "\n\n", "<",
      ">",        "END",  "\xE2",    "x",        "<tool>", "<to",          "ol>"};
  const std::vector<std::string> stops = {"stop", "ab", "aab", "b",    "\n\n", "é",
                                          "END",  "op", "",    "abab", "😀",   "\xEF\xBF\xBD"};
  for (int round = 0; round < 20000; ++round) {
    TextStreamOptions options;
    for (int i = static_cast<int>(random() % 4); i > 0; --i)
      options.stop.push_back(stops[random() % stops.size()]);
    options.include_stop = random() % 4 == 0;
    options.strip_leading_space = random() % 5 == 0;
    if (random() % 2 == 0) {
      options.reasoning = {random() % 8 == 0 ? "" : "<think>", "</think>", random() % 3 == 0,
                           random() % 3 == 0 ? "<tool>" : ""};
    }
    const std::string text = RandomText(random, parts);
    const size_t off = random() % 2 == 0 ? 0 : random() % (text.size() + 2);
    const Answer expected = Reference(options, text, off);
    const size_t most = 1 + random() % 6;
    ASSERT_EQ(Stream(options, text, off, random, most), expected)
        << "text \"" << text << "\" off " << off << " round " << round;
  }
}

TEST(TextStream, HoldsBackOnlyWhatMayStop) {
  TextStream stream({.stop = {"</tool>"}});
  TextDelta delta;
  stream.Push("yes <", delta);
  EXPECT_EQ(delta.content, "yes ");
  stream.Push("b> </too", delta);
  EXPECT_EQ(delta.content, "yes <b> ");
  stream.Push("l", delta);
  stream.Push("> more", delta);
  EXPECT_EQ(delta.content, "yes <b> ");
  EXPECT_TRUE(delta.stopped);
  EXPECT_EQ(delta.stop, "</tool>");
}

TEST(TextStream, ReasoningTagsMaySplitOverTokens) {
  TextStream stream({.reasoning = {"<think>", "</think>", false}});
  TextDelta delta;
  for (const char* token : {"\n", "<th", "ink", ">\n", "hm", " </", "thi", "nk>", "\n\n", "Hi"})
    stream.Push(token, delta);
  stream.Finish(delta);
  EXPECT_EQ(delta.reasoning, "hm ");
  EXPECT_EQ(delta.content, "Hi");
}

TEST(TextStream, TagsInsideTheAnswerAreText) {
  TextStream stream({.reasoning = {"<think>", "</think>", false}});
  TextDelta delta;
  stream.Push("The tag <think>x</think> is text", delta);
  EXPECT_EQ(delta.content, "The tag <think>x</think> is text");
  EXPECT_EQ(delta.reasoning, "");
}

TEST(TextStream, ACallMayEndTheReasoning) {
  TextStream stream({.stop = {"x"}, .reasoning = {"<think>", "</think>", true, "<tool_call>"}});
  TextDelta delta;
  for (const char* token : {"max? <tool", "_call>", "{}</tool_call>"}) stream.Push(token, delta);
  EXPECT_EQ(delta.reasoning, "max? ");
  EXPECT_EQ(delta.content, "<tool_call>{}</tool_call>");
}

TEST(TextStream, StopStringsAreNotSoughtInReasoning) {
  TextStream stream({.stop = {"\n"}, .reasoning = {"<think>", "</think>", true}});
  TextDelta delta;
  stream.Push("a\nb</think>\nanswer\nmore", delta);
  EXPECT_EQ(delta.reasoning, "a\nb");
  EXPECT_EQ(delta.content, "answer");
  EXPECT_TRUE(delta.stopped);
}

// The rule of min_tokens, as in vLLM's detokenizer: a match counts if it ends in text that came later.
TEST(TextStream, StopStringsCanBeOffAtFirst) {
  TextStream stream({.stop = {"stop", "sto"}});
  TextDelta delta;
  stream.Push("a stop b", delta, false);
  EXPECT_EQ(delta.content, "a stop b") << "it ended while matching was off";
  stream.Push(" st", delta, false);
  EXPECT_EQ(delta.content, "a stop b ") << "it may end later";
  stream.Push("o", delta);
  EXPECT_TRUE(delta.stopped);
  EXPECT_EQ(delta.stop, "sto");
  EXPECT_EQ(delta.content, "a stop b ");
}

TEST(TextStream, WhatWaitedForATagKeepsItsExemption) {
  TextStream stream({.stop = {"<th"}, .reasoning = {"<think>", "</think>", false}});
  TextDelta delta;
  stream.Push("<thi", delta, false);
  EXPECT_EQ(delta.content, "");
  stream.Push("s> and <th", delta);
  EXPECT_TRUE(delta.stopped);
  EXPECT_EQ(delta.content, "<this> and ");
}

TEST(TextStream, MemoryIsBoundedByTheStopStrings) {
  TextStream stream({.stop = {std::string(1000, 'a') + "b"}});
  TextDelta delta;
  for (int i = 0; i < 5000; ++i) stream.Push("a", delta);
  EXPECT_EQ(delta.content.size(), 4000u);
}

}  // namespace
}  // namespace tidepool::text
