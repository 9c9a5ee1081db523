"""full_size.json: logits of the real 124M shape, with weights that any program can make for itself.

Element i (row-major, from 0) of the tensor with name n, as the checkpoint spells it without `transformer.`:

    h    = FNV-1a, 64 bits, of the bytes of n        (offset 0xCBF29CE484222325, prime 0x100000001B3)
    z    = h + (i + 1) * 0x9E3779B97F4A7C15          (all of this modulo 2^64)
    z    = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z    = (z ^ (z >> 27)) * 0x94D049BB133111EB
    z    = z ^ (z >> 31)                             (so: output i of SplitMix64 seeded with h)
    u    = ((z >> 40) - 2^23) / 2^23                 in [-1, 1), exact in f32

and the value, in f32 with one rounding for each operation and every constant rounded to f32 first:

    name ends in `.bias`                              0.02 * u
    the weight of a norm (`ln_1`, `ln_2`, `ln_f`)     1 + (0.1 * u)
    any other weight                                  0.034641016 * u        (0.02 * sqrt(3): a standard deviation of 0.02)

Shapes are the checkpoint's (Conv1D weights are in × out), the head is tied to wte. `checks` has the first four values of
a few tensors. Each case is a position: `logits` of the vocabulary entries `sampled_ids`, `argmax`, `max_logit`, and
`gap`, the distance to the second best.
"""

import numpy as np
import torch
from common import short, shorts, write_json
from transformers import GPT2Config, GPT2LMHeadModel

LENGTH, SAMPLED = 48, 24
GAMMA = np.uint64(0x9E3779B97F4A7C15)


def fnv1a64(name: str) -> int:
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


def uniform(name: str, count: int) -> np.ndarray:
    """The first `count` values u of the tensor `name`."""
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a64(name)) + np.arange(1, count + 1, dtype=np.uint64) * GAMMA
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(40)).astype(np.int64) - 2**23).astype(np.float32) / np.float32(2**23)


def values(name: str, count: int) -> np.ndarray:
    u = uniform(name, count)
    if name.endswith(".bias"):
        return np.float32(0.02) * u
    if name.split(".")[-2].startswith("ln_"):
        return np.float32(1) + np.float32(0.1) * u
    return np.float32(0.02 * np.sqrt(3)) * u


def build() -> GPT2LMHeadModel:
    config = GPT2Config(attn_implementation="eager")  # the defaults are the 124M shape
    assert (config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head) == (50257, 1024, 768, 12, 12)
    model = GPT2LMHeadModel(config).eval()
    for name, parameter in model.transformer.named_parameters():
        parameter.copy_(torch.from_numpy(values(name, parameter.numel())).reshape(parameter.shape))
    assert model.lm_head.weight is model.transformer.wte.weight
    return model


def make() -> None:
    model = build()
    rng = np.random.Generator(np.random.PCG64(124))
    ids = rng.integers(0, 50257, LENGTH).tolist()
    sampled = sorted(rng.integers(0, 50257, SAMPLED - 2).tolist() + [0, 50256])
    logits = model(torch.tensor([ids])).logits[0]
    error = (model.double()(torch.tensor([ids])).logits[0] - logits).abs().max().item()
    assert error < 1e-4
    best, where = logits.topk(2)
    cases = [
        dict(
            position=position,
            logits=shorts(logits[position, sampled].tolist()),
            argmax=where[position, 0].item(),
            max_logit=short(best[position, 0].item()),
            gap=short((best[position, 0] - best[position, 1]).item()),
        )
        for position in range(LENGTH)
    ]
    names = ["wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias", "h.11.attn.c_attn.weight", "h.3.mlp.c_fc.bias"]
    checks = {name: shorts(values(name, 4).tolist()) for name in names}
    write_json("full_size.json", {"input_ids": ids, "sampled_ids": sampled, "checks": checks}, cases)
    gap = min(case["gap"] for case in cases)
    print(f"  logits std {logits.std():.3f}, f32 within {error:.1e} of f64, closest top two {gap}")
