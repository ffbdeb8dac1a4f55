#!/usr/bin/env python3
"""Random pipelines of tokenizer.json components, and what Hugging Face's tokenizers makes of strings with each.

    tools/tokenizer_component_oracle.py OUTPUT [--pipelines 60] [--count 200] [--seed 1]

Every pipeline draws normalizers, pre-tokenizers, a model trained on a few words, a decoder, a post-processor and added
tokens with random flags. The output holds, for each: u32 size and bytes of the tokenizer.json, u32 number of cases, and
the cases as tokenizer_oracle.py writes them.
"""
import argparse
import json
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import tokenizer_oracle


def normalizer(r):
    makers = [normalizers.NFC, normalizers.NFD, normalizers.NFKC, normalizers.NFKD, normalizers.Lowercase,
              normalizers.StripAccents, normalizers.Nmt,
              lambda: normalizers.Strip(r.random() < 0.7, r.random() < 0.7),
              lambda: normalizers.Prepend(r.choice(["▁", "x ", " "])),
              lambda: normalizers.Replace(r.choice([" ", "ab", Regex(" {2,}"), Regex(r"\d+"), Regex(r"\s*$")]),
                                          r.choice(["▁", " ", "", "_0"])),
              lambda: normalizers.BertNormalizer(clean_text=r.random() < 0.5, handle_chinese_chars=r.random() < 0.5,
                                                 strip_accents=r.choice([None, True, False]),
                                                 lowercase=r.random() < 0.5)]
    count = r.choice([0, 0, 1, 1, 2, 3])
    return normalizers.Sequence([r.choice(makers)() for _ in range(count)]) if count else None


def pre_tokenizer(r, normalized):
    # Tidepool does not follow offsets through normalizers, so that "first" could differ where one drops the start.
    schemes = ["always", "never"] if normalized else ["always", "first", "never"]
    behaviors = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]
    patterns = [" ", "a", Regex(r"\p{L}+"), Regex(r"\s+(?!\S)|\s+"), Regex(r"[0-9]{1,3}"), Regex(r"(?i:'s|'t)|\p{Lu}"),
                Regex(r"(?=\d{2})"), Regex(r"[^\s\p{L}\p{N}]+|\n"), Regex(r"\bno|the\b")]
    makers = [pre_tokenizers.Whitespace, pre_tokenizers.WhitespaceSplit, pre_tokenizers.BertPreTokenizer,
              lambda: pre_tokenizers.Digits(r.random() < 0.5),
              lambda: pre_tokenizers.Punctuation(r.choice(behaviors)),
              lambda: pre_tokenizers.CharDelimiterSplit(r.choice(" e-")),
              lambda: pre_tokenizers.Metaspace(prepend_scheme=r.choice(schemes),
                                               split=r.random() < 0.5),
              lambda: pre_tokenizers.Split(r.choice(patterns), r.choice(behaviors), r.random() < 0.3),
              lambda: pre_tokenizers.ByteLevel(add_prefix_space=r.random() < 0.5, use_regex=r.random() < 0.5)]
    count = r.choice([0, 1, 1, 2, 3])
    steps = [r.choice(makers)() for _ in range(count)]
    if r.random() < 0.3:
        steps.append(pre_tokenizers.ByteLevel(add_prefix_space=r.random() < 0.5, use_regex=r.random() < 0.5))
    return pre_tokenizers.Sequence(steps) if steps else None


def decoder(r, wordpiece):
    if wordpiece:
        return decoders.WordPiece("##", cleanup=r.random() < 0.5)
    return r.choice([decoders.ByteLevel, lambda: decoders.Sequence([
        decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])])()


def build(r):
    kind = r.choice(["bpe", "bpe", "bpe", "unigram", "wordpiece", "wordlevel"])
    unknown = "<unk>"
    if kind == "bpe":
        affixes = r.random() < 0.15
        model = models.BPE(unk_token=r.choice([None, unknown]), fuse_unk=r.random() < 0.5,
                           byte_fallback=r.random() < 0.3, ignore_merges=r.random() < 0.3,
                           continuing_subword_prefix="##" if affixes else None,
                           end_of_word_suffix="</w>" if affixes else None)
        extra = [f"<0x{b:02X}>" for b in range(256)] if r.random() < 0.5 else []
        alphabet = pre_tokenizers.ByteLevel.alphabet() if r.random() < 0.6 else []
        trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[unknown] + extra, initial_alphabet=alphabet,
                                      continuing_subword_prefix="##" if affixes else None,
                                      end_of_word_suffix="</w>" if affixes else None, show_progress=False)
    elif kind == "unigram":
        model = models.Unigram()
        trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=[unknown], unk_token=unknown,
                                          show_progress=False)
    elif kind == "wordpiece":
        model = models.WordPiece(unk_token=unknown, max_input_chars_per_word=r.choice([4, 100]))
        trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=[unknown], show_progress=False)
    else:
        model = models.WordLevel(unk_token=unknown)
        trainer = trainers.WordLevelTrainer(vocab_size=300, special_tokens=[unknown], show_progress=False)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizer(r) or tokenizer.normalizer
    tokenizer.pre_tokenizer = pre_tokenizer(r, tokenizer.normalizer is not None) or tokenizer.pre_tokenizer
    words = tokenizer_oracle.WORDS * 3
    r.shuffle(words)
    lines = [" ".join(words[i:i + 9]) for i in range(0, len(words), 9)]
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.decoder = decoder(r, kind == "wordpiece")
    for content in ["<|a|>", "<|b|>", "[MASK]", " two ", "the", "Ünï", "no", "<|a|><|b|>"]:
        if r.random() < 0.5:
            token = AddedToken(content, single_word=r.random() < 0.3, lstrip=r.random() < 0.3, rstrip=r.random() < 0.3,
                               normalized=r.random() < 0.4, special=r.random() < 0.5)
            (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
    if r.random() < 0.5:
        tokenizer.post_processor = processors.TemplateProcessing(single=r.choice(["<unk> $A", "$A <unk>", "<unk> $A <unk>"]),
                                                                 special_tokens=[("<unk>", tokenizer.token_to_id(unknown))])
    return tokenizer


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--pipelines", type=int, default=60)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    r = random.Random(arguments.seed)
    written = 0
    with open(arguments.output, "wb") as out:
        while written < arguments.pipelines:
            try:
                tokenizer = build(r)
            except BaseException as problem:  # a pipeline that the library's trainers cannot serve
                if isinstance(problem, KeyboardInterrupt):
                    raise
                continue
            text = tokenizer.to_str()
            tokenizer = Tokenizer.from_str(text)
            added = {t["content"]: t["id"] for t in json.loads(text)["added_tokens"]}
            source = tokenizer_oracle.Source(r.random(), tokenizer, added)
            cases = []
            for _ in range(arguments.count):
                data = source.next()
                string = data.decode("utf-8", "replace")
                try:
                    tokenizer.encode_special_tokens = True
                    plain = tokenizer.encode(string, add_special_tokens=False).ids
                    tokenizer.encode_special_tokens = False
                    special = tokenizer.encode(string, add_special_tokens=True).ids
                except BaseException as problem:
                    if isinstance(problem, KeyboardInterrupt):
                        raise
                    continue
                cases.append((data, plain, special))
            encoded = text.encode()
            out.write(struct.pack("<I", len(encoded)) + encoded + struct.pack("<I", len(cases)))
            for data, plain, special in cases:
                out.write(struct.pack("<I", len(data)) + data)
                for numbers in (plain, special):
                    out.write(struct.pack(f"<I{len(numbers)}i", len(numbers), *numbers))
                out.write(struct.pack("<I", 0))
            written += 1
    print(f"{written} pipelines", file=sys.stderr)


if __name__ == "__main__":
    main()
