#include "models/grammar/token_trie.h"

#include <algorithm>

#include "models/text/utf8.h"

namespace tidepool::grammar {
namespace {

constexpr size_t kMaxTokenBytes = 255;

// Characters of a JSON string that `bytes` are, or 0.
int32_t StringCharacters(std::string_view bytes) {
  int32_t count = 0;
  for (size_t at = 0; at < bytes.size(); ++count) {
    const auto byte = static_cast<unsigned char>(bytes[at]);
    if (byte < 0x20 || byte == '"' || byte == '\\') return 0;
    const text::Character character = text::ReadCharacter(bytes, at);
    if (!character.valid) return 0;
    at += character.size;
  }
  return count;
}

}  // namespace

std::shared_ptr<const TokenTrie> TokenTrie::Build(const text::Tokenizer& tokenizer,
                                                  std::span<const int32_t> visible) {
  auto trie = std::make_shared<TokenTrie>();
  trie->vocab_size_ = tokenizer.vocab_size();
  for (const int32_t token : tokenizer.special().end_of_generation) {
    if (token >= 0 && token < trie->vocab_size_) trie->end_tokens_.push_back(token);
  }
  std::vector<std::pair<std::string_view, int32_t>> all, others;
  for (int32_t token = 0; token < trie->vocab_size_; ++token) {
    const bool shown = std::find(visible.begin(), visible.end(), token) != visible.end();
    if (tokenizer.IsControl(token) && !shown) continue;
    const std::string_view bytes = tokenizer.TokenBytes(token, shown);
    if (bytes.empty() || bytes.size() > kMaxTokenBytes) continue;
    trie->longest_ = std::max(trie->longest_, static_cast<int32_t>(bytes.size()));
    all.emplace_back(bytes, token);
    if (const int32_t characters = StringCharacters(bytes)) {
      trie->strings_.emplace_back(characters, token);
    } else {
      others.emplace_back(bytes, token);
    }
  }
  std::sort(all.begin(), all.end());
  std::sort(others.begin(), others.end());
  std::sort(trie->strings_.begin(), trie->strings_.end());
  trie->AddNodes(all, trie->all_);
  trie->AddNodes(others, trie->others_);
  trie->up_to_.resize(static_cast<size_t>(trie->longest_) + 1);
  return trie;
}

void TokenTrie::AddNodes(const std::vector<std::pair<std::string_view, int32_t>>& sorted,
                         std::vector<Node>& nodes) {
  std::vector<size_t> path;  // nodes of the last token's bytes
  std::string_view last;
  const auto close = [&](size_t depth) {
    while (path.size() > depth) {
      nodes[path.back()].after = static_cast<int32_t>(nodes.size());
      path.pop_back();
    }
  };
  for (const auto& [bytes, token] : sorted) {
    size_t shared = 0;
    while (shared < bytes.size() && shared < last.size() && bytes[shared] == last[shared]) ++shared;
    close(shared);
    for (size_t i = shared; i < bytes.size(); ++i) {
      path.push_back(nodes.size());
      nodes.push_back({.byte = static_cast<uint8_t>(bytes[i]), .depth = static_cast<uint8_t>(i)});
    }
    Node& node = nodes[path.back()];
    if (node.token < 0) {
      node.token = token;
    } else {
      same_.emplace_back(token, node.same);
      node.same = static_cast<int32_t>(same_.size()) - 1;
    }
    last = bytes;
  }
  close(0);
}

std::shared_ptr<const std::vector<uint64_t>> TokenTrie::UpTo(int32_t characters) const {
  const auto at = static_cast<size_t>(std::clamp(characters, 0, longest_));
  std::lock_guard lock(mutex_);
  auto& found = up_to_[at];
  if (found == nullptr) {
    auto bits = std::make_shared<std::vector<uint64_t>>(words(), 0);
    for (const auto& [count, token] : strings_) {
      if (count > static_cast<int32_t>(at)) break;
      (*bits)[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
    }
    found = std::move(bits);
  }
  return found;
}

uint64_t TokenTrie::bytes() const {
  return (all_.size() + others_.size()) * sizeof(Node) + (same_.size() + strings_.size()) * 8;
}

}  // namespace tidepool::grammar
