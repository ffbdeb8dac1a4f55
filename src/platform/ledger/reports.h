// Questions about usage rows: sums by group, single requests, bills, history for charts, what another price
// book would have made of a month. Read-only; every answer is bounded. Threads: any.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "platform/ledger/ledger_store.h"
#include "platform/ledger/price_book.h"

namespace tidepool::platform {

// Whose rows may be seen; an empty text is no condition. The caller's rights decide what must be set.
struct UsageFilter {
  std::string organisation, workspace, key, member, model, status, endpoint;
  int64_t from_ms = 0, to_ms = INT64_MAX;  // of finished_ms, [from, to)
};

enum class GroupBy : uint8_t {
  kNone,
  kModel,
  kKey,
  kMember,
  kWorkspace,
  kOrganisation,
  kEndpoint,
  kStatus,
  kDay
};
Result<GroupBy> ParseGroupBy(std::string_view text);  // kInvalid lists what there is
std::string_view GroupByName(GroupBy group_by);

struct UsageSums {
  int64_t requests = 0, errors = 0, cancelled = 0;
  BillableTokens tokens;
  int64_t free_tokens = 0;
  int64_t device_us = 0;
  Amounts amounts;
  void Add(const UsageSums& other);
};
struct UsageGroup {
  std::string group;  // the id or name; a day as "2026-11-28"; "" for kNone
  UsageSums sums;
};

// One page; `next` is the cursor of the page after it, empty at the end.
template <typename T>
struct UsagePage {
  std::vector<T> items;
  std::string next;
};
// Cursors are hexadecimal, so that any name may be in one. kInvalid "bad_cursor".
std::string CursorOf(std::string_view text);
Result<std::string> TextOfCursor(std::string_view cursor);

struct BillLine {
  std::string model, key, member, workspace, currency;
  int64_t price_version = 0;
  UsageSums sums;
  Money amount;  // in `currency`
};
struct Bill {
  std::string organisation;
  int64_t from_ms = 0, to_ms = 0;
  std::vector<BillLine> lines;
  std::vector<Adjustment> adjustments;
  std::map<std::string, Money> totals;  // by currency: lines and adjustments
  UsageSums sums;
  std::string next;  // more lines follow; totals are of the whole bill
};

enum class Metric : uint8_t {
  kRequests,
  kErrors,
  kCancelled,
  kPromptTokens,
  kCachedTokens,
  kOutputTokens,
  kReasoningTokens,
  kTotalTokens,
  kDeviceSeconds,
  kAmount,
  kQueueSeconds,
  kTtftSeconds,
  kDecodeSeconds,
  kRefusals
};
Result<Metric> ParseMetric(std::string_view text);

struct RangeQuery {
  UsageFilter filter;  // from and to set
  Metric metric = Metric::kRequests;
  int64_t step_ms = 60'000;
  GroupBy group_by = GroupBy::kNone;
  int64_t top =
      0;  // 1 to kMaxRangeSeries - 1: this many groups, the largest of the time; the rest is one. 0: all
};
// Steps without rows are left out; a step is named by its start. kAmount has a series for each currency of a
// group, and exact amounts; the others have points.
struct RangeSeries {
  std::string group, currency{};
  std::vector<std::pair<int64_t, double>> points{};
  std::vector<std::pair<int64_t, Money>> amounts{};
  bool others = false;  // all groups beyond `top`; comes last
};
inline constexpr int64_t kMaxRangePoints = 11'000;  // of one series, as Prometheus has it
inline constexpr size_t kMaxRangeSeries = 50;

struct DryRunLine {
  std::string model;
  int64_t requests = 0;
  Amounts was;
  Money would_be;
};
struct DryRun {
  int64_t from_ms = 0, to_ms = 0, rows = 0;
  std::string currency;  // of what it would be
  std::vector<DryRunLine> lines;
  Amounts was;
  Money would_be;
};

class Reports {
 public:
  Reports(store::Database& database, const PriceBooks& books) : database_(database), books_(books) {}

  Result<UsagePage<UsageGroup>> Usage(const UsageFilter& filter, GroupBy group_by, const std::string& cursor,
                                      int64_t limit);
  // Newest first.
  Result<UsagePage<UsageRow>> Requests(const UsageFilter& filter, const std::string& cursor, int64_t limit);
  // Of each free quota (by model version) of its organisation, what this workspace has used of it.
  Result<std::map<std::string, int64_t>> FreeTokensOf(const std::string& workspace);
  Result<UsageRow> FindRequest(const UsageFilter& filter, const std::string& id);  // row or request id
  Result<Bill> MonthlyBill(const std::string& organisation, int64_t month_ms, const std::string& cursor,
                           int64_t limit);
  Result<std::vector<RangeSeries>> Range(const RangeQuery& query);
  // Prices every row of the month again with `book`; the free tokens of a row stay what they were.
  Result<DryRun> PriceMonthWith(const PriceBook& book, int64_t month_ms, const std::string& organisation);

 private:
  void AddAmount(Amounts& amounts, int64_t price_version, Money amount) const;
  // `sql`: group, whether it is the others, price version, step, amount; in this order but for the version.
  Result<std::vector<RangeSeries>> AmountRange(const std::string& sql,
                                               const std::vector<store::Value>& values);

  store::Database& database_;
  const PriceBooks& books_;
};

// As base/csv.h writes it; amounts are exact decimals.
std::string BillCsv(const Bill& bill);

}  // namespace tidepool::platform
