// A grammar ready to run: nodes that take bytes, call rules and count repetitions.
//
// Compile refuses what cannot run in bounded time: left recursion, and grammars that nothing satisfies;
// branches that can never end are left out.
//
// Threads: immutable.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <vector>

#include "base/result.h"
#include "models/grammar/expression.h"

namespace tidepool::grammar {

struct Node {
  enum class Kind : uint8_t { kReturn, kChars, kSplit, kCall, kRepeat };
  Kind kind = Kind::kReturn;
  bool json_string = false;  // kChars: the ASCII characters of a repeat that json_string marks
  int32_t what = 0;  // kChars: the set; kSplit: first target; kCall: the rule; kRepeat: the body's node
  int32_t next = 0;  // kSplit: how many targets
  int32_t min = 0, max = 0;  // kRepeat
};

struct Program {
  static constexpr int32_t kReturnNode = 0;
  std::vector<Node> nodes;
  std::vector<int32_t> targets;
  std::vector<int32_t> rule_starts;
  std::vector<std::bitset<256>> sets;
  std::array<uint8_t, 256> byte_class{};  // bytes that no set tells apart
  int32_t classes = 0;
  int32_t start = 0;

  uint64_t bytes() const;
};

// `root` is what the whole text must be.
Result<Program> Compile(const Expressions& expressions, ExprId root);

}  // namespace tidepool::grammar
