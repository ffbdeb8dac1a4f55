// Is what is billed what was scheduled? Oracle: the simulated device's own count of each request, which knows
// nothing of meters.
#include "platform/inference/metering.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <condition_variable>
#include <future>
#include <mutex>
#include <random>
#include <thread>

#include "platform/inference/metering_rig.h"
#include "platform/inference/requests_in_flight.h"

namespace tidepool::platform {
namespace {

class MeteredSink final : public ChatSink {
 public:
  void OnRates(const RateState& state) override { rates = state; }
  void OnToken(int32_t, const compute::TokenEvent& event) override {
    tokens += static_cast<int64_t>(event.tokens.size());
    changed_.notify_all();
  }
  void OnFinish(int32_t, const compute::FinishEvent& event) override {
    finish = event;
    if (event.reason == compute::FinishReason::kError) failure = event.error;
  }
  void OnBilled(const Billed& came_to) override {
    EXPECT_FALSE(result) << "before the end";
    billed = came_to;
  }
  void OnDone(const Result<compute::Usage>& usage) override {
    const std::lock_guard lock(mutex_);
    result = usage;
    if (at_done) at_done();
    changed_.notify_all();
  }
  bool Wait() {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(60), [&] { return result.has_value(); });
  }
  void WaitForTokens(int64_t count) {
    std::unique_lock lock(mutex_);
    while (tokens < count && !result) changed_.wait_for(lock, std::chrono::milliseconds(5));
  }
  std::atomic<int64_t> tokens{0};
  RateState rates;
  std::optional<Billed> billed;
  std::optional<Error> failure;  // of a choice
  compute::FinishEvent finish;
  std::optional<Result<compute::Usage>> result;
  std::function<void()> at_done;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
};

class MeteringTest : public ::testing::Test {
 protected:
  void Start(MeteringRig::Options options = {}) {
    options.accounting.ledger.post_after_ms = 2;
    rig_ = std::make_unique<MeteringRig>(std::move(options));
  }
  static ChatRequest Ask(int32_t tag, const std::string& script, std::optional<int64_t> max_tokens = 200) {
    ChatRequest request;
    request.request_id = fmt::format("t{}", tag);
    request.model = "scripted";
    request.messages = nlohmann::ordered_json::array(
        {{{"role", "user"}, {"content", fmt::format("[[count:{}]]{}", tag, script)}}});
    request.sampling.max_tokens = max_tokens;
    request.principal.organisation = "org";
    request.principal.workspace = "ws";
    request.principal.key = "key-1";
    return request;
  }
  std::shared_ptr<MeteredSink> Run(ChatRequest request) {
    auto sink = std::make_shared<MeteredSink>();
    auto generation = rig_->inference->Chat(std::move(request), sink);
    EXPECT_TRUE(generation) << (generation ? "" : generation.error().message);
    if (generation) {
      EXPECT_TRUE(sink->Wait());
    }
    return sink;
  }
  UsageRow Row(const std::string& request_id) {
    EXPECT_TRUE(rig_->accounting->ledger().Flush(10));
    const auto row = rig_->accounting->reports().FindRequest({}, request_id);
    EXPECT_TRUE(row) << request_id;
    return row ? *row : UsageRow{};
  }
  int64_t Rows() {
    EXPECT_TRUE(rig_->accounting->ledger().Flush(10));
    return rig_->accounting->reports().Usage({}, GroupBy::kNone, "", 1)->items.at(0).sums.requests;
  }
  std::unique_ptr<MeteringRig> rig_;
};

TEST_F(MeteringTest, AnAnswerIsBilledAsTheDeviceComputedIt) {
  Start({.device = {.memory_bytes = 1 << 30, .step_base_s = 0.001, .step_per_token_s = 0, .tally_file = ""}});
  const auto sink = Run(Ask(1, "[[think:hm]][[tokens:40]]"));
  ASSERT_TRUE(*sink->result);
  const UsageRow row = Row("t1");
  const chips::TallyEntry truth = rig_->Tally(1);
  EXPECT_EQ(row.tokens.output, truth.sampled);
  EXPECT_EQ(row.tokens.prompt + row.tokens.output - 1, truth.positions);
  EXPECT_EQ(row.tokens.prompt, (**sink->result).prompt_tokens);
  EXPECT_EQ(row.tokens.output, (**sink->result).completion_tokens);
  EXPECT_EQ(row.tokens.reasoning, (**sink->result).reasoning_tokens);
  EXPECT_GT(row.tokens.reasoning, 0);
  EXPECT_EQ(row.status, UsageStatus::kDone);
  EXPECT_EQ(row.payer, (Payer{"org", "ws", "key-1", ""}));
  EXPECT_EQ(row.model_version, "builtin:scripted");
  EXPECT_GE(row.device_us, 40 * 1000);
  EXPECT_GE(row.prefill_ms + row.decode_ms, 40);
  EXPECT_EQ(row.free_tokens, row.tokens.total());
  ASSERT_TRUE(sink->billed) << "the sink is told what the row says";
  EXPECT_EQ(sink->billed->amount_nanos, row.amount_nanos);
  EXPECT_EQ(sink->billed->billing, row.billing);
  EXPECT_EQ(sink->billed->free_tokens, row.free_tokens);
  EXPECT_EQ(sink->billed->currency, "USD");
}

// A crash at this moment must find the row: it is on disk before the sink hears of the end.
TEST_F(MeteringTest, TheEndIsToldOnlyWhenTheRowIsOnDisk) {
  Start();
  auto sink = std::make_shared<MeteredSink>();
  bool on_disk = false;
  sink->at_done = [&] {
    for (const auto& entry : std::filesystem::directory_iterator(rig_->folder() / "ledger")) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
      const std::string name = entry.path().filename().string();
      for (const JournalEntry& e : ParseSegment(std::stoull(name.substr(8), nullptr, 16), bytes))
        on_disk = on_disk || (e.kind == JournalEntry::Kind::kClose && e.row.request_id == "t1");
    }
    // Or it has been posted already.
    on_disk = on_disk || rig_->accounting->reports().FindRequest({}, "t1").has_value();
  };
  const auto generation = rig_->inference->Chat(Ask(1, "[[tokens:5]]"), sink);
  ASSERT_TRUE(generation);
  ASSERT_TRUE(sink->Wait());
  EXPECT_TRUE(on_disk);
}

TEST_F(MeteringTest, ACancelIsBilledUntilItTookEffect) {
  Start({.device = {.memory_bytes = 1 << 30, .step_base_s = 0.001, .step_per_token_s = 0, .tally_file = ""}});
  for (int32_t tag = 1; tag <= 20; ++tag) {
    auto sink = std::make_shared<MeteredSink>();
    const auto generation = rig_->inference->Chat(Ask(tag, "[[tokens:190]]"), sink);
    ASSERT_TRUE(generation);
    sink->WaitForTokens(tag * 3);
    (*generation)->Cancel();
    ASSERT_TRUE(sink->Wait());
    const UsageRow row = Row(fmt::format("t{}", tag));
    const chips::TallyEntry truth = rig_->Tally(tag);
    EXPECT_EQ(row.status, UsageStatus::kCancelled);
    EXPECT_EQ(row.tokens.output, truth.sampled);
    EXPECT_GE(row.tokens.output, tag * 3);
    EXPECT_EQ(row.tokens.prompt + row.tokens.output - 1, truth.positions);
  }
}

TEST_F(MeteringTest, WhatRunsIsListedAndStoppedAndIsBilledUntilThen) {
  Start({.device = {.memory_bytes = 1 << 30, .step_base_s = 0.002, .step_per_token_s = 0, .tally_file = ""}});
  RequestsInFlight& in_flight = *rig_->inference->in_flight();
  const auto any = [](const RequestInFlight&) { return true; };
  ASSERT_TRUE(in_flight.List(any, 10).empty());
  auto stopped = std::make_shared<MeteredSink>(), other = std::make_shared<MeteredSink>();
  const auto first = rig_->inference->Chat(Ask(1, "[[tokens:4000]]", 4000), stopped);
  ChatRequest elsewhere = Ask(2, "[[tokens:4000]]", 4000);
  elsewhere.principal.workspace = "other";
  const auto second = rig_->inference->Chat(std::move(elsewhere), other);
  ASSERT_TRUE(first && second);
  stopped->WaitForTokens(5);
  other->WaitForTokens(5);
  size_t all = 0;
  ASSERT_EQ(in_flight.List(any, 1, &all).size(), 1u);
  EXPECT_EQ(all, 2u);
  const auto mine = [](const RequestInFlight& one) { return one.workspace == "ws"; };
  const std::vector<RequestInFlight> listed = in_flight.List(mine, 10);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].request_id, "t1");
  EXPECT_EQ(listed[0].key, "key-1");
  EXPECT_EQ(listed[0].model, "scripted");
  EXPECT_EQ(listed[0].endpoint, "chat.completions");
  EXPECT_EQ(listed[0].phase, compute::ProgressEvent::Phase::kDecode);
  EXPECT_GE(listed[0].output_tokens, 5);
  EXPECT_GT(listed[0].prompt_tokens, 0);
  EXPECT_GT(listed[0].age_s, 0);

  ASSERT_EQ(in_flight.Stop(mine).size(), 1u);
  ASSERT_TRUE(stopped->Wait());
  const UsageRow row = Row("t1");
  EXPECT_EQ(row.status, UsageStatus::kCancelled);
  EXPECT_EQ(row.tokens.output, rig_->Tally(1).sampled);
  EXPECT_EQ(row.tokens.prompt, listed[0].prompt_tokens);
  ASSERT_TRUE(stopped->failure) << "its client is told why";
  EXPECT_EQ(stopped->failure->code, "request_stopped");
  EXPECT_FALSE(other->result) << "others go on";
  ASSERT_EQ(in_flight.List(any, 10).size(), 1u);
  EXPECT_EQ(in_flight.List(any, 10)[0].request_id, "t2");
  (*second)->Cancel();
  ASSERT_TRUE(other->Wait());
  EXPECT_FALSE(other->failure) << "a client that leaves stops nothing of others";
  EXPECT_TRUE(in_flight.List(any, 10).empty());
}

TEST_F(MeteringTest, AFailureIsMeteredAndWaived) {
  Start();
  const auto sink = Run(Ask(1, "[[tokens:50]][[fail_after:10]]"));
  const UsageRow row = Row("t1");
  EXPECT_EQ(row.status, UsageStatus::kError);
  EXPECT_EQ(row.error_code, "model_failed");
  EXPECT_EQ(row.tokens.output, rig_->Tally(1).sampled);
  EXPECT_EQ(row.amount_nanos, 0);
}

TEST_F(MeteringTest, ChoicesShareOnePromptAndOneRow) {
  Start();
  ChatRequest request = Ask(1, "[[tokens:20]]");
  request.sampling.n = 3;
  const auto sink = Run(request);
  ASSERT_TRUE(*sink->result);
  const UsageRow row = Row("t1");
  EXPECT_EQ(row.tokens.output, rig_->Tally(1).sampled);
  EXPECT_EQ(row.tokens.output, (**sink->result).completion_tokens);
  EXPECT_EQ(row.tokens.prompt, (**sink->result).prompt_tokens);
  EXPECT_EQ(Rows(), 1);
}

TEST_F(MeteringTest, ARepeatedPromptIsMarkedAsCached) {
  Start();
  const std::string text(600, 'x');
  Run(Ask(1, "[[tokens:2]]" + text));
  ChatRequest again = Ask(1, "[[tokens:2]]" + text);
  again.request_id = "again";
  const auto sink = Run(again);
  const UsageRow row = Row("again");
  EXPECT_GT(row.tokens.cached, 500);
  EXPECT_LT(row.tokens.cached, row.tokens.prompt);
  EXPECT_EQ(row.tokens.cached, (**sink->result).cached_tokens);
  EXPECT_EQ(Row("t1").tokens.prompt, row.tokens.prompt);
}

// Time would tell what another workspace has asked: there must be no hit to time. The device takes 50 us for
// each token that it computes, so a prompt that takes as long as its tokens was computed whole.
TEST_F(MeteringTest, AnotherWorkspacesPromptIsComputedAgain) {
  Start({.device = {.memory_bytes = 1 << 30, .step_base_s = 0, .step_per_token_s = 50e-6, .tally_file = ""}});
  const auto ask = [&](const std::string& workspace, const std::string& id) {
    ChatRequest request = Ask(1, "[[tokens:2]]" + std::string(600, 'x'));
    request.principal.workspace = workspace;
    request.request_id = id;
    Run(request);
    return Row(id);
  };
  const UsageRow first = ask("ws", "first");
  const UsageRow foreign = ask("another", "foreign");
  EXPECT_EQ(foreign.tokens.cached, 0);
  EXPECT_EQ(foreign.tokens.prompt, first.tokens.prompt);
  EXPECT_GE(foreign.device_us, first.tokens.prompt * 50);
  EXPECT_GT(ask("ws", "again").tokens.cached, 500) << "one's own is found";
}

TEST_F(MeteringTest, EmbeddingsAreBilledByTheirPrompts) {
  Start();
  EmbeddingRequest request;
  request.request_id = "e1";
  request.model = "scripted";
  for (const char* text : {"[[count:5]] one", "[[count:6]] two two"})
    request.inputs.push_back({.text = text, .tokens = {}});
  request.principal.organisation = "org";
  std::promise<Result<EmbeddingReply>> reply;
  const auto running =
      rig_->inference->Embed(request, [&](Result<EmbeddingReply> r) { reply.set_value(std::move(r)); });
  ASSERT_TRUE(running) << running.error().message;
  const auto got = reply.get_future().get();
  ASSERT_TRUE(got) << got.error().message;
  const UsageRow row = Row("e1");
  EXPECT_EQ(row.tokens.prompt, got->prompt_tokens);
  EXPECT_EQ(row.tokens.prompt, rig_->Tally(5).positions + rig_->Tally(6).positions);
  EXPECT_EQ(row.tokens.output, 0);
  EXPECT_EQ(row.endpoint, "embeddings");
}

TEST_F(MeteringTest, EmbeddingsTellWhatLimitsHaveLeft) {
  Start();
  ASSERT_TRUE(rig_->accounting->SetLimit({}, {.scope = {ScopeKind::kOrganisation, "org"},
                                              .organisation = "org",
                                              .requests_per_minute = 2,
                                              .tokens_per_minute = 50}));
  EmbeddingRequest request;
  request.model = "scripted";
  request.inputs.push_back({.text = "[[count:5]] one", .tokens = {}});
  request.principal.organisation = "org";
  // Admitted; refused for what it wants, once it is tokenized; refused at once, for what others took.
  for (const auto& [words, remaining, code] : std::vector<std::tuple<int, int64_t, std::string>>{
           {0, 1, ""}, {60, 1, "request_exceeds_limit"}, {0, 0, ""}, {0, 0, "rate_limit_exceeded"}}) {
    request.inputs[0].text = "[[count:5]] one";
    for (int i = 0; i < words; ++i) request.inputs[0].text += " more";
    request.rates = std::make_shared<RateState>();
    std::promise<Result<EmbeddingReply>> reply;
    const auto running =
        rig_->inference->Embed(request, [&](Result<EmbeddingReply> r) { reply.set_value(std::move(r)); });
    const auto got = running ? reply.get_future().get() : Result<EmbeddingReply>(Fail(running.error()));
    EXPECT_EQ(got ? "" : got.error().code, code);
    ASSERT_TRUE(request.rates->requests) << code;
    EXPECT_EQ(request.rates->requests->limit, 2);
    EXPECT_EQ(request.rates->requests->remaining, remaining) << code;
    EXPECT_TRUE(request.rates->tokens);
  }
}

TEST_F(MeteringTest, LimitsRefuseAndLower) {
  Start();
  ASSERT_TRUE(rig_->accounting->SetLimit({}, {.scope = {ScopeKind::kKey, "key-1"},
                                              .organisation = "org",
                                              .requests_per_minute = 2,
                                              .max_output_tokens = 7}));
  auto sink = Run(Ask(1, "[[tokens:100]]", std::nullopt));  // its client named no maximum
  ASSERT_TRUE(*sink->result);
  EXPECT_EQ((**sink->result).completion_tokens, 7);
  ASSERT_TRUE(sink->rates.requests);
  EXPECT_EQ(sink->rates.requests->limit, 2);
  EXPECT_EQ(sink->rates.requests->remaining, 1);
  sink = std::make_shared<MeteredSink>();
  auto refused = rig_->inference->Chat(Ask(2, "[[tokens:100]]", 8), sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "max_output_limit_exceeded");
  Run(Ask(3, "[[tokens:3]]", 5));
  refused = rig_->inference->Chat(Ask(4, "[[tokens:3]]", 5), sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "rate_limit_exceeded");
  EXPECT_EQ(Rows(), 2);
  EXPECT_EQ(rig_->Tally(2).positions + rig_->Tally(4).positions, 0u);  // nothing was computed for them
}

// account -> catalogue -> tokenize -> ledger: what is not there, or cannot be asked so, is no refusal of a
// limit.
TEST_F(MeteringTest, TheCatalogueIsAskedBeforeTheLedger) {
  Start();
  ASSERT_TRUE(rig_->accounting->SetLimit(
      {}, {.scope = {ScopeKind::kKey, "key-1"}, .organisation = "org", .requests_per_minute = 0}));
  Limiter& limiter = rig_->accounting->ledger().limiter();
  ChatRequest request = Ask(1, "[[tokens:3]]", 5);
  request.model = "no-such-model";
  const auto sink = std::make_shared<MeteredSink>();
  auto refused = rig_->inference->Chat(request, sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "model_not_found");
  EXPECT_EQ(refused.error().kind, ErrorKind::kNotFound);
  EXPECT_FALSE(sink->rates.requests);
  EmbeddingRequest embedding;
  embedding.model = "no-such-model";
  embedding.inputs.push_back({.text = "a", .tokens = {}});
  embedding.principal = request.principal;
  embedding.rates = std::make_shared<RateState>();
  EXPECT_EQ(rig_->inference->Embed(embedding, [](auto&&) {}).error().code, "model_not_found");
  EXPECT_FALSE(embedding.rates->requests);
  EXPECT_TRUE(limiter.TakeRefusals(/*flush=*/true).empty());
  EXPECT_TRUE(limiter.quotas("org").empty()) << "nothing was granted for a name that is nobody's";
  // The same key for a model that there is: the ledger's refusal, counted once.
  request.model = "scripted";
  refused = rig_->inference->Chat(request, sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, "rate_limit_exceeded");
  const auto counted = limiter.TakeRefusals(/*flush=*/true);
  ASSERT_EQ(counted.size(), 1u);
  EXPECT_EQ(counted[0].count, 1);
  EXPECT_EQ(counted[0].model, "scripted");
  EXPECT_EQ(Rows(), 0);
  // Nothing was reserved by any of them.
  ASSERT_TRUE(rig_->accounting->RemoveLimit({}, {ScopeKind::kKey, "key-1"}, "*"));
  ASSERT_TRUE(rig_->accounting->SetLimit({}, {.scope = {ScopeKind::kKey, "key-1"},
                                              .organisation = "org",
                                              .requests_per_minute = 1,
                                              .concurrent_requests = 1}));
  request.model = "no-such-model";
  EXPECT_FALSE(rig_->inference->Chat(request, sink));
  EXPECT_TRUE(*Run(Ask(2, "[[tokens:3]]", 5))->result);
}

TEST_F(MeteringTest, ARefusedSubmissionCostsNothing) {
  Start();
  // Longer than the context: the ledger admits, the engine refuses, everything goes back.
  auto sink = std::make_shared<MeteredSink>();
  const auto refused = rig_->inference->Chat(Ask(1, std::string(9000, 'x'), 10), sink);
  ASSERT_FALSE(refused);
  EXPECT_EQ(Rows(), 0);
}

// Section 3 of the contract through the whole: 200 at once against a quota for ten.
TEST_F(MeteringTest, TwoHundredAtOnceAgainstAQuotaForTen) {
  // A prompt of [[count:N]] with N of four digits: its tokens are found by a first request of another
  // account.
  MeteringRig::Options options;
  options.device.step_base_s = 0.0005;
  Start(std::move(options));
  ChatRequest probe = Ask(1000, "[[tokens:9]]", 10);
  probe.principal.organisation = "other";
  const auto probed = Run(probe);
  const int64_t each = (**probed->result).prompt_tokens + 10;
  FreeQuota quota{.organisation = "org",
                  .model_version = "builtin:scripted",
                  .model = "scripted",
                  .total = each * 10,
                  .used = 0,
                  .granted_ms = 1,
                  .expires_ms = INT64_MAX,
                  .stop_when_exhausted = true};
  ASSERT_TRUE(rig_->accounting->SetQuota({}, quota));
  std::vector<std::shared_ptr<MeteredSink>> sinks;
  std::vector<std::shared_ptr<Generation>> running;
  int refused = 0;
  for (int32_t i = 0; i < 200; ++i) {
    auto sink = std::make_shared<MeteredSink>();
    auto generation = rig_->inference->Chat(Ask(2000 + i, "[[tokens:9]]", 10), sink);
    if (generation) {
      running.push_back(*generation);
      sinks.push_back(sink);
    } else {
      EXPECT_EQ(generation.error().code, "quota_exhausted");
      ++refused;
    }
  }
  EXPECT_GE(running.size(), 10u);  // those that end early give nothing back: each uses all it reserved
  for (const auto& sink : sinks) ASSERT_TRUE(sink->Wait());
  EXPECT_EQ(running.size(), 10u);
  EXPECT_EQ(refused, 190);
}

// Drafts change when tokens come and nothing of what is owed. Oracles: the same requests without drafts, and,
// for those that their clients left, what the clients were sent.
TEST_F(MeteringTest, WhatIsOwedIsTheSameWithDrafts) {
  std::string verse;
  for (int i = 0; i < 30; ++i) verse += "the tide comes in, the tide goes out; ";
  const auto start = [&](bool drafts) {
    MeteringRig::Options options;
    options.device = {.memory_bytes = 1 << 30, .step_base_s = 0.001, .step_per_token_s = 0, .tally_file = ""};
    options.speculation = drafts;
    Start(std::move(options));
  };
  std::vector<std::array<int64_t, 3>> rows[2];
  for (const bool drafts : {false, true}) {
    start(drafts);
    // Whole; cut in the middle of what repeats; ended by a stop string there; again, from the cache.
    for (int32_t tag = 1; tag <= 12; ++tag) {
      ChatRequest request = Ask(tag, "[[say:" + verse + "]]", tag % 3 == 1 ? 2000 : 300 + 7 * tag);
      if (tag % 3 == 2) request.sampling.stop = {verse.substr(400, 30 + static_cast<size_t>(tag))};
      const auto sink = Run(request);
      ASSERT_TRUE(*sink->result);
      const UsageRow row = Row(request.request_id);
      EXPECT_EQ(row.tokens.output, (**sink->result).completion_tokens);
      EXPECT_LE(row.tokens.output, *request.sampling.max_tokens);
      rows[drafts].push_back({row.tokens.prompt, row.tokens.cached, row.tokens.output});
    }
    const auto metric = [&](const std::string& name) {
      const std::string text = rig_->metrics.Serialize();
      const size_t at = text.find("\n" + name);
      return at == std::string::npos ? 0.0 : std::stod(text.substr(text.find(' ', at + 1)));
    };
    EXPECT_EQ(metric("tidepool_drafted_tokens_total") > 0, drafts) << "this shows nothing";
  }
  EXPECT_EQ(rows[0], rows[1]);
  for (int32_t tag = 21; tag <= 28; ++tag) {
    auto sink = std::make_shared<MeteredSink>();
    const auto generation = rig_->inference->Chat(Ask(tag, "[[say:" + verse + verse + "]]", 4000), sink);
    ASSERT_TRUE(generation);
    sink->WaitForTokens(40 * (tag - 20));
    (*generation)->Cancel();
    ASSERT_TRUE(sink->Wait());
    const UsageRow row = Row(fmt::format("t{}", tag));
    EXPECT_EQ(row.status, UsageStatus::kCancelled);
    EXPECT_EQ(row.tokens.output, sink->tokens);
    EXPECT_GE(rig_->Tally(tag).sampled, row.tokens.output);
  }
}

// A prompt of twelve chunks, left after some of them: what was computed of it is owed, and no more.
TEST_F(MeteringTest, ACancelDuringPrefillIsBilledForThePromptTokensThatWereComputed) {
  Start({.device = {.memory_bytes = 1 << 30, .step_base_s = 0.01, .step_per_token_s = 0, .tally_file = ""}});
  constexpr int32_t kPromptBytes = 6000;
  for (int32_t tag = 1; tag <= 5; ++tag) {
    auto sink = std::make_shared<MeteredSink>();
    // Nothing is shared with the prompts before: a hit in the cache is no computing.
    const std::string text(kPromptBytes, static_cast<char>('a' + tag));
    const auto generation = rig_->inference->Chat(Ask(tag, text), sink);
    ASSERT_TRUE(generation);
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (rig_->Tally(tag).positions < static_cast<uint32_t>(tag) * 600 &&
           std::chrono::steady_clock::now() < until)
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    (*generation)->Cancel();
    ASSERT_TRUE(sink->Wait());
    const UsageRow row = Row(fmt::format("t{}", tag));
    const chips::TallyEntry truth = rig_->Tally(tag);
    EXPECT_EQ(row.status, UsageStatus::kCancelled);
    EXPECT_EQ(truth.sampled, 0u) << "it was to be cancelled before its first token";
    EXPECT_EQ(row.tokens.output, 0);
    EXPECT_EQ(row.tokens.prompt, truth.positions);
    EXPECT_GE(row.tokens.prompt, tag * 600);
    EXPECT_LT(row.tokens.prompt, kPromptBytes);
    EXPECT_GT(row.device_us, 0);
    EXPECT_EQ(row.free_tokens, row.tokens.total());
  }
}

TEST_F(MeteringTest, ManyAtOnceWithCancelsAreBilledToTheToken) {
  Start(
      {.device = {.memory_bytes = 1 << 30, .step_base_s = 0.0005, .step_per_token_s = 0, .tally_file = ""}});
  std::mt19937 random(3);
  struct One {
    std::shared_ptr<MeteredSink> sink;
    std::shared_ptr<Generation> generation;
    bool cancel;
  };
  std::vector<One> all;
  constexpr int32_t kRequests = 300;
  for (int32_t tag = 0; tag < kRequests; ++tag) {
    One one{std::make_shared<MeteredSink>(), nullptr, random() % 4 == 0};
    ChatRequest request = Ask(tag, fmt::format("[[tokens:{}]]", 1 + random() % 60));
    request.principal.key = fmt::format("key-{}", tag % 10);
    auto generation = rig_->inference->Chat(std::move(request), one.sink);
    ASSERT_TRUE(generation) << generation.error().message;
    one.generation = *generation;
    all.push_back(std::move(one));
    if (tag % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (tag > 20 && all[static_cast<size_t>(tag - 20)].cancel)
      all[static_cast<size_t>(tag - 20)].generation->Cancel();
  }
  for (const One& one : all) ASSERT_TRUE(one.sink->Wait());
  std::map<std::string, int64_t> billed, computed;
  for (int32_t tag = 0; tag < kRequests; ++tag) {
    const UsageRow row = Row(fmt::format("t{}", tag));
    const chips::TallyEntry truth = rig_->Tally(tag);
    ASSERT_EQ(row.tokens.output, truth.sampled) << tag;
    billed[row.payer.key] += row.tokens.output;
    computed[row.payer.key] += truth.sampled;
  }
  EXPECT_EQ(billed, computed);
  EXPECT_EQ(billed.size(), 10u);
  EXPECT_EQ(Rows(), kRequests);
}

// Oracle: what the engine counted of its steps, by model, which knows nothing of requests.
TEST_F(MeteringTest, DeviceSecondsOfTheRowsAreTheEnginesBusyTime) {
  const std::vector<std::string> models = {"scripted", "second", "third"};
  MeteringRig::Options options;
  options.device.step_base_s = 0.0005;
  options.device.step_per_token_s = 2e-6;
  options.models = models;
  Start(std::move(options));
  std::mt19937 random(5);
  struct One {
    std::shared_ptr<MeteredSink> sink;
    std::shared_ptr<Generation> generation;
    bool cancel;
  };
  std::vector<One> all;
  constexpr int32_t kRequests = 150;
  for (int32_t tag = 0; tag < kRequests; ++tag) {
    One one{std::make_shared<MeteredSink>(), nullptr, random() % 4 == 0};
    ChatRequest request =
        Ask(tag, fmt::format("[[tokens:{}]]{}", 1 + random() % 60,
                             std::string(random() % 900, static_cast<char>('a' + tag % 26))));
    request.model = models[random() % models.size()];
    request.principal.organisation = fmt::format("org-{}", tag % 2);
    request.principal.workspace = fmt::format("ws-{}", tag % 4);
    request.principal.key = fmt::format("key-{}", tag % 8);
    request.principal.account = fmt::format("{}/{}/{}", request.principal.organisation,
                                            request.principal.workspace, request.principal.key);
    auto generation = rig_->inference->Chat(std::move(request), one.sink);
    ASSERT_TRUE(generation) << generation.error().message;
    one.generation = *generation;
    all.push_back(std::move(one));
    if (tag % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
    if (tag >= 5 && all[static_cast<size_t>(tag - 5)].cancel)
      all[static_cast<size_t>(tag - 5)].generation->Cancel();
  }
  std::map<std::string, double> charged;
  std::map<std::string, int64_t> rows;
  int cancelled = 0;
  for (int32_t tag = 0; tag < kRequests; ++tag) {
    const MeteredSink& sink = *all[static_cast<size_t>(tag)].sink;
    ASSERT_TRUE(all[static_cast<size_t>(tag)].sink->Wait());
    const UsageRow row = Row(fmt::format("t{}", tag));
    charged[row.model] += static_cast<double>(row.device_us) * 1e-6;
    ++rows[row.model];
    cancelled += row.status == UsageStatus::kCancelled ? 1 : 0;
    // What the engine said of its times is what the row says, in whole milliseconds.
    const auto milliseconds = [](double seconds) { return std::llround(seconds * 1000); };
    EXPECT_EQ(row.queue_ms, milliseconds(sink.finish.queue_s)) << tag;
    EXPECT_EQ(row.load_ms, milliseconds(sink.finish.load_s)) << tag;
    EXPECT_EQ(row.prefill_ms, milliseconds(sink.finish.prefill_s)) << tag;
    EXPECT_EQ(row.decode_ms, milliseconds(sink.finish.decode_s)) << tag;
    EXPECT_EQ(row.stall_ms, milliseconds(sink.finish.stall_s)) << tag;
    EXPECT_NEAR(static_cast<double>(row.device_us), sink.finish.device_s * 1e6, 1.0) << tag;
  }
  EXPECT_GT(cancelled, 5) << "this shows little";
  const std::string text = rig_->metrics.Serialize();
  for (const std::string& model : models) {
    const std::string name = fmt::format("\ntidepool_step_seconds_sum{{model=\"{}\"}} ", model);
    const size_t at = text.find(name);
    ASSERT_NE(at, std::string::npos) << model;
    const double busy = std::stod(text.substr(at + name.size(), 40));
    EXPECT_GT(busy, 0.01);
    EXPECT_GT(rows[model], 20);
    // A row is cut to whole microseconds.
    EXPECT_NEAR(charged[model], busy, 1e-6 * static_cast<double>(rows[model] + 1)) << model;
  }
}

TEST(ModelVersion, IsTheWeightsAndNotTheName) {
  StoredModel model;
  model.id = "a:1";
  model.files = {{"model.gguf", "aa", 1}, {"README.md", "bb", 1}};
  StoredModel alias = model;
  alias.id = "b:2";
  alias.files = {{"other-name.gguf", "aa", 1}};
  EXPECT_EQ(ModelVersion(model), ModelVersion(alias));
  alias.files[0].sha256 = "cc";
  EXPECT_NE(ModelVersion(model), ModelVersion(alias));
  StoredModel split;
  split.files = {{"model-2.safetensors", "y", 1}, {"model-1.safetensors", "x", 1}};
  StoredModel other;
  other.files = {{"a.safetensors", "x", 1}, {"b.safetensors", "y", 1}, {"config.json", "z", 1}};
  EXPECT_EQ(ModelVersion(split), ModelVersion(other));
}

}  // namespace
}  // namespace tidepool::platform
