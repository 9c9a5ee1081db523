#!/usr/bin/env python3
"""Writes a Mistral-7B-v0.3 of full size: its true shapes, random weights in bf16, its real tokenizer.

    pip install numpy mistral-common
    python3 benches/mistral_7b.py FOLDER [--layers 32]

14.5 GB in four shards, for measuring what loading and generating take. The weights are N(0, 0.02), from a fixed seed; what
such a model writes is noise.
"""

import argparse
import json
from importlib.resources import files
from pathlib import Path

import numpy as np

HIDDEN, INNER, HEADS, KEYS, VOCABULARY = 4096, 14336, 32, 8, 32768
SHARD = 4 << 30
PIECE = 1 << 24  # numbers made at a time


def tensors(layers: int):
    """Names and shapes, in the order of the layers."""
    yield "model.embed_tokens.weight", (VOCABULARY, HIDDEN)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        narrow = HIDDEN // HEADS * KEYS
        for name, shape in {
            "input_layernorm": (HIDDEN,),
            "self_attn.q_proj": (HIDDEN, HIDDEN),
            "self_attn.k_proj": (narrow, HIDDEN),
            "self_attn.v_proj": (narrow, HIDDEN),
            "self_attn.o_proj": (HIDDEN, HIDDEN),
            "post_attention_layernorm": (HIDDEN,),
            "mlp.gate_proj": (INNER, HIDDEN),
            "mlp.up_proj": (INNER, HIDDEN),
            "mlp.down_proj": (HIDDEN, INNER),
        }.items():
            yield f"{at}{name}.weight", shape
    yield "model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (VOCABULARY, HIDDEN)


def bf16(numbers: np.ndarray) -> bytes:
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def numbers(shape: tuple, source: np.random.Generator):
    """The bytes of a tensor, piece by piece; the scales of norms are near 1."""
    left, middle = int(np.prod(shape)), 1.0 if len(shape) == 1 else 0.0
    while left:
        count = min(left, PIECE)
        yield bf16(source.standard_normal(count, dtype=np.float32) * np.float32(0.02) + np.float32(middle))
        left -= count


def write_shard(path: Path, held: list, source: np.random.Generator) -> None:
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in held:
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape in held:
            for piece in numbers(shape, source):
                file.write(piece)
    print(path.name, f"{at / 1e9:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    shards, size = [[]], 0
    for name, shape in tensors(args.layers):
        bytes_ = 2 * int(np.prod(shape))
        if size + bytes_ > SHARD:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += bytes_
    source, places = np.random.default_rng(7), {}
    for i, held in enumerate(shards, 1):
        name = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_shard(args.folder / name, held, source)
        places |= {tensor: name for tensor, _ in held}
    index = {"metadata": {}, "weight_map": places}
    (args.folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": args.layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }
    (args.folder / "config.json").write_text(json.dumps(config, indent=2))
    model = files("mistral_common") / "data" / "mistral_instruct_tokenizer_240323.model.v3"
    (args.folder / "tokenizer.model").write_bytes(model.read_bytes())


if __name__ == "__main__":
    main()
