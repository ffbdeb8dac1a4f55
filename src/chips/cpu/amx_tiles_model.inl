// Tile registers in plain C++, for tests on processors without AMX: the functions of amx_tiles.inl. What the
// processor refuses (#UD, #GP) is a failure here: TileModelFailed, which the test defines.

struct TileRegisters {
  bool configured = false;
  TileConfig config;
  uint8_t data[8][16][64] = {};
};
static thread_local TileRegisters tile_registers;

static void RequireTile(bool condition, const char* what) {
  if (!condition) TileModelFailed(what);
}
static TileRegisters& ConfiguredTiles() {
  RequireTile(tile_registers.configured, "tiles are used before ConfigureTiles or after ReleaseTiles");
  return tile_registers;
}
// A tile that the configuration gives a shape.
static TileRegisters& UsableTile(int tile) {
  TileRegisters& t = ConfiguredTiles();
  RequireTile(tile >= 0 && tile < 8 && t.config.rows[tile] > 0, "the tile is not configured");
  return t;
}

static inline void ConfigureTiles(const TileConfig& config) {
  RequireTile(config.palette == 1 && config.start_row == 0, "palette 1, from row 0");
  for (const uint8_t byte : config.reserved) RequireTile(byte == 0, "reserved bytes are zero");
  for (int i = 0; i < 16; ++i) {
    const int rows = config.rows[i], bytes = config.row_bytes[i];
    RequireTile(i < 8 || (rows == 0 && bytes == 0), "there are eight tiles");
    RequireTile(rows <= 16 && bytes <= 64, "a tile has at most 16 rows of 64 bytes");
    RequireTile((rows == 0) == (bytes == 0), "a tile has rows and bytes, or neither");
  }
  tile_registers = TileRegisters{};
  tile_registers.configured = true;
  tile_registers.config = config;
}
static inline void ReleaseTiles() { tile_registers = TileRegisters{}; }

// The functions of amx_tiles.inl with tiles by number, for the emulator; theirs are at the end.
static void ModelZero(int tile) {
  __builtin_memset(UsableTile(tile).data[tile], 0, sizeof tile_registers.data[tile]);
}
static void ModelLoad(int tile, const void* from, int64_t stride) {
  TileRegisters& t = UsableTile(tile);
  __builtin_memset(t.data[tile], 0, sizeof t.data[tile]);
  for (int r = 0; r < t.config.rows[tile]; ++r) {
    __builtin_memcpy(t.data[tile][r], static_cast<const uint8_t*>(from) + r * stride,
                     t.config.row_bytes[tile]);
  }
}
static void ModelStore(int tile, void* to, int64_t stride) {
  const TileRegisters& t = UsableTile(tile);
  for (int r = 0; r < t.config.rows[tile]; ++r) {
    __builtin_memcpy(static_cast<uint8_t*>(to) + r * stride, t.data[tile][r], t.config.row_bytes[tile]);
  }
}

// c [rows, n] += a [rows, k] b [k, n] in elements of 4 bytes.
struct TileShape {
  int rows, k, n;
};
static TileShape ProductShape(int c, int a, int b) {
  UsableTile(c), UsableTile(a), UsableTile(b);
  const TileConfig& config = tile_registers.config;
  RequireTile(c != a && c != b && a != b, "a product takes three tiles");
  const TileShape shape = {config.rows[c], config.row_bytes[a] / 4, config.row_bytes[c] / 4};
  RequireTile(config.row_bytes[a] % 4 == 0 && config.row_bytes[b] % 4 == 0 && config.row_bytes[c] % 4 == 0,
              "rows are whole elements of 4 bytes");
  RequireTile(config.rows[a] == shape.rows, "a and c have the same rows");
  RequireTile(config.rows[b] == shape.k, "b has a row for each element of a row of a");
  RequireTile(config.row_bytes[b] == config.row_bytes[c], "rows of b and c are as long");
  return shape;
}

static uint32_t FloatBits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}
static float FloatOfBits(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
static float FlushSubnormal(float value) {
  const uint32_t bits = FloatBits(value);
  return (bits & 0x7f800000u) == 0 ? FloatOfBits(bits & 0x80000000u) : value;
}
// Subnormal inputs count as zeros, subnormal results become zeros; nearest, even at ties.
static float TileFma(float a, float b, float c) {
  return FlushSubnormal(__builtin_fmaf(FlushSubnormal(a), FlushSubnormal(b), FlushSubnormal(c)));
}
static float TileAdd(float a, float b) { return FlushSubnormal(FlushSubnormal(a) + FlushSubnormal(b)); }

// As the manual has it: the products of even and of odd elements are added in two chains that begin at zero,
// then the chains to each other, and that to c.
static void ModelDotBfloat(int c, int a, int b) {
  const TileShape shape = ProductShape(c, a, b);
  TileRegisters& t = tile_registers;
  const auto bfloat = [](const uint8_t* p) {
    uint16_t half;
    __builtin_memcpy(&half, p, sizeof half);
    return FloatOfBits(static_cast<uint32_t>(half) << 16);
  };
  for (int m = 0; m < shape.rows; ++m) {
    float even[16] = {}, odd[16] = {};
    for (int k = 0; k < shape.k; ++k) {
      const float a0 = bfloat(&t.data[a][m][4 * k]), a1 = bfloat(&t.data[a][m][4 * k + 2]);
      for (int n = 0; n < shape.n; ++n) {
        even[n] = TileFma(a0, bfloat(&t.data[b][k][4 * n]), even[n]);
        odd[n] = TileFma(a1, bfloat(&t.data[b][k][4 * n + 2]), odd[n]);
      }
    }
    for (int n = 0; n < shape.n; ++n) {
      float sum;
      __builtin_memcpy(&sum, &t.data[c][m][4 * n], sizeof sum);
      sum = TileAdd(sum, TileAdd(even[n], odd[n]));
      __builtin_memcpy(&t.data[c][m][4 * n], &sum, sizeof sum);
    }
    __builtin_memset(&t.data[c][m][4 * shape.n], 0, static_cast<size_t>(64 - 4 * shape.n));
  }
}

static void ModelDotBytes(int c, int a, int b, bool signed_a, bool signed_b) {
  const auto value = [](uint8_t byte, bool with_sign) { return with_sign ? int{static_cast<int8_t>(byte)} : int{byte}; };
  const TileShape shape = ProductShape(c, a, b);
  TileRegisters& t = tile_registers;
  for (int m = 0; m < shape.rows; ++m) {
    for (int n = 0; n < shape.n; ++n) {
      uint32_t sum;  // wraps around
      __builtin_memcpy(&sum, &t.data[c][m][4 * n], sizeof sum);
      for (int k = 0; k < shape.k; ++k) {
        for (int i = 0; i < 4; ++i) {
          sum += static_cast<uint32_t>(value(t.data[a][m][4 * k + i], signed_a) *
                                       value(t.data[b][k][4 * n + i], signed_b));
        }
      }
      __builtin_memcpy(&t.data[c][m][4 * n], &sum, sizeof sum);
    }
    __builtin_memset(&t.data[c][m][4 * shape.n], 0, static_cast<size_t>(64 - 4 * shape.n));
  }
}

// The bits of the nearest bf16, as VCVTNE2PS2BF16.
[[maybe_unused]] static uint16_t BfloatBits(float value) {
  const uint32_t bits = FloatBits(FlushSubnormal(value));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

template <int kTile>
static inline void ZeroTile() {
  ModelZero(kTile);
}
template <int kTile>
static inline void LoadTile(const void* from, int64_t stride) {
  ModelLoad(kTile, from, stride);
}
template <int kTile>
static inline void StreamTile(const void* from, int64_t stride) {
  ModelLoad(kTile, from, stride);
}
template <int kTile>
static inline void StoreTile(void* to, int64_t stride) {
  ModelStore(kTile, to, stride);
}
template <int kC, int kA, int kB>
static inline void DotTilesBfloat() {
  ModelDotBfloat(kC, kA, kB);
}
template <int kC, int kA, int kB, bool kSignedA, bool kSignedB>
static inline void DotTilesBytes() {
  ModelDotBytes(kC, kA, kB, kSignedA, kSignedB);
}
