"""tokenizers/<name>.json and tokenizers.json: tiny tokenizers built like those of published models, and what Python's
tokenizers makes of texts with them.

Per model `name`: `cases` have `text`, `ids` (with the tokens that the tokenizer adds), `decoded` and
`decoded_without_special`; `random_ids` are ids that no text gives, with the same decodings.
"""

import json
from collections import Counter

import numpy as np
from common import FIXTURES, write_json
from part_tokens import TEXTS
from story import OTHER, story
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = FIXTURES / "tokenizers"
MERGES = 160

# The patterns by which these models cut a text into words.
LLAMA3_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")


def byte_level(use_regex: bool) -> dict:
    return {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": use_regex}


def words(pattern: str) -> dict:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [split, byte_level(False)]}


def begins_with(name: str, token: int) -> dict:
    single = [{"SpecialToken": {"id": name, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    special = {name: {"id": name, "ids": [token], "tokens": [name]}}
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}


TO_SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
SENTENCEPIECE = {
    "type": "Sequence",
    "decoders": [TO_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}],
}
FROM_SPACES = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}

# name: (special tokens, bytes are tokens of their own, the parts). A token with `=` has what is said after it, and is not special
# if that is "plain".
TOKENIZERS = {
    # Llama 2, TinyLlama, Mistral 7B v0.1
    "llama2": (
        ["<unk>", "<s>", "</s>"],
        True,
        {
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, FROM_SPACES]},
            "pre_tokenizer": None,
            "post_processor": begins_with("<s>", 1),
            "decoder": SENTENCEPIECE,
        },
    ),
    # Mistral 7B v0.3
    "mistral_v3": (
        ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"],
        True,
        {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
            "post_processor": begins_with("<s>", 1),
            "decoder": SENTENCEPIECE,
        },
    ),
    "llama3": (
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"],
        False,
        {
            "normalizer": None,
            "pre_tokenizer": words(LLAMA3_WORDS),
            "post_processor": {"type": "Sequence", "processors": [byte_level(True), begins_with("<|begin_of_text|>", 0)]},
            "decoder": byte_level(True),
        },
    ),
    "smollm2": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        False,
        {
            "normalizer": None,
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [{"type": "Digits", "individual_digits": True}, byte_level(True)],
            },
            "post_processor": None,
            "decoder": byte_level(True),
        },
    ),
    "qwen2": (
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        False,
        {
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": words(QWEN2_WORDS),
            "post_processor": byte_level(False),
            "decoder": byte_level(False),
        },
    ),
    "gemma": (
        ["<pad>", "<eos>", "<bos>", "<unk>", "\n\n=plain", "<table>=plain"],
        True,
        {
            "normalizer": FROM_SPACES,
            "pre_tokenizer": {
                "type": "Split",
                "pattern": {"String": " "},
                "behavior": "MergedWithPrevious",
                "invert": False,
            },
            "post_processor": begins_with("<bos>", 2),
            "decoder": {"type": "Sequence", "decoders": SENTENCEPIECE["decoders"][:3]},
        },
    ),
    "phi3": (
        ["<unk>", "<s>", "</s>=rstrip", "<|end|>=rstrip", "<|user|>=rstrip", "<mask>=lstrip", "cat=single_word", "old fox=normalized"],
        True,
        {
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, FROM_SPACES]},
            "pre_tokenizer": None,
            "post_processor": begins_with("<s>", 1),
            "decoder": SENTENCEPIECE,
        },
    ),
    # LLM-jp and Sarashina: a sum of scores instead of merges
    "unigram": (
        ["<unk>", "<s>", "</s>"],
        True,
        {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True},
            "post_processor": begins_with("<s>", 1),
            "decoder": SENTENCEPIECE,
        },
    ),
    # Phi-3's own flags and no others
    "phi3_mini": (
        ["<unk>", "<s>", "<|endoftext|>", "</s>=rstrip", "<|end|>=rstrip", "<|user|>=rstrip", "<|assistant|>=rstrip"],
        True,
        {
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, FROM_SPACES]},
            "pre_tokenizer": None,
            "post_processor": begins_with("<s>", 1),
            "decoder": SENTENCEPIECE,
        },
    ),
}


def trained(sentencepiece: bool, pattern: str) -> tuple[list[str], list[list[str]]]:
    """Single characters, and merges of them, as a text of our own asks for."""
    tokenizer = Tokenizer(models.BPE())
    if sentencepiece:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
        alphabet, most = [], 90
    else:
        cut = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
        alphabet, most = sorted(pre_tokenizers.ByteLevel.alphabet()), 256
    trainer = trainers.BpeTrainer(
        vocab_size=most + MERGES, initial_alphabet=alphabet, limit_alphabet=most, show_progress=False, special_tokens=[]
    )
    text = story(11, 20_000)
    # The trainer's own choice among characters that are as rare as each other is another one in every run.
    counts = Counter(text)
    common = set(sorted(counts, key=lambda c: (-counts[c], c))[: most - 2]) if sentencepiece else set(text)
    tokenizer.train_from_iterator(["".join(c for c in text if c in common)], trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [list(merge) for merge in model["merges"]]


def build(name: str) -> Tokenizer:
    described, sentencepiece, parts = TOKENIZERS[name]
    flags = [token.partition("=")[2] for token in described]
    special = [token.partition("=")[0] for token in described]
    names, merges = trained(sentencepiece, QWEN2_WORDS if name == "qwen2" else LLAMA3_WORDS)
    fallback = [f"<0x{byte:02X}>" for byte in range(256)] if sentencepiece else []
    vocab = {token: number for number, token in enumerate(special + fallback + [name for name in names if name not in special])}
    added = [
        dict(id=vocab[token], content=token)
        | {name: flag == name for name in ["single_word", "lstrip", "rstrip"]}
        | dict(normalized=flag == "normalized", special=flag not in ["plain", "normalized"])
        for token, flag in zip(special, flags)
    ]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>" if sentencepiece else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": sentencepiece,
        "byte_fallback": sentencepiece,
        "ignore_merges": name == "llama3",
        "vocab": vocab,
        "merges": merges,
    }
    if name == "unigram":
        scores = [[token, 0.0 if number < len(special) else -1 - number / 16] for token, number in vocab.items()]
        model = {"type": "Unigram", "unk_id": 0, "vocab": scores, "byte_fallback": True}
    file = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added} | parts | {"model": model}
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(file, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    return Tokenizer.from_file(str(path))


def make() -> None:
    FOLDER.mkdir(exist_ok=True)
    rng = np.random.Generator(np.random.PCG64(9))
    cases = []
    for name, (special, sentencepiece, _) in TOKENIZERS.items():
        tokenizer = build(name)
        python = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)

        def case(ids: list[int]) -> dict:
            return {
                "ids": ids,
                "decoded": python.decode(ids, skip_special_tokens=False),
                "decoded_without_special": python.decode(ids, skip_special_tokens=True),
            }

        special = [token.partition("=")[0] for token in special]
        texts = list(dict.fromkeys(TEXTS[::2] + OTHER + [f"{special[0]}in{special[-1]} the middle {special[1]}", story(60, 90)]))
        texts += [f"a {token} \n {token}b {token}{token}" for token in special[3:]]
        size = tokenizer.get_vocab_size()
        rows = [rng.integers(0, size, length).tolist() for length in range(1, 40)]
        if sentencepiece:
            rows += [rng.integers(120, 256, length).tolist() for length in range(1, 17)]  # mostly bytes of split characters
            byte = lambda text: [tokenizer.token_to_id(f"<0x{b:02X}>") for b in text]
            fox, word = byte("🦊".encode()), size - 1
            rows += [fox + byte(b"\xff") + [word], fox + fox[:2], byte(b"\xff") + fox + [word] + fox, [word] + fox + [word], fox + [0] + fox[1:]]
        cases.append(
            {
                "name": name,
                "vocab_size": size,
                "cases": [{"text": text} | case(python(text)["input_ids"]) for text in texts],
                "random_ids": [case(row) for row in rows],
            }
        )
        print(f"  {name}: {size} tokens, {len(texts)} texts, {len(cases[-1]['random_ids'])} rows of random ids")
    write_json("tokenizers.json", {}, cases)
