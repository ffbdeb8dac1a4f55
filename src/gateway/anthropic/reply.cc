#include "gateway/anthropic/reply.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/clock.h"
#include "base/ids.h"
#include "gateway/anthropic/errors.h"
#include "gateway/json_body.h"
#include "gateway/sse.h"
#include "platform/ledger/price_book.h"

namespace tidepool::gateway::anthropic {
namespace {

// A mark of the text that a client hands back with it. It proves nothing: thinking is not checked.
std::string SignatureOf(std::string_view thinking) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : thinking) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return fmt::format("tidepool-{:016x}", hash);
}

struct Block {
  enum class Kind : uint8_t { kText, kThinking, kToolUse };
  Kind kind = Kind::kText;
  std::string text;  // or thinking, or the arguments' JSON
  std::string id, name;
};

class MessageReply final : public ReplySink {
 public:
  MessageReply(std::shared_ptr<Exchange> exchange, const ParsedMessages& parsed)
      : ReplySink(std::move(exchange), parsed.stream, parsed.ignored),
        id_(RandomId("msg_", 24)),
        hide_thinking_(parsed.hide_thinking),
        stops_(parsed.request.sampling.stop),
        model_(parsed.request.model) {}
  ~MessageReply() override { Lost(); }

  void OnStart(const std::string& model, int32_t /*choices*/) override {
    std::lock_guard lock(mutex_);
    model_ = model;
  }
  void OnPrompt(int32_t tokens) override {
    std::lock_guard lock(mutex_);
    prompt_tokens_ = tokens;
  }

  void OnToken(int32_t /*choice*/, const compute::TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    if (done_) return;
    scratch_.clear();
    if (!event.reasoning.empty()) Grow(Block::Kind::kThinking, event.reasoning);
    if (!event.content.empty()) Grow(Block::Kind::kText, event.content);
    Flush();
  }

  void OnToolCall(int32_t /*choice*/, const platform::ToolCallDelta& delta) override {
    using Piece = platform::ToolCallDelta::Kind;
    std::lock_guard lock(mutex_);
    if (done_) return;
    scratch_.clear();
    switch (delta.kind) {
      case Piece::kBegin:
        Open(Block::Kind::kToolUse,
             "toolu_" + (delta.id.starts_with("call_") ? delta.id.substr(5) : delta.id), delta.name);
        break;
      case Piece::kArguments: Grow(Block::Kind::kToolUse, delta.arguments); break;
      case Piece::kEnd:
        ++whole_calls_;
        Close();
        break;
      // What was shown of it cannot be taken back in a stream; its text follows.
      case Piece::kBroken:
        broken_call_ = true;
        Close();
        if (!stream_) blocks_.pop_back();
        break;
    }
    Flush();
  }

  void OnFinish(int32_t /*choice*/, const compute::FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    if (done_ || KeepError(event)) return;
    stop_sequence_.reset();
    if (event.reason == compute::FinishReason::kLength) {
      stop_reason_ = "max_tokens";
    } else if (whole_calls_ > 0 && !broken_call_) {
      stop_reason_ = "tool_use";
    } else if (std::find(stops_.begin(), stops_.end(), event.stop) != stops_.end()) {
      stop_reason_ = "stop_sequence";
      stop_sequence_ = event.stop;
    }
  }

 private:
  using Kind = Block::Kind;

  void Event(std::string_view name, const Json& data) { AppendNamedEvent(scratch_, name, DumpJson(data)); }

  void Flush() {
    if (stream_ && !scratch_.empty()) Write(scratch_);
  }

  // The total is known before the first token; what of it came from the cache is told in the end.
  void Start() {
    if (started_) return;
    started_ = true;
    Json message = Head();
    message["content"] = Json::array();
    message["stop_reason"] = nullptr;
    message["stop_sequence"] = nullptr;
    message["usage"] = UsageOf({prompt_tokens_, 0, 0, 0});
    Event("message_start", {{"type", "message_start"}, {"message", std::move(message)}});
  }

  void Open(Kind kind, std::string id = {}, std::string name = {}) {
    Close();
    blocks_.push_back({kind, {}, std::move(id), std::move(name)});
    open_ = true;
    if (!stream_) return;
    Start();
    Json block;
    if (kind == Kind::kText) block = {{"type", "text"}, {"text", ""}};
    if (kind == Kind::kThinking) block = {{"type", "thinking"}, {"thinking", ""}, {"signature", ""}};
    if (kind == Kind::kToolUse) block = ToolUse(blocks_.back(), Json::object());
    Event("content_block_start", {{"type", "content_block_start"},
                                  {"index", blocks_.size() - 1},
                                  {"content_block", std::move(block)}});
    if (blocks_.size() == 1) Event("ping", {{"type", "ping"}});
  }

  void Grow(Kind kind, std::string_view text) {
    if (!open_ || blocks_.back().kind != kind) Open(kind);
    blocks_.back().text.append(text);
    if (!stream_ || (kind == Kind::kThinking && hide_thinking_)) return;
    // Written by hand: there is one a token.
    std::string& out = scratch_;
    fmt::format_to(
        std::back_inserter(out),
        "event: content_block_delta\ndata: {{\"type\":\"content_block_delta\",\"index\":{},\"delta\":",
        blocks_.size() - 1);
    switch (kind) {
      case Kind::kText: out.append(R"({"type":"text_delta","text":)"); break;
      case Kind::kThinking: out.append(R"({"type":"thinking_delta","thinking":)"); break;
      case Kind::kToolUse: out.append(R"({"type":"input_json_delta","partial_json":)"); break;
    }
    AppendJsonString(out, text);
    out.append("}}\n\n");
  }

  void Close() {
    if (!open_) return;
    open_ = false;
    if (!stream_) return;
    const size_t index = blocks_.size() - 1;
    if (blocks_.back().kind == Kind::kThinking) {
      Event("content_block_delta",
            {{"type", "content_block_delta"},
             {"index", index},
             {"delta", {{"type", "signature_delta"}, {"signature", SignatureOf(blocks_.back().text)}}}});
    }
    Event("content_block_stop", {{"type", "content_block_stop"}, {"index", index}});
  }

  static Json ToolUse(const Block& block, Json input) {
    Json out;
    out["type"] = "tool_use";
    out["id"] = block.id;
    out["name"] = block.name;
    out["input"] = std::move(input);
    return out;
  }

  Json Head() const {
    Json message;
    message["id"] = id_;
    message["type"] = "message";
    message["role"] = "assistant";
    message["model"] = model_;
    return message;
  }

  static Json UsageOf(const compute::Usage& usage) {
    Json out;
    out["input_tokens"] = usage.prompt_tokens - usage.cached_tokens;
    out["cache_creation_input_tokens"] = 0;
    out["cache_read_input_tokens"] = usage.cached_tokens;
    out["output_tokens"] = usage.completion_tokens;
    return out;
  }

  Json StopSequence() const { return stop_sequence_ ? Json(*stop_sequence_) : Json(nullptr); }

  std::string Whole(const compute::Usage& usage) override {
    Json message = Head();
    Json& content = message["content"] = Json::array();
    for (const Block& block : blocks_) {
      if (block.kind == Kind::kText) content.push_back(Json{{"type", "text"}, {"text", block.text}});
      if (block.kind == Kind::kThinking) {
        content.push_back(Json{{"type", "thinking"},
                               {"thinking", hide_thinking_ ? std::string() : block.text},
                               {"signature", SignatureOf(block.text)}});
      }
      if (block.kind == Kind::kToolUse) {
        Json input = Json::parse(block.text, nullptr, /*allow_exceptions=*/false);
        content.push_back(ToolUse(block, input.is_object() ? std::move(input) : Json::object()));
      }
    }
    message["stop_reason"] = stop_reason_;
    message["stop_sequence"] = StopSequence();
    message["usage"] = UsageOf(usage);
    return DumpJson(message);
  }

  void AppendEnd(const compute::Usage& usage, std::string& out) override {
    scratch_.clear();
    Start();
    Close();
    Event("message_delta", {{"type", "message_delta"},
                            {"delta", {{"stop_reason", stop_reason_}, {"stop_sequence", StopSequence()}}},
                            {"usage", UsageOf(usage)}});
    Event("message_stop", {{"type", "message_stop"}});
    out.append(scratch_);
  }

  HttpResponse ErrorReply(const Error& error) const override {
    HttpResponse response = anthropic::ErrorReply(error, exchange_->request());
    std::erase_if(response.headers, [](const HttpHeader& header) { return header.name == "request-id"; });
    return response;  // AppendHeaders adds it
  }
  void AppendError(const Error& error, std::string& out) override {
    AppendNamedEvent(out, "error", DumpJson(ErrorBody(error, exchange_->request())));
  }
  void AppendQuiet(std::string& out) override { AppendNamedEvent(out, "ping", R"({"type":"ping"})"); }

  void AppendHeaders(std::vector<HttpHeader>& headers) const override {
    headers.push_back({"request-id", exchange_->request().id});
    const auto append = [&](const std::optional<platform::RateState::Window>& window, std::string_view of) {
      if (!window) return;
      const std::string prefix = fmt::format("anthropic-ratelimit-{}-", of);
      headers.push_back({prefix + "limit", fmt::to_string(window->limit)});
      headers.push_back({prefix + "remaining", fmt::to_string(window->remaining)});
      headers.push_back(
          {prefix + "reset",
           platform::TimeText((UnixTimeSeconds() + static_cast<int64_t>(window->reset_s) + 1) * 1000)});
    };
    append(rates_.requests, "requests");
    append(rates_.tokens, "tokens");
  }

  const std::string id_;
  const bool hide_thinking_;
  const std::vector<std::string> stops_;
  std::string model_;
  int32_t prompt_tokens_ = 0;
  std::vector<Block> blocks_;
  bool open_ = false;     // the last block
  bool started_ = false;  // message_start was written
  int32_t whole_calls_ = 0;
  bool broken_call_ = false;
  std::string stop_reason_ = "end_turn";
  std::optional<std::string> stop_sequence_;
  std::string scratch_;
};

}  // namespace

std::shared_ptr<ReplySink> MakeMessageReply(std::shared_ptr<Exchange> exchange,
                                            const ParsedMessages& parsed) {
  return std::make_shared<MessageReply>(std::move(exchange), parsed);
}

}  // namespace tidepool::gateway::anthropic
