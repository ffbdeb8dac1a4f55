// Guesses what an answer will say next from what stands in its prompt and in itself: prompt lookup (Saxena
// 2023; LLMA, arXiv:2304.04487). Where the last three tokens stood before, what followed them then is the
// draft.
//
// A draft is checked by the model in one step with the token before it and costs a row each, so it must pay.
//
// Threads: one at a time. Add and Propose allocate nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tidepool::compute {

constexpr int32_t kMaxDraft = 16;

// How much is proposed follows what was accepted lately; after failures nothing is, for twice as long each
// time.
class DraftPace {
 public:
  // `credit`: tokens that may be lost before it first rests.
  explicit DraftPace(int32_t first_length, double credit = 0) : length_(first_length), balance_(credit) {}
  // Once a step: how many tokens may be proposed now; 0 while it rests.
  int32_t Length();
  // What became of the last proposal. `row_cost`: what a row costs against what a token is worth, e.g. a row
  // more in a step of one sequence against that step.
  void Learn(int32_t proposed, int32_t accepted, double row_cost);

 private:
  int32_t length_;
  int32_t rest_ = 0;  // steps until the next proposal
  int32_t next_rest_ = 16;
  double balance_;  // smoothed: tokens gained less rows paid
};

class Drafter {
 public:
  // For sequences of up to `tokens`: 4 bytes for each place in a table of at most 32,768.
  void Reserve(size_t tokens);
  bool ready() const { return !places_.empty(); }
  // The sequence so far, whose last token is new since the last call (or all of them).
  void Add(std::span<const int32_t> tokens);
  // Appends at most `most` tokens that may follow the sequence, or, behind it, the tokens that `ahead` is
  // certain of.
  void Propose(std::span<const int32_t> tokens, std::span<const int32_t> ahead, int32_t most,
               std::vector<int32_t>& out);
  DraftPace& pace() { return pace_; }

 private:
  static constexpr size_t kGram = 3;
  size_t SlotOf(const int32_t* last) const;

  std::vector<int32_t> places_;  // [hash of three tokens]: where the token after them stands, 0: nowhere
  size_t added_ = 0;             // tokens whose grams are in the table
  DraftPace pace_{2};
};

}  // namespace tidepool::compute
