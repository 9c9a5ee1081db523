#!/usr/bin/env python3
"""Makes the models that run.py measures, in FOLDER/models; what is already there stays.

    FOLDER/venv/bin/python benches/peers/models.py FOLDER [--gpt2 MODEL]

setup.sh calls this once the peers are installed. Weights are random where speed alone counts, shapes are the true ones:

    gpt2, gpt2-f16, gpt2-bf16   GPT-2 124M with its tokenizer; --gpt2 takes the weights from a folder instead
    mistral4                    4 of the 32 layers of a Mistral 7B, bf16
    smollm2-*.gguf              SmolLM2-135M-Instruct, real weights, from 4 bits back to other types
    *.gguf                      the same models for llama.cpp and candle, one file for each type
    ct2-gpt2-*                  GPT-2 for CTranslate2
    sizes.json                  for each .gguf file, what a token reads and what a prompt computes
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

GPT2_TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "IQ4_NL"]
MISTRAL_TYPES = ["Q8_0", "Q4_0", "Q4_K_M"]
SMOLLM2_TYPES = ["Q8_0", "Q4_0", "Q5_0", "Q4_K_M"]
MXFP4_LAYERS = ["attn_qkv", "attn_output", "ffn_up", "ffn_down"]  # llama-quantize has no dense MXFP4 of its own
TOKENIZER = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "tokenizer.model"]


def made(path: Path, how) -> None:
    """Calls `how` with a name beside `path`, and gives the result its own name only when it is whole."""
    if path.exists():
        return
    print(f"making {path.name}", flush=True)
    draft = path.with_name("draft-" + path.name)
    if draft.is_dir():
        shutil.rmtree(draft)
    how(draft)
    draft.rename(path)


def run(*command) -> None:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        sys.exit(f"error: `{Path(command[0]).name}` failed:\n{done.stdout[-2000:]}")


def copy_tokenizer(source: Path, target: Path) -> None:
    for name in TOKENIZER:
        if (source / name).exists():
            shutil.copy(source / name, target / name)


def random_model(config, dtype: str, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(target)


def gpt2(source: Path | None, tokenizer: Path, target: Path) -> None:
    from transformers import GPT2Config

    if source:
        target.mkdir()
        for name in ("model.safetensors", "config.json"):
            shutil.copy(source / name, target / name)
    else:
        random_model(GPT2Config(), "float32", target)
    copy_tokenizer(source or tokenizer, target)
    config = json.loads((target / "config.json").read_text())
    config.setdefault("n_ctx", config["n_positions"])  # llama.cpp's converter asks for the older name
    (target / "config.json").write_text(json.dumps(config, indent=2))


def mistral(tokenizer: Path, target: Path) -> None:
    from transformers import MistralConfig

    shape = dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_attention_heads=32, num_key_value_heads=8)
    random_model(MistralConfig(**shape, num_hidden_layers=4, sliding_window=None, max_position_embeddings=32768), "bfloat16", target)
    copy_tokenizer(tokenizer, target)


def in_type(source: Path, dtype: str, target: Path) -> None:
    """A copy of a folder with every tensor in another type."""
    import torch
    from safetensors.torch import load_file, save_file

    target.mkdir()
    weights = load_file(source / "model.safetensors")
    save_file({k: v.to(getattr(torch, dtype)) for k, v in weights.items()}, target / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text()) | {"dtype": dtype}
    (target / "config.json").write_text(json.dumps(config, indent=2))
    copy_tokenizer(source, target)


def sizes(models: Path) -> dict:
    """By file: bytes of weights that decoding one token reads, and operations that one token in a prompt of 512 needs.

    The position table is never read whole, nor is the token table where the head has weights of its own. Operations are
    two for each weight of the layers and, for attention, four for each channel and position seen, 256 on average. Of the
    last layer a prompt needs keys and values: the rest is for the word behind it, as the head is.
    """
    from gguf import GGUFReader

    found = {}
    for path in sorted(models.glob("*.gguf")):
        tensors = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
        table, layers = tensors.pop("token_embd.weight"), sum("ffn_down.weight" in name for name in tensors)
        tensors.pop("position_embd.weight", None)
        head = tensors.setdefault("output.weight", table)
        read = sum(int(tensor.n_bytes) for tensor in tensors.values())
        last, keys = f"blk.{layers - 1}.", ("attn_qkv.", "attn_q.", "attn_k.", "attn_v.")
        needed = [t for name, t in tensors.items() if not name.startswith(last) or name.startswith(tuple(last + key for key in keys))]
        weights = sum(int(t.n_elements) for t in needed if len(t.shape) == 2 and t is not head)
        operations = 2 * weights + 4 * int(table.shape[0]) * (layers - 1) * 256
        found[path.stem] = {"bytes_per_token": read, "ops_per_prompt_token": operations}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gpt2", type=Path, help="a GPT-2 folder with weights and tokenizer, instead of random weights")
    args = parser.parse_args()
    models, tokenizers, llama = args.folder / "models", args.folder / "tokenizers", args.folder / "llama.cpp"
    models.mkdir(exist_ok=True)

    def convert(folder, dtype):
        path = models / f"{folder}-{dtype}.gguf"
        script = llama / "convert_hf_to_gguf.py"
        made(path, lambda draft: run(sys.executable, script, models / folder, "--outtype", dtype, "--outfile", draft))

    def quantize(source, name, kind, *flags):
        path = models / f"{name}-{kind.lower()}.gguf"
        made(path, lambda draft: run(llama / "build/bin/llama-quantize", *flags, models / source, draft, kind))

    made(models / "gpt2", lambda draft: gpt2(args.gpt2, tokenizers / "gpt2", draft))
    made(models / "gpt2-f16", lambda draft: in_type(models / "gpt2", "float16", draft))
    made(models / "gpt2-bf16", lambda draft: in_type(models / "gpt2", "bfloat16", draft))
    for dtype in ("f32", "f16", "bf16"):
        convert("gpt2", dtype)
    for kind in GPT2_TYPES:
        quantize("gpt2-f32.gguf", "gpt2", kind)
    layers = [word for name in MXFP4_LAYERS for word in ("--tensor-type", f"{name}=mxfp4")]
    program, source = llama / "build/bin/llama-quantize", models / "gpt2-f32.gguf"
    made(models / "gpt2-mxfp4.gguf", lambda draft: run(program, *layers, source, draft, "Q8_0"))

    converter = Path(sys.executable).parent / "ct2-transformers-converter"
    for kind in ("float32", "int8"):
        command = [converter, "--model", models / "gpt2", "--quantization", kind, "--output_dir"]
        made(models / f"ct2-gpt2-{kind}", lambda draft: run(*command, draft))

    made(models / "smollm2-q4_1.gguf", lambda draft: shutil.copy(tokenizers / "smollm2.gguf", draft))
    for kind in SMOLLM2_TYPES:
        quantize("smollm2-q4_1.gguf", "smollm2", kind, "--allow-requantize")

    made(models / "mistral4", lambda draft: mistral(tokenizers / "mistral", draft))
    convert("mistral4", "bf16")
    for kind in MISTRAL_TYPES:
        quantize("mistral4-bf16.gguf", "mistral4", kind)
    made(models / "sizes.json", lambda draft: draft.write_text(json.dumps(sizes(models), indent=2)))


if __name__ == "__main__":
    main()
