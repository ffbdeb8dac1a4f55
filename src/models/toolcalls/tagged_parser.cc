#include "models/toolcalls/tagged_parser.h"

#include <algorithm>
#include <utility>

namespace tidepool::toolcalls {
namespace {

// More white space than this is text.
constexpr size_t kMaxSpaces = 4096;

}  // namespace

// ---- parts ---------------------------------------------------------------------------------------------

void CallWriter::Text(std::string_view text) {
  if (text.empty()) return;
  if (out_->empty() || out_->back().kind != Part::Kind::kText) out_->push_back({Part::Kind::kText, 0});
  out_->back().text += text;
}

void CallWriter::Begin(std::string_view name) {
  out_->push_back({Part::Kind::kCall, calls_++, std::string(name)});
  open_ = true;
}

void CallWriter::Arguments(std::string_view piece) {
  if (piece.empty()) return;
  if (out_->empty() || out_->back().kind != Part::Kind::kArguments) {
    out_->push_back({Part::Kind::kArguments, calls_ - 1});
  }
  out_->back().text += piece;
}

void CallWriter::End() {
  out_->push_back({Part::Kind::kEnd, calls_ - 1});
  open_ = false;
}

void CallWriter::Break() {
  if (open_) out_->push_back({Part::Kind::kBroken, calls_ - 1});
  open_ = false;
}

const Tool* CallWriter::Find(std::string_view name) const {
  const auto found =
      std::find_if(tools_.begin(), tools_.end(), [&](const Tool& tool) { return tool.name == name; });
  return found == tools_.end() ? nullptr : &*found;
}

// ---- text and tags -------------------------------------------------------------------------------------

void TaggedParser::Push(std::string_view text, std::vector<Part>& out) {
  writer_.Into(out);
  for (const char byte : text) TakeByte(byte);
}

void TaggedParser::TakeByte(char byte) {
  if (!in_call_) return TakeText(byte);
  const Step step = Take(byte);
  if (step != Step::kEndBefore) raw_ += byte;
  if (settled_) raw_.clear();
  settled_ = false;
  switch (step) {
    case Step::kMore: return;
    case Step::kBad: return Break();
    case Step::kEnd:
    case Step::kEndBefore:
      in_call_ = false;
      after_call_ = true;
      raw_.clear();
      if (step == Step::kEndBefore) TakeText(byte);
  }
}

void TaggedParser::TakeText(char byte) {
  held_ += byte;
  // Give out what can no longer be a tag's beginning.
  const auto may_be_tag = [&] {
    return std::any_of(open_tags_.begin(), open_tags_.end(),
                       [&](std::string_view tag) { return tag.starts_with(held_); });
  };
  while (!held_.empty() && !may_be_tag()) {
    const char first = held_.front();
    if (IsSpace(first)) {
      held_.erase(0, 1);
      if (!after_call_) spaces_ += first;
      if (spaces_.size() >= kMaxSpaces) {
        writer_.Text(spaces_);
        spaces_.clear();
      }
      continue;
    }
    if (OpensAt(first, !any_text_)) {
      const std::string rest = held_.substr(1);
      held_.clear();
      raw_ = std::exchange(spaces_, {}) + first;
      in_call_ = true;
      for (const char next : rest) TakeByte(next);
      return;
    }
    Release(1);
  }
  for (size_t i = 0; i < open_tags_.size(); ++i) {
    if (held_ != open_tags_[i]) continue;
    raw_ = std::exchange(spaces_, {}) + std::exchange(held_, {});
    in_call_ = true;
    Open(i);
    return;
  }
}

// The first bytes of held_ are text, and so is the white space before them.
void TaggedParser::Release(size_t bytes) {
  writer_.Text(spaces_);
  writer_.Text(std::string_view(held_).substr(0, bytes));
  spaces_.clear();
  held_.erase(0, bytes);
  any_text_ = true;
  after_call_ = false;
}

void TaggedParser::Break() {
  writer_.Break();
  writer_.Text(raw_);
  raw_.clear();
  in_call_ = false;
  any_text_ = true;
  after_call_ = false;
}

void TaggedParser::Finish(std::vector<Part>& out) {
  writer_.Into(out);
  if (in_call_) {
    if (TakeEnd() != Step::kEnd) Break();
    in_call_ = false;
    return;
  }
  if (!held_.empty()) Release(held_.size());
  writer_.Text(spaces_);
  spaces_.clear();
}

}  // namespace tidepool::toolcalls
