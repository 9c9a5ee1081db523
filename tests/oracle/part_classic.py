"""gpt_neox/, gptj/, gpt_neo/, opt/, bloom/, falcon/, phi/, stablelm/, starcoder2/ <name>/: tiny random models of the
architectures that keep GPT-2's layer norms, with what transformers computes.

Folders are like those of `llama`. Every switch that an architecture reads from config.json is set in one of them to something
else than its default; settings that can be changed without other weights are, by a little, and the logits must show it.

Falcon runs with transformers' own choice of attention: its `eager` adds the biases of ALiBi twice.
"""

import json
import shutil

import torch
from common import FIXTURES, disturbed, fill, save_tensors
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

CLASSES = {
    "gpt_neox": "GPTNeoXForCausalLM",
    "gptj": "GPTJForCausalLM",
    "gpt_neo": "GPTNeoForCausalLM",
    "opt": "OPTForCausalLM",
    "bloom": "BloomForCausalLM",
    "falcon": "FalconForCausalLM",
    "phi": "PhiForCausalLM",
    "stablelm": "StableLmForCausalLM",
    "starcoder2": "Starcoder2ForCausalLM",
}

NEW, LEAST_GAP, LEAST_DISTINCT = 24, 1e-3, 4

TABLES = ["embed_in", "wte", "word_embeddings", "embed_tokens"]
STDS = {f"{table}.weight": 0.5 for table in TABLES} | {"bias": 0.3}
# A tied head likes best what it has just read; with quieter embeddings the layers are heard.
QUIET = {f"{table}.weight": 0.15 for table in TABLES}
# Where one word would follow itself all the same.
LOUD = QUIET | {"weight": 0.4}
SIZES = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, vocab_size=43, max_position_embeddings=128)
SMALL = SIZES | dict(intermediate_size=30)
# The spelling of GPT-2.
N = dict(n_embd=16, n_layer=2, n_head=2, vocab_size=43, n_positions=80)
NEO = dict(hidden_size=16, num_layers=2, num_heads=2, vocab_size=43, max_position_embeddings=80)
OPT = SIZES | dict(ffn_dim=30, max_position_embeddings=80)
BLOOM = dict(hidden_size=16, n_layer=2, n_head=4, vocab_size=43, seq_length=128)
FALCON = SIZES | dict(ffn_hidden_size=30)


def masks(at: str, frequencies: str | None = None):
    """Buffers that older checkpoints carry in each layer, and transformers ignores."""

    def buffers(config, layer: int):
        positions = config.max_position_embeddings
        yield f"{at.format(layer)}.bias", torch.ones(1, 1, positions, positions, dtype=torch.bool).tril()
        yield f"{at.format(layer)}.masked_bias", torch.tensor(-1e9)
        if frequencies:
            yield from inverse(frequencies)(config, layer)

    return buffers


def inverse(at: str):
    def buffers(config, layer: int):
        yield at.format(layer), torch.tensor([1.0, 0.5])

    return buffers


# name: (what config.json says beside names and end tokens, what differs in the files, length of input_ids)
MODELS = {
    # As Pythia's files are.
    "gpt_neox/base": (
        dict(SMALL, hidden_size=24, num_attention_heads=3, rotary_pct=0.5, rotary_emb_base=300, use_parallel_residual=True, max_position_embeddings=64),
        {"renamed": {"lm_head.": "embed_out."}, "buffers": masks("gpt_neox.layers.{}.attention", "gpt_neox.layers.{}.attention.rotary_emb.inv_freq")},
        48,
    ),
    "gpt_neox/serial": (
        dict(
            SMALL,
            num_attention_heads=2,
            use_parallel_residual=False,
            attention_bias=False,
            tie_word_embeddings=True,
            hidden_act="gelu_new",
            layer_norm_eps=0.05,
            rotary_pct=1.0,
            rope_scaling={"type": "linear", "factor": 3.0},
        ),
        {"renamed": {"gpt_neox.": ""}, "stds": LOUD},
        48,
    ),
    # As transformers 5 writes it.
    "gpt_neox/new": (
        dict(SMALL, rope_parameters={"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}),
        {},
        40,
    ),
    "gptj/base": (dict(N, rotary_dim=4), {"buffers": masks("transformer.h.{}.attn")}, 48),
    "gptj/switches": (
        dict(N, n_embd=20, rotary_dim=10, n_inner=37, activation_function="gelu", layer_norm_epsilon=0.05, tie_word_embeddings=True),
        {"renamed": {"transformer.": ""}, "stds": LOUD},
        48,
    ),
    # As the files of GPT-Neo are: masks, and the tied head stored.
    "gpt_neo/base": (
        dict(NEO, attention_types=[[["global", "local"], 1]], window_size=9, intermediate_size=None),
        {"buffers": masks("transformer.h.{}.attn.attention"), "head_twice": True, "stds": QUIET},
        64,
    ),
    "gpt_neo/long": (
        dict(
            NEO,
            num_layers=3,
            num_heads=3,
            max_position_embeddings=416,
            hidden_size=15,
            intermediate_size=29,
            attention_types=[[["local"], 1], [["global"], 1], [["local"], 1]],
            window_size=97,
            activation_function="relu",
            layer_norm_epsilon=0.05,
            tie_word_embeddings=False,
            vocab_size=31,
        ),
        {"renamed": {"transformer.": ""}},
        400,
    ),
    "opt/base": (dict(OPT), {"stds": QUIET}, 72),
    # As 350M: norms last, a narrower table; here with the prefix of the oldest files.
    "opt/norms_last": (
        dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=11),
        {"renamed": {"model.decoder.": "decoder."}, "stds": {"project_in.weight": 0.5, "embed_tokens.weight": 0.3}},
        48,
    ),
    "opt/bare": (
        dict(OPT, enable_bias=False, layer_norm_elementwise_affine=False, activation_function="gelu", tie_word_embeddings=False),
        {},
        48,
    ),
    "opt/no_final_norm": (dict(OPT, _remove_final_layer_norm=True, tie_word_embeddings=False), {}, 48),
    "bloom/base": (dict(BLOOM), {"renamed": {"transformer.": ""}, "stds": LOUD}, 64),
    # Six heads have the slopes of four and two of those of eight.
    "bloom/switches": (
        dict(
            BLOOM,
            hidden_size=18,
            n_head=6,
            apply_residual_connection_post_layernorm=True,
            layer_norm_epsilon=0.05,
            tie_word_embeddings=False,
        ),
        {},
        48,
    ),
    "bloom/long": (dict(BLOOM, n_head=2, vocab_size=31, seq_length=416), {"stds": LOUD}, 400),
    # As 7B: one key head, one norm.
    "falcon/base": (dict(FALCON, multi_query=True, parallel_attn=True, bias=False, alibi=False), {"stds": QUIET, "buffers": inverse("transformer.h.{}.self_attention.rotary_emb.inv_freq")}, 48),
    # As 40B: key heads behind their queries, two norms.
    "falcon/groups": (
        dict(FALCON, hidden_size=24, num_attention_heads=6, new_decoder_architecture=True, num_kv_heads=2, rope_theta=300.0),
        {"renamed": {"transformer.": ""}, "stds": QUIET},
        48,
    ),
    # As Falcon 2: one norm.
    "falcon/one_norm": (
        dict(
            FALCON,
            num_attention_heads=4,
            new_decoder_architecture=True,
            num_ln_in_parallel_attn=1,
            num_kv_heads=1,
            bias=True,
            activation="relu",
            layer_norm_epsilon=0.05,
            tie_word_embeddings=False,
            rope_scaling={"type": "linear", "factor": 2.0},
        ),
        {},
        48,
    ),
    # As RW, past 256 tokens, where bf16 starts to round positions.
    "falcon/alibi": (
        dict(
            FALCON,
            hidden_size=18,
            vocab_size=31,
            num_attention_heads=6,
            alibi=True,
            multi_query=False,
            parallel_attn=False,
            bias=True,
            max_position_embeddings=416,
        ),
        {"head_twice": True, "stds": QUIET},
        400,
    ),
    "falcon/heads": (
        dict(FALCON, ffn_hidden_size=None, hidden_size=16, num_attention_heads=2, multi_query=False, parallel_attn=True),
        {"stds": QUIET},
        40,
    ),
    "phi/base": (dict(SMALL, hidden_act="gelu_new"), {"buffers": inverse("model.layers.{}.self_attn.rotary_emb.inv_freq")}, 48),
    "phi/switches": (
        dict(
            SMALL,
            hidden_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            qk_layernorm=True,
            partial_rotary_factor=0.75,
            rope_theta=300.0,
            hidden_act="gelu",
            layer_norm_eps=0.05,
            tie_word_embeddings=True,
        ),
        {"renamed": {"model.": ""}, "stds": QUIET},
        48,
    ),
    # As 3B, without biases.
    "stablelm/base": (
        dict(SMALL, hidden_size=32, num_key_value_heads=2, partial_rotary_factor=0.25, use_qkv_bias=False),
        {"buffers": inverse("model.layers.{}.self_attn.rotary_emb.inv_freq")},
        48,
    ),
    # As 2 1.6B.
    "stablelm/biases": (
        dict(SMALL, num_key_value_heads=2, rope_parameters={"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}, use_qkv_bias=True, hidden_act="gelu", tie_word_embeddings=True),
        {"renamed": {"model.": ""}, "stds": QUIET},
        48,
    ),
    # As 2 12B.
    "stablelm/parallel": (
        dict(SMALL, hidden_size=32, num_attention_heads=4, num_key_value_heads=2, partial_rotary_factor=0.5, qk_layernorm=True, use_parallel_residual=True, layer_norm_eps=0.05),
        {},
        48,
    ),
    "starcoder2/base": (dict(SMALL, num_attention_heads=4, num_key_value_heads=2, rope_theta=300.0), {"stds": QUIET}, 48),
    "starcoder2/window": (
        dict(SMALL, num_key_value_heads=1, use_bias=False, sliding_window=20, norm_epsilon=0.05, hidden_act="gelu", tie_word_embeddings=False),
        {"renamed": {"model.": ""}},
        64,
    ),
    "starcoder2/long": (
        dict(SMALL, num_key_value_heads=1, vocab_size=31, max_position_embeddings=512, sliding_window=97),
        {"stds": LOUD},
        400,
    ),
}


def stored_tensors(model, renamed: dict[str, str] = {}, head_twice: bool = False, buffers=None):
    """The checkpoint's tensors under the names that it stores them by."""

    def stored(name: str) -> str:
        for start, other in renamed.items():
            if name.startswith(start):
                return other + name.removeprefix(start)
        return name

    tied = model.config.tie_word_embeddings and not head_twice
    tensors = {stored(name): value.clone() for name, value in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    for layer in range(model.config.num_hidden_layers if buffers else 0):
        extra = dict(buffers(model.config, layer))
        assert not extra.keys() & tensors.keys()
        tensors |= extra
    return tensors


def slightly_otherwise(config, model_type: str):
    """Settings that are off by a little, which the logits must show."""
    rope = getattr(config, "rope_parameters", None)
    if rope and not getattr(config, "alibi", False):
        part = rope.get("partial_rotary_factor")
        for key in {"rope_theta", "factor"} & set(rope):
            yield {"rope_parameters": rope | {key: rope[key] * 0.4}}
        if part:
            yield {"rope_parameters": rope | {"partial_rotary_factor": 0.5 if part != 0.5 else 1.0}}
    for window in {"sliding_window", "window_size"} & {key for key, value in config.to_dict().items() if value}:
        yield {window: getattr(config, window) - 1}
        yield {window: getattr(config, window) + 1}
    for eps in ["layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"]:
        if getattr(config, eps, 0) > 1e-3:
            yield {eps: getattr(config, eps) * 1.25}
    act = next((name for name in ["hidden_act", "activation_function", "activation"] if hasattr(config, name)), None)
    if act:
        yield {act: "relu" if getattr(config, act) != "relu" else "gelu"}
    if model_type == "gptj":
        yield {"rotary_dim": config.rotary_dim - 2}
    if model_type == "gpt_neox":
        yield {"use_parallel_residual": not config.use_parallel_residual}
    if model_type == "bloom":
        yield {"apply_residual_connection_post_layernorm": not config.apply_residual_connection_post_layernorm}
    if model_type == "opt":
        yield {"do_layer_norm_before": not config.do_layer_norm_before}


def greedy(model, vocab: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, float]:
    """As in `part_llama`, with many prompts at a time."""
    model.generation_config.eos_token_id = None
    other = disturbed(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)

    def continued(model, prompts):
        out = model.generate(
            prompts,
            attention_mask=torch.ones_like(prompts),  # else ids that equal the padding are masked out
            max_new_tokens=NEW,
            do_sample=False,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
        best = torch.stack(out.logits).topk(2).values  # (NEW, prompts, 2)
        return out.sequences[:, prompts.shape[1] :], (best[..., 0] - best[..., 1]).amin(0)

    for number in range(12):
        prompts = torch.randint(0, vocab, (64, 5 + (11 * number) % 24), generator=generator)
        new, gaps = continued(model, prompts)
        # The most varied of those that do not hang on rounding.
        distinct, row = max((len(set(ids.tolist())), row) for row, ids in enumerate(new) if gaps[row] >= LEAST_GAP)
        alone, gap = continued(model, prompts[row : row + 1])
        same = torch.equal(alone[0], new[row]) and torch.equal(continued(other, prompts[row : row + 1])[0][0], new[row])
        if distinct >= LEAST_DISTINCT and gap[0] >= LEAST_GAP and same:
            return prompts[row].clone(), new[row].clone(), gap[0].item()
    raise AssertionError("every continuation hangs on rounding or repeats")


def make_one(name: str, seed: int) -> None:
    settings, files, length = MODELS[name]
    model_type, files = name.split("/")[0], dict(files)
    stds = files.pop("stds", {})
    folder = FIXTURES / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)

    end = settings["vocab_size"] - 1
    described = {"architectures": [CLASSES[model_type]], "model_type": model_type, "bos_token_id": end, "eos_token_id": end}
    described |= settings | {"torch_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")
    attention = "sdpa" if model_type == "falcon" else "eager"
    config = AutoConfig.from_pretrained(folder, attn_implementation=attention)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    fill(model, seed, STDS | {"layernorm.weight": 0.3} | stds)
    save_tensors(folder / "model.safetensors", stored_tensors(model, **files))

    # The expectation comes from the files just written, not from the model in memory.
    load = lambda **change: AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention, **change
    ).eval()
    loaded = load()
    ids = torch.randint(0, settings["vocab_size"], (length,), generator=torch.Generator().manual_seed(seed))
    logits = loaded(ids[None]).logits[0]
    assert torch.equal(logits, model(ids[None]).logits[0]), name
    for change in slightly_otherwise(loaded.config, model_type):
        difference = (load(**change, ignore_mismatched_sizes=True)(ids[None]).logits[0] - logits).abs().max()
        assert difference > 2e-3, f"{name}: nothing shows {change}"
    prompt, new, gap = greedy(loaded, settings["vocab_size"], seed)
    exact = loaded.double()(ids[None]).logits[0]
    assert (logits - exact).abs().max() < 5e-5, (name, (logits - exact).abs().max())
    expected = {"input_ids": ids, "logits": logits.contiguous(), "greedy_prompt": prompt, "greedy_ids": new}
    save_tensors(folder / "expected.safetensors", expected)
    assert torch.equal(load_file(folder / "expected.safetensors")["logits"], logits)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"  {name}: logits {tuple(logits.shape)} std {logits.std():.2f}, greedy after {len(prompt)}, gap {gap:.4f}, {len(set(new.tolist()))} distinct, {size // 1000} KB")


def make() -> None:
    for number, name in enumerate(MODELS):
        make_one(name, 3000 + number)
