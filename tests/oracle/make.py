#!/usr/bin/env python3
"""Regenerates the committed fixtures in tests/fixtures: `make.py` makes all of them, `make.py tale beams` those two.

Every part is a module beside this file with a function `make()`. Parts after `tale` read the model that `tale` wrote.
"""

import importlib
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

sys.dont_write_bytecode = True

PARTS = [
    "gpt2",
    "llama",
    "classic",
    "rms",
    "long",
    "switches",
    "tale",
    "parameters",
    "greedy",
    "processors",
    "beams",
    "generate",
    "perplexity",
    "tokens",
    "tokenizers",
    "sentencepiece",
    "gpt2_vocab",
    "full_size",
    "ember",
    "quant",
    "chat",
    "jinja",
]


def main(wanted: list[str]) -> int:
    unknown = [part for part in wanted if part not in PARTS]
    if unknown:
        print(f"error: unknown part `{unknown[0]}`; parts are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    for part in wanted or PARTS:
        start = time.time()
        importlib.import_module(f"part_{part}").make()
        print(f"{part}: {time.time() - start:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
