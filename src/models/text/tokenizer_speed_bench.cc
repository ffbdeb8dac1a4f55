// Encodes a text file again and again with a tokenizer.json and prints megabytes a second;
// bench/tokenizer_speed runs it beside Hugging Face's tokenizers on the same text.
//     tokenizer_speed_bench TOKENIZER_JSON TEXT_FILE [SECONDS]
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>

#include "models/text/tokenizer.h"

namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: %s TOKENIZER_JSON TEXT_FILE [SECONDS]\n", argv[0]);
    return 2;
  }
  using Clock = std::chrono::steady_clock;
  const double seconds = argc > 3 ? std::atof(argv[3]) : 2;
  const auto tokenizer = tidepool::text::Tokenizer::FromJson(ReadFile(argv[1]));
  if (!tokenizer) {
    std::fprintf(stderr, "%s\n", tokenizer.error().message.c_str());
    return 1;
  }
  const std::string text = ReadFile(argv[2]);
  size_t ids = 0;
  double best = 1e9, total = 0;
  while (total < seconds) {
    const auto start = Clock::now();
    ids = (*tokenizer)->Encode(text).size();
    const double taken = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::min(best, taken);
    total += taken;
  }
  std::printf("%.3f %zu\n", static_cast<double>(text.size()) / best / 1e6, ids);
  return 0;
}
