// What the tests of tile kernels share: the kernels on tiles of three kinds.
//   model      compiled over tile registers in plain C++ (amx_tiles_model.inl), on any processor with
//   AVX-512; processor  kernels_amx.cc itself, where the processor has AMX; emulated   kernels_amx.cc itself,
//   where the processor has AVX512-BF16 and no AMX: its tile instructions are
//              caught and executed by the model (amx_emulator.inl).
#pragma once

#include <cpuid.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <ucontext.h>

#include <atomic>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "chips/cpu/cpu_ops.h"
#include "chips/cpu/processor.h"
#include "chips/cpu/tile_kernels.h"

namespace tidepool::chips::cpu {

extern const TileKernels kModelTileKernels;

[[noreturn]] void TileModelFailed(const char* what);

namespace {

// clang-format off
#include "chips/cpu/amx_tiles_model.inl"
#include "chips/cpu/amx_emulator.inl"
// clang-format on

struct Tiles {
  std::string name;
  const TileKernels* kernels;
};

// The best vector kernels for few rows here, which tile kernels are tested beside; "" without AVX-512.
std::string VectorSet() {
  for (const std::string& set : CpuInstructionSets()) {
    if (set == "avx512vnni" || set == "avx512") return set;
  }
  return "";
}

class OnTiles : public ::testing::Test {
 protected:
  void SetUp() override {
    if (VectorSet().empty()) {
      GTEST_SKIP() << "this processor has no AVX-512, which the kernels use beside the tiles";
    }
    tiles_.push_back({"model", &kModelTileKernels});
    if (DetectFeatures().amx) {
      tiles_.push_back({"processor", &kAmxTileKernels});
    } else if (HasBfloatVectors()) {
      emulator_.emplace();
      if (TileEmulator::Works()) tiles_.push_back({"emulated", &kAmxTileKernels});
    }
  }
  std::vector<Tiles> tiles_;

 private:
  // AVX512-BF16, which the kernels use beside the tiles.
  static bool HasBfloatVectors() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & 1u << 5) != 0;
  }
  std::optional<TileEmulator> emulator_;
};

}  // namespace
}  // namespace tidepool::chips::cpu
