#!/usr/bin/env python3
"""Writes the fixtures of src/models/formats/testdata with the reference libraries (PyPI: gguf, numpy, safetensors).

  dequantisation.gguf   random blocks of every type, and beside each what gguf.quants.dequantize makes of them
  metadata.gguf         every kind of metadata value, tensors of one to four dimensions, alignment 64
  split-0000N-of-00003.gguf   a split set as gguf.GGUFWriter writes it
  sharded/              a Hugging Face folder: two shards with an index, config.json and text files
and the seeds of the fuzz targets gguf_fuzz and safetensors_fuzz in fuzz/corpus/ (see those for their input).
Everything comes from one seed; running it again gives the same bytes.
"""
import argparse
import json
import pathlib

import gguf
import numpy as np
import safetensors
from gguf import GGMLQuantizationType as Type
from gguf import quants

SEED = 20261122

# Where a block's half-precision scales are (byte offsets), by type.
HALF_FIELDS = {
    Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0],
    Type.Q2_K: [80, 82], Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208],
    Type.IQ4_NL: [0], Type.IQ4_XS: [0],
}
# +-0, the smallest and largest subnormal, the smallest normal, +-1, the largest of either sign.
EXTREME_HALVES = [0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xBC00, 0x7BFF, 0xFBFF]
EXTREME_E8M0 = [0, 1, 2, 127, 128, 252, 253, 254, 255]


def random_blocks(rng, kind, count):
    _, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, size=(count, size), dtype=np.uint8)
    if kind == Type.MXFP4:
        blocks[:, 0] = rng.integers(100, 140, size=count)
        blocks[:len(EXTREME_E8M0), 0] = EXTREME_E8M0
    for offset in HALF_FIELDS.get(kind, []):
        # Scales of the size that real weights have, then every extreme.
        scales = (rng.standard_normal(count) * 0.01).astype(np.float16).view(np.uint16)
        scales[:len(EXTREME_HALVES)] = np.roll(EXTREME_HALVES, offset)
        blocks[:, offset:offset + 2] = scales.astype("<u2").view(np.uint8).reshape(count, 2)
    return blocks


def plain_bytes(rng, kind):
    if kind == Type.F32:
        words = rng.integers(0, 2**32, size=512, dtype=np.uint32)
        words[:6] = [0, 0x80000000, 1, 0x007FFFFF, 0x7F7FFFFF, 0x7F800000]
        return words.view(np.uint8)
    words = rng.integers(0, 2**16, size=1024, dtype=np.uint16)
    words[:8] = [0, 0x8000, 1, 0x3FF, 0x400, 0x7BFF, 0x7C00, 0xFC00]
    # NaN payloads are compared elsewhere; here they would only test numpy.
    exponent = 0x7C00 if kind == Type.F16 else 0x7F80
    is_nan = ((words & exponent) == exponent) & ((words & (0x7FFF - exponent)) != 0)
    words[is_nan] = 0x3C00
    return words.view(np.uint8)


def write_dequantisation(path):
    rng = np.random.default_rng(SEED)
    writer = gguf.GGUFWriter(path, "fixture")
    for kind in (Type.F32, Type.F16, Type.BF16, *HALF_FIELDS, Type.MXFP4):
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        if elements == 1:
            data = plain_bytes(rng, kind).reshape(1, -1)
        else:
            data = random_blocks(rng, kind, 24 if elements == 256 else 96).reshape(2, -1)
        with np.errstate(over="ignore", invalid="ignore"):
            expected = quants.dequantize(data, kind).astype(np.float32)
        writer.add_tensor(f"{kind.name}.blocks", data, raw_dtype=kind)
        writer.add_tensor(f"{kind.name}.expected", expected.view(np.uint8).view(np.float32))
    close(writer)


def close(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_metadata(path):
    writer = gguf.GGUFWriter(path, "fixture")
    writer.add_custom_alignment(64)
    writer.add_uint8("t.u8", 255)
    writer.add_int8("t.i8", -128)
    writer.add_uint16("t.u16", 65535)
    writer.add_int16("t.i16", -32768)
    writer.add_uint32("t.u32", 4294967295)
    writer.add_int32("t.i32", -2147483648)
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**63))
    writer.add_float32("t.f32", 0.1)
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.true", True)
    writer.add_bool("t.false", False)
    writer.add_string("t.text", "Gezeitenbecken \u6f6e\u6c60 \U0001f41a")
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.floats", [0.5, -1.25])
    writer.add_array("t.bools", [True, False, True])
    writer.add_array("t.strings", ["a", "", "\u00e9\u00e8", "d" * 300])
    for name, shape in (("one", (5,)), ("two", (3, 4)), ("three", (2, 3, 4)), ("four", (2, 1, 3, 4))):
        writer.add_tensor(name, np.arange(np.prod(shape), dtype=np.float32).reshape(shape))
    close(writer)


def write_split(folder):
    writer = gguf.GGUFWriter(folder / "split.gguf", "fixture", split_max_tensors=2)
    writer.add_block_count(2)
    for i in range(5):
        writer.add_tensor(f"t{i}", np.full((2, 3), i, dtype=np.float32))
    close(writer)


def e4m3(byte):
    sign = -1.0 if byte & 0x80 else 1.0
    exponent, mantissa = byte >> 3 & 15, byte & 7
    if byte & 0x7F == 0x7F:
        return float("nan")
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0**(exponent - 10)


def write_sharded(folder):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(SEED)
    f8 = rng.integers(0, 256, size=(130, 200), dtype=np.uint8)
    f8[(f8 & 0x7F) == 0x7F] = 0x08
    scales = np.exp2(rng.integers(-8, 8, size=(2, 2))).astype(np.float32) * np.float32(1.25)
    decoded = np.array([e4m3(b) for b in range(256)], dtype=np.float32)[f8]
    # Blocks of 128 by 128: row block times column block.
    whole = decoded * scales[np.arange(130) // 128][:, np.arange(200) // 128]
    f32 = rng.standard_normal((3, 5)).astype(np.float32)
    bf16 = (f32.view(np.uint32) >> 16).astype(np.uint16)
    half = f32.astype(np.float16)

    alive = []  # the library (0.8 or later) takes addresses

    def entry(dtype, array):
        array = np.array(array, order="C")
        alive.append(array)
        return safetensors.TensorSpec(dtype=dtype, shape=list(array.shape), data_ptr=array.ctypes.data,
                                      data_len=array.nbytes)

    shards = {
        "model-00001-of-00002.safetensors": {
            "f8.weight": entry("float8_e4m3fn", f8),
            "f8.weight_scale_inv": entry("float32", scales),
            "f32.weight": entry("float32", f32),
            "scalar": entry("float32", np.float32(7).reshape(())),
        },
        "model-00002-of-00002.safetensors": {
            "f16.weight": entry("float16", half),
            "bf16.weight": entry("bfloat16", bf16),
            "ids": entry("int64", np.arange(4, dtype=np.int64).reshape(1, 4)),
            "flags": entry("bool", np.array([True, False])),
            "empty": entry("float32", np.zeros((0, 4), dtype=np.float32)),
            # What the decoder must make of the others.
            "f8.expected": entry("float32", whole.astype(np.float32)),
            "f16.expected": entry("float32", half.astype(np.float32)),
            "bf16.expected": entry("float32", (bf16.astype(np.uint32) << 16).view(np.float32)),
        },
    }
    weight_map = {}
    for name, tensors in shards.items():
        (folder / name).write_bytes(safetensors.serialize(tensors, {"format": "pt"}))
        weight_map.update({tensor: name for tensor in tensors})

    def write_json(name, value):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    write_json("model.safetensors.index.json", {"metadata": {"total_size": 1}, "weight_map": weight_map})
    write_json("config.json", {
        "architectures": ["FixtureForCausalLM"], "model_type": "fixture", "hidden_size": 64, "rms_norm_eps": 1e-6,
        "rope_theta": 10000, "tie_word_embeddings": True, "sliding_window": None, "huge": 2**64 - 1,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "nested": {"deep": "ja"}},
        "layer_types": ["full", "sliding"], "mixed": [1, 2.5], "none": [], "odd": [1, "a"],
        "rope": [{"a": 1}, {"a": 2}],
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    })
    write_json("tokenizer.json", {"model": {"type": "BPE", "vocab": {}, "merges": []}})
    write_json("tokenizer_config.json", {"chat_template": [
        {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "{{ messages }} \u6f6e"}]})
    write_json("generation_config.json", {"eos_token_id": [1, 2], "temperature": 0.6})


def write_fuzz_seeds(testdata, corpus):
    gguf_seeds, folder_seeds = corpus / "gguf_fuzz", corpus / "safetensors_fuzz"
    gguf_seeds.mkdir(parents=True, exist_ok=True)
    folder_seeds.mkdir(parents=True, exist_ok=True)
    (gguf_seeds / "metadata").write_bytes((testdata / "metadata.gguf").read_bytes())
    (gguf_seeds / "split_part").write_bytes((testdata / "split-00001-of-00003.gguf").read_bytes())
    writer = gguf.GGUFWriter(gguf_seeds / "one_block_of_each", "fixture")
    rng = np.random.default_rng(SEED)
    for kind in (*HALF_FIELDS, Type.MXFP4):
        writer.add_tensor(kind.name, random_blocks(rng, kind, 9)[:1], raw_dtype=kind)
    close(writer)

    def header(value):
        text = json.dumps(value).encode()
        return len(text).to_bytes(8, "little") + text

    tensor = header({"__metadata__": {"format": "pt"},
                     "w": {"dtype": "F8_E4M3", "shape": [2, 2], "data_offsets": [0, 4]},
                     "w_scale_inv": {"dtype": "F32", "shape": [1, 1], "data_offsets": [4, 8]},
                     "h": {"dtype": "BF16", "shape": [2], "data_offsets": [8, 12]}})
    tensor += bytes([0x38, 0x40, 0xB8, 1]) + np.float32(0.5).tobytes() + b"\x80\x3f\x00\x40"
    config = json.dumps({"model_type": "fixture", "quantization_config": {"weight_block_size": [2, 1]},
                         "a": {"b": [1, 2.5, -3], "c": [True], "d": ["x", "\u6f6e"], "e": [[1], {"f": None}]}})
    index = json.dumps({"metadata": {}, "weight_map": {"w": "shard.safetensors", "h": "shard.safetensors"}})
    templates = json.dumps({"chat_template": [{"name": "default", "template": "{{ messages }}"}]})
    (folder_seeds / "file").write_bytes(b"\0" + tensor)
    (folder_seeds / "json").write_bytes(b"\1" + config.encode())
    (folder_seeds / "name").write_bytes(b"\2model-00001-of-00002.safetensors")
    (folder_seeds / "path").write_bytes(b"\2" + b"1_Pooling/../config.json")
    parts = [config.encode(), index.encode(), templates.encode(), tensor]
    (folder_seeds / "folder").write_bytes(b"\3" + b"\xff".join(parts))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    root = pathlib.Path(__file__).resolve().parent.parent
    parser.add_argument("--out", type=pathlib.Path, default=root / "src/models/formats/testdata")
    parser.add_argument("--corpus", type=pathlib.Path, default=root / "fuzz/corpus")
    arguments = parser.parse_args()
    folder = arguments.out
    folder.mkdir(parents=True, exist_ok=True)
    write_dequantisation(folder / "dequantisation.gguf")
    write_metadata(folder / "metadata.gguf")
    write_split(folder)
    write_sharded(folder / "sharded")
    write_fuzz_seeds(folder, arguments.corpus)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            print(f"{path.stat().st_size:8d}  {path.relative_to(folder)}")


if __name__ == "__main__":
    main()
