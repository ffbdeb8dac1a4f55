// Runs a program: a pushdown automaton made deterministic as it is used.
//
// A state is a set of places in the grammar, each with the stack of what it returns to. States and stacks are
// interned, so that the same place reached again is the same number and its transitions, once found, are one
// look into a table. Repetitions are counted down in the stack: to_min are still needed, to_max still
// allowed.
//
// Threads: one at a time (CompiledGrammar has the lock).
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "models/grammar/program.h"

namespace tidepool::grammar {

using StateId = int32_t;

class Automaton {
 public:
  static constexpr StateId kDead = 0;         // no text goes on from here
  static constexpr StateId kTooComplex = 1;   // a limit was met; behaves as dead
  static constexpr size_t kMaxPlaces = 4096;  // of one state

  explicit Automaton(std::shared_ptr<const Program> program);

  StateId start() const { return start_; }
  StateId Step(StateId state, uint8_t byte) {
    const size_t at = static_cast<size_t>(state) * classes_ + program_->byte_class[byte];
    const StateId known = transitions_[at];
    return known >= 0 ? known : Find(state, byte);
  }
  bool accepts(StateId state) const { return states_[static_cast<size_t>(state)].accepts; }
  // Nothing can follow.
  bool ended(StateId state) const { return states_[static_cast<size_t>(state)].places.empty(); }
  // The same as `state` for texts of at most `horizon` bytes: counts beyond that are as good as none.
  StateId Within(StateId state, int32_t horizon);
  // How many characters of a JSON string may follow here, kUnbounded for any number; 0: this is no such
  // string, or (with a bound) not only that.
  int32_t JsonStringRoom(StateId state) const;
  // The byte that must come next, if there is only one that can.
  std::optional<uint8_t> OnlyByte(StateId state) const;
  // This state of another automaton of the same program.
  StateId Import(const Automaton& other, StateId state);

  uint64_t bytes() const { return bytes_; }
  uint64_t work() const { return work_done_; }  // places looked at so far, in all

 private:
  struct Frame {
    int32_t node = 0;  // kCall: returns to its next; kRepeat: an iteration ended
    int32_t to_min = 0, to_max = 0;
    int32_t parent = 0;
    bool operator==(const Frame&) const = default;
  };
  struct FrameHash {
    size_t operator()(const Frame& frame) const;
  };
  using Place = uint64_t;  // node << 32 | frame
  struct State {
    std::vector<Place> places;  // of nodes that take bytes; sorted
    bool accepts = false;
    StateId within = -1;  // Within, for the horizon it was asked for first
  };

  StateId Find(StateId state, uint8_t byte);
  StateId Intern();
  int32_t Push(const Frame& frame);
  void Add(int32_t node, int32_t frame);
  void AddLoop(int32_t node, int32_t to_min, int32_t to_max, int32_t parent);
  int32_t FrameWithin(int32_t frame, int32_t horizon, std::unordered_map<int32_t, int32_t>& known);

  const std::shared_ptr<const Program> program_;
  const size_t classes_;
  std::vector<Frame> frames_;  // 0: the bottom
  std::unordered_map<Frame, int32_t, FrameHash> frame_ids_;
  std::vector<State> states_;
  std::vector<StateId> transitions_;  // [state][class], -1: not known yet
  std::unordered_multimap<uint64_t, StateId> state_ids_;
  StateId start_ = kDead;
  uint64_t bytes_ = 0, work_done_ = 0;

  // The state being made.
  std::vector<Place> places_, work_;
  std::vector<Place> seen_;  // open addressing: place + 1, 0 is free
  size_t seen_count_ = 0;
  bool accepts_ = false, too_complex_ = false;
  bool See(Place place);
};

}  // namespace tidepool::grammar
