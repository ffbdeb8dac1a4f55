#include "models/grammar/automaton.h"

#include <algorithm>

namespace tidepool::grammar {
namespace {

constexpr uint64_t Mix(uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdULL;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53ULL;
  return x ^ x >> 33;
}

constexpr uint64_t PlaceOf(int32_t node, int32_t frame) {
  return static_cast<uint64_t>(static_cast<uint32_t>(node)) << 32 | static_cast<uint32_t>(frame);
}
constexpr int32_t NodeOf(uint64_t place) { return static_cast<int32_t>(place >> 32); }
constexpr int32_t FrameOf(uint64_t place) { return static_cast<int32_t>(place & 0xffffffffu); }

int32_t OneLess(int32_t count) { return count > 0 ? count - 1 : count; }

}  // namespace

size_t Automaton::FrameHash::operator()(const Frame& frame) const {
  const uint64_t counts =
      static_cast<uint64_t>(static_cast<uint32_t>(frame.to_min)) << 32 | static_cast<uint32_t>(frame.to_max);
  return Mix(Mix(PlaceOf(frame.node, frame.parent)) ^ counts);
}

Automaton::Automaton(std::shared_ptr<const Program> program)
    : program_(std::move(program)), classes_(static_cast<size_t>(program_->classes)) {
  frames_.push_back({.node = -1});
  states_.resize(2);
  transitions_.assign(2 * classes_, 0);
  std::fill_n(transitions_.begin() + static_cast<ptrdiff_t>(classes_), classes_, kTooComplex);
  seen_.assign(64, 0);
  Add(program_->start, 0);
  start_ = Intern();
}

// Open addressing, doubled when half full; emptied by Intern.
bool Automaton::See(Place place) {
  const size_t mask = seen_.size() - 1;
  size_t slot = Mix(place) & mask;
  while (seen_[slot] != 0 && seen_[slot] != place + 1) slot = (slot + 1) & mask;
  if (seen_[slot] != 0) return false;
  seen_[slot] = place + 1;
  if (++seen_count_ * 2 > seen_.size()) {
    std::vector<Place> old(seen_.size() * 2, 0);
    old.swap(seen_);
    const size_t wider = seen_.size() - 1;
    for (const Place entry : old) {
      if (entry == 0) continue;
      size_t at = Mix(entry - 1) & wider;
      while (seen_[at] != 0) at = (at + 1) & wider;
      seen_[at] = entry;
    }
  }
  return true;
}

int32_t Automaton::Push(const Frame& frame) {
  const auto [entry, fresh] = frame_ids_.try_emplace(frame, static_cast<int32_t>(frames_.size()));
  if (fresh) {
    frames_.push_back(frame);
    bytes_ += sizeof(Frame) * 3 + 32;
  }
  return entry->second;
}

void Automaton::AddLoop(int32_t node, int32_t to_min, int32_t to_max, int32_t parent) {
  const Node& repeat = program_->nodes[static_cast<size_t>(node)];
  if (to_max != 0) {
    work_.push_back(
        PlaceOf(repeat.what, Push({.node = node, .to_min = to_min, .to_max = to_max, .parent = parent})));
  }
  if (to_min == 0) work_.push_back(PlaceOf(repeat.next, parent));
}

// Adds a place and all that can be reached from it without a byte.
void Automaton::Add(int32_t node, int32_t frame) {
  work_.push_back(PlaceOf(node, frame));
  while (!work_.empty() && !too_complex_) {
    const Place place = work_.back();
    work_.pop_back();
    ++work_done_;
    if (!See(place)) continue;
    if (seen_count_ > 4 * kMaxPlaces) too_complex_ = true;
    const int32_t at = NodeOf(place), top = FrameOf(place);
    const Node& here = program_->nodes[static_cast<size_t>(at)];
    switch (here.kind) {
      case Node::Kind::kChars: places_.push_back(place); break;
      case Node::Kind::kSplit:
        for (int32_t i = 0; i < here.next; ++i) {
          work_.push_back(PlaceOf(program_->targets[static_cast<size_t>(here.what + i)], top));
        }
        break;
      case Node::Kind::kCall: {
        const int32_t start = program_->rule_starts[static_cast<size_t>(here.what)];
        // What has nothing more to do needs no place to return to: lists may go on for ever.
        const int32_t under = here.next == Program::kReturnNode ? top : Push({.node = at, .parent = top});
        work_.push_back(PlaceOf(start, under));
        break;
      }
      case Node::Kind::kRepeat: AddLoop(at, here.min, here.max, top); break;
      case Node::Kind::kReturn: {
        if (top == 0) {
          accepts_ = true;
          break;
        }
        const Frame ended = frames_[static_cast<size_t>(top)];
        const Node& caller = program_->nodes[static_cast<size_t>(ended.node)];
        if (caller.kind == Node::Kind::kCall) {
          work_.push_back(PlaceOf(caller.next, ended.parent));
        } else {
          AddLoop(ended.node, OneLess(ended.to_min), OneLess(ended.to_max), ended.parent);
        }
      }
    }
  }
}

// The number of the state that was made.
StateId Automaton::Intern() {
  work_.clear();
  seen_.assign(seen_count_ * 8 < seen_.size() ? 64 : seen_.size(), 0);
  seen_count_ = 0;
  std::vector<Place> places = std::move(places_);
  places_.clear();
  const bool accepts = std::exchange(accepts_, false);
  if (std::exchange(too_complex_, false) || places.size() > kMaxPlaces) return kTooComplex;
  if (places.empty() && !accepts) return kDead;
  std::sort(places.begin(), places.end());
  uint64_t hash = accepts ? 1 : 0;
  for (const Place place : places) hash = Mix(hash ^ place);
  const auto [begin, end] = state_ids_.equal_range(hash);
  for (auto it = begin; it != end; ++it) {
    const State& state = states_[static_cast<size_t>(it->second)];
    if (state.accepts == accepts && state.places == places) {
      places_ = std::move(places);
      places_.clear();
      return it->second;
    }
  }
  const auto id = static_cast<StateId>(states_.size());
  bytes_ += places.size() * sizeof(Place) + sizeof(State) + classes_ * sizeof(StateId) + 48;
  states_.push_back({.places = std::move(places), .accepts = accepts});
  transitions_.resize(transitions_.size() + classes_, -1);
  state_ids_.emplace(hash, id);
  return id;
}

StateId Automaton::Find(StateId state, uint8_t byte) {
  for (size_t i = 0; i < states_[static_cast<size_t>(state)].places.size(); ++i) {
    const Place place = states_[static_cast<size_t>(state)].places[i];
    const Node& node = program_->nodes[static_cast<size_t>(NodeOf(place))];
    if (program_->sets[static_cast<size_t>(node.what)][byte]) Add(node.next, FrameOf(place));
  }
  const StateId next = Intern();
  transitions_[static_cast<size_t>(state) * classes_ + program_->byte_class[byte]] = next;
  return next;
}

int32_t Automaton::FrameWithin(int32_t frame, int32_t horizon, std::unordered_map<int32_t, int32_t>& known) {
  // Stacks may be deep: from the bottom, without recursion.
  std::vector<int32_t> path;
  int32_t at = frame;
  while (at != 0 && !known.contains(at)) {
    path.push_back(at);
    at = frames_[static_cast<size_t>(at)].parent;
  }
  int32_t mapped = at == 0 ? 0 : known.at(at);
  for (; !path.empty(); path.pop_back()) {
    Frame copy = frames_[static_cast<size_t>(path.back())];
    copy.parent = mapped;
    if (copy.to_max > horizon) copy.to_max = kUnbounded;
    copy.to_min = std::min(copy.to_min, horizon + 1);
    mapped = Push(copy);
    known.emplace(path.back(), mapped);
  }
  return mapped;
}

StateId Automaton::Within(StateId state, int32_t horizon) {
  if (const StateId known = states_[static_cast<size_t>(state)].within; known >= 0) return known;
  std::unordered_map<int32_t, int32_t> known;
  const std::vector<Place> places = states_[static_cast<size_t>(state)].places;
  for (const Place place : places) {
    places_.push_back(PlaceOf(NodeOf(place), FrameWithin(FrameOf(place), horizon, known)));
  }
  std::sort(places_.begin(), places_.end());
  places_.erase(std::unique(places_.begin(), places_.end()), places_.end());
  accepts_ = states_[static_cast<size_t>(state)].accepts;
  const StateId within = state <= kTooComplex ? state : Intern();
  places_.clear();
  accepts_ = false;
  states_[static_cast<size_t>(state)].within = within;
  return within;
}

int32_t Automaton::JsonStringRoom(StateId state) const {
  const std::vector<Place>& places = states_[static_cast<size_t>(state)].places;
  int32_t room = 0;
  std::vector<int32_t> strings;  // their frames
  for (const Place place : places) {
    if (!program_->nodes[static_cast<size_t>(NodeOf(place))].json_string) continue;
    strings.push_back(FrameOf(place));
    const int32_t most = frames_[static_cast<size_t>(FrameOf(place))].to_max;
    if (most == kUnbounded) return kUnbounded;
    room = std::max(room, most);
  }
  // With a bound, nothing else may take what such strings are made of: anything but a quote or a backslash.
  for (const Place place : places) {
    if (room == 0) break;
    if (std::find(strings.begin(), strings.end(), FrameOf(place)) != strings.end()) continue;
    const Node& node = program_->nodes[static_cast<size_t>(NodeOf(place))];
    const std::bitset<256>& set = program_->sets[static_cast<size_t>(node.what)];
    for (size_t b = 0x20; b < 256; ++b) {
      if (set[b] && b != '"' && b != '\\') return 0;
    }
  }
  return room;
}

std::optional<uint8_t> Automaton::OnlyByte(StateId state) const {
  std::bitset<256> any;
  for (const Place place : states_[static_cast<size_t>(state)].places) {
    any |= program_->sets[static_cast<size_t>(program_->nodes[static_cast<size_t>(NodeOf(place))].what)];
  }
  if (any.count() != 1) return std::nullopt;
  return static_cast<uint8_t>(any._Find_first());
}

StateId Automaton::Import(const Automaton& other, StateId state) {
  if (state <= kTooComplex) return state;
  std::unordered_map<int32_t, int32_t> known;
  const State& from = other.states_[static_cast<size_t>(state)];
  for (const Place place : from.places) {
    std::vector<int32_t> path;
    int32_t at = FrameOf(place);
    while (at != 0 && !known.contains(at)) {
      path.push_back(at);
      at = other.frames_[static_cast<size_t>(at)].parent;
    }
    int32_t mapped = at == 0 ? 0 : known.at(at);
    for (; !path.empty(); path.pop_back()) {
      Frame copy = other.frames_[static_cast<size_t>(path.back())];
      copy.parent = mapped;
      mapped = Push(copy);
      known.emplace(path.back(), mapped);
    }
    places_.push_back(PlaceOf(NodeOf(place), mapped));
  }
  accepts_ = from.accepts;
  return Intern();
}

}  // namespace tidepool::grammar
