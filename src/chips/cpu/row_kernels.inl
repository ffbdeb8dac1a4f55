// The kernels of row_kernels.h over vectors of kWidth floats. The including file defines kWidth, and
//   Mask AtLeast(const float* x, float floor)    bit l: x[l] >= floor, for kRowLanes floats
//   size_t Take(Mask, x, first_id, ids, values)  appends the marked ones; may write kRowLanes entries (AVX-512 has its own)
//   LowHalf, HighHalf                            of a vector of floats, as doubles
// Everything here has internal linkage.

#if !defined(__AVX512F__)
inline size_t Take(Mask mask, const float* x, int32_t first_id, int32_t* ids, float* values) {
  size_t taken = 0;
  for (; mask != 0; mask &= mask - 1) {
    const int lane = __builtin_ctz(mask);
    ids[taken] = first_id + lane;
    values[taken++] = x[lane];
  }
  return taken;
}
#endif

typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef float FloatsAnywhere __attribute__((vector_size(4 * kWidth), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
typedef double Doubles __attribute__((vector_size(4 * kWidth)));  // half as many

constexpr int kVectors = static_cast<int>(kRowLanes) / kWidth;
constexpr float kLowest = -__builtin_inff();

inline Floats LoadFloats(const float* x) { return *reinterpret_cast<const FloatsAnywhere*>(x); }
inline void StoreFloats(float* to, Floats x) { *reinterpret_cast<FloatsAnywhere*>(to) = x; }

// exp(x) for x <= 0. x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its Taylor polynomial of degree 7 (remainder
// r^8 / 8! < 5.2e-9). Adding 1.5 * 2^23 rounds to an integer and leaves it in the last bits.
inline Floats ExpNonPositive(Floats x) {
  const Floats zero = {};
  const Floats clamped = x < -87.0f ? zero - 87.0f : x;
  const Floats shifted = clamped * 1.44269504f + 12582912.0f;
  const Floats n = shifted - 12582912.0f;
  const Floats r = (clamped - n * 0.693145752f) - n * 1.42860677e-6f;
  Floats p = r * 1.98412698e-4f + 1.38888889e-3f;
  p = p * r + 8.33333333e-3f;
  p = p * r + 4.16666667e-2f;
  p = p * r + 1.66666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Ints scale = (reinterpret_cast<Ints>(shifted) - (0x4B400000 - 127)) << 23;
  return x < -87.0f ? zero : p * reinterpret_cast<Floats>(scale);
}

// The last count % kRowLanes floats, filled up with `fill`.
inline void LoadTail(const float* x, size_t count, float fill, float* lanes) {
  for (size_t l = 0; l < kRowLanes; ++l) lanes[l] = l < count ? x[l] : fill;
}

template <bool kMarkNotFinite>
void LaneMaxima(const float* x, size_t count, float* lanes) {
  const Floats lowest = Floats{} + kLowest;
  Floats most[kVectors];
  Ints bad[kVectors] = {};
  for (int v = 0; v < kVectors; ++v) most[v] = lowest;
  size_t i = 0;
  for (; i + kRowLanes <= count; i += kRowLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const Floats y = LoadFloats(x + i + static_cast<size_t>(v * kWidth));
      if constexpr (kMarkNotFinite) bad[v] |= (reinterpret_cast<Ints>(y) & 0x7f800000) == 0x7f800000;
      most[v] = y > most[v] ? y : most[v];
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    StoreFloats(lanes + v * kWidth, kMarkNotFinite ? (bad[v] != 0 ? lowest * -1.0f : most[v]) : most[v]);
  }
  for (size_t l = 0; i < count; ++i, ++l) {
    if (kMarkNotFinite && !__builtin_isfinite(x[i])) lanes[l] = -kLowest;
    lanes[l] = x[i] > lanes[l] ? x[i] : lanes[l];
  }
}

void Weights(const float* x, size_t count, float max, float inverse_temperature, float* out) {
  size_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    StoreFloats(out + i, ExpNonPositive((LoadFloats(x + i) - max) * inverse_temperature));
  }
  if (i == count) return;
  float lanes[kRowLanes];
  LoadTail(x + i, count - i, kLowest, lanes);
  StoreFloats(lanes, ExpNonPositive((LoadFloats(lanes) - max) * inverse_temperature));
  for (size_t l = 0; i < count; ++i, ++l) out[i] = lanes[l];
}

// kRowLanes sums in double.
struct LaneSums {
  Doubles halves[2 * kVectors] = {};
  void Add(int vector, Floats x) {
    halves[2 * vector] += LowHalf(x);
    halves[2 * vector + 1] += HighHalf(x);
  }
  double Total() const {
    double lanes[kRowLanes], total = 0;
    __builtin_memcpy(lanes, halves, sizeof lanes);
    for (size_t l = 0; l < kRowLanes; ++l) total += lanes[l];
    return total;
  }
};

double BlockSum(const float* x, size_t count, float max, float inverse_temperature) {
  LaneSums sums;
  size_t i = 0;
  for (; i + kRowLanes <= count; i += kRowLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const Floats y = LoadFloats(x + i + static_cast<size_t>(v * kWidth));
      sums.Add(v, ExpNonPositive((y - max) * inverse_temperature));
    }
  }
  if (i < count) {
    float lanes[kRowLanes];
    LoadTail(x + i, count - i, kLowest, lanes);
    for (int v = 0; v < kVectors; ++v) {
      sums.Add(v, ExpNonPositive((LoadFloats(lanes + v * kWidth) - max) * inverse_temperature));
    }
  }
  return sums.Total();
}

void BlockSums(const RowView& row, float max, float inverse_temperature, double* sums) {
  for (size_t begin = 0, block = 0; begin < row.count; begin += kRowBlock, ++block) {
    const size_t count = row.count - begin < kRowBlock ? row.count - begin : kRowBlock;
    const float* peaks = row.peaks + block * kRowLanes;
    float largest = peaks[0];
    for (size_t l = 1; l < kRowLanes; ++l) largest = peaks[l] > largest ? peaks[l] : largest;
    // Every weight of the block would be 0.
    const bool nothing = (largest - max) * inverse_temperature < -87.0f;
    sums[block] = nothing ? 0 : BlockSum(row.blocks[block], count, max, inverse_temperature);
  }
}

double Sum(const float* x, size_t count) {
  LaneSums sums;
  size_t i = 0;
  for (; i + kRowLanes <= count; i += kRowLanes) {
    for (int v = 0; v < kVectors; ++v) sums.Add(v, LoadFloats(x + i + static_cast<size_t>(v * kWidth)));
  }
  if (i < count) {
    float lanes[kRowLanes];
    LoadTail(x + i, count - i, 0, lanes);
    for (int v = 0; v < kVectors; ++v) sums.Add(v, LoadFloats(lanes + v * kWidth));
  }
  return sums.Total();
}

double SumAtLeast(const float* values, const float* weights, size_t count, float floor, size_t* found) {
  LaneSums sums;
  Ints counts[kVectors] = {};
  const auto add = [&](int v, Floats value, Floats weight) {
    const Ints inside = value >= floor;
    counts[v] -= inside;
    sums.Add(v, inside ? weight : Floats{});
  };
  size_t i = 0;
  for (; i + kRowLanes <= count; i += kRowLanes) {
    for (int v = 0; v < kVectors; ++v) {
      const size_t at = i + static_cast<size_t>(v * kWidth);
      add(v, LoadFloats(values + at), LoadFloats(weights + at));
    }
  }
  if (i < count) {
    float last_values[kRowLanes], last_weights[kRowLanes];
    LoadTail(values + i, count - i, __builtin_nanf(""), last_values);  // at least nothing
    LoadTail(weights + i, count - i, 0, last_weights);
    for (int v = 0; v < kVectors; ++v) {
      add(v, LoadFloats(last_values + v * kWidth), LoadFloats(last_weights + v * kWidth));
    }
  }
  int32_t lanes[kRowLanes];
  __builtin_memcpy(lanes, counts, sizeof lanes);
  for (size_t l = 0; l < kRowLanes; ++l) *found += static_cast<size_t>(lanes[l]);
  return sums.Total();
}

size_t AllAtLeast(const RowView& row, float floor, int32_t* ids, float* values) {
  size_t found = 0;
  for (size_t begin = 0, block = 0; begin < row.count; begin += kRowBlock, ++block) {
    if (AtLeast(row.peaks + block * kRowLanes, floor) == 0) continue;
    const float* x = row.blocks[block];
    const size_t count = row.count - begin < kRowBlock ? row.count - begin : kRowBlock;
    size_t i = 0;
    for (; i + kRowLanes <= count; i += kRowLanes) {
      const Mask mask = AtLeast(x + i, floor);
      if (mask != 0) found += Take(mask, x + i, static_cast<int32_t>(begin + i), ids + found, values + found);
    }
    if (i < count) {
      float lanes[kRowLanes];
      LoadTail(x + i, count - i, kLowest, lanes);
      const auto inside = static_cast<Mask>((1u << (count - i)) - 1);
      const auto mask = static_cast<Mask>(AtLeast(lanes, floor) & inside);
      if (mask != 0) found += Take(mask, lanes, static_cast<int32_t>(begin + i), ids + found, values + found);
    }
  }
  return found;
}

constexpr RowKernels MakeRowKernels(const char* name) {
  return {.name = name,
          .peaks = LaneMaxima<true>,
          .lane_maxima = LaneMaxima<false>,
          .weights = Weights,
          .block_sums = BlockSums,
          .sum = Sum,
          .sum_at_least = SumAtLeast,
          .at_least = AllAtLeast};
}
