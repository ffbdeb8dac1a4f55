// A compiled grammar for one vocabulary, and how far one answer has come in it.
//
// The masks of a grammar's states are made when they are first asked for and kept: a second request of the
// same schema finds most of them. What a grammar keeps is bounded; past the bound its automaton is begun
// anew, and answers under way are carried over.
//
// Threads: a CompiledGrammar may be shared by any threads (it has a lock); a Matcher belongs to one at a
// time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "models/grammar/automaton.h"
#include "models/grammar/token_trie.h"

namespace tidepool::grammar {

// Which tokens may come next.
struct TokenMask {
  std::vector<uint64_t> allowed;  // one bit a token; those past its end may not come
  int32_t count = 0;              // bits set
  int32_t only = -1;              // the token, if it is the only one
};

struct GrammarLimits {
  uint64_t automaton_bytes = 16u << 20;  // then it is begun anew
  uint64_t mask_bytes = 16u << 20;       // then masks are forgotten
  uint64_t mask_work = 4'000'000;        // places that one mask may look at (about 0.2 s); more: too complex
};

class CompiledGrammar {
 public:
  // Fails where the very first step is too complex.
  static Result<std::shared_ptr<CompiledGrammar>> Make(Program program, std::shared_ptr<const TokenTrie> trie,
                                                       const GrammarLimits& limits = {});
  const TokenTrie& trie() const { return *trie_; }
  uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

 private:
  friend class Matcher;
  struct Epoch {
    explicit Epoch(std::shared_ptr<const Program> program) : automaton(std::move(program)) {}
    Automaton automaton;
    std::unordered_map<StateId, std::shared_ptr<const TokenMask>> masks;
  };
  CompiledGrammar(Program program, std::shared_ptr<const TokenTrie> trie, const GrammarLimits& limits);

  std::shared_ptr<const TokenMask> MaskOf(Epoch& epoch, StateId state);  // nullptr: too complex
  bool Walk(Automaton& automaton, std::span<const TokenTrie::Node> nodes, StateId state, TokenMask& mask);
  void Renew();

  const std::shared_ptr<const Program> program_;
  const std::shared_ptr<const TokenTrie> trie_;
  const GrammarLimits limits_;
  std::mutex mutex_;
  std::shared_ptr<Epoch> epoch_;
  uint64_t mask_bytes_ = 0;
  std::atomic<uint64_t> bytes_{0};
};

class Matcher {
 public:
  explicit Matcher(std::shared_ptr<CompiledGrammar> grammar);

  // The next token's bytes; false, and nothing changed, if they cannot come here.
  bool Accept(std::string_view bytes);
  // What may come next; nullptr where the grammar is too complex here. Valid until the next Accept.
  const TokenMask* Mask();
  bool mask_ready() const { return mask_ != nullptr; }
  bool may_end();  // the text so far is whole
  bool ended();    // and nothing can follow
  // Text that must come next whatever happens, at most `most` bytes, whole characters.
  std::string Forced(size_t most);

  const std::shared_ptr<CompiledGrammar>& grammar() const { return grammar_; }

 private:
  void Settle();  // under the lock: the state in the current epoch

  std::shared_ptr<CompiledGrammar> grammar_;
  std::shared_ptr<CompiledGrammar::Epoch> epoch_;
  StateId state_ = Automaton::kDead;
  std::shared_ptr<const TokenMask> mask_;
};

}  // namespace tidepool::grammar
