#include "models/grammar/grammar_cache.h"

namespace tidepool::grammar {

Result<std::shared_ptr<CompiledGrammar>> GrammarCache::Get(const std::string& key, const Make& make) {
  {
    std::lock_guard lock(mutex_);
    if (const auto found = index_.find(key); found != index_.end()) {
      ++hits_;
      entries_.splice(entries_.begin(), entries_, found->second);
      return entries_.front().grammar;
    }
    ++misses_;
  }
  TP_ASSIGN(std::shared_ptr<CompiledGrammar> made, make());
  std::lock_guard lock(mutex_);
  if (const auto found = index_.find(key); found != index_.end()) return found->second->grammar;
  entries_.push_front({key, made});
  index_.emplace(key, entries_.begin());
  while (entries_.size() > 1 && (entries_.size() > max_entries_ || Bytes() > max_bytes_)) {
    index_.erase(entries_.back().key);
    entries_.pop_back();
  }
  return made;
}

// Grammars grow as they are used, so it is added up anew.
uint64_t GrammarCache::Bytes() const {
  uint64_t bytes = 0;
  for (const Entry& entry : entries_) bytes += entry.key.size() + entry.grammar->bytes();
  return bytes;
}

GrammarCache::Counts GrammarCache::counts() const {
  std::lock_guard lock(mutex_);
  return {.hits = hits_, .misses = misses_, .entries = entries_.size(), .bytes = Bytes()};
}

}  // namespace tidepool::grammar
