#!/usr/bin/env python3
"""Writes a GGUF of Qwen3-0.6B's shape with random weights in F16: what `make bench` measures both engines with.

  make_qwen3_shape.py --vocab ggml-vocab-qwen2.gguf --out qwen3-0.6b-shape-F16.gguf        # 1.2 GB, half a minute

28 layers, hidden 1024, 16 heads and 8 KV heads of 128, feed-forward 3072, 151,936 tokens, tied embedding, context
40,960. llama-quantize makes the other types of it (scripts/bench_data). The work is the real model's; the answers are
gibberish. One seed gives one file. Needs numpy and gguf.

The scales are those at the start of a training: deviation 0.02, and 0.02 / sqrt(2 * 28) for the two matrices of a layer
that add to the residual stream. So every layer adds about as much as the embedding row was (0.02 to 0.04 a column), the
stream ends at about 0.25, and the tied head does not simply repeat the last token: its logit stands 2 to 3 deviations
above the others', with 32 * 0.02 / 0.25 deviations for a direct repetition.

Logits of a normalised state would then have a deviation of 0.02 * sqrt(1024) = 0.64: next to uniform over 151,936
tokens, and no test of accuracy. The last norm's weight multiplies it. Below a deviation of sqrt(2 ln 151,936) = 4.9 the
mass is spread over very many tokens, above it on few (the freezing of a random energy model). LOGIT_DEVIATION gives a
mean entropy of about 3 nats, as real models have on text. Rows of control and unused tokens are zero, so that no greedy
answer ends early.
"""

import argparse
import json
import pathlib
import struct
import sys

import gguf
import numpy as np

import make_pool_models as pool
import make_synthetic_checkpoint as synthetic

SHAPE = "qwen3-0.6b"
LOGIT_DEVIATION = 5.5
NORMAL = 1  # token type


def random_f16(rng, shape, deviation):
    return (rng.standard_normal(shape, dtype=np.float32) * np.float32(deviation)).astype(np.float16)


def read_vocabulary(path, size):
    """tokens, types, merges of a byte-level vocabulary, and its other tokenizer.* values as they stand in the file."""
    values = synthetic.read_tokenizer(path, size)
    tokens = pool.read_strings(values.pop("tokenizer.ggml.tokens"))
    merges = pool.read_strings(values.pop("tokenizer.ggml.merges"))
    types = np.frombuffer(values.pop("tokenizer.ggml.token_type")[16:], "<i4")
    if len(tokens) != size:
        sys.exit(f"{path} has {len(tokens)} tokens, the model has rows for {size}")
    return tokens, types, merges, values


def add_scalar(writer, key, value):
    (kind,) = struct.unpack_from("<I", value)
    if kind == synthetic.STRING:
        writer.add_string(key, value[12:].decode())
    elif kind == synthetic.U32:
        writer.add_uint32(key, struct.unpack_from("<I", value, 4)[0])
    elif kind == 7:
        writer.add_bool(key, value[4] != 0)
    else:
        sys.exit(f"{key} of the vocabulary has type {kind}: not a string, a number or a truth value")


def add_metadata(writer, shape, seed, vocabulary):
    tokens, types, merges, others = vocabulary
    writer.add_name(f"Qwen3-0.6B's shape, random weights, seed {seed}")
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["ffn"])
    writer.add_head_count(shape["heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(shape["eps"])
    writer.add_rope_freq_base(shape["theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_token_list(tokens)
    writer.add_token_types(types.tolist())
    writer.add_token_merges(merges)
    for key, value in others.items():
        add_scalar(writer, key, value)


def make(vocab, out, seed):
    shape = json.loads(synthetic.SHAPES.read_text())[SHAPE]
    vocabulary = read_vocabulary(vocab, shape["vocab"])
    part = out.with_name(out.name + ".part")
    writer = gguf.GGUFWriter(part, shape["family"])
    add_metadata(writer, shape, seed, vocabulary)
    weights = synthetic.Weights(seed)
    for tensor in synthetic.list_tensors(shape):
        rng = weights.generator(tensor.gguf_name)
        if tensor.role == "norm":
            data = np.ones(tensor.shape, np.float32)
            if tensor.gguf_name == "output_norm.weight":
                data *= LOGIT_DEVIATION / (synthetic.DEVIATION * np.sqrt(shape["hidden"]))
        elif tensor.role == "residual":
            data = random_f16(rng, tensor.shape, synthetic.DEVIATION / np.sqrt(2 * shape["layers"]))
        else:
            data = random_f16(rng, tensor.shape, synthetic.DEVIATION)
            if tensor.role == "embedding":
                data[vocabulary[1] != NORMAL] = 0
        writer.add_tensor(tensor.gguf_name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="a GGUF with Qwen2's vocabulary")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    make(arguments.vocab, arguments.out, arguments.seed)


if __name__ == "__main__":
    main()
