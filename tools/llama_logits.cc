// Runs llama.cpp on given token ids and writes its logits, or tokenizes texts: a part of make_logit_oracles.py and
// bench/compare_accuracy, built against a llama.cpp tree by the former and by scripts/build_peer, never with the project.
//
//   llama_logits MODEL.gguf IDS.i32 LOGITS.f32 THREADS [SEQUENCE_TOKENS]     sequences end to end, each on its own
//   llama_logits MODEL.gguf --tokenize TEXT...          one line of ids for each text, no special tokens
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "llama.h"

static int Tokenize(const char* file, int count, char** texts) {
  llama_model_params params = llama_model_default_params();
  params.vocab_only = true;
  llama_model* model = llama_model_load_from_file(file, params);
  if (model == nullptr) return 3;
  for (int i = 0; i < count; ++i) {
    const auto size = static_cast<int32_t>(std::strlen(texts[i]));
    std::vector<llama_token> ids(static_cast<size_t>(size) + 8);
    const int32_t n = llama_tokenize(llama_model_get_vocab(model), texts[i], size, ids.data(),
                                     static_cast<int32_t>(ids.size()), false, false);
    if (n < 0) return 4;
    for (int32_t t = 0; t < n; ++t) std::printf("%d ", ids[static_cast<size_t>(t)]);
    std::printf("\n");
  }
  return 0;
}

int main(int argc, char** argv) {
  if (argc >= 4 && std::strcmp(argv[2], "--tokenize") == 0) return Tokenize(argv[1], argc - 3, argv + 3);
  if (argc != 5 && argc != 6) return 2;
  std::ifstream in(argv[2], std::ios::binary);
  const std::vector<char> raw((std::istreambuf_iterator<char>(in)), {});
  const auto* ids = reinterpret_cast<const int32_t*>(raw.data());
  const auto total = static_cast<int32_t>(raw.size() / sizeof(int32_t));
  const int32_t count = argc > 5 ? std::atoi(argv[5]) : total;
  if (count < 1 || total < count) return 2;

  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return 3;
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(count);
  params.n_batch = static_cast<uint32_t>(count);
  params.n_threads = params.n_threads_batch = std::atoi(argv[4]);
  llama_context* context = llama_init_from_model(model, params);
  if (context == nullptr) return 4;

  const auto vocab = static_cast<size_t>(llama_vocab_n_tokens(llama_model_get_vocab(model)));
  std::ofstream out(argv[3], std::ios::binary);
  llama_batch batch = llama_batch_init(count, 0, 1);
  batch.n_tokens = count;
  for (int32_t begin = 0; begin + count <= total; begin += count) {
    for (int32_t i = 0; i < count; ++i) {
      batch.token[i] = ids[begin + i];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = 1;
    }
    llama_memory_clear(llama_get_memory(context), true);
    if (llama_decode(context, batch) != 0) return 5;
    for (int32_t i = 0; i < count; ++i) {
      out.write(reinterpret_cast<const char*>(llama_get_logits_ith(context, i)),
                static_cast<std::streamsize>(vocab * sizeof(float)));
    }
  }
  return out.flush().good() ? 0 : 6;
}
