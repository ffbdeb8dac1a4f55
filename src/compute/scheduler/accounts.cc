#include "compute/scheduler/accounts.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace tidepool::compute::pool {
namespace {

// Accounts without work whose use is remembered, so that leaving and coming back does not wash it away.
constexpr size_t kRememberedAccounts = 4096;
constexpr double kLeastWeight = 1e-6;
constexpr double kMostAhead_s = 60;   // that use beyond its share sets an account back
constexpr double kMostBehind_s = 10;  // that one with little to do saves up
// Active without work: one whose requests come singly keeps its share between them.
constexpr Nanoseconds kLinger = 10 * kSecond;

}  // namespace

Account* AccountTree::Acquire(std::string_view path, const std::vector<double>& weights, Nanoseconds now) {
  Expire(now);
  if (nodes_ > forget_at_) {
    Forget(root_);
    forget_at_ = std::max(kRememberedAccounts, 2 * nodes_);
  }
  Account* node = &root_;
  for (size_t level = 0; level < kAccountLevels; ++level) {
    const size_t slash = level + 1 < kAccountLevels ? path.find('/') : std::string_view::npos;
    const std::string_view name = path.substr(0, slash);
    auto entry = node->children.find(name);
    if (entry == node->children.end()) {
      entry = node->children.emplace(std::string(name), std::make_unique<Account>()).first;
      entry->second->name = entry->first;
      entry->second->parent = node;
      entry->second->level = static_cast<int32_t>(level);
      ++nodes_;
    }
    Account& child = *entry->second;
    const double weight = std::max(level < weights.size() ? weights[level] : 1.0, kLeastWeight);
    if (child.active) node->weights += weight - child.weight;
    child.weight = weight;
    node = &child;
    if (slash == std::string_view::npos) break;
    path.remove_prefix(slash + 1);
  }
  Account* leaf = node;
  if (!leaf->active) {
    Activate(*leaf);
    ++leaves_;
  }
  for (; node != nullptr; node = node->parent) ++node->jobs;
  return leaf;
}

void AccountTree::Release(Account* account, Nanoseconds now) {
  for (Account* node = account; node != nullptr; node = node->parent) --node->jobs;
  CHECK(account->jobs >= 0);
  if (account->jobs > 0) return;
  account->idle_since = now;
  idle_.emplace_back(now, account);
}

void AccountTree::Activate(Account& account) {
  if (account.active || account.parent == nullptr) return;
  account.active = true;
  Account& parent = *account.parent;
  ++parent.children_active;
  parent.weights += account.weight;
  // What it did not use while it was away is gone; what it had too much is not.
  account.service_s = std::max(account.service_s, parent.children_s);
  Activate(parent);
}

void AccountTree::Deactivate(Account& account) {
  if (account.parent == nullptr || account.jobs > 0 || account.children_active > 0) return;
  account.active = false;
  Account& parent = *account.parent;
  if (--parent.children_active == 0) {
    parent.weights = 0;  // no rest of rounding
    Deactivate(parent);
  } else {
    parent.weights -= account.weight;
  }
}

void AccountTree::Expire(Nanoseconds now) {
  while (!idle_.empty() && idle_.front().first + kLinger <= now) {
    const auto [since, account] = idle_.front();
    idle_.pop_front();
    if (!account->active || account->jobs > 0 || account->idle_since != since) continue;
    --leaves_;
    Deactivate(*account);
  }
}

double AccountTree::ShareOf(const Account& account) {
  double share = 1;
  for (const Account* node = &account; node->parent != nullptr; node = node->parent) {
    const double weights = node->parent->weights;
    if (node->active && node->parent->children_active > 1) share *= node->weight / weights;
  }
  return share;
}

double AccountTree::ClockAhead(const Account& account, Nanoseconds now) {
  const double now_s = static_cast<double>(now) * 1e-9;
  double ahead = 0;
  for (const Account* node = &account; node->parent != nullptr; node = node->parent) {
    if (node->clock_s > now_s + ahead && ShareOf(*node) < 1) ahead = node->clock_s - now_s;
  }
  return ahead;
}

double AccountTree::ServiceAhead(const Account& account) {
  double ahead = 0;
  for (const Account* node = &account; node->parent != nullptr; node = node->parent) {
    ahead /= 10;
    if (node->parent->children_active < 2) continue;
    ahead += (node->service_s - node->parent->children_s) * node->parent->weights;
  }
  return std::clamp(ahead, -kMostAhead_s, kMostAhead_s);
}

AccountPledge AccountTree::Pledge(Account& account, double seconds, Nanoseconds now) const {
  const double now_s = static_cast<double>(now) * 1e-9;
  AccountPledge pledge{.seconds = seconds};
  for (Account* node = &account; node->parent != nullptr; node = node->parent) {
    const double before = std::max(node->clock_s, now_s);
    node->clock_s = std::min(before + seconds / (ShareOf(*node) * devices_), now_s + kMostAhead_s);
    pledge.clock_s[static_cast<size_t>(node->level)] = node->clock_s - before;
    if (node == &account) {  // of an account that nobody knows half of the first is believed
      const double moved_s = seconds / (ShareOf(*node) * devices_);
      node->request_s += (node->request_s > 0 ? 0.1 : 0.5) * (moved_s - node->request_s);
    }
  }
  return pledge;
}

void AccountTree::Settle(Account& account, const AccountPledge& pledge, double seconds) {
  if (pledge.seconds <= 0) return;
  for (Account* node = &account; node->parent != nullptr; node = node->parent) {
    node->clock_s += pledge.clock_s[static_cast<size_t>(node->level)] * (seconds / pledge.seconds - 1);
  }
}

void AccountTree::Serve(Account& account, double seconds) const {
  const double pool_s = seconds / devices_;
  for (Account* node = &account; node->parent != nullptr; node = node->parent) {
    Account& parent = *node->parent;
    const double weights = std::max(parent.weights, node->weight);
    parent.children_s += pool_s / weights;
    node->service_s =
        std::max(node->service_s + pool_s / node->weight, parent.children_s - kMostBehind_s / weights);
  }
}

// Those without work, whatever they used: only when there are too many.
void AccountTree::Forget(Account& account) {
  for (auto entry = account.children.begin(); entry != account.children.end();) {
    Account& child = *entry->second;
    Forget(child);
    if (child.active) {
      ++entry;
      continue;
    }
    std::erase_if(idle_, [&](const auto& idle) { return idle.second == &child; });
    --nodes_;
    entry = account.children.erase(entry);
  }
}

std::string AccountTree::Check(const std::map<const Account*, int64_t>& jobs) const {
  std::map<const Account*, int64_t> below;
  for (const auto& [leaf, count] : jobs) {
    for (const Account* node = leaf; node != nullptr; node = node->parent) below[node] += count;
  }
  std::string wrong;
  const auto check = [&](const auto& self, const Account& node) -> void {
    const auto entry = below.find(&node);
    if (node.jobs != (entry == below.end() ? 0 : entry->second)) {
      wrong = fmt::format("account \"{}\" counts {} jobs", node.name, node.jobs);
    }
    if (node.jobs > 0 && !node.active && node.parent != nullptr) {
      wrong = fmt::format("account \"{}\" has jobs and is not active", node.name);
    }
    int32_t children = 0;
    double weights = 0;
    for (const auto& [name, child] : node.children) {
      children += child->active;
      weights += child->active ? child->weight : 0;
      self(self, *child);
    }
    if (node.children_active != children || std::abs(node.weights - weights) > 1e-9 * (1 + weights)) {
      wrong = fmt::format("account \"{}\" counts {} active children of weight {} instead of {}, {}",
                          node.name, node.children_active, node.weights, children, weights);
    }
  };
  check(check, root_);
  return wrong;
}

}  // namespace tidepool::compute::pool
