#include "chips/cpu/attention_ops.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "chips/cpu/cpu_ops.h"

namespace tidepool::chips::cpu {
namespace {

static_assert(kKvScaleGroup == kKvGroup);

// Row elements of a tile: with the rounded keys and values of a split it stays in the second-level cache.
constexpr int64_t kRowElements = 32 * 1024;
constexpr int64_t kReservedDim = 256;
constexpr int64_t kChunksPerThread = 16;
constexpr int64_t kItemsPerThread = 4;                // fewer tiles than this a thread: smaller ones
constexpr int64_t kPartialFloats = int64_t{1} << 20;  // 4 MiB of split attention

int64_t MostTileRows(int64_t dim) {
  return std::clamp<int64_t>(kRowElements / std::max<int64_t>(dim, 1) / 16 * 16, 16, kAttentionRows);
}
KvElement ElementOf(DataType type) {
  switch (type) {
    case DataType::kF32: return kKvF32;
    case DataType::kF16: return kKvF16;
    case DataType::kBF16: return kKvBF16;
    case DataType::kQ8_0: return kKvQ8;
    case DataType::kI16: return kKvI16;
    default: break;
  }
  CHECK(false);
}

// The sequence that `index` falls in, where sequence i begins at first[i].
size_t SequenceAt(const std::vector<int64_t>& first, int64_t index) {
  return static_cast<size_t>(std::upper_bound(first.begin(), first.end(), index) - first.begin() - 1);
}

}  // namespace

int64_t AttentionOps::ScratchFloats(int64_t rows, int64_t key_dim, int64_t value_dim) const {
  return tiles_ != nullptr ? TileAttentionFloats(rows, key_dim, value_dim)
                           : AttentionScratchFloats(rows, key_dim, value_dim);
}

// Of any head of at most kReservedDim dimensions: the rows' part is bounded by kRowElements, the rest grows
// with the dimensions.
int64_t AttentionOps::ReservedFloats() const {
  return std::max(
      {ScratchFloats(MostTileRows(kReservedDim), kReservedDim, kReservedDim),
       ScratchFloats(kAttentionRows, kRowElements / kAttentionRows, kRowElements / kAttentionRows),
       DecodeScratchFloats(kDecodeRows / kDecodeGroup, kDecodeGroup, kReservedDim, kReservedDim)});
}

void AttentionOps::Attend(const AttentionTask& task) const {
  const bool on_tiles =
      tiles_ != nullptr && task.element == kKvI16 && task.row_end - task.row_begin >= kTileRows;
  on_tiles ? tiles_->attend(task) : kernels_.attend(task);
}

size_t AttentionOps::ScratchBytes(int32_t max_tokens) const {
  const auto threads = static_cast<size_t>(pool_.threads());
  return threads * static_cast<size_t>(ReservedFloats()) * sizeof(float) +
         static_cast<size_t>(kPartialFloats) * sizeof(float) +
         (static_cast<size_t>(max_tokens) + 2 * kDecodeRows * kItemsPerThread * threads + 2) *
             sizeof(int64_t);
}

void AttentionOps::Reserve(int32_t max_tokens) {
  EnsureScratch(ReservedFloats());
  partials_.resize(static_cast<size_t>(kPartialFloats));
  first_items_.reserve(static_cast<size_t>(max_tokens));
  first_chunks_.reserve(static_cast<size_t>(kDecodeRows * kItemsPerThread * pool_.threads()) + 1);
  first_partials_.reserve(static_cast<size_t>(kDecodeRows * kItemsPerThread * pool_.threads()) + 1);
}

void AttentionOps::EnsureScratch(int64_t floats) {
  scratch_.resize(static_cast<size_t>(pool_.threads()));
  for (std::vector<float>& scratch : scratch_) {
    if (scratch.size() < static_cast<size_t>(floats)) scratch.resize(static_cast<size_t>(floats));
  }
}

// ---- append ----------------------------------------------------------------------------------------

void AttentionOps::AppendToken(const KvAppendArgs& args, const SequenceSlice& sequence, int64_t i) const {
  const KvLayout& kv = *args.layout;
  const int64_t position = sequence.context + i, row = sequence.token_begin + i;
  CHECK(position / kKvBlockTokens < sequence.block_count);
  std::byte* const block = sequence.blocks[position / kKvBlockTokens];
  const int64_t slot = position % kKvBlockTokens;
  const float* key = args.key.data + row * args.key.stride;
  const float* value = args.value.data + row * args.value.stride;
  constexpr int32_t kPart = 64;  // whole groups
  const int64_t value_groups = CeilDiv(kv.value_dim, kKvGroup);
  for (int32_t h = 0; h < kv.kv_heads; ++h, key += kv.key_dim, value += kv.value_dim) {
    std::byte* const keys = block + kv.key_offset(args.layer, h);
    std::byte* const values = block + kv.value_offset(args.layer, h);
    if (kv.type == DataType::kF32) {
      auto* k = reinterpret_cast<float*>(keys) + slot;
      for (int32_t d = 0; d < kv.key_dim; ++d) k[d * kKvBlockTokens] = key[d];
      std::memcpy(reinterpret_cast<float*>(values) + slot * kv.value_dim, value,
                  static_cast<size_t>(kv.value_dim) * sizeof(float));
      continue;
    }
    if (kv.type == DataType::kQ8_0) {
      auto* k = reinterpret_cast<int8_t*>(keys) + slot;
      auto* k_scale = reinterpret_cast<uint16_t*>(keys + kv.codes_bytes(kv.key_dim)) + slot;
      int8_t codes[kPart];
      uint16_t scales[kPart / kKvGroup];
      for (int32_t begin = 0; begin < kv.key_dim; begin += kPart) {
        const int32_t count = std::min(kPart, kv.key_dim - begin);
        kernels_.to_q8(key + begin, codes, scales, count);
        for (int32_t d = 0; d < count; ++d) k[(begin + d) * kKvBlockTokens] = codes[d];
        for (int32_t d = 0; d < count; d += kKvGroup) {
          k_scale[(begin + d) / kKvGroup * kKvBlockTokens] = scales[d / kKvGroup];
        }
      }
      kernels_.to_q8(value, reinterpret_cast<int8_t*>(values) + slot * kv.value_dim,
                     reinterpret_cast<uint16_t*>(values + kv.codes_bytes(kv.value_dim)) + slot * value_groups,
                     kv.value_dim);
      continue;
    }
    if (kv.type == DataType::kI16) {
      AppendIntegers(kv, key, value, slot, keys, values);
      continue;
    }
    const auto convert = kv.type == DataType::kF16 ? kernels_.to_half : kernels_.to_bfloat;
    convert(value, reinterpret_cast<uint16_t*>(values) + slot * kv.value_dim, kv.value_dim);
    auto* k = reinterpret_cast<uint16_t*>(keys) + slot;
    uint16_t halves[kPart];
    for (int32_t begin = 0; begin < kv.key_dim; begin += kPart) {
      const int32_t count = std::min(kPart, kv.key_dim - begin);
      convert(key + begin, halves, count);
      for (int32_t d = 0; d < count; ++d) k[(begin + d) * kKvBlockTokens] = halves[d];
    }
  }
}

void AttentionOps::AppendIntegers(const KvLayout& kv, const float* key, const float* value, int64_t slot,
                                  std::byte* keys, std::byte* values) const {
  // Longer heads (there are none yet) take the slow way of a vector of their own.
  int16_t on_stack[kReservedDim];
  std::vector<int16_t> longer;
  int16_t* codes = on_stack;
  const int64_t most = AttentionPadded(std::max(kv.key_dim, kv.value_dim));
  if (most > kReservedDim) {
    longer.resize(static_cast<size_t>(most));
    codes = longer.data();
  }
  auto* const key_scales = reinterpret_cast<float*>(keys + kv.codes_bytes(kv.key_dim));
  key_scales[slot] = kernels_.key_to_i16(key, codes, kv.key_dim);
  for (int32_t d = 0; d < kv.key_dim; d += 2) {
    std::memcpy(keys + (d / 2 * kKvBlockTokens + slot) * 4, codes + d, 4);
  }
  auto* const value_scales = reinterpret_cast<float*>(values + kv.codes_bytes(kv.value_dim));
  value_scales[slot] = kernels_.value_to_i16(value, codes, kv.value_dim);
  auto* const to = reinterpret_cast<int16_t*>(values) + slot / 2 * 2 * kv.value_dim + slot % 2;
  for (int32_t d = 0; d < kv.value_dim; ++d) to[2 * d] = codes[d];
}

void AttentionOps::AppendKv(const KvAppendArgs& args, const TurnTask* turn) {
  const KvLayout& kv = *args.layout;
  CHECK(KvLayout::Supports(kv.type));
  first_items_.clear();
  int64_t tokens = 0;
  for (const SequenceSlice& sequence : args.sequences) {
    first_items_.push_back(tokens);
    tokens += sequence.token_count;
  }
  if (tokens == 0) return;
  const auto turn_row = [&](RopeTask task, int64_t row) {
    task.row_begin = row;
    task.row_end = row + 1;
    task.cosines += row * turn->table_width;
    task.sines += row * turn->table_width;
    kernels_.rope(task);
  };
  const int64_t token_cost = int64_t{4} * kv.kv_heads * (kv.key_dim + kv.value_dim);
  const int64_t chunks =
      tokens * token_cost < tuning_.inline_elements ? 1 : std::min<int64_t>(tokens, 8 * pool_.threads());
  const int64_t step = CeilDiv(tokens, chunks);
  pool_.Run(CeilDiv(tokens, step), [&](int64_t chunk, int) {
    const int64_t end = std::min(tokens, (chunk + 1) * step);
    size_t at = SequenceAt(first_items_, chunk * step);
    for (int64_t token = chunk * step; token < end; ++token) {
      while (token - first_items_[at] >= args.sequences[at].token_count) ++at;
      if (turn != nullptr) {
        const int64_t row = args.sequences[at].token_begin + token - first_items_[at];
        turn_row(turn->query, row);
        turn_row(turn->key, row);
      }
      AppendToken(args, args.sequences[at], token - first_items_[at]);
    }
  });
}

// ---- attention -------------------------------------------------------------------------------------

AttentionOps::Plan AttentionOps::MakePlan(const AttentionArgs& args) {
  const KvLayout& kv = *args.layout;
  const int64_t group = args.query_heads / kv.kv_heads;
  int64_t most_rows = 0;
  for (const SequenceSlice& sequence : args.sequences) {
    CHECK(sequence.token_count == 0 ||
          CeilDiv(int64_t{sequence.context} + sequence.token_count, kKvBlockTokens) <= sequence.block_count);
    most_rows = std::max(most_rows, sequence.token_count * group);
  }
  Plan plan;
  plan.tile_rows = std::min(MostTileRows(std::max(kv.key_dim, kv.value_dim)),
                            std::max<int64_t>(1, CeilDiv(most_rows, 16)) * 16);
  for (;;) {
    plan.items = 0;
    first_items_.clear();
    for (const SequenceSlice& sequence : args.sequences) {
      first_items_.push_back(plan.items);
      plan.items += CeilDiv(sequence.token_count * group, plan.tile_rows) * kv.kv_heads;
    }
    if (plan.items >= kItemsPerThread * pool_.threads() || plan.tile_rows <= 16) return plan;
    plan.tile_rows = std::max<int64_t>(16, plan.tile_rows / 32 * 16);
  }
}

AttentionTask AttentionOps::TaskOf(const AttentionArgs& args, const Plan& plan, int64_t item) const {
  const KvLayout& kv = *args.layout;
  const size_t index = SequenceAt(first_items_, item);
  const SequenceSlice& sequence = args.sequences[index];
  const int64_t within = item - first_items_[index];
  const auto kv_head = static_cast<int32_t>(within % kv.kv_heads);
  AttentionTask task{};
  task.group = args.query_heads / kv.kv_heads;
  const int64_t rows = int64_t{sequence.token_count} * task.group;
  // Each thread's share is of rows, here as in the operations before and after; of them those that see the
  // most come first, so that what others take from its end is small.
  const int64_t tiles = CeilDiv(rows, plan.tile_rows), place = within / kv.kv_heads,
                threads = pool_.threads();
  const int64_t share = place * threads / tiles;
  const int64_t share_begin = CeilDiv(share * tiles, threads),
                share_end = CeilDiv((share + 1) * tiles, threads);
  const int64_t tile = share_begin + share_end - 1 - place;
  const int64_t first_head = int64_t{kv_head} * task.group;
  task.query = args.query.data + sequence.token_begin * args.query.stride + first_head * kv.key_dim;
  task.query_stride = args.query.stride;
  task.out = args.out.data + sequence.token_begin * args.out.stride + first_head * kv.value_dim;
  task.out_stride = args.out.stride;
  task.row_begin = tile * plan.tile_rows;
  task.row_end = std::min(rows, task.row_begin + plan.tile_rows);
  task.key_dim = kv.key_dim;
  task.value_dim = kv.value_dim;
  task.element = ElementOf(kv.type);
  task.blocks = sequence.blocks;
  task.key_offset = kv.key_offset(args.layer, kv_head);
  task.value_offset = kv.value_offset(args.layer, kv_head);
  task.context = sequence.context;
  task.token_count = sequence.token_count;
  task.window = args.window;
  task.causal = args.causal;
  task.scale = args.scale;
  // The splits that some row of the tile sees.
  const int64_t first_position = task.context + task.row_begin / task.group;
  const int64_t last_position = task.context + (task.row_end - 1) / task.group;
  const int64_t begin = task.window > 0 ? std::max<int64_t>(0, first_position + 1 - task.window) : 0;
  const int64_t end = task.causal ? last_position + 1 : task.context + task.token_count;
  task.split_begin = begin / kAttentionSplit;
  task.split_end = CeilDiv(end, kAttentionSplit);
  return task;
}

void AttentionOps::Attention(const AttentionArgs& args) {
  const KvLayout& kv = *args.layout;
  CHECK(kv.kv_heads > 0 && args.query_heads % kv.kv_heads == 0);
  const Plan plan = MakePlan(args);
  if (plan.items == 0) return;
  EnsureScratch(ScratchFloats(plan.tile_rows, kv.key_dim, kv.value_dim));
  int64_t products = 0;
  for (const SequenceSlice& sequence : args.sequences) {
    products += int64_t{sequence.token_count} * args.query_heads * (sequence.context + sequence.token_count) *
                (kv.key_dim + kv.value_dim);
  }
  const auto body = [&](int64_t item, int64_t end, int thread) {
    AttentionTask task = TaskOf(args, plan, item);
    if (item + 1 < end) {
      const AttentionTask next = TaskOf(args, plan, item + 1);
      task.next_blocks = next.blocks + next.split_begin * kAttentionSplit / kKvBlockTokens;
      task.next_key_offset = next.key_offset;
    }
    task.scratch = scratch_[static_cast<size_t>(thread)].data();
    Attend(task);
  };
  if (products < tuning_.inline_products) {
    for (int64_t item = 0; item < plan.items; ++item) body(item, plan.items, 0);
    return;
  }
  if (Decodes(args)) return AttendDecode(args, plan);
  if (pool_.threads() > 1 && plan.items < kItemsPerThread * pool_.threads() && AttendInSplits(args, plan))
    return;
  // Several items a chunk where there are many: while one is computed the next one's keys are fetched.
  const int64_t step = std::max(CeilDiv(plan.items, ThreadPool::kMaxChunks),
                                std::clamp<int64_t>(plan.items / (kChunksPerThread * pool_.threads()), 1, 8));
  pool_.Run(CeilDiv(plan.items, step), [&](int64_t chunk, int thread) {
    const int64_t end = std::min(plan.items, (chunk + 1) * step);
    for (int64_t item = chunk * step; item < end; ++item) body(item, end, thread);
  });
}

// Every sequence has one token, and heads of a block can be read side by side.
bool AttentionOps::Decodes(const AttentionArgs& args) const {
  const KvLayout& kv = *args.layout;
  return kv.type == DataType::kI16 && kv.kv_heads > 1 && args.query_heads / kv.kv_heads <= kDecodeGroup &&
         std::max(kv.key_dim, kv.value_dim) <= kReservedDim &&
         std::all_of(args.sequences.begin(), args.sequences.end(),
                     [](const SequenceSlice& s) { return s.token_count <= 1; });
}

// Where each item's partials begin; how many floats they are in all.
int64_t AttentionOps::PlacePartials(const AttentionArgs& args, const Plan& plan) {
  first_partials_.clear();
  int64_t floats = 0;
  for (int64_t item = 0; item < plan.items; ++item) {
    const AttentionTask task = TaskOf(args, plan, item);
    first_partials_.push_back(floats);
    floats +=
        (task.split_end - task.split_begin) * (task.row_end - task.row_begin) * (2 + args.layout->value_dim);
  }
  return floats;
}

// Tasks are sequences, or parts of their heads where they are few, or parts of their splits where those are
// many.
void AttentionOps::AttendDecode(const AttentionArgs& args, const Plan& plan) {
  const KvLayout& kv = *args.layout;
  const int64_t group = args.query_heads / kv.kv_heads, sequences = plan.items / kv.kv_heads;
  const int64_t wanted = pool_.threads() == 1 ? 1 : kItemsPerThread * pool_.threads();
  int64_t splits = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const AttentionTask task = TaskOf(args, plan, i * kv.kv_heads);
    splits += task.split_end - task.split_begin;
  }
  const bool many_splits = sequences < wanted && splits >= 2 * wanted && plan.items <= kDecodeRows * wanted;
  const bool in_splits = many_splits && PlacePartials(args, plan) <= static_cast<int64_t>(partials_.size());
  const int64_t units = in_splits ? splits : sequences;
  int64_t parts = 1;
  const auto too_few = [&] { return units * parts < wanted || kv.kv_heads / parts * group > kDecodeRows; };
  while (parts < kv.kv_heads && (kv.kv_heads % parts != 0 || too_few())) ++parts;
  const int64_t heads = kv.kv_heads / parts;
  EnsureScratch(DecodeScratchFloats(heads, group, kv.key_dim, kv.value_dim));
  const auto decode = [&](AttentionTask head, int64_t partial_step, int thread) {
    head.scratch = scratch_[static_cast<size_t>(thread)].data();
    kernels_.attend_decode({.head = head,
                            .heads = heads,
                            .key_step = kv.key_offset(args.layer, 1) - kv.key_offset(args.layer, 0),
                            .value_step = kv.value_offset(args.layer, 1) - kv.value_offset(args.layer, 0),
                            .partial_step = partial_step,
                            .fetch_far = tuning_.fetch_level > 2});
  };
  if (!in_splits) {
    const int64_t tasks = sequences * parts, step = CeilDiv(tasks, ThreadPool::kMaxChunks);
    pool_.Run(CeilDiv(tasks, step), [&](int64_t chunk, int thread) {
      const int64_t end = std::min(tasks, (chunk + 1) * step);
      for (int64_t at = chunk * step; at < end; ++at) {
        AttentionTask head = TaskOf(args, plan, at * heads);
        if (at + 1 < tasks) {  // what is likely computed next by this thread
          const AttentionTask next = TaskOf(args, plan, (at + 1) * heads);
          head.next_blocks = next.blocks + next.split_begin * kAttentionSplit / kKvBlockTokens;
          head.next_key_offset = next.key_offset;
        }
        decode(head, 0, thread);
      }
    });
    return;
  }
  first_chunks_.clear();
  int64_t chunks = 0;
  const int64_t chunk_splits = std::max(CeilDiv(splits, ThreadPool::kMaxChunks / (2 * kv.kv_heads)),
                                        std::clamp<int64_t>(splits / (8 * pool_.threads()), 1, 4));
  for (int64_t i = 0; i < sequences * parts; ++i) {
    const AttentionTask task = TaskOf(args, plan, i * heads);
    first_chunks_.push_back(chunks);
    chunks += CeilDiv(task.split_end - task.split_begin, chunk_splits);
  }
  pool_.Run(chunks, [&](int64_t chunk, int thread) {
    const size_t part = SequenceAt(first_chunks_, chunk);
    const int64_t item = static_cast<int64_t>(part) * heads;
    AttentionTask head = TaskOf(args, plan, item);
    const int64_t row_floats = group * (2 + kv.value_dim), all = head.split_end - head.split_begin;
    const int64_t skipped = (chunk - first_chunks_[part]) * chunk_splits;
    head.partial = partials_.data() + first_partials_[static_cast<size_t>(item)] + skipped * row_floats;
    head.split_begin += skipped;
    head.split_end = std::min(head.split_end, head.split_begin + chunk_splits);
    decode(head, all * row_floats, thread);
  });
  MergePartials(args, plan);
}

// Few items over long contexts: the splits themselves are spread over the threads and merged afterwards, in
// the same order as the kernel does. False if it would not pay or the partials do not fit.
bool AttentionOps::AttendInSplits(const AttentionArgs& args, const Plan& plan) {
  const KvLayout& kv = *args.layout;
  int64_t splits = 0;
  for (int64_t item = 0; item < plan.items; ++item) {
    const AttentionTask task = TaskOf(args, plan, item);
    splits += task.split_end - task.split_begin;
  }
  if (splits < 2 * plan.items || PlacePartials(args, plan) > static_cast<int64_t>(partials_.size()))
    return false;
  // Several splits a chunk where there are many: the kernel then fetches the next one's keys ahead.
  const int64_t chunk_splits = std::clamp<int64_t>(splits / (16 * pool_.threads()), 1, 8);
  first_chunks_.clear();
  int64_t chunks = 0;
  for (int64_t item = 0; item < plan.items; ++item) {
    const AttentionTask task = TaskOf(args, plan, item);
    first_chunks_.push_back(chunks);
    chunks += CeilDiv(task.split_end - task.split_begin, chunk_splits);
  }
  if (chunks > ThreadPool::kMaxChunks) return false;
  pool_.Run(chunks, [&](int64_t chunk, int thread) {
    const size_t item = SequenceAt(first_chunks_, chunk);
    AttentionTask task = TaskOf(args, plan, static_cast<int64_t>(item));
    const int64_t skipped = (chunk - first_chunks_[item]) * chunk_splits;
    task.partial = partials_.data() + first_partials_[item] +
                   skipped * (task.row_end - task.row_begin) * (2 + kv.value_dim);
    task.split_begin += skipped;
    task.split_end = std::min(task.split_end, task.split_begin + chunk_splits);
    task.scratch = scratch_[static_cast<size_t>(thread)].data();
    Attend(task);
  });
  MergePartials(args, plan);
  return true;
}

void AttentionOps::MergePartials(const AttentionArgs& args, const Plan& plan) {
  pool_.Run(plan.items, [&](int64_t item, int thread) {
    const AttentionTask task = TaskOf(args, plan, item);
    MergeTask merge{};
    merge.partial = partials_.data() + first_partials_[static_cast<size_t>(item)];
    merge.splits = task.split_end - task.split_begin;
    merge.rows = task.row_end - task.row_begin;
    merge.out = task.out;
    merge.out_stride = task.out_stride;
    merge.row_begin = task.row_begin;
    merge.group = task.group;
    merge.value_dim = task.value_dim;
    merge.scratch = scratch_[static_cast<size_t>(thread)].data();
    kernels_.merge(merge);
  });
}

}  // namespace tidepool::chips::cpu
