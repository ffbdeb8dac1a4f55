#include "models/grammar/matcher.h"

#include <bit>

#include "models/text/utf8.h"

namespace tidepool::grammar {

CompiledGrammar::CompiledGrammar(Program program, std::shared_ptr<const TokenTrie> trie,
                                 const GrammarLimits& limits)
    : program_(std::make_shared<const Program>(std::move(program))),
      trie_(std::move(trie)),
      limits_(limits),
      epoch_(std::make_shared<Epoch>(program_)) {
  bytes_ = program_->bytes() + epoch_->automaton.bytes();
}

Result<std::shared_ptr<CompiledGrammar>> CompiledGrammar::Make(Program program,
                                                               std::shared_ptr<const TokenTrie> trie,
                                                               const GrammarLimits& limits) {
  auto grammar =
      std::shared_ptr<CompiledGrammar>(new CompiledGrammar(std::move(program), std::move(trie), limits));
  // The first mask is needed anyway.
  if (Matcher(grammar).Mask() == nullptr) {
    return Fail(
        ErrorKind::kInvalid, "grammar_too_complex",
        "there are too many ways to begin a text of it; make its alternatives or repetitions simpler");
  }
  return grammar;
}

void CompiledGrammar::Renew() {
  if (epoch_->automaton.bytes() > limits_.automaton_bytes) {
    epoch_ = std::make_shared<Epoch>(program_);
    mask_bytes_ = 0;
  }
  if (mask_bytes_ > limits_.mask_bytes) {
    epoch_->masks.clear();
    mask_bytes_ = 0;
  }
  bytes_ = program_->bytes() + epoch_->automaton.bytes() + mask_bytes_;
}

// Sets the bits of the tokens that may follow `state`; false: too complex.
bool CompiledGrammar::Walk(Automaton& automaton, std::span<const TokenTrie::Node> nodes, StateId state,
                           TokenMask& mask) {
  StateId states[257];
  states[0] = state;
  const uint64_t before = automaton.work();
  for (size_t i = 0; i < nodes.size();) {
    const TokenTrie::Node& node = nodes[i];
    const StateId next = automaton.Step(states[node.depth], node.byte);
    if (next <= Automaton::kTooComplex) {
      if (next == Automaton::kTooComplex) return false;
      i = static_cast<size_t>(node.after);
      continue;
    }
    states[node.depth + 1] = next;
    trie_->ForEachToken(node, [&](int32_t token) {
      mask.allowed[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
    });
    ++i;
    if (automaton.work() - before > limits_.mask_work) return false;
  }
  return true;
}

std::shared_ptr<const TokenMask> CompiledGrammar::MaskOf(Epoch& epoch, StateId state) {
  Automaton& automaton = epoch.automaton;
  state = automaton.Within(state, trie_->longest());
  if (state == Automaton::kTooComplex) return nullptr;
  if (const auto found = epoch.masks.find(state); found != epoch.masks.end()) return found->second;
  auto mask = std::make_shared<TokenMask>();
  const int32_t room = automaton.JsonStringRoom(state);
  if (room != 0) {
    mask->allowed = *trie_->UpTo(room == kUnbounded ? trie_->longest() : room);
    if (!Walk(automaton, trie_->others(), state, *mask)) return nullptr;
  } else {
    mask->allowed.assign(trie_->words(), 0);
    if (!Walk(automaton, trie_->all(), state, *mask)) return nullptr;
  }
  if (automaton.accepts(state)) {
    for (const int32_t token : trie_->end_tokens()) {
      mask->allowed[static_cast<size_t>(token) / 64] |= uint64_t{1} << (token % 64);
    }
  }
  for (const uint64_t word : mask->allowed) mask->count += std::popcount(word);
  if (mask->count == 1) {
    for (size_t w = 0; w < mask->allowed.size(); ++w) {
      if (mask->allowed[w] != 0)
        mask->only = static_cast<int32_t>(w * 64) + std::countr_zero(mask->allowed[w]);
    }
  }
  epoch.masks.emplace(state, mask);
  if (&epoch == epoch_.get()) mask_bytes_ += mask->allowed.size() * sizeof(uint64_t) + 96;
  return mask;
}

Matcher::Matcher(std::shared_ptr<CompiledGrammar> grammar) : grammar_(std::move(grammar)) {
  std::lock_guard lock(grammar_->mutex_);
  epoch_ = grammar_->epoch_;
  state_ = epoch_->automaton.start();
}

void Matcher::Settle() {
  grammar_->Renew();
  if (epoch_ == grammar_->epoch_) return;
  state_ = grammar_->epoch_->automaton.Import(epoch_->automaton, state_);
  epoch_ = grammar_->epoch_;
}

bool Matcher::Accept(std::string_view bytes) {
  std::lock_guard lock(grammar_->mutex_);
  Settle();
  StateId state = state_;
  for (const char byte : bytes) {
    state = epoch_->automaton.Step(state, static_cast<uint8_t>(byte));
    if (state <= Automaton::kTooComplex) return false;
  }
  if (!bytes.empty()) mask_ = nullptr;
  state_ = state;
  return true;
}

const TokenMask* Matcher::Mask() {
  if (mask_ != nullptr) return mask_.get();
  std::lock_guard lock(grammar_->mutex_);
  Settle();
  mask_ = grammar_->MaskOf(*epoch_, state_);
  return mask_.get();
}

bool Matcher::may_end() {
  std::lock_guard lock(grammar_->mutex_);
  return epoch_->automaton.accepts(state_);
}

bool Matcher::ended() {
  std::lock_guard lock(grammar_->mutex_);
  return epoch_->automaton.accepts(state_) && epoch_->automaton.ended(state_);
}

std::string Matcher::Forced(size_t most) {
  std::lock_guard lock(grammar_->mutex_);
  Settle();
  std::string out;
  Automaton& automaton = epoch_->automaton;
  StateId state = state_;
  while (out.size() < most && !automaton.accepts(state)) {
    const std::optional<uint8_t> byte = automaton.OnlyByte(state);
    if (!byte) break;
    state = automaton.Step(state, *byte);
    out += static_cast<char>(*byte);
  }
  out.resize(out.size() - text::IncompleteSuffix(out));
  return out;
}

}  // namespace tidepool::grammar
