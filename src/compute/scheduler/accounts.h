// Accounts as a tree of paths ("organisation/workspace/key"), and how far each is beyond its share of the
// pool. Internal to this folder.
//
//   Share    A node has its weight over the weights of those of its siblings that are active, times the share
//            of its parent: what is below a node never has more than the node, however many they are. Active
//            is what has work, or had a moment ago.
//   Clock    When all that it sent would be done, had it only its share (the finish tag of start-time fair
//            queueing, Goyal et al., SIGCOMM '96): work of s seconds of a device moves it by
//            s / (share x devices), on every level. What comes while the clock is ahead of the time comes
//            beyond the share. For as long as promises are kept this is what tells accounts apart.
//   Service  What it has had, over its weight; among active siblings it moves on at the pace of their common
//            virtual time (generalised processor sharing), from which it is ahead or behind. When promises
//            are not kept, this decides: organisations first, then what is in them.
#pragma once

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace tidepool::compute::pool {

inline constexpr size_t kAccountLevels = 8;  // what is deeper counts as one name

struct Account {
  std::string_view name;      // of its level; the key of its parent's map
  Account* parent = nullptr;  // the root has none
  int32_t level = -1;         // of the path: 0, 1, ...
  double weight = 1;
  int64_t jobs = 0;  // of all below
  bool active = false;
  int32_t children_active = 0;
  double weights = 0;  // of these
  Nanoseconds idle_since = 0;
  double clock_s = 0;     // time
  double service_s = 0;   // seconds of the pool over its weight
  double request_s = 0;   // by how much a request moves the clock, smoothed
  double children_s = 0;  // virtual time of its children's service
  std::map<std::string, std::unique_ptr<Account>, std::less<>> children;
  Nanoseconds refused_at = INT64_MIN / 2;  // a request of it, for want of time
};

// What a job was charged ahead: given back, or corrected by what it took in the end.
struct AccountPledge {
  double seconds = 0;
  std::array<double, kAccountLevels> clock_s = {};  // by level
};

class AccountTree {
 public:
  // The leaf of a path, for a job. Weights are taken over: one a level, missing ones are 1.
  Account* Acquire(std::string_view path, const std::vector<double>& weights, Nanoseconds now);
  void Release(Account* account, Nanoseconds now);  // the job is gone
  void set_devices(size_t devices) { devices_ = devices == 0 ? 1 : static_cast<double>(devices); }

  static double ShareOf(const Account& account);
  static bool IsBelow(const Account& account, const Account& node) {  // or is it
    const Account* at = &account;
    while (at->level > node.level) at = at->parent;
    return at == &node;
  }
  // Seconds until all that it sent is done by its share; 0 when nobody else is active, or it is not ahead.
  static double ClockAhead(const Account& account, Nanoseconds now);
  // Seconds that the others of its level, and a tenth as much those of the levels below, must have before it
  // is even with them; negative when it is behind.
  static double ServiceAhead(const Account& account);
  // Seconds of a device.
  AccountPledge Pledge(Account& account, double seconds, Nanoseconds now) const;
  static void Settle(Account& account, const AccountPledge& pledge, double seconds);
  void Serve(Account& account, double seconds) const;

  bool shared() const { return leaves_ > 1; }  // between active accounts
  // For tests: empty, or what does not add up with the number of jobs of each leaf.
  std::string Check(const std::map<const Account*, int64_t>& jobs) const;

  // Who has had no work for a while shares no more.
  void Expire(Nanoseconds now);

 private:
  static void Activate(Account& account);
  static void Deactivate(Account& account);
  void Forget(Account& account);

  Account root_;
  double devices_ = 1;
  size_t leaves_ = 0;  // active
  size_t nodes_ = 0, forget_at_ = 4096;
  std::deque<std::pair<Nanoseconds, Account*>>
      idle_;  // active leaves without jobs, by time; some have jobs again
};

}  // namespace tidepool::compute::pool
