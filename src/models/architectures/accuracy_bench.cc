// Accuracy of our default path, and of another engine's logits, beside float32: a part of
// bench/compare_accuracy.
//
//   accuracy_bench MODEL.gguf TOKENS.i32 SEQUENCE_TOKENS [INSTRUCTION_SET [KV]] [< the other engine's logits]
//
// TOKENS: int32, sequences end to end. Standard input: the other engine's float32 logits of the same
// positions in order, [positions, vocabulary]; nothing there: ours alone. Prints one JSON object, divergences
// in nats:
// {"positions", "instruction_set", "entropy", "tidepool": {"mean", "p99"}, "peer": {"mean", "p99"}}.
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>

#include <nlohmann/json.hpp>

#include "models/architectures/accuracy.h"

namespace {

namespace accuracy = tidepool::architectures::testing;
using Json = nlohmann::ordered_json;
using tidepool::chips::DataType;

constexpr DataType kKvTypes[] = {DataType::kI16, DataType::kF16, DataType::kBF16, DataType::kQ8_0,
                                 DataType::kF32};

Json Summary(const std::vector<double>& divergences) {
  return {{"mean", accuracy::Mean(divergences)}, {"p99", accuracy::Percentile(divergences, 0.99)}};
}

int Usage(const char* problem) {
  std::fprintf(stderr,
               "accuracy_bench: %s\nusage: accuracy_bench MODEL.gguf TOKENS.i32 SEQUENCE_TOKENS "
               "[INSTRUCTION_SET [KV_TYPE]] [< LOGITS.f32]\n",
               problem);
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4 || argc > 6) return Usage("three to five arguments are needed");
  std::ifstream in(argv[2], std::ios::binary);
  const std::vector<char> raw((std::istreambuf_iterator<char>(in)), {});
  const long sequence = std::strtol(argv[3], nullptr, 10);
  if (sequence < 1 || raw.size() / sizeof(int32_t) < static_cast<size_t>(sequence)) {
    return Usage("TOKENS holds not one sequence of SEQUENCE_TOKENS tokens");
  }
  std::vector<int32_t> tokens(raw.size() / sizeof(int32_t));
  std::copy_n(raw.data(), tokens.size() * sizeof(int32_t), reinterpret_cast<char*>(tokens.data()));
  const std::string set = argc > 4 ? argv[4] : "";
  DataType kv_type = tidepool::architectures::LoadOptions().kv_type;
  if (argc > 5) {
    const auto* const found = std::ranges::find_if(
        kKvTypes, [&](DataType type) { return tidepool::chips::TraitsOf(type).name == argv[5]; });
    if (found == std::end(kKvTypes)) return Usage("KV_TYPE is none of I16, F16, BF16, Q8_0, F32");
    kv_type = *found;
  }

  const size_t positions = tokens.size() / static_cast<size_t>(sequence) * static_cast<size_t>(sequence);
  std::vector<double> peer;
  std::vector<float> logits;
  bool has_peer = true;
  const auto compare = [&](std::span<const float> exact, size_t rows) {
    if (!has_peer) return;
    logits.resize(exact.size());
    const size_t got = std::fread(logits.data(), sizeof(float), logits.size(), stdin);
    if (got == 0 && peer.empty()) has_peer = false;
    if (got != logits.size()) return;
    const size_t vocab = exact.size() / rows;
    accuracy::AppendForEachRow(rows, peer, [&](size_t row) {
      return accuracy::Divergence(exact.subspan(row * vocab, vocab),
                                  std::span<const float>(logits).subspan(row * vocab, vocab));
    });
  };
  const accuracy::Accuracy measured = accuracy::MeasureAccuracy(
      argv[1], std::span(&set, 1), tokens, static_cast<size_t>(sequence), compare, kv_type);
  if (has_peer && peer.size() != positions) {
    std::fprintf(stderr, "accuracy_bench: the other engine's logits end after %zu of %zu positions\n",
                 peer.size(), positions);
    return 1;
  }
  Json out{{"positions", positions},
           {"instruction_set", measured.ours[0].instruction_set},
           {"entropy", accuracy::Mean(measured.entropies)},
           {"tidepool", Summary(measured.ours[0].values)}};
  if (has_peer) out["peer"] = Summary(peer);
  std::printf("%s\n", out.dump().c_str());
  return 0;
}
