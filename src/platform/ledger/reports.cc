#include "platform/ledger/reports.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <tuple>

#include "base/csv.h"

namespace tidepool::platform {
namespace {

using store::Row;
using store::Session;
using store::Value;

constexpr int64_t kDayMs = 86'400'000;

constexpr std::string_view kSums =
    "COUNT(*), COALESCE(SUM(CASE WHEN status IN ('error', 'interrupted') THEN 1 ELSE 0 END), 0), "
    "COALESCE(SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END), 0), COALESCE(SUM(prompt_tokens), 0), "
    "COALESCE(SUM(cached_tokens), 0), COALESCE(SUM(output_tokens), 0), COALESCE(SUM(reasoning_tokens), 0), "
    "COALESCE(SUM(free_tokens), 0), COALESCE(SUM(device_us), 0)";
constexpr size_t kSumColumns = 9;

UsageSums SumsOf(const Row& row, size_t at) {
  UsageSums sums;
  sums.requests = row.Integer(at);
  sums.errors = row.Integer(at + 1);
  sums.cancelled = row.Integer(at + 2);
  sums.tokens = {row.Integer(at + 3), row.Integer(at + 4), row.Integer(at + 5), row.Integer(at + 6)};
  sums.free_tokens = row.Integer(at + 7);
  sums.device_us = row.Integer(at + 8);
  return sums;
}

// " WHERE a = $1 AND ..." with its values.
class Conditions {
 public:
  void Add(std::string_view sql, Value value) {  // sql holds one "?"
    values.push_back(std::move(value));
    const size_t at = sql.find('?');
    text += fmt::format("{}{}${}{}", text.empty() ? " WHERE " : " AND ", sql.substr(0, at), values.size(),
                        sql.substr(at + 1));
  }
  std::string text;
  std::vector<Value> values;
};

Conditions ConditionsOf(const UsageFilter& f, std::string_view time_column = "finished_ms") {
  Conditions c;
  const auto equal = [&](std::string_view column, const std::string& value) {
    if (!value.empty()) c.Add(fmt::format("{} = ?", column), value);
  };
  equal("organisation", f.organisation);
  equal("workspace", f.workspace);
  equal("key_id", f.key);
  equal("member", f.member);
  equal("model", f.model);
  equal("status", f.status);
  equal("endpoint", f.endpoint);
  if (f.from_ms > 0) c.Add(fmt::format("{} >= ?", time_column), f.from_ms);
  if (f.to_ms < INT64_MAX) c.Add(fmt::format("{} < ?", time_column), f.to_ms);
  return c;
}

struct GroupShape {
  GroupBy group_by;
  std::string_view name, column;
};
constexpr GroupShape kGroups[] = {
    {GroupBy::kNone, "none", "''"},
    {GroupBy::kModel, "model", "model"},
    {GroupBy::kKey, "key", "key_id"},
    {GroupBy::kMember, "member", "member"},
    {GroupBy::kWorkspace, "workspace", "workspace"},
    {GroupBy::kOrganisation, "organisation", "organisation"},
    {GroupBy::kEndpoint, "endpoint", "endpoint"},
    {GroupBy::kStatus, "status", "status"},
    {GroupBy::kDay, "day", "(finished_ms - finished_ms % 86400000)"},
};
const GroupShape& ShapeOf(GroupBy group_by) {
  return *std::find_if(std::begin(kGroups), std::end(kGroups),
                       [&](const GroupShape& shape) { return shape.group_by == group_by; });
}

struct MetricShape {
  Metric metric;
  std::string_view name, expression;
  double scale;
};
constexpr MetricShape kMetrics[] = {
    {Metric::kRequests, "requests", "COUNT(*)", 1},
    {Metric::kErrors, "errors", "SUM(CASE WHEN status IN ('error', 'interrupted') THEN 1 ELSE 0 END)", 1},
    {Metric::kCancelled, "cancelled", "SUM(CASE WHEN status = 'cancelled' THEN 1 ELSE 0 END)", 1},
    {Metric::kPromptTokens, "prompt_tokens", "SUM(prompt_tokens)", 1},
    {Metric::kCachedTokens, "cached_tokens", "SUM(cached_tokens)", 1},
    {Metric::kOutputTokens, "output_tokens", "SUM(output_tokens)", 1},
    {Metric::kReasoningTokens, "reasoning_tokens", "SUM(reasoning_tokens)", 1},
    {Metric::kTotalTokens, "total_tokens", "SUM(prompt_tokens + output_tokens)", 1},
    {Metric::kDeviceSeconds, "device_seconds", "SUM(device_us)", 1e-6},
    // Only to put groups in order: sums are AmountRange's.
    {Metric::kAmount, "amount", "SUM(amount_nanos / 1000)", 1},
    {Metric::kQueueSeconds, "queue_seconds", "AVG(queue_ms)", 1e-3},
    {Metric::kTtftSeconds, "ttft_seconds", "AVG(queue_ms + prefill_ms)", 1e-3},
    {Metric::kDecodeSeconds, "decode_seconds", "AVG(decode_ms)", 1e-3},
    {Metric::kRefusals, "refusals", "SUM(count)", 1},
};

tl::unexpected<Error> BadCursor() {
  return Fail(ErrorKind::kInvalid, "bad_cursor", "after: take it from next_cursor of the page before",
              "after");
}

tl::unexpected<Error> TooManySeries() {
  return Fail(ErrorKind::kTooLarge, "too_many_series",
              fmt::format("more than {} series; narrow the question", kMaxRangeSeries), "group_by");
}

}  // namespace

std::string CursorOf(std::string_view text) {
  std::string cursor;
  for (const char c : text) cursor += fmt::format("{:02x}", static_cast<uint8_t>(c));
  return cursor;
}

Result<std::string> TextOfCursor(std::string_view cursor) {
  if (cursor.size() % 2 != 0 || cursor.size() > 2048) return BadCursor();
  std::string text;
  for (size_t i = 0; i < cursor.size(); i += 2) {
    unsigned byte = 0;
    const auto [end, problem] = std::from_chars(cursor.data() + i, cursor.data() + i + 2, byte, 16);
    if (problem != std::errc() || end != cursor.data() + i + 2 || byte == 0) return BadCursor();
    text.push_back(static_cast<char>(byte));
  }
  return text;
}

Result<GroupBy> ParseGroupBy(std::string_view text) {
  std::string known;
  for (const GroupShape& shape : kGroups) {
    if (shape.group_by == GroupBy::kNone) continue;
    if (shape.name == text) return shape.group_by;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", shape.name);
  }
  return Fail(ErrorKind::kInvalid, "bad_group_by",
              fmt::format("group_by: \"{}\" is none of {}", text.substr(0, 40), known), "group_by");
}

std::string_view GroupByName(GroupBy group_by) { return ShapeOf(group_by).name; }

Result<Metric> ParseMetric(std::string_view text) {
  std::string known;
  for (const MetricShape& shape : kMetrics) {
    if (shape.name == text) return shape.metric;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", shape.name);
  }
  return Fail(ErrorKind::kInvalid, "bad_metric",
              fmt::format("metric: \"{}\" is none of {}", text.substr(0, 40), known), "metric");
}

void UsageSums::Add(const UsageSums& other) {
  requests += other.requests;
  errors += other.errors;
  cancelled += other.cancelled;
  tokens.prompt += other.tokens.prompt;
  tokens.cached += other.tokens.cached;
  tokens.output += other.tokens.output;
  tokens.reasoning += other.tokens.reasoning;
  free_tokens += other.free_tokens;
  device_us += other.device_us;
  for (const auto& [currency, amount] : other.amounts) amounts[currency] += amount;
}

void Reports::AddAmount(Amounts& amounts, int64_t price_version, Money amount) const {
  if (price_version == 0) return;
  const auto book = books_.Version(price_version);
  amounts[book == nullptr ? "?" : book->currency] += amount;
}

Result<UsagePage<UsageGroup>> Reports::Usage(const UsageFilter& filter, GroupBy group_by,
                                             const std::string& cursor, int64_t limit) {
  const GroupShape& shape = ShapeOf(group_by);
  Conditions c = ConditionsOf(filter);
  const bool by_day = group_by == GroupBy::kDay;
  if (!cursor.empty()) {
    // "=" and the last group: a group may have no name.
    TP_ASSIGN(const std::string after, TextOfCursor(cursor));
    if (!after.starts_with('=')) return BadCursor();
    if (by_day) {
      int64_t day = 0;
      if (std::from_chars(after.data() + 1, after.data() + after.size(), day).ec != std::errc())
        return BadCursor();
      c.Add(fmt::format("{} > ?", shape.column), day);
    } else {
      c.Add(fmt::format("{} > ?", shape.column), after.substr(1));
    }
  }
  // A group has at most one row for each price version.
  const auto versions = static_cast<int64_t>(books_.size());
  c.values.emplace_back((limit + 1) * versions);
  const std::string sql = fmt::format(
      "SELECT {0}, price_version, {1}, {2} FROM usage_rows{3} GROUP BY {4}price_version ORDER BY "
      "{4}price_version LIMIT ${5}",
      shape.column, kSums, kAmountSums, c.text,
      group_by == GroupBy::kNone ? "" : fmt::format("{}, ", shape.column), c.values.size());
  return database_.Get<UsagePage<UsageGroup>>([&](Session& session) -> Result<UsagePage<UsageGroup>> {
    UsagePage<UsageGroup> page;
    std::string last;  // as the database orders them
    TP_TRY(session.Each(sql, c.values, [&](const Row& row) {
      std::string name = by_day ? fmt::to_string(row.Integer(0)) : row.Text(0);
      if (page.items.empty() || name != last) {
        if (std::ssize(page.items) == limit) {
          page.next = CursorOf("=" + last);
          return false;
        }
        page.items.push_back({by_day ? TimeText(row.Integer(0)).substr(0, 10) : name, {}});
        last = std::move(name);
      }
      UsageSums sums = SumsOf(row, 2);
      AddAmount(sums.amounts, row.Integer(1), MoneyOfSums(row, 2 + kSumColumns));
      page.items.back().sums.Add(sums);
      return true;
    }));
    if (group_by == GroupBy::kNone && page.items.empty()) page.items.emplace_back();  // nothing is a sum too
    return page;
  });
}

Result<UsagePage<UsageRow>> Reports::Requests(const UsageFilter& filter, const std::string& cursor,
                                              int64_t limit) {
  Conditions c = ConditionsOf(filter);
  if (!cursor.empty()) {
    TP_ASSIGN(const std::string after, TextOfCursor(cursor));
    const size_t comma = after.find(',');
    int64_t at = 0;
    if (comma == std::string::npos ||
        std::from_chars(after.data(), after.data() + comma, at).ptr != after.data() + comma)
      return BadCursor();
    c.values.emplace_back(at);
    c.values.emplace_back(after.substr(comma + 1));
    const size_t n = c.values.size();
    c.text += fmt::format("{}(finished_ms < ${} OR (finished_ms = ${} AND id < ${}))",
                          c.text.empty() ? " WHERE " : " AND ", n - 1, n - 1, n);
  }
  c.values.emplace_back(limit + 1);
  return database_.Get<UsagePage<UsageRow>>([&](Session& session) -> Result<UsagePage<UsageRow>> {
    TP_ASSIGN(
        const auto rows,
        session.Query(fmt::format("SELECT {} FROM usage_rows{} ORDER BY finished_ms DESC, id DESC LIMIT ${}",
                                  UsageColumns(), c.text, c.values.size()),
                      c.values));
    UsagePage<UsageRow> page;
    for (const Row& row : rows) {
      if (std::ssize(page.items) == limit) {
        page.next = CursorOf(fmt::format("{},{}", page.items.back().finished_ms, page.items.back().id));
        break;
      }
      page.items.push_back(UsageRowOf(row));
    }
    return page;
  });
}

Result<std::map<std::string, int64_t>> Reports::FreeTokensOf(const std::string& workspace) {
  using Sums = std::map<std::string, int64_t>;
  return database_.Get<Sums>([&](Session& session) -> Result<Sums> {
    TP_ASSIGN(
        const auto rows,
        // A quota is stored a moment after its first use.
        session.Query("SELECT u.model_version, SUM(u.free_tokens) FROM usage_rows u LEFT JOIN free_quotas q "
                      "ON q.organisation = u.organisation AND q.model_version = u.model_version "
                      "WHERE u.workspace = $1 AND u.free_tokens > 0 AND u.finished_ms >= "
                      "COALESCE(q.granted_ms, 0) GROUP BY u.model_version",
                      {workspace}));
    Sums sums;
    for (const Row& row : rows) sums[row.Text(0)] = row.Integer(1);
    return sums;
  });
}

Result<UsageRow> Reports::FindRequest(const UsageFilter& filter, const std::string& id) {
  Conditions c = ConditionsOf(filter);
  c.Add("(id = ?", id);
  c.values.emplace_back(id);
  c.text += fmt::format(" OR request_id = ${})", c.values.size());
  return database_.Get<UsageRow>([&](Session& session) -> Result<UsageRow> {
    TP_ASSIGN(const auto rows,
              session.Query(fmt::format("SELECT {} FROM usage_rows{} ORDER BY finished_ms DESC LIMIT 1",
                                        UsageColumns(), c.text),
                            c.values));
    if (rows.empty())
      return Fail(ErrorKind::kNotFound, "request_not_found",
                  fmt::format("no request \"{}\"", id.substr(0, 100)));
    return UsageRowOf(rows[0]);
  });
}

Result<Bill> Reports::MonthlyBill(const std::string& organisation, int64_t month_ms,
                                  const std::string& cursor, int64_t limit) {
  Bill bill;
  bill.organisation = organisation;
  std::tie(bill.from_ms, bill.to_ms) = PeriodBounds(Period::kMonth, month_ms);
  int64_t offset = 0;
  if (!cursor.empty()) {
    TP_ASSIGN(const std::string after, TextOfCursor(cursor));
    const auto [end, problem] = std::from_chars(after.data(), after.data() + after.size(), offset);
    if (problem != std::errc() || end != after.data() + after.size() || offset < 0) return BadCursor();
  }
  UsageFilter filter;
  filter.organisation = organisation;
  filter.from_ms = bill.from_ms;
  filter.to_ms = bill.to_ms;
  const Conditions c = ConditionsOf(filter);
  const auto currency = [&](int64_t version) {
    const auto book = books_.Version(version);
    return book == nullptr ? std::string("?") : book->currency;
  };
  // One snapshot: lines, adjustments and totals agree.
  TP_TRY(database_.Read([&](Session& session) -> Status {
    TP_ASSIGN(const auto totals,
              session.Query(fmt::format("SELECT price_version, {}, {} FROM usage_rows{} GROUP BY "
                                        "price_version",
                                        kSums, kAmountSums, c.text),
                            c.values));
    for (const Row& row : totals) {
      UsageSums sums = SumsOf(row, 1);
      const Money amount = MoneyOfSums(row, 1 + kSumColumns);
      AddAmount(sums.amounts, row.Integer(0), amount);
      bill.sums.Add(sums);
      bill.totals[currency(row.Integer(0))] += amount;
    }
    std::vector<Value> values = c.values;
    values.emplace_back(limit + 1);
    values.emplace_back(offset);
    TP_ASSIGN(
        const auto lines,
        session.Query(fmt::format("SELECT model, key_id, member, workspace, price_version, {}, {} FROM "
                                  "usage_rows{} GROUP BY model, key_id, member, workspace, price_version "
                                  "ORDER BY model, key_id, member, workspace, price_version "
                                  "LIMIT ${} OFFSET ${}",
                                  kSums, kAmountSums, c.text, values.size() - 1, values.size()),
                      values));
    for (const Row& row : lines) {
      if (std::ssize(bill.lines) == limit) {
        bill.next = CursorOf(fmt::to_string(offset + limit));
        break;
      }
      BillLine line;
      line.model = row.Text(0);
      line.key = row.Text(1);
      line.member = row.Text(2);
      line.workspace = row.Text(3);
      line.price_version = row.Integer(4);
      line.currency = currency(line.price_version);
      line.sums = SumsOf(row, 5);
      line.amount = MoneyOfSums(row, 5 + kSumColumns);
      AddAmount(line.sums.amounts, line.price_version, line.amount);
      bill.lines.push_back(std::move(line));
    }
    TP_ASSIGN(
        const auto adjustments,
        session.Query("SELECT id, created_ms, workspace, key_id, model, amount_nanos, currency, reason, "
                      "created_by FROM adjustments WHERE organisation = $1 AND month_ms = $2 "
                      "ORDER BY created_ms, id",
                      {organisation, bill.from_ms}));
    for (const Row& row : adjustments) {
      Adjustment a;
      a.id = row.Text(0);
      a.created_ms = row.Integer(1);
      a.month_ms = bill.from_ms;
      a.organisation = organisation;
      a.workspace = row.Text(2);
      a.key = row.Text(3);
      a.model = row.Text(4);
      a.amount = Money{row.Integer(5)};
      a.currency = row.Text(6);
      a.reason = row.Text(7);
      a.created_by = row.Text(8);
      bill.totals[a.currency] += a.amount;
      bill.adjustments.push_back(std::move(a));
    }
    return {};
  }));
  return bill;
}

Result<std::vector<RangeSeries>> Reports::Range(const RangeQuery& query) {
  const UsageFilter& f = query.filter;
  if (query.step_ms < 1000) return Fail(ErrorKind::kInvalid, "bad_step", "step: at least one second", "step");
  if (f.to_ms <= f.from_ms || (f.to_ms - f.from_ms) / query.step_ms >= kMaxRangePoints) {
    return Fail(ErrorKind::kInvalid, "bad_range",
                fmt::format("from, to and step must make 1 to {} steps", kMaxRangePoints), "step");
  }
  const MetricShape& metric = *std::find_if(std::begin(kMetrics), std::end(kMetrics),
                                            [&](const MetricShape& m) { return m.metric == query.metric; });
  const bool refusals = query.metric == Metric::kRefusals;
  const GroupShape& group = ShapeOf(query.group_by);
  const bool known = !refusals || query.group_by == GroupBy::kNone || query.group_by == GroupBy::kModel ||
                     query.group_by == GroupBy::kKey || query.group_by == GroupBy::kWorkspace ||
                     query.group_by == GroupBy::kOrganisation;
  if (query.group_by == GroupBy::kDay || !known) {
    return Fail(ErrorKind::kInvalid, "bad_group_by",
                fmt::format("group_by: {} is not possible here", group.name), "group_by");
  }
  for (const auto& [name, value] :
       {std::pair("member", &f.member), std::pair("status", &f.status), std::pair("endpoint", &f.endpoint)}) {
    if (!refusals || value->empty()) continue;
    return Fail(
        ErrorKind::kInvalid, "bad_filter",
        fmt::format("{}: refusals are counted by key and model; this question needs another metric", name),
        name);
  }
  if (query.top < 0 || query.top >= static_cast<int64_t>(kMaxRangeSeries)) {
    return Fail(ErrorKind::kInvalid, "bad_top", fmt::format("top: 1 to {}", kMaxRangeSeries - 1), "top");
  }
  const std::string_view time = refusals ? "minute_ms" : "finished_ms";
  const std::string_view table = refusals ? "refusals" : "usage_rows";
  Conditions c = ConditionsOf(f, time);
  std::string column(group.column), others = "0";
  if (query.top > 0 && query.group_by != GroupBy::kNone) {
    std::vector<Value> values = c.values;
    values.emplace_back(query.top);
    const std::string largest = fmt::format(
        "SELECT {0} AS grp, {1} AS size FROM {2}{3} GROUP BY grp ORDER BY size DESC, grp LIMIT ${4}",
        group.column, metric.expression, table, c.text, values.size());
    TP_ASSIGN(
        const std::vector<std::string> names,
        database_.Get<std::vector<std::string>>([&](Session& session) -> Result<std::vector<std::string>> {
          std::vector<std::string> found;
          TP_TRY(session.Each(largest, values, [&](const Row& row) {
            found.push_back(row.Text(0));
            return true;
          }));
          return found;
        }));
    if (names.empty()) return std::vector<RangeSeries>{};
    std::string listed;
    for (const std::string& name : names) {
      c.values.emplace_back(name);
      listed += fmt::format("{}${}", listed.empty() ? "" : ", ", c.values.size());
    }
    others = fmt::format("(CASE WHEN {} IN ({}) THEN 0 ELSE 1 END)", group.column, listed);
    column = fmt::format("(CASE WHEN {0} IN ({1}) THEN {0} ELSE '' END)", group.column, listed);
  }
  const bool amounts = query.metric == Metric::kAmount;
  if (amounts) c.Add("price_version > ?", int64_t{0});
  c.values.emplace_back(query.step_ms);
  const size_t step = c.values.size();
  if (amounts) {
    return AmountRange(
        fmt::format("SELECT {0} AS grp, {1} AS others, price_version, finished_ms - finished_ms % ${2} AS "
                    "step, {3} FROM usage_rows{4} GROUP BY grp, others, price_version, step "
                    "ORDER BY others, grp, step, price_version",
                    column, others, step, kAmountSums, c.text),
        c.values);
  }
  const std::string sql = fmt::format(
      "SELECT {0} AS grp, {1} - {1} % ${2} AS step, {3}, {6} AS others FROM {4}{5} GROUP BY grp, others, "
      "step "
      "ORDER BY others, grp, step",
      column, time, step, metric.expression, table, c.text, others);
  return database_.Get<std::vector<RangeSeries>>([&](Session& session) -> Result<std::vector<RangeSeries>> {
    std::vector<RangeSeries> series;
    bool too_many = false;
    TP_TRY(session.Each(sql, c.values, [&](const Row& row) {
      const std::string name = row.Text(0);
      const bool rest = row.Integer(3) != 0;
      if (series.empty() || series.back().group != name || series.back().others != rest) {
        if (series.size() == kMaxRangeSeries) {
          too_many = true;
          return false;
        }
        series.push_back({.group = name, .others = rest});
      }
      series.back().points.emplace_back(row.Integer(1), row.Number(2) * metric.scale);
      return true;
    }));
    if (too_many) return TooManySeries();
    return series;
  });
}

Result<std::vector<RangeSeries>> Reports::AmountRange(const std::string& sql,
                                                      const std::vector<Value>& values) {
  return database_.Get<std::vector<RangeSeries>>([&](Session& session) -> Result<std::vector<RangeSeries>> {
    // Versions of one currency are one series.
    std::map<std::tuple<bool, std::string, std::string>, RangeSeries> series;
    TP_TRY(session.Each(sql, values, [&](const Row& row) {
      Amounts one;
      AddAmount(one, row.Integer(2), MoneyOfSums(row, 4));
      const auto& [currency, amount] = *one.begin();
      RangeSeries& of = series[{row.Integer(1) != 0, row.Text(0), currency}];
      of.group = row.Text(0);
      of.currency = currency;
      of.others = row.Integer(1) != 0;
      if (of.amounts.empty() || of.amounts.back().first != row.Integer(3))
        of.amounts.emplace_back(row.Integer(3), Money{});
      of.amounts.back().second += amount;
      return series.size() <= kMaxRangeSeries;
    }));
    if (series.size() > kMaxRangeSeries) return TooManySeries();
    std::vector<RangeSeries> out;
    for (auto& [key, one] : series) out.push_back(std::move(one));
    return out;
  });
}

Result<DryRun> Reports::PriceMonthWith(const PriceBook& book, int64_t month_ms,
                                       const std::string& organisation) {
  DryRun run;
  std::tie(run.from_ms, run.to_ms) = PeriodBounds(Period::kMonth, month_ms);
  UsageFilter filter;
  filter.organisation = organisation;
  filter.from_ms = run.from_ms;
  filter.to_ms = run.to_ms;
  const Conditions c = ConditionsOf(filter);
  std::map<std::string, DryRunLine> lines;
  TP_TRY(database_.Read([&](Session& session) -> Status {
    return session.Each(fmt::format("SELECT {} FROM usage_rows{}", UsageColumns(), c.text), c.values,
                        [&](const Row& r) {
                          const UsageRow row = UsageRowOf(r);
                          const PricedAmount priced = PriceOf(book, {.organisation = row.payer.organisation,
                                                                     .model = row.model,
                                                                     .embeds = row.embeds(),
                                                                     .batch = row.batch,
                                                                     .status = row.status,
                                                                     .tokens = row.tokens,
                                                                     .free_tokens = row.free_tokens});
                          DryRunLine& line = lines[row.model];
                          line.model = row.model;
                          ++line.requests;
                          AddAmount(line.was, row.price_version, Money{row.amount_nanos});
                          line.would_be += priced.amount;
                          ++run.rows;
                          return true;
                        });
  }));
  run.currency = book.currency;
  for (auto& [model, line] : lines) {
    for (const auto& [currency, amount] : line.was) run.was[currency] += amount;
    run.would_be += line.would_be;
    run.lines.push_back(std::move(line));
  }
  return run;
}

std::string BillCsv(const Bill& bill) {
  static const std::vector<std::string> kColumns = {
      "kind",          "organisation", "workspace",     "model",         "key",           "member",
      "price_version", "requests",     "prompt_tokens", "cached_tokens", "output_tokens", "reasoning_tokens",
      "free_tokens",   "amount",       "currency",      "reason"};
  CsvWriter csv(kColumns);
  const auto sums = [&](const UsageSums& of) {
    csv.Integer(of.requests).Integer(of.tokens.prompt).Integer(of.tokens.cached).Integer(of.tokens.output);
    csv.Integer(of.tokens.reasoning).Integer(of.free_tokens);
  };
  for (const BillLine& line : bill.lines) {
    csv.Text("usage").Text(bill.organisation).Text(line.workspace).Text(line.model).Text(line.key);
    csv.Text(line.member).Integer(line.price_version);
    sums(line.sums);
    csv.Number(line.amount.ToString()).Text(line.currency).Skip().EndRow();
  }
  for (const Adjustment& a : bill.adjustments) {
    csv.Text("adjustment").Text(bill.organisation).Text(a.workspace).Text(a.model).Text(a.key).Skip(8);
    csv.Number(a.amount.ToString()).Text(a.currency).Text(a.reason).EndRow();
  }
  for (const auto& [currency, total] : bill.totals) {
    csv.Text("total").Text(bill.organisation).Skip(5);
    sums(bill.sums);
    csv.Number(total.ToString()).Text(currency).Skip().EndRow();
  }
  return csv.Take();
}

}  // namespace tidepool::platform
