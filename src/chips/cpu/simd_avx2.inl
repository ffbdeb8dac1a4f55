// Vectors of 8 floats: AVX2, FMA, F16C; AVX-VNNI where the compiler may use it. Internal linkage throughout
// (see kernel_table.h).
#define TP_INLINE static inline __attribute__((always_inline))

constexpr int kLanes = 8;
using Floats = __m256;
using Ints = __m256i;  // 8 x int32, 16 x int16 or 32 x int8
using Mask = __m256;   // all bits of a lane

TP_INLINE Floats Zero() { return _mm256_setzero_ps(); }
TP_INLINE Floats Set1(float x) { return _mm256_set1_ps(x); }
TP_INLINE Floats Load(const float* p) { return _mm256_loadu_ps(p); }
TP_INLINE void Store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
TP_INLINE __m256i FirstLanesInts(int64_t n) {
  const int bounded = n > 8 ? 8 : n < 0 ? 0 : static_cast<int>(n);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(bounded), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
TP_INLINE Mask FirstLanes(int64_t n) { return _mm256_castsi256_ps(FirstLanesInts(n)); }
TP_INLINE Floats LoadFirst(const float* p, int64_t n) {
  return n >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, FirstLanesInts(n));
}
// Masked stores are microcode on AMD's processors (Zen 3: one in about ten cycles), so only where needed.
TP_INLINE void StoreFirst(float* p, Floats v, int64_t n) {
  if (n >= kLanes) {
    _mm256_storeu_ps(p, v);
  } else {
    _mm256_maskstore_ps(p, FirstLanesInts(n), v);
  }
}
TP_INLINE Floats Add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
TP_INLINE Floats Sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
TP_INLINE Floats Mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
TP_INLINE Floats Div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
TP_INLINE Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
TP_INLINE Floats NegFma(Floats a, Floats b, Floats c) { return _mm256_fnmadd_ps(a, b, c); }  // c - a b
// The second operand where either is NaN.
TP_INLINE Floats Max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
TP_INLINE Floats Min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
TP_INLINE Floats Abs(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
TP_INLINE Floats Round(Floats a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
TP_INLINE Mask IsNan(Floats a) { return _mm256_cmp_ps(a, a, _CMP_UNORD_Q); }
TP_INLINE Mask Less(Floats a, Floats b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
TP_INLINE bool Any(Mask m) { return _mm256_movemask_ps(m) != 0; }
TP_INLINE Mask And(Mask a, Mask b) { return _mm256_and_ps(a, b); }
TP_INLINE Mask AndNot(Mask a, Mask b) { return _mm256_andnot_ps(a, b); }
TP_INLINE Floats Select(Mask m, Floats yes, Floats no) { return _mm256_blendv_ps(no, yes, m); }
TP_INLINE Floats CopySign(Floats magnitude, Floats sign) {
  const __m256 bit = _mm256_set1_ps(-0.0f);
  return _mm256_or_ps(_mm256_andnot_ps(bit, magnitude), _mm256_and_ps(bit, sign));
}
TP_INLINE Floats SwapPairs(Floats v) { return _mm256_permute_ps(v, 0xb1); }  // (1, 0, 3, 2 ..)
TP_INLINE Floats ToFloats(Ints v) { return _mm256_cvtepi32_ps(v); }
TP_INLINE Ints ToInts(Floats v) { return _mm256_cvtps_epi32(v); }  // nearest even
TP_INLINE Floats BitsToFloats(Ints v) { return _mm256_castsi256_ps(v); }
TP_INLINE Ints ShiftLeft23(Ints v) { return _mm256_slli_epi32(v, 23); }
TP_INLINE float SumLanes(Floats v) {
  __m128 quarter = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_add_ss(quarter, _mm_movehdup_ps(quarter)));
}
TP_INLINE float MaxLanes(Floats v) {
  __m128 quarter = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  quarter = _mm_max_ps(quarter, _mm_movehl_ps(quarter, quarter));
  return _mm_cvtss_f32(_mm_max_ss(quarter, _mm_movehdup_ps(quarter)));
}

TP_INLINE Floats LoadHalf(const void* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
TP_INLINE Floats LoadHalfFirst(const void* p, int64_t n) {
  alignas(16) uint16_t all[8] = {};
  __builtin_memcpy(all, p, static_cast<size_t>(n > 8 ? 8 : n < 0 ? 0 : n) * 2);
  return LoadHalf(all);
}
TP_INLINE Floats LoadBfloat(const void* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
TP_INLINE void StoreHalf(void* p, Floats v) {
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
TP_INLINE Floats LoadInt8(const void* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))));
}
TP_INLINE void StoreInt8(void* p, Ints v) {  // saturating
  const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
TP_INLINE int32_t SumInts(Ints v) {
  __m128i quarter = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  quarter = _mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
}
// Stores as StoreInt8 and returns the sum of what was stored: bytes are summed together, 128 too large each.
TP_INLINE int32_t StoreInt8Sum(void* p, Ints v) {
  StoreInt8(p, v);
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(p));
  const __m128i biased = _mm_xor_si128(bytes, _mm_set_epi64x(0, -0x7f7f7f7f7f7f7f80ll));
  return _mm_cvtsi128_si32(_mm_sad_epu8(biased, _mm_setzero_si128())) - 8 * 128;
}

// ---- attention ----
TP_INLINE Floats Sqrt(Floats a) { return _mm256_sqrt_ps(a); }
// 2^x for x <= 0: a polynomial on [-1/2, 1/2], relative error below 2^-22, exact at 0; 0 below 2^-126; NaN
// stays NaN.
TP_INLINE Floats Exp2(Floats x) {
  const Floats bounded = Max(Set1(-127.0f), x);
  const Floats n = Round(bounded), r = Sub(bounded, n);
  Floats p = Set1(1.326472731307149e-3f);
  p = Fma(p, r, Set1(9.671512991189957e-3f));
  p = Fma(p, r, Set1(5.550733581185341e-2f));
  p = Fma(p, r, Set1(0.24022242426872253f));
  p = Fma(p, r, Set1(0.6931470036506653f));
  p = Fma(p, r, Set1(1.0f));
  const Floats power = BitsToFloats(ShiftLeft23(_mm256_add_epi32(ToInts(n), _mm256_set1_epi32(127))));
  return _mm256_andnot_ps(Less(x, Set1(-126.0f)), Mul(p, power));
}
TP_INLINE Floats LoadBfloatFirst(const void* p, int64_t n) {
  alignas(16) uint16_t all[8] = {};
  __builtin_memcpy(all, p, static_cast<size_t>(n > 8 ? 8 : n < 0 ? 0 : n) * 2);
  return LoadBfloat(all);
}
TP_INLINE Floats LoadInt8First(const void* p, int64_t n) {
  alignas(8) int8_t all[8] = {};
  __builtin_memcpy(all, p, static_cast<size_t>(n > 8 ? 8 : n < 0 ? 0 : n));
  return LoadInt8(all);
}
TP_INLINE Floats SetHalf(const void* p) {
  uint16_t half;
  __builtin_memcpy(&half, p, sizeof half);
  return _mm256_set1_ps(_cvtsh_ss(half));
}
// Nearest even; NaN stays NaN.
TP_INLINE void StoreBfloat(void* p, Floats v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i chosen = _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(IsNan(v)));
  const __m256i words = _mm256_srli_epi32(chosen, 16);
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}
TP_INLINE void StoreInt16(void* p, Ints v) {  // saturating
  _mm_storeu_si128(static_cast<__m128i*>(p),
                   _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
TP_INLINE void StoreInts(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
// The low halves of both: (low, high) pairs of int16.
TP_INLINE Ints PairInts(Ints low, Ints high) {
  return _mm256_blend_epi16(low, _mm256_slli_epi32(high, 16), 0xaa);
}
TP_INLINE Ints FloatsToBits(Floats v) { return _mm256_castps_si256(v); }
TP_INLINE Ints MaxInts(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
// The largest magnitude of n f16 or bf16, as bits.
TP_INLINE uint32_t LargestBits16(const void* p, int64_t n) {
  const auto* from = static_cast<const uint16_t*>(p);
  const __m256i magnitude = _mm256_set1_epi16(0x7fff);
  __m256i top = _mm256_setzero_si256();
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
    top = _mm256_max_epu16(top, _mm256_and_si256(v, magnitude));
  }
  if (i < n) {
    alignas(32) uint16_t rest[16] = {};
    __builtin_memcpy(rest, from + i, static_cast<size_t>(n - i) * 2);
    const __m256i v = _mm256_load_si256(reinterpret_cast<const __m256i*>(rest));
    top = _mm256_max_epu16(top, _mm256_and_si256(v, magnitude));
  }
  const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
  const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
  return 0xffffu ^ static_cast<uint32_t>(_mm_extract_epi16(least, 0));
}
TP_INLINE int32_t MaxLanesInts(Ints v) {
  __m128i quarter = _mm_max_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  quarter = _mm_max_epi32(quarter, _mm_shuffle_epi32(quarter, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(quarter, _mm_shuffle_epi32(quarter, 0xb1)));
}
// sum + a0 b0 + a1 b1 of int16 pairs.
#if defined(__AVXVNNI__)
TP_INLINE Ints DotPairs(Ints sum, Ints a, Ints b) {
  // For the builtin g++ 12 copies the sum before and after every product.
  asm("%{vex%} vpdpwssd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
}
#else
TP_INLINE Ints DotPairs(Ints sum, Ints a, Ints b) { return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)); }
#endif

// ---- integer dot products ----
TP_INLINE Ints ZeroInts() { return _mm256_setzero_si256(); }
// The first and the second of pairs of int16.
TP_INLINE Ints FirstOfPairs(Ints v) { return _mm256_srai_epi32(_mm256_slli_epi32(v, 16), 16); }
TP_INLINE Ints SecondOfPairs(Ints v) { return _mm256_srai_epi32(v, 16); }
TP_INLINE Ints LoadInts(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
TP_INLINE Ints SetInt(int32_t x) { return _mm256_set1_epi32(x); }
TP_INLINE Ints BroadcastInt(const void* p) {
  int32_t value;
  __builtin_memcpy(&value, p, sizeof value);
  return _mm256_set1_epi32(value);
}
TP_INLINE Floats BroadcastFloat(const void* p) { return BitsToFloats(BroadcastInt(p)); }
TP_INLINE Ints BroadcastTable(const void* p) {  // 16 bytes into every 128-bit lane
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(static_cast<const __m128i*>(p)));
}
TP_INLINE Ints AndInts(Ints a, Ints b) { return _mm256_and_si256(a, b); }
TP_INLINE Ints OrInts(Ints a, Ints b) { return _mm256_or_si256(a, b); }
TP_INLINE Ints SetByte(int x) { return _mm256_set1_epi8(static_cast<char>(x)); }
TP_INLINE Ints Set16(int x) { return _mm256_set1_epi16(static_cast<short>(x)); }
template <int kBits>
TP_INLINE Ints ShiftRight16(Ints v) {
  return _mm256_srli_epi16(v, kBits);
}
template <int kBits>
TP_INLINE Ints ShiftLeft16(Ints v) {
  return _mm256_slli_epi16(v, kBits);
}
TP_INLINE Ints Lookup(Ints table, Ints index) { return _mm256_shuffle_epi8(table, index); }
TP_INLINE Ints AddInt32(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
TP_INLINE Ints AddInt16(Ints a, Ints b) { return _mm256_add_epi16(a, b); }
TP_INLINE Ints MulAddBytes(Ints u, Ints s) { return _mm256_maddubs_epi16(u, s); }  // unsigned x signed, pairs
TP_INLINE Ints MulAdd16(Ints a, Ints b) { return _mm256_madd_epi16(a, b); }
#if defined(__AVXVNNI__)
#define TP_HAS_DOT 1
TP_INLINE Ints DotBytes(Ints sum, Ints u, Ints s) { return _mm256_dpbusd_avx_epi32(sum, u, s); }
#else
#define TP_HAS_DOT 0
TP_INLINE Ints DotBytes(Ints sum, Ints, Ints) { return sum; }
#endif

constexpr int kRegisters = 16;
constexpr int kLinearRows = 4;    // rows of x that share one unpacking of a weight block
constexpr int kFloatVectors = 2;  // vectors of a panel
constexpr int kFloatRows = 6;
constexpr int kFloatPanels = 1;    // panels at once for many rows
constexpr int kAttentionSums = 8;  // accumulators of the attention loops at most
