// Compiled grammars by what they were compiled from: the same schema comes with every request of a program.
//
// Bounded in entries and in the bytes its grammars have grown to; the least recently used go first. A grammar
// that leaves lives on in the answers that use it. Who asks for what is being made waits for it: a program
// that sends a hundred requests of one schema at once has it compiled once.
//
// Threads: any.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
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

  // `make` runs on the caller's thread, without the lock. Its error goes to all who waited for it, and is not
  // kept.
  Result<std::shared_ptr<CompiledGrammar>> Get(const std::string& key, const Make& make);

  struct Counts {
    uint64_t hits = 0;    // found, or made by another caller meanwhile
    uint64_t misses = 0;  // made
    uint64_t evicted = 0;
    uint64_t entries = 0, bytes = 0;
  };
  Counts counts() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<CompiledGrammar> grammar;
  };
  struct Making {
    std::optional<Result<std::shared_ptr<CompiledGrammar>>> result;  // set once, under the lock
  };
  uint64_t Bytes() const;
  void Trim();

  const uint64_t max_bytes_;
  const size_t max_entries_;
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // the most recently used first
  std::unordered_map<std::string, std::list<Entry>::iterator> index_;
  std::unordered_map<std::string, std::shared_ptr<Making>> making_;
  std::condition_variable made_;
  uint64_t hits_ = 0, misses_ = 0, evicted_ = 0;
};

}  // namespace tidepool::grammar
