// What row kernels and attention share, after a simd_*.inl.

TP_INLINE float FirstLane(Floats v) {
  float lanes[kLanes];
  Store(lanes, v);
  return lanes[0];
}

TP_INLINE float SumOfSquares(const float* x, float mean, int64_t columns) {
  Floats sum = Zero();
  const Floats centre = Set1(mean);
  int64_t c = 0;
  for (; c + kLanes <= columns; c += kLanes) {
    const Floats v = Sub(Load(x + c), centre);
    sum = Fma(v, v, sum);
  }
  if (c < columns) {
    const Floats v = Select(FirstLanes(columns - c), Sub(LoadFirst(x + c, columns - c), centre), Zero());
    sum = Fma(v, v, sum);
  }
  return SumLanes(sum);
}
