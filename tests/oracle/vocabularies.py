"""For a person to run: published vocabularies, random texts, and what Python's libraries make of them.

    python3 tests/oracle/vocabularies.py LLAMA_CPP OUT [COUNT [MISTRAL_COMMON]]
    FIRESIDE_VOCABULARIES=OUT cargo test --release --test it vocabularies -- --nocapture

LLAMA_CPP is the folder `vendor/llama.cpp` of the source package llama-cpp-python, whose `models` hold vocabularies as GGUF;
MISTRAL_COMMON the folder `mistral_common/data` of the package mistral-common. Needs the packages tokenizers and
sentencepiece, and for MISTRAL_COMMON mistral-common itself. OUT gets `texts`, for each vocabulary a file or a link of its
name, and `<name>.parsed` and `<name>.as_text`: ids where names of special tokens in the text are those tokens, and where
they are text. Texts and lists of ids are a length in four bytes and that many bytes or numbers of four bytes.
"""

import json
import os
import struct
import sys
from pathlib import Path

from random_texts import texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def split(pattern: str):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex: bool):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


# As their tokenizer.json has it: steps before the bytes, a normaliser, whether a word that is a token ignores the merges.
BPE = {
    "gpt-2": ([byte_level(True)], None, False),
    "llama-bpe": ([split(LLAMA3), byte_level(False)], None, True),
    "qwen2": ([split(QWEN2), byte_level(False)], normalizers.NFC(), False),
    "starcoder": ([pre_tokenizers.Digits(individual_digits=True), byte_level(True)], None, False),
    "command-r": ([pre_tokenizers.Digits(individual_digits=True), byte_level(True)], normalizers.NFC(), False),
    "mpt": ([byte_level(True)], normalizers.NFC(), False),
    "falcon": (
        [
            pre_tokenizers.Punctuation("contiguous"),
            byte_level(True),
            pre_tokenizers.Digits(individual_digits=False),
            split("[0-9][0-9][0-9]"),
        ],
        None,
        False,
    ),
    "gemma-4": (None, normalizers.Replace(" ", "▁"), False),
}
# As sentencepiece: the text begins with a space, or does not.
SENTENCEPIECE = {"llama-spm": True, "phi-3": True, "baichuan": True}


def read_gguf(path: Path) -> dict:
    """The keys and values of a GGUF file."""
    data, at = path.read_bytes(), 4
    numbers = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def take(kind: str, count: int = 1):
        nonlocal at
        values = struct.unpack_from(f"<{count}{kind}", data, at)
        at += struct.calcsize(f"<{count}{kind}")
        return values

    def string() -> str:
        nonlocal at
        (length,) = take("Q")
        at += length
        return data[at - length : at].decode()

    def value(kind: int):
        if kind == 8:
            return string()
        if kind == 9:
            (inner,), (count,) = take("I"), take("Q")
            return list(take(numbers[inner], count)) if inner in numbers else [value(inner) for _ in range(count)]
        return take(numbers[kind])[0]

    take("I"), take("Q")
    (keys,) = take("Q")
    return {string(): value(take("I")[0]) for _ in range(keys)}


def write_gguf(path: Path, values: dict) -> None:
    """Strings, bools, numbers, and lists of one of those."""

    def one(v) -> tuple[int, bytes]:
        if isinstance(v, bool):
            return 7, struct.pack("<?", v)
        if isinstance(v, str):
            return 8, struct.pack("<Q", len(v.encode())) + v.encode()
        return (5, struct.pack("<i", v)) if isinstance(v, int) else (6, struct.pack("<f", v))

    def any_(v) -> bytes:
        if isinstance(v, list):
            all_ = [one(x) for x in v]
            return struct.pack("<IIQ", 9, all_[0][0], len(v)) + b"".join(x for _, x in all_)
        kind, data = one(v)
        return struct.pack("<I", kind) + data

    keys = b"".join(one(key)[1] + any_(v) for key, v in values.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(values)) + keys)


def write(path: Path, rows: list[bytes], size: int = 1) -> None:
    path.write_bytes(b"".join(struct.pack("<I", len(row) // size) + row for row in rows))


def numbers(ids: list[int]) -> bytes:
    return struct.pack(f"<{len(ids)}I", *ids)


def bpe(name: str, file: dict) -> Tokenizer:
    steps, normalizer, ignore_merges = BPE[name]
    names, types = file["tokenizer.ggml.tokens"], file["tokenizer.ggml.token_type"]
    cuts = [line.index(" ", 1) for line in file["tokenizer.ggml.merges"]]
    merges = [(line[:cut], line[cut + 1 :]) for line, cut in zip(file["tokenizer.ggml.merges"], cuts)]
    raw = steps is None
    vocab = {name: id for id, name in enumerate(names)}
    model = models.BPE(vocab, merges, ignore_merges=ignore_merges, byte_fallback=raw, fuse_unk=raw)
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    if steps:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
        tokenizer.decoder = decoders.ByteLevel()
    for kind, special in [(CONTROL, True), (USER_DEFINED, False)]:
        found = [AddedToken(n, special=special, normalized=False) for n, t in zip(names, types) if t == kind]
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)(found)
    return tokenizer


def encode_bpe(tokenizer: Tokenizer, rows: list[str], as_text: bool) -> list[bytes]:
    tokenizer.encode_special_tokens = as_text
    return [numbers(tokenizer.encode(row, add_special_tokens=False).ids) for row in rows]


def sentencepiece_model(pieces: list[tuple[str, float, int]], prefix: bool) -> bytes:
    """A file of sentencepiece: protocol buffers by hand."""

    def field(number: int, data: bytes) -> bytes:
        length, out = len(data), b""
        while length >= 128:
            out, length = out + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + out + bytes([length]) + data

    def piece(name: str, score: float, kind: int) -> bytes:
        return field(1, name.encode()) + b"\x15" + struct.pack("<f", score) + bytes([3 << 3, kind])

    trainer = bytes([3 << 3, 2, 35 << 3 & 127 | 128, 2, 1])  # model_type BPE, byte_fallback
    rules = field(1, b"identity") + bytes([3 << 3, prefix, 4 << 3, 0, 5 << 3, 1])
    return b"".join(field(1, piece(*p)) for p in pieces) + field(2, trainer) + field(3, rules)


def main() -> None:
    source, out = Path(sys.argv[1]) / "models", Path(sys.argv[2])
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 100_000
    out.mkdir(parents=True, exist_ok=True)
    rows = texts(count, 1)
    write(out / "texts", [row.encode() for row in rows])

    for name in BPE:
        path = source / f"ggml-vocab-{name}.gguf"
        link(out / f"{name}.gguf", path)
        tokenizer = bpe(name, read_gguf(path))
        for as_text, kind in [(False, "parsed"), (True, "as_text")]:
            write(out / f"{name}.{kind}", encode_bpe(tokenizer, rows, as_text), 4)
        print(name, flush=True)

    import sentencepiece

    for name, prefix in SENTENCEPIECE.items():
        path = source / f"ggml-vocab-{name}.gguf"
        link(out / f"{name}.gguf", path)
        file = read_gguf(path)
        # What was added to the vocabulary after its training is no token of sentencepiece.
        parts = zip(file["tokenizer.ggml.tokens"], file["tokenizer.ggml.scores"], file["tokenizer.ggml.token_type"])
        pieces = [part if part[2] in (NORMAL, BYTE) or i < 3 else (f"<no token {i}>", 0.0, UNUSED) for i, part in enumerate(parts)]
        pieces[:3] = [(n, 0.0, UNKNOWN if i == 0 else CONTROL) for i, (n, _, _) in enumerate(pieces[:3])]
        python = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model(pieces, prefix))
        write(out / f"{name}.as_text", [numbers(ids) for ids in python.encode(rows)], 4)
        print(name, flush=True)

    if len(sys.argv) > 4:
        mistral(Path(sys.argv[4]), out, rows)


def link(at: Path, to: Path) -> None:
    at.unlink(missing_ok=True)
    os.symlink(to.resolve(), at)


def mistral(data: Path, out: Path, rows: list[str]) -> None:
    import sentencepiece

    for name, file in [("mistral-v1", "tokenizer.model.v1"), ("mistral-v3", "mistral_instruct_tokenizer_240323.model.v3")]:
        link(out / f"{name}.model", data / file)
        python = sentencepiece.SentencePieceProcessor(model_file=str(data / file))
        write(out / f"{name}.as_text", [numbers(ids) for ids in python.encode(rows)], 4)
        print(name, flush=True)

    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    for name, file in [("tekken", "tekken_240911.json")]:
        python = Tekkenizer.from_file(data / file)
        write(out / f"{name}.as_text", [numbers(python.encode(row, bos=False, eos=False)) for row in rows], 4)
        write_gguf(out / f"{name}.gguf", tekken_gguf(json.loads((data / file).read_text()), python))
        print(name, flush=True)


def tekken_gguf(file: dict, python) -> dict:
    """The vocabulary as a converter writes it: names in GPT-2's table of bytes, and merges for the order of the ranks."""
    import base64

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {byte: chr(byte) for byte in printable}
    table |= {byte: chr(256 + i) for i, byte in enumerate(b for b in range(256) if b not in table)}
    spell = lambda word: "".join(table[byte] for byte in word)
    special = python.num_special_tokens
    size = python.n_words - special
    words = [base64.b64decode(token["token_bytes"]) for token in file["vocab"][:size]]
    rank = {word: i for i, word in enumerate(words)}
    merges = []
    for i, word in enumerate(words):
        parts = [bytes([byte]) for byte in word]
        while len(parts) > 2:  # as the word's own parts would be merged by what has a lower rank
            ranks = [rank.get(a + b, size) for a, b in zip(parts, parts[1:])]
            best = min(ranks)
            assert best < i, word
            at = ranks.index(best)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        if len(parts) == 2:
            merges.append(f"{spell(parts[0])} {spell(parts[1])}")
    control = [python.id_to_piece(i) for i in range(special)]
    assert len(set(control)) == special
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "tekken",
        "tokenizer.ggml.tokens": control + [spell(word) for word in words],
        "tokenizer.ggml.token_type": [CONTROL] * special + [NORMAL] * size,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


if __name__ == "__main__":
    main()
