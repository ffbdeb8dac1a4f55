// Runs the tile instructions of this process over the model (amx_tiles_model.inl, to be included before) on a
// processor that has none: each is an invalid instruction there, and the handler of SIGILL decodes and
// executes it. So tests run the very code of kernels_amx.cc. Installed from construction to destruction, for
// all threads.

class TileEmulator {
 public:
  TileEmulator() {
    struct sigaction action = {};
    action.sa_flags = SA_SIGINFO;
    action.sa_sigaction = Handle;
    sigemptyset(&action.sa_mask);
    RequireTile(sigaction(SIGILL, &action, &before_) == 0, "sigaction");
  }
  ~TileEmulator() { sigaction(SIGILL, &before_, nullptr); }
  TileEmulator(const TileEmulator&) = delete;
  TileEmulator& operator=(const TileEmulator&) = delete;

  // Tile instructions are invalid here, and so are emulated.
  static bool Works() {
    const int before = executed_;
    asm volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0xc0" : : : "memory");  // TILERELEASE
    return executed_ > before;
  }

 private:
  // Registers 0 .. 15 as instructions number them.
  static uint64_t Register(const ucontext_t& context, int number) {
    constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(context.uc_mcontext.gregs[kOrder[number]]);
  }

  struct Operand {
    uint64_t base = 0, stride = 0;
  };
  // The memory operand after the opcode; `at` is moved behind it.
  static Operand Address(const ucontext_t& context, const uint8_t*& at, bool extend_index, bool extend_base) {
    const int mode = *at >> 6, low = *at & 7;
    ++at;
    Operand operand;
    bool has_base = true, relative = false;
    int base = low + (extend_base ? 8 : 0);
    if (low == 4) {  // a scale, an index and a base
      const int index = (*at >> 3 & 7) + (extend_index ? 8 : 0);
      base = (*at & 7) + (extend_base ? 8 : 0);
      has_base = mode != 0 || (*at & 7) != 5;
      if (index != 4) operand.stride = Register(context, index) << (*at >> 6);
      ++at;
    } else if (mode == 0 && low == 5) {
      relative = true;  // to the next instruction, which begins behind the displacement
      has_base = false;
    }
    if (has_base) operand.base = Register(context, base);
    if (mode == 1) {
      operand.base += static_cast<uint64_t>(int64_t{static_cast<int8_t>(*at++)});
    } else if (mode == 2 || !has_base) {
      int32_t displacement;
      std::memcpy(&displacement, at, sizeof displacement);
      operand.base += static_cast<uint64_t>(int64_t{displacement});
      at += 4;
      if (relative) operand.base += reinterpret_cast<uint64_t>(at);
    }
    return operand;
  }

  static void Handle(int, siginfo_t*, void* raw) {
    auto& context = *static_cast<ucontext_t*>(raw);
    const auto* at = reinterpret_cast<const uint8_t*>(context.uc_mcontext.gregs[REG_RIP]);
    // VEX in three bytes: C4, R X B (inverted) and map, W vvvv (inverted) L pp, opcode, ModRM.
    const bool known = at[0] == 0xc4 && (at[1] & 0x1f) == 2 && (at[2] & 0x84) == 0;
    if (!known) TileModelFailed("an invalid instruction that is not of tiles");
    const bool extend_index = (at[1] & 0x40) == 0, extend_base = (at[1] & 0x20) == 0;
    const int second = ~at[2] >> 3 & 15, prefix = at[2] & 3, opcode = at[3];
    enum { kNone, k66, kF3, kF2 };
    at += 4;
    const bool registers = *at >> 6 == 3;
    const int reg = *at >> 3 & 7, rm = *at & 7;
    if (opcode == 0x49 && registers) {
      ++at;
      if (prefix == kNone) {
        ReleaseTiles();
      } else {
        ModelZero(reg);
      }
    } else if (opcode == 0x49 && prefix == kNone) {
      ConfigureTiles(
          *reinterpret_cast<const TileConfig*>(Address(context, at, extend_index, extend_base).base));
    } else if (opcode == 0x4b && !registers) {
      const Operand operand = Address(context, at, extend_index, extend_base);
      auto* const memory = reinterpret_cast<void*>(operand.base);
      const auto stride = static_cast<int64_t>(operand.stride);
      if (prefix == kF2 || prefix == k66) ModelLoad(reg, memory, stride);
      if (prefix == kF3) ModelStore(reg, memory, stride);
    } else if (opcode == 0x5c && registers && prefix == kF3) {
      ++at;
      ModelDotBfloat(reg, rm, second);
    } else if (opcode == 0x5e && registers) {
      ++at;
      ModelDotBytes(reg, rm, second, prefix == kF2 || prefix == kF3, prefix == kF2 || prefix == k66);
    } else {
      TileModelFailed("a tile instruction that is not emulated");
    }
    context.uc_mcontext.gregs[REG_RIP] = reinterpret_cast<greg_t>(at);
    ++executed_;
  }

  static inline std::atomic<int> executed_{0};
  struct sigaction before_ = {};
};
