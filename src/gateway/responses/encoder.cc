#include "gateway/responses/encoder.h"

#include <fmt/format.h>

#include <cmath>

#include "base/clock.h"
#include "base/ids.h"
#include "gateway/json_body.h"

namespace tidepool::gateway::responses {

ResponseEncoder::ResponseEncoder(const ParsedResponse& parsed, const platform::Inference& inference,
                                 Emit emit)
    : inference_(inference),
      emit_(std::move(emit)),
      id_(RandomId("resp_", 32)),
      created_(UnixTimeSeconds()),
      shown_(parsed.shown),
      background_(parsed.background),
      logprobs_(parsed.logprobs),
      summary_(parsed.summary),
      model_(parsed.request.model) {}

Json ResponseEncoder::PartOf(const Item& item, bool empty) const {
  Json part;
  if (item.kind == Kind::kReasoning) {
    part["type"] = summary_ ? "summary_text" : "reasoning_text";
    part["text"] = empty ? std::string() : item.text;
    return part;
  }
  part["type"] = "output_text";
  part["text"] = empty ? std::string() : item.text;
  part["annotations"] = Json::array();
  part["logprobs"] = empty || item.logprobs.empty() ? Json::array() : Json::parse("[" + item.logprobs + "]");
  return part;
}

Json ResponseEncoder::ItemJson(const Item& item) const {
  const bool begun = item.status != "in_progress";
  Json out;
  out["id"] = item.id;
  switch (item.kind) {
    case Kind::kMessage:
      out["type"] = "message";
      out["status"] = item.status;
      out["role"] = "assistant";
      out["content"] = Json::array();
      if (begun) out["content"].push_back(PartOf(item, false));
      break;
    case Kind::kReasoning: {
      out["type"] = "reasoning";
      out["summary"] = Json::array();
      Json parts = Json::array();
      if (begun) parts.push_back(PartOf(item, false));
      if (summary_) {
        out["summary"] = std::move(parts);
      } else {
        out["content"] = std::move(parts);
      }
      out["status"] = item.status;
      break;
    }
    case Kind::kCall:
      out["type"] = "function_call";
      out["status"] = item.status;
      out["call_id"] = item.call_id;
      out["name"] = item.name;
      out["arguments"] = begun ? item.text : std::string();
      break;
  }
  return out;
}

Json ResponseEncoder::Body() const {
  Json out;
  out["id"] = id_;
  out["object"] = "response";
  out["created_at"] = created_;
  out["status"] = status_;
  out["completed_at"] = completed_ > 0 ? Json(completed_) : Json(nullptr);
  out["error"] = error_;
  out["incomplete_details"] = status_ == "incomplete" ? Json{{"reason", "max_output_tokens"}} : Json(nullptr);
  out["model"] = model_;
  out["output"] = Json::array();
  for (const Item& item : items_) out["output"].push_back(ItemJson(item));
  for (const auto& [key, value] : shown_.items()) out[key] = value;
  out["usage"] = usage_;
  return out;
}

void ResponseEncoder::Send(std::string_view type, Json data) {
  if (!emit_) return;
  Json event;
  event["type"] = type;
  event["sequence_number"] = sequence_++;
  for (auto& [key, value] : data.items()) event[key] = std::move(value);
  emit_(type, DumpJson(event));
}

void ResponseEncoder::SendState(std::string_view type) {
  if (emit_) Send(type, Json{{"response", Body()}});
}

void ResponseEncoder::Start() {
  if (started_) return;
  started_ = true;
  if (background_) {
    status_ = "queued";
    SendState("response.created");
    SendState("response.queued");
    status_ = "in_progress";
  } else {
    SendState("response.created");
  }
  SendState("response.in_progress");
}

Json ResponseEncoder::Place() const {
  return Json{{"item_id", items_.back().id}, {"output_index", items_.size() - 1}};
}

void ResponseEncoder::Open(Kind kind) {
  Close("completed");
  Item& item = items_.emplace_back();
  item.kind = kind;
  item.status = "in_progress";
  item.id = RandomId(kind == Kind::kMessage ? "msg_" : kind == Kind::kReasoning ? "rs_" : "fc_", 32);
  open_ = true;
  if (kind == Kind::kCall || !emit_) return;  // of a call the name is known later
  Send("response.output_item.added", Json{{"output_index", items_.size() - 1}, {"item", ItemJson(item)}});
  Json part = Place();
  const bool summary = kind == Kind::kReasoning && summary_;
  part[summary ? "summary_index" : "content_index"] = 0;
  part["part"] = PartOf(item, true);
  Send(summary ? "response.reasoning_summary_part.added" : "response.content_part.added", std::move(part));
}

void ResponseEncoder::Grow(Kind kind, std::string_view text, std::string_view logprobs) {
  Start();
  if (!open_ || items_.back().kind != kind) Open(kind);
  Item& item = items_.back();
  item.text.append(text);
  if (!logprobs.empty()) {
    if (!item.logprobs.empty()) item.logprobs.push_back(',');
    item.logprobs.append(logprobs);
  }
  if (!emit_) return;
  // Written by hand: there is one a token.
  std::string_view type = "response.output_text.delta";
  std::string_view index = R"(,"content_index":0)";
  if (kind == Kind::kCall) {
    type = "response.function_call_arguments.delta";
    index = "";
  } else if (kind == Kind::kReasoning && summary_) {
    type = "response.reasoning_summary_text.delta";
    index = R"(,"summary_index":0)";
  } else if (kind == Kind::kReasoning) {
    type = "response.reasoning_text.delta";
  }
  std::string data =
      fmt::format(R"({{"type":"{}","sequence_number":{},"item_id":"{}","output_index":{}{},"delta":)", type,
                  sequence_++, item.id, items_.size() - 1, index);
  AppendJsonString(data, text);
  if (kind == Kind::kMessage) data.append(R"(,"logprobs":[)").append(logprobs).append("]");
  data.push_back('}');
  emit_(type, std::move(data));
}

void ResponseEncoder::Close(std::string_view status) {
  if (!open_) return;
  open_ = false;
  Item& item = items_.back();
  item.status = status;
  if (!emit_) return;
  Json done = Place();
  if (item.kind == Kind::kCall) {
    done["name"] = item.name;
    done["arguments"] = item.text;
    Send("response.function_call_arguments.done", std::move(done));
  } else {
    const bool summary = item.kind == Kind::kReasoning && summary_;
    const bool reasoning = item.kind == Kind::kReasoning;
    done[summary ? "summary_index" : "content_index"] = 0;
    Json part = done;
    part["part"] = PartOf(item, false);
    done["text"] = item.text;
    if (!reasoning) done["logprobs"] = part["part"]["logprobs"];
    Send(summary     ? "response.reasoning_summary_text.done"
         : reasoning ? "response.reasoning_text.done"
                     : "response.output_text.done",
         std::move(done));
    Send(summary ? "response.reasoning_summary_part.done" : "response.content_part.done", std::move(part));
  }
  Send("response.output_item.done", Json{{"output_index", items_.size() - 1}, {"item", ItemJson(item)}});
}

void ResponseEncoder::Token(const compute::TokenEvent& event) {
  Start();
  if (!event.reasoning.empty()) Grow(Kind::kReasoning, event.reasoning, {});
  const std::string logprobs =
      logprobs_ && event.reasoning.empty() ? Logprobs(event.logprobs) : std::string();
  if (!event.content.empty() || !logprobs.empty()) Grow(Kind::kMessage, event.content, logprobs);
}

void ResponseEncoder::ToolCall(const platform::ToolCallDelta& delta) {
  using Piece = platform::ToolCallDelta::Kind;
  Start();
  switch (delta.kind) {
    case Piece::kBegin: {
      Open(Kind::kCall);
      Item& item = items_.back();
      item.call_id = delta.id;
      item.name = delta.name;
      if (emit_) {
        Send("response.output_item.added",
             Json{{"output_index", items_.size() - 1}, {"item", ItemJson(item)}});
      }
      break;
    }
    case Piece::kArguments: Grow(Kind::kCall, delta.arguments, {}); break;
    case Piece::kEnd: Close("completed"); break;
    // What was told of it cannot be taken back; its text follows, and the item says that it is no call.
    case Piece::kBroken:
      Close("incomplete");
      if (!emit_) items_.pop_back();
      break;
  }
}

void ResponseEncoder::Finish(const compute::FinishEvent& event) {
  cut_off_ = event.reason == compute::FinishReason::kLength;
}

void ResponseEncoder::Last(std::string_view type) {
  completed_ = UnixTimeSeconds();
  last_type_ = type;
  Json event;
  event["type"] = type;
  event["sequence_number"] = sequence_++;
  event["response"] = Body();
  last_event_ = DumpJson(event);
}

void ResponseEncoder::End(const compute::Usage& usage) {
  Start();
  Close(cut_off_ ? "incomplete" : "completed");
  usage_ = Json{{"input_tokens", usage.prompt_tokens},
                {"input_tokens_details", {{"cache_write_tokens", 0}, {"cached_tokens", usage.cached_tokens}}},
                {"output_tokens", usage.completion_tokens},
                {"output_tokens_details", {{"reasoning_tokens", usage.reasoning_tokens}}},
                {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
  status_ = cut_off_ ? "incomplete" : "completed";
  Last(cut_off_ ? "response.incomplete" : "response.completed");
}

void ResponseEncoder::Fail(const Error& error) {
  Start();
  Close("incomplete");
  status_ = "failed";
  error_ = Json{{"code", error.kind == ErrorKind::kOverloaded ? "rate_limit_exceeded" : "server_error"},
                {"message", error.message}};
  Last("response.failed");
}

void ResponseEncoder::EndCancelled() {
  Start();
  Close("incomplete");
  status_ = "cancelled";
  Last("response.incomplete");
}

void ResponseEncoder::AppendToken(std::string& out, int32_t token, float logprob) {
  if (!find_text_) find_text_ = inference_.FindTokenTexts(model_);
  const std::string bytes = find_text_(token);
  out.append(R"({"token":)");
  AppendJsonString(out, bytes);
  // OpenAI's stand-in for minus infinity, which JSON cannot say.
  fmt::format_to(std::back_inserter(out), R"(,"logprob":{},"bytes":[)",
                 std::isfinite(logprob) ? logprob : -9999.0f);
  for (size_t i = 0; i < bytes.size(); ++i) {
    fmt::format_to(std::back_inserter(out), "{}{}", i > 0 ? "," : "",
                   static_cast<unsigned>(static_cast<unsigned char>(bytes[i])));
  }
  out.push_back(']');
}

std::string ResponseEncoder::Logprobs(std::span<const compute::TokenLogprob> tokens) {
  std::string out;
  for (const compute::TokenLogprob& token : tokens) {
    if (!out.empty()) out.push_back(',');
    AppendToken(out, token.token, token.logprob);
    out.append(R"(,"top_logprobs":[)");
    for (size_t i = 0; i < token.top.size(); ++i) {
      if (i > 0) out.push_back(',');
      AppendToken(out, token.top[i].first, token.top[i].second);
      out.push_back('}');
    }
    out.append("]}");
  }
  return out;
}

}  // namespace tidepool::gateway::responses
