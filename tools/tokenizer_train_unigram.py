#!/usr/bin/env python3
"""Trains the small unigram model that the tests use and writes it as tokenizer.json, with SentencePiece's own answers.

    tools/tokenizer_train_unigram.py src/models/text/testdata

writes unigram_tokenizer.json (as transformers converts a SentencePiece unigram model: its precompiled charsmap, runs
of spaces collapsed, Metaspace) and unigram_cases.txt: lines of "text in JSON <tab> ids", the ids by the sentencepiece
library. Needs the PyPI packages sentencepiece and tokenizers. The training text is made here from a fixed seed, so
that no corpus needs a licence.
"""
import base64
import io
import json
import pathlib
import random
import struct
import sys

import sentencepiece

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import tokenizer_oracle  # noqa: E402  (word lists)


def corpus(seed, lines):
    r = random.Random(seed)
    starts = "b c d f g h k l m n p r s t v w br ch cl fl gr pl sh st th tr".split()
    middles = "a e i o u ai ea ee oo ou ia".split()
    ends = ["", "", "n", "r", "s", "t", "l", "nd", "st", "ng", "m", "ck"]
    made = ["".join(r.choice(starts) + r.choice(middles) + r.choice(ends) for _ in range(r.randint(1, 3)))
            for _ in range(1500)]
    words = made + tokenizer_oracle.WORDS * 6
    for _ in range(lines):
        line = []
        for _ in range(r.randint(4, 16)):
            word = words[min(int(r.expovariate(1 / 300)), len(words) - 1)]
            if r.random() < 0.1:
                word = word.capitalize()
            if r.random() < 0.08:
                word = str(r.randrange(2000))
            line.append(word + r.choice(["", "", "", "", ",", ".", "!", "?", "'s"]))
        yield " ".join(line)


def train():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=corpus(7, 6000), model_writer=model, vocab_size=1500, model_type="unigram",
        character_coverage=0.9995, normalization_rule_name="nmt_nfkc_cf", num_threads=1, minloglevel=2,
        user_defined_symbols=["<sep>"])
    return model.getvalue()


UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4  # sentencepiece_model.proto, SentencePiece.Type


def fields(data):
    """(number, value) of a protobuf message."""
    at = 0

    def varint():
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(data):
        key = varint()
        if key & 7 == 0:
            value = varint()
        elif key & 7 == 5:
            value = struct.unpack_from("<f", data, at)[0]
            at += 4
        elif key & 7 == 1:
            value = data[at:at + 8]
            at += 8
        else:
            size = varint()
            value = data[at:at + size]
            at += size
        yield key >> 3, value


def to_json(model):
    vocabulary = []
    charsmap = b""
    for number, value in fields(model):
        if number == 1:
            piece = dict(fields(value))
            vocabulary.append((piece[1].decode(), piece.get(2, 0.0), piece.get(3, 1)))
        elif number == 3:
            charsmap = dict(fields(value)).get(2, b"")
    pieces = [[piece, 0.0 if kind == USER_DEFINED else score] for piece, score, kind in vocabulary]
    added = []
    for i, (piece, _, kind) in enumerate(vocabulary):
        if kind in (UNKNOWN, CONTROL, USER_DEFINED):
            added.append({"id": i, "content": piece, "single_word": False, "lstrip": False, "rstrip": False,
                          "normalized": False, "special": kind != USER_DEFINED})
    charsmap = base64.b64encode(charsmap).decode()
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Precompiled", "precompiled_charsmap": charsmap},
            {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
        "pre_tokenizer": metaspace,
        "post_processor": {"type": "TemplateProcessing",
                           "single": [{"Sequence": {"id": "A", "type_id": 0}},
                                      {"SpecialToken": {"id": "</s>", "type_id": 0}}],
                           "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                           "special_tokens": {"</s>": {"id": "</s>", "ids": [2], "tokens": ["</s>"]}}},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False},
    }


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    data = train()
    with open(folder / "unigram_tokenizer.json", "w", encoding="utf-8") as out:
        json.dump(to_json(data), out, ensure_ascii=False, separators=(",", ":"))
        out.write("\n")
    processor = sentencepiece.SentencePieceProcessor(model_proto=data)
    with open(folder / "unigram_cases.txt", "w", encoding="utf-8") as out:
        r = random.Random(11)
        for line in corpus(12, 300):
            if r.random() < 0.3:
                line += r.choice(["  ", " ﬁne ", " Ⅷ ", " ｶﾞ ", " 東京 ", " É ", " <sep> ", "\u3000", " 😀😀x "])
            out.write(json.dumps(line) + "\t" + " ".join(map(str, processor.encode(line))) + "\n")


if __name__ == "__main__":
    main()
