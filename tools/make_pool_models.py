#!/usr/bin/env python3
"""Writes many models of one shape, each with weights of its own, for trying many models in little memory.

  make_pool_models.py --count 8 --vocab ggml-vocab-qwen2.gguf --out FOLDER           # 335 MB each, about 2 s each
  make_pool_models.py --shape pool-tiny --count 6 --vocab ggml-vocab-qwen2.gguf --out FOLDER     # 4 MB each

pool-01.gguf, pool-02.gguf and so on: Q4_0 or Q8_0, uniformly random quants with scales that give the deviation of
make_synthetic_checkpoint.py, so no two models (and no two blocks) are equal. One seed gives one set of files; a file that
is there already is kept if it was made with the same arguments (the name inside tells).

The rows of the embedding of all tokens but plain words (" word", "Word") are zero. Their logits are then 0, below that
of the likeliest word, so a greedy answer is made of words only: every token is one visible piece of text, no answer
ends early, and a client that counts events counts tokens. A vocabulary larger than the shape's is cut to its first tokens
and merges (byte-pair vocabularies are ordered by merge). Needs numpy and gguf.
"""
import argparse
import json
import pathlib
import re
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type

import make_synthetic_checkpoint as synthetic

KINDS = {"Q4_0": Type.Q4_0, "Q8_0": Type.Q8_0}
CONTROL = 3  # token type of <|im_end|> and the like
PLAIN_WORD = re.compile(r"[\u0120\u2581]?[A-Za-z]+")  # with the space of byte-level and of SentencePiece vocabularies
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# The usual shape of ChatML, without tools: both servers take it.
CHAT_TEMPLATE = ("{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
                 "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")


def read_strings(value):
    """The elements of a raw array of strings (type and value as GgufCopy holds them)."""
    kind, inner, count = struct.unpack_from("<IIQ", value, 0)
    if (kind, inner) != (synthetic.ARRAY, synthetic.STRING):
        sys.exit("the vocabulary's tokens and merges are not arrays of strings")
    out, at = [], 16
    for _ in range(count):
        length = int.from_bytes(value[at:at + 8], "little")
        out.append(value[at + 8:at + 8 + length])
        at += 8 + length
    return out


def tokens_of(path):
    """The tokens of a GGUF, as text."""
    values = synthetic.GgufCopy(path).values
    return [token.decode(errors="replace") for token in read_strings(values["tokenizer.ggml.tokens"])]


def string_array(strings):
    return struct.pack("<IIQ", synthetic.ARRAY, synthetic.STRING, len(strings)) + b"".join(map(synthetic.packed_string, strings))


def cut_vocabulary(values, size):
    """The first tokens and merges of a byte-level vocabulary, and the special tokens at the end."""
    tokens = read_strings(values["tokenizer.ggml.tokens"])
    merges = read_strings(values["tokenizer.ggml.merges"])
    kept = size - len(SPECIAL)
    if kept < 256:
        sys.exit(f"a vocabulary of {size} has no room for the 256 bytes")
    out = {key: values[key] for key in ("tokenizer.ggml.model", "tokenizer.ggml.pre")}
    out["tokenizer.ggml.tokens"] = string_array(tokens[:kept] + [text.encode() for text in SPECIAL])
    out["tokenizer.ggml.merges"] = string_array(merges[:kept - 256])
    types = [1] * kept + [CONTROL] * len(SPECIAL)
    out["tokenizer.ggml.token_type"] = struct.pack(f"<IIQ{size}i", synthetic.ARRAY, 5, size, *types)
    for name, text in (("bos", SPECIAL[0]), ("padding", SPECIAL[0]), ("eos", SPECIAL[2])):
        out[f"tokenizer.ggml.{name}_token_id"] = struct.pack("<II", synthetic.U32, kept + SPECIAL.index(text))
    return out


def read_vocabulary(path, size):
    copy = synthetic.GgufCopy(path)
    if "tokenizer.ggml.tokens" not in copy.values:
        sys.exit(f"{path} has no tokenizer.ggml.tokens")
    (count,) = struct.unpack_from("<Q", copy.values["tokenizer.ggml.tokens"], 8)
    values = cut_vocabulary(copy.values, size) if count > size else synthetic.read_tokenizer(path, size)
    if "tokenizer.chat_template" not in values:
        values["tokenizer.chat_template"] = struct.pack("<I", synthetic.STRING) + synthetic.packed_string(CHAT_TEMPLATE)
    return values


class Weights(synthetic.Weights):
    """Random blocks; nothing recurs."""

    def __init__(self, seed, plain):
        super().__init__(seed)
        self.plain = plain  # by token: has a row of its own

    def make(self, name, kind, elements, deviation):
        rng = self.generator(name)
        block, size = GGML_QUANT_SIZES[kind]
        count = elements // block
        blocks = np.frombuffer(bytearray(rng.bytes(count * size)), dtype=np.uint8).reshape(count, size)
        # Quants are uniform: 0..15 less 8, or -128..127. Both have mean -0.5; the signs of the scales cancel it.
        spread = 16 if kind == Type.Q4_0 else 256
        scale = np.float32(deviation / (spread / np.sqrt(12)))
        blocks[:, 0:2] = synthetic.half(np.where(rng.random(count, dtype=np.float32) < 0.5, scale, -scale))
        if name == "token_embd.weight":
            rows = blocks.reshape(len(self.plain), -1)
            rows[~self.plain] = 0
        return blocks.reshape(-1)


def make(shape, name, kind, seed, number, vocabulary, path):
    label = f"{name} {kind} seed {seed} model {number}"
    values = synthetic.metadata(shape, name, kind) | vocabulary
    values["general.name"] = struct.pack("<I", synthetic.STRING) + synthetic.packed_string(f"pool {label}")
    if path.is_file() and f"pool {label}".encode() in path.open("rb").read(4096):
        return False
    plain = np.array([PLAIN_WORD.fullmatch(token.decode(errors="replace")) is not None
                      for token in read_strings(vocabulary["tokenizer.ggml.tokens"])])
    part = path.with_suffix(".part")
    synthetic.write_tensors(shape, kind, values, Weights(f"{seed}:{number}", plain), part)
    part.rename(path)
    return True


def make_models(shape_name, count, kind, vocab, out, seed=1):
    """Writes what is missing; returns the paths of the models."""
    shape = json.loads(synthetic.SHAPES.read_text())[shape_name]
    out.mkdir(parents=True, exist_ok=True)
    vocabulary = read_vocabulary(vocab, shape["vocab"])
    paths = [out / f"pool-{number:02}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(paths, 1):
        if make(shape, shape_name, kind, seed, number, vocabulary, path):
            print(f"{path.stat().st_size / 1e6:10.1f} MB  {path}", file=sys.stderr)
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="qwen3-0.6b", help="a name of tools/synthetic_models.json")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--quantisation", choices=sorted(KINDS), default="Q4_0")
    parser.add_argument("--vocab", type=pathlib.Path, required=True, help="a GGUF whose byte-level vocabulary is taken")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the folder")
    arguments = parser.parse_args()
    for path in make_models(arguments.shape, arguments.count, arguments.quantisation, arguments.vocab, arguments.out,
                            arguments.seed):
        print(path)


if __name__ == "__main__":
    main()
