#include "models/formats/tensor_table.h"

#include <algorithm>
#include <iterator>
#include <numeric>

namespace tidepool::formats {

void TensorTable::Append(std::vector<Tensor> tensors) {
  for (const Tensor& tensor : tensors) bytes_ += tensor.bytes.size();
  if (tensors_.empty()) {
    tensors_ = std::move(tensors);
    return;
  }
  tensors_.insert(tensors_.end(), std::make_move_iterator(tensors.begin()),
                  std::make_move_iterator(tensors.end()));
}

const std::string* TensorTable::Seal() {
  by_name_.resize(tensors_.size());
  std::iota(by_name_.begin(), by_name_.end(), 0u);
  std::sort(by_name_.begin(), by_name_.end(),
            [this](uint32_t a, uint32_t b) { return tensors_[a].name < tensors_[b].name; });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(), [this](uint32_t a, uint32_t b) {
    return tensors_[a].name == tensors_[b].name;
  });
  return twice == by_name_.end() ? nullptr : &tensors_[*twice].name;
}

const Tensor* TensorTable::Find(std::string_view name) const {
  const auto found =
      std::lower_bound(by_name_.begin(), by_name_.end(), name,
                       [this](uint32_t i, std::string_view n) { return tensors_[i].name < n; });
  return found == by_name_.end() || tensors_[*found].name != name ? nullptr : &tensors_[*found];
}

int64_t CountElements(const std::vector<int64_t>& shape) {
  int64_t elements = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 0 || __builtin_mul_overflow(elements, dimension, &elements)) return -1;
  }
  return elements;
}

}  // namespace tidepool::formats
