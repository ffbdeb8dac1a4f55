#!/usr/bin/env python3
"""Writes a model of true shape with random weights: for benchmarks, and for trying the server without weights.

  make_synthetic_checkpoint.py qwen3-0.6b --quantisation Q4_K_M --vocab vocabulary.gguf --out model.gguf
  make_synthetic_checkpoint.py smollm2-135m --format safetensors --quantisation BF16 --tokenizer FOLDER --out FOLDER

Shapes: tools/synthetic_models.json. A GGUF gets its tokenizer (every tokenizer.* key) from any other GGUF, such as
a vocabulary file; safetensors get tokenizer.json and its companions from a folder. The answers are gibberish, the work
is that of the real model. Weights are normal with deviation 0.02 (less for matrices that add to the residual stream,
as at the start of training): the types that PyPI's gguf can quantise are cut from one quantised pool, so equal blocks
recur, but no two rows are equal; the others (K and IQ4 types) are random blocks with scales of that size. One seed
gives one file. Needs numpy and gguf.
"""
import argparse
import hashlib
import json
import pathlib
import shutil
import struct
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import quants

SHAPES = pathlib.Path(__file__).resolve().parent / "synthetic_models.json"
DEVIATION = 0.02
PLAIN = (Type.F32, Type.F16, Type.BF16)
POOLED = (Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.MXFP4)
IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float32)
# A prime number of blocks: rows begin at different blocks of the pool until it was used so many times.
POOL_BLOCKS = 524287
POOL_ELEMENTS = 16777213
# What llama.cpp takes instead when a row is not a multiple of 256.
FALLBACK = {Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0, Type.Q4_K: Type.Q5_0, Type.Q5_K: Type.Q5_1,
            Type.Q6_K: Type.Q8_0, Type.IQ4_XS: Type.IQ4_NL}
MIXES = {"Q4_K_M": (Type.Q4_K, Type.Q6_K), "Q5_K_M": (Type.Q5_K, Type.Q6_K)}
SINGLE = {kind.name: kind for kind in (*PLAIN, *POOLED, Type.Q2_K, Type.Q3_K, Type.Q4_K, Type.Q5_K, Type.Q6_K,
                                       Type.IQ4_NL, Type.IQ4_XS)}


def half(values):
    return np.asarray(values, dtype=np.float16).view(np.uint16).astype("<u2").view(np.uint8).reshape(-1, 2)


class Weights:
    """Bytes of random weights, by type, count and deviation; the same for the same seed and name."""

    def __init__(self, seed):
        self.seed = seed
        self.pools = {}

    def generator(self, name):
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:8], "little")))

    def pool(self, kind, deviation):
        if (kind, deviation) not in self.pools:
            rng = self.generator(f"pool {deviation}")
            if kind in PLAIN:
                values = rng.standard_normal(POOL_ELEMENTS, dtype=np.float32) * np.float32(deviation)
                data = quants.quantize(values, kind).view(np.uint8).reshape(POOL_ELEMENTS, -1)
            else:
                values = rng.standard_normal((POOL_BLOCKS, 32), dtype=np.float32) * np.float32(deviation)
                data = quants.quantize(values, kind)
            self.pools = {key: value for key, value in self.pools.items() if key[0] == kind}  # one type's at a time
            self.pools[kind, deviation] = data
        return self.pools[kind, deviation]

    def make(self, name, kind, elements, deviation):
        rng = self.generator(name)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = elements // block
        if kind in PLAIN or kind in POOLED:
            pool = self.pool(kind, deviation)
            start = int(rng.integers(len(pool)))
            rest = pool[start:start + count]
            if len(rest) == count:
                return rest.reshape(-1)
            whole, tail = divmod(count - len(rest), len(pool))
            return np.concatenate([rest, *([pool] * whole), pool[:tail]]).reshape(-1)
        return random_blocks(rng, kind, count, deviation, size).reshape(-1)


def signed(rng, low, high, shape):
    return (rng.integers(low, high, size=shape, dtype=np.int16) * rng.choice(np.array([-1, 1], dtype=np.int16), shape))


def random_blocks(rng, kind, count, deviation, size):
    """Uniform quants; scales such that the decoded weights have mean 0 and about the given deviation."""
    blocks = np.frombuffer(rng.bytes(count * size), dtype=np.uint8).reshape(count, size).copy()
    if kind in (Type.Q4_K, Type.Q5_K):
        # Minimum = scale and dmin = (2^bits - 1) / 2 d centre each group.
        scale = rng.integers(20, 64, size=(count, 8), dtype=np.uint8)
        low, high = scale[:, :4], scale[:, 4:]
        packed = low | (high >> 4) << 6
        blocks[:, 4:8] = packed
        blocks[:, 8:12] = packed
        blocks[:, 12:16] = (high & 15) | (high & 15) << 4
        levels = 16 if kind == Type.Q4_K else 32
        d = np.float16(deviation / (43.5 * levels / np.sqrt(12)))
        blocks[:, 0:2] = half([d])
        blocks[:, 2:4] = half([np.float32(d) * (levels - 1) / 2])
    elif kind == Type.Q2_K:
        scale = rng.integers(6, 16, size=(count, 16), dtype=np.uint8)
        blocks[:, :16] = scale | scale << 4
        d = np.float16(deviation / (10.9 * 1.118))
        blocks[:, 80:82] = half([d])
        blocks[:, 82:84] = half([np.float32(d) * 1.5])
    elif kind == Type.Q3_K:
        scale = (signed(rng, 8, 32, (count, 16)) + 32).astype(np.uint8)
        blocks[:, 96:104] = (scale[:, :8] & 15) | (scale[:, 8:] & 15) << 4
        high = scale >> 4
        blocks[:, 104:108] = high[:, :4] | high[:, 4:8] << 2 | high[:, 8:12] << 4 | high[:, 12:] << 6
        blocks[:, 108:110] = half([deviation / (20.7 * 2.35)])
    elif kind == Type.Q6_K:
        blocks[:, 192:208] = signed(rng, 32, 128, (count, 16)).astype(np.int8).view(np.uint8)
        blocks[:, 208:210] = half([deviation / (84.0 * 18.5)])
    elif kind == Type.IQ4_NL:
        blocks[:, 0:2] = half(deviation / np.std(IQ4) * rng.choice([-1.0, 1.0], count))
    elif kind == Type.IQ4_XS:
        scale = (signed(rng, 8, 32, (count, 8)) + 32).astype(np.uint16)
        blocks[:, 0:2] = half([deviation / (20.7 * np.std(IQ4))])
        high = np.sum((scale >> 4) << (2 * np.arange(8, dtype=np.uint16)), axis=1).astype("<u2")
        blocks[:, 2:4] = high.view(np.uint8).reshape(count, 2)
        blocks[:, 4:8] = ((scale[:, 0::2] & 15) | (scale[:, 1::2] & 15) << 4).astype(np.uint8)
    else:
        raise ValueError(f"no random blocks of {kind.name}")
    return blocks


class Matrix:
    def __init__(self, gguf_name, hf_name, shape, role):
        self.gguf_name, self.hf_name, self.shape, self.role = gguf_name, hf_name, shape, role

    @property
    def elements(self):
        return int(np.prod(self.shape))


def list_tensors(shape):
    """Names in both formats, shapes (outermost first) and roles: norm, bias, residual, matrix."""
    hidden, ffn, dim = shape["hidden"], shape["ffn"], shape["head_dim"]
    q, kv = shape["heads"] * dim, shape["kv_heads"] * dim
    family = shape["family"]
    out = [Matrix("token_embd.weight", "model.embed_tokens.weight", (shape["vocab"], hidden), "embedding")]
    for i in range(shape["layers"]):
        def add(gguf_name, hf_name, dims, role, suffix="weight"):
            out.append(Matrix(f"blk.{i}.{gguf_name}.{suffix}", f"model.layers.{i}.{hf_name}.{suffix}", dims, role))

        add("attn_norm", "input_layernorm", (hidden,), "norm")
        for letter, rows in (("q", q), ("k", kv), ("v", kv)):
            add(f"attn_{letter}", f"self_attn.{letter}_proj", (rows, hidden), "matrix")
            if family == "qwen2":
                add(f"attn_{letter}", f"self_attn.{letter}_proj", (rows,), "bias", "bias")
        if family in ("qwen3", "gemma3"):
            add("attn_q_norm", "self_attn.q_norm", (dim,), "norm")
            add("attn_k_norm", "self_attn.k_norm", (dim,), "norm")
        add("attn_output", "self_attn.o_proj", (hidden, q), "residual")
        if family == "gemma3":
            add("post_attention_norm", "post_attention_layernorm", (hidden,), "norm")
            add("ffn_norm", "pre_feedforward_layernorm", (hidden,), "norm")
            add("post_ffw_norm", "post_feedforward_layernorm", (hidden,), "norm")
        else:
            add("ffn_norm", "post_attention_layernorm", (hidden,), "norm")
        add("ffn_gate", "mlp.gate_proj", (ffn, hidden), "matrix")
        add("ffn_up", "mlp.up_proj", (ffn, hidden), "matrix")
        add("ffn_down", "mlp.down_proj", (hidden, ffn), "residual")
    out.append(Matrix("output_norm.weight", "model.norm.weight", (hidden,), "norm"))
    if not shape["tied"]:
        out.append(Matrix("output.weight", "lm_head.weight", (shape["vocab"], hidden), "output"))
    return out


def choose_type(tensor, quantisation, shape):
    if tensor.role in ("norm", "bias"):
        return Type.F32
    kind = SINGLE.get(quantisation)
    if quantisation in MIXES:
        kind, better = MIXES[quantisation]
        layers = shape["layers"]
        if tensor.role == "output" or (tensor.role == "embedding" and shape["tied"]):
            kind = better
        elif "ffn_down" in tensor.gguf_name or "attn_v" in tensor.gguf_name:
            layer = int(tensor.gguf_name.split(".")[1])
            eighth = layers // 8
            if layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2:
                kind = better
    if tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] != 0:
        kind = FALLBACK.get(kind, Type.F16)
    return kind


def tensor_bytes(weights, tensor, kind, shape, hf=False):
    if tensor.role == "norm":
        # Gemma's norms multiply by 1 + w; a GGUF holds the sum.
        value = 0.0 if hf and shape["family"] == "gemma3" else 1.0
        data = np.full(tensor.elements, value, dtype=np.float32)
        return quants.quantize(data, kind).view(np.uint8).reshape(-1)
    deviation = DEVIATION
    if tensor.role == "residual":
        deviation = DEVIATION / float(np.sqrt(2 * shape["layers"]))
    return weights.make(tensor.gguf_name, kind, tensor.elements, deviation)


def rope_factors(shape):
    """rope_freqs.weight: what each frequency is divided by in Llama 3.1's scaling."""
    rope = shape["llama3_rope"]
    dim = shape["head_dim"]
    wavelength = 2 * np.pi * shape["theta"] ** (np.arange(0, dim, 2) / dim)
    smooth = (rope["original_context"] / wavelength - rope["low"]) / (rope["high"] - rope["low"])
    smooth = np.clip(smooth, 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)


SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, F32, STRING, ARRAY = 4, 6, 8, 9


def packed_string(text):
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


class GgufCopy:
    """Raw tokenizer values of a GGUF. (gguf.GGUFReader takes half a minute for 300,000 strings.)"""

    def __init__(self, path):
        self.data = path.read_bytes()
        magic, version, _, keys = struct.unpack_from("<4sIQQ", self.data, 0)
        if magic != b"GGUF" or version not in (2, 3):
            sys.exit(f"{path} is not a GGUF file of version 2 or 3")
        self.at = 24
        self.values = {}
        for _ in range(keys):
            key = self.string().decode()
            (kind,) = struct.unpack_from("<I", self.data, self.at)
            begin = self.at
            self.at += 4
            self.skip(kind)
            if key.startswith("tokenizer."):
                self.values[key] = self.data[begin:self.at]  # type and value

    def string(self):
        (length,) = struct.unpack_from("<Q", self.data, self.at)
        self.at += 8 + length
        return self.data[self.at - length:self.at]

    def skip(self, kind):
        if kind == STRING:
            self.string()
        elif kind == ARRAY:
            element, count = struct.unpack_from("<IQ", self.data, self.at)
            self.at += 12
            if element == STRING:
                for _ in range(count):
                    self.at += 8 + int.from_bytes(self.data[self.at:self.at + 8], "little")
            else:
                self.at += count * SCALAR_BYTES[element]
        else:
            self.at += SCALAR_BYTES[kind]

    def pad(self, key, vocab, element):
        """Appends to an array until it has `vocab` elements, as converters do for rows without tokens."""
        value = self.values.get(key)
        if value is None:
            return
        kind, inner, count = struct.unpack_from("<IIQ", value, 0)
        if count > vocab:
            sys.exit(f"the vocabulary has {count} tokens, the model has rows for {vocab}: take another vocabulary")
        rest = b"".join(element(i) for i in range(count, vocab))
        self.values[key] = struct.pack("<IIQ", kind, inner, vocab) + value[16:] + rest


def read_tokenizer(path, vocab):
    copy = GgufCopy(path)
    if "tokenizer.ggml.tokens" not in copy.values:
        sys.exit(f"{path} has no tokenizer.ggml.tokens")
    copy.pad("tokenizer.ggml.tokens", vocab, lambda i: packed_string(f"[PAD{i}]"))
    copy.pad("tokenizer.ggml.scores", vocab, lambda i: struct.pack("<f", 0))
    copy.pad("tokenizer.ggml.token_type", vocab, lambda i: struct.pack("<i", 5))  # unused
    return copy.values


def metadata(shape, name, quantisation):
    """Key -> type and value as they stand in the file."""
    family = shape["family"]

    def integer(value):
        return struct.pack("<II", U32, value)

    def real(value):
        return struct.pack("<If", F32, value)

    def text(value):
        return struct.pack("<I", STRING) + packed_string(value)

    values = {
        "general.architecture": text(family), "general.name": text(f"synthetic {name}"),
        "general.description": text("Random weights of this model's shape; made by make_synthetic_checkpoint.py"),
        "general.quantization_version": integer(gguf.GGML_QUANT_VERSION),
        f"{family}.block_count": integer(shape["layers"]), f"{family}.context_length": integer(shape["context"]),
        f"{family}.embedding_length": integer(shape["hidden"]), f"{family}.feed_forward_length": integer(shape["ffn"]),
        f"{family}.attention.head_count": integer(shape["heads"]),
        f"{family}.attention.head_count_kv": integer(shape["kv_heads"]),
        f"{family}.attention.key_length": integer(shape["head_dim"]),
        f"{family}.attention.value_length": integer(shape["head_dim"]),
        f"{family}.attention.layer_norm_rms_epsilon": real(shape["eps"]),
        f"{family}.rope.freq_base": real(shape["theta"]), f"{family}.vocab_size": integer(shape["vocab"]),
    }
    if family == "llama":
        values[f"{family}.rope.dimension_count"] = integer(shape["head_dim"])
    if "window" in shape:
        values[f"{family}.attention.sliding_window"] = integer(shape["window"])
    file_type = "ALL_F32" if quantisation == "F32" else f"MOSTLY_{quantisation}"
    file_type = {"MOSTLY_Q3_K": "MOSTLY_Q3_K_M", "MOSTLY_Q4_K": "MOSTLY_Q4_K_S", "MOSTLY_Q5_K": "MOSTLY_Q5_K_S",
                 "MOSTLY_MXFP4": "MOSTLY_MXFP4_MOE"}.get(file_type, file_type)
    if hasattr(gguf.LlamaFileType, file_type):
        values["general.file_type"] = integer(int(getattr(gguf.LlamaFileType, file_type)))
    return values


def write_gguf(shape, name, quantisation, vocab, weights, path):
    values = metadata(shape, name, quantisation)
    if vocab is not None:
        values |= read_tokenizer(vocab, shape["vocab"])
    write_tensors(shape, quantisation, values, weights, path)


def write_tensors(shape, quantisation, values, weights, path):
    """The file: metadata (key -> type and value as they stand), then every tensor of the shape."""
    planned = [(t, choose_type(t, quantisation, shape)) for t in list_tensors(shape)]
    if "llama3_rope" in shape:
        planned.insert(0, (Matrix("rope_freqs.weight", "", (shape["head_dim"] // 2,), "rope"), Type.F32))
    alignment = gguf.GGUF_DEFAULT_ALIGNMENT
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(planned), len(values))
    head += b"".join(packed_string(key) + value for key, value in values.items())
    offset = 0
    for tensor, kind in planned:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        dims = tensor.shape[::-1]
        head += packed_string(tensor.gguf_name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        offset += -(-(tensor.elements // block * size) // alignment) * alignment
    with open(path, "wb") as file:
        file.write(head + b"\0" * (-len(head) % alignment))
        for tensor, kind in planned:
            data = rope_factors(shape) if tensor.role == "rope" else tensor_bytes(weights, tensor, kind, shape)
            file.write(data.data)
            file.write(b"\0" * (-data.nbytes % alignment))


def hf_config(shape, dtype):
    family = shape["family"]
    config = {
        "model_type": "gemma3_text" if family == "gemma3" else family, "hidden_size": shape["hidden"],
        "num_hidden_layers": shape["layers"], "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["kv_heads"], "head_dim": shape["head_dim"], "intermediate_size": shape["ffn"],
        "vocab_size": shape["vocab"], "tie_word_embeddings": shape["tied"], "rope_theta": shape["theta"],
        "rms_norm_eps": shape["eps"], "max_position_embeddings": shape["context"], "hidden_act": "silu",
        "torch_dtype": dtype,
        "architectures": [{"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                           "gemma3": "Gemma3ForCausalLM"}[family]],
    }
    if family == "gemma3":
        pattern = shape["window_pattern"]
        config |= {"hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": shape["head_dim"],
                   "sliding_window": shape["window"], "rope_local_base_freq": shape["local_theta"],
                   "sliding_window_pattern": pattern,
                   "layer_types": ["full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
                                   for i in range(shape["layers"])]}
        config.pop("hidden_act")
    if "llama3_rope" in shape:
        rope = shape["llama3_rope"]
        config["rope_scaling"] = {"rope_type": "llama3", "factor": rope["factor"], "low_freq_factor": rope["low"],
                                  "high_freq_factor": rope["high"],
                                  "original_max_position_embeddings": rope["original_context"]}
    return config


def write_safetensors(shape, quantisation, tokenizer, weights, folder):
    kind = SINGLE[quantisation]
    names = {Type.F32: "float32", Type.F16: "float16", Type.BF16: "bfloat16"}
    if kind not in names:
        sys.exit(f"safetensors hold F32, F16 or BF16, not {quantisation}")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = list_tensors(shape)
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for tensor in tensors:
        end = offset + tensor.elements * gguf.GGML_QUANT_SIZES[kind][1]
        header[tensor.hf_name] = {"dtype": kind.name, "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            file.write(tensor_bytes(weights, tensor, kind, shape, hf=True).data)
    (folder / "config.json").write_text(json.dumps(hf_config(shape, names[kind]), indent=2) + "\n")
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        if tokenizer is not None and (tokenizer / name).is_file():
            shutil.copy(tokenizer / name, folder / name)


def main():
    shapes = {name: value for name, value in json.loads(SHAPES.read_text()).items() if name != "comment"}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(shapes))
    parser.add_argument("--format", choices=("gguf", "safetensors"), default="gguf")
    parser.add_argument("--quantisation", choices=sorted((*SINGLE, *MIXES)), default="Q4_K_M")
    parser.add_argument("--vocab", type=pathlib.Path, help="a GGUF whose tokenizer is copied (for --format gguf)")
    parser.add_argument("--tokenizer", type=pathlib.Path, help="a folder with tokenizer.json (for --format safetensors)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the .gguf file, or the folder")
    arguments = parser.parse_args()
    shape = shapes[arguments.model]
    weights = Weights(arguments.seed)
    if arguments.format == "gguf":
        if arguments.vocab is None:
            print("no --vocab: the file will have no tokenizer and cannot answer text", file=sys.stderr)
        write_gguf(shape, arguments.model, arguments.quantisation, arguments.vocab, weights, arguments.out)
        written = [arguments.out]
    else:
        write_safetensors(shape, arguments.quantisation, arguments.tokenizer, weights, arguments.out)
        written = sorted(arguments.out.iterdir())
    for path in written:
        print(f"{path.stat().st_size / 1e6:10.1f} MB  {path}")


if __name__ == "__main__":
    main()
