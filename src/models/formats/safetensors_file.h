// One .safetensors file, parsed from memory: u64 length, JSON header, tensor data without holes or overlaps.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "models/formats/checkpoint.h"

namespace tidepool::formats {

// The tensors in the order of their data; that names are unique is TensorTable::Seal's check. `bytes` is the
// whole file; the tensors' bytes lie in it. BOOL and unsigned integers are given as the signed type of their
// width (the same bytes; they cannot be decoded to float anyway). Memory taken is bounded: a few hundred
// bytes a tensor, at most limits.max_tensors of them.
Result<std::vector<Tensor>> ParseSafetensors(std::span<const std::byte> bytes, const std::string& name,
                                             const OpenLimits& limits);

}  // namespace tidepool::formats
