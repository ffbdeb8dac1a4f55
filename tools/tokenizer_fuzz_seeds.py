#!/usr/bin/env python3
"""Writes the seeds of tokenizer_json_fuzz and text_stream_fuzz: small files of every component.

    tools/tokenizer_fuzz_seeds.py fuzz/corpus
"""
import base64
import json
import pathlib
import struct
import sys

BPE = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "▁": 3, "Ġ": 4, "<unk>": 5, "<0x41>": 6}, "merges": ["a b"]}
WORDPIECE = {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1, "##b": 2}, "unk_token": "[UNK]"}
UNIGRAM = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0], ["a", -1.5], ["ab", -2], ["▁", -3]]}
WORDLEVEL = {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"}
CHARSMAP = base64.b64encode(struct.pack("<I", 16) + struct.pack("<4I", 1 << 10, 0x61, 0x80000000, 0) + b"b\0").decode()
ADDED = [{"id": 20, "content": "<s>", "special": True, "lstrip": True, "rstrip": True},
         {"id": 21, "content": "Word", "single_word": True, "normalized": True}]
TEXT = "ab <s> Word aB\u00e9 12 \n".encode()


def split(behavior, pattern={"Regex": "\\p{L}+|\\s+(?!\\S)"}):
    return {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}


def files():
    for name in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel"):
        yield {"normalizer": {"type": name}, "model": BPE}
    yield {"normalizer": {"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        {"type": "Strip", "strip_left": True, "strip_right": True}]}, "model": {**BPE, "byte_fallback": True}}
    yield {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"},
           "decoder": {"type": "WordPiece"}, "model": WORDPIECE, "added_tokens": ADDED}
    yield {"normalizer": {"type": "Precompiled", "precompiled_charsmap": CHARSMAP},
           "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first"},
           "decoder": {"type": "Metaspace", "replacement": "▁"}, "model": UNIGRAM}
    for name in ("Whitespace", "WhitespaceSplit", "Punctuation", "Digits", "BertPreTokenizer", "FixedLength"):
        yield {"pre_tokenizer": {"type": name}, "model": WORDLEVEL}
    for behavior in ("Removed", "Isolated", "Contiguous", "MergedWithPrevious", "MergedWithNext"):
        yield {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            split(behavior), {"type": "ByteLevel", "use_regex": False}]}, "decoder": {"type": "ByteLevel"},
            "model": {**BPE, "ignore_merges": True}, "added_tokens": ADDED}
    yield {"model": {**BPE, "unk_token": "<unk>", "fuse_unk": True, "continuing_subword_prefix": "##",
                     "end_of_word_suffix": "</w>", "merges": []}, "decoder": {"type": "BPEDecoder"}}
    yield {"model": UNIGRAM, "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "post_processor": {"type": "TemplateProcessing", "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}], "pair": [],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [2], "tokens": ["<s>"]}}}}
    yield {"model": WORDPIECE, "post_processor": {"type": "BertProcessing", "sep": ["s", 1], "cls": ["c", 2]}}


def main():
    root = pathlib.Path(sys.argv[1])
    folder = root / "tokenizer_json_fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    for i, value in enumerate(files()):
        data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        (folder / f"component_{i:02}").write_bytes(data + b"\0" + TEXT)
    folder = root / "text_stream_fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    seeds = {
        "plain": b"\x00\x03\0\0stop\0ab\0text aab and sto stop more",
        "reasoning": b"\x00\x02<think>\0</think>\0END\0\0\n<think>\nhm</think>\n\nHi <think> END x",
        "inside": b"\x07\x01\0</think>\0\n\n\0b\0 a</thi</think>\r\n\xf0\x9f\x98\x80b",
        "ill_formed": b"\x01\x04\0\0\xef\xbf\xbd\0\xc3\xa9\0\xe2\x82a\xff\xc3\xa9\xf0\x9f",
    }
    for name, data in seeds.items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
