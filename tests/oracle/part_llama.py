"""llama/, mistral/, qwen2/, qwen3/ <name>/: tiny random models of the architectures that are Llama's block, with what
transformers computes; rope.json: their rotary frequencies and angles in the shapes of published models.

Each folder has config.json, weights, and expected.safetensors with `input_ids` (i64, T), `logits` (f32, T × vocab),
`greedy_prompt` (i64, P) and `greedy_ids` (i64, NEW): the likeliest ids after that prompt, end tokens ignored. A prompt is
passed over where rounding may decide, as in `greedy`, and where few ids repeat. Weights stored in f16 or bf16 are widened to f32 before the arithmetic.

rope.json: per case the `config`, its `inv_freq`, and `cos` and `sin` (head_dim / 2 each) at some `positions`.
"""

import json
import shutil

import torch
from common import FIXTURES, disturbed, fill, save_tensors, shorts, write_json
from part_gpt2 import save_shards
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3RotaryEmbedding

CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}

STDS = {"embed_tokens.weight": 0.5, "norm.weight": 0.3, "layernorm.weight": 0.3, "bias": 0.3}

NEW, LEAST_GAP, LEAST_DISTINCT = 48, 1e-3, 8
# A tied head likes best what it has just read; with quieter embeddings the layers are heard.
QUIET = {"embed_tokens.weight": 0.15}

SMALL = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=61,
    max_position_embeddings=128,
)
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_type": "llama3"}

# What Llama 2 7B's file says beside the sizes.
RELEASED = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "use_cache": True,
}

# name: (what config.json says beside names and end tokens, what differs in the files, length of input_ids)
MODELS = {
    "llama/base": (
        dict(
            RELEASED,
            hidden_size=32,
            intermediate_size=53,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=101,
            max_position_embeddings=112,
            rope_theta=10000.0,
        ),
        {},
        64,
    ),
    # As the oldest files are: no key heads, no theta, the frequencies stored; here without the prefix `model.` too.
    "llama/old": (
        {key: value for key, value in SMALL.items() if key != "num_key_value_heads"},
        {"prefix": "", "frequencies": True},
        40,
    ),
    "llama/one_key_head": (
        dict(
            SMALL,
            num_key_value_heads=1,
            head_dim=10,
            tie_word_embeddings=True,
            rope_theta=500.0,
            rope_scaling={"type": "linear", "factor": 4.0},
        ),
        {"stds": QUIET},
        40,
    ),
    # Of the eight frequencies the first stays, two lie between, the rest are divided by four.
    "llama/llama3": (
        dict(SMALL, head_dim=16, tie_word_embeddings=True, rope_scaling=LLAMA3),
        {"head_twice": True, "stds": QUIET},
        120,
    ),
    "llama/biases": (
        dict(
            SMALL,
            attention_bias=True,
            mlp_bias=True,
            hidden_act="gelu",
            rms_norm_eps=0.05,
            rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        ),
        {"stds": {"gate_proj.weight": 0.5}},
        40,
    ),
    "llama/long": (
        dict(SMALL, num_attention_heads=3, num_key_value_heads=3, head_dim=8, max_position_embeddings=512),
        {"shards": 3},
        400,
    ),
    "llama/f16": (dict(SMALL), {"dtype": torch.float16}, 40),
    "llama/bf16": (dict(SMALL), {"dtype": torch.bfloat16}, 40),
    "mistral/window": (dict(SMALL, sliding_window=24, rms_norm_eps=1e-5), {}, 80),
    "mistral/long": (
        dict(SMALL, num_attention_heads=6, max_position_embeddings=512, sliding_window=97, rope_theta=1e6),
        {},
        400,
    ),
    "mistral/no_window": (dict(SMALL, head_dim=14, sliding_window=None, rope_theta=1e6), {}, 72),
    "qwen2/base": (
        dict(SMALL, tie_word_embeddings=True, rope_theta=1e6, use_sliding_window=False, sliding_window=20),
        {"stds": QUIET},
        64,
    ),
    "qwen2/window": (
        dict(SMALL, num_hidden_layers=3, use_sliding_window=True, sliding_window=20, max_window_layers=1),
        {},
        64,
    ),
    "qwen3/base": (
        dict(SMALL, head_dim=16, tie_word_embeddings=True, rope_theta=1e6, attention_bias=False, layer_types=["full_attention"] * 2),
        {"stds": QUIET},
        64,
    ),
    "qwen3/window": (
        dict(
            SMALL,
            num_hidden_layers=3,
            head_dim=10,
            attention_bias=True,
            rms_norm_eps=0.02,
            use_sliding_window=True,
            sliding_window=20,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        ),
        {},
        64,
    ),
}


def stored_tensors(model, prefix: str = "model.", dtype=torch.float32, frequencies: bool = False, head_twice: bool = False):
    """The checkpoint's tensors under the names that it stores them by."""
    tensors = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            if head_twice or not model.config.tie_word_embeddings:
                tensors[name] = value.to(dtype).clone()
            continue
        tensors[prefix + name.removeprefix("model.")] = value.to(dtype).contiguous()
    if frequencies:  # a buffer that older checkpoints carry
        for layer in range(model.config.num_hidden_layers):
            tensors[f"{prefix}layers.{layer}.self_attn.rotary_emb.inv_freq"] = model.model.rotary_emb.inv_freq.clone()
    return tensors


def greedy(model, vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """A prompt of 5 to 44 ids whose likeliest continuation does not hang on rounding, and that continuation."""
    model.generation_config.eos_token_id = None
    other = disturbed(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def continued(model, prompt):
        out = model.generate(
            prompt[None],
            attention_mask=torch.ones_like(prompt)[None],  # else ids that equal the padding are masked out
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.cat(out.logits).topk(2).values
        return out.sequences[0, len(prompt) :], (best[:, 0] - best[:, 1]).min().item()

    for number in range(1000):
        prompt = torch.randint(0, vocab, (5 + (27 + number) % 40,), generator=generator)
        new, gap = continued(model, prompt)
        varied = len(new) == NEW and len(set(new.tolist())) >= LEAST_DISTINCT
        if varied and gap >= LEAST_GAP and torch.equal(continued(other, prompt)[0], new):
            return prompt, new, gap
    raise AssertionError("every continuation hangs on rounding")


def slightly_otherwise(config):
    """Settings that are off by a little, which the logits must show."""
    rope = config.rope_parameters
    for key in {"rope_theta", "factor", "low_freq_factor", "high_freq_factor"} & set(rope):
        yield {"rope_parameters": rope | {key: rope[key] * 1.25}}
    if rope["rope_type"] == "llama3":
        yield {"rope_parameters": rope | {"original_max_position_embeddings": 80}}
    if getattr(config, "sliding_window", None):
        yield {"sliding_window": config.sliding_window - 1}
        yield {"sliding_window": config.sliding_window + 1}
    if config.rms_norm_eps > 1e-3:
        yield {"rms_norm_eps": config.rms_norm_eps * 1.25}
    yield {"hidden_act": "gelu" if config.hidden_act == "silu" else "silu"}


def make_one(name: str, seed: int) -> None:
    settings, files, length = MODELS[name]
    model_type, files = name.split("/")[0], dict(files)
    shards, stds = files.pop("shards", None), files.pop("stds", {})
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    end = settings["vocab_size"] - 1
    described = {"architectures": [CLASSES[model_type]], "model_type": model_type, "bos_token_id": end, "eos_token_id": end}
    described |= settings | {"torch_dtype": str(files.get("dtype", torch.float32)).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    config = AutoConfig.from_pretrained(folder, attn_implementation="eager")
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    fill(model, seed, STDS | stds)
    tensors = stored_tensors(model, **files)
    if shards:
        save_shards(folder, tensors, shards)
    else:
        save_tensors(folder / "model.safetensors", tensors)

    # The expectation comes from the files just written, not from the model in memory.
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
    ids = torch.randint(0, settings["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))
    logits = loaded(ids[None]).logits[0]
    ropes = {"rope_theta", "rope_scaling", "rope_parameters"}
    applied = {"sliding_window": settings.get("sliding_window") if settings.get("use_sliding_window", True) else None}
    for key, value in (settings | applied if "sliding_window" in settings else settings).items():
        assert key in ropes or getattr(loaded.config, key) == value, (name, key)
    given = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    rope = {"rope_theta": settings.get("rope_theta", 10000.0), "rope_type": given.get("type", "default")} | given
    assert loaded.config.rope_parameters == rope, (name, loaded.config.rope_parameters)
    for change in slightly_otherwise(loaded.config):
        other = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", **change).eval()
        assert (other(ids[None]).logits[0] - logits).abs().max() > 1e-2, f"{name}: nothing shows {change}"
    bf16_error = {}
    if files.get("dtype") is torch.bfloat16:  # what the rounding of activations costs where everything is kept in bf16
        narrow = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="eager").eval()
        bf16_error["bf16_error"] = (narrow(ids[None]).logits[0].float() - logits).abs().max().reshape(1)
    prompt, new, gap = greedy(loaded, settings["vocab_size"], seed)
    if files.get("dtype", torch.float32) is torch.float32:
        assert torch.equal(logits, model(ids[None]).logits[0]), name
    exact = loaded.double()(ids[None]).logits[0]
    assert (logits - exact).abs().max() < 5e-5, (name, (logits - exact).abs().max())
    expected = {"input_ids": ids, "logits": logits.contiguous(), "greedy_prompt": prompt, "greedy_ids": new} | bf16_error
    save_tensors(folder / "expected.safetensors", expected)
    again = load_file(folder / "expected.safetensors")
    assert torch.equal(again["logits"], logits) and again["greedy_ids"].dtype == torch.int64
    print(f"  {name}: logits {tuple(logits.shape)} std {logits.std():.2f}, greedy after {len(prompt)}, gap {gap:.4f}, {len(set(new.tolist()))} distinct")


# Heads and rotary settings of published models.
ROPES = [
    ("Llama 2 7B", LlamaRotaryEmbedding, dict(model_type="llama", head_dim=128, rope_theta=10000.0)),
    (
        "Llama 3.1 8B",
        LlamaRotaryEmbedding,
        dict(
            model_type="llama",
            head_dim=128,
            max_position_embeddings=131072,
            rope_theta=500000.0,
            rope_scaling=LLAMA3 | {"factor": 8.0, "original_max_position_embeddings": 8192},
        ),
    ),
    (
        "Llama 3.2 1B",
        LlamaRotaryEmbedding,
        dict(
            model_type="llama",
            head_dim=64,
            max_position_embeddings=131072,
            rope_theta=500000.0,
            rope_scaling=LLAMA3 | {"factor": 32.0, "original_max_position_embeddings": 8192},
        ),
    ),
    ("SmolLM2 135M", LlamaRotaryEmbedding, dict(model_type="llama", head_dim=64, rope_theta=100000)),
    (
        "LongChat 7B 16K",
        LlamaRotaryEmbedding,
        dict(model_type="llama", head_dim=128, rope_scaling={"type": "linear", "factor": 8.0}),
    ),
    ("Mistral 7B v0.3", MistralRotaryEmbedding, dict(model_type="mistral", head_dim=128, rope_theta=1000000.0)),
    ("Qwen3 0.6B", Qwen3RotaryEmbedding, dict(model_type="qwen3", head_dim=128, rope_theta=1000000)),
    (
        "Qwen3 8B with YaRN",
        Qwen3RotaryEmbedding,
        dict(
            model_type="qwen3",
            head_dim=128,
            max_position_embeddings=40960,
            rope_theta=1000000,
            rope_scaling={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
        ),
    ),
    (
        "YaRN with everything said",
        LlamaRotaryEmbedding,
        dict(
            model_type="llama",
            head_dim=96,
            max_position_embeddings=65536,
            rope_theta=10000.0,
            rope_scaling=dict(
                rope_type="yarn",
                factor=16.0,
                original_max_position_embeddings=4096,
                beta_fast=20.0,
                beta_slow=1.5,
                mscale=0.8,
                mscale_all_dim=0.5,
                truncate=False,
            ),
        ),
    ),
    (
        "LongRoPE of heads as wide as Phi-3's",
        LlamaRotaryEmbedding,
        dict(
            model_type="llama",
            head_dim=96,
            max_position_embeddings=131072,
            original_max_position_embeddings=4096,
            rope_scaling=dict(
                rope_type="longrope",
                short_factor=[round(1 + i / 40, 3) for i in range(48)],
                long_factor=[round(1 + i * i / 35, 3) for i in range(48)],
            ),
        ),
    ),
]
POSITIONS = [0, 1, 63, 1000, 4095, 40000, 131071]


def make_ropes() -> None:
    cases = []
    for name, rotary, settings in ROPES:
        config = AutoConfig.for_model(**settings)
        rope = rotary(config)
        short_inv_freq = rope.inv_freq.clone()
        cos, sin = rope(torch.zeros(1), torch.tensor([POSITIONS]))  # the last is behind every original context
        more = {} if rope.attention_scaling == 1.0 else {"factor": rope.attention_scaling}
        if rope.rope_type == "longrope":
            assert not torch.equal(rope.inv_freq, short_inv_freq)
            more["long_inv_freq"] = shorts(rope.inv_freq)
        half = settings["head_dim"] // 2
        assert torch.equal(cos[..., :half], cos[..., half:]) and torch.equal(sin[..., :half], sin[..., half:])
        angles = {"cos": shorts(cos[0, :, :half].flatten()), "sin": shorts(sin[0, :, :half].flatten())}
        cases.append({"name": name, "config": settings, "inv_freq": shorts(short_inv_freq)} | (more or angles))
    write_json("rope.json", {"positions": POSITIONS}, cases)


def make() -> None:
    for number, name in enumerate(MODELS):
        make_one(name, 2000 + number)
    make_ropes()
