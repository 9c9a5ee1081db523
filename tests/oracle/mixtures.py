"""mixtures.json: the format that llama.cpp's quantiser gives each tensor, for a person to run: `mixtures.py LLAMA_CPP QUANTIZE`.

LLAMA_CPP is llama.cpp's source, as in `gguf_files.py`, and QUANTIZE the program `llama-quantize`. Each case is a model of random weights in
bf16: its shape and, for each mixture and kind of tensor, the types from the first layer on, as `number*type`. Models are small,
with rows of whole blocks of 256 numbers (but where `inner` is 96), and have layers enough for every rule that counts them.
`src/weights/quant/tests.rs` compares.
"""

import json
import logging
import re
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import gguf_files
import torch
from common import FIXTURES
from transformers import LlamaConfig, LlamaForCausalLM, MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

gguf = gguf_files.gguf

QUANTS = "Q8_0 Q6_K Q5_K_M Q5_K_S Q5_1 Q5_0 Q4_K_M Q4_K_S IQ4_NL Q4_1 Q4_0 Q3_K_M Q2_K".split()
HIDDEN, HEAD, ROWS = 256, 64, 320
# architecture, layers, experts, heads, heads of keys and values, numbers inside a feed-forward block, head and table are one
SHAPES = [
    ("qwen3_moe", 20, 4, 8, 2, 256, False),
    ("qwen3_moe", 17, 8, 4, 2, 256, False),
    ("qwen3_moe", 9, 16, 4, 4, 256, False),
    ("qwen3_moe", 9, 4, 4, 1, 96, False),
    ("qwen3_moe", 9, 4, 4, 1, 256, True),
    ("mixtral", 17, 8, 8, 2, 256, False),
    ("mixtral", 9, 4, 4, 2, 256, False),
    ("mixtral", 9, 8, 4, 2, 96, False),
    ("llama", 33, 0, 8, 2, 256, False),
]


def built(kind: str, layers: int, experts: int, heads: int, kv_heads: int, inner: int, tied: bool):
    shape = {"num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": HEAD}
    shape |= {"vocab_size": ROWS, "hidden_size": HIDDEN, "intermediate_size": inner, "tie_word_embeddings": tied}
    if kind == "qwen3_moe":
        return Qwen3MoeForCausalLM(Qwen3MoeConfig(**shape, moe_intermediate_size=inner, num_experts=experts, num_experts_per_tok=2))
    if kind == "mixtral":
        return MixtralForCausalLM(MixtralConfig(**shape, num_local_experts=experts))
    return LlamaForCausalLM(LlamaConfig(**shape))


def runs(types: list[str]) -> str:
    return " ".join(f"{len(list(group))}*{name}" for name, group in groupby(types))


def case(shape: tuple, quantize: str) -> dict:
    torch.manual_seed(0)
    formats = {}
    with tempfile.TemporaryDirectory() as there:
        folder, file = Path(there) / "tiny", Path(there) / "m.gguf"
        built(*shape).to(torch.bfloat16).save_pretrained(folder, max_shard_size="10GB")
        gguf_files.spelled(f"{shape[0]}/made", folder)
        gguf_files.write(f"{shape[0]}/made", folder, file, gguf.LlamaFileType.MOSTLY_BF16)
        for quant in QUANTS:
            out = Path(there) / "q.gguf"
            subprocess.run([quantize, file, out, quant, "2"], check=True, capture_output=True)
            kinds: dict[str, list] = {}
            for tensor in gguf.GGUFReader(out).tensors:
                if found := re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name):
                    kinds.setdefault(found[2], []).append((int(found[1] or 0), tensor.tensor_type.name))
            formats[quant.lower()] = {kind: runs([name for _, name in sorted(found)]) for kind, found in sorted(kinds.items()) if not kind.endswith("norm")}
    names = ("model", "layers", "experts", "heads", "kv_heads", "inner", "tied")
    return dict(zip(names, shape)) | {"formats": formats}


def main() -> None:
    logging.disable(logging.WARNING)
    cases = [case(shape, sys.argv[2]) for shape in SHAPES]
    head = json.dumps({"hidden": HIDDEN, "head": HEAD, "rows": ROWS})[1:-1]
    (FIXTURES / "mixtures.json").write_text("{" + head + ', "cases": [\n' + ",\n".join(map(json.dumps, cases)) + "\n]}\n")


if __name__ == "__main__":
    main()
