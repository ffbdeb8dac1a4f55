"""What a step of a GGUF model must read and compute, from the file's header. Only the standard library."""

import dataclasses
import pathlib
import struct

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Header:
    """Metadata (arrays as None: only scalars and strings are of use here) and tensors: name -> (dimensions, offset)."""

    def __init__(self, path):
        self.file = open(path, "rb")
        with self.file:
            magic, version, tensors, keys = self._read("4sIQQ")
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError(f"{path} is not a GGUF file of version 2 or 3")
            self.metadata = {}
            for _ in range(keys):
                key = self._string()
                self.metadata[key] = self._value(self._read("I")[0])
            self.tensors = {}
            for _ in range(tensors):
                name = self._string()
                dimensions = self._read(f"{self._read('I')[0]}Q")
                self.tensors[name] = (dimensions, self._read("IQ")[1])
            alignment = self.metadata.get("general.alignment", 32)
            self.data_bytes = path.stat().st_size - -(-self.file.tell() // alignment) * alignment

    def _read(self, form):
        return struct.unpack("<" + form, self.file.read(struct.calcsize("<" + form)))

    def _string(self):
        return self.file.read(self._read("Q")[0]).decode(errors="replace")

    def _value(self, kind):
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._read(SCALARS[kind])[0]
        element, count = self._read("IQ")
        if element == STRING:
            for _ in range(count):
                self._string()
        else:
            self.file.seek(count * struct.calcsize("<" + SCALARS[element]), 1)
        return None


@dataclasses.dataclass
class StepSize:
    weight_bytes: int  # read by a step that samples: every tensor, but not an embedding that is no head
    parameters: int  # multiplied for a token that samples
    prefill_parameters: int  # multiplied for a token that does not: without the head
    kv_token_bytes: int  # 16-bit keys and values of one token, all layers

    @staticmethod
    def of(path):
        header = Header(pathlib.Path(path))
        architecture = header.metadata["general.architecture"]

        def field(name, otherwise=None):
            value = header.metadata.get(f"{architecture}.{name}", otherwise)
            if value is None:
                raise ValueError(f"{path} does not say {architecture}.{name} as one number")
            return value

        offsets = sorted(offset for _, offset in header.tensors.values()) + [header.data_bytes]
        size = {name: offsets[offsets.index(offset) + 1] - offset for name, (_, offset) in header.tensors.items()}
        elements = {}
        for name, (dimensions, _) in header.tensors.items():
            elements[name] = 1
            for dimension in dimensions:
                elements[name] *= dimension
        embedding, head = "token_embd.weight", "output.weight"
        tied = head not in size
        parameters = sum(elements.values()) - (0 if tied else elements[embedding])
        heads = field("attention.head_count")
        head_dim = field("embedding_length") // heads
        columns = field("attention.key_length", head_dim) + field("attention.value_length", head_dim)
        return StepSize(sum(size.values()) - (0 if tied else size[embedding]), parameters,
                        parameters - elements[embedding if tied else head],
                        field("block_count") * field("attention.head_count_kv", heads) * columns * 2)
