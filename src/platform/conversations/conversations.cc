#include "platform/conversations/conversations.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <unordered_map>

#include "base/ids.h"
#include "base/log.h"
#include "platform/conversations/answer_writer.h"
#include "platform/conversations/channel.h"
#include "platform/conversations/conversation_rows.h"
#include "platform/conversations/history.h"

namespace tidepool::platform {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxTitleBytes = 400;
constexpr size_t kMaxSystemBytes = 256 << 10;
constexpr size_t kMaxSearchBytes = 200;
constexpr size_t kMaxFiles = 64;
constexpr size_t kMaxFileNameBytes = 1024;

Status CheckLength(std::string_view text, size_t most, const char* name) {
  if (text.size() <= most) return {};
  return Fail(ErrorKind::kTooLarge, "too_long",
              fmt::format("{} is {} bytes long; at most {} are taken.", name, text.size(), most), name);
}

Status CheckChange(const ConversationChange& change) {
  if (change.title) TP_TRY(CheckLength(*change.title, kMaxTitleBytes, "title"));
  if (change.system) TP_TRY(CheckLength(*change.system, kMaxSystemBytes, "system"));
  if (change.model) TP_TRY(CheckLength(*change.model, 512, "model"));
  return {};
}

void Apply(const ConversationChange& change, Conversation& conversation) {
  if (change.title) conversation.title = *change.title;
  if (change.model) conversation.model = *change.model;
  if (change.system) conversation.system = *change.system;
  if (change.leaf) conversation.leaf = *change.leaf;
  if (change.pinned) conversation.pinned = *change.pinned;
  if (change.sampling) conversation.sampling = *change.sampling;
}

// Codes of what a limit refuses: labels of the metric.
constexpr const char* kLimitCodes[] = {
    "too_long",          "too_many_files",         "too_many_conversations",
    "conversation_full", "conversation_too_large", "member_storage_full",
    "too_many_running",  "too_many_listeners"};

class StoredConversations final : public Conversations {
 public:
  StoredConversations(store::Database& database, Inference& inference, const Clock& clock,
                      const WallClock& wall_clock, MetricsRegistry& metrics,
                      const ConversationsOptions& options)
      : database_(database),
        inference_(inference),
        clock_(clock),
        wall_clock_(wall_clock),
        options_(options) {
    counts_.running =
        metrics.gauge("tidepool_conversation_turns_running", "Answers being written in conversations");
    const auto ended = [&](const char* how) {
      return metrics.counter("tidepool_conversation_turns_total",
                             "Answers in conversations, by how they ended", {{"end", how}});
    };
    counts_.done = ended("done");
    counts_.stopped = ended("stopped");
    counts_.interrupted = ended("interrupted");
    counts_.failed = ended("failed");
    for (const char* code : kLimitCodes) {
      refused_.emplace(code, metrics.counter("tidepool_conversation_refusals_total",
                                             "What limits of conversations refused", {{"code", code}}));
    }
  }

  ~StoredConversations() override {
    EndListening();
    std::unordered_map<std::string, Running> running;
    {
      const std::lock_guard lock(mutex_);
      running.swap(running_);
    }
    for (auto& [id, one] : running) {
      if (one.generation) one.generation->Cancel();
    }
  }

  Result<ConversationPage> List(const Principal& who, std::string_view search, std::string_view after,
                                int32_t limit) override {
    TP_TRY(CheckLength(search, kMaxSearchBytes, "query"));
    const auto owner = ConversationOwner::Of(who);
    return database_.Get<ConversationPage>([&](store::Session& session) {
      return ReadConversations(session, owner, search, after, std::clamp(limit, 1, 200));
    });
  }

  Result<Conversation> Read(const Principal& who, const std::string& id) override {
    const auto owner = ConversationOwner::Of(who);
    return database_.Get<Conversation>(
        [&](store::Session& session) { return ReadConversation(session, owner, id); });
  }

  Result<ConversationWithTurns> Find(const Principal& who, const std::string& id) override {
    const auto owner = ConversationOwner::Of(who);
    ConversationWithTurns out;
    TP_TRY(Read(who, id));  // somebody else's gets no channel
    // What runs is taken before the rows are read: an answer that ends in between is told again by its event.
    std::map<std::string, Turn> running;
    out.sequence = Channel(id)->Snapshot(running);
    const Status read = database_.Read([&](store::Session& session) -> Status {
      TP_ASSIGN(out.conversation, ReadConversation(session, owner, id));
      TP_ASSIGN(out.turns, ReadTurns(session, id));
      return {};
    });
    TP_TRY(read);
    for (Turn& turn : out.turns) {
      if (const auto found = running.find(turn.id); found != running.end()) turn = found->second;
    }
    return out;
  }

  Result<Conversation> Create(const Principal& who, const ConversationChange& change) override {
    return Counted(CreateOne(who, change));
  }
  Result<Conversation> CreateOne(const Principal& who, const ConversationChange& change) {
    TP_TRY(CheckChange(change));
    const auto owner = ConversationOwner::Of(who);
    Conversation conversation;
    conversation.id = RandomId("conv-", 22);
    conversation.created_ms = conversation.updated_ms = wall_clock_.unix_ms();
    Apply(change, conversation);
    conversation.leaf.clear();
    const Status written = database_.Write([&](store::Session& session) -> Status {
      TP_ASSIGN(const OwnerUse use, ReadOwnerUse(session, owner));
      if (use.conversations >= options_.max_conversations) {
        return Fail(ErrorKind::kTooLarge, "too_many_conversations",
                    fmt::format("You have {} conversations already; delete some.", use.conversations));
      }
      TP_TRY(CheckMemberRoom(use, BytesOf(conversation)));
      return InsertConversation(session, owner, conversation);
    });
    TP_TRY(written);
    return conversation;
  }

  Result<Conversation> Change(const Principal& who, const std::string& id,
                              const ConversationChange& change) override {
    TP_TRY(Counted(CheckChange(change)));
    const auto owner = ConversationOwner::Of(who);
    auto changed = Counted(database_.Put<Conversation>([&](store::Session& session) -> Result<Conversation> {
      TP_ASSIGN(const Conversation was, ReadConversation(session, owner, id));
      Conversation conversation = was;
      Apply(change, conversation);
      if (const int64_t more = BytesOf(conversation) - BytesOf(was); more > 0) {
        TP_ASSIGN(const OwnerUse use, ReadOwnerUse(session, owner));
        TP_TRY(CheckMemberRoom(use, more));
      }
      TP_TRY(UpdateConversation(session, conversation, was));
      return conversation;
    }));
    if (changed) Channel(id)->Changed(*changed);
    return changed;
  }

  Status Delete(const Principal& who, const std::string& id) override {
    TP_TRY(Read(who, id));
    std::vector<std::shared_ptr<Generation>> running;
    std::shared_ptr<ConversationChannel> channel;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [turn, one] : running_) {
        if (one.conversation != id) continue;
        one.writer->Stop();
        running.push_back(one.generation);
      }
      if (const auto found = channels_.find(id); found != channels_.end()) {
        channel = found->second.channel;
        channels_.erase(found);
      }
    }
    for (const auto& generation : running) {
      if (generation) generation->Cancel();
    }
    TP_TRY(database_.Write([&](store::Session& session) { return DeleteConversation(session, id); }));
    if (channel) channel->EndAll();
    return {};
  }

  Result<std::vector<Turn>> StartTurn(const Principal& who, const std::string& id, NewTurn wanted,
                                      const std::string& request_id) override {
    return Counted(StartOne(who, id, std::move(wanted), request_id));
  }

  int CutForbidden(const Authenticator& keys) override {
    std::vector<std::shared_ptr<Generation>> cut;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [turn, one] : running_) {
        if (one.writer->finished() || one.writer->stopping() || keys.StillValid(one.who)) continue;
        LogInfo("an answer in a conversation was cut: its key or session lost the right to it",
                {{"turn", turn}, {"key", one.who.key_id}});
        one.writer->Cut();  // one that has not begun yet is cancelled when it does
        cut.push_back(one.generation);
      }
    }
    for (const auto& generation : cut) {
      if (generation) generation->Cancel();
    }
    return static_cast<int>(cut.size());
  }

  Status StopTurn(const Principal& who, const std::string& id, const std::string& turn) override {
    TP_TRY(Read(who, id));
    std::shared_ptr<Generation> generation;
    {
      const std::lock_guard lock(mutex_);
      const auto found = running_.find(turn);
      if (found == running_.end() || found->second.conversation != id || found->second.writer->finished()) {
        return Fail(ErrorKind::kNotFound, "not_running", "This turn is not being written.", "turn");
      }
      found->second.writer->Stop();
      generation = found->second.generation;
    }
    if (generation) generation->Cancel();
    return {};
  }

  Status Listen(const Principal& who, const std::string& id, uint64_t sequence,
                std::shared_ptr<ConversationListener> listener) override {
    TP_TRY(Read(who, id));
    if (ended_) return Fail(ErrorKind::kUnavailable, "draining", "The server is stopping; try again later.");
    const auto channel = Channel(id);
    TP_TRY(Counted(channel->Listen(sequence, std::move(listener))));
    // It may have ended between the look and the listening.
    if (ended_) channel->EndAll();
    return {};
  }

  void Remove(const std::string& id, const std::shared_ptr<ConversationListener>& listener) override {
    std::shared_ptr<ConversationChannel> channel;
    {
      const std::lock_guard lock(mutex_);
      const auto found = channels_.find(id);
      if (found == channels_.end()) return;
      channel = found->second.channel;
    }
    channel->Remove(listener);
  }

  void EndListening() override {
    ended_ = true;
    std::vector<std::shared_ptr<ConversationChannel>> all;
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [id, one] : channels_) all.push_back(one.channel);
    }
    for (const auto& channel : all) channel->EndAll();
  }

 private:
  struct KnownChannel {
    std::shared_ptr<ConversationChannel> channel;
    uint64_t used = 0;
  };
  struct Running {
    std::string conversation;
    Principal who;  // that began it, for whose right it runs
    std::shared_ptr<AnswerWriter> writer;
    std::shared_ptr<Generation> generation;
  };

  // Made when somebody looks. Of those that nobody uses the ones looked at last are kept.
  std::shared_ptr<ConversationChannel> Channel(const std::string& id) {
    const std::lock_guard lock(mutex_);
    KnownChannel& known = channels_[id];
    known.used = ++uses_;
    if (!known.channel) {
      // Above the numbers of all earlier channels, as long as there is less than one event a microsecond.
      const auto first = std::max(last_first_ + 1,
                                  static_cast<uint64_t>(std::max<int64_t>(1, wall_clock_.unix_ms())) * 1000);
      last_first_ = first;
      known.channel =
          std::make_shared<ConversationChannel>(first, options_.max_recent_bytes, options_.max_listeners);
    }
    const auto out = known.channel;
    if (channels_.size() > static_cast<size_t>(options_.max_idle_channels)) Forget();
    return out;
  }

  // Under mutex_: drops the older half of the idle channels, so that this is rare.
  void Forget() {
    std::vector<std::pair<uint64_t, std::string>> idle;
    for (const auto& [id, one] : channels_) {
      if (one.channel.use_count() == 1 && one.channel->idle()) idle.emplace_back(one.used, id);
    }
    std::sort(idle.begin(), idle.end());
    for (size_t i = 0; i < (idle.size() + 1) / 2; ++i) channels_.erase(idle[i].second);
  }

  // Lets go of the generations that have ended. (Not in their own last call, on the engine's thread.)
  void Sweep() {
    std::vector<std::shared_ptr<Generation>> ended;
    const std::lock_guard lock(mutex_);
    std::erase_if(running_, [&](const auto& one) {
      if (!one.second.writer->finished()) return false;
      ended.push_back(one.second.generation);
      return true;
    });
  }

  struct Prepared {
    std::vector<Turn> made;  // the person's, if any, and the model's
    ChatRequest request;
    std::vector<Turn> all;
    std::string leaf;            // the last turn of the history
    std::optional<Turn> before;  // the turn it follows or goes on with, as it was read
    bool goes_on = false;
  };
  Result<std::vector<Turn>> StartOne(const Principal& who, const std::string& id, NewTurn wanted,
                                     const std::string& request_id);
  Result<Prepared> Prepare(const Principal& who, const Conversation& conversation, std::vector<Turn> turns,
                           NewTurn& wanted);
  Status CheckUnchanged(store::Session& session, const std::string& id, const Prepared& prepared);
  Status CheckRoom(store::Session& session, const ConversationOwner& owner, const Conversation& conversation,
                   const Prepared& prepared);
  Status CheckMemberRoom(const OwnerUse& use, int64_t more) const;
  int32_t FitContext(Prepared& prepared, const Conversation& conversation);
  // AnswerCounts what a limit refused.
  template <typename R>
  R Counted(R result) {
    if (!result) {
      if (const auto found = refused_.find(result.error().code); found != refused_.end())
        found->second.Increment();
    }
    return result;
  }

  store::Database& database_;
  Inference& inference_;
  const Clock& clock_;
  const WallClock& wall_clock_;
  const ConversationsOptions options_;
  AnswerCounts counts_;
  std::map<std::string, Counter, std::less<>> refused_;  // by code; never changes
  std::atomic<bool> ended_{false};

  std::mutex mutex_;
  std::unordered_map<std::string, KnownChannel> channels_;
  std::unordered_map<std::string, Running> running_;  // by turn
  uint64_t uses_ = 0, last_first_ = 0;
};

Error UnknownTurn(const std::string& id, const char* field) {
  return Error{ErrorKind::kNotFound, "unknown_turn",
               fmt::format("This conversation has no turn \"{}\".", id.substr(0, 64)), field, 0};
}

Result<StoredConversations::Prepared> StoredConversations::Prepare(const Principal& who,
                                                                   const Conversation& conversation,
                                                                   std::vector<Turn> turns, NewTurn& wanted) {
  const auto find = [&](const std::string& id) -> const Turn* {
    const auto found =
        std::find_if(turns.begin(), turns.end(), [&](const Turn& turn) { return turn.id == id; });
    return found == turns.end() ? nullptr : &*found;
  };
  Prepared out;
  const std::string model = wanted.model.empty() ? conversation.model : wanted.model;
  if (model.empty()) return Fail(ErrorKind::kInvalid, "missing_field", "model is missing.", "model");
  if (!who.models.empty()) {  // a key for some models only
    const auto found = inference_.Find(model);
    if (found ? !MayUse(who, *found) : !who.MayUseModel(model)) {
      return Fail(ErrorKind::kForbidden, "model_not_allowed",
                  fmt::format("The key {}... is not for the model \"{}\".", who.key_id, model.substr(0, 100)),
                  "model");
    }
  }
  const int64_t now = wall_clock_.unix_ms();
  if (!wanted.continue_turn.empty()) {
    const Turn* turn = find(wanted.continue_turn);
    if (turn == nullptr) return Fail(UnknownTurn(wanted.continue_turn, "continue"));
    if (turn->user || turn->content.empty() || turn->state == TurnState::kRunning) {
      return Fail(ErrorKind::kConflict, "cannot_continue",
                  "Only an answer that has ended with some text can be continued.", "continue");
    }
    Turn again = *turn;
    again.state = TurnState::kRunning;
    again.finish_reason.clear();
    again.error_code.clear();
    again.error_message.clear();
    again.model = model;
    out.leaf = turn->id;
    out.before = *turn;
    out.goes_on = true;
    out.made.push_back(std::move(again));
    out.all = std::move(turns);
    return out;
  }
  const Turn* parent = wanted.parent.empty() ? nullptr : find(wanted.parent);
  if (!wanted.parent.empty() && parent == nullptr) return Fail(UnknownTurn(wanted.parent, "parent"));
  if (parent != nullptr && parent->state == TurnState::kRunning) {
    return Fail(ErrorKind::kConflict, "still_running",
                "The answer before it is still being written; stop it first.", "parent");
  }
  if (parent != nullptr) out.before = *parent;
  std::string answers_to = wanted.parent;
  if (wanted.content || !wanted.files.empty()) {
    if (parent != nullptr && parent->user) {
      return Fail(ErrorKind::kInvalid, "bad_parent",
                  "What a person says follows an answer, or begins a conversation.", "parent");
    }
    Turn said;
    said.id = RandomId("turn-", 22);
    said.parent = wanted.parent;
    said.user = true;
    said.content = wanted.content.value_or("");
    said.files = std::move(wanted.files);
    said.created_ms = now;
    if (said.content.empty() && said.files.empty()) {
      return Fail(ErrorKind::kInvalid, "missing_field", "content is empty.", "content");
    }
    answers_to = said.id;
    out.made.push_back(std::move(said));
  } else if (parent == nullptr || !parent->user) {
    return Fail(ErrorKind::kInvalid, "bad_parent",
                "Without content, parent must be something a person said, to be answered again.", "parent");
  }
  Turn answer;
  answer.id = RandomId("turn-", 22);
  answer.parent = answers_to;
  answer.model = model;
  answer.state = TurnState::kRunning;
  answer.created_ms = now;
  out.made.push_back(std::move(answer));
  out.leaf = answers_to;
  turns.insert(turns.end(), out.made.begin(), out.made.end() - 1);
  out.all = std::move(turns);
  return out;
}

// The tree was read before the write began: what it goes on from must be as it was.
Status StoredConversations::CheckUnchanged(store::Session& session, const std::string& id,
                                           const Prepared& prepared) {
  if (!prepared.before) return {};
  const Turn& before = *prepared.before;
  const char* field = prepared.goes_on ? "continue" : "parent";
  TP_ASSIGN(const std::optional<Turn> now, ReadTurn(session, id, before.id));
  if (!now) return Fail(UnknownTurn(before.id, field));
  if (now->state == before.state && now->content == before.content) return {};
  return Fail(ErrorKind::kConflict, "turn_changed",
              "The turn before it was changed in the meantime; read the conversation again.", field);
}

Status StoredConversations::CheckMemberRoom(const OwnerUse& use, int64_t more) const {
  if (static_cast<uint64_t>(std::max<int64_t>(0, use.bytes + more)) <= options_.max_member_bytes) return {};
  return Fail(ErrorKind::kTooLarge, "member_storage_full",
              fmt::format("Your conversations hold {} bytes of the {} you may keep; delete some.", use.bytes,
                          options_.max_member_bytes));
}

Status StoredConversations::CheckRoom(store::Session& session, const ConversationOwner& owner,
                                      const Conversation& conversation, const Prepared& prepared) {
  TP_ASSIGN(const RunningTurns running, CountRunning(session, owner, conversation.id));
  const bool here = running.of_conversation >= options_.max_running;
  if (here || running.of_owner >= options_.max_member_running) {
    return Fail(Error{ErrorKind::kOverloaded, "too_many_running",
                      fmt::format("{} answers are being written in {}; wait or stop one.",
                                  here ? running.of_conversation : running.of_owner,
                                  here ? "this conversation" : "your conversations"),
                      "", 2});
  }
  int64_t more = 0;
  if (!prepared.goes_on) {
    TP_ASSIGN(const int64_t turns, CountTurns(session, conversation.id));
    if (turns + static_cast<int64_t>(prepared.made.size()) > options_.max_turns) {
      return Fail(ErrorKind::kTooLarge, "conversation_full",
                  fmt::format("This conversation has {} turns already; begin another one.", turns));
    }
    for (const Turn& turn : prepared.made) more += BytesOf(turn);
  }
  if (static_cast<uint64_t>(std::max<int64_t>(0, conversation.bytes + more)) > options_.max_bytes) {
    return Fail(ErrorKind::kTooLarge, "conversation_too_large",
                fmt::format("This conversation holds {} bytes of at most {}; begin another one.",
                            conversation.bytes, options_.max_bytes));
  }
  TP_ASSIGN(const OwnerUse use, ReadOwnerUse(session, owner));
  return CheckMemberRoom(use, more);
}

// Fills in the messages; the turns left out.
int32_t StoredConversations::FitContext(Prepared& prepared, const Conversation& conversation) {
  const std::vector<const Turn*> path = PathTo(prepared.all, prepared.leaf);
  const auto messages = [&](int32_t dropped) {
    return MessagesOf(conversation.system, {path.begin() + dropped, path.end()});
  };
  prepared.request.messages = messages(0);
  const auto model = inference_.Find(prepared.request.model);
  if (!model) return 0;  // the request itself will say why
  const int64_t context = model->context_length;
  if (context <= 0) return 0;
  // Room for the answer: what was asked for, at most half; else a quarter, at most 1,024 tokens.
  const int64_t answer = prepared.request.sampling.max_tokens
                             ? std::min(*prepared.request.sampling.max_tokens, context / 2)
                             : std::min<int64_t>(1024, context / 4);
  const int64_t room = context - answer;
  // A token is at least one byte of text, and a template adds less than 64 a message.
  int64_t most = 64;
  for (const Json& message : prepared.request.messages)
    most += 64 + static_cast<int64_t>(message["content"].get_ref<const std::string&>().size());
  if (most <= room) return 0;
  const auto count = [&](int32_t dropped) -> Result<int64_t> {
    ChatRequest request = prepared.request;
    request.messages = messages(dropped);
    TP_ASSIGN(const std::vector<int32_t> tokens, inference_.TokenizeChat(request));
    return static_cast<int64_t>(tokens.size());
  };
  const auto dropped = TurnsToDrop(path, room, count);
  if (!dropped) return 0;  // a tokenizer that fails fails the request with its reason
  prepared.request.messages = messages(*dropped);
  return *dropped;
}

Result<std::vector<Turn>> StoredConversations::StartOne(const Principal& who, const std::string& id,
                                                        NewTurn wanted, const std::string& request_id) {
  uint64_t bytes = wanted.content ? wanted.content->size() : 0;
  if (wanted.files.size() > kMaxFiles)
    return Fail(ErrorKind::kTooLarge, "too_many_files", fmt::format("At most {} files.", kMaxFiles), "files");
  for (const AttachedFile& file : wanted.files) {
    TP_TRY(CheckLength(file.name, kMaxFileNameBytes, "files.name"));
    bytes += file.text.size();
  }
  if (bytes > options_.max_turn_bytes) {
    return Fail(
        ErrorKind::kTooLarge, "too_long",
        fmt::format("content and files are {} bytes; at most {} are taken.", bytes, options_.max_turn_bytes),
        "content");
  }
  const auto owner = ConversationOwner::Of(who);
  // The whole tree is read here, not by the store's one writer, which looks again at what may have changed.
  Conversation conversation;
  std::vector<Turn> turns;
  TP_TRY(database_.Read([&](store::Session& session) -> Status {
    TP_ASSIGN(conversation, ReadConversation(session, owner, id));
    TP_ASSIGN(turns, ReadTurns(session, id));
    return {};
  }));
  SamplingRequest sampling = std::move(wanted.sampling);
  TP_ASSIGN(Prepared prepared, Prepare(who, conversation, std::move(turns), wanted));
  const Status written = database_.Write([&](store::Session& session) -> Status {
    TP_ASSIGN(const Conversation was, ReadConversation(session, owner, id));
    conversation = was;
    TP_TRY(CheckRoom(session, owner, conversation, prepared));
    TP_TRY(CheckUnchanged(session, id, prepared));
    if (prepared.goes_on) {
      TP_TRY(UpdateTurn(session, prepared.made.front()));
    } else {
      for (const Turn& turn : prepared.made) TP_TRY(InsertTurn(session, id, turn));
    }
    if (conversation.title.empty() && prepared.made.front().user) {
      const Turn& said = prepared.made.front();
      conversation.title = TitleFrom(said.content);
      if (conversation.title.empty() && !said.files.empty())
        conversation.title = TitleFrom(said.files.front().name);
    }
    conversation.leaf = prepared.made.back().id;
    conversation.model = prepared.made.back().model;
    conversation.updated_ms = wall_clock_.unix_ms();
    return UpdateConversation(session, conversation, was);
  });
  TP_TRY(written);
  const auto events = Channel(id);
  for (const Turn& turn : prepared.made) {
    if (turn.user) events->Show(turn);
  }
  Turn& answer = prepared.made.back();
  ChatRequest& request = prepared.request;
  request.request_id = request_id;
  request.model = answer.model;
  request.principal = who;
  request.sampling = std::move(sampling);
  request.sampling.n = 1;
  if (prepared.goes_on) {
    request.template_variables["add_generation_prompt"] = false;
    request.template_variables["continue_final_message"] = true;
  }
  // A long history is tokenized to fit it in: not for a caller who may not go on anyhow.
  const Status allowed = inference_.CheckChat(request);
  if (allowed) answer.dropped_turns = FitContext(prepared, conversation);
  events->Begin(answer);
  events->Changed(conversation);
  const auto writer =
      std::make_shared<AnswerWriter>(events, database_, clock_, options_.save_interval, counts_, answer);
  Sweep();
  {
    const std::lock_guard lock(mutex_);
    running_[answer.id] = {id, who, writer, nullptr};
  }
  Result<std::shared_ptr<Generation>> generation =
      allowed ? inference_.Chat(std::move(request), writer) : Fail(allowed.error());
  if (!generation) {
    writer->Refuse(generation.error());
  } else {
    std::shared_ptr<Generation> late;
    bool stopped = false;
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = running_.find(answer.id); found != running_.end()) {
        found->second.generation = *generation;
        stopped = writer->stopping();  // Stop came before there was anything to cancel
      } else {
        late = std::move(*generation);  // the server is being taken down
      }
    }
    if (stopped) (*generation)->Cancel();
    if (late) late->Cancel();
  }
  return prepared.made;
}

}  // namespace

std::string_view TurnStateName(TurnState state) {
  switch (state) {
    case TurnState::kRunning: return "running";
    case TurnState::kDone: return "done";
    case TurnState::kStopped: return "stopped";
    case TurnState::kInterrupted: return "interrupted";
    case TurnState::kFailed: return "failed";
  }
  return "failed";
}

std::vector<const Turn*> PathTo(const std::vector<Turn>& turns, std::string_view leaf) {
  std::unordered_map<std::string_view, const Turn*> by_id;
  const Turn* at = turns.empty() ? nullptr : &turns.back();
  for (const Turn& turn : turns) by_id[turn.id] = &turn;
  if (const auto found = by_id.find(leaf); found != by_id.end()) at = found->second;
  std::vector<const Turn*> path;
  while (at != nullptr && path.size() <= turns.size()) {
    path.push_back(at);
    const auto found = by_id.find(at->parent);
    at = found == by_id.end() ? nullptr : found->second;
  }
  std::reverse(path.begin(), path.end());
  return path;
}

std::string ExportMarkdown(const ConversationWithTurns& conversation) {
  std::string out = fmt::format(
      "# {}\n", conversation.conversation.title.empty() ? "Conversation" : conversation.conversation.title);
  if (!conversation.conversation.system.empty())
    out += fmt::format("\n> {}\n", conversation.conversation.system);
  for (const Turn* turn : PathTo(conversation.turns, conversation.conversation.leaf)) {
    out += turn->user ? "\n## You\n" : fmt::format("\n## {}\n", turn->model);
    for (const AttachedFile& file : turn->files)
      out += fmt::format("\n`{}`\n\n````\n{}\n````\n", file.name, file.text);
    if (!turn->reasoning.empty())
      out += fmt::format("\n<details><summary>Reasoning</summary>\n\n{}\n\n</details>\n", turn->reasoning);
    if (!turn->content.empty()) out += fmt::format("\n{}\n", turn->content);
    if (turn->state != TurnState::kDone) out += fmt::format("\n*({})*\n", TurnStateName(turn->state));
  }
  return out;
}

Result<std::unique_ptr<Conversations>> Conversations::Open(store::Database& database, Inference& inference,
                                                           const Clock& clock, const WallClock& wall_clock,
                                                           MetricsRegistry& metrics,
                                                           const ConversationsOptions& options) {
  TP_TRY(database.Write([](store::Session& session) { return MarkInterrupted(session); }));
  return std::unique_ptr<Conversations>(
      std::make_unique<StoredConversations>(database, inference, clock, wall_clock, metrics, options));
}

}  // namespace tidepool::platform
