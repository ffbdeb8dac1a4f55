// What an answer must be, compiled for a model: response formats and tools.
//
// Compiling is done on the caller's thread and is bounded (models/grammar); what was compiled is kept.
//
// Threads: any.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "base/metrics.h"
#include "base/result.h"
#include "compute/engine/engine.h"
#include "models/grammar/grammar_cache.h"
#include "models/toolcalls/format.h"
#include "platform/inference/inference.h"
#include "platform/inference/model_assets.h"

namespace tidepool::platform {

class Constraints {
 public:
  // Metrics: tidepool_grammar_{compiled,reused}_total, tidepool_grammar_cache_bytes,
  // tidepool_grammar_compile_seconds.
  Constraints(uint64_t cache_bytes, MetricsRegistry& metrics);

  // Without tools. A grammar of nullptr: nothing is asked for.
  Result<compute::Constraint> OfOutput(const ModelAssets& assets, const OutputFormat& output);
  // With the request's tools, whose calls are written as `format` says.
  Result<compute::Constraint> OfTools(const ModelAssets& assets, const ChatRequest& request,
                                      toolcalls::Format format);

 private:
  using Make = grammar::GrammarCache::Make;
  Result<std::shared_ptr<grammar::CompiledGrammar>> Cached(const std::string& key, const Make& make);
  struct Vocabulary {
    std::shared_ptr<const text::Tokenizer> tokenizer;
    std::string tags;  // visible ones
    std::shared_ptr<const grammar::TokenTrie> trie;
  };
  std::shared_ptr<const grammar::TokenTrie> TrieOf(const ModelAssets& assets,
                                                   std::span<const std::string_view> tags);

  grammar::GrammarCache cache_;
  Counter compiled_, reused_;
  Gauge cache_bytes_;
  Histogram compile_s_;
  std::mutex mutex_;
  std::list<Vocabulary> vocabularies_;  // the most recently used first
};

}  // namespace tidepool::platform
