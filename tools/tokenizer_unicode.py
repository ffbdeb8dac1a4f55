#!/usr/bin/env python3
"""Writes src/models/text/unicode_tables.cc: character properties as Hugging Face's tokenizers has them.

Its parts use tables of different Unicode versions (Oniguruma 16, unicode_categories 8, unicode-normalization 9,
Rust's own), so the tables are found by asking it about every character, not taken from one version of the standard.

Needs the PyPI package tokenizers, libutf8proc, and a Python whose unicodedata is Unicode 14 (that of PCRE2 10.42):
    tools/tokenizer_unicode.py > src/models/text/unicode_tables.cc
"""
import ctypes
import sys
import unicodedata

import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
TEXT = "".join(map(chr, CODES))
CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co Cn".split()


def utf8_length(code):
    return len(chr(code).encode())


def onig_categories():
    category = {}
    for name in CATEGORIES:
        out = normalizers.Replace(Regex(r"\p{%s}" % name), "\x01").normalize_str(TEXT)
        assert len(out) == len(TEXT)
        for code, after in zip(CODES, out):
            if after == "\x01" and (code != 1 or name == "Cc"):
                category[code] = name
    assert len(category) == len(CODES)
    return category


def proxies(category):
    """(first, last, proxy): characters that PCRE2's Unicode 14 classes otherwise, and an old one of their class."""
    proxy = {}
    for code in CODES:
        if unicodedata.category(chr(code)) == category[code]:
            key = (utf8_length(code), category[code])
            # Not a space by PCRE2's \s, and no letter that case folding could confuse.
            if code >= 0x80 and code != 0x180E and key not in proxy:
                proxy[key] = code
    rows = []
    wanted = {c: proxy[utf8_length(c), category[c]] for c in CODES if unicodedata.category(chr(c)) != category[c]}
    wanted[0x180E] = proxy[3, "Cf"]  # PCRE2's \s has it, Oniguruma's has not
    for code in sorted(wanted):
        if rows and rows[-1][1] == code - 1 and rows[-1][2] == wanted[code]:
            rows[-1][1] = code
        else:
            rows.append([code, code, wanted[code]])
    return rows


def ranges(predicate):
    rows = []
    for code in CODES:
        if predicate(code):
            if rows and rows[-1][1] == code - 1:
                rows[-1][1] = code
            else:
                rows.append([code, code])
    return rows


def utf8proc():
    library = ctypes.CDLL("libutf8proc.so.2")
    libc = ctypes.CDLL(None)

    def normalize(form, text):
        function = getattr(library, "utf8proc_" + form)
        function.restype = ctypes.c_void_p
        pointer = function(text.encode())
        result = ctypes.string_at(pointer).decode()
        libc.free(ctypes.c_void_p(pointer))
        return result

    return normalize


def normalization_barriers(category):
    """Characters that utf8proc decomposes, composes or reorders and the older tables do not."""
    normalize = utf8proc()
    forms = {form: getattr(normalizers, form)() for form in ("NFD", "NFC", "NFKD", "NFKC")}
    barriers = {0x11930, 0x11935, 0x11938}  # a composition of Unicode 13
    marks = ["\u0334", "\u0300", "\u0316", "\u05b0", "\u064b", "\u302a", "\u0345", "\u1dce", "\u0327", "\u031b",
             "\u3099", "\u094d"]
    for code in CODES[1:]:
        character = chr(code)
        for form in ("NFD", "NFC", "NFKD", "NFKC"):
            if forms[form].normalize_str(character) != normalize(form, character):
                barriers.add(code)
        if category[code][0] == "M" and code not in barriers:
            for mark in marks:
                for text in ("a" + character + mark, "a" + mark + character):
                    if forms["NFD"].normalize_str(text) != normalize("NFD", text):
                        barriers.add(code)
    return ranges(lambda code: code in barriers)


def emit_ranges(name, rows, comment):
    print(f"// {comment}")
    print(f"const CodeRange {name}[] = {{")
    emit_rows("{{0x{:X}, 0x{:X}}}".format(*row) for row in rows)
    print("};")
    print(f"const size_t {name}Size = std::size({name});\n")


def emit_rows(cells):
    line = "   "
    for cell in cells:
        if len(line) + len(cell) + 2 > 108:
            print(line)
            line = "   "
        line += " " + cell + ","
    print(line)


def main():
    if unicodedata.unidata_version != "14.0.0":
        sys.exit(f"unicodedata is Unicode {unicodedata.unidata_version}, 14.0.0 is needed to stand for PCRE2's tables")
    category = onig_categories()
    bert = dict(clean_text=False, handle_chinese_chars=False, strip_accents=False, lowercase=False)
    clean = normalizers.BertNormalizer(**{**bert, "clean_text": True})
    accents = normalizers.BertNormalizer(**{**bert, "strip_accents": True})
    strip = normalizers.StripAccents()
    lower = normalizers.Lowercase()
    digits = pre_tokenizers.Digits(individual_digits=True)
    punctuation = pre_tokenizers.Punctuation()
    words = pre_tokenizers.Whitespace()

    def splits(pre_tokenizer, code):
        return len(pre_tokenizer.pre_tokenize_str("a" + chr(code) + "a")) == 3

    print("// Generated by tools/tokenizer_unicode.py from tokenizers", tokenizers.__version__ + "; do not edit.")
    print('#include "models/text/unicode_tables.h"\n\n#include <iterator>\n\nnamespace tidepool::text {\n')
    emit_ranges("kWordRanges", ranges(lambda c: len(words.pre_tokenize_str("a" + chr(c))) == 1
                                      and words.pre_tokenize_str("a" + chr(c))[0][0] != "a"),
                r"\w of the regex crate.")
    emit_ranges("kPunctuationRanges", ranges(lambda c: splits(punctuation, c)),
                "What BertPreTokenizer and Punctuation cut out.")
    emit_ranges("kNumericRanges", ranges(lambda c: splits(digits, c)), "What Digits cuts out.")
    emit_ranges("kControlRanges", ranges(lambda c: clean.normalize_str(chr(c)) == ""),
                "What BertNormalizer's clean_text removes.")
    emit_ranges("kNonspacingMarkRanges", ranges(lambda c: accents.normalize_str(chr(c)) == ""),
                "What BertNormalizer's strip_accents removes.")
    emit_ranges("kCombiningMarkRanges", ranges(lambda c: strip.normalize_str(chr(c)) == ""),
                "What StripAccents removes.")
    emit_ranges("kNormalizationBarrierRanges", normalization_barriers(category),
                "Characters that the normalizers' older tables do not know, utf8proc does.")
    print("// Lower case of single characters; U+0130 has two (U+0069 U+0307) and is not here.")
    print("const CodePair kLowercasePairs[] = {")
    lowered = [(c, lower.normalize_str(chr(c))) for c in CODES]
    emit_rows("{{0x{:X}, 0x{:X}}}".format(c, ord(l)) for c, l in lowered if l != chr(c) and len(l) == 1)
    assert [c for c, l in lowered if len(l) != 1] == [0x130]
    print("};\nconst size_t kLowercasePairsSize = std::size(kLowercasePairs);\n")
    print("// Characters that PCRE2 10.42 (Unicode 14) classes otherwise: first, last, an old one of the same class.")
    print("const ProxyRange kProxyRanges[] = {")
    emit_rows("{{0x{:X}, 0x{:X}, 0x{:X}}}".format(*row) for row in proxies(category))
    print("};\nconst size_t kProxyRangesSize = std::size(kProxyRanges);\n")
    print("}  // namespace tidepool::text")


if __name__ == "__main__":
    main()
