// From the engine's events to a response: its items, and the events that a stream has of them. Knows no
// exchange, so that a response in the background is made the same way.
//
// Threads: none of its own; the caller orders the calls.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "gateway/responses/requests.h"
#include "platform/inference/inference.h"

namespace tidepool::gateway::responses {

class ResponseEncoder {
 public:
  // `data`: JSON with its sequence_number. Not set: nobody wants events.
  using Emit = std::function<void(std::string_view type, std::string data)>;
  ResponseEncoder(const ParsedResponse& parsed, const platform::Inference& inference, Emit emit);

  const std::string& id() const { return id_; }
  // response.created and response.in_progress (a background response is queued in between). Once.
  void Start();
  void Model(const std::string& model) { model_ = model; }
  void Token(const compute::TokenEvent& event);
  void ToolCall(const platform::ToolCallDelta& delta);
  void Finish(const compute::FinishEvent& event);
  // Ends the items and the response; its last event is not emitted but left in last_type() and last_event().
  void End(const compute::Usage& usage);
  void Fail(const Error& error);  // "failed"
  void EndCancelled();            // "cancelled"

  // As it is now.
  const std::string& status() const { return status_; }
  Json Body() const;
  std::string_view last_type() const { return last_type_; }
  const std::string& last_event() const { return last_event_; }

 private:
  struct Item {
    enum class Kind : uint8_t { kMessage, kReasoning, kCall };
    Kind kind = Kind::kMessage;
    std::string id, status, text;  // or the arguments
    std::string call_id, name;
    std::string logprobs;  // JSON, comma-separated
  };
  using Kind = Item::Kind;

  Json ItemJson(const Item& item) const;
  Json PartOf(const Item& item, bool empty) const;
  Json Place() const;  // item_id and output_index of the open item
  void Send(std::string_view type, Json data);
  void SendState(std::string_view type);
  void Open(Kind kind);
  void Close(std::string_view status);
  void Grow(Kind kind, std::string_view text, std::string_view logprobs);
  void Last(std::string_view type);
  std::string Logprobs(std::span<const compute::TokenLogprob> tokens);
  void AppendToken(std::string& out, int32_t token, float logprob);

  const platform::Inference& inference_;
  const Emit emit_;
  const std::string id_;
  const int64_t created_;
  const Json shown_;
  const bool background_, logprobs_, summary_;
  std::string model_;
  std::string status_ = "in_progress";
  std::vector<Item> items_;
  bool open_ = false;  // the last item
  bool started_ = false, cut_off_ = false;
  int64_t sequence_ = 0;
  int64_t completed_ = 0;
  Json usage_, error_;
  std::string last_type_, last_event_;
  platform::Inference::TokenTexts find_text_;
};

}  // namespace tidepool::gateway::responses
