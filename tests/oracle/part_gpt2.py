"""gpt2/<name>/: tiny random GPT-2 models of many shapes and file layouts, with the logits that transformers computes.

Each folder has config.json, weights, and expected.safetensors with `input_ids` (i64, T) and `logits` (f32, T × vocab).
Weights stored in f16 or bf16 are widened to f32 before the arithmetic.
"""

import json
import shutil

import torch
from common import FIXTURES, fill, save_tensors
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel

STDS = {"wte.weight": 0.3, "wpe.weight": 0.3, "ln_1.weight": 0.3, "ln_2.weight": 0.3, "ln_f.weight": 0.3, "bias": 0.2}

SMALL = dict(n_embd=24, n_head=4, n_layer=2, vocab_size=89, n_positions=48)

RELEASED = {
    "activation_function": "gelu_new",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
}

# name: (config, what differs in the files, prompt length)
MODELS = {
    "base": (dict(n_embd=32, n_head=4, n_layer=2, vocab_size=97, n_positions=64), {}, 64),
    "bare": (
        dict(n_embd=48, n_head=3, n_layer=3, vocab_size=83, n_positions=64),
        {"prefix": "", "masks": True},
        40,
    ),
    "odd": (dict(n_embd=35, n_head=5, n_layer=2, n_inner=53, vocab_size=101, n_positions=41), {}, 41),
    "untied": (dict(n_embd=28, n_head=1, n_layer=2, vocab_size=79, n_positions=48, tie_word_embeddings=False), {}, 40),
    "sharded": (
        dict(n_embd=24, n_head=2, n_layer=4, vocab_size=73, n_positions=48, scale_attn_by_inverse_layer_idx=True),
        {"shards": 3},
        40,
    ),
    "switches": (
        dict(
            SMALL,
            scale_attn_weights=False,
            layer_norm_epsilon=1e-3,
            activation_function="relu",
            reorder_and_upcast_attn=True,
        ),
        {},
        40,
    ),
    # The two gelus differ by 5e-4 at most: a loud MLP and large logits lift that well above any tolerance.
    "gelu": (dict(SMALL, activation_function="gelu"), {"stds": {"wte.weight": 1.5, "mlp.c_fc.weight": 0.4, "mlp.c_proj.weight": 1.5}}, 40),
    "f16": (dict(SMALL), {"dtype": torch.float16}, 40),
    "bf16": (dict(SMALL), {"dtype": torch.bfloat16}, 40),
}


def stored_tensors(model: GPT2LMHeadModel, prefix: str = "transformer.", masks: bool = False, dtype=torch.float32):
    """The checkpoint's tensors under the names that it stores them by."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            if not model.config.tie_word_embeddings:
                tensors[name] = value.to(dtype).contiguous()
            continue
        tensors[prefix + name.removeprefix("transformer.")] = value.to(dtype).contiguous()
    if masks:  # buffers that old checkpoints carry; each dtype that occurs in the wild
        n = model.config.n_positions
        mask = torch.tril(torch.ones(n, n)).view(1, 1, n, n)
        for layer, mask_dtype in zip(range(model.config.n_layer), [torch.uint8, torch.bool, torch.float32]):
            tensors[f"{prefix}h.{layer}.attn.bias"] = mask.to(mask_dtype)
            tensors[f"{prefix}h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


def save_shards(folder, tensors: dict[str, torch.Tensor], shards: int) -> None:
    names = sorted(tensors)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]  # layers are split over files, as any order is allowed
        save_tensors(folder / file, {name: tensors[name] for name in part})
        weight_map |= {name: file for name in part}
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make_one(name: str, seed: int) -> None:
    settings, files, length = MODELS[name]
    files = dict(files)
    shards, stds = files.pop("shards", None), files.pop("stds", {})
    folder = FIXTURES / "gpt2" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    end = settings["vocab_size"] - 1
    config = GPT2Config(**settings, attn_implementation="eager", bos_token_id=end, eos_token_id=end)
    model = GPT2LMHeadModel(config).eval()
    fill(model, seed, STDS | stds)
    tensors = stored_tensors(model, **files)
    if shards:
        save_shards(folder, tensors, shards)
    else:
        save_tensors(folder / "model.safetensors", tensors)
    described = {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "bos_token_id": end, "eos_token_id": end}
    described |= settings | {"torch_dtype": str(files.get("dtype", torch.float32)).removeprefix("torch.")}
    if name == "base":  # as complete as the file of the released GPT-2; the others leave the defaults out
        described |= RELEASED | {"n_ctx": settings["n_positions"]}
    (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")

    # The expectation comes from the files just written, not from the model in memory.
    loaded = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, settings["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))
    logits = loaded(ids[None]).logits[0]
    assert all(getattr(loaded.config, key) == value for key, value in settings.items())
    for block in loaded.transformer.h:
        block.attn.reorder_and_upcast_attn = False  # insists on f32
    exact = loaded.double()(ids[None]).logits[0]
    assert (logits - exact).abs().max() < 5e-5, name
    if files.get("dtype", torch.float32) is torch.float32:
        assert torch.equal(logits, model(ids[None]).logits[0]), name
    expected = {"input_ids": ids, "logits": logits.contiguous()}
    if files.get("dtype") is torch.bfloat16:  # what the rounding of activations costs where everything is kept in bf16
        narrow = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()
        expected["bf16_error"] = (narrow(ids[None]).logits[0].float() - logits).abs().max().reshape(1)
    save_tensors(folder / "expected.safetensors", expected)
    again = load_file(folder / "expected.safetensors")
    assert torch.equal(again["logits"], logits) and again["input_ids"].dtype == torch.int64
    gap = logits.topk(2).values.diff(dim=-1).abs().min()
    print(f"  {name}: logits {tuple(logits.shape)} std {logits.std():.2f}, closest top two {gap:.4f}")


def make() -> None:
    for number, name in enumerate(MODELS):
        make_one(name, 1000 + number)
