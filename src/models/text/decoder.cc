#include "models/text/decoder.h"

#include <utility>

#include "models/text/byte_alphabet.h"
#include "models/text/utf8.h"

namespace tidepool::text {
namespace {

std::string ReplaceAll(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t begin = 0;
  if (from.empty()) return std::string(text);
  for (size_t at; (at = text.find(from, begin)) != std::string_view::npos; begin = at + from.size()) {
    out.append(text.substr(begin, at - begin)).append(to);
  }
  return out.append(text.substr(begin));
}

// The spaces that BERT's decoder takes out again, token by token (decoders/wordpiece.rs).
std::string CleanUp(std::string text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) text = ReplaceAll(text, from, to);
  return text;
}

std::string StripCharacter(std::string text, const std::string& character, size_t start, size_t stop) {
  size_t begin = 0;
  for (size_t i = 0; i < start && std::string_view(text).substr(begin).starts_with(character); ++i) {
    begin += character.size();
  }
  text.erase(0, begin);
  for (size_t i = 0; i < stop && text.ends_with(character); ++i) text.resize(text.size() - character.size());
  return text;
}

std::string ReplaceMatches(const std::string& text, const SplitPattern& pattern, const std::string& content) {
  std::vector<Match> matches;
  pattern.FindAll(text, matches);
  std::string out;
  size_t end = 0;
  for (const Match& match : matches) {
    out.append(text, end, match.begin - end) += content;
    end = match.end;
  }
  return out.append(text, end);
}

}  // namespace

std::string Decoder::Bytes(std::string_view piece, bool added) const {
  std::string text(piece);
  for (const Step& step : steps_) {
    switch (step.kind) {
      case Step::Kind::kByteLevel:
        // An added token is spelled as it is; its characters only look like the alphabet.
        if (const auto bytes = added ? std::nullopt : AlphabetToBytes(text)) return *bytes;
        return text;
      case Step::Kind::kByteFallback:
        if (const auto byte = ParseByteToken(text)) return std::string(1, static_cast<char>(*byte));
        break;
      case Step::Kind::kReplace: text = ReplaceMatches(text, step.pattern, step.text); break;
      case Step::Kind::kStrip:
        text = StripCharacter(std::move(text), step.text, step.start, step.stop);
        break;
      case Step::Kind::kWordPiece:
        text = text.starts_with(step.text) && !step.text.empty() ? text.substr(step.text.size()) : " " + text;
        if (step.cleanup) text = CleanUp(std::move(text));
        break;
      case Step::Kind::kMetaspace:
      case Step::Kind::kSuffix: text = ReplaceAll(text, step.text, " "); break;
    }
  }
  return text;
}

}  // namespace tidepool::text
