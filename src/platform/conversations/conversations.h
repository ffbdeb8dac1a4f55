// Conversations of people with models: kept in the server's store, private to the member, a tree of turns.
//
// A turn of a model runs on the server: it goes on when its page is closed, and what arrived is written down
// at least once a second. Only Stop ends it early, or its caller's loss of the right to it (CutForbidden). A
// server that stops leaves what arrived, marked interrupted; `continue_turn` goes on there. History beyond
// the model's context drops the oldest turns and says how many.
//
// Threads: any; calls wait for the store (milliseconds), and StartTurn for the tokenizer when the history is
// long. Events come from the engine's, the loader's and the store's threads; listeners must not block and
// must not call back.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/wall_clock.h"
#include "platform/accounts/authenticator.h"
#include "platform/inference/inference.h"
#include "platform/store/database.h"

namespace tidepool::platform {

struct AttachedFile {
  std::string name;  // as the person's machine calls it; never a path of the server's
  std::string text;
};

enum class TurnState : uint8_t {
  kRunning,
  kDone,
  kStopped,      // by the person
  kInterrupted,  // by the server's end, or because its caller lost the right to it
  kFailed,       // error says why
};
std::string_view TurnStateName(TurnState state);

struct TurnTimings {
  double queue_s = 0;      // before the first step
  double ttft_s = 0;       // until the first piece of text; 0: none came
  double reasoning_s = 0;  // from the first piece of reasoning to the first of the answer
  double decode_s = 0;
};

struct Turn {
  std::string id;
  std::string parent;  // empty: a root
  bool user = false;   // else the model's
  std::string content, reasoning;
  std::vector<AttachedFile> files;
  std::string model;
  TurnState state = TurnState::kDone;
  std::string finish_reason;  // "stop", "length"; empty while it runs
  std::string error_code, error_message;
  std::optional<compute::Usage> usage;
  std::optional<Billed> billed;  // all runs of an answer that was continued
  TurnTimings timings;
  int32_t dropped_turns = 0;  // the oldest, which did not fit the context
  int64_t created_ms = 0;
};

struct Conversation {
  std::string id, title, model, system;
  nlohmann::ordered_json sampling = nlohmann::ordered_json::object();  // fields of the OpenAI dialect
  std::string leaf;  // where the person is; empty: at the newest turn
  bool pinned = false;
  bool running = false;  // some turn is
  int64_t created_ms = 0, updated_ms = 0;
  int64_t bytes = 0;  // of its texts and those of its turns
};

struct ConversationWithTurns {
  Conversation conversation;
  std::vector<Turn> turns;  // in the order they were made
  uint64_t sequence = 0;    // events after this one are not in it
};

struct ConversationChange {
  std::optional<std::string> title, model, system, leaf;
  std::optional<bool> pinned;
  std::optional<nlohmann::ordered_json> sampling;
};

struct NewTurn {
  std::string parent;  // the turn it follows; empty: a new root
  std::optional<std::string>
      content;  // what the person says; none: another answer to `parent`, a person's turn
  std::vector<AttachedFile> files;
  std::string model;          // empty: the conversation's
  std::string continue_turn;  // go on with this turn of a model instead
  SamplingRequest sampling;   // the conversation's, read by the dialect
};

struct ConversationPage {
  std::vector<Conversation> conversations;
  std::string next;  // cursor; empty: no more
};

struct ConversationEvent {
  enum class Kind : uint8_t {
    kTurn,          // a turn came or changed: all of it, in `turn`
    kDelta,         // pieces of content and reasoning
    kProgress,      // why the first token takes time
    kConversation,  // title, pin, model, settings or leaf changed: all of it
    kReload,        // what came between is not known any more: read the conversation again
  } kind = Kind::kReload;
  uint64_t sequence = 0;
  std::string turn_id;             // kDelta, kProgress
  std::string content, reasoning;  // kDelta
  compute::ProgressEvent progress;
  std::optional<Turn> turn;
  std::optional<Conversation> conversation;
};

class ConversationListener {
 public:
  virtual ~ConversationListener() = default;
  virtual void OnEvent(const ConversationEvent& event) = 0;
  virtual void OnEnd() = 0;  // the server stops, or the conversation was deleted; nothing follows
};

struct ConversationsOptions {
  int64_t max_turns = 10'000;          // of one conversation
  uint64_t max_turn_bytes = 8u << 20;  // of what a person says, with its files
  // Nothing is begun beyond these; what runs then may still grow, by as much as its answer may have.
  uint64_t max_bytes = 64u << 20;        // of one conversation
  uint64_t max_member_bytes = 1u << 30;  // of all of one member's
  int64_t max_conversations = 100'000;   // of one member
  int64_t max_running = 8;               // turns at once in one conversation
  int64_t max_member_running = 32;       // in all of one member's
  int64_t max_listeners = 64;            // of one conversation
  size_t max_recent_bytes = 1u << 20;    // of events kept for those that come back
  int64_t max_idle_channels = 1024;     // conversations whose events are remembered without anybody listening
  Nanoseconds save_interval = kSecond;  // of a running turn's text
};

class Conversations {
 public:
  virtual ~Conversations() = default;  // running turns are cancelled and kept as interrupted

  // All arguments outlive it. Marks turns that an earlier server left running as interrupted.
  static Result<std::unique_ptr<Conversations>> Open(store::Database& database, Inference& inference,
                                                     const Clock& clock, const WallClock& wall_clock,
                                                     MetricsRegistry& metrics,
                                                     const ConversationsOptions& options = {});
  static store::MigrationList Migrations();

  // kNotFound "unknown_conversation" also for somebody else's.
  virtual Result<ConversationPage> List(const Principal& who, std::string_view search, std::string_view after,
                                        int32_t limit) = 0;
  virtual Result<Conversation> Read(const Principal& who, const std::string& id) = 0;
  virtual Result<ConversationWithTurns> Find(const Principal& who, const std::string& id) = 0;
  virtual Result<Conversation> Create(const Principal& who, const ConversationChange& change) = 0;
  virtual Result<Conversation> Change(const Principal& who, const std::string& id,
                                      const ConversationChange& change) = 0;
  virtual Status Delete(const Principal& who, const std::string& id) = 0;

  // The new turns: the person's, if content was given, and the model's, which runs. What the model's side
  // refuses (unknown model, no memory) is in its turn, so that what the person said is kept.
  virtual Result<std::vector<Turn>> StartTurn(const Principal& who, const std::string& id, NewTurn turn,
                                              const std::string& request_id) = 0;
  // Cancels the answers whose callers may not go on (their key was revoked, their session or membership
  // ended); what arrived is kept as interrupted. Gives how many those were. Never blocks.
  virtual int CutForbidden(const Authenticator& keys) = 0;
  virtual Status StopTurn(const Principal& who, const std::string& id, const std::string& turn) = 0;

  // Events after `sequence`, then those to come. The listener is held until it is removed or OnEnd came.
  virtual Status Listen(const Principal& who, const std::string& id, uint64_t sequence,
                        std::shared_ptr<ConversationListener> listener) = 0;
  virtual void Remove(const std::string& id, const std::shared_ptr<ConversationListener>& listener) = 0;
  // OnEnd to all, and no listener from now on: before the server drains.
  virtual void EndListening() = 0;
};

// The way from the root to the leaf (or the newest turn), as Markdown.
std::string ExportMarkdown(const ConversationWithTurns& conversation);
// Root first. `leaf` empty or unknown: the newest branch.
std::vector<const Turn*> PathTo(const std::vector<Turn>& turns, std::string_view leaf);

}  // namespace tidepool::platform
