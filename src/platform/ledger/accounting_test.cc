// The whole ledger over a real store: SQLite, and PostgreSQL where Debian's package is installed. Oracle:
// sums worked out by hand or kept by the test.
#include "platform/ledger/accounting.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <future>
#include <random>
#include <thread>
#include <tuple>

#include "base/ids.h"
#include "platform/ledger/testing/lossy_files.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;
constexpr int64_t kNow = 1'795'824'000'000;  // 2026-11-28

// One server for all tests of a run; none where the package is missing.
store::PostgresqlServer* Postgresql() {
  static const std::unique_ptr<store::PostgresqlServer> server = [] {
    auto started = store::PostgresqlServer::Start();
    return started ? std::move(*started) : nullptr;
  }();
  return server.get();
}

// A port of this machine; what a connection gets is decided by `serve`, on a thread of its own.
class Listener {
 public:
  explicit Listener(std::function<void(int client)> serve) {
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    socklen_t size = sizeof address;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    EXPECT_EQ(::listen(listener_, 16), 0);
    thread_ = std::thread([this, serve = std::move(serve)] {
      for (int client = 0; (client = ::accept(listener_, nullptr, nullptr)) >= 0;) serve(client);
    });
  }
  ~Listener() {
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
  }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;
  std::string url() const { return fmt::format("http://127.0.0.1:{}/hook", port_); }

 private:
  int listener_ = -1, port_ = 0;
  std::thread thread_;
};

// Takes one POST after another and keeps them.
class WebhookReceiver {
 public:
  explicit WebhookReceiver(int failures) : failures_(failures) {}
  std::string url() const { return listener_.url(); }
  std::vector<std::string> requests() {
    std::lock_guard lock(mutex_);
    return requests_;
  }

 private:
  void Take(int client) {
    std::string request;
    char piece[4096];
    size_t length = 0, body = std::string::npos;
    while (body == std::string::npos || request.size() < body + length) {
      const ssize_t got = ::recv(client, piece, sizeof piece, 0);
      if (got <= 0) break;
      request.append(piece, static_cast<size_t>(got));
      if (body == std::string::npos && request.find("\r\n\r\n") != std::string::npos) {
        body = request.find("\r\n\r\n") + 4;
        const size_t at = request.find("Content-Length: ");
        length = at == std::string::npos ? 0 : std::stoul(request.substr(at + 16));
      }
    }
    const bool fail = failures_-- > 0;
    const std::string reply = fmt::format("HTTP/1.1 {}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                                          fail ? "500 No" : "204 Fine");
    (void)::send(client, reply.data(), reply.size(), MSG_NOSIGNAL);
    ::close(client);
    std::lock_guard lock(mutex_);
    requests_.push_back(request);
  }
  int failures_ = 0;
  std::mutex mutex_;
  std::vector<std::string> requests_;
  Listener listener_{[this](int client) { Take(client); }};
};

// Takes connections and never answers.
class HangingReceiver {
 public:
  HangingReceiver() = default;
  ~HangingReceiver() {
    std::lock_guard lock(mutex_);
    for (const int client : clients_) ::close(client);
  }
  std::string url() const { return listener_.url(); }
  size_t connections() {
    std::lock_guard lock(mutex_);
    return clients_.size();
  }

 private:
  std::mutex mutex_;
  std::vector<int> clients_;
  Listener listener_{[this](int client) {
    std::lock_guard lock(mutex_);
    clients_.push_back(client);
  }};
};

std::vector<Json> BodiesOf(WebhookReceiver& receiver) {
  std::vector<Json> bodies;
  for (const std::string& request : receiver.requests())
    bodies.push_back(Json::parse(request.substr(request.find("\r\n\r\n") + 4)));
  return bodies;
}

class AccountingTest : public ::testing::TestWithParam<store::Backend> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / RandomId("accounting-test-");
    std::filesystem::create_directories(folder_);
    if (GetParam() == store::Backend::kPostgresql) {
      if (Postgresql() == nullptr) GTEST_SKIP() << "PostgreSQL is not installed";
      auto made = Postgresql()->MakeDatabase();
      ASSERT_TRUE(made) << made.error().message;
      database_options_.postgresql = *made;
    } else {
      database_options_.file = folder_ / "tidepool.db";
    }
    auto database = store::Database::Open(database_options_, metrics_);
    ASSERT_TRUE(database) << database.error().message;
    database_ = std::move(*database);
    const store::MigrationList lists[] = {LedgerMigrations()};
    const Status migrated = database_->Migrate(lists);
    ASSERT_TRUE(migrated) << migrated.error().message;
    options_.ledger.post_after_ms = 5;
    options_.webhooks = {.allow_private_addresses = true, .timeout_s = 5, .poll_ms = 20};
    options_.quota.tokens = 0;
    options_.audit = [this](store::Session&, const AuditActor& actor, std::string_view action,
                            std::string_view object, const Json&, const Json&) -> Status {
      std::lock_guard lock(audit_mutex_);
      audited_.push_back(fmt::format("{} {}", action, object));
      concerned_.push_back(
          fmt::format("{} of {}/{} by {}", action, actor.organisation, actor.workspace, actor.member));
      return {};
    };
    Open();
  }
  void TearDown() override {
    accounting_.reset();
    database_.reset();
    std::filesystem::remove_all(folder_);
  }
  void Open() {
    accounting_.reset();
    auto opened = Accounting::Open(*database_, clock_, wall_, metrics_, options_, disk_.Mount());
    ASSERT_TRUE(opened) << opened.error().message;
    accounting_ = std::move(*opened);
  }
  void Prices(const std::string& input, const std::string& output, const std::string& currency = "EUR") {
    auto book = ParsePriceBook(Json{
        {"currency", currency},
        {"models",
         Json::array(
             {Json{{"model", "*"}, {"tiers", Json::array({Json{{"input", input}, {"output", output}}})}}})}});
    ASSERT_TRUE(book) << book.error().message;
    ASSERT_TRUE(accounting_->AddPrices(Actor(), *book, "me"));
  }
  static AuditActor Actor() { return {}; }
  static AdmissionRequest Request(const std::string& key = "k1", const std::string& model = "m1") {
    AdmissionRequest request;
    request.payer = {"o", key == "k3" ? "w2" : "w1", key, "u-" + key};
    request.model = model;
    request.model_version = "sha-" + model;
    request.prompt_tokens = 100;
    request.max_output_tokens = 100;
    return request;
  }
  Status Run(const AdmissionRequest& request, int64_t prompt, int64_t output,
             UsageStatus status = UsageStatus::kDone, std::string_view endpoint = "chat.completions") {
    TP_ASSIGN(auto meter, accounting_->ledger().Admit(request, RandomId("req-"), endpoint));
    meter->Count({.prompt = prompt, .cached = prompt / 2, .output = output, .reasoning = output / 4}, 1000);
    std::promise<Status> durable;
    meter->Close(status, "", {}, [&](const Status& s) { durable.set_value(s); });
    return durable.get_future().get();
  }
  // Until that many, or long enough; the wall clock runs meanwhile, so that retries become due.
  void WaitForPosts(WebhookReceiver& receiver, size_t count) {
    for (int i = 0; i < 1000 && receiver.requests().size() < count; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      wall_.Advance(100);
    }
    EXPECT_EQ(receiver.requests().size(), count);
  }
  int64_t CountOf(const std::string& sql) {
    return database_
        ->Get<int64_t>([&](store::Session& session) -> Result<int64_t> {
          TP_ASSIGN(const auto rows, session.Query(sql));
          return rows.at(0).Integer(0);
        })
        .value_or(-1);
  }
  UsageSums Total(UsageFilter filter = {}) {
    EXPECT_TRUE(accounting_->ledger().Flush(10));
    const auto page = accounting_->reports().Usage(filter, GroupBy::kNone, "", 10);
    EXPECT_TRUE(page) << (page ? "" : page.error().message);
    return page && !page->items.empty() ? page->items[0].sums : UsageSums{};
  }

  SteadyClock clock_;
  ManualWallClock wall_{kNow};
  MetricsRegistry metrics_;
  LossyDisk disk_;
  std::filesystem::path folder_;
  store::DatabaseOptions database_options_;
  std::unique_ptr<store::Database> database_;
  AccountingOptions options_;
  std::unique_ptr<Accounting> accounting_;
  std::mutex audit_mutex_;
  std::vector<std::string> audited_, concerned_;
};

TEST_P(AccountingTest, RowsAreVisibleWithinASecondAndSumUp) {
  Prices("1", "3");
  const auto started = std::chrono::steady_clock::now();
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 40));
  UsageSums seen;
  while (seen.requests == 0 && std::chrono::steady_clock::now() - started < std::chrono::seconds(1)) {
    const auto page = accounting_->reports().Usage({}, GroupBy::kNone, "", 10);
    ASSERT_TRUE(page) << page.error().message;
    seen = page->items.at(0).sums;
  }
  EXPECT_EQ(seen.requests, 1);
  ASSERT_TRUE(Run(Request("k2", "m1"), 10, 0, UsageStatus::kCancelled));
  ASSERT_TRUE(Run(Request("k3", "m2"), 20, 10, UsageStatus::kError));
  const UsageSums all = Total();
  EXPECT_EQ(all.requests, 3);
  EXPECT_EQ(all.cancelled, 1);
  EXPECT_EQ(all.errors, 1);
  EXPECT_EQ(all.tokens, (BillableTokens{130, 65, 50, 12}));
  EXPECT_EQ(all.amounts.at("EUR").ToString(), "0.00023");  // (100 + 3*40)/1e6 + 10/1e6; the failure is waived
  for (const auto& [group_by, groups] : std::vector<std::pair<GroupBy, std::vector<std::string>>>{
           {GroupBy::kModel, {"m1", "m2"}},
           {GroupBy::kKey, {"k1", "k2", "k3"}},
           {GroupBy::kMember, {"u-k1", "u-k2", "u-k3"}},
           {GroupBy::kWorkspace, {"w1", "w2"}},
           {GroupBy::kOrganisation, {"o"}},
           {GroupBy::kStatus, {"cancelled", "done", "error"}},
           {GroupBy::kDay, {"2026-11-28"}}}) {
    // One by one: the cursor leads through all of them.
    std::vector<std::string> names;
    UsageSums sum;
    std::string cursor;
    do {
      const auto page = accounting_->reports().Usage({}, group_by, cursor, 1);
      ASSERT_TRUE(page) << page.error().message;
      for (const UsageGroup& group : page->items) {
        names.push_back(group.group);
        sum.Add(group.sums);
      }
      cursor = page->next;
    } while (!cursor.empty());
    EXPECT_EQ(names, groups);
    EXPECT_EQ(sum.tokens, all.tokens);
    EXPECT_EQ(sum.amounts, all.amounts);
  }
  UsageFilter filter;
  filter.workspace = "w2";
  EXPECT_EQ(Total(filter).requests, 1);
  filter.workspace = "' OR '1'='1";
  EXPECT_EQ(Total(filter).requests, 0);
  EXPECT_FALSE(accounting_->reports().Usage({}, GroupBy::kModel, "zz", 10));
}

TEST_P(AccountingTest, RequestsComeNewestFirstInPages) {
  for (int i = 0; i < 25; ++i) {
    wall_.Advance(i % 3 == 0 ? 1000 : 0);
    ASSERT_TRUE(Run(Request(), i, 1));
  }
  Total();
  std::set<std::string> ids;
  std::string cursor;
  int64_t last = INT64_MAX;
  do {
    const auto page = accounting_->reports().Requests({}, cursor, 7);
    ASSERT_TRUE(page) << page.error().message;
    for (const UsageRow& row : page->items) {
      EXPECT_TRUE(ids.insert(row.id).second);
      EXPECT_LE(row.finished_ms, last);
      last = row.finished_ms;
      EXPECT_EQ(accounting_->reports().FindRequest({}, row.request_id)->id, row.id);
    }
    cursor = page->next;
  } while (!cursor.empty());
  EXPECT_EQ(ids.size(), 25u);
  UsageFilter other;
  other.organisation = "another";
  EXPECT_EQ(accounting_->reports().FindRequest(other, *ids.begin()).error().kind, ErrorKind::kNotFound);
}

// The bill is the sum of the rows to the last token and the last billionth, whatever they are.
TEST_P(AccountingTest, TheBillIsTheSumOfItsRows) {
  std::mt19937 random(7);
  Prices("0.37", "1.13");
  UsageSums truth;
  Money expected;
  for (int i = 0; i < 300; ++i) {
    if (i == 150) Prices("0.5", "2.000000001");  // never touches what was
    const auto status = static_cast<UsageStatus>(random() % 3);
    const auto prompt = static_cast<int64_t>(random() % 100), output = static_cast<int64_t>(random() % 100);
    ASSERT_TRUE(Run(Request(fmt::format("k{}", 1 + random() % 3), fmt::format("m{}", random() % 4)), prompt,
                    output, status));
    truth.tokens.prompt += prompt;
    truth.tokens.output += output;
    if (status != UsageStatus::kError) {
      const Int128 input = i < 150 ? 370'000'000 : 500'000'000, out = i < 150 ? 1'130'000'000 : 2'000'000'001;
      expected += Money{MulDivHalfEven(input * prompt + out * output, 1, 1'000'000)};
    }
  }
  Total();
  auto bill = accounting_->reports().MonthlyBill("o", kNow, "", 1000);
  ASSERT_TRUE(bill) << bill.error().message;
  EXPECT_EQ(bill->totals.at("EUR"), expected);
  EXPECT_EQ(bill->sums.tokens.prompt, truth.tokens.prompt);
  EXPECT_EQ(bill->sums.tokens.output, truth.tokens.output);
  UsageSums lines;
  for (const BillLine& line : bill->lines) lines.Add(line.sums);
  EXPECT_EQ(lines.amounts, (Amounts{{"EUR", expected}}));
  EXPECT_EQ(lines.requests, 300);
  // Row by row.
  Money rows;
  std::string cursor;
  do {
    const auto page = accounting_->reports().Requests({}, cursor, 100);
    ASSERT_TRUE(page);
    for (const UsageRow& row : page->items) rows += Money{row.amount_nanos};
    cursor = page->next;
  } while (!cursor.empty());
  EXPECT_EQ(rows, expected);

  Adjustment credit{.id = "",
                    .created_ms = 0,
                    .month_ms = kNow,
                    .organisation = "o",
                    .workspace = "",
                    .key = "",
                    .model = "",
                    .amount = *Money::Parse("-0.000001"),
                    .currency = "EUR",
                    .reason = "=HYPERLINK(\"http://x\")",
                    .created_by = "op"};
  ASSERT_TRUE(accounting_->Adjust(Actor(), credit));
  bill = accounting_->reports().MonthlyBill("o", kNow, "", 1000);
  ASSERT_EQ(bill->adjustments.size(), 1u);
  EXPECT_EQ(bill->totals.at("EUR"), expected + *Money::Parse("-0.000001"));
  const std::string csv = BillCsv(*bill);
  EXPECT_NE(csv.find("\"'=HYPERLINK(\"\"http://x\"\")\""), std::string::npos) << csv;
  EXPECT_NE(csv.find("total,o,,,,,,300"), std::string::npos);
  EXPECT_TRUE(
      accounting_->reports().MonthlyBill("o", kNow + int64_t{40} * 86'400'000, "", 10)->lines.empty());
}

TEST_P(AccountingTest, ADryRunPricesAMonthWithoutTouchingIt) {
  Prices("1", "1");
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 100));
  ASSERT_TRUE(Run(Request("k1", "m2"), 100, 0));
  const Amounts before = Total().amounts;
  ASSERT_EQ(before.count("EUR"), 1u);
  auto book = *ParsePriceBook(
      Json::parse(R"({"currency":"USD","models":[{"model":"m1","tiers":[{"input":"10","output":"20"}]}]})"));
  const auto run = accounting_->reports().PriceMonthWith(book, kNow, "o");
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(run->rows, 2);
  EXPECT_EQ(run->was, before);
  EXPECT_EQ(run->would_be.ToString(), "0.003");  // (10*100 + 20*100)/1e6; m2 would be unpriced
  EXPECT_EQ(run->currency, "USD");
  EXPECT_EQ(Total().amounts, before);
}

TEST_P(AccountingTest, AmountsOfDifferentCurrenciesAreNeverAdded) {
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 0));  // unpriced: no amount in any currency
  EXPECT_EQ(Total().amounts, Amounts{});
  Prices("1", "1");
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 0));
  Prices("2", "2");
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 0));
  Prices("7", "7", "USD");
  ASSERT_TRUE(Run(Request("k1", "m1"), 100, 0));
  ASSERT_TRUE(Run(Request("k3", "m2"), 100, 0));
  const Money eur = *Money::Parse("0.0003"), usd = *Money::Parse("0.0007");
  const UsageSums all = Total();
  EXPECT_EQ(all.requests, 5);
  EXPECT_EQ(all.amounts, (Amounts{{"EUR", eur}, {"USD", usd + usd}}));
  // Pages of groups, each with several price versions; a group without a name among them.
  AdmissionRequest nobody = Request("k1", "m1");
  nobody.payer.member.clear();
  ASSERT_TRUE(Run(nobody, 100, 0));
  Total();
  for (const auto& [group_by, amounts] : std::vector<std::pair<GroupBy, std::map<std::string, Amounts>>>{
           {GroupBy::kModel, {{"m1", {{"EUR", eur}, {"USD", usd + usd}}}, {"m2", {{"USD", usd}}}}},
           {GroupBy::kMember,
            {{"", {{"USD", usd}}}, {"u-k1", {{"EUR", eur}, {"USD", usd}}}, {"u-k3", {{"USD", usd}}}}}}) {
    std::map<std::string, Amounts> seen;
    std::string cursor;
    do {
      const auto page = accounting_->reports().Usage({}, group_by, cursor, 1);
      ASSERT_TRUE(page) << page.error().message;
      for (const UsageGroup& group : page->items) seen[group.group] = group.sums.amounts;
      cursor = page->next;
    } while (!cursor.empty());
    EXPECT_EQ(seen, amounts);
  }
  const auto bill = accounting_->reports().MonthlyBill("o", kNow, "", 100);
  ASSERT_TRUE(bill);
  EXPECT_EQ(bill->totals.at("EUR"), eur);
  EXPECT_EQ(bill->totals.at("USD"), usd + usd + usd);
  const auto run = accounting_->reports().PriceMonthWith(
      *ParsePriceBook(Json::parse(R"({"currency":"CNY","models":[]})")), kNow, "o");
  ASSERT_TRUE(run);
  EXPECT_EQ(run->was, (Amounts{{"EUR", eur}, {"USD", usd + usd + usd}}));
  // Charts: a series for each currency.
  RangeQuery query;
  query.filter.from_ms = kNow - 60'000;
  query.filter.to_ms = kNow + 3'600'000;
  query.metric = Metric::kAmount;
  const auto series = accounting_->reports().Range(query);
  ASSERT_TRUE(series) << series.error().message;
  ASSERT_EQ(series->size(), 2u);
  EXPECT_EQ((*series)[0].currency, "EUR");
  ASSERT_EQ((*series)[0].amounts.size(), 1u);
  EXPECT_EQ((*series)[0].amounts[0].second, eur);
  EXPECT_EQ((*series)[1].amounts[0].second, usd + usd + usd);
}

// Below a millionth, and beyond what a double holds exactly (2^53 billionths are 9,007,199.25).
TEST_P(AccountingTest, ChartsOfAmountsAreExact) {
  Prices("0.000001", "100000");
  ASSERT_TRUE(Run(Request(), 100, 0));  // 10^-10: rounded to nothing
  ASSERT_TRUE(Run(Request(), 1000, 0));
  wall_.Advance(120'000);
  AdmissionRequest large = Request();
  large.max_output_tokens = 200'000'000;
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(Run(large, 1'000, 100'000'000));
  Total();
  RangeQuery query;
  query.filter.from_ms = kNow - 60'000;
  query.filter.to_ms = kNow + 3'600'000;
  query.metric = Metric::kAmount;
  query.group_by = GroupBy::kKey;
  const auto series = accounting_->reports().Range(query);
  ASSERT_TRUE(series) << series.error().message;
  ASSERT_EQ(series->size(), 1u);
  EXPECT_EQ((*series)[0].group, "k1");
  ASSERT_EQ((*series)[0].amounts.size(), 2u);
  EXPECT_EQ((*series)[0].amounts[0].first, kNow / 60'000 * 60'000);
  EXPECT_EQ((*series)[0].amounts[0].second.ToString(), "0.000000001");
  EXPECT_EQ((*series)[0].amounts[1].second.ToString(), "20000000.000000002");
}

TEST_P(AccountingTest, ADryRunPricesScoresAsEmbeddings) {
  auto book = *ParsePriceBook(Json::parse(
      R"({"currency":"USD","models":[{"model":"m1","tiers":[{"input":"10","output":"20"}],"embedding":"2"}]})"));
  for (const std::string_view endpoint : {"embeddings", "rerank"}) {
    AdmissionRequest request = Request("k1", "m1");
    request.embeds = true;
    ASSERT_TRUE(Run(request, 100, 0, UsageStatus::kDone, endpoint));
  }
  Total();
  const auto run = accounting_->reports().PriceMonthWith(book, kNow, "o");
  ASSERT_TRUE(run) << run.error().message;
  EXPECT_EQ(run->rows, 2);
  EXPECT_EQ(run->would_be.ToString(), "0.0004");  // 2 * 2*100/1e6
}

TEST_P(AccountingTest, RulesAndCountersSurviveARestart) {
  Prices("1000", "1000");
  ASSERT_TRUE(accounting_->SetLimit(
      Actor(), {.scope = {ScopeKind::kKey, "k1"}, .organisation = "o", .tokens_per_day = 1000}));
  Budget budget{.id = "", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  const auto made = accounting_->SetBudget(Actor(), budget);
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_TRUE(made->id.starts_with("bud-"));
  ASSERT_TRUE(Run(Request(), 100, 100));
  Total();
  Open();
  const auto budgets = accounting_->limiter().budgets();
  ASSERT_EQ(budgets.size(), 1u);
  EXPECT_EQ(budgets[0].spent.ToString(), "0.20");
  EXPECT_EQ(accounting_->books().At(kNow)->version, 1);
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Run(Request(), 100, 100)) << i;  // to 1000 tokens and 1.00
  EXPECT_EQ(Run(Request(), 1, 1).error().code, "quota_exhausted");
  EXPECT_EQ(Run(Request("k2"), 1, 1).error().code, "budget_exhausted");
  ASSERT_TRUE(accounting_->RemoveBudget(Actor(), made->id));
  EXPECT_TRUE(Run(Request("k2"), 1, 1));
  ASSERT_TRUE(accounting_->RemoveLimit(Actor(), {ScopeKind::kKey, "k1"}, "*"));
  EXPECT_TRUE(Run(Request(), 1, 1));
  EXPECT_EQ(accounting_->RemoveLimit(Actor(), {ScopeKind::kKey, "k1"}, "*").error().kind,
            ErrorKind::kNotFound);
  std::lock_guard lock(audit_mutex_);
  EXPECT_EQ(audited_.size(), 5u);
  EXPECT_EQ(audited_[0], "price.changed version 1");
}

// An operator of the organisation `default` rules others: their admins read the row, his organisation's do
// not.
TEST_P(AccountingTest, ChangesAreAuditedUnderTheOrganisationTheyConcern) {
  AuditActor actor;
  actor.organisation = actor.workspace = "default";
  actor.member = "usr-1";
  auto book = ParsePriceBook(Json{{"currency", "EUR"}, {"models", Json::array()}});
  ASSERT_TRUE(book) << book.error().message;
  ASSERT_TRUE(accounting_->AddPrices(actor, *book, "me"));
  const Scope workspace{ScopeKind::kWorkspace, "w1"};
  ASSERT_TRUE(
      accounting_->SetLimit(actor, {.scope = workspace, .organisation = "o", .requests_per_minute = 5}));
  ASSERT_TRUE(accounting_->RemoveLimit(actor, workspace, "*"));
  Budget budget{.id = "", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  const auto made = accounting_->SetBudget(actor, budget);
  ASSERT_TRUE(made) << made.error().message;
  budget = *made;
  budget.scope = {ScopeKind::kKey, "k1"};
  ASSERT_TRUE(accounting_->SetBudget(actor, budget));
  ASSERT_TRUE(accounting_->RemoveBudget(actor, made->id));
  ASSERT_TRUE(accounting_->SetQuota(
      actor, {.organisation = "o", .model_version = "v", .model = "m", .total = 1, .expires_ms = kNow + 1}));
  ASSERT_TRUE(accounting_->SetWebhook(actor, "o", "http://127.0.0.1:1/hook"));
  ASSERT_TRUE(accounting_->RemoveWebhook(actor, "o"));
  Adjustment adjustment;
  adjustment.month_ms = kNow;
  adjustment.organisation = "o";
  adjustment.workspace = "w1";
  adjustment.amount = *Money::Parse("-1");
  adjustment.currency = "EUR";
  adjustment.reason = "goodwill";
  ASSERT_TRUE(accounting_->Adjust(actor, adjustment));
  std::lock_guard lock(audit_mutex_);
  EXPECT_EQ(concerned_,
            (std::vector<std::string>{"price.changed of / by usr-1", "limit.changed of o/w1 by usr-1",
                                      "limit.removed of o/w1 by usr-1", "budget.created of o/ by usr-1",
                                      "budget.changed of o/ by usr-1", "budget.removed of o/ by usr-1",
                                      "quota.changed of o/ by usr-1", "webhook.changed of o/ by usr-1",
                                      "webhook.removed of o/ by usr-1", "bill.adjusted of o/w1 by usr-1"}));
}

TEST_P(AccountingTest, FreeQuotasAreReadFromRowsAndCanBeTurned) {
  options_.quota = {.tokens = 500, .validity_days = 90, .stop_when_exhausted = true};
  Open();
  ASSERT_TRUE(Run(Request(), 100, 100));
  Total();
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // the grant is stored
  Open();
  auto quota = accounting_->limiter().FindQuota("o", "sha-m1");
  ASSERT_TRUE(quota);
  EXPECT_EQ(quota->used, 200);
  ASSERT_TRUE(Run(Request(), 100, 100));
  EXPECT_EQ(Run(Request("k3"), 100, 100).error().code, "quota_exhausted");
  quota = accounting_->limiter().FindQuota("o", "sha-m1");
  quota->stop_when_exhausted = false;
  ASSERT_TRUE(accounting_->SetQuota(Actor(), *quota));
  EXPECT_TRUE(Run(Request("k3"), 100, 100));
  quota->stop_when_exhausted = true;
  ASSERT_TRUE(accounting_->SetQuota(Actor(), *quota));
  EXPECT_EQ(Run(Request("k3"), 100, 100).error().code, "quota_exhausted");
  EXPECT_EQ(accounting_->limiter().FindQuota("o", "sha-m1")->used, 500);
}

TEST_P(AccountingTest, ACrashClosesWhatWasOpenOnce) {
  Prices("1", "1");
  auto open = *accounting_->ledger().Admit(Request(), "was-open", "completions");
  open->Count({.prompt = 100, .output = 32}, 10);
  ASSERT_TRUE(Run(Request(), 10, 10));
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  disk_.SetBroken(true);
  open.reset();
  accounting_->ledger().Stop(0.01);
  disk_.SetBroken(false);
  for (int i = 0; i < 3; ++i) Open();  // however often it starts
  EXPECT_EQ(Total().requests, 2);
  const auto row = accounting_->reports().FindRequest({}, "was-open");
  ASSERT_TRUE(row) << row.error().message;
  EXPECT_EQ(row->status, UsageStatus::kInterrupted);
  EXPECT_EQ(row->tokens.output, 32);
  EXPECT_EQ(row->billing, Billing::kWaived);
}

TEST_P(AccountingTest, HistoryIsBoundedAndGrouped) {
  for (int i = 0; i < 6; ++i) {
    ASSERT_TRUE(Run(Request("k1", i % 2 == 0 ? "m1" : "m2"), 10, 5));
    wall_.Advance(60'000);
  }
  Total();
  RangeQuery query;
  query.filter.from_ms = kNow;
  query.filter.to_ms = kNow + 3'600'000;
  query.step_ms = 120'000;
  query.metric = Metric::kTotalTokens;
  query.group_by = GroupBy::kModel;
  const auto series = accounting_->reports().Range(query);
  ASSERT_TRUE(series) << series.error().message;
  ASSERT_EQ(series->size(), 2u);
  EXPECT_EQ((*series)[0].group, "m1");
  ASSERT_EQ((*series)[0].points.size(), 3u);
  EXPECT_EQ((*series)[0].points[1], std::pair(kNow + 120'000, 15.0));
  query.step_ms = 1000;
  query.filter.to_ms = kNow + int64_t{20'000} * 1000;
  EXPECT_EQ(accounting_->reports().Range(query).error().code, "bad_range");
  EXPECT_FALSE(ParseMetric("tokens; DROP TABLE usage_rows"));
  for (const char* metric :
       {"requests", "errors", "amount", "queue_seconds", "ttft_seconds", "device_seconds"}) {
    query.metric = *ParseMetric(metric);
    query.step_ms = 60'000;
    EXPECT_TRUE(accounting_->reports().Range(query)) << metric;
  }
}

TEST_P(AccountingTest, OfManyGroupsTheLargestAreTheirOwnAndTheRestIsOne) {
  // Keys k0 to k59 with 1 to 60 tokens each: more than one answer may hold, were each its own.
  for (int i = 0; i < 60; ++i) ASSERT_TRUE(Run(Request(fmt::format("k{}", i)), 1, i));
  Total();
  RangeQuery query;
  query.filter.from_ms = kNow - kNow % 86'400'000;
  query.filter.to_ms = query.filter.from_ms + 86'400'000;
  query.step_ms = 86'400'000;
  query.metric = Metric::kTotalTokens;
  query.group_by = GroupBy::kKey;
  EXPECT_EQ(accounting_->reports().Range(query).error().code, "too_many_series");
  query.top = 2;
  const auto series = accounting_->reports().Range(query);
  ASSERT_TRUE(series) << series.error().message;
  ASSERT_EQ(series->size(), 3u);
  const auto value = [&](size_t at) { return (*series)[at].points.at(0).second; };
  EXPECT_EQ((*series)[0].group, "k58");
  EXPECT_EQ((*series)[1].group, "k59");
  EXPECT_EQ(value(0), 59);
  EXPECT_EQ(value(1), 60);
  EXPECT_TRUE((*series)[2].others);
  EXPECT_EQ(value(2), 58 * 59 / 2);  // 1 + ... + 58
  EXPECT_FALSE((*series)[0].others);
  query.top = 50;
  EXPECT_EQ(accounting_->reports().Range(query).error().code, "bad_top");
}

TEST_P(AccountingTest, RefusalsAreCountedByMinute) {
  ASSERT_TRUE(accounting_->SetLimit(
      Actor(), {.scope = {ScopeKind::kKey, "k1"}, .organisation = "o", .requests_per_minute = 0}));
  for (int i = 0; i < 30; ++i) EXPECT_EQ(Run(Request(), 1, 1).error().code, "rate_limit_exceeded");
  wall_.Advance(60'000);
  RangeQuery query;
  query.filter.from_ms = kNow - 60'000;
  query.filter.to_ms = kNow + 60'000;
  query.metric = Metric::kRefusals;
  for (int i = 0; i < 200; ++i) {
    const auto series = accounting_->reports().Range(query);
    ASSERT_TRUE(series) << series.error().message;
    if (!series->empty()) {
      EXPECT_EQ((*series)[0].points, (std::vector<std::pair<int64_t, double>>{{kNow, 30.0}}));
      // A refusal is kept by payer's key, model and code only.
      for (std::string UsageFilter::* field :
           {&UsageFilter::member, &UsageFilter::status, &UsageFilter::endpoint}) {
        RangeQuery other = query;
        other.filter.*field = "x";
        const auto refused = accounting_->reports().Range(other);
        ASSERT_FALSE(refused);
        EXPECT_EQ(refused.error().code, "bad_filter");
        EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
      }
      query.filter.key = "k1";
      EXPECT_TRUE(accounting_->reports().Range(query));
      EXPECT_EQ(Total().requests, 0);
      return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  FAIL() << "no refusals were stored";
}

TEST_P(AccountingTest, ThresholdsAreToldOnceBySignedWebhook) {
  WebhookReceiver receiver(/*failures=*/1);
  Prices("1000", "1000");
  const auto secret = accounting_->SetWebhook(Actor(), "o", receiver.url());
  ASSERT_TRUE(secret) << secret.error().message;
  Budget budget{.id = "", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  budget.thresholds = {50};
  ASSERT_TRUE(accounting_->SetBudget(Actor(), budget));
  for (int i = 0; i < 4; ++i) ASSERT_TRUE(Run(Request(), 100, 90));
  for (int i = 0; i < 500 && receiver.requests().size() < 2; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    wall_.Advance(100);  // the second try comes 5 s after the first
  }
  auto requests = receiver.requests();
  ASSERT_EQ(requests.size(), 2u);
  const std::string& request = requests[1];
  const size_t body_at = request.find("\r\n\r\n") + 4;
  const std::string body = request.substr(body_at);
  const Json json = Json::parse(body);
  EXPECT_EQ(json["type"], "budget.threshold");
  EXPECT_EQ(json["data"]["threshold_percent"], 50);
  EXPECT_EQ(json["data"]["organisation"], "o");
  EXPECT_EQ(json["data"]["amount"], "1.00");
  EXPECT_EQ(json["data"]["spent"], "0.57") << "after three of 190 tokens";
  EXPECT_EQ(json["data"]["currency"], "EUR");
  const size_t at = request.find("Tidepool-Signature: t=");
  ASSERT_NE(at, std::string::npos);
  const std::string signature = request.substr(at + 20, request.find("\r\n", at) - at - 20);
  const int64_t seconds = std::stoll(signature.substr(2));
  EXPECT_EQ(signature, WebhookSignature(*secret, seconds, body));
  // A notice for trying is signed as the others are, and not sent again.
  const auto webhook = accounting_->FindWebhook("o");
  ASSERT_TRUE(webhook && *webhook);
  const Status tried = accounting_->TestWebhook(**webhook);
  ASSERT_TRUE(tried) << tried.error().message;
  requests = receiver.requests();
  ASSERT_EQ(requests.size(), 3u);
  const std::string test_body = requests[2].substr(requests[2].find("\r\n\r\n") + 4);
  EXPECT_EQ(Json::parse(test_body)["type"], "webhook.test");
  EXPECT_NE(requests[2].find(WebhookSignature(*secret, wall_.unix_ms() / 1000, test_body)),
            std::string::npos);
  // Told once, over a restart too.
  Open();
  ASSERT_TRUE(Run(Request(), 10, 10));
  wall_.Advance(20'000);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(receiver.requests().size(), 3u);
  // A budget that is another is told of anew: 0.78 are more than half of 1.50 too.
  Budget more = accounting_->limiter().budgets("o").at(0).budget;
  for (const char* amount : {"1.5", "1.5"}) {  // the second time nothing changes
    more.amount = *Money::Parse(amount);
    ASSERT_TRUE(accounting_->SetBudget(Actor(), more));
    for (int i = 0; i < 500 && receiver.requests().size() < 4; ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      wall_.Advance(100);
    }
  }
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  requests = receiver.requests();
  ASSERT_EQ(requests.size(), 4u);
  EXPECT_EQ(Json::parse(requests[3].substr(requests[3].find("\r\n\r\n") + 4))["data"]["amount"], "1.50");
}

// A fifth left, then nothing: once each, and in this order although the first is not taken at once.
TEST_P(AccountingTest, AFreeQuotaIsToldOfAtAFifthAndAtNothing) {
  options_.quota.tokens = 1000;
  Open();
  WebhookReceiver receiver(/*failures=*/1);
  const auto secret = accounting_->SetWebhook(Actor(), "o", receiver.url());
  ASSERT_TRUE(secret) << secret.error().message;
  for (int i = 0; i < 7; ++i) ASSERT_TRUE(Run(Request(), 100, 0));
  ASSERT_TRUE(accounting_->ledger().Flush(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));  // notices are stored every half second
  EXPECT_TRUE(receiver.requests().empty()) << "300 of 1000 are left";
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(Run(Request(), 100, 0));
  WaitForPosts(receiver, 3);
  const std::vector<Json> told = BodiesOf(receiver);
  ASSERT_EQ(told.size(), 3u);
  EXPECT_EQ(told[0], told[1]);  // not taken, again
  const std::vector<std::tuple<size_t, std::string, int, std::string>> wanted = {
      {1, "quota.low", 20, "800"}, {2, "quota.exhausted", 0, "1000"}};
  for (const auto& [at, type, left, used] : wanted) {
    const Json& body = told[at];
    EXPECT_EQ(body["type"], type);
    EXPECT_EQ(body["id"].get<std::string>().find(type), 0u);
    EXPECT_EQ(body["created"].get<int64_t>() / 100'000, kNow / 100'000'000);
    EXPECT_EQ(body["data"], (Json{{"organisation", "o"},
                                  {"model", "m1"},
                                  {"model_version", "sha-m1"},
                                  {"granted", TimeText(kNow)},
                                  {"percent_left", left},
                                  {"total_tokens", "1000"},
                                  {"used_tokens", used}}));
    const std::string request = receiver.requests()[at];
    const size_t mark = request.find("Tidepool-Signature: t=");
    ASSERT_NE(mark, std::string::npos);
    const std::string signature = request.substr(mark + 20, request.find("\r\n", mark) - mark - 20);
    EXPECT_EQ(signature, WebhookSignature(*secret, std::stoll(signature.substr(2)),
                                          request.substr(request.find("\r\n\r\n") + 4)));
  }
  // Never again, over a restart too.
  Open();
  ASSERT_TRUE(Run(Request(), 100, 0));
  ASSERT_TRUE(accounting_->ledger().Flush(10));
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  EXPECT_EQ(receiver.requests().size(), 3u);
}

// Organisations are told side by side, so many at a time.
TEST_P(AccountingTest, AWebhookThatHangsDelaysNobodyElse) {
  options_.webhooks.timeout_s = 600;
  options_.webhooks.workers = 3;
  Open();
  Prices("1000", "1000");
  HangingReceiver hanging;
  WebhookReceiver receiver(0);
  const auto tell = [&](const std::string& organisation, const std::string& url, int budgets) {
    ASSERT_TRUE(accounting_->SetWebhook(Actor(), organisation, url));
    for (int i = 0; i < budgets; ++i) {
      Budget budget{
          .id = "", .scope = {ScopeKind::kOrganisation, organisation}, .organisation = organisation};
      budget.amount = *Money::Parse("0.01");
      budget.thresholds = {50};
      budget.block = false;
      ASSERT_TRUE(accounting_->SetBudget(Actor(), budget));
    }
    AdmissionRequest request = Request();
    request.payer.organisation = organisation;
    ASSERT_TRUE(Run(request, 10, 10));
  };
  // Each with more to be told than one.
  for (const char* organisation : {"slow-1", "slow-2"}) tell(organisation, hanging.url(), 30);
  for (int i = 0; i < 1000 && hanging.connections() < 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(hanging.connections(), 2u);
  tell("quick", receiver.url(), 3);
  WaitForPosts(receiver, 3);
  EXPECT_EQ(hanging.connections(), 2u) << "those of one organisation come one after another";
  // A third that hangs takes the last place: the next waits.
  tell("slow-3", hanging.url(), 1);
  for (int i = 0; i < 1000 && hanging.connections() < 3; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  ASSERT_EQ(hanging.connections(), 3u);
  tell("slow-4", hanging.url(), 1);
  std::this_thread::sleep_for(std::chrono::milliseconds(800));
  EXPECT_EQ(hanging.connections(), 3u);
  // And the end of the server waits for none of them.
  const auto began = std::chrono::steady_clock::now();
  accounting_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(60));
}

TEST_P(AccountingTest, WebhooksNeverLeadToPrivateAddresses) {
  options_.webhooks.allow_private_addresses = false;
  Open();
  for (const char* url : {"http://127.0.0.1/x", "http://localhost/x", "http://[::1]/", "http://10.0.0.1/",
                          "http://169.254.169.254/latest/meta-data", "ftp://example.com/", "example.com", "",
                          "https://user:secret@example.com/", "file:///etc/passwd"}) {
    const auto set = accounting_->SetWebhook(Actor(), "o", url);
    EXPECT_FALSE(set) << url;
    if (!set) {
      EXPECT_EQ(set.error().param, "url");
    }
  }
  EXPECT_TRUE(accounting_->SetWebhook(Actor(), "o", "https://example.com/hook?x=1"));
  // A name that leads there is found out when connecting.
  WebhookReceiver receiver(0);
  const Status sent = PostWebhook(receiver.url(), "t=1,v1=0", "{}", options_.webhooks);
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().code, "private_address");
  EXPECT_TRUE(receiver.requests().empty());
}

// The database goes away under load: what runs ends, its rows wait on disk, then new work is refused; it
// comes back: all rows are there, and nothing needed a restart.
TEST_P(AccountingTest, ALostPostgresqlIsBufferedOnDiskThenRefusesWork) {
  if (GetParam() != store::Backend::kPostgresql) GTEST_SKIP() << "SQLite is a file";
  options_.ledger.max_unposted_rows = 20;
  options_.ledger.journal_every_ms = 10;
  options_.quota.tokens = 1'000'000;
  Open();
  ASSERT_TRUE(Run(Request("k1", "m0"), 10, 1));
  Total();
  ASSERT_TRUE(Postgresql()->Stop());
  int done = 1;
  Status ran;
  for (; done < 5000; ++done) {
    ran = Run(Request(), 10, 1);
    if (!ran) break;
  }
  ASSERT_FALSE(ran);
  EXPECT_EQ(ran.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(ran.error().code, "usage_store_behind");
  EXPECT_GE(done, 20);
  ASSERT_TRUE(Postgresql()->StartAgain());
  for (int i = 0; i < 1000 && !accounting_->ledger().Check(Request()); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_TRUE(accounting_->ledger().Check(Request()));
  EXPECT_EQ(Total().requests, done);
  // The quota that was granted meanwhile is stored too: a restart grants it no second time.
  const std::string granted = "SELECT COUNT(*) FROM free_quotas WHERE model_version = 'sha-m1'";
  for (int i = 0; i < 500 && CountOf(granted) == 0; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  EXPECT_EQ(CountOf(granted), 1);
  // Also where this server ends before the database is back.
  ASSERT_TRUE(Postgresql()->Stop());
  ASSERT_TRUE(Run(Request("k1", "m2"), 10, 1));
  accounting_->ledger().Stop(0.01);
  ASSERT_TRUE(Postgresql()->StartAgain());
  Open();
  EXPECT_EQ(Total().requests, done + 1);
  const auto quota = accounting_->limiter().FindQuota("o", "sha-m2");
  ASSERT_TRUE(quota);
  EXPECT_EQ(quota->used, 11);
}

TEST_P(AccountingTest, ABudgetCountsItsCurrencyOverARestart) {
  Budget budget{.id = "", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = *Money::Parse("1");
  const auto made = accounting_->SetBudget(Actor(), budget);  // before there are prices
  ASSERT_TRUE(made) << made.error().message;
  EXPECT_EQ(made->currency, "");
  ASSERT_TRUE(Run(Request(), 100, 0));
  Prices("1000", "1000");
  ASSERT_TRUE(Run(Request(), 100, 0));
  Prices("1000", "1000", "USD");
  for (int i = 0; i < 20; ++i) ASSERT_TRUE(Run(Request(), 100, 0)) << "dollars are not counted, nor refused";
  Prices("1000", "1000");
  for (const bool restarted : {false, true}) {
    if (restarted) Open();
    const auto state = accounting_->limiter().FindBudget(made->id);
    ASSERT_TRUE(state);
    EXPECT_EQ(state->budget.currency, "EUR");
    EXPECT_EQ(state->spent.ToString(), "0.10");
    EXPECT_EQ(state->not_counted, (Amounts{{"USD", *Money::Parse("2")}}));
    Total();
  }
  for (int i = 0; i < 8; ++i) ASSERT_TRUE(Run(Request(), 100, 0));  // 0.90, and one more may cost 0.20
  EXPECT_EQ(Run(Request(), 100, 0).error().code, "budget_exhausted");
  budget.currency = "CHF";
  EXPECT_EQ(accounting_->SetBudget(Actor(), budget).error().code, "unknown_currency");
}

TEST_P(AccountingTest, BadAmountsNeverReachTheStore) {
  Budget budget{.id = "", .scope = {ScopeKind::kOrganisation, "o"}, .organisation = "o"};
  budget.amount = Money{-1};
  EXPECT_FALSE(accounting_->SetBudget(Actor(), budget));
  EXPECT_FALSE(accounting_->SetLimit(
      Actor(), {.scope = {ScopeKind::kKey, "k"}, .organisation = "o", .tokens_per_minute = -5}));
  Adjustment zero{.id = "",
                  .created_ms = 0,
                  .month_ms = kNow,
                  .organisation = "o",
                  .workspace = "",
                  .key = "",
                  .model = "",
                  .amount = {},
                  .currency = "EUR",
                  .reason = "x",
                  .created_by = ""};
  EXPECT_FALSE(accounting_->Adjust(Actor(), zero));
  FreeQuota quota{.organisation = "o", .model_version = "v", .model = "m", .total = -1};
  EXPECT_FALSE(accounting_->SetQuota(Actor(), quota));
  // Names that are SQL are names.
  const std::string nasty = "x'); DROP TABLE usage_rows; --";
  ASSERT_TRUE(accounting_->SetLimit(
      Actor(),
      {.scope = {ScopeKind::kKey, nasty}, .organisation = nasty, .model = nasty, .tokens_per_day = 5}));
  Open();
  ASSERT_EQ(accounting_->limiter().limits().size(), 1u);
  EXPECT_EQ(accounting_->limiter().limits()[0].model, nasty);
  EXPECT_EQ(Total().requests, 0);
}

TEST_P(AccountingTest, AnOrganisationHasSoManyRules) {
  options_.max_limits = 2;
  options_.max_budgets = 1;
  Open();
  const auto limit = [](const char* organisation, const char* key, int64_t rate) {
    return Limit{.scope = {ScopeKind::kKey, key}, .organisation = organisation, .requests_per_minute = rate};
  };
  ASSERT_TRUE(accounting_->SetLimit(Actor(), limit("o", "k1", 1)));
  ASSERT_TRUE(accounting_->SetLimit(Actor(), limit("o", "k2", 1)));
  const Status third = accounting_->SetLimit(Actor(), limit("o", "k3", 1));
  EXPECT_EQ(third.error().code, "too_many_limits");
  EXPECT_NE(third.error().message.find("ledger.max_limits"), std::string::npos);
  EXPECT_TRUE(accounting_->SetLimit(Actor(), limit("o", "k2", 2))) << "one that is there may change";
  EXPECT_TRUE(accounting_->SetLimit(Actor(), limit("other", "k3", 1)));
  ASSERT_TRUE(accounting_->RemoveLimit(Actor(), {ScopeKind::kKey, "k1"}, "*"));
  EXPECT_TRUE(accounting_->SetLimit(Actor(), limit("o", "k4", 1)));

  const auto budget = [](const char* organisation) {
    return Budget{.id = "",
                  .scope = {ScopeKind::kOrganisation, organisation},
                  .organisation = organisation,
                  .amount = *Money::Parse("1")};
  };
  auto first = accounting_->SetBudget(Actor(), budget("o"));
  ASSERT_TRUE(first);
  EXPECT_EQ(accounting_->SetBudget(Actor(), budget("o")).error().code, "too_many_budgets");
  auto others = accounting_->SetBudget(Actor(), budget("other"));
  ASSERT_TRUE(others);
  Budget moved = budget("o");
  moved.id = others->id;
  EXPECT_EQ(accounting_->SetBudget(Actor(), moved).error().code, "too_many_budgets");
  first->amount = *Money::Parse("2");
  EXPECT_TRUE(accounting_->SetBudget(Actor(), *first));
  EXPECT_NE(metrics_.Serialize().find("tidepool_ledger_limits 3\n"), std::string::npos);
  EXPECT_NE(metrics_.Serialize().find("tidepool_ledger_budgets 2\n"), std::string::npos);
}

TEST_P(AccountingTest, ABudgetThatMovesKeepsWhoseItIs) {
  auto budget = accounting_->SetBudget(Actor(), {.id = "",
                                                 .scope = {ScopeKind::kOrganisation, "o"},
                                                 .organisation = "o",
                                                 .amount = *Money::Parse("1")});
  ASSERT_TRUE(budget);
  budget->scope = {ScopeKind::kOrganisation, "other"};
  budget->organisation = "other";
  ASSERT_TRUE(accounting_->SetBudget(Actor(), *budget));
  Open();
  EXPECT_EQ(accounting_->limiter().FindBudget(budget->id)->budget.organisation, "other");
}

constexpr std::string_view kOldBook = R"({"currency":"EUR","models":[]})";
constexpr std::string_view kNewBook = R"({"currency":"CHF","models":[]})";

// Oracle: a row written by the older version, and SQLite's own word on what it looks rows up by.
TEST_P(AccountingTest, UpgradesFromEveryEarlierVersion) {
  const store::MigrationList all = LedgerMigrations();
  for (size_t from = 1; from <= all.migrations.size(); ++from) {
    accounting_.reset();
    database_.reset();
    if (GetParam() == store::Backend::kPostgresql) {
      database_options_.postgresql = *Postgresql()->MakeDatabase();
    } else {
      database_options_.file = folder_ / fmt::format("from-{}.db", from);
    }
    database_ = *store::Database::Open(database_options_, metrics_);
    const store::MigrationList part[] = {{all.floor, all.migrations.first(from)}};
    ASSERT_TRUE(database_->Migrate(part));
    ASSERT_TRUE(database_->Write([](store::Session& s) {
      return s
          .Execute(
              "INSERT INTO usage_rows VALUES ('row-1', 1, 2, 'req-1', 'o', 'w1', 'k1', '', 'm', 'sha', "
              "'completions', 0, 10, 0, 5, 0, 0, 0, 0, 0, 0, 7, 'done', '', 1, 3, 0, 'paid')")
          .map([](int64_t) {});
    }));
    // A budget of a version that knew no currencies, and the books of its time.
    for (const std::string& sql :
         {std::string(
              "INSERT INTO budgets (id, scope, organisation, period, amount_nanos, thresholds, block) "
              "VALUES ('bud-1', 'organisation:o', 'o', 'month', 5, '[50]', 1)"),
          std::string(
              "INSERT INTO notices (kind, organisation, subject, name, period_ms, threshold, limit_text, "
              "used_text, created_ms, next_ms, attempts, state, error) VALUES ('budget', 'o', 'bud-1', "
              "'organisation:o', 0, 50, '1.00', '0.50', 1, 1, 0, 'delivered', '')"),
          fmt::format("INSERT INTO price_books VALUES (1, 1, 'me', '{}')", kOldBook),
          fmt::format("INSERT INTO price_books VALUES (2, 2, 'me', '{}')", kNewBook)}) {
      ASSERT_TRUE(database_->Write([&](store::Session& s) { return s.Execute(sql).map([](int64_t) {}); }))
          << sql;
    }
    database_ = *store::Database::Open(database_options_, metrics_);
    const store::MigrationList lists[] = {all};
    ASSERT_TRUE(database_->Migrate(lists));
    Open();
    const auto row = accounting_->reports().FindRequest({}, "req-1");
    ASSERT_TRUE(row) << row.error().message;
    EXPECT_EQ(row->tokens.output, 5);
    const auto budget = accounting_->limiter().FindBudget("bud-1");
    ASSERT_TRUE(budget);
    EXPECT_EQ(budget->budget.currency, "CHF") << "of the book in force at the upgrade";
    EXPECT_EQ(CountOf("SELECT COUNT(*) FROM budgets WHERE currency = 'CHF'"), 1);
    EXPECT_EQ(CountOf("SELECT COUNT(*) FROM notices WHERE currency = ''"), 1);
    if (GetParam() != store::Backend::kSqlite) continue;
    for (const auto& [index, where] :
         {std::pair("usage_rows_by_version",
                    "organisation = 'o' AND model_version = 'sha' AND finished_ms > 1"),
          std::pair("usage_rows_by_workspace", "workspace = 'w1' AND finished_ms > 1"),
          std::pair("usage_rows_by_request", "request_id = 'req-1'")}) {
      const auto plan = database_->Get<store::Rows>([&](store::Session& s) {
        return s.Query(
            fmt::format("EXPLAIN QUERY PLAN SELECT output_tokens FROM usage_rows WHERE {}", where));
      });
      ASSERT_TRUE(plan);
      EXPECT_NE(plan->at(0).Text(3).find(index), std::string::npos) << plan->at(0).Text(3);
    }
  }
}

TEST(RealCost, IsAmortisationAndPower) {
  RealCost cost;
  cost.device_per_hour = *Money::Parse("0.36");
  cost.power_per_kwh = *Money::Parse("0.30");
  cost.power_watts = 400;
  EXPECT_EQ(cost.Of(3'600'000'000).ToString(), "0.48");  // 0.36 + 0.4 * 0.30
  EXPECT_EQ(cost.Of(1'000'000).ToString(), "0.000133333");
  EXPECT_EQ(cost.Margin({{"USD", *Money::Parse("1")}}, 3'600'000'000)->ToString(), "0.52");
  EXPECT_EQ(cost.Margin({}, 3'600'000'000)->ToString(), "-0.48");
  // A euro is no dollar.
  for (const Amounts& amounts : {Amounts{{"EUR", *Money::Parse("1")}},
                                 Amounts{{"EUR", *Money::Parse("1")}, {"USD", *Money::Parse("1")}}}) {
    EXPECT_EQ(cost.Margin(amounts, 3'600'000'000).error().code, "currencies_differ");
  }
}

INSTANTIATE_TEST_SUITE_P(Stores, AccountingTest,
                         ::testing::Values(store::Backend::kSqlite, store::Backend::kPostgresql),
                         [](const auto& param) {
                           return param.param == store::Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

}  // namespace
}  // namespace tidepool::platform
