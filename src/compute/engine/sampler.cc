#include "compute/engine/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "base/check.h"
#include "compute/engine/random.h"

namespace tidepool::compute {
namespace {

constexpr float kMasked = -std::numeric_limits<float>::infinity();
// Below this temperature only the largest logit has weight (and 1 / temperature would overflow).
constexpr float kGreedyBelow = 1e-5f;
// exp(-87) is the smallest weight that is not 0; a little more covers the rounding of what is compared with
// it.
constexpr double kDeepest = 88;

bool IsGreedy(const SamplingParams& params) { return params.temperature < kGreedyBelow; }

float Penalised(float logit, const SamplingParams& params, int32_t in_output) {
  logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  if (in_output > 0) {
    logit -= params.frequency_penalty * static_cast<float>(in_output) + params.presence_penalty;
  }
  return logit;
}

// `values` is put in another order.
float KthLargest(float* values, size_t count, size_t k) {
  std::nth_element(values, values + (k - 1), values + count, std::greater<>());
  return values[k - 1];
}

}  // namespace

// ---- counts ------------------------------------------------------------------------------------------

void TokenCounts::Reserve(size_t tokens) {
  entries_.reserve(tokens);
  slots_.assign(std::bit_ceil(2 * tokens + 2), 0);
}

void TokenCounts::Add(int32_t token, bool output) {
  const size_t mask = slots_.size() - 1;
  size_t slot = (static_cast<uint32_t>(token) * 0x9E3779B1u) & mask;
  while (slots_[slot] != 0 && entries_[static_cast<size_t>(slots_[slot] - 1)].token != token)
    slot = (slot + 1) & mask;
  if (slots_[slot] == 0) {
    CHECK(entries_.size() < entries_.capacity());
    entries_.push_back({.token = token, .in_output = 0});
    slots_[slot] = static_cast<int32_t>(entries_.size());
  }
  if (output) ++entries_[static_cast<size_t>(slots_[slot] - 1)].in_output;
}

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f ||
         params.frequency_penalty != 0.0f;
}

bool ReadsWholeRow(const SamplingParams& params) {
  if (params.top_logprobs >= 0) return true;
  if (IsGreedy(params)) return false;
  const bool few = params.top_k > 0 && params.top_k <= static_cast<int32_t>(kRowBlock);
  return !few && (params.top_p < 1.0f || params.min_p <= 0.0f);
}

// ---- the row -----------------------------------------------------------------------------------------

Sampler::Sampler(int32_t max_vocab, const RowKernels& kernels) : kernels_(kernels) {
  const auto vocab = static_cast<size_t>(max_vocab);
  const size_t blocks = (vocab + kRowBlock - 1) / kRowBlock;
  block_.resize(blocks);
  changed_.reserve(blocks);
  touched_.resize(blocks);
  marks_.resize(blocks * (kRowBlock / 64));
  sums_.resize(blocks);
  peaks_.resize(blocks * kRowLanes);
  // Not filled: pages that no request needs are never touched. The kernels may write kRowLanes more than
  // there are.
  copy_.reset(new float[vocab]);
  ids_.reset(new int32_t[vocab + kRowLanes]);
  order_.reset(new int32_t[vocab]);
  values_.reset(new float[vocab + kRowLanes]);
  weights_.reset(new float[vocab + kRowLanes]);
}

uint64_t Sampler::ScratchBytes(int32_t max_vocab) {
  const auto vocab = static_cast<uint64_t>(max_vocab);
  const uint64_t blocks = (vocab + kRowBlock - 1) / kRowBlock;
  return (5 * vocab + (3 + blocks) * kRowLanes) * sizeof(float) +
         blocks * (sizeof(float*) + sizeof(size_t) + sizeof(double) + sizeof(char) + kRowBlock / 8);
}

void Sampler::Open(const Row& row) {
  const size_t count = row.logits.size();
  CHECK(count > 0 && count <= block_.size() * kRowBlock);
  view_ = {.blocks = block_.data(), .peaks = row.peaks, .count = count};
  for (size_t b = 0; b < blocks(); ++b) block_[b] = row.logits.data() + b * kRowBlock;
  if (row.peaks == nullptr) {
    for (size_t b = 0; b < blocks(); ++b)
      kernels_.peaks(block_[b], block_size(b), peaks_.data() + b * kRowLanes);
    view_.peaks = peaks_.data();
  }
  max_ = Largest();
}

float Sampler::Largest() const {
  float lanes[kRowLanes];
  kernels_.lane_maxima(view_.peaks, blocks() * kRowLanes, lanes);
  return *std::max_element(lanes, lanes + kRowLanes);
}

// ---- changes -----------------------------------------------------------------------------------------

// A logit to be changed.
float& Sampler::Changed(int32_t token) {
  const auto t = static_cast<size_t>(token);
  uint64_t& marks = marks_[t / 64];
  const uint64_t mark = uint64_t{1} << (t % 64);
  if ((marks & mark) == 0) {
    marks |= mark;
    copy_[t] = logit(t);
    const size_t block = t / kRowBlock;
    if (!touched_[block]) changed_.push_back(block);
    touched_[block] = true;
  }
  return copy_[t];
}

template <typename Body>
void Sampler::ForEachChanged(const SampleSpec& spec, const Body& body) {
  if (spec.counts != nullptr) {
    for (const TokenCounts::Entry& entry : spec.counts->entries()) body(entry.token);
  }
  for (const auto& [token, bias] : spec.params->logit_bias) body(token);
  for (const int32_t token : spec.masked) body(token);
}

// Applies penalties, bias and masks: to the logits kept in copy_, and to the peaks. The blocks themselves
// follow when they are looked at (Settle), which for most of them is never.
void Sampler::Change(const SampleSpec& spec) {
  if (spec.counts == nullptr && spec.params->logit_bias.empty() && spec.masked.empty()) return;
  if (spec.counts != nullptr) {
    for (const TokenCounts::Entry& entry : spec.counts->entries()) {
      float& logit = Changed(entry.token);
      logit = Penalised(logit, *spec.params, entry.in_output);
    }
  }
  for (const auto& [token, bias] : spec.params->logit_bias) Changed(token) += bias;
  for (const int32_t token : spec.masked) Changed(token) = kMasked;

  if (view_.peaks != peaks_.data()) {
    std::memcpy(peaks_.data(), view_.peaks, blocks() * kRowLanes * sizeof(float));
    view_.peaks = peaks_.data();
  }
  ForEachChanged(spec, [&](int32_t token) {
    const auto t = static_cast<size_t>(token);
    const size_t block = t / kRowBlock;
    float& peak = peaks_[block * kRowLanes + t % kRowLanes];
    // A peak of another logit stands unless this one has passed it; a peak that was this logit's is looked
    // for again.
    const bool was_peak = logit(t) >= peak;
    peak = std::max(peak, copy_[t]);
    if (!was_peak || copy_[t] >= logit(t)) return;
    peak = kMasked;
    const size_t end = block * kRowBlock + block_size(block);
    for (size_t i = block * kRowBlock + t % kRowLanes; i < end; i += kRowLanes) {
      peak = std::max(peak, marked(i) ? copy_[i] : logit(i));
    }
  });
  max_ = Largest();
}

// Makes a changed block whole in copy_.
void Sampler::Settle(size_t block) {
  if (!touched_[block] || block_[block] == copy_.get() + block * kRowBlock) return;
  const size_t begin = block * kRowBlock, end = begin + block_size(block);
  for (size_t i = begin; i < end; i += 64) {
    const size_t stop = std::min(end, i + 64);
    const uint64_t marks = marks_[i / 64];
    if (marks == 0) {
      std::copy(block_[block] + (i - begin), block_[block] + (stop - begin), copy_.get() + i);
      continue;
    }
    for (size_t j = i; j < stop; ++j) copy_[j] = (marks >> (j - i) & 1) != 0 ? copy_[j] : logit(j);
  }
  block_[block] = copy_.get() + begin;
}

// Takes all logits that may not come out, after everything else was changed: blocks of which all may stay as
// they are, those of which none may are one that nothing stands in.
void Sampler::Allow(const SampleSpec& spec) {
  static constexpr size_t kWords = kRowBlock / 64;
  static const std::array<float, kRowBlock> kNothing = [] {
    std::array<float, kRowBlock> block;
    block.fill(kMasked);
    return block;
  }();
  // [four bits][logit]: keeps a float's bits or takes them.
  static constexpr auto kKeep = [] {
    std::array<std::array<uint32_t, 4>, 16> keep{};
    for (size_t bits = 0; bits < 16; ++bits) {
      for (size_t i = 0; i < 4; ++i) keep[bits][i] = (bits >> i & 1) != 0 ? 0xffffffffu : 0;
    }
    return keep;
  }();
  constexpr uint32_t kMaskedBits = 0xff800000u;
  for (size_t b = 0; b < blocks(); ++b) {
    const size_t size = block_size(b);
    uint64_t words[kWords] = {};
    uint64_t any = 0, all = ~uint64_t{0};
    for (size_t w = 0; w * 64 < size; ++w) {
      const size_t at = b * kWords + w;
      if (at < spec.allowed.size()) words[w] = spec.allowed[at];
      if (spec.also_allowed >= 0 && static_cast<size_t>(spec.also_allowed) / 64 == at) {
        words[w] |= uint64_t{1} << (spec.also_allowed % 64);
      }
      const size_t there = std::min<size_t>(64, size - w * 64);
      const uint64_t whole = there == 64 ? ~uint64_t{0} : (uint64_t{1} << there) - 1;
      words[w] &= whole;
      any |= words[w];
      all &= words[w] | ~whole;
    }
    float* const lanes = peaks_.data() + b * kRowLanes;
    if (any == 0) {
      block_[b] = kNothing.data();
      std::fill_n(lanes, kRowLanes, kMasked);
      touched_[b] = false;  // nothing of it is left to settle
      continue;
    }
    if (all == ~uint64_t{0}) {
      if (view_.peaks != peaks_.data()) std::copy_n(view_.peaks + b * kRowLanes, kRowLanes, lanes);
      continue;
    }
    Settle(b);
    touched_[b] = false;
    float* const out = copy_.get() + b * kRowBlock;
    const float* const in = block_[b];
    size_t i = 0;
    for (; i + 4 <= size; i += 4) {
      const auto& keep = kKeep[words[i / 64] >> (i % 64) & 15];
      uint32_t bits[4];
      std::memcpy(bits, in + i, sizeof(bits));
      for (size_t j = 0; j < 4; ++j) bits[j] = (bits[j] & keep[j]) | (kMaskedBits & ~keep[j]);
      std::memcpy(out + i, bits, sizeof(bits));
    }
    for (; i < size; ++i) out[i] = (words[i / 64] >> (i % 64) & 1) != 0 ? in[i] : kMasked;
    block_[b] = out;
    kernels_.lane_maxima(out, size, lanes);
  }
  view_.peaks = peaks_.data();
  max_ = Largest();
}

void Sampler::ForgetChanges(const SampleSpec& spec) {
  ForEachChanged(spec, [&](int32_t token) { marks_[static_cast<size_t>(token) / 64] = 0; });
  for (const size_t block : changed_) touched_[block] = false;
  changed_.clear();
}

// ---- looking at the row ------------------------------------------------------------------------------

// Candidates: all logits that are at least `floor`.
size_t Sampler::TakeAbove(float floor) {
  for (const size_t block : changed_) {
    const float* const peaks = view_.peaks + block * kRowLanes;
    if (*std::max_element(peaks, peaks + kRowLanes) >= floor) Settle(block);
  }
  return kernels_.at_least(view_, floor, ids_.get(), values_.get());
}

int32_t Sampler::ArgMax() {
  // The first block with such a peak holds the lowest id.
  const float* const peak = std::find(view_.peaks, view_.peaks + blocks() * kRowLanes, max_);
  const size_t block = static_cast<size_t>(peak - view_.peaks) / kRowLanes;
  Settle(block);
  const float* const x = block_[block];
  return static_cast<int32_t>(block * kRowBlock +
                              static_cast<size_t>(std::find(x, x + block_size(block), max_) - x));
}

// At most the k-th largest logit: every peak is a logit of its own. -inf if there are fewer peaks than k.
float Sampler::KthPeak(size_t k) {
  const size_t count = blocks() * kRowLanes;
  if (k > count) return kMasked;
  if (k > 64) {
    std::copy_n(view_.peaks, count, weights_.get());
    return KthLargest(weights_.get(), count, k);
  }
  // A heap of the k best so far: most peaks fail the first comparison.
  float heap[64];
  std::copy_n(view_.peaks, k, heap);
  std::make_heap(heap, heap + k, std::greater<>());
  for (const float* peak = view_.peaks + k; peak != view_.peaks + count; ++peak) {
    if (*peak <= heap[0]) continue;
    std::pop_heap(heap, heap + k, std::greater<>());
    heap[k - 1] = *peak;
    std::push_heap(heap, heap + k, std::greater<>());
  }
  return heap[0];
}

// ---- candidates --------------------------------------------------------------------------------------

int32_t Sampler::Sample(const Row& row, const SampleSpec& spec) {
  Open(row);
  if (!std::isfinite(max_)) return -1;
  Change(spec);
  if (!spec.allowed.empty()) Allow(spec);
  const int32_t token = std::isfinite(max_) ? Draw(spec) : -1;
  ForgetChanges(spec);
  return token;
}

int32_t Sampler::Draw(const SampleSpec& spec) {
  const SamplingParams& params = *spec.params;
  if (IsGreedy(params)) return ArgMax();

  const float inverse_temperature = 1.0f / params.temperature;
  const double share = UniformAt(spec.seed, spec.index);
  const auto k = static_cast<size_t>(params.top_k);
  const auto top_p = static_cast<double>(params.top_p);
  size_t count = 0;
  if (k > 0 && k < view_.count) {
    count = TakeLargest(k);
    kernels_.weights(values_.get(), count, max_, inverse_temperature, weights_.get());
    if (top_p < 1)
      CutNucleus(count, FloorAt(kDeepest, params.temperature), top_p * kernels_.sum(weights_.get(), count));
  } else if (top_p < 1) {
    const double mass = top_p * Mass(inverse_temperature);
    double depth = 0;
    count = TakeMass(params.temperature, mass, depth);
    CutNucleus(count, FloorAt(depth, params.temperature), mass);
  } else if (params.min_p > 0) {
    const double depth = -std::log(static_cast<double>(params.min_p));
    count = TakeAbove(FloorAt(depth, params.temperature));
    kernels_.weights(values_.get(), count, max_, inverse_temperature, weights_.get());
  } else {
    return DrawFromRow(inverse_temperature, share);
  }
  if (params.min_p > 0) {  // the largest weight is exp(0) = 1
    for (size_t i = 0; i < count; ++i) weights_[i] = weights_[i] >= params.min_p ? weights_[i] : 0.0f;
  }
  return DrawFrom(count, share * kernels_.sum(weights_.get(), count));
}

// The logit that is `depth` (in nats, after the temperature) below the largest, or a little less: weights are
// compared as they come out of float arithmetic, which errs by less than 1e-5 of the depth and 1e-5.
float Sampler::FloorAt(double depth, float temperature) const {
  depth = std::min(depth, kDeepest) * (1 + 1e-5) + 1e-5;
  const double floor = static_cast<double>(max_) - static_cast<double>(temperature) * depth;
  return floor < std::numeric_limits<float>::lowest() ? kMasked : static_cast<float>(floor);
}

// The sum of all weights; block by block in sums_.
double Sampler::Mass(float inverse_temperature) {
  for (const size_t block : changed_) Settle(block);
  kernels_.block_sums(view_, max_, inverse_temperature, sums_.data());
  double mass = 0;
  for (size_t b = 0; b < blocks(); ++b) mass += sums_[b];
  return mass;
}

// Candidates: the k largest and what equals the last of them.
size_t Sampler::TakeLargest(size_t k) {
  const size_t count = TakeAbove(KthPeak(k));
  std::copy_n(values_.get(), count, weights_.get());
  const float floor = KthLargest(weights_.get(), count, k);
  size_t kept = 0;
  for (size_t i = 0; i < count; ++i) {
    ids_[kept] = ids_[i];
    values_[kept] = values_[i];
    kept += values_[i] >= floor ? 1 : 0;
  }
  return kept;
}

// Candidates: the largest logits that together weigh `mass`, and perhaps more of them, down to `depth`; their
// weights.
size_t Sampler::TakeMass(float temperature, double mass, double& depth) {
  // Four nats are enough where the model is sure of itself. Looking again deeper costs less than looking too
  // deep.
  for (depth = 4;; depth *= 1.5) {
    const size_t count = TakeAbove(FloorAt(depth, temperature));
    kernels_.weights(values_.get(), count, max_, 1.0f / temperature, weights_.get());
    if (depth >= kDeepest || kernels_.sum(weights_.get(), count) >= mass) return count;
  }
}

// Finds where the candidates in falling order reach `mass`, and takes the weight of those after it. Without
// sorting them: halving the range of logits in which that happens leaves a few, a weighted selection finds
// the place in these.
void Sampler::CutNucleus(size_t count, float lowest, double mass) {
  constexpr size_t kFew = 512;
  // Candidates of at least `high` weigh `before`, less than the mass; those of at least `low` weigh as much,
  // or are all.
  float low = lowest, high = std::numeric_limits<float>::infinity();
  size_t above = 0, upto = count;
  double before = 0;
  while (upto - above > kFew) {
    const float middle = low / 2 + std::min(high, max_) / 2;
    if (!(middle > low && middle < high)) break;  // what is left is equal, or nearly
    size_t found = 0;
    const double upper = kernels_.sum_at_least(values_.get(), weights_.get(), count, middle, &found);
    if (upper >= mass) {
      low = middle;
      upto = found;
    } else {
      high = middle;
      above = found;
      before = upper;
    }
  }
  // Without branches: which of the candidates these are cannot be foreseen.
  const float* const values = values_.get();
  float* const weights = weights_.get();
  int32_t* const order = order_.get();
  size_t found = 0;
  for (size_t i = 0; i < count && found < upto - above; ++i) {
    order[found] = static_cast<int32_t>(i);
    found += static_cast<size_t>(values[i] >= low) & static_cast<size_t>(values[i] < high);
  }
  if (found == 0) return;  // rounding left all of them just below the mass

  // Candidates stand in the order of their ids.
  auto comes_first = [&](int32_t a, int32_t b) {
    const float va = values[static_cast<size_t>(a)], vb = values[static_cast<size_t>(b)];
    return va != vb ? va > vb : a < b;
  };
  size_t begin = 0, end = found;  // the cut is the first candidate at which `before` reaches the mass
  while (end - begin > 32) {
    const size_t middle = begin + (end - begin) / 2;
    std::nth_element(order + begin, order + middle, order + end, comes_first);
    double upper = 0;
    for (size_t i = begin; i < middle; ++i)
      upper += static_cast<double>(weights[static_cast<size_t>(order[i])]);
    if (before + upper >= mass) {
      end = middle;
    } else {
      before += upper;
      begin = middle;
    }
  }
  std::sort(order + begin, order + end, comes_first);
  size_t at = begin;
  while (at + 1 < end) {
    before += static_cast<double>(weights[static_cast<size_t>(order[at])]);
    if (before >= mass) break;
    ++at;
  }
  const auto last = static_cast<size_t>(order[at]);
  const float floor = values[last];
  for (size_t i = 0; i <= last; ++i) weights[i] = values[i] >= floor ? weights[i] : 0.0f;
  for (size_t i = last + 1; i < count; ++i) weights[i] = values[i] > floor ? weights[i] : 0.0f;
}

// ---- the draw ----------------------------------------------------------------------------------------

// The first candidate at which the weights added up exceed `target`.
int32_t Sampler::DrawFrom(size_t count, double target) const {
  double before = 0;
  for (size_t begin = 0; begin < count; begin += kRowBlock) {
    const size_t end = std::min(count, begin + kRowBlock);
    const double block = kernels_.sum(weights_.get() + begin, end - begin);
    if (before + block > target) {
      double upto = before;
      for (size_t i = begin; i < end; ++i) {
        upto += static_cast<double>(weights_[i]);
        if (upto > target && weights_[i] > 0.0f) return ids_[i];
      }
    }
    before += block;
  }
  // Rounding left the target at the very end: the last token that may come out.
  size_t last = count - 1;
  while (weights_[last] <= 0.0f) --last;
  return ids_[last];
}

// The same over the whole row, of which only the block of the draw gets its weights written.
int32_t Sampler::DrawFromRow(float inverse_temperature, double share) {
  const double target = share * Mass(inverse_temperature);
  const auto weigh = [&](size_t block) {
    kernels_.weights(block_[block], block_size(block), max_, inverse_temperature, weights_.get());
  };
  double before = 0;
  size_t last_block = 0;  // in which something has weight
  for (size_t b = 0; b < blocks(); ++b) {
    if (sums_[b] <= 0) continue;
    last_block = b;
    if (before + sums_[b] > target) {
      weigh(b);
      double upto = before;
      for (size_t i = 0; i < block_size(b); ++i) {
        upto += static_cast<double>(weights_[i]);
        if (upto > target && weights_[i] > 0.0f) return static_cast<int32_t>(b * kRowBlock + i);
      }
    }
    before += sums_[b];
  }
  // Rounding left the target at the very end: the last token that may come out.
  weigh(last_block);
  size_t last = block_size(last_block) - 1;
  while (weights_[last] <= 0.0f) --last;
  return static_cast<int32_t>(last_block * kRowBlock + last);
}

// ---- logprobs ----------------------------------------------------------------------------------------

void Sampler::Logprobs(const Row& row, int32_t token, int32_t top, TokenLogprob& out) {
  Open(row);
  out.token = token;
  out.logprob = std::numeric_limits<float>::quiet_NaN();
  out.top.clear();
  if (!std::isfinite(max_)) return;
  const double log_sum = static_cast<double>(max_) + std::log(Mass(1.0f));
  auto logprob = [&](float logit) { return static_cast<float>(static_cast<double>(logit) - log_sum); };
  out.logprob = logprob(row.logits[static_cast<size_t>(token)]);
  const auto wanted = std::min(static_cast<size_t>(std::max(top, 0)), row.logits.size());
  if (wanted == 0) return;
  const size_t count = TakeAbove(KthPeak(wanted));
  for (size_t i = 0; i < count; ++i) {
    if (out.top.size() == wanted && values_[i] <= out.top.back().second) continue;
    if (out.top.size() == wanted) out.top.pop_back();
    const auto at =
        std::find_if(out.top.begin(), out.top.end(), [&](const auto& t) { return t.second < values_[i]; });
    out.top.insert(at, {ids_[i], values_[i]});
  }
  for (auto& [id, value] : out.top) value = logprob(value);
}

}  // namespace tidepool::compute
