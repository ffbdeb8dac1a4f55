#!/usr/bin/env python3
"""Writes src/platform/inference/testdata/pooled: small random models that embed or rank, with their tokenizers, and what they answer.

The oracle is Hugging Face transformers (and its tokenizers, for the tokens of texts and pairs): each model is run in float64, and
once in float32, whose largest deviation is the yardstick for ours. Vectors are pooled and normalised here as the makers' cards say.

Needs: torch, transformers, tokenizers, safetensors, gguf, numpy. Not needed to run the tests.
Use:   python tools/make_pooling_fixtures.py [--out FOLDER]
"""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import tokenizers
import torch
import transformers
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

WORDS = "the a tide sea rises comes in at night bread recipe for what is when does it salt moon un ##s ##ing ##ed ship ##es".split()
TEXTS = ["the tide rises", "bread", "when does the moon rise at sea?", "salt ships " * 15]
QUERIES = ["when does the tide rise?", "a recipe for bread"]
DOCUMENTS = ["the tide comes in at night", "bread is baked at night", "", "the moon and the sea " * 20]
SMALL = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
BEFORE = ('<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided. '
          'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n')
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def word_piece():
    vocab = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [chr(c) for c in range(ord("a"), ord("z") + 1) if chr(c) != "a"]
    vocab += ["##" + chr(c) for c in range(ord("a"), ord("z") + 1)] + ["?", ","] + WORDS
    vocab = list(dict.fromkeys(vocab))
    made = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocab)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0", pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    return made, vocab


def unigram():
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces += [("▁" + word, -3.0 - i / 10) for i, word in enumerate(WORDS) if not word.startswith("##")]
    pieces += [(chr(c), -8.0) for c in range(ord("a"), ord("z") + 1)] + [("▁", -5.0), ("?", -6.0), ("s", -4.0)]
    pieces = list({piece: (piece, score) for piece, score in reversed(pieces)}.values())[::-1]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    made.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
    made.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>"])
    return made, len(pieces)


def byte_level(ends):
    """Qwen's: bytes, here without merges but for " yes"-like words; `ends`: puts <|endoftext|> after every text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate(alphabet)}
    merges = []
    for left, right in [("e", "s"), ("y", "es"), ("n", "o"), ("t", "h"), ("th", "e")]:
        merges.append((left, right))
        vocab[left + right] = len(vocab)
    made = tokenizers.Tokenizer(models.BPE(vocab, merges))
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(tokenizers.Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    made.add_special_tokens(specials)
    made.add_tokens([tokenizers.AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")])
    if ends:
        made.post_processor = processors.TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", made.token_to_id("<|endoftext|>"))])
    else:
        made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 2:
                parameter.copy_(noise * (1.0 if "embed" in name else 1.4 / parameter.shape[1] ** 0.5))
            elif "norm" in name.lower() and name.endswith("weight"):
                parameter.copy_(1.0 + 0.2 * noise)
            else:
                parameter.copy_(0.3 * noise)
    return model.eval()


def both(model, forward):
    """`forward(model)` in float64, and the largest deviation of the float32 run."""
    with torch.no_grad():
        single = np.asarray(forward(model.float()), np.float64)
        exact = np.asarray(forward(model.double()), np.float64)
    model.float()
    return exact, float(np.abs(exact - single).max())


def save(folder, model, tokenizer, drop=()):
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.float().contiguous() for k, v in model.state_dict().items() if "position_ids" not in k and k not in drop}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict()
    config["architectures"] = [type(model).__name__]
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True, default=str) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))
    return tensors


def save_pooling(folder, mode):
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, mode: True}) + "\n")
    (folder / "modules.json").write_text(json.dumps([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}]) + "\n")


def expect(folder, error, **what):
    (folder / "expected.json").write_text(json.dumps({"float32_error": error, **what}, ensure_ascii=False) + "\n")
    print(f"{folder.name:20} float32 error {error:.1e}")


def normalised(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def embedder(folder, model, tokenizer, row, seed, most):
    randomise(model, seed)
    save(folder, model, tokenizer)
    ids = [tokenizer.encode(text).ids for text in TEXTS]
    assert max(map(len, ids)) <= most
    values, error = both(model, lambda m: [m(input_ids=torch.tensor([i])).last_hidden_state[0, row].numpy() for i in ids])
    expect(folder, error, texts=TEXTS, tokens=ids, vectors=normalised(values).tolist())


def pairs(tokenizer, most, separators):
    """[CLS] query [SEP] document [SEP] with the document cut to what is left."""
    out = []
    for query in QUERIES:
        for document in DOCUMENTS:
            room = most - 2 - separators - len(tokenizer.encode(query, add_special_tokens=False).ids)
            tokenizer.no_truncation()
            whole = tokenizer.encode(query, document)
            if len(whole.ids) > most:
                tokenizer.enable_truncation(most, strategy="only_second")
                whole = tokenizer.encode(query, document)
                assert len(whole.ids) == most and room > 0
            tokenizer.no_truncation()
            out.append((whole.ids, whole.type_ids))
    return out


def cross_encoder(folder, model, tokenizer, seed, most, separators, typed):
    randomise(model, seed)
    tensors = save(folder, model, tokenizer)
    asked = pairs(tokenizer, most, separators)

    def forward(m):
        return [m(input_ids=torch.tensor([ids]), **({"token_type_ids": torch.tensor([types])} if typed else {})).logits[0, 0]
                for ids, types in asked]
    logits, error = both(model, forward)
    expect(folder, error, queries=QUERIES, documents=DOCUMENTS, tokens=[ids for ids, _ in asked],
           scores=(1 / (1 + np.exp(-logits))).reshape(len(QUERIES), len(DOCUMENTS)).tolist())
    return tensors


BERT_NAMES = [
    ("bert.embeddings.word_embeddings.", "token_embd."), ("bert.embeddings.position_embeddings.", "position_embd."),
    ("bert.embeddings.token_type_embeddings.", "token_types."), ("bert.embeddings.LayerNorm.", "token_embd_norm."),
    ("bert.encoder.layer.", "blk."), ("bert.pooler.dense.", "cls."), ("classifier.", "cls.output."),
    ("attention.self.query", "attn_q"), ("attention.self.key", "attn_k"), ("attention.self.value", "attn_v"),
    ("attention.output.dense", "attn_output"), ("attention.output.LayerNorm", "attn_output_norm"),
    ("intermediate.dense", "ffn_up"), ("output.dense", "ffn_down"), ("output.LayerNorm", "layer_output_norm")]


def renamed(name, names):
    for old, new in names:
        name = name.replace(old, new)
    return name


def bert_gguf(path, config, tensors, vocab):
    w = gguf.GGUFWriter(str(path), "bert")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_layer_norm_eps(config.layer_norm_eps)
    w.add_causal_attention(False)
    w.add_pooling_type(gguf.PoolingType.RANK)
    w.add_tokenizer_model("bert")
    special = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
    w.add_token_list([t if t in special else t[2:] if t.startswith("##") else "▁" + t for t in vocab])
    w.add_token_types([3 if t in special else 1 for t in vocab])
    w.add_token_type_count(2)
    w.add_unk_token_id(1)
    w.add_sep_token_id(3)
    w.add_pad_token_id(0)
    w.add_bos_token_id(2)
    w.add_eos_token_id(3)
    for name, values in tensors.items():
        w.add_tensor(renamed(name, BERT_NAMES), values.numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


QWEN_NAMES = [("model.embed_tokens.", "token_embd."), ("model.norm.", "output_norm."), ("model.layers.", "blk."),
              ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
              ("self_attn.o_proj", "attn_output"), ("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm"),
              ("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down"),
              ("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")]


def qwen_gguf(path, config, tensors, tokenizer, pooling, ends):
    """tensors: Hugging Face names; what starts with cls. is kept."""
    w = gguf.GGUFWriter(str(path), "qwen3")
    w.add_context_length(config.max_position_embeddings)
    w.add_embedding_length(config.hidden_size)
    w.add_block_count(config.num_hidden_layers)
    w.add_feed_forward_length(config.intermediate_size)
    w.add_head_count(config.num_attention_heads)
    w.add_head_count_kv(config.num_key_value_heads)
    w.add_key_length(config.head_dim)
    w.add_value_length(config.head_dim)
    w.add_layer_norm_rms_eps(config.rms_norm_eps)
    w.add_rope_freq_base(config.rope_parameters["rope_theta"])
    w.add_pooling_type(pooling)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(i) for i in range(size)]
    control = {"<|endoftext|>", "<|im_start|>", "<|im_end|>"}
    w.add_token_list(tokens)
    w.add_token_types([3 if t in control else 4 if t in ("<think>", "</think>") else 1 for t in tokens])
    w.add_token_merges([" ".join(m) for m in json.loads(tokenizer.to_str())["model"]["merges"]])
    w.add_eos_token_id(tokenizer.token_to_id("<|endoftext|>"))
    w.add_add_eos_token(ends)
    for name, values in tensors.items():
        w.add_tensor(renamed(name, QWEN_NAMES), values.numpy())
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def judged(tokenizer):
    """Qwen3-Reranker's prompt as its model card builds it: the text between is never a control token."""
    control = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    return [control(BEFORE) + control(f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {document}") + control(AFTER)
            for query in QUERIES for document in DOCUMENTS]


def qwen_config(tokenizer, **more):
    return transformers.Qwen3Config(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=2048, rms_norm_eps=1e-6, tie_word_embeddings=True,
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"), bos_token_id=None,
        eos_token_id=tokenizer.token_to_id("<|endoftext|>"),
        rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}, **more)


def main():
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=here / "src/platform/inference/testdata/pooled")
    out = parser.parse_args().out
    words, vocab = word_piece()
    bert = transformers.BertConfig(vocab_size=len(vocab), max_position_embeddings=64, type_vocab_size=2, num_labels=1, **SMALL)

    folder = out / "bge"
    embedder(folder, transformers.BertModel(bert, add_pooling_layer=False), words, 0, 1, 64)
    save_pooling(folder, "pooling_mode_cls_token")

    ended = byte_level(ends=True)
    folder = out / "qwen3_embedding"
    config = qwen_config(ended)
    model = transformers.Qwen3Model(config)
    embedder(folder, model, ended, -1, 2, 2048)
    save_pooling(folder, "pooling_mode_lasttoken")
    tensors = {"model." + k: v.float() for k, v in model.state_dict().items()}
    qwen_gguf(folder / "model.gguf", config, tensors, ended, gguf.PoolingType.LAST, ends=True)

    model = transformers.BertForSequenceClassification(bert)
    tensors = cross_encoder(out / "cross_encoder", model, words, 3, 64, 1, typed=True)
    bert_gguf(out / "cross_encoder/model.gguf", bert, tensors, vocab)

    pieces, size = unigram()
    roberta = transformers.XLMRobertaConfig(vocab_size=size, max_position_embeddings=66, type_vocab_size=1, num_labels=1,
                                            pad_token_id=1, layer_norm_eps=1e-5, **SMALL)
    cross_encoder(out / "bge_reranker", transformers.XLMRobertaForSequenceClassification(roberta), pieces, 4, 64, 2, typed=False)

    plain = byte_level(ends=False)
    config = qwen_config(plain, num_labels=1)
    folder = out / "qwen3_reranker"
    model = randomise(transformers.Qwen3ForSequenceClassification(config), 5)
    save(folder, model, plain)
    asked = judged(plain)
    logits, error = both(model, lambda m: [m(input_ids=torch.tensor([ids])).logits[0, 0] for ids in asked])
    expect(folder, error, queries=QUERIES, documents=DOCUMENTS, tokens=asked,
           scores=(1 / (1 + np.exp(-logits))).reshape(len(QUERIES), len(DOCUMENTS)).tolist())

    # The causal model as it was published: yes and no among its logits. llama.cpp's conversion keeps those two rows.
    folder = out / "qwen3_reranker_rows"
    folder.mkdir(parents=True, exist_ok=True)
    config = qwen_config(plain)
    model = randomise(transformers.Qwen3ForCausalLM(config), 6)
    yes, no = plain.token_to_id("yes"), plain.token_to_id("no")
    logits, error = both(model, lambda m: [m(input_ids=torch.tensor([ids])).logits[0, -1, [yes, no]].numpy() for ids in asked])
    scores = np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1)
    expect(folder, error, queries=QUERIES, documents=DOCUMENTS, tokens=asked,
           scores=scores.reshape(len(QUERIES), len(DOCUMENTS)).tolist())
    save(folder, model, plain, drop=("lm_head.weight",))
    tensors = {k: v.float() for k, v in model.state_dict().items() if k != "lm_head.weight"}
    tensors["cls.output.weight"] = model.lm_head.weight.detach()[[yes, no]].float()
    qwen_gguf(folder / "model.gguf", config, tensors, plain, gguf.PoolingType.RANK, ends=False)


if __name__ == "__main__":
    main()
