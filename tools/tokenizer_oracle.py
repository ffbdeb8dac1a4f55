#!/usr/bin/env python3
"""Writes what Hugging Face's tokenizers makes of seeded random and adversarial strings, for text_oracle_test.

    tools/tokenizer_oracle.py TOKENIZER_JSON OUTPUT [--count 20000] [--seed 1]

Each case, little-endian: u32 size and bytes of the text (which may be ill-formed UTF-8); u32 count and i32 ids
without special tokens; the same with special tokens parsed and added; u32 size and bytes of the first ids decoded.
"""
import argparse
import json
import random
import struct
import sys
import unicodedata

from tokenizers import Tokenizer

WORDS = ("the of and to in is you that it he was for on are as with his they I at be this have from or one had by "
         "word but not what all were we when your can said there use an each which she do how their if will up other "
         "about out many then them these so some her would make like him into time has look two more write go see "
         "number no way could people my than first water been call who oil its now find long down day did get come "
         "made may part tokenization HTTPServer camelCase snake_case XMLHttpRequest iPhone McDonald naïve café "
         "straße Größe Ünïcödé señor façade 東京 大阪 안녕하세요 привет мир нещо Ελληνικά مرحبا שלום नमस्ते สวัสดี "
         "ខ្មែរ বাংলা தமிழ் తెలుగు ગુજરાતી ᏣᎳᎩ ไทย ⅷ Ⅻ ½ ² ³ ① ㊊ ﬁ ﬂ ĳ ǆ ǅ Ω K Å").split()
CONTRACTIONS = "'s 't 're 've 'm 'll 'd 'S 'T 'RE 'Ve 'M 'LL 'D 'ſ ’s 'x 'l 'r".split()
PUNCTUATION = list("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~") + ["...", "->", "=>", "//", "/*", "*/", "::", "!=", "«", "»",
               "…", "—", "–", "„", "“", "”", "、", "。", "！", "？", "（", "）", "¿", "¡", "§", "±", "×", "€", "£", "₿"]
SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\r", "\r\n", "\n\n", " \n", "\n ", "\t\t", "\v", "\f", "\u00a0",
          "\u0085", "\u1680", "\u180e", "\u2000", "\u2003", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f",
          "\u205f", "\u2060", "\u3000", "\ufeff", "\x1c", "\x1f"]
EMOJI = ["😀", "😶‍🌫️", "👨‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "🇯🇵", "❤️", "✅", "🚀", "🦙", "☃", "☺️", "1️⃣", "#️⃣", "🧑🏿‍🚀", "🫠", "🪿", "🫩"]
MARKS = "\u0300\u0301\u0302\u0308\u0327\u0323\u0331\u0338\u0345\u064b\u0651\u05b0\u093c\u094d\u0e31\u0e48\u3099\u309a\u1ab0\u20dd\u20e3\ufe0f\u200d\u200c"
NEW = [0x0897, 0x1C89, 0x1C8A, 0xA7CB, 0xA7DC, 0x10D40, 0x10D50, 0x10D70, 0x11B00, 0x11BC0, 0x11DE0, 0x11F02, 0x11F50,
       0x13430, 0x13460, 0x16D40, 0x16D63, 0x16D67, 0x1E4D0, 0x1E4F0, 0x1E5D0, 0x1FAE9, 0x1FA75, 0x2EBF0, 0x31350,
       0x323AF, 0x0CF3, 0x0ECE, 0x1B4E, 0x2FFC, 0x31EF, 0x1CC00, 0x1CCF0, 0xE0100, 0xE0001, 0xF0000, 0x10FFFF]
# Assigned stretches, so that random characters are not mostly unassigned ones.
SCRIPTS = [(0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x17F), (0x180, 0x24F), (0x250, 0x2FF), (0x300, 0x36F), (0x370, 0x3FF),
           (0x400, 0x52F), (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7B1),
           (0x7C0, 0x7FF), (0x8A0, 0x8FF), (0x900, 0x97F), (0x980, 0x9FE), (0xA01, 0xA76), (0xA81, 0xAFF),
           (0xB01, 0xB77), (0xB82, 0xBFA), (0xC00, 0xC7F), (0xC80, 0xCF3), (0xD00, 0xD7F), (0xD81, 0xDF4),
           (0xE01, 0xE5B), (0xE81, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF), (0x1100, 0x11FF),
           (0x1200, 0x139F), (0x13A0, 0x13FD), (0x1400, 0x167F), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1A00, 0x1AAD),
           (0x1B00, 0x1B7E), (0x1C80, 0x1CBF), (0x1D00, 0x1DFF), (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x209C),
           (0x20A0, 0x20F0), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2400, 0x245F), (0x2460, 0x27BF), (0x2800, 0x2BFF),
           (0x2C00, 0x2DFF), (0x2E00, 0x2E5D), (0x2E80, 0x2FFB), (0x3000, 0x303F), (0x3041, 0x30FF), (0x3105, 0x31E3),
           (0x31F0, 0x33FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4C6), (0xA4D0, 0xA69F), (0xA700, 0xA7FF),
           (0xA800, 0xABFF), (0xAC00, 0xD7A3), (0xD7B0, 0xD7FB), (0xE000, 0xE0FF), (0xF900, 0xFAD9), (0xFB00, 0xFDFF),
           (0xFE00, 0xFE6F), (0xFE70, 0xFEFC), (0xFF01, 0xFFEE), (0x10000, 0x100FA), (0x10400, 0x104FB),
           (0x10780, 0x107BA), (0x10A00, 0x10A9F), (0x10D00, 0x10D39), (0x10E60, 0x10EB1), (0x10F30, 0x10F59),
           (0x11000, 0x110C2), (0x11100, 0x11147), (0x11900, 0x11959), (0x12000, 0x12399), (0x13000, 0x1342E),
           (0x16800, 0x16A38), (0x16F00, 0x16F9F), (0x1B000, 0x1B122), (0x1BC00, 0x1BCA3), (0x1D100, 0x1D1EA),
           (0x1D400, 0x1D7FF), (0x1E000, 0x1E02A), (0x1E100, 0x1E14F), (0x1E800, 0x1E8D6), (0x1E900, 0x1E95F),
           (0x1EE00, 0x1EEF1), (0x1F000, 0x1F0F5), (0x1F100, 0x1F1FF), (0x1F200, 0x1F265), (0x1F300, 0x1F64F),
           (0x1F680, 0x1F8B1), (0x1F900, 0x1FAF8), (0x1FB00, 0x1FBF9), (0x20000, 0x2A6DF), (0x2A700, 0x2EBE0),
           (0x2F800, 0x2FA1D), (0x30000, 0x3134A)]
CODE = ["def f(x):\n    return x**2  # ok\n", "for (int i = 0; i < n; ++i) {\n\ta[i] += 0x1F;\n}\n",
        "SELECT * FROM t WHERE a>=10 AND b!='x';", "<div class=\"a\">&nbsp;</div>\r\n", "{\"k\": [1, 2.5e-3, null]}",
        "https://example.com/a?b=c&d=%20#e", "printf(\"%d\\n\", 1);", "let s = `${a}-${b}`;", "\\frac{a}{b} \\leq 1",
        "C:\\Windows\\System32", "a_b-c.d@e.org", "if x:\n        y()\n    else:\n\n\n        z()", "$ ls -la | grep x"]


class Source:
    def __init__(self, seed, tokenizer, added):
        self.r = random.Random(seed)
        pieces = [p for p in tokenizer.get_vocab() if len(p) < 24]
        pieces.sort()
        self.pieces = pieces
        self.added = sorted(added)
        self.makers = [self.words, self.scripts, self.anything, self.digits, self.spaces, self.emoji, self.marks,
                       self.controls, self.specials, self.code, self.runs, self.vocabulary, self.contractions,
                       self.case, self.new]

    def pick(self, items, low=1, high=8):
        return [self.r.choice(items) for _ in range(self.r.randint(low, high))]

    def words(self):
        return self.r.choice([" ", " ", "", ", ", "\n", "-"]).join(self.pick(WORDS, 1, 12))

    def scripts(self):
        out = []
        for _ in range(self.r.randint(1, 4)):
            low, high = self.r.choice(SCRIPTS)
            out.append("".join(chr(self.r.randint(low, high)) for _ in range(self.r.randint(1, 8))))
        return self.r.choice(["", " "]).join(out)

    def anything(self):
        codes = [self.r.choice([self.r.randrange(0x110000), self.r.randrange(0x3000), self.r.randrange(0x20000)])
                 for _ in range(self.r.randint(1, 12))]
        return "".join(chr(c) for c in codes if not 0xD800 <= c <= 0xDFFF)

    def digits(self):
        zero = self.r.choice([0x30] * 6 + [0x660, 0x966, 0xE50, 0xFF10, 0x1D7CE, 0x1E950, 0x2160, 0x2460, 0xB2])
        return self.r.choice(["", " ", "-", "."]).join(
            "".join(chr(zero + self.r.randrange(10)) for _ in range(self.r.randint(1, 9))) for _ in range(3))

    def spaces(self):
        return "".join(self.r.choice([self.r.choice(SPACES), self.r.choice(SPACES), self.r.choice(WORDS),
                                      self.r.choice(PUNCTUATION)]) for _ in range(self.r.randint(1, 14)))

    def emoji(self):
        return self.r.choice(["", " "]).join(self.pick(EMOJI + WORDS, 1, 6))

    def marks(self):
        bases = "aeiouAEInñçあかハ가한اלक ำ1. ́"
        return "".join(self.r.choice(bases) + "".join(self.pick(MARKS, 0, 3)) for _ in range(self.r.randint(1, 8)))

    def controls(self):
        return "".join(chr(self.r.choice([self.r.randrange(32), 0x7F, self.r.randrange(0x80, 0xA0), 0x61, 0x20, 0xAD,
                                          0xFFFD, 0xFFFE, 0xFFFF, 0x200E, 0x61C])) for _ in range(self.r.randint(1, 10)))

    def specials(self):
        out = []
        for _ in range(self.r.randint(1, 4)):
            token = self.r.choice(self.added) if self.added else "<s>"
            kind = self.r.randrange(6)
            if kind == 0:
                token = token[:-1]
            elif kind == 1:
                token = token[:1] + token
            elif kind == 2:
                token = token.upper()
            elif kind == 3:
                token = " " + token + " "
            out.append(token)
            out.append(self.r.choice(["", " ", "a", "\n", "  ", "x y", "_", "1"]))
        out.append(self.r.choice(["<|im_start|>", "<0x0A>", "▁", "Ġ", "##a", "</w>", "<s>", "[MASK]", "<unk>"]))
        return "".join(out)

    def code(self):
        return "".join(self.pick(CODE, 1, 2))

    def runs(self):
        unit = self.r.choice(["a", " ", "ab", "A", "\n", "=", "-", "1", "é", "的", "😀", "\t", ".", "ha", "\r\n", "x "])
        return unit * self.r.randint(2, 90) + self.r.choice(["", "a", " ", "\n", "!"])

    def vocabulary(self):
        return "".join(p.replace("Ġ", " ").replace("Ċ", "\n").replace("▁", " ") for p in self.pick(self.pieces, 1, 8))

    def contractions(self):
        return "".join(self.r.choice(WORDS) + self.r.choice(CONTRACTIONS) + self.r.choice(["", " ", "a", "'"])
                       for _ in range(self.r.randint(1, 4)))

    def case(self):
        letters = "abcABCéÉßẞǅſıİσςΣЖжﬀａＡᾳⓐ𝐀𐐀𐐨ªºʰ们"
        return "".join(self.pick(letters, 1, 12)) + self.r.choice(CONTRACTIONS + PUNCTUATION)

    def new(self):
        return "".join(chr(self.r.choice(NEW)) + self.r.choice(["", "a", " ", "1", "́"]) for _ in range(self.r.randint(1, 6)))

    def ill_formed(self):
        data = bytearray(self.r.choice(self.makers)().encode())
        for _ in range(self.r.randint(1, 4)):
            at = self.r.randrange(len(data) + 1)
            if self.r.random() < 0.5 and data:
                del data[max(0, at - 1):at]
            else:
                data[at:at] = bytes(self.r.choice([0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xF4, 0xF5, 0xFF, 0xA0])
                                    for _ in range(self.r.randint(1, 3)))
        return bytes(data)

    def next(self):
        choice = self.r.random()
        if choice < 0.05:
            return self.ill_formed()
        if choice < 0.2:
            return "".join(self.r.choice(self.makers)() for _ in range(self.r.randint(2, 5))).encode()
        return self.r.choice(self.makers)().encode()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tokenizer")
    parser.add_argument("output")
    parser.add_argument("--count", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    tokenizer = Tokenizer.from_file(arguments.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    with open(arguments.tokenizer, encoding="utf-8") as file:
        added = {t["content"]: t["id"] for t in json.load(file).get("added_tokens", [])}
    # The library numbers tokens outside the model's vocabulary itself; the file's ids are the model's.
    to_file = {tokenizer.token_to_id(content): file_id for content, file_id in added.items()}
    to_file = {ours: file_id for ours, file_id in to_file.items() if ours != file_id}

    source = Source(arguments.seed, tokenizer, added)
    fixed = [b"", b" ", b"\n", b"a", "é".encode(), b"\xff", b"\xe2\x82", "\u0130".encode(), b"\0", b"  a  b  "]
    raw = fixed + [source.next() for _ in range(arguments.count - len(fixed))]
    texts = [data.decode("utf-8", "replace") for data in raw]
    tokenizer.encode_special_tokens = True
    plain = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=False)]
    decoded = tokenizer.decode_batch(plain, skip_special_tokens=True)
    tokenizer.encode_special_tokens = False
    special = [e.ids for e in tokenizer.encode_batch(texts, add_special_tokens=True)]
    with open(arguments.output, "wb") as out:
        for data, ids, with_special, text in zip(raw, plain, special, decoded):
            out.write(struct.pack("<I", len(data)) + data)
            for numbers in (ids, with_special):
                numbers = [to_file.get(i, i) for i in numbers]
                out.write(struct.pack(f"<I{len(numbers)}i", len(numbers), *numbers))
            encoded = text.encode()
            out.write(struct.pack("<I", len(encoded)) + encoded)
    characters = sum(map(len, texts))
    print(f"{len(raw)} strings, {characters} characters, seed {arguments.seed}", file=sys.stderr)


if __name__ == "__main__":
    main()
