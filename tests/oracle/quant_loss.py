#!/usr/bin/env python3
"""How much of a GPT-2 is lost by our quantiser, beside llama.cpp's: `quant_loss.py FOLDER FIRESIDE q4_k_m=FILE.gguf …`

FOLDER is a model with its weights in one safetensors file, in f32, and FILE.gguf what `llama-quantize` made of it. The
weights that each file stands for are written back as f32 and run by the same program, so that only the quantisers differ.
Printed is how much the logprobs of a text's tokens move, as the root of the mean square. Ours come from `--quant` with candle's
operations, which multiply in f32 as the other run does. One model is one draw of errors: with the same quantiser and other
random weights the ratio moves by 3 % either way. Needs numpy and gguf.
"""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf import GGUFReader, quants


NAMES = {
    "token_embd.weight": "wte.weight",
    "attn_qkv.weight": "attn.c_attn.weight",
    "attn_output.weight": "attn.c_proj.weight",
    "ffn_up.weight": "mlp.c_fc.weight",
    "ffn_down.weight": "mlp.c_proj.weight",
}


def read(path: Path) -> tuple[dict, bytearray, int]:
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data, 8 + length


def words(folder: Path) -> str:
    """Words of the vocabulary in no order, so that each token is a measurement of its own."""
    known = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    plain = sorted(word[1:] for word in known if word[0] == "Ġ" and word[1:].isascii() and word[1:].isalpha())
    return " ".join(plain[i * 7919 % len(plain)] for i in range(4000))


def logprobs(fireside: str, model: Path, text: str, *args: str, **env: str) -> np.ndarray:
    command = [fireside, "score", "--model", str(model), "--json", *args, text]
    answer = subprocess.run(command, check=True, capture_output=True, env={**os.environ, **env}).stdout
    return np.array([t["logprob"] for t in json.loads(answer)["tokens"] if t["logprob"] is not None])


def main(folder: Path, fireside: str, files: list[str]) -> None:
    text = words(folder)
    exact = logprobs(fireside, folder, text, "--dtype", "f32", FIRESIDE_KERNELS="candle")
    print(f"{'type':<8} {'ours':>9} {'theirs':>9} {'ratio':>6}")
    for pair in files:
        kind, gguf = pair.split("=")
        with tempfile.TemporaryDirectory() as scratch:
            copy = Path(scratch) / "model"
            shutil.copytree(folder, copy)
            header, data, start = read(copy / "model.safetensors")
            prefix = "transformer." if "transformer.wpe.weight" in header else ""
            for tensor in GGUFReader(gguf).tensors:
                parts = tensor.name.split(".")
                name = ".".join(parts[2:]) if parts[0] == "blk" else tensor.name
                if name not in NAMES:
                    continue
                name = prefix + (f"h.{parts[1]}." if parts[0] == "blk" else "") + NAMES[name]
                info = header[name]
                assert info["dtype"] == "F32", f"{name} is {info['dtype']}, expected F32"
                numbers = quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
                numbers = np.ascontiguousarray(numbers.T) if parts[0] == "blk" else numbers
                first, last = (start + offset for offset in info["data_offsets"])
                assert list(numbers.shape) == info["shape"], name
                data[first:last] = numbers.tobytes()
            (copy / "model.safetensors").write_bytes(data)
            theirs = logprobs(fireside, copy, text, FIRESIDE_KERNELS="candle")
        ours = logprobs(fireside, folder, text, "--quant", kind, FIRESIDE_KERNELS="candle")
        a, b = (float(np.sqrt(np.mean(np.square(x - exact)))) for x in (ours, theirs))
        print(f"{kind:<8} {a:>9.5f} {b:>9.5f} {a / b:>6.3f}", flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
