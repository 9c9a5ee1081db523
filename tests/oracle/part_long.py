"""long/<name>/: tiny random models with room for 320 tokens, at least one of each architecture, its switches on, and 20
prompts with the 256 ids that transformers finds likeliest behind each, end tokens ignored.

Each folder has config.json, weights in f16 (widened to f32 before the arithmetic) and texts.safetensors: `prompt_lengths`
(u8, 20) and `ids` (u8), each prompt and its continuation, one after the other. Prompts are shorter than windows and borders,
as long, and longer (LENGTHS), so that what is read at once ends on either side of them, and all texts pass them many times.

Texts are found by `generate` with its cache, and held to f64 without a cache: every id is the likeliest there too, by
LEAST_GAP or more, and no text runs in a circle. Prompts of which that is not so are passed over.

LongRoPE has two sets of frequencies, and a text's length decides between them. For Phi-3 transformers' `generate` empties
its cache where a text comes to the border, so every id is the one that a pass over the whole text before it gives. For other
architectures it does not: keys of the one set stay in the cache beside keys of the other, and what comes out depends on how a
text was cut into passes. There the expectation is `generate` without a cache, which is what the engine gives for all.
"""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from common import FIXTURES, fill, save_tensors
from part_rms import GEMMA3_NEWER, VISION
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

NEW, LEAST_GAP, LEAST_DISTINCT, CONTEXT, CANDIDATES = 256, 1e-3, 12, 320, 16
WINDOW, BORDER = 24, 48
LENGTHS = [1, 2, 3, 5, 8, 12, 16, 20, 22, 23, 24, 25, 26, 32, 40, 47, 48, 49, 56, 64]

# Weights so large that a word hangs on much of what is before it.
STDS = {"embed_tokens.weight": 0.5, "norm.weight": 0.3, "layernorm.weight": 0.3, "bias": 0.3, "mlp.gate.weight": 0.5, "weight": 0.5}
# A tied head likes best what it has just read; with quieter embeddings the layers are heard.
TABLES = ["embed_in", "wte", "word_embeddings", "embed_tokens"]
QUIET = {f"{table}.weight": 0.15 for table in TABLES}
# Gemma multiplies embeddings by the root of their width.
FAINT = {"embed_tokens.weight": 0.2}
# Where biases are heard more than words, and one word would follow itself.
LOUD = {"bias": 0.1, "weight": 0.7}

V = dict(vocab_size=97)
UNTIED = dict(tie_word_embeddings=False)
SMALL = dict(
    V,
    hidden_size=16,
    intermediate_size=28,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=CONTEXT,
)
CLASSIC = dict(V, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=30, max_position_embeddings=CONTEXT)
N = dict(V, n_embd=16, n_layer=2, n_head=2, n_positions=CONTEXT)
NEO = dict(V, **UNTIED, hidden_size=16, num_layers=3, num_heads=2, max_position_embeddings=CONTEXT)
OPT = dict(V, **UNTIED, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, ffn_dim=30, max_position_embeddings=CONTEXT)
FALCON = dict(V, **UNTIED, hidden_size=24, num_hidden_layers=2, num_attention_heads=6, ffn_hidden_size=30, max_position_embeddings=CONTEXT)
TYPES = ["sliding_attention", "full_attention", "sliding_attention"]
GEMMA2 = dict(
    SMALL,
    **UNTIED,
    num_hidden_layers=3,
    head_dim=8,
    query_pre_attn_scalar=5,
    hidden_activation="gelu_pytorch_tanh",
    sliding_window=WINDOW,
    layer_types=TYPES,
)
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.1], "long_factor": [1.2, 2.5]}

# name, which begins with the architecture's: (what config.json says, standard deviations)
MODELS = {
    "bloom": (dict(V, **UNTIED, hidden_size=16, n_layer=2, n_head=4, seq_length=CONTEXT), {}),
    "falcon": (dict(FALCON, multi_query=True, parallel_attn=True, bias=False, alibi=False), {}),
    "falcon_alibi": (dict(FALCON, alibi=True, multi_query=False, parallel_attn=False, bias=True), {}),
    "falcon_groups": (dict(FALCON, new_decoder_architecture=True, num_kv_heads=2), {}),
    "gemma": (dict(SMALL, head_dim=10, hidden_act="gelu_pytorch_tanh"), {"embed_tokens.weight": 0.3}),
    "gemma2": (dict(GEMMA2, attn_logit_softcapping=3.0, final_logit_softcapping=6.0), FAINT),
    "gemma3_text": (dict(GEMMA2, rope_theta=300.0, rope_local_base_freq=20.0, rope_scaling={"rope_type": "linear", "factor": 8.0}), FAINT),
    "gemma3": (
        dict(
            text_config=GEMMA3_NEWER | dict(V, max_position_embeddings=CONTEXT, sliding_window=WINDOW, intermediate_size=20),
            vision_config=VISION,
            mm_tokens_per_image=4,
        ),
        FAINT,
    ),
    "gpt2": (dict(N, n_head=4, scale_attn_by_inverse_layer_idx=True), QUIET),
    "gpt_neo": (dict(NEO, attention_types=[[["global", "local"], 1], [["local"], 1]], window_size=WINDOW), {}),
    "gpt_neox": (dict(CLASSIC, rotary_pct=0.5, use_parallel_residual=True), {}),
    "gptj": (dict(N, rotary_dim=4), {}),
    "granite": (dict(SMALL, embedding_multiplier=3.0, attention_multiplier=0.4, residual_multiplier=0.7, logits_scaling=0.6), {}),
    "llama": (dict(SMALL, attention_bias=True, mlp_bias=True), {}),
    "llama_llama3": (
        dict(
            SMALL,
            head_dim=8,
            tie_word_embeddings=True,
            rope_scaling=dict(rope_type="llama3", factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        ),
        QUIET,
    ),
    "llama_linear": (dict(SMALL, rope_scaling={"type": "linear", "factor": 4.0}), {}),
    # The frequencies change behind the last position that a text may have.
    "llama_dynamic": (dict(SMALL, rope_scaling={"type": "dynamic", "factor": 4.0}), {}),
    "llama_longrope": (dict(SMALL, rope_scaling=LONGROPE | dict(factor=4.0, original_max_position_embeddings=BORDER)), {}),
    "mistral": (dict(SMALL, sliding_window=WINDOW), {}),
    "mistral_yarn": (
        dict(SMALL, head_dim=8, sliding_window=None, rope_scaling=dict(rope_type="yarn", factor=5.0, original_max_position_embeddings=64)),
        {},
    ),
    "mixtral": (dict(SMALL, intermediate_size=14, num_local_experts=5, num_experts_per_tok=2, sliding_window=WINDOW), {}),
    "olmo2": (dict(SMALL, num_hidden_layers=3), {}),
    "opt": (dict(OPT), LOUD),
    "opt_norms_last": (dict(OPT, do_layer_norm_before=False, word_embed_proj_dim=11), LOUD),
    "phi": (dict(CLASSIC, num_key_value_heads=1, qk_layernorm=True, partial_rotary_factor=0.5), LOUD),
    "phi3": (dict(SMALL, sliding_window=WINDOW), {}),
    "phi3_longrope": (dict(SMALL, original_max_position_embeddings=BORDER, sliding_window=100, rope_scaling=LONGROPE), {}),
    "qwen2": (
        dict(SMALL, num_hidden_layers=3, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1, tie_word_embeddings=True),
        QUIET,
    ),
    "qwen3": (dict(SMALL, num_hidden_layers=3, head_dim=6, use_sliding_window=True, sliding_window=WINDOW, layer_types=TYPES), {}),
    "qwen3_moe": (
        dict(
            SMALL,
            head_dim=6,
            num_hidden_layers=3,
            moe_intermediate_size=10,
            num_experts=5,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            mlp_only_layers=[1],
            use_sliding_window=True,
            sliding_window=WINDOW,
        ),
        {},
    ),
    "smollm3": (
        dict(SMALL, **UNTIED, num_hidden_layers=3, no_rope_layers=[0, 1, 0], use_sliding_window=True, sliding_window=WINDOW),
        {},
    ),
    "stablelm": (dict(CLASSIC, num_key_value_heads=1, partial_rotary_factor=0.25, use_qkv_bias=True, qk_layernorm=True), {}),
    "starcoder2": (dict(CLASSIC, **UNTIED, num_key_value_heads=1, sliding_window=WINDOW), {}),
}
TYPE_NAMES = ["gpt_neo", "gpt_neox", "gemma3_text", "qwen3_moe"] + [name for name in MODELS if "_" not in name]


def model_type_of(name: str) -> str:
    return max((known for known in TYPE_NAMES if name == known or name.startswith(known + "_")), key=len)


def attention_of(model_type: str) -> dict:
    # Falcon's `eager` adds the biases of ALiBi twice.
    return {"attn_implementation": "sdpa" if model_type == "falcon" else "eager"}


def load(folder: Path, model_type: str, dtype=torch.float32):
    loader = AutoModelForImageTextToText if model_type == "gemma3" else AutoModelForCausalLM
    experts = {"experts_implementation": "eager"} if model_type in {"mixtral", "qwen3_moe"} else {}
    model = loader.from_pretrained(folder, dtype=dtype, **attention_of(model_type), **experts).eval()
    model.generation_config.eos_token_id = None
    return model


def continued(model, prompts: torch.Tensor, use_cache: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The likeliest ids behind prompts of one length, and the logits that they were chosen by."""
    out = model.generate(
        input_ids=prompts,
        attention_mask=torch.ones_like(prompts),  # else ids that equal the padding are masked out
        max_new_tokens=NEW,
        do_sample=False,
        pad_token_id=0,
        use_cache=use_cache,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences, torch.stack(out.logits, dim=1)  # (prompts, NEW, vocabulary)


def at_once(model, texts: torch.Tensor, length: int, border: int | None) -> torch.Tensor:
    """The logits before each new id without a cache. A pass over a whole text has those of every id that it would have
    been cut before, but for ids up to the border, which a pass up to the border has."""
    logits = model(input_ids=texts[:, :-1]).logits
    if border:
        logits[:, :border] = model(input_ids=texts[:, :border]).logits
    return logits[:, length - 1 :]


def circle(ids: list[int]) -> bool:
    """Whether the second half of a text repeats itself."""
    tail = ids[-NEW // 2 :]
    return any(tail[:-period] == tail[period:] for period in range(1, NEW // 4))


def find_text(model, exact, vocab: int, length: int, border: int | None, use_cache: bool, seed: int):
    generator = torch.Generator().manual_seed(1000 * seed + length)
    for _ in range(40):
        prompts = torch.randint(0, vocab, (CANDIDATES, length), generator=generator)
        texts, logits = continued(model, prompts, use_cache)
        assert texts.shape == (CANDIDATES, length + NEW)
        known = at_once(exact, texts, length, border)
        error = (logits - known).abs().amax((1, 2))
        best = known.topk(2)
        gaps = (best.values[..., 0] - best.values[..., 1]).amin(1)
        fair = []
        for row in range(CANDIDATES):
            new = texts[row, length:].tolist()
            same = best.indices[row, :, 0].tolist() == new
            if same and not circle(new) and gaps[row] >= LEAST_GAP and error[row] < 1e-4:
                fair.append((len(set(new)), row))
        distinct, row = max(fair, default=(0, 0))  # the most varied
        if distinct >= LEAST_DISTINCT:
            return texts[row].clone(), gaps[row].item(), error[row].item()
    raise AssertionError(f"no text behind {length} ids")


def make_one(name: str, seed: int) -> None:
    settings, stds = MODELS[name]
    model_type = model_type_of(name)
    folder = FIXTURES / "long" / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    vocab = settings.get("text_config", settings)["vocab_size"]
    described = {"model_type": model_type, "bos_token_id": vocab - 1, "eos_token_id": vocab - 1}
    if "text_config" not in settings:
        described["pad_token_id"] = vocab - 1
    (folder / "config.json").write_text(json.dumps(described | settings, sort_keys=True) + "\n")
    config = AutoConfig.from_pretrained(folder, **attention_of(model_type))
    auto = AutoModelForImageTextToText if model_type == "gemma3" else AutoModelForCausalLM
    model = auto.from_config(config, dtype=torch.float32).eval()
    fill(model, seed, stds | (STDS | stds))
    if model_type.startswith("gemma"):  # whose norms are stored less 1
        for key, parameter in model.named_parameters():
            if "norm" in key and "vision" not in key:
                parameter.sub_(1.0)
    with tempfile.TemporaryDirectory() as saved:
        model.half().save_pretrained(saved)
        save_tensors(folder / "model.safetensors", load_file(Path(saved) / "model.safetensors"))

    model, exact = load(folder, model_type), load(folder, model_type, torch.float64)
    rope = getattr(config, "rope_parameters", None) or {}
    border = BORDER if rope.get("rope_type") == "longrope" else None
    use_cache = border is None or model_type == "phi3"
    found = [find_text(model, exact, vocab - 1, length, border, use_cache, seed) for length in LENGTHS]
    texts = [text.tolist() for text, _, _ in found]
    if not use_cache:  # what the cache of `generate` makes of it
        others = [continued(model, torch.tensor([text[:length]]), True)[0][0].tolist() for text, length in zip(texts, LENGTHS)]
        assert any(text != other for text, other in zip(texts, others)), "the cache changes nothing"
    save_tensors(
        folder / "texts.safetensors",
        {
            "prompt_lengths": torch.tensor(LENGTHS, dtype=torch.uint8),
            "ids": torch.tensor([i for text in texts for i in text], dtype=torch.uint8),
        },
    )
    distinct = [len(set(text[length:])) for text, length in zip(texts, LENGTHS)]
    kilobytes = sum(file.stat().st_size for file in folder.iterdir()) / 1024
    closest, worst = min(gap for _, gap, _ in found), max(error for _, _, error in found)
    print(f"  {name}: {kilobytes:.0f} KB, distinct {min(distinct)}–{max(distinct)}, closest {closest:.4f}, f32 off by {worst:.1e}", flush=True)


def make() -> None:
    for number, name in enumerate(MODELS):
        make_one(name, 5000 + number)
