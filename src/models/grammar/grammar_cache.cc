#include "models/grammar/grammar_cache.h"

namespace tidepool::grammar {

Result<std::shared_ptr<CompiledGrammar>> GrammarCache::Get(const std::string& key, const Make& make) {
  std::unique_lock lock(mutex_);
  if (const auto found = index_.find(key); found != index_.end()) {
    ++hits_;
    entries_.splice(entries_.begin(), entries_, found->second);
    Trim();
    return entries_.front().grammar;
  }
  const auto [entry, first] = making_.try_emplace(key);
  if (!first) {
    ++hits_;
    const std::shared_ptr<Making> making = entry->second;
    made_.wait(lock, [&] { return making->result.has_value(); });
    return *making->result;
  }
  ++misses_;
  const std::shared_ptr<Making> making = entry->second = std::make_shared<Making>();
  lock.unlock();
  auto made = make();
  lock.lock();
  making->result = made;
  making_.erase(key);
  made_.notify_all();
  if (!made) return made;
  entries_.push_front({key, *made});
  index_.emplace(key, entries_.begin());
  Trim();
  return made;
}

// The one that was asked for stays, whatever it takes: matcher.h bounds each.
void GrammarCache::Trim() {
  while (entries_.size() > 1 && (entries_.size() > max_entries_ || Bytes() > max_bytes_)) {
    index_.erase(entries_.back().key);
    entries_.pop_back();
    ++evicted_;
  }
}

// Grammars grow as they are used, so it is added up anew.
uint64_t GrammarCache::Bytes() const {
  uint64_t bytes = 0;
  for (const Entry& entry : entries_) bytes += entry.key.size() + entry.grammar->bytes();
  return bytes;
}

GrammarCache::Counts GrammarCache::counts() const {
  std::lock_guard lock(mutex_);
  return {
      .hits = hits_, .misses = misses_, .evicted = evicted_, .entries = entries_.size(), .bytes = Bytes()};
}

}  // namespace tidepool::grammar
