// The tensors of a checkpoint with a sorted index of their names.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "models/formats/checkpoint.h"

namespace tidepool::formats {

class TensorTable {
 public:
  void Append(std::vector<Tensor> tensors);
  // Sorts the index; call once after the last Append. Returns a name that occurs twice, or nullptr.
  const std::string* Seal();

  const std::vector<Tensor>& tensors() const { return tensors_; }
  const Tensor* Find(std::string_view name) const;
  uint64_t bytes() const { return bytes_; }

 private:
  std::vector<Tensor> tensors_;
  std::vector<uint32_t> by_name_;
  uint64_t bytes_ = 0;
};

// Elements of a shape, or -1 if a dimension is negative or the product exceeds int64.
int64_t CountElements(const std::vector<int64_t>& shape);

}  // namespace tidepool::formats
