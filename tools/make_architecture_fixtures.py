#!/usr/bin/env python3
"""Writes src/models/architectures/testdata/tiny: small random models of every family and what they answer.

The oracle is Hugging Face transformers: each model is run in float64, and once in float32, whose largest deviation
from the float64 logits is the yardstick for ours. Every model is saved as a safetensors folder, as a GGUF file and as a
quantised GGUF file (written with the PyPI package `gguf`).

Needs: torch, transformers, safetensors, gguf, numpy. Not needed to run the tests.
Use:   python tools/make_architecture_fixtures.py [--out FOLDER] [NAME...]
"""

import argparse
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from safetensors.torch import save_file

VOCAB = 131  # odd on purpose
TOKENS = 37  # two blocks of 16 and a bit
KEPT_ROWS = [0, 1, 2, 7, 8, 9, 15, 16, 17, 31, 32, 33, 36]  # around blocks' and windows' edges
Q = gguf.GGMLQuantizationType

SMALL = dict(vocab_size=VOCAB, hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, bos_token_id=1, eos_token_id=2)


def llama(**more):
    return transformers.LlamaConfig(**{**SMALL, "rms_norm_eps": 1e-5, "tie_word_embeddings": False, **more})


# name: (transformers config, stored type, quantised type)
MODELS = {
    "llama": (llama(), "bf16", Q.Q8_0),
    "llama_tied_mha_bias": (llama(tie_word_embeddings=True, num_key_value_heads=4, attention_bias=True), "f32", Q.Q4_0),
    "llama_linear_rope": (llama(rope_parameters={"rope_type": "linear", "factor": 2.5, "rope_theta": 10000.0}),
                          "bf16", Q.Q8_0),
    "llama3_rope": (llama(num_attention_heads=2, num_key_value_heads=1, head_dim=32, rope_parameters={
        "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}), "bf16", Q.Q5_0),
    "llama_yarn": (llama(num_attention_heads=2, num_key_value_heads=2, head_dim=32, rope_parameters={
        "rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}),
        "bf16", Q.Q5_1),
    "mistral_window": (transformers.MistralConfig(**SMALL, rms_norm_eps=1e-5, sliding_window=9, head_dim=8,
                                                  tie_word_embeddings=False), "bf16", Q.Q4_1),
    "qwen2": (transformers.Qwen2Config(**SMALL, rms_norm_eps=1e-6, tie_word_embeddings=False), "bf16", Q.Q8_0),
    "qwen2_tied": (transformers.Qwen2Config(**{**SMALL, "num_attention_heads": 2, "num_key_value_heads": 1},
                                            rms_norm_eps=1e-6, tie_word_embeddings=True), "bf16", Q.Q4_0),
    "qwen3": (transformers.Qwen3Config(**{**SMALL, "num_attention_heads": 6, "num_key_value_heads": 3}, head_dim=16,
                                       rms_norm_eps=1e-6, tie_word_embeddings=True, rope_parameters={
                                           "rope_type": "default", "rope_theta": 1000000.0}), "bf16", Q.Q8_0),
    "gemma3": (transformers.Gemma3TextConfig(
        **{**SMALL, "num_hidden_layers": 7, "intermediate_size": 64, "num_attention_heads": 2,
           "num_key_value_heads": 1}, head_dim=32, query_pre_attn_scalar=32, sliding_window=8, rms_norm_eps=1e-6, rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}), "bf16", Q.Q8_0),
    "bert": (transformers.BertConfig(vocab_size=VOCAB, hidden_size=32, intermediate_size=96, num_hidden_layers=2,
                                     num_attention_heads=4, max_position_embeddings=64, type_vocab_size=2),
             "f32", Q.Q8_0),
}


# ---- weights ---------------------------------------------------------------------------------------

def make_model(config):
    if config.model_type == "bert":
        return transformers.BertModel(config, add_pooling_layer=False)
    return transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def randomise(model, stored, seed):
    """Weights with enough spread that every part matters; bf16 ones are also exact in f16, which GGUF uses."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name.lower() and name.endswith("weight")
            if parameter.dim() == 2:
                scale = 1.0 if "embed" in name else 1.4 / parameter.shape[1] ** 0.5
                parameter.copy_(noise * scale)
            elif is_norm:
                centre = 0.0 if "gemma" in model.config.model_type else 1.0
                parameter.copy_(centre + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)
            if stored == "bf16":
                rounded = parameter.to(torch.bfloat16).float()
                parameter.copy_(torch.where(rounded.abs() < 2.0**-14, torch.zeros(()), rounded))


def run(model, ids):
    """Logits (or BERT's last hidden states) as float64 numpy, and the float32 run's largest deviation."""
    def forward(m):
        with torch.no_grad():
            out = m(input_ids=torch.tensor([ids]))
            return (out.last_hidden_state if m.config.model_type == "bert" else out.logits)[0].double().numpy()

    model.eval()
    if "gemma" in model.config.model_type:
        # Transformers rounds sqrt(H) to the type of the weights, which are stored in bf16 here but run in float.
        scale = model.model.embed_tokens.embed_scale
        model.model.embed_tokens.embed_scale = scale.to(torch.bfloat16).to(scale.dtype)
    single = forward(model.float())
    exact = forward(model.double())
    return exact, float(np.abs(exact - single).max())


# ---- files -----------------------------------------------------------------------------------------

def save_safetensors(model, folder, stored):
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if stored == "bf16" else torch.float32
    tensors = {name: value.to(dtype).contiguous() for name, value in model.state_dict().items()}
    if getattr(model.config, "tie_word_embeddings", False):
        tensors.pop("lm_head.weight", None)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n")


NAMES = [
    ("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("lm_head.", "output."),
    ("embeddings.word_embeddings.", "token_embd."), ("embeddings.position_embeddings.", "position_embd."),
    ("embeddings.token_type_embeddings.", "token_types."), ("embeddings.LayerNorm.", "token_embd_norm."),
    ("model.layers.", "blk."), ("encoder.layer.", "blk."),
    ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
    ("input_layernorm", "attn_norm"), ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"), ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"), ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"), ("output.dense", "ffn_down"), ("output.LayerNorm", "layer_output_norm"),
]


def gguf_name(name, family):
    after_attention = "post_attention_norm" if family == "gemma3" else "ffn_norm"
    for old, new in NAMES + [("post_attention_layernorm", after_attention)]:
        name = name.replace(old, new)
    return name


def permute_rows(values, heads):
    """Half-split rope pairs (i, i + d/2) of each head become interleaved pairs (2i, 2i + 1)."""
    half = values.shape[0] // heads // 2
    return values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


def llama3_divisors(config):
    p = config.rope_parameters
    d = config.head_dim
    frequency = p["rope_theta"] ** (-np.arange(0, d, 2) / d)
    turns = p["original_max_position_embeddings"] * frequency / (2 * np.pi)
    blend = (turns - p["low_freq_factor"]) / (p["high_freq_factor"] - p["low_freq_factor"])
    blended = 1 / ((1 - blend) / p["factor"] + blend)
    divisors = np.where(turns > p["high_freq_factor"], 1, np.where(turns < p["low_freq_factor"], p["factor"], blended))
    return divisors.astype(np.float32)


def write_metadata(w, config, family, context_from):
    c = config
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_vocab_size(c.vocab_size)
    if family == "bert":
        w.add_layer_norm_eps(c.layer_norm_eps)
        w.add_causal_attention(False)
        w.add_pooling_type(gguf.PoolingType.MEAN)
        return
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w.add_key_length(head_dim)
    w.add_value_length(head_dim)
    w.add_rope_dimension_count(head_dim)
    rope = c.rope_parameters.get("full_attention", c.rope_parameters)
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        w.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if getattr(c, "sliding_window", None) and c.model_type != "qwen2":
        w.add_sliding_window(c.sliding_window)


def save_gguf(tensors, config, path, stored, quantised=None):
    """`tensors`: float32 numpy by Hugging Face name. Returns what the file's values decode to, by the same names."""
    family = {"gemma3_text": "gemma3", "mistral": "llama"}.get(config.model_type, config.model_type)
    w = gguf.GGUFWriter(str(path), family)
    write_metadata(w, config, family, config)
    if family == "llama" and config.rope_parameters["rope_type"] == "llama3":
        w.add_tensor("rope_freqs.weight", llama3_divisors(config))
    decoded = {}
    for name, values in tensors.items():
        target = gguf_name(name, family)
        heads = {"attn_q": config.num_attention_heads,
                 "attn_k": getattr(config, "num_key_value_heads", 0)}.get(target.split(".")[-2] if "." in target else "")
        permuted = family == "llama" and heads
        data = permute_rows(values, heads) if permuted else values
        if family == "gemma3" and "norm" in target:
            data = data + np.float32(1)
        is_table = target.startswith(("position_embd", "token_types"))
        if data.ndim == 1 or is_table:
            w.add_tensor(target, data.astype(np.float32))
            decoded[name] = values
            continue
        kind = quantised or (Q.F16 if stored == "bf16" else Q.F32)
        packed = gguf.quants.quantize(np.ascontiguousarray(data), kind)
        w.add_tensor(target, packed, raw_dtype=kind)
        back = gguf.quants.dequantize(packed, kind).reshape(data.shape)
        if permuted:  # undo the permutation: the oracle's model pairs halves
            half = data.shape[0] // heads // 2
            back = back.reshape(heads, half, 2, *data.shape[1:]).swapaxes(1, 2).reshape(data.shape)
        decoded[name] = back.astype(np.float32)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return decoded


def save_expected(path, ids, values, single_error):
    """u32 tokens, rows kept, columns, 0; f64 the float32 run's largest error; i32 ids, i32 rows, f64 [rows, columns]."""
    with open(path, "wb") as f:
        f.write(struct.pack("<IIIId", len(ids), len(KEPT_ROWS), values.shape[1], 0, single_error))
        f.write(np.asarray(ids, "<i4").tobytes())
        f.write(np.asarray(KEPT_ROWS, "<i4").tobytes())
        f.write(values[KEPT_ROWS].astype("<f8").tobytes())


def load_tensors(model, tensors):
    state = model.state_dict()
    for name, values in tensors.items():
        state[name] = torch.from_numpy(np.array(values))
    if getattr(model.config, "tie_word_embeddings", False) and "lm_head.weight" in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state)


def make(name, out, seed):
    config, stored, quantised = MODELS[name]
    folder = out / name
    model = make_model(config)
    randomise(model, stored, seed)
    save_safetensors(model, folder, stored)
    tensors = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    if getattr(config, "tie_word_embeddings", False):
        tensors.pop("lm_head.weight", None)
    tensors.pop("embeddings.position_ids", None)

    ids = np.random.default_rng(seed).integers(0, VOCAB, TOKENS).tolist()
    values, error = run(model, ids)
    save_expected(folder / "expected.bin", ids, values, error)

    save_gguf(tensors, config, folder / "model.gguf", stored)
    again = make_model(config)
    load_tensors(again, save_gguf(tensors, config, folder / "quantised.gguf", stored, quantised))
    values, quantised_error = run(again, ids)
    save_expected(folder / "quantised.bin", ids, values, quantised_error)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:22} {quantised.name:7} float32 error {error:.2e} {quantised_error:.2e} of "
          f"{np.abs(values).max():.1f}, {size >> 10} KiB")


def main():
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=here / "src/models/architectures/testdata/tiny")
    parser.add_argument("names", nargs="*", default=[])
    arguments = parser.parse_args()
    for seed, name in enumerate(MODELS):
        if not arguments.names or name in arguments.names:
            make(name, arguments.out, 1000 + seed)


if __name__ == "__main__":
    main()
