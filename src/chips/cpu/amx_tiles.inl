// The tile registers of the processor. amx_tiles_model.inl has the same functions in plain C++, for tests.
// Written as assembly, since the intrinsics of g++ 12 do not tell the compiler that a load reads memory: it
// could move the stores that fill a tile behind them.

// The configuration belongs to the thread. Released as soon as a task is done: tile registers that hold
// nothing cost nothing when the system switches threads, full ones 8 KiB.
TP_INLINE void ConfigureTiles(const TileConfig& config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
TP_INLINE void ReleaseTiles() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
TP_INLINE void ZeroTile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
}
// `stride` in bytes between rows; 0 repeats one row.
template <int kTile>
TP_INLINE void LoadTile(const void* from, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
// What other tiles should not make way for in the first-level cache (TILELOADDT1).
template <int kTile>
TP_INLINE void StreamTile(const void* from, int64_t stride) {
  asm volatile("tileloaddt1 (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(kTile) : "memory");
}
template <int kTile>
TP_INLINE void StoreTile(void* to, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(kTile) : "memory");
}
// c += a b: pairs of bf16 into float32.
template <int kC, int kA, int kB>
TP_INLINE void DotTilesBfloat() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
}
// c += a b: fours of int8, with a sign or without, into int32.
template <int kC, int kA, int kB, bool kSignedA, bool kSignedB>
TP_INLINE void DotTilesBytes() {
  if constexpr (kSignedA && kSignedB) {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  } else if constexpr (kSignedA) {
    asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  } else if constexpr (kSignedB) {
    asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  } else {
    asm volatile("tdpbuud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kC), "i"(kA), "i"(kB));
  }
}

// 32 bf16: the nearest of `first` (even at ties), then of `second`. Subnormals become zeros; NaN stays NaN.
TP_INLINE Ints ToBfloat(Floats first, Floats second) {
  return reinterpret_cast<Ints>(_mm512_cvtne2ps_pbh(second, first));
}
