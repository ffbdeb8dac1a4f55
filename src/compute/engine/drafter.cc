#include "compute/engine/drafter.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

namespace tidepool::compute {
namespace {

constexpr size_t kMaxPlaces = 32768;
constexpr double kSmoothing = 0.3;
constexpr int32_t kLongestRest = 512;

}  // namespace

void Drafter::Reserve(size_t tokens) {
  places_.assign(std::clamp<size_t>(std::bit_ceil(4 * tokens), 256, kMaxPlaces), 0);
}

size_t Drafter::SlotOf(const int32_t* last) const {
  uint64_t hash = 0;
  for (size_t i = 0; i < kGram; ++i) hash = (hash ^ static_cast<uint32_t>(last[i])) * 0x9E3779B97F4A7C15u;
  hash ^= hash >> 29;
  return (hash * 0xBF58476D1CE4E5B9u >> 33) & (places_.size() - 1);
}

// A gram is entered when the token after it is known, so that none is found at its own end.
void Drafter::Add(std::span<const int32_t> tokens) {
  for (size_t next = std::max(added_, kGram); next < tokens.size(); ++next) {
    places_[SlotOf(tokens.data() + next - kGram)] = static_cast<int32_t>(next);
  }
  added_ = tokens.size();
}

void Drafter::Propose(std::span<const int32_t> tokens, std::span<const int32_t> ahead, int32_t most,
                      std::vector<int32_t>& out) {
  const int32_t length = std::min(most, pace_.Length());
  if (length <= 0 || tokens.size() < kGram) return;
  std::array<int32_t, kGram> last_tokens;
  const size_t from_ahead = std::min(kGram, ahead.size());
  std::copy_n(tokens.end() - static_cast<ptrdiff_t>(kGram - from_ahead), kGram - from_ahead,
              last_tokens.begin());
  std::copy_n(ahead.end() - static_cast<ptrdiff_t>(from_ahead), from_ahead,
              last_tokens.begin() + static_cast<ptrdiff_t>(kGram - from_ahead));
  const int32_t* const last = last_tokens.data();
  const auto place = static_cast<size_t>(places_[SlotOf(last)]);
  if (place == 0 || std::memcmp(tokens.data() + place - kGram, last, kGram * sizeof(int32_t)) != 0) return;
  const size_t count = std::min(static_cast<size_t>(length), tokens.size() - place);
  out.insert(out.end(), tokens.begin() + static_cast<ptrdiff_t>(place),
             tokens.begin() + static_cast<ptrdiff_t>(place + count));
}

int32_t DraftPace::Length() {
  if (rest_ == 0) return length_;
  --rest_;
  return 0;
}

void DraftPace::Learn(int32_t proposed, int32_t accepted, double row_cost) {
  if (proposed == 0) return;
  balance_ += kSmoothing * (accepted - row_cost * proposed - balance_);
  if (accepted == proposed) {
    length_ = std::min(2 * length_, kMaxDraft);
  } else {
    length_ = std::clamp(accepted + 2, 2, kMaxDraft);
  }
  if (balance_ >= 0) {
    next_rest_ = 16;
    return;
  }
  rest_ = next_rest_;
  next_rest_ = std::min(2 * next_rest_, kLongestRest);
}

}  // namespace tidepool::compute
