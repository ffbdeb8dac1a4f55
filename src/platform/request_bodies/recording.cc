#include "platform/request_bodies/recording.h"

#include <algorithm>

namespace tidepool::platform {
namespace {

constexpr size_t kMostChoices = 1024;  // as inference allows
constexpr size_t kMostCalls = 1024;

}  // namespace

bool BodyMemory::Charge(int64_t bytes) {
  int64_t used = used_.load(std::memory_order_relaxed);
  do {
    if (used + bytes > limit_) return false;
  } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  return true;
}

BodyRecording::BodyRecording(BodyKeeper& keeper, std::shared_ptr<BodyMemory> memory, std::string of_workspace,
                             std::string of_request, size_t max_answer_bytes)
    : workspace(std::move(of_workspace)),
      request(std::move(of_request)),
      keeper_(keeper),
      memory_(std::move(memory)),
      charged_(static_cast<int64_t>(request.size())),
      answer_left_(max_answer_bytes) {}

BodyRecording::~BodyRecording() { memory_->Release(charged_); }

BodyRecording::Choice* BodyRecording::At(int32_t choice) {
  if (choice < 0 || static_cast<size_t>(choice) >= kMostChoices) return nullptr;
  if (choices.size() <= static_cast<size_t>(choice)) choices.resize(static_cast<size_t>(choice) + 1);
  return &choices[static_cast<size_t>(choice)];
}

BodyRecording::Call* BodyRecording::CallAt(int32_t choice, int32_t call) {
  Choice* at = At(choice);
  if (at == nullptr) return nullptr;
  for (Call& one : at->calls) {
    if (one.index == call) return &one;
  }
  if (at->calls.size() >= kMostCalls) return nullptr;
  at->calls.push_back({call, {}, {}, {}});
  return &at->calls.back();
}

// Behind the bound nothing is appended: text with a gap would read as if there were none.
void BodyRecording::Append(std::string& to, std::string_view text) {
  if (text.empty() || answer_cut) return;
  if (text.size() > answer_left_ || !memory_->Charge(static_cast<int64_t>(text.size()))) {
    answer_cut = true;
    return;
  }
  answer_left_ -= text.size();
  charged_ += static_cast<int64_t>(text.size());
  to.append(text);
}

void BodyRecording::Text(int32_t choice, std::string_view content, std::string_view reasoning) {
  Choice* at = At(choice);
  if (at == nullptr) return;
  Append(at->reasoning, reasoning);
  Append(at->content, content);
}

void BodyRecording::BeginCall(int32_t choice, int32_t call, std::string_view id, std::string_view name) {
  Call* at = CallAt(choice, call);
  if (at == nullptr) return;
  Append(at->id, id);
  Append(at->name, name);
}

void BodyRecording::Arguments(int32_t choice, int32_t call, std::string_view arguments) {
  if (Call* at = CallAt(choice, call)) Append(at->arguments, arguments);
}

void BodyRecording::DropCall(int32_t choice, int32_t call) {
  if (Choice* at = At(choice)) std::erase_if(at->calls, [&](const Call& one) { return one.index == call; });
}

void BodyRecording::Vectors(int64_t count, int64_t of_dimensions) {
  vectors = count;
  dimensions = of_dimensions;
}

void BodyRecording::Scores(const std::vector<float>& of_documents) {
  const auto bytes = static_cast<int64_t>(of_documents.size() * sizeof(float));
  if (!memory_->Charge(bytes)) {
    answer_cut = true;
    return;
  }
  charged_ += bytes;
  scores = of_documents;
}

void BodyRecording::Keep(std::string id) {
  usage_id = std::move(id);
  keeper_.Take(shared_from_this());
}

}  // namespace tidepool::platform
