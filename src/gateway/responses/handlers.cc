#include "gateway/responses/handlers.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <mutex>
#include <utility>

#include "gateway/errors.h"
#include "gateway/inference_call.h"
#include "gateway/json_body.h"
#include "gateway/reply_sink.h"
#include "gateway/responses/encoder.h"
#include "gateway/router.h"
#include "gateway/sse.h"
#include "platform/responses/responses.h"

namespace tidepool::gateway::responses {
namespace {

using platform::StoredResponse;

void SendError(const std::shared_ptr<Exchange>& exchange, const Error& error) {
  exchange->Send(ErrorResponse(error));
}

StoredResponse RecordOf(const ParsedResponse& parsed, const ResponseEncoder& encoder) {
  StoredResponse record;
  record.id = encoder.id();
  record.previous = parsed.previous;
  record.background = parsed.background;
  record.status = encoder.status();
  record.body = encoder.Body();
  record.input = parsed.input;
  return record;
}

// An answer that its client waits for, whole or as a stream. It is stored before its last byte goes out.
class ResponseReply final : public ReplySink, public std::enable_shared_from_this<ResponseReply> {
 public:
  ResponseReply(std::shared_ptr<Exchange> exchange, Services& services, const ParsedResponse& parsed)
      : ReplySink(std::move(exchange), parsed.stream, parsed.ignored),
        store_(parsed.store ? services.hooks.responses : nullptr),
        record_(RecordParts(parsed)),
        encoder_(parsed, services.inference, Emitter(parsed.stream)) {}
  ~ResponseReply() override { Lost(); }

  void OnStart(const std::string& model, int32_t /*choices*/) override {
    std::lock_guard lock(mutex_);
    encoder_.Model(model);
  }
  void OnToken(int32_t /*choice*/, const compute::TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    if (!done_) encoder_.Token(event);
    Flush();
  }
  void OnToolCall(int32_t /*choice*/, const platform::ToolCallDelta& delta) override {
    std::lock_guard lock(mutex_);
    if (!done_) encoder_.ToolCall(delta);
    Flush();
  }
  void OnFinish(int32_t /*choice*/, const compute::FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    if (done_) return;
    failed_ = KeepError(event);
    encoder_.Finish(event);
  }
  void OnDone(const Result<compute::Usage>& usage) override {
    {
      std::lock_guard lock(mutex_);
      if (done_) return;
      if (usage && !failed_) {
        encoder_.End(*usage);
        record_.status = encoder_.status();
        record_.body = encoder_.Body();
      }
    }
    if (!usage || failed_ || store_ == nullptr) return ReplySink::OnDone(usage);
    record_.id = encoder_.id();
    // What cannot be stored is logged there; the answer itself is whole.
    store_->SaveLater(exchange_->request().principal, std::move(record_),
                      [self = shared_from_this(), usage](const Status&) { self->ReplySink::OnDone(usage); });
  }

 private:
  static StoredResponse RecordParts(const ParsedResponse& parsed) {
    StoredResponse record;
    record.previous = parsed.previous;
    record.input = parsed.input;
    return record;
  }
  ResponseEncoder::Emit Emitter(bool stream) {
    if (!stream) return nullptr;
    return [this](std::string_view type, const std::string& data) { AppendNamedEvent(scratch_, type, data); };
  }
  void Flush() {
    if (stream_ && !scratch_.empty()) Write(scratch_);
    scratch_.clear();
  }

  std::string Whole(const compute::Usage& /*usage*/) override { return DumpJson(encoder_.Body()); }
  void AppendEnd(const compute::Usage& /*usage*/, std::string& out) override {
    out.append(scratch_);
    AppendNamedEvent(out, encoder_.last_type(), encoder_.last_event());
  }
  HttpResponse ErrorReply(const Error& error) const override { return ErrorResponse(error); }
  void AppendError(const Error& error, std::string& out) override {
    encoder_.Fail(error);
    out.append(scratch_);
    AppendNamedEvent(out, encoder_.last_type(), encoder_.last_event());
  }

  platform::Responses* const store_;
  StoredResponse record_;
  std::string scratch_;  // events not written yet
  ResponseEncoder encoder_;
  bool failed_ = false;
};

// An answer without a client: its events go to the run.
class BackgroundReply final : public platform::ChatSink {
 public:
  BackgroundReply(Services& services, const ParsedResponse& parsed)
      : responses_(*services.hooks.responses),
        encoder_(parsed, services.inference, [this](std::string_view type, std::string data) {
          early_.emplace_back(type, std::move(data));
        }) {}
  ~BackgroundReply() override {
    if (!done_) End(Error{ErrorKind::kInternal, "answer_lost", "The server lost this answer.", "", 0});
  }

  StoredResponse Begin(const ParsedResponse& parsed) {
    std::lock_guard lock(mutex_);
    encoder_.Start();
    return RecordOf(parsed, encoder_);
  }
  Json Body() {
    std::lock_guard lock(mutex_);
    return encoder_.Body();
  }
  void SetRun(std::shared_ptr<platform::BackgroundRun> run) {
    std::lock_guard lock(mutex_);
    run_ = std::move(run);
    Flush();
  }
  // There is no run after all.
  void Drop() {
    std::lock_guard lock(mutex_);
    done_ = true;
  }

  void OnStart(const std::string& model, int32_t /*choices*/) override {
    std::lock_guard lock(mutex_);
    encoder_.Model(model);
  }
  void OnToken(int32_t /*choice*/, const compute::TokenEvent& event) override {
    std::lock_guard lock(mutex_);
    encoder_.Token(event);
    Flush();
  }
  void OnToolCall(int32_t /*choice*/, const platform::ToolCallDelta& delta) override {
    std::lock_guard lock(mutex_);
    encoder_.ToolCall(delta);
    Flush();
  }
  void OnFinish(int32_t /*choice*/, const compute::FinishEvent& event) override {
    std::lock_guard lock(mutex_);
    encoder_.Finish(event);
    if (event.reason == compute::FinishReason::kError) error_ = event.error;
    if (event.reason == compute::FinishReason::kCancelled) {
      error_ = Error{ErrorKind::kUnavailable, "cancelled", "The server ended this request before its answer.",
                     "", 0};
    }
  }
  void OnDone(const Result<compute::Usage>& usage) override {
    std::lock_guard lock(mutex_);
    if (!usage) return End(error_.value_or(usage.error()));
    if (error_) return End(*error_);
    encoder_.End(*usage);
    Finish();
  }
  // It could not be started.
  void Refuse(const Error& error) {
    std::lock_guard lock(mutex_);
    End(error);
  }

 private:
  void Flush() {
    for (auto& [type, data] : early_) run_->Publish(type, std::move(data));
    early_.clear();
  }
  void End(const Error& error) {
    if (run_ != nullptr && run_->cancelled()) {
      encoder_.EndCancelled();
    } else {
      encoder_.Fail(error);
    }
    Finish();
  }
  void Finish() {
    if (std::exchange(done_, true) || run_ == nullptr) return;
    Flush();
    StoredResponse record;
    record.id = encoder_.id();
    record.status = encoder_.status();
    record.body = encoder_.Body();
    responses_.End(run_, std::move(record), std::string(encoder_.last_type()), encoder_.last_event());
  }

  platform::Responses& responses_;
  std::mutex mutex_;
  std::vector<std::pair<std::string, std::string>> early_;  // events that the run has not yet
  ResponseEncoder encoder_;
  std::shared_ptr<platform::BackgroundRun> run_;
  std::optional<Error> error_;
  bool done_ = false;
};

// Follows a run for one connection: reads on as far as the client has taken what was written.
class RunFollower final : public ExchangeListener,
                          public platform::ResponseListener,
                          public std::enable_shared_from_this<RunFollower> {
 public:
  // `room`: bytes that may wait for the client.
  RunFollower(std::shared_ptr<Exchange> exchange, std::shared_ptr<platform::BackgroundRun> run, int64_t after,
              uint64_t room)
      : run_(std::move(run)),
        room_(static_cast<int64_t>(room)),
        exchange_(std::move(exchange)),
        seen_(after) {}

  void OnMore() override { Pump(); }
  void OnRoom() override {
    {
      const std::lock_guard lock(mutex_);
      left_ = room_;
    }
    Pump();
  }
  void OnQuiet() override {
    const std::lock_guard lock(mutex_);
    std::string out;
    AppendComment(out, "waiting");
    if (exchange_) exchange_->Write(out);
  }
  void OnClosed() override {  // the response goes on
    run_->Remove(shared_from_this());
    const std::lock_guard lock(mutex_);
    exchange_.reset();
  }

 private:
  void Pump() {
    const std::lock_guard lock(mutex_);
    while (exchange_ && left_ > 0) {
      const auto piece = run_->Read(seen_, static_cast<size_t>(std::min<int64_t>(left_, kPieceBytes)));
      // It reads more slowly than the answer is made, and the rest is not kept: it must not look complete.
      if (!piece) return std::exchange(exchange_, nullptr)->Abort();
      std::string out;
      for (const auto& event : piece->events) AppendNamedEvent(out, event.type, event.data);
      seen_ += std::ssize(piece->events);
      left_ -= std::ssize(out);
      if (!out.empty()) exchange_->Write(out);
      if (piece->over) return std::exchange(exchange_, nullptr)->End();
      if (out.empty()) return;
    }
  }

  static constexpr int64_t kPieceBytes = 64 << 10;
  const std::shared_ptr<platform::BackgroundRun> run_;
  const int64_t room_;
  std::mutex mutex_;
  std::shared_ptr<Exchange> exchange_;  // until it ends: the exchange holds this as its listener
  int64_t seen_;                        // the number of the last event that was written
  int64_t left_ = 0;                    // of the room; there is none before the stream has begun
};

void Follow(Services& services, const std::shared_ptr<Exchange>& exchange,
            const std::shared_ptr<platform::BackgroundRun>& run, int64_t after,
            const std::vector<std::string>& ignored = {}) {
  if (auto there = run->Read(after, 1); !there) return SendError(exchange, there.error());
  // A quarter: an OnRoom that was on its way while this wrote allows as much once more, and both have to fit
  // beside what chunks add, or the client is taken for too slow.
  const auto follower =
      std::make_shared<RunFollower>(exchange, run, after, services.options.max_write_buffer_bytes / 4);
  if (auto listening = run->Listen(follower); !listening) return SendError(exchange, listening.error());
  std::vector<HttpHeader> headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  if (!ignored.empty()) headers.push_back({"Tidepool-Ignored", IgnoredHeader(ignored)});
  exchange->Begin(200, kEventStream, std::move(headers));
  exchange->Listen(follower);
  follower->OnRoom();
}

// The items of the responses before this one.
Result<Json> ItemsBefore(Services& services, const HttpRequest& http, const std::string& previous) {
  Json items = Json::array();
  if (previous.empty()) return items;
  auto chain = services.hooks.responses->Chain(http.principal, previous);
  if (!chain) {
    Error error = chain.error();
    error.param = "previous_response_id";
    return Fail(std::move(error));
  }
  const std::string& status = chain->back().status;
  if (status == "queued" || status == "in_progress") {
    return Fail(ErrorKind::kConflict, "still_running",
                "The previous response is still being written; wait for its end.", "previous_response_id");
  }
  for (StoredResponse& one : *chain) {
    for (Json& item : one.input) items.push_back(std::move(item));
    const auto output = one.body.find("output");
    if (output == one.body.end() || !output->is_array()) continue;
    for (Json& item : *output) items.push_back(std::move(item));
  }
  return items;
}

// truncation: auto. Leaves out as many of the oldest turns as it takes for the rest, and an answer, to fit.
Status FitContext(Services& services, platform::ChatRequest& request) {
  const auto model = services.inference.Find(request.model);
  if (!model) return {};  // the request itself will say why
  const int64_t context = model->engine && model->engine->info.context_length > 0
                              ? model->engine->info.context_length
                              : model->model.context_length;
  if (context <= 0) return {};
  const int64_t answer = request.sampling.max_tokens ? std::min(*request.sampling.max_tokens, context / 2)
                                                     : std::min<int64_t>(1024, context / 4);
  const Json all = std::move(request.messages);
  const size_t head = all.front()["role"] == "system" ? 1 : 0;
  std::vector<size_t>
      starts;  // where a turn of the user begins: a cut there leaves no result without its call
  for (size_t i = head; i < all.size(); ++i) {
    if (all[i]["role"] == "user") starts.push_back(i);
  }
  if (starts.empty() || starts.front() != head) starts.insert(starts.begin(), head);
  const auto from = [&](size_t start) {
    Json messages = Json::array();
    if (head > 0) messages.push_back(all.front());
    for (size_t i = start; i < all.size(); ++i) messages.push_back(all[i]);
    return messages;
  };
  const auto fits = [&](size_t start) -> Result<bool> {
    request.messages = from(start);
    TP_ASSIGN(const std::vector<int32_t> tokens, services.inference.TokenizeChat(request));
    return static_cast<int64_t>(tokens.size()) + answer <= context;
  };
  size_t low = 0, high = starts.size() - 1;  // the last turn stays, whatever its size
  while (low < high) {
    const size_t middle = (low + high) / 2;
    TP_ASSIGN(const bool good, fits(starts[middle]));
    if (good) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  request.messages = from(starts[low]);
  return {};
}

bool HasStore(Services& services, const std::shared_ptr<Exchange>& exchange) {
  if (services.hooks.responses != nullptr) return true;
  exchange->Send(ErrorResponse(501, "not_available", "This server stores no responses."));
  return false;
}

void StartBackground(Services& services, const std::shared_ptr<Exchange>& exchange, ParsedResponse parsed) {
  platform::Responses& responses = *services.hooks.responses;
  const platform::Principal& who = exchange->request().principal;
  const auto reply = std::make_shared<BackgroundReply>(services, parsed);
  StoredResponse record = reply->Begin(parsed);
  const Json body = record.body;
  auto run = responses.Begin(who, std::move(record));
  if (!run) {
    reply->Drop();
    return SendError(exchange, run.error());
  }
  reply->SetRun(*run);
  auto generation = services.inference.Chat(std::move(parsed.request), reply);
  if (!generation) {
    reply->Drop();
    (void)responses.Delete(who, (*run)->id());
    return SendError(exchange, generation.error());
  }
  (*run)->SetGeneration(std::move(*generation));
  if (parsed.stream) return Follow(services, exchange, *run, -1, parsed.ignored);
  HttpResponse response = JsonResponse(body);
  if (!parsed.ignored.empty())
    response.headers.push_back({"Tidepool-Ignored", IgnoredHeader(parsed.ignored)});
  exchange->Send(std::move(response));
}

struct Query {
  std::vector<std::pair<std::string, std::string>> values;
  std::string Text(std::string_view name) const {
    for (const auto& [key, value] : values) {
      if (key == name) return value;
    }
    return {};
  }
  Result<int64_t> Number(std::string_view name, int64_t other, int64_t low, int64_t high) const {
    const std::string text = Text(name);
    if (text.empty()) return other;
    int64_t number = 0;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (problem != std::errc() || end != text.data() + text.size() || number < low || number > high) {
      return Fail(BadField(name, fmt::format("{} must be a whole number from {} to {}, not \"{}\".", name,
                                             low, high, text.substr(0, 40))));
    }
    return number;
  }
};

Result<Query> ReadQuery(const HttpRequest& http) {
  TP_ASSIGN(auto values, ParseQuery(http.target, http.route->query));
  return Query{std::move(values)};
}

// The page of items that a query asks for.
Result<Json> PageOf(const Json& items, const Query& query) {
  TP_ASSIGN(const int64_t limit, query.Number("limit", 20, 1, 100));
  const std::string order = query.Text("order").empty() ? "desc" : query.Text("order");
  if (order != "asc" && order != "desc") return Fail(BadField("order", "order must be asc or desc."));
  std::vector<const Json*> all;
  for (const Json& item : items) all.push_back(&item);
  if (order == "desc") std::reverse(all.begin(), all.end());
  const auto place = [&](const std::string& id) {
    return std::find_if(all.begin(), all.end(),
                        [&](const Json* item) { return item->value("id", "") == id; });
  };
  if (const std::string before = query.Text("before"); !before.empty()) all.erase(place(before), all.end());
  if (const std::string after = query.Text("after"); !after.empty()) {
    const auto found = place(after);
    if (found == all.end()) return Fail(BadField("after", "after is no item of this response."));
    all.erase(all.begin(), found + 1);
  }
  Json page;
  page["object"] = "list";
  page["data"] = Json::array();
  for (size_t i = 0; i < all.size() && i < static_cast<size_t>(limit); ++i) page["data"].push_back(*all[i]);
  const Json& data = page["data"];
  const Json first = data.empty() ? Json(nullptr) : data.front().value("id", Json());
  const Json last = data.empty() ? Json(nullptr) : data.back().value("id", Json());
  page["first_id"] = first;
  page["last_id"] = last;
  page["has_more"] = all.size() > static_cast<size_t>(limit);
  return page;
}

// A workspace may store none. Then `store` is false where the client says nothing, and the answer says so;
// what it asks for and would need a stored response is refused.
Status ApplyRule(Services& services, const HttpRequest& http, ParsedResponse& parsed) {
  if (services.hooks.responses == nullptr || services.hooks.responses->MayStore(http.principal)) return {};
  const char* asked = parsed.background                   ? "background"
                      : !parsed.previous.empty()          ? "previous_response_id"
                      : parsed.store && parsed.says_store ? "store"
                                                          : nullptr;
  if (asked != nullptr) {
    return Fail(
        ErrorKind::kForbidden, "responses_not_stored",
        fmt::format(
            "This workspace stores no responses (an admin set stored_responses to never), so {} cannot "
            "be; send store: false, or leave it out, and the whole conversation as input.",
            asked),
        asked);
  }
  parsed.store = false;
  parsed.shown["store"] = false;
  return {};
}

// The request of a body, with the messages of all that came before.
Result<ParsedResponse> ReadRequest(Services& services, const HttpRequest& http) {
  TP_ASSIGN(const Json body, JsonBody(services, http));
  TP_ASSIGN(ParsedResponse parsed, ParseResponse(body));
  if ((parsed.store || !parsed.previous.empty()) && services.hooks.responses == nullptr)
    return Fail(ErrorKind::kUnavailable, "not_available",
                "This server stores no responses; send store: false.");
  TP_TRY(ApplyRule(services, http, parsed));
  FillCaller(parsed.request, services, http);
  TP_TRY(CheckModel(services, http, parsed.request.model));
  TP_ASSIGN(const Json before, ItemsBefore(services, http, parsed.previous));
  TP_TRY(CompleteRequest(parsed, before));
  if (parsed.truncate) TP_TRY(FitContext(services, parsed.request));
  return parsed;
}

}  // namespace

void Create(Services& services, std::shared_ptr<Exchange> exchange) {
  auto parsed = ReadRequest(services, exchange->request());
  if (!parsed) return SendError(exchange, parsed.error());
  if (parsed->background) return StartBackground(services, exchange, std::move(*parsed));
  const auto reply = std::make_shared<ResponseReply>(exchange, services, *parsed);
  Attach(exchange, reply, services.inference.Chat(std::move(parsed->request), reply));
}

void InputTokens(Services& services, std::shared_ptr<Exchange> exchange) {
  const auto parsed = ReadRequest(services, exchange->request());
  if (!parsed) return SendError(exchange, parsed.error());
  const auto tokens = services.inference.TokenizeChat(parsed->request);
  if (!tokens) return SendError(exchange, tokens.error());
  HttpResponse response =
      JsonResponse(Json{{"object", "response.input_tokens"}, {"input_tokens", tokens->size()}});
  if (!parsed->ignored.empty())
    response.headers.push_back({"Tidepool-Ignored", IgnoredHeader(parsed->ignored)});
  exchange->Send(std::move(response));
}

void Get(Services& services, std::shared_ptr<Exchange> exchange) {
  if (!HasStore(services, exchange)) return;
  const HttpRequest& http = exchange->request();
  const auto query = ReadQuery(http);
  if (!query) return SendError(exchange, query.error());
  const std::string id(http.PathValue("id"));
  auto found = services.hooks.responses->Find(http.principal, id);
  if (!found) return SendError(exchange, found.error());
  if (query->Text("stream") != "true") return exchange->Send(JsonResponse(found->body));
  const auto after = query->Number("starting_after", -1, -1, INT64_MAX - 1);
  if (!after) return SendError(exchange, after.error());
  const auto run = services.hooks.responses->FindRun(http.principal, id);
  if (run == nullptr) {
    return SendError(exchange,
                     BadField("stream",
                              "The events of this response are not kept (any more): only background "
                              "responses have them, for a while. Get it without stream.",
                              "events_gone"));
  }
  Follow(services, exchange, run, *after);
}

void Delete(Services& services, std::shared_ptr<Exchange> exchange) {
  if (!HasStore(services, exchange)) return;
  const std::string id(exchange->request().PathValue("id"));
  if (auto deleted = services.hooks.responses->Delete(exchange->request().principal, id); !deleted)
    return SendError(exchange, deleted.error());
  exchange->Send(JsonResponse(Json{{"id", id}, {"object", "response"}, {"deleted", true}}));
}

void Cancel(Services& services, std::shared_ptr<Exchange> exchange) {
  if (!HasStore(services, exchange)) return;
  const HttpRequest& http = exchange->request();
  const std::string id(http.PathValue("id"));
  auto found = services.hooks.responses->Find(http.principal, id);
  if (!found) return SendError(exchange, found.error());
  if (!found->background) {
    return SendError(exchange, BadField("response_id",
                                        "Only a background response can be cancelled; another ends with its "
                                        "connection.",
                                        "not_background"));
  }
  if (found->status == "queued" || found->status == "in_progress") {
    if (const auto run = services.hooks.responses->FindRun(http.principal, id)) run->Cancel();
    found->body["status"] = "cancelled";
  }
  exchange->Send(JsonResponse(found->body));
}

void InputItems(Services& services, std::shared_ptr<Exchange> exchange) {
  if (!HasStore(services, exchange)) return;
  const HttpRequest& http = exchange->request();
  const auto query = ReadQuery(http);
  if (!query) return SendError(exchange, query.error());
  const auto found = services.hooks.responses->Find(http.principal, std::string(http.PathValue("id")));
  if (!found) return SendError(exchange, found.error());
  const auto page = PageOf(found->input, *query);
  if (!page) return SendError(exchange, page.error());
  exchange->Send(JsonResponse(*page));
}

Json ResponseReplySchema() {
  return Json::parse(R"({
    "type": "object",
    "properties": {
      "id": {"type": "string"}, "object": {"const": "response"}, "created_at": {"type": "integer"},
      "status": {"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
      "completed_at": {"type": ["integer", "null"]}, "error": {"type": ["object", "null"]},
      "incomplete_details": {"type": ["object", "null"]}, "model": {"type": "string"},
      "output": {"type": "array", "items": {"type": "object", "properties": {
        "id": {"type": "string"}, "type": {"enum": ["message", "reasoning", "function_call"]}, "status": {"type": "string"}}}},
      "usage": {"type": ["object", "null"], "properties": {
        "input_tokens": {"type": "integer"}, "output_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"}}}
    }
  })");
}

Json InputItemsReplySchema() {
  return Json::parse(R"({"type": "object", "properties": {
    "object": {"const": "list"}, "data": {"type": "array"}, "has_more": {"type": "boolean"},
    "first_id": {"type": ["string", "null"]}, "last_id": {"type": ["string", "null"]}}})");
}

Json InputTokensReplySchema() {
  return Json::parse(
      R"({"type": "object", "properties": {"object": {"const": "response.input_tokens"}, "input_tokens": {"type": "integer"}}})");
}

}  // namespace tidepool::gateway::responses
