// Compiled grammars by what they were compiled from: the same schema comes with every request of a program.
//
// Bounded in entries and in the bytes its grammars have grown to; the least recently used go first. A grammar
// that leaves lives on in the answers that use it.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "base/result.h"
#include "models/grammar/matcher.h"

namespace tidepool::grammar {

class GrammarCache {
 public:
  using Make = std::function<Result<std::shared_ptr<CompiledGrammar>>()>;
  explicit GrammarCache(uint64_t max_bytes = 256u << 20, size_t max_entries = 256)
      : max_bytes_(max_bytes), max_entries_(max_entries) {}

  // Errors of `make` are not kept. Two callers at once may both make; one result is kept.
  Result<std::shared_ptr<CompiledGrammar>> Get(const std::string& key, const Make& make);

  struct Counts {
    uint64_t hits = 0, misses = 0, entries = 0, bytes = 0;
  };
  Counts counts() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<CompiledGrammar> grammar;
  };
  uint64_t Bytes() const;

  const uint64_t max_bytes_;
  const size_t max_entries_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  uint64_t hits_ = 0, misses_ = 0;
};

}  // namespace tidepool::grammar
