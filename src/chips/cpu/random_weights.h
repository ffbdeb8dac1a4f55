// For tests: random weights of every type, as a file would hold them, with scales of a sensible size.
#pragma once

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "chips/device.h"
#include "chips/quantisation.h"

namespace tidepool::chips::cpu {

inline const std::vector<DataType>& AllWeightTypes() {
  static const std::vector<DataType> types = {
      DataType::kF32,  DataType::kF16,    DataType::kBF16,   DataType::kQ4_0,
      DataType::kQ4_1, DataType::kQ5_0,   DataType::kQ5_1,   DataType::kQ8_0,
      DataType::kQ2_K, DataType::kQ3_K,   DataType::kQ4_K,   DataType::kQ5_K,
      DataType::kQ6_K, DataType::kIQ4_NL, DataType::kIQ4_XS, DataType::kMXFP4};
  return types;
}

// Where a block keeps its f16 factors and where its codes begin.
struct BlockFields {
  int scale = -1, minimum = -1;
  int codes_begin = 0, codes_end = 0;
};
inline BlockFields FieldsOf(DataType type) {
  switch (type) {
    case DataType::kQ4_0: return {0, -1, 2, 18};
    case DataType::kQ4_1: return {0, 2, 4, 20};
    case DataType::kQ5_0: return {0, -1, 2, 22};
    case DataType::kQ5_1: return {0, 2, 4, 24};
    case DataType::kQ8_0: return {0, -1, 2, 34};
    case DataType::kQ2_K: return {80, 82, 16, 80};
    case DataType::kQ3_K: return {108, -1, 0, 96};
    case DataType::kQ4_K: return {0, 2, 16, 144};
    case DataType::kQ5_K: return {0, 2, 16, 176};
    case DataType::kQ6_K: return {208, -1, 0, 192};
    case DataType::kIQ4_NL: return {0, -1, 2, 18};
    case DataType::kIQ4_XS: return {0, -1, 8, 136};
    default: return {};
  }
}

inline void PutHalf(std::byte* p, float value) {
  const uint16_t bits = FloatToHalf(value);
  std::memcpy(p, &bits, sizeof bits);
}

// rows x columns of `type`; columns must be whole blocks.
inline std::vector<std::byte> RandomWeights(DataType type, int64_t rows, int64_t columns,
                                            std::mt19937& random) {
  std::vector<std::byte> bytes(static_cast<size_t>(rows) * RowBytes(type, columns));
  std::normal_distribution<float> normal(0.0f, 0.05f);
  if (type == DataType::kF32 || type == DataType::kF16 || type == DataType::kBF16) {
    const size_t element = type == DataType::kF32 ? 4 : 2;
    for (size_t i = 0; i < bytes.size(); i += element) {
      const float value = normal(random);
      const uint16_t half = type == DataType::kF16 ? FloatToHalf(value) : FloatToBfloat16(value);
      std::memcpy(&bytes[i], type == DataType::kF32 ? static_cast<const void*>(&value) : &half, element);
    }
    return bytes;
  }
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const BlockFields fields = FieldsOf(type);
  std::uniform_real_distribution<float> scale(-0.01f, 0.01f);
  for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(TraitsOf(type).block_bytes)) {
    if (type == DataType::kMXFP4) {
      bytes[block] = static_cast<std::byte>(118 + random() % 8);
      continue;
    }
    PutHalf(&bytes[block + static_cast<size_t>(fields.scale)], scale(random));
    if (fields.minimum >= 0) PutHalf(&bytes[block + static_cast<size_t>(fields.minimum)], scale(random));
  }
  return bytes;
}

// The minimum that is added to every weight of a group (0 for types without): the weights with all codes 0.
inline std::vector<float> MinimumsOf(DataType type, const std::byte* row, int64_t columns) {
  std::vector<float> minimums(static_cast<size_t>(columns), 0.0f);
  const BlockFields fields = FieldsOf(type);
  if (fields.minimum < 0) return minimums;
  std::vector<std::byte> copy(row, row + RowBytes(type, columns));
  for (size_t block = 0; block < copy.size(); block += static_cast<size_t>(TraitsOf(type).block_bytes)) {
    for (int i = fields.codes_begin; i < fields.codes_end; ++i)
      copy[block + static_cast<size_t>(i)] = std::byte{0};
    // Q5_1 and Q5_K keep their fifth bits inside that range too.
  }
  DequantiseRow(type, copy.data(), columns, minimums.data());
  return minimums;
}

inline std::vector<float> RandomFloats(size_t count, float deviation, std::mt19937& random) {
  std::normal_distribution<float> normal(0.0f, deviation);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

// A packed weight and the memory it lives in.
struct OwnedWeight {
  DeviceBuffer buffer;
  PackedWeight weight;
};
inline OwnedWeight PackOn(Device& device, const WeightSpec& spec, const std::vector<std::byte>& source) {
  OwnedWeight owned;
  owned.buffer = device.Allocate(device.PackedBytes(spec).value()).value();
  owned.weight = device.Pack(spec, source, owned.buffer.data()).value();
  return owned;
}

inline std::unique_ptr<Device> MakeDevice(const std::string& instruction_set, int threads) {
  DeviceOptions options;
  options.instruction_set = instruction_set;
  options.threads = threads;
  options.deterministic = true;  // the vector kernels for any number of rows: amx_test.cc is about tiles
  return MakeCpuDevice(options).value();
}

// The instruction sets of this machine whose kernels are tested against the reference.
inline std::vector<std::string> VectorInstructionSets() {
  std::vector<std::string> sets = CpuInstructionSets();
  sets.pop_back();
  return sets;
}

}  // namespace tidepool::chips::cpu
