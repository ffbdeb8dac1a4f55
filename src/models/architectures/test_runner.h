// For tests: a model on a device with its own KV blocks, run in any cut of batches and chunks.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "models/architectures/model.h"

namespace tidepool::architectures::testing {

inline std::filesystem::path SourceFolder() { return std::filesystem::path(TIDEPOOL_SOURCE_DIR); }
inline std::filesystem::path TestdataFolder() { return SourceFolder() / "src/models/architectures/testdata"; }

// The folder scripts/test_data fills; tests that need a large model skip when it is absent.
inline std::filesystem::path LargeModels() {
  const char* folder = std::getenv("TIDEPOOL_TEST_DATA");
  return folder != nullptr ? std::filesystem::path(folder) : SourceFolder() / "build/test-data";
}

template <typename T>
T Must(Result<T> result) {
  if (!result) {
    ADD_FAILURE() << result.error().message;
    std::abort();
  }
  return std::move(*result);
}

inline std::unique_ptr<chips::Device> CpuDevice(const std::string& instruction_set, int threads = 2,
                                                bool deterministic = true) {
  return Must(chips::MakeCpuDevice(
      {.threads = threads, .instruction_set = instruction_set, .deterministic = deterministic}));
}

// One sequence's KV blocks, in an order that is not the memory's order, so that a wrong block table shows.
class TestSequence {
 public:
  TestSequence(chips::Device& device, const chips::KvLayout& layout, int32_t capacity) {
    const auto blocks = static_cast<size_t>((capacity + chips::kKvBlockTokens - 1) / chips::kKvBlockTokens);
    memory_ = Must(device.Allocate(blocks * layout.block_bytes()));
    for (size_t i = 0; i < blocks; ++i) blocks_.push_back(memory_.data() + i * layout.block_bytes());
    std::reverse(blocks_.begin(), blocks_.end());
  }
  std::byte* const* blocks() const { return blocks_.data(); }
  int32_t block_count() const { return static_cast<int32_t>(blocks_.size()); }

  std::vector<int32_t> pending;  // tokens not run yet
  int32_t context = 0;           // tokens run
  bool hidden = false;           // wants hidden states instead of logits
  std::vector<float> output;     // rows wanted so far, end to end

 private:
  chips::DeviceBuffer memory_;
  std::vector<std::byte*> blocks_;
};

class ModelRunner {
 public:
  ModelRunner(std::unique_ptr<chips::Device> device, const std::filesystem::path& path,
              const LoadOptions& options,
              const StepLimits& limits = {.max_tokens = 128, .max_logit_rows = 128})
      : device_(std::move(device)), limits_(limits) {
    const auto checkpoint = Must(formats::Checkpoint::Open(path));
    Adopt(Must(LoadModel(*checkpoint, *device_, options)));
  }
  // For a model that comes another way than LoadModel; `make` gets the device.
  template <typename Make>
  ModelRunner(std::unique_ptr<chips::Device> device, Make&& make)
      : device_(std::move(device)), limits_{.max_tokens = 128, .max_logit_rows = 128} {
    Adopt(make(*device_));
  }

  LayerGate* gate = nullptr;  // of every step
  bool aborted = false;       // the last step

  void Adopt(std::unique_ptr<Model> model) {
    model_ = std::move(model);
    workspace_ = Must(device_->Allocate(model_->WorkspaceBytes(limits_)));
    const Status reserved = device_->ReserveScratch(limits_.max_tokens, model_->MaxColumns());
    EXPECT_TRUE(reserved.has_value());
  }

  Model& model() { return *model_; }
  chips::Device& device() { return *device_; }
  const StepLimits& limits() const { return limits_; }
  std::byte* workspace() { return workspace_.data(); }

  TestSequence NewSequence(std::vector<int32_t> tokens, int32_t extra = 0) {
    TestSequence sequence(*device_, model_->kv_layout(), static_cast<int32_t>(tokens.size()) + extra);
    sequence.pending = std::move(tokens);
    return sequence;
  }

  // One step: `counts[i]` pending tokens of sequences[i], outputs of every row appended to each sequence's
  // output.
  void RunStep(std::span<TestSequence* const> sequences, std::span<const int32_t> counts) {
    std::vector<int32_t> tokens, positions, rows;
    std::vector<chips::SequenceSlice> slices;
    for (size_t i = 0; i < sequences.size(); ++i) {
      TestSequence& s = *sequences[i];
      const int32_t begin = static_cast<int32_t>(tokens.size());
      for (int32_t t = 0; t < counts[i]; ++t) {
        tokens.push_back(s.pending[static_cast<size_t>(t)]);
        positions.push_back(s.context + t);
        rows.push_back(begin + t);
      }
      slices.push_back({begin, counts[i], s.context, s.blocks(), s.block_count()});
    }
    const bool hidden = !model_->info().generates || sequences[0]->hidden;
    Step step{tokens, positions, slices, {}, {}, gate};
    (hidden ? step.hidden_rows : step.logit_rows) = rows;
    const StepOutput out = model_->Forward(step, limits_, workspace_.data());
    aborted = out.aborted;
    if (aborted) return;
    const float* row = hidden ? out.hidden : out.logits;
    const auto columns = static_cast<size_t>(hidden ? model_->info().hidden_size : model_->info().vocab_size);
    for (size_t i = 0; i < sequences.size(); ++i) {
      TestSequence& s = *sequences[i];
      s.output.insert(s.output.end(), row, row + static_cast<size_t>(counts[i]) * columns);
      row += static_cast<size_t>(counts[i]) * columns;
      s.pending.erase(s.pending.begin(), s.pending.begin() + counts[i]);
      s.context += counts[i];
    }
  }

  // All outputs of one text, [tokens, columns], run in chunks of at most `chunk`.
  std::vector<float> Run(std::vector<int32_t> tokens, int32_t chunk) {
    TestSequence sequence = NewSequence(std::move(tokens));
    while (!sequence.pending.empty() && !aborted) {
      const int32_t count = std::min(chunk, static_cast<int32_t>(sequence.pending.size()));
      TestSequence* const one = &sequence;
      RunStep(std::span(&one, 1), std::span(&count, 1));
    }
    return std::move(sequence.output);
  }

 private:
  std::unique_ptr<chips::Device> device_;
  StepLimits limits_;
  std::unique_ptr<Model> model_;
  chips::DeviceBuffer workspace_;
};

}  // namespace tidepool::architectures::testing
