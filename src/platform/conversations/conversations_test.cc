// Conversations over both backends of the store, with an inference whose answers the test gives piece by
// piece. Oracles: the header's promises; for events the text that a reader puts together from a snapshot and
// the events after it.
#include "platform/conversations/conversations.h"

#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <mutex>
#include <random>
#include <thread>

#include "base/ids.h"
#include "platform/store/testing/postgresql_server.h"

namespace tidepool::platform {
namespace {

using store::Backend;

// One answer, to be driven by the test.
struct Answer {
  ChatRequest request;
  std::shared_ptr<ChatSink> sink;
  std::atomic<bool> cancelled{false};

  void Say(std::string_view content, std::string_view reasoning = {}) {
    compute::TokenEvent event;
    const int32_t token = 1;
    event.tokens = {&token, 1};
    event.content = content;
    event.reasoning = reasoning;
    sink->OnToken(0, event);
  }
  std::optional<Billed> billed;
  void End(compute::FinishReason reason = compute::FinishReason::kStop, Error error = {}) {
    compute::FinishEvent event;
    event.reason = reason;
    event.usage = {10, 4, 3, 1};
    event.error = std::move(error);
    event.decode_s = 0.5;
    sink->OnFinish(0, event);
    if (billed) sink->OnBilled(*billed);
    sink->OnDone(event.usage);
    sink.reset();
  }
};

class TestInference final : public Inference {
 public:
  class Running final : public Generation {
   public:
    explicit Running(std::shared_ptr<Answer> answer) : answer_(std::move(answer)) {}
    ~Running() override { Cancel(); }
    void Cancel() override {
      if (answer_->cancelled.exchange(true) || answer_->sink == nullptr) return;
      answer_->End(compute::FinishReason::kCancelled);
    }
    void SetPaused(bool) override {}

   private:
    const std::shared_ptr<Answer> answer_;
  };

  Result<std::shared_ptr<Generation>> Chat(ChatRequest request, std::shared_ptr<ChatSink> sink) override {
    if (fail_next) return Fail(*std::exchange(fail_next, std::nullopt));
    auto answer = std::make_shared<Answer>();
    answer->request = std::move(request);
    answer->sink = std::move(sink);
    answers.push_back(answer);
    return std::make_shared<Running>(answer);
  }
  Status CheckChat(const ChatRequest&) override { return refuse ? Status(Fail(*refuse)) : Status(); }
  Result<DeploymentStatus> Find(std::string_view model) const override {
    if (on_find) std::exchange(on_find, nullptr)();
    DeploymentStatus status;
    status.id = model;
    status.context_length = context_length;
    return status;
  }
  // One token a byte and ten a message.
  Result<std::vector<int32_t>> TokenizeChat(const ChatRequest& request) override {
    ++tokenized;
    size_t tokens = 0;
    for (const auto& message : request.messages) tokens += 10 + message["content"].get<std::string>().size();
    return std::vector<int32_t>(tokens);
  }
  Status AddScripted(chips::SimulatedDevice&, std::string, int32_t) override { return {}; }
  Result<std::shared_ptr<Generation>> Complete(CompletionRequest, std::shared_ptr<ChatSink>) override {
    return Fail(ErrorKind::kInternal, "unused", "");
  }
  Result<std::shared_ptr<Generation>> Embed(EmbeddingRequest,
                                            std::function<void(Result<EmbeddingReply>)>) override {
    return Fail(ErrorKind::kInternal, "unused", "");
  }
  void Load(const std::string&, std::function<void(Status)>) override {}
  Status Unload(const std::string&, bool) override { return {}; }
  std::vector<DeploymentStatus> List() const override { return {}; }
  Status Remove(const std::string&) override { return {}; }
  Result<std::vector<int32_t>> Tokenize(const std::string&, std::string_view, bool, bool) override {
    return std::vector<int32_t>();
  }
  Result<std::string> Detokenize(const std::string&, std::span<const int32_t>) override {
    return std::string();
  }
  Result<std::shared_ptr<Generation>> Rerank(RerankRequest,
                                             std::function<void(Result<RerankReply>)>) override {
    return Fail(ErrorKind::kInternal, "unused", "");
  }
  Result<ModelDescription> Describe(const std::string&) override {
    return Fail(ErrorKind::kInternal, "unused", "");
  }
  TokenTexts FindTokenTexts(const std::string&) const override {
    return [](int32_t) { return std::string(); };
  }

  Answer& last() { return *answers.back(); }

  std::vector<std::shared_ptr<Answer>> answers;
  std::optional<Error> fail_next;         // by Chat
  std::optional<Error> refuse;            // by CheckChat
  mutable std::function<void()> on_find;  // once, in the next Find
  int tokenized = 0;
  int32_t context_length = 100'000;
};

// Puts a conversation together as a page does.
class Reader final : public ConversationListener {
 public:
  explicit Reader(const ConversationWithTurns& start) {
    for (const Turn& turn : start.turns) turns_[turn.id] = turn;
    sequence_ = start.sequence;
  }
  void OnEvent(const ConversationEvent& event) override {
    const std::lock_guard lock(mutex_);
    if (event.kind == ConversationEvent::Kind::kReload) reload_ = true;
    EXPECT_TRUE(event.sequence > sequence_ || event.kind == ConversationEvent::Kind::kReload);
    sequence_ = event.sequence;
    if (event.turn) turns_[event.turn->id] = *event.turn;
    if (event.kind == ConversationEvent::Kind::kDelta) {
      turns_[event.turn_id].content += event.content;
      turns_[event.turn_id].reasoning += event.reasoning;
    }
    changed_.notify_all();
  }
  void OnEnd() override {
    const std::lock_guard lock(mutex_);
    ended_ = true;
    changed_.notify_all();
  }
  Turn Await(const std::string& id, TurnState state) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, std::chrono::seconds(20), [&] { return turns_[id].state == state; }));
    return turns_[id];
  }
  Turn Now(const std::string& id) {
    const std::lock_guard lock(mutex_);
    return turns_[id];
  }
  bool reload() {
    const std::lock_guard lock(mutex_);
    return reload_;
  }
  bool ended() {
    const std::lock_guard lock(mutex_);
    return ended_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Turn> turns_;
  uint64_t sequence_ = 0;
  bool reload_ = false, ended_ = false;
};

NewTurn Following(std::string parent, std::optional<std::string> content = {}) {
  NewTurn turn;
  turn.parent = std::move(parent);
  turn.content = std::move(content);
  return turn;
}

class ConversationsTest : public ::testing::TestWithParam<Backend> {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / RandomId("tidepool-conversations-", 8);
    std::filesystem::create_directories(folder_);
    ASSERT_NO_FATAL_FAILURE(FreshStore("store.db"));
    ann_.member = "usr-ann";
    bob_.member = "usr-bob";
    Open();
  }
  // An empty one, for the next Open.
  void FreshStore(const std::string& name) {
    conversations_.reset();
    database_.reset();
    if (GetParam() == Backend::kSqlite) {
      database_options_.file = folder_ / name;
      return;
    }
    static auto server = store::PostgresqlServer::Start();
    ASSERT_TRUE(server) << server.error().message;
    const auto made = (*server)->MakeDatabase();
    ASSERT_TRUE(made) << made.error().message;
    database_options_.postgresql = *made;
  }
  void TearDown() override {
    conversations_.reset();
    database_.reset();
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  void Open() {
    conversations_.reset();
    inference_ = std::make_unique<TestInference>();
    database_.reset();
    auto database = store::Database::Open(database_options_, metrics_);
    ASSERT_TRUE(database) << database.error().message;
    database_ = std::move(*database);
    const store::MigrationList lists[] = {Conversations::Migrations()};
    const auto migrated = database_->Migrate(lists);
    ASSERT_TRUE(migrated) << migrated.error().message;
    options_.save_interval = 0;
    auto opened = Conversations::Open(*database_, *inference_, clock_, wall_, metrics_, options_);
    ASSERT_TRUE(opened) << opened.error().message;
    conversations_ = std::move(*opened);
  }
  Conversation Make() {
    ConversationChange change;
    change.model = "m";
    auto made = conversations_->Create(ann_, change);
    EXPECT_TRUE(made) << made.error().message;
    return *made;
  }
  std::vector<Turn> Ask(const std::string& id, std::string parent, std::string text) {
    NewTurn turn;
    turn.parent = std::move(parent);
    turn.content = std::move(text);
    auto made = conversations_->StartTurn(ann_, id, turn, "req-1");
    EXPECT_TRUE(made) << made.error().message;
    return made ? *made : std::vector<Turn>(2);
  }
  // What the store counts, as the sum it should be.
  void ExpectBytes(const std::string& id, size_t texts) {
    const auto bytes = database_->Get<int64_t>([&](store::Session& session) -> Result<int64_t> {
      TP_ASSIGN(
          const store::Rows rows,
          session.Query("SELECT bytes, (SELECT SUM(bytes) FROM conversation_turns WHERE conversation = $1) "
                        "FROM conversations WHERE id = $1",
                        {id}));
      const Conversation c = Find(id).conversation;
      EXPECT_EQ(rows.at(0).Integer(0) - rows.at(0).Integer(1),
                static_cast<int64_t>(c.title.size() + c.system.size() + c.sampling.dump().size()));
      return rows.at(0).Integer(1);
    });
    ASSERT_TRUE(bytes);
    const auto turns = static_cast<int64_t>(Find(id).turns.size());
    EXPECT_EQ(*bytes, static_cast<int64_t>(texts) + 2 * turns) << "texts, and [] for the files of each";
  }
  double Refused(const std::string& code) {
    const std::string line = "tidepool_conversation_refusals_total{code=\"" + code + "\"} ";
    const std::string text = metrics_.Serialize();
    const size_t at = text.find(line);
    return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size()));
  }
  ConversationWithTurns Find(const std::string& id) {
    auto found = conversations_->Find(ann_, id);
    EXPECT_TRUE(found) << found.error().message;
    return *found;
  }
  Turn FindTurn(const std::string& id, const std::string& turn) {
    for (const Turn& one : Find(id).turns) {
      if (one.id == turn) return one;
    }
    ADD_FAILURE() << "no turn " << turn;
    return {};
  }
  // Ended and kept.
  Turn AwaitEnd(const std::string& id, const std::string& turn) {
    for (int i = 0; i < 2000; ++i) {
      Turn found = FindTurn(id, turn);
      if (found.state != TurnState::kRunning) return found;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    ADD_FAILURE() << "still running";
    return {};
  }

  Principal ann_, bob_;
  std::filesystem::path folder_;
  store::DatabaseOptions database_options_;
  MetricsRegistry metrics_;
  SteadyClock clock_;
  ManualWallClock wall_{1'800'000'000'000};
  ConversationsOptions options_;
  std::unique_ptr<store::Database> database_;
  std::unique_ptr<TestInference> inference_;
  std::unique_ptr<Conversations> conversations_;
};

TEST_P(ConversationsTest, WhatAnAnswerCostIsKeptAndAddedUp) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "What is a tide?");
  inference_->last().Say("Water ");
  inference_->last().billed = Billed{.amount_nanos = 1500, .currency = "EUR", .billing = Billing::kPaid};
  inference_->last().End(compute::FinishReason::kLength);
  const Turn first = AwaitEnd(made.id, turns[1].id);
  EXPECT_EQ(first.billed, (Billed{.amount_nanos = 1500, .currency = "EUR", .billing = Billing::kPaid}));
  NewTurn more;
  more.continue_turn = turns[1].id;
  ASSERT_TRUE(conversations_->StartTurn(ann_, made.id, more, ""));
  inference_->last().Say("that moves.");
  inference_->last().billed =
      Billed{.amount_nanos = 500, .currency = "EUR", .billing = Billing::kFree, .free_tokens = 7};
  inference_->last().End();
  const Turn both = AwaitEnd(made.id, turns[1].id);
  EXPECT_EQ(both.content, "Water that moves.");
  EXPECT_EQ(both.billed,
            (Billed{.amount_nanos = 2000, .currency = "EUR", .billing = Billing::kMixed, .free_tokens = 7}));
  // Nobody metered it: nothing is said.
  const auto free = Ask(made.id, turns[1].id, "And?");
  inference_->last().Say("So.");
  inference_->last().End();
  EXPECT_FALSE(AwaitEnd(made.id, free[1].id).billed);
}

TEST_P(ConversationsTest, AnAnswerIsKeptWithWhatItTook) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "What is a tide?");
  ASSERT_EQ(turns.size(), 2u);
  EXPECT_EQ(inference_->last().request.messages.dump(), R"([{"role":"user","content":"What is a tide?"}])");
  inference_->last().Say("", "Hmm.");
  inference_->last().Say("Water \xF0\x9F\x8C\x8A that ");
  inference_->last().Say(std::string_view("moves\0.", 7));
  EXPECT_EQ(FindTurn(made.id, turns[1].id).content, std::string("Water \xF0\x9F\x8C\x8A that moves\0.", 23))
      << "a reader sees what arrived so far";
  EXPECT_TRUE(Find(made.id).conversation.running);
  inference_->last().End();
  const Turn answer = AwaitEnd(made.id, turns[1].id);
  EXPECT_EQ(answer.state, TurnState::kDone);
  EXPECT_EQ(answer.finish_reason, "stop");
  EXPECT_EQ(answer.reasoning, "Hmm.");
  ASSERT_TRUE(answer.usage);
  EXPECT_EQ(answer.usage->cached_tokens, 4);
  EXPECT_GT(answer.timings.ttft_s, 0);
  const auto whole = Find(made.id);
  EXPECT_EQ(whole.conversation.title, "What is a tide?");
  EXPECT_FALSE(whole.conversation.running);
  const std::string markdown = ExportMarkdown(whole);
  EXPECT_NE(markdown.find("# What is a tide?\n\n## You\n\nWhat is a tide?\n\n## m\n"), std::string::npos)
      << markdown;
}

TEST_P(ConversationsTest, AnotherMemberNeverSeesIt) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "secret");
  Principal elsewhere = ann_;
  elsewhere.workspace = "ws-other";
  Principal key;
  key.key = "key-1";
  for (const Principal& other : {bob_, elsewhere, key}) {
    EXPECT_EQ(conversations_->Find(other, made.id).error().code, "unknown_conversation");
    EXPECT_EQ(conversations_->Read(other, made.id).error().code, "unknown_conversation");
    EXPECT_EQ(conversations_->Delete(other, made.id).error().code, "unknown_conversation");
    EXPECT_EQ(conversations_->Change(other, made.id, {}).error().code, "unknown_conversation");
    EXPECT_EQ(conversations_->StopTurn(other, made.id, turns[1].id).error().code, "unknown_conversation");
    EXPECT_EQ(conversations_->StartTurn(other, made.id, {}, "").error().code, "unknown_conversation");
    const auto reader = std::make_shared<Reader>(ConversationWithTurns{});
    EXPECT_EQ(conversations_->Listen(other, made.id, 0, reader).error().code, "unknown_conversation");
    EXPECT_TRUE(conversations_->List(other, "", "", 50)->conversations.empty());
    EXPECT_TRUE(conversations_->List(other, "secret", "", 50)->conversations.empty());
  }
  EXPECT_FALSE(inference_->last().cancelled);
}

TEST_P(ConversationsTest, BranchesStopAndContinue) {
  const Conversation made = Make();
  const auto first = Ask(made.id, "", "one");
  inference_->last().Say("half an answ");
  ASSERT_TRUE(conversations_->StopTurn(ann_, made.id, first[1].id));
  Turn answer = AwaitEnd(made.id, first[1].id);
  EXPECT_EQ(answer.state, TurnState::kStopped);
  EXPECT_EQ(answer.content, "half an answ");
  EXPECT_EQ(conversations_->StopTurn(ann_, made.id, first[1].id).error().code, "not_running");

  NewTurn go_on;
  go_on.continue_turn = first[1].id;
  ASSERT_TRUE(conversations_->StartTurn(ann_, made.id, go_on, ""));
  EXPECT_EQ(inference_->last().request.messages.back()["content"], "half an answ");
  EXPECT_EQ(inference_->last().request.template_variables["continue_final_message"], true);
  inference_->last().Say("er.");
  inference_->last().End();
  EXPECT_EQ(AwaitEnd(made.id, first[1].id).content, "half an answer.");

  NewTurn again;
  again.parent = first[0].id;
  const auto second = conversations_->StartTurn(ann_, made.id, again, "");
  ASSERT_TRUE(second) << second.error().message;
  ASSERT_EQ(second->size(), 1u);
  inference_->last().Say("another");
  inference_->last().End();
  AwaitEnd(made.id, second->front().id);
  EXPECT_EQ(PathTo(Find(made.id).turns, Find(made.id).conversation.leaf).back()->content, "another");

  const auto refused = [&](NewTurn turn) {
    return conversations_->StartTurn(ann_, made.id, turn, "").error().code;
  };
  EXPECT_EQ(refused(Following(first[1].id)), "bad_parent");
  EXPECT_EQ(refused(Following(first[0].id, "x")), "bad_parent");
  EXPECT_EQ(refused(Following("turn-none", "x")), "unknown_turn");
  EXPECT_EQ(refused(Following(first[1].id, "")), "missing_field");
  NewTurn person;
  person.continue_turn = first[0].id;
  EXPECT_EQ(refused(person), "cannot_continue");
}

TEST_P(ConversationsTest, AKeyForSomeModelsStaysWithThem) {
  const Conversation made = Make();
  Principal scoped = ann_;
  scoped.models = {"small:*"};
  EXPECT_EQ(conversations_->StartTurn(scoped, made.id, Following("", "hi"), "").error().code,
            "model_not_allowed");
  NewTurn allowed = Following("", "hi");
  allowed.model = "small:1";
  EXPECT_TRUE(conversations_->StartTurn(scoped, made.id, allowed, ""));
  EXPECT_EQ(inference_->answers.size(), 1u);
}

TEST_P(ConversationsTest, WhatTheModelsSideRefusesKeepsWhatWasSaid) {
  const Conversation made = Make();
  inference_->fail_next =
      Error{ErrorKind::kNotFound, "model_not_found", "There is no model \"m\".", "model", 0};
  const auto turns = Ask(made.id, "", "a long question");
  const Turn answer = AwaitEnd(made.id, turns[1].id);
  EXPECT_EQ(answer.state, TurnState::kFailed);
  EXPECT_EQ(answer.error_message, "There is no model \"m\".");
  EXPECT_EQ(FindTurn(made.id, turns[0].id).content, "a long question");
}

TEST_P(ConversationsTest, ARestartLeavesWhatArrived) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "tell me");
  const auto other = Ask(made.id, "", "and me");
  inference_->answers[0]->Say("once upon");
  inference_->answers[1]->Say("there was");
  ASSERT_TRUE(database_->Write([](store::Session&) -> Status { return {}; })) << "what waited is written";
  // As if the process were gone without a word: the last save stands, and nothing is told to end.
  const auto lost_database = std::move(database_);
  const auto lost_inference = std::move(inference_);
  const auto lost_conversations = std::move(conversations_);
  Open();
  for (const auto& [turn, text] :
       {std::pair(turns[1].id, "once upon"), std::pair(other[1].id, "there was")}) {
    const Turn found = FindTurn(made.id, turn);
    EXPECT_EQ(found.state, TurnState::kInterrupted);
    EXPECT_EQ(found.content, text);
  }
}

TEST_P(ConversationsTest, HistoryBeyondTheContextDropsTheOldest) {
  inference_->context_length = 400;
  const Conversation made = Make();
  std::string parent;
  for (int i = 0; i < 6; ++i) {
    const auto turns = Ask(made.id, parent, std::string(50, static_cast<char>('a' + i)));
    inference_->last().Say(std::string(30, 'x'));
    inference_->last().End();
    parent = turns[1].id;
    AwaitEnd(made.id, parent);
  }
  // 300 tokens are left for the prompt; a pair takes 60 + 40, the last question 60.
  const auto turns = Find(made.id).turns;
  EXPECT_EQ(turns.back().dropped_turns, 6);
  EXPECT_EQ(inference_->last().request.messages.size(), 5u);
  EXPECT_EQ(inference_->last().request.messages[0]["role"], "user");
  EXPECT_EQ(turns[1].dropped_turns, 0);
}

TEST_P(ConversationsTest, AReaderWhoComesAnyTimeHasEveryPieceOnce) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "go");
  const auto answer = inference_->answers.back();
  std::string said;
  for (int i = 0; i < 400; ++i) said += std::to_string(i) + " ";
  std::thread writer([&] {
    for (int i = 0; i < 400; ++i) answer->Say(std::to_string(i) + " ");
    answer->End();
  });
  std::vector<std::shared_ptr<Reader>> readers;
  for (int i = 0; i < 8; ++i) {
    const auto start = Find(made.id);
    auto reader = std::make_shared<Reader>(start);
    std::this_thread::sleep_for(std::chrono::milliseconds(i));
    ASSERT_TRUE(conversations_->Listen(ann_, made.id, start.sequence, reader));
    readers.push_back(std::move(reader));
  }
  writer.join();
  for (const auto& reader : readers) {
    EXPECT_EQ(reader->Await(turns[1].id, TurnState::kDone).content, said);
    EXPECT_FALSE(reader->reload());
  }
  EXPECT_EQ(FindTurn(made.id, turns[1].id).content, said);
}

TEST_P(ConversationsTest, WhoComesBackTooLateIsToldToReadAgain) {
  options_.max_recent_bytes = 4096;
  Open();
  const Conversation made = Make();
  Ask(made.id, "", "go");
  const auto start = Find(made.id);
  for (int i = 0; i < 100; ++i) inference_->last().Say("0123456789");
  const auto late = std::make_shared<Reader>(start);
  ASSERT_TRUE(conversations_->Listen(ann_, made.id, start.sequence, late));
  EXPECT_TRUE(late->reload());
  const auto stranger = std::make_shared<Reader>(start);
  ASSERT_TRUE(conversations_->Listen(ann_, made.id, 5, stranger));
  EXPECT_TRUE(stranger->reload()) << "a number of an earlier server";
  conversations_->Remove(made.id, stranger);
  inference_->last().Say("more");
  inference_->last().End();
  conversations_->EndListening();
  EXPECT_TRUE(late->ended());
  EXPECT_FALSE(stranger->ended());
  EXPECT_EQ(conversations_->Listen(ann_, made.id, 5, stranger).error().code, "draining");
}

TEST_P(ConversationsTest, ListsPinnedThenNewestInPagesAndSearches) {
  std::vector<std::string> ids;
  for (int i = 0; i < 25; ++i) {
    wall_.Advance(i % 3 == 0 ? 0 : 1000);
    const Conversation made = Make();
    ids.push_back(made.id);
    ConversationChange change;
    change.title = i == 7 ? "100% Sea_level" : "Talk " + std::to_string(i);
    if (i == 3) change.pinned = true;
    ASSERT_TRUE(conversations_->Change(ann_, made.id, change));
  }
  std::vector<std::string> listed;
  std::string after;
  do {
    const auto page = conversations_->List(ann_, "", after, 4);
    ASSERT_TRUE(page) << page.error().message;
    for (const auto& one : page->conversations) listed.push_back(one.id);
    after = page->next;
  } while (!after.empty());
  EXPECT_EQ(std::set<std::string>(listed.begin(), listed.end()).size(), 25u);
  EXPECT_EQ(listed.size(), 25u);
  EXPECT_EQ(listed.front(), ids[3]);
  EXPECT_EQ(conversations_->List(ann_, "0% sea_", "", 50)->conversations.size(), 1u);
  EXPECT_EQ(conversations_->List(ann_, "a%l", "", 50)->conversations.size(), 0u) << "% is a character";
  EXPECT_EQ(conversations_->List(ann_, "'; DROP TABLE conversations; --", "", 50)->conversations.size(), 0u);
  EXPECT_EQ(conversations_->List(ann_, "", "nonsense", 50).error().code, "bad_cursor");
  EXPECT_EQ(conversations_->List(ann_, "", "", 50)->conversations.size(), 25u);
}

TEST_P(ConversationsTest, DeletingStopsAndForgets) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "go");
  const auto reader = std::make_shared<Reader>(Find(made.id));
  ASSERT_TRUE(conversations_->Listen(ann_, made.id, Find(made.id).sequence, reader));
  inference_->last().Say("text");
  ASSERT_TRUE(conversations_->Delete(ann_, made.id));
  EXPECT_TRUE(inference_->last().cancelled);
  EXPECT_TRUE(reader->ended());
  EXPECT_EQ(conversations_->Find(ann_, made.id).error().code, "unknown_conversation");
  const auto left = database_->Get<int64_t>([](store::Session& session) -> Result<int64_t> {
    TP_ASSIGN(const store::Rows rows, session.Query("SELECT COUNT(*) FROM conversation_turns"));
    return rows.front().Integer(0);
  });
  EXPECT_EQ(*left, 0);
}

TEST_P(ConversationsTest, AnAnswerEndsWithTheRightToIt) {
  class Keys final : public Authenticator {
   public:
    Result<Principal> Authenticate(const Credentials&) const override { return Principal{}; }
    bool StillValid(const Principal& who) const override { return who.key != revoked; }
    std::string revoked;
  } keys;
  ann_.key = "key-1";
  const Conversation made = Make();
  const auto first = Ask(made.id, "", "one");
  inference_->last().Say("so far");
  const auto before = inference_->answers.back();
  ann_.key = "key-2";
  const auto second = Ask(made.id, "", "two");
  EXPECT_EQ(conversations_->CutForbidden(keys), 0);
  keys.revoked = "key-1";
  EXPECT_EQ(conversations_->CutForbidden(keys), 1);
  EXPECT_EQ(conversations_->CutForbidden(keys), 0) << "it is cut once";
  EXPECT_TRUE(before->cancelled);
  EXPECT_FALSE(inference_->last().cancelled);
  const Turn cut = AwaitEnd(made.id, first[1].id);
  EXPECT_EQ(cut.state, TurnState::kInterrupted);
  EXPECT_EQ(cut.content, "so far");
  inference_->last().End();
  EXPECT_EQ(AwaitEnd(made.id, second[1].id).state, TurnState::kDone);
}

TEST_P(ConversationsTest, LimitsSayWhatTheyAre) {
  options_.max_conversations = 2;
  options_.max_running = 1;
  options_.max_turns = 4;
  options_.max_turn_bytes = 100;
  options_.max_listeners = 1;
  Open();
  const Conversation made = Make();
  Make();
  ConversationChange change;
  EXPECT_EQ(conversations_->Create(ann_, change).error().code, "too_many_conversations");
  const auto turns = Ask(made.id, "", "go");
  NewTurn more;
  more.content = "more";
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, more, "").error().code, "too_many_running");
  more.parent = turns[1].id;
  inference_->last().End();
  AwaitEnd(made.id, turns[1].id);
  NewTurn large;
  large.parent = turns[1].id;
  large.files = {{"x", std::string(101, 'x')}};
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, large, "").error().code, "too_long");
  ASSERT_TRUE(conversations_->StartTurn(ann_, made.id, more, ""));
  inference_->last().End();
  more.parent = "";
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, more, "").error().code, "conversation_full");
  ASSERT_TRUE(conversations_->Listen(ann_, made.id, 0, std::make_shared<Reader>(ConversationWithTurns{})));
  EXPECT_EQ(conversations_->Listen(ann_, made.id, 0, std::make_shared<Reader>(ConversationWithTurns{}))
                .error()
                .code,
            "too_many_listeners");
  change.title = std::string(401, 'x');
  EXPECT_EQ(conversations_->Change(ann_, made.id, change).error().code, "too_long");
}

TEST_P(ConversationsTest, BytesAreCountedAndBounded) {
  options_.max_bytes = 1000;
  options_.max_member_bytes = 2000;
  options_.max_turn_bytes = 900;
  Open();
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", std::string(300, 'a'));
  ExpectBytes(made.id, 300);
  inference_->last().Say(std::string(400, 'b'), "why");
  inference_->last().End();
  AwaitEnd(made.id, turns[1].id);
  ExpectBytes(made.id, 703);
  NewTurn more = Following(turns[1].id, std::string(300, 'c'));
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, more, "").error().code, "conversation_too_large");
  EXPECT_EQ(Refused("conversation_too_large"), 1);
  NewTurn again;
  again.continue_turn = turns[1].id;
  ASSERT_TRUE(conversations_->StartTurn(ann_, made.id, again, "")) << "what is there may go on";
  inference_->last().Say(std::string(500, 'd'));
  inference_->last().End();
  AwaitEnd(made.id, turns[1].id);
  ExpectBytes(made.id, 1203);
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, again, "").error().code, "conversation_too_large");

  const Conversation second = Make();
  more = Following("", std::string(790, 'e'));
  EXPECT_EQ(conversations_->StartTurn(ann_, second.id, more, "").error().code, "member_storage_full");
  EXPECT_EQ(Refused("member_storage_full"), 1);
  ConversationChange change;
  change.system = std::string(790, 's');
  EXPECT_EQ(conversations_->Change(ann_, second.id, change).error().code, "member_storage_full");
  EXPECT_EQ(conversations_->Create(ann_, change).error().code, "member_storage_full");
  EXPECT_TRUE(conversations_->Create(bob_, change)) << "another member's are counted apart";
  ASSERT_TRUE(conversations_->Delete(ann_, made.id));
  EXPECT_TRUE(conversations_->StartTurn(ann_, second.id, more, ""));
  inference_->last().End();
}

TEST_P(ConversationsTest, AMemberHasSoManyAnswersAtOnce) {
  options_.max_member_running = 2;
  Open();
  const std::string ids[] = {Make().id, Make().id, Make().id};
  Ask(ids[0], "", "one");
  Ask(ids[1], "", "two");
  EXPECT_EQ(conversations_->StartTurn(ann_, ids[2], Following("", "three"), "").error().code,
            "too_many_running");
  EXPECT_EQ(Refused("too_many_running"), 1);
  ConversationChange models;
  models.model = "m";
  const auto theirs = conversations_->Create(bob_, models);
  ASSERT_TRUE(theirs);
  EXPECT_TRUE(conversations_->StartTurn(bob_, theirs->id, Following("", "mine"), ""));
  const auto first = inference_->answers[0];
  first->End();
  AwaitEnd(ids[0], Find(ids[0]).turns[1].id);
  Ask(ids[2], "", "three");
  for (const auto& answer : inference_->answers) {
    if (answer->sink) answer->End();
  }
}

TEST_P(ConversationsTest, WhoMayNotAskIsNotTokenized) {
  inference_->context_length = 200;
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", std::string(150, 'a'));
  EXPECT_GT(inference_->tokenized, 0) << "a history as long as this has to be fitted";
  inference_->last().Say("b");
  inference_->last().End();
  AwaitEnd(made.id, turns[1].id);
  inference_->tokenized = 0;
  inference_->refuse = Error{ErrorKind::kOverloaded, "rate_limit_exceeded", "used up", "", 5};
  const auto refused = Ask(made.id, turns[1].id, "more");
  const Turn last = AwaitEnd(made.id, refused[1].id);
  EXPECT_EQ(last.state, TurnState::kFailed);
  EXPECT_EQ(last.error_code, "rate_limit_exceeded");
  EXPECT_EQ(inference_->tokenized, 0);
  EXPECT_EQ(FindTurn(made.id, refused[0].id).content, "more") << "what was said is kept";
}

// The tree is read before the write: what somebody else changes in between is not written over.
TEST_P(ConversationsTest, ATurnThatChangesMeanwhileIsAConflict) {
  const Conversation made = Make();
  const auto turns = Ask(made.id, "", "hi");
  inference_->last().Say("half");
  inference_->last().End(compute::FinishReason::kCancelled);
  AwaitEnd(made.id, turns[1].id);
  ann_.models = {"m"};  // so that the model is looked up in between
  NewTurn again;
  again.continue_turn = turns[1].id;
  for (const NewTurn& late : {again, Following(turns[1].id, "next")}) {
    inference_->on_find = [&] {
      ASSERT_TRUE(conversations_->StartTurn(ann_, made.id, again, ""));
      inference_->last().Say(", more");
      inference_->last().End(compute::FinishReason::kCancelled);
      AwaitEnd(made.id, turns[1].id);
    };
    EXPECT_EQ(conversations_->StartTurn(ann_, made.id, late, "").error().code, "turn_changed");
  }
  EXPECT_EQ(FindTurn(made.id, turns[1].id).content, "half, more, more");
  inference_->on_find = [&] { ASSERT_TRUE(conversations_->Delete(ann_, made.id)); };
  EXPECT_EQ(conversations_->StartTurn(ann_, made.id, again, "").error().code, "unknown_conversation");
}

// Oracle: rows written by the older version's own statements.
TEST_P(ConversationsTest, UpgradesFromEveryEarlierVersion) {
  const store::MigrationList all = Conversations::Migrations();
  for (size_t from = 1; from <= all.migrations.size(); ++from) {
    ASSERT_NO_FATAL_FAILURE(FreshStore("from-" + std::to_string(from) + ".db"));
    {
      auto old = store::Database::Open(database_options_, metrics_);
      ASSERT_TRUE(old);
      const store::MigrationList part[] = {{all.floor, all.migrations.first(from)}};
      ASSERT_TRUE((*old)->Migrate(part));
      ASSERT_TRUE((*old)->Write([&](store::Session& s) -> Status {
        TP_TRY(s.Execute(
            "INSERT INTO conversations (id, workspace, owner, title, model, system, sampling, leaf, "
            "pinned, created_ms, updated_ms) VALUES ('conv-1', 'default', 'usr-ann', 'old', 'm', 'be', "
            "'{}', '', 0, 1, 1)"));
        TP_TRY(
            s.Execute("INSERT INTO conversation_turns (id, conversation, parent, role, content, reasoning, "
                      "files, model, state, finish_reason, error_code, error_message, usage, timings, "
                      "dropped_turns, created_ms) VALUES ('turn-1', 'conv-1', '', 'user', 'hello', '', '[]', "
                      "'', 'done', '', '', '', '', '', 0, 1)"));
        return {};
      }));
    }
    Open();
    EXPECT_EQ(FindTurn("conv-1", "turn-1").content, "hello");
    if (from < 2) ExpectBytes("conv-1", 5);
    ann_.models.clear();
    NewTurn answer;
    answer.parent = "turn-1";
    ASSERT_TRUE(conversations_->StartTurn(ann_, "conv-1", answer, ""));
    inference_->last().End();
  }
}

INSTANTIATE_TEST_SUITE_P(Backends, ConversationsTest,
                         ::testing::Values(Backend::kSqlite, Backend::kPostgresql), [](const auto& backend) {
                           return backend.param == Backend::kSqlite ? "Sqlite" : "Postgresql";
                         });

}  // namespace
}  // namespace tidepool::platform
