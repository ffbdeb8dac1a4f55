// Norms, rotary embedding, activations, conversions, probes.

// exp by 2^n e^r, |r| <= ln 2 / 2, a polynomial of degree 6: relative error below 3e-7 on [-87, 88]; 0 below
// it, e^88 above it; NaN stays NaN.
TP_INLINE Floats Exp(Floats x) {
  const Floats bounded = Min(Set1(88.0f), Max(Set1(-87.0f), x));
  const Floats n = Round(Mul(bounded, Set1(1.44269504088896341f)));
  Floats r = NegFma(n, Set1(0.693359375f), bounded);  // ln 2 in two parts
  r = NegFma(n, Set1(-2.12194440e-4f), r);
  Floats p = Set1(1.0f / 720);
  p = Fma(p, r, Set1(1.0f / 120));
  p = Fma(p, r, Set1(1.0f / 24));
  p = Fma(p, r, Set1(1.0f / 6));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  const Floats power = BitsToFloats(ShiftLeft23(AddInt32(ToInts(n), SetInt(127))));
  return Select(Less(x, Set1(-87.0f)), Zero(), Mul(p, power));
}

static void RmsNormRows(const NormTask& task) {
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* x = task.x + row * task.x_stride;
    float* out = task.out + row * task.out_stride;
    const float mean_square = SumOfSquares(x, 0.0f, task.columns) / static_cast<float>(task.columns);
    const Floats scale = Set1(1.0f / __builtin_sqrtf(mean_square + task.eps));
    for (int64_t c = 0; c < task.columns; c += kLanes) {
      const int64_t left = task.columns - c;
      StoreFirst(out + c, Mul(Mul(LoadFirst(x + c, left), scale), LoadFirst(task.gain + c, left)), left);
    }
  }
}

static void LayerNormRows(const NormTask& task) {
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* x = task.x + row * task.x_stride;
    float* out = task.out + row * task.out_stride;
    Floats sum = Zero();
    for (int64_t c = 0; c < task.columns; c += kLanes) sum = Add(sum, LoadFirst(x + c, task.columns - c));
    const float mean = SumLanes(sum) / static_cast<float>(task.columns);
    const float variance = SumOfSquares(x, mean, task.columns) / static_cast<float>(task.columns);
    const Floats scale = Set1(1.0f / __builtin_sqrtf(variance + task.eps));
    for (int64_t c = 0; c < task.columns; c += kLanes) {
      const int64_t left = task.columns - c;
      const Floats shift = task.bias == nullptr ? Zero() : LoadFirst(task.bias + c, left);
      const Floats centred = Mul(Sub(LoadFirst(x + c, left), Set1(mean)), scale);
      StoreFirst(out + c, Fma(centred, LoadFirst(task.gain + c, left), shift), left);
    }
  }
}

static void RopeRows(const RopeTask& task) {
  const int64_t half = task.rotary_dim / 2;
  const int64_t table = task.interleaved ? task.rotary_dim : half;
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* cosines = task.cosines + (row - task.row_begin) * table;
    const float* sines = task.sines + (row - task.row_begin) * table;
    for (int64_t h = 0; h < task.heads; ++h) {
      float* head = task.x + row * task.stride + h * task.head_dim;
      for (int64_t i = 0; i < table; i += kLanes) {
        const int64_t left = table - i;
        const Floats c = LoadFirst(cosines + i, left), s = LoadFirst(sines + i, left);
        const Floats a = LoadFirst(head + i, left);
        if (task.interleaved) {
          StoreFirst(head + i, Fma(SwapPairs(a), s, Mul(a, c)), left);
        } else {
          const Floats b = LoadFirst(head + half + i, left);
          StoreFirst(head + i, NegFma(b, s, Mul(a, c)), left);
          StoreFirst(head + half + i, Fma(b, c, Mul(a, s)), left);
        }
      }
    }
  }
}

TP_INLINE Floats Silu(Floats x) { return Div(x, Add(Set1(1.0f), Exp(Sub(Zero(), x)))); }

// 0.5 x (1 + tanh u) = x / (1 + exp(-2 u)).
TP_INLINE Floats GeluTanh(Floats x) {
  const Floats cube = Mul(Mul(x, x), x);
  const Floats twice = Mul(Set1(1.59576912160573f), Fma(Set1(0.044715f), cube, x));
  return Div(x, Add(Set1(1.0f), Exp(Sub(Zero(), twice))));
}

// erf by Abramowitz and Stegun 7.1.26, absolute error 1.5e-7.
TP_INLINE Floats GeluExact(Floats x) {
  const Floats z = Mul(x, Set1(0.70710678118654752f));
  const Floats magnitude = Abs(z);
  const Floats t = Div(Set1(1.0f), Fma(Set1(0.3275911f), magnitude, Set1(1.0f)));
  Floats p = Set1(1.061405429f);
  p = Fma(p, t, Set1(-1.453152027f));
  p = Fma(p, t, Set1(1.421413741f));
  p = Fma(p, t, Set1(-0.284496736f));
  p = Fma(p, t, Set1(0.254829592f));
  const Floats tail = Mul(Mul(p, t), Exp(Sub(Zero(), Mul(magnitude, magnitude))));
  const Floats erf = CopySign(Sub(Set1(1.0f), tail), x);
  return Mul(Mul(Set1(0.5f), x), Add(Set1(1.0f), erf));
}

// tanh |x| = (1 - e) / (1 + e), e = exp(-2 |x|): nothing overflows. Where x is small 1 - e loses bits: the
// absolute error stays below 2^-23.
TP_INLINE Floats Tanh(Floats x) {
  const Floats e = Exp(Mul(Set1(-2.0f), Abs(x)));
  return CopySign(Div(Sub(Set1(1.0f), e), Add(Set1(1.0f), e)), x);
}

template <ActivationKernel kActivation>
static void ActivateRows(const ElementwiseTask& task) {
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* a = task.a + row * task.a_stride;
    const float* b = task.b == nullptr ? nullptr : task.b + row * task.b_stride;
    float* out = task.out + row * task.out_stride;
    for (int64_t c = 0; c < task.columns; c += kLanes) {
      const int64_t left = task.columns - c;
      const Floats x = LoadFirst(a + c, left);
      Floats y = kActivation == kSiluKernel       ? Silu(x)
                 : kActivation == kGeluTanhKernel ? GeluTanh(x)
                 : kActivation == kTanhKernel     ? Tanh(x)
                                                  : GeluExact(x);
      if (b != nullptr) y = Mul(y, LoadFirst(b + c, left));
      StoreFirst(out + c, y, left);
    }
  }
}

static void AddRows(const ElementwiseTask& task) {
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    const float* a = task.a + row * task.a_stride;
    const float* b = task.b + row * task.b_stride;
    float* out = task.out + row * task.out_stride;
    for (int64_t c = 0; c < task.columns; c += kLanes) {
      const int64_t left = task.columns - c;
      StoreFirst(out + c, Add(LoadFirst(a + c, left), LoadFirst(b + c, left)), left);
    }
  }
}

static void PeakRows(const PeaksTask& task) {
  constexpr int kVectors = kPeaksLanes / kLanes;
  const Floats lowest = Set1(-__builtin_inff()), highest = Set1(__builtin_inff());
  for (int64_t row = task.row_begin; row < task.row_end; ++row) {
    for (int64_t begin = task.begin; begin < task.end; begin += kPeaksBlock) {
      const float* x = task.out + row * task.out_stride + begin;
      const int64_t count = task.end - begin < kPeaksBlock ? task.end - begin : kPeaksBlock;
      float* peaks = task.peaks + row * task.peaks_stride + begin / kPeaksBlock * kPeaksLanes;
      for (int v = 0; v < kVectors; ++v) {
        // 0 y is NaN if y is not finite, and stays so in the sum.
        Floats most = lowest, marks = Zero();
        for (int64_t c = v * kLanes; c < count; c += kPeaksLanes) {
          const Floats y = LoadFirst(x + c, count - c);
          most = Max(Select(FirstLanes(count - c), y, lowest), most);
          marks = Fma(y, Zero(), marks);
        }
        Store(peaks + v * kLanes, Select(IsNan(marks), highest, most));
      }
    }
  }
}

static void ConvertToHalf(const float* from, uint16_t* to, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) StoreHalf(to + i, Load(from + i));
  if (i < count) {
    uint16_t lanes[kLanes];
    StoreHalf(lanes, LoadFirst(from + i, count - i));
    __builtin_memcpy(to + i, lanes, static_cast<size_t>(count - i) * sizeof(uint16_t));
  }
}

constexpr int kProbeChains = 12;  // enough to hide a latency of 4 or 5 on two ports

// Named variables: an array of them would stay in memory and the loop would measure stores.
static float ProbeF32(int64_t rounds) {
  const Floats factor = Set1(0.999f);
  Floats a = factor, b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  const auto step = [&](Floats& sum) __attribute__((always_inline)) {
    sum = Fma(sum, factor, factor);
    asm("" : "+v"(sum));
  };
  for (int64_t round = 0; round < rounds; ++round) {
    step(a), step(b), step(c), step(d), step(e), step(f), step(g), step(h), step(i), step(j), step(k),
        step(l);
  }
  const Floats low = Add(Add(Add(a, b), Add(c, d)), Add(e, f));
  return FirstLane(Add(low, Add(Add(Add(g, h), Add(i, j)), Add(k, l))));
}

// What the 4-bit kernels do: one instruction with VNNI, multiply and add without.
static int32_t ProbeInt8(int64_t rounds) {
  Ints u = SetByte(3), s = SetByte(-1);
  Ints a = ZeroInts(), b = a, c = a, d = a, e = a, f = a, g = a, h = a, i = a, j = a, k = a, l = a;
  const auto step = [&](Ints& sum) __attribute__((always_inline)) {
    if constexpr (TP_HAS_DOT) {
      sum = DotBytes(sum, u, s);
    } else {
      asm("" : "+v"(u));  // not one product for all
      sum = AddInt16(sum, MulAddBytes(u, s));
    }
    asm("" : "+v"(sum));
  };
  for (int64_t round = 0; round < rounds; ++round) {
    asm("" : "+v"(u), "+v"(s));
    step(a), step(b), step(c), step(d), step(e), step(f), step(g), step(h), step(i), step(j), step(k),
        step(l);
  }
  const Ints low = AddInt32(AddInt32(AddInt32(a, b), AddInt32(c, d)), AddInt32(e, f));
  const Ints high = AddInt32(AddInt32(AddInt32(g, h), AddInt32(i, j)), AddInt32(k, l));
  return SumInts(AddInt32(low, high));
}

static uint64_t ReadAllBytes(const std::byte* data, size_t bytes) {
  Ints sums[4] = {ZeroInts(), ZeroInts(), ZeroInts(), ZeroInts()};
  constexpr size_t kBytes = sizeof(Ints);
  for (size_t i = 0; i < bytes; i += 4 * kBytes) {
    for (size_t j = 0; j < 4; ++j) sums[j] = AddInt32(sums[j], LoadInts(data + i + j * kBytes));
  }
  uint64_t total = 0;
  for (const Ints& sum : sums) total += static_cast<uint64_t>(static_cast<uint32_t>(SumInts(sum)));
  return total;
}
