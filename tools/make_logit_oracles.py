#!/usr/bin/env python3
"""Writes src/models/architectures/testdata/real/*.bin: what transformers (float32, weights dequantised from the GGUF
file) says about three texts and 20 prompts, and how far llama.cpp's own quantised path is from it.

For SmolLM2 and Gemma 3 a fixture holds, per position, the 256 likeliest next tokens with their log-probabilities and
that of all others together. KL divergences are taken over these 257 events.
For all-MiniLM-L6-v2 it holds token ids and mean-pooled, normalised vectors of 50 sentences.

Needs: torch, transformers, accelerate, gguf, numpy; a built llama.cpp (tree and build folder) for its KL.
Use:   python tools/make_logit_oracles.py --models FOLDER --llama-source DIR --llama-build DIR [NAME...]
"""

import argparse
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

HERE = Path(__file__).resolve().parent
REAL = HERE.parent / "src/models/architectures/testdata/real"
POSITIONS, TOP, PROMPTS, CONTINUATION = 512, 256, 20, 32
MODELS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "gemma3": "gemma-3-270m-Q4_K_M.gguf"}
TEXTS = ["harbour.txt", "tide_code.txt", "questions.txt"]
LOG_STEP = 2.0**-11  # log-probabilities from 0 down to -32 in steps of 0.0005

QUESTIONS = [
    "The capital of France is", "Once upon a time, there was a", "def fibonacci(n):\n", "The three primary colours are",
    "Water boils at", "To make a good cup of tea, you", "1, 2, 3, 4, 5,", "The largest planet in the solar system is",
    "Dear Sir or Madam,\n\nI am writing to", "import numpy as np\n\n", "The meaning of the word \"tide\" is",
    "In 1969, two astronauts", "Der Hund läuft", "SELECT name, price FROM", "A haiku about the sea:\n",
    "The quick brown fox", "Roses are red,", "The derivative of x^2 is", "Les enfants jouent dans",
    "My favourite book is about a girl who",
]


# ---- models ----------------------------------------------------------------------------------------

def load(folder, file):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32).eval()


def encode(program, model_file, texts, family):
    lines = subprocess.run([program, model_file, "--tokenize", *texts], check=True, capture_output=True, text=True)
    begin = [2] if family == "gemma3" else []  # Gemma was trained with <bos> = 2 in front
    return [begin + [int(i) for i in line.split()] for line in lines.stdout.splitlines()]


def log_probabilities(model, ids):
    with torch.no_grad():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0], dim=-1).numpy()


def greedy(model, prompts):
    """For each prompt the 32 likeliest tokens, each with the gap of its logit to the runner-up's. One padded batch."""
    width = max(len(ids) for ids in prompts)
    feed = torch.tensor([[0] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    tokens, gaps, cache = [], [], None
    with torch.no_grad():
        for _ in range(CONTINUATION):
            out = model(feed, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True,
                        logits_to_keep=1)
            best = torch.topk(out.logits[:, -1], 2)
            tokens.append(best.indices[:, 0])
            gaps.append(best.values[:, 0] - best.values[:, 1])
            cache, feed, positions = out.past_key_values, best.indices[:, :1], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], 1)
    return torch.stack(tokens, 1).tolist(), torch.stack(gaps, 1).tolist()


def llama_log_probabilities(program, model_file, ids, vocab):
    with tempfile.TemporaryDirectory() as folder:
        np.asarray(ids, "<i4").tofile(f"{folder}/ids")
        subprocess.run([program, model_file, f"{folder}/ids", f"{folder}/logits", "2"], check=True,
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        logits = np.fromfile(f"{folder}/logits", "<f4").reshape(len(ids), vocab)
    return torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()


# ---- the packed distribution -----------------------------------------------------------------------

def pack(log_p):
    """The TOP likeliest ids of each position; their log-probabilities in steps, and last that of all others together."""
    ids = np.argpartition(-log_p, TOP, axis=1)[:, :TOP]
    kept = np.take_along_axis(log_p, ids, 1)
    order = np.argsort(-kept, axis=1, kind="stable")
    ids, kept = np.take_along_axis(ids, order, 1), np.take_along_axis(kept, order, 1)
    steps = np.concatenate([kept, log_rest(log_p, ids)], 1) / -LOG_STEP
    return ids, np.clip(np.round(steps), 0, 65535).astype("<u2")


def log_rest(log_p, ids):
    """log of the mass of all tokens but `ids`: summed, for 1 minus the others' sum would be all rounding."""
    p = np.exp(log_p.astype(np.float64))
    np.put_along_axis(p, ids, 0, 1)
    return np.log(np.maximum(p.sum(1, keepdims=True), 1e-13))


def buckets(steps):
    """The packed log-probabilities, normalised: what a reader of the fixture sees."""
    p = np.exp(-steps.astype(np.float64) * LOG_STEP)
    return np.log(p / p.sum(1, keepdims=True))


def mean_kl(log_p, ids, log_q_full):
    log_q = np.concatenate([np.take_along_axis(log_q_full, ids, 1), log_rest(log_q_full, ids)], 1)
    return float((np.exp(log_p) * (log_p - log_q)).sum(1).mean())


def id_bytes(ids, width):
    return np.ascontiguousarray(ids.astype("<u4")).view(np.uint8).reshape(*ids.shape, 4)[..., :width].tobytes()


def report_rounded_scale(model, ids, steps, top):
    """Gemma in bfloat16 multiplies embeddings by sqrt(H) rounded to bfloat16: how much does that alone change?"""
    embedding = model.model.embed_tokens
    exact = embedding.embed_scale
    embedding.embed_scale = exact.to(torch.bfloat16).float()
    print(f"rounded embedding scale: KL {mean_kl(buckets(steps), top, log_probabilities(model, ids)):.1e}", flush=True)
    embedding.embed_scale = exact


def make_decoder(name, arguments, llama_program):
    file = MODELS[name]
    path = str(arguments.models / file)
    texts = [(REAL / "texts" / text).read_text(encoding="utf-8") for text in TEXTS]
    encoded = encode(llama_program, path, texts + QUESTIONS, name)
    model = load(arguments.models, file)
    width = 2 if model.config.vocab_size <= 65536 else 3
    body, kls = b"", []
    for text, ids in zip(TEXTS, encoded):
        ids = ids[:POSITIONS]
        assert len(ids) == POSITIONS, (text, len(ids))
        log_p = log_probabilities(model, ids)
        top, steps = pack(log_p)
        q = llama_log_probabilities(llama_program, path, ids, log_p.shape[1])
        kls.append(mean_kl(buckets(steps), top, q))
        print(f"{name} {text}: packing costs {mean_kl(buckets(steps), top, log_p):.1e}, llama.cpp KL {kls[-1]:.5f}",
              flush=True)
        if name == "gemma3":
            report_rounded_scale(model, ids, steps, top)
        body += np.asarray(ids, "<i4").tobytes() + id_bytes(top, width) + steps.tobytes()
    prompts = encoded[len(TEXTS):]
    for question, ids, tokens, gaps in zip(QUESTIONS, prompts, *greedy(model, prompts)):
        body += struct.pack("<I", len(ids)) + np.asarray(ids, "<i4").tobytes()
        body += np.asarray(tokens, "<i4").tobytes() + np.asarray(gaps, "<f4").tobytes()
        print(f"{question!r} -> {tokens[:8]}... smallest gap {min(gaps):.4f}", flush=True)
    header = struct.pack("<IIIIII", len(TEXTS), POSITIONS, TOP, width, len(QUESTIONS), CONTINUATION)
    (REAL / f"{name}.bin").write_bytes(header + np.asarray(kls, "<f8").tobytes() + body)


def make_embeddings(arguments):
    """u32 sentences, u32 columns; per sentence u32 tokens, i32 ids; then f32 [sentences, columns]."""
    folder = arguments.models / "all-MiniLM-L6-v2"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    body, vectors = b"", []
    for sentence in sentences():
        ids = tokenizer(sentence, truncation=True, max_length=256).input_ids
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        vectors.append((mean / mean.norm()).numpy())
        body += struct.pack("<I", len(ids)) + np.asarray(ids, "<i4").tobytes()
    vectors = np.stack(vectors).astype("<f4")
    (REAL / "minilm.bin").write_bytes(struct.pack("<II", *vectors.shape) + body + vectors.tobytes())
    print("minilm", vectors.shape)


def sentences():
    """50 pieces: lines of the texts, short and long, prose, code and other scripts."""
    pieces = []
    for text in TEXTS:
        lines = [line.strip() for line in (REAL / "texts" / text).read_text(encoding="utf-8").split("\n")]
        pieces += [line for line in lines if line]
    pieces = pieces[:8] + QUESTIONS[:12] + pieces[-30:]
    assert len(pieces) == 50
    return pieces


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--llama-source", type=Path)
    parser.add_argument("--llama-build", type=Path)
    parser.add_argument("names", nargs="*", default=[])
    arguments = parser.parse_args()
    names = arguments.names or ["minilm", *MODELS]
    if "minilm" in names:
        make_embeddings(arguments)
    with tempfile.TemporaryDirectory() as folder:
        program = f"{folder}/llama_logits"
        if any(name in MODELS for name in names):
            source, libraries = arguments.llama_source, arguments.llama_build / "bin"
            subprocess.run(["c++", "-O1", "-std=c++17", f"-I{source}/include", f"-I{source}/ggml/include",
                            str(HERE / "llama_logits.cc"), f"-L{libraries}", "-lllama", "-lggml", "-lggml-base",
                            f"-Wl,-rpath,{libraries.resolve()}", "-o", program], check=True)
        for name in names:
            if name in MODELS:
                make_decoder(name, arguments, program)


if __name__ == "__main__":
    main()
